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
from perdure.model.records import Micros, StepOutcome
from tests.simulation.ledger import Entry, Fail, Ledger, Place
from tests.simulation.tokens import name_of

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

    ``told`` holds when its main loop heard that a run's grant is over or cancelled.
    """

    name: str
    slots: int = 0
    bodies: dict[tuple[str, int], float] = field(default_factory=dict)  # grant -> alone until
    told: dict[tuple[str, int], float] = field(default_factory=dict)


class Effects:
    """Checks every step that begins, and everything that a body is given."""

    def __init__(self, ledger: Ledger, fail: Fail) -> None:
        self.executions: list[Execution] = []
        self.timeouts: set[str] = set()  # places whose executions leave no token
        self.children: dict[tuple[str, str], tuple[str, str]] = {}
        self._ledger = ledger
        self._fail = fail
        self._counts: Counter[tuple[str, str, int]] = Counter()
        self._values: dict[tuple[str, str, int], str] = {}

    # --- bodies ----------------------------------------------------------------------------------

    def enter(self, desk: Desk, activation: Activation) -> None:
        """A body begins on a worker."""
        grant = activation.grant
        entry = self._entry(activation)
        if grant.epoch not in entry.grants:
            self._fail("S3", f"{entry.alias} executes under epoch {grant.epoch}, never granted")
        now = asyncio.get_running_loop().time()
        suspect = activation.run.crashes >= 2
        if desk.bodies and (suspect or any(until > now for until in desk.bodies.values())):
            self._fail("S14", f"{entry.alias} executes beside another, one of them a suspect")
        desk.bodies[grant.run_id, grant.epoch] = now + PROBATION if suspect else 0.0
        if len(desk.bodies) > desk.slots:
            self._fail(
                "S14", f"{desk.name} executes {len(desk.bodies)} bodies in {desk.slots} slots"
            )

    def leave(self, desk: Desk, activation: Activation) -> None:
        """A body has ended, however it did."""
        del desk.bodies[activation.grant.run_id, activation.grant.epoch]

    # --- steps -----------------------------------------------------------------------------------

    def begin(
        self, desk: Desk, activation: Activation, place: str, now: float, store_now: Micros,
        *, attempts: int = 1, backoff: Micros = 0,
    ) -> Execution:  # fmt: skip
        """A step's body begins; attempts and back-off are what its policy says."""
        grant = activation.grant
        entry = self._entry(activation)
        where = f"{entry.alias} at {place} in epoch {grant.epoch}"
        told = desk.told.get((grant.run_id, grant.epoch))
        if told is not None and now > told + SLACK:
            self._fail(
                "S12", f"{where} begins {now - told:.3f} s after its holder was told to stop"
            )
        key = (grant.run_id, place, grant.epoch)
        self._counts[key] += 1
        known = entry.places.get(place) or Place()
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
        if known is None or number not in known.numbers:
            self._fail("S6", f"{where} was given execution {number}, which nobody committed")
        elif entry.is_live and entry.epoch == activation.grant.epoch:
            final = known.final or known.passed
            given = final is not None and (final.number, final.outcome is StepOutcome.OK)
            if given != (number, outcome is StepOutcome.OK):
                self._fail("S6", f"{where} was given {outcome} {number}, committed is {final}")

    def observe_child(self, activation: Activation, place: str, child_id: str, status: str) -> None:
        """A body was told how its child ended: the same whenever it asks, and true."""
        run_id = activation.grant.run_id
        first = self.children.setdefault((run_id, place), (child_id, status))
        alias = self._entry(activation).alias
        if first != (child_id, status):
            self._fail("S6", f"{alias} at {place} was told {first}, now {child_id} {status}")
        child = self._ledger.runs.get(child_id)
        if child is None or status not in [str(ending[0]) for ending in child.endings]:
            self._fail("S6", f"{alias} at {place} was told that {child_id} ended {status}")

    def observe_value(self, activation: Activation, place: str, value: str) -> None:
        """A value derived from the run must be equal on every replay of an attempt."""
        run = activation.run
        first = self._values.setdefault((run.run_id, place, run.attempt), value)
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
            known = entry.places.get(execution.place)
            if known is not None and execution.number in known.numbers:
                continue
            if execution.place in self.timeouts:
                continue
            how = entry.ends.get(execution.epoch)
            if how in ("rescued", "taken back", "Released", "CancelledByWorker"):
                continue
            name = name_of(execution.place)
            if entry.status == "cancelled" or entry.given_up & {name, *around.get(name, ())}:
                continue
            self._fail("S8", f"{entry.alias}: execution {execution} was lost, its grant {how}")

    def _entry(self, activation: Activation) -> Entry:
        return self._ledger.runs[activation.run.run_id]
