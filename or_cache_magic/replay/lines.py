"""A line of a pack: one answer with its request as JSON, and back; what comes from a stranger is checked.

A line begins with the key, so that a sorted pack has the lines of a request together, and its entry first.
The same answer is the same line wherever it is: what two packs have in common, ``sort -u`` keeps once. The
key is computed from the request. That which a line names is for sorting and finding; where it should be the
same and is another, the one or the other was changed.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from decimal import InvalidOperation
from typing import Any, Final

from or_cache_magic.core.blocks import read_json
from or_cache_magic.core.chat import is_embedding
from or_cache_magic.core.code_secrets import has_password, without_tokens
from or_cache_magic.core.key import KEY_VERSION, request_key
from or_cache_magic.core.media import attached_from
from or_cache_magic.core.options import OPTIONS, plain
from or_cache_magic.core.policy import why_implausible, why_not_stored
from or_cache_magic.core.records import OPENROUTER_URL, Answer, Entry, Request, RequestKey
from or_cache_magic.core.settings import parse_setting
from or_cache_magic.errors import OrCacheError, printable
from or_cache_magic.storage.codec import NUMBERS, answer_from, answer_json, check, is_shallow
from or_cache_magic.storage.media import put_back, take_out
from or_cache_magic.storage.transfer import Kept

PACK_SCHEMA: Final = 1
"""Number of this form of a line; a reader refuses a higher one."""

LONGEST_LINE: Final = 1 << 25
"""The most bytes of a line: media that makes one longer goes into files."""

_HEAD: Final = re.compile(
    rb'{"key":"([0-9a-f]{64})","pack":(\d{1,3}),"keys":(\d{1,3}),"kind":"(entry|history)"'
)
_MOST_PARTS: Final = 500_000
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_PARENT: Final = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME: Final = 5_000
_LATEST_S: Final = 9e9
_NUMBER_BYTES: Final = 4

ReadMedia = Callable[[str | None, bytes], str]
"""Returns the media of a digest, with what stands before it; raises `LookupError` where there is none."""


class LineError(Exception):
    """A line that is no answer of ours; its text is why."""


class SecretInPrompt(Exception):  # noqa: N818 - caught where it is said
    """A key or a token stands in a request."""


class Head:
    """How a line begins: what finds it without reading it whole."""

    __slots__ = ("digest", "is_current", "is_entry")

    def __init__(self, digest: bytes, *, is_current: bool, is_entry: bool) -> None:
        #: The 32 bytes of the key that it names.
        self.digest = digest
        #: Whether that is of this version of the keys.
        self.is_current = is_current
        #: Whether it is served.
        self.is_entry = is_entry


def head_of(raw: bytes) -> Head | None:
    """Return how a line begins; None where it begins as none of this version does."""
    found = _HEAD.match(raw)
    if found is None or int(found[2]) > PACK_SCHEMA:
        return None
    is_current = int(found[3]) == KEY_VERSION
    return Head(bytes.fromhex(found[1].decode()), is_current=is_current, is_entry=found[4] == b"entry")


def line_of(kept: Kept, secret: str = "", media: dict[bytes, bytes] | None = None) -> bytes:
    """Return the line of an answer, with its end.

    Secrets in the answer and its labels are hidden.

    Args:
        kept: The answer and its request.
        secret: The OpenRouter key in use, which stands nowhere in a pack.
        media: Takes large media, which is then not in the line; None leaves it there.

    Raises:
        SecretInPrompt: A secret stands in the request, which can't be changed: it would be another.
        LineError: It can't be written as a line.
    """
    entry, request = kept.entry, kept.request
    apart: dict[bytes, bytes] = {}
    # Media is no text to look for secrets in: megabytes of letters without a meaning.
    body, in_body = take_out(dict(request.body), apart, decoded=True)
    answer, in_answer = take_out(answer_json(entry.answer), apart, decoded=True)
    if asks_with_secret(said := _asked(request, body), secret):
        raise SecretInPrompt
    told = {"answer": answer, **_labels(kept)}
    if has_secret(told, secret):
        told = without_secrets(told, secret)
    kind = "history" if kept.reason else "entry"
    form = {"key": entry.key.digest, "pack": PACK_SCHEMA, "keys": KEY_VERSION, "kind": kind, **said, **told}
    places = [[["request", *path], *what] for path, *what in in_body]
    places += [[["answer", *path], *what] for path, *what in in_answer]
    try:
        if media is None:
            put_back(form, places, lambda head, digest: media_text(head, apart[digest]))
        elif places:
            media.update(apart)
            form["media"] = places
        # Half of a surrogate pair, which a model may write, is an escape: the file is UTF-8 for all.
        line = _to_json(form).encode("utf-8", "backslashreplace") + b"\n"
    except (LookupError, TypeError, ValueError) as exc:
        raise LineError(str(exc)) from None
    if len(line) > LONGEST_LINE:
        raise LineError(f"it is longer than {LONGEST_LINE >> 20} MB")
    return line


def kept_from(raw: bytes, read: ReadMedia) -> Kept:
    """Return the answer of a line, which may be anything.

    Args:
        raw: The line, with or without its end.
        read: Reads the media that is not in it.

    Raises:
        LineError: It is none, it can't be true, or it is none that would have been stored.
    """
    try:
        form = _form(raw)
        if "media" in form:
            put_back(form, form["media"], read)
        request = _request(form)
        key = request_key(request)
        if form["keys"] == KEY_VERSION and form["key"] != key.digest:
            raise LineError(f"its key is not that of its request, {key.digest[:10]}")
        entry = _entry(form, key)
        if is_embedding(request.body):
            _check_vector(entry.answer)
        reason, parent = _text(form.get("reason", "")), form.get("parent", "")
        at_s = form["at"] if form["kind"] == "history" else 0.0
        check(NUMBERS, at_s)
        if parent and not _PARENT.fullmatch(parent):
            raise LineError("its parent is no key")
        if not 0 <= at_s < _LATEST_S or (form["kind"] == "history") != bool(reason):
            raise LineError("it does not say since when and why it is history")
        why = why_implausible(entry) or (None if reason else _why_not_served(request, entry))
    except OrCacheError as exc:
        raise LineError(str(exc.args[0])) from None
    except (LookupError, TypeError, ValueError, AttributeError, InvalidOperation, RecursionError) as exc:
        raise LineError(f"it is no answer of a completion cache ({type(exc).__name__})") from None
    if why is not None:
        raise LineError(f"it has {why}" if why_implausible(entry) else why)
    return Kept(request, entry, parent, reason, float(at_s))


def media_text(head: str | None, raw: bytes) -> str:
    """Return media as it stands in a request or an answer, with what stands before its base64."""
    return (head or "") + b64encode(raw).decode()


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _asked(request: Request, body: Any) -> dict[str, Any]:
    said = {"request": body}
    if request.sample:
        said["sample"] = request.sample
    if not request.stream:
        said["stream"] = False
    if request.base_url.removesuffix("/") != OPENROUTER_URL:
        said["base_url"] = request.base_url
    return said


def _labels(kept: Kept) -> dict[str, Any]:
    entry = kept.entry
    told: dict[str, Any] = {"created": entry.created_s}
    if kept.reason:
        told |= {"at": kept.at_s, "reason": kept.reason}
    if entry.expires_s is not None:
        told["expires"] = entry.expires_s
    for name, value in (
        ("tags", list(entry.tags)),
        ("notebook", entry.notebook),
        ("by", entry.bought_by),
        ("parent", kept.parent),
        ("attached", [list(one) for one in entry.attached]),
    ):
        if value:
            told[name] = value
    return told


def asks_with_secret(form: Any, secret: str) -> bool:
    """Return whether a key, a token or a password stands in a request.

    In an answer a password is none that anybody has, unless the request told it: a model made it up.
    """
    return has_secret(form, secret) or any(map(has_password, _texts(form)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def has_secret(form: Any, secret: str) -> bool:
    """Return whether a key or a token stands in a JSON value."""
    text = _to_json(form)
    return without_tokens(text, secret) != text


def without_secrets(value: Any, secret: str) -> Any:
    """Return a JSON value without keys and tokens in its texts."""
    if isinstance(value, str):
        return without_tokens(value, secret)
    if isinstance(value, Mapping):
        return {without_tokens(name, secret): without_secrets(item, secret) for name, item in value.items()}
    return [without_secrets(item, secret) for item in value] if isinstance(value, (list, tuple)) else value


def _form(raw: bytes) -> dict[str, Any]:
    if len(raw) > LONGEST_LINE - 1:
        raise LineError(f"it is longer than {LONGEST_LINE >> 20} MB")
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > _MOST_PARTS:
        bare = _STRING.sub(b"", raw)  # a text may have as many commas as it likes
        if bare.count(b",") + bare.count(b"[") + bare.count(b"{") > _MOST_PARTS:
            raise LineError("it has too many parts")
    form = read_json(raw.decode())
    if type(form) is not dict or type(form.get("pack")) is not int:
        raise LineError("it is no line of a pack")
    if form["pack"] > PACK_SCHEMA:
        raise LineError("a newer version of or_cache_magic wrote it")
    if form["kind"] not in ("entry", "history") or type(form["keys"]) is not int or not is_shallow(form):
        raise LineError("it is no line of a pack")
    return form


def _request(form: dict[str, Any]) -> Request:
    body, stream = form["request"], form.get("stream", True)
    if type(body) is not dict or type(stream) is not bool:
        raise LineError("it has no request")
    if type(body.get("messages")) is not list and not is_embedding(body):
        raise LineError("its request has no messages")
    base_url = parse_setting("base_url", form["base_url"], "a pack") if "base_url" in form else OPENROUTER_URL
    return Request(plain(body, "its request"), stream, OPTIONS["sample"](form.get("sample", 0)), base_url)


def _check_vector(answer: Answer) -> None:
    """Raise where the answer to a request for a vector has none: whole numbers of 32 bits, in base64."""
    try:
        raw = b64decode(answer.choices[0].message["embedding"], validate=True)
    except (LookupError, TypeError, ValueError):
        raw = b""
    if not raw or len(raw) % _NUMBER_BYTES:
        raise LineError("its answer is no vector")


def _entry(form: dict[str, Any], key: RequestKey) -> Entry:
    created_s, expires_s = form["created"], form.get("expires")
    check(NUMBERS, created_s, created_s if expires_s is None else expires_s)
    tags = form.get("tags", [])
    if type(tags) is not list:
        raise LineError("its labels are none")
    return Entry(
        key,
        answer_from(form["answer"]),
        created_s,
        expires_s,
        OPTIONS["tag"](tags),
        _text(form.get("notebook", "")),
        _text(form.get("by", "")),
        attached=attached_from(form.get("attached", [])),
    )


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > _LONGEST_NAME:
        raise TypeError(value)
    return printable(value)


def _why_not_served(request: Request, entry: Entry) -> str | None:
    """Return why this would not have been stored: only what we would have kept ourselves is taken.

    Whether it fits its schema is not looked at: a stranger's schema could keep this machine busy for ever.
    """
    wanted = request.body.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema":
        request = request._replace(body={**request.body, "response_format": {"type": "json_object"}})
    return why_not_stored(request, entry.answer)
