"""A unit of work: what one batch has read and decided, until a few statements write it.

Transitions are decided in memory, in order, on the records of this unit, and written in bulk by
:meth:`Unit.flush`. A transition that must ask the tables something first flushes what was decided
before it, so that the answer is true. The optimistic assumption is that creates and checkpoints
are new; where an insert finds otherwise, creates raise :class:`NotNew` and the batch is done again
with ``careful`` set, which looks first.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from perdure.model import lifecycle
from perdure.model.changes import ChangeKind
from perdure.model.records import TERMINAL, Attempt, Micros, RunRecord, Status, Wait
from perdure.model.streams import WriteStream
from perdure.model.transitions import CreateRun, Outcome, SaveCheckpoint
from perdure.stores.sqlite import counting, feed, gates, rows
from perdure.stores.sqlite.bulk import Among, Bulk
from perdure.stores.sqlite.codes import StoredId, pack_id
from perdure.stores.sqlite.feed import Ends, Entry
from perdure.stores.sqlite.names import Names
from perdure.stores.sqlite.payloads import Payloads
from perdure.stores.sqlite.rows import Row

LOAD: Final = Among(f"SELECT {rows.HOT} FROM run WHERE namespace = ? AND id IN {{keys}}")

INSERT_PLAIN_RUNS: Final = Bulk(
    rows.PLAIN_CREATE,
    lambda columns, places: f"INSERT INTO run ({columns}) VALUES {places} ON CONFLICT DO NOTHING",
)

INSERT_RUNS: Final = Bulk(
    rows.CREATED,
    lambda columns, places: f"INSERT INTO run ({columns}) VALUES {places} ON CONFLICT DO NOTHING",
)

# What lifecycle.settle leaves of a completed run, in 3 parameters instead of 22: 5 us less a run.
COMPLETE_RUNS: Final = Bulk(
    rows.COMPLETED,
    lambda _, places: (
        "UPDATE run SET status = 4, waiting_for = NULL, due_at = NULL, control = 0, crashes = 0,"
        " waits = 0, cleans = 0, attaches = 0, error = NULL, reason = NULL, culprits = NULL,"
        " result = ended.column2, finished_at = ended.column3, updated_at = ended.column3"
        f" FROM (VALUES {places}) AS ended WHERE run.seq = ended.column1"
    ),
)

_ASSIGNMENTS = ", ".join(
    f"{name} = changed.column{number}"
    for number, name in enumerate(rows.CHANGED.split(", "), 1)
    if name != "seq"
)
UPDATE_RUNS: Final = Bulk(
    rows.CHANGED,
    lambda _, places: (
        f"UPDATE run SET {_ASSIGNMENTS} FROM (VALUES {places}) AS changed"
        " WHERE run.seq = changed.column1"
    ),
)

INSERT_ATTEMPTS: Final = Bulk(
    f"run, {rows.ATTEMPT}",
    lambda columns, places: f"INSERT INTO attempt ({columns}) VALUES {places}",
)


PlacedSave: TypeAlias = tuple[int, int, SaveCheckpoint, Row]
"""A save of a unit, with the places of its outcome and of its entry in the feed, and its run."""

_INTERESTING: Final = frozenset({Status.QUEUED, Status.PAUSED})
"""Statuses of runs that another worker may want: one that is paused may fit it better."""


class NotQuick(Exception):
    """There is more to do than the loop's thread should be held up by."""


class NotNew(Exception):
    """A run that was taken for new has an id or unique_key that is there."""


