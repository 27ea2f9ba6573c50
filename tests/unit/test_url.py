"""A store's URL as it is shown: whatever is wrong with it, its password is not in it."""

import pytest

from perdure import App
from perdure.errors import UsageError
from perdure.url import open_store, without_password

URLS = {
    "redis://me:p%40ss@host:1/0?x=1": "redis://me:***@host:1/0?x=1",
    "redis://:pass@host": "redis://:***@host",
    "redis://me@host:1/0": "redis://me@host:1/0",
    "redis://host:1/0": "redis://host:1/0",
    "sqlite:///shop.db": "sqlite:///shop.db",
    "sqlite:///a:b@c.db": "sqlite:///a:b@c.db",
    "postgresql://u:a/b?c#d@h/db": "postgresql://u:***@h/db",
    "postgresql://u:a@b/c@h/db": "postgresql://u:***@h/db",
    "postgresql://h/db?user=u&password=p&x=1": "postgresql://h/db?user=u&password=***&x=1",
    "u:p@h": "u:***@h",
    "x://u:p\n@[": "x://u:***@[",
    "": "",
}


@pytest.mark.parametrize("url", URLS)
def test_without_password(url: str):
    """The password goes, also one that should have been quoted; the rest stays."""
    assert without_password(url) == URLS[url]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:se\\cret@h/db",
        "postgresql://u:se/cret@h/db",
        "sqlite://u:secret@h/db",
        "sqlite://u:secret@[h/db",
        "sqlite://u:secret@h\u2100/db",
        "sqlite:///x\x00?password=secret",
        "memory://u:secret@h",
    ],
)
def test_no_error_has_a_password_in_it(url: str):
    """Whatever makes a URL none of ours, neither the error nor what caused it shows a password."""
    for make in (open_store, App):
        with pytest.raises(UsageError) as caught:
            make(url)
        assert "cret" not in str(caught.value)
        assert "***" in str(caught.value)
        assert caught.value.__cause__ is None
