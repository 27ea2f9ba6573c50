"""The change feed.

A transaction writes what it changed as one row: a list of small entries, each with the run's id as
it stands in the file and numbers of `name`. So a batch of fifty pays for one row more, and what is
told of a run does not need the run to be there still. SQLite has one writer at a time: what is
committed later has a later position.

Creates are not among the entries, and neither are most steps: the row of the run, or of the
checkpoint, says all of it. A lone create, which is one statement, would take a tenth longer, and a
lone step a fifth. Instead each row of the feed has the seqs of the newest run and of the newest
checkpoint of its time. What has happened since the last row is told in this order:

1. steps of checkpoints that come after the row's, where `told_at` says so;
2. creates of runs that come after the row's;
3. the entries of the next row.

A step is told by its checkpoint only while no run was created since the last row, else by an entry:
so the order is that in which things were committed, and the same whenever it is read. It must also
be done, and at the run's first attempt: what may be recorded anew has to be told as it was. Within
a transaction such steps come before all entries; that is the order of each run, because a run that
records was running before: claims are the last that a transaction does.

Seqs only rise, because triggers keep the newest one when its row is removed. What is removed while
the feed still tells of it leaves a row in `feed_removed`.

A row's key is the number of its last entry, so that entries are counted without a gap; each
namespace has 2^40 numbers of its own, side by side in one table, because an index by namespace
would be another page to write in each commit. The newest row is never removed: its number is the
one to go on from.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import takewhile
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from perdure.model.changes import (
    KEPT,
    MOST,
    Change,
    ChangeKind,
    ChangePage,
    Cursor,
    StepNote,
    expired,
    kind_after,
    read_cursor,
    reason_of,
)
from perdure.model.records import Checkpoint, Micros, Status, WaitKind
from perdure.model.transitions import SaveCheckpoint
from perdure.stores.sqlite.bulk import Among
from perdure.stores.sqlite.codes import (
    CHANGE_KIND_CODES,
    CHANGE_KINDS,
    STEP_KIND_CODES,
    STEP_KINDS,
    STEP_OUTCOME_CODES,
    STEP_OUTCOMES,
    WAIT_KIND_CODES,
    WAIT_KINDS,
    StoredId,
    unpack_id,
)
from perdure.stores.sqlite.names import Names
from perdure.stores.sqlite.rows import Row, SqlRow

Said: TypeAlias = tuple[Any, ...]
"""Kind, definition, queue, attempt, epoch; then what the kind has to say, if anything."""

Entry: TypeAlias = tuple[StoredId, Said]
"""Of which run, and what is said of it."""


class Ends(NamedTuple):
    """Where the feed ends: the key of the last row and its ``runs``; the newest seqs there are."""

    last: int
    runs: int
    run: int
    step: int

    @property
    def tells_steps(self) -> bool:
        """Whether what is recorded next may be told of by its row."""
        return self.run == self.runs

    def after_creates(self, count: int) -> Ends:
        """Return where it ends when so many runs are inserted."""
        return Ends(self.last, self.runs, self.run + count, self.step)

    def after_steps(self, count: int) -> Ends:
        """Return where it ends when so many checkpoints are inserted."""
        return Ends(self.last, self.runs, self.run, self.step + count)


_NUMBERS: Final = 1 << 40
_FIRST: Final = 1  # attempt
_IN_ROW: Final = 1_000  # entries, so that a reader of few does not decode many
_BETWEEN_LOOKS: Final = 256  # entries after which old rows are looked for
_REMOVED: Final = 2 * _BETWEEN_LOOKS  # rows at most: each has at least one entry

_CLAIMED: Final = CHANGE_KIND_CODES[ChangeKind.CLAIMED]
_COMPLETED: Final = CHANGE_KIND_CODES[ChangeKind.COMPLETED]
_PROGRESS: Final = CHANGE_KIND_CODES[ChangeKind.PROGRESS]
_STEP: Final = CHANGE_KIND_CODES[ChangeKind.STEP]
_WOKEN: Final = CHANGE_KIND_CODES[ChangeKind.WOKEN]

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[Any]).decode

_OF_NAMESPACE: Final = f"position >= ?1 AND position < ?1 + {_NUMBERS}"

_LAST_OF_NAMESPACE: Final = f"FROM feed WHERE {_OF_NAMESPACE} ORDER BY position DESC LIMIT 1"

_NEWEST_RUN: Final = "SELECT coalesce(max(seq), 0) FROM run"
_NEWEST_STEP: Final = "SELECT coalesce(max(seq), 0) FROM checkpoint"

# The ends are not part of the INSERT, because one that reads its own table goes through another
# one: 8 us.
ENDS = f"""
SELECT coalesce((SELECT position {_LAST_OF_NAMESPACE}), ?1),
    coalesce((SELECT runs {_LAST_OF_NAMESPACE}), 0), ({_NEWEST_RUN}), ({_NEWEST_STEP})
