"""A test event, sent now: what a customer's server says to a signed request, shown with how to mend what is wrong."""

from typing import Any

import orjson

from cualify_shared.clock import now, rfc3339
from cualify_shared.ids import new_id, notification_id
from cualify_webhook_dispatcher import failures, sign
from cualify_webhook_dispatcher.handle import Answer
from cualify_webhook_dispatcher.jobs import Endpoint
from cualify_webhook_dispatcher.recording import KEPT_OF_ANSWER_BYTES
from cualify_webhook_dispatcher.secrets import Secrets
from cualify_webhook_dispatcher.send import Sender

TYPE = "ping"


async def ping(sender: Sender, secrets: Secrets, endpoint: Endpoint) -> dict[str, Any]:
    """Sends one, paused or not, breaker open or not. It is not kept and changes nothing."""
    at = now()
    id_ = notification_id(new_id())
    data = {"endpoint_id": str(endpoint.id)}
    body = {"id": id_, "type": TYPE, "timestamp": rfc3339(at), "org_id": str(endpoint.org_id), "data": data}
    content = orjson.dumps(body)
    headers = sign.headers(
        notification_id=id_,
        content=content,
        secrets=secrets.all_of(endpoint, at=at),
        at_unix=int(at.timestamp()),
    )
    outcome = await sender.post(endpoint.url, headers=headers, content=content)
    status = outcome.status if isinstance(outcome, Answer) else None
    code = failures.of_status(outcome.status) if isinstance(outcome, Answer) else outcome.code
    answer = outcome.body[:KEPT_OF_ANSWER_BYTES].decode("utf-8", "replace") if isinstance(outcome, Answer) else None
    return {
        "delivered": code is None,
        "status_code": status,
        "failure_code": code,
        "how_to_mend": failures.HOW_TO_MEND[code] if code else None,
        "redirects_to": outcome.redirect_to if isinstance(outcome, Answer) else None,
        "duration_ms": int(outcome.duration.total_seconds() * 1000),
        "request": {"url": endpoint.url, "webhook_id": id_, "body": body},
        "response_body": answer,
    }
