"""The providers' prompt caching: what is kept and for how long, what it costs, and who serves the next call."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

SONNET = "anthropic/claude-sonnet-4.6"
GEMINI = "google/gemini-2.5-flash"
QWEN = "qwen/qwen3-max"
LONG = "The archive keeps every letter that was ever sent. " * 300
OTHER = "The harbour counts every ship that has ever left. " * 300
MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def text(value, mark=None):
    return {"type": "text", "text": value} | ({"cache_control": mark} if mark else {})


def ask(wire, *parts, question="Why?", model=SONNET, **more):
    """Ask with these parts as system prompt."""
    messages = [{"role": "system", "content": list(parts)}, {"role": "user", "content": question}]
    return wire.ask(model=model, messages=messages, **more)


def used(got):
    """Tokens read from prompt caching, and written to it."""
    details = got.usage["prompt_tokens_details"]
    return details["cached_tokens"], details["cache_write_tokens"]


def prompt_usd(got):
    return got.usage["cost_details"]["upstream_inference_prompt_cost"]


def per_million(text):
    return Decimal(text) / 1_000_000


# -- what is kept -----------------------------------------------------------------------------


@pytest.mark.parametrize(("mark", "ttl_s"), [(MARK, 300), (HOUR, 3600)])
def test_marks__reading_prolongs(wire, clock, mark, ttl_s):
    """Every read starts the time anew; without one it is over after five minutes, or an hour."""
    written = used(ask(wire, text(LONG, mark)))[1]
    assert written > 1024
    for _ in range(3):
        clock.now_s += ttl_s - 1
        assert used(ask(wire, text(LONG, mark))) == (written, 0)
    clock.now_s += ttl_s
    assert used(ask(wire, text(LONG, mark))) == (0, written)


def test_marks__reading_by_a_longer_prompt_prolongs_the_shorter(wire, clock):
    """What a later mark finds before it is prolonged for as long as it was to be kept."""
    hours = used(ask(wire, text(LONG, HOUR)))[1]
    clock.now_s += 3599
    cached, written = used(ask(wire, text(LONG), text(OTHER, MARK)))
    assert (cached, written > 1024) == (hours, True)
    clock.now_s += 3599
    assert used(ask(wire, text(LONG), text(OTHER, MARK))) == (hours, written)


def test_marks__the_longest_beginning_is_read(wire):
    """Of several marks the last that is known counts; what comes after it is written."""
    first = used(ask(wire, text(LONG, MARK), text("One " * 500, MARK)))
    again = used(ask(wire, text(LONG, MARK), text("Two " * 600, MARK)))
    short = used(ask(wire, text(LONG, MARK)))[0]
    assert first[0] == 0
    assert again == (short, used(ask(wire, text(LONG, MARK), text("Two " * 600, MARK)))[0] - short)


def test_marks__nothing_after_a_mark_is_read(wire):
    """A longer beginning that is kept is no use to a prompt that marks only a shorter one."""
    ask(wire, text(LONG), text(OTHER, MARK))
    assert used(ask(wire, text(LONG, MARK), text(OTHER)))[0] == 0


@pytest.mark.parametrize(("between", "found"), [(18, True), (20, False)])
def test_marks__look_back_twenty_blocks(wire, between, found):
    """What is kept is looked for in the twenty blocks before a mark, and no further."""
    written = used(ask(wire, text(LONG, MARK)))[1]
    more = [text(f"Note {n}") for n in range(between)]
    assert used(ask(wire, text(LONG), *more, text("End.", MARK)))[0] == (written if found else 0)


def test_marks__a_text_and_a_text_part_are_one(wire):
    """The beginning of a prompt is the same whether a message is a text or a list of one part."""
    messages = [{"role": "user", "content": [text(LONG, MARK)]}, {"role": "assistant", "content": "Yes."}]
    first = wire.ask(model=SONNET, messages=[*messages, {"role": "user", "content": "Go on."}])
    again = [{"role": "user", "content": LONG}, {"role": "assistant", "content": [text("Yes.", MARK)]}]
    second = wire.ask(model=SONNET, messages=[*again, {"role": "user", "content": "Why?"}])
    assert used(second)[0] == used(first)[1] > 1024


def test_marks__on_tools(wire):
    """A mark on a tool keeps the tools, whatever the messages say; one call more or less is another prompt."""
    schema = {"type": "object", "properties": {"x": {"type": "string", "description": LONG}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    marked = {**tool, "cache_control": MARK}
    written = used(wire.ask("One?", model=SONNET, tools=[marked]))[1]
    assert written > 1024
    assert used(wire.ask("Two?", model=SONNET, tools=[marked])) == (written, 0)
    assert used(wire.ask("Two?", model=SONNET, tools=[{"type": "openrouter:web_search"}, marked]))[0] == 0


def test_marks__on_files_and_images_do_nothing(wire):
    """Only a text can be marked; what stands before it counts, pictures too."""
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}, "cache_control": MARK}
    question = text("What is it?")
    alone = [{"role": "user", "content": [text(LONG), picture, question]}]
    assert used(wire.ask(model=SONNET, messages=alone)) == (0, 0)
    labelled = [{"role": "user", "content": [text(LONG), picture, text("a.png", MARK), question]}]
    assert used(wire.ask(model=SONNET, messages=labelled))[1] > 258 + 1024


def test_marks__openai_s_kind(wire):
    """OpenAI's kind of mark is passed on to Anthropic, for five minutes."""
    part = text(LONG) | {"prompt_cache_breakpoint": {"mode": "explicit"}}
    written = used(ask(wire, part))[1]
    assert written > 1024
    assert used(ask(wire, part)) == (written, 0)


