"""Which addresses we may connect to: global ones, and those of networks that the operator names. Pure.

A customer chooses the URL, so without this a webhook reaches whatever our network reaches: a database, a cloud's
metadata service, this very process. Forms that carry another address inside (mapped, 6to4, NAT64, ISATAP, Teredo) are
refused whole: a gateway on the way may take the inner one out. The tables are IANA's special-purpose registries:
https://www.iana.org/assignments/iana-ipv4-special-registry and …-ipv6-special-registry
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address

_NEVER_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; a cloud's metadata service too
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's metadata and wire server, on a public address
        "169.254.0.0/16",  # link-local, and the clouds' metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
"""All that is global unicast. Outside: loopback, mapped, NAT64, unique-local, link-local, multicast."""
_NEVER_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)
_ISATAP = (0x00005EFE, 0x02005EFE)


def networks(text: str) -> tuple[Network, ...]:
    """From `127.0.0.0/8,::1/128`. Raises ValueError for what is no network."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def is_allowed(address: str, *, allowed: Sequence[Network]) -> bool:
    """Whether a connection to this address (no name) may be opened."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return is_named(parsed, allowed=allowed) or is_global(parsed)


def is_named(address: Address, *, allowed: Sequence[Network]) -> bool:
    """Whether the operator's list names it. A mapped form of a named address is not named."""
    return any(address.version == network.version and address in network for network in allowed)


def is_global(address: Address) -> bool:
    """Whether it is an ordinary address of the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NEVER_V4)
    if address not in _GLOBAL_V6 or any(address in network for network in _NEVER_V6):
        return False
    return (int(address) >> 32) & 0xFFFFFFFF not in _ISATAP


def literal(host: str) -> Address | None:
    """The address that a URL's host spells out, brackets or not; None for a name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None
