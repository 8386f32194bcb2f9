"""`SharedStore`: the team's answers, signed on the way out and distrusted on the way in."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, TypeVar

from or_cache_magic.core.chat import asked_model, last_prompt, system_prompt
from or_cache_magic.core.key import system_digest
from or_cache_magic.core.records import Entry, Request, RequestKey
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import NewerStoreError, SettingError, StoreCorruptError, StoreError
from or_cache_magic.storage.codec import HEAD_CHARS, decode_entry, encode_entry
from or_cache_magic.storage.shared.link import Link
from or_cache_magic.storage.shared.server import LARGEST_BYTES, SHARDS, Server, TooLarge, UntrustedValue

if TYPE_CHECKING:
    from or_cache_magic.core.settings import SharedUrl

SECRET_VARIABLE: Final = "OR_CACHE_SHARED_SECRET"  # noqa: S105 - its name
"""Environment variable of the secret. It is no setting: it is nowhere kept, saved or shown."""

_SHORTEST_SECRET: Final = 16
_MAC_BYTES: Final = 16
_PAYER_DIGITS: Final = 12


def secret_from(environ: Mapping[str, str]) -> str:
    """Return the secret in the environment; empty is none.

    Raises:
        SettingError: It is too short to be one. It is not repeated.
    """
    secret = environ.get(SECRET_VARIABLE, "").strip()
    if secret and len(secret) < _SHORTEST_SECRET:
        raise SettingError(
            f"{SECRET_VARIABLE} is shorter than {_SHORTEST_SECRET} characters (nothing was sent)",
            'make one: python -c "import secrets; print(secrets.token_hex(32))"',
        )
    return secret


class Signing:
    """The names and seals of one namespace, with the team's secret if it has one. Immutable."""

    def __init__(self, namespace: str, secret: str = "") -> None:
        self._secret = secret.encode()
        self._namespace = namespace
        #: Whether there is a secret.
        self.secret = bool(secret)
        #: The namespace on the server; each secret has its own, so that a purge of all means its own.
        self.namespace = f"{namespace}.{self._digest('namespace', b'')[:8]}" if secret else namespace

    def name(self, digest: str) -> str:
        """Return the 64 hex digits under which the server knows a key."""
        return self._digest("name", digest.encode()) if self.secret else digest

    def system(self, digest: str) -> str:
        """Return how the index tells a system prompt, by its digest: 32 hex digits."""
        return (self._digest("system", digest.encode()) if self.secret else digest)[:32]

    def fingerprint(self, skeleton: bytes) -> bytes:
        """Return 32 bytes that stand for a canonical request on the server, which may hold prompts."""
        return bytes.fromhex(self._digest("request", skeleton))

    def payer(self) -> str:
        """Return 12 hex digits that tell who this is: the same for a person on one machine."""
        import getpass

        try:
            user = getpass.getuser()
        except (OSError, KeyError, ImportError):  # a container's user without a name
            user = str(os.getuid()) if hasattr(os, "getuid") else ""
        return self._digest("payer", f"{user}@{socket.gethostname()}".encode())[:_PAYER_DIGITS]

    def sign(self, digest: str, value: bytes) -> bytes:
        """Return a value as it goes to the server."""
        return self._mac(digest, value) + value if self.secret else value

    def verify(self, digest: str, signed: bytes) -> bytes:
        """Return the value of `sign`.

        Raises:
            UntrustedValue: It was signed without the secret.
        """
        if not self.secret:
            return signed
        mac, value = signed[:_MAC_BYTES], signed[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(digest, value)):
            raise UntrustedValue("a value that was not written with the team's secret")
        return value

    def _mac(self, digest: str, value: bytes) -> bytes:
        return bytes.fromhex(self._digest("value", digest.encode() + value))[:_MAC_BYTES]

    def _digest(self, purpose: str, data: bytes) -> str:
        text = f"or_cache_magic {purpose} {self._namespace}\n".encode() + data
        if self._secret:
            return hmac.new(self._secret, text, hashlib.sha256).hexdigest()
        return hashlib.sha256(text).hexdigest()


_JUDGED: Final = (
    *("keys", "model", "system", "tag", "prefix"),
    *("created_after_s", "created_before_s", "expired_at_s"),
)
"""The conditions that an index can judge."""


