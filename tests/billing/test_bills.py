"""A bill says in words and figures why a call cost what it did."""

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, strategies as st

from cualify_billing.figures import grouped, in_words, rupees
from cualify_shared.database import Pool
from tests.billing.conftest import TERMS, Caller, assert_sound, call_of, consume, ended, everything, top_up


async def bill_of(
    ask: Caller, pool: Pool, *, duration_sec: int, status: str = "completed", terms: dict[str, int] | None = None
) -> Any:
    org = uuid4()
    await top_up(pool, org, 100_000)
    end = ended(org, duration_sec=duration_sec, status=status, terms=TERMS.model_copy(update=terms or {}))
    await consume(pool, [end])
    code, answer = await ask("GET", f"/internal/orgs/{org}/bills/{call_of(end)}")
    assert code == 200
    return answer["data"]


@pytest.mark.parametrize(
    ("terms", "duration_sec", "explanation"),
    [
        ({}, 142, "ring 0 s, talk 142 s × 10 paise = 1,420 paise"),
        ({"pulse_sec": 60}, 61, "ring 0 s, talk 61 s charged as 120 s (pulse 60 s) × 10 paise = 1,200 paise"),
        ({"min_billable_sec": 30}, 4, "ring 0 s, talk 4 s charged as 30 s (at least 30 s) × 10 paise = 300 paise"),
        ({}, 302, "ring 0 s, talk 302 s charged as 300 s (at most 300 s) × 10 paise = 3,000 paise"),
        (
            {"hold_paise": 1000},
            142,
            "ring 0 s, talk 142 s × 10 paise = 1,420 paise, of which the 1,000 paise that were held for the call are"
            " charged",
        ),
    ],
)
async def test_a_bill_explains_itself(
    ask: Caller, pool: Pool, terms: dict[str, int], duration_sec: int, explanation: str
) -> None:
    bill = await bill_of(ask, pool, duration_sec=duration_sec, terms=terms)
    assert bill["explanation"] == explanation
    assert sum(line["amount_paise"] for line in bill["lines"]) == bill["amount_paise"]
    assert "rounded up" in bill["rule"]
    assert ("at least 30 s" in bill["rule"]) == ("min_billable_sec" in terms)
    await assert_sound(pool)


@pytest.mark.parametrize("terms", [{"pulse_sec": 60}, {"min_billable_sec": 60}])
async def test_a_bill_never_denies_what_it_charges(ask: Caller, pool: Pool, terms: dict[str, int]) -> None:
    """A pulse or a minimum may reach beyond the longest talk; the hold covers it. Talk beyond is free."""
    bill = await bill_of(ask, pool, duration_sec=55, terms={"max_duration_sec": 50, **terms})
    assert (bill["amount_paise"], bill["lines"][1]["billable_sec"]) == (600, 60)
    assert bill["rule"].endswith("Talk beyond 50 s is free, and no call costs more than was held for it.")
    await assert_sound(pool)


async def test_the_bill_of_a_failed_call_says_that_it_costs_nothing(ask: Caller, pool: Pool) -> None:
    bill = await bill_of(ask, pool, duration_sec=7, status="busy")
    assert (bill["amount_paise"], bill["explanation"]) == (0, "busy: the call was not completed and costs 0 paise")


async def test_a_call_beyond_its_terms_is_recorded_with_what_it_costs_us(ask: Caller, pool: Pool) -> None:
    bill = await bill_of(ask, pool, duration_sec=310, terms={"hold_paise": 2500})
    assert bill["discrepancies"] == [
        {"kind": "duration_beyond_max", "allowed": 300, "found": 310, "unbilled_paise": 100},
        {"kind": "price_beyond_hold", "allowed": 2500, "found": 3000, "unbilled_paise": 500},
    ]


async def test_a_discrepancy_is_recorded_once_however_often_the_call_is_told(pool: Pool) -> None:
    org = uuid4()
    await top_up(pool, org, 100_000)
    end = ended(org, duration_sec=301)
    await consume(pool, [end, end])
    first = await everything(pool)
    await consume(pool, [end])
    assert await everything(pool) == first
    assert await pool.fetchval("SELECT count(*) FROM discrepancies") == 1


async def test_a_call_is_billed_to_its_own_org_only(ask: Caller, pool: Pool) -> None:
    end = ended(uuid4(), status="busy")
    await consume(pool, [end])
    assert (await ask("GET", f"/internal/orgs/{uuid4()}/bills/{call_of(end)}"))[0] == 404
    assert (await ask("GET", f"/internal/orgs/{end.org_id}/bills/{uuid4()}"))[0] == 404


@pytest.mark.parametrize(
    ("paise", "figures", "words"),
    [
        (0, "0.00", "Rupees Zero Only"),
        (5, "0.05", "Rupees Zero and Five Paise Only"),
        (118_00, "118.00", "Rupees One Hundred Eighteen Only"),
        (1_00_000_00, "1,00,000.00", "Rupees One Lakh Only"),
        (12_34_567_89, "12,34,567.89", "Rupees Twelve Lakh Thirty-Four Thousand Five Hundred Sixty-Seven and"
         " Eighty-Nine Paise Only"),
        (5_00_00_000_00, "5,00,00,000.00", "Rupees Five Crore Only"),
        (123_45_67_890_00, "1,23,45,67,890.00", "Rupees One Hundred Twenty-Three Crore Forty-Five Lakh Sixty-Seven"
         " Thousand Eight Hundred Ninety Only"),
    ],
)  # fmt: skip
def test_amounts_are_written_as_in_india(paise: int, figures: str, words: str) -> None:
    assert (rupees(paise), in_words(paise)) == (figures, words)


@given(st.integers(-(10**15), 10**15))
def test_grouping_keeps_the_number(number: int) -> None:
    assert int(grouped(number).replace(",", "")) == number
