"""Looking after the cache in cells: status, stats, entries, purge, config, key, last."""

from __future__ import annotations

import io
import re
import sys
from functools import partial

import pandas as pd
import pytest

import or_cache_magic as orc
from or_cache_magic.display.entries import ENTRY_TYPES
from or_cache_magic.display.stats import STAT_TYPES
from or_cache_magic.errors import OptionError
from or_cache_magic.simulator import Scenario
from or_cache_magic.simulator.catalog import MODELS

KEY = "sk-or-v1-0123456789abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture
def stocked(nb):
    """Four asks: three answers of two models, one of them asked twice."""
    nb.sim.script(Scenario(text="the middle value"))
    nb.run("%%openrouter --tag statistics\nWhat is a median?")
    nb.run("%%openrouter\nWhat is a median?")
    nb.run("%%openrouter openai/gpt-4o -s 'Be brief.'\nName a colour")
    nb.run("%%openrouter openai/gpt-4o --ttl 0.001s\nName a bird")
    return nb


# -- %openrouter --------------------------------------------------------------------------------


def test_status__says_how_things_stand(stocked):
    """The card has the model, the folder, the count, the rates and the dollars."""
    out = stocked.run("%openrouter")
    row = orc.stats().iloc[0]

    assert re.search(r"^model: +openai/gpt-4o-mini$", out, re.MULTILINE)
    assert f"{stocked.folder / '.or_cache'} · 3 entries · mode normal" in out
    rates = f"25% of 4 asks · {row['hit_rate_tokens']:.0%} of tokens · {row['hit_rate_usd']:.0%} of dollars"
    assert re.search(rf"^hit rate: +{rates} · at best 25%$", out, re.MULTILINE)
    assert re.search(r"^paid: +\$0\.\d+$", out, re.MULTILINE)
    assert re.search(r"^saved: +\$0\.\d+$", out, re.MULTILINE)


def test_status__one_entry_is_an_entry(nb):
    """One is one."""
    nb.run("%openrouter hi")

    assert "· 1 entry ·" in nb.run("%openrouter")


def test_status__before_anything(nb, monkeypatch):
    """Without a model, a key or an ask the card says what to do, and makes nothing."""
    monkeypatch.delenv("OPENROUTER_MODEL")
    monkeypatch.delenv("OPENROUTER_API_KEY")
    out = nb.run("%openrouter")

    assert "none set: name one in the cell" in out
    assert "set OPENROUTER_API_KEY" in out
    assert "%openrouter_key" in out
    assert "0 entries" in out
    assert "nothing asked yet" in out


def test_key__is_never_told(nb, monkeypatch):
    """Not in the card, an error, the history or any file of the cache: only its ends are shown."""
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    nb.run("%load_ext or_cache_magic")
    outs = [nb.run("%openrouter hi"), nb.run("%openrouter"), nb.run("%openrouter_config")]
    outs += [nb.run(f"%openrouter_entries {orc.entries()['key'][0]}"), nb.fails("%openrouter -m no/such hi")]
    nb.run("%unload_ext or_cache_magic")
    stored = b"".join(path.read_bytes() for path in nb.folder.rglob("*") if path.is_file())

    assert not any(KEY[12:-3] in out for out in outs)
    assert "sk-or-v1-012…def from OPENROUTER_API_KEY" in outs[1]
    assert KEY[12:-3].encode() not in stored


# -- %openrouter_stats --------------------------------------------------------------------------


def test_stats__value_is_the_whole_frame(stocked):
    """The value has every column, in order, whether assigned or shown and then `_`."""
    stocked.run("x = %openrouter_stats")
    stocked.run("%openrouter_stats")

    for frame in (stocked["x"], stocked["_"], orc.stats()):
        assert isinstance(frame, pd.DataFrame)
        assert tuple(frame.columns) == tuple(STAT_TYPES)
    (row,) = stocked["x"].to_dict("records")
    assert (row["asks"], row["hits"], row["misses"], row["unpriced"]) == (4, 1, 3, 0)
    assert row["hit_rate"] == 0.25
    assert row["paid_usd"] == pytest.approx(float(stocked.sim.total_cost))


