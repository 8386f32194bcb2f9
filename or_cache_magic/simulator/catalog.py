"""The models on offer, their providers and their prices.

The names are real so that code written against the simulator reads like code against OpenRouter; the
prices are near those of 2026 and fixed, so that ledgers can be checked to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

_NATIVE_SEARCH: Final = frozenset({"OpenAI", "Anthropic"})
ROUTER_PRICE: Final = Decimal(-1)
"""What a router's price is listed as: unknown, never to be multiplied."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars a token, and for each request besides; None where the provider has no such price."""

    prompt: Decimal
    completion: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    request: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """Another price under conditions, all of which must hold; None is no condition, or no other price.

    ``min_prompt_tokens`` is exceeded strictly; ``utc_start`` is inclusive and ``utc_end`` exclusive, as
    HHMM clock numbers, and the window may wrap midnight (OpenRouter's model guide, "Pricing overrides").
    """

    min_prompt_tokens: int | None = None
    utc_start: int | None = None
    utc_end: int | None = None
    prompt: Decimal | None = None
    completion: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One provider's offer of a model.

    ``tag`` is the provider's slug, with the tier or region after a slash; ``tier`` is the service tier.
    """

    provider: str
    tag: str
    price: Price
    tier: Literal["default", "flex", "priority"] = "default"
    overrides: tuple[PriceOverride, ...] = ()

    @property
    def searches(self) -> bool:
        """Whether the provider searches the web by itself."""
        return self.provider in _NATIVE_SEARCH


@dataclass(frozen=True, slots=True)
class Model:
    """One model as listed.

    Attributes:
        id: What requests name.
        slug: The canonical slug; served as ``model`` in answers, and not always an id in the list.
        reasoning: ``""`` cannot, ``"optional"`` when asked to, ``"mandatory"`` always.
        prompt_caching: ``""`` none, ``"automatic"``, ``"explicit"`` where ``cache_control`` asks, ``"both"``.
        min_cached_tokens: The shortest prefix that the provider's prompt caching takes.
        forms: The forms of answers that its providers can be held to; ``structured_outputs`` is a schema's.
        calls_tools: Whether it takes ``tools``.
        expires: The day on which it goes, as ``2027-05-01``; None is none.
        alias_of: The id that an ``~…-latest`` alias stands for now; None for a model of its own.
    """

    id: str
    slug: str
    name: str
    endpoints: tuple[Endpoint, ...]
    context_length: int = 128_000
    max_completion_tokens: int = 16_384
    tokenizer: str = "Other"
    inputs: tuple[str, ...] = ("text",)
    outputs: tuple[str, ...] = ("text",)
    reasoning: Literal["", "optional", "mandatory"] = ""
    prompt_caching: Literal["", "automatic", "explicit", "both"] = ""
    min_cached_tokens: int = 1024
    forms: tuple[str, ...] = ("response_format", "structured_outputs")
    calls_tools: bool = True
    expires: str | None = None
    alias_of: str | None = None
    created: int = 1_750_000_000

    @property
    def is_router(self) -> bool:
        """Whether it only picks another model, at that one's price."""
        return self.endpoints[0].price.prompt == ROUTER_PRICE

    @property
    def keeps_1h(self) -> bool:
        """Whether its providers' prompt caching can be asked to keep something for an hour."""
        return self.endpoints[0].price.cache_write_1h is not None

    @property
    def charges_writes(self) -> bool:
        """Whether its providers charge what they write to their prompt caching otherwise than the prompt."""
        return self.endpoints[0].price.cache_write is not None

    @property
    def is_free(self) -> bool:
        """Whether it is one of the rate-limited free variants."""
        return self.id.endswith(":free")


def _usd(per_million: str) -> Decimal:
    return (Decimal(per_million) / 1_000_000).normalize()


def _price(
    prompt: str, completion: str, *, read: str = "", write: str = "", write_1h: str = "", request: str = "0"
) -> Price:
    """A price from dollars per million tokens, as price pages print them, and dollars per request."""
    read_usd, write_usd, hour_usd = (_usd(text) if text else None for text in (read, write, write_1h))
    return Price(_usd(prompt), _usd(completion), read_usd, write_usd, hour_usd, Decimal(request))


def _one(provider: str, tag: str, price: Price, *overrides: PriceOverride) -> tuple[Endpoint, ...]:
    return (Endpoint(provider, tag, price, overrides=overrides),)


def _openai(price: Price, flex: Price | None = None, priority: Price | None = None) -> tuple[Endpoint, ...]:
    offers = [Endpoint("OpenAI", "openai", price), Endpoint("Azure", "azure", price)]
    if flex:
        offers.append(Endpoint("OpenAI", "openai/flex", flex, "flex"))
    if priority:
        offers.append(Endpoint("OpenAI", "openai/priority", priority, "priority"))
    return tuple(offers)


