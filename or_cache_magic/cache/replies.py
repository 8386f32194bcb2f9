"""What replies to an answer: shown as a tree, and asked again when the answer has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.cache.conversation import assistant_turn, sendable, split_system, turns_with
from or_cache_magic.cache.request import policy_for
from or_cache_magic.core.chat import as_mapping, messages_of
from or_cache_magic.core.key import canonical_json, request_key
from or_cache_magic.core.records import FREE, Answer, Cost, Request
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.core.settings import Ask, Settings
from or_cache_magic.errors import (
    BudgetError,
    CacheMissError,
    MissingKeyError,
    OrCacheError,
    RequestError,
    StoreError,
)

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.media import Attached
    from or_cache_magic.core.rows import EntryRow
    from or_cache_magic.money.budget import Limit
    from or_cache_magic.storage.entries import DiskStore

_DEEPEST: Final = 200
"""Turns of a conversation that are followed."""

_MOST_LINES: Final = 100


class Asked(NamedTuple):
    """An answer that can be replied to: its key, its request and itself."""

    key: str
    request: Request
    answer: Answer


class Turn(NamedTuple):
    """A reply that is stored, perhaps several times: to the answer before it, and to earlier ones.

    Attributes:
        request: As it was asked last.
        tags: The labels that its entry has.
        attached: What its entry says was attached.
        system: Its system prompt.
        own: Its own messages: what it added to the conversation.
        replies: What replies to it.
    """

    request: Request
    tags: tuple[str, ...]
    attached: tuple[Attached, ...]
    system: list[Any]
    own: list[Any]
    replies: tuple[Turn, ...]

    def all(self) -> Iterator[Turn]:
        """Yield it and all that replies to it, in the order in which they are asked."""
        yield self
        for reply in self.replies:
            yield from reply.all()


class Again(NamedTuple):
    """What asking replies again came to: how many were bought and served, their cost, why others failed."""

    bought: int = 0
    cached: int = 0
    paid: Cost = FREE
    failures: tuple[str, ...] = ()


def replies_to(store: DiskStore, ask: Ask) -> tuple[Turn, ...]:
    """Return what is stored as a reply to the answers of an ask, whichever answer that was, and below it.

    Only what was asked of the same API: nothing in a file decides where the key is sent.
    """
    return _below(store, [(ask.key.digest, ask.request)], ask.settings.base_url, {ask.key.digest}, 0)


def _below(
    store: DiskStore, parents: Sequence[tuple[str, Request]], base_url: str, seen: set[str], depth: int
) -> tuple[Turn, ...]:
    """Return the replies to any of the parents, which are one turn asked at different times."""
    groups: dict[bytes, list[tuple[str, Request]]] = {}
    own: dict[bytes, _Parts] = {}
    for parent, asked in parents if depth < _DEEPEST else ():
        for key in store.replies.of(parent):
            with suppress(StoreError, RequestError):  # what is damaged is not asked again
                request = None if key in seen else store.asked(key)
                if request is not None and request.base_url == base_url:
                    seen.add(key)
                    parts = _parts(request, asked)
                    body = {**request.body, "messages": [parts.system, parts.own], "sample": request.sample}
                    mark = canonical_json(body)
                    if parts.own:
                        groups.setdefault(mark, []).append((key, request))
                        own[mark] = parts
    return tuple(
        Turn(
            group[-1][1],
            *_labels(store, group[-1][0]),
            own[mark].system,
            own[mark].own,
            _below(store, group, base_url, seen, depth + 1),
        )
        for mark, group in groups.items()
    )


def _labels(store: DiskStore, key: str) -> tuple[tuple[str, ...], tuple[Attached, ...]]:
    """Return what an entry is labelled with, and what was attached to its request."""
    with suppress(StoreError):
        if (entry := store.entry(key)) is not None:
            return entry.tags, entry.attached
    return (), ()


class _Parts(NamedTuple):
    """A reply's system prompt, the answer it goes on from, and its own messages; none if it is no reply."""

    system: list[Any]
    answer: Any
    own: list[Any]


def _parts(request: Request, parent: Request) -> _Parts:
    system, turns = split_system(messages_of(request.body))
    before = len(split_system(messages_of(parent.body))[1])
    answer = as_mapping(next(iter(turns[before:]), None))
    return _Parts(system, answer, turns[before + 1 :] if answer.get("role") == "assistant" else [])


