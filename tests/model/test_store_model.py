"""Random batches on a store and on the reference model: every answer and every run must agree."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from perdure.model.records import (
    Grant,
    Status,
    StepOutcome,
    Wait,
    WaitKind,
)
from perdure.model.transitions import (
    CancelledByWorker,
    CancelRun,
    Claim,
    Claimed,
    Completed,
    CreateRun,
    Failed,
    GiveBack,
    Heartbeat,
    Mismatched,
    Refused,
    Released,
    RescueWorker,
    RetireWorker,
    Retrying,
    RetryRun,
    Settle,
    Suspended,
    Transition,
)
from tests.contract.backends import BACKENDS
from tests.contract.desk import CRASH, ManualClock, key, register, save
from tests.contract.invariants import check_invariants
from tests.model.reference import Given, GivenRun, Model, Step

# Few names, so that transitions meet each other.
RUNS = ("a", "b", "c", "e", "f")
WORKERS = ("v", "w")
PATHS = ("s", "t")
CAP = 3
FINAL = (StepOutcome.OK, StepOutcome.ERROR, StepOutcome.TIMEOUT)

runs = st.sampled_from(RUNS)
workers = st.sampled_from(WORKERS)
requests = st.sampled_from(("q1", "q2", "q3"))
keys = st.sampled_from(PATHS).map(key)
culprits = st.lists(keys, max_size=2, unique=True).map(tuple)
lengths = st.integers(0, 4)


class StoreMachine(RuleBasedStateMachine):
    """Applies random batches to a store of `backend` in a directory of its own."""

    backend: str

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.runner = asyncio.Runner()
        self.store = BACKENDS[self.backend](self.path, self.clock)("default")
        self.runner.run(self.store.open())
        self.model = Model(self.clock.now())
        self.grants: list[Grant] = []
        self.applied: list[Transition] = []
        self.tokens = 0

    def teardown(self) -> None:
        try:
            self.runner.run(check_invariants(self.store))
        finally:
            self.runner.run(self.store.close())
            self.runner.close()
            shutil.rmtree(self.path)

    def token(self) -> int:
        self.tokens += 1
        return self.tokens

    # --- what is applied ---------------------------------------------------------------------

    @initialize(version=st.sampled_from("12"))
    def workers_come(self, version: str) -> None:
        self.check([register(name, {"d": version, "e": "1"}) for name in WORKERS])

    @rule(data=st.data(), size=st.integers(1, 4))
    def apply_a_batch(self, data: st.DataObject, size: int) -> None:
        batch = [data.draw(self.transitions()) for _ in range(size)]
        claims = [item for item in batch if isinstance(item, Claim)]
        self.check([item for item in batch if item not in claims[1:]])

    @rule(
        worker=workers,
        limit=st.integers(0, 3),
        suspects=st.booleans(),
        definitions=st.sampled_from((("d", "e"), ("d",))),
    )
    def claim(self, worker: str, limit: int, suspects: bool, definitions: tuple[str, ...]) -> None:
        self.check([Claim(worker, self.token(), definitions, ("default",), limit, suspects)])

    @precondition(lambda self: self.applied)
    @rule(data=st.data(), size=st.integers(1, 4))
    def apply_the_last_again(self, data: st.DataObject, size: int) -> None:
        batch = self.applied[-size:]
        claims = [item for item in batch if isinstance(item, Claim)]
        self.check([item for item in batch if item not in claims[1:]])

    @rule(length=st.integers(1, 5))
    def time_passes(self, length: int) -> None:
        self.clock.advance(length)
        self.model.now = self.clock.now()

    @rule(worker=workers)
    def a_worker_crashes(self, worker: str) -> None:
        self.check([RescueWorker(worker, None, CAP, CRASH), register(worker, {"d": "2"})])

    def transitions(self) -> st.SearchStrategy[Transition]:
        create = st.builds(
            CreateRun,
            runs,
            st.sampled_from("de"),
            st.sampled_from((b"1", b"2")),
            st.builds(self.token),
            priority=st.integers(-1, 1),
            unique_key=st.none() | st.sampled_from("uv"),
            delay=lengths,
            by=st.none() | st.none() | self.known_grants(),
        )
        control = st.builds(CancelRun, runs, requests) | st.builds(RetryRun, runs, requests)
        service = (
            st.builds(Heartbeat, workers)
            | st.builds(RetireWorker, workers)
            | st.builds(RescueWorker, workers, st.integers(0, 2), st.just(CAP), st.just(CRASH))
            | st.builds(GiveBack, workers, st.lists(self.held(), max_size=2).map(tuple))
            | st.builds(register, workers, st.sampled_from(({"d": "1"}, {"d": "2", "e": "2"})))
        )
        if not self.grants:
            return create | control | service
        grants = self.known_grants()
        final = st.builds(save, grants, outcome=st.sampled_from(FINAL), step=keys)
        pending = st.builds(
            save,
            grants,
            outcome=st.just(StepOutcome.PENDING),
            step=keys,
            tries=st.integers(1, 2),
            delay=lengths,
        )
        settles = st.builds(Settle, grants, self.verdicts())
        return create | control | service | final | pending | settles | settles

    def known_grants(self) -> st.SearchStrategy[Grant]:
        newest = [
            Grant(run_id, run.epoch, run.token)
            for run_id, run in self.model.runs.items()
            if run.status is Status.RUNNING
        ]
        some = [Grant("a", 1, 0), *self.grants[-4:]]
        return st.sampled_from(newest) | st.sampled_from(some) if newest else st.sampled_from(some)

    def held(self) -> st.SearchStrategy[tuple[str, int]]:
        return st.sampled_from(
            [("a", 1), *((run_id, run.epoch) for run_id, run in self.model.runs.items())]
        )

    def verdicts(self) -> st.SearchStrategy:
        now = self.clock.now()
        child = st.builds(
            Wait,
            st.just(WaitKind.CHILD),
            runs,
            st.none() | st.integers(now - 1, now + 5),
            st.integers(0, 1),
        )
        timer = st.builds(
            Wait,
            st.just(WaitKind.RETRY),
            st.sampled_from(PATHS),
            st.integers(now - 1, now + 5),
            st.integers(0, 1),
        )
        waits = st.lists(child | child | timer, min_size=1, max_size=3, unique=True).map(tuple)
        return st.one_of(
            st.builds(Completed, st.just(b"1")),
            st.builds(Failed, st.just(b"1"), st.sampled_from(("error", "timeout")), culprits),
            st.builds(Retrying, st.just(b"1"), lengths, culprits),
            st.builds(Suspended, waits, st.sampled_from((0, 0, 3))),
            st.builds(Suspended, waits),
            st.just(Released()),
            st.builds(Mismatched, st.just(b"1"), st.sampled_from("12")),
            st.just(CancelledByWorker()),
        )

    # --- what must agree ---------------------------------------------------------------------

    def check(self, batch: list[Transition]) -> None:
        self.applied += batch
        outcomes = self.runner.run(self.store.apply(batch))
        for transition, outcome, expected in zip(
            batch, outcomes, self.model.apply(batch), strict=True
        ):
            if isinstance(outcome, Claimed):
                self.note(outcome)
                assert seen(outcome) == expected, transition
            elif isinstance(outcome, Refused):
                assert Refused(outcome.run_id, outcome.status) == expected, transition
            else:
                assert outcome == expected, transition

    def note(self, claimed: Claimed) -> None:
        for given in claimed.runs:
            grant = Grant(given.run.run_id, given.run.epoch, given.run.grant)
            if grant not in self.grants:
                self.grants.append(grant)

    @invariant()
    def every_run_agrees(self) -> None:
        for run_id, expected in self.model.runs.items():
            history = self.runner.run(self.store.history(run_id))
            assert history is not None
            run = history.run
            assert (run.status, run.due_at, run.epoch, run.grant) == (
                expected.status,
                expected.due_at,
                expected.epoch,
                expected.token,
            ), run_id
            assert (run.attempt, run.crashes, run.worker_id, run.reason) == (
                expected.attempt,
                expected.crashes,
                expected.worker,
                expected.reason,
            ), run_id
            steps = [
                (item.key, item.outcome, item.tries, item.due_at, item.epoch)
                for item in history.checkpoints
            ]
            assert steps == [
                (step_key, step.outcome, step.tries, step.due_at, step.epoch)
                for step_key, step in expected.steps.items()
            ], run_id
            assert history.waits == expected.waits, run_id
            assert [entry.request_id for entry in history.audit] == expected.requests, run_id
            assert [attempt.outcome for attempt in history.attempts] == expected.attempts, run_id

    @invariant()
    def every_worker_agrees(self) -> None:
        workers = self.runner.run(self.store.workers())
        assert {worker.worker_id: worker.beat for worker in workers} == self.model.workers


def seen(claimed: Claimed) -> Given:
    """Return a claim's answer in the model's words."""
    return Given(
        [
            GivenRun(
                given.run.run_id,
                given.run.epoch,
                {
                    item.key: Step(item.outcome, item.tries, item.due_at, item.epoch)
                    for item in given.checkpoints
                },
                {ending.run_id for ending in given.endings},
            )
            for given in claimed.runs
        ],
        claimed.next_due_at,
        claimed.suspects,
        claimed.known,
    )


# The same examples at every time and on every machine; a few seconds a store.
EXAMPLES = {"memory": 60, "sqlite": 15}
DETERMINISTIC = settings(derandomize=True, database=None, deadline=None, stateful_step_count=40)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_store_does_as_the_model_says(name: str, tmp_path: Path):
    """Random batches of every transition are answered and leave behind what the model expects."""
    BACKENDS[name](tmp_path, ManualClock())  # skips what is not there before any example is made
    machine = type(f"{name.title()}Machine", (StoreMachine,), {"backend": name})
    bounded = settings(DETERMINISTIC, max_examples=EXAMPLES[name])
    run_state_machine_as_test(machine, settings=bounded)
