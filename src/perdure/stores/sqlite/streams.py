"""Streams: adding entries, and what generations and forks keep of them.

Entries are written with the unit's next flush, those of one stream together: what a stream and its
marks are is read once for each, however many entries there are.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from perdure.model.lineage import Moment, inside
from perdure.model.records import Micros, RunRecord, Status, StepKey, StepKind, StreamRecord
from perdure.model.streams import StreamEntry, StreamMark, StreamPage, WriteStream
from perdure.model.transitions import Fenced, ForkRun, Outcome, Saved
from perdure.stores.sqlite.bulk import Among, Bulk
from perdure.stores.sqlite.codes import STEP_KIND_CODES
from perdure.stores.sqlite.rows import Row, SqlRow
from perdure.stores.sqlite.unit import Unit

FIND = "SELECT id, entries FROM stream WHERE run = ? AND name = ?"

CREATE = "INSERT INTO stream (run, name, entries, size) VALUES (?, ?, 0, 0) RETURNING id"

GROW = "UPDATE stream SET entries = ?, size = size + ? WHERE id = ?"

WRITTEN = "SELECT written FROM mark WHERE stream = ? AND generation = ? AND scope = ?"

MARK = (
    "INSERT INTO mark (stream, generation, scope, path, written, closed) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET written = excluded.written, closed = excluded.closed"
)

_ENTRY = "stream, number, generation, until, scope, k, epoch, at, value"

INSERT: Final = Bulk(
    _ENTRY, lambda columns, places: f"INSERT INTO entry ({columns}) VALUES {places}"
)

MARKS: Final = Among(
    "SELECT stream.run, mark.generation, stream.name, mark.scope, mark.written, mark.closed"
    " FROM stream JOIN mark ON mark.stream = stream.id WHERE stream.run IN {keys}"
)

OF_RUN = "SELECT name, entries, size FROM stream WHERE run = ? ORDER BY name"

PLACE = (
    "SELECT run.seq, run.status > 3, run.created_at, stream.id, stream.entries"
    " FROM run LEFT JOIN stream ON stream.run = run.seq AND stream.name = ?"
    " WHERE run.namespace = ? AND run.id = ?"
)

PAGE = (
    "SELECT number, generation, at, value FROM entry WHERE stream = ? AND number > ?"
    " ORDER BY number LIMIT ?"
)

MOST: Final = 1 << 20
"""Bytes of values after which a page is full."""

# --- what is kept ----------------------------------------------------------------------------

_NO_CALLS = f"({STEP_KIND_CODES[StepKind.PATCH]}, {STEP_KIND_CODES[StepKind.ORIGIN]})"

CUT = (
    "SELECT epoch, started_at + ended_at FROM checkpoint"
    f" WHERE run = ? AND generation = ? AND seq >= ? AND kind NOT IN {_NO_CALLS}"
    " ORDER BY 1, 2 LIMIT 1"
)

_STREAMS = "stream IN (SELECT id FROM stream WHERE run = :run)"

_KEPT = (
    " AND (epoch, at) < (:epoch, :at) AND NOT EXISTS (SELECT 1 FROM mark"
    " WHERE mark.stream = entry.stream AND mark.generation = entry.generation"
    " AND mark.scope = entry.scope AND substr(path, 1, length(:inside)) = :inside)"
)

KEEP = (
    "UPDATE entry SET until = :of + 1"
    f" WHERE {_STREAMS} AND generation <= :of AND until = :of{_KEPT}"
)

FORGET: Final = (
    f"UPDATE entry SET until = :generation - 1 WHERE {_STREAMS} AND until = :generation",
    f"DELETE FROM mark WHERE {_STREAMS} AND generation = :generation",
)

FORGET_MARKS = f"DELETE FROM mark WHERE {_STREAMS}"

# Beside max() the other columns are those of the row that has the maximum.
LAY = (
    "INSERT INTO mark (stream, generation, scope, path, written, closed)"
    " SELECT :stream, :generation, entry.scope, mark.path, max(entry.k) + 1, entry.value IS NULL"
    " FROM entry JOIN mark ON mark.stream = :source AND mark.generation = :of"
    " AND mark.scope = entry.scope"
    " WHERE entry.stream = :stream AND entry.until = :generation GROUP BY entry.scope"
)

COPY = (
    f"INSERT INTO entry ({_ENTRY})"
    " SELECT :stream, row_number() OVER (ORDER BY number), 0, iif(until >= :of, 0, -1), scope, k,"
    " epoch - :backwards, at + :earlier, value"
    f" FROM entry WHERE stream = :source AND generation <= :of{_KEPT} ORDER BY number"
)

COUNT = (
    "UPDATE stream SET (entries, size) ="
    " (SELECT count(*), coalesce(sum(length(value)), 0) FROM entry WHERE stream = ?1) WHERE id = ?1"
)

STREAMS = "SELECT id, name FROM stream WHERE run = ?"

_NEVER: Final = (1 << 62, 0)  # the moment before which everything is

# --- retention -------------------------------------------------------------------------------

WEIGHTS: Final = Among(
    "SELECT run, sum(entries) + sum(size) / 4096 FROM stream WHERE run IN {keys} GROUP BY run"
)

OF_RUNS: Final = tuple(
    Among(text)
    for text in (
        "DELETE FROM entry WHERE stream IN (SELECT id FROM stream WHERE run IN {keys})",
        "DELETE FROM mark WHERE stream IN (SELECT id FROM stream WHERE run IN {keys})",
        "DELETE FROM stream WHERE run IN {keys}",
    )
)


def add(unit: Unit, transition: WriteStream) -> Outcome:
    """Add an entry with the next :func:`write`."""
    grant = transition.grant
    row = unit.row(grant.run_id)
    if row is None:
        return Fenced(grant.run_id)
    run = row.run
    if run.epoch != grant.epoch or run.grant != grant.token:
        return Fenced(grant.run_id)
    if run.status is not Status.RUNNING:
        write(unit)
        return Saved(run.control) if _is_written(unit, run, transition) else Fenced(run.run_id)
    unit.written.append((transition, run.seq, run.generation, run.created_at))
    unit.hint = True
    return Saved(run.control)


def _is_written(unit: Unit, run: RunRecord, transition: WriteStream) -> bool:
    found = unit.connection.execute(FIND, (run.seq, transition.stream)).fetchone()
    if found is None:
        return False
    place = (found[0], run.generation, transition.scope)
    mark = unit.connection.execute(WRITTEN, place).fetchone()
    return mark is not None and bool(transition.k < mark[0])


def write(unit: Unit) -> None:
    """Write the entries of the unit that are not written yet."""
    if not unit.written:
        return
    pens: dict[tuple[int, str], _Pen] = {}
    for transition, seq, generation, born in unit.written:
        pen = pens.get((seq, transition.stream))
        if pen is None:
            pen = pens[seq, transition.stream] = _Pen(unit, seq, transition.stream)
        pen.add(transition, generation, born)
    unit.written.clear()
    for pen in pens.values():
        pen.write()


class _Pen:
    """Writes to one stream."""

    def __init__(self, unit: Unit, run: int, name: str) -> None:
        self._connection = unit.connection
        found = self._connection.execute(FIND, (run, name)).fetchone()
        if found is None:
            (number,) = self._connection.execute(CREATE, (run, name)).fetchone()
            found = (number, 0)
        self._stream, self._entries = found
        self._size = 0
        self._parameters: list[Any] = []
        self._written: dict[tuple[int, bytes], int] = {}
        self._marks: dict[tuple[int, bytes], SqlRow] = {}

    def add(self, transition: WriteStream, generation: int, born: Micros) -> None:
        """Take an entry in, unless it is written already."""
        place = (generation, transition.scope)
        written = self._written.get(place)
        if written is None:
            mark = self._connection.execute(WRITTEN, (self._stream, *place)).fetchone()
            written = self._written[place] = 0 if mark is None else mark[0]
        value, k = transition.value, transition.k
        if k < written:
            return
        self._written[place] = k + 1
        self._marks[place] = (self._stream, *place, transition.path, k + 1, value is None)
        self._entries += 1
        self._size += 0 if value is None else len(value)
        self._parameters += (
            self._stream,
            self._entries,
            generation,
            generation,
            transition.scope,
            k,
            transition.grant.epoch,
            transition.at - born,
            value,
        )

    def write(self) -> None:
        """Write what was taken in."""
        if self._parameters:
            INSERT.run(self._connection, self._parameters)
            for mark in self._marks.values():
                self._connection.execute(MARK, mark)
            self._connection.execute(GROW, (self._entries, self._size, self._stream))


# --- generations and forks -------------------------------------------------------------------


def forget(unit: Unit, run: RunRecord, generation: int) -> None:
    """Forget what was laid ready for a generation; flush before."""
    for statement in FORGET:
        unit.connection.execute(statement, {"run": run.seq, "generation": generation})


def forget_marks(unit: Unit, run: RunRecord) -> None:
    """Forget how far a run has written, in every generation; flush before."""
    unit.connection.execute(FORGET_MARKS, {"run": run.seq})


def keep(unit: Unit, run: RunRecord, before: StepKey, place: int) -> None:
    """Lay ready what the next generation, which continues from a step, keeps of the present one.

    Args:
        unit: the batch; flush before.
        run: as it is.
        before: the step.
        place: where its record stands.
    """
    epoch, at = _cut(unit, run.seq, run.generation, place)
    kept = {"run": run.seq, "of": run.generation, "epoch": epoch, "at": at}
    unit.connection.execute(KEEP, {**kept, "inside": inside(before)})
    for stream, _ in unit.connection.execute(STREAMS, (run.seq,)).fetchall():
        laid = {"stream": stream, "source": stream, "of": run.generation}
        unit.connection.execute(LAY, {**laid, "generation": run.generation + 1})


def copy(unit: Unit, source: RunRecord, made: RunRecord, asked: ForkRun, place: int) -> None:
    """Copy what a fork keeps of its source; flush before.

    Args:
        unit: the batch.
        source: the run that is forked.
        made: the fork.
        asked: what to keep.
        place: where the record stands before which it is.
    """
    connection, generation, before = unit.connection, asked.generation, asked.before
    epoch, at = _NEVER if before is None else _cut(unit, source.seq, generation, place)
    kept = {
        "of": generation,
        "epoch": epoch,
        "at": at,
        "inside": "\0" if before is None else inside(before),  # no path begins so
        "backwards": source.epoch,
        "earlier": source.created_at - made.created_at,
    }
    for stream, name in connection.execute(STREAMS, (source.seq,)).fetchall():
        (number,) = connection.execute(CREATE, (made.seq, name)).fetchone()
        connection.execute(COPY, {**kept, "stream": number, "source": stream})
        laid = {"stream": number, "source": stream, "of": generation, "generation": 0}
        connection.execute(LAY, laid)
        connection.execute(COUNT, (number,))


def _cut(unit: Unit, run: int, generation: int, place: int) -> Moment:
    """Return the moment before which entries are kept; the time after the run's creation."""
    found: Moment = unit.connection.execute(CUT, (run, generation, place)).fetchone()
    return found


# --- reads -----------------------------------------------------------------------------------


def marks(unit: Unit, resumed: Iterable[Row]) -> dict[int, list[StreamMark]]:
    """Return how far the present generations of runs have written, by the runs' seqs."""
    generations = {row.run.seq: row.run.generation for row in resumed}
    found: dict[int, list[StreamMark]] = {}
    for seq, generation, name, scope, written, closed in MARKS.all(
        unit.connection, list(generations)
    ):
        if generation == generations[seq]:
            mark = StreamMark(name, scope, written, bool(closed))
            found.setdefault(seq, []).append(mark)
    return found


def records(found: Iterable[SqlRow]) -> tuple[StreamRecord, ...]:
    """Read the rows of OF_RUN."""
    return tuple(StreamRecord(*row) for row in found)


def page(place: SqlRow, found: Iterable[SqlRow]) -> StreamPage:
    """Read the row of PLACE, and those of PAGE as far as they fit."""
    seq, ended, born, _, last = place
    entries: list[StreamEntry] = []
    size = 0
    for number, generation, at, value in found:
        size += len(value or b"")
        if entries and size > MOST:
            break
        entries.append(StreamEntry(number, generation, born + at, value))
    return StreamPage(tuple(entries), last or 0, seq, bool(ended))
