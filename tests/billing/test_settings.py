"""What billing makes of its environment: nothing that is half set takes money, and nothing empty opens a door."""

import pytest
from pydantic import ValidationError

from cualify_billing.settings import BillingSettings

NEEDED = {"DATABASE_URL": "postgresql://unused", "KAFKA_BOOTSTRAP_SERVERS": "unused", "INTERNAL_TOKEN": "token"}
RAZORPAY = {"RAZORPAY_KEY_ID": "rzp_1", "RAZORPAY_KEY_SECRET": "secret", "RAZORPAY_WEBHOOK_SECRET": "hook"}


def made(monkeypatch: pytest.MonkeyPatch, **environment: str) -> BillingSettings:
    for name, value in (NEEDED | environment).items():
        monkeypatch.setenv(name, value)
    return BillingSettings()


def test_empty_variables_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed with an empty secret anybody could credit a wallet."""
    names = (*RAZORPAY, "API_URL", "SELLER_NAME", "SELLER_GSTIN", "REFUND_WITHIN_DAYS")
    settings = made(monkeypatch, **dict.fromkeys(names, ""))
    assert (settings.razorpay_webhook_secret, settings.razorpay_key_id, settings.api_url) == (None, None, None)
    assert (settings.seller, settings.refund_within_days) == (None, 15)


def test_no_service_starts_with_an_empty_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="internal_token"):
        made(monkeypatch, INTERNAL_TOKEN="")


@pytest.mark.parametrize("missing", RAZORPAY)
@pytest.mark.parametrize("empty", [True, False])
def test_razorpay_is_set_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, missing: str, empty: bool) -> None:
    """Customers could pay an order whose payment nobody is told of."""
    others = {name: value for name, value in RAZORPAY.items() if name != missing}
    with pytest.raises(ValidationError, match="set all or none"):
        made(monkeypatch, **others, **({missing: ""} if empty else {}))
    monkeypatch.setenv(missing, RAZORPAY[missing])
    assert made(monkeypatch).razorpay_key_id == "rzp_1"
