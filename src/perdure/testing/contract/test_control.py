"""CancelRun and RetryRun: what an operator asks for happens once, and is written down."""

import pytest

from perdure.model.records import Attempt, Audit, Control, Rank, Status, StepOutcome
from perdure.model.transitions import (
    CancelRun,
    Controlled,
    Created,
    CreateRun,
    Exists,
    Failed,
    GiveBack,
    Mismatched,
    Missing,
    Refused,
    Rescued,
    RescueWorker,
    RetireWorker,
    RetryRun,
    Settle,
    Settled,
)
from perdure.testing.contract.desk import (
    CRASH,
    DONE,
    FAIL,
    SECOND,
    START,
    Desk,
    child,
    fresh_token,
    ids,
    key,
    pending,
    save,
)

# --- cancel --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "delayed", "suspended", "paused"])
async def test_a_run_that_nobody_holds_is_cancelled_at_once(desk: Desk, clock, status: str):
    """Queued, waiting or paused, it is terminal in the same transition."""
    await desk.worker()
    match status:
        case "queued":
            await desk.create("r")
        case "delayed":
            await desk.create("r", delay=SECOND)
        case "suspended":
            await desk.suspend(await desk.start(), child("x"))
        case "paused":
            await desk.end("r", Mismatched(b"{}", "1"))
    clock.advance(5)
    assert await desk.cancel("r", "q1") == Controlled(Status.CANCELLED)
    history = await desk.history()
    run = history.run
    assert (run.status, run.finished_at, run.due_at) == (Status.CANCELLED, START + 5, None)
    assert (run.control, run.reason) == (Control.NONE, None)
    assert history.waits == ()
    assert history.audit == (Audit("q1", "r", "cancel", START + 5),)
    clock.advance(10 * SECOND)
    claimed = await desk.claim(suspects=True)
    assert (ids(claimed), claimed.next_due_at) == ([], None)


async def test_a_running_run_is_asked_to_stop(desk: Desk, clock):
    """The control word is set, the run goes on until its holder settles."""
    await desk.worker()
    grant = await desk.start()
    clock.advance(5)
    assert await desk.cancel("r", "q1") == Controlled(Status.RUNNING)
    run = await desk.run()
    assert (run.status, run.control, run.finished_at) == (Status.RUNNING, Control.CANCEL, None)
    assert (await desk.history()).audit == (Audit("q1", "r", "cancel", START + 5),)
    assert await desk.settle(grant) is Status.CANCELLED


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
async def test_a_terminal_run_is_not_cancelled(desk: Desk, how: str):
    """It is refused with the status, and nothing is written down."""
    await desk.worker()
    if how == "cancelled":
        await desk.create("r")
        await desk.cancel("r")
    else:
        await desk.end("r", DONE if how == "completed" else FAIL)
    before = await desk.snapshot()
    outcome = await desk.cancel("r")
    assert isinstance(outcome, Refused)
    assert (outcome.run_id, outcome.status) == ("r", Status(how))
    assert await desk.snapshot() == before


async def test_the_same_cancel_again_is_answered_with_the_status_now(desk: Desk, clock):
    """One request is one audit row; its repetition after the end is no refusal."""
    await desk.worker()
    grant = await desk.start()
    request = CancelRun("r", "q1")
    assert await desk.apply(request, request) == [Controlled(Status.RUNNING)] * 2
    clock.advance(5)
    await desk.settle(grant)
    before = await desk.snapshot()
    assert await desk.do(request) == Controlled(Status.CANCELLED)
    assert await desk.snapshot() == before
    assert len((await desk.history()).audit) == 1


async def test_one_request_may_cancel_many_runs(desk: Desk):
    """A request is known by run and id together."""
    await desk.create("a", "b")
    assert await desk.apply(CancelRun("a", "q1"), CancelRun("b", "q1")) == [
        Controlled(Status.CANCELLED),
        Controlled(Status.CANCELLED),
    ]


async def test_every_request_is_written_down(desk: Desk, clock):
    """Two operators, two audit rows, in order."""
    await desk.worker()
    grant = await desk.start()
    await desk.cancel("r", "q2")
    clock.advance(1)
    await desk.cancel("r", "q1")
    audit = (await desk.history()).audit
    assert [(entry.request_id, entry.at) for entry in audit] == [("q2", START), ("q1", START + 1)]
    await desk.settle(grant)


