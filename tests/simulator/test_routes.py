"""The Bolna routes beside the lives: keys, agents, lookups, lists, stopping, and the routes for tests."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cualify_simulator.agents import IST
from tests.simulator.world import World, simulated, until

NOBODY = "123e4567-e89b-42d3-a456-426614174000"
ROW = {"id", "status", "conversation_duration", "created_at", "telephony_data"}


def around_now(**beside: str) -> dict[str, str]:
    now = datetime.now(UTC)
    return {
        "from": (now - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "to": (now + timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **beside,
    }


async def listed(world: World, **beside: str) -> dict[str, Any]:
    status, body = await world.ask("GET", f"/v2/agent/{world.agent_id}/executions", params=around_now(**beside))
    assert status == 200
    return dict(body)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/call"),
        ("POST", f"/call/{NOBODY}/stop"),
        ("GET", f"/executions/{NOBODY}"),
        ("GET", f"/executions/{NOBODY}/log"),
        ("GET", f"/agent/{NOBODY}/execution/{NOBODY}"),
        ("GET", f"/v2/agent/{NOBODY}/executions"),
        ("POST", "/v2/agent"),
        ("GET", f"/v2/agent/{NOBODY}"),
        ("PATCH", f"/v2/agent/{NOBODY}"),
        ("GET", "/user/me"),
    ],
)
async def test_every_route_demands_the_key(method: str, path: str) -> None:
    async with simulated() as world:
        for key in ("Bearer bn-other", "bn-simulator", "", "Bearer bn-símulator"):
            answered = await world.ask(method, path, headers={"Authorization": key})
            assert answered == (403, {"detail": "Unrecognized access token"})
        assert len(await world.journal("refused")) == 4


async def test_what_is_not_there_is_404() -> None:
    async with simulated() as world:
        for path in (f"/executions/{NOBODY}", f"/v2/agent/{NOBODY}", f"/v2/agent/{NOBODY}/executions", "/nowhere"):
            assert (await world.ask("GET", path))[0] == 404
        assert (await world.ask("POST", f"/call/{NOBODY}/stop"))[0] == 404
        assert (await world.ask("GET", "/call"))[0] == 405


async def test_a_call_of_an_unknown_agent_is_refused_and_noted() -> None:
    async with simulated() as world:
        assert (await world.place("+919812345600", agent_id=NOBODY))[0] == 404
        (entry,) = await world.journal("refused")
        assert (entry["answer"], entry["to_e164"], entry["cualify_ref"]) == ("404", "+919812345600", "boln_1")
        assert await world.journal("create", "ring") == []


@pytest.mark.parametrize(
    ("change", "status"),
    [({"scheduled_at": "2030-01-01T00:00:00Z"}, 500), ({"recipient_phone_number": ""}, 400), ({"typo": 1}, 422)],
)
async def test_a_breach_of_the_protocol_is_noted_with_its_reason(change: dict[str, Any], status: int) -> None:
    async with simulated() as world:
        body = {"agent_id": world.agent_id, "recipient_phone_number": "+919812345600", **change}
        assert (await world.ask("POST", "/call", json=body))[0] == status
        (entry,) = await world.journal("refused")
        assert (entry["answer"], entry["reason"].startswith("POST /call: ")) == (str(status), True)
        assert await world.journal("create") == []


async def test_a_body_that_is_not_declared_json_is_refused() -> None:
    async with simulated() as world:
        raw = f'{{"agent_id":"{world.agent_id}","recipient_phone_number":"+919812345600"}}'
        assert (await world.ask("POST", "/call", data=raw, headers={"Content-Type": "text/plain"}))[0] == 422
        assert (await world.ask("POST", "/call", data="{", headers={"Content-Type": "application/json"}))[0] == 422
        assert (await world.ask("POST", "/call", json={"text": "x" * 2_000_000}))[0] == 413


async def test_an_agent_is_made_changed_and_read_back() -> None:
    async with simulated() as world:
        config = {"agent_name": "Ravi", "tasks": [{"task_config": {"call_terminate": 90, "auto_reschedule": False}}]}
        status, made = await world.ask("POST", "/v2/agent", json={"agent_config": config, "agent_prompts": {"a": 1}})
        assert status == 201
        path = f"/v2/agent/{made['agent_id']}"
        change = {"agent_config": {"webhook_url": "http://127.0.0.1:1/hook"}}
        assert (await world.ask("PATCH", path, json=change))[0] == 200
        status, agent = await world.ask("GET", path)
        assert status == 200
        assert (agent["id"], agent["agent_name"], agent["agent_prompts"]) == (made["agent_id"], "Ravi", {"a": 1})
        assert agent["webhook_url"] == "http://127.0.0.1:1/hook"
        assert agent["tasks"][0]["task_config"]["call_terminate"] == 90


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"agent_config": {}}, 400),
        ({"agent_config": {"agent_name": "x", "webhook_url": "ftp://host/"}}, 422),
        ({"agent_config": {"agent_name": "x"}, "task_config": {"call_terminate": 0}}, 422),
        ({"agent_config": {"agent_name": "x", "tasks": [{"task_config": {"call_terminate": "90"}}]}}, 422),
    ],
)
async def test_an_agent_that_makes_no_sense_is_refused(body: dict[str, Any], status: int) -> None:
    async with simulated() as world:
        assert (await world.ask("POST", "/v2/agent", json=body))[0] == status


async def test_an_agent_without_webhook_is_silent() -> None:
    async with simulated() as world:
        await world.ask("PATCH", f"/v2/agent/{world.agent_id}", json={"agent_config": {"webhook_url": None}})
        await world.placed("+919812345600")
        await world.until_noted("ended")
        assert await world.journal("callback") == []


async def test_the_agents_time_limit_caps_a_call() -> None:
    async with simulated() as world:
        change = {"agent_config": {"tasks": [{"task_config": {"call_terminate": 40.5}}]}}
        await world.ask("PATCH", f"/v2/agent/{world.agent_id}", json=change)
        execution_id = await world.placed("+919990000142")
        await world.receiver.until_status("completed")
        done = await world.execution(execution_id)
        assert (done["conversation_duration"], done["telephony_data"]["duration"]) == (40.5, "40")
        assert [log["arguments"]["type"] for log in done["tool_call_logs"]] == ["disclosure-played"]


async def test_an_execution_belongs_to_one_agent() -> None:
    async with simulated() as world:
        execution_id = await world.placed("+919812345600")
        other = await world.make_agent()
        status, body = await world.ask("GET", f"/agent/{world.agent_id}/execution/{execution_id}")
        assert (status, body["id"], body["agent_id"]) == (200, execution_id, world.agent_id)
        assert (await world.ask("GET", f"/agent/{other}/execution/{execution_id}"))[0] == 404


async def test_the_log_has_what_was_said_once_it_is_over() -> None:
    async with simulated() as world:
        execution_id = await world.placed("+919990000142")
        await world.receiver.until_status("completed")
        _, log = await world.ask("GET", f"/executions/{execution_id}/log")
        assert log["status"] == "completed"
        assert [line["component"] for line in log["data"][:2]] == ["llm", "transcriber"]


async def test_a_list_row_is_trimmed() -> None:
    async with simulated() as world:
        execution_id = await world.placed("+919990000142")
        await world.receiver.until_status("completed")
        page = await listed(world)
        (row,) = page["data"]
        assert set(row) == ROW
        assert (row["id"], row["status"], row["conversation_duration"]) == (execution_id, "completed", 142.0)
        assert set(row["telephony_data"]) == {"to_number", "from_number", "provider"}
        assert (page["page_number"], page["page_size"], page["total"], page["has_more"]) == (1, 20, 1, False)


async def test_a_queued_row_does_not_even_name_the_callee() -> None:
    async with simulated(simulator_speed=1) as world:
        await world.placed("+919812345600")
        (row,) = (await listed(world))["data"]
        assert (row["status"], row["telephony_data"]) == ("queued", None)


async def test_pages_hold_every_row_newest_first() -> None:
    async with simulated(simulator_speed=0.01) as world:
        made = [await world.placed("+919812345600", ref=f"boln_{number}") for number in range(7)]
        pages = [await listed(world, page_size="3", page_number=str(number)) for number in (1, 2, 3, 4)]
        assert [[row["id"] for row in page["data"]] for page in pages] == [
            made[:3:-1],
            made[3:0:-1],
            made[:1],
            [],
        ]
        assert [page["has_more"] for page in pages] == [True, True, False, False]
        assert {page["total"] for page in pages} == {7}


async def test_rows_move_between_pages_while_one_reads() -> None:
    async with simulated(simulator_speed=0.01) as world:
        first, second, third = [await world.placed("+919812345600", ref=f"boln_{number}") for number in range(3)]
        page = await listed(world, page_size="2")
        assert [row["id"] for row in page["data"]] == [third, second]
        await world.ask("POST", f"/call/{first}/stop")
        page = await listed(world, page_size="2", page_number="2")
        assert [row["id"] for row in page["data"]] == [second], "the one that was to come has gone to the first page"


async def test_a_call_outside_the_agents_hours_is_rescheduled_and_dialed_later() -> None:
    hour = datetime.now(IST).hour
    opening = (hour + 1) % 24
    closed = {"call_start_hour": opening, "call_end_hour": opening}
    async with simulated(simulator_speed=20_000) as world:
        await world.ask("PATCH", f"/v2/agent/{world.agent_id}", json={"agent_config": {"calling_guardrails": closed}})
        execution_id = await world.placed("+919990000101")
        await world.receiver.until_status("busy")
        assert "rescheduled" in world.receiver.statuses()
        assert [entry["execution_id"] for entry in await world.journal("ring")] == [execution_id]


async def test_a_rescheduled_call_can_be_stopped_and_the_hours_be_passed_over() -> None:
    closed = {"call_start_hour": 12, "call_end_hour": 12}
    async with simulated(simulator_speed=1) as world:
        await world.ask("PATCH", f"/v2/agent/{world.agent_id}", json={"agent_config": {"calling_guardrails": closed}})
        execution_id = await world.placed("+919990000101")
        shown = await world.execution(execution_id)
        assert (shown["status"], shown["initiated_at"]) == ("rescheduled", None)
        assert (await world.ask("POST", f"/call/{execution_id}/stop"))[0] == 200
        body = {"agent_id": world.agent_id, "recipient_phone_number": "+919990000101", "bypass_call_guardrails": True}
        _, placed = await world.ask("POST", "/call", json=body)
        assert (await world.execution(placed["execution_id"]))["status"] == "queued"


@pytest.mark.parametrize("guardrails", [[], {"call_start_hour": 9}, {"call_start_hour": 9, "call_end_hour": 24}])
async def test_hours_that_make_no_sense_are_refused(guardrails: object) -> None:
    async with simulated() as world:
        config = {"agent_name": "Asha", "calling_guardrails": guardrails}
        assert (await world.ask("POST", "/v2/agent", json={"agent_config": config}))[0] == 422


async def test_a_list_knows_only_its_agent_and_its_window() -> None:
    async with simulated(simulator_speed=1) as world:
        execution_id = await world.placed("+919812345600")
        created_at = datetime.fromisoformat((await world.execution(execution_id))["created_at"])
        path = f"/v2/agent/{world.agent_id}/executions"
        just, before = created_at.isoformat(), (created_at - timedelta(microseconds=1)).isoformat()
        for window, total in (((just, just), 1), ((before, before), 0), ((before, just), 1)):
            _, page = await world.ask("GET", path, params=dict(zip(("from", "to"), window, strict=True)))
            assert page["total"] == total
        other = await world.make_agent()
        assert (await world.ask("GET", f"/v2/agent/{other}/executions", params=around_now()))[1]["total"] == 0


@pytest.mark.parametrize("params", [{}, {"from": "2026-11-01T00:00:00Z"}, {"to": "2026-11-01T00:00:00Z"}])
async def test_a_list_demands_both_ends_of_its_window(params: dict[str, str]) -> None:
    async with simulated() as world:
        status, _ = await world.ask("GET", f"/v2/agent/{world.agent_id}/executions", params=params)
        assert status == 400
        assert len(await world.journal("refused")) == 1


async def test_a_list_spans_at_most_seven_days() -> None:
    async with simulated() as world:
        params = {"from": "2026-11-01T00:00:00Z", "to": "2026-11-08T00:00:01Z"}
        assert (await world.ask("GET", f"/v2/agent/{world.agent_id}/executions", params=params))[0] == 400


async def test_a_list_can_be_filtered() -> None:
    async with simulated() as world:
        for number in ("+919990000110", "+919990000142", "+919990000101"):
            await world.placed(number)
        await world.until_noted("ended", count=3)
        assert (await listed(world, status="completed"))["total"] == 2
        assert (await listed(world, answered_by_voice_mail="true"))["total"] == 1
        assert (await listed(world, call_type="outbound"))["total"] == 3
        assert (await listed(world, call_type="inbound"))["total"] == 0


async def test_the_list_lags_but_a_lookup_does_not() -> None:
    async with simulated(simulator_list_lag_sec=120, simulator_speed=240) as world:
        execution_id = await world.placed("+919812345600")
        assert (await listed(world))["total"] == 0
        assert (await world.execution(execution_id))["id"] == execution_id
        assert await until(lambda: _listed_total(world)) == 1


async def test_a_queued_call_can_be_stopped_and_never_rings() -> None:
    async with simulated(simulator_speed=4) as world:
        execution_id = await world.placed("+919812345600")
        status, body = await world.ask("POST", f"/call/{execution_id}/stop")
        assert (status, body) == (200, {"message": "done", "status": "stopped", "execution_id": execution_id})
        await world.receiver.until_status("stopped")
        await world.placed("+919990000101", ref="boln_2")
        await world.until_noted("ended", count=2)
        assert [entry["cualify_ref"] for entry in await world.journal("ring")] == ["boln_2"]
        assert (await world.execution(execution_id))["status"] == "stopped"


async def test_a_call_that_has_begun_cannot_be_stopped() -> None:
    async with simulated() as world:
        execution_id = await world.placed("+919990000111")
        await world.receiver.until_status("ringing")
        assert (await world.ask("POST", f"/call/{execution_id}/stop"))[0] == 400
        await world.receiver.until_status("completed")
        assert (await world.ask("POST", f"/call/{execution_id}/stop"))[0] == 400
        assert len(await world.journal("stop_refused")) == 2


async def test_a_stopped_call_cannot_be_stopped_again() -> None:
    async with simulated(simulator_speed=1) as world:
        execution_id = await world.placed("+919812345600")
        answers = [(await world.ask("POST", f"/call/{execution_id}/stop"))[0] for _ in range(2)]
        assert answers == [200, 400]
        assert len(await world.journal("ended")) == 1


async def test_a_scheduled_call_is_dialed_in_its_time_or_stopped_before() -> None:
    async with simulated(simulator_speed=400) as world:
        at = (datetime.now(UTC) + timedelta(minutes=4)).isoformat(timespec="seconds")
        body = {"agent_id": world.agent_id, "recipient_phone_number": "+919990000101", "scheduled_at": at}
        ids = [(await world.ask("POST", "/call", json=body))[1]["execution_id"] for _ in range(2)]
        assert (await world.execution(ids[0]))["status"] == "scheduled"
        assert (await world.ask("POST", f"/call/{ids[1]}/stop"))[0] == 200
        await world.receiver.until_status("busy")
        assert [entry["execution_id"] for entry in await world.journal("ring")] == [ids[0]]


async def test_the_account_tells_its_concurrency() -> None:
    async with simulated(simulator_max_concurrency=7) as world:
        _, account = await world.ask("GET", "/user/me")
        assert account["concurrency"] == {"max": 7, "current": 0}


async def test_a_recording_is_there_when_the_call_is_completed() -> None:
    async with simulated() as world:
        execution_id = await world.placed("+919990000142")
        assert (await world.ask("GET", f"/recordings/call/{execution_id}"))[0] == 404
        await world.receiver.until_status("completed")
        url = (await world.execution(execution_id))["telephony_data"]["recording_url"]
        assert url == f"{world.url}/recordings/call/{execution_id}"
        async with world.http.get(url) as response:
            assert (response.content_type, (await response.read())[:4]) == ("audio/wav", b"RIFF")


async def test_the_journal_is_read_in_pages() -> None:
    async with simulated(simulator_speed=1) as world:
        for number in range(5):
            await world.placed("+919812345600", ref=f"boln_{number}", agent_id=await _silent(world))
        _, first = await world.ask("GET", "/journal", params={"limit": "3"})
        _, rest = await world.ask("GET", "/journal", params={"after": str(first["next"])})
        _, none = await world.ask("GET", "/journal", params={"after": str(rest["next"])})
        assert [entry["n"] for entry in first["entries"] + rest["entries"]] == [1, 2, 3, 4, 5]
        assert none == {"entries": [], "next": 5}


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=1001"])
async def test_the_journal_is_asked_properly(query: str) -> None:
    async with simulated() as world:
        assert (await world.ask("GET", f"/journal?{query}"))[0] == 422


async def test_two_rings_of_one_attempt_would_be_seen() -> None:
    async with simulated() as world:
        await world.placed("+919812345600")
        await world.placed("+919812345600")
        await world.placed("+919812345600", ref="boln_2")
        await world.until_noted("ring", count=3)
        for way in ("%2B919812345600", "+919812345600"):
            _, rings = await world.ask("GET", f"/rings?to_e164={way}")
            assert rings == {"count": 3, "by_ref": {"boln_1": 2, "boln_2": 1}}


async def test_it_says_that_it_is_well() -> None:
    async with simulated() as world:
        assert await world.ask("GET", "/healthz", headers={"Authorization": ""}) == (200, {"status": "ok"})


async def _listed_total(world: World) -> int:
    return int((await listed(world))["total"])


async def _silent(world: World) -> str:
    _, made = await world.ask("POST", "/v2/agent", json={"agent_config": {"agent_name": "silent"}})
    return str(made["agent_id"])
