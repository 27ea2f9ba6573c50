"""The worker's life: what it hears while it asks, and how it starts, is lost and stops."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from perdure import App, Run, Status, Worker, constant, step, telemetry
from perdure._runtime.worker import crash_evidence
from perdure.clock import SystemClock
from perdure.errors import NotApplied, ResultTimeout
from perdure.model.transitions import (
    Claim,
    Claimed,
    Outcome,
    RegisterWorker,
    RescueWorker,
    Transition,
)
from perdure.stores.memory import MemoryData, MemoryStore
from tests.engine.places import eventually

LONG = {"poll": "1h", "lease": "1h", "heartbeat": "1m"}
QUICK = {"poll": "1h", "lease": "1h", "heartbeat": "50ms"}
PATIENCE = 20.0


class Obstinate(MemoryStore):
    """A store that can be told to hold answers to claims back, and to fail registrations."""

    def __init__(self, data: MemoryData) -> None:
        super().__init__(data=data)
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = asyncio.Event()
        self.failures = 0

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Apply; be late with the answer, or fail."""
        if self.failures and any(isinstance(one, RegisterWorker) for one in batch):
            self.failures -= 1
            raise NotApplied("told to fail")
        outcomes = await super().apply(batch)
        if isinstance(batch[-1], Claim):
            self.asked.set()
            await self.answers.wait()
        return outcomes


class Deaf(MemoryStore):
    """A store that hears nothing of what others change."""

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Listen to nobody."""
        del callback
        return lambda: None


class Bodies:
    """An app of two workflows: one that is done at once, one that holds until it may leave."""

    def __init__(self, store: MemoryStore) -> None:
        self.app = App(store)
        self.held = asyncio.Event()
        self.left = asyncio.Event()
        self.may_leave = asyncio.Event()

        @self.app.workflow
        async def quick() -> int:
            return 1

        @self.app.workflow
        async def hold() -> None:
            self.held.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.left.set()
                await self.may_leave.wait()

        self.quick = quick
        self.hold = hold


async def until_set(event: asyncio.Event) -> None:
    """Wait for an event, not for ever."""
    await asyncio.wait_for(event.wait(), PATIENCE)


async def rescue(store: MemoryStore, worker: Worker) -> None:
    """Do to a worker what another does that holds it for dead."""
    await store.apply([RescueWorker(worker.worker_id, None, 10, crash_evidence(10))])


async def test_a_hint_that_comes_while_a_claim_is_asked_is_not_lost():
    """The claim may have been answered before the run was there: it is asked again, at once."""
    data = MemoryData()
    store = Obstinate(data)
    here, there = Bodies(store), Bodies(MemoryStore(data=data))
    store.answers.clear()
    async with here.app, there.app, Worker(here.app, **LONG):
        await until_set(store.asked)
        run = await there.quick.enqueue()
        await asyncio.sleep(0)
        store.answers.set()
        assert await here.app.get(run.id).result(timeout="20s") == 1


async def test_a_worker_that_could_not_start_can_be_started():
    """A start that failed leaves nothing behind."""
    store = Obstinate(MemoryData())
    bodies = Bodies(store)
    told: list[telemetry.WorkerError] = []
    bodies.app.on(telemetry.WorkerError)(told.append)
    worker = Worker(bodies.app, **LONG)
    async with bodies.app:
        store.failures = 1
        with pytest.raises(NotApplied, match="told to fail"):
            await worker.start()
        async with worker:
            assert await (await bodies.quick.enqueue()).result(timeout="20s") == 1
    assert await _is_closed(store)
    assert [(error.doing, error.error.message) for error in told] == [("joining", "told to fail")]


async def _is_closed(store: MemoryStore) -> bool:
    return not store._is_open


async def test_a_lost_worker_claims_nothing_before_it_has_joined_again():
    """What it took in between it would only have to hand back."""
    store = MemoryStore()
    bodies = Bodies(store)
    async with bodies.app, Worker(bodies.app, **QUICK) as worker:
        held = await bodies.hold.enqueue()
        await until_set(bodies.held)
        await held.cancel()
        await rescue(store, worker)
        await until_set(bodies.left)
        run = await bodies.quick.enqueue()
        bodies.may_leave.set()
        assert await run.result(timeout="20s") == 1
        record = await store.get(run.id)
        assert record is not None
        assert record.epoch == 1


async def test_a_worker_that_is_lost_while_it_stops_leaves_its_bodies_at_once():
    """Its runs go on elsewhere: it does not use up the grace with them."""
    store = MemoryStore()
    bodies = Bodies(store)
    bodies.may_leave.set()
    async with bodies.app:
        worker = Worker(bodies.app, grace="1h", **QUICK)
        await worker.start()
        run = await bodies.hold.enqueue()
        await until_set(bodies.held)
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        await rescue(store, worker)
        await asyncio.wait_for(stopping, PATIENCE)
        history = await run.history()
        assert [attempt.outcome for attempt in history.attempts] == ["crashed"]


async def test_whoever_stops_a_stopping_worker_waits_for_the_same_end():
    """A second stop returns when the worker has stopped, not before."""
    bodies = Bodies(MemoryStore())
    async with bodies.app:
        worker = Worker(bodies.app, grace="10ms", **LONG)
        await worker.start()
        await bodies.hold.enqueue()
        await until_set(bodies.held)
        first = asyncio.create_task(worker.stop())
        await until_set(bodies.left)
        second = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        assert not second.done()
        bodies.may_leave.set()
        await asyncio.wait_for(second, PATIENCE)
        assert await bodies.app.engine.store.workers() == []
        await first


class JumpingClock(SystemClock):
    """A machine's clock that is set while work goes on."""

    def __init__(self) -> None:
        self.off = 0

    def now(self) -> int:
        """Return the time it shows."""
        return super().now() + self.off


