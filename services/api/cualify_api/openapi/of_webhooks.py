"""The routes of webhooks, as the dispatcher answers them; a journey holds its answers to this."""

from typing import Final

from cualify_api.openapi import examples
from cualify_api.openapi.building import (
    CURSOR,
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
_REPLAY_ID: Final = path_id("replay_id", examples.REPLAY_ID)

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
            success(
                200,
                "It was sent, now, and this came of it.",
                data(ref("TestedWebhook")),
                {"data": examples.WEBHOOK_TESTED},
            ),
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
                listed(ref("Delivery"), "NextPagination"),
                {"data": [examples.DELIVERY], "pagination": {"limit": 50, "next_cursor": None, "has_more": False}},
            ),
            parameters=(
                _WEBHOOK_ID,
                LIMIT,
                parameter("cursor", {"type": "string", "maxLength": 100}, CURSOR["description"]),
                parameter("status", {"type": "string", "enum": ["pending", "delivered", "failed"]}, "Of this status."),
                parameter("event", {"type": "string", "maxLength": 100}, "Of this type.", example="call.completed"),
                parameter("call_id", UUID, "Of this call."),
                parameter("since", INSTANT, "Of events at this time or later."),
                parameter("until", INSTANT, "Of events before this time."),
            ),
            refusals=(*EVERYWHERE, *FORWARDED),
        )
    },
    "/api/v1/webhooks/{endpoint_id}/deliveries/{event_id}": {
        "get": operation(
            "showDelivery",
            "Webhooks",
            "One of them, with its request and every attempt",
            success(200, "As it is now.", data(ref("ShownDelivery")), {"data": examples.DELIVERY_SHOWN}),
            parameters=(
                _WEBHOOK_ID,
                parameter(
                    "event_id",
                    {"type": "string", "pattern": "^evt_[0-9a-f]{32}$"},
                    "The event's id.",
                    where="path",
                    example=examples.EVENT_ID,
                ),
            ),
            refusals=(*EVERYWHERE, *FORWARDED),
        )
    },
    "/api/v1/webhooks/{endpoint_id}/replay": {
        "post": operation(
            "replayDeliveries",
            "Webhooks",
            "Have events of the past sent again",
            success(
                202,
                "They are put on the list again, behind what is new. A paused webhook is resumed.",
                data(ref("Replay")),
                {"data": examples.REPLAYING},
            ),
            parameters=(_WEBHOOK_ID,),
            body=("ReplayDeliveries", examples.REPLAY),
            refusals=(*WITH_BODY, *FORWARDED),
        )
    },
    "/api/v1/webhooks/{endpoint_id}/replays": {
        "get": operation(
            "listReplays",
            "Webhooks",
            "The latest replays, and how far they are",
            success(
                200,
                "Newest first, 100 at most.",
                data({"type": "array", "items": ref("Replay")}),
                {"data": [examples.REPLAYING]},
            ),
            parameters=(_WEBHOOK_ID,),
            refusals=(*EVERYWHERE, *FORWARDED),
        )
    },
    "/api/v1/webhooks/{endpoint_id}/replays/{replay_id}": {
        "get": operation(
            "showReplay",
            "Webhooks",
            "How far a replay is",
            success(200, "As it is now.", data(ref("Replay")), {"data": examples.REPLAYING}),
            parameters=(_WEBHOOK_ID, _REPLAY_ID),
            refusals=(*EVERYWHERE, *FORWARDED),
        )
    },
    "/api/v1/webhooks/{endpoint_id}/replays/{replay_id}/{wish}": {
        "post": operation(
            "steerReplay",
            "Webhooks",
            "Pause a replay, resume or cancel it",
            success(200, "As it is now.", data(ref("Replay")), {"data": {**examples.REPLAYING, "state": "paused"}}),
            about="After a pause what is on the list already, 100 at most, still goes; after a cancel it does not.",
            parameters=(
                _WEBHOOK_ID,
                _REPLAY_ID,
                parameter(
                    "wish",
                    {"type": "string", "enum": ["pause", "resume", "cancel"]},
                    "What is to become of it.",
                    where="path",
                    example="pause",
                ),
            ),
            refusals=(*EVERYWHERE, "conflict", *FORWARDED),
        )
    },
}
