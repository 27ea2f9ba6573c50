"""What a generation keeps of the one that it continues: of the same run, or of the one it forks.

A run that is restarted from a step, and a fork, begin with a copy of what was recorded before that
step: every final checkpoint that was first recorded before the step's own, and is not inside the
step. Where there is nothing to stop at (a fork at the end of the record), every final checkpoint.
What is pending is not kept: timers and attempts begin anew. Neither is what the body gave up after
that step had come to stand as it does: a deadline that lost the race against the step runs again
with it. Events that were taken by waits which
are kept stay taken in a restarted run; a fork may take only what is accepted from now on.

A run that continues as new keeps nothing of the record; see
:class:`~perdure.model.transitions.Continued`.

Values that a body derives (``uuid()``, ``random()``) are arguments of recorded steps, so a
generation that continues another goes on drawing from the same seed. The checkpoint of kind
``origin`` says so: it is one of what is kept, and where there is none it is made. Its value is the
seed's text and its ``started_at`` the time from which ``now()`` counts. It is no call, and nobody
asks for it.

Streams: see :mod:`perdure.model.streams`. What was written before a step is what was written before
the earliest of the moments at which that step, and what was first recorded after it, came to stand
as they do: so nothing is kept that may depend on what is done again.

In a fork the epochs of what is kept are counted backwards from 0, so that they are those of no
claim of its own and keep their order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from perdure.model.records import Checkpoint, Micros, RunRecord, StepKey, StepKind, StepOutcome

ORIGIN: Final = StepKey(b"", "", b"perdure.origin\0", 0)


Moment: TypeAlias = tuple[int, Micros]
"""An epoch, and a time within it."""

_FORK: Final = "fork:"

_NO_CALLS: Final = frozenset({StepKind.PATCH, StepKind.ORIGIN})


def cause_of_fork(run_id: str) -> str:
    """Return ``caused_by`` of the forks of a run."""
    return f"{_FORK}{run_id}"


def is_fork(run: RunRecord) -> bool:
    """Tell whether a run may have something recorded that was never claimed."""
    return run.caused_by is not None and run.caused_by.startswith(_FORK)


def is_kept(record: Checkpoint, before: Checkpoint | None) -> bool:
    """Tell whether a checkpoint is kept that was first recorded before the one of a step.

    Args:
        record: the checkpoint.
        before: that of the step; None where there is none to stop at.
    """
    if record.outcome is StepOutcome.PENDING:
        return False
    if before is None:
        return True
    given_up_later = record.outcome is StepOutcome.CANCELLED and moment(record) > moment(before)
    return not given_up_later and not record.key.path.startswith(inside(before.key))


def moment(record: Checkpoint) -> Moment:
    """Return when a checkpoint came to stand as it does."""
    return record.epoch, record.ended_at


def cut_at(records: Iterable[Checkpoint]) -> Moment | None:
    """Return the moment before which entries of streams are kept; None for all.

    Args:
        records: the step that is continued from, and what was first recorded after it.
    """
    calls = (record for record in records if record.kind not in _NO_CALLS)
    return min(map(moment, calls), default=None)


def inside(step: StepKey) -> str:
    """Return what the paths of the calls inside a step begin with."""
    return f"{step.path}/"


def seed_of(run_id: str, generation: int) -> str:
    """Return the seed of a generation that continues no other."""
    return f"{run_id}\0{generation}"


def origin_of(run: RunRecord) -> Checkpoint:
    """Return the origin of what continues a run's present generation, which has none itself."""
    began_at: Micros = run.started_at or run.created_at
    return Checkpoint(
        key=ORIGIN,
        position=0,
        kind=StepKind.ORIGIN,
        outcome=StepOutcome.OK,
        value=seed_of(run.run_id, run.generation).encode(),
        tries=1,
        log=None,
        due_at=None,
        started_at=began_at,
        ended_at=began_at,
        site="",
        text="",
        epoch=0,
    )
