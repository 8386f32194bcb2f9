"""Marks for the provider's prompt caching: where they are set, for whom, and that nothing else changes."""

from __future__ import annotations

import bisect
import copy
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from or_cache_magic.core.key import request_key
from or_cache_magic.core.records import Request
from or_cache_magic.errors import OptionError
from or_cache_magic.openrouter.client import Gateway
from or_cache_magic.openrouter.prompt_caching import Mark, estimated_tokens, marked, pin, rules_for
from or_cache_magic.openrouter.reply import ReplyReader
from or_cache_magic.simulator.prompt_cache import marks_problem

SONNET = "anthropic/claude-sonnet-4.6"
OPUS = "anthropic/claude-opus-4.6"
GEMINI = "google/gemini-2.5-pro"
QWEN = "qwen/qwen3-max"
LONG = "The archive keeps every letter that was ever sent. " * 500
"""About 5,500 tokens: more than any minimum."""

SHORT = "Answer in one word."
EPHEMERAL = {"type": "ephemeral"}


def text(value, **more):
    return {"type": "text", "text": value, **more}


def says(role, content):
    return {"role": role, "content": content}


def chat(*messages, model=SONNET, **fields):
    return {"model": model, "messages": list(messages), **fields}


def conversation(system=LONG, turns=1, model=SONNET, **fields):
    earlier = [says(role, f"{role} {n}") for n in range(turns) for role in ("user", "assistant")]
    return chat(says("system", system), *earlier, says("user", "And now?"), model=model, **fields)


