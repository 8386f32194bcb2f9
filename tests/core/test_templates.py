"""Filling ``{{ name }}``: what is filled, what is text, what is refused."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.templates import render
from or_cache_magic.core.value_text import MAX_TOKENS
from or_cache_magic.errors import TemplateError


class Answer(str):
    """A text with a repr of its own, as a Completion is."""

    __slots__ = ()

    def __repr__(self):
        return "<Answer>"


class Tripwire:
    """Fails the test when anything of it is called, indexed, compared or computed with."""

    def _fail(self, *args, **kwargs):
        raise AssertionError("code ran")

    __call__ = __getitem__ = __add__ = __eq__ = __iter__ = __len__ = _fail
    __hash__ = None


class Row(NamedTuple):
    """A row as `DataFrame.itertuples` gives it."""

    body: str
    items_: int


def refusal(template: str, **namespace) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        render(template, namespace)
    assert len(str(caught.value).splitlines()) == 2
    return caught.value


@pytest.mark.parametrize(
    "prompt",
    [
        r"Simplify \frac{x}{y} + \mathbf{X}_{i}",
        '{"a": {"b": {}}, "n": [1, {"c": 2}]}',
        "f'{name!r:>{width}}' and {} and { x }",
        'fn main() { println!("{}", n); }',
        ".card { color: red }",
        "{x for x in xs if x}",
        "costs $5 and $name and ${HOME}",
        "}} alone, { { apart } }",
        "",
    ],
)
def test_render__single_braces_are_text(prompt: str):
    """JSON, LaTeX, f-strings, Rust, CSS and dollars stay as they are, with every name in them defined."""
    assert render(prompt, {"x": 1, "X": 2, "y": 3, "i": 4, "name": "n", "n": 5, "xs": []}) == prompt


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ name }}", "Ada"),
        ("{{name}}", "Ada"),
        ("{{\n  name\n}}", "Ada"),
        ("<{{ name }}|{{ name }}>", "<Ada|Ada>"),
        ("{{ row.body }}", "hello"),
        ("{{ rows[0] }}{{ rows[-1] }}", "ac"),
        ("{{ config['k'].deep }}", "7"),
        ('{{ config["k"] . deep }}', "7"),
        ("{{ config.k.deep }}", "7"),
        ("{{ config.items }}", "mine"),
        ("{{ config['}}'] }}", "braces"),
        ("{{ config['{{'] }}", "more"),
        ("{{ größe }}", "1"),
        ("{{ _ }}", "last"),
        ("{{{{ name }}", None),
    ],
)
def test_render__paths(template: str, text: str | None):
    """Names, attributes, literal indexes; a mapping's key comes before its attribute."""
    namespace = {
        "name": "Ada",
        "row": Row("hello", 1),
        "rows": ["a", "b", "c"],
        "config": {"k": SimpleNamespace(deep=7), "items": "mine", "}}": "braces", "{{": "more"},
        "größe": 1,
        "_": "last",
    }
    if text is None:
        refusal(template, **namespace)
    else:
        assert render(template, namespace) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as {it} is\n", "as {it} is\n"),
        (Answer("**hi**"), "**hi**"),
        (3, "3"),
        (0.1, "0.1"),
        (1e22, "1e+22"),
        (np.float64(0.1), "0.1"),
        (np.int64(3), "3"),
        (None, "None"),
        (True, "True"),
        (pd.Timestamp("2024-01-02"), "2024-01-02 00:00:00"),
        (["é", 1, None, True], '["é", 1, null, true]'),
        (("a", float("nan")), '["a", null]'),
        ({"b": 1, "a": {2, 1}, 3: "x"}, '{"b": 1, "a": [1, 2], "3": "x"}'),
        ({"z", "y", "x"}, '["x", "y", "z"]'),
        (frozenset({2.5, 1}), "[1, 2.5]"),
        (np.arange(6).reshape(2, 3), "[[0, 1, 2], [3, 4, 5]]"),
        ([np.float64(1.5), np.bool_(True), pd.Timestamp("2024-01-02")], '[1.5, true, "2024-01-02 00:00:00"]'),
        (pd.Index(["a", "b"]), '["a", "b"]'),
    ],
)
def test_render__values(value: object, text: str):
    """Texts as they are, floats in full, containers as JSON with letters unescaped and sets sorted."""
    assert render("{{ value }}", {"value": value}) == text