def _anthropic(price: Price) -> tuple[Endpoint, ...]:
    tags = (("Anthropic", "anthropic"), ("Amazon Bedrock", "amazon-bedrock"), ("Google", "google-vertex"))
    return tuple(Endpoint(provider, tag, price) for provider, tag in tags)


_ROUTER: Final = Price(ROUTER_PRICE, ROUTER_PRICE)
_FREE: Final = _price("0", "0")
_SONNET: Final = _price("3", "15", read="0.30", write="3.75", write_1h="6")
_OPUS: Final = _price("5", "25", read="0.50", write="6.25", write_1h="10")
_IMAGES: Final = ("text", "image", "file")

MODELS: Final[tuple[Model, ...]] = (
    Model("openai/gpt-4o-mini", "openai/gpt-4o-mini", "OpenAI: GPT-4o-mini",
          _openai(_price("0.15", "0.60", read="0.075")), tokenizer="GPT", inputs=_IMAGES,
          prompt_caching="automatic", created=1_721_260_800),
    Model("openai/gpt-4o", "openai/gpt-4o", "OpenAI: GPT-4o",
          _openai(_price("2.50", "10", read="1.25")), tokenizer="GPT", inputs=_IMAGES,
          prompt_caching="automatic", created=1_715_558_400),
    Model("openai/gpt-5-mini", "openai/gpt-5-mini-2025-08-07", "OpenAI: GPT-5 Mini",
          _openai(_price("0.25", "2", read="0.025"), flex=_price("0.125", "1", read="0.0125"),
                  priority=_price("0.45", "3.60", read="0.045")),
          400_000, 128_000, "GPT", _IMAGES, reasoning="optional", prompt_caching="automatic",
          created=1_754_587_407),
    Model("openai/gpt-5.6-sol", "openai/gpt-5.6-sol", "OpenAI: GPT-5.6 Sol",
          _openai(_price("5", "30", read="0.50", write="6.25")), 1_050_000, 128_000, "GPT", _IMAGES,
          reasoning="optional", prompt_caching="automatic", created=1_782_864_000),
    Model("anthropic/claude-haiku-4.5", "anthropic/claude-4.5-haiku-20251001", "Anthropic: Claude Haiku 4.5",
          _anthropic(_price("1", "5", read="0.10", write="1.25", write_1h="2")), 200_000, 64_000, "Claude",
          _IMAGES, reasoning="optional", prompt_caching="explicit", min_cached_tokens=4096,
          created=1_760_547_638),
    Model("anthropic/claude-sonnet-4.6", "anthropic/claude-4.6-sonnet-20260217",
          "Anthropic: Claude Sonnet 4.6", _anthropic(_SONNET), 1_000_000, 128_000, "Claude",
          _IMAGES, reasoning="optional",
          prompt_caching="explicit", created=1_771_342_990),
    Model("anthropic/claude-opus-4.6", "anthropic/claude-4.6-opus-20260205", "Anthropic: Claude Opus 4.6",
          _anthropic(_OPUS), 1_000_000, 128_000, "Claude", _IMAGES, reasoning="optional",
          prompt_caching="explicit", min_cached_tokens=4096, created=1_770_219_050),
    Model("~anthropic/claude-opus-latest", "~anthropic/claude-opus-latest", "Anthropic: Claude Opus Latest",
          _anthropic(_OPUS), 1_000_000, 128_000, "Claude", _IMAGES, reasoning="optional",
          prompt_caching="explicit", min_cached_tokens=4096, alias_of="anthropic/claude-opus-4.6"),
    Model("google/gemini-2.5-flash", "google/gemini-2.5-flash", "Google: Gemini 2.5 Flash",
          _one("Google AI Studio", "google-ai-studio", _price("0.30", "2.50", read="0.075", write="0.3833")),
          1_048_576, 65_535, "Gemini", _IMAGES, reasoning="optional", prompt_caching="both",
          created=1_750_172_488),
    Model("google/gemini-2.5-pro", "google/gemini-2.5-pro", "Google: Gemini 2.5 Pro",
          _one("Google AI Studio", "google-ai-studio", _price("1.25", "10", read="0.3125", write="1.625"),
               PriceOverride(min_prompt_tokens=200_000, prompt=_usd("2.50"), completion=_usd("15"))),
          1_048_576, 65_536, "Gemini", _IMAGES, reasoning="mandatory", prompt_caching="both",
          min_cached_tokens=4096, created=1_750_169_544),
    Model("google/gemini-2.5-flash-image", "google/gemini-2.5-flash-image", "Google: Gemini 2.5 Flash Image",
          _one("Google AI Studio", "google-ai-studio", _price("0.30", "2.50")), 32_768, 32_768, "Gemini",
          _IMAGES, ("image", "text"), created=1_759_870_431),
    Model("openai/gpt-audio-mini", "openai/gpt-audio-mini", "OpenAI: GPT Audio Mini",
          _one("OpenAI", "openai", _price("0.60", "2.40")), tokenizer="GPT", inputs=("text", "audio"),
          outputs=("text", "audio"), forms=(), created=1_768_859_419),
    Model("meta-llama/llama-3.3-70b-instruct", "meta-llama/llama-3.3-70b-instruct",
          "Meta: Llama 3.3 70B Instruct",
          (Endpoint("DeepInfra", "deepinfra/fp8", _price("0.10", "0.32")),
           Endpoint("Groq", "groq", _price("0.59", "0.79")),
           Endpoint("Together", "together", _price("0.88", "0.88"))),
          131_072, tokenizer="Llama3", created=1_733_506_137),
    Model("meta-llama/llama-3.3-70b-instruct:free", "meta-llama/llama-3.3-70b-instruct",
          "Meta: Llama 3.3 70B Instruct (free)", _one("Venice", "venice/fp8", _FREE), 65_536,
          tokenizer="Llama3", created=1_733_506_137),
    Model("mistralai/mistral-small-3.2-24b-instruct", "mistralai/mistral-small-3.2-24b-instruct-2506",
          "Mistral: Mistral Small 3.2 24B", _one("Mistral", "mistral", _price("0.10", "0.30")), 131_072,
          tokenizer="Mistral", inputs=("text", "image"), created=1_750_443_016),
    Model("mistralai/mistral-small-3.2-24b-instruct:free", "mistralai/mistral-small-3.2-24b-instruct-2506",
          "Mistral: Mistral Small 3.2 24B (free)", _one("Chutes", "chutes/bf16", _FREE), 131_072,
          tokenizer="Mistral", expires="2026-12-31", created=1_750_443_016),
    Model("deepseek/deepseek-chat-v3.1", "deepseek/deepseek-chat-v3.1", "DeepSeek: DeepSeek V3.1",
          _one("DeepSeek", "deepseek", _price("0.28", "0.42", read="0.028"),
               PriceOverride(utc_start=1630, utc_end=30, prompt=_usd("0.14"), completion=_usd("0.21"))),
          163_840, tokenizer="DeepSeek", reasoning="optional", prompt_caching="automatic",
          min_cached_tokens=64, forms=("response_format",), created=1_755_779_628),
    Model("qwen/qwen3-max", "qwen/qwen3-max", "Qwen: Qwen3 Max",
          _one("Alibaba", "alibaba", _price("1.20", "6", read="0.12", write="1.50")), 262_144, 65_536,
          tokenizer="Qwen3", prompt_caching="explicit", created=1_758_662_808),
    Model("perplexity/sonar", "perplexity/sonar", "Perplexity: Sonar",
          _one("Perplexity", "perplexity", _price("1", "1", request="0.005")), 127_072,
          inputs=("text", "image"), forms=(), calls_tools=False, created=1_738_013_808),
    Model("openai/text-embedding-3-small", "openai/text-embedding-3-small", "OpenAI: Text Embedding 3 Small",
          _one("OpenAI", "openai", _price("0.02", "0")), 8_192, tokenizer="GPT", outputs=("embeddings",),
          forms=(), calls_tools=False, created=1_761_862_866),
    Model("qwen/qwen3-embedding-8b", "qwen/qwen3-embedding-8b", "Qwen: Qwen3 Embedding 8B",
          _one("Nebius", "nebius", _price("0.01", "0")), 32_768, tokenizer="Qwen3", outputs=("embeddings",),
          forms=(), calls_tools=False, created=1_761_662_922),
    Model("openrouter/auto", "openrouter/auto", "Auto Router", _one("OpenInference", "openrouter", _ROUTER),
          2_000_000, tokenizer="Router", created=1_699_401_600),
    Model("openrouter/free", "openrouter/free", "Free Models Router",
          _one("OpenInference", "openrouter", _ROUTER), 200_000, tokenizer="Router", created=1_769_917_427),
)  # fmt: skip

_BY_ID: Final = {model.id: model for model in MODELS}
_BY_SLUG: Final = {model.slug: model for model in reversed(MODELS) if not model.is_free}


def find_model(name: str) -> Model | None:
    """The model with this id or canonical slug; None when there is none."""
    return _BY_ID.get(name) or _BY_SLUG.get(name)


def simulated(name: str) -> Model:
    """The model ``simulator/<name>``: not in the list, priced like a small one."""
    model_id = f"simulator/{name}"
    return Model(model_id, model_id, f"Simulator: {name}",
                 _one("FakeProvider", "fake-provider", _price("0.15", "0.60", read="0.075")),
                 reasoning="optional", prompt_caching="automatic")  # fmt: skip
