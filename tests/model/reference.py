"""A second opinion on the contract: few words, no indexes, everything found by looking at all.

Written from the docstrings of the transitions and not from the package's state machine, so that
a mistake there is not repeated here.
"""

import dataclasses
from dataclasses import dataclass, field

from msgspec.structs import replace

from perdure.model.keys import Debounce, Replace, Throttle
from perdure.model.records import (
    Control,
    Grant,
    Rank,
    Status,
    StepKey,
    StepOutcome,
    Undoing,
    Wait,
    WaitKind,
)
from perdure.model.transitions import (
    Beaten,
    CancelledByWorker,
    CancelRun,
    Claim,
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
    Verdict,
)
from tests.model.beside import Hearing, Lanes, Timetable

ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


@dataclass
class Step:
    outcome: StepOutcome
    tries: int
    due_at: int | None
    epoch: int
    value: bytes = field(default=b"", compare=False)  # of a wait for an event
    ended_at: int = field(default=0, compare=False)


Steps = dict[StepKey, Step]
ORIGIN = StepKey(b"", "", b"perdure.origin\0", 0)


@dataclass
class Run:
    create: CreateRun
    status: Status
    due_at: int | None
    rank: Rank = Rank.FRESH
    epoch: int = 0
    token: int = 0
    worker: str | None = None
    attempt: int = 1
    crashes: int = 0
    word: Control = Control.NONE
    undoing: Undoing = Undoing.NONE
    cleans: bool = False
    generation: int = 0
    ready: Steps | None = None  # of the next generation
    taken: dict[str, StepKey] = field(default_factory=dict)  # event -> by which wait
    ready_taken: dict[str, StepKey] = field(default_factory=dict)
    paused_at: int | None = None
    waited: bool = False  # before it was paused by hand
    waits: tuple[Wait, ...] = ()
    coalesce: int = 0
    culprits: tuple[StepKey, ...] = ()
    misfits: tuple[str, ...] = ()
    reason: str | None = None
    steps: dict[StepKey, Step] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    attempts: list[str] = field(default_factory=list)
    input: bytes = b""
    created_at: int = 0
    passed_to: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def become(self, status: Status, reason: str | None = None) -> None:
        is_kept = self.undoing is Undoing.FAILURE and self.reason not in ("operator", "mismatch")
        if reason is None and is_kept and status not in ENDED:
            reason = self.reason  # with which it will have failed
        self.status = status
        self.reason = reason
        if status is Status.QUEUED:
            self.rank = Rank.RESUMED if self.epoch else Rank.FRESH
            self.rank = Rank.SUSPECT if self.crashes >= 2 else self.rank
        self.due_at = None
        if status in ENDED:
            self.waits = ()
            self.word = Control.NONE
            self.paused_at = None

    def cancelled(self) -> None:
        """A cancel takes effect: at once, or when what it has to undo is undone."""
        compensates = self.word is Control.COMPENSATE
        self.ready = None
        if self.epoch and self.undoing is Undoing.NONE and (self.cleans or compensates):
            self.begin_to_undo(Undoing.COMPENSATE if compensates else Undoing.CANCEL)
        else:
            self.become(Status.CANCELLED)

    def begin_to_undo(self, how: Undoing, reason: str | None = None) -> None:
        self.undoing = how
        self.word = Control.NONE
        self.waits = ()
        self.coalesce = 0
        self.paused_at = None
        self.misfits = ()
        self.become(Status.QUEUED, reason)

    def begin_again(self) -> None:
        """A restart takes effect."""
        if self.epoch:
            self.generation += 1
            self.steps, self.ready = self.ready or {}, None
            self.taken = self.ready_taken
        self.ready = None
        self.ready_taken = {}
        self.attempt, self.crashes = 1, 0
        self.undoing, self.word, self.cleans = Undoing.NONE, Control.NONE, False
        self.waits, self.culprits, self.misfits = (), (), ()
        self.coalesce, self.paused_at = 0, None
        self.become(Status.QUEUED)

    def kept(self, before: StepKey | None) -> Steps:
        """Return what a generation or a fork goes on from."""
        found: Steps = {}
        for key, step in self.steps.items():
            if key == before:
                break
            inside = before is not None and key.path.startswith(f"{before.path}/")
            if step.outcome == "pending" or inside:
                continue
            if step.outcome == "cancelled" and before is not None:
                stood = self.steps[before]
                if (step.epoch, step.ended_at) > (stood.epoch, stood.ended_at):
                    continue
            found[key] = step
        if ORIGIN not in found:
            found = {ORIGIN: Step(StepOutcome.OK, 1, None, 0), **found}
        return found

    def pause(self, now: int) -> None:
        if self.status is not Status.PAUSED:
            self.waited = self.status is Status.WAITING
        self.status = Status.PAUSED
        self.reason = "operator"
        self.word = Control.NONE
        self.paused_at = now

    def resume(self, now: int) -> None:
        shift = 0 if self.paused_at is None else now - self.paused_at
        self.paused_at = None
        self.misfits = ()
        self.waits = tuple(
            wait if wait.due_at is None else replace(wait, due_at=wait.due_at + shift)
            for wait in self.waits
        )
        for key, step in self.steps.items():
            if step.due_at is not None:
                self.steps[key] = dataclasses.replace(step, due_at=step.due_at + shift)
        due_at = self.due_at
        self.become(Status.WAITING if self.waited else Status.QUEUED)
        if self.waited and due_at is not None:
            self.due_at = due_at + shift

    def record(
        self, key: StepKey, outcome: StepOutcome, due_at: int | None, value: bytes, tries: int = 1
    ) -> None:
        """Record how a wait for an event stands; ``ended_at`` is 0 throughout the tests."""
        self.steps[key] = Step(outcome, tries, due_at, self.epoch, value)

    def reopen(self, culprits: tuple[StepKey, ...], now: int) -> None:
        for key in culprits:
            if key in self.steps and self.steps[key].outcome not in ("ok", "pending"):
                self.steps[key] = Step(StepOutcome.PENDING, 0, now, self.steps[key].epoch)


