"""The loop that turns plans: `plan.expired` follows an end within seconds, renewals and changes the month's turn."""

from collections.abc import Callable
from datetime import datetime

import structlog
from prometheus_client import Counter

from cualify_billing import plans
from cualify_shared.clock import now
from cualify_shared.database import Pool
from cualify_shared.reads import AfterCommit

log = structlog.get_logger(__name__)

TURNED = Counter("cualify_plans_turned_total", "Plans that expired, renewed or changed when they were due.", ["what"])
AT_ONCE = 100


async def turn_plans(pool: Pool, committed: AfterCommit, *, clock: Callable[[], datetime] = now) -> bool:
    """Turns what is due; whether there may be more of it."""
    async with pool.acquire() as connection, connection.transaction():
        turned = await plans.turn_due(connection, at=clock(), most=AT_ONCE)
    if turned:
        committed()
    for one in turned:
        TURNED.labels(one.what).inc()
        log.info("plan_turned", org_id=str(one.org_id), plan=one.plan, what=one.what)
    return len(turned) >= AT_ONCE
