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
)

ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


@dataclass
class Step:
    outcome: StepOutcome
    tries: int
    due_at: int | None
    epoch: int


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
    cancel: bool = False
    pausing: bool = False
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

    @property
    def control(self) -> Control:
        if self.cancel:
            return Control.CANCEL
        return Control.PAUSE if self.pausing else Control.NONE

    def become(self, status: Status, reason: str | None = None) -> None:
        self.status = status
        self.reason = reason
        if status is Status.QUEUED:
            self.rank = Rank.RESUMED if self.epoch else Rank.FRESH
            self.rank = Rank.SUSPECT if self.crashes >= 2 else self.rank
        self.cancel = self.cancel and status is Status.RUNNING
        self.due_at = None
        if status in ENDED:
            self.waits = ()
            self.pausing = False
            self.paused_at = None

    def pause(self, now: int) -> None:
        if self.status is not Status.PAUSED:
            self.waited = self.status is Status.WAITING
        self.status = Status.PAUSED
        self.reason = "operator"
        self.pausing = False
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


class Model:
    """Runs in the order of creation, workers with their beat and definitions, and the time."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.runs: dict[str, Run] = {}
        self.workers: dict[str, int] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.windows: list[tuple[CreateRun, int]] = []
        self.absorbed: dict[tuple[str, int], str] = {}

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
            if run.status is not Status.WAITING or not fulfilled:
                continue
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
                if holder.status is Status.RUNNING:
                    holder.cancel, holder.pausing = True, False
                else:
                    holder.become(Status.CANCELLED)
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
            suspects=any(
                self.runs[run_id].rank == Rank.SUSPECT for run_id in self.claimable(claim)
            ),
            known=True,
        )

    def refit(self, claim: Claim) -> list[str]:
        fitting = [run_id for run_id, run in self.runs.items() if self.may_fit(claim, run)]
        for run_id in fitting[: claim.limit]:
            self.runs[run_id].become(Status.QUEUED)
        return [
            run_id for run_id in fitting[: claim.limit] if self.runs[run_id].rank != Rank.SUSPECT
        ]

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
        others = [run_id for run_id in self.claimable(claim) if run_id not in suspects]
        return others[: claim.limit]

    def suspects(self, claim: Claim) -> list[str]:
        claimable = self.claimable(claim)
        return [run_id for run_id in claimable if self.runs[run_id].rank == Rank.SUSPECT]

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
        control = run.control
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

    def Settle(self, settle: Settle) -> object:  # noqa: C901, N802  # one arm a verdict
        run = self.holder(settle.grant)
        if run is None:
            return Fenced(settle.grant.run_id)
        if run.status is not Status.RUNNING:
            return Settled(run.status)
        run.crashes = 0
        run.waits = ()
        verdict = CancelledByWorker() if run.cancel else settle.verdict
        match verdict:
            case Completed():
                run.become(Status.COMPLETED)
            case Failed():
                run.become(Status.FAILED, verdict.reason)
                run.culprits = verdict.culprits
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
                run.attempts.append("failed")
                run.attempt += 1
                run.reopen(verdict.culprits, self.now)
            case Suspended():
                run.become(Status.WAITING)
                run.waits = verdict.waits
                run.coalesce = verdict.coalesce
                dues = [wait.due_at for wait in run.waits if wait.due_at is not None]
                run.due_at = min(dues, default=None)
        if run.pausing:
            run.pause(self.now)
        self.wake()
        return Settled(run.status)

    def CancelRun(self, cancel: CancelRun) -> object:  # noqa: N802
        run = self.runs.get(cancel.run_id)
        if run is None:
            return Missing(cancel.run_id)
        if cancel.request_id not in run.requests:
            if run.ended:
                return Refused(cancel.run_id, run.status)
            run.requests.append(cancel.request_id)
            if run.status is Status.RUNNING:
                run.cancel, run.pausing = True, False
            else:
                run.become(Status.CANCELLED)
        return Controlled(run.status)

    def PauseRun(self, pause: PauseRun) -> object:  # noqa: N802
        run = self.runs.get(pause.run_id)
        if run is None:
            return Missing(pause.run_id)
        if pause.request_id not in run.requests:
            if run.ended:
                return Refused(pause.run_id, run.status)
            run.requests.append(pause.request_id)
            if run.status is Status.RUNNING:
                run.pausing = not run.cancel
            elif run.paused_at is None:
                run.pause(self.now)
        return Controlled(run.status)

    def ResumeRun(self, resume: ResumeRun) -> object:  # noqa: N802
        run = self.runs.get(resume.run_id)
        if run is None:
            return Missing(resume.run_id)
        if resume.request_id not in run.requests:
            taken_back = run.status is Status.RUNNING and run.pausing
            if not taken_back and run.status is not Status.PAUSED:
                return Refused(resume.run_id, run.status)
            run.requests.append(resume.request_id)
            run.pausing = False
            if not taken_back:
                run.resume(self.now)
                self.wake()
        return Controlled(run.status)

    def RetryRun(self, retry: RetryRun) -> object:  # noqa: N802
        run = self.runs.get(retry.run_id)
        if run is None:
            return Missing(retry.run_id)
        if retry.request_id not in run.requests:
            keyed = run.create.unique_key is not None
            if run.status not in (Status.FAILED, Status.CANCELLED) or (
                keyed and self.key_is_taken(run.create)
            ):
                return Refused(retry.run_id, run.status)
            run.requests.append(retry.request_id)
            run.attempts.append(str(run.status))
            run.attempt += 1
            run.crashes = 0
            run.passed_to = None
            run.reopen(run.culprits, self.now)
            run.culprits = ()
            run.misfits = ()
            run.become(Status.QUEUED)
        return Controlled(run.status)

    def RegisterWorker(self, register: RegisterWorker) -> object:  # noqa: N802
        if register.worker_id not in self.workers:
            self.workers[register.worker_id] = 0
            self.versions[register.worker_id] = register.definitions
        return self.beaten(register.worker_id)

    def Heartbeat(self, heartbeat: Heartbeat) -> object:  # noqa: N802
        if heartbeat.worker_id in self.workers:
            self.workers[heartbeat.worker_id] += 1
        return self.beaten(heartbeat.worker_id)

    def beaten(self, worker_id: str) -> Beaten:
        held = self.held(worker_id)
        controls = tuple((run_id, run.control) for run_id, run in held.items() if run.control)
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
            if run.crashes >= rescue.crash_cap and not run.cancel:
                run.token = 0
                run.become(Status.FAILED, "crash")
        return self.take_back(held)

    def take_back(self, held: dict[str, Run]) -> Rescued:
        for run in held.values():
            run.token = 0
            if not run.ended:
                run.become(Status.CANCELLED if run.cancel else Status.QUEUED)
            if run.pausing:
                run.pause(self.now)
        return Rescued(
            tuple(run_id for run_id, run in held.items() if not run.ended),
            tuple(run_id for run_id, run in held.items() if run.ended),
        )
