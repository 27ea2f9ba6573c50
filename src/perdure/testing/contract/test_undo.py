"""What is undone when a run is cancelled or fails: queued for it first, ended after it."""

import pytest

from perdure.model.records import Attempt, Control, Rank, Status, StepOutcome, Undoing
from perdure.model.transitions import (
    CancelRun,
    Completed,
    Controlled,
    Failed,
    GiveBack,
    Mismatched,
    PauseRun,
    Refused,
    RegisterWorker,
    Released,
    RescueWorker,
    RestartRun,
    ResumeRun,
    RetireWorker,
    Retrying,
    Settle,
    Settled,
    Suspended,
    Undone,
    Verdict,
)
from perdure.testing.contract.desk import (
    CRASH,
    DONE,
    SECOND,
    START,
    Desk,
    child,
    fresh_token,
    grant_of,
    key,
    save,
    timer,
)

FAIL = Failed(b'"boom"', "timeout", compensates=True)


def cancel(run_id: str = "r", *, compensate: bool = False) -> CancelRun:
    return CancelRun(run_id, f"request-{fresh_token()}", compensate)


async def worker(desk: Desk, worker_id: str = "w", *, cleans: tuple[str, ...] = ("d",)) -> None:
    await desk.do(RegisterWorker(worker_id, "host", 1, {"d": "1"}, ("default",), 8, cleans=cleans))


async def suspended(desk: Desk, *, cleans: bool) -> None:
    """Suspend a run whose code has, or has not, something to do when it is cancelled."""
    grant = await desk.start()
    await desk.apply(save(grant, "a"))
    await desk.do(Settle(grant, Suspended((timer(START + SECOND),)), cleans))


async def undoing(desk: Desk) -> tuple[Status, Undoing]:
    run = await desk.run()
    return run.status, run.undoing


# --- cancel --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cleans, compensate, undoes",
    [
        (False, False, Undoing.NONE),
        (True, False, Undoing.CANCEL),
        (False, True, Undoing.COMPENSATE),
        (True, True, Undoing.COMPENSATE),
    ],
)
async def test_a_waiting_run_is_cancelled_when_it_has_undone(
    desk: Desk, cleans: bool, compensate: bool, undoes: Undoing
):
    """Its timers are gone and it is queued; where there is nothing to undo it ends at once."""
    await worker(desk)
    await suspended(desk, cleans=cleans)
    expected = Status.CANCELLED if undoes is Undoing.NONE else Status.QUEUED
    assert await desk.do(cancel(compensate=compensate)) == Controlled(expected)
    assert await undoing(desk) == (expected, undoes)
    history = await desk.history()
    assert (history.waits, history.run.due_at, history.run.waiting_for) == ((), None, None)
    if undoes is Undoing.NONE:
        return
    assert history.run.rank is Rank.RESUMED
    [given] = (await desk.claim()).runs
    assert given.run.undoing is undoes
    assert [record.key.path for record in given.checkpoints] == ["a"]
    assert await desk.settle(grant_of(given), Undone()) is Status.CANCELLED
    run = await desk.run()
    assert (run.undoing, run.reason, run.error, run.result) == (undoes, None, None, None)


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("delay", [0, SECOND])
async def test_a_run_that_was_never_claimed_has_nothing_to_undo(
    desk: Desk, compensate: bool, delay: int
):
    """It ends at once."""
    await desk.create("r", delay=delay)
    assert await desk.do(cancel(compensate=compensate)) == Controlled(Status.CANCELLED)
    assert await undoing(desk) == (Status.CANCELLED, Undoing.NONE)
    assert (await desk.run()).control is Control.NONE


@pytest.mark.parametrize(
    "verdict",
    [DONE, FAIL, Retrying(b'"x"', 1), Suspended((timer(START + SECOND),)), Released()],
    ids=lambda verdict: type(verdict).__name__,
)
@pytest.mark.parametrize("compensate", [False, True])
async def test_a_cancel_is_kept_whatever_the_verdict(
    desk: Desk, verdict: Verdict, compensate: bool
):
    """The claim ends, and the run is queued to undo."""
    await worker(desk)
    grant = await desk.start()
    assert await desk.do(cancel(compensate=compensate)) == Controlled(Status.RUNNING)
    expected = Control.COMPENSATE if compensate else Control.CANCEL
    assert (await desk.run()).control is expected
    assert await desk.do(Settle(grant, verdict, True)) == Settled(Status.QUEUED)
    undoes = Undoing.COMPENSATE if compensate else Undoing.CANCEL
    assert await undoing(desk) == (Status.QUEUED, undoes)
    history = await desk.history()
    assert (history.waits, history.run.result, history.run.control) == ((), None, Control.NONE)
    assert history.attempts == ()


