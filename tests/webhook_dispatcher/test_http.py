"""The internal routes: endpoints of one org, every error in the envelope."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest
import pytest_asyncio
import uvicorn
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from cualify_shared.database import Pool
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import routes
from cualify_webhook_dispatcher.lanes import FIRST_LINES
from cualify_webhook_dispatcher.replays import Replaying
from cualify_webhook_dispatcher.routes import Doors
from tests.webhook_dispatcher.conftest import LOOPBACK, SECRETS, Dispatcher, Receive, call_events, make_dispatcher
from tests.webhook_dispatcher.receiver import answer_ok, answers

TOKEN = "internal-token"
HOOK = {"url": "http://127.0.0.1:9/hook", "events": ["call.completed", "call.failed"]}


class Client:
    """Calls the routes as the api does."""

    def __init__(self, http: aiohttp.ClientSession, base: str) -> None:
        self._http, self._base = http, base
        self.deleted: list[UUID] = []

    async def __call__(self, method: str, path: str, token: str = TOKEN, **more: Any) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}"}
        async with self._http.request(method, self._base + path, headers=headers, **more) as response:
            return response.status, await response.json(content_type="application/json")


@pytest_asyncio.fixture(loop_scope="session")
async def call(dispatcher: Dispatcher) -> AsyncIterator[Client]:
    deleted: list[UUID] = []

    def on_deleted(endpoint_id: UUID) -> None:
        dispatcher.deliver.forget(endpoint_id)
        deleted.append(endpoint_id)

    stop = asyncio.Event()
    replaying = Replaying(pool=dispatcher.pool, scheduled=dispatcher.deliver.wake)
    running = asyncio.create_task(replaying.run(stop))
    doors = Doors(
        pool=dispatcher.pool,
        secrets=SECRETS,
        sender=dispatcher.sender,
        allowed=LOOPBACK,
        replica_id=dispatcher.deliver.replica_id,
        changed=dispatcher.deliver.look_again,
        deleted=on_deleted,
        due=dispatcher.deliver.wake,
        replaying=replaying.wake,
        committed=lambda: None,
    )
    app = routes.app(doors, internal_token=TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    config = server.config
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as http:
        client = Client(http, f"http://127.0.0.1:{port}")
        client.deleted = deleted
        yield client
    server.should_exit = True
    await asyncio.wait_for(server.shutdown(), 5)
    stop.set()
    await asyncio.wait_for(running, 5)


async def test_what_is_registered_again_under_its_id_is_the_same_with_the_same_secret(call: Client) -> None:
    """Who asks again did not hear the answer."""
    path, named = f"/internal/orgs/{new_id()}/endpoints", HOOK | {"id": str(new_id())}
    (_, first), *others = await asyncio.gather(*(call("POST", path, json=named) for _ in range(5)))
    assert first["data"]["id"] == named["id"]
    assert [(status, body) for status, body in others] == [(201, first)] * 4
    assert (await call("GET", path))[1]["pagination"]["total"] == 1
    await call("DELETE", f"{path}/{named['id']}")
    status, another = await call("POST", path, json=named)
    assert (status, another["data"]["id"] != named["id"], another["secret"] != first["secret"]) == (201, True, True)
    _, theirs = await call("POST", f"/internal/orgs/{new_id()}/endpoints", json=HOOK | {"id": str(new_id())})
    assert theirs["secret"] not in (first["secret"], another["secret"])


async def test_an_endpoint_is_registered_listed_and_deleted(call: Client) -> None:
    org_id = new_id()
    path = f"/internal/orgs/{org_id}/endpoints"
    status, made = await call("POST", path, json=HOOK)
    assert status == 201
    assert len(bytes.fromhex(made["secret"])) == 32
    assert set(made["data"]) == {"id", "url", "events", "active", "created_at"}
    assert made["data"]["events"] == HOOK["events"]
    assert made["data"]["created_at"].endswith("Z")
    _, page = await call("GET", path)
    assert page["pagination"] == {"limit": 50, "offset": 0, "total": 1, "has_more": False}
    healthy = {"paused_reason": None, "failing_since": None, "is_open": False, "not_before": None}
    assert page["data"] == [{**made["data"], "last_delivery_at": None, "last_status": None, **healthy}]
    assert made["secret"] not in str(page)
    status, gone = await call("DELETE", f"{path}/{made['data']['id']}")
    assert (status, gone) == (200, {"data": {"id": made["data"]["id"], "deleted": True}})
    assert call.deleted == [UUID(made["data"]["id"])]
    assert (await call("DELETE", f"{path}/{made['data']['id']}"))[0] == 404
    assert (await call("GET", path))[1]["pagination"]["total"] == 0


async def test_another_orgs_endpoint_is_not_there(call: Client) -> None:
    mine, theirs = new_id(), new_id()
    _, made = await call("POST", f"/internal/orgs/{mine}/endpoints", json=HOOK)
    status, refused = await call("DELETE", f"/internal/orgs/{theirs}/endpoints/{made['data']['id']}")
    assert (status, refused["error"]["code"]) == (404, "not_found")
    assert (await call("GET", f"/internal/orgs/{theirs}/endpoints"))[1]["data"] == []
    assert (await call("GET", f"/internal/orgs/{mine}/endpoints"))[1]["pagination"]["total"] == 1


async def test_an_org_has_at_most_twenty_also_when_they_come_at_once(call: Client) -> None:
    path = f"/internal/orgs/{new_id()}/endpoints"
    answers = await asyncio.gather(*(call("POST", path, json=HOOK) for _ in range(25)))
    assert sorted(status for status, _ in answers) == [201] * 20 + [409] * 5
    _, page = await call("GET", path, params={"limit": 7, "offset": 7})
    assert (len(page["data"]), page["pagination"]["has_more"]) == (7, True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"url": "http://example.com/", "events": ["*"]}, "url"),
        ({"url": "https://10.0.0.1/", "events": ["*"]}, "url"),
        ({"url": "https://8.8.8.8/", "events": ["call.exploded"]}, "events"),
        ({"url": "https://8.8.8.8/", "events": []}, "events"),
        ({"events": ["*"]}, "url"),
        ({"url": 5, "events": ["*"]}, "url"),
        ({"url": "https://8.8.8.8/", "events": "*"}, "events"),
    ],
)
async def test_a_wrong_registration_is_refused_with_its_field(call: Client, body: dict[str, Any], param: str) -> None:
    status, refused = await call("POST", f"/internal/orgs/{new_id()}/endpoints", json=body)
    assert (status, refused["error"]["code"], refused["error"]["param"]) == (400, "invalid_request", param)


async def test_no_error_leaves_the_envelope(call: Client) -> None:
    path = f"/internal/orgs/{new_id()}/endpoints"
    for status, (answered, body) in {
        401: await call("POST", path, token="wrong", data=b"{"),
        400: await call("POST", path, data=b"{"),
        404: await call("GET", "/nowhere"),
        405: await call("PUT", path),
        413: await call("POST", path, data=b"x" * 70_000),
    }.items():
        assert answered == status
        assert {"code", "message"} <= set(body["error"])
    assert (await call("GET", "/internal/orgs/not-a-uuid/endpoints"))[1]["error"]["param"] == "org_id"
    assert (await call("GET", path, params={"limit": 101}))[1]["error"]["param"] == "limit"


async def test_a_patch_changes_what_it_names_and_nothing_else(call: Client) -> None:
    path = f"/internal/orgs/{new_id()}/endpoints"
    _, made = await call("POST", path, json=HOOK)
    one = f"{path}/{made['data']['id']}"
    _, changed = await call("PATCH", one, json={"events": ["*"]})
    assert changed["data"] == {**made["data"], "events": ["*"], "paused_reason": None}
    _, paused = await call("PATCH", one, json={"active": False})
    assert (paused["data"]["active"], paused["data"]["paused_reason"]) == (False, "customer")
    _, moved = await call("PATCH", one, json={"url": "http://127.0.0.1:10/hook"})
    assert (moved["data"]["url"], moved["data"]["active"]) == ("http://127.0.0.1:10/hook", False)
    _, resumed = await call("PATCH", one, json={"active": True})
    assert (resumed["data"]["active"], resumed["data"]["paused_reason"]) == (True, None)
    assert (await call("PATCH", one, json={"url": "https://10.0.0.1/"}))[1]["error"]["param"] == "url"
    assert (await call("PATCH", f"/internal/orgs/{new_id()}/endpoints/{made['data']['id']}", json={}))[0] == 404


async def test_what_is_kept_while_paused_goes_out_when_resumed(
    call: Client, dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    path = f"/internal/orgs/{org_id}/endpoints/{endpoint_id}"
    await call("PATCH", path, json={"active": False})
    events = call_events(org_id, 3)
    await dispatcher.arrive(*events)
    _, page = await call("GET", f"{path}/deliveries")
    assert [one["waits_for"] for one in page["data"]] == ["resume"] * 3
    await call("PATCH", path, json={"active": True})
    await dispatcher.until_state("delivered", *events)
    assert len(receiver.got) == 3


async def test_during_a_rotation_both_secrets_verify(call: Client, dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    endpoint_id, old = await dispatcher.register(org_id, receiver.url)
    path = f"/internal/orgs/{org_id}/endpoints/{endpoint_id}"
    _, rotated = await call("POST", f"{path}/rotate-secret")
    await dispatcher.arrive(*call_events(org_id))
    await receiver.until(1)
    await dispatcher.pool.execute("UPDATE endpoints SET old_secret_until = now() - interval '1 second'")
    await dispatcher.arrive(*call_events(org_id))
    first, second = await receiver.until(2)
    headers = [{k.lower(): v for k, v in got.headers.items()} for got in (first, second)]
    assert Webhook(old).verify(first.content, headers[0]) == Webhook(rotated["secret"]).verify(
        first.content, headers[0]
    )
    assert len(headers[0]["webhook-signature"].split(" ")) == 4
    assert headers[0]["x-cualify-signature"].count("v1=") == 2
    assert Webhook(rotated["secret"]).verify(second.content, headers[1])
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(second.content, headers[1])


async def test_after_a_rotation_has_answered_every_replica_signs_with_the_new_secret(
    call: Client, dispatcher: Dispatcher, receive: Receive, pool: Pool
) -> None:
    go_on = asyncio.Event()

    async def waits(_: web.Request, __: int) -> web.StreamResponse:
        await go_on.wait()
        return web.Response()

    receiver, org_id, other = await receive(waits), new_id(), make_dispatcher(pool)
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    other.start()
    await other.arrive(*(event for _ in range(20) for event in call_events(org_id)))
    await receiver.until(FIRST_LINES)
    _, rotated = await call("POST", f"/internal/orgs/{org_id}/endpoints/{endpoint_id}/rotate-secret")
    go_on.set()
    for got in (await receiver.until(20))[FIRST_LINES:]:
        assert Webhook(rotated["secret"]).verify(got.content, {k.lower(): v for k, v in got.headers.items()})
    await other.end()


async def test_a_test_event_is_sent_now_and_its_answer_shown(
    call: Client, dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answers(500, 200)), new_id()
    endpoint_id, secret = await dispatcher.register(org_id, receiver.url)
    path = f"/internal/orgs/{org_id}/endpoints/{endpoint_id}/test"
    _, failed = await call("POST", path)
    assert (failed["data"]["delivered"], failed["data"]["status_code"]) == (False, 500)
    assert failed["data"]["failure_code"] == "http_5xx"
    assert failed["data"]["how_to_mend"]
    _, good = await call("POST", path)
    assert good["data"]["delivered"] is True
    assert secret not in str(good)
    got = receiver.got[1]
    assert Webhook(secret).verify(got.content, {k.lower(): v for k, v in got.headers.items()})["type"] == "ping"
    assert await dispatcher.pool.fetchval("SELECT count(*) FROM deliveries") == 0


async def test_deliveries_are_listed_by_filter_and_cursor_and_shown_with_their_answers(
    call: Client, dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answers(404, 200)), new_id()
    endpoint_id, secret = await dispatcher.register(org_id, receiver.url)
    first = call_events(org_id)
    await dispatcher.arrive(*first)
    await dispatcher.until("exists (SELECT FROM attempts)")
    others = [event for _ in range(4) for event in call_events(org_id)]
    await dispatcher.arrive(*others)
    await dispatcher.until_state("delivered", *others)
    path = f"/internal/orgs/{org_id}/endpoints/{endpoint_id}/deliveries"
    _, page = await call("GET", path, params={"limit": 3})
    _, rest = await call("GET", path, params={"limit": 3, "cursor": page["next"]})
    listed = [one["event_id"] for one in (*page["data"], *rest["data"])]
    assert listed == sorted((f"evt_{event.id.hex}" for event in (*first, *others)), reverse=True)
    assert rest["next"] is None
    _, failing = await call("GET", path, params={"status": "pending"})
    assert [one["event_id"] for one in failing["data"]] == [f"evt_{first[0].id.hex}"]
    _, of_call = await call("GET", path, params={"call_id": str(others[0].key)})
    assert [one["event_id"] for one in of_call["data"]] == [f"evt_{others[0].id.hex}"]
    _, shown = await call("GET", f"{path}/evt_{first[0].id.hex}")
    assert shown["data"]["request"]["body"] == receiver.got[0].content.decode()
    assert [(a["status_code"], a["failure_code"]) for a in shown["data"]["attempts"]] == [(404, "http_4xx")]
    assert secret not in str(shown)
    assert "v1," not in str(shown)
    assert (await call("GET", f"/internal/orgs/{new_id()}/endpoints/{endpoint_id}/deliveries"))[0] == 404


async def test_a_redirect_is_shown_with_where_it_leads(call: Client, dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answers(308, headers={"Location": "https://example.com/moved"})), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    (event,) = call_events(org_id)
    await dispatcher.arrive(event)
    await dispatcher.until("exists (SELECT FROM attempts)")
    path = f"/internal/orgs/{org_id}/endpoints/{endpoint_id}/deliveries/evt_{event.id.hex}"
    _, shown = await call("GET", path)
    (attempt,) = shown["data"]["attempts"]
    assert (attempt["failure_code"], attempt["redirects_to"]) == ("redirect", "https://example.com/moved")
    assert attempt["response_body"] is None
    assert "Register the URL it redirects to" in attempt["how_to_mend"]


async def test_the_request_is_shown_as_it_was_sent_out_of_order(
    call: Client, dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answers(500, 200)), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    first, second = call_events(org_id, 2)
    await dispatcher.arrive(first, second)
    await dispatcher.until("attempts = 1 FROM deliveries WHERE event_id = $1", first.id)
    await dispatcher.pool.execute("UPDATE deliveries SET due_at = now() WHERE behind")
    await dispatcher.look_now()
    await dispatcher.until_state("delivered", second)
    path = f"/internal/orgs/{org_id}/endpoints/{endpoint_id}/deliveries/evt_{second.id.hex}"
    _, shown = await call("GET", path)
    assert shown["data"]["request"]["body"] == receiver.got[1].content.decode()
    assert receiver.got[1].body["out_of_order"] is True


async def test_a_replay_sends_what_matches_again_and_tells_its_progress(
    call: Client, dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    calls = [call_events(org_id, 2) for _ in range(70)]
    events = [event for one in calls for event in one]
    await dispatcher.arrive(*events)
    await dispatcher.until_state("delivered", *events)
    path = f"/internal/orgs/{org_id}/endpoints/{endpoint_id}/replays"
    status, started = await call("POST", path, json={"events": ["call.completed"]})
    assert (status, started["data"]["state"]) == (202, "running")
    await dispatcher.until("state = 'done' FROM replays")
    _, shown = await call("GET", f"{path}/{started['data']['id']}")
    assert (shown["data"]["scheduled"], shown["data"]["delivered"], shown["data"]["pending"]) == (70, 70, 0)
    again = [got.body["id"] for got in receiver.got[140:]]
    assert sorted(again) == sorted(f"evt_{one[1].id.hex}" for one in calls)
    _, started = await call("POST", path, json={"call_id": str(calls[0][0].key)})
    await dispatcher.until("count(*) = 2 FROM replays WHERE state = 'done'")
    assert [got.body["id"] for got in receiver.got[210:]] == [f"evt_{event.id.hex}" for event in calls[0]]


async def test_a_replay_can_be_paused_and_canceled(call: Client, dispatcher: Dispatcher, receive: Receive) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    events = [event for _ in range(5) for event in call_events(org_id)]
    await dispatcher.arrive(*events)
    await dispatcher.until_state("delivered", *events)
    receiver.respond = answers(500)
    path = f"/internal/orgs/{org_id}/endpoints/{endpoint_id}/replays"
    _, started = await call("POST", path, json={"status": "delivered"})
    await dispatcher.until("scheduled = 5 FROM replays")
    one = f"{path}/{started['data']['id']}"
    assert (await call("POST", f"{one}/pause"))[1]["data"]["state"] == "paused"
    assert (await call("POST", f"{one}/resume"))[1]["data"]["state"] == "running"
    _, canceled = await call("POST", f"{one}/cancel")
    assert (canceled["data"]["state"], canceled["data"]["pending"]) == ("canceled", 0)
    rows = await dispatcher.pool.fetch("SELECT state FROM deliveries")
    assert {row["state"] for row in rows} == {"delivered"}
    assert (await call("POST", f"{one}/cancel"))[0] == 404


async def test_a_replay_of_what_is_old_waits_as_its_server_asks_and_burns_nothing(
    call: Client, dispatcher: Dispatcher, receive: Receive
) -> None:
    receiver, org_id = await receive(answer_ok), new_id()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    (event,) = call_events(org_id)
    await dispatcher.arrive(event)
    await dispatcher.until_state("delivered", event)
    await dispatcher.pool.execute("UPDATE deliveries SET created_at = now() - interval '6 days'")
    receiver.respond = answers(404, headers={"Retry-After": "3600"})
    await call("POST", f"/internal/orgs/{org_id}/endpoints/{endpoint_id}/replays", json={})
    await dispatcher.until("attempts = 2 FROM deliveries")
    row = await dispatcher.row(event)
    assert row is not None
    assert (row["state"], row["burned"]) == ("pending", 0)
    assert row["due_at"] - row["created_at"] > timedelta(minutes=59)


class Held:
    """A server that answers nothing until it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, _: web.Request, __: int) -> web.StreamResponse:
        await self.go_on.wait()
        return web.Response()


