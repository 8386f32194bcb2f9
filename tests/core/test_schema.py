"""What an answer is to be: the short form, JSON Schemas, classes; what is sent for it, and the value back."""

from __future__ import annotations

import enum
import json
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import date, datetime, timezone
from typing import Annotated, Literal, Union

import jsonschema
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.cache.request import build_ask
from or_cache_magic.core.compact_schema import TYPES, parse_compact
from or_cache_magic.core.json_schema import nullable, problem, strict, why_no_schema
from or_cache_magic.core.schema import read_schema
from or_cache_magic.core.settings import Settings
from or_cache_magic.errors import InputError, OptionError, RequestError

SETTINGS = Settings(model="openai/gpt-4o-mini")


@dataclass
class Author:
    name: str
    born: date | None = None


@dataclass
class Book:
    """A book that is on the shelf."""

    title: Annotated[str, "as on the cover"]
    year: int
    authors: list[Author] = field(default_factory=list, metadata={"description": "first author first"})
    mood: Literal["good", "bad"] = "good"
    weight: float = 0.0


@dataclass
class Tree:
    label: str
    branches: list[Tree]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Review(pydantic.BaseModel):
    """What a reader says."""

    stars: int = pydantic.Field(ge=1, le=5, description="of five")
    text: str | None = None

    @pydantic.field_validator("stars")
    @classmethod
    def _no_four(cls, stars):
        if stars == 4:
            raise ValueError("four is never given")
        return stars


def sent(given_):
    """The schema that goes out."""
    return read_schema(given_).response_format["json_schema"]["schema"]


def sketch(text):
    """The schema of a short form."""
    return parse_compact(text)


# -- the short form ---------------------------------------------------------------------------


def test_parse_compact__reads_the_designs_example():
    """Fields in their order, all required, a question mark for null."""
    found = sketch("name str, year int?, tags [str], mood enum(good,bad)")
    assert list(found["properties"]) == found["required"] == ["name", "year", "tags", "mood"]
    assert found["properties"] == {
        "name": {"type": "string"},
        "year": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "mood": {"type": "string", "enum": ["good", "bad"]},
    }
    assert found["additionalProperties"] is False


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("float", {"type": "number"}),
        ("bool?", {"type": ["boolean", "null"]}),
        ("date", {"type": "string", "format": "date"}),
        ("datetime", {"type": "string", "format": "date-time"}),
        ("[int?]", {"type": "array", "items": {"type": ["integer", "null"]}}),
        ("[[str]]?", {"type": ["array", "null"], "items": {"type": "array", "items": {"type": "string"}}}),
        ("enum(1, 2)", {"type": "integer", "enum": [1, 2]}),
        ("enum(1, two)", {"type": "string", "enum": ["1", "two"]}),
        ("enum('1', '2')", {"type": "string", "enum": ["1", "2"]}),
        ("enum(a, 'b c')?", {"type": ["string", "null"], "enum": ["a", "b c", None]}),
        ('str "so \\"to\\" say"', {"type": "string", "description": 'so "to" say'}),
    ],
)
def test_parse_compact__knows_each_type(text, node):
    """Also as the last of several fields, and inside an object."""
    assert sketch(f"x {text}")["properties"]["x"] == node
    assert sketch(f"a str, x {text}")["properties"]["x"] == node
    assert sketch(f"o {{x {text}}}")["properties"]["o"]["properties"]["x"] == node


def test_parse_compact__takes_lines_for_commas():
    """A file may have a field a line, with or without commas, and a comma behind the last."""
    assert (
        sketch("\n a str\nb {\n c int,\n d int\n}\n\ne [\n str\n]")
        == sketch("a str, b {c int, d int}, e [str]")
        == sketch("a str,\r\nb {c int, d int,}\n,e [str],\n")
    )


