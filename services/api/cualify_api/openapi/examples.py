"""The examples of the OpenAPI document: the overview's own, whole. A test holds each against its schema."""

from typing import Any, Final

from cualify_api.web.errors import Code

CALL_ID: Final = "e7b1d6c5-90a2-7c3e-8f41-2f6f3f1d9a10"
AGENT_ID: Final = "0a8c5a4e-1f0b-7d52-9c8e-6b1f0a7c2d33"
ORG_ID: Final = "01907b2a-4d5e-7f60-8a1b-2c3d4e5f6071"
CONTACT_ID: Final = "3f2a9c10-7b6d-7e58-9d4c-1a2b3c4d5e6f"
WEBHOOK_ID: Final = "5d1e8f72-3c4b-7a69-8e0f-9f8e7d6c5b4a"
EVENT_ID: Final = "evt_01907b2a4d5e7f608a1b2c3d4e5f6072"
NEXT_CURSOR: Final = "AAYbqk1MYADnsdbFkKJ8Po9BL28_HZoQ"
_AT: Final = "2026-05-31T14:22:11.125Z"
_ENDED_AT: Final = "2026-05-31T14:24:41.480Z"

_RETRY: Final = {"max_attempts": 2, "on": ["busy", "no_answer"], "intervals_min": [15]}

PLACE_CALL: Final = {
    "agent_id": AGENT_ID,
    "to_e164": "+919812345678",
    "from_e164": "+918012345678",
    "language": "hi-IN",
    "max_duration_sec": 300,
    "metadata": {"crm_lead_id": "L-7890"},
    "retry": _RETRY,
}

_SCHEDULE: Final = {"earliest_at": None, "latest_at": "2026-05-31T14:52:11.125Z"}

ACCEPTED: Final[dict[str, Any]] = {
    "id": CALL_ID,
    "status": "queued",
    "direction": "outbound",
    "agent_id": AGENT_ID,
    "to_e164": "+919812345678",
    "from_e164": "+918012345678",
    "language": "hi-IN",
    "max_duration_sec": 300,
    "hold_paise": 3000,
    "provider": "bolna",
    "provider_call_id": "boln_e7b1d6c590a27c3e8f412f6f3f1d9a10",
    "external_id": None,
    "metadata": {"crm_lead_id": "L-7890"},
    "test": False,
    "schedule": _SCHEDULE,
    "retry": _RETRY,
    "created_at": _AT,
}

CALL: Final[dict[str, Any]] = {
    "id": CALL_ID,
    "status": "completed",
    "direction": "outbound",
    "agent_id": AGENT_ID,
    "from_e164": "+918012345678",
    "to_e164": "+919812345678",
    "language": "hi-IN",
    "duration_sec": 142,
    "max_duration_sec": 300,
    "credits_debited_paise": 1420,
    "hold_paise": None,
    "recording_url": "https://recordings.example/e7b1d6c5.mp3",
    "llm_extracted_intent": "demo_booked",
    "llm_sentiment": "positive",
    "llm_outcome": "demo_scheduled_2026_06_03",
    "ended_by": "agent",
    "ended_reason": "completed",
    "answered_by": "human",
    "provider": "bolna",
    "provider_call_id": "boln_e7b1d6c590a27c3e8f412f6f3f1d9a10",
    "provider_execution_id": "4c1f6f0e-8f5b-4b5e-9b51-0f2b1a7d9c11",
    "external_id": None,
    "metadata": {"crm_lead_id": "L-7890"},
    "test": False,
    "schedule": _SCHEDULE,
    "retry": _RETRY,
    "next_attempt_at": None,
    "cancel_requested_at": None,
    "started_at": "2026-05-31T14:22:19.480Z",
    "ended_at": _ENDED_AT,
    "created_at": _AT,
}

TIMELINE: Final = [
    {"type": "queued", "at": _AT, "data": {}},
    {"type": "dialing", "at": "2026-05-31T14:22:11.310Z", "data": {"attempt": 1}},
    {"type": "provider-accepted", "at": "2026-05-31T14:22:11.420Z", "data": {"attempt": 1}},
    {"type": "in_progress", "at": "2026-05-31T14:22:19.480Z", "data": {}},
    {"type": "disclosure-played", "at": "2026-05-31T14:22:21.000Z", "data": {}},
    {"type": "intent-detected", "at": "2026-05-31T14:23:40.000Z", "data": {"intent": "demo_booked"}},
    {
        "type": "completed",
        "at": _ENDED_AT,
        "data": {"ended_by": "agent", "ended_reason": "completed", "duration_sec": 142},
    },
]

