"""Texts, files and variables as the value of an option."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from or_cache_magic.errors import OptionError
from or_cache_magic.notebook.values import name, read_schema_argument, read_text_argument
from or_cache_magic.tables.warm import read_prompts


class Text(str):
    """A text of a class of its own, as a Completion is."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("You are terse.", "You are terse."),
        ("role", "a pirate"),
        ("answer", "42"),
        ("role play", "role play"),
        ("role.upper", "role.upper"),
        ("@@here", "@here"),
        ("@@@x", "@@x"),
        ("", ""),
    ],
)
def test_text_argument__text_or_variable(tmp_path: Path, value: str, text: str):
    """A word that is a text variable is its text; anything else is itself; ``@@`` is one ``@``."""
    found = read_text_argument(value, {"role": "a pirate", "answer": Text("42")}, tmp_path)

    assert found == text
    assert type(found) is str


def test_text_argument__file(tmp_path: Path):
    """A file is its text whatever its byte order mark and line ends; relative to the given folder."""
    (tmp_path / "system.md").write_bytes("\ufeffBe brief.\r\nBe kind — é.\r\n".encode())

    expected = "Be brief.\nBe kind — é.\n"
    assert read_text_argument("@system.md", {}, tmp_path) == expected
    assert read_text_argument(f"@{tmp_path / 'system.md'}", {}, Path("/")) == expected


def test_text_argument__that_names_a_file_without_its_sign(tmp_path: Path):
    """One word that is a file's name is not sent as a text; with a word more, or where there is no file, it is."""
    (tmp_path / "rules.md").write_text("Be terse.", encoding="utf-8")
    with pytest.raises(
        OptionError, match=r"^rules\.md is a file, .*nothing was sent\n  write --system @rules\.md"
    ):
        read_text_argument("rules.md", {}, tmp_path)
    for file in ("rules.md", "my-rules.json"):
        (tmp_path / file).touch()
        with pytest.raises(OptionError, match=f"write --schema @{file};".replace(".", r"\.")):
            read_schema_argument(file, {}, tmp_path)
    for value in ("rules.md:", "Follow rules.md", "other.md", "x." * 3000, "a.\0"):
        assert read_text_argument(value, {}, tmp_path) == value


def test_text_argument__home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``@~/file`` is in the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "s.txt").write_text("hi")

    assert read_text_argument("@~/s.txt", {}, Path("/")) == "hi"


@pytest.mark.parametrize("value", ["@missing.md", "@", "@.", "@binary", "@nul\0", "@" + "x." * 3000])
def test_text_argument__unreadable_file(tmp_path: Path, value: str):
    """A file that can't be read is an error in two lines, before anything is sent."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")

    with pytest.raises(OptionError, match="nothing was sent") as caught:
        read_text_argument(value, {}, tmp_path)
    assert len(str(caught.value).splitlines()) == 2


def test_text_argument__variable_that_is_no_text(tmp_path: Path):
    """A variable of another kind is refused, not sent as its name."""
    with pytest.raises(OptionError, match="the variable rows is a list"):
        read_text_argument("rows", {"rows": [1]}, tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="has devices and pipes")
def test_text_argument__endless_or_large_file(tmp_path: Path):
    """A device, a pipe that nobody writes to, a file of gigabytes: refused before anything is read."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large.md").open("wb") as file:
        file.truncate(10**8)
    for file_name in ("/dev/zero", "pipe", "large.md"):
        with pytest.raises(OptionError, match="nothing was sent") as caught:
            read_text_argument(f"@{file_name}", {}, tmp_path)
        assert len(str(caught.value).splitlines()) == 2
        if file_name != "/dev/zero":
            os.rename(tmp_path / file_name, tmp_path / "prompts.txt")
            with pytest.raises(OptionError, match="nothing was sent"):
                read_prompts(tmp_path / "prompts.txt")


@pytest.mark.parametrize(
    "word",
    ["print", "list", "__name__", "__builtins__", "__mine__", "get_ipython", "In", "Out", "class", "None"],
)
def test_name__is_not_one_of_python_s(word: str):
    """An answer there would break the cells below."""
    with pytest.raises(ValueError, match=word):
        name(word)
    assert name("_") == "_"
