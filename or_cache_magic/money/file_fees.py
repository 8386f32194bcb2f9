"""What having a request's PDFs read costs beside its tokens: a range, by their pages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from or_cache_magic.core.chat import FREE_ENGINES, as_list, as_mapping, messages_of, plugins_of
from or_cache_magic.core.media import pdf_pages
from or_cache_magic.core.units import ZERO_USD

_PAGE_USD: Final = Decimal("0.002")
"""Of ``mistral-ocr``, which reads what a model doesn't where no engine is named ("PDF Inputs")."""

_OCR: Final = "mistral-ocr"
_UNPAID: Final = (*FREE_ENGINES, "native")
"""Engines without a fee; ``native`` has the model read the file, as tokens."""


class FileFee(NamedTuple):
    """What reading files may cost; a most of None is unknown, for the reason in ``why``."""

    low_usd: Decimal = ZERO_USD
    high_usd: Decimal | None = ZERO_USD
    why: str = ""


def file_fee(body: Mapping[str, Any]) -> FileFee:
    """Return what OpenRouter may charge for reading the PDFs of a request."""
    parsers = [as_mapping(fields.get("pdf")) for name, fields in plugins_of(body) if name == "file-parser"]
    engines = {str(parser.get("engine") or "").strip().lower() for parser in parsers} or {""}
    files = list(_files(body))
    if engines <= set(_UNPAID):
        return FileFee()
    if not engines <= {_OCR, "", *_UNPAID} or (parsers and not files):
        return FileFee(high_usd=None, why="the plugin file-parser is billed apart")
    if not files:
        return FileFee()
    pages = [_pages(file) for file in files]
    counted = [count for count in pages if count is not None]
    if len(counted) < len(pages):
        return FileFee(high_usd=None, why="reading its file may be billed apart, at $2 per 1,000 pages")
    fee_usd = sum(counted) * _PAGE_USD
    # Without an engine's name the model may read it; a file that was read before has no fee again.
    certain = engines == {_OCR} and not any(message.get("annotations") for message in messages_of(body))
    return FileFee(fee_usd if certain else ZERO_USD, fee_usd)


def _files(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for message in messages_of(body):
        for part in map(as_mapping, as_list(message.get("content"))):
            if part.get("type") == "file":
                yield as_mapping(part.get("file"))


def _pages(file: Mapping[str, Any]) -> int | None:
    head, comma, data = str(file.get("file_data")).partition(",")
    if not comma or not head.startswith("data:"):
        return None  # a link, or a file that OpenRouter keeps
    try:
        return pdf_pages(base64.b64decode(data))
    except (binascii.Error, ValueError):
        return None
