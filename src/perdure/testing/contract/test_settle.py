"""Settle: how each verdict ends a claim, and what a cancel or a repetition makes of it."""

import pytest
from msgspec.structs import replace

from perdure.model.lifecycle import decode_keys
from perdure.model.records import Attempt, Control, Rank, Status, StepOutcome, WaitKind
from perdure.model.transitions import (
    CancelledByWorker,
    Completed,
    Failed,
    Fenced,
    Mismatched,
    Released,
    Retrying,
    Settle,
    Settled,
    Suspended,
    Verdict,
)
from perdure.testing.contract.desk import SECOND, START, Desk, child, ids, key, pending, save, timer

VERDICTS: dict[str, tuple[Verdict, Status]] = {
    "completed": (Completed(b'"out"'), Status.COMPLETED),
    "failed": (Failed(b'"boom"', "timeout", (key(),)), Status.FAILED),
    "retrying": (Retrying(b'"boom"', SECOND, (key(),)), Status.WAITING),
    "suspended": (Suspended((child("x"), timer(START + SECOND, join=1))), Status.WAITING),
    "released": (Released(), Status.QUEUED),
    "mismatched": (Mismatched(b'"misfit"', "1"), Status.PAUSED),
    "cancelled": (CancelledByWorker(), Status.CANCELLED),
}

each_verdict = pytest.mark.parametrize("name", VERDICTS)


@each_verdict
async def test_a_verdict_leaves_its_status(desk: Desk, clock, name: str):
    """Each verdict is accepted and answered with the status that the run then has."""
    verdict, status = VERDICTS[name]
    await desk.worker()
    grant = await desk.start()
    clock.advance(5)
    assert await desk.do(Settle(grant, verdict)) == Settled(status)
    run = await desk.run()
    assert (run.status, run.updated_at) == (status, START + 5)
    assert (run.worker_id, run.epoch, run.grant) == ("w", grant.epoch, grant.token)


@each_verdict
async def test_the_same_verdict_again_changes_nothing(desk: Desk, clock, name: str):
    """A repetition, in the same batch or later, is answered with the status."""
    verdict, status = VERDICTS[name]
    await desk.worker()
    grant = await desk.start()
    settle = Settle(grant, verdict)
    assert await desk.apply(settle, settle) == [Settled(status)] * 2
    before = await desk.snapshot()
    clock.advance(5)
    assert await desk.do(settle) == Settled(status)
    assert await desk.snapshot() == before


@each_verdict
@pytest.mark.parametrize("other", VERDICTS)
async def test_a_second_verdict_of_the_same_claim_changes_nothing(
    desk: Desk, name: str, other: str
):
    """A claim ends once: whatever is said later is answered with what became of the first."""
    verdict, status = VERDICTS[name]
    await desk.worker()
    grant = await desk.start()
    await desk.settle(grant, verdict)
    before = await desk.snapshot()
    assert await desk.do(Settle(grant, VERDICTS[other][0])) == Settled(status)
    assert await desk.snapshot() == before


@each_verdict
@pytest.mark.parametrize("why", ["older epoch", "newer epoch", "token", "unknown", "rescued"])
async def test_whoever_does_not_hold_the_run_settles_nothing(desk: Desk, name: str, why: str):
    """Any part of the grant that is not the current one refuses the verdict."""
    await desk.worker()
    old = await desk.start()
    await desk.settle(old, Released())
    grant = await desk.claim_one("r")
    match why:
        case "older epoch":
            grant = old
        case "newer epoch":
            grant = replace(grant, epoch=grant.epoch + 1)
        case "token":
            grant = replace(grant, token=grant.token ^ (1 << 62))
        case "unknown":
            grant = replace(grant, run_id="nobody")
        case "rescued":
            await desk.rescue()
    before = await desk.snapshot()
    assert await desk.do(Settle(grant, VERDICTS[name][0])) == Fenced(grant.run_id)
    assert await desk.snapshot() == before