def index_metadata(entry: Entry, request: Request, signing: Signing) -> bytes:
    """Return what the index says of an entry, as JSON.

    The prompt's beginning is in it only without a secret: with one, no prompt reaches the server.
    """
    system = system_prompt(request.body)
    said = {
        "created": entry.created_s,
        "expires": entry.expires_s,
        "models": [asked_model(request.body), entry.answer.model],
        "prompt": None if signing.secret else last_prompt(request.body)[:HEAD_CHARS],
        "system": None if system is None else signing.system(system_digest(system)),
        "tags": entry.tags,
    }
    return json.dumps(said, separators=(",", ":")).encode()


def matches(name: str, metadata: bytes, wanted: EntryFilter, signing: Signing) -> bool:
    """Return whether an entry with this index metadata meets every condition of a purge.

    What the index can't tell is left alone: a text within, a prefix longer than what it keeps of a prompt,
    and with a secret every prefix, of a prompt or of a key.
    """
    judged: dict[str, Any] = {name: EntryFilter._field_defaults[name] for name in _JUDGED}
    if not wanted._replace(**judged).unconditional:
        return False  # another condition, which only a disk can judge
    try:
        facts = json.loads(metadata)
        return _named(name, wanted, signing) and _holds(facts, wanted, signing)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False  # not ours; a purge of all takes it too


def _named(name: str, wanted: EntryFilter, signing: Signing) -> bool:
    keys = [key.strip().lower() for key in wanted.keys]
    if signing.secret:
        return not keys or name in map(signing.name, keys)
    return not keys or name.startswith(tuple(keys))


def _holds(facts: dict[str, Any], wanted: EntryFilter, signing: Signing) -> bool:
    created_s, expires_s = facts["created"], facts["expires"]
    after_s, before_s, now_s = wanted.created_after_s, wanted.created_before_s, wanted.expired_at_s
    return (
        (not wanted.model or any(_model_matches(model, wanted.model) for model in facts["models"]))
        and (wanted.system is None or facts["system"] == signing.system(system_digest(wanted.system)))
        and (not wanted.tag or wanted.tag in facts["tags"])
        and (not wanted.prefix or (facts["prompt"] or "").startswith(wanted.prefix))
        and (after_s is None or created_s >= after_s)
        and (before_s is None or created_s < before_s)
        and (now_s is None or (expires_s is not None and expires_s <= now_s))
    )


def _model_matches(model: str | None, pattern: str) -> bool:
    # In fnmatch a bracket opens a set; in a model's name it is a character.
    return model is not None and fnmatchcase(model, pattern.replace("[", "[[]"))


_LATEST_S: Final = (1 << 31) - 1
"""The latest end that every server takes; what lives longer stays there, and its own end is looked at."""

_LARGEST_PAYLOAD_BYTES: Final = 1 << 25  # of a value when inflated: a server's kilobytes can be gigabytes
_STEP_LIMIT_S: Final = 5.0  # of one step of a purge, which its caller waits for on purpose
_CHUNK: Final = 1000

_T = TypeVar("_T")


