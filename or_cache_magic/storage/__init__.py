"""Keep entries and the ledger, in ``cache.db`` and on a shared server.

The only package that knows SQL, ``diskcache``, ``redis`` and ``pymemcache``.
"""
