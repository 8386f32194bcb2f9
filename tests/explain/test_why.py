"""Why an ask missed, why its answer was not stored, and why an entry is not served."""

from __future__ import annotations

import getpass
import re

import pytest

from or_cache_magic import cli
from or_cache_magic.errors import CacheMissError, OptionError
from or_cache_magic.explain.difference import NEW
from or_cache_magic.simulator import Scenario

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def ask(cache, clock):
    """Asks a second after the ask before."""

    def asked(prompt="What is a median?", **options):
        clock.now_s += 1
        return cache.ask(prompt, **{"model": MODEL, **options})

    return asked


def told(cache, *subject, **options):
    return str(cache.why(*subject, **options)).splitlines()


def test_why__names_what_is_nearest_and_the_difference(cache, ask, sim):
    """The last ask missed: which stored one is nearest, and each field in which they differ."""
    first = ask()
    second = ask("What is a mode?", temperature=0, top_p=0.5)
    calls = sim.completion_count
    found = cache.why()
    assert str(found).splitlines() == [
        f"{second.key[:10]} was asked: not stored yet",
        f"the nearest stored request is {first.key[:10]}, of just now; from it differs",
        "  prompt: What is a [-median-]{+mode+}?",
        "  top_p: [-not set-]{+0.5+}",
    ]
    assert (found.key, found.nearest.key) == (second.key, first.key)
    assert [change.field for change in found.changes] == ["prompt", "top_p"]
    assert sim.completion_count == calls
    assert repr(found) == str(found)
    assert "\x1b[32mmode\x1b[0m" in found.ansi


def test_why__of_an_answer_or_a_key_looks_at_what_was_before(cache, ask):
    """Whatever was asked since: an answer, and its key, are compared with what was stored before them."""
    first, second = ask(), ask("What is a mode?")
    ask("What is a mode, then?")
    for subject in (second, second.key, second.key[:6]):
        assert cache.why(subject).nearest.key == first.key
    assert told(cache, second.key)[0] == f"{second.key[:10]} is served: stored just now"
    assert told(cache, ask()) == [f"{first.key[:10]} was served from the cache", *told(cache, first)[1:]]
    assert told(cache, first)[1:] == ["nothing that was stored before comes near it"]


def test_why__a_hit_is_not_the_last_ask(cache, ask):
    """What is explained is the last ask that was not served; where there is none, that is said."""
    with pytest.raises(OptionError, match="nothing was asked in this session that the cache did not serve"):
        cache.why()
    second = [ask(), ask("What is a mode?")][1]
    ask()
    assert cache.why().key == second.key


def test_why__prefers_what_the_same_cell_asked(cache, ask):
    """The cell's last request comes first, and is called that."""
    cell, _near, _asked = ask("What is the median of it?"), ask("What is a mean?"), ask("What is a mode?")
    assert cache.why(cell=cell.key).nearest.key == cell.key
    assert told(cache, cell=cell.key)[1].startswith(f"what this cell asked before is {cell.key[:10]}")


def test_why__an_answer_was_not_stored(cache, ask, sim):
    """The reason of the receipt, and the same of the key alone, with what it cost."""
    sim.script(Scenario(text="Never", finish_reason="content_filter"), times=1)
    answer = ask()
    reason = "the answer was filtered (finish reason content_filter)"
    assert f"its answer was not stored: {reason}" in told(cache)
    lines = told(cache, answer.key)
    assert re.fullmatch(rf"its answer 1 is not served, just now: {re.escape(reason)} \(.*\)", lines[0])
    hot = ask(temperature=1)
    assert told(cache, hot)[0] == f"{hot.key[:10]} was asked: temperature 1 (--sample 0 keeps it)"


def test_why__an_entry_expired(cache, ask, clock):
    """Of a key, when it expired; of the ask that bought it again, that it had."""
    first = ask(ttl="1h")
    clock.now_s += 3 * 3600
    assert told(cache, first.key) == [f"{first.key[:10]} is not served: it expired 2 h ago"]
    ask()
    assert told(cache)[0] == f"{first.key[:10]} was asked: expired"


