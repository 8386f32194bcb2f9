"""``%openrouter_plan``: what running the notebook would ask and cost, and buying what is missing beforehand.

The cells are gone through as Run All would: settings change on the way, what one cell asks is there for the
next, an answer that is stored is the value of its ``-o``. Nothing of the user's is run. What can't be told so
is unknown, and never taken for a hit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.cache.completion import Completion
from or_cache_magic.cache.request import build_ask, parse_limit
from or_cache_magic.core.records import Outcome
from or_cache_magic.core.settings import SETTINGS, Ask, Project, Settings, load_settings, parse_setting
from or_cache_magic.core.templates import Template
from or_cache_magic.core.units import ZERO_USD
from or_cache_magic.errors import InputError, OptionError, OrCacheError, one_line
from or_cache_magic.explain.plan import Judge, Look, Plan, PlanRow, explained, judged, unknown_row
from or_cache_magic.notebook.ask import read_ask
from or_cache_magic.notebook.cells import COMPUTED, Asking, Reader, Unit, read_cells
from or_cache_magic.notebook.commands import CONFIG, PURGE, WARM
from or_cache_magic.notebook.known import Known, NotKnown, Run, Values
from or_cache_magic.notebook.options import CELL, LINE, models_of
from or_cache_magic.notebook.parser import parse
from or_cache_magic.notebook.plain_values import check_rows, check_steps, value_of
from or_cache_magic.notebook.statements import file_name

if TYPE_CHECKING:
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.notebook.session import Session

_NAME_WIDTH: Final = 28
_ASIDE: Final = ("on_text", "on_wait", "workers", "progress", "on_error", "out", "before_send", "tell")
"""Arguments of which nothing depends that is asked."""

_PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("ask", "aask", "reply"), ("prompt",)),
    **dict.fromkeys(("map", "amap"), ("data", "template")),
    "warm": ("source",),
}
"""The arguments of functions that may have no name, in order."""

_BATCH: Final = "it goes to OpenRouter's Batch API, which takes its time"

_Requests = tuple[Iterable[Ask | OrCacheError], Decimal | None, str | None]


class Source(NamedTuple):
    """A cell as it was run: its text, whether it was run to its end, and when it ended."""

    text: str
    whole: bool
    ended_s: float


class Kernel:
    """What a running kernel knows beside the notebook: what was run, and its values.

    Args:
        transform: Makes Python of a cell.

    Attributes:
        values: Its names and values.
        sources: What was run, in order.
        transform: Makes Python of a cell.
        configs: The settings that it has by configuration, now and after a restart.
    """

    def __init__(self, transform: Callable[[str], str]) -> None:
        self.values: Mapping[str, Any] = {}
        self.sources: list[Source] = []
        self.transform = transform
        self.configs: Sequence[Mapping[str, Any]] = ({},)

    @classmethod
    def of(cls, session: Session) -> Kernel:
        """Return what the shell of a session knows."""
        shell = session.shell
        kernel = cls(shell.transform_cell)
        kernel.values = shell.user_ns
        history = shell.history_manager
        failed = getattr(history, "exceptions", ())
        for at, text in enumerate(history.input_hist_raw):
            whole, ended_s = session.ran.get(at, (True, session.loaded_s))
            kernel.sources.append(Source(text, whole and at not in failed, ended_s))
        given = shell.config.get("OpenRouterMagics", {})
        now = {name: getattr(session.config, name) for name in SETTINGS}
        kernel.configs = (now, {name: given[name] for name in SETTINGS if name in given})
        return kernel


class Planner:
    """Goes through the cells of one notebook.

    Args:
        cache: Where they would be looked up.
        path: The notebook's file.
        kernel: What runs it.
        folder: Where relative paths of its cells begin.
        notebook: The name under which its answers are stored.
    """

    def __init__(
        self, cache: CompletionCache, path: Path, kernel: Kernel, folder: Path, notebook: str
    ) -> None:
        reader = Reader(kernel.transform)
        self._cache, self._path, self.folder = cache, path, folder
        self._sources = read_cells(path)
        every = [*self._sources, *(source.text for source in kernel.sources)]
        units = reader.units(every)
        count = len(self._sources)
        self._units = [unit for unit in units if unit.cell <= count]
        ran = units[len(self._units) :]
        runs = [Run(unit, *kernel.sources[unit.cell - count - 1][1:]) for unit in ran]
        self._known = Known(self._units, runs, kernel.values, self._answer_of, folder)
        self._answers: dict[int, Completion | NotKnown] = {}
        self._last: Completion | NotKnown = NotKnown("nothing is asked before it in this notebook")
        self._configs = [dict(config) for config in kernel.configs]
        self._project = Project(folder)
        self._elsewhere = ""
        self._judge = Judge(cache, notebook)
        self._rows: list[PlanRow] = []
        self._single: list[Ask | None] = []
        #: What may be bought before the notebook is run.
        self.buyable: list[Ask] = []
        self._place = 0
        self._options: SimpleNamespace | None = None

    def plan(self, note: str) -> Plan:
        """Return the plan; `note` says how what is unknown may be known."""
        for place, unit in enumerate(self._units):
            self._place = place
            for name, line in unit.magics:
                self._effect(unit, name, line)
            for asking in unit.asks:
                self._take(unit, asking)
            if unit.shows and not unit.asks:
                self._last = NotKnown(f"_ may be what cell {unit.cell} shows")
        rows = explained(self._judge, self._rows, self._single)
        unknown = any(row.state == "unknown" for row in rows)
        return Plan(self._path.name, rows, (note,) if unknown and note else ())

    @property
    def last(self) -> Completion:
        """The answer that was asked for last; raises `NotKnown`."""
        if isinstance(self._last, NotKnown):
            raise self._last
        return self._last

    def _answer_of(self, place: int) -> Completion:
        """Return the answer that a statement binds; raises `NotKnown`."""
        found = self._answers.get(place)
        if found is None or isinstance(found, NotKnown):
            raise found or NotKnown(f"it is what cell {self._units[place].cell} asks")
        return found

    def _values(self) -> Values:
        return self._known.at(self._place)

    # -- what is asked ------------------------------------------------------------------------

    def _take(self, unit: Unit, asking: Asking) -> None:
        """Add the row of what is asked, if anything is."""
        name, single = asking.out or _head_of(asking), None
        self._options = None
        if asking.kind == "none":
            return
        try:
            found = self._requests(asking)
            if found is None:
                return
            made, limit_usd, single = found
            row, looks = judged(self._judge, unit.cell, name, made, limit_usd)
            row = self._amended(row, limit_usd)
        except NotKnown as exc:
            row, looks = unknown_row(unit.cell, name, str(exc)), []
        except OrCacheError as exc:
            row, looks = PlanRow(unit.cell, name, "refused", one_line(str(exc.args[0]), 160)), []
        except Exception as exc:  # noqa: BLE001 - of a value's own class, which may do anything when it is looked at
            row, looks = unknown_row(unit.cell, name, f"a value can't be read: {type(exc).__name__}"), []
        self._rows.append(row)
        self._single.append(looks[0].ask if len(looks) == 1 and row.requests == 1 else None)
        if row.state == "miss":
            self.buyable += [look.ask for look in looks if look.ask is not None and _is_buyable(look)]
        self._bind(unit, asking, row, looks, single)

    def _amended(self, row: PlanRow, limit_usd: Decimal | None) -> PlanRow:
        """Return a row with what ``--cascade`` and ``--similar`` come to."""
        options = self._options
        if options is None or row.state == "refused":
            return row
        if options.cascade:
            why = f"{row.why or row.state}, and what replies to it is asked again"
            return row._replace(why=why, high_usd=limit_usd)
        if options.similar is not None and row.state == "miss":
            return row._replace(
                state="unknown", why="a similar prompt may serve it", low_usd=ZERO_USD, high_usd=None
            )
        return row

    def _bind(
        self, unit: Unit, asking: Asking, row: PlanRow, looks: Sequence[Look], single: str | None
    ) -> None:
        """Note what is known of the answer for those who go on from it."""
        state = f"a {row.state}" if row.state in ("hit", "miss") else row.state
        found: Completion | NotKnown = NotKnown(f"it is the answer of cell {unit.cell}, which is {state}")
        if row.state == "hit" and single is not None and looks[0].ask is not None:
            try:
                found = self._stored(looks[0].ask, single)
            except NotKnown as exc:
                found = exc
        elif single is None and row.requests is not None:
            found = NotKnown(f"it is the table of answers of cell {unit.cell}")
        self._last = found
        if asking.out:
            self._answers[self._place] = found

    def _stored(self, ask: Ask, form: str) -> Completion:
        """Return the answer that a hit gives; raises `NotKnown`."""
        if ask.key.digest in self._judge.renewed:
            raise NotKnown("it is the answer of a cell that asks it anew")
        start = self._judge.start(ask)
        entry = self._cache.kept(start)
        if entry is None:
            raise NotKnown("it is an answer on the team's server, which was not fetched")
        request = None if start.key == ask.key else start.request
        outcome = Outcome(
            "hit", start.key, entry.answer, stored=True, entry_created_s=entry.created_s, request=request
        )
        found = Completion(outcome, ask.request, schema=ask.schema)
        if form == "df":
            from or_cache_magic.display.answer import parse_table

            try:
                found.attach(parse_table(found))
            except ValueError:
                raise NotKnown("it is an answer that is no table") from None
        return found

    def _requests(self, asking: Asking) -> _Requests | None:
        """Return what is asked, the most that it may cost, and of a single answer its form; None is nothing.

        Raises:
            NotKnown: It can't be told.
            OrCacheError: It is refused.
        """
        if not asking.why and _is_nothing(asking):
            return None
        if why := asking.why or self._elsewhere or self._known.environment(self._place):
            raise NotKnown(why)
        if asking.kind in ("cell", "line"):
            return self._of_magic(asking)
        if asking.kind == "warm" and asking.call is None:
            return self._of_warm(asking)
        return self._of_call(asking)

    def _of_magic(self, asking: Asking) -> _Requests | None:
        command = LINE if asking.body is None else CELL
        options, values = parse(command, asking.line), self._values()
        self._check_files(options)
        text = options.prompt if asking.body is None else asking.body
        for template in self._templates(options, text):
            for root, steps in template.steps:
                check_steps(root, steps, values)
        prompt, asked = read_ask(self, options, asking.body, values)
        form, limit_usd = options.format or "", options.max_cost_usd
        self._options = options
        if options.each is not None:
            if options.batch:
                raise NotKnown(_BATCH)
            if options.each not in values:
                raise OptionError(f"{options.each} is not defined")
            data = values[options.each]
            check_rows(data)
            self._check_cells(prompt, values)
            rows = partial(
                _row_asks, data, prompt, options.limit, values, options, {**asked, **options.params}
            )
            return self._alike(rows), limit_usd, None
        if isinstance(options.sample, range) or "," in (options.model or ""):
            return self._alike(partial(_several_asks, options, prompt, asked)), limit_usd, None
        made = partial(_one_ask, options, prompt, asked)
        return self._alike(made), limit_usd, form

    def _templates(self, options: SimpleNamespace, text: str) -> Iterator[Template]:
        if options.raw or options.each is not None:
            return
        if "{{" in text:
            yield Template(text)
        if getattr(options, "file", None) is not None:
            from or_cache_magic.notebook.prompt_files import read_prompt_file

            yield Template(read_prompt_file(options.file, self.folder, CELL).text)

    def _check_cells(self, prompt: str, values: Values) -> None:
        """Refuse a row's template that names a variable of the notebook which would run something."""
        for root, steps in Template(prompt).steps:
            if root != "row":
                check_steps(root, steps, values)

    def _check_files(self, options: SimpleNamespace) -> None:
        """Refuse what reads a file that a cell writes, where that was not run as it stands."""
        words = [*options.attach, *(f"@{name}" for name in (getattr(options, "file", None),) if name)]
        words += [word for word in (options.system, options.schema) if word and word.startswith("@")]
        for word in words:
            if why := self._known.why_not(file_name(word.removeprefix("@")), self._place):
                raise NotKnown(why)

    def _of_warm(self, asking: Asking) -> _Requests | None:
        from or_cache_magic.notebook.values import read_attached, read_schema_argument, read_text_argument

        options, values = parse(WARM, asking.line), self._values()
        source = options.source
        if source.isidentifier():
            source = values.get(source, source)
            check_rows(source)
        else:
            if why := self._known.why_not(file_name(source), self._place):
                raise NotKnown(why)
            source = self.folder / Path(source).expanduser()
        system, schema = options.system, options.schema
        asked = {
            "model": options.model,
            "system": system and read_text_argument(system, values, self.folder),
            "attach": read_attached(options.attach, values, self.folder),
            "mode": options.mode,
            "sample": options.sample,
            "tag": options.tags or None,
            "prompt_cache": options.prompt_cache,
            "schema": schema and read_schema_argument(schema, values, self.folder),
            "repair": options.repair,
            **options.params,
        }
        return self._alike(partial(_warm_asks, source, asked)), options.max_cost_usd, None

    def _of_call(self, asking: Asking) -> _Requests | None:
        """Return what a call of this package's functions asks; see `_requests`."""
        values, before = self._values(), None
        if asking.kind == "reply":
            before = value_of(asking.call.func.value, values)  # type: ignore[union-attr]
            if not isinstance(before, Completion):
                return None
        places = _PLACES.get(asking.kind)
        if places is None:
            raise NotKnown(f"what {asking.kind} asks is not looked up")
        fields, limit_usd = self._arguments(asking.call, places, values)
        if before is not None:
            fields["reply_to"] = before
        if places == ("prompt",):
            return self._alike(partial(_call_ask, fields.pop("prompt", ""), fields)), limit_usd, ""
        data = fields.pop(places[0], None)
        check_rows(data)
        if places == ("source",):
            return self._alike(partial(_warm_asks, data, fields)), limit_usd, None
        template, limit = fields.pop("template", None), fields.pop("limit", None)
        if not isinstance(template, str):
            raise NotKnown("its function of a row is not run")
        if fields.pop("batch", False):
            raise NotKnown(_BATCH)
        return self._alike(partial(_map_asks, data, template, limit, fields)), limit_usd, None

    def _arguments(
        self, call: Any, places: Sequence[str], values: Values
    ) -> tuple[dict[str, Any], Decimal | None]:
        """Return the arguments of a call that bear on what it asks, by name, and the most that it may cost.

        Raises:
            NotKnown: One of them would have to be run.
        """
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if None in given or len(call.args) > len(places):
            raise NotKnown("its arguments are computed")
        given.update(zip(places, call.args, strict=False))
        limit = given.pop("max_cost_usd", None)
        fields = {str(name): value_of(node, values) for name, node in given.items() if name not in _ASIDE}
        paths = [one for one in (fields.get("attach"), fields.get("schema")) if isinstance(one, (str, list))]
        if paths and Path.cwd() != self.folder:
            raise NotKnown("a path in it begins where its code is run")
        for path in paths:
            for one in path if isinstance(path, list) else [path]:
                if why := self._known.why_not(file_name(str(one)), self._place):
                    raise NotKnown(why)
        return fields, None if limit is None else parse_limit(value_of(limit, values))

    # -- settings, and what else changes on the way -------------------------------------------

    def _alike(self, make: Callable[[CompletionCache, Settings], Iterable[Ask | OrCacheError]]) -> Any:
        """Return the requests, which are the same with the settings of this kernel and after a restart.

        Raises:
            NotKnown: They aren't.
        """
        found = [load_settings(os.environ, self._project, config) for config in self._configs]
        first, *others = found
        if not others or others[0]._replace(origins={}) == first._replace(origins={}):
            return make(self._cache, first)
        pairs = list(zip(make(self._cache, first), make(self._cache, others[0]), strict=True))
        if any(_marks(one) != _marks(other) for one, other in pairs):
            names = [name for name in SETTINGS if getattr(first, name) != getattr(others[0], name)]
            raise NotKnown(f"this kernel's settings are not those after a restart: {', '.join(names)}")
        return [one for one, _ in pairs]

    def _effect(self, unit: Unit, name: str, line: str) -> None:
        """Take what a magic does to the settings or the cache."""
        if name == CONFIG.name:
            self._configure(unit, line)
        elif name == PURGE.name and not self._removes_nothing(line):
            self._judge.removes = self._judge.removes or f"cell {unit.cell} purges answers before it"
        elif name in ("openrouter_import", "openrouter_batches"):
            self._judge.adds = (
                f"cell {unit.cell} may bring its answer before it" if "--help" not in line else ""
            )
        elif name in ("reload_ext", "unload_ext") and "or_cache_magic" in line:
            self._elsewhere = f"cell {unit.cell} loads the extension anew"
        elif name == "openrouter_pin" and "--help" not in line:
            self._elsewhere = f"cell {unit.cell} pins another answer before it"

    def _removes_nothing(self, line: str) -> bool:
        try:
            options = parse(PURGE, line)
        except (OrCacheError, AttributeError):
            return bool(line)
        return bool(line) and bool(options.help or options.dry_run or not options.yes)

    def _configure(self, unit: Unit, line: str) -> None:
        try:
            changes = parse(CONFIG, line).changes
            for name, text in changes.items():
                parse_setting(name, text, CONFIG.spelling)
        except (OrCacheError, AttributeError):
            if line == COMPUTED:
                self._elsewhere = f"cell {unit.cell} changes settings by a line that is computed"
            return
        if {"cache_dir", "shared_url"} & changes.keys():
            self._elsewhere = f"cell {unit.cell} changes where answers are stored"
        for config in self._configs:
            config.update(changes)


