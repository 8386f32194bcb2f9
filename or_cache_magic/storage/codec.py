"""An entry or a request as the bytes that are kept, and back; what does not check out is refused.

A blob is a format byte, a CRC-32 bound to the entry's key, and a payload, deflated when that is smaller.
The payload is a text (an answer's, or how a prompt begins, for listings), the request's skeleton, and JSON.
An answer's text stands only there, not in the JSON, where it would be escaped: a hit reads it as it is. A
vector's numbers, little-endian float32, stand before all that, as they are.
Nothing but UTF-8 and JSON is ever decoded.
"""

from __future__ import annotations

import binascii
import json
import os
import struct
import zlib
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

from or_cache_magic.core.policy import why_implausible
from or_cache_magic.core.records import (
    ANSWER_SCHEMA,
    SOURCES,
    UNKNOWN_COST,
    Answer,
    Choice,
    Cost,
    Entry,
    RequestKey,
    Usage,
)
from or_cache_magic.errors import NewerStoreError, StoreCorruptError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    ReadMedia = Callable[[str | None, bytes], str]

# One set operation instead of a call a field: half of the time of a hit was spent in such calls.
STRINGS: Final[frozenset[type]] = frozenset({str})
NUMBERS: Final[frozenset[type]] = frozenset({int, float})
_TEXTS: Final[frozenset[type]] = frozenset({str, type(None)})
_OBJECTS: Final[frozenset[type]] = frozenset({dict, type(None)})
_INTEGERS: Final[frozenset[type]] = frozenset({int, type(None)})


_ANSWER_TEXTS: Final = ("model", "provider", "generation_id", "source_generation_id")


def answer_json(answer: Answer) -> dict[str, Any]:
    """An answer as JSON's types; money as text."""
    form: dict[str, Any] = {"choices": [_choice_json(choice) for choice in answer.choices]}
    for name in _ANSWER_TEXTS:
        if (value := getattr(answer, name)) is not None:
            form[name] = value
    if answer.usage is not None:
        form["usage"] = list(answer.usage)
    if answer.cost.usd is not None:
        form["cost"] = [str(answer.cost.usd), answer.cost.source]
    form["created_s"], form["elapsed_s"] = answer.created_s, answer.elapsed_s
    if not answer.complete:
        form["complete"] = False
    if answer.error is not None:
        form["error"] = answer.error
    if answer.response_cache_hit:
        form["response_cache_hit"] = True
    if answer.extra:
        form["extra"] = answer.extra
    return form


def _choice_json(choice: Choice) -> dict[str, Any]:
    form: dict[str, Any] = {"message": choice.message}
    for name in ("finish_reason", "native_finish_reason", "error", "logprobs"):
        if (value := getattr(choice, name)) is not None:
            form[name] = value
    return form


def answer_from(form: dict[str, Any]) -> Answer:
    """The answer of a JSON form.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, decimal.InvalidOperation: It is none.
    """
    get = form.get
    model, provider = get("model"), get("provider")
    generation_id, source_generation_id = get("generation_id"), get("source_generation_id")
    check(_TEXTS, model, provider, generation_id, source_generation_id)
    created_s, elapsed_s = form["created_s"], form["elapsed_s"]
    check(NUMBERS, created_s, elapsed_s)
    usage, cost, error, extra = get("usage"), get("cost"), get("error"), get("extra")
    if not _OBJECTS.issuperset((type(error), type(extra))):
        raise TypeError(error, extra)
    return Answer(
        tuple([_choice(choice) for choice in form["choices"]]),
        model,
        provider,
        None if usage is None else _usage(usage),
        UNKNOWN_COST if cost is None else _cost(*cost),
        generation_id,
        created_s,
        elapsed_s,
        get("complete") is not False,
        error,
        get("response_cache_hit") is True,
        source_generation_id,
        extra=extra,
    )


def _choice(form: dict[str, Any]) -> Choice:
    get = form.get
    message, error = form["message"], get("error")
    finish, native_finish = get("finish_reason"), get("native_finish_reason")
    if type(message) is not dict or (error is not None and type(error) is not dict):
        raise TypeError(message, error)
    check(_TEXTS, finish, native_finish)
    return Choice(message, finish, native_finish, error, get("logprobs"))


