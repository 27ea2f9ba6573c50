"""Claims: what is due becomes queued, and the first of a worker's lanes are given to it."""

from __future__ import annotations

import heapq
from copy import copy

from msgspec.structs import replace

from perdure.model import lifecycle, queues
from perdure.model.changes import ChangeKind
from perdure.model.records import Micros, Rank, RunRecord, WaitKind
from perdure.model.transitions import Claim, Claimed, ClaimedRun
from perdure.stores.memory.reads import endings
from perdure.stores.memory.ready import Gate, Heap, Place, place_of
from perdure.stores.memory.schedules import next_fire_at
from perdure.stores.memory.space import Row, Space, WorkerRow


class Allowance:
    """What the limits of queues and keys leave room for, while one claim gives runs away.

    Attributes:
        next_start_at: when a rate next allows a start that was refused.
    """

    def __init__(self, space: Space, now: Micros) -> None:
        self.space = space
        self.now = now
        self.next_start_at: Micros | None = None

    def has_room(self, run: RunRecord) -> bool:
        """Tell whether a run that was claimed before may take a slot."""
        gate = self.space.ready.gate(run)
        return self.has_slot(run) and (gate is None or self.has_slot_of_key(run, gate))

    def lets_first(self, lane: Heap[Place]) -> bool:
        """Tell whether the first run of a lane may be claimed now, once those that may not left."""
        while (place := lane.first()) is not None:
            run = self.space.rows[place[-1]].run
            gate = self.space.ready.gate(run)
            if not self.has_slot(run):
                return False
            if gate is None or self.has_slot_of_key(run, gate):
                return True
            self.refused(run, gate)
        return False

    def has_slot(self, run: RunRecord) -> bool:
        """Tell whether the run's queue lets it be claimed now."""
        record = self.space.ready.queues.get(run.queue)
        if record is None:
            return True
        limits = record.limits
        if record.paused_at is not None:
            return False
        if queues.room(limits.concurrency, self.space.ready.running(run.queue)) == 0:
            return False
        if run.rank is Rank.FRESH and limits.rate is not None:
            due_at = record.next_start_at
            if queues.free_starts(limits.rate, due_at, self.now) == 0:
                at = queues.next_start_at(limits.rate, due_at)
                self.next_start_at = min(at, self.next_start_at or at)
                return False
        return True

    def has_slot_of_key(self, run: RunRecord, gate: Gate) -> bool:
        """Tell whether the run's key lets it be claimed now."""
        limits = self.space.ready.limits(run.queue)
        if queues.room(limits.key_concurrency, len(gate.running)) == 0:
            return False
        is_start = run.rank is Rank.FRESH
        return not is_start or queues.free_starts(limits.key_rate, gate.due_at, self.now) != 0

    def took(self, run: RunRecord, gate: Gate | None) -> None:
        """Count a start, where it is one; slots are counted by the runs that are running."""
        limits = self.space.ready.limits(run.queue)
        if run.rank is Rank.FRESH:
            if limits.rate is not None:
                record = self.space.ready.queues[run.queue]
                due_at = queues.due_after(limits.rate, record.next_start_at, self.now, 1)
                self.space.ready.queues[run.queue] = replace(record, next_start_at=due_at)
            if gate is not None and limits.key_rate is not None:
                gate.due_at = queues.due_after(limits.key_rate, gate.due_at, self.now, 1)
        if gate is None or not gate.parked():
            return
        if queues.room(limits.key_concurrency, len(gate.running)) != 0:
            self.space.ready.look_at(gate, self.now)

    def refused(self, run: RunRecord, gate: Gate) -> None:
        """Let a run go back behind its gate, which is looked at when its rate allows a start."""
        gate.park(run)
        rate = self.space.ready.limits(run.queue).key_rate
        if rate is not None and not queues.free_starts(rate, gate.due_at, self.now):
            self.space.ready.look_at(gate, queues.next_start_at(rate, gate.due_at))


