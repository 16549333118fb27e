"""An operator says where a balance is low; the customer hears of it, once each time that it falls there."""

from tests.money.conftest import Treasury


async def test_a_customer_is_warned_where_the_operator_said(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=5000)
    path = f"/orgs/{org.id}/low-balance-threshold"
    assert (await treasury.world.admin("PUT", path, {"threshold_paise": 4000}))["threshold_paise"] == 4000
    for _ in range(2):
        call_id = await treasury.world.placed(org)
        await treasury.end(org, call_id, duration_sec=142)
        await treasury.carry(repeat=True)
    told = (await treasury.world.ask("GET", "/api/v1/events", headers=org.auth)).body["data"]
    warned = [event["data"] for event in told if event["type"] == "wallet.low_balance"]
    assert [(one["balance_paise"], one["threshold_paise"]) for one in warned] == [(3580, 4000)]


async def test_without_a_threshold_nobody_is_warned(treasury: Treasury) -> None:
    org = await treasury.org(paid_paise=5000)
    path = f"/orgs/{org.id}/low-balance-threshold"
    await treasury.world.admin("PUT", path, {"threshold_paise": 4000})
    assert (await treasury.world.admin("PUT", path, {"threshold_paise": None}))["threshold_paise"] is None
    call_id = await treasury.world.placed(org)
    await treasury.end(org, call_id, duration_sec=142)
    await treasury.carry()
    told = (await treasury.world.ask("GET", "/api/v1/events", headers=org.auth)).body["data"]
    assert "wallet.low_balance" not in {event["type"] for event in told}