@pytest.mark.parametrize(
    ("text", "problem_"),
    [
        ("", "the schema is empty: write name str, year int?"),
        ("name", "column 5: name has no type: write name str"),
        ("name, age int", "column 5: name has no type: write name str"),
        ("name: str", "column 5: no colon goes between a name and its type: name str"),
        ("name itn", "column 6: 'itn' is no type: did you mean int?"),
        ("name string", "column 6: 'string' is no type: did you mean str?"),
        ("a list[str]", "column 3: 'list' is no type: did you mean [str]?"),
        ("a xyzzy", "column 3: 'xyzzy' is no type: the types are str, int, float, bool, date, datetime, enum(…), […], {…}"),
        ("str name", "column 5: 'name' is no type; the name comes first: name str"),
        ("a [b str]", "column 4: 'b' is no type; an object stands in braces: {b str}"),
        ("name str year int", "column 10: a comma is missing before 'year'"),
        ("a str, , b int", "column 8: a field is missing before this comma"),
        ("a str, a int", "column 8: there are two fields a"),
        ("9a str", "column 1: '9a' is no name of a field: it begins with a letter and has no spaces"),
        ("a? str", "column 2: the ? goes behind the type: a str?"),
        ("a str??", "column 7: one ? is enough"),
        ("a [str", "column 3: this [ is never closed: write ] behind what is in it"),
        ("a {b str", "column 3: this { is never closed: write } behind what is in it"),
        ("a enum(x", "column 7: this ( is never closed: write ) behind the choices"),
        ("a str]", "column 6: ] closes nothing"),
        ("a {b str]", "column 9: ] closes nothing, which { does not open"),
        ("a {}", "column 3: an object has at least one field: {name str}"),
        ("a []", "column 4: ']' is no type"),
        ("a [str, int]", "column 7: ',' can't stand here: what follows a type is ?, a description in quotes, or a comma"),
        ("a enum", "column 3: enum needs its choices: enum(good,bad)"),
        ("a enum()", "column 7: enum needs its choices: enum(good,bad)"),
        ("a enum(x y)", "column 10: a comma is missing before 'y'; quote a choice with spaces"),
        ("a enum(x, x)", "column 11: there are two choices 'x'"),
        ("a enum([x])", "column 8: '[' is no choice: write words with commas between, or quote them"),
        ("a str 'x", "column 7: the quote ' is never closed"),
        ("a str 'x' 'y'", "column 11: a field has one description"),
        ("a str ' '", "column 7: the description of a is empty"),
        ("a str: who", "column 6: ':' means nothing here; a description stands in quotes"),
        ("a str %", "column 7: '%' means nothing here"),
        ("[str] b", "column 7: 'b' stands behind the end of the schema"),
        ("a str\nb str\nc itn", "line 3, column 3: 'itn' is no type: did you mean int?"),
    ],
)  # fmt: skip
def test_parse_compact__says_what_is_wrong_and_where(text, problem_):
    """One message a mistake, with the place, and what to write instead."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        sketch(text)
    assert str(caught.value) == problem_


NAMES = st.from_regex(r"[a-z_][a-z0-9_-]{0,5}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)


@st.composite
def short_forms(draw, depth=2):
    """A type in the short form, and its schema."""
    kinds = ["plain", "enum"] + (["list", "object"] if depth else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "plain":
        name = draw(st.sampled_from(sorted(TYPES)))
        text, node = name, dict(TYPES[name])
    elif kind == "enum":
        values = draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))
        text, node = f"enum({','.join(map(quoted, values))})", {"type": "string", "enum": values}
    elif kind == "list":
        inner, node = draw(short_forms(depth=depth - 1))
        text, node = f"[{inner}]", {"type": "array", "items": node}
    else:
        inner, node = draw(fields(depth=depth - 1))
        text = f"{{{inner}}}"
    return (f"{text}?", nullable(node)) if draw(st.booleans()) else (text, node)


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def fields(draw, depth=2):
    """Fields in the short form, and the schema of the object that has them."""
    texts, properties = [], {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        text, node = draw(short_forms(depth=depth))
        if described := draw(st.one_of(st.just(""), TEXTS)):
            text, node = f"{text} {quoted(described)}", {**node, "description": described}
        texts.append(f"{name} {text}")
        properties[name] = node
    separator = draw(st.sampled_from([",", ", ", "\n", " ,\n"]))
    required = list(properties)
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return separator.join(texts), schema


@given(fields())
def test_parse_compact__means_what_was_written(written):
    """Every form that the grammar has is read as it was made, in its order; it is a JSON Schema, and strict."""
    text, schema = written
    found = sketch(text)
    assert json.dumps(found) == json.dumps(schema)
    jsonschema.Draft202012Validator.check_schema(found)
    assert json.dumps(strict(found)) == json.dumps(found)


@given(st.text(st.sampled_from("ab str int?enum(),[]{}\n\"':%1-\\"), max_size=30))
def test_parse_compact__takes_any_text_or_says_where(text):
    """Nothing but a ValueError with a place comes of any text, and what is read has a strict form."""
    try:
        found = sketch(text)
    except ValueError as exc:
        assert str(exc).startswith(("column ", "line ", "the schema is empty"))  # noqa: PT017
        return
    assert strict({"type": "object", "properties": {"x": found}}) is not None


# -- JSON Schemas -----------------------------------------------------------------------------


def test_read_schema__closes_a_json_schema():
    """Strict where it can be: no other properties, all required, those that need not be may be null."""
    given_ = {
        "title": "Book shelf",
        "type": "object",
        "properties": {
            "b": {"type": "string", "description": "kept"},
            "a": {"type": "integer", "default": 7},
            "c": {"anyOf": [{"type": "string"}, {"type": "number"}]},
            "d": {"$ref": "#/$defs/D", "description": "beside a reference"},
            "e": {"enum": ["x"], "type": "string"},
        },
        "required": ["b", "d"],
        "$defs": {"D": {"type": "object", "properties": {"x": {"type": "string"}}}},
    }
    found = read_schema(given_)
    form = found.response_format["json_schema"]
    assert (form["name"], form["strict"], found.key) == ("Book_shelf", True, "")
    assert form["schema"] == {
        "title": "Book shelf",
        "type": "object",
        "properties": {
            "b": {"type": "string", "description": "kept"},
            "a": {"type": "integer"},
            "c": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]},
            "d": {"anyOf": [{"$ref": "#/$defs/D"}], "description": "beside a reference"},
            "e": {"enum": ["x", None], "type": ["string", "null"]},
        },
        "required": ["b", "a", "c", "d", "e"],
        "$defs": {
            "D": {
                "type": "object",
                "properties": {"x": {"type": "string"}},
                "required": ["x"],
                "additionalProperties": False,
            }
        },
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "node",
    [
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {"a": {"type": "array"}}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True},
        {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}]}}},
        {"type": "object", "properties": {"a": {"anyOf": [{"not": {"type": "null"}}]}}},
    ],
)
def test_read_schema__sends_what_has_no_strict_form_as_it_is(node):
    """It says so, and changes nothing."""
    form = read_schema(node).response_format["json_schema"]
    assert (form["strict"], form["schema"]) == (False, node)


@pytest.mark.parametrize(
    ("given_", "key"),
    [
        ("[{a str}]", "items"),
        ({"type": "array", "items": {"$ref": "#/$defs/A"}, "$defs": {"A": {"type": "string"}}}, "items"),
        ("enum(ham, spam)", "value"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "value"),
        (list[Book], "items"),
        (Book | None, "value"),
        (bool, "value"),
        (pydantic.RootModel[list[int]], "items"),
    ],
)
def test_read_schema__puts_what_is_no_object_into_one(given_, key):
    """Providers take only objects; definitions stay where references look for them, and the value comes out."""
    found = read_schema(given_)
    schema = found.response_format["json_schema"]["schema"]
    assert (found.key, schema["type"], schema["required"]) == (key, "object", [key])
    assert "$defs" not in schema["properties"][key]
    jsonschema.Draft202012Validator.check_schema(schema)


def test_read_schema__refuses_to_wrap_what_refers_to_its_top():
    """It would mean another."""
    with pytest.raises(ValueError, match=r"put what is referred to into \$defs"):
        read_schema({"type": "array", "items": {"$ref": "#"}})


def test_read_schema__leaves_a_whole_response_format_as_it_is():
    """Whoever writes it out means it, strict or not; a name is given where it has none."""
    whole = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
    }
    assert read_schema(whole).response_format == whole
    assert read_schema(whole["json_schema"]).response_format == whole
    del whole["json_schema"]["name"]
    assert read_schema(whole).response_format["json_schema"]["name"] == "answer"


def test_read_schema__reads_json_in_text():
    """A file or an option may hold a JSON Schema."""
    text = '{"type": "object", "properties": {"a": {"type": "string"}}}'
    assert read_schema(text) == read_schema(json.loads(text))
    with pytest.raises(ValueError, match="it begins as JSON, and is none: Expecting"):
        read_schema('{"type": }')


@pytest.mark.parametrize("given_", [{"name": "str"}, {}, {"type": "json_schema"}, 5, object(), b"a str"])
def test_build_ask__refuses_what_is_no_schema(given_):
    """Before anything is sent, with what to write."""
    with pytest.raises(OptionError, match=r"schema = .* \(nothing was sent\)") as caught:
        build_ask("q", SETTINGS, {"schema": given_})
    assert "a schema is a text such as 'name str, year int?" in caught.value.hint


def test_build_ask__refuses_a_schema_beside_a_response_format():
    """They are the same field."""
    form = {"type": "json_object"}
    for given_ in ({"response_format": form}, {"extra": {"response_format": form}}):
        with pytest.raises(OptionError, match="schema and response_format exclude each other"):
            build_ask("q", SETTINGS, {"schema": "a str", **given_})


def test_build_ask__refuses_repair_without_a_form():
    """There is nothing that an answer could miss."""
    with pytest.raises(OptionError, match="repair goes with a schema"):
        build_ask("q", SETTINGS, {"repair": 1})
    assert build_ask("q", SETTINGS, {"repair": 1, "response_format": {"type": "json_object"}}).repair == 1


def test_build_ask__shares_no_schema_with_its_caller():
    """What is changed afterwards changes nothing of what is keyed and sent."""
    given_ = {"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}
    whole = {"type": "json_schema", "json_schema": {"name": "x", "schema": given_}}
    asks = [build_ask("q", SETTINGS, {"schema": schema}) for schema in (given_, whole)]
    before = [json.dumps(ask.request.body) for ask in asks]
    given_["properties"]["a"]["pattern"] = "y"
    assert [json.dumps(ask.request.body) for ask in asks] == before


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["type", "properties", "items", "anyOf", "$ref", "enum", "required", "$defs", "a"]),
                st.one_of(inner, st.sampled_from(["object", "array", "string", "#/$defs/a"])),
                max_size=4,
            ),
        ),
    )
)  # fmt: skip
def test_build_ask__takes_any_json_for_a_schema_or_says_why_not(schema):
    """Whatever stands in a file, nothing but our own error comes of it."""
    try:
        ask = build_ask("q", SETTINGS, {"schema": schema})
    except (OptionError, RequestError):
        return
    assert schema is None or ask.request.body["response_format"]["type"] == "json_schema"


# -- classes ----------------------------------------------------------------------------------


def test_read_schema__reads_a_dataclass():
    """Fields in their order, what describes them, classes inside it as definitions."""
    found = read_schema(Book)
    form = found.response_format["json_schema"]
    assert (form["name"], form["strict"], found.label) == ("Book", True, "Book")
    assert form["schema"]["description"] == "A book that is on the shelf."
    assert form["schema"]["properties"] == {
        "title": {"type": "string", "description": "as on the cover"},
        "year": {"type": "integer"},
        "authors": {
            "type": "array",
            "items": {"$ref": "#/$defs/Author"},
            "description": "first author first",
        },
        "mood": {"type": "string", "enum": ["good", "bad"]},
        "weight": {"type": "number"},
    }
    assert form["schema"]["$defs"]["Author"]["properties"] == {
        "name": {"type": "string"},
        "born": {"type": ["string", "null"], "format": "date"},
    }
    assert "description" not in form["schema"]["$defs"]["Author"]


def test_schema__makes_dataclasses_of_an_answer():
    """Recursively, in lists too."""
    said = {
        "title": "Dune",
        "year": 1965,
        "authors": [{"name": "Herbert", "born": "1920-10-08"}, {"name": "N. N.", "born": None}],
        "mood": "bad",
        "weight": 1,
    }
    book = Book("Dune", 1965, [Author("Herbert", date(1920, 10, 8)), Author("N. N.")], "bad", 1.0)
    assert read_schema(Book).value(json.dumps(said)) == book
    assert read_schema(list[Book]).value(json.dumps({"items": [said, said]})) == [book, book]
    assert type(read_schema(Book).value(json.dumps(said)).weight) is float


def test_schema__makes_classes_that_hold_themselves():
    """Their schema refers to itself; providers want an object at the top all the same."""
    schema = sent(Tree)
    assert schema["type"] == "object"
    assert schema["properties"]["branches"]["items"] == {"$ref": "#/$defs/Tree"}
    leaf = {"label": "leaf", "branches": []}
    tree = read_schema(Tree).value(json.dumps({"label": "root", "branches": [leaf]}))
    assert tree == Tree("root", [Tree("leaf", [])])


def test_schema__makes_pydantics_own_instances():
    """By pydantic's own schema, and its own validation of JSON."""
    found = read_schema(list[Review])
    assert found.value('{"items": [{"stars": 5, "text": null}]}') == [Review(stars=5)]
    node = sent(Review)
    assert node["properties"]["stars"]["description"] == "of five"
    assert node["required"] == ["stars", "text"]
    with pytest.raises(ValueError, match=r"\S") as caught:
        found.value('{"items": [{"stars": 4, "text": 1}, {"stars": 9, "text": "x"}]}')
    assert str(caught.value) == (
        "[0].stars: Value error, four is never given; [0].text: Input should be a valid string"
    )


