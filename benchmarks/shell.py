"""What one IPython shell is measured in: a process of its own, that prints what it found as JSON.

::

    python shell.py fresh HIT_CELL            # the CPU of loading and of the first hit, and what they import
    python shell.py turns HIT_CELL ROUNDS CALLS    # hit cells and empty cell magics, in turns

The cache is found as in a notebook: in the folder that the process is started in. Without an API key in the
environment and without a server nothing but a hit can succeed.
"""

from __future__ import annotations

import io
import json
import sys
from time import perf_counter_ns, process_time
from typing import Any

PACKAGE = "or_cache_magic"
HEAVY = ("openai", "pandas", "ipywidgets", "diskcache", "httpx", "numpy")


def shell() -> Any:
    """A shell that shows as a kernel does, into a publisher that keeps what it is given."""
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    ip = InteractiveShell.instance()
    ip.display_pub = CapturingDisplayPublisher()
    ip.kernel = object()
    # "Out[1]:", which a kernel sends and does not print.
    sys.stdout = io.StringIO()
    ip.run_cell("pass")
    return ip


def run_hit(ip: Any, cell: str) -> None:
    ip.run_cell(cell).raise_error()
    assert ip.user_ns["answer"].outcome.kind == "hit"


def fresh(cell: str) -> dict[str, Any]:
    ip = shell()
    shell_s = process_time()
    without = set(sys.modules)
    ip.run_line_magic("load_ext", PACKAGE)
    load_s = process_time() - shell_s
    loaded = set(sys.modules)
    began_s = process_time()
    result = ip.run_cell(cell)
    hit_s = process_time() - began_s
    result.raise_error()
    assert ip.user_ns["answer"].outcome.kind == "hit"
    return {
        "shell_ms": shell_s * 1e3,
        "load_ms": load_s * 1e3,
        "hit_ms": hit_s * 1e3,
        "load_modules": len(loaded - without),
        "hit_modules": len(set(sys.modules) - loaded),
        "ours": sorted(name for name in sys.modules if name.partition(".")[0] == PACKAGE),
        "heavy": sorted(set(HEAVY) & (set(sys.modules) - without)),
    }


def turns(cell: str, rounds: int, calls: int) -> list[dict[str, list[int]]]:
    ip = shell()
    ip.register_magic_function(lambda _line, _cell: None, "cell", "empty")
    ip.run_line_magic("load_ext", PACKAGE)
    run_hit(ip, cell)
    cells = {"empty": "%%empty " + cell.removeprefix("%%openrouter "), "hit": cell}
    found: list[dict[str, list[int]]] = []
    for _ in range(rounds):
        times_ns: dict[str, list[int]] = {name: [] for name in cells}
        for _ in range(calls):
            for name, source in cells.items():
                began_ns = perf_counter_ns()
                ip.run_cell(source)
                times_ns[name].append(perf_counter_ns() - began_ns)
        # One answer and one receipt each time: no cheaper way was taken.
        assert len(ip.display_pub.outputs) % 2 == 0
        ip.display_pub.outputs.clear()
        found.append(times_ns)
    run_hit(ip, cell)
    return found


if __name__ == "__main__":
    what, cell, *numbers = sys.argv[1:]
    result = fresh(cell) if what == "fresh" else turns(cell, *map(int, numbers))
    print(json.dumps(result), file=sys.__stdout__)
