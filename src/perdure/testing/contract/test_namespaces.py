"""Two namespaces on the same data see and change nothing of each other."""

import pytest
import pytest_asyncio

from perdure.model.records import Control, Grant, RunQuery, Status
from perdure.model.transitions import (
    Beaten,
    CancelRun,
    Claim,
    Claimed,
    Controlled,
    Created,
    CreateRun,
    Fenced,
    GiveBack,
    Heartbeat,
    Mismatched,
    Missing,
    Rescued,
    RescueWorker,
    RetireWorker,
    RetryRun,
    Saved,
    Settle,
    Settled,
)
from perdure.testing.contract.desk import (
    CRASH,
    DONE,
    FAIL,
    SECOND,
    Desk,
    ManualClock,
    child,
    fresh_token,
    ids,
    save,
)
from perdure.testing.contract.fixtures import MakeStore


@pytest_asyncio.fixture
async def here(make_store: MakeStore, clock: ManualClock) -> Desk:
    """The namespace that the tests look at."""
    return Desk(await make_store("tenant"), clock)


@pytest_asyncio.fixture(
    params=["tenant2", "Tenant", "tenan", "tenant' OR '1'='1", "tenant%", "_enant"]
)
async def there(request: pytest.FixtureRequest, make_store: MakeStore, clock: ManualClock) -> Desk:
    """Another namespace on the same data, with a name that is easily taken for the first."""
    return Desk(await make_store(request.param), clock)


async def test_the_same_ids_may_live_in_both(here: Desk, there: Desk):
    """Runs, keys, workers, tokens and steps of one are not there in the other."""
    for desk in (here, there):
        await desk.worker()
        create = CreateRun("r", "d", b"1", 7, unique_key="u")
        assert await desk.do(create) == Created("r")
        claimed = await desk.claim(token=99)
        assert ids(claimed) == ["r"]
        grant = Grant("r", 1, 99)
        assert await desk.do(save(grant)) == Saved()
        assert await desk.do(CancelRun("r", "q")) == Controlled(Status.RUNNING)
        heard = Beaten(known=True, beat=1, held=1, controls=(("r", Control.CANCEL),))
        assert await desk.do(Heartbeat("w")) == heard
    await here.settle(Grant("r", 1, 99))
    assert await here.status() is Status.CANCELLED
    assert await there.status() is Status.RUNNING


async def test_nothing_is_read_across(here: Desk, there: Desk):
    """No read of the other namespace tells of this one."""
    await here.worker()
    await here.end("ended")
    await here.suspend(await here.start(), child("x"))
    await here.create("late", delay=SECOND)
    store = there.store
    assert await store.get("ended") is None
    assert await store.history("ended") is None
    assert await store.endings(["ended", "r", "late"]) == {}
    assert await store.list_runs(RunQuery()) == []
    assert await store.workers() == []
    await there.worker()
    assert (await there.claim()).next_due_at is None


async def test_nothing_is_written_across(here: Desk, there: Desk):
    """Every transition that names runs, grants and workers of this one finds none of them."""
    await here.worker()
    await here.worker("dead")
    await here.end("failed", FAIL)
    grant = await here.start()
    await here.create("queued", unique_key="u")
    before = await here.snapshot()
    await there.worker("other", {"d": "2"})
    answers = await there.apply(
        save(grant),
        Settle(grant, DONE),
        CreateRun("new", "d", b"", fresh_token(), by=grant),
        CancelRun("queued", "q"),
        CancelRun("r", "q"),
        RetryRun("failed", "q"),
        GiveBack("w", ()),
        RescueWorker("w", None, 1, CRASH),
        RetireWorker("dead"),
        CreateRun("mine", "d", b'"in"', fresh_token(), unique_key="u"),
        Claim("w", grant.token, ("d",), ("default",), 10),
    )
    assert answers[:10] == [
        Fenced("r"),
        Fenced("r"),
        Fenced("r"),
        Missing("queued"),
        Missing("r"),
        Missing("failed"),
        Rescued(),
        Rescued(),
        Rescued(),
        Created("mine"),
    ]
    assert isinstance(answers[10], Claimed)
    assert (answers[10].known, answers[10].runs) == (False, ())
    assert not (await there.do(Heartbeat("w"))).known
    assert await here.snapshot() == before


async def test_claims_take_only_their_own(here: Desk, there: Desk, clock: ManualClock):
    """Queued and due runs, suspects and repeated tokens of the other are never given."""
    await here.worker()
    await there.worker()
    await here.create("suspect")
    await here.crash("suspect", times=2)
    await here.create("queued")
    await here.create("due", delay=SECOND)
    clock.advance(SECOND)
    claimed = await there.claim(suspects=True)
    assert (ids(claimed), claimed.suspects, claimed.next_due_at) == ([], False, None)
    assert await here.status("due") is Status.WAITING
    assert ids(await here.claim(token=99)) == ["queued", "due"]
    assert ids(await there.claim(token=99)) == []


async def test_ends_and_claims_wake_only_their_own(here: Desk, there: Desk):
    """A child of the same id elsewhere wakes nobody here; nor does a claim refit runs here."""
    await here.worker()
    await there.worker()
    await here.suspend(await here.start("parent"), child("child"))
    await there.end("child")
    assert await here.status("parent") is Status.WAITING
    await here.end("misfit", Mismatched(b"{}", "1"))
    await there.worker("new", {"d": "2"})
    assert ids(await there.claim(worker_id="new")) == []
    assert await here.status("misfit") is Status.PAUSED


async def test_settling_here_leaves_the_same_run_there(here: Desk, there: Desk):
    """Two runs of one id with one grant: each settles its own."""
    for desk in (here, there):
        await desk.worker()
        await desk.create("r")
        await desk.claim(token=99)
    assert await here.do(Settle(Grant("r", 1, 99), DONE)) == Settled(Status.COMPLETED)
    assert await there.status() is Status.RUNNING
    assert await there.rescue() == Rescued(("r",))
    assert await here.status() is Status.COMPLETED
