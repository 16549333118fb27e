"""What lowers a wallet is set aside in the api, then posted in billing: decision 5, from both ends."""

import asyncio
import random
import signal
from uuid import UUID

import aiohttp
import pytest

from cualify_local import children
from cualify_shared.database import Pool
from tests.api.test_crash import _start, _up
from tests.api.world import NOBODY, Org, running
from tests.billing.conftest import balance
from tests.money.conftest import Treasury

FREE_PAISE = 10_000


async def status_of(pool: Pool, reduction_id: str) -> str:
    found: str = await pool.fetchval("SELECT status FROM reductions WHERE id = $1", reduction_id)
    return found


async def until(pool: Pool, reduction_id: str, status: str) -> None:
    async with asyncio.timeout(20):
        while await status_of(pool, reduction_id) != status:
            await asyncio.sleep(0.02)


async def test_a_refund_leaves_both_wallets_once(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=FREE_PAISE)
    for _ in range(2):
        status, body = await treasury.refund(org, "rfd_1", 4000, kind="refund", payment_id="pay_1", reason="unused")
        assert (status, body["data"]["status"], body["data"]["refund_id"]) == (201, "posted", "rfd_1")
    await treasury.carry(repeat=True)
    assert await treasury.agree(org) == 6000
    [shown] = await treasury.world.admin("GET", f"/orgs/{org.id}/refunds")
    assert shown == await treasury.world.admin("GET", f"/orgs/{org.id}/refunds/rfd_1")
    assert (shown["reason"], shown["amount_paise"]) == ("unused", 4000)


async def test_what_calls_hold_is_not_refunded(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=FREE_PAISE)
    call_id = await treasury.world.placed(org)
    status, body = await treasury.refund(org, "rfd_1", 7001)
    assert (status, body["error"]["code"]) == (402, "insufficient_credits")
    assert body["error"]["details"] == {
        "balance_paise": 10_000,
        "held_paise": 3000,
        "needed_paise": 7001,
        "frozen": False,
    }
    assert await treasury.world.pool.fetchval("SELECT count(*) FROM reductions") == 0
    await treasury.end(org, call_id, status="busy")
    await treasury.carry()
    assert (await treasury.refund(org, "rfd_1", 7001))[0] == 201
    assert await treasury.agree(org) == 2999


async def test_what_billing_refuses_is_given_back_once(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=FREE_PAISE)
    for _ in range(2):
        status, body = await treasury.refund(org, "rfd_1", 4000, kind="refund", payment_id="pay_of_nobody")
        details = {"outcome": "refused", "reason": "unknown_payment"}
        assert (status, body["error"]["code"], body["error"]["details"]) == (409, "conflict", details)
    assert await treasury.agree(org) == FREE_PAISE


async def test_an_id_with_another_body_is_a_conflict_here_and_disputed_where_billing_knows_it(
    treasury: Treasury,
) -> None:
    org, other = await treasury.org(paid_paise=FREE_PAISE), await treasury.org(paid_paise=FREE_PAISE, payment_id="2")
    await treasury.refund(org, "rfd_1", 4000)
    for status, _ in (await treasury.refund(org, "rfd_1", 4001), await treasury.refund(other, "rfd_1", 4000)):
        assert status == 409
    await treasury.world.pool.execute("DELETE FROM reductions")
    status, body = await treasury.refund(other, "rfd_1", 4000)
    assert (status, body["data"]["status"]) == (201, "disputed"), "a person looks; nothing is given back"
    assert await treasury.world.wallet(other) == (6000, 0)


async def test_money_that_left_without_being_set_aside_is_parked_for_a_person(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=FREE_PAISE)
    await treasury.refund(org, "rfd_1", 1)
    await treasury.world.pool.execute("DELETE FROM reductions")
    with pytest.raises(Exception, match="was not set aside here"):
        await treasury.carry()


