"""One POST /chat/completions, from the request as received to the reply to be sent.

The order of events: key → body → preset → scenario → route → limits → response cache → draft → bill →
reply. The server sends the reply and then settles it, since only then is it known what was delivered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.billing import ZERO, Bill, TokenCounts, bill, price_at
from or_cache_magic.simulator.caches import CachedAnswer, PromptCache, ResponseCache, directive
from or_cache_magic.simulator.drafting import draft, fingerprint
from or_cache_magic.simulator.replies import Completion, Frame, dumps, frames, whole
from or_cache_magic.simulator.routing import Route, route
from or_cache_magic.simulator.scenarios import (
    PLAIN,
    Refusal,
    Scenario,
    error_object,
    platform_limit,
    scenario,
    scenario_from_text,
)
from or_cache_magic.simulator.state import Generation, Generations, Journal, Scripts, TallyLimit
from or_cache_magic.simulator.tokens import prompt_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from or_cache_magic.simulator.state import Received

__all__ = ["MANAGEMENT_KEY", "Reply", "World", "answer_completion", "authorize", "error_reply"]

MANAGEMENT_KEY: Final = "sk-or-v1-management"
"""What a key begins with that may look at credits and may not ask for completions."""

_STOPS_WHEN_CANCELLED: Final = frozenset(
    {"OpenAI", "Azure", "Anthropic", "Fireworks", "Together", "DeepInfra", "Novita", "xAI", "Cloudflare",
     "DeepSeek", "Cohere", "FakeProvider"}
)  # fmt: skip
_USER_ID: Final = "user_simulated"
_FAILED: Final = frozenset({"error", "silent", "token_limit"})


@dataclass(frozen=True, slots=True)
class World:
    """Everything that one simulator knows, and its fixed conditions."""

    now: Callable[[], float]
    api_keys: frozenset[str] | None = None
    credits_usd: Decimal | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chunk_delay_s: float = 0.0
    journal: Journal = field(default_factory=Journal)
    scripts: Scripts = field(default_factory=Scripts)
    generations: Generations = field(default_factory=Generations)
    responses: ResponseCache = field(default_factory=ResponseCache)
    prompts: PromptCache = field(default_factory=PromptCache)
    free_limit: TallyLimit = field(default_factory=lambda: TallyLimit(20))


def _settle_nothing(produced: int, *, cancelled: bool) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server is to send.

    Attributes:
        body: The whole body, when there are no ``frames``.
        frames: The events of a stream, in place of the body.
        settle: To be called once, before the last bytes go or when the client is gone, with the completion
            tokens produced so far and whether the client went.
        fault: ``"reset"`` cuts a whole body in its middle, ``"stall"`` never sends it.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    frames: Iterator[Frame] | None = None
    delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    fault: str = ""
    content_type: str = "application/json"
    settle: Callable[..., None] = _settle_nothing


@dataclass(frozen=True, slots=True)
class _Call:
    """A request for a completion whose body has been understood."""

    world: World
    row: Received
    api_key: str
    body: dict[str, Any]
    preset: Mapping[str, Any]
    scenario: Scenario
    generation_id: str
    now_s: float

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))

    def header(self, name: str) -> str:
        return self.row.headers.get(name, "")


def authorize(world: World, headers: Mapping[str, str]) -> str | Refusal:
    """The API key of a request, or the refusal of one that has no valid key."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        return Refusal(401, error_object(401, "Missing Authentication header"))
    known = key.startswith("sk-or-") if world.api_keys is None else key in world.api_keys
    return key if known else Refusal(401, error_object(401, "User not found.", "authentication"))


def error_reply(refusal: Refusal, generation_id: str = "", *, metadata: bool = False) -> Reply:
    """The reply that a refusal is sent as."""
    headers = dict(refusal.headers)
    if generation_id:
        headers["X-Generation-Id"] = generation_id
    if refusal.html:
        return Reply(refusal.status, headers, refusal.html.encode(), content_type="text/html; charset=UTF-8")
    body: dict[str, Any] = {"error": refusal.error}
    if refusal.status != 401:  # noqa: PLR2004 - nobody is known then
        body["user_id"] = _USER_ID
    if metadata and refusal.pipeline:
        body["openrouter_metadata"] = {"pipeline": list(refusal.pipeline)}
    return Reply(refusal.status, headers, dumps(body))


def answer_completion(world: World, row: Received) -> Reply:
    """The reply to a request for a chat completion."""
    api_key = authorize(world, row.headers)
    if isinstance(api_key, Refusal):
        return error_reply(api_key)
    generation_id = world.generations.new_id(world.now())
    call = _understood(world, row, api_key, generation_id)
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
    refusal = way if isinstance(way, Refusal) else _over_limit(call, way)
    if refusal is not None or isinstance(way, Refusal):
        return error_reply(refusal or way, generation_id)  # type: ignore[arg-type]
    return _answered(call, way, seed)