def _usage(counts: list[Any]) -> Usage:
    if len(counts) != len(Usage._fields):
        raise TypeError(counts)
    check(_INTEGERS, *counts)
    return Usage(*counts)


def check(allowed: frozenset[type], *values: Any) -> None:
    """Raise TypeError unless each value's type is one of these, exactly: a bool is no int."""
    if not allowed.issuperset(map(type, values)):
        raise TypeError(values)


def _cost(usd: Any, source: Any) -> Cost:
    if source not in SOURCES:
        raise TypeError(source)
    if type(usd) is not str:
        raise TypeError(usd)
    amount = Decimal(usd)
    if not amount.is_finite():
        raise ValueError(usd)
    return Cost(amount, source)


HEAD_CHARS: Final = 500
"""How much of an answer and of a prompt a listing shows."""

_PLAIN, _DEFLATED_BEFORE, _DEFLATED, _WITH_VECTOR = (
    1,
    3,
    4,
    5,
)  # 2 had another dictionary, and was never released
_DEFLATE_OVER_BYTES: Final = 200
_LARGEST_BYTES: Final = 1 << 27  # of a payload: a few crafted kilobytes can inflate to gigabytes
_DEEPEST: Final = 220  # a request may have 200 levels
_NESTED: Final = frozenset({dict, list})
_SMALL_BYTES: Final = 1 << 12  # as fast inflated as half of it in two steps
_START = struct.Struct(">BI")  # format, CRC-32
_VECTOR_START = struct.Struct(">BI")  # format of what follows the vector, bytes of the vector
_FRAME = struct.Struct(">II")  # bytes of the text, of the skeleton
_START_BYTES, _FRAME_BYTES = _START.size, _FRAME.size
_UTF8_BYTES = 4  # of one character, at most
_LEVEL = 6  # a miss took a second; 20 µs more buy 5 % of the size

_DICTIONARY_CHECKSUM: Final = 1677084355


_USUAL_REPLY: Final = (
    b'"extra":{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":4,"cost":0.0000,"is_byok":false,'
    b'"prompt_tokens_details":{"cached_tokens":0,"cache_write_tokens":0,"audio_tokens":0,"video_tokens":0},'
    b'"cost_details":{"upstream_inference_cost":null,"upstream_inference_prompt_cost":0.0000,'
    b'"upstream_inference_completions_cost":0.0000},'
    b'"completion_tokens_details":{"reasoning_tokens":0,"image_tokens":0,"audio_tokens":0}},'
    b'"service_tier":null,"system_fingerprint":"fp_"}},"v":1,"created":17,"text":true}'
)
"""How an entry ends whose reply is as most are."""


@cache
def _dictionary(form: int) -> bytes:
    """Return what requests, answers and English texts repeat; it saves a third of an entry of 2 KB.

    Pieces of READMEs, quotations and definitions, as zstandard's COVER chooses them, and the JSON of blobs.

    A part of the format: never change it, add another file and another format byte.
    """
    with open(os.path.join(os.path.dirname(__file__), "dictionary.zdict"), "rb") as file:
        dictionary = file.read()
    # With other line ends, say, another text could come out of a blob whose own checksum holds.
    if zlib.crc32(dictionary) != _DICTIONARY_CHECKSUM:
        raise StoreError("dictionary.zdict of or_cache_magic is damaged.", "Install the package again.")
    return dictionary if form == _DEFLATED_BEFORE else dictionary + _USUAL_REPLY


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_from_json = json.JSONDecoder(parse_constant=_no_constant).raw_decode
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


