"""Entries as a CSV file beside the notebook: whole prompts and answers, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

from or_cache_magic.core.chat import last_prompt
from or_cache_magic.display.entries import ENTRY_TYPES
from or_cache_magic.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.rows import EntryRow

_RUN_BY_SPREADSHEETS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell may begin with to be run as a formula (OWASP, "CSV Injection"); the last are full-width."""


def propose(folder: Path, now_s: float) -> str:
    """A name that is free in the folder: ``or-cache-2026-11-23.csv``, or with ``-2``, ``-3`` and so on."""
    day = datetime.fromtimestamp(now_s, tz=timezone.utc).astimezone()
    name, number = f"or-cache-{day:%Y-%m-%d}", 1
    while (folder / (f"{name}-{number}.csv" if number > 1 else f"{name}.csv")).exists():
        number += 1
    return f"{name}-{number}.csv" if number > 1 else f"{name}.csv"


def write_csv(cache: CompletionCache, rows: Sequence[EntryRow], path: Path) -> int:
    """Writes entries with the columns of ``%openrouter_entries``, and whole texts; how many.

    UTF-8 with a mark that spreadsheets ask for and pandas skips. A text that a spreadsheet would run as a
    formula has ``'`` before it.

    Raises:
        OptionError: There is such a file (it is left as it is), or it can't be written.
        StoreError: The cache can't be read.
    """
    try:
        with path.open("x", encoding="utf-8-sig", errors="replace", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(ENTRY_TYPES)
            writer.writerows(list(_cells(cache, row)) for row in rows)
    except FileExistsError:
        raise OptionError(
            f"{path.name} is there already; it was left as it is", "write another name"
        ) from None
    except OSError as exc:
        raise OptionError(
            f"{path.name} can't be written: {exc.strerror}", "write another name or path"
        ) from None
    return len(rows)


def harmless(text: str) -> str:
    """A text that no spreadsheet runs: with ``'`` before it where one would."""
    return f"'{text}" if text.startswith(_RUN_BY_SPREADSHEETS) else text


def _cells(cache: CompletionCache, row: EntryRow) -> Iterator[object]:
    entry, request = cache.store.entry(row.key), cache.store.request(row.key)
    prompt = row.prompt if request is None else last_prompt(request)
    answer = row.answer if entry is None else entry.answer.text
    yield row.key
    yield _iso(row.created_s)
    yield from map(harmless, (row.model, row.provider, prompt, answer))
    yield from (row.prompt_tokens, row.completion_tokens, _plain(row.cost.usd), row.cost.source)
    yield from (row.hits, _plain(row.saved_usd), "" if row.last_hit_s is None else _iso(row.last_hit_s))
    yield "" if row.expires_s is None else row.expires_s - row.created_s
    yield harmless(", ".join(row.tags))
    yield row.size_bytes
    yield harmless(row.notebook)


def _iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, tz=timezone.utc).isoformat()


def _plain(usd: object) -> str:
    return "" if usd is None else f"{usd:f}"
