"""The ledger: what every ask paid and saved, kept apart from the entries."""

from or_cache_magic.ledger.book import Ledger
from or_cache_magic.ledger.settlements import Settlements, Waiting
from or_cache_magic.ledger.spent import Spent

__all__ = ["Ledger", "Settlements", "Spent", "Waiting"]
