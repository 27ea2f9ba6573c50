"""Ids as people type them: the whole id, or as much of its beginning as no other run has."""

from __future__ import annotations

from typing import Final

from perdure.cli._failures import ExitCode, Failure
from perdure.clock import to_datetime
from perdure.ids import check_id
from perdure.model.records import RunQuery, RunRecord
from perdure.store import Store

MOST_CANDIDATES: Final = 10


async def resolve_id(store: Store, typed: str) -> str:
    """Return the id of the one run that is meant.

    A whole id always means its run, also where others begin with it.

    Raises:
        Failure: no run's id begins so, or those of several do: it lists them.
        InvalidValue: it holds what no id does.
    """
    if typed:
        check_id(typed, "ID")
    if await store.get(typed) is not None:
        return typed
    found = await store.list_runs(RunQuery(id_prefix=typed, limit=MOST_CANDIDATES + 1))
    if len(found) == 1:
        return found[0].run_id
    if not found or not typed:
        raise Failure(
            ExitCode.NOT_FOUND,
            f"there is no run {typed!r}",
            why="no run of this store has that id, or one that begins so",
            do="perdure runs lists the runs there are",
            details={"id": typed, "candidates": []},
        )
    candidates = found[:MOST_CANDIDATES]
    more = " and more" if len(found) > len(candidates) else ""
    raise Failure(
        ExitCode.NOT_FOUND,
        f"{typed!r} could be several runs",
        why=f"{', '.join(map(_described, candidates))}{more} begin so",
        do="type more of the id",
        details={"id": typed, "candidates": [run.run_id for run in candidates]},
    )


def _described(run: RunRecord) -> str:
    created = to_datetime(run.created_at).strftime("%Y-%m-%d %H:%M:%S")
    return f"{run.run_id} ({run.definition}, {run.status}, {created})"
