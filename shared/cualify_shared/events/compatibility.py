"""What has become of a type's schema since it was published, as far as a reader or a writer of then would notice.

Within a type only optional fields are added. Everything else, a wider bound too, breaks somebody: a reader of then
checks with its own model, a reader of now meets records of then. It is a new type, `….v2`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
WORDS = frozenset({"title", "description", "examples", "default", "x-known-values"})
"""They say something to people and hold nobody to it. (A default is the reader's: what is absent was always absent.)"""


def breaks(published: Schema, present: Schema) -> list[str]:
    """Every difference of two writer's schemas that is not an added optional field, by the path of its field."""
    return list(_differences(published, present, published, present, path=""))


def _differences(old: Schema, new: Schema, old_root: Schema, new_root: Schema, *, path: str) -> Iterator[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    was, now = old.get("properties", {}), new.get("properties", {})
    for name in sorted(was.keys() - now.keys()):
        yield f"{path}{name} is gone"
    for name in sorted(was.keys() & now.keys()):
        yield from _differences(was[name], now[name], old_root, new_root, path=f"{path}{name}.")
    required_then, required_now = set(old.get("required", ())), set(new.get("required", ()))
    for name in sorted(required_now - required_then):
        yield f"{path}{name} is required now"
    for name in sorted((required_then - required_now) & now.keys()):
        yield f"{path}{name} is optional now"
    yield from _of_parts(old, new, old_root, new_root, path=path)
    here = path.rstrip(".") or "the event"
    rules_then, rules_now = _rules(old), _rules(new)
    for rule in sorted(rules_then.keys() | rules_now.keys()):
        if rules_then.get(rule) != rules_now.get(rule):
            yield f"{here}: {rule} was {rules_then.get(rule)!r}, is {rules_now.get(rule)!r}"


def _of_parts(old: Schema, new: Schema, old_root: Schema, new_root: Schema, *, path: str) -> Iterator[str]:
    """Items of a list, values of a map, alternatives."""
    for part in ("items", "additionalProperties"):
        if isinstance(old.get(part), Mapping) and isinstance(new.get(part), Mapping):
            yield from _differences(old[part], new[part], old_root, new_root, path=f"{path}[].")
    then, now = old.get("anyOf", []), new.get("anyOf", [])
    if len(then) != len(now):
        yield f"{path.rstrip('.')}: other alternatives"
    for one, other in zip(then, now, strict=False):
        yield from _differences(one, other, old_root, new_root, path=path)


def _rules(schema: Schema) -> dict[str, Any]:
    """What is left of a schema once its fields, parts and words are taken out: type, format, bounds, pattern, enum."""
    looked_at = WORDS | {"properties", "required", "anyOf", "$defs"}
    return {
        name: rule
        for name, rule in schema.items()
        if name not in looked_at and not (name in ("items", "additionalProperties") and isinstance(rule, Mapping))
    }


def _resolved(schema: Schema, root: Schema) -> Schema:
    """A `$ref` followed, within the document."""
    if "$ref" not in schema:
        return schema
    found: Schema = root["$defs"][str(schema["$ref"]).rpartition("/")[2]]
    return found