async def test_without_billing_the_money_stays_aside_until_it_answers(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=FREE_PAISE)
    async with running(treasury.world.pool, billing_url=NOBODY) as alone:
        status, body = await Treasury(alone, treasury.books, NOBODY, "").refund(org, "rfd_1", 4000)
        assert (status, body["data"]["status"]) == (201, "set_aside")
        assert await alone.wallet(org) == (6000, 0)
    await until(treasury.world.pool, "rfd_1", "posted")
    await treasury.carry()
    assert await treasury.agree(org) == 6000


async def test_an_answer_that_is_lost_is_made_up_for_by_the_event(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=FREE_PAISE)
    await treasury.refund(org, "rfd_1", 4000)
    reset = "UPDATE reductions SET status = 'set_aside', decided_at = NULL, ask_after = now() + interval '1 hour'"
    await treasury.world.pool.execute(reset)
    await treasury.carry(repeat=True)
    assert await status_of(treasury.world.pool, "rfd_1") == "posted"
    assert await treasury.agree(org) == 6000


async def test_a_chargeback_that_calls_hold_freezes_the_org_until_they_end(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=FREE_PAISE)
    calls = [await treasury.world.placed(org) for _ in range(3)]
    status, body = await treasury.refund(org, "cb_1", 5000, kind="chargeback", payment_id="pay_1")
    assert (status, body["data"]["status"]) == (201, "waiting")
    for ask in (await treasury.world.place(org), await treasury.world.place(org, max_duration_sec=1)):
        assert (ask.status, ask.body["error"]["details"]) == (403, {"reason": "A chargeback is open"})
    assert (await treasury.refund(org, "rfd_1", 1))[0] == 402, "nothing else takes what is released"
    await treasury.end(org, calls[0])
    await treasury.carry()
    assert await status_of(treasury.world.pool, "cb_1") == "waiting"
    for call_id in calls[1:]:
        await treasury.end(org, call_id, status="no_answer")
    await treasury.carry()
    await until(treasury.world.pool, "cb_1", "posted")
    await treasury.carry()
    assert await treasury.agree(org) == FREE_PAISE - 1420 - 5000
    assert (await treasury.world.place(org)).status == 201, "and is thawed"


async def test_a_chargeback_of_money_that_was_spent_waits_for_the_next_top_up(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=FREE_PAISE)
    call_id = await treasury.world.placed(org)
    await treasury.end(org, call_id, duration_sec=300)
    await treasury.carry()
    await treasury.refund(org, "cb_1", FREE_PAISE, kind="chargeback", payment_id="pay_1")
    await treasury.world.admin("POST", f"/orgs/{org.id}/credits", {"payment_id": "pay_2", "amount_paise": 5000})
    await treasury.carry()
    await until(treasury.world.pool, "cb_1", "posted")
    await treasury.carry()
    assert await treasury.agree(org) == 2000


async def test_a_chargeback_that_waits_can_be_withdrawn_and_its_org_calls_again(treasury: Treasury) -> None:
    """Mistyped, or decided otherwise by the bank: else the org would stay frozen until it pays what it does not owe."""
    org = await treasury.org(paid_paise=FREE_PAISE)
    for refund_id in ("cb_1", "cb_2"):
        body = (await treasury.refund(org, refund_id, 50_000, kind="chargeback", payment_id="pay_1"))[1]
        assert body["data"]["status"] == "waiting"
    for refund_id, answered in (("cb_1", 403), ("cb_2", 201)):
        for _ in range(2):
            shown = await treasury.world.admin("DELETE", f"/orgs/{org.id}/refunds/{refund_id}")
            assert (shown["status"], shown["refused_why"]) == ("refused", "withdrawn")
        assert (await treasury.world.place(org)).status == answered
    status, again = await treasury.refund(org, "cb_1", 50_000, kind="chargeback", payment_id="pay_1")
    assert (status, again["error"]["details"]["reason"]) == (409, "withdrawn")
    await treasury.refund(org, "posted", 100)
    headers = {"Authorization": "Bearer admin-token"}
    other = await treasury.world.bare_org()
    for path, answered in (
        (f"{org.id}/refunds/posted", 409),
        (f"{other.id}/refunds/cb_1", 404),
        (f"{org.id}/refunds/x", 404),
    ):
        answer = await treasury.world.ask("DELETE", f"/admin/v1/orgs/{path}", headers=headers)
        assert answer.status == answered
    assert await treasury.world.wallet(org) == (FREE_PAISE - 100, 3000)


