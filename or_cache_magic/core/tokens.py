"""How many tokens a chat request has for its model to read, without a tokenizer: a range, fit for money.

Tokenizers differ (the same English is half as many tokens again for Claude 4.7 as for GPT), and the
newest aren't published. What they share is what they cut at: words, changes of case, digits, punctuation,
line ends, scripts. So those are counted, in C, and each is worth so many tokens at least, likely, and at
most. The rates solve linear programs over real texts and their counts by real tokenizers: ``low`` is the
largest sum below them all, ``high`` the smallest above. `benchmarks/tokens.py` finds and measures them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from math import ceil
from operator import mul
from string import ascii_lowercase, ascii_uppercase, digits, punctuation
from typing import Any, Final, NamedTuple

from or_cache_magic.core.chat import (
    MEDIA,
    as_list,
    as_mapping,
    has_media,
    is_online,
    messages_of,
    orders_search,
    plugins_of,
)


class TokenRange(NamedTuple):
    """A number of tokens that is only known from both sides.

    Attributes:
        low: Practically never more than there are.
        likely: As near as can be known.
        high: Practically never fewer than there are; None where nothing bounds them.
    """

    low: int
    likely: int
    high: int | None


class Rates(NamedTuple):
    """What one occurrence of something is worth in tokens: at least, likely, at most."""

    low: float
    likely: float
    high: float


PER_TEXT: Final = Rates(-3.99, 0.471, 6)
"""A text's own: its first word, which follows nothing, and the chance that makes short ones uneven."""

FOREIGN: Final = Rates(0, 0.054, 0.266)
"""A small letter that no English word vouches for: English is what tokenizers know best."""

ASCII_RATES: Final[dict[bytes, Rates]] = {
    b"a": Rates(0.063, 0, 0.043),
    b"A": Rates(0.2, 0.401, 1.25),
    b"0": Rates(0.333, 0.862, 1.391),
    b"n": Rates(0, 0.344, 2.061),
    b"t": Rates(0, 0.628, 1.03),
    b"aaaaaaaa": Rates(0, 0, 0.333),
    b"aaaaaaaaaaaaaaaa": Rates(2, 7.747, 13.147),
    b" a": Rates(0.789, 1.129, 1.657),
    b".a": Rates(1, 1.359, 1.7),
    b"na": Rates(1, 2.777, 0),
    b"Aa": Rates(0.358, 0.807, 3.263),
    b"0a": Rates(1, 0.745, 1),
    b"0A": Rates(1, 2.914, 0),
    b"..": Rates(0, 0.107, 1.7),
    b"  ": Rates(0, 0.107, 0.13),
    b" .": Rates(1, 1.571, 1.822),
    b".0": Rates(1, 0.821, 0.332),
    b".A": Rates(0.627, 0.396, 2.049),
}
"""What is counted of a text's shape (its kinds: `_ASCII`), and what each occurrence is worth."""

RATES: Final[dict[bytes, Rates]] = {
    **ASCII_RATES,
    b"s": Rates(1.098, 1.458, 3.323),
    b"l": Rates(0.198, 1.975, 2.163),
    b"g": Rates(0.365, 0.43, 1.522),
    b"r": Rates(0.251, 0.491, 1.178),
    b".r": Rates(0.401, 2.655, 1.449),
    b"h": Rates(0.304, 0.65, 2.27),
    b"b": Rates(0.292, 0.443, 1.518),
    b"i": Rates(0.264, 0.575, 3.468),
    b"e": Rates(0.315, 0.831, 3.373),
    b"k": Rates(0.42, 0.585, 1.121),
    b"z": Rates(0.591, 0.863, 1.84),
    b"o": Rates(0.676, 0.735, 1.77),
    b"f": Rates(0.237, 0, 3),
    b"q": Rates(1.237, 2.193, 4),
}
"""The same, with what isn't ASCII (`_SCRIPTS`)."""

_CAPITALS: Final = 2 + list(RATES).index(b"A")
"""Where `counts` has the capitals."""

