"""Queues: how many of their runs may work at once, how many may start in a time, and the pause.

The store keeps of a queue its limits, declared in code or set by an operator, and since when it is
paused. A queue of which it keeps nothing has no limits. How many *slots* are taken is no number
that somebody keeps: it is the count of the queue's ``running`` runs, so that whatever takes a run
from a worker (its end, a wait, a pause, a rescue) frees its slot, and nothing can leak one.

The limits hold at the claim, which is where a run gets its slot:

- ``concurrency``: at most so many runs of the queue are ``running``, on all workers together.
- ``rate``: so many runs are *started* (claimed for the first time) in a time.
- ``key_concurrency`` and ``key_rate``: the same for each ``limit_key`` apart, of the runs that have
  one.

A run that is over a limit stays ``queued``, and is passed over until there is room. Of the runs
that share a key the first by rank, priority and age goes first; those behind a full key cost the
others nothing. A run that was claimed before takes a slot again, but no start.
"""

from __future__ import annotations

import msgspec

from perdure.model.records import Micros


class Rate(msgspec.Struct, frozen=True):
    """So many starts in a time, evenly spaced; after a quiet time up to ``burst`` at once.

    In any stretch of ``period`` there are at most ``limit + burst - 1`` starts.

    Args:
        limit: starts in a period.
        period: in microseconds.
        burst: how many may follow each other at once; 1: none.
    """

    limit: int
    period: Micros
    burst: int = 1

    @property
    def interval(self) -> Micros:
        """How far apart starts are; rounded up, so that there are never too many."""
        return -(-self.period // self.limit)


class Limits(msgspec.Struct, frozen=True):
    """What holds for a queue; None for no limit. See the module's text."""

    concurrency: int | None = None
    rate: Rate | None = None
    key_concurrency: int | None = None
    key_rate: Rate | None = None


class QueueRecord(msgspec.Struct, frozen=True, gc=False):
    """A queue of which the store keeps something.

    Args:
        queue: its name.
        limits: what holds for it.
        paused_at: since when nothing of it is claimed; None for not.
        next_start_at: what is kept of its rate: when the start would be due that follows on all so
            far, were they evenly spaced. :func:`next_start_at` tells when one is allowed.
    """

    queue: str
    limits: Limits = Limits()
    paused_at: Micros | None = None
    next_start_at: Micros = 0


# --- transitions ---------------------------------------------------------------------------------


class PutQueue(msgspec.Struct, frozen=True, gc=False):
    """Set the limits of a queue.

    They hold for every claim from now on; what runs over them already runs on. A pause stands, and
    so do the starts that were counted. Idempotent as it is. Answers: QueueKept.
    """

    queue: str
    limits: Limits


class PauseQueue(msgspec.Struct, frozen=True, gc=False):
    """Claim nothing of a queue until it is resumed; what runs runs on, what waits may wake.

    Idempotent as it is: a queue that is paused keeps since when. Answers: QueueKept.
    """

    queue: str


class ResumeQueue(msgspec.Struct, frozen=True, gc=False):
    """Claim of a queue again. Idempotent as it is. Answers: QueueKept."""

    queue: str


class QueueKept(msgspec.Struct, frozen=True, gc=False):
    """The queue as it is now."""

    record: QueueRecord


# --- what any store does the same ----------------------------------------------------------------
#
# A rate is kept as one instant: when the start would be due that follows on all so far, were they
# evenly spaced (the generic cell rate algorithm). It may lie up to ``burst`` intervals ahead.

EXPOSED = 64
"""Of each key so many queued runs at most stand among those that a claim looks at."""


def free_starts(rate: Rate | None, due_at: Micros, now: Micros) -> int | None:
    """Return how many starts a rate allows now; None for any number."""
    if rate is None:
        return None
    ahead = max(0, due_at - now)
    return max(0, (rate.burst * rate.interval - ahead) // rate.interval)


def due_after(rate: Rate, due_at: Micros, now: Micros, starts: int) -> Micros:
    """Return what is kept of a rate after so many starts."""
    return max(due_at, now) + starts * rate.interval


def next_start_at(rate: Rate, due_at: Micros) -> Micros:
    """Return from when on a rate allows a start."""
    return due_at - (rate.burst - 1) * rate.interval


def room(limit: int | None, taken: int) -> int | None:
    """Return how many more a limit allows; None for any number."""
    return None if limit is None else max(0, limit - taken)


def within(most: int, allowed: int | None) -> int:
    """Return the smaller of two numbers, where None stands for any number."""
    return most if allowed is None else min(most, allowed)
