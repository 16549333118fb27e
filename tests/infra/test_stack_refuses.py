"""What hinders the local stack is said in one line that tells a person what to do, and nothing is started or wiped."""

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cualify_local import children
from cualify_local.children import Program
from cualify_local.settings import StackSettings
from cualify_local.stack import Stack


def run(command: str, folder: Path, **environment: str) -> tuple[int, str]:
    """Exit code and everything said."""
    names = ("POSTGRES_URL", "KAFKA_BOOTSTRAP_SERVERS")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-m", "cualify_local", command],
        env=inherited | {"KAFKA": "embedded", "LOCAL_DIR": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout


def test_an_occupied_port_is_named_with_the_setting_that_moves_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        code, said = run("up", tmp_path, BILLING_PORT=str(port))
    assert code == 1
    assert f"port {port} is in use" in said
    assert "BILLING_PORT" in said
    assert "PostgreSQL is ready" not in said


def test_a_second_stack_in_a_folder_does_not_wipe_the_first(tmp_path: Path) -> None:
    data = tmp_path / "demo" / "data"
    data.mkdir(parents=True)
    with (tmp_path / "demo.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, said = run("demo", tmp_path)
    assert code == 1
    assert "LOCAL_DIR" in said
    assert data.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTGRES_URL", "127.0.0.1:5432"),
        ("POSTGRES_URL", "postgresql://postgres:secret-word@127.0.0.1:port/postgres"),
        ("POSTGRES_URL", "postgresql://postgres:secret-word@127.0.0.1:1/postgres"),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1"),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
        ("KAFKA", "redpanda"),
        ("LOG_LEVEL", "LOUD"),
        ("API_PORT", "eighty"),
    ],
)
def test_a_setting_that_is_wrong_is_named_without_a_trace(name: str, value: str, tmp_path: Path) -> None:
    code, said = run("demo", tmp_path, **{name: value})
    assert code == 1
    assert name in said
    assert "Traceback" not in said
    assert "secret-word" not in said


def test_a_level_of_the_log_may_be_written_small() -> None:
    assert StackSettings(log_level="warning").log_level == "WARNING"  # type: ignore[arg-type]


async def test_a_service_that_can_not_be_started_again_leaves_the_watch_alive(tmp_path: Path) -> None:
    said: list[str] = []
    stack = Stack(StackSettings(local_dir=tmp_path), tmp_path / "up", said.append)
    (tmp_path / "full").touch()
    child = children.start(Program("sample", (sys.executable, "-c", "pass"), tmp_path / "log"))
    stack.programs = {"sample": Program("sample", child.program.args, tmp_path / "full" / "log")}
    stack.running = {"sample": child}
    await stack._start_again("sample", child)
    assert "sample can't be started" in said[-1]