def encode_entry(entry: Entry, media: dict[bytes, bytes] | None = None) -> bytes:
    """An entry as a blob that `decode_entry` reads with the entry's digest.

    Args:
        entry: What is to be kept.
        media: Takes the entry's large media, which is then not in the blob (`media.take_out`); None keeps it
            there.

    Raises:
        StoreError: The answer holds what JSON can't (NaN), or is larger than 128 MiB.
    """
    content: dict[str, Any] = {
        "answer": answer_json(entry.answer),
        "v": ANSWER_SCHEMA,
        "created": entry.created_s,
    }
    if entry.expires_s is not None:
        content["expires"] = entry.expires_s
    if entry.tags:
        content["tags"] = entry.tags
    if entry.notebook:
        content["notebook"] = entry.notebook
    if entry.bought_by:
        content["by"] = entry.bought_by
    if entry.attached:
        content["attached"] = entry.attached
    text, choices = entry.answer.text, content["answer"]["choices"]
    if choices and choices[0]["message"].get("content") == text:
        choices[0]["message"] = {**choices[0]["message"], "content": None}
        content["text"] = True
    else:
        text = text[:HEAD_CHARS]
    vector = b""
    if choices and isinstance(embedding := choices[0]["message"].get("embedding"), str):
        choices[0]["message"] = {**choices[0]["message"], "embedding": None}
        vector, content["vector"] = binascii.a2b_base64(embedding), True
    if media is not None:
        from or_cache_magic.storage.media import take_out  # a hit needs none

        content["answer"], places = take_out(content["answer"], media, decoded=False)
        if places:
            content["media"] = places
    return _pack(entry.key.digest, text, entry.key.skeleton, content, vector)


def decode_entry(
    digest: str, blob: object, read: ReadMedia | None = None, *, largest_bytes: int = _LARGEST_BYTES
) -> Entry:
    """The entry of a blob.

    Args:
        digest: The key's 64 hex digits.
        blob: What was kept.
        read: Returns media that is not in the blob, see `media.put_back`; None refuses such a blob.
        largest_bytes: What is larger when inflated is refused.

    Raises:
        StoreCorruptError: The blob is damaged, belongs to another key, or is not one of ours.
        NewerStoreError: A newer version of this package wrote it.
    """
    return decode_sized(digest, blob, read, largest_bytes=largest_bytes)[0]


def decode_sized(
    digest: str, blob: object, read: ReadMedia | None = None, *, largest_bytes: int = _LARGEST_BYTES
) -> tuple[Entry, int]:
    """As `decode_entry`, and how many bytes the blob inflates to, its media included."""
    text, skeleton, content, size_bytes = _unpack(digest, blob, largest_bytes)
    try:
        if content["v"] > ANSWER_SCHEMA:
            raise NewerStoreError(
                f"The entry {digest[:10]} was written by a newer version; it was left untouched.",
                "Update or_cache_magic.",
            )
        created_s, expires_s = content["created"], content.get("expires")
        tags, notebook = tuple(content.get("tags", ())), content.get("notebook", "")
        check(NUMBERS, created_s, created_s if expires_s is None else expires_s)
        bought_by = content.get("by", "")
        check(STRINGS, notebook, bought_by, *tags)
        if "text" in content:
            content["answer"]["choices"][0]["message"]["content"] = text.decode("utf-8", "surrogatepass")
        if "vector" in content:
            numbers = _vector_in(blob)
            size_bytes += len(numbers)
            message = content["answer"]["choices"][0]["message"]
            message["embedding"] = binascii.b2a_base64(numbers, newline=False).decode()
        if "media" in content:
            size_bytes += _filled(content["answer"], content["media"], read)
        answer = answer_from(content["answer"])
        key = RequestKey(digest, skeleton)
        entry = Entry(key, answer, created_s, expires_s, tags, notebook, bought_by)
        if "attached" in content:
            from or_cache_magic.core.media import attached_from  # few entries have any

            entry = entry._replace(attached=attached_from(content["attached"]))
    except (LookupError, TypeError, ValueError, AttributeError, InvalidOperation) as exc:
        raise _damaged(digest, "not an entry") from exc
    why = why_implausible(entry)
    if why is not None:
        raise _damaged(digest, f"it has {why}")
    return entry, size_bytes


def _filled(value: Any, places: Any, read: ReadMedia | None) -> int:
    from or_cache_magic.storage.media import put_back  # few entries have any

    if read is None:
        raise ValueError(places)
    return put_back(value, places, read)


def encode_request(digest: str, body: Any, prompt: str, media: dict[bytes, bytes] | None = None) -> bytes:
    """A request's body as a blob, the fields in their order; ``prompt`` is what a listing shows of it.

    Its large media is put into ``media``, and where it stood is told in the place of a skeleton.

    Raises:
        StoreError: As `encode_entry`.
    """
    places: list[Any] = []
    if media is not None:
        from or_cache_magic.storage.media import take_out

        body, places = take_out(body, media, decoded=True)
    told = _to_json.encode(places).encode("utf-8", "surrogatepass") if places else b""
    return _pack(digest, prompt[:HEAD_CHARS], told, body)


