"""The schemas of the OpenAPI document. Requests are exact; answers are open: later versions add fields."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from cualify_api.calls.call import REF_PREFIX, STATUSES
from cualify_api.calls.schemas import METADATA_KEYS
from cualify_api.contacts.contact import CONSENTS
from cualify_api.web.errors import STATUS
from cualify_shared.events import public_names

Schema: TypeAlias = dict[str, Any]

UUID: Final[Schema] = {"type": "string", "format": "uuid"}
INSTANT: Final[Schema] = {"type": "string", "format": "date-time", "description": "RFC 3339; answers are in UTC."}
E164: Final[Schema] = {"type": "string", "pattern": r"^\+[1-9][0-9]{6,14}$", "examples": ["+919812345678"]}
LANGUAGE: Final[Schema] = {
    "type": "string",
    "maxLength": 35,
    "pattern": r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$",
    "description": "A BCP 47 tag.",
    "examples": ["hi-IN"],
}
PAISE: Final[Schema] = {"type": "integer", "minimum": 0, "description": "Whole paise."}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
METADATA: Final[Schema] = {
    "type": "object",
    "maxProperties": METADATA_KEYS,
    "description": "Yours; at most 50 keys, 16 KB as JSON, 32 levels.",
}
CALL_STATUS: Final[Schema] = {"type": "string", "enum": list(STATUSES)}
CONSENT: Final[Schema] = {"type": "string", "enum": list(CONSENTS)}
EVENT_NAMES: Final[Schema] = {
    "type": "array",
    "items": {"type": "string", "enum": [*public_names(), "*"]},
    "minItems": 1,
    "maxItems": 50,
}
WEBHOOK_URL: Final[Schema] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 2048,
    "description": "https, without credentials, at a public address.",
}
ENDED_REASONS: Final = (
    "completed",
    "no_conversation",
    "time_limit",
    "busy",
    "no_answer",
    "carrier_failed",
    "canceled",
    "expired",
    "balance_low",
    "provider_error",
    "provider_refused",
    "provider_misconfigured",
    "provider_not_configured",
    "provider_unavailable",
    "outcome_unknown",
)
"""All that the dialer gives; a test holds it. More may come, thirty in all."""


def ref(name: str) -> Schema:
    """A schema of the components, by name."""
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    """The schema, or null."""
    if "$ref" in schema:
        return {"oneOf": [schema, {"type": "null"}]}
    nulled = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        nulled["enum"] = [*schema["enum"], None]
    return nulled


def answer(properties: Mapping[str, Schema]) -> Schema:
    """An object in an answer: all of it is always there, and more may come."""
    return {"type": "object", "required": list(properties), "properties": dict(properties)}


def request(required: tuple[str, ...], properties: Mapping[str, Schema]) -> Schema:
    """An object in a request. Unknown fields are passed over."""
    return {"type": "object", "required": list(required), "properties": dict(properties)}


def data(schema: Schema) -> Schema:
    """`{"data": …}`"""
    return answer({"data": schema})


def listed(schema: Schema, pagination: str) -> Schema:
    """`{"data": [...], "pagination": …}`"""
    return answer({"data": {"type": "array", "items": schema}, "pagination": ref(pagination)})


_TEXT: Final[Schema] = {"type": "string"}
_FLAG: Final[Schema] = {"type": "boolean"}
_DIRECTION: Final[Schema] = {"type": "string", "enum": ["outbound", "inbound"]}
_PROVIDER: Final[Schema] = {"type": "string", "enum": list(REF_PREFIX)}
_MAX_DURATION: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 3600}
_RETRY_FIELDS: Final[dict[str, Schema]] = {
    "max_attempts": {
        "type": "integer",
        "minimum": 1,
        "maximum": 3,
        "description": "How often the phone may ring in all.",
    },
    "on": {
        "type": "array",
        "items": {"type": "string", "enum": ["busy", "no_answer"]},
        "minItems": 1,
        "maxItems": 2,
        "uniqueItems": True,
        "default": ["busy", "no_answer"],
        "description": "After which outcomes.",
    },
    "intervals_min": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 1440},
        "minItems": 1,
        "maxItems": 2,
        "default": [15],
        "description": "Minutes before each further attempt; the last one repeats.",
    },
}
_SCHEDULE_OF_ANSWER: Final = answer({"earliest_at": nullable(INSTANT), "latest_at": nullable(INSTANT)})
_PAGE: Final[dict[str, Schema]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 100},
    "offset": COUNT,
    "total": {**COUNT, "description": "How many match in all."},
    "has_more": _FLAG,
}

_ACCEPTED: Final[dict[str, Schema]] = {
    "id": UUID,
    "status": CALL_STATUS,
    "direction": _DIRECTION,
    "agent_id": UUID,
    "to_e164": E164,
    "from_e164": nullable(E164),
    "language": LANGUAGE,
    "max_duration_sec": _MAX_DURATION,
    "hold_paise": nullable({**PAISE, "description": "Held on the wallet until the cost is known; then null."}),
    "provider": _PROVIDER,
    "provider_call_id": {**_TEXT, "description": "The reference under which the provider carries the call."},
    "external_id": nullable(_TEXT),
    "metadata": METADATA,
    "test": {**_FLAG, "description": "Placed with a test key: no telephone rings, nothing is charged."},
    "schedule": _SCHEDULE_OF_ANSWER,
    "retry": nullable(ref("Retry")),
    "created_at": INSTANT,
}
_CALL: Final[dict[str, Schema]] = {
    **_ACCEPTED,
    "duration_sec": nullable(COUNT),
    "credits_debited_paise": nullable(PAISE),
    "recording_url": nullable(_TEXT),
    "llm_extracted_intent": nullable(_TEXT),
    "llm_sentiment": nullable(_TEXT),
    "llm_outcome": nullable(_TEXT),
    "ended_by": nullable({**_TEXT, "examples": ["callee", "agent", "platform", "provider", "customer"]}),
    "ended_reason": nullable({**_TEXT, "examples": list(ENDED_REASONS)}),
    "answered_by": nullable({**_TEXT, "examples": ["human", "voicemail"]}),
    "provider_execution_id": nullable(_TEXT),
    "next_attempt_at": nullable(
        {**INSTANT, "description": "It rang in vain, and as `retry` asks will ring again, not before this; else null."}
    ),
    "cancel_requested_at": nullable(INSTANT),
    "started_at": nullable(INSTANT),
    "ended_at": nullable(INSTANT),
}
_CONTACT: Final[dict[str, Schema]] = {
    "id": UUID,
    "phone_e164": E164,
    "name": nullable(_TEXT),
    "email": nullable(_TEXT),
    "language_pref": nullable(LANGUAGE),
    "metadata": METADATA,
    "consent_capture": nullable(CONSENT),
    "created_at": INSTANT,
    "updated_at": INSTANT,
}
_WEBHOOK: Final[dict[str, Schema]] = {
    "id": UUID,
    "url": _TEXT,
    "events": {"type": "array", "items": _TEXT},
    "active": _FLAG,
    "created_at": INSTANT,
}
_DELIVERY: Final[dict[str, Schema]] = {
    "event_id": {"type": "string", "pattern": "^evt_[0-9a-f]{32}$", "description": "The header `webhook-id`."},
    "event": {**_TEXT, "examples": list(public_names())},
    "subject_id": {**UUID, "description": "The call, or what else it is about."},
    "sequence": {"type": "integer", "minimum": 1},
    "status": {"type": "string", "enum": ["pending", "delivered", "failed"]},
    "waits_for": nullable({"type": "string", "enum": ["next_attempt", "earlier_event", "endpoint_recovery", "resume"]}),
    "attempts_made": COUNT,
    "out_of_order": _FLAG,
    "replay_id": nullable(UUID),
    "occurred_at": INSTANT,
    "finished_at": nullable(INSTANT),
    "next_attempt_at": nullable(INSTANT),
}
_OUTCOME: Final[dict[str, Schema]] = {
    "status_code": nullable({"type": "integer"}),
    "failure_code": nullable({**_TEXT, "examples": ["timeout_headers", "http_5xx", "tls_certificate"]}),
    "how_to_mend": nullable({**_TEXT, "description": "One sentence about the failure's code."}),
}

_WALLET: Final = {"balance_paise": PAISE, "held_paise": PAISE, "available_paise": PAISE}
SCHEMAS: Final[dict[str, Schema]] = {
    "Error": answer(
        {
            "error": {
                "type": "object",
                "required": ["code", "message", "request_id"],
                "properties": {
                    "code": {
                        "type": "string",
                        "enum": list(STATUS),
                        "description": "Stable: switch on this, not on the status.",
                    },
                    "message": {**_TEXT, "description": "For people."},
                    "param": {**_TEXT, "description": "The first wrong field, dotted."},
                    "details": {
                        "type": "object",
                        "description": "Of wrong fields: formErrors and fieldErrors, as zod's flatten() gives them.",
                    },
                    "request_id": {**_TEXT, "description": "As in X-Request-Id."},
                },
            }
        }
    ),
    "Pagination": answer(_PAGE),
    "CursorPagination": answer(
        {**_PAGE, "next_cursor": nullable({**_TEXT, "description": "Where the next page begins; null at the end."})}
    ),
    "CallPagination": answer(
        {
            **_PAGE,
            "next_cursor": nullable({**_TEXT, "description": "Where the next page begins; null at the end."}),
            "total_is_exact": {
                **_FLAG,
                "description": "False where more than 10,000 calls share a number or a key of metadata that was asked "
                "for together with other filters than a time: `total` then is a number that is reached at least.",
            },
        }
    ),
    "PlaceCall": request(
        ("agent_id", "to_e164"),
        {
            "agent_id": UUID,
            "to_e164": E164,
            "from_e164": nullable({**E164, "description": "One of your numbers; default: your ExoPhone."}),
            "language": nullable({**LANGUAGE, "description": "A BCP 47 tag; default: the agent's."}),
            "max_duration_sec": nullable({**_MAX_DURATION, "description": "Default: the agent's."}),
            "metadata": METADATA,
            "external_id": nullable(
                {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 255,
                    "description": "Your own id, unique per org: a repeat gives the first answer again.",
                }
            ),
            "schedule": nullable(ref("Schedule")),
            "retry": nullable(ref("RetryWish")),
        },
    ),
    "RetryWish": {
        **request(("max_attempts",), _RETRY_FIELDS),
        "description": "Rings again where nobody was reached. Each time is an attempt in the timeline; the call ends, "
        "and is told to have ended, once. `schedule.latest_at`, where it is given, must leave time for all of them.",
    },
    "Retry": answer(_RETRY_FIELDS),
    "Schedule": request(
        (),
        {
            "earliest_at": nullable({**INSTANT, "description": "The phone does not ring before. With a zone."}),
            "latest_at": nullable(
                {
                    **INSTANT,
                    "description": "Nor after; default 15 minutes after it may first ring, and the intervals of "
                    "`retry` more. With a zone.",
                }
            ),
        },
    ),
    "AcceptedCall": answer(_ACCEPTED),
    "Call": answer(_CALL),
    "TimelineEntry": answer({"type": _TEXT, "at": INSTANT, "data": {"type": "object"}}),
    "CallDetail": answer(
        {
            **_CALL,
            "transcript": nullable(
                {
                    "type": "array",
                    "items": answer({"role": _TEXT, "text": _TEXT, "at_ms": nullable(COUNT)}),
                    "description": "When the call is completed.",
                }
            ),
            "events": {"type": "array", "items": ref("TimelineEntry"), "description": "Oldest first."},
        }
    ),
    "UpsertContact": request(
        ("phone_e164",),
        {
            "phone_e164": E164,
            "name": nullable({"type": "string", "minLength": 1, "maxLength": 200}),
            "email": nullable({"type": "string", "maxLength": 254, "pattern": r"^[^@\s]{1,64}@[^@\s]{1,253}$"}),
            "language_pref": nullable(LANGUAGE),
            "metadata": {**METADATA, "description": "Merged, key by key; a null removes its key."},
            "consent_capture": CONSENT,
        },
    ),
    "Contact": answer(_CONTACT),
    "ContactDetail": answer(
        {**_CONTACT, "consents": {"type": "array", "items": answer({"consent_capture": CONSENT, "at": INSTANT})}}
    ),
    "Deleted": answer({"id": UUID, "deleted": {"type": "boolean", "const": True}}),
    "RegisterWebhook": request(("url", "events"), {"url": WEBHOOK_URL, "events": EVENT_NAMES}),
    "ChangeWebhook": request((), {"url": WEBHOOK_URL, "events": EVENT_NAMES, "active": _FLAG}),
    "ReplayDeliveries": request(
        ("since",),
        {
            "since": INSTANT,
            "until": nullable(INSTANT),
            "events": nullable(EVENT_NAMES),
            "status": nullable({"type": "string", "enum": ["failed", "delivered", "all"]}),
            "call_id": nullable(UUID),
        },
    ),
    "Webhook": answer(_WEBHOOK),
    "ListedWebhook": answer(
        {
            **_WEBHOOK,
            "last_delivery_at": nullable(INSTANT),
            "last_status": {**nullable({"type": "integer"}), "description": "Null: it did not answer."},
            "paused_reason": nullable({**_TEXT, "examples": ["customer", "gone", "failing_for_72_h"]}),
            "failing_since": nullable(INSTANT),
            "is_open": {**_FLAG, "description": "It is down: until it answers nothing but a probe is sent."},
            "not_before": nullable({**INSTANT, "description": "Nothing is sent before."}),
        }
    ),
    "Delivery": answer(_DELIVERY),
    "ShownDelivery": answer(
        {
            **_DELIVERY,
            "request": answer(
                {
                    "url": _TEXT,
                    "headers": {"type": "object", "description": "Without the signature, which is not kept."},
                    "body": nullable({**_TEXT, "description": "Null once its time is over."}),
                    "body_masked": _FLAG,
                }
            ),
            "attempts": {
                "type": "array",
                "items": answer(
                    {
                        "n": {"type": "integer", "minimum": 1},
                        "at": INSTANT,
                        "duration_ms": COUNT,
                        **_OUTCOME,
                        "redirects_to": nullable(_TEXT),
                        "response_body": nullable({**_TEXT, "description": "Its first KiB."}),
                    }
                ),
            },
        }
    ),
    "TestedWebhook": answer(
        {
            "delivered": _FLAG,
            **_OUTCOME,
            "redirects_to": nullable(_TEXT),
            "duration_ms": COUNT,
            "request": {"type": "object", "description": "What was sent, without the signature."},
            "response_body": nullable(_TEXT),
        }
    ),
    "Replay": answer(
        {
            "id": UUID,
            "endpoint_id": UUID,
            "since": INSTANT,
            "until": INSTANT,
            "events": nullable({"type": "array", "items": _TEXT}),
            "status": nullable(_TEXT),
            "call_id": nullable(UUID),
            "state": {"type": "string", "enum": ["running", "paused", "canceled", "done"]},
            "scheduled": {**COUNT, "description": "Put on the list again so far; of these:"},
            "pending": COUNT,
            "delivered": COUNT,
            "failed": COUNT,
            "created_at": INSTANT,
            "ended_at": nullable(INSTANT),
        }
    ),
    "RegisteredWebhook": answer(
        {
            "data": ref("Webhook"),
            "secret": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "Shown this once."},
        }
    ),
    "Event": answer(
        {
            "id": {"type": "string", "pattern": "^evt_[0-9a-f]{32}$"},
            "type": {"type": "string", "examples": list(public_names())},
            "timestamp": INSTANT,
            "org_id": UUID,
            "sequence": {"type": "integer", "minimum": 1, "description": "1, 2, 3… per call (or other subject)."},
            "data": {"type": "object", "description": "A Call, or what the type is about."},
        }
    ),
    "EventPagination": answer(
        {
            "limit": _PAGE["limit"],
            "next_after": nullable({**_TEXT, "description": "Ask for the next page after this event."}),
            "has_more": _FLAG,
        }
    ),
    "Agent": answer(
        {
            "id": UUID,
            "name": _TEXT,
            "language": LANGUAGE,
            "max_duration_sec": _MAX_DURATION,
            "provider": _PROVIDER,
            "provider_agent_id": _TEXT,
            "fallback_providers": {
                "type": "array",
                "items": answer({"provider": _PROVIDER, "provider_agent_id": _TEXT}),
                "description": "Where its calls turn to, in order, if its provider is known not to have started them.",
            },
            "created_at": INSTANT,
        }
    ),
    "Wallet": answer(
        {
            **_WALLET,
            "test": {
                **answer(_WALLET),
                "description": "What test keys call on: always empty. Their calls hold nothing, cost nothing, and "
                "stand in the ledger with 0 paise; no money can be put in.",
            },
        }
    ),
    "TopUp": request(
        ("amount_paise",),
        {"amount_paise": {"type": "integer", "minimum": 100, "maximum": 1_000_000_000, "description": "At least ₹1."}},
    ),
    "SetThreshold": request(
        ("threshold_paise",),
        {"threshold_paise": {"type": ["integer", "null"], "minimum": 1, "maximum": 1_000_000_000_000}},
    ),
    "Order": answer(
        {
            "order_id": {**_TEXT, "description": "Razorpay's, for its Checkout."},
            "amount_paise": PAISE,
            "currency": {"type": "string", "const": "INR"},
            "key_id": {**_TEXT, "description": "Razorpay's public key, for its Checkout."},
            "paid": _FLAG,
        }
    ),
    "LedgerEntry": {
        "type": "object",
        "required": ["transfer", "kind", "amount_paise", "balance_after_paise", "at"],
        "properties": {
            "id": {"type": ["string", "integer"]},
            "transfer": {**_TEXT, "description": "The business fact, once: `debit:<call id>`, `topup:<payment>`."},
            "kind": _TEXT,
            "amount_paise": {"type": "integer", "description": "As the wallet sees it: a debit is negative."},
            "balance_after_paise": {"type": "integer"},
            "call_id": nullable(UUID),
            "duration_sec": nullable(COUNT),
            "billable_sec": nullable(COUNT),
            "rate_paise_per_sec": nullable(COUNT),
            "at": INSTANT,
        },
    },
    "NextPagination": answer({"limit": _PAGE["limit"], "next_cursor": nullable(_TEXT), "has_more": _FLAG}),
    "Limits": answer(
        {
            "plan": {
                "oneOf": [
                    answer({"name": _TEXT, "active": _FLAG, "active_until": nullable(INSTANT)}),
                    {"type": "null"},
                ]
            },
            "rate": answer({"requests": COUNT, "used": COUNT, "window_sec": COUNT}),
            "concurrent_calls": answer({"limit": COUNT, "used": COUNT, "waiting": COUNT}),
            "webhooks": answer({"limit": COUNT}),
            "request_body": answer({"bytes": COUNT}),
            "metadata": answer({"bytes": COUNT, "keys": COUNT}),
            "max_duration_sec": COUNT,
        }
    ),
}
