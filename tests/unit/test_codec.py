"""The codec: what comes back equals what went in, and everything else is refused with its path."""

import asyncio
import collections
import contextlib
import dataclasses
import functools
import inspect
import itertools
import json
import math
import os
import subprocess
import sys
import threading
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum, auto
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from unittest.mock import MagicMock, Mock
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perdure.codec
from perdure.codec import Arguments, Schema, fingerprint, schema
from perdure.codec.failures import (
    ErrorSummary,
    decode_error,
    encode_error,
    error_summary,
    replayed_error,
)
from perdure.errors import DefinitionError, InvalidValue, NonRetryable, RetryAfter, StepFailed

T = TypeVar("T")
U = TypeVar("U")


def exactly(left, right):
    """Whether two values are equal in type and value, all the way down; no code of the codec."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return len(left) == len(right) and all(
            exactly(a, b) and exactly(left[a], right[b]) for a, b in zip(left, right, strict=True)
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(exactly, left, right))
    if isinstance(left, (set, frozenset)):
        return left == right and sorted(map(repr, map(type, left))) == sorted(
            map(repr, map(type, right))
        )
    if dataclasses.is_dataclass(left):
        names = [f.name for f in dataclasses.fields(left)]
        return all(exactly(getattr(left, name), getattr(right, name)) for name in names)
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return left == right


def round_trip(annotation, value):
    """Return what a replay sees, having checked that decoding says the same."""
    data, seen = schema(annotation).round_trip(value)
    assert type(data) is bytes
    assert exactly(schema(annotation).decode(data), seen)
    assert schema(annotation).encode(value) == data
    return seen


def refusal(annotation, value):
    """Return the error with which a value is refused."""
    with pytest.raises(InvalidValue) as caught:
        schema(annotation).round_trip(value)
    assert caught.value.path in str(caught.value)
    return caught.value


# ---- values without an annotation ---------------------------------------------------------------

OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**200), 10**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.datetimes()
    | st.datetimes(timezones=OFFSETS)
    | st.dates()
    | st.times()
    | st.times(timezones=OFFSETS)
    | st.timedeltas()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.uuids()
    | st.binary()
)
KEYS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
VALUES = st.recursive(
    SCALARS | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.just("$"), inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=400)
@given(VALUES)
def test_untyped_values_come_back_equal_in_type_and_value(value):
    """Plain data with builtin extras survives, and decoding gives what the first pass saw."""
    assert exactly(round_trip(Any, value), value)


@pytest.mark.parametrize(
    "value",
    [
        {"$": 1},
        {"$": ["datetime", "2026-01-01T00:00:00"]},
        {"$": ["dict", []]},
        {"$": {"$": {"$": [{"$": None}]}}},
        {"a": {"$": (1, 2)}},
        {1: "int", "1": "text", 1.5: "float", None: "none", (1, 2): "tuple"},
        {True: 1},
        {b"k": b"v"},
        "$",
        ["$", {"x": "$"}],
        -0.0,
        2**63,
        -(2**64),
        10**3999,
        "\x00\x1f\u2028\U0010ffff",
        Decimal("-0E-20"),
        datetime(9999, 12, 31, 23, 59, 59, 999999),  # noqa: DTZ001
        time(1, 2, tzinfo=UTC),
        timedelta.min,
        timedelta.max,
        b"\x00\xff",
        set(),
        frozenset({frozenset()}),
        (),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_untyped_corner_cases_survive(value):
    """What looks like a tag, a key that is no text and extremes come back as they were."""
    assert exactly(round_trip(Any, value), value)


@pytest.mark.parametrize("annotation", [Any, object, inspect.Parameter.empty])
def test_no_annotation_means_by_value(annotation):
    """Any and object take whatever can be represented."""
    assert round_trip(annotation, {"a": (1, {2})}) == {"a": (1, {2})}


def test_the_first_pass_shares_nothing_with_the_original():
    """Changing the value afterwards does not change what was seen, and the other way round."""
    original = {"items": [1, {"a": [2]}], "at": (3, [4])}
    seen = round_trip(Any, original)
    seen["items"][1]["a"].append(5)
    seen["at"][1].append(6)
    assert original == {"items": [1, {"a": [2]}], "at": (3, [4])}
    typed = [[1], [2]]
    assert round_trip(list[list[int]], typed)[0] is not typed[0]


def test_one_object_twice_becomes_two():
    """Sharing inside a value is not kept, on the first pass as little as on a replay."""
    part = [1]
    seen = round_trip(Any, [part, part])
    assert seen[0] is not seen[1]


def test_subclasses_of_scalars_become_the_scalar_they_equal():
    """A subclass of str, int, float or datetime is seen as the plain one from the first pass on."""

    class Text(str):
        __slots__ = ()

        def __str__(self):
            return "something else"

    class Number(int):
        pass

    class Moment(datetime):
        pass

    value = [Text("a"), Number(3), Moment(2026, 1, 1, tzinfo=UTC), {Text("k"): 1}]
    assert exactly(round_trip(Any, value), ["a", 3, datetime(2026, 1, 1, tzinfo=UTC), {"k": 1}])
    assert exactly(round_trip(str, Text("a")), "a")
    assert exactly(round_trip(int, Number(3)), 3)
    assert exactly(round_trip(datetime, Moment(2026, 1, 1)), datetime(2026, 1, 1))  # noqa: DTZ001


def test_a_named_zone_becomes_its_offset():
    """An aware datetime keeps its instant and offset; a naive one stays naive."""
    there = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Vienna"))
    seen = round_trip(Any, there)
    assert seen == there
    assert seen.tzinfo == timezone(timedelta(hours=2))
    assert round_trip(datetime, datetime(2026, 7, 1)).tzinfo is None  # noqa: DTZ001


def test_equal_sets_have_equal_bytes():
    """Members are sorted, so that the order of insertion and the hash seed do not count."""
    one, two = set(), set()
    for n in range(50):
        one.add(f"item-{n}")
        two.add(f"item-{49 - n}")
    assert schema(Any).encode(one) == schema(Any).encode(two)
    assert schema(set[str]).encode(one) == schema(set[str]).encode(two)


def nested(depth, make=lambda inner: [inner]):
    value = None
    for _ in range(depth):
        value = make(value)
    return value


def circular():
    value = {"a": []}
    value["a"].append(value)
    return value


def branching():
    value = []
    value.extend([value, value])
    return value


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item:
    price: Decimal
    note: str = ""


class Lock:
    """A class of which nothing is known."""


class Struct(msgspec.Struct):
    x: int = 1


class Model(pydantic.BaseModel):
    x: int = 1


class Pair(NamedTuple):
    left: int
    right: str = "r"


async def coroutine():
    """Never awaited: it is closed by the fixture below."""


@pytest.fixture
def call():
    made = coroutine()
    yield made
    made.close()


BAD = [
    ({"a": [float("nan")]}, "$.a[0]", "<float> nan"),
    (float("inf"), "$", "<float> inf"),
    (Decimal("NaN"), "$", "<Decimal> NaN"),
    (Decimal("-Infinity"), "$", "<Decimal>"),
    ({"a": "\ud800"}, "$.a", "lone surrogate"),
    ({"\udfff": 1}, "$<key>", "lone surrogate"),
    ({"x": {"a", "\ud800"}}, "$.x<member>", "lone surrogate"),
    ([datetime(2026, 1, 1, tzinfo=UTC), "\ud800"], "$[1]", "lone surrogate"),
    (10**4000, "$", "more than 4,000 digits"),
    (-(10**5000), "$", "more than 4,000 digits"),
    ({"items": [1, 2, {"price": 1j}]}, "$.items[2].price", "<complex>"),
    ({"a b": {1: object()}}, '$["a b"][1]', "<object>"),
    ({(1, object()): 1}, "$<key>[1]", "<object>"),
    (len, "$", "code, not data"),
    (lambda: 1, "$", r"did you forget the `\(\)`"),
    ([].append, "$", "code, not data"),
    ((n for n in ()), "$", "used up by reading it once"),
    (sys, "$", "module, not data"),
    (int, "$", "class, not data"),
    (ValueError("x"), "$", "raise it"),
    (Colour.RED, "$", "annotate the place with Colour"),
    (Item(Decimal(1)), "$", "annotate the place with Item"),
    (Struct(), "$", "annotate the place with Struct"),
    (Model(), "$", "annotate the place with Model"),
    (Pair(1), "$", "annotate the place with Pair"),
    (collections.OrderedDict(a=1), "$", r"plain dict; return dict\(value\)"),
    (collections.defaultdict(list), "$", r"return dict\(value\)"),
    (range(3), "$", "<range>"),
    (iter([]), "$", "<list_iterator>"),
    ({1: 2}.keys(), "$", "<dict_keys>"),
    (memoryview(b"x"), "$", "<memoryview>"),
    (nested(101), "$" + "[0]" * 32, "nested more than 100 levels"),
    (nested(100_000), "$" + "[0]" * 32, "nested more than 100 levels"),
    (nested(100_000, lambda inner: {"a": inner}), "$" + ".a" * 49, "nested more than 100 levels"),
    (nested(100_000, lambda inner: (inner,)), "$" + "[0]" * 32, "nested more than 100 levels"),
    (circular(), "$" + ".a[0]" * 19, "circular"),
    (branching(), "$" + "[0]" * 32, "circular"),
]


@pytest.mark.parametrize("value, path, why", BAD, ids=map(str, itertools.count()))
def test_untyped_values_that_are_refused(value, path, why):
    """What cannot be represented is refused where it is, with its path and what to do."""
    with pytest.raises(InvalidValue, match=why) as caught:
        schema(Any).round_trip(value)
    assert caught.value.path == path or (len(path) > 90 and caught.value.path.startswith(path))


@pytest.mark.parametrize(
    "make",
    [
        lambda inner: [inner],
        lambda inner: {"a": inner},
        lambda inner: (inner,),
        lambda inner: {1: inner},
        lambda inner: frozenset([inner]),
    ],
    ids=["list", "dict", "tuple", "pairs", "frozenset"],
)
def test_a_hundred_levels_are_allowed_whatever_the_stack(make):
    """The limit is a figure of the codec, not what the caller's stack leaves over."""
    value = nested(100, make)

    def deeper(n):
        if n > 0:
            return deeper(n - 1)
        assert fingerprint((value,), {}) != fingerprint((nested(99, make),), {})
        return schema(Any).decode(schema(Any).encode(value))

    assert exactly(deeper(350), value)


