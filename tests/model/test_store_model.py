"""Random batches on a store and on the reference model: every answer and every run must agree."""

import asyncio
import shutil
import tempfile
from itertools import count
from pathlib import Path
from random import Random

import pytest
from hypothesis import Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from perdure.model.changes import Change, ChangeKind
from perdure.model.events import (
    GiveUpEvent,
    Listen,
    Listener,
    Publish,
    SendEvent,
    TakeEvent,
)
from perdure.model.keys import Debounce, Replace, Throttle
from perdure.model.queues import Limits, PauseQueue, PutQueue, ResumeQueue
from perdure.model.records import (
    Grant,
    Status,
    StepOutcome,
    Wait,
    WaitKind,
)
from perdure.model.schedules import (
    Fire,
    FireOutcome,
    FireSchedule,
    PauseSchedule,
    PutSchedule,
    RemoveSchedule,
    Schedule,
)
from perdure.model.transitions import (
    CancelledByWorker,
    CancelRun,
    Claim,
    Claimed,
    Completed,
    CreateRun,
    Failed,
    ForkRun,
    GiveBack,
    Heartbeat,
    Mismatched,
    PauseRun,
    Refused,
    Released,
    RescueWorker,
    RestartRun,
    ResumeRun,
    RetireWorker,
    Retrying,
    RetryRun,
    SaveCheckpoint,
    Settle,
    Suspended,
    Transition,
    Undone,
    Verdict,
)
from perdure.stores.sqlite import counting
from perdure.testing.contract.desk import CRASH, ManualClock, key, register, save
from perdure.testing.contract.invariants import check_invariants
from perdure.timing import Timing
from tests.contract.backends import BACKENDS
from tests.model.reference import Given, GivenRun, Model, Step

# Few names, so that transitions meet each other.
MOST_RUNS = 8
WORKERS = ("v", "w")
QUEUES = ("default", "narrow")
KEYS = (key("s"), key("s/inside"), key("t"))
WAITS = (key("w"), key("v"))
EVENTS = tuple(f"e{number}" for number in range(12))
VERSIONS = ({"d": "1", "e": "1"}, {"d": "2", "e": "1"})
CAP = 3
FINAL = [outcome for outcome in StepOutcome if outcome is not StepOutcome.PENDING]

chances = st.integers(0, 2**32).map(Random)


