"""Generations and forks that continue what was recorded: restart, fork, and what they keep."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

from msgspec.structs import replace

from perdure.model import lifecycle, lineage
from perdure.model.changes import ChangeKind
from perdure.model.records import (
    TERMINAL,
    Audit,
    Checkpoint,
    Micros,
    RunRecord,
    Status,
    StepKey,
    StepOutcome,
)
from perdure.model.transitions import (
    Controlled,
    Created,
    Exists,
    Fenced,
    ForkRun,
    Missing,
    Refused,
    RestartRun,
)
from perdure.stores.memory.runs import create, key_taken
from perdure.stores.memory.space import Row, Space, clear_ready


def restart(space: Space, asked: RestartRun, now: Micros) -> Controlled | Refused | Missing:
    """An operator lets a run begin again."""
    row = space.rows.get(asked.run_id)
    if row is None:
        return Missing(asked.run_id)
    if asked.request_id in row.audit:
        return Controlled(row.run.status)
    before = copy(row.run)
    if not _is_recorded(row, before.generation, asked.from_step):
        return Refused(asked.run_id, before.status, "the step is not recorded")
    taken = key_taken(space, before) if before.status in TERMINAL else None
    if taken is not None:
        return taken
    outcome = lifecycle.restart(row.run, asked, now)
    if isinstance(outcome, Refused):
        return outcome
    row.audit[asked.request_id] = Audit(asked.request_id, asked.run_id, "restart", now)
    clear_ready(row, before.generation)
    if before.epoch:
        if asked.from_step is not None:
            origin, kept = _kept(row, before, asked.from_step)
            _lay(row, before.generation + 1, [*origin, *kept])
            _keep_taken(row, before.generation, kept)
            _keep_marks(row, before.generation, asked.from_step)
        row.attempts.append(lifecycle.restarted_row(before, now))
    if before.status in TERMINAL:
        space.strike_ended(before)
        space.take_unique_key(row.run)
        space.unfulfil(asked.run_id)
    elif before.status is not Status.RUNNING:
        space.set_waits(row, ())
    space.controlled(row, before, ChangeKind.RESTARTED, now)
    return outcome


def fork(
    space: Space, asked: ForkRun, now: Micros
) -> Created | Exists | Fenced | Missing | Refused:
    """Insert a run that continues what another one has recorded."""
    known = space.rows.get(asked.create.run_id)
    source = space.rows.get(asked.source)
    if known is None and source is None:
        return Missing(asked.source)
    if known is None and source is not None:
        named = [asked.before, *(key for key, _ in asked.results)]
        if not all(_is_recorded(source, asked.generation, key) for key in named):
            return Refused(asked.source, source.run.status, "the step is not recorded")
    created = create(space, asked.create, now)
    if known is None and source is not None and isinstance(created, Created):
        results = dict(asked.results)
        continued = copy(source.run)
        continued.generation = asked.generation
        origin, kept = _kept(source, continued, asked.before)
        # Their epochs are none of the new run's own, and keep their order.
        copies = [
            replace(
                _with_result(record, results.get(record.key)), epoch=record.epoch - continued.epoch
            )
            for record in kept
        ]
        made = space.rows[asked.create.run_id]
        _lay(made, 0, [*origin, *copies])
        cut = _cut(source, asked.generation, asked.before)
        for name, stream in source.streams.items():
            made.streams[name] = stream.copied(continued, cut, asked.before)
    return created


def _is_recorded(row: Row, generation: int, step: StepKey | None) -> bool:
    return step is None or (generation, step) in row.checkpoints


def _kept(
    row: Row, run: RunRecord, before: StepKey | None
) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Return the origin to be made, if one is, and what is kept of the generation ``run`` is in."""
    records = [
        record for (number, _), record in row.checkpoints.items() if number == run.generation
    ]
    step: Checkpoint | None = None
    if before is not None:
        end = next(number for number, record in enumerate(records) if record.key == before)
        step, records = records[end], records[:end]
    kept = [record for record in records if lineage.is_kept(record, step)]
    has_origin = any(record.key == lineage.ORIGIN for record in kept)
    return [] if has_origin else [lineage.origin_of(run)], kept


def _lay(row: Row, generation: int, kept: Iterable[Checkpoint]) -> None:
    for record in kept:
        row.checkpoints[generation, record.key] = replace(record, generation=generation)


def _keep_taken(row: Row, generation: int, kept: Iterable[Checkpoint]) -> None:
    keys = {record.key for record in kept}
    for (number, event), step in list(row.taken.items()):
        if number == generation and step in keys:
            row.taken[generation + 1, event] = step


def _keep_marks(row: Row, generation: int, before: StepKey) -> None:
    cut = _cut(row, generation, before)
    for stream in row.streams.values():
        stream.keep(generation, cut, before)


def _cut(row: Row, generation: int, before: StepKey | None) -> lineage.Moment | None:
    """Return the moment before which entries of streams are kept; None for all."""
    if before is None:
        return None
    records = [record for (number, _), record in row.checkpoints.items() if number == generation]
    end = next(number for number, record in enumerate(records) if record.key == before)
    return lineage.cut_at(records[end:])


def _with_result(record: Checkpoint, result: bytes | None) -> Checkpoint:
    if result is None:
        return record
    return replace(record, outcome=StepOutcome.OK, value=result)
