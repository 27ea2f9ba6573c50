"""Runs started and awaited by runs: once however often the body replays, with ids and keys."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure import App, Run, Status, block_on, constant, gather, sleep, step
from perdure.errors import (
    InvalidValue,
    NotInRun,
    PayloadTooLarge,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    UsageError,
)
from perdure.model.transitions import GiveBack
from tests.engine.families import Family, one_child
from tests.engine.places import Halt, Place, eventually, finished, half_way, killed_and_finished


@pytest.fixture
def family() -> Family:
    return Family()


async def runs_of(life: Any, name: str) -> list[Any]:
    """Return the runs of a definition, oldest first."""
    return (await life.app.runs(name=name))[::-1]


# --- started once -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["enqueue", "delay"])
async def test_a_child_is_started_once_however_often_its_parent_replays(
    place: Place, family: Family, verb: str
):
    """enqueue and delay inside a body are recorded: a replay gets the same run."""
    halt = Halt()

    async def body(family: Family, child: Any) -> list[int]:
        family.let(1, 2)
        if verb == "enqueue":
            kids = [await child.enqueue(n) for n in (1, 2, 2)]
        else:
            kids = [await child.delay("1ms", n) for n in (1, 2, 2)]
        await halt()
        return await gather(*kids)

    run = await half_way(place, family.of(body), halt)
    async with place.life(family.of(body)) as life:
        assert await life.get(run).result(timeout="5s") == [10, 20, 20]
        kids = [await life.store.get(kid.id) for kid in await runs_of(life, "child")]
    assert [(kid.parent_id, kid.root_id) for kid in kids] == [(run.id, run.id)] * 3
    assert family.passes >= 2


@pytest.mark.parametrize("applied", [True, False], ids=["unanswered", "lost"])
async def test_a_parent_killed_while_it_starts_a_child_has_one(
    place: Place, family: Family, applied: bool
):
    """A kill with the very batch that starts the child leaves one child, begun or not."""
    family.let(1)
    async with place.client(family.of(one_child)) as client:
        async with place.life(family.of(one_child)) as life:
            life.store.doomed_batch_is_applied = applied
            life.store.doom = lambda batch: any(
                getattr(item, "definition", None) == "child" for item in batch
            )
            run = await life.flow.enqueue()
            await asyncio.wait_for(life.store.died.wait(), 5)
            await life.kill()
        assert len(await runs_of(client, "child")) == applied
        assert await finished(place, family.of(one_child), run) == 10
        assert len(await runs_of(client, "child")) == 1


async def test_children_of_branches_keep_their_places(place: Place, family: Family):
    """Branches that start children of equal input each get their own one back."""
    halt = Halt()
    seen: list[list[str]] = []

    async def branch(child: Any) -> str:
        return (await child.enqueue(1)).id

    async def body(family: Family, child: Any) -> None:
        family.let(1)
        seen.append(list(await asyncio.gather(*(branch(child) for _ in range(3)))))
        await halt()

    await killed_and_finished(place, family.of(body), halt)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3


async def test_a_delayed_child_is_not_early(place: Place, family: Family):
    """delay inside a body counts from the moment the store accepts the child."""

    async def body(family: Family, child: Any) -> int:
        family.let(1)
        return await (await child.delay("60ms", 1)).result()

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == 10
        [kid] = await runs_of(life, "child")
        history = await kid.history()
    assert history.started_at - history.created_at >= timedelta(milliseconds=60)


# --- how children end ---------------------------------------------------------------------------


def with_failing_child(body: Any) -> Any:
    """Return what declares a child that fails and a parent with this body."""

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> int:
            raise LookupError("no such thing")

        @app.workflow
        async def parent() -> Any:
            return await body(child)

        return parent

    return define


async def test_a_childs_failure_reaches_its_parent_as_a_run_failed(place: Place):
    """Awaiting a failed child raises RunFailed with its error as the cause, equal on replay."""
    halt = Halt()
    seen: list[tuple[str, str, str]] = []

    async def body(child: Any) -> str:
        kid = await child.enqueue()
        try:
            await kid.result()
        except RunFailed as error:
            seen.append((error.run_id, error.error_type, repr(error.__cause__)))
        await halt()
        return "handled"

    define = with_failing_child(body)
    assert await killed_and_finished(place, define, halt) == "handled"
    assert seen[0] == seen[1]
    assert seen[0][1:] == ("LookupError", "LookupError('no such thing')")


async def test_an_uncaught_failure_of_a_child_fails_its_parent(place: Place):
    """A parent that does not handle it fails as well, naming the child."""

    async def body(child: Any) -> None:
        await (await child.enqueue()).result()

    async with place.life(with_failing_child(body)) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match="no such thing") as caught:
            await run.result(timeout="5s")
        [kid] = await runs_of(life, "child")
        assert kid.id in str(caught.value)


async def test_a_retried_parent_looks_at_its_retried_child_again(place: Place):
    """A parent that failed with its child succeeds when both are retried by hand."""
    broken = [True]

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> str:
            if broken:
                raise LookupError("not yet")
            return "there"

        @app.workflow
        async def parent() -> str:
            return await (await child.enqueue()).result()

        return parent

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match="not yet"):
            await run.result(timeout="5s")
        broken.clear()
        [kid] = await runs_of(life, "child")
        await kid.retry()
        assert await kid.result(timeout="5s") == "there"
        await run.retry()
        assert await run.result(timeout="5s") == "there"
        assert len(await runs_of(life, "child")) == 1


async def test_a_cancelled_child_reaches_its_parent_as_run_cancelled(place: Place, family: Family):
    """Awaiting a child that was cancelled raises RunCancelled."""

    async def body(_: Family, child: Any) -> str:
        kid = await child.enqueue(1)
        try:
            await kid.result()
        except RunCancelled as error:
            return f"cancelled {error.run_id == kid.id}"
        return "not reached"

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        [kid] = await runs_of(life, "child")
        await kid.cancel()
        assert await run.result(timeout="5s") == "cancelled True"


async def test_gather_raises_the_first_failure_in_order(place: Place, family: Family):
    """perdure.gather waits for all and raises the error of the first in the order given."""

    def define(app: App) -> Any:
        @app.workflow
        async def child(number: int) -> int:
            await family.gates[number].wait()
            if number in {2, 3}:
                raise LookupError(f"child {number}")
            return number

        @app.workflow
        async def parent() -> str:
            kids = [await child.enqueue(n) for n in (1, 2, 3)]
            try:
                await gather(*kids)
            except RunFailed as error:
                return str(error.__cause__)
            return "not reached"

        return parent

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        family.let(3)
        [*_, third] = await runs_of(life, "child")
        with pytest.raises(RunFailed):
            await third.result(timeout="5s")
        assert await run.status() == Status.WAITING
        family.let(1, 2)
        assert await run.result(timeout="5s") == "child 2"


async def test_a_retry_asks_after_all_children_that_failed(place: Place):
    """Retried after its failed children, a parent that gathers them gets their new results."""
    broken = {2, 3}

    def define(app: App) -> Any:
        @app.workflow
        async def child(number: int) -> int:
            if number in broken:
                raise LookupError(f"child {number}")
            return number

        @app.workflow
        async def parent() -> list[int]:
            return await gather(*[await child.enqueue(n) for n in (1, 2, 3)])

        return parent

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed):
            await run.result(timeout="5s")
        broken.clear()
        for failed in await life.app.runs(status="failed"):  # the newest first: the children
            await failed.retry()
        assert await run.result(timeout="5s") == [1, 2, 3]


async def test_a_result_awaited_twice_is_the_same(place: Place, family: Family):
    """A child's result may be awaited again, in the body or in a branch."""

    async def body(family: Family, child: Any) -> list[int]:
        family.let(1)
        kid = await child.enqueue(1)
        return [await kid.result(), await kid.result(), *await gather(kid, kid)]

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == [10] * 4


