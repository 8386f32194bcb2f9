"""Killed, copied, loaded and scribbled on: what was acknowledged is there, and nothing else is."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from or_cache_magic.errors import OrCacheError


def test_kill__loses_nothing(tmp_path):
    """A writer that is killed ten times at random moments loses nothing acknowledged, and leaves no half."""
    from soaking import inspect, kill_writers

    kept, troubles = kill_writers(tmp_path / "cache", 10)
    assert troubles == []
    assert len(kept) > 100
    found = inspect(tmp_path / "cache", kept)
    assert (found.lost, found.half, found.unsound, found.ledger_off) == (0, 0, "", 0)
    assert found.entries >= len(kept)


def test_inspection__finds_what_is_wrong(tmp_path):
    """The inspection is no rubber stamp: it sees a lost answer, a changed one, and a ledger that is off."""
    from soaking import fill, inspect

    kept = fill(tmp_path / "cache", 20)
    with closing(sqlite3.connect(tmp_path / "cache" / "cache.db", isolation_level=None)) as connection:
        connection.create_function("or_has_text", 4, lambda *_: 0)
        connection.execute("DELETE FROM Cache WHERE rowid = 1")
        connection.execute("UPDATE Cache SET value = x'00' WHERE rowid = 2")
    found = inspect(tmp_path / "cache", [*kept, 10**9])
    assert (found.lost, found.half, found.ledger_off) == (3, 1, 1)


def test_load__goes_well(tmp_path):
    """Eight processes that read and write at once for three seconds: no error, nothing lost, all sound."""
    from soaking import fill, inspect, load

    first = fill(tmp_path / "cache", 200)
    did = load(tmp_path / "cache", processes=8, seconds=3, shared=200)
    assert did.errors == ()
    assert did.unwritten == 0
    assert len(did.kept) > 50
    found = inspect(tmp_path / "cache", [*first, *did.kept])
    assert (found.lost, found.half, found.unsound, found.ledger_off) == (0, 0, "", 0)


def test_copy__has_every_finished_answer(kernels, folder, tmp_path, open_cache, sim):
    """A copy of the folder that is taken while a kernel runs serves every answer whose cell had finished."""
    (kernel,) = kernels(1)
    texts = {}
    for number in range(5):
        kernel.tell(do="ask", prompt=f"Question {number}")
        texts[f"Question {number}"] = kernel.hear()["text"]
        copy = tmp_path / f"copy-{number}"
        copy.mkdir()
        shutil.copy(folder / "cache.db", copy)  # alone, as git takes it
        there = open_cache(sim, directory=copy, mode="offline")
        assert {prompt: str(there.ask(prompt)) for prompt in texts} == texts


@pytest.fixture(scope="module")
def scribbled(tmp_path_factory, sim):
    """A cache with a stored answer, and one that was set aside."""
    from or_cache_magic.cache.cache import CompletionCache
    from or_cache_magic.core.settings import Settings
    from or_cache_magic.simulator import scenario

    chosen = Settings(model="openai/gpt-4o-mini", base_url=sim.base_url)
    folder = tmp_path_factory.mktemp("scribbled")
    with CompletionCache(folder, settings=lambda: chosen, api_key=lambda: "sk-or-v1-test") as cache:
        sim.script(scenario("content_filter"))
        cache.ask("Filtered")
        cache.ask("Stored")
        yield cache


def _digests(cache):
    return [row.key for row in cache.store.listing.find()]


COLUMNS = [
    ("Cache", "value"),
    ("Cache", "tag"),
    ("Cache", "mode"),
    ("Cache", "filename"),
    ("or_request", "body"),
    ("or_entry", "cost"),
    ("or_entry", "cost_source"),
    ("or_entry", "created"),
    ("or_entry", "tags"),
    ("or_unserved", "answer"),
    ("or_unserved", "at"),
    ("or_ledger", "paid"),
    ("or_ledger", "kind"),
    ("or_ledger", "tags"),
    ("or_ledger", "at"),
]
USES = [
    lambda cache: cache.ask("Stored"),
    lambda cache: cache.entries(),
    lambda cache: cache.entries("text", model="x*"),
    lambda cache: cache.stats(by="model"),
    lambda cache: cache.stats(by="day"),
    lambda cache: cache.stats(by="tag"),
    lambda cache: cache.ledger.rows(),
    lambda cache: [cache.store.unserved(digest) for digest in _digests(cache)],
    lambda cache: [cache.store.request(digest) for digest in _digests(cache)],
    lambda cache: cache.purge(all=True, dry_run=True),
]
VALUES = st.binary(max_size=60) | st.text(max_size=20) | st.integers(-(2**63), 2**63 - 1) | st.floats()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(column=st.sampled_from(COLUMNS), value=VALUES, place=st.integers(0, 400))
def test_scribbled_rows__raise_errors_of_ours(scribbled, column, value, place):
    """Whatever stands in a row, users see the answer, or one bought anew, or an error of this package."""
    table, name = column
    with closing(sqlite3.connect(scribbled.database.path, isolation_level=None)) as connection:
        before = connection.execute(f"SELECT rowid, {name} FROM {table}").fetchall()
        for row, old in before:
            new = value
            if isinstance(old, bytes) and isinstance(value, bytes):  # bytes within: the rest stays
                new = old[:place] + value + old[place + len(value) :]
            connection.execute(f"UPDATE OR IGNORE {table} SET {name} = ? WHERE rowid = ?", (new, row))
        try:
            for use in USES:
                with suppress(OrCacheError):
                    use(scribbled)
        finally:
            for row, old in before:
                connection.execute(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", (old, row))
    scribbled.ask("Stored", mode="refresh")
    assert scribbled.ask("Stored").outcome.kind == "hit"
