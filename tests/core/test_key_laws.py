"""The laws of the key: what it must not see, what it must see, and that no two requests share one."""

from __future__ import annotations

import copy
import json
import random

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.key import NOT_IN_KEY, canonical_json, request_key, skeleton_json
from or_cache_magic.core.records import Request

FORGERIES = (
    "\0",
    "\x005",
    "\x00300",
    "\0call0",
    "\0data:a/b;base64,3",
    "\\u00005",
    "call0",
    "x" * 300,
    "y" * 300,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(FORGERIES)
numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
parts = st.fixed_dictionaries({"type": st.just("text"), "text": texts})
messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant"]),
        "content": texts | st.lists(parts, max_size=3),
    },
    optional={"name": texts, "reasoning": texts},
)
schemas = st.dictionaries(texts, values, min_size=2, max_size=4)
tools = st.fixed_dictionaries({"name": texts, "parameters": schemas}).map(
    lambda function: {"type": "function", "function": function}
)
bodies = st.fixed_dictionaries(
    {"model": texts, "messages": st.lists(messages, min_size=1, max_size=4)},
    optional={
        "temperature": st.floats(0, 2),
        "max_tokens": st.integers(1, 10**6),
        "stop": st.lists(texts, max_size=3),
        "provider": st.dictionaries(texts, values, max_size=3),
        "tools": st.lists(tools, min_size=1, max_size=2),
        "response_format": schemas.map(
            lambda schema: {"type": "json_schema", "json_schema": {"schema": schema}}
        ),
        "unheard_of": values,
    },
)


def key(body, **facts):
    return request_key(Request(body, **facts)).digest


def changed(value, change, *, ordered=False):
    """A copy in which every object and number went through ``change(value, ordered)``."""
    if isinstance(value, dict):
        items = {
            name: changed(item, change, ordered=ordered or name in ("parameters", "schema"))
            for name, item in value.items()
        }
        return change(items, ordered)
    if isinstance(value, list):
        return [changed(item, change, ordered=ordered) for item in value]
    return change(value, ordered)


def places(value, kind, path=()):
    """The paths to everything of one type in a value."""
    if isinstance(value, kind):
        yield path
    if isinstance(value, (dict, list)):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, kind, (*path, name))


def at(value, path):
    for name in path:
        value = value[name]
    return value


@given(values)
def test_canonical_json__is_rfc8785(value):
    """An independent implementation writes every value that both take in the same bytes."""
    assert canonical_json(value) == rfc8785.dumps(value)


@given(values, values)
def test_skeleton__tells_values_apart(a, b):
    """Skeleton and texts are equal exactly when the values are."""
    assert (skeleton_json(a) == skeleton_json(b)) is (rfc8785.dumps(a) == rfc8785.dumps(b))


@given(st.lists(st.text("\x0005ac", max_size=3) | st.sampled_from(FORGERIES), max_size=4), st.data())
def test_skeleton__can_not_be_forged(strings, data):
    """Texts made of what placeholders are made of, joined and split at will, stay apart."""
    joined = "".join(strings)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(joined)), max_size=4)))
    others = [joined[i:j] for i, j in zip([0, *cuts], [*cuts, len(joined)], strict=True)]

    assert (skeleton_json(strings) == skeleton_json(others)) is (strings == others)


@given(bodies, st.randoms(use_true_random=False))
def test_request_key__ignores_order_outside_schemas(body, rng):
    """Names may come in any order at any depth; in schemas they stay as they are."""

    def shuffle(value, ordered):
        if not isinstance(value, dict) or ordered:
            return value
        names = list(value)
        rng.shuffle(names)
        return {name: value[name] for name in names}

    body["provider"] = {"b": {"d": 1, "c": 2}, "a": [{"f": 1, "e": 2}]}

    assert key(changed(body, shuffle)) == key(body)


@given(bodies)
def test_request_key__ignores_how_a_number_is_typed(body):
    """An integer and the float of the same value are the same."""

    def retype(value, ordered):
        if isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value

    assert key(changed(body, retype)) == key(body)


@given(bodies, st.sampled_from([*NOT_IN_KEY, "prompt_cache_key"]), values)
def test_request_key__ignores_each_excluded_field(body, field, value):
    """Whatever an excluded field says, it says nothing about the answer."""
    assert key({**body, field: value}) == key(body)


@given(bodies, st.sampled_from(["cache_control", "prompt_cache_breakpoint"]), values)
def test_request_key__ignores_marks_wherever_they_stand(body, mark, value):
    """A mark may stand in every message, every content part and every tool."""
    marked = copy.deepcopy(body)
    for message in marked["messages"]:
        message[mark] = value
        if isinstance(message["content"], list):
            for part in message["content"]:
                part[mark] = value
    for tool in marked.get("tools", ()):
        tool[mark] = value

    assert key(marked) == key(body)


@given(bodies, st.data())
def test_request_key__sees_an_unknown_field_anywhere(body, data):
    """A field that nobody has heard of makes another request, at any depth."""
    other = copy.deepcopy(body)
    at(other, data.draw(st.sampled_from(list(places(body, dict)))))["never heard of"] = data.draw(values)

    assert key(other) != key(body)


