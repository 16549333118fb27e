"""The routes of webhooks. What the dispatcher answers is only outlined where it is the dispatcher's to say."""

from typing import Final

from cualify_api.openapi import examples
from cualify_api.openapi.building import (
    EVERYWHERE,
    FORWARDED,
    IDEMPOTENCY_KEY,
    LIMIT,
    NEXT,
    OFFSET,
    WITH_BODY,
    Paths,
    operation,
    parameter,
    path_id,
    success,
)
from cualify_api.openapi.schemas import INSTANT, UUID, data, listed, ref

_WEBHOOK_ID: Final = path_id("endpoint_id", examples.WEBHOOK_ID)

WEBHOOKS: Final[Paths] = {
    "/api/v1/webhooks": {
        "post": operation(
            "registerWebhook",
            "Webhooks",
            "Register a webhook",
            success(
                201, "Keep the secret.", ref("RegisteredWebhook"), {"data": examples.WEBHOOK, "secret": examples.SECRET}
            ),
            about="At most 20 an org.",
            parameters=(IDEMPOTENCY_KEY,),
            body=("RegisterWebhook", examples.REGISTER_WEBHOOK),
            refusals=(*WITH_BODY, *FORWARDED),
        ),
        "get": operation(
            "listWebhooks",
            "Webhooks",
            "List webhooks",
            success(
                200,
                "Each with its last delivery.",
                listed(ref("ListedWebhook"), "Pagination"),
                {"data": [examples.WEBHOOK_LISTED], "pagination": {**NEXT, "total": 1, "has_more": False}},
            ),
            parameters=(LIMIT, OFFSET),
            refusals=(*EVERYWHERE, *FORWARDED),
        ),
    },
    "/api/v1/webhooks/{endpoint_id}": {
        "patch": operation(
            "changeWebhook",
            "Webhooks",
            "Change a webhook, pause it or have it go on",
            success(200, "As it is now.", data(ref("Webhook")), {"data": examples.WEBHOOK}),
            parameters=(_WEBHOOK_ID,),
            body=("ChangeWebhook", {"active": False}),
            refusals=(*WITH_BODY, *FORWARDED),
        ),
        "delete": operation(
            "removeWebhook",
            "Webhooks",
            "Remove a webhook",
            success(
                200,
                "From now on nothing more is sent there.",
                data(ref("Deleted")),
                {"data": {"id": examples.WEBHOOK_ID, "deleted": True}},
            ),
            parameters=(_WEBHOOK_ID,),
            refusals=(*EVERYWHERE, *FORWARDED),
        ),
    },
    "/api/v1/webhooks/{endpoint_id}/rotate-secret": {
        "post": operation(
            "rotateSecret",
            "Webhooks",
            "Get a new secret",
            success(
                200,
                "The old secret signs beside the new one for 24 hours.",
                {"type": "object", "required": ["secret"], "properties": {"secret": {"type": "string"}}},
                {"data": examples.WEBHOOK, "secret": examples.SECRET},
            ),
            parameters=(_WEBHOOK_ID,),
            refusals=(*EVERYWHERE, "conflict", *FORWARDED),
        )
    },
    "/api/v1/webhooks/{endpoint_id}/test": {
        "post": operation(
            "testWebhook",
            "Webhooks",
            "Have a test event sent",
            {
                **success(200, "It was sent.", data({"type": "object"}), {"data": {"id": examples.EVENT_ID}}),
                **success(202, "It will be sent.", data({"type": "object"}), {"data": {"id": examples.EVENT_ID}}),
            },
            parameters=(_WEBHOOK_ID,),
            refusals=(*EVERYWHERE, "conflict", *FORWARDED),
        )
    },
    "/api/v1/webhooks/{endpoint_id}/deliveries": {
        "get": operation(
            "listDeliveries",
            "Webhooks",
            "What was sent, and how it went",
            success(
                200,
                "Newest first.",
                listed({"type": "object"}, "NextPagination"),
                {
                    "data": [examples.DELIVERY],
                    "pagination": {"limit": 50, "next_cursor": None, "has_more": False},
                },
            ),
            parameters=(
                _WEBHOOK_ID,
                LIMIT,
                parameter("cursor", {"type": "string", "maxLength": 1000}, "Where the last page ended."),
                parameter("status", {"type": "string", "enum": ["pending", "delivered", "failed"]}, "Of this status."),
                parameter("event", {"type": "string", "maxLength": 1000}, "Of this type.", example="call.completed"),
                parameter("call_id", UUID, "Of this call.", example=examples.CALL_ID),
                parameter("since", INSTANT, "Of events from this instant on."),
                parameter("until", INSTANT, "Of events before this instant."),
            ),
            refusals=(*EVERYWHERE, *FORWARDED),
        )
    },
    "/api/v1/webhooks/{endpoint_id}/replay": {
        "post": operation(
            "replayDeliveries",
            "Webhooks",
            "Have events of the past sent again",
            {
                **success(200, "It was done.", data({"type": "object"}), {"data": {"id": "1"}}),
                **success(202, "It is being done.", data({"type": "object"}), {"data": {"id": "1"}}),
            },
            parameters=(_WEBHOOK_ID,),
            body=("ReplayDeliveries", examples.REPLAY),
            refusals=(*WITH_BODY, *FORWARDED),
        )
    },
}