def _understood(world: World, row: Received, api_key: str, generation_id: str) -> _Call | Refusal:
    body = row.body
    if not isinstance(body, dict):
        return Refusal(400, error_object(400, "Invalid JSON in request body", "invalid_request"))
    if api_key.startswith(MANAGEMENT_KEY):
        message = "Management keys cannot be used for completions"
        return Refusal(403, error_object(403, message, "permission_denied"))
    preset = _preset(world, body)
    body = {**{k: v for k, v in preset.items() if not k.startswith("cache_") and k != "system"}, **body}
    model = str(body.get("model") or "")
    if "@preset/" in model:
        body["model"] = model.partition("@preset/")[0] or preset.get("model")
    problem = _problem(body)
    if problem:
        return Refusal(400, error_object(400, problem, "invalid_request"))
    if preset.get("system"):
        body["messages"] = [{"role": "system", "content": preset["system"]}, *body["messages"]]
    try:
        played = _scenario(world, row, body)
    except (TypeError, ValueError) as exc:
        return Refusal(400, error_object(400, str(exc), "invalid_request"))
    return _Call(world, row, api_key, body, preset, played, generation_id, world.now())


def _preset(world: World, body: Mapping[str, Any]) -> Mapping[str, Any]:
    slug = str(body.get("model") or "").partition("@preset/")[2] or body.get("preset")
    return world.presets.get(str(slug), {})


def _problem(body: Mapping[str, Any]) -> str:
    """What is wrong with a body; empty when nothing is."""
    messages = body.get("messages")
    if messages is None and isinstance(body.get("prompt"), str):
        return "Legacy prompts are not simulated; send messages"
    if not isinstance(messages, list) or not messages:
        return 'Input required: specify "messages"'
    if not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
        return "messages: every message must be an object with a role"
    for name in ("provider", "reasoning", "response_format"):
        if not isinstance(body.get(name) or {}, dict):
            return f"{name}: expected an object"
    for name in ("plugins", "tools", "models"):
        if not isinstance(body.get(name) or [], list):
            return f"{name}: expected an array"
    if not all(isinstance(item, dict) for name in ("plugins", "tools") for item in body.get(name) or []):
        return "plugins and tools: expected objects"
    for name in ("max_tokens", "max_completion_tokens"):
        limit = body.get(name)
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            return f"{name}: expected an integer of at least 1"
    temperature = body.get("temperature")
    if temperature is not None and not (isinstance(temperature, int | float) and 0 <= temperature <= 2):  # noqa: PLR2004
        return "temperature: expected a number between 0 and 2"
    return ""


def _scenario(world: World, row: Received, body: Mapping[str, Any]) -> Scenario:
    """The scenario that is scripted, that a header asks for, or that the model's name says."""
    scripted = world.scripts.take(body)
    if scripted is not None:
        return scripted
    asked = row.headers.get("x-simulator-scenario")
    if asked:
        return scenario_from_text(asked)
    author, _, name = str(body.get("model") or "").partition("/")
    if author != "simulator":
        return PLAIN
    try:
        return scenario(name)
    except ValueError:
        return PLAIN


def _scripted_refusal(call: _Call) -> Refusal | None:
    refusal = call.scenario.refusal
    if refusal is None or refusal.times is None:
        return refusal
    seen = call.world.scripts.repeats(f"refused {call.scenario.name}", fingerprint(call.body))
    return refusal if seen < refusal.times else None


def _over_limit(call: _Call, way: Route) -> Refusal | None:
    """The refusal of a call that the account or the model has no room for; None when there is room."""
    tokens = prompt_tokens(call.body)
    if tokens > way.model.context_length:
        message = (
            f"This endpoint's maximum context length is {way.model.context_length} tokens. "
            f"However, you requested about {tokens} tokens. Please reduce the length of the input."
        )
        return Refusal(400, error_object(400, message, "context_length_exceeded"))
    poor = _too_poor(call, way)
    if poor is not None or not way.model.is_free:
        return poor
    until = call.world.free_limit.refuses_until(call.api_key, call.now_s)
    return None if until is None else platform_limit(call.world.free_limit.per_minute, int(until * 1000))


