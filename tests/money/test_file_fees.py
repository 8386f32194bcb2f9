"""What a call with attachments may cost: the fee for reading PDFs, and tokens that nobody can count."""

from __future__ import annotations

import base64
from decimal import Decimal

import pytest

from or_cache_magic.core.tokens import request_tokens
from or_cache_magic.errors import BudgetError
from or_cache_magic.money.estimate import estimate
from or_cache_magic.money.file_fees import FileFee, file_fee
from or_cache_magic.money.listings import Endpoint, ModelListing, ModelPricing
from or_cache_magic.money.price import read_price

LLAMA, MINI = "meta-llama/llama-3.3-70b-instruct", "openai/gpt-4o-mini"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def pdf(pages: int) -> bytes:
    kids = b"<</Type/Page>>" * pages
    return b"%%PDF-1.4\n<</Type/Pages/Count %d>>%b\n%%%%EOF" % (pages, kids)


def document(raw: bytes | str) -> dict:
    url = raw if isinstance(raw, str) else f"data:application/pdf;base64,{base64.b64encode(raw).decode()}"
    return {"type": "file", "file": {"filename": "document.pdf", "file_data": url}}


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


def body(*parts: dict, engine: str | None = None, **more) -> dict:
    content = [{"type": "text", "text": "What is this?"}, *parts]
    if engine is not None:
        more["plugins"] = [{"id": "file-parser", "pdf": {"engine": engine}}]
    return {"model": "a/b", "messages": [{"role": "user", "content": content}], "max_tokens": 10, **more}


NONE, PER_PAGE = FileFee(), "reading its file may be billed apart, at $2 per 1,000 pages"


@pytest.mark.parametrize(
    ("asked", "fee"),
    [
        (body(), NONE),
        (body(PICTURE), NONE),
        (body(document(pdf(12))), FileFee(Decimal(0), Decimal("0.024"))),
        (body(document(pdf(12)), engine="mistral-ocr"), FileFee(Decimal("0.024"), Decimal("0.024"))),
        (body(document(pdf(12)), document(pdf(1)), engine="mistral-ocr"), FileFee(Decimal("0.026"), Decimal("0.026"))),
        (body(document(pdf(12)), engine="native"), NONE),
        (body(document(pdf(12)), engine="cloudflare-ai"), NONE),
        (body(document(pdf(12)), engine="pdf-text"), NONE),
        (body(document(b"%PDF-1.7 encrypted"), engine="native"), NONE),
        (body(document(b"%PDF-1.7 encrypted")), FileFee(high_usd=None, why=PER_PAGE)),
        (body(document(pdf(1)), document("https://example.com/a.pdf")), FileFee(high_usd=None, why=PER_PAGE)),
        (body({"type": "file", "file": {"file_id": "or_file_1"}}), FileFee(high_usd=None, why=PER_PAGE)),
        (body(document(pdf(1)), engine="new"), FileFee(high_usd=None, why="the plugin file-parser is billed apart")),
    ],
)  # fmt: skip
def test_file_fee__is_by_the_page(asked, fee):
    """$2 for 1,000 pages where OpenRouter's engine reads, or may read; unknown where the pages are."""
    assert file_fee(asked) == fee


def test_file_fee__may_be_nothing_for_a_file_that_was_read_before():
    """An answer that is given back with its annotations spares the fee."""
    asked = body(document(pdf(3)), engine="mistral-ocr")
    asked["messages"] += [{"role": "assistant", "content": "x", "annotations": [{"type": "file"}]}]
    assert file_fee(asked) == FileFee(Decimal(0), Decimal("0.006"))


def told(asked: dict, *, price: dict | None = None, context: int | None = 1000):
    rates = {"prompt": "0.001", "completion": "0.01", **(price or {})}
    offer = Endpoint("P", "p", read_price(rates), implicit_caching=False)
    listing = ModelListing("a/b", outputs=("text",), context_length=context)
    return estimate(asked, request_tokens(asked), [ModelPricing("a/b", (offer,), listing, 1.0)], 2.0)


@pytest.mark.parametrize(
    ("asked", "price", "most"),
    [
        # 1,000 tokens of context at $0.001, and 10 of the answer at $0.01.
        (body(PICTURE), {}, "1.1"),
        (body(SOUND), {}, "1.1"),
        (body(document(pdf(5))), {}, "1.11"),
        (body(PICTURE), {"image_token": "0.002"}, "2.1"),
        (body(SOUND), {"audio": "0.003"}, "3.1"),
        (body(PICTURE, PICTURE), {"image": "0.5"}, "2.1"),
    ],
)
def test_estimate__of_media_is_at_most_a_full_context(asked, price, most):
    """What can't be counted is no more than the model can read, at the dearest price that it may have."""
    found = told(asked, price=price)
    assert found.high_usd == Decimal(most)
    assert found.low_usd < Decimal("0.02")
    assert found.unknown_why == ""


UNCOUNTED = "images, files and sound can't be counted beforehand"


@pytest.mark.parametrize(
    ("asked", "price", "context", "why"),
    [
        (body(PICTURE), {}, None, UNCOUNTED),
        (body(PICTURE), {"image": "-1"}, 1000, UNCOUNTED),
        (body({"type": "video_url", "video_url": {"url": "x"}}), {}, 1000, UNCOUNTED),
        (body({"type": "new"}), {}, 1000, UNCOUNTED),
        (body(document("https://example.com/a.pdf")), {}, 1000, PER_PAGE),
        (body(PICTURE, tools=[{"type": "openrouter:web_search"}]), {}, 1000, "the tool openrouter:web_search is billed apart"),
    ],
)  # fmt: skip
def test_estimate__of_other_media_has_no_most(asked, price, context, why):
    """Where the context, a price or the kind is not known, nothing is promised."""
    found = told(asked, price=price, context=context)
    assert (found.high_usd, found.unknown_why) == (None, why)


@pytest.mark.parametrize("engine", ["", "mistral-ocr", "cloudflare-ai"])
@pytest.mark.parametrize("model", [LLAMA, MINI])
@pytest.mark.parametrize("attach", [pdf(3), [pdf(2), pdf(1)]])
def test_estimate__holds_what_a_call_costs(cache, sim, engine, model, attach):
    """The simulator's bill lies in the range, fee included; a budget over it lets the call go."""
    fields = {"plugins": [{"id": "file-parser", "pdf": {"engine": engine}}]} if engine else {}
    asked = cache.prepare("What is this?", {"attach": attach, "max_tokens": 50, **fields}, model=model)
    found = cache.money.estimate(asked.request)
    answer = cache.ask(
        "What is this?", attach=attach, model=model, max_tokens=50, max_cost_usd=found.high_usd, **fields
    )
    assert found.low_usd <= answer.cost_usd <= found.high_usd
    assert answer.cost_usd == sim.total_cost


def test_budget__of_a_picture_is_held_against_the_most(cache, sim):
    """A limit below a full context refuses, in two lines, before anything is sent."""
    with pytest.raises(BudgetError, match="may cost up to") as caught:
        cache.ask("What is this?", attach=PNG, model=MINI, max_cost_usd="0.0001")
    assert caught.value.high_usd > Decimal("0.01")
    assert sim.completion_count == 0
    assert cache.ask("What is this?", attach=PNG, model=MINI, max_cost_usd="0.05").cost_usd > 0
