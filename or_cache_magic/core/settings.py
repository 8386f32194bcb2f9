"""The settings, and where each value came from.

Later wins: defaults, ``[tool.or_cache_magic]`` in the nearest ``pyproject.toml``, the environment,
``c.OpenRouterMagics.*`` or ``%openrouter_config``. A cell's own options come last; they are not
settings. The API key is no setting either: it is read where it is sent, and nowhere kept.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote, urlsplit

from or_cache_magic.core.policy import MODES, VOLATILE_TTL_S, Mode, Policy
from or_cache_magic.core.project import find_pyproject, leads_out, settings_table
from or_cache_magic.core.records import OPENROUTER_URL, NamedTuple, Request, RequestKey
from or_cache_magic.core.units import parse_lifetime, parse_size, parse_usd
from or_cache_magic.errors import SettingError, near_name, slip_of

if TYPE_CHECKING:
    from or_cache_magic.core.media import Attached
    from or_cache_magic.core.schema import Schema

_PORTS: Final = {"redis": 6379, "rediss": 6379, "memcached": 11211}


class SharedUrl:
    """The URL of a shared server; equal to another with the same text.

    Shown, formatted or logged it is `shown`, without user, password and options. What connects asks for
    `reveal`.
    """

    __slots__ = ("_password", "_url", "host", "port", "scheme", "shown")

    def __init__(self, url: str, scheme: str, host: str, port: int, path: str, password: str) -> None:
        self._url = url
        self._password = password
        self.scheme = scheme
        self.host = host
        self.port = port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.shown = f"{scheme}://{address}{path}"

    def reveal(self) -> str:
        """Return the whole URL, password included."""
        return self._url

    def hide(self, text: str) -> str:
        """Return `text` without the URL's password, for messages of libraries and servers."""
        return text.replace(self._password, "…") if self._password else text

    def __repr__(self) -> str:
        return f"'{self.shown}'"

    def __str__(self) -> str:
        return self.shown

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SharedUrl) and other._url == self._url

    def __hash__(self) -> int:
        return hash(self._url)


def parse_shared_url(text: object) -> SharedUrl:
    """Return the URL ``redis://…``, ``rediss://…`` (TLS) or ``memcached://host:port``.

    Raises:
        ValueError: It is none of these. The message does not repeat it.
    """
    if isinstance(text, SharedUrl):
        return text
    url = text.strip() if isinstance(text, str) else ""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("takes a URL with a port from 1 to 65535") from None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise ValueError("takes redis://host:port, rediss://host:port (TLS) or memcached://host:port")
    if parts.scheme == "memcached" and (parts.username or parts.password or parts.path.strip("/")):
        raise ValueError(
            "takes memcached://host:port and nothing else: Memcached knows no user and no database"
        )
    password = unquote(parts.password or "")
    return SharedUrl(
        url, parts.scheme, parts.hostname, port or _PORTS[parts.scheme], parts.path.rstrip("/"), password
    )


FORMATS: Final = ("auto", "markdown", "text", "json", "code", "df", "none")
RECEIPTS: Final = ("live", "stable", "off")
SIMILAR: Final = ("off", "lexical", "semantic")

_NAMESPACE: Final = r"[A-Za-z0-9._-]{1,64}"

ENVIRONMENT: Final[Mapping[str, str]] = {
    "OPENROUTER_BASE_URL": "base_url",
    "OPENROUTER_MODEL": "model",
    "OR_CACHE_DIR": "cache_dir",
    "OR_CACHE_MODE": "mode",
    "OR_CACHE_SHARED_URL": "shared_url",
    "OR_CACHE_MAX_COST": "max_cost_usd",
    "OR_CACHE_MAX_COST_PER_DAY": "max_cost_per_day_usd",
}
"""Environment variables and the settings that they set."""


MEMORY: Final = ":memory:"
"""A ``cache_dir`` that is no folder: the completion cache is in memory, and ends with its kernel."""


