"""The definitions of one app by name. Names match exactly; one name has one definition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from perdure import _late as late
from perdure._engine.definition import Definition
from perdure.errors import DuplicateName, UnknownDefinition


class Registry:
    """Definitions by name.

    Attributes:
        included: the definitions made of declarations that were written without an app.
    """

    def __init__(self) -> None:
        self._definitions: dict[str, Definition] = {}
        self._steps: dict[str, str] = {}
        self.included: dict[object, Definition] = {}

    def add(self, definition: Definition) -> None:
        """Add a definition.

        Raises:
            DuplicateName: the name is taken; the message names both places.
        """
        other = self._definitions.get(definition.name)
        if other is not None:
            raise DuplicateName(
                f"two definitions are named {definition.name!r}: {other.place} and "
                f"{definition.place}; rename one, or pass name=… to its decorator"
            )
        self._definitions[definition.name] = definition

    def add_all(self, definitions: Iterable[Definition], steps: Iterable[tuple[str, str]]) -> None:
        """Add definitions, and note the names and places of steps: all of them or nothing.

        Raises:
            DuplicateName: as :meth:`add` and :meth:`add_step`.
        """
        before = {**self._definitions}, {**self._steps}
        try:
            for definition in definitions:
                self.add(definition)
            for name, place in steps:
                self.add_step(name, place)
        except DuplicateName:
            self._definitions, self._steps = before
            raise

    def add_step(self, name: str, place: str) -> None:
        """Note a decorated step's name.

        Raises:
            DuplicateName: another step of this app has it.
        """
        other = self._steps.get(name)
        if other is not None:
            raise DuplicateName(
                f"two steps are named {name!r}: {other} and {place}; rename one, or pass name=… "
                "to its decorator"
            )
        self._steps[name] = place

    def step_names(self) -> tuple[str, ...]:
        """Return the names of the app's decorated steps, in the order of their declaration."""
        return tuple(self._steps)

    def find(self, name: str) -> Definition | None:
        """Return the definition of exactly this name, or None."""
        return self._definitions.get(name)

    def __getitem__(self, name: str) -> Definition:
        """Return the definition of exactly this name.

        Raises:
            UnknownDefinition: there is none; the message suggests one that is written alike.
        """
        found = self._definitions.get(name)
        if found is None:
            raise UnknownDefinition(
                f"no workflow or job named {name!r} is registered{self._suggestion(name)}"
            )
        return found

    def __iter__(self) -> Iterator[Definition]:
        return iter(self._definitions.values())

    def __len__(self) -> int:
        return len(self._definitions)

    def versions(self) -> dict[str, str]:
        """Return the version of each definition by name."""
        return {name: definition.version for name, definition in self._definitions.items()}

    def _suggestion(self, name: str) -> str:
        close = late.difflib.get_close_matches(name, self._definitions, n=1)
        return f"; did you mean {close[0]!r}?" if close else ""
