"""get, history, list_runs, workers, now: what a store tells of itself."""

import pytest

from perdure.model.records import RunQuery, Status
from perdure.model.transitions import CreateRun, Failed, Mismatched, Released
from perdure.testing.contract.desk import (
    DONE,
    FAIL,
    SECOND,
    START,
    Desk,
    child,
    fresh_token,
    grant_of,
    save,
)


async def test_an_unknown_run_is_none(desk: Desk):
    """Neither get nor history invents a run; ids are matched whole and exactly."""
    await desk.create("run-1")
    for run_id in ("run", "run-10", "RUN-1", "run-1 ", "", "run_1", "run%", "%"):
        assert await desk.store.get(run_id) is None
        assert await desk.store.history(run_id) is None


async def test_a_record_that_was_read_does_not_change(desk: Desk):
    """What a store hands out is a value: later transitions do not show in it."""
    await desk.worker()
    await desk.create("r")
    queued = await desk.run()
    [given] = (await desk.claim()).runs
    history = await desk.history()
    [listed] = await desk.store.list_runs(RunQuery())
    await desk.settle(grant_of(given))
    assert queued.status is Status.QUEUED
    assert [run.status for run in (given.run, history.run, listed)] == [Status.RUNNING] * 3
    assert await desk.status() is Status.COMPLETED


async def test_history_has_everything_of_a_run(desk: Desk, clock):
    """Record, attempts, checkpoints, waits and audit of this run and of no other."""
    await desk.worker()
    for name in ("r", "r1"):
        await desk.end(name, FAIL)
        await desk.retry(name, f"retry-{name}")
        grant = await desk.claim_one(name)
        await desk.do(save(grant, f"step-{name}"))
        await desk.suspend(grant, child(f"child-{name}"))
    history = await desk.history("r")
    assert history.run == await desk.run("r")
    assert [attempt.outcome for attempt in history.attempts] == ["failed"]
    assert [checkpoint.key.path for checkpoint in history.checkpoints] == ["step-r"]
    assert history.waits == (child("child-r"),)
    assert [entry.request_id for entry in history.audit] == ["retry-r"]


async def test_runs_are_listed_newest_first(desk: Desk, clock):
    """Creation decides, not what happened since."""
    await desk.worker()
    await desk.create("a")
    clock.advance(SECOND)
    await desk.create("b", "c")
    await desk.cancel("a")
    assert await _listed(desk) == ["c", "b", "a"]


async def test_a_clock_that_steps_back_does_not_reorder_runs(desk: Desk, clock):
    """Runs are numbered by the store, not by its clock."""
    await desk.create("a")
    clock.advance(-SECOND)
    await desk.create("b")
    assert await _listed(desk) == ["b", "a"]


async def _listed(desk: Desk, **query: object) -> list[str]:
    runs = await desk.store.list_runs(RunQuery(**query))  # type: ignore[arg-type]
    return [run.run_id for run in runs]


async def test_every_filter_narrows(desk: Desk):
    """Statuses are alternatives; definition, reason and parent are exact; all of them together."""
    await desk.worker()
    await desk.create("parent", definition="p")
    await desk.end("done", DONE)
    await desk.end("boom", FAIL)
    await desk.end("late", Failed(b"{}", "timeout"))
    await desk.end("misfit", Mismatched(b"{}", "1"))
    await desk.create("child", parent_id="parent")
    await desk.create("D", definition="D", parent_id="PARENT")
    assert await _listed(desk) == ["D", "child", "misfit", "late", "boom", "done", "parent"]
    assert await _listed(desk, statuses=(Status.FAILED,)) == ["late", "boom"]
    both = (Status.PAUSED, Status.COMPLETED)
    assert await _listed(desk, statuses=both) == ["misfit", "done"]
    assert await _listed(desk, definitions=("p",)) == ["parent"]
    assert await _listed(desk, reason="timeout") == ["late"]
    assert await _listed(desk, reason="mismatch") == ["misfit"]
    assert await _listed(desk, parent_id="parent") == ["child"]
    assert await _listed(desk, definitions=("D",), parent_id="parent") == []
    assert await _listed(desk, definitions=("d",), statuses=(Status.QUEUED,)) == ["child"]
    assert await _listed(desk, definitions=("",)) == []
    assert await _listed(desk, limit=2) == ["D", "child"]
    assert await _listed(desk, statuses=(Status.FAILED,), limit=1) == ["late"]


async def test_pages_are_whole_while_others_write(desk: Desk):
    """Runs created, ended and retried between two pages make no run appear twice or vanish."""
    await desk.worker()
    names = [f"r{n}" for n in range(25)]
    await desk.create(*names)
    seen: list[str] = []
    before = None
    while page := await desk.store.list_runs(RunQuery(limit=4, before=before)):
        seen += [run.run_id for run in page]
        before = page[-1].seq
        await desk.create(f"new-{len(seen)}")
        await desk.cancel(page[-1].run_id)
        await desk.cancel(f"r{len(seen) % 25}")
    assert seen == list(reversed(names))


async def test_a_filtered_page_goes_on_from_its_cursor(desk: Desk):
    """The cursor is a place in the order of creation, also where the filter passes few."""
    await desk.create(*(f"r{n}" for n in range(30)))
    for n in range(0, 30, 3):
        await desk.cancel(f"r{n}")
    cancelled = (Status.CANCELLED,)
    first = await desk.store.list_runs(RunQuery(statuses=cancelled, limit=4))
    second = await desk.store.list_runs(
        RunQuery(statuses=cancelled, limit=100, before=first[-1].seq)
    )
    expected = [f"r{n}" for n in range(27, -1, -3)]
    assert [run.run_id for run in first + second] == expected
    assert await _listed(desk, before=second[-1].seq) == []


async def test_a_cursor_before_everything_is_the_end(desk: Desk):
    """No run is older than the first."""
    await desk.create("r")
    assert await _listed(desk, before=(await desk.run()).seq) == []


async def test_the_store_tells_its_time(desk: Desk, clock):
    """It is the injected clock's, in microseconds."""
    assert await desk.store.now() == START
    clock.advance(1)
    assert await desk.store.now() == START + 1


async def test_an_empty_store_tells_nothing(desk: Desk):
    """No runs, no workers, no endings."""
    assert await _listed(desk) == []
    assert await desk.store.workers() == []
    assert await desk.store.endings(["r"]) == {}


@pytest.mark.parametrize("count", [1, 1_000])
async def test_endings_are_read_in_one_go(desk: Desk, count: int):
    """Any number of ids may be asked for at once, also the same one twice."""
    names = [f"r{n}" for n in range(count)]
    await desk.apply(*(CreateRun(name, "d", b"", fresh_token()) for name in names))
    for name in names[:3]:
        await desk.cancel(name)
    endings = await desk.store.endings([*names, *names])
    assert endings.keys() == set(names[:3])


async def test_claims_leave_what_is_released_in_the_list(desk: Desk):
    """A run is listed once however often it was claimed."""
    await desk.worker()
    grant = await desk.start()
    for _ in range(3):
        await desk.settle(grant, Released())
        grant = await desk.claim_one("r")
    assert await _listed(desk) == ["r"]
