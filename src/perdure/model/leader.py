"""The leader: which worker does what a namespace needs done once, by whomever.

That is firing schedules and pruning. It would be right if every worker did it, since each
instant is fired once and each run removed once; one does, so that the others need not ask. So the
lead is a matter of economy, and fenced all the same: what a leader writes carries its *lead*, the
worker and its *term*, and is refused once another term has begun. What is asked by hand carries
none.

The lead has no lease of its own: it is its worker's. It is vacant until somebody takes it, and
becomes so when its worker leaves it, retires, or is rescued; nothing else takes it away. A term is
given out once: it rises each time the lead is taken.
"""

from __future__ import annotations

import msgspec

from perdure.model.records import Micros


class Lead(msgspec.Struct, frozen=True, gc=False):
    """What a leader's writes carry and the store compares: who leads, and in which term."""

    worker_id: str
    term: int


class LeaderRecord(msgspec.Struct, frozen=True, gc=False):
    """Who leads.

    Args:
        worker_id: the worker; None while the lead is vacant.
        term: the present one, or the last one while it is vacant; 0 before there was any.
        since: when that term began, or when the lead became vacant.
    """

    worker_id: str | None = None
    term: int = 0
    since: Micros = 0


NOBODY = LeaderRecord()
"""How the lead stands before anybody took it."""

# --- transitions ---------------------------------------------------------------------------------


class TakeLead(msgspec.Struct, frozen=True, gc=False):
    """Begin a term.

    Key: (worker, term): the same again, as long as the worker leads in that term, changes nothing.
    Guard: the lead is vacant, ``term`` is the one after the last, and the worker is registered;
    otherwise nothing changes, and whoever asks has lost the race.
    Answers: Leading.
    """

    worker_id: str
    term: int


class LeaveLead(msgspec.Struct, frozen=True, gc=False):
    """End a term before its worker retires: the lead is vacant.

    Key and guard: that worker leads in that term; a lead that is another's stands.
    Answers: Leading.
    """

    lead: Lead


# --- answers -------------------------------------------------------------------------------------


class Leading(msgspec.Struct, frozen=True, gc=False):
    """Who leads now."""

    record: LeaderRecord


class NotLeading(msgspec.Struct, frozen=True, gc=False):
    """What a leader asked for carries a lead that is over; nothing was changed."""

    record: LeaderRecord


# --- what any store does the same ----------------------------------------------------------------


def may_take(record: LeaderRecord, asked: TakeLead) -> bool:
    """Tell whether the guard of taking the lead holds, as far as the record goes."""
    return record.worker_id is None and asked.term == record.term + 1


def leads(record: LeaderRecord, lead: Lead) -> bool:
    """Tell whether a lead is the present one."""
    return (record.worker_id, record.term) == (lead.worker_id, lead.term)


def vacant_term(record: LeaderRecord) -> int | None:
    """Return the term that somebody may begin; None where a worker leads."""
    return record.term + 1 if record.worker_id is None else None