async def test_the_word_to_compensate_is_not_taken_back(desk: Desk):
    """A plain cancel after it changes nothing; one before it becomes it."""
    await worker(desk)
    grant = await desk.start()
    await desk.do(cancel())
    await desk.do(cancel(compensate=True))
    await desk.do(cancel())
    assert (await desk.run()).control is Control.COMPENSATE
    assert isinstance(await desk.do(RestartRun("r", "q")), Refused)
    assert await desk.do(PauseRun("r", "p")) == Controlled(Status.RUNNING)
    await desk.settle(grant)
    assert await undoing(desk) == (Status.QUEUED, Undoing.COMPENSATE)


@pytest.mark.parametrize("how", ["rescue", "rescue at the cap", "retire", "give back"])
@pytest.mark.parametrize("cleans", [(), ("d",)])
async def test_a_cancel_is_kept_when_the_worker_is_gone(desk: Desk, how: str, cleans):
    """What its worker told of the definition decides whether there is something to undo."""
    await worker(desk, cleans=cleans)
    await desk.start()
    await desk.do(cancel())
    match how:
        case "retire":
            await desk.do(RetireWorker("w"))
        case "give back":
            await desk.do(GiveBack("w", ()))
        case _:
            await desk.do(RescueWorker("w", None, 1 if "cap" in how else 10, CRASH))
    if cleans:
        assert await undoing(desk) == (Status.QUEUED, Undoing.CANCEL)
    else:
        assert await undoing(desk) == (Status.CANCELLED, Undoing.NONE)


async def test_a_rescued_run_is_known_by_what_its_worker_told(desk: Desk):
    """A cancel that comes after the crash undoes, too."""
    await worker(desk)
    await desk.start()
    await desk.rescue()
    assert await desk.do(cancel()) == Controlled(Status.QUEUED)
    assert await undoing(desk) == (Status.QUEUED, Undoing.CANCEL)


async def test_a_run_that_undoes_is_not_cancelled_again(desk: Desk):
    """The request is accepted and changes nothing; a wait that it has meanwhile stands."""
    await worker(desk)
    await suspended(desk, cleans=True)
    await desk.do(cancel())
    grant = await desk.claim_one("r")
    assert await desk.do(cancel(compensate=True)) == Controlled(Status.RUNNING)
    assert (await desk.run()).control is Control.NONE
    await desk.suspend(grant, timer(START + SECOND))
    assert await desk.do(cancel()) == Controlled(Status.WAITING)
    history = await desk.history()
    assert (len(history.waits), history.run.undoing) == (1, Undoing.CANCEL)


async def test_a_paused_run_undoes_when_it_is_cancelled(desk: Desk):
    """Paused by hand or by a mismatch."""
    await worker(desk)
    await suspended(desk, cleans=True)
    await desk.do(PauseRun("r", "p"))
    assert await desk.do(cancel()) == Controlled(Status.QUEUED)
    run = await desk.run()
    assert (run.undoing, run.reason, run.paused_at) == (Undoing.CANCEL, None, None)
    await desk.settle(await desk.claim_one("r"), Undone())
    grant = await desk.start("s")
    await desk.do(Settle(grant, Mismatched(b"{}", "1"), True))
    assert await desk.do(cancel("s")) == Controlled(Status.QUEUED)
    assert (await desk.run("s")).misfits == ()


async def test_undoing_is_paused_and_resumed(desk: Desk):
    """It goes on with what it undoes."""
    await worker(desk)
    await suspended(desk, cleans=True)
    await desk.do(cancel())
    await desk.do(PauseRun("r", "p"))
    await desk.do(ResumeRun("r", "q"))
    assert await undoing(desk) == (Status.QUEUED, Undoing.CANCEL)


# --- failure -------------------------------------------------------------------------------------


async def test_a_failed_run_compensates_before_it_ends(desk: Desk, clock):
    """It is queued with its error and reason, and ends with them; the attempt is kept as a row."""
    await worker(desk)
    grant = await desk.start()
    await desk.apply(save(grant, "a"))
    clock.advance(5)
    assert await desk.settle(grant, FAIL) is Status.QUEUED
    history = await desk.history()
    run = history.run
    assert (run.undoing, run.error, run.reason, run.finished_at) == (
        *(Undoing.FAILURE, b'"boom"', "timeout"),
        None,
    )
    assert history.attempts == (Attempt(1, 1, "w", START, START + 5, "failed", b'"boom"', None),)
    [given] = (await desk.claim()).runs
    assert (given.run.undoing, given.run.error) == (Undoing.FAILURE, b'"boom"')
    assert await desk.settle(grant_of(given), Undone()) is Status.FAILED
    run = await desk.run()
    assert (run.error, run.reason) == (b'"boom"', "timeout")