async def test_a_completion_that_comes_first_beats_a_cancel(desk: Desk):
    """In one batch the order given decides."""
    await desk.worker()
    grant = await desk.start()
    assert await desk.apply(Settle(grant, DONE), CancelRun("r", "q")) == [
        Settled(Status.COMPLETED),
        Refused("r", Status.COMPLETED),
    ]


async def test_a_cancel_that_comes_first_beats_a_completion(desk: Desk):
    """In one batch the order given decides."""
    await desk.worker()
    grant = await desk.start()
    assert await desk.apply(CancelRun("r", "q"), Settle(grant, DONE)) == [
        Controlled(Status.RUNNING),
        Settled(Status.CANCELLED),
    ]


@pytest.mark.parametrize("how", ["rescue", "rescue at the cap", "retire", "give back"])
async def test_a_cancel_is_kept_when_the_worker_is_gone(desk: Desk, how: str):
    """A run whose control word is set ends cancelled and is never claimed again."""
    await desk.worker()
    await desk.suspend(await desk.start("parent", definition="d"), child("r"))
    grant = await desk.start()
    await desk.cancel("r")
    match how:
        case "rescue":
            outcome = await desk.do(RescueWorker("w", None, 10, CRASH))
        case "rescue at the cap":
            outcome = await desk.do(RescueWorker("w", None, 1, CRASH))
        case "retire":
            outcome = await desk.do(RetireWorker("w"))
        case _:
            outcome = await desk.do(GiveBack("w", ()))
    assert outcome == Rescued((), ("r",))
    run = await desk.run()
    assert (run.status, run.control, run.reason) == (Status.CANCELLED, Control.NONE, None)
    assert await desk.status("parent") is Status.QUEUED
    before = await desk.snapshot()
    await desk.do(Settle(grant, DONE))
    assert await desk.snapshot() == before


# --- retry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["failed", "cancelled", "crashed", "never started"])
async def test_an_ended_run_is_tried_again(desk: Desk, clock, how: str):
    """Failed or cancelled, it is claimable at once as its next attempt."""
    await desk.worker()
    await desk.create("r")
    match how:
        case "failed":
            await desk.settle(await desk.claim_one("r"), Failed(b'"boom"', "timeout"))
        case "cancelled":
            grant = await desk.claim_one("r")
            await desk.cancel("r")
            await desk.settle(grant)
        case "crashed":
            await desk.crash("r", times=10)
        case _:
            await desk.cancel("r")
    clock.advance(5)
    assert await desk.retry("r", "q1") == Controlled(Status.QUEUED)
    history = await desk.history()
    run = history.run
    assert (run.status, run.attempt, run.crashes, run.control) == (
        Status.QUEUED,
        2,
        0,
        Control.NONE,
    )
    assert (run.error, run.reason, run.result, run.culprits) == (None, None, None, None)
    assert (run.finished_at, run.due_at) == (None, None)
    assert run.rank is (Rank.FRESH if how == "never started" else Rank.RESUMED)
    assert history.audit[-1] == Audit("q1", "r", "retry", START + 5)
    assert ids(await desk.claim()) == ["r"]


async def test_the_attempt_that_an_operator_retries_is_kept(desk: Desk, clock):
    """The row says how it ended and when, not when the operator came."""
    await desk.worker()
    grant = await desk.start()
    clock.advance(5)
    await desk.settle(grant, FAIL)
    clock.advance(5)
    await desk.retry("r")
    assert (await desk.history()).attempts == (
        Attempt(1, 1, "w", START, START + 5, "failed", FAIL.error, None),
    )


async def test_the_attempt_of_a_cancelled_run_is_kept_too(desk: Desk, clock):
    """A run that was cancelled before any claim has an attempt without worker and start."""
    await desk.create("r")
    clock.advance(5)
    await desk.cancel("r")
    clock.advance(5)
    await desk.retry("r")
    assert (await desk.history()).attempts == (
        Attempt(1, 0, None, None, START + 5, "cancelled", None, None),
    )


