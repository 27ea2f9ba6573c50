"""Crashes at every boundary: on memory by abandoning the worker, on SQLite by SIGKILL."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from perdure import App, step, stream
from perdure.errors import AppNotReady, StepInterrupted, UsageError
from perdure.testing import Effects, Hung, Kit, NotCrashSafe, crash_everywhere
from tests.testing import shop
from tests.testing.shop import Order

ORDER = Order("o1", 5)
COMMITS = 10


async def test_every_boundary_is_visited_on_memory():
    """As many as commits, twice as many runs; the default accounting finds nothing."""
    before = len(shop.ledger.read())
    report = await crash_everywhere(shop.app, shop.fulfil, ORDER, effects=shop.ledger)
    assert report.visited == len(report.commits) == COMMITS
    assert report.runs == 2 * COMMITS
    assert report.commits[0] == "step 'charge' is ok"
    assert report.commits[-1] == "the run is completed"
    noted = Counter(shop.ledger.read()[before:])
    assert noted["charge o1"] == 1 + report.runs + 1  # repeated where it was in flight


async def test_every_boundary_is_visited_on_sqlite():
    """Killed processes, counted like on memory; no effect is lost with them."""
    report = await crash_everywhere(
        shop.app, shop.fulfil, ORDER, effects=shop.ledger, store="sqlite"
    )
    assert report.visited == len(report.commits) == COMMITS
    assert shop.ledger.path is None


async def test_back_offs_and_failures_are_crashed_too():
    """Retries of a step and of the run, and an end as failed, are commits like others."""
    kit = Kit(shop.app, services="bank")
    report = await crash_everywhere(shop.app, shop.refuse, "o1", effects=shop.ledger)
    assert report.commits == ("step 'charge' is ok", "the run is failed")
    failing = 0

    async def away(order_id: str, cents: int) -> str:
        nonlocal failing
        failing += 1
        raise ConnectionError("away")

    kit.fake(shop.charge, away)
    report = await crash_everywhere(
        shop.app, shop.refuse, "o1", stand_in=kit.stand_in, effects=shop.ledger
    )
    assert report.commits[:3] == (
        "step 'charge' is pending",
        "the run is suspended",
        "step 'charge' is pending",
    )
    assert report.visited == len(report.commits) == 10
    assert failing > 5 * report.runs


async def test_a_body_in_a_thread_is_crashed():
    """Threads of a dead worker are told to leave."""
    report = await crash_everywhere(shop.app, shop.in_a_thread, "o1", effects=shop.ledger)
    assert report.visited == len(report.commits) == 2


async def test_an_effect_outside_of_steps_is_found():
    """The body is repeated by the next worker, whatever was recorded: the message says where."""
    with pytest.raises(NotCrashSafe, match=r"after commit 1 of 2 .*effect 'mail' happened 2 times"):
        await crash_everywhere(shop.app, shop.outside_of_steps, "o1", effects=shop.plain)


async def test_strict_accounting_finds_a_repeat_in_flight():
    """An effect outside of the store is made again if its commit was not reached."""
    with pytest.raises(NotCrashSafe, match=r"before commit 1 of 2 .*'charge o1' happened 2 times"):
        await crash_everywhere(shop.app, shop.refuse, "o1", effects=shop.ledger, repeats="never")


async def test_strict_accounting_passes_idempotent_effects():
    """A step that sees to it that repeating it has no effect."""
    app, ledger = App(), Effects()

    def once(effect: str) -> None:
        if ledger.read()[-1:] != [effect]:
            ledger.note(effect)

    @app.workflow
    async def flow() -> None:
        await step("a", once, "a")
        await step("b", once, "b")

    report = await crash_everywhere(app, flow, effects=ledger, repeats="never")
    assert report.visited == 3
    assert ledger.read() == ["a", "b"] * (1 + report.runs)


async def test_suspensions_and_joins_are_crashed():
    """A parent that has left its worker is woken by children that end under another."""
    report = await crash_everywhere(shop.app, shop.bundle, "o1", effects=shop.ledger)
    assert "the run is suspended" in report.commits
    assert report.visited == len(report.commits) == 12


async def test_a_result_that_depends_on_crashes_is_found():
    """Another result, and another step, are named with the boundary."""
    app, passes = App(), [0]

    @app.workflow
    async def counts() -> int:
        passes[0] += 1
        await step("a", asyncio.sleep, 0)
        return passes[0]

    with pytest.raises(NotCrashSafe, match=r"crashed .* commit 1 of 2 .* returned b'\d', undis"):
        await crash_everywhere(app, counts)


async def test_a_workflow_that_hangs_is_named():
    """Undisturbed already."""
    with pytest.raises(Hung, match=r"shop\.py:\d+ in hangs"):
        await crash_everywhere(shop.app, shop.hangs, patience="200ms")


async def test_what_another_process_cannot_see_is_refused():
    """A list, fakes, a definition or an app inside of a function."""
    app = App()

    @app.workflow
    async def local() -> None: ...

    with pytest.raises(UsageError, match="effects in a list die"):
        await crash_everywhere(shop.app, shop.refuse, "o", effects=shop.plain, store="sqlite")
    with pytest.raises(UsageError, match="the app is no global"):
        await crash_everywhere(app, local, store="sqlite")
    with pytest.raises(UsageError, match="the definition is declared inside"):
        await crash_everywhere(shop.app, local, store="sqlite")
    with pytest.raises(UsageError, match="fakes do not reach"):
        await crash_everywhere(shop.app, shop.refuse, "o", store="sqlite", stand_in=lambda s: s)


async def test_an_app_that_is_connected_is_refused():
    """Its runs are nobody's experiment."""
    async with Kit(shop.app):
        with pytest.raises(AppNotReady):
            await crash_everywhere(shop.app, shop.pack, "o1")


