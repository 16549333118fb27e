"""The published overview, request by request and field by field: a client that was written from it alone works."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest_asyncio
from aiohttp import web

from cualify_shared.ids import new_id
from tests.api.world import Org, World, debited, failed, left_behind, life, plan, running

CALL_FIELDS = {
    "id", "status", "direction", "from_e164", "to_e164", "language", "duration_sec", "credits_debited_paise",
    "recording_url", "llm_extracted_intent", "llm_sentiment", "llm_outcome", "started_at", "ended_at", "created_at",
}  # fmt: skip


def is_instant(text: str) -> bool:
    return text.endswith("Z") and datetime.fromisoformat(text).tzinfo == UTC


async def completed(world: World, org: Org) -> UUID:
    """The overview's call, talked through to the end."""
    call_id = await world.placed(org, metadata={"crm_lead_id": "L-7890"})
    await world.feed_all([*life(org, call_id), *left_behind(org, call_id), debited(org, call_id, 1420)])
    return call_id


async def test_post_calls(world: World) -> None:
    org = await world.org()
    body = {
        "agent_id": org.agent_id,
        "to_e164": "+919812345678",
        "from_e164": "+918012345678",
        "language": "hi-IN",
        "max_duration_sec": 300,
        "metadata": {"crm_lead_id": "L-7890"},
    }
    answer = await world.ask("POST", "/api/v1/calls", json=body, headers=org.auth)
    assert (answer.status, set(answer.body)) == (201, {"data"})
    data = answer.body["data"]
    assert UUID(data["id"])
    assert {name: data[name] for name in ("status", "agent_id", "to_e164", "provider")} == {
        "status": "queued",
        "agent_id": org.agent_id,
        "to_e164": "+919812345678",
        "provider": "bolna",
    }
    assert data["provider_call_id"].startswith("boln_")
    assert is_instant(data["created_at"])


async def test_the_quickstart(world: World) -> None:
    """The two curl commands: place with only the two required fields, then poll."""
    org = await world.org()
    sent = json.dumps({"agent_id": org.agent_id, "to_e164": "+919812345678"})
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-X", "POST", f"{world.url}/api/v1/calls"),
        *("-H", f"Authorization: Bearer {org.key}", "-H", "Content-Type: application/json", "-d", sent),
        stdout=asyncio.subprocess.PIPE,
    )
    placed = json.loads((await curl.communicate())[0])["data"]
    await world.feed_all([*life(org, UUID(placed["id"]), artifacts=()), debited(org, UUID(placed["id"]), 1420)])
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-sS", f"{world.url}/api/v1/calls/{placed['id']}", "-H", f"Authorization: Bearer {org.key}"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert json.loads((await curl.communicate())[0])["data"]["status"] == "completed"


async def test_get_calls(world: World) -> None:
    org = await world.org()
    ids = [str(await completed(world, org)) for _ in range(3)]
    await world.placed(org)
    answer = await world.ask("GET", "/api/v1/calls?limit=2&offset=0&status=completed", headers=org.auth)
    assert (answer.status, set(answer.body)) == (200, {"data", "pagination"})
    assert [call["id"] for call in answer.body["data"]] == ids[:0:-1]
    published = {"limit": 2, "offset": 0, "total": 3, "has_more": True}
    assert published.items() <= answer.body["pagination"].items()
    call = answer.body["data"][0]
    assert set(call) >= CALL_FIELDS
    expected = {
        "status": "completed",
        "direction": "outbound",
        "from_e164": "+918012345678",
        "to_e164": "+919812345678",
        "language": "hi-IN",
        "duration_sec": 142,
        "credits_debited_paise": 1420,
        "llm_extracted_intent": "demo_booked",
        "llm_sentiment": "positive",
        "llm_outcome": "demo_scheduled_2026_06_03",
    }
    assert expected.items() <= call.items()
    assert call["recording_url"].startswith("https://")
    assert all(is_instant(call[name]) for name in ("started_at", "ended_at", "created_at"))


async def test_limit_and_offset_have_the_published_defaults_and_bounds(world: World) -> None:
    org = await world.org()
    page = (await world.ask("GET", "/api/v1/calls", headers=org.auth)).body["pagination"]
    assert {"limit": 50, "offset": 0, "total": 0, "has_more": False}.items() <= page.items()
    assert (await world.ask("GET", "/api/v1/calls?limit=100", headers=org.auth)).status == 200
    for status in (
        "scheduled", "queued", "dialing", "in_progress", "completed", "failed", "no_answer", "busy", "canceled",
    ):  # fmt: skip
        assert (await world.ask("GET", f"/api/v1/calls?status={status}", headers=org.auth)).status == 200


async def test_get_one_call(world: World) -> None:
    org = await world.org()
    call_id = await completed(world, org)
    [listed] = (await world.ask("GET", "/api/v1/calls", headers=org.auth)).body["data"]
    shown = await world.call(org, call_id)
    assert listed.items() <= shown.items()
    assert [turn["role"] for turn in shown["transcript"]] == ["agent", "callee"]
    assert {"disclosure-played", "intent-detected"} <= {event["type"] for event in shown["events"]}


