"""What can be a step: builtins, classes, objects that can be called, methods, partials."""

import functools
import operator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from perdure import App, step
from perdure.errors import DefinitionError, RunFailed
from tests.engine.places import Halt, Place, killed_and_finished


@dataclass
class Line:
    """A class that a step makes an instance of."""

    item: str
    price: Decimal


class Scale:
    """An object that can be called, with methods.

    Attributes:
        calls: how often any of them was called.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, grams: int) -> int:
        """Count, in a thread."""
        self.calls += 1
        return grams

    async def later(self, grams: int) -> int:
        """Count, in the loop."""
        self.calls += 1
        return grams

    @staticmethod
    def twice(grams: int) -> int:
        """Do not count."""
        return 2 * grams


class AsyncScale:
    """An object whose call is awaited."""

    async def __call__(self, grams: int) -> int:
        """Return what is given."""
        return grams


FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = {
    "int": (int, ("3",), {}, 3),
    "int with a base": (int, ("ff",), {"base": 16}, 255),
    "str": (str, (3,), {}, "3"),
    "dict": (dict, (), {"a": 1}, {"a": 1}),
    "list": (list, ("ab",), {}, ["a", "b"]),
    "len": (len, ([1, 2],), {}, 2),
    "max": (max, (1, 2), {}, 2),
    "date": (date, (2026, 1, 2), {}, date(2026, 1, 2)),
    "Decimal": (Decimal, ("1.50",), {}, Decimal("1.50")),
    "dataclass": (Line, ("tea", Decimal(2)), {}, Line("tea", Decimal(2))),
    "method of a builtin": (str.upper, ("a",), {}, "A"),
    "bound method of a builtin": ("-".join, (["a", "b"],), {}, "a-b"),
    "class method of a builtin": (date.fromisoformat, ("2026-01-02",), {}, date(2026, 1, 2)),
    "function in C": (operator.add, (1, 2), {}, 3),
    "itemgetter": (operator.itemgetter(1), ([1, 2],), {}, 2),
    "callable object": (Scale(), (5,), {}, 5),
    "async callable object": (AsyncScale(), (5,), {}, 5),
    "bound method": (Scale().__call__, (5,), {}, 5),
    "async bound method": (Scale().later, (), {"grams": 5}, 5),
    "static method": (Scale.twice, (5,), {}, 10),
    "partial": (functools.partial(pow, 2), (5,), {}, 32),
    "partial of a class": (functools.partial(int, base=2), ("101",), {}, 5),
    "partial of an async method": (functools.partial(Scale().later, 5), (), {}, 5),
    "partial of a partial": (functools.partial(functools.partial(max, 1), 2), (3,), {}, 3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
async def test_anything_that_can_be_called_can_be_a_step(place: Place, name: str):
    """Its result is recorded and replayed, equal in value and type."""
    function, args, kwargs, expected = FUNCTIONS[name]
    halt = Halt()
    seen: list[Any] = []

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> None:
            seen.append(await step("called", function, *args, **kwargs))
            await halt()

        return flow

    await killed_and_finished(place, define, halt)
    assert seen == [expected, expected]
    assert [type(value) for value in seen] == [type(expected)] * 2
    assert await step("called", function, *args, **kwargs) == expected


async def test_an_object_that_can_be_called_is_called_once(place: Place):
    """A replay does not call it again."""
    scale, halt = Scale(), Halt()

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> int:
            weights = [await step("weigh", scale, 1), await step("later", scale.later, 2)]
            await halt()
            return sum(weights)

        return flow

    assert await killed_and_finished(place, define, halt) == 3
    assert scale.calls == 2


async def test_a_sync_body_takes_them_too(place: Place):
    """step.sync calls a builtin from a body written with def."""

    def define(app: App) -> Any:
        @app.workflow
        def flow() -> int:
            return step.sync("number", int, "7")

        return flow

    async with place.life(define) as life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == 7


async def test_a_class_whose_instances_cannot_be_stored_is_refused(place: Place):
    """The step fails where its result is made, naming the class."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> Any:
            return await step("scale", Scale)

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match="Scale"):
            await run.result(timeout="5s")


def test_a_body_needs_a_signature():
    """Only steps may do without: a body's input is stored by the names of its parameters."""
    with pytest.raises(DefinitionError, match="no signature"):
        App().workflow(name="max")(max)
