"""Where the engine's suites run: places that hold a store's data, and lives that come and go there.

A *place* is the data of one test. A *life* is an app with its worker on that data; it ends in
order, or by :meth:`Life.kill`, which leaves everything behind as `kill -9` would: whatever was not
committed is lost, nobody signs off, and the next life finds the worker's row and rescues its runs.
A third party's store joins by one more entry in `PLACES`; nothing else knows which store it is.
"""

import asyncio
import importlib.util
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from perdure import App, Run, Worker
from perdure._engine import adrift
from perdure._engine.activation import Leaving
from perdure._engine.scope import remove_factory
from perdure._runtime.worker import State
from perdure.errors import StoreClosed
from perdure.model.transitions import Outcome, SaveCheckpoint, Transition
from perdure.store import Capabilities, Store
from perdure.stores.memory import MemoryData, MemoryStore

PATIENCE = 10.0
"""Seconds after which a fact that did not become true is a failure."""

Build = Callable[[], Store]
"""Builds one more unopened store object on the data of one place."""


def memory(path: Path) -> Build:
    """Stores that share one MemoryData."""
    data = MemoryData()
    return lambda: MemoryStore(data=data)


def sqlite(path: Path) -> Build:
    """Stores that open one file."""
    from perdure.stores.sqlite import SqliteStore

    return lambda: SqliteStore(path / "perdure.db")


