"""What a callback does to its call: the short way leaves out only what the long one would not have done."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from cualify_dialer.callback_queries import Owner
from cualify_dialer.callbacks import Weight, weight
from cualify_dialer.model import Answered, Attempt, AttemptState, Begun, Call, CallState, CancelWanted, Heard, Learnt
from cualify_dialer.outcomes import fold
from cualify_dialer.providers import Accepted, Phase, Snapshot, ToolFact, Unknown
from tests.dialer.support import PACE, Dialer, ScriptedProvider, a_request, a_snapshot

T0 = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
NOW = T0 + timedelta(seconds=30)
BEGUN = Begun(ref="boln_1", asked_at=T0, asking_until=T0 + timedelta(seconds=20))
ACCEPTED = Answered(1, Accepted("ex-1"))
FACT = ToolFact(tool_id="tool_1", type="disclosure-played", at=T0)


def seen(phase: Phase, *, execution_id: str = "ex-1") -> Snapshot:
    return replace(a_snapshot(phase, ref="boln_1", execution_id=execution_id), updated_at=T0 + timedelta(seconds=10))


PASTS: list[tuple[Learnt, ...]] = [
    (),
    (Answered(1, Unknown("500")),),
    (ACCEPTED,),
    (ACCEPTED, CancelWanted(T0)),
    (ACCEPTED, Heard(1, seen(Phase.IN_PROGRESS))),
    (ACCEPTED, Heard(1, seen(Phase.IN_PROGRESS)), Heard(1, seen(Phase.DISCONNECTED))),
    (ACCEPTED, Heard(1, seen(Phase.DISCONNECTED))),
    (ACCEPTED, Heard(1, seen(Phase.COMPLETED))),
]
SAID = [
    *(seen(phase, execution_id=id_) for phase in Phase for id_ in ("ex-1", "ex-2")),
    replace(seen(Phase.IN_PROGRESS), facts=(FACT,)),
]


def as_it_is(attempt: Attempt) -> Owner:
    return Owner(
        ref=attempt.ref,
        provider=attempt.provider,
        call_id=a_request().call_id,
        number=attempt.number,
        execution_id=attempt.execution_id,
        state=attempt.state,
        is_answered=attempt.started_at is not None,
        is_disconnected=attempt.disconnected_at is not None,
    )


@pytest.mark.parametrize(("past", "said"), list(itertools.product(PASTS, SAID)))
def test_the_short_way_leaves_out_only_what_the_long_one_would_not_have_done(
    past: tuple[Learnt, ...], said: Snapshot
) -> None:
    call = Call(request=a_request(requested_at=T0), state=CallState.QUEUED, next_at=T0)
    for learnt in (BEGUN, *past):
        call = fold(call, learnt, now=NOW, pace=PACE).call
    before = call.attempts[0]
    step = fold(call, Heard(1, said), now=NOW, pace=PACE)
    changed = replace(step.call.attempts[0], provider_status=before.provider_status)
    match weight(said, as_it_is(before)):
        case Weight.FOLD:
            return
        case Weight.NOTHING:
            expected = before
        case Weight.HINT:
            expected = replace(before, look_up_at=min(NOW, before.look_up_at))
    assert (changed, step.told, step.alarms) == (expected, (), ())
    assert replace(step.call, attempts=()) == replace(call, attempts=())


def test_most_of_a_calls_callbacks_take_the_short_way() -> None:
    owner = as_it_is(
        Attempt(
            number=1,
            ref="boln_1",
            provider="bolna",
            agent_id="a",
            state=AttemptState.ACCEPTED,
            asked_at=T0,
            look_up_at=NOW,
            execution_id="ex-1",
        )
    )
    weights = {phase: weight(seen(phase), owner) for phase in Phase}
    assert {phase for phase, its in weights.items() if its is Weight.FOLD} == {Phase.IN_PROGRESS, Phase.DISCONNECTED}
    assert weights[Phase.PENDING] is weights[Phase.UNHEARD_OF] is Weight.NOTHING
    assert weights[Phase.COMPLETED] is Weight.HINT


def a_body(status: str, ref: str, **more: object) -> bytes:
    told = {"id": f"ex-{ref}", "status": status, "context_details": {"recipient_data": {"cualify_ref": ref}}, **more}
    return orjson.dumps(told)


async def test_every_body_is_kept_and_a_hint_makes_the_look_up_due_even_when_it_is_repeated(
    dialer: Dialer, provider: ScriptedProvider
) -> None:
    request = a_request()
    await dialer.consume(request)
    await dialer.dial()
    ref = request.provider_call_id
    words = ("queued", "ringing", "quantum-leap", "in-progress", "in-progress", "call-disconnected")
    assert await dialer.hear(*(a_body(word, ref, n=n) for n, word in enumerate(words))) == [True] * len(words)
    assert await dialer.pool.fetchval("SELECT count(*) FROM provider_events WHERE call_id IS NOT NULL") == len(words)
    assert await dialer.names(request.call_id) == ["call.dialing", "call.provider_accepted", "call.in_progress"]
    assert await dialer.recover() == 0, "nothing is due"
    for _ in range(2):
        await dialer.hear(a_body("completed", ref))
        await dialer.recover()
        assert provider.looks.count(f"ex-{ref}") == 1 + _
    assert await dialer.pool.fetchval("SELECT count(*) FROM provider_events") == len(words) + 1


async def test_a_provider_speaks_only_of_its_own_attempts(make_dialer: Callable[..., Dialer]) -> None:
    """An account's token is known to whoever sets up agents there: it opens nobody else's calls."""
    dialer = make_dialer(ScriptedProvider(name="exotel", ref_prefix="exo"))
    request = a_request(provider="exotel")
    await dialer.consume(request)
    (asking,) = await dialer.dialing.claim(1)
    ref = asking.order.ref
    assert await dialer.hear(a_body("in-progress", ref), provider="bolna") == [False]
    assert await dialer.hear(a_body("in-progress", ref, n=2), provider="exotel") == [True]
    assert await dialer.hear(a_body("completed", ref, context_details=None), provider="bolna") == [False]
    assert await dialer.names(request.call_id) == ["call.dialing", "call.provider_accepted", "call.in_progress"]
