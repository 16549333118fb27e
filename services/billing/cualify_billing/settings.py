"""What billing is told by its environment, beside what every service is."""

from typing import Annotated

from pydantic import Field

from cualify_shared.settings import ServiceSettings


class BillingSettings(ServiceSettings):
    """See the table in README."""

    refund_within_days: Annotated[int, Field(ge=0, le=3650)] = 15
    """How long after a payment its unused part can be refunded."""
