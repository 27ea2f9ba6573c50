"""The shadow ledger: what a store that keeps its promises would answer, in few words of its own.

It is fed at the store's boundary with every transition in the order in which it took effect and
with the answer that was given, and it knows nothing of the package's state machine. The letters
are those of the invariants: S1 accepted work present, S2 one run a key, S3 one live grant and
rising epochs, S4 only the latest grant writes, S5 one outcome an identity, S6 a replay gets what
was committed, S7 one terminal record, S12 what an operator asked for is kept, S14 attempts, crashes
and limits, S15 nothing without its owner, TIMER nothing before its due time, LEASE nobody living is
rescued, L2 the dead are in time, LEAD one worker leads at most, each term once, and an old one is
refused. Events (S10), schedules (S11) and queues (S14) have books of their own beside this one:
:mod:`tests.simulation.books`; generations have :mod:`tests.simulation.again`.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from perdure.model.events import GiveUpEvent, Listen, Publish, SendEvent, TakeEvent
from perdure.model.leader import Leading, LeaveLead, NotLeading, TakeLead
from perdure.model.queues import PauseQueue, PutQueue, ResumeQueue
from perdure.model.records import (
    Checkpoint,
    Control,
    History,
    Micros,
    RunRecord,
    Status,
    StepKey,
    StepKind,
    StepOutcome,
    Undoing,
    WaitKind,
)
from perdure.model.retention import Prune, Pruned, PutRetentions
from perdure.model.schedules import FireSchedule, PutSchedule, RemoveSchedule
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
    GiveBack,
    Heartbeat,
    Mismatched,
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
    Retrying,
    RetryRun,
    SaveCheckpoint,
    Saved,
    Settle,
    Settled,
    Suspended,
    Transition,
    Undone,
)
from tests.simulation import again
from tests.simulation.books import EventBook, QueueBook, ScheduleBook
from tests.simulation.entries import ENDED, PENDING, Entry, Generation, Member, Place, Token
from tests.simulation.tokens import TOKEN, name_of

Fail = Callable[[str, str], None]
"""Reports a broken promise: its letter, and what was seen."""


class Ledger:
    """Checks every answer of the store against its own account.

    Args:
        fail: told of every broken promise.
        lease: in microseconds.
    """

    def __init__(self, fail: Fail, lease: Micros) -> None:
        self.fail = fail
        self.runs: dict[str, Entry] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.workers: dict[str, Member] = {}
        self.rescued: Callable[[str, Micros], None] = lambda worker_id, at: None
        self._lease = lease
        self._now: Micros = 0
        self._term = 0
        self._leads = ""  # which worker; for as long as it is registered
        self._seen_at: dict[str, Micros] = {}
        self.events = EventBook(self)
        self.queues = QueueBook(self)
        self.schedules = ScheduleBook(self)
        self._table: dict[type, Callable] = {
            SaveCheckpoint: self._save,
            Settle: self._settle,
            Claim: self._claim,
            CreateRun: self.create,
            Heartbeat: self._heartbeat,
            RegisterWorker: self._register,
            RescueWorker: self._rescue,
            RetireWorker: self._retire,
            GiveBack: self._give_back,
            CancelRun: self._cancel,
            RetryRun: self._retry,
            PauseRun: self._pause,
            ResumeRun: self._resume,
            RestartRun: self._restart,
            ForkRun: self._fork,
            Listen: self.events.listen,
            Publish: self.events.publish,
            SendEvent: self.events.send,
            TakeEvent: self.events.take,
            GiveUpEvent: self.events.give_up,
            PutQueue: self.queues.put,
            PauseQueue: self.queues.pause,
            ResumeQueue: self.queues.resume,
            PutSchedule: self.schedules.put,
            RemoveSchedule: self.schedules.remove,
            FireSchedule: self.schedules.fire,
            PutRetentions: lambda asked, answer: None,
            Prune: self._prune,
            TakeLead: self._take_lead,
            LeaveLead: self._leave_lead,
        }

    def feed(self, batch: Sequence[Transition], outcomes: Sequence[Outcome], now: Micros) -> None:
        """Take in one applied batch; its claim took effect last."""
        self._now = now
        if len(batch) != len(outcomes):
            self.fail("S4", f"{len(batch)} transitions, {len(outcomes)} answers")
        pairs = list(zip(batch, outcomes, strict=False))
        claims = [pair for pair in pairs if type(pair[0]) is Claim]
        for transition, outcome in (*(p for p in pairs if type(p[0]) is not Claim), *claims):
            self._table[type(transition)](transition, outcome)

    # --- the leader ------------------------------------------------------------------------------

    def _lead(self) -> tuple[str | None, int]:
        """Return who leads, and in which term, the last one where nobody does."""
        return self._leads if self._leads in self.workers else None, self._term

    def _take_lead(self, asked: TakeLead, answer: Leading) -> None:
        leader, term = self._lead()
        if leader is None and asked.term == term + 1 and asked.worker_id in self.workers:
            self._leads, self._term = asked.worker_id, asked.term
        self._check_leader(answer)

    def _leave_lead(self, asked: LeaveLead, answer: Leading) -> None:
        if self._lead() == (asked.lead.worker_id, asked.lead.term):
            self._leads = ""
        self._check_leader(answer)

    def _check_leader(self, answer: Leading | NotLeading) -> None:
        told = answer.record.worker_id, answer.record.term
        if told != self._lead():
            self.fail("LEAD", f"{told} was told to lead, and it is {self._lead()}")

    def _prune(self, asked: Prune, answer: Pruned | NotLeading) -> None:
        """Nothing here becomes as old as what is pruned."""
        leads = asked.lead is None or (asked.lead.worker_id, asked.lead.term) == self._lead()
        if leads == isinstance(answer, NotLeading):
            self.fail("LEAD", f"{asked.lead} was answered {answer}, and it is {self._lead()}")
        if isinstance(answer, NotLeading):
            self._check_leader(answer)
        elif answer.runs or answer.events:
            self.fail("S1", f"{answer.runs} runs and {answer.events} events were pruned too early")

    def puts_back(self, batch: Sequence[Transition]) -> bool:
        """Tell whether a batch, applied once more, would put the tries of a step back.

        Stores do that where the recorded try is of the same claim; see tests/simulation/test_found.
        """
        for save in batch:
            if isinstance(save, SaveCheckpoint) and save.outcome is PENDING:
                recorded = self.runs[save.grant.run_id].steps.get(save.key)
                is_open = recorded is not None and recorded.outcome is PENDING
                if is_open and recorded.tries != save.tries and self.is_current(save.grant):
                    return True
        return False

    @property
    def now(self) -> Micros:
        """The store's time of what is taken in."""
        return self._now

    def alias(self, run_id: str) -> str:
        """Return a short name of a run, for traces."""
        entry = self.runs.get(run_id)
        return run_id if entry is None else entry.alias

    # --- runs ------------------------------------------------------------------------------------

    def create(self, create: CreateRun, outcome: Outcome) -> None:
        """A run was asked for, by a call or by what else starts runs."""
        entry = self.runs.get(create.run_id)
        match outcome:
            case Created() if entry is not None:
                if entry.create.token != create.token:
                    self.fail("S2", f"{entry.alias} was created by two creates")
            case Created():
                self._created(create)
            case Exists():
                other = self.runs.get(outcome.run_id)
                if other is None:
                    self.fail("S1", f"{outcome.run_id} exists for the store alone")
                elif other.create.run_id != create.run_id:
                    key = (other.create.definition, other.create.unique_key)
                    same_key = key == (create.definition, create.unique_key) and key[1] is not None
                    if not same_key or other.status in ENDED:
                        self.fail("S2", f"{create.run_id} was refused for {other.alias}")
            case Fenced():
                if create.by is not None and self.is_current(create.by):
                    self.fail("S4", f"a child of {create.by.run_id} was fenced from its holder")

    def _created(self, create: CreateRun) -> None:
        if create.by is not None and not self.is_current(create.by):
            self.fail("S4", f"{create.run_id} was created under a grant that is not current")
        if create.unique_key is not None:
            key = (create.definition, create.unique_key)
            other = self.runs.get(self.keys.get(key, ""))
            if other is not None and other.status not in ENDED:
                self.fail("S2", f"{create.run_id} and {other.alias} live under one unique_key")
            self.keys[key] = create.run_id
        alias = create.run_id if len(create.run_id) < 36 else create.caused_by or create.run_id
        if create.parent_id is not None:
            parent = self.runs[create.parent_id]
            siblings = sum(e.create.parent_id == create.parent_id for e in self.runs.values())
            alias = f"{parent.alias}.{siblings}"
        entry = Entry(create, alias, self._now)
        if create.delay:
            entry.status = Status.WAITING
            entry.due_at = self._now + create.delay
        self.runs[create.run_id] = entry

    def _claim(self, claim: Claim, answer: Claimed) -> None:
        member = self.workers.get(claim.worker_id)
        if answer.known != (member is not None):
            self.fail("S15", f"a claim was answered known={answer.known} wrongly")
        leader, term = self._lead()
        if member is not None and answer.vacant_term != (None if leader else term + 1):
            self.fail("LEAD", f"a claim was told {answer.vacant_term}, and it is {leader}, {term}")
        fresh = 0
        for claimed in answer.runs:
            entry = self.runs.get(claimed.run.run_id)
            if entry is None:
                self.fail("S1", f"{claimed.run.run_id} was given and never created")
                continue
            again = entry.is_live and (entry.token, entry.worker) == (claim.token, claim.worker_id)
            if not again:
                fresh += 1
                self._grant(entry, claimed.run, claim)
            elif claimed.run.epoch != entry.epoch:
                self.fail("S3", f"{entry.alias}: the same claim was given another epoch")
            self._check_given(entry, claimed)
        if fresh > claim.limit:
            self.fail("S14", f"{fresh} runs were given to a claim of {claim.limit}")
        suspects = [given for given in answer.runs if given.run.crashes >= 2]
        if suspects and (len(answer.runs) > 1 or not claim.suspects):
            self.fail(
                "S14", f"{self.alias(suspects[0].run.run_id)}, a suspect, was not given alone"
            )

    def _grant(self, entry: Entry, run: RunRecord, claim: Claim) -> None:
        if entry.is_live:
            self.fail("S3", f"{entry.alias} has two live grants: epochs {entry.epoch}, {run.epoch}")
        if entry.status in ENDED:
            self.fail("S7", f"{entry.alias} was claimed after it was {entry.status}")
        if entry.status is Status.PAUSED and entry.paused_at is not None:
            self.fail("S12", f"{entry.alias} was claimed while it is paused")
        if run.epoch <= entry.epoch:
            self.fail("S3", f"{entry.alias}: epoch {run.epoch} was given after {entry.epoch}")
        if run.grant != claim.token or not claim.token:
            self.fail("S3", f"{entry.alias} was given under a token that the claim did not bring")
        if entry.status is Status.WAITING and not self._is_woken(entry):
            self.fail("TIMER", f"{entry.alias} was given before its time: {entry.due_at}")
        entry.status = Status.RUNNING
        entry.epoch = run.epoch
        entry.token = run.grant
        entry.worker = claim.worker_id
        entry.progressed = False
        entry.due_at = None
        self.queues.check_grant(entry)
        entry.started_at = entry.started_at or self._now
        entry.grants[run.epoch] = claim.worker_id
        entry.generation_of[run.epoch] = entry.generation
        member = self.workers.get(claim.worker_id)
        if member is None:
            self.fail("S15", f"{entry.alias} was given to a worker that is not registered")
        else:
            member.held.add(entry.create.run_id)

    def _is_woken(self, entry: Entry) -> bool:
        if entry.due_at is not None and entry.due_at <= self._now:
            return True
        joins: dict[int, bool] = {}
        for wait in entry.waits:
            if wait.kind is WaitKind.CHILD:
                child = self.runs.get(wait.key)
                over = child is not None and bool(child.endings)
                joins[wait.join] = joins.get(wait.join, True) and over
            elif wait.kind is WaitKind.EVENT and self.events.has_come(entry, wait):
                return True
        return any(joins.values())

    def _check_given(self, entry: Entry, claimed: ClaimedRun) -> None:
        """What a worker is given must be what was committed: numbers, checkpoints, endings."""
        run = claimed.run
        for name, ours, theirs in (
            ("crashes", entry.crashes, run.crashes),
            ("attempt", entry.attempt, run.attempt),
            ("generation", entry.generation, run.generation),
            ("undoing", entry.undoing, run.undoing),
        ):
            if ours != theirs:
                self.fail("S14", f"{entry.alias} was given with {name} {theirs}, it is {ours}")
        self._check_steps(entry, claimed.checkpoints, entry.present)
        for ending in claimed.endings:
            child = self.runs[ending.run_id]
            seen = (ending.status, ending.result, ending.reason)
            if child.status not in ENDED or child.endings[-1] != seen:
                self.fail("S6", f"{entry.alias} was told that {child.alias} ended {ending.status}")

    def _check_steps(
        self, entry: Entry, given: Iterable[Checkpoint], generation: Generation
    ) -> None:
        ours, theirs = list(generation.steps.values()), list(given)
        if ours != theirs:
            seen = [_tell(record) for record in theirs]
            kept = [_tell(record) for record in ours]
            self.fail("S6", f"{entry.alias}: committed was {kept}, given was {seen}")

    # --- what operators ask ----------------------------------------------------------------------

    def _new(self, asked, outcome: Outcome) -> Entry | None:
        """Return the run of an operator's request that was accepted just now; None for no other."""
        entry = self.runs.get(asked.run_id)
        if isinstance(outcome, Missing) and entry is not None:
            self.fail("S1", f"{entry.alias} was not found by {asked}")
        if not isinstance(outcome, Controlled) or entry is None:
            return None
        if asked.request_id in entry.requests:
            return None
        entry.requests.add(asked.request_id)
        return entry

    def _cancel(self, cancel: CancelRun, outcome: Outcome) -> None:
        known = self.runs.get(cancel.run_id)
        if isinstance(outcome, Refused) and known is not None and known.status not in ENDED:
            self.fail("S12", f"a cancel of {known.alias} was refused: {known.status}")
        entry = self._new(cancel, outcome)
        if entry is None:
            return
        if entry.undoing is Undoing.NONE:
            if entry.word is not Control.COMPENSATE:
                entry.word = Control.COMPENSATE if cancel.compensate else Control.CANCEL
            if not entry.is_live:
                self._cancelled(entry)
        entry.ready = None
        self._expect(entry, outcome.status)

    def _cancelled(self, entry: Entry) -> None:
        """A cancel takes effect."""
        compensates = entry.word is Control.COMPENSATE
        if entry.epoch and entry.undoing is Undoing.NONE and (entry.cleans or compensates):
            entry.undoing = Undoing.COMPENSATE if compensates else Undoing.CANCEL
            self._begin_to_undo(entry)
        else:
            self._end(entry, Status.CANCELLED, None, None)

    def _begin_to_undo(self, entry: Entry) -> None:
        entry.status = Status.QUEUED
        entry.word = Control.NONE
        entry.waits = ()
        entry.due_at = entry.paused_at = None

    def _pause(self, pause: PauseRun, outcome: Outcome) -> None:
        entry = self._new(pause, outcome)
        if entry is None:
            return
        if entry.status in ENDED:
            self.fail("S7", f"{entry.alias} was paused while {entry.status}")
        elif not entry.is_live:
            self._paused(entry)
        elif entry.word is Control.NONE:
            entry.word = Control.PAUSE
        self._expect(entry, outcome.status)

    def _paused(self, entry: Entry) -> None:
        if entry.status is not Status.PAUSED:
            entry.waited = entry.status is Status.WAITING
            entry.status = Status.PAUSED
            entry.paused_at = self._now
        entry.word = Control.NONE

    def _resume(self, resume: ResumeRun, outcome: Outcome) -> None:
        entry = self._new(resume, outcome)
        if entry is None:
            return
        if entry.is_live:
            if entry.word is not Control.PAUSE:
                self.fail("S12", f"{entry.alias} was resumed, its word was {entry.word!r}")
            entry.word = Control.NONE
        elif entry.paused_at is None:
            self.fail("S12", f"{entry.alias} was resumed while {entry.status}")
        else:
            again.shift(entry, self._now - entry.paused_at)
            entry.status = Status.WAITING if entry.waited else Status.QUEUED
            entry.paused_at = None
        self._expect(entry, outcome.status)

    def _retry(self, retry: RetryRun, outcome: Outcome) -> None:
        entry = self._new(retry, outcome)
        if entry is None:
            return
        undone = entry.undoing is not Undoing.NONE
        may = entry.endings[-1][2] in ("compensation", "crash") if undone else True
        if entry.status not in (Status.FAILED, Status.CANCELLED) or not may:
            self.fail("S7", f"{entry.alias} was retried while {entry.status}, {entry.undoing!r}")
        entry.attempt += 1
        entry.crashes = 0
        entry.status = Status.QUEUED
        self._reopen(entry, entry.culprits)
        entry.culprits = ()
        self._take_key(entry)

    def _take_key(self, entry: Entry) -> None:
        if entry.create.unique_key is not None:
            self.keys[entry.create.definition, entry.create.unique_key] = entry.create.run_id

    def _restart(self, restart: RestartRun, outcome: Outcome) -> None:
        entry = self._new(restart, outcome)
        if entry is None:
            return
        if entry.word in (Control.CANCEL, Control.COMPENSATE):
            self.fail("S12", f"{entry.alias} was restarted though its cancel was accepted")
        if restart.from_step is not None and restart.from_step not in entry.steps:
            self.fail("S6", f"{entry.alias} was restarted from what is not recorded")
        entry.ready = again.continued(entry, restart.from_step)
        if entry.is_live:
            entry.word = Control.RESTART
        else:
            self._take_key(entry)
            self._begin_again(entry)
        self._expect(entry, outcome.status)

    def _begin_again(self, entry: Entry) -> None:
        """A restart takes effect."""
        if entry.epoch:
            entry.generations.append(entry.ready or Generation())
            entry.started_at = None
        entry.ready = None
        entry.attempt = 1
        entry.crashes = 0
        entry.status = Status.QUEUED
        entry.undoing = Undoing.NONE
        entry.word = Control.NONE
        entry.cleans = False
        entry.due_at = entry.paused_at = entry.error = None
        entry.waits = ()
        entry.culprits = ()

    def _fork(self, fork: ForkRun, outcome: Outcome) -> None:
        is_new = fork.create.run_id not in self.runs
        self.create(fork.create, outcome)
        if not is_new or not isinstance(outcome, Created):
            return
        source, entry = self.runs[fork.source], self.runs[fork.create.run_id]
        if fork.generation > source.generation:
            self.fail("S6", f"{source.alias} has no generation {fork.generation} to be forked")
        entry.generations = [again.forked(source, fork)]
        entry.numbers = set(source.numbers)

    # --- what holders write ----------------------------------------------------------------------

    def is_current(self, grant) -> bool:
        """Tell whether a grant may write."""
        entry = self.runs.get(grant.run_id)
        return entry is not None and entry.is_live and matches(entry, grant)

    def _save(self, save: SaveCheckpoint, outcome: Outcome) -> None:
        entry = self.runs[save.grant.run_id]
        recorded = entry.steps.get(save.key)
        match outcome:
            case Fenced() if self.is_current(save.grant):
                self.fail("S4", f"{entry.alias}: the holder was fenced at {save.key.path}")
            case Conflict():
                if recorded is None or recorded.outcome is PENDING:
                    self.fail("S5", f"{entry.alias}: conflict at {save.key.path} with nothing")
            case Saved() if not matches(entry, save.grant):
                self.fail("S4", f"{entry.alias}: {save.key.path} was written by a fenced holder")
            case Saved():
                self._saved(entry, save, outcome, recorded)

    def _saved(
        self, entry: Entry, save: SaveCheckpoint, saved: Saved, recorded: Checkpoint | None
    ) -> None:
        ours = recorded is not None and recorded.epoch == save.grant.epoch
        final = recorded is not None and recorded.outcome is not PENDING
        is_again = save.outcome is PENDING and recorded is not None and save.tries == recorded.tries
        if recorded is not None and ours and (final or is_again or not entry.is_live):
            return  # the same again: nothing may change, and the next reader will tell
        if not entry.is_live:
            self.fail("S7", f"{entry.alias}: {save.key.path} was written after {entry.status}")
        if final:
            self.fail("S5", f"{entry.alias}: {save.key.path} was accepted a second time")
            return
        if saved.control is not entry.word:
            self.fail("S12", f"{entry.alias}: the holder heard {saved.control!r}")
        due_at = None if save.delay is None else self._now + save.delay
        if saved.due_at != due_at:
            self.fail("TIMER", f"{entry.alias}: {save.key.path} is due at {saved.due_at}")
        if save.tries not in _next_tries(save, recorded):
            self.fail("S14", f"{entry.alias}: {save.key.path} jumped to try {save.tries}")
        entry.progressed = True
        entry.steps[save.key] = _checkpoint(save, due_at, entry.generation)
        if save.outcome is StepOutcome.CANCELLED:
            entry.given_up.add(save.key.path.rpartition("/")[2])
        self._note_token(entry, save)

    def _note_token(self, entry: Entry, save: SaveCheckpoint) -> None:
        found = _token(save)
        if found is None:
            return
        at = self._now
        token = Token(save.outcome, found[2], int(found[3]), save.grant.epoch, at)
        place = entry.places.setdefault(found[1].decode(), Place())
        entry.present.place_of[save.key] = found[1].decode()
        place.numbers.add(token.number)
        entry.numbers.add(token.number)
        if place.final is not None:
            self.fail("S5", f"{entry.alias}: {found[1].decode()} has two outcomes")
        if save.outcome is PENDING:
            place.failures = [*place.failures, token] if save.tries else []
            place.passed = None if save.tries else token
            place.epochs.append(token.epoch)
        else:
            place.final = token

    def _reopen(self, entry: Entry, culprits: Iterable[StepKey]) -> None:
        for key in culprits:
            record = entry.steps.get(key)
            if record is None or record.outcome in (StepOutcome.OK, PENDING):
                continue
            entry.steps[key] = _reopened(record, self._now)
            place = entry.places.get(entry.present.place_of.get(key, ""))
            if place is not None:
                if place.final is not None:
                    place.epochs.append(place.final.epoch)
                place.final = None
                place.failures.clear()

    def _settle(self, settle: Settle, outcome: Outcome) -> None:
        entry = self.runs[settle.grant.run_id]
        if isinstance(outcome, Fenced):
            if self.is_current(settle.grant):
                self.fail("S4", f"{entry.alias}: its holder could not settle")
            return
        assert isinstance(outcome, Settled), outcome
        if not matches(entry, settle.grant):
            self.fail("S4", f"{entry.alias} was settled by a fenced holder: {settle.verdict}")
        elif entry.is_live:
            is_kept = entry.word in (Control.NONE, Control.PAUSE)  # the verdict
            self._ungrant(entry, type(settle.verdict).__name__ if is_kept else entry.word)
            entry.crashes = 0
            entry.cleans = settle.cleans
            match entry.word:
                case Control.CANCEL | Control.COMPENSATE:
                    self._cancelled(entry)
                case Control.RESTART:
                    self._begin_again(entry)
                case Control.PAUSE:
                    self._judge(entry, settle.verdict)
                    if entry.status not in ENDED:
                        self._paused(entry)
                case _:
                    self._judge(entry, settle.verdict)
            self._expect(entry, outcome.status)
        else:
            self._expect(entry, outcome.status)

    def _judge(self, entry: Entry, verdict) -> None:  # noqa: C901 -- a table
        entry.waits = ()
        match verdict:
            case Completed():
                still = [
                    r.key.path for r in entry.steps.values() if r.outcome is PENDING and r.tries
                ]
                if still:
                    self.fail("S7", f"{entry.alias} is completed with {still} pending")
                reason = "declined" if verdict.declined else None
                entry.cleans = False
                self._end(entry, Status.COMPLETED, verdict.result, reason)
            case Failed(compensates=True) if entry.undoing is Undoing.NONE:
                word = entry.word
                entry.undoing = Undoing.FAILURE
                entry.error = verdict.reason
                self._begin_to_undo(entry)
                entry.word = word
            case Failed():
                self._end(entry, Status.FAILED, None, verdict.reason)
                entry.culprits = verdict.culprits
            case Undone(culprits=culprits) if culprits:
                self._end(entry, Status.FAILED, None, "compensation")
                entry.culprits = culprits
            case Undone() if entry.undoing is Undoing.FAILURE:
                self._end(entry, Status.FAILED, None, entry.error)
            case Retrying():
                entry.attempt += 1
                entry.status = Status.WAITING
                entry.due_at = self._now + verdict.delay
                self._reopen(entry, verdict.culprits)
            case Suspended():
                dues = [wait.due_at for wait in verdict.waits if wait.due_at is not None]
                entry.status = Status.WAITING
                entry.due_at = min(dues, default=None)
                entry.waits = verdict.waits
            case Released():
                entry.status = Status.QUEUED
            case Mismatched():
                entry.status = Status.PAUSED
            case _:  # undone, or cancelled by its worker
                self._end(entry, Status.CANCELLED, None, None)

    def _end(self, entry: Entry, status: Status, result: bytes | None, reason: str | None) -> None:
        if entry.status in ENDED:
            self.fail("S7", f"{entry.alias} was {entry.status} and is {status} now")
        entry.status = status
        entry.word = Control.NONE
        entry.due_at = entry.paused_at = None
        entry.waits = ()
        entry.culprits = ()
        entry.endings.append((status, result, reason))

    def _expect(self, entry: Entry, told: Status) -> None:
        """Compare a status with ours; what waits is queued as soon as anybody finds it due."""
        ours = Status.WAITING if entry.status is Status.QUEUED else entry.status
        theirs = Status.WAITING if told is Status.QUEUED else told
        if ours != theirs:
            self.fail("S7", f"{entry.alias} is {entry.status}, the store says {told}")

    # --- workers ---------------------------------------------------------------------------------

    def _register(self, register: RegisterWorker, outcome: Beaten) -> None:
        if register.worker_id not in self.workers:
            # One that is registered again, by a call that was long under way, is no younger.
            since = self._seen_at.setdefault(register.worker_id, self._now)
            self.workers[register.worker_id] = Member(
                0, since, register.slots, register.cleans, self._now
            )

    def _heartbeat(self, heartbeat: Heartbeat, outcome: Beaten) -> None:
        member = self.workers.get(heartbeat.worker_id)
        if outcome.known != (member is not None):
            self.fail("S3", f"a worker that is {'' if member else 'not '}known was told otherwise")
        if member is not None:
            member.beat += 1
            member.beat_at = self._seen_at[heartbeat.worker_id] = self._now
            if outcome.held != len(member.held):
                self.fail("S15", f"a worker holds {len(member.held)} runs, not {outcome.held}")

    def _rescue(self, rescue: RescueWorker, outcome: Rescued) -> None:
        member = self.workers.get(rescue.worker_id)
        if member is None or rescue.beat not in (None, member.beat):
            self._expect_back(outcome, set(), set())
            return
        if rescue.beat is not None and self._now - member.beat_at < self._lease:
            self.fail("LEASE", "a worker was rescued before its lease was over")
        queued, ended = set(), set()
        for run_id in sorted(member.held):
            entry = self.runs[run_id]
            self._ungrant(entry, "rescued")
            entry.crashes = 0 if entry.progressed else entry.crashes + 1
            cap = entry.word in (Control.NONE, Control.PAUSE) and entry.crashes >= rescue.crash_cap
            self._given_back(entry, member)
            if cap:
                self._end(entry, Status.FAILED, None, "crash")
            (ended if entry.status in ENDED else queued).add(run_id)
        self._expect_back(outcome, queued, ended)
        del self.workers[rescue.worker_id]
        self.rescued(rescue.worker_id, self._now)

    def _retire(self, retire: RetireWorker, outcome: Rescued) -> None:
        member = self.workers.get(retire.worker_id)
        if member is None:
            self._expect_back(outcome, set(), set())
            return
        self._take_back(outcome, member, member.held)
        del self.workers[retire.worker_id]

    def _give_back(self, give_back: GiveBack, outcome: Rescued) -> None:
        member = self.workers.get(give_back.worker_id)
        if member is None:
            self._expect_back(outcome, set(), set())
            return
        known = set(give_back.held)
        unknown = {r for r in member.held if (r, self.runs[r].epoch) not in known}
        self._take_back(outcome, member, unknown)

    def _take_back(self, outcome: Rescued, member: Member, run_ids: Iterable[str]) -> None:
        queued, ended = set(), set()
        for run_id in sorted(run_ids):
            entry = self.runs[run_id]
            self._ungrant(entry, "taken back")
            self._given_back(entry, member)
            (ended if entry.status in ENDED else queued).add(run_id)
        self._expect_back(outcome, queued, ended)

    def _given_back(self, entry: Entry, member: Member) -> None:
        """A run was taken from whoever held it: nobody settled it."""
        entry.token = 0
        entry.cleans = entry.create.definition in member.cleans
        match entry.word:
            case Control.CANCEL | Control.COMPENSATE:
                self._cancelled(entry)
            case Control.RESTART:
                self._begin_again(entry)
            case word:
                entry.status = Status.QUEUED
                entry.due_at = None
                if word is Control.PAUSE:
                    self._paused(entry)

    def _expect_back(self, outcome: Rescued, queued: set[str], ended: set[str]) -> None:
        if (set(outcome.queued), set(outcome.ended)) != (queued, ended):
            self.fail("S15", f"given back were {outcome}, not {sorted(queued)}, {sorted(ended)}")

    def _ungrant(self, entry: Entry, how: str) -> None:
        entry.ends[entry.epoch] = how
        member = self.workers.get(entry.worker)
        if member is not None:
            member.held.discard(entry.create.run_id)

    # --- at rest ---------------------------------------------------------------------------------

    def check_history(self, run_id: str, history: History | None) -> None:
        """Compare everything that the store kept of a run with what was accepted."""
        entry = self.runs[run_id]
        if history is None:
            self.fail("S1", f"{entry.alias} is gone")
            return
        run = history.run
        ours = (entry.status, entry.epoch, entry.generation, entry.attempt, entry.crashes)
        theirs = (run.status, run.epoch, run.generation, run.attempt, run.crashes)
        if ours != theirs:
            self.fail("S14", f"{entry.alias} should be {ours}, the store has {theirs}")
        if entry.status in ENDED:
            kept = (run.status, run.result, run.reason)
            if entry.endings[-1] != kept:
                self.fail("S7", f"{entry.alias} ended {entry.endings[-1]}, kept is {kept}")
            if history.waits or run.control or run.due_at is not None:
                self.fail("S15", f"{entry.alias} is {run.status} and still waits")
        for number, generation in enumerate(entry.generations):
            kept = [record for record in history.checkpoints if record.generation == number]
            self._check_steps(entry, kept, generation)


