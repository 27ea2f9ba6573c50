"""App.override: what an app stands on is swapped, and put back."""

import asyncio
import threading

import pytest

from perdure import App, Context, Worker, step
from perdure.errors import AppNotReady, UsageError
from perdure.stores.memory import MemoryStore


def greeter(app: App):
    """Declare a definition that asks for the app's services."""

    @app.job
    async def greet(ctx: Context[str], name: str) -> str:
        return f"{ctx.services} {name}"

    return greet


async def test_the_store_is_swapped_and_put_back():
    """Definitions and handles made before follow; afterwards the app has no store again."""
    app = App(services="hello")
    greet = greeter(app)
    with app.override(store="memory://"):
        async with app, Worker(app):
            run = await greet.enqueue("you")
            assert await run.result() == "hello you"
    with pytest.raises(AppNotReady, match="no store"):
        await greet.enqueue("you")


async def test_an_override_that_ends_while_connected_holds_until_the_app_is_closed(tmp_path):
    """Whatever ends it: the store that is open is the one that is closed."""
    app, before = App("memory://"), set(threading.enumerate())
    with pytest.raises(ValueError, match="oops"), app.override(store=f"sqlite:///{tmp_path}/a.db"):
        await app.connect()
        raise ValueError("oops")
    assert app.engine.store.capabilities.name == "sqlite"
    await app.close()
    assert app.engine.store.capabilities.name == "memory"
    assert not [one.name for one in set(threading.enumerate()) - before if "sqlite" in one.name]


async def test_a_connect_that_is_cancelled_leaves_nothing_open(tmp_path):
    """The store that was being opened is closed."""
    app, before = App(f"sqlite:///{tmp_path}/a.db"), set(threading.enumerate())
    connecting = asyncio.ensure_future(app.connect())
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert not app.engine.is_open
    assert not [one.name for one in set(threading.enumerate()) - before if "sqlite" in one.name]


async def test_services_are_swapped():
    """Also by a function; what is left out stays."""
    app = App("memory://", services="well")
    greet = greeter(app)
    assert await greet.run("a") == "well a"
    with app.override(services=lambda: "hi"):
        assert await greet.run("b") == "hi b"
        with app.override(services="bye"):
            assert await greet.run("c") == "bye c"
        assert await greet.run("d") == "hi d"
    assert await greet.run("e") == "well e"


async def test_a_store_object_is_taken_as_it_is():
    """None takes the store away."""
    app, store = App("memory://"), MemoryStore()
    before = app.engine.configured
    with app.override(store=store):
        assert app.engine.store is store
        with app.override(store=None), pytest.raises(AppNotReady):
            await app.connect()
    assert app.engine.configured is before


async def test_a_connected_app_keeps_its_store():
    """Overriding it is a typed error, and it goes on."""
    app = App("memory://", services="hello")
    greet = greeter(app)
    async with app, Worker(app):
        refused = pytest.raises(AppNotReady, match="before the app is connected")
        with refused, app.override(store="memory://"):
            pass
        assert await (await greet.enqueue("you")).result() == "hello you"


async def test_an_app_that_is_still_connected_at_the_end_is_an_error():
    """The app is as it was before once it is closed."""
    app = App("memory://")
    before, store = app.engine.configured, MemoryStore()
    with pytest.raises(AppNotReady, match="until the app is closed"), app.override(store=store):
        await app.connect()
    assert app.engine.configured is store
    await app.close()
    assert app.engine.configured is before


async def test_a_url_that_no_store_answers_changes_nothing():
    """The error comes before anything is swapped."""
    app = App("memory://", services=1)
    before = app.engine.configured
    with pytest.raises(UsageError, match="no store answers"), app.override(store="what://"):
        pass
    assert app.engine.configured is before


def test_an_app_can_be_used_in_one_loop_after_the_other():
    """Each test has its own loop; nothing of the first is found in the second."""
    app = App()

    @app.workflow
    async def flow() -> int:
        return await step("one", lambda: 1)

    async def use() -> int:
        async with app, Worker(app):
            runs = await asyncio.gather(*(flow.enqueue() for _ in range(3)))
            return sum(await asyncio.gather(*(run.result() for run in runs)))

    for _ in range(2):
        with app.override(store="memory://"):
            assert asyncio.run(use()) == 3
