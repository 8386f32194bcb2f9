"""Where the cache is, for each front end and each way that its word can be stale."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from or_cache_magic.notebook.location import (
    FOLDER,
    Location,
    NotebookFile,
    cache_directory,
    locate,
    notebook_file,
    notebook_name,
)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A kernel's starting folder, deep in a project."""
    folder = tmp_path / "project" / "sub" / "deep"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook's file in a folder of its own."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    file = folder / "nb.ipynb"
    file.touch()
    return file


def test_cache_directory__starting_folder_is_the_last_resort(start: Path):
    """Without any word it is the folder that the kernel started in, and nothing is made."""
    assert cache_directory(starting_dir=start) == Location(start / FOLDER, "starting folder")
    assert not (start / FOLDER).exists()


def test_cache_directory__order(start: Path, notebook: Path):
    """Each source decides only where no earlier one does."""
    (start.parent / FOLDER).mkdir()
    papermill, jupyter, vscode = (notebook.with_name(name) for name in ("p.ipynb", "j.ipynb", "v.ipynb"))
    papermill.touch()
    expected = [
        ("folder above", {}, {}, None),
        ("PAPERMILL_INPUT_PATH", {}, {"PAPERMILL_INPUT_PATH": str(papermill)}, None),
        ("JPY_SESSION_NAME", {"JPY_SESSION_NAME": str(jupyter)}, {}, None),
        ("__vsc_ipynb_file__", {}, {"__vsc_ipynb_file__": str(vscode)}, None),
        ("OR_CACHE_DIR", {"OR_CACHE_DIR": "elsewhere"}, {}, None),
        ("cache_dir", {}, {}, "chosen"),
    ]
    environ: dict[str, str] = {}
    user_ns: dict[str, str] = {}
    for source, more_environ, more_ns, option in expected:
        environ |= more_environ
        user_ns |= more_ns
        found = cache_directory(starting_dir=start, option=option, environ=environ, user_ns=user_ns)
        assert found.source == source
        assert found.path.is_absolute()


