"""Retention in the SQLite store: nothing is left in any table, and a look costs what it finds."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from perdure.ids import Ids
from perdure.model.events import Publish, SendEvent, TakeEvent
from perdure.model.records import StepOutcome
from perdure.model.retention import DEFAULT, Prune, Pruned, PutRetentions
from perdure.model.transitions import (
    Completed,
    CreateRun,
    Failed,
    PauseRun,
    ResumeRun,
    Retrying,
    Settle,
)
from perdure.stores.sqlite import SqliteStore, pruning, searching
from perdure.testing.contract.desk import (
    DONE,
    FAIL,
    SECOND,
    Desk,
    ManualClock,
    child,
    fresh_token,
    grant_of,
    key,
    save,
)

DAY = 86_400 * SECOND


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "perdure.db", clock=ManualClock())
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def desk(store: SqliteStore) -> Desk:
    desk = Desk(store, store._clock)  # type: ignore[arg-type]
    await desk.worker()
    return desk


def writer(store: SqliteStore) -> sqlite3.Connection:
    return store._connections[0]


def rows_of(store: SqliteStore) -> dict[str, int]:
    """Return how many rows each table has; names stay for ever, and so does the newest seq."""
    tables = writer(store).execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    newest = {"run": " WHERE namespace <> 0", "checkpoint": " WHERE run <> 0"}
    return {
        name: writer(store)
        .execute(f"SELECT count(*) FROM {name}{newest.get(name, '')}")
        .fetchone()[0]
        for (name,) in tables
        if name != "name"
    }


async def live_fully(desk: Desk) -> None:
    """Leave something of a run in every table that has anything of runs."""
    grant = await desk.start(
        "r",
        meta=b"m" * 5_000,
        options=b"o" * 5_000,
        tags=("t",),
        unique_key="u",
        limit_key="k",
        caused_by="event:e",
    )
    await desk.do(save(grant, value=b"v" * 5_000))
    await desk.do(save(grant, "failed", StepOutcome.ERROR, b'"e"'))
    await desk.do(SendEvent("r", "sent", "T", b"1"))
    await desk.do(Publish("published", "T", b"2", 0))
    for k in range(2):
        await desk.do(TakeEvent(grant, key("w", k=k), k, "T", None, None, b"null", 0, 0))
    await desk.settle(grant, Retrying(b'"again"', 0, (key("failed"),)))
    await desk.do(PauseRun("r", "one"))
    await desk.do(ResumeRun("r", "two"))
    grant = await desk.claim_one("r")
    await desk.create("child", parent_id="r", by=grant)
    await desk.suspend(grant, child("child"))
    await desk.settle(await desk.claim_one("child"))
    grant = await desk.claim_one("r")
    await desk.settle(grant, Failed(b"f" * 5_000))
    await desk.retry("r")
    await desk.settle(await desk.claim_one("r"), Completed(b"r" * 5_000))
    await desk.claim()  # looks at the gate of its key, which is forgotten then


async def test_nothing_is_left_in_any_table(store: SqliteStore, desk: Desk):
    """Every table has as many rows as before there was anything."""
    before = rows_of(store)
    await live_fully(desk)
    full = rows_of(store)
    grown = {table for table, rows in full.items() if rows > before[table]}
    of_runs = {"run", "payload", "checkpoint", "attempt", "audit", "event", "taken"}
    assert grown == {*of_runs, "feed"}  # what happened is told for as long as the feed is kept
    desk.clock.advance(30 * DAY)
    assert await desk.do(Prune(100, events_for=30 * DAY)) == Pruned(runs=2, events=1)
    left = rows_of(store)
    assert {table for table, rows in left.items() if rows != before[table]} == {
        "feed",
        "feed_start",
    }
    assert await store.damage() == []


async def test_a_new_run_takes_over_nothing_of_a_removed_one(store: SqliteStore, desk: Desk):
    """Numbers may be given again: nothing refers to a removed run by its own."""
    await live_fully(desk)
    desk.clock.advance(30 * DAY)
    await desk.do(Prune(100, events_for=30 * DAY))
    grant = await desk.start("r")
    await desk.do(Publish("published", "T", b"3", 0))
    answer = await desk.do(TakeEvent(grant, key("w"), 0, "T", None, None, b"null", 0, 0))
    assert getattr(answer, "payload", None) == b"3"
    history = await desk.history("r")
    assert (len(history.checkpoints), history.attempts, history.audit) == (1, (), ())


PLANS = {
    name: text.replace("?1", "?")
    for name, text in {
        **{name: getattr(searching, name) for name in dir(searching) if name.isupper()},
        **{f"of runs {n}": each._texts[8] for n, each in enumerate(pruning.OF_RUNS)},
        **{f"of events {n}": each._texts[8] for n, each in enumerate(pruning.OF_EVENTS)},
        "WEIGHTS": pruning.WEIGHTS._texts[8],
    }.items()
    if isinstance(text, str) and text.lstrip().startswith(("SELECT", "WITH", "DELETE"))
}


def test_there_are_plans():
    """The test below looks at them."""
    assert len(PLANS) > 15


@pytest.mark.parametrize("name", PLANS)
def test_statements_seek(store: SqliteStore, name: str):
    """None reads a whole table or index, except of the few that an operator's age looks for."""
    text = PLANS[name]
    parameters = [1] * text.count("?")
    plan = [row[3] for row in writer(store).execute(f"EXPLAIN QUERY PLAN {text}", parameters)]
    scans = [line for line in plan if line.startswith("SCAN")]
    harmless = ("SCAN found", "SCAN (subquery", "SCAN CONSTANT ROW")
    assert not [line for line in scans if not line.startswith(harmless)], plan
    assert not [line for line in plan if "AUTOMATIC" in line], plan


