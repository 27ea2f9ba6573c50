"""Durations as people write them: ``"10m"``, ``"1h30m"``, ISO 8601, or a ``timedelta``.

Parsing and formatting only. Instants are in ``clock``; back-off arithmetic is in ``retry``.
Everything is exact: a duration is a whole number of microseconds, computed without floats.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache
from typing import TypeAlias

from .errors import InvalidDuration

__all__ = ["Duration", "format_micros", "named_micros", "to_micros", "to_timedelta"]

Duration: TypeAlias = str | timedelta
"""What every public parameter that means a length of time accepts."""

_MICROS = {
    "w": 604_800_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
}
_WORDS = {"w": "week", "d": "day", "h": "hour", "m": "minute", "s": "second"}
_NUMBER = r"([0-9]+(?:[.,][0-9]+)?)"
# One optional part a unit, biggest first: "30m1h" and "1h1h" are slips, not durations.
_SPELLED = [rf"{unit}|{_WORDS[unit]}s?" if unit in _WORDS else unit for unit in _MICROS]
_SHORT = re.compile("".join(rf"(?:\s*{_NUMBER}\s*(?:{unit}))?" for unit in _SPELLED) + r"\s*")
_ISO = re.compile(
    rf"P(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?=[0-9])(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?"
)
_CALENDAR = re.compile(r"P[^T]*[0-9][YM]")
# A thousand years: long enough for every wait, and any instant plus it is a date Python can hold.
_LONGEST = 365_250 * _MICROS["d"]
_LONGEST_TEXT = 64


def to_timedelta(value: Duration) -> timedelta:
    """Return the duration as a ``timedelta``.

    Args:
        value: a ``timedelta``; a text of numbers with the units ``w d h m s ms``, biggest first
            (``"10m"``, ``"1h30m"``, ``"1.5s"``), all but the last of which may be spelled out
            (``"3 days"``); or an ISO 8601 duration without years and months (``"PT10M"``,
            ``"P1DT2H"``, ``"P2W"``).

    Raises:
        InvalidDuration: it is no duration, negative, finer than a microsecond or longer than
            a thousand years.
    """
    return timedelta(microseconds=to_micros(value))


def to_micros(value: Duration) -> int:
    """Return the duration in whole microseconds; see ``to_timedelta`` for what is accepted."""
    return _micros(value)


def named_micros(value: Duration, what: str) -> int:
    """Return the duration in whole microseconds; an error says which option it is of.

    Raises:
        InvalidDuration: it is none; the message begins with ``what``.
    """
    try:
        return _micros(value)
    except InvalidDuration as wrong:
        raise InvalidDuration(f"{what}: {wrong}") from None


def _micros(given: object) -> int:
    if isinstance(given, str):
        return _parse(given)
    if isinstance(given, timedelta):
        micros = (given.days * 86_400 + given.seconds) * 1_000_000 + given.microseconds
        return _bounded(micros, given)
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        raise InvalidDuration(
            f"a duration needs a unit, got the bare number {_shown(given)}; "
            'write "10s", "10m" or timedelta(seconds=10)'
        )
    raise _refuse(given)


def format_micros(micros: int) -> str:
    """Return microseconds as people read them: ``"1h 30m"``, ``"2.5s"``, ``"250ms"``, ``"0s"``.

    The text parses back to the same duration, unless it is negative.
    """
    if micros < 0:
        return "-" + format_micros(-micros)
    if 0 < micros < 1_000_000:
        return _decimal(micros, 1_000) + "ms"
    parts: list[str] = []
    for unit in ("d", "h", "m"):
        count, micros = divmod(micros, _MICROS[unit])
        if count:
            parts.append(f"{count}{unit}")
    if micros or not parts:
        parts.append(_decimal(micros, 1_000_000) + "s")
    return " ".join(parts)


@lru_cache(maxsize=512)  # a definition's "30s" comes at every step: 3.9 us parsed, 0.1 found
def _parse(text: str) -> int:
    if len(text) > _LONGEST_TEXT:
        raise _refuse(text, f"is {len(text)} characters long")
    stripped = text.strip()
    if stripped.startswith("-"):
        raise _refuse(text, "is negative")
    if _CALENDAR.match(stripped):
        raise _refuse(text, "counts years or months, which have no fixed length; use days")
    units = tuple(_MICROS)
    match = _SHORT.fullmatch(stripped)
    if match is None:
        units = units[:-1]
        match = _ISO.fullmatch(stripped)
    if match is None:
        raise _refuse(text)
    parts = [(n, unit) for n, unit in zip(match.groups(), units, strict=True) if n is not None]
    if not parts:
        raise _refuse(text)
    return _bounded(sum(_exact(n, unit, text) for n, unit in parts), text)


def _exact(number: str, unit: str, text: str) -> int:
    whole, _, fraction = number.replace(",", ".").partition(".")
    scale: int = 10 ** len(fraction)
    micros, rest = divmod(int(whole + fraction) * _MICROS[unit], scale)
    if rest:
        raise _refuse(text, "is finer than a microsecond")
    return micros


def _bounded(micros: int, given: Duration) -> int:
    if micros < 0:
        raise _refuse(given, "is negative")
    if micros > _LONGEST:
        raise _refuse(given, "is longer than a thousand years")
    return micros


def _decimal(count: int, scale: int) -> str:
    whole, rest = divmod(count, scale)
    digits = f"{rest:0{len(str(scale)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _refuse(given: object, why: str = "is no duration") -> InvalidDuration:
    return InvalidDuration(
        f'{_shown(given)} {why}; write "10m", "1h30m", "1.5s" (units w d h m s ms, biggest first), '
        '"PT10M" or a timedelta'
    )


def _shown(given: object) -> str:
    """A short text for a message, also of what is too big to print."""
    if not isinstance(given, (str, int, float, timedelta)):
        return f"<{type(given).__name__}>"
    try:
        text = repr(given)
    except ValueError:  # an int of more digits than Python prints
        return "<int>"
    return text if len(text) <= _LONGEST_TEXT + 2 else text[:_LONGEST_TEXT] + "..."