def _marks(ask: Ask | OrCacheError) -> Any:
    return str(ask) if isinstance(ask, OrCacheError) else (ask.key.digest, ask.policy)


def _one_ask(
    options: SimpleNamespace, prompt: str, asked: Mapping[str, Any], _: CompletionCache, settings: Settings
) -> list[Ask]:
    return [
        build_ask(
            prompt, settings, options.params, {**asked, "model": options.model, "sample": options.sample}
        )
    ]


def _several_asks(
    options: SimpleNamespace, prompt: str, asked: Mapping[str, Any], _: CompletionCache, settings: Settings
) -> list[Ask]:
    from or_cache_magic.tables.compare import prepare_all

    def prepare(**named: Any) -> Ask:
        return build_ask(prompt, settings, options.params, {**asked, **named})

    members = prepare_all(prepare, models_of(options, settings.aliases), options.sample)
    return [member.ask for member in members]


def _row_asks(
    data: Any,
    prompt: str,
    limit: int | None,
    values: Mapping[str, Any],
    options: SimpleNamespace,
    asked: Mapping[str, Any],
    _: CompletionCache,
    settings: Settings,
) -> Iterator[Ask | OrCacheError]:
    from or_cache_magic.tables.map import row_asks

    named = {"model": options.model, "sample": options.sample}
    return row_asks(settings, data, prompt, limit=limit, variables=values, **named, **asked)


