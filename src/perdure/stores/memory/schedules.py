"""Schedules: putting them, and firing each instant once."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from perdure.model.leader import NotLeading
from perdure.model.records import Micros
from perdure.model.schedules import (
    MOST_FIRES,
    STARTS,
    Fire,
    Fired,
    FireSchedule,
    Overdue,
    Passed,
    PauseSchedule,
    PutSchedule,
    RemoveSchedule,
    ResumeSchedule,
    Scheduled,
    ScheduleRecord,
    Unscheduled,
    fired_run,
    is_what_passed,
    loses_instants,
    may_fire,
)
from perdure.model.transitions import start_of
from perdure.stores.memory.leader import refused
from perdure.stores.memory.runs import create
from perdure.stores.memory.space import Space


def put(space: Space, asked: PutSchedule, now: Micros) -> Scheduled | Overdue:
    """Create a schedule, or change what it says."""
    schedule = asked.schedule
    known = space.schedules.get(schedule.key)
    if known is None:
        record = ScheduleRecord(schedule, 0, now, now, asked.next_at)
    elif known.schedule == schedule:
        return Scheduled(known)
    else:
        same = known.schedule.timing == schedule.timing
        if not same:
            if loses_instants(known, asked, now):
                return Overdue(known)
            known = _skip(space, known, asked.skipped, now)
        record = replace(
            known,
            schedule=schedule,
            revision=known.revision + 1,
            updated_at=now,
            next_at=known.next_at if same else asked.next_at,
        )
    space.hint = True
    space.schedules[schedule.key] = record
    return Scheduled(record)


def remove(space: Space, asked: RemoveSchedule, now: Micros) -> Unscheduled:  # noqa: ARG001  # of one shape
    """Forget a schedule and what became of its instants."""
    space.schedules.pop(asked.key, None)
    space.fires.pop(asked.key, None)
    return Unscheduled(asked.key)


def pause(space: Space, asked: PauseSchedule, now: Micros) -> Scheduled | Unscheduled:
    """Fire nothing until it is resumed."""
    record = space.schedules.get(asked.key)
    if record is None:
        return Unscheduled(asked.key)
    if record.paused_at is None:
        record = space.schedules[asked.key] = replace(record, paused_at=now, updated_at=now)
    return Scheduled(record)


def resume(space: Space, asked: ResumeSchedule, now: Micros) -> Scheduled | Unscheduled:
    """Fire again; what passed meanwhile is noted."""
    record = space.schedules.get(asked.key)
    if record is None:
        return Unscheduled(asked.key)
    if record.paused_at is not None and record.next_at == asked.expected:
        record = _skip(space, record, asked.skipped, now)
        record = replace(record, paused_at=None, updated_at=now, next_at=asked.next_at)
        space.schedules[asked.key] = record
        space.hint = True
    return Scheduled(record)


def fire(
    space: Space, asked: FireSchedule, now: Micros
) -> Fired | Passed | Unscheduled | NotLeading:
    """Fire an instant, and move on to the next."""
    if (refusal := refused(space, asked.lead)) is not None:
        return refusal
    record = space.schedules.get(asked.key)
    if record is None:
        return Unscheduled(asked.key)
    if not may_fire(record, asked, now):
        return Passed(record)
    started: list[str] = []
    noted: list[Fire] = []
    for each in asked.fires:
        run_id = None
        if each.outcome in STARTS:
            run_id, _ = fired_run(asked.key, each.expected)
            create(space, start_of(record.schedule, each.expected), now)
            started.append(run_id)
        noted.append(replace(each, run_id=run_id))
    _note(space, asked.key, noted, now)
    last_at = max((each.until for each in noted), default=record.last_at)
    space.schedules[asked.key] = replace(
        record, next_at=asked.next_at, last_at=last_at, updated_at=now
    )
    return Fired(tuple(started))


def _skip(
    space: Space, record: ScheduleRecord, skipped: Fire | None, now: Micros
) -> ScheduleRecord:
    """Note what passed without being fired, where it begins with the next instant."""
    if skipped is None or not is_what_passed(record, skipped, now):
        return record
    _note(space, record.schedule.key, (skipped,), now)
    return replace(record, last_at=skipped.until)


def _note(space: Space, key: str, fires: Iterable[Fire], now: Micros) -> None:
    kept = space.fires.setdefault(key, [])
    kept += [replace(each, at=now) for each in fires]
    del kept[:-MOST_FIRES]


# --- reads ---------------------------------------------------------------------------------------


def schedules(space: Space, due_by: Micros | None) -> list[ScheduleRecord]:
    """Return the schedules, in the order of their keys."""
    records = [space.schedules[key] for key in sorted(space.schedules)]
    return records if due_by is None else [one for one in records if _is_due(one, due_by)]


def _is_due(record: ScheduleRecord, by: Micros) -> bool:
    return record.paused_at is None and record.next_at is not None and record.next_at <= by


def fires(space: Space, key: str, limit: int) -> list[Fire]:
    """Return what became of the instants of a schedule, newest first."""
    return list(reversed(space.fires.get(key, ())))[:limit]


def next_fire_at(space: Space) -> Micros | None:
    """Return the earliest next instant of a schedule that is not paused."""
    nexts = (record.next_at for record in space.schedules.values() if record.paused_at is None)
    return min((at for at in nexts if at is not None), default=None)