def ask_for(turn: Turn, parent: Asked, settings: Settings, prompt_cache: str = "") -> Ask:
    """Return what asks a turn again, as a reply to this answer.

    Raises:
        RequestError: The answer can't be replied to so.
    """
    body = turn.request.body
    before = turns_with(parent.request.body, parent.answer, turn.own, str(body.get("model")))
    messages = [*sendable(turn.system), *before, *sendable(turn.own)]
    request = turn.request._replace(
        body={**body, "messages": messages}, stream=settings.stream, prompt_cache=prompt_cache
    )
    # What was stored may be stored again, whatever its temperature.
    policy = policy_for(settings, mode="normal", sample=request.sample, tags=turn.tags)
    return Ask(request_key(request), request, policy, settings, parent.key, turn.attached)


def outdated(
    cache: CompletionCache, turns: Sequence[Turn], parent: Asked | None, settings: Settings
) -> list[Turn]:
    """Return the turns that would be asked if all were, as replies to this answer; None is one to come."""
    found: list[Turn] = []
    for turn in turns:
        known = None if parent is None else _stored(cache, turn, parent, settings)
        found += list(turn.all()) if known is None else outdated(cache, turn.replies, known, settings)
    return found


def _stored(cache: CompletionCache, turn: Turn, parent: Asked, settings: Settings) -> Asked | None:
    with suppress(RequestError, StoreError):
        ask = ask_for(turn, parent, settings)
        entry = None if cache.engine.why_asked(ask) is not None else cache.store.get(ask.key)
        return None if entry is None else Asked(ask.key.digest, ask.request, entry.answer)
    return None


def ask_again(
    cache: CompletionCache,
    turns: Sequence[Turn],
    parent: Asked,
    settings: Settings,
    *,
    prompt_cache: str = "",
    limits: Sequence[Limit] = (),
) -> Iterator[Again]:
    """Ask turns again as replies to this answer, and what replies to them; yield what each came to.

    What is stored is served. A turn that fails leaves out what replies to it, and stops no other.

    Raises:
        BudgetError: A limit is reached; what was bought is kept.
        MissingKeyError: There is no API key.
    """
    for turn in turns:
        try:
            ask = ask_for(turn, parent, settings, prompt_cache)
            outcome = cache.run(ask, limits=limits)
        except (BudgetError, MissingKeyError, CacheMissError):
            raise
        except OrCacheError as exc:
            yield Again(failures=(str(exc.args[0]),))
            continue
        yield Again(int(not outcome.served), int(outcome.served), outcome.paid)
        now = Asked(ask.key.digest, ask.request, outcome.answer)
        yield from ask_again(cache, turn.replies, now, settings, prompt_cache=prompt_cache, limits=limits)


class Line(NamedTuple):
    """One line of a conversation as it is shown.

    Attributes:
        depth: How many answers are above it.
        key: Its key.
        row: Its entry as it is listed; None when it is not stored.
        earlier: Whether it goes on from an answer that was replaced since.
    """

    depth: int
    key: str
    row: EntryRow | None
    earlier: bool


def conversation(store: DiskStore, key: str) -> list[Line]:
    """Return the conversation that an entry is a part of: what it replies to, itself, what replies to it.

    At most 100 lines; empty where it is alone.
    """
    above: list[str] = [key]
    while len(above) < _DEEPEST and (parent := store.replies.parent(above[0])) and parent not in above:
        above.insert(0, parent)
    chain = [*enumerate(above), *_listed(store, key, len(above), {*above})][: _MOST_LINES + len(above)]
    if len(chain) == 1:
        return []
    rows = {row.key: row for row in store.listing.find(EntryFilter(keys=tuple(found for _, found in chain)))}
    lines: list[Line] = []
    for depth, found in chain:
        before = next((line.key for line in reversed(lines) if line.depth == depth - 1), None)
        lines.append(
            Line(depth, found, rows.get(found), before is not None and _is_earlier(store, before, found))
        )
    return lines


def _listed(store: DiskStore, key: str, depth: int, seen: set[str]) -> Iterator[tuple[int, str]]:
    for reply in store.replies.of(key) if depth < _DEEPEST else ():
        if reply not in seen and len(seen) < _DEEPEST + _MOST_LINES:
            seen.add(reply)
            yield depth, reply
            yield from _listed(store, reply, depth + 1, seen)


def _is_earlier(store: DiskStore, parent: str, reply: str) -> bool:
    """Return whether a reply goes on from another answer than its parent has now."""
    with suppress(StoreError):
        entry, asked, request = (
            store.entry(parent),
            store.asked(parent),
            store.asked(reply),
        )
        if entry is None or asked is None or request is None or not entry.answer.choices:
            return False
        same = request.body.get("model") == asked.body.get("model")
        turn = assistant_turn(entry.answer.choices[0].message, same_model=same)
        return dict(_parts(request, asked).answer) != turn
    return False
