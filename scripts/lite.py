"""Replay a pack in Pyodide, the Python of JupyterLite: in cells, offline, without a key.

    python scripts/lite.py           # fetches Pyodide from npm (6 MB)
    python scripts/lite.py FOLDER    # or takes an unpacked one

Needs Node, and an environment with this package: its parts in pure Python (IPython, diskcache) are lent to
Pyodide, whose own numpy and pandas are not in the npm package, and so are missing. Ends with 1 where an
answer is another.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import or_cache_magic as orc
from or_cache_magic.core.settings import Settings
from or_cache_magic.simulator import Simulator

ROOT = Path(__file__).resolve().parent.parent
MODEL = "openai/gpt-4o-mini"
ASKED = {"Name a colour.": {}, "Name a bird.": {"schema": "name str"}, "Name a river.": {"max_tokens": 20}}
OPTIONS = ("", "--schema 'name str'", "--max-tokens 20")

_NODE = """
const { loadPyodide } = await import(process.argv[2] + "/pyodide.mjs");
const python = await loadPyodide({ indexURL: process.argv[2] + "/", env: JSON.parse(process.argv[3]) });
for (const [at, folder] of Object.entries(JSON.parse(process.argv[4]))) python.mountNodeFS(at, folder);
python.runPython(process.argv[5]);
"""
_PYTHON = """
import json, os, shutil, sys

sys.path[:0] = ["/package"]
sys.path.append("/lent")

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numpy", "pandas"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
os.makedirs("/course")
os.chdir("/course")
shutil.copy("/place/course.orcache.jsonl", "/course")

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
asked = json.loads(os.environ["ASKED"])

def run(cell):
    return shell.run_cell(cell, store_history=True)

def replay():
    found = []
    for prompt, options in asked.items():
        run(f"%%openrouter -q -o answer {options}\\n{prompt}").raise_error()
        answer = shell.user_ns["answer"]
        found.append([str(answer), answer.outcome.kind])
    return found

run("%load_ext or_cache_magic").raise_error()
told = {"python": sys.version.split()[0], "beside": replay()}
miss = run("%%openrouter\\nNever asked.").error_in_exec
told["miss"] = [type(miss).__name__, str(miss)]
run("%openrouter_import course.orcache.jsonl").raise_error()
os.remove("course.orcache.jsonl")
told["imported"] = replay()
run("%openrouter_export again.orcache.jsonl").raise_error()
told["same"] = open("again.orcache.jsonl", "rb").read() == open("/place/course.orcache.jsonl", "rb").read()
run("%unload_ext or_cache_magic").raise_error()
with open("/place/told.json", "w") as file:
    json.dump(told, file)
"""


def main(arguments: list[str]) -> int:
    """Return 0 where all is the same as here, else 1."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pyodide = Path(arguments[0]).resolve() if arguments else _fetched(place / "npm")
        answers, base_url = _write_pack(place)
        told = _replayed(pyodide, place, base_url)
    expected = [[answer, "replay"] for answer in answers]
    name, message = told["miss"]
    right = {
        "beside the notebook": told["beside"] == expected,
        "imported": told["imported"] == expected,
        "exported again": told["same"],
        "a miss stops": name == "ReplayMiss" and "Never asked." in message,
    }
    for what, holds in right.items():
        print(f"{'ok' if holds else 'WRONG'}  {what}")
    print(f"Python {told['python']} in Pyodide, {len(answers)} answers")
    return int(not all(right.values()))


def _fetched(folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["npm", "pack", "--silent", "pyodide"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("pyodide-*.tgz")
    shutil.unpack_archive(archive, folder, filter="data")
    return folder / "package"


def _write_pack(place: Path) -> tuple[list[str], str]:
    """Write the pack of the prompts, bought of a simulator; return the answers, and its address."""
    with Simulator() as sim:
        settings = Settings(model=MODEL, base_url=sim.base_url)
        kept = {"settings": lambda: settings, "api_key": lambda: sim.api_key}
        with orc.CompletionCache(place / "cache", **kept) as cache:
            answers = [cache.ask(prompt, **options) for prompt, options in ASKED.items()]
            cache.export(place / "course.orcache.jsonl", progress=False)
        return [str(answer) for answer in answers], sim.base_url


def _replayed(pyodide: Path, place: Path, base_url: str) -> dict[str, Any]:
    """Return what the cells of `_PYTHON` gave in Pyodide."""
    environ = {
        "OPENROUTER_BASE_URL": base_url,
        "OPENROUTER_MODEL": MODEL,
        "OR_CACHE_MODE": "offline",
        "ASKED": json.dumps(dict(zip(ASKED, OPTIONS, strict=True))),
    }
    mounted = {"/package": str(ROOT), "/lent": sysconfig.get_path("purelib"), "/place": str(place)}
    script = place / "lite.mjs"
    script.write_text(_NODE, encoding="utf-8")
    words = ["node", str(script), str(pyodide), json.dumps(environ), json.dumps(mounted), _PYTHON]
    subprocess.run(words, check=True, timeout=600)
    told: dict[str, Any] = json.loads((place / "told.json").read_text(encoding="utf-8"))
    return told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
