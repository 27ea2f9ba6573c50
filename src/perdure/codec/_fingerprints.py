"""Fingerprints: what a call's arguments are recognised by on a replay.

A fingerprint must exist for every argument, also for those that the codec refuses: a database
client counts by its class's name, a function by its own. Only what is used up by the first attempt
(a coroutine, a generator) is refused. Nothing that changes between processes
counts: no address, no ``repr`` of an object, no order of a set or of a dict's keys.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, Flag
from hashlib import blake2b
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MethodType,
)
from typing import Any, NamedTuple

import msgspec

from ._refusal import DEEPEST, Refused, class_of, invalid
from ._untyped import AS_IS, SCALARS, TAG, as_base, encode, mistake

__all__ = [
    "FAST",
    "MOST_TEXT",
    "SCHEME",
    "argument",
    "canonical",
    "canonical_bytes",
    "fingerprint",
    "fingerprint_of",
    "same",
]

# In front of everything that is hashed: another way to count is another number.
SCHEME = b"1"
MOST_TEXT = 256
# More containers than a payload can hold: a graph whose nodes are reached in too many ways.
_MOST_CONTAINERS = 1_000_000
_TOO_BIG = 10**4_000
_USED_UP = (CoroutineType, GeneratorType, AsyncGeneratorType)

FAST = frozenset({str, int, bool, type(None)})
"""Types whose JSON is canonical as it is. Measured: ("item-17", 3) takes 0.8 us instead of 2.6."""

# Types whose values never count, not even by name: Secret[T] joins here when it exists.
_LEFT_OUT: tuple[type, ...] = ()


def fingerprint(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return 16 bytes that tell these arguments from others, and the arguments as text.

    Equal in every process and whatever PYTHONHASHSEED is. Values of different types differ
    (``1``, ``True``, ``1.0``, ``"1"``), and so do positional and keyword arguments;
    ``Arguments.fingerprint`` is the one that knows a signature. What the codec cannot represent
    counts by the qualified name of its class, functions and classes by their own. Fields of
    records at their default are left out.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.

    Returns:
        The fingerprint, and at most 256 bytes of text for messages.

    Raises:
        InvalidValue: an argument is or holds a coroutine or a generator.
    """
    if not kwargs:
        for value in args:
            if class_of(value) not in FAST:
                break
        else:
            try:
                data = encode(args)[1:-1]
            except (UnicodeEncodeError, ValueError):
                pass
            else:
                text = data.decode() if len(data) <= MOST_TEXT else _cut(data)
                return blake2b(SCHEME + data, digest_size=16).digest(), text
    forms: list[Any] = []
    for index, value in enumerate(args):
        try:
            forms.append(argument(value))
        except Refused as refused:
            raise invalid(refused.at_index(index), "a step was given") from None
    return fingerprint_of(forms, kwargs)


