"""What becomes of requests for calls. Pure: the world as it was locked goes in, an answer for each request comes out.

Of one org's requests the one that came first is decided first, and each accepted call's hold lessens what is available
to the next. A wallet that covers ten calls is never asked for an eleventh.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias, assert_never
from uuid import UUID

from cualify_api.calls.call import REF_PREFIX, Call
from cualify_api.calls.schemas import PlaceCall
from cualify_api.calls.view import accepted
from cualify_api.web.errors import STATUS, Problem
from cualify_api.web.idempotency import FirstAnswer
from cualify_shared.events.call import Fallback
from cualify_shared.ids import provider_ref
from cualify_shared.money import call_cost_paise

PATIENCE: Final = timedelta(minutes=15)
"""How long after acceptance (or after `earliest_at`) a call may still be dialed, unless the request says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request for a call, checked, and what it would be called."""

    call_id: UUID
    org_id: UUID
    key_prefix: str
    request_id: str
    at: datetime
    body: PlaceCall
    idempotency_key: str | None
    fingerprint: bytes | None
    """Of the body; made only where there is a key or an external_id to compare it under."""
    test: bool = False
    """It came with a test key."""


@dataclass(slots=True)
class Credit:
    """An org's row of `org_credit`, locked; `held` rises as requests are accepted."""

    granted: int
    held: int
    frozen: bool = False
    """A chargeback waits for what is held."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The terms that an org calls on."""

    rate_paise_per_sec: int
    pulse_sec: int
    active_until: datetime | None
    expired_at: datetime | None
    max_concurrent_calls: int | None
    min_billable_sec: int = 0

    def is_active(self, at: datetime) -> bool:
        """Whether calls may be placed now."""
        return self.expired_at is None and (self.active_until is None or at < self.active_until)


TRIAL: Final = Plan(rate_paise_per_sec=0, pulse_sec=1, active_until=None, expired_at=None, max_concurrent_calls=None)
"""The terms of a test key's calls, whatever the org's plan: they cost nothing and hold nothing."""


@dataclass(frozen=True, slots=True)
class Agent:
    """What a call takes from its agent."""

    language: str
    max_duration_sec: int
    provider: str
    provider_agent_id: str
    fallbacks: tuple[Fallback, ...] | None = None
    """Where its calls turn to when that provider is known not to have started them."""


