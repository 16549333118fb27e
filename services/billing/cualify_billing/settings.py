"""What billing is told by its environment, beside what every service is."""

from typing import Annotated

from pydantic import Field, SecretStr

from cualify_shared.settings import ServiceSettings


class BillingSettings(ServiceSettings):
    """See the table in README."""

    refund_within_days: Annotated[int, Field(ge=0, le=3650)] = 15
    """How long after a payment its unused part can be refunded."""

    razorpay_key_id: str | None = None
    razorpay_key_secret: SecretStr | None = None
    razorpay_webhook_secret: SecretStr | None = None
    """All three, or there are no top-ups by the customers themselves."""
    razorpay_url: str = "https://api.razorpay.com"