def test_stats__fits_a_terminal(stocked):
    """In a terminal every line fits in 80 columns, and nothing is left out or shown as ``Out[n]``."""
    out = stocked.run("%openrouter_stats")

    assert max(map(len, out.splitlines())) < 80
    assert all(re.search(rf"^{name} ", out, re.MULTILINE) for name in tuple(STAT_TYPES))
    assert "..." not in out
    assert "Out[" not in out
    assert re.search(r"^hit_rate +25%$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("model", {"openai/gpt-4o-mini": 2, "openai/gpt-4o": 2}),
        ("tag", {"statistics": 1, "": 3}),
        ("notebook", {"": 4}),
    ],
)
def test_stats__by(stocked, by: str, groups: dict):
    """``--by`` gives a row a group, the group's column first."""
    stocked.run(f"x = %openrouter_stats --by {by}")
    out = stocked.run(f"%openrouter_stats --by {by}")
    frame = stocked["x"]

    assert tuple(frame.columns) == (by, *tuple(STAT_TYPES))
    assert dict(zip(frame[by], frame["asks"], strict=True)) == groups
    assert max(map(len, out.splitlines())) < 80


def test_stats__by_day(stocked):
    """The day's column holds days, as dates that can be plotted; they are shown as days."""
    stocked.run("x = %openrouter_stats --by day")
    days = stocked["x"]["day"]

    assert stocked["x"]["asks"].sum() == 4
    assert days.dtype.kind == "M"
    assert (days == days.dt.normalize()).all()
    assert re.search(rf"^{days[0]:%Y-%m-%d} +\d", stocked.run("%openrouter_stats --by day"), re.MULTILINE)


def test_stats__session(stocked):
    """``--session`` counts since the kernel's start, or the extension's."""
    stocked.run("%reload_ext or_cache_magic")
    stocked.run("%openrouter What is a median?")
    stocked.run("x = %openrouter_stats --session\ny = %openrouter_stats")

    assert stocked["x"]["asks"].tolist() == [1]
    assert stocked["y"]["asks"].tolist() == [5]


def test_stats__by_group_of_nothing(nb):
    """Without an ask there are no groups, and the text says so."""
    assert nb.run("%openrouter_stats --by model") == "nothing asked yet\n"


# -- %openrouter_entries ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "prompts"),
    [
        ("", {"What is a median?", "Name a colour", "Name a bird"}),
        ("median", {"What is a median?"}),
        ("MIDDLE", {"What is a median?"}),
        ("Name a", {"Name a colour", "Name a bird"}),
        ("--model openai/gpt-4o", {"Name a colour", "Name a bird"}),
        ("--model *mini", {"What is a median?"}),
        ("--tag statistics", {"What is a median?"}),
        ("--since 1h", {"What is a median?", "Name a colour", "Name a bird"}),
        ("nothing like it", set()),
        ("--tag none", set()),
    ],
)
def test_entries__filters(stocked, filters: str, prompts: set):
    """Text in prompt or answer, model, label and age choose; each is a row with every column."""
    stocked.run(f"x = %openrouter_entries {filters}")
    frame = stocked["x"]

    assert tuple(frame.columns) == tuple(ENTRY_TYPES)
    assert set(frame["prompt"]) == prompts


def test_models__fit_a_terminal(stocked):
    """In a terminal a model is a line, with its prices, and below how old the list is."""
    table, notes = stocked.run("%openrouter_models GPT --max-price 0.6").split("\n\n")
    head, *lines = table.splitlines()

    assert head.split() == ["id", "context", "$/M", "in", "$/M", "out", "expires"]
    assert [line.split() for line in lines] == [["openai/gpt-4o-mini", "128,000", "$0.15", "$0.60", "-"]]
    assert all(len(line) < 80 for line in (*lines, *notes.splitlines()))
    assert notes.startswith(f"1 of {len(MODELS)} models, as OpenRouter listed them just now")
    stocked.run("x = %openrouter_models --free")
    assert set(stocked["x"]["prompt_usd_per_m"]) == {0.0}


