"""Buy what a cell can ask in every way, then run it again in a new kernel without key or server.

    python benchmarks/replays.py [--prompts 20]

Prints of each set of options how many outputs differ by a byte: 0 is right. A request of the second run
would be an error, and end it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from or_cache_magic.simulator import Simulator

MODEL = "openai/gpt-4o-mini"
OURS = ("OPENROUTER_", "OPENAI_", "OR_CACHE_", "JPY_")
SETUP = """
import io
from pathlib import Path
from PIL import Image
%load_ext or_cache_magic
settings = %openrouter_config receipt=stable
buffer = io.BytesIO()
Image.new("RGB", (8, 8), "teal").save(buffer, "png")
picture = buffer.getvalue()
Path("note.txt").write_text("A note on medians.")
Path("paper.pdf").write_bytes(b"%PDF-1.4 /Type /Page (A paper on medians.) Tj %%EOF")
before = {}
"""

REPLIES = "-o, then -r"
TOOL = '{{"type": "function", "function": {{"name": "look_up", "parameters": {{"type": "object"}}}}}}'
OPTIONS = {
    "plain": "{m}",
    "-f json": "{m} -f json -p response_format='{{\"type\": \"json_object\"}}'",
    "-f text, -q": "{m} -f text -q",
    "-s": "{m} -s 'You are terse.'",
    "--no-stream": "{m} --no-stream --seed 7",
    "--max-tokens": "{m} --max-tokens 12",
    "--top-p, --tag, --ttl": "{m} --top-p 0.5 --tag t --ttl 7d",
    "-t with --sample": "{m} -t 0.9 --sample 1",
    "-n": "{m} -t 0.8 -n 2",
    "models": "{m} anthropic/claude-haiku-4.5",
    "--schema": "{m} --schema 'name str, year int?, tags [str]'",
    "--schema, table": "{m} --schema '[{{name str, year int}}]'",
    "--schema --repair": "{m} --schema 'words [str]' --repair 1",
    "-a variable": "{m} -a picture",
    "-a text": "{m} -a note.txt",
    "-a PDF": "google/gemini-2.5-flash -a paper.pdf",
    REPLIES: "{m} -o first",
    "reasoning": "openai/gpt-5-mini -p reasoning='{{\"effort\": \"low\"}}'",
    "image": "google/gemini-2.5-flash-image -p modalities='[\"image\", \"text\"]' --max-tokens none",
    "web": "{m}:online",
    "tools": f"{{m}} -p tools='[{TOOL}]' -p tool_choice='\"required\"'",
    "--prompt-cache": "anthropic/claude-sonnet-4.6 --prompt-cache -s @note.txt",
}  # fmt: skip


def notebook_of(prompts: int) -> tuple[nbformat.NotebookNode, list[str]]:
    """The notebook, and of each of its cells the options' name."""
    cells, names = [new_code_cell(SETUP)], [""]
    for name, options in OPTIONS.items():
        for number in range(prompts):
            question = f"In one line: what is item number {number} of a list on {name.strip('-')}?"
            cells.append(new_code_cell(f"%%openrouter {options.format(m=MODEL)}\n{question}"))
            names.append(name)
            if name == REPLIES:
                cells.append(new_code_cell("%%openrouter -r first\nAnd the next one?"))
                names.append(name)
    kernel = {"name": "python3", "display_name": "Python 3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel}), names


def run(notebook: nbformat.NotebookNode, folder: Path, **variables: str) -> list[object]:
    """Run a copy in a new kernel; return each cell's outputs without their counts."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    ran = nbformat.from_dict(notebook)
    NotebookClient(
        ran,
        timeout=300,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    ).execute(env={**env, **variables})
    return [
        [{**output, "execution_count": None} for output in cell.outputs] for cell in ran.cells
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=20, help="of each set of options")
    options = parser.parse_args()
    notebook, names = notebook_of(options.prompts)
    with tempfile.TemporaryDirectory() as scratch:
        with Simulator() as sim:
            url = sim.base_url
            first = run(notebook, Path(scratch), OPENROUTER_BASE_URL=url, OPENROUTER_API_KEY=sim.api_key)
            sent = sim.completion_count
        second = run(notebook, Path(scratch), OPENROUTER_BASE_URL=url)
    for cell, a, b in zip(notebook.cells, first, second, strict=True):
        if a != b:
            print(f"{cell.source}\n  bought: {a}\n  stored: {b}")
    differ = Counter(name for name, a, b in zip(names, first, second, strict=True) if a != b)
    for name in OPTIONS:
        print(f"{name:24} {names.count(name):4} cells, {differ[name]:3} differ")
    print(
        f"{len(names) - 1} cells: {sent} requests, then none could be sent; "
        f"{sum(differ.values())} outputs differ"
    )
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
