"""A call whose callee does not answer is rung again, where its request asks for that: one call, one end, one debit."""

from typing import Any

from cualify_local.environment import DIALER, SIMULATOR
from tests.support.platform import Platform, until

CALLEE = "+919812340030"
TALKED_SEC = 60
RETRY = {"max_attempts": 2, "on": ["no_answer"], "intervals_min": [20]}
WAITS = "SELECT count(*) FROM dial_jobs WHERE call_id = $1 AND state = 'queued' AND next_at > now() + interval '15 min'"
TWENTY_MINUTES_PASS = "UPDATE dial_jobs SET next_at = next_at - interval '20 min' WHERE call_id = $1"


async def nobody_answers(cualify: Platform, share: float) -> None:
    """From now on that share of the simulator's callees lets it ring."""
    url = f"{cualify.stack.addresses.url(SIMULATOR)}/admin/faults"
    async with cualify.http.put(url, json={"no_answer": share} if share else {}) as answer:
        assert answer.status == 200


async def test_who_does_not_answer_is_rung_again_and_the_call_ends_once(cualify: Platform) -> None:
    await nobody_answers(cualify, 1)
    placed = await cualify.place(CALLEE, retry=RETRY)

    async def rung_in_vain() -> bool:
        [[waits]] = await cualify.query(DIALER, WAITS, placed["id"])
        return bool(waits)

    await until(rung_in_vain, "the first ring was in vain, the next one is due in twenty minutes")
    await nobody_answers(cualify, 0)
    assert await cualify.rings(CALLEE) == 1
    waiting = await until_scheduled(cualify, placed["id"])
    assert [event["type"] for event in waiting["events"]][-1] == "retry-scheduled"
    assert (waiting["ended_at"], waiting["credits_debited_paise"]) == (None, None)
    assert waiting["hold_paise"] == placed["hold_paise"]

    await cualify.query(DIALER, TWENTY_MINUTES_PASS, placed["id"])
    ended = await cualify.until_settled(placed["id"])
    assert (ended["status"], ended["duration_sec"]) == ("completed", TALKED_SEC)
    assert ended["credits_debited_paise"] == TALKED_SEC * 10
    assert ended["provider_call_id"] == placed["provider_call_id"] + "_2"
    assert await cualify.rings(CALLEE) == 2
    assert [event["data"]["attempt"] for event in ended["events"] if event["type"] == "dialing"] == [1, 2]

    told = ["call.dialing", "call.dialing", "call.in_progress", "call.completed"]
    assert await told_in_the_end(cualify, placed["id"]) == told
    assert await debits(cualify, placed["id"]) == [-TALKED_SEC * 10]


async def test_who_never_answers_is_rung_as_often_as_was_asked_for_and_the_call_costs_nothing(
    cualify: Platform,
) -> None:
    callee = "+919812340031"
    await nobody_answers(cualify, 1)
    placed = await cualify.place(callee, retry=RETRY)
    await until_scheduled(cualify, placed["id"])
    await cualify.query(DIALER, TWENTY_MINUTES_PASS, placed["id"])
    ended = await cualify.until_settled(placed["id"])
    await nobody_answers(cualify, 0)
    assert (ended["status"], ended["credits_debited_paise"]) == ("no_answer", 0)
    assert await cualify.rings(callee) == 2
    assert await told_in_the_end(cualify, placed["id"]) == ["call.dialing", "call.dialing", "call.failed"]
    assert sum(await debits(cualify, placed["id"])) == 0


async def until_scheduled(cualify: Platform, call_id: str) -> dict[str, Any]:
    """The call as GET shows it between two rings."""

    async def look() -> dict[str, Any] | None:
        shown = await cualify.call(call_id)
        return shown if shown["status"] == "scheduled" and shown["next_attempt_at"] else None

    waiting: dict[str, Any] = await until(look, "the call waits for its next ring")
    return waiting


async def told_in_the_end(cualify: Platform, call_id: str) -> list[str]:
    """The types of all verified webhooks about a call, once nothing is under way any more."""
    await cualify.until_quiet()

    async def look() -> bool:
        bodies = [received.body for received in cualify.receiver.received if received.call_id == call_id]
        return any(body["type"] in ("call.completed", "call.failed") for body in bodies)

    await until(look, "the end is told")
    return [received.body["type"] for received in cualify.receiver.received if received.call_id == call_id]


async def debits(cualify: Platform, call_id: str) -> list[int]:
    entries = (await cualify.get("/api/v1/ledger"))["data"]
    return [entry["amount_paise"] for entry in entries if entry["call_id"] == call_id]
