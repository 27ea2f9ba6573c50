"""Retention: how long runs and events are kept after their end, and what removes them then.

The store keeps of a definition what its code says of retention, so that whoever prunes needs none
of the workflows' code, and what is changed holds for the runs that are there. A definition of
which it keeps nothing has :data:`DEFAULT`. A run may say for itself how long it is kept. What an
app says of published events stands under :data:`EVENTS`, as the retention of what is completed.

An ended run is *over* when it has been ended for as long as its own retention, or else its
definition's for how it ended, says; and those of a definition that ended first are, where more
are there than its ``keep``. A run is *needed* while a run has a ``child`` wait that names it, and
while the run that started it is there and not ``completed``: until then that may ask, or be tried
again and ask, how it ended. What is over and not needed is removed with everything that is kept
of it. Its id is free from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perdure import defaults
from perdure.duration import to_micros
from perdure.model.records import Micros, RunRecord, Status

if TYPE_CHECKING:
    from perdure.model.leader import Lead

FOREVER: Micros = 1 << 61
"""The retention of a run that is never removed by its age: 73,000 years."""


class Retention(msgspec.Struct, frozen=True):
    """How long the ended runs of a definition are kept, by how they ended; None for ever.

    Args:
        completed, failed, cancelled: by their status.
        declined: of those that are completed without their body; see ``Completed.declined``.
        keep: at most so many of them, however young; runs with a retention of their own stand
            apart. None for any number.
    """

    completed: Micros | None
    failed: Micros | None
    cancelled: Micros | None
    declined: Micros | None
    keep: int | None = None

    def of(self, status: Status, reason: str | None) -> Micros | None:
        """Return how long a run that ended so is kept."""
        if status is Status.COMPLETED:
            return self.declined if reason == "declined" else self.completed
        return self.failed if status is Status.FAILED else self.cancelled


_EVERY = to_micros(defaults.RETENTION)

DEFAULT = Retention(_EVERY, _EVERY, _EVERY, to_micros(defaults.DECLINED_RETENTION))
"""What holds for a definition of which nothing is kept."""


EVENTS = ""
"""The name under which the retention of published events is kept; no definition has it."""


# --- transitions ---------------------------------------------------------------------------------


class PutRetentions(msgspec.Struct, frozen=True, gc=False):
    """Keep what holds for definitions, each with its name; of the default nothing is kept.

    It holds from the next Prune on, for the runs that are there, too. Idempotent as it is.
    Answers: RetentionsKept.
    """

    retentions: tuple[tuple[str, Retention], ...]


class Prune(msgspec.Struct, frozen=True, gc=False):
    """Remove ended runs that are over and not needed, and published events; see the module.

    At most ``limit`` runs and as many events; fewer where they are large, so that it takes no
    longer than other writes can wait. Of each definition and way to end those that ended first go
    first. With a run goes everything that is kept of it: checkpoints, attempts, waits, audit
    entries, payloads, streams, and the events that were sent to it. A run that was needed may be
    looked at again only an hour later. Idempotent as it is: what is removed is removed once.

    Where ``older_than`` is given, those are over that ended at least so long ago, whatever their
    retention says. ``statuses`` and ``definitions`` narrow: any of these; empty for all.
    ``events_for``: published events that were accepted at least so long ago are removed, whoever
    may still wait for one; None to leave them alone. With ``events`` that is what is kept of
    :data:`EVENTS`. Guard: where ``lead`` is given, it is the
    present one.
    Answers: Pruned · NotLeading.
    """

    limit: int
    events_for: Micros | None = None
    older_than: Micros | None = None
    statuses: tuple[Status, ...] = ()
    definitions: tuple[str, ...] = ()
    events: bool = False
    lead: Lead | None = None


# --- answers -------------------------------------------------------------------------------------


class RetentionsKept(msgspec.Struct, frozen=True, gc=False):
    """What is kept now, by the name of the definition."""

    retentions: tuple[tuple[str, Retention], ...]


class Pruned(msgspec.Struct, frozen=True, gc=False):
    """What was removed.

    Args:
        runs, events: how many.
        more: there may be more to remove now.
    """

    runs: int = 0
    events: int = 0
    more: bool = False


# --- what any store does the same ----------------------------------------------------------------

AGAIN: Micros = 3_600_000_000
"""After which a run that was over and needed may be looked at again: an hour."""


def events_for(asked: Prune, kept: Retention) -> Micros | None:
    """Return for how long published events are kept as this asks; None to leave them alone."""
    return kept.completed if asked.events else asked.events_for


def over_at(run: RunRecord, retention: Retention) -> Micros | None:
    """Return from when on an ended run is over by its age; None for never."""
    kept_for = run.retention
    if kept_for is None:
        kept_for = retention.of(run.status, run.reason)
    assert run.finished_at is not None, "an ended run has ended at some time"
    return None if kept_for is None else run.finished_at + kept_for
