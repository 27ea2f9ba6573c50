"""Generations and forks that continue what was recorded: restart, fork, and what they keep.

What is kept is copied by one statement, in the order of first recording; see
:mod:`perdure.model.lineage`.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from copy import copy
from typing import Any, Final

from msgspec.structs import replace

from perdure.model import lifecycle, lineage
from perdure.model.records import TERMINAL, RunRecord, Status, StepKey, StepOutcome
from perdure.model.transitions import (
    Controlled,
    Created,
    ForkRun,
    Missing,
    Outcome,
    Refused,
    RestartRun,
)
from perdure.stores.sqlite import keys, rows, runs, saving, streams, waiting
from perdure.stores.sqlite.codes import STEP_OUTCOME_CODES
from perdure.stores.sqlite.flushing import flush
from perdure.stores.sqlite.rows import Row
from perdure.stores.sqlite.unit import Unit

PLACE = (
    "SELECT seq FROM checkpoint WHERE run = ? AND generation = ?"
    " AND path = ? AND k = ? AND scope = ? AND fingerprint = ?"
)

_LATER: Final = 1 << 62
_CANCELLED: Final = STEP_OUTCOME_CODES[StepOutcome.CANCELLED]

_FIRST, _REST = rows.CHECKPOINT.split(", ", 1)
assert _FIRST == "generation"
_COPIED = ", ".join(
    {"epoch": "epoch - :backwards", "started_at": "started_at + :earlier"}.get(name, name)
    for name in _REST.split(", ")
)

COPY = (
    f"INSERT INTO checkpoint (run, {rows.CHECKPOINT}) SELECT :run, :generation, {_COPIED}"
    " FROM checkpoint WHERE run = :source AND generation = :of AND seq < :end"
    f" AND outcome <> {saving.PENDING} AND substr(path, 1, length(:inside)) <> :inside"
    f" AND (outcome <> {_CANCELLED} OR NOT EXISTS (SELECT 1 FROM checkpoint AS step"
    " WHERE step.seq = :end AND (checkpoint.epoch, checkpoint.started_at + checkpoint.ended_at)"
    " > (step.epoch, step.started_at + step.ended_at)))"
    " ORDER BY seq"
)

COPY_TAKEN = (
    "INSERT INTO taken (run, generation, event, checkpoint)"
    " SELECT taken.run, laid.generation, taken.event, laid.seq FROM taken"
    " JOIN checkpoint AS kept ON kept.seq = taken.checkpoint"
    " JOIN checkpoint AS laid ON laid.run = kept.run AND laid.generation = kept.generation + 1"
    " AND laid.path = kept.path AND laid.k = kept.k AND laid.scope = kept.scope"
    " AND laid.fingerprint = kept.fingerprint"
    " WHERE taken.run = ? AND taken.generation = ?"
)

EDIT = (
    "UPDATE checkpoint SET outcome = 0, value = ? WHERE run = ? AND generation = ?"
    " AND path = ? AND k = ? AND scope = ? AND fingerprint = ?"
)


def restart(unit: Unit, transition: RestartRun) -> Outcome:
    """An operator lets a run begin again."""
    row = runs.operated(unit, transition)
    if not isinstance(row, Row):
        return row
    before = copy(row.run)
    end = _place(unit, before.seq, before.generation, transition.from_step)
    if end is None:
        return Refused(before.run_id, before.status, "the step is not recorded")
    taken = runs.key_taken(unit, before) if before.status in TERMINAL else None
    if taken is not None:
        return taken
    outcome = runs.operate(unit, row, transition, "restart", lifecycle.restart)
    if not isinstance(outcome, Controlled):
        return outcome
    saving.clear(unit, before, before.generation + 1)
    if before.epoch:
        if transition.from_step is not None:
            _lay_next(unit, before, transition.from_step, end)
        unit.add_attempt(row, lifecycle.restarted_row(before, unit.now))
    if before.status in TERMINAL:
        waiting.unfulfil(unit, (before.run_id,))
        keys.take_again(unit, before)
    elif before.status is not Status.RUNNING:
        unit.set_waits(row, ())
    flush(unit)
    return outcome


def fork(unit: Unit, transition: ForkRun) -> Outcome:
    """Insert a run that continues what another one has recorded."""
    create = transition.create
    flush(unit)
    known, source = unit.row(create.run_id), unit.row(transition.source)
    if known is not None:
        return runs.create(unit, create)
    if source is None:
        return Missing(transition.source)
    origin, generation = source.run, transition.generation
    end = _place(unit, origin.seq, generation, transition.before)
    named = [_place(unit, origin.seq, generation, key) for key, _ in transition.results]
    if end is None or None in named:
        return Refused(origin.run_id, origin.status, "the step is not recorded")
    created = runs.create(unit, create)
    if isinstance(created, Created):
        flush(unit)
        made = unit.row(create.run_id)
        assert made is not None
        _lay_fork(unit, made, origin, transition, end)
    return created


def _place(unit: Unit, seq: int, generation: int, step: StepKey | None) -> int | None:
    """Return where the record of a step stands; beyond all where none is named; None for none."""
    if step is None:
        return _LATER
    place = (seq, generation, step.path, step.k, step.scope, step.fingerprint)
    found = unit.connection.execute(PLACE, place).fetchone()
    return None if found is None else int(found[0])


def _lay_next(unit: Unit, run: RunRecord, step: StepKey, end: int) -> None:
    """Copy what the next generation keeps of a run's present one."""
    following = run.generation + 1
    copied = {"run": run.seq, "generation": following, "source": run.seq, "of": run.generation}
    _put_origin(unit, run, replace(run, generation=following))
    _copy(unit, {**copied, "end": end, "backwards": 0, "earlier": 0}, step)
    unit.connection.execute(COPY_TAKEN, (run.seq, run.generation))
    streams.keep(unit, run, step, end)


def _lay_fork(unit: Unit, made: Row, source: RunRecord, transition: ForkRun, end: int) -> None:
    """Copy what a fork keeps of its source."""
    run = made.run
    earlier = source.created_at - run.created_at
    copied = {"run": run.seq, "generation": 0, "source": source.seq, "of": transition.generation}
    copied |= {"end": end, "backwards": source.epoch, "earlier": earlier}
    _put_origin(unit, replace(source, generation=transition.generation), run)
    _copy(unit, copied, transition.before)
    for key, result in transition.results:
        place = (run.seq, 0, key.path, key.k, key.scope, key.fingerprint)
        unit.connection.execute(EDIT, (result, *place))
    streams.copy(unit, source, run, transition, end)


def _copy(unit: Unit, parameters: dict[str, Any], before: StepKey | None) -> None:
    inside = "\0" if before is None else lineage.inside(before)  # no path begins so
    unit.connection.execute(COPY, {**parameters, "inside": inside})
    unit.known_ends = None


def _put_origin(unit: Unit, continued: RunRecord, run: RunRecord) -> None:
    """Say what a generation continues, where what is copied will not say it."""
    if _place(unit, continued.seq, continued.generation, lineage.ORIGIN) is None:
        saving.put(unit, run, lineage.origin_of(continued))