class SharedStore:
    """The answers of a team on one server. Thread-safe, and safe to use after a fork.

    Looking up and keeping never raise: a server that fails is as good as none, and told about by the
    link. What it holds and this package did not write is refused, told about once of each kind, and asked
    for upstream.
    """

    def __init__(self, link: Link, signing: Signing, *, clock: Callable[[], float] = time.time) -> None:
        self.link = link
        self.signing = signing
        self._clock = clock
        self._told: set[str] = set()

    def get(self, key: RequestKey) -> Entry | None:
        """Return the team's entry of a request, with ``shared`` set; None when there is none to be had."""
        name = self.signing.name(key.digest)
        try:
            signed = self.link.ask(lambda server: server.get(name))
            return None if signed is None else self._entry(key, signed)
        except UntrustedValue as exc:
            self._tell("foreign", f"holds {exc}, which was not read")
        except NewerStoreError:
            self._tell("newer", "holds answers of a newer version of or_cache_magic, which were not read")
        except StoreCorruptError:
            self._tell(
                "damaged", "holds what is no answer to this request, or a damaged one; it was not read"
            )
        except StoreError:
            pass  # told by the link
        return None

    def put(self, entry: Entry, request: Request) -> None:
        """Keep an entry for the team, without the notebook it was asked from, until it expires."""
        expires_s = entry.expires_s
        ttl_s = None if expires_s is None or expires_s > _LATEST_S else expires_s - self._clock()
        if ttl_s is not None and ttl_s <= 0:
            return
        digest, name = entry.key.digest, self.signing.name(entry.key.digest)
        theirs = entry._replace(
            key=entry.key._replace(skeleton=self.signing.fingerprint(entry.key.skeleton)),
            notebook="",
            attached=(),
            bought_by=entry.bought_by or self.signing.payer(),
        )
        with suppress(StoreError):  # told by the link
            value = self.signing.sign(digest, encode_entry(theirs))
            self._send(name, value, index_metadata(entry, request, self.signing), ttl_s)

    def purge(self, wanted: EntryFilter, digests: Collection[str] = ()) -> int:
        """Remove entries for everyone; return how many there were on the server, as far as it can tell.

        Asks also a server that is left alone just now.

        Args:
            wanted: Which; without conditions it is all of the namespace.
            digests: Keys that are known to be meant, which a server without an index needs to be told.

        Raises:
            StoreUnavailableError: Not all could be removed.
        """
        everything = wanted.unconditional
        names = [] if everything else sorted(map(self.signing.name, digests))
        removed = self._remove(names)
        for shard in SHARDS:
            found = self._index(shard)
            chosen = [n for n, facts in found or () if everything or matches(n, facts, wanted, self.signing)]
            removed += self._remove(chosen)
            if everything:
                self._step(methodcaller("clear", shard))
            if found is None:
                break
        return removed

    def _remove(self, names: Sequence[str]) -> int:
        chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
        return sum(self._step(methodcaller("remove", chunk)) for chunk in chunks)

    def _index(self, shard: str) -> list[tuple[str, bytes]] | None:
        try:
            return self._step(lambda server: server.index(shard))
        except UntrustedValue as exc:
            self._tell("index", f"holds {exc}, where its index should be")
            return []

    def _step(self, work: Callable[[Server], _T]) -> _T:
        return self.link.ask(work, insist=True, limit_s=max(self.link.timeout_s, _STEP_LIMIT_S))

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self.link.close()

    def _send(self, name: str, value: bytes, metadata: bytes, ttl_s: float | None) -> None:
        fits = len(value) <= LARGEST_BYTES
        try:
            if fits:
                self.link.ask(lambda server: server.put(name, value, metadata, ttl_s), writes=True)
        except TooLarge:
            fits = False
        except UntrustedValue as exc:
            self._tell("place", f"holds {exc}, where answers should be; it was left alone")
        if not fits:
            size = f"{len(value) / 1e6:.1f} MB"
            self._tell("large", f"takes no answer of {size}; such are kept on this machine only")

    def _entry(self, key: RequestKey, signed: bytes) -> Entry:
        blob = self.signing.verify(key.digest, signed)
        entry = decode_entry(key.digest, blob, largest_bytes=_LARGEST_PAYLOAD_BYTES)
        if entry.key.skeleton != self.signing.fingerprint(key.skeleton):
            raise StoreCorruptError("It answers another request.")
        return entry._replace(key=key, shared=True)

    def _tell(self, kind: str, what: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self.link.tell(f"{self.link} {what}.")


def open_shared(
    url: SharedUrl,
    *,
    namespace: str,
    timeout_s: float,
    tell: Callable[[str], None],
    environ: Mapping[str, str],
    clock: Callable[[], float] = time.time,
) -> SharedStore:
    """Return the shared tier at a URL; connects at its first use.

    Args:
        url: Where the server is.
        namespace: The team's part of it.
        timeout_s: The most that one question to it may cost.
        tell: Takes a line for the user at each change of its state.
        environ: Where the secret is looked for.
        clock: Tells UTC epoch seconds.

    Raises:
        SettingError: The library for it is not installed, or the secret is none.
    """
    signing = Signing(namespace, secret_from(environ))

    def connect() -> Server:
        if url.scheme == "memcached":
            from or_cache_magic.storage.shared.memcached import MemcachedServer

            return MemcachedServer(url, signing.namespace, timeout_s)
        from or_cache_magic.storage.shared.redis import RedisServer

        return RedisServer(url, signing.namespace, timeout_s)

    return SharedStore(Link(url, connect, timeout_s=timeout_s, tell=tell), signing, clock=clock)
