"""Signatures by which a customer's server knows that a request is ours. Pure.

Standard Webhooks 1.0 (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md), and
beside it the `t=…,v1=…` form. The secret is 64 hex characters. Some key the HMAC with those characters; the official
libraries decode them as base64 first, which works for hex and gives another key. So each secret signs both ways.
"""

import base64
import hmac
import secrets
from collections.abc import Sequence


def new_secret() -> str:
    """64 hex characters: 32 random bytes."""
    return secrets.token_hex(32)


def headers(*, notification_id: str, content: bytes, secrets: Sequence[str], at_unix: int) -> list[str]:
    """The four headers of one attempt, as `name: value` lines. Each secret that is valid now adds its signatures."""
    standard = f"{notification_id}.{at_unix}.".encode() + content
    plain = f"{at_unix}.".encode() + content
    keys = [(secret.encode(), base64.b64decode(secret)) for secret in secrets]
    both = " ".join(f"v1,{_base64(key, standard)}" for pair in keys for key in pair)
    ours = ",".join(f"v1={hmac.digest(as_text, plain, 'sha256').hex()}" for as_text, _ in keys)
    return [
        f"webhook-id: {notification_id}",
        f"webhook-timestamp: {at_unix}",
        f"webhook-signature: {both}",
        f"X-Cualify-Signature: t={at_unix},{ours}",
    ]


def _base64(key: bytes, message: bytes) -> str:
    return base64.b64encode(hmac.digest(key, message, "sha256")).decode()