_ASCII: Final = {
    " ": " ",
    "n": "\n\r",
    "t": "".join(map(chr, {*range(32), 127} - {10, 13})),
    "a": ascii_lowercase,
    "A": ascii_uppercase,
    "0": digits,
    ".": punctuation,
}
"""The kinds of ASCII: blanks, line ends, other control characters, letters, digits, punctuation."""

_SCRIPTS: Final = {
    0x80: "\0",  # the bytes after a character's first
    0xC2: "s",  # signs of Latin-1
    0xC3: "l",  # Latin letters with marks
    0xCC: "g",  # Greek, combining marks
    0xD0: "r",  # Cyrillic
    0xD4: "h",  # Armenian, Hebrew
    0xD8: "b",  # Arabic
    0xDC: "h",  # Syriac, Thaana, N'Ko: as rare to tokenizers
    0xE0: "i",  # India's, Thai, Lao
    0xE1: "e",  # Burmese, Georgian, Ethiopic, Khmer, more Latin and Greek
    0xE2: "s",  # punctuation, arrows, mathematics, boxes
    0xE3: "k",  # kana
    0xE4: "z",  # Chinese characters
    0xEA: "o",  # Korean
    0xEE: "f",  # full-width and other forms
    0xF0: "q",  # emoji, rare scripts
}
"""From which first byte of a character's UTF-8 on it is counted as which script."""

_ENGLISH: Final = (b" the ", b" of ", b" and ", b" to ", b" is ")
_VOUCHED: Final = 30
"""How many small letters each of these words vouches for; English has one in about that many."""

_PER_MESSAGE: Final = Rates(1, 4, 12)
"""The marks of a role and an end: 1 at DeepSeek, 4 at OpenAI, up to 12 at Claude 4.7."""

_PER_REQUEST: Final = Rates(0, 3, 90)
"""What templates add of their own: today's date at Llama 3, a system message of 70 tokens at gpt-oss."""

_PER_TOOLS: Final = Rates(0, 40, 850)
"""What explains the use of tools: up to 804 tokens at Claude ("Tool use", pricing)."""

_CLAUDE: Final = re.compile(r"anthropic/claude\D*(\d+(?:\.\d+)?)?")
_CLAUDE_FINER: Final = 4.7
"""The version since which Claude cuts finer."""

_ADD_NOTHING: Final = frozenset(
    {
        "response-healing",
        "context-compression",
        "moderation",
        "auto-router",
        "auto-beta-router",
        "pareto-router",
    }
)
"""Plugins that put no text of theirs before the model."""

_TOOLS: Final = ("tools", "functions", "response_format")
"""Where a request says what the model may call, and in what form it answers."""

_NOT_AS_JSON: Final = frozenset({"role", "content", "cache_control", *MEDIA})
"""What of a message isn't read as JSON: its texts and media are counted apart, the rest isn't read."""


@cache
def _shape() -> bytes:
    shape = bytearray(256)
    for kind, chars in _ASCII.items():
        for char in chars:
            shape[ord(char)] = ord(kind)
    for first, kind in _SCRIPTS.items():
        shape[first:] = kind.encode() * (256 - first)
    return bytes(shape)


@cache
def _rates() -> tuple[tuple[float, ...], ...]:
    return tuple(zip(PER_TEXT, FOREIGN, *RATES.values(), strict=True))


def counts(written: bytes) -> list[int]:
    """Return what the rates are for, of a text in UTF-8: 1, its foreign letters, then each of `RATES`."""
    shape = written.translate(_shape())
    kinds = ASCII_RATES if written.isascii() else RATES
    found = [shape.count(kind) for kind in kinds] + [0] * (len(RATES) - len(kinds))
    vouched = _VOUCHED * sum(map(written.count, _ENGLISH))
    return [1, max(0, found[0] - vouched), *found]