def tool(name):
    parameters = {"type": "object", "properties": {"text": {"type": "string", "description": LONG}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def where(body):
    """The places of a body's marks: ``tools.1``, ``0.0`` (message, part), and their values."""
    found = {
        f"tools.{n}": one["cache_control"]
        for n, one in enumerate(body.get("tools", ()))
        if "cache_control" in one
    }
    for i, message in enumerate(body["messages"]):
        assert "cache_control" not in message
        for n, part in enumerate(message["content"] if isinstance(message["content"], list) else ()):
            if "cache_control" in part:
                found[f"{i}.{n}"] = part["cache_control"]
    return found


def sized(tokens):
    """The shortest text of its kind that is taken for this many tokens or more."""
    words = bisect.bisect_left(range(tokens * 2), tokens, key=lambda n: estimated_tokens("letters " * n))
    return "letters " * words


def stripped(sent, given_body):
    """What was sent without its marks, and texts again where a text was given."""
    bare = copy.deepcopy(sent)
    for one in bare.get("tools", ()):
        one.pop("cache_control", None)
    for message, given_message in zip(bare["messages"], given_body["messages"], strict=True):
        if isinstance(message["content"], list):
            for part in message["content"]:
                part.pop("cache_control", None)
            if isinstance(given_message["content"], str):
                (part,) = message["content"]
                assert part.keys() == {"type", "text"}
                message["content"] = part["text"]
    return bare


# -- where ------------------------------------------------------------------------------------


def test_marked__system_prompt():
    """A large system prompt is marked at its end; the text becomes one part, the question stays a text."""
    body = conversation(turns=0)
    given_body = copy.deepcopy(body)
    got = marked(body, "5m")
    assert got.body["messages"] == [
        says("system", [text(LONG, cache_control=EPHEMERAL)]),
        says("user", "And now?"),
    ]
    assert (got.marks, got.ttl, got.why_not) == ((Mark("system prompt", estimated_tokens(LONG)),), "5m", "")
    assert body == given_body


def test_marked__developer_message_and_last_part():
    """Several messages of instruction are marked once, on the last text that says anything."""
    parts = [text("Rules:"), text(LONG), text(" ")]
    body = chat(says("developer", "Be kind."), says("system", parts), says("user", "Hi"))
    assert where(marked(body, "5m").body) == {"1.1": EPHEMERAL}


def test_marked__attachments_before_the_question():
    """A large text beside the question is marked; the question is not."""
    body = chat(says("system", SHORT), says("user", [text("The book:"), text(LONG), text("Who is in it?")]))
    got = marked(body, "5m")
    assert where(got.body) == {"1.1": EPHEMERAL}
    assert [mark.after for mark in got.marks] == ["attachments"]


def test_marked__attachment_in_a_message_of_its_own():
    """A document that is sent before the question, as its own user message, is an attachment."""
    body = chat(says("user", LONG), says("user", "Who is in it?"))
    assert where(marked(body, "5m").body) == {"0.0": EPHEMERAL}


def test_marked__small_texts_beside_the_question_are_part_of_it():
    """Behind a marked system prompt, a short text beside the question is not worth a mark."""
    body = chat(says("system", LONG), says("user", [text("Customer 17"), text("What does she want?")]))
    assert where(marked(body, "5m").body) == {"0.0": EPHEMERAL}


def test_marked__a_short_attachment_may_be_what_is_missing():
    """Where the system prompt alone is too short to be kept, a short attachment that makes it long enough is marked."""
    body = chat(says("system", sized(900)), says("user", [text(sized(150)), text("What does she want?")]))
    assert where(marked(body, "5m").body) == {"1.0": EPHEMERAL}


def test_marked__media_count_but_are_not_marked():
    """A file counts towards the minimum, and the mark stands on the text after it."""
    pdf = {
        "type": "file",
        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "A" * 400_000},
    }
    labelled = chat(says("user", [pdf, text("a.pdf"), text("Sum it up.")]))
    got = marked(labelled, "5m")
    assert where(got.body) == {"0.1": EPHEMERAL}
    assert got.marks[0].tokens >= 4000
    bare = marked(chat(says("user", [pdf, text("Sum it up.")])), "5m")
    assert not bare.marks
    assert bare.why_not == "no text to mark stands between what is large and the question"


def test_marked__earlier_turns():
    """A conversation is marked at its system prompt and at the end of the turn before."""
    got = marked(conversation(turns=3), "5m")
    assert where(got.body) == {"0.0": EPHEMERAL, "6.0": EPHEMERAL}
    assert [mark.after for mark in got.marks] == ["system prompt", "earlier turns"]
    assert got.marks[0].tokens < got.marks[1].tokens


def test_marked__first_question_of_a_conversation_is_no_attachment():
    """What the first question is about is marked apart from the question, turn after turn at the same place."""
    first = says("user", [text(LONG), text("Who is in it?")])
    one = chat(first)
    two = chat(first, says("assistant", "Nobody."), says("user", "Why?"))
    assert where(marked(one, "5m").body) == {"0.0": EPHEMERAL}
    assert where(marked(two, "5m").body) == {"0.0": EPHEMERAL, "1.0": EPHEMERAL}


def test_marked__passes_over_tool_results_and_empty_texts():
    """A tool's result and a turn without text carry no mark; the text before them does."""
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    body = chat(says("user", LONG), call, {"role": "tool", "tool_call_id": "a", "content": LONG},
                says("assistant", "Found."), says("user", ""), says("user", "More?"))  # fmt: skip
    assert where(marked(body, "5m").body) == {"3.0": EPHEMERAL}


def test_marked__all_four_at_most():
    """Tools, system prompt, attachments and turns: four marks, in the order of the prompt."""
    first = says("user", [text(LONG), text("Who?")])
    turns = [says("assistant", LONG), says("user", LONG), says("assistant", LONG), says("user", "And now?")]
    body = chat(
        says("system", LONG), first, *turns, tools=[tool("f"), tool("g"), {"type": "openrouter:web_search"}]
    )
    got = marked(body, "1h")
    hour = {"type": "ephemeral", "ttl": "1h"}
    assert where(got.body) == {"tools.1": hour, "0.0": hour, "1.0": hour, "4.0": hour}
    assert [mark.after for mark in got.marks] == ["tools", "system prompt", "attachments", "earlier turns"]
    assert [mark.tokens for mark in got.marks] == sorted({mark.tokens for mark in got.marks})


def test_marked__tools_alone():
    """Large tools are marked even when everything else is short."""
    got = marked(chat(says("user", "Hi"), tools=[tool("f")]), "5m")
    assert where(got.body) == {"tools.0": EPHEMERAL}


@pytest.mark.parametrize(
    "fields",
    [
        {"deferred_tools": {"protocol": "v1"}},
        {"tools": [tool("f"), {**tool("g"), "defer_loading": True}]},
        {"tools": [{"type": "function", "function": {"name": "g", "defer_loading": True}}, tool("f")]},
    ],
)
def test_marked__no_tools_that_are_searched_for(fields):
    """A mark on a tool would break the chain of a model that searches for tools; the prompt is marked."""
    got = marked(conversation(**{"tools": [tool("f")], **fields}), "5m")
    assert set(where(got.body)) == {"0.0", "2.0"}


def test_marked__gemini_gets_one():
    """Google looks at the last mark only, and a conversation's moving end would never be read."""
    got = marked(conversation(turns=2, model=GEMINI, tools=[tool("f")]), "5m")
    assert where(got.body) == {"0.0": EPHEMERAL}
    first = says("user", [text(LONG), text("Who?")])
    assert where(marked(chat(says("system", LONG), first, model=GEMINI), "5m").body) == {"1.0": EPHEMERAL}


@pytest.mark.parametrize(("model", "kept"), [(SONNET, "1h"), (GEMINI, "5m"), (QWEN, "5m")])
def test_marked__an_hour_is_anthropic_s(model, kept):
    """Where nothing is kept for an hour, the mark asks for no lifetime, and the result says five minutes."""
    got = marked(conversation(turns=0, model=model), "1h")
    assert got.ttl == kept
    assert list(where(got.body).values()) == [EPHEMERAL | ({"ttl": "1h"} if kept == "1h" else {})]


# -- where not --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own",
    [
        {"cache_control": EPHEMERAL},
        {"prompt_cache_options": {"mode": "explicit"}},
        {"tools": [{**tool("f"), "cache_control": EPHEMERAL}]},
        {"messages": [says("user", [text(LONG, cache_control=EPHEMERAL), text("Who?")])]},
        {
            "messages": [
                says("user", [text(LONG, prompt_cache_breakpoint={"mode": "explicit"}), text("Who?")])
            ]
        },
    ],
)
def test_marked__leaves_the_users_own_marks_alone(own):
    """Who marks something himself has decided: the body is sent as it is."""
    body = conversation() | own
    got = marked(body, "5m")
    assert got.body is body
    assert (got.marks, got.why_not) == ((), "the request has marks of its own")


