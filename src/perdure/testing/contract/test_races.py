"""Many at once, through store objects of their own on the same data: one wins, all agree."""

import asyncio
import threading
from collections import Counter

import pytest
import pytest_asyncio

from perdure.model.keys import Debounce, Replace, Throttle
from perdure.model.records import Control, Grant, Status
from perdure.model.transitions import (
    CancelRun,
    Claim,
    Claimed,
    Completed,
    Controlled,
    Created,
    CreateRun,
    Exists,
    Fenced,
    Outcome,
    Refused,
    RescueWorker,
    RetryRun,
    Saved,
    Settle,
    Settled,
    Transition,
)
from perdure.store import Store
from perdure.testing.contract.desk import (
    CRASH,
    DONE,
    FAIL,
    Desk,
    child,
    fresh_token,
    grant_of,
    ids,
    register,
    save,
)
from perdure.testing.contract.fixtures import MakeStore

RACERS = 64
STORES = 8


@pytest_asyncio.fixture
async def stores(make_store: MakeStore) -> list[Store]:
    """Store objects that the racers share out among themselves."""
    return [await make_store() for _ in range(STORES)]


@pytest.fixture
def desk(stores: list[Store], clock) -> Desk:
    return Desk(stores[0], clock)


async def race(stores: list[Store], transitions: list[Transition]) -> list[Outcome]:
    """Apply each transition in a batch of its own, all at once."""
    batches = await asyncio.gather(
        *(stores[n % len(stores)].apply([item]) for n, item in enumerate(transitions))
    )
    return [outcome for [outcome] in batches]


async def test_one_of_many_creates_of_an_id_makes_the_run(stores: list[Store], desk: Desk):
    """Of 64 creates with tokens of their own one is Created; the others find its run."""
    answers = await race(
        stores, [CreateRun("r", "d", b"%d" % n, fresh_token()) for n in range(RACERS)]
    )
    assert Counter(type(answer) for answer in answers) == {Created: 1, Exists: RACERS - 1}
    winner = next(n for n, answer in enumerate(answers) if answer == Created("r"))
    assert (await desk.run()).input == b"%d" % winner


async def test_the_same_create_from_everywhere_makes_one_run(stores: list[Store], desk: Desk):
    """64 repetitions of one create are all answered Created, and there is one run."""
    create = CreateRun("r", "d", b"", fresh_token())
    assert await race(stores, [create] * RACERS) == [Created("r")] * RACERS
    assert len((await desk.snapshot())[0]) == 1


async def test_one_of_many_runs_gets_the_unique_key(stores: list[Store], desk: Desk):
    """Of 64 runs with one unique_key one exists, and everybody is told which."""
    creates = [CreateRun(f"r{n}", "d", b"", fresh_token(), unique_key="u") for n in range(RACERS)]
    answers = await race(stores, list(creates))
    [winner] = {answer.run_id for answer in answers}
    assert Counter(type(answer) for answer in answers) == {Created: 1, Exists: RACERS - 1}
    assert [run.run.run_id for run in (await desk.snapshot())[0]] == [winner]


async def test_of_many_that_replace_each_other_one_is_left(stores: list[Store], desk: Desk):
    """64 creates are all Created; each but one is replaced, by one other."""
    creates = [
        CreateRun(f"r{n}", "d", b"", fresh_token(), unique_key="u", key_rule=Replace())
        for n in range(RACERS)
    ]
    answers = await race(stores, list(creates))
    assert [answer.run_id for answer in answers] == [create.run_id for create in creates]
    replaced = [answer.replaced for answer in answers if isinstance(answer, Created)]
    assert (replaced.count(None), len(set(replaced))) == (1, RACERS)
    statuses = Counter([await desk.status(create.run_id) for create in creates])
    assert statuses == {Status.CANCELLED: RACERS - 1, Status.QUEUED: 1}


async def test_a_replacement_and_a_claim_agree(stores: list[Store], desk: Desk):
    """For each of 32 runs: claimed and told to cancel, or cancelled and never claimed."""
    await desk.worker()
    half = RACERS // 2
    await desk.apply(
        *(CreateRun(f"r{n}", "d", b"", fresh_token(), unique_key=f"u{n}") for n in range(half))
    )
    moves: list[Transition] = []
    for n in range(half):
        create = CreateRun(f"s{n}", "d", b"", fresh_token(), unique_key=f"u{n}", key_rule=Replace())
        moves += [create, Claim("w", fresh_token(), ("d",), ("default",), 1)]
    answers = await race(stores, moves)
    claims = [answer for answer in answers if isinstance(answer, Claimed)]
    given = {name for answer in claims for name in ids(answer)}
    assert len(given) == half
    for n in range(half):
        assert answers[2 * n] == Created(f"s{n}", replaced=f"r{n}")
        run = await desk.run(f"r{n}")
        expected = (
            (Status.RUNNING, Control.CANCEL)
            if f"r{n}" in given
            else (Status.CANCELLED, Control.NONE)
        )
        assert (run.status, run.control) == expected


