"""Throws odd replies, options, lines, settings and packs at the product, and counts what broke, as a table.

::

    python benchmarks/fuzz.py                # some minutes
    python benchmarks/fuzz.py --seed 7       # other inputs
    python benchmarks/fuzz.py --quick        # shows that it works, proves nothing

What must be 0: exceptions outside the error tree, requests without a row in the ledger, whole answers that
were not returned, wrong answers from the cache, control characters shown, API keys shown or stored. The exit
code is 1 where one is not; the first inputs of each kind are printed below the table.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shell
from figures import Figure, table
from fuzzing import KEY, Draw, Upstream, plain, upstream
from IPython.core.history import HistoryAccessor

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.settings import Project, Settings, load_settings
from or_cache_magic.display.screen import answer_bundle, receipt_text
from or_cache_magic.errors import OrCacheError

KINDS = (
    "exceptions outside the error tree",
    "requests without a row in the ledger",
    "whole answers not returned",
    "wrong answers from the cache",
    "control characters shown",
    "API keys shown or stored",
)
MAGICS = (
    *["%%openrouter"] * 4,
    "%openrouter",
    "%openrouter_entries",
    "%openrouter_purge",
    "%openrouter_stats",
    "%openrouter_config",
    "%openrouter_warm",
)
ESCAPED, UNRECORDED, LOST, WRONG, CONTROL, SECRET = KINDS

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass
class Found:
    """What one part of the run found.

    Attributes:
        inputs: How many were tried.
        sent: How many requests they made.
        faults: How many of each of `KINDS`.
        examples: The first inputs of each kind, as text.
    """

    inputs: int = 0
    sent: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, kind: str, what: str) -> None:
        """Count a fault, and keep what caused it if it is one of the first."""
        self.faults[kind] += 1
        if self.faults[kind] <= 5:
            self.examples.append(f"{kind}: {what[:600]}")


class Watch:
    """Tells of one ask after another whether what was sent was accounted, and what it showed was clean."""

    def __init__(self, found: Found, up: Upstream) -> None:
        self.found = found
        self.up = up

    def ask(self, cache: CompletionCache, what: Callable[[], str], run: Callable[[], Any]) -> Any:
        """What `run` returns; None where it raised. `what` says in words what the input was."""
        self.found.inputs += 1
        posts, calls = len(self.up.posts), _calls(cache)
        try:
            return run()
        except OrCacheError as exc:
            self.shown(f"{exc}" + "".join(exc._render_traceback_()), what)
        except Exception as exc:
            self.found.add(ESCAPED, f"{type(exc).__name__}: {exc!s:.200} <- {what()}")
        finally:
            sent = len(self.up.posts) - posts
            self.found.sent += sent
            if bool(sent) > _calls(cache) - calls:
                self.found.add(UNRECORDED, what())
        return None

    def shown(self, text: str, what: Callable[[], str]) -> None:
        """Look at something that a user would see."""
        if control := _CONTROL.search(text):
            self.found.add(
                CONTROL, f"{control[0]!r} in {text[max(0, control.start() - 60) :][:160]!r} <- {what()}"
            )
        if KEY in text:
            self.found.add(SECRET, f"{text[:200]!r} <- {what()}")

    def stored(self, folder: Path) -> None:
        """Look at every file of a folder."""
        for file in folder.rglob("*"):
            if file.is_file() and KEY.encode() in file.read_bytes():
                self.found.add(SECRET, f"in {file.name}")


def _calls(cache: CompletionCache) -> int:
    (whole,) = cache.totals()
    return whole.calls


def _cache(folder: Path, up: Upstream, **settings: Any) -> CompletionCache:
    chosen = Settings(base_url=up.base_url, model="openai/gpt-4o-mini", **settings)
    return CompletionCache(folder, settings=lambda: chosen, api_key=lambda: KEY)


def replies(draw: Draw, number: int, folder: Path) -> Found:
    """Ask twice for each reply: the first must bring a whole answer, and the second the same one."""
    found = Found()
    with upstream() as up, _cache(folder, up) as cache:
        watch = Watch(found, up)
        for at in range(number):
            streamed = draw.chance(0.7)
            reply = draw.reply(streamed=streamed)

            def what(reply: Any = reply) -> str:
                return f"{reply.status} {reply.headers} {reply.body[:300]!r} in {reply.pieces}"

            up.reply = lambda _body, reply=reply: reply
            prompt = f"question {at}"
            got = watch.ask(cache, what, lambda p=prompt, s=streamed: cache.ask(p, stream=s))
            if reply.text is not None and got != reply.text:
                found.add(LOST, f"{got!r:.80} <- {what()}")
            if got is not None:
                watch.shown(_display(got), what)
            posts = len(up.posts)
            up.reply = plain
            again = watch.ask(cache, what, lambda p=prompt, s=streamed: cache.ask(p, stream=s))
            if len(up.posts) == posts and again is not None and (got is None or str(again) != str(got)):
                found.add(WRONG, f"{again!r:.80}, not {got!r:.80} <- {what()}")
        watch.stored(folder)
    return found


def _display(completion: Any) -> str:
    """What a notebook shows of it."""
    bundle = answer_bundle(completion, "auto")
    return "".join(map(str, bundle.values())) + receipt_text(completion.outcome, now_s=0.0, asked="x")


def options(draw: Draw, number: int, folder: Path) -> Found:
    """Ask with options of every kind, from `ask`, `aask` and a list in turns."""
    found = Found()
    with upstream() as up, _cache(folder, up) as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        watch = Watch(found, up)
        for at in range(number):
            given, prompt = draw.options(), f"question {at}"
            if draw.chance(0.1):
                prompt = draw.value()
            ways: tuple[Callable[[], Any], ...] = (
                lambda p=prompt, o=given: cache.ask(p, **o),
                lambda p=prompt, o=given: asyncio.run(cache.aask(p, **o)),
                lambda p=prompt, o=given: _warm(cache, {"prompt": p, **o}),
            )
            way = draw.random.choice((0, 0, 0, 0, 1, 2))
            up.reply = plain

            def what(way: int = way, prompt: Any = prompt, given: Any = given) -> str:
                return f"way {way}: {_safe(prompt)} {_safe(given)}"

            got = watch.ask(cache, what, ways[way])
            if got is None:
                continue
            if way < 2 and got != "fine" and not (given.get("n") or given.get("response_format")):
                found.add(LOST, f"{got!r:.80} <- {what()}")
        watch.stored(folder)
    return found


def _warm(cache: CompletionCache, item: dict[str, Any]) -> Any:
    from or_cache_magic.tables.warm import warm

    return warm(cache, [item], workers=1, progress=False)


def _safe(value: Any) -> str:
    try:
        return repr(value)[:300]
    except Exception as exc:
        return f"<{type(exc).__name__}>"


def lines(draw: Draw, number: int, folder: Path) -> Found:
    """Run cells in a real shell, whose outputs are looked at."""
    import pandas as pd

    found = Found()
    warnings.simplefilter("ignore")  # IPython's own, of odd lines
    with upstream() as up:
        up.reply = plain
        os.environ.update(OPENROUTER_BASE_URL=up.base_url, OPENROUTER_API_KEY=KEY, OR_CACHE_DIR=str(folder))
        os.environ["OPENROUTER_MODEL"] = "openai/gpt-4o-mini"
        HistoryAccessor.enabled = False  # its file goes before it does
        ip = shell.shell()
        ip.colors = "NoColor"
        ip.run_line_magic("load_ext", "or_cache_magic")
        df = pd.DataFrame({"a": [1, 2], "product": ["x", "y"]})
        names = {"x": "value", "df": df, "big": list(range(300_000)), "obj": object(), "odd": {1, "a"}}
        watch = Watch(found, up)
        import or_cache_magic as orc

        cache = orc._cache()
        for _ in range(number):
            ip.user_ns.update(names)
            magic = draw.random.choice(MAGICS)
            cell = f"{magic} {draw.line()}".replace("--save", "")
            if magic == "%%openrouter":
                cell += "\n" + draw.body()
            elif draw.chance(0.3):
                # What begins a line is no magic's any more, but Python's.
                cell += " " + " ".join(draw.text().replace("?", "").splitlines())

            def run(cell: str = cell) -> Any:
                ip.events.trigger("pre_run_cell", None)
                result = ip.run_cell(cell)
                error = result.error_in_exec or result.error_before_exec
                watch.shown(sys.stdout.getvalue() + str(ip.display_pub.outputs), lambda: repr(cell))  # type: ignore[attr-defined]
                sys.stdout.seek(0)
                sys.stdout.truncate()
                ip.display_pub.outputs.clear()
                if error is not None and not _is_syntax(error):
                    raise error

            watch.ask(cache, lambda cell=cell: repr(cell), run)
        cache.close()
        watch.stored(folder)
    return found


def _is_syntax(error: BaseException) -> bool:
    """Whether Python itself, not we, refused the cell before any magic was reached."""
    return isinstance(error, (SyntaxError, UnicodeEncodeError)) or (
        isinstance(error, ValueError) and "null byte" in str(error)
    )


def settings(draw: Draw, number: int, folder: Path) -> Found:
    """Ask under settings files and environments; one that can't be read must be said, and nothing sent."""
    found = Found()
    before = dict(os.environ)
    os.chdir(folder)  # SSLKEYLOGFILE may name a file here
    with upstream() as up:
        watch = Watch(found, up)
        for at in range(number):
            place = folder / f"{at}"
            place.mkdir(parents=True)
            raw, variables = draw.pyproject(), draw.environment()
            if draw.chance(0.8):
                (place / "pyproject.toml").write_bytes(raw)
            os.environ.update(OPENROUTER_BASE_URL=up.base_url, OPENROUTER_MODEL="m")
            try:
                os.environ.update(variables)
            except (ValueError, UnicodeEncodeError):
                continue
            project = Project(place)
            with CompletionCache(
                place / "cache",
                settings=lambda project=project: load_settings(os.environ, project, {}),
                api_key=lambda: KEY,
            ) as cache:
                watch.ask(
                    cache, lambda v=variables, r=raw: f"{v} {r!r}", lambda at=at: cache.ask(f"question {at}")
                )
            os.environ.clear()
            os.environ.update(before)
        watch.stored(folder)
    return found


