"""Asking in cells: what is sent, what is shown, what becomes a value."""

from __future__ import annotations

import json
import os
import re

import pytest

import or_cache_magic as orc
from or_cache_magic.cache.completion import Completion
from or_cache_magic.simulator import Scenario, scenario

ASK = "%%openrouter openai/gpt-4o-mini"


def says(nb, text: str, times: int = 1) -> None:
    """What the model answers next."""
    nb.sim.script(Scenario(text=text), times=times)


# -- one entry, however it is asked ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "python"),
    [
        ("", {}),
        ("-s 'Be brief.'", {"system": "Be brief."}),
        ("-t 0.0 --max-tokens 50", {"temperature": 0, "max_tokens": 50}),
        ("--max-tokens none --top-p 0.5", {"max_tokens": None, "top_p": 0.5}),
        ("--seed 7 -p stop='[\"END\"]'", {"seed": 7, "stop": ["END"]}),
        ("-t 1 --sample 2", {"temperature": 1, "sample": 2}),
        ('-p provider=\'{"sort": "price"}\'', {"provider": {"sort": "price"}}),
    ],
)
def test_ask__one_entry_from_cell_line_and_python(nb, options: str, python: dict):
    """The same request is bought once, whichever of the three asks it."""
    nb.run(f"{ASK} {options}\nWhat is a median?")
    nb.run(f"x = %openrouter -m openai/gpt-4o-mini {options} What is a median?")
    answer = orc.ask("What is a median?", model="openai/gpt-4o-mini", **python)

    assert nb.sim.completion_count == 1
    assert answer.cached
    assert nb["x"].cached
    assert answer.key == nb["x"].key == nb["_"].key
    assert len(orc.entries()) == 1


def test_ask__python_uses_the_loaded_cache_and_key(nb, monkeypatch):
    """With the extension loaded, `ask` and `stats` use its cache, its settings and its key."""
    nb.run("%openrouter_config cache_dir=shared model=openai/gpt-4o")
    monkeypatch.delenv("OPENROUTER_API_KEY")
    orc_loaded(nb).key = nb.sim.api_key
    orc.ask("hi")

    assert nb.sent[0]["model"] == "openai/gpt-4o"
    assert (nb.folder / "shared" / "cache.db").exists()
    assert orc.stats()["asks"].tolist() == [1]


def orc_loaded(nb):
    from or_cache_magic.notebook.extension import loaded

    extension = loaded()
    assert extension is not None
    return extension.session()


# -- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("openai/gpt-4o", "model", "openai/gpt-4o"),
        ("-m openai/gpt-4o", "model", "openai/gpt-4o"),
        ("", "model", "openai/gpt-4o-mini"),
        ("", "temperature", 0),
        ("-t 0.7", "temperature", 0.7),
        ("", "max_tokens", 4096),
        ("--max-tokens 9", "max_tokens", 9),
        ("--top-p 0.3", "top_p", 0.3),
        ("--seed 3", "seed", 3),
        ('-p reasoning=\'{"effort": "low"}\'', "reasoning", {"effort": "low"}),
        ("-p user='\"me\"'", "user", "me"),
    ],
)
def test_option__is_sent(nb, line: str, field: str, value):
    """An option of the request reaches OpenRouter under its name."""
    nb.run(f"%%openrouter {line}\nhi")

    assert nb.sent[0][field] == value


def test_line__a_prompt_that_begins_with_the_model_set_is_refused(nb):
    """The models that are known are those set and those asked before."""
    assert "write -m openai/gpt-4o-mini" in nb.fails("%openrouter gpt-4o-mini What is a mode?")
    nb.run("%openrouter --prompt-cache off -m openai/gpt-4o What is a mode?")
    assert "write -m openai/gpt-4o" in nb.fails("%openrouter GPT-4o What is a mode?")
    assert [body["messages"][0]["content"] for body in nb.sent] == ["What is a mode?"]


def test_cache__of_two_in_reach_names_them_from_the_notebook(nb):
    """A saved notebook doesn't tell where its author's home is."""
    nb.shell.starting_dir = str(nb.folder / "sub")
    for folder in (nb.folder, nb.folder / "sub"):
        (folder / ".or_cache").mkdir(parents=True)
    said = nb.run("%openrouter What is a mode?")

    places = [".or_cache", os.path.join("..", ".or_cache")]
    assert f"the completion cache is {places[0]}; in reach is {places[1]} too" in said
    assert str(nb.folder) not in said


def test_option__max_tokens_none_sends_no_limit(nb):
    """``--max-tokens none`` leaves the field out."""
    nb.run("%%openrouter --max-tokens none\nhi")

    assert "max_tokens" not in nb.sent[0]


