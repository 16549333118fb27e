"""What an API key looks like, and the only form in which it is kept."""

import re
import secrets
import string
from dataclasses import dataclass
from typing import Final

from cualify_shared.signing import keyed_hash

_ALPHABET: Final = string.ascii_letters + string.digits
_KEY: Final = re.compile(r"cuk_(?:live|test)_([A-Za-z0-9]{8})_[A-Za-z0-9]{32}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment when it is known whole."""

    prefix: str
    key: str


def make_key(*, test: bool = False) -> NewKey:
    """A fresh key: 8 characters to look it up by, 32 characters (190 bits) of secret. A test key says so itself."""
    prefix, secret = _characters(8), _characters(32)
    return NewKey(prefix=prefix, key=f"{_kind(test)}_{prefix}_{secret}")


def prefix_of(key: str) -> str | None:
    """The public part of something that has the form of a key."""
    match = _KEY.fullmatch(key)
    return match.group(1) if match else None


def hash_of(key: str, *, pepper: str) -> bytes:
    """HMAC-SHA256 of the whole key. The secret has 190 bits, so a slow hash would add nothing."""
    return keyed_hash(key=pepper.encode(), text=key)


def masked(prefix: str, *, test: bool) -> str:
    """How a key is shown after its creation."""
    return f"{_kind(test)}_{prefix}_…"


def _kind(test: bool) -> str:
    return "cuk_test" if test else "cuk_live"


def _characters(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))