def test_marked__says_how_much_is_missing():
    """Below the model's minimum nothing is marked, and both numbers are said."""
    body = conversation(system=sized(2000), turns=0, model=OPUS)
    got = marked(body, "5m")
    assert got.body is body
    assert (
        got.why_not
        == f"about {estimated_tokens(sized(2000)):,} tokens stand before the question; {OPUS} keeps 4,096 or more"
    )


@pytest.mark.parametrize(
    "minimum_of",
    [(OPUS, 4096), (SONNET, 1024), ("anthropic/claude-opus-5.5", 512), (GEMINI, 4096), (QWEN, 1024)],
)
def test_marked__from_the_minimum_on(minimum_of):
    """One token decides."""
    model, minimum = minimum_of
    enough = sized(minimum)
    assert marked(conversation(system=enough, turns=0, model=model), "5m").marks
    assert not marked(conversation(system=enough.removesuffix("letters "), turns=0, model=model), "5m").marks


def test_marked__refuses_other_lifetimes():
    """Nothing else can be asked for."""
    with pytest.raises(OptionError, match="'10m'"):
        marked(conversation(), "10m")


@pytest.mark.parametrize(
    "messages",
    [None, "Hi", [], [None, 7, "x"], [says("user", None)], [{"role": ["x"], "content": [3, {"type": []}]}]],
)
def test_marked__takes_what_is_no_chat(messages):
    """A body of another shape is left as it is; the API says what is wrong with it."""
    body = {"model": SONNET, "messages": messages, "tools": "none"}
    assert marked(body, "5m").body is body


