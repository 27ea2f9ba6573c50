"""Why a run is not moving: one sentence, and the facts behind it.

It reads what any store keeps, the run's history and the workers that are registered, and changes
nothing. What only the process that executes a run could tell (a body blocked in foreign I/O) is
not here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Self

import msgspec
from msgspec.structs import replace

from perdure._runtime.words import MOST_NAMED, are, count, listed, where
from perdure.clock import to_datetime
from perdure.codec.failures import shown_error
from perdure.duration import format_micros
from perdure.model.lifecycle import SUSPECT_AFTER
from perdure.model.queues import Limits, Rate, next_start_at
from perdure.model.records import (
    TERMINAL,
    Control,
    History,
    Micros,
    RunQuery,
    RunRecord,
    Status,
    StepOutcome,
    Undoing,
    WaitKind,
    WorkerRecord,
)
from perdure.model.versions import versions_of
from perdure.store import Store


class Why(msgspec.Struct, frozen=True):
    """Why a run stands as it does.

    Args:
        run_id: which run.
        cause: what it is, for programs: ``ended``, ``replaced``, ``executing``, ``silent_worker``,
            ``no_worker``, ``only_silent_workers``, ``no_capable_worker``, ``version``,
            ``queue_not_served``,
            ``queue_paused``, ``queue_full``, ``key_full``, ``rate``, ``key_rate``,
            ``workers_full``, ``suspect``, ``claimable``, ``delay``, ``retry``, ``sleep``,
            ``child``, ``event``, ``due``, ``mismatch``, ``paused``, ``damaged``.
        sentence: the same for people, with who and until when.
        holder: who or what it waits for: a worker's id, runs' ids, a step's path, a version; empty
            for none.
        until: when that ends by itself, if it does.
    """

    run_id: str
    cause: str
    sentence: str
    holder: tuple[str, ...] = ()
    until: datetime | None = None

    def __str__(self) -> str:
        return self.sentence


class _View(msgspec.Struct, frozen=True):
    """What there is to judge by.

    ``live`` are the workers whose lease has not run out, ``silent`` those that are still
    registered although theirs has: nobody was there to rescue what they held.
    """

    history: History
    live: tuple[WorkerRecord, ...]
    silent: tuple[WorkerRecord, ...]
    now: Micros

    @classmethod
    def of(cls, history: History, workers: Sequence[WorkerRecord], now: Micros) -> Self:
        workers = [one for one in workers if one.slots]  # a scheduler alone executes nothing
        is_silent = [now - worker.beat_at > worker.lease for worker in workers]
        return cls(
            history,
            tuple(one for one, silent in zip(workers, is_silent, strict=True) if not silent),
            tuple(one for one, silent in zip(workers, is_silent, strict=True) if silent),
            now,
        )

    @property
    def run(self) -> RunRecord:
        return self.history.run

    def ago(self, since: Micros | None) -> str:
        return format_micros(max(0, self.now - (since or self.now)) // 1_000 * 1_000)

    def left(self, until: Micros) -> str:
        return format_micros(max(0, until - self.now) // 1_000 * 1_000)


async def why(store: Store, run_id: str) -> Why | None:
    """Return why a run is not moving; None where there is no such run."""
    history = await store.history(run_id)
    if history is None:
        return None
    view = _View.of(history, await store.workers(), await store.now())
    match view.run.status:
        case Status.QUEUED:
            return await _queued(store, view)
        case Status.RUNNING:
            return _running(view)
        case Status.WAITING:
            return await _waiting(store, view)
        case Status.PAUSED:
            return _paused(view)
        case _:
            return await _ended(store, view)


def _say(
    view: _View,
    cause: str,
    sentence: str,
    holder: Sequence[str] = (),
    until: Micros | None = None,
) -> Why:
    whole = f"run {view.run.run_id} of {view.run.definition!r} {sentence}{_undoing(view)}"
    ends = None if until is None else to_datetime(until)
    return Why(view.run.run_id, cause, whole, tuple(holder), ends)


def _undoing(view: _View) -> str:
    """Return what is added where a run undoes what it did before it ends."""
    run = view.run
    if run.status in TERMINAL or run.undoing is Undoing.NONE:
        return ""
    if run.undoing is Undoing.FAILURE:
        return "; it undoes what it did, because it failed"
    because = _because(_replaced_by(view), run)
    return f"; it was cancelled{because}, and does what is to be done before it ends"


# --- not moving any more -----------------------------------------------------------------------


async def _ended(store: Store, view: _View) -> Why:
    run = view.run
    reason = f" ({run.reason})" if run.reason else ""
    error = f": {_error(run)}" if run.error else ""
    ended = f"is {run.status}{reason}{error}, {view.ago(run.finished_at)} ago"
    if run.status is Status.CANCELLED and (by := _replaced_by(view)) is not None:
        return _say(view, "replaced", f"{ended}{_because(by, run)}", [by])
    parent = None if run.parent_id is None else await store.get(run.parent_id)
    if parent is None or parent.status is Status.COMPLETED:
        return _say(view, "ended", ended)
    return _say(
        view,
        "ended",
        f"{ended}; whatever its retention, it is kept for its parent {parent.run_id}, which is "
        f"{parent.status} and may ask for it until it is completed",
        [parent.run_id],
    )


def _replaced_by(view: _View) -> str | None:
    """Return the run that took the place of a run and had it cancelled, if one did."""
    is_replaced = any(entry.action == "replace" for entry in view.history.audit)
    return view.run.key_passed_to if is_replaced else None


def _because(replaced_by: str | None, run: RunRecord) -> str:
    if replaced_by is None:
        return ""
    return f", because run {replaced_by} replaced it under its unique_key {run.unique_key!r}"


def _paused(view: _View) -> Why:
    run = view.run
    if run.reason == "operator":
        return _say(
            view,
            "paused",
            f"was paused by hand {view.ago(run.paused_at)} ago; perdure resume {run.run_id} lets "
            "it go on",
        )
    misfits = ", ".join(map(repr, run.misfits))
    stands = f"is paused because its replay did not fit version {misfits} of the code"
    if run.pin is None:
        able = [worker for worker in view.live if run.definition in worker.definitions]
        chance = f"it goes on when a worker with another version appears; {_versions(able, run)}"
    elif run.pin in run.misfits:
        chance = (
            f"it is pinned to version {run.pin!r}: perdure pin {run.run_id} --to VERSION lets "
            "it go on with another"
        )
    else:
        able = [worker for worker in view.live if run.definition in worker.definitions]
        chance = f"it goes on with version {run.pin!r}, which it is pinned to; "
        chance += _versions(able, run)
    return _say(view, "mismatch", f"{stands} ({_error(run)}); {chance}", run.misfits)


# --- held --------------------------------------------------------------------------------------


def _running(view: _View) -> Why:
    run = view.run
    if run.worker_id is None:
        return _damaged(view, "is running", "which worker holds it")
    silent = next((one for one in view.silent if one.worker_id == run.worker_id), None)
    if silent is not None:
        return _held_by_silent(view, silent)
    worker = next((one for one in view.live if one.worker_id == run.worker_id), None)
    if worker is None:
        return _say(
            view, "executing", f"is held by worker {run.worker_id}, just gone", [run.worker_id]
        )
    place = where(worker)
    asked = {
        Control.CANCEL: f"; it is asked to end{_because(_replaced_by(view), run)}",
        Control.COMPENSATE: "; it is asked to end, and to undo what it did",
        Control.PAUSE: "; it is asked to pause",
        Control.RESTART: "; it is asked to begin again",
    }
    return _say(
        view,
        "executing",
        f"is executing on {place} since {view.ago(run.claimed_at)}{_last_step(view)}"
        f"{asked.get(run.control, '')}",
        [worker.worker_id],
    )


def _held_by_silent(view: _View, worker: WorkerRecord) -> Why:
    return _say(
        view,
        "silent_worker",
        f"is held by {where(worker)}, which gave no sign of life for "
        f"{view.ago(worker.beat_at)}; any other worker takes over, and there "
        f"{are(len(view.live), 'live worker')}",
        [worker.worker_id],
    )


def _last_step(view: _View) -> str:
    steps = [step for step in view.history.checkpoints if step.epoch == view.run.epoch]
    if not steps:
        return ", with no step recorded in it yet"
    last = max(steps, key=lambda step: step.ended_at)
    return f"; it recorded step {last.key.path!r} {view.ago(last.ended_at)} ago"


# --- claimable ---------------------------------------------------------------------------------


async def _queued(store: Store, view: _View) -> Why:
    return await _unserved(store, view) or _say(
        view, "claimable", f"may be claimed now, {_age(view)}; {_capable_names(view)} can take it"
    )


def _age(view: _View) -> str:
    if view.run.status is Status.WAITING:
        return f"due for {view.ago(view.run.due_at)}"
    return f"queued {view.ago(view.run.updated_at)} ago"


async def _unserved(store: Store, view: _View) -> Why | None:
    """Return why no worker takes a run that may be claimed; None where one should at once."""
    run = view.run
    if not view.live:
        return _nobody(view)
    able = [worker for worker in view.live if run.definition in worker.definitions]
    if not able:
        return _say(
            view,
            "no_capable_worker",
            f"is {_age(view)} and none of the {count(len(view.live), 'live worker')} has that "
            f"definition; they have {listed(_known(view.live))}",
        )
    if run.pin is not None:
        having = [worker for worker in able if versions_of(worker).for_run(run) is not None]
        if not having:
            return _say(
                view,
                "version",
                f"is {_age(view)} and waits for a worker with version {run.pin!r} of its "
                f"definition, which it is pinned to; {_versions(able, run)}",
                [run.pin],
            )
        able = having
    serving = [worker for worker in able if run.queue in worker.queues]
    if not serving:
        queues = sorted({queue for worker in able for queue in worker.queues})
        return _say(
            view,
            "queue_not_served",
            f"is {_age(view)} in queue {run.queue!r}, and the workers that have its "
            f"{'definition' if run.pin is None else 'version'} serve {listed(queues)}",
        )
    if (limited := await _limited(store, view)) is not None:
        return limited
    held = await _held(store)
    if all(held[worker.worker_id] >= worker.slots for worker in serving):
        slots = sum(worker.slots for worker in serving)
        return _say(
            view,
            "workers_full",
            f"is {_age(view)} and all {count(slots, 'slot')} of {_capable_names(view)} are taken",
            [worker.worker_id for worker in serving],
        )
    if run.crashes >= SUSPECT_AFTER:
        return _say(
            view,
            "suspect",
            f"is {_age(view)} and a suspect, because {run.crashes} workers in a row died with it: "
            "it is taken alone, by a worker that holds nothing else",
        )
    return None


async def _limited(store: Store, view: _View) -> Why | None:
    """Return which limit of its queue is in the way of a run that may be claimed."""
    run = view.run
    record = next((one for one in await store.queues() if one.queue == run.queue), None)
    if record is None:
        return None
    limits = record.limits
    if record.paused_at is not None:
        return _say(
            view,
            "queue_paused",
            f"is {_age(view)} in queue {run.queue!r}, which was paused "
            f"{view.ago(record.paused_at)} ago; perdure queue resume {run.queue} lets it go on",
            [run.queue],
        )
    if (full := await _full(store, view, limits)) is not None:
        return full
    if run.epoch:
        return None
    if limits.rate is not None:
        at = next_start_at(limits.rate, record.next_start_at)
        if at > view.now:
            return _over(view, "rate", f"queue {run.queue!r}", limits.rate, at)
    if limits.key_rate is not None and run.limit_key is not None:
        at = await store.next_start_of_key(run.queue, run.limit_key)
        if at > view.now:
            whose = f"key {run.limit_key!r} of queue {run.queue!r}"
            return _over(view, "key_rate", whose, limits.key_rate, at)
    return None


async def _full(store: Store, view: _View, limits: Limits) -> Why | None:
    run = view.run
    running = RunQuery((Status.RUNNING,), queue=run.queue, limit=1_000)
    whose = {
        "queue_full": (limits.concurrency, f"queue {run.queue!r}", running),
        "key_full": (
            None if run.limit_key is None else limits.key_concurrency,
            f"key {run.limit_key!r} of queue {run.queue!r}",
            replace(running, limit_key=run.limit_key),
        ),
    }
    for cause, (limit, name, query) in whose.items():
        if limit is None:
            continue
        holders = await store.list_runs(query)
        if len(holders) >= min(limit, query.limit):
            holders.sort(key=lambda holder: (holder.claimed_at or 0, holder.seq))
            told = [f"{one.run_id} on worker {one.worker_id}" for one in holders]
            since = view.ago(holders[0].claimed_at)
            return _say(
                view,
                cause,
                f"is {_age(view)} and {count(limit, 'slot')} of {name} "
                f"{'is' if limit == 1 else 'are'} taken by {listed(told)}, the first for {since}",
                [one.run_id for one in holders],
            )
    return None


def _over(view: _View, cause: str, whose: str, rate: Rate, at: Micros) -> Why:
    moment = to_datetime(at).isoformat(timespec="milliseconds")
    return _say(
        view,
        cause,
        f"is {_age(view)}, and the rate of {whose}, {rate.limit} starts in "
        f"{format_micros(rate.period)}, allows the next one at {moment}, in {view.left(at)}",
        [view.run.queue],
        at,
    )


def _nobody(view: _View) -> Why:
    if not view.silent:
        return _say(view, "no_worker", f"is {_age(view)} and no worker is registered; start one")
    names = [worker.worker_id for worker in view.silent]
    last = view.ago(max(worker.beat_at for worker in view.silent))
    return _say(
        view,
        "only_silent_workers",
        f"is {_age(view)} and no worker lives: the last sign of life of "
        f"{'worker' if len(names) == 1 else 'workers'} {listed(names)} was {last} ago; start one",
        names,
    )


async def _held(store: Store) -> Counter[str]:
    """Return how many runs each worker holds, of the newest thousand that are held."""
    running = await store.list_runs(RunQuery(statuses=(Status.RUNNING,), limit=1_000))
    return Counter(run.worker_id for run in running if run.worker_id is not None)


def _versions(able: Sequence[WorkerRecord], run: RunRecord) -> str:
    """Return which versions of a run's definition live workers have, and who they are."""
    having: dict[str, list[str]] = {}
    for worker in able:
        for name, version in dict.fromkeys((*worker.definitions.items(), *worker.earlier)):
            if name == run.definition:
                having.setdefault(version, []).append(worker.worker_id)
    if not having:
        return "no live worker has the definition"
    told = [f"{version!r} ({listed(having[version])})" for version in sorted(having)]
    return f"live workers have {listed(told)}"