class Unit:
    """One batch in one transaction.

    Args:
        connection: in a transaction that may write.
        namespace: the number of the store's namespace.
        held: running rows known from earlier batches and still true; see ``Journal``.
        counted: up to which seq runs are counted, where that is known.
        ends: where the feed ends, where that is known.
        careful: look before taking a run for new.
        quick: the loop waits for it; raise NotQuick where it takes long.

    ``hint`` becomes true with whatever may interest another process; ``removed`` names the workers
    that are no longer registered. ``known_ends`` is where the feed ends, None for unknown;
    ``tells_steps`` ends with the first step of which an entry has to tell. ``upto`` is up to which
    seq runs are counted, None for unknown; ``created`` is how many runs were inserted; ``closing``
    are those whose body is over and that have attached children; see
    :mod:`perdure.stores.sqlite.attached`.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        namespace: int,
        names: Names,
        payloads: Payloads,
        *,
        held: dict[str, Row],
        counted: int | None,
        ends: Ends | None,
        now: Micros,
        careful: bool,
        quick: bool,
    ) -> None:
        self.connection = connection
        self.namespace = namespace
        self.names = names
        self.payloads = payloads
        self.now = now
        self.careful = careful
        self.quick = quick
        self.hint = False
        self.rows: dict[str, Row | None] = {}
        self.outcomes: list[Outcome] = []
        self.feed: list[Entry | None] = []  # None: nothing, or a step that its row tells of
        self.saves: list[PlacedSave] = []
        self.written: list[tuple[WriteStream, int, int, Micros]] = []
        self.waits: dict[int, tuple[Row, tuple[Wait, ...], bool]] = {}
        self.ended: list[StoredId] = []
        self.closing: list[Row] = []
        self.moves = counting.Moves(names.number)
        self.created = 0
        self.upto: int | None = counted
        self.known_ends = ends
        self.tells_steps = True
        self._held = held
        self.creates: dict[str, CreateRun] = {}
        self.removed: list[str] = []
        self._changed: dict[int, Row] = {}
        self._keyed: dict[int, RunRecord] = {}
        self._completed: list[Any] = []
        self._attempts: list[Any] = []

    # --- what is there -----------------------------------------------------------------------

    def load(self, run_ids: Iterable[str]) -> None:
        """Read the named runs in one round trip, those apart that are known."""
        held = self._held
        missing: list[str] = []
        for run_id in run_ids:
            row = held.get(run_id)
            if row is None:
                missing.append(run_id)
            else:
                self.rows[run_id] = row
        if missing:
            self.rows.update(dict.fromkeys(missing))
            packed = [pack_id(run_id) for run_id in self.rows if self.rows[run_id] is None]
            self.adopt(LOAD.all(self.connection, packed, self.namespace))

    def forget_held(self) -> None:
        """Read anew what was known of running runs: a statement has changed them."""
        self._held.clear()
        self.rows.clear()

    def forget(self, seqs: Iterable[int]) -> None:
        """Runs were removed: there are none of their ids any more."""
        removed = set(seqs)
        for run_id, row in self.rows.items():
            if row is not None and row.run.seq in removed:
                self.rows[run_id] = None

    def row(self, run_id: str) -> Row | None:
        """Return the run's row, None where there is no such run."""
        if run_id in self.creates:
            self._insert_runs()
        if run_id not in self.rows:
            self.load((run_id,))
        return self.rows[run_id]

    def adopt(self, found: Iterable[rows.SqlRow]) -> list[Row]:
        """Turn rows of the columns HOT into rows of this unit; flush before the query."""
        adopted: list[Row] = []
        for columns in found:
            fresh = rows.hot_row(columns, self.names, self.payloads)
            row = self.rows.get(fresh.run.run_id)
            if row is None:
                row = self.rows[fresh.run.run_id] = fresh
            adopted.append(row)
        return adopted

    # --- what was decided --------------------------------------------------------------------

    def add(self, transition: CreateRun) -> None:
        """Insert a new run with the next flush."""
        self.creates[transition.run_id] = transition
        if transition.delay <= 0:
            self.hint = True

    @property
    def counted(self) -> int:
        """Up to which seq runs are counted."""
        upto = self.upto
        if upto is None:
            upto = self.upto = counting.counted(self.connection)
        return upto

    @property
    def ends(self) -> Ends:
        """Where the feed ends, but for what this unit adds to it."""
        ends = self.known_ends
        if ends is None:
            ends = self.known_ends = feed.ends(self.connection, self.namespace)
        return ends

    def wake(self, row: Row) -> None:
        """Wake a waiting run, now or soon."""
        lifecycle.wake(row.run, self.now)
        self.change(row, ChangeKind.WOKEN if row.run.status is Status.QUEUED else None)

    def change(self, row: Row, how: ChangeKind | None) -> None:
        """Write the run's row with the next flush; a run that is terminal has just ended.

        Args:
            row: of the run.
            how: what happened to it where it is queued or waiting now; None where its status is
                what it was.
        """
        run = row.run
        if row.was is not run.status:
            if run.seq <= self.counted:
                self.moves.moved(run, row.was)
            row.was = run.status
        if run.closing:
            self.closing.append(row)
        if run.limit_key is not None and run.status is not Status.RUNNING:
            self._keyed[run.seq] = run
        if run.status is Status.COMPLETED and run.culprits is None and run.reason is None:
            self._completed += rows.completed(run, self.payloads)
            self.feed.append(feed.completed(row))
        else:
            self._changed[run.seq] = row
            if how is not None:
                self.feed.append(feed.moved(row, how))
        if run.status in TERMINAL:
            self.hint = True
            self.ended.append(row.key)
            if row.waits:
                self.set_waits(row, ())
        elif run.status in _INTERESTING or run.control or row.slot:
            self.hint = True

    def moved_lane(self, run: RunRecord) -> None:
        """A run was written that stands elsewhere now, though its status is what it was."""
        if run.status in _INTERESTING:
            self.hint = True
        if run.limit_key is not None and run.status is not Status.RUNNING:
            self._behind_gates([run])

    def tell_step(self, entry: Entry, place: int | None = None) -> None:
        """Tell of a recorded step by an entry, and so of those that come after it.

        Args:
            entry: what is told.
            place: among the entries, where one was left free for it; the end where left out.
        """
        if place is None:
            self.feed.append(entry)
        else:
            self.feed[place] = entry
        self.tells_steps = False

    def set_waits(self, row: Row, waits: tuple[Wait, ...]) -> None:
        """Replace the wait rows of a run with the next flush."""
        _, _, is_stored = self.waits.get(row.run.seq, (row, (), row.waits > 0))
        if waits or is_stored:
            self.waits[row.run.seq] = (row, waits, is_stored)
        row.waits = len(waits)

    def waits_of(self, row: Row) -> tuple[Wait, ...]:
        """Return the wait rows that were set for a run and are not written yet."""
        _, waits, _ = self.waits.get(row.run.seq, (row, (), False))
        return waits

    def add_attempt(self, row: Row, attempt: Attempt) -> None:
        """Insert an attempt of a run with the next flush."""
        self._attempts += rows.attempted(attempt, row.run.seq, self.names)

    def write_feed(self) -> None:
        """Write what has changed; it is the last that a unit does."""
        entries = [entry for entry in self.feed if entry is not None]
        if entries:
            self.known_ends = feed.write(
                self.connection, self.namespace, self.ends, entries, self.now
            )

    # --- writing it --------------------------------------------------------------------------

    def write_runs(self) -> None:
        """Write new and changed runs, and attempts.

        Raises:
            NotNew: another run has an id or unique_key of a new one.
        """
        if self.creates:
            self._insert_runs()
        if self._completed:
            COMPLETE_RUNS.run(self.connection, self._completed)
            self._completed.clear()
        if self._changed:
            parameters: list[Any] = []
            for row in self._changed.values():
                parameters += rows.changed(row, self.names, self.payloads)
            self._changed.clear()
            UPDATE_RUNS.run(self.connection, parameters)
        if self._keyed:
            self._behind_gates(list(self._keyed.values()))
            self._keyed.clear()
        if self._attempts:
            INSERT_ATTEMPTS.run(self.connection, self._attempts)
            self._attempts.clear()

    def _insert_runs(self) -> None:
        creates = list(self.creates.values())
        self.created += len(creates)
        self.creates.clear()
        parameters: list[Any] = []
        if all(map(rows.is_plain_create, creates)):
            statement = INSERT_PLAIN_RUNS
            for create in creates:
                parameters += rows.plain_create(create, self.namespace, self.now, self.names)
        else:
            statement = INSERT_RUNS
            (last,) = self.connection.execute("SELECT max(seq) FROM run").fetchone()
            for seq, create in enumerate(creates, (last or 0) + 1):
                run = lifecycle.create(create, seq, self.now)
                columns = rows.created(run, self.namespace, self.names, self.payloads)
                if run.status is Status.WAITING:
                    self.feed.append(feed.moved(rows.new_row(run, columns), ChangeKind.SUSPENDED))
                parameters += columns
        if statement.run(self.connection, parameters) != len(creates):
            raise NotNew
        if self.known_ends is not None:
            self.known_ends = self.known_ends.after_creates(len(creates))
        keyed = {(one.queue, one.limit_key) for one in creates if one.limit_key is not None}
        self._mark(keyed)
        for create in creates:
            self.rows.pop(create.run_id, None)  # where it was looked for, it was not there

    def _behind_gates(self, runs: list[RunRecord]) -> None:
        """Park those that are queued now, and have the gates of all looked at."""
        gates.park(self.connection, [run.seq for run in runs])
        self._mark({(run.queue, run.limit_key) for run in runs})

    def _mark(self, keyed: Iterable[tuple[str, str | None]]) -> None:
        number = self.names.number
        places = [(self.namespace, number(queue), key) for queue, key in keyed if key is not None]
        gates.mark(self.connection, places, self.now)
