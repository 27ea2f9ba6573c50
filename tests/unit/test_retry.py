"""Back-off curves and the decision to try again."""

import functools
import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.duration import to_micros
from perdure.errors import DefinitionError, InvalidDuration, NonRetryable, RetryAfter
from perdure.retry import Backoff, RetryPolicy, constant, exponential, linear
from perdure.step import step

SECOND = 1_000_000


class Highest(random.Random):
    """Takes off as much jitter as there is."""

    def random(self):
        return 1.0


def delays(backoff, attempts=range(1, 6)):
    return [backoff.delay(attempt, random.Random(1)) / SECOND for attempt in attempts]


def test_curves():
    """Each kind grows as its name says, up to its cap."""
    assert delays(constant("2s")) == [2, 2, 2, 2, 2]
    assert delays(linear("2s", cap="7s", jitter=0)) == [2, 4, 6, 7, 7]
    assert delays(exponential("1s", factor=3, cap="30s", jitter=0)) == [1, 3, 9, 27, 30]


def test_the_defaults_are_the_published_ones():
    """Exponential from 1 s, factor 2, cap 1 h, jitter 10 %."""
    assert exponential() == Backoff()
    default = Backoff()
    assert (default.kind, default.initial, default.factor) == (
        "exponential",
        timedelta(seconds=1),
        2,
    )
    assert (default.cap, default.jitter) == (timedelta(hours=1), 0.1)


def test_jitter_only_shortens():
    """A delay is between its curve and the jitter's share less, so that the cap holds."""
    assert exponential("10s").delay(1, Highest()) == 9 * SECOND
    assert exponential("10s").delay(1, random.Random(1)) <= 10 * SECOND


@given(st.integers(1, 10_000), st.floats(1, 1_000), st.sampled_from(["0s", "1ms", "1s", "2h"]))
def test_no_attempt_overflows(attempt, factor, initial):
    """Ten thousand attempts of any factor stay within the cap."""
    for backoff in (exponential(initial, factor=factor), linear(initial)):
        assert 0 <= backoff.delay(attempt, random.Random(attempt)) <= to_micros("1h")


@pytest.mark.parametrize(
    "make, why",
    [
        (lambda: exponential("soon"), "back-off initial: 'soon' is no duration"),
        (lambda: exponential(5), "bare number 5"),
        (lambda: exponential(cap="-1s"), "back-off cap: .*negative"),
        (lambda: exponential(factor=0.5), "factor must be a number from 1 .* got 0.5"),
        (lambda: exponential(factor=float("nan")), "factor .* got nan"),
        (lambda: exponential(factor=True), "factor .* got True"),
        (lambda: exponential(jitter=1.1), "jitter must be a number from 0 to 1, got 1.1"),
        (lambda: exponential(jitter="10%"), "jitter"),
        (lambda: Backoff("cubic"), "kind must be one of .* got 'cubic'"),
        (lambda: RetryPolicy(0), "max_attempts .* got 0"),
        (lambda: RetryPolicy(True), "max_attempts .* got True"),
        (lambda: RetryPolicy(1.0), "max_attempts .* got 1.0"),
        (lambda: RetryPolicy(2, "1s"), "backoff must be .* got '1s'"),
        (lambda: RetryPolicy(2, retry_on="ValueError"), "retry_on must be"),
        (lambda: RetryPolicy(2, retry_on=(ValueError, 3)), "exception classes, got 3"),
        (lambda: RetryPolicy(2, retry_on=int), "retry_on must be .* got <class 'int'>"),
    ],
)
def test_a_wrong_policy_is_refused_while_it_is_declared(make, why):
    """A wrong value is a DefinitionError that says what was got."""
    with pytest.raises(DefinitionError, match=why):
        make()


def test_async_functions_are_refused():
    """A predicate or back-off that would have to be awaited is refused."""

    async def ask(*_args):
        return True

    with pytest.raises(DefinitionError, match="plain function"):
        RetryPolicy(2, retry_on=ask)
    with pytest.raises(DefinitionError, match="plain function"):
        RetryPolicy(2, ask)