def test_option__alias(nb):
    """An alias is a model's name in cells, in lines and from Python."""
    nb.run("%openrouter_config aliases=fast:openai/gpt-4o")
    nb.run("%%openrouter fast\nhi")
    nb.run("%openrouter -m fast hi")
    orc.ask("hi", model="fast")

    assert [body["model"] for body in nb.sent] == ["openai/gpt-4o"]


def test_option__system_text_file_and_variable(nb):
    """The system prompt is a text, a file beside the notebook, or a variable, and one entry for one text."""
    (nb.folder / "system.md").write_text("Be brief.")
    nb["terse"] = "Be brief."
    nb.run("%%openrouter -s 'Be brief.'\nhi")
    nb.run("%%openrouter -s @system.md\nhi")
    nb.run("%%openrouter --system terse\nhi")

    assert nb.sim.completion_count == 1
    assert nb.sent[0]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_option__refresh_replaces(nb):
    """``--refresh`` asks again; the new answer is served from then on."""
    says(nb, "old")
    nb.run(f"{ASK}\nhi")
    says(nb, "new")
    nb.run(f"{ASK} --refresh\nhi")
    out = nb.run(f"{ASK}\nhi")

    assert nb.sim.completion_count == 2
    assert out.startswith("new\n")


def test_option__no_cache_neither_reads_nor_writes(nb):
    """``--no-cache`` asks although it is stored, and leaves the stored answer alone."""
    says(nb, "kept")
    nb.run(f"{ASK}\nhi")
    says(nb, "passing")
    assert "passing" in nb.run(f"{ASK} --no-cache\nhi")
    assert "kept" in nb.run(f"{ASK}\nhi")
    assert nb.sim.completion_count == 2


def test_option__offline(nb):
    """``--offline`` serves what is stored, and fails on the rest, in two lines, without sending."""
    nb.run(f"{ASK}\nhi")
    nb.run(f"{ASK} --offline\nhi")
    out = nb.fails(f"{ASK} --offline\nsomething else")

    assert out.startswith("ReplayMiss: offline")
    assert len(out.splitlines()) == 2
    assert nb.sim.completion_count == 1


def test_option__ttl_never(nb):
    """What would be kept for a day, since a link may change, is kept for ever."""
    nb.run(f"{ASK} --ttl never -a https://example.com/a.png\nhi")
    (row,) = orc.entries().to_dict("records")
    assert not row["ttl_s"] > 0


def test_option__ttl_and_tags(nb):
    """``--ttl`` is the entry's lifetime, ``--tag`` labels it; neither makes another request of it."""
    nb.run(f"{ASK} --ttl 24h --tag reader --tag chapter-1\nhi")
    nb.run(f"{ASK}\nhi")
    (row,) = orc.entries().to_dict("records")

    assert row["ttl_s"] == pytest.approx(86400)
    assert set(row["tags"].split(", ")) == {"reader", "chapter-1"}
    assert nb.sim.completion_count == 1


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        (
            "%%openrouter -t 3",
            "--temperature 3.0: takes a number from 0 to 2",
            "%%openrouter --help says what it takes",
        ),
        ("%%openrouter --repair 1", "repair goes with a schema", "say what the answer is to be: --schema …"),
        ("%%openrouter -p stop=5", "-p stop=5: takes a text", "%%openrouter --help"),
        ("%%openrouter -p max_tokn=1", "there is no argument 'max_tokn'", "did you mean --max-tokens?"),
        ("%%openrouter -p max_tokns=1", "there is no argument 'max_tokns'", "did you mean --max-tokens?"),
        ("%%openrouter -p max_cost=1", "--param does not set max_cost", "write --max-cost"),
        ("%%openrouter -p extra_body='{}'", "extra_body is no argument of an ask", "write -p field=JSON"),
        ("%%openrouter -p cache=false", "cache is no argument", "write --no-cache to neither read nor write"),
        ("%%openrouter -p timeout=3", "timeout is no argument", "%openrouter_config timeout_s=60"),
        ("%%openrouter -m ,", ", names no model; nothing was sent", "write -m a,b, or no -m"),
        ("%%openrouter ,,", ",, names no model; nothing was sent", "write -m a,b, or no -m"),
    ],
)
def test_error__names_the_options_of_a_magic(nb, line, message, hint):
    """What Python's errors name by keyword a cell has by option: who reads it can type it."""
    out = nb.fails(f"{line}\nhi")
    assert message in out
    assert hint in out
    assert not re.search(r"max_cost_usd=|help\(|mode=|schema=|extra=", out)


def test_error__of_an_answer_that_does_not_fit_names_options(nb):
    """Once, not in both spellings."""
    nb.sim.script(Scenario("plain", text="no"))
    out = nb.fails(f"{ASK} --schema 'a int'\nhi")
    assert "--repair 1 asks again and says what is wrong" in out


