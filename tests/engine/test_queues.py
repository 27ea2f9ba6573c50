"""Queues with limits, over several workers: slots, keys, rates, pauses, and who comes first."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure import App, Queue, Rate, Worker, sleep, step
from perdure.errors import DefinitionError, InvalidDuration, UsageError
from perdure.stores.memory import MemoryStore
from tests.engine.places import PATIENCE, Halt, Place, eventually


class Crew:
    """Who works at once, and how many did at most.

    Whoever is at work waits for company, as many as the limits allow, so that how many meet does
    not hang on who is quicker: on a busy machine a body of some turns of the loop is over before
    the next one is claimed. The last ones, for whom there is no company left, go when all have
    come.

    Args:
        at_once: so many must be able to work at once.
        of: so many will come.

    Attributes:
        most: by key.
        order: who began, in order.
    """

    def __init__(self, at_once: int = 1, of: int = 0) -> None:
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.order: list[str] = []
        self._at_once = at_once
        self._of = of
        self._changed = asyncio.Event()

    async def work(self, key: str, name: str) -> None:
        """Be at work until there is company, and a few turns of the loop for more than is due."""
        self.order.append(name)
        for each in (key, ""):
            self.now[each] = self.now.get(each, 0) + 1
            self.most[each] = max(self.most.get(each, 0), self.now[each])
        self._changed.set()
        while self.most[""] < self._at_once and len(self.order) < self._of:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), PATIENCE)
        for _ in range(3):
            await asyncio.sleep(0)
        for each in (key, ""):
            self.now[each] -= 1


def jobs(crew: Crew, **limits: Any) -> Any:
    """Return what defines one job on a limited queue."""

    def define(app: App) -> Any:
        app.queue("mail", **limits)

        @app.job(queue="mail")
        async def send(key: str, name: str) -> None:
            await step("work", crew.work, key, name)

        return send

    return define


async def finish(life: Any, runs: list[Any]) -> None:
    """Wait for all runs."""
    await asyncio.gather(*(life.get(run).result(timeout="20s") for run in runs))


@pytest.mark.parametrize("workers", [1, 3])
async def test_no_more_work_at_once_than_there_are_slots(place: Place, workers: int):
    crew = Crew(at_once=3, of=30)
    define = jobs(crew, concurrency=3)
    async with place.life(define) as life:
        others = [Worker(life.app) for _ in range(workers - 1)]
        for other in others:
            await other.start()
        runs = [await life.flow.enqueue("k", str(number)) for number in range(30)]
        await finish(life, runs)
        for other in others:
            await other.stop()
    assert crew.most[""] == 3
    assert sorted(crew.order, key=int) == [str(number) for number in range(30)]


async def test_each_key_has_slots_of_its_own(place: Place):
    crew = Crew(at_once=2, of=18)
    define = jobs(crew, concurrency_per_key=1)
    async with place.life(define) as life:
        runs = [
            await life.flow.options(limit_key=key).enqueue(key, f"{key}{number}")
            for number in range(6)
            for key in "abc"
        ]
        await finish(life, runs)
        history = await life.get(runs[0]).history()
        [found] = await life.app.runs(limit_key="b", limit=1)
    assert {key: crew.most[key] for key in "abc"} == dict.fromkeys("abc", 1)
    assert crew.most[""] > 1
    for key in "abc":
        assert [name for name in crew.order if name[0] == key] == [f"{key}{n}" for n in range(6)]
    assert history.limit_key == "a"
    assert found.id == runs[-2].id


async def test_a_run_that_waits_leaves_its_slot_to_others(place: Place):
    """Also a parent and its child on one queue of one slot cannot block each other."""
    order: list[str] = []

    def define(app: App) -> Any:
        app.queue("one", concurrency=1, concurrency_per_key=1)

        @app.job(queue="one")
        async def child() -> None:
            order.append("child")

        @app.workflow(queue="one")
        async def parent() -> None:
            order.append("parent")
            await (await child.options(limit_key="k").enqueue()).result()
            await sleep("50ms")
            order.append("end")

        return parent

    async with place.life(define) as life:
        run = await life.flow.options(limit_key="k").enqueue()
        await life.get(run).result(timeout="10s")
    assert order == ["parent", "child", "parent", "parent", "end"]


async def test_slots_of_a_killed_worker_are_free_again(place: Place):
    halt = Halt()

    def define(app: App) -> Any:
        app.queue("mail", concurrency=1)

        @app.job(queue="mail")
        async def send() -> str:
            await halt()
            return "sent"

        return send

    async with place.life(define) as life:
        runs = [await life.flow.enqueue() for _ in range(3)]
        await asyncio.wait_for(halt.reached.wait(), PATIENCE)
        halt.is_open = True
        await life.kill()
    async with place.life(define) as life:
        await finish(life, runs)
        assert (await life.app.queue("mail").get()).running == 0


async def test_a_paused_queue_waits_and_says_why(place: Place):
    crew = Crew()
    async with place.life(jobs(crew)) as life:
        queue = life.app.queue("mail")
        await queue.pause()
        run = life.get(await life.flow.enqueue("k", "a"))
        why = await run.why()
        assert (why.cause, why.holder) == ("queue_paused", ("mail",))
        entry = await queue.get()
        assert (entry.queued, entry.running) == (1, 0)
        assert entry.paused_at is not None
        await queue.resume()
        await run.result(timeout="5s")
        assert (await queue.get()).paused_at is None


async def test_starts_keep_to_the_rate(place: Place):
    """Measured is the store's time of the starts: a slow machine makes no difference."""
    crew = Crew()
    async with place.life(jobs(crew, rate=Rate(100, "1s", burst=2))) as life:
        runs = [await life.flow.enqueue("k", str(number)) for number in range(10)]
        await finish(life, runs)
        histories = [await life.get(run).history() for run in runs]
    starts = sorted(one.started_at for one in histories if one.started_at is not None)
    gaps = [later - earlier for earlier, later in zip(starts, starts[2:], strict=False)]
    assert min(gaps) >= timedelta(milliseconds=10)


