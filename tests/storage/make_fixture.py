"""Writes fixture stores of this layout: ``python tests/storage/make_fixture.py``, once before a release.

One has keys of this version, the other those of an older one. A released one is never written again: it is
what the users of that release have. Beside ``cache.db`` lies ``expected.json``, with each request, its answer,
and the totals.
"""

from __future__ import annotations

import json
import shutil
import sys
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from conftest import make_entry, make_request, mark_older, old_key

from or_cache_magic.core.key import KEY_VERSION, request_key
from or_cache_magic.core.records import Request
from or_cache_magic.core.rows import LedgerRow
from or_cache_magic.money.catalog import PriceCatalog
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.schema import SCHEMA_VERSION

FIXTURES = Path(__file__).parent / "fixtures"
AT_S = 1_767_268_800.0
ELSEWHERE = "http://127.0.0.1:9/api/v1"
PRICING = {"prompt": "0.00000015", "completion": "0.0000006"}
MODEL = {
    "id": "openai/gpt-4o-mini",
    "canonical_slug": "openai/gpt-4o-mini",
    "name": "GPT",
    "pricing": PRICING,
}
OFFER = {"provider_name": "OpenAI", "tag": "openai", "pricing": PRICING}
LISTED = {
    "/model/openai/gpt-4o-mini": {"data": MODEL},
    "/models/openai/gpt-4o-mini/endpoints": {"data": {**MODEL, "endpoints": [OFFER]}},
}
SCHEMA = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}}


def pairs():
    """What is in the store: requests of every kind that a key knows, and their answers."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
    healing = {"plugins": [{"id": "response-healing"}], "response_format": {"type": "json_object"}}
    requests = {
        "A median is the middle value.": make_request("What is a median?"),
        "Bonjour 🎈": make_request("Translate: Grüße \u0000 🎈", system="You are terse. " * 40),
        "long " * 2000: make_request("word " * 1000, model="anthropic/claude-sonnet-4", max_tokens=4096),
        "sampled": make_request("Name a colour.")._replace(sample=2),
        "from elsewhere": make_request("Hello")._replace(base_url=ELSEWHERE),
        "not streamed": make_request("Hello")._replace(stream=False),
        "{}": make_request("As JSON", **healing)._replace(stream=False),
        "tools": make_request("Use a tool", tools=tools, seed=2**70, top_p=0.1),
        "image": make_request(
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]
        ),
    }
    # Streamed or not is no other request, but for the healing plugin.
    requests["not streamed"].body["messages"][0]["content"] = "Hello, whole"
    for i, (text, request) in enumerate(requests.items()):
        cost = None if text == "tools" else f"0.00{i + 1}"
        yield (
            make_entry(request, text, cost=cost, created_s=AT_S + i, tags=(f"tag{i}",), notebook="n.ipynb"),
            request,
        )


def ledger_row(entry, request: Request) -> LedgerRow:
    """The row of the call that bought an entry."""
    answer = entry.answer
    return LedgerRow(
        entry.created_s, "session-1", "n.ipynb", entry.key.digest, request.body["model"], "miss", 1,
        answer.cost, answer.cost.usd, entry.tags, 10, 20, seconds=1.5, base_url=request.base_url,
        generation_id=f"gen-1767268800-{entry.key.digest[:20]}",
    )  # fmt: skip


def write(folder: Path, key_of) -> None:
    """Write a folder anew, with the keys that this function makes."""

    def keyed(request, text, **fields):
        return make_entry(request, text, **fields)._replace(key=key_of(request))

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    database = Database(folder)
    store, ledger = DiskStore(database), Ledger(database, "session-1", lambda: AT_S + 1000)
    expected = []
    for bought, request in pairs():
        entry = bought._replace(key=key_of(request))
        row = ledger_row(entry, request)
        if entry.answer.text == "sampled":  # what a provider's prompt caching took off
            row = row._replace(cached_tokens=8, prompt_cache_saved_usd=Decimal("0.0000072"))
        ledger.record(row)
        store.put(keyed(request, "an earlier answer", created_s=AT_S - 1000), request)
        store.put(entry, request, replaced_reason="asked again")
        ledger.count_hit(
            key=entry.key.digest, model=request.body["model"], notebook="n.ipynb", tags=entry.tags,
            value_usd=entry.answer.cost.usd, prompt_tokens=10, completion_tokens=20,
        )  # fmt: skip
        expected.append([request.body, request.stream, request.sample, request.base_url, entry.answer.text])
    request = make_request("cut off")
    cut = keyed(request, "half an ans", created_s=AT_S)
    store.keep_unserved(cut.key, request, cut.answer, "cut off", AT_S)
    old = make_request("expired")
    store.put(keyed(old, "of yesterday", created_s=AT_S - 9, expires_s=AT_S - 1), old)
    ledger.flush()
    PriceCatalog(database, lambda path, **_: LISTED[path.partition("?")[0]], lambda: AT_S).estimate(
        request, AT_S
    )
    (totals,) = ledger.totals()
    sums = {
        "calls": totals.asks,
        "hits": totals.hits,
        "paid": str(totals.paid_usd),
        "saved": str(totals.saved_usd),
    }
    database.close()
    facts = {
        "served": expected,
        "entries": store.listing.count()[0],
        "totals": {**sums, "unpriced": totals.unpriced},
    }
    database.close()
    (folder / "expected.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    write(FIXTURES / f"layout{SCHEMA_VERSION}-keys{KEY_VERSION}", request_key)
    older = FIXTURES / f"layout{SCHEMA_VERSION}-keys{KEY_VERSION - 1}"
    write(older, old_key)
    mark_older(older)
