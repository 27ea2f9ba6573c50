"""Continued: a run goes on in another generation with another input, and leaves nothing behind."""

import pytest
import pytest_asyncio

from perdure.model.changes import ChangeKind
from perdure.model.events import SendEvent, TakeEvent, Taken
from perdure.model.queues import Limits, PutQueue
from perdure.model.records import Grant, ParentClose, Rank, RunQuery, Status, StepOutcome
from perdure.model.streams import WriteStream
from perdure.model.transitions import (
    CancelRun,
    Continued,
    CreateRun,
    Exists,
    Fenced,
    ForkRun,
    PauseRun,
    RestartRun,
    Retrying,
    Settle,
    Settled,
    Suspended,
)
from perdure.store import Store
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
    pending,
    save,
    timer,
)

AGAIN = Continued(b'"again"')


@pytest_asyncio.fixture
async def desk(store: Store, clock: ManualClock) -> Desk:
    """The test's hand on its store, at which a worker is registered."""
    desk = Desk(store, clock)
    await desk.worker()
    return desk


async def kinds(desk: Desk, run_id: str = "r") -> list[ChangeKind]:
    page = await desk.store.changes(None, 1_000)
    return [change.kind for change in page.changes if change.run_id == run_id]


async def test_a_run_continues_in_another_generation_with_another_input(desk: Desk):
    """Queued as one that goes on, with a first attempt that has not started."""
    grant = await desk.start()
    before = await desk.run()
    assert await desk.settle(grant, AGAIN) is Status.QUEUED
    run = await desk.run()
    assert (run.input, run.generation, run.continued, run.attempt) == (b'"again"', 1, 1, 1)
    assert (run.rank, run.started_at, run.finished_at) == (Rank.RESUMED, None, None)
    assert (run.seq, run.created_at, run.epoch) == (before.seq, before.created_at, 1)
    claimed = await desk.claim()
    assert claimed.runs[0].run.input == b'"again"'
    assert (claimed.runs[0].checkpoints, claimed.runs[0].marks) == ((), ())
    assert (await desk.run()).continued == 1
    assert await desk.settle(grant_of(claimed.runs[0])) is Status.COMPLETED
    assert await kinds(desk) == ["created", "claimed", "continued", "claimed", "completed"]


async def test_the_same_settle_again_changes_nothing(desk: Desk):
    """It is answered with what the run is now; of another claim it is fenced."""
    grant = await desk.start()
    settle = Settle(grant, AGAIN)
    assert await desk.apply(settle, settle) == [Settled(Status.QUEUED)] * 2
    assert await desk.do(settle) == Settled(Status.QUEUED)
    assert (await desk.run()).generation == 1
    await desk.claim_one("r")
    assert await desk.do(settle) == Fenced("r")


async def test_nothing_of_the_record_is_kept(desk: Desk):
    """Checkpoints of every generation, attempts, waits and marks; streams and audit stay."""
    grant = await desk.start()
    await desk.do(save(grant, "old"))
    await desk.settle(grant)
    await desk.do(RestartRun("r", "again", key("old")))
    grant = await desk.claim_one("r")
    await desk.settle(grant, Retrying(b'"boom"', 0))
    grant = await desk.claim_one("r")
    await desk.apply(
        save(grant, "a"),
        pending(grant, "b"),
        WriteStream(grant, "lines", b"", "", 0, b"1", 0),
    )
    await desk.suspend(grant, timer(0))
    grant = await desk.claim_one("r")
    assert (await desk.history()).waits
    await desk.apply(save(grant, "c"), Settle(grant, AGAIN))
    history = await desk.history()
    assert (history.checkpoints, history.attempts, history.waits) == ((), (), ())
    assert (history.run.generation, history.run.attempt) == (2, 1)
    assert [entry.action for entry in history.audit] == ["restart"]
    assert [stream.entries for stream in history.streams] == [1]
    claimed = await desk.claim()
    assert claimed.runs[0].marks == ()
    next_one = grant_of(claimed.runs[0])
    await desk.apply(save(next_one, "a"), WriteStream(next_one, "lines", b"", "", 0, b"2", 0))
    page = await desk.store.stream("r", "lines")
    assert page is not None
    assert [(one.generation, one.value) for one in page.entries] == [(1, b"1"), (2, b"2")]
    assert [one.outcome for one in (await desk.history()).checkpoints] == [StepOutcome.OK]


