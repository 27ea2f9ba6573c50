"""The leader: who fires schedules and prunes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perdure.model.leader import (
    NOBODY,
    Lead,
    LeaderRecord,
    Leading,
    LeaveLead,
    NotLeading,
    TakeLead,
    leads,
    may_take,
)
from perdure.model.transitions import Outcome
from perdure.stores.sqlite.names import Names
from perdure.stores.sqlite.rows import SqlRow
from perdure.stores.sqlite.unit import Unit

FIND: Final = "SELECT worker, term, since FROM leader WHERE namespace = ?"

VACANT_TERM: Final = (
    "SELECT CASE WHEN count(worker) THEN NULL ELSE coalesce(max(term), 0) + 1 END"
    " FROM leader WHERE namespace = ?"
)
"""The term that somebody may begin; NULL where a worker leads."""

TAKE: Final = (
    "INSERT INTO leader (namespace, worker, term, since) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (namespace) DO UPDATE SET worker = excluded.worker, term = excluded.term,"
    " since = excluded.since"
)

VACATE: Final = "UPDATE leader SET worker = NULL, since = ? WHERE namespace = ? AND worker = ?"

IS_REGISTERED: Final = "SELECT 1 FROM worker WHERE namespace = ? AND id = ?"


def take(unit: Unit, transition: TakeLead) -> Outcome:
    """Begin a term."""
    number = unit.names.find(transition.worker_id)
    if may_take(_record(unit), transition) and number is not None:
        whose = (unit.namespace, number)
        if unit.connection.execute(IS_REGISTERED, whose).fetchone() is not None:
            unit.connection.execute(TAKE, (*whose, transition.term, unit.now))
    return Leading(_record(unit))


def leave(unit: Unit, transition: LeaveLead) -> Outcome:
    """End a term."""
    if leads(_record(unit), transition.lead):
        vacate(unit, transition.lead.worker_id)
    return Leading(_record(unit))


def vacate(unit: Unit, worker_id: str) -> None:
    """Make the lead vacant, if it is this worker's."""
    number = unit.names.find(worker_id)
    if unit.connection.execute(VACATE, (unit.now, unit.namespace, number)).rowcount:
        unit.hint = True


def refused(unit: Unit, lead: Lead | None) -> NotLeading | None:
    """Return the answer to what carries a lead that is over; None where it may be done."""
    if lead is None:
        return None
    record = _record(unit)
    return None if leads(record, lead) else NotLeading(record)


def record_of(found: Sequence[SqlRow], names: Names) -> LeaderRecord:
    """Read what FIND found."""
    if not found:
        return NOBODY
    worker, term, since = found[0]
    return LeaderRecord(None if worker is None else names.texts[worker], term, since)


def _record(unit: Unit) -> LeaderRecord:
    found = unit.connection.execute(FIND, (unit.namespace,)).fetchall()
    return record_of(found, unit.names)
