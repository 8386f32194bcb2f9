"""Marks for the provider's prompt caching: which part of a request is marked, and for which models. Pure.

Providers keep the beginning of a prompt for some minutes and read it again at a fraction of its price.
Some do so by themselves; Anthropic, Google and Alibaba do it up to a mark, ``cache_control``, that the
request carries, and charge more for the writing. The marks are set as a request is sent: they steer the
price and not the answer, so they are not in the key (`key.NOT_IN_KEY`).
"""

from or_cache_magic.prompt_caching.marks import TTLS, Mark, Marked, marked

__all__ = ["TTLS", "Mark", "Marked", "marked"]