class Settings(NamedTuple):
    """Every setting's value; `origins` says where each that is not the default came from."""

    model: str | None = None
    system: str | None = None
    temperature: float | None = 0.0
    max_tokens: int | None = 4096
    format: str = "auto"
    receipt: Literal["live", "stable", "off"] = "live"
    stream: bool = True
    mode: Mode = "normal"
    ttl: float | None = None
    volatile_ttl: float = VOLATILE_TTL_S
    cache_sampled: bool = False
    stale_if_error: bool = False
    similar: Literal["off", "lexical", "semantic"] = "off"
    similar_embed: str | Callable[[list[str]], Any] = "openai/text-embedding-3-small"
    cache_dir: str | None = None
    quota: int | None = 2_000_000_000
    max_cost_usd: Decimal | None = None
    max_cost_per_day_usd: Decimal | None = None
    base_url: str = OPENROUTER_URL
    attribution: bool = True
    timeout_s: float = 600.0
    shared_url: SharedUrl | None = None
    shared_namespace: str = "or-cache"
    shared_timeout_s: float = 0.5
    aliases: Mapping[str, str] = MappingProxyType({})
    origins: Mapping[str, str] = MappingProxyType({})


class Ask(NamedTuple):
    """One ask on its way through the cache.

    Attributes:
        key: The request's key.
        request: What is asked.
        policy: How the cache may be used.
        settings: The settings in force when it was made, resolved once.
        parent: The key of the answer that it replies to; empty is none. Not in the key, which has its text.
        attached: What was attached to it, for people; not in the key.
        schema: What the answer is to be; None is not said. What the model sees of it is in the request.
        repair: How many times more is asked when an answer is not that.
    """

    key: RequestKey
    request: Request
    policy: Policy
    settings: Settings
    parent: str = ""
    attached: tuple[Attached, ...] = ()
    schema: Schema | None = None
    repair: int = 0


class Setting(NamedTuple):
    """One setting: how its text is read, and what it means."""

    name: str
    parse: Callable[[Any], Any]
    help: str


def text(value: Any) -> str:
    """Return a text that isn't blank and can be written; raises ValueError."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("takes a text")
    if value.encode(errors="ignore").decode() != value:  # half a surrogate pair
        raise ValueError("takes a text")
    return str.__str__(value)


def _optional(parse: Callable[[Any], Any], or_none: str = "") -> Callable[[Any], Any]:
    def parsed(value: Any) -> Any:
        if value is None or str(value).strip().lower() == "none":
            return None
        try:
            return parse(value)
        except ValueError as exc:
            raise ValueError(f"{exc}{or_none}") from None

    return parsed


def number(low: float, high: float = math.inf) -> Callable[[Any], float]:
    """Return a check that gives a finite number in these bounds, of a number or its text."""

    def parsed(value: Any) -> float:
        try:
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if not low <= found <= high or math.isinf(found):
            bound = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise ValueError(f"takes a number {bound}")
        return found

    return parsed


def whole(low: int = 1, high: int = 2**31 - 1) -> Callable[[Any], int]:
    """Return a check that gives a whole number in these bounds, of a number or its text."""

    def parsed(value: Any) -> int:
        try:
            found = None if isinstance(value, bool) else int(value)
        except (TypeError, ValueError, OverflowError):
            found = None
        if found is None or (not isinstance(value, str) and found != value) or not low <= found <= high:
            raise ValueError(f"takes a whole number from {low} to {high}")
        return found

    return parsed


_TRUE: Final = ("true", "on", "yes", "1")
_FALSE: Final = ("false", "off", "no", "0")


def _flag(value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in (*_TRUE, *_FALSE):
        raise ValueError("takes true or false")
    return word in _TRUE


def one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    """Return a check that gives one of these words."""

    def parsed(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"takes one of {', '.join(choices)}")
        return str(value)

    return parsed


def _size(value: Any) -> int:
    return parse_size(f"{value}B" if type(value) is int else str(value))


def _url(value: Any) -> str:
    url = text(value).strip().rstrip("/")
    parts = urlsplit(url)  # raises ValueError too
    if (
        parts.scheme not in ("https", "http")
        or not parts.hostname
        or parts.port == 0
        or parts.query
        or parts.fragment
        or not url.isprintable()
    ):
        raise ValueError("takes an http(s) URL without a query")
    if "@" in parts.netloc:
        raise ValueError("takes a URL without a user or password: the key is sent by itself")
    if path := re.search(_PATHS, url):
        raise ValueError(f"takes what stands before {path[0]}: {url[: path.start()]}")
    return url


_PATHS: Final = r"/(?:chat/completions|completions|chat|models|embeddings|responses|messages|key|credits)$"
"""How the URL of one of the API's paths ends, which is not the base of all."""


