"""What lowers a wallet other than a call, set aside before billing is asked: `infra/decisions/0005-…`.

Set aside, the money is gone from `granted`, and no call can be accepted on it. A chargeback that is more than what is
free waits, and freezes the org until enough of it is released. Locks: the credit of the org, then the reduction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias
from uuid import UUID

from cualify_api.calls import terms
from cualify_api.calls.decide import Credit, available_paise
from cualify_shared.clock import now
from cualify_shared.database import Connection, Pool, Row
from cualify_shared.events.wallet import WalletRefunded

Kind: TypeAlias = Literal["refund", "chargeback", "correction"]
Status: TypeAlias = Literal["waiting", "set_aside", "posted", "refused", "disputed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A reduction as it is asked for. `id` makes it one, however often it is asked for."""

    id: str
    org_id: UUID
    kind: Kind
    amount_paise: int
    payment_id: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction(Wanted):
    """What has become of it. `refused_why`: billing's reason, where it refused."""

    status: Status
    refused_why: str | None
    created_at: datetime
    decided_at: datetime | None

    def is_of(self, wanted: Wanted) -> bool:
        """Whether it was asked for in these words."""
        return all(getattr(self, name) == getattr(wanted, name) for name in Wanted.__slots__)


@dataclass(frozen=True, slots=True)
class TooLittle:
    """The money is not there, or calls hold it. Nothing is kept of the wish."""

    credit: Credit


class UnknownReduction(Exception):
    """Billing posted a reduction that was never set aside here: what this org can spend is told too high."""


COLUMNS = "id, org_id, kind, amount_paise, payment_id, reason, status, refused_why, created_at, decided_at"

ADD = f"""
INSERT INTO reductions (id, org_id, kind, amount_paise, payment_id, reason, status, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (id) DO NOTHING
RETURNING {COLUMNS}
"""

FIND = f"""
SELECT {COLUMNS}
FROM reductions
WHERE id = $1
"""

FREEZE = """
UPDATE org_credit
SET frozen = true
WHERE org_id = $1
"""


async def set_aside(connection: Connection, wanted: Wanted) -> Reduction | TooLittle:
    """Takes the money out of what calls may be accepted on. Of an id that was used before, what became of it."""
    credit = (await terms.locked_credit(connection, [wanted.org_id]))[wanted.org_id]
    before = await connection.fetchrow(FIND, wanted.id)
    if before is not None:
        return Reduction(**before)
    is_there = not credit.frozen and available_paise(credit) >= wanted.amount_paise
    if not is_there and wanted.kind != "chargeback":
        return TooLittle(credit)
    added = await _add(connection, wanted, "set_aside" if is_there else "waiting")
    if added is None:
        # Another org's wish under the same id was committed meanwhile: its credit's lock is not ours.
        found = await connection.fetchrow(FIND, wanted.id)
        assert found is not None, "what conflicts is there"
        return Reduction(**found)
    if is_there:
        await terms.change_credit(connection, {wanted.org_id: (-wanted.amount_paise, 0)})
    else:
        await connection.execute(FREEZE, wanted.org_id)
    return added


async def _add(connection: Connection, wanted: Wanted, status: Status) -> Reduction | None:
    row = await connection.fetchrow(
        ADD,
        wanted.id,
        wanted.org_id,
        wanted.kind,
        wanted.amount_paise,
        wanted.payment_id,
        wanted.reason,
        status,
        now(),
    )
    return None if row is None else Reduction(**row)


COVERED = """
SELECT DISTINCT r.org_id
FROM reductions AS r
JOIN org_credit AS c ON c.org_id = r.org_id
WHERE r.status = 'waiting' AND r.amount_paise <= c.granted - c.held
LIMIT 1000
"""


async def covered(pool: Pool) -> list[UUID]:
    """Orgs with a waiting chargeback that the released money covers by now."""
    return [row["org_id"] for row in await pool.fetch(COVERED)]


WAITING = """
SELECT id, amount_paise
FROM reductions
WHERE org_id = $1 AND status = 'waiting'
ORDER BY created_at, id
"""

TAKE_UP = """
UPDATE reductions
SET status = 'set_aside', ask_after = now()
WHERE id = $1 AND status = 'waiting'
"""

THAW = """
UPDATE org_credit
SET frozen = false
WHERE org_id = $1
"""


async def take_up(connection: Connection, org_id: UUID) -> int:
    """Sets aside those waiting chargebacks that the released money covers, the oldest first. Thaws after the last."""
    credit = (await terms.locked_credit(connection, [org_id]))[org_id]
    waiting = await connection.fetch(WAITING, org_id)
    free_paise, taken = available_paise(credit), 0
    for row in waiting:
        if row["amount_paise"] > free_paise:
            continue
        free_paise -= row["amount_paise"]
        await connection.execute(TAKE_UP, row["id"])
        await terms.change_credit(connection, {org_id: (-row["amount_paise"], 0)})
        taken += 1
    if taken == len(waiting):
        await connection.execute(THAW, org_id)
    return taken


