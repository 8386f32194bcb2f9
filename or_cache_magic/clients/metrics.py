"""What a completion cache has done, as Prometheus reads it: text, of counters that only grow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from or_cache_magic.core.rows import Totals

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_KINDS: Final = (
    "hits",
    "misses",
    "refreshes",
    "bypasses",
    "coalesced",
    "replays",
    "stale",
    "similar",
    "failed",
)
_SUMS: Final[Mapping[str, str]] = {
    "paid_usd": "US dollars paid, as far as known.",
    "saved_usd": "US dollars that hits saved, as far as known.",
    "unpriced": "Asks whose price is not known.",
    "prompt_tokens": "Tokens of prompts that were bought.",
    "completion_tokens": "Tokens of answers that were bought.",
}


def metrics(totals: Iterable[Totals], served: Mapping[tuple[str, int], int], *, under_way: int) -> str:
    """Return the page.

    Args:
        totals: Of the whole ledger, by model.
        served: How many requests this process answered, by path and status.
        under_way: How many calls are under way.
    """
    sums = list(totals)
    asked = [({"model": one.group, "kind": kind}, getattr(one, kind)) for one in sums for kind in _KINDS]
    requests = [({"path": path, "status": status}, count) for (path, status), count in served.items()]
    lines = [*_family("asks_total", "counter", "Asks by what became of them.", asked)]
    for name, text in _SUMS.items():
        values = [({"model": one.group}, getattr(one, name)) for one in sums]
        lines += _family(f"{name}_total", "counter", text, values)
    lines += _family("requests_total", "counter", "Requests this server answered.", requests)
    lines += _family("calls_under_way", "gauge", "Calls that are under way now.", [({}, under_way)])
    return "\n".join([*lines, ""])


def _family(
    name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, Any], Any]]
) -> Iterator[str]:
    yield f"# HELP or_cache_{name} {text}"
    yield f"# TYPE or_cache_{name} {kind}"
    for labels, value in samples:
        written = ",".join(f'{label}="{_escaped(str(given))}"' for label, given in labels.items())
        number = str(value) if isinstance(value, int) else f"{value:f}"
        yield f"or_cache_{name}{f'{{{written}}}' if written else ''} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
