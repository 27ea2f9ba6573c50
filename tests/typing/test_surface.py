"""The public surface, used once, for mypy and pyright in strict mode; it also runs."""

from typing import assert_type

from perdure._version import __version__


def test_version_is_text():
    """The version is a plain string."""
    assert_type(__version__, str)