def _known(workers: Sequence[WorkerRecord]) -> list[str]:
    return sorted({name for worker in workers for name in worker.definitions})


def _capable_names(view: _View) -> str:
    run = view.run
    names = [
        worker.worker_id
        for worker in view.live
        if versions_of(worker).for_run(run) is not None and run.queue in worker.queues
    ]
    return f"{'worker' if len(names) == 1 else 'workers'} {listed(names)}"


# --- waiting -----------------------------------------------------------------------------------


async def _waiting(store: Store, view: _View) -> Why:
    run = view.run
    if run.due_at is not None and run.due_at <= view.now:
        return await _unserved(store, view) or _say(
            view, "due", f"is {_age(view)}; the next look of a worker takes it", until=run.due_at
        )
    match run.waiting_for:
        case WaitKind.DELAY:
            return _until(view, "delay", "may not start before")
        case WaitKind.RETRY:
            return _retry(view)
        case WaitKind.SLEEP:
            return _until(view, "sleep", "sleeps until", _paths(view, WaitKind.SLEEP))
        case WaitKind.EVENT:
            return _event(view)
        case WaitKind.CHILD:
            return await _children(store, view)
        case None:
            return _damaged(view, "waits", "for what")


def _until(view: _View, cause: str, what: str, holder: Sequence[str] = ()) -> Why:
    due_at = view.run.due_at
    if due_at is None:
        return _damaged(view, f"waits ({cause})", "until when")
    at = to_datetime(due_at).isoformat(timespec="seconds")
    named = f" (step {holder[0]!r})" if holder and holder[0] != "sleep" else ""
    return _say(view, cause, f"{what} {at}, in {view.left(due_at)}{named}", holder, due_at)