async def test_what_is_written_behind_it_is_fenced(desk: Desk):
    """In the same batch, too."""
    grant = await desk.start()
    outcomes = await desk.apply(save(grant, "a"), Settle(grant, AGAIN), save(grant, "b"))
    assert outcomes[1:] == [Settled(Status.QUEUED), Fenced("r")]
    assert (await desk.history()).checkpoints == ()


async def test_long_and_short_inputs_follow_on_each_other(desk: Desk):
    """Wherever a store keeps long ones."""
    grant = await desk.start()
    for size in (5_000, 3, 4_000, 6_000, 1):
        data = b'"' + b"x" * size + b'"'
        await desk.settle(grant, Continued(data))
        claimed = await desk.claim()
        assert claimed.runs[0].run.input == data
        grant = grant_of(claimed.runs[0])
    assert (await desk.run()).continued == 5


async def test_whoever_waits_for_it_waits_on(desk: Desk):
    """A parent is woken by the end of the last generation."""
    parent = await desk.start("parent")
    grant = await desk.start("r", parent_id="parent")
    await desk.suspend(parent, child("r"))
    await desk.settle(grant, AGAIN)
    assert await desk.status("parent") is Status.WAITING
    assert await desk.store.endings(["r"]) == {}
    await desk.settle(await desk.claim_one("r"))
    assert await desk.status("parent") is Status.QUEUED


async def test_what_is_attached_to_it_lives_until_its_last_generation_ends(desk: Desk):
    """The body is not over before."""
    grant = await desk.start()
    close = ParentClose.CANCEL
    await desk.create("child", parent_id="r", by=grant, on_parent_close=close)
    await desk.settle(grant, AGAIN)
    assert await desk.status("child") is Status.QUEUED
    claimed = await desk.claim()
    grants = {given.run.run_id: grant_of(given) for given in claimed.runs}
    await desk.settle(grants["child"], timer_of_child(desk))
    await desk.settle(grants["r"])
    assert await desk.status("child") is Status.CANCELLED


def timer_of_child(desk: Desk) -> Suspended:
    return Suspended((timer(desk.clock.now() + SECOND),))


async def test_it_keeps_its_unique_key(desk: Desk):
    """And gives it up when it ends."""
    grant = await desk.start(unique_key="k")
    await desk.settle(grant, AGAIN)
    create = CreateRun("s", "d", b'"in"', fresh_token(), unique_key="k")
    assert await desk.do(create) == Exists("r", same=False)
    await desk.settle(await desk.claim_one("r"))
    await desk.create("s", unique_key="k")


@pytest.mark.parametrize("compensate", [False, True])
async def test_a_cancel_that_was_accepted_wins(desk: Desk, compensate: bool):
    """The run is cancelled in the generation in which it is, or undoes what that did."""
    grant = await desk.start()
    await desk.do(save(grant, "a"))
    await desk.do(CancelRun("r", "c", compensate))
    status = await desk.settle(grant, AGAIN)
    assert status is (Status.QUEUED if compensate else Status.CANCELLED)
    run = await desk.run()
    assert (run.generation, run.continued, run.input) == (0, 0, b'"in"')
    assert len((await desk.history()).checkpoints) == 1


async def test_a_restart_that_was_accepted_wins(desk: Desk):
    """It begins again with the input that it has, from the step that was asked for."""
    grant = await desk.start()
    await desk.apply(save(grant, "a"), save(grant, "b"))
    await desk.do(RestartRun("r", "again", key("b")))
    await desk.settle(grant, AGAIN)
    run = await desk.run()
    assert (run.generation, run.continued, run.input) == (1, 0, b'"in"')
    claimed = await desk.claim()
    assert [one.key.path for one in claimed.runs[0].checkpoints if one.key.path] == ["a"]


async def test_a_pause_that_was_accepted_holds_the_next_generation(desk: Desk):
    """It has continued, and is paused."""
    grant = await desk.start()
    await desk.do(PauseRun("r", "p"))
    assert await desk.settle(grant, AGAIN) is Status.PAUSED
    run = await desk.run()
    assert (run.generation, run.continued, run.reason) == (1, 1, "operator")


async def test_a_crash_of_the_next_generation_is_counted_anew(desk: Desk):
    """Crashes in a row end with an orderly end."""
    await desk.create("r")
    await desk.crash("r")
    grant = await desk.claim_one("r")
    await desk.settle(grant, AGAIN)
    assert (await desk.run()).crashes == 0
    await desk.crash("r")
    history = await desk.history()
    assert (history.run.generation, history.run.crashes) == (1, 1)
    assert [one.outcome for one in history.attempts] == ["crashed"]