CALL_DETAIL: Final = {
    **CALL,
    "transcript": [
        {"role": "agent", "text": "Namaste! This is an AI assistant of Asha Clinics.", "at_ms": 0},
        {"role": "callee", "text": "Ji, boliye.", "at_ms": 3100},
    ],
    "events": TIMELINE,
}

CALL_CANCELED: Final = {
    **CALL_DETAIL,
    "status": "queued",
    "duration_sec": None,
    "credits_debited_paise": None,
    "hold_paise": 3000,
    "recording_url": None,
    "llm_extracted_intent": None,
    "llm_sentiment": None,
    "llm_outcome": None,
    "ended_by": None,
    "ended_reason": None,
    "answered_by": None,
    "provider_execution_id": None,
    "cancel_requested_at": "2026-05-31T14:22:11.900Z",
    "started_at": None,
    "ended_at": None,
    "transcript": None,
    "events": [*TIMELINE[:1], {"type": "cancel-requested", "at": "2026-05-31T14:22:11.900Z", "data": {}}],
}

STREAM: Final = """retry: 2000

id: 1-0
event: queued
data: {"type":"queued","at":"2026-05-31T14:22:11.125Z","data":{}}

id: 1-1
event: dialing
data: {"type":"dialing","at":"2026-05-31T14:22:11.310Z","data":{"attempt":1}}

"""

UPSERT_CONTACT: Final = {
    "phone_e164": "+919812345678",
    "name": "Riya Sharma",
    "email": "riya@example.com",
    "language_pref": "hi-IN",
    "metadata": {"lead_source": "google_ads"},
    "consent_capture": "website_form",
}
CONTACT: Final = {"id": CONTACT_ID, **UPSERT_CONTACT, "created_at": _AT, "updated_at": _AT}
CONTACT_DETAIL: Final = {**CONTACT, "consents": [{"consent_capture": "website_form", "at": _AT}]}

REGISTER_WEBHOOK: Final = {
    "url": "https://your-app.com/cualify-webhook",
    "events": ["call.completed", "call.failed"],
}
WEBHOOK: Final = {"id": WEBHOOK_ID, **REGISTER_WEBHOOK, "active": True, "created_at": _AT}
WEBHOOK_LISTED: Final = {
    **WEBHOOK,
    "last_delivery_at": _ENDED_AT,
    "last_status": 200,
    "paused_reason": None,
    "failing_since": None,
    "is_open": False,
    "not_before": None,
}
SECRET: Final = "abcdef0123456789" * 4
DELIVERY: Final = {
    "event_id": EVENT_ID,
    "event": "call.completed",
    "subject_id": CALL_ID,
    "sequence": 3,
    "status": "pending",
    "waits_for": "next_attempt",
    "attempts_made": 1,
    "out_of_order": False,
    "replay_id": None,
    "occurred_at": _ENDED_AT,
    "finished_at": None,
    "next_attempt_at": "2026-05-31T14:24:46.730Z",
}
_FAILED: Final = {
    "status_code": 500,
    "failure_code": "http_5xx",
    "how_to_mend": "The server failed. See its logs.",
}
DELIVERY_SHOWN: Final = {
    **DELIVERY,
    "request": {
        "url": "https://your-app.com/cualify-webhook",
        "headers": {"content-type": "application/json", "webhook-id": EVENT_ID},
        "body": '{"id":"evt_01907b2a4d5e7f608a1b2c3d4e5f6072","type":"call.completed"}',
        "body_masked": False,
    },
    "attempts": [
        {"n": 1, "at": _ENDED_AT, "duration_ms": 84, **_FAILED, "redirects_to": None, "response_body": "Oops"}
    ],
}
WEBHOOK_TESTED: Final = {
    "delivered": False,
    **_FAILED,
    "redirects_to": None,
    "duration_ms": 84,
    "request": {"url": "https://your-app.com/cualify-webhook", "webhook_id": EVENT_ID, "body": {"type": "ping"}},
    "response_body": "Internal Server Error",
}
REPLAY: Final = {"since": "2026-05-31T00:00:00+05:30", "events": ["call.completed"], "status": "failed"}
REPLAY_ID: Final = "01907b2b-0d5e-7f60-8a1b-2c3d4e5f6072"
REPLAYING: Final = {
    "id": REPLAY_ID,
    "endpoint_id": WEBHOOK_ID,
    "since": "2026-05-30T18:30:00.000Z",
    "until": "2026-05-31T15:00:00.000Z",
    "events": ["call.completed"],
    "status": "failed",
    "call_id": None,
    "state": "running",
    "scheduled": 100,
    "pending": 12,
    "delivered": 88,
    "failed": 0,
    "created_at": "2026-05-31T15:00:00.000Z",
    "ended_at": None,
}