def decode_request(digest: str, blob: object, read: ReadMedia | None = None) -> dict[str, Any]:
    """The body of a request's blob.

    Raises:
        StoreCorruptError: As `decode_entry`.
    """
    _, told, body, _ = _unpack(digest, blob)
    if type(body) is not dict:
        raise _damaged(digest, "not a request")
    if told:
        try:
            _filled(body, json.loads(told), read)
        except (LookupError, TypeError, ValueError, RecursionError) as exc:
            raise _damaged(digest, "its media is not there") from exc
    return body


def parts(digest: str, blob: object) -> Iterator[bytes]:
    """The text of a blob, then the skeleton and the JSON in one; hardly more is inflated than is asked for.

    Nothing is checked: for a search, which has to `check_blob` what it finds, and needs no check of the rest.

    Raises:
        StoreCorruptError: It can't be inflated, or is not one of ours.
    """
    try:
        if type(blob) is not bytes or len(blob) < _START_BYTES:
            raise _damaged(digest, "not a blob")
        form, stored = _behind_vector(blob[0], blob[_START_BYTES:])
        more = form != _PLAIN
        inflate = zlib.decompressobj(-15, _dictionary(form))
        payload = inflate.decompress(stored, _SMALL_BYTES) if more else stored
        size, _ = _FRAME.unpack_from(payload)
        end = _FRAME_BYTES + size
        if more and end > len(payload):
            limit = min(end, _LARGEST_BYTES) - len(payload)
            payload += inflate.decompress(inflate.unconsumed_tail, limit)
        yield payload[_FRAME_BYTES:end]
        rest = payload[end:]
        if more and not inflate.eof:
            rest += inflate.decompress(inflate.unconsumed_tail, _LARGEST_BYTES)
        yield rest
    except (struct.error, zlib.error) as exc:
        raise _damaged(digest, "it can't be decoded") from exc


def check_blob(digest: str, blob: object) -> None:
    """Does nothing for a blob whose checksum holds.

    Raises:
        StoreCorruptError: As `decode_entry`.
    """
    _stored(digest, blob)


def json_text(text: str) -> str:
    """A text as it stands in the JSON of a blob, without the quotes around it."""
    return _to_json.encode(text)[1:-1]


def read_head(digest: str, blob: object) -> str:
    """The first `HEAD_CHARS` characters of the answer or the prompt, without inflating the rest.

    Raises:
        StoreCorruptError: As `decode_entry`.
    """
    try:
        form, stored = _stored(digest, blob)
        deflated = form != _PLAIN
        inflate = zlib.decompressobj(-15, _dictionary(form))
        start = (
            inflate.decompress(stored, _FRAME_BYTES + HEAD_CHARS)
            if deflated
            else stored[: _FRAME_BYTES + HEAD_CHARS * _UTF8_BYTES]
        )
        size, _ = _FRAME.unpack_from(start)
        text = start[_FRAME_BYTES : _FRAME_BYTES + size]
        # Mostly a byte is a character: to inflate four for each at once would take twice as long.
        if deflated and len(text) < size and not text.isascii():
            more = inflate.decompress(inflate.unconsumed_tail, HEAD_CHARS * (_UTF8_BYTES - 1))
            text = (text + more)[:size]
        # A cut may go through a character, but only behind the last one that is shown.
        whole = "surrogatepass" if len(text) == size else "ignore"
        return str(text, "utf-8", whole)[:HEAD_CHARS]
    except (struct.error, zlib.error, ValueError) as exc:
        raise _damaged(digest, "no head") from exc


def _pack(digest: str, text: str, skeleton: bytes, content: Any, vector: bytes = b"") -> bytes:
    head = text.encode("utf-8", "surrogatepass")
    try:
        # A lone surrogate of a model's answer must come back as it came.
        rest = _to_json.encode(content).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError) as exc:
        raise StoreError(f"The answer can't be kept: {exc}.") from exc
    payload = b"".join((_FRAME.pack(len(head), len(skeleton)), head, skeleton, rest))
    if len(payload) > _LARGEST_BYTES:
        raise StoreError(f"The answer can't be kept: {len(payload) >> 20} MiB are too many.")
    form = _PLAIN
    if len(payload) > _DEFLATE_OVER_BYTES:
        deflate = zlib.compressobj(
            _LEVEL, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, _dictionary(_DEFLATED)
        )
        deflated = deflate.compress(payload) + deflate.flush()
        if len(deflated) < len(payload):
            form, payload = _DEFLATED, deflated
    if vector:
        payload = _VECTOR_START.pack(form, len(vector)) + vector + payload
        form = _WITH_VECTOR
    return _START.pack(form, _checksum(digest, form, payload)) + payload


