"""The webhook-dispatcher: tells customers' endpoints what happened, at least once, signed, in order per call."""

from uuid import UUID

from cualify_shared.service import Context, Loop, Parts, Service
from cualify_webhook_dispatcher import addresses, routes
from cualify_webhook_dispatcher.consume import Consume
from cualify_webhook_dispatcher.deliver import Deliver
from cualify_webhook_dispatcher.replays import Replaying
from cualify_webhook_dispatcher.routes import Doors
from cualify_webhook_dispatcher.secrets import Secrets
from cualify_webhook_dispatcher.send import Sender
from cualify_webhook_dispatcher.settings import DispatcherSettings
from cualify_webhook_dispatcher.upkeep import Upkeep


def parts(context: Context[DispatcherSettings]) -> Parts:
    """What the service is made of."""
    settings = context.settings
    allowed = addresses.networks(settings.allowed_networks)
    older = settings.older_secrets_key
    secrets = Secrets(
        key=bytes.fromhex(settings.secrets_key.get_secret_value()),
        key_id=settings.secrets_key_id,
        older={settings.older_secrets_key_id: bytes.fromhex(older.get_secret_value())} if older else {},
    )
    upkeep = Upkeep(pool=context.pool, secrets=secrets)
    sender = Sender(timeout_sec=settings.delivery_timeout_sec, allowed=allowed)
    deliver = Deliver(
        pool=context.pool,
        sender=sender,
        secrets=secrets,
        max_in_flight=settings.max_in_flight,
        committed=context.committed,
        replica=settings.replica,
    )
    replaying = Replaying(pool=context.pool, scheduled=deliver.wake)

    def deleted(endpoint_id: UUID) -> None:
        deliver.forget(endpoint_id)
        upkeep.wake()

    doors = Doors(
        pool=context.pool,
        secrets=secrets,
        sender=sender,
        allowed=allowed,
        replica_id=deliver.replica_id,
        changed=deliver.look_again,
        deleted=deleted,
        due=deliver.wake,
        replaying=replaying.wake,
        committed=context.committed,
    )
    return Parts(
        app=routes.app(doors, internal_token=settings.internal_token.get_secret_value()),
        reads=[Consume(deliver).read()],
        loops=[Loop("deliver", deliver.run), Loop("replay", replaying.run), Loop("upkeep", upkeep.run)],
    )


SERVICE = Service(
    "webhook-dispatcher",
    package="cualify_webhook_dispatcher",
    settings=DispatcherSettings,
    parts=parts,
    # A plan that was made while a table was small is kept; what it reads from end to end then is read in a burst too.
    database_settings={"enable_seqscan": "off"},
)

if __name__ == "__main__":
    SERVICE.run()
