"""The magics' lines: what each word comes to, and how a wrong one is told."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.errors import OptionError
from or_cache_magic.notebook.commands import COMMANDS, CONFIG, ENTRIES, KEY, PURGE, STATS
from or_cache_magic.notebook.options import CELL, LINE, models_of, refuse_model
from or_cache_magic.notebook.parser import Command, Option, help_text, parse, split
from or_cache_magic.notebook.values import read_text_argument


def set_by(command: Command, line: str) -> dict[str, Any]:
    """What a line sets: the fields that are not as with nothing on it."""
    unset = vars(parse(command, ""))
    given = vars(parse(command, line))
    given["given"] = unset["given"]
    return {name: value for name, value in given.items() if value != unset[name]}


def refusal(command: Command, line: str) -> OptionError:
    with pytest.raises(OptionError) as caught:
        parse(command, line)
    return caught.value


# --- words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ('-s "You are terse"', ["-s", "You are terse"]),
        ("-s 'a  b'", ["-s", "a  b"]),
        ("""-p r='{"effort": "low"}'""", ["-p", 'r={"effort": "low"}']),
        (r"-s @C:\Users\new\b.md", ["-s", r"@C:\Users\new\b.md"]),
        (r"-s '\mathbf{X} \n'", ["-s", r"\mathbf{X} \n"]),
        ("-s ''", ["-s", ""]),
        ('-s "costs $5"', ["-s", "costs $5"]),
    ],
)
def test_split__groups_by_quotes_and_drops_them(line: str, words: list[str]):
    """Quotes group and vanish; backslashes, dollars and JSON in single quotes are kept."""
    assert [word.text for word in split(line)] == words


def test_split__stray_apostrophe_is_a_letter():
    """A quote that never closes ends the grouping from its word on, and not before."""
    assert [w.text for w in split("-s 'be brief' don't -o x")] == ["-s", "be brief", "don't", "-o", "x"]


@given(st.text() | st.text(alphabet=" \t\n'\"-x"))
def test_split__any_line_and_positions_are_right(line: str):
    """Every line splits, and each word stands where it says, in order, without the space around it."""
    end = 0
    for word in split(line):
        assert word.start >= end
        assert word.raw == word.raw.strip(" \t\r\n") != ""
        assert line[word.start : word.start + len(word.raw)] == word.raw
        end = word.start + len(word.raw)


# --- asking


def test_ask_cell__every_option():
    """Each option of the table arrives as its field, typed."""
    line = (
        "openai/gpt-4o-mini -o ans -s 'You are terse.' -t 0.7 --max-tokens 100 --top-p .9 --seed -1 "
        """-p reasoning='{"effort": "low"}' -p provider.sort='"price"' -f json --sample 2 --refresh --ttl 24h """
        "--tag a --tag b --dry-run --raw --no-stream -q"
    )

    assert set_by(CELL, line) == {
        "words": ("openai/gpt-4o-mini",),
        "model": "openai/gpt-4o-mini",
        "out": "ans",
        "system": "You are terse.",
        "temperature": 0.7,
        "max_tokens": 100,
        "top_p": 0.9,
        "seed": -1,
        "params": {
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": -1,
            "max_tokens": 100,
            "reasoning": {"effort": "low"},
            "provider.sort": "price",
        },
        "format": "json",
        "sample": 2,
        "mode": "refresh",
        "ttl_s": 86400.0,
        "tags": ("a", "b"),
        "dry_run": True,
        "raw": True,
        "no_stream": True,
        "quiet": True,
    }


def test_ask_cell__empty_line_gives_nothing():
    """Nothing on the line is nothing given, not a default."""
    assert set_by(CELL, "") == {}
    assert parse(CELL, "").model is None


def test_ask_cell__model_may_stand_anywhere():
    """Options and the model come in any order, and ``=`` joins as a space does."""
    assert parse(CELL, "--temperature=1 fast --tag=t") == parse(CELL, "fast -t 1 --tag t")
    assert parse(CELL, "-m fast").model == parse(CELL, "fast").model == "fast"


def test_ask_cell__several_models():
    """Words, commas and `-m` name several; a word that is neither an id nor an alias is refused by what follows."""
    named = [parse(CELL, line) for line in ("a/b c/d", "a/b,c/d", "a/b, c/d", "c/d -m a/b", "-m a/b,c/d")]
    assert {tuple(models_of(options, ())) for options in named} == {("a/b", "c/d")}
    assert models_of(parse(CELL, ""), ()) == [None]
    assert list(parse(CELL, "-n 3").sample) == [0, 1, 2]
    with pytest.raises(OptionError, match="Summarise is neither") as refused:
        models_of(parse(CELL, "fast Summarise this"), {"fast"})
    assert "below this line" in refused.value.hint


def test_ask_cell__comment_after_the_arguments():
    """A lone ``#`` begins a comment; ``#`` within a word or in quotes doesn't."""
    warm = {"model": "fast", "words": ("fast",), "temperature": 1.0, "params": {"temperature": 1.0}}
    assert set_by(CELL, "fast -t 1 # try it warm") == warm
    tagged = {"model": "fast", "words": ("fast",), "tags": ("#1",), "system": "#"}
    assert set_by(CELL, "fast --tag #1 -s '#'") == tagged
    assert set_by(CELL, "-- fast # x") == {"model": "fast", "words": ("fast",)}


