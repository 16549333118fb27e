"""Contacts: one row a phone number, given fields replace, absent ones stay; consent has a history; erasing erases."""

import asyncio
from typing import Any

import pytest

from tests.api.world import Answer, Org, World

RIYA = {
    "phone_e164": "+919812345678",
    "name": "Riya Sharma",
    "email": "riya@example.com",
    "language_pref": "hi-IN",
    "metadata": {"lead_source": "google_ads"},
    "consent_capture": "website_form",
}
PUBLISHED = ("limit", "offset", "total", "has_more")


async def upsert(world: World, org: Org, **body: Any) -> Answer:
    return await world.ask("POST", "/api/v1/contacts", json=body, headers=org.auth)


async def upserted(world: World, org: Org, **body: Any) -> dict[str, Any]:
    answer = await upsert(world, org, **body)
    assert answer.status == 200, answer
    shown: dict[str, Any] = answer.body["data"]
    return shown


async def get(world: World, org: Org, path: str) -> Answer:
    return await world.ask("GET", f"/api/v1/contacts{path}", headers=org.auth)


async def test_the_first_upsert_creates_and_the_next_one_updates_the_same_row(world: World) -> None:
    org = await world.bare_org()
    first = await upserted(world, org, **RIYA)
    assert {name: first[name] for name in RIYA} == RIYA
    assert first["created_at"] == first["updated_at"]
    second = await upserted(world, org, phone_e164=RIYA["phone_e164"], name="Riya S.")
    assert second == first | {"name": "Riya S.", "updated_at": second["updated_at"]}
    assert second["updated_at"] >= first["updated_at"]


async def test_given_fields_replace_absent_ones_stay_and_null_clears(world: World) -> None:
    org = await world.bare_org()
    await upserted(world, org, **RIYA)
    phone = {"phone_e164": RIYA["phone_e164"]}
    cleared = await upserted(world, org, **phone, email=None, language_pref="en-IN")
    assert (cleared["name"], cleared["email"], cleared["language_pref"]) == ("Riya Sharma", None, "en-IN")


async def test_metadata_keys_merge_and_null_removes_one(world: World) -> None:
    org = await world.bare_org()
    phone = {"phone_e164": RIYA["phone_e164"]}
    assert (await upserted(world, org, **phone, metadata={"a": 1, "b": {"c": 2}, "x": None}))["metadata"] == {
        "a": 1,
        "b": {"c": 2},
    }
    assert (await upserted(world, org, **phone, metadata={"b": None, "d": "4"}))["metadata"] == {"a": 1, "d": "4"}
    assert (await upserted(world, org, **phone))["metadata"] == {"a": 1, "d": "4"}


async def test_merged_metadata_stays_within_the_bounds(world: World) -> None:
    org = await world.bare_org()
    phone = {"phone_e164": RIYA["phone_e164"]}
    before = await upserted(world, org, **phone, metadata={f"a{n}": n for n in range(30)})
    answer = await upsert(world, org, **phone, metadata={f"b{n}": n for n in range(30)})
    assert (answer.status, answer.body["error"]["param"]) == (400, "metadata")
    assert (await get(world, org, f"/{before['id']}")).body["data"]["metadata"] == before["metadata"]


async def test_consent_has_a_history_that_a_repeat_does_not_lengthen(world: World) -> None:
    org = await world.bare_org()
    phone = {"phone_e164": RIYA["phone_e164"]}
    for consent in ("imported", "imported", "website_form", "imported"):
        await upserted(world, org, **phone, consent_capture=consent)
    shown = await upserted(world, org, **phone, name="Riya")
    assert shown["consent_capture"] == "imported"
    history = (await get(world, org, f"/{shown['id']}")).body["data"]["consents"]
    assert [row["consent_capture"] for row in history] == ["imported", "website_form", "imported"]


async def test_many_at_once_make_one_contact_and_lose_no_key(world: World) -> None:
    org = await world.bare_org()
    answers = await asyncio.gather(
        *(upsert(world, org, phone_e164=RIYA["phone_e164"], metadata={f"k{n}": n}) for n in range(40))
    )
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["data"]["id"] for answer in answers}) == 1
    [contact] = (await get(world, org, "")).body["data"]
    assert contact["metadata"] == {f"k{n}": n for n in range(40)}


