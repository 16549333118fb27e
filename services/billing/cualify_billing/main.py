"""billing: plans, wallets and the ledger. Ended calls come in by Kafka, top-ups and plans by HTTP."""

from cualify_billing.consume import READS
from cualify_billing.routes import billing_app
from cualify_billing.settings import BillingSettings
from cualify_shared.service import Context, Parts, Service


def parts(context: Context[BillingSettings]) -> Parts:
    """Routes and reads; billing has no loop of its own."""
    app = billing_app(
        pool=context.pool,
        committed=context.committed,
        internal_token=context.settings.internal_token.get_secret_value(),
    )
    return Parts(app=app, reads=READS)


SERVICE = Service("billing", package="cualify_billing", settings=BillingSettings, parts=parts)

if __name__ == "__main__":
    SERVICE.run()
