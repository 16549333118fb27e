"""billing: plans, wallets and the ledger. Ended calls come in by Kafka, top-ups and plans by HTTP."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from cualify_billing.consume import READS
from cualify_billing.holds import Api, elsewhere
from cualify_billing.issue import issue_invoices, issue_vouchers
from cualify_billing.loops import every
from cualify_billing.razorpay import Razorpay
from cualify_billing.reconcile import Elsewhere, reconcile
from cualify_billing.routes import billing_app
from cualify_billing.settings import BillingSettings
from cualify_billing.turn import turn_plans
from cualify_shared.database import Pool
from cualify_shared.service import Context, Loop, Parts, Service


def parts(context: Context[BillingSettings]) -> Parts:
    """Routes, reads, and what is done when its time has come."""
    settings = context.settings
    app = billing_app(
        pool=context.pool,
        committed=context.committed,
        internal_token=settings.internal_token.get_secret_value(),
        refund_within=timedelta(days=settings.refund_within_days),
        gateway=_gateway(settings),
        webhook_secret=settings.razorpay_webhook_secret,
        seller=settings.seller,
        api=_api(settings),
    )
    return Parts(app=app, reads=READS, loops=_loops(context))


def _loops(context: Context[BillingSettings]) -> Sequence[Loop]:
    pool, seller = context.pool, context.settings.seller
    loops = [
        every(1.0, "turn_plans", partial(turn_plans, pool, context.committed)),
        every(
            context.settings.reconcile_every_sec,
            "reconcile",
            partial(_reconcile, pool, elsewhere(pool, _api(context.settings))),
        ),
    ]
    if seller is not None:
        loops.append(every(2.0, "issue_vouchers", partial(issue_vouchers, pool, seller)))
        loops.append(every(60.0, "issue_invoices", partial(issue_invoices, pool, seller)))
    return loops


async def _reconcile(pool: Pool, elsewhere: Elsewhere) -> bool:
    await reconcile(pool, elsewhere)
    return False


def _api(settings: BillingSettings) -> Api | None:
    if settings.api_url is None:
        return None
    return Api(url=settings.api_url, token=settings.internal_token.get_secret_value())


def _gateway(settings: BillingSettings) -> Razorpay | None:
    if settings.razorpay_key_id is None or settings.razorpay_key_secret is None:
        return None
    return Razorpay(
        url=settings.razorpay_url,
        key_id=settings.razorpay_key_id,
        key_secret=settings.razorpay_key_secret.get_secret_value(),
    )


SERVICE = Service("billing", package="cualify_billing", settings=BillingSettings, parts=parts)

if __name__ == "__main__":
    SERVICE.run()
