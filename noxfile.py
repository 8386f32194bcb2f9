"""What CI does, by name: ``nox -l`` lists it, ``nox`` runs the quick checks, ``nox -s tests`` all tests.

The checks, and how tests are run, are written down in `scripts/test.py`; here are only names. Sessions use
the environment that nox is run from (the group ``dev``); tests make their own, for the built package.
"""

from __future__ import annotations

import runpy
import sys

import nox

CHECKS = runpy.run_path("scripts/test.py")["CHECKS"]

nox.options.default_venv_backend = "none"
nox.options.sessions = list(CHECKS)


def _check(session: nox.Session, name: str) -> None:
    for command in CHECKS[name]:
        session.run(*command)


@nox.session
def lint(session: nox.Session) -> None:
    """Format, rules of style, spelling."""
    _check(session, "lint")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the package and of its public API as others see it."""
    _check(session, "types")


@nox.session
def imports(session: nox.Session) -> None:
    """Imports point down, and libraries stay where they belong."""
    _check(session, "imports")


@nox.session
def tests(session: nox.Session) -> None:
    """All checks and all tests against the built package: some minutes."""
    session.run(sys.executable, "scripts/test.py", *session.posargs)


@nox.session
@nox.parametrize("version", ["3.10", "3.11", "3.13"])
def unit(session: nox.Session, version: str) -> None:
    """The tests that start no other process, and the few marked smoke, on one Python."""
    session.run(f"python{version}", "scripts/test.py", "--unit", *session.posargs)


@nox.session
def repeat(session: nox.Session) -> None:
    """Tests again and again with every core kept busy: names those that fail now and then."""
    session.run("python", "scripts/repeat.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The bars of speed, and the map of the code."""
    session.run("python", "benchmarks/run.py", *session.posargs)
    session.run("python", "benchmarks/visits.py")


@nox.session
def pictures(session: nox.Session) -> None:
    """The pictures of the documentation, taken anew."""
    session.run("python", "scripts/screenshots.py", *session.posargs)


@nox.session
def ci(session: nox.Session) -> None:
    """What CI runs."""
    session.run(".ci/run")
