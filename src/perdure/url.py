"""From a URL to a store, and a URL as it may be shown: without its password.

No store is imported here; its module is found by the scheme when a URL asks for it.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from perdure.errors import UsageError
from perdure.ids import check_id
from perdure.store import Store

STORES: Final = {"memory": "perdure.stores.memory", "sqlite": "perdure.stores.sqlite"}
"""The module of each URL scheme; it has ``from_url(path, options)``. Loaded when asked for."""

HIDDEN: Final = "***"

_NO_PATH = re.compile("[\x00\ud800-\udfff]")

_LOGIN = re.compile(r"^((?:[^:/?#]*:)?//)?+([^/?#@:]*):(.*)@", re.DOTALL)
"""Scheme if any, user and password. A password that should have been quoted may hold any
character, so it reaches to the last ``@``: rather too much is hidden than too little."""

_SECRET_OPTION = re.compile(
    r"([?&](?:\w*password|passwd|pwd|\w*token|\w*secret)=)[^&#]*", re.IGNORECASE
)


def open_store(url: str) -> Store:
    """Return the unopened store of a URL.

    Raises:
        UsageError: the URL has no known scheme, or an option that the store does not know. No
            message has a password in it.
        InvalidValue: its namespace is no name.
    """
    shown = repr(without_password(url))
    try:
        parts = urlsplit(url)
    except ValueError:
        # Not chained: the message of the standard library quotes what it could not read.
        raise UsageError(f"{shown} is no URL of a store: its host cannot be read") from None
    module = STORES.get(parts.scheme)
    if module is None:
        known = ", ".join(f"{scheme}://" for scheme in sorted(STORES))
        raise UsageError(
            f"no store answers to {shown}; this version knows {known} "
            '(a file is "sqlite:///relative.db" or "sqlite:////absolute.db")'
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    path = unquote(parts.netloc + parts.path)
    if _NO_PATH.search(path):
        raise UsageError(f"{shown} names no file: a path holds no NUL and no lone surrogate")
    if "namespace" in options:
        check_id(options["namespace"], "namespace")
    store: Store = importlib.import_module(module).from_url(path, options)
    return store


def relative_to(url: str, directory: Path) -> str:
    """Return the URL of a file with its path made absolute; any other URL as it is.

    Args:
        url: ``sqlite:///relative.db`` is of a file.
        directory: where a relative path counts from.
    """
    scheme, separator, path = url.partition(":///")
    if scheme != "sqlite" or not separator or not path or Path(unquote(path)).is_absolute():
        return url
    return f"{scheme}:///{quote(directory.resolve().as_posix())}/{path}"


def without_password(url: str) -> str:
    """Return a URL, also one that cannot be read, with ``***`` in the place of its password."""
    hidden = _LOGIN.sub(rf"\g<1>\g<2>:{HIDDEN}@", url)
    return _SECRET_OPTION.sub(rf"\g<1>{HIDDEN}", hidden)