def fingerprint_of(forms: list[Any], named: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the fingerprint and the text of arguments.

    What is hashed reads ``"item-17",3,note="x"``: canonical JSON with names in front, which are
    JSON texts themselves where they are no identifiers.

    Args:
        forms: the canonical forms of positional arguments.
        named: keyword arguments.

    Raises:
        InvalidValue: one of them is a coroutine or a generator.
    """
    parts = [canonical_bytes(form) for form in forms]
    names = sorted(named)
    for name in names:
        shown = name.encode() if name.isidentifier() else canonical_bytes(name)
        try:
            form = argument(named[name])
        except Refused as refused:
            raise invalid(refused.at_key(name), "a step was given") from None
        parts.append(shown + b"=" + canonical_bytes(form))
    data = b",".join(parts)
    digest = blake2b(SCHEME + data, digest_size=16).digest()
    if b'"$"' not in data:
        return digest, _cut(data)
    return digest, _text(forms, {name: canonical(named[name]) for name in names})


def same(left: Any, right: Any) -> bool:
    """Return whether two values are equal in type and value, all the way down."""
    return canonical_bytes(canonical(left)) == canonical_bytes(canonical(right))


# ---- the canonical form -------------------------------------------------------------------------


def canonical(value: Any) -> Any:
    """Return the JSON form that stands for any value at all."""
    try:
        return _form(value, _Walk())
    except _TooManyError:
        return _tag("type", _name(class_of(value)))


def argument(value: Any) -> Any:
    """Return the canonical form of an argument.

    Raises:
        Refused: it is or holds a coroutine or generator. A step that is tried again, or executed
            again after a crash, would find it used up.
    """
    walk = _Walk()
    try:
        form = _form(value, walk)
    except _TooManyError:
        return _tag("type", _name(class_of(value)))
    if walk.used_up is not None:
        raise walk.used_up
    return form


class _TooManyError(Exception):
    """There are more containers to visit than any payload holds."""


class _Walk:
    """The containers that are being visited, to notice circles, and how many were.

    ``used_up`` is set where a coroutine or generator was met.
    """

    __slots__ = ("count", "open", "used_up")

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.count = 0
        self.used_up: Refused | None = None


def _form(value: Any, walk: _Walk) -> Any:
    cls = class_of(value)
    if cls in AS_IS:
        return value
    if cls is int:
        return value if -_TOO_BIG < value < _TOO_BIG else _tag("int", hex(value))
    if cls is float:
        return value if math.isfinite(value) else _tag("float", repr(value))
    if cls in SCALARS:
        return _scalar(value, cls)
    place = id(value)
    if place in walk.open or len(walk.open) >= DEEPEST:
        return _tag("type", _name(cls))
    walk.count += 1
    if walk.count > _MOST_CONTAINERS:
        raise _TooManyError
    walk.open.add(place)
    try:
        return _CONTAINERS.get(cls, _other)(value, walk)
    except (_TooManyError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 -- a user's property or iterator; the class still counts
        return _tag("type", _name(cls))
    finally:
        walk.open.discard(place)


def canonical_bytes(form: Any) -> bytes:
    """Return the bytes of a canonical form."""
    try:
        return encode(form)
    except UnicodeEncodeError:
        return encode(_without_surrogates(form))


def _scalar(value: Any, cls: type) -> Any:
    tag, write, _ = SCALARS[cls]
    try:
        return _tag(tag, write(value))
    except Exception:  # noqa: BLE001 -- a NaN Decimal, or a user's tzinfo that raises
        return _tag(tag, str(value) if tag == "decimal" else "")


def _list(value: Any, walk: _Walk) -> list[Any]:
    return [item if class_of(item) in AS_IS else _form(item, walk) for item in value]


def _dict(value: dict[Any, Any], walk: _Walk) -> Any:
    if TAG not in value and all(class_of(key) is str for key in value):
        return {key: _form(value[key], walk) for key in sorted(value)}
    pairs = [[_form(key, walk), _form(item, walk)] for key, item in value.items()]
    return _tag("dict", sorted(pairs, key=canonical_bytes))


def _members(value: Any, walk: _Walk) -> list[Any]:
    return sorted(_list(value, walk), key=canonical_bytes)


_CONTAINERS: dict[type, Callable[[Any, _Walk], Any]] = {
    list: _list,
    dict: _dict,
    tuple: lambda value, walk: _tag("tuple", _list(value, walk)),
    set: lambda value, walk: _tag("set", _members(value, walk)),
    frozenset: lambda value, walk: _tag("frozenset", _members(value, walk)),
}


def _is_path(cls: type) -> bool:
    # There is no path where nobody has imported its class, which would take 4 ms of an import.
    pathlib: Any = sys.modules.get("pathlib")
    return pathlib is not None and issubclass(cls, pathlib.PurePath)


def _other(value: Any, walk: _Walk) -> Any:
    # issubclass, not isinstance: a mock pretends to be an instance of anything.
    cls: Any = class_of(value)
    if issubclass(cls, Enum):
        return _tag("enum", _name(cls), value.value if issubclass(cls, Flag) else value.name)
    if _is_path(cls):
        return _tag("path", value.as_posix())
    fields = _fields(cls)
    if fields is not None:
        return _tag("record", _name(cls), _record(value, fields, walk))
    for base in (str, int, float, *SCALARS):
        if issubclass(cls, base) and (plain := as_base(value, base)) is not None:
            return _form(plain, walk)
    for base, form in _CONTAINERS.items():
        if issubclass(cls, base):  # a defaultdict, a named tuple without annotations
            return _tag("of", _name(cls), form(base(value), walk))
    return _opaque(value, walk)


def _opaque(value: Any, walk: _Walk) -> Any:
    """What no codec represents: by name only."""
    if isinstance(value, type):
        return _tag("class", _name(value))
    if issubclass(class_of(value), _USED_UP):
        walk.used_up = mistake(value)
    if isinstance(value, (FunctionType, BuiltinFunctionType)):
        return _tag("function", _name(value))
    if isinstance(value, MethodType):
        return _tag("function", _name(value.__func__))
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
        return _tag("partial", *(_form(part, walk) for part in parts))
    return _tag("type", _name(class_of(value)))


def _tag(*parts: Any) -> dict[str, Any]:
    return {TAG: list(parts)}


def _name(thing: Any) -> str:
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or class_of(thing).__qualname__
    return f"{module}.{name}" if module and module != "builtins" else str(name)


def _without_surrogates(form: Any) -> Any:
    if isinstance(form, str):
        try:
            form.encode()
        except UnicodeEncodeError:
            return "\0" + ascii(form)
        return form
    if class_of(form) is list:
        return [_without_surrogates(item) for item in form]
    if class_of(form) is dict:
        return {_without_surrogates(key): _without_surrogates(form[key]) for key in form}
    return form


# ---- records ------------------------------------------------------------------------------------


class _Field(NamedTuple):
    """A field's name and the canonical bytes of its default, if it has one."""

    name: str
    default: bytes | None


def _record(value: Any, fields: tuple[_Field, ...], walk: _Walk) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, default in fields:
        item = getattr(value, name, None)
        if isinstance(item, _LEFT_OUT):
            continue
        form = item if class_of(item) in AS_IS else _form(item, walk)
        if default is None or canonical_bytes(form) != default:
            record[name] = form
    if extra := getattr(value, "__pydantic_extra__", None):
        record.update({name: _form(extra[name], walk) for name in sorted(extra)})
    return record


@functools.lru_cache(maxsize=1024)
def _fields(cls: Any) -> tuple[_Field, ...] | None:
    """The fields of a record's class, sorted by name; None when it is none."""
    for mark, declared in _DECLARED:
        if hasattr(cls, mark):
            found = [_Field(name, _default(*rest)) for name, *rest in declared(cls)]
            return tuple(sorted(found))
    return None


def _default(default: Any, factory: Any) -> bytes | None:
    """The canonical bytes of a default. Of factories only builtin ones are called."""
    if factory in _FACTORIES:
        return canonical_bytes(canonical(factory()))
    if _is_missing(default):
        return None
    return canonical_bytes(canonical(default))


_FACTORIES = (list, dict, set, tuple, frozenset, str, int, float, bool, bytes)


def _is_missing(default: Any) -> bool:
    """The markers for "no default" of dataclasses, msgspec and pydantic."""
    names = ("_MISSING_TYPE", "NoDefaultType", "PydanticUndefinedType")
    return class_of(default).__name__ in names


def _of_struct(cls: Any) -> Iterator[tuple[str, Any, Any]]:
    return ((f.name, f.default, f.default_factory) for f in msgspec.structs.fields(cls))


def _of_model(cls: Any) -> Iterator[tuple[str, Any, Any]]:
    fields: dict[str, Any] = cls.__pydantic_fields__
    return ((name, f.default, f.default_factory) for name, f in fields.items())


def _of_dataclass(cls: Any) -> Iterator[tuple[str, Any, Any]]:
    return ((f.name, f.default, f.default_factory) for f in dataclasses.fields(cls))


_DECLARED: tuple[tuple[str, Callable[[Any], Iterator[tuple[str, Any, Any]]]], ...] = (
    ("__struct_fields__", _of_struct),
    ("__pydantic_fields__", _of_model),
    ("__dataclass_fields__", _of_dataclass),
)


# ---- text for messages --------------------------------------------------------------------------


def _text(forms: list[Any], named: Mapping[str, Any]) -> str:
    """Canonical forms as people read them: ``Order(cents=5),<shop.Client>,note="x"``."""
    pieces: list[str] = []
    size = 0
    for piece in _argument_pieces(forms, named):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_TEXT:  # a payload of a megabyte is not written out for its first line
            break
    return _cut("".join(pieces).encode("utf-8", "backslashreplace"))


def _cut(data: bytes) -> str:
    if len(data) <= MOST_TEXT:
        return data.decode()
    return data[: MOST_TEXT - 3].decode("utf-8", "ignore") + "..."


def _argument_pieces(forms: list[Any], named: Mapping[str, Any]) -> Iterator[str]:
    separator = ""
    for form in forms:
        yield separator
        yield from _pieces(form)
        separator = ","
    for name, form in named.items():
        yield f"{separator}{name}="
        yield from _pieces(form)
        separator = ","


def _pieces(form: Any) -> Iterator[str]:
    kind = class_of(form)
    if kind is dict and TAG in form:
        yield from _tagged_pieces(*form[TAG])
    elif kind is dict:
        yield from _listed("{", form.items(), ":", "}")
    elif kind is list:
        yield from _listed("[", [(None, item) for item in form], "", "]")
    elif kind is str:
        yield canonical_bytes(form[:MOST_TEXT]).decode()
    else:
        yield encode(form).decode()


def _tagged_pieces(tag: str, *parts: Any) -> Iterator[str]:
    match tag:
        case "type" | "function" | "class":
            yield f"<{parts[0]}>"
        case "record":
            yield parts[0].rpartition(".")[2]
            yield from _listed("(", parts[1].items(), "=", ")")
        case "enum":
            yield f"{parts[0].rpartition('.')[2]}.{parts[1]}"
        case _:
            yield tag
            yield from _listed("(", [(None, part) for part in parts], "", ")")


def _listed(opening: str, items: Any, between: str, closing: str) -> Iterator[str]:
    yield opening
    separator = ""
    for name, item in items:
        yield separator if name is None else f"{separator}{name}{between}"
        yield from _pieces(item)
        separator = ","
    yield closing
