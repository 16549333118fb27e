"""Callbacks leave here: one POST per letter, in order within a mailbox, each tried a bounded number of times.

A fixed number of workers share one pool of connections. A mailbox (one per execution) waits in line at most once, so
one execution never has two callbacks under way, and a slow receiver holds at most one worker per execution. Only
HTTP 200 counts as delivered.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from cualify_simulator.clock import Clock
from cualify_simulator.journal import Journal, Kind
from cualify_simulator.script import Callbacks
from cualify_simulator.wire import Wire

WORKERS: Final = 128
LETTERS_LIMIT: Final = 200_000
TIMEOUT_SEC: Final = 10.0
"""Real seconds: the network between us and the receiver is no faster in simulated time."""

RETRY_AFTER_SEC: Final = (5.0, 30.0, 120.0, 300.0)
"""Simulated seconds; one retry each, then the letter is given up."""

PASSED_AT_ONCE: Final = 2


@dataclass(slots=True, eq=False)
class Letter:
    url: str
    status: str
    body: bytes
    attempt: int = 0
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    def copy(self) -> "Letter":
        return Letter(self.url, self.status, self.body, content_type=self.content_type, headers=self.headers)


class Reorderer:
    """Gives every letter twice: the first copies with neighbours swapped, the second copies backwards, after the end.

    The first two letters pass at once: one of them has to be there before the create's answer.
    """

    __slots__ = ("_held", "_seen")

    def __init__(self) -> None:
        self._seen: list[Letter] = []
        self._held: Letter | None = None

    def arrange(self, letter: Letter, *, is_last: bool) -> list[Letter]:
        """The letters that may leave now that this one has come."""
        self._seen.append(letter)
        if len(self._seen) <= PASSED_AT_ONCE and not is_last:
            return [letter]
        if self._held is None and not is_last:
            self._held = letter
            return []
        leaving = [letter, self._held] if self._held else [letter]
        self._held = None
        return leaving + [seen.copy() for seen in reversed(self._seen)] if is_last else leaving


@dataclass(slots=True, eq=False)
class Mailbox:
    """What is still to be told about one execution."""

    execution_id: str
    to_e164: str
    cualify_ref: str | None
    reorderer: Reorderer | None = None
    letters: list[Letter] = field(default_factory=list)  # a handful; an empty deque is ten times as big
    is_in_line: bool = False
    first_tried: asyncio.Event | None = None
    """Set, where somebody waits for it, once the first letter was delivered or failed its first attempt."""


def mailbox_for(callbacks: Callbacks, execution_id: str, *, to_e164: str, cualify_ref: str | None) -> Mailbox:
    reorderer = Reorderer() if callbacks is Callbacks.TWICE_REORDERED else None
    return Mailbox(execution_id, to_e164, cualify_ref, reorderer)


async def first_tried(mailbox: Mailbox, *, within_sec: float) -> None:
    """Returns once the first letter has been tried, but after `within_sec` real seconds at the latest."""
    if mailbox.letters:
        mailbox.first_tried = asyncio.Event()
        with suppress(TimeoutError):
            await asyncio.wait_for(mailbox.first_tried.wait(), within_sec)


class Postman:
    def __init__(self, clock: Clock, journal: Journal) -> None:
        self._clock = clock
        self._journal = journal
        self._line: asyncio.Queue[Mailbox] = asyncio.Queue()  # bounded by the letters, each mailbox at most once
        self._letters = 0
        self._workers: list[asyncio.Task[None]] = []
        self._wire = Wire()

    def post(self, mailbox: Mailbox, letter: Letter, *, is_last: bool) -> None:
        leaving = [letter]
        if mailbox.reorderer:
            leaving = mailbox.reorderer.arrange(letter, is_last=is_last)
        for each in leaving:
            self._accept(mailbox, each)

    def start(self) -> None:
        self._workers = [asyncio.create_task(self._deliver(), name=f"postman-{n}") for n in range(WORKERS)]

    async def stop(self) -> None:
        """At once: what was not delivered is lost, as when a provider dies."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._wire.close()

    @property
    def is_well(self) -> bool:
        return not any(worker.done() for worker in self._workers)

    def _accept(self, mailbox: Mailbox, letter: Letter) -> None:
        if self._letters >= LETTERS_LIMIT:
            self._note(mailbox, letter, answer="dropped")
            return
        self._letters += 1
        mailbox.letters.append(letter)
        if not mailbox.is_in_line:
            mailbox.is_in_line = True
            self._line.put_nowait(mailbox)

    async def _deliver(self) -> None:
        while True:
            mailbox = await self._line.get()
            letter = mailbox.letters[0]
            letter.attempt += 1
            answer = await self._send(letter)
            self._note(mailbox, letter, answer=answer)
            self._settle(mailbox, letter, answer)

    async def _send(self, letter: Letter) -> str:
        """The HTTP status as text, or the name of what went wrong."""
        try:
            async with asyncio.timeout(TIMEOUT_SEC):
                return str(await self._wire.post(letter.url, letter.body, letter.content_type, letter.headers))
        except TimeoutError:
            return "timeout"
        except OSError as problem:
            return type(problem).__name__

    def _settle(self, mailbox: Mailbox, letter: Letter, answer: str) -> None:
        if mailbox.first_tried:
            mailbox.first_tried.set()
        if answer != "200" and letter.attempt <= len(RETRY_AFTER_SEC):
            self._clock.after(RETRY_AFTER_SEC[letter.attempt - 1], self._line.put_nowait, mailbox)
            return
        mailbox.letters.pop(0)
        self._letters -= 1
        if mailbox.letters:
            self._line.put_nowait(mailbox)
        else:
            mailbox.is_in_line = False

    def _note(self, mailbox: Mailbox, letter: Letter, *, answer: str) -> None:
        self._journal.note(
            Kind.CALLBACK,
            to_e164=mailbox.to_e164,
            cualify_ref=mailbox.cualify_ref,
            execution_id=mailbox.execution_id,
            status=letter.status,
            answer=answer,
            attempt=letter.attempt,
        )
