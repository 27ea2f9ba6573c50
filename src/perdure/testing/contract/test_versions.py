"""Versions: who may claim a run that is pinned, what pins it, and what an operator does."""

from typing import Any

import pytest

from perdure.model.queues import Limits, PutQueue
from perdure.model.records import Rank, RunQuery, Status
from perdure.model.transitions import (
    Controlled,
    Created,
    CreateRun,
    ForkRun,
    Mismatched,
    Missing,
    PauseRun,
    Refused,
    RegisterWorker,
    Released,
    RescueWorker,
    RestartRun,
    ResumeRun,
    Retrying,
)
from perdure.model.versions import Pinned, PinRun, Versions
from perdure.testing.contract.desk import (
    CRASH,
    DONE,
    FAIL,
    SECOND,
    Desk,
    child,
    fresh_token,
    grant_of,
    ids,
    timer,
)


def worker(
    worker_id: str = "w",
    version: str = "1",
    *earlier: str,
    pins: bool = True,
    definition: str = "d",
) -> RegisterWorker:
    return RegisterWorker(
        worker_id,
        "host",
        1,
        {definition: version},
        ("default",),
        8,
        earlier=tuple((definition, one) for one in earlier),
        pinning=(definition,) if pins else (),
    )


async def pin(desk: Desk, run_id: str, version: str | None, request_id: str = "") -> object:
    return await desk.do(PinRun(run_id, request_id or f"request-{fresh_token()}", version))


async def test_a_worker_tells_its_versions(desk: Desk):
    """What it registered is what the store says of it."""
    await desk.do(worker("w", "3", "2", "1"))
    await desk.do(worker("v", "9", pins=False))
    first, second = await desk.store.workers()
    assert first.earlier == (("d", "2"), ("d", "1"))
    assert first.pinning == ("d",)
    assert (second.earlier, second.pinning) == ((), ())


async def test_the_first_claim_pins(desk: Desk):
    """The run is pinned to what the worker has now, whoever created it from whatever."""
    await desk.create("r", version="0")
    assert (await desk.run()).pin is None
    await desk.do(worker("w", "2", "1"))
    [claimed] = (await desk.claim()).runs
    assert (claimed.run.pin, claimed.run.version, claimed.run.code) == ("2", "0", "2")
    assert (await desk.run()).pin == "2"


async def test_only_a_pinning_definition_pins(desk: Desk):
    """A run of any other goes on with whatever code takes it."""
    await desk.do(worker(pins=False))
    grant = await desk.start()
    assert (await desk.run()).pin is None
    await desk.settle(grant, Released())
    await desk.do(worker("v", "2", pins=False))
    assert ids(await desk.claim(worker_id="v")) == ["r"]


async def test_a_claim_pins_what_was_claimed_before(desk: Desk):
    """A definition may begin to pin while its runs are under way."""
    await desk.do(worker(pins=False))
    await desk.settle(await desk.start(), Released())
    await desk.do(worker("v", "2"))
    assert (await desk.claim(worker_id="v")).runs[0].run.pin == "2"


@pytest.mark.parametrize("how", ["released", "retrying", "woken", "rescued", "resumed"])
async def test_a_pinned_run_goes_on_with_its_version(desk: Desk, how: str):
    """However it becomes claimable again: a worker with another version is not given it."""
    await desk.do(worker())
    grant = await desk.start()
    match how:
        case "released":
            await desk.settle(grant, Released())
        case "retrying":
            await desk.settle(grant, Retrying(b'"e"', SECOND))
            desk.clock.advance(2 * SECOND)
        case "woken":
            await desk.suspend(grant, timer(desk.clock.now() + SECOND))
            desk.clock.advance(2 * SECOND)
        case "rescued":
            await desk.do(RescueWorker("w", None, 10, CRASH))
        case _:
            await desk.do(PauseRun("r", "q1"))
            await desk.settle(grant, Released())
            await desk.do(ResumeRun("r", "q2"))
    await desk.do(worker("new", "2"))
    await desk.do(worker("unpinning", "2", pins=False))
    for worker_id in ("new", "unpinning"):
        assert ids(await desk.claim(worker_id=worker_id)) == []
    await desk.do(worker("old", "1", pins=False))
    [claimed] = (await desk.claim(worker_id="old")).runs
    assert (claimed.run.run_id, claimed.run.pin) == ("r", "1")


