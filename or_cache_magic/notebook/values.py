"""Reads the values of options: numbers, names, JSON, lengths of time, texts and files.

Each parser takes the word that was written and gives the value, or raises ValueError with the problem in
a line; the caller adds the option's name and what it expects.
"""

from __future__ import annotations

import builtins
import keyword
import math
import os
import re
import types
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from or_cache_magic.core.project import file_text
from or_cache_magic.core.units import parse_size, parse_ttl
from or_cache_magic.errors import OptionError, near_name, one_line

if TYPE_CHECKING:
    from or_cache_magic.cache.attachments import Attachments

# Compiled when they are first used: a hit uses none.
_NUMBER = r"(?a)[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_WHOLE = r"(?a)[+-]?\d+"
_KEY = r"[0-9a-f]{4,64}"
_URL = r"(?i)data:|[a-z][a-z0-9+.-]+://"

MOST_SAMPLES = 128
"""OpenRouter's bound of its own ``n``; each sample is a call, and a digit too many is a hundred more."""

_OF_IPYTHON = ("In", "Out", "get_ipython", "exit", "quit", "display")


def text(word: str) -> str:
    """Return `word`, which must not be blank."""
    if not word.strip():
        raise ValueError("the value is empty")
    return word


def number(word: str) -> float:
    """Return a finite decimal number."""
    if not re.fullmatch(_NUMBER, word) or math.isinf(float(word)):
        raise ValueError(f"{word!r} is not a number")
    return float(word)


def share(word: str) -> float:
    """Return a number above 0, up to 1."""
    found = number(word)
    if not 0 < found <= 1:
        raise ValueError(f"{word} is not above 0, up to 1")
    return found