async def test_nothing_of_the_dead_is_left():
    """No task, and the app as it was."""
    before, tasks = shop.app.engine.configured, asyncio.all_tasks()
    await crash_everywhere(shop.app, shop.pack, "o1", effects=shop.ledger)
    assert shop.app.engine.configured is before
    assert asyncio.all_tasks() == tasks


def test_a_test_written_with_def_uses_its_kit():
    """With the kit's fakes."""
    kit = Kit(shop.app)
    fake = kit.fake(shop.charge, lambda order_id, cents: "faked")
    report = kit.crash_everywhere(shop.fulfil, ORDER, effects=shop.ledger)
    assert report.visited == len(report.commits) == COMMITS
    assert len(fake.calls) == 1 + report.runs + 1


def test_a_ledger_survives_its_process(tmp_path: Path):
    """A ledger on a file is read by another on the same; texts come back as they were."""
    texts = ["plain", "two\nlines", "ü € \\n", ""]
    ledger = Effects(tmp_path / "ledger")
    for text in texts:
        ledger.note(text)
    assert Effects(tmp_path / "ledger").read() == texts
    in_memory = Effects()
    in_memory.append("a")
    assert in_memory.read() == ["a"]


async def test_a_step_that_begins_at_most_once_is_crashed_at_its_start_too():
    """Its start is a commit of its own, and no crash begins it again."""
    app = App()
    begun = 0

    async def announce() -> None:
        nonlocal begun
        begun += 1

    @app.workflow
    async def release() -> str:
        try:
            await step.options(at_most_once=True)("announce", announce)
        except StepInterrupted:
            return "released"
        return "released"

    report = await crash_everywhere(app, release)
    assert report.commits[:2] == ("step 'announce' is pending", "step 'announce' is ok")
    assert begun < report.runs + 1, "not again where it was interrupted, nor where it was done"


async def test_items_of_streams_are_commits_and_are_written_once():
    """Whatever attempt of the step writes them, and wherever its worker died."""
    app = App()
    lines = stream("lines", str)

    @app.step
    async def build() -> None:
        for number in range(3):
            lines.write(str(number))

    @app.workflow
    async def order() -> None:
        lines.write("begin")
        await build()
        lines.close()

    report = await crash_everywhere(app, order)
    written = "an item of stream 'lines' is written"
    assert report.commits == (*[written] * 4, "step 'build' is ok", written, "the run is completed")
    assert report.visited == len(report.commits)


async def test_an_item_that_differs_after_a_crash_is_told():
    """An item that only another execution writes is not what was undisturbed."""
    app = App()
    lines = stream("lines", int)
    executed: list[int] = []

    @app.step
    async def build() -> None:
        executed.append(1)
        for number in range(len(executed)):
            lines.write(number)

    @app.workflow
    async def order() -> None:
        await build()

    with pytest.raises(NotCrashSafe, match="to stream 'lines' 1 times, undisturbed 0"):
        await crash_everywhere(app, order)
