"""Settle a call: what it came to cost, and what ``/generation`` tells of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.billing import ZERO, Bill, TokenCounts, bill, price_at
from or_cache_magic.simulator.state import Generation

if TYPE_CHECKING:
    from or_cache_magic.simulator.calls import Call
    from or_cache_magic.simulator.replies import Completion

_STOPS_WHEN_CANCELLED: Final = frozenset(
    {"OpenAI", "Azure", "Anthropic", "Fireworks", "Together", "DeepInfra", "Novita", "xAI", "Cloudflare",
     "DeepSeek", "Cohere", "FakeProvider"}
)  # fmt: skip


def settle_call(
    call: Call, completion: Completion, produced: int, *, cancelled: bool, source_id: str | None = None
) -> None:
    """Count what a completion cost now that it is known how much of it was made, and note it.

    Args:
        call: The request.
        completion: What was to be sent.
        produced: Completion tokens made when it ended.
        cancelled: Whether the client went before the end. Some providers stop then, and bill what was made;
            the others, and all whole replies, go on to the end (OpenRouter's streaming guide).
        source_id: The generation that was paid for, when the response cache served this one.
    """
    way, cost = completion.route, completion.bill
    if cost is not None and cancelled and call.streams and way.endpoint.provider in _STOPS_WHEN_CANCELLED:
        tokens = replace(cost.tokens, completion=produced, reasoning=min(produced, cost.tokens.reasoning))
        price = price_at(way.endpoint, tokens.prompt, call.now_s)
        cost = (
            bill(tokens, price, search=way.search, byok=cost.byok)
            if produced
            else Bill(replace(tokens, reasoning=0))
        )
    charged = ZERO if cost is None else cost.cost_usd
    direct = cost.upstream_usd if cost is not None and cost.byok else ZERO
    data = _generation_data(call, completion, cost, cancelled=cancelled) | {
        "response_cache_source_id": source_id
    }
    misses = call.scenario.generation_misses
    kept = Generation(completion.id, call.api_key, call.now_s, charged, direct, data, misses)
    call.world.generations.add(kept)
    call.world.journal.update(call.row, cost_usd=charged + direct, cancelled=cancelled)


def _generation_data(
    call: Call, completion: Completion, cost: Bill | None, *, cancelled: bool
) -> dict[str, Any]:
    way, said = completion.route, completion.draft
    if cost is None:
        cost = Bill(TokenCounts(0, 0))
    tokens = cost.tokens
    reason = None if cancelled else said.finish_reason
    latency_ms = 250
    return {
        "id": completion.id, "upstream_id": None, "request_id": f"req-{completion.id[4:]}",
        "total_cost": cost.cost_usd, "usage": cost.cost_usd,
        "cache_discount": cost.discount_usd or None,
        "upstream_inference_cost": cost.upstream_usd if cost.byok else ZERO,
        "is_byok": cost.byok,
        "created_at": datetime.fromtimestamp(call.now_s, timezone.utc).isoformat(),
        "model": way.served, "provider_name": way.endpoint.provider, "service_tier": way.tier,
        "streamed": call.streams, "cancelled": cancelled, "finish_reason": reason,
        "native_finish_reason": completion.native_reason(reason),
        "tokens_prompt": tokens.prompt, "tokens_completion": tokens.completion,
        "native_tokens_prompt": tokens.prompt, "native_tokens_completion": tokens.completion,
        "native_tokens_reasoning": tokens.reasoning, "native_tokens_cached": tokens.cached,
        "native_tokens_completion_images": tokens.images,
        "num_media_prompt": 0, "num_input_audio_prompt": 0, "num_media_completion": len(said.images),
        "num_search_results": 1 if way.search else None, "num_fetches": None,
        "web_search_engine": way.search or None,
        "latency": latency_ms, "moderation_latency": None, "generation_time": 10 * tokens.completion,
        "provider_responses": None, "preset_id": None, "external_user": call.body.get("user"),
        "session_id": call.body.get("session_id"), "app_id": None, "api_type": "completions", "router": None,
        "origin": call.header("x-openrouter-title") or call.header("x-title"),
        "user_agent": call.header("user-agent") or None, "http_referer": call.header("http-referer") or None,
        "data_region": "global", "workspace_id": None,
    }  # fmt: skip
