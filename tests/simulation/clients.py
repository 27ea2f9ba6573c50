"""Clients: who orders runs, does to them what operators do, and is told how they ended.

Besides runs they order what starts runs, events and schedules, and pauses of a queue.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

from perdure.errors import (
    InvalidTransition,
    NotApplied,
    OutcomeUnknown,
    ResultTimeout,
    RunCancelled,
    RunConflict,
    RunFailed,
    ScheduleNotFound,
    StoreError,
    UsageError,
)
from perdure.handle import Run
from perdure.model.lineage import ORIGIN
from perdure.model.records import Status, WaitKind
from perdure.workflow import Workflow
from tests.simulation.body import LIMITED, NAMES, NARROW, PING, Placed, declare
from tests.simulation.programs import KEYS
from tests.simulation.tokens import plain

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

PAUSE = 0.5
"""Seconds after which a client asks again where the store failed."""

LONGEST_WAY = 20.0
"""Seconds that a call may be under way to the store."""

LOOK = 0.02
"""Seconds between looks at whether a run waits for an event."""


@dataclass(frozen=True, slots=True)
class Sending:
    """An event for the waits of runs: published, or sent to the order's run.

    ``aim``: so many seconds after the deadline of the first wait that the order's run is seen to
    have from then on; None: at once.
    """

    id: str
    after: float
    key: str | None
    published: bool
    aim: float | None

    @classmethod
    def draw(cls, rng: Random, id: str) -> "Sending":
        return cls(
            id,
            rng.choice((-3.0, 0.0, 0.5, 2.0, 5.0)),
            rng.choice((None, *KEYS, *KEYS)),
            rng.random() < 0.5,
            rng.choice((None, None, 0.0, 0.0, -1e-6, 1e-6, -0.3)),
        )


@dataclass(frozen=True, slots=True)
class Announcement:
    """An event that starts a run of every definition that listens."""

    id: str
    program: int
    wanted: bool
    at: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule: from when until when, and every how many seconds it starts a run."""

    id: str
    name: str
    program: int
    every: int
    missed: str
    at: float
    until: float


@dataclass(frozen=True, slots=True)
class QueuePause:
    """A pause of the queue with limits."""

    id: str
    at: float
    lasts: float


@dataclass(frozen=True, slots=True)
class Order:
    """What a client wants: a run of a program, and what is to become of it; times in seconds."""

    id: str
    name: str
    program: int
    at: float
    delay: float = 0.0
    unique_key: str | None = None
    max_attempts: int = 1
    cancel_after: float | None = None
    cancel_waits: bool = False
    compensates: bool = False
    retries: bool = False
    waits: bool = True
    limit_key: str | None = None
    sendings: tuple[Sending, ...] = ()
    pause_after: float | None = None
    pause_lasts: float = 0.0
    restart_after: float | None = None
    restart_from: float | None = None  # which of what is recorded; None: from the start
    fork_after: float | None = None
    fork_from: float | None = None

    @classmethod
    def draw(
        cls, rng: Random, number: int, program: int, until: float, families: frozenset[str]
    ) -> "Order":
        """Draw an order; ``families``: what else may befall a run."""
        order = cls(
            id=f"r{number}",
            name=rng.choice(NAMES),
            program=program,
            at=rng.random() * until * rng.choice((0.1, 0.8)),
            delay=rng.choice((0.0, 0.0, 0.0, 2.0, 9.0)),
            unique_key=rng.choice((None, None, "k")),
            max_attempts=rng.randint(1, 3),
            cancel_after=rng.choice((None, None, None, None, 0.3, 5.0)),
            cancel_waits=rng.random() < 0.5,
            retries=rng.random() < 0.4,
            waits=rng.random() < 0.6,
        )
        if "events" in families:
            count = rng.choice((0, 1, 2, 3))
            sendings = tuple(Sending.draw(rng, f"{order.id}-e{n}") for n in range(count))
            order = replace(order, sendings=sendings)
        if "undo" in families:
            order = replace(order, compensates=rng.random() < 0.7)
        if "limits" in families:
            limit_key = rng.choice((None, "j", "k", "k"))
            order = replace(order, name=rng.choice((order.name, LIMITED)), limit_key=limit_key)
        if "pauses" in families and rng.random() < 0.6:
            lasts = rng.choice((0.0, 0.3, 4.0, 15.0))
            order = replace(order, pause_after=rng.choice((0.0, 0.3, 2.0, 5.0)), pause_lasts=lasts)
        if "again" in families:
            for verb in ("restart", "fork"):
                if rng.random() < 0.4:
                    where = rng.choice((None, rng.random(), rng.random()))
                    after = rng.choice((0.3, 2.0, 6.0, 15.0))
                    order = replace(order, **{f"{verb}_after": after, f"{verb}_from": where})
        return order


