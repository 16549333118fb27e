"""`make up`: the stack in the foreground until Ctrl-C, with the curl that places the first call."""

import asyncio

from rich.console import Console

from cualify_local.receiver import Received, Receiver
from cualify_local.seed import Seeded, seed
from cualify_local.settings import StackSettings
from cualify_local.stack import Stack
from cualify_local.stack_file import StackFile
from cualify_local.webhooks import register

DEFAULT_API_PORT = 8000


async def up(settings: StackSettings, console: Console) -> int:
    """Runs until it is cancelled. Exit code 1 if a stack is running already."""
    file = StackFile(settings.local_dir)
    if not file.take():
        console.print(
            f"A stack is running already: {file.read().get('api_url', 'it is still starting')} (see {file.path})."
        )
        return 1
    settings = settings.model_copy(update={"api_port": settings.api_port or DEFAULT_API_PORT})
    receiver = Receiver(on_received=lambda received: console.print(_line(received), highlight=False, soft_wrap=True))
    await receiver.start()
    try:
        async with Stack(
            settings, settings.local_dir / "up", lambda line: console.print(f"  {line}", highlight=False)
        ) as stack:
            seeded = await seed(stack)
            stack.on_pids_changed = lambda: file.write(stack, seeded)
            receiver.secret = await register(stack, seeded, url=receiver.url, events=["*"])
            file.write(stack, seeded)
            console.print(_first_call(stack, seeded), highlight=False, soft_wrap=True)
            try:
                await asyncio.Event().wait()
            finally:
                console.print("Stopping: what was begun is finished first.")
    finally:
        await receiver.stop()
        file.give_back()
    return 0


def _first_call(stack: Stack, seeded: Seeded) -> str:
    url = stack.addresses.url("api")
    return f"""
Cualify is up. Place a call (nobody is rung: the number decides how the simulator ends it):

curl -X POST {url}/api/v1/calls \\
  -H "Authorization: Bearer {seeded.api_key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"agent_id": "{seeded.agent_id}", "to_e164": "+919990000142"}}'

Its webhooks are verified and shown below. See also:
  all calls     curl {url}/api/v1/calls -H "Authorization: Bearer {seeded.api_key}"
  the money     curl {url}/api/v1/ledger -H "Authorization: Bearer {seeded.api_key}"
  every route   {url}/docs
  as operator   .venv/bin/cualify --help
  everything    {stack.settings.local_dir}/stack.json, logs in {stack.folder}
  a top-up      curl {url}/api/v1/wallet/top-ups -H "Authorization: Bearer {seeded.api_key}" \\
                     --json '{{"amount_paise": 118000}}'
                and pay it, with its order_id: curl -X POST {stack.razorpay.url}/pay/order_…
Data lasts as long as this command. Ctrl-C stops it all.
"""


def _line(received: Received) -> str:
    call = received.body.get("data", {})
    mark = "verified" if received.verified else "NOT VERIFIED"
    return f"webhook {received.type:<18} {mark}  call {call.get('id')}  {call.get('status')}"
