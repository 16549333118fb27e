"""The document's part on what billing keeps: a call's bill, and the balance to be warned at."""

from typing import Any, Final

from cualify_api.openapi import examples
from cualify_api.openapi.building import EVERYWHERE, FORWARDED, WITH_BODY, Paths, operation, path_id, success
from cualify_api.openapi.schemas import COUNT, INSTANT, PAISE, UUID, Schema, answer, data, nullable

_TEXT: Final[Schema] = {"type": "string"}
_THRESHOLD: Final = answer(
    {"threshold_paise": nullable(PAISE), "balance_paise": PAISE, "is_below": {"type": "boolean"}}
)
_THRESHOLD_EXAMPLE: Final = {"threshold_paise": 50_000, "balance_paise": 9_998_580, "is_below": False}
_LINE: Final[Schema] = {
    "type": "object",
    "required": ["what", "amount_paise"],
    "properties": {
        "what": _TEXT,
        "duration_sec": COUNT,
        "billable_sec": COUNT,
        "rate_paise_per_sec": COUNT,
        "amount_paise": {"type": "integer", "description": "Below zero where less is charged than talked."},
    },
}
_TERMS: Final = answer(
    {
        "rate_paise_per_sec": COUNT,
        "pulse_sec": COUNT,
        "min_billable_sec": COUNT,
        "max_duration_sec": COUNT,
        "hold_paise": PAISE,
    }
)
_BILL: Final = answer(
    {
        "transfer": {**_TEXT, "description": "Of the ledger's line: `debit:<call id>`."},
        "call_id": UUID,
        "status": _TEXT,
        "lines": {"type": "array", "items": _LINE},
        "amount_paise": PAISE,
        "balance_after_paise": PAISE,
        "explanation": {**_TEXT, "description": "The sum, written out."},
        "rule": {**_TEXT, "description": "How seconds become paise, in words."},
        "terms": _TERMS,
        "discrepancies": {"type": "array", "items": {"type": "object"}},
        "at": INSTANT,
    }
)
_BILL_EXAMPLE: Final[dict[str, Any]] = {
    "transfer": f"debit:{examples.CALL_ID}",
    "call_id": examples.CALL_ID,
    "status": "completed",
    "lines": [
        {"what": "ring", "billable_sec": 0, "rate_paise_per_sec": 0, "amount_paise": 0},
        {"what": "talk", "duration_sec": 142, "billable_sec": 142, "rate_paise_per_sec": 10, "amount_paise": 1420},
    ],
    "amount_paise": 1420,
    "balance_after_paise": 9_998_580,
    "explanation": "ring 0 s, talk 142 s × 10 paise = 1,420 paise",
    "rule": "Ringing is free and a call that was not completed costs nothing. Talking time is charged for each begun "
    "second, rounded up. Talk beyond 300 s is free, and no call costs more than was held for it.",
    "terms": {
        "rate_paise_per_sec": 10,
        "pulse_sec": 1,
        "min_billable_sec": 0,
        "max_duration_sec": 300,
        "hold_paise": 3000,
    },
    "discrepancies": [],
    "at": "2026-05-31T14:24:42.212Z",
}

MONEY: Final[Paths] = {
    "/api/v1/wallet/low-balance-threshold": {
        "get": operation(
            "getThreshold",
            "Account",
            "The balance that you are warned at",
            success(200, "In paise; null where none is set.", data(_THRESHOLD), {"data": _THRESHOLD_EXAMPLE}),
            refusals=(*EVERYWHERE, *FORWARDED),
        ),
        "put": operation(
            "setThreshold",
            "Account",
            "Be warned of a low balance",
            success(200, "As it is now.", data(_THRESHOLD), {"data": _THRESHOLD_EXAMPLE}),
            about="`wallet.low_balance` is sent once each time that a debit takes the balance below it. Where it is "
            "below already (`is_below`), the first is sent after it was above once more. Null: no warning.",
            body=("SetThreshold", {"threshold_paise": 50_000}),
            refusals=(*WITH_BODY, *FORWARDED),
        ),
    },
    "/api/v1/calls/{call_id}/bill": {
        "get": operation(
            "getBill",
            "Calls",
            "A call's bill, which explains itself",
            success(200, "Once the call is settled.", data(_BILL), {"data": _BILL_EXAMPLE}),
            about="`not_found` until then, and where the call is not yours.",
            parameters=(path_id("call_id", examples.CALL_ID),),
            refusals=(*EVERYWHERE, *FORWARDED),
        )
    },
}