def text_tokens(text: str) -> TokenRange:
    """Return how many tokens ``text`` has; 0 for none. Pure, and about 7 ms for 200 KB.

    It holds for any model: ``likely`` is the middle of the published tokenizers of today's models, and
    ``high`` covers Claude 4.7's, which cuts the finest. How well is in docs/money.md.

    >>> text_tokens("A text of this length has twelve tokens for most models.")
    TokenRange(low=6, likely=13, high=30)
    """
    if not text:
        return TokenRange(0, 0, 0)
    written = text.encode("utf-8", "surrogatepass")
    found = counts(written)
    low, likely, high = (sum(map(mul, found, rates)) for rates in _rates())
    # A byte is a token at most; but Claude marks capitals, and some open a text with a token.
    most = len(written) + found[_CAPITALS] + 2
    return _ordered(low, likely, min(high, most))


def request_tokens(body: Mapping[str, Any]) -> TokenRange:
    """Return how many tokens of input a request has: messages, tools, output schema, and their framing.

    ``likely`` knows that Claude counts more. ``high`` is None where something can't be counted here:
    images, audio, video and files, and what OpenRouter puts in itself (searches, presets). Not known
    here and not counted: a provider's own hidden prompt, and what OpenRouter cuts out of the middle of
    a request that is too long for its model.
    """
    messages = messages_of(body)
    said = [text_tokens(text) for message in messages for text in _texts(message.get("content"))]
    rest = [text_tokens(text) for text in _json_texts(body, messages)]
    with_tools = any(body.get(name) for name in _TOOLS)
    frames = [_PER_REQUEST, *[_PER_MESSAGE] * len(messages), *[_PER_TOOLS] * with_tools]

    texts = [*said, *rest]
    # At the least: a template may leave out all but the messages' texts.
    low = sum(text.low for text in said) + sum(frame.low for frame in frames)
    likely = stretch(str(body.get("model"))) * sum(text.likely for text in texts)
    high = sum(text.high or 0 for text in texts) + sum(frame.high for frame in frames)
    tokens = _ordered(low, likely + sum(frame.likely for frame in frames), high)
    return tokens if _is_bounded(body, messages) else tokens._replace(high=None)


def _ordered(low: float, likely: float, high: float) -> TokenRange:
    least, most = max(0, int(low)), ceil(high)
    return TokenRange(least, min(max(least, round(likely)), most), most)


def stretch(model: str) -> float:
    """Return by how much a model counts more than the middle: on English, Markdown, code and JSON."""
    claude = _CLAUDE.match(model.lstrip("~"))
    if claude is None:
        return 1.0
    return 1.15 if claude[1] and float(claude[1]) < _CLAUDE_FINER else 1.45


def _texts(content: Any) -> Iterator[str]:
    """Yield the texts of a message's content."""
    parts = [{"text": content}] if isinstance(content, str) else content
    for part in as_list(parts):
        if isinstance(text := as_mapping(part).get("text"), str):
            yield text


def _json_texts(body: Mapping[str, Any], messages: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what else the model may read, as JSON: names, calls, reasoning, tools, the output's schema."""
    for message in messages:
        yield _as_json({name: value for name, value in message.items() if name not in _NOT_AS_JSON and value})
    yield _as_json({name: body[name] for name in _TOOLS if body.get(name)})


def _as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if value else ""


def _is_bounded(body: Mapping[str, Any], messages: list[Mapping[str, Any]]) -> bool:
    """Return whether all that the model will read is text that stands in the request."""
    parsers = any(name == "file-parser" for name, _ in plugins_of(body))
    return not parsers and adds_nothing(body) and not any(map(has_media, messages))


def adds_nothing(body: Mapping[str, Any]) -> bool:
    """Return whether the model will read nothing but what stands in the request, media included."""
    models = f"{body.get('model')} {body.get('models')}"
    if body.get("preset") or orders_search(body) or "@preset/" in models.lower() or is_online(models):
        return False
    if any(name not in _ADD_NOTHING and name != "file-parser" for name, _ in plugins_of(body)):
        return False
    return all(as_mapping(tool).get("type") == "function" for tool in as_list(body.get("tools")))