async def test_many_debounced_creates_make_one_run(stores: list[Store], desk: Desk):
    """Of 64 one is Created; the others are told of it, and it has the input of one of them."""
    creates = [
        CreateRun(
            f"r{n}", "d", b"%d" % n, fresh_token(), unique_key="u", delay=9, key_rule=Debounce()
        )
        for n in range(RACERS)
    ]
    answers = await race(stores, list(creates))
    [winner] = {answer.run_id for answer in answers}
    assert Counter(type(answer) for answer in answers) == {Created: 1, Exists: RACERS - 1}
    assert all(answer.same for answer in answers if isinstance(answer, Exists))
    [kept] = (await desk.snapshot())[0]
    assert kept.run.run_id == winner


async def test_a_debounced_create_and_a_claim_agree(stores: list[Store], desk: Desk):
    """Each of 32 inputs is executed once: with the run that was there, or as a run of its own."""
    await desk.worker()
    half = RACERS // 2
    await desk.apply(
        *(CreateRun(f"r{n}", "d", b"old", fresh_token(), unique_key=f"u{n}") for n in range(half))
    )
    moves: list[Transition] = []
    for n in range(half):
        create = CreateRun(
            f"s{n}", "d", b"new", fresh_token(), unique_key=f"u{n}", key_rule=Debounce()
        )
        moves += [create, Claim("w", fresh_token(), ("d",), ("default",), 1)]
    answers = await race(stores, moves)
    claims = [answer for answer in answers if isinstance(answer, Claimed)]
    inputs = {given.run.run_id: given.run.input for answer in claims for given in answer.runs}
    for n in range(half):
        answer = answers[2 * n]
        if answer == Created(f"s{n}"):
            assert inputs[f"r{n}"] == b"old"
            assert (await desk.run(f"r{n}")).key_passed_to == f"s{n}"
        else:
            assert answer == Exists(f"r{n}", same=True)
            assert (await desk.run(f"r{n}")).input == b"new"
            assert inputs.get(f"r{n}", b"new") == b"new"


async def test_one_of_many_throttled_creates_makes_a_run(stores: list[Store], desk: Desk):
    """Of 64 in one window one exists, though it ended among them."""
    creates = [
        CreateRun(f"r{n}", "d", b"", fresh_token(), unique_key="u", key_rule=Throttle(9))
        for n in range(RACERS)
    ]
    cancels = [CancelRun(f"r{n}", "q") for n in range(RACERS)]
    answers = (await race(stores, [*creates, *cancels]))[:RACERS]
    [winner] = {answer.run_id for answer in answers}
    assert Counter(type(answer) for answer in answers) == {Created: 1, Exists: RACERS - 1}
    assert [run.run.run_id for run in (await desk.snapshot())[0]] == [winner]


async def test_one_of_many_claims_gets_the_run(stores: list[Store], desk: Desk):
    """Of 64 claims by 64 workers one is given the run, at epoch 1."""
    await desk.apply(*(register(f"w{n}") for n in range(RACERS)))
    await desk.create("r")
    claims = [Claim(f"w{n}", fresh_token(), ("d",), ("default",), 1) for n in range(RACERS)]
    answers = await race(stores, list(claims))
    given = [run for answer in answers if isinstance(answer, Claimed) for run in answer.runs]
    assert len(given) == 1
    assert await desk.run() == given[0].run
    assert given[0].run.epoch == 1


async def test_many_claims_share_the_runs_without_overlap(stores: list[Store], desk: Desk):
    """200 runs go out over 64 claims of up to 5: each once, and none is left while some ask."""
    await desk.apply(*(register(f"w{n}") for n in range(RACERS)))
    names = [f"r{n}" for n in range(200)]
    await desk.create(*names)
    claims = [Claim(f"w{n}", fresh_token(), ("d",), ("default",), 5) for n in range(RACERS)]
    answers = await race(stores, list(claims))
    given = [name for answer in answers if isinstance(answer, Claimed) for name in ids(answer)]
    assert sorted(given) == sorted(names)


async def test_the_same_claim_from_everywhere_gives_the_same_runs(stores: list[Store], desk: Desk):
    """64 repetitions of one claim agree on what it gave."""
    await desk.worker()
    await desk.create("a", "b", "c")
    claim = Claim("w", fresh_token(), ("d",), ("default",), 2)
    answers = await race(stores, [claim] * RACERS)
    assert all(isinstance(answer, Claimed) and ids(answer) == ["a", "b"] for answer in answers)
    assert await desk.status("c") is Status.QUEUED


