"""What the dialer is told by its environment."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from cualify_shared.settings import ServiceSettings


def networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """`10.0.0.0/8, 192.0.2.7` as networks. Raises `ValueError`."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _as_networks(text: str) -> str:
    networks(text)
    return text


def _as_header(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if text and not text.partition(":")[2].strip():
        raise ValueError("a header is written `Name: value`")
    return secret


Networks = Annotated[str, AfterValidator(_as_networks)]
Header = Annotated[SecretStr, AfterValidator(_as_header)]
Lines = Annotated[int, Field(ge=1, le=10_000)]
PerSecond = Annotated[float, Field(gt=0, le=1000)]
NONE = SecretStr("")


class DialerSettings(ServiceSettings):
    """Names of the fields, in upper case, are the variables. A provider without its account is not there."""

    public_url: str = "http://127.0.0.1:8001"
    """Where providers reach this service; part of the addresses that they call back, and sign."""
    callback_token: Annotated[SecretStr, Field(min_length=16)]
    """The unguessable part of the callbacks' paths, and the key of the tokens of single attempts."""

    bolna_url: str = "https://api.bolna.ai"
    bolna_api_key: SecretStr
    bolna_callback_header: Header = NONE
    """`Name: value` as set in Bolna's dashboard; empty: not asked for."""
    bolna_callback_networks: Networks = ""
    """Bolna calls back from 13.203.39.153, 13.126.9.249, 13.202.133.53; empty: from anywhere."""
    bolna_calls_per_sec: PerSecond = 8.0
    """Its limit is 500 a minute."""

    exotel_url: str = "https://api.in.exotel.com"
    exotel_account_sid: str = ""
    exotel_api_key: SecretStr = NONE
    exotel_api_token: SecretStr = NONE
    exotel_app_url: str = "http://my.exotel.com"
    exotel_caller_id: str = ""
    """The ExoPhone that calls come from where the call names none."""
    exotel_timeout_sec: Annotated[float, Field(gt=0, le=300)] = 90.0
    """Its create request is answered only after the callee's leg was handed to an operator."""
    exotel_utc_offset_min: Annotated[int, Field(ge=-720, le=840)] = 330
    exotel_callback_networks: Networks = ""
    exotel_max_concurrent_calls: Lines = 10
    exotel_calls_per_sec: PerSecond = 2.0

    plivo_url: str = "https://api.plivo.com"
    plivo_auth_id: str = ""
    plivo_auth_token: SecretStr = NONE
    plivo_answer_url: str = ""
    plivo_caller_id: str = ""
    plivo_max_concurrent_calls: Lines = 10
    plivo_calls_per_sec: PerSecond = 2.0

    twilio_url: str = "https://api.twilio.com"
    twilio_account_sid: str = ""
    twilio_auth_token: SecretStr = NONE
    twilio_caller_id: str = ""
    twilio_max_concurrent_calls: Lines = 10
    twilio_calls_per_sec: PerSecond = 1.0

    bolna_is_simulator: bool = False
    """What stands at `bolna_url` rings nobody. Only then are test keys' calls dialed; else they end `no_simulator`."""

    provider_timeout_sec: Annotated[float, Field(gt=0, le=120)] = 10.0
    """How long we wait for the answer to one request. After that the outcome of a dial is unknown."""
    look_up_every_sec: Annotated[float, Field(gt=0, le=3600)] = 30.0
    settle_unknown_sec: Annotated[float, Field(gt=0, le=86_400)] = 900.0
    """How long an attempt that the provider does not know is looked for, before the call ends `outcome_unknown`."""
    give_up_after_sec: Annotated[float, Field(gt=0, le=604_800)] = 3600.0
    """How long after its limit an attempt that never ends, or can't be read, is waited for; then it is parked."""
    max_concurrent_calls: Lines = 100
    """Lines at Bolna. Calls beyond wait here, because the provider would ring them late."""
    org_max_concurrent_calls: Lines = 100
    """What an org may have open at once where its call does not say what its plan allows."""
    keep_provider_events_days: Annotated[float, Field(gt=0, le=3650)] = 30.0
