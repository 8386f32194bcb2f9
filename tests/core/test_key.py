"""Which requests are the same."""

from __future__ import annotations

import base64
import copy
import json
from hashlib import sha256
from types import MappingProxyType

import pytest

from or_cache_magic.core.key import KEY_PREFIX, NOT_IN_KEY, canonical_json, request_key, system_digest
from or_cache_magic.core.records import Request
from or_cache_magic.errors import RequestError

PNG = bytes(range(250, 256)) * 20  # its base64 holds both + and /
MARK = {"type": "ephemeral"}


def chat(content="Hi", **fields):
    return {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": content}], **fields}


def key(body, **facts):
    return request_key(Request(body, **facts)).digest


def image(url, **fields):
    return chat([{"type": "image_url", "image_url": {"url": url, **fields}}])


def audio(data):
    return chat([{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}])


def schema(properties):
    return {"type": "object", "properties": properties}


def tool_talk(first, second, *, answered=None, note="sunny"):
    """A conversation with two tool calls of the given ids and an answer to each, in order."""
    call = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{**call, "id": first}, {**call, "id": second}]},
    ]
    for name in answered or (first, second):
        messages.append({"role": "tool", "tool_call_id": name, "content": note})
    return {"model": "m", "messages": messages}


GOLDEN = {
    "plain": (
        Request(chat(temperature=0, max_tokens=4096)),
        "06a2181757507ec290305da7b0f8295bfde883efb0efebc230a37c17b59b9389",
    ),
    "unicode, long text, numbers": (
        Request(chat("é😀\n" * 200, temperature=0.7, seed=2**63, top_p=1.0, stop=["\0", ""])),
        "9ee116d881435b360fa690c06fdd71f0abdafd1566579b7327bb18b7fdd61843",
    ),
    "tools": (
        Request(
            {
                **tool_talk("call_abc", "call_def"),
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": schema({"b": 1, "a": 2})}}
                ],
            }
        ),
        "2087214f900ae26663637053455f6b056ed401321c2371a581b812ecb12af516",
    ),
    "media": (
        Request(image("data:image/png;base64," + base64.b64encode(PNG).decode(), detail="low")),
        "b2b73ab214a6bff42646d8fb0a8655ab1a1eb0cfac5700da3b9864cb348e202e",
    ),
    "sample, base URL, stream": (
        Request(chat(plugins=[{"id": "response-healing"}]), True, 3, "http://localhost:8000/v1"),
        "76d7f0fd20f1f3bb2393b51e5481dd9545f1a2bf9356d73b0c4187807b1657ad",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_request_key__golden(name):
    """These keys stand in users' caches: a change here needs a new `KEY_PREFIX`."""
    request, digest = GOLDEN[name]

    assert request_key(request).digest == digest


def test_request_key__digest_is_over_prefix_skeleton_and_texts():
    """The digest is what its documentation says, computed here by hand."""
    text = "long " * 100
    skeleton = b'{"body":{"messages":[{"content":"\\u0000500","role":"user"}],"model":"openai/gpt-4o-mini"}}'

    found = request_key(Request(chat(text)))

    assert found.skeleton == skeleton
    assert found.digest == sha256(KEY_PREFIX + b"%d:" % len(skeleton) + skeleton + text.encode()).hexdigest()


def test_request_key__ignores_param_order():
    """The order of names in the body, in a message and in a nested object does not count."""
    a = {"provider": {"order": ["x"], "sort": "price"}, **chat()}
    b = {**chat(), "provider": {"sort": "price", "order": ["x"]}}
    b["messages"] = [{"content": "Hi", "role": "user"}]

    assert key(a) == key(b)


@pytest.mark.parametrize(
    "field", [*NOT_IN_KEY, "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"]
)
def test_request_key__leaves_out_what_the_table_names(field):
    """Each field of the documented list is out at the top level, and in when it is nested."""
    assert key(chat()) == key(chat(**{field: {"a": "b"}}))
    assert key(chat(provider={})) != key(chat(provider={field: {"a": "b"}}))


def test_not_in_key__is_the_documented_list():
    """The list grows only on purpose, has a reason for each field, and can't be changed at run time."""
    assert set(NOT_IN_KEY) == {
        "stream", "stream_options", "usage", "debug", "user", "session_id", "metadata", "trace",
        "safety_identifier", "cache_control", "prompt_cache_*",
    }  # fmt: skip
    assert all(NOT_IN_KEY.values())
    assert isinstance(NOT_IN_KEY, MappingProxyType)


@pytest.mark.parametrize("mark", ["cache_control", "prompt_cache_breakpoint"])
def test_request_key__leaves_out_prompt_cache_marks(mark):
    """A prompt-cache mark is out of messages, content parts and tools."""
    text = {"type": "text", "text": "x"}
    function = {"name": "f", "parameters": {}}
    plain = {"messages": [{"role": "user", "content": [text]}], "tools": [{"function": function}]}
    marked = {
        "messages": [{"role": "user", "content": [{**text, mark: MARK}], mark: MARK}],
        "tools": [{"function": function, mark: MARK}],
        mark: MARK,
    }

    assert key(marked) == key(plain)


@pytest.mark.parametrize("mark", ["cache_control", "prompt_cache_key"])
def test_request_key__keeps_what_is_only_called_like_a_mark(mark):
    """Where a name is content (a schema's property, a setting, a tool's argument), it is in."""
    assert key(with_parameters(schema({}))) != key(with_parameters(schema({mark: {}})))
    assert key(with_schema(schema({}))) != key(with_schema(schema({mark: {}})))
    assert key(chat(plugins=[{"id": "x"}])) != key(chat(plugins=[{"id": "x", mark: MARK}]))
    assert key(image("https://e.org/a.png")) != key(image("https://e.org/a.png", **{mark: MARK}))
    assert key({**chat(), "tools": [{"function": {}}]}) != key(
        {**chat(), "tools": [{"function": {mark: MARK}}]}
    )
    assert key({**chat(), "cache_control_x": 1}) != key(chat())


def with_parameters(parameters):
    return chat(tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])


