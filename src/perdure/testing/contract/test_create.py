"""CreateRun: insert a run once, guarded by id, unique_key and the grant of the body that asks."""

import pytest
from msgspec.structs import replace

from perdure.model.records import Grant, Rank, RunQuery, Status, WaitKind
from perdure.model.transitions import Created, CreateRun, Exists, Fenced
from perdure.testing.contract.desk import DONE, FAIL, SECOND, START, Desk, ids


def create(run_id: str = "r", **fields: object) -> CreateRun:
    return replace(CreateRun(run_id, "d", b'"in"', 7), **fields)


async def test_a_created_run_is_queued_with_everything_it_was_given(desk: Desk):
    """Every field of the create is found in the run; the rest has its first value."""
    transition = create(
        version="v1",
        queue="q",
        priority=-3,
        unique_key="u",
        meta=b"{}",
        options=b"[]",
        tags=("a", "b"),
        parent_id="p",
        root_id="g",
    )
    assert await desk.do(transition) == Created("r")
    run = await desk.run()
    for field in ("definition", "input", "token", "version", "queue", "priority", "unique_key"):
        assert getattr(run, field) == getattr(transition, field), field
    for field in ("meta", "options", "tags", "parent_id", "root_id"):
        assert getattr(run, field) == getattr(transition, field), field
    assert (run.status, run.rank, run.attempt, run.epoch) == (Status.QUEUED, Rank.FRESH, 1, 0)
    assert (run.created_at, run.updated_at, run.due_at) == (START, START, None)


async def test_absent_and_empty_values_stay_apart(desk: Desk):
    """None stays None and empty stays empty: bytes, texts, tags and unique_key alike."""
    await desk.apply(
        create("none"), create("empty", input=b"", unique_key="", meta=b"", options=b"")
    )
    none, empty = await desk.run("none"), await desk.run("empty")
    assert (none.unique_key, none.meta, none.options, none.tags) == (None, None, None, ())
    assert (empty.input, empty.unique_key, empty.meta, empty.options) == (b"", "", b"", b"")
    assert await desk.do(create("other", unique_key="")) == Exists("empty", same=False)


async def test_large_numbers_and_payloads_are_kept(desk: Desk):
    """Tokens have 63 bits, priorities a sign, payloads a megabyte of any bytes."""
    payload = bytes(range(256)) * 4096
    await desk.do(create(token=2**63 - 1, priority=-(2**31), input=payload))
    run = await desk.run()
    assert (run.token, run.priority, run.input) == (2**63 - 1, -(2**31), payload)


async def test_a_delayed_run_waits(desk: Desk):
    """With a delay the run waits for it by the store's clock."""
    await desk.do(create(delay=5 * SECOND))
    run = await desk.run()
    assert (run.status, run.waiting_for) == (Status.WAITING, WaitKind.DELAY)
    assert run.due_at == START + 5 * SECOND


async def test_the_same_create_again_is_answered_as_the_first(desk: Desk):
    """The token tells a repetition from a rival, in the same batch and after the run ended."""
    await desk.worker()
    assert await desk.apply(create(), create()) == [Created("r"), Created("r")]
    await desk.settle(await desk.claim_one("r"))
    before = await desk.snapshot()
    assert await desk.do(create()) == Created("r")
    assert await desk.snapshot() == before


async def test_another_create_of_the_id_finds_it_taken(desk: Desk):
    """An id is taken whatever became of its run; the answer says whether it is the same call."""
    await desk.worker()
    await desk.do(create())
    rivals = [
        create(token=8),
        create(token=8, input=b'"other"'),
        create(token=8, definition="other"),
    ]
    answers = [Exists("r", same=True), Exists("r", same=False), Exists("r", same=False)]
    assert await desk.apply(*rivals) == answers
    await desk.settle(await desk.claim_one("r"))
    before = await desk.snapshot()
    assert await desk.apply(*rivals) == answers
    assert await desk.snapshot() == before


async def test_a_unique_key_is_taken_by_a_live_run_of_its_definition(desk: Desk):
    """Another id with the same key is refused and names who has it; other definitions are free."""
    answers = await desk.apply(
        create("a", unique_key="u"),
        create("b", unique_key="u", token=8),
        create("c", unique_key="u", token=9, input=b'"other"'),
        create("e", unique_key="u", token=10, definition="other"),
        create("f", unique_key="U", token=11),
    )
    assert answers == [
        Created("a"),
        Exists("a", same=True),
        Exists("a", same=False),
        Created("e"),
        Created("f"),
    ]
    assert await desk.store.get("b") is None


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
async def test_a_unique_key_is_free_once_its_run_is_terminal(desk: Desk, how: str):
    """However the run ends, its key is free in the same instant, and not before."""
    await desk.worker()
    await desk.do(create("a", unique_key="u"))
    if how == "cancelled":
        await desk.cancel("a")
    else:
        grant = await desk.claim_one("a")
        assert await desk.do(create("b", unique_key="u", token=8)) == Exists("a", same=True)
        await desk.settle(grant, DONE if how == "completed" else FAIL)
    assert await desk.do(create("b", unique_key="u", token=8)) == Created("b")
    assert await desk.do(create("c", unique_key="u", token=9)) == Exists("b", same=True)


async def test_a_waiting_or_paused_run_keeps_its_unique_key(desk: Desk):
    """A run that is not terminal is live, whatever it waits for."""
    await desk.do(create("a", unique_key="u", delay=SECOND))
    assert await desk.do(create("b", unique_key="u", token=8)) == Exists("a", same=True)


async def test_a_body_creates_while_it_holds_its_run(desk: Desk):
    """With `by` the create counts only under the run's current grant."""
    await desk.worker()
    grant = await desk.start("parent")
    assert await desk.do(create("child", by=grant, parent_id="parent")) == Created("child")


@pytest.mark.parametrize("why", ["epoch", "token", "unknown", "settled", "rescued"])
async def test_a_body_that_lost_its_run_creates_nothing(desk: Desk, why: str):
    """A stale epoch, a wrong token, an unknown run, a settled or rescued claim are fenced."""
    await desk.worker()
    grant = await desk.start("parent")
    match why:
        case "epoch":
            grant = replace(grant, epoch=grant.epoch + 1)
        case "token":
            grant = replace(grant, token=grant.token + 1)
        case "unknown":
            grant = Grant("nobody", grant.epoch, grant.token)
        case "settled":
            await desk.settle(grant)
        case "rescued":
            await desk.rescue()
    before = await desk.snapshot()
    assert await desk.do(create("child", by=grant)) == Fenced(grant.run_id)
    assert await desk.do(create("parent", by=grant, token=99)) == Fenced(grant.run_id)
    assert await desk.snapshot() == before


async def test_a_create_that_was_accepted_stays_so_when_the_body_has_lost_its_run(desk: Desk):
    """The same create is looked for before the fence: its answer may only have been lost."""
    await desk.worker()
    grant = await desk.start("parent")
    await desk.do(create("child", by=grant))
    await desk.rescue()
    assert await desk.do(create("child", by=grant)) == Created("child")


async def test_age_is_the_order_of_creation(desk: Desk):
    """Runs of one batch and of one instant are numbered in the order given."""
    await desk.worker()
    await desk.create("c", "a", "b")
    await desk.create("d")
    assert ids(await desk.claim()) == ["c", "a", "b", "d"]
    newest_first = [run.run_id for run in await desk.store.list_runs(RunQuery())]
    assert newest_first == ["d", "b", "a", "c"]
