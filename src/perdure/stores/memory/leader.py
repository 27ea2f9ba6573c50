"""The leader: who fires schedules and prunes."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.model.leader import (
    Lead,
    LeaderRecord,
    Leading,
    LeaveLead,
    NotLeading,
    TakeLead,
    leads,
    may_take,
)
from perdure.model.records import Micros
from perdure.stores.memory.space import Space


def take(space: Space, asked: TakeLead, now: Micros) -> Leading:
    """Begin a term."""
    if may_take(space.leader, asked) and asked.worker_id in space.workers:
        space.leader = LeaderRecord(asked.worker_id, asked.term, now)
    return Leading(space.leader)


def leave(space: Space, asked: LeaveLead, now: Micros) -> Leading:
    """End a term."""
    if leads(space.leader, asked.lead):
        vacate(space, asked.lead.worker_id, now)
    return Leading(space.leader)


def vacate(space: Space, worker_id: str, now: Micros) -> None:
    """Make the lead vacant, if it is this worker's."""
    if space.leader.worker_id == worker_id:
        space.leader = replace(space.leader, worker_id=None, since=now)
        space.hint = True


def refused(space: Space, lead: Lead | None) -> NotLeading | None:
    """Return the answer to what carries a lead that is over; None where it may be done."""
    return None if lead is None or leads(space.leader, lead) else NotLeading(space.leader)
