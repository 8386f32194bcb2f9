"""Entries as they are bought, and a store, a ledger and a database in a folder of their own."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from decimal import Decimal
from hashlib import sha256

import pytest

from or_cache_magic.core.key import KEY_VERSION, request_key
from or_cache_magic.core.records import Answer, Choice, Cost, Entry, Request, RequestKey, Usage
from or_cache_magic.storage.columns import add_hits
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger
from or_cache_magic.storage.schema import SCHEMA_VERSION


class Clock:
    """Time that goes by when told to."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def make_request(prompt="Hello", *, model="openai/gpt-4o-mini", system=None, **fields):
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return Request({"model": model, "messages": messages, "temperature": 0, **fields})


def make_entry(request, text="Hi", *, cost="0.000123", served=None, created_s=1_700_000_000.0, **fields):
    answer = Answer(
        (Choice({"role": "assistant", "content": text}, "stop", "stop"),),
        served or request.body["model"],
        "OpenAI",
        Usage(10, 20, 3, None, 1),
        Cost(None, "unknown") if cost is None else Cost(Decimal(cost), "reported"),
        "gen-1",
        created_s,
        1.5,
    )
    return Entry(request_key(request), answer, created_s, **fields)


def old_key(request):
    """A key as an earlier version might have made it: another digest, another skeleton, ``seed`` left out."""
    body = {name: value for name, value in request.body.items() if name != "seed"}
    key = request_key(request._replace(body=body))
    return RequestKey(sha256(b"k0" + key.digest.encode()).hexdigest(), b"k0" + key.skeleton)


def mark_older(folder):
    """Let a file say that its keys are of the version before this one."""
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version={1000 * (KEY_VERSION - 1) + SCHEMA_VERSION}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def record_hits(store, counts):
    """Add hits to the entries of these digests, as a flush of the ledger does."""
    with store._database.transaction() as connection:
        add_hits(connection, counts.items())


@pytest.fixture
def make():
    """``make(prompt, text, …)`` is an (entry, request) pair."""

    def pair(prompt="Hello", text="Hi", *, model="openai/gpt-4o-mini", system=None, **fields):
        request = make_request(prompt, model=model, system=system)
        return make_entry(request, text, **fields), request

    return pair


@pytest.fixture
def folder(tmp_path):
    return tmp_path / ".or_cache"


@pytest.fixture
def database(folder):
    opened = Database(folder, timeout_s=0.2)
    yield opened
    opened.close()


@pytest.fixture
def store(database):
    return DiskStore(database)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(database, clock):
    return Ledger(database, "session-1", clock)
