"""An org that can place calls: made with the operators' own tool, `cualify`, as anybody would."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from cualify_local.environment import API, PROVIDER_AGENT_ID
from cualify_local.stack import Stack, StackFailed

ORG_NAME = "Asha Dental Clinic"
TOP_UP_PAISE = 1_00_00_000
"""₹1,00,000."""
RATE_PAISE_PER_SEC = 10
NUMBER = "+918012345678"
FUNDED_WITHIN_SEC = 30


@dataclass(frozen=True, slots=True)
class Seeded:
    """What a customer of the stack needs."""

    org_id: str
    agent_id: str
    api_key: str


async def seed(stack: Stack, *, org_name: str = ORG_NAME, top_up_paise: int = TOP_UP_PAISE) -> Seeded:
    """An org with a plan, a wallet, a number, an agent and a key. Returns when its money can be spent."""
    org = await cualify(stack, "orgs", "create", org_name)
    org_id = str(org["id"])
    _, _, agent, key = await asyncio.gather(
        _fund(stack, org_id, top_up_paise),
        cualify(stack, "numbers", "add", org_id, NUMBER),
        cualify(stack, "agents", "create", org_id, "Front desk", "--provider-agent-id", PROVIDER_AGENT_ID),
        cualify(stack, "keys", "create", org_id),
    )
    seeded = Seeded(org_id=org_id, agent_id=str(agent["id"]), api_key=str(key["key"]))
    await _until_funded(stack, seeded)
    return seeded


async def _fund(stack: Stack, org_id: str, top_up_paise: int) -> None:
    """The plan first: their events keep that order, so whoever sees the money has seen the plan."""
    terms = (
        *("--rate-limit-per-minute", str(stack.settings.rate_limit_per_minute)),
        *("--max-concurrent-calls", str(stack.settings.max_concurrent_calls)),
    )
    await cualify(stack, "plan", org_id, "growth", str(RATE_PAISE_PER_SEC), *terms)
    await cualify(stack, "topup", org_id, str(top_up_paise), "--payment-id", f"first-{org_id}")


async def cualify(stack: Stack, *words: str) -> dict[str, Any]:
    """Runs the `cualify` command against the stack; returns what it prints as JSON."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cualify_api.cli",
        "--json",
        *words,
        env=_environment(stack),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    if process.returncode != 0:
        raise StackFailed(f"cualify {' '.join(words)} failed: {err.decode().strip() or out.decode().strip()}")
    answer = json.loads(out)
    return dict(answer) if isinstance(answer, dict) else {"data": answer}


def _environment(stack: Stack) -> Mapping[str, str]:
    return os.environ | {
        "CUALIFY_URL": stack.addresses.url(API),
        "CUALIFY_ADMIN_TOKEN": stack.secret.admin_token,
    }


async def _until_funded(stack: Stack, seeded: Seeded) -> None:
    """The top-up comes to the api over Kafka: wait until its wallet shows it."""
    headers = {"Authorization": f"Bearer {seeded.api_key}"}
    url = stack.addresses.url(API) + "/api/v1/wallet"
    async with aiohttp.ClientSession(headers=headers) as http, asyncio.timeout(FUNDED_WITHIN_SEC):
        while True:
            async with http.get(url) as answer:
                if (await answer.json()).get("data", {}).get("available_paise", 0) > 0:
                    return
            await asyncio.sleep(0.05)
