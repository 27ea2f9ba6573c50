"""Why a schedule does not fire, or nothing comes of it: one sentence, and the facts behind it.

It reads the schedule, who leads, the workers that are registered and what became of the newest
instants, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Self

import msgspec

from perdure._runtime.words import are, count, listed, where
from perdure.clock import to_datetime
from perdure.duration import format_micros
from perdure.model.leader import LeaderRecord
from perdure.model.records import Micros, WorkerRecord
from perdure.model.schedules import STARTS, Fire, ScheduleRecord
from perdure.store import Store


class ScheduleWhy(msgspec.Struct, frozen=True):
    """Why a schedule stands as it does.

    Args:
        key: which schedule.
        cause: what it is, for programs: ``ended``, ``paused``, ``no_worker``,
            ``only_silent_workers``, ``no_leader``, ``silent_leader``, ``no_capable_worker``,
            ``due``, ``next``.
        sentence: the same for people, with who and until when.
        holder: the worker that leads, or those that could have; empty for none.
        until: when it fires next, if it does by itself.
    """

    key: str
    cause: str
    sentence: str
    holder: tuple[str, ...] = ()
    until: datetime | None = None

    def __str__(self) -> str:
        return self.sentence


class _View(msgspec.Struct, frozen=True):
    """What there is to judge by; ``silent`` are workers whose lease has run out."""

    record: ScheduleRecord
    leader: LeaderRecord
    live: tuple[WorkerRecord, ...]
    silent: tuple[WorkerRecord, ...]
    newest: Fire | None
    now: Micros

    @classmethod
    async def of(cls, store: Store, record: ScheduleRecord) -> Self:
        leader = await store.leader()
        workers = await store.workers()
        newest = await store.fires(record.schedule.key, 1)
        now = await store.now()
        return cls(
            record,
            leader,
            tuple(one for one in workers if now - one.beat_at <= one.lease),
            tuple(one for one in workers if now - one.beat_at > one.lease),
            newest[0] if newest else None,
            now,
        )

    def ago(self, since: Micros) -> str:
        return format_micros(max(0, self.now - since) // 1_000 * 1_000)

    @property
    def is_due(self) -> bool:
        return self.record.next_at is not None and self.record.next_at <= self.now


async def why(store: Store, key: str) -> ScheduleWhy | None:
    """Return why a schedule does not fire; None where there is none of that key."""
    for record in await store.schedules():
        if record.schedule.key == key:
            return _judge(await _View.of(store, record))
    return None


def _judge(view: _View) -> ScheduleWhy:
    """Return the first of what is in the way: of its firing, then of its runs."""
    record = view.record
    if record.next_at is None:
        last = "" if record.last_at is None else f" after {_time(record.last_at)}"
        return _say(view, "ended", f"has no instant any more{last}; it never fires again")
    if record.paused_at is not None:
        return _paused(view, record.paused_at)
    return _nobody_fires(view) or _nobody_executes(view) or _fires(view)


def _paused(view: _View, since: Micros) -> ScheduleWhy:
    passed = ""
    if view.is_due:
        passed = f"; what has passed since {_time(view.record.next_at or 0)} will be skipped"
    return _say(
        view,
        "paused",
        f"was paused by hand {view.ago(since)} ago; perdure schedule resume "
        f"{view.record.schedule.key} lets it go on{passed}",
    )


# --- nobody fires ------------------------------------------------------------------------------


def _nobody_fires(view: _View) -> ScheduleWhy | None:
    if not view.live:
        return _nobody_lives(view)
    if view.leader.worker_id is None:
        return _nobody_leads(view)
    silent = next((one for one in view.silent if one.worker_id == view.leader.worker_id), None)
    if silent is None:
        return None
    return _say(
        view,
        "silent_leader",
        f"{_when(view)}, and {where(silent)}, which leads, gave no sign of life for "
        f"{view.ago(silent.beat_at)}; another one that may takes over, and there "
        f"{are(len(view.live), 'live worker')}",
        [silent.worker_id],
    )


def _nobody_lives(view: _View) -> ScheduleWhy:
    if not view.silent:
        return _say(
            view,
            "no_worker",
            f"{_when(view)}, and no worker is there that fires it; start one",
        )
    names = [one.worker_id for one in view.silent]
    last = view.ago(max(one.beat_at for one in view.silent))
    return _say(
        view,
        "only_silent_workers",
        f"{_when(view)}, and no worker lives that fires it: the last sign of life of "
        f"{'worker' if len(names) == 1 else 'workers'} {listed(names)} was {last} ago; start one",
        names,
    )


def _nobody_leads(view: _View) -> ScheduleWhy:
    names = [one.worker_id for one in view.live]
    lately = f" for {view.ago(view.leader.since)}" if view.leader.term else ""
    return _say(
        view,
        "no_leader",
        f"{_when(view)}, and nobody has led{lately}: unless one of the "
        f"{count(len(names), 'live worker')} takes the lead within a second, all are "
        "Worker(scheduler=False); start another worker, or perdure scheduler",
        names,
    )


# --- it fires ----------------------------------------------------------------------------------


def _nobody_executes(view: _View) -> ScheduleWhy | None:
    name = view.record.schedule.definition
    if any(name in worker.definitions for worker in view.live):
        return None
    known = sorted({name for worker in view.live for name in worker.definitions})
    have = f"they have {listed(known)}" if known else "they have none"
    return _say(
        view,
        "no_capable_worker",
        f"{_when(view)}, and none of the {count(len(view.live), 'live worker')} has the "
        f"definition {name!r}, so its runs stay queued; {have}",
        _leader(view),
        view.record.next_at,
    )


def _fires(view: _View) -> ScheduleWhy:
    at = view.record.next_at
    if not view.is_due:
        return _say(view, "next", f"{_when(view)}{_before(view)}", _leader(view), at)
    leader = next((one for one in view.live if one.worker_id == view.leader.worker_id), None)
    whom = "the worker that leads" if leader is None else f"{where(leader)}, which leads,"
    return _say(view, "due", f"{_when(view)}; the next look of {whom} fires it", _leader(view), at)


def _before(view: _View) -> str:
    """Return what became of the newest instant, which may be what somebody asks for."""
    fire = view.newest
    if fire is None:
        return "; nothing has become of an instant yet"
    if fire.outcome in STARTS:
        return f"; the last one, {_time(fire.until)}, started run {fire.run_id} ({fire.outcome})"
    several = f" the last of {fire.count}," if fire.count > 1 else ""
    return f"; the last one, {_time(fire.until)},{several} was {fire.outcome}"


# --- words -------------------------------------------------------------------------------------


def _say(
    view: _View,
    cause: str,
    sentence: str,
    holder: Sequence[str] = (),
    until: Micros | None = None,
) -> ScheduleWhy:
    schedule = view.record.schedule
    whole = f"schedule {schedule.key} of {schedule.definition!r} {sentence}"
    return ScheduleWhy(
        schedule.key, cause, whole, tuple(holder), None if until is None else to_datetime(until)
    )


def _when(view: _View) -> str:
    next_at = view.record.next_at or 0
    if view.is_due:
        return f"is due since {_time(next_at)}, for {view.ago(next_at)}"
    left = format_micros((next_at - view.now) // 1_000 * 1_000)
    return f"fires next at {_time(next_at)}, in {left}"


def _leader(view: _View) -> list[str]:
    return [] if view.leader.worker_id is None else [view.leader.worker_id]


def _time(at: Micros) -> str:
    return to_datetime(at).isoformat(timespec="seconds")
