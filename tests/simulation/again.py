"""What a generation or a fork goes on from, in few words of the simulation's own.

Written from the text of :mod:`perdure.model.lineage`, as the rest of the ledger is from that of the
transitions: of what was first recorded before a step, all that is final and not inside the step,
but for what was given up since.
"""

from copy import deepcopy

from msgspec.structs import replace

from perdure.model.records import Checkpoint, Micros, StepKey, StepKind, StepOutcome
from perdure.model.transitions import ForkRun
from tests.simulation.entries import PENDING, Entry, Generation


def continued(entry: Entry, from_step: StepKey | None) -> Generation:
    """Return the generation that goes on from a step of the present one; from the start: empty."""
    if from_step is None:
        return Generation()
    made = _kept(entry, entry.generation, from_step)
    number = entry.generation + 1
    made.steps = {key: replace(one, generation=number) for key, one in made.steps.items()}
    made.taken = {event: step for event, step in entry.present.taken.items() if step in made.steps}
    return made


def forked(source: Entry, fork: ForkRun) -> Generation:
    """Return what a fork begins with."""
    made = _kept(source, fork.generation, fork.before)
    has_origin = any(
        one.kind is StepKind.ORIGIN for one in source.generations[fork.generation].steps.values()
    )
    results = dict(fork.results)
    for key, kept in made.steps.items():
        is_made = kept.kind is StepKind.ORIGIN and not has_origin
        one = replace(kept, epoch=0 if is_made else kept.epoch - source.epoch, generation=0)
        if key in results:
            one = replace(one, outcome=StepOutcome.OK, value=results[key])
        made.steps[key] = one
    for place in made.places.values():
        if place.final is not None:
            place.final.epoch -= source.epoch
    return made


def _kept(entry: Entry, number: int, before: StepKey | None) -> Generation:
    old = entry.generations[number]
    steps: dict[StepKey, Checkpoint] = {}
    for key, record in old.steps.items():
        if key == before:
            break
        if record.outcome is PENDING or _is_given_up_since(record, old.steps.get(before)):
            continue
        if before is None or not key.path.startswith(f"{before.path}/"):
            steps[key] = record
    if not any(record.kind is StepKind.ORIGIN for record in steps.values()):
        origin = _origin(entry, number)
        steps = {origin.key: origin, **steps}
    place_of = {key: place for key, place in old.place_of.items() if key in steps}
    places = {place: deepcopy(old.places[place]) for place in place_of.values()}
    kept = {place for key, place in place_of.items() if steps[key].outcome is StepOutcome.OK}
    source = (entry.create.run_id, number)
    return Generation(steps, places, place_of, kept, set(places), source=source)


def _is_given_up_since(record: Checkpoint, before: Checkpoint | None) -> bool:
    """Tell whether a body gave a call up after a step came to stand as it does."""
    if before is None or record.outcome is not StepOutcome.CANCELLED:
        return False
    return (record.epoch, record.ended_at) > (before.epoch, before.ended_at)


def _origin(entry: Entry, number: int) -> Checkpoint:
    began_at = entry.started_at or entry.created_at
    return Checkpoint(
        key=StepKey(b"", "", b"perdure.origin\0", 0),
        position=0,
        kind=StepKind.ORIGIN,
        outcome=StepOutcome.OK,
        value=f"{entry.create.run_id}\0{number}".encode(),
        tries=1,
        log=None,
        due_at=None,
        started_at=began_at,
        ended_at=began_at,
        site="",
        text="",
        epoch=0,
        generation=number,
    )


def shift(entry: Entry, by: Micros) -> None:
    """Move everything that is due of a run by the time for which it was paused."""
    if entry.due_at is not None:
        entry.due_at += by
    entry.waits = tuple(
        wait if wait.due_at is None else replace(wait, due_at=wait.due_at + by)
        for wait in entry.waits
    )
    for key, record in entry.steps.items():
        if record.due_at is not None:
            entry.steps[key] = replace(record, due_at=record.due_at + by)
