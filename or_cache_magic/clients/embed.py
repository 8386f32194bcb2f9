"""`embed`: texts as vectors, through the completion cache; each text an entry, many of them in a request."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.cache.request import Usd, build_request, parse_limit, policy_for
from or_cache_magic.core.callbacks import Callbacks, Cancel, Pacing
from or_cache_magic.core.key import request_key
from or_cache_magic.core.options import OPTIONS, plain
from or_cache_magic.core.records import FREE, Cost, Outcome
from or_cache_magic.core.settings import Ask, Settings
from or_cache_magic.core.slips import refuse_key
from or_cache_magic.core.units import ZERO_USD
from or_cache_magic.errors import OptionError, ReplayMiss, RequestError
from or_cache_magic.money.budget import BudgetTracker, Limit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from or_cache_magic.cache.cache import CompletionCache

_MOST_TEXTS: Final = 96
"""So many are in one request: what all providers take."""

_MOST_CHARS: Final = 200_000
"""In one request; some providers take 300,000 tokens, others less. A longer text goes alone."""

_PACING: Final = Pacing(4, 16)
"""So many requests are sent at a time."""

_OURS: Final = ("model", "input", "encoding_format", "stream")


def embed(
    cache: CompletionCache,
    texts: str | Sequence[str],
    *,
    model: str,
    max_cost_usd: Usd | None = None,
    extra: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> NDArray[np.float32]:
    """See `or_cache_magic.embed`."""
    import numpy as np

    given = _texts_in(texts)
    fields = {name: options.pop(name) for name in ("dimensions", "input_type", "provider") if name in options}
    if not isinstance(extra, Mapping):
        raise OptionError(
            f"extra is a {type(extra).__name__} (nothing was sent)", "give a dict of other fields: extra={…}"
        )
    if taken := [name for name in _OURS if name in extra]:
        raise OptionError(
            f"extra can't set {taken[0]} (nothing was sent)", "it has other fields of the request"
        )
    try:
        named: dict[str, Any] = {
            name: plain(value, name) for name, value in fields.items() if value is not None
        }
    except ValueError as exc:
        raise OptionError(f"{exc} (nothing was sent)") from None
    asks = asks_of({**extra, **named, "model": model}, given, cache.settings, options)
    outcomes = vectors_of(cache, asks, parse_limit(max_cost_usd))
    rows = [np.frombuffer(vector_in(outcomes[ask.key.digest]), dtype="<f4") for ask in asks]
    if len({row.size for row in rows}) > 1:
        sizes = " and ".join(f"{size:,}" for size in sorted({row.size for row in rows}))
        raise RequestError(
            f"{model} gave vectors of {sizes} numbers",
            "it has changed: ask with mode='refresh', or give dimensions=",
        )
    found = np.array(rows, dtype=np.float32) if rows else np.empty((0, 0), np.float32)
    return found[0] if isinstance(texts, str) else found


def _texts_in(given: Any) -> list[Any]:
    """Return the texts of a list or a column; of a table nobody says which column is meant."""
    if isinstance(given, str):
        return [given]
    is_list = isinstance(given, Iterable) and not isinstance(given, (Mapping, bytes, bytearray))
    if not is_list or hasattr(given, "columns"):
        raise RequestError(
            f"a {type(given).__name__} is no list of texts (nothing was sent)",
            "give a list of them, or a column: table['text']",
        )
    return list(given)


def asks_of(
    body: Mapping[str, Any], texts: Sequence[Any], settings: Settings, options: Mapping[str, Any]
) -> list[Ask]:
    """Return the ask for each text, the same for equal ones.

    Args:
        body: The fields of the request, without the texts.
        texts: Of which vectors are asked for.
        settings: In force.
        options: ``mode``, ``ttl`` and ``tag``; None is not given.

    Raises:
        RequestError: A text is none, or empty; or a field can't be sent.
        OptionError: An unknown option, or a value that it does not take.
    """
    if other := next(
        (name for name in ("messages", "prompt", "stream") if body.get(name, False) is not False), ""
    ):
        # With messages it would have the key of a completion.
        raise RequestError(f"a request for vectors has no {other} (nothing was sent)", "leave it out")
    if not isinstance(body["model"], str) or not body["model"]:
        raise OptionError("no model was named (nothing was sent)", "name one: openai/text-embedding-3-small")
    read = _options(options)
    policy = policy_for(settings, mode=read.get("mode"), ttl_s=read.get("ttl"), tags=read.get("tag"))
    size = body.get("dimensions")
    if size is not None and (type(size) is not int or size < 1):
        raise OptionError(f"dimensions is {size!r:.50} (nothing was sent)", "give a whole number from 1")
    common = {**body, "model": settings.aliases.get(body["model"], body["model"])}
    found: dict[str, Ask] = {}
    for place, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            what = "is empty" if isinstance(text, str) else f"is a {type(text).__name__}, and no text"
            raise RequestError(f"text {place} {what} (nothing was sent)", "leave it out, or put a text there")
        if text not in found:
            sent = {**common, "input": text}
            refuse_key(sent)
            request = build_request(sent, settings, stream=False)
            found[text] = Ask(request_key(request), request, policy, settings)
    return [found[text] for text in texts]


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    read = {}
    for name, value in options.items():
        if name not in ("mode", "ttl", "tag"):
            raise OptionError(
                f"embed takes no {name} (nothing was sent)",
                "it takes model, dimensions, input_type, provider, mode, ttl, tag, max_cost_usd and extra",
            )
        if value is not None:
            try:
                read[name] = OPTIONS[name](value)
            except ValueError as exc:
                raise OptionError(f"{name}: {exc} (nothing was sent)") from None
    return read


def vectors_of(
    cache: CompletionCache, asks: Sequence[Ask], limit_usd: Decimal | None = None
) -> dict[str, Outcome]:
    """Return the outcome of each different ask by its key: stored ones, and the others bought.

    What is bought is kept, also when one of the requests fails or is interrupted.

    Raises:
        ReplayMiss: Offline, and not all are stored.
        BudgetError: A request may cost more than a limit leaves.
        UpstreamError: A request was refused, or failed.
    """
    outcomes: dict[str, Outcome] = {}
    missing: dict[str, Ask] = {}
    for ask in asks:
        digest = ask.key.digest
        if digest not in outcomes and digest not in missing:
            found = cache.stored(ask)
            if found is None:
                missing[digest] = ask
            else:
                outcomes[digest] = found
    if missing and asks[0].policy.mode == "offline":
        return outcomes | _stored_elsewhere(cache, list(missing.values()), len(missing) + len(outcomes))
    for outcome in _bought(cache, list(missing.values()), limit_usd):
        outcomes[outcome.key.digest] = outcome
    return outcomes


def _stored_elsewhere(cache: CompletionCache, asks: Sequence[Ask], total: int) -> dict[str, Outcome]:
    """Return what the shared server has; raises the first text's miss as that of all that are nowhere."""
    found: dict[str, Outcome] = {}
    misses: list[ReplayMiss] = []
    for ask in asks:
        try:
            found[ask.key.digest] = cache.run(ask)
        except ReplayMiss as miss:
            misses.append(miss)
    if misses:
        which = f"{len(misses):,} of {total:,} vectors are not stored"
        misses[0].args = (f"offline, and {which} (nothing was sent); the first is of {misses[0].prompt!r}",)
        raise misses[0]
    return found


