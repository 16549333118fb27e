"""What a person may set for the local stack, all by environment variables; everything has a default."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from cualify_shared.settings import LogLevel


class StackSettings(BaseSettings):
    """`API_PORT=8080 SIMULATOR_SPEED=10 make up`. A port of 0 means a free one."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    api_port: Annotated[int, Field(ge=0, le=65535)] = 0
    dialer_port: Annotated[int, Field(ge=0, le=65535)] = 0
    billing_port: Annotated[int, Field(ge=0, le=65535)] = 0
    webhook_dispatcher_port: Annotated[int, Field(ge=0, le=65535)] = 0
    simulator_port: Annotated[int, Field(ge=0, le=65535)] = 0
    dispatchers: Annotated[int, Field(ge=1, le=12)] = 1
    """Processes of the webhook-dispatcher: they share its partitions, of which there are 12."""
    simulator_speed: Annotated[float, Field(gt=0, le=10_000)] = 60.0
    rate_limit_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 120
    max_concurrent_calls: Annotated[int, Field(ge=1)] = 100
    look_up_every_sec: Annotated[float, Field(gt=0)] = 2.0
    """Real seconds; short here, because simulated calls are."""
    provider_timeout_sec: Annotated[float, Field(gt=0)] = 10.0
    complete_within_sec: Annotated[float, Field(gt=0)] = 60.0
    log_level: LogLevel = "INFO"
    local_dir: Path = Path(".local")
    """Where logs and `stack.json` go."""


Prefer = Literal["embedded", "real"]
