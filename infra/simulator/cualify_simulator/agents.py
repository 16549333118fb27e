"""Agents: where callbacks go, and how long a conversation may last. The rest of the body is kept and given back."""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias, TypeGuard
from uuid import UUID, uuid4

from cualify_simulator.refusals import Refusal, bad_field, malformed
from cualify_simulator.wire import target_of

Json: TypeAlias = dict[str, Any]

DEFAULT_CALL_TERMINATE_SEC = 300.0
AGENTS_LIMIT = 10_000
IST = timezone(timedelta(hours=5, minutes=30))
"""Where all our callees live: `calling_guardrails` are in their local time."""


@dataclass(slots=True, eq=False)
class Agent:
    id: str
    created_at: datetime
    updated_at: datetime
    body: Json
    webhook_url: str | None
    call_terminate_sec: float
    hours: tuple[int, int] | None = None
    """From which hour of the day to which it may call; a call at another hour is `rescheduled`."""


class Agents:
    def __init__(self) -> None:
        self._by_id: dict[str, Agent] = {}

    def create(self, body: Json, at: datetime, *, agent_id: UUID | None = None) -> Agent:
        """An agent of this body, under an id of its own unless one is given."""
        if len(self._by_id) >= AGENTS_LIMIT:
            raise Refusal(400, malformed("too many agents"))
        config = _config_of(body)
        if not isinstance(config.get("agent_name"), str) or not config["agent_name"]:
            raise Refusal(400, malformed("agent_name is required"))
        agent = Agent(
            id=str(agent_id or uuid4()),
            created_at=at,
            updated_at=at,
            body=body,
            webhook_url=_webhook_url(config),
            call_terminate_sec=_call_terminate_sec(body),
            hours=_hours(config),
        )
        self._by_id[agent.id] = agent
        return agent

    def get(self, agent_id: str) -> Agent | None:
        return self._by_id.get(agent_id)

    def patch(self, agent: Agent, body: Json, at: datetime) -> None:
        """Fields given replace, fields absent stay; `webhook_url: null` silences the agent."""
        changes = body.get("agent_config", {})
        if not isinstance(changes, dict):
            raise Refusal(422, bad_field("agent_config", "Input should be a valid dictionary"))
        merged = {**agent.body, **body, "agent_config": {**agent.body["agent_config"], **changes}}
        webhook_url, call_terminate_sec = _webhook_url(merged["agent_config"]), _call_terminate_sec(merged)
        hours = _hours(merged["agent_config"])
        agent.body, agent.updated_at = merged, at
        agent.webhook_url, agent.call_terminate_sec, agent.hours = webhook_url, call_terminate_sec, hours


def opening_of(agent: Agent, now: datetime) -> datetime | None:
    """When the agent may call again; None if it may now."""
    if agent.hours is None:
        return None
    (start, end), local = agent.hours, now.astimezone(IST)
    if start <= local.hour < end:
        return None
    opening = local.replace(hour=start, minute=0, second=0, microsecond=0)
    return opening if opening > local else opening + timedelta(days=1)


def render_agent(agent: Agent) -> Json:
    """Flat, as Bolna answers: the config's fields beside the id."""
    beside = {name: value for name, value in agent.body.items() if name != "agent_config"}
    return {
        **agent.body["agent_config"],
        **beside,
        "id": agent.id,
        "agent_status": "processed",
        "created_at": agent.created_at.isoformat(),
        "updated_at": agent.updated_at.isoformat(),
    }


def _config_of(body: Json) -> Json:
    config = body.get("agent_config")
    if not isinstance(config, dict):
        raise Refusal(400, malformed("agent_config is required"))
    return config


def _webhook_url(config: Json) -> str | None:
    url = config.get("webhook_url")
    if url is None:
        return None
    if not isinstance(url, str) or not _is_http(url):
        raise Refusal(422, bad_field("agent_config.webhook_url", "Input should be a valid URL"))
    return url


def _hours(config: Json) -> tuple[int, int] | None:
    guardrails = config.get("calling_guardrails")
    if guardrails is None:
        return None
    if isinstance(guardrails, dict):
        start, end = guardrails.get("call_start_hour"), guardrails.get("call_end_hour")
        if _is_hour(start) and _is_hour(end):
            return start, end
    raise Refusal(422, bad_field("agent_config.calling_guardrails", "Input should be two hours from 0 to 23"))


def _is_hour(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 23


def _is_http(url: str) -> bool:
    try:
        target_of(url)
    except ValueError:
        return False
    return True


def _call_terminate_sec(body: Json) -> float:
    """The first `call_terminate` among the tasks' configs, then beside the tasks, then at the top."""
    config = body["agent_config"]
    tasks = config.get("tasks")
    holders = [*(tasks if isinstance(tasks, list) else []), config, body]
    for holder in holders:
        task_config = holder.get("task_config") if isinstance(holder, dict) else None
        if isinstance(task_config, dict) and "call_terminate" in task_config:
            return _positive_sec(task_config["call_terminate"])
    return DEFAULT_CALL_TERMINATE_SEC


def _positive_sec(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise Refusal(422, bad_field("task_config.call_terminate", "Input should be greater than 0"))
    return float(value)
