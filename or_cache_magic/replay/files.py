"""Files of packs: read line by line within bounds, and written whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Final

from or_cache_magic.errors import OptionError, OrCacheError, one_line, printable
from or_cache_magic.replay.lines import LONGEST_LINE, media_text

LARGEST_MEDIA: Final = 1 << 27

_SKIPPED: Final = 1 << 20
_MARK: Final = b"\xef\xbb\xbf"


def opened(path: Path) -> IO[bytes]:
    """Return a regular file, open for reading: no device or pipe, which may have no end.

    Raises:
        OptionError: It can't be read, or is something else.
    """
    why = "it is no file"
    try:
        if stat.S_ISREG(path.stat().st_mode):  # before it is opened: a pipe would wait for its writer
            return path.open("rb")
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or "it is no name of a file"
    raise OptionError(printable(f"{path} can't be read: {why}"), "name the file of a pack")


def lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield where each line begins, and the line without its end; of one that is too long its beginning.

    Whatever a file holds, no more than one line of it is in memory. Blank lines are passed over.
    """
    at = 0
    while raw := file.readline(LONGEST_LINE + 1):
        size = len(raw)
        line = raw.rstrip(b"\r\n")
        if size > LONGEST_LINE:
            whole = raw.endswith(b"\n")
            while not whole and (more := file.readline(_SKIPPED)):
                size, whole = size + len(more), more.endswith(b"\n")
        if at == 0 and line.startswith(_MARK):
            line = line[len(_MARK) :]  # some editors write one
        if line.strip():
            yield at, line
        at += size


def media_folder(path: Path) -> Path:
    """Return where a pack's media is that is not in it: ``NAME.media`` beside ``NAME.jsonl``."""
    return path.with_suffix(".media")


class MediaFiles:
    """The media beside a pack: files named by the digests of what is in them.

    Args:
        folder: See `media_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, head: str | None, digest: bytes) -> str:
        """Return media as it stood in its request or answer; raises `LookupError` where it is not here."""
        name = self._folder / digest.hex()
        try:
            if not stat.S_ISREG(os.lstat(name).st_mode):
                raise KeyError(digest)
            with name.open("rb") as file:
                raw = file.read(LARGEST_MEDIA + 1)
        except OSError:
            raise KeyError(digest) from None
        if sha256(raw).digest() != digest:
            raise KeyError(digest)
        return media_text(head, raw)

    def keep(self, digest: bytes, raw: bytes) -> None:
        """Write media, unless it is here."""
        name = self._folder / digest.hex()
        if not os.path.lexists(name):
            self._folder.mkdir(exist_ok=True)
            with written(name) as file:
                file.write(raw)


@contextmanager
def media_written(folder: Path) -> Iterator[MediaFiles]:
    """Write media that is in its folder when the block ends, and nowhere when the block fails."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    if folder.is_symlink():
        raise OptionError(
            f"{one_line(folder.name, 100)} is a link, and media is written into no other folder", "remove it"
        )
    try:
        shutil.rmtree(draft, ignore_errors=True)
        yield MediaFiles(draft)
        if draft.is_dir():
            folder.mkdir(exist_ok=True)
            for file in draft.iterdir():
                file.replace(folder / file.name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that is there whole when the block ends, and as it was when the block fails.

    Raises:
        OptionError: It can't be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with suppress(FileNotFoundError):
            draft.unlink()  # of a run that was killed; a link is removed, not followed
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OrCacheError:
        raise  # of the block: it says itself what is wrong
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise OptionError(
            printable(f"{path} can't be written: {why}; nothing was changed"), "write another name or path"
        ) from None
    finally:
        with suppress(OSError):
            draft.unlink()
