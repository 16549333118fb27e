"""billing: plans, wallets and the ledger. Ended calls come in by Kafka, top-ups and plans by HTTP."""

from datetime import timedelta
from functools import partial

from cualify_billing.consume import READS
from cualify_billing.loops import every
from cualify_billing.razorpay import Razorpay
from cualify_billing.routes import billing_app
from cualify_billing.settings import BillingSettings
from cualify_billing.turn import turn_plans
from cualify_shared.service import Context, Parts, Service


def parts(context: Context[BillingSettings]) -> Parts:
    """Routes, reads, and what is done when its time has come."""
    app = billing_app(
        pool=context.pool,
        committed=context.committed,
        internal_token=context.settings.internal_token.get_secret_value(),
        refund_within=timedelta(days=context.settings.refund_within_days),
        gateway=_gateway(context.settings),
        webhook_secret=context.settings.razorpay_webhook_secret,
    )
    loops = (every(1.0, "turn_plans", partial(turn_plans, context.pool, context.committed)),)
    return Parts(app=app, reads=READS, loops=loops)


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
