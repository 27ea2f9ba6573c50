"""Recorded histories: as JSON, and replayed against other code."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from perdure import App, step, stream
from perdure.errors import AppNotReady, InvalidValue, UnknownDefinition
from perdure.model.records import History
from perdure.testing import Hung, Kit, Orphaned, dump_history, load_history, replay
from perdure.workflow import Workflow
from tests.testing import shop
from tests.testing.shop import Order


def declared(body: Callable[..., Any]) -> App:
    """Return an app in which this body is the workflow `flow`."""
    app = App()
    app.workflow(name="flow")(body)
    return app


def echo(text: str) -> str:
    return text


def must_not_run(text: str) -> str:
    raise AssertionError("a replay executes no step")


async def two_steps(text: str) -> str:
    first = await step("first", echo, text)
    return await step("second", echo, first + "!")


async def recorded(app: App, *args: Any, name: str = "flow") -> History:
    """Return the history of a run that ended."""
    async with Kit(app) as kit:
        run = await Workflow(app.engine.registry[name], app.engine).enqueue(*args)
        await kit.finish(run)
        return await kit.history(run)


async def test_the_same_code_fits():
    """A finished run is replayed to the same result, through JSON, and no step is executed."""
    text = dump_history(await recorded(declared(two_steps), "a"))

    async def same_steps(text: str) -> str:
        first = await step("first", must_not_run, text)
        return await step("second", must_not_run, first + "!")

    report = await replay(text, declared(same_steps))
    report.check()
    assert (report.ended, report.same_result, report.asked) == ("completed", True, ())


async def test_a_whole_shop_is_replayed():
    """Children, joins, threads, branches."""
    history = await recorded(shop.app, Order("o1", 5), name="fulfil")
    before = len(shop.ledger.read())
    report = await replay(history, shop.app)
    report.check()
    assert (report.ended, report.same_result, report.asked) == ("completed", True, ())
    assert len(shop.ledger.read()) == before
    threaded = await replay(await recorded(shop.app, "o", name="in_a_thread"), shop.app)
    assert threaded.same_result


async def test_a_mismatch_is_named():
    """Another argument at a recorded place is what would pause the run."""

    async def other_argument(text: str) -> str:
        return await step("first", must_not_run, text + "?")

    report = await replay(await recorded(declared(two_steps), "a"), declared(other_argument))
    assert not report.fits
    assert "step 'first' of workflow 'flow' does not fit" in str(report.mismatch)
    with pytest.raises(Orphaned, match="step 'first' of workflow 'flow' does not fit"):
        report.check()


async def test_an_orphaned_step_is_named():
    """A recorded step that the code does not ask for any more."""

    async def first_only(text: str) -> str:
        return await step("first", must_not_run, text) + "!"

    report = await replay(await recorded(declared(two_steps), "a"), declared(first_only))
    assert report.orphaned == ("second",)
    assert report.same_result
    with pytest.raises(Orphaned, match="recorded step 'second' is not asked for"):
        report.check()


async def test_a_step_that_is_new_is_where_the_replay_ends():
    """It is named and not executed; what comes after it is not known."""

    async def three_steps(text: str) -> str:
        first = await step("first", must_not_run, text)
        await asyncio.gather(step("new", must_not_run, "n"), step("newer", must_not_run, "n"))
        return await step("second", must_not_run, first + "!")

    report = await replay(await recorded(declared(two_steps), "a"), declared(three_steps))
    assert report.fits
    assert (report.asked, report.ended) == (("new", "newer"), None)


async def test_a_child_that_is_new_is_where_the_replay_ends():
    """It is named and not created."""
    app = declared(two_steps)

    @app.job
    async def extra() -> None: ...

    other = App()

    @other.job(name="extra")
    async def again() -> None: ...

    @other.workflow
    async def flow(text: str) -> None:
        await step("first", must_not_run, text)
        await again.enqueue()

    report = await replay(await recorded(app, "a"), other)
    assert (report.asked[0], report.ended) == ("extra", None)


async def test_a_run_in_flight_is_replayed_up_to_where_it_waits():
    """What it waits for is neither asked for nor missing."""
    async with Kit(shop.app, only=["bundle"]) as kit:
        run = await shop.bundle.enqueue("o1")
        await kit.settle()
        kit.expect_pending(run)
        history = await kit.history(run)
    report = await replay(history, shop.app)
    assert (report.fits, report.ended, report.asked) == (True, None, ())


async def test_an_input_that_does_not_fit_any_more_is_told():
    """The run would fail before its body begins."""

    async def numbers(text: int) -> str:
        return ""

    report = await replay(await recorded(declared(two_steps), "a"), declared(numbers))
    assert report.ended == "failed"
    assert "InvalidValue" in str(report.error)


async def test_a_body_that_hangs_in_a_replay_is_named():
    """What it waits for is neither recorded nor durable."""

    async def hangs(text: str) -> str:
        await step("first", must_not_run, text)
        await asyncio.get_running_loop().create_future()
        return ""

    history = await recorded(declared(two_steps), "a")
    with pytest.raises(Hung, match=r"of 'flow' stands at .*test_replaying\.py:\d+ in hangs"):
        await replay(history, declared(hangs), patience="200ms")


async def test_a_kit_replays():
    """With the app it was made for, before or after it runs."""
    history = await recorded(shop.app, "o1", name="pack")
    assert (await Kit(shop.app).replay(history)).same_result
    async with Kit(shop.app) as kit:
        with pytest.raises(AppNotReady):
            await kit.replay(history)


async def test_nothing_of_a_replay_is_left():
    """No task, and the app as it was."""
    history, tasks = await recorded(shop.app, "o1", name="bundle"), asyncio.all_tasks()
    before = shop.app.engine.configured, shop.app.engine.stand_in
    await replay(history, shop.app)
    assert (shop.app.engine.configured, shop.app.engine.stand_in) == before
    assert asyncio.all_tasks() == tasks
    assert asyncio.get_running_loop().get_task_factory() is None


async def test_unknown_definitions_are_refused():
    """The suggestion is the registry's."""
    history = await recorded(declared(two_steps), "a")
    with pytest.raises(UnknownDefinition):
        await replay(history, App())


async def test_a_history_survives_json():
    """What is loaded equals what was dumped; what is no history is refused."""
    history = await recorded(shop.app, Order("o1", 5), name="fulfil")
    text = dump_history(history)
    assert load_history(text) == history
    assert json.loads(text)["perdure_history"] == 1
    for broken in ("", "{}", text[:-1], text.replace('"perdure_history":1', '"perdure_history":9')):
        with pytest.raises(InvalidValue, match="history"):
            load_history(broken)


async def test_items_of_streams_hold_no_replay_up():
    """Nobody waits for them, and what is recorded behind them is found."""
    lines = stream("lines", str)

    async def body(text: str) -> str:
        lines.write(text)
        first = await step("first", echo, text)
        lines.write(first)
        lines.close()
        return first

    report = await replay(await recorded(declared(body), "a"), declared(body))
    assert (report.ended, report.same_result) == ("completed", True)