def test_option__dry_run_sends_nothing(nb):
    """``--dry-run`` says whether it would hit, and neither sends nor binds."""
    miss = nb.run(f"{ASK} --dry-run -o x\nhi")
    nb.run(f"{ASK}\nhi")
    hit = nb.run(f"{ASK} --dry-run\nhi")

    assert miss.startswith("would ask openai/gpt-4o-mini")
    assert miss.rstrip().endswith("nothing sent, x not bound")
    assert hit.startswith("would hit openai/gpt-4o-mini")
    assert "bought for $" in hit
    assert "x" not in nb.shell.user_ns
    assert nb.sim.completion_count == 1


def test_option__no_stream_is_the_same_entry(nb):
    """``--no-stream`` waits for the whole answer; the request is the same."""
    out = nb.run(f"{ASK} --no-stream\nhi")
    nb.run(f"{ASK}\nhi")

    assert nb.sent[0].get("stream") in (None, False)
    assert out.count(str(nb["_"]).splitlines()[0]) == 1
    assert nb.sim.completion_count == 1


def test_option__quiet_shows_the_answer_alone(nb):
    """``-q`` leaves the receipt out."""
    says(nb, "only this")

    assert nb.run(f"{ASK} -q\nhi") == "only this\n"
    assert nb.run(f"{ASK} -q\nhi") == "only this\n"


def test_option__out_binds_the_completion(nb):
    """``-o`` binds the answer, bought or cached: a text that knows its price."""
    says(nb, "42")
    for cached in (False, True):
        nb.run(f"{ASK} -o ans\nhi")
        ans = nb["ans"]
        assert isinstance(ans, Completion)
        assert ans == "42"
        assert f"{ans}!" == "42!"
        assert ans.cached is cached
        assert ans.cost_usd > 0
        assert nb["_"] is ans


@pytest.mark.parametrize(
    ("form", "answer", "shown", "data"),
    [
        ("json", '```json\n{"a": [1, 2]}\n```', '{\n  "a": [\n    1,\n    2\n  ]\n}\n', {"a": [1, 2]}),
        ("text", "**hi**", "**hi**\n", None),
        ("markdown", "**hi**", "**hi**\n", None),
        ("code", "Try this:\n```python\nx = 1\n```\nDone.", "x = 1\n", None),
        ("none", "hi", "", None),
    ],
)
def test_option__format(nb, form: str, answer: str, shown: str, data):
    """``-f`` decides how it is shown, streamed or cached alike; the value keeps the whole text."""
    says(nb, answer)
    for _ in range(2):
        assert nb.run(f"{ASK} -q -f {form} -o x\nhi") == shown
        assert nb["x"] == answer
        assert nb["x"].data == data


def test_option__format_df(nb):
    """``-f df`` gives a table to go on with."""
    says(nb, "| name | year |\n|---|---|\n| Ada | 1843 |\n")
    out = nb.run(f"{ASK} -f df -o x\nhi")

    assert nb["x"].data.to_dict("records") == [{"name": "Ada", "year": 1843}]
    assert "Ada" in out


@pytest.mark.parametrize("form", ["json", "df"])
def test_option__format_that_the_answer_is_not(nb, form: str):
    """An answer in another form is shown, bound and kept, and the cell fails in two lines."""
    says(nb, "I'd rather not.")
    out = nb.fails(f"{ASK} -q -f {form} -o x\nhi")
    shown, error, hint = out.splitlines()

    assert shown == "I'd rather not."
    assert error.startswith("FormatError: ")
    assert hint.startswith("  ")
    assert nb["x"] == nb["_"] == "I'd rather not."
    nb.run(f"{ASK}\nhi")
    assert nb.sim.completion_count == 1


@pytest.mark.parametrize(("options", "also"), [("", ""), ("--max-tokens 5", "--max-tokens")])
def test_option__format_that_fails_says_how_to_go_on(nb, options: str, also: str):
    """The stored answer fails again: the hint names --refresh, and for one that was cut --max-tokens."""
    if options:
        nb.sim.script(Scenario(text='{"a": [1, 2, 3, 4, 5, 6, 7, 8, 9]}'))
    else:
        says(nb, "no")
    hint = nb.fails(f"{ASK} -q -f df {options}\nhi").splitlines()[-1]

    assert "--refresh" in hint
    assert ("--max-tokens" in hint) == bool(also)


@pytest.mark.parametrize(
    "answer", ['```json\n{"a": 1}\n```', 'Here:\n```\n{"a": 1}\n```\nDone.', '\n {"a": 1}']
)
def test_option__format_json_is_kept_as_it_is_read(nb, answer: str):
    """JSON in a fence is shown, bound and stored, and served on the next run, also where JSON was asked for."""
    for options in ("-f json", """-f json -p 'response_format={"type":"json_object"}'"""):
        says(nb, answer)
        outs = [nb.run(f"{ASK} -q {options} -o x\nhi") for _ in range(2)]

        assert outs == ['{\n  "a": 1\n}\n'] * 2
        assert nb["x"].data == {"a": 1}
        assert nb["x"].cached
    assert nb.sim.completion_count == 2


