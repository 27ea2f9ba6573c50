"""Ids: form, order, uniqueness, determinism, and what a client may choose."""

import os
import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import InvalidValue
from perdure.ids import LONGEST_ID, Ids, check_id, derived_id


def test_a_run_id_is_a_uuid_of_version_7_with_its_time():
    """A run id carries the wall clock's milliseconds in front."""
    made = uuid.UUID(Ids(random.Random(1), lambda: 1_700_000_000_123).run_id())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == 1_700_000_000_123


def test_run_ids_rise_inside_one_millisecond():
    """Ids of one millisecond sort in the order they were drawn."""
    ids = Ids(random.Random(1), lambda: 5)
    drawn = [ids.run_id() for _ in range(5_000)]
    assert drawn == sorted(drawn)
    assert len(set(drawn)) == len(drawn)


def test_run_ids_rise_when_the_clock_steps_back():
    """A wall clock that steps back does not bring ids back."""
    clock = iter([1_000, 900, 1_000, 1_001, 3])
    ids = Ids(random.Random(1), lambda: next(clock))
    drawn = [ids.run_id() for _ in range(5)]
    assert drawn == sorted(drawn)


def test_run_ids_carry_into_the_next_millisecond():
    """When the random part is used up, the time part goes on."""

    class Highest(random.Random):
        def getrandbits(self, k):
            return (1 << k) - 1

    ids = Ids(Highest(), lambda: 1)
    ids._low, ids._millis = (1 << 74) - 1, 1
    before = ids.run_id()
    assert uuid.UUID(before).int >> 80 == 2
    assert ids.run_id() > before


def test_the_same_seed_draws_the_same_ids():
    """A simulation with the same seed sees the same ids."""
    one, two = (Ids(random.Random(7), lambda: 1) for _ in range(2))
    assert [one.run_id(), one.token()] == [two.run_id(), two.token()]


def test_two_default_sources_draw_different_ids():
    """The default randomness is shared, so that two Ids never draw the same."""
    assert Ids().run_id() != Ids().run_id()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_draws_other_tokens():
    """A forked child does not repeat its parent's random numbers."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(Ids().token()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 100)) != Ids().token()
    os.close(reader)
    os.close(writer)


def test_a_token_is_never_zero():
    """Zero means no token, so it is never drawn."""

    class Zero(random.Random):
        def getrandbits(self, k):
            return 0

    assert Ids(Zero()).token() == 1
    assert all(0 < Ids().token() < 2**63 for _ in range(1_000))


def test_derived_ids_are_fixed_for_ever():
    """An id made from texts is part of what is stored, so it may never change."""
    assert derived_id("event-1", "fulfil") == "8b40a5ec-2f73-882e-a9a0-3925855c46b8"


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_derived_ids_tell_parts_apart(one, two):
    """Different parts give different ids, however their texts join; the form is UUIDv8."""
    made = uuid.UUID(derived_id(*one))
    assert (made.version, made.variant) == (8, uuid.RFC_4122)
    assert (derived_id(*one) == derived_id(*two)) == (one == two)


@pytest.mark.parametrize(
    "text",
    ["a", "order-7", "x" * LONGEST_ID, "été", "{tag}", "../../x", "'; DROP--", "a b", "👍🏽"],
)
def test_a_client_may_choose(text):
    """Any printable text of 1 to 255 characters is an id, and comes back as it is."""
    assert check_id(text, "run id") == text


@pytest.mark.parametrize(
    "bad, why",
    [
        ("", "empty or blank"),
        (" \u00a0", "empty or blank"),
        ("x" * (LONGEST_ID + 1), "at most 255 characters, got 256"),
        ("a\x00b", r"'\\x00' at character 1"),
        ("a\nb", "control characters"),
        ("a\x1b[31m", "control characters"),
        ("a\x7f", "control characters"),
        ("a\u2028", "control characters"),
        ("a\ud800", "lone surrogates"),
        (7, "must be a str, got <int>"),
        (None, "must be a str, got <NoneType>"),
        (b"x", "must be a str, got <bytes>"),
    ],
)
def test_a_client_may_not_choose(bad, why):
    """What would break a log, a key or a store is refused with what and why."""
    with pytest.raises(InvalidValue, match=f"^run id .*{why}"):
        check_id(bad, "run id")


def test_a_subclass_of_str_becomes_a_plain_one():
    """What comes back is exactly a str."""

    class Name(str):
        __slots__ = ()

    assert type(check_id(Name("x"), "key")) is str
