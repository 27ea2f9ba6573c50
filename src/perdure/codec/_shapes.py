"""What an annotation's values look like as JSON, for everything but records and unions.

A shape dumps a value to a fresh JSON form and loads a JSON form to a value. It is strict both
ways: a value of another type is refused, never converted, except where the annotation itself is a
promise to convert (an int where a float is declared).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from datetime import datetime, time
from enum import Enum, Flag
from typing import Any

from perdure.errors import DefinitionError

from . import _untyped
from ._refusal import DEEPEST, Refused, class_of, kind_of, shown, too_deep
from ._untyped import (
    AS_IS,
    SCALARS,
    TAG,
    as_base,
    dump_float,
    dump_int,
    dump_scalar,
    load_scalar,
    mistake,
    sort_key,
    tagged,
)

__all__ = [
    "ANY_KIND",
    "Checked",
    "DictShape",
    "EnumShape",
    "FloatShape",
    "IntShape",
    "ItemsShape",
    "Later",
    "LiteralShape",
    "PlainShape",
    "ScalarShape",
    "Shape",
    "TupleShape",
    "UntypedShape",
    "checks_of",
    "exact_name",
]

ANY_KIND = frozenset({type(None), bool, int, float, str, list, dict})
"""The Python types of JSON's values: a shape says which of them it may write."""

Dump = Callable[[Any, int], Any]
Load = Callable[[Any], Any]


class Shape:
    """How the values of one annotation are written and read.

    Attributes:
        label: the annotation as text, for messages and as the tag of a union's member: the same
            in every process and whatever the order of a union's members.
        exact: the annotation as text that is never stored and tells classes of one name apart.
        kinds: the JSON types that ``dump`` may return.
        takes: the exact Python types whose values ``dump`` accepts; None says "ask it".
        atoms: the exact types among JSON's own whose values are their own dump and load, so
            that a container may skip both calls.
    """

    label: str
    exact: str
    kinds: frozenset[type] = ANY_KIND
    takes: frozenset[type] | None = None
    atoms: frozenset[type] = frozenset()

    def dump(self, value: Any, depth: int, /) -> Any:
        """Return a fresh JSON form of the value, or raise ``Refused``."""
        raise NotImplementedError

    def load(self, data: Any, /) -> Any:
        """Return the value of a JSON form (whose containers it may reuse), or raise ``Refused``."""
        raise NotImplementedError

    def refusal(self, value: Any) -> Refused:
        """Return the refusal of a value of the wrong type."""
        return mistake(value) or Refused(
            kind_of(value),
            f"where {self.label} is declared",
            "change the value or the annotation",
        )

    def unfit(self, data: Any) -> Refused:
        """Return the refusal of a JSON form of the wrong type."""
        return Refused(shown(data), f"where {self.label} is declared")


class UntypedShape(Shape):
    """Any, object, no annotation: by value."""

    label = exact = "Any"
    atoms: frozenset[type] = frozenset({str, bool, type(None), int, float})

    def dump(self, value: Any, depth: int, /) -> Any:
        return _untyped.dump(value, depth)

    def load(self, data: Any, /) -> Any:
        return _untyped.load(data)


class PlainShape(Shape):
    """``str``, ``bool`` and ``None``."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.label = self.exact = "None" if cls is type(None) else cls.__name__
        self.kinds = self.takes = self.atoms = frozenset({cls})

    def dump(self, value: Any, _depth: int, /) -> Any:
        if class_of(value) is self.cls:
            return value
        if isinstance(value, self.cls) and (bare := as_base(value, self.cls)) is not None:
            return bare
        raise self.refusal(value)

    def load(self, data: Any, /) -> Any:
        if class_of(data) is self.cls:
            return data
        raise self.unfit(data)


class IntShape(PlainShape):
    """``int``, of at most 4,000 digits; a bool is none."""

    def __init__(self) -> None:
        super().__init__(int)

    def dump(self, value: Any, depth: int, /) -> Any:
        if class_of(value) is int:
            return dump_int(value)
        if class_of(value) is bool:
            raise Refused(
                repr(value), "where int is declared and a bool is not one", "return int(value)"
            )
        return dump_int(super().dump(value, depth))


class FloatShape(PlainShape):
    """``float``; an int that a float holds exactly is one, as the language's rules say."""

    def __init__(self) -> None:
        super().__init__(float)
        self.takes = frozenset({float, int})

    def dump(self, value: Any, depth: int, /) -> Any:
        if class_of(value) is float:
            return dump_float(value)
        if class_of(value) is int:
            return self._converted(value)
        return dump_float(super().dump(value, depth))

    def load(self, data: Any, /) -> Any:
        return self._converted(data) if class_of(data) is int else super().load(data)

    def _converted(self, value: int) -> float:
        try:
            if (converted := float(value)) == value:
                return converted
        except OverflowError:
            pass
        raise Refused(shown(value), "which no float holds exactly", "annotate it as int")


