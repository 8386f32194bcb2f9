"""A completion cache filled with entries of every kind, its panel, and the messages that a front end would get."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing, contextmanager
from decimal import Decimal
from html.parser import HTMLParser

import comm
import pytest
from comm.base_comm import BaseComm

from or_cache_magic.core.key import request_key
from or_cache_magic.core.records import Answer, Choice, Cost, Entry, Request, Usage
from or_cache_magic.core.rows import LedgerRow
from or_cache_magic.panels.panel import Panel

DAY_S = 86_400.0
UNKNOWN = Cost(None, "unknown")


def usd(text, source="reported"):
    return Cost(Decimal(text), source)


def keep(
    cache,
    prompt="Hello",
    text="Hi",
    *,
    model="openai/gpt-4o-mini",
    cost=usd("0.0021"),  # noqa: B008 - frozen
    age_s=0.0,
    ttl_s=None,
    tags=(),
    hits=0,
    notebook="n.ipynb",
    **fields,
):
    """Stores an entry as an ask leaves it, with its ledger row and those of its hits; its key."""
    at_s = cache.clock() - age_s
    request = Request({"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0})
    answer = Answer(
        (Choice({"role": "assistant", "content": text}, "stop"),),
        **{"model": model, "provider": "OpenAI", "usage": Usage(1312, 187), "cost": cost, "created_s": at_s}
        | fields,
    )
    entry = Entry(
        request_key(request), answer, at_s, None if ttl_s is None else at_s + ttl_s, tuple(tags), notebook
    )
    bought = LedgerRow(
        at_s,
        cache.session,
        notebook,
        entry.key.digest,
        model,
        "miss",
        1,
        cost,
        cost.usd,
        tuple(tags),
        1312,
        187,
    )
    with cache.database.transaction():
        cache.store.put(entry, request)
        cache.ledger.record(bought)
    for _ in range(hits):
        cache.ledger.count_hit(
            key=entry.key.digest,
            model=model,
            notebook=notebook,
            tags=tuple(tags),
            value_usd=cost.usd,
            prompt_tokens=1312,
            completion_tokens=187,
        )
    cache.ledger.flush()
    return entry.key.digest


@pytest.fixture
def filled(cache):
    """Forty entries: two models, tags on some, some expired, some of unknown cost, some served before."""
    with cache.database.transaction():
        for i in range(40):
            keep(
                cache,
                f"Question {i}, please",
                f"Answer {i}",
                model=("openai/gpt-4o-mini", "anthropic/claude-sonnet-4")[i % 4 == 0],
                cost=UNKNOWN if i % 10 == 3 else usd(f"0.00{i + 10}"),
                age_s=i * DAY_S / 2,
                ttl_s=DAY_S if i % 5 == 1 else None,
                tags=("exam",) if i % 3 == 0 else (),
                hits=i % 4,
            )
    return cache


@pytest.fixture
def open_panel(tmp_path):
    """``open_panel(cache)`` is a panel of the cache, taken out of memory after the test."""
    opened = []

    def start(cache, **options):
        panel = Panel(cache, **{"folder": tmp_path} | options)
        opened.append(panel)
        return panel

    yield start
    for panel in opened:
        panel.close()


@pytest.fixture
def panel(filled, open_panel):
    return open_panel(filled)


class Text(HTMLParser):
    """What a page says and is made of: its texts, tags and attributes."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)

    def __str__(self) -> str:
        return " ".join(" ".join(self.texts).split())


def said(widget):
    """What an HTML widget says."""
    return str(Text(widget.value))


def status(panel):
    return said(panel.face.status)


def prompts(panel):
    """The prompts on screen, from top to bottom."""
    return [row.prompt for row in panel.shown.rows]


@contextmanager
def refusing(folder, key):
    """While inside, the file lets this entry not be removed; whoever opens it anew sees that it was tampered with."""
    with closing(sqlite3.connect(folder / "cache.db")) as other:
        other.execute(
            f"CREATE TRIGGER refuse BEFORE DELETE ON Cache WHEN OLD.key = '{key}'"
            " BEGIN SELECT RAISE(ABORT, 'it may not go'); END"
        )
        yield
        other.execute("DROP TRIGGER refuse")


class Wire:
    """The messages that went to the front end, as JSON."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    @property
    def size_bytes(self) -> int:
        # A message has its own header and that of the cell it belongs to, about 600 bytes together.
        return sum(len(message) + 600 for message in self.sent)


@pytest.fixture
def wire(monkeypatch):
    """Every message that widgets send, from now on."""
    wire, lock = Wire(), threading.Lock()

    class Recorded(BaseComm):
        def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
            with lock:
                wire.sent.append(json.dumps([msg_type, self.comm_id, data, metadata, keys], default=str))

    monkeypatch.setattr(comm, "create_comm", lambda *_, **options: Recorded(**options))
    return wire
