"""Subscribers of the change feed: cursors under a name."""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from typing import Final

from perdure.model.changes import MoveSubscriber, RemoveSubscriber, Subscribed, SubscriberRecord
from perdure.model.transitions import Outcome
from perdure.stores.sqlite.unit import Unit

SUBSCRIBER: Final = "name, position, created_at, moved_at"

FIND = f"SELECT {SUBSCRIBER} FROM subscriber WHERE namespace = ? AND name = ?"

ALL = f"SELECT {SUBSCRIBER} FROM subscriber WHERE namespace = ? ORDER BY name"

STORE = (
    f"INSERT INTO subscriber (namespace, {SUBSCRIBER}) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (namespace, name)"
    " DO UPDATE SET position = excluded.position, moved_at = excluded.moved_at"
)

FORGET = "DELETE FROM subscriber WHERE namespace = ? AND name = ?"


def move(unit: Unit, transition: MoveSubscriber) -> Outcome:
    """Keep a cursor under a name, in the place of the one that the caller knows."""
    kept = _subscriber(unit, transition.name)
    position = None if kept is None else kept.position
    if position == transition.position:
        return Subscribed(kept)
    if position != transition.before:
        return Subscribed(kept, moved=False)
    created_at = unit.now if kept is None else kept.created_at
    record = SubscriberRecord(transition.name, transition.position, created_at, unit.now)
    columns = (record.name, record.position, record.created_at, record.moved_at)
    unit.connection.execute(STORE, (unit.namespace, *columns))
    return Subscribed(record)


def remove(unit: Unit, transition: RemoveSubscriber) -> Outcome:
    """Forget a subscriber."""
    kept = _subscriber(unit, transition.name)
    unit.connection.execute(FORGET, (unit.namespace, transition.name))
    return Subscribed(kept)


def _subscriber(unit: Unit, name: str) -> SubscriberRecord | None:
    found = unit.connection.execute(FIND, (unit.namespace, name)).fetchone()
    return None if found is None else SubscriberRecord(*found)
