"""Where in a body a durable call is made: scopes, branches, and how tasks and threads get theirs.

A *scope* numbers the calls made in it, so that a call's identity does not depend on which branch
reaches the store first: the body has one, each task it starts has one (labelled by its creation
number in the scope that started it), each step has one for the steps nested in it. A *branch* is
one flow of control, a task or a carried thread, and knows whether it is blocked in a durable wait;
from the branches the engine tells whether the body is idle.

The scope of the running code is one context variable. Tasks inherit it through the loop's task
factory, which costs foreign tasks one read of that variable; ``asyncio.to_thread`` copies the
context; other threads are given theirs by :func:`carry`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from functools import wraps
from hashlib import blake2b
from types import CodeType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from perdure.errors import UsageError
from perdure.model.records import Checkpoint, StepKey, StepKind, StepOutcome

if TYPE_CHECKING:
    from perdure._engine.activation import Activation

P = ParamSpec("P")
T = TypeVar("T")

_sites: dict[tuple[CodeType, int], str] = {}


def call_site(depth: int) -> str:
    """Return ``file.py:line`` of the caller so many frames up."""
    frame = sys._getframe(depth)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- documented
    place = (frame.f_code, frame.f_lineno)
    site = _sites.get(place)
    if site is None:
        name = frame.f_code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
        site = _sites[place] = f"{name}:{frame.f_lineno}"
    return site


class Branch:
    """One flow of control of a body.

    Attributes:
        task: the task that runs it; None for a carried thread.
        children: its live child branches.
        waits: durable waits that it is blocked in now.
        turns: recorded outcomes that it is about to be given.
        in_step: it was started by a step.
    """

    __slots__ = ("children", "in_step", "parent", "task", "turns", "waits")

    def __init__(self, parent: Branch | None, *, in_step: bool = False) -> None:
        self.parent = parent
        self.in_step = in_step
        self.task: asyncio.Task[Any] | None = None
        self.children = 0
        self.waits = 0
        self.turns = 0

    def within(self, tasks: set[object]) -> bool:
        """Tell whether this branch, or one that it descends from, is one of these tasks."""
        branch: Branch | None = self
        while branch is not None:
            if branch.task is not None and branch.task in tasks:
                return True
            branch = branch.parent
        return False

    def blocked(self) -> bool:
        """Tell whether nothing can move here until a durable wait ends, here or in a child."""
        return not self.turns and (self.waits > 0 or (self.children > 0 and self._awaits()))

    def stirs(self) -> bool:
        """Tell whether the branch is doing something by itself, and may yet ask for a record."""
        return not self.turns and not self.blocked()

    def _awaits(self) -> bool:
        # A task that is not awaiting anything is about to run.
        return self.task is not None and getattr(self.task, "_fut_waiter", None) is not None


class Call:
    """One durable call: its identity, fixed when it is made, and its record if there is one."""

    __slots__ = (
        "fingerprint",
        "k",
        "kind",
        "name",
        "path",
        "position",
        "record",
        "scope",
        "site",
        "text",
    )

    def __init__(  # noqa: PLR0917 -- one place calls it with all, on the hot path
        self, scope: Scope, kind: StepKind, name: str, fingerprint: bytes, text: str, site: str
    ) -> None:
        self.scope = scope
        self.kind = kind
        self.name = name
        self.path = scope.path + name
        self.fingerprint = fingerprint
        self.text = text
        self.site = site
        ordinals, positions = scope.ordinals, scope.positions
        asked = (name, fingerprint)
        self.k = ordinals.get(asked, 0)
        ordinals[asked] = self.k + 1
        self.position = positions.get(name, 0)
        positions[name] = self.position + 1
        journal = scope.activation.journal
        find = journal.look_up if scope.in_step else journal.claim
        record: Checkpoint | None = find(scope.digest, self.path, fingerprint, self.k)
        self.record = record
        if journal.has_inside(self.path):
            has_ended = record is not None and record.outcome is not StepOutcome.PENDING
            if has_ended or kind is StepKind.STEP:
                journal.leave_to(self.path, self.inner_digest())

    @property
    def key(self) -> StepKey:
        """The identity as the store keeps it."""
        return StepKey(self.scope.digest, self.path, self.fingerprint, self.k)

    def inner_digest(self) -> bytes:
        """Return the digest of the scope inside this call."""
        return digest_of(self.scope.digest, "step", self.path, self.fingerprint.hex(), str(self.k))

    def __str__(self) -> str:
        return f"{self.path}({self.text})" if self.text else f"{self.path}()"


class Scope:
    """A numbering of durable calls, and who makes them.

    Attributes:
        activation: the run that is being executed.
        branch: the flow of control whose code this is.
        digest: 16 bytes that identify the scope within the run; empty for the body's own.
        path: readable prefix of the paths of calls made here.
        newest: the store's time of the newest checkpoint consumed here.
        draws: how many random values were derived here.
        in_step: its code is a step's, which need not do the same when it is executed again.
        attempt: of the innermost step whose code this is, with its call; None outside of steps.
    """

    __slots__ = (
        "_forks",
        "_origin",
        "activation",
        "attempt",
        "branch",
        "digest_",
        "draws",
        "in_step",
        "newest",
        "ordinals",
        "path",
        "positions",
    )

    def __init__(  # noqa: PLR0917 -- three places in this module call it, on the hot path
        self,
        activation: Activation,
        branch: Branch,
        path: str,
        newest: int,
        digest: bytes | None,
        origin: Call | None = None,
        *,
        in_step: bool = False,
    ) -> None:
        self.activation = activation
        self.branch = branch
        self.path = path
        self.newest = newest
        self.digest_ = digest
        self._origin = origin
        self.ordinals: dict[tuple[str, bytes], int] = {}
        self.positions: dict[str, int] = {}
        self.draws = 0
        self.in_step = in_step
        self.attempt: tuple[Call, int] | None = None
        self._forks = 0

    @property
    def digest(self) -> bytes:
        """The scope's identity; a step's is derived when first asked for, most never are."""
        found = self.digest_
        if found is None:
            assert self._origin is not None, "a scope without digest is a step's"
            found = self.digest_ = self._origin.inner_digest()
        return found

    def fork(self) -> Scope:
        """Return the scope of the next branch started here."""
        number = self._forks
        self._forks = number + 1
        branch = Branch(self.branch, in_step=self.in_step)
        forked = Scope(
            self.activation,
            branch,
            f"{self.path}~{number}/",
            self.newest,
            digest_of(self.digest, "branch", str(number)),
            in_step=self.in_step,
        )
        forked.attempt = self.attempt
        return forked

    def inside_step(self, call: Call, attempt: int) -> Scope:
        """Return the scope of the calls nested in an attempt of a step."""
        path = call.path + "/"
        inner = Scope(self.activation, self.branch, path, self.newest, None, call, in_step=True)
        inner.attempt = (call, attempt)
        return inner

    def inside_body(self, call: Call) -> Scope:
        """Return the scope of the calls of another definition's body that is run inline."""
        path, newest, in_step = call.path + "/", self.newest, self.in_step
        inner = Scope(self.activation, self.branch, path, newest, None, call, in_step=in_step)
        inner.attempt = self.attempt
        return inner


