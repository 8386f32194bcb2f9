"""The options of ``%%openrouter`` and ``%openrouter``: the only place where one is written down.

What follows from a row: parsing, ``--help``, ``?``, "did you mean" and tab completion. The magics beside them
have theirs in `commands`, which no ask loads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final

from or_cache_magic.core.settings import FORMATS
from or_cache_magic.core.units import parse_usd
from or_cache_magic.errors import OptionError
from or_cache_magic.notebook import values as v
from or_cache_magic.notebook.parser import HELP, Command, Option

LENGTHS: Final = "write a number and s, m, h, d or w: 30m, 24h, 7d"

_WITH_EACH: Final = {
    "limit": "--max-tokens limits an answer",
    "batch": "orc.map(prompts, ..., batch=True) submits a list of prompts",
}
"""Options that mean nothing without ``--each``, and what may be meant."""

_REQUEST_FIELDS: Final = ("temperature", "top_p", "seed", "max_tokens")
"""Fields of the request that have an option of their own."""

_OWN_PLACE: Final[Mapping[str, str]] = {
    "model": "name the model on the line",
    "messages": "the prompt is the cell's text, the system prompt is -s",
    "stream": "--no-stream waits for the whole answer",
    "extra": "name each field on its own: -p field=JSON",
    "mode": "write --refresh, --no-cache or --offline",
    "max_cost_usd": "write --max-cost",
    "max_cost": "write --max-cost",
}
"""Fields of the request that ``--param`` does not set, and what does."""

PROMPT_SUFFIXES: Final = (".md", ".txt", ".markdown", ".prompt", ".prompty")
"""How the names of prompt files end, and no model's."""

_NUMBER: Final[dict[str, Any]] = {
    "metavar": "X",
    "parse": v.number,
    "expects": "it takes a number, such as 0.7",
}


def flag(names: tuple[str, ...], field: str, help_line: str) -> Option:
    """Return an option that takes no value, and is False unless it is written."""
    return Option(names, field, help_line, default=False)


def counts_from(least: int, metavar: str = "N") -> dict[str, Any]:
    """Return what an `Option` has that takes a whole number from `least` up."""
    expects = f"it takes a whole number from {least} up"
    return {"metavar": metavar, "parse": v.whole(least), "expects": expects}


def one_of(metavar: str, *choices: str) -> dict[str, Any]:
    """Return what an `Option` has that takes one of these words."""
    expects = f"it takes {', '.join(choices[:-1])} or {choices[-1]}"
    return {"metavar": metavar, "parse": v.choice(*choices), "expects": expects, "choices": choices}


def read_params(options: SimpleNamespace) -> None:
    """Gather the fields of the request that the options name in ``params``; None leaves one out."""
    params: dict[str, Any] = {}
    for name in _REQUEST_FIELDS:
        value = getattr(options, name)
        if value is not None:
            params[name] = None if value == "none" else value
    for key, value in options.params:
        if key in _OWN_PLACE:
            raise OptionError(f"--param does not set {key}; nothing was sent", _OWN_PLACE[key])
        if key in params:
            raise OptionError(f"{key} is given twice; nothing was sent", "keep one of them")
        params[key] = value
    if options.params:
        from or_cache_magic.core.options import FIELDS, OPTIONS, meant_argument  # few name a field

        # Any other field may be named here, unless it is nearly one that is known.
        for name, _ in options.params:
            if name in OPTIONS:
                option = f"write --{name.replace('_', '-')}"
                raise OptionError(f"--param does not set {name}; nothing was sent", option)
        others = {name for name in params if name not in FIELDS and not meant_argument(name)}
        if others:
            params = {name: value for name, value in params.items() if name not in others}
            params["extra"] = {name: value for name, value in options.params if name in others}
    options.params = params


_QUOTE: Final = "quote a value that has spaces: -s 'be brief', @'my prompt.md'"


def _read_ask(_command: Command, options: SimpleNamespace) -> None:
    """Read the words of a cell's first line as its models, and one that begins with ``@`` as its `file`."""
    files: list[str] = []
    models = [options.model] if options.model else []
    for word in filter(None, options.words):
        if word.startswith("@") and not word.startswith("@preset/"):
            files.append(word[1:])
        else:
            models.append(word)
    if len(files) > 1:
        raise OptionError(
            f"one file a cell, and this line names {', '.join(files)}; nothing was sent", _QUOTE
        )
    options.file = files[0] if files else None
    options.model = ",".join(models) or None
    for name, hint in _WITH_EACH.items():
        if getattr(options, name) and options.each is None and not files:
            raise OptionError(f"--{name} goes with --each; nothing was sent", hint)
    read_params(options)


