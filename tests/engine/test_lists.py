"""app.runs, app.counts, app.workers: what an app tells of its store."""

from datetime import datetime, timedelta

import pytest

from perdure import App, Status, Worker
from perdure.errors import InvalidValue, RunNotFound, UsageError
from perdure.model.records import Count
from perdure.stores.memory import MemoryData, MemoryStore


@pytest.fixture
async def app():
    """An app with two jobs, one of which fails, and runs of both; nothing executes them."""
    made = App(MemoryStore(data=MemoryData()))

    @made.job(name="good", tags=("nightly",))
    async def good(n: int) -> int:
        return n

    @made.job(name="bad", max_attempts=1, queue="slow")
    async def bad() -> None:
        raise ValueError("no")

    async with made:
        for n in range(5):
            await good.options(id=f"good-{n}", unique_key=f"k{n}").enqueue(n)
        await bad.options(id="bad-1").enqueue()
        yield made


async def ids(app: App, **query: object) -> list[str]:
    return [run.id for run in await app.runs(**query)]  # type: ignore[arg-type]


async def test_every_filter_reaches_the_store(app: App):
    """One filter at a time, and two together."""
    now = datetime.now().astimezone()
    every = ["bad-1", "good-4", "good-3", "good-2", "good-1", "good-0"]
    assert await ids(app) == every
    assert await ids(app, status="queued") == every
    assert await ids(app, status=["failed", Status.RUNNING]) == []
    assert await ids(app, name="bad") == ["bad-1"]
    assert await ids(app, name=("bad", "good")) == every
    assert await ids(app, queue="slow") == ["bad-1"]
    assert await ids(app, unique_key="k3") == ["good-3"]
    assert await ids(app, tag="nightly", limit=2) == ["good-4", "good-3"]
    assert await ids(app, parent="good-1") == []
    assert await ids(app, created_after=now - timedelta(hours=1)) == every
    assert await ids(app, created_before=now - timedelta(hours=1)) == []
    assert await ids(app, text="NIGHT", id_prefix="good-2") == ["good-2"]
    async with Worker(app):
        assert await app.get("good-4").result(timeout="10s") == 4


async def test_pages_follow_from_their_last_run(app: App):
    """A page goes on behind a run, whether its handle or its id is given."""
    seen: list[str] = []
    page = await app.runs(limit=4)
    while page:
        seen += [run.id for run in page]
        page = await app.runs(limit=4, before=page[-1])
    assert seen == await ids(app)
    assert await ids(app, before="good-1") == ["good-0"]
    with pytest.raises(RunNotFound, match="'nobody'"):
        await app.runs(before="nobody")


async def test_wrong_arguments_are_named(app: App):
    """Limit, status and naive instants are refused with what they should be."""
    with pytest.raises(UsageError, match="from 1 to 1000, got 0"):
        await app.runs(limit=0)
    with pytest.raises(UsageError, match="no status 'done'; there are queued, running"):
        await app.runs(status=("failed", "done"))
    with pytest.raises(InvalidValue, match="naive"):
        await app.runs(created_after=datetime(2026, 1, 1))  # noqa: DTZ001  # the mistake


async def test_counts_and_workers(app: App):
    """Counts by status, definition and queue; the worker that is registered, while it is."""
    assert await app.counts() == [Count(Status.QUEUED, None, None, 6)]
    assert await app.counts(by_definition=True, by_queue=True) == [
        Count(Status.QUEUED, "bad", "slow", 1),
        Count(Status.QUEUED, "good", "default", 5),
    ]
    assert await app.workers() == []
    options = {"lease": "60s", "heartbeat": "20s"}
    async with Worker(app, queues=("none",), concurrency=3, **options) as worker:
        [entry] = await app.workers()
        assert (entry.lease, entry.heartbeat) == (timedelta(seconds=60), timedelta(seconds=20))
        assert (entry.id, entry.queues, entry.slots) == (worker.worker_id, ("none",), 3)
        assert entry.definitions.keys() == {"good", "bad"}
        assert entry.started_at.tzinfo is not None
