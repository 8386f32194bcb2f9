"""A project's ``pyproject.toml`` and what else comes from folders: read within bounds, whoever wrote it.

A table that is nearly ours is an error: what it limits would silently not be limited.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from or_cache_magic.errors import OptionError, SettingError, slip_of

MOST_BYTES: Final = 50_000_000
"""The most that a file of prompts may have."""

_MOST_SETTINGS_BYTES: Final = 5_000_000
_MEND: Final = "it sets how this cache works: save it as UTF-8 and mend it; nothing was sent"
_OURS: Final = "or_cache_magic"
_NEAR_OURS: Final = (_OURS, "or_cache", "openrouter_cache", "openrouter_magics")

# Compiled when first used: most kernels read no such file, or one that says nothing to us.
_SPELLED: Final = r"(?i)(?<![a-z])or[-_. ]?cache|\\[ux]"
_HEADS: Final = r"(?m)^[ \t]*\[{0,2}[ \t]*([\w\"'][^=\]\n#]{3,60})[=\]]"


def current_folder() -> Path:
    """Return the folder that Python runs in.

    Raises:
        OptionError: It is gone, or may not be read.
    """
    try:
        return Path.cwd()
    except OSError:
        raise OptionError(
            "the current folder is gone (nothing was sent)",
            "change into one that exists: os.chdir, %cd, or cd in a shell",
        ) from None


def file_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return what is in a regular file: no device or pipe, which may have no end.

    Raises:
        OSError: It can't be read, is something else, or has more bytes than `most`.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: a pipe would wait for its writer
        raise OSError(0, "it is no file")
    with path.open("rb") as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise OSError(0, f"it is larger than {most // 10**6} MB")
    return found


def file_text(path: Path) -> str:
    r"""Return the text of a regular file in UTF-8, without a byte order mark, its lines ended by ``\n``.

    Raises:
        OSError: As `file_bytes`.
        ValueError: It is not UTF-8.
    """
    return file_bytes(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def find_pyproject(folder: Path) -> Path | None:
    """Return the nearest ``pyproject.toml`` at or above `folder`, or None."""
    for parent in (folder, *folder.parents):
        # Asked at every cell: strings, which are quicker than paths.
        candidate = os.path.join(parent, "pyproject.toml")
        if os.path.isfile(candidate):
            return Path(candidate)
    return None


def leads_out(folder: Path, named: str) -> bool:
    """Return whether a path, seen from `folder`, is outside of it, links followed."""
    inside = os.path.realpath(folder)
    found = os.path.realpath(os.path.join(inside, named))
    return found != inside and not found.startswith(os.path.join(inside, ""))


def settings_table(path: Path, settings: Container[str]) -> Mapping[str, Any]:
    """Return what stands under ``[tool.or_cache_magic]`` in a file; empty where there is no such table.

    Args:
        path: The file.
        settings: The names of all settings; a deeper table that has one was meant as ours.

    Raises:
        SettingError: The file can't be read and may speak of us, or has a table that is nearly ours.
    """
    try:
        raw = file_bytes(path, _MOST_SETTINGS_BYTES)
    except OSError as exc:
        raise SettingError(f"{path} can't be read: {exc.strerror}", _MEND) from exc
    if not _speaks_of_us(raw):
        return {}  # spares the parser's import where the project says nothing
    import tomlkit

    try:
        document = tomlkit.parse(raw.decode("utf-8-sig")).unwrap()
    except (ValueError, RecursionError, tomlkit.exceptions.TOMLKitError) as exc:
        raise SettingError(f"{path} can't be read: {_where(raw, exc)}", _MEND) from exc
    for names, table in _tables(document):
        if _is_nearly_ours(names, table, settings):
            raise SettingError(f"[{'.'.join(names)}] in {path} is not read", f"write [tool.{_OURS}]; {_MEND}")
    tool = document.get("tool", {})
    section = tool.get(_OURS, {}) if isinstance(tool, dict) else {}
    if not isinstance(section, dict):
        raise SettingError(f"{_OURS} in {path} is no table", f"write [tool.{_OURS}] above settings")
    return section


def _speaks_of_us(raw: bytes) -> bool:
    # In UTF-16 too, so that a file that can't be read isn't taken for one that says nothing.
    text = raw.replace(b"\0", b"").decode("latin-1")
    if re.search(_SPELLED, text):
        return True
    heads = {head.strip() for head in re.findall(_HEADS, text)}
    return any(_near(part) for head in heads for part in (head, head.rpartition(".")[2]))


def _tables(value: Mapping[str, Any], names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, item in value.items():
        yield (*names, str(name)), item
        if isinstance(item, dict):
            yield from _tables(item, (*names, str(name)))


def _is_nearly_ours(names: tuple[str, ...], value: Any, settings: Container[str]) -> bool:
    """Return whether a table may have been meant as ours; one of dependencies sets nothing that we have."""
    if names[:2] == ("tool", _OURS):
        return False
    if not (_near(names[-1]) or _near(".".join(names))):
        return False
    if len(names) == 1 or names[:-1] == ("tool",):
        return True
    table = value[0] if isinstance(value, list) and value else value
    if not isinstance(table, dict):
        return False
    return any(name in settings for name in table)


def _near(name: str) -> bool:
    """Return whether a name is nearly that of our table, with or without a ``tool.`` before it."""
    bare = re.sub(r"(?i)^tools?\W+|[\"']", "", name)
    letters = bare.lower().lstrip("_")
    return (letters[:1] == "o" or "magic" in letters) and bool(slip_of(bare, _NEAR_OURS))


def _where(raw: bytes, exc: Exception) -> str:
    """Say what is wrong with a file, and in which line."""
    if isinstance(exc, UnicodeDecodeError):
        line = raw.count(b"\n", 0, exc.start) + 1
        return f"line {line} is not UTF-8 (byte {raw[exc.start]:#04x})"
    return "it is nested too deep" if isinstance(exc, RecursionError) else str(exc)
