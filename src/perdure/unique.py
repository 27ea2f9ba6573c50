"""What becomes of a call whose unique_key is taken: the options that say so.

What the store does then is written in :mod:`perdure.model.keys`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, TypeAlias, get_args

import msgspec

from perdure._engine.keys import OnTaken
from perdure.duration import Duration, named_micros, to_micros
from perdure.errors import UsageError, shown
from perdure.model import keys
from perdure.model.keys import Replace, Throttle
from perdure.model.records import Micros

OnConflict: TypeAlias = Literal["raise", "skip", "replace"]
"""What becomes of a call whose unique_key is taken; ``Workflow.options`` explains each."""


class Debounce(msgspec.Struct, frozen=True):
    """Let a run wait until its calls have paused, and start it with the input of the last.

    Each call of the same ``unique_key`` that comes before the run has started replaces its input,
    and has it wait anew. A call that comes once it has started makes another run.

    Attributes:
        delay: how long no call may come before the run starts: ``"10s"``, ISO 8601 or a timedelta.
        max_wait: it starts so long after its first call, however many come; None for no bound.

    Raises:
        InvalidDuration: one is none.
        UsageError: ``delay`` is nothing, or longer than ``max_wait``.
    """

    delay: timedelta | str
    max_wait: timedelta | str | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        delay = named_micros(self.delay, "delay")
        if delay <= 0:
            raise UsageError(f"delay must be longer than nothing, got {self.delay!r}")
        msgspec.structs.force_setattr(self, "delay", timedelta(microseconds=delay))
        if self.max_wait is not None:
            longest = named_micros(self.max_wait, "max_wait")
            if longest < delay:
                raise UsageError(f"max_wait must be no shorter than delay, got {self.max_wait!r}")
            msgspec.structs.force_setattr(self, "max_wait", timedelta(microseconds=longest))


def on_taken(
    on_conflict: object, unique_for: Duration | None, debounce: object, *, has_key: bool
) -> OnTaken | None:
    """Return what these options say of a unique_key, checked; None where they say nothing.

    Raises:
        UsageError: an option is wrong, or two of them exclude each other.
        InvalidDuration: ``unique_for`` is none.
    """
    if on_conflict is not None and on_conflict not in get_args(OnConflict):
        raise UsageError(f"on_conflict is 'raise', 'skip' or 'replace', got {shown(on_conflict)}")
    rules = {
        "on_conflict": Replace() if on_conflict == "replace" else None,
        "unique_for": None if unique_for is None else Throttle(_length(unique_for)),
        "debounce": None if debounce is None else _debounced(debounce),
    }
    said = [name for name, rule in rules.items() if rule is not None]
    if not said and on_conflict is None:
        return None
    if not has_key:
        name = said[0] if said else "on_conflict"
        raise UsageError(f"{name}= says what a unique_key means; add unique_key=…")
    if len(said) > 1:
        raise UsageError(f"{said[0]}= and {said[1]}= say two things of one unique_key; choose one")
    rule = rules[said[0]] if said else None
    delay = to_micros(debounce.delay) if isinstance(debounce, Debounce) else 0
    return OnTaken(rule, delay, skips=on_conflict == "skip")


def _debounced(given: object) -> keys.Debounce:
    if not isinstance(given, Debounce):
        raise UsageError(f'debounce is a Debounce such as Debounce("10s"), got {shown(given)}')
    return keys.Debounce(None if given.max_wait is None else to_micros(given.max_wait))


def _length(unique_for: Duration) -> Micros:
    length = named_micros(unique_for, "unique_for")
    if length <= 0:
        raise UsageError(f"unique_for must be longer than nothing, got {unique_for!r}")
    return length
