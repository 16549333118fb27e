"""The providers that the environment names an account for: what each can carry, and how its callbacks are guarded."""

import base64
from dataclasses import dataclass

from pydantic import SecretStr

from cualify_dialer.callbacks import Guard
from cualify_dialer.dial import Capacity
from cualify_dialer.providers import Provider
from cualify_dialer.providers.bolna import Bolna
from cualify_dialer.providers.exotel import Exotel
from cualify_dialer.providers.plivo import Plivo
from cualify_dialer.providers.twilio import Twilio
from cualify_dialer.settings import DialerSettings, networks


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One provider, as it is used here."""

    provider: Provider
    capacity: Capacity
    guard: Guard


def accounts(settings: DialerSettings) -> dict[str, Account]:
    """By the provider's name."""
    found = [_bolna(settings), _exotel(settings), _plivo(settings), _twilio(settings)]
    return {account.provider.name: account for account in found if account is not None}


def _bolna(settings: DialerSettings) -> Account | None:
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


def _exotel(settings: DialerSettings) -> Account | None:
    if not settings.exotel_account_sid:
        return None
    provider = Exotel(
        url=settings.exotel_url,
        account_sid=settings.exotel_account_sid,
        authorization=_basic(settings.exotel_api_key, settings.exotel_api_token),
        app_url=settings.exotel_app_url,
        caller_id=settings.exotel_caller_id,
        timeout_sec=settings.provider_timeout_sec,
        dial_timeout_sec=settings.exotel_timeout_sec,
        utc_offset_min=settings.exotel_utc_offset_min,
    )
    capacity = Capacity(lines=settings.exotel_max_concurrent_calls, calls_per_sec=settings.exotel_calls_per_sec)
    guard = Guard(networks(settings.exotel_callback_networks))
    return Account(provider=provider, capacity=capacity, guard=guard)


def _plivo(settings: DialerSettings) -> Account | None:
    if not settings.plivo_auth_id:
        return None
    provider = Plivo(
        url=settings.plivo_url,
        auth_id=settings.plivo_auth_id,
        auth_token=settings.plivo_auth_token.get_secret_value(),
        authorization=_basic(SecretStr(settings.plivo_auth_id), settings.plivo_auth_token),
        answer_url=settings.plivo_answer_url,
        caller_id=settings.plivo_caller_id,
        timeout_sec=settings.provider_timeout_sec,
    )
    capacity = Capacity(lines=settings.plivo_max_concurrent_calls, calls_per_sec=settings.plivo_calls_per_sec)
    return Account(provider=provider, capacity=capacity, guard=Guard())


def _twilio(settings: DialerSettings) -> Account | None:
    if not settings.twilio_account_sid:
        return None
    provider = Twilio(
        url=settings.twilio_url,
        account_sid=settings.twilio_account_sid,
        auth_token=settings.twilio_auth_token.get_secret_value(),
        authorization=_basic(SecretStr(settings.twilio_account_sid), settings.twilio_auth_token),
        caller_id=settings.twilio_caller_id,
        timeout_sec=settings.provider_timeout_sec,
    )
    capacity = Capacity(lines=settings.twilio_max_concurrent_calls, calls_per_sec=settings.twilio_calls_per_sec)
    return Account(provider=provider, capacity=capacity, guard=Guard())


def _basic(user: SecretStr, password: SecretStr) -> str:
    pair = f"{user.get_secret_value()}:{password.get_secret_value()}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _header(text: str) -> tuple[str, str] | None:
    name, _, value = text.partition(":")
    return (name.strip(), value.strip()) if value.strip() else None