def test_result__of_tool_calls_alone(nb):
    """An answer that only calls tools is shown, bought and cached alike, and as a value."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    ask = f"{ASK} -q -p 'tools={json.dumps([tool])}' -p 'tool_choice=\"required\"' -o x\nWeather in Paris?"
    bought, cached = nb.run(ask), nb.run(ask)

    assert bought == cached
    assert bought.startswith("weather(")
    assert nb.run("x").rpartition(": ")[2] == bought
    assert nb["x"] == ""
    assert nb.sim.completion_count == 1


def test_option__raw_sends_braces(nb):
    """``--raw`` fills nothing in."""
    nb.run("%%openrouter --raw\n{{ ref('model') }}")

    assert nb.asked == "{{ ref('model') }}"


# -- receipts -----------------------------------------------------------------------------------


def test_receipt__live_tells_what_happened(nb):
    """A live receipt names the price when it is paid, and the saving when it is not."""
    bought = nb.run(f"{ASK}\nhi").splitlines()[-1]
    cached = nb.run(f"{ASK}\nhi").splitlines()[-1]

    assert bought.startswith("openai/gpt-4o-mini · $0.0")
    assert cached.startswith("openai/gpt-4o-mini · cached just now · saved $0.0")


def test_receipt__stable_is_the_same_on_every_run(nb):
    """With ``receipt=stable`` a rerun says what the first run said, to the letter."""
    nb.run("%openrouter_config receipt=stable")

    assert nb.run(f"{ASK}\nhi") == nb.run(f"{ASK}\nhi")


def test_receipt__off(nb):
    """With ``receipt=off`` there is the answer and nothing more."""
    nb.run("%openrouter_config receipt=off")
    says(nb, "just this")

    assert nb.run(f"{ASK}\nhi") == "just this\n"


def test_receipt__says_why_it_was_not_stored(nb):
    """Above temperature 0 nothing is kept, and the receipt says so and how to keep it."""
    out = nb.run(f"{ASK} -t 0.9\nhi")

    assert "not stored: temperature 0.9 (--sample 0 keeps it)" in out
    nb.run(f"{ASK} -t 0.9 --sample 0\nhi")
    assert "cached just now" in nb.run(f"{ASK} -t 0.9 --sample 0\nhi")


# -- the argument line ----------------------------------------------------------------------------


def test_line__quotes_dollars_and_braces_stay(nb):
    """IPython does not rewrite the line first: ``$5`` and ``{x}`` are text, and quotes only hold together."""
    nb["x"] = "EXPANDED"
    nb.run("""%%openrouter -s "costs $5, {x}, it's $x"\nhi""")
    nb.run("%openrouter Is {x} more than $5 or $x?")

    assert nb.sent[0]["messages"][0]["content"] == "costs $5, {x}, it's $x"
    assert nb.asked == "Is {x} more than $5 or $x?"


@pytest.mark.parametrize("cell", [f"{ASK} -q\nDon't do it;", "%openrouter -q Don't do it;"])
def test_line__a_semicolon_does_not_silence(nb, cell: str):
    """Prose may end in a semicolon: the answer is shown, and is `_`."""
    says(nb, "shown")

    assert nb.run(cell) == "shown\n"
    assert nb.asked == "Don't do it;"
    assert nb["_"] == "shown"


@pytest.mark.parametrize("above", ["# a note\n", "\n# a note\n# another\n\n", "# %%\n"])
def test_line__comments_above_the_cell(nb, above: str):
    """Comments and empty lines above ``%%openrouter`` are allowed, and are not sent."""
    nb.run(f"{above}{ASK}\nhi # this is\n# sent\n")

    assert nb.asked == "hi # this is\n# sent"


def test_line__comment_behind_the_options(nb):
    """A lone ``#`` begins a comment."""
    nb.run(f"{ASK} # the cheap one\nhi")

    assert nb.sent[0]["model"] == "openai/gpt-4o-mini"


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        (f"{ASK}", "incomplete"),
        (f"{ASK}\nWhat is", "incomplete"),
        (f"# a note\n{ASK}\nWhat is", "incomplete"),
        (f"{ASK}\nWhat is a median?\n\n", "complete"),
        ("%openrouter What is a median?", "complete"),
    ],
)
def test_line__a_terminal_waits_for_the_prompt(nb, typed: str, status: str):
    """A cell is complete with the empty line below its prompt, as every cell magic is."""
    assert nb.shell.check_complete(typed)[0] == status


def test_line__other_cells_keep_their_comments(nb):
    """A cell that is not ours reads as it did."""
    nb.run("# a note\nx = 1\n")

    assert nb["x"] == 1
    assert "not found" in nb.fails("# a note\n%%time\nx = 2")


