"""When to try again: back-off curves and the policy that decides.

Values and arithmetic only; the engine stores the due time that comes out. Randomness is passed
in, so that a simulation draws the same jitter.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, TypeAlias, cast

import msgspec

from .duration import Duration, to_micros, to_timedelta
from .errors import DefinitionError, InvalidDuration, NonRetryable, RetryAfter, shown

__all__ = ["Backoff", "RetryOn", "RetryPolicy", "constant", "exponential", "linear"]

RetryOn: TypeAlias = (
    Callable[[BaseException], bool] | tuple[type[BaseException], ...] | type[BaseException] | None
)
"""Which errors are worth another attempt: a predicate, exception classes, or None for all."""

_KINDS = ("constant", "linear", "exponential")
_MOST_ATTEMPTS = 2**31 - 1  # what every store can count


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait before the next attempt; make one with the three functions of this module.

    The delay after the n-th attempt is ``initial`` (constant), ``initial * n`` (linear) or
    ``initial * factor ** (n - 1)`` (exponential), at most ``cap``, and shortened by a random
    share of up to ``jitter``: shortened only, so that the cap holds and delays at the cap still
    spread.

    Attributes:
        kind: ``"constant"``, ``"linear"`` or ``"exponential"``.
        initial: the delay after the first attempt.
        factor: the growth of the exponential kind, at least 1.
        cap: the longest delay.
        jitter: the largest share to take off, from 0 to 1.
    """

    kind: Literal["constant", "linear", "exponential"] = "exponential"
    initial: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    cap: timedelta = timedelta(hours=1)
    jitter: float = 0.1

    def __post_init__(self) -> None:
        """Check every field."""
        if self.kind not in _KINDS:
            raise DefinitionError(f"back-off kind must be one of {_KINDS}, got {shown(self.kind)}")
        msgspec.structs.force_setattr(self, "initial", _length(self.initial, "initial"))
        msgspec.structs.force_setattr(self, "cap", _length(self.cap, "cap"))
        _check_number(self.factor, "factor", 1, 1_000_000)
        _check_number(self.jitter, "jitter", 0, 1)

    def delay(self, attempt: int, rng: random.Random) -> int:
        """Return microseconds to wait after ``attempt`` (counted from 1) failed."""
        initial, cap = to_micros(self.initial), to_micros(self.cap)
        micros = min(cap, self._grown(initial, cap, attempt - 1))
        if self.jitter:
            micros -= round(micros * self.jitter * rng.random())
        return micros

    def _grown(self, initial: int, cap: int, times: int) -> int:
        if self.kind == "constant" or initial == 0 or times <= 0:
            return initial
        if self.kind == "linear":
            return initial * (times + 1)
        # Compared as logarithms: 2 ** 10_000 fits no float.
        if times * math.log(self.factor) >= math.log(max(cap, 1) / initial):
            return max(cap, initial)
        return round(initial * self.factor**times)


def constant(delay: Duration = "1s", *, jitter: float = 0.0) -> Backoff:
    """Return a back-off that always waits the same: ``constant("30s")``."""
    length = _length(delay, "delay")
    return Backoff("constant", length, cap=length, jitter=jitter)


def linear(initial: Duration = "1s", *, cap: Duration = "1h", jitter: float = 0.1) -> Backoff:
    """Return a back-off of once, twice, three times ... ``initial``."""
    return Backoff("linear", _length(initial, "initial"), cap=_length(cap, "cap"), jitter=jitter)


