"""Work that its database connection was lost under is done again on another: a few times, for a few seconds.

Only for work that may be repeated: questions, and writes that find again what they wrote before.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cualify_shared.database import is_passing
from cualify_shared.waiting import pauses

log = structlog.get_logger(__name__)

PATIENCE_SEC: Final = 5.0
AGAIN: Final = Counter("cualify_done_again_total", "Work done again after its database connection was lost.", ["work"])
PAUSES_SEC: Final = (0.05, 0.25)
SAFE: Final = frozenset({"GET", "HEAD"})
Result = TypeVar("Result")


class Again:
    """Does one kind of work again until it succeeds, for `PATIENCE_SEC` from its first failure.

    Once that was in vain, the work that comes next is tried once: else each batch of a queue would wait for the
    patience with all before it. The first success ends that.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._gave_up = False

    async def do(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """What `work` returns. Raises what it raises: at once what does not pass by itself, else the last."""
        ends_at: float | None = None
        for pause in pauses(first_sec=0.02, longest_sec=0.5):
            try:
                async with asyncio.timeout_at(ends_at):
                    result = await work()
            except Exception as error:
                if not is_passing(error):
                    raise
                at = asyncio.get_running_loop().time()
                if ends_at is None:
                    ends_at = at + (0 if self._gave_up else PATIENCE_SEC)
                if at + pause >= ends_at:
                    self._gave_up = True
                    raise
                self._say(error, retry_in_sec=pause)
            else:
                self._gave_up = False
                return result
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _say(self, error: Exception, *, retry_in_sec: float) -> None:
        AGAIN.labels(self._name).inc()
        log.warning("done_again", work=self._name, retry_in_sec=retry_in_sec, error=type(error).__name__)


async def retried(
    name: str, work: Callable[[], Awaitable[Result]], *, unless: Callable[[], bool] = lambda: False
) -> Result:
    """What `work` returns at one of three tries, where those before lost their connections.

    Where all sessions end at once, the next connection of the pool may be as dead, which shows a moment later.
    """
    for pause in PAUSES_SEC:
        try:
            return await work()
        except Exception as error:
            if not is_passing(error) or unless():
                raise
            AGAIN.labels(name).inc()
            log.warning("done_again", work=name, retry_in_sec=pause, error=type(error).__name__)
        await asyncio.sleep(pause)
    return await work()


class AskedAgain:
    """ASGI middleware behind the door: a question whose connection was lost before an answer began is asked again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in SAFE:
            await self._app(scope, receive, send)
            return
        began = False

        async def send_noted(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        await retried("question", lambda: self._app(dict(scope), receive, send_noted), unless=lambda: began)