# -- for whom ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "minimum"),
    [
        ("anthropic/claude-opus-4.5", 4096),
        ("anthropic/claude-opus-4.6:thinking", 4096),
        ("anthropic/claude-opus-4.6-fast", 4096),
        ("anthropic/claude-4.6-opus-20260205", 4096),
        ("anthropic/claude-opus-4-7", 2048),
        ("anthropic/claude-opus-4.8", 1024),
        ("anthropic/claude-opus-4", 1024),
        ("anthropic/claude-opus-4-20250514", 1024),
        ("anthropic/claude-haiku-4.5:nitro", 4096),
        ("anthropic/claude-3.5-haiku", 2048),
        ("anthropic/claude-3-5-haiku-20241022:beta", 2048),
        ("anthropic/claude-3.7-sonnet:thinking", 1024),
        ("anthropic/claude-sonnet-4.6@preset/mine", 1024),
        ("anthropic/claude-sonnet-5", 1024),
        ("anthropic/claude-sonnet-5.5", 512),
        ("anthropic/claude-fable-5.1", 512),
        ("~anthropic/claude-sonnet-latest", 512),
        ("google/gemini-2.5-flash", 1024),
        ("google/gemini-2.5-flash-lite:floor", 1024),
        ("google/gemini-3-pro-preview", 4096),
        ("~google/gemini-flash-latest", 4096),
        ("qwen/qwen3-coder-plus", 1024),
        ("deepseek/deepseek-v3.2", 1024),
        ("openai/gpt-5.6", 1024),
        ("openai/gpt-5.6-sol:flex", 1024),
        ("openai/gpt-5.10", 1024),
        ("openai/gpt-6-mini", 1024),
    ],
)  # fmt: skip
def test_rules__minimum(model, minimum):
    """The shortest prompt that each family keeps, however its name is written."""
    assert rules_for({"model": model}).minimum == minimum


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("openai/gpt-4o-mini", "automatic at this provider"),
        ("openai/gpt-5-mini:flex", "automatic at this provider"),
        ("openai/gpt-5.5", "automatic at this provider"),
        ("openai/gpt-oss-120b", "automatic at this provider"),
        ("deepseek/deepseek-chat-v3.1", "automatic at this provider"),
        ("x-ai/grok-4", "automatic at this provider"),
        ("moonshotai/kimi-k2", "automatic at this provider"),
        ("z-ai/glm-4.6", "automatic at this provider"),
        ("openrouter/auto", "the model is chosen at each call"),
        ("@preset/mine", "the model is chosen at each call"),
        (None, "the request names no model"),
        ("qwen/qwen3.5-plus-02-15", "qwen/qwen3.5-plus-02-15 takes no marks"),
        ("google/gemini-2.5-flash-image", "google/gemini-2.5-flash-image takes no marks"),
        ("google/gemma-3-27b-it", "google/gemma-3-27b-it takes no marks"),
        ("mistralai/mistral-small-3.2-24b-instruct", "mistralai/mistral-small-3.2-24b-instruct takes no marks"),
        ("meta-llama/llama-3.3-70b-instruct:free", "nothing to save with a free model"),
    ],
)  # fmt: skip
def test_rules__why_none(model, why):
    """Models that need no marks or take none, and why."""
    body = conversation(model=model)
    got = marked(body, "5m")
    assert got.body is body
    assert (got.marks, got.ttl, got.why_not) == ((), "", why)


def test_rules__fallbacks_count():
    """A fallback that takes marks is enough; without one the first model's reason is said."""
    assert rules_for({"model": "openai/gpt-4o", "models": ["x-ai/grok-4", OPUS, SONNET]}).model == OPUS
    assert rules_for({"models": [SONNET]}).model == SONNET
    assert rules_for({"model": "mistralai/x", "models": ["openai/gpt-4o"]}).startswith("mistralai/x ")


# -- laws -------------------------------------------------------------------------------------

words = st.sampled_from(["", " ", "Hi", "x" * 1100, "y" * 2500, LONG])
contents = words | st.lists(
    words.map(text)
    | st.just({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}),
    max_size=4,
)
bodies = st.builds(
    lambda model, messages, tools: chat(*messages, model=model) | ({"tools": tools} if tools else {}),
    st.sampled_from([SONNET, OPUS, GEMINI, QWEN, "anthropic/claude-opus-5.5", "openai/gpt-4o"]),
    st.lists(
        st.builds(says, st.sampled_from(["system", "developer", "user", "user", "assistant", "tool"]), contents),
        min_size=1,
        max_size=7,
    ),
    st.lists(st.sampled_from([tool("f"), {"type": "openrouter:web_search"}]), max_size=2),
)  # fmt: skip


@given(bodies, st.sampled_from(["5m", "1h"]))
def test_law__only_marks_are_added(body, ttl):
    """Without its marks, and texts as texts, what is sent is the very body; it is marked as is told."""
    given_body = copy.deepcopy(body)
    got = marked(body, ttl)
    assert body == given_body
    assert stripped(got.body, body) == body
    assert len(where(got.body)) == len(got.marks) <= 4
    assert bool(got.marks) == bool(got.ttl) == (not got.why_not)
    assert marked(got.body, ttl).body is got.body if got.marks else got.body is body


