"""API keys: shown once, kept as a keyed hash, void when revoked; and no org sees another's."""

import re
import time

from cualify_api.web import auth
from tests.api.world import World, running


async def test_a_key_is_shown_once_and_kept_as_a_hash(world: World) -> None:
    org = await world.bare_org()
    assert re.fullmatch(r"cuk_live_[A-Za-z0-9]{8}_[A-Za-z0-9]{32}", org.key)
    listed = await world.admin("GET", f"/orgs/{org.id}/keys")
    assert [one["key"] for one in listed] == [f"cuk_live_{org.key.split('_')[2]}_…"]
    assert org.key.split("_")[3] not in str(await world.dump())


async def test_a_wrong_secret_behind_a_right_prefix_is_refused(lasting: World) -> None:
    org = await lasting.bare_org()
    wrong = org.key[:-1] + ("a" if org.key[-1] != "a" else "b")
    assert (await lasting.ask("GET", "/api/v1/wallet", headers={"Authorization": f"Bearer {wrong}"})).status == 401


async def test_a_revoked_key_is_refused_at_once_where_it_was_revoked(lasting: World) -> None:
    org = await lasting.bare_org()
    assert (await lasting.ask("GET", "/api/v1/wallet", headers=org.auth)).status == 200
    await lasting.admin("DELETE", f"/keys/{org.key.split('_')[2]}")
    assert (await lasting.ask("GET", "/api/v1/wallet", headers=org.auth)).status == 401


async def test_a_replica_refuses_a_revoked_key_within_the_published_time(world: World) -> None:
    org = await world.bare_org()
    async with running(world.pool) as twin:
        assert (await twin.ask("GET", "/api/v1/wallet", headers=org.auth)).status == 200
        await world.admin("DELETE", f"/keys/{org.key.split('_')[2]}")
        twin.keys.clock = lambda: time.monotonic() + auth.FRESH_SEC
        assert (await twin.ask("GET", "/api/v1/wallet", headers=org.auth)).status == 401
    assert auth.FRESH_SEC <= 30


async def test_an_expired_key_is_refused(world: World) -> None:
    org = await world.bare_org()
    await world.pool.execute("UPDATE api_keys SET expires_at = now() - interval '1 second'")
    assert (await world.ask("GET", "/api/v1/wallet", headers=org.auth)).status == 401


async def test_unknown_keys_push_out_no_known_one(world: World) -> None:
    org = await world.bare_org()
    await world.ask("GET", "/api/v1/wallet", headers=org.auth)
    for n in range(30):
        await world.keys.caller(f"cuk_live_{n:08d}_{'x' * 32}")
    assert len(world.keys._known) == 1
    assert len(world.keys._unknown) == 30


async def test_no_org_sees_anothers_calls_agents_or_wallet(world: World) -> None:
    org, other = await world.org(), await world.org(granted_paise=5)
    call_id = await world.placed(org)
    assert (await world.ask("GET", f"/api/v1/calls/{call_id}", headers=other.auth)).status == 404
    assert (await world.ask("GET", "/api/v1/calls", headers=other.auth)).body["pagination"]["total"] == 0
    agents = (await world.ask("GET", "/api/v1/agents", headers=other.auth)).body["data"]
    assert [agent["id"] for agent in agents] == [other.agent_id]
    assert (await world.place(other, agent_id=org.agent_id)).status == 404
    assert await world.wallet(other) == (5, 0)
