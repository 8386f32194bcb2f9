"""A completion cache of 100,000 entries, made in seconds, and how fast a browser shows its panel.

Some thousand entries are put as usual; the rest are copies of them within the file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import NamedTuple

from or_cache_magic.storage import codec

from .harness import OpenNotebook

__all__ = ["ENTRIES", "Measured", "make_large", "measure"]

ENTRIES = 100_000
BASE = 2_000
DAYS = 60

FILLER = Path(__file__).parents[2] / "benchmarks" / "store.py"


def make_large(folder: Path) -> None:
    """Fills a folder with 100,000 entries of 40 models and 60 days, and a ledger of as many misses and some hits."""
    spec = importlib.util.spec_from_file_location("benchmarks_store", FILLER)
    assert spec is not None
    assert spec.loader is not None
    filler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(filler)
    words = FILLER.read_text(encoding="utf-8").split() * 2
    with contextlib.redirect_stdout(io.StringIO()):
        filler.fill(folder, BASE, words)
    with closing(sqlite3.connect(folder / "cache.db")) as file:
        file.execute("PRAGMA synchronous = OFF")
        file.execute("PRAGMA cache_size = -400000")
        file.create_function("sealed", 2, _sealed, deterministic=True)
        with file:
            for shift in range(BASE, ENTRIES, BASE):
                _copy(file, shift)
            _spread(file)


def _copy(file: sqlite3.Connection, shift: int) -> None:
    """Every one of the first entries once more, with a key of its own."""
    file.execute("CREATE TEMP TABLE IF NOT EXISTS new (id INTEGER PRIMARY KEY, key TEXT)")
    keys = "SELECT rowid + :shift, lower(hex(randomblob(32))) FROM Cache WHERE rowid <= :base"
    numbers = {"shift": shift, "base": BASE}
    file.execute(f"INSERT INTO new {keys}", numbers)
    for table, number, bound in (
        ("Cache", "rowid", "value"),
        ("or_entry", "id", ""),
        ("or_request", "id", "body"),
        ("or_ledger", "id", ""),
    ):
        key = f"(SELECT new.key FROM new WHERE new.id = {table}.{number} + :shift)"
        changed = {number: f"{number} + :shift", "key": key, bound: f"sealed({key}, {bound})"}
        names = _columns(file, table)
        columns, values = ", ".join(names), ", ".join(changed.get(name, name) for name in names)
        file.execute(
            f"INSERT INTO {table} ({columns}) SELECT {values} FROM {table} WHERE {number} <= :base", numbers
        )


def _columns(file: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in file.execute(f"PRAGMA table_info({table})")]


def _sealed(digest: str, blob: bytes) -> bytes:
    """A blob as it would be kept with another key: its checksum is bound to that."""
    form, _ = codec._START.unpack_from(blob)
    stored = blob[codec._START.size :]
    return codec._START.pack(form, codec._checksum(digest, form, stored)) + stored


def _spread(file: sqlite3.Connection) -> None:
    """The entries over the days before now, and every third of them served once."""
    times = {"now": time.time(), "step": DAYS * 86_400 / ENTRIES}
    file.execute("UPDATE or_entry SET created = :now - (100000 - id) * :step", times)
    file.execute("UPDATE or_ledger SET at = :now - (100000 - id) * :step", times)
    file.execute("UPDATE or_entry SET hits = 1, saved = cost, last_hit = created + 60 WHERE id % 3 = 0")
    names = _columns(file, "or_ledger")
    values = [{"id": "NULL", "kind": "'hit'", "paid": "0", "at": "at + 60"}.get(name, name) for name in names]
    file.execute(
        f"INSERT INTO or_ledger ({', '.join(names)}) SELECT {', '.join(values)} FROM or_ledger WHERE id % 3 = 0"
    )


FLIPS = 11

RUN_UNTIL_SHOWN = """async cell => {
    const app = window.jupyterapp, content = app.shell.currentWidget.content;
    const shown = () => document.querySelectorAll('.orc .orc-row').length === 15
        && document.querySelector('.orc .orc-tile dd')?.innerText
        && [...document.querySelectorAll('.orc .orc-status')].some(said => said.innerText.includes('matching'));
    content.activeCellIndex = cell;
    const began = performance.now();
    app.commands.execute('notebook:run-cell');
    while (!shown()) await new Promise(requestAnimationFrame);
    return performance.now() - began;
}"""

FLIP = """async page => {
    const said = () => [...document.querySelectorAll('.orc .orc-status')].map(at => at.innerText).join(' ');
    const next = [...document.querySelectorAll('.orc button')].find(at => at.innerText === 'Next');
    const began = performance.now();
    next.click();
    while (!said().includes(`page ${page} of`)) await new Promise(requestAnimationFrame);
    return performance.now() - began;
}"""


class Measured(NamedTuple):
    """What was measured of one panel.

    Attributes:
        shown_s: From the start of the cell to the page of entries, the tiles and the count on the screen.
        shown_bytes: What the kernel had sent by then.
        flip_ms: From the click on Next to the next page on the screen; the median.
    """

    shown_s: float
    shown_bytes: int
    flip_ms: float


def measure(opened: OpenNotebook, cell: int) -> Measured:
    """Runs the cell that shows the panel, and turns its pages."""
    before = opened.watch.received_bytes
    shown_ms = opened.page.evaluate(RUN_UNTIL_SHOWN, cell)
    shown_bytes = opened.watch.received_bytes - before
    flips = [opened.page.evaluate(FLIP, page) for page in range(2, 2 + FLIPS)]
    return Measured(shown_ms / 1e3, shown_bytes, median(flips))