def count_instructions(store: SqliteStore) -> Callable[[], int]:
    """Count the instructions of SQLite's machine, in tens; return what ends and tells it."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    writer(store).set_progress_handler(step, 10)

    def stop() -> int:
        writer(store).set_progress_handler(None, 0)
        return count

    return stop


async def finish(desk: Desk, count: int, verdict: object = DONE, **fields: object) -> None:
    """Create, claim and settle so many runs."""
    ids = Ids()
    for _ in range(0, count, 500):
        await desk.apply(
            *(
                CreateRun(ids.run_id(), "d", b"1", fresh_token(), **fields)  # type: ignore[arg-type]
                for _ in range(min(count, 500))
            )
        )
        given = (await desk.claim(500)).runs
        await desk.apply(*(Settle(grant_of(one), verdict) for one in given))  # type: ignore[arg-type]


async def test_what_is_kept_costs_nothing(store: SqliteStore, desk: Desk):
    """A look costs the same however many runs are kept, or stand beside what is over."""

    async def cost() -> int:
        stop = count_instructions(store)
        assert isinstance(await desk.do(Prune(500)), Pruned)
        return stop()

    parent = await desk.start("parent")
    await finish(desk, 1)
    few = await cost()
    await finish(desk, 2_000)
    await finish(desk, 500, FAIL)
    await finish(desk, 500, retention=90 * DAY)
    await finish(desk, 500, Completed(b"null", declined=True), retention=90 * DAY)
    await finish(desk, 500, parent_id="parent", by=parent, retention=0)
    assert (await desk.do(Prune(1_000))).runs == 0  # type: ignore[union-attr]
    assert await cost() < few * 1.5
    await desk.do(PutRetentions((("d", replace(DEFAULT, completed=None, keep=100_000)),)))
    desk.clock.advance(40 * DAY)
    await desk.do(Prune(5_000))
    assert await cost() < 10 * few + 4_000, "counting up to what is kept walks an index"


async def test_a_transition_removes_little_where_runs_are_large(store: SqliteStore, desk: Desk):
    """What it deletes is bounded by rows and pages, and it makes progress all the same."""
    await desk.create(*(f"r{number}" for number in range(3)))
    for given in (await desk.claim()).runs:
        grant = grant_of(given)
        saves = [save(grant, k=k) for k in range(3_000)]
        for start in range(0, 3_000, 1_000):
            await desk.apply(*saves[start : start + 1_000])
        await desk.settle(grant)
    await desk.create("large")
    await desk.settle(await desk.claim_one("large"), Completed(b"x" * (25 << 20)))
    desk.clock.advance(30 * DAY)
    found = []
    while not found or found[-1].more:
        found.append(await desk.do(Prune(500)))
    assert [each.runs for each in found] == [1, 1, 1, 1, 0][: len(found)]  # type: ignore[union-attr]
    assert sum(rows_of(store)[table] for table in ("run", "checkpoint", "payload")) == 0


async def test_large_events_are_removed_a_few_at_once(store: SqliteStore, desk: Desk):
    """As large runs are."""
    for number in range(5):
        await desk.do(Publish(f"e{number}", "T", b"1" * (9 << 20), 0))
    assert await desk.do(Prune(500, events_for=0)) == Pruned(events=2, more=True)
    assert await desk.do(Prune(500, events_for=0)) == Pruned(events=2, more=True)
    assert await desk.do(Prune(500, events_for=0)) == Pruned(events=1)
