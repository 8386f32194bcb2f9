"""What a report tells: the rows of a ledger, and the kept answers, of one notebook or of all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import as_list, as_mapping, messages_of
from or_cache_magic.core.policy import COMPARED, FILTERED, NO_FIT, NO_JSON, REFUSED
from or_cache_magic.core.records import MADE_CALL
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import OptionError, near_name, one_line
from or_cache_magic.storage.entries import MAY_BE_SERVED
from or_cache_magic.storage.sketches import without_media
from or_cache_magic.storage.totals import Sums, amounts
from or_cache_magic.storage.transfer import kept_of, keys_of

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.media import Attached
    from or_cache_magic.core.records import Cost, Usage
    from or_cache_magic.core.rows import LedgerRow, Totals
    from or_cache_magic.storage.transfer import Kept

_NOT_PARAMETERS: Final = ("model", "messages", "input")
_NAMED: Final = 5
_ALIKE: Final = 8
"""Prompts begin or end alike where so many characters are the same, and they are `_SEVERAL`."""
_SEVERAL: Final = 3
_GROUPS: Final = (
    (REFUSED, "refused"),
    (FILTERED, "refused"),
    ("the answer was cut", "cut"),
    ("the answer did not finish", "cut"),
    ("the provider says that the answer did not finish well", "cut"),
    ("the answer holds an error", "failed"),
    (NO_JSON, "not as asked"),
    (NO_FIT, "not as asked"),
    ("the arguments of a tool call are not JSON", "not as asked"),
    (COMPARED, "asked again"),
)


class Given(NamedTuple):
    """An answer that is kept, and its request.

    Attributes:
        key: 64 hex digits.
        at_s: When it was whole.
        model: The model that was asked for; empty is none.
        served_by: The model that answered; empty is unknown.
        provider: Empty is unknown.
        system: The system prompt; None is none.
        prompt: All else that was said to the model.
        parameters: The other fields of the request, by name, each as JSON.
        sample: Which sample of the request.
        base_url: Where it was asked.
        attached: What went with it.
        usage: None is unknown.
        cost: What it cost when it was bought.
        reason: Why it is not served; empty where it is.
        expires_s: Until when it is served; None is for ever.
    """

    key: str
    at_s: float
    model: str
    served_by: str
    provider: str
    system: str | None
    prompt: str
    parameters: tuple[tuple[str, str], ...]
    sample: int
    base_url: str
    attached: tuple[Attached, ...]
    usage: Usage | None
    cost: Cost
    reason: str
    expires_s: float | None


def group_of(reason: str) -> str:
    """Return in a word why an answer is not served: ``refused``, ``cut``, …; empty where it is."""
    if not reason or reason in MAY_BE_SERVED:
        return reason and "superseded"
    return next((group for begins, group in _GROUPS if reason.startswith(begins)), "other")


class Shared(NamedTuple):
    """How prompts begin and end that differ in between, as those of one template do."""

    begins: str
    ends: str
    prompts: tuple[str, ...]


def shared_texts(prompts: Iterable[str]) -> Iterator[Shared]:
    """Yield what several different prompts have in common: of those that begin alike, then that end alike."""
    left = list(dict.fromkeys(prompts))
    for part in (slice(None, _ALIKE), slice(-_ALIKE, None)):
        groups: dict[str, list[str]] = {}
        for prompt in left:
            groups.setdefault(prompt[part], []).append(prompt)
        left = []
        for some in groups.values():
            if len(some) < _SEVERAL or len(some[0]) < _ALIKE:
                left += some
                continue
            begins = _beginning(some)
            ends = _beginning([prompt[len(begins) :][::-1] for prompt in some])[::-1]
            yield Shared(begins, ends, tuple(some))


def _beginning(texts: Sequence[str]) -> str:
    """Return how all of several texts begin."""
    first, last = min(texts), max(texts)
    differs = (at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return first[: next(differs, len(first))]


class Facts(NamedTuple):
    """All that a report tells.

    Attributes:
        notebook: Whose; empty is the whole folder.
        rows: Of the ledger, the oldest first.
        totals: Their sums.
        given: The answers that are kept, the oldest first.
        keys: Of the requests that have an answer which is served, sorted.
        lost: Keys that are in the ledger, and of which no answer is kept.
        damaged: How many kept answers could not be read.
    """

    notebook: str
    rows: tuple[LedgerRow, ...]
    totals: Totals
    given: tuple[Given, ...]
    keys: tuple[str, ...]
    lost: tuple[str, ...]
    damaged: int

    @property
    def calls(self) -> list[LedgerRow]:
        """The rows of asks that made a call."""
        return [row for row in self.rows if row.kind in MADE_CALL]


def facts_of(cache: CompletionCache, notebook: str) -> Facts:
    """Return what the ledger and the kept answers have of a notebook.

    Args:
        cache: Where they are.
        notebook: As the ledger names it, or the end of that; ``*`` and ``?`` as in a shell; empty,
            and ``*`` alone, is the whole folder.

    Raises:
        OptionError: There is no such notebook, or several.
        StoreError: The cache can't be read.
    """
    every = cache.ledger.rows()
    stored = dict(cache.store.listing.notebooks())
    names = _meant(notebook, {row.notebook for row in every}.union(stored.values()))
    rows = sorted((row for row in every if names is None or row.notebook in names), key=_order)
    asked = {row.key for row in rows}
    if names is None:
        keys = list(keys_of(cache.database, EntryFilter()))
    else:
        keys = sorted(asked.union(key for key, name in stored.items() if name in names))
    given: list[Given] = []
    damaged = 0
    for key in keys:
        for kept in kept_of(cache.database, cache.store, key):
            if kept is None:
                damaged += 1
            else:
                given.append(_given(kept))
    given.sort(key=lambda one: (one.at_s, one.key, one.reason, one.cost.source))
    return Facts(
        "" if names is None else ", ".join(sorted(filter(None, names))),
        tuple(rows),
        sums_of(rows),
        tuple(given),
        tuple(sorted({one.key for one in given if not one.reason})),
        tuple(sorted(asked.difference(one.key for one in given))),
        damaged,
    )


def sums_of(rows: Iterable[LedgerRow]) -> Totals:
    """Return the sums of rows, as the ledger adds them up."""
    sums = Sums()
    for row in rows:
        sums.add(row.kind, amounts(row))
    return sums.totals("")


def _order(row: LedgerRow) -> tuple[float, str, str, str]:
    return row.at_s, row.key, row.kind, row.session


def _meant(name: str, known: set[str]) -> set[str] | None:
    """Return the notebooks that are meant; None is all of the folder."""
    if name in ("", "*"):
        return None
    path = name.replace("\\", "/").removeprefix("./")
    if any(sign in path for sign in "*?"):
        found = {one for one in known if fnmatchcase(one, path)}
    elif path in known:
        found = {path}
    else:
        ends = (path, f"{path}.ipynb")
        found = {one for one in known if one and any(f"/{one}".endswith(f"/{end}") for end in ends)}
        found = found or {one for one in known if one and path.endswith(f"/{one}")}
        if len(found) > 1:
            raise OptionError(
                f"{one_line(name, 80)} may be {_listed(found)}", "write more of the path, or '*' for all"
            )
    if not found:
        near = near_name(path, filter(None, known))
        hint = f"did you mean {one_line(near, 80)}?" if near else f"it knows {_listed(known)}"
        raise OptionError(f"the ledger has no notebook {one_line(name, 80)}", hint)
    return found


def _listed(names: Iterable[str]) -> str:
    shown = sorted(filter(None, names))
    if not shown:
        return "none by name"
    return ", ".join(one_line(name, 60) for name in shown[:_NAMED]) + (" …" if len(shown) > _NAMED else "")


def _given(kept: Kept) -> Given:
    entry, answer = kept.entry, kept.entry.answer
    request = without_media(kept.request)
    body = request.body
    system, prompt = _said(body)
    return Given(
        key=entry.key.digest,
        at_s=answer.created_s or kept.at_s or entry.created_s,
        model=str(body.get("model", "")),
        served_by=answer.model or "",
        provider=answer.provider or "",
        system=system,
        prompt=prompt,
        parameters=tuple(_parameters(body)),
        sample=request.sample,
        base_url=request.base_url,
        attached=entry.attached,
        usage=answer.usage,
        cost=answer.cost,
        reason=kept.reason,
        expires_s=entry.expires_s,
    )


def _parameters(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in sorted(set(body).difference(_NOT_PARAMETERS)):
        yield name, json.dumps(body[name], ensure_ascii=False)


def _said(body: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return the first system prompt of a request, and all else that it says as one text."""
    messages = messages_of(body)
    first = next((at for at, one in enumerate(messages) if one.get("role") in ("system", "developer")), None)
    system = None if first is None else _text(messages[first])
    others = [one for at, one in enumerate(messages) if at != first]
    if not messages:
        said = body.get("input", "")
        return None, said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    if len(others) == 1 and others[0].get("role") == "user":
        return system, _text(others[0])
    return system, "\n\n".join(f"[{one.get('role', '?')}]\n{_text(one)}" for one in others)


def _text(message: Mapping[str, Any]) -> str:
    """Return what a message says: its text, a word for each part that is none, the calls of tools."""
    content = message.get("content")
    parts = [content] if isinstance(content, str) else [_part(part) for part in as_list(content)]
    calls = [as_mapping(as_mapping(call).get("function")) for call in as_list(message.get("tool_calls"))]
    parts += [f"[calls {call.get('name', '?')}({call.get('arguments', '')})]" for call in calls]
    return "\n".join(parts)


def _part(part: Any) -> str:
    fields = as_mapping(part)
    text = part if isinstance(part, str) else fields.get("text")
    return text if isinstance(text, str) else f"[{fields.get('type', 'a part')}]"
