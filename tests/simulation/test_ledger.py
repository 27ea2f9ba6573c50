"""Every check of the ledger can fail: fed with a store's broken promise it says which."""

from collections.abc import Callable, Sequence

import pytest

from perdure.model.events import (
    Awaiting,
    Listen,
    Listener,
    Listening,
    Publish,
    Published,
    SendEvent,
    TakeEvent,
    Taken,
    TimedOut,
)
from perdure.model.leader import Lead, LeaderRecord, Leading, LeaveLead, NotLeading, TakeLead
from perdure.model.queues import Limits, PauseQueue, PutQueue, QueueKept, QueueRecord
from perdure.model.queues import Rate as StoredRate
from perdure.model.records import (
    Checkpoint,
    Control,
    Grant,
    Rank,
    RunRecord,
    Status,
    StepKey,
    StepKind,
    StepOutcome,
)
from perdure.model.retention import Prune, Pruned
from perdure.model.schedules import (
    Fire,
    Fired,
    FireOutcome,
    FireSchedule,
    PutSchedule,
    Schedule,
    Scheduled,
    ScheduleRecord,
    fired_run,
)
from perdure.model.transitions import (
    Beaten,
    CancelRun,
    Claim,
    Claimed,
    ClaimedRun,
    Completed,
    Conflict,
    Controlled,
    Created,
    CreateRun,
    Exists,
    Failed,
    Fenced,
    ForkRun,
    Heartbeat,
    Missing,
    Outcome,
    PauseRun,
    Refused,
    RegisterWorker,
    Released,
    Rescued,
    RescueWorker,
    RestartRun,
    ResumeRun,
    RetireWorker,
    SaveCheckpoint,
    Saved,
    Settle,
    Settled,
    Suspended,
    Transition,
)
from perdure.timing import Timing
from tests.simulation.ledger import Ledger

LEASE = 15_000_000
KEY = StepKey(b"", "s", b"", 0)
FIRST = Grant("r", 1, 11)
SECOND = Grant("r", 2, 22)


class Scribe:
    """Feeds a ledger, and remembers what it says."""

    def __init__(self) -> None:
        self.letters: list[str] = []
        self.ledger = Ledger(lambda letter, text: self.letters.append(letter), LEASE)
        self.now = 0
        self.feed(_register("w"), Beaten(True, 0, 0))
        self.feed(_register("v"), Beaten(True, 0, 0))
        self.feed(CreateRun("r", "d", b"", 1), Created("r"))

    def feed(self, transition: Transition, outcome: Outcome) -> None:
        self.ledger.feed([transition], [outcome], self.now)

    def claim(self, worker: str, grant: Grant, **fields: object) -> None:
        """Give the run to a worker as a store would, or with other fields."""
        checkpoints: Sequence[Checkpoint] = fields.pop("checkpoints", ())
        run = RunRecord(
            seq=1, run_id="r", definition="d", version="", queue="default", priority=0,
            unique_key=None, token=1, input=b"", meta=None, options=None, tags=(), parent_id=None,
            root_id=None, created_at=0, updated_at=0, status=Status.RUNNING, rank=Rank.FRESH,
            epoch=grant.epoch, grant=grant.token, worker_id=worker,
        )  # fmt: skip
        for name, value in fields.items():
            setattr(run, name, value)
        claim = Claim(worker, grant.token, ("d",), ("default",), 1)
        self.feed(
            claim,
            Claimed((ClaimedRun(run, tuple(checkpoints)),), 0, None, suspects=False, vacant_term=1),
        )

    def save(self, grant: Grant, value: bytes = b"1") -> SaveCheckpoint:
        save = _save(grant, value)
        self.feed(save, Saved())
        return save

    def recorded(self) -> Checkpoint:
        """Return what is recorded of the one step."""
        return self.ledger.runs["r"].generations[0].steps[KEY]

    def rescue(self, worker: str, **counted: tuple[str, ...]) -> None:
        self.now += LEASE
        self.feed(RescueWorker(worker, 0, 3, b""), Rescued(**counted))


def _register(worker: str) -> RegisterWorker:
    return RegisterWorker(worker, "host", 1, {"d": ""}, ("default",), 1)


def _save(grant: Grant, value: bytes = b"1") -> SaveCheckpoint:
    return SaveCheckpoint(grant, KEY, 0, StepKind.STEP, StepOutcome.OK, value)


def lost_run(scribe: Scribe) -> None:
    scribe.feed(CancelRun("r", "q"), Missing("r"))


def two_runs_of_one_id(scribe: Scribe) -> None:
    scribe.feed(CreateRun("r", "d", b"", 2), Created("r"))


def two_runs_of_one_key(scribe: Scribe) -> None:
    scribe.feed(CreateRun("a", "d", b"", 3, unique_key="k"), Created("a"))
    scribe.feed(CreateRun("b", "d", b"", 4, unique_key="k"), Created("b"))