def test_a_call_that_was_not_awaited_gets_its_own_message(call):
    """A coroutine asks whether an await was forgotten."""
    assert "did you forget `await`" in str(refusal(Any, {"r": call}))
    assert "did you forget `await`" in str(refusal(str, call))


def test_numpy_s_advice():
    """A value of numpy's that is no Python scalar says how to get one."""
    made = type("int64", (), {"__module__": "numpy"})()
    assert ".item()" in str(refusal(Any, made))


# ---- stored bytes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "annotation, value, data",
    [
        (Any, None, b"null"),
        (Any, {"a": [1, 2.0, True]}, b'{"a":[1,2.0,true]}'),
        (Any, (1, {2}), b'{"$":["tuple",[1,{"$":["set",[2]]}]]}'),
        (Any, {1: 2}, b'{"$":["dict",[[1,2]]]}'),
        (Any, b"ab", b'{"$":["bytes","YWI="]}'),
        (Any, date(2026, 1, 2), b'{"$":["date","2026-01-02"]}'),
        (Any, timedelta(minutes=1), b'{"$":["timedelta","PT60S"]}'),
        (timedelta, timedelta(days=1), b'"P1D"'),
        (datetime, datetime(2026, 1, 2, tzinfo=UTC), b'"2026-01-02T00:00:00+00:00"'),
        (dict[int, Colour], {1: Colour.RED}, b'{"1":"red"}'),
        (Item, Item(Decimal("1.50")), b'{"price":"1.50","note":""}'),
        (Pair, Pair(1), b'[1,"r"]'),
        (Item | Pair | None, Item(Decimal(1)), b'{"price":"1","note":""}'),
        (int | datetime, datetime(2026, 1, 2), b'"2026-01-02T00:00:00"'),  # noqa: DTZ001
        (str | date, date(2026, 1, 2), b'{"$":["date","2026-01-02"]}'),
    ],
    ids=map(str, itertools.count()),
)
def test_the_stored_form_is_fixed(annotation, value, data):
    """What is stored outlives a release, so its form may not change."""
    assert schema(annotation).encode(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"nul",
        b"NaN",
        b"[1,]",
        b'"\xff"',
        b'"\\ud800"',
        b"[" * 100_000,
        b"1e999",
        b'{"$":1}',
        b'{"$":["pickle","gASV"]}',
        b'{"$":["datetime","yesterday"]}',
        b'{"$":["datetime",5]}',
        b'{"$":["bytes","%"]}',
        b'{"$":["decimal","NaN"]}',
        b'{"$":["decimal","x"]}',
        b'{"$":["uuid","x"]}',
        b'{"$":["set",[[]]]}',
        b'{"$":["set",{}]}',
        b'{"$":["tuple",null]}',
        b'{"$":["dict",[[1]]]}',
        b'{"$":["dict",[[[],1]]]}',
        b'{"$":["dict",5]}',
        b'{"$":["tuple",[]],"more":1}',
        b'{"$":["tuple",[],[]]}',
        b'[{"a":{"$":[]}}]',
    ],
)
def test_bytes_that_are_not_ours_are_refused(data):
    """Damaged or foreign bytes are InvalidValue, never another exception and never code."""
    with pytest.raises(InvalidValue, match="stored is"):
        schema(Any).decode(data)


@given(
    st.binary(max_size=40)
    | st.text(alphabet='{}[]"$:,0123456789aeilnrstu', max_size=40).map(str.encode)
)
def test_no_bytes_break_the_decoder(data):
    """Whatever is in the store, decoding gives a value or InvalidValue."""
    for annotation in (Any, dict[str, int], Item | Pair, set[tuple[int, ...]]):
        with contextlib.suppress(InvalidValue):
            schema(annotation).decode(data)


# ---- values with an annotation ------------------------------------------------------------------


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Mood(StrEnum):
    GOOD = auto()


class Odd(Enum):
    TUPLE = (1, 2)
    NOTHING = None
    YES = True
    ONE = 1


class Rights(Flag):
    READ = auto()
    WRITE = auto()


@dataclass
class Line:
    sku: str
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    id: UUID
    lines: list[Line]
    placed_at: datetime
    discount: float | None = None
    tags: frozenset[str] = frozenset()
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Tree:
    value: int
    children: list["Tree"] = field(default_factory=list)
    parent: "Tree | None" = None


@dataclass
class Box(Generic[T]):
    content: T
    more: list[T] = field(default_factory=list)


@dataclass
class DateBox(Box[date]):
    label: str = ""


@dataclass
class Two(Generic[T, U]):
    left: T
    right: Box[U]


class Movie(TypedDict):
    name: str
    year: NotRequired[int]


class Partial(TypedDict, total=False):
    a: int
    b: typing.Required[Line]


class Renamed(
    msgspec.Struct, rename="camel", frozen=True, tag="renamed", forbid_unknown_fields=True
):
    first_name: str
    born_on: date | None = None


class Other(msgspec.Struct, tag="other", array_like=True):
    first_name: str
    hidden: str | msgspec.UnsetType = msgspec.UNSET


class Positive(msgspec.Struct):
    n: Annotated[int, msgspec.Meta(gt=0, le=10)]
    code: Annotated[str, msgspec.Meta(pattern="^[a-z]+$", max_length=3)] = "abc"


UserId = typing.NewType("UserId", str)


