"""The queued runs of a namespace, as claims look at them, and the slots of those that run.

What the limits of queues mean is written in :mod:`perdure.model.queues`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Generic, Protocol, TypeAlias, TypeVar

from perdure.model import queues
from perdure.model.queues import Limits, QueueRecord
from perdure.model.records import Micros, Rank, RunRecord, Status
from perdure.model.transitions import Claim
from perdure.model.versions import Code, Versions

Place: TypeAlias = tuple[Rank, int, int, str]
"""Where a queued run stands: rank, priority, seq, id. The smallest is claimed first."""

Due: TypeAlias = tuple[Micros, int, str]
"""When a waiting run becomes claimable by itself: due_at, seq, id."""

Look: TypeAlias = tuple[Micros, str, str]
"""When a gate is to be looked at: the time, its queue and its key."""

E = TypeVar("E", Place, Due, Look)


class Heap(Generic[E]):
    """A priority queue that drops entries which are no longer true when they come to the top."""

    def __init__(self, is_true: Callable[[E], bool]) -> None:
        self._entries: list[E] = []
        self._is_true: Callable[[E], bool] = is_true

    def push(self, entry: E) -> None:
        """Add an entry."""
        heapq.heappush(self._entries, entry)

    def first(self) -> E | None:
        """Return the smallest true entry, and leave it: it goes when it is no longer true."""
        while self._entries:
            if self._is_true(self._entries[0]):
                return self._entries[0]
            heapq.heappop(self._entries)
        return None


class Gate:
    """The queued runs of one queue that share a limit_key.

    Those that may be claimed next are *exposed*: they stand in the lanes like runs without a key.
    The others stand here, so that any number of runs behind a full key costs a claim nothing.

    Attributes:
        queue, key: whose runs these are.
        due_at: what is kept of the key's rate; see :mod:`perdure.model.queues`.
        look_at: when to choose anew who is exposed; None for not before something changes.
        exposed: the ids of those that stand in the lanes.
        running: the ids of those that have a slot.
    """

    def __init__(
        self, queue: str, key: str, is_queued: Callable[[str | None, Place], bool]
    ) -> None:
        self.queue = queue
        self.key = key
        self.due_at = 0
        self.look_at: Micros | None = None
        self.exposed: set[str] = set()
        self.running: set[str] = set()
        self._is_queued = is_queued
        self._parked: dict[Code, Heap[Place]] = {}

    def park(self, run: RunRecord) -> None:
        """Let a queued run stand here."""
        self.exposed.discard(run.run_id)
        code = (run.definition, run.pin)
        if code not in self._parked:
            self._parked[code] = Heap(partial(self._is_parked, run.pin))
        self._parked[code].push(place_of(run))

    def parked(self) -> list[Heap[Place]]:
        """Return those that stand here, by definition and pin."""
        return [heap for heap in self._parked.values() if heap.first() is not None]

    def _is_parked(self, pin: str | None, place: Place) -> bool:
        return place[-1] not in self.exposed and self._is_queued(pin, place)


class _HasRun(Protocol):
    @property
    def run(self) -> RunRecord: ...


class Ready:
    """What claims choose from.

    Attributes:
        queues: what is kept of queues, by name.
    """

    def __init__(self, rows: Mapping[str, _HasRun]) -> None:
        self.queues: dict[str, QueueRecord] = {}
        self._rows = rows
        self._lanes: dict[tuple[Code, str, Rank], Heap[Place]] = {}
        self._slots: dict[str, set[str]] = {}  # queue -> its running runs
        self._gates: dict[tuple[str, str], Gate] = {}
        self._looks: Heap[Look] = Heap(self._is_look)

    def moved(self, run: RunRecord, now: Micros) -> None:
        """Enter a run whose status has changed."""
        gate = self.gate(run)
        if gate is not None:
            gate.exposed.discard(run.run_id)
        if run.status is Status.RUNNING:
            self._slots.setdefault(run.queue, set()).add(run.run_id)
            if gate is not None:
                gate.running.add(run.run_id)
            return
        if gate is not None:
            self.look_at(gate, now)
        if run.status is Status.QUEUED:
            if gate is None:
                self._expose(run)
            else:
                gate.park(run)

    def released(self, run: RunRecord) -> None:
        """Free the slot of a run that was running."""
        self._slots[run.queue].discard(run.run_id)
        gate = self.gate(run)
        if gate is not None:
            gate.running.discard(run.run_id)

    def lanes_of(self, claim: Claim, versions: Versions, *ranks: Rank) -> Iterator[Heap[Place]]:
        """Yield the exposed runs that a claim may take, by definition, pin, queue and rank."""
        for code in versions.codes(claim.definitions):
            for queue in dict.fromkeys(claim.queues):
                for rank in ranks:
                    lane = self._lanes.get((code, queue, rank))
                    if lane is not None:
                        yield lane

    def next_look_at(self) -> Micros | None:
        """Return when the next gate is to be looked at."""
        look = self._looks.first()
        return None if look is None else look[0]

    def limits(self, queue: str) -> Limits:
        """Return what holds for a queue."""
        record = self.queues.get(queue)
        return Limits() if record is None else record.limits

    def running(self, queue: str) -> int:
        """Return how many slots of a queue are taken."""
        return len(self._slots.get(queue, ()))

    def _expose(self, run: RunRecord) -> None:
        """Let a queued run stand where claims look."""
        lane = ((run.definition, run.pin), run.queue, run.rank)
        if lane not in self._lanes:
            self._lanes[lane] = Heap(partial(self._is_exposed, run.pin))
        self._lanes[lane].push(place_of(run))

    def gate(self, run: RunRecord) -> Gate | None:
        """Return the gate of a run's key; None where it has none."""
        if run.limit_key is None:
            return None
        place = (run.queue, run.limit_key)
        gate = self._gates.get(place)
        if gate is None:
            gate = self._gates[place] = Gate(*place, self._is_queued)
        return gate

    def next_start_of_key(self, queue: str, key: str) -> Micros:
        """Return from when on the rate of a key allows a start; 0 for nothing kept."""
        gate, rate = self._gates.get((queue, key)), self.limits(queue).key_rate
        if gate is None or rate is None:
            return 0
        return max(0, queues.next_start_at(rate, gate.due_at))

    def look_at(self, gate: Gate, at: Micros) -> None:
        """Choose anew who of a key is exposed, at a time that may have come."""
        if gate.look_at is None or at < gate.look_at:
            gate.look_at = at
            self._looks.push((at, gate.queue, gate.key))

    def look_at_all(self, queue: str, now: Micros) -> None:
        """Look at all gates of a queue."""
        for gate in self._gates.values():
            if gate.queue == queue:
                self.look_at(gate, now)

    def open_gates(self, now: Micros) -> None:
        """Expose, of each key that is to be looked at, the first that its limits leave room for."""
        while (look := self._looks.first()) is not None and look[0] <= now:
            gate = self._gates[look[1:]]
            gate.look_at = None
            self._open(gate, now)
            if gate.running or gate.exposed or gate.parked():
                continue
            if gate.due_at > now:
                self.look_at(gate, gate.due_at)  # to forget it then
            else:
                del self._gates[look[1:]]

    def _open(self, gate: Gate, now: Micros) -> None:
        limits = self.limits(gate.queue)
        room = queues.room(limits.key_concurrency, len(gate.running))
        for run_id in list(gate.exposed):
            gate.park(self._rows[run_id].run)
        for parked in gate.parked():
            self._open_for(gate, parked, queues.within(queues.EXPOSED, room), now)

    def _open_for(self, gate: Gate, parked: Heap[Place], room: int, now: Micros) -> None:
        """Expose the first runs of one definition and pin."""
        rate = self.limits(gate.queue).key_rate
        starts = queues.free_starts(rate, gate.due_at, now)
        started = 0
        for _ in range(room):
            place = parked.first()
            if place is None:
                return
            if place[0] is Rank.FRESH and rate is not None:
                if started == starts:
                    due_at = queues.due_after(rate, gate.due_at, now, started)
                    self.look_at(gate, queues.next_start_at(rate, due_at))
                    return
                started += 1
            gate.exposed.add(place[-1])
            self._expose(self._rows[place[-1]].run)

    def _is_look(self, look: Look) -> bool:
        gate = self._gates.get(look[1:])
        return gate is not None and gate.look_at == look[0]

    def _is_exposed(self, pin: str | None, place: Place) -> bool:
        if not self._is_queued(pin, place):
            return False
        gate = self.gate(self._rows[place[-1]].run)
        return gate is None or place[-1] in gate.exposed

    def _is_queued(self, pin: str | None, place: Place) -> bool:
        row = self._rows.get(place[-1])
        if row is None or row.run.status is not Status.QUEUED:
            return False
        return place_of(row.run) == place and row.run.pin == pin


def place_of(run: RunRecord) -> Place:
    """Return where a queued run stands."""
    return (run.rank, run.priority, run.seq, run.run_id)