def test_render__frame_is_a_compact_table():
    """A DataFrame is its shape and a Markdown table: bars escaped, line ends marked, missing cells empty."""
    frame = pd.DataFrame({"a": [1, 2], "b": ["x|y", "p\nq"], "c": [0.1, None]})

    table = "|a|b|c|\n|---|---|---|\n|1|x\\|y|0.1|\n|2|p<br>q||"
    assert render("{{ df }}", {"df": frame}) == "2 rows x 3 columns\n\n" + table


def test_render__frame_with_an_index_that_says_something():
    """A named or labelled index, of several levels too, becomes the first columns."""
    frame = pd.DataFrame({"k": ["u", "v"], "j": [1, 2], "n": [3, 4]})

    shown = render("{{ a }}\n{{ b }}", {"a": frame.set_index("k"), "b": frame.set_index(["k", "j"])})
    assert "|k|j|n|\n|---|---|---|\n|u|1|3|" in shown
    assert shown.count("|k|j|n|") == 2
    series = pd.Series([2.5, 1.0], index=["mean", "std"], name="x")
    assert render("{{ s }}", {"s": series}) == "2 rows x 1 column\n\n||x|\n|---|---|\n|mean|2.5|\n|std|1.0|"


@pytest.mark.parametrize(
    "value",
    [
        pd.DataFrame({"n": range(MAX_TOKENS + 1)}),
        pd.DataFrame({"n": ["two words " * 100] * (MAX_TOKENS // 100)}),
        pd.Series(range(MAX_TOKENS + 1)),
        list(range(300_000)),
        {n: n for n in range(MAX_TOKENS + 1)},
        np.zeros(MAX_TOKENS + 1),
        np.zeros((2, MAX_TOKENS)),
        "two words\n" * MAX_TOKENS,
        range(10**9),
    ],
    ids=lambda value: type(value).__name__,
)
def test_render__large_values_are_refused_unless_cut(value):
    """One limit for every kind, in tokens: a forgotten million rows would be paid for."""
    error = refusal("{{ x }}", x=value)
    assert f"tokens is over the limit of {MAX_TOKENS:,}" in error.args[0]
    assert error.hint.startswith("to send all: | head ")
    assert render("{{ x | head 1 }}", {"x": value})


def test_render__cut_frames_say_what_is_missing():
    """In the shape line; what is cut on purpose may be large."""
    frame = pd.DataFrame({"n": range(51)})
    assert render("{{ df | head 2 }}", {"df": frame}) == "2 of 51 rows x 1 column\n\n|n|\n|---|\n|0|\n|1|"
    assert render("{{ df|tail 1|json }}", {"df": frame}) == '[{"n": 50}]'
    assert render("{{ df }}", {"df": frame}).count("\n") == 51 + 3
    large = pd.DataFrame({"n": range(MAX_TOKENS + 1)})
    for form in ("csv", "json", "lines"):
        assert "over the limit" in str(refusal(f"{{{{ s | {form} }}}}", s=large["n"]))


def test_render__csv_of_another_library_is_that_of_pandas():
    """To the last byte: the text is in the key, and pandas' own was sent before."""
    import polars as pl

    table = {
        "text": ["a,b", 'say "so"', "two\nlines", "", " x ", None, "\r"],
        "number": [1.5, math.nan, -0.0, 1e300, math.inf, None, 0.1],
        "count": [1, 2**62, None, 0, -1, 3, 4],
        "true": [True, False, None, True, True, True, False],
        "when": [
            dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.timezone.utc),
            None,
            *[dt.datetime.max.replace(tzinfo=dt.timezone.utc)] * 5,
        ],
        "price": [Decimal("1.50"), None, *[Decimal("-0.01")] * 5],
    }
    for names in (*([name] for name in table), list(table)):
        frame = pl.DataFrame({name: table[name] for name in names})
        as_pandas = pd.DataFrame(frame.rows(), columns=frame.columns, dtype=object)
        expected = as_pandas.to_csv(index=False, lineterminator="\n").removesuffix("\n")
        assert render("{{ df | csv }}", {"df": frame}) == expected


def _others():
    import polars as pl
    import pyarrow as pa

    data = {"a|b": [1, None], "product": ["x", "y"], "when": [dt.date(2026, 1, 2), None]}
    return [pl.DataFrame(data), pa.table(data)]


@pytest.mark.parametrize("frame", _others(), ids=lambda frame: type(frame).__module__.partition(".")[0])
def test_render__tables_of_other_libraries_are_tables(frame):
    """Whole, as pandas' are: the text of their own leaves rows out."""
    shown = "2 rows x 3 columns\n\n|a\\|b|product|when|\n|---|---|---|\n|1|x|2026-01-02|\n||y||"
    assert render("{{ df }}", {"df": frame}) == shown
    assert (
        render("{{ df | head 1 }}", {"df": frame})
        == shown.replace("2 rows", "1 of 2 rows")[: -len("\n||y||")]
    )
    rows = '[{"a|b": 1, "product": "x", "when": "2026-01-02"}, {"a|b": null, "product": "y", "when": null}]'
    assert render("{{ df | json }}", {"df": frame}) == rows
    assert render("{{ df | csv }}", {"df": frame}) == "a|b,product,when\n1,x,2026-01-02\n,y,"
    assert render("{{ df.product | lines }}", {"df": frame}) == "x\ny"
    assert render("{{ d }}", {"d": {"t": frame}}) == f'{{"t": {rows}}}'


def _narrow():
    import polars as pl
    import pyarrow as pa

    column = pd.Series([0.1, 1e10], dtype="float32", name="x")
    return [
        column,
        column.to_frame(),
        column.astype("Float32"),
        pl.Series("x", [0.1, 1e10], dtype=pl.Float32),
        pa.table({"x": pa.array([0.1, 1e10], pa.float32())}),
        column.to_frame().set_index("x", drop=False).rename_axis("i"),
        np.array([0.1, 1e10], dtype="f4"),
        [np.float32(0.1), np.float32(1e10)],
        [np.longdouble("0.1"), np.longdouble("1e10")],
        pd.Index([0.1, 1e10], dtype="float32"),
        {"x": np.array([[0.1], [1e10]], dtype="f4"), "y": np.float16(0.1), "z": np.float32("nan")},
    ]


@pytest.mark.parametrize("value", _narrow(), ids=lambda value: type(value).__name__)
def test_render__narrow_floats_are_as_short_as_their_library_shows_them(value):
    """0.1 of 16 or 32 bits is 0.1 in every form that takes it, not the nearest float of 64 bits in full."""
    for form in ("", " | json"):
        text = render(f"{{{{ x{form} }}}}", {"x": value})
        assert "0.1" in text
        assert "10000000000.0" in text
        assert not re.search(r"0\.10|0\.09", text)
    for form in ("csv", "lines"):
        with suppress(TemplateError):  # not each form takes each
            assert re.search(r"(?<![\d.])0\.1(?!\d)", render(f"{{{{ x | {form} }}}}", {"x": value}))


@given(st.floats(width=32, allow_nan=False) | st.floats(width=16, allow_nan=False))
def test_render__narrow_floats_are_numpys(value):
    """The number is that of numpy's own text, and the same in a column."""

    for kind in (np.float32, np.float16):
        with np.errstate(over="ignore"):
            narrow = kind(value)
        assert float(render("{{ x }}", {"x": narrow})) == float(str(narrow))
        assert render("{{ x | lines }}", {"x": np.array([narrow])}) == render("{{ x }}", {"x": narrow})


def test_render__missing_values_are_null_in_json():
    """Whatever a library has for them; times of nanoseconds are times, not counts."""

    missing = [None, math.nan, pd.NA, pd.NaT, np.float32("nan"), np.datetime64("NaT"), Decimal("NaN")]
    assert render("{{ x | json }}", {"x": missing}) == json.dumps([None] * len(missing))
    times = np.array(["2026-01-01", "NaT"], dtype="datetime64[ns]")
    assert render("{{ x | json }}", {"x": times}) == '["2026-01-01T00:00:00.000000000", null]'
    assert render("{{ x | json }}", {"x": np.timedelta64(5, "ns")}) == '"5 nanoseconds"'


def test_render__other_tables_are_sent_whole():
    """One changed row in the middle of a hundred is another prompt."""
    import polars as pl

    texts = {render("{{ df }}", {"df": pl.DataFrame({"n": [*range(50), n, *range(49)]})}) for n in (1, 2)}
    assert len(texts) == 2
    assert "lazy table" in str(refusal("{{ df }}", df=pl.DataFrame({"n": [1]}).lazy()))


def test_render__a_column_wins_over_a_method():
    """As in a row or a dict: what the user's data has is meant."""
    frame = pd.DataFrame({"product": ["x", "y"], "size": [1, 2]})
    assert render("{{ df.product | lines }} {{ df.size | lines }}", {"df": frame}) == "x\ny 1\n2"


def test_render__refuses_what_shows_itself_in_part():
    """A figure, a class of a library, whatever cuts its own text: what is sent would not change with it."""

    class Figure:
        __module__ = "matplotlib.figure"

        def __str__(self):
            return "Figure(640x480)"

    assert "no text of its own" in str(refusal("{{ x }}", x=Figure()))
    assert "no text of its own" in str(refusal("{{ x }}", x=[Figure()]))
    picture = type("Image", (), {"__module__": "PIL.Image"})()
    assert "as a picture: -a NAME" in refusal("{{ x }}", x=picture).hint

    class Mine(Figure):
        __module__ = "__main__"

    assert render("{{ x }}", {"x": Mine()}) == "Figure(640x480)"
    known = {"p": Path("a/b"), "n": np.float32(0.5), "t": pd.Timestamp("2026-01-02"), "k": {"a": 1}.keys()}
    assert render("{{ p }} {{ n }} {{ t }} {{ k }}", known) == 'a/b 0.5 2026-01-02 00:00:00 ["a"]'


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ xs | head 2 }}", "[1, 2]"),
        ("{{ xs | tail 2 | lines }}", "6\n7"),
        ("{{ xs | head }}", "[1, 2, 3, 4, 5]"),
        ("{{ xs | tail 99 | head 1 }}", "[1]"),
        ("{{ xs | head 0 }}", "[]"),
        ("{{ xs | tail 0 }}", "[]"),
        ("{{ text | tail 2 }}", "b\nc"),
        ("{{ text | json }}", '"a\\nb\\nc"'),
        ("{{ map | head 1 }}", '{"p": 1}'),
        ("{{ set | head 1 | lines }}", "x"),
        ("{{ df | csv }}", 'n,s\n1,"a,b"\n2,'),
        ("{{ df | json }}", '[{"n": 1, "s": "a,b"}, {"n": 2, "s": null}]'),
        ("{{ df.n | lines }}", "1\n2"),
        ("{{ df.n | json }}", "[1, 2]"),
        ("{{ row | json }}", '{"n": 1, "s": "a,b"}'),
        ("{{ one | head 1 }}", '["{{ text }}"]'),
    ],
)
def test_render__filters(template: str, text: str):
    """Head and tail cut, json, csv and lines write; filters follow one another."""
    frame = pd.DataFrame({"n": [1, 2], "s": ["a,b", None]})
    namespace = {
        "xs": [1, 2, 3, 4, 5, 6, 7],
        "text": "a\nb\nc",
        "map": {"p": 1, "q": 2},
        "set": {"y", "x"},
        "df": frame,
        "row": frame.iloc[0],
        "one": ["{{ text }}"],
    }
    assert render(template, namespace) == text


