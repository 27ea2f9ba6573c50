"""What a create does to the run that holds its unique_key; see :mod:`perdure.model.keys`.

A create with a rule looks before it acts: everything before it in its batch is flushed first.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from copy import copy
from typing import Any, Final

from perdure.model import lifecycle
from perdure.model.changes import ChangeKind, how_left
from perdure.model.keys import (
    FORGOTTEN_AT_ONCE,
    REMEMBERED,
    Debounce,
    Replace,
    Throttle,
    audited_as,
    takes_input,
)
from perdure.model.records import Control, RunRecord
from perdure.model.transitions import CreateRun
from perdure.stores.sqlite import rows, saving
from perdure.stores.sqlite.codes import pack_id, unpack_id
from perdure.stores.sqlite.flushing import flush
from perdure.stores.sqlite.rows import Row
from perdure.stores.sqlite.unit import Unit

HOLDER = (
    f"SELECT {rows.HOT} FROM run"
    " WHERE namespace = ? AND definition = ? AND unique_key = ?"
    " AND unique_key IS NOT NULL AND status < 4 AND key_passed_to IS NULL"
)

HAND_OVER: Final = "UPDATE run SET key_passed_to = ? WHERE seq = ?"

KEEP: Final = "UPDATE run SET key_passed_to = NULL WHERE seq = ?"

REPLACED = f"INSERT INTO audit (run, {rows.AUDIT}) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"

TAKE_INPUT = (
    "UPDATE run SET input = ?, meta = ?, options = ?, due_at = ?, updated_at = ? WHERE seq = ?"
)

WINDOW = (
    f"SELECT {rows.HOT} FROM run WHERE namespace = ?1 AND definition = ?2 AND unique_key = ?3"
    " AND id = (SELECT run FROM throttle"
    " WHERE namespace = ?1 AND definition = ?2 AND unique_key = ?3 AND until > ?4)"
)

OPEN_WINDOW = (
    "INSERT INTO throttle (namespace, definition, unique_key, until, run) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET until = excluded.until, run = excluded.run"
)

CLOSE_WINDOWS = (
    "DELETE FROM throttle WHERE (namespace, definition, unique_key) IN ("
    "SELECT namespace, definition, unique_key FROM throttle WHERE until <= ? ORDER BY until"
    f" LIMIT {FORGOTTEN_AT_ONCE})"
)

TAKEN_BY = "SELECT run FROM debounced WHERE namespace = ? AND id = ? AND token = ? AND until > ?"

REMEMBER = (
    "INSERT INTO debounced (namespace, id, token, until, run) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET until = excluded.until, run = excluded.run"
)

FORGET = (
    "DELETE FROM debounced WHERE (namespace, id, token) IN ("
    "SELECT namespace, id, token FROM debounced WHERE until <= ? ORDER BY until"
    f" LIMIT {FORGOTTEN_AT_ONCE})"
)


def holder(unit: Unit, definition: str, unique_key: str) -> Row | None:
    """Return the run that holds a unique_key."""
    flush(unit)
    return _first(unit, HOLDER, (unit.namespace, unit.names.number(definition), unique_key))


def taken_by(unit: Unit, asked: CreateRun) -> str | None:
    """Return the run that took the input of this very create, where that is remembered."""
    if not isinstance(asked.key_rule, Debounce):
        return None
    create = (unit.namespace, pack_id(asked.run_id), asked.token, unit.now)
    found = unit.connection.execute(TAKEN_BY, create).fetchone()
    return None if found is None else unpack_id(found[0])


def in_the_way(unit: Unit, asked: CreateRun, held_by: Row | None) -> Row | None:
    """Return the run that is the answer to a create with a rule; None: there is none."""
    match asked.key_rule:
        case Throttle():
            return held_by or _opened_window(unit, asked)
        case Debounce() as rule:
            if held_by is None or not takes_input(held_by.run):
                return None
            _take_input(unit, held_by, asked, rule)
            return held_by
        case _:
            return None


def make_way(unit: Unit, asked: CreateRun, held_by: Row) -> str | None:
    """Free the key for a new run; return the run that this has replaced."""
    replaced: str | None = None
    if isinstance(asked.key_rule, Replace):
        replaced = held_by.run.run_id
        if held_by.run.control is Control.RESTART:
            following = held_by.run.generation + 1  # laid ready for the restart
            saving.clear(unit, held_by.run, following)
        before = copy(held_by.run)
        lifecycle.replace(held_by.run, asked, unit.now)
        if lifecycle.begins_anew(before, held_by.run):
            unit.set_waits(held_by, ())
        row = (held_by.run.seq, audited_as(asked.run_id), "replace", unit.now)
        unit.connection.execute(REPLACED, row)
        is_so_still = lifecycle.standing(held_by.run) == lifecycle.standing(before)
        how = how_left(before, held_by.run, ChangeKind.CANCELLED)
        unit.change(held_by, None if is_so_still else how)
    unit.connection.execute(HAND_OVER, (pack_id(asked.run_id), held_by.run.seq))
    flush(unit)
    return replaced


def take_again(unit: Unit, run: RunRecord) -> None:
    """Have a run that had ended hold its key again, whoever that passed to."""
    unit.connection.execute(KEEP, (run.seq,))


def open_window(unit: Unit, asked: CreateRun, rule: Throttle) -> None:
    """Open the window of a new run."""
    unit.connection.execute(CLOSE_WINDOWS, (unit.now,))
    place = (unit.namespace, unit.names.number(asked.definition), asked.unique_key)
    window = (*place, unit.now + rule.length, pack_id(asked.run_id))
    unit.connection.execute(OPEN_WINDOW, window)


def _opened_window(unit: Unit, asked: CreateRun) -> Row | None:
    place = (unit.namespace, unit.names.number(asked.definition), asked.unique_key, unit.now)
    return _first(unit, WINDOW, place)


def _take_input(unit: Unit, row: Row, asked: CreateRun, rule: Debounce) -> None:
    run = row.run
    lifecycle.take_input(run, asked, rule, unit.now)
    payloads = [
        unit.payloads.rewrite(data, run.seq, column)
        for column, data in enumerate((run.input, run.meta, run.options))
    ]
    at = (run.due_at, run.updated_at - run.created_at, run.seq)
    unit.connection.execute(TAKE_INPUT, (*payloads, *at))
    unit.connection.execute(FORGET, (unit.now,))
    create = (unit.namespace, pack_id(asked.run_id), asked.token)
    taken = (*create, unit.now + REMEMBERED, pack_id(run.run_id))
    unit.connection.execute(REMEMBER, taken)


def _first(unit: Unit, query: str, parameters: tuple[Any, ...]) -> Row | None:
    for row in unit.adopt(unit.connection.execute(query, parameters).fetchall()):
        return row
    return None
