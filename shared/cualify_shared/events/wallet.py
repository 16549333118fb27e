"""Events of money: written by billing alone."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from cualify_shared.events.model import EventData, Instant, Paise, Seconds, one_of

TransferName = Annotated[
    str, Field(max_length=200, description="The business fact that moved the money, once: `debit:<call_id>`.")
]


class WalletCredited(EventData):
    """Money came into an org's wallet."""

    org_id: UUID
    transfer: TransferName
    kind: Annotated[str, one_of("top_up", "promotion", "adjustment", "credit_note")]
    amount_paise: Paise
    balance_paise: Paise


class WalletDebited(EventData):
    """A call was settled: said for every ended call, 0 paise included. It is what releases the hold."""

    org_id: UUID
    call_id: UUID
    transfer: TransferName
    amount_paise: Paise
    balance_paise: Paise
    duration_sec: Seconds
    billable_sec: Seconds
    rate_paise_per_sec: Annotated[int, Field(ge=0)]
    pulse_sec: Annotated[int, Field(ge=1)]
    min_billable_sec: Annotated[int, Field(ge=0)] = 0


class WalletRefunded(EventData):
    """Money left a wallet other than by a call. The api had set it aside before: it lowers nothing again."""

    org_id: UUID
    transfer: TransferName
    refund_id: Annotated[str, Field(max_length=100)]
    kind: Annotated[str, one_of("refund", "chargeback", "correction")]
    amount_paise: Paise
    balance_paise: Paise
    payment_id: Annotated[str, Field(max_length=100)] | None = None


class WalletLowBalance(EventData):
    """The balance fell below the threshold that the org has set; said once per crossing."""

    org_id: UUID
    balance_paise: Paise
    threshold_paise: Paise


class PlanActivated(EventData):
    """An org may place calls on these terms. A later activation replaces an earlier one."""

    org_id: UUID
    plan: Annotated[str, Field(max_length=64)]
    rate_paise_per_sec: Annotated[int, Field(ge=0)]
    pulse_sec: Annotated[int, Field(ge=1, le=3600)]
    rate_limit_per_minute: Annotated[int, Field(ge=1)]
    max_concurrent_calls: Annotated[int, Field(ge=1)]
    min_billable_sec: Annotated[int, Field(ge=0, le=3600)] = 0
    active_from: Instant
    active_until: Instant | None = None


class PlanExpired(EventData):
    """An org's plan ended: new calls are refused."""

    org_id: UUID
    plan: Annotated[str, Field(max_length=64)]
    expired_at: Instant