@each_verdict
async def test_a_verdict_that_comes_again_after_the_next_claim_is_fenced(desk: Desk, name: str):
    """Once the run was claimed again its old grant says nothing any more."""
    await desk.worker()
    old = await desk.start()
    await desk.settle(old, Released())
    await desk.claim_one("r")
    before = await desk.snapshot()
    assert await desk.do(Settle(old, VERDICTS[name][0])) == Fenced("r")
    assert await desk.snapshot() == before


@each_verdict
async def test_a_cancel_that_was_accepted_beats_every_verdict(desk: Desk, clock, name: str):
    """The run is cancelled, and nothing of the verdict is kept."""
    verdict, _ = VERDICTS[name]
    await desk.worker()
    grant = await desk.start()
    await desk.do(save(grant, "s", StepOutcome.ERROR))
    await desk.cancel("r")
    clock.advance(5)
    assert await desk.do(Settle(grant, verdict)) == Settled(Status.CANCELLED)
    history = await desk.history()
    run = history.run
    assert (run.status, run.finished_at, run.control) == (
        Status.CANCELLED,
        START + 5,
        Control.NONE,
    )
    assert (run.result, run.reason, run.attempt, run.due_at) == (None, None, 1, None)
    assert (history.attempts, history.waits) == ((), ())
    assert history.checkpoints[0].outcome is StepOutcome.ERROR
    assert await desk.do(Settle(grant, verdict)) == Settled(Status.CANCELLED)


@each_verdict
async def test_an_orderly_end_clears_the_crashes(desk: Desk, name: str):
    """Only crashes in a row count."""
    await desk.worker()
    await desk.create("r")
    await desk.crash("r", times=3)
    grant = await desk.claim_one("r", suspects=True)
    assert (await desk.run()).crashes == 3
    await desk.settle(grant, VERDICTS[name][0])
    assert (await desk.run()).crashes == 0


async def test_a_completed_run_keeps_its_result(desk: Desk, clock):
    """The result is kept with the instant; errors of earlier attempts are cleared."""
    await desk.worker()
    grant = await desk.start()
    await desk.settle(grant, Retrying(b'"first"', 0))
    clock.advance(5)
    await desk.settle(await desk.claim_one("r"), Completed(b""))
    run = await desk.run()
    assert (run.result, run.error, run.reason) == (b"", None, None)
    assert run.finished_at == START + 5


async def test_a_failed_run_keeps_its_error_reason_and_culprits(desk: Desk):
    """What a manual retry needs is kept with the failure."""
    await desk.worker()
    grant = await desk.start()
    culprits = (key("a", scope=b"\x00\xff"), key("b", k=3))
    await desk.settle(grant, Failed(b'"boom"', "timeout", culprits))
    run = await desk.run()
    assert (run.error, run.reason, run.result) == (b'"boom"', "timeout", None)
    assert decode_keys(run.culprits) == culprits


async def test_an_attempt_that_is_retried_is_kept_as_a_row(desk: Desk, clock):
    """The row says what ended the attempt and when the next is due; the run counts on."""
    await desk.worker()
    grant = await desk.start()
    clock.advance(5)
    await desk.settle(grant, Retrying(b'"boom"', SECOND))
    history = await desk.history()
    run = history.run
    assert (run.attempt, run.waiting_for, run.error) == (2, WaitKind.RETRY, b'"boom"')
    assert run.due_at == START + 5 + SECOND
    assert history.attempts == (
        Attempt(1, 1, "w", START, START + 5, "failed", b'"boom"', START + 5 + SECOND),
    )


async def test_attempts_are_kept_in_order(desk: Desk, clock):
    """One row an ended attempt, oldest first."""
    await desk.worker()
    await desk.create("r")
    for number in range(1, 4):
        grant = await desk.claim_one("r")
        await desk.settle(grant, Retrying(b"%d" % number, 1))
        clock.advance(1)
    attempts = (await desk.history()).attempts
    assert [(item.number, item.epoch, item.error) for item in attempts] == [
        (1, 1, b"1"),
        (2, 2, b"2"),
        (3, 3, b"3"),
    ]