@dataclass
class GivenRun:
    """What a claim gives, as far as the model knows it."""

    run_id: str
    epoch: int
    steps: dict[StepKey, Step]
    endings: set[str]


@dataclass
class Given:
    runs: list[GivenRun]
    next_due_at: int | None
    suspects: bool
    known: bool


class Model(Hearing, Timetable, Lanes):
    """Runs in the order of creation, workers with their beat and definitions, and the time.

    What events, schedules and queues add to it stands in :mod:`tests.model.beside`.
    """

    def __init__(self, now: int) -> None:
        self.now = now
        self.runs: dict[str, Run] = {}
        self.workers: dict[str, int] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.cleans: dict[str, tuple[str, ...]] = {}
        self.windows: list[tuple[CreateRun, int]] = []
        self.absorbed: dict[tuple[str, int], str] = {}
        Hearing.__init__(self)
        Timetable.__init__(self)
        Lanes.__init__(self)

    def apply(self, batch: list[Transition]) -> list[object]:
        answers: dict[int, object] = {}
        claims = [n for n, transition in enumerate(batch) if isinstance(transition, Claim)]
        others = [n for n in range(len(batch)) if n not in claims]
        for n in others + claims:
            answers[n] = getattr(self, type(batch[n]).__name__)(batch[n])
            self.wake()
        return [answers[n] for n in range(len(batch))]

    def wake(self) -> None:
        for run in self.runs.values():
            joins = {wait.join for wait in run.waits if wait.kind is WaitKind.CHILD}
            children = {
                join: [
                    wait.key
                    for wait in run.waits
                    if wait.join == join and wait.kind is WaitKind.CHILD
                ]
                for join in joins
            }
            fulfilled = any(all(map(self.has_ended, named)) for named in children.values())
            if run.status is Status.WAITING and fulfilled:
                self.rouse(run)

    def rouse(self, run: Run) -> None:
        """A waiting run is woken, now or soon."""
        if run.coalesce:
            soon = self.now + run.coalesce
            run.due_at = soon if run.due_at is None else min(soon, run.due_at)
        else:
            run.become(Status.QUEUED)

    def has_ended(self, run_id: str) -> bool:
        return run_id in self.runs and self.runs[run_id].ended

    def holder(self, grant: Grant) -> Run | None:
        run = self.runs.get(grant.run_id)
        if run is None or (run.epoch, run.token) != (grant.epoch, grant.token):
            return None
        return run

    def held(self, worker_id: str) -> dict[str, Run]:
        return {
            run_id: run
            for run_id, run in self.runs.items()
            if run.status is Status.RUNNING and run.worker == worker_id
        }

    def key_is_taken(self, create: CreateRun) -> str | None:
        for run_id, run in self.runs.items():
            same = (run.create.definition, run.create.unique_key)
            holds = not run.ended and run.passed_to is None
            if holds and same == (create.definition, create.unique_key):
                return run_id
        return None

    def window_of(self, create: CreateRun) -> str | None:
        for opener, until in reversed(self.windows):
            same = (opener.definition, opener.unique_key)
            if same == (create.definition, create.unique_key):
                return opener.run_id if until > self.now else None
        return None

    def meet_holder(self, create: CreateRun, holder_id: str) -> str | None:
        """Do what the create's rule says; return the run that is its answer."""
        holder = self.runs[holder_id]
        match create.key_rule:
            case Replace():
                holder.passed_to = create.run_id
                holder.requests.append(f"create {create.run_id}")
                self.ask_to_cancel(holder, compensate=False)
                return None
            case Debounce(max_wait=max_wait):
                if holder.epoch:
                    holder.passed_to = create.run_id
                    return None
                holder.input = create.input
                since = self.now if holder.paused_at is None else holder.paused_at
                if holder.due_at is not None and holder.due_at > since:
                    holder.due_at = since + create.delay
                    if max_wait is not None:
                        holder.due_at = min(holder.due_at, holder.created_at + max_wait)
                self.absorbed[create.run_id, create.token] = holder_id
                return holder_id
            case _:
                return holder_id

    # --- one method a transition, by its name ------------------------------------------------

    def CreateRun(self, create: CreateRun) -> object:  # noqa: N802
        known = self.runs.get(create.run_id)
        if known is not None and known.create.token == create.token:
            return Created(create.run_id)
        is_debounced = create.unique_key is not None and isinstance(create.key_rule, Debounce)
        if is_debounced and (create.run_id, create.token) in self.absorbed:
            return Exists(self.absorbed[create.run_id, create.token], same=True)
        if create.by is not None:
            by = self.holder(create.by)
            if by is None or by.status is not Status.RUNNING:
                return Fenced(create.by.run_id)
        taken = create.run_id if known is not None else None
        replaced = None
        if taken is None and create.unique_key is not None:
            holder = self.key_is_taken(create)
            if holder is not None:
                taken = self.meet_holder(create, holder)
                replaced = holder if isinstance(create.key_rule, Replace) else None
            elif isinstance(create.key_rule, Throttle):
                taken = self.window_of(create)
        if taken is not None:
            other = self.runs[taken]
            same = (other.create.definition, other.input) == (create.definition, create.input)
            return Exists(taken, same)
        due_at = self.now + create.delay if create.delay else None
        status = Status.WAITING if create.delay else Status.QUEUED
        self.runs[create.run_id] = Run(
            create, status, due_at, input=create.input, created_at=self.now
        )
        if isinstance(create.key_rule, Throttle):
            self.windows.append((create, self.now + create.key_rule.length))
        return Created(create.run_id, replaced)

    def Claim(self, claim: Claim) -> object:  # noqa: N802
        if claim.worker_id not in self.workers:
            return Given([], self.next_due_at(), suspects=False, known=False)
        for run in self.runs.values():
            if run.status is Status.WAITING and run.due_at is not None and run.due_at <= self.now:
                run.become(Status.QUEUED)
        mine = [
            run_id for run_id, run in self.held(claim.worker_id).items() if run.token == claim.token
        ]
        chosen = sorted(mine, key=self.place) or self.refit(claim) or self.choose(claim)
        for run_id in chosen:
            run = self.runs[run_id]
            if run_id not in mine:
                run.become(Status.RUNNING)
                run.epoch += 1
                run.token = claim.token
                run.worker = claim.worker_id
        return Given(
            [
                GivenRun(
                    run_id,
                    self.runs[run_id].epoch,
                    dict(self.runs[run_id].steps),
                    {wait.key for wait in self.runs[run_id].waits if self.has_ended(wait.key)},
                )
                for run_id in chosen
            ],
            self.next_due_at(),
            suspects=bool(self.suspects(claim)),
            known=True,
        )

    def refit(self, claim: Claim) -> list[str]:
        fitting = [run_id for run_id, run in self.runs.items() if self.may_fit(claim, run)]
        given: list[str] = []
        for run_id in fitting:
            run = self.runs[run_id]
            if len(given) == claim.limit:
                break
            if not self.has_room(run, given):
                continue
            run.become(Status.QUEUED)
            if run.rank != Rank.SUSPECT:
                given.append(run_id)
        return given

    def may_fit(self, claim: Claim, run: Run) -> bool:
        definition = run.create.definition
        version = self.versions[claim.worker_id].get(definition)
        return (
            run.status is Status.PAUSED
            and run.reason == "mismatch"
            and definition in claim.definitions
            and run.create.queue in claim.queues
            and version not in (None, *run.misfits)
        )

    def claimable(self, claim: Claim) -> list[str]:
        return sorted(
            (
                run_id
                for run_id, run in self.runs.items()
                if run.status is Status.QUEUED
                and run.create.definition in claim.definitions
                and run.create.queue in claim.queues
            ),
            key=self.place,
        )

    def place(self, run_id: str) -> tuple[int, int, int]:
        run = self.runs[run_id]
        return (run.rank, run.create.priority, list(self.runs).index(run_id))

    def choose(self, claim: Claim) -> list[str]:
        suspects = self.suspects(claim)
        if suspects and claim.suspects:
            return suspects[:1]
        others = [
            run_id for run_id in self.claimable(claim) if self.runs[run_id].rank != Rank.SUSPECT
        ]
        return self.within_limits(others, claim.limit)

    def suspects(self, claim: Claim) -> list[str]:
        claimable = self.claimable(claim)
        suspects = [run_id for run_id in claimable if self.runs[run_id].rank == Rank.SUSPECT]
        return [run_id for run_id in suspects if self.has_room(self.runs[run_id])]

    def next_due_at(self) -> int | None:
        dues = [
            run.due_at
            for run in self.runs.values()
            if run.status is Status.WAITING and run.due_at is not None
        ]
        return min(dues, default=None)

    def SaveCheckpoint(self, save: SaveCheckpoint) -> object:  # noqa: N802
        run = self.holder(save.grant)
        if run is None:
            return Fenced(save.grant.run_id)
        control = run.word
        step = run.steps.get(save.key)
        if step is not None and step.epoch == save.grant.epoch:
            is_pending = step.outcome == save.outcome == StepOutcome.PENDING
            repeated = is_pending and step.tries == save.tries
            if repeated or step.outcome != "pending" or run.status is not Status.RUNNING:
                return Saved(control, step.due_at)
        if run.status is not Status.RUNNING:
            return Fenced(save.grant.run_id)
        if step is not None and step.outcome != "pending":
            return Conflict(save.grant.run_id, save.key.path)
        due_at = None if save.delay is None else self.now + save.delay
        run.steps[save.key] = Step(save.outcome, save.tries, due_at, save.grant.epoch)
        return Saved(control, due_at)

    def Settle(self, settle: Settle) -> object:  # noqa: N802  # one arm a verdict
        run = self.holder(settle.grant)
        if run is None:
            return Fenced(settle.grant.run_id)
        if run.status is not Status.RUNNING:
            return Settled(run.status)
        run.crashes = 0
        run.cleans = settle.cleans
        run.waits = ()
        match run.word:
            case Control.CANCEL | Control.COMPENSATE:
                run.cancelled()
            case Control.RESTART:
                run.begin_again()
            case _:
                self.judge(run, settle.verdict)
        if run.word is Control.PAUSE:
            run.pause(self.now)
        self.wake()
        self.wake_if_arrived(run)
        return Settled(run.status)

    def judge(self, run: Run, verdict: Verdict) -> None:  # noqa: C901  # one arm a verdict
        match verdict:
            case Completed():
                run.cleans = False
                run.become(Status.COMPLETED)
            case Failed(compensates=True) if run.undoing is Undoing.NONE:
                run.attempts.append("failed")
                word = run.word
                run.begin_to_undo(Undoing.FAILURE, verdict.reason)
                run.culprits, run.word = verdict.culprits, word
            case Failed():
                run.become(Status.FAILED, verdict.reason)
                run.culprits = verdict.culprits
            case Undone():
                run.culprits = verdict.culprits
                if verdict.culprits:
                    run.become(Status.FAILED, "compensation")
                elif run.undoing is Undoing.FAILURE:
                    run.become(Status.FAILED, run.reason or "error")
                else:
                    run.become(Status.CANCELLED)
            case CancelledByWorker():
                run.become(Status.CANCELLED)
            case Released():
                run.become(Status.QUEUED)
            case Mismatched():
                run.become(Status.PAUSED, "mismatch")
                run.waited = False
                run.misfits = tuple(dict.fromkeys((*run.misfits, verdict.version)))
            case Retrying():
                run.become(Status.WAITING)
                run.due_at = self.now + verdict.delay
                run.coalesce = 0
                run.attempts.append("failed")
                run.attempt += 1
                run.reopen(verdict.culprits, self.now)
            case Suspended():
                run.become(Status.WAITING)
                run.waits = verdict.waits
                run.coalesce = verdict.coalesce
                dues = [wait.due_at for wait in run.waits if wait.due_at is not None]
                run.due_at = min(dues, default=None)

    # --- what an operator asks ---------------------------------------------------------------

    def ask_to_cancel(self, run: Run, *, compensate: bool) -> None:
        if run.undoing is not Undoing.NONE:
            return
        if run.word is not Control.COMPENSATE:
            run.word = Control.COMPENSATE if compensate else Control.CANCEL
        run.ready = None
        if run.status is not Status.RUNNING:
            run.cancelled()

    def CancelRun(self, cancel: CancelRun) -> object:  # noqa: N802
        run = self.runs.get(cancel.run_id)
        if run is None:
            return Missing(cancel.run_id)
        if cancel.request_id not in run.requests:
            if run.ended:
                return Refused(cancel.run_id, run.status)
            run.requests.append(cancel.request_id)
            self.ask_to_cancel(run, compensate=cancel.compensate)
        return Controlled(run.status)

    def RestartRun(self, restart: RestartRun) -> object:  # noqa: N802
        run = self.runs.get(restart.run_id)
        if run is None:
            return Missing(restart.run_id)
        if restart.request_id in run.requests:
            return Controlled(run.status)
        step = restart.from_step
        is_taken = run.ended and run.create.unique_key and self.key_is_taken(run.create)
        is_recorded = step is None or step in run.steps
        if not is_recorded or is_taken or run.word in (Control.CANCEL, Control.COMPENSATE):
            return Refused(restart.run_id, run.status)
        run.requests.append(restart.request_id)
        run.ready = {} if step is None else run.kept(step)
        run.ready_taken = {event: by for event, by in run.taken.items() if by in run.ready}
        if run.epoch:
            run.attempts.append(str(run.status) if run.ended else "restarted")
        if run.ended:
            run.passed_to = None
        if run.status is Status.RUNNING:
            run.word = Control.RESTART
        else:
            run.begin_again()
        return Controlled(run.status)

    def ForkRun(self, fork: ForkRun) -> object:  # noqa: N802
        source = self.runs.get(fork.source)
        if fork.create.run_id in self.runs:
            return self.CreateRun(fork.create)
        if source is None:
            return Missing(fork.source)
        named = [fork.before, *(step for step, _ in fork.results)]
        if any(step is not None and step not in source.steps for step in named):
            return Refused(fork.source, source.status)
        created = self.CreateRun(fork.create)
        if isinstance(created, Created):
            results = dict(fork.results)
            self.runs[fork.create.run_id].steps = {
                key: self.copied(key, step, source, key in results)
                for key, step in source.kept(fork.before).items()
            }
        return created

    def copied(self, key: StepKey, step: Step, source: Run, is_given: bool) -> Step:
        is_made = key == ORIGIN and ORIGIN not in source.steps
        outcome = StepOutcome.OK if is_given else step.outcome
        epoch = 0 if is_made else step.epoch - source.epoch
        return dataclasses.replace(step, outcome=outcome, epoch=epoch)

    def PauseRun(self, pause: PauseRun) -> object:  # noqa: N802
        run = self.runs.get(pause.run_id)
        if run is None:
            return Missing(pause.run_id)
        if pause.request_id not in run.requests:
            if run.ended:
                return Refused(pause.run_id, run.status)
            run.requests.append(pause.request_id)
            if run.word is Control.RESTART:
                run.requests.pop()
                return Refused(pause.run_id, run.status)
            if run.status is Status.RUNNING:
                run.word = run.word or Control.PAUSE
            elif run.paused_at is None:
                run.pause(self.now)
        return Controlled(run.status)

    def ResumeRun(self, resume: ResumeRun) -> object:  # noqa: N802
        run = self.runs.get(resume.run_id)
        if run is None:
            return Missing(resume.run_id)
        if resume.request_id not in run.requests:
            taken_back = run.status is Status.RUNNING and run.word is Control.PAUSE
            if not taken_back and run.status is not Status.PAUSED:
                return Refused(resume.run_id, run.status)
            run.requests.append(resume.request_id)
            run.word = Control.NONE
            if not taken_back:
                run.resume(self.now)
                self.wake()
                self.wake_if_arrived(run)
        return Controlled(run.status)

    def RetryRun(self, retry: RetryRun) -> object:  # noqa: N802
        run = self.runs.get(retry.run_id)
        if run is None:
            return Missing(retry.run_id)
        if retry.request_id not in run.requests:
            keyed = run.create.unique_key is not None
            undone = run.undoing is not Undoing.NONE and run.reason not in ("compensation", "crash")
            may = run.status in (Status.FAILED, Status.CANCELLED) and not undone
            if not may or (keyed and self.key_is_taken(run.create)):
                return Refused(retry.run_id, run.status)
            run.requests.append(retry.request_id)
            run.attempts.append(str(run.status))
            run.attempt += 1
            run.crashes = 0
            run.passed_to = None
            run.reopen(run.culprits, self.now)
            run.culprits = ()
            run.misfits = ()
            run.reason = None
            run.become(Status.QUEUED)
        return Controlled(run.status)

    def RegisterWorker(self, register: RegisterWorker) -> object:  # noqa: N802
        if register.worker_id not in self.workers:
            self.workers[register.worker_id] = 0
            self.versions[register.worker_id] = register.definitions
            self.cleans[register.worker_id] = register.cleans
        return self.beaten(register.worker_id)

    def Heartbeat(self, heartbeat: Heartbeat) -> object:  # noqa: N802
        if heartbeat.worker_id in self.workers:
            self.workers[heartbeat.worker_id] += 1
        return self.beaten(heartbeat.worker_id)

    def beaten(self, worker_id: str) -> Beaten:
        held = self.held(worker_id)
        controls = tuple((run_id, run.word) for run_id, run in held.items() if run.word)
        known = worker_id in self.workers
        return Beaten(known, self.workers.get(worker_id, 0), len(held), controls)

    def RetireWorker(self, retire: RetireWorker) -> object:  # noqa: N802
        self.workers.pop(retire.worker_id, None)
        return self.take_back(self.held(retire.worker_id))

    def GiveBack(self, give_back: GiveBack) -> object:  # noqa: N802
        return self.take_back(
            {
                run_id: run
                for run_id, run in self.held(give_back.worker_id).items()
                if (run_id, run.epoch) not in give_back.held
            }
        )

    def RescueWorker(self, rescue: RescueWorker) -> object:  # noqa: N802
        beat = self.workers.get(rescue.worker_id)
        if beat is None or rescue.beat not in (None, beat):
            return Rescued()
        del self.workers[rescue.worker_id]
        held = self.held(rescue.worker_id)
        for run in held.values():
            run.attempts.append("crashed")
            progressed = any(step.epoch == run.epoch for step in run.steps.values())
            run.crashes = 0 if progressed else run.crashes + 1
            kept = run.word in (Control.CANCEL, Control.COMPENSATE, Control.RESTART)
            if run.crashes >= rescue.crash_cap and not kept:
                run.token = 0
                run.cleans = run.create.definition in self.cleans[rescue.worker_id]
                run.become(Status.FAILED, "crash")
        return self.take_back(held)

    def take_back(self, held: dict[str, Run]) -> Rescued:
        for run in held.values():
            run.token = 0
            if run.ended:
                continue
            run.cleans = run.create.definition in self.cleans[run.worker or ""]
            match run.word:
                case Control.CANCEL | Control.COMPENSATE:
                    run.cancelled()
                case Control.RESTART:
                    run.begin_again()
                case word:
                    run.become(Status.QUEUED)
                    if word is Control.PAUSE:
                        run.pause(self.now)
        return Rescued(
            tuple(run_id for run_id, run in held.items() if not run.ended),
            tuple(run_id for run_id, run in held.items() if run.ended),
        )
