"""Reads of one namespace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from copy import copy

from msgspec.structs import replace

from perdure.model.records import (
    TERMINAL,
    Count,
    Ending,
    History,
    RunQuery,
    RunRecord,
    Status,
    StreamRecord,
    ascii_lower,
    count_order,
)
from perdure.model.streams import StreamEntry, StreamPage
from perdure.model.versions import Pinned
from perdure.stores.memory.space import Space
from perdure.stores.memory.streams import StreamRow


def endings(space: Space, run_ids: Iterable[str]) -> dict[str, Ending]:
    """Return how those of the named runs ended that are terminal."""
    ended = (space.rows[run_id].run for run_id in run_ids if space.is_terminal(run_id))
    return {
        run.run_id: Ending(run.run_id, run.status, run.result, run.error, run.reason)
        for run in ended
    }


def history(space: Space, run_id: str) -> History | None:
    """Return everything kept of a run."""
    row = space.rows.get(run_id)
    if row is None:
        return None
    return History(
        run=copy(row.run),
        attempts=tuple(row.attempts),
        checkpoints=tuple(row.checkpoints.values()),
        waits=row.waits,
        audit=tuple(row.audit.values()),
        streams=tuple(
            StreamRecord(name, len(row.streams[name].entries), row.streams[name].size)
            for name in sorted(row.streams)
        ),
    )


def stream(space: Space, run_id: str, name: str, after: int, limit: int) -> StreamPage | None:
    """Return entries of a stream."""
    row = space.rows.get(run_id)
    if row is None:
        return None
    written = row.streams.get(name, StreamRow()).entries
    entries = tuple(
        StreamEntry(number, entry.generation, entry.at, entry.value)
        for number, entry in enumerate(written[after : after + limit], after + 1)
    )
    return StreamPage(entries, len(written), row.run.seq, row.run.status in TERMINAL)


def list_runs(space: Space, query: RunQuery) -> list[RunRecord]:
    """Return the runs that match, newest first."""
    page: list[RunRecord] = []
    for row in reversed(space.rows.values()):
        if len(page) >= query.limit:
            break
        if _matches(row.run, query):
            page.append(copy(row.run))
    return page


def count_runs(space: Space, query: RunQuery) -> int:
    """Return how many runs match."""
    everything = replace(query, before=None)
    return sum(_matches(row.run, everything) for row in space.rows.values())


def counts(space: Space, *, by_definition: bool, by_queue: bool) -> list[Count]:
    """Return how many runs there are of each status."""
    found: Counter[tuple[str | None, str | None, Status]] = Counter()
    for (definition, queue, status), runs in space.counts.items():
        name, place = definition if by_definition else None, queue if by_queue else None
        found[name, place, status] += runs
    counts = [
        Count(status, name, queue, runs) for (name, queue, status), runs in found.items() if runs
    ]
    return sorted(counts, key=count_order)


def pins(space: Space) -> list[Pinned]:
    """Return how many runs that have not ended are pinned to which version."""
    found = Counter(
        (row.run.definition, row.run.pin)
        for row in space.rows.values()
        if row.run.pin is not None and row.run.status not in TERMINAL
    )
    return [Pinned(name, version, found[name, version]) for name, version in sorted(found)]


def _matches(run: RunRecord, query: RunQuery) -> bool:
    return (
        (not query.statuses or run.status in query.statuses)
        and (not query.definitions or run.definition in query.definitions)
        and (query.reason is None or run.reason == query.reason)
        and (query.parent_id is None or run.parent_id == query.parent_id)
        and (query.queue is None or run.queue == query.queue)
        and (query.unique_key is None or run.unique_key == query.unique_key)
        and (query.limit_key is None or run.limit_key == query.limit_key)
        and (query.version is None or run.code == query.version)
        and (query.caused_by is None or run.caused_by == query.caused_by)
        and (query.tag is None or query.tag in run.tags)
        and (query.created_after is None or run.created_at >= query.created_after)
        and (query.created_before is None or run.created_at < query.created_before)
        and (query.text is None or _mentions(run, ascii_lower(query.text)))
        and (query.id_prefix is None or run.run_id.startswith(query.id_prefix))
        and (query.before is None or run.seq < query.before)
    )


def _mentions(run: RunRecord, lowered: str) -> bool:
    texts = (run.run_id, run.definition, run.unique_key or "", *run.tags)
    return any(lowered in ascii_lower(text) for text in texts)
