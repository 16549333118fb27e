"""Where a webhook may go: the rules for an endpoint's URL, checked at registration with an answer that helps."""

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

from cualify_webhook_dispatcher.addresses import Network, is_allowed, is_named, literal
from cualify_webhook_dispatcher.names import Addresses, Names

MAX_CHARACTERS = 2048
RESOLVE_WITHIN_SEC = 5.0


class UrlRefused(Exception):
    """The message is for the customer."""


def host_of(url: str, *, allowed: Sequence[Network]) -> str:
    """The host of a URL that keeps the rules which need no network.

    Raises:
        UrlRefused: too long, not https (unless its host is an address that `allowed` names), credentials, no host.
    """
    if len(url) > MAX_CHARACTERS:
        raise UrlRefused(f"url must have at most {MAX_CHARACTERS} characters")
    if any(character <= " " or character == "\x7f" or character == "\\" for character in url) or not url.isascii():
        raise UrlRefused("url must be plain ASCII without spaces; encode other characters (names: xn--…, paths: %XX)")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # A wrong port raises only when it is asked for.
    except ValueError:
        raise UrlRefused("url is not a URL, e.g. https://your-app.example/cualify-webhook") from None
    if parts.scheme not in ("https", "http") or not host:
        raise UrlRefused("url must start with https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise UrlRefused("url must not contain credentials; verify our signature instead")
    if parts.scheme == "http" and not may_be_plain(url, allowed=allowed):
        raise UrlRefused("url must be https")
    return host


def may_be_plain(url: str, *, allowed: Sequence[Network]) -> bool:
    """Whether http is good enough: the host is an address that the operator's list names."""
    address = literal(urlsplit(url).hostname or "")
    return address is not None and is_named(address, allowed=allowed)


def host_and_port(url: str) -> tuple[str, int]:
    """Of any text: an empty host if it is no URL."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return "", 443


async def check(url: str, *, allowed: Sequence[Network], names: Names) -> None:
    """Raises UrlRefused unless the URL keeps the rules and its host resolves only to addresses we may connect to."""
    host = host_of(url, allowed=allowed)
    found = [host] if literal(host) else await _resolved(host, names)
    if not all(is_allowed(address, allowed=allowed) for address in found):
        raise UrlRefused(
            f"url must be on the public internet: {host} is, or resolves to, a private or reserved address"
        )


async def _resolved(host: str, names: Names) -> Addresses:
    try:
        async with asyncio.timeout(RESOLVE_WITHIN_SEC):
            found = await names.addresses(host)
    except TimeoutError:
        raise UrlRefused(f"url's host does not resolve within {RESOLVE_WITHIN_SEC:.0f} s: {host}") from None
    if not found:
        raise UrlRefused(f"url's host does not resolve: {host}")
    return found
