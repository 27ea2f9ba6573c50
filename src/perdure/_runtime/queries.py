"""Which runs somebody asks for: checked once, for ``app.runs`` and for the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from perdure import _late as late
from perdure._engine.registry import Registry
from perdure.errors import UsageError, shown
from perdure.handle import VersionEntry
from perdure.ids import check_id
from perdure.model.records import REASONS, TERMINAL, Micros, RunQuery, Status, WorkerRecord
from perdure.model.versions import Pinned
from perdure.store import Store


def run_query(
    *,
    status: Status | str | Iterable[Status | str] = (),
    name: str | Iterable[str] = (),
    reason: str | None = None,
    queue: str | None = None,
    unique_key: str | None = None,
    tag: str | None = None,
    parent_id: str | None = None,
    created_after: Micros | None = None,
    created_before: Micros | None = None,
    text: str | None = None,
    id_prefix: str | None = None,
    limit_key: str | None = None,
    version: str | None = None,
) -> RunQuery:
    """Return the query of these filters; limit and page are left to the caller.

    Args are those of :meth:`perdure.App.runs`, with instants in the store's microseconds.

    Raises:
        UsageError: there is no such status or reason; the message suggests or lists those there
            are.
        InvalidValue: another filter holds what no id, name or key does.
    """
    if reason is not None:
        check_one_of("reason", reason, REASONS)
    return RunQuery(
        statuses=_statuses(status),
        definitions=tuple(check_id(one, "name") for one in several(name)),
        reason=reason,
        parent_id=optional_id(parent_id, "parent"),
        queue=optional_id(queue, "queue"),
        unique_key=optional_id(unique_key, "unique_key"),
        tag=optional_id(tag, "tag"),
        created_after=created_after,
        created_before=created_before,
        text=optional_id(text, "text"),
        id_prefix=optional_id(id_prefix, "id_prefix"),
        limit_key=optional_id(limit_key, "limit_key"),
        version=optional_id(version, "version"),
    )


def ended_query(
    status: Status | str | Iterable[Status | str], name: str | Iterable[str]
) -> RunQuery:
    """Return the query of ended runs.

    Raises:
        UsageError: there is no such status, or runs of it have not ended.
        InvalidValue: no definition can have that name.
    """
    query = run_query(status=status, name=name)
    for each in query.statuses:
        if each not in TERMINAL:
            ended = ", ".join(one for one in Status if one in TERMINAL)
            raise UsageError(f"only ended runs are pruned, which are {ended}; got {str(each)!r}")
    return query


async def check_known(query: RunQuery, registry: Registry, store: Store) -> None:
    """Raise for a definition's name that nobody knows, with one that is written alike.

    An app that defines nothing is a client of others, and takes any name.

    Raises:
        UnknownDefinition: neither has this app a definition of that name, nor is there a run.
    """
    if not len(registry):
        return
    for name in query.definitions:
        if registry.find(name) is not None:
            continue
        if not await store.list_runs(RunQuery(definitions=(name,), limit=1)):
            registry[name]


def version_entries(pins: Iterable[Pinned], workers: Iterable[WorkerRecord]) -> list[VersionEntry]:
    """Return which versions there are, by definition and version."""
    runs = {(one.definition, one.version): one.runs for one in pins}
    having: dict[tuple[str, str], list[str]] = {code: [] for code in runs}
    for worker in workers:
        for code in dict.fromkeys((*worker.definitions.items(), *worker.earlier)):
            having.setdefault(code, []).append(worker.worker_id)
    return [
        VersionEntry(name, version, runs.get((name, version), 0), tuple(ids))
        for (name, version), ids in sorted(having.items())
    ]


def optional_id(given: str | None, what: str) -> str | None:
    """Return an id, a name or a key if one is given, and refuse what is none."""
    return None if given is None else check_id(given, what)


def several(given: object) -> tuple[Any, ...]:
    """Return what was given as one or as several."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        return tuple(cast("Any", given))
    return (given,)


def _statuses(given: Status | str | Iterable[Status | str]) -> tuple[Status, ...]:
    names = several(given)
    for name in names:
        check_one_of("status", name, tuple(Status))
    return tuple(Status(name) for name in names)


def check_one_of(what: str, given: object, known: tuple[str, ...]) -> None:
    """Raise for a word that is none of those that there are, with one that is written alike.

    Raises:
        UsageError: it is none of them.
    """
    if given in known:
        return
    close = late.difflib.get_close_matches(given, known, n=1) if isinstance(given, str) else []
    hint = f"did you mean {str(close[0])!r}?" if close else f"there are {', '.join(known)}"
    raise UsageError(f"there is no {what} {shown(given)}; {hint}")
