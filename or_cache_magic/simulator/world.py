"""What one simulator knows, who may ask it, and the replies it gives its server to send."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.behaviour import Refusal, error_object
from or_cache_magic.simulator.caches import ResponseCache
from or_cache_magic.simulator.prompt_cache import PromptCache
from or_cache_magic.simulator.replies import dumps
from or_cache_magic.simulator.state import (
    Batches,
    DayLimit,
    Generations,
    Journal,
    RoomLimit,
    Scripts,
    TallyLimit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from decimal import Decimal

    from or_cache_magic.simulator.streaming import Frame

MANAGEMENT_KEY: Final = "sk-or-v1-management"
"""What a key begins with that may look at credits and may not ask for completions."""

_USER_ID: Final = "user_simulated"


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
    batches: Batches = field(default_factory=Batches)
    batch_s: float = 0.0
    responses: ResponseCache = field(default_factory=ResponseCache)
    prompts: PromptCache = field(default_factory=PromptCache)
    free_limit: TallyLimit = field(default_factory=lambda: TallyLimit(20))
    free_days: DayLimit = field(default_factory=lambda: DayLimit(None))
    limit: TallyLimit = field(default_factory=lambda: TallyLimit(None))
    capacity: RoomLimit = field(default_factory=lambda: RoomLimit(None))
    in_flight: RoomLimit = field(default_factory=lambda: RoomLimit(None))
    retry_after_s: float | None = None
    tells_rate: bool = True
    latency_s: float = 0.0


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


def parse_body(data: bytes) -> Any:
    """The JSON value of a request's body; None when it is empty or not JSON."""
    try:
        value = json.loads(data, parse_constant=_refuse) if data else None
        # A lone surrogate can be escaped in JSON and can't be sent back in UTF-8.
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
