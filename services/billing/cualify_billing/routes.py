"""Internal HTTP: credits, plans, and what a wallet holds. An answer is given after the COMMIT that it speaks of."""

from datetime import timedelta

from fastapi import FastAPI
from pydantic import SecretStr

from cualify_billing.holds import Api, elsewhere
from cualify_billing.razorpay import Razorpay
from cualify_billing.tax_profiles import Seller
from cualify_billing.web.documents import document_routes
from cualify_billing.web.money import money_routes
from cualify_billing.web.plans import plan_routes
from cualify_billing.web.top_ups import top_up_routes
from cualify_billing.web.truth import truth_routes
from cualify_shared.database import Pool
from cualify_shared.internal_http import internal_app
from cualify_shared.reads import AfterCommit


def billing_app(
    *,
    pool: Pool,
    committed: AfterCommit,
    internal_token: str,
    refund_within: timedelta = timedelta(days=15),
    gateway: Razorpay | None = None,
    webhook_secret: SecretStr | None = None,
    seller: Seller | None = None,
    api: Api | None = None,
) -> FastAPI:
    """All routes of billing but the operators', which every service has. `committed` wakes the outbox."""
    app = internal_app(internal_token=internal_token)
    app.include_router(money_routes(pool=pool, committed=committed, refund_within=refund_within))
    app.include_router(plan_routes(pool=pool, committed=committed))
    app.include_router(top_up_routes(pool=pool, committed=committed, gateway=gateway, webhook_secret=webhook_secret))
    app.include_router(document_routes(pool=pool, committed=committed, seller=seller))
    app.include_router(truth_routes(pool=pool, elsewhere=elsewhere(pool, api)))
    return app
