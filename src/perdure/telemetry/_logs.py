"""The library's loggers: one fact a line, with key-values; silent until somebody configures them.

All are below ``perdure``. A program that configures logging itself needs nothing from here: a
record's message is the fact followed by ``key=value`` pairs, and its fields are attributes of the
record, as ``extra=`` makes them. :func:`configure_logging` is for programs that do not, such as a
command.

What appears from which level on is decided once: payloads (input, arguments, result, meta) at
none; the class of an error at any; its message, which is the user's text, and its traceback at
WARNING and above.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, TypeAlias, get_args

from perdure.errors import UsageError

Format: TypeAlias = Literal["text", "json"]
"""How a line is written."""

Level: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]
"""From where on lines are written."""

_root = logging.getLogger()
_library = logging.getLogger("perdure")
# Without it the standard library prints warnings of a program that configured nothing.
_library.addHandler(logging.NullHandler())

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "fact"}
"""Attributes of a record that are no fields."""

_PLAIN = re.compile(r"[\w./:@%+,~<>()*-]+", re.ASCII)
"""Values that need no quotes."""

_UNSAFE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
"""What could end a line, move a terminal's cursor, reorder text, or not be encoded."""


class Log:
    """A logger whose lines are one fact with key-values.

    Args:
        name: ``perdure.worker`` and so on.

    Example::

        log.warning("worker lost its lease; its runs go on elsewhere", worker_id=worker_id)
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def is_heard_at(self, level: int) -> bool:
        """Tell whether a line of this level goes anywhere: somebody has configured a handler."""
        return self._logger.isEnabledFor(level) and any(
            not isinstance(handler, logging.NullHandler) for handler in _handlers_of(self._logger)
        )

    def write(
        self,
        level: int,
        fact: str,
        fields: Mapping[str, object],
        error: BaseException | None = None,
        depth: int = 1,
    ) -> None:
        """Log a fact.

        Args:
            level: of the standard library.
            fact: the same text each time, so that lines can be counted by it.
            fields: what differs: names, ids, figures; no payload.
            error: whose traceback follows.
            depth: frames between this and the line that logs.
        """
        if self._logger.isEnabledFor(level):
            extra = {"fact": fact, **fields}
            line = _Line(fact, fields)
            self._logger.log(level, line, exc_info=error, extra=extra, stacklevel=depth + 1)

    def info(self, fact: str, **fields: object) -> None:
        """Log something that is as it should be, and seldom happens."""
        self.write(logging.INFO, fact, fields, depth=2)

    def warning(self, fact: str, **fields: object) -> None:
        """Log something that is not as it should be, and goes on."""
        self.write(logging.WARNING, fact, fields, depth=2)

    def error(self, fact: str, **fields: object) -> None:
        """Log something that went wrong."""
        self.write(logging.ERROR, fact, fields, depth=2)

    def exception(self, fact: str, **fields: object) -> None:
        """Log something that went wrong, with the traceback of the exception being handled."""
        self.write(logging.ERROR, fact, fields, sys.exception(), depth=2)

    def critical(self, fact: str, **fields: object) -> None:
        """Log what ends the process."""
        self.write(logging.CRITICAL, fact, fields, depth=2)


def _handlers_of(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


class _Line:
    """A record's message, put together only when somebody reads it."""

    __slots__ = ("_fact", "_fields")

    def __init__(self, fact: str, fields: Mapping[str, object]) -> None:
        self._fact = fact
        self._fields = fields

    def __str__(self) -> str:
        pairs = [f"{key}={_quoted(value)}" for key, value in self._fields.items()]
        return " ".join([self._fact, *pairs])


def _quoted(value: object) -> str:
    text = _text(value)
    if _PLAIN.fullmatch(text):
        return text
    return escaped(json.dumps(text, ensure_ascii=False))


