"""Which entries are listed or purged: conditions as users give them, and what a purge comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.options import shown
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.core.settings import whole
from or_cache_magic.core.units import FOREVER_S, parse_lifetime, parse_size
from or_cache_magic.errors import OptionError, near_name

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache


class Purge(NamedTuple):
    """What a purge removes: how many entries, and what it would cost to buy them again.

    ``cost_usd`` is the sum of what is known; ``unpriced`` counts the entries whose cost isn't. ``size_bytes``
    go, ``rest_bytes`` stay. With `shared` the shared tier is purged too: what it has isn't counted here.
    """

    filter: EntryFilter
    entries: int
    cost_usd: Any
    unpriced: int
    size_bytes: int
    rest_bytes: int
    shared: bool = False

    @property
    def does_nothing(self) -> bool:
        """Whether no entry matches, here or on a server."""
        return not self.entries and not self.shared


def purge_filter(
    now_s: float,
    keys: Sequence[str] = (),
    *,
    all: bool = False,  # noqa: A002 - the design's name
    **conditions: Any,
) -> EntryFilter:
    """Return the filter of a purge; the conditions are those of `entry_filter`.

    Raises:
        OptionError: No condition at all, or `all` with another.
    """
    chosen = entry_filter(now_s, keys=tuple(keys), **conditions)
    if all != chosen.unconditional:
        raise OptionError(
            f"{'all goes with no other condition' if all else 'say what to purge'} (nothing was removed)",
            "name keys, --model, --system, --tag, --prefix, --older, --expired, --to-fit, or --all alone",
        )
    return chosen


def entry_filter(
    now_s: float,
    *,
    keys: tuple[str, ...] = (),
    text: str = "",
    model: str | None = None,
    system: str | None = None,
    tag: str | None = None,
    prefix: str | None = None,
    since: float | str | None = None,
    older: float | str | None = None,
    expired: bool = False,
    to_fit: int | str | None = None,
) -> EntryFilter:
    """Return the filter that these conditions make now; see `CompletionCache.entries` and `purge`.

    Raises:
        OptionError: A time or a size is none.
    """
    texts = (*keys, *(value for value in (text, model, system, tag, prefix) if value is not None))
    if wrong := [value for value in texts if not isinstance(value, str)]:
        raise OptionError(
            f"{shown(wrong[0])} is no text", "keys, text, model, system, tag and prefix are texts"
        )
    return EntryFilter(
        keys=keys,
        text=text,
        model=model or "",
        system=system,
        tag=tag or "",
        prefix=prefix or "",
        created_after_s=None if since is None else now_s - _length_s(since),
        created_before_s=None if older is None else now_s - _length_s(older),
        expired_at_s=now_s if expired else None,
        to_fit_bytes=None if to_fit is None else _size_bytes(to_fit),
        to_fit_at_s=0.0 if to_fit is None else now_s,
    )


CONDITIONS: Final = ("text", "model", "system", "tag", "prefix", "since", "older")
"""What may choose the entries that are exported or verified, beside keys; see `entry_filter`."""


def filter_of(
    cache: CompletionCache, keys: Sequence[str], conditions: Mapping[str, Any], unharmed: str
) -> EntryFilter:
    """Return the filter of keys and `CONDITIONS` by their names; `unharmed` is what has not happened yet.

    Raises:
        OptionError: There is no such condition, or its value is none.
    """
    if others := [name for name in conditions if name not in CONDITIONS]:
        meant = near_name(others[0], CONDITIONS)
        hint = f"did you mean {meant}?" if meant else f"there are: {', '.join(CONDITIONS)}"
        raise OptionError(f"there is no condition {others[0]}; {unharmed}", hint)
    model = cache.model_named(conditions.get("model"))
    return entry_filter(cache.clock(), keys=tuple(keys), **{**conditions, "model": model})


def model_named(name: str | None, known: Sequence[str]) -> str | None:
    """Return the model that a name means among those asked: itself, or the one that it is a part of.

    Raises:
        OptionError: It is a part of several; says which.
    """
    if not isinstance(name, str) or not name or name in known or any(char in name for char in "*?"):
        return name
    lower = name.lower()
    found = [model for model in known if model.lower().endswith(f"/{lower}")]
    found = found or [model for model in known if lower in model.lower()]
    if len(found) > 1:
        raise OptionError(
            f"{name} is a part of {', '.join(found[:5])}", f"name one, or all: --model '*{name}*'"
        )
    return found[0] if found else name


def _length_s(length: Any) -> float:
    try:
        seconds = parse_lifetime(length)
    except ValueError as exc:
        raise OptionError(str(exc), "write 30m, 24h or 7d, or seconds") from None
    if seconds == FOREVER_S:
        raise OptionError(f"{shown(length)} has no end", "write 30m, 24h or 7d, or seconds")
    return seconds


def _size_bytes(size: Any) -> int:
    try:
        return parse_size(size if isinstance(size, str) else f"{whole(0, 2**60)(size)}B")
    except ValueError as exc:
        raise OptionError(f"{exc} (nothing was removed)", "write 500MB or 2GB, or give bytes") from None
