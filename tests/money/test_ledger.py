"""`GET /ledger`, answered by the real billing: page by page, and what is wrong is told in the api's own words."""

import pytest

from tests.money.conftest import Treasury


async def test_the_cursor_leads_through_the_ledger_once(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=1000, payment_id="pay_0")
    for n in range(1, 5):
        credit = {"payment_id": f"pay_{n}", "amount_paise": 1000 + n}
        await treasury.world.admin("POST", f"/orgs/{org.id}/credits", credit)
    found: list[int] = []
    path = "/api/v1/ledger?limit=2"
    for _ in range(3):
        page = (await treasury.world.ask("GET", path, headers=org.auth)).body
        found += [entry["amount_paise"] for entry in page["data"]]
        path = f"/api/v1/ledger?limit=2&cursor={page['pagination']['next_cursor']}"
    assert found == [1004, 1003, 1002, 1001, 1000]
    assert page["pagination"] == {"limit": 2, "next_cursor": None, "has_more": False}


@pytest.mark.parametrize("cursor", ["abc", "0", "-1", "9" * 30, "%00", "1.5"])
async def test_a_cursor_that_is_none_is_refused_by_its_name(treasury: Treasury, cursor: str) -> None:
    org = await treasury.org(paid_paise=1000)
    answer = await treasury.world.ask("GET", f"/api/v1/ledger?cursor={cursor}", headers=org.auth)
    assert (answer.status, answer.body["error"]["param"]) == (400, "cursor")
    assert list(answer.body["error"]["details"]["fieldErrors"]) == ["cursor"]
