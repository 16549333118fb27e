"""The providers that the environment names an account for: what each can carry, and how its callbacks are guarded."""

from dataclasses import dataclass

from cualify_dialer.callbacks import Guard
from cualify_dialer.dial import Capacity
from cualify_dialer.providers import Provider
from cualify_dialer.providers.bolna import Bolna
from cualify_dialer.settings import DialerSettings, networks


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One provider, as it is used here."""

    provider: Provider
    capacity: Capacity
    guard: Guard


def accounts(settings: DialerSettings) -> dict[str, Account]:
    """By the provider's name."""
    found = [_bolna(settings)]
    return {account.provider.name: account for account in found}


def _bolna(settings: DialerSettings) -> Account:
    return Account(
        provider=Bolna(
            url=settings.bolna_url,
            api_key=settings.bolna_api_key.get_secret_value(),
            timeout_sec=settings.provider_timeout_sec,
        ),
        capacity=Capacity(lines=settings.max_concurrent_calls, calls_per_sec=settings.bolna_calls_per_sec),
        guard=Guard(
            networks(settings.bolna_callback_networks), _header(settings.bolna_callback_header.get_secret_value())
        ),
    )


def _header(text: str) -> tuple[str, str] | None:
    name, _, value = text.partition(":")
    return (name.strip(), value.strip()) if value.strip() else None
