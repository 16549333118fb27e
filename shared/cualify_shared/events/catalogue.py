"""Every event there is: its name, its topic, its model and an example. Schemas, documents and topics come from here."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from cualify_shared.events import call, customer, wallet, webhook
from cualify_shared.events.model import EventData, Terms
from cualify_shared.events.topics import (
    CALL_ARTIFACTS,
    CALL_EVENTS,
    CALL_REQUESTS,
    CUSTOMER_EVENTS,
    WALLET_EVENTS,
    WEBHOOK_EVENTS,
    Topic,
)


@dataclass(frozen=True, slots=True)
class EventType:
    """One entry of the catalogue. A breaking change is a new entry, `….v2`, written beside the old one."""

    name: str
    topic: Topic
    model: type[EventData]
    example: EventData

    @property
    def source(self) -> str:
        """CloudEvents `source`."""
        return f"/cualify/{self.topic.writer}"

    @property
    def schema_path(self) -> str:
        """CloudEvents `dataschema`: where the reader's schema stands, relative to the repository's root."""
        return f"shared/cualify_shared/events/schemas/{self.name}.json"


_CALL = UUID("01930a4e-7c1b-7d2a-9c3e-0a1b2c3d4e5f")
_ORG = UUID("01930a4d-1111-7aaa-8bbb-123456789abc")
_AGENT = UUID("0a8c5a4e-2222-7ccc-8ddd-abcdefabcdef")
_ENDPOINT = UUID("01930a4d-3333-7eee-8fff-fedcba987654")
_EVENT = UUID("01930a4f-4444-7abc-8def-001122334455")
_AT = datetime(2026, 5, 31, 14, 22, 11, tzinfo=UTC)
_TOKEN = "hmac:v1:5f2b8a1c9d3e4f60718293a4b5c6d7e8"
_REF = f"boln_{_CALL.hex}"
_TERMS = Terms(rate_paise_per_sec=10, pulse_sec=1, hold_paise=3000, max_duration_sec=300)
_SHOWN: dict[str, Any] = {"id": str(_CALL), "status": "completed", "duration_sec": 142, "credits_debited_paise": 1420}
_ENDED: dict[str, Any] = {
    "call_id": _CALL,
    "org_id": _ORG,
    "agent_id": _AGENT,
    "callee_token": _TOKEN,
    "ended_at": _AT,
    "attempts": 1,
    "provider": "bolna",
    "provider_call_id": _REF,
    "terms": _TERMS,
}


def _customer(model: type[customer.CustomerCallEvent]) -> customer.CustomerCallEvent:
    return model(call_id=_CALL, org_id=_ORG, call=_SHOWN)


_ENTRIES = (
    EventType(
        "call.requested",
        CALL_REQUESTS,
        call.CallRequested,
        call.CallRequested(
            call_id=_CALL,
            org_id=_ORG,
            agent_id=_AGENT,
            to_e164="+919990000142",
            from_e164="+918012345678",
            callee_token=_TOKEN,
            language="hi-IN",
            provider="bolna",
            provider_agent_id="123e4567-e89b-12d3-a456-426614174000",
            provider_call_id=_REF,
            terms=_TERMS,
            requested_at=_AT,
            latest_at=_AT,
        ),
    ),
    EventType(
        "call.cancel_requested",
        CALL_REQUESTS,
        call.CallCancelRequested,
        call.CallCancelRequested(call_id=_CALL, org_id=_ORG, requested_at=_AT),
    ),
    EventType(
        "call.transcript_ready",
        CALL_ARTIFACTS,
        call.CallTranscriptReady,
        call.CallTranscriptReady(
            call_id=_CALL, org_id=_ORG, transcript=(call.TranscriptTurn(role="agent", text="Namaste!", at_ms=0),)
        ),
    ),
    EventType(
        "call.recording_ready",
        CALL_ARTIFACTS,
        call.CallRecordingReady,
        call.CallRecordingReady(call_id=_CALL, org_id=_ORG, recording_url="https://recordings.example/e7b1d6c5"),
    ),
    EventType(
        "call.dialing",
        CALL_EVENTS,
        call.CallDialing,
        call.CallDialing(call_id=_CALL, org_id=_ORG, attempt=1, provider="bolna", provider_call_id=_REF),
    ),
    EventType(
        "call.provider_accepted",
        CALL_EVENTS,
        call.CallProviderAccepted,
        call.CallProviderAccepted(
            call_id=_CALL,
            org_id=_ORG,
            attempt=1,
            provider="bolna",
            provider_call_id=_REF,
            provider_execution_id="123e4567-e89b-12d3-a456-426614174001",
        ),
    ),
    EventType(
        "call.retry_scheduled",
        CALL_EVENTS,
        call.CallRetryScheduled,
        call.CallRetryScheduled(
            call_id=_CALL,
            org_id=_ORG,
            attempt=1,
            provider="bolna",
            provider_call_id=_REF,
            outcome="no_answer",
            next_at=_AT,
        ),
    ),
    EventType(
        "call.in_progress",
        CALL_EVENTS,
        call.CallInProgress,
        call.CallInProgress(
            call_id=_CALL, org_id=_ORG, attempt=1, provider="bolna", provider_call_id=_REF, started_at=_AT
        ),
    ),
    EventType(
        "call.disclosure_played",
        CALL_EVENTS,
        call.CallDisclosurePlayed,
        call.CallDisclosurePlayed(call_id=_CALL, org_id=_ORG, at=_AT),
    ),
    EventType(
        "call.intent_detected",
        CALL_EVENTS,
        call.CallIntentDetected,
        call.CallIntentDetected(call_id=_CALL, org_id=_ORG, at=_AT, intent="demo_booked"),
    ),
    EventType(
        "call.handoff_requested",
        CALL_EVENTS,
        call.CallHandoffRequested,
        call.CallHandoffRequested(call_id=_CALL, org_id=_ORG, at=_AT),
    ),
    EventType(
        "call.completed",
        CALL_EVENTS,
        call.CallCompleted,
        call.CallCompleted(
            **_ENDED,
            ended_reason="completed",
            ended_by="agent",
            duration_sec=142,
            started_at=_AT,
            artifacts=("transcript", "recording"),
            llm_extracted_intent="demo_booked",
            llm_sentiment="positive",
            llm_outcome="demo_scheduled_2026_06_03",
        ),
    ),
    EventType(
        "call.failed",
        CALL_EVENTS,
        call.CallFailed,
        call.CallFailed(**_ENDED, status="busy", ended_reason="busy", duration_sec=0),
    ),
    EventType(
        "wallet.credited",
        WALLET_EVENTS,
        wallet.WalletCredited,
        wallet.WalletCredited(
            org_id=_ORG, transfer="topup:pay_29QQoUBi66xm2f", kind="top_up", amount_paise=100_000, balance_paise=100_000
        ),
    ),
    EventType(
        "wallet.debited",
        WALLET_EVENTS,
        wallet.WalletDebited,
        wallet.WalletDebited(
            org_id=_ORG,
            call_id=_CALL,
            transfer=f"debit:{_CALL}",
            amount_paise=1420,
            balance_paise=98_580,
            duration_sec=142,
            billable_sec=142,
            rate_paise_per_sec=10,
            pulse_sec=1,
        ),
    ),
    EventType(
        "wallet.refunded",
        WALLET_EVENTS,
        wallet.WalletRefunded,
        wallet.WalletRefunded(
            org_id=_ORG,
            transfer="refund:rfd_1",
            refund_id="rfd_1",
            kind="refund",
            amount_paise=50_000,
            balance_paise=48_580,
            payment_id="pay_29QQoUBi66xm2f",
        ),
    ),
    EventType(
        "wallet.low_balance",
        WALLET_EVENTS,
        wallet.WalletLowBalance,
        wallet.WalletLowBalance(org_id=_ORG, balance_paise=9_900, threshold_paise=10_000),
    ),
    EventType(
        "plan.activated",
        WALLET_EVENTS,
        wallet.PlanActivated,
        wallet.PlanActivated(
            org_id=_ORG,
            plan="growth",
            rate_paise_per_sec=10,
            pulse_sec=1,
            rate_limit_per_minute=120,
            max_concurrent_calls=10,
            active_from=_AT,
        ),
    ),
    EventType(
        "plan.expired",
        WALLET_EVENTS,
        wallet.PlanExpired,
        wallet.PlanExpired(org_id=_ORG, plan="growth", expired_at=_AT),
    ),
    EventType(
        "webhook.delivered",
        WEBHOOK_EVENTS,
        webhook.WebhookDelivered,
        webhook.WebhookDelivered(
            endpoint_id=_ENDPOINT,
            org_id=_ORG,
            event_id=_EVENT,
            event_type="call.completed",
            attempt=1,
            status_code=200,
            duration_ms=41,
        ),
    ),
    EventType(
        "webhook.attempt_failed",
        WEBHOOK_EVENTS,
        webhook.WebhookAttemptFailed,
        webhook.WebhookAttemptFailed(
            endpoint_id=_ENDPOINT,
            org_id=_ORG,
            event_id=_EVENT,
            event_type="call.completed",
            attempt=1,
            failure_code="http_5xx",
            status_code=503,
            duration_ms=41,
            final=False,
        ),
    ),
    EventType(
        "webhook.endpoint_paused",
        WEBHOOK_EVENTS,
        webhook.WebhookEndpointPaused,
        webhook.WebhookEndpointPaused(endpoint_id=_ENDPOINT, org_id=_ORG, reason="gone"),
    ),
    *(
        EventType(f"customer.{name}", CUSTOMER_EVENTS, model, _customer(model))
        for name, model in (
            ("call.dialing", customer.CustomerCallDialing),
            ("call.in_progress", customer.CustomerCallInProgress),
            ("call.completed", customer.CustomerCallCompleted),
            ("call.failed", customer.CustomerCallFailed),
            ("call.billed", customer.CustomerCallBilled),
            ("call.artifacts_ready", customer.CustomerCallArtifactsReady),
        )
    ),
    EventType(
        "customer.wallet.low_balance",
        CUSTOMER_EVENTS,
        customer.CustomerWalletLowBalance,
        customer.CustomerWalletLowBalance(org_id=_ORG, balance_paise=9_900, threshold_paise=10_000),
    ),
)

EVENT_TYPES: dict[str, EventType] = {entry.name: entry for entry in _ENTRIES}
_BY_MODEL: dict[type[EventData], EventType] = {entry.model: entry for entry in _ENTRIES}


def type_of(data: EventData | type[EventData]) -> EventType:
    """The catalogue's entry for a model or an instance of it."""
    return _BY_MODEL[data if isinstance(data, type) else type(data)]


def types_on(topic: Topic) -> tuple[EventType, ...]:
    """All that may stand on a topic."""
    return tuple(entry for entry in _ENTRIES if entry.topic is topic)


def public_names() -> tuple[str, ...]:
    """What a customer can subscribe to: `call.completed` and the rest."""
    return tuple(customer.public_name(entry.name) for entry in types_on(CUSTOMER_EVENTS))
