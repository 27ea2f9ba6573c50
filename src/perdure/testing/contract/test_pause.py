"""PauseRun and ResumeRun: whatever a run was about stands still, and goes on where it was."""

import pytest

from perdure.model.records import Audit, Control, Rank, Status, StepOutcome, WaitKind
from perdure.model.transitions import (
    Beaten,
    CancelRun,
    Controlled,
    GiveBack,
    Heartbeat,
    Mismatched,
    Missing,
    PauseRun,
    Refused,
    Released,
    Rescued,
    ResumeRun,
    RetireWorker,
    Retrying,
    Saved,
    Settle,
    Settled,
    Suspended,
)
from perdure.testing.contract.desk import (
    DONE,
    FAIL,
    SECOND,
    START,
    Desk,
    child,
    ids,
    pending,
    save,
    timer,
)


async def pause(desk: Desk, run_id: str = "r", request_id: str = "p1"):
    return await desk.do(PauseRun(run_id, request_id))


async def resume(desk: Desk, run_id: str = "r", request_id: str = "r1"):
    return await desk.do(ResumeRun(run_id, request_id))


async def is_left_alone(desk: Desk, clock) -> bool:
    """Tell whether nothing claims the run, however late it is."""
    now = clock.now()
    clock.advance(10**12)
    claimed = await desk.claim(suspects=True)
    clock.advance(now - clock.now())
    return ids(claimed) == []


# --- nobody holds it -------------------------------------------------------------------------


async def test_a_queued_run_is_paused_at_once(desk: Desk, clock):
    """No claim gives it, and a resume queues it again."""
    await desk.worker()
    await desk.create("r")
    clock.advance(5)
    assert await pause(desk) == Controlled(Status.PAUSED)
    history = await desk.history()
    run = history.run
    assert (run.reason, run.paused_at, run.updated_at) == ("operator", START + 5, START + 5)
    assert history.audit == (Audit("p1", "r", "pause", START + 5),)
    assert await is_left_alone(desk, clock)
    assert await resume(desk) == Controlled(Status.QUEUED)
    run = await desk.run()
    assert (run.reason, run.paused_at, run.rank) == (None, None, Rank.FRESH)
    assert ids(await desk.claim()) == ["r"]


async def test_a_delayed_run_is_later_by_the_pause(desk: Desk, clock):
    """Its due time stands still meanwhile."""
    await desk.worker()
    await desk.create("r", delay=10)
    clock.advance(4)
    assert await pause(desk) == Controlled(Status.PAUSED)
    assert (await desk.run()).waiting_for is WaitKind.DELAY
    assert await is_left_alone(desk, clock)
    clock.advance(100)
    assert await resume(desk) == Controlled(Status.WAITING)
    assert (await desk.run()).due_at == START + 110
    clock.advance(5)
    assert ids(await desk.claim()) == []
    clock.advance(1)
    assert ids(await desk.claim()) == ["r"]