@pytest.mark.parametrize(
    "cell", ["%%openrouter --help", "%%openrouter -h\nhi", "%%openrouter", "%%openrouter\n\n"]
)
def test_line__help_without_a_body(nb, cell: str):
    """``--help`` helps with an empty body too, and so does a cell with nothing in it."""
    out = nb.run(cell)

    assert out.startswith("%%openrouter [MODEL ...] [@FILE] [options]")
    assert nb.sim.completion_count == 0


# -- interpolation --------------------------------------------------------------------------------


def test_prompt__variables_are_filled_in_once(nb):
    """A value is text: what looks like a variable in it is not looked up."""
    nb["secret"] = "sk-or-SECRET"
    nb["mail"] = "Dear {{ secret }}, {secret}"
    nb.run("%%openrouter\nSpam? {{ mail }}")

    assert nb.asked == "Spam? Dear {{ secret }}, {secret}"


def test_prompt__single_braces_are_text(nb):
    """JSON, LaTeX and code pass as they are, though their names are defined."""
    nb["x"] = nb["X"] = 1
    body = 'Keep {"x": 1}, \\frac{x}{y}, \\mathbf{X}, f"{x}" and {x!r}.'
    nb.run(f"%%openrouter\n{body}")

    assert nb.asked == body


def test_prompt__locals_of_a_function_in_a_line(nb):
    """A line magic inside a function sees that function's variables before the notebook's."""
    nb.run(
        "word = 'global'\ndef ask(word):\n    answer = %openrouter Define {{ word }}\n    return answer\nx = ask('local')"
    )

    assert nb.asked == "Define local"
    assert isinstance(nb["x"], Completion)


def test_prompt__is_sent_as_written(nb):
    """Nothing is added, and nothing of the body is lost but empty lines at its end."""
    body = "  indented\n\n\tüñí “quotes”\n  trailing  "
    for end in ("", "\n", "\n\n\n"):
        nb.run(f"%%openrouter\n{body}{end}")

    assert nb.asked == body
    assert nb.sim.completion_count == 1


PROMPTS = ">>>>>>> theirs\n>>> a\n... b\n  >>> c\n   ...: d\nIn [3]: e\n[nav] In [4]: f\n   \n>>> g"


