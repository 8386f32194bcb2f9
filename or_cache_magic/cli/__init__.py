"""``or-cache``: what the magics say about a completion cache, from a shell.

Options of ``stats``, ``entries`` and ``purge`` are those of the magics of the same name, read from the
same table. Errors are two lines on stderr and exit code 1, also where a part failed; a line that can't be
read is exit code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from or_cache_magic.cache.purge import entry_filter
from or_cache_magic.core.settings import number, whole
from or_cache_magic.core.units import parse_usd
from or_cache_magic.display.entries import entries_table, entry_values
from or_cache_magic.display.stats import stat_notes, stat_values, stats_table, stats_text
from or_cache_magic.display.tables import text
from or_cache_magic.errors import OptionError, OrCacheError, near_name, printable, slip_of
from or_cache_magic.notebook.commands import (
    BATCHES,
    ENTRIES,
    EXPORT,
    IMPORT,
    PLAN,
    PURGE,
    REPORT,
    STATS,
    WARM,
    WHY,
)
from or_cache_magic.notebook.magics import approved, export_pack, purge_filter, read_arguments, warm_cache
from or_cache_magic.notebook.options import counts_from
from or_cache_magic.notebook.parser import HELP, Command, Option
from or_cache_magic.notebook.session import confirmed

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache

_FEW: Final = 50
_A_KEY: Final = "a key, or its first 4 hex digits or more"
_LIMIT: Final = Option(
    ("-n", "--limit"), "limit", f"at most N; {_FEW} unless given", default=_FEW, **counts_from(1)
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, or 1 for what failed, be it in part; it is told on stderr.

    Args:
        arguments: The words after ``or-cache``; None takes those of the process.

    Raises:
        SystemExit: With 2 for a line that can't be read, with 0 after ``--help``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a question mark rather than nothing in a narrow terminal
    options = _parser().parse_args(arguments, SimpleNamespace())
    try:
        failed = options.run(options)
        sys.stdout.flush()
    except OrCacheError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has seen enough; the interpreter's own flush must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return int(bool(failed))


class _Parser(argparse.ArgumentParser):
    """A parser that takes no part of an option's name for the option, and says which was meant."""

    def __init__(self, **how: Any) -> None:
        self._names: set[str] = set()
        self._has_commands = False
        super().__init__(**how, allow_abbrev=False)

    def add_argument(self, *names: Any, **how: Any) -> argparse.Action:
        """Add an argument, and remember the names of an option."""
        self._names.update(name for name in names if name.startswith("-"))
        return super().add_argument(*names, **how)

    def add_subparsers(self, **how: Any) -> Any:
        """Add the commands: what follows one is for its own parser to read."""
        self._has_commands = True
        return super().add_subparsers(**how)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read words, once each that looks like an option is one."""
        for word in sys.argv[1:] if args is None else args:
            if word == "--" or (self._has_commands and not word.startswith("-")):
                break
            self._refuse_unknown(word)
        return super().parse_known_args(args, namespace)

    def _refuse_unknown(self, word: str) -> None:
        found = re.fullmatch(r"(--?[^\W\d_][\w-]*)(?:=.*)?", word, re.DOTALL)
        if found is None or found[1] in self._names:
            return
        name = found[1]
        if name.startswith("--"):
            meant = near_name(name, self._names)
        else:
            meant = slip_of(name, (long for long in self._names if long.startswith("--")))
            if not meant and name[:2] in self._names:
                return  # with its value, or another letter, behind it
        hint = f"did you mean {meant}?" if meant else f"{self.prog} --help lists the options"
        self.error(f"there is no option {name}; nothing was done: {hint}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="or-cache", description="Look after a completion cache, or try one out without a key."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[Any], bool | None], text: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    _add_views(add)
    _add_changes(add)
    _add_servers(add)
    demo = add("demo", _demo, "run the quickstart notebook twice, simulated: bought once, then free")
    demo.add_argument("--keep", metavar="FOLDER", help="run in FOLDER and leave everything there")
    return parser


_Add: TypeAlias = "Callable[[str, Callable[[Any], bool | None], str], argparse.ArgumentParser]"


def _add_views(add: _Add) -> None:
    """Add what shows something, as the magics of a notebook do."""
    stats = add("stats", _stats, "asks, hits, what was paid and what was saved")
    _add_options(stats, STATS, without={"session"})
    entries = add("entries", _entries, "the cached answers, newest first; with a KEY, one of them whole")
    entries.add_argument("words", nargs="*", metavar="TEXT|KEY", help="found in the prompt or the answer")
    _add_options(entries, ENTRIES._replace(options=(*ENTRIES.options, _LIMIT)))
    why = add(
        "why", _why, "why an entry is not served, or missed when it was asked: the nearest one before it"
    )
    why.add_argument("words", nargs=1, metavar="KEY", help=_A_KEY)
    _add_options(why, WHY)
    report = add("report", _report, "what was asked of which models and at what cost, for a methods section")
    report.add_argument("words", nargs="*", metavar="NOTEBOOK", help="of this notebook (default: the folder)")
    _add_options(report, REPORT)
    plan = add(
        "plan", _plan, "what running a notebook would ask and cost; 1 is the exit code where it would pay"
    )
    plan.add_argument("words", nargs=1, metavar="NOTEBOOK", help="its file")
    _add_options(plan, PLAN)
    plan.add_argument(
        "--strict", action="store_true", help="1 is the exit code too where a cell is unknown, and might pay"
    )
    batches = add("batches", _batches, "the batches at OpenRouter; collects what has ended")
    batches.add_argument("words", nargs="*", metavar="ID", help="the rows of this batch")
    _add_options(batches, BATCHES)


def _add_changes(add: _Add) -> None:
    """Add what changes the cache, as the magics of a notebook do."""
    purge = add("purge", _purge, "remove cached answers; says first what goes and what it cost")
    purge.add_argument("words", nargs="*", metavar="KEY", help=_A_KEY)
    _add_options(purge, PURGE)
    export = add("export", _export, "write cached answers into a pack, a file made to be committed")
    export.add_argument("words", nargs="+", metavar="FILE", help="the pack, then keys or their beginnings")
    _add_options(export, EXPORT)
    load = add("import", _import, "take the answers of a pack into the cache; what is there stays")
    load.add_argument("words", nargs=1, metavar="FILE", help="the pack")
    _add_options(load, IMPORT)
    warm = add("warm", _warm, "fill the cache from a .txt, .jsonl or .csv file of prompts")
    warm.add_argument(
        "words", nargs=1, metavar="FILE", help="one prompt a line, one JSON item a line, a column prompt"
    )
    _add_options(warm, WARM, without={"params", "tags"})


def _add_servers(add: _Add) -> None:
    """Add what serves other programs until Ctrl-C."""
    simulate = add("simulate", _simulate, "serve a simulated OpenRouter on this machine until Ctrl-C")
    serve = add("serve", _serve, "serve the cache to any OpenAI-compatible client on this machine")
    for server in (simulate, serve):
        server.add_argument(
            "--port", type=_typed(whole(0, 65535)), default=0, help="where to listen (default: any free)"
        )
    simulate.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: loopback)")
    simulate.add_argument(
        "--delay",
        type=_typed(number(0, 3600)),
        default=0.02,
        metavar="S",
        help="seconds before each chunk (default: 0.02)",
    )
    serve.add_argument(
        "--token-file",
        metavar="FILE",
        help="has the clients' token; made if it isn't there (default: a new one)",
    )
    serve.add_argument(
        "--max-cost", type=_typed(parse_usd), metavar="USD", help="the most that is spent while it serves"
    )
    serve.add_argument(
        "--offline", action="store_const", const="offline", help="serve what is stored; send nothing"
    )
    _add_folder(serve)


def _add_options(parser: argparse.ArgumentParser, command: Command, without: Container[str] = ()) -> None:
    """Take the options of a magic into a shell command."""
    parser.set_defaults(command=command, **command.defaults)
    for option in command.options:
        if option is not HELP and option.field not in without:
            _add_option(parser, option)
    _add_folder(parser)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir", metavar="FOLDER", help="the cache's folder (default: found from here, as a notebook would)"
    )


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    how: dict[str, Any] = {"action": "store_const", "const": option.value}
    if option.metavar:
        # A shell has no variables of a notebook.
        how = {"type": _reader(option), "metavar": option.metavar.removesuffix("|NAME")}
    if option.alone is not None:
        how |= {"nargs": "?", "const": option.alone}
    described = option.help.replace("%", "%%")
    parser.add_argument(*option.names, dest=option.field, default=option.default, help=described, **how)


def _reader(option: Option) -> Callable[[str], Any]:
    return _typed(option.parse, f": {option.expects}")


def _typed(parse: Callable[[str], Any], expects: str = "") -> Callable[[str], Any]:
    def read(word: str) -> Any:
        try:
            return parse(word)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(f"{problem}{expects}") from None

    return read


# -- the commands ---------------------------------------------------------------------------------


def _stats(options: SimpleNamespace) -> None:
    with _open(options) as cache:
        by = options.by or ""
        sums = cache.totals(by)
        (whole,) = cache.totals() if by else sums
        if not whole.asks:
            print(f"nothing was asked yet in {cache.directory}")
            return
        notes = stat_notes(whole, cache.ledger.distinct_asks())
        warning = cache.quota_warning()
    print(stats_text(stats_table([stat_values(t, by) for t in sums], by)._replace(notes=notes)))
    if warning:
        print(warning, file=sys.stderr)


def _entries(options: SimpleNamespace) -> None:
    with _open(options) as cache:
        if options.key is not None:
            from or_cache_magic.notebook.status import entry_card

            print(entry_card(cache, options.key)[0])
            return
        now_s = time.time()
        wanted = entry_filter(
            now_s, text=options.text, model=options.model, tag=options.tag, since=options.since_s
        )
        count, _, _ = cache.store.listing.count(wanted)
        if not count:
            print(f"no entry matches in {cache.directory}")
            return
        rows = [entry_values(row) for row in cache.store.listing.find(wanted, limit=options.limit)]
        print(text(entries_table(rows, now_s=now_s)))
        if count > options.limit:
            print(f"… and {count - options.limit:,} more (--limit)")


def _purge(options: SimpleNamespace) -> None:
    with _open(options) as cache:
        chosen = purge_filter(cache, options)
        if approved(cache.preview(chosen), options, _say, _confirmed) and not options.dry_run:
            print(f"{cache.drop(chosen):,} removed")


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise OptionError(
            "there is no terminal to ask, so nothing was removed", "add -y to remove without asking"
        )
    return confirmed(question)


def _export(options: SimpleNamespace) -> bool:
    """Return whether answers were left out."""
    with _open(options) as cache:
        made = export_pack(cache, options)
        print(printable(str(made)))
    return made.damaged > 0


def _import(options: SimpleNamespace) -> bool:
    """Return whether lines were refused."""
    with _open(options) as cache:
        taken = cache.load(options.file)
        print(printable(str(taken)))
    return taken.refused > 0


def _warm(options: SimpleNamespace) -> bool:
    """Return whether an answer is missing in the cache."""
    from or_cache_magic.notebook.status import warm_text

    with _open(options) as cache:
        frame = warm_cache(cache, options, _say)
    failed = bool((frame["error"] != "").any())
    if failed:
        print(warm_text(frame), file=sys.stderr)
    return failed


def _why(options: SimpleNamespace) -> None:
    with _open(options) as cache:
        found = cache.why(options.subject)
    print(found.ansi if sys.stdout.isatty() else found)


def _report(options: SimpleNamespace) -> None:
    with _open(options) as cache:
        print(cache.report(options.notebook, format=options.format), end="")


def _plan(options: SimpleNamespace) -> bool:
    """Return whether the notebook would pay."""
    from or_cache_magic.notebook.extension import transformer
    from or_cache_magic.notebook.planning import plan_notebook

    options.command.check(options.command, options)
    if options.max_cost_usd is not None and not options.buy:
        raise OptionError("--max-cost means nothing without --buy; nothing was sent", "add --buy")
    found = plan_notebook(
        None,
        options.notebook,
        buy=options.buy,
        max_cost_usd=options.max_cost_usd,
        directory=options.dir,
        tell=_say,
        transform=transformer(),
    )
    print(printable(str(found)))
    return found.pays or (options.strict and not found.certain)


def _batches(options: SimpleNamespace) -> bool:
    """Return whether one that isn't collected yet could not be."""
    from or_cache_magic.tables.batches import batches, batches_text, forget_batch, troubled

    with _open(options) as cache:
        if options.forget:
            print(f"given up: {forget_batch(cache, options.id):,} rows waited for it, and may be asked anew")
            return False
        print(batches_text(batches(cache, options.id)))
        return troubled(cache, options.id)


