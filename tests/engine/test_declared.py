"""Definitions declared without an app: what includes them, and which app a verb means."""

import gc
from types import ModuleType
from typing import Any

import pytest

from perdure import App, Context, Declared, Worker, job, step, workflow
from perdure.errors import AppNotReady, DefinitionError, DuplicateName, InvalidValue, UsageError
from tests.engine.places import Place


def module_of(**names: Any) -> ModuleType:
    """Return a module in which these names stand."""
    module = ModuleType("orders")
    vars(module).update(names)
    return module


@step(name="charge")
async def charge(cents: int) -> str:
    """Charge."""
    return f"paid {cents}"


async def test_a_module_is_included_and_executed(place: Place):
    """app.include(module) takes every declaration of its namespace, and a worker executes them."""

    @workflow(max_attempts=2)
    async def fulfil(cents: int) -> str:
        return await charge(cents)

    @job
    def half(number: int) -> float:
        return number / 2

    def define(app: App) -> Any:
        app.include(module_of(charge=charge, fulfil=fulfil, half=half, other=7))
        return fulfil

    async with place.life(define) as life:
        assert {found.name for found in life.app.engine.registry} == {"fulfil", "half"}
        run = await fulfil.enqueue(5)
        assert await run.result(timeout="5s") == "paid 5"
        assert [record.path for record in (await run.history()).steps] == ["charge"]
        assert await (await half.delay("1ms", 3)).result(timeout="5s") == 1.5


def test_what_can_be_included():
    """Single declarations, steps, lists of them and modules; all of it twice changes nothing."""

    @workflow
    async def one() -> None: ...

    @job
    async def two() -> None: ...

    app = App()
    module = module_of(one=one, again=one, charge=charge)
    app.include(one, [two, charge], module)
    app.include(module)
    assert [found.name for found in app.engine.registry] == ["one", "two"]


def test_a_module_may_hold_steps_of_the_app_itself():
    """Steps declared on the app are in it already; other apps' definitions stay theirs."""
    app, other = App(), App()

    @app.step
    async def own() -> None: ...

    @other.workflow
    async def theirs() -> None: ...

    app.include(module_of(own=own, app=app, theirs=theirs))
    assert len(app.engine.registry) == 0


@pytest.mark.parametrize("given", ["orders", 7, print], ids=str)
def test_what_cannot_be_included_is_refused(given: Any):
    """A name or a bare function is no definition; the message says what is."""
    with pytest.raises(UsageError, match="modules and what @workflow"):
        App().include(given)


def test_included_names_are_unique_naming_both_places():
    """A definition and a step of a name that the app has already are refused with both places."""

    @workflow(name="order")
    async def one() -> None: ...

    @job(name="order")
    async def two() -> None: ...

    @step(name="charge")
    async def other() -> None: ...

    app = App()
    app.include(one, charge)
    with pytest.raises(DuplicateName, match=r"'order': .*test_declared.py:\d+ and .*:\d+"):
        app.include(two)
    with pytest.raises(DuplicateName, match=r"'charge': .*test_declared.py:\d+ and .*:\d+"):
        app.include(other)


def test_a_declaration_is_checked_where_it_stands():
    """A wrong option is an error of the decorator, not of the app that includes it later."""
    wrong: Any = {"retries": 3}
    with pytest.raises(DefinitionError, match="did you mean 'max_attempts'"):
        workflow(**wrong)(charge.function)
    with pytest.raises(DefinitionError, match="name=…"):
        job(lambda: None)


def test_an_app_without_services_refuses_to_include_a_body_that_asks():
    """The error is that of a declaration on the app, and the app is left as it was."""

    @job
    async def send(ctx: Context[str]) -> None: ...

    app = App()
    with pytest.raises(DefinitionError, match=r"services=…"):
        app.include(send)
    assert len(app.engine.registry) == 0


# --- which app is meant -------------------------------------------------------------------------


@workflow
async def shout(text: str) -> str:
    """Need nothing of an app."""
    return text.upper()


@job
async def greet(ctx: Context[str], name: str) -> str:
    """Need services."""
    return f"{ctx.services}, {name}"


