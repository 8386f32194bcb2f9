"""`MemcachedServer`: values and leases on Memcached.

It has no index, so a purge removes what the purging machine knows by name, or all of a namespace by
giving it a new generation::

    namespace:1:generation   eight random bytes
    namespace:1:a3f…         the generation in which it was stored, then the value
    namespace:1:a3f…:lease   a lease

A value of another generation is none. A lost generation is never taken up again, so what was purged
stays away; it is asked for with each value, and so is the last thing that the server evicts.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from or_cache_magic.errors import SettingError
from or_cache_magic.storage.shared.server import (
    LARGEST_BYTES,
    LAYOUT,
    Refused,
    RefusedValue,
    TooLarge,
    UntrustedValue,
)

if TYPE_CHECKING:
    from or_cache_magic.core.settings import SharedUrl

_T = TypeVar("_T")

_GENERATION_BYTES: Final = 8
_LONGEST_RELATIVE_S: Final = 30 * 86400
"""Beyond it Memcached takes a lifetime for a date (protocol.txt, "Expiration times")."""

_AT_ONCE: Final = -1
"""A lifetime that is over (the same)."""


class MemcachedServer:
    """A namespace on a Memcached server; see `Server`.

    Raises:
        SettingError: The package ``pymemcache`` is not installed.
    """

    def __init__(self, url: SharedUrl, namespace: str, timeout_s: float) -> None:
        try:
            from pymemcache.client.base import PooledClient
        except ImportError as exc:
            raise SettingError(
                "shared_url names a Memcached server, and the package pymemcache is not installed"
                " (nothing was sent)",
                "pip install 'or-cache-magic[memcached]', or go on without it: OR_CACHE_SHARED_URL=",
            ) from exc
        self._prefix = f"{namespace}:{LAYOUT}:"
        self._generation_key = f"{self._prefix}generation"
        self._client: Any = PooledClient(
            (url.host, url.port),
            connect_timeout=timeout_s,
            timeout=timeout_s,
            no_delay=True,
            default_noreply=False,  # what is not confirmed may not have happened
        )

    def get(self, name: str) -> bytes | None:
        """See `Server.get`."""
        key = self._prefix + name
        found = self._do(lambda client: client.get_many([self._generation_key, key]))
        generation, value = found.get(self._generation_key), found.get(key)
        if value is None or generation is None or value[:_GENERATION_BYTES] != _checked(generation):
            return None
        if len(value) > LARGEST_BYTES:
            raise UntrustedValue(f"a value of {len(value) / 1e6:.0f} MB")
        return bytes(value[_GENERATION_BYTES:])

    def put(self, name: str, value: bytes, metadata: bytes, ttl_s: float | None) -> None:  # noqa: ARG002
        """See `Server.put`."""
        generation, key = self._generation(), self._prefix + name
        self._do(lambda client: client.set(key, generation + value, expire=_expiry(ttl_s)))

    def remove(self, names: Sequence[str]) -> int:
        """See `Server.remove`."""
        return self._do(lambda client: sum(bool(client.delete(self._prefix + name)) for name in names))

    def index(self, shard: str) -> None:
        """See `Server.index`."""

    def clear(self, shard: str) -> None:  # noqa: ARG002 - the generation is that of all
        """See `Server.clear`."""
        self._do(lambda client: client.set(self._generation_key, os.urandom(_GENERATION_BYTES)))

    def take(self, name: str, value: bytes, ttl_s: float) -> bytes | None:
        """See `Server.take`."""
        key = f"{self._prefix}{name}:lease"
        for _ in range(2):  # it may run out between the two commands
            if self._do(lambda client: client.add(key, value, expire=_expiry(ttl_s))):
                return None
            held = self._do(lambda client: client.get(key))
            if held:
                return bytes(held)
        raise UntrustedValue("an empty lease")

    def swap(self, name: str, token: bytes, value: bytes | None, ttl_s: float) -> bool:
        """See `Server.swap`."""
        key = f"{self._prefix}{name}:lease"

        def swapped(client: Any) -> bool:
            held, version = client.gets(key)
            if held is None or not held.startswith(token):
                return False
            expire = _AT_ONCE if value is None else _expiry(ttl_s)
            return bool(client.cas(key, value or b"", version, expire=expire))

        return self._do(swapped)

    def close(self) -> None:
        """See `Server.close`."""
        self._client.close()

    def _generation(self) -> bytes:
        """Return the namespace's generation, a new one where there is none."""
        found = self._do(lambda client: client.get(self._generation_key))
        if found is None:
            self._do(lambda client: client.add(self._generation_key, os.urandom(_GENERATION_BYTES)))
            found = self._do(lambda client: client.get(self._generation_key))
        return _checked(found)

    def _do(self, work: Callable[[Any], _T]) -> _T:
        from pymemcache.exceptions import (
            MemcacheClientError,
            MemcacheServerError,
            MemcacheUnknownCommandError,
        )

        try:
            return work(self._client)
        except MemcacheUnknownCommandError:
            raise
        except MemcacheClientError as exc:
            raise RefusedValue(str(exc)) from exc
        except MemcacheServerError as exc:
            text = (
                exc.args[0].decode("utf-8", "replace") if exc.args and isinstance(exc.args[0], bytes) else ""
            )
            if "too large" in text:
                raise TooLarge(text) from exc
            if "out of memory" in text:
                raise Refused(text) from exc
            raise


def _checked(generation: object) -> bytes:
    if type(generation) is not bytes or len(generation) != _GENERATION_BYTES:
        raise UntrustedValue("another generation")
    return generation


def _expiry(ttl_s: float | None) -> int:
    """Return a lifetime as Memcached takes it, rounded up: an entry's own end is looked at too."""
    if ttl_s is None:
        return 0
    whole_s = max(1, math.ceil(ttl_s))
    return whole_s if whole_s <= _LONGEST_RELATIVE_S else math.ceil(time.time()) + whole_s