class StoreMachine(RuleBasedStateMachine):
    """Applies random batches to a store of `backend` in a directory of its own.

    Hypothesis chooses the rules and a seed for each; what the transitions say is drawn from that
    seed, so that the odds are ours: most grants hold, most requests are new, and ten times as many
    steps fit into a second.
    """

    backend: str

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.runner = asyncio.Runner()
        self.store = BACKENDS[self.backend](self.path, self.clock)("default")
        self.runner.run(self.store.open())
        self.model = Model(self.clock.now())
        self.grants = [Grant("r0", 1, 0)]
        self.applied: list[Transition] = []
        self.numbers = count(1)
        self.position: str | None = None
        self.told: dict[str, Change] = {}

    def teardown(self) -> None:
        try:
            self.runner.run(check_invariants(self.store))
        finally:
            self.runner.run(self.store.close())
            self.runner.close()
            shutil.rmtree(self.path)

    # --- what is applied ---------------------------------------------------------------------

    @initialize(chance=chances)
    def work_and_workers_come(self, chance: Random) -> None:
        self.check([register(name, VERSIONS[0]) for name in WORKERS])
        for _ in range(4):
            self.check([self.a_create(chance)])

    @rule(chance=chances)
    def create(self, chance: Random) -> None:
        self.check([self.a_create(chance)])

    @rule(chance=chances)
    def claim(self, chance: Random) -> None:
        self.check([self.a_claim(chance)])

    @rule(chance=chances)
    def come_and_claim(self, chance: Random) -> None:
        claim = self.a_claim(chance)
        self.check([register(claim.worker_id, chance.choice(VERSIONS)), claim])

    @rule(chance=chances)
    def save(self, chance: Random) -> None:
        self.get_to_work(chance)
        self.check([self.a_save(chance) for _ in range(chance.randint(1, 3))])

    @rule(chance=chances)
    def settle(self, chance: Random) -> None:
        self.get_to_work(chance)
        self.check([self.a_settle(chance)])

    @rule(chance=chances)
    def settle_and_claim(self, chance: Random) -> None:
        self.get_to_work(chance)
        batch = [self.a_settle(chance), self.a_claim(chance), self.a_settle(chance)]
        self.check(chance.sample(batch, 3))

    @rule(chance=chances)
    def control(self, chance: Random) -> None:
        self.check([self.a_control(chance)])

    @rule(chance=chances)
    def say_and_hear(self, chance: Random) -> None:
        self.get_to_work(chance)
        self.check([self.something_of_events(chance) for _ in range(chance.randint(1, 3))])

    @rule(chance=chances)
    def keep_a_timetable(self, chance: Random) -> None:
        self.check([self.something_of_schedules(chance) for _ in range(chance.randint(1, 2))])

    @rule(chance=chances)
    def limit_a_queue(self, chance: Random) -> None:
        self.check([self.something_of_queues(chance)])

    @rule(chance=chances)
    def look_after_workers(self, chance: Random) -> None:
        self.check([self.a_service(chance)])

    @rule(chance=chances)
    def apply_a_mixed_batch(self, chance: Random) -> None:
        self.get_to_work(chance)
        kinds = (
            self.a_create,
            self.a_control,
            self.a_save,
            self.a_save,
            self.a_settle,
            self.a_settle,
            self.a_service,
            self.something_of_events,
            self.something_of_schedules,
        )
        self.check([chance.choice(kinds)(chance) for _ in range(chance.randint(2, 6))])

    @rule(chance=chances)
    def apply_again(self, chance: Random) -> None:
        batch = self.applied[-chance.randint(1, 8) :][: chance.randint(1, 8)]
        claims = [item for item in batch if isinstance(item, Claim)]
        self.check([item for item in batch if item not in claims[1:]])

    @rule(length=st.integers(1, 5))
    def time_passes(self, length: int) -> None:
        self.clock.advance(length)
        self.model.now = self.clock.now()

    @rule(chance=chances)
    def a_worker_crashes(self, chance: Random) -> None:
        self.get_to_work(chance)
        worker = self.model.runs[self.a_grant(chance).run_id].worker or "w"
        rescue = RescueWorker(worker, None, CAP, CRASH)
        self.check([rescue, register(worker, chance.choice(VERSIONS))])

    def get_to_work(self, chance: Random) -> None:
        """Have runs claimed where none is, so that most writes have somebody to make them."""
        if not self.running() and chance.random() < 0.9:
            claim = replace(
                self.a_claim(chance),
                limit=2,
                suspects=True,
                definitions=("d", "e"),
                queues=QUEUES,
            )
            self.check([register(claim.worker_id, VERSIONS[0]), claim])

    # --- what a transition says --------------------------------------------------------------

    def running(self) -> list[Grant]:
        return [
            Grant(run_id, run.epoch, run.token)
            for run_id, run in self.model.runs.items()
            if run.status is Status.RUNNING
        ]

    def a_run(self, chance: Random) -> str:
        """Return the id of a run, or now and then the next that there will be."""
        return f"r{chance.randint(0, min(len(self.model.runs), MOST_RUNS - 1))}"

    def a_grant(self, chance: Random) -> Grant:
        """Return a grant that holds, most of the time; else a stale or an invented one."""
        running = self.running()
        return chance.choice(running if running and chance.random() < 0.8 else self.grants[-4:])

    def a_create(self, chance: Random) -> CreateRun:
        is_new = len(self.model.runs) < MOST_RUNS and chance.random() < 0.8
        return CreateRun(
            f"r{len(self.model.runs)}" if is_new else self.a_run(chance),
            chance.choice("dde"),
            chance.choice((b"1", b"2")),
            next(self.numbers),
            queue=chance.choice(("default", "default", "narrow")),
            priority=chance.randint(-1, 1),
            unique_key=chance.choice((None, "u", "v")),
            delay=chance.choice((0, 0, 3)),
            by=self.a_grant(chance) if chance.random() < 0.2 else None,
            key_rule=chance.choice((None, None, Replace(), Throttle(4), Debounce(), Debounce(4))),
        )

    def a_claim(self, chance: Random) -> Claim:
        return Claim(
            chance.choice(WORKERS),
            next(self.numbers),
            chance.choice((("d", "e"), ("d", "e"), ("d",))),
            chance.choice((QUEUES, QUEUES, ("default",))),
            chance.choice((0, 1, 2, 9)),
            suspects=chance.random() < 0.6,
        )

    def a_save(self, chance: Random) -> SaveCheckpoint:
        grant, step = self.a_grant(chance), chance.choice(KEYS)
        if chance.random() < 0.5:
            return save(grant, step=step, outcome=chance.choice(FINAL))
        tries, delay = chance.randint(1, 2), chance.randint(0, 4)
        return save(grant, step=step, outcome=StepOutcome.PENDING, tries=tries, delay=delay)

    def a_settle(self, chance: Random) -> Settle:
        culprits = tuple(chance.sample(KEYS, chance.randint(0, 2)))
        verdicts: list[Verdict] = [
            Completed(b"1"),
            Failed(
                b"1",
                chance.choice(("error", "timeout")),
                culprits,
                compensates=chance.random() < 0.5,
            ),
            Undone(*chance.choice(((), (), (b"1", KEYS[:1])))),
            Retrying(b"1", chance.randint(0, 4), culprits),
            Released(),
            Mismatched(b"1", chance.choice("12")),
            CancelledByWorker(),
            *[self.a_suspension(chance) for _ in range(4)],
        ]
        return Settle(self.a_grant(chance), chance.choice(verdicts), chance.random() < 0.3)

    def a_suspension(self, chance: Random) -> Suspended:
        waits: list[Wait] = []
        for _ in range(chance.randint(1, 3)):
            due_at = self.clock.now() + chance.randint(-1, 5)
            if chance.random() < 0.2:
                waits.append(Wait(WaitKind.RETRY, "s", due_at, chance.randint(0, 1)))
            elif chance.random() < 0.4:
                timed = due_at if chance.random() < 0.5 else None
                match = chance.choice((None, "k"))
                waits.append(Wait(WaitKind.EVENT, "said", timed, chance.randint(0, 1), match))
            else:
                timed = due_at if chance.random() < 0.2 else None
                child = self.a_run(chance)
                waits.append(Wait(WaitKind.CHILD, child, timed, chance.randint(0, 1)))
        return Suspended(tuple(waits), chance.choice((0, 0, 3)))

    def a_control(self, chance: Random) -> Transition:
        request = f"q{next(self.numbers) if chance.random() < 0.7 else chance.randint(0, 3)}"
        run_id = self.a_run(chance)
        verb = chance.choice(
            (PauseRun, PauseRun, ResumeRun, ResumeRun, RetryRun, CancelRun, RestartRun, ForkRun)
        )
        if verb is CancelRun:
            return CancelRun(run_id, request, chance.random() < 0.5)
        if verb is RestartRun:
            return RestartRun(run_id, request, chance.choice((None, *KEYS, *WAITS)))
        if verb is ForkRun:
            return self.a_fork(run_id, chance)
        return verb(run_id, request)

    def a_fork(self, run_id: str, chance: Random) -> Transition:
        create = replace(self.a_create(chance), by=None, key_rule=None, caused_by=f"fork:{run_id}")
        source = self.model.runs.get(run_id)
        generation = 0 if source is None else source.generation
        results = ((KEYS[0], b"9"),) if chance.random() < 0.2 else ()
        before = chance.choice((None, *KEYS, *WAITS))
        return ForkRun(create, run_id, generation, before, results)

    def something_of_events(self, chance: Random) -> Transition:
        event, type_ = chance.choice(EVENTS), chance.choice(("said", "said", "other"))
        event_key, payload = chance.choice((None, "k")), chance.choice((b"1", b"2"))
        grant, step = self.a_grant(chance), chance.choice(WAITS)
        by = self.a_grant(chance) if chance.random() < 0.2 else None
        timeout = chance.choice((None, 0, 3))
        listeners = tuple(Listener("said", name, "given") for name in chance.choice(("d", "de")))
        kinds: tuple[Transition, ...] = (
            Publish(event, type_, payload, 10, event_key, by),
            SendEvent(self.a_run(chance), event, type_, payload, event_key),
            TakeEvent(grant, step, 0, "said", event_key, timeout, b"late", 0, 0),
            GiveUpEvent(grant, step, 0),
            Listen(listeners),
        )
        return chance.choices(kinds, (3, 3, 6, 2, 0.5))[0]

    def something_of_schedules(self, chance: Random) -> Transition:
        record = self.model.schedules.get("plan")
        every = chance.choice((2, 2, 3))
        put = PutSchedule(Schedule("plan", Timing(every=every), "d", b"1"), self.clock.now() + 1)
        at = self.clock.now() if record is None or record.next_at is None else record.next_at
        expected = at if chance.random() < 0.9 else at + 1
        revision = 0 if record is None else record.revision
        is_fired = len(self.model.runs) < MOST_RUNS + 4
        fate = FireOutcome.ON_TIME if is_fired else FireOutcome.SKIPPED
        fires = (Fire(expected, fate, expected),)
        kinds: tuple[Transition, ...] = (
            put,
            FireSchedule("plan", revision, expected, expected + every, fires),
            PauseSchedule("plan"),
            RemoveSchedule("plan"),
        )
        return chance.choices(kinds, (2, 5, 0.5, 0.5))[0]

    def something_of_queues(self, chance: Random) -> Transition:
        queue = chance.choice(QUEUES)
        limits = Limits(concurrency=chance.choice((None, None, 1, 2)))
        kinds = (PutQueue(queue, limits), PauseQueue(queue), ResumeQueue(queue))
        return chance.choices(kinds, (3, 1, 4))[0]

    def a_service(self, chance: Random) -> Transition:
        worker = chance.choice(WORKERS)
        held = [self.a_grant(chance) for _ in range(chance.randint(0, 3))]
        return chance.choice(
            (
                Heartbeat(worker),
                RetireWorker(worker),
                RescueWorker(worker, chance.randint(0, 2), CAP, CRASH),
                GiveBack(worker, tuple((grant.run_id, grant.epoch) for grant in held)),
                register(worker, chance.choice(VERSIONS)),
                replace(register(worker, chance.choice(VERSIONS)), cleans=("d",)),
            )
        )

    # --- what must agree ---------------------------------------------------------------------

    def check(self, batch: list[Transition]) -> None:
        note(f"{batch!r}")
        self.applied += batch
        outcomes = self.runner.run(self.store.apply(batch))
        for transition, outcome, expected in zip(
            batch, outcomes, self.model.apply(batch), strict=True
        ):
            if isinstance(outcome, Claimed):
                self.remember(outcome)
                assert seen(outcome) == expected, transition
            elif isinstance(outcome, Refused):
                assert Refused(outcome.run_id, outcome.status) == expected, transition
            else:
                assert outcome == expected, transition

    def remember(self, claimed: Claimed) -> None:
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
            assert (run.input, run.key_passed_to) == (expected.input, expected.passed_to), run_id
            assert (run.attempt, run.crashes, run.worker_id, run.reason) == (
                expected.attempt,
                expected.crashes,
                expected.worker,
                expected.reason,
            ), run_id
            assert (run.generation, run.undoing, run.control, run.cleans) == (
                expected.generation,
                expected.undoing,
                expected.word,
                expected.cleans,
            ), run_id
            steps = [
                (item.key, item.outcome, item.tries, item.due_at, item.epoch)
                for item in history.checkpoints
                if item.generation == run.generation
            ]
            assert steps == [
                (step_key, step.outcome, step.tries, step.due_at, step.epoch)
                for step_key, step in expected.steps.items()
            ], run_id
            assert history.waits == expected.waits, run_id
            assert [entry.request_id for entry in history.audit] == expected.requests, run_id
            assert [attempt.outcome for attempt in history.attempts] == expected.attempts, run_id

    @invariant()
    def the_changes_tell_of_every_run(self) -> None:
        """Whoever reads them as they come knows how each run stands."""
        page = self.runner.run(self.store.changes(self.position, 1_000))
        self.position = page.position
        for change in page.changes:
            if change.kind is not ChangeKind.STEP:
                assert (change.kind is ChangeKind.CREATED) == (change.run_id not in self.told)
                self.told[change.run_id] = change
        assert self.told.keys() == self.model.runs.keys()
        for run_id, expected in self.model.runs.items():
            told = self.told[run_id]
            has_reason = expected.status in (Status.PAUSED, Status.FAILED, Status.COMPLETED)
            assert (told.status, told.reason, told.epoch, told.attempt) == (
                expected.status,
                expected.reason if has_reason else None,
                expected.epoch,
                expected.attempt,
            ), run_id

    @invariant()
    def schedules_and_queues_agree(self) -> None:
        schedules = self.runner.run(self.store.schedules())
        assert {record.schedule.key: record for record in schedules} == self.model.schedules
        queues = self.runner.run(self.store.queues())
        assert {record.queue: record for record in queues} == self.model.queues

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
EXAMPLES = {"memory": 120, "sqlite": 30}
# A failure is shown as found: shrinking takes minutes; add Phase.shrink while looking into one.
DETERMINISTIC = settings(
    derandomize=True,
    database=None,
    deadline=None,
    stateful_step_count=50,
    phases=[Phase.generate],
)


def run_examples(name: str, count: int) -> None:
    """Run so many examples on a store."""
    machine = type(f"{name.title()}Machine", (StoreMachine,), {"backend": name})
    run_state_machine_as_test(machine, settings=settings(DETERMINISTIC, max_examples=count))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_store_does_as_the_model_says(name: str):
    """Random batches of every transition are answered and leave behind what the model expects."""
    run_examples(name, EXAMPLES[name])


def test_counts_that_are_made_at_once_are_exact(monkeypatch: pytest.MonkeyPatch):
    """SQLite counts the newest runs when somebody asks; here it counts every one as it comes."""
    monkeypatch.setattr(counting, "FOLD", 1)
    run_examples("sqlite", 10)


@pytest.mark.tier(2)
@pytest.mark.parametrize("name", BACKENDS)
def test_a_store_does_as_the_model_says_for_long(name: str):
    """Twenty times as many."""
    run_examples(name, 20 * EXAMPLES[name])
