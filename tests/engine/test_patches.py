"""Patches: runs in flight keep to the old code, new ones go by the new, and each stays with it."""

import asyncio
from typing import Any

import pytest

from perdure import App, patched, step, workflow
from perdure.errors import DefinitionError, InvalidValue
from tests.engine.places import Halt, Place, eventually, finished, half_way


class Shop:
    """A workflow whose code is edited while its run is killed at a halt.

    Attributes:
        done: what its steps did.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.halt = Halt()

    async def act(self, what: str) -> str:
        """Do something as a step."""

        async def do() -> str:
            self.done.append(what)
            return what

        return await step(what, do)

    def __call__(self, body: Any, version: str) -> Any:
        """Return what declares the workflow with a body."""

        def define(app: App) -> Any:
            @app.workflow(name="order", version=version)
            async def order() -> Any:
                return await body(self)

            return order

        return define


async def before(shop: Shop) -> str:
    """The code as it was."""
    await shop.act("pay")
    await shop.act("pack")
    await shop.halt()
    return await shop.act("ship")


async def after(shop: Shop) -> str:
    """The code with a step put before packing."""
    await shop.act("pay")
    if patched("weigh first"):
        await shop.act("weigh")
    await shop.act("pack")
    await shop.halt()
    return await shop.act("ship")


async def test_a_run_that_had_passed_keeps_to_the_old_code(place: Place):
    """Also after it recorded more: the second life of the new code asks again."""
    shop = Shop()
    run = await half_way(place, shop(before, "1"), shop.halt)
    shop.halt = Halt()
    async with place.life(shop(after, "2")) as life:
        await shop.halt.reached.wait()
        await life.kill()
    shop.halt.is_open = True
    async with place.life(shop(after, "2")) as life:
        assert await life.get(run).result(timeout="5s") == "ship"
        steps = (await life.get(run).history()).steps
    assert shop.done == ["pay", "pack", "ship"]
    assert [(each.kind, each.path) for each in steps] == [
        ("step", "pay"),
        ("step", "pack"),
        ("patch", "weigh first"),
        ("step", "ship"),
    ]


async def nested(shop: Shop) -> str:
    """A step with a step in it."""
    return await step("order", shop.act, "pay")


async def inlined(shop: Shop) -> str:
    """Another definition's body, executed inline."""

    @workflow(name="paying")
    async def paying() -> str:
        return await shop.act("pay")

    return await paying.run()


async def inlined_in_a_branch(shop: Shop) -> str:
    """The same a level down."""

    @workflow(name="paying")
    async def paying() -> list[str]:
        return await asyncio.gather(nested(shop), nested(shop))

    return ", ".join(await paying.run())


@pytest.mark.parametrize("first", [nested, inlined, inlined_in_a_branch])
async def test_what_is_inside_a_call_that_has_ended_is_behind_a_run(place: Place, first: Any):
    """Nobody asks for such records any more; who comes to a patch later goes by the new code."""

    async def body(shop: Shop) -> bool:
        await first(shop)
        await shop.halt()
        return patched("weigh first")

    shop = Shop()
    run = await half_way(place, shop(body, "1"), shop.halt)
    shop.halt.is_open = True
    async with place.life(shop(body, "2")) as life:
        assert await life.get(run).result(timeout="5s") is True
        assert await (await life.flow.enqueue()).result(timeout="5s") is True


async def test_what_is_inside_a_step_is_before_a_run_that_has_not_come_to_it(place: Place):
    """It was begun by the old code, which has passed the place."""

    async def old(shop: Shop) -> None:
        async def order() -> None:
            await shop.act("pay")
            await shop.halt()

        await step("order", order)

    async def new(shop: Shop) -> bool:
        is_new = patched("weigh first")
        await old(shop)
        return is_new

    shop = Shop()
    run = await half_way(place, shop(old, "1"), shop.halt)
    shop.halt.is_open = True
    async with place.life(shop(new, "2")) as life:
        assert await life.get(run).result(timeout="5s") is False
    assert shop.done == ["pay"]