def test_models__are_known_to_later_asks(stocked):
    """Once listed, a wrong name is refused in two lines before anything is sent; in a line and in a cell."""
    stocked.run("%openrouter_models")
    sent = stocked.sim.completion_count
    for cell in ("%openrouter -m openai/gpt4o-mini hi", "%%openrouter openai/gpt4o-mini\nhi"):
        out = stocked.fails(cell)
        assert "RequestError: openai/gpt4o-mini is no model of OpenRouter's (nothing was sent)" in out
        assert "did you mean openai/gpt-4o-mini?" in out
    assert stocked.sim.completion_count == sent


def test_entries__fits_a_terminal(stocked):
    """In a terminal an entry is a line, newest first, with the key that the other magics take."""
    table, notes = stocked.run("%openrouter_entries").split("\n\n")
    head, *lines = table.splitlines()

    assert head.split() == ["key", "created", "model", "cost", "hits", "prompt"]
    assert [line.split("  ")[-1] for line in lines] == ["Name a bird", "Name a colour", "What is a median?"]
    assert all(len(line) < 80 for line in (*lines, *notes.splitlines()))
    assert re.match(r"3 entries, bought for \$0\.\d+; 1 hit saved \$0\.\d+\.\n", notes)
    assert stocked["_"]["key"][0].startswith(lines[0].split()[0])
    assert stocked.run("%openrouter_entries nowhere") == "no entries\n"


def test_entries__a_long_list_is_cut_on_screen_only(nb):
    """The screen has the newest 20 and the number of the rest; `_` has all."""
    for n in range(23):
        orc.ask(f"number {n}, {'with a prompt that is long ' * 5}\nand has lines")
    out = nb.run("%openrouter_entries")

    assert len(out.partition("\n\n")[0].splitlines()) == 22
    assert "number 22" in out
    assert "number 2," not in out
    assert "… and 3 more" in out
    assert max(map(len, out.splitlines())) < 80
    assert len(nb["_"]) == 23


def test_entries__key_shows_one_whole(stocked):
    """With a key: the request, the answer and what came before it."""
    stocked.sim.script(Scenario(text="a newer answer"))
    stocked.run("%%openrouter --refresh\nWhat is a median?")
    key = orc.entries("median")["key"][0]
    out = stocked.run(f"%openrouter_entries {key[:10].upper()}")

    assert '"content": "What is a median?"' in out
    assert "a newer answer" in out
    assert re.search(r"earlier answer.*\nthe middle value", out)
    assert f"key {key}" in out
    assert "1 hit\n" in out


@pytest.mark.parametrize("word", ["{key}", "$key", "{answer.key}", "{key[:10]}"])
def test_entries__expands_variables(stocked, word):
    """As IPython users expect of a line magic; a prompt's line stays as typed."""
    stocked.run("key = None")
    stocked.run("answer = %openrouter -m openai/gpt-4o-mini costs $key and {key}")
    assert stocked["answer"].messages[0]["content"] == "costs $key and {key}"
    stocked.run("key = answer.key")
    assert '"content": "costs $key and {key}"' in stocked.run(f"%openrouter_entries {word}")
    assert "1 entry" in stocked.run(f"%openrouter_purge {word} --dry-run")


def test_filters__take_a_part_that_names_a_model(stocked):
    """What tables show of a model's name finds it, and the line says which it is."""
    assert "--model gpt-4o-mini: openai/gpt-4o-mini" in stocked.run(
        "x = %openrouter_entries --model gpt-4o-mini"
    )
    assert set(stocked["x"]["model"]) == {"openai/gpt-4o-mini"}
    # The tail of one, though a part of another.
    assert "--model gpt-4o: openai/gpt-4o\n" in stocked.run("%openrouter_purge --model gpt-4o --dry-run")
    assert len(orc.entries(model="4o-mini")) == 1
    with pytest.raises(OptionError, match="openai is a part of openai/gpt-4o, openai/gpt-4o-mini"):
        orc.purge(model="openai", dry_run=True)
    assert len(orc.entries(model="nosuch")) == 0


