"""Code that changes while its runs are in flight: what is safe, and what pauses the run."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure import App, Status, constant, step
from tests.engine.places import Define, Halt, Place, eventually, finished, half_way

Act = Callable[..., Awaitable[Any]]
Body = Callable[["Shop"], Awaitable[Any]]


class Shop:
    """A workflow `order` in two versions: the first is killed at its halt, the second goes on."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.effects: list[str] = []
        self.halt = Halt()

    def act(self, name: str, *args: Any) -> Awaitable[str]:
        """Call a step that notes its call and returns a value of its own."""

        async def do(*given: Any) -> str:
            done = " ".join(map(str, (name, *given)))
            self.effects.append(done)
            return done.upper()

        return step(name, do, *args)

    def version(self, body: Body, version: str) -> Define:
        """Return what declares the workflow with this body."""

        def define(app: App) -> Any:
            @app.workflow(name="order", version=version)
            async def order() -> Any:
                return await body(self)

            @app.workflow
            async def ping() -> None: ...

            self.ping = ping
            return order

        return define

    async def edited(self, before: Body, after: Body) -> Any:
        """Run half-way with one body, go on with another; return the result."""
        run = await half_way(self.place, self.version(before, "1"), self.halt)
        self.effects.append("killed")
        return await finished(self.place, self.version(after, "2"), run)

    async def mismatched(self, before: Body, after: Body) -> tuple[Any, Any]:
        """Do the same where the second body does not fit; return the run and its history."""
        run = await half_way(self.place, self.version(before, "1"), self.halt)
        self.effects.append("killed")
        async with self.place.life(self.version(after, "2")) as life:
            return run, await life.reaches(run, "paused")


@pytest.fixture
def shop(place: Place) -> Shop:
    return Shop(place)


# --- safe ---------------------------------------------------------------------------------------


async def test_inserting_a_step_of_another_name_is_safe(shop: Shop):
    """A step inserted before recorded ones is executed; they are found."""

    async def before(shop: Shop) -> Any:
        got = [await shop.act("pick"), await shop.act("pack")]
        await shop.halt()
        return [*got, await shop.act("ship")]

    async def after(shop: Shop) -> Any:
        return [await shop.act(name) for name in ("greet", "pick", "weigh", "pack", "ship")]

    assert await shop.edited(before, after) == ["GREET", "PICK", "WEIGH", "PACK", "SHIP"]
    assert shop.effects == ["pick", "pack", "killed", "greet", "weigh", "ship"]


async def test_removing_a_step_is_safe_and_reported(shop: Shop, caplog: pytest.LogCaptureFixture):
    """A recorded step that the code no longer asks for is named when the run ends."""

    async def before(shop: Shop) -> Any:
        got = [await shop.act("pick"), await shop.act("weigh"), await shop.act("pack")]
        await shop.halt()
        return got

    async def after(shop: Shop) -> Any:
        return [await shop.act("pick"), await shop.act("pack")]

    assert await shop.edited(before, after) == ["PICK", "PACK"]
    assert shop.effects == ["pick", "weigh", "pack", "killed"]
    assert "its code did not ask for" in caplog.text
    assert "steps=weigh" in caplog.text


async def test_reordering_steps_of_different_names_is_safe(shop: Shop):
    """Recorded steps are found in whatever order the code now asks for them."""

    async def before(shop: Shop) -> Any:
        got = [await shop.act("a"), await shop.act("b"), await shop.act("c")]
        await shop.halt()
        return got

    async def after(shop: Shop) -> Any:
        return [await shop.act("c"), await shop.act("a"), await shop.act("b")]

    assert await shop.edited(before, after) == ["C", "A", "B"]
    assert shop.effects == ["a", "b", "c", "killed"]


async def test_reordering_a_gather_is_safe(shop: Shop):
    """Calls of one name in a gather are found by their arguments, in whatever order."""

    async def before(shop: Shop) -> Any:
        got = await asyncio.gather(*(shop.act("fetch", n) for n in range(4)))
        await shop.halt()
        return got

    async def after(shop: Shop) -> Any:
        return await asyncio.gather(*(shop.act("fetch", n) for n in (3, 1, 0, 2, 4)))

    assert await shop.edited(before, after) == [
        "FETCH 3",
        "FETCH 1",
        "FETCH 0",
        "FETCH 2",
        "FETCH 4",
    ]
    assert shop.effects[-2:] == ["killed", "fetch 4"]


