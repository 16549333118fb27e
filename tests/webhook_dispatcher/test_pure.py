"""What is decided without a database or a network: signatures, schedule, payload, sealing."""

import base64
import hashlib
import hmac
from datetime import datetime, timedelta
from typing import get_args
from uuid import UUID

import orjson
import pytest
from prometheus_client import REGISTRY
from standardwebhooks import Webhook

from cualify_shared.clock import now
from cualify_shared.events.envelope import Event, encoded
from cualify_shared.events.webhook import WebhookDelivered
from cualify_shared.ids import new_id
from cualify_webhook_dispatcher import payloads, schedule, sign, told
from cualify_webhook_dispatcher.breaker import PausedReason
from cualify_webhook_dispatcher.decide import Decided
from cualify_webhook_dispatcher.jobs import Endpoint, Job, Recorded, Result, Verdict
from cualify_webhook_dispatcher.queries import Record
from cualify_webhook_dispatcher.schedule import Again, GivenUp
from cualify_webhook_dispatcher.secrets import CannotOpen, Secrets
from tests.webhook_dispatcher.conftest import AT, call_events

ORG = UUID("01930a4d-1111-7aaa-8bbb-123456789abc")


def signed(content: bytes, *secrets: str) -> dict[str, str]:
    lines = sign.headers(notification_id="evt_1", content=content, secrets=secrets, at_unix=int(now().timestamp()))
    return dict(line.split(": ", 1) for line in lines)