# -- %openrouter_purge --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        ("--model openai/gpt-4o", {"What is a median?"}),
        ("--tag statistics", {"Name a colour", "Name a bird"}),
        ("--system 'Be brief.'", {"What is a median?", "Name a bird"}),
        ("--system terse", {"What is a median?", "Name a bird"}),
        ("--prefix 'Name a'", {"What is a median?"}),
        ("--expired", {"What is a median?", "Name a colour"}),
        ("--older 1d", {"What is a median?", "Name a colour", "Name a bird"}),
        ("--model openai/gpt-4o --prefix 'Name a b'", {"What is a median?", "Name a colour"}),
        ("--all", set()),
    ],
)
def test_purge__conditions(stocked, conditions: str, left: set):
    """Every condition must hold; ``--dry-run`` changes nothing, and says the same count; the ledger stays."""
    stocked["terse"] = "Be brief."
    dry = stocked.run(f"x = %openrouter_purge {conditions} --dry-run")
    assert len(orc.entries()) == 3
    wet = stocked.run(f"y = %openrouter_purge {conditions} -y")

    gone = 3 - len(left)
    assert set(orc.entries()["prompt"]) == left
    if gone:
        assert dry.startswith("1 entry, $" if gone == 1 else f"{gone} entries, $")
        assert "to buy again" in dry
        assert wet.splitlines()[0] in dry
        assert len(stocked["x"]) == len(stocked["y"]) == gone
        assert tuple(stocked["y"].columns) == tuple(ENTRY_TYPES)
    else:
        assert dry == wet == "no entry matches; nothing to remove\n"
    assert orc.stats()["asks"].tolist() == [4]


def test_purge__keys(stocked):
    """Keys choose as they are shown, several at once; asking again buys again."""
    keys = orc.entries("Name a")["key"]
    stocked.run(f"%openrouter_purge {keys[0][:10]} {keys[1]} -y")

    assert orc.entries()["prompt"].tolist() == ["What is a median?"]
    stocked.run("%%openrouter openai/gpt-4o -s 'Be brief.'\nName a colour")
    assert stocked.sim.completion_count == 4


@pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
def test_purge__asks_and_goes_on(stocked, monkeypatch, answer: str):
    """Without ``-y`` it asks; a yes removes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    out = stocked.run("%openrouter_purge --all")

    assert "Remove 3? [y/N]" in out
    assert orc.entries().empty


@pytest.mark.parametrize("answer", ["\n", "n\n", "yess\n"])
def test_purge__asks_and_stops(stocked, monkeypatch, answer: str):
    """Anything but a yes removes nothing, and says so."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))

    assert "nothing was removed" in stocked.run("%openrouter_purge --all")
    assert len(orc.entries()) == 3


