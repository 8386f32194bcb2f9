"""The ledger: what every ask paid and saved, kept apart from the entries."""

from or_cache_magic.ledger.book import Ledger
from or_cache_magic.ledger.settlements import Settlements, Waiting

__all__ = ["Ledger", "Settlements", "Waiting"]
