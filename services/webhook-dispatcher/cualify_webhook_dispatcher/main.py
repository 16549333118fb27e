"""The webhook-dispatcher: tells customers' endpoints what happened, at least once, signed, in order per call."""

from cualify_shared.service import Context, Loop, Parts, Service
from cualify_webhook_dispatcher import addresses, routes
from cualify_webhook_dispatcher.consume import Consume
from cualify_webhook_dispatcher.deliver import Deliver
from cualify_webhook_dispatcher.secrets import Secrets
from cualify_webhook_dispatcher.send import Sender
from cualify_webhook_dispatcher.settings import DispatcherSettings


def parts(context: Context[DispatcherSettings]) -> Parts:
    """What the service is made of."""
    settings = context.settings
    allowed = addresses.networks(settings.allowed_networks)
    secrets = Secrets(key=bytes.fromhex(settings.secrets_key.get_secret_value()), key_id=settings.secrets_key_id)
    deliver = Deliver(
        pool=context.pool,
        sender=Sender(timeout_sec=settings.delivery_timeout_sec, allowed=allowed),
        secrets=secrets,
        max_in_flight=settings.max_in_flight,
        committed=context.committed,
    )
    app = routes.app(
        pool=context.pool,
        secrets=secrets,
        allowed=allowed,
        internal_token=settings.internal_token.get_secret_value(),
        deleted=deliver.forget,
    )
    return Parts(
        app=app, reads=[Consume(deliver).read()], loops=[Loop("deliver", deliver.run), Loop("sweep", deliver.sweep)]
    )


SERVICE = Service("webhook-dispatcher", package="cualify_webhook_dispatcher", settings=DispatcherSettings, parts=parts)

if __name__ == "__main__":
    SERVICE.run()
