"""Every route of webhooks as a customer asks it: through the api, answered by the real dispatcher, as documented."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from cualify_api.openapi import examples
from cualify_local.receiver import Received, Receiver
from cualify_local.seed import seed
from cualify_shared.clock import now, rfc3339
from tests.api import documented
from tests.support.platform import Platform, until

ROOT = "/api/v1/webhooks"


@pytest_asyncio.fixture(loop_scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    await made.start()
    yield made
    await made.stop()


async def ask(cualify: Platform, method: str, path: str, body: Any = None, *, status: int = 200) -> dict[str, Any]:
    """The body of an answer that has that status, and is as the OpenAPI document says."""
    headers = {"Authorization": f"Bearer {cualify.seeded.api_key}"}
    async with cualify.http.request(method, cualify.url + path, json=body, headers=headers) as answer:
        shown: dict[str, Any] = await answer.json()
        assert answer.status == status, shown
        documented.check(method, path, answer.status, shown, answer.headers)
    return shown


async def heard(receiver: Receiver, call_id: str, *, times: int) -> list[Received]:
    """What the receiver heard of a call, once it has heard that often."""

    async def look() -> list[Received] | None:
        found = [received for received in receiver.received if received.call_id == call_id]
        return found if len(found) >= times else None

    found: list[Received] = await until(look, f"{times} webhooks about {call_id}")
    return found


async def test_a_webhook_from_its_registration_to_its_end(cualify: Platform, receiver: Receiver) -> None:
    began_at = now() - timedelta(seconds=1)
    wanted = {"url": receiver.url, "events": ["call.completed"]}
    registered = await ask(cualify, "POST", ROOT, wanted, status=201)
    receiver.secret, endpoint = registered["secret"], f"{ROOT}/{registered['data']['id']}"
    assert registered["data"].items() >= {**wanted, "active": True}.items()
    assert len(receiver.secret) == 64
    calls = [(await cualify.place(f"+9198123499{n:02d}"))["id"] for n in (1, 2)]
    first = {call_id: (await heard(receiver, call_id, times=1))[0] for call_id in calls}

    async def delivered() -> dict[str, Any] | None:
        listed = (await ask(cualify, "GET", ROOT))["data"]
        [shown] = [one for one in listed if one["id"] == registered["data"]["id"]]
        return shown if shown["last_status"] == 204 else None

    shown = await until(delivered, "the delivery is shown with the webhook")
    assert shown["last_delivery_at"] >= rfc3339(began_at)

    await deliveries_are_listed(cualify, endpoint, calls, first)
    await what_was_told_is_told_again(cualify, endpoint, receiver, calls, since=rfc3339(began_at))

    tested = (await ask(cualify, "POST", f"{endpoint}/test"))["data"]
    assert (tested["delivered"], tested["status_code"]) == (True, 204)
    rotated = await ask(cualify, "POST", f"{endpoint}/rotate-secret")
    assert len(rotated["secret"]) == 64
    assert rotated["secret"] != receiver.secret
    receiver.secret = rotated["secret"]
    assert (await ask(cualify, "POST", f"{endpoint}/test"))["data"]["delivered"] is True

    paused = await ask(cualify, "PATCH", endpoint, {"active": False, "events": ["*"]})
    assert (paused["data"]["active"], paused["data"]["events"]) == (False, ["*"])
    gone = await ask(cualify, "DELETE", endpoint)
    assert gone["data"] == {"id": registered["data"]["id"], "deleted": True}
    for method, path in (("DELETE", ""), ("GET", "/deliveries"), ("POST", "/test"), ("POST", "/rotate-secret")):
        refused = await ask(cualify, method, endpoint + path, status=404)
        assert refused["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "url",
    ["https://riya:secret@example.com/", "http://example.com/", "ftp://example.com/", "https://192.168.0.1/", "x"],
)
async def test_an_address_that_may_not_be_called_is_refused(cualify: Platform, url: str) -> None:
    wanted = {"url": url, "events": ["*"]}
    refused = await ask(cualify, "POST", ROOT, wanted, status=400)
    assert (refused["error"]["code"], refused["error"]["param"]) == ("invalid_request", "url")


async def test_an_org_has_twenty_webhooks_at_most(cualify: Platform, receiver: Receiver) -> None:
    org = await seed(cualify.stack, org_name="Twenty webhooks")
    wanted = {"url": receiver.url, "events": ["call.completed"]}
    answers = await asyncio.gather(*(cualify.post(ROOT, wanted, key=org.api_key) for _ in range(25)))
    assert Counter(status for status, _ in answers) == {201: 20, 409: 5}
    assert {answer["error"]["code"] for status, answer in answers if status == 409} == {"conflict"}
    assert (await cualify.get(f"{ROOT}?limit=7", key=org.api_key))["pagination"] == {
        "limit": 7,
        "offset": 0,
        "total": 20,
        "has_more": True,
    }


async def deliveries_are_listed(cualify: Platform, endpoint: str, calls: list[str], first: dict[str, Received]) -> None:
    page = await ask(cualify, "GET", f"{endpoint}/deliveries?limit=1&status=delivered&event=call.completed")
    assert set(examples.DELIVERY) <= set(page["data"][0])
    assert (page["pagination"]["limit"], page["pagination"]["has_more"]) == (1, True)
    rest = await ask(cualify, "GET", f"{endpoint}/deliveries?limit=1&cursor={page['pagination']['next_cursor']}")
    assert rest["pagination"] == {"limit": 1, "next_cursor": None, "has_more": False}
    ids = {one["event_id"] for one in page["data"] + rest["data"]}
    assert ids == {received.webhook_id for received in first.values()}
    [one] = (await ask(cualify, "GET", f"{endpoint}/deliveries?call_id={calls[0]}"))["data"]
    assert one["event_id"] == first[calls[0]].webhook_id
    soon = rfc3339(now() + timedelta(minutes=1)).replace("Z", "+00:00")
    assert (await ask(cualify, "GET", f"{endpoint}/deliveries?since={soon}"))["data"] == []
    refused = await ask(cualify, "GET", f"{endpoint}/deliveries?status=odd", status=400)
    assert refused["error"]["param"] == "status"


async def what_was_told_is_told_again(
    cualify: Platform, endpoint: str, receiver: Receiver, calls: list[str], *, since: str
) -> None:
    for times, wanted in ((2, {"status": "all"}), (3, {"status": "delivered", "events": ["call.completed"]})):
        started = await ask(cualify, "POST", f"{endpoint}/replay", {"since": since, **wanted}, status=202)
        assert started["data"]["id"]
        for call_id in calls:
            told = await heard(receiver, call_id, times=times)
            assert len({received.webhook_id for received in told}) == 1
    refused = await ask(cualify, "POST", f"{endpoint}/replay", {"since": since, "until": since}, status=400)
    assert refused["error"]["param"] == "until"
