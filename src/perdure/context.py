"""What a body may ask for beside its input: the app's services and the call's meta.

The type variables of services and meta live here, too. They have defaults, so that ``Context`` and
``App`` may be written bare; type checkers know that from ``typing_extensions``, which they bring
along, and at run time a missing argument is filled in by ``__class_getitem__``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, overload

import msgspec

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Services_co = TypeVar("Services_co", covariant=True, default=object)
    Meta_co = TypeVar("Meta_co", covariant=True, default="Values")
else:
    from typing import TypeVar

    Services_co = TypeVar("Services_co", covariant=True)
    Meta_co = TypeVar("Meta_co", covariant=True)


class Values(Protocol):
    """What ``ctx.meta`` is where the app has no schema for it: a mapping of names to values.

    A protocol, so that the ``TypedDict`` of an app that has one fits as well.
    """

    def __getitem__(self, name: str, /) -> Any:
        """Return the value of that name."""
        ...

    def __contains__(self, name: object, /) -> bool:
        """Tell whether there is a value of that name."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        ...

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    @overload
    def get(self, name: str, /) -> Any: ...
    @overload
    def get(self, name: str, default: Any, /) -> Any: ...
    def get(self, name: str, default: Any = None, /) -> Any:
        """Return the value of that name, or the default where there is none."""
        ...

    def keys(self) -> Any:
        """Return the names."""
        ...


class Context(msgspec.Struct, Generic[Services_co, Meta_co], frozen=True):
    """Handed to a body whose first parameter is annotated with it.

    Write ``Context[Services]`` for the app's services, ``Context[Services, RequestMeta]`` where the
    app was given ``meta=RequestMeta``, and a bare ``Context`` where the body asks for nothing but
    the meta, the run's id or the attempt: then any app will do, also one without services. What
    the body names may be a class, or a protocol that says no more than what it needs; an app whose
    services do not have that is refused by the type checkers.

    Attributes:
        services: what the app was given as ``services``: infrastructure, shared by its runs.
        meta: what the call gave as ``meta``: values of this one request, such as a tenant.
        run_id: id of the run; empty where the body is run here and now.
        attempt: the current attempt of the run, counted from 1.

    Example::

        @app.job
        async def send_mail(ctx: Context[Services], to: str) -> None:
            await ctx.services.mailer.send(to, request_id=ctx.meta["request_id"])
    """

    services: Services_co
    meta: Meta_co = msgspec.field(default_factory=dict[str, Any])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType] -- where nothing is said of it, it is Values
    run_id: str = ""
    attempt: int = 1

    if not TYPE_CHECKING:

        def __class_getitem__(cls, given: Any) -> Any:
            """Fill in a missing meta."""
            return super().__class_getitem__(given if isinstance(given, tuple) else (given, Values))
