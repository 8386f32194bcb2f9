"""``%%openrouter`` and ``%openrouter``: from the line and the prompt to the answer on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from or_cache_magic.cache.completion import Completion
from or_cache_magic.core.callbacks import Callbacks
from or_cache_magic.core.chat import BESIDES
from or_cache_magic.core.records import Outcome
from or_cache_magic.core.units import format_count
from or_cache_magic.display.screen import open_screen
from or_cache_magic.errors import FormatError, OptionError, near_name, one_line
from or_cache_magic.notebook.options import CELL, LINE, refuse_model
from or_cache_magic.notebook.parser import help_text, parse
from or_cache_magic.notebook.session import keeps_result
from or_cache_magic.notebook.values import read_attached, read_schema_argument, read_text_argument

if TYPE_CHECKING:
    from pathlib import Path

    from or_cache_magic.core.records import Answer
    from or_cache_magic.core.settings import Ask
    from or_cache_magic.display.screen import Screen
    from or_cache_magic.money.budget import Limit
    from or_cache_magic.notebook.session import Session

_FOUND_WIDTH = 40
_MORE = "it was cut: give it more with --max-tokens; "


class Place(Protocol):
    """Where a cell is read: the notebook's folder, and what was asked last."""

    @property
    def folder(self) -> Path:
        """Where relative paths begin."""

    @property
    def last(self) -> object:
        """The answer that was asked for last, or the table of several."""


def ask(session: Session, line: str, cell: str | None, variables: Mapping[str, Any]) -> Any:
    """Ask with a cell's body, or with the rest of the line, as the prompt.

    With nothing on the line and below it, ``%%openrouter`` shows its help, ``%openrouter`` how things stand.

    Args:
        session: What the magics share.
        line: What stands behind the magic's name.
        cell: What stands below it; None in a line magic.
        variables: The notebook's, for ``{{ name }}`` and ``--system NAME``.

    Returns:
        The completion, or the table of several, where the caller goes on with it; None where it was shown.
        With ``--each`` the table with the answers, or None likewise.

    Raises:
        OrCacheError: It can't be asked, or the ask failed; see `CompletionCache.ask`.
        FormatError: The answer is not in the form, or the schema, that was asked for. It is bound and shown.
    """
    command = LINE if cell is None else CELL
    options = parse(command, line)
    if options.help or not (line.strip() or (cell and cell.strip())):
        if options.help or cell is not None:
            session.say(help_text(command))
        else:
            from or_cache_magic.notebook.status import status_card

            session.say(*status_card(session))
        return None
    if cell is None:
        refuse_model(options, session.own_models)
        if "@" in options.prompt:
            from or_cache_magic.notebook.prompt_files import refuse_file  # few prompts have one

            refuse_file(options.prompt, session.folder)
    prompt, asked = read_ask(session, options, cell, variables)
    if options.each is not None or isinstance(options.sample, range) or "," in (options.model or ""):
        return _ask_many(session, options, prompt, asked, variables)
    prepare = partial(session.cache().prepare, prompt, options.params, **asked)
    prepared, below = prepare(model=options.model, sample=options.sample), None
    if options.cascade or options.mode == "refresh":
        from or_cache_magic.notebook.cascade import Cascade  # most answers stay what they are

        below = Cascade(session, options, prepared)
    if options.dry_run:
        from or_cache_magic.notebook.status import preview_lines

        session.say(*preview_lines(session.cache(), [prepared], options.out))
    if (below is not None and not below.approved()) or options.dry_run:
        return None
    given = run_and_show(session, options, prepared, () if below is None else below.limits)
    if below is not None:
        below.finish()
    return given


def _ask_many(
    session: Session,
    options: SimpleNamespace,
    prompt: str,
    asked: Mapping[str, Any],
    variables: Mapping[str, Any],
) -> Any:
    """Ask for each row of a table, or several models or samples of one prompt."""
    if options.similar is not None:
        raise OptionError(
            "--similar goes with one prompt and one model; nothing was sent", "leave it out, or ask one"
        )
    if options.each is not None:
        from or_cache_magic.notebook.each import ask_each

        return ask_each(session, options, prompt, asked, variables)
    from or_cache_magic.notebook.compare import ask_several

    prepare = partial(session.cache().prepare, prompt, options.params, **asked)
    return ask_several(session, options, prepare, _parse)


