"""Keys that may do less, end by themselves, or only try things out; and their end on every replica."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from cualify_api.app import make_app, workings
from cualify_api.keys import queries
from cualify_api.web import auth, scopes
from cualify_shared.clock import now, rfc3339
from cualify_shared.events.call import CallRequested
from cualify_shared.events.envelope import decode
from tests.api.world import Org, World, debited, life, running, settings


async def key_of(world: World, org: Org, **body: Any) -> Org:
    """The same org by another key."""
    return Org(org.id, org.agent_id, (await world.admin("POST", f"/orgs/{org.id}/keys", body))["key"])


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/api/v1/calls", "calls:write"),
        ("GET", "/api/v1/calls", "calls:read"),
        ("GET", "/api/v1/calls/01930a4e-7c1b-7d2a-9c3e-0a1b2c3d4e5f", "calls:read"),
        ("POST", "/api/v1/calls/01930a4e-7c1b-7d2a-9c3e-0a1b2c3d4e5f/cancel", "calls:write"),
        ("GET", "/api/v1/agents", "calls:read"),
        ("POST", "/api/v1/contacts", "contacts:write"),
        ("GET", "/api/v1/contacts", "contacts:read"),
        ("POST", "/api/v1/webhooks", "webhooks:write"),
        ("DELETE", "/api/v1/webhooks/01930a4e-7c1b-7d2a-9c3e-0a1b2c3d4e5f", "webhooks:write"),
        ("GET", "/api/v1/webhooks", "webhooks:read"),
        ("GET", "/api/v1/wallet", "wallet:read"),
        ("GET", "/api/v1/ledger", "wallet:read"),
        ("POST", "/api/v1/wallet/top-ups", "wallet:write"),
        ("GET", "/api/v1/events", "events:read"),
    ],
)
async def test_a_key_without_the_scope_is_forbidden_and_told_which(
    lasting: World, caller: Org, method: str, path: str, scope: str
) -> None:
    lacking = await key_of(lasting, caller, scopes=[one for one in scopes.SCOPES if one != scope])
    answer = await lasting.ask(method, path, headers=lacking.auth)
    error = answer.body["error"]
    assert (answer.status, error["code"], error["details"]["missing_scope"]) == (403, "forbidden", scope)
    having = await key_of(lasting, caller, scopes=[scope])
    assert (await lasting.ask(method, path, headers=having.auth)).status != 403


def test_every_route_of_customers_belongs_to_an_area() -> None:
    """A route that is added later is not open to every key by oversight."""
    pool: Any = None
    app = make_app(settings(), pool, workings(settings(), pool, committed=lambda: None))
    routers = [getattr(route, "original_router", None) for route in app.routes]
    inside = [route for router in routers if router is not None for route in router.routes]
    paths = {getattr(route, "path", "") for route in (*app.routes, *inside)}
    areas = {path.split("/")[3] for path in paths if path.startswith("/api/v1/")}
    assert {"calls", "webhooks", "wallet", "agents"} <= areas
    assert areas <= set(scopes.AREAS)


async def test_scopes_and_expiry_are_shown_and_what_is_not_known_is_refused(lasting: World, caller: Org) -> None:
    until = rfc3339(now() + timedelta(days=30))
    body = {"scopes": ["calls:read", "calls:read"], "expires_at": until, "mode": "test", "name": "CRM"}
    made = await lasting.admin("POST", f"/orgs/{caller.id}/keys", body)
    assert (made["scopes"], made["expires_at"], made["mode"]) == (["calls:read"], until, "test")
    listed = {one["prefix"]: one for one in await lasting.admin("GET", f"/orgs/{caller.id}/keys")}
    shown = listed[made["prefix"]]
    assert (shown["scopes"], shown["expires_at"], shown["mode"]) == (["calls:read"], until, "test")
    assert shown["key"] == f"cuk_test_{made['prefix']}_…"
    refused: list[dict[str, Any]] = [{"scopes": ["calls:fly"]}, {"scopes": []}, {"mode": "x"}]
    refused.append({"expires_at": "2020-01-01T00:00:00Z"})
    for wrong in refused:
        answer = await lasting.ask(
            "POST", f"/admin/v1/orgs/{caller.id}/keys", json=wrong, headers={"Authorization": "Bearer admin-token"}
        )
        assert answer.status == 400


async def test_a_key_ends_by_itself_also_where_it_is_remembered(world: World) -> None:
    org = await world.bare_org()
    brief = await key_of(world, org, expires_at=rfc3339(now() + timedelta(seconds=0.6)))
    assert (await world.ask("GET", "/api/v1/wallet", headers=brief.auth)).status == 200
    await asyncio.sleep(0.7)
    assert (await world.ask("GET", "/api/v1/wallet", headers=brief.auth)).status == 401


async def test_a_revoked_key_is_refused_here_at_once_and_on_a_replica_in_time(world: World) -> None:
    org = await world.org()
    async with running(world.pool) as twin:
        assert (await twin.ask("GET", "/api/v1/wallet", headers=org.auth)).status == 200
        await world.admin("DELETE", f"/keys/{org.key.split('_')[2]}")
        assert (await world.place(org)).status == 401
        twin.keys.clock = lambda: time.monotonic() + auth.FRESH_SEC
        assert (await twin.place(org)).status == 401
        assert (await twin.ask("GET", "/api/v1/wallet", headers=org.auth)).status == 401
    assert auth.FRESH_SEC < 30


async def test_without_the_database_a_remembered_key_opens_nothing_after_that_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    org = await world.org()
    assert (await world.ask("GET", "/api/v1/wallet", headers=org.auth)).status == 200

    async def away(*_: object) -> None:
        raise asyncpg.CannotConnectNowError("the database system is starting up")

    monkeypatch.setattr(queries, "find", away)
    assert (await world.ask("GET", "/api/v1/wallet", headers=org.auth)).status == 200
    world.keys.clock = lambda: time.monotonic() + auth.FRESH_SEC
    answer = await world.ask("GET", "/api/v1/wallet", headers=org.auth)
    assert (answer.status, answer.body["error"]["code"]) == (503, "internal_error")
    assert answer.headers["Retry-After"] == "1"
    monkeypatch.undo()
    assert (await world.ask("GET", "/api/v1/wallet", headers=org.auth)).status == 200


async def test_when_keys_were_used_is_noted_for_all_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    orgs = [await world.bare_org() for _ in range(3)]
    for org in orgs:
        await world.ask("GET", "/api/v1/wallet", headers=org.auth)
        await world.ask("GET", "/api/v1/wallet", headers=org.auth)
    assert await world.pool.fetchval("SELECT count(last_used_at) FROM api_keys") == 0
    noted: list[int] = []
    note_use = queries.note_use

    async def counted(pool: Any, used: Any) -> None:
        noted.append(len(used))
        await note_use(pool, used)

    monkeypatch.setattr(queries, "note_use", counted)
    await world.keys.note_use_once()
    await world.keys.note_use_once()
    assert noted == [3]
    assert await world.pool.fetchval("SELECT count(last_used_at) FROM api_keys") == 3


async def test_a_test_keys_call_costs_nothing_and_says_what_it_is(world: World) -> None:
    org = await world.org(granted_paise=0)
    trying = await key_of(world, org, mode="test")
    answer = await world.place(trying)
    assert (answer.status, answer.body["data"]["test"], answer.body["data"]["hold_paise"]) == (201, True, 0)
    payload = await world.pool.fetchval("SELECT payload FROM outbox")
    said = decode(payload).data
    assert isinstance(said, CallRequested)
    assert (said.test, said.terms.rate_paise_per_sec, said.terms.hold_paise) == (True, 0, 0)
    assert (await world.place(org)).status == 402, "the live key still needs money"


async def test_a_test_key_needs_no_plan_and_a_live_calls_request_is_no_test(world: World) -> None:
    bare = await world.bare_org()
    trying = await key_of(world, bare, mode="test")
    assert (await world.place(trying)).status == 201
    assert (await world.place(bare)).status == 403
    org = await world.org()
    await world.placed(org)
    said = decode(await world.pool.fetchval("SELECT payload FROM outbox ORDER BY id DESC LIMIT 1")).data
    assert isinstance(said, CallRequested)
    assert said.test is False


async def test_a_test_call_lives_and_ends_without_touching_the_wallet(world: World) -> None:
    org = await world.org(granted_paise=1000)
    trying = await key_of(world, org, mode="test")
    call_id = await world.placed(trying)
    await world.feed_all([*life(org, call_id, artifacts=()), debited(org, call_id, 0)])
    shown = await world.call(org, call_id)
    assert (shown["status"], shown["credits_debited_paise"], shown["test"]) == ("completed", 0, True)
    assert await world.wallet(org) == (1000, 0)


async def test_a_live_and_a_test_key_share_no_idempotency(world: World) -> None:
    org, same = await world.org(), {"Idempotency-Key": "k"}
    trying = await key_of(world, org, mode="test")
    assert (await world.place(trying, headers=same)).status == 201
    assert (await world.place(org, headers=same)).status == 409


async def test_a_test_keys_secret_in_a_live_keys_form_is_no_key(world: World) -> None:
    org = await world.bare_org()
    trying = await key_of(world, org, mode="test")
    disguised = trying.key.replace("cuk_test_", "cuk_live_")
    answer = await world.ask("GET", "/api/v1/wallet", headers={"Authorization": f"Bearer {disguised}"})
    assert answer.status == 401
