"""Placing calls. What queued while the last batch was in flight is decided and written in one transaction.

Before it the orgs' rate limit is asked, for the whole batch at once. In it the orgs' credit is locked first, so
whatever else is read is true until the COMMIT, on every replica: no wallet is held below zero, no key or external_id
makes two calls.

A batch that lost its connection is placed again on another, under the same ids. What it may have committed is found by
them, behind the lock that the lost transaction holds until it has ended; so nothing is placed, held or sent twice.
"""

from collections import Counter as Outcomes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias, assert_never
from uuid import UUID

import structlog
from prometheus_client import Counter

from cualify_api.calls import queries, terms
from cualify_api.calls.decide import Accepted, Decision, Replayed, Request, World, decide, without_repeats
from cualify_api.web import idempotency
from cualify_api.web.again import Again
from cualify_api.web.errors import Problem
from cualify_api.web.rate_limit import Allowance, take
from cualify_shared import faults, outbox
from cualify_shared.batch import MicroBatch
from cualify_shared.database import Connection, Pool
from cualify_shared.events import Event, Terms
from cualify_shared.events.call import CallRequested, Retry
from cualify_shared.signing import CalleeTokens

log = structlog.get_logger(__name__)

ROUTE: Final = "POST /api/v1/calls"
DECIDED = Counter("cualify_call_requests_total", "Requests for calls, by what became of them.", ["outcome"])


@dataclass(slots=True)
class Asked:
    """A request for a call on its way through a batch. Once allowed by the rate limit, it is not counted again (but
    where the connection was lost just before the limit's answer: then it may count twice, never not at all)."""

    request: Request
    allowance: Allowance | None = None
    in_doubt: Accepted | None = None
    """Decided, and handed to a COMMIT whose answer has not come."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of it. No decision: the rate limit refused it."""

    allowance: Allowance
    decision: Decision | None


Placing: TypeAlias = MicroBatch[Asked, Answered]


def placing(pool: Pool, *, token_key: bytes, committed: Callable[[], None]) -> Placing:
    """The batch that every request for a call goes through."""
    agents, tokens, again = terms.Agents(), CalleeTokens(token_key), Again("place calls")

    async def settled(batch: Sequence[Asked]) -> list[Answered]:
        async with pool.acquire() as connection:
            allowances = await _allowances(connection, batch)
            passed = [asked for asked, one in zip(batch, allowances, strict=True) if one.is_given]
            decisions: list[Decision] = []
            if passed:
                async with connection.transaction():
                    decisions = await _decided(connection, passed, agents=agents, tokens=tokens)
                faults.point("api.place.committed")
                committed()
        _tell_of(decisions)
        following = iter(decisions)
        return [Answered(one, next(following) if one.is_given else None) for one in allowances]

    async def apply(batch: Sequence[Asked]) -> list[Answered]:
        return await again.do(lambda: settled(batch))

    return MicroBatch("place calls", apply)


async def _allowances(connection: Connection, batch: Sequence[Asked]) -> list[Allowance]:
    new = [asked for asked in batch if asked.allowance is None]
    if new:
        taken = await take(connection, [asked.request.org_id for asked in new])
        for asked, allowance in zip(new, taken, strict=True):
            asked.allowance = allowance
    return [asked.allowance for asked in batch if asked.allowance is not None]


async def _decided(
    connection: Connection, batch: Sequence[Asked], *, agents: terms.Agents, tokens: CalleeTokens
) -> list[Decision]:
    """Decides and writes, in the running transaction, what an earlier one has not."""
    found = await _committed_before(connection, batch)
    rest = [asked.request for asked in batch if asked.request.call_id not in found]
    placed = iter(await place(connection, rest, agents=agents, tokens=tokens) if rest else ())
    decisions = [found.get(asked.request.call_id) or next(placed) for asked in batch]
    for asked, decision in zip(batch, decisions, strict=True):
        asked.in_doubt = decision if isinstance(decision, Accepted) else None
    return decisions


async def _committed_before(connection: Connection, batch: Sequence[Asked]) -> dict[UUID, Accepted]:
    """By call id, what a COMMIT did whose answer was lost. The orgs' credit is locked until the transaction ends."""
    doubtful = {asked.request.call_id: asked.in_doubt for asked in batch if asked.in_doubt is not None}
    if not doubtful:
        return {}
    await terms.locked_credit(connection, [asked.request.org_id for asked in batch])
    return {call_id: doubtful[call_id] for call_id in await queries.existing(connection, list(doubtful))}