def models_of(options: SimpleNamespace, aliases: Container[str]) -> list[str | None]:
    """Return the models that the options name; None alone is the setting's.

    Raises:
        OptionError: A word of the line is neither an id nor an alias: the prompt is below it.
    """
    for word in options.words:
        for name in word.split(","):
            if name and "/" not in name and name not in aliases and not name.startswith("@"):
                raise OptionError(
                    f"{name} is neither the id of a model nor an alias; nothing was sent",
                    f"the prompt goes below this line; {_QUOTE}; -m a,b names models of any kind",
                )
    names: list[str | None] = [*filter(None, map(str.strip, (options.model or "").split(",")))]
    for name in filter(None, names):
        if name.endswith(PROMPT_SUFFIXES) and not name.startswith("@"):
            raise OptionError(f"{name} is no model, but a file; nothing was sent", f"write @{name}")
    if options.model and not names:
        raise OptionError(f"{options.model} names no model; nothing was sent", "write -m a,b, or no -m")
    return names or [None]


_PRESET: Final = r"@preset/[\w.-]+"

_MODEL_ID: Final = (
    rf"~?[a-z][a-z0-9-]*/[a-z0-9.:_-]*[0-9-][a-z0-9.:_-]*(?:{_PRESET})?|openrouter/[a-z]+|{_PRESET}"
)

_PERHAPS_MODEL: Final = r"~?[^\W\d][\w./:-]*[\d-][\w.:@/-]*"


def _read_line(_command: Command, options: SimpleNamespace) -> None:
    """Refuse a prompt that begins as a model's id: it would be asked of another."""
    first = _first_word(options)
    author = first.partition("/")[0]
    if re.fullmatch(_MODEL_ID, first.lower()) and not author.isupper():
        raise _begins_with_model(first)
    read_params(options)


def refuse_model(options: SimpleNamespace, names: Callable[[], Iterable[str]]) -> None:
    """Refuse a prompt that begins with one of the models' `names`, or with the end of one.

    Raises:
        OptionError: It does, and the line names no model.
    """
    first = _first_word(options).lower()
    if re.fullmatch(_PERHAPS_MODEL, first):
        for name in names():
            known = name.lower().partition(":")[0]
            if first.partition(":")[0] in (known, known.rpartition("/")[2]):
                raise _begins_with_model(name)


def _first_word(options: SimpleNamespace) -> str:
    """Return the first word of the prompt; none where the line names a model."""
    words = options.prompt.split(maxsplit=1) if options.model is None else ()
    return words[0] if words else ""


def _begins_with_model(name: str) -> OptionError:
    return OptionError(
        f"this prompt begins with a model, {name}; nothing was sent",
        f"write -m {name}, or begin with -m and another model if it is meant as text",
    )


MAX_COST: Final = Option(
    ("--max-cost",),
    "max_cost_usd",
    "send nothing if it may cost more than so many dollars",
    "USD",
    parse=parse_usd,
    expects="write US dollars, such as 0.05",
)

LISTED: Final = (
    Option(
        ("-m", "--model"),
        "model",
        "the model, as OpenRouter spells it, or an alias; several in a cell: a,b,c",
        "MODEL",
        parse=v.text,
        models=True,
    ),
    Option(
        ("-s", "--system"),
        "system",
        "system prompt: a text, a file, or a variable",
        "TEXT|@FILE|NAME",
        files="@",
    ),
    Option(
        ("-a", "--attach"),
        "attach",
        "goes with the prompt: a picture, PDF, sound or text file, a link, or a variable",
        "PATH|URL|NAME",
        files="",
        default=(),
        parse=v.text,
        repeatable=True,
    ),
    Option(("-t", "--temperature"), "temperature", "0 unless set; sent explicitly", **_NUMBER),
    Option(
        ("--max-tokens",),
        "max_tokens",
        "limit of the answer; none sends no limit",
        "N",
        parse=v.token_limit,
        expects="it takes a whole number from 1 up, or none",
    ),
    Option(("--top-p",), "top_p", "nucleus sampling, as OpenRouter has it", **_NUMBER),
    Option(
        ("--seed",), "seed", "as OpenRouter has it", "N", parse=v.whole(), expects="it takes a whole number"
    ),
    Option(
        ("-p", "--param"),
        "params",
        "any other field of the request",
        "KEY=JSON",
        parse=v.json_param,
        expects="""write KEY=JSON, the JSON in single quotes: -p reasoning='{"effort": "low"}'""",
        default=(),
        repeatable=True,
    ),
    Option(
        ("--sample",),
        "sample",
        "the K-th sample of this request, each cached on its own; 0 is the first",
        bars=("--no-cache",),
        **counts_from(0, "K"),
    ),
    Option(("--refresh",), "mode", "ask again and replace the cached answer", value="refresh"),
    Option(
        ("--ttl",),
        "ttl_s",
        "how long the answer is served: 30m, 24h, 7d, never",
        "TIME",
        parse=v.ttl_s,
        expects=LENGTHS + ", or never",
        choices=("30m", "24h", "7d", "never"),
        bars=("--no-cache", "--offline"),
    ),
    Option(("--tag",), "tags", "a label for the entry", "TAG", default=(), parse=v.text, repeatable=True),
    Option(
        ("--prompt-cache",),
        "prompt_cache",
        "have the provider keep the system prompt and attachments: cheaper to read again; 5m unless set",
        alone="5m",
        **{**one_of("5m|1h|off", "5m", "1h", "off"), "parse": v.prompt_cache},
    ),
    Option(
        ("--schema",),
        "schema",
        "what the answer is to be: 'name str, year int?', JSON Schema, a file, a variable or class",
        "TEXT|@FILE|NAME",
        files="@",
        parse=v.text,
    ),
    Option(
        ("--repair",),
        "repair",
        "ask up to N times more, with what is wrong, when the answer is not that",
        **counts_from(0),
    ),
    MAX_COST,
)
"""The options of an ask that a whole list of prompts may have too."""

