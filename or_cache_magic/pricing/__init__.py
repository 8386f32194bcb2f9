"""Money: what a call cost, what one may cost, and at which prices. Pure; what only some asks need is apart.

`cost` is here, since every ask needs it; `tokens`, `listing` and `estimate` are imported by those who do.
"""

from or_cache_magic.pricing.cost import (
    FREE,
    cost_of_failure,
    cost_reported,
    decimal_usd,
    format_usd,
    parse_usd,
)

__all__ = ["FREE", "cost_of_failure", "cost_reported", "decimal_usd", "format_usd", "parse_usd"]
