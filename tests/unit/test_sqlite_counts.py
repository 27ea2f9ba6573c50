"""Counts of runs in the SQLite store: kept of the old ones, made of the newest, always exact."""

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from perdure._runtime.doctor import examine
from perdure.ids import Ids
from perdure.model.records import RunQuery, Status
from perdure.model.retention import Prune
from perdure.model.transitions import CreateRun, Settle
from perdure.stores.sqlite import SqliteStore, counting
from perdure.testing.contract.desk import DONE, SECOND, Desk, ManualClock, fresh_token, grant_of

MakeStore = Callable[[], Awaitable[SqliteStore]]


@pytest.fixture
async def make_store(tmp_path: Path) -> AsyncIterator[MakeStore]:
    """Open stores on one file and one clock."""
    clock, opened = ManualClock(), []

    async def make() -> SqliteStore:
        store = SqliteStore(tmp_path / "perdure.db", clock=clock)
        opened.append(store)
        await store.open()
        return store

    yield make
    for store in opened:
        await store.close()


@pytest.fixture
async def desk(make_store: MakeStore) -> Desk:
    store = await make_store()
    desk = Desk(store, store._clock)  # type: ignore[arg-type]
    await desk.worker()
    return desk


def of(desk: Desk) -> sqlite3.Connection:
    return desk.store._connections[0]  # type: ignore[attr-defined]


def creates(count: int, definition: str = "d", **fields: object) -> list[CreateRun]:
    ids = Ids()
    return [
        CreateRun(ids.run_id(), definition, b"1", fresh_token(), **fields)  # type: ignore[arg-type]
        for _ in range(count)
    ]


async def told(desk: Desk) -> dict[Status, int]:
    return {count.status: count.runs for count in await desk.store.counts()}


async def test_what_a_read_counts_does_not_grow(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """Of any number of runs only the newest are read; plain and other creates are counted in."""
    monkeypatch.setattr(counting, "FOLD", 100)
    for number in range(50):
        await desk.apply(*creates(50), *(creates(1, tags=("t",)) if number % 2 else []))
    assert await told(desk) == {Status.QUEUED: 2_525}
    (upto,) = of(desk).execute("SELECT upto FROM counted").fetchone()
    assert 2_525 - upto <= 300
    (kept,) = of(desk).execute("SELECT sum(runs) FROM run_count").fetchone()
    assert kept == upto
    plan = of(desk).execute(f"EXPLAIN QUERY PLAN {counting.COUNTS[True, True]}", (1,)).fetchall()
    lines = [row[3] for row in plan]
    assert any("SEARCH run USING INTEGER PRIMARY KEY (rowid>?)" in line for line in lines), lines
    assert not any(line.startswith("SCAN run") and "run_count" not in line for line in lines), lines


async def test_who_comes_and_goes_leaves_the_counting_to_the_pruner(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    """Processes that create a few runs each count nothing; each look of a pruner counts some."""
    monkeypatch.setattr(counting, "_AT_ONCE", 200)
    await desk.apply(*creates(1_000))
    monkeypatch.setattr(counting, "FOLD", 100)
    desk.store._journal._created = 0  # type: ignore[attr-defined]
    looks = 0
    while (await desk.do(Prune(10))).more:  # type: ignore[union-attr]
        looks += 1
    assert looks == 3
    assert of(desk).execute("SELECT upto FROM counted").fetchone() == (800,)
    assert await told(desk) == {Status.QUEUED: 1_000}


async def test_a_change_of_a_counted_run_moves_it(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """Two rows for a batch, whatever its size."""
    monkeypatch.setattr(counting, "FOLD", 1)
    await desk.apply(*creates(200))
    given = (await desk.claim(100)).runs
    assert await told(desk) == {Status.QUEUED: 100, Status.RUNNING: 100}
    seen: list[str] = []
    of(desk).set_trace_callback(seen.append)
    await desk.apply(*(Settle(grant_of(one), DONE) for one in given))
    of(desk).set_trace_callback(None)
    assert len([text for text in seen if text.startswith("INSERT INTO run_count")]) <= 1
    assert await told(desk) == {Status.QUEUED: 100, Status.COMPLETED: 100}


@pytest.mark.parametrize("seed", range(6))
async def test_they_are_exact_whoever_writes(
    make_store: MakeStore, desk: Desk, monkeypatch: pytest.MonkeyPatch, seed: int
):
    """Three stores on one file count, create, claim, settle, cancel, delay and prune by turns."""
    rng = Random(seed)
    monkeypatch.setattr(counting, "FOLD", rng.choice([1, 5, 40]))
    desks = [desk] + [Desk(await make_store(), desk.clock) for _ in range(2)]
    held: list[object] = []
    for _ in range(120):
        hand = rng.choice(desks)
        match rng.randrange(7):
            case 0:
                await hand.apply(*creates(rng.randint(1, 12), rng.choice("de")))
            case 1:
                delay = rng.randint(1, 5) * SECOND
                await hand.apply(*creates(rng.randint(1, 5), delay=delay))
            case 2 | 3:
                claimed = await hand.claim(rng.randint(1, 10), definitions=("d", "e"))
                held += [grant_of(one) for one in claimed.runs]
            case 4:
                rng.shuffle(held)
                ending, held = held[:8], held[8:]
                if ending:
                    await hand.apply(*(Settle(one, DONE) for one in ending))  # type: ignore[arg-type]
            case 5:
                for run in await hand.store.list_runs(RunQuery(limit=2)):
                    await hand.cancel(run.run_id)
            case _:
                desk.clock.advance(rng.randint(0, 2 * SECOND))
                await hand.do(Prune(rng.randint(1, 9), older_than=rng.randint(0, SECOND)))
        runs = await hand.store.list_runs(RunQuery(limit=1_000))
        real = Counter(run.status for run in runs)
        assert await told(rng.choice(desks)) == real
    (kept,) = of(desk).execute("SELECT coalesce(sum(runs), 0) FROM run_count").fetchone()
    (upto,) = of(desk).execute("SELECT upto FROM counted").fetchone()
    older = "SELECT count(*) FROM run WHERE seq <= ? AND namespace <> 0"
    assert (kept,) == of(desk).execute(older, (upto,)).fetchone()
    assert (await examine(desk.store)).findings == ()


async def test_a_batch_that_fails_counts_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """What is rolled back was never counted."""
    monkeypatch.setattr(counting, "FOLD", 1)
    await desk.apply(*creates(5))
    [given] = (await desk.claim(1)).runs
    before = await told(desk)
    with pytest.raises(Exception, match="too"):
        await desk.apply(Settle(grant_of(given), DONE), *creates(1, priority=2**70))
    assert await told(desk) == before
    assert (await examine(desk.store)).findings == ()


async def test_the_doctor_finds_a_wrong_count(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """It counts the runs itself."""
    monkeypatch.setattr(counting, "FOLD", 1)
    await desk.apply(*creates(5))
    await desk.apply(*creates(1))
    assert (await examine(desk.store)).findings == ()
    of(desk).execute("UPDATE run_count SET runs = runs + 1")
    [finding] = (await examine(desk.store)).findings
    assert finding.code == "counts"
    assert "7 runs of 'd' in 'default' are counted as queued, and there are 6" in finding.message