def is_written(module: str) -> bool:
    """Tell whether a store's package is there, and more than an empty directory."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


PLACES: dict[str, Callable[[Path], Build]] = {"memory": memory}
if is_written("perdure.stores.sqlite"):
    PLACES["sqlite"] = sqlite


Doom = Callable[[Sequence[Transition]], bool]
"""Chooses batches."""


async def eventually(
    fact: Callable[[], Any], *, within: float = PATIENCE, what: str | None = None
) -> Any:
    """Return what the fact says, as soon as that is true; it may be a coroutine function."""
    deadline = time.monotonic() + within
    while True:
        found = fact()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within:g} s: {what or fact}")
        await asyncio.sleep(0.002)


class Mortal:
    """A store that stops answering when its process is killed.

    Attributes:
        doom: asked about each batch; where it says True the process dies with that batch,
            `applied` (the answer is lost) or not.
        died: set when it did.
        keeps: asked about each batch; the batch waits for the event that it returns, if any.
        kept: set when a batch waits so.
    """

    def __init__(self, inner: Store, killed: set[str], alive: "Mortal | None" = None) -> None:
        self.inner = inner
        self.killed = killed
        self.doom: Doom | None = None
        self.doomed_batch_is_applied = True
        self.died = asyncio.Event()
        self.keeps: Callable[[Sequence[Transition]], asyncio.Event | None] | None = None
        self.kept = asyncio.Event()
        self._dead = False
        self._of = alive
        self._applying = 0

    @property
    def dead(self) -> bool:
        """Whether nothing is answered any more."""
        return self._dead if self._of is None else self._of.dead

    def cut(self) -> None:
        """Never answer again, from this moment on."""
        self._dead = True
        self.died.set()

    async def die(self) -> None:
        """Never answer again; return when no call is in the middle of its work."""
        self.cut()
        await eventually(lambda: not self._applying)

    async def _answer(self) -> None:
        if self._of is not None and self.dead:
            raise StoreClosed("the process is dead")  # in the heart's thread, which must end
        if self.dead:
            await asyncio.get_running_loop().create_future()

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Apply the batch, unless the process dies of it."""
        await self._answer()
        if self.keeps is not None and (let_go := self.keeps(batch)) is not None:
            self.kept.set()
            await let_go.wait()
        dies = self.doom is not None and self.doom(batch)
        if dies:
            self.cut()
        if not dies or self.doomed_batch_is_applied:
            self._applying += 1
            try:
                outcomes = await self.inner.apply(batch)
            finally:
                self._applying -= 1
        await self._answer()
        return outcomes

    def apply_at_once(self, batch: Sequence[Transition]) -> None:
        """Leave every batch to `apply`: a process that dies here never answers."""

    async def _read(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        await self._answer()
        found = await call(*args)
        await self._answer()
        return found

    async def open(self) -> None:
        """Open the inner store."""
        await self.inner.open()

    async def close(self) -> None:
        """Close the inner store."""
        await self.inner.close()

    def side(self) -> "Mortal":
        """Return a second store, which dies with this one."""
        return Mortal(self.inner.side(), self.killed, self)

    @property
    def capabilities(self) -> Capabilities:
        """What the inner store can do."""
        return self.inner.capabilities

    async def get(self, run_id: str) -> Any:
        """Return the run."""
        return await self._read(self.inner.get, run_id)

    async def endings(self, run_ids: Iterable[str]) -> Any:
        """Return how the runs ended."""
        return await self._read(self.inner.endings, run_ids)

    async def history(self, run_id: str) -> Any:
        """Return everything kept of a run."""
        return await self._read(self.inner.history, run_id)

    async def list_runs(self, query: Any) -> Any:
        """Return the runs that match."""
        return await self._read(self.inner.list_runs, query)

    async def count_runs(self, query: Any) -> Any:
        """Return how many runs match."""
        return await self._read(self.inner.count_runs, query)

    async def counts(self, **apart: bool) -> Any:
        """Return how many runs there are of each status."""
        return await self.inner.counts(**apart)

    async def events(self, query: Any) -> Any:
        """Return the events that match."""
        return await self._read(self.inner.events, query)

    async def listeners(self) -> Any:
        """Return the registered listeners."""
        return await self._read(self.inner.listeners)

    async def schedules(self, *, due_by: int | None = None) -> Any:
        """Return the schedules."""
        return await self._read(lambda: self.inner.schedules(due_by=due_by))

    async def prunable(self, asked: Any) -> Any:
        """Return how much there is to remove."""
        return await self._read(self.inner.prunable, asked)

    async def stream(self, run_id: str, name: str, after: int = 0, limit: int = 100) -> Any:
        """Return entries of a stream."""
        return await self._read(self.inner.stream, run_id, name, after, limit)

    async def changes(self, after: str | None = None, limit: int = 100) -> Any:
        """Return the changes that follow on a position."""
        return await self._read(lambda: self.inner.changes(after, limit))

    async def position(self, back: int = 0) -> Any:
        """Return a position on which the newest changes follow."""
        return await self._read(lambda: self.inner.position(back))

    async def subscribers(self) -> Any:
        """Return the subscribers."""
        return await self._read(self.inner.subscribers)

    async def pins(self) -> Any:
        """Return what is pinned."""
        return await self._read(self.inner.pins)

    async def queues(self) -> Any:
        """Return the queues."""
        return await self._read(self.inner.queues)

    async def next_start_of_key(self, queue: str, limit_key: str) -> Any:
        """Return what is kept of the rate of a key."""
        return await self._read(lambda: self.inner.next_start_of_key(queue, limit_key))

    async def fires(self, key: str, limit: int = 100) -> Any:
        """Return what became of the instants of a schedule."""
        return await self._read(self.inner.fires, key, limit)

    async def leader(self) -> Any:
        """Return who leads."""
        return await self._read(self.inner.leader)

    async def plan(self) -> list[str]:
        """Return what opening would create."""
        return await self.inner.plan()

    async def damage(self) -> list[str]:
        """Return what the inner store finds."""
        return await self.inner.damage()

    async def workers(self) -> Any:
        """Return the registered workers."""
        return await self._read(self.inner.workers)

    async def now(self) -> int:
        """Return the store's time."""
        return await self.inner.now()

    def hold(self, worker_id: str) -> Callable[[], None]:
        """Take a sign of life."""
        return self.inner.hold(worker_id)

    def departed(self, worker_ids: Iterable[str]) -> set[str]:
        """Return those that the test killed, and those that the inner store knows to be dead."""
        asked = set(worker_ids)
        return asked & self.killed | self.inner.departed(asked)

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Pass hints on."""
        return self.inner.listen(callback)


def saves(path: str) -> Doom:
    """A doom: the batch saves a checkpoint of that path."""
    return lambda batch: any(
        isinstance(transition, SaveCheckpoint) and transition.key.path == path
        for transition in batch
    )


Define = Callable[[App], Any]
"""Declares the definitions of a test on an app and returns what the test wants to call."""


class Place:
    """The data of one test, on which lives come and go."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self.killed: set[str] = set()

    def store(self) -> Mortal:
        """Return one more unopened store."""
        return Mortal(self._build(), self.killed)

    def life(self, define: Define, **options: Any) -> "Life":
        """Return an app with its worker: `services` and `of_app` are the app's options."""
        return Life(self, define, options)

    def client(self, define: Define) -> "Life":
        """Return an app without a worker."""
        return Life(self, define, None)


class Life:
    """An app, and its worker if it has one, between their start and their stop or death.

    Attributes:
        app: the app.
        flow: what `define` returned.
        worker: executes the app's runs.
        store: the app's store.
    """

    def __init__(self, place: Place, define: Define, options: dict[str, Any] | None) -> None:
        self._place = place
        self.store = place.store()
        of_app = {} if options is None else options.pop("of_app", {})
        if options is not None and "services" in options:
            of_app = {**of_app, "services": options.pop("services")}
        self.app = App(self.store, **of_app)
        self.flow = define(self.app)
        self.worker = None if options is None else Worker(self.app, **{"grace": "5s", **options})
        self.is_over = False

    async def __aenter__(self) -> Self:
        await self.app.connect()
        if self.worker is not None:
            await self.worker.start()
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        if not self.is_over:
            await (self.stop() if error is None else self.kill())

    def get(self, run: Run[Any]) -> Run[Any]:
        """Return this life's handle of a run of another's."""
        return Run(run.id, self.app.engine, run._result)

    async def reaches(self, run: Run[Any], status: str, waiting_for: str | None = None) -> Any:
        """Wait until the run stands so; return its history."""
        stood = ""

        async def stands() -> bool:
            nonlocal stood
            record = await self.store.get(run.id)
            stood = f"{record.status} {record.waiting_for or ''}"
            return record.status == status and record.waiting_for == waiting_for

        try:
            await eventually(stands)
        except AssertionError:
            raise AssertionError(f"run is {stood}, not {status} {waiting_for or ''}") from None
        return await self.get(run).history()

    async def stop(self) -> None:
        """End in order."""
        self.is_over = True
        if self.worker is not None:
            await self.worker.stop()
        await self.app.close()

    async def kill(self) -> None:
        """End as `kill -9` would, except that this process, its threads and its loop live on."""
        self.is_over = True
        await self.store.die()
        if self.worker is not None:
            await self._kill_worker(self.worker)
        engine = self.app.engine
        committing = engine.committer._task
        assert committing is not None
        committing.cancel()
        await asyncio.wait([committing])
        await engine.watcher.close()
        engine.deadlines.close()
        if engine._pool is not None:
            engine._pool.shutdown(wait=False, cancel_futures=True)
        await self.store.close()

    async def _kill_worker(self, worker: Worker) -> None:
        worker._state = State.LOST
        self._place.killed.add(worker.worker_id)
        worker._stop_looking()
        executor = worker._executor
        activations = list(executor.active.values())
        for activation in activations:
            activation._stop_idling()
            activation.leaving = Leaving.LOST

        def left() -> list[asyncio.Future[Any]]:
            bodies = [task for activation in activations for task in activation.left()]
            return bodies + list(executor._leaving)

        while tasks := left():
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=PATIENCE)
        for activation in activations:
            activation.close()
        for rescue in worker._rescuing.values():
            rescue.cancel()
        await worker._heart.stop()
        remove_factory(asyncio.get_running_loop())
        adrift.remove()


