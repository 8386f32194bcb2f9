"""The read-only endpoints: models, providers, generations, keys and credits."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.behaviour import Refusal, error_object
from or_cache_magic.simulator.billing import price_at
from or_cache_magic.simulator.catalog import (
    MODELS,
    Endpoint,
    Model,
    Price,
    PriceOverride,
    find_model,
    simulated,
)
from or_cache_magic.simulator.replies import dumps
from or_cache_magic.simulator.scenarios import SCENARIOS
from or_cache_magic.simulator.world import MANAGEMENT_KEY, Reply, World, authorize, error_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from or_cache_magic.simulator.state import Received

BASE_PATH: Final = "/api/v1"
_LONGEST_PAGE: Final = 1000
_PARAMETERS: Final = (
    "max_tokens", "temperature", "top_p", "stop", "seed", "frequency_penalty", "presence_penalty",
)  # fmt: skip
_TOOL_PARAMETERS: Final = ("tools", "tool_choice")
_REASONING_PARAMETERS: Final = ("reasoning", "include_reasoning")
_TOTAL_CREDITS_USD: Final = Decimal(100)
_FREE_A_DAY: Final = 1000
_OLD_RATE_LIMIT: Final = {
    "requests": -1,
    "interval": "10s",
    "note": "This field is deprecated and safe to ignore.",
}
_TOOL_CHOICES: Final = ("none", "auto", "required", "function")


def answer_get(world: World, row: Received) -> Reply:
    """The reply to a GET request: 404 where there is nothing."""
    match row.path.removeprefix(BASE_PATH).strip("/").split("/"):
        case ["models"]:
            return _models(world, row.query)
        case ["model", author, slug]:
            return _model(world, f"{author}/{slug}")
        case ["models", author, slug, "endpoints"]:
            return _endpoints(world, f"{author}/{slug}")
        case ["providers"]:
            return _ok(_providers())
        case ["models", "user"] | ["generation"] | ["key"] | ["credits"]:
            return _private(world, row)
    return not_found()


def not_found(message: str = "Resource not found") -> Reply:
    """The 404 of a path or thing that does not exist."""
    return error_reply(Refusal(404, error_object(404, message, "not_found")))


def _ok(data: Any, **more: Any) -> Reply:
    return Reply(body=dumps({"data": data} | more))


def _private(world: World, row: Received) -> Reply:
    api_key = authorize(world, row.headers)
    if isinstance(api_key, Refusal):
        return error_reply(api_key)
    match row.path.rsplit("/", 1)[-1]:
        case "generation":
            wanted = row.query.get("id", "")
            found = world.generations.find(wanted, api_key)
            return not_found(f"Generation {wanted} not found") if found is None else _ok(found.data)
        case "key":
            return _ok(_key(world, api_key))
        case "credits":
            return _credits(world, api_key)
    return _models(world, row.query)


def _models(world: World, query: Mapping[str, str]) -> Reply:
    """The list, of which ``offset`` and ``limit`` give a page; only text models unless all are asked for."""
    every = query.get("output_modalities", "text") == "all"
    wanted = [model for model in MODELS if every or model.outputs == ("text",)]
    total, link = len(wanted), None
    try:
        offset = max(0, int(query.get("offset", "0")))
        limit = min(max(1, int(query.get("limit", _LONGEST_PAGE))), _LONGEST_PAGE)
    except ValueError:
        return error_reply(
            Refusal(400, error_object(400, "offset and limit must be integers", "invalid_request"))
        )
    if offset + limit < total:
        link = f"{BASE_PATH}/models?offset={offset + limit}&limit={limit}"
    page = [_listed(model, world.now()) for model in wanted[offset : offset + limit]]
    return _ok(page, total_count=total, links={"next": link})


def _known(model_id: str) -> Model | None:
    author, _, name = model_id.partition("/")
    if author == "simulator":
        return simulated(name) if name in SCENARIOS else None
    return find_model(model_id) or find_model(model_id.partition(":")[0])


def _model(world: World, model_id: str) -> Reply:
    model = _known(model_id)
    if model is not None and model.alias_of is not None:
        model = find_model(model.alias_of)
    return not_found(f"Model {model_id} not found") if model is None else _ok(_listed(model, world.now()))


def _listed(model: Model, now_s: float) -> dict[str, Any]:
    target = find_model(model.alias_of) if model.alias_of else None
    listed = {
        "id": model.id,
        "canonical_slug": model.slug,
        "hugging_face_id": None,
        "name": model.name,
        "created": model.created,
        "description": f"{model.name}, as the simulator offers it. Its answers are simulated.",
        "context_length": model.context_length,
        "architecture": _architecture(model),
        "pricing": _pricing(model.endpoints[0], now_s),
        "top_provider": {
            "context_length": model.context_length,
            "max_completion_tokens": model.max_completion_tokens,
            "is_moderated": model.endpoints[0].provider == "OpenAI",
        },
        "per_request_limits": None,
        "supported_parameters": _parameters(model),
        "default_parameters": None,
        "supported_voices": None,
        "knowledge_cutoff": None,
        "expiration_date": model.expires,
        "links": {"details": f"{BASE_PATH}/models/{model.slug}/endpoints"},
    }
    if target is not None:
        listed["alias_target"] = {"slug": target.id, "name": target.name}
    if model.reasoning:
        listed["reasoning"] = {"mandatory": model.reasoning == "mandatory", "supported_efforts": None}
    return listed


def _parameters(model: Model) -> list[str]:
    tools = _TOOL_PARAMETERS if model.calls_tools else ()
    return [*_PARAMETERS, *tools, *model.forms, *(_REASONING_PARAMETERS if model.reasoning else ())]


def _architecture(model: Model) -> dict[str, Any]:
    return {
        "modality": f"{'+'.join(model.inputs)}->{'+'.join(model.outputs)}",
        "input_modalities": list(model.inputs),
        "output_modalities": list(model.outputs),
        "tokenizer": model.tokenizer,
        "instruct_type": None,
    }


def _pricing(endpoint: Endpoint, now_s: float) -> dict[str, Any]:
    """Prices as decimal strings, at the rate of the time, and under what conditions there are others."""
    price = price_at(endpoint, 0, now_s)
    pricing: dict[str, Any] = _texts(price)
    if pricing["prompt"] != "-1":
        pricing |= {
            "request": format(price.request, "f"),
            "image": "0",
            "web_search": "0.01",
            "internal_reasoning": "0",
        }
    if endpoint.overrides:
        pricing["overrides"] = [_override(one) for one in endpoint.overrides]
        if any(one.utc_start is not None for one in endpoint.overrides):
            base = _texts(endpoint.price)
            pricing["overrides"].insert(0, {"utc_start": 30, "utc_end": 1630} | base)
    return pricing


def _texts(price: Price) -> dict[str, str]:
    named = {
        "prompt": price.prompt,
        "completion": price.completion,
        "input_cache_read": price.cache_read,
        "input_cache_write": price.cache_write,
        "input_cache_write_1h": price.cache_write_1h,
    }
    return {name: format(usd, "f") for name, usd in named.items() if usd is not None}


def _override(override: PriceOverride) -> dict[str, Any]:
    conditions = {name: getattr(override, name) for name in ("min_prompt_tokens", "utc_start", "utc_end")}
    prices = {name: getattr(override, name) for name in ("prompt", "completion")}
    texts = {name: format(usd, "f") for name, usd in prices.items() if usd is not None}
    return {name: value for name, value in conditions.items() if value is not None} | texts


def _endpoints(world: World, model_id: str) -> Reply:
    model = _known(model_id)
    if model is None:
        return not_found(f"Model {model_id} not found")
    offers = [_offer(model, endpoint, world.now()) for endpoint in model.endpoints]
    return _ok(
        {
            "id": model.id,
            "name": model.name,
            "created": model.created,
            "description": f"{model.name}, as the simulator offers it.",
            "architecture": _architecture(model),
            "endpoints": offers,
        }
    )


def _offer(model: Model, endpoint: Endpoint, now_s: float) -> dict[str, Any]:
    return {
        "name": f"{endpoint.provider} | {model.slug}",
        "model_id": model.id,
        "model_name": model.name,
        "context_length": model.context_length,
        "pricing": _pricing(endpoint, now_s),
        "provider_name": endpoint.provider,
        "tag": endpoint.tag,
        "quantization": "unknown",
        "max_completion_tokens": model.max_completion_tokens,
        "max_prompt_tokens": None,
        "supported_parameters": _parameters(model),
        "status": 0,
        "uptime_last_30m": 100.0,
        "uptime_last_5m": 100.0,
        "uptime_last_1d": 100.0,
        "service_tier": None if endpoint.tier == "default" else endpoint.tier,
        "native_tools": {"openrouter:web_search": {"type": "web_search"}} if endpoint.searches else {},
        "supports_tool_choice": dict.fromkeys(_TOOL_CHOICES, True),
        "supports_diarization": False,
        "supports_implicit_caching": model.prompt_caching in {"automatic", "both"},
        "latency_last_30m": None,
        "throughput_last_30m": None,
    }


def _providers() -> list[dict[str, Any]]:
    names = {
        endpoint.provider: endpoint.tag.split("/")[0] for model in MODELS for endpoint in model.endpoints
    }
    unknown = ("privacy_policy_url", "terms_of_service_url", "status_page_url", "headquarters", "datacenters")
    return [{"name": name, "slug": slug} | dict.fromkeys(unknown) for name, slug in sorted(names.items())]


def _key(world: World, api_key: str) -> dict[str, Any]:
    """What ``GET /key`` tells; the account's credits are the key's limit."""
    limit = world.credits_usd
    is_management = api_key.startswith(MANAGEMENT_KEY)
    return {
        "label": f"{api_key[:12]}...{api_key[-3:]}",
        "limit": limit,
        "limit_remaining": None if limit is None else limit - world.generations.sums()[0],
        "limit_reset": None,
        "include_byok_in_limit": False,
        "is_free_tier": False,
        "is_management_key": is_management,
        "is_provisioning_key": is_management,
        "creator_user_id": None,
        "organization_id": None,
        "workspace_id": None,
        "allowed_data_regions": ["global"],
        "budgets": [],
        "effective_budget": None,
        "expires_at": None,
        "rate_limit": _OLD_RATE_LIMIT,
    } | _usage(world, api_key)


def _usage(world: World, api_key: str) -> dict[str, Any]:
    """A key's usage in all, and by UTC day, week (from Monday) and month."""
    now = datetime.fromtimestamp(world.now(), timezone.utc)
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = {
        "": datetime.fromtimestamp(0, timezone.utc),
        "_daily": day,
        "_weekly": day - timedelta(days=day.weekday()),
        "_monthly": day.replace(day=1),
    }
    used = world.generations.free_calls(api_key, day.timestamp())
    left = max(0, _FREE_A_DAY - used)
    usage: dict[str, Any] = {
        "free_model_daily_requests": {"limit": _FREE_A_DAY, "used": used, "remaining": left}
    }
    for suffix, start in starts.items():
        charged, direct = world.generations.sums(api_key, start.timestamp())
        usage |= {f"usage{suffix}": charged, f"byok_usage{suffix}": direct}
    return usage


def _credits(world: World, api_key: str) -> Reply:
    if not api_key.startswith(MANAGEMENT_KEY):
        message = "Only management keys can fetch credits for an account"
        return error_reply(Refusal(403, error_object(403, message, "permission_denied")))
    total = _TOTAL_CREDITS_USD if world.credits_usd is None else world.credits_usd
    return _ok({"total_credits": total, "total_usage": world.generations.sums()[0]})