async def test_after_a_cancel_no_replica_begins_what_it_had_claimed_for_the_replay(
    call: Client, dispatcher: Dispatcher, receive: Receive, pool: Pool
) -> None:
    receiver, org_id, held = await receive(answer_ok), new_id(), Held()
    endpoint_id, _ = await dispatcher.register(org_id, receiver.url)
    events = [event for _ in range(30) for event in call_events(org_id)]
    await dispatcher.arrive(*events)
    await dispatcher.until_state("delivered", *events)
    receiver.respond, sent, other = held, len(receiver.got), make_dispatcher(pool)
    other.start()
    path = f"/internal/orgs/{org_id}/endpoints/{endpoint_id}/replays"
    _, started = await call("POST", path, json={})
    await receiver.until(sent + 1)
    await dispatcher.until("count(*) > 2 FROM deliveries WHERE lease_token IS NOT NULL")
    _, canceled = await call("POST", f"{path}/{started['data']['id']}/cancel")
    assert canceled["data"]["state"] == "canceled"
    begun = len(receiver.got)
    held.go_on.set()
    async with asyncio.timeout(5):
        while dispatcher.deliver.held or other.deliver.held:
            await asyncio.sleep(0.005)
    assert len(receiver.got) == begun
    await other.end()


async def test_after_an_erasure_no_replica_begins_what_it_had_claimed(
    call: Client, dispatcher: Dispatcher, receive: Receive, pool: Pool
) -> None:
    held = Held()
    receiver, org_id, other = await receive(held), new_id(), make_dispatcher(pool)
    await dispatcher.register(org_id, receiver.url)
    other.start()
    events = [event for _ in range(30) for event in call_events(org_id, to_e164="+919900000001")]
    await other.arrive(*events)
    await receiver.until(FIRST_LINES)
    _, erased = await call("POST", f"/internal/orgs/{org_id}/expunge", json={"e164": "+919900000001"})
    assert erased["data"] == {"payloads_erased": 30, "deliveries_ended": 30}
    held.go_on.set()
    async with asyncio.timeout(5):
        while other.deliver.held:
            await asyncio.sleep(0.005)
    assert len(receiver.got) == FIRST_LINES
    await other.end()


async def test_an_expunged_callee_is_in_no_stored_payload(call: Client, idle: Dispatcher, pool: Pool) -> None:
    org_id, other_org = new_id(), new_id()
    for org in (org_id, other_org):
        await idle.register(org, "https://8.8.8.8/")
        events = [*call_events(org, to_e164="+919900000001"), *call_events(org, to_e164="+919900000002")]
        await idle.arrive(*events, hand_over=False)
    _, erased = await call("POST", f"/internal/orgs/{org_id}/expunge", json={"e164": "+919900000001"})
    assert erased["data"] == {"payloads_erased": 1, "deliveries_ended": 1}
    left = await pool.fetch("SELECT org_id, body FROM notifications WHERE body IS NOT NULL")
    assert [row["org_id"] for row in left if b"+919900000001" in row["body"]] == [other_org]
    assert len(left) == 3
