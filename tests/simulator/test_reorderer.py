"""Callbacks twice and in the wrong order: which letter may leave when."""

import pytest

from cualify_simulator.callbacks import Letter, Reorderer


def arranged(*statuses: str) -> list[str]:
    reorderer = Reorderer()
    leaving: list[str] = []
    for number, status in enumerate(statuses, start=1):
        letters = reorderer.arrange(Letter("http://x", status, b""), is_last=number == len(statuses))
        leaving += [letter.status for letter in letters]
    return leaving


def test_the_first_leaves_at_once() -> None:
    assert [letter.status for letter in Reorderer().arrange(Letter("http://x", "queued", b""), is_last=False)] == [
        "queued"
    ]


def test_a_whole_life_comes_twice_with_its_end_before_its_middle() -> None:
    life = ("queued", "initiated", "ringing", "in-progress", "call-disconnected", "completed")
    first = ["queued", "initiated", "in-progress", "ringing", "completed", "call-disconnected"]
    assert arranged(*life) == [*first, *reversed(life)]


@pytest.mark.parametrize("length", range(1, 9))
def test_every_letter_leaves_exactly_twice(length: int) -> None:
    life = [str(number) for number in range(length)]
    assert sorted(arranged(*life)) == sorted(life * 2)


def test_a_second_copy_has_its_own_attempts() -> None:
    letter = Letter("http://x", "stopped", b"body", attempt=3)
    first, second = Reorderer().arrange(letter, is_last=True)
    assert (first.attempt, second.attempt, second.body) == (3, 0, b"body")