async def test_results_outside_of_a_body(place: Place, family: Family):
    """A handle outside of any body waits, times out, and knows of runs that are not there."""
    async with place.life(family.of(one_child)) as life:
        run = await life.flow.enqueue()
        with pytest.raises(TimeoutError, match="goes on"):
            await run.result(timeout="10ms")
        with pytest.raises(RunNotFound, match="nobody"):
            await life.app.get("nobody").result(timeout="5s")
        family.let(1)
        assert await run.result(timeout="5s") == 10
        assert await gather(run, run) == [10, 10]


async def test_a_timeout_of_a_durable_result_is_refused(place: Place, family: Family):
    """result(timeout=…) inside a body says that it is for callers outside."""

    async def body(_: Family, child: Any) -> int:
        return await (await child.enqueue(1)).result(timeout="1s")

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match="for callers outside"):
            await run.result(timeout="5s")
        family.let(1)


# --- ids and keys -------------------------------------------------------------------------------


async def test_the_same_id_and_input_is_the_same_run(place: Place, family: Family):
    """Starting a run again under its id with equal input returns it; other input is a conflict."""

    def define(app: App) -> Any:
        @app.workflow
        async def greet(name: str) -> str:
            return f"hello {name}"

        @app.workflow
        async def other(name: str) -> str:
            return name

        return greet, other

    async with place.life(define) as life:
        greet, other = life.flow
        first = await greet.options(id="g1").enqueue("ada")
        again = await greet.options(id="g1").enqueue(name="ada")
        assert first.id == again.id == "g1"
        assert await first.result(timeout="5s") == await again.result(timeout="5s") == "hello ada"
        for flow, name in ((greet, "bob"), (other, "ada")):
            with pytest.raises(RunConflict, match="'g1'") as caught:
                await flow.options(id="g1").enqueue(name)
            assert caught.value.run_id == "g1"
        assert len(await life.app.runs()) == 1