def test_marks__gemini_looks_at_the_last_only(wire, clock):
    """One mark counts, on a message; it is kept five minutes, whatever it asks, and not prolonged."""
    both = (text(LONG, HOUR), text(OTHER, HOUR))
    written = used(ask(wire, *both, model=GEMINI))[1]
    clock.now_s += 299
    assert used(ask(wire, *both, model=GEMINI)) == (written, 0)
    cached, other = used(ask(wire, text(LONG, HOUR), text("Now something else. " * 300, HOUR), model=GEMINI))
    assert (cached, other > 1024) == (0, True)
    clock.now_s += 1
    assert used(ask(wire, *both, model=GEMINI)) == (0, written)
    shorter = used(ask(wire, text(LONG, MARK), model=GEMINI))[1]
    cached, longer = used(ask(wire, text(LONG), text("And one more thing. " * 300, MARK), model=GEMINI))
    assert (cached, longer > shorter > 1024) == (0, True)


def test_gemini__caches_by_itself_without_marks(wire):
    """Without a mark it is OpenAI's way: no writes are told of, and reads come in steps."""
    assert used(ask(wire, text(LONG), model=GEMINI)) == (0, 0)
    cached, written = used(ask(wire, text(LONG), question="When?", model=GEMINI))
    assert (cached % 128, written) == (0, 0)
    assert cached >= 1024


def test_alibaba__keeps_five_minutes_and_prolongs(wire, clock):
    """An hour can't be asked for, and needs a mark; reading prolongs."""
    assert used(ask(wire, text(LONG), model=QWEN)) == used(ask(wire, text(LONG), model=QWEN)) == (0, 0)
    written = used(ask(wire, text(LONG, HOUR), model=QWEN))[1]
    clock.now_s += 299
    assert used(ask(wire, text(LONG, HOUR), model=QWEN)) == (written, 0)
    clock.now_s += 299
    assert used(ask(wire, text(LONG, HOUR), model=QWEN)) == (written, 0)
    clock.now_s += 300
    assert used(ask(wire, text(LONG, HOUR), model=QWEN)) == (0, written)


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([text(LONG, MARK)] * 5, "A maximum of 4 blocks with cache_control may be provided. Found 5."),
        ([text(LONG), text("", MARK)], "cache_control cannot be set for empty text blocks"),
        (
            [text(LONG, MARK), text(OTHER, HOUR)],
            "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block",
        ),
    ],
)
def test_marks__anthropic_refuses(wire, sim, parts, why):
    """More than four marks, one on nothing, an hour after five minutes: 400, in Anthropic's words, for nothing."""
    got = ask(wire, *parts)
    error = got.json["error"]
    assert (got.status, error["code"], error["message"]) == (400, 400, "Provider returned error")
    assert error["metadata"]["provider_name"] == "Anthropic"
    assert json.loads(error["metadata"]["raw"])["error"] == {"type": "invalid_request_error", "message": why}
    assert sim.total_cost == 0
    assert ask(wire, *parts, model=GEMINI).status == ask(wire, *parts, model=QWEN).status == 200


