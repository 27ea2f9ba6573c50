"""The engine of one app: its store, committer, definitions, clock, ids, and who watches what.

It is the object that the layers above share: handles submit through it, workers execute with it.
It makes nothing durable itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from perdure._engine import late
from perdure._engine.context import MetaSchema
from perdure._engine.deadlines import Deadlines
from perdure._engine.definition import StepSpec
from perdure._engine.registry import Registry
from perdure.clock import Clock, SystemClock, SystemThreads, Threads, to_datetime
from perdure.defaults import EVENT_RETENTION, PAYLOAD_LIMIT, STEP_THREADS
from perdure.duration import to_micros
from perdure.errors import (
    AppNotReady,
    DefinitionError,
    PayloadTooLarge,
    StoreError,
    SwallowedSuspension,
    UsageError,
)
from perdure.ids import Ids
from perdure.model.queues import Limits
from perdure.model.records import Control, Micros

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from perdure._engine.arrivals import Arrivals
    from perdure._engine.committer import Committer
    from perdure._engine.news import News
    from perdure._engine.watcher import Watcher
    from perdure.store import Store
    from perdure.telemetry import Hooks

BODY_THREADS = 10_000
"""No limit in practice: a worker's concurrency is the limit."""

StandIn: TypeAlias = Callable[[StepSpec], StepSpec]
"""Takes how a step is executed and returns how it is executed instead."""


class Ports(msgspec.Struct, frozen=True):
    """What a simulation replaces: time, randomness, ids, threads.

    Args:
        clock: the wall clock and the monotonic clock of this process.
        threads: whatever needs a thread with a loop is started through it.
        rng: jitter; never ids.
        ids: run ids and tokens.
    """

    clock: Clock = msgspec.field(default_factory=SystemClock)
    threads: Threads = msgspec.field(default_factory=SystemThreads)
    rng: random.Random = msgspec.field(default_factory=random.Random)
    ids: Ids = msgspec.field(default_factory=Ids)