async def test_limits_are_set_and_told(place: Place):
    crew = Crew()
    limits: dict[str, Any] = {
        "concurrency": 2,
        "rate": Rate(5, "1m", 3),
        "concurrency_per_key": 1,
        "rate_per_key": Rate(1, timedelta(seconds=2)),
    }
    async with place.life(jobs(crew, **limits)) as life:
        [entry] = await life.app.queues()
        told = (entry.concurrency, entry.rate, entry.concurrency_per_key, entry.rate_per_key)
        assert (entry.name, *told) == ("mail", *limits.values())
        await life.app.queue("mail").set_limits(concurrency=7)
        [entry] = await life.app.queues()
        assert (entry.concurrency, entry.rate, entry.concurrency_per_key) == (7, None, None)


async def test_a_schedule_starts_runs_with_its_limit_key(place: Place):
    crew = Crew()
    async with place.life(jobs(crew)) as life:
        schedule = await life.flow.options(limit_key="k").schedule("1h", "k", "a")
        run = await schedule.trigger()
        assert (await run.history()).limit_key == "k"


async def test_a_worker_serves_the_queues_that_its_app_knows():
    app = App(MemoryStore())
    app.queue("declared", concurrency=1)

    @app.job(queue="mail")
    async def send() -> None: ...

    @app.job
    async def other() -> None: ...

    async with app:
        async with Worker(app) as worker:
            assert worker.queues == ("default", "declared", "mail")
        async with Worker(app, only=["other"]) as worker:
            assert worker.queues == ("default", "declared")
        async with Worker(app, queues=["mail"]) as worker:
            assert worker.queues == ("mail",)


async def test_runs_that_go_on_do_not_starve_new_ones():
    """A worker of one slot is kept busy for ever by runs that go on; a new one gets its turn."""
    app = App(MemoryStore())
    done = asyncio.Event()
    is_over = False

    @app.workflow
    async def busy() -> None:
        while not is_over:
            await sleep("30ms")

    @app.job
    async def new() -> None:
        done.set()

    async with app, Worker(app, concurrency=1):
        for _ in range(4):
            await busy.enqueue()

        async def is_busy() -> bool:
            return bool(await app.runs(name="busy", status="waiting"))

        await eventually(is_busy)
        await new.enqueue()
        await asyncio.wait_for(done.wait(), PATIENCE)
        is_over = True


def test_a_queue_is_declared_once():
    app = App()
    first = app.queue("mail", concurrency=1)
    assert (str(first), repr(first), isinstance(first, Queue)) == ("mail", "<queue 'mail'>", True)
    app.queue("mail")
    app.queue("mail", concurrency=1)
    with pytest.raises(DefinitionError, match="queue 'mail' is declared twice"):
        app.queue("mail", concurrency=2)


@pytest.mark.parametrize("limit", ["concurrency", "concurrency_per_key", "rate", "rate_per_key"])
@pytest.mark.parametrize("given", [0, -1, True, 1.5, "1", 10**7])
def test_what_is_no_limit_is_refused(limit: str, given: Any):
    with pytest.raises(UsageError, match=f"^{limit} must be a"):
        App().queue("mail", **{limit: given})


@pytest.mark.parametrize("given", [(0, "1m"), (1, "0s"), (1, "1m", 0), (True, "1m"), (1, "never")])
def test_what_is_no_rate_is_refused(given: Any):
    with pytest.raises((UsageError, InvalidDuration)):
        Rate(*given)