@given(bodies)
def test_law__marks_can_stand_where_they_are(body):
    """Every mark is on a text that says something, before the question, and past the model's minimum."""
    got = marked(body, "5m")
    for place in where(got.body):
        at, _, part = place.partition(".")
        if at != "tools":
            message = got.body["messages"][int(at)]
            assert message["role"] != "tool"
            assert message["content"][int(part)]["text"].strip()
    users = [i for i, message in enumerate(body["messages"]) if message["role"] == "user"]
    if users and got.marks:
        last = got.body["messages"][users[-1]]
        texts = (
            [part for part in last["content"] if part.get("type") == "text"]
            if isinstance(last["content"], list)
            else []
        )
        assert not (texts and "cache_control" in texts[-1])
        assert all(int(place.partition(".")[0]) <= users[-1] for place in where(got.body) if place[0] != "t")
    rules = rules_for(body)
    assert all(mark.tokens >= rules.minimum for mark in got.marks)


@given(bodies, st.sampled_from(["5m", "1h"]))
def test_law__anthropic_takes_them(body, ttl):
    """No body is marked in a way that Anthropic refuses, as the simulator tells it."""
    assert marks_problem(marked({**body, "model": "anthropic/claude-opus-5.5"}, ttl).body) == ""


@given(bodies, st.sampled_from(["5m", "1h"]))
def test_law__the_key_never_sees_them(body, ttl):
    """A request has one key, marked or not; and so has, but for texts that became parts, what is sent."""
    plain = request_key(Request(body))
    assert request_key(Request(body, prompt_cache=ttl)) == plain
    sent = marked(body, ttl).body
    assert request_key(Request(stripped(sent, body))) == plain
    turned = [
        i
        for i, message in enumerate(body["messages"])
        if sent["messages"][i]["content"] != message["content"]
    ]
    as_parts = copy.deepcopy(body)
    for i in turned:
        if isinstance(body["messages"][i]["content"], str):
            as_parts["messages"][i]["content"] = [text(body["messages"][i]["content"])]
    assert request_key(Request(sent)) == request_key(Request(as_parts))


# -- at the send ------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("ttl", ["", "5m", "1h"])
def test_gateway__marks_as_it_sends(sim, stream, ttl):
    """What leaves is the marked body, pinned, where marks are asked for, and the body itself where not."""
    body = conversation(turns=1)
    gateway = Gateway(lambda: "sk-or-v1-test")
    gateway.send(Request(body, stream=stream, base_url=sim.base_url, prompt_cache=ttl), ReplyReader())
    gateway.close()
    (received,) = sim.requests
    wanted = {**marked(body, ttl).body, **pin(body)} if ttl else body
    assert received.body == {**wanted, "stream": stream}
    assert bool(where(received.body)) == bool(ttl)


# -- pinned to a provider -----------------------------------------------------------------------


def test_pin__is_the_same_at_each_turn_of_a_conversation():
    """By its model and how it begins: the system prompt and the first question, attachments included."""
    turns = [pin(conversation(turns=n)) for n in (1, 2, 3)]
    assert turns[0] == turns[1] == turns[2]
    body = conversation(turns=1)
    others = [
        pin({**body, "model": "openai/gpt-4o"}),
        pin({**body, "messages": body["messages"][1:]}),
        pin({**body, "messages": [body["messages"][0], says("user", "Another?")]}),
    ]
    names = [found["session_id"] for found in (turns[0], *others)]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 256 for name in names)


@pytest.mark.parametrize("field", ["session_id", "prompt_cache_key"])
def test_pin__leaves_a_session_that_was_named(field):
    """Whoever names one has decided."""
    assert pin({**conversation(turns=1), field: "mine"}) == {}


def test_ask__stays_with_the_provider_that_had_the_conversation(cache, sim):
    """A reply goes where its earlier turns are kept, and its key knows nothing of that."""
    asked = {"model": SONNET, "system": LONG, "prompt_cache": "5m"}
    first = cache.ask("Who writes?", provider={"only": ["google-vertex"]}, **asked)
    then = first.reply("Who reads?", provider=None, prompt_cache="5m")
    assert (first.provider, then.provider) == ("Google", "Google")
    assert then.usage.cached_tokens > 0
    assert first.reply("Who reads?", provider=None).key == then.key
    one, two = (row.body["session_id"] for row in sim.requests if row.is_completion)
    assert one == two


