"""What a create does that finds its unique_key taken: replace, throttle, debounce."""

import pytest
from msgspec.structs import replace

from perdure.model.keys import REMEMBERED, Debounce, KeyRule, Replace, Throttle
from perdure.model.records import Control, Status, WaitKind
from perdure.model.transitions import (
    Claim,
    Claimed,
    Controlled,
    Created,
    CreateRun,
    Exists,
    Fenced,
    PauseRun,
    Refused,
    Released,
    RestartRun,
    ResumeRun,
    Retrying,
    Settle,
    Settled,
)
from perdure.testing.contract.desk import (
    DONE,
    FAIL,
    SECOND,
    START,
    Desk,
    child,
    fresh_token,
    grant_of,
    ids,
    key,
    save,
    timer,
)

REPLACE = Replace()
DEBOUNCE = Debounce(max_wait=10 * SECOND)


def keyed(run_id: str, rule: KeyRule | None = None, **fields: object) -> CreateRun:
    create = CreateRun(run_id, "d", b'"in"', fresh_token(), unique_key="u", key_rule=rule)
    return replace(create, **fields)


def throttled(run_id: str, length: int = 10 * SECOND, **fields: object) -> CreateRun:
    return keyed(run_id, Throttle(length), **fields)


def debounced(run_id: str, data: bytes = b'"in"', **fields: object) -> CreateRun:
    return keyed(run_id, DEBOUNCE, **{"input": data, "delay": 4 * SECOND, **fields})


def a_claim() -> Claim:
    return Claim("w", fresh_token(), ("d",), ("default",), 9)


# --- replace -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["queued", "delayed", "asleep", "retrying", "paused"])
async def test_a_create_that_replaces_cancels_who_holds_its_key(desk: Desk, how: str):
    """One that no worker has is cancelled at once, and keeps why; the new run has the key."""
    await desk.worker()
    await desk.do(keyed("old", delay=SECOND if how == "delayed" else 0))
    match how:
        case "asleep":
            await desk.suspend(await desk.claim_one("old"), timer(START + SECOND))
        case "retrying":
            await desk.settle(await desk.claim_one("old"), Retrying(b'"boom"', SECOND))
        case "paused":
            await desk.do(PauseRun("old", "q"))
    assert await desk.do(keyed("new", REPLACE)) == Created("new", replaced="old")
    history = await desk.history("old")
    assert (history.run.status, history.run.key_passed_to) == (Status.CANCELLED, "new")
    assert (history.run.finished_at, history.waits) == (START, ())
    last = history.audit[-1]
    assert (last.request_id, last.action, last.at) == ("create new", "replace", START)
    assert await desk.do(keyed("third")) == Exists("new", same=True)
    assert await desk.claim_one("new")


async def test_a_run_that_is_replaced_wakes_who_waits_for_it(desk: Desk):
    """As every end does, in the same transition."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("old"))
    await desk.do(keyed("old"))
    await desk.do(keyed("new", REPLACE))
    assert await desk.status("parent") is Status.QUEUED


async def test_a_running_run_that_is_replaced_gives_up_its_key_at_once(desk: Desk):
    """The new run is claimable though the old one runs, which can only end as cancelled."""
    await desk.worker()
    await desk.do(keyed("old"))
    old = await desk.claim_one("old")
    assert await desk.do(keyed("new", REPLACE)) == Created("new", replaced="old")
    run = await desk.run("old")
    assert (run.status, run.control, run.key_passed_to) == (Status.RUNNING, Control.CANCEL, "new")
    assert (await desk.run("new")).key_passed_to is None
    new = await desk.claim_one("new")
    assert await desk.do(keyed("third")) == Exists("new", same=True)
    assert await desk.settle(old, DONE) is Status.CANCELLED
    assert await desk.do(keyed("third")) == Exists("new", same=True)
    await desk.settle(new)
    assert await desk.do(keyed("third")) == Created("third")


@pytest.mark.parametrize("how", ["rescued", "paused", "cancelled"])
async def test_a_running_run_that_is_replaced_ends_whatever_comes(desk: Desk, how: str):
    """A pause does not keep it, its worker's death ends it, a cancel before changes nothing."""
    await desk.worker()
    await desk.do(keyed("old"))
    grant = await desk.claim_one("old")
    if how == "paused":
        await desk.do(PauseRun("old", "q"))
    if how == "cancelled":
        await desk.cancel("old")
    assert await desk.do(keyed("new", REPLACE)) == Created("new", replaced="old")
    if how == "rescued":
        assert (await desk.rescue()).ended == ("old",)
    else:
        await desk.settle(grant)
    assert await desk.status("old") is Status.CANCELLED
    assert await desk.do(keyed("third")) == Exists("new", same=True)