def refused_for_nobody(scribe: Scribe) -> None:
    scribe.feed(CreateRun("a", "d", b"", 3), Exists("r", True))


def two_grants(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.claim("v", SECOND)


def an_epoch_twice(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.rescue("w", queued=("r",))
    scribe.claim("v", Grant("r", 1, 22), crashes=1)


def a_stranger_that_is_known(scribe: Scribe) -> None:
    scribe.feed(Heartbeat("nobody"), Beaten(True, 1, 0))


def a_fenced_checkpoint(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.rescue("w", queued=("r",))
    scribe.save(FIRST)


def a_fenced_settle(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.rescue("w", queued=("r",))
    scribe.feed(Settle(FIRST, Completed(b"")), Settled(Status.COMPLETED))


def a_holder_that_is_fenced(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(_save(FIRST), Fenced("r"))


def a_child_of_nobody(scribe: Scribe) -> None:
    scribe.feed(CreateRun("c", "d", b"", 2, parent_id="r", by=FIRST), Created("c"))


def an_outcome_overwritten(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.save(FIRST)
    scribe.rescue("w", queued=("r",))
    recorded = Checkpoint(
        KEY, 0, StepKind.STEP, StepOutcome.OK, b"1", 1, None, None, 0, 0, "", "", 1
    )
    scribe.claim("v", SECOND, checkpoints=(recorded,))
    scribe.save(SECOND, b"2")


def a_conflict_with_nothing(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(_save(FIRST), Conflict("r", "s"))


def a_replay_without_its_record(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.save(FIRST)
    scribe.rescue("w", queued=("r",))
    scribe.claim("v", SECOND)


def a_claim_after_the_end(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(Settle(FIRST, Completed(b"")), Settled(Status.COMPLETED))
    scribe.claim("w", SECOND)


def another_status_than_the_verdict(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(Settle(FIRST, Failed(b"")), Settled(Status.COMPLETED))


def a_cancel_that_the_holder_does_not_hear(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(CancelRun("r", "q"), Controlled(Status.RUNNING))
    scribe.feed(_save(FIRST), Saved(Control.NONE))


def a_lead_that_another_has(scribe: Scribe) -> None:
    led = LeaderRecord("w", 1)
    scribe.feed(TakeLead("w", 1), Leading(led))
    scribe.feed(LeaveLead(Lead("v", 1)), Leading(led))
    scribe.feed(TakeLead("v", 2), Leading(LeaderRecord("v", 2)))


def a_term_twice(scribe: Scribe) -> None:
    scribe.feed(TakeLead("w", 1), Leading(LeaderRecord("w", 1)))
    scribe.rescue("w", queued=())
    scribe.feed(TakeLead("v", 1), Leading(LeaderRecord("v", 1)))


def a_vacancy_that_is_none(scribe: Scribe) -> None:
    scribe.feed(TakeLead("v", 1), Leading(LeaderRecord("v", 1)))
    scribe.claim("w", FIRST)


def an_old_leader_that_prunes(scribe: Scribe) -> None:
    scribe.feed(TakeLead("w", 1), Leading(LeaderRecord("w", 1)))
    scribe.feed(LeaveLead(Lead("w", 1)), Leading(LeaderRecord(None, 1)))
    scribe.feed(Prune(10, lead=Lead("w", 1)), Pruned())


def a_leader_that_may_not_prune(scribe: Scribe) -> None:
    scribe.feed(TakeLead("w", 1), Leading(LeaderRecord("w", 1)))
    scribe.feed(Prune(10, lead=Lead("w", 1)), NotLeading(LeaderRecord("w", 1)))


def a_cancel_that_is_refused(scribe: Scribe) -> None:
    scribe.feed(CancelRun("r", "q"), Refused("r", Status.QUEUED))


def crashes_uncounted(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.rescue("w", queued=("r",))
    scribe.claim("v", SECOND, crashes=0)


def an_attempt_uncounted(scribe: Scribe) -> None:
    scribe.claim("w", FIRST, attempt=2)


def a_rescue_that_forgets(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.rescue("w")


def a_worker_that_holds_more(scribe: Scribe) -> None:
    scribe.feed(Heartbeat("w"), Beaten(True, 1, 1))


def a_retirement_that_keeps_a_run(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(RetireWorker("w"), Rescued())


def a_delay_cut_short(scribe: Scribe) -> None:
    scribe.feed(CreateRun("a", "d", b"", 3, delay=10), Created("a"))
    scribe.now = 9
    scribe.claim("w", Grant("a", 1, 11), run_id="a")


def a_suspension_cut_short(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(Settle(FIRST, Suspended(())), Settled(Status.WAITING))
    scribe.claim("w", SECOND)


def a_rescue_within_the_lease(scribe: Scribe) -> None:
    scribe.now = LEASE - 1
    scribe.feed(RescueWorker("w", 0, 3, b""), Rescued())


# --- operators -----------------------------------------------------------------------------------


def a_paused_run_is_claimed(scribe: Scribe) -> None:
    scribe.feed(PauseRun("r", "q"), Controlled(Status.PAUSED))
    scribe.claim("w", FIRST)


def a_pause_that_the_holder_does_not_hear(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(PauseRun("r", "q"), Controlled(Status.RUNNING))
    scribe.save(FIRST)


def a_pause_shorter_than_it_was(scribe: Scribe) -> None:
    scribe.feed(CreateRun("a", "d", b"", 3, delay=10), Created("a"))
    scribe.feed(PauseRun("a", "q"), Controlled(Status.PAUSED))
    scribe.now = 5
    scribe.feed(ResumeRun("a", "p"), Controlled(Status.WAITING))
    scribe.now = 14
    scribe.claim("w", Grant("a", 1, 11), run_id="a")


def a_failure_that_forgets_its_pause(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(PauseRun("r", "q"), Controlled(Status.RUNNING))
    scribe.feed(Settle(FIRST, Failed(b"", compensates=True)), Settled(Status.QUEUED))


def a_cancel_that_undoes_nothing(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(CancelRun("r", "q", compensate=True), Controlled(Status.RUNNING))
    scribe.feed(Settle(FIRST, Released()), Settled(Status.CANCELLED))


def a_restart_that_keeps_what_it_was_to_repeat(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.save(FIRST)
    scribe.feed(Settle(FIRST, Completed(b"")), Settled(Status.COMPLETED))
    scribe.feed(RestartRun("r", "q"), Controlled(Status.QUEUED))
    kept = (scribe.recorded(),)
    scribe.claim("w", SECOND, generation=1, checkpoints=kept)


def a_restart_in_the_same_generation(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(Settle(FIRST, Released()), Settled(Status.QUEUED))
    scribe.feed(RestartRun("r", "q"), Controlled(Status.QUEUED))
    scribe.claim("w", SECOND)


def a_restart_behind_a_cancel(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(CancelRun("r", "q"), Controlled(Status.RUNNING))
    scribe.feed(RestartRun("r", "p"), Controlled(Status.RUNNING))


def a_fork_without_its_record(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.save(FIRST)
    scribe.feed(ForkRun(CreateRun("f", "d", b"", 5), "r", 0), Created("f"))
    scribe.claim("v", Grant("f", 1, 33), run_id="f")


# --- events --------------------------------------------------------------------------------------


def _take(timeout: int | None = None) -> TakeEvent:
    return TakeEvent(FIRST, KEY, 0, "e", None, timeout, b"late", 0, 0)


def _publish(event_id: str = "e1") -> Publish:
    return Publish(event_id, "e", b"1", 1)


def an_event_that_is_not_taken(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(_publish(), Published("e1"))
    scribe.feed(_take(), Awaiting(None))


def an_event_of_before_the_run(scribe: Scribe) -> None:
    scribe.feed(_publish(), Published("e1"))
    scribe.now = 1
    scribe.feed(CreateRun("a", "d", b"", 3), Created("a"))
    scribe.claim("w", Grant("a", 1, 11), run_id="a")
    take = TakeEvent(Grant("a", 1, 11), KEY, 0, "e", None, None, b"", 0, 0)
    scribe.feed(take, Taken(b"1", 0))


def an_event_at_its_deadline_is_late(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(_take(10), Awaiting(10))
    scribe.now = 10
    scribe.feed(_publish(), Published("e1"))
    scribe.now = 11
    scribe.feed(_take(10), TimedOut(b"late", 0))


def a_deadline_that_moves(scribe: Scribe) -> None:
    scribe.claim("w", FIRST)
    scribe.feed(_take(10), Awaiting(10))
    scribe.now = 5
    scribe.feed(_take(10), Awaiting(15))


def an_event_that_starts_nobody(scribe: Scribe) -> None:
    scribe.feed(Listen((Listener("e", "d", "given"),)), Listening(()))
    scribe.feed(_publish(), Published("e1"))


def an_event_that_a_living_run_refuses(scribe: Scribe) -> None:
    scribe.feed(SendEvent("r", "e1", "e", b"1"), Refused("r", Status.QUEUED))


# --- queues and schedules ------------------------------------------------------------------------


def _limit(scribe: Scribe, **limits: object) -> None:
    asked = PutQueue("default", Limits(**limits))  # type: ignore[arg-type]
    scribe.feed(asked, QueueKept(QueueRecord("default", asked.limits)))
    scribe.feed(CreateRun("a", "d", b"", 3), Created("a"))


def more_at_work_than_there_are_slots(scribe: Scribe) -> None:
    _limit(scribe, concurrency=1)
    scribe.claim("w", FIRST)
    scribe.claim("v", Grant("a", 1, 22), run_id="a")


def more_starts_than_the_rate(scribe: Scribe) -> None:
    _limit(scribe, rate=StoredRate(1, 10))
    scribe.claim("w", FIRST)
    scribe.now = 9
    scribe.claim("v", Grant("a", 1, 22), run_id="a")


def a_paused_queue_that_gives(scribe: Scribe) -> None:
    scribe.feed(PauseQueue("default"), QueueKept(QueueRecord("default", paused_at=0)))
    scribe.claim("w", FIRST)


def _fire(*instants: int, next_at: int) -> FireSchedule:
    fires = tuple(Fire(at, FireOutcome.ON_TIME, at) for at in instants)
    return FireSchedule("s", 0, instants[0], next_at, fires)


def _fired(*instants: int) -> Fired:
    return Fired(tuple(fired_run("s", at)[0] for at in instants))


def _plan(scribe: Scribe) -> None:
    schedule = Schedule("s", Timing(every=10), "d", b"")
    record = ScheduleRecord(schedule, 0, 0, 0, 10)
    scribe.feed(PutSchedule(schedule, 10), Scheduled(record))
    scribe.now = 30


def an_instant_fired_twice(scribe: Scribe) -> None:
    _plan(scribe)
    for _ in range(2):
        scribe.feed(_fire(10, next_at=20), _fired(10))


def an_instant_left_out(scribe: Scribe) -> None:
    _plan(scribe)
    scribe.feed(_fire(10, next_at=30), _fired(10))


def an_instant_fired_early(scribe: Scribe) -> None:
    _plan(scribe)
    scribe.now = 9
    scribe.feed(_fire(10, next_at=20), _fired(10))


BROKEN: dict[Callable[[Scribe], None], str] = {
    lost_run: "S1",
    two_runs_of_one_id: "S2",
    two_runs_of_one_key: "S2",
    refused_for_nobody: "S2",
    two_grants: "S3",
    an_epoch_twice: "S3",
    a_stranger_that_is_known: "S3",
    a_fenced_checkpoint: "S4",
    a_fenced_settle: "S4",
    a_holder_that_is_fenced: "S4",
    a_child_of_nobody: "S4",
    an_outcome_overwritten: "S5",
    a_conflict_with_nothing: "S5",
    a_replay_without_its_record: "S6",
    a_claim_after_the_end: "S7",
    another_status_than_the_verdict: "S7",
    a_cancel_that_the_holder_does_not_hear: "S12",
    a_cancel_that_is_refused: "S12",
    a_lead_that_another_has: "LEAD",
    a_term_twice: "LEAD",
    a_vacancy_that_is_none: "LEAD",
    an_old_leader_that_prunes: "LEAD",
    a_leader_that_may_not_prune: "LEAD",
    crashes_uncounted: "S14",
    an_attempt_uncounted: "S14",
    a_rescue_that_forgets: "S15",
    a_worker_that_holds_more: "S15",
    a_retirement_that_keeps_a_run: "S15",
    a_delay_cut_short: "TIMER",
    a_suspension_cut_short: "TIMER",
    a_rescue_within_the_lease: "LEASE",
    a_paused_run_is_claimed: "S12",
    a_pause_that_the_holder_does_not_hear: "S12",
    a_pause_shorter_than_it_was: "TIMER",
    a_failure_that_forgets_its_pause: "S7",
    a_cancel_that_undoes_nothing: "S7",
    a_restart_that_keeps_what_it_was_to_repeat: "S6",
    a_restart_in_the_same_generation: "S14",
    a_restart_behind_a_cancel: "S12",
    a_fork_without_its_record: "S6",
    an_event_that_is_not_taken: "S10",
    an_event_of_before_the_run: "S10",
    an_event_at_its_deadline_is_late: "S10",
    a_deadline_that_moves: "S10",
    an_event_that_starts_nobody: "S10",
    an_event_that_a_living_run_refuses: "S10",
    more_at_work_than_there_are_slots: "S14",
    more_starts_than_the_rate: "S14",
    a_paused_queue_that_gives: "S14",
    an_instant_fired_twice: "S11",
    an_instant_left_out: "S11",
    an_instant_fired_early: "TIMER",
}


@pytest.mark.parametrize("story", BROKEN, ids=lambda story: story.__name__)
def test_a_broken_promise_is_named(story: Callable[[Scribe], None]):
    """The last step of the story breaks the promise, and nothing before it does."""
    scribe = Scribe()
    story(scribe)
    assert scribe.letters[:1] == [BROKEN[story]]
