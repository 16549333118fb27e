"""A lost answer is searched for by number and time: what the carriers list there need not be ours."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cualify_dialer.accounts import accounts
from cualify_dialer.providers import Found, Missing, Order, Provider
from cualify_shared.clock import now as utc_now
from tests.dialer.test_providers import settings_for

CALLEE, CALLER, ANOTHER = "+919812345630", "+918035730000", "+918035739999"
Row = dict[str, Any]


def an_order(ref: str = "ref_1") -> Order:
    return Order(
        ref=ref,
        agent_id="app77",
        to_e164=CALLEE,
        from_e164=CALLER,
        asked_at=utc_now(),
        max_duration_sec=300,
        callback_url="https://dialer.example/x",
    )


def local(at: datetime) -> str:
    return (at + timedelta(minutes=330)).strftime("%Y-%m-%d %H:%M:%S")


def exotel_row(**more: Any) -> Row:
    """The customer is `From` in the calls that we ask for, and also in those that the customer makes."""
    row = {"Sid": "ex-1", "From": "0" + CALLEE[-10:], "To": "0" + CALLER[-10:], "PhoneNumberSid": "0" + CALLER[-10:]}
    return {**row, "Status": "in-progress", "Direction": "outbound-api", "DateCreated": local(utc_now()), **more}


def twilio_row(**more: Any) -> Row:
    row = {"sid": "ex-1", "to": CALLEE, "from": CALLER, "status": "in-progress", "direction": "outbound-api"}
    return {**row, "date_created": utc_now().strftime("%a, %d %b %Y %H:%M:%S +0000"), **more}


def plivo_row(**more: Any) -> Row:
    row = {"call_uuid": "ex-1", "to": CALLEE[1:], "from": CALLER[1:], "call_status": "completed"}
    return {**row, "initiation_time": utc_now().strftime("%Y-%m-%d %H:%M:%S+00:00"), "call_duration": 60, **more}


@asynccontextmanager
async def listing(name: str, *rows: Row) -> AsyncIterator[Provider]:
    """An account at a carrier that lists these calls, whatever is asked for."""

    async def listed(request: web.Request) -> web.Response:
        if name == "plivo" and not request.path.endswith("/Call/"):
            return web.Response(status=404)
        if name == "plivo" and "status" in request.query:
            return web.json_response({"calls": []})
        return web.json_response({"Metadata": {}, "Calls": rows, "calls": rows, "objects": rows})

    app = web.Application()
    app.router.add_get("/{path:.*}", listed)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        provider = {name: account.provider for name, account in accounts(settings_for(url)).items()}[name]
        async with provider.open():
            yield provider


ROWS: dict[str, Callable[..., Row]] = {"exotel": exotel_row, "twilio": twilio_row, "plivo": plivo_row}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("exotel", exotel_row(Direction="inbound")),
        ("exotel", exotel_row(Direction="incoming", Status="completed", Duration=90)),
        ("exotel", exotel_row(PhoneNumberSid="0" + ANOTHER[-10:])),
        ("twilio", twilio_row(direction="inbound")),
        ("twilio", twilio_row(**{"from": ANOTHER})),
        ("plivo", plivo_row(call_direction="inbound")),
        ("plivo", plivo_row(**{"from": ANOTHER[1:]})),
    ],
)
async def test_who_called_in_or_was_called_from_another_number_is_not_taken_for_our_call(name: str, row: Row) -> None:
    async with listing(name, row) as provider:
        assert await provider.look_up(an_order(), now=utc_now()) == Missing()


@pytest.mark.parametrize("name", sorted(ROWS))
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"Direction": None, "direction": None, "call_direction": None},
        {"PhoneNumberSid": "PN5f3c", "from": None},
        {"PhoneNumberSid": None, "from": "anonymous"},
    ],
)
async def test_what_is_not_surely_anothers_is_ours(name: str, more: Row) -> None:
    async with listing(name, ROWS[name](**more)) as provider:
        look = await provider.look_up(an_order(), now=utc_now())
        assert isinstance(look, Found)
        assert look.snapshot.execution_id == "ex-1"


async def test_a_call_is_known_by_its_own_id_once_it_was_found_and_is_no_other_attempts() -> None:
    """Plivo takes a request on under one id and lists its call under another."""
    async with listing("plivo", plivo_row()) as provider:
        asked = replace(an_order(), execution_id="request-1")
        look = await provider.look_up(asked, now=utc_now())
        assert isinstance(look, Found)
        assert (look.snapshot.execution_id, look.snapshot.carrier_id) == ("request-1", "ex-1")
        next_one = replace(an_order("ref_2"), execution_id="request-2", not_ours=frozenset({"ex-1"}))
        assert await provider.look_up(next_one, now=utc_now()) == Missing()
        gone = replace(asked, carrier_id="ex-0")
        assert await provider.look_up(gone, now=utc_now()) == Missing(), "by its own id, or not at all"
