"""The routes of contacts, events, agents, money and limits."""

from typing import Final

from cualify_api.contacts.contact import CONSENTS
from cualify_api.openapi import examples
from cualify_api.openapi.building import (
    CURSOR,
    EVERYWHERE,
    FORWARDED,
    IDEMPOTENCY_KEY,
    LIMIT,
    NAMED,
    NEXT,
    NEXT_WITH_CURSOR,
    OFFSET,
    WITH_BODY,
    Paths,
    operation,
    parameter,
    path_id,
    success,
)
from cualify_api.openapi.schemas import E164, INSTANT, data, listed, ref

CONTACTS: Final[Paths] = {
    "/api/v1/contacts": {
        "post": operation(
            "upsertContact",
            "Contacts",
            "Create or update a contact",
            success(200, "The contact as it is now.", data(ref("Contact")), {"data": examples.CONTACT}),
            about="One contact a phone number. Given fields replace, absent ones stay, null clears.",
            parameters=(IDEMPOTENCY_KEY,),
            body=("UpsertContact", examples.UPSERT_CONTACT),
            refusals=WITH_BODY,
        ),
        "get": operation(
            "listContacts",
            "Contacts",
            "List contacts",
            success(
                200,
                "Newest first.",
                listed(ref("Contact"), "CursorPagination"),
                {"data": [examples.CONTACT], "pagination": NEXT_WITH_CURSOR},
            ),
            parameters=(
                LIMIT,
                OFFSET,
                CURSOR,
                parameter(
                    "consent_capture", {"type": "string", "enum": list(CONSENTS)}, "Whose consent was captured so."
                ),
                parameter("phone_e164", E164, "Of this number.", example="+919812345678"),
                parameter("updated_after", INSTANT, "Changed at this time or later."),
            ),
        ),
    },
    "/api/v1/contacts/{contact_id}": {
        "get": operation(
            "getContact",
            "Contacts",
            "One contact, with the history of consent",
            success(200, "The contact.", data(ref("ContactDetail")), {"data": examples.CONTACT_DETAIL}),
            parameters=(path_id("contact_id", examples.CONTACT_ID),),
            refusals=NAMED,
        ),
        "delete": operation(
            "eraseContact",
            "Contacts",
            "Erase a contact",
            success(
                200,
                "Nothing that names the person is left of the contact.",
                data(ref("Deleted")),
                {"data": {"id": examples.CONTACT_ID, "deleted": True}},
            ),
            parameters=(path_id("contact_id", examples.CONTACT_ID),),
            refusals=NAMED,
        ),
    },
}

ACCOUNT: Final[Paths] = {
    "/api/v1/events": {
        "get": operation(
            "listEvents",
            "Events",
            "All that webhooks would say, to be pulled",
            success(
                200,
                "Oldest first, in an order that never changes: nothing turns up behind what was read.",
                listed(ref("Event"), "EventPagination"),
                {
                    "data": [examples.EVENT],
                    "pagination": {"limit": 50, "next_after": examples.EVENT_ID, "has_more": False},
                },
            ),
            parameters=(
                LIMIT,
                parameter(
                    "after",
                    {"type": "string", "pattern": "^evt_[0-9a-f]{32}$"},
                    "The id of the last event that you have, from here or from a webhook; without it, from the first.",
                ),
            ),
        )
    },
    "/api/v1/agents": {
        "get": operation(
            "listAgents",
            "Account",
            "List agents",
            success(
                200,
                "Newest first.",
                listed(ref("Agent"), "Pagination"),
                {"data": [examples.AGENT], "pagination": {**NEXT, "total": 1, "has_more": False}},
            ),
            parameters=(LIMIT, OFFSET),
        )
    },
    "/api/v1/wallet": {
        "get": operation(
            "getWallet",
            "Account",
            "What can be spent",
            success(200, "In paise.", data(ref("Wallet")), {"data": examples.WALLET}),
        )
    },
    "/api/v1/wallet/top-ups": {
        "post": operation(
            "topUpWallet",
            "Account",
            "Begin a payment by Razorpay",
            success(201, "What Razorpay's Checkout needs.", data(ref("Order")), {"data": examples.ORDER}),
            about="Open Razorpay's Checkout with `key_id`, `order_id` and `amount_paise`. When the payment is "
            "captured, the wallet is credited once, and its line stands in the ledger. The same `Idempotency-Key` is "
            "the same order. Not with a test key: it moves no money.",
            parameters=(IDEMPOTENCY_KEY,),
            body=("TopUp", examples.TOP_UP),
            refusals=(*WITH_BODY, *FORWARDED),
        )
    },
    "/api/v1/ledger": {
        "get": operation(
            "listLedger",
            "Account",
            "Every movement of the wallet",
            success(
                200,
                "Newest first.",
                listed(ref("LedgerEntry"), "NextPagination"),
                {
                    "data": [examples.LEDGER_ENTRY],
                    "pagination": {"limit": 50, "next_cursor": None, "has_more": False},
                },
            ),
            parameters=(
                LIMIT,
                parameter("cursor", {"type": "string", "minLength": 1, "maxLength": 500}, CURSOR["description"]),
            ),
            refusals=(*EVERYWHERE, *FORWARDED),
        )
    },
    "/api/v1/limits": {
        "get": operation(
            "getLimits",
            "Account",
            "What may be done at once",
            success(
                200, "The plan's limits, and what of them is used.", data(ref("Limits")), {"data": examples.LIMITS}
            ),
        )
    },
}