async def test_a_child_with_an_id_of_its_own_is_started_once(place: Place, family: Family):
    """A body may name its child; the replay and a second parent get the same run."""
    halt = Halt()

    async def body(family: Family, child: Any) -> list[str]:
        family.let(1)
        kid = await child.options(id="the-child").enqueue(1)
        await halt()
        await kid.result()
        return [kid.id]

    assert await killed_and_finished(place, family.of(body), halt) == ["the-child"]
    async with place.life(family.of(body)) as life:
        second = await life.flow.enqueue()
        assert await second.result(timeout="5s") == ["the-child"]
        assert len(await runs_of(life, "child")) == 1


async def test_a_run_that_is_lost_while_it_starts_a_child_does_not_fail(
    place: Place, family: Family
):
    """Whoever has it goes on; the body that lost it is no attempt that failed."""
    failures: list[str] = []
    let_go = asyncio.Event()

    def worth_it(error: BaseException) -> bool:
        failures.append(repr(error))
        return True

    async def body(family: Family, child: Any) -> list[str]:
        kid = await child.options(id="the-child").enqueue(1)
        return [kid.id]

    def starts(batch: Any) -> asyncio.Event | None:
        is_held = any(getattr(one, "run_id", None) == "the-child" for one in batch)
        return let_go if is_held and family.passes == 1 else None

    define = family.of(body, max_attempts=3, backoff=constant("1ms"), retry_on=worth_it)
    async with place.life(define) as life:
        life.store.keeps = starts
        run = await life.flow.enqueue()
        await asyncio.wait_for(life.store.kept.wait(), 5)
        holder = (await life.store.get(run.id)).worker_id
        await life.store.inner.apply([GiveBack(holder, ())])
        let_go.set()
        assert await run.result(timeout="5s") == ["the-child"]
        family.let(1)
    assert failures == []


async def test_a_child_with_a_taken_id_is_a_conflict_in_its_parent(place: Place, family: Family):
    """An id that belongs to a run of other input raises RunConflict inside the body."""

    async def body(_: Family, child: Any) -> str:
        try:
            await child.options(id="taken").enqueue(2)
        except RunConflict as error:
            return error.run_id
        return "started"

    async with place.life(family.of(body)) as life:
        family.let(1)
        taken = await family.child.options(id="taken").enqueue(1)
        assert await taken.result(timeout="5s") == 10
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "taken"
        assert await taken.result(timeout="5s") == 10


