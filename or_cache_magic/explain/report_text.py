"""The sections of a report: the facts of a ledger and its answers as headings, words, tables and quotes.

They are named as the checklists for research with language models name what they ask for; docs/report.md says
which asks for what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, Final, NamedTuple

from or_cache_magic.core.key import KEY_VERSION
from or_cache_magic.core.records import MADE_CALL, SOURCES, Cost
from or_cache_magic.core.units import format_count, format_share, format_size, format_tokens, share_of
from or_cache_magic.display.document import Block, Heading, Quote, Rows, Words
from or_cache_magic.display.tables import Head
from or_cache_magic.explain.report_facts import Facts, Given, group_of, shared_texts, sums_of

_DIGITS: Final = 10
_VALUE_WIDTH: Final = 60
UNKNOWN: Final = "unknown"
_NONE: Final = "none"


class Pack(NamedTuple):
    """The pack that an export of the same entries would write; without a digest, why there is none."""

    sha256: str
    size_bytes: int = 0
    entries: int = 0
    history: int = 0
    why: str = ""


class _Labels(NamedTuple):
    """The labels by which tables name what the supplement shows whole: ``P1``, ``S1``, ``1``."""

    parameters: dict[Any, str]
    systems: dict[Any, str]
    prompts: dict[Any, str]


def sections(facts: Facts, version: str, pack: Pack) -> Iterator[Block]:
    """Yield the blocks of a report: the methods section, then its supplement.

    Args:
        facts: What it tells.
        version: Of this package.
        pack: See `Pack`.
    """
    labels = _Labels(
        _labelled((_set(one) for one in facts.given), "P"),
        _labelled((one.system for one in facts.given if one.system is not None), "S"),
        _labelled((_prompt(one) for one in facts.given), ""),
    )
    yield Heading(1, "Use of language models")
    yield Words(
        "This is what the completion cache recorded of {}: its ledger, and the answers that it keeps. What it"
        " did not record is said to be unknown. Times are UTC. A key names a request; here it has its first"
        f" {_DIGITS} digits, by which the cache and the pack find the whole request and its answers.",
        (facts.notebook or "all notebooks and scripts of its folder",),
    )
    yield from _models(facts)
    yield from _settings(facts, labels)
    yield from _prompts(facts, labels)
    yield from _calls(facts)
    yield from _exclusions(facts)
    yield from _tokens(facts)
    yield from _cost(facts)
    yield from _software(facts, version, pack)
    yield from _supplement(facts, labels)


def _labelled(values: Iterable[Any], letter: str) -> dict[Any, str]:
    return {value: f"{letter}{number}" for number, value in enumerate(dict.fromkeys(values), 1)}


def _set(one: Given) -> tuple[str, tuple[tuple[str, str], ...]]:
    return one.model, one.parameters


def _prompt(one: Given) -> tuple[str, tuple[Any, ...]]:
    return one.prompt, one.attached


def _grouped(given: Iterable[Given], of: Callable[[Given], Any]) -> dict[Any, list[Given]]:
    groups: dict[Any, list[Given]] = {}
    for one in given:
        groups.setdefault(of(one), []).append(one)
    return groups


def _table(heads: str, rows: Iterable[Sequence[str]]) -> Rows:
    """Return a table; a name that begins with ``<`` is of a column that is flush left."""
    named = [Head(name.removeprefix("<"), left=name.startswith("<")) for name in heads.split("; ")]
    return Rows(tuple(named), tuple(map(tuple, rows)))


def _key(key: str) -> str:
    return key[:_DIGITS]


def _moment(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, timezone.utc):%Y-%m-%d %H:%M}"


def _usd(usd: Decimal) -> str:
    """Return an amount with all its digits."""
    return f"{usd.normalize():f}" if usd else "0"


# -- the methods section --------------------------------------------------------------------------


def _models(facts: Facts) -> Iterator[Block]:
    yield Heading(2, "Models and dates")
    of_model: dict[str, list[Any]] = {}
    for row in facts.rows:
        of_model.setdefault(row.model, []).append(row)
    rows = []
    for model, asked in sorted(of_model.items()):
        sums = sums_of(asked)
        called = [row for row in asked if row.kind in MADE_CALL]
        first, last = (_moment(called[at].at_s) if called else _NONE for at in (0, -1))
        counts = (sums.asks, sums.calls, sums.failed, sums.hits)
        rows.append((model or UNKNOWN, first, last, *(f"{count:,}" for count in counts), _key(asked[0].key)))
    if rows:
        yield Words("Models that were asked, with the dates of the calls:")
        heads = "<Model asked; <First call; <Last call; Asks; Calls; Calls failed; Hits; <First key"
        yield _table(heads, rows)
    else:
        yield Words("The ledger has no asks: the answers were bought elsewhere.")
    if not facts.given:
        return
    yield Words(
        "Models that served the answers that are kept, as the replies name them, and their providers:"
    )
    served = _grouped(facts.given, lambda one: (one.model, one.served_by, one.provider))
    yield _table(
        "<Model asked; <Model served; <Provider; Answers; <First answer; <Last answer; <First key",
        (
            (
                *(name or UNKNOWN for name in names),
                f"{len(some):,}",
                _moment(some[0].at_s),
                _moment(some[-1].at_s),
                _key(some[0].key),
            )
            for names, some in sorted(served.items())
        ),
    )


def _settings(facts: Facts, labels: _Labels) -> Iterator[Block]:
    yield Heading(2, "Parameters")
    yield Words(
        "As they were sent. A parameter that is not listed was not sent; what a provider takes for it is"
        " unknown. So are a model's training data, its last date of training and its quantization."
    )
    sets = _grouped(facts.given, _set)
    if sets:
        yield _table(
            "<Set; <Model asked; <Parameters; Requests; <First key",
            (
                (
                    labels.parameters[chosen],
                    chosen[0],
                    ", ".join(f"{name}={_cut(value)}" for name, value in chosen[1]) or _NONE,
                    f"{len({one.key for one in some}):,}",
                    _key(some[0].key),
                )
                for chosen, some in sets.items()
            ),
        )
    if facts.lost:
        yield Words(
            "Of {} the request and its answer are not in the cache (purged, asked without the cache, served"
            " from a pack beside the notebook or with the answer to another prompt, or never answered): their"
            " parameters and prompts are unknown. The first key is {}.",
            (
                format_count(len(facts.lost), "request of the ledger", "requests of the ledger"),
                _key(facts.lost[0]),
            ),
        )
    if facts.damaged:
        yield Words("{} damaged and could not be read.", (_were(facts.damaged, "kept answer"),))


def _cut(value: str) -> str:
    return value if len(value) <= _VALUE_WIDTH else f"{value[: _VALUE_WIDTH - 1]}…"


def _were(count: int, what: str) -> str:
    return f"{format_count(count, what)} {'was' if count == 1 else 'were'}"


def _prompts(facts: Facts, labels: _Labels) -> Iterator[Block]:
    yield Heading(2, "Prompts")
    requests = {one.key: one for one in facts.given}
    without = sum(one.system is None for one in requests.values())
    attached = {name for one in facts.given for name in one.attached}
    repeats = [one.sample for one in requests.values()]
    yield Words(
        "{} with {} and {}, {} without any. All are in the supplement, as they were sent. The templates that"
        " they were made from are not recorded, only what prompts have in common.",
        (
            format_count(len(requests), "different request"),
            format_count(len(labels.prompts), "different prompt"),
            format_count(len(labels.systems), "different system prompt"),
            f"{without:,}",
        ),
    )
    first = {one.prompt: one.key for one in reversed(facts.given)}
    for shared in shared_texts(one.prompt for one in facts.given):
        yield Words(
            "{} differ only where […] stands; the first is {}:",
            (format_count(len(shared.prompts), "prompt"), _key(first[shared.prompts[0]])),
        )
        yield Quote(f"{shared.begins}[…]{shared.ends}")
    if any(repeats):
        yield Words(
            "{} further samples of the same prompt and parameters; the most samples of one are {}.",
            (f"{format_count(sum(map(bool, repeats)), 'request')} asked for", f"{max(repeats) + 1:,}"),
        )
    if attached:
        yield Words("{} attached to prompts.", (_were(len(attached), "file or value"),))


_OUTCOMES: Final = {
    "miss": "call: nothing was stored for the request",
    "refresh": "call: asked again on purpose",
    "bypass": "call: asked without the cache",
    "failed": "call: brought no answer",
    "hit": "no call: served from the cache",
    "shared": "no call: served from the team's server",
    "similar": "no call: served the answer to another prompt that asks the same",
    "coalesced": "no call: waited for an identical call",
    "replay": "no call: served from a pack or offline",
    "stale": "no call: an expired answer, as the call failed",
}


def _calls(facts: Facts) -> Iterator[Block]:
    yield Heading(2, "Number of runs")
    sums = facts.totals
    asks = Counter[str]()
    for row in facts.rows:
        asks[row.kind] += row.asks
    rows = [(name, f"{asks[kind]:,}") for kind, name in _OUTCOMES.items() if asks[kind]]
    yield _table("<Outcome of an ask; Asks", [*rows, ("all", f"{sums.asks:,}")])
    yield Words(
        "{}; hit rate {} of the asks that hit or missed. A hit repeats the stored answer: no new sample.",
        (format_count(sums.calls, "call"), format_share(share_of(sums.hits, sums.misses))),
    )


def _exclusions(facts: Facts) -> Iterator[Block]:
    yield Heading(2, "Exclusions")
    served = [one for one in facts.given if not one.reason]
    yield Words(
        "{} kept, of which {} served when the request is asked again.",
        (_were(len(facts.given), "answer"), _are(len(served))),
    )
    expire = sorted(one.expires_s for one in served if one.expires_s is not None)
    if expire:
        yield Words(
            "Of those, {} only served until they expire, the first at {}, the last at {}.",
            (_are(len(expire)), _moment(expire[0]), _moment(expire[-1])),
        )
    excluded = _grouped(
        (one for one in facts.given if one.reason),
        lambda one: (group_of(one.reason), one.reason.partition(" (")[0]),
    )
    if excluded:
        yield Words("The others, by reason:")
        yield _table(
            "<Exclusion; <Reason; Answers; Cost, USD; <First key",
            (
                (*names, f"{len(some):,}", _sum(one.cost for one in some), _key(some[0].key))
                for names, some in sorted(excluded.items())
            ),
        )
    failed = [row for row in facts.rows if row.kind == "failed"]
    if failed:
        yield Words(
            "{} failed; what came of them, if anything, is among these answers. The first key is {}.",
            (format_count(sum(row.asks for row in failed), "call"), _key(failed[0].key)),
        )


def _are(count: int) -> str:
    return f"{count:,} {'is' if count == 1 else 'are'}"


def _sum(costs: Iterable[Cost]) -> str:
    """Return a sum of costs; at least that, where one is unknown, and unknown where all are."""
    amounts = [cost.usd for cost in costs]
    known = [usd for usd in amounts if usd is not None]
    if amounts and not known:
        return UNKNOWN
    return f"{'≥ ' if len(known) < len(amounts) else ''}{_usd(sum(known, Decimal(0)))}"


def _tokens(facts: Facts) -> Iterator[Block]:
    yield Heading(2, "Tokens")
    fields = (
        ("sent", "prompt_tokens"),
        ("received", "completion_tokens"),
        ("of those sent, read from providers' prompt caches", "cached_tokens"),
        ("of those sent, written to providers' prompt caches", "cache_write_tokens"),
    )
    yield Words("Of the calls, as the replies count them:")
    rows = []
    for name, field in fields:
        known = [(row.asks, getattr(row, field)) for row in facts.calls if getattr(row, field) is not None]
        asks, total = sum(asks for asks, _ in known), sum(tokens for _, tokens in known)
        rows.append((name, f"{total:,}" if known else UNKNOWN, f"{asks:,}", f"{facts.totals.calls - asks:,}"))
    yield _table("<Tokens; Sum; Calls that told; Calls that did not", rows)
    reasoned = [one.usage.reasoning_tokens for one in facts.given if one.usage is not None]
    if any(reasoned):
        told = [count for count in reasoned if count is not None]
        yield Words(
            "The kept answers took {} for reasoning, as {} of {} told.",
            (format_count(sum(told), "token"), f"{len(told):,}", f"{len(facts.given):,}"),
        )
    if facts.totals.hit_tokens:
        yield Words("Hits served {} besides.", (format_count(facts.totals.hit_tokens, "token"),))


_SOURCE_NAMES: Final = {
    "reported": "reported by the reply",
    "generation": "settled afterwards, as OpenRouter has it",
    "apportioned": "a share of what a batch or a request for many cost",
    "estimated": "estimated from tokens and the price list",
    "unknown": "unknown",
}


def _cost(facts: Facts) -> Iterator[Block]:
    yield Heading(2, "Cost")
    sums = facts.totals
    rows = []
    for source in sorted(SOURCES, key=[*_SOURCE_NAMES].index):
        some = [row for row in facts.calls if row.paid.source == source]
        if some:
            asks = sum(row.asks for row in some)
            rows.append((_SOURCE_NAMES[source], f"{asks:,}", _sum(r.paid for r in some), _key(some[0].key)))
    rows.append(("all calls", f"{sums.calls:,}", _sum(row.paid for row in facts.calls), ""))
    yield Words("What the calls cost, by where the amount comes from. Unknown is not 0.")
    yield _table("<Source; Calls; USD; <First key", rows)
    if sums.hits:
        served = [row for row in facts.rows if row.kind in ("hit", "shared")]
        value = _sum(Cost(row.value_usd, "reported") for row in served)
        yield Words("The answers that hits repeated had cost USD {}; this was not paid again.", (value,))
    asked = {row.key for row in facts.calls}
    elsewhere = [one for one in facts.given if one.key not in asked]
    if elsewhere:
        yield Words(
            "{} of requests of which no call is recorded here: another notebook asked, or they came from a"
            " pack or a team's server. They had cost USD {}, which is not in the table. The first key is {}.",
            (
                _were(len(elsewhere), "kept answer"),
                _sum(one.cost for one in elsewhere),
                _key(elsewhere[0].key),
            ),
        )


def _software(facts: Facts, version: str, pack: Pack) -> Iterator[Block]:
    yield Heading(2, "Software and data")
    yield Words(
        "or_cache_magic {}; a key is the SHA-256 of the canonical request, by version {} of the key scheme.",
        (version, str(KEY_VERSION)),
    )
    places = Counter(url for _, url in {(one.key, one.base_url) for one in facts.given})
    if places:
        told = [f"{url}: {format_count(count, 'request')}" for url, count in sorted(places.items())]
        yield Words("The requests went to {}.", ("; ".join(told),))
    if not pack.sha256:
        yield Words("The digest of a pack of these entries is unknown: {}.", (pack.why,))
        return
    how = "orc.export(FILE, *report.keys)" if facts.notebook else "orc.export(FILE)"
    yield Words(
        "A pack of the same entries, as {} writes it, has {} and {} kept as history in {}; its SHA-256 is:",
        (
            how,
            format_count(pack.entries, "entry", "entries"),
            f"{pack.history:,}",
            format_size(pack.size_bytes),
        ),
    )
    yield Quote(pack.sha256)


# -- the supplement -------------------------------------------------------------------------------


def _supplement(facts: Facts, labels: _Labels) -> Iterator[Block]:
    if not facts.given:
        return
    yield Heading(1, "Supplement")
    yield Heading(2, "Requests")
    yield Words(
        "Every answer that is kept, the oldest first. Settings are the set of parameters, the system prompt"
        " and, behind the first, the sample; tokens are those sent and those received."
    )
    yield _table(
        "<Key; <Model asked; <Model served; <Provider; <Settings; Prompt; <Answered; Tokens; Cost, USD;"
        " <Answer",
        (_request(one, labels) for one in facts.given),
    )
    if labels.systems:
        yield Heading(2, "System prompts")
    of_system = _grouped(facts.given, lambda one: one.system)
    for system, label in labels.systems.items():
        yield from _quoted(label, system, of_system[system])
    whole = [(chosen, label) for chosen, label in labels.parameters.items() if _is_long(chosen[1])]
    if whole:
        yield Heading(2, "Parameters that are longer than their table")
    of_set = _grouped(facts.given, _set)
    for chosen, label in whole:
        text = "\n".join(f"{name}={value}" for name, value in chosen[1])
        yield from _quoted(label, text, of_set[chosen])
    yield Heading(2, "Prompts")
    of_prompt = _grouped(facts.given, _prompt)
    for (prompt, attached), label in labels.prompts.items():
        yield from _quoted(f"Prompt {label}", prompt, of_prompt[prompt, attached])
        for one in attached:
            size = format_size(one.size_bytes) if one.size_bytes else "not read"
            yield Words(
                "Attached: {}, {}, {}, SHA-256 {}",
                (one.name or "without a name", one.kind, size, one.sha256 or UNKNOWN),
            )


def _is_long(parameters: Iterable[tuple[str, str]]) -> bool:
    return any(_cut(value) != value for _, value in parameters)


def _request(one: Given, labels: _Labels) -> tuple[str, ...]:
    system = "" if one.system is None else f", {labels.systems[one.system]}"
    sample = f", sample {one.sample}" if one.sample else ""
    usage = one.usage
    source = "" if one.cost.source in ("reported", "unknown") else f" {one.cost.source}"
    return (
        _key(one.key),
        one.model or UNKNOWN,
        one.served_by or UNKNOWN,
        one.provider or UNKNOWN,
        f"{labels.parameters[_set(one)]}{system}{sample}",
        labels.prompts[_prompt(one)],
        _moment(one.at_s),
        UNKNOWN if usage is None else format_tokens(usage.prompt_tokens, usage.completion_tokens),
        f"{_sum([one.cost])}{source}",
        f"{group_of(one.reason)}: {one.reason}" if one.reason else "served",
    )


def _quoted(label: str, text: str, given: Iterable[Given]) -> Iterator[Block]:
    keys = Counter(one.key for one in given)
    yield Words("{}, of {}:", (label, ", ".join(_key(key) for key in keys)))
    yield Quote(text)
