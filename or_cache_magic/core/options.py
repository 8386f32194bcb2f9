"""What an ask takes: its options, the fields of the request that the API knows, and how each is checked.

Checked and copied before anything is sent, whoever gives them: a magic, Python, a file. Numbers and texts of
numpy and pandas become Python's. Nothing that is handed on is shared with the caller.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.policy import MODES
from or_cache_magic.core.project import file_text
from or_cache_magic.core.secrets import looks_like_key
from or_cache_magic.core.settings import number, one_of, text, whole
from or_cache_magic.core.slips import refuse_slips, refuse_wrong_messages, wrong_model
from or_cache_magic.core.units import FOREVER_S, parse_lifetime
from or_cache_magic.errors import InputError, OptionError, RequestError, near_name, printable, slip_of

if TYPE_CHECKING:
    from or_cache_magic.core.schema import Schema

_DEEPEST: Final = 200
_MOST_BITS: Final = 1024


class _NoJsonError(ValueError):
    """A value that JSON can't hold."""


# Plain values


def plain(value: Any, path: str = "value", depth: int = 0) -> Any:
    """Return the value in new lists and dicts, numbers, texts, truth values and None, as JSON has them.

    Scalars and arrays of numpy and pandas are Python's; a missing value of pandas is None.

    Raises:
        ValueError: It has no such form; says where and why.
    """
    if value is None or type(value) is bool:
        return value
    if isinstance(value, str):
        return _plain_text(value, path)
    if isinstance(value, (bool, int, float, Decimal)):
        return _plain_number(value, path)
    if depth > _DEEPEST:
        raise _NoJsonError(f"{path[:60]}… is nested too deep")
    if isinstance(value, Mapping):
        named = {_name(key, path): item for key, item in value.items()}
        if len(named) < len(value):
            raise _NoJsonError(f"{path} has two names that are one in JSON, such as 1 and '1'")
        return {name: plain(item, f"{path}.{name}", depth + 1) for name, item in named.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(value)]
    if type(value).__module__.partition(".")[0] in ("numpy", "pandas"):
        return _of_numpy(value, path, depth)
    raise _NoJsonError(f"{path} is a {type(value).__name__}, which is nothing that JSON has")


def _plain_text(value: str, path: str) -> str:
    if looks_like_key(value):
        raise _NoJsonError("it holds an API key, which is never sent")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _NoJsonError(f"{path} holds half of a surrogate pair, which no text can hold") from None
    return str.__str__(value)


def _plain_number(value: Any, path: str) -> Any:
    if isinstance(value, Decimal):
        if not value.is_finite() or abs(value.adjusted()) > _DEEPEST:
            raise _NoJsonError(f"{path} is no finite number")
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _NoJsonError(f"{path} is not a finite number")
        return float(value)
    if int(value).bit_length() > _MOST_BITS:
        raise _NoJsonError(f"{path} is an integer of too many digits")
    return bool(value) if isinstance(value, bool) else int(value)


def _of_numpy(value: Any, path: str, depth: int) -> Any:
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if type(value).__name__ in ("float16", "float32"):
        return plain(float(str(value)), path)  # its own digits: 0.1, not 0.10000000149011612
    if hasattr(value, "tolist") and not hasattr(value, "columns"):
        found = value.tolist()
        if type(found) is not type(value):
            return plain(found, path, depth + 1)
    raise _NoJsonError(f"{path} is a {type(value).__name__}, which is nothing that JSON has")


def _name(key: Any, path: str) -> str:
    if type(key).__module__ == "numpy":
        key = key.item()
    if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
        return str(plain(key, f"a name in {path}"))  # numbers are tokens', in logit_bias
    raise _NoJsonError(f"{path} has a name that is a {type(key).__name__}, not a text")


# What an option and a field take: each check gives the value, or raises ValueError with what it takes


