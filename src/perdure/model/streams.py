"""Streams: what a run gives out while it executes, in order, each entry once.

A body, and the steps in it, write entries to streams by name; whoever reads a stream gets the
entries of all of the run's code in the order in which they were applied, each with a number that
rises from 1 and is given once. An entry without a value *closes* the stream for who reads it: it
is the last, unless more is written behind it by another generation.

- *Identity.* An entry is the k-th (from 0) of that stream in that scope of that generation, like a
  call. What was written first under an identity stands: when the code of a scope is executed
  again, on a replay, in another attempt of a step or after a kill, what it writes up to where it
  had come is not written again, whatever its value is then. So a step that writes something else
  at its second attempt leaves the beginning of the first one's in the stream.
- *Marks.* The entries of one scope are recorded in order, so one number says all that a replay
  has to know of them: how many there are. A claim hands out these marks, and no entries. There is
  one for each scope of the generation that wrote to a stream, never more than calls and branches.
- *No progress.* Entries are no checkpoints: a claim that crashed after writing some, and no new
  checkpoint, counts as a crash without progress.
- *Generations.* What earlier generations have written stays; one that begins at the start writes
  anew. One that begins from a step keeps the marks as they were before that step: of what was
  written before anything that the generation does not keep, and not inside the step. *Before* is
  by the epoch and the worker's time of both, which rise together. A fork begins with a copy of what
  its source had written by then.
- *Retention.* Entries go with their run.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from perdure.errors import CursorExpired, InvalidValue, shown
from perdure.model.records import Grant, Micros


class WriteStream(msgspec.Struct, frozen=True, gc=False):
    """Add one entry to a stream of a run.

    Key: (run, generation, ``stream``, ``scope``, ``k``): where the scope's mark is beyond ``k`` it
    is written already, and nothing changes; also where the claim was settled since, as long as the
    run was not claimed again.
    Guard: the grant is current and the run ``running``.
    A hint is given to whoever listens; the change feed has nothing of it.
    Answers: Saved · Fenced.

    Args:
        grant: of the run.
        stream: its name.
        scope: digest of the scope whose code writes.
        path: of that scope, readable.
        k: the entry is the k-th (from 0) of that stream in that scope.
        value: encoded; None closes the stream.
        at: by the worker's estimate of the store's clock; it rises within a claim.
    """

    grant: Grant
    stream: str
    scope: bytes
    path: str
    k: int
    value: bytes | None
    at: Micros


class StreamMark(msgspec.Struct, frozen=True, gc=False):
    """How far a scope has written to a stream.

    Args:
        stream: its name.
        scope: digest of the scope.
        written: how many entries are written, by this generation or those that it continues.
        closed: the last of them closed the stream.
    """

    stream: str
    scope: bytes
    written: int
    closed: bool


class StreamEntry(msgspec.Struct, frozen=True, gc=False):
    """One entry.

    Args:
        number: its place in the stream, counted from 1.
        generation: of the run, that wrote it.
        at: when, by the worker's estimate of the store's clock.
        value: encoded; None: it closes the stream.
    """

    number: int
    generation: int
    at: Micros
    value: bytes | None


class StreamPage(msgspec.Struct, frozen=True, gc=False):
    """Some entries in order, as of one instant.

    Args:
        entries: there are more as long as the number of the last one is below ``last``.
        last: the number of the newest entry of the stream; 0 for none.
        run_seq: of the run, which tells it from another that had its id before.
        ended: the run is terminal.
    """

    entries: tuple[StreamEntry, ...]
    last: int
    run_seq: int
    ended: bool


# --- cursors ---------------------------------------------------------------------------------

_CURSOR: Final = re.compile("([0-9]{1,18})-([0-9]{1,18})")  # what 64 bits hold


def cursor_of(run_seq: int, number: int) -> str:
    """Return the cursor behind an entry."""
    return f"{run_seq}-{number}"


def read_cursor(cursor: str) -> tuple[int, int]:
    """Return the seq of the run and the number of the entry behind which a cursor is.

    Raises:
        InvalidValue: it is none.
    """
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise InvalidValue(
            f"{shown(cursor)} is no cursor of a stream; give what one of its items said"
        )
    return int(found[1]), int(found[2])


def check_cursor(cursor: str, page: StreamPage) -> None:
    """Refuse a cursor that is not of this stream.

    Raises:
        CursorExpired: it is of a run that had this id before, or of what a restored backup lost.
    """
    run_seq, number = read_cursor(cursor)
    if run_seq != page.run_seq or number > page.last:
        raise CursorExpired(
            f"cursor {cursor!r} is of another run, or of items that the database has lost; read "
            "the stream from its beginning"
        )