async def test_the_same_create_that_replaces_is_answered_and_replaces_nothing(desk: Desk):
    """In the same batch and later, while its run goes on, after its end, with another holder."""
    await desk.worker()
    await desk.do(keyed("old"))
    create = keyed("new", REPLACE)
    assert await desk.apply(create, create) == [Created("new", "old"), Created("new")]
    before = await desk.snapshot()
    assert await desk.do(create) == Created("new")
    await desk.apply(a_claim())
    assert (await desk.snapshot()) != before
    await desk.cancel("new")
    await desk.do(keyed("third"))
    before = await desk.snapshot()
    assert await desk.do(create) == Created("new")
    assert await desk.snapshot() == before


async def test_creates_of_one_batch_replace_each_other(desk: Desk):
    """In the order given; the last one is left."""
    await desk.worker()
    answers = await desk.apply(*(keyed(name, REPLACE) for name in "abc"))
    assert answers == [Created("a"), Created("b", "a"), Created("c", "b")]
    assert [await desk.status(name) for name in "abc"] == ["cancelled", "cancelled", "queued"]


@pytest.mark.parametrize("first", ["settle", "create"])
async def test_a_replacement_and_the_end_of_the_holder_agree(desk: Desk, first: str):
    """Whichever is first: then the other one finds it ended, or cancelled."""
    await desk.worker()
    await desk.do(keyed("old"))
    settle, create = Settle(await desk.claim_one("old"), DONE), keyed("new", REPLACE)
    if first == "settle":
        expected = [Settled(Status.COMPLETED), Created("new")]
        assert await desk.apply(settle, create) == expected
        assert (await desk.run("old")).key_passed_to is None
    else:
        expected = [Created("new", "old"), Settled(Status.CANCELLED)]
        assert await desk.apply(create, settle) == expected


async def test_a_create_that_is_refused_replaces_nobody(desk: Desk):
    """Its body has lost its run, or another run has its id."""
    await desk.worker()
    grant = await desk.start("parent")
    await desk.create("taken")
    await desk.do(keyed("old"))
    before = await desk.snapshot()
    stale = replace(grant, epoch=grant.epoch + 1)
    assert await desk.apply(keyed("new", REPLACE, by=stale), keyed("taken", REPLACE)) == [
        Fenced("parent"),
        Exists("taken", same=True),
    ]
    assert await desk.snapshot() == before


async def test_a_body_replaces_its_own_run(desk: Desk):
    """It holds its run until it has settled, and the new one has the key."""
    await desk.worker()
    await desk.do(keyed("old"))
    grant = await desk.claim_one("old")
    assert await desk.do(keyed("new", REPLACE, by=grant)) == Created("new", "old")
    assert await desk.settle(grant) is Status.CANCELLED


async def test_a_replaced_run_is_retried_when_its_key_is_free(desk: Desk):
    """Not beside the one that took it; then the key is its own again."""
    await desk.worker()
    await desk.do(keyed("old"))
    await desk.do(keyed("new", REPLACE))
    refused = await desk.retry("old")
    assert isinstance(refused, Refused)
    assert (refused.status, "new" in refused.detail) == (Status.CANCELLED, True)
    await desk.cancel("new")
    assert await desk.retry("old") == Controlled(Status.QUEUED)
    assert (await desk.run("old")).key_passed_to is None
    assert await desk.do(keyed("third")) == Exists("old", same=True)
    assert await desk.do(keyed("fourth", REPLACE)) == Created("fourth", "old")


async def test_a_run_that_is_about_to_be_restarted_is_replaced(desk: Desk):
    """It is cancelled instead, and what was laid ready for its next generation is gone."""
    await desk.worker()
    await desk.do(keyed("old"))
    grant = await desk.claim_one("old")
    await desk.apply(save(grant, "a"), save(grant, "b"))
    await desk.do(RestartRun("old", "q", key("b")))
    assert await desk.do(keyed("new", REPLACE)) == Created("new", "old")
    assert await desk.do(RestartRun("old", "again")) == Refused(
        "old", Status.RUNNING, "it is about to be cancelled"
    )
    assert await desk.settle(grant) is Status.CANCELLED
    history = await desk.history("old")
    assert (history.run.generation, len(history.checkpoints)) == (0, 2)


