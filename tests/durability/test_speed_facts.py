"""Where the speed comes from, as counts: batches, written commits, statements. No clock decides.

What is counted is what SQLite itself reports of every connection in the process, the heart's too.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from perdure import App, Worker, Workflow
from perdure.model.transitions import Claim, CreateRun, Outcome, SaveCheckpoint, Settle, Transition
from perdure.stores.sqlite import SqliteStore
from perdure.stores.sqlite import store as sqlite_store
from tests.durability.processes import fact

STEPS = 5


class Trace:
    """The statements of all connections that are opened while it is set, in order for each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lock = threading.Lock()
        self._statements: list[list[str]] = []
        connect = sqlite_store.connect

        def traced(*args, **fields):
            connection = connect(*args, **fields)
            statements: list[str] = []
            with self._lock:
                self._statements.append(statements)
            connection.set_trace_callback(statements.append)
            return connection

        monkeypatch.setattr(sqlite_store, "connect", traced)

    def clear(self) -> None:
        """Forget what was seen."""
        for statements in self._statements:
            statements.clear()

    def count(self, text: str) -> int:
        """Return how many statements contain a text."""
        return sum(text in one for statements in self._statements for one in statements)

    def synchronised(self) -> int:
        """Return how many commits had written something: each waits for the disk once."""
        found = 0
        for statements in self._statements:
            wrote = False
            for statement in statements:
                verb = statement.split(maxsplit=1)[0]
                wrote = wrote or verb in ("INSERT", "UPDATE", "DELETE")
                if verb in ("COMMIT", "ROLLBACK"):
                    found += wrote and verb == "COMMIT"
                    wrote = False
        return found


class Watched(SqliteStore):
    """A store that keeps the batches of the committer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.batches: list[list[type[Transition]]] = []

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Apply, and note what."""
        noted = len(self.batches)
        outcomes = await super().apply(batch)
        if len(self.batches) == noted:
            self.batches.append([type(transition) for transition in batch])
        return outcomes

    def apply_at_once(self, batch: Sequence[Transition]) -> list[Outcome] | None:
        """Apply if that is quick, and note what."""
        outcomes = super().apply_at_once(batch)
        if outcomes is not None:
            self.batches.append([type(transition) for transition in batch])
        return outcomes


class Shop:
    """An app with a worker that is idle, and counters that begin at nothing."""

    def __init__(self, store: Watched, trace: Trace) -> None:
        self.store = store
        self.trace = trace
        self.gate = asyncio.Event()
        self.app = App(store)

        @self.app.step
        async def pack(number: int) -> int:
            return number

        @self.app.workflow
        async def fulfil() -> int:
            return sum([await pack(number) for number in range(STEPS)])

        @self.app.job
        async def wait() -> None:
            await self.gate.wait()

        @self.app.workflow
        async def join() -> int:
            packed = sum([await pack(number) for number in range(STEPS)])
            await (await wait.enqueue()).result()
            return packed

        self.fulfil: Workflow[[], int] = fulfil
        self.join: Workflow[[], int] = join

    async def begin(self) -> None:
        """Let a first run and a first heartbeat go by: the worker is idle, every name is known."""
        await (await self.fulfil.enqueue()).result()
        await fact("the heart beats", self._has_beaten)
        self.store.batches.clear()
        self.trace.clear()

    async def _has_beaten(self) -> bool:
        return all(worker.beat for worker in await self.store.workers())


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    """A shop whose worker looks by itself so seldom that it never does in a test."""
    shop = Shop(Watched(tmp_path / "facts.db"), Trace(monkeypatch))
    async with shop.app, Worker(shop.app, poll="10m", lease="1h", heartbeat="10m"):
        await shop.begin()
        yield shop


