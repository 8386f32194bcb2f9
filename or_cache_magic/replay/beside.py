"""The packs in a notebook's folder, read through where they lie: found on a miss, never taken in.

Of a pack only where each key's line begins is kept in memory, 16 bytes a line, found in one reading at its
first use. A line is read, checked and its key computed anew each time that it is wanted.
"""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from or_cache_magic.core.chat import asked_model, last_prompt
from or_cache_magic.core.policy import why_not_served
from or_cache_magic.core.records import Entry, NamedTuple, Request, Usage
from or_cache_magic.core.rows import EntryRow
from or_cache_magic.errors import OptionError, one_line
from or_cache_magic.replay.files import MediaFiles, lines, media_folder, opened
from or_cache_magic.replay.lines import LONGEST_LINE, LineError, head_of, kept_from
from or_cache_magic.storage.codec import HEAD_CHARS

if TYPE_CHECKING:
    from or_cache_magic.core.records import RequestKey

_PREFIX_BYTES: Final = 8
_WIDTH: Final = 100

_Stamp = tuple[int, ...]


class Replayed(NamedTuple):
    """An entry of a pack, and the pack's name."""

    entry: Entry
    pack: str


class PacksBeside:
    """The packs in one folder. Thread-safe; belongs to one process.

    Args:
        folder: Where they are looked for, at each miss: one that comes, goes or changes is noticed.
        tell: Takes a line for the user, once for each fault of a pack.
        clock: Returns UTC epoch seconds.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._folder = folder
        self._tell = tell
        self._clock = clock
        self._told: set[str] = set()
        self._read: dict[str, tuple[_Stamp, _Places]] = {}
        self._lock = threading.Lock()

    def get(self, key: RequestKey, names: list[str]) -> Replayed | None:
        """Return the entry of a request; None where no pack has one. One that has expired comes last.

        Args:
            key: The request's.
            names: Of the packs in the folder.
        """
        expired = None
        for name in names:
            for entry in self._entries(name, key):
                if why_not_served(entry, self._clock()) is None:
                    return Replayed(entry, name)
                expired = expired or Replayed(entry, name)
        return expired

    def _entries(self, name: str, key: RequestKey) -> Iterator[Entry]:
        path = self._folder / name
        try:
            places = self._places(path)
            found = places.of(bytes.fromhex(key.digest))
            if not found:
                return
            with opened(path) as file:
                for at in found:
                    file.seek(at)
                    kept = kept_from(file.readline(LONGEST_LINE + 1), MediaFiles(media_folder(path)))
                    # Not what the line says: the key of the request in it.
                    if kept.entry.key == key and not kept.reason:
                        yield kept.entry
        except OptionError as exc:
            self._say(name, str(exc.args[0]))
        except (OSError, LineError) as exc:
            self._say(name, f"{name}: an answer in it was not served: {one_line(str(exc), _WIDTH)}")

    def _places(self, path: Path) -> _Places:
        """Return where the lines of a pack begin, read anew when it has changed."""
        found = os.stat(path)
        stamp = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        with self._lock:
            known = self._read.get(path.name)
            if known is None or known[0] != stamp:
                known = self._read[path.name] = (stamp, _Places(path))
            return known[1]

    def _say(self, name: str, what: str) -> None:
        if name not in self._told:
            self._told.add(name)
            self._tell(what)


def row_of(entry: Entry, request: Request) -> EntryRow:
    """Return an entry of a pack as one of a store would be listed; nothing was counted of it."""
    answer, usage = entry.answer, entry.answer.usage or Usage()
    return EntryRow(
        entry.key.digest,
        entry.created_s,
        asked_model(request.body) or "",
        answer.provider or "",
        last_prompt(request.body)[:HEAD_CHARS],
        answer.text[:HEAD_CHARS],
        usage.prompt_tokens,
        usage.completion_tokens,
        answer.cost,
        hits=0,
        saved_usd=None,
        last_hit_s=None,
        expires_s=entry.expires_s,
        tags=entry.tags,
        size_bytes=0,
        notebook=entry.notebook,
    )


class _Places:
    """Where the entries of a pack begin in it, by the first bytes of their keys."""

    def __init__(self, path: Path) -> None:
        self._prefixes, self._offsets, last = array("Q"), array("Q"), -1
        in_order = True
        for prefix, at in _found(path):
            in_order = in_order and prefix >= last
            last = prefix
            self._prefixes.append(prefix)
            self._offsets.append(at)
        if not in_order:  # two were merged otherwise than by sorting
            order = sorted(range(len(self._prefixes)), key=self._prefixes.__getitem__)
            self._prefixes = array("Q", [self._prefixes[at] for at in order])
            self._offsets = array("Q", [self._offsets[at] for at in order])

    def of(self, digest: bytes) -> list[int]:
        """Return where the lines begin whose keys begin as this one."""
        prefix = int.from_bytes(digest[:_PREFIX_BYTES], "big")
        first = bisect_left(self._prefixes, prefix)
        last = bisect_left(self._prefixes, prefix + 1)
        return list(self._offsets[first:last])


def _found(path: Path) -> Iterator[tuple[int, int]]:
    with opened(path) as file:
        for at, raw in lines(file):
            head = head_of(raw)
            digest = head.digest if head is not None and head.is_current else _digest(raw, path)
            if digest and (head is None or head.is_entry):
                yield int.from_bytes(digest[:_PREFIX_BYTES], "big"), at


def _digest(raw: bytes, path: Path) -> bytes:
    """Return the key of a line that another version wrote: that of its request; empty where it has none."""
    try:
        return bytes.fromhex(kept_from(raw, MediaFiles(media_folder(path))).entry.key.digest)
    except LineError:
        return b""
