"""Finds the folder of the completion cache, and the notebook's name.

The same notebook must find the same cache however it is run (by a server, in VS Code, by papermill from
another folder, by nbconvert), or it pays again. What each front end tells is in `notebook_file`; the folder
that the kernel started in is the last resort. ``os.getcwd()`` is never asked: ``%cd`` must not move a cache.
The questions are `os.path`'s: `Path`'s raise where a folder may not be searched, these say no.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from or_cache_magic.core.records import NamedTuple
from or_cache_magic.core.settings import MEMORY

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

FOLDER: Final = ".or_cache"
"""The cache's folder, in the notebook's."""

FrontEnd = Literal["__vsc_ipynb_file__", "JPY_SESSION_NAME", "PAPERMILL_INPUT_PATH"]
Source = Literal["cache_dir", "OR_CACHE_DIR", FrontEnd, "folder above", "starting folder"]

_REPOSITORY: Final = (".git", ".hg")


class NotebookFile(NamedTuple):
    """The notebook's file, absolute, and who named it. It may have been renamed since."""

    path: Path
    source: FrontEnd


class Location(NamedTuple):
    """The cache's folder, absolute (or ``:memory:``), which need not exist yet, and what decided.

    ``others`` are further caches in reach where no front end told the notebook's folder: it may be theirs.
    """

    path: Path
    source: Source
    others: tuple[Path, ...] = ()


def cache_directory(
    *,
    starting_dir: Path,
    option: str | None = None,
    environ: Mapping[str, str] | None = None,
    user_ns: Mapping[str, Any] | None = None,
) -> Location:
    """Return where the cache is. Nothing is made.

    `option` decides, or else ``OR_CACHE_DIR``: they name the cache's folder itself. A relative name begins at
    `starting_dir`, ``~`` is the user's home, and ``:memory:`` is no folder. Otherwise it is the nearest cache
    in or above the notebook's folder, as VS Code, a Jupyter server or papermill tell it, or in or above
    `starting_dir` where none does; and where there is no cache yet, one in that folder.

    The search upwards ends at a repository's root and at the user's home, and passes by folders that anyone
    may write to, such as ``/tmp``: a cache there may be a stranger's.

    Args:
        starting_dir: The folder that the kernel started in.
        option: The setting's value; None or blank is not set.
        environ: The process's environment; None is empty.
        user_ns: The notebook's variables; None is none.
    """
    environ = environ or {}
    if option and option.strip():
        return Location(_absolute(option, starting_dir), "cache_dir")
    if environ.get("OR_CACHE_DIR", "").strip():
        return Location(_absolute(environ["OR_CACHE_DIR"], starting_dir), "OR_CACHE_DIR")
    notebook = notebook_file(starting_dir=starting_dir, environ=environ, user_ns=user_ns)
    begin = _absolute("", starting_dir) if notebook is None else notebook.path.parent
    caches = [folder / FOLDER for folder in _searched(begin) if os.path.isdir(folder / FOLDER)]
    others = () if notebook else tuple(caches[1:])
    if caches and caches[0].parent != begin:
        return Location(caches[0], "folder above", others)
    return Location(begin / FOLDER, notebook.source if notebook else "starting folder", others)


def locate(shell: InteractiveShell, option: str | None = None) -> Location:
    """Return the `cache_directory` of a running shell."""
    return cache_directory(
        starting_dir=Path(shell.starting_dir), option=option, environ=os.environ, user_ns=shell.user_ns
    )


def notebook_file(
    *, starting_dir: Path, environ: Mapping[str, str] | None = None, user_ns: Mapping[str, Any] | None = None
) -> NotebookFile | None:
    """Return the notebook's file, or None when no front end names it.

    VS Code sets the variable ``__vsc_ipynb_file__``, a Jupyter server ``JPY_SESSION_NAME``, and papermill
    with ``--inject-paths`` the variable ``PAPERMILL_INPUT_PATH``. The first two are absolute. They go stale
    when the notebook is renamed or its folder moved, and a remote kernel is told a path of another
    machine: without the file itself, its folder must exist and not be the root, where unsaved notebooks
    are said to be. papermill's may be a URL, or relative to the folder that papermill was started in,
    which is the kernel's unless ``--cwd`` says otherwise: the file must exist.
    """
    environ, user_ns = environ or {}, user_ns or {}
    told: tuple[tuple[FrontEnd, Any], ...] = (
        ("__vsc_ipynb_file__", user_ns.get("__vsc_ipynb_file__")),
        ("JPY_SESSION_NAME", environ.get("JPY_SESSION_NAME")),
    )
    for source, value in told:
        if isinstance(value, str) and os.path.isabs(value) and _plausible(Path(value)):
            return NotebookFile(Path(value), source)
    papermill = user_ns.get("PAPERMILL_INPUT_PATH")
    if isinstance(papermill, str) and papermill:
        path = _absolute(papermill, starting_dir)
        if os.path.isfile(path):
            return NotebookFile(path, "PAPERMILL_INPUT_PATH")
    return None


def notebook_name(notebook: NotebookFile | None, location: Location) -> str:
    """Return the notebook's name as entries keep it: its path from the cache's parent folder, with ``/``.

    Elsewhere it is the file's name alone: the path of someone's home says nothing to others who get the
    entry. Empty when the notebook isn't known.
    """
    if notebook is None:
        return ""
    try:
        return notebook.path.relative_to(location.path.parent).as_posix()
    except ValueError:
        return notebook.path.name


def _absolute(name: str, base: Path) -> Path:
    if name.strip() == MEMORY:
        return Path(MEMORY)
    return Path(os.path.abspath(base / os.path.expanduser(name)))


def _plausible(path: Path) -> bool:
    return os.path.isfile(path) or (path.parent != Path(path.anchor) and os.path.isdir(path.parent))


def _searched(start: Path) -> Iterator[Path]:
    """Yield the folders from `start` upwards whose cache may be used."""
    home = Path(os.path.expanduser("~"))
    for folder in (start, *start.parents):
        if folder == start or not _anyone_writes(folder):
            yield folder
        if folder == home or any(os.path.exists(folder / mark) for mark in _REPOSITORY):
            return


def _anyone_writes(folder: Path) -> bool:
    try:
        return os.name == "posix" and bool(folder.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return True