async def test_a_sequential_step_is_one_batch_and_one_synchronisation(shop):
    """Start 1, step 1, finish 1: the claim rides with the create, the next one with the end."""
    assert await (await shop.fulfil.enqueue()).result() == 10
    # A claim for the slots that the first one left free rides along, or comes alone if late.
    batches = [batch for batch in shop.store.batches if batch != [Claim]]
    assert len(batches) == 1 + STEPS + 1
    assert batches[0] == [CreateRun, Claim]
    assert [batch[0] for batch in batches[1:-1]] == [SaveCheckpoint] * STEPS
    assert batches[-1] == [Settle, Claim]
    assert sum(batch.count(Claim) for batch in shop.store.batches) <= 4
    assert shop.trace.synchronised() == len(batches)


async def test_the_committer_counts_what_it_writes(shop):
    """The counters that the bench reads are those batches."""
    committer = shop.app.engine.committer
    before = committer.batches, committer.transitions
    await (await shop.fulfil.enqueue()).result()
    assert committer.batches - before[0] == len(shop.store.batches)
    assert committer.transitions - before[1] == sum(map(len, shop.store.batches))


async def test_many_runs_share_batches(shop):
    """200 runs of 5 steps are 1,400 writes, and at least twenty of them on average in a batch."""
    runs = await shop.fulfil.enqueue_many([((), {})] * 200)
    for run in runs:
        await run.result()
    kinds = Counter(kind for batch in shop.store.batches for kind in batch)
    assert (kinds[CreateRun], kinds[SaveCheckpoint], kinds[Settle]) == (200, 1000, 200)
    assert len(shop.store.batches) <= 70
    assert shop.trace.synchronised() <= len(shop.store.batches)


async def test_a_thousand_enqueued_at_once_are_a_few_batches(shop):
    """The callers of one moment share a synchronisation: 1,000 runs in 3 batches, or fewer."""
    await shop.fulfil.enqueue_many([((), {})] * 1000)
    assert len([batch for batch in shop.store.batches if CreateRun in batch]) <= 3


async def test_a_fresh_run_reads_no_checkpoints(shop):
    """There are none: nobody asks for them."""
    await (await shop.fulfil.enqueue()).result()
    assert shop.trace.count("FROM checkpoint WHERE") == 0


async def test_a_replay_reads_its_history_in_one_statement(shop):
    """A run that was suspended gets all its checkpoints with its claim, in one question."""
    run = await shop.join.enqueue()

    async def is_suspended() -> bool:
        return (await run.history()).waiting_for == "child"

    await fact("the parent is suspended", is_suspended)
    shop.trace.clear()
    shop.gate.set()
    assert await run.result() == 10
    assert shop.trace.count("FROM checkpoint WHERE") == 1


async def test_an_idle_worker_asks_little(tmp_path, monkeypatch):
    """A poll writes nothing and a look at the others is one read; only a heartbeat is written."""
    trace = Trace(monkeypatch)
    shop = Shop(Watched(tmp_path / "facts.db"), trace)
    poll, heartbeat, look = 0.2, 1.0, 0.2
    loop = asyncio.get_running_loop()
    async with shop.app, Worker(shop.app, poll="200ms", heartbeat="1s", lease="3s"):
        await shop.begin()
        began = loop.time()
        trace.clear()
        await fact("two heartbeats", lambda: trace.synchronised() >= 2)
        beats = trace.synchronised()
        polls = trace.count("BEGIN IMMEDIATE") - beats
        # A heartbeat asks for its own beat, a claim for what its worker registered.
        own = ("SELECT beat FROM worker", "SELECT definitions, earlier, pinning FROM worker")
        looks = trace.count("FROM worker") - sum(map(trace.count, own))
        statements = trace.count("")
        elapsed = loop.time() - began
    # A poll comes a tenth sooner at most, a heartbeat half a look.
    assert 0 < polls <= elapsed / (0.9 * poll) + 1
    assert 0 < looks <= elapsed / look + 1
    assert 0 < beats <= elapsed / (heartbeat - look / 2) + 1
    assert statements <= 12 * polls + 6 * beats + 3 * looks
    assert shop.store.batches.count([Claim]) <= polls + 1