@pytest.mark.parametrize(
    "annotation, value",
    [
        (None, None),
        (bool, True),
        (int, -5),
        (int, 10**100),
        (float, 1.5),
        (str, "é"),
        (bytes, b"\x00"),
        (bytearray, bytearray(b"x")),
        (Decimal, Decimal("1E+3")),
        (UUID, UUID(int=1)),
        (date, date(1, 1, 1)),
        (time, time(23, 59, 59, 999999)),
        (Colour, Colour.BLUE),
        (Size, Size.LARGE),
        (Mood, Mood.GOOD),
        (Odd, Odd.TUPLE),
        (Odd, Odd.NOTHING),
        (Odd, Odd.YES),
        (Rights, Rights.READ | Rights.WRITE),
        (Rights, Rights(0)),
        (Literal[1, "a", None], 1),  # noqa: PYI061
        (Literal["a", Colour.RED, b"x"], Colour.RED),
        (Literal["a", Colour.RED, b"x"], b"x"),
        (Literal[True, 2], True),
        (list[int], [1, 2]),
        (list[list[str | None]], [["a", None], []]),
        (set[int], {3, 1}),
        (frozenset[date], frozenset({date(2026, 1, 1)})),
        (tuple[int, ...], (1, 2)),
        (tuple[int, str], (1, "a")),
        (tuple[()], ()),
        (tuple, (1, "a")),
        (list, [1, (2,)]),
        (dict, {1: 2}),
        (dict[str, Any], {"$": {1}}),
        (dict[str, int], {"$": 1, "": 2}),
        (dict[int, str], {-1: "a"}),
        (dict[UUID, int], {UUID(int=1): 1}),
        (dict[tuple[int, int], str], {(1, 2): "a"}),
        (dict[str | int, int], {"1": 1, 1: 2}),
        (dict[Colour, int], {Colour.RED: 1}),
        (dict[bool, int], {True: 1}),
        (Sequence[int], (1, 2)),
        (Sequence[int], [1, 2]),
        (Iterable[int], {1, 2}),
        (Mapping[str, int], {"a": 1}),
        (int | str, "1"),
        (int | float, 1),
        (int | float, 1.0),
        (float | None, None),
        (str | bytes, b"a"),
        (str | bytes, "a"),
        (str | datetime | date, date(2026, 1, 1)),
        (str | datetime | date, "2026-01-01"),
        (list[int] | list[str], ["a"]),
        (list[int] | list[float], [1, 2]),
        (list[int] | list[float], [1.0]),
        (list[int] | set[int], {1}),
        (Literal["auto"] | int, "auto"),
        (Literal["auto"] | str, "manual"),  # noqa: PYI051
        (bool | int | None, True),
        (bool | int | None, 1),
        (Size | int, Size.SMALL),
        (Size | int, 1),
        (Mood | str, Mood.GOOD),
        (Mood | str, "good"),
        (dict[str, int] | Line, Line("a")),
        (dict[str, int] | Line, {"sku": 1}),
        (dict[str, int] | list[int] | None, {"$": 1}),
        (Line, Line("a", 2)),
        (list[Line], [Line("a")]),
        (
            Order,
            Order(
                id=UUID(int=3),
                lines=[Line("a")],
                placed_at=datetime(2026, 1, 1, tzinfo=UTC),
                tags=frozenset({"x"}),
                extra={"at": date(2026, 1, 1), "t": (1, 2)},
            ),
        ),
        (Tree, Tree(1, [Tree(2, [Tree(3)])], Tree(0))),
        (Box[int], Box(1, [2])),
        (Box[Box[str]], Box(Box("a"))),
        (Box, Box((1, 2))),
        (DateBox, DateBox(date(2026, 1, 1), [date(2026, 1, 2)], "x")),
        (Two[int, str], Two(1, Box("a"))),
        (Movie, {"name": "a"}),
        (Movie, {"name": "a", "year": 1}),
        (Partial, {"b": Line("a")}),
        (Pair, Pair(1, "x")),
        (Renamed, Renamed("a", date(2026, 1, 1))),
        (Other, Other("a")),
        (Other, Other("a", "b")),
        (Renamed | Other, Other("a")),
        (Positive, Positive(5)),
        (UserId, "u"),
        (Annotated[int, "anything"], 1),
        (Annotated[list[int], msgspec.Meta(min_length=1)], [1]),
        (typing.Optional[int], None),  # noqa: UP045 -- the old spelling
        (typing.List[typing.Dict[str, int]], [{"a": 1}]),  # noqa: UP006
    ],
    ids=map(str, itertools.count()),
)
def test_typed_values_come_back_equal_in_type_and_value(annotation, value):
    """Whatever an annotation can say survives as it says."""
    assert exactly(round_trip(annotation, value), value)


@settings(max_examples=200)
@given(st.data())
def test_generated_records_survive(data):
    """Instances that are built from the annotations come back equal."""
    for cls in (Order, Tree, Item):
        built = data.draw(st.builds(cls, **_finite(cls)))
        assert exactly(round_trip(cls, built), built)


def _finite(cls):
    if cls is Item:
        return {"price": st.decimals(allow_nan=False, allow_infinity=False)}
    if cls is Order:
        return {
            "placed_at": st.datetimes(timezones=OFFSETS),
            "discount": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "extra": st.dictionaries(st.text(), VALUES, max_size=2),
        }
    return {}


def test_an_int_where_a_float_is_declared_is_that_float_from_the_first_pass_on():
    """The language takes an int for a float; the first pass sees the float already."""
    assert exactly(round_trip(float, 1), 1.0)
    assert exactly(round_trip(list[float | None], [1, None]), [1.0, None])
    assert "no float holds exactly" in str(refusal(float, 2**53 + 1))
    assert "no float holds exactly" in str(refusal(float, 10**400))


@pytest.mark.parametrize(
    "annotation, value, path, why",
    [
        (int, True, "$", "a bool is not one"),
        (int, 1.0, "$", "<float> at"),
        (int, "1", "$", "<str> at"),
        (int, Size.SMALL, "$", "<Size> at"),
        (float, True, "$", "<bool> at"),
        (float, math.nan, "$", "<float> nan"),
        (float | None, math.inf, "$", "<float> inf"),
        (str, b"a", "$", "<bytes> at"),
        (str, date(2026, 1, 1), "$", "<date> at"),
        (str, Mood.GOOD, "$", "<Mood> at"),
        (str, "\ud800", "$", "lone surrogate"),
        (bytes, "a", "$", "<str> at"),
        (datetime, "2026-01-01", "$", "<str> at"),
        (date, datetime(2026, 1, 1, tzinfo=UTC), "$", "<datetime> at"),
        (None, 0, "$", "where None is declared"),
        (Decimal, 1.5, "$", "<float> at"),
        (list[int], (1,), "$", r"where list\[int\] is declared"),
        (list[int], [1, "a"], "$[1]", "<str> at"),
        (set[int], {1, "a"}, "$<member>", "<str> at"),
        (tuple[int, str], (1,), "$", "1 items"),
        (tuple[int, str], (1, 2), "$[1]", "where str is declared"),
        (dict[str, int], {1: 1}, "$<key>", "<int> at"),
        (dict[str, int], {"a": "b"}, "$.a", "<str> at"),
        (dict[str, float], {"a": {"b": 1}}, "$.a", "<dict> at"),
        (dict, collections.defaultdict(int), "$", "<defaultdict> at"),
        (Colour, "red", "$", "<str> at"),
        (Literal["a"], "b", "$", "'b' at"),
        (Literal[1], True, "$", "True at"),
        (int | str, 1.5, "$", r"where int \| str is declared"),
        (list[int] | None, ["a"], "$[0]", "<str> at"),
        (Line, {"sku": "a"}, "$", "<dict> at"),
        (Line, Line(1), "$.sku", "<int> at"),
        (Line, Line("\ud800"), "$.sku", "lone surrogate"),
        (list[Line], [Line("a"), Line("b", True)], "$[1].count", "a bool is not one"),
        (Item, Item(Decimal("sNaN")), "$.price", "<Decimal>"),
        (
            Tree,
            nested(300, lambda inner: Tree(1, [inner] if inner else [])),
            "$" + ".children[0]" * 7,
            "nested",
        ),
        (Movie, {"year": 1}, "$.name", "requires a value"),
        (Movie, {"name": "a", "yaer": 1}, "$", "the key 'yaer'"),
        (Pair, (1, "a"), "$", "<tuple> at"),
        (Pair, Pair(1, 2), "$.right", "<int> at"),
        (Positive, Positive(0), "$.n", "must be greater than 0"),
        (Positive, Positive(11), "$.n", "must be at most 10"),
        (Positive, Positive(1, "A"), "$.code", "must match"),
        (Renamed, Other("a"), "$", "<Other> at"),
        (Box[int], Box("a"), "$.content", "<str> at"),
        (UserId, 1, "$", "<int> at"),
    ],
    ids=map(str, itertools.count()),
)
def test_typed_values_that_are_refused(annotation, value, path, why):
    """A value of another type is refused, never converted, with its path."""
    with pytest.raises(InvalidValue, match=why) as caught:
        schema(annotation).round_trip(value)
    assert caught.value.path == path or (len(path) > 80 and caught.value.path.startswith(path))