async def test_it_cleans_between_its_generations(desk: Desk):
    """What its definition has to do on a cancel is done, though its next body has not begun."""
    grant = await desk.start()
    await desk.do(Settle(grant, AGAIN, cleans=True))
    await desk.cancel("r")
    run = await desk.run()
    assert (run.status, run.undoing) == (Status.QUEUED, "cancel")


def take(grant: Grant, path: str = "wait") -> TakeEvent:
    return TakeEvent(grant, key(path), 0, "E", None, None, b"null", 0, 0)


async def send(desk: Desk, *payloads: bytes) -> None:
    for payload in payloads:
        await desk.do(SendEvent("r", f"event {payload!r}", "E", payload))


async def test_events_that_were_taken_stay_taken_and_others_are_there(desk: Desk):
    """Also after the next generation was restarted, and after another continuation."""
    grant = await desk.start()
    await send(desk, b"1", b"2", b"3", b"4")
    taken = await desk.do(take(grant))
    assert isinstance(taken, Taken)
    assert taken.payload == b"1"
    await desk.settle(grant, AGAIN)
    grant = await desk.claim_one("r")
    taken = await desk.do(take(grant))
    assert isinstance(taken, Taken)
    assert taken.payload == b"2"
    await desk.settle(grant)
    await desk.do(RestartRun("r", "again"))
    grant = await desk.claim_one("r")
    taken = await desk.do(take(grant))
    assert isinstance(taken, Taken)
    assert taken.payload == b"2"  # a restart has its events again
    await desk.settle(grant, AGAIN)
    grant = await desk.claim_one("r")
    outcomes = await desk.apply(take(grant, "one"), take(grant, "two"))
    assert [one.payload for one in outcomes if isinstance(one, Taken)] == [b"3", b"4"]


async def test_what_a_restarted_generation_had_taken_is_not_taken_for_good(desk: Desk):
    """Only what the one that continues has taken."""
    grant = await desk.start()
    await send(desk, b"1")
    await desk.do(take(grant))
    await desk.settle(grant)
    await desk.do(RestartRun("r", "again"))
    grant = await desk.claim_one("r")
    await desk.settle(grant, AGAIN)
    grant = await desk.claim_one("r")
    taken = await desk.do(take(grant))
    assert isinstance(taken, Taken)
    assert taken.payload == b"1"


async def test_a_retry_and_a_fork_go_on_from_the_last_generation(desk: Desk):
    """There is nothing before it."""
    grant = await desk.start()
    await desk.do(save(grant, "a"))
    await desk.settle(grant, AGAIN)
    grant = await desk.claim_one("r")
    await desk.do(save(grant, "b"))
    await desk.settle(grant, FAIL)
    create = CreateRun("f", "d", b'"in"', fresh_token(), caused_by="fork:r")
    await desk.do(ForkRun(create, "r", 1))
    await desk.retry("r")
    for given in (await desk.claim()).runs:
        assert [one.key.path for one in given.checkpoints if one.key.path] == ["b"]
        assert given.run.continued == (given.run.run_id == "r")


async def test_it_frees_the_slot_of_its_queue(desk: Desk):
    """Others of the queue may come between its generations."""
    await desk.do(PutQueue("default", Limits(concurrency=1)))
    grant = await desk.start()
    await desk.create("other")
    assert (await desk.claim()).runs == ()
    await desk.settle(grant, AGAIN)
    assert len((await desk.claim()).runs) == 1


async def test_counts_and_lists_follow(desk: Desk):
    """It counts as queued, and is found so."""
    await desk.settle(await desk.start(), AGAIN)
    [count] = await desk.store.counts()
    assert (count.status, count.runs) == (Status.QUEUED, 1)
    [listed] = await desk.store.list_runs(RunQuery(statuses=(Status.QUEUED,)))
    assert listed == await desk.run()


async def test_many_generations_in_a_row(desk: Desk):
    """Nothing of them adds up."""
    grant = await desk.start()
    for number in range(60):
        await desk.apply(
            save(grant, f"step {number}"), pending(grant, "p", delay=SECOND), Settle(grant, AGAIN)
        )
        grant = await desk.claim_one("r")
    history = await desk.history()
    assert (history.run.generation, history.run.continued) == (60, 60)
    assert (history.checkpoints, history.attempts, history.waits) == ((), (), ())
    assert await desk.settle(grant, DONE) is Status.COMPLETED
