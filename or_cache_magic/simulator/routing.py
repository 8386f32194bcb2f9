"""Choose the model, provider and service tier that serve a request, or say why none can.

The order of OpenRouter's routing, without its dice: fallbacks in ``models``, aliases, variants,
routers and presets; then the first provider that the request admits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.attachments import unreadable
from or_cache_magic.simulator.behaviour import Refusal, availability, error_object
from or_cache_magic.simulator.catalog import MODELS, Endpoint, Model, find_model, simulated
from or_cache_magic.simulator.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from or_cache_magic.simulator.behaviour import Scenario

_DYNAMIC_VARIANTS: Final = frozenset({"nitro", "floor", "exacto", "online"})
_DEFAULT_MODEL: Final = "openai/gpt-4o-mini"
_TIERS: Final = {"flex": "flex", "priority": "priority", "fast": "priority"}


@dataclass(frozen=True, slots=True)
class Route:
    """Who serves a request.

    Attributes:
        requested: The model as it was asked for.
        model: The model that answers; ``model.slug`` stands in the reply.
        endpoint: The provider's offer that is billed.
        tier: The service tier that is reported; None where the provider has none.
        search: Whether a web search is made, and by whom: ``"native"``, ``"exa"`` or ``""``.
        attempt: 1 for the first of ``models``, 2 for the second.
    """

    requested: str
    model: Model
    endpoint: Endpoint
    tier: str | None
    search: str
    attempt: int = 1

    @property
    def strategy(self) -> str:
        """How the model was found, as ``openrouter_metadata`` names it."""
        if self.attempt > 1:
            return "fallback"
        named = {"openrouter/auto": "auto", "openrouter/free": "free"}
        return named.get(self.requested, "latest" if self.requested.startswith("~") else "direct")

    @property
    def served(self) -> str:
        """The ``model`` of the reply: the canonical slug, which may be a dated name in no list."""
        return self.model.id if self.model.is_free else self.model.slug


def route(body: Mapping[str, Any], scenario: Scenario, sticky_tag: str | None, seed: int) -> Route | Refusal:
    """The route of a request, or the refusal when there is none.

    Args:
        body: A chat request that is known to be valid, presets already applied.
        scenario: May fill or shed the service tier, or ask for a web search.
        sticky_tag: The provider tag that a former request of this conversation is pinned to, if any.
        seed: Picks the model of ``openrouter/free``.
    """
    names = [name for name in (body.get("model"), *(body.get("models") or ())) if name] or [_DEFAULT_MODEL]
    refusal: Refusal | None = None
    for attempt, name in enumerate(dict.fromkeys(names), start=1):
        found = _one_route(str(name), body, scenario, sticky_tag, seed)
        if isinstance(found, tuple):
            model, endpoint, tier = found
            return Route(name, model, endpoint, tier, _search(name, body, scenario, endpoint), attempt)
        refusal = refusal or found
    return refusal or _not_found(names[0])


def _one_route(
    name: str, body: Mapping[str, Any], scenario: Scenario, sticky_tag: str | None, seed: int
) -> tuple[Model, Endpoint, str | None] | Refusal:
    base, variants = _split(name)
    model = _model(base, seed)
    if model is None:
        return _not_found(name) if not base.endswith(":free") else _free_ended(base)
    lacking = unreadable(body, model)
    if lacking and not model.is_router:
        message = f"No endpoints found that support {lacking} input"
        return Refusal(404, error_object(404, message, "not_found"))
    unheard = [one for one in body.get("modalities") or () if one not in model.outputs]
    if unheard and not model.is_router:
        message = (
            f"No endpoints found that support the requested output modalities: {', '.join(map(str, unheard))}"
        )
        return Refusal(404, error_object(404, message, "not_found"))
    if body.get("tools") and not model.calls_tools:
        return Refusal(404, error_object(404, "No endpoints found that support tool use", "not_found"))
    wanted = (body.get("response_format") or {}).get("type")
    if wanted == "json_schema" and "structured_outputs" not in model.forms:
        return _unable(name)
    offers = _admitted(model.endpoints, body.get("provider") or {}, sticky_tag)
    if "floor" in variants or (body.get("provider") or {}).get("sort") == "price":
        offers = sorted(offers, key=lambda offer: offer.price.prompt + offer.price.completion)
    if not offers:
        return _no_endpoints(name)
    return _tiered(model, offers, body.get("service_tier"), scenario)


def _split(name: str) -> tuple[str, set[str]]:
    """A model id without its dynamic variants, and those."""
    base, *variants = name.split(":")
    kept = [variant for variant in variants if variant not in _DYNAMIC_VARIANTS]
    return ":".join([base, *kept]), set(variants) & _DYNAMIC_VARIANTS


def _model(name: str, seed: int) -> Model | None:
    author, _, slug = name.partition("/")
    if author == "simulator":
        return simulated(slug) if slug in SCENARIOS else None
    if name == "openrouter/auto":
        return find_model(_DEFAULT_MODEL)
    if name == "openrouter/free":
        free = [model for model in MODELS if model.is_free]
        return free[seed % len(free)]
    model = find_model(name)
    return find_model(model.alias_of) if model and model.alias_of else model


def _admitted(
    offers: Iterable[Endpoint], preferences: Mapping[str, Any], sticky_tag: str | None
) -> list[Endpoint]:
    """The offers that the ``provider`` preferences admit, the preferred first."""
    admitted = [offer for offer in offers if offer.tier != "default" or _matches(offer, preferences)]
    order = preferences.get("order") or []
    preferred = order or ([sticky_tag] if sticky_tag else [])
    admitted.sort(
        key=lambda offer: next((i for i, slug in enumerate(preferred) if _is(offer, slug)), len(preferred))
    )
    if order and preferences.get("allow_fallbacks") is False:
        admitted = [offer for offer in admitted if any(_is(offer, slug) for slug in order)]
    return admitted


def _matches(offer: Endpoint, preferences: Mapping[str, Any]) -> bool:
    only, ignored = preferences.get("only"), preferences.get("ignore") or ()
    if any(_is(offer, slug) for slug in ignored):
        return False
    return not only or any(_is(offer, slug) for slug in only)


def _is(offer: Endpoint, slug: str) -> bool:
    """Whether a provider slug names this offer: its whole tag, or the provider in all regions."""
    return slug in (offer.tag, offer.tag.split("/")[0], offer.provider)


def _tiered(
    model: Model, offers: list[Endpoint], asked: Any, scenario: Scenario
) -> tuple[Model, Endpoint, str | None] | Refusal:
    default = next((offer for offer in offers if offer.tier == "default"), None)
    wanted = _TIERS.get(str(asked))
    tiered = next((offer for offer in offers if offer.tier == wanted), None)
    has_tiers = any(offer.tier != "default" for offer in model.endpoints)
    if tiered is not None and not scenario.tier_shed:
        return (model, tiered, tiered.tier) if not scenario.tier_full else _tier_full(model.id)
    return (model, default, "default" if has_tiers else None) if default else _no_endpoints(model.id)


def _search(name: str, body: Mapping[str, Any], scenario: Scenario, endpoint: Endpoint) -> str:
    if scenario.search:
        return scenario.search
    plugins = [p for p in body.get("plugins") or () if p.get("id") == "web" and p.get("enabled", True)]
    tools = [
        t
        for t in body.get("tools") or ()
        if str(t.get("type")).startswith(("openrouter:web_search", "web_search"))
    ]
    if not (plugins or tools or "online" in _split(name)[1]):
        return ""
    engine = next((str(p["engine"]) for p in plugins if p.get("engine")), "")
    return engine or ("native" if endpoint.searches else "exa")


def _not_found(name: str) -> Refusal:
    error = error_object(400, f"{name} is not a valid model ID", "invalid_request")
    return Refusal(400, error | {"availability": availability("model_not_found", name)})


def _free_ended(name: str) -> Refusal:
    paid = name.removesuffix(":free")
    known = availability("free_variant_ended", name, fallback_models=[paid] if find_model(paid) else [])
    return Refusal(
        404, error_object(404, f"No endpoints found for {name}.", "not_found") | {"availability": known}
    )


def _no_endpoints(name: str) -> Refusal:
    known = availability(
        "constraint_filtered", name, constraint={"field": "provider", "detail": "no provider is left"}
    )
    return Refusal(
        404, error_object(404, f"No endpoints found for {name}.", "not_found") | {"availability": known}
    )


def _unable(name: str) -> Refusal:
    """The refusal of a parameter that no provider of the model takes."""
    constraint = {"field": "response_format", "detail": "no provider has structured outputs"}
    known = availability("constraint_filtered", name, constraint=constraint)
    message = (
        "No endpoints found that can handle the requested parameters. To learn more about provider routing, "
        "visit: https://openrouter.ai/docs/guides/routing/provider-selection"
    )
    return Refusal(404, error_object(404, message, "not_found") | {"availability": known})


def _tier_full(name: str) -> Refusal:
    known = availability("capacity_exhausted", name, retryable=True)
    message = "No capacity is left in the requested service tier"
    return Refusal(429, error_object(429, message, "rate_limit_exceeded") | {"availability": known})