WITHDRAW = """
UPDATE reductions
SET status = 'refused', decided_at = $3, refused_why = 'withdrawn'
WHERE id = $1 AND org_id = $2 AND status = 'waiting'
"""


async def withdraw(connection: Connection, org_id: UUID, reduction_id: str) -> Reduction | None:
    """Gives up a chargeback that waits, and thaws the org after its last one; what has become of it."""
    await terms.locked_credit(connection, [org_id])
    await connection.execute(WITHDRAW, reduction_id, org_id, now())
    if not await connection.fetch(WAITING, org_id):
        await connection.execute(THAW, org_id)
    row = await connection.fetchrow(FIND, reduction_id)
    return None if row is None or row["org_id"] != org_id else Reduction(**row)


CLAIM = f"""
UPDATE reductions
SET asked = asked + 1, ask_after = clock_timestamp() + make_interval(secs => least(60, 2 ^ least(asked, 6)))
WHERE id IN (
    SELECT id
    FROM reductions
    WHERE status = 'set_aside' AND ask_after <= clock_timestamp()
    ORDER BY ask_after
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
RETURNING {COLUMNS}
"""


async def claim(pool: Pool, *, limit: int) -> list[Reduction]:
    """Reductions that billing is to be asked for now. Each is due again after 1 s, 2 s, … a minute, for ever."""
    return [Reduction(**row) for row in await pool.fetch(CLAIM, limit)]


POSTED = """
UPDATE reductions
SET status = 'posted', decided_at = $2
WHERE id = $1 AND status = 'set_aside'
"""

DISPUTED = """
UPDATE reductions
SET status = 'disputed', decided_at = $2
WHERE id = $1 AND status = 'set_aside'
"""

REFUSED = """
UPDATE reductions
SET status = 'refused', decided_at = $2, refused_why = $3
WHERE id = $1 AND status = 'set_aside'
RETURNING amount_paise
"""


async def posted(connection: Connection, reduction_id: str) -> None:
    """Billing has taken the money: `granted` stays lowered."""
    await connection.execute(POSTED, reduction_id, now())


async def disputed(connection: Connection, reduction_id: str) -> None:
    """Billing knows the id with another body: a person looks, and nothing is given back."""
    await connection.execute(DISPUTED, reduction_id, now())


async def refused(connection: Connection, reduction: Reduction, *, why: str) -> None:
    """Billing refuses for good: the money is the org's again, in the same transaction, once."""
    await terms.locked_credit(connection, [reduction.org_id])
    given_back = await connection.fetchval(REFUSED, reduction.id, now(), why)
    if given_back is not None:
        await terms.change_credit(connection, {reduction.org_id: (given_back, 0)})


FOLD = """
UPDATE reductions AS r
SET status = 'posted', decided_at = coalesce(r.decided_at, $3)
FROM unnest($1::text[], $2::uuid[]) AS told (id, org_id)
WHERE r.id = told.id AND r.org_id = told.org_id AND r.status IN ('set_aside', 'posted')
RETURNING r.id
"""


async def fold_posted(connection: Connection, told: Sequence[WalletRefunded]) -> None:
    """Makes up for a lost answer; the orgs' credit is locked. It lowers nothing: that was done before.

    Raises:
        UnknownReduction: it was never set aside here.
    """
    if not told:
        return
    orgs = {one.refund_id: one.org_id for one in told}
    rows = await connection.fetch(FOLD, list(orgs), list(orgs.values()), now())
    if unknown := orgs.keys() - {row["id"] for row in rows}:
        raise UnknownReduction(f"billing posted refund:{sorted(unknown)[0]}, which was not set aside here")


LIST = f"""
SELECT {COLUMNS}
FROM reductions
WHERE org_id = $1
ORDER BY created_at DESC, id DESC
LIMIT $2 OFFSET $3
"""

TOTAL = """
SELECT count(*)
FROM reductions
WHERE org_id = $1
"""


async def listed(pool: Pool, org_id: UUID, *, limit: int, offset: int) -> tuple[list[Row], int]:
    """One page of an org's, newest first, and how many there are."""
    return await pool.fetch(LIST, org_id, limit, offset), await pool.fetchval(TOTAL, org_id)


async def find(pool: Pool, reduction_id: str) -> Row | None:
    """What has become of one."""
    return await pool.fetchrow(FIND, reduction_id)
