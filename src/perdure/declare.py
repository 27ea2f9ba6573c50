"""Definitions without an app, for modules of their own: ``from perdure import job, workflow``.

Such a declaration has the verbs of a definition, and belongs to the apps that include it. Which
app a verb means is said by :meth:`Declared.on`, or clear by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, Unpack, overload
from weakref import WeakSet

from perdure._engine import scope as scopes
from perdure._engine.engine import Engine, Ports
from perdure._engine.registry import Registry
from perdure.context import Context
from perdure.errors import AppNotReady, UsageError, shown
from perdure.workflow import (
    Bound,
    Declaration,
    Definable,
    Kind,
    Settings,
    Workflow,
    asks_for_services,
)

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Services_contra = TypeVar("Services_contra", contravariant=True, default=Any)
    Meta_contra = TypeVar("Meta_contra", contravariant=True, default=Any)
else:
    from typing import TypeVar

    Services_contra = TypeVar("Services_contra", contravariant=True)
    Meta_contra = TypeVar("Meta_contra", contravariant=True)

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
M = TypeVar("M")


class HasEngine(Protocol):
    """An app, as far as a declaration needs it."""

    @property
    def engine(self) -> Engine:
        """Its machinery."""
        ...


class Declared(Definable[P, R], Generic[P, R, Services_contra, Meta_contra]):
    """A workflow or job that was declared without an app. Made by decorators, not by hand.

    Its verbs are those of a definition. Inside a body they mean the body's own app; elsewhere the
    one app that includes it, or the one of them that is connected. ``run`` works without any app,
    unless the body asks for services.
    """

    def __init__(self, kind: Kind, function: Callable[..., Any], settings: Settings) -> None:
        definition = Declaration.of(kind, {}, settings).define(function, None)
        super().__init__(definition, self._find_app)
        self.kind: Kind = kind
        self.function = function
        self.settings = settings
        self._engines: WeakSet[Engine] = WeakSet()
        self._alone: Bound | None = None

    def on(self, app: HasEngine) -> Workflow[P, R]:
        """Return the definition that an app made of this declaration.

        Args:
            app: one that includes it.

        Raises:
            AppNotReady: the app does not.
            UsageError: it is no app.
        """
        engine: object = getattr(app, "engine", None)
        if not isinstance(engine, Engine):
            raise UsageError(f"{self.name}.on(app) says which app is meant, got {shown(app)}")
        bound = self._in(engine)
        if bound is None:
            raise AppNotReady(
                f"{self.name!r} (declared at {self.definition.place}) is not in {app!r}; "
                "write app.include(…) before"
            )
        return Workflow(bound.definition, bound.engine)

    def bound_to(self, engine: Engine) -> None:
        """Take note of an app that includes this declaration."""
        self._engines.add(engine)

    def _in(self, engine: Engine) -> Bound | None:
        definition = engine.registry.included.get(self)
        return None if definition is None else Bound(definition, engine)

    def _find_app(self, durably: bool) -> Bound:  # noqa: FBT001 -- of the type Find
        scope = scopes.current()
        own = None if scope is None else self._in(scope.activation.engine)
        if own is not None:
            return own
        engines = [engine for engine in self._engines if engine.is_open] or [*self._engines]
        found = self._in(engines[0]) if len(engines) == 1 else None
        if found is not None:
            return found
        if not durably and not self._needs_services():
            return self._without_app()
        if engines:
            raise UsageError(
                f"{self.name!r} is in {len(engines)} apps "
                f"({'; '.join(sorted(map(str, engines)))}); say which one is meant: "
                f"{self.name}.on(app)"
            )
        raise AppNotReady(
            f"{self.name!r} (declared at {self.definition.place}) is in no app; write "
            "app.include(…) with it or its module"
        )

    def _needs_services(self) -> bool:
        return asks_for_services(self.definition.arguments)

    def _without_app(self) -> Bound:
        if self._alone is None:
            self._alone = Bound(self.definition, Engine(None, Registry(), Ports()))
        return self._alone

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name!r} at {self.definition.place}>"


class Declare(Protocol):
    """The type of ``@workflow(…)`` and ``@job(…)`` with options."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context[S, M], P], Coroutine[Any, Any, R]], /
    ) -> Declared[P, R, S, M]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Declared[P, R, object, object]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context[S, M], P], R], /
    ) -> Declared[P, R, S, M]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Declared[P, R, object, object]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Declare the function."""
        ...


@overload
def workflow(
    function: Callable[Concatenate[Context[S, M], P], Coroutine[Any, Any, R]], /
) -> Declared[P, R, S, M]: ...
@overload
def workflow(
    function: Callable[P, Coroutine[Any, Any, R]], /
) -> Declared[P, R, object, object]: ...
@overload
def workflow(function: Callable[Concatenate[Context[S, M], P], R], /) -> Declared[P, R, S, M]: ...
@overload
def workflow(function: Callable[P, R], /) -> Declared[P, R, object, object]: ...
@overload
def workflow(**settings: Unpack[Settings]) -> Declare: ...
def workflow(function: Callable[..., Any] | None = None, /, **settings: Unpack[Settings]) -> Any:
    """Declare a workflow without an app; ``app.include`` puts it into one.

    It takes the same options as :meth:`perdure.App.workflow`.

    Raises:
        DefinitionError: it is declared wrongly.

    Example::

        @workflow(max_attempts=3)
        async def fulfil(order_id: str) -> str: ...

        app.include(fulfil)         # or the module that it stands in
        await fulfil.enqueue("o1")
    """
    return _declare("workflow", function, settings)


@overload
def job(
    function: Callable[Concatenate[Context[S, M], P], Coroutine[Any, Any, R]], /
) -> Declared[P, R, S, M]: ...
@overload
def job(function: Callable[P, Coroutine[Any, Any, R]], /) -> Declared[P, R, object, object]: ...
@overload
def job(function: Callable[Concatenate[Context[S, M], P], R], /) -> Declared[P, R, S, M]: ...
@overload
def job(function: Callable[P, R], /) -> Declared[P, R, object, object]: ...
@overload
def job(**settings: Unpack[Settings]) -> Declare: ...
def job(function: Callable[..., Any] | None = None, /, **settings: Unpack[Settings]) -> Any:
    """Declare a job without an app; ``app.include`` puts it into one.

    It takes the same options as :meth:`perdure.App.job`.

    Raises:
        DefinitionError: it is declared wrongly.
    """
    return _declare("job", function, settings)


def _declare(kind: Kind, function: Callable[..., Any] | None, settings: Settings) -> Any:
    def declare(function: Callable[..., Any]) -> Declared[..., Any]:
        return Declared(kind, function, settings)

    return declare if function is None else declare(function)
