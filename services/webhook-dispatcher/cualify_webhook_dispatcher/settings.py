"""What the webhook-dispatcher is told by its environment, beside what every service is told."""

from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from cualify_shared.settings import ServiceSettings
from cualify_webhook_dispatcher import addresses


class DispatcherSettings(ServiceSettings):
    """Names in upper case: SECRETS_KEY, SECRETS_KEY_ID, ALLOWED_NETWORKS, DELIVERY_TIMEOUT_SEC, MAX_IN_FLIGHT."""

    secrets_key: SecretStr
    """64 hex characters: the AES-256 key that endpoints' secrets are sealed under."""
    secrets_key_id: Annotated[str, Field(min_length=1, max_length=64)] = "1"

    allowed_networks: str = ""
    """Networks, separated by commas, that may be delivered to although they are not public; http included."""

    delivery_timeout_sec: Annotated[float, Field(gt=0, le=60)] = 15.0
    """From the name's resolution to the answer's last byte."""
    max_in_flight: Annotated[int, Field(ge=1, le=5000)] = 200
    """Requests under way at once, in this process."""

    @field_validator("secrets_key")
    @classmethod
    def _is_a_key(cls, value: SecretStr) -> SecretStr:
        try:
            right = len(bytes.fromhex(value.get_secret_value())) == 32
        except ValueError:
            right = False
        if not right:
            raise ValueError("64 hex characters are needed, as `openssl rand -hex 32` prints them")
        return value

    @field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        addresses.networks(value)
        return value