"""

INSERT = "INSERT INTO feed (position, runs, steps, at, changes) VALUES (?, ?, ?, ?, ?)"

LAST = f"SELECT position, runs, steps, at {_LAST_OF_NAMESPACE}"

FROM = (
    "SELECT position, runs, steps, at, changes FROM feed WHERE position > ? AND position < ?"
    " ORDER BY position"
)

WITH = (
    "SELECT position, runs, steps, at FROM feed WHERE position >= ? AND position < ?"
    " ORDER BY position LIMIT ?"
)

REMOVE = "DELETE FROM feed WHERE position >= ? AND position <= ?"

_REMOVED_OF: Final = (
    "FROM feed_removed WHERE namespace = ?3 AND kind = {} AND seq > ?1 AND seq <= ?2"
)

# The plus keeps SQLite from an index by namespace, which would be sorted by seq first.
CREATES = (
    "SELECT seq, created_at, id, definition, queue FROM run"
    " WHERE seq > ?1 AND seq <= ?2 AND +namespace = ?3"
    f" UNION ALL SELECT seq, at, run, definition, queue {_REMOVED_OF.format(0)}"
    " ORDER BY seq LIMIT ?4"
)

_TOLD_AT: Final = "run.created_at + step.started_at + step.ended_at + step.told_at"

# The cross join keeps SQLite from going through the runs.
_TOLD: Final = "FROM checkpoint AS step CROSS JOIN run ON run.seq = step.run"

STEPS = (
    f"SELECT step.seq, {_TOLD_AT}, run.id, run.definition, run.queue, step.epoch, step.path, step.k"
    f" {_TOLD} WHERE step.seq > ?1 AND step.seq <= ?2 AND told_at IS NOT NULL AND namespace = ?3"
    f" UNION ALL SELECT seq, at, run, definition, queue, epoch, path, k {_REMOVED_OF.format(1)}"
    " ORDER BY 1 LIMIT ?4"
)

STEPS_BACK = (
    f"SELECT step.seq, {_TOLD_AT} {_TOLD}"
    " WHERE step.seq > ? AND told_at IS NOT NULL AND namespace = ?"
    " ORDER BY step.seq DESC LIMIT 1 OFFSET ?"
)

# Of any namespace: what was passed over once need not be passed over again.
NEWEST_TOLD = (
    f"SELECT step.seq, {_TOLD_AT} {_TOLD} WHERE step.seq > ? AND told_at IS NOT NULL"
    " ORDER BY step.seq DESC LIMIT 1"
)

TOLD_AT = f"SELECT {_TOLD_AT} {_TOLD} WHERE step.seq = ?"

CREATES_BACK = (
    "SELECT seq, created_at FROM run WHERE seq > ? AND +namespace = ?"
    " ORDER BY seq DESC LIMIT 1 OFFSET ?"
)

NEWEST_STEP = _NEWEST_STEP

NEWEST = "SELECT seq, created_at FROM run ORDER BY seq DESC LIMIT 1"

CREATED_AT = "SELECT created_at FROM run WHERE seq = ?"

START = "SELECT number, runs, steps, at FROM feed_start WHERE namespace = ?"

MOVE_START = (
    "INSERT INTO feed_start (namespace, number, runs, steps, at) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (namespace) DO UPDATE SET number = excluded.number, runs = excluded.runs,"
    " steps = excluded.steps, at = excluded.at"
)

KEEP_RUNS: Final = Among(
    "INSERT INTO feed_removed (namespace, kind, seq, at, run, definition, queue)"
    " SELECT namespace, 0, seq, created_at, id, definition, queue FROM run"
    " WHERE seq > ?1 AND seq IN {keys}"
)

KEEP_STEPS: Final = Among(
    "INSERT INTO feed_removed (namespace, kind, seq, at, run, definition, queue, epoch, path, k)"
    f" SELECT namespace, 1, step.seq, {_TOLD_AT}, id, definition, queue, step.epoch, path, k"
    f" {_TOLD} WHERE step.seq > ?1 AND told_at IS NOT NULL AND step.run IN {{keys}}"
)

FORGET: Final = (
    "DELETE FROM feed_removed WHERE namespace = ?1 AND kind = ?2 AND seq IN"
    " (SELECT seq FROM feed_removed WHERE namespace = ?1 AND kind = ?2 AND seq <= ?3 LIMIT ?4)"
)

_NOT_MOVED: Final = (0, 0, 0, 0)

EPOCH = "SELECT epoch FROM feed_epoch"

WOKEN: Final = "id, definition, queue, attempt, epoch"


# --- writing -------------------------------------------------------------------------------------


def ends(connection: sqlite3.Connection, namespace: int) -> Ends:
    """Return where the feed ends."""
    return Ends(*connection.execute(ENDS, (namespace * _NUMBERS,)).fetchone())


def write(
    connection: sqlite3.Connection,
    namespace: int,
    ends: Ends,
    entries: Sequence[Entry],
    now: Micros,
) -> Ends:
    """Add what a transaction has changed, as the last that it does; return where the feed ends."""
    last, _, run, step = ends
    for at in range(0, len(entries), _IN_ROW):
        part = entries[at : at + _IN_ROW]
        last += len(part)
        connection.execute(INSERT, (last, run, step, now, _packed(part)))
    if last % _BETWEEN_LOOKS < len(entries):
        remove_old(connection, namespace, now)
    return Ends(last, run, run, step)


def _packed(entries: Sequence[Entry]) -> bytes:
    """Return entries as bytes; what says the same as the one before it is its run alone."""
    packed: list[Any] = []
    before: Said | None = None
    for entry in entries:
        run, said = entry
        if said == before:
            packed.append(run)
        else:
            packed.append(entry)
            before = said
    return _encode(packed)


def _unpacked(packed: bytes) -> list[Entry]:
    """Return what :func:`_packed` was given."""
    entries: list[Entry] = []
    for one in _decode(packed):
        if isinstance(one, bytes | str):
            entries.append((one, entries[-1][1]))
        else:
            run, said = one
            entries.append((run, said))
    return entries


def remove_old(
    connection: sqlite3.Connection, namespace: int, now: Micros, limit: int = _REMOVED
) -> int:
    """Remove the oldest rows whose time is over, or that are too many; return how many.

    Args:
        connection: in a transaction that may write.
        namespace: its number.
        now: the store's time.
        limit: at most so many rows.
    """
    base = namespace * _NUMBERS
    place = (base, base + _NUMBERS)
    last = connection.execute(LAST, (base,)).fetchone()
    oldest = connection.execute(WITH, (*place, 1)).fetchone()
    if oldest is None or not _is_old(oldest, last, now):
        return 0  # as nearly always: rows are large, and reading many reads many pages
    rows = connection.execute(WITH, (*place, limit)).fetchall()
    old = list(takewhile(lambda row: _is_old(row, last, now), rows))
    position, *start = old[-1]
    connection.execute(REMOVE, (base, position))
    connection.execute(MOVE_START, (namespace, position - base, *start))
    for kind, seq in enumerate(start[:2]):
        connection.execute(FORGET, (namespace, kind, seq, limit))
    return len(old)


def keep(connection: sqlite3.Connection, namespace: int, runs: Sequence[int]) -> None:
    """Keep what the feed still tells by the rows of runs that are about to be removed."""
    _, run, _, _ = connection.execute(START, (namespace,)).fetchone() or _NOT_MOVED
    KEEP_RUNS.run(connection, runs, run)
    keep_steps(connection, namespace, runs)


def keep_steps(connection: sqlite3.Connection, namespace: int, runs: Sequence[int]) -> None:
    """Keep what it still tells by the checkpoints of runs, which are about to be removed."""
    _, _, step, _ = connection.execute(START, (namespace,)).fetchone() or _NOT_MOVED
    KEEP_STEPS.run(connection, runs, step)


def _is_old(row: SqlRow, last: SqlRow, now: Micros) -> bool:
    position, *_, at = row
    newest = last[0]
    return bool(position != newest and (position <= newest - MOST or at < now - KEPT))


def moved(row: Row, how: ChangeKind) -> Entry:
    """Return the entry of a run's new status.

    Args:
        row: of the run, as it is now.
        how: what happened to it where it is queued or waiting now.
    """
    run = row.run
    kind = CHANGE_KIND_CODES[kind_after(run, how)]
    said = (kind, row.definition, row.queue, run.attempt, run.epoch)
    reason = reason_of(run)
    if run.waiting_for is None and reason is None:
        return row.key, said
    waiting_for = None if run.waiting_for is None else WAIT_KIND_CODES[run.waiting_for]
    return row.key, (*said, waiting_for, run.due_at, reason)


def said(row: Row) -> Entry:
    """Return the entry of a running run that has said how far it is."""
    run = row.run
    return row.key, (_PROGRESS, row.definition, row.queue, run.attempt, run.epoch)


def woken(columns: SqlRow) -> Entry:
    """Return the entry of a run whose time has come, from the columns WOKEN."""
    run, *said = columns
    return run, (_WOKEN, *said)


def claimed(rows: Iterable[Row]) -> list[Entry]:
    """Return the entries of runs that were given to a worker: as moved, in a third of the time."""
    return [
        (row.key, (_CLAIMED, row.definition, row.queue, row.run.attempt, row.run.epoch))
        for row in rows
    ]


def completed(row: Row) -> Entry:
    """Return the entry of a run that has nothing but a result: as above."""
    run = row.run
    return row.key, (_COMPLETED, row.definition, row.queue, run.attempt, run.epoch)


def plainly_saved(save: SaveCheckpoint, row: Row, now: Micros) -> Entry:  # noqa: ARG001  # as saved
    """Return the entry of a step that was done at the first try: as above."""
    key, run = save.key, row.run
    said = (_STEP, row.definition, row.queue, run.attempt, run.epoch, key.path, key.k)
    return row.key, said


def saved(save: SaveCheckpoint, row: Row, now: Micros) -> Entry:
    """Return the entry of a step that is recorded."""
    run, said = plainly_saved(save, row, now)
    kind, outcome = STEP_KIND_CODES[save.kind], STEP_OUTCOME_CODES[save.outcome]
    due_at = None if save.delay is None else now + save.delay
    return run, (*said, kind, outcome, save.tries, due_at)


def recorded(record: Checkpoint, row: Row) -> Entry:
    """Return the entry of a step whose whole record is known."""
    run, key = row.run, record.key
    said = (_STEP, row.definition, row.queue, run.attempt, run.epoch, key.path, key.k)
    kind, outcome = STEP_KIND_CODES[record.kind], STEP_OUTCOME_CODES[record.outcome]
    return row.key, (*said, kind, outcome, record.tries, record.due_at)


# --- reading -------------------------------------------------------------------------------------


class Place(NamedTuple):
    """What a position says.

    ``number`` is that of the last entry before it, ``run`` and ``step`` are the seqs up to which
    creates and steps come before it, as that entry's row says, but for the one of the two that has
    come after the entry, if any. ``at`` is the time of whichever of the three is the last.
    """

    number: int
    run: int
    step: int
    at: Micros


class Gap(NamedTuple):
    """What follows on an ``entry``, or its place, before the next: up to which seqs."""

    entry: Place
    run: int
    step: int


class Feed:
    """The changes of one namespace, as of one instant.

    Args:
        connection: in a transaction.
        namespace: its number.
        names: of this connection.
    """

    def __init__(self, connection: sqlite3.Connection, namespace: int, names: Names) -> None:
        self._connection = connection
        self._namespace = namespace
        self._base = namespace * _NUMBERS
        self._names = names
        (self._epoch,) = connection.execute(EPOCH).fetchone()
        self._start = Place(*(self._one(START, namespace) or (0, 0, 0, 0)))

    def page(self, after: str | None, limit: int) -> ChangePage:
        """Return the changes that follow on a position."""
        entry, place = (self._start, self._start) if after is None else self._known(after)
        changes: list[Change] = []
        bounds = (self._base + place.number, self._base + _NUMBERS)
        with closing(self._connection.execute(FROM, bounds)) as rows:
            for row in rows:
                _, run, step, *_ = row
                place = self._add_told(changes, limit, place, Gap(entry, run, step))
                entry = place = self._add_entries(changes, limit, place, row)
                if len(changes) == limit:
                    return ChangePage(tuple(changes), self._position(place))
        place = self._add_told(changes, limit, place, self._gap_after(entry))
        if len(changes) < limit:
            place = self._end(entry, place)
        return ChangePage(tuple(changes), self._position(place))

    def position(self, back: int) -> str:
        """Return a position on which at least the newest ``back`` changes follow."""
        last = self._last()
        if back == 0:
            return self._position(self._end(last, last))
        create = self._one(CREATES_BACK, last.run, self._namespace, back)
        if create is not None:
            return self._position(Place(last.number, create[0], last.step, create[1]))
        step = self._one(STEPS_BACK, last.step, self._namespace, back)
        if step is not None:
            return self._position(Place(last.number, last.run, *step))
        number = max(self._start.number, last.number - back)
        return self._position(self._place_of(number) or self._start)

    def _one(self, text: str, *parameters: Any) -> SqlRow | None:
        found: SqlRow | None = self._connection.execute(text, parameters).fetchone()
        return found

    def _position(self, place: Place) -> str:
        return str(Cursor(self._epoch, place))

    # --- places ------------------------------------------------------------------------------

    def _last(self) -> Place:
        """Return the place after the newest entry."""
        found = self._one(LAST, self._base)
        return self._start if found is None else Place(found[0] - self._base, *found[1:])

    def _gap_after(self, entry: Place) -> Gap:
        """Return what has followed on the newest entry, of any namespace."""
        run, _ = self._one(NEWEST) or (0, 0)
        (step,) = self._one(NEWEST_STEP) or (0,)
        return Gap(entry, run, step)

    def _end(self, entry: Place, place: Place) -> Place:
        """Return the place after all that has followed on the newest entry, of any namespace.

        What other namespaces created and recorded is so not passed over again.

        Args:
            entry: the place after the newest entry.
            place: the place after the newest change.
        """
        run, at = self._one(NEWEST) or (0, 0)
        if run > place.run:
            return Place(entry.number, run, entry.step, at)
        step = self._one(NEWEST_TOLD, place.step) if place.run == entry.run else None
        return place if step is None else Place(entry.number, entry.run, *step)

    def _place_of(self, number: int) -> Place | None:
        """Return the place after an entry; None where it is not there."""
        if number == self._start.number:
            return self._start
        found = self._one(WITH, self._base + number, self._base + _NUMBERS, 1)
        return None if found is None else Place(number, *found[1:])

    def _known(self, position: str) -> tuple[Place, Place]:
        """Return the place of a position, and before it that after the last entry.

        Raises:
            CursorExpired: another thing, or nothing, is there now.
        """
        epoch, numbers = read_cursor(position)
        if epoch == self._epoch and len(numbers) == len(Place._fields):
            place = Place(*numbers)
            entry = self._place_of(place.number) if place.number >= self._start.number else None
            if entry is not None and (place == entry or self._is_told(place, entry)):
                return entry, place
        raise expired(position)

    def _is_told(self, place: Place, entry: Place) -> bool:
        """Tell whether a place is after a create or a step that comes after an entry."""
        if place.step == entry.step:
            newest, _ = self._one(NEWEST) or (0, 0)
            before, seq, text = entry.run, place.run, CREATED_AT
        elif place.run == entry.run:
            (newest,) = self._one(NEWEST_STEP) or (0,)
            before, seq, text = entry.step, place.step, TOLD_AT
        else:
            return False
        if not before < seq <= newest:
            return False
        found = self._one(text, seq)
        return found is None or found[0] == place.at  # what is removed cannot be compared

    # --- changes -----------------------------------------------------------------------------

    def _add_told(self, changes: list[Change], limit: int, place: Place, gap: Gap) -> Place:
        """Add steps and then creates of a gap, as many as fit; return the place after the last."""
        entry, run, step = gap
        texts = self._names.texts
        if place.run == entry.run and place.step < step and len(changes) < limit:
            asked = (place.step, step, self._namespace, limit - len(changes))
            for seq, at, *told in self._connection.execute(STEPS, asked):
                place = Place(entry.number, entry.run, seq, at)
                run_id, definition, queue, epoch, path, k = told
                said = (_STEP, definition, queue, _FIRST, epoch, path, k)
                changes.append(self._change((run_id, said), self._position(place), at))
        if place.run < run and len(changes) < limit:
            asked = (place.run, run, self._namespace, limit - len(changes))
            for seq, at, run_id, definition, queue in self._connection.execute(CREATES, asked):
                place = Place(entry.number, seq, entry.step, at)
                changes.append(
                    Change(
                        self._position(place),
                        ChangeKind.CREATED,
                        at,
                        unpack_id(run_id),
                        texts[definition],
                        texts[queue],
                        Status.QUEUED,
                        _FIRST,
                        0,
                    )
                )
        return place

    def _add_entries(self, changes: list[Change], limit: int, place: Place, row: SqlRow) -> Place:
        """Add the entries of a row that come after a place, as many as fit."""
        position, run, step, at, packed = row
        entries = _unpacked(packed)
        before = position - self._base - len(entries)
        skipped = max(0, place.number - before)
        for number, entry in enumerate(entries[skipped:], before + skipped + 1):
            if len(changes) == limit:
                break
            place = Place(number, run, step, at)
            changes.append(self._change(entry, self._position(place), at))
        return place

    def _change(self, entry: Entry, position: str, at: Micros) -> Change:
        run, (code, definition, queue, attempt, epoch, *said) = entry
        kind = CHANGE_KINDS[code]
        texts = self._names.texts
        head = (position, kind, at, unpack_id(run), texts[definition], texts[queue])
        if kind is ChangeKind.STEP:
            return Change(*head, Status.RUNNING, attempt, epoch, step=_step(said))
        waits, due_at, reason = said or (None, None, None)
        waiting_for = None if waits is None else WAIT_KINDS[waits]
        status = _STATUSES.get(kind) or _status(waiting_for)
        return Change(*head, status, attempt, epoch, waiting_for, due_at, reason)


def _step(said: Sequence[Any]) -> StepNote:
    path, k, kind, outcome, tries, due_at = said if len(said) > 2 else (*said, 0, 0, 1, None)
    return StepNote(path, k, STEP_KINDS[kind], STEP_OUTCOMES[outcome], tries, due_at)


_STATUSES: Final = {
    ChangeKind.CLAIMED: Status.RUNNING,
    ChangeKind.PROGRESS: Status.RUNNING,
    ChangeKind.PAUSED: Status.PAUSED,
    ChangeKind.COMPLETED: Status.COMPLETED,
    ChangeKind.FAILED: Status.FAILED,
    ChangeKind.CANCELLED: Status.CANCELLED,
}


def _status(waiting_for: WaitKind | None) -> Status:
    """Return the status of a run that is queued or waiting: one that waits, waits for something."""
    return Status.QUEUED if waiting_for is None else Status.WAITING
