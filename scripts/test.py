"""Makes a virtual environment, installs the built package and its test tools, and runs every check.

    python3 scripts/test.py              # lint, types, layers, all tests with coverage
    python3 scripts/test.py --unit       # only the tests that start no kernels, servers, browsers or crowds

Needs nothing but Python 3.10 or newer and a package index. The tests run against the installed wheel,
not against the source tree.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

CHECKS = {
    "lint": (("ruff", "format", "--check", "."), ("ruff", "check", "."), ("codespell",)),
    "types": (("mypy",),),
    "imports": (("lint-imports",),),
}
"""The checks that are no tests: by name, the commands of each. `noxfile.py` offers them one by one."""


def run(*command: str | Path, **variables: str) -> None:
    """Runs a command in the project's folder; a failure ends everything with its exit code."""
    print("+", *command, flush=True)
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env={**os.environ, **variables}, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def prepare(*groups: str) -> Path:
    """The environment's folder of programs, with everything installed that these groups of tests need."""
    folder = ROOT / ".venv" / VERSION
    if not folder.is_dir():
        venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    python = programs / "python"
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1")  # 25.1 knows --group
    needed = [word for group in groups for word in ("--group", group)]
    run(python, "-m", "pip", "install", "--quiet", ".[demo,redis,memcached]", *needed)
    run(python, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", ".")
    return programs


def main() -> None:
    """Runs the checks."""
    parser = argparse.ArgumentParser(description="Install and check the package.")
    parser.add_argument(
        "--unit", action="store_true", help="only what starts no kernels, servers, browsers or crowds"
    )
    unit = parser.parse_args().unit
    # A shell has what it runs in the background ignore interrupts, which the tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    programs = prepare("test") if unit else prepare("test", "browser")
    if unit:
        apart = [
            f"--ignore=tests/{name}" for name in ("browser", "processes", "shared", "test_benchmarks.py")
        ]
        run(programs / "pytest", "-m", "not kernel", "-q", *apart)
        return
    for commands in CHECKS.values():
        for program, *arguments in commands:
            run(programs / program, *arguments)
    run(programs / "pytest", "-q", "--cov", "--cov-report=term:skip-covered")


if __name__ == "__main__":
    main()
