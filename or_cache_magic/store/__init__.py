"""Entries on disk: keep an answer, find it again by its key, browse and purge."""

from or_cache_magic.store.disk import DiskStore, Unserved
from or_cache_magic.store.leases import DiskLeases

__all__ = ["DiskLeases", "DiskStore", "Unserved"]