async def test_a_worker_with_an_earlier_version_takes_what_is_pinned_to_it(desk: Desk):
    """Old runs end on old code beside new ones, in the same worker."""
    await desk.do(worker())
    await desk.settle(await desk.start("old"), Released())
    await desk.create("new")
    await desk.do(worker("both", "2", "1"))
    runs = (await desk.claim(worker_id="both")).runs
    assert [(one.run.run_id, one.run.pin) for one in runs] == [("old", "1"), ("new", "2")]


async def test_versions_of_one_definition_are_none_of_another(desk: Desk):
    """A version is one of its definition: equal texts mean nothing."""
    await desk.do(worker())
    await desk.settle(await desk.start(), Released())
    await desk.do(worker("e", "1", definition="e"))
    assert ids(await desk.claim(worker_id="e", definitions=("d", "e"))) == []


async def test_a_worker_that_asks_for_other_definitions_gets_none(desk: Desk):
    """What a claim does not name is not given, whatever the worker registered."""
    await desk.do(worker())
    await desk.settle(await desk.start(), Released())
    assert ids(await desk.claim(definitions=("e",))) == []


async def test_order_holds_over_versions(desk: Desk):
    """Runs of several versions are given by rank, priority and age, as if they were of one."""
    await desk.do(worker())
    for run_id, priority in [("a", 2), ("b", 0)]:
        await desk.create(run_id, priority=priority)
    for claimed in (await desk.claim()).runs:
        await desk.settle(grant_of(claimed), Released())
    await desk.create("c", priority=0, pin="2")
    await desk.create("d", priority=1)
    await desk.create("e", priority=0)
    await desk.do(worker("both", "2", "1"))
    assert ids(await desk.claim(worker_id="both", limit=3)) == ["b", "a", "c"]
    assert ids(await desk.claim(worker_id="both")) == ["e", "d"]


async def test_the_same_claim_again_gives_the_same(desk: Desk):
    """Its answer says how the runs are pinned, too."""
    await desk.do(worker())
    await desk.create("r")
    token = fresh_token()
    first = await desk.claim(token=token)
    assert (await desk.claim(token=token)).runs == first.runs


async def test_a_create_may_pin(desk: Desk):
    """Its run waits for that version from its beginning."""
    await desk.create("r", pin="2")
    assert (await desk.run()).pin == "2"
    await desk.do(worker())
    assert ids(await desk.claim()) == []
    await desk.do(worker("v", "2", pins=False))
    assert ids(await desk.claim(worker_id="v")) == ["r"]


async def test_a_suspect_goes_on_with_its_version(desk: Desk):
    """A worker without it is neither given it nor told of a suspect."""
    await desk.create("r", pin="1")
    await desk.crash("r", times=2)
    assert (await desk.run()).rank is Rank.SUSPECT
    await desk.do(worker("new", "2"))
    answer = await desk.claim(worker_id="new", suspects=True)
    assert (ids(answer), answer.suspects) == ([], False)
    await desk.do(worker("both", "2", "1"))
    assert (await desk.claim(worker_id="both")).suspects
    assert ids(await desk.claim(worker_id="both", suspects=True)) == ["r"]


async def test_what_nobody_can_take_holds_up_no_other_of_its_key(desk: Desk):
    """A run behind a full key is exposed past those that are pinned to what nobody has."""
    await desk.do(PutQueue("default", Limits(key_concurrency=1)))
    await desk.create("stuck", limit_key="k", pin="0")
    await desk.create("a", "b", limit_key="k")
    await desk.do(worker())
    grant = await desk.claim_one("a")
    await desk.settle(grant, DONE)
    await desk.claim_one("b")


# --- mismatches ----------------------------------------------------------------------------------


async def test_a_pinned_mismatch_waits_for_its_version(desk: Desk):
    """Another version is no other chance; nor is the one that did not fit."""
    await desk.do(worker())
    grant = await desk.start()
    await desk.settle(grant, Mismatched(b"{}", "1"))
    await desk.do(worker("new", "2"))
    await desk.do(worker("both", "2", "1"))
    for worker_id in ("w", "new", "both"):
        assert ids(await desk.claim(worker_id=worker_id)) == []


async def test_a_mismatch_that_is_pinned_elsewhere_goes_on_there(desk: Desk):
    """An operator's pin is another chance, also by an earlier version of a worker."""
    await desk.do(worker("w", "2"))
    grant = await desk.start()
    await desk.settle(grant, Mismatched(b"{}", "2"))
    await pin(desk, "r", "1")
    assert await desk.status() is Status.PAUSED
    await desk.do(worker("both", "2", "1"))
    assert ids(await desk.claim()) == []
    [claimed] = (await desk.claim(worker_id="both")).runs
    assert (claimed.run.run_id, claimed.run.pin, claimed.run.misfits) == ("r", "1", ("2",))