def test_marks__tools_and_the_whole_body_count(wire):
    """Four marks are admitted; one on a tool or on the whole body is one of them."""
    tool = {"type": "function", "function": {"name": "f"}}
    three = [text("Rule.", MARK)] * 3
    assert ask(wire, *three, tools=[{**tool, "cache_control": MARK}]).status == 200
    assert ask(wire, *three, tools=[{**tool, "cache_control": MARK}], cache_control=MARK).status == 400
    assert ask(wire, *three, text("Rule.", MARK), tools=[tool], cache_control=MARK).status == 400


# -- what it costs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "mark", "price", "write", "read"),
    [
        (SONNET, MARK, "3", "3.75", "0.30"),
        (SONNET, HOUR, "3", "6", "0.30"),
        (GEMINI, MARK, "0.30", "0.3833", "0.075"),
        ("google/gemini-2.5-pro", MARK, "1.25", "1.625", "0.3125"),
        (QWEN, MARK, "1.20", "1.50", "0.12"),
        ("openai/gpt-5.6-sol", None, "5", "6.25", "0.50"),
    ],
)
def test_cost__writes_then_reads(wire, model, mark, price, write, read):
    """The first call pays the provider's price for writing, the second for reading, to the last digit."""
    part = text(LONG * 2, mark)
    first, second = (ask(wire, part, model=model) for _ in range(2))
    (none, written), (cached, nothing) = used(first), used(second)
    assert (none, nothing, cached) == (0, 0, written)
    rest = (first.usage["prompt_tokens"] - written) * per_million(price)
    assert prompt_usd(first) == written * per_million(write) + rest
    assert prompt_usd(second) == written * per_million(read) + rest


@pytest.mark.parametrize(
    ("model", "price", "read"),
    [
        ("openai/gpt-4o-mini", "0.15", "0.075"),
        ("openai/gpt-5-mini", "0.25", "0.025"),
        (GEMINI, "0.30", "0.075"),
    ],
)
def test_cost__writing_by_itself_is_free(wire, model, price, read):
    """Where a provider caches by itself, the first call costs what it always did, and the second less."""
    first, second = (ask(wire, text(LONG), model=model) for _ in range(2))
    cached = used(second)[0]
    assert used(first) == (0, 0) != (cached, 0) == used(second)
    total = first.usage["prompt_tokens"]
    assert prompt_usd(first) == total * per_million(price)
    assert prompt_usd(second) == cached * per_million(read) + (total - cached) * per_million(price)


def test_cost__hours_and_minutes_in_one_call(wire):
    """What is kept for an hour is charged as such, the rest of what is written as five minutes'."""
    both = ask(wire, text(LONG, HOUR), text(OTHER, MARK))
    written = used(both)[1]
    hours = used(ask(wire, text(LONG, HOUR)))[0]
    rest = both.usage["prompt_tokens"] - written
    assert 1024 < hours < written
    assert prompt_usd(both) == (
        hours * per_million("6") + (written - hours) * per_million("3.75") + rest * per_million("3")
    )


def test_generation__tells_the_discount(wire, check):
    """``cache_discount`` is what caching took off the prompt's price: below 0 on a write, above on a read."""
    answers = [ask(wire, text(LONG, MARK)) for _ in range(2)]
    written = used(answers[0])[1]
    told = [wire.get(f"/generation?id={one.json['id']}") for one in answers]
    discounts = [one.json["data"]["cache_discount"] for one in told]
    assert discounts == [written * per_million("-0.75"), written * per_million("2.70")]
    assert [one.json["data"]["native_tokens_cached"] for one in told] == [0, written]
    for one in told:
        check("GenerationResponse", json.loads(one.raw))


