"""Endpoints' secrets at rest: AES-256-GCM under the operator's key, bound to their endpoint and org.

A sealed secret that is copied to another endpoint's row does not open. The key's id stands beside it, for rotation.
"""

import os
from collections import OrderedDict
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12
_REMEMBERED = 10_000


class CannotOpen(Exception):
    """Sealed under a key that this process does not have, or tampered with."""


class Secrets:
    """Seals and opens secrets with one key."""

    def __init__(self, *, key: bytes, key_id: str) -> None:
        self._cipher, self.key_id = AESGCM(key), key_id
        self._opened: OrderedDict[tuple[UUID, bytes], str] = OrderedDict()

    def seal(self, secret: str, *, endpoint_id: UUID, org_id: UUID) -> bytes:
        """Nonce and ciphertext."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), endpoint_id.bytes + org_id.bytes)

    def open(self, sealed: bytes, *, key_id: str, endpoint_id: UUID, org_id: UUID) -> str:
        """The secret. What was opened lately is remembered. Raises CannotOpen."""
        known = self._opened.get((endpoint_id, sealed))
        if known is not None:
            return known
        if key_id != self.key_id:
            raise CannotOpen(
                f"the secret of endpoint {endpoint_id} is sealed under key {key_id!r}, this is {self.key_id!r}"
            )
        try:
            aad = endpoint_id.bytes + org_id.bytes
            secret = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], aad).decode()
        except InvalidTag:
            raise CannotOpen(f"the secret of endpoint {endpoint_id} does not open under key {key_id!r}") from None
        self._remember((endpoint_id, sealed), secret)
        return secret

    def _remember(self, name: tuple[UUID, bytes], secret: str) -> None:
        self._opened[name] = secret
        if len(self._opened) > _REMEMBERED:
            self._opened.popitem(last=False)
