"""Registering the sample receiver, through the public REST API."""

import aiohttp

from cualify_local.environment import API
from cualify_local.seed import Seeded
from cualify_local.stack import Stack, StackFailed


async def register(stack: Stack, seeded: Seeded, *, url: str, events: list[str]) -> str:
    """The endpoint's secret, which is shown this once."""
    headers = {"Authorization": f"Bearer {seeded.api_key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{stack.addresses.url(API)}/api/v1/webhooks", json={"url": url, "events": events}) as answer,
    ):
        registered = await answer.json()
    if answer.status != 201:
        raise StackFailed(f"the webhook was refused: {registered}")
    return str(registered["secret"])
