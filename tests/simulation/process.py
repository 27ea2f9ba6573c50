"""A simulated process: its loops, clock, threads and randomness, and how it freezes and dies."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

from perdure import App
from perdure._engine.engine import Ports
from perdure.errors import StoreError
from perdure.ids import Ids
from perdure.model.records import Control, Grant, Micros
from perdure.model.transitions import (
    Beaten,
    Conflict,
    Fenced,
    Heartbeat,
    Outcome,
    SaveCheckpoint,
    Saved,
    Settle,
    Transition,
)
from perdure.stores.memory import MemoryStore
from perdure.workflow import Workflow
from tests.simulation.effects import Desk
from tests.simulation.faulty_store import FaultyStore
from tests.simulation.loop import Timeline, VirtualLoop

if TYPE_CHECKING:
    from tests.simulation.world import World

BEGINNING = 1_800_000_000_000_000
"""The time at the beginning of every world, in microseconds since the epoch."""

DAY: Micros = 86_400_000_000

Main = Callable[[], Coroutine[Any, Any, None]]


class ProcessClock:
    """The clock of one process: its wall clock may be days off."""

    def __init__(self, timeline: Timeline, offset: Micros, base: float) -> None:
        self._timeline = timeline
        self._base = base
        self.offset = offset

    def now(self) -> Micros:
        return BEGINNING + round(self._timeline.now * 1e6) + self.offset

    def monotonic(self) -> float:
        return self._timeline.now + self._base

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class VirtualThread:
    """A thread: one more loop on the timeline, which dies with its process.

    Args:
        loop: of its own.
        name: of the thread.
        main: what it runs.
        failed: told of the error that ended it, if one did.
    """

    def __init__(
        self, loop: VirtualLoop, name: str, main: Main, failed: Callable[[BaseException], None]
    ) -> None:
        self.name = name
        self._is_alive = True
        self._loop = loop
        self._failed = failed
        loop.call_soon(self._start, main)

    def _start(self, main: Main) -> None:
        self._loop.create_task(main()).add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._is_alive = False
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def join(self, timeout: float | None = None) -> bool:
        raise AssertionError("nothing may block in a simulation")

    def is_alive(self) -> bool:
        return self._is_alive

    def call_soon(self, callback: Callable[..., object], *args: Any) -> bool:
        if self._is_alive:
            self._loop.call_soon_threadsafe(callback, *args)
        return self._is_alive


class Process:
    """One simulated process. It is its own `Threads` port.

    Attributes:
        desk: what its bodies are doing, for the effect log.
        worker_id: under which its worker is registered, or was last.
        signs: the workers whose sign of life it holds.
        cut_until: until when it cannot reach the store.
        troubled_until: when the last trouble of its own ended: a frozen loop, a failed call.
    """

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.is_alive = True
        self.started_at = world.timeline.now
        self.loops: list[VirtualLoop] = []
        self.loop = self.new_loop()
        self.stopping = self.loop.create_future()
        self.cut_until = 0.0
        self.troubled_until = 0.0
        self.signs: set[str] = set()
        self.worker_id = ""
        self.desk = Desk(name, world.settings.concurrency)
        self.definitions: dict[str, Workflow] = {}
        self.app: App
        self.inlining: dict[tuple[Grant, int], str] = {}
        self._corpses: set[asyncio.Task[Any]] = set()
        rng = Random(world.rng.getrandbits(64))
        self.clock = ProcessClock(
            world.timeline, rng.choice((0, 0, DAY, -DAY)), rng.random() * 100_000
        )
        ids = Ids(Random(rng.getrandbits(64)), lambda: self.clock.now() // 1000)
        self.ports = Ports(self.clock, self, rng, ids)

    # --- life ------------------------------------------------------------------------------------

    def open_app(self) -> App:
        """Return an app of this process on the shared data."""
        store = MemoryStore(data=self.world.data)
        return App(FaultyStore(self, store), ports=self.ports)

    def begin(self, main: Main) -> None:
        """Run a coroutine as the process's main."""
        self.loop.call_soon(self._begin, main)

    def _begin(self, main: Main) -> None:
        self.loop.create_task(main()).add_done_callback(self._exited)

    def _exited(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None or isinstance(error, StoreError):
            self.world.exited(self, error)
        else:
            self.world.fail("EXIT", f"{self.name} died of {error!r}")

    def start(self, name: str, main: Main) -> VirtualThread:
        """Start a thread."""

        def failed(error: BaseException) -> None:
            self.world.fail("THREAD", f"{name} died of {error!r}")

        return VirtualThread(self.new_loop(), name, main, failed)

    def new_loop(self) -> VirtualLoop:
        loop = self.world.timeline.loop()
        loop.set_exception_handler(self._surprised)
        self.loops.append(loop)
        return loop

    def running_loop(self) -> VirtualLoop:
        """Return the loop of this process whose turn it is."""
        loop = asyncio.get_running_loop()
        assert loop in self.loops, "one process does not run another's code"
        return loop

    def _surprised(self, loop: Any, context: dict[str, Any]) -> None:
        if self.is_alive and not self.world.is_closing:
            error = context.get("exception")
            self.world.fail("CALLBACK", f"{self.name}: {context['message']}: {error!r}")

    # --- what befalls it -------------------------------------------------------------------------

    def kill(self, why: str) -> None:
        """End it between two instructions: nothing of it ever runs again."""
        if self.is_alive:
            self.world.note("kill", self.name, why)
            self.leave()
            self.world.killed(self)

    async def die(self, why: str) -> None:
        """End it from inside."""
        self.kill(why)
        await asyncio.get_running_loop().create_future()

    def freeze(self, seconds: float) -> None:
        """Let nothing of it run for so long."""
        self.world.note("freeze", self.name, f"{seconds:g} s")
        self.in_trouble_until(self.world.timeline.now + seconds)
        for loop in self.loops:
            self.world.timeline.freeze(loop, seconds)

    def stall(self, seconds: float) -> None:
        """Let its event loop stand still, and its threads go on."""
        self.world.note("stall", self.name, f"{seconds:g} s")
        self.world.timeline.freeze(self.loop, seconds)

    def cut_off(self, seconds: float) -> None:
        """Keep it from the store."""
        self.world.note("cut", self.name, f"{seconds:g} s")
        self.cut_until = self.world.timeline.now + seconds

    def heal(self) -> None:
        """End what befell it."""
        self.cut_until = 0.0
        for loop in self.loops:
            if loop.frozen_until:
                self.world.timeline.thaw(loop)

    def in_trouble_until(self, until: float) -> None:
        """Note that its beats may fail until then."""
        self.troubled_until = max(self.troubled_until, until)

    # --- what it knows ---------------------------------------------------------------------------

    def joined(self, worker_id: str) -> None:
        """A worker of it registers under this id."""
        self.signs.add(worker_id)
        self.worker_id = worker_id
        self.world.owners[worker_id] = self

    def heard(self, batch: Sequence[Transition], outcomes: Sequence[Outcome]) -> None:
        """An answer has arrived: from its main loop's next turn on it knows what it was told."""
        told: dict[tuple[str, int], Control] = {}
        for transition, outcome in zip(batch, outcomes, strict=False):
            match transition, outcome:
                case SaveCheckpoint() | Settle(), Fenced() | Conflict():
                    told[transition.grant.run_id, transition.grant.epoch] = Control.CANCEL
                case SaveCheckpoint(), Saved(control=word) if word:
                    told[transition.grant.run_id, transition.grant.epoch] = word
                case Heartbeat(), Beaten(controls=controls) if controls:
                    words = dict(controls)
                    told |= {g: words[g[0]] for g in self.desk.bodies if g[0] in words}
        if told:
            self.loop.call_soon_threadsafe(self._note_told, told)

    def _note_told(self, told: dict[tuple[str, int], Control]) -> None:
        for grant, word in told.items():
            _, before = self.desk.told.get(grant, (0.0, Control.PAUSE))
            if before is Control.PAUSE:
                self.desk.told[grant] = (self.world.timeline.now, word)

    # --- its end ---------------------------------------------------------------------------------

    def leave(self) -> None:
        """Let none of its loops run again; keep its tasks, so that no `finally` of them runs."""
        self.is_alive = False
        for loop in self.loops:
            self.world.timeline.drop(loop)
            self._corpses |= asyncio.all_tasks(loop)

    def left_over(self) -> list[Any]:
        """Return the tasks and timers of a process that has ended in order: there are none."""
        timers = [timer for loop in self.loops for timer in self.world.timeline.timers(loop)]
        return [*(task for task in self._corpses if not task.done()), *timers]

    def bury(self) -> None:
        """Give up what is left of it, without running anything of it on another loop."""
        if self.is_alive:
            self.leave()
        for task in self._corpses:
            task._log_destroy_pending = False
            with suppress(Exception):  # its code may do anything in a `finally`
                task.get_coro().close()
        self._corpses.clear()
        for loop in self.loops:
            loop.close()