def test_why__an_answer_was_replaced_or_pinned(cache, ask, sim):
    """Which of several answers is served, and why the others aren't."""
    for text in ("red", "green"):
        sim.script(Scenario(text=text), times=1)
        answer = ask(mode="refresh")
    assert re.match(r"its answer 1 is not served, just now: replaced ", told(cache, answer.key)[1])
    cache.pin(answer.key, 1)
    assert told(cache, answer.key)[0].endswith(", pinned")


def test_why__tells_who_purged_it_and_when(cache, ask, clock, monkeypatch):
    """After a purge: who, when, what; of the key, and of the ask that bought it again."""
    monkeypatch.setattr("time.time", clock)
    monkeypatch.setattr(getpass, "getuser", lambda: "Ada")
    first, _other = ask(), ask("Who?")
    clock.now_s += 60
    cache.purge(first.key)
    clock.now_s += 7200
    line = rf"{first.key[:10]} was purged 2 h ago by Ada on \S+: KEY \(1 entry\)"
    assert re.fullmatch(line, "\n".join(told(cache, first.key)))
    again = ask()
    lines = told(cache, again)
    assert lines[0] == f"{first.key[:10]} was asked: not stored yet"
    assert re.fullmatch(line, lines[1])
    assert len(lines) == 2
    clock.now_s += 60
    cache.purge(all=True)
    assert re.search(
        r"was purged just now by Ada on \S+: --all \(2 entries\)", "\n".join(told(cache, first.key))
    )


def test_why__keeps_nothing_of_what_was_purged(cache, ask):
    """Of prompts, system prompts and texts that a purge was limited to, only that it was stays in the file."""
    ask("secret prompt", system="secret system")
    cache.purge(system="secret system", prefix="secret", model=MODEL)
    ((what, keys),) = cache.database.select("SELECT what, length(keys) FROM or_purge")
    assert (what, keys) == (f"--system --prefix --model {MODEL}", 4)
    cache.purge(all=True)
    assert cache.database.select("SELECT count(*) FROM or_purge") == [(1,)]


def test_why__of_what_is_not_there(cache, ask):
    """A key that was never bought, one that is none, and several at once."""
    ask()
    assert told(cache, "0" * 64) == ["0000000000 is not stored, and never was, as far as this cache knows"]
    for wrong in ("0000", "xyz", "", "12", 7, "\x1b[2J"):
        with pytest.raises(OptionError) as refused:
            cache.why(wrong)
        assert "\x1b" not in str(refused.value)


def test_why__offline(cache, ask):
    """A miss that raised is explained too."""
    ask()
    with pytest.raises(CacheMissError):
        ask("What is a mode?", mode="offline")
    assert [(change.field, change.pieces[2]) for change in cache.why().changes] == [("prompt", (NEW, "mode"))]


def test_why__says_what_changes_by_itself(cache, ask):
    """A part of the prompt that is another each time is named."""
    ask("Describe <Thing object at 0x7f3a5c0d9e10>.")
    ask("Describe <Thing object at 0x7f3a5c0d9e50>.")
    assert told(cache)[-1] == "changes by itself: an object's address (at 0x7f3a5c0d9e50)"


def test_why__is_harmless_html(cache, ask):
    """Prompts and models are shown as text."""
    ask("Say <b>this</b> now, please")
    ask("Say <b>this</b> <script>alert(1)</script> $x$ now, please")
    shown = cache.why()._repr_html_()
    assert "<script" not in shown
    assert "&lt;" in shown
    assert "$" not in shown.replace("&#36;", "")


def test_why__from_a_shell(cache, ask, folder, capsys):
    """``or-cache why KEY`` prints the same."""
    first, second = ask(), ask("What is a mode?")
    cache.flush()
    assert cli.main(["why", second.key[:10], "--dir", str(cache.directory)]) == 0
    out = capsys.readouterr().out
    assert f"the nearest stored request is {first.key[:10]}" in out
    assert "  prompt: What is a [-median-]{+mode+}?\n" in out
    assert cli.main(["why", "nothing", "--dir", str(cache.directory)]) == 1
