"""Asking one of the other services on a customer's or an operator's behalf."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import orjson
import structlog
from starlette.responses import Response

from cualify_api.web.errors import STATUS, Problem, json
from cualify_shared.waiting import within

log = structlog.get_logger(__name__)
WITHIN_SEC: Final = 10.0
CONNECTED_WITHIN_SEC: Final = 3.0


class Upstreams:
    """One connection pool to all of them; closed when the service stops."""

    def __init__(self, *, token: str) -> None:
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    def pool(self) -> aiohttp.ClientSession:
        """The pool, made on first use."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {self._token}"},
                connector=aiohttp.TCPConnector(limit=200, limit_per_host=100),
                auto_decompress=False,
            )
        return self._session

    async def run(self, stop: asyncio.Event) -> None:
        """The loop that closes the pool in the end."""
        await stop.wait()
        if self._session is not None:
            await within(self._session.close(), 3)


class Upstream:
    """One of the other services."""

    def __init__(self, name: str, base_url: str, upstreams: Upstreams) -> None:
        self.name = name
        self._base_url, self._upstreams = base_url.rstrip("/"), upstreams

    async def forward(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        within_sec: float = WITHIN_SEC,
    ) -> Response:
        """The other's answer as ours."""
        status, content = await self.ask(method, path, body=body, params=params, within_sec=within_sec)
        return json(content, status=status)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        within_sec: float = WITHIN_SEC,
    ) -> tuple[int, dict[str, Any]]:
        """Status and body of a success.

        Raises:
            Problem: the other's refusal in its own words; `upstream_error` where it is away or makes no sense.
        """
        data = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json"} if data is not None else {}
        try:
            async with self._upstreams.pool().request(
                method,
                self._base_url + path,
                data=data,
                headers=headers,
                params=params,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=within_sec, connect=CONNECTED_WITHIN_SEC),
            ) as response:
                status, content = response.status, orjson.loads(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError) as error:
            raise self._away(repr(error)) from None
        if 200 <= status < 300 and isinstance(content, dict):
            return status, content
        raise self._refusal(status, content)

    def _refusal(self, status: int, content: Any) -> Problem:
        said = content.get("error") if isinstance(content, dict) else None
        if status == 405:
            return Problem("not_found", "this is not possible yet")
        if not isinstance(said, dict) or said.get("code") not in STATUS or status >= 500 or status == 401:
            return self._away(f"status {status}")
        return Problem(
            said["code"], str(said.get("message", "")), said.get("param"), said.get("details"), status=status
        )

    def _away(self, why: str) -> Problem:
        log.warning("upstream_failed", upstream=self.name, why=why)
        return Problem("upstream_error", f"the {self.name} service does not answer at the moment; try again")


def listed(content: Mapping[str, Any], *, limit: int) -> dict[str, Any]:
    """A page that another service lists with `next`, with the `pagination` that ours have."""
    following = content.get("next")
    pagination = {"limit": limit, "next_cursor": following, "has_more": following is not None}
    return {"data": content.get("data", []), "pagination": pagination}
