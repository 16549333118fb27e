"""How a service proves to Kafka who it is, and knows that it is Kafka: TLS and SASL, as managed clusters want them."""

import ssl
from typing import Any

from faststream.kafka.security import parse_security
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from cualify_shared.settings import KafkaSettings

_SASL = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}


def security_of(settings: KafkaSettings) -> BaseSecurity:
    """What the settings say. The certificates are read once, here. Raises OSError where KAFKA_CA_FILE can't be."""
    protocol = settings.kafka_security_protocol
    context = ssl.create_default_context(cafile=settings.kafka_ca_file or None) if protocol.endswith("SSL") else None
    if not protocol.startswith("SASL"):
        return BaseSecurity(ssl_context=context, use_ssl=context is not None)
    return _SASL[settings.kafka_sasl_mechanism](
        username=settings.kafka_sasl_username,
        password=settings.kafka_sasl_password.get_secret_value(),
        ssl_context=context,
        use_ssl=context is not None,
    )


def for_aiokafka(security: BaseSecurity | None) -> dict[str, Any]:
    """The same as arguments of aiokafka's clients."""
    return parse_security(security)
