"""The exchange: takes calls in, has a limited number of lines, and leads every execution through its life.

A call beyond the lines is not refused: it stays `queued` and is dialed later, first come first served. A phone rings
exactly where the journal gets its `ring`.
"""

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol, assert_never
from uuid import uuid4

import orjson

from cualify_simulator.agents import Agent
from cualify_simulator.book import Book
from cualify_simulator.callbacks import Letter, Postman, mailbox_for
from cualify_simulator.clock import Clock
from cualify_simulator.execution import NOT_YET_DIALED, Execution, ToldFact, render, render_event
from cualify_simulator.journal import Journal, Kind
from cualify_simulator.requests import CallOrder
from cualify_simulator.script import (
    QUEUED_SEC,
    Answer,
    Callbacks,
    Life,
    NeverDialed,
    Reach,
    Step,
    Tell,
    steps_of,
)

QUEUE_LIMIT: Final = 100_000
"""Executions that may wait to be dialed, scheduled ones included."""

MILESTONES: Final = {
    "ringing": Kind.RING,
    "in-progress": Kind.ANSWERED,
    "call-disconnected": Kind.DISCONNECTED,
}


class Dialect(Protocol):
    """How a provider tells by itself what happens to a call; None where it says nothing."""

    def status(self, execution: Execution) -> Letter | None: ...

    def fact(self, execution: Execution, told: ToldFact) -> Letter | None: ...


class BolnaDialect:
    """The whole execution at each change, to the agent's address."""

    def status(self, execution: Execution) -> Letter | None:
        url = execution.agent.webhook_url
        return Letter(url, execution.status, orjson.dumps(render(execution))) if url else None

    def fact(self, execution: Execution, told: ToldFact) -> Letter | None:
        url = execution.agent.webhook_url
        return Letter(url, told.fact.type, orjson.dumps(render_event(execution, told))) if url else None


BOLNA: Final = BolnaDialect()


@dataclass(frozen=True, slots=True)
class Journey:
    """An execution on its way: what lies before it, counted from when it was dialed."""

    execution: Execution
    steps: tuple[Step, ...]
    dialed_at_sec: float


