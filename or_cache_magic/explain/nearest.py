"""Which stored request is nearest to one that missed.

All are compared roughly, by a sketch of each (`storage.sketches`): digests of its parts, and how often which
pairs of bytes stand in its prompt. A word that is changed changes few of these counts, wherever it stands and
however much of the text is a template that all rows share; so the sum of the differences is small (a lower
bound of the edit distance: Ukkonen 1992, "Approximate string-matching with q-grams"). The best of them are
read, and compared word by word.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from or_cache_magic.core.chat import last_prompt, messages_of, system_prompt
from or_cache_magic.core.key import NOT_IN_KEY, canonical_json
from or_cache_magic.storage.sketches import ID_BYTES, Candidate, SketchTable, without_media

if TYPE_CHECKING:
    from or_cache_magic.core.records import Request
    from or_cache_magic.storage.database import Database

_DIGEST: Final = 4
_PARTS: Final = 6
_PAIRS: Final = 64
SKETCH_BYTES: Final = _DIGEST * _PARTS + _PAIRS
_READ: Final = 80
"""Requests that are compared word by word: some 30 µs each."""

_LEAST_SHARED: Final = 0.4
"""Of the words of two prompts, at least so many are the same, or the one is not near the other."""

_COSTS: Final = (0.0, 3.0, 2.0, 1.0, 3.0, 0.0)
"""What it costs when a part differs: prompt (its words count), system, model, parameters, history, plain."""

_LONGEST: Final = 1 << 16
_to_json: Final = json.JSONEncoder(sort_keys=True, default=str).encode
_NOT_PLAIN: Final = b" \t\r\n\f\v0123456789"
WORD: Final = r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+"
"""A word; of scripts without spaces between words, a character."""

_WORDS: Final = re.compile(WORD)


class Nearest(NamedTuple):
    """The stored request that is nearest to another.

    Attributes:
        key: Of the entry.
        created_s: When it was stored.
        request: What it answers; large media is left empty.
        same_cell: Whether it is what the same cell asked before.
    """

    key: str
    created_s: float
    request: Request
    same_cell: bool = False


def nearest(
    database: Database,
    request: Request,
    *,
    own: str = "",
    cell: str = "",
    before_s: float | None = None,
    but: Collection[str] = (),
) -> Nearest | None:
    """Return the stored request that is nearest to one; None where none is near.

    That which the same cell asked last comes first, if it is still stored and shares anything with this one.
    Then the one in which the fewest parts and words differ, and of equals the one stored last.

    Args:
        database: Where the entries are.
        request: What was asked.
        own: Its key, which is not near but the same.
        cell: The key of what the same cell asked before; empty is not known.
        before_s: Only what was stored before; None is whenever.
        but: Keys of others that are not meant either.

    Raises:
        StoreError: The file can't be read.
    """
    table, asked = SketchTable(database, sketch, SKETCH_BYTES), without_media(request)
    mine = _Parts(asked.body)
    if cell and cell != own:
        found = table.of(cell)
        if found is not None and mine.shared(_Parts(found.request.body)) > 0:
            return Nearest(found.key, found.created_s, found.request, same_cell=True)
    best: tuple[tuple[float, float], Candidate] | None = None
    for candidate in table.candidates(_near(table.read(), sketch(asked.body))):
        if (
            candidate.key == own
            or candidate.key in but
            or (before_s is not None and candidate.created_s > before_s)
        ):
            continue
        theirs = _Parts(candidate.request.body)
        if mine.shared(theirs) < _LEAST_SHARED:
            continue
        rank = (mine.distance(theirs) + _apart(asked, candidate.request), -candidate.created_s)
        if best is None or rank < best[0]:
            best = (rank, candidate)
    return None if best is None else Nearest(best[1].key, best[1].created_s, best[1].request)


def _apart(one: Request, other: Request) -> float:
    return float((one.sample != other.sample) + 2 * (one.base_url != other.base_url))


def sketch(body: Mapping[str, Any]) -> bytes:
    """Return the sketch of a request's body: digests of its parts, and counts of pairs of bytes."""
    import numpy as np

    prompt = _bytes(last_prompt(body))
    parts = (
        prompt,
        _bytes(system_prompt(body) or ""),
        _json([body.get("model"), body.get("models")]),
        canonical_json(parameters_of(body)),
        _json(_history(body)),
        prompt.lower().translate(None, _NOT_PLAIN),
    )
    digests = b"".join(blake2b(part, digest_size=_DIGEST).digest() for part in parts)
    text = np.frombuffer(prompt, np.uint8).astype(np.uint16)
    pairs = (text[:-1] * 31 + text[1:] * 17) >> 1 & (_PAIRS - 1)
    return digests + np.bincount(pairs, minlength=_PAIRS).astype(np.uint8).tobytes()


