"""Planted bugs: the classic mistakes of home-made engines, each as a patch of this process.

The simulation must find every one of them, by what it breaks: :data:`MUTANTS` says for each which
letters of broken promises are its own, and any other is no find. They patch the memory store's
verbs, the state machine or the engine.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from msgspec.structs import replace

from perdure._engine import calls, undoing
from perdure._engine.activation import Activation
from perdure._engine.committer import Committer
from perdure._engine.engine import Engine
from perdure._engine.journal import Journal as Records
from perdure.errors import NotApplied, OutcomeUnknown
from perdure.model import lifecycle, queues
from perdure.model.events import Publish, TakeEvent, started_run, started_with
from perdure.model.records import Control, Grant, Status
from perdure.model.schedules import FireSchedule
from perdure.model.transitions import (
    Beaten,
    CancelRun,
    Claim,
    Controlled,
    CreateRun,
    ForkRun,
    Heartbeat,
    RescueWorker,
    Settle,
    start_of,
)
from perdure.stores.memory import claims, events, lineage, operators, runs, schedules, workers
from perdure.stores.memory.journal import VERBS
from perdure.stores.memory.ready import Ready
from perdure.stores.memory.space import Space

APART = 5_000
"""Microseconds between two claims that read the same rows in :func:`split_claim`."""


@contextmanager
def no_fence_on_checkpoint() -> Iterator[None]:
    """A checkpoint is accepted for whoever names the run, whatever its grant."""
    with patch.object(runs, "is_newest", lambda run, grant: True):
        yield


@contextmanager
def no_fence_on_finish() -> Iterator[None]:
    """A settle ends the present claim, whoever sent it."""
    settle = runs.settle

    def unfenced(space: Space, asked: Any, now: int) -> Any:
        row = space.rows.get(asked.grant.run_id)
        if row is not None and row.run.status is Status.RUNNING:
            current = Grant(row.run.run_id, row.run.epoch, row.run.grant)
            asked = replace(asked, grant=current)
        return settle(space, asked, now)

    with patch.dict(VERBS, {Settle: unfenced}):
        yield


@contextmanager
def renew_ignoring_epoch() -> Iterator[None]:
    """A worker that was rescued renews its lost lease: it stays known, and what it held is not
    fenced any more, although others have claimed it since."""
    heartbeat, rescue, is_newest = workers.heartbeat, workers.rescue, runs.is_newest
    lost: dict[str, set[tuple[str, int]]] = {}
    revived: set[tuple[str, int]] = set()

    def remember(space: Space, asked: Any, now: int) -> Any:
        worker = space.workers.get(asked.worker_id)
        held = [] if worker is None else worker.in_order()
        pairs = {(row.run.run_id, row.run.epoch) for row in held}
        answer = rescue(space, asked, now)
        if asked.worker_id not in space.workers:
            lost.setdefault(asked.worker_id, set()).update(pairs)
        return answer

    def renew(space: Space, asked: Any, now: int) -> Any:
        if asked.worker_id not in lost:
            return heartbeat(space, asked, now)
        revived.update(lost[asked.worker_id])
        return Beaten(known=True, beat=1, held=len(lost[asked.worker_id]))

    def relaxed(run: Any, grant: Any) -> bool:
        return is_newest(run, grant) or (grant.run_id, grant.epoch) in revived

    with (
        patch.dict(VERBS, {RescueWorker: remember, Heartbeat: renew}),
        patch.object(runs, "is_newest", relaxed),
    ):
        yield


@contextmanager
def split_claim() -> Iterator[None]:
    """A claim reads what is queued and marks it later, without comparing: two workers that claim
    within :data:`APART` are given the same runs."""
    give = claims._give
    read: dict[Space, tuple[int, str, list[Any]]] = {}

    def twice(allowance: Any, versions: Any, claim: Any) -> list[Any]:
        space, now = allowance.space, allowance.now
        at, worker_id, rows = read.get(space, (0, "", []))
        if worker_id != claim.worker_id and now - at <= APART:
            stale = [row for row in rows if row.run.status is Status.RUNNING][: claim.limit]
            for row in stale:
                space.release(row.run)
                lifecycle.claim(row.run, claim.worker_id, claim.token, now, None)
                space.index(row, now)
            if stale:
                return stale
        given = give(allowance, versions, claim)
        read[space] = (now, claim.worker_id, given)
        return given

    with patch.object(claims, "_give", twice):
        yield


@contextmanager
def epoch_not_raised() -> Iterator[None]:
    """Every claim of a run after the first has the epoch of the one before."""
    claim = lifecycle.claim

    def same_epoch(run: Any, *given: Any) -> None:
        claim(run, *given)
        run.epoch = 1

    with patch.object(lifecycle, "claim", same_epoch):
        yield


@contextmanager
def checkpoint_overwrites() -> Iterator[None]:
    """The newest checkpoint under an identity replaces the one that is recorded."""
    with (
        patch.object(runs, "is_final", lambda recorded: False),
        patch.object(runs, "is_same_try", lambda recorded, save: False),
    ):
        yield


@contextmanager
def retry_timer_in_memory() -> Iterator[None]:
    """The back-off of a step is slept in the process, and recorded as due at once."""
    failed = calls._Execution._failed

    async def slept(self: Any, error: Exception, delay: int | None) -> Any:
        due_at = await failed(self, error, None if delay is None else 0)
        await asyncio.sleep((delay or 0) / 1e6)
        return due_at

    with patch.object(calls._Execution, "_failed", slept):
        yield


@contextmanager
def crash_counter_not_raised() -> Iterator[None]:
    """A rescue leaves the number of crashes as it was before the first."""
    rescue = lifecycle.rescue

    def uncounted(run: Any, asked: Any, **fields: Any) -> None:
        run.crashes = -1
        rescue(run, asked, **fields)

    with patch.object(lifecycle, "rescue", uncounted):
        yield


@contextmanager
def prefix_match_on_step_ids() -> Iterator[None]:
    """A call that finds no record of its own takes one whose path begins with its path."""
    claim = Records.claim

    def by_prefix(self: Records, scope: bytes, path: str, fingerprint: bytes, k: int) -> Any:
        found = claim(self, scope, path, fingerprint, k)
        if found is not None:
            return found
        for other in self._unclaimed:
            if other[0] == scope and other[1].startswith(path) and other[2:] == (fingerprint, k):
                return self._unclaimed.pop(other)
        return None

    with patch.object(Records, "claim", by_prefix):
        yield


@contextmanager
def unknown_treated_as_not_applied() -> Iterator[None]:
    """A batch whose answer was lost counts as refused."""
    write_failed = Committer._write_failed

    async def refused(self: Committer, entries: Any, error: Any) -> None:
        if isinstance(error, OutcomeUnknown):
            error = NotApplied(str(error))
        await write_failed(self, entries, error)

    with patch.object(Committer, "_write_failed", refused):
        yield


# --- events --------------------------------------------------------------------------------------


@contextmanager
def event_not_buffered() -> Iterator[None]:
    """A wait takes only what is accepted once the run has begun to wait."""
    fitting = events.fitting

    def from_now_on(space: Space, row: Any, *what: Any) -> Any:
        began_at = row.run.claimed_at or 0
        return (event for event in fitting(space, row, *what) if event.at >= began_at)

    with patch.object(events, "fitting", from_now_on):
        yield


@contextmanager
def timeout_ignoring_the_event() -> Iterator[None]:
    """Whoever looks after the deadline is told that it is over, whatever came in time."""
    take = events.take

    def late(space: Space, asked: Any, now: int) -> Any:
        row = space.rows.get(asked.grant.run_id)
        recorded = row and row.checkpoints.get((row.run.generation, asked.step))
        if recorded is None or recorded.due_at is None or recorded.due_at > now:
            return take(space, asked, now)
        with patch.object(events, "fitting", lambda *_: iter(())):
            return take(space, asked, now)

    with patch.dict(VERBS, {TakeEvent: late}):
        yield


@contextmanager
def event_satisfies_two_waits() -> Iterator[None]:
    """Which wait took an event is not remembered."""
    take = events.take

    def forgetful(space: Space, asked: Any, now: int) -> Any:
        answer = take(space, asked, now)
        if asked.grant.run_id in space.rows:
            space.rows[asked.grant.run_id].taken.clear()
        return answer

    with patch.dict(VERBS, {TakeEvent: forgetful}):
        yield


@contextmanager
def event_twice_starts_twice() -> Iterator[None]:
    """An event that is published again, because the answer was lost, starts runs again."""
    publish = events.publish

    def again(space: Space, asked: Any, now: int) -> Any:
        known = asked.event_id in space.events
        answer = publish(space, asked, now)
        if known and asked.by is None:
            for listener in events.listeners(space):
                if listener.listener.type == asked.type:
                    number = len(space.rows)
                    run_id, token = started_run(f"{asked.event_id} {number}", "ear")
                    given = started_with(asked.payload, listener.listener.parameter)
                    create = CreateRun(run_id, listener.listener.definition, given, token)
                    runs.create(space, create, now)
        return answer

    with patch.dict(VERBS, {Publish: again}):
        yield


# --- schedules -----------------------------------------------------------------------------------


@contextmanager
def fire_without_compare() -> Iterator[None]:
    """An instant is fired by whoever comes, also a second time."""
    with patch.object(schedules, "may_fire", lambda record, asked, now: asked.expected <= now):
        yield


@contextmanager
def random_schedule_ids() -> Iterator[None]:
    """The run of an instant has an id that does not follow from the instant."""
    fire = schedules.fire

    def shifted(space: Space, asked: Any, now: int) -> Any:
        def started(schedule: Any, instant: int) -> Any:
            return replace(start_of(schedule, instant), run_id=f"{schedule.key}-{space.seq}")

        with patch.object(schedules, "start_of", started):
            return fire(space, asked, now)

    with patch.dict(VERBS, {FireSchedule: shifted}):
        yield


@contextmanager
def next_due_advanced_apart() -> Iterator[None]:
    """The schedule moves on in one transaction and starts the run in another, which is lost where
    the firing was not heard to succeed: here, each fifth."""
    fire = schedules.fire
    fired = 0

    def apart(space: Space, asked: Any, now: int) -> Any:
        nonlocal fired
        fired += 1
        if fired % 5:
            return fire(space, asked, now)
        with patch.object(schedules, "create", lambda *_: None):
            return fire(space, asked, now)

    with patch.dict(VERBS, {FireSchedule: apart}):
        yield


@contextmanager
def fired_by_the_workers_clock() -> Iterator[None]:
    """Whether an instant has come is for the worker's clock, and not for the store's."""
    store_now = Engine.store_now

    def may_fire(record: Any, asked: Any, now: int) -> bool:
        return record.next_at == asked.expected and record.revision == asked.revision

    def own_now(self: Any) -> int:
        return store_now(self) + self.clock.offset

    with (
        patch.object(schedules, "may_fire", may_fire),
        patch.object(Engine, "store_now", own_now),
    ):
        yield


# --- queues --------------------------------------------------------------------------------------


@contextmanager
def slot_leak() -> Iterator[None]:
    """A slot is a number that is raised and lowered, and a rescue does not lower it."""
    released, rescue = Ready.released, workers.rescue
    is_rescue = False

    def leaking(self: Ready, run: Any) -> None:
        if not is_rescue:
            released(self, run)

    def rescued(space: Space, asked: Any, now: int) -> Any:
        nonlocal is_rescue
        is_rescue = True
        try:
            return rescue(space, asked, now)
        finally:
            is_rescue = False

    with patch.object(Ready, "released", leaking), patch.dict(VERBS, {RescueWorker: rescued}):
        yield


@contextmanager
def limit_of_each_worker() -> Iterator[None]:
    """A claim counts the slots that its own worker has taken, and not those of the others."""
    claim = claims.claim

    def apart(space: Space, asked: Any, now: int) -> Any:
        def running(_: Ready, queue: str) -> int:
            held = space.workers[asked.worker_id].held.values()
            return sum(row.run.queue == queue for row in held)

        with patch.object(Ready, "running", running):
            return claim(space, asked, now)

    with patch.dict(VERBS, {Claim: apart}):
        yield


@contextmanager
def rate_without_memory() -> Iterator[None]:
    """A rate is kept as what is left of it, which begins anew with every claim."""
    with patch.object(queues, "due_after", lambda rate, due_at, now, starts: now):
        yield


@contextmanager
def key_ignored() -> Iterator[None]:
    """The slots of a key are those of the queue."""
    limits = Ready.limits

    def of_the_queue(self: Ready, queue: str) -> Any:
        return replace(limits(self, queue), key_concurrency=None)

    with patch.object(Ready, "limits", of_the_queue):
        yield


# --- pause and cancel ----------------------------------------------------------------------------


@contextmanager
def pause_ignored() -> Iterator[None]:
    """A worker that is told to pause goes on."""
    obey = Activation.obey

    def deaf(self: Activation, word: Any, *rest: Any) -> None:
        if word is not Control.PAUSE:
            obey(self, word, *rest)

    with patch.object(Activation, "obey", deaf):
        yield


@contextmanager
def timers_not_shifted() -> Iterator[None]:
    """What was due in a pause is due at its end."""
    with (
        patch.object(operators, "_shift", lambda row, shift: None),
        patch.object(lifecycle, "paused_for", lambda run, now: 0),
    ):
        yield


@contextmanager
def pause_lost_with_its_worker() -> Iterator[None]:
    """A pause that was accepted is forgotten when the worker dies that was to hear of it."""
    rescue = lifecycle.rescue

    def forgetful(run: Any, *asked: Any, **fields: Any) -> None:
        if run.control is Control.PAUSE:
            run.control = Control.NONE
        rescue(run, *asked, **fields)

    with patch.object(lifecycle, "rescue", forgetful):
        yield


@contextmanager
def cancel_without_compare() -> Iterator[None]:
    """A cancel sets the status, whatever it is."""
    cancel = lifecycle.cancel

    def regardless(run: Any, asked: Any, now: int) -> Any:
        if run.status is Status.RUNNING:
            lifecycle._end(run, Status.CANCELLED, now)
            return Controlled(run.status)
        return cancel(run, asked, now)

    def settle(run: Any, asked: Any, now: int) -> Any:
        if run.status is Status.CANCELLED and run.epoch == asked.grant.epoch:
            run.status = Status.RUNNING
        return before(run, asked, now)

    before = lifecycle.settle
    with (
        patch.object(lifecycle, "cancel", regardless),
        patch.object(lifecycle, "settle", settle),
    ):
        yield


# --- undo ----------------------------------------------------------------------------------------


@contextmanager
def undone_first_in_first_out() -> Iterator[None]:
    """Compensations are executed in the order in which they were registered."""
    each = undoing._each

    async def forwards(activation: Any, todo: Any) -> Any:
        return await each(activation, [*reversed(todo)])

    with patch.object(undoing, "_each", forwards):
        yield


@contextmanager
def undone_without_record() -> Iterator[None]:
    """What was undone is not recorded: whoever goes on after a kill undoes it once more."""
    perform = undoing.perform

    async def plainly(call: Any, spec: Any, args: Any, kwargs: Any) -> Any:
        if call.name == "on_cancel":
            return await perform(call, spec, args, kwargs)
        return await spec.function(*args, **kwargs)

    with patch.object(undoing, "perform", plainly):
        yield


@contextmanager
def compensations_by_memory() -> Iterator[None]:
    """What is to be undone is what the worker remembers that undoes: the body is not replayed."""

    async def nothing(activation: Any, body: Any) -> None:
        return None

    with patch.object(undoing, "_replay", nothing):
        yield


@contextmanager
def compensate_forgotten() -> Iterator[None]:
    """A cancel that is to compensate is taken for one that is not."""
    cancel = operators.cancel

    def plainly(space: Space, asked: Any, now: int) -> Any:
        return cancel(space, replace(asked, compensate=False), now)

    with patch.dict(VERBS, {CancelRun: plainly}):
        yield


# --- restart and fork ----------------------------------------------------------------------------


@contextmanager
def restart_keeps_nothing() -> Iterator[None]:
    """A restart from a step begins at the start."""
    with patch.object(lineage, "_kept", lambda row, run, before: ([], [])):
        yield


@contextmanager
def restart_keeps_everything() -> Iterator[None]:
    """A restart from a step keeps what came after it, too."""
    kept = lineage._kept
    with patch.object(lineage, "_kept", lambda row, run, before: kept(row, run, None)):
        yield


@contextmanager
def restart_at_once() -> Iterator[None]:
    """A restart of a run that a worker holds does not wait for its end: it is queued at once."""
    restart = lifecycle.restart

    def regardless(run: Any, asked: Any, now: int) -> Any:
        answer = restart(run, asked, now)
        if run.control is Control.RESTART:
            run.generation += 1
            run.control = Control.NONE
        return answer

    with patch.object(lifecycle, "restart", regardless):
        yield


@contextmanager
def fork_takes_old_events() -> Iterator[None]:
    """A fork is as old as the run that it goes on from, and takes the events of that time."""
    fork = lineage.fork

    def aged(space: Space, asked: Any, now: int) -> Any:
        answer = fork(space, asked, now)
        row = space.rows.get(asked.create.run_id)
        if row is not None and asked.source in space.rows:
            row.run.created_at = space.rows[asked.source].run.created_at
        return answer

    with patch.dict(VERBS, {ForkRun: aged}):
        yield


class Planted(NamedTuple):
    """A planted bug.

    Args:
        plant: patches this process while its context lasts.
        letters: of the promises that it breaks: another one is no find.
        families: that the worlds have in which it is looked for; see
            :data:`tests.simulation.world.FAMILIES`.
    """

    plant: Callable[[], AbstractContextManager[None]]
    letters: str
    families: str = ""


MUTANTS: dict[str, Planted] = {
    planted.plant.__name__: planted
    for planted in (
        Planted(no_fence_on_checkpoint, "S4 S5 S7"),
        Planted(no_fence_on_finish, "S4 S7"),
        Planted(renew_ignoring_epoch, "S3 S4 LEASE"),
        Planted(split_claim, "S3"),
        Planted(epoch_not_raised, "S3"),
        Planted(checkpoint_overwrites, "S5 S6"),
        Planted(retry_timer_in_memory, "TIMER"),
        Planted(crash_counter_not_raised, "S14"),
        Planted(prefix_match_on_step_ids, "S6 S8 ORACLE"),
        Planted(unknown_treated_as_not_applied, "S2 S8 ORACLE"),
        Planted(event_not_buffered, "S10", "events"),
        Planted(timeout_ignoring_the_event, "S10", "events"),
        Planted(event_satisfies_two_waits, "S10", "events"),
        Planted(event_twice_starts_twice, "S1 S10", "events"),
        Planted(fire_without_compare, "S11", "schedules"),
        Planted(random_schedule_ids, "S1", "schedules"),
        Planted(next_due_advanced_apart, "S1 L1", "schedules"),
        Planted(fired_by_the_workers_clock, "TIMER", "schedules"),
        Planted(slot_leak, "L1", "limits"),
        Planted(limit_of_each_worker, "S14", "limits"),
        Planted(rate_without_memory, "S14", "limits"),
        Planted(key_ignored, "S14", "limits"),
        Planted(pause_ignored, "S12", "pauses"),
        Planted(timers_not_shifted, "TIMER", "pauses"),
        Planted(pause_lost_with_its_worker, "S7 S12", "pauses"),
        Planted(cancel_without_compare, "S7"),
        Planted(undone_first_in_first_out, "UNDO", "undo"),
        Planted(undone_without_record, "S8 UNDO", "undo"),
        Planted(compensations_by_memory, "UNDO", "undo"),
        Planted(compensate_forgotten, "S7 S12", "undo"),
        Planted(restart_keeps_nothing, "S6", "again"),
        Planted(restart_keeps_everything, "S6", "again"),
        Planted(restart_at_once, "S6 S7 S12", "again"),
        Planted(fork_takes_old_events, "S10", "again events"),
    )
}
