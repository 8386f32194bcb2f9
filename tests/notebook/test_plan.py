"""`%openrouter_plan`: what is a hit, what pays, what can't be told, and what is bought beforehand."""

from __future__ import annotations

import json
import os
import time
from decimal import Decimal

import pytest

import or_cache_magic as orc
from or_cache_magic import cli
from or_cache_magic.errors import OptionError

ASK = "%%openrouter"


def save(nb, *cells, name="work.ipynb"):
    """Writes a notebook of these code cells into the folder."""
    made = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": []} for cell in cells]
    (nb.folder / name).write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4}))
    return cells


def run_all(nb, *cells):
    for cell in cells:
        nb.shell.run_cell(cell, store_history=True)


def planned(nb, *cells, **options):
    """The rows of a plan: name, state and why."""
    save(nb, *cells)
    plan = orc.plan("work.ipynb", **options)
    print(plan)  # noqa: T201 - for a failure
    return [(row.cell, row.state) for row in plan.rows]


def test_plan__tells_hits_from_misses_and_sends_nothing(nb):
    """A stored answer is a hit, another prompt a miss with its range, an edited one changed, and why."""
    nb.run(f"{ASK}\nWhat is a median?")
    nb.run(f"{ASK}\nDescribe how the sea looks on a calm winter morning.")
    save(
        nb,
        f"{ASK}\nWhat is a median?",
        f"{ASK}\nDescribe how the sea looks on a calm summer morning.",
        f"{ASK} openai/gpt-4o -o far\nList 3 prime numbers",
        "x = 1",
    )
    before = len(nb.sent)
    nb.run("plan = %openrouter_plan work.ipynb")
    plan = nb["plan"]
    assert [(row.cell, row.state) for row in plan.rows] == [(1, "hit"), (2, "changed"), (3, "miss")]
    assert plan.rows[1].why == "prompt: … looks on a calm [-winter-]{+summer+} morning." or (
        "[-winter-]{+summer+}" in plan.rows[1].why
    )
    assert plan.rows[2].name == "far"
    assert plan.pays
    assert plan.certain
    assert Decimal(0) < plan.low_usd < plan.high_usd
    assert len(nb.sent) == before
    frame = plan.to_frame()
    assert list(frame["state"]) == ["hit", "changed", "miss"]
    assert list(frame.columns) == ["cell", "name", "state", "why", "low_usd", "high_usd", "requests", "new"]
    assert "1 hit, 1 miss, 1 changed" in str(plan)
    assert "<table" in plan._repr_html_()


def test_plan__cost_lies_in_its_range(nb):
    """What the cells then pay is between the least and the most."""
    cells = save(nb, f"{ASK} -n 2 -o two\nName a colour.", f"{ASK} --schema 'name str' --repair 1\nA river.")
    plan = orc.plan("work.ipynb")
    run_all(nb, *cells)
    paid_usd = orc.stats(session=True)["paid_usd"][0]
    assert plan.low_usd <= Decimal(str(paid_usd)) <= plan.high_usd
    assert orc.plan("work.ipynb").low_usd == orc.plan("work.ipynb").high_usd == 0