def parameters_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a body is in the key besides models and messages."""
    apart = ("model", "models", "messages")
    return {name: value for name, value in body.items() if name not in apart and name not in NOT_IN_KEY}


def same_but_prompt(records: bytes, mine: bytes, most: int) -> list[int]:
    """Return the rows of which all but the prompt seems the same, those of the nearest prompts first."""
    import numpy as np

    ids, same, text = _compared(records, mine)
    rows = np.flatnonzero(same[:, 1:5].all(axis=1))
    return [int(row) for row in ids[rows[np.argsort(text[rows], kind="stable")[:most]]]]


def _near(records: bytes, mine: bytes) -> list[int]:
    """Return the rows whose sketches are nearest, at most `_READ`."""
    import numpy as np

    ids, same, text = _compared(records, mine)
    if len(ids) <= _READ:
        return [int(row) for row in ids]
    text[same[:, 0]] = 0
    text[same[:, 5]] = np.minimum(text[same[:, 5]], 0.5)
    scores = text + (~same).astype(np.float32) @ np.array(_COSTS, np.float32)
    scores -= ids / (2.0 * max(ids.max(), 1))  # of equals the last
    return [int(row) for row in ids[np.argpartition(scores, _READ)[:_READ]]]


def _compared(records: bytes, mine: bytes) -> tuple[Any, Any, Any]:
    """Return the rows' ids, which parts of each are the same, and how far the letters of prompts differ."""
    import numpy as np

    start = ID_BYTES + _DIGEST * _PARTS
    rows = np.frombuffer(records, np.uint8).reshape(-1, ID_BYTES + SKETCH_BYTES)
    ids = np.ascontiguousarray(rows[:, :ID_BYTES]).view("<i8")[:, 0]
    one = np.frombuffer(mine, np.uint8)
    parts = np.ascontiguousarray(rows[:, ID_BYTES:start]).view(np.uint32)
    same = parts == one[: start - ID_BYTES].view(np.uint32)
    # Counts are kept modulo 256, and so is what they differ by: a small difference stays one.
    pairs = np.abs((rows[:, start:] - one[start - ID_BYTES :]).view(np.int8)).view(np.uint8)
    return ids, same, pairs.sum(axis=1, dtype=np.uint32).astype(np.float64) / 4


class _Parts:
    """What of a request is compared."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.prompt = last_prompt(body)[:_LONGEST]
        self.system = (system_prompt(body) or "")[:_LONGEST]
        self.models = (body.get("model"), body.get("models"))
        self.parameters = parameters_of(body)
        self.history = _history(body)
        self.words = Counter(_WORDS.findall(self.prompt))

    def shared(self, other: _Parts) -> float:
        """Return which part of the words of both prompts is the same, from 0 to 1."""
        if self.prompt == other.prompt:
            return 1.0
        total = self.words.total() + other.words.total()
        return 2.0 * (self.words & other.words).total() / total if total else 0.0

    def distance(self, other: _Parts) -> float:
        """Return how much differs: words of the prompt, and less than a few words for each other part."""
        sizes = 0.0
        if self.prompt != other.prompt:
            sizes += 0.5 + _differing(self.words, other.words)
        if self.system != other.system:
            words = (Counter(_WORDS.findall(part.system)) for part in (self, other))
            sizes += min(3.0, 0.5 + _differing(*words))
        if self.history != other.history:
            sizes += min(3.0, 1.0 + abs(len(self.history) - len(other.history)))
        if self.models != other.models:
            sizes += 2.0
        names = {**self.parameters, **other.parameters}
        changed = [name for name in names if self.parameters.get(name) != other.parameters.get(name)]
        return sizes + min(3.0, len(changed))


def _differing(one: Counter[str], other: Counter[str]) -> int:
    return (one - other).total() + (other - one).total()


def _history(body: Mapping[str, Any]) -> list[Any]:
    """Return the messages without the first system prompt, and without the last prompt's text."""
    messages = [
        message for message in messages_of(body) if message.get("role") not in ("system", "developer")
    ]
    return messages[:-1]


def _json(value: Any) -> bytes:
    return _to_json(value).encode()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
