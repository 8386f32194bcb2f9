"""The files around the package say what is so: the lock file, and what runs the checks."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def test_nox__offers_each_check():
    """Every check that CI makes has a session of its name, and the quick ones are run by plain ``nox``."""
    nox = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = set(re.findall(r"^@nox\.session\n(?:@.*\n)*def (\w+)", nox, re.MULTILINE))
    checks = runpy.run_path(str(ROOT / "scripts" / "test.py"))["CHECKS"]
    assert sessions >= {*checks, "tests", "unit", "bench", "pictures", "ci"}
    for name in checks:
        assert f'_check(session, "{name}")' in nox


def test_hooks__run_what_ci_runs():
    """Each hook's program is one that the checks run, and none of them fetches anything."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    commands = [c for cs in runpy.run_path(str(ROOT / "scripts" / "test.py"))["CHECKS"].values() for c in cs]
    entries = re.findall(r"entry: (.*)", hooks)
    assert {entry.split()[0] for entry in entries} <= {command[0] for command in commands}
    assert len(entries) == 4
    assert re.findall(r"repo: (.*)", hooks) == ["local"]


def test_lock__names_only_the_public_index():
    """Whoever locks, with whatever mirror: the file leads to PyPI alone."""
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://([^/\"]+)", text)) == {"pypi.org", "files.pythonhosted.org"}


def test_lock__has_what_the_project_requires():
    """Each requirement, of the package, its extras and its groups, is locked as it stands; else: ``uv lock``."""
    tomllib = pytest.importorskip("tomllib")
    project, lock = (
        tomllib.loads((ROOT / name).read_text(encoding="utf-8")) for name in ("pyproject.toml", "uv.lock")
    )
    (ours,) = [package for package in lock["package"] if package["name"] == project["project"]["name"]]
    extras = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *(text for extra in extras.values() for text in extra)]
    groups = project["dependency-groups"]
    assert _locked(ours["metadata"]["requires-dist"]) == _asked(asked)
    assert ours["metadata"]["requires-dev"].keys() == groups.keys()
    for name in groups:
        assert _locked(ours["metadata"]["requires-dev"][name]) == _asked(_of_group(groups, name)), name


def _of_group(groups: dict[str, list], name: str) -> list[str]:
    found = []
    for item in groups[name]:
        found.extend([item] if isinstance(item, str) else _of_group(groups, item["include-group"]))
    return found


def _asked(requirements: list[str]) -> set[tuple[str, str]]:
    return {(found.name, str(found.specifier)) for found in map(Requirement, requirements)}


def _locked(requirements: list[dict[str, str]]) -> set[tuple[str, str]]:
    return {(found["name"], found["specifier"]) for found in requirements}
