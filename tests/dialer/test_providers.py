"""One contract for all providers: what each adapter makes of its provider's good and bad days, over real HTTP."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from cualify_dialer.accounts import accounts
from cualify_dialer.callback_urls import CallbackUrls
from cualify_dialer.providers import (
    Accepted,
    CallbackRequest,
    Forged,
    Found,
    Missing,
    NotACall,
    NotSent,
    Order,
    Phase,
    Provider,
    Ready,
    Refused,
    Snapshot,
    Stopped,
    Throttled,
    TooLate,
    Unclear,
    Unknown,
    bolna_says,
    exotel,
    plivo,
    twilio,
)
from cualify_dialer.providers.http import Reply, understood
from cualify_dialer.providers.says import fields_in, id_in
from cualify_dialer.settings import DialerSettings
from cualify_shared.clock import now as utc_now
from cualify_simulator.app import build_app
from cualify_simulator.settings import Settings
from tests.dialer.support import TOKEN

NAMES = ("bolna", "exotel", "plivo", "twilio")
SIGNED = ("plivo", "twilio")
CAN_HANG_UP_LIVE = ("exotel", "plivo", "twilio")
A_MINUTE = "+919812345630"


@dataclass(slots=True)
class World:
    """The simulator, the four adapters with their accounts, and where callbacks arrive."""

    providers: dict[str, Provider]
    urls: CallbackUrls
    simulator_url: str
    http: aiohttp.ClientSession
    bolna_agent: str = ""
    heard: dict[str, list[CallbackRequest]] = field(default_factory=dict)

    def order(self, name: str, to_e164: str, *, ref: str = "ref_1") -> Order:
        agents = {"bolna": self.bolna_agent, "exotel": "app77", "plivo": "flow", "twilio": "AP0123456789"}
        return Order(
            ref=ref,
            agent_id=agents[name],
            to_e164=to_e164,
            from_e164="+918035730000",
            asked_at=utc_now(),
            max_duration_sec=300,
            callback_url=self.urls.of(name, ref),
        )

    async def journal(self, *kinds: str) -> list[dict[str, Any]]:
        async with self.http.get(f"{self.simulator_url}/journal?after=0") as answer:
            return [entry for entry in (await answer.json())["entries"] if entry["kind"] in kinds]

    async def until(self, look: Callable[[], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(10):
            while not (seen := await look()):
                await asyncio.sleep(0.01)
            return seen

    async def end_of(self, provider: Provider, order: Order) -> Snapshot:
        async def look() -> Snapshot | None:
            found = await provider.look_up(order, now=utc_now())
            return found.snapshot if isinstance(found, Found) and found.snapshot.is_last else None

        end: Snapshot = await self.until(look)
        return end


@pytest.fixture
async def world() -> AsyncIterator[World]:
    heard: dict[str, list[CallbackRequest]] = {}

    async def hear(request: web.Request) -> web.Response:
        name, ref = request.match_info["provider"], request.match_info.get("ref")
        asked = CallbackRequest(url=str(request.url), ref=ref, headers=request.headers, body=await request.read())
        heard.setdefault(name, []).append(asked)
        return web.Response()

    hook = web.Application()
    hook.router.add_post("/callbacks/{provider}/{token}", hear)
    hook.router.add_post("/callbacks/{provider}/{token}/{ref}", hear)
    speed = Settings(port=0, simulator_speed=150, client_timeout_sec=0.4)
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(TestServer(build_app(speed)))
        callbacks = await stack.enter_async_context(TestServer(hook))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        url, public_url = str(simulator.make_url("")).rstrip("/"), str(callbacks.make_url("")).rstrip("/")
        providers = {name: account.provider for name, account in accounts(settings_for(url)).items()}
        assert tuple(sorted(providers)) == NAMES
        for provider in providers.values():
            await stack.enter_async_context(provider.open())
        made = World(providers, CallbackUrls(public_url=public_url, token=TOKEN), url, http, heard=heard)
        config = {"agent_name": "Asha", "webhook_url": f"{public_url}/callbacks/bolna/{TOKEN}"}
        key = {"Authorization": "Bearer bn-simulator"}
        async with http.post(f"{url}/v2/agent", json={"agent_config": config}, headers=key) as answer:
            made.bolna_agent = (await answer.json())["agent_id"]
        yield made


def settings_for(url: str) -> DialerSettings:
    return DialerSettings(
        database_url=SecretStr("unused"),
        kafka_bootstrap_servers="unused",
        internal_token=SecretStr("unused"),
        callback_token=SecretStr(TOKEN),
        bolna_url=url,
        bolna_api_key=SecretStr("bn-simulator"),
        exotel_url=url,
        exotel_account_sid="simulator",
        exotel_api_key=SecretStr("exotel-key"),
        exotel_api_token=SecretStr("exotel-token"),
        exotel_timeout_sec=0.4,
        plivo_url=url,
        plivo_auth_id="MAsimulator",
        plivo_auth_token=SecretStr("plivo-token"),
        plivo_answer_url="https://agents.example/answer",
        twilio_url=url,
        twilio_account_sid="ACsimulator",
        twilio_auth_token=SecretStr("twilio-token"),
        provider_timeout_sec=0.4,
    )


@pytest.mark.parametrize("name", NAMES)
async def test_a_call_is_taken_rings_once_and_its_end_is_read_back(world: World, name: str) -> None:
    provider, order = world.providers[name], world.order(name, A_MINUTE)
    await provider.find_out(order.agent_id)
    assert provider.readiness(order.agent_id) == Ready()
    answer = await provider.dial(order)
    assert isinstance(answer, Accepted)
    end = await world.end_of(provider, replace(order, execution_id=answer.execution_id))
    assert (end.execution_id, end.phase, int(end.talked_sec)) == (answer.execution_id, Phase.COMPLETED, 60)
    (ring,) = await world.journal("ring")
    assert ring["cualify_ref"] == "ref_1"
    assert await world.journal("refused") == [], "not one breach of the contract"


@pytest.mark.parametrize("name", NAMES)
async def test_its_callbacks_are_understood_and_lead_to_the_attempt(world: World, name: str) -> None:
    provider, order = world.providers[name], world.order(name, A_MINUTE)
    answer = await provider.dial(order)
    assert isinstance(answer, Accepted)

    async def ended() -> list[Snapshot]:
        told = [provider.parse_callback(request) for request in world.heard.get(name, [])]
        assert all(isinstance(one, Snapshot) for one in told), told
        return [one for one in told if isinstance(one, Snapshot) and one.is_last]

    (end,) = await world.until(ended)
    assert (end.phase, end.execution_id) == (Phase.COMPLETED, answer.execution_id)
    assert {request.ref or end.ref for request in world.heard[name]} == {"ref_1"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("number", "phase"), [("101", Phase.BUSY), ("102", Phase.NO_ANSWER), ("103", Phase.FAILED)])
async def test_a_call_that_nobody_takes_up_ends_in_our_words(
    world: World, name: str, number: str, phase: Phase
) -> None:
    provider, order = world.providers[name], world.order(name, f"+919990000{number}")
    answer = await provider.dial(order)
    assert isinstance(answer, Accepted)
    end = await world.end_of(provider, replace(order, execution_id=answer.execution_id))
    assert (end.phase, int(end.talked_sec)) == (phase, 0)


@pytest.mark.parametrize("name", NAMES)
async def test_only_a_refusal_is_a_refusal_and_only_a_429_is_asked_again(world: World, name: str) -> None:
    provider = world.providers[name]
    assert isinstance(await provider.dial(world.order(name, "+919990000104")), Refused)
    first, second, third = [
        await provider.dial(world.order(name, "+919990000113", ref=ref)) for ref in ("abc", "abc_2", "abc_3")
    ]
    assert (first, second) == (Throttled(1.0), Throttled(None))
    assert isinstance(third, Accepted)
    assert len(await world.journal("create")) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", ["105", "106", "107", "114"])
async def test_a_lost_answer_is_unknown_sent_once_and_found_again(world: World, name: str, number: str) -> None:
    provider = world.providers[name]
    bystander = world.order(name, "+919812345631", ref="ref_0")
    await provider.dial(bystander)
    order = world.order(name, f"+919990000{number}")
    assert isinstance(await provider.dial(order), Unknown)
    end = await world.end_of(provider, order)
    assert (end.phase, int(end.talked_sec)) == (Phase.COMPLETED, 60)
    assert end.ref in (None, order.ref)
    assert [entry["cualify_ref"] for entry in await world.journal("create")] == ["ref_0", "ref_1"]


@pytest.mark.parametrize("name", NAMES)
async def test_what_was_never_placed_is_missing_and_what_can_not_be_asked_is_unclear(world: World, name: str) -> None:
    provider, order = world.providers[name], world.order(name, A_MINUTE)
    assert await provider.look_up(order, now=utc_now()) == Missing()
    assert await provider.look_up(replace(order, execution_id="nobody"), now=utc_now()) == Missing()
    nobody = {name: account.provider for name, account in accounts(settings_for("http://127.0.0.1:9")).items()}[name]
    async with nobody.open():
        assert isinstance(await nobody.dial(order), NotSent)
        assert isinstance(await nobody.look_up(order, now=utc_now()), Unclear)
        assert isinstance(await nobody.hang_up("x"), Unclear)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "bolna"])
async def test_an_execution_of_another_attempt_is_never_taken_for_ours(world: World, name: str) -> None:
    provider, order = world.providers[name], world.order(name, A_MINUTE)
    await provider.dial(order)
    look = await provider.look_up(order, now=utc_now())
    assert isinstance(look, Found)
    known = replace(order, not_ours=frozenset({look.snapshot.execution_id}))
    assert await provider.look_up(known, now=utc_now()) == Missing()


@pytest.mark.parametrize("name", NAMES)
async def test_a_call_is_hung_up_where_the_provider_can(world: World, name: str) -> None:
    provider, order = world.providers[name], world.order(name, "+919990000111")
    answer = await provider.dial(order)
    assert isinstance(answer, Accepted)
    await world.until(lambda: world.journal("answered"))
    hang_up = await provider.hang_up(answer.execution_id)
    if name not in CAN_HANG_UP_LIVE:
        assert hang_up == TooLate()
        return
    assert hang_up == Stopped()
    end = await world.end_of(provider, replace(order, execution_id=answer.execution_id))
    assert end.phase is Phase.COMPLETED
    assert 0 <= end.talked_sec < 300
    assert await provider.hang_up(answer.execution_id) == TooLate()


@pytest.mark.parametrize("name", NAMES)
async def test_no_call_is_longer_than_its_terms(world: World, name: str) -> None:
    provider, order = world.providers[name], replace(world.order(name, "+919990000111"), max_duration_sec=60)
    answer = await provider.dial(order)
    assert isinstance(answer, Accepted)
    end = await world.end_of(provider, replace(order, execution_id=answer.execution_id))
    assert int(end.talked_sec) == (300 if name == "bolna" else 60), "Bolna has the agent's own limit only"


def a_callback(name: str, **changes: str) -> bytes:
    fields: dict[str, dict[str, str]] = {
        "bolna": {"id": "x", "status": "quantum-leap"},
        "exotel": {"CallSid": "x", "Status": "quantum-leap"},
        "plivo": {"RequestUUID": "x", "CallStatus": "quantum-leap"},
        "twilio": {"CallSid": "x", "CallStatus": "quantum-leap"},
    }
    return urlencode({**fields[name], **changes}).encode()


def heard(name: str, body: bytes, *, kind: str = "application/x-www-form-urlencoded") -> CallbackRequest:
    """With a signature that fits."""
    url, headers = "https://dialer.example/callbacks/x/t/ref_1", {"content-type": kind}
    given = fields_in(body, kind) or {}
    if name == "twilio":
        headers["x-twilio-signature"] = twilio.signed(url, given, "twilio-token")
    if name == "plivo":
        headers["x-plivo-signature-v3"] = "old, " + plivo.signed(url, given, "n", "plivo-token")
        headers["x-plivo-signature-v3-nonce"] = "n"
    return CallbackRequest(url=url, ref="ref_1", headers=headers, body=body)


@pytest.mark.parametrize("name", ["exotel", "plivo", "twilio"])
async def test_a_status_unheard_of_means_nothing(world: World, name: str) -> None:
    told = world.providers[name].parse_callback(heard(name, a_callback(name)))
    assert isinstance(told, Snapshot)
    assert (told.phase, told.is_last, told.status) == (Phase.UNHEARD_OF, False, "quantum-leap")


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_is_no_callback_is_none(world: World, kind: str) -> None:
    for name, provider in world.providers.items():
        for body in (b"", b"\xff\xfe", b"{", b"[]", b"a=1", b"null", b"--x--"):
            assert isinstance(provider.parse_callback(heard(name, body, kind=kind)), NotACall | Forged)


MULTIPART = "multipart/form-data; boundary=x"


def nested(depth: int) -> bytes:
    heads = (
        f"--{'x' * (n + 1)}\r\nContent-Type: multipart/mixed; boundary={'x' * (n + 2)}\r\n\r\n" for n in range(depth)
    )
    return "".join(heads).encode()


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'--x\r\nContent-Disposition: form-data; name="A"\r\n\r\n1\r\n2\r\n--x--\r\n', {"A": "1\r\n2"}),
        (
            b'--x\r\ncontent-disposition:form-data;name="A"; filename="name=\'b\'"\r\n\r\n\xff--x\r\n--x--',
            {"A": "\ufffd--x"},
        ),
        (b'--x\r\nContent-Disposition: form-data; filename="f"\r\n\r\n1\r\n--x--', None),
        (b"--x--", None),
        (b"--y\r\n\r\n--y--", None),
        (b"--x\r\n\r\na\r\n" * 100_000, None),
        (nested(1000), None),
    ],
    ids=["plain", "odd", "nameless", "empty", "another boundary", "all delimiters", "nested"],
)
def test_a_multipart_form_is_read_flat_whatever_is_in_it(body: bytes, fields: object) -> None:
    assert fields_in(body, MULTIPART) == fields


@pytest.mark.parametrize("name", SIGNED)
async def test_a_callback_that_is_not_signed_for_this_address_and_body_is_forged(world: World, name: str) -> None:
    provider, good = world.providers[name], heard(name, a_callback(name))
    for bad in (
        replace(good, body=a_callback(name, CallStatus="completed")),
        replace(good, url=good.url.replace("ref_1", "ref_2")),
        replace(good, headers={"content-type": good.headers["content-type"]}),
    ):
        assert isinstance(provider.parse_callback(bad), Forged)


def test_twilios_own_example_fits() -> None:
    fields = {
        "CallSid": "CA1234567890ABCDE",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
        "Caller": "+14158675309",
    }
    for url in (
        "https://mycompany.com/myapp.php?foo=1&bar=2",
        "https://mycompany.com:443/myapp.php?foo=1&bar=2",
    ):
        assert twilio.is_signed("RSOYDt4T1cUTdK1PDd93/VVr8B8=", url=url, fields=fields, auth_token="12345")
    assert not twilio.is_signed("RSOYDt4T1cUTdK1PDd93/VVr8B8=", url="https://x/", fields=fields, auth_token="12345")


BOLNA = {"completed", "no-answer", "busy", "failed", "canceled", "cancelled", "stopped", "error", "balance-low"}
STATUSES: list[tuple[Mapping[str, Phase], set[str]]] = [
    (bolna_says.PHASES, BOLNA),
    (exotel.PHASES, {"completed", "failed", "busy", "no-answer", "canceled"}),
    (plivo.PHASES, {"completed", "busy", "failed", "timeout", "no-answer", "cancel", "answer"}),
    (twilio.PHASES, {"completed", "busy", "failed", "no-answer", "canceled"}),
]


@pytest.mark.parametrize(("phases", "last"), STATUSES)
def test_only_documented_last_statuses_are_ends(phases: Mapping[str, Phase], last: set[str]) -> None:
    ends = {
        status
        for status, phase in phases.items()
        if Snapshot(execution_id="x", ref=None, phase=phase, status=status).is_last
    }
    assert ends == last


@pytest.mark.parametrize("name", ["exotel", "plivo", "twilio"])
@pytest.mark.parametrize("change", [{"to_e164": "98"}, {"callback_url": ""}, {"max_duration_sec": 0}])
async def test_a_request_that_would_break_the_contract_is_never_sent(
    world: World, name: str, change: dict[str, Any]
) -> None:
    order = replace(world.order(name, A_MINUTE), **change)
    assert isinstance(await world.providers[name].dial(order), Refused)
    assert await world.journal("create", "refused") == []


async def test_exotel_rings_again_by_itself_unless_it_is_told_not_to_as_it_always_is(world: World) -> None:
    key = {"Authorization": "Basic ZXhvdGVsLWtleTpleG90ZWwtdG9rZW4="}
    form = {
        "From": A_MINUTE,
        "CallerId": "08035730000",
        "Url": "http://my.exotel.com/simulator/exoml/start_voice/7",
        "StatusCallback": "http://127.0.0.1:9/x",
    }
    url = f"{world.simulator_url}/v1/Accounts/simulator/Calls/connect.json"
    for broken in ({**form, "MaxRetries": "4"}, {**form, "MaxRetries": "0", "To": A_MINUTE}):
        async with world.http.post(url, data=broken, headers=key) as answer:
            assert answer.status == 400
    assert len(await world.journal("refused")) == 2
    for more in ({}, {"MaxRetries": "1"}):
        async with world.http.post(url, data={**form, "From": "+919990000102", **more}, headers=key) as answer:
            assert answer.status == 200
    order = world.order("exotel", "+919990000102")
    assert isinstance(await world.providers["exotel"].dial(order), Accepted)

    async def all_over() -> bool:
        return len(await world.journal("ended")) == 3

    await world.until(all_over)
    rings = Counter(entry["execution_id"] for entry in await world.journal("ring"))
    (ours,) = {entry["execution_id"] for entry in await world.journal("ring") if entry["cualify_ref"] == order.ref}
    assert (sorted(rings.values()), rings[ours]) == ([1, 2, 4], 1)


@pytest.mark.parametrize(
    ("status", "body", "retry_after", "expected"),
    [
        (200, {"Call": {"Sid": "x"}}, None, Accepted("x")),
        (200, None, None, Unknown("200 without an id")),
        (201, {"message": "call fired"}, None, Unknown("201 without an id")),
        (401, {"RestException": {"Status": 401, "Message": "Authenticate"}}, None, Refused("401: Authenticate")),
        (402, {"RestException": {"Status": 402, "Message": "balance"}}, None, Refused("402: balance")),
        (403, {"RestException": {"Status": 403, "Message": "KYC", "Code": 7}}, None, Refused("403: KYC")),
        (400, {"code": 21211, "message": "Invalid 'To'", "status": 400}, None, Refused("400: Invalid 'To'")),
        (400, {"api_id": "1", "error": "to is missing"}, None, Refused("400: to is missing")),
        (429, {"code": 20429, "message": "Too many"}, None, Throttled(None)),
        (400, {"error": "919990000142 is not reachable"}, None, Refused("400: … is not reachable")),
        (400, {"message": "To: +91 (99900) 00-142, code 13227"}, None, Refused("400: To: …, code 13227")),
        (422, {"detail": [{"msg": "09990000142"}]}, None, Refused("422: …")),
        (429, {"RestException": {"Status": 429}}, "30", Throttled(30.0)),
        (429, {}, "99999999999999999999", Throttled(86_400.0)),
        (429, {}, "Fri, 31 Dec 9999 23:59:59 -1200", Throttled(86_400.0)),
        (429, {}, "Mon, 01 Jan 0001 00:00:00 +1200", Throttled(0.0)),
        (409, {"RestException": {"Status": 409}}, None, Unknown("answered 409")),
        (500, {"RestException": {"Status": 500, "Message": "no route"}}, None, Unknown("answered 500")),
        (500, {"code": 20500, "message": "Internal"}, None, Unknown("answered 500")),
        (504, None, None, Unknown("answered 504")),
    ],
)
def test_an_answer_proves_no_more_than_it_says(
    status: int, body: Any, retry_after: str | None, expected: object
) -> None:
    said = understood(Reply(status, body, retry_after), lambda found: id_in((found or {}).get("Call"), "Sid"))
    assert said == expected