def _kind(kind: type, name: str) -> Callable[[Any], Any]:
    def parsed(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(f"takes {name}")
        return value

    return parsed


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError("takes a list of texts")
    return [text(item) for item in value]


def _models(value: Any) -> list[str]:
    for name in _texts(value):
        if (wrong := wrong_model(name)) is not None:
            raise ValueError(f"{wrong.args[0]}")
    return _texts(value)


def _stops(value: Any) -> Any:
    """Return what ends an answer: a text or several, of white space too."""
    for stop in value if isinstance(value, list) else [value]:
        if not isinstance(stop, str) or not stop:
            raise ValueError("takes a text, or a list of texts")
    return value


def _text_or(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: text(value) if isinstance(value, str) else check(value)


def _tags(value: Any) -> tuple[str, ...]:
    tags = (text(value),) if isinstance(value, str) else tuple(_texts(value))
    if any(printable(tag) != tag for tag in tags):
        raise ValueError("takes texts without control characters")
    return tags


def _completion(value: Any) -> Any:
    """Return an answer; told by what it has, since its class is of a higher floor."""
    if not (isinstance(value, str) and hasattr(value, "outcome")):
        kind = type(value).__name__
        raise ValueError(f"a {kind} is no answer: it takes what orc.ask or a cell's -o gave, a Completion")
    return value


def _schema(value: Any) -> Schema:
    """Return what a schema in any of its forms means; nothing of it is shared."""
    from or_cache_magic.core.schema import Schema  # few answers have a form

    if type(value) is str and value.startswith("@"):
        value = _file(value[1:])  # each time: it may have changed

    inner = getattr(value, "__args__", ()) if getattr(value, "__origin__", None) is list else (value,)
    sent, kind, key = (_read_once if type(value) is str or _are_one_class(*inner) else _read_schema)(value)
    return Schema(json.loads(sent), kind, key)


def _are_one_class(*values: Any) -> bool:
    """Return whether this is one class, which equals itself alone: ``int | str`` equals ``str | int``."""
    return len(values) == 1 and isinstance(values[0], type) and not hasattr(values[0], "__origin__")


def _file(name: str) -> str:
    """Return the text of a file; a relative path begins in the working directory."""
    try:
        return file_text(Path(name).expanduser())
    except (OSError, RuntimeError) as problem:
        raise ValueError(f"@{name} can't be read: {getattr(problem, 'strerror', None) or problem}") from None
    except UnicodeDecodeError:
        raise ValueError(f"@{name} is not UTF-8 text") from None


def _read_schema(value: Any) -> tuple[str, Any, str]:
    from or_cache_magic.core.schema import read_schema

    found = read_schema(plain(value, "schema") if isinstance(value, (str, Mapping)) else value)
    return json.dumps(plain(found.response_format, "schema")), found.kind, found.key


_read_once: Final = lru_cache(maxsize=64)(_read_schema)
"""What a cell says again each time that it is run."""


_OBJECT: Final = _kind(dict, "an object, such as {'name': 'value'}")
_LIST: Final = _kind(list, "a list")
_TRUTH: Final = _kind(bool, "True or False")
_SYSTEM: Final = _kind(str, "a text; an empty one sends none")
_INTEGER: Final = whole(-(2**63), 2**63 - 1)

OPTIONS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "model": text,
        "system": _SYSTEM,
        "mode": one_of(MODES),
        "sample": whole(0),
        "ttl": parse_lifetime,
        "tag": _tags,
        "stream": _TRUTH,
        "prompt_cache": one_of(("5m", "1h")),
        "reply_to": _completion,
        "attach": lambda value: value,
        "schema": _schema,
        "repair": whole(0, 10),
    }
)
"""The arguments of `CompletionCache.ask` that are no fields of the request."""

_AS_GIVEN: Final = frozenset({"attach", "reply_to", "schema"})
"""Of these, what has no plain form: it is read where it is used."""

