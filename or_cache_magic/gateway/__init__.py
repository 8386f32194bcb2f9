"""The one room that knows OpenRouter's wire and the ``openai`` client."""

from __future__ import annotations

from .client import Gateway
from .draft import Draft

__all__ = ["Draft", "Gateway"]
