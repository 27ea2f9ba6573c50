"""Progress: the last thing that a run has said of how far it is."""

import pytest_asyncio

from perdure.model.changes import Change, ChangeKind
from perdure.model.progress import SetProgress
from perdure.model.records import Control, Grant, Status
from perdure.model.transitions import (
    CancelRun,
    Continued,
    CreateRun,
    Fenced,
    ForkRun,
    RestartRun,
    Saved,
    Settle,
    Settled,
)
from perdure.store import Store
from perdure.testing.contract.desk import DONE, Desk, ManualClock, fresh_token


@pytest_asyncio.fixture
async def desk(store: Store, clock: ManualClock) -> Desk:
    """The test's hand on its store, at which a worker is registered."""
    desk = Desk(store, clock)
    await desk.worker()
    return desk


async def told(desk: Desk) -> list[Change]:
    page = await desk.store.changes(None, 1_000)
    return [change for change in page.changes if change.kind is ChangeKind.PROGRESS]


async def test_the_last_word_is_kept_and_each_is_told(desk: Desk):
    """In the run's record; the feed tells that it was said, not what."""
    grant = await desk.start()
    assert (await desk.run()).progress is None
    said = [SetProgress(grant, b"0.1"), SetProgress(grant, b"0.2")]
    assert await desk.apply(*said) == [Saved()] * 2
    assert (await desk.run()).progress == b"0.2"
    assert (await desk.history()).run.progress == b"0.2"
    assert len(await told(desk)) == 2
    [change] = (await told(desk))[1:]
    assert (change.run_id, change.status, change.attempt, change.epoch) == ("r", "running", 1, 1)


async def test_the_same_again_is_no_change(desk: Desk):
    """Neither in the same batch nor in another claim."""
    grant = await desk.start()
    await desk.apply(SetProgress(grant, b"1"), SetProgress(grant, b"1"))
    await desk.do(SetProgress(grant, b"1"))
    await desk.rescue()
    await desk.worker()
    again = await desk.claim_one("r")
    assert await desk.do(SetProgress(again, b"1")) == Saved()
    assert len(await told(desk)) == 1


async def test_without_the_current_grant_nothing_is_said(desk: Desk):
    """Fenced; but what is there already was said by the grant of the run that ended."""
    grant = await desk.start()
    await desk.do(SetProgress(grant, b"1"))
    await desk.rescue()
    await desk.worker()
    assert await desk.do(SetProgress(grant, b"1")) == Fenced("r")
    assert await desk.do(SetProgress(Grant("nobody", 1, 1), b"1")) == Fenced("nobody")
    current = await desk.claim_one("r")
    outcomes = await desk.apply(
        SetProgress(current, b"2"), Settle(current, DONE), SetProgress(current, b"3")
    )
    assert outcomes == [Saved(), Settled(Status.COMPLETED), Fenced("r")]
    assert await desk.do(SetProgress(current, b"2")) == Saved()
    assert (await desk.run()).progress == b"2"


async def test_it_hears_the_operators_word(desk: Desk):
    """Like every write under a grant."""
    grant = await desk.start()
    await desk.do(CancelRun("r", "c"))
    assert await desk.do(SetProgress(grant, b"1")) == Saved(Control.CANCEL)


async def test_it_stands_until_something_else_is_said(desk: Desk):
    """Over a restart and a continuation; a fork has said nothing yet."""
    grant = await desk.start()
    await desk.do(SetProgress(grant, b"1"))
    await desk.settle(grant, Continued(b"null"))
    assert (await desk.run()).progress == b"1"
    await desk.settle(await desk.claim_one("r"))
    await desk.do(RestartRun("r", "again"))
    assert (await desk.run()).progress == b"1"
    create = CreateRun("f", "d", b"null", fresh_token(), caused_by="fork:r")
    await desk.do(ForkRun(create, "r", 1))
    assert (await desk.run("f")).progress is None
    claimed = await desk.claim()
    assert {given.run.run_id: given.run.progress for given in claimed.runs} == {
        "r": b"1",
        "f": None,
    }