FIELDS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        **dict.fromkeys(("top_p", "min_p", "top_a"), number(0, 1)),
        **dict.fromkeys(("temperature", "repetition_penalty"), number(0, 2)),
        **dict.fromkeys(("frequency_penalty", "presence_penalty"), number(-2, 2)),
        **dict.fromkeys(("max_tokens", "max_completion_tokens"), whole()),
        **dict.fromkeys(("top_k", "top_logprobs"), whole(0)),
        "n": whole(1, 128),
        "seed": _INTEGER,
        **dict.fromkeys(("include_reasoning", "logprobs", "parallel_tool_calls"), _TRUTH),
        **dict.fromkeys(("modalities", "transforms"), _texts),
        "models": _models,
        **dict.fromkeys(("plugins", "tools", "stop_server_tools_when"), _LIST),
        "stop": _stops,
        "tool_choice": _text_or(_OBJECT),
        **dict.fromkeys(
            (
                "preset",
                "prompt_cache_key",
                "prompt_cache_retention",
                "reasoning_effort",
                "route",
                "safety_identifier",
                "service_tier",
                "session_id",
                "user",
                "verbosity",
            ),
            text,
        ),
        **dict.fromkeys(
            (
                "audio",
                "cache_control",
                "debug",
                "deferred_tools",
                "image_config",
                "logit_bias",
                "metadata",
                "prediction",
                "prompt_cache_options",
                "provider",
                "reasoning",
                "response_format",
                "stream_options",
                "trace",
                "usage",
                "web_search_options",
            ),
            _OBJECT,
        ),
    }
)
"""The fields of a chat request beside model, messages and stream, as OpenRouter's schema has them (components
``ChatRequest``, 2026-11), and its older ones. Those that are not here go in by ``extra``."""

_ELSEWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "messages": "give the messages as the prompt",
        "api_key": "set OPENROUTER_API_KEY, or run %openrouter_key",
        "base_url": "set OPENROUTER_BASE_URL",
        "timeout": "set timeout_s: %openrouter_config timeout_s=60",
        "max_retries": "what has cost nothing is tried again three times; there is no option for it",
        "extra_headers": "no header can be added",
        "extra_query": "nothing can be added to the URL",
        "extra_body": "write extra={…}",
        "refresh": "write mode='refresh'",
        "no_cache": "write mode='bypass'",
        "cache": "write mode='bypass' to neither read nor write the completion cache",
        "offline": "write mode='offline'",
        "format": "it says how a cell shows an answer: -f",
        "raw": "it is a cell's: what Python gives is never filled in",
        "max_cost_usd": "it is a whole list's: give it beside the list",
    }
)
"""What other clients take, and what does it here."""


_SCHEMA_HELP: Final = (
    "a schema is a text such as 'name str, year int?, tags [str], mood enum(good,bad)', a JSON Schema,"
    " a dataclass, a pydantic class, or a list of one; '@file' is what a file has of these"
)
_ARGUMENTS: Final = (*OPTIONS, *FIELDS, *_ELSEWHERE, "on_text", "on_wait", "extra")

_HELP: Final = "help(or_cache_magic.ask) says what it takes; the other fields are as in OpenRouter's API"

# The ask as a whole


