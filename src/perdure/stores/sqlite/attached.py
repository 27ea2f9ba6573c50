"""Cancelling what is attached to runs whose body is over."""

from __future__ import annotations

from typing import Final

from perdure.model import lifecycle
from perdure.model.records import TERMINAL
from perdure.model.transitions import Outcome, with_closed
from perdure.stores.sqlite.codes import pack_id, unpack_id
from perdure.stores.sqlite.flushing import flush
from perdure.stores.sqlite.runs import cancel
from perdure.stores.sqlite.unit import NotQuick, Unit

LIVE: Final = (
    "SELECT id FROM run WHERE namespace = ? AND parent = ? AND on_parent_close > 0 AND status < 4"
    " ORDER BY seq"
)

_FEW: Final = 20  # the loop's thread is held up by that many cancels for a millisecond


def close(unit: Unit, outcome: Outcome) -> Outcome:
    """Cancel what is attached to the runs whose body a transition has ended, and to those in turn.

    Args:
        unit: after the transition.
        outcome: of it.

    Returns:
        Its answer, with those that have ended because of it.

    Raises:
        NotQuick: there are many, and the unit is to be quick.
    """
    closed: list[str] = []
    for row in unit.closing:  # it grows meanwhile
        parent = row.run
        lifecycle.close(parent)
        flush(unit)
        live = unit.connection.execute(LIVE, (unit.namespace, pack_id(parent.run_id))).fetchall()
        if unit.quick and len(live) > _FEW:
            raise NotQuick
        for run_id in (unpack_id(one) for (one,) in live):
            cancel(unit, lifecycle.cancel_of_attached(run_id, parent))
            child = unit.row(run_id)
            if child is not None and child.run.status in TERMINAL:
                closed.append(run_id)
    unit.closing.clear()
    return with_closed(outcome, tuple(closed)) if closed else outcome
