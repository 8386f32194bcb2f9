"""`%openrouter_fix`: what is sent of a failure, what never is, and that the same failure is a hit."""

from __future__ import annotations

import sys

import pytest

from or_cache_magic.simulator import Scenario

MINI = "openai/gpt-4o-mini"


@pytest.fixture(autouse=True)
def _nothing_failed(monkeypatch):
    """What another test left is none of these tests' failures."""
    for name in ("last_value", "last_type", "last_traceback", "last_exc"):
        monkeypatch.delattr(sys, name, raising=False)


@pytest.fixture
def shown(nb):
    """``shown(options)`` is what would be sent, as ``--dry-run`` shows it."""

    def show(options: str = "") -> str:
        out = nb.run(f"%openrouter_fix --dry-run {options}")
        assert nb.sim.completion_count == 0
        return out

    return show


def messages(nb) -> list[str]:
    return [message["content"] for message in nb.sent[-1]["messages"]]


def test_fix__without_a_failure_says_so(nb):
    """In two lines; nothing is sent."""
    out = nb.fails("%openrouter_fix")
    assert "OptionError: nothing has failed in this session" in out
    assert "run the cell that fails" in out
    assert nb.sim.completion_count == 0


def test_fix__sends_code_and_traceback_from_the_notebook_on(nb, shown):
    """The cell with the line marked, the other cell that it called, and the calls below; no frame of IPython's."""
    nb.run("def ratio(a, b):\n    return a / b")
    nb.fails("x = 0\n\nprint('before')\nratio(3, x)")
    said, _, rest = shown().partition("\n\nThe cell that failed:\n")
    assert said == "ZeroDivisionError: division by zero"
    cell, _, rest = rest.partition("\n\nAnother cell (1):\n")
    assert cell.splitlines() == ["    1 x = 0", "    2", "    3 print('before')", "→   4 ratio(3, x)"]
    other, _, rest = rest.partition("\n\nTraceback, the innermost call last:\n")
    assert other.splitlines() == ["    1 def ratio(a, b):", "→   2     return a / b"]
    calls, _, rest = rest.partition("\n\nTypes of variables:\n")
    assert calls.splitlines() == [
        "the cell, line 4, in <module>: ratio(3, x)",
        "another cell (1), line 2, in ratio: return a / b",
    ]
    assert rest.splitlines()[:3] == ["x: int", "a: int", "b: int"]
    assert f"would ask {MINI}" in rest


def test_fix__is_asked_as_any_prompt_is_and_kept(nb):
    """Shown as Markdown with its receipt; the same failure later is a hit, by another model it is another."""
    nb.sim.script(Scenario(text="Divide by **something**."))
    nb.fails("1 / 0")
    out = nb.run("%openrouter_fix")
    assert "Divide by" in out
    assert MINI in out
    system, prompt = messages(nb)
    assert "Jupyter notebook" in system
    assert prompt.startswith("ZeroDivisionError: division by zero\n")
    nb.run("y = 1")
    nb.fails("1 / 0")
    assert "cached" in nb.run("%openrouter_fix")
    assert nb.sim.completion_count == 1
    nb.run("answer = %openrouter_fix openai/gpt-4o")
    assert nb["answer"].model.startswith("openai/gpt-4o")
    assert nb.sim.completion_count == 2


def test_fix__leaves_values_out_unless_they_are_wanted(nb, shown):
    """Types alone; with `--values` cut short, but for what is named as a secret; a repr that fails is said to."""
    nb.run(
        "class Odd:\n    def __repr__(self): raise ValueError('no')\nodd, row = Odd(), {'name': 'Ada' * 200}"
    )
    nb.run("password = 'hunter2hunter2'; hidden = 'not in the line'")
    nb.fails("row['nome'], odd, password")
    types = shown()
    assert "row: dict" in types
    assert "Ada" not in types
    values = shown("--values")
    assert "row: dict = {'name': 'AdaAda" in values
    assert "odd: Odd = " in values
    assert "password: str\n" in values
    assert "hunter2" not in values
    assert "not in the line" not in values
    assert max(map(len, values.splitlines())) < 700


