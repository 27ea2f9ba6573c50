"""The handle of a queue: its limits, how it stands, and the verbs on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from perdure._engine.engine import Engine
from perdure.clock import to_datetime
from perdure.duration import named_micros, to_micros
from perdure.errors import UsageError, shown
from perdure.ids import check_id
from perdure.model.queues import (
    Limits,
    PauseQueue,
    PutQueue,
    QueueRecord,
    ResumeQueue,
)
from perdure.model.queues import Rate as StoredRate
from perdure.model.records import Count, Status

MOST = 1_000_000
"""The largest number that a limit takes."""


class Rate(msgspec.Struct, frozen=True):
    """So many starts in a time, evenly spaced: ``Rate(100, "1m")`` is one each 0.6 s.

    After a quiet time up to ``burst`` runs may start at once. In any stretch of ``per`` there are
    at most ``limit + burst - 1`` starts.

    Attributes:
        limit: starts in that time, 1 to 1,000,000.
        per: the time; ``"1m"``, ISO 8601 or a timedelta.
        burst: how many may follow each other at once, 1 to 1,000,000; 1 for none.

    Raises:
        UsageError: a number is none.
        InvalidDuration: ``per`` is none, or no longer than nothing.
    """

    limit: int
    per: timedelta | str
    burst: int = 1

    def __post_init__(self) -> None:
        """Check every field."""
        _check_count("limit", self.limit)
        _check_count("burst", self.burst)
        micros = named_micros(self.per, "per")
        if micros <= 0:
            raise UsageError(f"per must be longer than nothing, got {self.per!r}")
        msgspec.structs.force_setattr(self, "per", timedelta(microseconds=micros))


class QueueEntry(msgspec.Struct, frozen=True):
    """A queue as the store has it.

    Attributes:
        concurrency: at most so many of its runs work at once, on all workers; None for any number.
        rate: so many of its runs start in a time.
        concurrency_per_key, rate_per_key: the same for each ``limit_key``.
        paused_at: since when nothing of it is claimed; None for not.
        queued, running, waiting: how many runs of it there are.
    """

    name: str
    concurrency: int | None
    rate: Rate | None
    concurrency_per_key: int | None
    rate_per_key: Rate | None
    paused_at: datetime | None
    queued: int
    running: int
    waiting: int


def limits_given(
    concurrency: object, rate: object, concurrency_per_key: object, rate_per_key: object
) -> Limits:
    """Return limits, checked.

    Raises:
        UsageError: one is no limit.
    """
    return Limits(
        _count_or_none("concurrency", concurrency),
        _stored("rate", rate),
        _count_or_none("concurrency_per_key", concurrency_per_key),
        _stored("rate_per_key", rate_per_key),
    )


def _count_or_none(what: str, given: object) -> int | None:
    return None if given is None else _check_count(what, given)


def _check_count(what: str, given: object) -> int:
    if type(given) is not int or not 1 <= given <= MOST:
        raise UsageError(f"{what} must be a whole number from 1 to {MOST:,}, got {shown(given)}")
    return given


def _stored(what: str, given: object) -> StoredRate | None:
    if given is None:
        return None
    if not isinstance(given, Rate):
        raise UsageError(f'{what} must be a Rate such as Rate(100, "1m"), got {shown(given)}')
    return StoredRate(given.limit, to_micros(given.per), given.burst)


class Queue:
    """A queue, whoever serves it. Handles are cheap and hold nothing open."""

    __slots__ = ("_engine", "name")

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = check_id(name, "a queue's name")
        self._engine = engine

    def __repr__(self) -> str:
        return f"<queue {self.name!r}>"

    def __str__(self) -> str:
        return self.name

    async def get(self) -> QueueEntry:
        """Return how it stands; a queue of which nothing is known has no limits and no runs."""
        entries = await queue_entries(self._engine)
        return entries.get(self.name) or _entry(QueueRecord(self.name), Counter())

    async def set_limits(
        self,
        *,
        concurrency: int | None = None,
        rate: Rate | None = None,
        concurrency_per_key: int | None = None,
        rate_per_key: Rate | None = None,
    ) -> None:
        """Set all its limits at once; what is left out is no limit any more.

        They hold from the next claim of any worker on; what runs runs on. Where an app declares
        other limits (``app.queue``), its next worker that starts sets those.

        Args:
            concurrency: at most so many of its runs work at once, on all workers.
            rate: so many of its runs start in a time.
            concurrency_per_key: as ``concurrency``, for each ``limit_key`` apart.
            rate_per_key: as ``rate``, for each ``limit_key`` apart.

        Raises:
            UsageError: one of them is no limit.
        """
        limits = limits_given(concurrency, rate, concurrency_per_key, rate_per_key)
        self._engine.check_loop()
        await self._engine.committer.submit(PutQueue(self.name, limits))

    async def pause(self) -> None:
        """Let no worker claim a run of it until it is resumed.

        What runs runs on; events and timers wake what waits, which is then queued, too.
        """
        self._engine.check_loop()
        await self._engine.committer.submit(PauseQueue(self.name))

    async def resume(self) -> None:
        """Let workers claim its runs again."""
        self._engine.check_loop()
        await self._engine.committer.submit(ResumeQueue(self.name))


async def queue_entries(engine: Engine) -> dict[str, QueueEntry]:
    """Return every queue that is known or has runs, in the order of their names."""
    engine.check_loop()
    records = {record.queue: record for record in await engine.store.queues()}
    counts = _by_queue(await engine.store.counts(by_queue=True))
    names = sorted({*records, *counts})
    return {
        name: _entry(records.get(name) or QueueRecord(name), counts.get(name, Counter()))
        for name in names
    }


def _by_queue(counts: Iterable[Count]) -> dict[str, Counter[Status]]:
    found: dict[str, Counter[Status]] = {}
    for count in counts:
        if count.queue is not None:
            found.setdefault(count.queue, Counter())[count.status] = count.runs
    return found


def _entry(record: QueueRecord, counts: Counter[Status]) -> QueueEntry:
    limits = record.limits
    return QueueEntry(
        record.queue,
        limits.concurrency,
        _rate(limits.rate),
        limits.key_concurrency,
        _rate(limits.key_rate),
        None if record.paused_at is None else to_datetime(record.paused_at),
        counts[Status.QUEUED],
        counts[Status.RUNNING],
        counts[Status.WAITING],
    )


def _rate(stored: StoredRate | None) -> Rate | None:
    if stored is None:
        return None
    return Rate(stored.limit, timedelta(microseconds=stored.period), stored.burst)
