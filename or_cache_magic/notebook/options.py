"""The magics and their options: the only place where one is written down.

See `command` for what follows from a row: parsing, ``--help``, ``?``, "did you mean" and completion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from or_cache_magic.core.policy import Mode
from or_cache_magic.core.settings import FORMATS
from or_cache_magic.core.units import parse_usd
from or_cache_magic.errors import OptionError
from or_cache_magic.notebook import values as v
from or_cache_magic.notebook.parser import HELP, Command, Option, Parsed, parse

__all__ = [
    "CELL",
    "COMMANDS",
    "CONFIG",
    "ENTRIES",
    "KEY",
    "LAST",
    "LINE",
    "PANEL",
    "PURGE",
    "STATS",
    "WARM",
    "AskOptions",
    "ConfigOptions",
    "EntriesOptions",
    "PurgeOptions",
    "StatsOptions",
    "ask_options",
    "parse_ask_cell",
    "parse_ask_line",
    "parse_config",
    "parse_entries",
    "parse_plain",
    "parse_purge",
    "parse_stats",
    "purge_conditions",
]

GROUPS: Final = ("model", "day", "notebook", "tag")
"""What ``%openrouter_stats --by`` can group by."""

_LENGTHS: Final = "write a number and s, m, h, d or w: 30m, 24h, 7d"
_WHOLE: Final = "it takes a whole number"
_OUT: Final = "it takes a Python name, such as answer"

_ASK: Final = (
    Option(
        ("-m", "--model"),
        "model",
        "the model, as OpenRouter spells it, or an alias",
        "MODEL",
        parse=v.text,
        models=True,
    ),
    Option(
        ("-o", "--out"),
        "out",
        "bind the answer to NAME; it is also _ and Out[n]",
        "NAME",
        parse=v.name,
        expects=_OUT,
    ),
    Option(("-s", "--system"), "system", "system prompt: a text, a file, or a variable", "TEXT|@FILE|NAME"),
    Option(
        ("-t", "--temperature"),
        "temperature",
        "0 unless set; sent explicitly",
        "X",
        parse=v.number,
        expects="it takes a number, such as 0.7",
    ),
    Option(
        ("--max-tokens",),
        "max_tokens",
        "limit of the answer; none sends no limit",
        "N",
        parse=v.token_limit,
        expects="it takes a whole number from 1 up, or none",
    ),
    Option(
        ("--top-p",),
        "top_p",
        "nucleus sampling, as OpenRouter has it",
        "X",
        parse=v.number,
        expects="it takes a number, such as 0.9",
    ),
    Option(("--seed",), "seed", "as OpenRouter has it", "N", parse=v.whole(), expects=_WHOLE),
    Option(
        ("-p", "--param"),
        "params",
        "any other field of the request",
        "KEY=JSON",
        parse=v.json_param,
        expects="""write KEY=JSON, the JSON in single quotes: -p reasoning='{"effort": "low"}'""",
        repeatable=True,
    ),
    Option(
        ("-f", "--format"),
        "format",
        "how it is shown: " + ", ".join(FORMATS),
        "FORMAT",
        parse=v.choice(*FORMATS),
        expects="it takes " + ", ".join(FORMATS),
        choices=FORMATS,
    ),
    Option(
        ("--sample",),
        "sample",
        "the K-th sample of this request, each cached on its own; 0 is the first",
        "K",
        parse=v.whole(0),
        expects="it takes a whole number from 0 up",
    ),
    Option(("--refresh",), "mode", "ask again and replace the cached answer", value="refresh"),
    Option(("--no-cache",), "mode", "neither read nor write the completion cache", value="bypass"),
    Option(("--offline",), "mode", "serve cached answers only; send nothing", value="offline"),
    Option(
        ("--ttl",),
        "ttl_s",
        "how long the answer is served: 30m, 24h, 7d, never",
        "TIME",
        parse=v.ttl_s,
        expects=_LENGTHS + ", or never",
        choices=("30m", "24h", "7d", "never"),
    ),
    Option(("--tag",), "tags", "a label for the entry", "TAG", parse=v.text, repeatable=True),
    Option(
        ("--prompt-cache",),
        "prompt_cache",
        "have the provider keep the system prompt and attachments: cheaper to read again; 5m unless set",
        "5m|1h",
        parse=v.choice("5m", "1h"),
        expects="it takes 5m or 1h",
        choices=("5m", "1h"),
        alone="5m",
    ),
    Option(
        ("--max-cost",),
        "max_cost_usd",
        "send nothing if it may cost more than so many dollars",
        "USD",
        parse=parse_usd,
        expects="write US dollars, such as 0.05",
    ),
    Option(("--dry-run",), "dry_run", "say hit or miss and what it may cost; send nothing"),
    Option(("--raw",), "raw", "send the prompt as it is: no {{ name }} is filled in"),
    Option(("--no-stream",), "no_stream", "wait for the whole answer"),
    Option(("-q", "--quiet"), "quiet", "no receipt"),
    HELP,
)

_MODEL: Final = Option(
    ("--model",), "model", "of this model; * and ? as in a shell", "M", parse=v.text, models=True
)
_TAG: Final = Option(("--tag",), "tag", "with this label", "T", parse=v.text)

CELL: Final = Command(
    "openrouter",
    "Ask a model through OpenRouter. The answer is kept: run the cell again and nothing is paid.",
    "[MODEL]",
    (
        "%%openrouter openai/gpt-4o-mini\nWhat is a median?",
        '%%openrouter openai/gpt-4o-mini -o summary -s "You are terse."\nSummarise: {{ report }}',
        "%%openrouter openai/gpt-4o-mini --dry-run\nTranslate to French: {{ text }}",
    ),
    _ASK,
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
    takes="",
    cell=False,
    prompt=True,
)

STATS: Final = Command(
    "openrouter_stats",
    "Calls, hits, what was paid and saved, as a DataFrame.",
    "",
    ("%openrouter_stats", "%openrouter_stats --by model"),
    (
        Option(
            ("--by",),
            "by",
            "one row for each: " + ", ".join(GROUPS),
            "GROUP",
            parse=v.choice(*GROUPS),
            expects="it takes " + ", ".join(GROUPS),
            choices=GROUPS,
        ),
        Option(("--session",), "session", "this kernel's session only"),
        HELP,
    ),
)

ENTRIES: Final = Command(
    "openrouter_entries",
    "The cached answers, as a DataFrame; with a KEY, one of them whole.",
    "[TEXT|KEY]",
    ("%openrouter_entries", "%openrouter_entries median --since 7d", "%openrouter_entries 3f9a01c2d4"),
    (
        _MODEL,
        _TAG,
        Option(
            ("--since",),
            "since_s",
            "stored in the last 30m, 24h, 7d",
            "TIME",
            parse=v.length_s,
            expects=_LENGTHS,
        ),
        HELP,
    ),
)

PURGE: Final = Command(
    "openrouter_purge",
    "Remove cached answers that meet every condition; says first what goes and what it cost.",
    "[KEY ...]",
    (
        "%openrouter_purge --model openai/gpt-4o-mini --dry-run",
        "%openrouter_purge 3f9a01c2d4 -y",
        "%openrouter_purge --older 30d",
    ),
    (
        _MODEL,
        Option(("--system",), "system", "with this whole system prompt", "TEXT|@FILE|NAME"),
        _TAG,
        Option(("--prefix",), "prefix", "whose prompt begins with P", "P", parse=v.text),
        Option(
            ("--older",),
            "older_s",
            "stored longer ago than 30m, 24h, 30d",
            "TIME",
            parse=v.length_s,
            expects=_LENGTHS,
        ),
        Option(("--expired",), "expired", "already expired"),
        Option(
            ("--to-fit",),
            "to_fit_bytes",
            "only until the rest fits into 500MB, 2GB: what loses least goes first",
            "SIZE",
            parse=v.size_bytes,
            expects="write a number and KB, MB or GB: 500MB, 2GB",
        ),
        Option(("--all",), "all", "everything"),
        Option(("--dry-run",), "dry_run", "say what would go; remove nothing"),
        Option(("-y", "--yes"), "yes", "don't ask"),
        HELP,
    ),
    unharmed="nothing was removed",
)

_OF_A_LIST: Final = (
    "--model",
    "--system",
    "--temperature",
    "--max-tokens",
    "--top-p",
    "--seed",
    "--param",
    "--sample",
    "--refresh",
    "--ttl",
    "--tag",
    "--prompt-cache",
    "--max-cost",
)
"""The options of an ask that a whole list of prompts may have."""

WARM: Final = Command(
    "openrouter_warm",
    "Fill the cache from a list of prompts: a variable, or a .txt, .jsonl or .csv file. What it has is free.",
    "FILE|NAME",
    (
        "%openrouter_warm prompts.txt -m openai/gpt-4o-mini",
        "%openrouter_warm questions --workers 4 --tag exam",
        "frame = %openrouter_warm requests.jsonl",
    ),
    (
        *(option for option in _ASK if option.names[-1] in _OF_A_LIST),
        Option(
            ("--workers",),
            "workers",
            "how many are asked at a time; 8 unless set",
            "N",
            parse=v.whole(1),
            expects="it takes a whole number from 1 up",
        ),
        Option(("-q", "--quiet"), "quiet", "no progress bar"),
        HELP,
    ),
    unharmed="nothing was sent",
)

CONFIG: Final = Command(
    "openrouter_config",
    "Show the settings and where each came from, or change some.",
    "[NAME=VALUE ...]",
    (
        "%openrouter_config",
        "%openrouter_config model=openai/gpt-4o-mini",
        "%openrouter_config temperature=none --save",
    ),
    (Option(("--save",), "save", "keep the change for other kernels too"), HELP),
    takes="setting",
    unharmed="nothing was changed",
)

KEY: Final = Command("openrouter_key", "Set the OpenRouter key for this kernel, without showing it.")

PANEL: Final = Command(
    "openrouter_panel",
    "The panel: what is cached, paid and saved; to browse, purge and export.",
    examples=("%openrouter_panel",),
)

LAST: Final = Command("openrouter_last", "The last Completion.", examples=("answer = %openrouter_last",))

COMMANDS: Final[Mapping[str, Command]] = MappingProxyType(
    {c.spelling: c for c in (CELL, LINE, PANEL, STATS, ENTRIES, PURGE, WARM, CONFIG, KEY, LAST)}
)
"""Every magic by its spelling, ``%`` or ``%%`` included."""


_SHOWN_KEY: Final = re.compile(r"[0-9a-fA-F]{8,64}")


class StatsOptions(NamedTuple):
    """What ``%openrouter_stats`` was given."""

    by: Literal["model", "day", "notebook", "tag"] | None = None
    session: bool = False
    help: bool = False


class EntriesOptions(NamedTuple):
    """What ``%openrouter_entries`` was given: `key` (hex digits) or `text`, or neither."""

    text: str = ""
    key: str | None = None
    model: str | None = None
    tag: str | None = None
    since_s: float | None = None
    help: bool = False


class PurgeOptions(NamedTuple):
    """What ``%openrouter_purge`` was given: at least one condition, or `all` alone.

    Attributes:
        system: ``TEXT | @file | NAME`` as written; see `values.read_text_argument`.
        older_s: Stored longer ago than this.
        to_fit_bytes: Only until the rest is no larger.
        yes: Don't ask.
    """

    keys: tuple[str, ...] = ()
    model: str | None = None
    system: str | None = None
    tag: str | None = None
    prefix: str | None = None
    older_s: float | None = None
    expired: bool = False
    to_fit_bytes: int | None = None
    all: bool = False
    dry_run: bool = False
    yes: bool = False
    help: bool = False


class ConfigOptions(NamedTuple):
    """What ``%openrouter_config`` was given: settings and their values as text, not yet checked."""

    changes: Mapping[str, str] = MappingProxyType({})
    save: bool = False
    help: bool = False


def parse_plain(command: Command, line: str) -> bool:
    """Whether a magic that takes nothing else was asked for its help; raises `OptionError`."""
    return bool(_without_words(command, line).get("help"))


def parse_stats(line: str) -> StatsOptions:
    """The options of ``%openrouter_stats``; raises `OptionError`."""
    return StatsOptions(**_without_words(STATS, line))


def parse_entries(line: str) -> EntriesOptions:
    """The options of ``%openrouter_entries``; raises `OptionError`.

    One word of at least 8 hex digits is a key (10 are shown); any other words are the text to look for.
    """
    parsed = parse(ENTRIES, line)
    words = " ".join(parsed.words)
    if _SHOWN_KEY.fullmatch(words):
        return EntriesOptions(key=words.lower(), **parsed.values)
    return EntriesOptions(text=words, **parsed.values)


def parse_purge(line: str) -> PurgeOptions:
    """The options of ``%openrouter_purge``; raises `OptionError`.

    Nothing chosen is refused, and so is ``--all`` next to a condition: neither says what should go.
    """
    parsed = parse(PURGE, line)
    try:
        options = PurgeOptions(keys=tuple(map(v.hex_key, parsed.words)), **parsed.values)
    except ValueError as problem:
        hint = "a key is 4 to 64 hex digits, as %openrouter_entries shows them; --model and others choose too"
        raise OptionError(f"{problem}; {PURGE.unharmed}", hint) from None
    if options.help:
        return options
    chosen = bool(options.keys) or bool(parsed.values.keys() - {"all", "dry_run", "yes"})
    if chosen == options.all:
        if chosen:
            raise OptionError(f"--all stands beside a condition; {PURGE.unharmed}", "keep one of them")
        raise OptionError(
            f"nothing is chosen; {PURGE.unharmed}", "name keys or conditions, or --all for everything"
        )
    return options


def purge_conditions(options: Any) -> dict[str, Any]:
    """What to purge, as `CompletionCache.purge_filter` takes it; keys and the system prompt apart.

    Args:
        options: `PurgeOptions`, or anything with its fields, as the shell's command has them.
    """
    return {
        "model": options.model,
        "tag": options.tag,
        "prefix": options.prefix,
        "older": options.older_s,
        "expired": options.expired,
        "to_fit": options.to_fit_bytes,
        "all": options.all,
    }


def parse_config(line: str) -> ConfigOptions:
    """The options of ``%openrouter_config``; raises `OptionError`. Names and values are not checked here."""
    parsed = parse(CONFIG, line)
    changes: dict[str, str] = {}
    for word in parsed.words:
        setting, equals, value = word.partition("=")
        if not equals or not setting:
            raise OptionError(
                f"{word!r} is no NAME=VALUE; {CONFIG.unharmed}",
                "no spaces around the =; quote a value that has some",
            )
        if setting in changes:
            raise OptionError(f"{setting} is given twice; {CONFIG.unharmed}", "keep one of them")
        changes[setting] = value
    return ConfigOptions(changes=changes, **parsed.values)


def _without_words(command: Command, line: str) -> Mapping[str, Any]:
    parsed = parse(command, line)
    if parsed.words:
        hint = f"{command.spelling} --help lists what it takes"
        raise OptionError(f"{command.spelling} takes no {parsed.words[0]!r}; {command.unharmed}", hint)
    return parsed.values


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
        ttl_s: Lifetime; infinite is for ever (`units.FOREVER_S`).
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