def test_ask_cell__never_and_none():
    """``--ttl never`` is for ever and ``--max-tokens none`` no limit; neither is "not given"."""
    options = parse(CELL, "--ttl never --max-tokens none")

    assert (options.ttl_s, options.params) == (math.inf, {"max_tokens": None})


@pytest.mark.parametrize(
    ("flag", "mode"), [("--refresh", "refresh"), ("--no-cache", "bypass"), ("--offline", "offline")]
)
def test_ask_cell__modes(flag: str, mode: str):
    """Each of the three flags is a mode of the cache."""
    assert parse(CELL, flag).mode == mode


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("--modle x", "has no option --modle", "did you mean --model?"),
        ("--max_tokens 5", "has no option --max_tokens", "did you mean --max-tokens?"),
        ("--zzz", "has no option --zzz", "--help"),
        ("-t warm", "-t: 'warm' is not a number", "0.7"),
        ("-t nan", "'nan' is not a number", "0.7"),
        ("-t 1e999", "is not a number", "0.7"),
        ("--seed 1.5", "'1.5' is not a whole number", "whole"),
        ("--max-tokens 0", "0 is below 1", "or none"),
        ("--sample -1", "-1 is below 0", "from 0 up"),
        ("--ttl soon", "--ttl: 'soon' is not a length of time", "24h"),
        ("--ttl 1x0d", "'1x0d' is not a length of time", "24h"),
        ("--ttl 30", "'30' is not a length of time", "30m"),
        ("-f jsn", "did you mean json?", "markdown"),
        ("-o 2x", "'2x' is not a name", "Python name"),
        ("-o class", "'class' is not a name", "Python name"),
        ("-p reasoning", "has no KEY=", "KEY=JSON"),
        ("-p =1", "has no KEY=", "KEY=JSON"),
        ("-p a=low", """'a="low"'""", "single quotes"),
        ('-p a={"b": 1}', "is not JSON", "single quotes"),
        ("-p a=NaN", "is not JSON", "single quotes"),
        ("-p a=[1e999]", "is not JSON", "single quotes"),
        ("-p a=1 -p a=2", "a is given twice", "one of them"),
        ("-t 1 -p temperature=2", "temperature is given twice", "one of them"),
        ("-p messages=[]", "--param does not set messages", "-s"),
        ("--refresh --offline", "--refresh and --offline exclude each other", "one of them"),
        ("-y", "-y means nothing without --cascade; nothing was sent", "add --cascade, or leave -y out"),
        ("--refresh --yes", "--yes means nothing without --cascade", "add --cascade"),
        ("--ttl 1h --no-cache", "--ttl means nothing with --no-cache; nothing was sent", "one of them"),
        ("--offline --ttl=never", "--ttl means nothing with --offline", "one of them"),
        ("--sample 1 --no-cache", "--sample means nothing with --no-cache; nothing was sent", "one of them"),
        ("--no-cache --no-cache", "--no-cache is given twice", "one of them"),
        ("-t 1 --temperature 2", "--temperature is given twice", "one of them"),
        ("-t", "-t needs a value (X)", "number"),
        ("-s -o x", "-s needs a value", "-s '-o'"),
        ("--raw=yes", "--raw takes no value", "just --raw"),
        ("--tag ''", "--tag: the value is empty", ""),
    ],
)
def test_ask_cell__refused_in_two_clean_lines(line: str, message: str, hint: str):
    """What can't be read says what and what to do, in two lines, and that nothing was sent."""
    error = refusal(CELL, line)

    assert message in error.args[0]
    assert "nothing was sent" in error.args[0]
    assert hint in error.hint
    assert len(str(error).splitlines()) <= 2