def _bought(cache: CompletionCache, asks: Sequence[Ask], limit_usd: Decimal | None) -> Iterator[Outcome]:
    if not asks:
        return
    limits = [] if limit_usd is None else [Limit("max_cost_usd", limit_usd, BudgetTracker())]
    cancel = Cancel()
    callbacks = Callbacks(cancel=cancel, pacing=_PACING)
    requests = list(_requests(asks))
    with ThreadPoolExecutor(min(len(requests), _PACING.most), thread_name_prefix="or-cache-embed") as pool:
        futures = [pool.submit(_buy, cache, some, callbacks, limits) for some in requests]
        try:
            # In short waits, which an interrupt ends on every system.
            while wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION).not_done:
                if any(future.done() and future.exception() for future in futures):
                    break
        except BaseException:
            cancel.set()
            raise
        finally:
            for future in futures:
                future.cancel()
    # What was under way when another failed has come to its end, and is kept.
    for future in futures:
        if not future.cancelled():
            yield from future.result()


def _requests(asks: Sequence[Ask]) -> Iterator[list[Ask]]:
    some: list[Ask] = []
    chars = 0
    for ask in asks:
        size = len(ask.request.body["input"])
        if some and (len(some) == _MOST_TEXTS or chars + size > _MOST_CHARS):
            yield some
            some, chars = [], 0
        some.append(ask)
        chars += size
    yield some


def _buy(
    cache: CompletionCache, asks: Sequence[Ask], callbacks: Callbacks, limits: Sequence[Limit]
) -> list[Outcome]:
    callbacks.cancel.check() if callbacks.cancel is not None else None
    settings = asks[0].settings
    budgets = (settings.max_cost_usd, settings.max_cost_per_day_usd)
    guard = cache.money.guard(settings, None, limits) if limits or budgets != (None, None) else None
    with guard or nullcontext():
        over = callbacks if guard is None else guard.over(callbacks)
        outcomes = cache.buy_vectors(asks, over)
        if guard is not None:
            guard.paid = paid_for_all(outcomes)
    return outcomes


def paid_for_all(outcomes: Sequence[Outcome]) -> Cost:
    """Return what outcomes were charged together; unknown where one is."""
    paid = [outcome.paid.usd for outcome in outcomes if outcome.made_call]
    if not paid:
        return FREE
    return Cost(None, "unknown") if None in paid else Cost(sum(filter(None, paid), ZERO_USD), "reported")


def vector_in(outcome: Outcome) -> bytes:
    """Return a vector as little-endian float32."""
    return binascii.a2b_base64(outcome.answer.choices[0].message["embedding"])