async def test_post_and_get_contacts(world: World) -> None:
    org = await world.bare_org()
    body = {
        "phone_e164": "+919812345678",
        "name": "Riya Sharma",
        "email": "riya@example.com",
        "language_pref": "hi-IN",
        "metadata": {"lead_source": "google_ads"},
        "consent_capture": "website_form",
    }
    answer = await world.ask("POST", "/api/v1/contacts", json=body, headers=org.auth)
    assert (answer.status, set(answer.body)) == (200, {"data"})
    data = answer.body["data"]
    assert (data["phone_e164"], data["name"], is_instant(data["updated_at"])) == ("+919812345678", "Riya Sharma", True)
    again = (await world.ask("POST", "/api/v1/contacts", json=body, headers=org.auth)).body["data"]
    assert again["id"] == data["id"], "idempotent on phone_e164"
    for consent, total in (("website_form", 1), ("pre_call", 0), ("manual", 0), ("imported", 0)):
        path = f"/api/v1/contacts?limit=50&offset=0&consent_capture={consent}"
        page = (await world.ask("GET", path, headers=org.auth)).body
        assert {"limit": 50, "offset": 0, "total": total, "has_more": False}.items() <= page["pagination"].items()
        assert len(page["data"]) == total


@pytest_asyncio.fixture(loop_scope="session")
async def dispatcher() -> AsyncIterator[str]:
    """Answers as the contract between the two services says."""
    shown = {
        "id": str(new_id()),
        "url": "https://your-app.com/cualify-webhook",
        "events": ["call.completed", "call.failed"],
        "active": True,
        "created_at": "2026-05-31T14:22:11.000Z",
    }

    async def answer(request: web.Request) -> web.Response:
        if request.method == "POST":
            assert await request.json() == {"url": shown["url"], "events": shown["events"]}
            return web.json_response({"data": shown, "secret": "ab" * 32}, status=201)
        if request.method == "DELETE":
            return web.json_response({"data": {"id": shown["id"], "deleted": True}})
        healthy = {"paused_reason": None, "failing_since": None, "is_open": False, "not_before": None}
        listed = shown | healthy | {"last_delivery_at": "2026-05-31T14:24:43.007Z", "last_status": 200}
        pagination = {"limit": 50, "offset": 0, "total": 1, "has_more": False}
        return web.json_response({"data": [listed], "pagination": pagination})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_webhooks_are_registered_listed_and_removed(world: World, dispatcher: str) -> None:
    org = await world.bare_org()
    async with running(world.pool, webhook_dispatcher_url=dispatcher) as there:
        there.documented = True
        body = {"url": "https://your-app.com/cualify-webhook", "events": ["call.completed", "call.failed"]}
        answer = await there.ask("POST", "/api/v1/webhooks", json=body, headers=org.auth)
        assert (answer.status, set(answer.body)) == (201, {"data", "secret"})
        assert set(answer.body["data"]) == {"id", "url", "events", "active", "created_at"}
        assert len(answer.body["secret"]) == 64
        [listed] = (await there.ask("GET", "/api/v1/webhooks", headers=org.auth)).body["data"]
        assert (listed["last_status"], is_instant(listed["last_delivery_at"])) == (200, True)
        path = f"/api/v1/webhooks/{answer.body['data']['id']}"
        assert (await there.ask("DELETE", path, headers=org.auth)).status == 200


async def test_every_refusal_has_the_published_shape(world: World) -> None:
    org, poor = await world.org(), await world.bare_org()
    wrong = await world.place(org, to_e164="9812345678")
    assert wrong.status == 400
    error = wrong.body["error"]
    assert error["code"] == "invalid_request"
    assert error["message"] == "to_e164 must be E.164 — e.g. +919812345678"
    assert error["param"] == "to_e164"
    assert error["details"] == {"formErrors": [], "fieldErrors": {"to_e164": [error["message"]]}}
    assert (await world.place(org, agent_id=str(new_id()))).body["error"]["code"] == "not_found"
    no_plan = (await world.place(poor)).body["error"]
    assert (no_plan["code"], no_plan["details"]["reason"]) == ("forbidden", "No active plan")
    broke = await world.org(granted_paise=10)
    assert (await world.place(broke)).body["error"]["code"] == "insufficient_credits"
    assert (await world.ask("GET", "/api/v1/webhooks", headers=org.auth)).body["error"]["code"] == "upstream_error"
    assert (await world.ask("GET", "/api/v1/calls")).body["error"]["code"] == "unauthorized"


async def test_every_unsuccessful_end_is_told_as_failed(world: World) -> None:
    org = await world.org()
    for status in ("failed", "no_answer", "busy", "canceled"):
        call_id = await world.placed(org)
        await world.feed("call.events", failed(org, call_id, status=status))
        await world.feed("wallet.events", debited(org, call_id, 0))
        assert [name for name, _ in await world.told(call_id)] == ["call.failed"]
        assert (await world.call(org, call_id))["status"] == status


async def test_the_limit_is_120_a_minute_and_says_when_to_come_back(world: World) -> None:
    org = await world.bare_org()
    await world.feed("wallet.events", plan(org, per_minute=120))
    answers = [await world.ask("GET", "/api/v1/wallet", headers=org.auth) for _ in range(121)]
    assert [answer.status for answer in answers] == [200] * 120 + [429]
    assert answers[-1].body["error"]["code"] == "too_many_requests"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= timedelta(minutes=1).total_seconds()
