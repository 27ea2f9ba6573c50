"""The worker: claims runs while it has free slots, executes them, and stops in order.

It never polls for what it can hear: a new run in this process, a hint from another, a due time and
a freed slot each wake it; one poll a second stands behind them. Its lease is kept by the
heartbeat in a thread of its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from enum import Enum
from typing import Protocol, Self, cast

from msgspec.structs import replace

from perdure import defaults
from perdure._engine import adrift, telling
from perdure._engine.activation import Leaving
from perdure._engine.engine import Engine
from perdure._engine.executor import Executor
from perdure._engine.scope import install_factory, remove_factory
from perdure._engine.sleepers import Sleepers
from perdure._runtime.firer import put as put_schedule
from perdure._runtime.heartbeat import Heart, Pulse
from perdure._runtime.leader import Leader
from perdure.clock import to_datetime
from perdure.codec.failures import encode_error, error_summary
from perdure.duration import Duration, named_micros
from perdure.errors import PerdureError, StoreError, UsageError, shown
from perdure.ids import check_id
from perdure.model.events import Listen, Publish, SendEvent
from perdure.model.leader import Lead
from perdure.model.lifecycle import SUSPECT_AFTER
from perdure.model.queues import PutQueue, ResumeQueue
from perdure.model.records import Control, Grant, RunRecord
from perdure.model.retention import DEFAULT, EVENTS, PutRetentions
from perdure.model.schedules import FireSchedule, RemoveSchedule
from perdure.model.transitions import (
    CancelRun,
    Claim,
    Claimed,
    CreateRun,
    ForkRun,
    GiveBack,
    PauseRun,
    RegisterWorker,
    Released,
    Rescued,
    RescueWorker,
    RestartRun,
    ResumeRun,
    RetireWorker,
    RetryRun,
    Settle,
    Transition,
)
from perdure.model.versions import PinRun
from perdure.telemetry import (
    Log,
    RunsRescued,
    WorkerError,
    WorkerLost,
    WorkerReady,
    WorkerStopped,
)

log = Log("perdure.worker")

REASONS = frozenset(
    {
        *(CreateRun, Settle, CancelRun, ResumeRun, RetryRun, RestartRun, ForkRun),
        *(RescueWorker, RetireWorker, RegisterWorker, GiveBack, Publish, SendEvent),
        *(FireSchedule, PauseRun, PutQueue, ResumeQueue, PinRun),
    }
)
"""Transitions after which something may be claimable, or due at another time, than before."""

FRESH_FIRST = 8
"""Of so many claims that are given something one takes runs that were never claimed before those
that go on, so that no number of the latter starves the former."""

SUSPECT_PATIENCE = 30.0
"""Seconds for which suspects may be passed over while there is other work."""

SUSPECT_DRAIN = 10.0
"""Seconds for which a worker then claims nothing, so that it may come to hold nothing; where a body
lasts longer it goes on as before, and another worker may be luckier."""

PROBATION = 30.0
"""Seconds for which a suspect is executed alone. One that kills its worker later takes others with
it at most twice each: then they are suspects, too, and prove themselves alone."""

MOST = 1_000_000
"""The largest number that an option takes."""

ANNOUNCE = 6 * 3600.0
"""Seconds after which it says again which events its definitions listen to."""

OTHER_HALF = 0.001
"""Seconds after which the slots that a claim left free are looked after, if no batch did it."""


class State(Enum):
    """What a worker is about."""

    STOPPED = "stopped"
    STARTING = "starting"
    WORKING = "working"
    STOPPING = "stopping"
    LOST = "lost"


class HasEngine(Protocol):
    """An app, as far as a worker needs it."""

    @property
    def engine(self) -> Engine:
        """The machinery that workers and handles share."""
        ...

    async def connect(self) -> None:
        """Open the store."""
        ...

    async def close(self) -> None:
        """Close the store when its last user leaves."""
        ...


class Worker:
    """Executes the runs of one app in this process.

    Args:
        app: whose definitions it serves.
        concurrency: runs that it executes at once; waiting runs do not count.
        queues: which queues it serves; None for ``default``, those of its definitions and those
            that the app declares.
        only: names of the definitions it serves; None for all.
        lease: how long its heart may stand still before another worker takes its runs over.
        heartbeat: how often it gives a sign of life; at most a third of the lease.
        poll: how often it looks by itself.
        grace: what a stop gives the bodies that are executing before they are handed back.
        crash_cap: claims in a row that may die without a new checkpoint.
        scheduler: whether it may lead: of those that may, one fires the schedules, of whatever
            definitions, and prunes.

    Raises:
        UsageError, InvalidDuration, InvalidValue: an option is wrong.

    Example::

        async with app, Worker(app):
            await run.result()
    """

    def __init__(
        self,
        app: HasEngine,
        *,
        concurrency: int = defaults.CONCURRENCY,
        queues: Iterable[str] | None = None,
        only: Iterable[str] | None = None,
        lease: Duration = defaults.LEASE,
        heartbeat: Duration = defaults.HEARTBEAT,
        poll: Duration = defaults.POLL,
        grace: Duration = defaults.GRACE,
        crash_cap: int = defaults.CRASH_CAP,
        scheduler: bool = True,
    ) -> None:
        _check_count("concurrency", concurrency)
        _check_count("crash_cap", crash_cap)
        if not isinstance(getattr(app, "engine", None), Engine):
            raise UsageError(f"Worker takes an App, got {shown(app)}")
        if named_micros(poll, "poll") <= 0:
            raise UsageError(f"poll must be longer than nothing, got {poll!r}")
        if type(scheduler) is not bool:
            raise UsageError(f"scheduler is true or false, got {shown(scheduler)}")
        self._app = app
        self._engine = app.engine
        self.leader = Leader(app.engine) if scheduler else None
        self.concurrency = concurrency
        self._chosen_queues = None if queues is None else _checked_names("queues", queues)
        self.queues: tuple[str, ...] = self._chosen_queues or (defaults.QUEUE,)
        self._only = None if only is None else _checked_names("only", only)
        self._pulse = Pulse.of(lease, heartbeat)
        self._poll = named_micros(poll, "poll") / 1e6
        self._grace = named_micros(grace, "grace") / 1e6
        self._crash_cap = crash_cap
        self._state = State.STOPPED
        self._names: tuple[str, ...] = ()
        self._free = concurrency
        # Half of the slots at a time: while one half's ends are being written, the other half
        # executes. Draining no-op runs gains a third by it on two cores.
        self._half = (concurrency + 1) // 2
        self._token = 0
        self._gave = 0  # claims that were given something
        self._claiming = False
        self._hinted = False
        self._more = True
        self._alone: asyncio.TimerHandle | None = None  # while a suspect is on probation
        self._suspects = False
        self._only_suspects = False
        self._suspects_since: float | None = None
        self._poll_timer: asyncio.TimerHandle | None = None
        self._next_look = 0.0
        self._unlisten: Callable[[], None] | None = None
        self._release_sign: Callable[[], None] | None = None
        self._rejoining: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._sleepers = Sleepers()
        self._rescuing: dict[str, asyncio.Task[None]] = {}
        self._changed: asyncio.Event | None = None
        self._announce_at = 0.0
        self._announcing: asyncio.Task[None] | None = None
        self.worker_id = ""
        self.finished = 0

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to claim and execute.

        Raises:
            UsageError: it runs already.
            UnknownDefinition: ``only`` names a definition that the app does not have.
            DefinitionError: one that listens to events does not take one.
            StoreError: the store cannot be used.
        """
        if self._state is not State.STOPPED:
            raise UsageError("this worker runs already")
        self._names = self._serves()
        self.queues = self._chosen_queues or self._known_queues()
        for name in self._names:
            self._engine.registry[name].listeners()  # raises where one is declared wrongly
            self._engine.registry[name].put_schedule(0)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._state = State.STARTING
        async with AsyncExitStack() as undo:
            undo.callback(self._set_state, State.STOPPED)
            await self._app.connect()
            undo.push_async_callback(self._app.close)
            install_factory(self._loop)
            undo.callback(remove_factory, self._loop)
            adrift.install()
            undo.callback(adrift.remove)
            self._executor = Executor(self._engine, self._slot_freed)
            undo.callback(self._drop_sign)
            try:
                await self._join()
            except StoreError as error:
                self._tell_error("joining", error)
                raise
            self._undo = undo.pop_all()
        self._state = State.WORKING
        self._unlisten = self._engine.store.listen(self.look)
        self._engine.committer.add_claimant(self)
        self._engine.controlled.append(self.controlled)
        self._tell_ready()
        self._lead()
        self.look()

    @property
    def state(self) -> State:
        """What it is about now."""
        return self._state

    def _lead(self) -> None:
        if self.leader is not None:
            self.leader.start(self.worker_id)

    def _set_state(self, state: State) -> None:
        self._state = state

    async def stop(self, grace: Duration | None = None) -> None:
        """Claim nothing more, let bodies finish within the grace, hand the rest back at once.

        Every caller waits for the same stop. One that is cancelled ends the grace.

        Args:
            grace: instead of the worker's own.
        """
        seconds = self._grace if grace is None else named_micros(grace, "grace") / 1e6
        if self._state is State.STOPPED:
            return
        stopping = self._stopping
        if stopping is None:
            stopping = self._stopping = asyncio.Task(self._stop(seconds), loop=self._loop)
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            # Whoever waited is out of patience: no grace, but still in order.
            self._hurry.set()
            self._signal()
            await asyncio.wait([stopping])
            raise

    async def _stop(self, seconds: float) -> None:
        self._state = State.STOPPING
        self._stop_looking()
        if self.leader is not None:
            await self.leader.stop()
        try:
            await self._stop_rejoining()
            await self._drain(seconds)
            for activation in list(self._executor.active.values()):
                activation.leave(Leaving.RELEASED)
            await self._executor.empty()
            await self._leave_store()
            if WorkerStopped in (hooks := self._engine.hooks).kinds:
                hooks.tell(WorkerStopped(at=self._now(), worker_id=self.worker_id))
        finally:
            self._stopping = None
            await self._undo.aclose()

    async def run_once(self) -> int:
        """Execute what can be claimed now until nothing is left, then stop.

        Returns:
            How many bodies ended, suspended ones included.
        """
        before = self.finished
        await self.start()
        assert self._changed is not None
        while self._more or self._claiming or self._executor.active or self._suspects:
            self._changed.clear()
            self.look()
            await self._changed.wait()
        await self.stop()
        return self.finished - before

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    def _serves(self) -> tuple[str, ...]:
        registry = self._engine.registry
        names = self._only
        if names is None:
            names = tuple(definition.name for definition in registry)
        for name in names:
            registry[name]
        return names

    def _known_queues(self) -> tuple[str, ...]:
        registry = self._engine.registry
        known = {registry[name].queue for name in self._names} | set(self._engine.queues)
        return (defaults.QUEUE, *sorted(known - {defaults.QUEUE}))

    async def _join(self) -> None:
        """Take a sign of life, rescue those known to be dead, register, and start the heart."""
        engine = self._engine
        self.worker_id = engine.ids.run_id()
        self._release_sign = engine.store.hold(self.worker_id)
        known = [worker.worker_id for worker in await engine.store.workers()]
        for departed in engine.store.departed(known):
            await self._note_rescued(departed, await self._rescued(departed, None))
        definitions = [engine.registry[name] for name in self._names]
        await engine.committer.submit(
            RegisterWorker(
                self.worker_id,
                socket.gethostname(),
                os.getpid(),
                {one.name: one.version for one in definitions},
                self.queues,
                self.concurrency,
                round(self._pulse.lease * 1e6),
                round(self._pulse.interval * 1e6),
                tuple(one.name for one in definitions if one.cleans()),
                tuple((one.name, version) for one in definitions for version in one.earlier),
                tuple(one.name for one in definitions if one.pinned),
            )
        )
        await self._declare()
        self._heart = Heart(self, engine, self._pulse)
        self._heart.start()

    async def _declare(self) -> None:
        """Store what is declared of queues, retentions, events and schedules."""
        engine = self._engine
        for name, limits in engine.queues.items():
            await engine.committer.submit(PutQueue(name, limits))
        retentions = [(name, engine.registry[name].retention) for name in self._names]
        retentions.append((EVENTS, replace(DEFAULT, completed=engine.event_retention)))
        await engine.committer.submit(PutRetentions(tuple(retentions)))
        await self._listen()

    async def _listen(self) -> None:
        """Register the definitions that events start, or say that they are still there."""
        registry = self._engine.registry
        listeners = [one for name in self._names for one in registry[name].listeners()]
        self._announce_at = self._loop.time() + ANNOUNCE
        if listeners:
            await self._engine.committer.submit(Listen(tuple(listeners)))
        await self._put_schedules()

    async def _put_schedules(self) -> None:
        """Bring the store's schedules in line with those that are declared with definitions."""
        engine = self._engine
        declared = [engine.registry[name] for name in self._names]
        puts = [put for one in declared if (put := one.put_schedule(engine.store_now()))]
        if puts:
            await asyncio.gather(*(put_schedule(engine, put) for put in puts))
        keys = {put.schedule.key for put in puts}
        for record in await engine.store.schedules():
            schedule = record.schedule
            is_ours = schedule.from_code and schedule.definition in self._names
            if is_ours and schedule.key not in keys:  # its cron= was taken out
                await engine.committer.submit(RemoveSchedule(schedule.key))

    def _announce(self) -> None:
        """Say now and then that the listeners are still there."""
        if self._loop.time() >= self._announce_at:
            announced = asyncio.Task(self._listen(), loop=self._loop)
            self._announcing = announced
            announced.add_done_callback(self._announced)

    def _announced(self, done: asyncio.Task[None]) -> None:
        self._announcing = None
        error = None if done.cancelled() else done.exception()
        if error is not None:
            log.warning("cannot announce listeners yet", worker_id=self.worker_id, error=error)

    async def _leave_store(self) -> None:
        await self._heart.stop()
        try:
            retired = await self._engine.committer.submit(RetireWorker(self.worker_id))
        except StoreError as error:
            log.warning(
                "worker could not sign off; its lease will run out",
                worker_id=self.worker_id,
                error=error,
            )
            self._tell_error("leaving", error)
        else:
            await telling.stopped(self._engine, retired.ended)

    async def _drain(self, seconds: float) -> None:
        assert self._changed is not None
        deadline = self._loop.time() + seconds
        while self._executor.active:
            self._changed.clear()
            remaining = deadline - self._loop.time()
            if remaining <= 0 or self._hurry.is_set():
                return
            try:
                await asyncio.wait_for(self._changed.wait(), remaining)
            except TimeoutError:
                return

    # --- looking ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Something may be claimable: claim with the next batch, if there is room."""
        if self._state is State.WORKING:
            self._more = True
            self._hinted = self._claiming  # the claim under way may have looked before this
            if not self._claiming and self._free > 0:
                self._engine.committer.kick()

    def _stop_looking(self) -> None:
        if self.leader is not None:
            self.leader.drop()
        self._stop_poll()
        self._end_probation()
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None
        if self._announcing is not None:
            self._announcing.cancel()
        self._engine.committer.remove_claimant(self)
        self._engine.controlled.remove(self.controlled)

    def _look_later(self, next_due: float | None) -> None:
        """Look again at the next due time, at the latest after the poll interval."""
        if self._state is not State.WORKING:
            return
        delay = self._poll * (1 - 0.1 * self._engine.rng.random())
        if next_due is not None:
            delay = min(delay, next_due)
        when = self._loop.time() + delay
        self._stop_poll()
        self._next_look = when
        self._poll_timer = self._loop.call_at(when, self._polled)

    def _polled(self) -> None:
        self._poll_timer = None
        self._announce()
        self._sleepers.look(self._executor.active.values(), self._loop.time())
        self.look()
        if self._free <= 0 and self._poll_timer is None:
            self._look_later(None)  # to look at the bodies again, although there is no room

    def _stop_poll(self) -> None:
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None

    # --- claiming (the committer's claimant) -----------------------------------------------------

    def next_claim(self, batch: Sequence[Transition]) -> Claim | None:
        """Return a claim to ride in the batch now forming, if there is room and reason."""
        if not self._more and any(type(transition) in REASONS for transition in batch):
            self._more = True
        if self._state is not State.WORKING or self._claiming:
            return None
        if not self._more or self._free <= 0 or self._alone is not None:
            return None
        idle = self._free == self.concurrency
        overdue = self._overdue_suspects()
        if overdue and not idle:
            if self._poll_timer is None:
                self._look_later(None)  # no answer of a claim will set the next look
            return None
        self._claiming = True
        # The answer sets the next poll. This one would be taken for a hint meanwhile, and where
        # commits are slow every batch would then carry a claim.
        self._stop_poll()
        if not self._token:
            self._token = self._engine.ids.token()
        return Claim(
            self.worker_id,
            self._token,
            self._names,
            self.queues,
            min(self._free, self._half),
            suspects=idle and (self._only_suspects or overdue),
            fresh_first=self._gave % FRESH_FIRST == 0,
        )

    def _overdue_suspects(self) -> bool:
        since = self._suspects_since
        if since is None:
            return False
        passed = self._loop.time() - since
        if passed > SUSPECT_PATIENCE + SUSPECT_DRAIN:
            self._suspects_since = self._loop.time()
            return False
        return passed > SUSPECT_PATIENCE

    def claim_answered(self, answer: Claimed) -> None:
        """Start what was given; nothing given means that there is nothing more for now."""
        self._claiming = False
        self._token = 0
        self._engine.heard_store_time(answer.now)
        if self.leader is not None and answer.known:
            self.leader.heard(answer.vacant_term, answer.next_fire_at)
        if not answer.known:
            self.lost()
            return
        if self._state is not State.WORKING:
            for claimed in answer.runs:
                self._hand_back(claimed.run)
            return
        self._note_suspects(answer)
        idle = self._free == self.concurrency
        due = answer.next_due_at
        is_over = due is None or due > answer.now
        self._more = bool(
            answer.runs or self._hinted or not is_over or (idle and self._only_suspects)
        )
        self._hinted = False
        self._free -= len(answer.runs)
        self._gave += bool(answer.runs)
        for claimed in answer.runs:
            if claimed.run.crashes >= SUSPECT_AFTER:
                self._alone = self._loop.call_later(PROBATION, self._end_probation)
            self._executor.start(claimed)
        if self._more and self._free > 0:
            self._look_later(OTHER_HALF)
        else:
            self._look_later(None if due is None else max(0.0, (due - answer.now) / 1e6))
        self._signal()

    def _note_suspects(self, answer: Claimed) -> None:
        self._suspects = answer.suspects
        self._only_suspects = answer.suspects and not answer.runs
        if not answer.suspects:
            self._suspects_since = None
        elif self._suspects_since is None:
            self._suspects_since = self._loop.time()

    def _hand_back(self, run: RunRecord) -> None:
        grant = Grant(run.run_id, run.epoch, run.grant)
        self._engine.committer.submit(Settle(grant, Released()), patient=True)

    def claim_failed(self) -> None:
        """Claim again later, with the same token: the answer may just have been lost."""
        self._claiming = False
        self._look_later(None)
        self._signal()

    def _slot_freed(self) -> None:
        self._free += 1
        self.finished += 1
        if self._free == self.concurrency:
            self._end_probation()
        if self._more or self._suspects:
            self.look()
        self._signal()

    def _end_probation(self) -> None:
        if self._alone is not None:
            self._alone.cancel()
            self._alone = None
            self.look()

    def _signal(self) -> None:
        if self._changed is not None:
            self._changed.set()

    # --- what the heart reports ------------------------------------------------------------------

    def controlled(self, run_id: str, control: Control) -> None:
        """An operator wants something of a run that this worker holds."""
        activation = self._executor.active.get(run_id)
        if activation is not None:
            activation.heard(control)

    def miscounted(self, held: int) -> None:
        """The store thinks that this worker holds so many runs: give back what it does not."""
        if self._claiming or self._state is not State.WORKING or held == len(self._executor.active):
            return
        pairs = tuple(
            (run_id, activation.grant.epoch) for run_id, activation in self._executor.active.items()
        )
        # No claim until it is answered: what a claim gave meanwhile would be taken back, too.
        self._claiming = True
        given_back = self._engine.committer.submit(GiveBack(self.worker_id, pairs), patient=True)
        given_back.add_done_callback(self._gave_back)

    def _gave_back(self, answer: asyncio.Future[Rescued]) -> None:
        self._claiming = False
        # None were given back where the heart had counted a run whose end was on its way.
        if not answer.cancelled() and not answer.exception() and answer.result().queued:
            log.warning(
                "gave back runs that nobody executed",
                worker_id=self.worker_id,
                runs=len(answer.result().queued),
            )
        self.look()

    @property
    def lead(self) -> Lead | None:
        """By what it leads; None where it does not."""
        return None if self.leader is None else self.leader.lead

    def lost(self) -> None:
        """The lease was lost: stop every body, and join again as a new worker."""
        if self._state is State.STOPPING:
            for activation in list(self._executor.active.values()):
                activation.leave(Leaving.LOST)
        if self._state is State.WORKING and (self._rejoining is None or self._rejoining.done()):
            log.error("worker lost its lease; its runs go on elsewhere", worker_id=self.worker_id)
            if WorkerLost in (hooks := self._engine.hooks).kinds:
                hooks.tell(WorkerLost(at=self._now(), worker_id=self.worker_id))
            if self.leader is not None:
                self.leader.lost()
            self._rejoining = asyncio.Task(self._rejoin(), loop=self._loop)

    async def _rejoin(self) -> None:
        self._state = State.LOST
        for activation in list(self._executor.active.values()):
            activation.leave(Leaving.LOST)
        await self._heart.stop()
        self._drop_sign()
        await self._executor.empty()
        while True:
            try:
                await self._join()
                break
            except StoreError as error:
                self._drop_sign()
                log.warning(
                    "cannot join as a new worker yet", worker_id=self.worker_id, error=error
                )
                self._tell_error("joining", error)
                await self._engine.clock.sleep(self._poll)
        self._state = State.WORKING
        self._tell_ready()
        self._lead()
        self.look()

    async def _stop_rejoining(self) -> None:
        if self._rejoining is not None:
            self._rejoining.cancel()
            await asyncio.gather(self._rejoining, return_exceptions=True)
            self._rejoining = None

    def _drop_sign(self) -> None:
        if self._release_sign is not None:
            self._release_sign()
            self._release_sign = None

    def rescue(self, worker_id: str, beat: int | None) -> None:
        """Another worker is dead: give its runs back."""
        if self._state is State.WORKING and worker_id not in self._rescuing:
            task = asyncio.Task(self._rescue(worker_id, beat), loop=self._loop)
            self._rescuing[worker_id] = task
            task.add_done_callback(lambda _: self._rescuing.pop(worker_id, None))

    async def _rescue(self, worker_id: str, beat: int | None) -> None:
        try:
            answer = await self._rescued(worker_id, beat)
        except StoreError as error:
            log.warning(
                "cannot rescue the runs of a worker yet", dead_worker_id=worker_id, error=error
            )
            self._tell_error("rescuing", error)
            return
        if self.leader is not None:
            self.leader.look()
        if answer.queued or answer.ended:
            await self._note_rescued(worker_id, answer)
            self.look()

    async def _note_rescued(self, worker_id: str, answer: Rescued) -> None:
        """Say that another worker was dead, if it held anything."""
        if not answer.queued and not answer.ended:
            return
        log.warning(
            "worker is dead; its runs are given back",
            dead_worker_id=worker_id,
            queued=len(answer.queued),
            ended=len(answer.ended),
        )
        if RunsRescued in (hooks := self._engine.hooks).kinds:
            hooks.tell(
                RunsRescued(
                    at=self._now(),
                    worker_id=self.worker_id,
                    dead_worker_id=worker_id,
                    queued=answer.queued,
                    ended=answer.ended,
                )
            )
        await telling.stopped(self._engine, answer.ended)

    def _rescued(self, worker_id: str, beat: int | None) -> asyncio.Future[Rescued]:
        evidence = crash_evidence(self._crash_cap)
        return self._engine.committer.submit(
            RescueWorker(worker_id, beat, self._crash_cap, evidence)
        )

    def stalled(self) -> None:
        """The event loop stood still for long and moves again."""
        log.warning("event loop moves again", worker_id=self.worker_id)

    # --- what hooks are told -------------------------------------------------------------------

    def _now(self) -> datetime:
        return to_datetime(self._engine.store_now())

    def _tell_ready(self) -> None:
        if WorkerReady in (hooks := self._engine.hooks).kinds:
            hooks.tell(
                WorkerReady(
                    at=self._now(),
                    worker_id=self.worker_id,
                    queues=self.queues,
                    slots=self.concurrency,
                )
            )

    def _tell_error(self, doing: str, error: StoreError) -> None:
        if WorkerError in (hooks := self._engine.hooks).kinds:
            summary = error_summary(encode_error(error))
            hooks.tell(
                WorkerError(at=self._now(), worker_id=self.worker_id, doing=doing, error=summary)
            )


def _check_count(name: str, given: object) -> None:
    if type(given) is not int or given < 1:
        raise UsageError(f"{name} must be a whole number above 0, got {shown(given)}")
    if given > MOST:
        raise UsageError(f"{name} must be at most {MOST:,}")


def _checked_names(what: str, given: object) -> tuple[str, ...]:
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise UsageError(f'{what} is a list of names: write ["default"], got {shown(given)}')
    names = tuple(check_id(name, f"a name in {what}") for name in cast("Iterable[str]", given))
    if not names:
        raise UsageError(f"{what} is an empty list: such a worker would never execute anything")
    return names


def crash_evidence(cap: int) -> bytes:
    """Return the error of a run that is stopped because its workers die with it."""
    return encode_error(
        PerdureError(
            f"{cap} workers in a row died while executing this run, without a new checkpoint; "
            "it is stopped so that it takes no more of them with it"
        )
    )
