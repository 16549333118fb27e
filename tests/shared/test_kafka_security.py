"""A broker that is met by TLS and asks who one is: the relay publishes there, readers read, strangers are told why."""

import asyncio
import datetime
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from faststream.security import BaseSecurity
from pydantic import SecretStr, ValidationError

from cualify_local.children import free_port
from cualify_local.kafka.broker import Kafka, KafkaUnavailable
from cualify_local.kafka.choose import stop_kafka
from cualify_local.kafka.jvm import start_jvm
from cualify_shared import outbox
from cualify_shared.database import Pool
from cualify_shared.events.create_topics import create_topics
from cualify_shared.kafka_security import security_of
from cualify_shared.outbox import Relay
from cualify_shared.settings import ServiceSettings
from tests.shared.conftest import dialing
from tests.shared.test_reading import make_reading, until_seen
from tests.support.platform import until

PASSWORD = "only for this test"
LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


@dataclass(frozen=True, slots=True)
class Guarded:
    """The broker, where it is met by TLS, and who has signed its certificate."""

    kafka: Kafka
    address: str
    ca_file: Path

    def settings(self, *, password: str = PASSWORD) -> ServiceSettings:
        return ServiceSettings(
            database_url=SecretStr("postgresql://nowhere/"),
            internal_token=SecretStr("t" * 16),
            kafka_bootstrap_servers=self.address,
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism="PLAIN",
            kafka_sasl_username="dialer",
            kafka_sasl_password=SecretStr(password),
            kafka_ca_file=str(self.ca_file),
        )

    def at(self) -> Kafka:
        return Kafka(self.address, "jvm")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, port = tmp_path_factory.mktemp("guarded"), free_port()
    certificate, key = self_signed()
    (folder / "ca.pem").write_text(certificate)
    (folder / "broker.pem").write_text(key + certificate)
    more = {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{LOGIN} required user_dialer="{PASSWORD}";',
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": folder / "broker.pem",
    }
    try:
        kafka = start_jvm(folder / "data", folder / "log", listeners={"SASL_SSL": port}, more=more)
    except KafkaUnavailable as why:
        pytest.skip(str(why))
    yield Guarded(kafka, f"127.0.0.1:{port}", folder / "ca.pem")
    stop_kafka(kafka)


async def test_what_the_relay_publishes_by_tls_is_read_by_tls(dsn: str, pool: Pool, guarded: Guarded) -> None:
    prefix, stop, security = f"s{uuid4().hex[:6]}.", asyncio.Event(), security_of(guarded.settings())
    assert await create_topics(guarded.address, prefix=prefix, security=security)
    relay = Relay(dsn=dsn, service="test", bootstrap_servers=guarded.address, topic_prefix=prefix, security=security)
    reading = make_reading(pool, guarded.at(), prefix, stop, security=security)
    running = [asyncio.create_task(one.run(stop)) for one in (relay, reading)]
    async with pool.acquire() as connection, connection.transaction():
        await outbox.put(connection, [dialing(1), dialing(1)])
    relay.wake()
    await until_seen(pool, 2)
    stop.set()
    await asyncio.wait_for(asyncio.gather(*running), 20)


@pytest.mark.parametrize("wrong", ["password", "protocol", "signature"])
async def test_who_is_not_let_in_says_so_and_loses_nothing(dsn: str, pool: Pool, guarded: Guarded, wrong: str) -> None:
    settings = {
        "password": guarded.settings(password="guessed"),
        "protocol": guarded.settings().model_copy(update={"kafka_security_protocol": "PLAINTEXT"}),
        "signature": guarded.settings().model_copy(update={"kafka_ca_file": ""}),
    }[wrong]
    async with pool.acquire() as connection, connection.transaction():
        await outbox.put(connection, [dialing(1)])
    relay, stop = relay_to(guarded, dsn, security_of(settings)), asyncio.Event()
    running = asyncio.create_task(relay.run(stop))

    async def told() -> bool:
        return relay.problem is not None

    await until(told, "the relay says that it can't publish", within_sec=60)
    assert guarded.address.partition(":")[0] in str(relay.problem)
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 1
    stop.set()
    await asyncio.wait_for(running, 20)


def relay_to(guarded: Guarded, dsn: str, security: BaseSecurity | None) -> Relay:
    return Relay(dsn=dsn, service="test", bootstrap_servers=guarded.address, topic_prefix="x.", security=security)


def test_sasl_without_a_name_is_refused_at_the_start(guarded: Guarded) -> None:
    with pytest.raises(ValidationError, match="KAFKA_SASL_USERNAME"):
        guarded.settings(password="")


def self_signed() -> tuple[str, str]:
    """A certificate for 127.0.0.1 and its key, as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a broker of a test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(encoding).decode(), private.decode()