def read_ask(
    session: Place, options: SimpleNamespace, cell: str | None, variables: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the prompt as it is sent, and the arguments of `CompletionCache.ask` that do not name a model.

    What a prompt file says is put into the `options`. The prompt of each row of a table is filled in later.
    """
    # A terminal ends a cell with empty lines, a notebook with none, Windows has CRLF: it is the same prompt.
    prompt: str = options.prompt if cell is None else cell.replace("\r\n", "\n").rstrip("\n")
    if options.system:
        options.system = read_text_argument(options.system, variables, session.folder)
    above = ""
    if cell is not None and options.file is not None:
        from or_cache_magic.notebook.prompt_files import read_prompt_file  # few prompts are in files

        file = read_prompt_file(options.file, session.folder, CELL)
        file.complete(options, CELL)
        above = file.prompt(variables, raw=options.raw or options.each is not None)
    if "{{" in prompt and not options.raw and options.each is None:
        from or_cache_magic.core.templates import render

        prompt = render(prompt, variables)
    if above:
        prompt = "\n\n".join(part for part in (above, prompt) if part and not part.isspace())
    return prompt, {
        "system": options.system,
        "attach": read_attached(options.attach, variables, session.folder) if options.attach else None,
        "mode": options.mode,
        "ttl": options.ttl_s,
        "tag": options.tags or None,
        "stream": False if options.no_stream else None,
        "prompt_cache": options.prompt_cache,
        "reply_to": options.reply_to and _answer_named(options.reply_to, variables, session.last),
        "schema": options.schema and read_schema_argument(options.schema, variables, session.folder),
        "repair": options.repair,
    }


def _answer_named(name: str, variables: Mapping[str, Any], last: object) -> Completion:
    """Return the answer that ``--reply-to`` names; ``_`` is the one shown last, else the one asked last.

    Raises:
        OptionError: There is none of this name; says what there is.
    """
    found = variables.get(name)
    if name == "_" and not isinstance(found, Completion):
        found = last
    if isinstance(found, Completion):
        return found
    if name == "_":
        if last is not None:
            raise OptionError("the last cell has several answers; nothing was sent", _ONE_OF_THEM)
        raise OptionError("nothing was asked in this session yet; nothing was sent", _NAME_ONE)
    if name not in variables:
        answers = [known for known, value in variables.items() if isinstance(value, Completion)]
        near = near_name(name, answers)
        hint = f"did you mean {near}?" if near else _NAME_ONE
        raise OptionError(f"{name} is not defined; nothing was sent", hint)
    kind = type(found).__name__
    if kind == "DataFrame":
        raise OptionError(f"{name} is a table of answers; nothing was sent", _ONE_OF_THEM)
    raise OptionError(f"the variable {name} is a {kind}, not an answer; nothing was sent", _NAME_ONE)


_ONE_OF_THEM = "take one: first = answers.answer[0] of -o answers, then -r first"
_NAME_ONE = "run the cell above it first, and name what its -o has bound: -o first, then -r first"


def run_and_show(
    session: Session, options: SimpleNamespace, ask: Ask, limits: Sequence[Limit]
) -> Completion | None:
    """Ask, show and bind the answer; what had arrived when it breaks off stays on the screen."""
    cache, kept, settings, request = session.cache(), keeps_result(), ask.settings, ask.request
    form: Any = options.format or settings.format
    if ask.schema is not None and form == "auto":
        form = "data"
    screen = open_screen(
        session.shell,
        format="none" if kept else form,
        receipt=settings.receipt,
        quiet=options.quiet,
        updates=session.follows_updates,
    )
    feed = screen.feed if request.stream and not ask.repair else None  # of several answers the last is shown
    callbacks = Callbacks(feed, screen.wait, on_send=screen.sent)
    try:
        outcome = None if options.similar is None else _similar(session, ask, options)
        outcome = outcome or cache.run(
            ask, callbacks, max_cost_usd=None if limits else options.max_cost_usd, limits=limits
        )
    except BaseException as exc:
        session.note_miss(ask.key.digest)
        _show_cut(screen, ask, exc)
        raise
    session.last = completion = Completion(outcome, request, ask=cache.ask, schema=ask.schema)
    if options.out:
        session.shell.push({options.out: completion})
    choices, parts = outcome.answer.choices, []
    message = choices[0].message if choices else {}
    only_text = isinstance(message.get("content"), str) and not any(map(message.get, BESIDES))
    if not only_text or (outcome.answer.extra or {}).get("citations"):
        from or_cache_magic.display.parts import parts_of  # most answers are text

        parts = parts_of(outcome.answer, request.body)
    if request.stream and outcome.made_call:
        screen.finish(completion, parts)
    else:
        screen.show(completion, parts)
    attached = ""
    if ask.attached:
        from or_cache_magic.core.media import attached_text

        attached = attached_text(ask.attached)
    outcome = _noted(session, ask, outcome) if outcome.made_call else outcome
    screen.receipt(outcome, asked=str(request.body["model"]), attached=attached)
    for notice in cache.database.pop_notices():
        session.say(notice)
    if kept is False:
        session.deliver(completion)
    if ask.schema is not None or form in ("json", "df"):
        _parse(completion, form, has_schema=ask.schema is not None)
    return None if kept is False else completion


def _similar(session: Session, ask: Ask, options: SimpleNamespace) -> Outcome | None:
    """Return the outcome of an ask that the answer to a similar prompt serves; None where none does.

    Where no receipt will say that it is another's, it is said here.
    """
    from or_cache_magic.explain.similar import serve

    outcome = serve(session.cache(), ask, options.similar)
    if outcome is not None:
        session.note_miss(ask.key.digest)
        if options.quiet or ask.settings.receipt == "off":
            session.say(outcome.notes[0])
    return outcome


def _noted(session: Session, ask: Ask, outcome: Outcome) -> Outcome:
    """Return the outcome of a call, with notes: what is similar; what of its prompt changes by itself."""
    session.note_miss(outcome.key.digest)
    if ask.settings.similar != "off" and outcome.kind == "miss":
        from or_cache_magic.explain.similar import suggestion

        told = suggestion(session.cache(), ask)
        outcome = outcome._replace(notes=(*outcome.notes, told)) if told else outcome
    if not outcome.stored:
        return outcome
    from or_cache_magic.core.unstable import unstable

    new = [
        one for one in unstable(ask.request.body, session.cache().clock()) if one.what not in session.warned
    ]
    if not new:
        return outcome
    session.warned.update(one.what for one in new)
    said = ", ".join(f"{one.what} ({one_line(one.found, _FOUND_WIDTH)})" for one in new)
    return outcome._replace(notes=(*outcome.notes, f"the prompt has {said}: a rerun with another will miss"))


def _show_cut(screen: Screen, ask: Ask, failure: BaseException) -> None:
    """End what is on the screen, with a receipt for what had arrived before it broke off."""
    screen.finish()
    cut: Answer | None = getattr(failure, "answer", None)
    if cut is not None:
        why = f"interrupted after {format_count(len(cut.text), 'character')}"
        came = Outcome("miss", ask.key, cut, paid=cut.cost)  # whole: what broke off was its check
        if not cut.complete:
            came = Outcome("failed", ask.key, cut, not_stored=why, paid=cut.cost)
        screen.receipt(came._replace(elapsed_s=cut.elapsed_s), asked=str(ask.request.body["model"]))


def _parse(completion: Completion, form: str, *, has_schema: bool) -> None:
    """Attach the answer in parsed form.

    Raises:
        FormatError: It is not in that form, or does not fit its schema. It is bound and shown all the same.
    """
    if has_schema:
        completion.data  # noqa: B018 - raises where it doesn't fit
    if form != "df" and (form != "json" or has_schema):
        return
    from or_cache_magic.core.blocks import parse_json
    from or_cache_magic.display.answer import parse_table

    try:
        completion.attach(parse_json(completion) if form == "json" else parse_table(completion))
    except ValueError as exc:
        stored = completion.outcome.stored
        kept = "it is kept, and running again is free" if stored else "it is paid for, and not stored"
        raise FormatError(
            f"the answer can't be read as {form}: {exc} ({kept})",
            (_MORE if completion.finish_reason == "length" else "")
            + "--refresh asks again; name the form in the prompt; %openrouter_last has the text",
        ) from None
