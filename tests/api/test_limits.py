"""GET /limits, /wallet and /agents: what an org may do, in numbers."""

from tests.api.world import World, life


async def test_limits_are_the_plans_and_say_what_is_used(world: World) -> None:
    org = await world.org()
    calls = [await world.placed(org) for _ in range(3)]
    await world.feed("call.events", life(org, calls[0])[0])
    data = (await world.ask("GET", "/api/v1/limits", headers=org.auth)).body["data"]
    assert data["plan"] == {"name": "growth", "active": True, "active_until": None}
    assert data["rate"] == {"requests": data["rate"]["requests"], "used": 4, "window_sec": 60}
    assert data["concurrent_calls"] == {"limit": 10, "used": 1, "waiting": 2}
    assert data["webhooks"] == {"limit": 20}


async def test_without_a_plan_no_call_is_possible(world: World) -> None:
    org = await world.bare_org()
    data = (await world.ask("GET", "/api/v1/limits", headers=org.auth)).body["data"]
    assert (data["plan"], data["concurrent_calls"]["limit"], data["rate"]["requests"]) == (None, 0, 120)


async def test_agents_are_listed_as_they_were_made(world: World) -> None:
    org = await world.bare_org()
    body = (await world.ask("GET", "/api/v1/agents", headers=org.auth)).body
    assert body["pagination"] == {"limit": 50, "offset": 0, "total": 1, "has_more": False}
    [agent] = body["data"]
    assert (agent["id"], agent["language"], agent["max_duration_sec"]) == (org.agent_id, "hi-IN", 300)
