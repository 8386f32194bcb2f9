"""Entries on disk and on the team's server: keep an answer, find it again by its key, browse and purge."""

from or_cache_magic.store.disk import DiskStore, Unserved
from or_cache_magic.store.leases import DiskLeases
from or_cache_magic.store.tiered import TieredLeases, TieredStore

__all__ = ["DiskLeases", "DiskStore", "TieredLeases", "TieredStore", "Unserved"]
