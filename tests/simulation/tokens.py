"""Tokens: what every step of a simulated program returns or raises.

A token says at which place of the program it was made, its value, and the number of the execution
that made it: values are foreseeable, numbers are not, so that a replay that gives a body anything
but the committed token is seen.
"""

import re
from zlib import crc32

TOKEN = re.compile(rb"@([^@]+)@([^@]*)@(\d+)@")


def mix(place: str, given: str) -> str:
    """Return what the step at a place makes of what it is given."""
    return f"{crc32(f'{place}<{given}'.encode()):08x}"


def make(place: str, value: str, number: int = 0) -> str:
    """Return a token."""
    return f"@{place}@{value}@{number}@"


def name_of(place: str) -> str:
    """Return the name of the step at a place: `outer:inner#2` is a call of `inner`."""
    return place.rpartition(":")[2].partition("#")[0]


def plain(tokens: list[str]) -> str:
    """Return the tokens' places and values without the numbers of executions."""
    return ",".join(f"{place}={value}" for place, value, _ in map(parts, tokens))


def parts(token: str) -> tuple[str, str, int]:
    """Split a token into place, value and number of execution."""
    found = TOKEN.search(token.encode())
    assert found is not None, token
    return found[1].decode(), found[2].decode(), int(found[3])
