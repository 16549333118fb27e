"""A call from the HTTP request to the verified webhook and the ledger, through real processes, Kafka and PostgreSQL."""

import asyncio
from typing import Any

import pytest

from cualify_local.environment import DIALER
from cualify_local.seed import seed
from tests.support.platform import TERMINAL, Platform, until


async def test_a_call_goes_from_request_to_webhook_and_ledger(cualify: Platform) -> None:
    placed = await cualify.place("+919990000142", metadata={"crm_lead_id": "L-7890"})
    assert placed["status"] == "queued"
    assert placed["provider_call_id"] == "boln_" + placed["id"].replace("-", "")
    told = await webhooks_of(cualify, placed["id"], ending="call.completed")
    ended = await cualify.call(placed["id"])  # What the webhook told, transcript and recording with it, GET shows.
    assert (ended["status"], ended["duration_sec"], ended["credits_debited_paise"]) == ("completed", 142, 1420)
    assert ended["llm_extracted_intent"] == "demo_booked"
    assert ended["llm_sentiment"] == "positive"
    assert ended["transcript"]
    assert ended["recording_url"]
    timeline = [event["type"] for event in ended["events"]]
    assert timeline[:2] == ["queued", "dialing"]
    assert timeline[-1] == "completed"
    assert {"provider-accepted", "in_progress", "disclosure-played", "intent-detected"} <= set(timeline)
    assert await cualify.rings("+919990000142") == 1

    assert [body["type"] for body in told] == ["call.dialing", "call.in_progress", "call.completed"]
    assert [body["sequence"] for body in told] == [1, 2, 3]
    last = told[-1]["data"]
    assert last["credits_debited_paise"] == 1420
    assert last["metadata"] == {"crm_lead_id": "L-7890"}
    assert last == {name: value for name, value in ended.items() if name != "transcript"}

    [entry] = [e for e in (await cualify.get("/api/v1/ledger"))["data"] if e["call_id"] == placed["id"]]
    assert entry["transfer"] == f"debit:{placed['id']}"
    assert entry["amount_paise"] == -1420


@pytest.mark.parametrize(
    ("number", "status", "duration_sec", "reason"),
    [
        ("101", "busy", 0, "busy"),
        ("102", "no_answer", 0, "no_answer"),
        ("103", "failed", 0, None),
        ("104", "failed", 0, "provider_refused"),
        ("105", "completed", 60, None),
        ("106", "completed", 60, None),
        ("107", "completed", 60, None),
        ("108", "completed", 60, None),
        ("109", "completed", 60, None),
        ("110", "completed", 5, None),
        ("111", "completed", 300, None),
        ("112", "completed", 90, None),
        ("113", "completed", 60, None),
        ("114", "completed", 60, None),
        ("115", "completed", 60, None),
        ("116", "failed", 0, "balance_low"),
        ("117", "completed", 60, None),
    ],
)
async def test_however_a_call_ends_it_ends_once_and_costs_what_was_talked(
    cualify: Platform, number: str, status: str, duration_sec: int, reason: str | None
) -> None:
    to_e164 = f"+919990000{number}"
    placed = await cualify.place(to_e164)
    ended = await cualify.until_settled(placed["id"])
    assert (ended["status"], ended["duration_sec"] or 0) == (status, duration_sec)
    assert ended["credits_debited_paise"] == duration_sec * 10
    if reason is not None:
        assert ended["ended_reason"] == reason
    assert [event["type"] for event in ended["events"] if event["type"] in TERMINAL] == [status]
    assert await cualify.rings(to_e164) == (0 if reason in ("provider_refused", "balance_low") else 1)
    ending = "call.completed" if status == "completed" else "call.failed"
    told = await webhooks_of(cualify, placed["id"], ending=ending)
    assert [body["type"] for body in told].count(ending) == 1


async def test_a_thousand_requests_on_a_wallet_for_ten_calls(cualify: Platform) -> None:
    org = await seed(cualify.stack, org_name="Ten calls", top_up_paise=10 * 300 * 10)

    async def ask(n: int) -> tuple[int, dict[str, Any]]:
        body = {"agent_id": org.agent_id, "to_e164": f"+9199910{n:05d}", "max_duration_sec": 300}
        return await cualify.post("/api/v1/calls", body, key=org.api_key)

    await cualify.stack.stop(DIALER)  # no call ends, and so gives its hold back, while the requests come in
    answers = await asyncio.gather(*(ask(n) for n in range(1000)))
    cualify.stack.resume(DIALER)
    accepted = [answer["data"]["id"] for status, answer in answers if status == 201]
    refused = [answer["error"]["code"] for status, answer in answers if status == 402]
    assert len(accepted) == 10
    assert refused == ["insufficient_credits"] * 990

    calls = [await cualify.until_settled(call_id, key=org.api_key) for call_id in accepted]
    spent = sum(call["credits_debited_paise"] for call in calls)
    assert spent == sum(call["duration_sec"] for call in calls) * 10
    wallet = (await cualify.get("/api/v1/wallet", key=org.api_key))["data"]
    assert (wallet["balance_paise"], wallet["held_paise"]) == (30_000 - spent, 0)
    entries = (await cualify.get("/api/v1/ledger?limit=50", key=org.api_key))["data"]
    assert sum(entry["amount_paise"] for entry in entries) == 30_000 - spent
    assert len([entry for entry in entries if entry["call_id"]]) == 10


async def webhooks_of(cualify: Platform, call_id: str, *, ending: str) -> list[dict[str, Any]]:
    """The verified bodies about a call, in order of arrival, once the last has come."""

    async def look() -> list[dict[str, Any]] | None:
        bodies = [received.body for received in cualify.receiver.received if received.call_id == call_id]
        return bodies if any(body["type"] == ending for body in bodies) else None

    found: list[dict[str, Any]] = await until(look, f"webhook {ending} of {call_id}")
    return found