@pytest.mark.parametrize("days", [-1, 1])
async def test_a_back_off_lasts_as_long_as_it_says_over_a_jump_of_the_clock(days):
    """Not a day longer and not a day shorter, though nothing else was heard of the new time."""
    clock = JumpingClock()
    app = App(MemoryStore(clock=clock))
    retried, done = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    tried_at: list[float] = []

    async def flaky() -> None:
        tried_at.append(loop.time())
        if len(tried_at) == 1:
            clock.off += days * 86_400_000_000
            raise RuntimeError("again")
        retried.set()

    async def busy() -> None:
        await done.wait()

    @app.workflow
    async def body() -> None:
        # While the other is busy the wait for the second try stays in memory.
        again = step.options(backoff=constant("100ms"))
        await asyncio.gather(again("flaky", flaky), step("busy", busy))

    async with app, Worker(app, concurrency=1, **LONG):
        run = await body.enqueue()
        await until_set(retried)
        assert tried_at[1] - tried_at[0] >= 0.1
        done.set()
        await run.result(timeout="20s")


# --- suspects ------------------------------------------------------------------------------------


async def suspect(bodies: Bodies, store: MemoryStore) -> Run[None]:
    """Return a run of `hold` whose worker has died with it twice."""
    run = await bodies.hold.enqueue()
    for number in range(2):
        name = f"dead-{number}"
        await store.apply([RegisterWorker(name, "host", 1, {"hold": "1"}, ("default",), 1)])
        [claimed] = await store.apply([Claim(name, number + 1, ("hold",), ("default",), 1)])
        assert isinstance(claimed, Claimed)
        assert [given.run.run_id for given in claimed.runs] == [run.id]
        await store.apply([RescueWorker(name, None, 10, crash_evidence(10))])
    return run


async def test_a_suspect_is_taken_when_there_is_nothing_else():
    """A restarted worker does its other work first; the suspect comes without being asked for."""
    store = MemoryStore()
    bodies = Bodies(store)
    bodies.may_leave.set()
    async with bodies.app:
        held = await suspect(bodies, store)
        quick = [await bodies.quick.enqueue() for _ in range(5)]
        async with Worker(bodies.app, **LONG):
            for run in quick:
                await run.result(timeout="20s")
            await until_set(bodies.held)
            assert (await held.history()).crashes == 2
            await held.cancel()


async def test_a_suspect_is_executed_alone_until_its_probation_is_over(
    monkeypatch: pytest.MonkeyPatch,
):
    """Nothing is claimed beside it at first; one that lives longer holds nobody up."""
    store = MemoryStore()
    bodies = Bodies(store)
    bodies.may_leave.set()
    async with bodies.app:
        held = await suspect(bodies, store)
        async with Worker(bodies.app, **LONG) as watched:
            await until_set(bodies.held)
            quick = await bodies.quick.enqueue()
            with pytest.raises(ResultTimeout):
                await quick.result(timeout="100ms")
            assert await quick.status() is Status.QUEUED
            watched._end_probation()  # as its timer does after half a minute
            assert await quick.result(timeout="20s") == 1
            assert await held.status() is Status.RUNNING
            await held.cancel()
        monkeypatch.setattr("perdure._runtime.worker.PROBATION", 0.01)
        held = await suspect(bodies, store)
        bodies.held.clear()
        async with Worker(bodies.app, **LONG):
            await until_set(bodies.held)
            assert await (await bodies.quick.enqueue()).result(timeout="20s") == 1
            await held.cancel()


async def test_a_worker_that_drains_for_a_suspect_goes_on_to_poll(monkeypatch: pytest.MonkeyPatch):
    """Where no hint is heard, work of others is found when the worker has drained in vain."""
    monkeypatch.setattr("perdure._runtime.worker.SUSPECT_PATIENCE", 0.1)
    monkeypatch.setattr("perdure._runtime.worker.SUSPECT_DRAIN", 0.3)
    data = MemoryData()
    store = MemoryStore(data=data)
    bodies, others = Bodies(Deaf(data=data)), Bodies(store)
    bodies.may_leave.set()
    async with bodies.app, others.app:
        await suspect(others, store)
        long = await others.hold.enqueue()
        async with Worker(bodies.app, **{**LONG, "poll": "50ms"}, grace="0s") as worker:
            await until_set(bodies.held)
            await eventually(worker._overdue_suspects)
            quick = await others.quick.enqueue()
            assert await quick.result(timeout="20s") == 1
            assert await long.status() is Status.RUNNING
