"""Credits, plans and histories over HTTP: idempotent, and never outside the envelope."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from cualify_billing.routes import billing_app
from cualify_shared.database import Pool
from cualify_shared.events.wallet import PlanActivated, WalletCredited
from tests.billing.conftest import TOKEN, Caller, assert_sound, balance, call_of, consume, ended, said

PLAN = {"plan": "growth", "rate_paise_per_sec": 10}


async def test_a_credit_is_given_once_for_each_payment(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    path, body = f"/internal/orgs/{org}/credits", {"payment_id": "pay_1", "amount_paise": 5000}
    expected = {"data": {"transfer": "topup:pay_1", "amount_paise": 5000, "balance_paise": 5000}}
    assert await ask("POST", path, body) == (201, expected)
    assert (await ask("POST", path, {"payment_id": "pay_2", "amount_paise": 1}))[0] == 201
    assert await ask("POST", path, body) == (200, expected)
    assert await balance(pool, org) == 5001
    assert [type(event.data) for event in await said(pool)] == [WalletCredited, WalletCredited]
    await assert_sound(pool)


async def test_the_same_payment_from_many_callers_at_once_is_one_credit(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    path, body = f"/internal/orgs/{org}/credits", {"payment_id": "pay_1", "amount_paise": 5000}
    answers = await asyncio.gather(*(ask("POST", path, body) for _ in range(20)))
    assert sorted(status for status, _ in answers) == [200] * 19 + [201]
    assert len({str(body) for _, body in answers}) == 1
    assert await balance(pool, org) == 5000
    await assert_sound(pool)


@pytest.mark.parametrize("change", [{"amount_paise": 5001}, {"kind": "promotion"}, {"org": True}])
async def test_another_credit_under_the_same_payment_is_a_conflict(
    ask: Caller, pool: Pool, change: dict[str, Any]
) -> None:
    org, body = uuid4(), {"payment_id": "pay_1", "amount_paise": 5000}
    await ask("POST", f"/internal/orgs/{org}/credits", body)
    other = uuid4() if change.get("org") else org
    changed = {**body, **{name: value for name, value in change.items() if name != "org"}}
    status, answer = await ask("POST", f"/internal/orgs/{other}/credits", changed)
    assert (status, answer["error"]["code"]) == (409, "conflict")
    assert await balance(pool, org) == 5000
    await assert_sound(pool)


@pytest.mark.parametrize("kind", ["top_up", "promotion", "adjustment"])
async def test_each_kind_of_credit_comes_from_an_account_of_its_own(ask: Caller, pool: Pool, kind: str) -> None:
    await ask("POST", f"/internal/orgs/{uuid4()}/credits", {"payment_id": "p", "amount_paise": 7, "kind": kind})
    source = {"top_up": "topup_clearing", "promotion": "promotions", "adjustment": "adjustments"}[kind]
    assert await pool.fetchval("SELECT balance_paise FROM accounts WHERE name = $1", source) == -7
    await assert_sound(pool)


async def test_a_plan_is_announced_when_it_changes_and_only_then(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    path, until = f"/internal/orgs/{org}/plan", (datetime.now(UTC) + timedelta(days=30)).isoformat()
    status, answer = await ask("PUT", path, PLAN)
    assert (status, answer["data"]["version"], answer["data"]["active_until"]) == (200, 1, None)
    assert answer["data"]["pulse_sec"] == 1
    assert (await ask("PUT", path, PLAN))[1] == answer
    assert (await ask("PUT", path, {**PLAN, "active_until": until}))[1]["data"]["version"] == 2
    assert (await ask("PUT", path, {**PLAN, "active_until": until}))[1]["data"]["version"] == 2
    assert (await ask("PUT", path, PLAN))[1]["data"]["version"] == 3
    plans = [event.data for event in await said(pool)]
    assert all(isinstance(plan, PlanActivated) for plan in plans)
    assert len(plans) == 3
    await assert_sound(pool)


async def test_a_plan_that_has_run_out_is_activated_anew_by_the_same_terms(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await ask("PUT", f"/internal/orgs/{org}/plan", PLAN)
    await pool.execute("UPDATE plans SET active_from = now() - interval '2 h', active_until = now() - interval '1 h'")
    assert (await ask("PUT", f"/internal/orgs/{org}/plan", PLAN))[1]["data"]["version"] == 2


async def test_plans_and_money_share_one_gapless_sequence(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    credit = f"/internal/orgs/{org}/credits"
    await asyncio.gather(
        *(ask("POST", credit, {"payment_id": f"p{n}", "amount_paise": 10_000}) for n in range(8)),
        *(ask("PUT", f"/internal/orgs/{org}/plan", {**PLAN, "rate_paise_per_sec": n}) for n in range(8)),
        *(consume(pool, [ended(org, status="busy")]) for _ in range(8)),
    )
    assert [event.sequence for event in await said(pool)] == list(range(1, 25))
    await assert_sound(pool)


async def test_a_wallet_shows_its_balance_and_its_history(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    assert await ask("GET", f"/internal/orgs/{org}/wallet") == (200, {"data": {"balance_paise": 0}})
    assert await ask("GET", f"/internal/orgs/{org}/ledger") == (200, {"data": [], "next": None})
    await ask("POST", f"/internal/orgs/{org}/credits", {"payment_id": "pay_1", "amount_paise": 5000})
    end = ended(org)
    await consume(pool, [end, ended(uuid4(), status="busy")])
    assert await ask("GET", f"/internal/orgs/{org}/wallet") == (200, {"data": {"balance_paise": 3580}})
    _, answer = await ask("GET", f"/internal/orgs/{org}/ledger")
    debit, credit = answer["data"]
    assert {**debit, "id": None} == {
        "id": None,
        "transfer": f"debit:{call_of(end)}",
        "kind": "call_debit",
        "amount_paise": -1420,
        "balance_after_paise": 3580,
        "call_id": str(call_of(end)),
        "duration_sec": 142,
        "billable_sec": 142,
        "rate_paise_per_sec": 10,
        "at": "2026-05-31T14:22:11.000Z",
    }
    assert (credit["transfer"], credit["amount_paise"], credit["call_id"]) == ("topup:pay_1", 5000, None)


async def test_a_history_is_paged_without_gaps_or_repeats(ask: Caller, pool: Pool) -> None:
    org = uuid4()
    await consume(pool, [ended(org, status="busy") for _ in range(7)])
    seen: list[str] = []
    after = ""
    while after is not None:
        _, answer = await ask("GET", f"/internal/orgs/{org}/ledger?limit=3" + (f"&before={after}" if after else ""))
        seen += [line["transfer"] for line in answer["data"]]
        after = answer["next"]
    expected = await pool.fetch("SELECT transfer AS name FROM entries GROUP BY transfer ORDER BY min(id) DESC")
    assert seen == [row["name"] for row in expected]


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", "é"])
@pytest.mark.parametrize("path", ["/internal/orgs/x/wallet", "/internal/nothing", "/internal"])
async def test_nothing_internal_is_told_without_the_token(ask_in_vain: Caller, path: str, token: str | None) -> None:
    status, answer = await ask_in_vain("GET", path, token=token)
    assert (status, answer["error"]["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/internal/orgs", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("DELETE", f"/internal/orgs/{UUID(int=1)}/wallet", 405, "method_not_allowed"),
        ("GET", "/internal/orgs/nobody/wallet", 400, "invalid_request"),
        ("GET", f"/internal/orgs/{UUID(int=1)}/ledger?limit=0", 400, "invalid_request"),
        ("GET", f"/internal/orgs/{UUID(int=1)}/ledger?before=x", 400, "invalid_request"),
    ],
)
async def test_what_is_not_there_answers_in_the_envelope(
    ask_in_vain: Caller, method: str, path: str, status: int, code: str
) -> None:
    found, answer = await ask_in_vain(method, path)
    assert (found, answer["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "payment_id"),
        ({"payment_id": "p"}, "amount_paise"),
        ({"payment_id": "p", "amount_paise": 0}, "amount_paise"),
        ({"payment_id": "p", "amount_paise": -5}, "amount_paise"),
        ({"payment_id": "p", "amount_paise": 1.0}, "amount_paise"),
        ({"payment_id": "p", "amount_paise": True}, "amount_paise"),
        ({"payment_id": "p", "amount_paise": "5"}, "amount_paise"),
        ({"payment_id": "p", "amount_paise": 2**63 - 1}, "amount_paise"),
        ({"payment_id": "", "amount_paise": 5}, "payment_id"),
        ({"payment_id": "p" * 101, "amount_paise": 5}, "payment_id"),
        ({"payment_id": "a\x00b", "amount_paise": 5}, "payment_id"),
        ({"payment_id": "p", "amount_paise": 5, "kind": "gift"}, "kind"),
        ({"payment_id": "p", "amount_paise": 5, "note": "?"}, "note"),
    ],
)
async def test_an_invalid_credit_is_refused_by_the_name_of_its_field(
    ask_in_vain: Caller, body: Any, param: str
) -> None:
    status, answer = await ask_in_vain("POST", f"/internal/orgs/{uuid4()}/credits", body)
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "invalid_request", param)
    assert param in answer["error"]["details"]["fieldErrors"]


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"{", 400, "invalid_request"),
        (b"", 400, "invalid_request"),
        (b"[]", 400, "invalid_request"),
        (b"\xff\xfe", 400, "invalid_request"),
        (b'{"payment_id": "\\ud800", "amount_paise": 5}', 400, "invalid_request"),
        (b'{"payment_id": "p", "amount_paise": 1' + b"0" * 5000 + b"}", 400, "invalid_request"),
        (b"[" * 16_000, 400, "invalid_request"),
        (b" " * 70_000, 413, "payload_too_large"),
    ],
)
async def test_a_strange_body_answers_in_the_envelope(ask_in_vain: Caller, raw: bytes, status: int, code: str) -> None:
    found, answer = await ask_in_vain("POST", f"/internal/orgs/{uuid4()}/credits", raw=raw)
    assert (found, answer["error"]["code"]) == (status, code)


async def test_a_plan_that_has_ended_already_is_refused(ask_in_vain: Caller) -> None:
    body = {**PLAN, "active_until": "2020-01-01T00:00:00Z"}
    status, answer = await ask_in_vain("PUT", f"/internal/orgs/{uuid4()}/plan", body)
    assert (status, answer["error"]["param"]) == (400, "active_until")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_concurrent_calls": 10_001}, "max_concurrent_calls"),
        ({"active_until": "9999-12-31T23:59:59-14:00"}, "active_until"),
        ({"renews_monthly": 1}, "renews_monthly"),
        ({"rate_paise_per_sec": 1.5}, "rate_paise_per_sec"),
        ({"rate_paise_per_sec": True}, "rate_paise_per_sec"),
        ({"pulse_sec": 0}, "pulse_sec"),
        ({"min_billable_sec": -1}, "min_billable_sec"),
    ],
)
async def test_a_plan_that_no_call_can_be_placed_on_is_refused(
    ask_in_vain: Caller, change: dict[str, Any], param: str
) -> None:
    status, answer = await ask_in_vain("PUT", f"/internal/orgs/{uuid4()}/plan", {**PLAN, **change})
    assert (status, answer["error"]["param"]) == (400, param)


async def test_a_database_that_is_away_is_said_so(dsn: str, pool: Pool) -> None:
    ask = Caller(billing_app(pool=pool, committed=lambda: None, internal_token=TOKEN))
    await pool.execute("ALTER TABLE accounts RENAME TO hidden")
    status, answer = await ask("GET", f"/internal/orgs/{uuid4()}/wallet")
    assert (status, answer["error"]["code"]) == (500, "internal_error")
    await pool.close()
    status, answer = await ask("GET", f"/internal/orgs/{uuid4()}/wallet")
    assert (status, answer["error"]["code"]) == (503, "unavailable")