def test_schema__mixes_dataclasses_and_pydantics_classes():
    """Each makes what it knows."""

    @dataclass
    class Shelf:
        best: Review
        others: dict[str, Review]

    Shelf.__annotations__ = {"best": Review, "others": dict[str, Review]}
    review = {"stars": 3, "text": "ok"}
    shelf = read_schema(Shelf).value(json.dumps({"best": review, "others": {"a": review}}))
    assert shelf == Shelf(Review(**review), {"a": Review(**review)})
    assert read_schema(Shelf).response_format["json_schema"]["strict"] is False  # any names


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "3.0", 3),
        (float, "3", 3.0),
        (bool, "true", True),
        (Colour, '"red"', Colour.RED),
        (Literal[1, 2], "2", 2),
        (date, '"2026-01-15"', date(2026, 1, 15)),
        (datetime, '"2026-01-15T09:30:00Z"', datetime(2026, 1, 15, 9, 30, tzinfo=timezone.utc)),
        (datetime, '"2026-01-15 09:30"', datetime(2026, 1, 15, 9, 30)),  # noqa: DTZ001 - without a zone
        (int | str, '"x"', "x"),
        (Author | Tree, '{"label": "x", "branches": []}', Tree("x", [])),
        (tuple[int, ...], "[1, 2]", (1, 2)),
    ],
)
def test_schema__gives_the_value_of_any_type(kind, text, value):
    """What is no object stands in one; whole floats are integers, integers are floats."""
    found = read_schema(kind)
    answer = json.dumps({found.key: json.loads(text)}) if found.key else text
    assert found.value(answer) == value
    assert type(found.value(answer)) is type(value)
    assert problem(found.response_format["json_schema"]["schema"], json.loads(answer)) is None


