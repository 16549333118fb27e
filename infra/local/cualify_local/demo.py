"""`make demo`: ten calls from the HTTP request to the verified webhook and the ledger line, watched as they happen."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cualify_local.environment import API
from cualify_local.receiver import Received, Receiver
from cualify_local.rupees import rupees
from cualify_local.seed import ORG_NAME, RATE_PAISE_PER_SEC, TOP_UP_PAISE, Seeded, seed
from cualify_local.settings import StackSettings
from cualify_local.stack import Stack
from cualify_local.stack_file import StackFile
from cualify_local.webhooks import register

FINISHED_WITHIN_SEC = 60
CREDITED_WITHIN_SEC = 15
CUSTOMER_PAYS_PAISE = 1_180_00
LOOK_EVERY_SEC = 0.1
WIDE = 120
"""Columns of a terminal from which on a call's whole life fits in its row."""
LOOKS_PER_MINUTE = 1_200
"""The rate limit of the demo's org at least: it looks more often than a customer should."""
TERMINAL = frozenset({"completed", "failed", "no_answer", "busy", "canceled"})
STYLES = {"completed": "green", "busy": "yellow", "no_answer": "yellow", "failed": "red", "in_progress": "cyan"}


@dataclass(slots=True)
class Followed:
    """One call of the demo: what its number makes the simulator do, and what has been seen of it."""

    to_e164: str
    plot: str
    id: str = ""
    life: list[str] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)
    webhook: Received | None = None

    @property
    def is_finished(self) -> bool:
        """Ended, paid, and its end delivered and verified."""
        ended = bool(self.life) and self.life[-1] in TERMINAL
        return ended and self.shown.get("credits_debited_paise") is not None and self.webhook is not None


def _plots() -> list[Followed]:
    return [
        Followed("+919990000142", "answers, talks 142 s, books a demo"),
        Followed("+919990000101", "is busy"),
        Followed("+919990000102", "does not answer"),
        Followed("+919990000103", "can't be reached by the carrier"),
        Followed("+919990000104", "is refused by the provider"),
        Followed("+919990000105", "rings, but the provider answers 500"),
        Followed("+919990000109", "callbacks come twice and in disorder"),
        Followed("+919990000110", "is a voicemail"),
        Followed("+919990000112", "asks for a human"),
        Followed("+919990000116", "the provider's own balance is low"),
    ]


async def demo(settings: StackSettings, console: Console) -> int:
    """Exit code 0 when every call has ended, was billed, and its webhook was verified."""
    begun = time.monotonic()
    settings = settings.model_copy(
        update={"rate_limit_per_minute": max(settings.rate_limit_per_minute, LOOKS_PER_MINUTE)}
    )
    file = StackFile(settings.local_dir)
    ours = file.take()
    console.print("[bold]Cualify[/bold]: starting the whole platform on this machine. Nobody is rung.")
    calls = _plots()
    receiver = Receiver(on_received=lambda received: _note(calls, received))
    await receiver.start()
    try:
        async with Stack(
            settings, settings.local_dir / "demo", lambda line: console.print(f"  {line}", highlight=False)
        ) as stack:
            seeded = await seed(stack)
            console.print(
                f"  {ORG_NAME}, set up by the `cualify` command: {rupees(TOP_UP_PAISE)} in the wallet, "
                f"{RATE_PAISE_PER_SEC} paise a second",
                highlight=False,
            )
            receiver.secret = await register(stack, seeded, url=receiver.url, events=["*"])
            if ours:
                file.write(stack, seeded)
            done = await _show(stack, seeded, calls, console)
            if done:
                await _top_up(stack, seeded, console)
                await _epilogue(stack, seeded, calls, receiver, console, seconds=time.monotonic() - begun)
            else:
                _confess(stack, calls, console)
    finally:
        await receiver.stop()
        if ours:
            file.give_back()
    return 0 if done else 1


