"""Make a virtual environment, install the built package and its test tools, and run every check.

    python3 scripts/test.py              # lint, types, layers, all tests
    python3 scripts/test.py --branches   # with lines and branches reached, also of --unit; twice the time
    python3 scripts/test.py --unit       # only the tests that start no other process, and those marked smoke

Needs nothing but Python 3.10 or newer and a package index; with uv the environment is made in seconds. The
tests run against the installed wheel, not against the source tree, in one process for each core.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "or-cache-magic"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

CHECKS = {
    "lint": (("ruff", "format", "--check", "."), ("ruff", "check", "."), ("codespell",)),
    "types": (("mypy",),),
    "imports": (("lint-imports",),),
}
"""The checks that are no tests: by name, the commands of each. `noxfile.py` offers them one by one."""

COVERAGE = ("--cov", "--cov-branch", "--cov-report=term:skip-covered")


def run(*command: str | Path) -> None:
    """Run a command in the project's folder; a failure ends everything with its exit code."""
    print("+", *command, flush=True)
    # Dozens of kernels are started: where they may not keep bytecode, each compiles all that it imports. And
    # of another environment, which this was started from, IPython warns.
    left_out = ("PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
    environ = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=environ, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def prepare(*groups: str) -> Path:
    """Return the environment's folder of programs, with everything installed that these groups need."""
    folder = ROOT / ".venv" / VERSION
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    python = programs / "python"
    uv = shutil.which("uv")
    if uv:
        if not folder.is_dir():
            run(uv, "venv", "--quiet", "--seed", "--python", sys.executable, folder)
        install: tuple[str | Path, ...] = (
            uv,
            "pip",
            "install",
            "--python",
            python,
            "--reinstall-package",
            NAME,
        )
    else:
        if not folder.is_dir():
            venv.create(folder, with_pip=True)
        install = (python, "-m", "pip", "install", "--no-compile")  # what is imported is, then
        run(*install, "--quiet", "--upgrade", "pip>=25.1")  # 25.1 knows --group
    needed = [word for group in groups for word in ("--group", group)]
    run(*install, "--quiet", ".[demo,redis,memcached]", *needed)
    if not uv:
        run(*install, "--quiet", "--force-reinstall", "--no-deps", ".")
    return programs


def test(programs: Path, workers: str, profile: str, *arguments: str) -> None:
    """Run tests in so many processes, with a profile of `tests/conftest.py`; 0 is this process alone."""
    spread = () if workers == "0" else ("-n", workers)
    run(programs / "pytest", "-q", f"--hypothesis-profile={profile}", *spread, *arguments)


def main() -> None:
    """Run the checks."""
    parser = argparse.ArgumentParser(description="Install and check the package.")
    parser.add_argument("--branches", action="store_true", help="measure lines and branches reached")
    parser.add_argument("--unit", action="store_true", help="only what starts no other process, and smoke")
    parser.add_argument("--workers", default="auto", help="how many processes run tests; default: one a core")
    options = parser.parse_args()
    # A shell has what it runs in the background ignore interrupts, which the tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    measured = COVERAGE if options.branches else ()
    if options.unit:
        test(prepare("test"), options.workers, "brief", "--unit", *measured)
        return
    programs = prepare("test", "browser")
    for commands in CHECKS.values():
        for program, *arguments in commands:
            run(programs / program, *arguments)
    test(programs, options.workers, "ci", *measured)


if __name__ == "__main__":
    main()