def test_purge__refuses_where_it_cannot_ask(stocked, monkeypatch):
    """Where nobody can answer, nothing is removed, and the cell fails with the way to do it."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    out = stocked.fails("%openrouter_purge --all")

    assert "OptionError: this front end can't ask, so nothing was removed" in out
    assert "-y" in out
    assert len(orc.entries()) == 3


@pytest.mark.parametrize(
    "line",
    ["", "-y", "--dry-run", "--all --tag x -y", "--all abcd -y", "xyz -y", "abc -y", "--older never -y"],
)
def test_purge__says_what_it_does_not_understand(stocked, line: str):
    """Nothing chosen, too much chosen, or no key: two lines, nothing removed."""
    out = stocked.fails(f"%openrouter_purge {line}")

    assert out.startswith("OptionError: ")
    assert "nothing was removed" in out
    assert len(out.splitlines()) == 2
    assert len(orc.entries()) == 3


# -- %openrouter_last ---------------------------------------------------------------------------


def test_last__is_a_lint_clean_assignment(nb):
    """``ans = %openrouter_last`` binds a name that linters can see."""
    nb.run("%%openrouter\nhi")
    asked = nb["_"]

    assert nb.run("ans = %openrouter_last") == ""
    assert nb["ans"] is asked


def test_last__survives_a_failed_ask(nb):
    """It is the last answer, not the last attempt."""
    nb.run("%openrouter hi")
    nb.fails("%openrouter -m no/such hi")
    nb.run("ans = %openrouter_last")

    assert nb["ans"].model == "openai/gpt-4o-mini"


# -- %openrouter_config -------------------------------------------------------------------------


def test_config__shows_values_and_where_from(nb):
    """Every setting, its value and its origin, as a DataFrame that a terminal shows in 80 columns."""
    (nb.folder / "pyproject.toml").write_text("[tool.or_cache_magic]\nmax_tokens = 9\n")
    out = nb.run("%openrouter_config receipt=stable")
    nb.run("x = %openrouter_config")

    assert nb["x"].loc["receipt"].tolist() == ["stable", "configuration"]
    assert nb["x"].loc["model"].tolist() == ["openai/gpt-4o-mini", "OPENROUTER_MODEL"]
    assert nb["x"].loc["max_tokens"].tolist() == [9, str(nb.folder / "pyproject.toml")]
    assert nb["x"].loc["format"].tolist() == ["auto", "default"]
    assert re.search(r"^receipt +stable +configuration$", out, re.MULTILINE)


@pytest.mark.parametrize("setting", ["temperature", "max_tokens"])
def test_config__none_is_a_choice(nb, setting: str):
    """``temperature=none`` sends none, it does not fall back to the default."""
    nb.run(f"%openrouter_config {setting}=none")
    nb.run("%%openrouter --sample 0\nhi")

    assert setting not in nb.sent[0]


@pytest.mark.parametrize(
    ("line", "says_so"),
    [
        ("temprature=1", "did you mean temperature?"),
        ("temperature=hot", "a number from 0 to 2"),
        ("temperature=nan", "a number from 0 to 2"),
        ("receipt=loud", "live, stable, off"),
        ("ttl=soon", "30m, 24h"),
        ("max_tokens=0", "whole number"),
        ("model = x", "no spaces around the ="),
        ("model=a model=b", "given twice"),
        ("receipt=off temperature=hot", "a number from 0 to 2"),
    ],
)
def test_config__bad_values(nb, line: str, says_so: str):
    """A wrong name or value is told in two lines; nothing is changed, not even what was right."""
    out = nb.fails(f"%openrouter_config {line}")
    nb.run("x = %openrouter_config")

    assert says_so in out
    assert len(out.splitlines()) == 2
    assert "configuration" not in set(nb["x"]["origin"])


def test_config__save_is_in_force_in_the_next_kernel(nb):
    """``--save`` writes the project's file, and the value is the same when it is read back."""
    said = nb.run("%openrouter_config receipt=stable --save")
    nb.run("%reload_ext or_cache_magic")
    nb.run("x = %openrouter_config")

    assert str(nb.folder / "pyproject.toml") in said
    assert nb["x"].loc["receipt"].tolist() == ["stable", str(nb.folder / "pyproject.toml")]


def test_config__save_refuses_the_base_url(nb):
    """Where the key is sent is never a project's to say; nothing is changed, nothing is written."""
    out = nb.fails("%openrouter_config base_url=http://127.0.0.1:1/v1 --save")
    nb.run("%openrouter hi")

    assert out.startswith("SettingError: base_url is not saved")
    assert not (nb.folder / "pyproject.toml").exists()
    assert nb.sim.completion_count == 1


# -- %openrouter_key ----------------------------------------------------------------------------


def test_key__refuses_where_it_would_be_seen(nb, monkeypatch):
    """Where what is typed would be echoed, nothing is read."""
    typed = io.StringIO(f"{KEY}\n")
    monkeypatch.setattr(sys, "stdin", typed)
    monkeypatch.setattr("getpass.getpass", __import__("getpass").fallback_getpass)
    out = nb.fails("%openrouter_key")

    assert out.startswith("OptionError: this front end can't ask for the key unseen")
    assert len(out.splitlines()) == 2
    assert typed.tell() == 0


def test_key__written_behind_it_is_not_repeated(nb):
    """A key on the line is refused, and the error does not say it again."""
    out = nb.fails(f"%openrouter_key {KEY}")

    assert out.startswith("OptionError: ")
    assert len(out.splitlines()) == 2
    assert KEY[:16] not in out


def test_key__help(nb):
    """``--help`` helps."""
    assert nb.run("%openrouter_key --help").startswith("%openrouter_key")


# -- the quota ----------------------------------------------------------------------------------


