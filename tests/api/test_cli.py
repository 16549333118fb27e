"""`cualify`, against a running api: as people and scripts use it."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.api.world import World


async def cualify(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> tuple[int, Any, str]:
    """Exit code, the JSON that it printed, what it complained of."""
    given = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | (env or {})
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cualify_api.cli", *arguments),
        cwd=cwd,
        env={**os.environ, **given},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, complaint = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, json.loads(out) if out else None, complaint.decode()


async def test_an_operator_sets_an_org_up(lasting: World, tmp_path: Path) -> None:
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local/stack.json").write_text(json.dumps({"api_url": lasting.url, "admin_token": "admin-token"}))
    code, org, _ = await cualify("orgs", "create", "Asha Clinics", cwd=tmp_path)
    assert (code, org["name"]) == (0, "Asha Clinics")
    _, agent, _ = await cualify("agents", "create", org["id"], "Booker", "--provider-agent-id", "p-1", cwd=tmp_path)
    assert agent["max_duration_sec"] == 300
    _, key, _ = await cualify("keys", "create", org["id"], cwd=tmp_path)
    auth = {"Authorization": f"Bearer {key['key']}"}
    assert (await lasting.ask("GET", "/api/v1/wallet", headers=auth)).status == 200
    await cualify("keys", "revoke", key["prefix"], cwd=tmp_path)
    assert (await lasting.ask("GET", "/api/v1/wallet", headers=auth)).status == 401


async def test_a_dead_letter_is_sent_again_under_either_name(lasting: World) -> None:
    """Nothing answers where the dialer would be, and that is what is said: the command is known."""
    here = {"CUALIFY_URL": lasting.url, "CUALIFY_ADMIN_TOKEN": "admin-token"}
    for name in ("redrive", "replay"):
        code, _, complaint = await cualify("dlq", name, "1", "--service", "dialer", env=here)
        assert (code, "upstream_error" in complaint) == (1, True), complaint


async def test_what_goes_wrong_is_one_line_and_an_exit_code(lasting: World, tmp_path: Path) -> None:
    here = {"CUALIFY_URL": lasting.url, "CUALIFY_ADMIN_TOKEN": "admin-token"}
    ways = [
        (await cualify("calls", "show", "nope", env=here), 1, "not_found"),
        (await cualify("--token", "wrong", "orgs", "list", env=here), 1, "unauthorized"),
        (await cualify("--url", "http://127.0.0.1:9", "orgs", "list", env=here), 3, "no answer"),
        (await cualify("orgs", "list", cwd=tmp_path), 2, "--url"),
    ]
    for (code, _, complaint), expected, said in ways:
        assert (code, said in complaint, complaint.count("\n")) == (expected, True, 1), complaint
