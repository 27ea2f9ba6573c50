"""SaveCheckpoint: what is recorded of a durable call, once, under the run's newest grant."""

import pytest
from msgspec.structs import replace

from perdure.model.records import (
    Checkpoint,
    Control,
    Grant,
    Rank,
    Status,
    StepKey,
    StepKind,
    StepOutcome,
)
from perdure.model.transitions import Conflict, Fenced, Released, Retrying, SaveCheckpoint, Saved
from perdure.testing.contract.desk import SECOND, START, Desk, key, pending, save

FINAL = [outcome for outcome in StepOutcome if outcome is not StepOutcome.PENDING]
_nobody = Grant("r", 0, 0)


async def test_a_checkpoint_is_kept_whole(desk: Desk):
    """Every field comes back as it was given, with the epoch of the claim that wrote it."""
    await desk.worker()
    grant = await desk.start()
    step = StepKey(bytes(range(16)), "parent/é\n'", bytes(range(240, 256)), 2**31)
    written = SaveCheckpoint(
        grant,
        step,
        position=5,
        kind=StepKind.CHILD,
        outcome=StepOutcome.ERROR,
        value=bytes(range(256)),
        tries=3,
        log=b"\x00\xff",
        started_at=START - 2,
        ended_at=START - 1,
        site="file.py:1",
        text="(1, 'é')",
    )
    assert await desk.do(written) == Saved()
    [kept] = (await desk.history()).checkpoints
    assert kept == Checkpoint(
        key=step,
        position=5,
        kind=StepKind.CHILD,
        outcome=StepOutcome.ERROR,
        value=bytes(range(256)),
        tries=3,
        log=b"\x00\xff",
        due_at=None,
        started_at=START - 2,
        ended_at=START - 1,
        site="file.py:1",
        text="(1, 'é')",
        epoch=1,
    )


async def test_no_value_and_an_empty_one_stay_apart(desk: Desk):
    """None stays None and empty bytes stay empty, in value and log."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "none", value=None), save(grant, "empty", value=b"", log=b""))
    none, empty = (await desk.history()).checkpoints
    assert (none.value, none.log) == (None, None)
    assert (empty.value, empty.log) == (b"", b"")


async def test_checkpoints_stay_in_the_order_first_recorded(desk: Desk):
    """Order is that of first recording, also within one batch and when a pending is replaced."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "c"), pending(grant, "b"))
    await desk.apply(save(grant, "a"), save(grant, "b"))
    recorded = [(item.key.path, item.outcome) for item in (await desk.history()).checkpoints]
    assert recorded == [("c", "ok"), ("b", "ok"), ("a", "ok")]


async def test_every_part_of_the_key_tells_steps_apart(desk: Desk):
    """Scope, path, fingerprint and k: steps that differ in one of them are different steps."""
    await desk.worker()
    grant = await desk.start()
    keys = [
        key("s"),
        key("s", k=1),
        key("s", scope=b"\x01"),
        key("s", fingerprint=b"\x01"),
        key("s", scope=b"\x01", fingerprint=b"\x01"),
        key("s\x01"),
        key("s/"),
        key("S"),
        key(""),
    ]
    saves = [save(grant, step=step, value=bytes([n])) for n, step in enumerate(keys)]
    assert await desk.apply(*saves) == [Saved()] * len(keys)
    recorded = {item.key: item.value for item in (await desk.history()).checkpoints}
    assert recorded == {step: bytes([n]) for n, step in enumerate(keys)}


async def test_a_pending_step_is_due_by_the_stores_clock(desk: Desk, clock):
    """The delay is turned into an instant, and the answer names it."""
    await desk.worker()
    grant = await desk.start()
    clock.advance(7)
    assert await desk.do(pending(grant, delay=SECOND)) == Saved(due_at=START + 7 + SECOND)
    [kept] = (await desk.history()).checkpoints
    assert (kept.outcome, kept.due_at) == (StepOutcome.PENDING, START + 7 + SECOND)


@pytest.mark.parametrize("outcome", [*FINAL, StepOutcome.PENDING])
async def test_a_pending_record_is_replaced(desk: Desk, clock, outcome: StepOutcome):
    """The next try takes its place: a final outcome, or pending with another due time."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(pending(grant, tries=1))
    clock.advance(SECOND)
    delay = 2 * SECOND if outcome is StepOutcome.PENDING else None
    due_at = START + 3 * SECOND if outcome is StepOutcome.PENDING else None
    second = save(grant, "s", outcome, b"2", tries=2, delay=delay)
    assert await desk.do(second) == Saved(due_at=due_at)
    [kept] = (await desk.history()).checkpoints
    assert (kept.outcome, kept.value, kept.tries, kept.due_at) == (outcome, b"2", 2, due_at)


async def test_a_later_claim_replaces_a_pending_record(desk: Desk):
    """The step goes on where another worker's attempts ended."""
    await desk.worker()
    first = await desk.start()
    await desk.do(pending(first, tries=1))
    await desk.settle(first, Released())
    second = await desk.claim_one("r")
    assert await desk.do(pending(second, tries=1, delay=9)) == Saved(due_at=START + 9)
    assert await desk.do(save(second, tries=2)) == Saved()
    [kept] = (await desk.history()).checkpoints
    assert (kept.epoch, kept.tries, kept.outcome) == (2, 2, StepOutcome.OK)


