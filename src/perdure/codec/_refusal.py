"""How a value is refused: the reason rises through the containers, each adding where it was.

Private to the codec; what leaves it is ``InvalidValue``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perdure import _late as late
from perdure.errors import InvalidValue

__all__ = ["DEEPEST", "Refused", "class_of", "invalid", "kind_of", "shown", "too_deep"]

# A figure of our own instead of Python's recursion limit, so that whether a value is accepted, and
# whether it can be read again, does not depend on how deep the caller's stack is. A level takes
# up to four frames to load (a tuple in a tuple), which leaves more than half of the usual 1,000.
DEEPEST = 100
_LONGEST_PATH = 200

class_of: Callable[[object], type[Any]] = type
"""``type(value)``: after ``type(value) is dict`` a checker makes a partly unknown type of Any."""


class Refused(Exception):
    """A value cannot pass; ``segments`` are collected from the inside out.

    Args:
        found: what was got, such as ``<Decimal>``.
        why: continues "returned <Decimal> at $.price, ...".
        fix: what to do instead.
    """

    def __init__(self, found: str, why: str, fix: str = "") -> None:
        super().__init__(found, why, fix)
        self.found = found
        self.why = why
        self.fix = fix
        self.segments: list[str] = []

    def inside(self, segment: str) -> Refused:
        """Add the step that leads to the value from the container it is in."""
        self.segments.append(segment)
        return self

    def at_key(self, key: object) -> Refused:
        """Add a dictionary's or record's key as a path segment."""
        if isinstance(key, str) and key.isidentifier():
            return self.inside("." + key)
        if isinstance(key, str):
            return self.inside(f"[{late.json.dumps(key)}]")
        return self.inside(f"[{shown(key)}]")

    def at_index(self, index: int) -> Refused:
        """Add a position in a list as a path segment."""
        return self.inside(f"[{index}]")

    def path(self) -> str:
        """Return the whole path from ``$``, cut in the middle when it is very long."""
        path = "$" + "".join(reversed(self.segments))
        if len(path) <= _LONGEST_PATH:
            return path
        return f"{path[: _LONGEST_PATH // 2]}...{path[-_LONGEST_PATH // 4 :]}"


def invalid(refused: Refused, verb: str) -> InvalidValue:
    """Return the public error for a refusal; ``verb`` says how the value came here."""
    path = refused.path()
    message = f"{verb} {refused.found} at {path}, {refused.why}"
    return InvalidValue(f"{message}; {refused.fix}" if refused.fix else message, path=path)


def too_deep(value: object) -> Refused:
    """Return the refusal of a value that goes on too deep."""
    return Refused(
        kind_of(value),
        f"which is circular or nested more than {DEEPEST} levels deep",
        "flatten it, or hold ids in place of nested objects",
    )


def kind_of(value: object) -> str:
    """Return ``<ClassName>`` of the value."""
    return f"<{class_of(value).__qualname__}>"


def shown(value: object) -> str:
    """Return a short text of a value for a message: simple ones as they are, others by class."""
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, str):
        return ascii(str(value)) if len(value) <= 40 else ascii(value[:40]) + "..."
    if isinstance(value, int) and value.bit_length() <= 128:
        return int.__repr__(value)
    return kind_of(value)
