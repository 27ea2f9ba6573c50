"""A schema: the codec of one annotation. Schemas are made once and kept."""

from __future__ import annotations

import inspect
from contextlib import suppress
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec

from perdure.errors import InvalidValue, Unresolved

from . import _untyped
from ._build import Builder
from ._fingerprints import same
from ._pydantic import PydanticShape
from ._refusal import Refused, class_of, invalid, too_deep
from ._shapes import Shape, UntypedShape

__all__ = ["Schema", "build_shape", "schema"]

T = TypeVar("T")

_decode = msgspec.json.Decoder().decode
_encode = _untyped.encode
_LONG = 4_000


class Schema(Generic[T]):
    """Encodes and decodes the values of one annotation; get one from ``schema``.

    Attributes:
        annotation: the annotation it was made from.
    """

    __slots__ = ("_atoms", "_raw", "_shape", "annotation")

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self._shape: Shape | None = None
        self._raw = False
        self._atoms: frozenset[type] = frozenset()
        with suppress(Unresolved):  # a class that is declared later; tried again at first use
            self._built()

    def encode(self, value: T, *, verb: str = "returned") -> bytes:
        """Return the value as bytes: JSON in UTF-8.

        Args:
            value: a value of the annotation.
            verb: how the value came here, for messages.

        Raises:
            InvalidValue: it does not fit the annotation or cannot be represented.
        """
        return self.round_trip(value, verb=verb)[0]

    def round_trip(self, value: T, *, verb: str = "returned") -> tuple[bytes, T]:
        """Return the bytes and the value that ``decode`` makes of them: what a replay sees.

        Immutable values of JSON's own types come back as they are; everything else is a fresh
        value. Aware datetimes keep their instant and offset, but a named zone becomes that fixed
        offset; naive ones stay naive and lose their ``fold``. A subclass of a scalar that equals
        it (numpy's float64) becomes the scalar; an int declared as float becomes a float.

        Args:
            value: a value of the annotation.
            verb: how the value came here, for messages.

        Raises:
            InvalidValue: it does not fit the annotation or cannot be represented.
        """
        # The type alone says that such a value is its own replay: 0.14 us instead of 0.45 to 0.7.
        if class_of(value) in self._atoms:
            try:
                data = _encode(value)
            except (UnicodeEncodeError, ValueError):
                data = b""
            # msgspec writes null for NaN; a long text of digits may be an int over the limit.
            if 0 < len(data) < _LONG and (value is None or data != b"null"):
                return data, value
        try:
            return self._round_trip(value)
        except Refused as refused:
            raise invalid(refused, verb) from refused.__cause__
        except RecursionError as error:
            raise invalid(too_deep(value), verb) from error

    def decode(self, data: bytes) -> T:
        """Return the value of bytes that ``encode`` made, checked against the annotation again.

        Raises:
            InvalidValue: they are not JSON, or do not fit the annotation.
        """
        shape = self._built()
        try:
            if isinstance(shape, PydanticShape):
                value: T = shape.load_bytes(data)
                return value
            loaded = _decode(data)
            if class_of(shape) is UntypedShape and b'"$"' not in data:
                value = loaded
            else:
                value = shape.load(loaded)
        except Refused as refused:
            raise invalid(refused, "stored is") from refused.__cause__
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidValue(f"stored is no JSON: {error}") from error
        except RecursionError as error:
            raise invalid(too_deep(data), "stored is") from error
        return value

    def _round_trip(self, value: Any) -> tuple[bytes, Any]:
        shape = self._built()
        if isinstance(shape, PydanticShape):
            return shape.round_trip(value)
        dumped = shape.dump(value, 0)
        try:
            data = _encode(dumped)
        except (UnicodeEncodeError, ValueError) as error:
            raise _untyped.explain(dumped) from error
        if self._raw:
            return data, self.decode(data)
        # The dumped form is what the decoder would make of the bytes (tested by property), and it
        # shares nothing with the value: 2.2 us instead of 2.8 for a small dict.
        if class_of(shape) is UntypedShape and b'"$"' not in data:
            return data, dumped
        return data, shape.load(dumped)

    def _built(self) -> Shape:
        if self._shape is None:
            self._shape, self._raw = build_shape(self.annotation)
            self._atoms = self._shape.atoms
        return self._shape


@lru_cache(maxsize=4096)
def _cached(annotation: Any) -> Schema[Any]:
    return Schema(annotation)


def schema(annotation: Any) -> Schema[Any]:
    """Return the schema of an annotation, the same one each time.

    Args:
        annotation: an evaluated annotation; ``Any`` or ``inspect.Parameter.empty`` for none.

    Raises:
        DefinitionError: no value of it can be stored, such as an arbitrary class.
    """
    if annotation is inspect.Parameter.empty:
        annotation = Any
    try:
        return _cached(annotation)
    except TypeError:  # unhashable metadata in an Annotated
        return Schema(annotation)


def build_shape(annotation: Any) -> tuple[Shape, bool]:
    """Return the shape of an annotation, and whether pydantic takes part in it.

    Raises:
        DefinitionError: no value of it can be stored.
        Unresolved: it names a class that does not exist (yet).
    """
    builder = Builder(same)
    try:
        return builder.build(annotation), builder.uses_pydantic
    except NameError as error:
        raise Unresolved(
            f"the annotation {annotation!r} holds a name that is not defined: {error}; "
            "declare classes at the top of a module, or before their first use"
        ) from error
