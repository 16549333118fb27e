"""What the dialer is told by its environment."""

from typing import Annotated

from pydantic import Field, SecretStr

from cualify_shared.settings import ServiceSettings


class DialerSettings(ServiceSettings):
    """Names of the fields, in upper case, are the variables."""

    bolna_url: str = "https://api.bolna.ai"
    bolna_api_key: SecretStr
    callback_token: Annotated[SecretStr, Field(min_length=16)]
    """The unguessable last part of the callbacks' path: providers do not sign what they send."""

    provider_timeout_sec: Annotated[float, Field(gt=0, le=120)] = 10.0
    """How long we wait for the answer to one request. After that the outcome of a dial is unknown."""
    look_up_every_sec: Annotated[float, Field(gt=0, le=3600)] = 30.0
    settle_unknown_sec: Annotated[float, Field(gt=0, le=86_400)] = 900.0
    """How long an attempt that the provider does not know is looked for, before the call ends `outcome_unknown`."""
    max_concurrent_calls: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Lines at the provider. Calls beyond wait here, because the provider would ring them late."""