async def _show(stack: Stack, seeded: Seeded, calls: Sequence[Followed], console: Console) -> bool:
    """Places the calls and follows them. Whether all of them finished in time."""
    url = stack.addresses.url(API) + "/api/v1/calls"
    deadline = time.monotonic() + FINISHED_WITHIN_SEC
    headers = {"Authorization": f"Bearer {seeded.api_key}"}
    console.print(
        f"\nTen calls by POST /api/v1/calls; simulated time runs {stack.settings.simulator_speed:g} times faster.\n"
    )
    async with aiohttp.ClientSession(headers=headers) as http:
        await asyncio.gather(*(_place(http, url, seeded, call) for call in calls))
        if not console.is_terminal:
            return await _follow(
                http, url, calls, deadline, lambda line: console.print(line, highlight=False, soft_wrap=True)
            )
        wide = console.width >= WIDE
        with Live(_table(calls, wide=wide), console=console, refresh_per_second=10) as live:
            return await _follow(http, url, calls, deadline, lambda _: live.update(_table(calls, wide=wide)))


async def _top_up(stack: Stack, seeded: Seeded, console: Console) -> None:
    """The customer pays: an order by the API, a payment at the stand-in for Razorpay, a line in the ledger."""
    url, headers = stack.addresses.url(API), {"Authorization": f"Bearer {seeded.api_key}"}
    async with aiohttp.ClientSession(headers=headers) as http, asyncio.timeout(CREDITED_WITHIN_SEC):
        body = {"amount_paise": CUSTOMER_PAYS_PAISE}
        async with http.post(f"{url}/api/v1/wallet/top-ups", json=body) as answer:
            order = (await answer.json())["data"]
        async with http.post(f"{stack.razorpay.url}/pay/{order['order_id']}") as answer:
            payment = await answer.json()
        while True:
            async with http.get(f"{url}/api/v1/wallet") as answer:
                balance_paise = (await answer.json())["data"]["balance_paise"]
            if balance_paise > TOP_UP_PAISE:
                break
            await asyncio.sleep(LOOK_EVERY_SEC)
    console.print(
        f"\nThe customer tops up by Razorpay (a stand-in): {order['order_id']} → paid by {payment['payment_id']} → "
        f"{rupees(CUSTOMER_PAYS_PAISE)} credited: {rupees(balance_paise)} in the wallet",
        highlight=False,
        soft_wrap=True,
    )


async def _place(http: aiohttp.ClientSession, url: str, seeded: Seeded, call: Followed) -> None:
    body = {"agent_id": seeded.agent_id, "to_e164": call.to_e164, "metadata": {"crm_lead_id": f"L-{call.to_e164[-4:]}"}}
    async with http.post(url, json=body) as answer:
        answered = await answer.json()
        if answer.status != 201:
            raise OSError(f"POST /api/v1/calls answered {answer.status}: {answered}")
    call.id = answered["data"]["id"]
    call.life.append(answered["data"]["status"])


async def _follow(http: aiohttp.ClientSession, url: str, calls: Sequence[Followed], deadline: float, tell: Any) -> bool:
    while time.monotonic() < deadline:
        async with http.get(url, params={"limit": str(len(calls))}) as answer:
            listed = {call["id"]: call for call in (await answer.json()).get("data", [])}
        for call in calls:
            if _update(call, listed.get(call.id, {})):
                tell(_plain(call))
        if all(call.is_finished for call in calls):
            tell("every call has ended, is billed, and its webhook is verified")
            return True
        await asyncio.sleep(LOOK_EVERY_SEC)
    return False


def _update(call: Followed, shown: dict[str, Any]) -> bool:
    """Whether there is anything new to tell."""
    before = (call.life[-1], call.shown.get("credits_debited_paise"))
    call.shown = shown or call.shown
    status = call.shown.get("status", call.life[-1])
    if status != call.life[-1]:
        call.life.append(status)
    return before != (call.life[-1], call.shown.get("credits_debited_paise"))


def _note(calls: Sequence[Followed], received: Received) -> None:
    for call in calls:
        if received.verified and call.id == received.call_id and received.type in ("call.completed", "call.failed"):
            call.webhook = received


