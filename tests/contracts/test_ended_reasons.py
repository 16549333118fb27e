"""Why a call ended is one of the strings that customers are told of, however the dialer came to it."""

import re
from pathlib import Path

from cualify_api.openapi.schemas import ENDED_REASONS
from cualify_dialer import facts

PAGE = Path(facts.__file__).parents[1] / "README.md"


def reasons_of_the_dialer() -> set[str]:
    """The second column of "How a call ends"."""
    table = PAGE.read_text().partition("## How a call ends")[2].partition("\n##")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines() if line.startswith("|")]
    return {
        reason for status, named in rows[2:] for reason in re.split(r",\s*", status if named == "the same" else named)
    }


def test_the_document_lists_every_reason_and_none_besides() -> None:
    assert set(ENDED_REASONS) == reasons_of_the_dialer()


def test_what_the_dialers_code_makes_of_a_providers_last_word_is_among_them() -> None:
    assert {reason for _, reason in facts.ENDS.values()} <= set(ENDED_REASONS)


def test_there_are_at_most_thirty_each_once() -> None:
    assert len(ENDED_REASONS) == len(set(ENDED_REASONS)) <= 30