async def test_another_chance_pins(desk: Desk):
    """A mismatch that was not pinned is, by the version that takes it."""
    await desk.do(worker(pins=False))
    await desk.settle(await desk.start(), Mismatched(b"{}", "1"))
    await desk.do(worker("new", "2"))
    assert (await desk.claim(worker_id="new")).runs[0].run.pin == "2"
    assert (await desk.run()).pin == "2"


# --- operators -----------------------------------------------------------------------------------


async def test_a_pin_moves_a_queued_run(desk: Desk):
    """From now on other workers are given it; nothing else of it changes."""
    await desk.do(worker())
    await desk.settle(await desk.start(), Released())
    before = await desk.run()
    desk.clock.advance(SECOND)
    assert await pin(desk, "r", "2") == Controlled(Status.QUEUED)
    after = await desk.run()
    assert after.pin == "2"
    after.pin, after.updated_at = before.pin, before.updated_at
    assert after == before
    assert ids(await desk.claim()) == []
    await desk.do(worker("new", "2"))
    assert ids(await desk.claim(worker_id="new")) == ["r"]


async def test_an_unpinned_run_is_anybodys(desk: Desk):
    """The next claim pins it again, where its worker pins."""
    await desk.do(worker())
    await desk.settle(await desk.start(), Released())
    await pin(desk, "r", None)
    assert (await desk.run()).pin is None
    await desk.do(worker("new", "2"))
    assert (await desk.claim(worker_id="new")).runs[0].run.pin == "2"


async def test_a_pin_of_what_runs_holds_from_the_next_claim(desk: Desk):
    """Whoever holds it goes on, and settles."""
    await desk.do(worker())
    grant = await desk.start()
    assert await pin(desk, "r", "2") == Controlled(Status.RUNNING)
    assert await desk.settle(grant, Released()) is Status.QUEUED
    assert ids(await desk.claim()) == []
    await desk.do(worker("new", "2"))
    assert ids(await desk.claim(worker_id="new")) == ["r"]


@pytest.mark.parametrize("status", ["waiting", "paused", "failed", "completed"])
async def test_a_run_of_any_status_may_be_pinned(desk: Desk, status: str):
    """Also one that has ended, which may be tried again."""
    await desk.do(worker())
    grant = await desk.start()
    match status:
        case "waiting":
            await desk.create("other", pin="9")
            await desk.suspend(grant, child("other"))
        case "paused":
            await desk.do(PauseRun("r", "q1"))
            await desk.settle(grant, Released())
        case _:
            await desk.settle(grant, FAIL if status == "failed" else DONE)
    assert await pin(desk, "r", "2") == Controlled(Status(status))
    assert (await desk.run()).pin == "2"
    if status == "paused":
        await desk.do(ResumeRun("r", "q2"))
    if status == "failed":
        await desk.retry("r")
    assert ids(await desk.claim()) == []
    await desk.do(worker("new", "2"))
    claimed = await desk.claim(worker_id="new")
    assert ids(claimed) == (["r"] if status in {"paused", "failed"} else [])


async def test_a_pin_of_a_run_with_a_key_finds_its_place(desk: Desk):
    """It is exposed to those that may take it now, and to nobody else."""
    await desk.do(PutQueue("default", Limits(key_concurrency=1)))
    await desk.do(worker())
    await desk.create("r", limit_key="k", pin="0")
    assert ids(await desk.claim()) == []
    await pin(desk, "r", "1")
    assert ids(await desk.claim()) == ["r"]


async def test_a_pin_is_done_once(desk: Desk):
    """The same request again changes nothing, and a missing run is answered as such."""
    await desk.create("r")
    assert await pin(desk, "r", "2", "q") == Controlled(Status.QUEUED)
    assert await pin(desk, "r", "3", "q") == Controlled(Status.QUEUED)
    assert (await desk.run()).pin == "2"
    assert [entry.action for entry in (await desk.history()).audit] == ["pin"]
    assert await pin(desk, "nobody", "2") == Missing("nobody")


async def test_a_retry_keeps_the_version(desk: Desk):
    """It goes on with the record that this version made."""
    await desk.do(worker())
    await desk.settle(await desk.start(), FAIL)
    await desk.do(worker("new", "2"))
    await desk.retry("r")
    assert ids(await desk.claim(worker_id="new")) == []
    assert ids(await desk.claim()) == ["r"]


