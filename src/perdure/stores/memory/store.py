"""The store in memory: one lock, a clock and hints around the dictionaries of a namespace.

For tests, simulations and reading; nothing survives the process. What the transitions do stands in
the modules beside this one, named after the verbs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass

from perdure.clock import Clock, SystemClock
from perdure.errors import StoreClosed, UsageError
from perdure.model.changes import ChangePage, SubscriberRecord
from perdure.model.events import EventQuery, EventRecord, ListenerRecord
from perdure.model.leader import LeaderRecord
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
from perdure.model.streams import StreamPage
from perdure.model.transitions import Outcome, Transition
from perdure.model.versions import Pinned
from perdure.store import Capabilities
from perdure.stores.memory import events, feed, journal, pruning, queues, reads, schedules
from perdure.stores.memory.space import Space
from perdure.url import without_password


class MemoryData:
    """What the stores of one simulated machine share: a space for each namespace.

    Args:
        clock: the clock of the stores that name none of their own.
        departed: the workers known to be dead; whoever kills one adds it. None: nobody knows.
    """

    def __init__(self, clock: Clock | None = None, *, departed: set[str] | None = None) -> None:
        self.clock: Clock = SystemClock() if clock is None else clock
        self.departed = departed
        self.lock = threading.Lock()
        self.spaces: dict[str, Space] = {}
        self.listeners: list[_Listener] = []


@dataclass(frozen=True, slots=True, eq=False)
class _Listener:
    """A callback for hints, and the loop in which it wants them."""

    store: MemoryStore
    loop: asyncio.AbstractEventLoop
    callback: Callable[[], None]

    def call(self) -> None:
        if self.loop.is_closed():
            return
        try:
            self.loop.call_soon_threadsafe(self.callback)
        except RuntimeError:  # another thread closed the loop just now: a hint may be lost
            if not self.loop.is_closed():
                raise


class MemoryStore:
    """A store that is gone with its process.

    Args:
        namespace: stores of other namespaces see nothing of this one.
        clock: what decides when something is due; the data's own where left out.
        data: what this store shares with others; of its own where left out.
    """

    def __init__(
        self,
        namespace: str = "default",
        *,
        clock: Clock | None = None,
        data: MemoryData | None = None,
    ) -> None:
        self.namespace = namespace
        self.data = MemoryData(clock) if data is None else data
        self._clock = self.data.clock if clock is None else clock
        self._is_open = False

    @property
    def capabilities(self) -> Capabilities:
        """What this store can do."""
        return Capabilities(
            name="memory",
            durability="process",
            shared=False,
            knows_departed=self.data.departed is not None,
        )

    async def open(self) -> None:
        """Be ready; nothing is read or written."""
        with self.data.lock:
            self.data.spaces.setdefault(self.namespace, Space())
        self._is_open = True

    async def plan(self) -> list[str]:
        """Return nothing: there is nothing to create."""
        return []

    async def damage(self) -> list[str]:
        """Return nothing: there are no data that could be damaged."""
        self._space()
        return []

    async def close(self) -> None:
        """Refuse further use and end this store's listening; the data stay for who shares them."""
        self._is_open = False
        with self.data.lock:
            self.data.listeners = [
                listener for listener in self.data.listeners if listener.store is not self
            ]

    def side(self) -> MemoryStore:
        """Return an unopened second store on the same data, for another thread's loop."""
        return MemoryStore(self.namespace, clock=self._clock, data=self.data)

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Apply transitions; see :meth:`perdure.store.Store.apply`."""
        space = self._space()
        with self.data.lock:
            outcomes = journal.apply(space, batch, self._clock.now())
            hint, space.hint = space.hint, False
            listeners = list(self.data.listeners) if hint else []
        for listener in listeners:
            if listener.store is not self and listener.store.namespace == self.namespace:
                listener.call()
        return outcomes

    def apply_at_once(self, batch: Sequence[Transition]) -> None:
        """Leave every batch to :meth:`apply`, which is quick: one way is easier to watch."""

    async def get(self, run_id: str) -> RunRecord | None:
        """Return the run, or None."""
        space = self._space()
        with self.data.lock:
            row = space.rows.get(run_id)
            return None if row is None else copy(row.run)

    async def endings(self, run_ids: Iterable[str]) -> dict[str, Ending]:
        """Return how those of the named runs ended that are terminal."""
        space = self._space()
        with self.data.lock:
            return reads.endings(space, run_ids)

    async def history(self, run_id: str) -> History | None:
        """Return everything kept of a run."""
        space = self._space()
        with self.data.lock:
            return reads.history(space, run_id)

    async def list_runs(self, query: RunQuery) -> list[RunRecord]:
        """Return the runs that match, newest first."""
        space = self._space()
        with self.data.lock:
            return reads.list_runs(space, query)

    async def count_runs(self, query: RunQuery) -> int:
        """Return how many runs match."""
        space = self._space()
        with self.data.lock:
            return reads.count_runs(space, query)

    async def counts(self, *, by_definition: bool = False, by_queue: bool = False) -> list[Count]:
        """Return how many runs there are of each status."""
        space = self._space()
        with self.data.lock:
            return reads.counts(space, by_definition=by_definition, by_queue=by_queue)

    async def pins(self) -> list[Pinned]:
        """Return how many runs that have not ended are pinned to which version."""
        space = self._space()
        with self.data.lock:
            return reads.pins(space)

    async def events(self, query: EventQuery) -> list[EventRecord]:
        """Return the events that match, newest first."""
        space = self._space()
        with self.data.lock:
            return events.events(space, query)

    async def listeners(self) -> list[ListenerRecord]:
        """Return the registered listeners by type, then definition."""
        space = self._space()
        with self.data.lock:
            return events.listeners(space)

    async def schedules(self, *, due_by: Micros | None = None) -> list[ScheduleRecord]:
        """Return the schedules, in the order of their keys."""
        space = self._space()
        with self.data.lock:
            return schedules.schedules(space, due_by)

    async def fires(self, key: str, limit: int = 100) -> list[Fire]:
        """Return what became of the instants of a schedule, newest first."""
        space = self._space()
        with self.data.lock:
            return schedules.fires(space, key, limit)

    async def prunable(self, asked: Prune) -> Pruned:
        """Return how much there is to remove."""
        space = self._space()
        with self.data.lock:
            return pruning.prunable(space, asked, self._clock.now())

    async def queues(self) -> list[QueueRecord]:
        """Return the queues of which something is kept, in the order of their names."""
        space = self._space()
        with self.data.lock:
            return queues.queues(space)

    async def next_start_of_key(self, queue: str, limit_key: str) -> Micros:
        """Return from when on the rate of a key allows a start."""
        space = self._space()
        with self.data.lock:
            return space.ready.next_start_of_key(queue, limit_key)

    async def stream(
        self, run_id: str, name: str, after: int = 0, limit: int = 100
    ) -> StreamPage | None:
        """Return entries of a stream of a run, oldest first."""
        space = self._space()
        with self.data.lock:
            return reads.stream(space, run_id, name, after, limit)

    async def changes(self, after: str | None = None, limit: int = 100) -> ChangePage:
        """Return the changes that follow on a position."""
        space = self._space()
        with self.data.lock:
            return space.feed.page(after, limit)

    async def position(self, back: int = 0) -> str:
        """Return the position on which the newest ``back`` changes follow."""
        space = self._space()
        with self.data.lock:
            return space.feed.position(back)

    async def subscribers(self) -> list[SubscriberRecord]:
        """Return the subscribers, in the order of their names."""
        space = self._space()
        with self.data.lock:
            return feed.subscribers(space)

    async def workers(self) -> list[WorkerRecord]:
        """Return the registered workers in order of registration."""
        space = self._space()
        with self.data.lock:
            return [worker.record for worker in space.workers.values()]

    async def leader(self) -> LeaderRecord:
        """Return who leads."""
        space = self._space()
        with self.data.lock:
            return space.leader

    async def now(self) -> Micros:
        """Return the store's time."""
        return self._clock.now()

    def hold(self, worker_id: str) -> Callable[[], None]:  # noqa: ARG002  # the contract's name
        """Do nothing: nothing outlives this process that could be held for another to see."""
        return _release_nothing

    def departed(self, worker_ids: Iterable[str]) -> set[str]:
        """Return those of the named workers of which the data say that they are dead."""
        return set(worker_ids) & (self.data.departed or set())

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back in this loop at hints of the other stores on the same data and namespace."""
        self._space()
        listener = _Listener(self, asyncio.get_running_loop(), callback)
        with self.data.lock:
            self.data.listeners.append(listener)

        def stop() -> None:
            with self.data.lock:
                self.data.listeners = [
                    other for other in self.data.listeners if other is not listener
                ]

        return stop

    def _space(self) -> Space:
        if not self._is_open:
            raise StoreClosed(f"the memory store of namespace {self.namespace!r} is not open")
        return self.data.spaces[self.namespace]


def _release_nothing() -> None:
    """Release what :meth:`MemoryStore.hold` did not take."""


def from_url(path: str, options: dict[str, str]) -> MemoryStore:
    """Return the store of ``memory://``; its only option is ``namespace``.

    Raises:
        UsageError: the URL has a path or another option.
    """
    namespace = options.pop("namespace", "default")
    if path or options:
        given = without_password(path) or ", ".join(options)
        raise UsageError(f"memory:// takes nothing but ?namespace=…, got {given!r}")
    return MemoryStore(namespace)
