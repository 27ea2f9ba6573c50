"""A body that waits leaves its worker: nothing of it stays behind, and any worker resumes it."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from perdure import App, Status, carry, constant, gather, step
from perdure._engine import activation as activations
from perdure.errors import RunFailed
from perdure.model.records import RunQuery, WaitKind
from perdure.model.transitions import Settle, Suspended, Transition
from tests.engine.families import Family, one_child
from tests.engine.places import Life, Place, eventually


@pytest.fixture
def family() -> Family:
    return Family()


def tasks_of(run: Any) -> list[asyncio.Task[Any]]:
    """Return the root task of a run, wherever it executes."""
    return [task for task in asyncio.all_tasks() if task.get_name() == run.id]


async def waits_of(life: Life, run: Any) -> list[tuple[str, str]]:
    """Return the run's wake conditions as stored."""
    history = await life.store.history(run.id)
    return [(wait.kind, wait.key) for wait in history.waits]


def is_suspension(transition: Transition) -> bool:
    """Tell whether it settles a run as suspended."""
    return isinstance(transition, Settle) and isinstance(transition.verdict, Suspended)


# --- the three reasons to wait -----------------------------------------------------------------


async def test_a_retry_time_is_waited_for_without_a_task(place: Place):
    """Between a step's attempts the run is `waiting` for retry, with a row and without a task."""
    tries: list[int] = []

    def define(app: App) -> Any:
        @app.step(max_attempts=2, backoff=constant("150ms"))
        async def flaky() -> str:
            tries.append(1)
            if len(tries) == 1:
                raise ConnectionError("first")
            return "second"

        @app.workflow
        async def flow() -> str:
            return await flaky()

        return flow

    async with place.life(define) as life:
        before = asyncio.all_tasks()
        run = await life.flow.enqueue()
        history = await life.reaches(run, "waiting", "retry")
        assert history.due_at == history.steps[0].due_at
        assert await waits_of(life, run) == [(WaitKind.RETRY, "flaky")]
        await eventually(lambda: asyncio.all_tasks() == before)
        assert await run.result(timeout="5s") == "second"
    assert len(tries) == 2


async def test_a_delay_is_waited_for(place: Place):
    """A delayed run is `waiting` for delay and never starts before its due time."""
    started: list[str] = []

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> str:
            started.append("now")
            return "done"

        return flow

    async with place.life(define) as life:
        run = await life.flow.delay("80ms")
        history = await life.reaches(run, "waiting", "delay")
        assert not started
        assert await run.result(timeout="5s") == "done"
        after = await run.history()
        assert after.started_at >= history.due_at
        assert (history.due_at - history.created_at).total_seconds() == 0.08


