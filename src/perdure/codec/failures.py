"""Errors as records, and exceptions rebuilt from them.

Rebuilding is data to object, never code: a class is looked up among the loaded modules and never
imported, it must be an ``Exception``, and its ``__init__`` is not called. Everything else comes
back as ``StepFailed``. The first pass gets the rebuilt exception too, so that a body sees the
same thing each time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import msgspec

from perdure.errors import InvalidValue, StepFailed

from . import _untyped
from ._refusal import Refused, class_of

__all__ = ["ErrorSummary", "decode_error", "encode_error", "error_summary", "replayed_error"]

_DEEPEST_CAUSE = 3
_MOST_MEMBERS = 20
_MOST_FRAMES = 20
_MOST_NOTES = 20
_LONGEST_REPR = 1_000
_LONGEST_MESSAGE = 10_000
_LARGEST_STATE = 65_536
_LARGEST_RECORD = 262_144

# What exceptions written in C keep outside of args and __dict__, by the class that has it.
_MEMBERS: tuple[tuple[type[BaseException], tuple[str, ...]], ...] = (
    (OSError, ("errno", "strerror", "filename", "filename2")),
    (ImportError, ("msg", "name", "path")),
    (UnicodeEncodeError, ("encoding", "object", "start", "end", "reason")),
    (UnicodeDecodeError, ("encoding", "object", "start", "end", "reason")),
    (
        SyntaxError,
        ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset"),
    ),
    (StopIteration, ("value",)),
    (NameError, ("name",)),
    (AttributeError, ("name",)),
)


class ErrorSummary(msgspec.Struct, frozen=True):
    """What people read of a failure.

    Attributes:
        type: the qualified class name.
        message: what it says.
        frames: where it was raised, outermost first, as ``"shop/orders.py:12 charge"``.
    """

    type: str
    message: str
    frames: tuple[str, ...]


def encode_error(error: BaseException) -> bytes:
    """Return an exception's record as bytes. It never fails, whatever the exception is."""
    try:
        data = _untyped.encode(_record(error, 0))
    except Exception:  # noqa: BLE001 -- a user's property or __class__; what is left is its name
        data = b""
    return data if 0 < len(data) <= _LARGEST_RECORD else _untyped.encode(_named(error))


def decode_error(data: bytes) -> BaseException:
    """Return the exception of a record, or a ``StepFailed`` that stands for it.

    Raises:
        InvalidValue: the bytes are no record of an error.
    """
    return _rebuild(_read(data))


def error_summary(data: bytes) -> ErrorSummary:
    """Return what people read of a record, without rebuilding anything.

    Raises:
        InvalidValue: the bytes are no record of an error.
    """
    record = _read(data)
    return ErrorSummary(
        _type_name(record), record["message"], tuple(map(str, record.get("frames") or ()))
    )


def shown_error(data: bytes) -> ErrorSummary:
    """Return what people read of a record, also of one that is damaged: then it says so."""
    try:
        return error_summary(data)
    except InvalidValue:
        return ErrorSummary("damaged record", f"{data[:60]!r}", ())


def replayed_error(error: BaseException) -> tuple[bytes, BaseException]:
    """Return an exception's record and the exception that a replay will see.

    The second carries the traceback of the first, and so do the causes, for the logs of this
    process.
    """
    data = encode_error(error)
    replayed = decode_error(data)
    _carry_tracebacks(error, replayed)
    return data, replayed


def _carry_tracebacks(original: BaseException | None, replayed: BaseException | None) -> None:
    while original is not None and replayed is not None:
        replayed.__traceback__ = original.__traceback__
        original, replayed = original.__cause__, replayed.__cause__


# ---- writing ------------------------------------------------------------------------------------


