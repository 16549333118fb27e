"""`cualify`: what an operator does all day, from a terminal.

It talks to `/admin/v1` of the api. Where that is and the operators' token come from `--url` and `--token`, else from
CUALIFY_URL and CUALIFY_ADMIN_TOKEN, else from the `.local/stack.json` of a local stack here or in a folder above.
Tables for people; JSON with `--json` or where the output is no terminal. Exit codes: 0 done, 1 refused, 2 wrongly
called, 3 the api can't be reached.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib import error, parse, request

import typer
from rich.console import Console
from rich.table import Table

TIMEOUT_SEC = 15

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Operate Cualify.", pretty_exceptions_enable=False)
orgs = typer.Typer(no_args_is_help=True, help="Organisations.")
agents = typer.Typer(no_args_is_help=True, help="Voice agents of an org.")
keys = typer.Typer(no_args_is_help=True, help="API keys of an org.")
numbers = typer.Typer(no_args_is_help=True, help="Numbers that an org calls from.")
calls = typer.Typer(no_args_is_help=True, help="Calls.")
dlq = typer.Typer(no_args_is_help=True, help="Records that a service could not handle.")
for name, group in {
    "orgs": orgs,
    "agents": agents,
    "keys": keys,
    "numbers": numbers,
    "calls": calls,
    "dlq": dlq,
}.items():
    app.add_typer(group, name=name)

Service = Annotated[str, typer.Option("--service", help="api, dialer, billing or webhook-dispatcher.")]
Org = Annotated[str, typer.Argument(help="The org's id.")]


class Chosen:
    """Where the api is, and how answers are shown."""

    url: str = ""
    token: str = ""
    as_json: bool = False


chosen = Chosen()


@app.callback()
def options(
    url: Annotated[str | None, typer.Option("--url", help="The api, as in http://127.0.0.1:8000.")] = None,
    token: Annotated[str | None, typer.Option("--token", help="The operators' token.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Operate Cualify."""
    stack = _local_stack()
    chosen.url = url or os.environ.get("CUALIFY_URL") or stack.get("api_url", "")
    chosen.token = token or os.environ.get("CUALIFY_ADMIN_TOKEN") or stack.get("admin_token", "")
    chosen.as_json = as_json or not sys.stdout.isatty()
    if not chosen.url or not chosen.token:
        _fail("where is the api? give --url and --token, or set CUALIFY_URL and CUALIFY_ADMIN_TOKEN", code=2)


@orgs.command("create")
def create_org(name: str) -> None:
    """Make an org with an empty wallet."""
    _show(_ask("POST", "/orgs", {"name": name}))


@orgs.command("list")
def list_orgs(limit: int = 50, offset: int = 0) -> None:
    """The newest orgs, with their wallets and plans."""
    _show(_ask("GET", f"/orgs?limit={limit}&offset={offset}"), "id", "name", "balance_paise", "held_paise", "plan")


@agents.command("create")
def create_agent(
    org: Org,
    name: str,
    provider_agent_id: Annotated[str, typer.Option(help="The agent's id at the provider.")],
    language: str = "hi-IN",
    max_duration_sec: int = 300,
    provider: str = "bolna",
    fallback: Annotated[
        list[str] | None, typer.Option(help="provider:its agent id, to turn to where that one fails; up to three.")
    ] = None,
) -> None:
    """Make an agent."""
    others = [one.partition(":") for one in fallback or []]
    body = {
        "name": name,
        "provider_agent_id": provider_agent_id,
        "language": language,
        "max_duration_sec": max_duration_sec,
        "provider": provider,
        "fallback_providers": [{"provider": name, "provider_agent_id": there} for name, _, there in others],
    }
    _show(_ask("POST", f"/orgs/{_part(org)}/agents", body))


@agents.command("list")
def list_agents(org: Org) -> None:
    """The org's newest agents."""
    columns = ("id", "name", "language", "max_duration_sec", "provider")
    _show(_ask("GET", f"/orgs/{_part(org)}/agents?limit=100"), *columns)


