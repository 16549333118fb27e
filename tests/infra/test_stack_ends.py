"""Whenever the local stack is interrupted, and even when its launcher is killed, no process stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

AS_FAR_AS = {"the servers start": 2, "the services start": 5, "calls are placed": 8}
"""Moments, by how many processes the launcher has by then (a database server and a broker have several)."""


@pytest.mark.parametrize("moment", AS_FAR_AS)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_interrupted_at_any_moment_nothing_stays_behind(moment: str, how: signal.Signals, tmp_path: Path) -> None:
    launcher = start_demo(tmp_path)
    try:
        seen = until_it_has(launcher, AS_FAR_AS[moment])
        launcher.send_signal(how)
        launcher.wait(60)
        gone, alive = psutil.wait_procs(seen, timeout=30)
    finally:
        launcher.kill()
    assert [process.cmdline() for process in alive] == []
    assert len(gone) >= AS_FAR_AS[moment] - 1
    if how is not signal.SIGKILL:
        assert not (tmp_path / "stack.json").exists()


def start_demo(folder: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"KAFKA": "embedded", "LOCAL_DIR": str(folder)}
    environment.pop("POSTGRES_URL", None)
    return subprocess.Popen(
        [sys.executable, "-m", "cualify_local", "demo"],
        env=environment,
        stdout=(folder / "out.txt").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def until_it_has(launcher: subprocess.Popen[bytes], count: int) -> list[psutil.Process]:
    """All descendants, once there are so many different ones."""
    deadline = time.monotonic() + 60
    seen: dict[int, psutil.Process] = {}
    while time.monotonic() < deadline and launcher.poll() is None:
        for process in psutil.Process(launcher.pid).children(recursive=True):
            seen[process.pid] = process
        if len(seen) >= count:
            return list(seen.values())
    raise AssertionError(f"the demo never had {count} processes, only {len(seen)}")
