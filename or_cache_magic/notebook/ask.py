"""``%%openrouter`` and ``%openrouter``: from the line and the prompt to the answer on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from or_cache_magic.errors import FormatError, RequestError
from or_cache_magic.notebook.arguments import AskOptions, parse_ask_cell, parse_ask_line
from or_cache_magic.notebook.caller import deliver, keeps_result
from or_cache_magic.notebook.cards import say
from or_cache_magic.notebook.options import CELL, LINE
from or_cache_magic.notebook.parser import help_text

if TYPE_CHECKING:
    from decimal import Decimal

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.cache.completion import Completion
    from or_cache_magic.core.policy import Policy
    from or_cache_magic.core.records import Outcome, Request
    from or_cache_magic.core.settings import Settings
    from or_cache_magic.display.screen import Screen
    from or_cache_magic.notebook.session import Session

__all__ = ["ask_cell", "ask_line", "request_params"]


def ask_cell(session: Session, line: str, cell: str, variables: Mapping[str, Any]) -> Completion | None:
    """``%%openrouter``: asks with the cell's body as the prompt; without either, shows the help.

    Returns:
        The completion where the caller goes on with it; None where it was shown.

    Raises:
        OrCacheError: It can't be asked, or the ask failed; see `CompletionCache.ask`.
    """
    options = parse_ask_cell(line)
    if options.help or (not line.strip() and not cell.strip()):
        say(session.shell, help_text(CELL))
        return None
    # A terminal ends a cell with empty lines, a notebook with none: it is the same prompt.
    return _ask(session, options, cell.rstrip("\n"), variables)


def ask_line(session: Session, line: str, variables: Mapping[str, Any]) -> Completion | None:
    """``%openrouter``: asks with the rest of the line; without one, says how things stand.

    Returns, and raises, what `ask_cell` does.
    """
    options = parse_ask_line(line)
    if options.help:
        say(session.shell, help_text(LINE))
        return None
    if not line.strip():
        from or_cache_magic.notebook.status import status_card

        say(session.shell, *status_card(session))
        return None
    return _ask(session, options, options.prompt, variables)


def _ask(
    session: Session, options: AskOptions, prompt: str, variables: Mapping[str, Any]
) -> Completion | None:
    settings, cache = session.settings(), session.cache()
    request, policy = _asked(session, settings, options, prompt, variables)
    if options.dry_run:
        from or_cache_magic.notebook.preview import preview_line

        say(session.shell, preview_line(cache, request, policy))
        return None
    return _shown(session, settings, options, request, policy)


def _asked(
    session: Session, settings: Settings, options: AskOptions, prompt: str, variables: Mapping[str, Any]
) -> tuple[Request, Policy]:
    """What the prompt and the options come to."""
    from or_cache_magic.cache.request import policy_for

    body = _body(session, settings, options, prompt, variables)
    request = session.cache().request(
        body,
        settings,
        sample=options.sample,
        stream=settings.stream and not options.no_stream,
        prompt_cache=options.prompt_cache,
    )
    policy = policy_for(
        settings, mode=options.mode, sample=options.sample, ttl=options.ttl_s, tag=options.tags
    )
    return request, policy


def _shown(
    session: Session, settings: Settings, options: AskOptions, request: Request, policy: Policy
) -> Completion | None:
    """Asks, shows and binds the answer; the completion where the caller goes on with it."""
    from or_cache_magic.cache.completion import Completion
    from or_cache_magic.display.screen import open_screen

    shell: Any = session.shell
    cache, kept = session.cache(), keeps_result()
    form: Any = options.format or settings.format
    screen = open_screen(
        shell, format="none" if kept else form, receipt=settings.receipt, quiet=options.quiet
    )
    outcome = _run(cache, request, policy, screen, options.max_cost_usd)
    session.last = completion = Completion(outcome, request)
    if options.out:
        shell.push({options.out: completion})
    if request.stream and outcome.kind in ("miss", "refresh", "bypass"):
        screen.finish(completion)
    else:
        screen.show(completion)
    screen.receipt(outcome, asked=str(request.body["model"]))
    for notice in cache.database.pop_notices():
        say(shell, notice)
    if kept:
        _parse(completion, form)
        return completion
    deliver(shell, completion)
    _parse(completion, form)
    return None


def _body(
    session: Session, settings: Settings, options: AskOptions, prompt: str, variables: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON object that goes on the wire: the prompt filled in, under the options and the settings."""
    from or_cache_magic.cache.request import chat_body

    if not options.raw and "{{" in prompt:
        from or_cache_magic.notebook.templates import render

        prompt = render(prompt, variables)
    if not prompt.strip():
        raise RequestError(
            "the prompt is empty (nothing was sent)", "write it below %%openrouter, or behind %openrouter"
        )
    system = options.system
    if system is not None:
        from or_cache_magic.notebook.values import read_text_argument

        system = read_text_argument(system, variables, session.folder)
    return chat_body(
        prompt, model=options.model, settings=settings, system=system, params=request_params(options)
    )


def request_params(options: AskOptions) -> dict[str, Any]:
    """The fields of the request that the options name; None leaves one out."""
    params: dict[str, Any] = {
        name: value
        for name in ("temperature", "top_p", "seed", "max_tokens")
        if (value := getattr(options, name)) is not None
    }
    if params.get("max_tokens") == "none":
        params["max_tokens"] = None
    return {**params, **options.params}


def _run(
    cache: CompletionCache, request: Request, policy: Policy, screen: Screen, max_cost_usd: Decimal | None
) -> Outcome:
    """Asks; what had arrived when it is interrupted or breaks stays on the screen."""
    from or_cache_magic.core.callbacks import Asker

    screen.begin()
    try:
        asker = Asker(screen.feed if request.stream else None, screen.wait)
        return cache.run(request, policy, asker, max_cost_usd=max_cost_usd)
    except BaseException:
        screen.finish()
        raise


def _parse(completion: Completion, form: str) -> None:
    """Parses the answer where its asker wants data of it.

    Raises:
        FormatError: It is not in that form. It is kept, bound and shown all the same.
    """
    if form not in ("json", "df"):
        return
    from or_cache_magic.display.formats import parse_json, parse_table

    try:
        completion.attach(parse_json(completion) if form == "json" else parse_table(completion))
    except ValueError as exc:
        stored = completion.outcome.stored
        kept = "it is kept, and running again is free" if stored else "it is paid for, and not stored"
        raise FormatError(
            f"the answer can't be read as {form}: {exc} ({kept})",
            "ask for the form in the prompt, or take the text from %openrouter_last",
        ) from None
