"""From a query to the statement that lists its runs.

Which index serves which field: ``run_id`` the beginning of an id, ``run_child`` the parent,
``run_caused`` the cause, ``run_ailing`` and ``run_held`` the statuses that few of many runs have.
For the other fields runs are looked at from the newest on until the page is full. SQLite must be
told so: left alone it takes any index that begins with the namespace and sorts all of it, 280 ms
for the newest 20 of 300,000.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from perdure.model.events import EventQuery
from perdure.model.records import RunQuery, ascii_lower
from perdure.stores.sqlite import rows
from perdure.stores.sqlite.codes import STATUS_CODES, pack_id
from perdure.stores.sqlite.events import EVENT, FROM
from perdure.stores.sqlite.names import Names

_AILING = {3, 5, 6}  # the statuses of the index run_ailing
_RUNNING = {1}  # and of run_held

_NO_NAME: Final = -1  # no name has this number

_HIGHEST = chr(0x10FFFF)
_SURROGATES = range(0xD800, 0xE000)  # no text that can be stored has one of these

_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ZEROS = "00000000-0000-0000-0000-000000000000"

# SQLite's lower() knows ASCII alone, which is what the contract asks for.
_ELSEWHERE: Final = (
    "definition IN (SELECT name.id FROM name WHERE instr(lower(name.text), ?) > 0)"
    " OR instr(lower(unique_key), ?) > 0"
    " OR tags IS NOT NULL AND EXISTS ("
    "SELECT 1 FROM json_each(tags) WHERE instr(lower(json_each.value), ?) > 0)"
)
_MENTIONS: Final = f"({_ELSEWHERE} OR typeof(id) = 'text' AND instr(lower(id), ?) > 0)"

# A UUID is bytes: its text is made for each row, and only for what may be a part of one.
_MENTIONS_DIGITS: Final = (
    f"({_ELSEWHERE} OR instr(CASE typeof(id) WHEN 'blob' THEN"
    " lower(substr(hex(id), 1, 8) || '-' || substr(hex(id), 9, 4) || '-' || substr(hex(id), 13, 4)"
    " || '-' || substr(hex(id), 17, 4) || '-' || substr(hex(id), 21))"
    " ELSE lower(id) END, ?) > 0)"
)
_DIGITS = frozenset("0123456789abcdef-")

_HAS_TAG: Final = (
    "tags IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(tags) WHERE json_each.value = ?)"
)

# Two ranges of run_id: ids that are texts, and UUIDs, which are bytes and come after all texts.
# Only their numbers are sorted; rows are read for the page alone.
_BEGINS: Final = (
    "seq IN (SELECT seq FROM run WHERE namespace = ? AND id >= ? AND id < ?"
    " UNION ALL SELECT seq FROM run WHERE namespace = ? AND id BETWEEN ? AND ?)"
)


class Statement(msgspec.Struct, frozen=True):
    """SQL and its parameters."""

    text: str
    parameters: list[Any]


def list_statement(query: RunQuery, namespace: int, names: Names) -> Statement | None:
    """Return the statement of a list, of the columns FULL; None where nothing can match."""
    found = _matching(query, namespace, names)
    if found is None:
        return None
    text = f"SELECT {rows.FULL} {found.text} ORDER BY seq DESC LIMIT ?"
    return Statement(text, [*found.parameters, query.limit])


def count_statement(query: RunQuery, namespace: int, names: Names) -> Statement | None:
    """Return the statement of how many match; None where nothing can."""
    found = _matching(msgspec.structs.replace(query, before=None), namespace, names)
    return None if found is None else Statement(f"SELECT count(*) {found.text}", found.parameters)


def _matching(query: RunQuery, namespace: int, names: Names) -> Statement | None:
    """Return from where on a statement says which runs match; None where nothing can."""
    numbers = _numbers(query, names)
    if numbers is None or not all(map(_is_storable, _texts(query))):
        return None
    definitions, queue, version = numbers
    where = ["namespace = ?"]
    parameters: list[Any] = [namespace]
    if query.statuses:
        where += _of_status({STATUS_CODES[status] for status in query.statuses})
    if definitions:
        where.append(f"definition IN ({', '.join(map(str, definitions))})")
    parent = None if query.parent_id is None else pack_id(query.parent_id)
    text = ascii_lower(query.text or "")
    narrowing: dict[str, Sequence[Any]] = {
        "queue = ?": (queue,),
        "CASE pin WHEN 0 THEN version ELSE pin END = ?": (version,),
        "reason = ?": (query.reason,),
        "parent = ? AND parent IS NOT NULL": (parent,),
        "caused_by = ? AND caused_by IS NOT NULL": (query.caused_by,),
        "limit_key = ?": (query.limit_key,),
        "unique_key = ?": (query.unique_key,),
        "created_at >= ?": (query.created_after,),
        "created_at < ?": (query.created_before,),
        "seq < ?": (query.before,),
        _BEGINS: _id_ranges(namespace, query.id_prefix) if query.id_prefix else (None,),
        _HAS_TAG: (query.tag,),
        _MENTIONS_DIGITS if _DIGITS.issuperset(text) else _MENTIONS: [text or None] * 4,
    }
    for condition, values in narrowing.items():
        if values[0] is not None:
            where.append(condition)
            parameters += values
    table = "run" if _has_index(query) else "run NOT INDEXED"
    return Statement(f"FROM {table} WHERE {' AND '.join(where)}", parameters)


def events_statement(query: EventQuery, namespace: int, names: Names) -> Statement | None:
    """Return the statement of a list of events; None where nothing can match."""
    given = (query.type, query.key, query.run_id, query.event_id)
    if not all(_is_storable(text) for text in given if text is not None):
        return None
    type_ = None if query.type is None else names.find(query.type)
    if query.type is not None and type_ is None:
        return None
    run = None if query.run_id is None else pack_id(query.run_id)
    narrowing: dict[str, Sequence[Any]] = {
        "event.type = ?": (type_,),
        "event.key = ?": (query.key,),
        "event.run = (SELECT seq FROM run WHERE namespace = ? AND id = ?)": (
            (namespace, run) if run is not None else (None,)
        ),
        "event.id = ?": (query.event_id,),
        "event.seq < ?": (query.before,),
    }
    where, parameters = ["event.namespace = ?"], [namespace]
    for condition, values in narrowing.items():
        if values[0] is not None:
            where.append(condition)
            parameters += values
    text = f"SELECT {EVENT} {FROM} WHERE {' AND '.join(where)} ORDER BY event.seq DESC LIMIT ?"
    return Statement(text, [*parameters, query.limit])


def _has_index(query: RunQuery) -> bool:
    """Tell whether few runs are found by an index, so that sorting them costs little."""
    if query.id_prefix:
        return False  # has its own, inside its condition
    codes = {STATUS_CODES[status] for status in query.statuses}
    is_rare = bool(codes) and (codes <= _AILING or codes == _RUNNING)
    return is_rare or query.parent_id is not None or query.caused_by is not None


def _of_status(codes: set[int]) -> list[str]:
    if codes == _RUNNING:
        return ["status = 1"]
    among = f"status IN ({', '.join(map(str, sorted(codes)))})"
    # What the index says of itself must stand there word for word, or it is not used.
    return [among, "status > 2 AND status <> 4"] if codes <= _AILING else [among]


def _numbers(query: RunQuery, names: Names) -> tuple[list[int], int | None, int | None] | None:
    """Return the numbers of definitions, queue and version; None where there is no such name."""
    definitions = [
        number
        for name in query.definitions
        if _is_storable(name) and (number := names.find(name)) is not None
    ]
    if query.definitions and not definitions:
        return None
    queue, version = _number(query.queue, names), _number(query.version, names)
    if _NO_NAME in {queue, version}:
        return None
    return definitions, queue, version


def _number(text: str | None, names: Names) -> int | None:
    """Return the number of a name, None where none is asked for."""
    if text is None:
        return None
    found = names.find(text) if _is_storable(text) else None
    return _NO_NAME if found is None else found


def _texts(query: RunQuery) -> Iterable[str]:
    given = (query.reason, query.parent_id, query.unique_key, query.tag, query.text)
    others = (query.id_prefix, query.caused_by, query.limit_key)
    return (text for text in (*given, *others) if text is not None)


def _is_storable(text: str) -> bool:
    """Tell whether the file can hold this text: with a lone surrogate in it, it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _id_ranges(namespace: int, prefix: str) -> list[Any]:
    """Return the parameters of _BEGINS."""
    lowest, highest = (
        prefix + _ZEROS[len(prefix) :],
        prefix + _ZEROS[len(prefix) :].replace("0", "f"),
    )
    least, most = b"", b""  # no id is the empty blob
    if _UUID.fullmatch(lowest):
        least, most = (bytes.fromhex(text.replace("-", "")) for text in (lowest, highest))
    return [namespace, prefix, _after(prefix), namespace, least, most]


def _after(prefix: str) -> str | bytes:
    """Return what follows all texts that begin with the prefix, in SQLite's order of UTF-8."""
    kept = prefix.rstrip(_HIGHEST)
    if not kept:
        return b""  # every blob follows every text
    following = ord(kept[-1]) + 1
    if following in _SURROGATES:
        following = _SURROGATES.stop
    return kept[:-1] + chr(following)