@pytest.mark.parametrize(
    ("kind", "answer", "why"),
    [
        (Book, "[]", "[] is not an object"),
        (Author, '{"name": 7, "born": null}', "name: 7 is not str"),
        (Author, '{"name": "x"}', "born is missing"),
        (Author, '{"name": "x", "born": "yesterday"}', "born: 'yesterday' is no date such as 2026-01-15"),
        (list[Author], '{"items": [{"name": true, "born": null}]}', "[0].name: True is not str"),
        (list[int], '{"items": 1}', "1 is not a list"),
        (list[int], "{}", "items is missing"),
        (Colour, '{"value": "green"}', "'green' is not a valid Colour"),
        (Literal["a", "b"], '{"value": "c"}', "'c' is not one of 'a', 'b'"),
        (int | None, '{"value": "c"}', "'c' is not int"),
        (int | bool, '{"value": "c"}', "'c' is not int or bool"),
    ],
)
def test_schema__says_what_does_not_fit_a_class(kind, answer, why):
    """With its place."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        read_schema(kind).value(answer)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("schema", "answer", "value"),
    [
        ("a int", '{"a": 1.0}', {"a": 1}),
        ("a int?", '{"a": 1e3}', {"a": 1000}),
        ("int", '{"value": 2.0}', 2),
        ("[int]", '{"items": [1.0, 2]}', [1, 2]),
        (
            "a {b [int?]}, c [{d int}]",
            '{"a": {"b": [1.0, null]}, "c": [{"d": 0.0}]}',
            {"a": {"b": [1, None]}, "c": [{"d": 0}]},
        ),
        ("a float, b str", '{"a": 1.0, "b": "1.0"}', {"a": 1.0, "b": "1.0"}),
        (
            {
                "type": "object",
                "properties": {
                    "at": {"$ref": "#/$defs/node"},
                    "any": {},
                    "both": {"type": ["integer", "number"]},
                },
                "$defs": {
                    "node": {
                        "type": "object",
                        "properties": {
                            "n": {"type": "integer"},
                            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                        },
                        "additionalProperties": {"type": "integer"},
                    }
                },
            },
            '{"at": {"n": 1.0, "next": {"n": 2.0, "next": null, "x": 3.0}}, "any": 1.0, "both": 1.0}',
            {"at": {"n": 1, "next": {"n": 2, "next": None, "x": 3}}, "any": 1.0, "both": 1.0},
        ),
    ],
)
def test_schema__gives_whole_numbers_where_integers_are(schema, answer, value):
    """To JSON ``1.0`` is one; a list that refers to itself for ever has an end."""
    assert repr(read_schema(schema).value(answer)) == repr(value)
    ring = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/r"}},
        "$defs": {"r": {"$ref": "#/$defs/r"}},
    }
    assert read_schema(ring).value('{"a": 1.0}') == {"a": 1.0}


@dataclass
class Measured:
    length: float


class Weighed(pydantic.BaseModel):
    length: float


@pytest.mark.parametrize("kind", ["length float", "length int", Measured, Weighed])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("9" * 400, "a whole number of 400 digits is too long to be read"),
        ("9" * 5000, "too long to be read"),
        ("-" + "9" * 400, "too long to be read"),
        ("1e400", "is not finite"),
        ('1, "length": 2', "'length' is there twice"),
    ],
    ids=["400 digits", "5000 digits", "negative", "1e400", "twice"],
)
def test_schema__takes_no_number_that_is_infinite_and_no_name_twice(kind, text, why):
    """Whatever reads it: nobody knows what was meant."""
    assert why in read_schema(kind).why_not(f'{{"length": {text}}}')
    assert read_schema(kind).why_not(f'{{"length": {"9" * 300}}}') is None


@pytest.mark.parametrize("kind", ["a str, b [str]", dict])
def test_schema__has_whole_characters(kind):
    """Half a character, as an escape can name it, goes into no file and on no screen."""
    kind = kind if kind is not dict else {"type": "object", "properties": {"a": {"type": "string"}}}
    found = read_schema(kind).value(
        '{"a": "x\\ud800", "b": ["\\uDC00\\ud83d", "\\ud83d\\ude00", "\\\\ud800"], "\\ud800": 1}'
    )
    assert found == {"a": "x\ufffd", "b": ["\ufffd\ufffd", "\U0001f600", "\\ud800"], "\ufffd": 1}


@pytest.mark.parametrize(
    "raised", [SystemExit(3), KeyError("post sk-or-v1-" + "f0" * 32), ValueError("sk-or-v1-" + "f0" * 32)]
)
def test_schema__tells_no_secret_and_leaves_no_cell(raised):
    """What a check of the user's own raises is a misfit, and shows no key, however it comes there."""

    @dataclass
    class Rude:
        number: int

        def __post_init__(self):
            raise raised

    Rude.__annotations__ = {"number": int}
    why = read_schema(Rude).why_not('{"number": 3}')
    assert why.startswith("the answer does not fit Rude (")
    assert "f0f0" not in why


