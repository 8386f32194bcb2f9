"""``%%openrouter @prompt.md``: a prompt in a file, with its options at the top."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from or_cache_magic.core.options import FIELDS, plain
from or_cache_magic.errors import OptionError, TemplateError, near_name, one_line
from or_cache_magic.notebook.front_matter import FrontMatterError, Item, Plain, split_front_matter
from or_cache_magic.notebook.options import PROMPT_SUFFIXES
from or_cache_magic.notebook.parser import Command, Option
from or_cache_magic.notebook.values import read_text_argument

_ABOUT_THE_FILE: Final = ("name", "description", "author", "authors", "version")
"""What prompt files of other tools say of themselves; nothing of it is sent."""

_OF_THE_CELL: Final = ("out", "attach", "reply_to", "mode", "cascade", "yes", "dry_run", "params", "help")
"""Fields of options that a cell alone has: what is done once, where the answer goes, which files are sent."""

_OTHER_NAMES: Final[Mapping[str, str]] = {"tags": "tag", "max_cost_usd": "max_cost", "attachments": "attach"}
_OWN_PLACE: Final[Mapping[str, str]] = {
    "stream": "no_stream: true waits for the whole answer",
    "messages": "the prompt is the text below; the system prompt is system",
    "prompt": "the prompt is the text below",
}
"""What is no option, and what is."""

_LIKE_OPTIONS: Final = ("temperature", "top_p", "seed", "max_tokens")


class PromptFile(NamedTuple):
    """A prompt that was read from a file.

    Attributes:
        name: As the cell has it, for messages.
        text: The prompt, before anything is filled in, without empty lines below it; above it are as many
            as there are lines in the file.
        head: How many these are.
        options: What the file says of the cell's options, by their field.
        params: What it says of fields of the request.
    """

    name: str
    text: str
    head: int
    options: Mapping[str, Any]
    params: Mapping[str, Any]

    def complete(self, options: SimpleNamespace, command: Command) -> None:
        """Put the file's options where the cell has none of its own."""
        for field, value in self.options.items():
            if field not in options.given and getattr(options, field) == command.defaults[field]:
                setattr(options, field, value)
        extra = {**self.params.get("extra", {}), **options.params.get("extra", {})}
        options.params = {**self.params, **options.params, **({"extra": extra} if extra else {})}

    def prompt(self, variables: Mapping[str, Any], *, raw: bool) -> str:
        """Return the prompt with the notebook's variables filled in, unless it is to be sent `raw`.

        Raises:
            TemplateError: Something in it can't be filled in; says in which line of the file.
        """
        from or_cache_magic.core.templates import render

        try:
            return (self.text if raw else render(self.text, variables))[self.head :]
        except TemplateError as exc:
            problem = str(exc.args[0]).removeprefix(f"line {exc.line}: ")
            raise TemplateError(f"{self.name}, line {exc.line}: {problem}", exc.hint) from None


def read_prompt_file(name: str, folder: Path, command: Command) -> PromptFile:
    """Return the prompt in a file.

    Args:
        name: The file's, without ``@``.
        folder: Where a relative path begins.
        command: Whose options the file may have.

    Raises:
        OptionError: The file can't be read, or an option in it is none or does not take its value; says in
            which line.
    """
    text = read_text_argument(f"@{name}", {}, folder)
    shown = one_line(name, 80)
    options: dict[str, Any] = {}
    params: dict[str, Any] = {}
    try:
        items, head = split_front_matter(text)
        for item in items:
            if item.name not in _ABOUT_THE_FILE:
                _read(item, command, options, params)
    except FrontMatterError as exc:
        raise OptionError(f"{shown}, line {exc.line}: {exc}; nothing was sent", exc.hint) from None
    prompt = "\n" * head + "\n".join(text.split("\n")[head:]).rstrip("\n")
    head = len(prompt) - len(prompt.lstrip("\n"))
    return PromptFile(shown, prompt, head, options, params)


def refuse_file(prompt: str, folder: Path) -> None:
    """Refuse a line's prompt that is ``@`` and a file, or what looks like one: it would be sent as it is.

    Raises:
        OptionError: It is; says how a cell reads it.
    """
    word = re.fullmatch(
        r"""(?P<quote>["']?)@(?!@)(?P<inner>["']?)(?P<name>[^\n"']+)(?P=inner)(?P=quote)""", prompt
    )
    if word is None:
        return
    name = word["name"]
    if name.lower().endswith(PROMPT_SUFFIXES) or (folder / Path(name).expanduser()).is_file():
        raise OptionError(
            f"this prompt names a file, {one_line(name, 80)}, which a line does not read; nothing was sent",
            f"write %%openrouter @{name if ' ' not in name else repr(name)} in a cell of its own",
        )