async def test_a_caught_conflict_is_the_same_on_replay(place: Place, family: Family):
    """A body that was refused a key goes the same way again, though the key is free by then."""
    halt = Halt()

    async def body(_: Family, child: Any) -> str:
        try:
            await child.options(unique_key="k").enqueue(2)
        except RunConflict:
            went = "the other way"
        else:
            went = "its way"
        await halt()
        return went

    define = family.of(body)
    async with place.life(define) as life:
        holder = await family.child.options(unique_key="k").enqueue(1)
        await eventually(lambda: "child 1" in family.effects)
        run = await life.flow.enqueue()
        await asyncio.wait_for(halt.reached.wait(), 5)
        family.let(1, 2)
        await holder.result(timeout="5s")
        halt.is_open = True
        await life.kill()
    assert await finished(place, define, run) == "the other way"


async def test_a_unique_key_is_taken_while_its_run_goes_on(place: Place, family: Family):
    """One unfinished run a key: equal input returns it, other input is refused, then it is free."""
    async with place.life(family.of(one_child)) as life:
        keyed = family.child.options(unique_key="k")
        first = await keyed.enqueue(1)
        assert (await keyed.enqueue(1)).id == first.id
        with pytest.raises(RunConflict, match="unique_key 'k'") as caught:
            await keyed.enqueue(2)
        assert caught.value.run_id == first.id
        assert (await family.child.options(unique_key="other").enqueue(1)).id != first.id
        family.let(1, 2)
        await first.result(timeout="5s")
        second = await keyed.enqueue(2)
        assert second.id != first.id
        assert await second.result(timeout="5s") == 20
        assert life.worker is not None


async def test_a_unique_key_holds_inside_a_body(place: Place, family: Family):
    """Two parents that start a child under one key share it, and each replays to it."""
    halt = Halt()

    async def body(_: Family, child: Any) -> str:
        kid = await child.options(unique_key="k").enqueue(1)
        await halt()
        await kid.result()
        return kid.id

    define = family.of(body)
    async with place.life(define) as life:
        runs = [await life.flow.enqueue() for _ in range(2)]
        await eventually(lambda: family.passes == 2)
        await eventually(lambda: "child 1" in family.effects)
        halt.is_open = True
        await life.kill()
    family.let(1)
    async with place.life(define) as life:
        ids = [await life.get(run).result(timeout="5s") for run in runs]
        [child] = await runs_of(life, "child")
    assert ids == [child.id] * 2


# --- many ---------------------------------------------------------------------------------------


async def test_enqueue_many_answers_each_on_its_own(place: Place):
    """Of many runs those with wrong arguments are errors in their places, the others run."""

    def define(app: App) -> Any:
        @app.workflow
        async def double(number: int, *, plus: int = 0) -> int:
            return number * 2 + plus

        return double

    async with place.life(define) as life:
        answers = await life.flow.enqueue_many(
            [((1,), {}), (("no",), {}), ((2,), {"plus": 1}), ((), {}), ((3,), {"colour": "red"})]
        )
        good = [answers[0], answers[2]]
        assert [await run.result(timeout="5s") for run in good] == [2, 5]
        assert all(isinstance(answers[n], InvalidValue) for n in (1, 3, 4)), answers
        assert len(await life.app.runs()) == 2


async def test_enqueue_many_refuses_what_is_too_large_alone(place: Place):
    """A payload over the limit is an error in its place and stores nothing."""

    def define(app: App) -> Any:
        @app.workflow
        async def length(text: str) -> int:
            return len(text)

        return length

    async with place.life(define) as life:
        large, small = await life.flow.enqueue_many([(("x" * 2**20,), {}), (("x",), {})])
        assert isinstance(large, PayloadTooLarge)
        assert await small.result(timeout="5s") == 1


