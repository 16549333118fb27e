"""A call's bill explains itself: what was rung, what was talked, by which rule the seconds became paise."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from cualify_billing.figures import in_paise
from cualify_shared.clock import rfc3339
from cualify_shared.database import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A call's debit with all that it was worked out from."""

    transfer: str
    call_id: UUID
    call_status: str
    duration_sec: int
    billable_sec: int
    rate_paise_per_sec: int
    pulse_sec: int
    min_billable_sec: int
    max_duration_sec: int
    hold_paise: int
    amount_paise: int
    balance_after_paise: int
    at: datetime


BILL = """
SELECT
    transfers.name AS transfer, transfers.call_id, transfers.call_status, transfers.duration_sec,
    transfers.billable_sec, transfers.rate_paise_per_sec, transfers.pulse_sec,
    coalesce(transfers.min_billable_sec, 0) AS min_billable_sec, transfers.max_duration_sec, transfers.hold_paise,
    transfers.amount_paise, entries.balance_after_paise, transfers.at
FROM transfers
JOIN entries ON entries.transfer = transfers.name
JOIN accounts ON accounts.id = entries.account_id AND accounts.org_id = transfers.org_id
WHERE transfers.org_id = $1 AND transfers.name = 'debit:' || $2::uuid::text
"""


async def settled_call(connection: Connection, *, org_id: UUID, call_id: UUID) -> Settled | None:
    """The debit of a call of this org; None while it has none."""
    row = await connection.fetchrow(BILL, org_id, call_id)
    return None if row is None else Settled(**row)


DISCREPANCIES = """
SELECT kind, allowed, found, unbilled_paise
FROM discrepancies
WHERE org_id = $1 AND call_id = $2
ORDER BY kind
"""


async def discrepancies(connection: Connection, *, org_id: UUID, call_id: UUID) -> list[dict[str, Any]]:
    """Where the call went beyond its terms, and what of it was not billed."""
    return [dict(row) for row in await connection.fetch(DISCREPANCIES, org_id, call_id)]


def shown(call: Settled, beyond: list[dict[str, Any]]) -> dict[str, Any]:
    """The bill as JSON: figures, the rule in words, and the sum written out."""
    return {
        "transfer": call.transfer,
        "call_id": call.call_id,
        "status": call.call_status,
        "lines": _lines(call),
        "amount_paise": call.amount_paise,
        "balance_after_paise": call.balance_after_paise,
        "explanation": explanation(call),
        "rule": rule(call),
        "terms": {
            "rate_paise_per_sec": call.rate_paise_per_sec,
            "pulse_sec": call.pulse_sec,
            "min_billable_sec": call.min_billable_sec,
            "max_duration_sec": call.max_duration_sec,
            "hold_paise": call.hold_paise,
        },
        "discrepancies": beyond,
        "at": rfc3339(call.at),
    }


def explanation(call: Settled) -> str:
    """`ring 0 s, talk 142 s × 10 paise = 1,420 paise`."""
    if call.call_status != "completed":
        return f"{call.call_status}: the call was not completed and costs 0 paise"
    price_paise = call.billable_sec * call.rate_paise_per_sec
    worked_out = f"ring 0 s, talk {_charged(call)} × {in_paise(call.rate_paise_per_sec)} = {in_paise(price_paise)}"
    if call.amount_paise == price_paise:
        return worked_out
    return f"{worked_out}, of which the {in_paise(call.amount_paise)} that were held for the call are charged"


def rule(call: Settled) -> str:
    """The rounding rule in words."""
    sentences = ["Ringing is free and a call that was not completed costs nothing."]
    pulse = "begun second" if call.pulse_sec == 1 else f"begun pulse of {call.pulse_sec} s"
    sentences.append(f"Talking time is charged for each {pulse}, rounded up.")
    if call.min_billable_sec:
        sentences.append(f"A call that was talked on is charged for at least {call.min_billable_sec} s.")
    sentences.append(f"Talk beyond {call.max_duration_sec} s is free, and no call costs more than was held for it.")
    return " ".join(sentences)


def _charged(call: Settled) -> str:
    """`142 s`, or how so many seconds came from another number of them."""
    if call.billable_sec == call.duration_sec:
        return f"{call.duration_sec} s"
    why = []
    talked_sec = min(call.duration_sec, call.max_duration_sec)
    if talked_sec < call.duration_sec:
        why.append(f"at most {call.max_duration_sec} s")
    if 0 < talked_sec < call.min_billable_sec:
        why.append(f"at least {call.min_billable_sec} s")
        talked_sec = call.min_billable_sec
    if talked_sec < call.billable_sec:
        why.append(f"pulse {call.pulse_sec} s")
    return f"{call.duration_sec} s charged as {call.billable_sec} s ({', '.join(why)})"


def _lines(call: Settled) -> list[dict[str, Any]]:
    ring = {"what": "ring", "billable_sec": 0, "rate_paise_per_sec": 0, "amount_paise": 0}
    price_paise = call.billable_sec * call.rate_paise_per_sec
    talk = {
        "what": "talk",
        "duration_sec": call.duration_sec,
        "billable_sec": call.billable_sec,
        "rate_paise_per_sec": call.rate_paise_per_sec,
        "amount_paise": price_paise,
    }
    beyond_paise = call.amount_paise - price_paise
    return [ring, talk, *([{"what": "beyond the hold", "amount_paise": beyond_paise}] if beyond_paise else [])]
