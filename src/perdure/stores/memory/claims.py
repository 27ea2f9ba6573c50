"""Claims: what is due becomes queued, and the first of a worker's lanes are given to it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from copy import copy

from perdure.model import lifecycle
from perdure.model.records import Micros, Rank, WaitKind
from perdure.model.transitions import Claim, Claimed, ClaimedRun
from perdure.stores.memory.reads import endings
from perdure.stores.memory.schedules import next_fire_at
from perdure.stores.memory.space import Heap, Place, Row, Space, WorkerRow, place_of


def claim(space: Space, asked: Claim, now: Micros) -> Claimed:
    """Give claimable runs to a worker."""
    worker = space.workers.get(asked.worker_id)
    if worker is None:
        return Claimed((), now, space.next_due_at(), suspects=False, known=False)
    space.promote(now)
    given = [row for row in worker.held.values() if row.run.grant == asked.token]
    given.sort(key=lambda row: place_of(row.run))
    runs = tuple(
        _claimed(space, row)
        for row in given or _give_paused(space, worker, asked, now) or _give(space, asked, now)
    )
    suspects = any(lane.first() for lane in space.lanes_of(asked, suspect=True))
    return Claimed(runs, now, space.next_due_at(), suspects, next_fire_at=next_fire_at(space))


def _give_paused(space: Space, worker: WorkerRow, asked: Claim, now: Micros) -> list[Row]:
    """Give paused mismatches that the worker may fit; one that is a suspect is queued."""
    versions = worker.record.definitions
    known = {name: versions[name] for name in asked.definitions if name in versions}
    fitting = [
        row
        for row in space.paused.values()
        if row.run.queue in asked.queues and lifecycle.may_refit(row.run, known)
    ]
    fitting.sort(key=lambda row: row.run.seq)
    given: list[Row] = []
    for row in fitting[: asked.limit]:
        lifecycle.refit(row.run, now)
        if row.run.rank is not Rank.SUSPECT:
            lifecycle.claim(row.run, asked.worker_id, asked.token, now)
            given.append(row)
        space.index(row, now)
    return given


def _give(space: Space, asked: Claim, now: Micros) -> list[Row]:
    """Give one suspect alone, where that is asked for, or the first of all its lanes."""
    if asked.suspects:
        suspects = _give_from(space, space.lanes_of(asked, suspect=True), 1, asked, now)
        if suspects:
            return suspects
    return _give_from(space, space.lanes_of(asked, suspect=False), asked.limit, asked, now)


def _give_from(
    space: Space, lanes: Iterable[Heap[Place]], limit: int, asked: Claim, now: Micros
) -> list[Row]:
    heads = [(place, lane) for lane in lanes if (place := lane.first()) is not None]
    heapq.heapify(heads)  # places are unique, so that lanes are never compared
    given: list[Row] = []
    while heads and len(given) < limit:
        place, lane = heapq.heappop(heads)
        row = space.rows[place[-1]]
        lifecycle.claim(row.run, asked.worker_id, asked.token, now)
        space.index(row, now)
        given.append(row)
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
