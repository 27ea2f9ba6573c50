"""Values without an annotation: JSON's own types as they are, builtin extras under a tag.

An extra is written as ``{"$": [tag, payload]}``. A dict that is no JSON object, because of keys
that are not text or because it contains the key ``"$"`` itself, is an extra too: a list of pairs.
Tags map to the builders of this file and to nothing else.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any
from uuid import UUID

import msgspec

from ._refusal import DEEPEST, Refused, class_of, kind_of, shown, too_deep

__all__ = [
    "AS_IS",
    "SCALARS",
    "TAG",
    "as_base",
    "dump",
    "dump_float",
    "dump_int",
    "dump_scalar",
    "encode",
    "explain",
    "load",
    "load_scalar",
    "mistake",
    "sort_key",
    "tagged",
    "unknown",
]

TAG = "$"
# Exact types that are JSON's own and need no look at the value. Lone surrogates in a str are
# found by the encoder, which costs nothing.
AS_IS = frozenset({str, bool, type(None)})
# Python prints no int of more than 4,300 digits by default; the codec stays below.
MOST_DIGITS = 4_000
_TOO_BIG = 10**MOST_DIGITS

encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


def tagged(tag: str, payload: Any) -> dict[str, Any]:
    """Return the JSON form of an extra."""
    return {TAG: [tag, payload]}


def sort_key(dumped: Any) -> bytes:
    """Return what members of a set are sorted by, so that equal sets have equal bytes.

    Raises:
        Refused: it holds a lone surrogate.
    """
    try:
        return encode(dumped)
    except (UnicodeEncodeError, ValueError) as error:
        raise explain(dumped) from error


# ---- scalars: one text form each, used with and without an annotation -----------------------


def dump_int(value: int) -> int:
    """Return the int, if it has at most 4,000 digits."""
    if -_TOO_BIG < value < _TOO_BIG:
        return value
    raise Refused(
        "<int>",
        f"which has more than {MOST_DIGITS:,} digits",
        "return it as hexadecimal text (hex(value))",
    )


def dump_float(value: float) -> float:
    """Return the float, if it is finite."""
    if math.isfinite(value):
        return value
    raise Refused(
        f"<float> {value!r}", "which JSON cannot store", "return None or a text in its place"
    )


def _dump_decimal(value: Decimal) -> str:
    if value.is_finite():
        return str(value)
    raise Refused(f"<Decimal> {value}", "which is no number", "return None or a text in its place")


def _dump_bytes(value: bytes | bytearray) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


def _load_bytes(data: str) -> bytes:
    return binascii.a2b_base64(data.encode("ascii"), strict_mode=True)


def _dump_timedelta(value: timedelta) -> str:
    text: str = msgspec.to_builtins(value)
    return text


def _load_timedelta(data: str) -> timedelta:
    return msgspec.convert(data, timedelta)


def _load_decimal(data: str) -> Decimal:
    value = Decimal(data)
    if value.is_finite():
        return value
    raise ValueError(data)


SCALARS: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("date", date.isoformat, date.fromisoformat),
    time: ("time", time.isoformat, time.fromisoformat),
    timedelta: ("timedelta", _dump_timedelta, _load_timedelta),
    Decimal: ("decimal", _dump_decimal, _load_decimal),
    UUID: ("uuid", UUID.__str__, UUID),
    bytes: ("bytes", _dump_bytes, _load_bytes),
    bytearray: ("bytearray", _dump_bytes, lambda data: bytearray(_load_bytes(data))),
}
"""The builtin types with a text form: their tag, how they are written, how they are read."""


def dump_scalar(value: Any, cls: type) -> str:
    """Return the text form of a value of one of ``SCALARS``."""
    text: str = SCALARS[cls][1](value)
    return text


def load_scalar(data: Any, cls: type) -> Any:
    """Return the value of a text form.

    Raises:
        Refused: it is no text, or not one of this type.
    """
    if class_of(data) is not str:
        raise Refused(kind_of(data), f"where the text of a {cls.__name__} was expected")
    try:
        return SCALARS[cls][2](data)
    except (ValueError, ArithmeticError, msgspec.ValidationError) as error:
        raise Refused(shown(data), f"which is no {cls.__name__}") from error


# ---- writing --------------------------------------------------------------------------------


def dump(value: Any, depth: int = 0) -> Any:
    """Return a fresh JSON form of any value that the codec can represent without an annotation.

    Raises:
        Refused: something in it cannot be represented.
    """
    cls = class_of(value)
    if cls in AS_IS:
        return value
    return _DUMPERS.get(cls, _dump_other)(value, depth)


def _dump_dict(value: dict[Any, Any], depth: int) -> Any:
    if depth >= DEEPEST:
        raise too_deep(value)
    depth += 1
    plain: dict[str, Any] = {}
    key: Any = None
    try:
        for key, item in value.items():
            if class_of(key) is not str:
                break
            cls = class_of(item)
            plain[key] = item if cls in AS_IS else _DUMPERS.get(cls, _dump_other)(item, depth)
    except Refused as refused:
        raise refused.at_key(key) from refused.__cause__
    if len(plain) != len(value):
        return _dump_pairs(value, plain, depth)
    if TAG in plain:
        return tagged("dict", [[key, item] for key, item in plain.items()])
    return plain


def _dump_pairs(value: dict[Any, Any], done: dict[str, Any], depth: int) -> Any:
    """Write a dict that is no JSON object; ``done`` holds the values that are dumped already."""
    pairs: list[list[Any]] = []
    for key, item in value.items():
        if class_of(key) is str:
            dumped_key: Any = key
        else:
            try:
                dumped_key = dump(key, depth)
            except Refused as refused:
                raise refused.inside("<key>") from refused.__cause__
        dumped = done[key] if class_of(key) is str and key in done else _dump_at(item, depth, key)
        pairs.append([dumped_key, dumped])
    return tagged("dict", pairs)


def _dump_at(item: Any, depth: int, key: Any) -> Any:
    try:
        return dump(item, depth)
    except Refused as refused:
        raise refused.at_key(key) from refused.__cause__


def _dump_list(value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
    if depth >= DEEPEST:
        raise too_deep(value)
    depth += 1
    items: list[Any] = []
    try:
        for item in value:
            cls = class_of(item)
            items.append(item if cls in AS_IS else _DUMPERS.get(cls, _dump_other)(item, depth))
    except Refused as refused:
        raise refused.at_index(len(items)) from refused.__cause__
    return items


def _dump_tuple(value: tuple[Any, ...], depth: int) -> dict[str, Any]:
    return tagged("tuple", _dump_list(value, depth))


def _dump_members(value: set[Any] | frozenset[Any], depth: int) -> list[Any]:
    if depth >= DEEPEST:
        raise too_deep(value)
    try:
        return sorted((dump(item, depth + 1) for item in value), key=sort_key)
    except Refused as refused:
        raise refused.inside("<member>") from refused.__cause__


def _dump_set(value: set[Any], depth: int) -> dict[str, Any]:
    return tagged("set", _dump_members(value, depth))


def _dump_frozenset(value: frozenset[Any], depth: int) -> dict[str, Any]:
    return tagged("frozenset", _dump_members(value, depth))


def _scalar_dumper(tag: str, write: Callable[[Any], str]) -> Callable[[Any, int], Any]:
    return lambda value, _depth: {TAG: [tag, write(value)]}


_DUMPERS: dict[type, Callable[[Any, int], Any]] = {
    int: lambda value, _depth: dump_int(value),
    float: lambda value, _depth: dump_float(value),
    dict: _dump_dict,
    list: _dump_list,
    tuple: _dump_tuple,
    set: _dump_set,
    frozenset: _dump_frozenset,
    **{cls: _scalar_dumper(tag, write) for cls, (tag, write, _) in SCALARS.items()},
}


def _dump_other(value: Any, depth: int) -> Any:
    """Write a subclass of a scalar as its base; refuse the rest."""
    for base in _BASES:
        if isinstance(value, base):
            bare = as_base(value, base)
            if bare is not None:
                return dump(bare, depth)
    raise unknown(value)


def as_base(value: Any, base: type) -> Any:
    """Return a subclass's instance as the plain scalar it equals, or None if it is more than one.

    numpy's float64 is a float, a test's frozen datetime is a datetime. But pandas' NaT is a
    datetime that equals none, its Timestamp may hold nanoseconds, and an Enum's member would come
    back as something else: those are no scalars.
    """
    if isinstance(value, Enum) or base not in _BASES:
        return None
    bare = _BASES[base](value)
    return bare if class_of(bare) is base and bare == value else None


def _plain_datetime(value: datetime) -> datetime:
    return datetime.combine(
        date(value.year, value.month, value.day),
        time(
            value.hour,
            value.minute,
            value.second,
            value.microsecond,
            tzinfo=value.tzinfo,
            fold=value.fold,
        ),
    )


_BASES: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: bytes(memoryview(value)),
    datetime: _plain_datetime,
    date: lambda value: date(value.year, value.month, value.day),
    timedelta: lambda value: timedelta(value.days, value.seconds, value.microseconds),
    Decimal: Decimal,
    UUID: lambda value: UUID(int=value.int),
}


def mistake(value: Any) -> Refused | None:
    """Return what a value is that is never data, such as a call that was not awaited."""
    for mistakes, why, fix in _CLASSIC_MISTAKES:
        if isinstance(value, mistakes):
            return Refused(kind_of(value), why, fix)
    return None


def unknown(value: Any) -> Refused:
    """Return why a value cannot be stored without an annotation, with the likely cause."""
    if (classic := mistake(value)) is not None:
        return classic
    cls = class_of(value)
    if cls.__module__.partition(".")[0] == "numpy":
        return Refused(kind_of(value), "which JSON cannot store", "call .item() or .tolist() on it")
    if isinstance(value, Enum):
        return Refused(
            f"{kind_of(value)} {value.name}",
            "which only an annotation can rebuild",
            f"annotate the place with {cls.__name__}, or return its value",
        )
    if any(hasattr(cls, mark) for mark in _RECORD_MARKS):
        return Refused(
            kind_of(value),
            "which only an annotation can rebuild",
            f"annotate the place with {cls.__name__} (for a result: `-> {cls.__name__}`)",
        )
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        base = next(b for b in (dict, list, tuple, set, frozenset) if issubclass(cls, b))
        return Refused(
            f"<{cls.__qualname__}>",
            f"which would come back as a plain {base.__name__}",
            f"return {base.__name__}(value)",
        )
    return Refused(
        kind_of(value),
        "which JSON cannot store",
        "return plain data, or a dataclass or model and annotate it",
    )


# dataclass, msgspec.Struct, pydantic model, named tuple
_RECORD_MARKS = (
    "__dataclass_fields__",
    "__struct_fields__",
    "__pydantic_validator__",
    "_fields",
)
_CLASSIC_MISTAKES: tuple[tuple[type | tuple[type, ...], str, str], ...] = (
    (CoroutineType, "which is a call that was not awaited", "did you forget `await`?"),
    (
        (GeneratorType, AsyncGeneratorType),
        "which is used up by reading it once",
        "return list(...) of it",
    ),
    (
        (FunctionType, BuiltinFunctionType, MethodType),
        "which is code, not data",
        "return its result (did you forget the `()`?) or its name",
    ),
    (ModuleType, "which is a module, not data", "return its name"),
    (type, "which is a class, not data", "return an instance or its name"),
    (BaseException, "which is an exception", "raise it, or return str(error)"),
)


def explain(dumped: Any) -> Refused:
    """Return why the encoder refused a dumped value: a lone surrogate, with its place."""
    return _find_surrogate(dumped) or Refused(kind_of(dumped), "which JSON cannot store")


def _surrogate(text: str) -> Refused:
    return Refused(
        f"<str> {shown(text)}",
        "which holds a lone surrogate and is no valid unicode",
        'clean it with text.encode("utf-8", "replace").decode()',
    )


def _find_surrogate(dumped: Any) -> Refused | None:
    kind = class_of(dumped)
    if kind is str:
        try:
            dumped.encode()
        except UnicodeEncodeError:
            return _surrogate(dumped)
    elif kind is dict:
        for key, item in dumped.items():
            if found := _find_surrogate(key):
                return found.inside("<key>")
            if found := _find_surrogate(item):
                return found if key == TAG else found.at_key(key)
    elif kind is list:
        for index, item in enumerate(dumped):
            if found := _find_surrogate(item):
                return found.at_index(index)
    return None


# ---- reading --------------------------------------------------------------------------------


def load(data: Any) -> Any:
    """Return the value of a JSON form. Containers of ``data`` are reused and must be the caller's.

    Raises:
        Refused: it holds an unknown tag or a payload that does not fit its tag.
    """
    cls = class_of(data)
    if cls is dict:
        if TAG in data:
            return _load_tagged(data)
        for key, item in data.items():
            if class_of(item) in _NESTED:
                data[key] = load(item)
    elif cls is list:
        for index, item in enumerate(data):
            if class_of(item) in _NESTED:
                data[index] = load(item)
    return data


_NESTED = frozenset({dict, list})


def _load_tagged(data: dict[str, Any]) -> Any:
    match data:
        case {"$": [str(tag), payload]} if len(data) == 1 and tag in _LOADERS:
            try:
                return _LOADERS[tag](payload)
            except (TypeError, ValueError) as error:
                raise Refused(kind_of(payload), f"which is no payload of a {tag!r}") from error
        case _:
            raise Refused(shown(data.get(TAG)), "which is no known tag")


def _load_dict(payload: Any) -> dict[Any, Any]:
    return {load(key): load(item) for key, item in payload}


def _load_items(payload: Any) -> list[Any]:
    if class_of(payload) is not list:
        raise Refused(kind_of(payload), "where a list was expected")
    items: list[Any] = load(payload)
    return items


def _scalar_loader(cls: type) -> Callable[[Any], Any]:
    return lambda payload: load_scalar(payload, cls)


_LOADERS: dict[str, Callable[[Any], Any]] = {
    "dict": _load_dict,
    "tuple": lambda payload: tuple(_load_items(payload)),
    "set": lambda payload: set(_load_items(payload)),
    "frozenset": lambda payload: frozenset(_load_items(payload)),
    **{tag: _scalar_loader(cls) for cls, (tag, _, _) in SCALARS.items()},
}
