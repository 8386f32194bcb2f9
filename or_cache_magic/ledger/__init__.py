"""The ledger: what every ask paid and saved, kept apart from the entries."""

from or_cache_magic.ledger.book import Ledger

__all__ = ["Ledger"]