@dataclass(slots=True, kw_only=True)
class World:
    """All that a batch is decided on, read under the lock of its orgs' credit."""

    credits: Mapping[UUID, Credit]
    plans: Mapping[UUID, Plan]
    agents: Mapping[tuple[UUID, UUID], Agent]
    default_numbers: Mapping[UUID, str]
    own_numbers: frozenset[tuple[UUID, str]] | set[tuple[UUID, str]]
    first_answers: dict[tuple[UUID, str], FirstAnswer] = field(default_factory=dict)
    by_external_id: dict[tuple[UUID, str], tuple[bytes | None, Call]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A new call; its hold is counted already."""

    call: Call
    agent: Agent
    plan: Plan


@dataclass(frozen=True, slots=True)
class Replayed:
    """The first answer, once more."""

    status: int
    answer: dict[str, Any]


Decision: TypeAlias = Accepted | Replayed | Problem


def decide(requests: Sequence[Request], world: World) -> tuple[list[Decision], list[FirstAnswer]]:
    """A decision for each request, in order, and the first answers to keep."""
    decisions: list[Decision] = []
    to_keep: list[FirstAnswer] = []
    for request in requests:
        decision = _before(request, world) or _decide_new(request, world)
        if isinstance(decision, Accepted) and request.body.external_id is not None:
            world.by_external_id[request.org_id, request.body.external_id] = (request.fingerprint, decision.call)
        kept = _first_answer(request, decision, world)
        if kept is not None:
            world.first_answers[kept.org_id, kept.key] = kept
            to_keep.append(kept)
        decisions.append(decision)
    return decisions, to_keep


def available_paise(credit: Credit) -> int:
    """What new holds may take."""
    return credit.granted - credit.held


def _before(request: Request, world: World) -> Replayed | Problem | None:
    """The answer to a request that was made before, under the same key or the same external_id."""
    if request.idempotency_key is not None:
        first = world.first_answers.get((request.org_id, request.idempotency_key))
        if first is not None:
            if first.fingerprint == request.fingerprint:
                return Replayed(first.status, first.answer)
            return Problem("conflict", "this Idempotency-Key was used with another body", param="Idempotency-Key")
    if request.body.external_id is not None:
        found = world.by_external_id.get((request.org_id, request.body.external_id))
        if found is not None:
            mark, call = found
            if mark == request.fingerprint:
                return Replayed(201, {"data": accepted(call)})
            return Problem("conflict", "this external_id was used with another body", param="external_id")
    return None


def _decide_new(request: Request, world: World) -> Accepted | Problem:
    org_id, body = request.org_id, request.body
    agent = world.agents.get((org_id, body.agent_id))
    if agent is None:
        return Problem("not_found", "there is no such agent in your org", param="agent_id")
    plan = TRIAL if request.test else world.plans.get(org_id)
    credit = world.credits.get(org_id)
    if plan is None or credit is None or not plan.is_active(request.at):
        return Problem("forbidden", "No active plan", details={"reason": "No active plan"})
    if credit.frozen:
        reason = "A chargeback is open"
        return Problem("forbidden", reason, details={"reason": reason})
    if body.from_e164 is not None and (org_id, body.from_e164) not in world.own_numbers:
        reason = "from_e164 is not a number of your org"
        return Problem("forbidden", reason, param="from_e164", details={"reason": reason})
    call = _call(request, agent, plan, from_e164=body.from_e164 or world.default_numbers.get(org_id))
    if call.hold_paise > available_paise(credit):
        return _too_little(credit, needed_paise=call.hold_paise)
    credit.held += call.hold_paise
    return Accepted(call, agent, plan)


def _call(request: Request, agent: Agent, plan: Plan, *, from_e164: str | None) -> Call:
    body = request.body
    max_duration_sec = body.max_duration_sec or agent.max_duration_sec
    earliest_at, latest_at = window(request)
    return Call(
        id=request.call_id,
        org_id=request.org_id,
        agent_id=body.agent_id,
        status="queued" if earliest_at is None else "scheduled",
        from_e164=from_e164,
        to_e164=body.to_e164,
        language=body.language or agent.language,
        metadata=body.metadata,
        external_id=body.external_id,
        retry=None if body.retry is None else body.retry.model_dump(mode="json"),
        key_prefix=request.key_prefix,
        request_id=request.request_id,
        test=request.test,
        created_at=request.at,
        earliest_at=earliest_at,
        latest_at=latest_at,
        rate_paise_per_sec=plan.rate_paise_per_sec,
        pulse_sec=plan.pulse_sec,
        max_duration_sec=max_duration_sec,
        hold_paise=call_cost_paise(
            duration_sec=max_duration_sec,
            rate_paise_per_sec=plan.rate_paise_per_sec,
            pulse_sec=plan.pulse_sec,
            min_billable_sec=plan.min_billable_sec,
        ),
        provider=agent.provider,
        provider_call_id=provider_ref(prefix=REF_PREFIX[agent.provider], call_id=request.call_id, attempt=1),
    )


def window(request: Request) -> tuple[datetime | None, datetime]:
    """From when (None: at once) and until when the call may be dialed: unless the request says, long enough for every
    attempt that it asks for."""
    schedule, retry = request.body.schedule, request.body.retry
    earliest_at = (
        schedule.earliest_at if schedule and schedule.earliest_at and schedule.earliest_at > request.at else None
    )
    if schedule and schedule.latest_at:
        return earliest_at, schedule.latest_at
    patience = PATIENCE if retry is None else sum(retry.waits, PATIENCE)
    return earliest_at, (earliest_at or request.at) + patience


def _too_little(credit: Credit, *, needed_paise: int) -> Problem:
    return Problem(
        "insufficient_credits",
        "the wallet does not cover the longest that this call may last",
        details={"balance_paise": credit.granted, "held_paise": credit.held, "needed_paise": needed_paise},
    )


def _first_answer(request: Request, decision: Decision, world: World) -> FirstAnswer | None:
    key = request.idempotency_key
    if key is None or request.fingerprint is None or (request.org_id, key) in world.first_answers:
        return None
    match decision:
        case Accepted(call=call):
            return FirstAnswer(request.org_id, key, request.fingerprint, 201, {"data": accepted(call)}, call.id)
        case Replayed(status=status, answer=answer):
            call_id = UUID(answer["data"]["id"])
            return FirstAnswer(request.org_id, key, request.fingerprint, status, answer, call_id)
        case Problem(code=code):
            return FirstAnswer(request.org_id, key, request.fingerprint, STATUS[code], decision.body(), None)
        case _:
            assert_never(decision)


def without_repeats(values: Iterable[UUID]) -> list[UUID]:
    """Each once, in the order in which rows are locked."""
    return sorted(set(values))
