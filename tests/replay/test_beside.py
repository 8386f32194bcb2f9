"""A pack beside the notebook: read through on a miss, never taken in, never trusted; offline nothing is sent."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.settings import Settings
from or_cache_magic.errors import MissingKeyError, ReplayMiss
from or_cache_magic.simulator import Scenario

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def beside(cache, sim, tmp_path, clock):
    """Exports what the test's cache has; another cache in whose folder that pack lies, without a key unless given."""
    opened = []

    def start(name="course.orcache.jsonl", api_key=None, **settings):
        place = tmp_path / "place"
        place.mkdir(exist_ok=True)
        cache.export(place / name)
        chosen = Settings(model=MODEL, base_url=sim.base_url, **settings)
        opened.append(
            CompletionCache(
                place / ".or_cache",
                settings=lambda: chosen,
                api_key=lambda: api_key,
                clock=clock,
                packs=place,
            )
        )
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_pack__is_read_through_where_it_lies(cache, beside, sim, tmp_path):
    """Its answer is served without a key, for nothing, as a replay; it is not taken in."""
    bought = cache.ask("What is a median?")
    count = sim.completion_count
    reader = beside()
    answer = reader.ask("What is a median?")
    assert (answer, answer.cached, answer.cost_usd) == (bought, True, bought.cost_usd)
    outcome = answer.outcome
    assert (outcome.kind, outcome.paid.usd, outcome.saved_usd) == ("replay", 0, 0)
    assert outcome.notes == ("from course.orcache.jsonl",)
    assert outcome.entry_created_s == bought.outcome.answer.created_s
    assert sim.completion_count == count
    assert reader.entries().empty
    (totals,) = reader.totals()
    assert (totals.replays, totals.hits, totals.paid_usd, totals.saved_usd) == (1, 0, 0, 0)
    with pytest.raises(MissingKeyError):
        reader.ask("What is a mode?")


def test_pack__comes_after_the_cache(cache, beside, open_cache, sim, tmp_path):
    """What is in the cache is served from it, as a hit; a stored answer that expired is no obstacle."""
    sim.script(Scenario(text="red"), times=1)
    cache.ask("Name a colour.")
    reader = beside(api_key="sk-or-v1-test")
    sim.script(Scenario(text="blue"), times=1)
    assert reader.ask("Name a colour.", mode="refresh", ttl="1h") == "blue"
    assert reader.ask("Name a colour.").outcome.kind == "hit"
    reader.clock.now_s += 7200
    assert reader.ask("Name a colour.") == "red"
    assert sim.completion_count == 2


def test_pack__is_noticed_when_it_changes(cache, beside, sim, tmp_path):
    """One that grows, goes or comes between two asks is read as it is."""
    reader = beside()
    cache.ask("Name a colour.")
    with pytest.raises(MissingKeyError):
        reader.ask("Name a colour.")
    cache.export(tmp_path / "place" / "course.orcache.jsonl")
    cache.ask("Name a bird.")
    cache.export(tmp_path / "place" / "second.orcache.jsonl", text="bird")
    assert reader.ask("Name a colour.").cached
    assert reader.ask("Name a bird.").outcome.notes == ("from second.orcache.jsonl",)
    (tmp_path / "place" / "course.orcache.jsonl").unlink()
    with pytest.raises(MissingKeyError):
        reader.ask("Name a colour.")


def test_pack__in_any_order_serves_every_entry(cache, beside, tmp_path):
    """Sorted or not, with lines that are none, of other versions of the keys, and of history."""
    for at in range(20):
        cache.ask(f"Question {at}")
    cache.ask("Question 1", mode="refresh")
    reader = beside()
    pack = tmp_path / "place" / "course.orcache.jsonl"
    lines = pack.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"keys":1,', b'"keys":0,')
    pack.write_bytes(b"junk\n" + b"".join(reversed(lines)) + b"{}\n")
    assert all(reader.ask(f"Question {at}").outcome.kind == "replay" for at in range(20))


def test_pack__with_another_key_in_a_line_serves_nothing_by_it(cache, beside, tmp_path):
    """A line that claims the key of another question is no answer to it, and that is told."""
    cache.ask("Name a colour.")
    reader = beside()
    pack = tmp_path / "place" / "course.orcache.jsonl"
    line = json.loads(pack.read_bytes())
    line["key"] = reader.prepare("Name a bird.", {}).key.digest
    pack.write_text(json.dumps(line, separators=(",", ":")) + "\n", encoding="utf-8")
    with pytest.raises(MissingKeyError):
        reader.ask("Name a bird.")
    (notice,) = reader.database.pop_notices()
    assert "its key is not that of its request" in notice


def test_pack__that_can_not_be_read_is_told_once(cache, beside, tmp_path):
    """A damaged line, a link and a pipe take no answer away, and hang nothing."""
    cache.ask("Name a colour.")
    reader = beside()
    place = tmp_path / "place"
    pack = place / "course.orcache.jsonl"
    pack.write_bytes(pack.read_bytes().replace(b'"answer":{', b'"answer":[{', 1))
    os.mkfifo(place / "pipe.orcache.jsonl")
    (place / "link.orcache.jsonl").symlink_to(pack)
    (place / "folder.orcache.jsonl").mkdir()
    for _ in range(2):
        with pytest.raises(MissingKeyError):
            reader.ask("Name a colour.")
    (notice,) = reader.database.pop_notices()
    assert notice.startswith("course.orcache.jsonl: an answer in it was not served: ")


