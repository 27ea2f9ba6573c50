"""Choosing: which queued runs a claim gives, within the limits of their queues and keys.

A lane is the ready runs of one queue and definition that are pinned to one version, or to none, in
the order of claiming. Which lanes are not empty is found by skipping through the index, so that a
claim costs the same with 100,000 ready runs as with ten, also when they are of definitions that
the worker does not know, or pinned to versions that it does not have.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from perdure.model import queues
from perdure.model.queues import Limits, QueueRecord
from perdure.model.records import Micros, Rank
from perdure.model.transitions import Claim
from perdure.model.versions import Versions
from perdure.stores.sqlite import gates
from perdure.stores.sqlite.queues import kept, started
from perdure.stores.sqlite.unit import Unit

Candidate: TypeAlias = tuple[int, int, int, int, str | None]
"""A queued run: rank, priority, seq, the number of its queue, limit_key."""

Lane: TypeAlias = tuple[int, int, int]
"""The numbers of a queue, a definition and a version that runs are pinned to; 0 for none."""

_READY = "status = 0 AND parked = 0"
_SUSPECT = f"{_READY} AND rank = 2"

# A definition and a pin travel as one number, so that the next ones are one look. It is "from the
# next pin on" because SQLite seeks to what is equal: "beyond this pin" reads all runs of it.
_LANES = """
WITH RECURSIVE lane (queue, code) AS (
    SELECT value, (
        SELECT definition << 32 | pin FROM run WHERE {which} AND namespace = ?1 AND queue = value
        ORDER BY definition, pin LIMIT 1
    ) FROM json_each(?2)
    UNION ALL
    SELECT queue, (
        SELECT definition << 32 | pin FROM run WHERE {which} AND namespace = ?1
            AND queue = lane.queue AND (definition, pin) >= (code >> 32, (code & 0xffffffff) + 1)
        ORDER BY definition, pin LIMIT 1
    ) FROM lane WHERE code IS NOT NULL
)
SELECT queue, code >> 32, code & 0xffffffff FROM lane WHERE code IS NOT NULL
"""
LANES: Final = _LANES.format(which=_READY)
SUSPECT_LANES: Final = _LANES.format(which=_SUSPECT)

_COLUMNS = "rank, priority, seq, queue, limit_key"
_OF_LANE = "namespace = ? AND queue = ? AND definition = ? AND pin = ?"

_LANE = (
    f"SELECT {_COLUMNS} FROM run WHERE {_READY} AND {_OF_LANE}"  # noqa: S608
    " AND rank BETWEEN ? AND ? ORDER BY rank, priority, seq LIMIT ?"
)

_LANES_AT_ONCE = 64

FIRST_OF: Final = {
    count: " UNION ALL ".join(f"SELECT * FROM ({_LANE})" for _ in range(count))  # noqa: S608
    + " ORDER BY rank, priority, seq LIMIT ?"
    for count in (1, 2, 4, 8, 16, 32, _LANES_AT_ONCE)
}

SUSPECTS = (
    f"SELECT {_COLUMNS} FROM run WHERE {_SUSPECT} AND {_OF_LANE}"  # noqa: S608
    " ORDER BY priority, seq LIMIT 100"
)

RUNNING = "SELECT count(*) FROM run WHERE status = 1 AND slot = 1 AND namespace = ? AND queue = ?"


class Asked:
    """What a claim is about.

    Attributes:
        queues: the numbers of those that it names, as a JSON list.
        versions: what its worker registered.
    """

    def __init__(self, unit: Unit, transition: Claim, versions: Versions) -> None:
        numbers = map(unit.names.find, set(transition.queues))  # one without has no runs
        self.queues = f"[{','.join(str(one) for one in numbers if one is not None)}]"
        self.versions = versions
        self._unit = unit
        self._definitions = set(transition.definitions)

    def lanes(self, statement: str) -> list[Lane]:
        """Return the lanes that the statement finds and the worker may take."""
        unit = self._unit
        found = unit.connection.execute(statement, (unit.namespace, self.queues)).fetchall()
        return [lane for lane in found if self._takes(lane)]

    def _takes(self, lane: Lane) -> bool:
        _, definition, pin = lane
        texts = self._unit.names.texts
        name = texts[definition]
        return name in self._definitions and (not pin or self.versions.has(name, texts[pin]))


class Allowance:
    """What the limits of queues and keys leave room for, while one claim gives runs away.

    Args:
        unit: the claim's.
        next_look_at: when the next gate is to be looked at; those that are marked are, here.
        are_limits: something is kept of some queue.

    Attributes:
        next_look_at: when a claim may find room that this one did not.
    """

    def __init__(self, unit: Unit, next_look_at: Micros | None, *, are_limits: bool) -> None:
        self._unit = unit
        self._kept: dict[int, QueueRecord] = kept(unit) if are_limits else {}
        self._running: dict[int, int] = {}
        self._running_of: dict[tuple[int, str], int] = {}
        self._starts: dict[int, Micros] = {}
        self._starts_of: dict[tuple[int, str], Micros] = {}
        self._given: set[tuple[int, str]] = set()
        self.next_look_at = next_look_at
        if next_look_at is not None and next_look_at <= unit.now:
            for queue, key in gates.marked(unit.connection, unit.namespace, unit.now):
                gates.look(unit.connection, self._gate(queue, key), self._limits(queue), unit.now)
            self._look_at_gates()

    def is_limited(self, queue: int) -> bool:
        """Tell whether anything is kept of a queue."""
        return queue in self._kept

    def most(self, queue: int, limit: int) -> int:
        """Return how many runs of a queue are worth looking at for so many."""
        record = self._kept.get(queue)
        if record is None:
            return limit
        if record.paused_at is not None:
            return 0
        slots = record.limits.concurrency
        return limit if slots is None else min(limit, max(0, slots - self.running(queue)))

    def running(self, queue: int) -> int:
        """Return how many slots of a queue are taken, those given away by this claim included."""
        count = self._running.get(queue)
        if count is None:
            unit = self._unit
            (count,) = unit.connection.execute(RUNNING, (unit.namespace, queue)).fetchone()
            self._running[queue] = int(count)
        return int(count)

    def lets(self, candidate: Candidate) -> bool:
        """Tell whether a run may be given; a queued one whose key is in its way is parked."""
        rank, _, seq, queue, key = candidate
        record = self._kept.get(queue)
        if record is None:
            return True
        if not self._has_slot(record, queue, is_start=rank == Rank.FRESH):
            return False
        if key is None or self._has_slot_of_key(record, queue, key, is_start=rank == Rank.FRESH):
            return True
        if gates.park(self._unit.connection, (seq,)):
            self._look_again(self._unit.now)  # another may stand in its place
        return False

    def _has_slot(self, record: QueueRecord, queue: int, *, is_start: bool) -> bool:
        if not self.most(queue, 1):
            return False
        rate = record.limits.rate
        if is_start and rate is not None:
            due_at = self._starts.get(queue, record.next_start_at)
            if queues.free_starts(rate, due_at, self._unit.now) == 0:
                self._look_again(queues.next_start_at(rate, due_at))
                return False
        return True

    def _has_slot_of_key(
        self, record: QueueRecord, queue: int, key: str, *, is_start: bool
    ) -> bool:
        limits = record.limits
        most = limits.key_concurrency
        if most is not None and self._running_with(queue, key) >= most:
            return False
        if is_start and limits.key_rate is not None:
            due_at = self._due_of(queue, key)
            if queues.free_starts(limits.key_rate, due_at, self._unit.now) == 0:
                at = queues.next_start_at(limits.key_rate, due_at)
                gates.mark(self._unit.connection, (self._gate(queue, key),), at)
                return False
        return True

    def took(self, candidate: Candidate) -> None:
        """Count a run that is given."""
        rank, _, _, queue, key = candidate
        record = self._kept.get(queue)
        if key is not None:
            self._given.add((queue, key))
        if record is None:
            return
        limits, now = record.limits, self._unit.now
        if limits.concurrency is not None:
            self._running[queue] = self.running(queue) + 1
        if rank == Rank.FRESH and limits.rate is not None:
            due_at = self._starts.get(queue, record.next_start_at)
            self._starts[queue] = queues.due_after(limits.rate, due_at, now, 1)
        if key is None:
            return
        self._running_of[queue, key] = self._running_with(queue, key) + 1
        if rank == Rank.FRESH and limits.key_rate is not None:
            due_at = self._due_of(queue, key)
            self._starts_of[queue, key] = queues.due_after(limits.key_rate, due_at, now, 1)

    def keep(self) -> None:
        """Write what was counted; to be called once the given runs are running."""
        unit = self._unit
        for queue, due_at in self._starts.items():
            started(unit, queue, due_at)
        for (queue, key), due_at in self._starts_of.items():
            gates.started(unit.connection, self._gate(queue, key), due_at)
        for queue, key in self._given:
            most = self._limits(queue).key_concurrency
            place = self._gate(queue, key)
            is_full = most is not None and self._running_with(queue, key) >= most
            if not is_full and gates.is_any_parked(unit.connection, place):
                gates.mark(unit.connection, (place,), unit.now)
        if self._given:
            self._look_again(gates.next_look_at(unit.connection, unit.namespace))

    def _running_with(self, queue: int, key: str) -> int:
        count = self._running_of.get((queue, key))
        if count is None:
            count = gates.running(self._unit.connection, self._gate(queue, key))
            self._running_of[queue, key] = count
        return count

    def _due_of(self, queue: int, key: str) -> Micros:
        due_at = self._starts_of.get((queue, key))
        if due_at is None:
            due_at = gates.next_start_at(self._unit.connection, self._gate(queue, key))
        return due_at

    def _gate(self, queue: int, key: str) -> gates.GatePlace:
        return (self._unit.namespace, queue, key)

    def _limits(self, queue: int) -> Limits:
        record = self._kept.get(queue)
        return Limits() if record is None else record.limits

    def _look_at_gates(self) -> None:
        self.next_look_at = gates.next_look_at(self._unit.connection, self._unit.namespace)

    def _look_again(self, at: Micros | None) -> None:
        dues = [due for due in (at, self.next_look_at) if due is not None]
        self.next_look_at = min(dues, default=None)


def suspects(unit: Unit, asked: Asked, allowance: Allowance) -> list[Candidate]:
    """Return the first suspects that may be given, at most two."""
    candidates: list[Candidate] = []
    for lane in asked.lanes(SUSPECT_LANES):
        candidates += unit.connection.execute(SUSPECTS, (unit.namespace, *lane)).fetchall()
    candidates.sort()
    found: list[Candidate] = []
    for candidate in candidates:
        if allowance.lets(candidate):
            found.append(candidate)
            if len(found) == 2:
                break
    return found


def first(
    unit: Unit, asked: Asked, allowance: Allowance, limit: int, *, fresh_first: bool
) -> list[Candidate]:
    """Return the first runs of all lanes together that may be given, suspects left out."""
    if limit <= 0:
        return []
    lanes = asked.lanes(LANES)
    if not fresh_first:
        return _of_ranks(unit, lanes, allowance, limit, (0, 1))
    fresh = _of_ranks(unit, lanes, allowance, limit, (1, 1))
    return fresh + _of_ranks(unit, lanes, allowance, limit - len(fresh), (0, 0))


def _of_ranks(
    unit: Unit,
    lanes: list[Lane],
    allowance: Allowance,
    limit: int,
    ranks: tuple[int, int],
) -> list[Candidate]:
    """Return the first runs from one rank to another, and count them."""
    enough = -1 if any(allowance.is_limited(queue) for queue, *_ in lanes) else limit
    candidates: list[Candidate] = []
    for at in range(0, len(lanes), _LANES_AT_ONCE):
        some = lanes[at : at + _LANES_AT_ONCE]
        count = 1 << (len(some) - 1).bit_length()
        parameters: list[Any] = []
        for lane in some:
            most = allowance.most(lane[0], limit)
            parameters += (unit.namespace, *lane, *ranks, most)
        parameters += (unit.namespace, -1, -1, 0, 0, 0, 0) * (count - len(some))  # of no queue
        candidates += unit.connection.execute(FIRST_OF[count], (*parameters, enough)).fetchall()
    candidates.sort()
    given: list[Candidate] = []
    for candidate in candidates:
        if len(given) == limit:
            break
        if allowance.lets(candidate):
            allowance.took(candidate)
            given.append(candidate)
    return given
