"""Retention: what holds for definitions, and removing what is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from perdure.model.events import EventRecord
from perdure.model.leader import NotLeading
from perdure.model.records import Micros, RunRecord
from perdure.model.retention import (
    DEFAULT,
    EVENTS,
    Prune,
    Pruned,
    PutRetentions,
    RetentionsKept,
    events_for,
    over_at,
)
from perdure.stores.memory.leader import refused
from perdure.stores.memory.space import Row, Space


def put(space: Space, asked: PutRetentions, now: Micros) -> RetentionsKept:  # noqa: ARG001  # of one shape
    """Keep what holds for definitions."""
    for definition, retention in asked.retentions:
        space.retentions.pop(definition, None)
        if retention != DEFAULT:
            space.retentions[definition] = retention
    return RetentionsKept(tuple(sorted(space.retentions.items(), key=lambda kept: kept[0])))


def prune(space: Space, asked: Prune, now: Micros) -> Pruned | NotLeading:
    """Remove ended runs that are over and not needed, and published events."""
    if (refusal := refused(space, asked.lead)) is not None:
        return refusal
    runs = list(islice(_over(space, asked, now), asked.limit))
    for row in runs:
        space.remove(row)
    gone = {row.run.run_id for row in runs}
    events = list(islice(_over_events(space, asked, now), asked.limit))
    sent = [event for event in space.events.values() if event.run_id in gone]
    for event in (*events, *sent):
        del space.events[event.event_id]
    return Pruned(len(runs), len(events), asked.limit in {len(runs), len(events)})


def prunable(space: Space, asked: Prune, now: Micros) -> Pruned:
    """Return how much there is to remove."""
    runs = sum(1 for _ in _over(space, asked, now))
    return Pruned(runs, sum(1 for _ in _over_events(space, asked, now)))


def _over(space: Space, asked: Prune, now: Micros) -> Iterator[Row]:
    """Yield what is over and not needed."""
    for row in _over_by_itself(space, asked, now):
        if not space.is_needed(row.run):
            yield row
    for definition in list(space.ended):
        if asked.definitions and definition not in asked.definitions:
            continue
        by_age = list(_over_by_age(space, definition, asked, now))
        found = {row.run.run_id: row for row in by_age}
        if asked.older_than is None:
            for row in _over_by_count(space, definition, set(found)):
                if _is_asked_for(row.run, asked):
                    found.setdefault(row.run.run_id, row)
        for row in found.values():
            if not space.is_needed(row.run):
                yield row


def _over_by_itself(space: Space, asked: Prune, now: Micros) -> Iterator[Row]:
    """Yield the runs with a retention of their own that are over."""
    for row in space.retained.values():
        wanted = not asked.definitions or row.run.definition in asked.definitions
        if wanted and _is_asked_for(row.run, asked) and _is_over(space, row.run, asked, now):
            yield row


def _over_by_age(space: Space, definition: str, asked: Prune, now: Micros) -> Iterator[Row]:
    """Yield the runs of a definition that are over by their age."""
    for rows in space.ended[definition].values():
        for row in rows.values():
            if not _is_over(space, row.run, asked, now):
                break  # those behind it ended later, and in the same way
            if _is_asked_for(row.run, asked):
                yield row


def _over_by_count(space: Space, definition: str, without: set[str]) -> Iterable[Row]:
    """Return the runs of a definition that are not among the newest ``keep``."""
    keep = space.retentions.get(definition, DEFAULT).keep
    if keep is None:
        return ()
    rows = [
        row
        for rows in space.ended[definition].values()
        for row in rows.values()
        if row.run.run_id not in without
    ]
    rows.sort(key=lambda row: (row.run.finished_at or 0, row.run.seq))
    return rows[: max(0, len(rows) - keep)]


def _is_over(space: Space, run: RunRecord, asked: Prune, now: Micros) -> bool:
    if asked.older_than is not None:
        return now - (run.finished_at or 0) >= asked.older_than
    at = over_at(run, space.retentions.get(run.definition, DEFAULT))
    return at is not None and at <= now


def _is_asked_for(run: RunRecord, asked: Prune) -> bool:
    return not asked.statuses or run.status in asked.statuses


def _over_events(space: Space, asked: Prune, now: Micros) -> Iterator[EventRecord]:
    """Yield the published events that are over."""
    kept_for = events_for(asked, space.retentions.get(EVENTS, DEFAULT))
    if kept_for is None:
        return
    for event in space.events.values():
        if event.run_id is None and now - event.at >= kept_for:
            yield event
