"""What every service is told by its environment. A service adds its own fields in its `settings.py`."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LogLevel: TypeAlias = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(lambda given: given.upper() if isinstance(given, str) else given),
]


class KafkaSettings(BaseSettings):
    """Where Kafka is, and how one is let in there. Read from variables of the same name in upper case.

    An empty variable is none, as where `${NAME:-}` stands in a file: it is no secret that opens to everybody.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    kafka_bootstrap_servers: str
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str = ""
    kafka_sasl_password: SecretStr = SecretStr("")
    kafka_ca_file: str = ""
    """Certificates, as PEM, that the brokers' are signed by; empty: the system's."""

    @model_validator(mode="after")
    def _names_itself_to_kafka(self) -> Self:
        named = self.kafka_sasl_username and self.kafka_sasl_password.get_secret_value()
        if self.kafka_security_protocol.startswith("SASL") and not named:
            raise ValueError("SASL needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD")
        return self


class ServiceSettings(KafkaSettings):
    """Read from environment variables of the same name in upper case; unknown variables are ignored."""

    database_url: SecretStr
    """The service's own PostgreSQL database, with its own role."""
    database_pool_size: Annotated[int, Field(ge=2, le=100)] = 10

    kafka_topic_prefix: str = ""
    """Put before every topic and group name, so that several environments can share one cluster."""
    kafka_embedded: bool = False
    """The broker is the embedded one: topics appear on first use, and it neither wakes a waiting fetch nor knows static
    members, so both are made up for by shorter times."""
    replica: str = ""
    """This replica's name where it has a lasting one (a StatefulSet's pod). Started again under its name, a replica
    takes its partitions over at once; without a name they wait until its old session has timed out."""

    internal_token: SecretStr
    """Bearer token between the services, and for the operator routes of each."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    log_level: LogLevel = "INFO"
    drain_sec: Annotated[float, Field(gt=0, le=300)] = 10.0
    """How long a stopping service may finish what it has begun; then it exits hard, and the leases do the rest."""
    stalled_after_sec: Annotated[float, Field(gt=0)] = 60.0
    """A consumer with lag and without progress for so long exits the process, to be started again."""