async def test_retrying_reopens_the_culprits_and_no_others(desk: Desk, clock):
    """Failed and given up ones become pending with no tries, due at once; the rest stands."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(
        save(grant, "ok"),
        save(grant, "error", StepOutcome.ERROR, b"e", tries=3, log=b"log"),
        save(grant, "timeout", StepOutcome.TIMEOUT, b"t", tries=2),
        save(grant, "caught", StepOutcome.ERROR, b"c", tries=2),
        save(grant, "given up", StepOutcome.CANCELLED),
        pending(grant, "open", tries=2, delay=SECOND),
        save(grant, "error", StepOutcome.ERROR, b"e1", k=1),
    )
    clock.advance(5)
    before = (await desk.history()).checkpoints
    culprits = tuple(
        key(path) for path in ("ok", "error", "timeout", "given up", "open", "unknown")
    )
    await desk.settle(grant, Retrying(b'"boom"', SECOND, culprits))
    after = (await desk.history()).checkpoints
    reopened = {"outcome": StepOutcome.PENDING, "tries": 0, "due_at": START + 5}
    assert after == (
        before[0],
        replace(before[1], **reopened),
        replace(before[2], **reopened),
        before[3],
        replace(before[4], **reopened),
        *before[5:],
    )


async def test_a_reopened_step_is_recorded_anew(desk: Desk, clock):
    """The next attempt may give it another final outcome, in its old place."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "s", StepOutcome.ERROR), save(grant, "later"))
    await desk.settle(grant, Retrying(b'"boom"', 0, (key("s"),)))
    grant = await desk.claim_one("r")
    await desk.do(save(grant, "s", StepOutcome.OK, b"good"))
    recorded = [(item.key.path, item.outcome) for item in (await desk.history()).checkpoints]
    assert recorded == [("s", "ok"), ("later", "ok")]


async def test_a_released_run_is_claimable_at_once(desk: Desk):
    """It goes before fresh runs and is on the same attempt."""
    await desk.worker()
    grant = await desk.start()
    await desk.create("fresh")
    await desk.settle(grant, Released())
    run = await desk.run()
    assert (run.rank, run.attempt, run.due_at) == (Rank.RESUMED, 1, None)
    assert ids(await desk.claim()) == ["r", "fresh"]


async def test_a_mismatch_pauses_with_its_evidence(desk: Desk, clock):
    """The run is not failed: it keeps the error, the version that did not fit and its record."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(save(grant))
    await desk.settle(grant, Mismatched(b'"misfit"', "1"))
    history = await desk.history()
    run = history.run
    assert (run.status, run.reason, run.misfits) == (Status.PAUSED, "mismatch", ("1",))
    assert (run.error, run.finished_at, run.attempt) == (b'"misfit"', None, 1)
    assert len(history.checkpoints) == 1
    clock.advance(10**12)
    assert ids(await desk.claim(suspects=True)) == []


async def test_an_ended_run_is_seen_by_whoever_awaits_it(desk: Desk):
    """`endings` tells status, result, error and reason of the terminal ones among those named."""
    await desk.worker()
    await desk.end("completed", Completed(b'"out"'))
    await desk.end("failed", Failed(b'"boom"', "timeout"))
    await desk.create("cancelled")
    await desk.cancel("cancelled")
    await desk.create("open")
    endings = await desk.store.endings(["open", "cancelled", "failed", "completed", "nobody"])
    assert {
        name: (end.status, end.result, end.error, end.reason) for name, end in endings.items()
    } == {
        "completed": (Status.COMPLETED, b'"out"', None, None),
        "failed": (Status.FAILED, None, b'"boom"', "timeout"),
        "cancelled": (Status.CANCELLED, None, None, None),
    }
    assert all(name == end.run_id for name, end in endings.items())
    assert await desk.store.endings([]) == {}
