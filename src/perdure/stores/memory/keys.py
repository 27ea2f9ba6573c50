"""What a create does to the run that holds its unique_key; see :mod:`perdure.model.keys`."""

from __future__ import annotations

from copy import copy

from perdure.model import lifecycle
from perdure.model.changes import ChangeKind
from perdure.model.keys import (
    REMEMBERED,
    Debounce,
    Replace,
    Throttle,
    audited_as,
    takes_input,
)
from perdure.model.records import Audit, Micros, Status
from perdure.model.transitions import CreateRun
from perdure.stores.memory.space import Row, Space, clear_ready


def taken_by(space: Space, asked: CreateRun, now: Micros) -> str | None:
    """Return the run that took the input of this very create, where that is remembered."""
    if asked.unique_key is None or not isinstance(asked.key_rule, Debounce):
        return None
    return space.taken_inputs.get((asked.run_id, asked.token), now)


def in_the_way(space: Space, asked: CreateRun, now: Micros) -> Row | None:
    """Return the run that is the answer to a create, because of their key; None: there is none.

    A holder that makes way for the create still holds the key then.
    """
    holder = space.holder_of_key(asked.definition, asked.unique_key)
    match asked.key_rule:
        case None:
            return holder
        case Throttle():
            return holder or _opened_window(space, asked, now)
        case Replace():
            return None
        case Debounce() as rule:
            if holder is None or not takes_input(holder.run):
                return None
            lifecycle.take_input(holder.run, asked, rule, now)
            if holder.run.status is Status.WAITING:
                space.index(holder, now)
            until = now + REMEMBERED
            space.taken_inputs.put((asked.run_id, asked.token), holder.run.run_id, until, now)
            return holder


def make_way(space: Space, asked: CreateRun, now: Micros) -> str | None:
    """Have a new run take the key from who holds it; return the run that this has replaced."""
    holder = space.holder_of_key(asked.definition, asked.unique_key)
    if holder is None:
        return None
    if not isinstance(asked.key_rule, Replace):
        lifecycle.pass_key(holder.run, asked)
        return None
    before = copy(holder.run)
    lifecycle.replace(holder.run, asked, now)
    if lifecycle.begins_anew(before, holder.run):
        space.set_waits(holder, ())
    clear_ready(holder, holder.run.generation)
    request = audited_as(asked.run_id)
    holder.audit.setdefault(request, Audit(request, holder.run.run_id, "replace", now))
    space.controlled(holder, before, ChangeKind.CANCELLED, now)
    return holder.run.run_id


def open_window(space: Space, asked: CreateRun, now: Micros) -> None:
    """Open the window of a new run, where it is throttled."""
    if isinstance(asked.key_rule, Throttle) and asked.unique_key is not None:
        place = (asked.definition, asked.unique_key)
        space.windows.put(place, asked.run_id, now + asked.key_rule.length, now)


def _opened_window(space: Space, asked: CreateRun, now: Micros) -> Row | None:
    """Return the run whose window has not ended."""
    place = (asked.definition, asked.unique_key or "")
    row = space.rows.get(space.windows.get(place, now) or "")
    is_its = row is not None and (row.run.definition, row.run.unique_key) == place
    return row if is_its else None  # its id may be another run's by now