@pytest.mark.parametrize(
    ("template", "message", "hint"),
    [
        ("{{ pprice }}", "pprice is not defined", "did you mean price?"),
        ("{{ zzz }}", "zzz is not defined", "--raw"),
        ("{{ row.bdy }}", "row has no 'bdy'", "did you mean body?"),
        ("{{ config['kee'] }}", "config has no 'kee'", "did you mean key?"),
        ("{{ rows[9] }}", "rows has no 9", ""),
        ("{{ price.x.y }}", "price has no 'x'", ""),
        ("{{ price[0] }}", "price has no 0", ""),
        ("one\ntwo {{ x + 1 }}", "line 2: {{ x + 1 }} is not a name", "--raw"),
        ("{{ f(1) }}", "is not a name", "compute it in a cell above"),
        ("{{ rows | head(3) }}", "is not a name", "| head 20"),
        ("{{ rows[0:2] }}", "is not a name", "filters"),
        ("{{ }}", "is not a name", ""),
        ("{{{ price }}}", "is not a name", ""),
        ("{{ config[key] }}", "is not a name", ""),
        ("{{ price", "a {{ has no }}", "--raw"),
        ("{{ price }", "a {{ has no }}", "--raw"),
        ("{{ rows | hed }}", "there is no filter hed", "head, tail"),
        ("{{ rows | json 3 }}", "only head and tail take a number", ""),
        ("{{ price | head }}", "can't be cut", ""),
        ("{{ price | csv }}", "is no table", ""),
        ("{{ price | lines }}", "has no items", ""),
        ("{{ row.__class__ }}", "private", ""),
        ("{{ row._fields }}", "private", ""),
        ("{{ __builtins__ }}", "private", ""),
        ("{{ f }}", "a function has no text of its own", "cell above"),
        ("{{ rows.append }}", "has no text of its own", "cell above"),
        ("{{ builtin }}", "has no text of its own", ""),
        ("{{ kind }}", "has no text of its own", ""),
        ("{{ module }}", "has no text of its own", ""),
        ("{{ thing }}", "has no text of its own", ""),
        ("{{ deep }}", "has no text of its own", ""),
        ("{{ data }}", "bytes are no text", "decode"),
        ("{{ mixed }}", "no order", "list"),
        ("{{ nested }}", "no order", "list"),
        ("{{ loop }}", "can't be written as JSON", ""),
        ("{{ price" + "[9" + "9" * 30 + "] }}", "is not a name", ""),
    ],
)
def test_render__refused_with_its_reason(template: str, message: str, hint: str):
    """Whatever can't be filled in names the expression, says why, and that nothing was sent."""
    loop: list[object] = []
    loop.append(loop)
    namespace = {
        "price": 3,
        "row": Row("b", 1),
        "rows": [1, 2],
        "config": {"key": 1},
        "f": lambda x: x,
        "kind": int,
        "builtin": len,
        "module": sys,
        "thing": object(),
        "deep": [object()],
        "data": b"x",
        "mixed": {1, "a"},
        "nested": {frozenset({1}), frozenset({2})},
        "loop": loop,
        "__builtins__": {},
    }
    error = refusal(template, **namespace)

    assert message in error.args[0]
    assert "nothing was sent" in error.args[0]
    assert hint in error.hint


