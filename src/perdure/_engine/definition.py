"""What the engine knows of a workflow, job or step: plain records, made by the authoring layer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from perdure.codec import Arguments, Schema
from perdure.retry import RetryPolicy

Function: TypeAlias = Callable[..., Any]
"""A user's function: its result is a value (``def``) or an awaitable of one (``async def``)."""


@dataclass(frozen=True, slots=True)
class StepSpec:
    """How a step is executed.

    Args:
        name: the step's name, part of its identity.
        function: what to call.
        is_async: whether it is awaited on the loop or called in a thread.
        result: the schema its result passes.
        policy: its durable attempts.
        timeout: seconds an attempt may take; None for no limit.
        was: an older name under which records may still be found.
    """

    name: str
    function: Function
    is_async: bool
    result: Schema[Any]
    policy: RetryPolicy
    timeout: float | None
    was: str | None = None


@dataclass(frozen=True, slots=True)
class Definition:
    """A workflow or job as the engine sees it.

    Args:
        name: unique in its app.
        function: the body.
        is_async: whether the body is awaited on the loop or called in a thread.
        arguments: how its input is encoded and decoded.
        result: the schema its result passes.
        policy: attempts of the whole run.
        timeout: seconds an attempt of the body may take on a worker; None for no limit.
        version: changes when the code does; see mismatch.
        queue, priority: where its runs wait and in which order, unless a call says otherwise.
        place: file and line, for messages.
        injects: name of the parameter that takes the context; None where there is none.
        services: makes the context's services for one run; None where there are none.
        description, tags: for people.
    """

    name: str
    function: Function
    is_async: bool
    arguments: Arguments
    result: Schema[Any]
    policy: RetryPolicy
    timeout: float | None
    version: str
    queue: str
    priority: int
    place: str
    injects: str | None
    services: Callable[[], Awaitable[Any]] | None
    description: str
    tags: tuple[str, ...]
