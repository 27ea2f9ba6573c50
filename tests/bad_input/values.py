"""Hostile and mistaken values, by what they are given for, each with what the error says of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, TypedDict

import msgspec
from pydantic import AwareDatetime, BaseModel, Field

from perdure import Context, job, workflow
from perdure.defaults import PAYLOAD_LIMIT


@dataclass(frozen=True)
class Fresh:
    """A value that is made anew for each row, because it is used up or changes."""

    make: Callable[[], Any]


@dataclass(frozen=True)
class Item:
    """A part of an order."""

    name: str
    price: Decimal


@dataclass(frozen=True)
class Order:
    """What the typed definition of the table takes."""

    id: str
    items: list[Item]
    at: datetime | None = None


async def call() -> int:
    """Return something, if somebody awaits it."""
    return 1


_made: list[Any] = []


def forgotten() -> Any:
    """Return a call that nobody awaits; `forget` closes it."""
    _made.append(call())
    return _made[-1]


async def alone(value: int) -> int:
    """Be the body of a declaration."""
    return value


def asking(ctx: Context[int]) -> None:
    """Ask for services."""


def declared_alone() -> Any:
    """Return a declaration that is in no app."""
    return workflow(alone)


def declared_order() -> Any:
    """Return a declaration whose name the table's app has already."""
    return workflow(name="order")(alone)


def declared_asking() -> Any:
    """Return a declaration that needs an app with services."""
    return job(asking)


def both_declared() -> Any:
    """Return two declarations, of which the first could be taken in."""
    return [declared_alone(), declared_order()]


def forget() -> None:
    """Close what `forgotten` made, so that Python does not complain as well."""
    while _made:
        _made.pop().close()


def generate():
    """Yield something."""
    yield 1


async def generate_async():
    """Yield something."""
    yield 1