def checked(prompt: Any, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return the prompt, the options and the fields of an ask, all checked, copied and plain.

    Args:
        prompt: A text, or a list of messages.
        given: `OPTIONS`, `FIELDS`, and ``extra``, whose fields are put beside these. None is not given, but
            for a field, which it leaves out.

    Raises:
        OptionError: There is no such argument, or it does not take this value; says which is meant.
        RequestError: A field or a message holds what JSON can't hold, or an API key.
    """
    found: dict[str, Any] = {}
    for name, value in _one_form(_with_extra(given)).items():
        check = OPTIONS.get(name) or FIELDS.get(name)
        if check is None and name not in (given.get("extra") or ()):
            raise _unknown(name)
        try:
            found[name] = _checked(name, value, check)
        except InputError:
            raise  # it says what is meant
        except ValueError as exc:
            refusal = RequestError if isinstance(exc, _NoJsonError) and name not in OPTIONS else OptionError
            hint = _SCHEMA_HELP if name == "schema" else _HELP
            raise refusal(f"{name} = {shown(value)}: {exc} (nothing was sent)", hint) from None
    options = {name: value for name, value in found.items() if name in OPTIONS and value is not None}
    return _prompt(prompt), options, {name: found[name] for name in found if name not in OPTIONS}


def _checked(name: str, value: Any, check: Callable[[Any], Any] | None) -> Any:
    if name == "ttl" and getattr(getattr(value, "dtype", None), "kind", "") == "m":
        value = float(value / value.dtype.type(1, "s"))  # a length of time of numpy's; NaT is not a number
    elif name not in _AS_GIVEN and not (
        name == "ttl" and (hasattr(value, "total_seconds") or _is_forever(value))
    ):
        value = plain(value, name)
    if value is None or check is None:
        return value
    found = check(value)
    if name in FIELDS:
        refuse_slips(found, name)
    return value if name in FIELDS and type(value) is int else found  # 1 stays 1, and is shown so


def _is_forever(value: Any) -> bool:
    """Return whether a lifetime is `FOREVER_S`, as ``--ttl never`` gives it, which JSON can't hold."""
    return isinstance(value, float) and value == FOREVER_S


def _with_extra(given: Mapping[str, Any]) -> Mapping[str, Any]:
    extra = given.get("extra")
    if "extra" not in given:
        return given
    given = {name: value for name, value in given.items() if name != "extra"}
    if extra is None:
        return given
    if not isinstance(extra, Mapping) or not all(isinstance(name, str) for name in extra):
        raise OptionError("extra takes an object (nothing was sent)", "write extra={'field': value}")
    for name in extra:
        if name in given or name in OPTIONS or name in _ELSEWHERE:
            hint = _ELSEWHERE.get(name, f"write {name}=…")
            raise OptionError(f"{name} does not go into extra (nothing was sent)", hint)
        meant = "" if name in FIELDS else meant_argument(name)
        if meant:
            hint = _ELSEWHERE.get(meant, f"did you mean {meant}?")
            raise OptionError(f"extra has {name!r}, which nobody reads (nothing was sent)", hint)
    return {**given, **extra}


def meant_argument(name: str) -> str:
    """Return the argument that an unknown name can only be a slip of, as ``provider.sort`` is; else none."""
    field = name.partition(".")[0]
    return field if field in FIELDS else slip_of(name, _ARGUMENTS)


def _one_form(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments with a pydantic class as the ``response_format``, as in OpenAI's, as schema."""
    form = given.get("response_format")
    if form is None:
        return given
    if given.get("schema") is not None:
        raise OptionError(
            "schema and response_format exclude each other (nothing was sent)",
            "keep schema: it is sent as one",
        )
    if not hasattr(form, "model_json_schema"):
        return given
    return {**{name: given[name] for name in given if name != "response_format"}, "schema": form}


def _unknown(name: str) -> OptionError:
    if name in _ELSEWHERE:
        return OptionError(f"{name} is no argument of an ask (nothing was sent)", _ELSEWHERE[name])
    near = near_name(name, [*OPTIONS, *FIELDS, "max_cost_usd", "on_text", "on_wait"])
    other = f"a field that OpenRouter has and we don't know goes in by extra={{{name!r}: …}}"
    return OptionError(
        f"there is no argument {name!r} (nothing was sent)", f"did you mean {near}?" if near else other
    )


def _prompt(prompt: Any) -> Any:
    if isinstance(prompt, str):
        return str.__str__(prompt)
    try:
        messages = plain(prompt, "messages")
    except ValueError as exc:
        raise RequestError(
            f"{exc} (nothing was sent)", "convert it to text, or to numbers and lists"
        ) from None
    refuse_wrong_messages(messages)
    return messages


def shown(value: Any) -> str:
    """Return the beginning of a value, or its type where it has no text."""
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 - a foreign class's own
        shown = f"a {type(value).__name__}"
    if looks_like_key(shown):
        return "…"
    return shown if len(shown) <= 60 else f"{shown[:59]}…"  # noqa: PLR2004 - what fits in a message