async def test_a_replaced_run_is_restarted_when_its_key_is_free(desk: Desk):
    """As it is retried: then the key is its own again."""
    await desk.worker()
    await desk.do(keyed("old"))
    await desk.do(keyed("new", REPLACE))
    assert isinstance(await desk.do(RestartRun("old", "q")), Refused)
    await desk.cancel("new")
    assert await desk.do(RestartRun("old", "q")) == Controlled(Status.QUEUED)
    assert (await desk.run("old")).key_passed_to is None
    assert await desk.do(keyed("third")) == Exists("old", same=True)


async def test_other_keys_and_definitions_are_left_alone(desk: Desk):
    """A key is one of its definition."""
    await desk.apply(
        keyed("a"), keyed("b", unique_key="v"), keyed("c", definition="e"), keyed("n", REPLACE)
    )
    assert [await desk.status(name) for name in "abc"] == ["cancelled", "queued", "queued"]


# --- throttle ------------------------------------------------------------------------------------


async def test_a_window_outlives_its_run(desk: Desk):
    """Until it ends, creates that are throttled find the run; it ends to the microsecond."""
    await desk.worker()
    assert await desk.do(throttled("a")) == Created("a")
    desk.clock.advance(SECOND)
    await desk.settle(await desk.claim_one("a"))
    desk.clock.advance(9 * SECOND - 1)
    before = await desk.snapshot()
    assert await desk.apply(throttled("b"), throttled("c", input=b"2")) == [
        Exists("a", same=True),
        Exists("a", same=False),
    ]
    assert await desk.snapshot() == before
    desk.clock.advance(1)
    assert await desk.do(throttled("b")) == Created("b")
    await desk.cancel("b")
    assert await desk.do(throttled("c")) == Exists("b", same=True)


async def test_a_key_is_held_longer_than_its_window(desk: Desk):
    """A run that goes on holds its key, throttled or not."""
    await desk.do(throttled("a"))
    desk.clock.advance(20 * SECOND)
    assert await desk.do(throttled("b")) == Exists("a", same=True)
    await desk.cancel("a")
    assert await desk.do(throttled("b")) == Created("b")


async def test_a_window_counts_from_the_create(desk: Desk):
    """A delay does not move it."""
    await desk.do(throttled("a", delay=5 * SECOND))
    await desk.cancel("a")
    desk.clock.advance(10 * SECOND - 1)
    assert await desk.do(throttled("b")) == Exists("a", same=True)
    desk.clock.advance(1)
    assert await desk.do(throttled("b")) == Created("b")


async def test_a_window_has_the_length_that_its_run_was_created_with(desk: Desk):
    """Another create's length is for the window that it opens itself."""
    await desk.do(throttled("a", 10 * SECOND))
    await desk.cancel("a")
    desk.clock.advance(5 * SECOND)
    assert await desk.do(throttled("b", 1)) == Exists("a", same=True)
    desk.clock.advance(5 * SECOND)
    assert await desk.do(throttled("b", 100 * SECOND)) == Created("b")


async def test_a_window_is_for_creates_that_are_throttled(desk: Desk):
    """Others go by who holds the key; what they create is in the way of one that is throttled."""
    await desk.do(throttled("a"))
    await desk.cancel("a")
    assert await desk.do(keyed("b")) == Created("b")
    assert await desk.do(throttled("c")) == Exists("b", same=True)
    assert await desk.do(keyed("d", REPLACE)) == Created("d", "b")
    await desk.cancel("d")
    assert await desk.do(throttled("c")) == Exists("a", same=True)


async def test_the_same_create_is_not_throttled_by_itself(desk: Desk):
    """It is answered as the first was, in the same batch, in its window and after it."""
    create = throttled("a")
    assert await desk.apply(create, create, throttled("b")) == [
        Created("a"),
        Created("a"),
        Exists("a", same=True),
    ]
    await desk.cancel("a")
    assert await desk.do(create) == Created("a")
    desk.clock.advance(20 * SECOND)
    assert await desk.do(create) == Created("a")
    assert await desk.do(throttled("b")) == Created("b")


