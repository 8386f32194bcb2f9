"""Run tests again and again while every core is kept busy by other work, and report which of them are flaky.

    python scripts/repeat.py                             # the whole suite, 10 times
    python scripts/repeat.py -t 30 tests/processes -x    # what follows goes to pytest as it is

Run it with the Python of an environment in which the tests run. A test that fails under this load waits for
too short a time, or for the wrong thing: mend the cause, not the number. The logs of runs with a failure stay
in build/repeat/. The exit code is 1 when any run failed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "repeat"
SPIN = "while True: sum(range(10_000))"
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+(?: \S+)*?)(?: - .*)?$", re.MULTILINE)


@contextlib.contextmanager
def busy(cores: int) -> Iterator[None]:
    """Keep so many cores busy; the other work has the same priority as the tests."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def run_once(number: int, arguments: list[str]) -> list[str]:
    """Return what failed in one run: ids of tests, or how pytest ended."""
    log = LOGS / f"run-{number}.log"
    began_s = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", "pytest", "-q", *arguments]
        code = subprocess.run(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    text = log.read_text(encoding="utf-8")
    failed = FAILED.findall(text) or ([f"pytest ended with {code}"] if code else [])
    last = text.rstrip().rpartition("\n")[2]
    print(f"run {number}, {time.monotonic() - began_s:.0f} s: {last}", flush=True)
    if not failed:
        log.unlink()
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-t", "--times", type=int, default=10, help="how many runs (default: 10)")
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="cores kept busy (default: all)")
    options, arguments = parser.parse_known_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    failures: collections.Counter[str] = collections.Counter()
    with busy(options.busy):
        for number in range(1, options.times + 1):
            failures.update(run_once(number, arguments))
    for test, count in failures.most_common():
        print(f"{count} of {options.times}: {test}")
    print(f"{len(failures)} flaky in {options.times} runs")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