# -- end to end -------------------------------------------------------------------------------


def cost_usd(usage, prompt, completion, *, write, read):
    """What a call costs by its tokens, at these dollars a million."""
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    plain = usage.prompt_tokens - cached - written
    dollars = plain * Decimal(prompt) + written * Decimal(write) + cached * Decimal(read)
    return (dollars + usage.completion_tokens * Decimal(completion)) / 1_000_000


PRICES = {
    (SONNET, "5m"): {"prompt": "3", "completion": "15", "write": "3.75", "read": "0.30"},
    (SONNET, "1h"): {"prompt": "3", "completion": "15", "write": "6", "read": "0.30"},
    (GEMINI, "5m"): {"prompt": "1.25", "completion": "10", "write": "1.625", "read": "0.3125"},
    (QWEN, "5m"): {"prompt": "1.20", "completion": "6", "write": "1.50", "read": "0.12"},
}


@pytest.mark.parametrize(("model", "ttl"), PRICES)
@pytest.mark.parametrize("stream", [True, False])
def test_ask__writes_once_and_reads_for_other_questions(cache, sim, model, ttl, stream):
    """The first question pays for writing, another one reads; both cost what the provider's prices say."""
    asked = {"model": model, "system": LONG * 2, "prompt_cache": ttl, "stream": stream}
    first, second = cache.ask("Who writes?", **asked), cache.ask("Who reads?", **asked)
    written = first.usage.cache_write_tokens
    assert written > 4096
    assert (first.usage.cached_tokens, second.usage.cached_tokens, second.usage.cache_write_tokens) == (
        0,
        written,
        0,
    )
    for answer in (first, second):
        assert answer.cost_usd == cost_usd(answer.usage, **PRICES[model, ttl])
    assert first.cost_usd + second.cost_usd == sim.total_cost


@pytest.mark.parametrize("bought", [None, "5m", "1h"])
def test_ask__hits_whether_marked_or_not(cache, sim, bought):
    """The completion cache serves an answer however it was bought, and however it is asked for."""
    asked = {"model": SONNET, "system": LONG}
    answer = cache.ask("Who writes?", **asked, prompt_cache=bought)
    for again in (None, "5m", "1h"):
        hit = cache.ask("Who writes?", **asked, prompt_cache=again)
        assert hit.cached
        assert (hit, hit.key, hit.cost_usd) == (answer, answer.key, answer.cost_usd)
    assert sim.completion_count == 1


def test_ask__goes_on_with_what_was_asked(cache, sim):
    """A conversation goes on from its own messages, without marks; each turn reads what was before it."""
    options = {"model": SONNET, "system": LONG, "prompt_cache": "5m"}
    answers = [cache.ask("Who writes?", **options)]
    for question in ("Who reads?", "Who keeps?"):
        follow = [*answers[-1].messages, says("user", question)]
        answers.append(cache.ask(follow, model=SONNET, prompt_cache="5m"))
    assert [message["role"] for message in answers[-1].messages] == ["system", *["user", "assistant"] * 3]
    assert all(isinstance(message["content"], str) for message in answers[-1].messages)
    read = [answer.usage.cached_tokens for answer in answers]
    wrote = [answer.usage.cache_write_tokens for answer in answers]
    assert read == [0, wrote[0], wrote[0] + wrote[1]]
    assert min(wrote) > 0
    assert [len(where(row.body)) for row in sim.requests if row.is_completion] == [1, 2, 2]


def test_ask__is_answered_in_the_same_words(cache):
    """Marks change what a call costs, not what it says."""
    asked = {"model": SONNET, "system": LONG, "mode": "bypass"}
    assert cache.ask("Who writes?", **asked, prompt_cache="5m") == cache.ask("Who writes?", **asked)


def test_ask__leaves_models_alone_that_cache_by_themselves(cache, sim):
    """OpenAI's models are sent the body as it is, and read what they kept."""
    asked = {"model": "openai/gpt-4o-mini", "system": LONG, "prompt_cache": "5m"}
    first, second = cache.ask("Who writes?", **asked), cache.ask("Who reads?", **asked)
    assert not any(where(row.body) for row in sim.requests if row.is_completion)
    assert first.usage.cached_tokens == 0 < second.usage.cached_tokens
    assert "prompt caching: automatic at this provider" in first.outcome.notes
