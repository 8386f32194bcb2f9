"""Write the answers of a completion cache into a pack, and take a pack into a completion cache."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from or_cache_magic.cache.purge import filter_of
from or_cache_magic.core.options import shown
from or_cache_magic.core.records import NamedTuple
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.core.units import format_count
from or_cache_magic.errors import OptionError, StoreError, one_line
from or_cache_magic.replay.datasets import BEGINS, Take, open_dataset
from or_cache_magic.replay.files import MediaFiles, lines, media_folder, media_written, opened, written
from or_cache_magic.replay.lines import LineError, SecretInPrompt, kept_from, line_of
from or_cache_magic.storage.transfer import Kept, kept_of, keys_of, put_kept

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache

_AT_ONCE: Final = 200
_AT_ONCE_BYTES: Final = 1 << 22
_SHOWN_AFTER_S: Final = 2.0
_NAMED: Final = 3
_WIDTH: Final = 100
_T = TypeVar("_T")
_BEGINS: Final = b'{"key":"'


class Exported(NamedTuple):
    """What an export wrote.

    Attributes:
        path: The file.
        entries: Answers that are served.
        history: Answers to the same requests that are not, and those of which none is.
        damaged: Answers that could not be read, and are not in the file.
    """

    path: Path
    entries: int
    history: int
    damaged: int

    def __str__(self) -> str:
        told = f"{self.path.name}: {format_count(self.entries, 'entry', 'entries')}"
        told += f", {self.history:,} kept as history" if self.history else ""
        return told + (f"; {self.damaged:,} are damaged and were left out" if self.damaged else "")


class Imported(NamedTuple):
    """What an import brought.

    Attributes:
        path: The file.
        new: Entries that are served from now on.
        there: Answers that were there already.
        history: Answers that are kept as history: they were history, or another answer was there.
        refused: Lines that are no answers of a completion cache, or such as would not have been stored.
        why: Of some of these, in which line and why.
    """

    path: Path
    new: int
    there: int
    history: int
    refused: int
    why: tuple[str, ...]

    def __str__(self) -> str:
        told = f"{self.path.name}: {format_count(self.new, 'new entry', 'new entries')}"
        told += f", {self.there:,} there already"
        told += f", {self.history:,} kept as history" if self.history else ""
        return told + (f", {self.refused:,} refused ({'; '.join(self.why)})" if self.refused else "")


def path_of(path: Any) -> Path:
    """Return the path that a caller means.

    Raises:
        OptionError: It is none.
    """
    with suppress(TypeError, ValueError, RuntimeError):  # a NUL, half of a surrogate pair, nobody's home
        name = os.fspath(path)
        if type(name) is str and name.strip() and b"\0" not in os.fsencode(name):
            return Path(name).expanduser()
    raise OptionError(
        f"{shown(path)} is no path; nothing was done", "name a file, such as course.orcache.jsonl"
    )


def export(
    cache: CompletionCache,
    path: Any,
    keys: Sequence[str] = (),
    conditions: Mapping[str, Any] = MappingProxyType({}),
    *,
    format: str = "pack",  # noqa: A002 - what it is called
    media: str = "inline",
    progress: bool = False,
    secret: str = "",
) -> Exported:
    """See `CompletionCache.export`."""
    if format not in ("pack", *BEGINS):
        raise OptionError(
            f"format={shown(format)} is none; nothing was written", "write 'pack', 'chat' or 'parquet'"
        )
    if media not in ("inline", "files"):
        raise OptionError(f"media={shown(media)} is none; nothing was written", "write 'inline' or 'files'")
    wanted = filter_of(cache, keys, conditions, "nothing was written")
    path = path_of(path)
    refuse_other_file(path, BEGINS.get(format, _BEGINS))
    cache.ledger.flush()
    counts: Counter[str] = Counter()
    with written(path) as file:
        if format == "pack":
            apart = media_written(media_folder(path)) if media == "files" else nullcontext()
            with apart as files:
                write = partial(_write_lines, file.writelines, counts, secret, files)
                _write(cache, keys_of(cache.database, wanted), counts, progress, write)
        else:
            with open_dataset(file, format) as take:
                write = partial(_write_rows, take, counts, secret)
                _write(cache, keys_of(cache.database, wanted), counts, progress, write)
    return Exported(path, counts["entry"], counts["history"], counts["damaged"])


class PackDigest(NamedTuple):
    """What a pack would be: the SHA-256 of its bytes, how many these are, and what it has."""

    sha256: str
    size_bytes: int
    entries: int
    history: int


def pack_digest(cache: CompletionCache, keys: Sequence[str] | None = None, secret: str = "") -> PackDigest:
    """Return what `export` would write now; nothing is written.

    Args:
        cache: What has the answers.
        keys: The whole keys of entries; None is all that there is.
        secret: The OpenRouter key in use.

    Raises:
        OptionError: It would be refused.
    """
    counts: Counter[str] = Counter()
    digest = sha256()

    def take(made: Iterable[bytes]) -> None:
        for line in made:
            digest.update(line)
            counts["bytes"] += len(line)

    digests = keys_of(cache.database, EntryFilter()) if keys is None else sorted(keys)
    _write(cache, digests, counts, False, partial(_write_lines, take, counts, secret, None))
    return PackDigest(digest.hexdigest(), counts["bytes"], counts["entry"], counts["history"])


def _write(
    cache: CompletionCache,
    digests: Iterable[str],
    counts: Counter[str],
    progress: bool,
    write: Callable[[list[Kept]], None],
) -> None:
    """Have the answers to one request after another written, sorted by their keys."""
    unsafe: list[str] = []
    for digest in _shown(digests, progress, "request"):
        found = list(kept_of(cache.database, cache.store, digest))
        counts["damaged"] += found.count(None)
        try:
            write([kept for kept in found if kept is not None])
        except SecretInPrompt:
            unsafe.append(digest)
        except LineError as exc:
            raise OptionError(
                f"the entry {digest[:10]} can't be exported: {exc}; nothing was written",
                "write --media files (media='files')",
            ) from None
    if unsafe:
        named = ", ".join(key[:10] for key in unsafe[:_NAMED]) + (" …" if len(unsafe) > _NAMED else "")
        raise OptionError(
            f"what looks like a key, a token or a password stands in {format_count(len(unsafe), 'request')}"
            f" ({named}); nothing was written",
            f"look at it: %openrouter_entries {unsafe[0][:10]}; if it is one, revoke it and remove the entry"
            f" (%openrouter_purge {unsafe[0][:10]}); if not, ask with <password> in its place, or export"
            " the others (--tag, --model, keys)",
        )


def _write_lines(
    take: Callable[[Iterable[bytes]], None],
    counts: Counter[str],
    secret: str,
    files: MediaFiles | None,
    answers: list[Kept],
) -> None:
    """Write the answers to one request as lines, sorted and each once."""
    apart: dict[bytes, bytes] | None = None if files is None else {}
    made = {line_of(kept, secret, apart): "history" if kept.reason else "entry" for kept in answers}
    counts.update(made.values())
    take(sorted(made))
    for digest, raw in (apart or {}).items():
        assert files is not None  # noqa: S101 - said above
        files.keep(digest, raw)


def _write_rows(take: Take, counts: Counter[str], secret: str, answers: list[Kept]) -> None:
    counts["entry"] += sum(take(kept, secret) for kept in answers)


def load(cache: CompletionCache, path: Any, *, progress: bool = False) -> Imported:
    """See `CompletionCache.load`."""
    path = path_of(path)
    counts: Counter[str] = Counter()
    why: list[str] = []
    media, batch, batch_bytes = MediaFiles(media_folder(path)), list[Kept](), 0
    with opened(path) as file:
        for number, (_, raw) in enumerate(_shown(lines(file), progress, "line"), 1):
            try:
                batch.append(kept_from(raw, media))
                batch_bytes += len(raw)
            except LineError as exc:
                counts["refused"] += 1
                if len(why) < _NAMED:
                    why.append(f"line {number}: {one_line(str(exc), _WIDTH)}")
            if len(batch) >= _AT_ONCE or batch_bytes >= _AT_ONCE_BYTES:
                _put_all(cache, batch, counts, why)
                batch_bytes = 0
        _put_all(cache, batch, counts, why)
    cache.database.checkpoint()
    if counts["refused"] and not (counts["new"] or counts["there"] or counts["history"]):
        raise OptionError(
            f"{one_line(path.name, _WIDTH)} has no answer that could be taken: {why[0]}",
            "a pack is what %openrouter_export, orc.export or or-cache export writes",
        )
    told = why if counts["refused"] <= _NAMED else [*why, "…"]
    return Imported(path, counts["new"], counts["there"], counts["history"], counts["refused"], tuple(told))


def _put_all(cache: CompletionCache, batch: list[Kept], counts: Counter[str], why: list[str]) -> None:
    """Put answers in one transaction, and forget them."""
    if not batch:
        return
    with cache.database.transaction():
        for kept in batch:
            try:
                counts[put_kept(cache.database, cache.store, kept, cache.clock())] += 1
            except StoreError as exc:
                if type(exc) is not StoreError:
                    raise
                counts["refused"] += 1
                if len(why) < _NAMED:
                    why.append(f"{kept.entry.key.digest[:10]}: {one_line(str(exc.args[0]), _WIDTH)}")
    batch.clear()


def _shown(found: Iterable[_T], progress: bool, unit: str) -> Iterator[_T]:
    """Yield what is iterated over, with a bar where it takes long: in a notebook or a terminal."""
    began_s, bar = time.monotonic(), None
    try:
        for number, one in enumerate(found, 1):
            if bar is not None:
                bar.update(number - bar.n)
            elif progress and time.monotonic() - began_s > _SHOWN_AFTER_S:
                bar = _bar(unit)
            yield one
    finally:
        if bar is not None:
            bar.close()


def _bar(unit: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a notebook without ipywidgets
        from tqdm.auto import tqdm
    in_notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    return tqdm(unit=unit, leave=False, disable=False if in_notebook else None)


def refuse_other_file(path: Path, begins: bytes) -> None:
    """Do nothing where a file may be written: it is not there, empty, or begins as what is to be written.

    Raises:
        OptionError: It is something else, which would be lost.
    """
    if not os.path.lexists(path):
        return
    with opened(path) as file:
        found = file.read(len(begins))
    if found and found != begins:
        raise OptionError(
            f"{one_line(path.name, _WIDTH)} is there already and no such file; it was left as it is",
            "write another name",
        )
