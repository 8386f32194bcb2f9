"""How fast JupyterLab, in a real browser, shows the panel of 100,000 entries, and how much is sent for it.

Run: ``python benchmarks/panel.py [--kernels 5]``, with a Chromium and the dependency group ``browser``. Each
kernel is a new one, so that what it imports for the panel counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import nbformat
from figures import Figure, table
from nbformat.v4 import new_code_cell, new_notebook

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.browser.harness import Browser, Jupyter, chromium
from tests.browser.large import ENTRIES, make_large, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.browser.large import Measured

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
CELLS = ("%load_ext or_cache_magic", "%openrouter_panel")


def figures(found: Sequence[Measured]) -> list[Figure]:
    """What the kernels' panels came to, beside the design's bars."""
    rows = (
        ("panel on the screen", 1.0, "s", [one.shown_s for one in found]),
        ("sent until then", 250.0, "KB", [one.shown_bytes / 1e3 for one in found]),
        ("next page", 150.0, "ms", [one.flip_ms for one in found]),
    )
    return [
        Figure(name, "≤", bar, unit, median(all_), f"{min(all_):.3g} to {max(all_):.3g}, {ENTRIES:,} entries")
        for name, bar, unit, all_ in rows
    ]


def measured(server: Jupyter, browser: Browser, kernels: int) -> list[Measured]:
    """One measurement a kernel, after one that warms the browser."""
    path = server.root / "panel.ipynb"
    make_large(server.root / ".or_cache")
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in CELLS], metadata=KERNEL), path)
    found = []
    for _ in range(1 + kernels):
        opened = browser.open(path)
        opened.run_cell(0)
        found.append(measure(opened, 1))
        browser.close(opened)
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kernels", type=int, default=5)
    kernels = parser.parse_args().kernels
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Jupyter(Path(folder)).start()
        try:
            browser = Browser(server, playwright, chromium())
            print(table(figures(measured(server, browser, kernels))))
            browser.quit()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
