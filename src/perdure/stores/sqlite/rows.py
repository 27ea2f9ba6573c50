"""Rows of the file as records, and back: lists of columns with functions to read and fill them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import msgspec

from perdure import defaults
from perdure.duration import to_micros
from perdure.model.records import (
    Attempt,
    Audit,
    Checkpoint,
    Ending,
    Micros,
    Rank,
    RunRecord,
    Status,
    StepKey,
    StepKind,
    StepOutcome,
    Wait,
    WaitKind,
    WorkerRecord,
)
from perdure.model.transitions import CreateRun, SaveCheckpoint
from perdure.stores.sqlite.codes import (
    CONTROL_CODES,
    CONTROLS,
    PARENT_CLOSE_CODES,
    PARENT_CLOSES,
    RANKS,
    STATUS_CODES,
    STATUSES,
    STEP_KIND_CODES,
    STEP_KINDS,
    STEP_OUTCOME_CODES,
    STEP_OUTCOMES,
    UNDOING_CODES,
    UNDOINGS,
    WAIT_KIND_CODES,
    WAIT_KINDS,
    StoredId,
    pack_id,
    pack_texts,
    unpack_id,
    unpack_mapping,
    unpack_pairs,
    unpack_texts,
)
from perdure.stores.sqlite.names import Names
from perdure.stores.sqlite.payloads import LONGEST, Payloads

SqlRow: TypeAlias = tuple[Any, ...]


class Row(msgspec.Struct, gc=False):
    """A run inside a batch: its record, its id as stored, and the count of its wait rows.

    The record is *hot*: it lacks what no transition looks at (input, meta, options, tags, version,
    priority, parent, root, result, key_passed_to, continued, progress), unless a read asked for
    all of it.
    ``slot``: while it runs it counts for the limits of its queue. ``was``: the status as which it
    is counted.
    ``definition`` and ``queue`` are the numbers of their names.
    """

    run: RunRecord
    key: StoredId
    definition: int
    queue: int
    waits: int = 0
    slot: bool = False
    was: Status = Status.QUEUED


# --- runs ------------------------------------------------------------------------------------

HOT: Final = (
    "seq, id, status, definition, rank, due_at, epoch, grant_token, control, generation,"
    " created_at, updated_at, worker, claimed_at, started_at, finished_at, attempt, crashes,"
    " waiting_for, coalesce_for, waits, token, unique_key, reason, misfits, paused_at, culprits,"
    " error, queue, limit_key, slot, undoing, cleans, attaches, pin"
)
FULL: Final = (
    HOT
    + ", version, priority, tags, parent, root, input, meta, options, result, caused_by, retention"
    + ", key_passed_to, on_parent_close, continued, progress"
)


def hot_row(row: SqlRow, names: Names, payloads: Payloads) -> Row:
    """Read the columns HOT."""
    (seq, run_id, status, definition, rank, due_at, epoch, grant, control, generation) = row[:10]
    (created_at, updated_at, worker, claimed_at, started_at, finished_at, attempt) = row[10:17]
    (crashes, waiting_for, coalesce, waits, token, unique_key, reason, misfits) = row[17:25]
    paused_at, culprits, error, queue, limit_key, slot, undoing, cleans = row[25:33]
    attaches, pin = row[33:35]
    return Row(
        RunRecord(
            seq=seq,
            run_id=unpack_id(run_id),
            definition=names.texts[definition],
            version="",
            queue=names.texts[queue],
            priority=0,
            unique_key=unique_key,
            token=token,
            input=b"",
            meta=None,
            options=None,
            tags=(),
            parent_id=None,
            root_id=None,
            created_at=created_at,
            updated_at=created_at + updated_at,
            status=STATUSES[status],
            rank=RANKS[rank],
            waiting_for=None if waiting_for is None else WAIT_KINDS[waiting_for],
            due_at=due_at,
            attempt=attempt,
            generation=generation,
            epoch=epoch,
            grant=grant,
            worker_id=None if worker is None else names.texts[worker],
            claimed_at=None if claimed_at is None else created_at + claimed_at,
            started_at=None if started_at is None else created_at + started_at,
            finished_at=None if finished_at is None else created_at + finished_at,
            crashes=crashes,
            control=CONTROLS[control],
            coalesce=coalesce,
            error=payloads.read(error, seq, 4),
            reason=reason,
            culprits=culprits,
            misfits=unpack_texts(misfits),
            paused_at=None if paused_at is None else created_at + paused_at,
            limit_key=limit_key,
            undoing=UNDOINGS[undoing],
            cleans=cleans == 1,
            attaches=attaches == 1,
            pin=names.texts[pin] if pin else None,
        ),
        run_id,
        definition,
        queue,
        waits,
        slot == 1,
        STATUSES[status],
    )


def full_row(row: SqlRow, names: Names, payloads: Payloads) -> Row:
    """Read the columns FULL."""
    found = hot_row(row, names, payloads)
    run = found.run
    version, run.priority, tags, parent, root, data, meta, options, result = row[35:44]
    run.version = names.texts[version]
    run.tags = unpack_texts(tags)
    run.parent_id = None if parent is None else unpack_id(parent)
    run.root_id = None if root is None else unpack_id(root)
    run.input = payloads.read(data, run.seq, 0) or b""
    run.meta = payloads.read(meta, run.seq, 1)
    run.options = payloads.read(options, run.seq, 2)
    run.result = payloads.read(result, run.seq, 3)
    run.caused_by, run.retention, passed_to, on_parent_close = row[44:48]
    run.continued, run.progress = row[48:50]
    run.key_passed_to = None if passed_to is None else unpack_id(passed_to)
    run.on_parent_close = PARENT_CLOSES[on_parent_close]
    return found


FRESH: Final = (
    "seq, id, definition, version, queue, priority, unique_key, token, input, meta, options, tags,"
    " parent, root, created_at, updated_at, attempt, status, caused_by, limit_key,"
    " retention, on_parent_close, pin"
)


def fresh_row(row: SqlRow, names: Names, payloads: Payloads) -> Row:
    """Read the columns FRESH of a queued run that was never claimed: the others tell nothing."""
    (seq, run_id, definition, version, queue, priority, unique_key, token, data) = row[:9]
    meta, options, tags, parent, root, created_at, updated_at, attempt, status = row[9:18]
    texts = names.texts
    return Row(
        RunRecord(
            seq,
            unpack_id(run_id),
            texts[definition],
            texts[version],
            texts[queue],
            priority,
            unique_key,
            token,
            data if type(data) is bytes else payloads.read(data, seq, 0) or b"",
            payloads.read(meta, seq, 1),
            payloads.read(options, seq, 2),
            unpack_texts(tags),
            None if parent is None else unpack_id(parent),
            None if root is None else unpack_id(root),
            created_at,
            created_at + updated_at,
            STATUSES[status],
            Rank.FRESH,
            None,
            None,
            attempt,
            caused_by=row[18],
            limit_key=row[19],
            retention=row[20],
            on_parent_close=PARENT_CLOSES[row[21]],
            pin=texts[row[22]] if row[22] else None,
        ),
        run_id,
        definition,
        queue,
    )


CREATED: Final = (
    "seq, namespace, id, status, definition, queue, rank, priority, due_at, epoch, grant_token,"
    " control, generation, created_at, updated_at, attempt, crashes, waiting_for, coalesce_for,"
    " waits, version, token, parent, root, unique_key, caused_by, tags, input, meta, options,"
    " limit_key, parked, retention, on_parent_close, pin"
)


# sqlite3 binds an int or a str at once and any subclass of it, an enum member too, only after a
# search for an adapter: hence the int(…) below.


def created(run: RunRecord, namespace: int, names: Names, payloads: Payloads) -> SqlRow:
    """Fill the columns CREATED of a new run."""
    return (
        run.seq,
        namespace,
        pack_id(run.run_id),
        STATUS_CODES[run.status],
        names.number(run.definition),
        names.number(run.queue),
        int(run.rank),
        run.priority,
        run.due_at,
        0,
        0,
        0,
        0,
        run.created_at,
        0,
        run.attempt,
        0,
        None if run.waiting_for is None else WAIT_KIND_CODES[run.waiting_for],
        0,
        0,
        names.number(run.version),
        run.token,
        None if run.parent_id is None else pack_id(run.parent_id),
        None if run.root_id is None else pack_id(run.root_id),
        run.unique_key,
        run.caused_by,
        pack_texts(run.tags),
        payloads.write(run.input, run.seq, 0),
        payloads.write(run.meta, run.seq, 1),
        payloads.write(run.options, run.seq, 2),
        run.limit_key,
        0 if run.limit_key is None else 1,
        run.retention,
        PARENT_CLOSE_CODES[run.on_parent_close],
        _pinned(run, names),
    )


def new_row(run: RunRecord, columns: SqlRow) -> Row:
    """Return the row of a new run and its columns CREATED."""
    return Row(run, columns[2], columns[4], columns[5])


PLAIN_CREATE: Final = (
    "namespace, id, definition, queue, priority, created_at, version, token, input"
)


def is_plain_create(create: CreateRun) -> bool:
    """Tell whether the columns PLAIN_CREATE say all, the others being at their defaults."""
    return (
        create.unique_key is None
        and create.options is None
        and create.meta is None
        and create.parent_id is None
        and create.root_id is None
        and create.caused_by is None
        and create.limit_key is None
        and create.retention is None
        and create.pin is None
        and not create.tags
        and create.delay <= 0
        and len(create.input) <= LONGEST
    )


def plain_create(create: CreateRun, namespace: int, now: Micros, names: Names) -> SqlRow:
    """Fill the columns PLAIN_CREATE: lifecycle.create, with 9 parameters instead of 30.

    With the record that is not built, 4 us less a run.
    """
    number = names.number
    return (
        namespace,
        pack_id(create.run_id),
        number(create.definition),
        number(create.queue),
        create.priority,
        now,
        number(create.version),
        create.token,
        create.input,
    )


COMPLETED: Final = "seq, result, finished_at"


def completed(run: RunRecord, payloads: Payloads) -> SqlRow:
    """Fill the columns COMPLETED."""
    assert run.finished_at is not None
    return (run.seq, payloads.write(run.result, run.seq, 3), run.finished_at - run.created_at)


CHANGED: Final = (
    "seq, status, rank, due_at, epoch, grant_token, control, generation, updated_at, worker,"
    " claimed_at,"
    " started_at, finished_at, attempt, crashes, waiting_for, coalesce_for, waits, reason, misfits,"
    " paused_at, culprits, result, error, undoing, cleans, attaches, pin"
)


def changed(row: Row, names: Names, payloads: Payloads) -> SqlRow:
    """Fill the columns CHANGED: all that any transition may change."""
    run = row.run
    born = run.created_at
    return (
        run.seq,
        STATUS_CODES[run.status],
        int(run.rank),
        run.due_at,
        run.epoch,
        run.grant,
        CONTROL_CODES[run.control],
        run.generation,
        run.updated_at - born,
        None if run.worker_id is None else names.number(run.worker_id),
        None if run.claimed_at is None else run.claimed_at - born,
        None if run.started_at is None else run.started_at - born,
        None if run.finished_at is None else run.finished_at - born,
        run.attempt,
        run.crashes,
        None if run.waiting_for is None else WAIT_KIND_CODES[run.waiting_for],
        run.coalesce,
        row.waits,
        run.reason,
        pack_texts(run.misfits),
        None if run.paused_at is None else run.paused_at - born,
        run.culprits,
        payloads.write(run.result, run.seq, 3),
        payloads.write(run.error, run.seq, 4),
        UNDOING_CODES[run.undoing],
        int(run.cleans),
        int(run.attaches),
        _pinned(run, names),
    )


def _pinned(run: RunRecord, names: Names) -> int:
    return 0 if run.pin is None else names.number(run.pin)


ENDING: Final = "ended.seq, ended.id, ended.status, ended.result, ended.error, ended.reason"


def ending(columns: Iterable[Any], payloads: Payloads) -> Ending:
    """Read the columns ENDING."""
    seq, run_id, status, result, error, reason = columns
    return Ending(
        unpack_id(run_id),
        STATUSES[status],
        payloads.read(result, seq, 3),
        payloads.read(error, seq, 4),
        reason,
    )


# --- what belongs to a run -------------------------------------------------------------------

PLAIN_SAVE: Final = (
    "run, path, k, scope, fingerprint, position, epoch, started_at, ended_at, site, text, value,"
    " told_at"
)


def is_plain_save(save: SaveCheckpoint, run: RunRecord) -> bool:
    """Tell whether the columns PLAIN_SAVE say all, the others being at their defaults."""
    return (
        save.outcome is StepOutcome.OK
        and save.kind is StepKind.STEP
        and save.tries == 1
        and save.log is None
        and save.delay is None
        and run.generation == 0
    )


def plain_save(
    save: SaveCheckpoint, run: RunRecord, told_at: Micros | None, names: Names
) -> SqlRow:
    """Fill the columns PLAIN_SAVE: with 13 parameters instead of 18, 1.5 us less.

    Args:
        save: what to record.
        run: of which.
        told_at: the store's time, if the feed tells of it by this row.
        names: of this connection.
    """
    key = save.key
    return (
        run.seq,
        key.path,
        key.k,
        key.scope,
        key.fingerprint,
        save.position,
        save.grant.epoch,
        save.started_at - run.created_at,
        save.ended_at - save.started_at,
        names.number(save.site),
        save.text,
        save.value,
        None if told_at is None else told_at - save.ended_at,
    )


CHECKPOINT: Final = (
    "generation, path, k, scope, fingerprint, position, kind, outcome, tries, epoch, started_at,"
    " ended_at, due_at, site, text, log, value"
)


def checkpoint(row: SqlRow, born: Micros, names: Names) -> Checkpoint:
    """Read the columns CHECKPOINT of a run that was created at ``born``."""
    (generation, path, k, scope, fingerprint, position, kind, outcome, tries, epoch) = row[:10]
    started_at, ended_at, due_at, site, text, log, value = row[10:]
    return Checkpoint(
        StepKey(scope, path, fingerprint, k),
        position,
        STEP_KINDS[kind],
        STEP_OUTCOMES[outcome],
        value,
        tries,
        log,
        due_at,
        born + started_at,
        born + started_at + ended_at,
        names.texts[site],
        text,
        epoch,
        generation,
    )


def saved(save: SaveCheckpoint, run: RunRecord, now: Micros, names: Names) -> SqlRow:
    """Fill the run's seq and the columns CHECKPOINT."""
    key = save.key
    return (
        run.seq,
        run.generation,
        key.path,
        key.k,
        key.scope,
        key.fingerprint,
        save.position,
        STEP_KIND_CODES[save.kind],
        STEP_OUTCOME_CODES[save.outcome],
        save.tries,
        save.grant.epoch,
        save.started_at - run.created_at,
        save.ended_at - save.started_at,
        None if save.delay is None else now + save.delay,
        names.number(save.site),
        save.text,
        save.log,
        save.value,
    )


