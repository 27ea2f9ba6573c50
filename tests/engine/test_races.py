"""What a body gives up, and what it leaves behind: races, leftover tasks, failures nobody saw."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from perdure import App, Status, constant, step
from perdure._engine import turns
from perdure.errors import RunFailed
from perdure.model.records import StepOutcome
from perdure.model.transitions import SaveCheckpoint
from tests.engine.families import Family
from tests.engine.places import (
    Halt,
    Place,
    eventually,
    finished,
    half_way,
    killed_and_finished,
    saves,
)

ONCE = step.options(max_attempts=1)


@pytest.fixture
def family() -> Family:
    return Family()


def flow_of(body: Callable[[], Any], **options: Any) -> Any:
    """Return what declares a workflow with this body."""

    def define(app: App) -> Any:
        return app.workflow(**options)(body)

    return define


class Race:
    """Steps `slow` and `fast`; the body goes on with the first to end and cancels the other."""

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.winners: list[str] = []
        self.halt = Halt()
        self.may_end = {"slow": asyncio.Event(), "fast": asyncio.Event()}
        self.may_end["fast"].set()

    async def run(self, name: str) -> str:
        """Be one of the steps."""
        self.effects.append(name)
        try:
            await self.may_end[name].wait()
        except asyncio.CancelledError:
            self.effects.append(f"{name} given up")
            raise
        return name

    async def body(self) -> str:
        """Be the body."""
        tasks = [asyncio.create_task(step(name, self.run, name)) for name in ("slow", "fast")]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        winner = next(task for task in tasks if task in done).result()
        self.winners.append(winner)
        await self.halt()
        return winner


# --- races --------------------------------------------------------------------------------------


async def test_a_race_replays_with_the_same_winner(place: Place):
    """The loser is recorded as cancelled: a replay neither executes it nor lets it win."""
    race = Race()
    run = await half_way(place, flow_of(race.body), race.halt, given_up="slow")
    race.may_end["slow"].set()
    async with place.life(flow_of(race.body)) as life:
        assert await life.get(run).result(timeout="5s") == "fast"
        steps = {record.path: record.outcome for record in (await life.get(run).history()).steps}
    assert race.winners == ["fast", "fast"]
    assert race.effects == ["slow", "fast", "slow given up"]
    assert steps == {"slow": "cancelled", "fast": "ok"}


async def test_a_race_whose_loser_was_not_yet_recorded_has_the_same_winner(place: Place):
    """A kill between the winner's record and the loser's changes nothing but a repeated loser."""
    race = Race()
    async with place.life(flow_of(race.body)) as life:
        life.store.doomed_batch_is_applied = False
        life.store.doom = lambda batch: any(
            isinstance(item, SaveCheckpoint) and item.outcome is StepOutcome.CANCELLED
            for item in batch
        )
        run = await life.flow.enqueue()
        await asyncio.wait_for(life.store.died.wait(), 5)
        race.halt.is_open = True
        await life.kill()
    assert await finished(place, flow_of(race.body), run) == "fast"
    assert set(race.winners) == {"fast"}
    assert race.effects.count("fast") == 1
    assert race.effects.count("slow") == 2


async def test_a_race_whose_loser_ended_while_it_was_given_up_has_the_same_winner(place: Place):
    """A loser whose outcome was being written when the body gave it up does not win the replay."""
    race = Race()
    race.may_end["fast"].clear()
    gates = {"slow": asyncio.Event(), "fast": asyncio.Event()}
    async with place.life(flow_of(race.body)) as life:
        life.store.keeps = lambda batch: next(
            (gates[path] for path in gates if saves(path)(batch)), None
        )
        run = await life.flow.enqueue()
        await eventually(lambda: race.effects == ["slow", "fast"])
        race.may_end["fast"].set()
        await asyncio.wait_for(life.store.kept.wait(), 5)
        life.store.kept.clear()
        race.may_end["slow"].set()
        gates["fast"].set()
        await asyncio.wait_for(life.store.kept.wait(), 5)
        await eventually(lambda: race.winners)
        gates["slow"].set()

        async def both() -> bool:
            return len((await run.history()).steps) == 2

        await eventually(both)
        race.halt.is_open = True
        await life.kill()
    assert await finished(place, flow_of(race.body), run) == "fast"
    assert race.winners == ["fast", "fast"]


async def test_wait_for_around_a_step_gives_it_up_again(place: Place):
    """A step cut off by asyncio.wait_for is not executed by a replay, which times out again."""
    halt = Halt()
    effects: list[str] = []

    async def work() -> None:
        effects.append("work")
        await asyncio.Event().wait()

    async def flow() -> str:
        try:
            await asyncio.wait_for(step("work", work), 0.02)
        except TimeoutError:
            effects.append("timed out")
        await halt()
        return "went on"

    run = await half_way(place, flow_of(flow), halt, given_up="work")
    assert await finished(place, flow_of(flow), run) == "went on"
    assert effects == ["work", "timed out", "timed out"]


async def test_a_step_given_up_during_its_back_off_is_not_tried_again(place: Place):
    """A step that lost its race between two attempts has lost it for good."""
    halt = Halt()
    effects: list[str] = []

    async def fails() -> str:
        effects.append("fails")
        raise ConnectionError

    async def wins() -> str:
        await eventually(lambda: effects)
        return "wins"

    async def flow() -> str:
        failing = step.options(max_attempts=9, backoff=constant("40ms"))("fails", fails)
        tasks = [asyncio.create_task(failing), asyncio.create_task(step("wins", wins))]
        done, [left] = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        await asyncio.wait([left])
        await halt()
        return done.pop().result()

    run = await half_way(place, flow_of(flow), halt, given_up="fails")
    async with place.client(flow_of(flow)) as client:
        [record, _] = (await client.store.history(run.id)).checkpoints

        async def is_due() -> bool:
            return await client.store.now() > record.ended_at + 40_000

        await eventually(is_due)
    assert await finished(place, flow_of(flow), run) == "wins"
    assert effects == ["fails"]


async def test_a_child_given_up_stays_given_up(place: Place, family: Family):
    """A wait for a child that lost its race loses it again, though the child has ended by then."""
    halt = Halt()
    winners: list[str] = []
    tries: list[int] = []

    async def flaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        return "step"

    async def body(_: Family, child: Any) -> str:
        kid = await child.enqueue(1)
        tasks = [
            asyncio.create_task(kid.result()),
            asyncio.create_task(step.options(backoff=constant("80ms"))("flaky", flaky)),
        ]
        done, [left] = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        await asyncio.wait([left])
        winners.append(next(str(task.result()) for task in tasks if task in done))
        await halt()
        return winners[-1]

    define = family.of(body)
    async with place.life(define) as life:
        run = await life.flow.enqueue()  # suspended in both waits, and resumed by the back-off
        await asyncio.wait_for(halt.reached.wait(), 5)

        async def is_given_up() -> bool:
            return "cancelled" in {record.outcome for record in (await run.history()).steps}

        await eventually(is_given_up)
        family.let(1)
        [child] = await life.app.runs(name="child")
        await child.result(timeout="5s")
        halt.is_open = True
        await life.kill()
    assert winners == ["step"]
    assert await finished(place, define, run) == "step"


async def test_as_completed_over_records_gives_the_same_results(place: Place):
    """A body that sums what comes, in whatever order, gets the same sum on a replay."""
    halt = Halt()

    async def work(number: int) -> int:
        await asyncio.sleep(0.001 * (3 - number))
        return number

    async def flow() -> int:
        total = 0
        for earliest in asyncio.as_completed([step("work", work, n) for n in range(4)]):
            total += await earliest
        await halt()
        return total

    assert await killed_and_finished(place, flow_of(flow), halt) == 6


async def test_what_branches_collect_has_the_same_order_on_replay(place: Place):
    """A list that branches append to as they finish is the same list on a replay."""
    halt = Halt()
    first_is_late = asyncio.Event()

    async def work(number: int) -> int:
        if number == 0:
            await first_is_late.wait()
        else:
            first_is_late.set()
        return number

    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    async def flow() -> list[int]:
        collected: list[int] = []

        async def branch(number: int) -> None:
            collected.append(await step("work", work, number))

        async with asyncio.TaskGroup() as group:
            for number in range(2):
                group.create_task(branch(number))
        await step("total", total, collected)
        await halt()
        return collected

    run = await half_way(place, flow_of(flow), halt)
    async with place.life(flow_of(flow)) as life:
        assert await life.get(run).result(timeout="300ms") == [1, 0]


async def test_outcomes_of_one_batch_are_given_one_after_the_other(place: Place):
    """A race of steps that are recorded together has one winner, live as on every replay."""
    race = Race()
    race.may_end["slow"].set()
    both = asyncio.Event()

    async def two_saves() -> bool:
        return len(race.effects) == 2

    async with place.life(flow_of(race.body)) as life:
        life.store.keeps = lambda batch: both if saves("slow")(batch) else None
        run = await life.flow.enqueue()
        await eventually(two_saves)
        both.set()
        await asyncio.wait_for(race.halt.reached.wait(), 5)
        race.halt.is_open = True
        await life.kill()
    assert await finished(place, flow_of(race.body), run) == race.winners[0]
    assert race.winners == ["slow", "slow"]


async def test_a_race_of_tasks_that_await_tasks_has_the_same_winner(place: Place):
    """What an outcome sets in motion comes to rest, however deep, before the next is given."""
    halt = Halt()
    winners: list[str] = []

    async def work(name: str) -> str:
        return name

    async def deep(name: str) -> str:
        return await asyncio.wait_for(asyncio.create_task(step("work", work, name)), 5)

    async def flow() -> str:
        racers = [asyncio.create_task(deep(name)) for name in ("a", "b", "c")]
        await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        winners.append("".join(task.result() for task in racers if task.done()))
        await asyncio.gather(*racers)
        await halt()
        return winners[0]

    assert await killed_and_finished(place, flow_of(flow), halt) == "a"
    assert winners == ["a", "a"]


async def test_an_outcome_waits_for_an_earlier_one_that_is_yet_to_be_asked_for(place: Place):
    """A branch that does I/O of its own before its step is given its outcome first all the same."""
    halt = Halt()
    first_is_done = asyncio.Event()
    order: list[str] = []

    async def early() -> str:
        return "early"

    async def late() -> str:
        await first_is_done.wait()
        return "late"

    async def flow() -> str:
        async def one() -> None:
            await asyncio.to_thread(lambda: None)
            order.append(await step("early", early))
            first_is_done.set()

        async def other() -> None:
            order.append(await step("late", late))

        async with asyncio.TaskGroup() as group:
            group.create_task(other())
            group.create_task(one())
        await halt()
        return " ".join(order[-2:])

    assert await killed_and_finished(place, flow_of(flow), halt) == "early late"
    assert order == ["early", "late"] * 2


async def test_a_record_that_nobody_asks_for_holds_up_no_other_for_long(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """A step that was removed from a branch in flight delays the rest by its patience, once."""
    monkeypatch.setattr(turns, "PATIENCE", 0.2)
    halt = Halt()
    executed: list[int] = []

    async def work(number: int) -> int:
        executed.append(number)
        return number

    def version(first: int) -> Callable[[App], Any]:
        async def flow() -> list[int]:
            async def branch(numbers: list[int]) -> int:
                for number in numbers:
                    await asyncio.sleep(0.001)
                    await step(f"work-{number}", work, number)
                return numbers[-1]

            busy = asyncio.create_task(asyncio.Event().wait())  # it might ask for what is recorded
            results = await asyncio.gather(branch([*range(first, 4)]), branch([*range(4, 8)]))
            await halt()
            busy.cancel()
            return results

        return flow_of(flow, version=str(first))

    run = await half_way(place, version(0), halt)
    assert await finished(place, version(3), run) == [3, 7]
    assert sorted(executed) == list(range(8))


# --- what a body leaves behind ------------------------------------------------------------------


async def test_a_failure_that_nobody_collects_fails_the_run(place: Place):
    """A step that failed in a task which the body never awaits fails the run."""

    async def fails() -> None:
        raise LookupError("unseen")

    async def flow() -> str:
        ended = asyncio.Event()
        task = asyncio.create_task(ONCE("fails", fails))
        task.add_done_callback(lambda _: ended.set())
        await ended.wait()
        return "done"

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match="unseen"):
            await run.result(timeout="5s")


@pytest.mark.parametrize("how", ["awaited", "gathered", "asked", "grouped"])
async def test_a_failure_that_the_body_collects_does_not(place: Place, how: str):
    """A body that awaited the failure, or asked for it, decides itself what it means."""

    async def fails() -> None:
        raise LookupError("seen")

    async def flow() -> str:
        if how == "grouped":
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(ONCE("fails", fails))
            except* LookupError:
                pass
            return "done"
        task = asyncio.create_task(ONCE("fails", fails))
        if how == "awaited":
            try:
                await task
            except LookupError:
                return "done"
        if how == "gathered":
            await asyncio.gather(task, return_exceptions=True)
        if how == "asked":
            await asyncio.wait([task])
            assert isinstance(task.exception(), LookupError)
        return "done"

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "done"


async def test_a_failure_yet_to_be_collected_is_no_noise(
    place: Place, family: Family, caplog: pytest.LogCaptureFixture
):
    """A suspension leaves no task behind whose error asyncio would complain about."""

    async def fails() -> None:
        raise LookupError("for later")

    async def body(_: Family, child: Any) -> str:
        failing = asyncio.create_task(ONCE("fails", fails))
        await (await child.enqueue(1)).result()
        try:
            await failing
        except LookupError as error:
            return str(error)
        return "not reached"

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        family.let(1)
        assert await run.result(timeout="5s") == "for later"
    gc.collect()
    assert "never retrieved" not in caplog.text
    assert family.passes == 2


async def test_leftover_tasks_end_before_the_outcome_is_written(place: Place):
    """Tasks that the body leaves behind are cancelled and awaited; nothing of it runs on."""
    effects: list[str] = []
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            effects.append("cleaned")

    async def foreign() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            effects.append("foreign cleaned")

    left: list[asyncio.Task[Any]] = []

    async def flow() -> str:
        left.append(asyncio.create_task(step("work", work)))
        left.append(asyncio.create_task(foreign()))
        await began.wait()
        return "done"

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "done"
        assert sorted(effects) == ["cleaned", "foreign cleaned"]
        assert all(task.cancelled() for task in left)
        [work_record] = (await run.history()).steps
    assert work_record.outcome == "cancelled"


async def test_a_leftover_wait_ends_with_its_body(place: Place, family: Family):
    """A body that returns while a branch of it waits for a child completes, and does not wait."""

    async def body(_: Family, child: Any) -> str:
        kid = await child.enqueue(1)
        asyncio.create_task(kid.result())  # noqa: RUF006 -- left behind on purpose
        await asyncio.sleep(0)
        return "done"

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "done"
        [child] = await life.app.runs(name="child")
        assert await child.status() in {Status.RUNNING, Status.QUEUED}
        family.let(1)


async def test_a_body_cancelled_from_inside_fails(place: Place):
    """A CancelledError that nobody outside asked for fails the run, and says so."""

    async def flow() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match="cancelled from inside"):
            await run.result(timeout="5s")