EVENT: Final = {
    "id": EVENT_ID,
    "type": "call.completed",
    "timestamp": "2026-05-31T14:24:43.007Z",
    "org_id": ORG_ID,
    "sequence": 3,
    "data": {**CALL, "events": TIMELINE},
}

AGENT: Final = {
    "id": AGENT_ID,
    "name": "Booking assistant",
    "language": "hi-IN",
    "max_duration_sec": 300,
    "provider": "bolna",
    "provider_agent_id": "9b1f2c6e",
    "fallback_providers": [],
    "created_at": _AT,
}
WALLET: Final = {
    "balance_paise": 9_998_580,
    "held_paise": 3000,
    "available_paise": 9_995_580,
    "test": {"balance_paise": 0, "held_paise": 0, "available_paise": 0},
}
TOP_UP: Final = {"amount_paise": 118_000}
ORDER: Final = {
    "order_id": "order_Nq3kXbVd0Yw1aZ",
    "amount_paise": 118_000,
    "currency": "INR",
    "key_id": "rzp_live_4f1kQ0vXyZ2",
    "paid": False,
}
LEDGER_ENTRY: Final = {
    "id": "1042",
    "transfer": f"debit:{CALL_ID}",
    "kind": "debit",
    "amount_paise": -1420,
    "balance_after_paise": 9_998_580,
    "call_id": CALL_ID,
    "duration_sec": 142,
    "billable_sec": 142,
    "rate_paise_per_sec": 10,
    "at": "2026-05-31T14:24:42.212Z",
}
LIMITS: Final = {
    "plan": {"name": "growth", "active": True, "active_until": None},
    "rate": {"requests": 120, "used": 7, "window_sec": 60},
    "concurrent_calls": {"limit": 10, "used": 3, "waiting": 12},
    "webhooks": {"limit": 20},
    "request_body": {"bytes": 65_536},
    "metadata": {"bytes": 16_384, "keys": 50},
    "max_duration_sec": 3600,
}


def _refusal(message: str, *, param: str | None = None, details: dict[str, Any] | None = None) -> dict[str, Any]:
    refusal: dict[str, Any] = {"message": message}
    if param is not None:
        refusal["param"] = param
    if details is not None:
        refusal["details"] = details
    return refusal


_WRONG: Final = "to_e164 must be E.164 — e.g. +919812345678"
_REFUSALS: Final[dict[Code, dict[str, Any]]] = {
    "invalid_request": _refusal(
        _WRONG, param="to_e164", details={"formErrors": [], "fieldErrors": {"to_e164": [_WRONG]}}
    ),
    "unauthorized": _refusal("a valid API key is needed: Authorization: Bearer cuk_live_…"),
    "insufficient_credits": _refusal(
        "the wallet does not cover this call",
        details={"balance_paise": 5000, "held_paise": 3000, "needed_paise": 3000},
    ),
    "forbidden": _refusal("No active plan", details={"reason": "No active plan"}),
    "not_found": _refusal("there is nothing by this id"),
    "conflict": _refusal("this Idempotency-Key was used with another body", param="Idempotency-Key"),
    "payload_too_large": _refusal("a request body has at most 65536 bytes"),
    "too_many_requests": _refusal("your org has made 120 requests in the last 60 s"),
    "internal_error": _refusal("something went wrong on our side; with the request id we can find out what"),
    "upstream_error": _refusal("the service behind this does not answer at the moment; try again"),
}


def error(code: Code) -> dict[str, Any]:
    """The envelope with a code, as it may look."""
    return {"error": {"code": code, **_REFUSALS[code], "request_id": "req_01907b2a4d5e7f608a1b2c3d4e5f6073"}}


DATABASE_AWAY: Final = {
    "error": {
        "code": "internal_error",
        "message": "our database is away at the moment; try again",
        "request_id": "req_01907b2a4d5e7f608a1b2c3d4e5f6073",
    }
}
