"""From a prompt and its options to an ask: what the magics and `CompletionCache.ask` alike make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.chat import is_embedding
from or_cache_magic.core.key import request_key
from or_cache_magic.core.policy import Mode, Policy
from or_cache_magic.core.records import Request
from or_cache_magic.core.settings import Ask, Settings
from or_cache_magic.core.units import parse_usd
from or_cache_magic.errors import OptionError, RequestError

if TYPE_CHECKING:
    from or_cache_magic.cache.completion import Completion
    from or_cache_magic.core.media import Attached

Usd = Decimal | float | str
"""An amount of US dollars as a user gives it."""


def build_ask(
    prompt: str | Sequence[Mapping[str, Any]],
    settings: Settings,
    fields: Mapping[str, Any],
    options: Mapping[str, Any] = MappingProxyType({}),
    *,
    is_checked: bool = False,
) -> Ask:
    """Return the ask that a prompt makes. Nothing in it is shared with the caller.

    Args:
        prompt: The user's text, or a whole list of messages.
        settings: In force; they give what is left out.
        fields: Fields of the request, ``extra``, and options too; see `core.options.checked`. A field that is
            None is left out, also one that a setting would fill in.
        options: Of `core.options.OPTIONS`; None is not given.
        is_checked: Whether all of it is what `core.options.checked` gave, once for many prompts, and was
            looked through for keys with the first of them.

    Raises:
        OptionError: There is no such argument, it does not take this value, or no model was named.
        RequestError: The prompt is none, or the request has no canonical form.
    """
    params: Mapping[str, Any] = fields
    if not is_checked and (fields or not _is_simple(prompt, options)):
        from or_cache_magic.core.options import checked  # a plain prompt has nothing to check

        prompt, options, params = checked(prompt, {**options, **fields})
    option = options.get
    schema = option("schema")
    if schema is not None:
        params = {**params, "response_format": schema.response_format}
    reply_to = option("reply_to")
    make_body = chat_body if reply_to is None else partial(_reply_body, reply_to)
    body = make_body(prompt, model=option("model"), settings=settings, system=option("system"), params=params)
    attached: tuple[Attached, ...] = ()
    if option("attach") is not None:
        from or_cache_magic.cache.attachments import read_attachments, with_attachments

        attachments, own = read_attachments(option("attach")), 1 if isinstance(prompt, str) else len(prompt)
        body["messages"], attached = with_attachments(body["messages"], attachments, own), attachments.told
    if (params and not is_checked) or _may_hold_key(body):
        from or_cache_magic.core.slips import refuse_key

        refuse_key(body)
    request = build_request(
        body,
        settings,
        sample=option("sample"),
        stream=option("stream"),
        prompt_cache=option("prompt_cache"),
    )
    policy = policy_for(
        settings, mode=option("mode"), sample=option("sample"), ttl_s=option("ttl"), tags=option("tag")
    )
    parent = "" if reply_to is None else reply_to.key
    repair = option("repair") or 0
    if repair and "response_format" not in body:
        raise OptionError(
            "repair goes with a schema (nothing was sent)", "say what the answer is to be: schema=…"
        )
    return Ask(request_key(request), request, policy, settings, parent, attached, schema, repair)


def ask_of_body(
    body: Mapping[str, Any], settings: Settings, options: Mapping[str, Any] = MappingProxyType({})
) -> Ask:
    """Return the ask that a whole body makes, as other clients send it; its key is that by `build_ask`.

    No setting fills in what it leaves out, but for the model's name.

    Args:
        body: The JSON object of a request; not shared with the caller, who must not change it either.
        settings: In force.
        options: ``mode``, ``sample``, ``ttl`` and ``tag``, checked; None is not given.

    Raises:
        RequestError: It has no canonical form, or holds a key.
    """
    if is_embedding(body):  # its key would be that of a text's vector
        raise RequestError("a completion needs messages (nothing was sent)", "for vectors there is orc.embed")
    sent = {name: value for name, value in body.items() if name != "stream"}
    name = sent.get("model") or settings.model
    if isinstance(name, str):
        sent["model"] = settings.aliases.get(name, name)
    from or_cache_magic.core.slips import refuse_key

    refuse_key(sent)
    sample = options.get("sample")
    request = build_request(sent, settings, sample=sample, stream=body.get("stream") is True)
    policy = policy_for(
        settings,
        mode=options.get("mode"),
        sample=sample,
        ttl_s=options.get("ttl"),
        tags=options.get("tag"),
    )
    return Ask(request_key(request), request, policy, settings)


def _reply_body(
    answer: Completion,
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    model: str | None,
    settings: Settings,
    system: str | None,
    params: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the JSON object that goes on the wire for a reply to an answer; see `chat_body`.

    Model and system prompt are the conversation's unless they are given; the settings give the others.
    """
    from or_cache_magic.cache.conversation import inherited_fields, next_turn  # few asks are replies

    before = answer.request.body
    if not model:
        model, settings = before.get("model"), settings._replace(aliases={})  # the id as it was sent
    body = chat_body(prompt, model=model, settings=settings, system="", params=params)
    body["messages"] = [*next_turn(answer, prompt, body["model"], system), *body["messages"]]
    return body | inherited_fields(before, params, same_model=body["model"] == before.get("model"))


