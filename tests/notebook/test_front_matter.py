"""The options at the top of a prompt file: read as YAML reads them, or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.notebook.front_matter import FrontMatterError, Plain, split_front_matter


def read(*lines: str) -> dict:
    """The options of a file with these lines between its fences."""
    items, head = split_front_matter("\n".join(["---", *lines, "---", "The prompt."]))
    assert head == len(lines) + 2
    return {item.name: item.value for item in items}


@pytest.mark.parametrize("text", ["", "What is a median?", "--- \x20x", "\n---\nmodel: x\n---\n", "----\n"])
def test_split__a_text_without_fence_has_none(text):
    """The first line says whether there are options."""
    assert split_front_matter(text) == ([], 0)


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (["x: openai/gpt-4o-mini"], "openai/gpt-4o-mini"),
        (["x: a b  # of no use"], "a b"),
        (["x:   a#b  "], "a#b"),
        (["x: 'it''s # so: on'  # but"], "it's # so: on"),
        (['x: "a\\n# b"'], "a\n# b"),
        (['x: "a" # b'], "a"),
        (["x: [a, b c]"], ["a", "b c"]),
        (['x: ["a, b", 1, null]'], ["a, b", 1, None]),
        (['x: {"a": [1, 2.5]}  # b'], {"a": [1, 2.5]}),
        (["x:", "  - a", "  - 'b'", "", "  # no", "  - 3"], ["a", "b", "3"]),
        (["x:", "- a"], ["a"]),
        (["x:"], None),
        (["x: # nothing"], None),
        (["x: |", "  One.", "", "    Two: # three", "  "], "One.\n\n  Two: # three\n"),
        (["x: |-", "  One.", "  ---"], "One.\n---"),
        (["x: |", "    "], ""),
        (["# no", "", "x : 1"], "1"),
    ],
)
def test_split__reads_what_yaml_reads(lines, value):
    """Texts, quoted texts, JSON, lists, blocks and comments."""
    assert read(*lines)["x"] == value
    assert read(*lines, "y: z")["y"] == "z"


def test_plain__may_be_a_number_or_a_truth_value():
    """What stands without quotes is what JSON reads in it, where whoever reads it wants that."""
    assert [Plain(text).value for text in ("0.2", "true", "null", "yes", "1e999")] == [
        0.2,
        True,
        None,
        "yes",
        "1e999",
    ]


@pytest.mark.parametrize(
    ("lines", "line", "problem"),
    [
        (["model"], 2, "is no option"),
        (["", "  a: b"], 3, "an indented line is no option"),
        (["a: 1", "a: 2"], 3, "a is given twice"),
        (["a: b: c"], 2, "a colon in its text"),
        (["a: b:"], 2, "a colon in its text"),
        (["a: &b c"], 2, "begins with &"),
        (["a: @b"], 2, "begins with @"),
        (["a: >", "  b"], 2, "begins with >"),
        (["a: - b"], 2, "begins with -"),
        (["a:", "  b: c"], 3, "no value that can be read"),
        (["a: {b: c}"], 2, "is not JSON"),
        (["a: {"], 2, "is not JSON"),
        (['a: "b'], 2, "is not JSON"),
        (["a: NaN"], None, ""),
        (["a: [NaN, {}]"], 2, "is not JSON"),
        (["a: 'b"], 2, "begins with '"),
        (["a: -"], 2, "begins with -"),
        (["a: [!b c]"], 2, "begins with !"),
        (["a:", "  - b", "    - c"], 4, "no value that can be read"),
        (["a:", "  - b", "  c"], 4, "no value that can be read"),
        (["{a: b}"], 2, "is no option"),
    ],
)
def test_split__refuses_what_it_would_read_otherwise_than_yaml(lines, line, problem):
    """With the line and what to write."""
    if line is None:
        assert read(*lines) == {"a": "NaN"}
        return
    with pytest.raises(FrontMatterError, match=problem) as caught:
        read(*lines)
    assert caught.value.line == line
    assert caught.value.hint


def test_split__refuses_options_without_end():
    """A rule at the top of a Markdown file is taken for options: it is told so, and not sent."""
    with pytest.raises(FrontMatterError, match="have no --- below"):
        split_front_matter("---\nmodel: x\n")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), values, max_size=5))
def test_law__what_is_written_as_json_is_read_as_it_is(options):
    """A dump of JSON, one option a line, comes back whole."""
    lines = [f"{name}: {json.dumps(value)}" for name, value in options.items()]
    found = {name: value.value if isinstance(value, Plain) else value for name, value in read(*lines).items()}
    assert found == options


PIECES = (
    *("a", "b:", " ", "\n", "- ", "|", "|-", "'", '"', "[", "]", ",", "{", "}", "#", " #", ": ", "x: ", "y: ", "1", "&", "*"),
    *("0.5", "true", "null", "''", "!", "%", "@", "?", "-", ">", "é", "\n  ", "\nz: ", "~", "`", "...", "---", "\n  - a", "\n- c"),
)  # fmt: skip


def as_texts(value):
    """A value with the texts of its scalars, as YAML has them before it gives them a type."""
    if isinstance(value, (list, tuple)):
        return [as_texts(item) for item in value]
    if isinstance(value, dict):
        return {name: as_texts(item) for name, item in value.items()}
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=9).map("".join))
def test_law__what_is_read_is_what_yaml_reads(text):
    """What another reader of the file would take otherwise is refused."""
    yaml = pytest.importorskip("yaml")
    try:
        items, head = split_front_matter(f"---\nx: {text}\n---\n")
    except FrontMatterError:
        return
    written = "\n".join(f"---\nx: {text}\n---\n".split("\n")[1 : head - 1])
    assert {i.name: as_texts(i.value) for i in items} == as_texts(yaml.load(written, yaml.BaseLoader))


@given(st.text(max_size=60))
def test_law__any_text_is_read_or_refused(text):
    """Nothing else is raised, and what is wrong has its line."""
    line = 1
    try:
        split_front_matter(f"---\n{text}\n---\nThe prompt.")
    except FrontMatterError as exc:
        line = exc.line
    assert 1 <= line <= text.count("\n") + 2