@pytest.mark.parametrize("head", ["", "# above\n", "%%time\n", "%%capture\n", "%%time\n%%capture\n", "\n\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_prompt__is_sent_with_what_looks_like_prompts(nb, head: str, end: str):
    """Lines that IPython takes for prompts stay as they are, below other magics too; CRLF is the same request."""
    nb.run(f"{head}%%openrouter\n{PROMPTS}".replace("\n", end))

    assert nb.asked == PROMPTS
    nb.run(f"%%openrouter\n{PROMPTS}")
    assert nb.sim.completion_count == 1


def test_prompt__of_an_indented_cell(nb):
    """A cell that is indented as a whole is taken back to the margin, as IPython does."""
    nb.run("  %%openrouter\n  a\n    b")

    assert nb.asked == "a\n  b"


# -- values ---------------------------------------------------------------------------------------


def test_result__is_underscore_and_out(nb):
    """The answer is `_` and ``Out[n]``, and shown once."""
    says(nb, "the answer")
    count = nb.shell.execution_count
    out = nb.run(f"{ASK} -q\nhi")

    assert out == "the answer\n"
    assert nb["_"] is nb["Out"][count] is nb[f"_{count}"]
    assert isinstance(nb["_"], Completion)
    nb.run("y = _")
    assert nb["y"] == "the answer"


@pytest.mark.parametrize("sent", [1, 2])
def test_result__assigned_shows_the_receipt_alone(nb, sent: int):
    """``x = %openrouter …`` is a value: only its receipt is shown, bought or cached."""
    says(nb, "the answer")
    for _ in range(sent):
        out = nb.run("x = %openrouter What?")

    assert nb["x"] == "the answer"
    assert "the answer" not in out
    assert out.startswith("openai/gpt-4o-mini · ")
    assert len(out.splitlines()) == 1


def test_result__assigned_and_quiet_shows_nothing(nb):
    """With ``-q`` an assignment is silent."""
    assert nb.run("x = %openrouter -q What?") == ""


def test_result__shown_again_on_request(nb):
    """A completion on a line of its own is displayed as its text."""
    says(nb, "line one\nline two")
    nb.run(f"{ASK} -o ans\nhi")

    assert nb.run("ans").endswith("line one\nline two\n")
    assert nb.run("display(ans)") == "line one\nline two\n"
    assert nb.run("[ans]").endswith("['line one\\nline two']\n")


def test_result__shown_and_named_in_one_cell(nb):
    """Asked and shown again below, it is on the screen twice: it was asked for twice."""
    says(nb, "the answer")
    out = nb.run("%openrouter -q -o ans hi\nans")

    assert out.count("the answer") == 2


def test_result__control_characters_do_not_steer_the_terminal(nb):
    """Escape sequences in an answer are shown, not obeyed, streamed, cached or displayed again."""
    says(nb, "\x1b[2Jgone\x07")
    outs = [nb.run(f"{ASK} -o ans\nhi"), nb.run(f"{ASK} -o ans\nhi"), nb.run("ans")]

    assert all("gone" in out and "\x1b" not in out and "\x07" not in out for out in outs)
    assert nb["ans"] == "\x1b[2Jgone\x07"


def test_result__in_a_loop(nb):
    """Each turn shows its answer; the last one is `_`."""
    nb.sim.script(Scenario(text="one"))
    nb.sim.script(Scenario(text="two"))
    out = nb.run("for word in ['a', 'b']:\n    %openrouter -q Define {{ word }}")

    assert out == "one\ntwo\n"
    assert nb["_"] == "two"
    assert [body["messages"][0]["content"] for body in nb.sent] == ["Define a", "Define b"]


def test_result__collected_in_a_loop(nb):
    """Assigned in a loop it is a value each time."""
    nb.run(
        "answers = []\nfor word in ['a', 'b']:\n    x = %openrouter Define {{ word }}\n    answers.append(x)"
    )

    assert len(nb["answers"]) == 2
    assert all(isinstance(one, Completion) for one in nb["answers"])


def test_result__by_name_from_python(nb):
    """Calling the magic by its name works in loops: as a statement it shows, as a value it gives."""
    says(nb, "the answer")
    shown = nb.run("get_ipython().run_cell_magic('openrouter', '-q', 'hi')")
    kept = nb.run("x = get_ipython().run_cell_magic('openrouter', '-q', 'hi')")

    assert shown == "the answer\n"
    assert kept == ""
    assert nb["x"] == "the answer"


@pytest.mark.parametrize("head", ["%%time", "%%capture captured"])
def test_result__around_a_cell(nb, head: str):
    """``%%time`` and ``%%capture`` go around it, and the answer is shown once."""
    says(nb, "the answer")
    out = nb.run(f"{head}\n{ASK}\nhi")
    if "capture" in head:
        out += nb["captured"].stdout

    assert out.count("the answer") == 1
    assert out.index("the answer") < out.index("openai/gpt-4o-mini · ")
    assert nb["_"] == "the answer"


@pytest.mark.parametrize(
    "cell", ["%%time\nx = %openrouter hi", "%time x = %openrouter hi", "%%time\nx = %openrouter hi\ny = 1"]
)
def test_result__assigned_under_time(nb, cell: str):
    """What is assigned below ``%%time`` is a value as it is without."""
    says(nb, "the answer")
    out = nb.run(cell)

    assert nb["x"] == "the answer"
    assert "the answer" not in out


def test_result__line_under_time(nb):
    """A bare line below ``%%time`` shows its answer once."""
    says(nb, "the answer")

    assert nb.run("%%time\n%openrouter -q hi").count("the answer") == 1
    assert nb["_"] == "the answer"


@pytest.mark.parametrize("line", ["", "-m openai/gpt-4o "])
def test_question__ends_in_a_question_mark(nb, line: str):
    """One-line prompts may end in a question mark, bare or assigned."""
    nb.run(f"%openrouter {line}What is the capital of France?")
    nb.run(f"x = %openrouter {line}What is the capital of France?")

    assert nb.asked == "What is the capital of France?"
    assert nb.sim.completion_count == 1
    assert isinstance(nb["x"], Completion)


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says_so"),
    [
        ("unauthorized", "401"),
        ("insufficient_credits", "402"),
        ("bad_gateway", "502"),
    ],
)
def test_failure__two_lines_and_a_failed_cell(nb, name: str, says_so: str):
    """What OpenRouter refuses fails the cell, in two lines, and nothing is kept."""
    nb.sim.script(scenario(name), times=20)
    out = nb.fails(f"{ASK} -o x\nhi")

    assert out.startswith("UpstreamError: ")
    assert says_so in out
    assert len(out.splitlines()) == 2
    assert "x" not in nb.shell.user_ns
    assert len(orc.entries()) == 0


def test_failure__broken_stream_keeps_what_came(nb):
    """What had arrived stays on the screen, is set aside with its cost, and is never served."""
    nb.sim.script(scenario("cut"))
    out = nb.fails(f"{ASK}\nTell me about medians")

    assert "StreamBrokenError: " in out
    assert out.split("StreamBrokenError")[0].strip()
    assert len(orc.entries()) == 0
    nb.run(f"{ASK}\nTell me about medians")
    assert nb.sim.completion_count == 2


def test_failure__no_key(nb, monkeypatch):
    """Without a key nothing is sent; what is cached is served all the same."""
    nb.run(f"{ASK}\nhi")
    monkeypatch.delenv("OPENROUTER_API_KEY")
    nb.run(f"{ASK}\nhi")
    out = nb.fails(f"{ASK}\nnew")

    assert out.startswith("MissingKeyError: ")
    assert len(out.splitlines()) == 2
    assert nb.sim.completion_count == 1


def test_failure__expired_answer_instead_when_allowed(nb):
    """With ``stale_if_error`` an expired answer is served when the call fails, once and whole."""
    says(nb, "old but whole")
    nb.run(f"{ASK} --ttl 0.001s\nhi")
    nb.run("%openrouter_config stale_if_error=true")
    nb.sim.script(scenario("unauthorized"))
    out = nb.run(f"{ASK}\nhi")

    assert out.count("old but whole") == 1
    assert "the call failed: 401" in out


def test_interrupt__a_keyboard_interrupt_is_not_swallowed(nb):
    """An interrupt leaves the cell as an interrupt; nothing is stored."""

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    cache = orc_loaded(nb).cache()
    with pytest.raises(KeyboardInterrupt):
        cache.ask("hi", on_text=interrupt)

    assert len(orc.entries()) == 0


# -- bad input: two clean lines, and nothing is sent ------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "error", "says_so"),
    [
        (f"{ASK} --modl x\nhi", "OptionError", "did you mean --model?"),
        (f"{ASK} --xyz\nhi", "OptionError", "--help lists the options"),
        ("%openrouter --modl x hi", "OptionError", "did you mean --model?"),
        (f"""{ASK} -p reasoning='{{"effort": "lwo"}}'\nhi""", "RequestError", "\n  did you mean low?"),
        (f"{ASK} notes/prompt.md\nhi", "OptionError", "write @notes/prompt.md"),
        (f"{ASK} -m prompt.md\nhi", "OptionError", "write @prompt.md"),
        (f"{ASK} Summarise\nhi", "OptionError", "Summarise is neither the id of a model nor an alias"),
        (f"{ASK}\n{{{{ nowhere }}}}", "TemplateError", "nowhere"),
        ("%openrouter {{ nowhere }}", "TemplateError", "nowhere"),
        (f"{ASK}\n{{{{ os.system('x') }}}}", "TemplateError", "only names"),
        (f"{ASK}\n", "RequestError", "the prompt is empty"),
        (f"{ASK}\n  \n\n", "RequestError", "the prompt is empty"),
        ("%openrouter -m openai/gpt-4o", "RequestError", "the prompt is empty"),
        (f"{ASK}\n{{{{ empty }}}}", "RequestError", "the prompt is empty"),
        (f"{ASK} -t warm\nhi", "OptionError", "'warm' is not a number"),
        (f"{ASK} -t nan\nhi", "OptionError", "'nan' is not a number"),
        (f"{ASK} --top-p inf\nhi", "OptionError", "'inf' is not a number"),
        (f"{ASK} --max-tokens 1.5\nhi", "OptionError", "not a whole number"),
        (f"{ASK} --max-tokens -5\nhi", "OptionError", "--max-tokens"),
        (f"{ASK} --sample -1\nhi", "OptionError", "--sample"),
        (f"{ASK} --ttl soon\nhi", "OptionError", "'soon' is not a length of time"),
        (f"{ASK} --ttl 0s\nhi", "OptionError", "not a length of time"),
        (f"{ASK} -p top_k=NaN\nhi", "OptionError", "is not JSON"),
        (f"{ASK} -p top_k\nhi", "OptionError", "KEY="),
        (f"{ASK} -p messages=[]\nhi", "OptionError", "does not set messages"),
        (f"{ASK} -p top_k=1 -p top_k=2\nhi", "OptionError", "given twice"),
        (f"{ASK} -s @nowhere.md\nhi", "OptionError", "@nowhere.md can't be read"),
        (f"{ASK} -s @.\nhi", "OptionError", "@. can't be read"),
        (f"{ASK} -s number\nhi", "OptionError", "the variable number is a int"),
        (f"{ASK} -o class\nhi", "OptionError", "not a name"),
        (f"{ASK} -o\nhi", "OptionError", "-o needs a value"),
        (f"{ASK} -f jsn\nhi", "OptionError", "did you mean json?"),
        (f"{ASK} --refresh --offline\nhi", "OptionError", "exclude each other"),
        (f"{ASK}\nlone \\ud800".encode().decode("unicode_escape"), "RequestError", ""),
        ("%openrouter_stats --by moon", "OptionError", "it takes model, day"),
        ("%openrouter_stats extra", "OptionError", "takes no 'extra'"),
        ("%openrouter_entries --since soon", "OptionError", "not a length of time"),
        ("%openrouter_entries 0123456789", "OptionError", "no entry begins with"),
        ("%openrouter_last", "OptionError", "nothing was asked"),
    ],
)
def test_bad_input__two_clean_lines(nb, cell: str, error: str, says_so: str):
    """A mistake is told in two lines, what happened and what to do; nothing is sent, stored or bound."""
    nb["number"], nb["empty"] = 5, "  "
    out = nb.fails(cell)

    assert out.startswith(f"{error}: ")
    assert says_so in out
    assert len(out.splitlines()) == 2, out
    assert out.splitlines()[1].startswith("  ")
    assert nb.sim.requests == ()
    assert not (nb.folder / ".or_cache").exists()