def test_schema__tells_whatever_a_class_raises_as_a_misfit():
    """A check of the user's own may raise anything; what was paid for must survive it."""

    @dataclass
    class Even:
        number: int

        def __post_init__(self):
            if self.number % 2:
                raise RuntimeError("odd")

    Even.__annotations__ = {"number": int}
    found = read_schema(Even)
    assert found.value('{"number": 2}') == Even(2)
    assert found.why_not('{"number": 3}') == "the answer does not fit Even (odd)"
    assert found.why_not('{"number": 2}') is None


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (set, "set has no JSON Schema; it can be a dataclass"),
        (list, "list has no JSON Schema"),
        (complex, "complex has no JSON Schema"),
        (list[bytes], r"\[\]: bytes has no JSON Schema"),
        (enum.Enum("Odd", {"A": (1, 2)}), "has a choice that is neither a text, a number nor a truth value"),
    ],
)
def test_read_schema__refuses_types_that_json_does_not_have(kind, why):
    """It names the part."""
    with pytest.raises(ValueError, match=why):
        read_schema(kind)


def test_read_schema__refuses_two_classes_of_one_name():
    """A definition can only be one of them."""
    other = dataclass(type("Author", (), {"__annotations__": {"pen": str}}))
    with pytest.raises(ValueError, match="two classes are called Author"):
        read_schema(Author | other)


