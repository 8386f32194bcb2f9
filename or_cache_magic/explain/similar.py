"""The stored answer to a prompt that asks the same in other letters: suggested, or served where a cell says.

All of the two requests but the text of the last message is the same: models, system prompt, history,
parameters, schema, attachments, sample. Of those, what `similar_guard` has nothing against, and of these the
one most alike: by its letters, or by the vectors of both. How alike they are never overrules the guard.

A similar answer that is served stays what it is: the answer to another request, under that one's key. It is
counted as a kind of its own, with nothing saved: nobody knows what this prompt would have cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import CORRECTION, as_mapping, messages_of
from or_cache_magic.core.key import request_key
from or_cache_magic.core.policy import notes_on, why_no_lookup, why_not_served
from or_cache_magic.core.records import FREE, Entry, Outcome, Request
from or_cache_magic.core.units import ZERO_USD, format_age
from or_cache_magic.display.escape import one_line
from or_cache_magic.errors import CacheMissError, OptionError, OrCacheError
from or_cache_magic.explain.nearest import SKETCH_BYTES, same_but_prompt, sketch
from or_cache_magic.explain.similar_guard import form_of, likeness
from or_cache_magic.storage.sketches import SketchTable, without_media

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.settings import Ask, Settings

OVERHEAD: Final = "similar"
"""The label in the ledger of vectors that were bought to compare prompts."""

SUGGESTED: Final = 0.8
"""So much alike is what a receipt suggests."""

_READ: Final = 200
"""Requests that are looked at, those first whose letters are nearest."""

_KEY_DIGITS: Final = 10
_PROMPT_WIDTH: Final = 60

Vectors = Callable[[list[str]], Any]
"""Gives a vector for each text, in their order."""


class Similar(NamedTuple):
    """A stored answer whose prompt asks the same in other letters.

    Attributes:
        entry: The answer, under its own key.
        request: What it answers.
        prompt: The text of its last message.
        likeness: How alike the two prompts are, up to 1.
    """

    entry: Entry
    request: Request
    prompt: str
    likeness: float

    @property
    def shown(self) -> str:
        """The likeness with two digits, rounded down: what is not the same is never 1.00."""
        return f"{min(math.floor(self.likeness * 100), 99) / 100:.2f}"


def similar(
    cache: CompletionCache, request: Request, *, least: float, vectors: Vectors | None = None
) -> Similar | None:
    """Return the stored answer to the prompt that is most alike to a request's, and asks the same; else None.

    Args:
        cache: Where it is looked for.
        request: What was asked.
        least: How alike it must be at least.
        vectors: Gives the vectors by which that is measured; None measures by letters.

    Raises:
        StoreError: The cache can't be read.
    """
    prompt = _prompt(request)
    found = [] if prompt is None else list(_asking_the_same(cache, request, prompt))
    if prompt is None or not found:
        return None
    prompts = [one.prompt for one in found]
    scores = (
        [likeness(prompt, other) for other in prompts]
        if vectors is None
        else _cosines(vectors, [prompt, *prompts])
    )
    alike = [one._replace(likeness=score) for one, score in zip(found, scores, strict=True)]
    best = max(alike, key=lambda one: (one.likeness, one.entry.created_s))
    return best if best.likeness >= least else None


def _asking_the_same(cache: CompletionCache, request: Request, prompt: str) -> Iterator[Similar]:
    """Yield what is stored, not expired, and the same but for what a prompt may differ in."""
    table = SketchTable(cache.database, sketch, SKETCH_BYTES)
    form, rest = form_of(prompt), request_key(_without_prompt(request))
    rows = same_but_prompt(table.read(), sketch(without_media(request).body), _READ)
    for candidate in table.candidates(rows):
        theirs = _prompt(candidate.request)
        if theirs is None or theirs == prompt or form_of(theirs) != form:
            continue
        asked = cache.store.asked(candidate.key)  # whole: media decides too
        if asked is None or request_key(_without_prompt(asked)) != rest:
            continue
        key = request_key(asked)
        entry = cache.store.get(key) if key.digest == candidate.key else None
        if entry is not None and why_not_served(entry, cache.clock()) is None:
            yield Similar(entry, asked, theirs, 0.0)


def _prompt(request: Request) -> str | None:
    """Return the text of the last message, a user's; None where it has none, or a correction.

    What is attached stands behind the text, as parts of their own.
    """
    messages = messages_of(request.body)
    content = messages[-1].get("content") if messages and messages[-1].get("role") == "user" else None
    if isinstance(content, (list, tuple)) and content:
        first = as_mapping(content[0])
        content = first.get("text") if first.get("type") == "text" else None
    if not isinstance(content, str) or not content.strip() or content.startswith(CORRECTION):
        return None
    return content


def _without_prompt(request: Request) -> Request:
    """Return a request whose `_prompt` is empty."""
    *before, last = request.body["messages"]
    content = last["content"]
    emptied = "" if isinstance(content, str) else [{**content[0], "text": ""}, *content[1:]]
    return request._replace(body={**request.body, "messages": [*before, {**last, "content": emptied}]})


# By vectors


def vectors_for(cache: CompletionCache, settings: Settings, mode: str = "normal") -> Vectors | None:
    """Return what gives vectors under the settings; None where letters are compared.

    Those of a model at OpenRouter are bought once, within the budgets, and are in the ledger with a label.
    """
    if settings.similar != "semantic":
        return None
    given = settings.similar_embed
    if callable(given):
        own: Vectors = given
        return own
    return lambda texts: cache.embed(texts, model=str(given), tag=OVERHEAD, mode=mode)


def _cosines(vectors: Vectors, texts: list[str]) -> list[float]:
    """Return the cosines of the first text's vector with the others'.

    Raises:
        OptionError: What gives them gave none.
    """
    import numpy as np

    found = np.asarray(vectors(texts), dtype=np.float64)
    if found.ndim != 2 or len(found) != len(texts) or not np.isfinite(found).all():  # noqa: PLR2004 - a row a text
        raise OptionError(
            f"similar_embed gave no {len(texts)} vectors, but an array of shape {found.shape}",
            "it takes a list of texts, and returns a list of as many vectors of one length",
        )
    lengths = np.linalg.norm(found, axis=1)
    lengths[lengths == 0] = np.inf  # a vector of nothing is like nothing
    units = found / lengths[:, None]
    return [float(cosine) for cosine in units[1:] @ units[0]]


# For a cell, and for `why`


def told(cache: CompletionCache, request: Request) -> list[str]:
    """Return what `why` says of similar prompts, a line or none; buys no vectors."""
    settings = cache.settings
    if settings.similar == "off":
        return []
    try:
        found = similar(cache, request, least=SUGGESTED, vectors=vectors_for(cache, settings, "offline"))
    except CacheMissError:
        found = similar(cache, request, least=SUGGESTED)
    if found is None:
        return []
    age = format_age(cache.clock() - found.entry.created_s)
    which = f"{found.entry.key.digest[:_KEY_DIGITS]} ({one_line(found.prompt, _PROMPT_WIDTH)})"
    return [f"asked {found.shown}-similar {age}: {which}; --similar {found.shown} on the cell serves it"]


def suggestion(cache: CompletionCache, ask: Ask) -> str:
    """Return what a receipt says after a miss, where the setting ``similar`` is on; empty is nothing.

    Never raises: the answer is paid for.
    """
    found, trouble = _looked_for(cache, ask, SUGGESTED)
    if found is None:
        return trouble
    age = format_age(cache.clock() - found.entry.created_s)
    return f"asked {found.shown}-similar {age}: %openrouter_why"


def serve(cache: CompletionCache, ask: Ask, least: float) -> Outcome | None:
    """Return the outcome of an ask that a similar answer serves, counted as such; None where none does.

    None also where the cache has the answer to the very prompt, which `CompletionCache.run` serves.

    Args:
        cache: Where it is looked for.
        ask: What was asked.
        least: How alike the prompts must be at least.
    """
    if not cache.peek(ask)[1]:
        return None
    found, trouble = _looked_for(cache, ask, least)
    if found is None:
        if trouble:
            cache.database.tell(trouble)
        return None
    entry, how = found.entry, "by vectors" if ask.settings.similar == "semantic" else "by letters"
    said = one_line(found.prompt, _PROMPT_WIDTH)
    notes = (
        f"NOT the same prompt: {found.shown}-similar {how} to {entry.key.digest[:_KEY_DIGITS]} ({said})",
        "to ask this one: no --similar",
    )
    outcome = Outcome(
        "similar",
        entry.key,
        entry.answer,
        stored=True,
        notes=(*notes, *notes_on(found.request, entry.answer)),
        entry_created_s=entry.created_s,
        paid=FREE,
        saved_usd=ZERO_USD,
        request=found.request,
    )
    cache.ledger.count(ask._replace(key=entry.key), outcome)
    cache.last_unserved = (ask, None, cache.clock())
    return outcome


def _looked_for(cache: CompletionCache, ask: Ask, least: float) -> tuple[Similar | None, str]:
    """Return what is similar, and what kept from looking; whatever goes wrong leaves the ask as it was."""
    mode = ask.policy.mode
    if mode not in ("normal", "offline") or why_no_lookup(ask.request, ask.policy) is not None:
        return None, ""
    unserved = cache.last_unserved  # vectors that are bought are no ask of the user's
    try:
        vectors = vectors_for(cache, ask.settings, mode)
        return similar(cache, ask.request, least=least, vectors=vectors), ""
    except OrCacheError as exc:
        return None, f"similar prompts were not looked for: {one_line(str(exc.args[0]), 120)}"
    except Exception as exc:  # noqa: BLE001 - of the user's function
        return None, f"similar prompts were not looked for: {one_line(repr(exc), 120)}"
    finally:
        cache.last_unserved = unserved
