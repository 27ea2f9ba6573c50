"""What Python says when a durable call is not awaited.

``charge(order)`` without ``await`` in front does nothing. Python notices when it throws the
coroutine away, and warns at the line of the call with the coroutine's name; so the coroutines that
users are handed carry a name that says what is missing. Naming the function once costs a call
nothing; noticing it ourselves would cost every call something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def reads_as(text: str) -> Callable[[F], F]:
    """Let the coroutines of a function be called so in Python's warnings.

    Args:
        text: such as ``"enqueue(…) without `await`"``; Python writes ``coroutine '…' was never
            awaited`` around it.
    """

    def name(function: F) -> F:
        function.__qualname__ = text
        return function

    return name