def _checksum(digest: str, form: int, stored: bytes) -> int:
    # With the key in it, an answer that a damaged index finds under another key fails too.
    return zlib.crc32(stored, zlib.crc32(digest.encode(), form))


def _stored(digest: str, blob: object) -> tuple[int, bytes]:
    """The format of a blob, and its payload as stored; its checksum holds."""
    if type(blob) is not bytes or len(blob) < _START_BYTES:
        raise _damaged(digest, "not a blob")
    form, checksum = _START.unpack_from(blob)
    stored = blob[_START_BYTES:]  # of a few kilobytes a copy is made faster than a view
    if checksum != _checksum(digest, form, stored):
        raise _damaged(digest, "its checksum differs")
    if form == _WITH_VECTOR:
        form, stored = _behind_vector(form, stored)
    if form in (_DEFLATED, _PLAIN, _DEFLATED_BEFORE):
        return form, stored
    raise _damaged(digest, f"format {form} is unknown")


def _behind_vector(form: int, stored: bytes) -> tuple[int, bytes]:
    """Return the format and the payload behind a vector; what has none is returned as it is."""
    if form != _WITH_VECTOR:
        return form, stored
    if len(stored) < _VECTOR_START.size:
        return 0, b""
    form, size = _VECTOR_START.unpack_from(stored)
    return form, stored[_VECTOR_START.size + size :]


def _vector_in(blob: object) -> bytes:
    """Return the vector of a blob whose checksum holds.

    Raises:
        ValueError: It has none, or one of broken numbers.
    """
    if not isinstance(blob, bytes) or blob[0] != _WITH_VECTOR:
        raise ValueError(blob)
    begins = _START_BYTES + _VECTOR_START.size
    _, size = _VECTOR_START.unpack_from(blob, _START_BYTES)
    if not size or size % 4:
        raise ValueError(size)
    return blob[begins : begins + size]


def _payload(digest: str, blob: object, largest_bytes: int) -> bytes:
    """The payload of a blob, or its first bytes; its checksum holds."""
    form, stored = _stored(digest, blob)
    if form == _PLAIN:
        return stored
    return zlib.decompressobj(-15, _dictionary(form)).decompress(stored, largest_bytes)


def _unpack(digest: str, blob: object, largest_bytes: int = _LARGEST_BYTES) -> tuple[bytes, bytes, Any, int]:
    """The text, the skeleton and the JSON value of a blob, and the bytes of them all."""
    try:
        payload = _payload(digest, blob, largest_bytes)
        text_bytes, skeleton_bytes = _FRAME.unpack_from(payload)
        middle = _FRAME_BYTES + text_bytes
        end = middle + skeleton_bytes
        form = payload[end:].decode("utf-8", "surrogatepass")
        content, parsed = _from_json(form)
    except (struct.error, zlib.error, ValueError, RecursionError) as exc:
        raise _damaged(digest, "it can't be decoded") from exc
    if parsed != len(form):
        raise _damaged(digest, "more follows its JSON")
    if form.count("[") + form.count("{") > _DEEPEST and not is_shallow(content):
        raise _damaged(digest, "it is nested too deep")
    return payload[_FRAME_BYTES:middle], payload[middle:end], content, len(payload)


def is_shallow(value: Any) -> bool:
    """Return whether nothing in a JSON value is nested so deep that what reads it could run out of stack."""
    level = [value]
    for _ in range(_DEEPEST):
        inner = (item.values() if type(item) is dict else item for item in level)
        level = [part for parts in inner for part in parts if type(part) in _NESTED]
        if not level:
            return True
    return False


def _damaged(digest: str, why: str) -> StoreCorruptError:
    return StoreCorruptError(
        f"The entry {digest[:10]} of the completion cache is damaged: {why}. It was not served.",
        f"Ask again, or remove it: %openrouter_purge {digest[:10]}",
    )
