"""Where a webhook may go: the rules for an endpoint's URL, checked at registration with an answer that helps."""

import asyncio
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from cualify_webhook_dispatcher.addresses import Network, is_allowed, is_named, literal

MAX_CHARACTERS = 2048
RESOLVE_WITHIN_SEC = 5.0


class UrlRefused(Exception):
    """The message is for the customer."""


def host_of(url: str, *, allowed: Sequence[Network]) -> tuple[str, int]:
    """Host and port of a URL that keeps the rules which need no network.

    Raises:
        UrlRefused: too long, not https (unless its host is an address that `allowed` names), credentials, no host.
    """
    if len(url) > MAX_CHARACTERS:
        raise UrlRefused(f"url must have at most {MAX_CHARACTERS} characters")
    if any(character <= " " or character == "\x7f" or character == "\\" for character in url) or not url.isascii():
        raise UrlRefused("url must be plain ASCII without spaces; encode other characters (names: xn--…, paths: %XX)")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UrlRefused("url is not a URL, e.g. https://your-app.example/cualify-webhook") from None
    if parts.scheme not in ("https", "http") or not host:
        raise UrlRefused("url must start with https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise UrlRefused("url must not contain credentials; verify our signature instead")
    if parts.scheme == "http" and not may_be_plain(url, allowed=allowed):
        raise UrlRefused("url must be https")
    return host, port or (443 if parts.scheme == "https" else 80)


def may_be_plain(url: str, *, allowed: Sequence[Network]) -> bool:
    """Whether http is good enough: the host is an address that the operator's list names."""
    address = literal(urlsplit(url).hostname or "")
    return address is not None and is_named(address, allowed=allowed)


async def check(url: str, *, allowed: Sequence[Network]) -> None:
    """Raises UrlRefused unless the URL keeps the rules and its host resolves only to addresses we may connect to."""
    host, port = host_of(url, allowed=allowed)
    found = [host] if literal(host) else await _resolved(host, port)
    if not all(is_allowed(address, allowed=allowed) for address in found):
        raise UrlRefused(
            f"url must be on the public internet: {host} is, or resolves to, a private or reserved address"
        )


async def _resolved(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_WITHIN_SEC):
            answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise UrlRefused(f"url's host does not resolve within {RESOLVE_WITHIN_SEC:.0f} s: {host}") from None
    except (OSError, UnicodeError):
        raise UrlRefused(f"url's host does not resolve: {host}") from None
    if not answers:
        raise UrlRefused(f"url's host does not resolve: {host}")
    return [str(answer[4][0]) for answer in answers]
