"""Bolna's workflows (beta): a run whose `reference_id` dedupes, the only create request there that may be repeated.

A workflow here is one agent node, under the agent's id, so a run makes one ordinary call. The body of the 409 has not
been seen on a real account: it names `duplicate_run` and the run that there is.
"""

import hashlib
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import orjson
from aiohttp import web
from pydantic import Field, ValidationError

from cualify_simulator.bolna import Bolna, answer
from cualify_simulator.execution import Execution
from cualify_simulator.refusals import Refusal, bad_field, not_found
from cualify_simulator.requests import E164, Json, Strict, read_call, read_object

RUNS_LIMIT: Final = 100_000
ENDS: Final = {"completed": "completed", "canceled": "cancelled", "stopped": "cancelled"}


class Run(Strict):
    mobile_number: E164
    reference_id: str = Field(default="", max_length=128)
    name: str = ""
    email: str = ""
    custom_fields: Json = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    id: str
    workflow_id: str
    reference_id: str
    call: Execution


class Workflows:
    def __init__(self, bolna: Bolna) -> None:
        self._bolna = bolna
        self._by_reference: dict[tuple[str, str], Started] = {}
        self._by_id: dict[str, Started] = {}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/workflows/{workflow_id}/run", self.run),
            web.get("/workflow-executions/{id}", self.show),
        ]

    async def run(self, request: web.Request) -> web.Response:
        body = read_object(request.content_type, await request.read())
        run, workflow_id = _read(body), request.match_info["workflow_id"]
        reference_id = run.reference_id or _identity(body)
        known = self._by_reference.get((workflow_id, reference_id))
        if known is not None:
            raise Refusal(409, {"error": "duplicate_run", "execution_id": known.id}, noted=False)
        started = Started(str(uuid4()), workflow_id, reference_id, self._call(request, workflow_id, reference_id, run))
        self._remember(started)
        return await self._bolna.answered(request, started.call, {"status": "pending", "execution_id": started.id})

    async def show(self, request: web.Request) -> web.Response:
        started = self._by_id.get(request.match_info["id"])
        if started is None:
            raise not_found("Workflow execution")
        call = started.call
        status = ENDS.get(call.status, "failed") if call.is_over else "running"
        return answer(
            {
                "execution_id": started.id,
                "workflow_id": started.workflow_id,
                "reference_id": started.reference_id,
                "status": status,
                "nodes": [{"type": "agent", "execution_id": call.id, "status": call.status}],
                "termination_reason": None,
                "outcome": None if not call.is_over else "success" if status == "completed" else "failure",
            }
        )

    def _call(self, request: web.Request, workflow_id: str, reference_id: str, run: Run) -> Execution:
        user_data = {**run.custom_fields, "cualify_ref": reference_id}
        wanted = {"agent_id": workflow_id, "recipient_phone_number": run.mobile_number, "user_data": user_data}
        return self._bolna.taken_on(request, read_call(wanted, self._bolna.now()))

    def _remember(self, started: Started) -> None:
        if len(self._by_id) >= RUNS_LIMIT:
            oldest = self._by_id.pop(next(iter(self._by_id)))
            self._by_reference.pop((oldest.workflow_id, oldest.reference_id), None)
        self._by_id[started.id] = self._by_reference[started.workflow_id, started.reference_id] = started


def _read(body: Json) -> Run:
    if unknown := body.keys() - Run.model_fields.keys():
        raise Refusal(422, {"error": "unknown_field", "message": f"unknown fields: {sorted(unknown)}"})
    try:
        return Run.model_validate(body)
    except ValidationError as problem:
        first = problem.errors()[0]
        raise Refusal(422, bad_field(".".join(map(str, first["loc"])), first["msg"])) from problem


def _identity(body: Json) -> str:
    """Of a run without a reference: a second one of the same content is the same."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
