"""Answers as a data set: conversations with what they cost, for fine-tuning, evaluation, or a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Final

from or_cache_magic.core.chat import asked_model, is_embedding
from or_cache_magic.core.records import Usage
from or_cache_magic.errors import OptionError
from or_cache_magic.replay.lines import SecretInPrompt, asks_with_secret, without_secrets
from or_cache_magic.storage.media import take_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from or_cache_magic.storage.transfer import Kept

BEGINS: Final[Mapping[str, bytes]] = MappingProxyType({"chat": b'{"messages":', "parquet": b"PAR1"})
"""By format how such a file begins, by which it is known as one that may be replaced."""

_AT_ONCE: Final = 500
_COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("key", "created", "model", "served_model", "provider", "messages", "answer"), "string"
        ),
        **dict.fromkeys(("prompt_tokens", "completion_tokens"), "int64"),
        "cost_usd": "float64",
        **dict.fromkeys(("cost_source", "finish_reason"), "string"),
    }
)
_to_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode

Take = Callable[["Kept", str], bool]
"""Writes an answer, without the OpenRouter key in use; returns whether it is one of a data set."""


@contextmanager
def open_dataset(file: IO[bytes], kind: str) -> Iterator[Take]:
    """Open what writes answers into a file, as ``chat`` or ``parquet``; it is whole when the block ends.

    Raises:
        OptionError: pyarrow is not installed, which writes Parquet.
    """
    if kind == "chat":
        yield lambda kept, secret: _take(kept, secret, lambda row: _write_line(file, row))
        return
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise OptionError(
            "Parquet needs pyarrow, which is not installed; nothing was written",
            "pip install pyarrow, or write --format chat (format='chat')",
        ) from None
    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in _COLUMNS.items()])
    rows: list[dict[str, Any]] = []
    with parquet.ParquetWriter(file, schema) as writer:

        def put(row: dict[str, Any] | None) -> None:
            if row is not None:
                rows.append({**row, "messages": _to_json(row["messages"])})
            if rows and (row is None or len(rows) >= _AT_ONCE):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows.clear()

        yield lambda kept, secret: _take(kept, secret, put)
        put(None)


def _take(kept: Kept, secret: str, put: Callable[[dict[str, Any]], None]) -> bool:
    """Hand on an answer that is served and belongs to a conversation, as a row.

    Raises:
        SecretInPrompt: A secret stands in its messages.
    """
    body, answer = kept.request.body, kept.entry.answer
    if kept.reason or is_embedding(body):
        return False
    if asks_with_secret(take_out(body["messages"], {}, decoded=True)[0], secret):
        raise SecretInPrompt
    message = without_secrets(answer.choices[0].message, secret)
    usage = answer.usage or Usage()
    put(
        {
            "messages": [*body["messages"], message],
            "model": asked_model(body),
            "cost_usd": None if answer.cost.usd is None else float(answer.cost.usd),
            "key": kept.entry.key.digest,
            "created": datetime.fromtimestamp(kept.entry.created_s, tz=timezone.utc).isoformat(),
            "served_model": answer.model,
            "provider": answer.provider,
            "answer": without_secrets(answer.text, secret),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cost_source": answer.cost.source,
            "finish_reason": answer.finish_reason,
        }
    )
    return True


def _write_line(file: IO[bytes], row: dict[str, Any]) -> None:
    chosen = {name: row[name] for name in ("messages", "model", "cost_usd", "key")}
    file.write(_to_json(chosen).encode("utf-8", "backslashreplace") + b"\n")