def test_bad_input__no_model(nb, monkeypatch):
    """Without a model the error says how to name one."""
    monkeypatch.delenv("OPENROUTER_MODEL")
    out = nb.fails("%openrouter hi")

    assert out.startswith("OptionError: no model was named")
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    "text",
    [
        "[tool.or_cache_magic]\nbase_url = 'http://evil'\n",
        "[tool.or_cache_magic]\nmodle = 'x'\n",
        "[tool.or_cache_magic\n",
    ],
)
def test_bad_input__project_file(nb, text: str):
    """A project's file with a mistake, or that would take the key elsewhere, is refused in two lines."""
    (nb.folder / "pyproject.toml").write_text(text)
    out = nb.fails("%openrouter hi")

    assert out.startswith("SettingError: ")
    assert len(out.splitlines()) == 2
    assert nb.sim.requests == ()


def test_settings__project_below_environment_below_config(nb, monkeypatch):
    """The nearer setting wins: project, environment, configuration, the cell's option."""
    monkeypatch.delenv("OPENROUTER_MODEL")
    (nb.folder / "pyproject.toml").write_text('[tool.or_cache_magic]\nmodel = "openai/gpt-4o"\n')
    nb.run("%openrouter -q 1")
    monkeypatch.setenv("OPENROUTER_MODEL", "openai/gpt-5-mini")
    nb.run("%openrouter -q 2")
    nb.run("%openrouter_config model=google/gemini-2.5-flash")
    nb.run("%openrouter -q 3")
    nb.run("%openrouter -q -m google/gemini-2.5-pro 4")

    assert [body["model"] for body in nb.sent] == [
        "openai/gpt-4o",
        "openai/gpt-5-mini",
        "google/gemini-2.5-flash",
        "google/gemini-2.5-pro",
    ]


