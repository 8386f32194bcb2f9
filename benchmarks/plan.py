"""Does a plan say what Run All then does, and costs: ``python benchmarks/plan.py``.

The project's notebooks and ten made for it, each in kernels of its own in front of a simulator: planned and
run with an empty cache, run again in the same kernel, planned and run after a restart once half of the
answers are purged, and once more with a cell edited. For each cell what was planned is held against the calls
that it made and what they cost. A hit that pays is wrong, whatever else is right.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jupyter_client.manager import start_new_kernel

from or_cache_magic.simulator import Simulator

SHIPPED = Path(__file__).resolve().parent.parent / "notebooks"
FIRST = (
    "import or_cache_magic as orc\n%load_ext or_cache_magic\n_ = %openrouter_config model=openai/gpt-4o-mini"
)
ASK = "%%openrouter"

SYNTHETIC: dict[str, list[str]] = {
    "plain": [
        FIRST,
        f"{ASK}\nName a colour.",
        f"{ASK} openai/gpt-4o\nName a colour.",
        f"{ASK}\nName a colour.",
    ],
    "templates": [
        FIRST,
        "topic = 'tides'",
        "words = [topic, 'moon']\nwords.append('sun')",
        f"{ASK} -o tide\nExplain {{{{ topic }}}}.",
        f"{ASK}\nOne line on {{{{ words | lines }}}}",
        "topic = topic.upper()",
        f"{ASK}\nExplain {{{{ topic }}}}.",
    ],
    "replies": [
        FIRST,
        f"{ASK} -o first\nWhat is a median?",
        f"{ASK} -r first -o second\nAnd a mean?",
        f"{ASK} -r _\nAnd a mode?",
        f"{ASK}\nTranslate: {{{{ second }}}}",
        "length = len(first)",
        f"{ASK}\nIs {{{{ length }}}} large?",
    ],
    "tables": [
        FIRST,
        "import pandas as pd\nrows = pd.DataFrame({'x': ['a', 'b', 'a'], 'y': [1, 2, 3]})",
        f"{ASK} --each rows -o named\nName {{{{ row.x }}}}",
        "made = orc.map(rows, 'Count {{ y }}', progress=False)",
        "shown = orc.map(rows.head(2), 'Count {{ y }}', progress=False)",
        "by = orc.map(['p', 'q'], lambda item: f'Say {item}', progress=False)",
    ],
    "python": [
        FIRST,
        "who = 'Ada'",
        "answer = orc.ask(f'Who is {who}?')",
        "more = answer.reply('When?')",
        "def ask_all(names):\n    return [orc.ask(f'Greet {name}') for name in names]",
        "greeted = ask_all(['Ada', 'Bo'])",
        "for name in ['x', 'y']:\n    orc.ask(f'Spell {name}')",
        "both = (str(orc.ask('Say yes')), str(orc.ask('Say no')))",
    ],
    "wrapped": [
        FIRST,
        f"%%time\n{ASK}\nName a fruit.",
        f"%%capture kept\n{ASK} -o fruit\nName another fruit.",
        "# a comment above\n%%openrouter\nName a tree.",
        "line = %openrouter What is 12 * 12?",
        "%%time\nasked = orc.ask('Name a stone.')\nprint(len(asked))",
        f"{ASK}\nDraw {{{{ fruit }}}}.",
    ],
    "settings": [
        FIRST,
        f"{ASK}\nName a river.",
        "_ = %openrouter_config model=openai/gpt-4o temperature=0",
        f"{ASK}\nName a river.",
        "_ = %openrouter_config system='Be brief.'",
        f"{ASK}\nName a river.",
        f"{ASK} -s 'Be long.'\nName a river.",
    ],
    "modes": [
        FIRST,
        f"{ASK} -o fresh --refresh\nName a bird.",
        f"{ASK} --no-cache\nName a bird.",
        f"{ASK}\nName a bird.",
        f"{ASK} -t 1\nName a fish.",
        f"{ASK} -t 1 --sample 2\nName a fish.",
        f"{ASK} openai/gpt-4o-mini openai/gpt-4o -n 2 -o many\nName a dog.",
        f"{ASK} -r fresh\nAnother?",
        f"{ASK} --dry-run\nName a cat.",
    ],
    "unsteady": [
        FIRST,
        "import datetime, random",
        "now = datetime.datetime.now().isoformat()\nnumber = random.random()",
        f"{ASK}\nIs it late at {{{{ now }}}}?",
        f"{ASK}\nIs {{{{ number }}}} small?",
        "count = 0",
        "count += 1",
        f"{ASK}\nSpell {{{{ count }}}}",
        "with open('note.txt', 'w') as file:\n    _ = file.write('A note on seas.')",
        f"{ASK} -a note.txt\nSum it up.",
    ],
    "schemas": [
        FIRST,
        f"{ASK} -o book --schema 'title str, year int?'\nA book by Woolf.",
        f"{ASK}\nWho wrote {{{{ book.data.title }}}}?",
        f"{ASK} -f json -o city\nAnswer in JSON with the keys name and size: Rome.",
        f"{ASK} --schema 'title str' --repair 1\nA book by Mann.",
        "from dataclasses import dataclass\n@dataclass\nclass Film:\n    title: str",
        f"{ASK} --schema Film -o film\nA film by Varda.",
        f"{ASK}\nWho played in {{{{ film.data.title }}}}?",
    ],
}


class Seen(NamedTuple):
    """What running one cell did."""

    calls: int
    paid_usd: float


class Kernel:
    """A kernel in a folder, with the simulator that it asks."""

    def __init__(self, folder: Path, sim: Simulator) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENROUTER_", "OR_CACHE_", "JPY_"))}
        env = {
            **kept,
            "OPENROUTER_BASE_URL": sim.base_url,
            "OPENROUTER_API_KEY": sim.api_key,
            "IPYTHONDIR": str(folder / "ipython"),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        self._sim, self._paid_usd = sim, 0.0
        self._manager, self._client = start_new_kernel(cwd=str(folder), env=env)

    def begin(self, cells: list[str]) -> None:
        """Run the cells that load the extension."""
        for cell in cells:
            self.run(cell)
        self._paid_usd = self._paid()

    def close(self) -> None:
        """End it."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def run(self, cell: str) -> Seen:
        """Run a cell, and return what it did; what fails in it is the notebook's."""
        calls, paid_usd = self._sim.completion_count, self._paid_usd
        reply = self._client.execute_interactive(cell, output_hook=lambda _: None, timeout=120)
        if reply["content"]["status"] == "aborted":
            return self.run(cell)
        if (made := self._sim.completion_count - calls) > 0:
            self._paid_usd = self._paid()
        return Seen(made, self._paid_usd - paid_usd)

    def plan(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a plan."""
        found = self.value(
            f"__import__('or_cache_magic').plan({name!r}).to_frame().to_json(orient='records')"
        )
        rows: list[dict[str, Any]] = json.loads(found)
        return rows

    def value(self, expression: str) -> Any:
        """Return what an expression is in the kernel, which its history doesn't have."""
        reply = self._client.execute_interactive(
            "", silent=True, user_expressions={"value": expression}, timeout=120, output_hook=lambda _: None
        )
        found = reply["content"]["user_expressions"]["value"]
        if found["status"] != "ok":
            raise RuntimeError("\n".join(found["traceback"]))
        text = found["data"]["text/plain"]
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    def _paid(self) -> float:
        paid = self.value(
            "float(__import__('or_cache_magic')._cache().totals()[0].paid_usd)"
            " if 'or_cache_magic.notebook.extension' in __import__('sys').modules else 0.0"
        )
        return float(paid)


class Score:
    """What plans said, held against what was done."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def take(self, where: str, rows: list[dict[str, Any]], seen: dict[int, Seen]) -> None:
        """Count the rows of a plan, cell by cell."""
        cells: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            cells.setdefault(row["cell"], []).append(row)
        for cell, did in seen.items():
            said = cells.get(cell, [])
            states = {row["state"] for row in said}
            self.counts.update(row["state"] for row in said)
            pays = states & {"miss", "changed"}
            if "unknown" not in states and bool(pays) != (did.calls > 0):
                self.wrong.append(f"{where}, cell {cell}: {said or 'nothing'}, and {did.calls} calls")
            high = [row["high_usd"] for row in said]
            low_usd = sum(row["low_usd"] for row in said)
            over = None not in high and did.paid_usd > sum(high) + 1e-12
            if over or did.paid_usd < low_usd - 1e-12:
                self.wrong.append(f"{where}, cell {cell}: {said} and paid {did.paid_usd}")
            self.counts["costs that lie in their range"] += bool(did.calls) and not over


def notebook(cells: list[str]) -> dict[str, Any]:
    """Return a notebook of code cells."""
    made = [
        {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
        for source in cells
    ]
    return {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def sources(path: Path) -> list[str]:
    """Return the code of a notebook's cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        source
        for cell in cells
        if cell["cell_type"] == "code" and (source := "".join(cell["source"])).strip()
    ]


