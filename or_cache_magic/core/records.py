"""The values that travel between the packages: frozen, typed, with a JSON form and a schema number.

A request is what goes on the wire; an answer is what came back; an entry is a kept answer; an
outcome is what one ask came to. Money is `decimal.Decimal` in US dollars, never a float; unknown
money is None, never 0. Times are UTC epoch seconds.

They are named tuples: defining a frozen dataclass takes a fresh kernel about 1 ms (`NamedTuple` 0.1 ms),
making one takes twice as long, and a hit makes seven.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from or_cache_magic.core.units import ZERO_USD

if TYPE_CHECKING:
    from typing import NamedTuple

    from or_cache_magic.core.media import Attached
else:

    class _Named(type):
        """Makes what typing's `NamedTuple` makes, in a quarter of the time: typing parses each annotation."""

        def __new__(cls, name: str, _bases: tuple[type, ...], body: dict[str, Any]) -> type:
            fields = body["__annotations__"]
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])  # noqa: PYI024
            for attribute, value in body.items():
                setattr(made, attribute, value)
            return made

    NamedTuple = type.__new__(_Named, "NamedTuple", (), {})

__all__ = [
    "ANSWER_SCHEMA",
    "AVOIDED_CALL",
    "FREE",
    "MADE_CALL",
    "OPENROUTER_URL",
    "SERVED",
    "SOURCES",
    "UNKNOWN_COST",
    "Answer",
    "AskKind",
    "Choice",
    "Cost",
    "CostSource",
    "Entry",
    "NamedTuple",
    "Outcome",
    "OutcomeKind",
    "Request",
    "RequestKey",
    "Usage",
]

Json = Any
"""What `json.loads` gives: None, bool, int, float, str, list, dict."""

OPENROUTER_URL: Final = "https://openrouter.ai/api/v1"
"""The base URL that is left out of the key."""

ANSWER_SCHEMA: Final = 1
"""Number of the JSON form of an `Answer`; a reader refuses a higher one."""

CostSource = Literal["reported", "generation", "apportioned", "estimated", "unknown"]
"""Where an amount comes from: the reply's ``usage.cost``, ``GET /generation``, the cost of a whole batch, the
price list, nowhere."""

SOURCES: Final[frozenset[str]] = frozenset(get_args(CostSource))

AskKind = Literal[
    "hit", "shared", "miss", "refresh", "bypass", "coalesced", "replay", "stale", "similar", "failed"
]
"""The outcome of an ask.

``hit`` served from the cache instead of a call · ``shared`` the same, from the shared tier ·
``miss`` asked because nothing could be served · ``refresh`` asked again on request · ``bypass`` asked
without the cache · ``coalesced`` waited for another's identical call · ``replay`` served from a pack, or
offline, where no call could have been made · ``stale`` an expired answer served because the call failed ·
``similar`` the answer to a prompt that asks the same, where the cell says so ·
``failed`` a call that gave no answer.
"""

OutcomeKind = Literal[AskKind, "kept"]
"""The same, and ``kept``: what does not fit is given again, where no more may be asked for. Not counted."""

AVOIDED_CALL: Final[tuple[AskKind, ...]] = ("hit", "shared")
"""Served instead of a call that would have been made: what counts as a hit, and as saved."""

SERVED: Final[tuple[AskKind, ...]] = (*AVOIDED_CALL, "replay", "stale", "similar")
"""Answered by a stored entry."""

MADE_CALL: Final[tuple[AskKind, ...]] = ("miss", "refresh", "bypass", "failed")
"""Sent upstream, and perhaps paid for. The others, ``coalesced`` among them, were charged nothing."""


class Request(NamedTuple):
    """One chat completion to be asked.

    Attributes:
        body: The JSON object that goes on the wire, without ``stream``.
        stream: Whether it is asked as a stream. Not in the key, but for plugins that make it matter.
        sample: Which sample of this request; 0 is the first. In the key when not 0, never sent.
        base_url: The API's base URL, without a trailing slash. In the key when not OpenRouter's.
        prompt_cache: For how long the provider's prompt caching is to keep the large static part: ``5m``,
            ``1h``, or empty for no marks. The marks are set as it is sent, and not in the key.
    """

    body: Mapping[str, Json]
    stream: bool = True
    sample: int = 0
    base_url: str = OPENROUTER_URL
    prompt_cache: str = ""


class RequestKey(NamedTuple):
    """Identifies a request.

    Attributes:
        digest: 64 hex digits, the store's key.
        skeleton: The canonical request with its long strings taken out, kept with the entry and
            compared on a hit.
    """

    digest: str
    skeleton: bytes


class Cost(NamedTuple):
    """An amount of US dollars and where it comes from; ``usd`` is None exactly when unknown."""

    usd: Decimal | None
    source: CostSource


UNKNOWN_COST: Final = Cost(None, "unknown")
FREE: Final = Cost(ZERO_USD, "reported")


class Usage(NamedTuple):
    """Tokens of one call as the API reports them; None where it did not say.

    ``prompt_tokens`` includes the cached and written ones, ``completion_tokens`` the reasoning ones.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class Choice(NamedTuple):
    """One choice of an answer: the assistant's message as received or assembled from a stream."""

    message: Mapping[str, Json]
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    error: Mapping[str, Json] | None = None
    logprobs: Json = None


