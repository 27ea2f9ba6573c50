"""Schedules: what is started again and again, and that each instant is fired once.

The store keeps of a schedule its next instant. Firing is one transition that is guarded by that
instant: it starts the run, notes what became of the instant, and moves on to the next, together.
So any number of workers may try, and one succeeds; nothing is lost or repeated with a worker, a
leader (:mod:`perdure.model.leader`) or a clock. Which instants a timetable has is computed by
whoever fires (:mod:`perdure.cron`); when one has come is for the store's clock.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b

import msgspec

from perdure.ids import derived_id
from perdure.model.leader import Lead
from perdure.model.records import Micros
from perdure.timing import Missed, Timing


class FireOutcome(StrEnum):
    """What became of an expected instant.

    ``on_time`` and ``late`` were fired; ``caught_up`` was fired by the policy ``all`` though newer
    ones had come; ``missed`` was not, because a newer one was fired in its place; ``skipped`` was
    not, by policy or because the schedule was paused.
    """

    ON_TIME = "on_time"
    LATE = "late"
    CAUGHT_UP = "caught_up"
    MISSED = "missed"
    SKIPPED = "skipped"


STARTS = frozenset({FireOutcome.ON_TIME, FireOutcome.LATE, FireOutcome.CAUGHT_UP})
"""The outcomes that start a run."""


class Schedule(msgspec.Struct, frozen=True, gc=False):
    """What a schedule says.

    Args:
        key: unique in its namespace.
        timing: when.
        definition, input, version, queue, priority, meta, options, tags, limit_key, retention: of
            the runs, as in ``CreateRun``.
        missed: what becomes of instants that nobody fired.
        from_code: it was declared with its definition, rather than by a call.
    """

    key: str
    timing: Timing
    definition: str
    input: bytes
    version: str = ""
    queue: str = "default"
    priority: int = 0
    meta: bytes | None = None
    options: bytes | None = None
    tags: tuple[str, ...] = ()
    missed: Missed = Missed.ONCE
    from_code: bool = False
    limit_key: str | None = None
    retention: Micros | None = None


class ScheduleRecord(msgspec.Struct, frozen=True, gc=False):
    """A schedule as it is kept.

    Args:
        schedule: what it says.
        revision: rises with each change of what it says.
        created_at, updated_at: when it was first put, and last changed or fired.
        next_at: the next instant, which may have passed; None where there is none any more.
        last_at: the newest instant that something became of.
        paused_at: since when it is paused.
    """

    schedule: Schedule
    revision: int
    created_at: Micros
    updated_at: Micros
    next_at: Micros | None
    last_at: Micros | None = None
    paused_at: Micros | None = None


class Fire(msgspec.Struct, frozen=True, gc=False):
    """What became of one expected instant, or of several in a row that had the same fate.

    Args:
        expected: the first of them.
        outcome: of each.
        until: the last of them.
        count: how many they are.
        at: when that was noted, by the store's clock.
        run_id: of the run that was started.
    """

    expected: Micros
    outcome: FireOutcome
    until: Micros
    count: int = 1
    at: Micros = 0
    run_id: str | None = None


MOST_FIRES = 1_000
"""Of each schedule so many rows of what became of its instants are kept."""

# --- transitions ---------------------------------------------------------------------------------


class PutSchedule(msgspec.Struct, frozen=True, gc=False):
    """Create a schedule, or change what it says.

    Key: ``schedule.key``: the same again changes nothing. Another content replaces what was there
    and raises the revision. The next instant is kept where the timing is the same, so that an
    overdue one survives; otherwise, and for a new one, it becomes ``next_at``. A pause stands.
    Guard: where the timing is another and the next instant has come, ``skipped`` is what passed of
    the old one, from that instant on; it is kept as a row. So no change loses an instant.
    Answers: Scheduled · Overdue.
    """

    schedule: Schedule
    next_at: Micros | None
    skipped: Fire | None = None


class RemoveSchedule(msgspec.Struct, frozen=True, gc=False):
    """Forget a schedule and what became of its instants; its runs stand. Idempotent as it is.

    Answers: Unscheduled.
    """

    key: str


class PauseSchedule(msgspec.Struct, frozen=True, gc=False):
    """Fire nothing until it is resumed. Idempotent as it is. Answers: Scheduled · Unscheduled."""

    key: str


class ResumeSchedule(msgspec.Struct, frozen=True, gc=False):
    """Fire again, from ``next_at`` on; ``skipped`` is what passed meanwhile.

    Guard: it is paused, and its next instant is ``expected``; otherwise nothing changes.
    Answers: Scheduled (as it is now) · Unscheduled.
    """

    key: str
    expected: Micros | None
    next_at: Micros | None
    skipped: Fire | None = None


class FireSchedule(msgspec.Struct, frozen=True, gc=False):
    """Fire an instant of a schedule, and move on to the next.

    Key and guard: the schedule's next instant is ``expected`` (so it is fired once), its revision
    is ``revision``, it is not paused, and ``expected`` has come by the store's clock.
    For each of ``fires`` whose outcome starts a run, one is created as the schedule says, with the
    id ``derived_id("schedule", key, instant)`` and caused by the schedule and the instant; where a
    run of that id is there already (a backfill), it is left alone. Each fire is kept as a row.
    Where ``lead`` is given, it is the present one: that is looked at before anything else.
    Answers: Fired · Passed (the guard does not hold) · Unscheduled · NotLeading.
    """

    key: str
    revision: int
    expected: Micros
    next_at: Micros | None
    fires: tuple[Fire, ...]
    lead: Lead | None = None


# --- answers -------------------------------------------------------------------------------------


class Scheduled(msgspec.Struct, frozen=True, gc=False):
    """The schedule as it is now."""

    record: ScheduleRecord


class Overdue(msgspec.Struct, frozen=True, gc=False):
    """What passed of its old timing was not told; nothing was changed."""

    record: ScheduleRecord


class Unscheduled(msgspec.Struct, frozen=True, gc=False):
    """There is no schedule of that key (any more)."""

    key: str


class Fired(msgspec.Struct, frozen=True, gc=False):
    """The instant was fired by this transition. ``run_ids``: what was started."""

    run_ids: tuple[str, ...] = ()


class Passed(msgspec.Struct, frozen=True, gc=False):
    """It was fired before, the schedule was changed or paused, or it is too early."""

    record: ScheduleRecord


# --- what any store does the same ----------------------------------------------------------------


def cause_of_firing(key: str, instant: Micros) -> str:
    """Return the ``caused_by`` of the run that a schedule starts for an instant."""
    return f"schedule:{key}@{instant}"


def fired_run(key: str, instant: Micros) -> tuple[str, int]:
    """Return the id and the create token of the run that a schedule starts for an instant."""
    run_id = derived_id("schedule", key, str(instant))
    digest = blake2b(run_id.encode(), digest_size=8).digest()
    return run_id, (int.from_bytes(digest, "big") >> 1) or 1


def is_what_passed(record: ScheduleRecord, skipped: Fire | None, now: Micros) -> bool:
    """Tell whether this is what has passed of a schedule, from its next instant on."""
    return skipped is not None and skipped.expected == record.next_at and skipped.expected <= now


def loses_instants(record: ScheduleRecord, asked: PutSchedule, now: Micros) -> bool:
    """Tell whether another timing would lose what has passed of the old one."""
    has_come = record.next_at is not None and record.next_at <= now
    return has_come and not is_what_passed(record, asked.skipped, now)


def may_fire(record: ScheduleRecord, asked: FireSchedule, now: Micros) -> bool:
    """Tell whether the guard of a firing holds."""
    return (
        record.paused_at is None
        and record.next_at == asked.expected
        and record.revision == asked.revision
        and asked.expected <= now
    )
