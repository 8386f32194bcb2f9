"""The team's tier: answers and leases on a Redis, Valkey or Memcached server.

Nothing that comes from there is trusted, and nothing waits for it: each question costs at most one short
timeout, and a server that does not answer is left alone for a while. Only this package knows `redis` and
`pymemcache`.
"""

from or_cache_magic.store.shared.leases import SharedLeases
from or_cache_magic.store.shared.link import Link
from or_cache_magic.store.shared.secrecy import SECRET_VARIABLE, Secrecy
from or_cache_magic.store.shared.store import SharedStore, open_shared

__all__ = ["SECRET_VARIABLE", "Link", "Secrecy", "SharedLeases", "SharedStore", "open_shared"]