def test_pack__serves_lists_and_previews(cache, beside, sim):
    """`stored`, which lists ask first, and `peek` know of it; nothing is sent."""
    cache.ask("Name a colour.")
    reader = beside()
    ask = reader.prepare("Name a colour.", {})
    assert reader.stored(ask).kind == "replay"
    row, why = reader.peek(ask)
    assert (row.prompt, row.model, why) == ("Name a colour.", MODEL, "")


# -- offline ----------------------------------------------------------------------------------------


_guarded: list[str] = []


def _forbid(event: str, _arguments: object) -> None:
    if _guarded and event.startswith("socket.") and event != "socket.__new__":
        raise AssertionError(event)


def test_offline__opens_no_socket(cache, beside, tmp_path):
    """Hits, replays, misses, statistics, models: none of them asks a name or a server, and none needs a key."""
    cache.ask("Name a colour.")
    reader = beside(mode="offline")
    reader.load(tmp_path / "place" / "course.orcache.jsonl")
    cache.ask("Name a bird.")
    cache.export(tmp_path / "place" / "course.orcache.jsonl")
    sys.addaudithook(_forbid)
    _guarded.append("on")
    try:
        assert [reader.ask(f"Name a {name}.").outcome.kind for name in ("colour", "bird")] == ["replay"] * 2
        with pytest.raises(ReplayMiss):
            reader.ask("Name a fish.", max_cost_usd=1)
        assert reader.stats()["asks"].iloc[0] == 2
        reader.flush()
        reader.close()
    finally:
        _guarded.clear()


_LITE = """
import sys, threading
import or_cache_magic as orc

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2].split():
            raise ModuleNotFoundError(name, name=name)

def start(thread):
    raise RuntimeError("can't start new thread")

sys.meta_path.insert(0, Missing())
threading.Thread.start = start
with orc.CompletionCache(sys.argv[1] + "/.or_cache", packs=sys.argv[1]) as cache:
    cache.load(sys.argv[1] + "/course.orcache.jsonl")
    for prompt in ("Name a colour.", "Name a bird."):
        print(cache.ask(prompt, model="openai/gpt-4o-mini", mode="offline").outcome.kind)
    print(cache.totals()[0].replays)
    try:
        cache.ask("Name a fish.", model="openai/gpt-4o-mini", mode="offline")
    except orc.errors.ReplayMiss as miss:
        print("sent" in str(miss), "numpy" in str(cache.why()))
"""
_ABSENT = (
    "openai httpx httpcore ssl fcntl _multiprocessing _posixshmem _posixsubprocess redis pymemcache tornado"
    " termios resource tqdm pandas numpy IPython jsonschema narwhals"
)
"""What Pyodide's Python lacks, or has only once it is fetched; nor does it start threads."""


def test_offline__needs_little_of_python(cache, beside, tmp_path):
    """What JupyterLite has is enough: SQLite, and parts in pure Python. A pack is loaded, or read through."""
    cache.ask("Name a colour.")
    beside()
    cache.ask("Name a bird.")
    cache.export(tmp_path / "place" / "second.orcache.jsonl", text="bird")
    words = [sys.executable, "-c", _LITE, str(tmp_path / "place"), _ABSENT]
    environ = {**os.environ, "OPENROUTER_BASE_URL": cache.settings.base_url}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout.split(), done.stderr) == (["replay", "replay", "2", "True", "True"], "")


def test_offline__a_miss_names_the_prompt_and_the_way_out(cache, beside):
    """The prompt's head, the key, why, and the command that mends it, the pack included."""
    reader = beside(mode="offline")
    with pytest.raises(ReplayMiss) as caught:
        reader.ask("Name\na fish. " + "And another. " * 50)
    miss = caught.value
    assert miss.prompt.startswith("Name a fish. And another.")
    assert len(miss.prompt) <= 60
    assert str(miss.args[0]).startswith(f"offline, and no answer to serve for {miss.key[:10]}, 'Name a fish.")
    assert "not stored yet (nothing was sent)" in str(miss)
    assert "OR_CACHE_MODE=normal" in miss.hint
    assert miss.hint.endswith("then write the pack anew: %openrouter_export course.orcache.jsonl")


def test_offline__a_miss_says_what_the_nearest_request_has_otherwise(open_cache, sim):
    """Looked for when it is first shown, and taken along to another process."""
    cache = open_cache(sim)
    key = cache.ask("Name a fish of the Baltic Sea.", system="Be brief.").key
    with pytest.raises(ReplayMiss) as caught:
        cache.ask("Name a fish of the North Sea.", system="Be brief.", mode="offline")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert caught.value.nearest.startswith(f"the nearest stored, {key[:10]}, differs in prompt: ")
    assert "Baltic" in caught.value.nearest
    assert "North" in caught.value.nearest
    assert str(caught.value) == str(copy)
    assert len(str(copy).splitlines()) == 2
    with pytest.raises(ReplayMiss) as caught:
        cache.ask(
            "Prove that two is prime.", model="openai/gpt-4o", mode="offline", temperature=1, max_tokens=7
        )
    assert caught.value.nearest == ""


def test_offline__serves_what_has_expired_where_it_may(cache, beside):
    """``stale_if_error`` holds for packs too, and the answer says that it is stale."""
    cache.ask("Name a colour.", ttl="1h")
    cache.clock.now_s += 7200
    with pytest.raises(ReplayMiss, match="expired"):
        beside(mode="offline").ask("Name a colour.")
    assert beside(mode="offline", stale_if_error=True).ask("Name a colour.").outcome.kind == "stale"