async def test_waits_and_pending_steps_are_later_by_the_pause(desk: Desk, clock):
    """All that is due moves by the same length; what is final does not."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "done"), pending(grant, delay=50))
    await desk.suspend(grant, timer(START + 50), child("x", due_at=START + 70))
    await pause(desk)
    clock.advance(20)
    assert await resume(desk) == Controlled(Status.WAITING)
    history = await desk.history()
    assert history.run.due_at == START + 70
    assert [wait.due_at for wait in history.waits] == [START + 70, START + 90]
    assert [(c.outcome, c.due_at) for c in history.checkpoints] == [
        (StepOutcome.OK, None),
        (StepOutcome.PENDING, START + 70),
    ]


async def test_a_child_that_ends_during_the_pause_wakes_the_run_afterwards(desk: Desk):
    """Nothing wakes a paused run; a resume finds the join fulfilled."""
    await desk.worker()
    await desk.suspend(await desk.start(), child("x"))
    await pause(desk)
    await desk.end("x")
    assert await desk.status() is Status.PAUSED
    assert await resume(desk) == Controlled(Status.QUEUED)
    [claimed] = (await desk.claim()).runs
    assert [ending.run_id for ending in claimed.endings] == ["x"]


async def test_a_child_that_has_not_ended_is_waited_for_again(desk: Desk):
    """A run that waited without a due time waits again."""
    await desk.worker()
    await desk.suspend(await desk.start(), child("x"))
    await pause(desk)
    assert await resume(desk) == Controlled(Status.WAITING)
    assert (await desk.run()).waiting_for is WaitKind.CHILD
    await desk.end("x")
    assert await desk.status() is Status.QUEUED


async def test_a_mismatch_that_is_paused_by_hand_stays_so(desk: Desk):
    """No fitting version takes it, until it is resumed; then anybody may."""
    await desk.worker()
    await desk.end("r", Mismatched(b"{}", "1"))
    assert await pause(desk) == Controlled(Status.PAUSED)
    await desk.worker("v", {"d": "2"})
    assert ids(await desk.claim(worker_id="v")) == []
    assert await resume(desk) == Controlled(Status.QUEUED)
    run = await desk.run()
    assert (run.misfits, run.error) == ((), None)
    assert ids(await desk.claim()) == ["r"]


async def test_a_mismatch_can_be_resumed(desk: Desk):
    """A version that did not fit gets another chance by hand."""
    await desk.worker()
    await desk.end("r", Mismatched(b"{}", "1"))
    assert await resume(desk) == Controlled(Status.QUEUED)
    assert ids(await desk.claim()) == ["r"]


# --- somebody holds it -----------------------------------------------------------------------


async def test_the_holder_of_a_running_run_hears_of_it(desk: Desk):
    """Its checkpoints are taken, and they and its heartbeat carry the word."""
    await desk.worker()
    grant = await desk.start()
    assert await pause(desk) == Controlled(Status.RUNNING)
    assert await desk.do(save(grant)) == Saved(Control.PAUSE)
    assert await desk.do(Heartbeat("w")) == Beaten(True, 1, 1, (("r", Control.PAUSE),))


@pytest.mark.parametrize(
    "verdict, waiting_for, due_at",
    [
        (Released(), None, None),
        (Retrying(b"{}", 7), WaitKind.RETRY, START + 7),
        (Suspended((timer(START + 9),)), WaitKind.RETRY, START + 9),
        (Suspended((child("x"),)), WaitKind.CHILD, None),
        (Mismatched(b"{}", "1"), None, None),
    ],
)
async def test_what_does_not_end_it_leaves_it_paused(
    desk: Desk, clock, verdict, waiting_for, due_at
):
    """With what it waits for by then, and for the operator to resume."""
    await desk.worker()
    grant = await desk.start()
    await pause(desk)
    assert await desk.do(Settle(grant, verdict)) == Settled(Status.PAUSED)
    history = await desk.history()
    run = history.run
    assert (run.reason, run.control, run.paused_at) == ("operator", Control.NONE, START)
    assert (run.waiting_for, run.due_at) == (waiting_for, due_at)
    assert history.waits == (verdict.waits if isinstance(verdict, Suspended) else ())
    assert await is_left_alone(desk, clock)
    expected = Status.QUEUED if waiting_for is None else Status.WAITING
    assert await resume(desk) == Controlled(expected)


@pytest.mark.parametrize("verdict", [DONE, FAIL])
async def test_an_end_is_an_end(desk: Desk, verdict):
    """A pause that comes too late loses nothing."""
    await desk.worker()
    grant = await desk.start()
    await pause(desk)
    assert (await desk.settle(grant, verdict)) in {Status.COMPLETED, Status.FAILED}
    assert (await desk.run()).control is Control.NONE


async def test_a_pause_that_nobody_has_followed_is_taken_back(desk: Desk):
    """Resumed while it runs, the run runs on."""
    await desk.worker()
    grant = await desk.start()
    await pause(desk)
    assert await resume(desk) == Controlled(Status.RUNNING)
    assert await desk.do(save(grant)) == Saved(Control.NONE)
    assert await desk.settle(grant, Released()) is Status.QUEUED


@pytest.mark.parametrize("how", ["rescue", "retire", "give back"])
async def test_a_lost_holder_leaves_it_paused(desk: Desk, how: str):
    """A pause that was accepted is kept, however its worker goes."""
    await desk.worker()
    await desk.start()
    await pause(desk)
    match how:
        case "rescue":
            assert await desk.rescue() == Rescued(("r",))
        case "retire":
            assert await desk.do(RetireWorker("w")) == Rescued(("r",))
        case "give back":
            assert await desk.do(GiveBack("w", ())) == Rescued(("r",))
    run = await desk.run()
    assert (run.status, run.reason, run.control) == (Status.PAUSED, "operator", Control.NONE)
    assert await resume(desk) == Controlled(Status.QUEUED)


# --- with other verbs ------------------------------------------------------------------------


async def test_a_cancel_outdoes_a_pause(desk: Desk):
    """Whichever came first; and a paused run is cancelled at once."""
    await desk.worker()
    grant = await desk.start()
    await pause(desk)
    await desk.cancel("r")
    assert await pause(desk, request_id="p2") == Controlled(Status.RUNNING)
    assert await desk.do(save(grant)) == Saved(Control.CANCEL)
    assert await desk.settle(grant, Released()) is Status.CANCELLED
    await desk.create("s")
    await pause(desk, "s", "p3")
    assert await desk.do(CancelRun("s", "c")) == Controlled(Status.CANCELLED)
    run = await desk.run("s")
    assert (run.paused_at, run.reason) == (None, None)


async def test_a_second_pause_does_not_lengthen_the_first(desk: Desk, clock):
    """What is paused stays paused since when it was."""
    await desk.create("r", delay=10)
    await pause(desk)
    clock.advance(5)
    assert await pause(desk, request_id="p2") == Controlled(Status.PAUSED)
    assert (await desk.run()).paused_at == START
    clock.advance(5)
    await resume(desk)
    assert (await desk.run()).due_at == START + 20


@pytest.mark.parametrize("verb", [PauseRun, ResumeRun])
async def test_an_ended_run_refuses_both(desk: Desk, verb):
    """Nothing is audited and nothing changes."""
    await desk.worker()
    await desk.end("r")
    before = await desk.snapshot()
    assert await desk.do(verb("r", "q")) == Refused("r", Status.COMPLETED)
    assert await desk.snapshot() == before


@pytest.mark.parametrize("status", ["queued", "waiting", "running"])
async def test_only_a_paused_run_is_resumed(desk: Desk, status: str):
    """Any other says how it stands."""
    await desk.worker()
    await desk.create("r", delay=SECOND if status == "waiting" else 0)
    if status == "running":
        await desk.claim_one("r")
    before = await desk.snapshot()
    assert await resume(desk) == Refused("r", Status(status))
    assert await desk.snapshot() == before


@pytest.mark.parametrize("verb", [PauseRun, ResumeRun])
async def test_an_unknown_run_is_missing(desk: Desk, verb):
    """There is nothing to control."""
    assert await desk.do(verb("nobody", "q")) == Missing("nobody")


async def test_the_same_request_again_changes_nothing(desk: Desk, clock):
    """Each is one event, also when its answer was lost and the run went on since."""
    await desk.worker()
    await desk.create("r")
    await pause(desk)
    await resume(desk)
    before = await desk.snapshot()
    clock.advance(3)
    assert await pause(desk) == Controlled(Status.QUEUED)
    assert await resume(desk) == Controlled(Status.QUEUED)
    assert await desk.snapshot() == before
