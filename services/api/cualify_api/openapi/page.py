"""The document as a page for people: plain HTML made here, without a script and without anything from elsewhere."""

import re
from collections.abc import Iterator
from functools import cache
from html import escape
from typing import Any, Final

import orjson

from cualify_api.openapi.document import document

POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_STYLE: Final = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); --soft:
color-mix(in srgb, currentColor 6%, transparent) }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0; display: grid; grid-template-columns: 17rem minmax(0, 60rem) }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; padding: 1rem; border-right: 1px solid var(--line);
box-sizing: border-box; font-size: .9rem } nav a { display: block; text-decoration: none; color: inherit }
main { padding: 1rem 2.5rem 6rem } section { border-top: 1px solid var(--line); padding-top: 1rem; margin-top: 2rem }
code, pre { font: .86rem/1.45 ui-monospace, monospace } pre { background: var(--soft); padding: .8rem; overflow: auto;
border-radius: .4rem } table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top;
padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line) } .verb { font-weight: 700; display: inline-block;
min-width: 3.6rem } details { margin: .6rem 0 } summary { cursor: pointer }
@media (max-width: 60rem) { body { display: block } nav { position: static; height: auto } }
"""


@cache
def page() -> bytes:
    """The page, whole."""
    made = document()
    info = made["info"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>",
        f"<nav><strong>{escape(info['title'])}</strong>{''.join(_contents(made))}</nav><main>",
        f"<h1>{escape(info['title'])}</h1>{_prose(info['description'])}",
        '<p>The same for machines: <a href="/api/v1/openapi.json">openapi.json</a> (OpenAPI 3.1).</p>',
        *_operations(made),
        "<section><h2 id=schemas>Schemas</h2>",
        *(_schema(name, schema) for name, schema in made["components"]["schemas"].items()),
        "</section></main></body></html>",
    ]
    return "".join(parts).encode()


def _contents(made: dict[str, Any]) -> Iterator[str]:
    for tag in made["tags"]:
        yield f"<p><strong>{escape(tag['name'])}</strong></p>"
        for verb, path, operation in _each(made):
            if tag["name"] in operation["tags"]:
                yield f'<a href="#{operation["operationId"]}" title="{verb} {path}">{escape(operation["summary"])}</a>'
    yield '<p><a href="#schemas"><strong>Schemas</strong></a></p>'


def _operations(made: dict[str, Any]) -> Iterator[str]:
    for verb, path, operation in _each(made):
        yield f'<section id="{operation["operationId"]}"><h2>{escape(operation["summary"])}</h2>'
        yield f'<p><code><span class="verb">{verb}</span>{escape(path)}</code></p>'
        yield _prose(operation.get("description", ""))
        yield _parameters(operation.get("parameters", ()))
        if "requestBody" in operation:
            yield f"<h3>Body</h3>{_content(operation['requestBody']['content'])}"
        yield "<h3>Answers</h3>"
        for status, answer in operation["responses"].items():
            yield _answer(made, status, answer)
        yield "</section>"


def _each(made: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in made["paths"].items():
        for verb, operation in operations.items():
            yield verb.upper(), path, operation


def _parameters(parameters: Any) -> str:
    if not parameters:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code><td>{one['in']}<td>{_prose(one['description'])}"
        for one in parameters
    )
    return f"<h3>Parameters</h3><table><tr><th>name<th>in<th>meaning{rows}</table>"


def _answer(made: dict[str, Any], status: str, answer: dict[str, Any]) -> str:
    if "$ref" in answer:
        answer = made["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    opened = " open" if status.startswith("2") else ""
    summary = f"<summary><code>{status}</code> {_marked(answer['description'])}</summary>"
    return f"<details{opened}>{summary}{_content(answer.get('content', {}))}</details>"


def _content(content: dict[str, Any]) -> str:
    return "".join(_example(kind, one) for kind, one in content.items())


def _example(kind: str, one: dict[str, Any]) -> str:
    example = one["example"]
    text = example if isinstance(example, str) else orjson.dumps(example, option=orjson.OPT_INDENT_2).decode()
    name = one["schema"].get("$ref", "").rpartition("/")[2]
    linked = f' · <a href="#schema-{name}">{name}</a>' if name else ""
    return f"<p><code>{kind}</code>{linked}</p><pre>{escape(text)}</pre>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code>{' *' if field in required else ''}<td>{_kind(one)}"
        f"<td>{_marked(one.get('description', ''))}"
        for field, one in schema.get("properties", {}).items()
    )
    return f'<details id="schema-{name}"><summary><code>{name}</code></summary><table>{rows}</table></details>'


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{name}">{name}</a>'
    if "oneOf" in schema:
        return " or ".join(_kind(one) for one in schema["oneOf"])
    kind = schema.get("type", "anything")
    said = " or ".join(kind) if isinstance(kind, list) else kind
    if "enum" in schema:
        return escape(", ".join(str(value) for value in schema["enum"]))
    if kind == "array":
        return f"{said} of {_kind(schema['items'])}"
    return escape(f"{said} ({schema['format']})" if "format" in schema else said)


def _prose(text: str) -> str:
    return "".join(f"<p>{_marked(part)}</p>" for part in text.strip().split("\n\n") if part)


def _marked(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
