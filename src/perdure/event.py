"""What the type of an event is called: by its class, or as its class says.

An event is a value of a class: a dataclass, a pydantic model, a TypedDict, a msgspec struct. Its
type is a name in the store, by which listeners and waits find it, so that a publisher and a
workflow need not share code; where they are of one code base, they share the class.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from perdure.errors import DefinitionError, UsageError, shown
from perdure.ids import check_id

C = TypeVar("C", bound=type[Any])

_NAME = "__perdure_event__"
_PLAIN = (str, bytes, int, float, bool, complex, list, tuple, dict, set, frozenset, object)


def event(name: str, /) -> Callable[[C], C]:
    """Give a class of events another name than its own.

    The name is what is stored: keep it when the class is renamed or moved.

    Args:
        name: 1 to 255 characters.

    Raises:
        InvalidValue: it is no name.
        UsageError: it stands on something that is no class.

    Example::

        @event("order.placed")
        @dataclass
        class OrderPlaced:
            order_id: str
    """
    check_id(name, "an event's name")

    def named(given: C) -> C:
        if not isinstance(given, type):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f'@event("{name}") names a class, got {shown(given)}')
        setattr(given, _NAME, name)
        return given

    return named


def type_name(given: object) -> str:
    """Return the name of an event's type: that of a class, or the text itself.

    A subclass does not inherit the name that ``@event`` gave: it is another event.

    Raises:
        UsageError: it is neither a text nor a class of events.
    """
    if isinstance(given, str):
        return check_id(given, "an event's type")
    if not isinstance(given, type) or given in _PLAIN:
        raise UsageError(
            "an event's type is its class (a dataclass, a pydantic model, a TypedDict, a msgspec "
            f"struct) or its name as a text, got {shown(given)}"
        )
    own: object = vars(given).get(_NAME)
    return own if isinstance(own, str) else check_id(given.__name__, "an event's type")


def types_of(given: object) -> tuple[object, ...]:
    """Return the types that a definition listens to: of one, of a list, of a union.

    Raises:
        DefinitionError: there is none, or one of them is no type of events.
    """
    asked: tuple[object, ...]
    if isinstance(given, list | tuple):
        asked = tuple(typing.cast("list[object]", given))
    elif typing.get_origin(given) in {typing.Union, types.UnionType}:
        asked = typing.get_args(given)
    elif typing.get_origin(given) is typing.Annotated:
        return types_of(typing.get_args(given)[0])
    else:
        asked = (given,)
    if not asked:
        raise DefinitionError("on=[] listens to nothing; leave it out")
    try:
        names = [type_name(one) for one in asked]
    except UsageError as error:
        raise DefinitionError(f"on=: {error}") from None
    if len(set(names)) < len(names):
        raise DefinitionError(f"on= names a type of events twice: {', '.join(names)}")
    return asked