def escaped(text: str) -> str:
    r"""Return text without control characters: ``\x1b`` for an escape, and so on."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _instant(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """Time, level, logger, fact and key-values on one line; tracebacks indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text; control characters are escaped."""
        message = escaped(record.getMessage())
        line = f"{_instant(record)} {record.levelname:<8} {record.name}: {message}"
        below = _below(self, record)
        return "\n".join([line, *(f"    {escaped(text)}" for text in below.splitlines())])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, logger, fact, the fields, and traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON in ASCII: nothing in it needs escaping on a terminal.

        No line is lost for a field: what JSON cannot hold is written as its text, and a field that
        is called as one of ours has a ``_`` behind its name.
        """
        fields: dict[str, Any] = {
            "at": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "fact": getattr(record, "fact", None) or record.getMessage(),
        }
        if below := _below(self, record):
            fields["traceback"] = below
        for key, value in record.__dict__.items():
            if key not in _STANDARD:
                fields[_free(key, fields)] = value
        try:
            return _dumped(fields)
        except (ValueError, TypeError, RecursionError):
            return _dumped({name: _as_json(value) for name, value in fields.items()})


def _free(name: str, taken: Mapping[str, object]) -> str:
    while name in taken:
        name += "_"
    return name


def _dumped(value: object) -> str:
    return json.dumps(value, default=_text, allow_nan=False)


def _as_json(value: object) -> object:
    """Return a field as it is if JSON can hold it: no NaN, no keys that are no texts, no cycle."""
    try:
        _dumped(value)
    except (ValueError, TypeError, RecursionError):
        return _text(value)
    return value


def _text(value: object) -> str:
    """Return a value as text, also one whose own ``__str__`` fails."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 -- code of the user's; the line must not be lost
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _below(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return a record's traceback and stack, or nothing."""
    parts: list[str] = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


_FORMATTERS: dict[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}


def configure_logging(
    level: Level = "info",
    format: Format = "text",
    *,
    stream: TextIO | None = None,
    whole_process: bool = False,
) -> Callable[[], None]:
    """Write the library's log lines to a stream.

    Call it before the app connects. A second call replaces the first.

    Args:
        level: from where on. ``info`` has a line for each change of a run, ``debug`` for each
            attempt of a step, ``warning`` for what is not as it should be.
        format: ``text`` for people, ``json`` for machines: an object a line.
        stream: where to; standard error when left out.
        whole_process: write what any logger says, that of your bodies too, as ``perdure worker``
            does. Called before your modules are imported, it makes a ``basicConfig`` in them do
            nothing.

    Returns:
        A function that undoes it.

    Raises:
        UsageError: there is no such level or format.
    """
    if level not in get_args(Level):
        raise UsageError(f"level is one of {', '.join(get_args(Level))}; got {level!r}")
    if format not in _FORMATTERS:
        raise UsageError(f"format is one of {', '.join(_FORMATTERS)}; got {format!r}")
    for logger in (_library, _root):
        for old in [old for old in logger.handlers if isinstance(old, _Handler)]:
            old.leave()
    handler = _Handler(_root if whole_process else _library, stream)
    handler.setFormatter(_FORMATTERS[format]())
    handler.enter(level.upper())
    return handler.leave


class _Handler(logging.StreamHandler[Any]):
    """The handler that :func:`configure_logging` installs.

    Args:
        logger: which one it changes, and leaves as it was.
        stream: where lines go.
    """

    def __init__(self, logger: logging.Logger, stream: TextIO | None) -> None:
        super().__init__(stream)
        self._logger = logger
        self._before = logger.level, logger.propagate

    def enter(self, level: str) -> None:
        """Begin to write what the logger is told."""
        self._logger.addHandler(self)
        self._logger.setLevel(level)
        # A program that configured the root logger, too, would see each line twice.
        self._logger.propagate = False

    def leave(self) -> None:
        """Leave the logger as it was before; the second time nothing happens."""
        if self in self._logger.handlers:
            self._logger.removeHandler(self)
            level, self._logger.propagate = self._before
            self._logger.setLevel(level)
