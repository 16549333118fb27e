"""A database with only the shared tables, and a few events to send."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from cualify_shared.database import Pool
from cualify_shared.events import Event
from cualify_shared.events.call import CallDialing
from tests.support.databases import MakeDatabase

MakePool = Callable[[str], Awaitable[Pool]]


@pytest.fixture
def member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A member with no migrations of its own."""
    name = f"member_of_{tmp_path.name}"
    (tmp_path / name / "migrations").mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest_asyncio.fixture(loop_scope="session")
async def dsn(database: MakeDatabase, member: str) -> str:
    """A fresh database with the shared tables."""
    return await database(member)


@pytest_asyncio.fixture(loop_scope="session")
async def pool(dsn: str, pool_for: MakePool) -> Pool:
    """Connections to it."""
    made = await pool_for(dsn)
    await made.execute("CREATE TABLE seen (call_id uuid, n int, UNIQUE (call_id, n))")
    return made


def dialing(n: int, *, call_id: UUID | None = None) -> Event:
    """`call.dialing` number n of a call."""
    call = call_id or uuid4()
    org = UUID(int=7)
    data = CallDialing(call_id=call, org_id=org, attempt=1, provider="bolna", provider_call_id="boln_x")
    return Event(data=data, org_id=org, key=call, subject=f"call/{call}", sequence=n)
