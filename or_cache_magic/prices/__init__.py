"""What OpenRouter lists, and what calls cost by it: fetched when it is needed, kept with its date.

A hit never comes here.
"""

from or_cache_magic.prices.book import FRESH_S, ModelList, PriceBook

__all__ = ["FRESH_S", "ModelList", "PriceBook"]