@pytest.mark.parametrize(
    ("cells", "later", "states"),
    [
        (["x = [1]", "x.append(2)", f"{ASK}\nSay {{{{ x }}}}"], [], ["hit"]),
        (["x = [1]", "x.append(2)", f"{ASK}\nSay {{{{ x }}}}"], ["x.append(2)"], ["unknown"]),
        (["x = 'a'", f"{ASK}\nSay {{{{ x }}}}", "x = 'b'"], [], ["hit"]),
        (["x = str(1)", f"{ASK}\nSay {{{{ x }}}}", "x = str(2)"], [], ["unknown"]),
        (["x = str(1)", "y = x + '!'", f"{ASK}\nSay {{{{ y }}}}"], ["x = str(2)"], ["hit"]),
        (
            ["x = str(1)", "y = x + '!'", f"{ASK}\nSay {{{{ y }}}}"],
            ["x = str(2)", "y = x + '!'"],
            ["unknown"],
        ),
        (["def f():\n    return str(1)", "x = f()", f"{ASK}\nSay {{{{ x }}}}"], [], ["hit"]),
        (
            ["def f():\n    return str(1)", "x = f()", f"{ASK}\nSay {{{{ x }}}}"],
            ["def f():\n    return str(2)", "x = f()"],
            ["unknown"],
        ),
        (["d = dict(k=[1])", "e = d['k']", f"{ASK}\nSay {{{{ d.k }}}}"], ["e.append(2)"], ["unknown"]),
        (["x = list('a')", "def f():\n    x.append('b')", f"{ASK}\nSay {{{{ x }}}}"], ["f()"], ["unknown"]),
        (["x = ['a']", "def f():\n    x.append('b')", f"{ASK}\nSay {{{{ x }}}}"], ["f()"], ["hit"]),
        (["x = list('a')", f"{ASK}\nSay {{{{ x }}}}"], ["d = dict(a=x)", "d['a'].append('b')"], ["unknown"]),
        (["x = [list('a')]", f"{ASK}\nSay {{{{ x }}}}"], ["y = x.copy()\ny[0].append('b')"], ["unknown"]),
        (["x = list('a')", f"{ASK}\nSay {{{{ x }}}}"], ["y = str(x)", "y += 'b'"], ["hit"]),
        (["x.append(2)", f"{ASK}\nSay {{{{ x }}}}"], [], ["unknown"]),
        (
            ["with open('n.txt', 'a') as file:\n    _ = file.write('b')", f"{ASK} -a n.txt\nSay"],
            [],
            ["unknown"],
        ),
        (
            ["from pathlib import Path\n_ = Path('n.txt').write_text('a')", f"{ASK} -a n.txt\nSay"],
            ["from pathlib import Path\n_ = Path('n.txt').write_text('a')"],
            ["hit"],
        ),
        (["import random", "x = random.random()", f"{ASK}\nSay {{{{ x }}}}"], [], ["unknown"]),
        (["x = str(1)", f"{ASK}\nSay {{{{ x }}}}"], ["exec('x = str(2)')"], ["unknown"]),
        (["x = str(1)", f"{ASK}\nSay {{{{ x }}}}"], ["for x in 'ab': pass"], ["unknown"]),
        (["x = str(1)", f"{ASK}\nSay {{{{ x }}}}"], ["other = 1"], ["hit"]),
        (
            ["from pathlib import Path\n_ = Path('n.txt').write_text('a')", f"{ASK} -a n.txt\nSay"],
            ["with open('n.txt', 'w') as file:\n    _ = file.write('b')"],
            ["unknown"],
        ),
    ],
)
def test_plan__takes_a_value_only_where_the_notebook_gives_it_again(nb, cells, later, states):
    """What was run since, elsewhere, twice, or edited, is seen; then the cell is unknown, and no hit."""
    nb["x"] = [1]
    run_all(nb, *cells, *later)
    assert [state for _, state in planned(nb, *cells)] == states


def test_plan__an_edited_cell_above_makes_unknown(nb):
    """A cell that was edited and not run again gives another value: what goes on from it is no hit."""
    run_all(nb, "x = str(1)", f"{ASK}\nSay {{{{ x }}}}")
    assert planned(nb, "x = str(1)", f"{ASK}\nSay {{{{ x }}}}") == [(2, "hit")]
    assert planned(nb, "x = str(2)", f"{ASK}\nSay {{{{ x }}}}") == [(2, "unknown")]
    assert planned(nb, "x = '1'", f"{ASK}\nSay {{{{ x }}}}") == [(2, "hit")]
    assert planned(nb, "x = '2'", f"{ASK}\nSay {{{{ x }}}}") == [(2, "changed")]


def test_plan__a_cell_that_failed_gives_no_value(nb):
    """Names that a failing cell was to bind have their old values, which are not taken for its own."""
    run_all(nb, "x = str(1)", f"{ASK}\nSay {{{{ x }}}}", "1 / 0\nx = str(2)")
    assert planned(nb, "1 / 0\nx = str(2)", f"{ASK}\nSay {{{{ x }}}}") == [(2, "unknown")]


