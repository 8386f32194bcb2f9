"""The magics beside ``%openrouter`` and their options, and all magics by name.

What follows from a row is what follows from one of `options`; the shell command ``or-cache`` takes the rows
of those it shares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final

from or_cache_magic.core.units import parse_usd
from or_cache_magic.errors import OptionError
from or_cache_magic.notebook import values as v
from or_cache_magic.notebook.options import (
    CELL,
    LENGTHS,
    LINE,
    LISTED,
    MAX_COST,
    counts_from,
    flag,
    one_of,
    read_params,
)
from or_cache_magic.notebook.parser import HELP, Command, Option, take_no_words

GROUPS: Final = ("model", "day", "notebook", "tag")
"""What ``%openrouter_stats --by`` can group by."""

_PACK: Final = "write one, such as course.orcache.jsonl"

_SHOWN_KEY: Final = r"[0-9a-fA-F]{8,64}"

_LENGTH: Final[dict[str, Any]] = {"metavar": "TIME", "parse": v.length_s, "expects": LENGTHS}


def _read_entries(_command: Command, options: SimpleNamespace) -> None:
    """Read one word of at least 8 hex digits as a `key` (10 are shown), other words as the `text` to find."""
    words = " ".join(options.words)
    is_key = re.fullmatch(_SHOWN_KEY, words) is not None
    options.key, options.text = (words.lower(), "") if is_key else (None, words)


def _read_text(_command: Command, options: SimpleNamespace) -> None:
    """Read the words as the `text` to find."""
    options.text = " ".join(options.words)


def _read_batches(command: Command, options: SimpleNamespace) -> None:
    """Read the word as the `id`, which goes with forgetting one."""
    take_no_words(command, SimpleNamespace(words=options.words[1:]))
    options.id = options.words[0] if options.words else ""
    if options.forget and not options.id:
        raise OptionError(
            "--forget goes with the ID of a batch; nothing was changed", "%openrouter_batches lists them"
        )


def _read_fix(command: Command, options: SimpleNamespace) -> None:
    """Read the word as the `model`, unless ``-m`` names it."""
    take_no_words(command, SimpleNamespace(words=options.words[options.model is None :]))
    options.model = options.words[0] if options.words else options.model


def _read_purge(command: Command, options: SimpleNamespace) -> None:
    """Read the words as `keys`."""
    try:
        options.keys = tuple(map(v.hex_key, options.words))
    except ValueError as problem:
        hint = "a key is 4 to 64 hex digits, as the list of entries shows it; --model and others choose too"
        raise OptionError(f"{problem}; {command.unharmed}", hint) from None


def _read_pin(command: Command, options: SimpleNamespace) -> None:
    """Read the word as the `key` and, behind a colon or as a second word, the `number` of an answer."""
    found = re.fullmatch(r"([0-9a-fA-F]{4,64})(?:[: ]([0-9]{1,9}))?", " ".join(options.words))
    if found is None:
        raise OptionError(
            f"this line names no key; {command.unharmed}",
            "write the key and the number of an answer: 3f9a01c2d4:1",
        )
    options.key, options.number = found[1].lower(), found[2] and int(found[2])


def _read_why(command: Command, options: SimpleNamespace) -> None:
    """Read the word as the `subject`: how a key begins, or a variable; None is the last ask."""
    words = [word for word in options.words if word]
    if len(words) > 1:
        raise OptionError(
            f"one key or answer a line, and this one names {len(words)}; {command.unharmed}",
            "write a key, or the variable of an answer",
        )
    options.subject = words[0] if words else None


def _read_notebook(command: Command, options: SimpleNamespace) -> None:
    """Read the word as the `notebook`; None is this one."""
    take_no_words(command, SimpleNamespace(words=options.words[1:]))
    options.notebook = options.words[0] if options.words else None


def _read_warm(command: Command, options: SimpleNamespace) -> None:
    """Read the word as the `source`: a variable or a file."""
    read_params(options)
    if "," in (options.model or ""):
        raise OptionError(
            f"one model a list, and this line names {options.model}; {command.unharmed}",
            "fill it for one, then the next",
        )
    if len(options.words) != 1:
        named = f"names {len(options.words)} lists" if options.words else "names no list of prompts"
        raise OptionError(
            f"this line {named}; {command.unharmed}",
            "write one variable or file; quote a name that has spaces",
        )
    (options.source,) = options.words


def _refuse_key(_command: Command, options: SimpleNamespace) -> None:
    """Refuse words without repeating them: they may be the key."""
    if options.words:
        raise OptionError(
            "%openrouter_key asks for the key; nothing is written behind it",
            "a cell is saved with the notebook: if your key stands there, clear the cell and revoke the key",
        )


def _read_export(command: Command, options: SimpleNamespace) -> None:
    """Read the first word as the `file`, and those behind it as `keys`."""
    if not any(options.words):
        raise OptionError(f"this line names no file; {command.unharmed}", _PACK)
    options.file, *options.words = options.words
    _read_purge(command, options)


def _read_import(command: Command, options: SimpleNamespace) -> None:
    """Read the word as the `file`."""
    if len(options.words) != 1:
        named = f"names {len(options.words)} files" if options.words else "names no file"
        raise OptionError(f"this line {named}; {command.unharmed}", f"{_PACK}; quote a name that has spaces")
    (options.file,) = options.words


def _read_config(command: Command, options: SimpleNamespace) -> None:
    """Read the words as `changes`: settings and their values as text, neither checked here."""
    changes: dict[str, str] = {}
    for word in options.words:
        setting, equals, value = word.partition("=")
        if not equals or not setting:
            raise OptionError(
                f"{word!r} is no NAME=VALUE; {command.unharmed}",
                "no spaces around the =; quote a value that has some",
            )
        if setting in changes:
            raise OptionError(f"{setting} is given twice; {command.unharmed}", "keep one of them")
        changes[setting] = value
    options.changes = changes


_MODEL: Final = Option(
    ("--model",), "model", "of this model; * and ? as in a shell", "M", parse=v.text, models=True
)

_TAG: Final = Option(("--tag",), "tag", "with this label", "T", parse=v.text)

_SYSTEM: Final = Option(
    ("--system",), "system", "with this whole system prompt", "TEXT|@FILE|NAME", files="@"
)

_PREFIX: Final = Option(("--prefix",), "prefix", "whose prompt begins with P", "P", parse=v.text)

_SINCE: Final = Option(("--since",), "since_s", "stored in the last 30m, 24h, 7d", **_LENGTH)

_OLDER: Final = Option(("--older",), "older_s", "stored longer ago than 30m, 24h, 30d", **_LENGTH)

_CHOOSING: Final = (
    Option(("--text",), "text", "found in the prompt or the answer", "T", parse=v.text),
    _MODEL,
    _SYSTEM,
    _TAG,
    _PREFIX,
    _SINCE,
    _OLDER,
)
"""What chooses entries beside keys, as in Python; see `cache.purge.CONDITIONS`."""

STATS: Final = Command(
    "openrouter_stats",
    "Calls, hits, what was paid and saved, as a DataFrame.",
    "",
    ("%openrouter_stats", "%openrouter_stats --by model"),
    (
        Option(("--by",), "by", "one row for each: " + ", ".join(GROUPS), **one_of("GROUP", *GROUPS)),
        flag(("--session",), "session", "this kernel's session only"),
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
        _SINCE,
        HELP,
    ),
    check=_read_entries,
)

PIN: Final = Command(
    "openrouter_pin",
    "Of several answers to one request, choose the one that reruns give; %openrouter_entries KEY has them.",
    "KEY:N",
    ("%openrouter_pin 3f9a01c2d4:1",),
    check=_read_pin,
    takes="pin",
    unharmed="nothing was changed",
)

WHY: Final = Command(
    "openrouter_why",
    "Why the last ask was not served from the cache: the nearest stored request, and the difference.",
    "[KEY|NAME]",
    ("%openrouter_why", "%openrouter_why 3f9a01c2d4", "%openrouter_why answer"),
    check=_read_why,
    takes="",
    unharmed="nothing was sent",
)

REPORT: Final = Command(
    "openrouter_report",
    "What a notebook asked of which models, when, how often and at what cost, for a methods section.",
    "[NOTEBOOK]",
    ("%openrouter_report", "report = %openrouter_report paper.ipynb --format latex", "%openrouter_report *"),
    (
        Option(
            ("-f", "--format"),
            "format",
            "how it is shown: markdown or latex; its save(path) writes either",
            default="markdown",
            **one_of("markdown|latex", "markdown", "latex"),
        ),
        HELP,
    ),
    check=_read_notebook,
    takes="file",
    unharmed="nothing was sent",
)

PLAN: Final = Command(
    "openrouter_plan",
    "What running the notebook from its top would ask and cost, cell by cell. Asks nothing.",
    "[NOTEBOOK]",
    ("%openrouter_plan", "%openrouter_plan --buy --max-cost 0.50", "plan = %openrouter_plan analysis.ipynb"),
    (
        flag(("--buy",), "buy", "ask what is missing and depends on nothing else that is, all at once"),
        MAX_COST._replace(help="with --buy: the most that it may cost", needs=("--buy",)),
        HELP,
    ),
    check=_read_notebook,
    takes="file",
    unharmed="nothing was sent",
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
        _SYSTEM,
        _TAG,
        _PREFIX,
        _OLDER,
        flag(("--expired",), "expired", "already expired"),
        Option(
            ("--to-fit",),
            "to_fit_bytes",
            "only until the rest fits into 500MB, 2GB: what loses least goes first",
            "SIZE",
            parse=v.size_bytes,
            expects="write a number and KB, MB or GB: 500MB, 2GB",
        ),
        flag(("--all",), "all", "everything"),
        flag(("--dry-run",), "dry_run", "say what would go; remove nothing"),
        flag(("-y", "--yes"), "yes", "don't ask"),
        HELP,
    ),
    check=_read_purge,
    unharmed="nothing was removed",
)

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
        *LISTED,
        Option(
            ("--workers",),
            "workers",
            "the most that are asked at a time; unless set 8, then up to 32 while answers are as fast",
            **counts_from(1),
        ),
        flag(("-q", "--quiet"), "quiet", "no progress bar"),
        HELP,
    ),
    check=_read_warm,
    unharmed="nothing was sent",
)

EXPORT: Final = Command(
    "openrouter_export",
    "Write cached answers into a pack, a file to be committed: what it has needs no key and costs nothing.",
    "FILE [KEY ...]",
    (
        "%openrouter_export course.orcache.jsonl",
        "%openrouter_export exam.orcache.jsonl --tag exam",
        "%openrouter_export scans.orcache.jsonl --media files",
    ),
    (
        *_CHOOSING,
        Option(
            ("-f", "--format"),
            "format",
            "pack, or a data set: chat, messages with the answer last, or parquet, a table",
            default="pack",
            **one_of("pack|chat|parquet", "pack", "chat", "parquet"),
        ),
        Option(
            ("--media",),
            "media",
            "where large media goes: inline, into the pack, or files, beside it",
            default="inline",
            **one_of("inline|files", "inline", "files"),
        ),
        HELP,
    ),
    check=_read_export,
    takes="file",
    unharmed="nothing was written",
)

VERIFY: Final = Command(
    "openrouter_verify",
    "Ask for a sample of the entries again, and tell how the answers agree. They are paid for, never served.",
    "[KEY ...]",
    (
        "%openrouter_verify",
        "%openrouter_verify --sample 20 --max-cost 0.05",
        "agreement = %openrouter_verify --tag exam --older 30d --sample 10%",
    ),
    (
        Option(
            ("--sample",),
            "sample",
            "so many entries, or such a share of them; 5% unless set",
            "N|5%",
            default="5%",
            parse=v.text,
        ),
        *_CHOOSING,
        MAX_COST,
        flag(("-q", "--quiet"), "quiet", "neither the bill nor a progress bar"),
        HELP,
    ),
    check=_read_purge,
    unharmed="nothing was sent",
)

IMPORT: Final = Command(
    "openrouter_import",
    "Take the answers of a pack into the cache. What is there stays; nothing is asked or paid.",
    "FILE",
    ("%openrouter_import course.orcache.jsonl",),
    check=_read_import,
    takes="file",
    unharmed="nothing was changed",
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
    (flag(("--save",), "save", "keep the change for other kernels too"), HELP),
    check=_read_config,
    takes="setting",
    unharmed="nothing was changed",
)

KEY: Final = Command(
    "openrouter_key", "Set the OpenRouter key for this kernel, without showing it.", check=_refuse_key
)

MODELS: Final = Command(
    "openrouter_models",
    "The models that OpenRouter lists, with their prices for a million tokens, as a DataFrame.",
    "[TEXT]",
    (
        "%openrouter_models claude --tools",
        "%openrouter_models --free",
        "cheap = %openrouter_models --max-price 0.50 --schema",
    ),
    (
        flag(("--free",), "free", "only what costs nothing"),
        Option(
            ("--max-price",),
            "max_price",
            "at most so many dollars for a million tokens, of the prompt and of the answer alike",
            "USD",
            parse=parse_usd,
            expects="write US dollars, such as 0.50",
        ),
        flag(("--image",), "image", "only what takes pictures"),
        flag(("--tools",), "tools", "only what calls tools"),
        flag(("--schema",), "takes_schema", "only what can be held to a JSON Schema"),
        HELP,
    ),
    check=_read_text,
)

BATCHES: Final = Command(
    "openrouter_batches",
    "The batches at OpenRouter, as a DataFrame; collects what has ended. With an ID, the rows of one.",
    "[ID]",
    ("%openrouter_batches", "%openrouter_batches batch_3f9a", "%openrouter_batches batch_3f9a --forget"),
    (
        flag(
            ("--forget",),
            "forget",
            "wait for it no more: its rows may be asked anew, though it may be paid all the same",
        ),
        HELP,
    ),
    check=_read_batches,
    unharmed="nothing was changed",
)

PANEL: Final = Command(
    "openrouter_panel",
    "The panel: what is cached, paid and saved; to browse, purge and export.",
    examples=("%openrouter_panel",),
)

FIX: Final = Command(
    "openrouter_fix",
    "Have a model explain the last exception: the cell's code, the traceback, no values unless you say so.",
    "[MODEL]",
    ("%openrouter_fix", "%openrouter_fix openai/gpt-4o-mini --values", "%openrouter_fix --dry-run"),
    (
        Option(
            ("-m", "--model"), "model", "the model, as MODEL names it too", "MODEL", parse=v.text, models=True
        ),
        flag(("--values",), "values", "send the values of the variables in the lines that failed, cut short"),
        flag(("--dry-run",), "dry_run", "show what would be sent and what it may cost; send nothing"),
        Option(("--refresh",), "mode", "ask again and replace the cached answer", value="refresh"),
        flag(("-q", "--quiet"), "quiet", "no receipt"),
        HELP,
    ),
    check=_read_fix,
    takes="model",
    unharmed="nothing was sent",
)

LAST: Final = Command("openrouter_last", "The last Completion.", examples=("answer = %openrouter_last",))

COMMANDS: Final[Mapping[str, Command]] = MappingProxyType(
    {
        c.spelling: c
        for c in (
            *(CELL, LINE, PANEL, STATS, ENTRIES, WHY, PIN, PURGE, EXPORT, IMPORT, WARM, BATCHES),
            *(PLAN, REPORT, VERIFY, MODELS, FIX, CONFIG, KEY, LAST),
        )
    }
)
"""Every magic by its spelling, ``%`` or ``%%`` included."""
