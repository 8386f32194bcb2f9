"""From a prompt and its options to an ask: what the magics and `CompletionCache.ask` alike make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from or_cache_magic.core.key import request_key
from or_cache_magic.core.policy import MODES, Mode, Policy
from or_cache_magic.core.records import Request
from or_cache_magic.core.settings import Ask, Settings
from or_cache_magic.core.units import parse_ttl, parse_usd
from or_cache_magic.errors import OptionError, RequestError

__all__ = ["OPTIONS", "Usd", "build_ask", "build_request", "chat_body", "parse_limit", "policy_for"]

Usd = Decimal | float | str
"""An amount of US dollars as a user gives it."""

OPTIONS: Final = frozenset({"model", "system", "mode", "sample", "ttl", "tag", "stream", "prompt_cache"})
"""The arguments of `CompletionCache.ask` that are no fields of the request; every other name is one."""


def build_ask(
    prompt: str | Sequence[Mapping[str, Any]], settings: Settings, fields: Mapping[str, Any]
) -> Ask:
    """Return the ask that a prompt makes.

    Args:
        prompt: The user's text, or a whole list of messages.
        settings: In force; they give what `fields` leaves out.
        fields: `OPTIONS`, where None is not given, and other fields of the request; see `chat_body`.

    Raises:
        OptionError: An option has a value that it does not take, or no model was named.
        RequestError: The prompt is none, or the request has no canonical form.
    """
    option = fields.get
    params = {name: value for name, value in fields.items() if name not in OPTIONS}
    body = chat_body(prompt, model=option("model"), settings=settings, system=option("system"), params=params)
    request = build_request(
        body,
        settings,
        sample=option("sample"),
        stream=option("stream"),
        prompt_cache=option("prompt_cache"),
    )
    policy = policy_for(
        settings, mode=option("mode"), sample=option("sample"), ttl=option("ttl"), tag=option("tag")
    )
    return Ask(request_key(request), request, policy, settings)


def build_request(
    body: Mapping[str, Any],
    settings: Settings,
    *,
    sample: int | None = None,
    stream: bool | None = None,
    prompt_cache: str | None = None,
) -> Request:
    """Return the request that a body makes under these settings.

    Raises:
        OptionError: A sample's index below 0, or a time that no prompt caching has.
    """
    if sample is not None and sample < 0:
        raise OptionError(f"sample {sample} is below 0 (nothing was sent)", "the first sample is 0")
    if prompt_cache not in (None, "", "5m", "1h"):
        raise OptionError(
            f"no provider keeps a prompt for {prompt_cache!r} (nothing was sent)", "write 5m or 1h"
        )
    stream = settings.stream if stream is None else stream
    return Request(body, stream, sample or 0, settings.base_url, prompt_cache or "")


def chat_body(
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    model: str | None,
    settings: Settings,
    system: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the JSON object that goes on the wire for a prompt.

    Args:
        prompt: The user's text, or a whole list of messages.
        model: A model id or an alias; None takes the setting.
        settings: Gives the defaults of model, system prompt, temperature and limit.
        system: The system prompt; None takes the setting, empty sends none.
        params: Other fields of the request. None as a value leaves the field out, also one that a
            setting would fill in.

    Raises:
        OptionError: No model was named and none is set.
        RequestError: An empty prompt, or one that is neither text nor messages.
    """
    name = model or settings.model
    if not name:
        raise OptionError(
            "no model was named (nothing was sent)",
            "name one, as in %%openrouter openai/gpt-4o-mini, or set OPENROUTER_MODEL",
        )
    if not prompt or (isinstance(prompt, str) and prompt.isspace()):
        raise RequestError("the prompt is empty (nothing was sent)", "write the prompt below %%openrouter")
    if not isinstance(prompt, str) and not (
        isinstance(prompt, (list, tuple)) and all(isinstance(message, Mapping) for message in prompt)
    ):
        raise RequestError(
            "the prompt is neither a text nor a list of messages (nothing was sent)",
            'write a text, or [{"role": "user", "content": "…"}]',
        )
    if params and "messages" in params:
        raise OptionError("messages is not a parameter (nothing was sent)", "give the messages as the prompt")
    messages: list[Any] = []
    system = settings.system if system is None else system
    if system:
        messages.append({"role": "system", "content": system})
    if isinstance(prompt, str):
        messages.append({"role": "user", "content": prompt})
    else:
        messages.extend(prompt)
    body = {
        "model": settings.model_id(name),
        "messages": messages,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
    }
    if params:
        body.update(params)
        if "max_completion_tokens" in params and "max_tokens" not in params:
            del body["max_tokens"]  # its newer name: the user has set the limit
    return {field: value for field, value in body.items() if value is not None}


def policy_for(
    settings: Settings,
    *,
    mode: str | None = None,
    sample: int | None = None,
    ttl: float | str | None = None,
    tag: str | Sequence[str] | None = None,
) -> Policy:
    """Return how one ask may use the cache: its own options over the settings.

    Args:
        settings: In force.
        mode: ``normal``, ``refresh``, ``bypass`` or ``offline``; an ``offline`` setting can't be undone here.
        sample: The sample's index, when one was asked for.
        ttl: Lifetime in seconds, or as text (``"24h"``, ``"never"``).
        tag: A label, or several.

    Raises:
        OptionError: A value that it does not take.
    """
    if mode is not None and mode not in MODES:
        raise OptionError(f"mode {mode!r} is unknown (nothing was sent)", f"it takes {', '.join(MODES)}")
    try:
        ttl_s = parse_ttl(ttl) if isinstance(ttl, str) else ttl
    except ValueError as exc:
        raise OptionError(f"{exc} (nothing was sent)", "ttl takes seconds or a text such as '24h'") from None
    if ttl_s is not None and not ttl_s > 0:
        raise OptionError(f"ttl {ttl!r} is not above zero (nothing was sent)", "write 3600 or '24h'")
    chosen: Mode = settings.mode if mode is None or settings.mode == "offline" else mode  # type: ignore[assignment]
    return Policy(
        mode=chosen,
        ttl_s=settings.ttl if ttl_s is None else ttl_s,
        tags=(tag,) if isinstance(tag, str) else tuple(tag or ()),
        sampled=sample is not None,
        cache_sampled=settings.cache_sampled,
        stale_if_error=settings.stale_if_error,
        volatile_ttl_s=settings.volatile_ttl,
    )


def parse_limit(max_cost_usd: Usd | None) -> Decimal | None:
    """Return the limit in US dollars that a user gave; None is none.

    Raises:
        OptionError: It is no amount.
    """
    try:
        return None if max_cost_usd is None else parse_usd(max_cost_usd)
    except ValueError as exc:
        raise OptionError(f"max_cost_usd: {exc} (nothing was sent)", "write US dollars: 0.05") from None