def with_schema(value):
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": value}})


@pytest.mark.parametrize(
    "place",
    [
        with_parameters,
        with_schema,
        lambda value: chat(tools=[{"name": "f", "input_schema": value}]),
        lambda value: chat(tools=[{"type": "function", "name": "f", "parameters": value}]),
        lambda value: chat(functions=[{"name": "f", "parameters": value}]),
        lambda value: chat(response_format={"type": "json_object", "schema": value}),
    ],
)
def test_request_key__order_counts_in_schemas(place):
    """The model sees the order of a schema's properties, all the way down, so it is in."""
    a, b = {"type": "string"}, {"type": "number"}

    assert key(place(schema({"a": a, "b": b}))) != key(place(schema({"b": b, "a": a})))
    assert key(place(schema({"o": schema({"a": a, "b": b})}))) != key(
        place(schema({"o": schema({"b": b, "a": a})}))
    )
    assert key(place({"anyOf": [{"a": 1, "b": 2}]})) != key(place({"anyOf": [{"b": 2, "a": 1}]}))
    assert key(place(schema({"a": a}))) == key(place(copy.deepcopy(schema({"a": a}))))


def test_request_key__order_does_not_count_around_schemas():
    """The objects that hold a schema are read like all others."""
    a, b = with_schema(schema({})), with_schema(schema({}))
    b["response_format"] = {"json_schema": {"schema": schema({}), "name": "n"}, "type": "json_schema"}

    assert key(a) == key(b)


def test_request_key__tells_values_apart():
    """Text is not a number, a truth is not a number, null is not absence, a default is not absence."""
    values = [0, 1, True, False, "1", "", None, [], {}, [1], {"a": None}, 0.5, 10**16, 10**16 + 1]
    keys = {key(chat(x=value)) for value in values} | {key(chat())}

    assert len(keys) == len(values) + 1


