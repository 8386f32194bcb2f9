"""The team's tier: answers and leases on a Redis, Valkey or Memcached server.

Nothing that comes from there is trusted, and nothing waits for it: each question costs at most one short
timeout, and a server that does not answer is left alone for a while. Only this package knows `redis` and
`pymemcache`.
"""
