"""One POST /embeddings: a vector for each text, the same every time, and near for texts that share words."""

from __future__ import annotations

import base64
import hashlib
import math
import sys
from array import array
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.behaviour import PLAIN, Refusal, error_object, platform_limit
from or_cache_magic.simulator.catalog import Model, find_model
from or_cache_magic.simulator.replies import dumps
from or_cache_magic.simulator.scenarios import scenario
from or_cache_magic.simulator.state import Generation
from or_cache_magic.simulator.tokens import count_tokens, split_tokens
from or_cache_magic.simulator.world import Reply, World, authorize, error_reply

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.simulator.state import Received

DIMENSIONS: Final = {"openai/text-embedding-3-small": 1536, "qwen/qwen3-embedding-8b": 4096}
"""How many numbers a vector of each model has."""

_MOST_TEXTS: Final = 2048
_WORD_NUMBERS: Final = 8
_NOTHING_TOLD: Final = (
    "upstream_id", "service_tier", "finish_reason", "native_finish_reason", "native_tokens_completion_images",
    "num_search_results", "num_fetches", "web_search_engine", "moderation_latency", "provider_responses",
    "preset_id", "session_id", "app_id", "router", "user_agent", "http_referer", "workspace_id",
    "response_cache_source_id", "external_user",
)  # fmt: skip
_NOISE: Final = 0.05


def answer_embeddings(world: World, row: Received) -> Reply:
    """The reply to a request for vectors."""
    api_key = authorize(world, row.headers)
    if isinstance(api_key, Refusal):
        return error_reply(api_key)
    generation_id = world.generations.new_id(world.now())
    body = row.body
    problem = _problem(body)
    if problem:
        return error_reply(Refusal(400, error_object(400, problem, "invalid_request")), generation_id)
    model = find_model(body["model"])
    if model is None or model.id not in DIMENSIONS:
        message = f"No endpoints found for {body['model']}."
        return error_reply(Refusal(404, error_object(404, message, "not_found")), generation_id)
    played = world.scripts.take(body) or PLAIN
    world.journal.update(row, generation_id=generation_id, scenario=played.name)
    refusal = played.refusal or _over_limit(world, api_key)
    if refusal is not None:
        return replace(error_reply(refusal, generation_id), delay_s=played.delay_s)
    return replace(_answered(world, row, api_key, model, generation_id), delay_s=played.delay_s)


def _problem(body: Any) -> str:
    """Why a body makes no sense; empty when it does."""
    if not isinstance(body, dict):
        return "Invalid JSON in request body"
    if not isinstance(body.get("model"), str):
        return "model is required"
    texts = _texts(body)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        return "input must be a text that is not empty, or a list of them"
    if len(texts) > _MOST_TEXTS:
        return f"input must have at most {_MOST_TEXTS} items"
    if body.get("encoding_format", "float") not in ("float", "base64"):
        return "encoding_format must be float or base64"
    wanted = body.get("dimensions")
    known = DIMENSIONS.get(body["model"], 0)
    if wanted is not None and not (isinstance(wanted, int) and 0 < wanted <= max(known, 1)):
        return f"dimensions must be between 1 and {known}"
    return ""


def _texts(body: dict[str, Any]) -> list[Any]:
    given = body.get("input")
    return given if isinstance(given, list) else [given]


def _over_limit(world: World, api_key: str) -> Refusal | None:
    if world.credits_usd is not None and world.generations.sums()[0] >= world.credits_usd:
        return scenario("insufficient_credits").refusal
    until = world.limit.refuses_until(api_key, world.now())
    return None if until is None else platform_limit(world.limit.per_minute, int(until * 1000))


def _answered(world: World, row: Received, api_key: str, model: Model, generation_id: str) -> Reply:
    body, endpoint = row.body, model.endpoints[0]
    texts = _texts(body)
    size = body.get("dimensions") or DIMENSIONS[model.id]
    as_text = body.get("encoding_format") == "base64"
    vectors = [_vector(model.slug, text, size) for text in texts]
    tokens = sum(map(count_tokens, texts))
    cost_usd = tokens * endpoint.price.prompt
    usage = {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "cost": cost_usd,
        "cost_details": {"upstream_inference_cost": None},
        "is_byok": False,
    }
    data = [
        {"object": "embedding", "index": place, "embedding": _base64(one) if as_text else one.tolist()}
        for place, one in enumerate(vectors)
    ]
    reply = {"object": "list", "data": data, "model": model.slug, "provider": endpoint.provider}

    def settle(produced: int, *, cancelled: bool) -> None:  # noqa: ARG001 - what was asked for is made whole
        told = _generation(world, row, model, generation_id, tokens, cost_usd)
        world.generations.add(
            Generation(generation_id, api_key, world.now(), cost_usd, cost_usd * 0, told, 0)
        )
        world.journal.update(row, cost_usd=cost_usd, cancelled=cancelled)

    headers = {"X-Generation-Id": generation_id, "X-Provider-Name": endpoint.provider}
    return Reply(headers=headers, body=dumps(reply | {"id": generation_id, "usage": usage}), settle=settle)


def _generation(
    world: World, row: Received, model: Model, generation_id: str, tokens: int, cost_usd: Decimal
) -> dict[str, Any]:
    """What ``GET /generation`` tells of it."""
    return dict.fromkeys(_NOTHING_TOLD) | {
        "id": generation_id,
        "request_id": f"req-{generation_id[4:]}",
        "total_cost": cost_usd,
        "usage": cost_usd,
        "cache_discount": None,
        "upstream_inference_cost": cost_usd * 0,
        "is_byok": False,
        "created_at": datetime.fromtimestamp(world.now(), timezone.utc).isoformat(),
        "model": model.slug,
        "provider_name": model.endpoints[0].provider,
        "streamed": False,
        "cancelled": False,
        "tokens_prompt": tokens,
        "tokens_completion": 0,
        "native_tokens_prompt": tokens,
        "native_tokens_completion": 0,
        "native_tokens_reasoning": 0,
        "native_tokens_cached": 0,
        "num_media_prompt": 0,
        "num_input_audio_prompt": 0,
        "num_media_completion": 0,
        "latency": 250,
        "generation_time": 0,
        "data_region": "global",
        "api_type": "embeddings",
        "origin": row.headers.get("x-openrouter-title", ""),
    }


def _vector(slug: str, text: str, size: int) -> array[float]:
    """A vector of length 1: a few numbers for each word, and a little of the whole text's own."""
    raw = hashlib.shake_128(f"{slug}\0{text}".encode()).digest(2 * size)
    numbers = [_NOISE * (value / 32768 - 1) for value in memoryview(raw).cast("H")]
    for word in split_tokens(text.casefold()):
        marks = memoryview(hashlib.shake_128(f"{slug}\0{word.strip()}".encode()).digest(4 * _WORD_NUMBERS))
        for value in marks.cast("I"):
            numbers[(value >> 1) % size] += 1 if value & 1 else -1
    length = math.sqrt(sum(value * value for value in numbers)) or 1.0
    return array("f", (value / length for value in numbers))


def _base64(vector: array[float]) -> str:
    """Little-endian float32, as OpenAI has it."""
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()