async def place(
    connection: Connection, requests: Sequence[Request], *, agents: terms.Agents, tokens: CalleeTokens
) -> list[Decision]:
    """Decides and writes a batch in the running transaction."""
    decisions, to_keep = decide(requests, await _world(connection, requests, agents))
    new = [
        (decision, request)
        for decision, request in zip(decisions, requests, strict=True)
        if isinstance(decision, Accepted)
    ]
    if new:
        await queries.add(
            connection, [decision.call for decision, _ in new], [request.fingerprint for _, request in new]
        )
        await outbox.put(connection, [_requested(decision, tokens) for decision, _ in new])
    if to_keep:
        await idempotency.keep(connection, ROUTE, to_keep, at=requests[0].at)
    return decisions


async def _world(connection: Connection, requests: Sequence[Request], agents: terms.Agents) -> World:
    org_terms = await terms.locked_terms(connection, without_repeats(request.org_id for request in requests))
    return World(
        credits=org_terms.credits,
        plans=org_terms.plans,
        default_numbers=org_terms.default_numbers,
        agents=await agents.of(connection, {(r.org_id, r.body.agent_id) for r in requests}),
        own_numbers=await terms.own_numbers(
            connection, [(r.org_id, r.body.from_e164) for r in requests if r.body.from_e164 is not None]
        ),
        first_answers=await idempotency.first_answers(
            connection,
            ROUTE,
            list({(r.org_id, r.idempotency_key) for r in requests if r.idempotency_key is not None}),
        ),
        by_external_id=await queries.by_external_id(
            connection, list({(r.org_id, r.body.external_id) for r in requests if r.body.external_id is not None})
        ),
    )


@lru_cache(maxsize=1000)
def _terms(
    *, rate_paise_per_sec: int, pulse_sec: int, hold_paise: int, max_duration_sec: int, min_billable_sec: int
) -> Terms:
    return Terms(
        rate_paise_per_sec=rate_paise_per_sec,
        pulse_sec=pulse_sec,
        hold_paise=hold_paise,
        max_duration_sec=max_duration_sec,
        min_billable_sec=min_billable_sec,
    )


def _requested(decision: Accepted, tokens: CalleeTokens) -> Event:
    call = decision.call
    return Event(
        data=CallRequested(
            call_id=call.id,
            org_id=call.org_id,
            agent_id=call.agent_id,
            to_e164=call.to_e164,
            from_e164=call.from_e164,
            callee_token=tokens.of(org_id=call.org_id, e164=call.to_e164),
            language=call.language,
            provider=call.provider,
            provider_agent_id=decision.agent.provider_agent_id,
            provider_call_id=call.provider_call_id,
            terms=_terms(
                rate_paise_per_sec=call.rate_paise_per_sec,
                pulse_sec=call.pulse_sec,
                hold_paise=call.hold_paise,
                max_duration_sec=call.max_duration_sec,
                min_billable_sec=decision.plan.min_billable_sec,
            ),
            requested_at=call.created_at,
            earliest_at=call.earliest_at,
            latest_at=call.latest_at,
            test=call.test,
            retry=None if call.retry is None else Retry.model_validate(call.retry),
            fallback_providers=decision.agent.fallbacks,
            max_concurrent_calls=decision.plan.max_concurrent_calls,
        ),
        org_id=call.org_id,
        key=call.id,
        subject=f"call/{call.id}",
        sequence=1,
        time=call.created_at,
        correlation_id=call.request_id,
    )


def _tell_of(decisions: Sequence[Decision]) -> None:
    outcomes = Outcomes(_outcome(decision) for decision in decisions)
    for outcome, count in outcomes.items():
        DECIDED.labels(outcome).inc(count)
    for decision in decisions:
        if isinstance(decision, Accepted):
            call = decision.call
            log.info(
                "call_placed",
                call_id=str(call.id),
                org_id=str(call.org_id),
                agent_id=str(call.agent_id),
                request_id=call.request_id,
                status=call.status,
                hold_paise=call.hold_paise,
                test=call.test,
            )


def _outcome(decision: Decision) -> str:
    match decision:
        case Accepted():
            return "accepted"
        case Replayed():
            return "replayed"
        case Problem(code=code):
            return code
        case _:
            assert_never(decision)
