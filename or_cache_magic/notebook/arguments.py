"""What the line of an ask comes to: a frozen value, in which None is "not given".

The options themselves are rows in `tables`. ``--help`` ends the reading of a line: then only ``help`` is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from or_cache_magic.core.policy import Mode
from or_cache_magic.errors import OptionError
from or_cache_magic.notebook.options import CELL, LINE
from or_cache_magic.notebook.parser import Parsed, parse

__all__ = ["AskOptions", "ask_options", "parse_ask_cell", "parse_ask_line"]

_OWN_PLACE: Final[Mapping[str, str]] = {
    "model": "name the model on the line",
    "messages": "the prompt is the cell's text, the system prompt is -s",
    "stream": "--no-stream waits for the whole answer",
}
"""Fields of the request that ``--param`` does not set, and what does."""


class AskOptions(NamedTuple):
    """What one ask was given. None is not given: the setting decides.

    Attributes:
        model: A model id or an alias.
        out: The name to bind the answer to.
        system: ``TEXT | @file | NAME`` as written; see `values.read_text_argument`.
        max_tokens: ``"none"`` sends no limit.
        params: Other fields of the request.
        sample: Which sample; 0 is the first, and given on purpose.
        mode: ``refresh``, ``bypass`` or ``offline``.
        ttl_s: Lifetime; infinite is for ever (`policy.FOREVER_S`).
        prompt_cache: ``5m`` or ``1h``: how long the provider is to keep the static part.
        max_cost_usd: The most that the ask may cost; of a list, the whole list.
        prompt: The line magic's prompt, as written; empty in a cell, whose body is the prompt.
    """

    model: str | None = None
    out: str | None = None
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | Literal["none"] | None = None
    top_p: float | None = None
    seed: int | None = None
    params: Mapping[str, Any] = MappingProxyType({})
    format: str | None = None
    sample: int | None = None
    mode: Mode | None = None
    ttl_s: float | None = None
    tags: tuple[str, ...] = ()
    prompt_cache: str | None = None
    max_cost_usd: Decimal | None = None
    dry_run: bool = False
    raw: bool = False
    no_stream: bool = False
    quiet: bool = False
    help: bool = False
    prompt: str = ""


def parse_ask_cell(line: str) -> AskOptions:
    """The options on the first line of a ``%%openrouter`` cell; its words are the model.

    Raises:
        OptionError: The line can't be read; nothing was sent.
    """
    parsed = parse(CELL, line)
    models = [word for word in (parsed.values.get("model"), *parsed.words) if word]
    if len(models) > 1:
        raise OptionError(
            f"one model a cell, and this line names {', '.join(models)}; nothing was sent",
            "the prompt goes below this line; quote a value that has spaces: -s 'be brief'",
        )
    return ask_options(parsed, next(iter(models), None))


def parse_ask_line(line: str) -> AskOptions:
    """The options and the prompt of ``%openrouter``; the prompt is kept as written, quotes and all.

    Raises:
        OptionError: The line can't be read; nothing was sent.
    """
    parsed = parse(LINE, line)
    return ask_options(parsed, parsed.values.get("model"))


def ask_options(parsed: Parsed, model: str | None) -> AskOptions:
    """What the options of one ask come to; raises `OptionError`."""
    values = dict(parsed.values)
    params: dict[str, Any] = {}
    for key, value in values.pop("params", ()):
        if key in _OWN_PLACE:
            raise OptionError(f"--param does not set {key}; nothing was sent", _OWN_PLACE[key])
        if key in params or key in values:
            raise OptionError(f"{key} is given twice; nothing was sent", "keep one of them")
        params[key] = value
    return AskOptions(**{**values, "model": model}, params=params, prompt=parsed.prompt)