def _event(view: _View) -> Why:
    waits = [wait for wait in view.history.waits if wait.kind is WaitKind.EVENT]
    if not waits:
        return _woken(view, "event", "an event, which has come,")
    first = min(waits, key=lambda wait: (wait.due_at is None, wait.due_at or 0))
    with_key = "" if first.match is None else f" with key {first.match!r}"
    more = f", and for {count(len(waits) - 1, 'other event')}" if len(waits) > 1 else ""
    until = ""
    if first.due_at is not None:
        at = to_datetime(first.due_at).isoformat(timespec="seconds")
        until = f" until {at}, for {view.left(first.due_at)}"
    since = view.ago(view.run.updated_at)
    what = f"waits since {since} for an event {first.key!r}{with_key}{until}{more}"
    return _say(view, "event", what, [wait.key for wait in waits], view.run.due_at)


def _retry(view: _View) -> Why:
    run = view.run
    paths = _paths(view, WaitKind.RETRY)
    if not paths:
        return _until(view, "retry", f"failed ({_error(run)}) and begins attempt {run.attempt} at")
    step = next(
        (
            step
            for step in view.history.checkpoints
            if step.key.path == paths[0] and step.outcome is StepOutcome.PENDING
        ),
        None,
    )
    error = "" if step is None or step.value is None else f" failed ({_summary(step.value)}) and"
    number = 1 if step is None else step.tries + 1
    return _until(view, "retry", f"waits: step {paths[0]!r}{error} has attempt {number} at", paths)