async def test_a_longer_loop_is_safe(shop: Shop):
    """A loop that grew executes what is new behind what is recorded."""

    async def before(shop: Shop) -> Any:
        got = [await shop.act("mail", n) for n in range(2)]
        await shop.halt()
        return got

    async def after(shop: Shop) -> Any:
        return [await shop.act("mail", n) for n in range(4)]

    assert len(await shop.edited(before, after)) == 4
    assert shop.effects == ["mail 0", "mail 1", "killed", "mail 2", "mail 3"]


async def test_a_renamed_step_is_found_by_its_old_name(place: Place):
    """`was=` finds the record of the old name, with its arguments and its count of calls."""
    effects: list[str] = []
    halt = Halt()

    def old(app: App) -> Any:
        @app.step
        async def charge(cents: int) -> str:
            effects.append(f"charge {cents}")
            return f"paid {cents}"

        @app.workflow(name="order")
        async def order() -> list[str]:
            paid = [await charge(cents) for cents in (1, 2, 2)]
            await halt()
            return paid

        return order

    def new(app: App) -> Any:
        @app.step(was="charge")
        async def charge_card(cents: int) -> str:
            effects.append(f"charge_card {cents}")
            return f"card {cents}"

        @app.workflow(name="order")
        async def order() -> list[str]:
            return [await charge_card(cents) for cents in (1, 2, 2, 2)]

        return order

    run = await half_way(place, old, halt)
    assert await finished(place, new, run) == ["paid 1", "paid 2", "paid 2", "card 2"]
    assert effects == ["charge 1", "charge 2", "charge 2", "charge_card 2"]


async def test_a_renamed_step_goes_on_with_its_attempts(place: Place):
    """A step renamed during its back-off keeps its attempts and its due time."""
    effects: list[str] = []

    def version(name: str, was: str | None) -> Define:
        def define(app: App) -> Any:
            @app.step(name=name, was=was, max_attempts=2, backoff=constant("100ms"))
            async def charge() -> str:
                effects.append(name)
                if len(effects) == 1:
                    raise ConnectionError
                return name

            @app.workflow(name="order")
            async def order() -> str:
                return await charge()

            return order

        return define

    async with place.life(version("old", None)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "retry")
        await life.kill()
    async with place.life(version("new", "old")) as life:
        assert await life.get(run).result(timeout="5s") == "new"
        [charge] = (await life.get(run).history()).steps
    assert effects == ["old", "new"]
    assert charge.tries == 2


async def test_a_renamed_step_without_was_is_new_work(shop: Shop):
    """Without `was=` a renamed step is executed anew and the old record is left over."""

    async def before(shop: Shop) -> Any:
        await shop.act("old")
        await shop.halt()

    async def after(shop: Shop) -> Any:
        return await shop.act("new")

    assert await shop.edited(before, after) == "NEW"
    assert shop.effects == ["old", "killed", "new"]


# --- a mismatch ---------------------------------------------------------------------------------


async def charges(shop: Shop) -> Any:
    """Charge 100, in the old code."""
    paid = await shop.act("charge", "o1", 100)
    await shop.halt()
    return [paid, await shop.act("ship")]


async def charges_more(shop: Shop) -> Any:
    """Charge 200 in its place, in the new code."""
    return [await shop.act("charge", "o1", 200), await shop.act("ship")]


async def test_changed_arguments_of_a_step_pause_the_run(shop: Shop):
    """A mismatch names the step, what is recorded and what is asked; nothing is executed."""
    _, history = await shop.mismatched(charges, charges_more)
    assert history.reason == "mismatch"
    for part in ("Mismatch", "'charge'", "'order'", 'charge("o1",100)', 'charge("o1",200)'):
        assert part in history.error
    assert "test_edits.py:" in history.error
    assert shop.effects == ["charge o1 100", "killed"]


async def test_a_call_of_the_same_name_inserted_before_pauses_the_run(shop: Shop):
    """A new call where another of that name is recorded cannot be told from a changed one."""

    async def after(shop: Shop) -> Any:
        await shop.act("charge", "fee", 5)
        return await charges(shop)

    _, history = await shop.mismatched(charges, after)
    assert history.reason == "mismatch"
    assert shop.effects == ["charge o1 100", "killed"]


async def test_a_mismatch_goes_on_with_fitting_code(shop: Shop):
    """The paused run resumes when a worker with another version registers, repeating nothing."""
    run, _ = await shop.mismatched(charges, charges_more)

    async def mended(shop: Shop) -> Any:
        return [await shop.act("charge", "o1", 100), await shop.act("wrap"), await shop.act("ship")]

    result = await finished(shop.place, shop.version(mended, "3"), run)
    assert result == ["CHARGE O1 100", "WRAP", "SHIP"]
    assert shop.effects == ["charge o1 100", "killed", "wrap", "ship"]


