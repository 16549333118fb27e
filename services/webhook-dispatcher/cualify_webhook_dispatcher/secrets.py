"""Endpoints' secrets at rest: AES-256-GCM under the operator's key, bound to their endpoint and org.

A sealed secret that is copied to another endpoint's row does not open. The key's id stands beside it, for rotation.
"""

import os
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cualify_webhook_dispatcher.jobs import Endpoint

_NONCE_BYTES = 12
_REMEMBERED = 10_000


class CannotOpen(Exception):
    """Sealed under a key that this process does not have, or tampered with."""


class Secrets:
    """Seals secrets with one key; opens what is sealed under it or under an older one that is named too."""

    def __init__(self, *, key: bytes, key_id: str, older: Mapping[str, bytes] | None = None) -> None:
        self._ciphers = {name: AESGCM(one) for name, one in (older or {}).items()} | {key_id: AESGCM(key)}
        self._cipher, self.key_id = self._ciphers[key_id], key_id
        self._opened: OrderedDict[tuple[UUID, bytes], str] = OrderedDict()

    @property
    def known_keys(self) -> list[str]:
        """The names of the keys that secrets may be sealed under."""
        return list(self._ciphers)

    def seal(self, secret: str, *, endpoint_id: UUID, org_id: UUID) -> bytes:
        """Nonce and ciphertext."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), endpoint_id.bytes + org_id.bytes)

    def open(self, sealed: bytes, *, key_id: str, endpoint_id: UUID, org_id: UUID) -> str:
        """The secret. What was opened lately is remembered. Raises CannotOpen."""
        known = self._opened.get((endpoint_id, sealed))
        if known is not None:
            return known
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            names = ", ".join(map(repr, self._ciphers))
            raise CannotOpen(f"the secret of endpoint {endpoint_id} is sealed under key {key_id!r}, known are {names}")
        try:
            aad = endpoint_id.bytes + org_id.bytes
            secret = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], aad).decode()
        except InvalidTag:
            raise CannotOpen(f"the secret of endpoint {endpoint_id} does not open under key {key_id!r}") from None
        self._remember((endpoint_id, sealed), secret)
        return secret

    def all_of(self, endpoint: Endpoint, *, at: datetime) -> list[str]:
        """The secrets that sign for an endpoint now: its own, and the one before it for a day after a rotation."""
        ids = {"endpoint_id": endpoint.id, "org_id": endpoint.org_id}
        found = [self.open(endpoint.secret_sealed, key_id=endpoint.secret_key_id, **ids)]
        until = endpoint.old_secret_until
        if endpoint.old_secret_sealed and endpoint.old_secret_key_id and until and at < until:
            found.append(self.open(endpoint.old_secret_sealed, key_id=endpoint.old_secret_key_id, **ids))
        return found

    def _remember(self, name: tuple[UUID, bytes], secret: str) -> None:
        self._opened[name] = secret
        if len(self._opened) > _REMEMBERED:
            self._opened.popitem(last=False)