async def test_a_create_that_is_throttled_opens_no_window(desk: Desk):
    """Nor moves the one that there is: they do not add up."""
    await desk.do(throttled("a"))
    await desk.cancel("a")
    for _ in range(4):
        desk.clock.advance(2 * SECOND)
        assert await desk.do(throttled("b")) == Exists("a", same=True)
    desk.clock.advance(2 * SECOND)
    assert await desk.do(throttled("b")) == Created("b")


async def test_windows_of_other_keys_and_definitions_are_apart(desk: Desk):
    """Each (definition, unique_key) has its own."""
    await desk.do(throttled("a"))
    await desk.cancel("a")
    others = [throttled("b", unique_key="v"), throttled("c", definition="e")]
    assert await desk.apply(*others) == [Created("b"), Created("c")]


async def test_many_windows_end_each_in_its_time(desk: Desk):
    """However many there are, of whatever length, and whichever is asked for first."""
    for n in range(40):
        await desk.do(throttled(f"r{n}", (n + 1) * SECOND, unique_key=f"u{n}"))
        await desk.cancel(f"r{n}")
    desk.clock.advance(20 * SECOND)
    for n in reversed(range(40)):
        create = throttled(f"s{n}", SECOND, unique_key=f"u{n}")
        expected = Created(f"s{n}") if n < 20 else Exists(f"r{n}", same=True)
        assert await desk.do(create) == expected


# --- debounce ------------------------------------------------------------------------------------


async def test_a_run_that_waits_takes_the_input_of_the_last_create(desk: Desk):
    """And waits anew; what is executed is the last, once."""
    await desk.worker()
    assert await desk.do(debounced("a", b"1")) == Created("a")
    desk.clock.advance(3 * SECOND)
    last = debounced("b", b"2", meta=b"{}", options=b"[]")
    assert await desk.do(last) == Exists("a", same=True)
    assert await desk.store.get("b") is None
    run = await desk.run("a")
    assert (run.input, run.meta, run.options) == (b"2", b"{}", b"[]")
    assert (run.status, run.waiting_for) == (Status.WAITING, WaitKind.DELAY)
    assert (run.due_at, run.updated_at) == (START + 7 * SECOND, START + 3 * SECOND)
    desk.clock.advance(4 * SECOND - 1)
    assert ids(await desk.claim()) == []
    desk.clock.advance(1)
    [given] = (await desk.claim()).runs
    assert (given.run.run_id, given.run.input, given.run.meta) == ("a", b"2", b"{}")


async def test_a_run_keeps_everything_but_its_input(desk: Desk):
    """Where and when it is claimed, its tags and its family are those of the first create."""
    first = debounced(
        "a", queue="q", priority=3, tags=("t",), limit_key="k", parent_id="p", caused_by="c"
    )
    await desk.do(first)
    before = await desk.run("a")
    await desk.do(debounced("b", b"2", queue="r", priority=1, limit_key="l", version="v2"))
    assert replace(await desk.run("a"), input=b'"in"') == before


async def test_creates_do_not_hold_a_run_back_beyond_the_longest_wait(desk: Desk):
    """However many come, it is due so long after it was created; without one they may."""
    await desk.worker()
    await desk.apply(debounced("a"), keyed("e", Debounce(), unique_key="v", delay=4 * SECOND))
    for n in range(6):
        desk.clock.advance(3 * SECOND)
        await desk.do(keyed(f"e{n}", Debounce(), unique_key="v", delay=4 * SECOND))
        if n < 3:
            assert await desk.do(debounced(f"a{n}")) == Exists("a", same=True)
    assert (await desk.run("a")).due_at == START + 10 * SECOND
    assert (await desk.run("e")).due_at == START + 22 * SECOND
    assert ids(await desk.claim()) == ["a"]


async def test_a_shorter_wait_makes_a_run_due_sooner(desk: Desk):
    """The last create says when: also sooner, and at once where its longest wait is over."""
    await desk.worker()
    await desk.do(keyed("a", delay=60 * SECOND))
    await desk.do(debounced("b", delay=2 * SECOND))
    assert (await desk.run("a")).due_at == START + 2 * SECOND
    desk.clock.advance(SECOND)
    await desk.do(keyed("c", Debounce(max_wait=SECOND), delay=SECOND))
    assert ids(await desk.claim()) == ["a"]