def test_models__list_what_writing_costs(wire):
    """Prices of writing are listed where there are any, an hour's too, and who caches by itself says so."""
    listed = {model["id"]: model["pricing"] for model in wire.get("/models").json["data"]}
    assert listed[SONNET]["input_cache_write_1h"] == "0.000006"
    assert listed[QWEN]["input_cache_write"] == "0.0000015"
    assert listed[GEMINI]["input_cache_write"] == "0.0000003833"
    assert "input_cache_write" not in listed["openai/gpt-4o-mini"]
    for model, implicit in ((GEMINI, True), (SONNET, False), ("openai/gpt-4o", True)):
        offers = wire.get(f"/models/{model}/endpoints").json["data"]["endpoints"]
        assert {offer["supports_implicit_caching"] for offer in offers} == {implicit}


# -- who serves the next call -----------------------------------------------------------------


def provider(got):
    return got.json["provider"]


def test_sticky__every_success_renews_it(wire, clock):
    """A conversation stays with its provider as long as it asks every ten minutes, even when nothing is cached."""
    ask(wire, text(LONG, MARK), provider={"only": ["google-vertex"]}, prompt_cache_key="k")
    for _ in range(3):
        clock.now_s += 599
        assert provider(wire.ask("And now?", model=SONNET, prompt_cache_key="k")) == "Google"
    clock.now_s += 600
    assert provider(wire.ask("And now?", model=SONNET, prompt_cache_key="k")) == "Anthropic"


def test_sticky__is_off_with_an_order(wire):
    """An order is the user's own routing: it neither follows a pin nor makes one."""
    part = text(LONG, MARK)
    assert provider(ask(wire, part, provider={"order": ["google-vertex"]})) == "Google"
    assert provider(ask(wire, part)) == "Anthropic"
    assert provider(ask(wire, part, provider={"order": ["amazon-bedrock"]})) == "Amazon Bedrock"


@pytest.mark.parametrize("more", [{"session_id": "s1"}, {"headers": {"X-Session-Id": "s1"}}])
def test_sticky__a_session_is_pinned_at_once(wire, more):
    """With a session's name any success pins it, whatever is asked; without one only prompt caching does."""
    vertex = {"only": ["google-vertex"]}
    assert provider(wire.ask("One?", model=SONNET, provider=vertex, **more)) == "Google"
    assert provider(wire.ask("Two?", model=SONNET, **more)) == "Google"
    assert provider(wire.ask("Three?", model=SONNET, provider=vertex)) == "Google"
    assert provider(wire.ask("Three?", model=SONNET)) == "Anthropic"


def test_sticky__a_cache_key_names_the_conversation(wire):
    """Different questions share a pin when they share ``prompt_cache_key``, and do not when nothing says so."""
    part, vertex = text(LONG, MARK), {"only": ["google-vertex"]}
    ask(wire, part, provider=vertex, prompt_cache_key="k")
    assert provider(ask(wire, part, question="When?", prompt_cache_key="k")) == "Google"
    assert provider(ask(wire, part, question="When?")) == "Anthropic"


def test_sticky__needs_cheaper_reads(wire):
    """Where nothing cached is cheaper, there is no reason to stay."""
    model = "meta-llama/llama-3.3-70b-instruct"
    assert provider(wire.ask(model=model, provider={"only": ["groq"]}, session_id="s")) == "Groq"
    assert provider(wire.ask(model=model, session_id="s")) == "DeepInfra"


def test_sticky__gives_way_to_what_is_admitted(wire):
    """A pin to a provider that the request excludes is passed over, also without fallbacks."""
    part = text(LONG, MARK)
    ask(wire, part, provider={"only": ["google-vertex"]})
    strict = {"only": ["anthropic"], "allow_fallbacks": False}
    assert provider(ask(wire, part, provider=strict)) == "Anthropic"
