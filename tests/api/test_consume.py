"""What Kafka brings: any order ends the same, a repeat changes nothing, and nobody hears what GET doesn't show."""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import pytest

from cualify_api.consume import UnknownCall, UnknownOrg, reads
from cualify_shared import dead_letters
from cualify_shared.events import Event
from cualify_shared.events.envelope import encode, headers
from cualify_shared.ids import new_id
from cualify_shared.reads import Reader
from tests.api.world import Org, World, credited, debited, failed, left_behind, life, plan

Streams: TypeAlias = Sequence[Sequence[Event]]
Order: TypeAlias = Callable[[Streams], Iterable[Event]]


async def test_a_call_that_went_well_is_shown_whole(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    await world.feed_all([*life(org, call_id), *left_behind(org, call_id), debited(org, call_id, 1420)])
    shown = await world.call(org, call_id)
    assert (
        shown
        | {
            "status": "completed",
            "duration_sec": 142,
            "credits_debited_paise": 1420,
            "recording_url": "https://recordings.example/1",
            "llm_extracted_intent": "demo_booked",
            "llm_sentiment": "positive",
            "llm_outcome": "demo_scheduled_2026_06_03",
            "provider_execution_id": "exec-1",
            "ended_by": "agent",
            "answered_by": "human",
        }
        == shown
    )
    assert [turn["text"] for turn in shown["transcript"]] == ["Namaste!", "Ji."]
    assert sorted(line["type"] for line in shown["events"]) == sorted(
        ["queued", "dialing", "provider-accepted", "in_progress", "disclosure-played", "intent-detected", "completed"]
    )
    assert await world.wallet(org) == (10_000_000 - 1420, 0)


async def test_each_status_is_told_once_as_get_shows_it(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    for event in [*life(org, call_id), *left_behind(org, call_id), debited(org, call_id, 1420)]:
        before = len(await world.told(call_id))
        await world.feed(event.type.topic.name, event)
        shown = await world.call(org, call_id)
        for _, data in (await world.told(call_id))[before:]:
            assert data == {name: value for name, value in shown.items() if name != "transcript"}
    assert [name for name, _ in await world.told(call_id)] == ["call.dialing", "call.in_progress", "call.completed"]
    said = await world.pool.fetch("SELECT topic, key FROM outbox ORDER BY id")
    assert [row["topic"] for row in said] == ["call.requests"] + ["customer.events"] * 3
    assert {row["key"] for row in said} == {str(call_id)}


async def test_any_order_of_the_topics_ends_the_same(world: World) -> None:
    orders = list(itertools.permutations(range(3)))
    ends = [await _end_of(world, partial(_one_after_another, order=order)) for order in orders]
    ends += [await _end_of(world, partial(_shuffled, seed=seed)) for seed in range(20)]
    assert all(end == ends[0] for end in ends)
    names, wallet, _ = ends[0]
    assert (names, wallet) == (["call.dialing", "call.in_progress", "call.completed"], (10_000_000 - 1420, 0))


async def _end_of(world: World, order: Order) -> tuple[list[str], tuple[int, int], dict[str, Any]]:
    org = await world.org()
    call_id = await world.placed(org)
    await world.feed_all(list(order([life(org, call_id), left_behind(org, call_id), [debited(org, call_id, 1420)]])))
    shown = await world.call(org, call_id)
    for name in ("id", "agent_id", "provider_call_id", "created_at", "schedule"):
        shown.pop(name)
    shown["events"] = [line for line in shown["events"] if line["type"] not in ("queued", "dialing")]
    return [name for name, _ in await world.told(call_id)], await world.wallet(org), shown


def _one_after_another(streams: Streams, order: tuple[int, ...]) -> list[Event]:
    return [event for n in order for event in streams[n]]


def _shuffled(streams: Streams, seed: int) -> Iterator[Event]:
    """One interleaving; each topic keeps its own order."""
    chance, waiting = random.Random(seed), [list(stream) for stream in streams]
    while any(waiting):
        yield chance.choice([stream for stream in waiting if stream]).pop(0)


async def test_replaying_every_topic_changes_nothing(world: World) -> None:
    org = await world.org(granted_paise=0)
    money = [credited(org, 1_000_000), plan(org)]
    await world.feed_all(money)
    done, busy, live = [await world.placed(org) for _ in range(3)]
    ended = [
        *life(org, done),
        *left_behind(org, done),
        debited(org, done, 1420),
        failed(org, busy),
        debited(org, busy, 0),
    ]
    events = [*money, *ended, *life(org, live)[:2]]
    await world.feed_all(events)
    before = await world.dump()
    await world.feed_all(events)
    for topic in ("call.events", "call.artifacts", "wallet.events"):
        await world.feed(topic, *(event for event in events if event.type.topic.name == topic))
    assert await world.dump() == before


async def test_a_batch_ends_like_its_events_one_by_one(world: World) -> None:
    org = await world.org()
    calls = [await world.placed(org) for _ in range(50)]
    await world.feed("wallet.events", *(debited(org, call_id, 1420) for call_id in calls))
    await world.feed("call.artifacts", *(event for call_id in calls for event in left_behind(org, call_id)))
    await world.feed("call.events", *(event for call_id in calls for event in life(org, call_id)))
    assert await world.wallet(org) == (10_000_000 - 50 * 1420, 0)
    for call_id in calls:
        assert [name for name, _ in await world.told(call_id)] == ["call.dialing", "call.in_progress", "call.completed"]


async def test_what_comes_in_one_batch_is_told_step_by_step_with_the_timeline_up_to_each(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    first, *rest = life(org, call_id, artifacts=())
    await world.feed("call.events", first)
    await world.feed("call.events", first, *rest, *rest)
    await world.feed("wallet.events", debited(org, call_id, 1420))
    lines = [
        "queued",
        "dialing",
        "provider-accepted",
        "in_progress",
        "disclosure-played",
        "intent-detected",
        "completed",
    ]
    told = [sorted(line["type"] for line in data["events"]) for _, data in await world.told(call_id)]
    assert told == [sorted(lines[:2]), sorted(lines[:4]), sorted(lines)]
    assert (await world.told(call_id))[-1][1]["events"] == (await world.call(org, call_id))["events"]


async def test_a_failed_call_costs_nothing_and_gives_its_hold_back(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    await world.feed("call.events", failed(org, call_id, status="no_answer"))
    assert await world.wallet(org) == (10_000_000, 3000)
    assert await world.told(call_id) == []
    await world.feed("wallet.events", debited(org, call_id, 0))
    assert await world.wallet(org) == (10_000_000, 0)
    [(name, data)] = await world.told(call_id)
    assert (name, data["status"], data["credits_debited_paise"]) == ("call.failed", "no_answer", 0)


async def test_an_incomplete_picture_is_told_late_and_the_rest_follows(world: World) -> None:
    org = await world.org()
    call_id = await world.placed(org)
    await world.feed("call.events", *life(org, call_id))
    assert await world.late.tell_once() == 1
    assert await world.late.tell_once() == 0
    late = (await world.told(call_id))[-1][1]
    assert (late["credits_debited_paise"], len(late["events"])) == (None, 7)
    await world.feed("wallet.events", debited(org, call_id, 1420))
    await world.feed_all(left_behind(org, call_id))
    told = await world.told(call_id)
    assert [name for name, _ in told][2:] == ["call.completed", "call.billed", "call.artifacts_ready"]
    assert (told[3][1]["credits_debited_paise"], told[3][1]["recording_url"]) == (1420, None)
    assert told[4][1]["recording_url"] == "https://recordings.example/1"


async def test_a_call_that_was_never_placed_goes_to_the_dead_letters_alone(world: World) -> None:
    org = await world.org()
    call_id, stranger = await world.placed(org), new_id()
    with pytest.raises(UnknownCall):
        await world.feed("call.events", *life(org, stranger))
    with pytest.raises(UnknownOrg):
        await world.feed("wallet.events", credited(Org(new_id(), "", ""), 5))
    read = next(read for read in reads() if read.topic.name == "call.events")
    reader = Reader(read, pool=world.pool, stop=asyncio.Event(), committed=lambda: None)
    mixed = [life(org, call_id)[0], failed(org, stranger), failed(org, call_id)]
    values = [encode(event) for event in mixed]
    await reader.handle(
        [dead_letters.Record("call.events", 0, n, None, value, tuple(headers(value))) for n, value in enumerate(values)]
    )
    assert (await world.call(org, call_id))["status"] == "busy"
    parked = await world.pool.fetch('SELECT "offset", error FROM dead_letters')
    assert [row["offset"] for row in parked] == [1]
    assert "UnknownCall" in parked[0]["error"]


async def test_an_event_about_anothers_call_is_refused(world: World) -> None:
    org, other = await world.org(), await world.org()
    call_id = await world.placed(org)
    with pytest.raises(UnknownCall):
        await world.feed("wallet.events", debited(other, call_id, 100))
    assert await world.wallet(other) == (10_000_000, 0)


async def test_the_newest_plan_wins(world: World) -> None:
    org = await world.bare_org()
    newer, older = plan(org, rate_paise_per_sec=20, sequence=7), plan(org, rate_paise_per_sec=5, sequence=6)
    await world.feed("wallet.events", newer)
    await world.feed("wallet.events", older)
    assert await world.pool.fetchval("SELECT rate_paise_per_sec FROM org_plans") == 20


async def test_lists_are_newest_first_with_exact_totals(world: World) -> None:
    org = await world.org()
    calls = [await world.placed(org) for _ in range(5)]
    await world.feed("call.events", failed(org, calls[0]), failed(org, calls[3]))

    async def page(query: str) -> tuple[list[str], dict[str, object]]:
        body = (await world.ask("GET", f"/api/v1/calls?{query}", headers=org.auth)).body
        published = ("limit", "offset", "total", "has_more")
        return [call["id"] for call in body["data"]], {name: body["pagination"][name] for name in published}

    newest = [str(call_id) for call_id in reversed(calls)]
    assert await page("") == (newest, {"limit": 50, "offset": 0, "total": 5, "has_more": False})
    assert await page("limit=2&offset=1") == (newest[1:3], {"limit": 2, "offset": 1, "total": 5, "has_more": True})
    assert await page("status=busy") == (
        [str(calls[3]), str(calls[0])],
        {"limit": 50, "offset": 0, "total": 2, "has_more": False},
    )
    assert (await page("status=queued"))[1]["total"] == 3
    assert (await page("offset=50"))[0] == []
