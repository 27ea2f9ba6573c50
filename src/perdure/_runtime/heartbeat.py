"""The heart of a worker: keeps its lease from a thread and connection of its own.

It beats, so that a busy or blocked event loop loses nothing; it watches the other workers' beats,
so that the dead are found by how long their beat stood still on this machine's own monotonic
clock, never by anybody's wall clock; and it watches its own event loop. It writes only its
worker's row: what it finds out is handed to the worker's loop, where the committer writes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

from perdure.clock import LoopThread
from perdure.duration import Duration, named_micros
from perdure.errors import StoreError, UsageError
from perdure.model.leader import Lead, LeaveLead
from perdure.model.records import Control, WorkerRecord
from perdure.model.transitions import Beaten, Heartbeat
from perdure.telemetry import Log

if TYPE_CHECKING:
    from perdure._engine.engine import Engine
    from perdure.store import Store

log = Log("perdure.heartbeat")

STALL_WARNING = 60.0
"""Seconds after which a loop that does not move is reported and given no more work."""

STALL_LIMIT = 600.0
"""Seconds after which a process whose loop does not move is ended, so that others take over."""

EXIT_STALLED = 70
"""Exit status of such a process (EX_SOFTWARE)."""


class Pulse(msgspec.Struct, frozen=True):
    """How often the heart beats and looks, in seconds.

    Args:
        lease: how long a beat may stand still.
        interval: between beats.
        look: between looks at the others; a rescue is late by at most two of them.
    """

    lease: float
    interval: float
    look: float

    @classmethod
    def of(cls, lease: Duration, heartbeat: Duration) -> Self:
        """Return the pulse of a worker's options.

        Raises:
            UsageError: the lease is shorter than three heartbeats.
        """
        seconds = named_micros(lease, "lease") / 1e6
        interval = named_micros(heartbeat, "heartbeat") / 1e6
        if interval <= 0 or seconds < 3 * interval:
            raise UsageError(
                f"lease must be at least three times heartbeat, got {lease!r} and {heartbeat!r}: "
                "two lost beats must not cost a worker its runs"
            )
        return cls(seconds, interval, min(1.0, interval / 5))


class Sightings:
    """Which beat of each other worker was first seen when, on the own monotonic clock."""

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._seen: dict[str, tuple[int, float]] = {}

    def forget(self) -> None:
        """Start over: for a while nobody was looking, so nothing is known."""
        self._seen.clear()

    def expired(self, workers: Iterable[WorkerRecord], now: float) -> list[tuple[str, int]]:
        """Take in what is seen now; return the workers whose beat stood still for one lease."""
        before, self._seen = self._seen, {}
        expired: list[tuple[str, int]] = []
        for worker in workers:
            beat, since = before.get(worker.worker_id, (-1, now))
            if beat != worker.beat:
                since = now
            self._seen[worker.worker_id] = (worker.beat, since)
            if now - since >= self._lease:
                expired.append((worker.worker_id, worker.beat))
        return expired


class Listener(Protocol):
    """What the heart tells its worker, always on the worker's loop."""

    worker_id: str

    @property
    def lead(self) -> Lead | None:
        """By what this worker leads; asked for in the heart's thread."""
        ...

    def controlled(self, run_id: str, control: Control) -> None:
        """An operator wants something of a run that this worker holds."""
        ...

    def miscounted(self, held: int) -> None:
        """The store thinks that this worker holds so many runs."""
        ...

    def lost(self) -> None:
        """The store does not know this worker any more."""
        ...

    def stalled(self) -> None:
        """The loop stood still for long and moves again."""
        ...

    def rescue(self, worker_id: str, beat: int | None) -> None:
        """Another worker is dead: its beat stood still at ``beat``, or it is known (None)."""
        ...


