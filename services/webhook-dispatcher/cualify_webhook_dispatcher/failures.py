"""Why an attempt failed: one of twenty codes, each with a sentence on how to mend it. Pure."""

from collections.abc import Mapping
from types import MappingProxyType

HOW_TO_MEND: Mapping[str, str] = MappingProxyType(
    {
        "dns_nxdomain": "The host's name does not resolve. Check its spelling and its DNS records.",
        "blocked_address": "The host resolves to a private or reserved address. Point it to a public one.",
        "connect_refused": "Nothing listens on that port. Start the server or correct the port.",
        "connect_failed": "The host can't be reached. Check its firewall and its route.",
        "tls_chain_incomplete": "The certificate's chain is incomplete. Serve the intermediate certificates too.",
        "tls_certificate": "The certificate is not valid: expired, for another name, or not publicly trusted.",
        "tls_failed": "The TLS handshake failed. Offer TLS 1.2 or 1.3 with current ciphers.",
        "timeout_dns": "The name did not resolve in time. Check its name servers.",
        "timeout_connect": "The host did not accept the connection in time. Check its firewall.",
        "timeout_tls": "The TLS handshake took too long. Check the server's load.",
        "timeout_headers": "The server did not answer in time. Answer 2xx first, then do the work.",
        "timeout_body": "The answer's body did not end in time. Answer 2xx with an empty body.",
        "connection_closed": "The server closed the connection before it had answered. See its logs.",
        "bad_answer": "The answer is not HTTP. Check that the URL names a web server.",
        "redirect": "The URL redirects, and redirects are not followed. Register the URL it redirects to.",
        "http_4xx": "The server refused the request. See its logs; check its route and its signature check.",
        "http_410": "The server says the URL is gone, so the endpoint was paused. Register another, or resume it.",
        "http_429": "The server asked us to slow down. Raise its limit for our requests.",
        "http_5xx": "The server failed. See its logs.",
        "bad_url": "The URL can't be requested. Register it again.",
    }
)


def of_status(status: int) -> str | None:
    """The code for an HTTP status; None for 2xx, which is success."""
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return "redirect"
    if status in (410, 429):
        return f"http_{status}"
    if 400 <= status < 500:
        return "http_4xx"
    return "http_5xx" if 500 <= status < 600 else "bad_answer"
