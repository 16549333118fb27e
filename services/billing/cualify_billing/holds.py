"""The api's view of the wallets against ours. Right while calls are in flight: only what always holds is compared.

The api is read, then our balances, then the api again. Where its row is the same both times no call was accepted in
between, so what it promises, granted − held, is at most the balance: whatever a call can cost is held until we have
said so. At rest, with nothing held or on its way out and no entry for a while, both are equal.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import aiohttp
from pydantic import BaseModel, ConfigDict, ValidationError

from cualify_billing.answers import TooLong, whole
from cualify_billing.reconcile import Difference, Elsewhere
from cualify_shared.database import Pool

WITHIN_SEC: Final = 60.0
LARGEST_ANSWER_BYTES: Final = 4 * 1024 * 1024
MOST_PAGES: Final = 10_000
SETTLED_AFTER: Final = timedelta(minutes=5)
"""By then an event of ours has reached the api, or something is wrong with it."""


class ApiAway(Exception):
    """The api gave no answer, or none that makes sense."""


class Credit(BaseModel):
    """What the api believes of an org's money."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    org_id: UUID
    granted_paise: int
    held_paise: int
    open_holds_paise: int
    set_aside_paise: int
    disputed: int
    version: str
    unsettled_calls: int = 0
    unended_calls: int = 0


class Page(BaseModel):
    """Some orgs, and after which one the rest comes."""

    data: list[Credit]
    next: UUID | None


class Api:
    """Where the api answers, and the token for it."""

    def __init__(self, *, url: str, token: str) -> None:
        self._url, self._headers = url.rstrip("/") + "/internal/credit", {"Authorization": f"Bearer {token}"}

    async def page(self, http: aiohttp.ClientSession, after: UUID | None) -> Page:
        """Raises ApiAway."""
        params = {} if after is None else {"after": str(after)}
        try:
            async with http.get(self._url, params=params, headers=self._headers, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise ApiAway(f"the api answered {answer.status}")
                return Page.model_validate_json(await whole(answer, most_bytes=LARGEST_ANSWER_BYTES))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiAway(f"the api does not answer: {type(error).__name__}") from None
        except (ValidationError, TooLong):
            raise ApiAway("the api's answer makes no sense") from None


RULE = "what the api holds and promises"


def elsewhere(pool: Pool, api: Api | None) -> Elsewhere:
    """What a reconciliation asks of the api; where that can't be done, it is said to be unchecked."""

    async def ask() -> tuple[Sequence[Difference], Sequence[str]]:
        if api is None:
            return [], [f"{RULE}: API_URL is not set"]
        try:
            return await differences(pool, api), []
        except ApiAway as away:
            return [], [f"{RULE}: {away}"]

    return ask


WALLETS = """
SELECT accounts.org_id, accounts.balance_paise,
    coalesce(last.created_at < clock_timestamp() - $2::interval, true) AS at_rest
FROM accounts
LEFT JOIN LATERAL (
    SELECT transfers.created_at
    FROM entries
    JOIN transfers ON transfers.name = entries.transfer
    WHERE entries.account_id = accounts.id
    ORDER BY entries.id DESC
    LIMIT 1
) AS last ON true
WHERE accounts.org_id = ANY($1::uuid[])
"""


async def differences(pool: Pool, api: Api, *, settled_after: timedelta = SETTLED_AFTER) -> list[Difference]:
    """What the api and the wallets disagree on, org by org.

    Raises:
        ApiAway: nobody knows.
    """
    found: list[Difference] = []
    after: UUID | None = None
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_SEC)) as http:
        for _ in range(MOST_PAGES):
            before = await api.page(http, after)
            rows = await pool.fetch(WALLETS, [one.org_id for one in before.data], settled_after)
            wallets = {row["org_id"]: (row["balance_paise"], row["at_rest"]) for row in rows}
            again = {one.org_id: one.version for one in (await api.page(http, after)).data}
            for credit in before.data:
                found += _of(credit, wallets, is_still=again.get(credit.org_id) == credit.version)
            if before.next is None:
                return found
            after = before.next
    raise ApiAway("the api never comes to an end")


def _of(credit: Credit, wallets: Mapping[UUID, tuple[int, bool]], *, is_still: bool) -> list[Difference]:
    subject = f"org {credit.org_id}"
    balance_paise, at_rest = wallets.get(credit.org_id, (0, True))
    free_paise = credit.granted_paise - credit.held_paise
    found: list[Difference] = []
    if credit.held_paise != credit.open_holds_paise:
        rule = "what the api holds is what its open calls may cost"
        found.append(Difference(rule, subject, credit.open_holds_paise, credit.held_paise))
    if credit.unsettled_calls:
        found.append(Difference("every call that ended is settled", subject, 0, credit.unsettled_calls))
    if credit.unended_calls:
        found.append(Difference("every call ends", subject, 0, credit.unended_calls))
    if credit.disputed:
        found.append(Difference("a refund means the same to the api and to us", subject, 0, credit.disputed))
    if is_still and free_paise > balance_paise:
        rule = "the api promises no more than the wallet holds"
        found.append(Difference(rule, subject, balance_paise, free_paise))
    elif is_still and at_rest and credit.held_paise == credit.set_aside_paise == 0 and free_paise != balance_paise:
        found.append(Difference("at rest the api and the wallet are equal", subject, balance_paise, free_paise))
    return found