class Answer(NamedTuple):
    """What came back for a request.

    Attributes:
        choices: One for each choice, in order of their index.
        model: The model that served it; may be a dated name that was not asked for.
        provider: The provider's display name.
        usage: Tokens, or None when the reply had no usage.
        cost: What the call cost whoever paid for it.
        generation_id: ``gen-…``, for ``GET /generation``.
        created_s: When the answer was whole.
        elapsed_s: Seconds from sending to the end of the answer.
        complete: Whether the reply is proven whole (see `policy.may_store`).
        error: An error that came inside an HTTP 200, at any level; None when there was none.
        response_cache_hit: Whether OpenRouter served it from its own response cache; then its usage
            is zero and says nothing of the answer's value.
        source_generation_id: With ``response_cache_hit``, the generation that was paid for.
        prompt_cost_usd: What of the cost the reply puts down to the prompt, by which price lists are checked
            as it comes in; None when it did not say. Not kept.
        prompt_cache_saved_usd: What the provider's prompt caching took off this call; below 0 where writing
            to it cost more. None is unknown, 0 where it neither read nor wrote. Of the call, not of the
            answer: not kept with it.
        extra: Whatever else the reply said at its top, field by field as it came, of a stream the last:
            the whole ``usage``, ``service_tier``, ``citations``. Who gives the answer again as OpenRouter
            would needs it. None when it said nothing.
        doubt: What is wrong with a reply that reads as whole, so that a piece of the answer may be missing or
            belong to another; None when nothing is. Not kept.
    """

    choices: tuple[Choice, ...]
    model: str | None = None
    provider: str | None = None
    usage: Usage | None = None
    cost: Cost = UNKNOWN_COST
    generation_id: str | None = None
    created_s: float = 0.0
    elapsed_s: float = 0.0
    complete: bool = True
    error: Mapping[str, Json] | None = None
    response_cache_hit: bool = False
    source_generation_id: str | None = None
    prompt_cost_usd: Decimal | None = None
    prompt_cache_saved_usd: Decimal | None = ZERO_USD
    extra: Mapping[str, Json] | None = None
    doubt: str | None = None

    @property
    def text(self) -> str:
        """The first choice's text; text parts joined; empty when there is none."""
        if not self.choices:
            return ""
        content = self.choices[0].message.get("content")
        if isinstance(content, str):
            return content
        if isinstance(content, list):
            texts = (part.get("text") for part in content if isinstance(part, Mapping))
            return "".join(text for text in texts if isinstance(text, str))
        return ""

    @property
    def paid_generation_id(self) -> str | None:
        """The generation that its value is of: of a repeated answer the first, which was paid for."""
        return self.source_generation_id if self.response_cache_hit else self.generation_id

    @property
    def finish_reason(self) -> str | None:
        """The first choice's finish reason."""
        return self.choices[0].finish_reason if self.choices else None


class Entry(NamedTuple):
    """A kept answer.

    Attributes:
        key: Whose answer it is.
        answer: The answer as it was bought.
        created_s: When it was stored.
        expires_s: When it stops being served; None is never.
        tags: Labels given by the user.
        notebook: Where it was asked from (a path or name), for browsing; may be empty.
        bought_by: Who of the team paid for it, as a hash; empty when it did not come from the shared tier.
        shared: Whether it was found in the shared tier just now. Never stored.
        attached: What was attached to its request when it was bought.
    """

    key: RequestKey
    answer: Answer
    created_s: float
    expires_s: float | None = None
    tags: tuple[str, ...] = ()
    notebook: str = ""
    bought_by: str = ""
    shared: bool = False
    attached: tuple[Attached, ...] = ()


class Outcome(NamedTuple):
    """The outcome of one ask.

    Attributes:
        kind: See `AskKind`.
        key: The request's key.
        answer: The answer that was served.
        why: Why it was asked upstream (``"not stored yet"``, ``"expired 2 h ago"``, …); empty on a hit.
        stored: Whether the answer is now in the cache.
        not_stored: Why it is not, and what to do about it; empty when it is.
        notes: What else the receipt should say (``"truncated at 200 tokens"``).
        entry_created_s: When the served entry was stored; None when nothing was served from it.
        elapsed_s: Seconds this ask took, waiting included.
        paid: What this ask was charged: 0 on a hit, unknown as unknown.
        saved_usd: What this ask would have cost and did not; None is unknown, 0 where nothing was avoided.
        request: What the answer was given to, where that was another request than the ask's: one that told
            what was wrong with the answer to it.
        repair: How often it might be asked again, where that is used up; 0 where it is not.
    """

    kind: OutcomeKind
    key: RequestKey
    answer: Answer
    why: str = ""
    stored: bool = False
    not_stored: str = ""
    notes: tuple[str, ...] = ()
    entry_created_s: float | None = None
    elapsed_s: float = 0.0
    paid: Cost = UNKNOWN_COST
    saved_usd: Decimal | None = None
    request: Request | None = None
    repair: int = 0

    @property
    def served(self) -> bool:
        """Whether a stored entry answered it."""
        return self.kind in SERVED

    @property
    def made_call(self) -> bool:
        """Whether this ask made a call."""
        return self.kind in MADE_CALL