async def test_a_run_that_comes_there_later_goes_by_the_new_code(place: Place):
    """It was started with the old code, and stood before the patch."""
    shop = Shop()

    async def stands_before(shop: Shop) -> str:
        await shop.act("pay")
        await shop.halt()
        return "never"

    run = await half_way(place, shop(stands_before, "1"), shop.halt)
    assert await finished(place, shop(after, "2"), run) == "ship"
    assert shop.done == ["pay", "weigh", "pack", "ship"]


async def test_a_new_run_stays_with_the_new_code(place: Place):
    """A replay answers what is recorded, though records follow that nobody has asked for yet."""
    shop = Shop()
    run = await half_way(place, shop(after, "1"), shop.halt)
    assert await finished(place, shop(after, "1"), run) == "ship"
    assert shop.done == ["pay", "weigh", "pack", "ship"]


async def test_removing_a_patch_needs_nothing(place: Place):
    """A run that goes by the new code does not miss the call."""
    shop = Shop()

    async def cleaned(shop: Shop) -> str:
        await shop.act("pay")
        await shop.act("weigh")
        await shop.act("pack")
        return await shop.act("ship")

    run = await half_way(place, shop(after, "1"), shop.halt)
    async with place.life(shop(cleaned, "2")) as life:
        assert await life.get(run).result(timeout="5s") == "ship"
        assert (await life.get(run).history()).orphans == ()
    assert shop.done == ["pay", "weigh", "pack", "ship"]


async def test_one_answer_holds_in_every_branch_and_pass(place: Place):
    """A run half-way through its branches has decided for all that come there later."""
    shop = Shop()
    answers: list[bool] = []

    async def branch(shop: Shop, name: str, *, asks: bool) -> None:
        await shop.act(f"first {name}")
        if asks:
            answers.append(patched("new"))
        await shop.act(f"second {name}")

    def gathering(asks: bool) -> Any:
        async def body(shop: Shop) -> str:
            await asyncio.gather(*(branch(shop, name, asks=asks) for name in "abc"))
            if asks:
                answers.extend(patched("new") for _ in range(3))
            await shop.halt()
            return "done"

        return body

    run = await half_way(place, shop(gathering(False), "1"), shop.halt)
    assert await finished(place, shop(gathering(True), "2"), run) == "done"
    assert answers == [False] * 6
    async with place.life(shop(gathering(True), "2")) as life:
        await (await life.flow.enqueue()).result(timeout="5s")
    assert answers[6:] == [True] * 6


async def test_a_body_in_a_thread_decides_before_it_goes_on(place: Place):
    """A `def` body's patch is recorded before the step that follows it."""
    done: list[str] = []

    def define(app: App) -> Any:
        @app.workflow
        def order() -> bool:
            answer = patched("new")
            step.sync("pay", done.append, "paid")
            return answer

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") is True
        history = await run.history()
    assert [(each.kind, each.path) for each in history.steps] == [("patch", "new"), ("step", "pay")]


async def test_a_step_may_have_the_name_of_a_patch(place: Place):
    """They are told apart, and neither takes the other's record."""
    shop = Shop()

    async def body(shop: Shop) -> list[Any]:
        answers = [patched("pay"), await shop.act("pay"), patched("pay"), patched("ship")]
        await shop.halt()
        return answers

    run = await half_way(place, shop(body, "1"), shop.halt)
    assert await finished(place, shop(body, "1"), run) == [True, "pay", True, True]
    assert shop.done == ["pay"]


async def test_a_retry_of_the_run_goes_by_the_same_code(place: Place):
    """What was decided in the first attempt holds in the second."""
    answers: list[bool] = []

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=None)
        async def flow() -> bool:
            answers.append(patched("new"))
            await step("once", len, "x")
            if len(answers) == 1:
                raise ValueError("once more")
            return answers[-1]

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await eventually(lambda: len(answers) == 1)
        assert await run.result(timeout="10s") is True
    assert answers == [True, True]


def test_outside_of_a_run_the_code_is_the_new_one():
    """Whatever is called by hand is what is written now; a wrong name is one there, too."""
    assert patched("anything")
    with pytest.raises(DefinitionError, match="a patch's name may not contain"):
        patched("a/b")
    with pytest.raises(InvalidValue, match="a patch's name must not be empty"):
        patched("")
