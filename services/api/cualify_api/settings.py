"""What the api is told by its environment."""

from typing import Annotated

from pydantic import Field, SecretStr

from cualify_shared.settings import ServiceSettings


class ApiSettings(ServiceSettings):
    """Variables of the same names in upper case."""

    admin_token: Annotated[SecretStr, Field(min_length=8)]
    """Bearer token of the operators, for `/admin/v1`."""
    key_pepper: Annotated[SecretStr, Field(min_length=8)]
    """Keys the hashes of API keys. Changing it voids every key."""
    callee_token_key: Annotated[SecretStr, Field(min_length=8)]
    """Keys the tokens that stand for phone numbers in analytics events."""

    billing_url: str
    dialer_url: str
    webhook_dispatcher_url: str

    complete_within_sec: Annotated[float, Field(gt=0)] = 60.0
    """How long the end of a call waits for its cost and its artifacts before it is told without them."""

    unauthenticated_per_minute: Annotated[int, Field(ge=1)] = 60
    """How many requests without a valid key are heard from one address. Behind a proxy, the proxy's address has to be
    in FORWARDED_ALLOW_IPS, or all clients count as one."""
