"""Fingerprints: what a call's arguments are recognised by on a replay.

A fingerprint must exist for every argument, also for those that the codec refuses: a database
client counts by its class's name, a function by its own. Nothing that changes between processes
counts: no address, no ``repr`` of an object, no order of a set or of a dict's keys.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from enum import Enum, Flag
from hashlib import blake2b
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, cast

import msgspec

from ._untyped import AS_IS, SCALARS, TAG, as_base, encode

__all__ = ["FAST", "canonical", "cut", "digest", "fingerprint", "same", "text_of"]

# In front of everything that is hashed: another way to count is another number.
SCHEME = b"1"
MOST_TEXT = 256
_DEEPEST = 100
_TOO_BIG = 10**4_000

FAST = frozenset({str, int, bool, type(None)})
"""Types whose JSON is canonical as it is. Measured: f("item-17", 3) 1.3 us instead of 5."""

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
    """
    if not kwargs:
        for value in args:
            if type(value) not in FAST:
                break
        else:
            try:
                data = encode(args)
            except (UnicodeEncodeError, ValueError):
                pass
            else:
                return digest(data), cut(data[1:-1])
    forms = [canonical(value) for value in args]
    named = {name: canonical(kwargs[name]) for name in sorted(kwargs)}
    data = _bytes(forms) + b"\n" + _bytes(named) if named else _bytes(forms)
    return digest(data), text_of(forms, named)


def same(left: Any, right: Any) -> bool:
    """Return whether two values are equal in type and value, all the way down."""
    return _bytes(canonical(left)) == _bytes(canonical(right))


def digest(data: bytes) -> bytes:
    """Return the 128 bits of canonical bytes."""
    return blake2b(SCHEME + data, digest_size=16).digest()


# ---- the canonical form -------------------------------------------------------------------------


