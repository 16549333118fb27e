"""The routes of calls."""

from typing import Final

from cualify_api.calls.call import STATUSES
from cualify_api.openapi import examples
from cualify_api.openapi.building import (
    CURSOR,
    IDEMPOTENCY_KEY,
    LIMIT,
    NAMED,
    NEXT_WITH_CURSOR,
    OF_THE_LIMIT,
    OFFSET,
    PREFER,
    WITH_BODY,
    Paths,
    content,
    headers,
    operation,
    parameter,
    path_id,
    success,
)
from cualify_api.openapi.schemas import E164, INSTANT, UUID, data, listed, ref

_TIMES: Final = (
    parameter("created_after", INSTANT, "Placed at this time or later.", example="2026-05-01T00:00:00+05:30"),
    parameter("created_before", INSTANT, "Placed earlier than this.", example="2026-06-01T00:00:00+05:30"),
)

CALLS: Final[Paths] = {
    "/api/v1/calls": {
        "post": operation(
            "placeCall",
            "Calls",
            "Place an outbound call",
            success(
                201,
                "Accepted. The call is queued, or scheduled.",
                data(ref("AcceptedCall")),
                {"data": examples.ACCEPTED},
            ),
            about="What it may cost at most is held on your wallet. Refusals come in this order: 401, 429, 400, 404 of "
            "the agent, 403 of the plan or of `from_e164`, 402.",
            parameters=(IDEMPOTENCY_KEY, PREFER),
            body=("PlaceCall", examples.PLACE_CALL),
            refusals=(*WITH_BODY, "not_found", "insufficient_credits", "upstream_error"),
        ),
        "get": operation(
            "listCalls",
            "Calls",
            "List calls",
            success(
                200,
                "Newest first.",
                listed(ref("Call"), "CallPagination"),
                {"data": [examples.CALL], "pagination": {**NEXT_WITH_CURSOR, "total_is_exact": True}},
            ),
            parameters=(
                LIMIT,
                OFFSET,
                CURSOR,
                parameter(
                    "status",
                    {"type": "string"},
                    f"One or more, with commas: {', '.join(STATUSES)}.",
                    example="completed",
                ),
                parameter("agent_id", UUID, "Of this agent."),
                parameter("to_e164", E164, "To this number.", example="+919812345678"),
                parameter("direction", {"type": "string", "enum": ["outbound", "inbound"]}, "Outbound, as yet."),
                *_TIMES,
                parameter("external_id", {"type": "string", "maxLength": 1000}, "By your own id."),
                {
                    "name": "metadata",
                    "in": "query",
                    "style": "deepObject",
                    "explode": True,
                    "schema": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 1000}},
                    "description": "`metadata[key]=value`: strings, numbers and booleans, compared as text.",
                    "example": {"crm_lead_id": "L-7890"},
                },
            ),
        ),
    },
    "/api/v1/calls/{call_id}": {
        "get": operation(
            "getCall",
            "Calls",
            "One call, with transcript and timeline",
            success(200, "The call.", data(ref("CallDetail")), {"data": examples.CALL_DETAIL}),
            parameters=(path_id("call_id", examples.CALL_ID),),
            refusals=NAMED,
        )
    },
    "/api/v1/calls/{call_id}/cancel": {
        "post": operation(
            "cancelCall",
            "Calls",
            "Call a call off",
            success(200, "It is being canceled, or was.", data(ref("CallDetail")), {"data": examples.CALL_CANCELED}),
            about="Possible until the call is over; a live call is hung up where the provider can. Asking again "
            "changes nothing.",
            parameters=(path_id("call_id", examples.CALL_ID),),
            refusals=(*NAMED, "conflict"),
        )
    },
    "/api/v1/calls/{call_id}/events": {
        "get": operation(
            "getTimeline",
            "Calls",
            "A call's timeline, whole or live",
            {
                "200": {
                    "description": "Oldest first; or, asked for with `Accept: text/event-stream`, as it happens.",
                    "headers": headers(*OF_THE_LIMIT),
                    "content": {
                        **content(
                            {
                                "type": "object",
                                "required": ["data"],
                                "properties": {"data": {"type": "array", "items": ref("TimelineEntry")}},
                            },
                            {"data": examples.TIMELINE},
                        ),
                        "text/event-stream": {"schema": {"type": "string"}, "example": examples.STREAM},
                    },
                },
                "204": {"description": "To a stream: the call is over, and all of it has been told."},
            },
            about="A stream ends with the call; after ten minutes it ends too, and is taken up again with "
            "`Last-Event-ID`. An org may have 20 at once.",
            parameters=(
                path_id("call_id", examples.CALL_ID),
                parameter(
                    "Last-Event-ID",
                    {"type": "string", "pattern": r"^([0-9]{1,9}-[0-9]{1,9})?$"},
                    "The `id` of the last event of a stream that is to go on.",
                    where="header",
                ),
            ),
            refusals=NAMED,
        )
    },
}
