"""Billing's reconciliation asks the api what it holds and promises: quiet while calls fly, loud where it is wrong."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from aiohttp import web

from cualify_billing import holds
from cualify_billing.holds import Api, ApiAway
from cualify_billing.reconcile import latest, reconcile
from tests.api.world import NOBODY, life
from tests.money.conftest import Treasury

AT_ONCE = timedelta(0)


async def found(treasury: Treasury) -> dict[str, tuple[int, int]]:
    api = Api(url=treasury.world.url, token="internal-token")
    wrong = await holds.differences(treasury.books, api, settled_after=AT_ONCE)
    return {one.rule: (one.expected, one.found) for one in wrong}


async def test_what_agrees_is_no_difference_with_calls_under_way_or_at_rest(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=10_000)
    assert await found(treasury) == {}
    call_id = await treasury.world.placed(org)
    assert await found(treasury) == {}
    await treasury.end(org, call_id)
    assert await found(treasury) == {}, "debited, but not told yet: the hold covers it"
    await treasury.carry()
    assert await found(treasury) == {}
    await treasury.world.bare_org()
    assert await found(treasury) == {}, "an org without a wallet has nothing, and may spend nothing"


@pytest.mark.parametrize(
    ("mistake", "rule", "figures"),
    [
        ("held = held + 5", "what the api holds is what its open calls may cost", (3000, 3005)),
        ("granted = granted + 20000", "the api promises no more than the wallet holds", (10_000, 27_000)),
    ],
)
async def test_what_is_wrong_while_a_call_is_under_way_is_found(
    treasury: Treasury, mistake: str, rule: str, figures: tuple[int, int]
) -> None:
    org = await treasury.org(paid_paise=10_000)
    await treasury.world.placed(org)
    await treasury.world.pool.execute(f"UPDATE org_credit SET {mistake} WHERE org_id = $1", org.id)
    assert await found(treasury) == {rule: figures}


async def test_a_credit_that_never_came_is_found_at_rest(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=10_000)
    credit = {"payment_id": "lost", "amount_paise": 500}
    await treasury.world.admin("POST", f"/orgs/{org.id}/credits", credit)
    api = Api(url=treasury.world.url, token="internal-token")
    assert await holds.differences(treasury.books, api) == [], "it may be on its way"
    assert await found(treasury) == {"at rest the api and the wallet are equal": (10_500, 10_000)}
    await treasury.carry()
    assert await found(treasury) == {}


LATER = "UPDATE calls SET terminal_at = terminal_at - interval '5 minutes 1 second'"
LONG_AGO = "UPDATE calls SET latest_at = latest_at - interval '6 hours 20 minutes 1 second'"


async def test_an_end_that_billing_never_heard_of_is_found(treasury: Treasury) -> None:
    """Skipped on Kafka, or parked on either side: its hold would stay for ever, and no figure contradicts another."""
    org = await treasury.org(paid_paise=10_000)
    call_id = await treasury.world.placed(org)
    await treasury.world.feed_all([one for one in life(org, call_id) if one.type.topic.name == "call.events"])
    assert await found(treasury) == {}, "the debit may be on its way"
    await treasury.world.pool.execute(LATER)
    assert await found(treasury) == {"every call that ended is settled": (0, 1)}
    await treasury.end(org, call_id)
    await treasury.carry()
    assert await found(treasury) == {}


async def test_a_call_that_never_ends_is_found(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=10_000)
    await treasury.world.placed(org)
    await treasury.world.pool.execute("UPDATE calls SET latest_at = latest_at - interval '6 hours'")
    assert await found(treasury) == {}, "it may be live, or be asked for"
    await treasury.world.pool.execute(LONG_AGO)
    assert await found(treasury) == {"every call ends": (0, 1)}


async def test_a_disputed_refund_is_found(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=10_000)
    await treasury.refund(org, "r", 1)
    await treasury.world.pool.execute("DELETE FROM reductions")
    await treasury.refund(org, "r", 2)
    assert "a refund means the same to the api and to us" in await found(treasury)


async def test_while_calls_come_and_go_nothing_is_found(treasury: Treasury) -> None:
    orgs = [await treasury.org(paid_paise=30_000, payment_id=f"p{n}") for n in range(3)]
    done = asyncio.Event()

    async def calling(n: int) -> None:
        for _ in range(8):
            answer = await treasury.world.place(orgs[n])
            if answer.status == 201:
                await treasury.end(orgs[n], UUID(answer.body["data"]["id"]), duration_sec=30)
            await treasury.refund(orgs[n], f"{n}-{answer.headers['X-Request-Id']}", 100)
            await treasury.carry(repeat=True)

    async def looking() -> int:
        looks = 0
        while not done.is_set():
            wrong = await found(treasury)
            wrong.pop("at rest the api and the wallet are equal", None)  # asked for at once, not after five minutes
            assert wrong == {}
            looks += 1
        return looks

    looker = asyncio.create_task(looking())
    await asyncio.gather(*(calling(n) for n in range(3)))
    done.set()
    assert await looker > 2
    await treasury.carry()
    assert await found(treasury) == {}


async def test_pages_reach_every_org(treasury: Treasury) -> None:
    for n in range(5):
        org = await treasury.org(paid_paise=10_000, payment_id=f"p{n}")
        await treasury.world.pool.execute("UPDATE org_credit SET held = 1 WHERE org_id = $1", org.id)
    seen, path = list[str](), "/internal/credit?limit=2"
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer internal-token"}) as http:
        while True:
            async with http.get(treasury.world.url + path) as answer:
                page = await answer.json()
            seen += [one["org_id"] for one in page["data"]]
            if page["next"] is None:
                break
            path = f"/internal/credit?limit=2&after={page['next']}"
        async with http.get(treasury.world.url + "/internal/credit?after=x") as answer:
            assert answer.status == 400
    assert len(seen) == len(set(seen)) == 5
    async with aiohttp.ClientSession() as http, http.get(treasury.world.url + "/internal/credit") as answer:
        assert answer.status == 401


async def test_what_was_found_is_kept_with_a_reason_and_what_could_not_be_checked_with_why(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=10_000)
    await treasury.world.pool.execute("UPDATE org_credit SET held = 7 WHERE org_id = $1", org.id)
    kept = await kept_after(treasury, Api(url=treasury.world.url, token="internal-token"))
    assert kept.differences == [
        {
            "rule": "what the api holds is what its open calls may cost",
            "subject": f"org {org.id}",
            "expected": 0,
            "found": 7,
            "reason": "the api and the wallets disagree",
        }
    ]
    assert kept.unchecked == []
    for api, why in (
        (None, "API_URL is not set"),
        (Api(url=NOBODY, token="t"), "the api does not answer: ClientConnectorError"),
        (Api(url=treasury.world.url, token="wrong"), "the api answered 401"),
    ):
        kept = await kept_after(treasury, api)
        assert (kept.differences, kept.unchecked) == ([], [f"what the api holds and promises: {why}"])


async def kept_after(treasury: Treasury, api: Api | None) -> Any:
    assert await reconcile(treasury.books, holds.elsewhere(treasury.books, api))
    async with treasury.books.acquire() as connection:
        return await latest(connection)


async def test_a_page_in_many_pieces_is_read_whole(treasury: Treasury) -> None:
    """A thousand orgs are a quarter of a megabyte: no network brings that at once."""
    made = "INSERT INTO orgs SELECT gen_random_uuid(), 'x', now() FROM generate_series(1, 2500)"
    await treasury.world.pool.execute(made)
    await treasury.world.pool.execute("INSERT INTO org_credit (org_id, granted) SELECT id, 5 FROM orgs")
    wrong = await holds.differences(treasury.books, Api(url=treasury.world.url, token="internal-token"))
    assert len({one.subject for one in wrong}) == len(wrong) == 2500


@pytest.mark.parametrize("body", ["{}", "[]", '{"data": [{}], "next": null}', "x" * 5_000_000])
async def test_an_answer_that_makes_no_sense_is_no_answer(treasury: Treasury, body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/internal/credit", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with pytest.raises(ApiAway, match="makes no sense"):
            await holds.differences(treasury.books, Api(url=f"http://127.0.0.1:{runner.addresses[0][1]}", token="t"))
    finally:
        await runner.cleanup()