def test_ask_cell__value_in_quotes_may_look_like_an_option():
    """Quotes, or ``=``, make a value of what would be an option."""
    assert parse(CELL, "-s '-o'").system == "-o"
    assert parse(CELL, "--system=--help").system == "--help"


def test_ask_cell__out_is_normalised_as_python_does():
    """The name is bound in the form in which Python looks names up (NFKC)."""
    assert parse(CELL, "-o ﬁt").out == "fit"


@given(st.text())
def test_ask_cell__reads_or_refuses(line: str):
    """Any line at all is options, or an `OptionError`."""
    try:
        options = parse(CELL, line)
    except OptionError:
        return
    assert options.help or isinstance(options.params, dict)


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ('What\'s  the "median"?', 'What\'s  the "median"?'),
        ("-m fast -t 0 What's up -t 5 # $x {y}", "What's up -t 5 # $x {y}"),
        ("-m fast 'quoted start' -o x", "'quoted start' -o x"),
        ("-- -x is what?", "-x is what?"),
        ("-m fast -- --help", "--help"),
        ("-5 + 3 = ?", "-5 + 3 = ?"),
        ("- list three things", "- list three things"),
        ("# A title", "# A title"),
        ("a -- b", "a -- b"),
        ("", ""),
    ],
)
def test_ask_line__prompt_is_kept_as_written(line: str, prompt: str):
    """From the first word that is no option on, the line is the prompt, untouched."""
    assert parse(LINE, line).prompt == prompt


def test_ask_line__options_before_the_prompt():
    """Options in front of the prompt are read."""
    options = parse(LINE, "-m openai/gpt-4o -o x Name a colour")

    assert (options.model, options.out, options.prompt) == ("openai/gpt-4o", "x", "Name a colour")


