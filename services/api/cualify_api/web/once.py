"""`Idempotency-Key` on routes that ask another service: the key is claimed first, then the other is asked, then the
answer is kept. A request that meets the claim is refused with `Retry-After`; one that comes later gets the answer.

Kept are successes and refusals that were decided (403, 404, 409). A 400, a 429, a 5xx and a crash give the key back. A
claim whose process died ends by itself after a minute. Answers rest sealed: that to a new webhook carries its secret.
"""

import hashlib
import os
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.requests import Request
from starlette.responses import Response

from cualify_api.web.again import retried
from cualify_api.web.auth import caller
from cualify_api.web.errors import STATUS, Problem, json, request_id
from cualify_api.web.idempotency import REPLAYED, fingerprint, idempotency_key
from cualify_shared.database import Pool, Row
from cualify_shared.signing import keyed_hash
from cualify_shared.waiting import within

KEPT_REFUSALS: Final = (402, 403, 404, 409)
GIVEN_BACK_WITHIN_SEC: Final = 5.0

CLAIM = """
INSERT INTO idempotency_keys AS k (org_id, route, key, fingerprint, created_at, claimed_until)
VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp() + interval '60 seconds')
ON CONFLICT (org_id, route, key) DO UPDATE
SET fingerprint = excluded.fingerprint, claimed_until = excluded.claimed_until
WHERE k.status IS NULL AND k.claimed_until < clock_timestamp()
RETURNING claimed_until
"""

FIND = """
SELECT fingerprint, status, sealed
FROM idempotency_keys
WHERE org_id = $1 AND route = $2 AND key = $3
"""

KEEP = """
UPDATE idempotency_keys
SET status = $5, sealed = $6, claimed_until = NULL
WHERE org_id = $1 AND route = $2 AND key = $3 AND status IS NULL AND claimed_until = $4
"""

GIVE_BACK = """
DELETE FROM idempotency_keys
WHERE org_id = $1 AND route = $2 AND key = $3 AND status IS NULL AND claimed_until = $4
"""


class Once:
    """Does for a key what is asked under it once."""

    def __init__(self, pool: Pool, *, pepper: str) -> None:
        self._pool = pool
        self._seal = AESGCM(keyed_hash(key=pepper.encode(), text="answers under idempotency keys"))

    async def answer(
        self, request: Request, route: str, content: Any, ask: Callable[[], Awaitable[tuple[int, dict[str, Any]]]]
    ) -> Response:
        """The answer of `ask`, which is called at most once for a key that the request carries.

        Raises:
            Problem: what `ask` raises; `conflict` where the key was used with another body, or is under way.
        """
        key = idempotency_key(dict(request.scope["headers"]))
        if key is None:
            status, body = await ask()
            return json(body, status=status)
        named, mark = (caller(request).org_id, route, key), fingerprint(content)
        claimed_until = await self._pool.fetchval(CLAIM, *named, mark)
        if claimed_until is None:
            return self._replayed(await self._pool.fetchrow(FIND, *named), named, mark, request)
        return await self._first(named, claimed_until, ask)

    def name_of(self, request: Request, route: str, content: Any) -> UUID | None:
        """Names what a request under a key makes, so that the other service knows it again: that we got no answer, or
        died before it was kept, does not mean that it was not made. None without a key."""
        key = idempotency_key(dict(request.scope["headers"]))
        if key is None:
            return None
        named = (caller(request).org_id, route, key)
        return UUID(bytes=hashlib.sha256(_bound_to(named) + fingerprint(content)).digest()[:16], version=5)

    async def _first(
        self,
        named: tuple[UUID, str, str],
        claimed_until: datetime,
        ask: Callable[[], Awaitable[tuple[int, dict[str, Any]]]],
    ) -> Response:
        try:
            status, body = await ask()
        except Problem as problem:
            status = problem.status or STATUS[problem.code]
            if status in KEPT_REFUSALS:
                await self._keep(named, claimed_until, status, problem.body())
            else:
                await self._give_back(named, claimed_until)
            raise
        except Exception:
            await within(self._give_back(named, claimed_until), GIVEN_BACK_WITHIN_SEC)
            raise
        await self._keep(named, claimed_until, status, body)
        return json(body, status=status)

    async def _keep(
        self, named: tuple[UUID, str, str], claimed_until: datetime, status: int, body: dict[str, Any]
    ) -> None:
        nonce = os.urandom(12)
        sealed = nonce + self._seal.encrypt(nonce, orjson.dumps(body), _bound_to(named))
        await retried("keep an answer", lambda: self._pool.execute(KEEP, *named, claimed_until, status, sealed))

    async def _give_back(self, named: tuple[UUID, str, str], claimed_until: datetime) -> None:
        await retried("give a key back", lambda: self._pool.execute(GIVE_BACK, *named, claimed_until))

    def _replayed(self, found: Row | None, named: tuple[UUID, str, str], mark: bytes, request: Request) -> Response:
        if found is not None and found["fingerprint"] != mark:
            raise Problem("conflict", "this Idempotency-Key was used with another body", param="Idempotency-Key")
        if found is None or found["status"] is None:
            raise Problem(
                "conflict",
                "a request under this Idempotency-Key is under way",
                param="Idempotency-Key",
                headers={"Retry-After": "1"},
            )
        sealed = found["sealed"]
        body = orjson.loads(self._seal.decrypt(sealed[:12], sealed[12:], _bound_to(named)))
        if "error" in body:
            body["error"]["request_id"] = request_id(request)
        return json(body, status=found["status"], headers=REPLAYED)


def _bound_to(named: tuple[UUID, str, str]) -> bytes:
    """What an answer is sealed with: moved to another key, it does not open."""
    return orjson.dumps([str(named[0]), named[1], named[2]])
