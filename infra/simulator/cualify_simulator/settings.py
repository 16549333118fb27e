"""What the environment may say about one simulator process."""

from uuid import UUID

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Field names are the environment's names, in lower case."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=9100, ge=0, le=65_535)
    bolna_api_key: str = Field(default="bn-simulator", min_length=1)
    exotel_account_sid: str = "simulator"
    exotel_api_key: str = "exotel-key"
    exotel_api_token: str = "exotel-token"
    twilio_account_sid: str = "ACsimulator"
    twilio_auth_token: str = "twilio-token"
    plivo_auth_id: str = "MAsimulator"
    plivo_auth_token: str = "plivo-token"

    simulator_speed: float = Field(default=1.0, gt=0)
    simulator_max_concurrency: int = Field(default=1_000, ge=1)
    simulator_agent_id: UUID | None = None
    """An agent that is there from the start, under the same id after every restart; else agents are made by request."""
    simulator_agent_webhook_url: str = ""
    """Where that agent's callbacks go; empty: nowhere."""
    simulator_list_lag_sec: float = Field(default=0.0, ge=0)
    """Simulated seconds before a new execution shows up in the list."""

    simulator_journal_entries: int = Field(default=1_000_000, ge=1_000)
    simulator_executions_kept: int = Field(default=100_000, ge=100)

    client_timeout_sec: float = Field(default=10.0, gt=0)
    """Real seconds for which the client under test waits for POST /call; the late answer comes after 1.5 times that."""