@given(bodies, st.data())
def test_request_key__sees_the_order_of_lists(body, data):
    """A list turned round is another list."""
    body["stop"] = ["a", "b"]
    path = data.draw(st.sampled_from(list(places(body, list))))
    other = copy.deepcopy(body)
    at(other, path).reverse()

    assert (key(other) == key(body)) is (rfc8785.dumps(at(other, path)) == rfc8785.dumps(at(body, path)))


@given(bodies, tools, st.integers(1, 3))
def test_request_key__sees_the_order_of_properties(body, tool, turns):
    """The properties of a tool's parameters in another order are another tool."""
    names = list(tool["function"]["parameters"])
    turns = 1 + turns % (len(names) - 1)
    turned = {name: tool["function"]["parameters"][name] for name in names[turns:] + names[:turns]}
    other = {**tool, "function": {**tool["function"], "parameters": turned}}

    assert key({**body, "tools": [other]}) != key({**body, "tools": [tool]})


@given(bodies, st.sampled_from([":free", ":online", ":thinking", ":nitro"]), st.integers(1, 10**6))
def test_request_key__sees_variant_sample_and_base_url(body, suffix, sample):
    """Another variant, another sample and another server are other requests."""
    keys = [
        key(body),
        key({**body, "model": body["model"] + suffix}),
        key(body, sample=sample),
        key(body, base_url="http://localhost:8000"),
        key(body, sample=sample, base_url="http://localhost:8000"),
    ]

    assert len(set(keys)) == len(keys)


@given(bodies)
def test_request_key__changes_nothing_in_the_body(body):
    """The body is sent as it was before its key was made."""
    call = {"id": "c", "function": {"arguments": "{}"}}
    image = {"type": "image_url", "image_url": {"url": "data:a/b;base64,AAEC"}, "cache_control": {}}
    body["messages"] += [
        {"content": [image], "tool_calls": [call]},
        {"tool_call_id": "c", "prompt_cache_x": 1},
    ]
    before = copy.deepcopy(body)
    orders = [list(at(before, path)) for path in places(before, dict)]

    request_key(Request(body))

    assert body == before
    assert [list(at(body, path)) for path in places(body, dict)] == orders


CORPUS = [
    {
        "model": "a/b",
        "messages": [
            {"role": "system", "content": "s" * 300},
            {"role": "user", "content": "u" * 300},
            {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "text", "text": "t" * 400}]},
        ],
        "temperature": 0,
        "stop": ["x", "\x00300"],
    },
    {
        "model": "a/b:free",
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:a/b;base64,AAECAwQF"}}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": 1, "function": {"arguments": "{}"}}]},
            {"role": "tool", "content": "3"},
        ],
        "tools": [{"function": {"name": "f", "parameters": {"properties": {"p": {"type": "string"}, "q": {}}}}}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"a": {"b": 1}, "c": True}}},
        "provider": {"order": ["one", "two"], "allow_fallbacks": False},
        "seed": 7,
    },
]  # fmt: skip
OTHERS = (None, True, 1, 0, 2.5, "", "1", [], {}, [""], {"": ""}, *FORGERIES)


def mutated(body, rng):
    """A copy with one change at one place: something deleted, added, replaced, split, merged or moved."""
    body = copy.deepcopy(body)
    # Ids and the digits of a data URL may change and mean the same, so they are only moved or replaced.
    *path, name = rng.choice([path for path in places(body, object) if path and path[-1] != "id"])
    holder = at(body, path)
    value = holder[name]
    change = rng.randrange(8)
    if change == 0:
        del holder[name]
    elif change == 1 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(rng.choice([value, *OTHERS])))
    elif change == 1:
        holder[rng.choice(["new", "\x005", "content", "text", "z" * 300])] = value
    elif change == 2:
        holder[name] = copy.deepcopy(rng.choice(OTHERS))
    elif change == 3:
        holder[name] = [value]
    elif isinstance(value, str) and change == 4 and not value.startswith("data:"):
        cut = rng.randrange(len(value) + 1)
        holder[name] = value[:cut] + rng.choice(["", "\0", "x", "é", "300", *FORGERIES]) + value[cut + 1 :]
    elif isinstance(value, str) and isinstance(holder, list):
        holder[name : name + 1] = [value[: len(value) // 2], value[len(value) // 2 :]]
    elif isinstance(value, dict) and isinstance(value.get("content"), str) and isinstance(holder, list):
        cut = rng.randrange(len(value["content"]) + 1)
        holder[name : name + 1] = [
            {**value, "content": text} for text in (value["content"][:cut], value["content"][cut:])
        ]
    else:
        (*here, one), (*there, other) = rng.choices(list(places(body, str)) or [(*path, name)], k=2)
        a, b = at(body, here), at(body, there)
        a[one], b[other] = b[other], a[one]
    return body


@pytest.mark.parametrize("seed", range(2))
def test_request_key__no_two_of_many_mutants_share_a_key(seed):
    """Six thousand different bodies a seed, each a few changes from another, have as many keys."""
    rng = random.Random(seed)
    seen: dict[str, str] = {}
    population = list(CORPUS)
    while len(seen) < 6_000:
        body = mutated(rng.choice(population), rng)
        if len(population) < 400:
            population.append(body)
        # Sorted everywhere: an oracle that is blind to what only the order of a schema changes.
        form = json.dumps(body, sort_keys=True)
        assert seen.setdefault(key(body), form) == form, "two requests share a key"