STATES = ("empty cache", "half purged, after a restart", "a cell edited, after a restart")


def measure(name: str, cells: list[str], folder: Path, score: Score, seed: int, *, quick: bool) -> None:
    """Plan and run one notebook in each of the states of its cache and its kernel, or in the first alone."""
    chance = random.Random(seed)
    for beside in SHIPPED.iterdir():
        if beside.is_file():
            shutil.copy(beside, folder)
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps(notebook(cells)), encoding="utf-8")
    with Simulator() as sim:
        for state in STATES[: 1 if quick else None]:
            if state.startswith("a cell"):
                asking = [at for at, cell in enumerate(cells) if re.match(r"(%%\w+\n)?%%openrouter", cell)]
                cells = [*cells]
                if asking:
                    cells[chance.choice(asking)] += " Be exact."
                path.write_text(json.dumps(notebook(cells)), encoding="utf-8")
            kernel = Kernel(folder, sim)
            try:
                kernel.begin(cells[: _setup(cells)])
                if state.startswith("half"):
                    _purge(kernel, chance)
                for turn in (state, f"{state}, run again"):
                    rows = kernel.plan(path.name)
                    seen = {at: kernel.run(cell) for at, cell in enumerate(cells, 1)}
                    score.take(f"{name}, {turn}", rows, seen)
            finally:
                kernel.close()