@pytest.mark.parametrize(
    "annotation, data, path",
    [
        (int, b"1.5", "$"),
        (int, b"true", "$"),
        (str, b"1", "$"),
        (Line, b'{"count":1}', "$.sku"),
        (Line, b'{"sku":1}', "$.sku"),
        (list[Line], b'[{"sku":"a","count":"b"}]', "$[0].count"),
        (Colour, b'"green"', "$"),
        (Literal[1], b"true", "$"),
        (dict[int, int], b'{"a":1}', "$.a"),
        (dict[int, int], b'{"1e3":1}', '$["1e3"]'),
        (tuple[int, int], b"[1]", "$"),
        (Renamed, b'{"firstName":"a","more":1}', "$"),
        (Renamed, b'{"type":"other","firstName":"a"}', "$.type"),
        (Positive, b'{"n":99}', "$.n"),
        (int | None, b'"a"', "$"),
        (Renamed | Other, b'{"type":"third"}', "$.type"),
        (set[list[int]], b"[[1]]", "$"),
    ],
    ids=map(str, itertools.count()),
)
def test_stored_data_is_checked_again(annotation, data, path):
    """Data that does not fit the annotation any more is refused when it is read."""
    with pytest.raises(InvalidValue, match="stored is") as caught:
        schema(annotation).decode(data)
    assert caught.value.path == path


def test_unknown_stored_fields_are_passed_over_and_new_ones_take_their_default():
    """An older worker reads what a newer one wrote, and the other way round."""
    assert schema(Line).decode(b'{"sku":"a","colour":"red"}') == Line("a", 1)
    assert schema(Movie).decode(b'{"name":"a","stars":5}') == {"name": "a"}
    assert schema(Pair).decode(b"[1]") == Pair(1, "r")


def test_a_subclass_where_its_base_is_declared_is_refused():
    """Its own fields would be lost, so it is not written as its base."""

    @dataclass
    class Special(Line):
        colour: str = "red"

    assert "whose own fields would be lost" in str(refusal(Line, Special("a")))


def test_checks_of_a_class_run_but_its_changes_are_not_made_twice():
    """``__post_init__`` validates what is read, and what it changed is taken as stored."""

    @dataclass
    class Priced:
        cents: int
        total: int = field(init=False, default=0)

        def __post_init__(self):
            if self.cents < 0:
                raise ValueError("no negative prices")
            self.cents += 10
            self.total = self.cents * 2

    assert exactly(round_trip(Priced, Priced(1)), Priced(1))
    with pytest.raises(InvalidValue, match="no negative prices"):
        schema(Priced).decode(b'{"cents":-1}')


def test_a_class_with_an_init_of_its_own():
    """Where ``__init__`` takes something else than the fields, the fields are set."""

    @dataclass
    class Sum:
        first: dataclasses.InitVar[int]
        total: int = field(init=False)
        parts: list[int] = field(default_factory=list)

        def __post_init__(self, first):
            self.total = first

    assert round_trip(Sum, Sum(5)) == Sum(5)
    assert schema(Sum).decode(b'{"total":5}') == Sum(5)


def test_a_dataclass_that_is_none_itself_is_refused_while_it_is_declared():
    """Fields of an undecorated subclass would be lost without a word."""

    class Careless(Line):
        colour: str = "red"

    with pytest.raises(DefinitionError, match="decorate it with @dataclass"):
        schema(Careless)


@dataclass
class Card:
    kind: Literal["card"]
    number: str


@dataclass
class Cash:
    kind: Literal["cash", "coins"]
    cents: int = 0


@dataclass
class Metres:
    value: float


@dataclass
class Feet:
    value: float


def test_a_literal_field_tells_members_apart():
    """Where each member has a Literal field of its own, that is all the stored form needs."""
    payment = Card | Cash | None
    assert schema(payment).encode(Cash("coins", 5)) == b'{"kind":"coins","cents":5}'
    assert round_trip(payment, Card("card", "1")) == Card("card", "1")
    assert schema(payment).decode(b'{"kind":"cash"}') == Cash("cash", 0)
    with pytest.raises(InvalidValue, match=r"use one of \['card', 'cash', 'coins'\]"):
        schema(payment).decode(b'{"kind":"cheque"}')


class Email(TypedDict):
    kind: NotRequired[Literal["email"]]
    to: str


class Letter(TypedDict):
    kind: NotRequired[Literal["letter"]]
    to: str
    stamp: NotRequired[int]


def test_a_literal_that_may_be_missing_tells_nothing():
    """A key that need not be there cannot be what data is told apart by."""
    for value in ({"to": "a"}, {"to": "a", "kind": "letter"}, {"to": "a", "stamp": 1}):
        assert exactly(round_trip(Email | Letter, value), value)


def test_members_that_look_alike_are_told_apart_by_their_class():
    """The member is the exact class of the value, and its name is stored."""
    for value in (Metres(1.0), Feet(1.0)):
        assert exactly(round_trip(Metres | Feet, value), value)
        assert exactly(round_trip(dict[str, list[Feet | Metres]], {"a": [value]}), {"a": [value]})


def test_data_from_outside_must_fit_one_member():
    """JSON without a member's name is read only if one member alone accepts it."""
    assert schema(Line | Item).decode(b'{"sku":"a"}') == Line("a")
    with pytest.raises(InvalidValue, match=r"fits 2 members of Feet \| Metres"):
        schema(Metres | Feet).decode(b'{"value":1.5}')


def test_the_order_of_members_does_not_count():
    """Python holds int | str and str | int for equal, so both store the same."""
    value = date(2026, 1, 1)
    one, two = Schema(str | date | None), Schema(None | date | str)
    assert one.encode(value) == two.encode(value)
    assert two.decode(one.encode("2026-01-01")) == "2026-01-01"


def test_members_of_one_name_are_refused():
    """Two classes of one name could not be told apart."""

    def make():
        @dataclass
        class Line:
            other: int

        return Line

    with pytest.raises(DefinitionError, match="two members of a union are called Line"):
        schema(Line | make())
    with pytest.raises(DefinitionError, match=r"called list\[Line\]"):
        schema(list[Line] | list[make()])


def test_values_of_a_literal_that_are_stored_alike_are_refused():
    """An Enum's member and its bare value could not be told apart."""
    with pytest.raises(DefinitionError, match=r"two values of Literal.* are stored as 'red'"):
        schema(Literal["red", Colour.RED])


@pytest.mark.parametrize(
    "annotation",
    [
        Lock,
        list[type("Client", (), {})],
        typing.Callable[[int], int],
        type[int],
        collections.deque[int],
        Iterable[typing.Generator[int, None, None]],
        tuple[int, *tuple[str, ...]],
        3,
    ],
    ids=map(str, itertools.count()),
)
def test_annotations_that_cannot_be_stored_are_refused_at_once(annotation):
    """A class of which no value can be stored is a DefinitionError, not a surprise later."""
    with pytest.raises(DefinitionError, match="cannot be stored"):
        schema(annotation)


def test_the_field_that_cannot_be_stored_is_named():
    """The message says which field of which class it is."""

    @dataclass
    class Service:
        client: Lock

    with pytest.raises(DefinitionError, match=r"Service\.client: values of Lock cannot be stored"):
        schema(Service)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is of Python 3.12")
def test_recursive_aliases():
    """A type alias that names itself has a schema, and values too deep for it are refused."""
    space = {}
    exec("type Json = dict[str, Json] | list[Json] | str | int | None", space)
    value = {"a": [1, {"b": None}], "c": "x"}
    assert exactly(round_trip(space["Json"], value), value)
    assert refusal(space["Json"], {"a": [1.5]}).path == "$.a[0]"
    assert "nested more" in str(refusal(space["Json"], circular()))


def test_a_schema_is_made_once():
    """Asking again is cheap."""
    assert schema(list[Line]) is schema(list[Line])


def test_unhashable_metadata_is_no_obstacle():
    """An Annotated that cannot be a dictionary's key has a schema all the same."""
    assert round_trip(Annotated[int, ["unhashable"]], 1) == 1