def digest_of(*parts: bytes | str) -> bytes:
    """Return the digest of a scope that is known by these words."""
    hasher = blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(4, "big"))
        hasher.update(data)
    return hasher.digest()


_current: ContextVar[Scope | None] = ContextVar("perdure_scope", default=None)

current = _current.get
"""Return the scope of the running code, or None outside of runs."""

enter = _current.set
"""Make a scope the running code's; returns the token that :data:`leave` takes."""

leave = _current.reset
"""Undo :data:`enter`."""


def context_of(scope: Scope) -> Context:
    """Return a copy of the current context in which the scope is the running code's."""
    context = copy_context()
    context.run(_current.set, scope)
    return context


def carry(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function that runs in a thread of your own make durable calls.

    ``asyncio.to_thread`` needs none of this. For any other thread, wrap what it runs while you
    are in the body: each wrapped function is a branch of its own, numbered in the order of
    wrapping. Outside a run the function is returned as it is.

    Raises:
        UsageError: what it is given cannot be called.

    Example::

        threading.Thread(target=perdure.carry(work), args=(item,)).start()
    """
    if not callable(function):
        raise UsageError(
            f"carry takes the function that a thread runs, got <{type(function).__name__}>; pass "
            "the function itself, not its call"
        )
    scope = current()
    if scope is None:
        return function
    forked = scope.fork()
    activation = scope.activation

    @wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> T:
        activation.thread_began(forked.branch)
        try:
            return context_of(forked).run(function, *args, **kwargs)
        finally:
            activation.thread_ended(forked.branch)

    return carried


_Factory = Callable[..., "asyncio.Future[Any]"]


class TaskFactory:
    """The loop's task factory while a worker runs: labels a body's tasks with their scope.

    It delegates to the factory that was there before, and to ``asyncio.Task`` where there was none.
    """

    def __init__(self, previous: _Factory | None) -> None:
        self.previous = previous
        self.users = 0

    def __call__(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        **kwargs: Any,
    ) -> asyncio.Future[T]:
        scope = _current.get()
        if scope is None:
            return cast("asyncio.Future[T]", self._make(loop, coro, kwargs))
        forked = scope.fork()
        context: Context | None = kwargs.pop("context", None)
        if context is None:
            context = copy_context()
        context.run(_current.set, forked)
        task = self._make(loop, coro, {**kwargs, "context": context})
        scope.activation.adopt(forked.branch, task)
        return cast("asyncio.Future[T]", task)

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, kwargs: dict[str, Any]) -> Any:
        if self.previous is not None:
            return self.previous(loop, coro, **kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs)


def install_factory(loop: asyncio.AbstractEventLoop) -> None:
    """Label the tasks of bodies on this loop from now on; calls nest."""
    factory = loop.get_task_factory()
    if not isinstance(factory, TaskFactory):
        factory = TaskFactory(factory)
        loop.set_task_factory(factory)
    factory.users += 1


def remove_factory(loop: asyncio.AbstractEventLoop) -> None:
    """Undo one :func:`install_factory`; the last one puts the previous factory back."""
    factory = loop.get_task_factory()
    if isinstance(factory, TaskFactory):
        factory.users -= 1
        if not factory.users:
            loop.set_task_factory(factory.previous)
