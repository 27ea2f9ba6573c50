"""Arguments of a run as people type them: ``name=value`` words, read by the body's annotations.

- ``n=3``: the text is read as JSON if it is JSON and fits the parameter, else taken as it is; so
  ``3`` is a number for ``n: int`` and a text for ``n: str``.
- ``order:={"id": 1}``: JSON and nothing else.
- ``order=@file.json``: the file's content instead of the text, read likewise; ``order:=@file.json``
  takes it for JSON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from perdure.cli._failures import ExitCode, Failure
from perdure.codec import Arguments
from perdure.errors import InvalidValue

_NONE: Final = object()

_SURROGATE = re.compile("[\ud800-\udfff]")
"""What the shell's bytes become where they are no UTF-8."""


def parse_arguments(
    words: Sequence[str], arguments: Arguments
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what to call the definition with.

    Raises:
        Failure: a word is no ``name=value``, its file cannot be read, or its JSON is none.
        InvalidValue: the values do not fit the definition; the message names the parameter.
    """
    given: dict[str, list[Any]] = {}
    for word in words:
        name, readings = _split(word)
        if name in given:
            raise _refuse(word, f"{name!r} is given twice", "give each argument once")
        given[name] = readings
    while True:
        chosen = {name: readings[0] for name, readings in given.items()}
        try:
            return arguments.decode_named(chosen)
        except InvalidValue as error:
            unfit = _parameter(error.path, given)
            if unfit is None or len(given[unfit]) == 1:
                raise
            given[unfit].pop(0)  # as JSON it does not fit: take it as it is


def plain_values(words: Sequence[str]) -> dict[str, Any]:
    """Return values by their names, each as JSON if it is JSON, else as a text.

    Raises:
        Failure: as for :func:`parse_arguments`.
    """
    given: dict[str, Any] = {}
    for word in words:
        name, readings = _split(word)
        if name in given:
            raise _refuse(word, f"{name!r} is given twice", "give each value once")
        given[name] = readings[0]
    return given


def _split(word: str) -> tuple[str, list[Any]]:
    """Return a word's name and what its value may mean, the likeliest first."""
    if not word.isascii() and _SURROGATE.search(word):
        raise _refuse(word, "it holds bytes that are no UTF-8", "give such a value as base64")
    name, equals, text = word.partition("=")
    as_json = name.endswith(":")
    name = name.removesuffix(":")
    if not equals or not name:
        raise _refuse(word, "it has no name and '='", "write name=value, or name:=json")
    if text.startswith("@"):
        text = _content(word, text[1:])
    value = _json(text)
    if as_json and value is _NONE:
        raise _refuse(word, f"{text[:60]!r} is no JSON", "mend it, or write name=value for a text")
    if as_json:
        return name, [value]
    return name, [text] if value is _NONE else [value, text]


def _content(word: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise _refuse(
            word, f"cannot read {path!r}: {error}", 'name a file; a text with @ is name:="@text"'
        ) from error


def _json(text: str) -> Any:
    """Return what the codec reads: no NaN, no number without end, nothing that nests for ever."""
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return _NONE


def _parameter(path: str, given: dict[str, list[Any]]) -> str | None:
    """Return the parameter that a path such as ``$.order.items[3]`` leads into."""
    for name in given:
        if path == f"$.{name}" or path.startswith((f"$.{name}.", f"$.{name}[")):
            return name
    return None


def _refuse(word: str, why: str, do: str) -> Failure:
    return Failure(ExitCode.USAGE, f"cannot read the argument {word[:80]!r}", why=why, do=do)
