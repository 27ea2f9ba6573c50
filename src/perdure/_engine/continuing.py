"""Continuing as new: a body ends its generation and leaves its run to the next, with other input.

In a run the body is told to leave, as for a suspension: its branches are cancelled, clean-up in
``finally`` records nothing, and the verdict that follows begins the next generation. Where a body
is run here and now, a private signal carries the input to whoever runs it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NoReturn

from perdure._engine.journal import is_of_the_body
from perdure.errors import Leave, NotInRun, UsageError

if TYPE_CHECKING:
    from perdure._engine.definition import Definition
    from perdure._engine.scope import Scope

_here: ContextVar[Definition | None] = ContextVar("perdure_continuing", default=None)


class GoesOn(BaseException):
    """Private signal: the body that is run here and now goes on with another input."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


def go_on(scope: Scope, definition: Definition, data: bytes) -> NoReturn:
    """End a run's generation; the next one begins with this input.

    Raises:
        Leave: always, but for what is wrong.
        UsageError: the code is not the run's own body, the definition is not the run's, or there
            are compensations, which could not be found again.
        Exception: of a task of the body that failed, and that nobody has awaited.
    """
    activation = scope.activation
    if scope.in_step or not is_of_the_body(scope.path):
        raise UsageError(
            "continue_as_new() ends the body of a run; it was called in a step, or in a body that "
            "is run inline. Call it in the run's own body"
        )
    _check(activation.definition, definition)
    _refuse_compensations(len(activation.compensations))
    failed = activation.uncollected()
    if failed is not None:
        raise failed
    activation.continue_as_new(data, scope.branch)
    raise Leave("the run goes on as new")


def _check(own: Definition, asked: Definition) -> None:
    if own.name != asked.name:
        raise UsageError(
            f"a run of {own.name!r} cannot go on as {asked.name!r}; enqueue that, or run it"
        )


def _refuse_compensations(count: int) -> None:
    if count:
        raise UsageError(
            f"continue_as_new() was called where {count} calls of compensate() are registered: "
            "they would be forgotten with the record. Let what they undo be done by a child run"
        )


# --- here and now ----------------------------------------------------------------------------


@contextmanager
def running_here(definition: Definition) -> Generator[None]:
    """Let the body of this definition go on as new: it is run here and now."""
    token = _here.set(definition)
    try:
        yield
    finally:
        _here.reset(token)


def go_on_here(definition: Definition, data: bytes, compensations: int) -> NoReturn:
    """End a body that is run here and now; it is run again with this input.

    Raises:
        GoesOn: always, but for what is wrong.
        NotInRun: there is no such body.
        UsageError: it is another definition's, or compensations are registered.
    """
    own = _here.get()
    if own is None:
        raise NotInRun("continue_as_new() ends a body's run; it was called outside of one")
    _check(own, definition)
    _refuse_compensations(compensations)
    raise GoesOn(data)