def test_a_class_declared_later_is_found_at_first_use():
    """A schema made before its classes exist works once they do."""
    namespace = {}
    exec(  # a module that is read top to bottom
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Early:\n"
        "    late: Late\n",
        {"__name__": __name__, **namespace},
        namespace,
    )
    early = namespace["Early"]
    early.__module__ = __name__
    waiting = schema(early)
    with pytest.raises(DefinitionError, match="name 'Late' is not defined"):
        waiting.encode(None)
    globals()["Late"] = Line
    try:
        assert waiting.decode(b'{"late":{"sku":"a"}}') == early(Line("a"))
    finally:
        del globals()["Late"]


def test_the_verb_is_the_caller_s():
    """A message says how the value came to the codec."""
    with pytest.raises(InvalidValue, match=r"^published <str> at \$, where int is declared"):
        schema(int).encode("a", verb="published")


# ---- pydantic -----------------------------------------------------------------------------------


class Address(pydantic.BaseModel, frozen=True):
    street: str
    zip_code: int = pydantic.Field(alias="zip", default=0)


class Customer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    name: str = pydantic.Field(validation_alias="customerName", serialization_alias="n")
    born: date
    address: Address | None = None
    score: float | None = None
    spent: Decimal = Decimal(0)

    @pydantic.computed_field
    @property
    def shout(self) -> str:
        return self.name.upper()


class Strict(pydantic.BaseModel, extra="forbid"):
    n: int = pydantic.Field(strict=True, gt=0)
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    name: str = ""


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    name: str = ""


class PlainA(pydantic.BaseModel):
    x: int = 0


class PlainB(pydantic.BaseModel):
    x: int = 0


class Names(pydantic.RootModel[list[str]]):
    pass


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


@pydantic.dataclasses.dataclass
class Checked:
    n: pydantic.PositiveInt


@dataclass
class Holder:
    customer: Customer
    cats: list[Cat | Dog] = field(default_factory=list)


class Holding(msgspec.Struct):
    names: Names
    by_id: dict[int, Cat] = {}


CUSTOMER = Customer(customerName="a", born=date(2026, 1, 1), address=Address(street="s", zip=5))


@pytest.mark.parametrize(
    "annotation, value",
    [
        (Customer, CUSTOMER),
        (Customer | None, None),
        (list[Customer], [CUSTOMER]),
        (dict[str, Customer | None], {"a": CUSTOMER, "b": None}),
        (dict[Customer, int], {CUSTOMER: 1}),
        (tuple[Customer, date], (CUSTOMER, date(2026, 1, 1))),
        (set[Customer], {CUSTOMER}),
        (Strict, Strict(n=1)),
        (Cat | Dog, Dog(name="x")),
        (PlainA | PlainB, PlainB(x=1)),
        (Names | list[str], Names(["a"])),
        (Names | list[str], ["a"]),
        (Names, Names(["a"])),
        (Page[int], Page[int](items=[1])),
        (list[Page[Cat]], [Page[Cat](items=[Cat()])]),
        (Checked, Checked(1)),
        (Holder, Holder(CUSTOMER, [Dog(), Cat()])),
        (Holding, Holding(Names(["a"]), {1: Cat()})),
        (Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], Dog()),
        (pydantic.PositiveInt, 5),
        (pydantic.PositiveInt | None, None),
        (dict[str, pydantic.AnyUrl], {"a": pydantic.AnyUrl("https://a.b/c")}),
    ],
    ids=map(str, itertools.count()),
)
def test_pydantic_s_types_survive(annotation, value):
    """Models, and whatever holds them, come back equal."""
    assert round_trip(annotation, value) == value
    assert type(round_trip(annotation, value)) is type(value)


def test_a_model_parses_what_its_rules_allow_and_stores_the_parsed_value():
    """A dict becomes the model and a text an int, once; what is stored is the result."""
    data, seen = schema(list[Address]).round_trip([{"street": "s", "zip": "12"}])
    assert seen == [Address(street="s", zip=12)]
    assert data == b'[{"street":"s","zip_code":12}]'


@pytest.mark.parametrize(
    "annotation, value, path, why",
    [
        (Customer, {"customerName": "a"}, "$.born", "Field required"),
        (list[Strict], [Strict(n=1), {"n": 0}], "$[1].n", "greater than 0"),
        (Strict, {"n": 1, "m": 2}, "$.m", "Extra inputs"),
        (Strict, Strict.model_construct(n="a"), "$.n", "valid integer"),
        (Customer, CUSTOMER.model_copy(update={"score": math.nan}), "$", "come back changed"),
        (Customer, CUSTOMER.model_copy(update={"name": "\ud800"}), "$", "cannot write|surrogate"),
        (Cat, Dog(), "$", "Cat refuses|valid dictionary"),
        (dict[str, Cat], {"a": Dog()}, "$.a", "Cat refuses"),
        (Cat | Dog, PlainA(), "$", r"where Cat \| Dog is declared"),
        (pydantic.SecretStr, pydantic.SecretStr("x"), "$", "come back changed"),
    ],
    ids=map(str, itertools.count()),
)
def test_models_that_are_refused(annotation, value, path, why):
    """What a model refuses, or what JSON would change in it, is refused with its path."""
    with pytest.raises(InvalidValue, match=why) as caught:
        schema(annotation).round_trip(value)
    assert caught.value.path == path


def test_a_subclass_of_a_model_is_not_cut_down_to_its_base():
    """Pydantic would write the declared fields only; that is refused."""

    class Tiger(Cat):
        stripes: int = 9

    assert "come back changed" in str(refusal(Cat, Tiger()))


def test_the_codec_does_not_import_pydantic():
    """Pydantic is an extra: the core looks for it only where a user has imported it."""
    code = (
        "import sys, perdure.codec as c; c.schema(list[int]).encode([1]); "
        "assert not any(m.startswith('pydantic') for m in sys.modules)"
    )
    run_python(code)


