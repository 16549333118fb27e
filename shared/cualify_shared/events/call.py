"""Events of a call: asked for by the api, lived by the dialer."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from cualify_shared.events.model import EventData, Instant, Paise, Seconds, Terms, one_of

E164 = Annotated[str, Field(pattern=r"^\+[1-9]\d{6,14}$")]
Provider = Annotated[str, one_of("bolna", "exotel", "plivo", "twilio")]
ProviderRef = Annotated[
    str, Field(max_length=64, description="Our reference, under which the provider carries the attempt.")
]
CalleeToken = Annotated[
    str, Field(pattern=r"^hmac:v1:[0-9a-f]{32}$", description="Stands for the callee's number, per org.")
]
EndedBy = Annotated[str, one_of("callee", "agent", "platform", "provider", "customer")]
AttemptNumber = Annotated[int, Field(ge=1, le=100, description="1 for the first time the provider was asked.")]

MOST_CONCURRENT_CALLS = 10_000
"""That a plan can allow, as far as a request for a call can say it."""

ARTIFACT_TRANSCRIPT = "transcript"
ARTIFACT_RECORDING = "recording"


class Retry(EventData):
    """Ringing again, where the customer asked for it. Each time is an attempt; the call still ends once."""

    max_attempts: Annotated[int, Field(ge=1, le=3, description="Times that the phone may ring in all.")]
    on: Annotated[tuple[Annotated[str, one_of("busy", "no_answer")], ...], Field(min_length=1, max_length=2)]
    intervals_min: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1440)], ...],
        Field(min_length=1, max_length=2, description="Minutes before each further attempt; the last one repeats."),
    ]


class Fallback(EventData):
    """A provider to turn to where those before it are known not to have started the call."""

    provider: Provider
    provider_agent_id: Annotated[str, Field(max_length=64)]


class CallRequested(EventData):
    """A call was accepted, its money held. The dialer places it once."""

    call_id: UUID
    org_id: UUID
    agent_id: UUID
    to_e164: E164
    from_e164: E164 | None = None
    callee_token: CalleeToken
    language: Annotated[str, Field(max_length=35)]
    provider: Provider
    provider_agent_id: Annotated[str, Field(max_length=64)]
    provider_call_id: ProviderRef
    terms: Terms
    requested_at: Instant
    earliest_at: Instant | None = None
    latest_at: Instant
    """Not dialed by then, the call ends `failed`, `expired`: a phone never rings late."""
    max_concurrent_calls: Annotated[int, Field(ge=1, le=MOST_CONCURRENT_CALLS)] | None = None
    """What the org's plan allows at once; absent, the dialer's own default."""
    retry: Retry | None = None
    fallback_providers: Annotated[tuple[Fallback, ...], Field(max_length=3)] | None = None
    test: bool = False
    """Placed with a test key: it goes to the simulator, never to a provider that rings anybody. Rate and hold are 0."""


class CallCancelRequested(EventData):
    """The customer no longer wants the call."""

    call_id: UUID
    org_id: UUID
    requested_at: Instant


class CallDialing(EventData):
    """An attempt was committed and the provider is being asked."""

    call_id: UUID
    org_id: UUID
    attempt: AttemptNumber
    provider: Provider
    provider_call_id: ProviderRef


class CallProviderAccepted(EventData):
    """The provider has the attempt, under an id of its own. Told once an attempt, as soon as that is known.

    `accepted_at` is there where the event is too late to say when: the provider had it then at the latest.
    """

    call_id: UUID
    org_id: UUID
    attempt: AttemptNumber
    provider: Provider
    provider_call_id: ProviderRef
    provider_execution_id: Annotated[str, Field(max_length=128)]
    accepted_at: Instant | None = None


class CallRetryScheduled(EventData):
    """The phone rang in vain. As the customer asked, it will ring again: not before `next_at`."""

    call_id: UUID
    org_id: UUID
    attempt: AttemptNumber
    provider: Provider
    provider_call_id: ProviderRef
    outcome: Annotated[str, one_of("busy", "no_answer")]
    next_at: Instant


class CallInProgress(EventData):
    """The callee answered."""

    call_id: UUID
    org_id: UUID
    attempt: AttemptNumber
    provider: Provider
    provider_call_id: ProviderRef
    provider_execution_id: Annotated[str, Field(max_length=128)] | None = None
    started_at: Instant


class CallDisclosurePlayed(EventData):
    """The agent said that it is one, and that the call is recorded."""

    call_id: UUID
    org_id: UUID
    at: Instant


class CallIntentDetected(EventData):
    """The agent understood what the callee wants."""

    call_id: UUID
    org_id: UUID
    at: Instant
    intent: Annotated[str, Field(max_length=200)]


class CallHandoffRequested(EventData):
    """The callee asked for a human."""

    call_id: UUID
    org_id: UUID
    at: Instant


class CallEnded(EventData):
    """A full snapshot of a call's end, so that nobody has to call back."""

    call_id: UUID
    org_id: UUID
    agent_id: UUID
    callee_token: CalleeToken
    status: str
    ended_reason: Annotated[str, Field(max_length=64)]
    ended_by: EndedBy | None = None
    duration_sec: Seconds
    """Talking time. Never more than `terms.max_duration_sec` is billed."""
    started_at: Instant | None = None
    ended_at: Instant
    attempts: Annotated[int, Field(ge=0, le=100)]
    provider: Provider
    provider_call_id: ProviderRef
    provider_execution_id: Annotated[str, Field(max_length=128)] | None = None
    answered_by: Annotated[str, one_of("human", "voicemail")] | None = None
    terms: Terms
    artifacts: tuple[Annotated[str, one_of(ARTIFACT_TRANSCRIPT, ARTIFACT_RECORDING)], ...] = ()
    """What follows on `call.artifacts`."""
    llm_extracted_intent: Annotated[str, Field(max_length=200)] | None = None
    llm_sentiment: Annotated[str, Field(max_length=64)] | None = None
    llm_outcome: Annotated[str, Field(max_length=200)] | None = None
    provider_cost_cents: Annotated[float, Field(ge=0, description="US cents that the provider charges us.")] | None = (
        None
    )


class CallCompleted(CallEnded):
    """The callee was spoken to."""

    status: Annotated[str, one_of("completed")] = "completed"


class CallFailed(CallEnded):
    """Every unsuccessful end. It costs nothing."""

    status: Annotated[str, one_of("failed", "no_answer", "busy", "canceled")]


class TranscriptTurn(EventData):
    """One thing said."""

    role: Annotated[str, one_of("agent", "callee")]
    text: Annotated[str, Field(max_length=20_000)]
    at_ms: Annotated[int, Field(ge=0, description="Milliseconds since the callee answered.")] | None = None


class CallTranscriptReady(EventData):
    """What was said."""

    call_id: UUID
    org_id: UUID
    transcript: tuple[TranscriptTurn, ...]


class CallRecordingReady(EventData):
    """Where the recording can be heard."""

    call_id: UUID
    org_id: UUID
    recording_url: Annotated[str, Field(max_length=2048)]


__all__ = [
    "CallCancelRequested",
    "CallCompleted",
    "CallDialing",
    "CallDisclosurePlayed",
    "CallEnded",
    "CallFailed",
    "CallHandoffRequested",
    "CallInProgress",
    "CallIntentDetected",
    "CallProviderAccepted",
    "CallRecordingReady",
    "CallRequested",
    "CallTranscriptReady",
    "Fallback",
    "Paise",
    "Retry",
    "TranscriptTurn",
]
