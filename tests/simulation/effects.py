"""The effect log: what the bodies and steps of the simulated programs really did, and when.

A *place* is one durable call of a program, named by the program itself, so that nothing here
depends on how the engine identifies calls. Steps return or raise tokens that carry their place and
the number of the execution that made them; the ledger remembers which number was committed.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from perdure._engine.activation import Activation
from perdure._runtime.worker import PROBATION
from perdure.model.records import Control, Micros, Status, StepOutcome, Undoing
from tests.simulation.entries import Entry, Place
from tests.simulation.ledger import Fail, Ledger
from tests.simulation.tokens import name_of

ON_CANCEL = "on_cancel"
"""The place of what a definition has to do when it is cancelled."""

CLEANS = "pay/ment"
"""The definition that has."""

EXCUSES = {
    *("rescued", "taken back", "Released", "CancelledByWorker"),
    *(Control.CANCEL, Control.COMPENSATE, Control.RESTART),
}
"""Ends of a claim that may leave an execution without a record."""

SLACK = 0.001
"""Virtual seconds after which whoever was told something must have acted on it."""


@dataclass(slots=True)
class Execution:
    """One execution of a step's body."""

    number: int
    run_id: str
    place: str
    epoch: int
    began_at: float


@dataclass(slots=True)
class Desk:
    """What one process is doing.

    ``told`` holds when its main loop heard that a run's grant is over, or what an operator wants.
    """

    name: str
    slots: int = 0
    bodies: dict[tuple[str, int], float] = field(default_factory=dict)  # grant -> alone until
    told: dict[tuple[str, int], tuple[float, Control]] = field(default_factory=dict)


