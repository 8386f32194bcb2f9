"""Takes the pictures of the README anew: of a real JupyterLab, over asks that were really made.

    python scripts/screenshots.py        # in the environment that scripts/test.py makes, or one like it

Three weeks of asks go to the simulator, by a clock that is moved on; the panel is then opened in JupyterLab,
light and dark, and its picture written to ``docs/images``. Another is of a cell that makes a photo a table.
"""

from __future__ import annotations

import csv
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from harness import Browser, Jupyter, OpenNotebook, chromium, expect  # noqa: E402 - the tests' own browser
from playwright.sync_api import sync_playwright  # noqa: E402

from or_cache_magic.cache.cache import CompletionCache  # noqa: E402
from or_cache_magic.core.settings import Settings  # noqa: E402
from or_cache_magic.errors import OrCacheError  # noqa: E402
from or_cache_magic.simulator import Simulator, scenario  # noqa: E402

MODELS = ("openai/gpt-4o-mini", "openai/gpt-4o", "anthropic/claude-sonnet-4.6", "anthropic/claude-haiku-4.5")
TASKS = (
    "Is this review positive, negative or neutral? One word. {}",
    "Translate to French: {}",
    "Extract product, sentiment and a one-line summary as JSON: {}",
    "Write a short, kind reply to this customer: {}",
)
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
DAYS = 21
SCREEN = {"width": 1160, "height": 1100}


class Moved:
    """A clock that goes by when it is told to."""

    now_s = 0.0

    def __call__(self) -> float:
        """UTC epoch seconds."""
        return self.now_s


def fill(folder: Path, sim: Simulator, clock: Moved) -> None:
    """Three weeks of a notebook's asks: more are asked again each week, and now and then one goes wrong."""
    with (ROOT / "notebooks" / "reviews.csv").open(encoding="utf-8") as file:
        reviews = [row["review"] for row in csv.DictReader(file)]
    asks = [
        (task.format(review), model) for review in reviews for task, model in zip(TASKS, MODELS, strict=True)
    ]
    chance = random.Random(4)  # the same picture every time
    settings = Settings(base_url=sim.base_url)
    today_s = time.time()
    for day in range(DAYS):
        cache = CompletionCache(
            folder / ".or_cache",
            settings=lambda: settings,
            api_key=lambda: sim.api_key,
            notebook="reviews.ipynb",
            clock=clock,
        )
        clock.now_s = today_s - (DAYS - 1 - day) * 86_400 - 7200
        known = asks[: 8 + day * len(asks) // DAYS]
        for prompt, model in chance.sample(known, min(len(known), 10 + day)):
            clock.now_s += 60
            if chance.random() < 0.02:  # noqa: PLR2004 - now and then
                sim.script(scenario("timed_out"))
            try:
                cache.ask(prompt, model=model, tag="reviews")
            except OrCacheError:
                continue
        cache.close()


def take_panel(browser: Browser, folder: Path, images: Path) -> None:
    """The panel over three weeks, light and dark."""
    opened = open_lab(browser, folder / "reviews.ipynb", "%openrouter_panel")
    opened.page.set_viewport_size(SCREEN)
    for theme, name in (("Dark", "panel-dark.png"), ("Light", "panel.png")):
        opened.theme(theme)
        opened.run_all()
        panel = opened.output(1).locator(".orc").first
        expect(panel.locator("svg").first).to_be_visible()
        panel.screenshot(path=images / name)
    browser.close(opened)


def take_photo(browser: Browser, folder: Path, images: Path) -> None:
    """A photo of a receipt, the cell that reads it, and the table that it gives."""
    for name in ("asking.ipynb", "receipt.png", "kettle.pdf"):
        shutil.copy(ROOT / "notebooks" / name, folder)
    opened = browser.open(folder / "asking.ipynb")
    opened.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    opened.page.set_viewport_size({"width": 1000, "height": 1100})
    opened.run_all()
    photo, asked, table = opened.cell(3), opened.cell(4), opened.cell(5)
    expect(opened.output(5).locator("table").first).to_be_visible()
    photo.scroll_into_view_if_needed()
    expect(asked).to_be_visible()
    first, last = photo.bounding_box(), table.bounding_box()
    area = {"x": first["x"], "y": first["y"], "width": first["width"]}
    area["height"] = last["y"] + last["height"] - first["y"]
    opened.page.screenshot(path=images / "photo.png", clip=area)
    browser.close(opened)


def open_lab(browser: Browser, path: Path, *sources: str) -> OpenNotebook:
    """A notebook of these cells below the one that loads the extension, without the list of files."""
    cells = [nbformat.v4.new_code_cell(text) for text in ("%load_ext or_cache_magic", *sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)
    opened = browser.open(path)
    opened.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    return opened


def main() -> None:
    """Takes the pictures."""
    images = ROOT / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    clock = Moved()
    with (
        tempfile.TemporaryDirectory() as scratch,
        Simulator(now=clock) as sim,
        sync_playwright() as playwright,
    ):
        server = Jupyter(Path(scratch), OPENROUTER_BASE_URL=sim.base_url, OPENROUTER_API_KEY=sim.api_key)
        folder = server.root / "reviews"
        folder.mkdir()
        fill(folder, sim, clock)
        sim.clear()  # what was to go wrong, and nobody asked
        server.start()
        browser = Browser(server, playwright, chromium())
        try:
            take_panel(browser, folder, images)
            take_photo(browser, folder, images)
        finally:
            browser.quit()
            server.stop()


if __name__ == "__main__":
    main()