async def test_a_mismatch_goes_on_with_a_fitting_worker_that_was_there_before(shop: Shop):
    """During a deployment a live worker with the old code takes over what the new one paused."""
    blocking, let_go = asyncio.Event(), asyncio.Event()

    def old(app: App) -> Any:
        @app.workflow
        async def block() -> None:
            blocking.set()
            await let_go.wait()

        shop.version(charges, "1")(app)
        return block

    async with shop.place.life(old, concurrency=1) as first:
        await first.flow.enqueue()
        await blocking.wait()
        run = await half_way(shop.place, shop.version(charges, "1"), shop.halt)
        async with shop.place.life(shop.version(charges_more, "2")) as new:
            await new.reaches(run, "paused")
            let_go.set()
            assert await first.get(run).result(timeout="300ms") == ["CHARGE O1 100", "SHIP"]


async def test_a_mismatch_is_not_tried_again_with_the_same_code(shop: Shop):
    """A worker with the version that did not fit leaves the run paused."""
    run, _ = await shop.mismatched(charges, charges_more)
    async with shop.place.life(shop.version(charges_more, "2")) as life:
        await (await shop.ping.enqueue()).result(timeout="5s")
        assert await life.get(run).status() == Status.PAUSED
        assert (await life.store.get(run.id)).epoch == 2


async def test_a_body_that_catches_a_mismatch_does_nothing_more(shop: Shop):
    """After a mismatch no step is executed, whatever the body catches, and the run is paused."""

    async def after(shop: Shop) -> Any:
        try:
            await shop.act("charge", "o1", 200)
        except Exception:  # noqa: BLE001 -- what is tested
            await shop.act("refund")
        return "handled"

    _, history = await shop.mismatched(charges, after)
    assert history.reason == "mismatch"
    assert shop.effects == ["charge o1 100", "killed"]


async def test_a_mismatch_in_a_task_nobody_awaits_pauses_the_run(
    shop: Shop, caplog: pytest.LogCaptureFixture
):
    """A mismatch in a branch ends the body, though it waits for something else."""

    async def before(shop: Shop) -> Any:
        task = asyncio.create_task(_charge_in_branch(shop, 100))
        await task
        await shop.halt()

    async def after(shop: Shop) -> Any:
        task = asyncio.create_task(_charge_in_branch(shop, 200))
        await asyncio.Event().wait()
        return task

    _, history = await shop.mismatched(before, after)
    assert history.reason == "mismatch"
    gc.collect()
    assert "never retrieved" not in caplog.text


async def _charge_in_branch(shop: Shop, cents: int) -> Any:
    return await shop.act("charge", cents)


async def test_a_mismatch_in_a_task_group_pauses_the_run(shop: Shop):
    """A mismatch inside a TaskGroup pauses the run as well."""

    async def charge_in_group(shop: Shop, cents: int) -> Any:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_charge_in_branch(shop, cents))
        return task.result()

    async def before(shop: Shop) -> Any:
        await charge_in_group(shop, 100)
        await shop.halt()

    async def after(shop: Shop) -> Any:
        return await charge_in_group(shop, 200)

    _, history = await shop.mismatched(before, after)
    assert history.reason == "mismatch"
    assert shop.effects == ["charge 100", "killed"]


async def test_changed_arguments_of_a_child_pause_the_run(place: Place):
    """A child started with other input than the recorded one is a mismatch, and is not started."""
    halt = Halt()

    def version(number: int) -> Define:
        def define(app: App) -> Any:
            @app.workflow
            async def child(number: int) -> int:
                return number

            @app.workflow(name="parent", version=str(number))
            async def parent() -> int:
                kid = await child.enqueue(number)
                await halt()
                return await kid.result()

            return parent

        return define

    run = await half_way(place, version(1), halt)
    async with place.life(version(2)) as life:
        history = await life.reaches(run, "paused")
        assert history.reason == "mismatch"
        assert "'child'" in history.error
        assert len(await life.app.runs(name="child")) == 1


async def test_a_paused_mismatch_can_be_cancelled(shop: Shop):
    """Nobody needs to write code for a run that is not wanted any more."""
    run, _ = await shop.mismatched(charges, charges_more)
    async with shop.place.client(shop.version(charges_more, "2")) as client:
        assert await client.get(run).cancel() == Status.CANCELLED
        await eventually(lambda: client.get(run).status())