def canonical(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Return the JSON form that stands for any value at all.

    Args:
        value: anything.
        above: the ids of the containers it is in, to notice a circle.
    """
    cls: type = type(value)
    if cls in AS_IS:
        return value
    if cls is int:
        return value if -_TOO_BIG < value < _TOO_BIG else _tag("int", hex(value))
    if cls is float:
        return value if math.isfinite(value) else _tag("float", repr(value))
    if cls in SCALARS:
        return _scalar(value, cls)
    if id(value) in above or len(above) >= _DEEPEST:
        return _tag("type", _name(cls))
    return _container(value, cls, (*above, id(value)))


def _scalar(value: Any, cls: type) -> Any:
    tag, _, _ = SCALARS[cls]
    try:
        return _tag(tag, SCALARS[cls][1](value))
    except Exception:  # noqa: BLE001 -- a NaN Decimal, or a tzinfo that raises
        return _tag(tag, str(value))


def _container(value: Any, cls: type, above: tuple[int, ...]) -> Any:
    if cls is list:
        return [canonical(item, above) for item in value]
    if cls is tuple:
        return _tag("tuple", [canonical(item, above) for item in value])
    if cls is dict:
        return _mapping(value, above)
    if cls is set or cls is frozenset:
        return _tag(cls.__name__, _members(value, above))
    if isinstance(value, Enum):
        return _tag("enum", _name(cls), value.value if isinstance(value, Flag) else value.name)
    fields = _fields_of(value, cls)
    if fields is not None:
        return _tag("record", _name(cls), _record(fields, cls, above))
    return _subclass(value, cls, above)


def _subclass(value: Any, cls: type, above: tuple[int, ...]) -> Any:
    for base in (bool, int, float, str, bytes):
        if isinstance(value, base):
            plain = as_base(value, base)
            return canonical(plain, above) if plain is not None else _tag("type", _name(cls))
    for base in SCALARS:
        if isinstance(value, base) and (plain := as_base(value, base)) is not None:
            return canonical(plain, above)
    if isinstance(value, dict):
        return _tag("of", _name(cls), _mapping(cast("dict[Any, Any]", dict(value)), above))
    if isinstance(value, (list, tuple)):
        items: list[Any] = list(cast("list[Any]", value))
        return _tag("of", _name(cls), [canonical(item, above) for item in items])
    if isinstance(value, (set, frozenset)):
        return _tag("of", _name(cls), _members(cast("set[Any]", value), above))
    return _opaque(value, cls, above)


def _opaque(value: Any, cls: type, above: tuple[int, ...]) -> Any:
    """What no codec represents: by name only."""
    if isinstance(value, type):
        return _tag("class", _name(value))
    if isinstance(value, (FunctionType, BuiltinFunctionType)):
        return _tag("function", _name(value))
    if isinstance(value, MethodType):
        return _tag("function", _name(value.__func__))
    if isinstance(value, functools.partial):
        partial = cast("functools.partial[Any]", value)
        parts = [partial.func, partial.args, partial.keywords]
        return _tag("partial", [canonical(part, above) for part in parts])
    return _tag("type", _name(cls))


def _mapping(value: dict[Any, Any], above: tuple[int, ...]) -> Any:
    keys = list(value)
    if TAG not in value and all(type(key) is str for key in keys):
        return {key: canonical(value[key], above) for key in sorted(keys)}
    pairs = [[canonical(key, above), canonical(value[key], above)] for key in keys]
    return _tag("dict", sorted(pairs, key=_bytes))


def _members(value: set[Any] | frozenset[Any], above: tuple[int, ...]) -> list[Any]:
    return sorted((canonical(item, above) for item in value), key=_bytes)


def _tag(*parts: Any) -> dict[str, Any]:
    return {TAG: list(parts)}


def _name(thing: Any) -> str:
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    return f"{module}.{name}" if module and module != "builtins" else str(name)


def _bytes(form: Any) -> bytes:
    try:
        return encode(form)
    except UnicodeEncodeError:
        return encode(_without_surrogates(form))


def _without_surrogates(form: Any) -> Any:
    if isinstance(form, str):
        try:
            form.encode()
        except UnicodeEncodeError:
            return "\0" + ascii(form)
        return form
    if isinstance(form, list):
        return [_without_surrogates(item) for item in cast("list[Any]", form)]
    if isinstance(form, dict):
        pairs = cast("dict[str, Any]", form).items()
        return {_without_surrogates(key): _without_surrogates(item) for key, item in pairs}
    return form


# ---- records ------------------------------------------------------------------------------------


def _fields_of(value: Any, cls: Any) -> dict[str, Any] | None:
    """The fields of a record's instance, or None when it is none."""
    if hasattr(cls, "__struct_fields__"):
        names: tuple[str, ...] = cls.__struct_fields__
    elif hasattr(cls, "__pydantic_fields__") and not isinstance(value, type):
        extra: dict[str, Any] = getattr(value, "__pydantic_extra__", None) or {}
        known = {name: getattr(value, name, None) for name in cls.__pydantic_fields__}
        return {**known, **extra}
    elif hasattr(cls, "__dataclass_fields__"):
        names = tuple(cls.__dataclass_fields__)
    elif hasattr(cls, "__attrs_attrs__"):
        names = tuple(field.name for field in cls.__attrs_attrs__)
    else:
        return None
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _record(fields: dict[str, Any], cls: type, above: tuple[int, ...]) -> dict[str, Any]:
    defaults = _defaults(cls)
    record: dict[str, Any] = {}
    for name in sorted(fields):
        value = fields[name]
        if isinstance(value, _LEFT_OUT):
            continue
        form = canonical(value, above)
        if name not in defaults or _bytes(form) != defaults[name]:
            record[name] = form
    return record


@functools.lru_cache(maxsize=1024)
def _defaults(cls: Any) -> dict[str, bytes]:
    """The canonical bytes of each field's default. Only builtin factories are called."""
    found: dict[str, Any] = {}
    for name, default, factory in _declared(cls):
        if factory in _FACTORIES:
            found[name] = factory()
        elif not _is_missing(default) and factory is None:
            found[name] = default
    return {name: _bytes(canonical(default)) for name, default in found.items()}


_FACTORIES = (list, dict, set, tuple, frozenset, str, int, float, bool, bytes)


def _declared(cls: Any) -> Iterator[tuple[str, Any, Any]]:
    if hasattr(cls, "__struct_fields__"):
        for info in msgspec.structs.fields(cls):
            yield info.name, info.default, _factory(info.default_factory)
    elif hasattr(cls, "__pydantic_fields__"):
        for name, info in cls.__pydantic_fields__.items():
            default = getattr(info, "default", None)
            yield name, default, getattr(info, "default_factory", None)
    elif hasattr(cls, "__dataclass_fields__"):
        for name, field in cls.__dataclass_fields__.items():
            yield name, field.default, _factory(field.default_factory)
    elif hasattr(cls, "__attrs_attrs__"):
        for field in cls.__attrs_attrs__:
            factory = getattr(field.default, "factory", None)
            yield field.name, field.default, factory


def _factory(factory: Any) -> Any:
    return None if _is_missing(factory) else factory


def _is_missing(default: Any) -> bool:
    """The markers for "no default" of dataclasses, msgspec, pydantic and attrs."""
    names = ("_MISSING_TYPE", "NoDefaultType", "PydanticUndefinedType", "_Nothing")
    return type(default).__name__ in names


# ---- text for messages --------------------------------------------------------------------------


def text_of(forms: list[Any], named: Mapping[str, Any]) -> str:
    """Return arguments in canonical form as a text of at most 256 bytes."""
    pieces: list[str] = []
    size = 0
    for piece in _argument_pieces(forms, named):
        pieces.append(piece)
        size += len(piece)
        if size > MOST_TEXT:
            break
    return cut("".join(pieces).encode("utf-8", "backslashreplace"))


def cut(data: bytes) -> str:
    """Return UTF-8 text, shortened to 256 bytes."""
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
    match form:
        case {"$": [str(tag), *parts]} if len(cast("dict[str, Any]", form)) == 1:
            yield from _tagged_pieces(tag, parts)
        case dict():
            yield from _listed("{", "}", cast("dict[str, Any]", form).items(), ":")
        case list():
            yield from _listed("[", "]", [(None, item) for item in cast("list[Any]", form)], "")
        case str():
            yield _bytes(form[:MOST_TEXT]).decode()
        case _:
            yield encode(form).decode()


def _tagged_pieces(tag: str, parts: list[Any]) -> Iterator[str]:
    match tag, parts:
        case ("type" | "function" | "class", [str(name)]):
            yield f"<{name}>"
        case ("record" | "of", [str(name), dict(fields)]):
            pairs = cast("dict[str, Any]", fields).items()
            yield name.rpartition(".")[2]
            yield from _listed("(", ")", pairs, "=")
        case ("enum", [str(name), member]):
            yield f"{name.rpartition('.')[2]}.{member}"
        case _:
            yield tag
            yield from _listed("(", ")", [(None, part) for part in parts], "")


def _listed(opening: str, closing: str, items: Any, between: str) -> Iterator[str]:
    yield opening
    separator = ""
    for name, item in items:
        yield separator if name is None else f"{separator}{name}{between}"
        yield from _pieces(item)
        separator = ","
    yield closing
