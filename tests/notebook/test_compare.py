"""Several models and several samples in one cell: what is asked, shown, bound, and what fails."""

from __future__ import annotations

import re
import signal
import threading

import pytest

import or_cache_magic as orc
from or_cache_magic.cache.completion import Completion
from or_cache_magic.notebook.compare import _sum
from or_cache_magic.notebook.extension import loaded
from or_cache_magic.simulator import Scenario, scenario
from or_cache_magic.tables.compare import Member

MODELS = ["openai/gpt-4o-mini", "openai/gpt-4o", "anthropic/claude-haiku-4.5"]
CELL = f"%%openrouter {' '.join(MODELS)}"


def of(model: str):
    return lambda body: body["model"] == model


def restart(nb, monkeypatch) -> None:
    """As a new kernel without a key."""
    monkeypatch.delenv("OPENROUTER_API_KEY")
    orc.load_ipython_extension(nb.shell)


def test_compare__bought_and_then_replayed_without_a_key(nb, monkeypatch):
    """Three models, two samples of each: six requests, then none, without a key: the same table and display."""
    cell = f"{CELL} -n 2 -t 1 -o answers\nName a colour."
    nb.run("%openrouter_config receipt=stable")
    shown = nb.run(cell)
    bought, table = nb["answers"], nb.run("answers")
    in_notebook = bought._repr_mimebundle_()
    sent = nb.sim.completion_count
    restart(nb, monkeypatch)
    nb.run("%openrouter_config receipt=stable")

    assert nb.run(cell) == shown
    assert nb["_"] is nb["answers"]
    assert nb.run("answers").partition(":")[2] == table.partition(":")[2] != ""
    assert nb["answers"]._repr_mimebundle_() == in_notebook
    assert "cached" not in in_notebook["text/html"]
    assert nb.sim.completion_count == sent == 6
    assert list(bought["model"]) == [model for model in MODELS for _ in range(2)]
    assert list(bought["sample"]) == [0, 1] * 3
    assert not bought["cached"].any()
    assert nb["answers"]["cached"].all()
    columns = [name for name in bought.columns if name != "cached"]
    assert nb["answers"][columns].equals(bought[columns])
    assert all(isinstance(answer, Completion) for answer in bought["answer"])
    assert [answer.key for answer in bought["answer"]] == [answer.key for answer in nb["answers"]["answer"]]


def test_compare__each_is_the_entry_of_its_own_ask(nb):
    """What a cell of several has bought, one of one model finds, and `--sample K`, and Python."""
    nb.run(f"{CELL} -n 2\nhi")
    nb.run("%%openrouter openai/gpt-4o\nhi")
    nb.run("%%openrouter openai/gpt-4o --sample 1\nhi")
    assert orc.ask("hi", model=MODELS[2], sample=1).cached
    assert nb.sim.completion_count == 6


@pytest.mark.parametrize(
    "line",
    [
        "openai/gpt-4o-mini openai/gpt-4o",
        "-m openai/gpt-4o-mini,openai/gpt-4o",
        "openai/gpt-4o-mini, openai/gpt-4o",
        "openai/gpt-4o -m openai/gpt-4o-mini",
        "mini openai/gpt-4o",
    ],
)
def test_compare__models_are_words_or_a_list(nb, line):
    """Words, commas and `-m` name models alike; so do aliases."""
    nb.run("%openrouter_config aliases=mini:openai/gpt-4o-mini")
    nb.run(f"%%openrouter {line}\nhi")
    assert sorted(body["model"] for body in nb.sent) == ["openai/gpt-4o", "openai/gpt-4o-mini"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("openai/gpt-4o openai/gpt-4o", "openai/gpt-4o is named twice"),
        ("openai/gpt-4o Summarise this", "Summarise is neither the id of a model nor an alias"),
        ("-n 0", "0 is below 1"),
        ("-n 129", "129 samples are more than 128"),
        ("-n 2 --sample 1", "-n"),
        ("-n 2 -t hot", "is not a number"),
    ],
)
def test_compare__refuses_before_anything_is_sent(nb, line, said):
    """Two models that are one, a prompt on the line, and both kinds of samples."""
    assert said in nb.fails(f"%%openrouter {line}\nhi")
    assert not nb.sent


def test_compare__one_fails_and_leaves_the_others(nb):
    """The others are kept, shown and bound; then one error names it, and running again asks it alone."""
    nb.sim.script(scenario("bad_gateway"), times=3, match=of(MODELS[1]))
    said = nb.fails(f"{CELL} -o answers\nhi")
    assert f"SomeFailedError: 1 of 3 answers failed: {MODELS[1]}: " in said
    answers = nb["answers"]
    assert [answer is None for answer in answers["answer"]] == [False, True, False]
    assert "502" in answers["error"][1]
    assert answers["error"][0] is None
    assert nb.shell.user_ns["_"] is answers
    sent = nb.sim.completion_count
    nb.run(f"{CELL} -o answers\nhi")
    assert nb.sim.completion_count == sent + 1
    assert list(nb["answers"]["cached"]) == [True, False, True]