def _setup(cells: list[str]) -> int:
    """Return how many cells there are up to that which loads the extension."""
    return next(at for at, cell in enumerate(cells, 1) if "%load_ext or_cache_magic" in cell)


def _purge(kernel: Kernel, chance: random.Random) -> None:
    keys = kernel.value("sorted(__import__('or_cache_magic').entries()['key'])")
    gone = chance.sample(keys, len(keys) // 2)
    kernel.value(f"len(__import__('or_cache_magic').purge(*{gone!r}))")


def notebooks(quick: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield the notebooks by their names: those of the project, and those made for this."""
    if quick:
        yield "replies", SYNTHETIC["replies"]
    else:
        yield from SYNTHETIC.items()
        yield from ((path.stem, sources(path)) for path in sorted(SHIPPED.glob("*.ipynb")))


def main(*, quick: bool = False, only: str = "", seed: int = 7) -> int:
    """Measure, print, and return how many cells did what their plan did not say."""
    whole = Counter[str]()
    wrong: list[str] = []
    for name, cells in notebooks(quick and not only):
        if only and name != only:
            continue
        score = Score()
        with tempfile.TemporaryDirectory() as folder:
            measure(name, cells, Path(folder), score, seed, quick=quick)
        whole += score.counts
        wrong += score.wrong
        states = ", ".join(f"{count} {state}" for state, count in sorted(score.counts.items()))
        print(f"{name:12} {states} · {len(score.wrong)} wrong", flush=True)
    print(
        f"{'all':12} {', '.join(f'{n} {state}' for state, n in sorted(whole.items()))} · {len(wrong)} wrong"
    )
    print("\n".join(wrong))
    return len(wrong)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one notebook")
    parser.add_argument("--only", default="", help="the notebook of this name")
    options = parser.parse_args()
    raise SystemExit(int(main(quick=options.quick, only=options.only) > 0))
