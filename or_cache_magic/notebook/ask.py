"""``%%openrouter`` and ``%openrouter``: from the line and the prompt to the answer on the screen."""

from __future__ import annotations

import dis
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.units import format_usd
from or_cache_magic.display.receipt import format_age
from or_cache_magic.errors import FormatError, RequestError
from or_cache_magic.notebook.options import CELL, LINE, AskOptions, parse_ask_cell, parse_ask_line
from or_cache_magic.notebook.parser import help_text
from or_cache_magic.notebook.status import say

if TYPE_CHECKING:
    from decimal import Decimal
    from types import FrameType

    from IPython.core.interactiveshell import InteractiveShell

    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.cache.completion import Completion
    from or_cache_magic.core.policy import Policy
    from or_cache_magic.core.records import Outcome, Request
    from or_cache_magic.core.settings import Settings
    from or_cache_magic.display.screen import Screen
    from or_cache_magic.money.estimate import Estimate
    from or_cache_magic.notebook.session import Session

__all__ = [
    "ask_cell",
    "ask_line",
    "deliver",
    "estimate_text",
    "keeps_result",
    "preview_line",
    "request_params",
]

_SHOWN = 10
"""Hex digits of a key that are shown."""


def preview_line(cache: CompletionCache, request: Request, policy: Policy) -> str:
    """Whether a request would hit, or what asking it may cost. Sends no prompt; prices may be looked up."""
    key, row, why = cache.peek(request, policy)
    where = f"{request.body['model']} · key {key[:_SHOWN]}"
    if row is None:
        estimate = cache.money.estimate(request)
        return f"would ask {where} · {why} · {estimate_text(estimate)} · nothing sent"
    age = format_age(time.time() - row.created_s)
    return f"would hit {where} · cached {age} · bought for {format_usd(row.cost.usd)} · nothing sent"


def estimate_text(estimate: Estimate) -> str:
    """What a call may cost: ``$0.0000021 to $0.0025 (≈ 14 → at most 4,096 tokens, prices of 2026-11-23)``."""
    tokens, most = estimate.prompt_tokens, estimate.completion_tokens[1]
    limit = "no limit known" if most is None else f"at most {most:,}"
    counted = f"≈ {tokens.likely:,} → {limit} tokens"
    if estimate.high_usd is None:
        low = f"at least {format_usd(estimate.low_usd)}, " if estimate.low_usd else ""
        return f"{low}upper cost unknown: {estimate.unknown_why} ({counted})"
    dated = ""
    if estimate.listed_s is not None:
        dated = f", prices of {time.strftime('%Y-%m-%d', time.localtime(estimate.listed_s))}"
    low, high = format_usd(estimate.low_usd), format_usd(estimate.high_usd)
    return f"{low if low == high else f'{low} to {high}'} ({counted}{dated})"


_RUNNERS: Final = ("run_line_magic", "run_cell_magic")
_PRINT: Final = 1
"""The argument of ``CALL_INTRINSIC_1`` that shows an expression's value (Python 3.12 and later)."""


def keeps_result() -> bool:
    """Whether the code that runs the magic goes on with its value: binds, passes or returns it.

    False where the value ends: an expression that stands alone, in a cell, a loop, a function, below
    ``%%time``.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - its documented use: who called
    while frame is not None and frame.f_code.co_name not in _RUNNERS:
        frame = frame.f_back
    caller = frame and frame.f_back
    if caller is None:
        return True
    code, at = caller.f_code.co_code, caller.f_lasti + 2
    while dis.opname[code[at]] == "CACHE":
        at += 2
    following = dis.opname[code[at]]
    if following == "RETURN_VALUE":
        # Only an expression compiled on its own returns from a module: that of %time, which hands it on.
        return caller.f_code.co_name != "<module>"
    shown = following == "CALL_INTRINSIC_1" and code[at + 1] == _PRINT
    return not shown and following not in ("POP_TOP", "PRINT_EXPR")


def deliver(shell: InteractiveShell, value: object) -> None:
    """Makes a value that is on the screen already `_` and ``Out[n]``, as showing it would."""
    hook: Any = shell.displayhook
    hook.update_user_ns(value)
    hook.fill_exec_result(value)


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
    from or_cache_magic.core.callbacks import Callbacks

    screen.begin()
    try:
        callbacks = Callbacks(screen.feed if request.stream else None, screen.wait)
        return cache.run(request, policy, callbacks, max_cost_usd=max_cost_usd)
    except BaseException:
        screen.finish()
        raise


def _parse(completion: Completion, form: str) -> None:
    """Parses the answer where its caller wants data of it.

    Raises:
        FormatError: It is not in that form. It is kept, bound and shown all the same.
    """
    if form not in ("json", "df"):
        return
    from or_cache_magic.display.answer import parse_json, parse_table

    try:
        completion.attach(parse_json(completion) if form == "json" else parse_table(completion))
    except ValueError as exc:
        stored = completion.outcome.stored
        kept = "it is kept, and running again is free" if stored else "it is paid for, and not stored"
        raise FormatError(
            f"the answer can't be read as {form}: {exc} ({kept})",
            "ask for the form in the prompt, or take the text from %openrouter_last",
        ) from None
