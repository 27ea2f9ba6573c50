"""Records: dataclasses, msgspec structs, typed dicts, named tuples, attrs classes.

Every field is written, also those at their default, so that a default that changes later does
not change what is stored. Unknown fields of stored data are passed over, so that an older worker
reads what a newer one wrote, unless the class itself forbids them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from ._refusal import DEEPEST, Refused, kind_of, refuse_depth, shown
from ._shapes import Shape
from ._untyped import AS_IS

__all__ = ["DictRecord", "Field", "ObjectRecord", "TupleRecord"]

_MISSING: Any = object()


class Field(NamedTuple):
    """One field of a record: its name, its key in JSON, its shape, whether data must have it."""

    name: str
    key: str
    shape: Shape
    required: bool


class ObjectRecord(Shape):
    """A class with fields: dataclass, Struct, attrs. A JSON object.

    ``fields`` is set after construction, because a class may contain itself.

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
        self.tag = tag
        self.takes = frozenset({cls})
        self.closed = closed
        self.fields: tuple[Field, ...] = ()
        self.make: Callable[[dict[str, Any]], Any] = lambda values: cls(**values)

    def dump(self, value: Any, depth: int) -> Any:
        if type(value) is not self.cls:
            self._refuse_other(value)
        if depth >= DEEPEST:
            refuse_depth(value)
        depth += 1
        out: dict[str, Any] = {} if self.tag is None else {self.tag[0]: self.tag[1]}
        name = ""
        try:
            for name, key, shape, _ in self.fields:
                item = getattr(value, name, _MISSING)
                if type(item) in AS_IS and type(item) in shape.atoms:
                    out[key] = item
                elif item is _MISSING:
                    raise Refused("nothing", "because the field was never set")
                elif item is not msgspec.UNSET:
                    out[key] = shape.dump(item, depth)
        except Refused as refused:
            raise refused.at_key(name) from refused.__cause__
        return out

    def load(self, data: Any) -> Any:
        if type(data) is not dict:
            self.unfit(data)
        values = _load_fields(self, data)
        try:
            return self.make(values)
        except Exception as error:  # noqa: BLE001 -- the class's own checks, whatever they raise
            raise Refused(
                f"data that {self.label} refuses", f"{type(error).__name__}: {error}"
            ) from error

    def _refuse_other(self, value: Any) -> None:
        if isinstance(value, self.cls):
            raise Refused(
                kind_of(value),
                f"a subclass of the declared {self.label}, whose own fields would be lost",
                "annotate the place with the subclass or a union",
            )
        self.refuse(value)


class DictRecord(Shape):
    """A TypedDict: a dict with known keys. A JSON object."""

    kinds = frozenset({dict})
    takes = frozenset({dict})

    def __init__(self, label: str, *, closed: bool = False) -> None:
        self.label = label
        self.closed = closed
        self.tag: tuple[str, Any] | None = None
        self.fields: tuple[Field, ...] = ()

    def dump(self, value: Any, depth: int) -> Any:
        if type(value) is not dict:
            self.refuse(value)
        if depth >= DEEPEST:
            refuse_depth(value)
        out: dict[str, Any] = {}
        name = ""
        try:
            for name, key, shape, required in self.fields:
                if name in value:
                    out[key] = shape.dump(value[name], depth + 1)
                elif required:
                    raise Refused("nothing", f"where {self.label} requires a value")
        except Refused as refused:
            raise refused.at_key(name) from refused.__cause__
        if len(out) != len(value):
            known = {field.name for field in self.fields}
            extra = next(key for key in value if key not in known)
            raise Refused(f"the key {shown(extra)}", f"which {self.label} does not declare")
        return out

    def load(self, data: Any) -> Any:
        if type(data) is not dict:
            self.unfit(data)
        return _load_fields(self, data)


class TupleRecord(Shape):
    """A NamedTuple: a JSON array in the order of its fields."""

    kinds = frozenset({list})

    def __init__(self, cls: type, label: str) -> None:
        self.cls = cls
        self.label = label
        self.takes = frozenset({cls})
        self.fields: tuple[Field, ...] = ()

    def dump(self, value: Any, depth: int) -> Any:
        if type(value) is not self.cls:
            self.refuse(value)
        if depth >= DEEPEST:
            refuse_depth(value)
        out: list[Any] = []
        try:
            for item, field in zip(value, self.fields, strict=True):
                out.append(field.shape.dump(item, depth + 1))
        except Refused as refused:
            raise refused.at_key(self.fields[len(out)].name) from refused.__cause__
        return out

    def load(self, data: Any) -> Any:
        if type(data) is not list:
            self.unfit(data)
        needed = sum(field.required for field in self.fields)
        if not needed <= len(data) <= len(self.fields):
            raise Refused(f"{len(data)} items", f"where {self.label} is declared")
        items: list[Any] = []
        try:
            for item, field in zip(data, self.fields, strict=False):
                items.append(field.shape.load(item))
        except Refused as refused:
            raise refused.at_key(self.fields[len(items)].name) from refused.__cause__
        return self.cls(*items)


def _load_fields(record: ObjectRecord | DictRecord, data: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    key = ""
    try:
        for name, key, shape, required in record.fields:
            item = data.get(key, _MISSING)
            if type(item) in shape.atoms:
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
    known = {field.key for field in record.fields} | ({record.tag[0]} if record.tag else set())
    for key in data:
        if key not in known:
            raise Refused(f"the key {shown(key)}", f"which {record.label} does not declare")
