"""What events, schedules and queues add to the reference model, each as a part of it."""

# ruff: noqa: N802 -- one method a transition, by its name

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from perdure.model.events import (
    Awaiting,
    GiveUpEvent,
    Listen,
    Listener,
    ListenerRecord,
    Listening,
    Publish,
    Published,
    SendEvent,
    TakeEvent,
    Taken,
    TimedOut,
    started_run,
    started_with,
)
from perdure.model.queues import (
    Limits,
    PauseQueue,
    PutQueue,
    QueueKept,
    QueueRecord,
    ResumeQueue,
)
from perdure.model.records import Status, StepKey, StepOutcome, WaitKind
from perdure.model.schedules import (
    STARTS,
    Fired,
    FireSchedule,
    Overdue,
    Passed,
    PauseSchedule,
    PutSchedule,
    RemoveSchedule,
    Scheduled,
    ScheduleRecord,
    Unscheduled,
)
from perdure.model.transitions import (
    Conflict,
    CreateRun,
    Exists,
    Fenced,
    Missing,
    Refused,
    Saved,
    start_of,
)

if TYPE_CHECKING:
    from tests.model.reference import Model, Run


@dataclass
class Event:
    asked: Publish | SendEvent
    at: int

    @property
    def run_id(self) -> str | None:
        return self.asked.run_id if isinstance(self.asked, SendEvent) else None


class Hearing:
    """Who listens, what was said, and which wait takes it."""

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}
        self.listeners: dict[tuple[str, str], tuple[Listener, int, int]] = {}

    def Listen(self: Model, listen: Listen) -> object:
        for one in listen.listeners:
            _, since, _ = self.listeners.get((one.type, one.definition), (one, self.now, 0))
            self.listeners[one.type, one.definition] = (one, since, self.now)
        return Listening(
            tuple(ListenerRecord(*self.listeners[place]) for place in sorted(self.listeners))
        )

    def Publish(self: Model, publish: Publish) -> object:
        if publish.event_id not in self.events:
            if publish.by is not None and not self.holds(publish):
                return Fenced(publish.by.run_id)
            self.accept(publish)
            for (type_, name), (listener, _, announced_at) in sorted(self.listeners.items()):
                if type_ == publish.type and self.now - announced_at <= publish.alive:
                    run_id, token = started_run(publish.event_id, name)
                    given = started_with(publish.payload, listener.parameter)
                    cause = f"event:{publish.event_id}"
                    self.CreateRun(CreateRun(run_id, name, given, token, caused_by=cause))
        elif self.differs(publish):
            return Exists("", same=False)
        started = [started_run(publish.event_id, name)[0] for _, name in self.listeners]
        cause = f"event:{publish.event_id}"
        runs = [run_id for run_id in self.runs if run_id in started]
        return Published(
            publish.event_id,
            tuple(run_id for run_id in runs if self.runs[run_id].create.caused_by == cause),
        )

    def SendEvent(self: Model, send: SendEvent) -> object:
        if send.event_id in self.events:
            return Exists("", same=False) if self.differs(send) else Published(send.event_id)
        run = self.runs.get(send.run_id)
        if run is None:
            return Missing(send.run_id)
        if run.ended:
            return Refused(send.run_id, run.status)
        self.accept(send)
        return Published(send.event_id)

    def holds(self: Model, publish: Publish) -> bool:
        assert publish.by is not None
        run = self.holder(publish.by)
        return run is not None and run.status is Status.RUNNING

    def differs(self, asked: Publish | SendEvent) -> bool:
        known = self.events[asked.event_id]
        run_id = asked.run_id if isinstance(asked, SendEvent) else None
        first = known.asked
        return (first.type, first.key, first.payload, known.run_id) != (
            *(asked.type, asked.key, asked.payload),
            run_id,
        )

    def accept(self: Model, asked: Publish | SendEvent) -> None:
        event = self.events[asked.event_id] = Event(asked, self.now)
        for run in self.runs.values():
            for wait in run.waits:
                is_of_type = wait.kind is WaitKind.EVENT and wait.key == asked.type
                if (
                    run.status is Status.WAITING
                    and is_of_type
                    and wait.match in (None, asked.key)
                    and self.may_take(run, asked.event_id, event)
                ):
                    self.rouse(run)
                    break

    def may_take(self: Model, run: Run, event_id: str, event: Event) -> bool:
        return (
            event.at >= run.created_at
            and event.run_id in (None, run.create.run_id)
            and run.create.caused_by != f"event:{event_id}"
        )

    def fitting(
        self: Model, run: Run, type_: str, key: str | None, due_at: int | None
    ) -> str | None:
        for event_id, event in self.events.items():
            if (
                event.asked.type == type_
                and key in (None, event.asked.key)
                and (due_at is None or event.at <= due_at)
                and self.may_take(run, event_id, event)
                and event_id not in run.taken
            ):
                return event_id
        return None

    def wake_if_arrived(self: Model, run: Run) -> None:
        for wait in run.waits:
            if (
                run.status is Status.WAITING
                and wait.kind is WaitKind.EVENT
                and self.fitting(run, wait.key, wait.match, wait.due_at)
            ):
                self.rouse(run)
                return

    def TakeEvent(self: Model, take: TakeEvent) -> object:
        run = self.holder(take.grant)
        if run is None:
            return Fenced(take.grant.run_id)
        step = run.steps.get(take.step)
        if step is not None and step.outcome != "pending":
            return self.answer(run, take.step)
        if run.status is not Status.RUNNING:
            return Fenced(take.grant.run_id)
        if step is None or not step.tries:
            due_at = None if take.timeout is None else self.now + take.timeout
            run.record(take.step, StepOutcome.PENDING, due_at, b"")
        due_at = run.steps[take.step].due_at
        event_id = self.fitting(run, take.type, take.key, due_at)
        if event_id is not None:
            run.taken[event_id] = take.step
            payload = self.events[event_id].asked.payload
            run.record(take.step, StepOutcome.OK, None, payload)
        elif due_at is not None and due_at <= self.now:
            run.record(take.step, StepOutcome.TIMEOUT, None, take.timeout_error)
        return self.answer(run, take.step)

    def answer(self: Model, run: Run, key: StepKey) -> object:
        step = run.steps[key]
        match step.outcome:
            case StepOutcome.OK:
                return Taken(step.value, step.ended_at, run.word)
            case StepOutcome.TIMEOUT:
                return TimedOut(step.value, step.ended_at, run.word)
            case StepOutcome.PENDING:
                return Awaiting(step.due_at, run.word)
            case _:
                return Conflict(run.create.run_id, key.path)

    def GiveUpEvent(self: Model, give_up: GiveUpEvent) -> object:
        run = self.holder(give_up.grant)
        if run is None:
            return Fenced(give_up.grant.run_id)
        step = run.steps.get(give_up.step)
        is_open = step is not None and (step.outcome == "pending" or step.epoch == run.epoch)
        if step is None or not is_open or step.outcome == "cancelled":
            return Saved(run.word)
        if run.status is not Status.RUNNING:
            return Fenced(give_up.grant.run_id)
        run.record(give_up.step, StepOutcome.CANCELLED, None, b"", tries=step.tries)
        run.taken = {event: by for event, by in run.taken.items() if by != give_up.step}
        return Saved(run.word)