def test_json_of_a_completion(nb):
    """A completion is a text to json, pandas and string methods."""
    says(nb, "plain")
    nb.run(f"{ASK} -o x\nhi")

    assert json.dumps(nb["x"]) == '"plain"'
    assert nb["x"].upper() == "PLAIN"


# -- conversations --------------------------------------------------------------------------------


def test_reply__goes_on_from_a_variable_and_from_the_last_answer(nb):
    """By cell, by line and from Python it is one entry; model and system prompt are the conversation's."""
    nb.run("%%openrouter openai/gpt-4o -s 'Be terse.' -o first\nA colour?")
    nb.run("%%openrouter -r first -o second\nIts opposite?")
    nb.run("%openrouter -r _ Its opposite?")
    nb.run("%openrouter_stats")
    nb.run("x = %openrouter -r first Its opposite?")

    assert [message["role"] for message in nb.sent[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert nb.sent[1]["model"] == "openai/gpt-4o"
    assert len(nb.sent[2]["messages"]) == 6
    assert len(nb.sent) == 3
    assert nb["second"].cached is False
    assert nb["x"].cached
    assert orc.ask("Its opposite?", reply_to=nb["first"]).key == nb["second"].key


def test_reply__to_the_last_is_to_an_answer_whatever_was_shown_since(nb):
    """`_` holds a table by then: the last answer is meant."""
    nb.run("%openrouter A colour?")
    nb.run("1 + 1")
    nb.run("%openrouter -r _ Its opposite?")
    assert [m["content"] for m in nb.sent[1]["messages"] if m["role"] == "user"] == [
        "A colour?",
        "Its opposite?",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("frist", ("frist is not defined; nothing was sent", "did you mean first?")),
        ("other", ("other is not defined; nothing was sent", "run the cell above it first")),
        ("text", ("the variable text is a str, not an answer; nothing was sent",)),
        ("_", ("nothing was asked in this session yet; nothing was sent",)),
        ("a.b", ("-r: 'a.b' is not a name", "it takes the name of an answer, or _")),
    ],
)
def test_reply__refuses_what_names_no_answer(nb, name: str, said: tuple[str, ...]):
    """In two lines that say what the name is."""
    nb["text"] = "Red."
    if name == "frist":
        nb["first"] = orc.ask("A colour?")
    sent = len(nb.sent)
    shown = nb.fails(f"%%openrouter -r {name}\nIts opposite?")
    assert all(part in shown for part in said)
    assert len(nb.sent) == sent