async def test_two_orgs_have_each_their_own_contact_of_a_number(world: World) -> None:
    one, other = await world.bare_org(), await world.bare_org()
    mine, theirs = await upserted(world, one, **RIYA), await upserted(world, other, **RIYA)
    assert mine["id"] != theirs["id"]
    assert (await get(world, one, f"/{theirs['id']}")).status == 404
    assert (await world.ask("DELETE", f"/api/v1/contacts/{theirs['id']}", headers=one.auth)).status == 404
    assert (await get(world, other, "")).body["pagination"]["total"] == 1


async def test_erasing_leaves_no_personal_data_and_the_number_starts_afresh(world: World) -> None:
    org = await world.bare_org()
    contact = await upserted(world, org, **RIYA)
    path = f"/api/v1/contacts/{contact['id']}"
    answer = await world.ask("DELETE", path, headers=org.auth)
    assert (answer.status, answer.body) == (200, {"data": {"id": contact["id"], "deleted": True}})
    assert (await world.ask("DELETE", path, headers=org.auth)).status == 404
    assert (await get(world, org, f"/{contact['id']}")).status == 404
    left = str(await world.dump())
    for personal in ("+919812345678", "Riya", "riya@example.com", "google_ads"):
        assert personal not in left
    assert (await get(world, org, "")).body["pagination"]["total"] == 0
    again = await upserted(world, org, phone_e164=RIYA["phone_e164"])
    assert again["id"] != contact["id"]
    assert (again["name"], again["created_at"]) == (None, again["updated_at"])


async def test_lists_are_newest_first_filtered_and_exact(world: World) -> None:
    org = await world.bare_org()
    kinds = ("imported", "website_form", None, "imported", "manual")
    made = [
        await upserted(world, org, phone_e164=f"+91981234560{n}", **({"consent_capture": kind} if kind else {}))
        for n, kind in enumerate(kinds)
    ]
    ids = [contact["id"] for contact in made]

    async def page(query: str) -> tuple[list[str], list[Any]]:
        body = (await get(world, org, f"?{query}")).body
        return [contact["id"] for contact in body["data"]], [body["pagination"][name] for name in PUBLISHED]

    assert await page("") == (ids[::-1], [50, 0, 5, False])
    assert await page("limit=2&offset=1") == ([ids[3], ids[2]], [2, 1, 5, True])
    assert await page("consent_capture=imported") == ([ids[3], ids[0]], [50, 0, 2, False])
    assert await page("phone_e164=%2B919812345602") == ([ids[2]], [50, 0, 1, False])
    changed = await upserted(world, org, phone_e164="+919812345601", consent_capture="imported")
    assert (await page("consent_capture=website_form"))[1][2] == 0
    assert (await page("consent_capture=imported"))[1][2] == 3
    assert await page(f"updated_after={changed['updated_at']}") == ([ids[1]], [50, 0, 1, False])
    body = (await get(world, org, "?limit=3")).body
    rest = (await get(world, org, f"?limit=3&cursor={body['pagination']['next_cursor']}")).body
    assert [contact["id"] for contact in body["data"] + rest["data"]] == ids[::-1]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"phone_e164": "9812345678"}, "phone_e164"),
        ({"phone_e164": None}, "phone_e164"),
        ({"name": ""}, "name"),
        ({"name": 7}, "name"),
        ({"email": "riya"}, "email"),
        ({"language_pref": "not a tag"}, "language_pref"),
        ({"metadata": []}, "metadata"),
        ({"metadata": None}, "metadata"),
        ({"consent_capture": "guessed"}, "consent_capture"),
        ({"consent_capture": None}, "consent_capture"),
    ],
)
async def test_a_wrong_field_is_named(lasting: World, caller: Org, change: dict[str, Any], param: str) -> None:
    answer = await upsert(lasting, caller, **(RIYA | change))
    assert (answer.status, answer.body["error"]["param"]) == (400, param)


@pytest.mark.parametrize("query", ["consent_capture=x", "phone_e164=1", "updated_after=now", "cursor=1", "limit=0"])
async def test_a_wrong_filter_is_refused(lasting: World, caller: Org, query: str) -> None:
    assert (await get(lasting, caller, f"?{query}")).status == 400
