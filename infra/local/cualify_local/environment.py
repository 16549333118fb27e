"""How each service of the local stack is started, and with what environment: the one place that knows all of them."""

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cualify_local import children
from cualify_local.children import Program
from cualify_local.razorpay import LocalRazorpay
from cualify_local.settings import StackSettings

API, DIALER, BILLING, DISPATCHER, SIMULATOR = "api", "dialer", "billing", "webhook-dispatcher", "simulator"
SERVICES = (API, DIALER, BILLING, DISPATCHER)
MODULES = {
    API: "cualify_api.main",
    DIALER: "cualify_dialer.main",
    BILLING: "cualify_billing.main",
    DISPATCHER: "cualify_webhook_dispatcher.main",
    SIMULATOR: "cualify_simulator",
}
PROVIDER_AGENT_ID = "00000000-0000-4000-8000-00000000c0de"
"""The voice agent at the simulated provider, the same after a restart of the simulator."""
LOOPBACK = "127.0.0.0/8,::1/128"


def dispatchers(settings: StackSettings) -> list[str]:
    """The names of the webhook-dispatcher's processes; the api asks the first."""
    return [DISPATCHER, *(f"{DISPATCHER}-{n}" for n in range(2, settings.dispatchers + 1))]


@dataclass(frozen=True, slots=True)
class Secrets:
    """Made anew for each stack; nothing here protects anything real."""

    admin_token: str = field(default_factory=lambda: secrets.token_hex(16))
    internal_token: str = field(default_factory=lambda: secrets.token_hex(16))
    callback_token: str = field(default_factory=lambda: secrets.token_hex(16))
    key_pepper: str = field(default_factory=lambda: secrets.token_hex(32))
    callee_token_key: str = field(default_factory=lambda: secrets.token_hex(32))
    secrets_key: str = field(default_factory=lambda: secrets.token_hex(32))
    bolna_api_key: str = field(default_factory=lambda: f"bn-{secrets.token_hex(16)}")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where each process listens, on loopback."""

    ports: Mapping[str, int]

    def url(self, name: str) -> str:
        """`http://127.0.0.1:<port>` of a service or the simulator."""
        return f"http://127.0.0.1:{self.ports[name]}"


class PortTaken(Exception):
    """Somebody listens where a service is to, and would be taken for it. The message is for a person."""


def choose_ports(settings: StackSettings) -> Addresses:
    """The ports that were asked for, free ones for the rest. Raises PortTaken."""
    asked = {
        API: settings.api_port,
        DIALER: settings.dialer_port,
        BILLING: settings.billing_port,
        DISPATCHER: settings.webhook_dispatcher_port,
        SIMULATOR: settings.simulator_port,
        **dict.fromkeys(dispatchers(settings)[1:], 0),
    }
    for name, port in asked.items():
        if port and not children.is_free(port):
            variable = f"{name.replace('-', '_').upper()}_PORT"
            raise PortTaken(f"port {port} is in use: stop what listens there, or name another with {variable} (0: any)")
    free = iter(children.free_ports(len(asked)))
    return Addresses({name: port or next(free) for name, port in asked.items()})


def programs(
    settings: StackSettings,
    *,
    addresses: Addresses,
    secret: Secrets,
    databases: Mapping[str, str],
    kafka: Mapping[str, str],
    logs: Path,
    razorpay: LocalRazorpay,
    extra: Mapping[str, Mapping[str, str]],
) -> dict[str, Program]:
    """What to run, by name. `kafka` is the `KAFKA_…` part of the environment; `extra` adds to single services'."""
    own = _own_environment(settings, addresses, secret, razorpay)
    common = {
        "INTERNAL_TOKEN": secret.internal_token,
        "HOST": "127.0.0.1",
        "LOG_LEVEL": settings.log_level,
        "PYTHONUNBUFFERED": "1",
        **kafka,
    }
    processes = [(name, name) for name in MODULES] + [(name, DISPATCHER) for name in dispatchers(settings)[1:]]
    return {
        name: Program(
            name=name,
            args=(sys.executable, "-m", MODULES[service]),
            log=logs / f"{name}.log",
            env={
                **_inherited(),
                **common,
                **({"DATABASE_URL": databases[service]} if service in databases else {}),
                "PORT": str(addresses.ports[name]),
                "REPLICA": name,
                **own[service],
                **extra.get(service, {}),
            },
        )
        for name, service in processes
    }


def _own_environment(
    settings: StackSettings, at: Addresses, secret: Secrets, razorpay: LocalRazorpay
) -> dict[str, dict[str, str]]:
    return {
        API: {
            "ADMIN_TOKEN": secret.admin_token,
            "KEY_PEPPER": secret.key_pepper,
            "CALLEE_TOKEN_KEY": secret.callee_token_key,
            "BILLING_URL": at.url(BILLING),
            "DIALER_URL": at.url(DIALER),
            "WEBHOOK_DISPATCHER_URL": at.url(DISPATCHER),
            "COMPLETE_WITHIN_SEC": str(settings.complete_within_sec),
        },
        DIALER: {
            "BOLNA_URL": at.url(SIMULATOR),
            "BOLNA_API_KEY": secret.bolna_api_key,
            "BOLNA_IS_SIMULATOR": "true",
            "CALLBACK_TOKEN": secret.callback_token,
            "PROVIDER_TIMEOUT_SEC": str(settings.provider_timeout_sec),
            "LOOK_UP_EVERY_SEC": str(settings.look_up_every_sec),
            "MAX_CONCURRENT_CALLS": str(settings.max_concurrent_calls),
            "ORG_MAX_CONCURRENT_CALLS": str(settings.max_concurrent_calls),
            "BOLNA_CALLS_PER_SEC": "1000",
            "PUBLIC_URL": at.url(DIALER),
        },
        BILLING: {
            "API_URL": at.url(API),
            "RAZORPAY_URL": razorpay.url,
            "RAZORPAY_KEY_ID": razorpay.key_id,
            "RAZORPAY_KEY_SECRET": razorpay.key_secret,
            "RAZORPAY_WEBHOOK_SECRET": razorpay.webhook_secret,
        },
        DISPATCHER: {"SECRETS_KEY": secret.secrets_key, "ALLOWED_NETWORKS": LOOPBACK},
        SIMULATOR: {
            "BOLNA_API_KEY": secret.bolna_api_key,
            "SIMULATOR_SPEED": str(settings.simulator_speed),
            "SIMULATOR_AGENT_ID": PROVIDER_AGENT_ID,
            "SIMULATOR_AGENT_WEBHOOK_URL": f"{at.url(DIALER)}/callbacks/bolna/{secret.callback_token}",
            "SIMULATOR_MAX_CONCURRENCY": str(10 * settings.max_concurrent_calls),
            "CLIENT_TIMEOUT_SEC": str(settings.provider_timeout_sec),
        },
    }


def _inherited() -> dict[str, str]:
    """What a process needs from ours: to find its libraries and its time zone, and nothing that could configure it."""
    wanted = (
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
    )
    return {name: os.environ[name] for name in wanted if name in os.environ} | {"TZ": "UTC"}