def _folder(value: Any) -> str:
    folder = text(value)
    try:
        return folder if folder == MEMORY else str(Path(folder).expanduser())
    except RuntimeError:
        raise ValueError("its user has no home folder here") from None


def _embedder(value: Any) -> Any:
    return value if callable(value) else text(value).strip()


def _namespace(value: Any) -> str:
    namespace = text(value).strip()
    if not re.fullmatch(_NAMESPACE, namespace):
        raise ValueError("takes up to 64 letters, digits, dots, hyphens and underscores")
    return namespace


def _aliases(value: Any) -> Mapping[str, str]:
    if isinstance(value, str):
        value = dict(pair.partition(":")[::2] for pair in value.split(",") if pair.strip())
    if not isinstance(value, Mapping) or not all(
        isinstance(k, str) and isinstance(v, str) and k.strip() and v.strip() for k, v in value.items()
    ):
        raise ValueError("takes NAME:MODEL, several with commas")
    return {k.strip(): v.strip() for k, v in value.items()}


_LEFT_OUT: Final = ", or none to leave it out"

SETTINGS: Final[Mapping[str, Setting]] = {
    s.name: s
    for s in (
        Setting("model", _optional(text), "the model asked when none is named"),
        Setting("system", _optional(text), "the system prompt when none is given"),
        Setting("temperature", _optional(number(0, 2), _LEFT_OUT), "sent explicitly; none sends none"),
        Setting("max_tokens", _optional(whole(), _LEFT_OUT), "the answer's limit; none sends none"),
        Setting("format", one_of(FORMATS), "how answers are shown: " + ", ".join(FORMATS)),
        Setting("receipt", one_of(RECEIPTS), "the line below an answer: " + ", ".join(RECEIPTS)),
        Setting("stream", _flag, "show the answer as it comes"),
        Setting("mode", one_of(MODES), "how the completion cache is used: " + ", ".join(MODES)),
        Setting(
            "ttl",
            _optional(parse_lifetime),
            "lifetime of new entries: 30m, 24h, 7d, never; none: by the model",
        ),
        Setting(
            "volatile_ttl", parse_lifetime, "lifetime where the same request may answer otherwise tomorrow"
        ),
        Setting("cache_sampled", _flag, "store answers above temperature 0 too"),
        Setting("stale_if_error", _flag, "serve an expired answer when the call fails"),
        Setting(
            "similar", one_of(SIMILAR), "suggest stored prompts that ask the same: " + ", ".join(SIMILAR)
        ),
        Setting(
            "similar_embed", _embedder, "what compares them by meaning: an embedding model, or a function"
        ),
        Setting("cache_dir", _optional(_folder), "the cache's folder; :memory: keeps it in memory"),
        Setting("quota", _optional(_size), "the entries' size above which receipts warn: 500MB, 2GB, none"),
        Setting("max_cost_usd", _optional(parse_usd), "the most that a session may spend; none: no limit"),
        Setting(
            "max_cost_per_day_usd", _optional(parse_usd), "the most that a day may cost in this cache; none"
        ),
        Setting("base_url", _url, "the API's base URL"),
        Setting("attribution", _flag, "tell OpenRouter which tool asks (shown in its public rankings)"),
        Setting("timeout_s", number(0.001, 86_400), "seconds without a byte after which a call is given up"),
        Setting(
            "shared_url",
            _optional(parse_shared_url),
            "the team's server: redis://, rediss:// or memcached://",
        ),
        Setting("shared_namespace", _namespace, "the team's part of the server"),
        Setting("shared_timeout_s", number(0.01, 60), "the most that a question to the server may cost"),
        Setting("aliases", _aliases, "short names of models: fast:openai/gpt-4o-mini,big:…"),
    )
}
"""Every setting by its name."""