def claim(space: Space, asked: Claim, now: Micros) -> Claimed:
    """Give claimable runs to a worker."""
    worker = space.workers.get(asked.worker_id)
    if worker is None:
        return Claimed((), now, space.next_due_at(), suspects=False, known=False)
    space.promote(now)
    space.ready.open_gates(now)
    allowance = Allowance(space, now)
    given = [row for row in worker.held.values() if row.run.grant == asked.token]
    given.sort(key=lambda row: (_comes_behind(row.run, asked), place_of(row.run)))
    runs = tuple(
        _claimed(space, row)
        for row in given or _give_paused(allowance, worker, asked) or _give(allowance, asked)
    )
    suspects = any(map(allowance.lets_first, space.ready.lanes_of(asked, Rank.SUSPECT)))
    dues = [due for due in (space.next_due_at(), allowance.next_start_at) if due is not None]
    next_due_at = min(dues, default=None)
    return Claimed(runs, now, next_due_at, suspects, next_fire_at=next_fire_at(space))


def _comes_behind(run: RunRecord, asked: Claim) -> bool:
    return asked.fresh_first and run.rank is not Rank.FRESH


def _give_paused(allowance: Allowance, worker: WorkerRow, asked: Claim) -> list[Row]:
    """Give paused mismatches that the worker may fit; one that is a suspect is queued."""
    space, now = allowance.space, allowance.now
    versions = worker.record.definitions
    known = {name: versions[name] for name in asked.definitions if name in versions}
    fitting = [
        row
        for row in space.paused.values()
        if row.run.queue in asked.queues and lifecycle.may_refit(row.run, known)
    ]
    fitting.sort(key=lambda row: row.run.seq)
    given: list[Row] = []
    for row in fitting:
        if len(given) == asked.limit:
            break
        if not allowance.has_room(row.run):
            continue
        lifecycle.refit(row.run, now)
        space.feed.note(row.run, ChangeKind.RESUMED, now)
        if row.run.rank is Rank.SUSPECT:
            space.index(row, now)
        else:
            lifecycle.claim(row.run, asked.worker_id, asked.token, now)
            space.moved(row, ChangeKind.CLAIMED, now)
            given.append(row)
    return given


def _give(allowance: Allowance, asked: Claim) -> list[Row]:
    """Give one suspect alone, where that is asked for, or the first of all its lanes."""
    if asked.suspects:
        suspects = _give_from(allowance, (Rank.SUSPECT,), 1, asked)
        if suspects:
            return suspects
    if not asked.fresh_first:
        return _give_from(allowance, (Rank.RESUMED, Rank.FRESH), asked.limit, asked)
    fresh = _give_from(allowance, (Rank.FRESH,), asked.limit, asked)
    return fresh + _give_from(allowance, (Rank.RESUMED,), asked.limit - len(fresh), asked)


def _give_from(
    allowance: Allowance, ranks: tuple[Rank, ...], limit: int, asked: Claim
) -> list[Row]:
    space, now = allowance.space, allowance.now
    lanes = space.ready.lanes_of(asked, *ranks)
    heads = [(place, lane) for lane in lanes if (place := lane.first()) is not None]
    heapq.heapify(heads)  # places are unique, so that lanes are never compared
    given: list[Row] = []
    while heads and len(given) < limit:
        place, lane = heapq.heappop(heads)
        row = space.rows[place[-1]]
        gate = space.ready.gate(row.run)
        if not allowance.has_slot(row.run):
            continue  # nor has any behind it in this lane
        if gate is None or allowance.has_slot_of_key(row.run, gate):
            lifecycle.claim(row.run, asked.worker_id, asked.token, now)
            space.moved(row, ChangeKind.CLAIMED, now)
            allowance.took(row.run, gate)
            given.append(row)
        else:
            allowance.refused(row.run, gate)
        if (behind := lane.first()) is not None:
            heapq.heappush(heads, (behind, lane))
    return given


def _claimed(space: Space, row: Row) -> ClaimedRun:
    checkpoints = tuple(
        checkpoint
        for (generation, _), checkpoint in row.checkpoints.items()
        if generation == row.run.generation
    )
    children = dict.fromkeys(wait.key for wait in row.waits if wait.kind is WaitKind.CHILD)
    return ClaimedRun(copy(row.run), checkpoints, tuple(endings(space, children).values()))