class ScalarShape(Shape):
    """datetime, date, time, timedelta, Decimal, UUID, bytes, bytearray: as text."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.label = self.exact = cls.__name__
        self.kinds = frozenset({str})
        self.takes = frozenset({cls})
        self._write = SCALARS[cls][1]

    def dump(self, value: Any, _depth: int, /) -> Any:
        if class_of(value) is self.cls:
            return self._write(value)
        # A datetime is a date by inheritance only.
        if isinstance(value, self.cls) and (bare := as_base(value, self.cls)) is not None:
            return dump_scalar(bare, self.cls)
        raise self.refusal(value)

    def load(self, data: Any, /) -> Any:
        return load_scalar(data, self.cls)


class EnumShape(Shape):
    """An Enum: by value when all values are texts or ints, by name otherwise; a Flag as its int."""

    def __init__(self, cls: type[Enum]) -> None:
        self.cls = cls
        self.label = cls.__name__
        self.exact = exact_name(cls)
        self.takes = frozenset({cls})
        self._flag = issubclass(cls, Flag)
        kinds = {class_of(_bare(member.value)) for member in cls}
        self._by_value = self._flag or (len(kinds) == 1 and kinds <= {int, str})
        self.kinds = frozenset({int} if self._flag else kinds if self._by_value else {str})

    def dump(self, value: Any, _depth: int, /) -> Any:
        if class_of(value) is not self.cls:
            raise self.refusal(value)
        return _bare(value.value) if self._by_value else value.name

    def load(self, data: Any, /) -> Any:
        if class_of(data) in self.kinds:
            try:
                return self.cls(data) if self._by_value else self.cls[data]
            except (ValueError, KeyError):
                pass
        known = [_bare(member.value) if self._by_value else member.name for member in self.cls]
        raise Refused(shown(data), f"which is no {self.label}", f"use one of {known[:20]}")


def _bare(value: Any) -> Any:
    """An enum's value without the Enum's own type around it (IntEnum, StrEnum)."""
    for base in (int, str):
        if isinstance(value, base) and class_of(value) is not bool:
            return as_base(value, base) if class_of(value) is not base else value
    return value


class LiteralShape(Shape):
    """One of the values that a ``Literal`` lists: compared by type and value, so 1 is not True."""

    def __init__(self, values: tuple[Any, ...], shape_of: Callable[[Any], Shape]) -> None:
        # Sorted, because Python holds Literal[1, 2] and Literal[2, 1] for equal.
        self.label = f"Literal[{', '.join(sorted(map(repr, values)))}]"
        self.exact = f"Literal{[(exact_name(class_of(value)), value) for value in values]}"
        self.values = values
        self._dumped: dict[tuple[type, Any], Any] = {}
        self._loaded: dict[tuple[type, Any], Any] = {}
        for value in values:
            data = shape_of(class_of(value)).dump(value, 0)
            if (class_of(data), data) in self._loaded:
                raise DefinitionError(f"two values of {self.label} are stored as {data!r}")
            self._dumped[class_of(value), value] = data
            self._loaded[class_of(data), data] = value
        self.takes = frozenset(cls for cls, _ in self._dumped)
        self.kinds = frozenset(cls for cls, _ in self._loaded)
        self.as_json = [data for _, data in self._loaded]

    def dump(self, value: Any, _depth: int, /) -> Any:
        try:
            return self._dumped[class_of(value), value]
        except (KeyError, TypeError):
            raise Refused(
                shown(value),
                f"where {self.label} is declared",
                "change the value or the annotation",
            ) from None

    def load(self, data: Any, /) -> Any:
        try:
            return self._loaded[class_of(data), data]
        except (KeyError, TypeError):
            raise self.unfit(data) from None


class ItemsShape(Shape):
    """``list[T]``, ``tuple[T, ...]``, ``set[T]``, ``frozenset[T]``: a JSON array.

    The members of a set are sorted by their bytes, so that equal sets are stored equally in
    every process.
    """

    kinds = frozenset({list})

    def __init__(self, cls: type, item: Shape) -> None:
        self.cls = cls
        self.item = item
        ellipsis = ", ..." if cls is tuple else ""
        self.label = f"{cls.__name__}[{item.label}{ellipsis}]"
        self.exact = f"{cls.__name__}[{item.exact}{ellipsis}]"
        self.takes = frozenset({cls})
        self._sorted = issubclass(cls, (set, frozenset))

    def dump(self, value: Any, depth: int, /) -> Any:
        if class_of(value) is not self.cls:
            raise self.refusal(value)
        if depth >= DEEPEST:
            raise too_deep(value)
        safe, dump = self.item.atoms & AS_IS, self.item.dump
        items: list[Any] = []
        try:
            for item in value:
                items.append(item if class_of(item) in safe else dump(item, depth + 1))  # noqa: PERF401 -- their number tells where it failed
        except Refused as refused:
            raise _placed(refused, "<member>" if self._sorted else len(items)) from None
        if self._sorted:
            items.sort(key=sort_key)
        return items

    def load(self, data: Any, /) -> Any:
        if class_of(data) is not list:
            raise self.unfit(data)
        atoms, load = self.item.atoms, self.item.load
        items: list[Any] = []
        try:
            for item in data:
                items.append(item if class_of(item) in atoms else load(item))  # noqa: PERF401
        except Refused as refused:
            raise _placed(refused, len(items)) from None
        if self.cls is list:
            return items
        try:
            return self.cls(items)
        except TypeError as error:
            raise Refused("an unhashable member", f"where {self.label} is declared") from error


class TupleShape(Shape):
    """``tuple[A, B]``: a JSON array of exactly that length."""

    kinds = frozenset({list})
    takes = frozenset({tuple})

    def __init__(self, items: tuple[Shape, ...]) -> None:
        self.items = items
        self.label = f"tuple[{', '.join(item.label for item in items) or '()'}]"
        self.exact = f"tuple[{', '.join(item.exact for item in items) or '()'}]"

    def dump(self, value: Any, depth: int, /) -> Any:
        if class_of(value) is not tuple:
            raise self.refusal(value)
        if depth >= DEEPEST:
            raise too_deep(value)
        self._check_length(value)
        return self._each([item.dump for item in self.items], value, (depth + 1,))

    def load(self, data: Any, /) -> Any:
        if class_of(data) is not list:
            raise self.unfit(data)
        self._check_length(data)
        return tuple(self._each([item.load for item in self.items], data, ()))

    def _check_length(self, value: Any) -> None:
        if len(value) != len(self.items):
            raise Refused(f"{len(value)} items", f"where {self.label} is declared")

    def _each(
        self, calls: list[Callable[..., Any]], value: Any, more: tuple[Any, ...]
    ) -> list[Any]:
        items: list[Any] = []
        try:
            for call, item in zip(calls, value, strict=True):
                items.append(call(item, *more))
        except Refused as refused:
            raise _placed(refused, len(items)) from None
        return items


class DictShape(Shape):
    """``dict[K, V]``: a JSON object when keys are written as text, else a tagged list of pairs.

    Int keys become digits, as everywhere in JSON.
    """

    kinds = frozenset({dict})
    takes = frozenset({dict})

    def __init__(self, key: Shape, item: Shape) -> None:
        self.key = key
        self.item = item
        self.label = f"dict[{key.label}, {item.label}]"
        self.exact = f"dict[{key.exact}, {item.exact}]"
        self._digits = key.kinds == _ONLY_INT
        self._as_text = self._digits or key.kinds == _ONLY_STR

    def dump(self, value: Any, depth: int, /) -> Any:
        if class_of(value) is not dict:
            raise self.refusal(value)
        if depth >= DEEPEST:
            raise too_deep(value)
        safe, dump = self.item.atoms & AS_IS, self.item.dump
        pairs: list[list[Any]] = []
        key: Any = None
        at_key = True
        try:
            for key, item in value.items():
                at_key = True
                dumped_key = self._dump_key(key, depth + 1)
                at_key = False
                pairs.append(
                    [dumped_key, item if class_of(item) in safe else dump(item, depth + 1)]
                )
        except Refused as refused:
            raise (refused.inside("<key>") if at_key else refused.at_key(key)) from None
        if not self._as_text:
            return tagged("dict", pairs)
        written: dict[str, Any] = dict(pairs)
        return tagged("dict", pairs) if TAG in written else written

    def load(self, data: Any, /) -> Any:
        if class_of(data) is not dict:
            raise self.unfit(data)
        loaded: dict[Any, Any] = {}
        key: Any = None
        atoms, load = self.item.atoms, self.item.load
        try:
            for key, item in self._pairs(data):
                loaded[self._load_key(key)] = item if class_of(item) in atoms else load(item)
        except Refused as refused:
            raise refused.at_key(key) from None
        except TypeError as error:
            raise Refused("an unhashable key", f"where {self.label} is declared") from error
        return loaded

    def _dump_key(self, key: Any, depth: int) -> Any:
        dumped = self.key.dump(key, depth)
        return str(dumped) if self._digits else dumped

    def _load_key(self, key: Any) -> Any:
        if self._digits:
            if class_of(key) is not str or not _DIGITS.fullmatch(key):
                raise Refused(shown(key), f"where {self.key.label} is declared")
            key = int(key)
        return self.key.load(key)

    def _pairs(self, data: dict[str, Any]) -> Iterable[tuple[Any, Any]]:
        if TAG not in data:
            return data.items()
        form = data[TAG]
        if len(data) == 1 and class_of(form) is list and len(form) == 2 and form[0] == "dict":
            pairs: Any = form[1]
            if class_of(pairs) is list and all(map(_is_pair, pairs)):
                return [(key, item) for key, item in pairs]
        raise Refused(shown(form), "which is no known tag")


def _is_pair(item: Any) -> bool:
    return class_of(item) is list and len(item) == 2


_ONLY_INT = frozenset[type]({int})
_ONLY_STR = frozenset[type]({str})
_DIGITS = re.compile(r"-?[0-9]{1,4000}")


class Checked(Shape):
    """A shape whose values must also pass the checks of a ``msgspec.Meta``."""

    def __init__(self, inner: Shape, checks: list[tuple[Callable[[Any], bool], str]]) -> None:
        self.inner = inner
        self.label = inner.label
        self.exact = f"{inner.exact} that must {', '.join(words for _, words in checks)}"
        self.kinds = inner.kinds
        self.takes = inner.takes
        self._checks = checks

    def dump(self, value: Any, depth: int, /) -> Any:
        dumped = self.inner.dump(value, depth)
        self._check(value)
        return dumped

    def load(self, data: Any, /) -> Any:
        value = self.inner.load(data)
        self._check(value)
        return value

    def _check(self, value: Any) -> None:
        for check, demand in self._checks:
            if not check(value):
                raise Refused(shown(value), f"which must {demand}")


def exact_name(cls: type) -> str:
    """Return a name of the class that no other class of this process has."""
    return f"{cls.__module__}.{cls.__qualname__}@{id(cls)}"


def checks_of(meta: Any) -> list[tuple[Callable[[Any], bool], str]]:
    """Return the checks that a ``msgspec.Meta`` asks for, each with its words for a message."""
    checks: list[tuple[Callable[[Any], bool], str]] = []
    for name, test, words in _CHECKS:
        bound = getattr(meta, name, None)
        if bound is not None:
            checks.append((functools.partial(test, bound), f"{words} {bound}"))
    return checks


def _has_zone(wanted: object, value: Any) -> bool:
    return not isinstance(value, (datetime, time)) or (value.tzinfo is not None) is wanted


_CHECKS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("gt", lambda bound, value: value > bound, "be greater than"),
    ("ge", lambda bound, value: value >= bound, "be at least"),
    ("lt", lambda bound, value: value < bound, "be less than"),
    ("le", lambda bound, value: value <= bound, "be at most"),
    ("multiple_of", lambda bound, value: value % bound == 0, "be a multiple of"),
    ("pattern", lambda bound, value: re.search(bound, value) is not None, "match"),
    ("min_length", lambda bound, value: len(value) >= bound, "have a length of at least"),
    ("max_length", lambda bound, value: len(value) <= bound, "have a length of at most"),
    ("tz", _has_zone, "have a time zone:"),
)


class Later(Shape):
    """Stands for a shape that is still being built: a recursive type alias."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.exact = f"{label}@{id(self)}"
        self.shape: Shape | None = None

    def dump(self, value: Any, depth: int, /) -> Any:
        assert self.shape is not None
        if depth >= DEEPEST:
            raise too_deep(value)
        return self.shape.dump(value, depth + 1)

    def load(self, data: Any, /) -> Any:
        assert self.shape is not None
        return self.shape.load(data)


def _placed(refused: Refused, place: int | str) -> Refused:
    return refused.at_index(place) if isinstance(place, int) else refused.inside(place)
