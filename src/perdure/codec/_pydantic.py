"""Pydantic's types, through its TypeAdapter in JSON mode. Pydantic is never imported here.

A user's model can only exist if they imported pydantic, so it is looked up among the loaded
modules. Parsing follows the model's own rules (a text may become an int), and what is stored is
the parsed value; but what JSON and back would change is refused.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from perdure.errors import DefinitionError

from ._refusal import Refused, class_of, kind_of, shown
from ._shapes import Shape
from ._untyped import encode

__all__ = ["PydanticShape", "is_model", "is_pydantic", "marks_pydantic"]

_OLDEST = (2, 11)  # the first that reads and writes by field name whatever the aliases are


def is_pydantic(annotation: Any) -> bool:
    """Return whether pydantic alone knows how to read and write this class."""
    return "pydantic" in sys.modules and (
        hasattr(annotation, "__pydantic_core_schema__")
        or hasattr(annotation, "__get_pydantic_core_schema__")
    )


def is_model(annotation: Any) -> bool:
    """Return whether it is a class whose instances are told apart by their class."""
    return isinstance(annotation, type) and hasattr(annotation, "__pydantic_validator__")


def marks_pydantic(metadata: tuple[Any, ...]) -> bool:
    """Return whether the metadata of an ``Annotated`` is for pydantic."""
    return "pydantic" in sys.modules and any(
        class_of(item).__module__.partition(".")[0] in ("pydantic", "annotated_types")
        or hasattr(item, "__get_pydantic_core_schema__")
        for item in metadata
    )


class PydanticShape(Shape):
    """An annotation that pydantic validates: a model, or whatever holds pydantic's own types."""

    def __init__(self, annotation: Any, label: str) -> None:
        pydantic: Any = sys.modules["pydantic"]
        if tuple(map(int, pydantic.VERSION.split(".")[:2])) < _OLDEST:
            raise DefinitionError(
                f"{label} needs pydantic 2.11 or later, got {pydantic.VERSION}; upgrade it"
            )
        self.label = label
        self.exact = f"{label}@{id(annotation) if is_model(annotation) else annotation}"
        self._model = annotation if is_model(annotation) else None
        if self._model is not None:
            self.takes = frozenset({self._model})
            if not _writes_its_own_form(self._model):
                self.kinds = frozenset({dict})
        try:
            self._adapter: Any = pydantic.TypeAdapter(annotation)
            self._rebuild()
        except pydantic.PydanticUserError as error:
            if error.code == "class-not-fully-defined":
                raise NameError(str(error)) from error
            raise DefinitionError(f"pydantic cannot use {label}: {error}") from error
        self._wrong: tuple[type[Exception], ...] = (
            pydantic.ValidationError,
            sys.modules["pydantic_core"].PydanticSerializationError,
            ValueError,
            TypeError,
            RecursionError,
        )

    def _rebuild(self) -> None:
        if getattr(self._adapter, "pydantic_complete", True) is False:
            self._adapter.rebuild()
        if self._model is not None and not getattr(self._model, "__pydantic_complete__", True):
            self._model.model_rebuild()

    # Raw is embedded by the encoder as it is, so that the text pydantic wrote is what is stored.
    def dump(self, value: Any, _depth: int, /) -> Any:
        return msgspec.Raw(self.round_trip(value)[0])

    def load(self, data: Any, /) -> Any:
        return self.load_bytes(encode(data))

    def round_trip(self, value: Any) -> tuple[bytes, Any]:
        """Return the bytes of a value and what they load to, which equals what pydantic parsed."""
        parsed = value if class_of(value) is self._model else self._parsed(value)
        try:
            data: bytes = self._adapter.dump_json(
                parsed, by_alias=False, round_trip=True, warnings=False
            )
        except self._wrong as error:
            raise Refused(kind_of(value), f"which pydantic cannot write: {error}") from error
        again = self.load_bytes(data)
        if class_of(again) is not class_of(parsed) or again != parsed:
            raise Refused(
                kind_of(value),
                f"which would come back changed when stored as {self.label}",
                "check excluded fields, custom serializers, subclasses in fields, NaN and secrets",
            )
        return data, again

    def load_bytes(self, data: bytes) -> Any:
        """Return the value of JSON text, validated."""
        try:
            return self._adapter.validate_json(data, by_alias=False, by_name=True)
        except self._wrong as error:
            raise self._refusal(error) from error

    def _parsed(self, value: Any) -> Any:
        try:
            return self._adapter.validate_python(value)
        except self._wrong as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Any) -> Refused:
        errors: Any = getattr(error, "errors", None)
        if errors is None:
            return Refused("data", f"which pydantic cannot read as {self.label}: {error}")
        first = errors(include_url=False)[0]
        refused = Refused(
            shown(first.get("input")), f"which {self.label} refuses: {first.get('msg')}"
        )
        for part in reversed(first.get("loc", ())):
            refused = refused.at_index(part) if isinstance(part, int) else refused.at_key(part)
        return refused


def _writes_its_own_form(model: Any) -> bool:
    decorators = getattr(model, "__pydantic_decorators__", None)
    return bool(
        getattr(model, "__pydantic_root_model__", False)
        or getattr(decorators, "model_serializers", None)
    )
