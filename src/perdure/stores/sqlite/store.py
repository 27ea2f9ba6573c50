"""The store in one SQLite file: the contract's verbs over a writer, a reader, bells and signs.

Where a batch is applied
    A write takes the file's lock and waits for the disk, so it belongs in the writer's thread. But
    a hop there and back costs 70 us, and a single commit on a good disk 120 to 165 us: then a small
    batch is applied at once on the loop's own thread, if nobody else is writing. Where commits
    turn out slow, the thread is used for a while.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from perdure._platform import on_fork
from perdure.clock import Clock, SystemClock
from perdure.errors import StoreClosed, UsageError
from perdure.model.changes import ChangePage, SubscriberRecord
from perdure.model.events import (
    EventQuery,
    EventRecord,
    GiveUpEvent,
    ListenerRecord,
    TakeEvent,
)
from perdure.model.leader import LeaderRecord
from perdure.model.progress import SetProgress
from perdure.model.queues import QueueRecord
from perdure.model.records import (
    Count,
    Ending,
    History,
    Micros,
    RunQuery,
    RunRecord,
    WorkerRecord,
)
from perdure.model.retention import Prune, Pruned
from perdure.model.schedules import Fire, ScheduleRecord
from perdure.model.streams import StreamPage, WriteStream
from perdure.model.transitions import (
    Claim,
    CreateRun,
    Heartbeat,
    Outcome,
    SaveCheckpoint,
    Settle,
    Transition,
)
from perdure.model.versions import Pinned
from perdure.store import Capabilities
from perdure.stores.sqlite.connecting import SYNCHRONOUS, connect, plan, prepare
from perdure.stores.sqlite.failures import is_busy, store_error
from perdure.stores.sqlite.journal import Applied, Journal
from perdure.stores.sqlite.reads import Reader
from perdure.stores.sqlite.signs import Signs
from perdure.stores.sqlite.threads import CallThread
from perdure.stores.sqlite.unit import NotQuick
from perdure.stores.sqlite.wakeups import PROCESS, Bell

T = TypeVar("T")

PATIENCE: Final = 30.0
"""Seconds to wait for other writers before StoreBusy."""

_MOST_INLINE: Final = 4  # transitions in a batch that may be applied on the loop's thread
_SMALL: Final = frozenset(
    {
        *(CreateRun, SaveCheckpoint, WriteStream, SetProgress, Settle, Claim),
        *(Heartbeat, TakeEvent, GiveUpEvent),
    }
)
_QUICK: Final = 0.000_5  # seconds of the recent commits, on average, for that
_WEIGHT: Final = 1 / 8  # of the newest commit: one that took 5 ms sends some ten to the thread


class SqliteStore:
    """A store in one file, shared by the processes of one machine.

    Args:
        path: of the file; it is created where there is none, its directory is not.
        namespace: stores of other namespaces see nothing of this one.
        clock: what decides when something is due; the machine's where left out.
        synchronous: ``full`` survives power loss; ``normal`` only the death of processes.
        patience: seconds to wait for other writers before StoreBusy.
        inline: apply every batch on the caller's thread, which then may block.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        namespace: str = "default",
        clock: Clock | None = None,
        *,
        synchronous: str = "full",
        patience: float = PATIENCE,
        inline: bool = False,
    ) -> None:
        if os.fspath(path) in ("", ":memory:"):
            raise UsageError(f"a SQLite store needs a file, got {os.fspath(path)!r}")
        if synchronous not in SYNCHRONOUS:
            raise UsageError(f'synchronous must be "full" or "normal", got {synchronous!r}')
        self.path = Path(os.path.realpath(path))  # one name for what stands beside the file
        self.namespace = namespace
        self._clock: Clock = SystemClock() if clock is None else clock
        self._synchronous = synchronous
        self._patience = patience
        self._inline = inline
        self._journal: Journal | None = None
        self._reader: Reader | None = None
        self._connections: list[sqlite3.Connection] = []
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._write_thread = CallThread("perdure-sqlite-writer")
        self._read_thread = CallThread("perdure-sqlite-reader")
        self._bell = Bell(self.path, namespace, self._data_version)
        self._signs = Signs(self.path, namespace)
        self._pace = 0.0
        self._seen_version = 0
        self._closed = "is not open"

    @property
    def capabilities(self) -> Capabilities:
        """What this store can do."""
        durability = "power" if self._synchronous == "full" else "kill"
        return Capabilities("sqlite", durability, shared=True, knows_departed=True)

    # --- lifetime ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Create or verify the file and connect; see :meth:`perdure.store.Store.open`."""
        if self._journal is not None:
            return
        if self._inline:
            self._connect()
        else:
            await self._write_thread.call(self._connect)
        _OPEN.add(self)

    def _connect(self) -> None:
        with self._writing:
            if self._journal is None:
                self._patiently(self._connect_once)

    def _connect_once(self) -> None:
        prepare(self.path)
        writing = connect(self.path, synchronous=self._synchronous)
        try:
            # Is it writable? Said now and not at the first write; BEGIN IMMEDIATE does not tell.
            writing.execute("DELETE FROM name WHERE id < 0")
            reading = connect(self.path, synchronous=self._synchronous)
        except sqlite3.Error:
            writing.close()
            raise
        self._connections = [writing, reading]
        self._reader = Reader(reading, self.namespace)
        self._journal = Journal(writing, self.path, self.namespace, self._clock)

    async def plan(self) -> list[str]:
        """Return what opening would create; see :meth:`perdure.store.Store.plan`."""
        return self._patiently(lambda: plan(self.path))

    async def close(self) -> None:
        """Wait for what is being written, then release everything."""
        if self._journal is not None:
            self._closed = "is closed"
        _OPEN.discard(self)
        for thread in (self._read_thread, self._write_thread):
            if thread.is_started:
                await thread.call(_nothing)
                thread.stop()
        self._journal = self._reader = None
        self._bell.close()
        self._signs.release_all()
        for connection in self._connections:
            connection.close()
        self._connections = []

    def side(self) -> SqliteStore:
        """Return an unopened second store on the file, which may block its loop's thread."""
        return SqliteStore(
            self.path,
            self.namespace,
            self._clock,
            synchronous=self._synchronous,
            patience=self._patience,
            inline=True,
        )

    # --- writing -----------------------------------------------------------------------------

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Apply transitions; see :meth:`perdure.store.Store.apply`."""
        outcomes = self.apply_at_once(batch)
        if outcomes is None:
            journal = self._opened(self._journal)
            outcomes = await self._write_thread.call(lambda: self._apply(journal, batch))
        return outcomes

    def apply_at_once(self, batch: Sequence[Transition]) -> list[Outcome] | None:
        """Apply a batch on this thread if that is certain not to block for long."""
        journal = self._opened(self._journal)
        if self._inline:
            return self._apply(journal, batch)
        if (
            len(batch) > _MOST_INLINE
            or self._pace > _QUICK
            or self._write_thread.pending
            or not _SMALL.issuperset(map(type, batch))
        ):
            return None
        if not self._writing.acquire(blocking=False):
            return None
        try:
            applied = self._timed(journal, batch, quick=True)
        except (sqlite3.Error, NotQuick):  # others are writing, or there is much to do
            return None
        finally:
            self._writing.release()
        return self._applied(applied)

    def _apply(self, journal: Journal, batch: Sequence[Transition]) -> list[Outcome]:
        with self._writing:
            applied = self._patiently(lambda: self._timed(journal, batch))
        return self._applied(applied)

    def _timed(
        self, journal: Journal, batch: Sequence[Transition], *, quick: bool = False
    ) -> Applied:
        """Apply a batch, and keep the moving average of how long small ones take."""
        began = time.monotonic()
        applied = journal.apply(batch, quick=quick)
        if len(batch) <= _MOST_INLINE:
            self._pace += (time.monotonic() - began - self._pace) * _WEIGHT
        return applied

    def _applied(self, applied: Applied) -> list[Outcome]:
        """Do what follows a commit, and return its outcomes."""
        if applied.hint:
            self._bell.ring()
        for worker_id in applied.removed:
            self._signs.forget(worker_id)
        return applied.outcomes

    def _patiently(self, call: Callable[[], T]) -> T:
        """Make a call again and again while others hold the file."""
        deadline = time.monotonic() + self._patience
        pause = 0.000_5
        while True:
            try:
                return call()
            except sqlite3.Error as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise store_error(error, self.path) from error
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # so that two do not march in step
            pause = min(pause * 1.5, 0.01)

    # --- reading -----------------------------------------------------------------------------

    async def get(self, run_id: str) -> RunRecord | None:
        """Return the run, or None."""
        return await self._read(lambda reader: reader.get(run_id), quick=True)

    async def endings(self, run_ids: Iterable[str]) -> dict[str, Ending]:
        """Return how those of the named runs ended that are terminal."""
        asked = list(run_ids)
        return await self._read(lambda reader: reader.endings(asked), quick=len(asked) <= 20)

    async def history(self, run_id: str) -> History | None:
        """Return everything kept of a run."""
        return await self._read(lambda reader: reader.history(run_id))

    async def list_runs(self, query: RunQuery) -> list[RunRecord]:
        """Return the runs that match, newest first."""
        return await self._read(lambda reader: reader.list_runs(query))

    async def count_runs(self, query: RunQuery) -> int:
        """Return how many runs match."""
        return await self._read(lambda reader: reader.count_runs(query))

    async def counts(self, *, by_definition: bool = False, by_queue: bool = False) -> list[Count]:
        """Return how many runs there are of each status."""
        return await self._read(
            lambda reader: reader.counts(by_definition=by_definition, by_queue=by_queue)
        )

    async def pins(self) -> list[Pinned]:
        """Return how many runs that have not ended are pinned to which version."""
        return await self._read(lambda reader: reader.pins())

    async def events(self, query: EventQuery) -> list[EventRecord]:
        """Return the events that match, newest first."""
        return await self._read(lambda reader: reader.events(query))

    async def listeners(self) -> list[ListenerRecord]:
        """Return the registered listeners by type, then definition."""
        return await self._read(lambda reader: reader.listeners())

    async def schedules(self, *, due_by: Micros | None = None) -> list[ScheduleRecord]:
        """Return the schedules, in the order of their keys."""
        return await self._read(lambda reader: reader.schedules(due_by), quick=True)

    async def fires(self, key: str, limit: int = 100) -> list[Fire]:
        """Return what became of the instants of a schedule, newest first."""
        return await self._read(lambda reader: reader.fires(key, limit))

    async def prunable(self, asked: Prune) -> Pruned:
        """Return how much there is to remove."""
        now = self._clock.now()
        return await self._read(lambda reader: reader.prunable(asked, now))

    async def queues(self) -> list[QueueRecord]:
        """Return the queues of which something is kept, in the order of their names."""
        return await self._read(lambda reader: reader.queues(), quick=True)

    async def next_start_of_key(self, queue: str, limit_key: str) -> Micros:
        """Return from when on the rate of a key allows a start."""
        return await self._read(lambda reader: reader.next_start_of_key(queue, limit_key))

    async def stream(
        self, run_id: str, name: str, after: int = 0, limit: int = 100
    ) -> StreamPage | None:
        """Return entries of a stream of a run, oldest first."""
        return await self._read(
            lambda reader: reader.stream(run_id, name, after, limit), quick=limit <= 100
        )

    async def changes(self, after: str | None = None, limit: int = 100) -> ChangePage:
        """Return the changes that follow on a position."""
        return await self._read(lambda reader: reader.changes(after, limit), quick=limit <= 100)

    async def position(self, back: int = 0) -> str:
        """Return the position on which the newest ``back`` changes follow."""
        return await self._read(lambda reader: reader.position(back), quick=True)

    async def subscribers(self) -> list[SubscriberRecord]:
        """Return the subscribers, in the order of their names."""
        return await self._read(lambda reader: reader.subscribers())

    async def damage(self) -> list[str]:
        """Return what SQLite's check of the file finds."""
        return await self._read(lambda reader: reader.damage())

    async def workers(self) -> list[WorkerRecord]:
        """Return the registered workers."""
        return await self._read(lambda reader: reader.workers(), quick=True)

    async def leader(self) -> LeaderRecord:
        """Return who leads."""
        return await self._read(lambda reader: reader.leader(), quick=True)

    async def now(self) -> Micros:
        """Return the store's time."""
        self._opened(self._journal)
        return self._clock.now()

    async def _read(self, read: Callable[[Reader], T], *, quick: bool = False) -> T:
        """Read on this thread where that is quick and possible, else in the reader's."""
        reader = self._opened(self._reader)
        if (quick or self._inline) and self._reading.acquire(blocking=False):
            try:
                return read(reader)
            except sqlite3.Error as error:
                if not is_busy(error):
                    raise store_error(error, self.path) from error
            finally:
                self._reading.release()

        def patiently() -> T:
            with self._reading:
                return self._patiently(lambda: read(reader))

        return await self._read_thread.call(patiently)

    # --- signs and hints ---------------------------------------------------------------------

    def hold(self, worker_id: str) -> Callable[[], None]:
        """Lock a file for a worker of this process; return what releases it."""
        self._opened(self._journal)
        return self._signs.hold(worker_id)

    def departed(self, worker_ids: Iterable[str]) -> set[str]:
        """Return those of the named workers whose process is dead."""
        self._opened(self._journal)
        return self._signs.departed(worker_ids)

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back in this loop at hints of other stores on this file and namespace."""
        self._opened(self._journal)
        return self._bell.listen(callback)

    def _data_version(self) -> int:
        """Return a number that changes when another connection has committed."""
        if self._reader is not None and self._reading.acquire(blocking=False):
            try:
                self._seen_version = self._reader.data_version()
            finally:
                self._reading.release()
        return self._seen_version

    # --- guards ------------------------------------------------------------------------------

    def _opened(self, part: T | None) -> T:
        if part is None:
            raise StoreClosed(f"the store on {self.path} {self._closed}")
        return part

    def abandon(self) -> None:
        """Be unusable in a child made by fork, and touch nothing of its parent's.

        SQLite forbids a child even to close its parent's connections, so they are kept for ever.
        """
        _INHERITED.extend(self._connections)
        self._connections = []
        self._journal = self._reader = None
        self._closed = "was opened before this process was forked; open a new one in the child"
        self._bell.abandon()
        self._signs.abandon()


_OPEN: weakref.WeakSet[SqliteStore] = weakref.WeakSet()
_INHERITED: list[Any] = []


def _forked() -> None:
    PROCESS.forked()
    for store in list(_OPEN):
        store.abandon()
    _OPEN.clear()


on_fork(_forked)


def _nothing() -> None:
    """Be called last."""