def whole(least: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers, from `least` up; None has no lower end."""

    def parsed(word: str) -> int:
        if not re.fullmatch(_WHOLE, word):
            raise ValueError(f"{word!r} is not a whole number")
        if least is not None and int(word) < least:
            raise ValueError(f"{word} is below {least}")
        return int(word)

    return parsed


def samples(word: str) -> range:
    """Return the indices of so many samples, of `MOST_SAMPLES` at most."""
    count = whole(1)(word)
    if count > MOST_SAMPLES:
        raise ValueError(f"{word} samples are more than {MOST_SAMPLES}")
    return range(count)


def token_limit(word: str) -> int | Literal["none"]:
    """Return a number of tokens from 1 up, or ``none``: no limit is sent."""
    return "none" if word == "none" else whole(1)(word)


def choice(*choices: str) -> Callable[[str], str]:
    """Return a parser of one of `choices`."""

    def parsed(word: str) -> str:
        if word not in choices:
            meant = near_name(word, choices)
            raise ValueError(f"{word!r} is not a choice" + (f" (did you mean {meant}?)" if meant else ""))
        return word

    return parsed


def prompt_cache(word: str) -> str | None:
    """Return for how long the provider is to keep the prompt; None for ``off``."""
    return None if word == "off" else choice("5m", "1h", "off")(word)


def name(word: str) -> str:
    """Return a Python name to bind a value to, in the form in which Python itself keeps names (NFKC)."""
    bound = unicodedata.normalize("NFKC", word)
    if not bound.isidentifier() or keyword.iskeyword(bound):
        raise ValueError(f"{word!r} is not a name that a value can be bound to")
    is_special = len(bound) > len("____") and bound.startswith("__") and bound.endswith("__")
    if bound != "_" and (is_special or hasattr(builtins, bound) or bound in _OF_IPYTHON):
        raise ValueError(f"{word} is Python's own name, which cells below may need")
    return bound


def ttl_s(word: str) -> float:
    """Return the seconds in ``30m``, ``24h``, ``7d``; infinity for ``never``."""
    try:
        return parse_ttl(word)
    except ValueError:
        raise ValueError(f"{word!r} is not a length of time") from None


def length_s(word: str) -> float:
    """Return the seconds in ``30m``, ``24h``, ``7d``."""
    seconds = ttl_s(word)
    if math.isinf(seconds):
        raise ValueError(f"{word!r} is not a length of time")
    return seconds


def size_bytes(word: str) -> int:
    """Return the bytes in ``500MB``, ``2GB``."""
    try:
        return parse_size(word)
    except ValueError:
        raise ValueError(f"{word!r} is no size") from None


def hex_key(word: str) -> str:
    """Return an entry's key, or the first 4 hex digits of it or more."""
    if not re.fullmatch(_KEY, word.lower()):
        raise ValueError(f"{word!r} is not a key")
    return word.lower()


def json_param(word: str) -> tuple[str, Any]:
    """Return the field and the value in ``KEY=JSON``. NaN and infinities are no JSON."""
    key, equals, source = word.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{word!r} has no KEY=")
    from or_cache_magic.core.blocks import read_json  # few lines name a field

    try:
        return key.strip(), read_json(source)
    except ValueError:
        meant = f"""'{key}="{source}"'"""
        suggestion = "" if set(source) & set("\"'{}[]") else f" (a text needs its quotes: {meant})"
        raise ValueError(f"the value of {key} is not JSON: {source!r}{suggestion}") from None


def read_text_argument(value: str, namespace: Mapping[str, Any], base_dir: Path) -> str:
    """Return the text that ``TEXT | @file | NAME`` stands for.

    ``@file`` is the file's text, `base_dir` being where a relative path begins. A name is the text of the
    variable in `namespace`. Everything else is the text itself. ``@@`` begins a text with one ``@``.

    A file is read as UTF-8; a byte order mark and the kind of line ends don't count, so that a prompt
    saved on another system is the same prompt.

    Raises:
        OptionError: The file can't be read, or the variable isn't a text or isn't there.
    """
    if value.startswith("@@"):
        return value[1:]
    if value.startswith("@"):
        return _read(value[1:], base_dir)
    if value.isidentifier():
        if value not in namespace:
            near = near_name(value, namespace)
            meant = f"did you mean {near}? " if near else ""
            raise OptionError(
                f"{value} is not defined; nothing was sent",
                f"{meant}A text of one word needs more than a name has: '{value}.'",
            )
        found = namespace[value]
        if not isinstance(found, str):
            kind = type(found).__name__
            raise OptionError(
                f"the variable {value} is a {kind}, not a text; nothing was sent",
                f"bind a text ({value}_text = str({value})) and name that, or write more than one word",
            )
        return str(found)
    _refuse_file_name("--system", value, base_dir)
    return value


def _refuse_file_name(option: str, value: str, base_dir: Path) -> None:
    """Refuse one word that names a file: its ``@`` was forgotten."""
    path = value.strip()
    if path and not set(path) & set(_SPACE) and os.path.isfile(base_dir / Path(path)):
        raise OptionError(
            f"{one_line(path, 80)} is a file, and would be sent as a text; nothing was sent",
            f"write {option} @{one_line(path, 80)}; a text needs more than a file's name has: '{path}:'",
        )


_SPACE: Final = " \t\r\n\0"


def read_attached(words: Sequence[str], namespace: Mapping[str, Any], base_dir: Path) -> Attachments | None:
    """Return what the words ``PATH | URL | NAME`` of a line stand for, read; None where there are none.

    A name is a variable's, or else a file's. Relative paths begin in `base_dir`, those of variables too.

    Raises:
        OptionError: It is the name of nothing.
        RequestError: It can't be attached.
    """
    if not words:
        return None
    from or_cache_magic.cache.attachments import read_attachments

    return read_attachments([_attachment(word, namespace, base_dir) for word in words])


def _attachment(word: str, namespace: Mapping[str, Any], base_dir: Path) -> Any:
    from or_cache_magic.cache.attachments import Source

    if word.isidentifier() and word in namespace:
        return Source(_located(namespace[word], base_dir), word)
    if word.isidentifier() and not (base_dir / word).exists():
        near = near_name(word, namespace)
        raise OptionError(
            f"{word} is neither a variable nor a file; nothing was sent",
            f"did you mean {near}?" if near else f"relative paths begin at {base_dir}",
        )
    return _located(word, base_dir)


def _located(value: Any, base_dir: Path) -> Any:
    if type(value) in (list, tuple):
        return [_located(item, base_dir) for item in value]
    is_path = isinstance(value, Path) or (isinstance(value, str) and not re.match(_URL, value))
    if not is_path or "\n" in str(value):  # what has lines is no path: the reader says so
        return value
    with suppress(RuntimeError):  # whose home is not known: there is no such file
        value = Path(value).expanduser()
    return base_dir / value


def read_schema_argument(value: str, namespace: Mapping[str, Any], base_dir: Path) -> Any:
    """Return the schema that ``TEXT | @file | NAME`` stands for, as `CompletionCache.ask` takes it.

    NAME is a variable or a class, perhaps an attribute of one, also as ``list[NAME]``. A type of the short
    form that no variable is called is that type.

    Raises:
        OptionError: The file can't be read, or the name isn't there.
    """
    if value.startswith("@"):
        return _read(value[1:], base_dir)
    inner = re.fullmatch(r"list\[(.+)\]", value)
    name, *attributes = (inner[1] if inner else value).split(".")
    if not all(map(str.isidentifier, (name, *attributes))):
        _refuse_file_name("--schema", value, base_dir)
        return value
    if name not in namespace:
        from or_cache_magic.core.compact_schema import TYPES

        if name in TYPES:
            return f"[{name}]" if inner else name
        _refuse_file_name("--schema", value, base_dir)
        near = near_name(name, namespace)
        raise OptionError(
            f"{name} is not defined; nothing was sent",
            f"did you mean {near}?"
            if near
            else f"run the cell that defines it, or write a schema: '{name} str'",
        )
    found = namespace[name]
    for attribute in attributes:
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise OptionError(f"{name} has no {attribute}; nothing was sent") from None
    return types.GenericAlias(list, (found,)) if inner else found


def _read(name: str, base_dir: Path) -> str:
    try:
        return file_text(base_dir / Path(name).expanduser())
    except (OSError, RuntimeError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
    except ValueError:
        why = "it is not UTF-8 text"
    raise OptionError(
        f"@{one_line(name, 80)} can't be read: {why}; nothing was sent",
        f"relative paths begin at {base_dir}; write @@ for a text that begins with @",
    )