def _map_asks(
    data: Any,
    template: str,
    limit: int | None,
    asked: Mapping[str, Any],
    _: CompletionCache,
    settings: Settings,
) -> Iterator[Ask | OrCacheError]:
    from or_cache_magic.tables.map import row_asks

    return row_asks(settings, data, template, limit=limit, **asked)


def _call_ask(prompt: Any, fields: Mapping[str, Any], _: CompletionCache, settings: Settings) -> list[Ask]:
    return [build_ask(prompt, settings, fields)]


def _warm_asks(
    source: Any, asked: Mapping[str, Any], _: CompletionCache, settings: Settings
) -> Iterator[Ask | OrCacheError]:
    from or_cache_magic.tables.warm import read_prompts

    for prompt in read_prompts(source):
        try:
            if prompt.problem:
                raise prompt.problem
            yield build_ask(prompt.prompt, settings, {**asked, **prompt.fields})
        except InputError as exc:
            yield exc


def _is_buyable(look: Look) -> bool:
    return look.state == "miss" and look.keeps and look.ask is not None and look.ask.policy.mode == "normal"


def _is_nothing(asking: Asking) -> bool:
    """Return whether a magic only says something: its help, how things stand, what it would ask."""
    if asking.kind not in ("cell", "line", "warm") or asking.call is not None:
        return False
    try:
        options = parse(WARM if asking.kind == "warm" else LINE if asking.body is None else CELL, asking.line)
    except OptionError:
        return False
    nothing = asking.kind != "warm" and not (asking.line.strip() or (asking.body or "").strip())
    return nothing or options.help or getattr(options, "dry_run", False)


def _head_of(asking: Asking) -> str:
    """Return how what is asked is called where it is bound to no name."""
    text = asking.line if asking.body is None else asking.body
    if asking.call is not None:
        import ast

        text = ast.unparse(asking.call)
    return one_line(text.strip() or asking.kind, _NAME_WIDTH)