NEVER_FROM_A_PROJECT: Final = {
    "base_url": "a project must not choose where your API key is sent; set OPENROUTER_BASE_URL instead",
    "shared_url": "a project must not choose where your answers are sent; set OR_CACHE_SHARED_URL instead",
}
"""A pyproject.toml is untrusted input: it may come with a notebook."""


def parse_setting(name: str, value: Any, origin: str) -> Any:
    """Return the value that `value` (text, or a TOML value) stands for.

    Raises:
        SettingError: There is no such setting, or it does not take this value.
    """
    setting = SETTINGS.get(name)
    if setting is None:
        near = near_name(name, SETTINGS)
        hint = f"did you mean {near}?" if near else "the settings are " + ", ".join(SETTINGS)
        raise SettingError(f"no setting {name!r} (from {origin})", hint)
    if isinstance(value, str) and name != "shared_url" and b"sk-" in value.encode("ascii", "ignore").lower():
        from or_cache_magic.core.secrets import looks_like_key  # a hit needs none of it

        if looks_like_key(value):
            raise SettingError(
                f"{name} (from {origin}) holds an API key, which is never sent",
                "set OPENROUTER_API_KEY, or run %openrouter_key",
            )
    try:
        return setting.parse(value)
    except (ValueError, ArithmeticError) as exc:
        # The URL may hold a password, even where it is no URL.
        shown = "…" if name == "shared_url" or (name == "base_url" and "@" in str(value)) else repr(value)
        raise SettingError(f"{name} = {shown} (from {origin}): {exc}", f"{name}: {setting.help}") from exc


_SEARCH_AGAIN_S: Final = 1.0
"""A project's file that appears is noticed within a second; one that changes, at once."""


