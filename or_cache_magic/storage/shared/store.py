"""`SharedStore`: the team's answers, sealed on the way out and distrusted on the way in."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from or_cache_magic.core.records import EntryFilter
from or_cache_magic.errors import NewerStoreError, StoreCorruptError, StoreError
from or_cache_magic.storage.codec import decode_entry, encode_entry
from or_cache_magic.storage.shared.about import about, means
from or_cache_magic.storage.shared.link import Link
from or_cache_magic.storage.shared.secrecy import Secrecy, secret_from
from or_cache_magic.storage.shared.server import LARGEST_BYTES, SHARDS, Foreign, Server, TooLarge
from or_cache_magic.storage.shared.sound import why_unsound

if TYPE_CHECKING:
    from or_cache_magic.core.records import Entry, Request, RequestKey
    from or_cache_magic.core.shared_url import SharedUrl

__all__ = ["SharedStore", "open_shared"]

_LARGEST_PAYLOAD_BYTES: Final = 1 << 25  # of a value when inflated: a server's kilobytes can be gigabytes
_STEP_LIMIT_S: Final = 5.0  # of one step of a purge, which its asker waits for on purpose
_CHUNK: Final = 1000

_T = TypeVar("_T")


class SharedStore:
    """The answers of a team on one server. Thread-safe, and safe to use after a fork.

    Looking up and keeping never raise: a server that fails is as good as none, and told about by the
    link. What it holds and this package did not write is refused, told about once of each kind, and asked
    for upstream.

    Args:
        link: The way to the server.
        secrecy: What the server gets to know.
        clock: Tells UTC epoch seconds.
    """

    def __init__(self, link: Link, secrecy: Secrecy, *, clock: Callable[[], float] = time.time) -> None:
        self.link = link
        self.secrecy = secrecy
        self._clock = clock
        self._told: set[str] = set()

    def get(self, key: RequestKey) -> Entry | None:
        """The team's entry of a request, with ``shared`` set; None when there is none to be had."""
        name = self.secrecy.name(key.digest)
        try:
            sealed = self.link.ask(lambda server: server.get(name))
            return None if sealed is None else self._entry(key, sealed)
        except Foreign as exc:
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
        """Keeps an entry for the team, without the notebook it was asked from, until it expires."""
        ttl_s = None if entry.expires_s is None else entry.expires_s - self._clock()
        if ttl_s is not None and ttl_s <= 0:
            return
        digest, name = entry.key.digest, self.secrecy.name(entry.key.digest)
        theirs = entry._replace(
            key=entry.key._replace(skeleton=self.secrecy.fingerprint(entry.key.skeleton)),
            notebook="",
            bought_by=entry.bought_by or self.secrecy.payer(),
        )
        with suppress(StoreError):  # told by the link
            value = self.secrecy.seal(digest, encode_entry(theirs))
            self._send(name, value, about(entry, request, self.secrecy), ttl_s)

    def purge(self, wanted: EntryFilter, digests: Collection[str] = ()) -> int:
        """Removes entries for everyone; how many there were on the server, as far as it can tell.

        Asks also a server that is left alone just now.

        Args:
            wanted: Which; without conditions it is all of the namespace.
            digests: Keys that are known to be meant, which a server without an index needs to be told.

        Raises:
            StoreUnavailableError: Not all could be removed.
        """
        everything = wanted == EntryFilter()
        names = [] if everything else sorted(map(self.secrecy.name, digests))
        removed = self._remove(names)
        for shard in SHARDS:
            found = self._index(shard)
            chosen = [n for n, said in found or () if everything or means(n, said, wanted, self.secrecy)]
            removed += self._remove(chosen)
            if everything:
                self._clear(shard)
            if found is None:
                break
        return removed

    def _remove(self, names: Sequence[str]) -> int:
        return sum(self._remove_some(names[i : i + _CHUNK]) for i in range(0, len(names), _CHUNK))

    def _remove_some(self, names: Sequence[str]) -> int:
        return self._step(lambda server: server.remove(names))

    def _clear(self, shard: str) -> None:
        self._step(lambda server: server.clear(shard))

    def _index(self, shard: str) -> list[tuple[str, bytes]] | None:
        try:
            return self._step(lambda server: server.index(shard))
        except Foreign as exc:
            self._tell("index", f"holds {exc}, where its index should be")
            return []

    def _step(self, work: Callable[[Server], _T]) -> _T:
        return self.link.ask(work, insist=True, limit_s=max(self.link.timeout_s, _STEP_LIMIT_S))

    def close(self) -> None:
        """Closes the connections; the next use opens new ones."""
        self.link.close()

    def _send(self, name: str, value: bytes, said: bytes, ttl_s: float | None) -> None:
        fits = len(value) <= LARGEST_BYTES
        try:
            if fits:
                self.link.ask(lambda server: server.put(name, value, said, ttl_s), writes=True)
        except TooLarge:
            fits = False
        except Foreign as exc:
            self._tell("place", f"holds {exc}, where answers should be; it was left alone")
        if not fits:
            size = f"{len(value) / 1e6:.1f} MB"
            self._tell("large", f"takes no answer of {size}; such are kept on this machine only")

    def _entry(self, key: RequestKey, sealed: bytes) -> Entry:
        blob = self.secrecy.unseal(key.digest, sealed)
        entry = decode_entry(key.digest, blob, largest_bytes=_LARGEST_PAYLOAD_BYTES)
        if entry.key.skeleton != self.secrecy.fingerprint(key.skeleton):
            raise StoreCorruptError("It answers another request.")
        why = why_unsound(entry)
        if why is not None:
            raise Foreign(f"an answer with {why}")
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
    """The shared tier at a URL; connects at its first use.

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
    secrecy = Secrecy(namespace, secret_from(environ))

    def connect() -> Server:
        if url.scheme == "memcached":
            from or_cache_magic.storage.shared.memcached import MemcachedServer

            return MemcachedServer(url, secrecy.namespace, timeout_s)
        from or_cache_magic.storage.shared.redis import RedisServer

        return RedisServer(url, secrecy.namespace, timeout_s)

    return SharedStore(Link(url, connect, timeout_s=timeout_s, tell=tell), secrecy, clock=clock)