def test_compare__all_fail_alike(nb, monkeypatch):
    """Without a key it is the error that one ask has."""
    restart(nb, monkeypatch)
    assert "MissingKeyError" in nb.fails(f"{CELL}\nhi")


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        (f"%%openrouter {MODELS[0]} {MODELS[1]} --offline", "ReplayMiss", "offline"),
        (f"%%openrouter {MODELS[0]} {MODELS[1]} --max-cost 0.000000001", "BudgetError", "--max-cost"),
        ("%%openrouter openai/gpt-4o-mino openai/gpt-4p", "RequestError", "did you mean openai/gpt-4o"),
    ],
)
def test_compare__all_fail_with_one_type(nb, line, error, hint):
    """It is that type's error with its own hint, and names them; nothing says that others are shown."""
    *_, message, said = nb.fails(f"{line}\nhi").splitlines()
    assert message.startswith(f"{error}: 2 of 2 answers failed: openai/gpt-4")
    assert hint in message + said
    assert "others" not in said


def test_compare__all_fail_in_several_ways(nb):
    """One error for all, which does not speak of others that are shown."""
    nb.sim.script(Scenario(text="no"), times=1, match=of(MODELS[1]))
    *_, message, hint = nb.fails(f"%%openrouter {MODELS[1]} openai/gpt-4o-mino -f json\nhi").splitlines()
    assert message.startswith("SomeFailedError: 2 of 2 answers failed")
    assert hint.startswith("  the column error of the table says why")
    assert "did you mean openai/gpt-4o-mini?" in hint


def test_compare__says_what_an_unknown_model_was_meant_to_be(nb):
    """Below its name and in the error, where the others came."""
    *shown, _, hint = nb.fails(f"{CELL} openai/gpt-4o-mino\nhi").splitlines()
    meant = "did you mean openai/gpt-4o-mini?"
    assert any(line.startswith("failed: ") and meant in line for line in shown)
    assert hint == f"  the others are shown and bound; {meant}"


def test_compare__the_sum_tells_what_was_waited_for_apart(nb):
    """What another asker bought meanwhile is no answer of the cache; offline nothing is said to be saved."""
    answers = orc.ask("hi", model=MODELS[0]), orc.ask("hi", model=MODELS[1])
    assert "2 cached, saved $" in nb.run(f"%%openrouter {MODELS[0]} {MODELS[1]}\nhi")
    offline = nb.run(f"%%openrouter {MODELS[0]} {MODELS[1]} --offline\nhi").splitlines()[-1]
    assert offline == "2 answers · 2 cached"
    members = [Member(loaded().session().cache().prepare("hi", {}, model=m), m) for m in MODELS[:2]]
    for member, answer, kind in zip(members, answers, ("coalesced", "hit"), strict=True):
        member.completion = Completion(answer.outcome._replace(kind=kind), answer.request, ask=orc.ask)
    assert re.fullmatch(r"2 answers · 1 cached, saved \$\S+ · 1 waited for", _sum(members, stable=False))


def test_compare__a_budget_holds_over_all(nb):
    """`--max-cost` is the cell's, not each ask's: those that may go over it aren't sent."""
    said = nb.run("%%openrouter openai/gpt-4o-mini --max-tokens 100 --dry-run\nhi")
    assert "would ask" in said
    low = float(loaded().session().cache().money.estimate(*_asked(nb)).high_usd)
    said = nb.fails(f"%%openrouter -n 5 --max-tokens 100 --max-cost {low * 2.5:.9f} -o answers\nhi")
    assert "SomeFailedError" in said
    assert 1 <= nb.sim.completion_count < 5
    assert nb["answers"]["error"].str.contains("over the").sum() == 5 - nb.sim.completion_count
    assert nb["answers"]["cost_usd"].sum() <= low * 2.5


def _asked(nb):
    ask = loaded().session().cache().prepare("hi", {"max_tokens": 100}, model="openai/gpt-4o-mini", sample=0)
    return ask.request, ask.settings


def test_compare__dry_run_has_a_line_each_and_a_sum(nb):
    """Nothing is sent; what would be asked is added up."""
    nb.run("%%openrouter openai/gpt-4o-mini\nhi")
    lines = nb.run(f"{CELL} --dry-run\nhi").splitlines()
    assert [line.split(" · ")[0] for line in lines[:3]] == [
        f"would hit {MODELS[0]}",
        f"would ask {MODELS[1]}",
        f"would ask {MODELS[2]}",
    ]
    assert lines[3].startswith("would ask 2 of 3 · at most $")
    assert nb.sim.completion_count == 1


def test_compare__refresh_is_for_all(nb):
    """Every answer is asked again."""
    nb.run(f"{CELL}\nhi")
    nb.run(f"{CELL} --refresh\nhi")
    assert nb.sim.completion_count == 6