class Exchange:
    def __init__(self, clock: Clock, journal: Journal, postman: Postman, book: Book, *, lines: int) -> None:
        self._clock = clock
        self._journal = journal
        self._postman = postman
        self._book = book
        self._waiting: deque[Execution] = deque()
        self._not_yet_dialed = 0
        self._dialects: dict[str, Dialect] = {}
        self.lines = lines
        self.lines_in_use = 0

    @property
    def is_full(self) -> bool:
        return self._not_yet_dialed >= QUEUE_LIMIT

    def place(
        self, order: CallOrder, agent: Agent, life: Life, *, recordings_url: str, opens_at: datetime | None = None
    ) -> Execution:
        """Takes a call in; one that was wanted for later, or may only be made later, waits for that time."""
        execution = self._make(order, agent, life, recordings_url)
        if opens_at is not None and order.scheduled_at is None:
            execution.status, execution.scheduled_at = "rescheduled", opens_at
        wait_sec = QUEUED_SEC
        if execution.scheduled_at:
            wait_sec = (execution.scheduled_at - execution.created_at).total_seconds()
        self._begin(execution, wait_sec=wait_sec)
        return execution

    def _begin(self, execution: Execution, *, wait_sec: float) -> None:
        self._book.add(execution)
        self._not_yet_dialed += 1
        self._note(Kind.CREATE, execution, answer=_answer_of(execution.life))
        self._tell_status(execution)
        self._clock.after(wait_sec, self._take_up, execution)

    def take_on(self, execution: Execution, dialect: Dialect) -> None:
        """A call of a provider other than Bolna."""
        self._dialects[execution.id] = dialect
        self._begin(execution, wait_sec=QUEUED_SEC)

    def hang_up(self, execution: Execution) -> bool:
        """Ends a call in whatever state it is, as telephony providers can."""
        if execution.is_over:
            self._note(Kind.STOP_REFUSED, execution)
            return False
        if execution.answered_at is None or execution.status == "call-disconnected":
            self._reach(execution, "canceled")
            return True
        real_sec = (self._clock.now() - execution.answered_at).total_seconds()
        execution.cut_after_sec = round(real_sec / self._clock.real_sec(1.0), 3)
        self._reach(execution, "completed")
        return True

    def stop(self, execution: Execution) -> bool:
        """Only what is not yet dialed can be stopped; then its phone never rings."""
        if execution.status not in NOT_YET_DIALED:
            self._note(Kind.STOP_REFUSED, execution)
            return False
        self._reach(execution, "stopped")
        return True

    def _make(self, order: CallOrder, agent: Agent, life: Life, recordings_url: str) -> Execution:
        execution_id = str(uuid4())
        return Execution(
            id=execution_id,
            agent=agent,
            life=life,
            to_e164=order.to_e164,
            from_e164=order.from_e164,
            user_data=order.user_data,
            cualify_ref=order.cualify_ref,
            recordings_url=recordings_url,
            created_at=self._book.next_created_at(self._clock.now()),
            status="scheduled" if order.scheduled_at else "queued",
            mailbox=mailbox_for(life.callbacks, execution_id, to_e164=order.to_e164, cualify_ref=order.cualify_ref),
            call_terminate_sec=agent.call_terminate_sec,
            scheduled_at=order.scheduled_at,
        )

    def _take_up(self, execution: Execution) -> None:
        """Its time has come: dial, or wait for a line behind those that wait already."""
        if execution.status not in NOT_YET_DIALED:
            return
        if isinstance(execution.life.end, NeverDialed):
            self._set_out(execution)
        else:
            self._waiting.append(execution)
            self._dial_waiting()

    def _dial_waiting(self) -> None:
        while self._waiting and self.lines_in_use < self.lines:
            execution = self._waiting.popleft()
            if execution.status in NOT_YET_DIALED:  # not stopped meanwhile
                execution.holds_line = True
                self.lines_in_use += 1
                self._set_out(execution)

    def _set_out(self, execution: Execution) -> None:
        steps = steps_of(execution.life.end, call_terminate_sec=execution.call_terminate_sec)
        self._walk(Journey(execution, steps, self._clock.elapsed_sec()), 0)

    def _walk(self, journey: Journey, index: int) -> None:
        """Takes one step and sets the timer for the next; none beyond an end that the client made."""
        if journey.execution.is_over:
            return
        if self._rings_again(journey.execution, journey.steps[index]):
            self._set_out(journey.execution)
            return
        self._take(journey.execution, journey.steps[index])
        if index + 1 < len(journey.steps):
            next_at = journey.dialed_at_sec + journey.steps[index + 1].at_sec
            self._clock.at(next_at, self._walk, journey, index + 1)

    def _rings_again(self, execution: Execution, step: Step) -> bool:
        """Instead of this end: what the provider does by itself unless it is told not to."""
        if execution.redials_left == 0 or not isinstance(step, Reach) or step.status not in ("no-answer", "failed"):
            return False
        execution.redials_left -= 1
        return True

    def _take(self, execution: Execution, step: Step) -> None:
        match step:
            case Reach():
                self._reach(execution, step.status)
            case Tell():
                self._tell_fact(execution, step)
            case _:
                assert_never(step)

    def _reach(self, execution: Execution, status: str) -> None:
        self._not_yet_dialed -= execution.status in NOT_YET_DIALED
        execution.reach(status, self._clock.now())
        if status == "in-progress":
            execution.answered_at = self._clock.now()
        self._note_milestone(execution)
        self._tell_status(execution)
        if execution.holds_line and (execution.is_over or status == "call-disconnected"):
            execution.holds_line = False
            self.lines_in_use -= 1
            self._dial_waiting()

    def _note_milestone(self, execution: Execution) -> None:
        if execution.is_over:
            self._note(Kind.ENDED, execution, duration_sec=execution.duration_sec)
        elif milestone := MILESTONES.get(execution.status):
            self._note(milestone, execution)

    def _tell_status(self, execution: Execution) -> None:
        letter = self._dialect(execution).status(execution)
        if letter is not None and execution.life.callbacks is not Callbacks.NEVER:
            self._postman.post(execution.mailbox, letter, is_last=execution.is_over)
        if execution.is_over:
            self._dialects.pop(execution.id, None)

    def _tell_fact(self, execution: Execution, step: Tell) -> None:
        told = execution.tell(step.fact, tool_id=step.tool_id, at=self._clock.now())
        letter = self._dialect(execution).fact(execution, told)
        if letter is not None and execution.life.callbacks is not Callbacks.NEVER:
            self._postman.post(execution.mailbox, letter, is_last=False)

    def _dialect(self, execution: Execution) -> Dialect:
        return self._dialects.get(execution.id, BOLNA)

    def _note(
        self, kind: Kind, execution: Execution, *, answer: str | None = None, duration_sec: float | None = None
    ) -> None:
        self._journal.note(
            kind,
            to_e164=execution.to_e164,
            cualify_ref=execution.cualify_ref,
            execution_id=execution.id,
            status=execution.status,
            answer=answer,
            duration_sec=duration_sec,
        )


def _answer_of(life: Life) -> str:
    return (Answer.ACCEPTED if life.answer is Answer.THROTTLED_TWICE else life.answer).value