def _plain(call: Followed) -> str:
    cost = call.shown.get("credits_debited_paise")
    paid = "" if cost is None else f"  {call.shown.get('duration_sec') or 0} s  {cost} paise"
    return f"  {call.to_e164}  {call.plot:<38} {' → '.join(call.life)}{paid}"


def _table(calls: Sequence[Followed], *, wide: bool) -> Table:
    """One row a call; a narrow terminal shows where each call is, a wide one how it came there."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("callee", no_wrap=True, width=13)
    table.add_column("what happens there", no_wrap=True, overflow="ellipsis", width=36 if wide else 26)
    table.add_column("life of the call" if wide else "status", no_wrap=True, width=42 if wide else 11)
    table.add_column("talk", justify="right", no_wrap=True, width=5)
    table.add_column("paise", justify="right", no_wrap=True, width=5)
    table.add_column("webhook", no_wrap=True, width=8)
    for call in calls:
        life = " → ".join(f"[{STYLES.get(status, 'dim')}]{status}[/]" for status in call.life[0 if wide else -1 :])
        cost = call.shown.get("credits_debited_paise")
        talk = call.shown.get("duration_sec") if cost is not None else None
        table.add_row(
            call.to_e164,
            call.plot,
            life,
            "" if talk is None else f"{talk} s",
            "" if cost is None else str(cost),
            "[green]verified[/]" if call.webhook else "",
        )
    return table


async def _epilogue(
    stack: Stack, seeded: Seeded, calls: Sequence[Followed], receiver: Receiver, console: Console, *, seconds: float
) -> None:
    url = stack.addresses.url(API)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {seeded.api_key}"}) as http:
        async with http.get(f"{url}/api/v1/ledger", params={"limit": "50"}) as answer:
            entries = (await answer.json())["data"]
        async with http.get(f"{url}/api/v1/wallet") as answer:
            wallet = (await answer.json())["data"]
    console.print("\nThe wallet's ledger, newest first:")
    console.print(_ledger(entries, calls, wide=console.width >= WIDE))
    verified = sum(1 for received in receiver.received if received.verified)
    console.print(
        f"\n{len(calls)} calls, {verified} webhooks verified by the standardwebhooks library; "
        f"{rupees(wallet['balance_paise'])} in the wallet, {rupees(wallet['held_paise'])} of it held. "
        f"{seconds:.1f} s in all.",
        highlight=False,
    )
    console.print(
        "\nHow to go on:\n"
        "  make up      the same, kept running, with a curl to paste\n"
        "  make test    the tests, on a real Apache Kafka where this machine can run one\n"
        "  README.md    what it is, and where to read on",
        highlight=False,
    )


def _ledger(entries: Sequence[dict[str, Any]], calls: Sequence[Followed], *, wide: bool) -> Table:
    plots = {call.id: call.plot for call in calls}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("paise", justify="right", no_wrap=True, width=9)
    table.add_column("balance", justify="right", no_wrap=True, width=9)
    table.add_column("transfer", overflow="ellipsis", no_wrap=True, width=43 if wide else 16)
    table.add_column("why", overflow="ellipsis", no_wrap=True, width=60 if wide else 38)
    for entry in entries:
        why = entry["kind"]
        if entry.get("call_id"):
            bill = f"{entry.get('billable_sec') or 0} s × {entry.get('rate_paise_per_sec') or 0} paise"
            why = f"{bill}: {plots.get(entry['call_id'], '')}"
        table.add_row(f"{entry['amount_paise']:+d}", str(entry["balance_after_paise"]), entry["transfer"], why)
    return table


def _confess(stack: Stack, calls: Sequence[Followed], console: Console) -> None:
    console.print(f"\n[red]Not everything was done within {FINISHED_WITHIN_SEC} s:[/red]")
    for call in calls:
        if not call.is_finished:
            console.print(f"{_plain(call)}  webhook: {'yes' if call.webhook else 'missing'}", highlight=False)
    console.print(f"The services' logs are in {stack.folder}", highlight=False)