def test_ask_line__unknown_option_tells_of_the_two_dashes():
    """A prompt that begins with a dash is not guessed at."""
    assert "put -- before a prompt" in refusal(LINE, "-x what?").hint


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (r'"a \" b"', 'a " b'),
        (r'''"You're \"terse\""''', 'You\'re "terse"'),
        (r'"C:\new \\ \n"', r"C:\new \ \n"),
        ("""'it'"'"'s'""", "it's"),
        (r"'a \" b'", r"a \" b"),
        ("'be “brief”'", "be “brief”"),
    ],
)
def test_ask_line__quotes_are_read_as_a_shell_reads_them(line: str, text: str):
    """In double quotes a backslash stands before a quote or another, in single quotes it is a letter."""
    options = parse(LINE, f"-s {line} hi")
    assert (options.system, options.prompt) == (text, "hi")
    assert parse(CELL, f"--system={line}").system == text


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (r"-s 'it\'s' hi", "double quotes"),
        (r'-s "C:\dir\" hi', "double quotes"),
        ("-s don't hi", "double quotes"),
        ("-s it's what's up", "double quotes"),
        ("--system='be brief hi", "double quotes"),
        ("-s “be brief” hi", 'straight quotes: "be'),
        ("--tag=‘x’ hi", 'straight quotes: --tag="x"'),  # noqa: RUF001
        ("-s «x» hi", "straight quotes"),
        ("—refresh hi", "two hyphens: --refresh"),
        ("–t 0.2 hi", "hyphens: -t"),  # noqa: RUF001
        ("-t 0 -—refresh hi", "two hyphens: --refresh"),
        ("-s —refresh hi", "two hyphens: --refresh"),
    ],
)
def test_ask__what_only_looks_like_quotes_and_dashes_is_refused(line: str, hint: str):
    """A word is never split or sent in another form than it was meant."""
    for command in (LINE, CELL):
        error = refusal(command, line)
        assert hint in error.hint
        assert "nothing was sent" in error.args[0]


@pytest.mark.parametrize(
    "prompt", ["“Quoted” —start, it's", "— what's this?", "What is —refresh “x”?", "don't"]
)
def test_ask_line__typography_of_a_prompt_is_kept(prompt: str):
    """Only where an option or its value is meant do dashes and quotes have a meaning."""
    assert parse(LINE, prompt).prompt == prompt
    assert parse(LINE, f"-- —{prompt}").prompt == f"—{prompt}"


@pytest.mark.parametrize("line", [r"system='it\'s'", "model=“x”", '"model=x'])
def test_config__refuses_such_quotes_too(line: str):
    """The kind, not the option."""
    assert "nothing was changed" in refusal(CONFIG, line).args[0]
    assert parse(ENTRIES, "don't panic").text == "don't panic"


# --- the other magics


def test_stats__options():
    """Groups and the session are read; nothing else is taken."""
    assert set_by(STATS, "--by model --session") == {"by": "model", "session": True}
    assert "did you mean model?" in str(refusal(STATS, "--by modle"))
    assert "takes no 'x'" in str(refusal(STATS, "x"))
    assert "nothing was done" in str(refusal(STATS, "x"))


def test_entries__text_or_key():
    """Eight hex digits or more are a key; other words are a text."""
    options = parse(ENTRIES, "cafe latte --since 7d")
    assert (options.text, options.key, options.since_s) == ("cafe latte", None, 604800.0)
    assert (parse(ENTRIES, "3F9A01C2d4").key, parse(ENTRIES, "3F9A01C2d4").text) == ("3f9a01c2d4", "")
    assert parse(ENTRIES, "face").text == "face"
    assert "'never' is not a length" in str(refusal(ENTRIES, "--since never"))


def test_purge__conditions():
    """Keys and every condition are read."""
    line = "ABCD 12345678 --model 'openai/*' --system @s.md --tag t --prefix P --older 30d --expired --dry-run -y"

    assert set_by(PURGE, line) == {
        "words": ("ABCD", "12345678"),
        "keys": ("abcd", "12345678"),
        "model": "openai/*",
        "system": "@s.md",
        "tag": "t",
        "prefix": "P",
        "older_s": 30 * 86400.0,
        "expired": True,
        "dry_run": True,
        "yes": True,
    }


@pytest.mark.parametrize("line", ["abc", "gpt-4o abcd"])
def test_purge__what_is_no_key_is_refused(line: str):
    """A word that is no key: nothing is removed."""
    assert "nothing was removed" in str(refusal(PURGE, line))


def test_config__pairs():
    """Names and values are split at the first ``=``; quotes hold spaces."""
    options = parse(CONFIG, "model=openai/gpt-4o system='be brief' aliases=a:b,c:d --save")

    assert options.changes == {"model": "openai/gpt-4o", "system": "be brief", "aliases": "a:b,c:d"}
    assert options.save
    assert parse(CONFIG, "system=").changes == {"system": ""}
    assert "is no NAME=VALUE" in str(refusal(CONFIG, "model"))
    assert "twice" in str(refusal(CONFIG, "a=1 a=2"))