_ASK: Final = (
    *LISTED,
    Option(
        ("-o", "--out"),
        "out",
        "bind the answer, or the table of several, to NAME; it is also _ and Out[n]",
        "NAME",
        parse=v.name,
        expects="it takes a Python name, such as answer",
    ),
    Option(
        ("-f", "--format"),
        "format",
        "how it is shown: " + ", ".join(FORMATS),
        **one_of("FORMAT", *FORMATS),
    ),
    Option(
        ("-r", "--reply-to"),
        "reply_to",
        "go on with the conversation that ended in the answer NAME; _ is the last answer",
        "NAME",
        parse=v.name,
        expects="it takes the name of an answer, or _",
    ),
    Option(
        ("-n",),
        "sample",
        "so many samples of this request, each cached on its own: --sample 0, 1, …",
        metavar="N",
        parse=v.samples,
        expects=f"it takes a whole number from 1 to {v.MOST_SAMPLES}; --sample K asks for any other",
    ),
    Option(
        ("--each",),
        "each",
        "ask for each row of a table or list: {{ row.x }}; the table with the answers is what -o binds",
        "NAME",
        parse=v.text,
    ),
    Option(
        ("--limit",),
        "limit",
        "with --each: only the first N rows, and what all would cost",
        **counts_from(1),
    ),
    flag(
        ("--batch",),
        "batch",
        "with --each: submit what is new as a batch, at half the price, within a day; -o binds the Batch",
    ),
    flag(
        ("--cascade",),
        "cascade",
        "ask the replies to an earlier answer of this again, and theirs; says first what it costs",
    ),
    flag(("-y", "--yes"), "yes", "don't ask before --cascade")._replace(needs=("--cascade",)),
    Option(("--no-cache",), "mode", "neither read nor write the completion cache", value="bypass"),
    Option(("--offline",), "mode", "serve cached answers only; send nothing", value="offline"),
    Option(
        ("--similar",),
        "similar",
        "serve the stored answer to a prompt that asks the same in other letters, X alike at least; says so",
        "X",
        parse=v.share,
        expects="it takes a number above 0, up to 1, such as 0.9",
        bars=("--refresh", "--no-cache", "--cascade"),
    ),
    flag(("--dry-run",), "dry_run", "say hit or miss and what it may cost; send nothing"),
    flag(("--raw",), "raw", "send the prompt as it is: no {{ name }} is filled in"),
    flag(("--no-stream",), "no_stream", "wait for the whole answer"),
    flag(("-q", "--quiet"), "quiet", "no receipt"),
    HELP,
)

CELL: Final = Command(
    "openrouter",
    "Ask a model through OpenRouter. The answer is kept: run the cell again and nothing is paid.",
    "[MODEL ...] [@FILE]",
    (
        "%%openrouter openai/gpt-4o-mini\nWhat is a median?",
        '%%openrouter openai/gpt-4o-mini -o summary -s "You are terse."\nSummarise: {{ report }}',
        "%%openrouter openai/gpt-4o-mini --dry-run\nTranslate to French: {{ text }}",
        "%%openrouter openai/gpt-4o-mini openai/gpt-4o -n 2 -o answers\nName a colour.",
        "%%openrouter openai/gpt-4o-mini --each reviews -o labelled\nGood or bad? {{ row.body }}",
        "%%openrouter @prompt.md",
    ),
    _ASK,
    check=_read_ask,
    takes="model",
    cell=True,
    unharmed="nothing was sent",
)

LINE: Final = CELL._replace(
    usage="PROMPT",
    examples=(
        "%openrouter What is a median?",
        "answer = %openrouter -m openai/gpt-4o-mini Name a colour",
        "%openrouter -- -x is an option here?",
    ),
    check=_read_line,
    takes="",
    cell=False,
    prompt=True,
)