def nested(levels: int) -> list[Any]:
    """Return a list in a list in a list."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def circular() -> dict[str, Any]:
    """Return a value that holds itself."""
    value: dict[str, Any] = {}
    value["self"] = value
    return value


class Unprintable:
    """Cannot be shown in a message."""

    def __repr__(self) -> str:
        raise RuntimeError


UNSHOWN: tuple[tuple[Any, str], ...] = (
    (Unprintable(), "<Unprintable>"),
    (10**5000, "<int>"),
    ({"x": "y" * 1000}, "{'x': '" + "y" * 73 + "..."),
)
"""What a message must show otherwise than by its `repr`."""


def named(_: Any) -> None:
    """Stand for a function where none is wanted."""


NO_NAMES: tuple[tuple[Any, str], ...] = (
    ("", "must not be empty or blank"),
    ("  ", "must not be empty or blank"),
    ("x" * 256, "at most 255 characters, got 256"),
    ("a\0b", r"got '\x00' at character 1"),
    ("a\r\nb", r"got '\r' at character 1"),
    ("\x1b[31mred", r"got '\x1b' at character 0"),
    ("a\u2028b", r"got '\u2028' at character 1"),
    ("a\ud800", r"got '\ud800' at character 1"),
    (7, "must be a str, got <int>"),
    (b"bytes", "must be a str, got <bytes>"),
    (named, "must be a str, got <function>"),
    (["a"], "must be a str, got <list>"),
)
"""What no id, name, key, queue, tag or version can be."""

NAMES: tuple[str, ...] = (
    "x",
    "X",
    "x ",
    " x",
    "x" * 255,
    "../../x",
    "{tag}",
    "'; DROP TABLE run--",
    "$where",
    "<script>alert(1)</script>",
    "%s %(x)s %n",
    "a:b|c~d,e=f",
    "-rf *",
    "caf\u00e9",
    "cafe\u0301",
    "\u202eright to left\u202c",
    "\u200b\u200fx",
    "\U0001f600\U0010ffff",
    "null",
    '"quoted"',
    "back\\slash",
)
"""Hostile texts that are names like any other: they come back as they are, and none is another."""

NO_INSTANTS: tuple[tuple[Any, str], ...] = (
    (datetime(2030, 1, 1), "got the naive 2030-01-01T00:00:00"),  # noqa: DTZ001 -- what is refused
    ("2030-01-01", "an instant must be an aware datetime, got <str>"),
    (1.5, "got <float>"),
    (None, "got <NoneType>"),
    (named, "got <function>"),
)
"""What no instant can be."""

NO_DURATIONS: tuple[tuple[Any, str], ...] = (
    (10, "needs a unit, got the bare number 10"),
    (1.5, "needs a unit, got the bare number 1.5"),
    (math.nan, "needs a unit, got the bare number nan"),
    (10**400, "needs a unit, got the bare number"),
    (True, "True is no duration"),
    ("", "'' is no duration"),
    ("soon", "'soon' is no duration"),
    ("-1s", "'-1s' is negative"),
    ("1s1h", "'1s1h' is no duration"),
    ("P1Y", "counts years or months"),
    ("0.0001ms", "is finer than a microsecond"),
    ("1001w" + " " * 70, "is 75 characters long"),
    ("52179w", "is longer than a thousand years"),
    (timedelta(seconds=-1), "is negative"),
    (timedelta.max, "is longer than a thousand years"),
    (b"1s", "<bytes> is no duration"),
    (["1s"], "<list> is no duration"),
)
"""What no length of time is."""

NO_ATTEMPTS: tuple[tuple[Any, str], ...] = (
    (0, "got 0"),
    (-1, "got -1"),
    (2**31, "at most 2147483647, got 2147483648"),
    (10**5000, "got <int>"),
    ("3", "got '3'"),
    (3.0, "got 3.0"),
    (True, "got True"),
)
"""What no number of attempts is."""

NO_COUNTS: tuple[tuple[Any, str], ...] = (
    (0, "must be a whole number above 0, got 0"),
    ("10", "must be a whole number above 0, got '10'"),
    (True, "must be a whole number above 0, got True"),
    (10**400, "must be at most 1,000,000"),
)
"""What no worker option that counts is."""

NO_PAYLOADS: tuple[tuple[Any, str, str], ...] = (
    (math.nan, "", "<float> nan"),
    (-math.inf, "", "<float> -inf"),
    (10**5000, "", "has more than 4,000 digits"),
    ("\ud800", "", "holds a lone surrogate"),
    (["ok", "\udfff"], "[1]", "holds a lone surrogate"),
    ({"\ud800": 1}, "<key>", "holds a lone surrogate"),
    (Decimal("NaN"), "", "is no number"),
    (object(), "", "JSON cannot store"),
    ({"items": [{"price": 1}, {"price": object()}]}, ".items[1].price", "JSON cannot store"),
    ({"a b": object()}, '["a b"]', "JSON cannot store"),
    (named, "", "is code, not data"),
    (lambda: 1, "", "is code, not data"),
    (int, "", "is a class, not data"),
    (math, "", "is a module, not data"),
    (ValueError("x"), "", "is an exception"),
    (1 + 2j, "", "JSON cannot store"),
    (range(3), "", "JSON cannot store"),
    (Fresh(forgotten), "", "did you forget `await`?"),
    (Fresh(lambda: {"a": [forgotten()]}), ".a[0]", "did you forget `await`?"),
    (Fresh(generate), "", "is used up by reading it once"),
    (Fresh(generate_async), "", "is used up by reading it once"),
    (Fresh(lambda: iter([1])), "", "JSON cannot store"),
    (Fresh(circular), ".self.self", "circular or nested more than 100 levels deep"),
    (Fresh(lambda: nested(100)), "[0][0]", "circular or nested more than 100 levels deep"),
    (Fresh(lambda: nested(100_000)), "[0][0]", "circular or nested more than 100 levels deep"),
)
"""What no payload without an annotation is: the value, where in it, and what is said."""

AT_THE_LIMIT = "x" * (PAYLOAD_LIMIT - len('{"value":""}'))
"""The longest text that is the input of a definition with one parameter called `value`."""

PAYLOADS: tuple[Any, ...] = (
    None,
    "",
    "a\0b\r\n\x1b[0m\u202e\u2028",
    *NAMES,
    10**400,
    -(2**63) - 1,
    5e-324,
    -0.0,
    AT_THE_LIMIT,
    datetime(2026, 1, 1, 12),  # noqa: DTZ001 -- naive ones stay naive
    datetime.max.replace(tzinfo=UTC),
    timedelta.min,
    Decimal("1e-999"),
    b"\xff\x00",
    {"": {"$": [1], "a/b": None}},
    {1: (2, {3})},
    nested(99)[0],
)
"""Odd values that are payloads: they come back as they are, in value and type."""

NO_ORDERS: tuple[tuple[tuple[Any, ...], dict[str, Any], str, str], ...] = (
    ((), {}, "$.order", "is missing 'order'"),
    ((1, 2), {}, "$", "takes 1 positional argument, got 2"),
    ((Order("o", []),), {"order": 1}, "$.order", "got 'order' twice"),
    ((Order("o", []),), {"nota": "x"}, "$.nota", "did you mean 'note'?"),
    ((Order("o", []),), {"zzz": "x"}, "$.zzz", "its parameters are (order, note)"),
    ((Order("o", []),), {"note": None}, "$.note", "where str is declared"),
    ((Item("i", Decimal(1)),), {}, "$.order", "got <Item> at $.order, where Order is declared"),
    (({"id": "o", "items": []},), {}, "$.order", "where Order is declared"),
    (("o",), {}, "$.order", "where Order is declared"),
    ((None,), {}, "$.order", "where Order is declared"),
    ((Order,), {}, "$.order", "is a class, not data"),
    ((Order(1, []),), {}, "$.order.id", "where str is declared"),  # type: ignore[arg-type]
    ((Order("o", None),), {}, "$.order.items", "where list[Item] is declared"),  # type: ignore[arg-type]
    ((Order("o", (Item("i", Decimal(1)),)),), {}, "$.order.items", "got <tuple>"),  # type: ignore[arg-type]
    ((Order("o", [Order("p", [])]),), {}, "$.order.items[0]", "where Item is declared"),  # type: ignore[list-item]
    (
        (Order("o", [Item("a", Decimal(1)), Item("b", 1.5)]),),  # type: ignore[arg-type]
        {},
        "$.order.items[1].price",
        "got <float> at $.order.items[1].price, where Decimal is declared",
    ),
    (
        (Order("o", [Item("a", Decimal("sNaN"))]),),
        {},
        "$.order.items[0].price",
        "is no number",
    ),
    ((Order("o", [], "2026-01-01"),), {}, "$.order.at", "where datetime | None is declared"),  # type: ignore[arg-type]
)
"""Calls that do not fit the typed definition: arguments, path, and what is said."""


@dataclass(frozen=True)
class Typed:
    """A value for the definition whose parameter has this annotation."""

    annotation: Any
    value: Any


class Address(TypedDict):
    """A typed dictionary."""

    street: str
    number: int


class Person(msgspec.Struct):
    """A struct."""

    name: str
    age: int = 0


class Meeting(BaseModel):
    """A model that asks for more than a type."""

    id: str
    at: AwareDatetime | None = None
    seats: int = Field(0, ge=0)


class Color(Enum):
    """An enumeration."""

    RED = "red"


def unchecked(**fields: Any) -> Meeting:
    """Return a model that pydantic has not looked at."""
    return Meeting.model_construct(**fields)


NO_TYPED: tuple[tuple[Any, Any, str, str], ...] = (
    (Address, {"street": 1, "number": 2}, ".street", "got <int>"),
    (Address, {"street": "a"}, ".number", "Address requires a value"),
    (Address, {"street": "a", "number": 1, "x": 1}, "", "key 'x'"),
    (Person, Person(1), ".name", "where str is declared"),  # type: ignore[arg-type]
    (Person, {"name": "a"}, "", "where Person is declared"),
    (Meeting, unchecked(id=1), ".id", "Input should be a valid string"),
    (Meeting, unchecked(id="a", at=datetime(2026, 1, 1)), ".at", "should have timezone info"),  # noqa: DTZ001
    (Meeting, unchecked(id="a", seats=-1), ".seats", "greater than or equal to 0"),
    (Color, "red", "", "where Color is declared"),
    (Literal["a", "b"], "c", "", "Literal['a', 'b'] is declared"),
    (int | str, 1.5, "", "where int | str is declared"),
    (list[int], [1, "2"], "[1]", "where int is declared"),
    (dict[str, int], {"a": "1"}, ".a", "where int is declared"),
    (tuple[int, str], (1, 2), "[1]", "where str is declared"),
    (set[int], {"2"}, "<member>", "where int is declared"),
    (bool, 1, "", "where bool is declared"),
    (int, True, "", "a bool is not one"),
    (int, 1.0, "", "where int is declared"),
    (float, "1", "", "where float is declared"),
    (float, 2**53 + 1, "", "no float holds exactly"),
    (bytes, "x", "", "where bytes is declared"),
    (datetime, "2026-01-01", "", "where datetime is declared"),
    (None, 1, "", "where None is declared"),
)
"""What does not fit an annotation: annotation, value, where in it, and what is said."""

NO_FUNCTIONS: tuple[tuple[Any, str], ...] = (
    (42, "is made of a function, got 42"),
    ("name", "is made of a function, got 'name'"),
    (object(), "is made of a function, got <object"),
    (Fresh(forgotten), "got the coroutine of a call; pass the function itself"),
    (generate, "cannot be the generator function generate"),
    (generate_async, "cannot be the generator function generate_async"),
    (lambda: 1, "has no name"),
)
"""What no body and no decorated step is."""

NO_BACKOFFS: tuple[tuple[Any, str], ...] = (
    ("1s", "backoff must be a Backoff such as exponential(\"1s\") or a function, got '1s'"),
    (10, "or a function, got 10"),
    (timedelta(1), "or a function, got datetime.timedelta"),
    (ValueError, "or a function, got <class 'ValueError'>"),
    (call, "must be a plain function, got the async"),
)
"""What no back-off is."""

NO_RETRY_ONS: tuple[tuple[Any, str], ...] = (
    ("ValueError", "retry_on must be exception classes or a function, got 'ValueError'"),
    (ValueError("x"), "got ValueError('x')"),
    ((ValueError, 3), "must hold exception classes, got 3"),
    ([ValueError], "got [<class 'ValueError'>]"),
    (int, "got <class 'int'>"),
    (call, "must be a plain function, got the async"),
)
"""What does not choose errors."""