@pytest.mark.parametrize(
    ("later", "state"),
    [
        pytest.param(["!echo hello"], "hit", marks=pytest.mark.kernel),
        (["other = thing"], "hit"),
        (["found = thing.bump()"], "unknown"),
        (["from pathlib import Path\n_ = Path('data.csv').write_text('y')"], "unknown"),
        pytest.param(["!touch data.csv"], "unknown", marks=pytest.mark.kernel),
        (["import os\nos.environ['OPENROUTER_MODEL'] = 'openai/gpt-4o'"], "unknown"),
        (["%run other.py"], "unknown"),
        (["1 / 0\nthing = 7"], "unknown"),
    ],
)
def test_plan__sees_what_else_changes_a_value(nb, later, state):
    """Methods of the user's own classes, files that are named, the environment, other programs, what failed."""
    (nb.folder / "data.csv").write_text("x")
    (nb.folder / "other.py").write_text("thing = 1")
    cells = (
        "class Thing:\n    text = 'a'\n    def bump(self):\n        self.text += 'b'",
        "thing = Thing()",
        "from pathlib import Path\ndata = Path('data.csv').read_text()",
        f"{ASK}\nSay {{{{ thing.text }}}} and {{{{ data }}}}",
    )
    run_all(nb, *cells, *later)
    assert [found for _, found in planned(nb, *cells)] == [state]


def test_plan__a_file_changed_from_outside_makes_unknown(nb):
    """What was read from a file that is newer now is not taken."""
    data = nb.folder / "data.csv"
    data.write_text("x")
    cells = ("from pathlib import Path\ndata = Path('data.csv').read_text()", f"{ASK}\nSay {{{{ data }}}}")
    run_all(nb, *cells)
    assert planned(nb, *cells) == [(2, "hit")]
    soon_s = time.time() + 5
    os.utime(data, (soon_s, soon_s))
    assert planned(nb, *cells) == [(2, "unknown")]


def test_plan__goes_on_from_stored_answers(nb):
    """A reply to a hit is looked up; one to a miss, and what uses its value, is unknown."""
    cells = (
        f"{ASK} -o first\nWhat is a median?",
        f"{ASK} -r first -o second\nAnd a mean?",
        f"{ASK} -r _\nAnd a mode?",
        f"{ASK}\nTranslate: {{{{ second }}}}",
    )
    assert planned(nb, *cells) == [(1, "miss"), (2, "unknown"), (3, "unknown"), (4, "unknown")]
    run_all(nb, *cells)
    assert planned(nb, *cells) == [(1, "hit"), (2, "hit"), (3, "hit"), (4, "hit")]
    renewed = (f"{ASK} -o first --refresh\nWhat is a median?", *cells[1:])
    assert planned(nb, *renewed) == [(1, "miss"), (2, "unknown"), (3, "unknown"), (4, "unknown")]


def test_plan__finds_cells_as_ipython_does(nb):
    """Below `%%time` and comments, on a line, in Python; in functions, loops and clients it is unknown."""
    nb.run(f"{ASK}\nName a fruit.")
    said = planned(
        nb,
        f"%%time\n{ASK}\nName a fruit.",
        "# above\n%%openrouter\nName a fruit.",
        "x = %openrouter Name a fruit.",
        "import or_cache_magic as orc\ny = str(orc.ask('Name a fruit.'))",
        f"%%timeit\n{ASK}\nName a fruit.",
        "def f(x):\n    return orc.ask(x)",
        "f('a')",
        "[orc.ask(one) for one in 'ab']",
        "client = orc.client()",
        "client.chat.completions.create(model='m', messages=[])",
        f"{ASK} --dry-run\nName a fruit.",
        "# %%openrouter is not asked here\n'orc.ask'",
    )
    assert said == [
        *((cell, "hit") for cell in (1, 2, 3, 4)),
        *((cell, "unknown") for cell in (5, 7, 8, 10)),
    ]


