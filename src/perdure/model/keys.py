"""Unique keys: who holds one, and what a create does that finds its key taken.

A run *holds* its (definition, unique_key) from its create until it is terminal, or until the key
passes to a later run while it goes on itself; then ``RunRecord.key_passed_to`` names that run. So
at most one run holds a key, and none that is terminal. A run that an operator retries takes its key
again.

What becomes of a create whose key is held is for that create to say (``CreateRun.key_rule``),
whatever the run that holds it was created with:

- None: it is answered ``Exists``, with the holder.
- :class:`Throttle`: likewise, and so it is after the holder's end, in the window of a run.
- :class:`Replace`: the holder is cancelled, and the new run has the key.
- :class:`Debounce`: a holder that was never claimed takes the create's input; one that was claimed
  goes on, and the new run has the key.

A rule without a unique_key means nothing.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from perdure.model.records import Micros, RunRecord, WaitKind

REMEMBERED: Final = 10 * 60 * 1_000_000
"""For how long a create that another run took the input of is known again."""

FORGOTTEN_AT_ONCE: Final = 16
"""Of what is kept until a time, so many entries that are over go with each new one."""


class Replace(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The holder of the key is cancelled, and the new run has it, in one transition.

    Queued, waiting, paused: the holder is ``cancelled`` at once, as by ``CancelRun``. Running: its
    control word becomes CANCEL, and the key passes to the new run though it has not ended yet. An
    audit row of the holder, ``replace``, names the create. The answer is ``Created``; its
    ``replaced`` names the holder, not where the same create is answered again.
    """


class Throttle(msgspec.Struct, frozen=True, gc=False, tag=True):
    """At most one run under the key in a window, which its create opens.

    Where the key is held, or a window of a run under it has not ended, that run is the answer.
    Otherwise the new run opens a window of ``length``; it replaces one that has ended. A window
    counts for creates that say ``Throttle`` only, and no longer than its run is kept.
    """

    length: Micros


class Debounce(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Of the creates that come before a run has started, that run has the input of the last.

    A holder that was never claimed takes input, meta and options of the create; queue, priority,
    tags, limit_key and all else stay. Where it waits for its delay, and that has not passed, its
    ``due_at`` becomes now + ``delay``, and at most ``max_wait`` after its ``created_at``. While it
    is paused the time stands still for it: now is its ``paused_at``. The answer is ``Exists`` with
    the holder. Key: the create's id and token, for ``REMEMBERED`` from then on: the same again is
    answered with the same run, and changes nothing.
    From a holder that was claimed the key passes to the new run; it goes on without it. So a claim
    decides: a create before it is executed with the run, one after it makes a run of its own.
    ``max_wait`` None: however long they keep coming.
    """

    max_wait: Micros | None = None


KeyRule: TypeAlias = Replace | Throttle | Debounce


def audited_as(create_id: str) -> str:
    """Return the request id in the audit row of a run that a create has replaced."""
    return f"create {create_id}"


def takes_input(holder: RunRecord) -> bool:
    """Tell whether a run takes the input of a debounced create: nobody has ever claimed it."""
    return holder.epoch == 0


def due_after(holder: RunRecord, rule: Debounce, delay: Micros, now: Micros) -> Micros | None:
    """Return when a run is due that takes the input of a debounced create."""
    since = now if holder.paused_at is None else holder.paused_at
    if holder.waiting_for is not WaitKind.DELAY or holder.due_at is None or holder.due_at <= since:
        return holder.due_at
    due_at = since + delay
    return due_at if rule.max_wait is None else min(due_at, holder.created_at + rule.max_wait)
