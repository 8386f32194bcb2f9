"""Whether an answer may be looked up, served and stored, and for how long: pure decisions.

Each decision returns its reason: None is "nothing speaks against it", a string says what does, in
words that the receipt shows. The rules are DESIGN.md §4's; what OpenRouter's replies mean is from its
API reference (chat completions, streaming, errors, zero-completion insurance).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from or_cache_magic.core.chat import (
    as_list,
    as_mapping,
    asked_models,
    is_embedding,
    is_online,
    orders_search,
    plugins_of,
)
from or_cache_magic.core.records import Answer, Choice, Entry, NamedTuple, Request
from or_cache_magic.core.units import FOREVER_S

if TYPE_CHECKING:
    from or_cache_magic.core.schema import Schema

Mode = Literal["normal", "refresh", "bypass", "offline"]
"""What an ask may do with the cache.

``normal`` serve, or ask and store · ``refresh`` ask and replace · ``bypass`` neither read nor write ·
``offline`` serve only.
"""

MODES: Final[tuple[str, ...]] = get_args(Mode)

VOLATILE_TTL_S: Final = 24 * 3600.0

TRUNCATED: Final = "truncated"
"""The note on an answer that was cut elsewhere than at the limit that the request set."""


EMPTY: Final = "the answer is empty"
NO_JSON: Final = "the answer is not the JSON that was asked for"
NO_FIT: Final = "the answer does not fit its JSON schema"
"""How the reasons begin that hold for an answer to a request, whatever class it is read by."""

NOT_STORED_YET: Final = "not stored yet"
COMPARED: Final = "asked again to compare"
"""Why an answer is not served that was bought to verify the one that is; how the reason begins."""

REFUSED: Final = "the model refused"
FILTERED: Final = "the answer was filtered"
_OWN_LIMIT: Final = "the answer was cut by the model's own limit"


class Policy(NamedTuple):
    """How one ask may use the completion cache. None of it is in the key.

    Attributes:
        mode: See `Mode`.
        ttl_s: Lifetime of what is stored; `FOREVER_S` never ends; None leaves it to the kind of
            request (volatile ones live ``volatile_ttl_s``, others for ever).
        tags: Labels of what is stored.
        sampled: Whether a sample was asked for by its index, so that any temperature is stored.
        cache_sampled: Whether requests above temperature 0 are stored without an index too.
        stale_if_error: Whether an expired answer may be served when the call fails.
        volatile_ttl_s: Lifetime of answers that the same request may not give tomorrow.
        only_compared: Whether what comes is kept as history, and never served; goes with ``refresh``.
    """

    mode: Mode = "normal"
    ttl_s: float | None = None
    tags: tuple[str, ...] = ()
    sampled: bool = False
    cache_sampled: bool = False
    stale_if_error: bool = False
    volatile_ttl_s: float = VOLATILE_TTL_S
    only_compared: bool = False


def why_no_lookup(request: Request, policy: Policy) -> str | None:
    """Return why the cache is neither read nor written for this request; None when it is.

    A request above temperature 0 is asked in order to get another answer each time, so it is kept
    out of the cache, reading and writing alike, unless it names its sample.
    """
    if policy.mode == "bypass":
        return "--no-cache"
    temperature = request.body.get("temperature")
    if policy.sampled or policy.cache_sampled or (temperature == 0 and temperature is not False):
        return None
    if temperature is None and is_embedding(request.body):
        return None  # a text's vector is what it is
    shown = "not set" if temperature is None else str(temperature)
    return f"temperature {shown} (--sample 0 keeps it)"


def why_not_served(entry: Entry, now_s: float) -> str | None:
    """Return why a stored entry may not be served now; None when it may. Only its age can forbid it."""
    if entry.expires_s is not None and entry.expires_s <= now_s:
        return "expired"
    return None


_LATEST_S: Final = 9e9  # the year 2255, about as far as tables count (64 bits of nanoseconds)
LAST_EXPIRY_S: Final = 2e10
"""No lifetime ends later: 300 years, and more, after the last time."""

_MOST_TOKENS: Final = 1 << 40
_MOST_USD: Final = 9_000_000  # about where the ledger's amounts end
_LONGEST_AMOUNT: Final = 100  # digits
_LONGEST_NAME: Final = 5_000


def why_implausible(entry: Entry) -> str | None:
    """Return what of an entry can't be true, wherever it was kept; None when nothing is.

    The codec vouches for the types; here are the amounts, which would falsify sums, or overflow them.
    """
    answer, expires_s = entry.answer, entry.expires_s
    if not (
        0 <= entry.created_s < _LATEST_S
        and 0 <= answer.created_s < _LATEST_S
        and 0 <= answer.elapsed_s < _LATEST_S
        and (expires_s is None or 0 <= expires_s < LAST_EXPIRY_S)
    ):
        return "an impossible time"
    if not all(count is None or 0 <= count < _MOST_TOKENS for count in answer.usage or ()):
        return "an impossible number of tokens"
    usd = answer.cost.usd
    if usd is not None:
        _, digits, exponent = usd.as_tuple()
        # The exponent first: to compare a number of a million digits takes long.
        fits = isinstance(exponent, int) and abs(exponent) < _LONGEST_AMOUNT and len(digits) < _LONGEST_AMOUNT
        if not fits or not 0 <= usd < _MOST_USD:
            return "an impossible price"
    names = (answer.model, answer.provider, answer.generation_id, answer.source_generation_id)
    if any(name is not None and len(name) > _LONGEST_NAME for name in names):
        return "a name of impossible length"
    return None


def why_not_stored(request: Request, answer: Answer) -> str | None:
    """Return why an answer may never be served to the same request again; None when it may.

    Served are answers that are whole and that the model meant to give: HTTP 200, no error at any
    level, a proven end, every choice finished by ``stop`` or ``tool_calls`` (or by a limit that the
    request itself set), a message with something in it, and JSON where JSON was asked for. Where a class
    was given, `why_refused` is asked too.
    """
    return why_not_whole(request, answer) or _why_unfit(request, answer)


def what_helps(reason: str) -> str:
    """Return what to do where `why_not_stored` gave this reason; empty where asking again may be enough."""
    return next((way_out for begins, way_out in _WAYS_OUT if reason.startswith(begins)), "")


_WAYS_OUT: Final = (
    (REFUSED, "try another prompt or model"),
    (FILTERED, "try another prompt or model"),
    (_OWN_LIMIT, "set --max-tokens"),
)


def why_unfit(request: Request, answer: Answer, schema: Schema | None = None) -> str | None:
    """Return what of a whole answer is not in the form that was asked for; None for any other."""
    if why_not_whole(request, answer):
        return None
    return _why_unfit(request, answer) or why_refused(answer, schema)


def _why_unfit(request: Request, answer: Answer) -> str | None:
    return next(filter(None, (_malformed(request, choice) for choice in answer.choices)), None)


def why_refused(answer: Answer, schema: Schema | None) -> str | None:
    """Return what the `schema`'s class has against an answer that fits its JSON schema; None for nothing.

    This is the user's code, and may raise what it likes that is no `Exception`.
    """
    if schema is None:
        return None
    said = (c.message.get("content") for c in answer.choices if c.finish_reason != "tool_calls")
    return next(filter(None, map(schema.why_not, map(str, said))), None)


def why_not_whole(request: Request, answer: Answer) -> str | None:
    """Return what of an answer is not whole, or not meant, whatever its form; None where it is both."""
    if answer.error is not None or any(c.error is not None for c in answer.choices):
        return "the answer holds an error"
    if not answer.choices:
        return EMPTY
    if not answer.complete:
        return "the answer was cut off"
    if answer.doubt is not None:
        return answer.doubt
    for choice in answer.choices:
        why = _unfinished(request, answer, choice) or _hollow(choice)
        if why is not None:
            return why
    wanted = request.body.get("n")
    if isinstance(wanted, int) and len(answer.choices) < wanted:
        return f"{len(answer.choices)} of the {wanted} answers that were asked for came"
    return None


def _unfinished(request: Request, answer: Answer, choice: Choice) -> str | None:
    reason = choice.finish_reason
    if reason in ("stop", "tool_calls"):
        native = choice.native_finish_reason or ""
        return (
            f"the provider says that the answer did not finish well ({native})"
            if native != reason and re.search(_ENDS_BADLY, native)
            else None
        )
    if reason == "length":
        limit = _output_limit(request)
        if limit is None:
            return f"{_OWN_LIMIT} (finish reason length)"
        used = answer.usage.completion_tokens if answer.usage is not None else None
        if len(answer.choices) > 1 or used is None or used < limit:
            return f"the answer was cut before its limit of {limit:,} tokens (finish reason length)"
        return None
    if reason == "content_filter":
        return f"{FILTERED} (finish reason content_filter)"
    return f"the answer did not finish (finish reason {reason})"


_ENDS_BADLY: Final = (
    "(?i)malformed|error|fail|safety|filter|block|prohibit|spii|recitation|max_|length|incomplete|exceed|cancel|abort"
    "|unexpected|too_many|missing|no_image|refusal|pause|unspecified|^language$|(^|_)other$"
)
"""The providers' own finish reasons that ``stop`` can't mean (Google's, Anthropic's, OpenAI's)."""


def _output_limit(request: Request) -> int | None:
    limits = [request.body.get(name) for name in ("max_tokens", "max_completion_tokens")]
    known = [n for n in limits if isinstance(n, int) and not isinstance(n, bool)]
    return min(known) if known else None


def _hollow(choice: Choice) -> str | None:
    message = choice.message
    for field, what, is_real in _MADE:
        made = message.get(field)
        parts = (made,) if field == "audio" else as_list(made)
        if made and not (parts and all(map(is_real, parts))):
            return f"{what} of the answer is empty or broken"
    if any(message.get(field) for field, _, _ in _MADE):
        return None
    if choice.finish_reason == "tool_calls":
        return "the answer ends in a tool call that is not there"
    if message.get("refusal"):
        return REFUSED
    content = message.get("content")
    said = (content,) if isinstance(content, str) else as_list(content)
    return None if any(map(_says, said)) else EMPTY


def _is_call(call: Any) -> bool:
    names = (as_mapping(as_mapping(call).get(kind)).get("name") for kind in ("function", "custom"))
    return any(map(_is_visible, names))


def _is_image(part: Any) -> bool:
    image, url = as_mapping(part), as_mapping(part).get("image_url")
    places = (url, as_mapping(url).get("url"), *map(image.get, ("url", "b64_json", "data")))
    return any(map(_is_picture, places))


def _is_picture(text: Any) -> bool:
    """Return whether a text is a link to a file elsewhere, which nobody fetches, or holds a picture."""
    from or_cache_magic.core.media import is_picture  # a hit needs none of it

    linked = isinstance(text, str) and "://" in text[:_LONGEST_SCHEME] and not text.startswith("data:")
    return linked or is_picture(_data_in(text))


def _is_audio(audio: Any) -> bool:
    from or_cache_magic.core.media import is_sound  # a hit needs none of it

    return is_sound(_data_in(as_mapping(audio).get("data")))


def _data_in(text: Any) -> bytes:
    """Return the bytes of a data URL or of base64; none where there are none."""
    from or_cache_magic.core.returned import decoded

    if not isinstance(text, str):
        return b""
    head, _, data = text.partition(",") if text[:5].lower() == "data:" else ("base64", "", text)
    if not head.lower().endswith("base64"):
        from urllib.parse import unquote_to_bytes

        return unquote_to_bytes(data)
    return decoded(data) or b""


_MADE: Final[tuple[tuple[str, str, Callable[[Any], bool]], ...]] = (
    ("tool_calls", "a tool call", _is_call),
    ("images", "an image", _is_image),
    ("audio", "the audio", _is_audio),
)


def _says(part: Any) -> bool:
    """Return whether a part of the content is one that a reader sees: text, or an image."""
    fields = as_mapping(part)
    if isinstance(part, str) or "text" in fields:
        return _is_visible(fields.get("text", part))
    return _is_image(part)


_BLANKS: Final = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and a symbol that look like nothing."""


def _is_visible(text: Any) -> bool:
    """Return whether a text has a character that can be seen: no space, mark, control or zero-width one."""
    from unicodedata import category  # here, since a hit needs none of it

    return isinstance(text, str) and any(category(c)[0] not in "CZM" and c not in _BLANKS for c in text)


def _malformed(request: Request, choice: Choice) -> str | None:
    for call in as_list(choice.message.get("tool_calls")):
        arguments = as_mapping(as_mapping(call).get("function")).get("arguments")
        if isinstance(arguments, str) and arguments.strip() and not _is_json(arguments):
            return "the arguments of a tool call are not JSON"
    wanted = request.body.get("response_format")
    if not isinstance(wanted, Mapping) or choice.finish_reason == "tool_calls":
        return None
    if wanted.get("type") not in ("json_object", "json_schema"):
        return None
    from or_cache_magic.core.blocks import parse_json  # a hit needs none of it

    content = choice.message.get("content")
    try:
        value = parse_json(content if isinstance(content, str) else "")
    except ValueError as exc:
        return f"{NO_JSON} ({exc})"
    form = as_mapping(wanted.get("json_schema")).get("schema")
    if isinstance(form, Mapping):
        from or_cache_magic.core.json_schema import problem

        if (misfit := problem(form, value)) is not None:
            return f"{NO_FIT} ({misfit})"
    return None


def _is_json(text: str) -> bool:
    from or_cache_magic.core.blocks import read_json  # a hit needs none of it

    try:
        read_json(text)
    except ValueError:
        return False
    return True


def volatility(request: Request) -> str | None:
    """Return why the same request may get another answer tomorrow by design; None when it does not look so.

    OpenRouter resolves routers, ``~…-latest`` aliases and presets at the time of the call, and web
    search and remote media bring in a world that changes.
    """
    body = request.body
    models = [model.strip() for model in asked_models(body)]
    for model in models:
        spelled, name = model.lower(), model.partition(":")[0]
        which = spelled.partition(":")[0]
        if re.search(_ROUTERS, which):
            return f"{name} picks a model at each call"
        if which.startswith("~") or "@preset/" in spelled:
            return f"{name} points to another model over time"
        if is_online(model) or re.search(_SEARCHING, which):
            return "it searches the web"
    if not models or body.get("preset"):
        return "a preset or account default chooses the model"
    plugins = {name for name, _ in plugins_of(body)}
    if orders_search(body) or plugins & {"web", "web-fetch"}:
        return "it searches the web"
    if any("router" in name for name in plugins):
        return "a plugin picks a model at each call"
    if any(map(_is_server_tool, as_list(body.get("tools")))):
        return "it uses OpenRouter's server tools"
    if any(map(_has_remote_media, as_list(body.get("messages")))):
        return "it refers to a remote file"
    return None


_ROUTERS: Final = "^openrouter/|router$|/switchyard$"
_SEARCHING: Final = "^perplexity/|-search(-|$)|deep-research"


def _is_server_tool(tool: Any) -> bool:
    """Return whether OpenRouter or the provider runs a tool: all but those that the caller runs."""
    return as_mapping(tool).get("type") not in ("function", "custom")


def _has_remote_media(message: Any) -> bool:
    content, images = map(as_mapping(message).get, ("content", "images"))
    parts = (*as_list(content), content, *as_list(images))
    return any(_is_address(field, text) for field, text in _texts_in(parts))


_WRITTEN: Final = frozenset({"text", "refusal", "thinking", "filename", "title", "name"})
"""Fields of a part that a model reads, or that name what is there."""


def _texts_in(parts: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield the texts in parts of a message, however deep, and their fields' names, but what is written."""
    left: list[tuple[str, Any]] = [("", part) for part in parts if isinstance(part, Mapping)]
    for field, value in left:  # which grows meanwhile
        if isinstance(value, str):
            yield field, value
        elif isinstance(value, Mapping):
            left += ((name.lower(), item) for name, item in value.items() if name not in _WRITTEN)
        else:
            left += ((field, item) for item in as_list(value))


def _is_address(field: str, text: str) -> bool:
    """Return whether a text refers to a file elsewhere; bytes in the request (``data:``) don't."""
    start = text.lstrip()[:_LONGEST_SCHEME].lower()
    if start.startswith("data:"):
        return False
    return bool(start) if field.endswith(("url", "uri")) else "://" in start


_LONGEST_SCHEME: Final = 100


def lifetime_s(
    request: Request, answer: Answer, policy: Policy, routes: Callable[[Request], bool] | None = None
) -> tuple[float | None, str]:
    """Return how long an answer is served, in seconds (None: for ever), and what the receipt says of it.

    Args:
        request: What was asked.
        answer: What came back.
        policy: The ask's.
        routes: Returns whether its model is listed as one that picks another at each call.
    """
    if policy.ttl_s is not None:
        return _finite(policy.ttl_s), ""
    why = volatility(request)
    if why is None and any(map(_cites_the_web, answer.choices)):
        why = "it cites the web"
    if why is None and routes is not None and routes(request):
        why = "its model picks another at each call"
    ttl_s = None if why is None else _finite(policy.volatile_ttl_s)
    return ttl_s, "" if ttl_s is None else f"kept {ttl_s / 3600:g} h: {why}"


def _cites_the_web(choice: Choice) -> bool:
    """Return whether an annotation is a link; those of a file are what was read in it."""
    notes = as_list(choice.message.get("annotations"))
    return any(as_mapping(note).get("type") in ("url_citation", "web_search_citation") for note in notes)


def _finite(ttl_s: float) -> float | None:
    return None if ttl_s == FOREVER_S else ttl_s


def notes_on(request: Request, answer: Answer) -> tuple[str, ...]:
    """Return what a reader of this answer should know whenever it is served, bought or cached."""
    for choice in answer.choices:
        if choice.finish_reason == "length":
            early = _unfinished(request, answer, choice) is not None
            return (TRUNCATED if early else f"{TRUNCATED} at {_output_limit(request):,} tokens",)
    return ()