def test_cache_directory__option_and_environment_name_the_folder_itself(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They are the cache's own folder: relative to the starting folder, ``~`` is home, blank is not set."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))

    def named(value: str) -> Path:
        return cache_directory(starting_dir=start, environ={"OR_CACHE_DIR": value}).path

    assert named(str(tmp_path / "c")) == tmp_path / "c"
    assert named("c") == start / "c"
    assert named("../c") == start.parent / "c"
    assert named("~/c") == tmp_path / "c"
    assert named(" ") == start / FOLDER
    assert cache_directory(starting_dir=start, option="~/c") == Location(tmp_path / "c", "cache_dir")
    assert cache_directory(starting_dir=start, option="").source == "starting folder"


def test_cache_directory__renamed_notebook_keeps_its_folder(start: Path, notebook: Path):
    """The server's word outlives a rename: the file is gone, its folder is still the right one."""
    environ = {"JPY_SESSION_NAME": str(notebook.with_name("old-name.ipynb"))}

    assert cache_directory(starting_dir=start, environ=environ).path == notebook.parent / FOLDER


@pytest.mark.parametrize("variable", ["JPY_SESSION_NAME", "__vsc_ipynb_file__"])
@pytest.mark.parametrize(
    "value",
    ["/no/such/folder/nb.ipynb", "/Untitled-1.ipynb", "relative/nb.ipynb", "nb.ipynb", "", "untitled:nb"],
)
def test_cache_directory__unbelievable_notebook_is_passed_by(start: Path, variable: str, value: str):
    """A moved folder, the root, a remote machine's path or a relative one: the next source decides."""
    told = {variable: value}

    found = cache_directory(starting_dir=start, environ=told, user_ns=told)
    assert found == Location(start / FOLDER, "starting folder")


@pytest.mark.parametrize("variable", ["JPY_SESSION_NAME", "__vsc_ipynb_file__"])
def test_cache_directory__relative_notebook_is_not_looked_up_from_here(
    start: Path, notebook: Path, variable: str, monkeypatch: pytest.MonkeyPatch
):
    """A relative path would mean another file after ``%cd``."""
    monkeypatch.chdir(notebook.parent)
    told = {variable: notebook.name}

    assert cache_directory(starting_dir=start, environ=told, user_ns=told).source == "starting folder"


def test_cache_directory__notebook_variable_of_another_kind(start: Path):
    """A user's own variable of that name that is no path is no word of a front end."""
    user_ns = {"__vsc_ipynb_file__": 3, "PAPERMILL_INPUT_PATH": None}

    assert cache_directory(starting_dir=start, user_ns=user_ns).source == "starting folder"


@pytest.mark.parametrize("value", ["s3://bucket/nb.ipynb", "-", "missing.ipynb", "a\0b", "x" * 5000])
def test_cache_directory__papermill_needs_the_file(start: Path, value: str):
    """papermill's input may be a URL or standard input; without a file it says nothing."""
    found = cache_directory(starting_dir=start, user_ns={"PAPERMILL_INPUT_PATH": value})

    assert found.source == "starting folder"


def test_cache_directory__papermill_relative_to_where_it_was_started(start: Path):
    """papermill's relative input is the interactive notebook's folder: nothing is paid twice."""
    (start / "nbs").mkdir()
    (start / "nbs" / "nb.ipynb").touch()

    found = cache_directory(starting_dir=start, user_ns={"PAPERMILL_INPUT_PATH": "nbs/nb.ipynb"})
    assert found == Location(start / "nbs" / FOLDER, "PAPERMILL_INPUT_PATH")


@pytest.mark.parametrize("variable", ["JPY_SESSION_NAME", "__vsc_ipynb_file__", None])
def test_cache_directory__is_one_in_every_front_end(tmp_path: Path, variable: str | None):
    """A notebook below a project with a cache finds that, in Lab as in nbconvert, and pays once."""
    folder = tmp_path / "project" / "notebooks"
    folder.mkdir(parents=True)
    (tmp_path / "project" / FOLDER).mkdir()
    told = {variable: str(folder / "nb.ipynb")} if variable else {}

    found = cache_directory(starting_dir=folder, environ=told, user_ns=told)
    assert found == Location(tmp_path / "project" / FOLDER, "folder above")
    (folder / FOLDER).mkdir()
    found = cache_directory(starting_dir=folder, environ=told, user_ns=told)
    assert found.path == folder / FOLDER
    # Where the front end does not tell, the other one may have been meant.
    assert found.others == (() if variable else (tmp_path / "project" / FOLDER,))


def test_cache_directory__looks_no_further_than_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is above the user's home is not the user's."""
    home = tmp_path / "home" / "user"
    (home / "work").mkdir(parents=True)
    (tmp_path / "home" / FOLDER).mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    assert cache_directory(starting_dir=home / "work").source == "starting folder"
    (home / FOLDER).mkdir()
    assert cache_directory(starting_dir=home / "work") == Location(home / FOLDER, "folder above")


def test_cache_directory__nearest_folder_above(start: Path):
    """Of several caches above, the nearest; a file of that name is none; the own one comes first."""
    (start.parents[1] / FOLDER).mkdir()
    (start.parent / FOLDER).touch()
    assert cache_directory(starting_dir=start) == Location(start.parents[1] / FOLDER, "folder above")

    (start / FOLDER).mkdir()
    others = (start.parents[1] / FOLDER,)
    assert cache_directory(starting_dir=start) == Location(start / FOLDER, "starting folder", others)


@pytest.mark.parametrize("mark", [".git", ".hg"])
@pytest.mark.parametrize("kind", ["mkdir", "touch"])
def test_cache_directory__not_past_the_repository(start: Path, mark: str, kind: str):
    """A repository's root (a folder, or the file of a worktree) is searched, what is above it isn't."""
    root = start.parent
    getattr(root / mark, kind)()
    (root.parent / FOLDER).mkdir()
    assert cache_directory(starting_dir=start).source == "starting folder"

    (root / FOLDER).mkdir()
    assert cache_directory(starting_dir=start) == Location(root / FOLDER, "folder above")


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_cache_directory__not_from_where_anyone_may_write(start: Path):
    """A cache in a folder like ``/tmp`` may be a stranger's; the one above such a folder may not be."""
    (start.parent / FOLDER).mkdir()
    start.parent.chmod(0o1777)
    assert cache_directory(starting_dir=start).source == "starting folder"

    (start.parents[1] / FOLDER).mkdir()
    assert cache_directory(starting_dir=start).path == start.parents[1] / FOLDER


def test_cache_directory__symlinked_cache_and_notebook(start: Path, tmp_path: Path, notebook: Path):
    """A linked cache folder counts, and a linked notebook's folder is the one the link is in."""
    (tmp_path / "real").mkdir()
    (start.parent / FOLDER).symlink_to(tmp_path / "real")
    assert cache_directory(starting_dir=start).path == start.parent / FOLDER

    (start.parent / FOLDER).unlink()
    (start / "link.ipynb").symlink_to(notebook)
    environ = {"JPY_SESSION_NAME": str(start / "link.ipynb")}
    assert cache_directory(starting_dir=start, environ=environ).path == start / FOLDER


def test_cache_directory__root_as_starting_folder():
    """A kernel that started in the root has its cache there, if nothing else is told."""
    root = Path(Path.cwd().anchor)

    assert cache_directory(starting_dir=root).path == root / FOLDER


def test_notebook_name__relative_to_the_caches_folder(start: Path):
    """Below the cache's folder it is the path from there; elsewhere the name alone; unknown is empty."""
    file = NotebookFile(start / "nb.ipynb", "JPY_SESSION_NAME")

    assert notebook_name(file, Location(start / FOLDER, "JPY_SESSION_NAME")) == "nb.ipynb"
    assert notebook_name(file, Location(start.parents[1] / "cache", "OR_CACHE_DIR")) == "sub/deep/nb.ipynb"
    assert notebook_name(file, Location(start / "else" / "cache", "OR_CACHE_DIR")) == "nb.ipynb"
    assert notebook_name(None, Location(start / FOLDER, "starting folder")) == ""


def test_notebook_file__is_told_even_where_the_cache_is_elsewhere(start: Path, notebook: Path):
    """The notebook's name is for browsing, wherever the cache is."""
    told = notebook_file(starting_dir=start, environ={"JPY_SESSION_NAME": str(notebook)})

    assert told == NotebookFile(notebook, "JPY_SESSION_NAME")
    assert notebook_file(starting_dir=start) is None


def test_locate__cd_does_not_move_it(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_shell
):
    """A shell's cache stays where the kernel started, after ``%cd`` too."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delenv("OR_CACHE_DIR", raising=False)
    monkeypatch.chdir(start)
    shell: InteractiveShell = fresh_shell()
    before = locate(shell)
    shell.run_line_magic("cd", f"-q {tmp_path}")

    assert Path.cwd() == tmp_path.resolve()
    assert locate(shell) == before == Location(start.resolve() / FOLDER, "starting folder")
    assert locate(shell, "named").path == start.resolve() / "named"


def test_cache_directory__memory_is_no_folder(tmp_path):
    """``:memory:`` stays what it is, from the setting and from the environment; the notebook keeps its name."""
    by_option = cache_directory(starting_dir=tmp_path, option=":memory:")
    by_environment = cache_directory(starting_dir=tmp_path, environ={"OR_CACHE_DIR": ":memory:"})

    assert by_option == Location(Path(":memory:"), "cache_dir")
    assert by_environment == Location(Path(":memory:"), "OR_CACHE_DIR")
    notebook = NotebookFile(tmp_path / "n.ipynb", "JPY_SESSION_NAME")
    assert notebook_name(notebook, by_option) == "n.ipynb"
