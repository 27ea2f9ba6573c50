"""The way from one simulated process to the data that all share: calls travel, or get lost."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from perdure.errors import OutcomeUnknown, StoreBusy, StoreError, StoreFull, StoreReadOnly
from perdure.model.changes import ChangePage, SubscriberRecord
from perdure.model.events import EventQuery, EventRecord, ListenerRecord
from perdure.model.leader import LeaderRecord
from perdure.model.queues import PauseQueue, QueueRecord, ResumeQueue
from perdure.model.records import Count, Ending, History, RunQuery, RunRecord, WorkerRecord
from perdure.model.retention import Prune, Pruned
from perdure.model.schedules import Fire, PutSchedule, RemoveSchedule, ScheduleRecord
from perdure.model.streams import StreamPage
from perdure.model.transitions import Outcome, PauseRun, Transition
from perdure.model.versions import Pinned
from perdure.store import Capabilities
from perdure.stores.memory import MemoryStore
from tests.simulation.loop import finish

if TYPE_CHECKING:
    from tests.simulation.process import Process

REFUSALS = (StoreBusy, StoreBusy, StoreFull, StoreReadOnly)
KEYLESS = (PauseQueue, ResumeQueue, PutSchedule, RemoveSchedule, PauseRun)
"""Transitions that have no key but what they say: applied once more behind a later one they undo
that. A network store whose requests outlive their answers needs request ids in them. The pause of a
run has one, which is not kept where it was refused."""

OF_WRITES = ("twice", "ghost", "dies", "dies_after")


class FaultyStore:
    """A store of one process, over the memory store."""

    def __init__(self, process: "Process", inner: MemoryStore) -> None:
        self._process = process
        self._world = process.world
        self._chaos = process.world.chaos
        self._inner = inner

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    def side(self) -> "FaultyStore":
        return FaultyStore(self._process, self._inner.side())

    async def open(self) -> None:
        await self._inner.open()

    async def close(self) -> None:
        await self._inner.close()

    # --- calls -----------------------------------------------------------------------------------

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Apply a batch, with whatever the seed has in store for it."""
        fault = self._chaos.of_call(self._process)
        if fault == "dies":
            await self._process.die("before a call")
        if not fault and self._chaos.is_instant(self._process):
            outcomes = self._serve(batch)
        else:
            outcomes = await self._travel(fault, lambda: self._serve(batch, fault))
        self._process.heard(batch, outcomes)
        return outcomes

    def apply_at_once(self, batch: Sequence[Transition]) -> list[Outcome] | None:
        """Apply a batch before anything else happens, where the seed's store is so quick."""
        if not self._chaos.is_instant(self._process):
            return None
        outcomes = self._serve(batch)
        self._process.heard(batch, outcomes)
        return outcomes

    def _serve(self, batch: Sequence[Transition], fault: str = "") -> list[Outcome]:
        """Apply a batch where the data are."""
        world, rng = self._world, self._world.rng
        outcomes = world.serve(self._process, self._inner, batch)
        match fault:
            case "twice":
                again = world.serve(self._process, self._inner, batch, "again")
                world.compare(batch, outcomes, again)
                return rng.choice((outcomes, again))
            case "ghost":
                world.later(rng.choice((0.01, 0.5, 5.0, 30.0)), self._haunt, batch)
            case "dies_after":
                self._process.kill("after a call")
        return outcomes

    def _haunt(self, batch: Sequence[Transition]) -> None:
        """Apply a batch once more, long after its answer."""
        world = self._world
        undoes = any(isinstance(one, KEYLESS) for one in batch) or world.ledger.puts_back(batch)
        if self._inner._is_open and not world.is_stopping and not undoes:
            world.serve(self._process, self._inner, batch, "ghost")

    async def _read(self, read: Callable[[], Any]) -> Any:
        fault = self._chaos.of_call(self._process)
        if fault in OF_WRITES:
            fault = ""
        if not fault and self._chaos.is_instant(self._process):
            return await read()
        return await self._travel(fault, lambda: finish(read()))

    async def _travel(self, fault: str, serve: Callable[[], Any]) -> Any:
        """Send a call to the data and wait for its answer, or for the lack of one."""
        world, process, rng = self._world, self._process, self._world.rng
        loop = process.running_loop()
        future = loop.create_future()
        there, back = rng.choice((0.0, 0.0005, 0.004)), rng.choice((0.0, 0.0005, 0.004))
        if fault == "slow":
            there, back = rng.choice(((3.0, 0.0), (0.0, 3.0), (20.0, 0.0), (0.5, 0.5)))
            process.in_trouble_until(world.timeline.now + there + back)

        def answer(result: Any, error: StoreError | None) -> None:
            if process.is_alive:
                loop.call_soon_threadsafe(_resolve, future, result, error)

        def arrive() -> None:
            cut = self._chaos.is_cut(process)
            if fault == "refused" or (cut and rng.random() < 0.5):
                error = rng.choice(REFUSALS)("the simulated store refuses")
                world.later(back, answer, None, error)
                return
            result, error = (None, None) if fault == "lost" or cut else _outcome_of(serve)
            if fault in ("lost", "unheard") or cut:
                error = OutcomeUnknown("the simulated answer was lost")
                world.later(rng.choice((0.01, 1.0, 4.0)), answer, None, error)
            else:
                world.later(back, answer, result, error)

        world.later(there, arrive)
        return await future

    async def get(self, run_id: str) -> RunRecord | None:
        return await self._read(lambda: self._inner.get(run_id))

    async def endings(self, run_ids: Iterable[str]) -> dict[str, Ending]:
        asked = list(run_ids)
        return await self._read(lambda: self._inner.endings(asked))

    async def history(self, run_id: str) -> History | None:
        return await self._read(lambda: self._inner.history(run_id))

    async def list_runs(self, query: RunQuery) -> list[RunRecord]:
        return await self._read(lambda: self._inner.list_runs(query))

    async def count_runs(self, query: RunQuery) -> int:
        return await self._read(lambda: self._inner.count_runs(query))

    async def counts(self, *, by_definition: bool = False, by_queue: bool = False) -> list[Count]:
        return await self._read(
            lambda: self._inner.counts(by_definition=by_definition, by_queue=by_queue)
        )

    async def leader(self) -> LeaderRecord:
        return await self._read(self._inner.leader)

    async def plan(self) -> list[str]:
        return await self._inner.plan()

    async def damage(self) -> list[str]:
        return await self._inner.damage()

    async def events(self, query: EventQuery) -> list[EventRecord]:
        return await self._read(lambda: self._inner.events(query))

    async def listeners(self) -> list[ListenerRecord]:
        return await self._read(self._inner.listeners)

    async def schedules(self, *, due_by: int | None = None) -> list[ScheduleRecord]:
        return await self._read(lambda: self._inner.schedules(due_by=due_by))

    async def prunable(self, asked: Prune) -> Pruned:
        return await self._read(lambda: self._inner.prunable(asked))

    async def stream(
        self, run_id: str, name: str, after: int = 0, limit: int = 100
    ) -> StreamPage | None:
        return await self._read(lambda: self._inner.stream(run_id, name, after, limit))

    async def changes(self, after: str | None = None, limit: int = 100) -> ChangePage:
        return await self._read(lambda: self._inner.changes(after, limit))

    async def position(self, back: int = 0) -> str:
        return await self._read(lambda: self._inner.position(back))

    async def subscribers(self) -> list[SubscriberRecord]:
        return await self._read(self._inner.subscribers)

    async def pins(self) -> list[Pinned]:
        return await self._read(self._inner.pins)

    async def queues(self) -> list[QueueRecord]:
        return await self._read(self._inner.queues)

    async def next_start_of_key(self, queue: str, limit_key: str) -> int:
        return await self._read(lambda: self._inner.next_start_of_key(queue, limit_key))

    async def fires(self, key: str, limit: int = 100) -> list[Fire]:
        return await self._read(lambda: self._inner.fires(key, limit))

    async def workers(self) -> list[WorkerRecord]:
        return await self._read(self._inner.workers)

    async def now(self) -> int:
        return await self._read(self._inner.now)

    # --- signs and hints -------------------------------------------------------------------------

    def hold(self, worker_id: str) -> Callable[[], None]:
        """Take the sign of life of a worker; the process's death gives it up."""
        self._process.joined(worker_id)
        return lambda: self._process.signs.discard(worker_id)

    def departed(self, worker_ids: Iterable[str]) -> set[str]:
        return InOrder(self._inner.departed(worker_ids))

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Pass hints on, or lose them."""

        def hinted() -> None:
            if not self._chaos.is_deaf():
                callback()

        return self._inner.listen(hinted)


class InOrder(set):
    """A set that is iterated in order, whatever the hashes: the same seed, the same run."""

    def __iter__(self):
        return iter(sorted(super().__iter__()))


def _outcome_of(serve: Callable[[], Any]) -> tuple[Any, StoreError | None]:
    try:
        return serve(), None
    except StoreError as error:  # it was closed while the call was on its way
        return None, error


def _resolve(future: Any, result: Any, error: StoreError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
