"""The breaker and the lanes, decided on a clock that the test holds."""

from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest

from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import breaker
from cualify_webhook_dispatcher.breaker import Health
from cualify_webhook_dispatcher.decide import decide
from cualify_webhook_dispatcher.jobs import Endpoint, Job, Result
from cualify_webhook_dispatcher.lanes import FIRST_LINES, MOST_LINES, SLOW, SLOW_AFTER_SEC, Flight, Lanes
from tests.webhook_dispatcher.conftest import AT

SEC = timedelta(seconds=1)


def failed(
    health: Health, code: str = "http_5xx", *, after: timedelta = timedelta(), probe: bool | None = None
) -> Health:
    now = AT + after
    as_probe = health.is_open if probe is None else probe
    return breaker.after(health, failure_code=code, asked_sec=None, probe=as_probe, began_at=now, now=now)


def opened() -> Health:
    health = Health()
    for _ in range(breaker.OPENS_AFTER):
        health = failed(health)
    return health


def test_five_failures_in_a_row_open_the_breaker_and_a_success_between_starts_the_count_anew() -> None:
    health = Health()
    for _ in range(4):
        health = failed(health, "timeout_headers")
    health = breaker.after(health, failure_code=None, asked_sec=None, probe=False, began_at=AT, now=AT)
    assert health == Health()
    for _ in range(4):
        health = failed(health, "connect_refused")
    assert not health.is_open
    assert failed(health).is_open


def test_an_answer_that_refuses_does_not_open_it() -> None:
    health = Health()
    for code in ("http_4xx", "redirect", "http_429") * 5:
        health = failed(health, code)
    assert not health.is_open
    assert health.failing_since == AT


def test_probes_go_at_10_s_30_s_1_min_2_min_and_then_every_5_min() -> None:
    health, at, waits = opened(), timedelta(), []
    for _ in range(8):
        assert health.not_before is not None
        waits.append((health.not_before - AT - at).total_seconds())
        at = health.not_before - AT
        health = failed(health, after=at)
    assert waits == [10, 30, 60, 120, 300, 300, 300, 300]


def test_a_dead_endpoint_costs_at_most_13_requests_an_hour() -> None:
    """Whatever there is to send: while it is open nothing goes but the probe that is due."""
    health, probes = opened(), []
    while (at := health.not_before) is not None and at < AT + timedelta(hours=72):
        probes.append(at - AT)
        health = failed(health, after=at - AT)
    for hour in range(1, 71):
        for minute in range(0, 60, 5):
            begins = timedelta(hours=hour, minutes=minute)
            assert len([at for at in probes if begins <= at < begins + timedelta(hours=1)]) <= 13
    first_hour = [at for at in probes if at < timedelta(hours=1)]
    assert len(first_hour) == 15, "10 s, 30 s, 1 min and 2 min first, to be back soon"


def test_what_was_under_way_when_it_opened_is_no_probe() -> None:
    health = opened()
    assert failed(health, after=3 * SEC, probe=False).not_before == health.not_before


def test_the_first_success_closes_it_and_starts_slowly() -> None:
    health = breaker.after(
        opened(), failure_code=None, asked_sec=None, probe=False, began_at=AT + 10 * SEC, now=AT + 11 * SEC
    )
    assert health == Health(recovered_at=AT + 11 * SEC)


def test_after_72_hours_without_a_success_it_is_paused() -> None:
    health = failed(opened(), after=timedelta(hours=71, minutes=59))
    assert breaker.pauses(health, gone=False, now=AT + timedelta(hours=71, minutes=59)) is None
    assert breaker.pauses(health, gone=False, now=AT + timedelta(hours=72)) == "failing_for_72_h"
    assert breaker.pauses(Health(), gone=True, now=AT) == "gone"


def endpoint(org_id: UUID | None = None) -> Endpoint:
    return Endpoint(new_id(), org_id or new_id(), "https://x.example/", b"", "1")


def job(to: Endpoint, *, low: bool = False, burned: int = 0) -> Job:
    return Job(new_id(), "call.completed", b"{}", to.id, new_id(), burned, AT, False, low=low)


def result(
    to: Endpoint, code: str | None, status: int | None, *, asked_sec: float | None = None, burned: int = 0
) -> Result:
    return Result(job(to, burned=burned), to, AT, 1, status, code, asked_sec, None)


def test_nothing_burns_while_the_breaker_is_open() -> None:
    to = endpoint()
    decided = decide([result(to, "http_5xx", 500) for _ in range(8)], {to.id: Health()}, now=AT)
    assert [verdict.burned for verdict in decided.verdicts] == [True] * 5 + [False] * 3
    assert decided.healths[to.id].is_open
    last = decide([result(to, "http_5xx", 500, burned=9)], decided.healths, now=AT)
    assert last.verdicts[0].state == "pending"


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_holds_the_whole_endpoint_in_full_up_to_a_day(status: int) -> None:
    to = endpoint()
    code = "http_429" if status == 429 else "http_5xx"
    decided = decide([result(to, code, status, asked_sec=7200)], {to.id: Health()}, now=AT)
    assert decided.healths[to.id].not_before == AT + timedelta(hours=2)
    assert not decided.verdicts[0].burned
    held = decide([result(to, None, 200)], decided.healths, now=AT + SEC).healths[to.id]
    assert held.not_before == AT + timedelta(hours=2), "an answer to what was under way changes nothing of it"
    week = decide([result(to, code, status, asked_sec=7 * 86_400)], {to.id: Health()}, now=AT)
    assert week.healths[to.id].not_before == AT + timedelta(days=1)