Task = Order | Announcement | Plan | QueuePause


class Client:
    """One client in one process.

    Args:
        process: its own; it may be killed at any time, and somebody else goes on with its orders.
        orders: what it has to do.
    """

    def __init__(self, process: "Process", orders: Sequence[Task]) -> None:
        self.orders = orders
        self._world: World = process.world
        self._process = process

    async def work(self) -> None:
        """Carry out all orders at once."""
        app = self._process.open_app()
        definitions = declare(app, self._process)
        async with app:
            await asyncio.gather(*(self._place(definitions, order) for order in self.orders))

    async def _place(self, definitions: dict[str, Workflow], task: Task) -> None:
        await asyncio.sleep(max(0.0, task.at - self._world.timeline.now))
        match task:
            case Order():
                await self._order(definitions[task.name], task)
            case Announcement():
                await self._announce(task)
            case Plan():
                await self._plan(definitions[task.name], task)
            case QueuePause():
                queue = self._process.app.queue(NARROW)
                await self._patiently(queue.pause)
                await asyncio.sleep(task.lasts)
                await self._finally(queue.resume)
        self._world.open_orders.discard(task.id)

    async def _patiently(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Ask until the store does it."""
        while True:
            try:
                await ask()
            except StoreError:
                await asyncio.sleep(PAUSE)
            else:
                return

    async def _finally(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Ask also when what an earlier process of this client has sent must have arrived."""
        await self._patiently(ask)
        await asyncio.sleep(LONGEST_WAY + 1.0)
        await self._patiently(ask)

    async def _announce(self, task: Announcement) -> None:
        placed = Placed(task.program, task.wanted)
        await self._patiently(lambda: self._process.app.publish(placed, id=task.id))
        self._world.note("published", task.id)
        if task.id not in self._world.ledger.events.events:
            self._world.fail("S1", f"{task.id} was accepted and is unknown")

    async def _plan(self, definition: Workflow, task: Plan) -> None:
        world = self._world
        calls = definition.options(schedule_key=task.id, missed=task.missed)
        every = timedelta(seconds=task.every)
        await self._patiently(lambda: calls.schedule(every, task.program))
        await asyncio.sleep(max(0.0, task.until - world.timeline.now))
        world.check_punctual(task.id)
        schedule = self._process.app.schedule(task.id)

        async def remove() -> None:
            with suppress(ScheduleNotFound):
                await schedule.remove()

        await self._finally(remove)

    async def _order(self, definition: Workflow, order: Order) -> None:
        world = self._world
        early = [self._send(None, one) for one in order.sendings if one.after < 0]
        await asyncio.gather(*early)
        run = await self._enqueue(definition, order)
        world.accepted[order.id] = run.id
        world.note("accepted", order.id, run.id)
        if run.id == order.id:
            await asyncio.gather(
                self._follow(run, order),
                self._pause(run, order),
                self._restart(run, order),
                self._fork(run, order),
                *(self._send(run, one) for one in order.sendings if one.after >= 0),
            )

    async def _enqueue(self, definition: Workflow, order: Order) -> Run[list[str]]:
        calls = definition.options(
            id=order.id,
            unique_key=order.unique_key,
            max_attempts=order.max_attempts,
            limit_key=order.limit_key,
        )
        while True:
            try:
                if order.delay:
                    return await calls.delay(timedelta(seconds=order.delay), order.program)
                return await calls.enqueue(order.program)
            except NotApplied as error:
                if order.id not in self._world.unsure and order.id in self._world.ledger.runs:
                    self._world.fail("S2", f"{order.id} exists, its client was told {error!r}")
            except OutcomeUnknown:
                self._world.unsure.add(order.id)
            except RunConflict:  # the key is held by a run of another program
                pass
            await asyncio.sleep(PAUSE)

    async def _send(self, run: Run[list[str]] | None, sending: Sending) -> None:
        """Send or publish an event; without a run it is published."""
        await asyncio.sleep(max(0.0, sending.after))
        if run is not None and sending.aim is not None:
            await self._aim(run.id, sending.aim)
        event = {"id": sending.id}

        def ask() -> Awaitable[object]:
            if run is None or sending.published:
                app = self._process.app
                return app.publish(event, type=PING, key=sending.key, id=sending.id)
            return run.send_event(event, type=PING, key=sending.key, id=sending.id)

        try:
            await self._patiently(ask)
        except InvalidTransition:
            entry = self._world.ledger.runs[sending.id.rpartition("-")[0]]
            if not entry.endings:
                self._world.fail("S10", f"{sending.id} was refused, {entry.alias} has not ended")

    async def _aim(self, run_id: str, off: float) -> None:
        """Wait until the deadline of a wait of a run, or for a while."""
        world = self._world
        entry = world.ledger.runs[run_id]
        for _ in range(200):
            waits = [w for w in entry.waits if w.kind is WaitKind.EVENT and w.due_at is not None]
            if waits and entry.status is Status.WAITING:
                await asyncio.sleep(max(0.0, (waits[0].due_at - world.now()) / 1e6 + off))
                return
            if entry.endings:
                return
            await asyncio.sleep(LOOK)

    async def _follow(self, run: Run[list[str]], order: Order) -> None:
        if order.cancel_after is not None:
            await asyncio.sleep(order.cancel_after)
            await self._cancel(run, wait=order.cancel_waits, compensate=order.compensates)
        if not (order.waits or order.retries):
            return
        status = await self._result(run)
        if status is Status.FAILED and order.retries and await self._control(run.retry):
            await self._result(run)

    async def _control(self, verb: Callable[[], Awaitable[object]]) -> bool:
        """Do what an operator does; tell whether it was accepted."""
        try:
            await self._patiently(verb)
        except (InvalidTransition, UsageError):  # it has ended, or the step is gone
            return False
        return True

    async def _pause(self, run: Run[list[str]], order: Order) -> None:
        if order.pause_after is None:
            return
        await asyncio.sleep(order.pause_after)
        await self._control(run.pause)
        await asyncio.sleep(order.pause_lasts)
        await self._control(run.resume)

    async def _restart(self, run: Run[list[str]], order: Order) -> None:
        if order.restart_after is None:
            return
        await asyncio.sleep(order.restart_after)
        path, occurrence = self._recorded(run.id, order.restart_from)
        await self._control(lambda: run.restart(from_step=path, occurrence=occurrence))

    async def _fork(self, run: Run[list[str]], order: Order) -> None:
        if order.fork_after is None:
            return
        await asyncio.sleep(order.fork_after)
        path, occurrence = self._recorded(run.id, order.fork_from)
        fork_id = f"{order.id}-f"
        try:
            await self._control(lambda: run.fork(from_step=path, occurrence=occurrence, id=fork_id))
        except RunConflict:  # a fork of this id was made before, of what was recorded then
            if fork_id not in self._world.ledger.runs:
                self._world.fail("S1", f"{fork_id} exists for the store alone")

    def _recorded(self, run_id: str, share: float | None) -> tuple[str | None, int]:
        """Return the path of what is recorded so far along, and which of that path it is."""
        entry = self._world.ledger.runs[run_id]
        keys = [key for key in entry.steps if key != ORIGIN]
        if share is None or not keys:
            return None, 1
        at = int(share * len(keys))
        return keys[at].path, sum(key.path == keys[at].path for key in keys[: at + 1])

    async def _cancel(self, run: Run[list[str]], *, wait: bool, compensate: bool) -> None:
        while True:
            try:
                status = await run.cancel(wait=wait, compensate=compensate)
            except StoreError:
                await asyncio.sleep(PAUSE)
            except InvalidTransition:
                return
            else:
                self._world.note("cancelled", run.id, status)
                if wait and not self._world.ledger.runs[run.id].endings:
                    self._world.fail("S12", f"{run.id} goes on after cancel(wait=True)")
                return

    async def _result(self, run: Run[list[str]]) -> Status:
        while True:
            try:
                result = await run.result(timeout="7s")
            except RunFailed as failure:
                return self._told(run.id, Status.FAILED, failure.reason)
            except RunCancelled:
                return self._told(run.id, Status.CANCELLED, None)
            except ResultTimeout:
                continue
            except StoreError:
                await asyncio.sleep(PAUSE)
            else:
                return self._told(run.id, Status.COMPLETED, plain(result))

    def _told(self, run_id: str, status: Status, detail: str | None) -> Status:
        """What a client is told of a run's end must be an end that was committed (S6)."""
        ends = [
            (status, plain(json.loads(result)) if result is not None else reason)
            for status, result, reason in self._world.ledger.runs[run_id].endings
        ]
        if (status, detail) not in ends:
            self._world.fail("S6", f"the client of {run_id} was told {status} {detail}, not {ends}")
        return status