class Heart:
    """Beats for one worker until it is stopped or lost.

    Args:
        worker: whom it beats for; its methods are called on the loop this is made on.
        engine: of the app.
        pulse: how often.
    """

    def __init__(self, worker: Listener, engine: Engine, pulse: Pulse) -> None:
        self._worker = worker
        self._engine = engine
        self._pulse = pulse
        self._worker_id = worker.worker_id
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._thread: LoopThread | None = None
        self._stop: asyncio.Event | None = None
        self._stopping = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._sightings = Sightings(pulse.lease)
        self._last_beat = float("-inf")
        self._last_look = float("-inf")
        self._loop_moved = self._engine.clock.monotonic()
        self._asked = False
        self._reported = False
        self._patience = 2 * pulse.interval  # a loop that moves is asked at each look
        self._left: Lead | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._thread = self._engine.threads.start("perdure-heartbeat", self._beat)

    async def stop(self) -> None:
        """Stop beating, and wait until the thread has ended. Stopping twice is harmless."""
        self._stopping = True
        if self._thread is None:
            return
        self._thread.call_soon(self._stop_now)
        await asyncio.shield(self._ended)  # a stop that is cancelled must not undo the next one

    def _stop_now(self) -> None:
        if self._stop is not None:
            self._stop.set()

    # --- in the heart's own thread ---------------------------------------------------------------

    async def _beat(self) -> None:
        self._stop = asyncio.Event()
        store = self._engine.store.side()
        try:
            while not self._stopping:
                await self._try_tick(store)
                try:
                    await asyncio.wait_for(self._stop.wait(), self._pulse.look)
                except TimeoutError:
                    continue
        finally:
            await store.close()
            self._tell(self._note_ended)

    async def _try_tick(self, store: Store) -> None:
        try:
            await store.open()
            await self.tick(store)
        except StoreError as error:
            self._sightings.forget()
            log.warning("heartbeat failed", worker_id=self._worker_id, error=error)
        except Exception:
            # Whatever it is, a heart that stops beating costs the worker all its runs.
            self._sightings.forget()
            log.exception("heartbeat failed unexpectedly", worker_id=self._worker_id)

    async def tick(self, store: Store) -> None:
        """Beat if it is time, look at the other workers, and look after the loop."""
        now = self._engine.clock.monotonic()
        if now - self._last_beat >= self._pulse.interval - self._pulse.look / 2:
            await self._give_sign(store)
            self._last_beat = now
        await self._look_at_others(store)
        if self._look_after_loop(now) >= self._patience:
            await self._leave_lead(store)

    async def _give_sign(self, store: Store) -> None:
        (answer,) = await store.apply([Heartbeat(self._worker_id)])
        assert isinstance(answer, Beaten), answer
        if not answer.known:
            self._stopping = True
            self._tell(self._worker.lost)
            return
        for run_id, control in answer.controls:
            self._tell(self._worker.controlled, run_id, control)
        self._tell(self._worker.miscounted, answer.held)

    async def _look_at_others(self, store: Store) -> None:
        others = [w for w in await store.workers() if w.worker_id != self._worker_id]
        if not others:
            return
        for departed in store.departed(worker.worker_id for worker in others):
            self._tell(self._worker.rescue, departed, None)
        now = self._engine.clock.monotonic()
        if now - self._last_look > self._pulse.interval:
            # Asked after reading: this process may have been frozen since the last look, or in the
            # middle of this one, and the others with it.
            self._sightings.forget()
        self._last_look = now
        for worker_id, beat in self._sightings.expired(others, now):
            self._tell(self._worker.rescue, worker_id, beat)

    async def _leave_lead(self, store: Store) -> None:
        """Let another worker lead: this one's loop does not fire what is due.

        When it moves again the store refuses what it still had in mind, as of a frozen process.
        """
        lead = self._worker.lead
        if lead is not None and lead != self._left:
            await store.apply([LeaveLead(lead)])
            self._left = lead
            log.warning(
                "event loop stands still; another worker may lead", worker_id=self._worker_id
            )

    def _look_after_loop(self, now: float) -> float:
        """Return for how many seconds the loop has stood still, as far as is known."""
        if not self._asked:
            self._asked = True
            self._tell(self._note_moved)
            return 0.0
        still = now - self._loop_moved
        if still >= STALL_LIMIT:
            log.critical(
                "event loop stands still; ending the process",
                worker_id=self._worker_id,
                seconds=int(still),
            )
            os._exit(EXIT_STALLED)
        if still >= STALL_WARNING and not self._reported:
            self._reported = True
            log.error(
                "event loop stands still",
                worker_id=self._worker_id,
                seconds=int(still),
                where=self._where(),
            )
        return still

    def _where(self) -> str:
        frame = sys._current_frames().get(  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- documented
            self._loop_thread
        )
        return "".join(traceback.format_stack(frame)) if frame is not None else "(unknown)"

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            # The loop is closed: nobody is left to be told, and nothing to beat for.
            self._stopping = True

    # --- on the worker's loop --------------------------------------------------------------------

    def _note_moved(self) -> None:
        self._loop_moved = self._engine.clock.monotonic()
        self._asked = False
        if self._reported:
            self._reported = False
            self._worker.stalled()

    def _note_ended(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
