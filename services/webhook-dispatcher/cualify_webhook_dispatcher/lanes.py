"""Which delivery is begun next, of those that this process has claimed. Pure: no clock, no network.

- Orgs take turns, and within an org its endpoints. One org holds at most half of the slots.
- An endpoint has a lane with 1 to 32 lines, at first 4: a line more after a round of quick successes, half as many
  after a failure that says "down", and one after a recovery.
- Endpoints that hang hold at most a tenth of the slots. The slots are three shares: a tenth for endpoints that were
  slow lately, a tenth for those that have not answered yet, the rest for those that answer. A request that has been
  under way for a second moves to the slow share at once, full or not: the slot that it had is free again for others,
  and a full slow share begins nothing. (So more connections than slots can be open for as long as the deadline.)
- What is sent again for a replay goes when its lane has nothing new, on one line.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

from cualify_webhook_dispatcher.breaker import OPENS_AFTER
from cualify_webhook_dispatcher.jobs import Endpoint, Job

FIRST_LINES = 4
MOST_LINES = 32
SLOW_AFTER_SEC = 1.0
SLOW_SHARE = 0.1
QUICK, NEW, SLOW = 0, 1, 2
ORG_SHARE = 0.5
FORGOTTEN_AFTER_SEC = 600.0


@dataclass(slots=True, eq=False)
class Flight:
    """A request under way. `share` is the one that its slot is of."""

    job: Job
    lane: "Lane"
    began: float
    share: int
    low: bool = False
    grew_old: bool = False
    ended: bool = False


@dataclass(slots=True, eq=False)
class Lane:
    """What this process holds of one endpoint."""

    endpoint: Endpoint
    few: int
    """Its lines at most while it draws on one of the tenths: none of them is one endpoint's."""
    lines: int = FIRST_LINES
    queue: deque[Job] = field(default_factory=deque)
    low: deque[Job] = field(default_factory=deque)
    flights: set[Flight] = field(default_factory=set)
    low_under_way: int = 0
    claimed: int = 0
    """Queued, under way, or ended and not yet recorded."""
    proven: bool = False
    hangs: bool = False
    """Its last request was slow."""
    slow_flights: int = 0
    deleted: bool = False
    downs: int = 0
    """Failures in a row that say "down", recorded or not: at five it waits for the record, which opens the breaker."""
    more_is_due: bool = False
    used_at: float = 0.0
    _good: int = 0
    _cut_at: float = 0.0
    waiting: bool = False

    @property
    def share(self) -> int:
        """The share of the slots that it draws on."""
        if self.hangs or self.slow_flights:
            return SLOW
        return QUICK if self.proven else NEW

    def can_begin(self) -> bool:
        """Whether it has something to send and a line for it."""
        if (
            self.deleted
            or self.downs >= OPENS_AFTER
            or len(self.flights) >= (self.lines if self.share == QUICK else min(self.lines, self.few))
        ):
            return False
        return bool(self.queue) or (bool(self.low) and self.low_under_way == 0)

    def adapt(self, *, ok: bool, down: bool, slow: bool, began: float, at: float) -> None:
        """More lines while it goes well, half as many when it does not; once for what was under way together."""
        self.downs = self.downs + 1 if down else 0
        if down:
            self._good = 0
            if began >= self._cut_at:
                self.lines, self._cut_at = max(1, self.lines // 2), at
        elif ok and not slow:
            self._good += 1
            if self.lines < FIRST_LINES or self._good >= self.lines:
                self.lines, self._good = min(MOST_LINES, self.lines + 1), 0

    def start_slowly(self) -> None:
        """One line, from which it grows again."""
        self.lines, self._good = 1, 0


@dataclass(slots=True, eq=False)
class _Turn:
    """An org's lanes that can begin something, in turn."""

    lanes: deque[Lane] = field(default_factory=deque)
    waiting: bool = False


Ring: TypeAlias = deque[tuple[UUID, _Turn]]


class Lanes:
    """The lanes of one process and their slots."""

    def __init__(self, *, slots: int) -> None:
        tenth = max(1, round(slots * SLOW_SHARE))
        self.slots = (max(1, slots - 2 * tenth), tenth, tenth)
        self._few = max(1, tenth // 4)
        self._org_slots = max(1, int(slots * ORG_SHARE))
        self._lanes: dict[UUID, Lane] = {}
        self._rings: tuple[Ring, Ring, Ring] = (deque(), deque(), deque())
        self._turns: tuple[dict[UUID, _Turn], ...] = ({}, {}, {})
        self._of_org: dict[UUID, int] = {}
        self._young: deque[Flight] = deque()
        self.under_way = [0, 0, 0]
        """Requests under way, by share."""

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def ids(self) -> list[UUID]:
        """The endpoints that have a lane."""
        return list(self._lanes)

    def get(self, endpoint_id: UUID) -> Lane | None:
        """An endpoint's lane, if it has one."""
        return self._lanes.get(endpoint_id)

    def of(self, endpoint: Endpoint, *, at: float) -> Lane:
        """An endpoint's lane, made if need be; from now on it knows the endpoint as given."""
        lane = self._lanes.get(endpoint.id)
        if lane is None:
            lane = self._lanes[endpoint.id] = Lane(endpoint, self._few)
            if endpoint.recovered_at is not None:
                lane.start_slowly()
        elif endpoint.recovered_at != lane.endpoint.recovered_at:
            lane.start_slowly()
        lane.endpoint, lane.used_at = endpoint, at
        return lane

    def recorded(self, lane: Lane, *, downs: int) -> None:
        """What was counted here is in the endpoint's row now."""
        lane.downs = downs
        self._wait(lane)

    def put(self, job: Job, lane: Lane) -> None:
        """Queues a claimed delivery."""
        (lane.low if job.low and not job.probe else lane.queue).append(job)
        lane.claimed += 1
        self._wait(lane)

    def next(self, at: float) -> Flight | None:
        """Takes the next delivery to begin, and its slot; None when there is none or no slot is free."""
        for share in (QUICK, NEW, SLOW):
            if self.under_way[share] < self.slots[share] and (lane := self._pop(share)):
                return self._begin(lane, share, at)
        return None

    def ended(self, flight: Flight, *, ok: bool, down: bool, at: float) -> None:
        """Gives the slot back. The delivery stays claimed until `let_go`."""
        lane = flight.lane
        flight.ended = True
        lane.flights.discard(flight)
        lane.low_under_way -= flight.low
        lane.slow_flights -= flight.grew_old
        self.under_way[flight.share] -= 1
        org_id = lane.endpoint.org_id
        self._of_org[org_id] -= 1
        if not self._of_org[org_id]:
            del self._of_org[org_id]
        slow = flight.grew_old or at - flight.began > SLOW_AFTER_SEC
        lane.hangs = slow or (lane.hangs and not ok)
        lane.proven = not slow and not down and (ok or lane.proven)
        lane.adapt(ok=ok, down=down, slow=slow, began=flight.began, at=at)
        self._wait(lane)
        for ring in (QUICK, NEW, SLOW):
            turn = self._turns[ring].get(org_id)
            if turn is not None and turn.lanes and not turn.waiting:
                turn.waiting = True
                self._rings[ring].append((org_id, turn))

    def grow_old(self, at: float) -> None:
        """Requests that have been under way for a second now count as slow."""
        while self._young and (self._young[0].ended or at - self._young[0].began >= SLOW_AFTER_SEC):
            flight = self._young.popleft()
            if flight.ended:
                continue
            flight.grew_old = True
            flight.lane.slow_flights += 1
            self.under_way[flight.share] -= 1
            self.under_way[SLOW] += 1
            flight.share = SLOW

    def emptied(self, lane: Lane, *, but_probes: bool = False) -> list[Job]:
        """Takes back what is queued and not begun. It stays claimed until `let_go`."""
        taken: list[Job] = []
        for queue in (lane.queue, lane.low):
            taken += [job for job in queue if not (but_probes and job.probe)]
            probes = [job for job in queue if but_probes and job.probe]
            queue.clear()
            queue.extend(probes)
        return taken

    def let_go(self, job: Job) -> Lane:
        """The delivery is no longer claimed here."""
        lane = self._lanes[job.endpoint_id]
        lane.claimed -= 1
        return lane

    def forget_idle(self, at: float, *, but: Iterable[UUID] = ()) -> None:
        """Drops lanes that have had nothing for a while."""
        kept = set(but)
        for id_ in [
            id_
            for id_, lane in self._lanes.items()
            if not lane.claimed and at - lane.used_at > FORGOTTEN_AFTER_SEC and id_ not in kept
        ]:
            del self._lanes[id_]

    def _begin(self, lane: Lane, share: int, at: float) -> Flight:
        low = not lane.queue
        job = lane.low.popleft() if low else lane.queue.popleft()
        flight = Flight(job, lane, at, share=share, low=low)
        lane.flights.add(flight)
        lane.low_under_way += flight.low
        lane.used_at = at
        self.under_way[share] += 1
        org_id = lane.endpoint.org_id
        self._of_org[org_id] = self._of_org.get(org_id, 0) + 1
        self._young.append(flight)
        self._wait(lane)
        return flight

    def _wait(self, lane: Lane) -> None:
        if lane.waiting or not lane.can_begin():
            return
        ring, org_id = lane.share, lane.endpoint.org_id
        turn = self._turns[ring].setdefault(org_id, _Turn())
        lane.waiting = True
        turn.lanes.append(lane)
        if not turn.waiting:
            turn.waiting = True
            self._rings[ring].append((org_id, turn))

    def _pop(self, number: int) -> Lane | None:
        ring = self._rings[number]
        while ring:
            org_id, turn = ring.popleft()
            turn.waiting = False
            if self._of_org.get(org_id, 0) >= self._org_slots:
                continue  # It is back in the ring when one of its requests has ended.
            lane = self._next_of(turn, number)
            if turn.lanes:
                turn.waiting = True
                ring.append((org_id, turn))
            elif not turn.waiting:
                self._turns[number].pop(org_id, None)
            if lane is not None:
                return lane
        return None

    def _next_of(self, turn: _Turn, number: int) -> Lane | None:
        while turn.lanes:
            lane = turn.lanes.popleft()
            lane.waiting = False
            if not lane.can_begin():
                continue
            if lane.share == number:
                return lane
            self._wait(lane)
        return None