def test_compare__goes_on_with_a_conversation(nb):
    """Each model is asked the next turn of the answer that is named; of several, one has to be."""
    nb.run("%%openrouter openai/gpt-4o-mini -o first\nhi")
    nb.run(f"{CELL} -r first -o answers\nand now?")
    assert [len(body["messages"]) for body in nb.sent[1:]] == [3, 3, 3]
    assert "several answers" in nb.fails("%openrouter -r _ and then?")
    assert "a table of answers" in nb.fails("%openrouter -r answers and then?")
    nb.run("second = answers.answer[2]")
    nb.run("%openrouter -r second and then?")
    assert nb.sent[-1]["model"] == MODELS[2]
    assert len(nb.sent[-1]["messages"]) == 5


def test_compare__an_interrupt_shows_what_came(nb):
    """In two lines; what had come is shown and kept, and nothing is bound."""
    nb.run(f"%%openrouter {MODELS[0]}\nhi")
    nb.sim.script(scenario("stalled"), times=2)

    def interrupt():
        nb.sim.wait_for(lambda rows: sum(row.is_completion for row in rows) == 3, 60)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    said = nb.fails(f"{CELL} -o answers\nhi")
    thread.join()
    *_, message, hint = said.splitlines()
    assert message.startswith("KeyboardInterrupt: 1 of 3 answers had come")
    assert hint.startswith("  run the cell again")
    assert f"{MODELS[2]} · interrupted\n" in said
    assert "answers" not in nb.shell.user_ns
    assert nb.sim.wait_for(lambda rows: sum(row.cancelled for row in rows) == 2)


def test_compare__terminal_shows_them_in_order(nb):
    """Each below its head, the receipts below all, then a sum; at temperature 0 samples may be alike."""
    nb.sim.script(Scenario(text="red"), times=1, match=of(MODELS[0]))
    nb.sim.script(Scenario(text="green"), times=1, match=of(MODELS[1]))
    said = nb.run(f"%%openrouter {MODELS[0]} {MODELS[1]}\nName a colour.").splitlines()
    assert said[:5] == [f"--- {MODELS[0]} ---", "red", "", f"--- {MODELS[1]} ---", "green"]
    assert [line.split(" · ")[0] for line in said[5:]] == [MODELS[0], MODELS[1], "2 answers"]
    assert "may be the same" not in said[-1]
    assert "at temperature 0 samples may be the same" in nb.run("%%openrouter -n 2\nName a colour.")


def test_compare__a_line_gives_the_table(nb):
    """`x = %openrouter -m a,b …` binds the table and shows the receipts alone; -n 1 is a table too."""
    said = nb.run("x = %openrouter -m openai/gpt-4o-mini,openai/gpt-4o hi")
    assert len(nb["x"]) == 2
    assert len(said.splitlines()) == 3
    nb.run("x = %openrouter -n 1 hi")
    assert list(nb["x"]["cached"]) == [True]
    nb.run("x = %openrouter_last")
    assert list(nb["x"]["sample"]) == [0]


def test_compare__format_that_one_has_not(nb):
    """An answer that isn't JSON is bound with its error; the others have their data."""
    nb.sim.script(Scenario(text='{"a": 1}'), times=1, match=of(MODELS[0]))
    nb.sim.script(Scenario(text="no"), times=1, match=of(MODELS[1]))
    said = nb.fails(f"%%openrouter {MODELS[0]} {MODELS[1]} -f json -o answers\nhi")
    assert "SomeFailedError: 1 of 2" in said
    assert nb["answers"].answer[0].data == {"a": 1}
    assert nb["answers"].answer[1] == "no"
    assert "can't be read as json" in nb["answers"].error[1]


def test_compare__attachments_are_read_once(nb):
    """The same file goes to all."""
    (nb.folder / "note.txt").write_text("a note", encoding="utf-8")
    nb.run(f"{CELL} -a note.txt\nhi")
    assert all("a note" in str(body["messages"]) for body in nb.sent)


def test_compare__a_schema_gives_a_column_a_field(nb):
    """A field a column, named apart where we have such a column; one that doesn't fit has its error; the answers come last."""
    nb.sim.script(Scenario(text='{"name": "red", "error": 2}'), times=1, match=of(MODELS[0]))
    nb.sim.script(Scenario(text='{"name": "red"}'), times=1, match=of(MODELS[1]))
    said = nb.fails(f"%%openrouter {MODELS[0]} {MODELS[1]} --schema 'name str, error int' -o answers\nhi")
    assert "SomeFailedError: 1 of 2" in said
    answers = nb["answers"]
    assert list(answers.columns)[:4] == ["model", "sample", "name", "answer_error"]
    assert list(answers.columns)[-2:] == ["error", "answer"]
    assert (answers.name[0], answers.answer_error[0]) == ("red", 2)
    assert answers.name.isna()[1]
    assert "does not fit" in answers.error[1]
    assert answers.answer[0].data == {"name": "red", "error": 2}


def test_compare__what_goes_with_one_model_alone(nb):
    """Replies are asked again below one answer."""
    assert "--cascade goes with one model" in nb.fails(f"{CELL} --cascade\nhi")