@pytest.mark.parametrize(("a", "b"), [(1, 1.0), (0, -0.0), (0, 0.0), (1e0, 1), (10**20, 1e20), (100, 1e2)])
def test_request_key__reads_numbers_by_value(a, b):
    """A number is its value, however it is typed."""
    assert key(chat(temperature=a)) == key(chat(temperature=b))


@pytest.mark.parametrize("other", ["Hi ", "Hi\n", " Hi", "hi", "H\u0131", "Hi\0", "Hi\u200b", "\ufeffHi"])
def test_request_key__changes_no_text(other):
    """Not a character of a text is dropped or folded."""
    assert key(chat("Hi")) != key(chat(other))
    assert key(chat("\u00e9")) != key(chat("e\u0301"))


@pytest.mark.parametrize("suffix", [":free", ":online", ":nitro", "@preset/x"])
def test_request_key__reads_the_model_verbatim(suffix):
    """A variant of a model is another model."""
    assert key(chat(model="a/b")) != key(chat(model="a/b" + suffix))


def test_request_key__sample_and_base_url():
    """The sample is in when it isn't 0, the base URL when it isn't OpenRouter's; a final slash is nothing."""
    ours = "https://openrouter.ai/api/v1"
    keys = {
        key(chat()),
        key(chat(), sample=1),
        key(chat(), sample=2),
        key(chat(), base_url="http://localhost/v1"),
    }

    assert len(keys) == 4
    assert (
        key(chat(), sample=0) == key(chat(), base_url=ours) == key(chat(), base_url=ours + "/") == key(chat())
    )
    assert key(chat(), base_url="http://h/v1/") == key(chat(), base_url="http://h/v1")
    assert key(chat(), base_url="https://eu.openrouter.ai/api/v1") != key(chat())


def test_request_key__our_own_fields_can_not_be_forged():
    """Fields of a body that are called like ours are the body's."""
    assert key(chat(sample=1)) != key(chat(), sample=1)
    assert key(chat(base_url="http://h")) != key(chat(), base_url="http://h")


@pytest.mark.parametrize(
    ("plugins", "counts"),
    [
        ([{"id": "response-healing"}], True),
        ([{"id": "web"}, {"id": "response-healing", "enabled": True}], True),
        ([{"id": "response-healing", "enabled": False}], False),
        ([{"id": "web"}], False),
        ([], False),
        (None, False),
    ],
)
def test_request_key__stream_counts_when_a_plugin_heals(plugins, counts):
    """Whether it is streamed is in only when response-healing is on, and never read from the body."""
    body = chat(plugins=plugins)

    assert (key(body, stream=True) != key(body, stream=False)) is counts
    assert key({**body, "stream": False}, stream=True) == key({**body, "stream": True}, stream=True)


def test_request_key__media_is_its_bytes():
    """However the base64 of an image is written, it is the same image."""
    plain = base64.b64encode(PNG + b"!").decode()
    same = [
        base64.encodebytes(PNG + b"!").decode(),
        plain.rstrip("="),
        plain + "==",
        plain.replace("+", "-").replace("/", "_"),
        " " + plain + "\r\n\t",
    ]
    assert "+" in plain
    assert "/" in plain
    assert plain.endswith("=")

    assert {key(image("data:image/png;base64," + text)) for text in same} == {
        key(image("data:image/png;base64," + plain))
    }
    assert {key(audio(text)) for text in same} == {key(audio(plain))}