class Project:
    """The settings of the project that a folder is in, read again when its file changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path: Path | None = None
        self._searched_s = -_SEARCH_AGAIN_S
        self._read: tuple[object, dict[str, tuple[Any, str]]] = (None, {})

    def values(self) -> dict[str, tuple[Any, str]]:
        """Return by setting its value and the file; empty without a file or a section of ours.

        Raises:
            SettingError: The file is not TOML, or sets what it may not.
        """
        now_s = time.monotonic()
        if now_s - self._searched_s >= _SEARCH_AGAIN_S:
            self._path, self._searched_s = find_pyproject(self.folder), now_s
        path = self._path
        if path is None:
            return {}
        try:
            now = path.stat()
        except OSError:
            return {}
        seen = (path, now.st_mtime_ns, now.st_size)
        if self._read[0] != seen:
            self._read = (seen, _read_project(path))
        return self._read[1]


def _read_project(path: Path) -> dict[str, tuple[Any, str]]:
    values: dict[str, tuple[Any, str]] = {}
    for name, value in settings_table(path, SETTINGS).items():
        if name in NEVER_FROM_A_PROJECT:
            raise SettingError(f"{name} in {path} is refused", NEVER_FROM_A_PROJECT[name])
        parsed = parse_setting(name, value, str(path))
        if name == "cache_dir" and parsed not in (None, MEMORY):
            if leads_out(path.parent, parsed):
                raise SettingError(f"cache_dir = {value!r} in {path} is refused", _LEADS_OUT)
            parsed = str(path.parent / parsed)
        values[name] = (parsed, str(path))
    return values


_LEADS_OUT: Final = (
    "a project's file names a folder within the project; another one is named by OR_CACHE_DIR,"
    " or by %openrouter_config without --save"
)


def _refuse_variables(environ: Mapping[str, str]) -> None:
    """Refuse a variable that was meant as one of `ENVIRONMENT`: its limit would silently not be in force.

    Raises:
        SettingError: There is one; says which was meant.
    """
    for variable in environ:
        upper = variable.upper()
        if not upper.startswith(("OR_CACHE", "ORCACHE", "OPENROUTER_")):
            continue
        if variable in ENVIRONMENT or variable in _OTHER_VARIABLES or not environ[variable].strip():
            continue
        hint = _meant_variable(upper)
        if hint:
            raise SettingError(f"the environment has {variable}, which sets nothing; nothing was sent", hint)


def _meant_variable(upper: str) -> str:
    """Return the hint for a variable that we don't know; empty where it may be another tool's."""
    if upper.startswith("OPENROUTER_"):
        slip = slip_of(upper.removeprefix("OPENROUTER_"), ("MODEL", "BASE_URL"))
        # A list of models is another tool's.
        return f"did you mean OPENROUTER_{slip}?" if slip and upper != f"OPENROUTER_{slip}S" else ""
    name = upper.removeprefix("OR_CACHE").removeprefix("ORCACHE").strip("_")
    of_setting = {setting: variable for variable, setting in ENVIRONMENT.items()}
    if name.lower() in SETTINGS and name.lower() not in of_setting:
        return f"no variable sets {name.lower()}; [tool.or_cache_magic] and %openrouter_config do"
    own = {known[9:]: known for known in (*ENVIRONMENT, *_OTHER_VARIABLES) if known.startswith("OR_CACHE_")}
    near = slip_of(name, own) or next(filter(name.startswith, own), "") or near_name(name, own)
    meant = of_setting.get(name.lower()) or own.get(near)
    return f"did you mean {meant}?" if meant else f"there are {', '.join(own.values())}"


_OTHER_VARIABLES: Final = ("OR_CACHE_SHARED_SECRET", "OPENROUTER_API_KEY")
"""What is read from the environment and is no setting."""


def load_settings(environ: Mapping[str, str], project: Project, config: Mapping[str, Any]) -> Settings:
    """Return the settings in force.

    Args:
        environ: The process's environment.
        project: The project's settings.
        config: What the kernel's configuration sets, by setting; None is not set.

    Raises:
        SettingError: An unknown setting, or a value it does not take.
    """
    found = dict(project.values())
    _refuse_variables(environ)
    for variable, name in ENVIRONMENT.items():
        text = environ.get(variable, "")
        if text.strip():
            found[name] = (parse_setting(name, text, variable), variable)
    for name, value in config.items():
        if value is not None:
            found[name] = (parse_setting(name, value, "configuration"), "configuration")
    values = {name: value for name, (value, _) in found.items()}
    return Settings(**values, origins={name: origin for name, (_, origin) in found.items()})


assert set(Settings._fields) - {"origins"} == SETTINGS.keys()  # noqa: S101 - one table, two spellings


def save_settings(folder: Path, changes: Mapping[str, str]) -> Path:
    """Write `changes` (text, checked before) under ``[tool.or_cache_magic]``; the file that was written.

    The file is the nearest ``pyproject.toml`` at or above `folder`, or a new one in it.

    Raises:
        SettingError: A setting that no project may set, or a file that can't be read or written.
    """
    for name in changes:
        if name in NEVER_FROM_A_PROJECT:
            raise SettingError(f"{name} is not saved; nothing was changed", NEVER_FROM_A_PROJECT[name])
    path = find_pyproject(folder) or folder / "pyproject.toml"
    named = parse_setting("cache_dir", changes.get("cache_dir"), "configuration")
    if named not in (None, MEMORY) and leads_out(path.parent, named):
        raise SettingError("cache_dir is not saved; nothing was changed", _LEADS_OUT)
    import tomlkit

    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8-sig") if path.exists() else "")
        tool = document.setdefault("tool", tomlkit.table(is_super_table=True))
        section = tool.setdefault("or_cache_magic", tomlkit.table())
        section.update({name: _as_toml(name, text) for name, text in changes.items()})
        path.write_text(tomlkit.dumps(document), encoding="utf-8")
    except (OSError, UnicodeDecodeError, tomlkit.exceptions.TOMLKitError) as exc:
        raise SettingError(f"{path} can't be changed: {exc}", "mend it, or set it without --save") from exc
    return path


def _as_toml(name: str, text: str) -> Any:
    """Return `text` as a number or a truth value where it stands for one, as TOML has it; else as it is."""
    import tomlkit

    try:
        value = tomlkit.value(text).unwrap()
        same: bool = parse_setting(name, value, "") == parse_setting(name, text, "")
    except (tomlkit.exceptions.TOMLKitError, SettingError):
        return text
    return value if same else text