class Halt:
    """A place in a body where its first pass stays until its process is killed; later ones pass."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.is_open = False

    async def __call__(self) -> None:
        """Stay here, unless a life was killed here already."""
        self.reached.set()
        if not self.is_open:
            await asyncio.get_running_loop().create_future()


async def half_way(
    place: Place, define: Define, halt: Halt, *args: Any, given_up: str | None = None, **kwargs: Any
) -> Run[Any]:
    """Start the flow, kill its life where it halts, and return the run.

    Nobody waits for the record of a call that was given up: name its path, and the kill does.
    """
    async with place.life(define) as life:
        run: Run[Any] = await life.flow.enqueue(*args, **kwargs)
        await asyncio.wait_for(halt.reached.wait(), PATIENCE)

        async def is_recorded() -> bool:
            steps = (await run.history()).steps
            return (given_up, "cancelled") in {(record.path, record.outcome) for record in steps}

        if given_up is not None:
            await eventually(is_recorded)
        halt.is_open = True
        await life.kill()
    return run


async def finished(place: Place, define: Define, run: Run[Any]) -> Any:
    """Let another life finish the run, and return its result."""
    async with place.life(define) as life:
        return await life.get(run).result(timeout="10s")


async def killed_and_finished(
    place: Place, define: Define, halt: Halt, *args: Any, **kwargs: Any
) -> Any:
    """Return the result of a flow whose first life was killed where it halts."""
    return await finished(place, define, await half_way(place, define, halt, *args, **kwargs))
