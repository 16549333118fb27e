"""The journal: numbered without a gap, bounded, and honest about what it forgot."""

from datetime import UTC, datetime

from cualify_simulator.journal import Journal, Kind

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)


def journal_with(count: int, *, capacity: int = 1_000) -> Journal:
    journal = Journal(capacity, lambda: NOON)
    for number in range(count):
        journal.note(Kind.RING, to_e164=f"+9100000{number:04d}", cualify_ref=f"boln_{number}", execution_id=str(number))
    return journal


def test_entries_are_numbered_from_one_without_a_gap() -> None:
    assert [entry["n"] for entry in journal_with(5).after(0, 1_000)] == [1, 2, 3, 4, 5]


def test_an_entry_says_what_when_to_whom_and_for_which_attempt() -> None:
    assert journal_with(1).after(0, 1)[0] == {
        "n": 1,
        "at": "2026-11-02T12:00:00.000000+00:00",
        "kind": "ring",
        "to_e164": "+91000000000",
        "cualify_ref": "boln_0",
        "execution_id": "0",
        "status": None,
        "answer": None,
        "attempt": None,
        "duration_sec": None,
        "reason": None,
    }


def test_reading_goes_on_after_a_number() -> None:
    assert [entry["n"] for entry in journal_with(9).after(4, 3)] == [5, 6, 7]


def test_nothing_follows_the_last() -> None:
    assert journal_with(3).after(3, 10) == journal_with(3).after(99, 10) == []


def test_only_the_newest_are_kept_under_their_own_numbers() -> None:
    entries = journal_with(25, capacity=10).after(0, 1_000)
    assert [entry["n"] for entry in entries] == list(range(16, 26))
    assert [entry["execution_id"] for entry in entries] == [str(number) for number in range(15, 25)]
