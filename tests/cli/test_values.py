"""Arguments of `start`: read by the body's annotations, from words and files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perdure.cli._failures import Failure
from perdure.cli._values import parse_arguments
from perdure.codec import Arguments
from perdure.errors import InvalidValue


@dataclass
class Order:
    id: str
    cents: int


def body(
    *,
    text: str = "",
    number: int = 0,
    either: int | str = 0,
    anything: Any = None,
    maybe: str | None = "x",
    flag: bool = False,
    order: Order | None = None,
    names: tuple[str, ...] = (),
) -> None:
    """Take one of each."""


def parsed(*words: str) -> dict[str, Any]:
    args, kwargs = parse_arguments(words, Arguments(body))
    assert args == ()
    return kwargs


CASES = {
    "text=42": "42",
    "text=": "",
    "text=a=b": "a=b",
    "text=null": "null",
    'text="quoted"': "quoted",
    "text=[1]": "[1]",
    "text=NaN": "NaN",
    "text=\u00e9 \U0001f600": "\u00e9 \U0001f600",
    'text:="@x"': "@x",
    "number=42": 42,
    "number:=42": 42,
    "either=42": 42,
    "either=x": "x",
    "anything=42": 42,
    "anything=x": "x",
    'anything={"a": [1]}': {"a": [1]},
    "maybe=null": None,
    "maybe=y": "y",
    "flag=true": True,
    'order={"id": "1", "cents": 2}': Order("1", 2),
    'names=["a", "b"]': ("a", "b"),
}


@pytest.mark.parametrize("word", CASES)
def test_a_word_becomes_what_its_parameter_takes(word: str):
    """JSON where that fits the annotation, the text itself where it does not."""
    [value] = parsed(word).values()
    assert value == CASES[word]
    assert type(value) is type(CASES[word])


def test_several_words_are_read_each_by_itself():
    """One that is taken as a text does not make the others texts."""
    assert parsed("text=1", "number=1", "maybe=2") == {"text": "1", "number": 1, "maybe": "2"}


def test_a_file_stands_for_its_content(tmp_path: Path):
    """With = by the annotation, with := as JSON."""
    file = tmp_path / "order.json"
    file.write_text('{"id": "1", "cents": 2}', "utf-8")
    assert parsed(f"order=@{file}") == {"order": Order("1", 2)}
    assert parsed(f"order:=@{file}") == {"order": Order("1", 2)}
    assert parsed(f"text=@{file}") == {"text": '{"id": "1", "cents": 2}'}


@pytest.mark.parametrize("word", ["number=x", "number=1.5", "flag=yes", 'order={"id": 1}', "odd=1"])
def test_what_fits_in_no_reading_is_refused(word: str):
    """The codec's own message names the parameter."""
    with pytest.raises(InvalidValue, match=word.partition("=")[0]):
        parsed(word)


@pytest.mark.parametrize(
    "word, why",
    [
        ("text", "no name and '='"),
        ("=x", "no name and '='"),
        (":=1", "no name and '='"),
        ("number:=x", "is no JSON"),
        ("number:=NaN", "is no JSON"),
        ("text=@missing.txt", "cannot read 'missing.txt'"),
    ],
)
def test_words_that_are_no_arguments(word: str, why: str):
    """What is wrong, and how to write it."""
    with pytest.raises(Failure) as caught:
        parsed(word)
    assert why in caught.value.why
    assert caught.value.do


def test_numbers_without_end_are_no_json():
    """What JSON cannot hold is a text, or refused where a text does not do."""
    assert parsed("text=1e999", "maybe=-1e999") == {"text": "1e999", "maybe": "-1e999"}
    for word in ("anything:=1e999", "number:=-1e999"):
        with pytest.raises(Failure) as caught:
            parsed(word)
        assert "is no JSON" in caught.value.why


def test_what_nests_for_ever_is_refused():
    """A text for a text, and otherwise an error of ours."""
    deep = "[" * 100_000
    assert parsed(f"text={deep}") == {"text": deep}
    with pytest.raises(Failure, match="cannot read the argument"):
        parsed(f"anything:={deep}")
    with pytest.raises(InvalidValue, match="names"):
        parsed(f"names={deep}")


def test_bytes_that_are_no_text_are_told_as_such():
    """Before anybody takes them for JSON; a JSON escape of half a character is none either."""
    for word in ("text=a\udcff", "te\udcffxt=a", "text:=\udcff"):
        with pytest.raises(Failure) as caught:
            parsed(word)
        assert "no UTF-8" in caught.value.why
    assert parsed('text="\\ud800"') == {"text": '"\\ud800"'}


def test_names_that_no_parameter_has():
    """They are of **others where there is such a one, each read by its annotation."""

    def open_ended(n: int, **others: int | str) -> None:
        """Take anything."""

    arguments = Arguments(open_ended)
    _, kwargs = parse_arguments(["n=1", "a=1", "b=x", 'c="2"'], arguments)
    assert kwargs == {"n": 1, "a": 1, "b": "x", "c": "2"}

    def numbers(**others: int) -> None:
        """Take numbers."""

    assert parse_arguments(["a=1"], Arguments(numbers)) == ((), {"a": 1})
    with pytest.raises(InvalidValue, match=r"\$\.a"):
        parse_arguments(["a=x"], Arguments(numbers))
    with pytest.raises(InvalidValue, match="did you mean 'number'"):
        parsed("numbr=1")


def test_an_argument_is_given_once():
    """The second would silently win."""
    with pytest.raises(Failure, match="number=2") as caught:
        parsed("number=1", "number=2")
    assert "twice" in caught.value.why
