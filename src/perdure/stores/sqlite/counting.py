"""Counts of runs: kept of the older ones, and made of the newest when somebody asks.

The table `run_count` counts the runs up to one seq (`counted`), by definition, queue and status;
the newest some thousands after it are counted by reading them. So what most runs do, to be created
and to end soon, costs nothing here: only a change of a run that is already counted must say so, two
rows for a batch of any size. Now and then runs are counted in bulk, 0.3 us each.

A trigger on each row was the alternative: it makes a run's claim and end a tenth dearer.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from perdure.model.records import RunRecord, Status
from perdure.stores.sqlite.bulk import Among, Bulk
from perdure.stores.sqlite.codes import STATUS_CODES

FOLD: Final = 8_192
"""So many of the newest runs, at least, are not counted yet, and two to three times as many where
one process creates them: a read makes them of that, in 2 ms."""

_AT_ONCE: Final = 8 * FOLD  # runs that one transaction counts: 20 ms

CountPlace: TypeAlias = tuple[int, int, int]
"""Of a count: the numbers of its definition, its queue and its status."""

COUNTED: Final = "SELECT upto FROM counted"

NEWEST: Final = "SELECT coalesce(max(seq), 0) FROM run"

_ADD: Final = (
    " ON CONFLICT (namespace, definition, queue, status) DO UPDATE SET runs = runs + excluded.runs"
)

MOVE: Final = Bulk(
    "namespace, definition, queue, status, runs",
    lambda columns, places: f"INSERT INTO run_count ({columns}) VALUES {places}{_ADD}",
)

_GROUPS: Final = "GROUP BY namespace, definition, queue, status"

COUNT_IN: Final = (
    "INSERT INTO run_count (namespace, definition, queue, status, runs)"
    " SELECT namespace, definition, queue, status, count(*) FROM run NOT INDEXED"
    f" WHERE seq > ? AND seq <= ? AND namespace <> 0 {_GROUPS}{_ADD}"
)

COUNT_OUT: Final = Among(
    "INSERT INTO run_count (namespace, definition, queue, status, runs)"
    " SELECT namespace, definition, queue, status, -count(*) FROM run"
    f" WHERE seq IN {{keys}} AND seq <= ({COUNTED}) {_GROUPS}{_ADD}"
)

ADVANCE: Final = "UPDATE counted SET upto = ?"

RETREAT: Final = f"UPDATE counted SET upto = min(upto, ({NEWEST}))"

FORGET: Final = "DELETE FROM run_count WHERE runs = 0"

DUE: Final = (
    "SELECT definition, queue, count(*) FROM run WHERE namespace = ?2 AND status = 2"
    " AND due_at IS NOT NULL AND due_at <= ?1 AND seq <= ?3 GROUP BY definition, queue"
)

COUNTS: Final = {
    (by_definition, by_queue): (
        f"SELECT status, {'definition' if by_definition else 'NULL'} AS name,"
        f" {'queue' if by_queue else 'NULL'} AS place, sum(runs) AS total FROM ("
        "SELECT status, definition, queue, runs FROM run_count WHERE namespace = ?1"
        " UNION ALL SELECT status, definition, queue, 1 FROM run NOT INDEXED"
        f" WHERE seq > ({COUNTED}) AND namespace = ?1)"
        " GROUP BY status, name, place HAVING total <> 0"
    )
    for by_definition in (False, True)
    for by_queue in (False, True)
}
"""The statement of a read, by what is counted apart."""


def counted(connection: sqlite3.Connection) -> int:
    """Return up to which seq runs are counted."""
    (upto,) = connection.execute(COUNTED).fetchone()
    return int(upto)


class Moves:
    """How counts rise and fall by one unit of work, until one statement writes it.

    Runs that move alike come one after the other, most often: they are counted by comparing, 0.1 us
    each, and not in a dictionary, 0.6.

    Args:
        number: of a name.
    """

    def __init__(self, number: Callable[[str], int]) -> None:
        self._number = number
        self._changes: dict[CountPlace, int] = {}
        self._like: RunRecord | None = None
        self._was: Status = Status.QUEUED
        self._is: Status = Status.QUEUED
        self._runs = 0

    def moved(self, run: RunRecord, was: Status) -> None:
        """A run that is counted under one status has another now."""
        like = self._like
        if (
            like is not None
            and run.definition is like.definition
            and run.queue is like.queue
            and was is self._was
            and run.status is self._is
        ):
            self._runs += 1
            return
        self._close()
        self._like, self._was, self._is, self._runs = run, was, run.status, 1

    def add(self, definition: int, queue: int, was: Status, status: Status, runs: int) -> None:
        """So many runs that are counted under one status have another now."""
        for each, change in ((was, -runs), (status, runs)):
            place = (definition, queue, STATUS_CODES[each])
            self._changes[place] = self._changes.get(place, 0) + change

    def write(self, connection: sqlite3.Connection, namespace: int) -> None:
        """Write it."""
        self._close()
        parameters: list[int] = []
        for place, change in self._changes.items():
            if change:
                parameters += (namespace, *place, change)
        if parameters:
            MOVE.run(connection, parameters)

    def _close(self) -> None:
        like = self._like
        if like is not None:
            number = self._number
            definition, queue = number(like.definition), number(like.queue)
            self.add(definition, queue, self._was, self._is, self._runs)
            self._like = None


def fold(connection: sqlite3.Connection) -> bool:
    """Count runs in, but for the newest; return whether more are to be.

    The transaction is the caller's.
    """
    upto = counted(connection)
    (newest,) = connection.execute(NEWEST).fetchone()
    last = min(newest - FOLD, upto + _AT_ONCE)
    if last < upto + FOLD:
        return False
    connection.execute(COUNT_IN, (upto, last))
    connection.execute(ADVANCE, (last,))
    return bool(last < newest - 2 * FOLD)


def remove(connection: sqlite3.Connection, seqs: Iterable[int]) -> None:
    """Count runs out that will be deleted."""
    COUNT_OUT.run(connection, list(seqs))


def removed(connection: sqlite3.Connection) -> None:
    """Runs were deleted: none is counted beyond those that are left."""
    connection.execute(RETREAT)
    connection.execute(FORGET)