async def test_a_claim_decides_which_run_has_the_input(desk: Desk):
    """A create before it is executed with the run, also in its batch; one after it is a new run."""
    await desk.worker()
    await desk.do(debounced("a", b"1"))
    desk.clock.advance(4 * SECOND)
    claim, create = a_claim(), debounced("b", b"2")
    [claimed, answer] = await desk.apply(claim, create)
    assert answer == Exists("a", same=True)
    assert isinstance(claimed, Claimed)
    assert [given.run.input for given in claimed.runs] == [b"2"]
    third = debounced("c", b"3")
    assert await desk.do(third) == Created("c")
    new = await desk.run("c")
    assert (new.input, new.due_at) == (b"3", START + 8 * SECOND)
    old = await desk.run("a")
    assert (old.status, old.control, old.key_passed_to) == (Status.RUNNING, Control.NONE, "c")
    assert old.input == b"2"
    assert await desk.do(debounced("d", b"4")) == Exists("c", same=True)
    assert await desk.settle(grant_of(claimed.runs[0])) is Status.COMPLETED
    assert await desk.do(debounced("e", b"5")) == Exists("c", same=True)


async def test_a_run_that_passed_its_key_on_is_restarted_without_it(desk: Desk):
    """It had not ended, so it takes nothing from the run that has the key."""
    await desk.worker()
    await desk.do(debounced("a"))
    desk.clock.advance(4 * SECOND)
    grant = await desk.claim_one("a")
    await desk.do(debounced("b"))
    assert await desk.do(RestartRun("a", "q")) == Controlled(Status.RUNNING)
    assert await desk.settle(grant) is Status.QUEUED
    assert (await desk.run("a")).key_passed_to == "b"
    assert await desk.do(debounced("c")) == Exists("b", same=True)
    assert await desk.claim_one("a")


@pytest.mark.parametrize("how", ["asleep", "retrying", "released", "rescued", "paused"])
async def test_a_run_that_has_started_takes_no_input(desk: Desk, how: str):
    """Wherever it stands since, it goes on with its own, and the key passes to a new run."""
    await desk.worker()
    await desk.do(debounced("a", b"1"))
    desk.clock.advance(4 * SECOND)
    grant = await desk.claim_one("a")
    match how:
        case "asleep":
            await desk.suspend(grant, timer(START + 60 * SECOND))
        case "retrying":
            await desk.settle(grant, Retrying(b'"boom"', 60 * SECOND))
        case "paused":
            await desk.do(PauseRun("a", "q"))
            await desk.suspend(grant, timer(START + 60 * SECOND))
        case "released":
            await desk.settle(grant, Released())
        case _:
            await desk.rescue()
            await desk.worker()
    before = await desk.run("a")
    assert await desk.do(debounced("b", b"2")) == Created("b")
    assert await desk.run("a") == replace(before, key_passed_to="b")
    assert await desk.do(debounced("c", b"3")) == Exists("b", same=True)


async def test_a_run_that_passed_its_key_on_ends_and_is_retried_without_it(desk: Desk):
    """Its end frees nothing; it is retried when nobody holds the key."""
    await desk.worker()
    await desk.do(debounced("a"))
    desk.clock.advance(4 * SECOND)
    grant = await desk.claim_one("a")
    await desk.do(debounced("b"))
    await desk.settle(grant, FAIL)
    assert await desk.do(keyed("c")) == Exists("b", same=True)
    assert isinstance(await desk.retry("a"), Refused)
    await desk.cancel("b")
    assert await desk.retry("a") == Controlled(Status.QUEUED)
    assert (await desk.run("a")).key_passed_to is None
    assert await desk.do(keyed("c")) == Exists("a", same=True)


async def test_a_run_whose_time_has_come_takes_the_input_and_stays_due(desk: Desk):
    """Whether or not a claim has looked since: so it cannot be held back again and again."""
    await desk.worker()
    await desk.do(debounced("a", b"1"))
    desk.clock.advance(4 * SECOND)
    assert await desk.do(debounced("b", b"2")) == Exists("a", same=True)
    assert ids(await desk.claim(definitions=("e",))) == []
    assert await desk.status("a") is Status.QUEUED
    assert await desk.do(debounced("c", b"3")) == Exists("a", same=True)
    [given] = (await desk.claim()).runs
    assert given.run.input == b"3"


async def test_a_queued_run_takes_the_input(desk: Desk):
    """One without a delay, before it is claimed; it is claimed once."""
    await desk.worker()
    await desk.do(keyed("a"))
    assert await desk.do(debounced("b", b"2")) == Exists("a", same=True)
    [given] = (await desk.claim()).runs
    assert (given.run.run_id, given.run.input) == ("a", b"2")
    assert ids(await desk.claim()) == []