@pytest.mark.parametrize(
    "place",
    [
        image,
        lambda url: chat([{"type": "file", "file": {"file_data": url, "filename": "a.pdf"}}]),
        lambda url: chat([{"type": "video_url", "video_url": {"url": url}}]),
        lambda url: chat([{"type": "input_video", "video_url": {"url": url}}]),
    ],
)
def test_request_key__data_urls_in_every_media_part(place):
    """Each kind of media part is read so, its type and bytes count, and what is no base64 is text."""
    url = "data:a/b;base64,AAEC"

    assert key(place(url)) == key(place("data:a/b;base64,AA EC\n"))
    others = [
        "data:a/c;base64,AAEC", "data:a/b;base64,AAED", "data:a/b;base64,AAECAA", "data:a/b;base64,AA*C",
        "data:a/b;base64,AA*C ", "data:a/b;base64,é", "data:a/b,AAEC", "data:a/b,AA EC", "AAEC", "https://e.org/?,AAEC",
        "https://e.org/?,AA EC", "data:a/b;base64,", "data:a/b;base64", "data:a/b;base64,AAECA", "data:a/b;base64,AA=EC",
        "https://e.org/;base64,AAEC", "https://e.org/;base64,AA EC",
    ]  # fmt: skip
    assert len({key(place(other)) for other in [url, *others]}) == len(others) + 1


def test_request_key__media_keeps_its_other_fields():
    """The detail of an image, the name of a file and the format of a sound count."""
    url = "data:image/png;base64,AAEC"
    part = {"type": "file", "file": {"file_data": url, "filename": "a.png"}}
    other = {"type": "file", "file": {"file_data": url, "filename": "b.png"}}

    assert key(image(url, detail="low")) != key(image(url, detail="high")) != key(image(url))
    assert key(chat([part])) != key(chat([other]))


def test_request_key__text_is_never_read_as_media():
    """A prompt that holds a data URL is a prompt: its spaces count."""
    for wrap in (lambda text: text, lambda text: [{"type": "text", "text": text}]):
        assert key(chat(wrap("data:a/b;base64,AAEC"))) != key(chat(wrap("data:a/b;base64,AA EC")))


def test_request_key__numbers_tool_calls():
    """A call sampled anew has another id and is the same call; which answer belongs to which call counts."""
    a = tool_talk("call_one", "call_two")

    assert key(a) == key(tool_talk("toolu_9", "toolu_8"))
    assert key(a) != key(tool_talk("call_one", "call_two", answered=["call_two", "call_one"]))
    assert key(a) != key(tool_talk("call_one", "call_one"))
    assert key(a) != key(tool_talk("call_one", "call_two", answered=["call_one", "call_three"]))


@pytest.mark.parametrize("pad", ["", "x" * 300])
def test_request_key__keeps_tool_call_ids_named_elsewhere(pad):
    """An id that a text or the reasoning refers to is not renamed away from under it."""
    a = tool_talk("call_one", "call_two", note=f"{pad} see call_one")
    b = tool_talk("call_two", "call_one", note=f"{pad} see call_one")
    c, d = tool_talk("call_one", "call_two"), tool_talk("call_six", "call_two")
    for body in (c, d):
        body["messages"][1]["reasoning_details"] = [
            {"type": "reasoning.encrypted", "id": "call_one", "data": pad}
        ]

    assert key(a) != key(b)
    assert key(c) != key(d)


def test_request_key__placeholders_can_not_be_forged():
    """A request that holds what a placeholder looks like is no other request."""
    long = "y" * 300
    data = "data:image/png;base64,AAEC"
    calls = tool_talk("call_one", "call_two")
    texts = [long, "\x00300", "300", "\\u0000300", "\0", "\0" + long, "\0data:image/png;base64,3", data]
    bodies = [chat(text) for text in texts]
    bodies += [image(text) for text in texts]
    bodies += [audio(text) for text in [*texts, "AAEC", "\0base64,3"]]
    bodies += [calls, tool_talk("\0call0", "\0call1"), tool_talk("call0", "call1")]
    bodies += [{**calls, "model": "\0call0"}, {**calls, "messages": [*calls["messages"], "\0call1"]}]

    assert len({key(body) for body in bodies}) == len(bodies)


