"""The loop that issues tax documents: vouchers as payments come, invoices when a month has turned in Kolkata."""

from collections.abc import Callable
from datetime import datetime

import structlog
from prometheus_client import Counter

from cualify_billing import documents
from cualify_billing.tax_profiles import Seller
from cualify_shared.clock import now
from cualify_shared.database import Pool

log = structlog.get_logger(__name__)

ISSUED = Counter("cualify_tax_documents_total", "Tax documents issued.", ["series"])
AT_ONCE = 50


async def issue_vouchers(pool: Pool, seller: Seller, *, clock: Callable[[], datetime] = now) -> bool:
    """Issues what waits, each in a transaction of its own; whether there may be more."""
    for _ in range(AT_ONCE):
        async with pool.acquire() as connection, connection.transaction():
            number = await documents.issue_next_voucher(connection, seller, at=clock())
        if number is None:
            return False
        if number:
            _tell(number)
    return True


async def issue_invoices(pool: Pool, seller: Seller, *, clock: Callable[[], datetime] = now) -> bool:
    """Invoices the months that are over; whether there may be more."""
    async with pool.acquire() as connection:
        due = await documents.to_invoice(connection, at=clock(), most=AT_ONCE)
    for org_id in due:
        async with pool.acquire() as connection, connection.transaction():
            number = await documents.invoice(connection, seller, org_id, at=clock())
        if number is not None:
            _tell(number)
    return len(due) == AT_ONCE


def _tell(number: str) -> None:
    ISSUED.labels(number.partition("/")[0]).inc()
    log.info("document_issued", number=number)
