"""`RedisServer`: values, their index and leases on Redis or Valkey, also a cluster of them.

A namespace has sixteen shards. All keys of a shard carry the same hash tag, so that every script and
command stays in one slot of a Redis Cluster::

    {namespace:1:a}:a3f…         a value, with the server's own expiry
    {namespace:1:a}:a3f…:lease   a lease
    {namespace:1:a}:index        hash: name → what a purge goes by
    {namespace:1:a}:expiry       sorted set: name by the time its value runs out, to trim the index

What is not in the index is not served, so that a purge, which goes by the index, leaves nothing behind
that could be: also not where the server evicts keys as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from or_cache_magic.errors import SettingError
from or_cache_magic.storage.shared.server import (
    LARGEST_BYTES,
    LAYOUT,
    Refused,
    RefusedValue,
    UntrustedValue,
    shard_of,
)

if TYPE_CHECKING:
    from or_cache_magic.core.settings import SharedUrl

_T = TypeVar("_T")

_CHUNK: Final = 500
_LONGEST_LEASE_BYTES: Final = 1 << 16

_GET: Final = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return false end
local size = redis.call('STRLEN', KEYS[1])
if size > tonumber(ARGV[2]) then return size end
return redis.call('GET', KEYS[1])
"""
# Each put also trims a few entries that ran out: a field of a hash has no expiry before Redis 7.4.
_PUT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[4] == '' then
  redis.call('SET', KEYS[1], ARGV[2])
  redis.call('ZREM', KEYS[3], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
  redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[1])
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
local gone = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. now, 'LIMIT', 0, 16)
if #gone > 0 then
  redis.call('HDEL', KEYS[2], unpack(gone))
  redis.call('ZREM', KEYS[3], unpack(gone))