async def test_a_queued_run_behind_a_gate_takes_the_input(desk: Desk):
    """It stays where it stands among those of its limit_key."""
    await desk.worker()
    await desk.create("before", limit_key="k")
    await desk.do(keyed("a", limit_key="k"))
    assert await desk.do(debounced("b", b"2", limit_key="l")) == Exists("a", same=True)
    given = (await desk.claim()).runs
    assert [(one.run.run_id, one.run.input) for one in given] == [("before", b'"in"'), ("a", b"2")]


async def test_time_stands_still_for_a_paused_run(desk: Desk):
    """It waits as long after its resume as the last create says."""
    await desk.worker()
    await desk.do(debounced("a", b"1"))
    desk.clock.advance(SECOND)
    await desk.do(PauseRun("a", "p"))
    desk.clock.advance(60 * SECOND)
    assert await desk.do(debounced("b", b"2")) == Exists("a", same=True)
    assert await desk.status("a") is Status.PAUSED
    desk.clock.advance(60 * SECOND)
    await desk.do(ResumeRun("a", "r"))
    run = await desk.run("a")
    assert (run.status, run.due_at) == (Status.WAITING, await desk.store.now() + 4 * SECOND)
    assert run.input == b"2"


async def test_the_same_debounced_create_changes_nothing(desk: Desk):
    """In its batch, after others, after the claim and the end of the run that took its input."""
    await desk.worker()
    await desk.do(debounced("a", b"1"))
    desk.clock.advance(SECOND)
    create = debounced("b", b"2")
    taken = Exists("a", same=True)
    assert await desk.apply(create, debounced("c", b"3"), create) == [taken] * 3
    before = await desk.snapshot()
    desk.clock.advance(SECOND)
    assert await desk.do(create) == taken
    assert await desk.snapshot() == before
    desk.clock.advance(3 * SECOND)
    grant = await desk.claim_one("a")
    before = await desk.snapshot()
    assert await desk.do(create) == taken
    await desk.settle(grant)
    await desk.do(debounced("d", b"4"))
    before = await desk.snapshot()
    assert await desk.do(create) == taken
    assert await desk.snapshot() == before
    rival = replace(create, token=fresh_token())
    assert await desk.do(rival) == Exists("d", same=True)


async def test_a_debounced_create_is_known_again_for_some_time(desk: Desk):
    """Then it is one like any other."""
    await desk.do(debounced("a", b"1"))
    create = debounced("b", b"2")
    await desk.do(create)
    await desk.cancel("a")
    desk.clock.advance(REMEMBERED - 1)
    assert await desk.do(create) == Exists("a", same=True)
    desk.clock.advance(1)
    assert await desk.do(create) == Created("b")


async def test_a_debounced_create_that_is_refused_changes_nothing(desk: Desk):
    """Its body has lost its run, or another run has its id."""
    await desk.worker()
    grant = await desk.start("parent")
    await desk.create("taken")
    await desk.do(debounced("a", b"1"))
    before = await desk.snapshot()
    stale = replace(grant, epoch=grant.epoch + 1)
    assert await desk.apply(debounced("b", b"2", by=stale), debounced("taken", b"2")) == [
        Fenced("parent"),
        Exists("taken", same=False),
    ]
    assert await desk.snapshot() == before
    assert await desk.do(debounced("b", b"2", by=grant)) == Exists("a", same=True)


async def test_inputs_of_any_size_take_the_place_of_each_other(desk: Desk):
    """Long after short, short after long, and none left of one that is gone."""
    await desk.do(debounced("a", b"1"))
    for n, data in enumerate((b"x" * 5_000, b"2", b"y" * 2_000, b"z" * 100_000, b"")):
        meta = None if n % 2 else data
        assert await desk.do(debounced(f"b{n}", data, meta=meta)) == Exists("a", same=True)
        run = await desk.run("a")
        assert (run.input, run.meta) == (data, meta)


async def test_an_operator_who_retries_a_run_that_never_started_lets_it_take_inputs(desk: Desk):
    """It was never claimed: cancelled before, and queued now."""
    await desk.worker()
    await desk.do(debounced("a", b"1"))
    await desk.cancel("a")
    await desk.retry("a")
    assert await desk.do(debounced("b", b"2")) == Exists("a", same=True)
    [given] = (await desk.claim()).runs
    assert given.run.input == b"2"