def recorded(record: Checkpoint, run: RunRecord, names: Names) -> SqlRow:
    """Fill the run's seq and the columns CHECKPOINT from a whole record."""
    key = record.key
    return (
        run.seq,
        run.generation,
        key.path,
        key.k,
        key.scope,
        key.fingerprint,
        record.position,
        STEP_KIND_CODES[record.kind],
        STEP_OUTCOME_CODES[record.outcome],
        record.tries,
        record.epoch,
        record.started_at - run.created_at,
        record.ended_at - record.started_at,
        record.due_at,
        names.number(record.site),
        record.text,
        record.log,
        record.value,
    )


WAIT: Final = "kind, key, due_at, join_number, event_key"


def wait(row: SqlRow) -> Wait:
    """Read the columns WAIT."""
    kind, key, due_at, join, match = row
    return Wait(WAIT_KINDS[kind], unpack_id(key), due_at, join, match)


def waited(wait: Wait, number: int, seq: int, namespace: int) -> SqlRow:
    """Fill run, number, namespace, open and the columns WAIT."""
    is_child = wait.kind is WaitKind.CHILD
    return (
        seq,
        number,
        namespace,
        1 if is_child else 0,
        WAIT_KIND_CODES[wait.kind],
        pack_id(wait.key) if is_child else wait.key,
        wait.due_at,
        wait.join,
        wait.match,
    )