async def test_a_failed_run_is_paused_before_it_compensates(desk: Desk):
    """A pause that was accepted is kept by a failure that is no end yet."""
    await worker(desk)
    grant = await desk.start()
    assert await desk.do(PauseRun("r", "p")) == Controlled(Status.RUNNING)
    assert await desk.settle(grant, FAIL) is Status.PAUSED
    assert await undoing(desk) == (Status.PAUSED, Undoing.FAILURE)
    assert (await desk.claim()).runs == ()
    assert await desk.do(ResumeRun("r", "q")) == Controlled(Status.QUEUED)
    again = await desk.claim_one("r")
    assert await desk.settle(again, Undone()) is Status.FAILED


async def test_what_could_not_be_undone_fails_the_run(desk: Desk):
    """By its own reason and with the steps that failed; a retry tries those again."""
    await worker(desk)
    await suspended(desk, cleans=True)
    await desk.do(cancel(compensate=True))
    grant = await desk.claim_one("r")
    await desk.apply(save(grant, "u", StepOutcome.ERROR, b'"stuck"'), save(grant, "v"))
    assert await desk.settle(grant, Undone(b'"stuck"', (key("u"),))) is Status.FAILED
    run = await desk.run()
    assert (run.reason, run.error) == ("compensation", b'"stuck"')
    assert await desk.retry("r") == Controlled(Status.QUEUED)
    [given] = (await desk.claim()).runs
    assert (given.run.undoing, given.run.attempt) == (Undoing.COMPENSATE, 2)
    outcomes = {record.key.path: record.outcome for record in given.checkpoints}
    assert outcomes == {"a": StepOutcome.OK, "u": StepOutcome.PENDING, "v": StepOutcome.OK}
    assert await desk.settle(grant_of(given), Undone()) is Status.CANCELLED


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_what_was_undone_is_restarted_and_not_retried(desk: Desk, how: str):
    """Its steps have no effect any more; a restart forgets that."""
    await worker(desk)
    if how == "failed":
        await desk.settle(await desk.start(), FAIL)
    else:
        await suspended(desk, cleans=True)
        await desk.do(cancel())
    await desk.settle(await desk.claim_one("r"), Undone())
    outcome = await desk.retry("r")
    assert isinstance(outcome, Refused)
    assert "undone" in outcome.detail
    assert await desk.do(RestartRun("r", "again")) == Controlled(Status.QUEUED)
    assert await undoing(desk) == (Status.QUEUED, Undoing.NONE)
    assert await desk.settle(await desk.claim_one("r")) is Status.COMPLETED


async def test_a_mismatch_in_compensating_keeps_the_error_of_the_end(desk: Desk):
    """The run is paused, and fails as it would have when code that fits has undone it."""
    await worker(desk)
    await desk.settle(await desk.start(), FAIL)
    grant = await desk.claim_one("r")
    assert await desk.settle(grant, Mismatched(b'{"no": 1}', "1")) is Status.PAUSED
    run = await desk.run()
    assert (run.reason, run.error, run.misfits) == ("mismatch", b'"boom"', ("1",))
    await desk.do(ResumeRun("r", "q"))
    assert await desk.settle(await desk.claim_one("r"), Undone()) is Status.FAILED
    assert (await desk.run()).error == b'"boom"'


async def test_a_crash_cap_ends_what_undoes(desk: Desk):
    """As any other run; it may be tried again, and goes on undoing."""
    await worker(desk)
    await desk.settle(await desk.start(), FAIL)
    await desk.claim_one("r")
    await desk.do(RescueWorker("w", None, 1, CRASH))
    assert await undoing(desk) == (Status.FAILED, Undoing.FAILURE)
    assert (await desk.run()).reason == "crash"
    await worker(desk)
    assert await desk.retry("r") == Controlled(Status.QUEUED)
    assert await undoing(desk) == (Status.QUEUED, Undoing.FAILURE)


async def test_whoever_waits_hears_of_the_end_alone(desk: Desk):
    """Not of the beginning of the undoing."""
    await worker(desk)
    await suspended(desk, cleans=True)
    parent = await desk.start("p")
    await desk.suspend(parent, child("r"))
    await desk.do(cancel())
    assert await desk.status("p") is Status.WAITING
    await desk.settle(await desk.claim_one("r"), Undone())
    assert await desk.status("p") is Status.QUEUED


async def test_a_unique_key_is_held_until_all_is_undone(desk: Desk):
    """The run is not over before."""
    await worker(desk)
    grant = await desk.start("r", unique_key="k")
    await desk.settle(grant, FAIL)
    grant = await desk.claim_one("r")
    await desk.settle(grant, Undone())
    await desk.create("s", unique_key="k")
    assert isinstance(await desk.do(RestartRun("r", "q")), Refused)


async def test_a_completion_needs_no_undoing(desk: Desk):
    """Whatever the code would have undone."""
    await worker(desk)
    grant = await desk.start()
    assert await desk.do(Settle(grant, Completed(b"1"), True)) == Settled(Status.COMPLETED)
    assert isinstance(await desk.do(cancel(compensate=True)), Refused)