def packs(draw: Draw, number: int, folder: Path) -> Found:
    """Take packs with damaged and hostile lines, look at what came, read through them, write them anew."""
    from or_cache_magic.notebook.status import entry_card

    found = Found()
    pack = folder / "place" / "p.orcache.jsonl"
    pack.parent.mkdir()
    with upstream() as up, _cache(folder / "from", up) as origin:
        up.reply = plain
        lines = _pack_lines(origin, pack)
    with upstream() as up, _cache(folder / "to", up, mode="offline") as cache:
        settings = cache.settings
        reader = CompletionCache(
            folder / "reader", settings=lambda: settings, api_key=lambda: None, packs=pack.parent
        )
        watch = Watch(found, up)
        for _ in range(0, number, _AT_ONCE):
            hostile = [draw.pack_line(draw.random.choice(lines)) for _ in range(_AT_ONCE)]
            pack.write_bytes(b"\n".join([*hostile, draw.random.choice(lines)]))

            def what(hostile: list[bytes] = hostile) -> str:
                return f"{hostile!r}"

            told = watch.ask(cache, what, lambda: str(cache.load(pack, progress=False)))
            watch.shown(told or "", what)
            for prompt, fields in _PACKED:
                watch.ask(reader, what, lambda p=prompt, f=fields: reader.ask(p, **f))
            for row in cache.store.listing.find(limit=3):
                card = watch.ask(cache, what, lambda key=row.key: entry_card(cache, key)[0])
                watch.shown(card or "", what)
            watch.ask(cache, what, cache.entries)
            watch.ask(cache, what, lambda: cache.export(folder / "again.jsonl", progress=False))
            for notice in reader.database.pop_notices():
                watch.shown(notice, what)
            cache.purge(all=True)
        reader.close()
        watch.stored(folder)
    found.inputs = number  # lines, each looked at in several ways
    return found