def _token(record: SaveCheckpoint) -> re.Match[bytes] | None:
    """Return the token of a step's value or error; an inlined body's holds those of its steps."""
    found = TOKEN.search(record.value or b"")
    if found is None or name_of(found[1].decode()) != record.key.path.rpartition("/")[2]:
        return None
    return found


def _next_tries(save: SaveCheckpoint, recorded: Checkpoint | None) -> tuple[int, ...]:
    """Return which try a checkpoint may be of, after what is recorded."""
    before = 0 if recorded is None else recorded.tries
    if save.kind is StepKind.SLEEP:  # begun and over in one try
        return (1,)
    match save.outcome:
        case StepOutcome.CANCELLED:  # given up while it was tried, or in between
            return before, before + 1
        case StepOutcome.PENDING:  # 0: a step inside a step, which will be asked anew
            return 0, before + 1
        case _:
            return (before + 1,)


def matches(entry: Entry, grant) -> bool:
    """Tell whether the grant is the newest and was not taken back."""
    return (grant.epoch, grant.token) == (entry.epoch, entry.token)


def _checkpoint(save: SaveCheckpoint, due_at: Micros | None, generation: int) -> Checkpoint:
    return Checkpoint(
        key=save.key,
        position=save.position,
        kind=save.kind,
        outcome=save.outcome,
        value=save.value,
        tries=save.tries,
        log=save.log,
        due_at=due_at,
        started_at=save.started_at,
        ended_at=save.ended_at,
        site=save.site,
        text=save.text,
        epoch=save.grant.epoch,
        generation=generation,
    )


def _reopened(record: Checkpoint, now: Micros) -> Checkpoint:
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return Checkpoint(**{**fields, "outcome": PENDING, "tries": 0, "due_at": now})


def _tell(record: Checkpoint) -> str:
    return f"{record.key.path}#{record.key.k} {record.outcome} {record.value!r} try {record.tries}"
