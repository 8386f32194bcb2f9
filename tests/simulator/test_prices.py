"""The price lists: what is listed is what is billed, for every offer and at every hour."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

SPEC = (
    "/paths/~1models~1%7Bauthor%7D~1%7Bslug%7D~1endpoints/get/responses/200/content/application~1json/schema"
)


@pytest.mark.parametrize(("clock_utc", "prompt"), [("12:00", "0.00000028"), ("20:00", "0.00000014")])
def test_endpoints__list_overrides_and_the_rate_of_the_hour(wire, clock, check, clock_utc, prompt):
    """An offer's price has its overrides, as a model's has, and is that of the hour."""
    hours, minutes = map(int, clock_utc.split(":"))
    clock.now_s = 1_767_225_600 + hours * 3600 + minutes * 60
    got = wire.get("/models/deepseek/deepseek-chat-v3.1/endpoints")
    check(SPEC, json.loads(got.raw))
    (offer,) = got.json["data"]["endpoints"]
    assert offer["pricing"] == wire.get("/model/deepseek/deepseek-chat-v3.1").json["data"]["pricing"]
    assert (offer["pricing"]["prompt"], len(offer["pricing"]["overrides"])) == (prompt, 2)


def test_request_fee__is_listed_and_billed(wire):
    """A fee for each request is in the provider's bill, besides prompt and completion."""
    (offer,) = wire.get("/models/perplexity/sonar/endpoints").json["data"]["endpoints"]
    assert offer["pricing"]["request"] == "0.005"
    usage = wire.ask("What is new?", model="perplexity/sonar").usage
    tokens = (usage["prompt_tokens"] + usage["completion_tokens"]) * Decimal("0.000001")
    assert usage["cost"] == tokens + Decimal("0.005") == usage["cost_details"]["upstream_inference_cost"]
    assert usage["cost_details"]["upstream_inference_prompt_cost"] == usage["prompt_tokens"] * Decimal(
        "0.000001"
    )