def run_python(code, **environment):
    """Run code in a new interpreter and return what it prints."""
    source = str(Path(perdure.codec.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": source, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- argument lists -----------------------------------------------------------------------------


class Context:
    pass


def is_context(annotation):
    return annotation is Context


def charge(order_id: str, cents: int = 5, *, note: str | None = None) -> str: ...


def everything(a, /, b: Line, c: int = 1, *rest: date, d: float, e: str = "e", **others: bool): ...


def injected(first: int, ctx: Context, last: str = "x", *, other: Context): ...


def placed(ctx: Context, a: int, b: int = 2, /, *rest: int): ...


def stored(arguments, *args, **kwargs):
    return arguments.decode(arguments.encode(args, kwargs))


def test_arguments_come_back_by_name():
    """What can go by name does; defaults are left out of what is stored."""
    arguments = Arguments(charge)
    assert arguments.encode(("o1", 5), {}) == b'{"order_id":"o1"}'
    assert arguments.encode(("o1",), {"cents": 7}) == b'{"order_id":"o1","cents":7}'
    assert stored(arguments, "o1", 7, note="n") == (
        (),
        {"order_id": "o1", "cents": 7, "note": "n"},
    )


def test_every_kind_of_parameter():
    """Positional-only, keyword-only, *args and **kwargs come back so that the call works."""
    arguments = Arguments(everything)
    today = date(2026, 1, 1)
    assert stored(arguments, (1, 2), Line("a"), d=1) == (((1, 2),), {"b": Line("a"), "d": 1.0})
    assert stored(arguments, 1, Line("a"), 2, today, d=1.5, z=True) == (
        (1, Line("a"), 2, today),
        {"d": 1.5, "z": True},
    )
    everything(*stored(arguments, 1, Line("a"), 1, today, d=1.5)[0], d=1)
    data = arguments.encode((1, Line("a"), 1, today), {"d": 1.0})
    assert arguments.decode(data)[0] == (1, Line("a"), 1, today)


def test_injected_parameters_are_neither_stored_nor_counted():
    """The context is put in its place, wherever that is."""
    arguments = Arguments(injected, is_context)
    assert arguments.injected == ("ctx", "other")
    context = Context()
    args, kwargs = arguments.inject(*stored(arguments, 1, last="y"), context)
    assert (args, kwargs) == ((), {"first": 1, "last": "y", "ctx": context, "other": context})
    args, kwargs = Arguments(placed, is_context).inject((1, 2, 3), {}, context)
    assert (args, kwargs) == ((context, 1, 2, 3), {})
    assert stored(Arguments(placed, is_context), 1) == ((1,), {})


@pytest.mark.parametrize(
    "function, args, kwargs, path, why",
    [
        (charge, (), {}, "$.order_id", r"charge\(\) is missing 'order_id'"),
        (charge, ("o", 1, 2), {}, "$", "takes 2 positional arguments, got 3"),
        (charge, ("o",), {"order_id": "p"}, "$.order_id", "got 'order_id' twice"),
        (charge, ("o",), {"centz": 1}, "$.centz", "did you mean 'cents'"),
        (charge, ("o",), {"a b": 1}, '$["a b"]', "no parameter 'a b'"),
        (charge, ("o", "5"), {}, "$.cents", "got <str> at"),
        (charge, ("\ud800",), {}, "$.order_id", "lone surrogate"),
        (charge, ("o",), {"note": 5}, "$.note", "got <int> at"),
        (everything, (1, Line(2)), {"d": 1.0}, "$.b.sku", "got <int> at"),
        (everything, (1, Line("a"), 1, "x"), {"d": 1.0}, "$.rest[0]", "got <str> at"),
        (everything, (1, Line("a")), {"d": 1.0, "z": 1}, "$.z", "got <int> at"),
        (everything, (nested(300), Line("a")), {"d": 1.0}, None, "nested more than"),
        (everything, (), {"a": 1, "b": 2, "d": 3}, "$.a", "is missing 'a'"),
        (len, (), {}, "$.obj", "missing 'obj'"),
    ],
    ids=map(str, itertools.count()),
)
def test_wrong_calls_are_refused(function, args, kwargs, path, why):
    """A wrong call is InvalidValue with the function, the parameter and what was got."""
    with pytest.raises(InvalidValue, match=why) as caught:
        Arguments(function).encode(args, kwargs)
    assert path is None or caught.value.path == path


@pytest.mark.parametrize(
    "data, path",
    [
        (b"", "$"),
        (b"[]", "$"),
        (b"{}", "$.order_id"),
        (b'{"order_id":1}', "$.order_id"),
        (b'{"order_id":"a","gone":1}', "$.gone"),
        (b'{"order_id":"a","*":[1]}', '$["*"]'),
    ],
)
def test_stored_arguments_are_checked_again(data, path):
    """Stored arguments that do not fit the function any more are refused when it is executed."""
    with pytest.raises(InvalidValue, match=r"charge\(\)") as caught:
        Arguments(charge).decode(data)
    assert caught.value.path == path


def test_a_new_parameter_takes_its_default():
    """Input stored before a parameter existed works when that has a default."""
    assert Arguments(charge).decode(b'{"order_id":"a"}') == ((), {"order_id": "a"})


def test_a_model_s_parsed_value_is_what_is_stored():
    """A text that a model takes as an int is stored as the int, and read once more unchanged."""

    def ship(to: Address): ...

    arguments = Arguments(ship)
    assert arguments.encode(({"street": "s", "zip": "7"},), {}) == (
        b'{"to":{"street":"s","zip_code":7}}'
    )
    assert stored(arguments, {"street": "s", "zip": "7"})[1] == {"to": Address(street="s", zip=7)}


def test_a_default_that_no_value_equals():
    """A default that cannot be stored is left out when passed, and another like it refused."""

    default = Lock()

    def query(client: Any = default, limit: int = None): ...  # noqa: RUF013 -- as people write it

    arguments = Arguments(query)
    assert arguments.encode((default, None), {}) == b"{}"
    with pytest.raises(InvalidValue, match="JSON cannot store"):
        arguments.encode((Lock(),), {})


def test_a_default_of_another_type_is_not_left_out():
    """True is not 1: it is stored although the two are equal."""

    def f(x: Any = 1, y: Any = (1,)): ...

    assert Arguments(f).encode((True, (True,)), {}) != b"{}"
    assert stored(Arguments(f), True)[1]["x"] is True


def test_annotations_are_resolved_at_first_use():
    """A function may name a model that is declared below it."""
    space = {}
    exec("def f(x: 'Later'): ...", space)
    arguments = Arguments(space["f"])
    with pytest.raises(DefinitionError, match=r"f\(\) is not defined: name 'Later'"):
        arguments.encode((1,), {})
    space["Later"] = Line
    assert arguments.encode((Line("a"),), {}) == b'{"x":{"sku":"a","count":1}}'


def test_local_models_with_textual_annotations():
    """A model of the enclosing function is found although its name is in no module."""

    @dataclass
    class Local:
        x: int

    def f(value: "Local") -> "list[Local]": ...

    arguments = Arguments(f)
    assert stored(arguments, Local(1)) == ((), {"value": Local(1)})
    assert arguments.result.encode([Local(1)]) == b'[{"x":1}]'


def test_callables_of_all_kinds():
    """Methods, partials, callable objects and typed keyword dictionaries have arguments too."""

    class Service:
        def method(self, x: int): ...
        def __call__(self, y: date): ...

    class Options(TypedDict):
        z: NotRequired[int]

    def keyed(**options: typing.Unpack[Options]): ...

    assert stored(Arguments(Service().method), 1) == ((), {"x": 1})
    assert stored(Arguments(Service()), date(2026, 1, 1)) == ((), {"y": date(2026, 1, 1)})
    assert stored(Arguments(functools.partial(charge, cents=9)), "o")[1]["order_id"] == "o"
    assert stored(Arguments(keyed), z=1) == ((), {"z": 1})
    with pytest.raises(InvalidValue, match="does not declare"):
        Arguments(keyed).encode((), {"q": 1})


def test_what_has_no_signature_is_refused():
    """A builtin without a signature cannot be declared."""
    with pytest.raises(DefinitionError, match="no signature"):
        Arguments(type)


def test_a_parameter_that_cannot_be_stored_is_named():
    """The message says which parameter of which function it is."""

    def f(client: Lock): ...

    with pytest.raises(DefinitionError, match=r"parameter 'client' of .*f\(\): values of Lock"):
        Arguments(f).encode((1,), {})


def test_the_result_s_schema():
    """The return annotation has a schema; without one, any value."""
    assert Arguments(charge).result is schema(str)
    assert Arguments(everything).result is schema(Any)


# ---- fingerprints -------------------------------------------------------------------------------


DISTINCT = [
    ((), {}),
    ((None,), {}),
    ((1,), {}),
    ((True,), {}),
    ((1.0,), {}),
    (("1",), {}),
    ((b"1",), {}),
    ((bytearray(b"1"),), {}),
    ((Decimal(1),), {}),
    ((0.0,), {}),
    ((-0.0,), {}),
    (("a",), {}),
    ((b"a",), {}),
    (("a", "b"), {}),
    (("a,b",), {}),
    (('a","b',), {}),
    ((), {"x": "a"}),
    (("x=a",), {}),
    (('x="a"',), {}),
    ((), {'1,"x': "a"}),
    ((1,), {"x": "a"}),
    (({"x": "a"},), {}),
    (([],), {}),
    (({},), {}),
    ((set(),), {}),
    ((frozenset(),), {}),
    (((),), {}),
    (([1],), {}),
    (((1,),), {}),
    (({1},), {}),
    (({1: 2},), {}),
    (({"1": 2},), {}),
    (({"$": ["tuple", [1]]},), {}),
    (([[1], 2],), {}),
    (([1, [2]],), {}),
    ((float("nan"),), {}),
    ((float("inf"),), {}),
    ((Decimal("NaN"),), {}),
    (("\ud800",), {}),
    (("\udfff",), {}),
    (("\\ud800",), {}),
    ((10**5000,), {}),
    ((10**5000 + 1,), {}),
    ((date(2026, 1, 1),), {}),
    ((datetime(2026, 1, 1),), {}),  # noqa: DTZ001
    ((datetime(2026, 1, 1, tzinfo=UTC),), {}),
    ((Colour.RED,), {}),
    ((Colour.BLUE,), {}),
    ((Line("a"),), {}),
    ((Line("b"),), {}),
    ((Item(Decimal(1)),), {}),
    ((Pair(1),), {}),
    (((1, "r"),), {}),
    ((Struct(2),), {}),
    ((Model(x=2),), {}),
    ((collections.defaultdict(int),), {}),
    ((charge,), {}),
    ((everything,), {}),
    ((Context,), {}),
    ((Context(),), {}),
    ((len,), {}),
    ((functools.partial(charge, 1),), {}),
    ((functools.partial(charge, 2),), {}),
]


def test_different_arguments_have_different_fingerprints():
    """Type and value count, and so does whether an argument has a name."""
    digests = [fingerprint(args, kwargs)[0] for args, kwargs in DISTINCT]
    assert all(len(digest) == 16 for digest in digests)
    assert len(set(digests)) == len(DISTINCT)


@given(VALUES, VALUES)
def test_fingerprints_agree_exactly_when_values_do(one, two):
    """Equal in type and value is equal in fingerprint, and only that."""
    alike = fingerprint((one,), {})[0] == fingerprint((two,), {})[0]
    assert fingerprint((one,), {}) == fingerprint((round_trip(Any, one),), {})
    assert not exactly(one, two) or alike
    assert not alike or one == two


def test_order_does_not_count_in_sets_keys_and_names():
    """Sets and dictionary keys are sorted, and so are keyword arguments."""
    assert fingerprint(({"a": 1, "b": 2},), {}) == fingerprint(({"b": 2, "a": 1},), {})
    assert fingerprint(({1: 1, "b": 2},), {}) == fingerprint(({"b": 2, 1: 1},), {})
    assert fingerprint((), {"a": 1, "b": 2}) == fingerprint((), {"b": 2, "a": 1})


def test_fields_at_their_default_do_not_count():
    """A field that is added with a default changes no fingerprint."""
    name = f"{__name__}.test_fields_at_their_default_do_not_count.<locals>"

    @dataclass
    class Old:
        a: int

    @dataclass
    class New:
        a: int
        b: list = field(default_factory=list)
        c: int = 3

    New.__qualname__ = Old.__qualname__
    assert name
    assert fingerprint((Old(1),), {}) == fingerprint((New(1),), {})
    assert fingerprint((New(1, c=True),), {}) != fingerprint((New(1),), {})
    assert fingerprint((Struct(),), {}) != fingerprint((Model(),), {})
    assert fingerprint((Model(x=1),), {}) == fingerprint((Model(),), {})


def test_what_cannot_be_represented_counts_by_its_class():
    """Two clients are one: what they are counts, not where they are in memory."""
    assert fingerprint((Context(), 1), {}) == fingerprint((Context(), 1), {})
    assert fingerprint((object(),), {})[1] == "<object>"
    assert "0x" not in str(fingerprint((Context(), charge, Context().__init__, [].append), {}))


class Hostile:
    """Whatever it is asked, it raises."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __eq__(self, other):
        raise RuntimeError

    __hash__ = None


def test_arguments_that_resist_have_a_fingerprint():
    """Objects that raise, and mocks that pretend to be anything, count by their class."""
    for value in (Hostile(), Mock(spec=dict), Mock(spec=Line), MagicMock(), threading.Lock()):
        assert fingerprint((value,), {}) == fingerprint((value,), {})
        assert "0x" not in fingerprint((value,), {})[1]


def test_circles_and_depths_have_a_fingerprint():
    """Every argument has one, also what can never be stored."""
    for value in (circular(), branching(), nested(100_000)):
        assert len(fingerprint((value,), {})[0]) == 16


def test_the_text_is_short_and_readable():
    """At most 256 bytes, cut between characters."""
    assert fingerprint(("item-17", 3), {"note": None})[1] == '"item-17",3,note=null'
    assert fingerprint((Line("a", 2), {1}, date(2026, 1, 1)), {"c": Colour.RED})[1] == (
        'Line(count=2,sku="a"),set([1]),date("2026-01-01"),c=Colour.RED'
    )
    for long in ("é" * 1_000, ["é" * 10] * 1_000, {"é" * 1_000: (1,)}, Line("é" * 1_000)):
        text = fingerprint((long,), {})[1]
        assert len(text.encode()) <= 256
        assert text.endswith("...")


def test_fingerprints_are_fixed_for_ever():
    """Runs in flight are found by them, so a release may not change them."""
    assert fingerprint((), {})[0].hex() == "cea3878a334b240469d159ff840b6434"
    assert fingerprint(("item-17", 3), {})[0].hex() == "3c2fae5dcfe59cc6b7b1c0f57ffd4927"
    assert (
        fingerprint(({1, "a"}, (1.5, b"x")), {"k": date(2026, 1, 1)})[0].hex()
        == "f9c507662ff5cf9b8e6313d4dfd43a71"
    )
    assert (
        Arguments(charge).fingerprint(("o1", 7), {})[0].hex() == "27d3b683d11787983c45ef861f5cbc90"
    )


def test_fingerprints_are_the_same_in_every_process():
    """The hash seed of a process does not count."""
    code = (
        "from perdure.codec import fingerprint\n"
        "print(fingerprint(({'a', 'b', 'c', 1, None, (1, 'x')}, {'k': {'x', 'y'}}), {})[0].hex())"
    )
    assert len({run_python(code, PYTHONHASHSEED=str(seed)) for seed in (1, 2, 3)}) == 1


def test_a_bound_call_is_the_same_however_it_is_spelled():
    """By place, by name, or spelling out a default: one fingerprint."""
    arguments = Arguments(charge)
    calls = [
        (("o1", 5), {}),
        (("o1",), {}),
        ((), {"order_id": "o1"}),
        ((), {"cents": 5, "order_id": "o1"}),
        (("o1",), {"note": None}),
    ]
    assert len({arguments.fingerprint(*call) for call in calls}) == 1
    assert arguments.fingerprint(("o1", 5), {})[1] == 'order_id="o1"'
    assert arguments.fingerprint(("o1", 6), {}) != arguments.fingerprint(("o1",), {})
    assert arguments.fingerprint(("o1", True), {}) != arguments.fingerprint(("o1", 1), {})


def test_variable_arguments_count():
    """*args and **kwargs are part of the fingerprint, each apart from the rest."""
    arguments = Arguments(everything)
    base = ((1, Line("a"), 1), {"d": 1.0})
    more = ((1, Line("a"), 1, date(2026, 1, 1)), {"d": 1.0})
    named = ((1, Line("a"), 1), {"d": 1.0, "z": True})
    assert len({arguments.fingerprint(*call)[0] for call in (base, more, named)}) == 3


def test_a_wrong_call_has_no_fingerprint():
    """Binding fails as it does when encoding."""
    with pytest.raises(InvalidValue, match="missing 'order_id'"):
        Arguments(charge).fingerprint((), {})


# ---- errors -------------------------------------------------------------------------------------


class Declined(Exception):
    def __init__(self, code: int, *, retry: bool = False):
        super().__init__(f"declined with {code}")
        self.code = code
        self.retry = retry
        self.connection = object()


class Counting(Exception):
    made = 0

    def __init__(self, text):
        super().__init__(text)
        type(self).made += 1


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def raised(error, cause=None):
    """Return the error with a traceback."""
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001 -- whatever is given
        return caught


def replay(error):
    """Return what a replay sees, having checked that it is what the first pass sees."""
    data, seen = replayed_error(error)
    again = decode_error(data)
    assert type(again) is type(seen)
    assert error_text(again) == error_text(seen)
    assert isinstance(error, BaseExceptionGroup) or exactly(again.args, seen.args)
    return again


def error_text(error):
    try:
        return str(error)
    except RuntimeError:
        return "unprintable"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", 3, {"a": (1, 2)}),
        KeyError("x"),
        ValueError(),
        Declined(5, retry=True),
        RetryAfter("10m"),
        RetryAfter(timedelta(seconds=5), "later"),
        NonRetryable("no"),
        StepFailed("m", error_type="a.B"),
        InvalidValue("m", path="$.x"),
        FileNotFoundError(2, "No such file", "/a/b"),
        OSError("only text"),
        TimeoutError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
        ImportError("no module", name="m", path="p"),
        AttributeError("x", name="n"),
        StopIteration(5),
        SyntaxError("bad", ("f.py", 1, 2, "text", 1, 3)),
        ZeroDivisionError("division by zero"),
        ValueError("x" * 20_000),
        TimeoutError("late"),
        ExceptionGroup("several", [ValueError(1), ExceptionGroup("inner", [Declined(2)])]),
    ],
    ids=lambda error: repr(error)[:50],
)
def test_errors_come_back_as_the_same_class_with_the_same_message(error):
    """A caught error replays as the same class, message, args and plain state."""
    again = replay(raised(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert [type(e) for e in getattr(again, "exceptions", ())] == [
        type(e) for e in getattr(error, "exceptions", ())
    ]


def test_state_comes_back_where_it_can_be_represented():
    """Attributes of plain data are kept, others are left out."""
    again = replay(raised(Declined(5, retry=True)))
    assert (again.code, again.retry) == (5, True)
    assert not hasattr(again, "connection")
    assert replay(FileNotFoundError(2, "No such file", "/a/b")).filename == "/a/b"
    assert replay(RetryAfter("10m")).delay == "10m"


def test_rebuilding_does_not_call_init():
    """What a constructor does has been done; it is not done again."""
    error = Counting("x")
    made = Counting.made
    assert str(replay(error)) == "x"
    assert Counting.made == made


def local_class():
    class Local(Exception):
        pass

    return Local


class Needs(Exception):
    """Its __new__ wants more than its args."""

    def __new__(cls, one, two):
        return super().__new__(cls, one)

    def __init__(self, one, two):
        super().__init__(one)


@pytest.mark.parametrize(
    "error, error_type, message",
    [
        (local_class()("x"), "Local", "x"),
        (ValueError(object), "ValueError", "<class 'object'>"),
        (ValueError(Context), "ValueError", "Context"),
        (Needs("one", "two"), "Needs", "one"),
        (KeyboardInterrupt("stop"), "KeyboardInterrupt", "stop"),
        (asyncio.CancelledError(), "CancelledError", ""),
        (SystemExit(3), "SystemExit", "3"),
        (BaseExceptionGroup("g", [KeyboardInterrupt()]), "BaseExceptionGroup", "g"),
        (ExceptionGroup("g", [ValueError()] * 21), "ExceptionGroup", "g"),
        (ValueError("\ud800"), "ValueError", r"\\ud800"),
        (pydantic.TypeAdapter(int).validate_python, "ValidationError", "valid integer"),
    ],
    ids=map(str, itertools.count()),
)
def test_errors_that_cannot_be_rebuilt_are_step_failed_in_both_passes(error, error_type, message):
    """What cannot be found or made again is a StepFailed with the class's name and the message."""
    if not isinstance(error, BaseException):
        with pytest.raises(pydantic.ValidationError) as caught:
            error("a")
        error = caught.value
    again = replay(raised(error))
    assert type(again) is StepFailed
    assert again.error_type.endswith(error_type)
    assert message.replace("\\\\", "\\") in str(again)


def test_an_unprintable_error_survives():
    """An exception whose __str__ raises has a record all the same."""
    again = replay(raised(Unprintable("x")))
    assert isinstance(again, Unprintable)
    assert error_summary(encode_error(Unprintable("x"))).message == "<unprintable Unprintable>"
    assert error_summary(encode_error(ValueError(Unprintable()))).message.startswith("<unprintable")


class Resisting(Exception):
    """Asked for its notes, it raises."""

    @property
    def __notes__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "error",
    [
        Resisting("m"),
        ValueError("m", *["x" * 60_000] * 9),
        ExceptionGroup("m", [ValueError("x" * 60_000)] * 9),
    ],
    ids=["raises", "many arguments", "many members"],
)
def test_an_error_that_cannot_be_recorded_whole_keeps_its_name_and_message(error):
    """A record exists for every error, and none is larger than 256 KiB."""
    data = encode_error(raised(error))
    assert len(data) <= 262_144
    again = decode_error(data)
    assert type(again) is StepFailed
    assert again.error_type.endswith(type(error).__name__)
    assert "m" in str(again)


def test_causes_notes_and_tracebacks():
    """The cause and the notes come back; the first pass carries the tracebacks too."""
    error = raised(ValueError("outer"), raised(Declined(1), raised(KeyError("inner"))))
    error.add_note("a note")
    data, seen = replayed_error(error)
    again = decode_error(data)
    for rebuilt in (seen, again):
        assert rebuilt.__notes__ == ["a note"]
        assert isinstance(rebuilt.__cause__, Declined)
        assert isinstance(rebuilt.__cause__.__cause__, KeyError)
    assert seen.__traceback__ is error.__traceback__
    assert seen.__cause__.__traceback__ is error.__cause__.__traceback__
    assert again.__traceback__ is None


def test_a_long_chain_of_causes_ends():
    """Three causes are kept; a circle of causes ends too."""
    first, second = ValueError(1), ValueError(2)
    first.__cause__, second.__cause__ = second, first
    again = decode_error(encode_error(first))
    depth = 0
    while again.__cause__ is not None:
        depth, again = depth + 1, again.__cause__
    assert depth == 3


def test_the_summary_names_type_message_and_frames():
    """What people read needs no rebuilding: where, what, and short file names."""
    summary = error_summary(encode_error(raised(local_class()("why"))))
    assert isinstance(summary, ErrorSummary)
    assert summary.type == f"{__name__}.local_class.<locals>.Local"
    assert summary.message == "why"
    assert len(summary.frames) == 1
    assert summary.frames[0].startswith("unit/test_codec.py:")
    assert summary.frames[0].endswith(" raised")
    assert error_summary(encode_error(ValueError("x"))) == ErrorSummary("ValueError", "x", ())


def test_frames_of_libraries_are_left_out_and_deep_ones_cut():
    """At most twenty frames, of the application where there are any."""

    def deeper(n):
        return json.loads("{") if n == 0 else deeper(n - 1)

    def through_library():
        return functools.reduce(lambda *_: asyncio.run(later()), [1, 2])

    async def later():
        raise ValueError

    for function in (lambda: deeper(50), through_library):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 -- where it is raised counts
            function()
        frames = error_summary(encode_error(caught.value)).frames
        assert 1 <= len(frames) <= 20
        assert all(frame.startswith("unit/test_codec.py:") for frame in frames)


@pytest.mark.parametrize(
    "record",
    [
        {"module": "os", "qualname": "system", "message": "x", "args": ["echo"]},
        {"module": "builtins", "qualname": "eval", "message": "x", "args": ["1"]},
        {"module": "builtins", "qualname": "object", "message": "x", "args": []},
        {"module": "builtins", "qualname": "KeyboardInterrupt", "message": "", "args": []},
        {"module": "antigravity", "qualname": "X", "message": "x", "args": []},
        {"module": "asyncio", "qualname": "CancelledError", "message": "", "args": []},
        {"module": "subprocess", "qualname": "Popen", "message": "x", "args": ["true"]},
        {"module": "builtins", "qualname": "ValueError.__init__", "message": "x", "args": []},
        {"module": "builtins", "qualname": "", "message": "x", "args": []},
        {"module": "builtins", "qualname": "ValueError", "message": "other", "args": ["x"]},
        {"module": "builtins", "qualname": "ValueError", "message": "x", "args": 5},
        {"module": "builtins", "qualname": "ValueError", "message": "x", "args": [{"$": ["q", 1]}]},
        {"module": "builtins", "qualname": "ValueError", "message": "g", "group": {}},
        {"module": __name__, "qualname": "ValueError", "message": "x", "args": ["x"]},
    ],
    ids=map(str, itertools.count()),
)
def test_a_record_cannot_make_anything_but_its_exception(record):
    """Write access to the store does not give execution: what is no known Exception stands in."""
    again = decode_error(msgspec.json.encode(record))
    assert type(again) is StepFailed
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{}", b'{"module":1}', b"\xff", b"[" * 9999]
)
def test_bytes_that_are_no_error_are_refused(data):
    """Damaged records are InvalidValue."""
    for read in (decode_error, error_summary):
        with pytest.raises(InvalidValue, match="no record of an error"):
            read(data)


@given(st.lists(VALUES, max_size=3))
def test_errors_with_any_plain_arguments_survive(args):
    """Arguments that the codec can represent come back exactly."""
    error = ValueError(*args)
    again = replay(error)
    assert type(again) is StepFailed or exactly(again.args, error.args)


def test_paths_count_by_their_text():
    """Two paths are two arguments, and a path is not its text."""
    one, two = (fingerprint((Path(text),), {})[0] for text in ("a/b", "a/c"))
    assert one != two
    assert one == fingerprint((Path("a/b"),), {})[0]
    assert one != fingerprint(("a/b",), {})[0]
