"""What billing is told by its environment, beside what every service is."""

from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from cualify_billing.gst import is_gstin
from cualify_billing.tax_profiles import Seller
from cualify_shared.settings import ServiceSettings


class BillingSettings(ServiceSettings):
    """See the table in README."""

    refund_within_days: Annotated[int, Field(ge=0, le=3650)] = 15
    """How long after a payment its unused part can be refunded."""

    reconcile_every_sec: Annotated[float, Field(ge=1, le=86400)] = 3600.0
    """How often the ledger is held against itself; it reads every entry."""

    api_url: str | None = None
    """Where the api tells what it holds of each wallet; without it, that is said to be unchecked."""

    razorpay_key_id: str | None = None
    razorpay_key_secret: SecretStr | None = None
    razorpay_webhook_secret: SecretStr | None = None
    """All three, or there are no top-ups by the customers themselves."""
    razorpay_url: str = "https://api.razorpay.com"

    seller_name: str | None = None
    seller_address: str = ""
    seller_gstin: str | None = None
    """With a name and a GSTIN, tax documents are issued; without, none are, and payments wait for theirs."""
    gst_sac: Annotated[str, Field(pattern=r"^[0-9]{4,8}$")] = "998419"
    gst_rate_percent: Annotated[int, Field(ge=0, le=100)] = 18
    """Code and rate of the service. Ask an accountant: both depend on what exactly is sold."""

    @field_validator("seller_gstin")
    @classmethod
    def _is_a_gstin(cls, gstin: str | None) -> str | None:
        if gstin is not None and not is_gstin(gstin):
            raise ValueError("is no GSTIN: its form, state or check digit is wrong")
        return gstin

    @model_validator(mode="after")
    def _takes_payments_or_does_not(self) -> Self:
        """With orders and without the webhook's secret customers would pay, and nobody be told."""
        three = (self.razorpay_key_id, self.razorpay_key_secret, self.razorpay_webhook_secret)
        if any(three) and not all(three):
            raise ValueError(
                "RAZORPAY_KEY_ID, RAZORPAY_KEY_SECRET and RAZORPAY_WEBHOOK_SECRET go together: set all or none"
            )
        return self

    @property
    def seller(self) -> Seller | None:
        """Who issues the documents."""
        if self.seller_name is None or self.seller_gstin is None:
            return None
        return Seller(self.seller_name, self.seller_address, self.seller_gstin, self.gst_sac, self.gst_rate_percent)
