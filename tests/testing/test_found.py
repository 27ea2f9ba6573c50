"""What readers of the test kit have found: each failed before it was mended."""

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta

import pytest

from perdure import App, Context, sleep, step
from perdure.errors import UsageError
from perdure.testing import Hung, Kit, Swallowed, crash_everywhere, dump_history, replay


def counted() -> tuple[App, list[str]]:
    """Return an app whose real services say when they are made, and what they said."""
    made: list[str] = []

    def real() -> str:
        made.append("real")
        return "real"

    return App(services=real), made


def test_crashes_use_the_services_of_the_kit():
    """A test that was given fake services never meets the real ones."""
    app, made = counted()

    @app.workflow
    async def flow(ctx: Context[str]) -> str:
        return await step("ask", str.upper, ctx.services)

    Kit(app, services="fake").crash_everywhere(flow)
    assert made == []


async def test_a_replay_uses_the_services_of_the_kit():
    """Also after the kit has ended; another app has its own unless it is given some."""
    app, made = counted()

    @app.workflow
    async def flow(ctx: Context[str]) -> str:
        return await step("ask", str.upper, ctx.services)

    async with Kit(app, services="fake") as kit:
        run = await flow.enqueue()
        await kit.finish(run)
        recording = dump_history(await kit.history(run))
    assert (await kit.replay(recording)).fits
    assert (await replay(recording, app, services="fake", patience="5s")).fits
    assert made == []


async def test_services_cannot_be_handed_to_killed_processes():
    """Said, rather than ignored."""
    app, _ = counted()

    @app.workflow
    async def flow(ctx: Context[str]) -> None: ...

    with pytest.raises(UsageError, match="cannot be handed to the processes"):
        await crash_everywhere(app, flow, store="sqlite", services="fake")


async def test_choices_are_checked():
    """A store or a rule that is misspelt is not another one."""
    app = App()

    @app.workflow
    async def flow() -> None: ...

    with pytest.raises(UsageError, match="store is 'memory' or 'sqlite', got 'sqllite'"):
        await crash_everywhere(app, flow, store="sqllite")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="repeats is 'in flight' or 'never', got 'ever'"):
        await crash_everywhere(app, flow, repeats="ever")  # type: ignore[arg-type]


async def test_a_body_that_sleeps_for_ever_hangs_the_test(monkeypatch: pytest.MonkeyPatch):
    """Skipped waits are no progress without end."""
    monkeypatch.setattr("perdure.testing.kit.MOST_SKIPS", 50)
    app = App()

    @app.workflow
    async def flow() -> None:
        while True:
            await sleep("1d")

    with pytest.raises(Hung, match="'flow'"):
        async with Kit(app, skip_waits=True, patience="200ms") as kit:
            kit.expect_pending(run := await flow.enqueue())
            await run.result()


async def test_a_swallowed_suspension_is_found_whatever_the_log_does():
    """Finding it does not go through logging."""
    app = App()

    @app.workflow
    async def flow() -> None:
        try:
            await sleep("1d")
        except BaseException:  # noqa: BLE001  # what this test is about
            await asyncio.sleep(0)

    logging.disable(logging.CRITICAL)
    try:
        with pytest.raises(Swallowed, match="flow"):
            async with Kit(app) as kit:
                kit.expect_pending(await flow.enqueue())
                await kit.settle()
    finally:
        logging.disable(logging.NOTSET)


async def test_a_hang_is_not_lost_where_the_test_catches_its_cancellation():
    """The kit raises it at its end, and the task is as it was."""
    app = App()

    @app.workflow
    async def flow() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Hung, match="'flow'"):
        async with Kit(app, patience="100ms"):
            run = await flow.enqueue()
            with suppress(BaseException):
                await run.result()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_failure_stands_before_the_fake_that_was_there():
    """Both note their calls, and the fake goes on when the failures are over."""
    app = App()
    done: list[int] = []

    @app.step(max_attempts=1)
    async def work(n: int) -> int:
        return n

    @app.workflow(max_attempts=2)
    async def flow(n: int) -> int:
        return await work(n)

    async with Kit(app, skip_waits=True) as kit:
        fake = kit.fake(work, lambda n: done.append(n) or n + 1)
        failing = kit.fail(work, ValueError("once"), times=1)
        assert await (await flow.enqueue(1)).result() == 2
    assert done == [1]
    assert failing.calls == [((1,), {})] * 2
    assert fake.calls == [((1,), {})]


async def test_what_fails_a_step_is_an_exception():
    """Said where it is given."""
    app = App()

    @app.step
    async def work() -> None: ...

    async with Kit(app) as kit:
        with pytest.raises(UsageError, match="is an exception, got 'boom'"):
            kit.fail(work, "boom")  # type: ignore[arg-type]


async def test_what_was_enqueued_is_told_as_it_was():
    """The delay stays when it is over; defaults are there, and positional ones have names."""
    app = App()

    @app.job
    async def work(x: int, /, y: int = 2, *rest: int) -> None: ...

    async with Kit(app) as kit:
        await work.delay("1h", 1)
        await kit.advance("2h")
        await work.enqueue(1, 2, 3)
        first, second = await kit.enqueued(work)
        assert first.delay == timedelta(hours=1)
        assert first.arguments == {"x": 1, "y": 2}
        assert (second.delay, second.arguments) == (timedelta(0), {"x": 1, "y": 2, "rest": (3,)})