def decide(policy, error, attempt=1):
    return policy.decide(error, attempt, random.Random(1))


def test_attempts_are_bounded():
    """The first attempt counts; after the last there is none."""
    policy = RetryPolicy(3, constant("1s"))
    assert [decide(policy, ValueError(), n) for n in (1, 2, 3, 4)] == [SECOND, SECOND, None, None]
    assert decide(RetryPolicy(), ValueError()) is None


def test_non_retryable_is_never_tried_again():
    """NonRetryable and its subclasses end it whatever is left."""

    class Refused(NonRetryable):
        pass

    policy = RetryPolicy(9, retry_on=lambda _: True)
    assert decide(policy, NonRetryable()) is None
    assert decide(policy, Refused()) is None


def test_retry_after_chooses_the_delay_within_the_attempts():
    """RetryAfter's delay counts, whatever the predicate says, but not beyond max_attempts."""
    policy = RetryPolicy(2, retry_on=(KeyError,))
    assert decide(policy, RetryAfter("10m")) == 600 * SECOND
    assert decide(policy, RetryAfter(timedelta(seconds=1))) == SECOND
    assert decide(policy, RetryAfter("10m"), 2) is None


def test_a_wrong_delay_of_retry_after_falls_back_to_the_back_off():
    """The wish to try again is kept, and a note says what was wrong with the delay."""
    error = RetryAfter(30)
    assert decide(RetryPolicy(2, constant("1s")), error) == SECOND
    assert "bare number 30" in error.__notes__[0]


def test_retry_on():
    """Classes, one class, a predicate, or nothing say which errors are worth it."""
    for retry_on in (
        (KeyError, ValueError),
        ValueError,
        lambda error: isinstance(error, ValueError),
    ):
        policy = RetryPolicy(2, constant("1s"), retry_on)
        assert decide(policy, ValueError()) == SECOND
        assert decide(policy, TypeError()) is None
    assert decide(RetryPolicy(2, constant("1s")), TypeError()) == SECOND
    assert decide(RetryPolicy(2, constant("1s")), KeyboardInterrupt()) is None


def test_a_function_as_back_off():
    """A function gets the attempt and the error and returns a duration."""
    policy = RetryPolicy(9, lambda attempt, error: f"{attempt}{error}")
    assert decide(policy, ValueError("m"), 3) == 180 * SECOND


@pytest.mark.parametrize(
    "policy",
    [
        RetryPolicy(2, retry_on=lambda error: error.missing),
        RetryPolicy(2, lambda attempt, error: 1 / 0),
        RetryPolicy(2, lambda attempt, error: 30),
        RetryPolicy(2, lambda attempt, error: None),
    ],
    ids=["predicate raises", "back-off raises", "bare number", "nothing"],
)
def test_a_broken_policy_gives_up_and_says_so(policy):
    """User code that raises while deciding ends it, with a note on the error."""
    error = ValueError("the step's")
    assert decide(policy, error) is None
    assert error.__notes__[0].startswith("not tried again")


def test_a_predicate_that_returns_a_coroutine_gives_up():
    """A coroutine is true, so it must not count as yes."""

    async def later(_error):
        return False

    error = ValueError()
    policy = RetryPolicy(2, retry_on=functools.partial(lambda ask, error: ask(error), later))
    assert decide(policy, error) is None
    assert "async" in error.__notes__[0]


def test_options_of_an_inline_step_are_refused_where_they_are_given():
    """Not first in the body that makes the call, where they would fail the run."""
    for wrong in ({"max_attempts": 0}, {"at_most_once": True, "max_attempts": 2}, {"backoff": 3}):
        with pytest.raises(DefinitionError):
            step.options(**wrong)
    with pytest.raises(InvalidDuration, match=r"step\.options"):
        step.options(timeout="soon")