async def test_a_child_is_waited_for_without_a_task(place: Place, family: Family):
    """A parent that awaits a child is `waiting` for child, with a row and without a task."""
    async with place.life(family.of(one_child)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await eventually(lambda: not tasks_of(run))
        [(kind, child_id)] = await waits_of(life, run)
        assert kind == WaitKind.CHILD
        assert await life.app.get(child_id).status() == Status.RUNNING
        family.let(1)
        assert await run.result(timeout="5s") == 10
    assert family.effects == ["pass", "child 1", "pass"]


# --- slots -------------------------------------------------------------------------------------


async def test_a_waiting_run_gives_its_slot_to_another(place: Place):
    """With concurrency 1 another run is executed while the first waits for its next attempt."""
    order: list[str] = []

    def define(app: App) -> Any:
        @app.step(max_attempts=2, backoff=constant("250ms"))
        async def flaky() -> None:
            order.append("flaky")
            if order.count("flaky") == 1:
                raise ConnectionError

        @app.workflow
        async def slow() -> None:
            await flaky()

        @app.workflow
        async def quick() -> None:
            order.append("quick")

        return slow, quick

    async with place.life(define, concurrency=1) as life:
        slow, quick = life.flow
        waiting = await slow.enqueue()
        await life.reaches(waiting, "waiting", "retry")
        await (await quick.enqueue()).result(timeout="5s")
        assert await waiting.status() == Status.WAITING
        await waiting.result(timeout="5s")
    assert order == ["flaky", "quick", "flaky"]


async def test_generations_share_one_slot(place: Place):
    """A parent, its children and theirs finish on one worker of concurrency 1."""

    def define(app: App) -> Any:
        @app.workflow
        async def tree(depth: int) -> int:
            if not depth:
                return 1
            kids = [await tree.enqueue(depth - 1) for _ in range(2)]
            return sum(await gather(*kids))

        return tree

    async with place.life(define, concurrency=1) as life:
        run = await life.flow.enqueue(3)
        assert await run.result(timeout="10s") == 8


async def test_a_foreign_await_holds_the_slot(place: Place, family: Family):
    """A body one of whose branches is in foreign I/O stays, though another branch waits."""
    io = asyncio.Event()

    async def body(_: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        _, result = await asyncio.gather(io.wait(), kid.result())
        return result

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await eventually(lambda: "child 1" in family.effects)
        await family.outwait(life)
        assert await run.status() == Status.RUNNING
        io.set()
        await life.reaches(run, "waiting", "child")
        family.let(1)
        assert await run.result(timeout="5s") == 10


async def test_an_executing_step_holds_the_slot(place: Place, family: Family):
    """A body is not suspended while a step of another branch executes; the step runs once."""
    executing = asyncio.Event()

    async def long() -> None:
        family.effects.append("step")
        await executing.wait()

    async def body(_: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        _, result = await asyncio.gather(step("long", long), kid.result())
        return result

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await eventually(lambda: {"step", "child 1"} <= set(family.effects))
        await family.outwait(life)
        assert await run.status() == Status.RUNNING
        executing.set()
        await life.reaches(run, "waiting", "child")
        family.let(1)
        assert await run.result(timeout="5s") == 10
    assert family.effects.count("step") == 1


async def test_a_carried_thread_holds_the_slot(place: Place, family: Family):
    """A body is not suspended while a thread of its own is at work."""
    working = threading.Event()

    async def body(family: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        thread = threading.Thread(target=carry(working.wait), args=(10,))
        thread.start()
        return await kid.result()

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await eventually(lambda: "child 1" in family.effects)
        await family.outwait(life)
        assert await run.status() == Status.RUNNING
        working.set()
        await life.reaches(run, "waiting", "child")
        family.let(1)
        assert await run.result(timeout="5s") == 10


# --- who resumes -------------------------------------------------------------------------------


async def test_another_worker_resumes_when_the_first_has_stopped(place: Place, family: Family):
    """A run suspended on a worker that stopped in order is resumed by the next one."""
    async with place.life(family.of(one_child)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        first = life.worker.worker_id
        await life.worker.stop("0s")
    family.let(1)
    async with place.life(family.of(one_child)) as life:
        assert await life.get(run).result(timeout="5s") == 10
        assert (await life.store.get(run.id)).worker_id == life.worker.worker_id != first


async def test_another_worker_resumes_when_the_first_was_killed(place: Place, family: Family):
    """A suspended run needs no rescue: it holds nothing of the worker that died, and no crash."""
    async with place.life(family.of(one_child)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await life.kill()
    family.let(1)
    async with place.life(family.of(one_child)) as life:
        assert await life.get(run).result(timeout="5s") == 10
        history = await life.get(run).history()
    assert history.attempts == ()
    assert history.crashes == 0


async def test_a_worker_with_a_free_slot_resumes_what_a_busy_one_suspended(
    place: Place, family: Family
):
    """A run suspended on a worker whose slot is taken since is resumed by another live worker."""
    busy = asyncio.Event()

    def define(app: App) -> Any:
        parent = family.of(one_child)(app)

        @app.workflow
        async def block() -> None:
            family.effects.append("block")
            await busy.wait()

        return parent, block

    async with (
        place.life(define, only=["child"]),
        place.life(define, only=["parent", "block"], concurrency=1) as first,
    ):
        parent, block = first.flow
        run = await parent.enqueue()
        await first.reaches(run, "waiting", "child")
        await block.enqueue()
        await eventually(lambda: "block" in family.effects)
        async with place.life(define, only=["parent"]) as second:
            family.let(1)
            assert await run.result(timeout="5s") == 10
            assert (await first.store.get(run.id)).worker_id == second.worker.worker_id
        busy.set()


async def test_a_child_that_ends_during_the_suspension_wakes_its_parent(
    place: Place, family: Family
):
    """No wake-up is lost when the child ends after the body went idle and before that is stored."""
    async with (
        place.life(family.of(one_child), only=["child"]) as other,
        place.life(family.of(one_child), only=["parent"]) as life,
    ):
        let_go = asyncio.Event()
        life.store.keeps = lambda batch: let_go if any(map(is_suspension, batch)) else None
        run = await life.flow.enqueue()
        await life.store.kept.wait()
        family.let(1)
        [child] = await other.app.runs(name="child")
        await child.result(timeout="5s")
        let_go.set()
        assert await run.result(timeout="5s") == 10
    assert family.passes == 2


# --- what a body may have around a wait --------------------------------------------------------


async def test_gather_with_return_exceptions_around_waits(place: Place, family: Family):
    """gather(return_exceptions=True) does not take the suspension for an outcome."""

    async def fails() -> None:
        raise ValueError("of its own")

    async def body(_: Family, child: Any) -> list[Any]:
        kids = [await child.enqueue(n) for n in (1, 2)]
        results = await asyncio.gather(
            *(kid.result() for kid in kids),
            step.options(max_attempts=1)("fails", fails),
            return_exceptions=True,
        )
        return [repr(result) for result in results]

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        family.let(1, 2)
        assert await run.result(timeout="5s") == ["10", "20", "ValueError('of its own')"]


async def test_a_task_group_around_waits(place: Place, family: Family):
    """A TaskGroup whose tasks wait is suspended as a whole and finds its results later."""

    async def wait_for(child: Any, number: int) -> int:
        return await (await child.enqueue(number)).result()

    async def body(_: Family, child: Any) -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait_for(child, number)) for number in (1, 2, 3)]
        return [task.result() for task in tasks]

    async with place.life(family.of(body)) as life:
        before = asyncio.all_tasks()
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await eventually(lambda: not tasks_of(run))
        family.let(1, 2, 3)
        assert await run.result(timeout="5s") == [10, 20, 30]
        await eventually(lambda: asyncio.all_tasks() == before)
    assert sorted(family.effects)[:3] == ["child 1", "child 2", "child 3"]


async def test_a_failure_in_a_task_group_cancels_the_waits_beside_it(place: Place, family: Family):
    """A failing branch ends the group's waits at once, without a suspension."""

    async def fails() -> None:
        raise ValueError("branch")

    async def body(_: Family, child: Any) -> str:
        kid = await child.enqueue(1)
        caught = ""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(kid.result())
                group.create_task(step.options(max_attempts=1)("fails", fails))
        except* ValueError as group_of_errors:
            caught = repr(group_of_errors.exceptions)
        return caught

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "(ValueError('branch'),)"
        family.let(1)
    assert family.passes == 1


async def test_a_shielded_wait_is_suspended_too(place: Place, family: Family):
    """asyncio.shield keeps no task of a suspended body alive."""

    async def body(_: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        return await asyncio.shield(asyncio.create_task(kid.result(), name="shielded"))

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await eventually(
            lambda: "shielded" not in {task.get_name() for task in asyncio.all_tasks()}
        )
        family.let(1)
        assert await run.result(timeout="5s") == 10


async def test_finally_around_a_wait_runs_at_each_suspension(place: Place, family: Family):
    """Local code in `finally` runs whenever the body leaves, and once more when it ends."""

    async def body(family: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        try:
            return await kid.result()
        finally:
            family.effects.append("finally")

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await eventually(lambda: family.effects.count("finally") == 1)
        family.let(1)
        assert await run.result(timeout="5s") == 10
    assert family.effects.count("finally") == 2


async def test_a_step_in_finally_is_not_executed_by_a_suspension(place: Place, family: Family):
    """A durable call in `finally` does nothing while the body leaves; it runs once, at the end."""

    async def clean() -> None:
        family.effects.append("clean")

    async def body(family: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        try:
            return await kid.result()
        finally:
            await step("clean", clean)

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await eventually(lambda: not tasks_of(run))
        assert "clean" not in family.effects
        family.let(1)
        assert await run.result(timeout="5s") == 10
        steps = [record.path for record in (await run.history()).steps]
    assert family.effects.count("clean") == 1
    assert steps == ["child", "result", "clean"]


async def test_except_base_exception_that_raises_again(place: Place, family: Family):
    """`except BaseException` sees the suspension and may let it pass."""

    async def body(family: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        try:
            return await kid.result()
        except BaseException as error:
            family.effects.append(f"saw {isinstance(error, asyncio.CancelledError)}")
            raise

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        family.let(1)
        assert await run.result(timeout="5s") == 10
    assert family.effects.count("saw True") == 1


async def test_except_exception_does_not_see_the_suspension(place: Place, family: Family):
    """`except Exception` around a wait catches the child's failure and never a suspension."""

    async def body(family: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        try:
            return await kid.result()
        except Exception:
            family.effects.append("caught")
            raise

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        family.let(1)
        assert await run.result(timeout="5s") == 10
    assert "caught" not in family.effects


async def test_a_result_returned_over_a_suspension_is_refused(
    place: Place, family: Family, caplog: pytest.LogCaptureFixture
):
    """A body that swallows the suspension and returns is reported; what it returned is not kept."""

    async def body(_: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        try:
            return await kid.result()
        except BaseException:  # noqa: BLE001 -- what is tested
            return -1

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await eventually(lambda: "after it was told to leave" in caplog.text)
        assert await run.status() == Status.WAITING
        family.let(1)
        assert await run.result(timeout="5s") == 10
    [record] = [record for record in caplog.records if record.name == "perdure.run"]
    assert record.levelno == logging.ERROR
    assert run.id in record.getMessage()


async def test_a_step_called_over_a_suspension_is_not_executed(
    place: Place, family: Family, caplog: pytest.LogCaptureFixture
):
    """A body that swallows the suspension and goes on can do nothing durable."""

    async def refund() -> None:
        family.effects.append("refund")

    async def body(_: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        try:
            return await kid.result()
        except BaseException:
            await step("refund", refund)
            await child.enqueue(2)
            raise

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await eventually(lambda: not tasks_of(run))
        family.let(1)
        assert await run.result(timeout="5s") == 10
    assert family.effects == ["pass", "child 1", "pass"]


async def test_a_body_that_stays_over_a_suspension_gives_its_slot_up(
    place: Place,
    family: Family,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    """A body that does not leave in time is reported, and its run is resumed all the same."""
    monkeypatch.setattr(activations, "UNWIND_LIMIT", 0.05)
    stays = asyncio.Event()

    async def body(family: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        try:
            return await kid.result()
        except BaseException:
            while not stays.is_set():
                try:
                    await stays.wait()
                except asyncio.CancelledError:
                    family.effects.append("stayed")
            raise

    async with place.life(family.of(body), concurrency=1) as life:
        run = await life.flow.enqueue()
        await eventually(lambda: "after it was told to leave" in caplog.text)
        family.let(1)
        assert await run.result(timeout="5s") == 10
        stays.set()
        await eventually(lambda: not tasks_of(run))
    assert "stayed" in family.effects


async def test_a_body_that_spins_over_a_suspension_freezes_nobody(
    place: Place, family: Family, monkeypatch: pytest.MonkeyPatch
):
    """A body that catches the suspension and tries again at once leaves the loop its turns."""
    monkeypatch.setattr(activations, "UNWIND_LIMIT", 0.05)
    turns = 0
    seen: set[int] = set()
    enough = asyncio.Event()

    async def body(_: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        for _ in range(100_000):
            try:
                return await kid.result()
            except BaseException:
                seen.add(turns)
                if enough.is_set():
                    raise
        return -1

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    taking = asyncio.ensure_future(take_turns())
    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await eventually(lambda: len(seen) > 10)
        family.let(1)
        enough.set()
        assert await run.result(timeout="5s") == 10
    taking.cancel()


async def test_a_body_written_with_def_leaves_its_thread(place: Place):
    """A sync body that waits is unwound like any other: its thread ends while the run waits."""
    effects: list[str] = []

    def flaky() -> str:
        effects.append("flaky")
        if effects.count("flaky") == 1:
            raise ConnectionError
        return "second"

    def define(app: App) -> Any:
        @app.workflow
        def flow() -> str:
            try:
                return step.options(backoff=constant("150ms")).sync("flaky", flaky)
            finally:
                effects.append("left")

        return flow

    async with place.life(define, concurrency=1) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "retry")
        await eventually(lambda: effects == ["flaky", "left"])
        assert await run.result(timeout="5s") == "second"
    assert effects == ["flaky", "left"] * 2


async def test_a_durable_wait_inside_asyncio_timeout_is_an_error(place: Place, family: Family):
    """A durable wait inside `asyncio.timeout` fails and names `timeout=`: it would start again."""

    async def body(_: Family, child: Any) -> int:
        kid = await child.enqueue(1)
        async with asyncio.timeout(60):
            return await kid.result()

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match="timeout="):
            await run.result(timeout="5s")
        family.let(1)


# --- joins and wake-ups ------------------------------------------------------------------------


async def test_gather_of_children_is_one_join(place: Place, family: Family):
    """perdure.gather wakes its parent once, when the last child has ended, in the order given."""

    async def body(_: Family, child: Any) -> list[int]:
        return await gather(*[await child.enqueue(n) for n in range(1, 21)])

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        history = await life.store.history(run.id)
        assert len({wait.join for wait in history.waits}) == 1
        for number in range(20, 0, -1):
            family.let(number)
            ended = {wait.key for wait in history.waits}
            await eventually(lambda: _ended(life, ended, 21 - number))  # noqa: B023
        assert await run.result(timeout="5s") == [n * 10 for n in range(1, 21)]
    assert family.passes == 2


async def _ended(life: Life, runs: set[str], number: int) -> bool:
    return len(await life.store.endings(runs)) >= number


async def test_each_of_several_waits_wakes_alone(place: Place, family: Family):
    """asyncio.gather of results wakes its parent for each child, so that each branch goes on."""

    async def branch(family: Family, kid: Any) -> int:
        result = await kid.result()
        family.effects.append(f"branch {result}")
        return result

    async def body(family: Family, child: Any) -> list[int]:
        kids = [await child.enqueue(n) for n in (1, 2)]
        return list(await asyncio.gather(*(branch(family, kid) for kid in kids)))

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        family.let(2)
        await eventually(lambda: "branch 20" in family.effects)
        assert "branch 10" not in family.effects
        family.let(1)
        assert await run.result(timeout="5s") == [10, 20]


async def test_a_body_that_takes_long_to_come_back_is_kept_longer(
    place: Place, family: Family, monkeypatch: pytest.MonkeyPatch
):
    """While its children end one soon after the other it is not replayed for each."""
    monkeypatch.setattr(activations, "IDLE_GRACE", 0.0)
    monkeypatch.setattr(activations, "REPLAY_OF_A_WAIT", 60.0)
    monkeypatch.setattr(activations, "GRACE_LIMIT", 60.0)

    async def body(_: Family, child: Any) -> int:
        kids = [await child.enqueue(n) for n in range(1, 11)]
        return sum(await asyncio.gather(*(kid.result() for kid in kids)))

    async with place.life(family.of(body), concurrency=20) as life:
        run = await life.flow.enqueue()

        async def have_ended(number: int) -> bool:
            completed = RunQuery(statuses=(Status.COMPLETED,), parent_id=run.id)
            return len(await life.store.list_runs(completed)) == number

        for number in range(1, 11):
            family.let(number)
            await eventually(lambda: have_ended(number))  # noqa: B023
        assert await run.result(timeout="10s") == sum(range(1, 11)) * 10
    assert family.passes == 1


async def test_wake_ups_by_two_hundred_children_coalesce(place: Place, family: Family):
    """A parent of 200 children that end one after another is replayed a bounded number of times."""

    async def body(_: Family, child: Any) -> int:
        kids = [await child.enqueue(n) for n in range(1, 201)]
        return sum(await asyncio.gather(*(kid.result() for kid in kids)))

    async with place.life(family.of(body), concurrency=300) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        kids = {wait.key for wait in (await life.store.history(run.id)).waits}

        async def is_waiting() -> bool:
            return (await life.store.get(run.id)).status == Status.WAITING

        for number in range(1, 201):
            await eventually(is_waiting)  # the worst moment for the next child to end
            family.let(number)
            await eventually(lambda: _ended(life, kids, number))  # noqa: B023
        assert await run.result(timeout="10s") == sum(range(1, 201)) * 10
    assert family.passes <= 100