# -- what does not fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"a": "x", "b": [1]}, None),
        ({"a": "x", "b": ["y"]}, "b[0]: 'y' is not of type 'integer'"),
        ({"a": 1, "b": ["y"]}, "a: 1 is not of type 'string'; b[0]: 'y' is not of type 'integer'"),
        ({"b": []}, "'a' is a required property"),
        ({"a": 1, "b": ["y"] * 9}, "a: 1 is not of type 'string'; b[0]: 'y' is not of type 'integer'; b[1]: 'y' is not of type 'integer'; and more"),
        ({"a": "x", "b": "y" * 500}, f"b: '{'y' * 38}… is not of type 'array'"),
        ([], "[] is not of type 'object'"),
    ],
)  # fmt: skip
def test_problem__names_the_places(value, why):
    """At most three; a long value is cut, what is wrong with it is not."""
    assert problem(sketch("a str, b [int]"), value) == why


@pytest.mark.parametrize(
    ("text", "fits"),
    [("2026-01-15", True), ("2026-02-30", False), ("20260115", False), ("soon", False)],
)
def test_problem__checks_dates(text, fits):
    """A date is one; other formats are hints to the model."""
    assert (problem(sketch("d date"), {"d": text}) is None) is fits
    assert problem({"properties": {"d": {"format": "email"}}}, {"d": "soon"}) is None


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("2026-01-15T09:30:00Z", True),
        ("2026-01-15T09:30:00.123456789+02:00", True),
        ("2026-01-15 09:30", True),
        ("2026-01-15T25:00:00Z", False),
        ("09:30", False),
    ],
)
def test_problem__checks_times(text, fits):
    """With a zone or without."""
    assert (problem(sketch("d datetime"), {"d": text}) is None) is fits


# -- the key ----------------------------------------------------------------------------------

SCHEMAS = fields().map(lambda written: written[1])


def key_of(schema):
    return build_ask("q", SETTINGS, {"schema": schema}).key


@given(SCHEMAS, st.data())
def test_request_key__tells_apart_what_the_model_is_told(schema, data):
    """The order of properties, a description, a type, what is required: each is another request; equal ones are one."""
    assert key_of(schema) == key_of(json.loads(json.dumps(schema)))
    properties = schema["properties"]
    name = data.draw(st.sampled_from(sorted(properties)))
    node = properties[name]
    changed = [
        {**schema, "properties": {**properties, name: {**node, "description": node.get("description", "") + "."}}},
        {**schema, "properties": {**properties, name: nullable(node)}} if "null" not in node["type"] else None,
        {**schema, "required": [n for n in properties if n != name]} if "null" not in node["type"] else None,
        {**schema, "properties": {**properties, f"{name}_": node}, "required": [*properties, f"{name}_"]},
    ]  # fmt: skip
    if len(properties) > 1:
        order = data.draw(st.permutations(list(properties)).filter(lambda names: names != list(properties)))
        changed.append({**schema, "properties": {n: properties[n] for n in order}, "required": order})
    keys = {key_of(other).digest for other in changed if other is not None}
    assert key_of(schema).digest not in keys


def test_request_key__is_one_for_classes_of_one_schema():
    """Two classes that tell the model the same share an entry, and each makes its own instances."""

    def make():
        return dataclass(type("Twin", (), {"__annotations__": {"a": int}, "__doc__": ""}))

    first, second = (build_ask("q", SETTINGS, {"schema": make()}) for _ in range(2))
    assert first.key == second.key
    assert type(first.schema.value('{"a": 1}')) is not type(second.schema.value('{"a": 1}'))


