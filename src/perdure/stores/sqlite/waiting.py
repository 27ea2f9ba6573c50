"""Wait rows: what suspended runs wait for, and who wakes when a run ends.

Each ``child`` wait has a mark, ``open``, that falls when the run it names ends and is set again
when that is retried. So a join of 10,000 children is found fulfilled by one index seek each time
and not by counting.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from perdure.model.records import Status, WaitKind
from perdure.stores.sqlite import rows
from perdure.stores.sqlite.bulk import Among, Bulk
from perdure.stores.sqlite.codes import StoredId, pack_id
from perdure.stores.sqlite.rows import Row
from perdure.stores.sqlite.unit import Unit

DELETE: Final = Among("DELETE FROM wait WHERE run IN {keys}")

INSERT: Final = Bulk(
    f"run, number, namespace, open, {rows.WAIT}",
    lambda columns, places: f"INSERT INTO wait ({columns}) VALUES {places}",
)

ENDED: Final = Among("SELECT id FROM run WHERE namespace = ? AND id IN {keys} AND status > 3")

TOUCHED: Final = Among(
    "SELECT DISTINCT run, join_number FROM wait"
    " WHERE kind = 2 AND open = 1 AND namespace = ? AND key IN {keys}"
)

CLOSE: Final = Among("UPDATE wait SET open = 0 WHERE kind = 2 AND namespace = ? AND key IN {keys}")

OPEN = "UPDATE wait SET open = 1 WHERE kind = 2 AND namespace = ? AND key = ?"

ANY_OPEN = "SELECT 1 FROM wait WHERE kind = 2 AND open = 1 LIMIT 1"

IS_OPEN = "SELECT 1 FROM wait WHERE kind = 2 AND open = 1 AND run = ? AND join_number = ? LIMIT 1"

JOINS = "SELECT max(open) FROM wait WHERE kind = 2 AND run = ? GROUP BY join_number"

WAITERS: Final = Among(f"SELECT {rows.HOT} FROM run WHERE seq IN {{keys}}")


def write(unit: Unit) -> None:
    """Write wait rows that were set, and wake the runs whose join is fulfilled.

    The runs must be written before, and are to be written again after.
    """
    ended = set(unit.ended)
    unit.ended.clear()
    if unit.waits:
        ended |= _replace(unit)
    if ended:
        _fulfil(unit, list(ended))


def _replace(unit: Unit) -> set[StoredId]:
    """Replace the wait rows that were set; return those of their children that have ended."""
    replaced = [seq for seq, (_, _, is_stored) in unit.waits.items() if is_stored]
    DELETE.run(unit.connection, replaced)
    parameters: list[Any] = []
    children: set[StoredId] = set()
    for row, waits, _ in unit.waits.values():
        for number, wait in enumerate(waits):
            parameters += rows.waited(wait, number, row.run.seq, unit.namespace)
            if wait.kind is WaitKind.CHILD:
                children.add(pack_id(wait.key))
    unit.waits.clear()
    INSERT.run(unit.connection, parameters)
    return {found for (found,) in ENDED.all(unit.connection, list(children), unit.namespace)}


def _fulfil(unit: Unit, ended: list[StoredId]) -> None:
    """Close the waits that name ended runs, and wake where that was a join's last."""
    if unit.connection.execute(ANY_OPEN).fetchone() is None:
        return  # nobody waits for anybody: 40 us less for 50 runs
    touched = TOUCHED.all(unit.connection, ended, unit.namespace)
    if not touched:
        return
    CLOSE.run(unit.connection, ended, unit.namespace)
    fulfilled = {
        run: None
        for run, join in touched
        if unit.connection.execute(IS_OPEN, (run, join)).fetchone() is None
    }
    for row in unit.adopt(WAITERS.all(unit.connection, list(fulfilled))):
        if row.run.status is Status.WAITING:
            unit.wake(row)


def wake_if_fulfilled(unit: Unit, row: Row) -> None:
    """Wake a waiting run of which a join is fulfilled already; what it waits for is written."""
    if row.run.status is Status.WAITING and row.waits:
        joins = unit.connection.execute(JOINS, (row.run.seq,)).fetchall()
        if any(not is_open for (is_open,) in joins):
            unit.wake(row)


def unfulfil(unit: Unit, run_ids: Iterable[str]) -> None:
    """Ended runs are tried again: whoever has a wait row of them waits for them again."""
    for run_id in run_ids:
        unit.connection.execute(OPEN, (unit.namespace, pack_id(run_id)))
