"""A record that can't be handled is parked, what is behind it is handled, and a redrive heals it."""

from uuid import UUID, uuid4

from aiokafka import AIOKafkaProducer

from cualify_local.environment import BILLING
from cualify_local.seed import cualify as run_cualify
from cualify_shared.clock import now
from cualify_shared.events import Event, Terms, encode
from cualify_shared.events.call import CallCompleted
from cualify_shared.events.envelope import headers
from tests.support.platform import Platform, until


async def test_a_poison_record_is_parked_unchanged_and_a_redrive_heals_it(cualify: Platform) -> None:
    garbage = b'{"type": "call.completed", "data": \xff'
    org = await run_cualify(cualify.stack, "orgs", "create", "No money")
    stranger = completed_call_of(UUID(org["id"]))
    await publish(cualify, "call.events", (garbage, []), (encode(stranger), headers(encode(stranger))))

    placed = await cualify.place("+919990000112")
    assert (await cualify.until_settled(placed["id"]))["status"] == "completed", "what is behind the poison is handled"

    async def parked() -> list[bytes] | None:
        rows = await cualify.query(BILLING, "SELECT payload FROM dead_letters WHERE status = 'parked' ORDER BY id")
        return [row["payload"] for row in rows] if len(rows) >= 2 else None

    assert set(await until(parked, "both records parked by billing")) == {garbage, encode(stranger)}

    listed = (await run_cualify(cualify.stack, "dlq", "list", "--service", BILLING))["data"]
    [letter] = [row for row in listed if "JSON" not in row["error"]]
    await run_cualify(cualify.stack, "topup", str(stranger.org_id), "100000", "--payment-id", "late")
    await run_cualify(cualify.stack, "dlq", "redrive", str(letter["id"]), "--service", BILLING)

    debit = f"debit:{stranger.key}"
    [row] = await cualify.query(BILLING, "SELECT name FROM transfers WHERE name = $1", debit)
    assert row["name"] == debit
    still = (await run_cualify(cualify.stack, "dlq", "list", "--service", BILLING))["data"]
    assert letter["id"] not in [row["id"] for row in still]


def completed_call_of(org_id: UUID) -> Event:
    """A call that was never accepted here: its org has no money to pay it with."""
    call_id = uuid4()
    data = CallCompleted(
        call_id=call_id,
        org_id=org_id,
        agent_id=uuid4(),
        callee_token="hmac:v1:" + "0" * 32,
        ended_reason="completed",
        duration_sec=142,
        ended_at=now(),
        attempts=1,
        provider="bolna",
        provider_call_id=f"boln_{call_id.hex}",
        terms=Terms(rate_paise_per_sec=10, pulse_sec=1, hold_paise=3000, max_duration_sec=300),
    )
    return Event(data=data, org_id=org_id, key=call_id, subject=f"call/{call_id}", sequence=1)


async def publish(cualify: Platform, topic: str, *records: tuple[bytes, list[tuple[str, bytes]]]) -> None:
    """What a broken writer might have written."""
    producer = AIOKafkaProducer(bootstrap_servers=cualify.kafka.bootstrap_servers, acks="all")
    await producer.start()
    try:
        for value, with_headers in records:
            await producer.send_and_wait(cualify.prefix + topic, value, key=b"x", headers=with_headers)
    finally:
        await producer.stop()
