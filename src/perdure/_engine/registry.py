"""The definitions of one app by name. Names match exactly; one name has one definition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from perdure import _late as late
from perdure._engine.definition import Definition
from perdure.errors import DuplicateName, UnknownDefinition
from perdure.model.records import RunRecord


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

    def executing(self, run: RunRecord) -> Definition:
        """Return the definition of a run, in the version that it is pinned to if it is.

        Raises:
            UnknownDefinition: there is none of that name, or not in that version.
        """
        definition = self[run.definition]
        if run.pin is None:
            return definition
        found = definition.with_version(run.pin)
        if found is None:
            known = ", ".join(map(repr, (definition.version, *definition.earlier)))
            raise UnknownDefinition(
                f"{run.definition!r} is not here in version {run.pin!r}, which the run is pinned "
                f"to; there is {known}"
            )
        return found

    def reading(self, run: RunRecord) -> Definition | None:
        """Return the definition that tells best what values a run has; None for no such name."""
        definition = self._definitions.get(run.definition)
        if definition is None or run.pin is None:
            return definition
        return definition.with_version(run.pin) or definition

    def _suggestion(self, name: str) -> str:
        close = late.difflib.get_close_matches(name, self._definitions, n=1)
        return f"; did you mean {close[0]!r}?" if close else ""
