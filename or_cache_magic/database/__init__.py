"""The one file ``cache.db``: vetted before it is trusted, shared by threads, kernels and forks.

`Database` opens it and runs statements and transactions; what the rows mean is said by `store` and
`ledger`. Only this package knows `diskcache` and the errors of `sqlite3`.
"""

from or_cache_magic.database.file import Database
from or_cache_magic.database.hits import HitCount, add_hits
from or_cache_magic.database.memory import MemoryDatabase, open_database
from or_cache_magic.database.money import from_pico, to_pico
from or_cache_magic.database.tags import join_tags, split_tags, tag_mark
from or_cache_magic.database.upgrade import Rekey

__all__ = [
    "Database",
    "HitCount",
    "MemoryDatabase",
    "Rekey",
    "add_hits",
    "from_pico",
    "join_tags",
    "open_database",
    "split_tags",
    "tag_mark",
    "to_pico",
]
