"""Keyed hashes: the callee's token in analytics events, and comparisons that tell nothing by their timing."""

import hashlib
import hmac
from uuid import UUID


def same_secret(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))


def keyed_hash(*, key: bytes, text: str) -> bytes:
    """HMAC-SHA256 of `text` (UTF-8): 32 bytes."""
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")


def callee_token(*, platform_key: bytes, org_id: UUID, e164: str) -> str:
    """Stands for a phone number in analytics topics: `hmac:v1:<32 hex digits>`.

    The same number of the same org gives the same token, another org's another. Keyed, because an unkeyed hash of an
    Indian mobile number is reversed by trying all of them, in minutes.
    """
    return CalleeTokens(platform_key).of(org_id=org_id, e164=e164)


class CalleeTokens:
    """The same for many: each org's key is derived once and kept, for ten thousand orgs at most."""

    def __init__(self, platform_key: bytes) -> None:
        self._platform_key = platform_key
        self._org_keys: dict[UUID, bytes] = {}

    def of(self, *, org_id: UUID, e164: str) -> str:
        """See `callee_token`."""
        org_key = self._org_keys.get(org_id)
        if org_key is None:
            if len(self._org_keys) >= 10_000:
                self._org_keys.clear()
            org_key = hmac.digest(self._platform_key, b"callee-token:" + org_id.bytes, hashlib.sha256)
            self._org_keys[org_id] = org_key
        return "hmac:v1:" + keyed_hash(key=org_key, text=e164)[:16].hex()
