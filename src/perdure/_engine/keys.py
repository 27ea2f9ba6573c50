"""The keys of a run: how they follow from its arguments, and what if its unique_key is taken."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from inspect import iscoroutinefunction
from typing import Final, TypeAlias
from uuid import UUID

import msgspec

from perdure.codec import Arguments
from perdure.errors import DefinitionError, InvalidValue, shown
from perdure.ids import check_id
from perdure.model.keys import KeyRule
from perdure.model.records import Micros

Key: TypeAlias = str | int | UUID | None
"""What is a key as it is, or as its text; None for none."""

FromArguments: TypeAlias = str | Callable[..., Key]
"""How a key follows from the arguments of a call: the name of one, or a function of all by name."""


class OnTaken(msgspec.Struct, frozen=True):
    """What becomes of a call whose unique_key is taken.

    Args:
        rule: for the store.
        delay: before the run may start, of a debounce.
        skips: a run of other input under the key is an answer, and no conflict.
    """

    rule: KeyRule | None = None
    delay: Micros = 0
    skips: bool = False


NOTHING_SAID: Final = OnTaken()


class KeyOf:
    """A key that follows from the arguments of a call, as they are stored.

    Args:
        given: the name of an argument, or a function of all of them by their names.
        option: ``unique_key`` or ``limit_key``.
        name: of the definition.
        arguments: its codec.

    Raises:
        DefinitionError: it is neither, or there is no such argument.
    """

    def __init__(self, given: object, option: str, name: str, arguments: Arguments) -> None:
        self._what = f"{option}= of {name!r}"
        self._arguments = arguments
        self._given: str | Callable[..., object]
        if isinstance(given, str):
            if not arguments.takes(given):
                raise DefinitionError(
                    f"{self._what} names an argument of its body, which has none called {given!r}; "
                    f"the key of one call is options({option}=…)"
                )
            self._given = given
        elif callable(given) and not isinstance(given, type) and not iscoroutinefunction(given):
            self._given = given
        else:
            raise DefinitionError(
                f"{self._what} is the name of an argument, or a plain function of the arguments "
                f"that returns the key, got {shown(given)}"
            )

    def __call__(self, data: bytes) -> str | None:
        """Return the key of a call.

        Raises:
            InvalidValue: what came out is no key.
            DefinitionError: the function raises, or the name is that of the context.
        """
        found: object = self._found(data)
        if isinstance(found, Enum):
            found = found.value
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, str | int | UUID):
            raise InvalidValue(
                f"{self._what} is a text, a whole number, a UUID or None, got {shown(found)}"
            )
        return check_id(str(found), self._what)

    def _found(self, data: bytes) -> object:
        filled = self._arguments.filled(data)
        if isinstance(self._given, str):
            if self._given not in filled:
                raise DefinitionError(f"{self._what} is the context, which no call gives")
            return filled[self._given]
        try:
            return self._given(**filled)
        except Exception as error:
            raise DefinitionError(f"{self._what} raised {error!r}") from error
