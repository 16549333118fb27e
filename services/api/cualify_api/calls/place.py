"""Placing calls. What queued while the last batch was in flight is decided and written in one transaction.

The orgs' credit is locked first, so whatever else is read is true until the COMMIT, on every replica: no wallet is held
below zero, no key or external_id makes two calls.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias
from uuid import UUID

import structlog
from prometheus_client import Counter

from cualify_api.calls import queries, terms
from cualify_api.calls.call import Call, TimelineEntry
from cualify_api.calls.decide import Accepted, Decision, Request, World, decide, without_repeats
from cualify_api.web import idempotency
from cualify_api.web.errors import Problem
from cualify_shared import faults, outbox
from cualify_shared.batch import MicroBatch
from cualify_shared.database import Connection, Pool
from cualify_shared.events import Event, Terms
from cualify_shared.events.call import CallRequested
from cualify_shared.events.topics import CALL_REQUESTS
from cualify_shared.signing import callee_token

log = structlog.get_logger(__name__)

ROUTE: Final = "POST /api/v1/calls"
SOURCE: Final = CALL_REQUESTS.name
DECIDED = Counter("cualify_call_requests_total", "Requests for calls, by what became of them.", ["outcome"])
Placing: TypeAlias = MicroBatch[Request, Decision]


def placing(pool: Pool, *, token_key: bytes, committed: Callable[[], None]) -> Placing:
    """The batch that every request for a call goes through."""

    async def apply(requests: Sequence[Request]) -> list[Decision]:
        async with pool.acquire() as connection, connection.transaction():
            decisions = await place(connection, requests, token_key=token_key)
        faults.point("api.place.committed")
        committed()
        for decision in decisions:
            _tell_of(decision)
        return decisions

    return MicroBatch("place calls", apply)


async def place(connection: Connection, requests: Sequence[Request], *, token_key: bytes) -> list[Decision]:
    """Decides and writes a batch in the running transaction."""
    world = await _world(connection, requests)
    decisions, to_keep = decide(requests, world)
    new = [
        (decision, request)
        for decision, request in zip(decisions, requests, strict=True)
        if isinstance(decision, Accepted)
    ]
    if new:
        await _write(connection, new, token_key=token_key)
    if to_keep:
        await idempotency.keep(connection, ROUTE, to_keep, at=requests[0].at)
    return decisions


async def _world(connection: Connection, requests: Sequence[Request]) -> World:
    org_ids = without_repeats(request.org_id for request in requests)
    credit = await terms.locked_credit(connection, org_ids)
    default_numbers, own_numbers = await terms.numbers(
        connection, org_ids, [(r.org_id, r.body.from_e164) for r in requests if r.body.from_e164 is not None]
    )
    return World(
        credits=credit,
        plans=await terms.plans(connection, org_ids),
        agents=await terms.agents(connection, list({(r.org_id, r.body.agent_id) for r in requests})),
        default_numbers=default_numbers,
        own_numbers=own_numbers,
        first_answers=await idempotency.first_answers(
            connection,
            ROUTE,
            list({(r.org_id, r.idempotency_key) for r in requests if r.idempotency_key is not None}),
        ),
        by_external_id=await queries.by_external_id(
            connection, list({(r.org_id, r.body.external_id) for r in requests if r.body.external_id is not None})
        ),
    )


async def _write(connection: Connection, new: Sequence[tuple[Accepted, Request]], *, token_key: bytes) -> None:
    calls = [decision.call for decision, _ in new]
    await terms.change_credit(connection, _holds(calls))
    await queries.add(connection, calls, [request.fingerprint for _, request in new])
    await queries.add_to_timeline(connection, [_first_entry(call) for call in calls])
    await queries.count(connection, [(call.org_id, None, call.status) for call in calls])
    await outbox.put(connection, [_requested(decision, token_key=token_key) for decision, _ in new])


def _holds(calls: Sequence[Call]) -> dict[UUID, tuple[int, int]]:
    held: dict[UUID, int] = {}
    for call in calls:
        held[call.org_id] = held.get(call.org_id, 0) + call.hold_paise
    return {org_id: (0, paise) for org_id, paise in held.items()}


def _first_entry(call: Call) -> TimelineEntry:
    return TimelineEntry(call.id, call.org_id, SOURCE, 1, call.status, call.created_at, {})


def _requested(decision: Accepted, *, token_key: bytes) -> Event:
    call = decision.call
    return Event(
        data=CallRequested(
            call_id=call.id,
            org_id=call.org_id,
            agent_id=call.agent_id,
            to_e164=call.to_e164,
            from_e164=call.from_e164,
            callee_token=callee_token(platform_key=token_key, org_id=call.org_id, e164=call.to_e164),
            language=call.language,
            provider=call.provider,
            provider_agent_id=decision.agent.provider_agent_id,
            provider_call_id=call.provider_call_id,
            terms=Terms(
                rate_paise_per_sec=call.rate_paise_per_sec,
                pulse_sec=call.pulse_sec,
                hold_paise=call.hold_paise,
                max_duration_sec=call.max_duration_sec,
            ),
            requested_at=call.created_at,
            earliest_at=call.earliest_at,
            latest_at=call.latest_at,
        ),
        org_id=call.org_id,
        key=call.id,
        subject=f"call/{call.id}",
        sequence=1,
        time=call.created_at,
        correlation_id=call.request_id,
    )


def _tell_of(decision: Decision) -> None:
    match decision:
        case Accepted(call=call):
            DECIDED.labels("accepted").inc()
            log.info(
                "call_placed",
                call_id=str(call.id),
                org_id=str(call.org_id),
                agent_id=str(call.agent_id),
                request_id=call.request_id,
                status=call.status,
                hold_paise=call.hold_paise,
            )
        case Problem(code=code):
            DECIDED.labels(code).inc()
        case _:
            DECIDED.labels("replayed").inc()