def test_purge__to_fit_shows_asks_and_drops(stocked, monkeypatch):
    """It says how many, how large and what they cost, asks, and drops until the rest fits."""
    size = int(orc.entries()["size_bytes"].sum())
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    out = stocked.run(f"gone = %openrouter_purge --to-fit {size - 1}B")

    assert re.search(r"1 entry, \d+ B, \$0\.\d+ to buy again · 1?\d+(\.\d)? K?B stay", out)
    assert [p[:11] for p in stocked["gone"]["prompt"]] == ["Name a bird"]
    assert "fit already; nothing to remove" in stocked.run("%openrouter_purge --to-fit 2GB")
    assert "is no size; nothing was removed" in stocked.fails("%openrouter_purge --to-fit lots")


def test_quota__is_told_in_receipt_stats_and_card(nb):
    """Above it the live receipt, the statistics and the card say so; a stable receipt stays as it is."""
    before = nb.run("%openrouter")
    nb.run("%openrouter_config quota=10B")
    live = nb.run("%%openrouter\none")
    nb.run("%openrouter_config receipt=stable")
    stable = nb.run("%%openrouter\ntwo")

    warning = "over its quota of 10 B: %openrouter_purge --to-fit 10B"
    assert re.search(r"^size: +0 B of 2 GB$", before, re.MULTILINE)
    assert warning in live
    assert warning not in stable
    assert warning in nb.run("%openrouter_stats")
    assert warning in nb.run("%openrouter")


def test_memory__leaves_no_folder(nb):
    """With ``:memory:`` a cell is asked, kept and counted as ever, and the notebook's folder stays empty."""
    nb.run("%openrouter_config cache_dir=:memory:")
    nb.run("%%openrouter -o first\none")
    nb.run("%%openrouter -o again\none")

    assert (nb["first"].cached, nb["again"].cached) == (False, True)
    assert ":memory: · 1 entry" in nb.run("%openrouter")
    assert not (nb.folder / ".or_cache").exists()


# -- pin ------------------------------------------------------------------------------------------


def test_pin__chooses_what_reruns_give(nb):
    """The earlier answers have numbers, Tab offers them, and the chosen one is given and marked."""
    from or_cache_magic.notebook.completer import complete
    from or_cache_magic.notebook.extension import loaded

    ask = "%%openrouter openai/gpt-4o-mini -t 0.5 --sample 1"
    for text in ("red", "green"):
        nb.sim.script(Scenario(text=text), times=1)
        nb.run(f"{ask} --refresh\nName a colour.")
    key = orc.entries()["key"][0]
    card = nb.run(f"%openrouter_entries {key}")
    assert "sample 1 · temperature 0.5\n" in card
    assert re.search(r"earlier answer 1, .*: replaced · .*\nred", card)
    offered = partial(complete, models=tuple, settings=tuple, answers=loaded().session().replaced_answers)
    line = f"%openrouter_pin {key[:3]}"
    assert offered(line, 0, len(line)) == (key[:3], [f"{key[:10]}:1"])
    nb["key"] = key

    said = nb.run("%openrouter_pin {key}:1")
    assert said == f"pinned: reruns give answer 1 of {key[:10]} now; the one before is its answer 2\n"
    again = nb.run(f"%openrouter_pin {key}:1")
    assert again == f"reruns give answer 1 of {key[:10]} already\n"
    assert nb.run(f"{ask}\nName a colour.").startswith("red\n")
    assert "sample 1 · temperature 0.5 · pinned\nanswer 1 of 2 is served\n" in nb.run(
        f"%openrouter_entries {key}"
    )
    nb.run(f"%openrouter_pin {key[:10]} 2")
    assert nb.run(f"{ask}\nName a colour.").startswith("green\n")
    nb.sim.script(Scenario(text="blue"), times=1)
    assert "it replaces a pinned answer" in nb.run(f"{ask} --refresh\nName a colour.")
    assert nb.sim.completion_count == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "names no key"),
        ("median", "names no key"),
        ("12345678:x", "names no key"),
        ("12345678:1", "no entry begins with 12345678"),
    ],
)
def test_pin__refuses_what_is_no_answer(nb, line, said):
    """Two lines; nothing is changed."""
    out = nb.fails(f"%openrouter_pin {line}")
    assert said in out
    assert "nothing was changed" in out
