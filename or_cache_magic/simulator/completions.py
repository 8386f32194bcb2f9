"""One POST /chat/completions, from the request as received to the reply to be sent.

The order of events: key → body, preset, scenario → route → limits → response cache → draft → bill →
reply. The server sends the reply and then settles it, since only then is it known what was delivered.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.attachments import read_files
from or_cache_magic.simulator.behaviour import Refusal, error_object, platform_limit
from or_cache_magic.simulator.billing import Bill, TokenCounts, bill, price_at
from or_cache_magic.simulator.caches import CachedAnswer, ResponseCache, directive
from or_cache_magic.simulator.calls import Call, understand
from or_cache_magic.simulator.drafting import draft, fingerprint
from or_cache_magic.simulator.prompt_cache import marks_problem
from or_cache_magic.simulator.replies import Completion, dumps, whole
from or_cache_magic.simulator.routing import Route, route
from or_cache_magic.simulator.scenarios import scenario
from or_cache_magic.simulator.settlement import settle_call
from or_cache_magic.simulator.streaming import frames
from or_cache_magic.simulator.tokens import prompt_tokens
from or_cache_magic.simulator.world import Reply, World, authorize, error_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from or_cache_magic.simulator.catalog import Price
    from or_cache_magic.simulator.prompt_cache import CachedPrefix
    from or_cache_magic.simulator.state import DayLimit, Received, TallyLimit

_ONE: Final = Decimal(1)
_FAILED: Final = frozenset({"error", "silent", "token_limit"})


def answer_completion(world: World, row: Received) -> Reply:
    """The reply to a request for a chat completion."""
    api_key = authorize(world, row.headers)
    if isinstance(api_key, Refusal):
        return error_reply(api_key)
    generation_id = world.generations.new_id(world.now())
    call = understand(world, row, api_key, generation_id)
    if isinstance(call, Refusal):
        return error_reply(call, generation_id)
    world.journal.update(row, generation_id=generation_id, scenario=call.scenario.name)
    refusal = _scripted_refusal(call)
    if refusal is not None:
        wants_metadata = call.header("x-openrouter-metadata") == "enabled"
        reply = error_reply(refusal, generation_id, metadata=wants_metadata)
        return replace(reply, delay_s=call.scenario.delay_s)
    seed = fingerprint(call.body)
    sticky = world.prompts.pinned(api_key, call.body, call.now_s)
    way = route(call.body, call.scenario, sticky, seed)
    if isinstance(way, Refusal):
        return error_reply(way, generation_id)
    refusal = _wrongly_marked(call, way) or _over_limit(call, way) or _too_many(call, way)
    if refusal is not None:
        return error_reply(refusal, generation_id)
    reply = _answered(call, way, seed)

    def settle(produced: int, *, cancelled: bool) -> None:
        reply.settle(produced, cancelled=cancelled)
        world.capacity.leave(_ONE)
        world.in_flight.leave(_held_usd(call, way))

    return replace(reply, settle=settle, delay_s=reply.delay_s + world.latency_s)


def complete(world: World, row: Received, api_key: str) -> Completion | Refusal:
    """The completion of one request of a batch, which no limit of simultaneous calls applies to."""
    call = understand(world, row, api_key, world.generations.new_id(world.now()))
    if isinstance(call, Refusal):
        return call
    refusal = _scripted_refusal(call)
    seed = fingerprint(call.body)
    way = refusal or route(call.body, call.scenario, None, seed)
    if isinstance(way, Refusal):
        return way
    return _wrongly_marked(call, way) or _completed(call, way, seed)


def _scripted_refusal(call: Call) -> Refusal | None:
    refusal = call.scenario.refusal
    if refusal is None or refusal.times is None:
        return refusal
    seen = call.world.scripts.repeats(f"refused {call.scenario.name}", fingerprint(call.body))
    return refusal if seen < refusal.times else None


def _wrongly_marked(call: Call, way: Route) -> Refusal | None:
    """Anthropic's refusal of marks that it can't take, as OpenRouter passes it on."""
    problem = marks_problem(call.body) if way.model.tokenizer == "Claude" else ""
    if not problem:
        return None
    error = {"type": "invalid_request_error", "message": problem}
    raw = json.dumps({"type": "error", "error": error})
    metadata = {"raw": raw, "provider_name": way.endpoint.provider}
    return Refusal(400, error_object(400, "Provider returned error", "invalid_request", metadata=metadata))


def _over_limit(call: Call, way: Route) -> Refusal | None:
    """The refusal of a call that the account or the model has no room for; None when there is room."""
    tokens = prompt_tokens(call.body)
    if tokens > way.model.context_length:
        message = (
            f"This endpoint's maximum context length is {way.model.context_length} tokens. "
            f"However, you requested about {tokens} tokens. Please reduce the length of the input."
        )
        return Refusal(400, error_object(400, message, "context_length_exceeded"))
    poor = _too_poor(call, way)
    if poor is not None:
        return poor
    world, key, now_s = call.world, call.api_key, call.now_s
    limits: list[tuple[str, int, TallyLimit | DayLimit]]
    limits = [("requests-per-min", world.limit.per_minute, world.limit)]
    if way.model.is_free:
        limits = [
            ("free-models-per-day", world.free_days.per_day or 0, world.free_days),
            ("free-models-per-min", world.free_limit.per_minute, world.free_limit),
        ]
    for name, most, limit in limits:
        until = limit.refuses_until(key, now_s)
        if until is not None and limit is world.limit and not world.tells_rate:
            return scenario("rate_limited", retry_after_s=None).refusal
        if until is not None:
            return platform_limit(most, math.ceil(until * 1000), name=name)
    return None


def _too_many(call: Call, way: Route) -> Refusal | None:
    """The refusal of a call for which too much is under way; None takes the room that it needs."""
    world = call.world
    if not world.in_flight.take(_held_usd(call, way)):
        return scenario("credits_held", retry_after_s=world.retry_after_s or 120).refusal
    if world.capacity.take(_ONE):
        return None
    world.in_flight.leave(_held_usd(call, way))
    return scenario("rate_limited", retry_after_s=world.retry_after_s).refusal


def _held_usd(call: Call, way: Route) -> Decimal:
    """What is held of the credits while a call is under way: the price of the longest answer."""
    wanted = call.body.get("max_tokens") or call.body.get("max_completion_tokens")
    return (wanted or way.model.max_completion_tokens) * way.endpoint.price.completion


def _too_poor(call: Call, way: Route) -> Refusal | None:
    """The pre-flight check of credits: what the longest answer would cost must be there."""
    if call.world.credits_usd is None:
        return None
    left = call.world.credits_usd - call.world.generations.sums()[0]
    wanted = call.body.get("max_tokens") or call.body.get("max_completion_tokens")
    wanted = wanted or way.model.max_completion_tokens
    price = way.endpoint.price.completion
    if left <= 0:
        return scenario("insufficient_credits").refusal
    if wanted * price <= left:
        return None
    return scenario("insufficient_credits", max_tokens=wanted, affordable=int(left / price)).refusal


def _answered(call: Call, way: Route, seed: int) -> Reply:
    """The reply with an answer, from the response cache when the request wants that."""
    world, wish = call.world, directive(call.row.headers, call.preset)
    key = ResponseCache.key(call.api_key, call.row.body) if wish.enabled else ""
    headers = {"X-Generation-Id": call.generation_id, "X-Provider-Name": way.endpoint.provider}
    if wish.enabled:
        if wish.clear:
            world.responses.drop(key)
        found = world.responses.find(key, call.now_s)
        if found is not None:
            return _replayed(call, found, headers)
        headers |= {"X-OpenRouter-Cache-Status": "MISS", "X-OpenRouter-Cache-TTL": str(wish.ttl_s)}
    completion = _completed(call, way, seed)

    def settle(produced: int, *, cancelled: bool) -> None:
        settle_call(call, completion, produced, cancelled=cancelled)
        unbroken = call.scenario.interruption is None and not call.scenario.empty
        if wish.enabled and unbroken and not cancelled:
            world.responses.put(key, CachedAnswer(completion, call.now_s, wish.ttl_s))

    return _sent(call, completion, headers, settle)


def _replayed(call: Call, found: CachedAnswer, headers: dict[str, str]) -> Reply:
    """An answer from the response cache: new id, no cost, no tokens, no metadata."""
    age_s = found.age_s(call.now_s)
    headers |= {
        "X-OpenRouter-Cache-Status": "HIT",
        "X-OpenRouter-Cache-Age": str(age_s),
        "X-OpenRouter-Cache-TTL": str(found.ttl_s - age_s),
        "X-OpenRouter-Cache-Source-Id": found.completion.id,
    }
    completion = replace(
        found.completion, id=call.generation_id, created=int(call.now_s), bill=None, metadata=None, debug=None
    )

    def settle(produced: int, *, cancelled: bool) -> None:
        settle_call(call, completion, produced, cancelled=cancelled, source_id=found.completion.id)

    return _sent(call, completion, headers, settle)


def _completed(call: Call, way: Route, seed: int) -> Completion:
    """A new completion: what is said and what it costs."""
    world, body, played = call.world, call.body, call.scenario
    varies = played.sampled or (bool(body.get("temperature")) and body.get("seed") is None)
    repeat = world.scripts.repeats("sampled", seed) if varies else 0
    said = draft(body, way.model, played, repeat)
    prompt = prompt_tokens(body)
    owner = (call.api_key, way.endpoint.tag)
    prefix = world.prompts.use(owner, way.model, body, prompt, call.now_s)
    price = price_at(way.endpoint, prompt, call.now_s)
    if _sticks(call, prefix, price):
        world.prompts.pin(call.api_key, body, way.endpoint.tag, call.now_s)
    tokens = TokenCounts(
        prompt,
        said.completion_tokens,
        prefix.cached,
        prefix.written,
        prefix.written_1h,
        said.reasoning_tokens,
        said.image_tokens,
        said.audio_tokens,
    )
    files = read_files(body, way.model)
    cost = bill(tokens, price, search=way.search, files_usd=files.fee_usd, byok=played.byok)
    if played.empty or (played.interruption is not None and played.interruption.how in _FAILED):
        cost = Bill(tokens if not played.empty else replace(tokens, completion=0))
    metadata = _metadata(way, cost) if call.header("x-openrouter-metadata") == "enabled" else None
    echoes = call.streams and (body.get("debug") or {}).get("echo_upstream_body")
    upstream = {**body, "model": way.served} if echoes else None
    return Completion(
        call.generation_id,
        int(call.now_s),
        way,
        said,
        played,
        cost,
        metadata,
        upstream,
        files.annotations,
    )


def _sticks(call: Call, prefix: CachedPrefix, price: Price) -> bool:
    """Whether the conversation is to stay with its provider (guide "Prompt caching", on sticky routing)."""
    if (call.body.get("provider") or {}).get("order"):
        return False
    if price.cache_read is None or price.cache_read >= price.prompt:
        return False
    if prefix.cached or prefix.written or call.body.get("session_id"):
        return True
    return call.world.prompts.pinned(call.api_key, call.body, call.now_s) is not None


def _metadata(way: Route, cost: Bill) -> dict[str, Any]:
    offers = [
        {"provider": offer.provider, "model": way.served, "selected": offer is way.endpoint}
        for offer in way.model.endpoints
    ]
    return {
        "requested": way.requested,
        "strategy": way.strategy,
        "region": None,
        "summary": f"available={len(offers)}, selected={way.endpoint.provider}",
        "attempt": way.attempt,
        "is_byok": cost.byok,
        "endpoints": {"total": len(offers), "available": offers},
    }


def _sent(
    call: Call, completion: Completion, headers: Mapping[str, str], settle: Callable[..., None]
) -> Reply:
    """The reply that carries a completion, streamed or whole."""
    played = call.scenario
    pace = call.world.chunk_delay_s if played.chunk_delay_s is None else played.chunk_delay_s
    reply = Reply(headers=headers, delay_s=played.delay_s, chunk_delay_s=pace, settle=settle)
    if call.streams:
        return replace(reply, frames=frames(completion), content_type="text/event-stream")
    body = b"" if played.blank else dumps(whole(completion))
    how = played.interruption.how if played.interruption is not None else ""
    fault = {"eof": "reset", "eof_after_finish": "reset", "reset": "reset", "stall": "stall"}.get(how, "")
    return replace(reply, body=played.padding.encode() + body, fault=fault)