def test_request_key__moved_long_texts_are_other_requests():
    """Long texts of equal and of different length do not change places unnoticed."""
    a, b, c = "a" * 300, "b" * 300, "c" * 301
    pairs = [
        (a, b),
        (b, a),
        (a, c),
        (c, a),
        (a + "b", b[1:]),
        (a + b, ""),
        ("", a + b),
        (a[:150], a[150:] + b),
    ]
    two = [{"messages": [{"role": "system", "content": x}, {"role": "user", "content": y}]} for x, y in pairs]

    assert len({key(body) for body in two}) == len(pairs)


def test_request_key__names_that_look_like_placeholders():
    """A name is a name, however it looks, long or with a NUL."""
    names = ["\x005", "\0", "\\u00005", "n" * 300, "n" * 301, "5"]

    assert len({key(chat(**{name: "x"})) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (chat(temperature=float("nan")), "temperature is nan"),
        (chat("a\ud800"), "messages[0].content has half of a surrogate pair (U+D800) at character 1"),
        (
            chat("a" * 300 + "\udfff"),
            "messages[0].content has half of a surrogate pair (U+DFFF) at character 300",
        ),
        (chat(b"x"), "messages[0].content is of type bytes"),
        (chat(provider={"order": [{1: 2}]}), "provider.order[0] has the name 1"),
        (with_parameters({1: 2}), "tools[0].function.parameters has the name 1"),
        ({**chat(), 1: 2}, "the request has the name 1"),
        (image("data:\ud800;base64,AAEC"), "messages[0].content[0].image_url.url has half"),
        (tool_talk("\ud800", "b"), "messages[1].tool_calls[0].id has half"),
        (chat(**{"\ud800": 1}), "a name in the request has half"),
    ],
)
def test_request_key__refuses_and_names_the_place(body, place):
    """What can't be sent as JSON is refused before anything is sent, with the place and what to do."""
    with pytest.raises(RequestError) as caught:
        request_key(Request(body))

    assert str(caught.value).startswith(place)
    assert caught.value.hint
    str(caught.value).encode()


def test_request_key__refuses_a_request_that_holds_itself():
    """A body without end is refused."""
    body = chat()
    body["messages"].append(body)

    with pytest.raises(RequestError, match="holds itself"):
        request_key(Request(body))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": None, "tools": {}, "response_format": "x", "plugins": "response-healing"},
        {"messages": ["x", None, {"content": {"type": "text"}, "tool_calls": {}, "tool_call_id": 3}]},
        {
            "messages": [
                {"content": ["x", {"image_url": "data:,x"}, {"file": {"file_data": None}}], "tool_calls": [1]}
            ]
        },
        {"tools": ["x", {"function": "f"}, {"function": {}}], "response_format": {"json_schema": "x"}},
    ],
)
def test_request_key__takes_other_shapes_as_they_stand(body):
    """A body of another shape than the API's has a key too: refusing it is the API's business."""
    assert json.loads(request_key(Request(body)).skeleton) == {"body": body}


def test_request_key__takes_subclasses_and_read_only_bodies():
    """A tuple, a subclass of a dict or of a text and a read-only view are what they hold."""

    class Text(str):
        __slots__ = ()

    class Message(dict):
        pass

    body = chat("x" * 300)
    other = MappingProxyType(
        {**body, "messages": (Message(role="user", content=Text("x" * 300), cache_control=MARK),)}
    )

    assert key(other) == key(body)


def test_request_key__skeleton_is_small_and_json():
    """The skeleton of a large request is small, and says what was taken out."""
    found = request_key(Request(chat("x" * 100_000)))

    assert json.loads(found.skeleton)["body"]["messages"][0]["content"] == "\x00100000"


def test_system_digest__is_sha256_of_the_text():
    """The digest of a system prompt is the sha256 of its UTF-8."""
    assert system_digest("é") == sha256("é".encode()).hexdigest()
    with pytest.raises(RequestError, match="the system prompt has half"):
        system_digest("\ud800")


def test_canonical_json__is_offered_here():
    """The whole canonical form, for tests and tools."""
    assert canonical_json({"b": 1.0, "a": []}) == b'{"a":[],"b":1}'