def begin_all(lanes: Lanes, at: float) -> list[Flight]:
    flights = []
    while (flight := lanes.next(at)) is not None:
        flights.append(flight)
    return flights


def filled(lanes: Lanes, to: Endpoint, count: int, at: float = 0.0) -> Endpoint:
    for _ in range(count):
        lanes.put(job(to), lanes.of(to, at=at))
    return to


def prove(lanes: Lanes, to: Endpoint, at: float = 0.0) -> None:
    filled(lanes, to, 1, at)
    for flight in begin_all(lanes, at):
        lanes.ended(flight, ok=True, down=False, at=at)
        lanes.let_go(flight.job)


def test_a_lane_begins_with_four_lines_and_grows_to_32() -> None:
    lanes, to, at = Lanes(slots=200), endpoint(), 0.0
    filled(lanes, to, 3000)
    seen = []
    for _ in range(60):
        flights = begin_all(lanes, at)
        seen.append(len(flights))
        at += 0.01
        for flight in flights:
            lanes.ended(flight, ok=True, down=False, at=at)
    assert seen[0] == FIRST_LINES
    assert max(seen) == seen[-1] == MOST_LINES
    assert seen == sorted(seen)


def test_failures_of_one_round_halve_the_lines_once() -> None:
    lanes, to = Lanes(slots=200), endpoint()
    prove(lanes, to)
    lane = lanes.of(to, at=0.0)
    lane.lines = 16
    filled(lanes, to, 100)
    for flight in begin_all(lanes, 1.0):
        lanes.ended(flight, ok=False, down=True, at=1.1)
    assert lane.lines == 8


def test_hanging_endpoints_hold_a_tenth_of_the_slots_and_leave_the_rest_free() -> None:
    lanes, at = Lanes(slots=100), 0.0
    good = endpoint()
    prove(lanes, good)
    hanging = [filled(lanes, endpoint(), 100) for _ in range(30)]
    for n in range(100):
        at = n * 0.2
        lanes.grow_old(at)
        begin_all(lanes, at)
    held = [lanes.get(to.id).flights for to in hanging]  # type: ignore[union-attr]
    assert lanes.under_way[SLOW] >= 10
    # However many hang, each was tried with a few requests once and never again while the slow share is full.
    assert max(map(len, held)) <= 2
    filled(lanes, good, 100)
    assert len([f for f in begin_all(lanes, at) if f.lane.endpoint is good]) == FIRST_LINES
    assert lanes.under_way[0] == FIRST_LINES


def test_an_endpoint_that_hung_gets_no_slot_while_its_share_is_full_and_is_trusted_after_a_quick_answer() -> None:
    lanes, to = Lanes(slots=10), endpoint()
    prove(lanes, to)
    filled(lanes, to, 10)
    flights = begin_all(lanes, 0.0)
    assert len(flights) == FIRST_LINES
    lanes.grow_old(SLOW_AFTER_SEC + 0.1)
    for flight in flights[:-1]:
        lanes.ended(flight, ok=False, down=True, at=2.0)
    assert begin_all(lanes, 2.0) == [], "the last one still holds the one slot for those that are slow"
    lanes.ended(flights[-1], ok=False, down=True, at=2.1)
    (one,) = begin_all(lanes, 2.1)
    lanes.ended(one, ok=True, down=False, at=2.2)
    following = begin_all(lanes, 2.2)
    assert following
    assert all(flight.share != SLOW for flight in following)


def test_orgs_take_turns_whatever_they_have_waiting() -> None:
    lanes, big, small = Lanes(slots=20), new_id(), new_id()
    many = [endpoint(big) for _ in range(19)]
    few = endpoint(small)
    for to in (*many, few):
        prove(lanes, to)
    for to in many:
        filled(lanes, to, 1000)
    filled(lanes, few, 1000)
    served: Counter[UUID] = Counter()
    under_way = begin_all(lanes, 1.0)
    assert sum(f.lane.endpoint.org_id == big for f in under_way) <= 10
    for n in range(400):
        flight = under_way.pop(0)
        lanes.ended(flight, ok=True, down=False, at=1.0 + n / 1000)
        served[flight.lane.endpoint.org_id] += 1
        under_way += begin_all(lanes, 1.0 + n / 1000)
    assert served[small] >= 0.35 * 400


def test_a_replay_goes_when_there_is_nothing_new_on_one_line() -> None:
    lanes, to = Lanes(slots=200), endpoint()
    prove(lanes, to)
    lane = lanes.of(to, at=0.0)
    for _ in range(5):
        lanes.put(job(to, low=True), lane)
    (only,) = begin_all(lanes, 0.0)
    lanes.put(job(to), lane)
    (new,) = begin_all(lanes, 0.0)
    assert (only.job.low, new.job.low) == (True, False)
