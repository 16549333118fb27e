"""OS processes that belong to this one: whatever ends the launcher, even `kill -9`, nothing it started outlives it.

On Linux the kernel itself keeps that promise (PR_SET_PDEATHSIG). Its signal is sent when the *thread* that forked ends,
so every child is forked by one thread that lives as long as this process: `start` may be called from any thread.
Elsewhere children are stopped when the interpreter exits, but survive a `kill -9`.

Each child leads a process group of its own, so Ctrl-C in a terminal reaches the launcher alone and it decides the order
in which things stop. Everything here is synchronous and safe to call inside `asyncio.to_thread`.
"""

import atexit
import ctypes
import os
import pwd
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
# Below the range from which Linux takes ports for outgoing connections (32768 to 60999): a client that keeps knocking
# at a dead server there can be given that very port, connect to itself, and keep the server from coming back.
PORT_RANGE = range(20_000, 32_000)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Program:
    """What to run and how to end it. Starting the same program again is `start(child.program)`.

    `log` receives stdout and stderr (appended). `env` None means this process's environment. `user` needs root.
    `stop_signal` asks for an orderly end; `death_signal` is what the kernel sends if the launcher dies.
    """

    name: str
    args: tuple[str, ...] = field(repr=False)
    log: Path
    env: Mapping[str, str] | None = field(default=None, repr=False)
    cwd: Path | None = None
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Child:
    """A started program. `pid` is also the id of its process group."""

    program: Program
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        if self.process.returncode is None and _has_ended(self.process):
            _end_group(self)
        return self.process.returncode


def start(program: Program) -> Child:
    """Start `program`. OSError if it can't be run at all (not found, not permitted)."""
    child = Child(program, _forker().call(lambda: _spawn(program)))
    _running[child.pid] = child
    return child


def stop(child: Child, grace_sec: float = 10.0) -> int:
    """Ask `child` to end, wait at most `grace_sec`, then kill its whole group. Returns its exit code."""
    send(child, child.program.stop_signal)
    wait_until(lambda: not child.is_running, timeout_sec=grace_sec)
    return kill(child)


def kill(child: Child) -> int:
    """SIGKILL `child` and what is left of its group, and wait until it is gone. Returns its exit code."""
    return child.process.returncode if child.process.returncode is not None else _end_group(child)


def send(child: Child, signum: signal.Signals) -> None:
    """Send one signal (SIGSTOP and SIGCONT too) to `child` itself; nothing happens if it has ended."""
    if child.is_running:
        os.kill(child.pid, signum)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error that must explain itself. Empty if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 32_768))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def is_free(port: int) -> bool:
    """Whether nobody listens on that TCP port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just ended there is no hindrance
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """`count` different free ports. Nothing holds them afterwards: use them soon."""
    found: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(PORT_RANGE, len(PORT_RANGE)):
            if len(found) == count:
                return found
            probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    raise OSError(f"no {count} free ports between {PORT_RANGE.start} and {PORT_RANGE.stop}")


def wait_until(is_so: Callable[[], bool], *, timeout_sec: float, child: Child | None = None) -> bool:
    """Ask `is_so` every 10 ms. False when the time is up, or at once when `child` has ended meanwhile."""
    deadline = time.monotonic() + timeout_sec
    while time.monotonic() < deadline:
        if is_so():
            return True
        if child is not None and not child.is_running:
            return False
        time.sleep(0.01)
    return False


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Ask without reaping, where possible: until it is reaped, its id and its group's can't become another's."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # another thread reaped it just now
        return True


def _end_group(child: Child) -> int:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    code = child.process.wait()
    _running.pop(child.pid, None)
    return code


def _spawn(program: Program) -> subprocess.Popen[bytes]:
    program.log.parent.mkdir(parents=True, exist_ok=True)
    identity = pwd.getpwnam(program.user) if program.user else None
    with program.log.open("ab") as log:
        return subprocess.Popen(
            program.args,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=program.env,
            cwd=program.cwd,
            user=identity.pw_uid if identity else None,
            group=identity.pw_gid if identity else None,
            extra_groups=[] if identity else None,
            process_group=0,
            # Runs after the change of user, which would clear the setting, and before exec.
            preexec_fn=_die_with_parent(program.death_signal),
        )


def _die_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    """What the forked child does first. It calls only what is loaded: other threads may hold locks across a fork."""
    libc, parent = _libc, os.getpid()
    if libc is None:
        return None

    def tie() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel knew whom to tell
            os._exit(1)

    return tie


class _Forker:
    """One thread that forks every child and never ends before the process does."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]
        self._jobs = queue.SimpleQueue()
        threading.Thread(target=self._work, name="forker", daemon=True).start()

    def call(self, job: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((job, answer))
        return answer.result()

    def _work(self) -> None:
        while True:
            job, answer = self._jobs.get()
            try:
                answer.set_result(job())
            except BaseException as error:  # belongs to the caller, who raises it
                answer.set_exception(error)


_running: dict[int, Child] = {}
_only_forker: _Forker | None = None
_forker_lock = threading.Lock()


def _forker() -> _Forker:
    global _only_forker
    with _forker_lock:
        if _only_forker is None or _only_forker.pid != os.getpid():  # a fork of this process has no threads
            _only_forker = _Forker()
            _running.clear()
            atexit.register(_kill_what_is_left, os.getpid())
        return _only_forker


def _kill_what_is_left(owner_pid: int) -> None:
    if os.getpid() == owner_pid:
        for child in list(_running.values()):
            send(child, child.program.stop_signal)
        for child in list(_running.values()):
            stop(child, grace_sec=2.0)
