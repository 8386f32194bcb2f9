"""What comes back with a text, in a cell: the same outputs bought and cached, and a value for each kind."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from or_cache_magic.simulator import scenario

WEATHER = (
    '[{"type": "function", "function": {"name": "get_weather", "description": "The weather of a city", '
    '"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]'
)
PAINT = """-m google/gemini-2.5-flash-image -p modalities='["image", "text"]'"""
SPEAK = """-m openai/gpt-audio-mini -p modalities='["text", "audio"]' -p audio='{"voice": "alloy", "format": "pcm16"}'"""
KINDS = {
    "image": (scenario("plain"), PAINT, ["image/png"], ["[image: png, "]),
    "audio": (
        scenario("plain", text="Sunny."),
        SPEAK,
        ["text/html", "text/markdown"],
        ["[audio: wav, ", "Sunny."],
    ),
    "tool_calls": (
        scenario("plain"),
        f"-p tools='{WEATHER}'",
        ["text/markdown"],
        ['get_weather({"city": "Paris"})'],
    ),
    "citations": (scenario("web_search"), "", ["text/markdown"], ["[1] A simulated search result https://"]),
    "listed": (scenario("web_search", cited=2, listed=True), "", ["text/markdown"], ["[1] A ", "[2] A "]),
    "reasoning": (scenario("reasoning"), "-m openai/gpt-5-mini", ["text/html"], ["[reasoned, "]),
    "signed": (scenario("reasoning"), "-m anthropic/claude-haiku-4.5", ["text/html"], ["[reasoned, "]),
}
RICHEST = ("image/png", "text/html", "text/markdown")


class Outputs:
    """What a saved notebook has of a cell: displays, as updated."""

    def __init__(self, shell):
        self.found = {}
        shell.display_pub = SimpleNamespace(publish=self.publish)
        shell.kernel = SimpleNamespace(get_parent=dict)

    def publish(self, data, metadata, transient=None, update=False):
        name = (transient or {}).get("display_id", len(self.found))
        self.found[name] = (dict(data), dict(metadata))

    def take(self):
        found, self.found = list(self.found.values()), {}
        return found


@pytest.mark.parametrize(
    ("kind", "stream"),
    [(kind, how) for kind in KINDS for how in ("", "--no-stream") if not (how and kind == "audio")],
)
def test_cell__shows_what_comes_back_bought_and_cached_alike(nb, kind, stream):
    """Of each kind the outputs are the same, letter for letter, receipt included; in a terminal lines are."""
    played, line, kinds, lines = KINDS[kind]
    nb.sim.script(played, times=2)
    nb.run("%openrouter_config receipt=stable")
    cell = f"%%openrouter {line} {stream} -o answer\nWhat is the weather in Paris?"
    bought = nb.run(cell)
    assert nb.run(cell) == bought
    first = 1 if nb["answer"] else 0
    below = bought.split("\n")[-2 - len(lines) : -2]
    assert [said[: len(line)] for said, line in zip(below, lines, strict=True)] == lines

    shown = Outputs(nb.shell)
    nb.shell.run_cell(cell.replace("-o", "--refresh -o")).raise_error()
    bought = shown.take()
    nb.shell.run_cell(cell).raise_error()
    assert shown.take() == bought
    assert nb["answer"].cached
    assert len(nb.sent) == 2
    parts = [data for data, _ in bought[first:-1]]
    assert [next(kind for kind in RICHEST if kind in data) for data in parts] == kinds
    assert bought[-1][1] == {"or_cache_magic": {"role": "receipt"}}


def test_cell__that_the_model_refuses_says_so_and_is_not_kept(nb):
    """The refusal is shown in the model's words, and the next ask is another try."""
    nb.sim.script(scenario("declined", text="I won't."))
    told = nb.run("%%openrouter -o answer\nWhat is the weather in Paris?")
    assert told.startswith("I won't.\n")
    assert "not stored: the model refused; try another prompt or model" in told
    missed = nb.fails("%%openrouter --offline\nWhat is the weather in Paris?")
    assert "never served: the model refused (nothing was sent)" in missed
    assert re.search(
        r"\n  %openrouter_entries \w{10} shows it; try another prompt or model, with a key ", missed
    )
    key = re.search(r"(\w{10}) shows it", missed)[1]
    assert "I won't." in nb.run(f"%openrouter_entries {key}")
    assert (nb["answer"], nb["answer"].refusal) == ("", "I won't.")
    nb.run("%%openrouter -o answer\nWhat is the weather in Paris?")
    assert nb["answer"].refusal is None
    assert "Paris" in nb["answer"]