def test_request_key__is_not_changed_by_repair():
    """How often it may be asked again is not what is asked."""
    once, again = (build_ask("q", SETTINGS, {"schema": "a str", "repair": n}) for n in (0, 3))
    assert once.key == again.key


@given(st.one_of(st.integers(), st.text(), st.floats(allow_nan=True)))
def test_build_ask__takes_a_number_of_repairs(repair):
    """From 0 to 10, or an error of ours."""
    try:
        ask = build_ask("q", SETTINGS, {"schema": "a str", "repair": repair})
    except InputError:
        return
    assert 0 <= ask.repair <= 10


# -- classes of which nothing may get lost -----------------------------------------------------


@dataclass
class Money:
    amount: float


@dataclass
class Priced:
    amount: float
    currency: str


class LooseMoney(pydantic.BaseModel):
    amount: float


class LoosePriced(pydantic.BaseModel):
    amount: float
    currency: str


@pytest.mark.parametrize(
    ("short", "whole"), [(Money, Priced), (LooseMoney, LoosePriced), (Money, LoosePriced)]
)
def test_schema__takes_of_a_union_the_member_that_fits_whole(short, whole):
    """A class that would leave fields out comes after one that has them, in a list and inside a list too."""
    euros = {"amount": 3.5, "currency": "EUR"}
    one, bare = whole(**euros), short(amount=1.0)
    found = read_schema(list[Union[short, whole]]).cast({"items": [euros, {"amount": 1}]})  # noqa: UP007
    assert found == [one, bare]
    nested = read_schema(Union[list[short], list[whole]]).cast({"value": [euros]})  # noqa: UP007
    assert nested == [one]


def test_schema__a_dataclass_takes_no_field_that_it_does_not_have():
    """Its schema is closed: what it would leave out is a misfit, not lost."""
    with pytest.raises(ValueError, match=r"^currency: Money has no such field$"):
        read_schema(Money).cast({"amount": 1.0, "currency": "EUR"})
    assert sent(dict[str, Money])["$defs"]["Money"]["additionalProperties"] is False


def test_schema__reads_pydantics_dataclasses_by_pydantic():
    """What the model is told, what is checked, and by which name: all as the class says it."""

    @pydantic.dataclasses.dataclass
    class Price:
        amount: int = pydantic.Field(description="in EUR", ge=5)
        from_: str = pydantic.Field(alias="from")

    for kind, wrap in (
        (Price, None),
        (list[Price], "items"),
        (make_dataclass("Holder", [("price", Price)]), "price"),
    ):
        schema = read_schema(kind)
        form = json.dumps(schema.response_format)
        assert all(part in form for part in ('"in EUR"', '"minimum": 5', '"from"'))
        assert "from_" not in form
        fits, misfits = {"amount": 5, "from": "a"}, {"amount": 1, "from": "a"}
        value, bad = fits, misfits
        if wrap is not None:
            value, bad = ({wrap: [one] if wrap == "items" else one} for one in (fits, misfits))
        made = schema.cast(value)
        made = made[0] if wrap == "items" else getattr(made, "price", made)
        assert (type(made), made.amount, made.from_) == (Price, 5, "a")
        with pytest.raises(ValueError, match="greater than or equal to 5"):
            schema.cast(bad)


def test_request_key__tells_apart_what_pydantics_dataclasses_tell():
    """Two that differ in a description only are two requests."""

    def priced(unit):
        @pydantic.dataclasses.dataclass
        class Price:
            amount: int = pydantic.Field(description=unit)

        return Price

    keys = {build_ask("x", SETTINGS, {"schema": priced(unit)}, {}).key for unit in ("in EUR", "in USD")}
    assert len(keys) == 2


def test_schema__honours_rules_in_a_dataclass():
    """Pydantic's are sent and checked wherever they stand in a plain dataclass: none is left out silently."""

    @dataclass
    class Rated:
        stars: Annotated[int, "of five", pydantic.Field(ge=1, le=5)]
        tags: Annotated[list[str], pydantic.Field(min_length=1, description="any")]
        score: int = pydantic.Field(ge=3)

    Rated.__annotations__["stars"] = Annotated[int, "of five", pydantic.Field(ge=1, le=5)]
    Rated.__annotations__["tags"] = Annotated[list[str], pydantic.Field(min_length=1, description="any")]
    properties = sent(Rated)["properties"]
    assert properties["stars"] == {"type": "integer", "minimum": 1, "maximum": 5, "description": "of five"}
    assert properties["tags"] == {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "description": "any",
    }
    assert properties["score"] == {"type": "integer", "minimum": 3}
    good = {"stars": 5, "tags": ["a"], "score": 3}
    assert read_schema(Rated).cast(good) == Rated(5, ["a"], 3)
    for name, bad in (("stars", 6), ("tags", []), ("score", 2)):
        with pytest.raises(ValueError, match=f"^{name}: "):
            read_schema(Rated).cast({**good, name: bad})