async def test_cancel_and_completion_agree(stores: list[Store], desk: Desk):
    """For each of 32 runs either the cancel is refused or the run is cancelled, never neither."""
    await desk.worker()
    names = [f"r{n}" for n in range(RACERS // 2)]
    await desk.create(*names)
    grants = [grant_of(given) for given in (await desk.claim()).runs]
    moves: list[Transition] = []
    for n, grant in enumerate(grants):
        pair: list[Transition] = [CancelRun(grant.run_id, "q"), Settle(grant, DONE)]
        moves += pair[:: 1 if n % 2 else -1]
    answers = await race(stores, moves)
    for n, grant in enumerate(grants):
        cancelled, settled = answers[2 * n : 2 * n + 2][:: 1 if n % 2 else -1]
        status = await desk.status(grant.run_id)
        assert settled == Settled(status)
        if status is Status.COMPLETED:
            assert isinstance(cancelled, Refused)
        else:
            assert (status, cancelled) == (Status.CANCELLED, Controlled(Status.RUNNING))


async def test_one_of_many_verdicts_ends_the_claim(stores: list[Store], desk: Desk):
    """Of 64 different verdicts of one grant the first stands, and all are told the same."""
    await desk.worker()
    grant = await desk.start()
    settles = [Settle(grant, Completed(b"%d" % n) if n % 2 else FAIL) for n in range(RACERS)]
    answers = await race(stores, list(settles))
    status = await desk.status()
    assert answers == [Settled(status)] * RACERS
    assert status in {Status.COMPLETED, Status.FAILED}


async def test_one_of_many_saves_of_a_step_stands(stores: list[Store], desk: Desk):
    """64 outcomes of one step by one grant leave one record, and none is refused."""
    await desk.worker()
    grant = await desk.start()
    saves = [save(grant, value=b"%d" % n) for n in range(RACERS)]
    assert await race(stores, list(saves)) == [Saved()] * RACERS
    [kept] = (await desk.history()).checkpoints
    assert kept.value in {item.value for item in saves}


async def test_a_rescue_and_the_holder_do_not_both_win(stores: list[Store], desk: Desk):
    """Each run is either settled by its holder or given back, and the answers say which."""
    await desk.apply(*(register(f"w{n}") for n in range(RACERS // 2)))
    await desk.create(*(f"r{n}" for n in range(RACERS // 2)))
    grants: list[Grant] = []
    for n in range(RACERS // 2):
        [given] = (await desk.claim(1, worker_id=f"w{n}")).runs
        grants.append(grant_of(given))
    rescues = [RescueWorker(f"w{n}", 0, 10, CRASH) for n in range(RACERS // 2)]
    answers = await race(stores, [*rescues, *(Settle(grant, DONE) for grant in grants)])
    for n, grant in enumerate(grants):
        rescued, settled = answers[n], answers[n + RACERS // 2]
        if await desk.status(grant.run_id) is Status.COMPLETED:
            assert (rescued.queued, settled) == ((), Settled(Status.COMPLETED))
        else:
            assert rescued.queued == (grant.run_id,)
            assert settled == Fenced(grant.run_id)


async def test_many_rescuers_count_one_crash(stores: list[Store], desk: Desk):
    """64 rescues of one worker at one beat give its run back once."""
    await desk.worker()
    await desk.start()
    answers = await race(stores, [RescueWorker("w", 0, 10, CRASH)] * RACERS)
    assert sorted(answer.queued for answer in answers) == [()] * (RACERS - 1) + [("r",)]
    assert ((await desk.run()).crashes, len((await desk.history()).attempts)) == (1, 1)


async def test_many_retries_by_one_request_make_one_attempt(stores: list[Store], desk: Desk):
    """64 repetitions of one operator's request count once."""
    await desk.worker()
    await desk.end("r", FAIL)
    answers = await race(stores, [RetryRun("r", "q")] * RACERS)
    assert answers == [Controlled(Status.QUEUED)] * RACERS
    assert (await desk.run()).attempt == 2


async def test_children_that_end_together_wake_their_parent_once(stores: list[Store], desk: Desk):
    """No end is lost: the last of 64 racing children wakes the parent, whichever it is."""
    await desk.worker()
    names = [f"c{n}" for n in range(RACERS)]
    await desk.suspend(await desk.start("parent"), *(child(name) for name in names))
    await desk.create(*names)
    grants = [grant_of(given) for given in (await desk.claim(RACERS)).runs]
    await race(stores, [Settle(grant, DONE) for grant in grants])
    [given] = (await desk.claim()).runs
    assert given.run.run_id == "parent"
    assert len(given.endings) == RACERS


async def test_side_stores_work_in_threads_of_their_own(stores: list[Store], desk: Desk):
    """Loops in eight threads, a side store each, share the runs out without overlap."""
    await desk.apply(*(register(f"w{n}") for n in range(STORES)))
    names = [f"r{n}" for n in range(80)]
    await desk.create(*names)
    given: list[str] = []
    failures: list[BaseException] = []

    async def work(side: Store, worker_id: str) -> None:
        await side.open()
        try:
            while True:
                [claimed] = await side.apply(
                    [Claim(worker_id, fresh_token(), ("d",), ("default",), 3)]
                )
                assert isinstance(claimed, Claimed)
                if not claimed.runs:
                    return
                given.extend(ids(claimed))
                await side.apply([Settle(grant_of(run), DONE) for run in claimed.runs])
        finally:
            await side.close()

    def main(side: Store, worker_id: str) -> None:
        try:
            asyncio.run(work(side, worker_id))
        except BaseException as error:  # noqa: BLE001  # handed to the test below
            failures.append(error)

    threads = [
        threading.Thread(target=main, args=(store.side(), f"w{n}"))
        for n, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert failures == []
    assert sorted(given) == sorted(names)
    assert (await desk.store.endings(names)).keys() == set(names)
