"""What the pytest plugin does, once a test asks for it; its front is the package pytest_perdure.

The kit runs inside of the test's own coroutine, so that it lives on the test's loop, whichever
plugin runs that, and what it finds at the end is a failure of the test rather than an error of its
teardown.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from perdure.app import App
from perdure.errors import UsageError
from perdure.testing.kit import Kit


def configured_app(place: str) -> App:
    """Return the app that the option ``perdure_app`` names.

    Raises:
        UsageError: it names none.
    """
    if not place:
        raise UsageError(
            'the fixture `perdure` has no app: set perdure_app = "module:app" in pytest\'s '
            "configuration, mark the test with @pytest.mark.perdure(app=…), or write a fixture "
            "perdure_app that returns it"
        )
    return _found(place)


def make_kit(app: App | str, options: dict[str, Any]) -> Kit:
    """Return a kit that does not run yet.

    Args:
        app: the app, or ``"module:attribute"``.
        options: what the marker gave.

    Raises:
        UsageError: there is no such app, or no such option.
    """
    known = [*inspect.signature(Kit).parameters]
    for option in options:
        if option not in known:
            raise UsageError(
                f"@pytest.mark.perdure knows no option {option!r}; there are {', '.join(known)}"
            )
    return Kit(_found(app) if isinstance(app, str) else app, **options)


def _found(place: str) -> App[Any, Any]:
    module, _, attribute = place.partition(":")
    found: object = getattr(importlib.import_module(module), attribute or "app", None)
    if not isinstance(found, App):
        raise UsageError(f'{place!r} is no app; write "module:attribute" of a perdure.App')
    return found  # pyright: ignore[reportUnknownVariableType] -- isinstance knows no arguments


def is_kit(value: object) -> bool:
    """Tell whether the fixture `perdure` is ours."""
    return isinstance(value, Kit)


@contextmanager
def running(item: pytest.Function, kit: Kit) -> Generator[None]:
    """Have the kit run while an async test does; one written with ``def`` starts it itself."""
    test: Any = item.obj
    if not inspect.iscoroutinefunction(test):
        yield
        return

    @functools.wraps(test)
    async def under_test(*args: Any, **kwargs: Any) -> None:
        async with kit:
            await test(*args, **kwargs)

    item.obj = under_test
    try:
        yield
    finally:
        item.obj = test
