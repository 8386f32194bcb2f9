"""Which prompts ask the same in other letters: labelled pairs, laws, and how alike letters are."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from or_cache_magic.explain.similar_guard import likeness, why_not_similar

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "similar.py"))
HELD_BACK, PAIRS = BENCHMARK["HELD_BACK"], BENCHMARK["labelled_pairs"]()
false_and_missed, is_held_back = BENCHMARK["false_and_missed"], BENCHMARK["is_held_back"]
PROMPTS = sorted({text for pair in PAIRS for text in (pair["a"], pair["b"])})
WORDS = [
    "tea",
    "gold",
    "Anna",
    "May",
    "us",
    "US",
    "all",
    "more",
    "less",
    "before",
    "after",
    "7",
    "not",
    "Python",
]

prompts = st.sampled_from(PROMPTS)
with_digits = st.sampled_from([prompt for prompt in PROMPTS if re.search(r"\d", prompt)])
with_names = st.sampled_from([prompt for prompt in PROMPTS if re.search(r"\b[A-Z]", prompt[1:])])


def test_pairs__are_enough_and_half_of_them_were_held_back():
    """At least 300, of both labels, each once; a hash of the two texts says which half is for tuning."""
    assert len(PAIRS) >= 300
    assert {pair["label"] for pair in PAIRS} == {"same", "different"}
    assert len({(pair["a"], pair["b"]) for pair in PAIRS}) == len(PAIRS)
    assert 0.45 < sum(map(is_held_back, PAIRS)) / len(PAIRS) < 0.55


@pytest.mark.parametrize("half", [True, False])
def test_why_not_similar__is_never_wrong_where_it_says_nothing(half):
    """Of the pairs that ask different things, at most 1 in 100 is called similar; here it is none."""
    wrong, missed, _ = false_and_missed([pair for pair in PAIRS if is_held_back(pair) is half])
    assert wrong == []
    assert len(missed) < 0.6 * sum(pair["label"] == "same" for pair in PAIRS if is_held_back(pair) is half)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ("List 5 fruits.", "List 6 fruits.", "a number differs: 5 / 6"),
        ("Which birds can fly?", "Which birds cannot fly?", "a negation differs: can / cannot"),
        ("Who wrote Emma?", "Who wrote Dracula?", "a name differs: Emma / Dracula"),
        ("Is 5 mg much?", "Is 5 kg much?", "a unit differs: mg / kg"),
        ("Write it in Danish.", "Write it in Dutch.", "a language differs: Danish / Dutch"),
        ("Is it open in June?", "Is it open in July?", "a date differs: June / July"),
        ("What are 5 dollars in yen?", "What are 5 euros in yen?", "a currency differs: dollars / euros"),
        ("What does str_find do?", "What does str_seek do?", "code differs: str_find / str_seek"),
        ("Name the better one.", "Name the worse one.", "a comparison differs: better / worse"),
        ("Do all birds fly?", "Do some birds fly?", "a quantity differs: all / some"),
        ("Is tea better than coffee?", "Is coffee better than tea?", "the order of words differs"),
        ("What is lead?", "What is tin?", "a word differs: lead / tin"),
        ("Explain:\nif x:\n  y\n", "Explain:\nif x:\n    y\n", "white space differs"),
        ("Write a poem about cats!", "Write a poem about cats.", "punctuation differs"),
        ("Is it a Jaguar?", "Is it a jaguar?", "a name differs: Jaguar / jaguar"),
    ],
)
def test_why_not_similar__names_what_differs(a, b, reason):
    """The reason says what kind of difference it is, and shows both sides."""
    assert why_not_similar(a, b).startswith(reason)


@given(prompts, prompts)
def test_why_not_similar__is_the_same_both_ways(a, b):
    """Which prompt is stored and which is asked makes no difference; a prompt is like itself."""
    assert (why_not_similar(a, b) is None) is (why_not_similar(b, a) is None)
    assert why_not_similar(a, a) is None


@given(with_digits, st.data())
def test_why_not_similar__a_digit_is_never_another(prompt, data):
    """Whatever digit is put in the place of another, taken out or added: not similar."""
    at = data.draw(st.sampled_from([found.start() for found in re.finditer(r"\d", prompt)]))
    digit = prompt[at]
    put = data.draw(
        st.sampled_from(["", *"0123456789", f"{digit}0", f"-{digit}", f"{digit}.0", f"{digit} 1"])
    )
    if put != digit:
        assert why_not_similar(prompt, prompt[:at] + put + prompt[at + 1 :]) is not None


@given(prompts, st.sampled_from(["not", "no", "never", "without", "n't", "hardly", "neither"]), st.data())
def test_why_not_similar__a_negation_is_never_left_out(prompt, negation, data):
    """Wherever a negation is put in, or one that is there taken out: not similar."""
    words = prompt.split(" ")
    at = data.draw(st.integers(0, len(words)))
    changed = " ".join([*words[:at], negation, *words[at:]])
    assert why_not_similar(prompt, changed) is not None
    for word in re.findall(r"\b(?:not|no|never|without|cannot)\b", prompt):
        assert why_not_similar(prompt, prompt.replace(word, "", 1)) is not None


@given(with_names, st.data())
def test_why_not_similar__a_capitalised_word_is_never_another(prompt, data):
    """A name in the place of a capitalised word, or that word in small letters inside a sentence: not similar."""
    at = data.draw(
        st.sampled_from([found.start() for found in re.finditer(r"\b[A-Z]", prompt) if found.start()])
    )
    name = re.compile(r"\w+").match(prompt, at)[0]
    put = data.draw(st.sampled_from(["Oslo", "Ivan", "IBM", f"{name}a", name.lower()]))
    begins = re.search(r"(?:\A|[.?!,])\s*\Z", prompt[:at]) is not None  # a sentence, or one behind a greeting
    if put != name and not (begins and put == name.lower()):
        assert why_not_similar(prompt, prompt[:at] + put + prompt[at + len(name) :]) is not None


@given(prompts, st.sampled_from(WORDS), st.data())
def test_why_not_similar__no_other_word_is_the_same(prompt, word, data):
    """A word of any kind in the place of another, or put in: not similar."""
    words = prompt.split(" ")
    at = data.draw(st.integers(0, len(words) - 1))
    assume(words[at].strip(".,:?!").lower() != word.lower())
    for changed in ([*words[:at], word, *words[at + 1 :]], [*words[:at], word, *words[at:]]):
        assert why_not_similar(prompt, " ".join(changed)) is not None


@given(prompts, st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_why_not_similar__what_follows_the_instruction_is_the_same_to_the_letter(prompt, text, other):
    """Behind a colon or on a new line, only blanks at the ends may differ."""
    assume(text.strip() != other.strip())
    for between in (": ", ":\n", "\n\n"):
        a, b = (f"Please explain{between}x {said} x" for said in (text, other))
        assert why_not_similar(a, b) is not None
    assert (
        why_not_similar(f"{prompt} {text}!", f"{prompt} {other}!") is not None
        or text.split() == other.split()
    )


@given(st.text(alphabet="ab cd", max_size=40), st.text(alphabet="ab cd", max_size=40))
def test_likeness__is_twice_the_longest_common_subsequence_over_both(a, b):
    """What rapidfuzz calls ``ratio``: checked by the textbook's table."""
    row = [0] * (len(b) + 1)
    for letter in a:
        before = row
        row = [0]
        for at, other in enumerate(b):
            row.append(before[at] + 1 if letter == other else max(before[at + 1], row[at]))
    expected = 2 * row[-1] / (len(a) + len(b)) if a and b else float(a == b)
    assert likeness(a, b) == pytest.approx(expected)


def test_pairs__are_one_json_object_a_line():
    """The file is read line by line, by people too: four fields, in this order."""
    lines = (Path(__file__).parent / "similar_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(list(json.loads(line)) == ["label", "kind", "a", "b"] for line in lines)
    assert "hash" in HELD_BACK