def test_render__values_are_not_rendered_again():
    """A template inside a value is text: data can't reach other variables."""
    assert render("{{ row }}", {"row": "{{ secret }}", "secret": "sk-or-1"}) == "{{ secret }}"


def test_render__literal_braces_from_a_variable():
    """The hint's way to write braces beside names works."""
    assert (
        render("{{ open }} x }} is Jinja; {{ n }} is ours", {"open": "{{", "n": 1})
        == "{{ x }} is Jinja; 1 is ours"
    )


def test_render__looking_up_does_not_make_items():
    """Asking a defaultdict for what it lacks does not add it."""
    counts: defaultdict[str, int] = defaultdict(int)

    assert "has no 'k'" in str(refusal("{{ counts['k'] }}", counts=counts))
    assert not counts


def test_render__same_text_in_every_process():
    """Sets of texts read the same whatever the process's hash seed."""
    code = (
        "from or_cache_magic.core.templates import render;"
        "print(render('{{ s }}{{ d }}', {'s': set('abcdefgh'), 'd': {'k': frozenset('xyz')}}), end='')"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert texts == {'["a", "b", "c", "d", "e", "f", "g", "h"]{"k": ["x", "y", "z"]}'}


def test_render__imports_no_pandas():
    """Filling in plain values loads neither pandas nor numpy nor IPython."""
    code = (
        "import sys; from or_cache_magic.core.templates import render;"
        "render('{{ a }} {{ b | head 1 }}', {'a': 1, 'b': [1]});"
        "sys.exit(bool({'pandas', 'numpy', 'IPython'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.text())
def test_render__text_without_templates_is_itself(prompt: str):
    """Where no ``{{`` stands, nothing changes."""
    text = prompt.replace("{{", "{ {")

    assert render(text, {}) == text


@given(st.text(), st.text(), st.text())
def test_render__one_pass(before: str, value: str, after: str):
    """A value arrives whole, whatever is in it and around it."""
    before, after = before.replace("{", "("), after.replace("{", "(")

    assert render(f"{before}{{{{ v }}}}{after}", {"v": value}) == before + value + after


_FRAGMENTS = st.sampled_from(
    [
        "{{",
        "}}",
        "{",
        " ",
        "x",
        "w",
        ".",
        "[0]",
        "['k']",
        "(",
        ")",
        "+",
        "|",
        " head 2",
        "json",
        "__class__",
        "_a",
        "\n",
    ]
)


@given(st.lists(_FRAGMENTS, max_size=12).map("".join))
def test_render__never_runs_code(template: str):
    """Any mixture of the grammar's pieces and of Python's gives a text or a `TemplateError`; nothing is called."""
    try:
        text = render(template, {"x": {"k": [1, "a"], 0: "zero"}, "w": lambda: 1 / 0})
    except TemplateError:
        return
    assert isinstance(text, str)


@pytest.mark.parametrize("expression", ["w()", "w[0]", "w + w", "w == w", "w | lines", "w | json", "w | csv"])
def test_render__tripwire(expression: str):
    """No expression but an index reaches an object's own code, and that one's error is not hidden."""
    with pytest.raises(AssertionError if expression == "w[0]" else TemplateError):
        render(f"{{{{ {expression} }}}}", {"w": Tripwire()})