# --- help


@pytest.mark.parametrize("spelling", COMMANDS)
def test_help__names_every_option(spelling: str):
    """The help begins with the magic's own name and holds every option and its meaning."""
    command = COMMANDS[spelling]
    text = help_text(command)

    assert text.startswith(spelling + " ")
    for option in command.options:
        assert option.label in text
        assert option.help in text


@pytest.mark.parametrize("line", ["--help", "-h", "fast -t 1 --help", "a b --help --nonsense"])
def test_help__ends_the_reading(line: str):
    """``--help`` is answered whatever comes after it or is missing."""
    assert parse(CELL, line).help
    assert parse(PURGE, "--help").help
    assert parse(KEY, "--help").help
    assert not parse(KEY, "").help


def test_help__examples_are_read():
    """Every example of the help is a line that the magic takes."""
    for command in COMMANDS.values():
        for example in command.examples:
            header = example.splitlines()[0].partition(" = ")[2] or example.splitlines()[0]
            magic, _, line = header.partition(" ")
            assert magic == command.spelling
            assert not parse(command, line).help


def test_parse__new_option_is_one_row():
    """A row added to the table is parsed, shown in the help and suggested."""
    command = Command(
        "ask",
        "Ask.",
        options=(*CELL.options, Option(("--colour",), "colour", "of the answer", "NAME", "none")),
    )

    assert parse(command, "--colour red").colour == "red"
    assert parse(command, "").colour == "none"
    assert "--colour NAME" in help_text(command)
    assert "did you mean --colour?" in refusal(command, "--color 1").hint


@pytest.mark.parametrize(
    ("line", "ttl", "words"),
    [
        ("--prompt-cache openai/gpt-4o", "5m", ("openai/gpt-4o",)),
        ("openai/gpt-4o --prompt-cache", "5m", ("openai/gpt-4o",)),
        ("--prompt-cache 1h openai/gpt-4o", "1h", ("openai/gpt-4o",)),
        ("--prompt-cache   5m", "5m", ()),
        ("--prompt-cache=1h x", "1h", ("x",)),
        ("--prompt-cache -q x", "5m", ("x",)),
        ("--prompt-cache '1h' x", "1h", ("x",)),
        ("--prompt-cache off x", None, ("x",)),
        ("--prompt-cache=off x", None, ("x",)),
    ],
)
def test_ask_cell__an_option_may_stand_alone(line: str, ttl: str | None, words: tuple[str, ...]):
    """``--prompt-cache`` has a value only where one of its choices follows."""
    options = parse(CELL, line)
    assert (options.prompt_cache, options.words) == (ttl, words)


def test_ask_line__an_option_that_stands_alone_leaves_the_prompt_as_written():
    """The prompt behind it is not read as words: an apostrophe is a letter."""
    options = parse(LINE, "--prompt-cache don't read  this as options")
    assert (options.prompt_cache, options.prompt) == ("5m", "don't read  this as options")
    options = parse(LINE, "--prompt-cache 1h it's 5m")
    assert (options.prompt_cache, options.prompt) == ("1h", "it's 5m")


def test_ask_cell__refuses_another_time_for_prompt_caching():
    """A value that providers don't have is refused with those they do."""
    for value in ("=2h", " 2h hi", " 1hour hi", " none hi", " on hi"):
        error = refusal(LINE, f"--prompt-cache{value}")
        assert "5m, 1h or off" in error.hint
    assert parse(LINE, "--prompt-cache -- 3d printing is?").prompt == "3d printing is?"


@pytest.mark.parametrize(("word", "usd"), [("0.05", "0.05"), ("$2", "2"), (".5", "0.5"), ("0", "0")])
def test_ask_cell__max_cost_is_exact(word: str, usd: str):
    """A limit is the very decimal that was written."""
    assert parse(CELL, f"--max-cost {word}").max_cost_usd == Decimal(usd)