def _read(item: Item, command: Command, options: dict[str, Any], params: dict[str, Any]) -> None:
    """Read one option into `options` or `params`."""
    name = _OTHER_NAMES.get(item.name, item.name).replace("-", "_")
    option = _option(command, name)
    if option is not None and option.field in _OF_THE_CELL:
        raise FrontMatterError(item.line, f"{item.name} is no option of a file", "write it in the cell")
    if option is None or name in _LIKE_OPTIONS:
        if option is None and name not in FIELDS and name != "extra":
            raise _unknown(item, command)
        params[name] = _field_value(item, option)
    elif name == "system" and isinstance(item.value, str):
        if item.value.startswith("@"):
            raise FrontMatterError(item.line, "system names a file", _NO_FILE)
        options["system"] = str(item.value)  # no variable either: a file does not choose what else is sent
    elif option.field in options:
        raise FrontMatterError(item.line, f"{item.name} means what another line does", "keep one of them")
    else:
        options[option.field] = _option_value(item, option)


def _option(command: Command, name: str) -> Option | None:
    """Return the option that a file calls so: by a long name, or by a short one that has no other (``n``)."""
    short = command.by_name.get(f"-{name}")
    long = command.by_name.get(f"--{name.replace('_', '-')}")
    return long or (short if short is not None and short.names == (f"-{name}",) else None)


def _field_value(item: Item, option: Option | None) -> Any:
    """Return the value of a field of the request; None leaves it out."""
    value = item.value.value if isinstance(item.value, Plain) else item.value
    if isinstance(value, list):
        value = [part.value if isinstance(part, Plain) else part for part in value]
    if value is None:
        return None
    if option is not None:
        found = _parsed(item, option, str(item.value))
        return None if found == "none" else found
    try:
        return FIELDS.get(item.name, _EXTRA)(plain(value))
    except ValueError as problem:
        raise FrontMatterError(item.line, f"{item.name}: {problem}", _JSON) from None


_EXTRA: Final = FIELDS["metadata"]
_JSON: Final = "what has no option of a cell is written as JSON, as OpenRouter's API has it"


def _option_value(item: Item, option: Option) -> Any:
    """Return the value of an option of the cell: what a line of the cell would give for the same words."""
    if not option.metavar:
        flag = item.value.value if isinstance(item.value, Plain) else item.value
        if not isinstance(flag, bool):
            raise FrontMatterError(item.line, f"{item.name} takes true or false", f"write {item.name}: true")
        return option.value if flag else option.default
    words = item.value if isinstance(item.value, list) else [item.value]
    if option.field == "schema" and isinstance(item.value, dict):
        words = [json.dumps(item.value, ensure_ascii=False)]
    hint = f"put the text in quotes; {option.expects or option.help}"
    if item.value is None or not all(isinstance(word, (str, int, float)) for word in words):
        raise FrontMatterError(item.line, f"{item.name} takes a text", hint)
    if not option.repeatable and len(words) != 1:
        raise FrontMatterError(item.line, f"{item.name} takes one value", hint)
    if option.field in _NAMING_FILES and any(str(word).startswith("@") for word in words):
        raise FrontMatterError(item.line, f"{item.name} names a file", _NO_FILE)
    values = tuple(_parsed(item, option, str(word)) for word in words)
    return values if option.repeatable else values[0]


_NAMING_FILES: Final = ("schema",)
_NO_FILE: Final = "a prompt file, which may be another's, reads no other: write it here, or in the cell"


def _parsed(item: Item, option: Option, word: str) -> Any:
    try:
        return option.parse(word)
    except ValueError as problem:
        raise FrontMatterError(item.line, f"{item.name}: {problem}", option.expects) from None


def _unknown(item: Item, command: Command) -> FrontMatterError:
    """Return what says that there is no such option, and which was meant."""
    names = [
        option.names[-1].lstrip("-").replace("-", "_")
        for option in command.options
        if option.field not in _OF_THE_CELL
    ]
    problem = f"there is no option {item.name}"
    if item.name in _OWN_PLACE:
        return FrontMatterError(item.line, problem, _OWN_PLACE[item.name])
    near = near_name(item.name, [*names, *FIELDS, *_OTHER_NAMES, *_ABOUT_THE_FILE, "extra"])
    other = f'a field that OpenRouter has and we don\'t know goes in by extra: {{"{item.name}": …}}'
    return FrontMatterError(item.line, problem, f"did you mean {near}?" if near else other)