end
"""
_REMOVE: Final = """
redis.call('HDEL', KEYS[1], unpack(ARGV))
redis.call('ZREM', KEYS[2], unpack(ARGV))
return redis.call('UNLINK', unpack(KEYS, 3))
"""
_SWAP: Final = """
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
"""

_REFUSALS_OF_VALUES: Final = (
    "invalid expire",
    "out of range",
    "exceeds maximum",
    "not an integer",
    "bulk length",
)
_REFUSALS: Final = ("OOM ", "READONLY ", "MISCONF ", "NOPERM ", "NOREPLICAS ")


class RedisServer:
    """A namespace on a Redis or Valkey server; see `Server`.

    Raises:
        SettingError: The package ``redis`` is not installed, or does not take the URL.
    """

    def __init__(self, url: SharedUrl, namespace: str, timeout_s: float) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as exc:
            raise SettingError(
                "shared_url names a Redis server, and the package redis is not installed (nothing was sent)",
                "pip install 'or-cache-magic[redis]', or go on without it: OR_CACHE_SHARED_URL=",
            ) from exc
        self._url = url
        self._namespace = namespace
        self._options: dict[str, Any] = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),  # `Link` decides when to try again
            "protocol": 2,  # one round trip less to connect
        }
        try:
            self._client: Any = redis.Redis.from_url(url.reveal(), **self._options)
        except (ValueError, TypeError) as exc:
            raise SettingError(
                f"shared_url {url} is not understood: {url.hide(str(exc))} (nothing was sent)",
                "write redis://[user:password@]host:port/db, the password percent-encoded",
            ) from None

    def get(self, name: str) -> bytes | None:
        """See `Server.get`."""
        found = self._eval(_GET, [self._key(name), self._key(name, "index")], name, LARGEST_BYTES)
        if isinstance(found, int):
            raise UntrustedValue(f"a value of {found / 1e6:.0f} MB")
        return found if found is None or isinstance(found, bytes) else bytes(found)

    def put(self, name: str, value: bytes, metadata: bytes, ttl_s: float | None) -> None:
        """See `Server.put`."""
        keys = [self._key(name), self._key(name, "index"), self._key(name, "expiry")]
        self._eval(_PUT, keys, name, value, metadata, "" if ttl_s is None else _ms(ttl_s))

    def remove(self, names: Sequence[str]) -> int:
        """See `Server.remove`."""
        by_shard: dict[str, list[str]] = {}
        for name in names:
            by_shard.setdefault(shard_of(name), []).append(name)
        removed = 0
        for shard, all_names in by_shard.items():
            for start in range(0, len(all_names), _CHUNK):
                chunk = all_names[start : start + _CHUNK]
                keys = [self._key(shard, "index"), self._key(shard, "expiry"), *map(self._key, chunk)]
                removed += int(self._eval(_REMOVE, keys, *chunk))
        return removed

    def index(self, shard: str) -> list[tuple[str, bytes]]:
        """See `Server.index`."""
        key = self._key(shard, "index")
        found = self._do(lambda client: dict(client.hscan_iter(key, count=_CHUNK)))
        return [(name.decode("ascii", "replace"), metadata) for name, metadata in found.items()]

    def clear(self, shard: str) -> None:
        """See `Server.clear`."""
        keys = self._key(shard, "index"), self._key(shard, "expiry")
        self._do(lambda client: client.unlink(*keys))

    def take(self, name: str, value: bytes, ttl_s: float) -> bytes | None:
        """See `Server.take`."""
        key = self._key(name, name, "lease")
        for _ in range(2):  # it may run out between the two commands
            if self._do(lambda client: client.set(key, value, nx=True, px=_ms(ttl_s))):
                return None
            held = self._do(lambda client: client.getrange(key, 0, _LONGEST_LEASE_BYTES))
            if held:
                return bytes(held)
        raise UntrustedValue("an empty lease")

    def swap(self, name: str, token: bytes, value: bytes | None, ttl_s: float) -> bool:
        """See `Server.swap`."""
        key = self._key(name, name, "lease")
        return bool(self._eval(_SWAP, [key], token, value or b"", _ms(ttl_s)))

    def close(self) -> None:
        """See `Server.close`."""
        pool = getattr(self._client, "connection_pool", None)
        if pool is None:
            self._client.disconnect_connection_pools()
        else:
            pool.disconnect()

    def _key(self, name: str, *parts: str) -> str:
        return ":".join((f"{{{self._namespace}:{LAYOUT}:{shard_of(name)}}}", *(parts or (name,))))

    def _eval(self, script: str, keys: list[str], *arguments: Any) -> Any:
        # EVALSHA would save some hundred bytes and cost a second way to fail.
        return self._do(lambda client: client.eval(script, len(keys), *keys, *arguments))

    def _do(self, work: Callable[[Any], _T]) -> _T:
        """Return what `work` does with a client; the first reply of a cluster's node leads to the cluster."""
        from redis.exceptions import (
            MovedError,
            NoPermissionError,
            OutOfMemoryError,
            ReadOnlyError,
            ResponseError,
        )

        try:
            try:
                return work(self._client)
            except MovedError:
                self._client = self._cluster()
                return work(self._client)
        except (OutOfMemoryError, ReadOnlyError, NoPermissionError) as exc:
            raise Refused(str(exc)) from exc
        except ResponseError as exc:
            # A script's own errors are wrapped in another text by each version of the server.
            text = str(exc)
            if "WRONGTYPE" in text:
                raise UntrustedValue("a value of another type") from exc
            if any(sign in text for sign in _REFUSALS):
                raise Refused(text) from exc
            if any(sign in text for sign in _REFUSALS_OF_VALUES):
                raise RefusedValue(text) from exc
            raise

    def _cluster(self) -> Any:
        from redis.cluster import RedisCluster

        if isinstance(self._client, RedisCluster):
            return self._client
        self._client.connection_pool.disconnect()
        return RedisCluster.from_url(self._url.reveal(), **self._options)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