def _record(error: BaseException, depth: int) -> dict[str, Any]:
    record = {**_named(error), "frames": _frames(error.__traceback__), **_arguments(error)}
    if state := _representable(_state(error)):
        record["state"] = state
    if members := _representable(_members(error)):
        record["members"] = members
    if notes := getattr(error, "__notes__", None):
        record["notes"] = [_text(note) for note in notes[:_MOST_NOTES] if isinstance(note, str)]
    if depth < _DEEPEST_CAUSE:
        if error.__cause__ is not None:
            record["cause"] = _record(error.__cause__, depth + 1)
        if isinstance(error, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", error)
            record["group"] = {
                "message": _text(group.message),
                "errors": [_record(e, depth + 1) for e in group.exceptions[:_MOST_MEMBERS]],
                "count": len(group.exceptions),
            }
    return record


def _named(error: BaseException) -> dict[str, Any]:
    """What every record has; alone, it is rebuilt as StepFailed."""
    cls = class_of(error)
    return {
        "module": _text(cls.__module__),
        "qualname": _text(cls.__qualname__),
        "message": _message(error),
    }


def _arguments(error: BaseException) -> dict[str, Any]:
    if isinstance(error, BaseExceptionGroup):
        return {}
    args: tuple[Any, ...] = error.args
    dumped = [_dumped(value) for value in args]
    if None not in dumped:
        return {"args": [form[0] for form in dumped if form is not None]}
    return {"args_text": [_repr(value) for value in args[:_MOST_FRAMES]]}


def _dumped(value: Any) -> list[Any] | None:
    """The JSON form in a list, or None when there is none or it is too large."""
    try:
        form = _untyped.dump(value)
        size = len(_untyped.encode(form))
    except (Refused, ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        return None
    return [form] if size <= _LARGEST_STATE else None


def _representable(values: dict[str, Any]) -> dict[str, Any]:
    dumped = {name: _dumped(value) for name, value in values.items()}
    return {_text(name): form[0] for name, form in dumped.items() if form is not None}


def _state(error: BaseException) -> dict[str, Any]:
    state: dict[str, Any] = getattr(error, "__dict__", {})
    return {
        name: value for name, value in state.items() if name != "__notes__" and type(name) is str
    }


def _members(error: BaseException) -> dict[str, Any]:
    for cls, names in _MEMBERS:
        if isinstance(error, cls):
            values = {name: getattr(error, name, None) for name in names}
            # None is what an unset member reads as; set to None, filename2 would be printed.
            return {name: value for name, value in values.items() if value is not None}
    return {}


def _message(error: BaseException) -> str:
    try:
        return _text(str(error))[:_LONGEST_MESSAGE]
    except Exception:  # noqa: BLE001 -- a user's __str__
        return f"<unprintable {type(error).__qualname__}>"


def _repr(value: Any) -> str:
    try:
        return _text(repr(value))[:_LONGEST_REPR]
    except Exception:  # noqa: BLE001 -- a user's __repr__
        return f"<unprintable {type(value).__qualname__}>"


def _text(value: Any) -> str:
    """Text that can be stored: lone surrogates escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode()


# This package and the standard library; what is installed shows by its directory's name.
_NOT_IN_APP = (
    str(Path(__file__).parent.parent) + os.sep,
    str(Path(os.__file__).parent) + os.sep,
    "<frozen",
)


def _frames(traceback: TracebackType | None) -> list[str]:
    every = list(_walk(traceback))
    in_app = [(file, text) for file, text in every if _is_in_app(file)]
    return [text for _, text in (in_app or every)[-_MOST_FRAMES:]]


def _walk(traceback: TracebackType | None) -> Iterator[tuple[str, str]]:
    while traceback is not None:
        code = traceback.tb_frame.f_code
        short = "/".join(code.co_filename.replace("\\", "/").split("/")[-2:])
        line = traceback.tb_lineno or code.co_firstlineno
        yield code.co_filename, _text(f"{short}:{line} {code.co_qualname}")
        traceback = traceback.tb_next


def _is_in_app(file: str) -> bool:
    return not (file.startswith(_NOT_IN_APP) or "site-packages" in file or "dist-packages" in file)


# ---- reading ------------------------------------------------------------------------------------


def _read(data: bytes) -> dict[str, Any]:
    try:
        record: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidValue(f"stored is no record of an error: {error}") from error
    if class_of(record) is not dict:
        raise InvalidValue("stored is no record of an error: it is no object")
    found: dict[str, Any] = record
    if not all(isinstance(found.get(name), str) for name in ("module", "qualname", "message")):
        raise InvalidValue("stored is no record of an error: its type or message is missing")
    return found


def _type_name(record: dict[str, Any]) -> str:
    module, name = record["module"], record["qualname"]
    return name if module == "builtins" else f"{module}.{name}"


def _rebuild(record: dict[str, Any], depth: int = 0) -> BaseException:
    error = _rebuilt(record, depth)
    if error is None:
        error = StepFailed(record["message"], error_type=_type_name(record))
    for note in record.get("notes") or ():
        error.add_note(str(note))
    if isinstance(cause := record.get("cause"), dict) and depth < _DEEPEST_CAUSE:
        error.__cause__ = _rebuild(cast("dict[str, Any]", cause), depth + 1)
    return error


def _rebuilt(record: dict[str, Any], depth: int) -> BaseException | None:
    """The exception itself, or None if its class or its arguments are not to be had."""
    cls = _find(record["module"], record["qualname"])
    if cls is None:
        return None
    try:
        if "group" in record:
            return _rebuilt_group(cls, record, depth)
        if "args" not in record:
            return None
        args = tuple(_untyped.load(record["args"]))
        error = cls.__new__(cls, *args)
        error.args = args
        for name, value in _untyped.load(record.get("state") or {}).items():
            error.__dict__[name] = value
        _set_members(error, _untyped.load(record.get("members") or {}))
        return error if _message(error) == record["message"] else None
    except Exception:  # noqa: BLE001 -- a user's __new__ or __str__; StepFailed stands in
        return None


def _rebuilt_group(
    cls: type[BaseException], record: dict[str, Any], depth: int
) -> BaseException | None:
    group: dict[str, Any] = record["group"]
    members = [_rebuild(member, depth + 1) for member in group["errors"]]
    if not _is_group(cls) or group["count"] != len(members):
        return None
    error = cls.__new__(cls, group["message"], members)
    for name, value in _untyped.load(record.get("state") or {}).items():
        error.__dict__[name] = value
    return error


def _is_group(cls: type[BaseException]) -> bool:
    return issubclass(cls, BaseExceptionGroup)


def _find(module_name: str, qualname: str) -> type[Exception] | None:
    """The class of that name among the loaded modules, without running any code of theirs."""
    found: object = sys.modules.get(module_name)
    for name in qualname.split("."):
        # vars, not getattr: a module's __getattr__ may import, and a metaclass's may do anything.
        names: Mapping[str, object] = vars(found) if hasattr(found, "__dict__") else {}
        found = names.get(name)
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None
    if found.__module__ != module_name or found.__qualname__ != qualname:
        return None
    return found


def _set_members(error: BaseException, values: dict[str, Any]) -> None:
    for cls, names in _MEMBERS:
        if isinstance(error, cls):
            for name in names:
                if name in values:
                    vars(cls)[name].__set__(error, values[name])
            return