async def test_in_no_app_only_run_works():
    """Without an app `run` works where no services are needed; the rest says to include it."""

    @workflow
    async def alone(text: str) -> str:
        return await charge(len(text)) + text

    assert await alone.run("abc") == "paid 3abc"
    wrong: Any = 3
    with pytest.raises(InvalidValue):
        await alone.run(wrong)
    for call in (lambda: alone.enqueue("a"), lambda: alone.delay("1s", "a")):
        with pytest.raises(
            AppNotReady, match=r"'alone' \(declared at .*\) is in no app; .*include"
        ):
            await call()

    @job
    async def asks(ctx: Context[str]) -> None: ...

    with pytest.raises(AppNotReady, match="is in no app"):
        await asks.run()


async def test_one_definition_serves_two_apps():
    """on(app) is that app's definition, with its services, its store and its handles."""
    english, french = App("memory://", services="Hello"), App("memory://", services="Bonjour")
    for app in (english, french):
        app.include(greet, shout)
    assert await greet.on(english).run("Ada") == "Hello, Ada"
    assert await greet.on(french).run("Ada") == "Bonjour, Ada"
    async with english, french:
        run = await greet.on(french).options(id="r").enqueue("Bob")
        assert await Worker(english).run_once() == 0
        assert await Worker(french).run_once() == 1
        assert await run.result() == "Bonjour, Bob"
        assert await french.runs() != []
        assert await english.runs() == []


async def test_with_two_apps_a_verb_must_say_which():
    """A durable verb names the apps; `run` asks only where the body needs one."""
    first, second = App("memory://", services="a"), App(services="b")
    for app in (first, second):
        app.include(greet, shout)
    with pytest.raises(UsageError, match=r"is in \d+ apps .*on memory.*shout\.on\(app\)"):
        await shout.enqueue("a")
    with pytest.raises(UsageError, match=r"greet\.on\(app\)"):
        await greet.run("Ada")
    assert await shout.run("a") == "A"
    async with first:
        run = await shout.enqueue("b")
        assert await run.status() == "queued"
        assert await greet.run("Ada") == "a, Ada"
    del app, first, second
    gc.collect()


async def test_an_app_that_is_gone_is_not_meant():
    """A declaration does not keep the apps alive that include it."""

    @workflow
    async def flow() -> str:
        return "done"

    App("memory://").include(flow)
    gc.collect()
    app = App("memory://")
    app.include(flow)
    async with app:
        run = await flow.enqueue()
        assert await Worker(app).run_once() == 1
        assert await run.result() == "done"


async def test_inside_a_body_its_own_app_is_meant():
    """A child is started, and a body run inline, in the app that executes the body."""

    @job
    async def child(ctx: Context[str], name: str) -> str:
        return f"{ctx.services} {name}"

    @workflow
    async def parent() -> list[str]:
        run = await child.enqueue("durably")
        return [await run.result(), await child.run("inline"), await child.options().run("again")]

    apps = {name: App("memory://", services=name) for name in ("one", "two")}
    for app in apps.values():
        app.include(parent, child)
    async with apps["one"] as one, apps["two"] as two, Worker(one), Worker(two):
        for name, app in apps.items():
            run = await parent.on(app).enqueue()
            expected = [f"{name} durably", f"{name} inline", f"{name} again"]
            assert await run.result(timeout="5s") == expected


def test_on_an_app_that_does_not_include_it():
    """The error says to include it."""
    with pytest.raises(AppNotReady, match=r"'shout' .*is not in <app without a store.*include"):
        shout.on(App())


def test_on_something_that_is_no_app():
    """What is no app is named."""
    wrong: Any = shout
    with pytest.raises(
        UsageError, match=r"shout\.on\(app\) says which app is meant, got <workflow"
    ):
        shout.on(wrong)


def test_calling_a_declaration_says_what_could_be_meant():
    """`order()` could mean two things here, too."""
    with pytest.raises(UsageError, match=r"shout\.run\(…\).*shout\.enqueue\(…\)"):
        shout("a")
    assert isinstance(shout, Declared)
    assert repr(shout).startswith("<workflow 'shout' at ")
    assert repr(greet).startswith("<job 'greet' at ")