_AT_ONCE = 20
_PACKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("What is a median?", {"tag": ["a", "b"]}),
    ("Name a book.", {"schema": "title str"}),
    ("Look.", {"attach": [b"a,b\n1,2\n"], "sample": 2}),
)
"""What is in the packs that are damaged."""


def _pack_lines(cache: CompletionCache, pack: Path) -> list[bytes]:
    """Ask for answers of several kinds, and return their lines."""
    for prompt, fields in _PACKED:
        cache.ask(prompt, **fields)
    cache.ask("What is a median?").reply("And a mode?")
    cache.export(pack, progress=False)
    return pack.read_bytes().splitlines()


@dataclass(frozen=True)
class Effort:
    """How many inputs of each kind."""

    replies: int = 5_000
    options: int = 5_000
    lines: int = 5_000
    settings: int = 1_000
    packs: int = 10_000


QUICK = Effort(40, 40, 40, 20, 100)
PARTS = {"replies": replies, "options": options, "lines": lines, "settings": settings, "packs": packs}


def figures(
    effort: Effort, seed: int, folder: Path, only: tuple[str, ...]
) -> Iterator[tuple[list[Figure], list[str]]]:
    for name in only:
        part = folder / name
        part.mkdir()
        found = PARTS[name](Draw(seed), getattr(effort, name), part)
        of = f"of {found.inputs:,} inputs, {found.sent:,} requests"
        yield (
            [Figure(f"{name}: {kind}", "≤", 0, "", found.faults[kind], of) for kind in KINDS],
            found.examples,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=20261128)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=list(PARTS), action="append")
    given = parser.parse_args()
    random.seed(given.seed)
    rows: list[Figure] = []
    examples: list[str] = []
    shown = sys.stdout
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IPYTHONDIR"] = f"{folder}/ipython"
        for part, faults in figures(
            QUICK if given.quick else Effort(), given.seed, Path(folder), tuple(given.only or PARTS)
        ):
            rows += part
            examples += faults
    sys.stdout = shown
    print(table(rows))
    print("\n".join(line.encode("ascii", "backslashreplace").decode() for line in examples))
    return int(any(figure.measured for figure in rows))


if __name__ == "__main__":
    sys.exit(main())