async def test_enqueue_many_of_more_than_a_batch(place: Place):
    """A thousand runs in a few batches are all created, in the order given."""

    def define(app: App) -> Any:
        @app.workflow
        async def same(number: int) -> int:
            return number

        return same

    async with place.life(define) as life:
        runs = await life.flow.enqueue_many([((n,), {}) for n in range(1001)])
        assert [await run.result(timeout="10s") for run in runs] == list(range(1001))


async def test_enqueue_many_refuses_what_names_one_run(place: Place):
    """An id or unique_key names one run."""

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> None: ...

        return child

    async with place.life(define) as life:
        child = life.flow
        for options in ({"id": "x"}, {"unique_key": "x"}):
            with pytest.raises(UsageError, match="one run"):
                await child.options(**options).enqueue_many([((), {})])


# --- many at once -------------------------------------------------------------------------------


async def many(family: Family, child: Any) -> list[int]:
    """Start twelve children by one call, and await them: the body of a parent."""
    return await gather(*(await child.enqueue_many([((n,), {}) for n in range(1, 13)])))


async def test_many_children_are_one_durable_call(place: Place, family: Family):
    """One record, however many; a replay finds the same ones, and starts none again."""
    async with place.life(family.of(many)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
    family.let(*range(1, 13))
    async with place.life(family.of(many)) as life:
        assert await life.get(run).result(timeout="10s") == [n * 10 for n in range(1, 13)]
        kids = [await life.store.get(kid.id) for kid in await runs_of(life, "child")]
        steps = (await life.get(run).history()).steps
    assert [(kid.parent_id, kid.root_id) for kid in kids] == [(run.id, run.id)] * 12
    assert [step.kind for step in steps] == ["enqueue"] + ["child"] * 12
    assert steps[0].arguments == "12 calls"


@pytest.mark.parametrize("applied", [True, False], ids=["unanswered", "lost"])
async def test_a_parent_killed_while_it_starts_many_has_each_once(
    place: Place, family: Family, applied: bool
):
    """Whether the children are there or not, the next life goes on with the same ones."""
    family.let(*range(1, 13))
    async with place.client(family.of(many)) as client:
        async with place.life(family.of(many)) as life:
            life.store.doomed_batch_is_applied = applied
            life.store.doom = lambda batch: any(
                getattr(item, "definition", None) == "child" for item in batch
            )
            run = await life.flow.enqueue()
            await asyncio.wait_for(life.store.died.wait(), 5)
            await life.kill()
        expected = [n * 10 for n in range(1, 13)]
        assert await finished(place, family.of(many), run) == expected
        assert len(await runs_of(client, "child")) == 12


async def test_what_keeps_one_of_many_from_being_started_is_kept(place: Place):
    """Its error stands in its place, the same on every replay; the others are not touched."""
    seen: list[list[str]] = []

    def define(app: App) -> Any:
        @app.workflow(unique_key="name")
        async def child(name: str, number: int) -> int:
            await sleep("1h")
            return number

        @app.workflow
        async def parent() -> None:
            started = await child.enqueue_many(
                [(("a", 1), {}), (("a", 2), {}), ((1, 3), {}), (("b", 4), {}), (("a", 1), {})]
            )
            seen.append([one.id if isinstance(one, Run) else repr(one) for one in started])
            await sleep("200ms")

        return parent

    async with place.life(define) as life:
        await (await life.flow.enqueue()).result(timeout="5s")
    assert len(seen) == 2
    assert seen[0] == seen[1]
    first, conflict, unfit, _, same = seen[0]
    assert first == same
    assert "RunConflict" in conflict
    assert "InvalidValue" in unfit


async def test_a_key_that_cannot_be_made_keeps_one_of_many_from_being_started(place: Place):
    """As outside of a body: its error stands in its place, the others are started."""

    def key(number: int) -> str:
        return {1: "one", 2: "two"}[number]

    def define(app: App) -> Any:
        @app.job(unique_key=key)
        async def child(number: int) -> int:
            return number

        @app.workflow
        async def parent() -> list[str]:
            started = await child.enqueue_many([((number,), {}) for number in (1, 3, 2)])
            return [type(one).__name__ for one in started]

        return parent

    async with place.life(define) as life:
        answer = await (await life.flow.enqueue()).result(timeout="5s")
    assert answer == ["Run", "DefinitionError", "Run"]


async def test_many_runs_of_another_app_are_started_once(place: Place):
    """They are no children, but the replays of the body find the same ones."""
    async with App("memory://") as other:

        @other.job
        async def packed(number: int) -> int:
            return number

        def define(app: App) -> Any:
            @app.workflow
            async def parent() -> list[str]:
                calls: list[Any] = [((1,), {}), (("x",), {}), ((2,), {})]
                started = await packed.enqueue_many(calls)
                ids = [one.id if isinstance(one, Run) else type(one).__name__ for one in started]
                await sleep("100ms")
                await sleep("100ms")
                return ids

            return parent

        async with place.life(define) as life:
            first, second, third = await (await life.flow.enqueue()).result(timeout="5s")
            assert second == "InvalidValue"
            assert {run.id for run in await other.runs()} == {first, third}


async def test_a_restart_goes_on_with_the_children_that_are_kept(place: Place, family: Family):
    """Those that a call before the step has started; their ids are not derived anew."""
    family.let(*range(1, 13))

    async def body(family: Family, child: Any) -> list[str]:
        runs = await child.enqueue_many([((n,), {}) for n in range(1, 13)])
        await step("mark", family.effects.append, "mark")
        return [run.id for run in runs if await run.result()]

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        before = await run.result(timeout="10s")
        await run.restart(from_step="mark")
        assert await run.result(timeout="10s") == before
        fork = await run.fork(from_step="mark")
        assert await fork.result(timeout="10s") == before
        assert len(await runs_of(life, "child")) == 12
    assert family.effects.count("mark") == 3


async def test_a_step_may_start_children(place: Place, family: Family):
    """A child started inside a step is started once, though the step is executed again."""
    halt = Halt()

    async def body(family: Family, child: Any) -> int:
        family.let(1)

        async def start() -> str:
            kid = await child.enqueue(1)
            await halt()
            return kid.id

        kid_id = await step("start", start)
        return len(kid_id)

    define = family.of(body)
    run = await half_way(place, define, halt)
    assert await finished(place, define, run) > 0
    async with place.client(define) as client:
        assert len(await runs_of(client, "child")) == 1


# --- in bodies written with def -----------------------------------------------------------------


def in_def(passes: list[int]) -> Any:
    """Return what declares a parent whose body is written with def."""

    def define(app: App) -> Any:
        @app.job
        def child(number: int) -> int:
            return number * 10

        @app.workflow
        def parent(number: int) -> list[int]:
            passes.append(number)
            first = block_on(child.enqueue(number))
            more = block_on(child.enqueue_many([((n,), {}) for n in (7, 8)]))
            assert block_on(first.result()) == number * 10
            sleep("100ms")
            return block_on(gather(first, *(run for run in more if isinstance(run, Run))))

        return parent

    return define


async def test_a_body_written_with_def_starts_and_awaits_children(place: Place):
    """It blocks its thread, is suspended, and finds the same ones in its replay."""
    passes: list[int] = []
    async with place.life(in_def(passes)) as life:
        assert await (await life.flow.enqueue(1)).result(timeout="10s") == [10, 70, 80]
        assert len(await runs_of(life, "child")) == 3
    assert len(passes) >= 2


async def test_a_body_written_with_def_that_is_run_here_and_now_starts_runs(place: Place):
    """They are durable, and nobody's children."""
    async with place.life(in_def([])) as life:
        assert await life.flow.run(1) == [10, 70, 80]
        histories = [await one.history() for one in await runs_of(life, "child")]
    assert [history.parent for history in histories] == [None] * 3


async def test_block_on_is_for_code_written_with_def():
    """On the loop's thread it would never return; and a script has no loop to block on."""

    async def call() -> None:
        """Stand for a durable call."""

    with pytest.raises(NotInRun, match="write `await`"):
        block_on(call())
    with pytest.raises(NotInRun, match="write `await`"):
        await asyncio.to_thread(block_on, call())
