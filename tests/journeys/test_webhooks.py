"""What a customer does with webhooks: through the api's door, at the dispatcher, in the customer's own server.

Each answer is held to the OpenAPI document, which says what the dispatcher's answers look like.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from cualify_local.receiver import Receiver
from tests.api.documented import check
from tests.support.platform import Platform, until


@pytest_asyncio.fixture(loop_scope="session")
async def theirs() -> AsyncIterator[Receiver]:
    """The customer's server."""
    made = Receiver()
    await made.start()
    yield made
    await made.stop()


async def ask(cualify: Platform, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
    headers = {"Authorization": f"Bearer {cualify.seeded.api_key}"}
    async with cualify.http.request(method, cualify.url + path, json=body, headers=headers) as answer:
        content = await answer.json()
        assert answer.status == status, content
        check(method, path, answer.status, content, answer.headers)
        return content


async def test_a_customer_sees_what_was_sent_and_has_it_sent_again(cualify: Platform, theirs: Receiver) -> None:
    wanted = {"url": theirs.url, "events": ["call.completed"]}
    made = await ask(cualify, "POST", "/api/v1/webhooks", wanted, status=201)
    theirs.secret, one = made["secret"], f"/api/v1/webhooks/{made['data']['id']}"
    placed = await cualify.place("+919990000142")

    async def told() -> list[dict[str, Any]]:
        return [got.body for got in theirs.received if got.call_id == placed["id"]]

    (first,) = await until(told, "the call's webhook")

    async def delivered() -> Any:
        page = await ask(cualify, "GET", f"{one}/deliveries?call_id={placed['id']}&status=delivered&limit=1")
        return page["data"]

    (delivery,) = await until(delivered, "the delivery is recorded")
    assert delivery["event_id"] == first["id"]
    shown = (await ask(cualify, "GET", f"{one}/deliveries/{first['id']}"))["data"]
    assert [attempt["status_code"] for attempt in shown["attempts"]] == [204]
    assert theirs.secret not in str(shown)

    replay = {"since": "2026-01-01T00:00:00Z", "status": "all", "call_id": placed["id"]}
    job = (await ask(cualify, "POST", f"{one}/replay", replay, status=202))["data"]

    async def done() -> Any:
        seen = (await ask(cualify, "GET", f"{one}/replays/{job['id']}"))["data"]
        return seen if seen["state"] == "done" else None

    progress = await until(done, "the replay is done")
    assert (progress["scheduled"], progress["delivered"], progress["pending"]) == (1, 1, 0)
    assert [body["id"] for body in await told()] == [first["id"], first["id"]]
    assert [entry["id"] for entry in (await ask(cualify, "GET", f"{one}/replays"))["data"]] == [job["id"]]
    await ask(cualify, "POST", f"{one}/replays/{job['id']}/pause", status=404)

    tested = (await ask(cualify, "POST", f"{one}/test"))["data"]
    assert (tested["delivered"], tested["status_code"]) == (True, 204)
    assert theirs.received[-1].type == "ping"
    await ask(cualify, "POST", f"{one}/rotate-secret")
    await ask(cualify, "PATCH", one, {"active": False})
    (listed,) = [
        entry for entry in (await ask(cualify, "GET", "/api/v1/webhooks"))["data"] if entry["id"] == made["data"]["id"]
    ]
    assert (listed["active"], listed["paused_reason"], listed["last_status"]) == (False, "customer", 204)
    erasures = f"{cualify.url}/admin/v1/orgs/{cualify.seeded.org_id}/webhook-erasures"
    operator = {"Authorization": f"Bearer {cualify.stack.secret.admin_token}"}
    async with cualify.http.post(erasures, json={"call_ids": [placed["id"]]}, headers=operator) as answer:
        assert (await answer.json())["data"]["payloads_erased"] >= 1
    erased = (await ask(cualify, "GET", f"{one}/deliveries/{first['id']}"))["data"]
    assert (erased["request"]["body"], erased["request"]["body_masked"]) == (None, True)
    await ask(cualify, "DELETE", one)
    await ask(cualify, "GET", f"{one}/deliveries/{first['id']}", status=404)