@pytest.mark.parametrize("word", ["-1", "nan", "1e5", "five", "1,000", "inf"])
def test_ask_cell__max_cost_takes_dollars_only(word: str):
    """What is no plain amount of dollars is refused before anything is sent."""
    assert "0.05" in refusal(CELL, f"--max-cost {word}").hint


def test_tables__cell_and_line_share_their_options():
    """What a cell takes, the line takes."""
    assert CELL.options == LINE.options
    assert len(CELL.by_name) == sum(len(option.names) for option in CELL.options)


@pytest.mark.parametrize(
    "model",
    [
        "openai/gpt-4o-mini", "OpenAI/GPT-4o-mini", "openrouter/auto", "~anthropic/claude-sonnet-latest",
        "@preset/foo", "openai/gpt-4o@preset/foo",
    ],
)  # fmt: skip
def test_line__refuses_a_prompt_that_begins_as_a_model(model):
    """It would be asked of the default model, with the id in the prompt."""
    for rest in ("", " What is a mode?"):
        assert f"write -m {model}" in refusal(LINE, model + rest).hint
    assert parse(LINE, f"-m x/y {model} What is a mode?").prompt.startswith(model)


@pytest.mark.parametrize("prompt", ["and/or what?", "either/or?", "1/2 of what?", "TCP/IP-4 is"])
def test_line__takes_other_words_with_a_slash(prompt):
    """What only looks a little like one."""
    assert parse(LINE, prompt).prompt == prompt


@pytest.mark.parametrize(
    "first", ["gpt-4o-mini", "GPT-4o-Mini", "gpt-4o-mini:free", "o3", "sonnet-4", "X-AI/GROK-4"]
)
def test_line__refuses_a_prompt_that_begins_with_a_known_model(first):
    """The end of the id of a model that was set or asked, or an alias."""
    known = ["openai/gpt-4o-mini", "openai/o3:nitro", "sonnet-4", "x-ai/grok-4"]
    for rest in ("", " What is a mode?"):
        with pytest.raises(OptionError, match="begins with a model"):
            refuse_model(parse(LINE, first + rest), lambda: known)
        refuse_model(parse(LINE, f"-m x/y {first}{rest}"), lambda: known)


@pytest.mark.parametrize("prompt", ["What is gpt-4o-mini?", "gpt-5 what?", "", "2 + 2?", "auto what?"])
def test_line__takes_what_is_no_known_model(prompt):
    """Words of prose are not even looked up."""
    refuse_model(parse(LINE, prompt), lambda: ["openai/gpt-4o-mini", "openrouter/auto"])


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--temp", "--temperature?"),
        ("--timeout", ""),
        ("--refesh", "--refresh?"),
        ("--systm", "--system?"),
    ],
)
def test_parse__means_what_begins_so(word, meant):
    """The only option that begins so wins; what is far from all suggests nothing."""
    hint = refusal(CELL, f"{word} 1").hint
    assert ("did you mean " + meant in hint) if meant else ("did you mean" not in hint)


def test_params__take_unknown_fields_but_no_near_misses():
    """``-p`` is where any other field goes."""
    assert parse(CELL, "-p zzz=1 -p top_k=3").params == {"top_k": 3, "extra": {"zzz": 1}}
    assert parse(CELL, "-p temprature=1").params == {"temprature": 1}  # refused where the ask is made


def test_system__of_one_word_is_a_variable(tmp_path):
    """A lone identifier that is no variable is refused, not sent as text."""
    with pytest.raises(OptionError, match="editr is not defined; nothing was sent") as caught:
        read_text_argument("editr", {"editor": "Be an editor."}, tmp_path)
    assert caught.value.hint.startswith("did you mean editor?")
    assert read_text_argument("Terse.", {}, tmp_path) == "Terse."