@pytest.mark.parametrize("seed", range(5))
async def test_calls_and_refunds_at_once_never_spend_the_same_money(treasury: Treasury, seed: int) -> None:
    """Twice as much is asked for as there is; at every moment the api promises at most what billing has."""
    chance, paid = random.Random(seed), 60_000
    org = await treasury.org(paid_paise=paid)
    done = asyncio.Event()
    watching = asyncio.create_task(_never_promises_too_much(treasury, org, done))

    async def call(n: int) -> None:
        answer = await treasury.world.place(org)
        assert answer.status in (201, 402)
        if answer.status == 201:
            await asyncio.sleep(chance.random() / 20)
            status = chance.choice(("completed", "busy"))
            await treasury.end(org, UUID(answer.body["data"]["id"]), duration_sec=chance.randint(1, 300), status=status)
            if n % 3 == 0:
                await treasury.carry(repeat=True)

    async def reduce(n: int) -> None:
        await asyncio.sleep(chance.random() / 20)
        statuses = {(await treasury.refund(org, f"r{seed}-{n}", 2500))[0] for _ in range(2)}
        assert statuses <= {201, 402}

    await asyncio.gather(*(call(n) for n in range(24)), *(reduce(n) for n in range(24)))
    await treasury.carry(repeat=True)
    done.set()
    assert await watching > 3
    left = await treasury.agree(org)
    spent = await treasury.books.fetchval(SPENT)
    taken = await treasury.world.pool.fetchval(TAKEN)
    assert (left, left >= 0) == (paid - spent - taken, True)


async def _never_promises_too_much(treasury: Treasury, org: Org, done: asyncio.Event) -> int:
    """The api is read, then billing, then the api again: between two equal readings nothing was promised."""
    looks = 0
    while not done.is_set():
        before = await treasury.world.pool.fetchrow(PROMISED, org.id)
        there = await balance(treasury.books, org.id)
        assert before is not None
        if before == await treasury.world.pool.fetchrow(PROMISED, org.id):
            assert before["free_paise"] <= there
            looks += 1
        await asyncio.sleep(0.002)
    return looks


SPENT = "SELECT coalesce(sum(amount_paise), 0)::bigint FROM transfers WHERE kind = 'call_debit'"
TAKEN = "SELECT coalesce(sum(amount_paise), 0)::bigint FROM reductions WHERE status = 'posted'"
PROMISED = "SELECT xmin::text, granted - held AS free_paise FROM org_credit WHERE org_id = $1"


@pytest.mark.parametrize("dies_at", ["api.reduction.set_aside", "api.reduction.answered"])
async def test_a_kill_between_the_set_aside_and_the_answer_is_made_up_for(treasury: Treasury, dies_at: str) -> None:
    """Killed before billing is asked, and after billing has posted: either way the money leaves once."""
    org = await treasury.org(paid_paise=FREE_PAISE)
    port = children.free_port()
    process = await _start(treasury.api_dsn, port, FAULTS=dies_at, BILLING_URL=treasury.billing_url)
    body = {"refund_id": "rfd_1", "amount_paise": 4000, "kind": "correction"}
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer admin-token"}) as http:
        await _up(http, port, process)
        with pytest.raises(aiohttp.ClientError):
            await http.post(f"http://127.0.0.1:{port}/admin/v1/orgs/{org.id}/refunds", json=body)
        assert await process.wait() == -signal.SIGKILL
    assert await treasury.world.wallet(org) == (6000, 0)
    await until(treasury.world.pool, "rfd_1", "posted")
    await treasury.carry()
    assert await treasury.agree(org) == 6000