@keys.command("create")
def create_key(
    org: Org,
    name: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Its calls ring nobody and cost nothing.")] = False,
    scope: Annotated[list[str] | None, typer.Option(help="calls:write and so on; all if not given.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="RFC 3339 with zone; never if not given.")] = None,
) -> None:
    """Make an API key. It is shown now and never again."""
    asked = {"name": name, "mode": "test" if test else None, "scopes": scope or None, "expires_at": expires_at}
    body = {field: value for field, value in asked.items() if value is not None}
    _show(_ask("POST", f"/orgs/{_part(org)}/keys", body))


@keys.command("list")
def list_keys(org: Org) -> None:
    """The org's keys, masked."""
    columns = ("prefix", "name", "mode", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at")
    _show(_ask("GET", f"/orgs/{_part(org)}/keys"), *columns)


@keys.command("revoke")
def revoke_key(prefix: Annotated[str, typer.Argument(help="The 8 characters after cuk_live_ or cuk_test_.")]) -> None:
    """Void a key, for good."""
    _show(_ask("DELETE", f"/keys/{_part(prefix)}"))


@numbers.command("add")
def add_number(org: Org, e164: str, default: bool = True) -> None:
    """Give an org a number to call from."""
    _show(_ask("POST", f"/orgs/{_part(org)}/numbers", {"e164": e164, "is_default": default}))


@app.command("topup")
def top_up(
    org: Org,
    amount_paise: int,
    payment_id: Annotated[str, typer.Option(help="Names the payment: the same one is credited once.")],
    kind: str = "top_up",
) -> None:
    """Credit a wallet."""
    body = {"payment_id": payment_id, "amount_paise": amount_paise, "kind": kind}
    _show(_ask("POST", f"/orgs/{_part(org)}/credits", body))


@app.command("erase-webhooks")
def erase_webhooks(
    org: Org,
    e164: Annotated[str | None, typer.Option(help="The callee's number.")] = None,
    call: Annotated[list[str] | None, typer.Option(help="A call's id; more than once for several.")] = None,
) -> None:
    """Erase what webhooks keep of a callee: payloads, answers, and what was still to be sent."""
    asked = {"e164": e164, "call_ids": call}
    body = {field: value for field, value in asked.items() if value}
    _show(_ask("POST", f"/orgs/{_part(org)}/webhook-erasures", body))


@app.command("refund")
def refund(
    org: Org,
    amount_paise: int,
    refund_id: Annotated[str, typer.Option(help="Names it: the same one leaves the wallet once.")],
    payment_id: Annotated[str | None, typer.Option(help="Which payment it is of; a refund has to say.")] = None,
    kind: Annotated[str, typer.Option(help="refund, chargeback or correction.")] = "refund",
    reason: str | None = None,
) -> None:
    """Take money out of a wallet: it is set aside at once, and posted by billing."""
    asked = {
        "refund_id": refund_id,
        "amount_paise": amount_paise,
        "kind": kind,
        "payment_id": payment_id,
        "reason": reason,
    }
    body = {field: value for field, value in asked.items() if value is not None}
    _show(_ask("POST", f"/orgs/{_part(org)}/refunds", body))


@app.command("withdraw")
def withdraw_chargeback(org: Org, refund_id: str) -> None:
    """Give up a chargeback that waits, mistyped or decided otherwise by the bank: its org may call again."""
    _show(_ask("DELETE", f"/orgs/{_part(org)}/refunds/{_part(refund_id)}"))


@app.command("refunds")
def list_refunds(org: Org, limit: int = 50) -> None:
    """The newest refunds, chargebacks and corrections of an org, and what became of them."""
    columns = ("created_at", "refund_id", "kind", "amount_paise", "payment_id", "status", "refused_why")
    _show(_ask("GET", f"/orgs/{_part(org)}/refunds?limit={limit}"), *columns)


@app.command("plan")
def put_plan(
    org: Org,
    plan: str,
    rate_paise_per_sec: int,
    pulse_sec: int = 1,
    rate_limit_per_minute: int = 120,
    max_concurrent_calls: int = 10,
    min_billable_sec: Annotated[int, typer.Option(help="A call that is talked on costs at least so long.")] = 0,
    active_until: Annotated[str | None, typer.Option(help="RFC 3339 with zone; for ever if not given.")] = None,
) -> None:
    """Put an org on a plan."""
    body: dict[str, Any] = {
        "plan": plan,
        "rate_paise_per_sec": rate_paise_per_sec,
        "pulse_sec": pulse_sec,
        "rate_limit_per_minute": rate_limit_per_minute,
        "max_concurrent_calls": max_concurrent_calls,
        "min_billable_sec": min_billable_sec,
    }
    if active_until:
        body["active_until"] = active_until
    _show(_ask("PUT", f"/orgs/{_part(org)}/plan", body))


@app.command("low-balance")
def put_low_balance_threshold(
    org: Org, threshold_paise: Annotated[int, typer.Argument(help="0: no more warnings.")]
) -> None:
    """Below which balance an org is warned (wallet.low_balance), once each time; without this it never is."""
    body = {"threshold_paise": threshold_paise or None}
    _show(_ask("PUT", f"/orgs/{_part(org)}/low-balance-threshold", body))


@calls.command("show")
def show_call(call_id: str) -> None:
    """A call with its timeline and transcript."""
    _show(_ask("GET", f"/calls/{_part(call_id)}"))


@app.command("ledger")
def show_ledger(org: Org, limit: int = 50) -> None:
    """The newest entries of a wallet."""
    columns = ("at", "transfer", "kind", "amount_paise", "balance_after_paise")
    _show(_ask("GET", f"/orgs/{_part(org)}/ledger?limit={limit}"), *columns)


@dlq.command("list")
def list_letters(service: Service, status: str = "parked") -> None:
    """What a service has parked."""
    path = f"/services/{_part(service)}/dead-letters?status={_part(status)}"
    _show(_ask("GET", path), "id", "topic", "partition", "offset", "parked_at", "error")


@dlq.command("show")
def show_letter(letter: int, service: Service) -> None:
    """One record, its bytes in base64."""
    _show(_ask("GET", f"/services/{_part(service)}/dead-letters/{letter}"))


@dlq.command("replay", hidden=True)
@dlq.command("redrive")
def redrive(letter: int, service: Service) -> None:
    """Send a record through its handler again, once its cause is mended."""
    _show(_ask("POST", f"/services/{_part(service)}/dead-letters/{letter}/redrive", {}))


def main() -> None:
    """The console script."""
    app()


def _ask(method: str, path: str, body: object = None) -> Any:
    """The `data` of the answer. Ends the program with one line where there is none."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {chosen.token}", "Content-Type": "application/json"}
    try:
        asked = request.Request(f"{chosen.url.rstrip('/')}/admin/v1{path}", data=data, headers=headers, method=method)
        with request.urlopen(asked, timeout=TIMEOUT_SEC) as answer:
            return json.load(answer)["data"]
    except error.HTTPError as refused:
        _fail(_refusal(refused), code=1)
    except (OSError, ValueError, KeyError) as problem:
        _fail(f"no answer from {chosen.url}: {problem}", code=3)


def _refusal(refused: error.HTTPError) -> str:
    try:
        said = json.load(refused)["error"]
        where = f" ({said['param']})" if said.get("param") else ""
        return f"{said['code']}: {said['message']}{where}"
    except (ValueError, KeyError, TypeError):
        return f"{refused.code} {refused.reason}"


def _fail(message: str, *, code: int) -> NoReturn:
    typer.echo(f"cualify: {message}", err=True)
    raise typer.Exit(code)


def _show(data: Any, *columns: str) -> None:
    """A list as a table of these columns, anything else as its fields."""
    if chosen.as_json:
        typer.echo(json.dumps(data, ensure_ascii=False, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False, show_header=isinstance(data, list))
    if isinstance(data, list):
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in data:
            table.add_row(*(_cell(row.get(column)) for column in columns))
    else:
        for field, value in data.items():
            table.add_row(f"[bold]{field}[/bold]", _cell(value))
    Console().print(table)


def _cell(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("[", "\\[")


def _part(text: str) -> str:
    return parse.quote(text, safe="")


def _local_stack() -> dict[str, str]:
    for folder in (Path.cwd(), *Path.cwd().parents):
        try:
            stack: dict[str, str] = json.loads((folder / ".local" / "stack.json").read_text())
            return stack
        except (OSError, ValueError):
            continue
    return {}


if __name__ == "__main__":
    main()
