"""A stage: one app on a store and a virtual clock with one worker, and who moves them on.

What the kit and the crash runs share. A stage lets work settle, moves time to whatever is due
next, and says by name what hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Final

from msgspec.structs import replace

from perdure._engine.engine import StandIn
from perdure._runtime.worker import Worker
from perdure.app import UNCHANGED, App
from perdure.clock import to_datetime
from perdure.errors import SwallowedSuspension
from perdure.model.records import TERMINAL, Micros, RunQuery, RunRecord, Status
from perdure.store import Store
from perdure.testing import _inside as inside
from perdure.testing.clock import VirtualClock, VirtualDeadlines, virtual_ports
from perdure.testing.failures import Hung

QUIET_TURNS: Final = 5
"""Turns of the loop in a row in which nothing moves: only then work has settled."""

EAGER_TURNS: Final = 2_000
"""Turns after which a settling stage leaves the processor to real threads and real I/O."""

MOST_PATIENCE: Final = 12
"""Patiences after which work that goes on and on at one instant is taken to do so for ever."""

MOST_JUMPS: Final = 100_000
"""Jumps of time after which a run is taken to retry for ever."""


class Stage:
    """One life of an app on a store: from its start to its stop or its crash.

    Args:
        app: not connected yet.
        store: its store meanwhile; not opened yet.
        clock: the store's clock.
        only: names of the definitions that the worker serves; None for all.
        services: the app's meanwhile; its own where left out.
        patience: real seconds without progress after which something hangs.
        seed: of ids.
        stand_in: what is executed in the place of steps.
    """

    def __init__(
        self,
        app: App,
        store: Store,
        clock: VirtualClock,
        *,
        only: Iterable[str] | None = None,
        services: object = UNCHANGED,
        patience: float = 10.0,
        seed: int = 0,
        stand_in: StandIn | None = None,
    ) -> None:
        self.app = app
        self.store = store
        self.clock = clock
        self.worker = Worker(app, only=only)
        self.served = None if only is None else frozenset(only)
        self.patience = patience
        self.is_dead: Callable[[], bool] = _never
        self.swallowed: list[SwallowedSuspension] = []
        self.services = services
        self._seed = seed
        self._stand_in = stand_in
        self._undo = AsyncExitStack()

    # --- life ------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Override the app and connect it; no worker yet."""
        async with AsyncExitStack() as undo:
            ports = virtual_ports(self.clock, self._seed)
            undo.enter_context(
                self.app.override(store=self.store, services=self.services, ports=ports)
            )
            engine = self.app.engine
            self._deadlines = engine.deadlines = VirtualDeadlines(self.clock)
            undo.callback(setattr, engine, "stand_in", engine.stand_in)
            engine.stand_in = self._stand_in
            undo.callback(setattr, engine, "on_swallowed", engine.on_swallowed)
            engine.on_swallowed = self.swallowed.append
            await self.app.connect()
            undo.push_async_callback(self.app.close)
            self._undo = undo.pop_all()

    async def work(self) -> None:
        """Start the worker."""
        await self.worker.start()

    async def stop(self) -> None:
        """End in order; bodies that are in memory are dropped."""
        try:
            if inside.activations(self.worker):
                await inside.drop_bodies(self.worker)
            await self.worker.stop("0s")
        finally:
            await self._undo.aclose()

    async def crash(self) -> None:
        """End as a killed process does, as far as that can be done within one."""
        try:
            await inside.abandon(self.worker)
        finally:
            await self._undo.aclose()

    # --- moving on -------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Let everything happen that needs no time to move.

        Raises:
            Hung: a body has not moved for the stage's patience, or all of them move for ever.
        """
        loop = asyncio.get_running_loop()
        quiet = turns = 0
        began = loop.time()
        before, since = inside.progress(self.worker), began
        while quiet < QUIET_TURNS and not self.is_dead():
            inside.hasten(self.worker, self.clock.now())
            quiet = 0 if inside.moves(self.worker) else quiet + 1
            turns += 1
            await asyncio.sleep(0 if turns < EAGER_TURNS else 0.001)
            now = inside.progress(self.worker)
            if now != before:
                before, since = now, loop.time()
            elif quiet == 0 and loop.time() - since > self.patience:
                raise self.hung()
            if loop.time() - began > MOST_PATIENCE * self.patience:
                raise Hung(
                    f"work has not come to rest for {MOST_PATIENCE * self.patience:g} s of real "
                    f"time, at one instant:{await self.described(await self.unfinished())}"
                )

    def hung(self) -> Hung:
        """Return the failure that names the bodies that do not move."""
        bodies = [
            f"{activation.definition.name!r} (run {activation.run.run_id}) is at "
            f"{inside.where(activation)}"
            for activation in inside.activations(self.worker)
            if not inside.is_blocked(activation)
        ]
        return Hung(
            f"nothing has moved for {self.patience:g} s of real time, and time cannot bring it: "
            f"{'; '.join(bodies) or 'the store does not answer'}. A body waits durably through "
            "steps and runs only; if a step is that slow, raise patience=…"
        )

    async def unfinished(self) -> list[RunRecord]:
        """Return the runs that have not ended, oldest first."""
        statuses = tuple(status for status in Status if status not in TERMINAL)
        return await self.runs(RunQuery(statuses))

    async def runs(self, query: RunQuery) -> list[RunRecord]:
        """Return all the runs that match, oldest first."""
        found: list[RunRecord] = []
        before: int | None = None
        while True:
            page = await self.store.list_runs(replace(query, limit=1_000, before=before))
            found.extend(page)
            if len(page) < 1_000:
                return found[::-1]
            before = page[-1].seq

    async def next_due(self) -> Micros | None:
        """Return when time brings something next, or None; timeouts of steps included."""
        dues = [run.due_at for run in await self.unfinished() if self._will_be_claimed(run)]
        dues += [inside.next_due(self.worker), self._deadlines.next_due()]
        now = self.clock.now()
        schedules = [one for one in await self.store.schedules() if one.paused_at is None]
        dues += [one.next_at for one in schedules if one.next_at is not None and one.next_at > now]
        return min((due for due in dues if due is not None), default=None)

    def _will_be_claimed(self, run: RunRecord) -> bool:
        return run.status is Status.WAITING and self.serves(run)

    def serves(self, run: RunRecord) -> bool:
        """Tell whether the stage's worker executes runs like this."""
        return self.served is None or run.definition in self.served

    def move_to(self, instant: Micros) -> None:
        """Move time, and let what is due then begin."""
        self.clock.move_to(instant)
        self._deadlines.fire()
        inside.elapse(self.worker, self.clock.now())
        if self.worker.leader is not None:
            self.worker.leader.firer.look()
        self.worker.look()

    async def advance_to(self, target: Micros) -> None:
        """Move time to an instant by way of everything that is due before, each settled in turn."""
        while not self.is_dead():
            due = await self._settle_or_time_out(target)
            if due is None or due > target:
                break
            self.move_to(due)
        self.move_to(target)
        await self.settle()

    async def _settle_or_time_out(self, target: Micros) -> Micros | None:
        """Settle and return what is due next; for what hangs that may be its own timeout.

        Raises:
            Hung: a body hangs, and no timeout within the target ends that.
        """
        try:
            await self.settle()
        except Hung:
            due = self._deadlines.next_due()
            if due is None or due > target:
                raise
            return due
        return await self.next_due()

    async def finish(self, is_over: Callable[[list[RunRecord]], bool]) -> None:
        """Skip every wait until the unfinished runs satisfy a condition.

        Raises:
            Hung: nothing is due any more, and the condition does not hold.
        """
        jumps = 0
        while True:
            await self.settle()
            if self.is_dead():
                return
            left = await self.unfinished()
            if is_over(left):
                return
            due = await self.next_due()
            if due is None or jumps == MOST_JUMPS:
                raise Hung(
                    f"after {jumps} waits no time brings these runs to their end:"
                    f"{await self.described(left)}"
                )
            self.move_to(due)
            jumps += 1

    # --- telling ---------------------------------------------------------------------------------

    async def described(self, runs: Iterable[RunRecord]) -> str:
        """Return which runs these are, how they stand and where."""
        return "".join([f"\n  {await self._described(run)}" for run in runs])

    async def _described(self, run: RunRecord) -> str:
        text = f"run {run.run_id} of {run.definition!r} is {run.status}"
        for activation in inside.activations(self.worker):
            if activation.run.run_id == run.run_id:
                return f"{text} at {inside.where(activation)}"
        if run.reason is not None:
            text += f" ({run.reason})"
        if run.waiting_for is not None:
            text += f" for {run.waiting_for}"
        if run.due_at is not None:
            text += f" until {to_datetime(run.due_at).isoformat(' ', 'seconds')}"
        history = await self.store.history(run.run_id)
        waits = [] if history is None else [f"{wait.kind} {wait.key}" for wait in history.waits]
        return text + (f", in {', '.join(waits)}" if waits else "")


def _never() -> bool:
    return False