ATTEMPT: Final = "number, epoch, worker, claimed_at, ended_at, outcome, error, due_at"


def attempt(row: SqlRow, names: Names) -> Attempt:
    """Read the columns ATTEMPT."""
    number, epoch, worker, *rest = row
    return Attempt(number, epoch, None if worker is None else names.texts[worker], *rest)


def attempted(attempt: Attempt, seq: int, names: Names) -> SqlRow:
    """Fill the run's seq and the columns ATTEMPT."""
    return (
        seq,
        attempt.number,
        attempt.epoch,
        None if attempt.worker_id is None else names.number(attempt.worker_id),
        attempt.claimed_at,
        attempt.ended_at,
        attempt.outcome,
        attempt.error,
        attempt.due_at,
    )


AUDIT: Final = "request_id, action, at"


def audit(row: SqlRow, run_id: str) -> Audit:
    """Read the columns AUDIT."""
    request_id, action, at = row
    return Audit(request_id, run_id, action, at)


_LEASE: Final = to_micros(defaults.LEASE)
_HEARTBEAT: Final = to_micros(defaults.HEARTBEAT)

WORKER: Final = (
    "id, host, pid, definitions, queues, slots, started_at, beat_at, beat, lease, heartbeat,"
    " cleans, earlier, pinning"
)


def worker(row: SqlRow, names: Names) -> WorkerRecord:
    """Read the columns WORKER."""
    number, host, pid, definitions, queues, slots, started_at, beat_at, beat, *told = row
    lease, heartbeat, cleans, earlier, pinning = told
    return WorkerRecord(
        names.texts[number],
        host,
        pid,
        unpack_mapping(definitions),
        unpack_texts(queues),
        slots,
        started_at,
        beat_at,
        beat,
        _LEASE if lease is None else lease,  # written with schema 1
        _HEARTBEAT if heartbeat is None else heartbeat,
        unpack_texts(cleans),
        unpack_pairs(earlier),
        unpack_texts(pinning),
    )
