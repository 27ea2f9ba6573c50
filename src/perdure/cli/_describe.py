"""What is stored as fields: what ``--json`` prints, and what tables take their cells from."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from perdure._engine.engine import Engine
from perdure.change import Change, SubscriberEntry
from perdure.clock import to_datetime
from perdure.codec import schema
from perdure.codec.failures import shown_error
from perdure.duration import format_micros, to_micros
from perdure.handle import FailedAttempt, StepHistory, WorkerEntry, readable
from perdure.model.records import History, Micros, RunRecord
from perdure.queue import QueueEntry, Rate
from perdure.schedule import FireEntry, ScheduleEntry
from perdure.streaming import StreamItem


def run_fields(run: RunRecord) -> dict[str, Any]:
    """Return what a list tells of a run."""
    return {
        "id": run.run_id,
        "definition": run.definition,
        "status": str(run.status),
        "waiting_for": None if run.waiting_for is None else str(run.waiting_for),
        "reason": run.reason,
        "queue": run.queue,
        "priority": run.priority,
        "unique_key": run.unique_key,
        "limit_key": run.limit_key,
        "tags": list(run.tags),
        "attempt": run.attempt,
        "generation": run.generation,
        "continued": run.continued,
        "progress": None if run.progress is None else value_of(run.progress),
        "crashes": run.crashes,
        "parent_id": run.parent_id,
        "on_parent_close": str(run.on_parent_close),
        "caused_by": run.caused_by,
        "version": run.code,
        "pinned": run.pin is not None,
        "worker_id": run.worker_id,
        "created_at": _instant(run.created_at),
        "due_at": _instant(run.due_at),
        "started_at": _instant(run.started_at),
        "finished_at": _instant(run.finished_at),
        "error": None if run.error is None else _error(run.error),
    }


def change_fields(change: Change) -> dict[str, Any]:
    """Return a change."""
    step = change.step
    return {
        "position": change.position,
        "kind": str(change.kind),
        "at": _iso(change.at),
        "run_id": change.run_id,
        "definition": change.name,
        "queue": change.queue,
        "status": str(change.status),
        "attempt": change.attempt,
        "epoch": change.epoch,
        "waiting_for": None if change.waiting_for is None else str(change.waiting_for),
        "due_at": _iso(change.due_at),
        "reason": change.reason,
        "step": None
        if step is None
        else {
            "path": step.path,
            "kind": str(step.kind),
            "outcome": str(step.outcome),
            "tries": step.tries,
            "due_at": _iso(step.due_at),
        },
    }


def item_fields(item: StreamItem[Any]) -> dict[str, Any]:
    """Return an item of a stream."""
    return {
        "cursor": item.cursor,
        "at": _iso(item.at),
        "generation": item.generation,
        "value": item.value,
    }


def subscriber_fields(entry: SubscriberEntry) -> dict[str, Any]:
    """Return a subscriber."""
    return {
        "name": entry.name,
        "position": entry.position,
        "created_at": _iso(entry.created_at),
        "moved_at": _iso(entry.moved_at),
    }


def queue_fields(entry: QueueEntry) -> dict[str, Any]:
    """Return what a list tells of a queue."""
    return {
        "name": entry.name,
        "concurrency": entry.concurrency,
        "rate": _rate(entry.rate),
        "concurrency_per_key": entry.concurrency_per_key,
        "rate_per_key": _rate(entry.rate_per_key),
        "paused_at": None if entry.paused_at is None else entry.paused_at.isoformat(),
        "queued": entry.queued,
        "running": entry.running,
        "waiting": entry.waiting,
    }


def _rate(rate: Rate | None) -> str | None:
    """Return a rate as `perdure queue limit` takes it."""
    if rate is None:
        return None
    burst = f",{rate.burst}" if rate.burst > 1 else ""
    return f"{rate.limit}/{format_micros(to_micros(rate.per))}{burst}"


def history_fields(history: History, engine: Engine) -> dict[str, Any]:
    """Return everything that is recorded of a run.

    Args:
        history: what the store keeps.
        engine: of the app that it was read with.
    """
    run = history.run
    told = readable(history, engine, schema(Any))
    return {
        **run_fields(run),
        "input": value_of(run.input),
        "meta": None if run.meta is None else value_of(run.meta),
        "result": None if run.result is None else value_of(run.result),
        "attempts": [_attempt(attempt) for attempt in told.attempts],
        "steps": [_step(step) for step in told.steps],
        "waits": [
            {
                "kind": str(wait.kind),
                "key": wait.key,
                "due_at": _instant(wait.due_at),
            }
            for wait in history.waits
        ],
        "streams": [
            {"name": stream.name, "items": stream.items, "size": stream.size}
            for stream in told.streams
        ],
        "orphans": list(told.orphans),
        "audit": [
            {"action": entry.action, "at": _instant(entry.at), "request_id": entry.request_id}
            for entry in history.audit
        ],
    }


def value_of(data: bytes) -> Any:
    """Return a payload as JSON's own values: what is stored, tags of builtin extras included.

    Bytes that are no JSON, or hold a number longer than Python reads, come as a text.
    """
    try:
        return json.loads(data or b"null")
    except ValueError:
        return data.decode("utf-8", "backslashreplace")


def schedule_fields(schedule: ScheduleEntry) -> dict[str, Any]:
    """Return a schedule."""
    return {
        "key": schedule.key,
        "name": schedule.name,
        "when": schedule.when,
        "missed": schedule.missed,
        "next_at": _iso(schedule.next_at),
        "last_at": _iso(schedule.last_at),
        "paused_at": _iso(schedule.paused_at),
        "created_at": _iso(schedule.created_at),
        "from_code": schedule.from_code,
    }


def fire_fields(fire: FireEntry) -> dict[str, Any]:
    """Return what became of instants of a schedule."""
    return {
        "expected": _iso(fire.expected),
        "until": _iso(fire.until),
        "count": fire.count,
        "outcome": fire.outcome,
        "at": _iso(fire.at),
        "run": fire.run,
    }


def worker_fields(worker: WorkerEntry) -> dict[str, Any]:
    """Return a worker."""
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "definitions": worker.definitions,
        "queues": list(worker.queues),
        "slots": worker.slots,
        "leads": worker.leads,
        "started_at": _iso(worker.started_at),
        "beat_at": _iso(worker.beat_at),
        "lease": worker.lease.total_seconds(),
        "heartbeat": worker.heartbeat.total_seconds(),
    }


def _instant(micros: Micros | None) -> str | None:
    return None if micros is None else _iso(to_datetime(micros))


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat(timespec="microseconds")


def _error(data: bytes) -> dict[str, Any]:
    summary = shown_error(data)
    return {"type": summary.type, "message": summary.message, "frames": list(summary.frames)}


def _attempt(attempt: FailedAttempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "outcome": attempt.outcome,
        "started_at": _iso(attempt.started_at),
        "ended_at": _iso(attempt.ended_at),
        "error": attempt.error,
    }


def _step(step: StepHistory) -> dict[str, Any]:
    return {
        "path": step.path,
        "kind": step.kind,
        "outcome": step.outcome,
        "tries": step.tries,
        "started_at": _iso(step.started_at),
        "ended_at": _iso(step.ended_at),
        "seconds": (step.ended_at - step.started_at).total_seconds(),
        "due_at": _iso(step.due_at),
        "arguments": step.arguments,
        "site": step.site,
        "size": step.size,
        "error": step.error,
        "failed": [_attempt(attempt) for attempt in step.failed],
    }