def test_fix__names_no_secret_and_no_home(nb, shown, monkeypatch, tmp_path):
    """Keys by their look, what is given to such names, what such variables of the environment hold."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    nb.fails(
        f"api_key = 'abc'; client = dict(password=\"pw\")\n"
        f"raise RuntimeError('sk-or-v1-0123456789abcdef at {tmp_path}/data, http://me:pw@host/ hf_abcdefghijklmnop')"
    )
    out = shown()
    assert "sk-… at ~/data, http://…@host/ …" in out
    assert "api_key = '…'; client = dict(password=\"…\")" in out
    for secret in ("abcdef", "'abc'", "pw", str(tmp_path)):
        assert secret not in out


def test_fix__takes_a_model_as_other_magics_do(nb, shown):
    """By a word or by -m; not by both."""
    nb.fails("1 / 0")
    for options in ("openai/gpt-4o", "-m openai/gpt-4o", "--model openai/gpt-4o"):
        assert "would ask openai/gpt-4o ·" in shown(options)
    assert "takes no 'openai/gpt-4o'" in nb.fails("%openrouter_fix -m a/b openai/gpt-4o")


def test_fix__is_bounded(nb, shown):
    """Long cells, long messages, long quotations and deep tracebacks are cut, where it matters least."""
    nb.run(
        "def down(n):\n    if n == 0:\n        raise ValueError('\"' + 'x' * 5000 + '\" ' + 'y ' * 5000)\n    down(n - 1)"
    )
    nb.fails(
        "\n".join(f"a{n} = {n}" for n in range(300))
        + "\ndown(40)\n"
        + "\n".join(f"b{n} = {n}" for n in range(300))
    )
    out = shown()
    assert "→ 301 down(40)" in out
    assert "a299" in out
    assert "a10 =" not in out
    assert "b200" not in out
    assert "… 30 more …" in out
    assert "x" * 61 not in out
    assert len(out) < 8000


def test_fix__shows_libraries_by_their_place_in_them(nb, shown):
    """No path of this machine; what an exception was raised from is there; addresses are none."""
    nb.fails(
        "import json\ntry:\n    json.loads('{')\nexcept ValueError as exc:\n    raise KeyError(object()) from exc"
    )
    out = shown()
    assert out.startswith(
        "KeyError: <object object at 0x…>\nraised from json.decoder.JSONDecodeError: Expecting"
    )
    nb.fails("import json\njson.loads('{')")
    assert "json/decoder.py, line" in shown()
    assert "/json" not in shown().replace("json/decoder.py", "").replace("json/__init__.py", "")


def test_fix__explains_what_can_not_be_compiled(nb, shown):
    """A syntax error has a cell too, and is the same when it is made again."""
    nb.fails("a = 1\nif a = 1:\n    pass")
    out = shown()
    nb.run("b = 1")
    nb.fails("a = 1\nif a = 1:\n    pass")
    assert shown() == out
    assert out.startswith("SyntaxError: invalid syntax")
    assert "→   2 if a = 1:" in out


def test_fix__leaves_errors_that_explain_themselves(nb, monkeypatch):
    """Those of this package; one that `%openrouter_fix` itself meets does not hide what was to be explained."""
    nb.fails("%openrouter --modle x hi")
    out = nb.fails("%openrouter_fix")
    assert (
        "OptionError: the last error explains itself: OptionError: %openrouter has no option --modle" in out
    )
    nb.fails("1 / 0")
    monkeypatch.delenv("OPENROUTER_API_KEY")
    assert "MissingKeyError" in nb.fails("%openrouter_fix")
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-again")
    nb.run("%openrouter_fix")
    assert messages(nb)[1].startswith("ZeroDivisionError")


def test_fix__goes_on_after_errors_of_this_package(nb, shown):
    """Its own and those of other magics and calls, one after the other: the notebook's is explained."""
    nb.fails("1 / 0")
    for line in ("%openrouter_fix --modle", "%openrouter_fix --quiet=3", "%openrouter_stats --nope"):
        assert "OptionError" in nb.fails(line)
        assert shown().startswith("ZeroDivisionError")
    nb.fails("from or_cache_magic.errors import OptionError\nraise OptionError('a', 'b')")
    assert shown().startswith("ZeroDivisionError")
    which = "the last one, OptionError, explains itself: this is on the ZeroDivisionError before it"
    assert shown().endswith(f"\n\n{which}\n")
    nb.fails("[][1]")
    assert shown().startswith("IndexError")
    assert "explains itself" not in shown()
    nb.fails("raise KeyboardInterrupt")
    told = "the last one, KeyboardInterrupt, explains itself: this is on the IndexError before it\n"
    assert nb.run("%openrouter_fix").startswith(told)


def test_fix__survives_values_that_raise(nb, shown):
    """Whatever a variable or the exception raises when it is looked at; the failure stays the one explained."""
    nb.run(
        "class Odd:\n    def __getattribute__(self, name): raise RuntimeError(name)\n"
        "class Shape:\n    @property\n    def shape(self): raise KeyError('shape')\n"
        "class Data:\n    shape = ('Ada', 3)\n"
        "class Mute(Exception):\n    def __str__(self): raise RuntimeError('no')\n"
        "odd, shape, data = Odd(), Shape(), Data()"
    )
    nb.fails("raise ValueError(id(odd) and None, shape, data)")
    sys.last_value.__cause__ = nb["Mute"]()
    for options in ("", "--values"):
        out = shown(options)
        assert "\nraised from Mute: (RuntimeError when it is shown)\n" in out
        for line in ("odd: Odd", "shape: Shape", "data: Data"):
            assert f"\n{line}" in out
        assert "data: Data of shape" not in out
    assert type(sys.last_value) is ValueError