def test_plan__looks_up_rows(nb):
    """`--each`, `map` and `-n` have a row with how many of their requests are new; equal ones count once."""
    nb.run("import or_cache_magic as orc\nrows = ['a', 'b', 'a']")
    run_all(nb, f"{ASK} --each rows --limit 1 -o few\nName {{{{ row }}}}")
    save(
        nb,
        "import or_cache_magic as orc\nrows = ['a', 'b', 'a']",
        f"{ASK} --each rows -o every\nName {{{{ row }}}}",
        "orc.map(rows, 'Name {{ row }}', limit=1)",
        "orc.map(rows, lambda row: row)",
        f"{ASK} -n 2 -o two\nName a colour.",
    )
    print(plan := orc.plan("work.ipynb"))  # noqa: T201 - for a failure
    rows = plan.rows
    assert [(row.state, row.requests, row.new) for row in rows] == [
        ("miss", 3, 1),
        ("hit", 1, 0),
        ("unknown", None, None),
        ("miss", 2, 2),
    ]
    assert rows[0].why == "1 of 3 requests to ask"


def test_plan__what_a_cell_above_asks_is_no_hit_yet(nb):
    """Twice the same is one call, if its answer is stored; that can't be said beforehand."""
    rows = planned(nb, f"{ASK}\nName a sea.", f"{ASK}\nName a sea.", f"{ASK} --no-cache\nName a sea.")
    assert rows == [(1, "miss"), (2, "unknown"), (3, "miss")]


def test_plan__settings_change_on_the_way(nb):
    """A cell has the settings of the cells above it, and is unknown where a restart would change them."""
    nb.run(f"{ASK}\nName a lake.")
    nb.run(f"{ASK} openai/gpt-4o\nName a lake.")
    config = "_ = %openrouter_config model=openai/gpt-4o"
    cells = (f"{ASK}\nName a lake.", config, f"{ASK}\nName a lake.")
    assert planned(nb, *cells) == [(1, "hit"), (3, "hit")]
    nb.run("_ = %openrouter_config model=openai/gpt-4.1")
    assert planned(nb, *cells) == [(1, "unknown"), (3, "hit")]


def test_plan__is_unknown_where_the_cache_changes_on_the_way(nb):
    """Behind a purge nothing is a hit, behind an import nothing a miss."""
    nb.run(f"{ASK}\nName a hill.")
    assert planned(nb, "_ = %openrouter_purge --all -y", f"{ASK}\nName a hill.") == [(2, "unknown")]
    assert planned(nb, "_ = %openrouter_purge --all --dry-run", f"{ASK}\nName a hill.") == [(2, "hit")]
    assert planned(nb, "!rm -r .or_cache", f"{ASK}\nName a hill.") == [(2, "unknown")]
    assert planned(nb, "%reload_ext or_cache_magic", f"{ASK}\nName a hill.") == [(2, "unknown")]
    assert planned(nb, "%openrouter_import a.jsonl", f"{ASK}\nName a moor.") == [(2, "unknown")]


def test_plan__runs_no_code_of_the_users(nb):
    """Neither a property nor a class of the notebook's is run to know a prompt."""
    nb.run(
        "ran = []\n"
        "class Thing:\n"
        "    name = 'x'\n"
        "    @property\n"
        "    def text(self):\n"
        "        ran.append(1)\n"
        "        return 'text'\n"
        "thing = Thing()"
    )
    nb["ran"].clear()
    save(nb, f"{ASK}\nSay {{{{ thing.text }}}}", f"{ASK}\nSay {{{{ thing.name }}}}")
    assert [row.state for row in orc.plan("work.ipynb").rows] == ["unknown", "miss"]
    assert nb["ran"] == []


def test_plan__says_what_is_refused(nb):
    """What would be refused costs nothing: over its limit, offline, a name that is nowhere."""
    save(
        nb,
        f"{ASK} --max-cost 0.0000001\nName a rock.",
        f"{ASK} --offline\nName a rock.",
        f"{ASK}\nName {{{{ nowhere }}}}",
        f"{ASK} --no-such\nName",
    )
    plan = orc.plan("work.ipynb")
    assert [row.state for row in plan.rows] == ["refused"] * 4
    assert not plan.pays


