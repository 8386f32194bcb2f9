"""Outcomes to what people see: the answer, as it streams or at once, and its receipt."""

from __future__ import annotations

from or_cache_magic.render.display import FORMATS, Format, answer_bundle
from or_cache_magic.render.receipt import (
    ReceiptStyle,
    format_age,
    format_duration,
    format_tokens,
    format_usd,
    receipt_markdown,
    receipt_text,
)
from or_cache_magic.render.stream import (
    NotebookScreen,
    ReceiptSetting,
    Screen,
    SilentScreen,
    TerminalScreen,
    open_screen,
)

__all__ = [
    "FORMATS",
    "Format",
    "NotebookScreen",
    "ReceiptSetting",
    "ReceiptStyle",
    "Screen",
    "SilentScreen",
    "TerminalScreen",
    "answer_bundle",
    "format_age",
    "format_duration",
    "format_tokens",
    "format_usd",
    "open_screen",
    "receipt_markdown",
    "receipt_text",
]