def homemade(content: bytes, headers: dict[str, str], secret: str) -> bool:
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + content
    digest = hmac.new(secret.encode(), message, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    return any(hmac.compare_digest(expected, one) for one in headers["webhook-signature"].split(" "))


def test_the_official_library_and_a_homemade_check_both_verify() -> None:
    secret, content = sign.new_secret(), b'{"a":1}'
    headers = signed(content, secret)
    assert Webhook(secret).verify(content, headers) == {"a": 1}
    assert Webhook("whsec_" + secret).verify(content, headers) == {"a": 1}
    assert homemade(content, headers, secret)
    assert not homemade(content + b" ", headers, secret)


def test_the_t_and_v1_form_verifies() -> None:
    secret, content = sign.new_secret(), b"{}"
    at, digest = (part.split("=")[1] for part in signed(content, secret)["X-Cualify-Signature"].split(","))
    assert digest == hmac.new(secret.encode(), f"{at}.".encode() + content, hashlib.sha256).hexdigest()


def test_two_secrets_verify_side_by_side() -> None:
    old, new = sign.new_secret(), sign.new_secret()
    headers = signed(b"{}", new, old)
    assert all(homemade(b"{}", headers, secret) for secret in (old, new))
    assert all(Webhook(secret).verify(b"{}", headers) == {} for secret in (old, new))


def test_ten_attempts_over_75_hours_and_35_minutes() -> None:
    pauses: list[float] = []
    while isinstance(step := after(len(pauses)), Again):
        pauses.append(step.in_sec)
    assert [int(p / 1.1) <= s <= p for p, s in zip(pauses, schedule.PAUSES_SEC, strict=True)] == [True] * 9
    assert sum(schedule.PAUSES_SEC) == (75 * 60 + 35) * 60 + 5


def after(burned: int, *, retry_after_sec: float | None = None, age: timedelta = timedelta()) -> Again | GivenUp:
    return schedule.after_failure(burned=burned, age=age, retry_after_sec=retry_after_sec)


def test_retry_after_is_honoured_in_full_and_burns_no_attempt() -> None:
    step = after(9, retry_after_sec=3600)
    assert isinstance(step, Again)
    assert not step.burned
    assert 3600 <= step.in_sec <= 3960


def test_a_server_that_keeps_asking_for_a_second_is_not_asked_every_second_for_days() -> None:
    age, attempts = timedelta(), 0
    while age < timedelta(hours=72):
        step = after(0, retry_after_sec=1, age=age)
        assert isinstance(step, Again)
        assert not step.burned
        assert 1 <= step.in_sec <= schedule.MOST_PATIENCE_SEC * (1 + schedule.MAX_JITTER)
        age, attempts = age + timedelta(seconds=step.in_sec), attempts + 1
    assert attempts < 1000
    soon = after(0, retry_after_sec=1, age=timedelta(seconds=10))
    assert isinstance(soon, Again)
    assert soon.in_sec < 1.2, "at first it is taken at its word"


def test_retry_after_does_not_put_a_delivery_off_for_ever() -> None:
    old = timedelta(days=5)
    assert after(9, retry_after_sec=60, age=old) == GivenUp()
    for burned, asked_sec, least in ((0, 3600, 3600), (3, 60, schedule.PAUSES_SEC[3])):
        step = after(burned, retry_after_sec=asked_sec, age=old)
        assert isinstance(step, Again)
        assert step.burned, "it is waited for all the same, but counts"
        assert step.in_sec >= least


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 1),
        ("Sun, 31 May 2026 14:23:11 GMT", 60),
        ("Sun, 31 May 2020 14:23:11 GMT", 1),
        ("Sunday, 31-May-26 14:23:11 GMT", 60),
        ("Sun May 31 14:23:11 2026", 60),
        ("Sun, 31 May 2026 19:53:11 +0530", 60),
        ("Sun, 31 May 99999999999999999999 14:23:11 GMT", None),
        ("Sun, 31 May 2026 14:23:11 +99999999999999", None),
        ("Sun, 99 May 2026 14:23:11 GMT", None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("9" * 400, 999_999_999),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert schedule.retry_after_sec(value, now=AT) == seconds


def test_the_body_is_compact_json_as_the_contract_says() -> None:
    (event,) = call_events(ORG)
    content = payloads.body(event)
    parsed = orjson.loads(content)
    assert list(parsed) == ["id", "type", "timestamp", "org_id", "sequence", "data"]
    assert parsed["id"] == f"evt_{event.id.hex}"
    assert parsed["type"] == "call.completed"
    assert datetime.fromisoformat(parsed["timestamp"]).tzinfo is not None
    assert parsed["data"]["name"] == "नमस्ते"
    assert orjson.dumps(parsed) == content
    assert orjson.loads(payloads.marked_out_of_order(content)) == {**parsed, "out_of_order": True}


def test_a_sealed_secret_opens_for_its_endpoint_alone() -> None:
    secrets, endpoint_id, secret = Secrets(key=bytes(32), key_id="1"), new_id(), sign.new_secret()
    sealed = secrets.seal(secret, endpoint_id=endpoint_id, org_id=ORG)
    assert secret.encode() not in sealed
    assert secrets.open(sealed, key_id="1", endpoint_id=endpoint_id, org_id=ORG) == secret
    for wrong in (
        {"key_id": "1", "endpoint_id": new_id(), "org_id": ORG},
        {"key_id": "1", "endpoint_id": endpoint_id, "org_id": new_id()},
        {"key_id": "2", "endpoint_id": endpoint_id, "org_id": ORG},
    ):
        with pytest.raises(CannotOpen):
            Secrets(key=bytes(32), key_id="1").open(sealed, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("key_bytes", [1, 48, 63, 64, 65, 200])
@pytest.mark.parametrize("message_bytes", [0, 1, 64, 5000])
def test_a_prepared_hmac_is_the_hmac(key_bytes: int, message_bytes: int) -> None:
    key, message = bytes(range(key_bytes)), b"m" * message_bytes
    prepared = sign.hmac_sha256(key)
    assert prepared(message) == prepared(message) == hmac.digest(key, message, "sha256")


def test_the_event_of_a_delivery_is_as_the_catalogue_would_make_it() -> None:
    endpoint = Endpoint(new_id(), ORG, "https://a.example", b"", "1")
    job = Job(new_id(), "call.completed", b"{}", endpoint.id, new_id(), 0, AT, out_of_order=False)
    result = Result(job, endpoint, AT, 12, 204, None, None, None)
    decided = Decided([Verdict("delivered", 0.0, burned=True, asked=False)], {}, {})
    recorded = Recorded(n=0, attempt=2, sequence=7, final=True)
    (said,) = told.events([result], Record([recorded], [], [], {}, decided))
    data = WebhookDelivered(
        endpoint_id=endpoint.id,
        org_id=ORG,
        event_id=job.event_id,
        event_type="call.completed",
        attempt=2,
        status_code=204,
        duration_ms=12,
    )
    whole = Event(
        data=data,
        org_id=ORG,
        key=endpoint.id,
        subject=f"endpoint/{endpoint.id}",
        sequence=7,
        id=said.id,
        time=said.time,
    )
    assert said == encoded(whole)


def test_pauses_are_counted_from_zero_for_every_reason() -> None:
    """Else the first ones of a process would raise no alert."""
    for reason in get_args(PausedReason):
        assert REGISTRY.get_sample_value("cualify_endpoints_paused_total", {"reason": reason}) is not None