class Timetable:
    """Schedules: each instant once."""

    def __init__(self) -> None:
        self.schedules: dict[str, ScheduleRecord] = {}

    def PutSchedule(self: Model, put: PutSchedule) -> object:
        schedule = put.schedule
        known = self.schedules.get(schedule.key)
        if known is None:
            record = ScheduleRecord(schedule, 0, self.now, self.now, put.next_at)
        elif known.schedule == schedule:
            return Scheduled(known)
        else:
            stands = known.schedule.timing == schedule.timing
            if not stands and known.next_at is not None and known.next_at <= self.now:
                return Overdue(known)  # no put of this suite tells what has passed
            record = replace(
                known,
                schedule=schedule,
                revision=known.revision + 1,
                updated_at=self.now,
                next_at=known.next_at if stands else put.next_at,
            )
        self.schedules[schedule.key] = record
        return Scheduled(record)

    def RemoveSchedule(self: Model, remove: RemoveSchedule) -> object:
        self.schedules.pop(remove.key, None)
        return Unscheduled(remove.key)

    def PauseSchedule(self: Model, pause: PauseSchedule) -> object:
        record = self.schedules.get(pause.key)
        if record is None:
            return Unscheduled(pause.key)
        if record.paused_at is None:
            record = replace(record, paused_at=self.now, updated_at=self.now)
            self.schedules[pause.key] = record
        return Scheduled(record)

    def FireSchedule(self: Model, fire: FireSchedule) -> object:
        record = self.schedules.get(fire.key)
        if record is None:
            return Unscheduled(fire.key)
        stands = (record.next_at, record.revision) == (fire.expected, fire.revision)
        if record.paused_at is not None or not stands or fire.expected > self.now:
            return Passed(record)
        creates = [
            start_of(record.schedule, each.expected)
            for each in fire.fires
            if each.outcome in STARTS
        ]
        for create in creates:
            self.CreateRun(create)
        self.schedules[fire.key] = replace(
            record,
            next_at=fire.next_at,
            last_at=max((each.until for each in fire.fires), default=record.last_at),
            updated_at=self.now,
        )
        return Fired(tuple(create.run_id for create in creates))


class Lanes:
    """Queues: how many may run at once, and the pause. Rates stand in the contract suite."""

    def __init__(self) -> None:
        self.queues: dict[str, QueueRecord] = {}

    def PutQueue(self: Model, put: PutQueue) -> object:
        return self.keep(replace(self.queue(put.queue), limits=put.limits))

    def PauseQueue(self: Model, pause: PauseQueue) -> object:
        record = self.queue(pause.queue)
        since = self.now if record.paused_at is None else record.paused_at
        return self.keep(replace(record, paused_at=since))

    def ResumeQueue(self: Model, resume: ResumeQueue) -> object:
        return self.keep(replace(self.queue(resume.queue), paused_at=None))

    def queue(self, name: str) -> QueueRecord:
        return self.queues.get(name) or QueueRecord(name, Limits())

    def keep(self, record: QueueRecord) -> object:
        self.queues[record.queue] = record
        return QueueKept(record)

    def has_room(self: Model, run: Run, given: list[str] | None = None) -> bool:
        record = self.queue(run.create.queue)
        running = sum(
            one.status is Status.RUNNING or run_id in (given or ())
            for run_id, one in self.runs.items()
            if one.create.queue == run.create.queue
        )
        most = record.limits.concurrency
        return record.paused_at is None and (most is None or running < most)

    def within_limits(self: Model, run_ids: list[str], limit: int) -> list[str]:
        given: list[str] = []
        for run_id in run_ids:
            if len(given) < limit and self.has_room(self.runs[run_id], given):
                given.append(run_id)
        return given
