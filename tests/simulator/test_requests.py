"""What is refused at the door, and in which shape."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cualify_simulator.refusals import Refusal
from cualify_simulator.requests import DEFAULT_FROM_E164, read_call, read_list_query, read_object

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)
AGENT = "123e4567-e89b-42d3-a456-426614174000"
GOOD: dict[str, Any] = {
    "agent_id": AGENT,
    "recipient_phone_number": "+919876543210",
    "user_data": {"cualify_ref": "boln_1"},
}
WINDOW = {"from": "2026-11-02T11:00:00Z", "to": "2026-11-02T12:00:00Z"}


def refusal_of(body: dict[str, Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read_call(body, NOW)
    return caught.value


def test_a_call_needs_no_more_than_agent_and_number() -> None:
    order = read_call({"agent_id": AGENT, "recipient_phone_number": "+919876543210"}, NOW)
    assert (order.to_e164, order.from_e164) == ("+919876543210", DEFAULT_FROM_E164)
    assert (order.user_data, order.cualify_ref, order.scheduled_at) == (None, None, None)


def test_our_reference_is_read_from_user_data() -> None:
    assert read_call(GOOD, NOW).cualify_ref == "boln_1"


@pytest.mark.parametrize("name", ["agent_id", "recipient_phone_number"])
@pytest.mark.parametrize("value", ["absent", None, ""])
def test_a_missing_field_is_named(name: str, value: str | None) -> None:
    body = {**GOOD, name: value}
    if value == "absent":
        del body[name]
    refusal = refusal_of(body)
    assert (refusal.status, refusal.body) == (400, {"error": 1001, "message": f"{name} is required"})


@pytest.mark.parametrize("name", ["recipient_phone_number", "from_phone_number"])
@pytest.mark.parametrize(
    "number", ["9876543210", "+0123456789", "+91 98765 43210", "+9198765432101234", "+91\u096f\u096e76543210"]
)
def test_a_number_must_be_strict_e164(name: str, number: str) -> None:
    refusal = refusal_of({**GOOD, name: number})
    assert (refusal.status, refusal.body) == (400, {"error": 1001, "message": f"invalid {name}"})


@pytest.mark.parametrize(
    "extra",
    [
        {"recipient_number": "+919876543210"},
        {"agent_id": "no-uuid"},
        {"agent_id": 7},
        {"user_data": []},
        {"user_data": None},
        {"bypass_call_guardrails": "yes"},
        {"agent_data": {"voice_id": "a", "pitch": 1}},
        {"retry_config": {"enabled": True}},
    ],
)
def test_anything_else_wrong_is_a_422_with_its_place(extra: dict[str, Any]) -> None:
    refusal = refusal_of({**GOOD, **extra})
    assert refusal.status == 422
    assert refusal.body["detail"][0]["loc"][:2] == ["body", next(iter(extra))]


def test_a_refusal_names_callee_and_reference_where_it_can() -> None:
    refusal = refusal_of({**GOOD, "typo": 1})
    assert (refusal.to_e164, refusal.cualify_ref) == ("+919876543210", "boln_1")


def test_user_data_may_not_exceed_25_kilobytes() -> None:
    assert read_call({**GOOD, "user_data": {"text": "x" * 25_000}}, NOW).user_data
    assert refusal_of({**GOOD, "user_data": {"text": "x" * 26_000}}).status == 400


@pytest.mark.parametrize(
    ("scheduled_at", "status", "message"),
    [
        ("2026-11-02T13:00:00Z", 500, "Internal server error"),
        ("2026-11-02T13:00:00", 400, "scheduled_at must have a numeric offset"),
        ("2026-13-02T13:00:00+05:30", 400, "invalid scheduled_at"),
        ("2026-11-02T12:01:59+00:00", 400, "Scheduled time should be atleast 2 minutes in the future"),
    ],
)
def test_a_schedule_is_refused_as_documented(scheduled_at: str, status: int, message: str) -> None:
    refusal = refusal_of({**GOOD, "scheduled_at": scheduled_at})
    assert (refusal.status, refusal.body["message"]) == (status, message)


def test_a_schedule_with_a_numeric_offset_is_taken() -> None:
    order = read_call({**GOOD, "scheduled_at": "2026-11-02T18:00:00+05:30"}, NOW)
    assert order.scheduled_at == NOW + timedelta(minutes=30)


@pytest.mark.parametrize(
    ("content_type", "raw"),
    [("text/plain", b"{}"), ("application/json", b"{"), ("application/json", b"[]"), ("application/json", b"")],
)
def test_a_body_must_be_a_json_object(content_type: str, raw: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        read_object(content_type, raw)
    assert caught.value.status == 422


def test_a_list_has_twenty_rows_a_page() -> None:
    query = read_list_query(WINDOW)
    assert (query.page_number, query.page_size, query.is_empty) == (1, 20, False)
    assert query.latest - query.earliest == timedelta(hours=1)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"from": None}, 400),
        ({"to": None}, 400),
        ({"from": "2026-10-25T11:59:59Z"}, 400),
        ({"from": "2026-11-02T12:00:01Z"}, 400),
        ({"from": "yesterday"}, 400),
        ({"from": "2026-11-02T11:00:00"}, 400),
        ({"from": "2026-11-02T16:30:00+05:30"}, 400),
        ({"page_size": "51"}, 422),
        ({"page_size": "0"}, 422),
        ({"page_number": "0"}, 422),
        ({"page_number": "two"}, 422),
        ({"page": "2"}, 422),
        ({"provider": "exotel"}, 422),
        ({"call_type": "sideways"}, 422),
        ({"answered_by_voice_mail": "maybe"}, 422),
    ],
)
def test_a_list_query_is_read_strictly(change: dict[str, str | None], status: int) -> None:
    query = {name: value for name, value in {**WINDOW, **change}.items() if value is not None}
    with pytest.raises(Refusal) as caught:
        read_list_query(query)
    assert caught.value.status == status


def test_a_list_may_span_seven_days() -> None:
    assert read_list_query({**WINDOW, "from": "2026-10-26T12:00:00Z"}).latest


@pytest.mark.parametrize("filters", [{"call_type": "inbound"}, {"provider": "twilio"}, {"batch_id": "b"}])
def test_some_filters_match_nothing_of_ours(filters: dict[str, str]) -> None:
    assert read_list_query({**WINDOW, **filters}).is_empty