class Engine:
    """Everything that executing and starting runs share in one app.

    ``controlled`` are told of operators' verbs that were asked for in this process; what others
    asked for arrives with the heartbeat and with every answer of the store. ``hooks`` are told what
    has happened in this process; see :mod:`perdure._engine.telling`. ``stand_in`` is asked, where a
    test has set it, what to execute in the place of each step, and ``on_swallowed`` is told of
    bodies that went on after they were told to leave. ``queues`` are the limits that this app
    declares, ``event_retention`` is for how long it keeps published events. ``is_used`` becomes
    true with the first connection or execution: what is configured must be so before.
    """

    def __init__(self, store: Store | None, registry: Registry, ports: Ports) -> None:
        self.registry = registry
        self.controlled: list[Callable[[str, Control], None]] = []
        self.payload_limit = PAYLOAD_LIMIT
        self.event_retention: Micros | None = to_micros(EVENT_RETENTION)
        self.meta = MetaSchema()
        self.is_open = False
        self.is_used = False
        self.stand_in: StandIn | None = None
        self.on_swallowed: Callable[[SwallowedSuspension], None] | None = None
        self.queues: dict[str, Limits] = {}
        self._unlog: Callable[[], None] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._body_pool: ThreadPoolExecutor | None = None
        self.equip(store, ports)

    def equip(self, store: Store | None, ports: Ports) -> None:
        """Stand on this store and these ports from now on; only while closed.

        In place, because definitions and handles hold the engine.
        """
        self._store = store
        self.ports = ports
        self.clock = ports.clock
        self.threads = ports.threads
        self.rng = ports.rng
        self.ids = ports.ids
        self._committer: Committer | None = None
        self._watcher: Watcher | None = None
        self._arrivals: Arrivals | None = None
        self._news: News | None = None
        self.deadlines = Deadlines()
        self._store_ahead: Micros = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    @cached_property
    def hooks(self) -> Hooks:
        """Who listens, and what is on its way to them."""
        return late.telemetry.Hooks()

    def declare_queue(self, name: str, limits: Limits) -> None:
        """Have each worker that starts set these limits.

        Raises:
            DefinitionError: others are declared already.
        """
        if self.queues.setdefault(name, limits) != limits:
            raise DefinitionError(
                f"queue {name!r} is declared twice, with different limits; declare it once, and "
                f"elsewhere say app.queue({name!r})"
            )

    def check_loop(self) -> None:
        """Check that the running code is on the loop in which the store was opened.

        From another one it would wait for an answer that never arrives there.

        Raises:
            UsageError: it is not.
        """
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            ended = "has ended" if self._loop.is_closed() else "is another one"
            raise UsageError(
                f"the event loop in which this app was connected {ended}; close the app in the "
                "loop that connected it, and in another thread use "
                "asyncio.run_coroutine_threadsafe(…, loop)"
            )

    def __repr__(self) -> str:
        where = "without a store" if self._store is None else f"on {self._store.capabilities.name}"
        names = ", ".join(repr(definition.name) for definition in self.registry)
        return f"<app {where}: {names or 'no definitions'}>"

    @property
    def configured(self) -> Store | None:
        """The store that the app was given, if it was given one."""
        return self._store

    @property
    def store(self) -> Store:
        """Where runs live.

        Raises:
            AppNotReady: the app has none.
        """
        if self._store is None:
            raise AppNotReady('this app has no store; give it one: App("sqlite:///app.db")')
        return self._store

    @property
    def committer(self) -> Committer:
        """The way to the store.

        Raises:
            AppNotReady: the app has no store.
        """
        if self._committer is None:
            self._committer = late.committer.Committer(self.store, self.clock)
        return self._committer

    @property
    def watcher(self) -> Watcher:
        """Who waits for which run.

        Raises:
            AppNotReady: the app has no store.
        """
        if self._watcher is None:
            self._watcher = late.watcher.Watcher(self.store)
        return self._watcher

    @property
    def arrivals(self) -> Arrivals:
        """Who waits for events.

        Raises:
            AppNotReady: the app has no store.
        """
        if self._arrivals is None:
            self._arrivals = late.arrivals.Arrivals(self.store)
        return self._arrivals

    @property
    def news(self) -> News:
        """Who follows the change feed.

        Raises:
            AppNotReady: the app has no store.
        """
        if self._news is None:
            self._news = late.news.News(self.store)
        return self._news

    async def open(self) -> None:
        """Open the store and begin to write."""
        late.load_all()
        self.hooks.open()
        try:
            await self.store.open()
            self.heard_store_time(await self.store.now())
        except BaseException as error:  # also where whoever opens has no patience
            if isinstance(error, StoreError):
                self._tell_of_trouble(error, 1)
            try:
                await self.hooks.close()
            finally:
                await self.store.close()
            raise
        self._loop = asyncio.get_running_loop()
        self.watcher.open()
        self.committer.start()
        self.committer.troubled = self._tell_of_trouble
        self.committer.committed = self.news.tell
        self._unlog = late.telemetry.log_hooks(self.hooks)
        self.is_open = self.is_used = True

    def tell_ready(self) -> None:
        """Tell whoever listens that the app can be worked with."""
        ready = late.telemetry.AppReady
        if ready in self.hooks.kinds:
            self.hooks.tell(ready(at=to_datetime(self.store_now())))

    async def close(self) -> None:
        """Write what is pending and close the store."""
        self.check_loop()
        self.is_open = False
        await self.watcher.close()
        self.arrivals.close()
        self.news.close()
        try:
            await self.hooks.close()  # first, because listeners may still use the app
        finally:  # also where whoever closes has no patience with them
            if self._unlog is not None:
                self._unlog()
            await self._close_store()

    async def _close_store(self) -> None:
        await self.committer.close()
        await self.store.close()
        self._loop = None
        self.deadlines.close()
        for pool in (self._pool, self._body_pool):
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._body_pool = None

    def _tell_of_trouble(self, error: StoreError, failures: int) -> None:
        """The store does not do what it should; by this machine's clock, the store's is far."""
        trouble = late.telemetry.AppError
        if trouble in self.hooks.kinds:
            summary = late.failures.error_summary(late.failures.encode_error(error))
            at = to_datetime(self.clock.now())
            self.hooks.tell(trouble(at=at, error=summary, failures=failures))

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The threads that functions written with ``def`` run in."""
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(
                STEP_THREADS, thread_name_prefix="perdure-step"
            )
        return self._pool

    @property
    def body_pool(self) -> ThreadPoolExecutor:
        """The threads of bodies written with ``def``: one each, as many as runs are executing.

        They are apart from those of steps, or bodies waiting for their steps would hold all.
        """
        if self._body_pool is None:
            self._body_pool = concurrent.futures.ThreadPoolExecutor(
                BODY_THREADS, thread_name_prefix="perdure-body"
            )
        return self._body_pool

    def heard_store_time(self, now: Micros) -> None:
        """Take note of the store's time, as of an answer that arrived just now."""
        self._store_ahead = now - int(self.clock.monotonic() * 1e6)

    def store_now(self) -> Micros:
        """Return the store's time as far as known here: never ahead of it.

        The last heard time plus what passed since on the monotonic clock: a jump of this
        machine's wall clock changes nothing.
        """
        return self._store_ahead + int(self.clock.monotonic() * 1e6)

    def within_limit(self, data: bytes, what: str) -> bytes:
        """Return the payload if it is not too large.

        Raises:
            PayloadTooLarge: with its size, the limit and what to do.
        """
        if len(data) > self.payload_limit:
            raise PayloadTooLarge(
                f"{what} is {len(data):,} bytes encoded, the limit is {self.payload_limit:,}; "
                "store it elsewhere (a file, an object store) and pass a reference"
            )
        return data