def _paths(view: _View, kind: WaitKind) -> list[str]:
    """Return the paths of the calls that wait so, the one that is due first at the head."""
    waits = [wait for wait in view.history.waits if wait.kind is kind and wait.due_at is not None]
    waits.sort(key=lambda wait: wait.due_at or 0)
    return [wait.key for wait in waits]


async def _children(store: Store, view: _View) -> Why:
    waited = list(
        dict.fromkeys(wait.key for wait in view.history.waits if wait.kind is WaitKind.CHILD)
    )
    ended = await store.endings(waited)
    still = [run_id for run_id in waited if run_id not in ended]
    if not still:
        those = listed(waited) or "child runs"
        return _woken(view, "child", f"{those}, which ended,", certain=bool(waited))
    told: list[str] = []
    for run_id in still[:MOST_NAMED]:
        child = await store.get(run_id)
        told.append(f"{run_id} (not there)" if child is None else _as_child(child))
    more = f" and {len(still) - MOST_NAMED} more" if len(still) > MOST_NAMED else ""
    joined = f"{len(still)} of {count(len(waited), 'run')} to end: " if len(waited) > 1 else ""
    due_at = view.run.due_at
    return _say(view, "child", f"waits for {joined}{', '.join(told)}{more}", still, due_at)


def _woken(view: _View, cause: str, what: str, *, certain: bool = False) -> Why:
    """Return what stands of a run whose waits have just been fulfilled.

    Args:
        view: its run.
        cause: what it waited for.
        what: the same for people.
        certain: what it waited for is known to have happened, since its record was read.
    """
    due_at = view.run.due_at
    if due_at is not None:  # its wake-ups coalesce
        return _say(
            view, cause, f"waited for {what} and goes on in {view.left(due_at)}", (), due_at
        )
    if certain:
        return _say(view, cause, f"waited for {what} and goes on at once")
    return _damaged(view, f"waits ({cause})", "for which")


def _damaged(view: _View, stands: str, unknown: str) -> Why:
    return _say(
        view,
        "damaged",
        f"{stands}, and its record does not say {unknown}; perdure doctor tells more",
    )


def _as_child(child: RunRecord) -> str:
    waiting = f" for {child.waiting_for}" if child.waiting_for else ""
    return f"{child.run_id} of {child.definition!r}, {child.status}{waiting}"


# --- words -------------------------------------------------------------------------------------


def _error(run: RunRecord) -> str:
    return "no error is kept" if run.error is None else _summary(run.error)


def _summary(error: bytes) -> str:
    summary = shown_error(error)
    return f"{summary.type}: {summary.message[:200]}"
