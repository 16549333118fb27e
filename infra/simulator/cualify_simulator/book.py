"""The executions we remember: by id, by callee, and by agent in the order of their making.

Bounded: beyond `kept`, the oldest ended ones are forgotten, a tenth at a time. One that still lives is never forgotten.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from datetime import datetime, timedelta

from cualify_simulator.execution import Execution


class Book:
    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._by_id: dict[str, Execution] = {}
        self._by_callee: dict[str, list[Execution]] = defaultdict(list)
        self._by_agent: dict[str, list[Execution]] = defaultdict(list)
        self._last_created_at: datetime | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def next_created_at(self, now: datetime) -> datetime:
        """Never earlier than the one before, whatever the wall clock does: the lists stay sorted."""
        self._last_created_at = max(now, self._last_created_at or now)
        return self._last_created_at

    def add(self, execution: Execution) -> None:
        self._by_id[execution.id] = execution
        self._by_callee[execution.to_e164].append(execution)
        self._by_agent[execution.agent.id].append(execution)
        if len(self._by_id) > self._kept * 1.1:
            self._forget(len(self._by_id) - self._kept)

    def get(self, execution_id: str) -> Execution | None:
        return self._by_id.get(execution_id)

    def all_alive(self) -> list[Execution]:
        return [execution for execution in self._by_id.values() if not execution.is_over]

    def of_callee(self, to_e164: str) -> list[Execution]:
        return self._by_callee.get(to_e164, [])

    def of_agent(
        self, agent_id: str, *, earliest: datetime, latest: datetime, made_before: datetime
    ) -> list[Execution]:
        """Created from `earliest` to `latest`, both included, as far as already shown; oldest first."""
        executions = self._by_agent.get(agent_id, [])
        first = bisect_left(executions, earliest, key=_created_at)
        end = bisect_right(executions, min(latest, made_before), key=_created_at)
        return executions[first:end]

    def _forget(self, count: int) -> None:
        ended = (execution for execution in self._by_id.values() if execution.is_over)
        forgotten = {execution.id for execution, _ in zip(ended, range(count), strict=False)}
        for index in (self._by_callee, self._by_agent):
            _drop(index, forgotten)
        for execution_id in forgotten:
            del self._by_id[execution_id]


def shown_until(now: datetime, lag_sec: float) -> datetime:
    return now - timedelta(seconds=lag_sec)


def _created_at(execution: Execution) -> datetime:
    return execution.created_at


def _drop(index: dict[str, list[Execution]], forgotten: set[str]) -> None:
    for key, executions in list(index.items()):
        left = [execution for execution in executions if execution.id not in forgotten]
        if left:
            index[key] = left
        else:
            del index[key]