def test_buy__makes_run_all_hits(nb):
    """What is missing is asked, then the replies to it; a budget holds; Run All sends nothing more."""
    cells = save(
        nb,
        f"{ASK} -o first\nName a wood.",
        f"{ASK} -r first\nAnother?",
        f"{ASK} -t 1\nName a path.",
        f"{ASK}\nName a wood.",
    )
    assert "failed" in nb.run("plan = %openrouter_plan work.ipynb --buy --max-cost 0.0000001")
    assert nb.sent == []
    nb.run("plan = %openrouter_plan work.ipynb --buy --max-cost 0.05")
    assert [row.state for row in nb["plan"].rows] == ["hit", "hit", "miss", "hit"]
    assert len(nb.sent) == 2
    run_all(nb, *cells)
    assert len(nb.sent) == 3


def test_cli__exits_with_1_where_a_notebook_would_pay(nb, capsys):
    """In CI: 0 for hits, 1 for a miss; what needs a value is unknown, which only --strict fails for."""
    nb.run(f"{ASK}\nName a gate.")
    nb.shell.run_line_magic("unload_ext", "or_cache_magic")
    save(nb, f"{ASK}\nName a gate.", name="hits.ipynb")
    save(nb, f"{ASK}\nName a gate.", f"{ASK}\nList 3 prime numbers", name="pays.ipynb")
    save(nb, "x = str(1)", f"{ASK}\nName {{{{ x }}}}", name="unknown.ipynb")
    assert cli.main(["plan", "hits.ipynb"]) == 0
    assert cli.main(["plan", "pays.ipynb"]) == 1
    assert cli.main(["plan", "unknown.ipynb"]) == 0
    assert "OR_CACHE_MODE=offline jupyter execute unknown.ipynb" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["plan", "unknown.ipynb", "--strict"]) == 1
    assert cli.main(["plan", "missing.ipynb"]) == 1
    assert len(nb.sent) == 1


@pytest.mark.parametrize(
    "made",
    [
        "x = id(object())",
        "x = hash('abc')",
        "x = repr(object())",
        "x = list({'a', 'b', 'c'})",
        "x = list(set('abc'))",
        "x = [c for c in {c for c in 'abc'}]",
        "x = len(In)",
        pytest.param("x = !date", marks=pytest.mark.kernel),
        pytest.param("x = get_ipython().getoutput('date')", marks=pytest.mark.kernel),
        "import time\nx = getattr(time, 'time')()",
        pytest.param(
            "import subprocess\nx = subprocess.run(['date'], capture_output=True).stdout",
            marks=pytest.mark.kernel,
        ),
        "from time import perf_counter as pc\nx = str(pc())",
        "exec('x = 1')",
        "x = get_ipython().execution_count",
        "import os\nx = len(os.listdir('.'))",
        "import pathlib\np = pathlib.Path('n.txt')\nx = int(p.read_text() or 0) if p.exists() else 0\np.write_text(f'{x + 1}')",
    ],
)
def test_plan__takes_no_value_that_another_process_gives_otherwise(nb, made):
    """Places in memory, hashes, the order of sets, the session's history, other programs: the run tells."""
    cells = (made, f"{ASK}\nSay {{{{ x }}}}")
    run_all(nb, *cells)
    assert planned(nb, *cells) == [(2, "unknown")]


def test_plan__a_value_that_can_not_be_read_is_unknown(nb):
    """An object that raises when it is looked at makes its cell unknown, and no other."""
    made = "class Odd:\n    @property\n    def __class__(self): raise TypeError('no')\nx = Odd()"
    cells = (made, f"{ASK}\nSay {{{{ x }}}}", f"{ASK}\nWhat is a median?")
    run_all(nb, made, cells[2])
    assert planned(nb, *cells) == [(2, "unknown"), (3, "hit")]


@pytest.mark.parametrize(
    "above",
    [
        "%%bash\nrm -rf .or_cache",
        "import or_cache_magic as orc\np = orc.purge\np(all=True)",
        "!python -c 'import or_cache_magic as o; o.purge(all=True)'",
        "import os\ngetattr(os, 'environ')['OR_CACHE_MODE'] = 'bypass'",
        "import os\nos.environ.__setitem__('OR_CACHE_MODE', 'bypass')",
    ],
)
def test_plan__sees_what_a_cell_above_does_to_the_cache(nb, above):
    """It is removed, or passed by: by a shell, by another name, by the environment."""
    nb.run(f"{ASK}\nWhat is a median?")
    assert (2, "hit") not in planned(nb, above, f"{ASK}\nWhat is a median?")


