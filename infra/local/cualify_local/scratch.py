"""Private directories with short paths that vanish with the process that asked for them.

Each holds a lock file that its owner keeps locked, and the kernel unlocks it however the owner ends. So what a
`kill -9` leaves behind is recognised, and removed by the next process that asks.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "cualify-"
_LOCK_FILE = ".in-use"
_TOO_YOUNG_SEC = 5
_held: dict[Path, int] = {}


def make_scratch(parent: Path | None = None, *, owner: tuple[int, int] | None = None) -> Path:
    """A new directory that only its owner can enter, below `parent` (default: the system's temp dir).

    `owner` is a (uid, gid) to give it to; needs root. Removed by `remove_scratch`, or when this process exits.
    """
    parent = parent or _shortest_temp_dir()
    _sweep(parent)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    _held[path] = _lock(path / _LOCK_FILE, create=True)
    if owner:
        os.chown(path, *owner)
    if len(_held) == 1:
        atexit.register(_remove_all, os.getpid())
    return path


def remove_scratch(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if path in _held:
        os.close(_held.pop(path))


def is_abandoned(path: Path) -> bool:
    """Whether `path` was made by `make_scratch` in a process that is gone: the next one to ask may remove it."""
    if path in _held:
        return False
    with suppress(OSError):
        os.close(_lock(path / _LOCK_FILE))
        return True
    return False


def memory_dir(*, free_bytes: int) -> Path | None:
    """A directory on a RAM disk with that much room, or None."""
    ram = Path("/dev/shm")
    with suppress(OSError):
        if os.access(ram, os.W_OK | os.X_OK) and shutil.disk_usage(ram).free >= free_bytes:
            return ram
    return None


def _shortest_temp_dir() -> Path:
    """A unix socket's path has room for about 100 characters, and macOS puts TMPDIR deep."""
    choices = [path for path in (Path(tempfile.gettempdir()), Path("/tmp")) if os.access(path, os.W_OK)]
    return min(choices or [Path.cwd()], key=lambda path: len(str(path)))


def _lock(path: Path, *, create: bool = False) -> int:
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _sweep(parent: Path) -> None:
    """Remove what processes that died uncleanly left, but nothing so young that it may not be locked yet."""
    for path in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < _TOO_YOUNG_SEC:
                continue
            handle = _lock(path / _LOCK_FILE)
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def _remove_all(owner_pid: int) -> None:
    if os.getpid() == owner_pid:
        for path in list(_held):
            remove_scratch(path)