async def test_a_retry_reopens_the_culprits_of_the_failure(desk: Desk, clock):
    """Steps whose failure ended the run are due again; everything else stands."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(
        save(grant, "ok"),
        save(grant, "culprit", StepOutcome.ERROR, b"e", tries=3, log=b"log"),
        save(grant, "caught", StepOutcome.ERROR),
        pending(grant, "open"),
    )
    await desk.settle(grant, Failed(b"{}", "error", (key("ok"), key("culprit"), key("unknown"))))
    before = (await desk.history()).checkpoints
    clock.advance(5)
    await desk.retry("r")
    after = (await desk.history()).checkpoints
    assert (after[0], after[2:]) == (before[0], before[2:])
    assert (after[1].outcome, after[1].tries, after[1].due_at) == (
        StepOutcome.PENDING,
        0,
        START + 5,
    )
    assert (after[1].value, after[1].log) == (b"e", b"log")


@pytest.mark.parametrize("status", ["queued", "running", "waiting", "paused", "completed"])
async def test_a_run_that_is_not_failed_or_cancelled_is_not_retried(desk: Desk, status: str):
    """It is refused with the status, and nothing changes."""
    await desk.worker()
    match status:
        case "queued":
            await desk.create("r")
        case "running":
            await desk.start()
        case "waiting":
            await desk.create("r", delay=SECOND)
        case "paused":
            await desk.end("r", Mismatched(b"{}", "1"))
        case "completed":
            await desk.end("r")
    before = await desk.snapshot()
    outcome = await desk.retry("r")
    assert isinstance(outcome, Refused)
    assert (outcome.run_id, outcome.status) == ("r", Status(status))
    assert await desk.snapshot() == before


async def test_the_same_retry_again_changes_nothing(desk: Desk):
    """One request is one attempt, also when the run has failed once more since."""
    await desk.worker()
    await desk.end("r", FAIL)
    request = RetryRun("r", "q1")
    assert await desk.apply(request, request) == [Controlled(Status.QUEUED)] * 2
    await desk.settle(await desk.claim_one("r"), FAIL)
    before = await desk.snapshot()
    assert await desk.do(request) == Controlled(Status.FAILED)
    assert await desk.snapshot() == before
    assert before[0][0].run.attempt == 2


async def test_a_retry_takes_its_unique_key_again(desk: Desk):
    """Where a live run has the key by now, the retry is refused and says who has it."""
    await desk.worker()
    await desk.create("a", unique_key="u")
    await desk.cancel("a")
    await desk.create("b", unique_key="u")
    before = await desk.snapshot()
    outcome = await desk.retry("a")
    assert isinstance(outcome, Refused)
    assert (outcome.run_id, outcome.status) == ("a", Status.CANCELLED)
    assert "b" in outcome.detail
    assert await desk.snapshot() == before
    await desk.cancel("b")
    assert await desk.retry("a") == Controlled(Status.QUEUED)
    create = CreateRun("c", "d", b'"in"', fresh_token(), unique_key="u")
    assert await desk.do(create) == Exists("a", same=True)
    await desk.cancel("a")
    assert await desk.do(create) == Created("c")


async def test_a_run_without_unique_key_is_retried_beside_others(desk: Desk):
    """No key is not a key that can be taken."""
    await desk.create("a", "b")
    await desk.cancel("a")
    assert await desk.retry("a") == Controlled(Status.QUEUED)


async def test_a_retried_run_can_be_cancelled_and_retried_again(desk: Desk):
    """Each request makes its own audit row and attempt."""
    await desk.create("r")
    for n in range(3):
        await desk.cancel("r", f"cancel-{n}")
        await desk.retry("r", f"retry-{n}")
    history = await desk.history()
    assert history.run.attempt == 4
    assert [entry.action for entry in history.audit] == ["cancel", "retry"] * 3
    assert [attempt.number for attempt in history.attempts] == [1, 2, 3]


# --- neither knows the run -----------------------------------------------------------------------


@pytest.mark.parametrize("verb", [CancelRun, RetryRun])
async def test_an_unknown_run_is_missing(desk: Desk, verb):
    """No run of that id: nothing is written down, and a later request of that id is heard."""
    assert await desk.do(verb("r", "q1")) == Missing("r")
    assert await desk.snapshot() == ([], [])
    await desk.create("r")
    assert await desk.do(CancelRun("r", "q1")) == Controlled(Status.CANCELLED)