def exponential(
    initial: Duration = "1s",
    *,
    factor: float = 2.0,
    cap: Duration = "1h",
    jitter: float = 0.1,
) -> Backoff:
    """Return a back-off that multiplies: by default 1 s, 2 s, 4 s ... 1 h, each up to 10 % less."""
    return Backoff("exponential", _length(initial, "initial"), factor, _length(cap, "cap"), jitter)


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often and when to try again, and which errors are worth it.

    Attributes:
        max_attempts: how many attempts there are in all, the first included.
        backoff: the delay before the next attempt: a ``Backoff``, or a function of the attempt
            that failed (counted from 1) and its error that returns a duration.
        retry_on: exception classes, or a predicate of the error; None retries every ``Exception``.
    """

    max_attempts: int = 1
    backoff: Backoff | Callable[[int, BaseException], Duration] = msgspec.field(
        default_factory=Backoff
    )
    retry_on: RetryOn = None

    def __post_init__(self) -> None:
        """Check every field."""
        attempts: object = self.max_attempts
        if type(attempts) is not int or not 1 <= attempts <= _MOST_ATTEMPTS:
            raise DefinitionError(
                "max_attempts must be a whole number of at least 1 (the first attempt counts) and "
                f"at most {_MOST_ATTEMPTS}, got {shown(attempts)}"
            )
        if not isinstance(self.backoff, Backoff):
            _check_callable(self.backoff, "backoff", 'a Backoff such as exponential("1s")')
        _check_retry_on(self.retry_on)

    def decide(self, error: BaseException, attempt: int, rng: random.Random) -> int | None:
        """Return microseconds until the next attempt, or None to give up.

        ``NonRetryable`` always gives up and ``RetryAfter`` chooses its delay, within
        ``max_attempts``. A predicate or back-off function that raises gives up too, and says so
        in a note on ``error``.

        Args:
            error: what the attempt raised.
            attempt: its number, counted from 1.
            rng: where jitter comes from.
        """
        if attempt >= self.max_attempts or isinstance(error, NonRetryable):
            return None
        if isinstance(error, RetryAfter):
            return self._chosen(error, attempt, rng)
        try:
            return self._delay(error, attempt, rng) if self._worth_it(error) else None
        except Exception as broken:  # noqa: BLE001 -- user code; noted on the error
            error.add_note(
                f"not tried again: the retry policy itself raised "
                f"{type(broken).__name__}: {_text(broken)}"
            )
            return None

    def _chosen(self, error: RetryAfter, attempt: int, rng: random.Random) -> int | None:
        try:
            return to_micros(error.delay)
        except InvalidDuration as wrong:
            error.add_note(f"its delay was ignored: {wrong}")
        try:
            return self._delay(error, attempt, rng)
        except Exception as broken:  # noqa: BLE001 -- user code; noted on the error
            error.add_note(f"not tried again: the back-off raised {_text(broken)}")
            return None

    def _worth_it(self, error: BaseException) -> bool:
        if self.retry_on is None:
            return isinstance(error, Exception)
        # A class is callable, but as a predicate ValueError(error) would be true for every error.
        if isinstance(self.retry_on, type) or not callable(self.retry_on):
            return isinstance(error, self.retry_on)
        answer: object = self.retry_on(error)
        if inspect.iscoroutine(answer):
            answer.close()
            raise TypeError("retry_on is async; write it with def")
        return bool(answer)

    def _delay(self, error: BaseException, attempt: int, rng: random.Random) -> int:
        if isinstance(self.backoff, Backoff):
            return self.backoff.delay(attempt, rng)
        answer: Any = self.backoff(attempt, error)
        if inspect.iscoroutine(answer):
            answer.close()
            raise TypeError("backoff is async; write it with def")
        return to_micros(answer)


def _check_retry_on(given: object) -> None:
    if given is None or _is_error_class(given):
        return
    if isinstance(given, tuple):
        for cls in cast("tuple[object, ...]", given):
            if not _is_error_class(cls):
                raise DefinitionError(f"retry_on must hold exception classes, got {shown(cls)}")
        return
    _check_callable(given, "retry_on", "exception classes")


def _is_error_class(given: object) -> bool:
    return isinstance(given, type) and issubclass(given, BaseException)


def _check_callable(given: object, what: str, instead: str) -> None:
    if not callable(given) or isinstance(given, type):
        raise DefinitionError(f"{what} must be {instead} or a function, got {shown(given)}")
    if inspect.iscoroutinefunction(given):
        raise DefinitionError(f"{what} must be a plain function, got the async {shown(given)}")


def _length(given: Duration, what: str) -> timedelta:
    try:
        return to_timedelta(given)
    except InvalidDuration as wrong:
        raise DefinitionError(f"back-off {what}: {wrong}") from wrong


def _check_number(given: object, what: str, low: int, high: int) -> None:
    fits = isinstance(given, (int, float)) and not isinstance(given, bool) and low <= given <= high
    if not fits:
        raise DefinitionError(
            f"back-off {what} must be a number from {low} to {high}, got {shown(given)}"
        )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 -- user code
        return "an error that cannot be printed"
