"""From a URL to the store: ``sqlite:///relative.db``, ``sqlite:////absolute.db``."""

from __future__ import annotations

from perdure.errors import UsageError
from perdure.stores.sqlite.store import SqliteStore
from perdure.url import without_password


def from_url(path: str, options: dict[str, str]) -> SqliteStore:
    """Return the unopened store of a URL.

    Args:
        path: what follows ``sqlite://``: one slash, then the file's path.
        options: ``namespace`` and ``synchronous``, as :class:`SqliteStore` takes them.

    Raises:
        UsageError: the path names no file, or an option is unknown.
    """
    if not path.startswith("/") or path.endswith("/"):
        raise UsageError(
            f"{without_password(f'sqlite://{path}')} names no file; write sqlite:///relative.db or sqlite:////absolute.db"
        )
    namespace = options.pop("namespace", "default")
    synchronous = options.pop("synchronous", "full")
    if options:
        raise UsageError(
            f"sqlite:// takes ?namespace=… and ?synchronous=…, got {', '.join(sorted(options))}"
        )
    return SqliteStore(path[1:], namespace, synchronous=synchronous)