def _simulate(options: SimpleNamespace) -> None:
    from or_cache_magic.simulator import serve

    try:
        serve(options.host, options.port, chunk_delay_s=options.delay)
    except (OSError, OverflowError) as problem:
        raise OptionError(
            f"can't listen on {options.host}:{options.port}: {problem}",
            "choose another --port, or leave it out for a free one",
        ) from None


def _serve(options: SimpleNamespace) -> None:
    from or_cache_magic.cli.serve import serve_cache
    from or_cache_magic.core.project import current_folder
    from or_cache_magic.core.settings import Project, load_settings

    config = {"mode": options.offline, "max_cost_usd": options.max_cost}
    settings = load_settings(os.environ, Project(current_folder()), config)
    token_file = None if options.token_file is None else Path(options.token_file)
    serve_cache(_folder(options), settings, _say, port=options.port, token_file=token_file)


def _demo(options: SimpleNamespace) -> None:
    from or_cache_magic.cli.demo import run_demo

    run_demo(Path(options.keep) if options.keep else None, say=_say)


# -- within ---------------------------------------------------------------------------------------


def _say(line: str) -> None:
    print(line, flush=True)


@contextlib.contextmanager
def _open(options: SimpleNamespace) -> Iterator[CompletionCache]:
    """Open the cache that ``--dir`` names, or that a notebook in this folder has; say what it notices."""
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.project import current_folder

    options.command.check(options.command, options)
    read_arguments(options, {}, current_folder())
    with CompletionCache(_folder(options), packs=current_folder()) as cache:
        yield cache
        for notice in cache.database.pop_notices():
            print(notice, file=sys.stderr)


def _folder(options: SimpleNamespace) -> Path:
    """Return the folder of the cache that ``--dir`` names, or that a notebook in this folder has."""
    from or_cache_magic.core.project import current_folder
    from or_cache_magic.core.settings import MEMORY, Project, load_settings
    from or_cache_magic.notebook.location import cache_directory

    here = current_folder()
    option = options.dir or load_settings(os.environ, Project(here), {}).cache_dir
    location = cache_directory(starting_dir=here, option=option, environ=os.environ)
    if os.fspath(location.path) == MEMORY:
        raise OptionError(
            f"{MEMORY} is a cache in the memory of another process, which a shell can't look into",
            "name a folder with --dir",
        )
    return location.path