@pytest.mark.parametrize("running", [True, False])
async def test_a_restart_begins_with_any_version(desk: Desk, running: bool):
    """The next generation is pinned by whoever takes it."""
    await desk.do(worker())
    grant = await desk.start()
    if running:
        await desk.do(RestartRun("r", "q"))
        assert (await desk.run()).pin == "1"
        await desk.settle(grant, Released())
    else:
        await desk.settle(grant, FAIL)
        await desk.do(RestartRun("r", "q"))
    assert (await desk.run()).pin is None
    await desk.do(worker("new", "2"))
    assert (await desk.claim(worker_id="new")).runs[0].run.pin == "2"


async def test_a_cancel_before_a_restart_keeps_the_version(desk: Desk):
    """What is to be undone then is undone by the code that did it."""
    await desk.do(worker())
    grant = await desk.start()
    await desk.do(RestartRun("r", "q"))
    await desk.cancel("r")
    await desk.settle(grant, Released())
    assert (await desk.run()).pin == "1"


async def test_a_restart_may_choose_the_version(desk: Desk):
    """Of what runs it may not: the run would lose the code that it goes on with."""
    await desk.do(worker())
    grant = await desk.start()
    answer = await desk.do(RestartRun("r", "q1", pin="2"))
    assert isinstance(answer, Refused)
    assert (answer.run_id, answer.status) == ("r", Status.RUNNING)
    await desk.settle(grant, FAIL)
    await desk.do(RestartRun("r", "q2", pin="2"))
    assert (await desk.run()).pin == "2"
    assert ids(await desk.claim()) == []


async def test_a_fork_is_pinned_as_its_create_says(desk: Desk):
    """Not as its source is."""
    await desk.do(worker())
    await desk.settle(await desk.start(), DONE)
    for run_id, version in [("f", None), ("g", "2")]:
        create = CreateRun(run_id, "d", b'"in"', fresh_token(), pin=version, caused_by="fork:r")
        assert await desk.do(ForkRun(create, "r", 0)) == Created(run_id)
        assert (await desk.run(run_id)).pin == version
    assert ids(await desk.claim()) == ["f"]


# --- finding -------------------------------------------------------------------------------------


async def test_runs_are_found_by_version(desk: Desk):
    """By what they are pinned to, and those that are not by what they were created from."""
    await desk.do(worker("w", "2"))
    await desk.create("a", version="1")
    grant = grant_of((await desk.claim()).runs[0])
    await desk.create("b", version="1")
    await desk.create("c", version="2", pin="3")
    await desk.settle(grant, DONE)

    async def found(**fields: Any) -> list[str]:
        query = RunQuery(**fields)
        runs = [run.run_id for run in await desk.store.list_runs(query)]
        assert await desk.store.count_runs(query) == len(runs)
        return runs

    assert await found(version="1") == ["b"]
    assert await found(version="2") == ["a"]
    assert await found(version="3") == ["c"]
    assert await found(version="4") == []
    assert await found(version="\ud800") == []
    assert await found(version="2", statuses=(Status.QUEUED,)) == []


async def test_what_lives_and_is_pinned_is_counted(desk: Desk):
    """By definition and version; what has ended or is not pinned is no part of it."""
    assert await desk.store.pins() == []
    await desk.create("a", "b", pin="2")
    await desk.create("c", pin="10")
    await desk.create("e", definition="e", pin="2")
    await desk.create("free")
    await desk.do(worker("w", "2", pins=False))
    grant = grant_of(next(one for one in (await desk.claim()).runs if one.run.run_id == "a"))
    assert await desk.store.pins() == [
        Pinned("d", "10", 1),
        Pinned("d", "2", 2),
        Pinned("e", "2", 1),
    ]
    await desk.settle(grant, DONE)
    await pin(desk, "c", None)
    assert await desk.store.pins() == [Pinned("d", "2", 1), Pinned("e", "2", 1)]
    await desk.cancel("e")
    assert await desk.store.pins() == [Pinned("d", "2", 1)]


def test_what_a_worker_has():
    """Its current version and the earlier ones, each once, of what is asked for."""
    versions = Versions({"d": "2", "e": "1"}, (("d", "1"), ("d", "2"), ("d", "1")), ("d",))
    assert list(versions.codes(("d", "d", "x"))) == [
        ("d", None),
        ("d", "2"),
        ("d", "1"),
        ("x", None),
    ]
    assert (versions.has("d", "1"), versions.has("e", "1"), versions.has("e", "2")) == (
        True,
        True,
        False,
    )
    assert (versions.pin("d"), versions.pin("e"), versions.pin("x")) == ("2", None, None)