def _too_poor(call: _Call, way: Route) -> Refusal | None:
    """The pre-flight check of credits: what the longest answer would cost must be there."""
    if call.world.credits_usd is None:
        return None
    left = call.world.credits_usd - call.world.generations.sums()[0]
    wanted = call.body.get("max_tokens") or call.body.get("max_completion_tokens")
    wanted = wanted or way.model.max_completion_tokens
    price = way.endpoint.price.completion
    options: dict[str, Any] = {}
    if left > 0 and price:
        if wanted * price <= left:
            return None
        options = {"max_tokens": wanted, "affordable": int(left / price)}
    elif left > 0:
        return None
    return scenario("insufficient_credits", **options).refusal


def _answered(call: _Call, way: Route, seed: int) -> Reply:
    """The reply with an answer, from the response cache when the request wants that."""
    world, wish = call.world, directive(call.row.headers, call.preset)
    key = ResponseCache.key(call.api_key, call.row.body)
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
        _settle(call, completion, produced, cancelled=cancelled)
        unbroken = call.scenario.interruption is None and not call.scenario.empty
        if wish.enabled and unbroken and not cancelled:
            world.responses.put(key, CachedAnswer(completion, call.now_s, wish.ttl_s))

    return _sent(call, completion, headers, settle)


def _replayed(call: _Call, found: CachedAnswer, headers: dict[str, str]) -> Reply:
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
        _settle(call, completion, produced, cancelled=cancelled, source_id=found.completion.id)

    return _sent(call, completion, headers, settle)


def _completed(call: _Call, way: Route, seed: int) -> Completion:
    """A new completion: what is said and what it costs."""
    world, body, played = call.world, call.body, call.scenario
    varies = played.sampled or (bool(body.get("temperature")) and body.get("seed") is None)
    repeat = world.scripts.repeats("sampled", seed) if varies else 0
    said = draft(body, way.model, played, repeat)
    prompt = prompt_tokens(body)
    owner = (call.api_key, way.endpoint.tag)
    prefix = world.prompts.use(owner, way.model, body, prompt, call.now_s)
    if (prefix.cached or prefix.written) and not (body.get("provider") or {}).get("order"):
        world.prompts.pin(call.api_key, body, way.endpoint.tag, call.now_s)
    tokens = TokenCounts(
        prompt,
        said.completion_tokens,
        prefix.cached,
        prefix.written,
        prefix.for_1h,
        said.reasoning_tokens,
        said.image_tokens,
    )
    price = price_at(way.endpoint, prompt, call.now_s)
    cost = bill(tokens, price, search=way.search, byok=played.byok)
    if played.empty or (played.interruption is not None and played.interruption.how in _FAILED):
        cost = Bill(tokens if not played.empty else replace(tokens, completion=0))
    metadata = _metadata(way, cost) if call.header("x-openrouter-metadata") == "enabled" else None
    echoes = call.streams and (body.get("debug") or {}).get("echo_upstream_body")
    upstream = {**body, "model": way.served} if echoes else None
    return Completion(call.generation_id, int(call.now_s), way, said, played, cost, metadata, upstream)


def _metadata(way: Route, cost: Bill) -> dict[str, Any]:
    offers = [
        {"provider": offer.provider, "model": way.served, "selected": offer is way.endpoint}
        for offer in way.model.endpoints
    ]
    return {
        "requested": way.requested,
        "strategy": "direct",
        "region": None,
        "summary": f"available={len(offers)}, selected={way.endpoint.provider}",
        "attempt": way.attempt,
        "is_byok": cost.byok,
        "endpoints": {"total": len(offers), "available": offers},
    }


def _sent(
    call: _Call, completion: Completion, headers: Mapping[str, str], settle: Callable[..., None]
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


def _settle(
    call: _Call, completion: Completion, produced: int, *, cancelled: bool, source_id: str | None = None
) -> None:
    """Count what a completion cost now that it is known how much of it was made, and note it."""
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
    call: _Call, completion: Completion, cost: Bill | None, *, cancelled: bool
) -> dict[str, Any]:
    way, said = completion.route, completion.draft
    tokens = cost.tokens if cost is not None else TokenCounts(0, 0)
    reason = None if cancelled else said.finish_reason
    latency_ms = 250
    return {
        "id": completion.id, "upstream_id": None, "request_id": f"req-{completion.id[4:]}",
        "total_cost": ZERO if cost is None else cost.cost_usd, "usage": ZERO if cost is None else cost.cost_usd,
        "cache_discount": (cost.discount_usd or None) if cost is not None else None,
        "upstream_inference_cost": cost.upstream_usd if cost is not None and cost.byok else ZERO,
        "is_byok": cost is not None and cost.byok,
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


def parse_body(data: bytes) -> Any:
    """The JSON value of a request's body; None when it is empty or not JSON."""
    try:
        return json.loads(data) if data else None
    except ValueError:
        return None
