"""Retention as people write it: how long ended runs are kept, by how they ended, and how many.

What it means to the store is written in :mod:`perdure.model.retention`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Literal, TypeAlias

import msgspec

from perdure import defaults
from perdure.duration import Duration, named_micros
from perdure.errors import UsageError, shown
from perdure.model.records import Micros
from perdure.model.retention import DEFAULT, FOREVER
from perdure.model.retention import Retention as StoredRetention

Age: TypeAlias = Duration | Literal["forever"] | None
"""How long something is kept; ``"forever"`` and None for ever."""

MOST: Final = 1_000_000_000
"""The largest number of runs to keep."""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long the ended runs of a definition are kept: ``Retention(completed="7d", keep=1_000)``.

    Attributes:
        completed, failed, cancelled: by how they ended; 30 days by default. A duration;
            ``"forever"`` or None for ever.
        declined: those that did not want the event that started them; 1 day by default.
        keep: at most so many of them, 1 to 1,000,000,000: those that ended first go first, however
            young they are. None for any number.

    Raises:
        InvalidDuration: one is no duration.
        UsageError: ``keep`` is no such number.
    """

    completed: timedelta | str | None = defaults.RETENTION
    failed: timedelta | str | None = defaults.RETENTION
    cancelled: timedelta | str | None = defaults.RETENTION
    declined: timedelta | str | None = defaults.DECLINED_RETENTION
    keep: int | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        for what in ("completed", "failed", "cancelled", "declined"):
            micros = age_given(getattr(self, what), what)
            length = None if micros is None else timedelta(microseconds=micros)
            msgspec.structs.force_setattr(self, what, length)
        keep: object = self.keep
        if keep is not None and (type(keep) is not int or not 1 <= keep <= MOST):
            raise UsageError(f"keep must be a whole number from 1 to {MOST:,}, got {shown(keep)}")


def age_given(given: object, what: str) -> Micros | None:
    """Return how long something is kept; None for ever.

    Raises:
        InvalidDuration: it is no duration; the message begins with ``what``.
    """
    if given is None or given == "forever":
        return None
    return named_micros(given, what)  # type: ignore[arg-type]  # that is what is asked here


def retention_given(given: object, what: str) -> StoredRetention:
    """Return what a definition or an app says of retention, for the store.

    One length holds for runs however they ended; those that were declined are kept for a day of it.

    Raises:
        InvalidDuration: it is neither a ``Retention`` nor a duration.
    """
    if isinstance(given, Retention):
        ages = (given.completed, given.failed, given.cancelled, given.declined)
        completed, failed, cancelled, declined = (age_given(age, what) for age in ages)
        return StoredRetention(completed, failed, cancelled, declined, given.keep)
    age = age_given(given, what)
    brief = DEFAULT.declined
    if age is not None and brief is not None:
        brief = min(age, brief)
    return StoredRetention(age, age, age, brief)


def retention_of_call(given: object) -> Micros | None:
    """Return what a call says of its run; None where it says nothing.

    Raises:
        InvalidDuration: it is no duration.
    """
    if given is None:
        return None
    age = age_given(given, "retention")
    return FOREVER if age is None else age
