"""Workflow runs: the one create request at Bolna that may be repeated."""

import contextlib
from typing import Any

import aiohttp
import pytest

from tests.simulator.world import simulated

RUN: dict[str, Any] = {"reference_id": "boln_1", "mobile_number": "+919990000101"}


@pytest.mark.parametrize("number", ["+919990000101", "+919990000105", "+919990000106"])
async def test_a_repeated_reference_rings_once_whatever_became_of_the_first_answer(number: str) -> None:
    async with simulated() as world:
        path, run = f"/workflows/{world.agent_id}/run", {**RUN, "mobile_number": number}
        with contextlib.suppress(aiohttp.ClientError):
            await world.ask("POST", path, json=run)
        status, body = await world.ask("POST", path, json=run)
        assert (status, body["error"]) == (409, "duplicate_run")
        await world.until_noted("ended")
        _, shown = await world.ask("GET", f"/workflow-executions/{body['execution_id']}")
        (node,) = shown["nodes"]
        assert (shown["reference_id"], shown["status"]) == (
            "boln_1",
            "failed" if number == "+919990000101" else "completed",
        )
        assert [(entry["cualify_ref"], entry["execution_id"]) for entry in await world.journal("ring")] == [
            ("boln_1", node["execution_id"])
        ]
        assert await world.journal("refused") == []


async def test_without_a_reference_the_content_is_the_identity_and_each_workflow_has_its_own() -> None:
    async with simulated() as world:
        run = {"mobile_number": "+919990000101", "name": "Asha"}
        other = await world.make_agent()
        statuses = [
            (await world.ask("POST", f"/workflows/{workflow}/run", json=body))[0]
            for workflow, body in (
                (world.agent_id, run),
                (world.agent_id, run),
                (world.agent_id, {**run, "name": "Ravi"}),
                (other, run),
            )
        ]
        assert statuses == [200, 409, 200, 200]


@pytest.mark.parametrize(
    ("change", "status"), [({"nickname": "A"}, 422), ({"mobile_number": "98"}, 422), ({"reference_id": 7}, 422)]
)
async def test_a_run_that_makes_no_sense_is_refused(change: dict[str, Any], status: int) -> None:
    async with simulated() as world:
        refused, _ = await world.ask("POST", f"/workflows/{world.agent_id}/run", json={**RUN, **change})
        assert refused == status
        assert await world.journal("create") == []


async def test_what_was_never_run_is_not_there() -> None:
    async with simulated() as world:
        assert (await world.ask("GET", "/workflow-executions/nobody"))[0] == 404
        assert (await world.ask("POST", "/workflows/123e4567-e89b-42d3-a456-426614174000/run", json=RUN))[0] == 404
