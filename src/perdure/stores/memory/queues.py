"""Queues: their limits, their pauses, and what is kept of them."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.model.queues import PauseQueue, PutQueue, QueueKept, QueueRecord, ResumeQueue
from perdure.model.records import Micros
from perdure.stores.memory.space import Space


def put(space: Space, asked: PutQueue, now: Micros) -> QueueKept:
    """Set the limits of a queue."""
    record = replace(_record(space, asked.queue), limits=asked.limits)
    return _keep(space, record, now)


def pause(space: Space, asked: PauseQueue, now: Micros) -> QueueKept:
    """Claim nothing of a queue until it is resumed."""
    record = _record(space, asked.queue)
    if record.paused_at is None:
        record = replace(record, paused_at=now)
    return _keep(space, record, now)


def resume(space: Space, asked: ResumeQueue, now: Micros) -> QueueKept:
    """Claim of a queue again."""
    return _keep(space, replace(_record(space, asked.queue), paused_at=None), now)


def queues(space: Space) -> list[QueueRecord]:
    """Return the queues of which something is kept, in the order of their names."""
    return [space.ready.queues[name] for name in sorted(space.ready.queues)]


def _record(space: Space, queue: str) -> QueueRecord:
    return space.ready.queues.get(queue) or QueueRecord(queue)


def _keep(space: Space, record: QueueRecord, now: Micros) -> QueueKept:
    if record != space.ready.queues.get(record.queue):
        space.ready.queues[record.queue] = record
        space.ready.look_at_all(record.queue, now)
        space.hint = True
    return QueueKept(record)
