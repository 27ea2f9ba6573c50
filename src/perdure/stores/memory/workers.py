"""Transitions of workers: register, heartbeat, retire, rescue, give back."""

from __future__ import annotations

from copy import copy

from msgspec.structs import replace

from perdure.model import lifecycle
from perdure.model.changes import ChangeKind, how_left
from perdure.model.records import TERMINAL, Micros, WorkerRecord
from perdure.model.transitions import (
    Beaten,
    GiveBack,
    Heartbeat,
    RegisterWorker,
    Rescued,
    RescueWorker,
    RetireWorker,
)
from perdure.stores.memory.leader import vacate
from perdure.stores.memory.space import Row, Space, WorkerRow


def register(space: Space, asked: RegisterWorker, now: Micros) -> Beaten:
    """Announce a worker."""
    if asked.worker_id not in space.workers:
        space.workers[asked.worker_id] = WorkerRow(
            WorkerRecord(
                worker_id=asked.worker_id,
                host=asked.host,
                pid=asked.pid,
                definitions=dict(asked.definitions),
                queues=asked.queues,
                slots=asked.slots,
                started_at=now,
                beat_at=now,
                beat=0,
                lease=asked.lease,
                heartbeat=asked.heartbeat,
                cleans=asked.cleans,
                earlier=asked.earlier,
                pinning=asked.pinning,
            )
        )
    return _beaten(space, asked.worker_id)


def heartbeat(space: Space, asked: Heartbeat, now: Micros) -> Beaten:
    """Raise a worker's beat."""
    worker = space.workers.get(asked.worker_id)
    if worker is not None:
        worker.record = replace(worker.record, beat=worker.record.beat + 1, beat_at=now)
    return _beaten(space, asked.worker_id)


def retire(space: Space, asked: RetireWorker, now: Micros) -> Rescued:
    """Remove a worker that stops in order, and queue what it still held."""
    worker = space.workers.get(asked.worker_id)
    if worker is None:
        return Rescued()
    rescued = _take_back(space, worker, worker.in_order(), now)
    _remove(space, asked.worker_id, now)
    return rescued


def give_back(space: Space, asked: GiveBack, now: Micros) -> Rescued:
    """Queue what the store thinks a worker holds and it does not."""
    worker = space.workers.get(asked.worker_id)
    if worker is None:
        return Rescued()
    known = set(asked.held)
    rows = worker.in_order()
    unknown = [row for row in rows if (row.run.run_id, row.run.epoch) not in known]
    return _take_back(space, worker, unknown, now)


def rescue(space: Space, asked: RescueWorker, now: Micros) -> Rescued:
    """Give back what a dead worker held, and remove the worker."""
    worker = space.workers.get(asked.worker_id)
    if worker is None or asked.beat not in {None, worker.record.beat}:
        return Rescued()
    rows = worker.in_order()
    for row in rows:
        row.attempts.append(lifecycle.attempt_row(row.run, "crashed", asked.error, now))
        progressed = any(
            checkpoint.epoch == row.run.epoch for checkpoint in row.checkpoints.values()
        )
        space.release(row.run)
        cleans = row.run.definition in worker.record.cleans
        before = copy(row.run)
        lifecycle.rescue(row.run, asked, progressed=progressed, cleans=cleans, now=now)
        if lifecycle.begins_anew(before, row.run):
            space.set_waits(row, ())
        space.moved(row, how_left(before, row.run, ChangeKind.RESCUED), now)
    _remove(space, asked.worker_id, now)
    return _rescued(rows)


def _remove(space: Space, worker_id: str, now: Micros) -> None:
    del space.workers[worker_id]
    vacate(space, worker_id, now)


def _beaten(space: Space, worker_id: str) -> Beaten:
    worker = space.workers.get(worker_id)
    if worker is None:
        return Beaten(known=False, beat=0, held=0)
    controls = tuple(
        (row.run.run_id, row.run.control) for row in worker.in_order() if row.run.control
    )
    return Beaten(True, worker.record.beat, len(worker.held), controls)


def _take_back(space: Space, worker: WorkerRow, rows: list[Row], now: Micros) -> Rescued:
    for row in rows:
        space.release(row.run)
        before = copy(row.run)
        lifecycle.take_back(row.run, now, cleans=row.run.definition in worker.record.cleans)
        if lifecycle.begins_anew(before, row.run):
            space.set_waits(row, ())
        space.moved(row, how_left(before, row.run, ChangeKind.RELEASED), now)
    return _rescued(rows)


def _rescued(rows: list[Row]) -> Rescued:
    ended = [row.run.run_id for row in rows if row.run.status in TERMINAL]
    queued = [row.run.run_id for row in rows if row.run.status not in TERMINAL]
    return Rescued(tuple(queued), tuple(ended))