def test_plan__a_magic_of_another_name_may_ask(nb):
    """`%alias_magic` gives ours a name that only a run knows."""
    rows = planned(nb, "%alias_magic llm openrouter", "%%llm\nWhat is a median?")
    assert rows == [(2, "unknown")]


def test_plan__looks_up_a_list_that_is_warmed(nb):
    """`orc.warm` of a list that is written out, or at hand."""
    nb.run(f"{ASK}\nWhat is a median?")
    cells = save(
        nb,
        "import or_cache_magic as orc",
        "orc.warm(['What is a median?', 'new', 'new'])",
        "orc.warm(['What is a median?'])",
    )
    run_all(nb, cells[0])
    rows = orc.plan("work.ipynb").rows
    assert [(row.cell, row.state, row.new) for row in rows] == [(2, "miss", 1), (3, "hit", 0)]


def test_plan__writes_no_text_of_the_users(nb, tmp_path):
    """A class's own text, also in a cell of a table, is code, which is not run."""
    made = (
        "import pandas as pd\nclass O:\n    def __str__(self): return open('ran', 'w').write('x') and 'o'\n"
        "o = O()\ndf = pd.DataFrame({'a': [o]})\nnames = {'n': [o]}"
    )
    run_all(nb, made)
    cells = (made, *(f"{ASK}\nSay {{{{ {name} }}}}" for name in ("o", "df", "names")))
    assert planned(nb, *cells) == [(2, "unknown"), (3, "unknown"), (4, "unknown")]
    assert not (nb.folder / "ran").exists()


def test_plan__takes_nothing_that_capture_caught(nb):
    """What a cell printed may be a time."""
    cells = ("%%capture out\nimport time; print(time.time())", "x = out.stdout", f"{ASK}\nSay {{{{ x }}}}")
    run_all(nb, *cells)
    assert planned(nb, *cells) == [(3, "unknown")]


def test_plan__settings_that_config_changes_below(nb):
    """`%config` of a cell that was not run yet changes what those below it ask."""
    nb.run(f"{ASK}\nWhat is a median?")
    cells = ("%config OpenRouterMagics.system = 'Be terse'", f"{ASK}\nWhat is a median?")
    assert planned(nb, *cells) == [(2, "unknown")]
    cells = ("from os import environ as e\ne['OR_CACHE_MODE'] = 'bypass'", f"{ASK}\nWhat is a median?")
    assert planned(nb, *cells) == [(2, "unknown")]


def test_plan__needs_a_notebook(nb):
    """Where the front end tells none, it asks for the file; what is no notebook is said."""
    with pytest.raises(OptionError, match="does not tell which notebook"):
        orc.plan()
    (nb.folder / "text.ipynb").write_text("no JSON")
    with pytest.raises(OptionError, match="no notebook"):
        orc.plan("text.ipynb")


def test_plan__costs_of_a_long_table_are_by_its_first_rows(nb, monkeypatch):
    """Of many new rows some are estimated, the others cost as these on average; the row says so."""
    save(nb, "rows = ['a', 'b', 'c', 'd']", f"{ASK} --each rows\nName {{{{ row }}}}")
    (whole,) = orc.plan("work.ipynb").rows
    monkeypatch.setattr("or_cache_magic.explain.plan._PRICED", 2)
    (row,) = orc.plan("work.ipynb").rows
    assert (row.new, row.why) == (4, "4 of 4 requests to ask · about, by the first of them")
    assert (row.low_usd, row.high_usd) == (whole.low_usd, whole.high_usd)


def test_plan__says_what_a_similar_prompt_and_a_batch_leave_open(nb):
    """Neither is known before: whether a similar answer serves, and when a batch has ended."""
    nb["rows"] = ["a"]
    rows = planned(
        nb, f"{ASK} --similar 0.9\nName a hat.", f"{ASK} --each rows --batch -o b\nName {{{{ row }}}}"
    )
    assert rows == [(1, "unknown"), (2, "unknown")]
