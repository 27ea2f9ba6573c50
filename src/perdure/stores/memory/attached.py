"""Cancelling what is attached to runs whose body is over."""

from __future__ import annotations

from perdure.model import lifecycle
from perdure.model.records import Micros
from perdure.model.transitions import Outcome, with_closed
from perdure.stores.memory.operators import cancel
from perdure.stores.memory.space import Space


def close(space: Space, outcome: Outcome, now: Micros) -> Outcome:
    """Cancel what is attached to the runs whose body a transition has ended, and to those in turn.

    Args:
        space: after the transition.
        outcome: of it.
        now: the store's time.

    Returns:
        Its answer, with those that have ended because of it.
    """
    closed: list[str] = []
    while space.closing:
        parent = space.closing.popleft().run
        lifecycle.close(parent)
        for run_id in space.attached.get(parent.run_id, ()):
            if not space.is_terminal(run_id):
                cancel(space, lifecycle.cancel_of_attached(run_id, parent), now)
                if space.is_terminal(run_id):
                    closed.append(run_id)
    return with_closed(outcome, tuple(closed)) if closed else outcome
