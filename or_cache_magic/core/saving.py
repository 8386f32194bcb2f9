"""Writes settings into the project's ``pyproject.toml``, leaving the rest of the file as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from or_cache_magic.core.settings import NEVER_FROM_A_PROJECT, find_pyproject, parse_setting
from or_cache_magic.errors import SettingError

__all__ = ["save_settings"]


def save_settings(folder: Path, changes: Mapping[str, str]) -> Path:
    """Writes `changes` (text, checked before) under ``[tool.or_cache_magic]``; the file that was written.

    The file is the nearest ``pyproject.toml`` at or above `folder`, or a new one in it.

    Raises:
        SettingError: A setting that no project may set, or a file that can't be read or written.
    """
    for name in changes:
        if name in NEVER_FROM_A_PROJECT:
            raise SettingError(f"{name} is not saved; nothing was changed", NEVER_FROM_A_PROJECT[name])
    import tomlkit

    path = find_pyproject(folder) or folder / "pyproject.toml"
    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8") if path.exists() else "")
        tool = document.setdefault("tool", tomlkit.table(is_super_table=True))
        section = tool.setdefault("or_cache_magic", tomlkit.table())
        section.update({name: _as_toml(name, text) for name, text in changes.items()})
        path.write_text(tomlkit.dumps(document), encoding="utf-8")
    except (OSError, UnicodeDecodeError, tomlkit.exceptions.TOMLKitError) as exc:
        raise SettingError(f"{path} can't be changed: {exc}", "mend it, or set it without --save") from exc
    return path


def _as_toml(name: str, text: str) -> Any:
    """`text` as a number or a truth value where it stands for one, as people write TOML; else as it is."""
    import tomlkit

    try:
        value = tomlkit.value(text).unwrap()
        same: bool = parse_setting(name, value, "") == parse_setting(name, text, "")
    except (tomlkit.exceptions.TOMLKitError, SettingError):
        return text
    return value if same else text