def _may_hold_key(body: Mapping[str, Any]) -> bool:
    """Return whether to look for a key: a message is no text, or a text has what all keys begin with."""
    for part in (body["model"], *body["messages"]):
        text = part if type(part) is str else part.get("content") if isinstance(part, Mapping) else None
        if type(text) is not str or ("-" in text and b"sk-" in text.encode("ascii", "ignore").lower()):
            return True
    return False


_MODEL_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-._:~@+")
"""Of which nearly all models' names are made."""


def _is_simple(prompt: Any, options: Mapping[str, Any]) -> bool:
    """Return whether there is nothing to check: a text, and at most a model and a system prompt."""
    if type(prompt) is not str:
        return False
    for name, value in options.items():
        if value is not None and (type(value) is not str or name not in ("model", "system")):
            return False
    return True


def build_request(
    body: Mapping[str, Any],
    settings: Settings,
    *,
    sample: int | None = None,
    stream: bool | None = None,
    prompt_cache: str | None = None,
) -> Request:
    """Return the request that a body makes under these settings."""
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
    messages: list[Any] = []
    system = settings.system if system is None else system
    if system:
        messages.append({"role": "system", "content": system})
    if isinstance(prompt, str):
        messages.append({"role": "user", "content": prompt})
    else:
        messages.extend(prompt)
    model = settings.aliases.get(name, name)
    if not _MODEL_CHARS.issuperset(model) or "//" in model or "openrouter.ai" in model:
        from or_cache_magic.core.slips import wrong_model  # few names have other characters

        if (wrong := wrong_model(model)) is not None:
            raise wrong
    body = {
        "model": model,
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
    ttl_s: float | None = None,
    tags: tuple[str, ...] | None = None,
) -> Policy:
    """Return how one ask may use the cache: its own options over the settings.

    Args:
        settings: In force.
        mode: ``normal``, ``refresh``, ``bypass`` or ``offline``; an ``offline`` setting can't be undone here.
        sample: The sample's index, when one was asked for.
        ttl_s: Lifetime of the entry.
        tags: Its labels.
    """
    chosen: Mode = settings.mode if mode is None or settings.mode == "offline" else mode  # type: ignore[assignment]
    return Policy(
        mode=chosen,
        ttl_s=settings.ttl if ttl_s is None else ttl_s,
        tags=tags or (),
        sampled=sample is not None,
        cache_sampled=settings.cache_sampled,
        stale_if_error=settings.stale_if_error,
        volatile_ttl_s=settings.volatile_ttl,
    )


def parse_limit(limit_usd: Usd | None, name: str = "max_cost_usd") -> Decimal | None:
    """Return the limit in US dollars that a user gave by this name; None is none.

    Raises:
        OptionError: It is no amount.
    """
    try:
        return None if limit_usd is None else parse_usd(limit_usd)
    except ValueError as exc:
        raise OptionError(f"{name}: {exc} (nothing was sent)", "write US dollars: 0.05") from None