class Deep(pydantic.BaseModel):
    path: str = pydantic.Field(validation_alias=pydantic.AliasPath("a", "b"))


class Chosen(pydantic.BaseModel):
    name: str = pydantic.Field(validation_alias=pydantic.AliasChoices(pydantic.AliasPath("a", "b"), "c"))


class Holds(pydantic.BaseModel):
    deep: list[Deep]


@dataclass
class Init:
    a: int
    b: InitVar[int]


@dataclass
class Renamed:
    a: Annotated[int, pydantic.Field(alias="b")]


@dataclass
class RuledBooks:
    books: Annotated[list[Book], pydantic.Field(min_length=1)]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Deep, "Deep: a field has an alias that is a path"),
        (Holds, "Holds: a field has an alias that is a path"),
        (list[Holds], "Holds: a field has an alias that is a path"),
        (Init, "Init.b is an InitVar"),
        (Renamed, "Renamed.a: an alias"),
        (RuledBooks, "RuledBooks.books: rules for"),
    ],
)
def test_read_schema__refuses_what_no_answer_could_fit(kind, why):
    """Before it is sent: an answer of that form would be paid for, and never be a value."""
    with pytest.raises(ValueError, match=why):
        read_schema(kind)


def test_schema__takes_the_name_that_pydantic_sends_of_several():
    """Where an alias is one of several, the one that is sent is among them."""
    assert list(sent(Chosen)["properties"]) == ["c"]
    assert read_schema(Chosen).cast({"c": "x"}).name == "x"


def test_schema__finds_the_types_that_are_there_now(monkeypatch):
    """A class that a cell defined again is the new one for those that name it, rerun or not."""
    import sys
    import types

    module = types.ModuleType("notebook_like")
    monkeypatch.setitem(sys.modules, "notebook_like", module)
    heads = "from dataclasses import dataclass\nfrom typing import List, Optional\n"
    one, two = "@dataclass\nclass Au:\n a: int\n", "@dataclass\nclass Au:\n a: int\n b: int\n"
    refers = "@dataclass\nclass Bo:\n x: 'Au'\n y: List['Au']\n z: Optional['Au']\n"
    exec(heads + one + refers, module.__dict__)
    assert "'b'" not in str(sent(module.Bo))
    for cell in (two, refers):
        exec(cell, module.__dict__)
        assert "'b'" in str(sent(module.Bo))
        new = {"a": 1, "b": 2}
        made = read_schema(module.Bo).cast({"x": new, "y": [new], "z": new})
        assert made.x == made.y[0] == made.z == module.Au(1, 2)


# -- schemas that could not judge ------------------------------------------------------------------


def _with(a, **more):
    both = {"a": a, "b": {"type": "integer"}}
    return {"type": "object", "properties": both, "required": ["a", "b"], **more}


@pytest.mark.parametrize(
    "schema",
    [
        _with({"$ref": "#/$defs/none"}),
        _with({"$ref": "#/$def/A"}, **{"$defs": {"A": {"type": "string"}}}),
        _with({"$ref": "https://example.org/schema"}),
        _with({"$ref": "#/properties/a"}),
        _with({"$ref": "#/$defs/A"}, **{"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}}),
        _with({"$dynamicRef": "#node"}),
        _with({"anyOf": [{"type": "null"}, {"items": {"$ref": "#/required"}}]}),
    ],
)
def test_why_no_schema__refuses_a_reference_to_nothing(schema):
    """With one such the validator gives up on all of the schema: nothing would be checked."""
    assert "refers to" in why_no_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        _with({"$ref": "#/$defs/A"}, **{"$defs": {"A": {"type": "string"}}}),
        _with({"$ref": "#named"}, **{"$defs": {"A": {"$anchor": "named", "type": "string"}}}),
        _with({"$ref": "other"}, **{"$defs": {"A": {"$id": "other", "type": "string"}}}),
        _with({"type": ["string", "object"], "properties": {"in": {"$ref": "#"}}}),
        _with({"default": {"$ref": "a value"}, "enum": ["x", {"$ref": "another"}]}),
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            **_with({"$ref": "#/definitions/A"}, definitions={"A": {"type": "string"}}),
        },
    ],
)
def test_why_no_schema__takes_references_that_lead_somewhere(schema):
    """Also by an anchor or an id, to its top, and where it only looks like one; what it says is checked."""
    assert why_no_schema(schema) is None
    assert "integer" in problem(schema, {"a": "x", "b": "no integer"})
    assert problem(schema, {"a": "x", "b": 1}) is None


@pytest.mark.parametrize(
    ("step", "value", "fits"),
    [
        (0.1, 0.3, True),
        (0.01, 19.99, True),
        (0.1, 0.35, False),
        (3, 9.0, True),
        (2, 1e300, True),
        (2, 3, False),
    ],
)
def test_problem__counts_multiples_as_json_has_its_numbers(step, value, fits):
    """In decimals, and not in what binary makes of them."""
    assert (problem({"multipleOf": step}, value) is None) is fits
