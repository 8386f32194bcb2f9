"""The magics and their options: the only place where one is written down.

What follows from a row: parsing, ``--help``, ``?``, "did you mean", tab completion, and the options of the
shell command ``or-cache``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final

from or_cache_magic.core.settings import FORMATS
from or_cache_magic.core.units import parse_usd
from or_cache_magic.errors import OptionError
from or_cache_magic.notebook import values as v
from or_cache_magic.notebook.parser import HELP, Command, Option, take_no_words

GROUPS: Final = ("model", "day", "notebook", "tag")
"""What ``%openrouter_stats --by`` can group by."""

_PACK: Final = "write one, such as course.orcache.jsonl"

_LENGTHS: Final = "write a number and s, m, h, d or w: 30m, 24h, 7d"

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

_SHOWN_KEY: Final = r"[0-9a-fA-F]{8,64}"


_NUMBER: Final[dict[str, Any]] = {
    "metavar": "X",
    "parse": v.number,
    "expects": "it takes a number, such as 0.7",
}
_LENGTH: Final[dict[str, Any]] = {"metavar": "TIME", "parse": v.length_s, "expects": _LENGTHS}


def _flag(names: tuple[str, ...], field: str, help_line: str) -> Option:
    return Option(names, field, help_line, default=False)


def counts_from(least: int, metavar: str = "N") -> dict[str, Any]:
    """Return what an `Option` has that takes a whole number from `least` up."""
    expects = f"it takes a whole number from {least} up"
    return {"metavar": metavar, "parse": v.whole(least), "expects": expects}


def _one_of(metavar: str, *choices: str) -> dict[str, Any]:
    expects = f"it takes {', '.join(choices[:-1])} or {choices[-1]}"
    return {"metavar": metavar, "parse": v.choice(*choices), "expects": expects, "choices": choices}


def _read_params(options: SimpleNamespace) -> None:
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
    if options.limit and options.each is None and not files:
        raise OptionError("--limit goes with --each; nothing was sent", "--max-tokens limits an answer")
    _read_params(options)


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
    _read_params(options)


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


def _read_warm(command: Command, options: SimpleNamespace) -> None:
    """Read the word as the `source`: a variable or a file."""
    _read_params(options)
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


_LISTED: Final = (
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
        expects=_LENGTHS + ", or never",
        choices=("30m", "24h", "7d", "never"),
        bars=("--no-cache", "--offline"),
    ),
    Option(("--tag",), "tags", "a label for the entry", "TAG", default=(), parse=v.text, repeatable=True),
    Option(
        ("--prompt-cache",),
        "prompt_cache",
        "have the provider keep the system prompt and attachments: cheaper to read again; 5m unless set",
        alone="5m",
        **{**_one_of("5m|1h|off", "5m", "1h", "off"), "parse": v.prompt_cache},
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
    Option(
        ("--max-cost",),
        "max_cost_usd",
        "send nothing if it may cost more than so many dollars",
        "USD",
        parse=parse_usd,
        expects="write US dollars, such as 0.05",
    ),
)
"""The options of an ask that a whole list of prompts may have too."""

_ASK: Final = (
    *_LISTED,
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
        **_one_of("FORMAT", *FORMATS),
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
    _flag(
        ("--cascade",),
        "cascade",
        "ask the replies to an earlier answer of this again, and theirs; says first what it costs",
    ),
    _flag(("-y", "--yes"), "yes", "don't ask before --cascade")._replace(needs=("--cascade",)),
    Option(("--no-cache",), "mode", "neither read nor write the completion cache", value="bypass"),
    Option(("--offline",), "mode", "serve cached answers only; send nothing", value="offline"),
    _flag(("--dry-run",), "dry_run", "say hit or miss and what it may cost; send nothing"),
    _flag(("--raw",), "raw", "send the prompt as it is: no {{ name }} is filled in"),
    _flag(("--no-stream",), "no_stream", "wait for the whole answer"),
    _flag(("-q", "--quiet"), "quiet", "no receipt"),
    HELP,
)

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

STATS: Final = Command(
    "openrouter_stats",
    "Calls, hits, what was paid and saved, as a DataFrame.",
    "",
    ("%openrouter_stats", "%openrouter_stats --by model"),
    (
        Option(("--by",), "by", "one row for each: " + ", ".join(GROUPS), **_one_of("GROUP", *GROUPS)),
        _flag(("--session",), "session", "this kernel's session only"),
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
        _flag(("--expired",), "expired", "already expired"),
        Option(
            ("--to-fit",),
            "to_fit_bytes",
            "only until the rest fits into 500MB, 2GB: what loses least goes first",
            "SIZE",
            parse=v.size_bytes,
            expects="write a number and KB, MB or GB: 500MB, 2GB",
        ),
        _flag(("--all",), "all", "everything"),
        _flag(("--dry-run",), "dry_run", "say what would go; remove nothing"),
        _flag(("-y", "--yes"), "yes", "don't ask"),
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
        *_LISTED,
        Option(
            ("--workers",),
            "workers",
            "the most that are asked at a time; unless set 8, then up to 32 while answers are as fast",
            **counts_from(1),
        ),
        _flag(("-q", "--quiet"), "quiet", "no progress bar"),
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
        Option(("--text",), "text", "found in the prompt or the answer", "T", parse=v.text),
        _MODEL,
        _SYSTEM,
        _TAG,
        _PREFIX,
        _SINCE,
        _OLDER,
        Option(
            ("-f", "--format"),
            "format",
            "pack, or a data set: chat, messages with the answer last, or parquet, a table",
            default="pack",
            **_one_of("pack|chat|parquet", "pack", "chat", "parquet"),
        ),
        Option(
            ("--media",),
            "media",
            "where large media goes: inline, into the pack, or files, beside it",
            default="inline",
            **_one_of("inline|files", "inline", "files"),
        ),
        HELP,
    ),
    check=_read_export,
    takes="file",
    unharmed="nothing was written",
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
    (_flag(("--save",), "save", "keep the change for other kernels too"), HELP),
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
        _flag(("--free",), "free", "only what costs nothing"),
        Option(
            ("--max-price",),
            "max_price",
            "at most so many dollars for a million tokens, of the prompt and of the answer alike",
            "USD",
            parse=parse_usd,
            expects="write US dollars, such as 0.50",
        ),
        _flag(("--image",), "image", "only what takes pictures"),
        _flag(("--tools",), "tools", "only what calls tools"),
        _flag(("--schema",), "takes_schema", "only what can be held to a JSON Schema"),
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
        _flag(
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
        _flag(
            ("--values",), "values", "send the values of the variables in the lines that failed, cut short"
        ),
        _flag(("--dry-run",), "dry_run", "show what would be sent and what it may cost; send nothing"),
        Option(("--refresh",), "mode", "ask again and replace the cached answer", value="refresh"),
        _flag(("-q", "--quiet"), "quiet", "no receipt"),
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
            *(MODELS, FIX, CONFIG, KEY, LAST),
        )
    }
)
"""Every magic by its spelling, ``%`` or ``%%`` included."""
