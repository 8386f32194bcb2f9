"""What kept answers take on disk, beside the same requests and answers as plain JSON in diskcache."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import TIMES, Figure, MeasuringError
from kernels import recorder_in
from prose import prose
from upstream import MODEL, filling

from or_cache_magic.core.key import request_key
from or_cache_magic.core.policy import Policy
from or_cache_magic.core.records import OPENROUTER_URL
from or_cache_magic.core.settings import Ask, Settings
from or_cache_magic.simulator import scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

    from or_cache_magic.cache.completion import Completion

SYSTEM = "You are a careful editor. Answer in plain words, and name what you are unsure of."
PROMPT_CHARS, ANSWER_CHARS = 1_100, 1_100  # with all else, 2.7 KB of JSON


def figures(*, entries: int) -> Iterator[Figure]:
    """The ratio of the bytes after asking as a user does, index and ledger included.

    What the simulator said is kept as OpenRouter's answer: its own address would stand in every request and
    key, where OpenRouter's is left out, and plain diskcache keeps neither.
    """
    from diskcache import Cache

    with tempfile.TemporaryDirectory() as folder:
        ours, plain = Path(folder, "ours"), Path(folder, "plain")
        database, recorder = recorder_in(str(ours))
        json_bytes = 0
        with filling(Path(folder, "asked")) as (cache, sim), Cache(str(plain)) as peer:
            for number in range(entries):
                sim.script(scenario("plain", text=prose(ANSWER_CHARS, number)))
                prompt = prose(PROMPT_CHARS, entries + number)
                completion = cache.ask(prompt, model=MODEL, system=SYSTEM, stream=False)
                request = completion.request._replace(base_url=OPENROUTER_URL)
                ask = Ask(request_key(request), request, Policy(), Settings())
                trouble, _ = recorder.keep(ask, "miss", completion.outcome.answer)
                if trouble:
                    raise MeasuringError(f"an answer was not kept: {trouble}")
                text = json.dumps(_exchange(completion))
                json_bytes += len(text)
                peer[completion.key] = text
        database.close()
        ours_bytes, plain_bytes = _size_bytes(ours), _size_bytes(plain)
    each = " ÷ ".join(f"{size / entries:,.0f}" for size in (ours_bytes, plain_bytes))
    detail = f"{each} bytes an entry of {json_bytes / entries:,.0f} bytes of JSON; {entries:,} entries"
    yield Figure("bytes on disk ÷ plain diskcache", "≤", 0.45, TIMES, ours_bytes / plain_bytes, detail)


def _exchange(completion: Completion) -> dict[str, Any]:
    """A request and its reply as the wire has them, without what no reader would miss."""
    answer = completion.outcome.answer
    reply = {
        "id": answer.generation_id,
        "model": answer.model,
        "provider": answer.provider,
        "created": int(answer.created_s),
        "choices": [
            {"index": 0, "message": dict(answer.choices[0].message), "finish_reason": answer.finish_reason}
        ],
        **(answer.extra or {}),
    }
    return {"request": dict(completion.request.body), "reply": reply}


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
