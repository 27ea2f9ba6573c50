"""Unions: which member a value is, and which one stored data is.

A value's member is found by its exact Python type. Stored data tells its member by its JSON type
where that is enough (``int | str | None``), by a Literal field or a Struct's tag where each member
has one, and by a tag ``{"$": ["Member", data]}`` everywhere else. What no rule decides is
refused: nothing is ever chosen by trying in order. Nothing depends on the order of the members,
because Python holds ``int | str`` and ``str | int`` for equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import msgspec

from ._classes import DictRecord, ObjectRecord
from ._refusal import Refused, class_of, kind_of, shown
from ._shapes import LiteralShape, PlainShape, Shape
from ._untyped import TAG, encode, tagged

__all__ = ["UnionShape"]


class UnionShape(Shape):
    """One of several shapes.

    Args:
        members: the shapes, with distinct labels.
        equal: tells whether two values are the same in type and value, for the rare case that
            several members accept one value (``list[int] | list[float]``).
    """

    def __init__(self, members: list[Shape], equal: Callable[[Any, Any], bool]) -> None:
        self.members = sorted(members, key=lambda member: (member.label == "None", member.label))
        self.label = " | ".join(member.label for member in self.members)
        self.exact = " | ".join(member.exact for member in self.members)
        self._equal = equal
        takes = [member.takes for member in members]
        known = [exact for exact in takes if exact is not None]
        self.takes = frozenset().union(*known) if len(known) == len(takes) else None
        self.kinds = frozenset[type]().union(*(member.kinds for member in members)) | (
            {dict} if self._tagged else set()
        )
        plain = frozenset(m.cls for m in members if isinstance(m, PlainShape))
        others = [m.takes for m in members if not isinstance(m, PlainShape)]
        if None not in others:
            self.atoms = plain.difference(*(taken for taken in others if taken is not None))

    # ---- which members need a tag --------------------------------------------------------

    @cached_property
    def _tagged(self) -> tuple[Shape, ...]:
        """The members whose data does not tell itself from another's by its JSON type.

        JSON's own types keep their form beside others written as text: of ``str | datetime`` only
        the datetime is tagged.
        """
        return tuple(
            member
            for member in self.members
            if not isinstance(member, PlainShape)
            and any(member.kinds & other.kinds for other in self.members if other is not member)
        )

    @cached_property
    def _field(self) -> tuple[str, dict[tuple[type, Any], Shape]] | None:
        """The key whose value tells the tagged members apart, if they all have one."""
        records = [m for m in self._tagged if isinstance(m, ObjectRecord | DictRecord)]
        if len(records) != len(self._tagged) or not records:
            return None
        for key in sorted(_literals(records[0])):
            owners: dict[tuple[type, Any], Shape] = {}
            claims = 0
            for record in records:
                values = _literals(record).get(key, [])
                claims += max(len(values), 1)
                owners.update({(class_of(value), value): record for value in values})
            if len(owners) == claims:
                return key, owners
        return None

    # ---- writing -------------------------------------------------------------------------

    def dump(self, value: Any, depth: int, /) -> Any:
        member, dumped = self._choose(value, depth)
        if member in self._tagged and self._field is None:
            return tagged(member.label, dumped)
        return dumped

    def _choose(self, value: Any, depth: int) -> tuple[Shape, Any]:
        candidates = self._candidates(value)
        if len(candidates) == 1:
            return candidates[0], candidates[0].dump(value, depth)
        fits: list[tuple[Shape, Any]] = []
        refusals: list[Refused] = []
        for member in candidates:
            try:
                fits.append((member, member.dump(value, depth)))
            except Refused as refused:
                refusals.append(refused)
        if not fits:
            deepest = max(refusals, key=lambda refused: len(refused.segments))
            raise deepest if deepest.segments else self.refusal(value)
        if len(fits) == 1:
            return fits[0]
        # Each may have converted something, such as ints to floats: take the one that did not.
        for member, dumped in fits:
            if self._equal(member.load(_copied(dumped)), value):
                return member, dumped
        raise Refused(
            kind_of(value),
            f"which fits several members of {self.label}",
            "make it fit one of them exactly",
        )

    def _candidates(self, value: Any) -> list[Shape]:
        cls = class_of(value)
        # An int is an int before it is a float.
        exact: list[Shape] = [m for m in self.members if isinstance(m, PlainShape) and m.cls is cls]
        rest = [m for m in self.members if m.takes is not None and cls in m.takes]
        asked = [m for m in self.members if m.takes is None]
        if exact and not asked and all(isinstance(m, PlainShape) for m in rest):
            return exact
        if rest or asked:
            return rest + asked
        # A subclass of a scalar: let each say.
        return self.members

    # ---- reading -------------------------------------------------------------------------

    def load(self, data: Any, /) -> Any:
        if class_of(data) is dict and TAG in data:
            return self._load_tagged(data)
        candidates = [m for m in self.members if class_of(data) in m.kinds]
        plain = [m for m in candidates if m not in self._tagged]
        if not candidates and class_of(data) is int:  # JSON from outside may write 1 for 1.0
            plain = [m for m in self.members if float in m.kinds]
        if plain:
            return plain[0].load(data)
        if self._field is not None and class_of(data) is dict:
            return self._load_by_field(data, *self._field)
        return self._load_only(data, candidates)

    def _load_tagged(self, data: dict[str, Any]) -> Any:
        match data:
            case {"$": [str(label), payload]} if len(data) == 1:
                for member in self._tagged:
                    if member.label == label:
                        return member.load(payload)
                for member in self.members:  # an untyped or dict member's own tags
                    if member not in self._tagged and dict in member.kinds:
                        return member.load(data)
                raise Refused(shown(label), f"which is no member of {self.label}")
            case _:
                raise Refused(shown(data.get(TAG)), "which is no known tag")

    def _load_by_field(
        self, data: dict[str, Any], key: str, owners: dict[tuple[type, Any], Shape]
    ) -> Any:
        value = data.get(key)
        try:
            member = owners[class_of(value), value]
        except (KeyError, TypeError):
            known = [literal for _, literal in owners]
            raise Refused(
                shown(value), f"which names no member of {self.label}", f"use one of {known}"
            ).at_key(key) from None
        return member.load(data)

    def _load_only(self, data: Any, candidates: list[Shape]) -> Any:
        """Read data from outside that carries no tag: exactly one member must accept it."""
        values: list[Any] = []
        for member in candidates:
            try:
                values.append(member.load(_copied(data)))
            except Refused:
                continue
        if len(values) == 1:
            return values[0]
        problem = f"which fits {len(values) or 'no'} members of {self.label}"
        raise Refused(shown(data), problem, "give the members a Literal field that differs")


def _copied(data: Any) -> Any:
    """Return a copy of a JSON form, since loading may reuse its containers."""
    return msgspec.json.decode(encode(data))


def _literals(record: ObjectRecord | DictRecord) -> dict[str, list[Any]]:
    """The JSON values of each field that is a Literal and always written."""
    found = {
        field.key: field.shape.as_json
        for field in record.fields
        if isinstance(field.shape, LiteralShape)
        and (field.required or isinstance(record, ObjectRecord))
    }
    if record.tag is not None:
        found[record.tag[0]] = [record.tag[1]]
    return found
