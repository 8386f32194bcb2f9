"""A server, a browser and notebooks in it; each test's last screen is kept as a picture."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.settings import Settings
from or_cache_magic.simulator import Simulator

from .harness import Browser, Jupyter, chromium

MODEL = "openai/gpt-4o-mini"
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@pytest.fixture(scope="session")
def program():
    return chromium()


@pytest.fixture(scope="session")
def simulator():
    with Simulator() as running:
        yield running


@pytest.fixture(scope="session")
def server(program, tmp_path_factory, simulator):
    running = Jupyter(
        tmp_path_factory.mktemp("jupyter"),
        OPENROUTER_BASE_URL=simulator.base_url,
        OPENROUTER_API_KEY=simulator.api_key,
        OPENROUTER_MODEL=MODEL,
    ).start()
    yield running
    running.stop()


class Running:
    """The browser of all tests here; over when the last of them is."""

    now: Running | None = None

    def __init__(self, program, server):
        from playwright.sync_api import expect, sync_playwright

        expect.set_options(timeout=60_000)
        self._playwright = sync_playwright().start()
        self.browser = Browser(server, self._playwright, program)
        Running.now = self

    @classmethod
    def stop(cls):
        if cls.now is not None:
            running, cls.now = cls.now, None
            running.browser.quit()
            running._playwright.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """Stops the browser before other tests: while Playwright runs, they could run no event loop."""
    try:
        return (yield)
    finally:
        if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
            Running.stop()


@pytest.fixture
def browser(program, server):
    """The browser that runs, or a new one when other tests ran in between."""
    return (Running.now or Running(program, server)).browser


@pytest.fixture
def sim(simulator):
    """What answers the kernels, with nothing received yet."""
    simulator.clear()
    return simulator


@pytest.fixture(scope="session")
def shots():
    """Where pictures go: the folder in ``BROWSER_SCREENSHOTS``, or ``build/screenshots``."""
    default = Path(__file__).parents[2] / "build" / "screenshots"
    folder = Path(os.environ.get("BROWSER_SCREENSHOTS") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def folder(request, server):
    """The folder of the test's notebooks."""
    made = server.root / re.sub(r"\W+", "-", request.node.name).strip("-")
    made.mkdir()
    return made


@pytest.fixture
def shoot(request, shots):
    """``shoot(notebook, "dark")`` keeps a picture of what is on the screen, named by the test."""
    test = re.sub(r"[^\w.-]+", "-", request.node.name.removeprefix("test_")).strip("-")

    def take(notebook, name="last"):
        notebook.page.screenshot(path=shots / f"{test}--{name}.png")

    return take


@pytest.fixture
def open_notebook(request, browser, sim, shoot):
    """``open_notebook(path, app="lab")`` opens a notebook of the test's folder; it must end without complaint."""
    opened = []

    def start(path, *, app="lab"):
        notebook = browser.open(path, app)
        opened.append(notebook)
        return notebook

    yield start
    for notebook in opened:
        try:
            if notebook.watch.spoiled:
                browser.drop()
                continue
            shoot(notebook)
            browser.close(notebook)
            notebook.watch.assert_quiet()
        except BaseException:
            browser.drop()
            raise


@pytest.fixture
def notebook(folder, open_notebook):
    """``notebook(name, *cells, app="lab"|"notebook")`` opens a new notebook of these cells."""

    def start(name, *sources, app="lab"):
        cells = [new_code_cell(source, id=f"cell-{place}") for place, source in enumerate(sources)]
        nbformat.write(new_notebook(cells=cells, metadata=KERNEL), folder / name)
        return open_notebook(folder / name, app=app)

    return start


@pytest.fixture
def shipped(folder, open_notebook):
    """``shipped(name, app="lab")`` opens a copy of one of the notebooks that come with the project."""

    def start(name, *, app="lab"):
        source = Path(__file__).parents[2] / "notebooks"
        for needed in (name, "reviews.csv", "receipt.png", "kettle.pdf"):
            shutil.copy(source / needed, folder)
        return open_notebook(folder / name, app=app)

    return start


@pytest.fixture
def cache_of(folder, simulator):
    """``cache_of(clock=…)`` is the completion cache of the test's notebooks, opened outside of their kernels."""
    opened = []

    def start(**options):
        settings = Settings(model=MODEL, base_url=simulator.base_url)
        cache = CompletionCache(
            folder / ".or_cache", settings=lambda: settings, api_key=lambda: simulator.api_key, **options
        )
        opened.append(cache)
        return cache

    yield start
    for cache in opened:
        cache.close()
