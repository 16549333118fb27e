"""`.local/stack.json`: what is running, for people and scripts; and the lock that lets one `make up` run at a time."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from cualify_local.environment import API, BILLING, DIALER, DISPATCHER, SIMULATOR
from cualify_local.seed import Seeded
from cualify_local.stack import Stack


class StackFile:
    """Held by the stack that `stack.json` describes; gone when that stack has stopped, however it ended."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "stack.json"
        self._lock = (folder / "stack.lock").open("a+")

    def take(self) -> bool:
        """Whether the file is ours now; False while another stack runs."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        self.path.unlink(missing_ok=True)
        return True

    def read(self) -> dict[str, Any]:
        """What the running stack says of itself; empty while it is still starting."""
        try:
            described: dict[str, Any] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return described

    def write(self, stack: Stack, seeded: Seeded) -> None:
        """Replaces the file in one step."""
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(described(stack, seeded), indent=2) + "\n")
        draft.chmod(0o600)
        draft.replace(self.path)

    def give_back(self) -> None:
        """The stack has stopped."""
        self.path.unlink(missing_ok=True)
        fcntl.flock(self._lock, fcntl.LOCK_UN)


def described(stack: Stack, seeded: Seeded) -> dict[str, Any]:
    """Everything one needs to talk to the stack, its secrets included: they protect nothing real."""
    assert stack.kafka is not None
    at = stack.addresses
    return {
        "api_url": at.url(API),
        "admin_token": stack.secret.admin_token,
        "internal_token": stack.secret.internal_token,
        "api_key": seeded.api_key,
        "org_id": seeded.org_id,
        "agent_id": seeded.agent_id,
        "dialer_url": at.url(DIALER),
        "billing_url": at.url(BILLING),
        "webhook_dispatcher_url": at.url(DISPATCHER),
        "simulator_url": at.url(SIMULATOR),
        "razorpay_url": stack.razorpay.url,
        "simulator_speed": stack.settings.simulator_speed,
        "kafka_bootstrap_servers": stack.kafka.bootstrap_servers,
        "kafka_kind": stack.kafka.kind,
        "kafka_topic_prefix": stack.prefix,
        "databases": stack.databases,
        "launcher_pid": os.getpid(),
        "pids": {name: child.pid for name, child in stack.running.items()},
        "logs": str(stack.folder.absolute()),
    }