class Effects:
    """Checks every step that begins, and everything that a body is given."""

    def __init__(self, ledger: Ledger, fail: Fail) -> None:
        self.executions: list[Execution] = []
        self.timeouts: set[str] = set()  # places whose executions leave no token
        self.children: dict[tuple[str, int, str], tuple[str, str]] = {}
        self.waits: dict[tuple[str, int, str], str] = {}
        self.inlined: dict[tuple[str, int], set[str]] = {}
        self.nested: set[str] = set()  # names of steps inside steps
        self.registered: dict[tuple[str, int], list[str]] = {}  # grant -> compensations, in order
        self._ledger = ledger
        self._fail = fail
        self._counts: Counter[tuple[str, str, int]] = Counter()
        self._values: dict[tuple[str, str, int, int], str] = {}
        self._inside: set[tuple[str, int]] = set()

    # --- bodies ----------------------------------------------------------------------------------

    def enter(self, desk: Desk, activation: Activation) -> None:
        """A body begins on a worker."""
        grant = activation.grant
        entry = self._entry(activation)
        if grant.epoch not in entry.grants:
            self._fail("S3", f"{entry.alias} executes under epoch {grant.epoch}, never granted")
        self._inside.add((grant.run_id, grant.epoch))
        self._check_queue(entry)
        now = asyncio.get_running_loop().time()
        suspect = activation.run.crashes >= 2
        if desk.bodies and (suspect or any(until > now for until in desk.bodies.values())):
            self._fail("S14", f"{entry.alias} executes beside another, one of them a suspect")
        desk.bodies[grant.run_id, grant.epoch] = now + PROBATION if suspect else 0.0
        if len(desk.bodies) > desk.slots:
            self._fail(
                "S14", f"{desk.name} executes {len(desk.bodies)} bodies in {desk.slots} slots"
            )

    def enter_inline(self, activation: Activation, place: str) -> None:
        """A program is carried out as part of a body, rather than found in the record."""
        at = (activation.grant.run_id, activation.run.generation)
        self.inlined.setdefault(at, set()).add(place)

    def leave(self, desk: Desk, activation: Activation) -> None:
        """A body has ended, however it did."""
        del desk.bodies[activation.grant.run_id, activation.grant.epoch]
        self._inside.discard((activation.grant.run_id, activation.grant.epoch))

    def _check_queue(self, entry: Entry) -> None:
        """No more bodies whose grant holds are at work in a queue than it has slots."""
        queue = entry.create.queue
        most = self._ledger.queues.lanes[queue].limits.concurrency
        if most is None:
            return
        entries = [(self._ledger.runs[run_id], epoch) for run_id, epoch in self._inside]
        inside = sum(
            one.is_live and one.epoch == epoch and one.create.queue == queue
            for one, epoch in entries
        )
        if inside > most:
            self._fail("S14", f"{inside} bodies are at work in {queue}, at most {most} may")

    # --- steps -----------------------------------------------------------------------------------

    def begin(
        self, desk: Desk, activation: Activation, place: str, now: float, store_now: Micros,
        *, attempts: int = 1, backoff: Micros = 0,
    ) -> Execution:  # fmt: skip
        """A step's body begins; attempts and back-off are what its policy says."""
        grant = activation.grant
        entry = self._entry(activation)
        where = f"{entry.alias} at {place} in epoch {grant.epoch}"
        told, word = desk.told.get((grant.run_id, grant.epoch), (None, Control.NONE))
        # A step that executes is let finish, with those inside it; a resume takes the word back.
        is_inside = name_of(place) in self.nested
        goes_on = word is Control.PAUSE and (is_inside or entry.word is not Control.PAUSE)
        if told is not None and now > told + SLACK and not goes_on:
            self._fail(
                "S12", f"{where} begins {now - told:.3f} s after its holder was told to stop"
            )
        self._check_undoing(entry, place, where, grant.epoch)
        key = (grant.run_id, place, grant.epoch)
        self._counts[key] += 1
        # Whoever was fenced may go on in a generation that is over.
        generation = entry.generations[entry.generation_of[grant.epoch]]
        known = generation.places.get(place) or Place()
        if known.final is not None and known.final.epoch <= grant.epoch:
            self._fail("S8", f"{where} executes though epoch {known.final.epoch} committed it")
        tries = attempts if place in self.timeouts else 1 + known.epochs.count(grant.epoch)
        if self._counts[key] > tries:
            self._fail("S8", f"{where} executes {self._counts[key]} times")
        if entry.is_live and entry.epoch == grant.epoch and known.final is None:
            self._check_try(where, known, attempts, backoff, store_now)
        execution = Execution(len(self.executions) + 1, grant.run_id, place, grant.epoch, now)
        self.executions.append(execution)
        return execution

    def _check_undoing(self, entry: Entry, place: str, where: str, epoch: int) -> None:
        """What is undone is undone in its turn, and nothing else is done meanwhile (UNDO)."""
        if not (entry.is_live and entry.epoch == epoch):
            return
        undoes = is_undo(place)
        if undoes != (entry.undoing is not Undoing.NONE):
            self._fail("UNDO", f"{where} begins, the run undoes {entry.undoing!r}")
        if not undoes:
            return
        todo = list(reversed(self.registered.get((entry.create.run_id, epoch), [])))
        if entry.undoing is not Undoing.FAILURE and entry.create.definition == CLEANS:
            todo = [ON_CANCEL, *todo]
        if place not in todo:
            self._fail("UNDO", f"{where} was not registered")
            return
        open_ = [
            one
            for one in todo[: todo.index(place)]
            if one not in entry.places or entry.places[one].final is None
        ]
        if open_:
            self._fail("UNDO", f"{where} begins before {open_}")

    def register(self, activation: Activation, place: str) -> None:
        """A body registers a compensation."""
        grant = activation.grant
        self.registered.setdefault((grant.run_id, grant.epoch), []).append(place)

    def check_undone(self, entry: Entry, undoable: set[str], one_branch: bool) -> None:
        """At its end everything is undone that had to be, and nothing else (UNDO).

        Args:
            entry: of the run.
            undoable: the places of its program that have a compensation.
            one_branch: the program has one branch. Where it has several, one may have been
                stopped by another's failure between its step and what it registers then.
        """
        run_id = entry.create.run_id
        ever = {
            place
            for epoch, ended in entry.generation_of.items()
            if ended == entry.generation
            for place in self.registered.get((run_id, epoch), ())
        }
        places = entry.places
        undone = {place for place in places if is_undo(place)} - entry.present.inherited
        status, _, reason = entry.endings[-1]
        if status is Status.COMPLETED and undone:
            self._fail("UNDO", f"{entry.alias} is completed, undone was {sorted(undone)}")
        if reason == "crash" or entry.undoing in (Undoing.NONE, Undoing.CANCEL):
            return
        failed = set()
        for place, known in places.items():
            undo = f"undo-{place}"
            is_done = known.final is not None and known.final.outcome is StepOutcome.OK
            if place not in undoable or not is_done:
                continue
            if not one_branch and undo not in ever:
                continue
            final = places[undo].final if undo in places else None
            if final is None:
                self._fail("UNDO", f"{entry.alias} has ended, {place} was not undone")
            elif final.outcome is not StepOutcome.OK:
                failed.add(undo)
        if failed and reason != "compensation":
            self._fail("UNDO", f"{entry.alias} ended {status} {reason}, {failed} had failed")

    def _check_try(
        self, where: str, known: Place, attempts: int, backoff: Micros, store_now: Micros
    ) -> None:
        if not known.failures:
            return
        if len(known.failures) >= attempts:
            self._fail("S14", f"{where} begins try {len(known.failures) + 1} of {attempts}")
        early = known.failures[-1].at + backoff - store_now
        if early > 1:  # a microsecond is lost where seconds are floats
            self._fail("TIMER", f"{where} is tried again {early / 1e6:.6f} s too early")

    def failures(self, activation: Activation, place: str) -> int:
        """Return how many failed tries of a place are committed since it was last reopened."""
        known = self._entry(activation).places.get(place)
        return 0 if known is None else len(known.failures)

    # --- what bodies are given -------------------------------------------------------------------

    def observe(
        self, activation: Activation, place: str, number: int, outcome: StepOutcome
    ) -> None:
        """A durable call gave a token to a body: it must be the committed one."""
        entry = self._entry(activation)
        where = f"{entry.alias} at {place} in epoch {activation.grant.epoch}"
        known = entry.places.get(place)
        if number not in entry.numbers:
            self._fail("S6", f"{where} was given execution {number}, which nobody committed")
        elif entry.is_live and entry.epoch == activation.grant.epoch:
            final = None if known is None else known.final or known.passed
            given = final is not None and (final.number, final.outcome is StepOutcome.OK)
            if given != (number, outcome is StepOutcome.OK):
                self._fail("S6", f"{where} was given {outcome} {number}, committed is {final}")

    def observe_child(self, activation: Activation, place: str, child_id: str, status: str) -> None:
        """A body was told how its child ended: the same whenever it asks, and true."""
        at = (activation.grant.run_id, activation.run.generation, place)
        first = self.children.setdefault(at, (child_id, status))
        alias = self._entry(activation).alias
        if first != (child_id, status):
            self._fail("S6", f"{alias} at {place} was told {first}, now {child_id} {status}")
        child = self._ledger.runs.get(child_id)
        if child is None or status not in [str(ending[0]) for ending in child.endings]:
            self._fail("S6", f"{alias} at {place} was told that {child_id} ended {status}")

    def observe_wait(self, activation: Activation, place: str, value: str) -> None:
        """A wait gave an event to a body, or that it is too late: the same on every replay."""
        at = (activation.grant.run_id, activation.run.generation, place)
        first = self.waits.setdefault(at, value)
        if first != value:
            alias = self._entry(activation).alias
            self._fail("S6", f"{alias} at {place} was given {first}, now {value}")

    def observe_value(self, activation: Activation, place: str, value: str) -> None:
        """A value derived from the run must be equal on every replay of an attempt."""
        run = activation.run
        first = self._values.setdefault((run.run_id, place, run.generation, run.attempt), value)
        if first != value:
            alias = self._entry(activation).alias
            self._fail("S6", f"{alias} at {place} derived {first}, on replay {value}")

    # --- at rest ---------------------------------------------------------------------------------

    def check_waste(self, around: dict[str, set[str]]) -> None:
        """Every execution that left no record must have a fault or an order to blame (S8).

        Args:
            around: the names of the steps around a step of that name.
        """
        for execution in self.executions:
            entry = self._ledger.runs[execution.run_id]
            if execution.number in entry.numbers or execution.place in self.timeouts:
                continue
            how = entry.ends.get(execution.epoch)
            if how in EXCUSES:
                continue
            name = name_of(execution.place)
            if entry.status == "cancelled" or entry.given_up & {name, *around.get(name, ())}:
                continue
            self._fail("S8", f"{entry.alias}: execution {execution} was lost, its grant {how}")

    def _entry(self, activation: Activation) -> Entry:
        return self._ledger.runs[activation.run.run_id]


def is_undo(place: str) -> bool:
    """Tell whether what is executed at a place undoes something."""
    return place.startswith("undo-") or place == ON_CANCEL