@pytest.mark.parametrize("outcome", FINAL)
async def test_the_same_final_outcome_again_is_saved(desk: Desk, clock, outcome: StepOutcome):
    """A repetition by the same grant is answered alike and changes nothing."""
    await desk.worker()
    grant = await desk.start()
    first = save(grant, "s", outcome)
    assert await desk.apply(first, first) == [Saved(), Saved()]
    before = await desk.snapshot()
    clock.advance(SECOND)
    assert await desk.do(first) == Saved()
    assert await desk.snapshot() == before


@pytest.mark.parametrize("outcome", FINAL)
@pytest.mark.parametrize("other", [*FINAL, StepOutcome.PENDING])
async def test_a_final_outcome_is_never_overwritten_by_its_own_grant(
    desk: Desk, outcome: StepOutcome, other: StepOutcome
):
    """Whatever the same grant says later of the same step, the first final outcome stands."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(save(grant, "s", outcome, b"first"))
    before = await desk.snapshot()
    late = save(grant, "s", other, b"late", delay=5 if other is StepOutcome.PENDING else None)
    assert await desk.do(late) == Saved()
    assert await desk.snapshot() == before


@pytest.mark.parametrize("outcome", FINAL)
@pytest.mark.parametrize("other", [*FINAL, StepOutcome.PENDING])
async def test_a_final_outcome_of_another_grant_is_a_conflict(
    desk: Desk, outcome: StepOutcome, other: StepOutcome
):
    """A later claim cannot record a step again, not even the same outcome."""
    await desk.worker()
    first = await desk.start()
    await desk.do(save(first, "s", outcome))
    await desk.settle(first, Released())
    second = await desk.claim_one("r")
    before = await desk.snapshot()
    late = save(second, "s", other, delay=5 if other is StepOutcome.PENDING else None)
    assert await desk.do(late) == Conflict("r", "s")
    assert await desk.snapshot() == before


async def test_the_same_pending_again_keeps_its_due_time(desk: Desk, clock):
    """A repetition does not put the next attempt off."""
    await desk.worker()
    grant = await desk.start()
    first = pending(grant, tries=1)
    assert await desk.do(first) == Saved(due_at=START + SECOND)
    before = await desk.snapshot()
    clock.advance(SECOND // 2)
    assert await desk.do(first) == Saved(due_at=START + SECOND)
    assert await desk.snapshot() == before


async def test_a_save_again_after_its_claim_was_settled_is_saved(desk: Desk):
    """A batch whose answer was lost is applied again whole: its saves are found."""
    await desk.worker()
    grant = await desk.start()
    saves = [save(grant, "a"), pending(grant, "b")]
    answers = await desk.apply(*saves)
    await desk.settle(grant, Released())
    before = await desk.snapshot()
    assert await desk.apply(*saves) == answers
    assert await desk.do(save(grant, "new")) == Fenced("r")
    assert await desk.snapshot() == before


async def test_a_failed_save_again_does_not_close_a_reopened_step(desk: Desk):
    """Save and settle applied again after a whole-run retry leave the step open."""
    await desk.worker()
    grant = await desk.start()
    failure = save(grant, "s", StepOutcome.ERROR)
    await desk.do(failure)
    await desk.settle(grant, Retrying(b"{}", SECOND, (key("s"),)))
    before = await desk.snapshot()
    assert isinstance(await desk.do(failure), Saved)
    assert await desk.snapshot() == before


@pytest.mark.parametrize("why", ["older epoch", "newer epoch", "token", "id", "rescued"])
async def test_whoever_does_not_hold_the_run_is_fenced(desk: Desk, why: str):
    """Any part of the grant that is not the current one refuses the write."""
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
        case "id":
            grant = replace(grant, run_id="R")
        case "rescued":
            await desk.rescue()
    before = await desk.snapshot()
    assert await desk.do(save(grant)) == Fenced(grant.run_id)
    assert await desk.snapshot() == before


async def test_a_run_that_was_never_claimed_takes_no_checkpoint(desk: Desk):
    """Epoch 0 and token 0, which such a run has, are nobody's grant."""
    await desk.create("r")
    run = await desk.run()
    for token in (run.grant, 0, 1):
        grant = replace(_nobody, token=token)
        assert await desk.do(save(grant)) == Fenced("r")
        assert (await desk.history()).checkpoints == ()


async def test_the_answer_carries_the_control_word(desk: Desk):
    """The holder hears of a cancel with its next save, which is still recorded."""
    await desk.worker()
    grant = await desk.start()
    await desk.cancel("r")
    assert await desk.do(save(grant)) == Saved(Control.CANCEL)
    assert len((await desk.history()).checkpoints) == 1


async def test_a_megabyte_is_kept_to_the_byte(desk: Desk):
    """Values of the default limit come back equal, through history and claim."""
    await desk.worker()
    grant = await desk.start()
    value = bytes(range(256)) * 4096
    await desk.do(save(grant, value=value))
    await desk.settle(grant, Released())
    [given] = (await desk.claim()).runs
    assert given.checkpoints[0].value == value
    assert (await desk.history()).checkpoints[0].value == value


async def test_a_thousand_checkpoints_are_given_whole(desk: Desk):
    """A long history is one read, complete and in order."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(*(save(grant, f"s{n}") for n in range(1_000)))
    await desk.settle(grant, Released())
    [given] = (await desk.claim()).runs
    assert [item.key.path for item in given.checkpoints] == [f"s{n}" for n in range(1_000)]
    assert (given.run.rank, given.run.status) == (Rank.RESUMED, Status.RUNNING)