@pytest.mark.parametrize(
    "code",
    [
        'password: str = "hunter2hunter2"',
        'password = """hunter2\nhunter2"""',
        'api_token = f"hunter2{1}"',
        'AZURE_OPENAI_KEY = "hunter2"',
        'd = {"pwd": "hunter2"}; d["auth"] = ["hunter2"]; user, password = "me", "hunter2"',
        "f = lambda password='hunter2', *, passwd='hunter2': dict(credential=('me', 'hunter2'))",
        'url, dsn = "http://h/?n=1&api_key=hunter2", "host=db password=hunter2"  # password: hunter2',
        's = "{\\"password\\": \\"hunter2\\"}"; import os; os.environ.setdefault("X_TOKEN", "hunter2")',
        "s = 'ghp_hunter2hunter2hunter2 hf_hunter2hunter2hunter2'",
        "key = " + "'hunter2' " * 2000,
    ],
)
def test_fix__hides_what_is_given_to_names_of_secrets(nb, shown, code):
    """However it is written, in code that can be compiled and in code that can't, in as many lines."""
    nb.fails(f"{code}\n1 / 0")
    assert f"→ {code.count(chr(10)) + 2:>3} 1 / 0\n" in shown("--values")
    assert "hunter2" not in shown("--values")
    nb.fails(f"{code}\nif a = 1: 0")
    assert "→" in shown()
    assert "hunter2" not in shown()


def test_fix__hides_secrets_in_messages_before_it_cuts(nb, shown):
    """Also one whose end is cut off."""
    for text in (
        "at http://h/?api_key=hunter2hunter2",
        "host=db password=hunter2 user=me",
        "{'password': 'hunter2 hunter2'}",
        "ghp_hunter2hunter2hunter2, hf_hunter2hunter2hunter2",
        "x " * 490 + "password='" + "hunter2 " * 50 + "'",
    ):
        nb["text"] = text
        nb.fails("raise RuntimeError(text)")
        for options in ("", "--values"):
            assert "hunter2" not in shown(options)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("assert 0, {'name': 'Ada', 'n': [1, {2: 'Bob'}]}", "AssertionError: {…}"),
        ("raise ValueError('no Ada in', ['Ada', 'Bob'], 12)", "ValueError: ('…', […], 12)"),
        ("float('Ada')", "ValueError: could not convert string to float: '…'"),
        (
            "raise ValueError(f'{1234567.5} of {123} rows, [{1}] and {{2')",
            "ValueError: … of 123 rows, […] and {…",
        ),
        ("{}['nome']", "KeyError: 'nome'"),
        ("{}[names[0]]", "KeyError: '…'"),
        ("names.nope", "AttributeError: 'list' object has no attribute 'nope'"),
        ("1 < ''", "TypeError: '<' not supported between instances of 'int' and 'str'"),
        ("import nope.x", "ModuleNotFoundError: No module named 'nope'"),
        ("open('no/Ada')", "FileNotFoundError: [Errno 2] No such file or directory: '…'"),
        ("raise ValueError(\"it's one that can't be\")", "ValueError: it's one that can't be"),
        ("assert 0, f'got {names[0]}'", "AssertionError: got …"),
        ("raise RuntimeError('load of ' + names[0].lower())", "RuntimeError: load of …"),
        ("raise type('Odd', (Exception,), {'__str__': lambda self: names[0]})()", "Odd: …"),
        ("int(names[0])", "ValueError: invalid literal for int() with base 10: '…'"),
    ],
)
def test_fix__leaves_data_out_of_messages(nb, shown, code, said):
    """What is quoted or in brackets, and long numbers; names that the code shows stay. All with `--values`."""
    nb["names"] = ["Ada Byron"]
    nb.fails(code)
    assert shown().partition("\n\n")[0] == said
    assert shown("--values").partition("\n\n")[0] == f"{type(sys.last_value).__name__}: {sys.last_value}"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise subprocess.CalledProcessError(3, [sys.executable, '-c', 'exit(3)', names[0]])", 3),
        ("raise subprocess.CalledProcessError(1, f\"test '{names[0]}' = ''\")", 1),
    ],
)
def test_fix__leaves_out_what_an_exception_carries(nb, shown, code, status):
    """A command, whatever quotes and brackets are in it; its exit status stays."""
    nb["names"] = ["Ada Byron"]
    nb.fails(f"import subprocess, sys\n{code}")
    said = shown()
    assert said.startswith(
        f"subprocess.CalledProcessError: Command '…' returned non-zero exit status {status}.\n\n"
    )
    assert "Ada" not in said


@pytest.mark.parametrize(
    "literal", ["'" + "x" * 50_000 + "'", "'" * 3 + "long line of text\n" * 3000 + "'" * 3]
)
def test_fix__is_bounded_part_by_part(nb, shown, literal):
    """A literal of 50 KB, in one line or many, leaves the calls and the variables where they are."""
    nb.fails(f"a = 1\nb = {literal}; a / 0")
    for options in ("", "--values"):
        out = shown(options)
        assert "in <module>: " in out
        assert "of variables:" in out
        assert len(out) < 8000
