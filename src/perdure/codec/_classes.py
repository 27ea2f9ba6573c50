"""Records: dataclasses, msgspec structs, typed dicts, named tuples.

Every field is written, also those at their default, so that a default that changes later does
not change what is stored. Unknown fields of stored data are passed over, so that an older worker
reads what a newer one wrote, unless the class itself forbids them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from ._refusal import DEEPEST, Refused, class_of, kind_of, shown, too_deep
from ._shapes import Shape
from ._untyped import AS_IS

__all__ = ["DictRecord", "Field", "ObjectRecord", "TupleRecord"]

_MISSING: Any = object()


class Field(NamedTuple):
    """One field of a record.

    Attributes:
        name: the attribute's or key's name in Python.
        key: its key in JSON.
        shape: the shape of its values.
        required: whether stored data must have it.
        default: what a named tuple takes in its place.
    """

    name: str
    key: str
    shape: Shape
    required: bool
    default: Any = None


class ObjectRecord(Shape):
    """A class with fields: dataclass or Struct. A JSON object.

    Its fields are set by ``complete`` after construction, because a class may contain itself.

    Args:
        cls: the class.
        label: how messages and unions call it.
        tag: the key and value of a tagged Struct.
        closed: refuse unknown fields.
    """

    kinds = frozenset({dict})

    def __init__(
        self, cls: type, label: str, tag: tuple[str, Any] | None = None, *, closed: bool = False
    ) -> None:
        self.cls = cls
        self.label = label
        self.exact = f"{label}@{id(cls)}"
        self.tag = tag
        self.takes = frozenset({cls})
        self.closed = closed
        self.fields: tuple[Field, ...] = ()
        self._writes: tuple[tuple[str, str, frozenset[type], Callable[[Any, int], Any]], ...] = ()
        self.make: Callable[[dict[str, Any]], Any] = lambda values: cls(**values)

    def complete(self, fields: tuple[Field, ...]) -> None:
        """Set the fields, once their shapes are made."""
        self.fields = fields
        # What dump needs and no more, looked up once: 1.9 us a round trip of three fields, not 2.5.
        self._writes = tuple((f.name, f.key, f.shape.atoms & AS_IS, f.shape.dump) for f in fields)

    def dump(self, value: Any, depth: int, /) -> Any:
        if class_of(value) is not self.cls:
            raise self._refusal_of_other(value)
        if depth >= DEEPEST:
            raise too_deep(value)
        depth += 1
        out: dict[str, Any] = {} if self.tag is None else {self.tag[0]: self.tag[1]}
        name = ""
        try:
            for name, key, safe, dump in self._writes:
                item = getattr(value, name, _MISSING)
                if class_of(item) in safe:
                    out[key] = item
                elif item is _MISSING:
                    raise Refused("nothing", "because the field was never set")
                elif item is not msgspec.UNSET:
                    out[key] = dump(item, depth)
        except Refused as refused:
            raise refused.at_key(name) from refused.__cause__
        return out

    def load(self, data: Any, /) -> Any:
        if class_of(data) is not dict:
            raise self.unfit(data)
        values = _load_fields(self, data)
        try:
            return self.make(values)
        except Exception as error:  # the class's own checks, whatever they raise
            raise Refused(
                f"data that {self.label} refuses", f"{class_of(error).__name__}: {error}"
            ) from error

    def _refusal_of_other(self, value: Any) -> Refused:
        if isinstance(value, self.cls):
            return Refused(
                kind_of(value),
                f"a subclass of the declared {self.label}, whose own fields would be lost",
                "annotate the place with the subclass or a union",
            )
        return self.refusal(value)


class DictRecord(Shape):
    """A TypedDict: a dict with known keys, whose order is kept. A JSON object."""

    kinds = frozenset({dict})
    takes = frozenset({dict})

    def __init__(self, cls: type, label: str, *, closed: bool = False) -> None:
        self.label = label
        self.exact = f"{label}@{id(cls)}"
        self.closed = closed
        self.tag: tuple[str, Any] | None = None
        self.fields: tuple[Field, ...] = ()
        self._shapes: dict[str, Shape] = {}

    def complete(self, fields: tuple[Field, ...]) -> None:
        """Set the fields, once their shapes are made."""
        self.fields = fields
        self._shapes = {field.key: field.shape for field in fields}

    def dump(self, value: Any, depth: int, /) -> Any:
        if class_of(value) is not dict:
            raise self.refusal(value)
        if depth >= DEEPEST:
            raise too_deep(value)
        self._check_required(value)
        out: dict[str, Any] = {}
        key: Any = None
        try:
            for key, item in value.items():
                if class_of(key) is not str or key not in self._shapes:
                    break
                out[key] = self._shapes[key].dump(item, depth + 1)
        except Refused as refused:
            raise refused.at_key(key) from refused.__cause__
        if len(out) != len(value):
            raise Refused(f"the key {shown(key)}", f"which {self.label} does not declare")
        return out

    def load(self, data: Any, /) -> Any:
        if class_of(data) is not dict:
            raise self.unfit(data)
        self._check_required(data)
        values: dict[str, Any] = {}
        key = ""
        try:
            for key, item in data.items():
                if key in self._shapes:
                    values[key] = self._shapes[key].load(item)
        except Refused as refused:
            raise refused.at_key(key) from refused.__cause__
        if self.closed:
            _refuse_extra(self, data)
        return values

    def _check_required(self, value: dict[Any, Any]) -> None:
        for field in self.fields:
            if field.required and field.key not in value:
                raise Refused("nothing", f"where {self.label} requires a value").at_key(field.key)


class TupleRecord(Shape):
    """A NamedTuple: a JSON array in the order of its fields."""

    kinds = frozenset({list})

    def __init__(self, cls: type, label: str) -> None:
        self.cls = cls
        self.label = label
        self.exact = f"{label}@{id(cls)}"
        self.takes = frozenset({cls})
        self.fields: tuple[Field, ...] = ()

    def complete(self, fields: tuple[Field, ...]) -> None:
        """Set the fields, once their shapes are made."""
        self.fields = fields

    def dump(self, value: Any, depth: int, /) -> Any:
        if class_of(value) is not self.cls:
            raise self.refusal(value)
        if depth >= DEEPEST:
            raise too_deep(value)
        out: list[Any] = []
        try:
            for item, field in zip(value, self.fields, strict=True):
                out.append(field.shape.dump(item, depth + 1))
        except Refused as refused:
            raise refused.at_key(self.fields[len(out)].name) from refused.__cause__
        return out

    def load(self, data: Any, /) -> Any:
        if class_of(data) is not list:
            raise self.unfit(data)
        needed = sum(field.required for field in self.fields)
        if not needed <= len(data) <= len(self.fields):
            raise Refused(f"{len(data)} items", f"where {self.label} is declared")
        items: list[Any] = []
        try:
            for item, field in zip(data, self.fields, strict=False):
                items.append(field.shape.load(item))
        except Refused as refused:
            raise refused.at_key(self.fields[len(items)].name) from refused.__cause__
        items.extend(field.default for field in self.fields[len(items) :])
        # tuple.__new__, not the class's own: what was stored has passed that once.
        return _new_tuple(self.cls, items)


_new_tuple: Any = getattr(tuple, "__new__")  # noqa: B009 -- its type is of no use here


def _load_fields(record: ObjectRecord, data: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    key = ""
    try:
        for name, key, shape, required, _ in record.fields:
            item = data.get(key, _MISSING)
            if class_of(item) in shape.atoms:
                values[name] = item
            elif item is not _MISSING:
                values[name] = shape.load(item)
            elif required:
                raise Refused("nothing", f"where {record.label} requires a value")
    except Refused as refused:
        raise refused.at_key(key) from refused.__cause__
    if record.tag is not None and data.get(record.tag[0], record.tag[1]) != record.tag[1]:
        raise Refused(shown(data[record.tag[0]]), f"which is not the tag of {record.label}").at_key(
            record.tag[0]
        )
    if record.closed:
        _refuse_extra(record, data)
    return values


def _refuse_extra(record: ObjectRecord | DictRecord, data: Mapping[str, Any]) -> None:
    known = {field.key for field in record.fields}
    if record.tag is not None:
        known.add(record.tag[0])
    for key in data:
        if key not in known:
            raise Refused(f"the key {shown(key)}", f"which {record.label} does not declare")
