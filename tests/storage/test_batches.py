"""Batches in cache.db: what was submitted, whose rows are waited for, and the leases that these are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from decimal import Decimal

import pytest

from or_cache_magic.core.key import request_key
from or_cache_magic.core.records import OPENROUTER_URL, Cost
from or_cache_magic.core.rows import EntryFilter, LedgerRow
from or_cache_magic.engine.cross_process import acquire_lock
from or_cache_magic.errors import BatchPendingError, StoreCorruptError
from or_cache_magic.storage.batches import BatchRecord, BatchRow, BatchTable
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.leases import DiskLeases, Held, Lease

from .conftest import make_request, mark_older, old_key

KEY = "ab" * 32
OTHER = "cd" * 32
BATCH = BatchRecord(0, "f0" * 32, "payer", "", OPENROUTER_URL, "openai/gpt-4o-mini", 1_700_000_000.0, total=2)


def row(key=KEY, position=0, **fields):
    return BatchRow(
        0, position, key, f"orc-{position}", request=make_request(f"What is {position}?"), **fields
    )


@pytest.fixture
def table(database):
    return BatchTable(database)


@pytest.fixture
def leases(database, clock):
    return DiskLeases(database, clock, clock)


def test_batch__comes_back_as_it_was_written(table):
    """A batch and its rows, requests and policies too, in their order; the newest batch first."""
    assert (table.all(), table.rows(1), table.last([KEY])) == ([], [], {})
    rows = [row(), row(OTHER, 1, policy={"tags": ["a"], "ttl_s": 60.0})]
    first = table.begin(BATCH, rows)
    second = table.begin(BATCH._replace(remote="batch_2"), [row()])
    assert [batch.id for batch in table.all()] == [second, first]
    assert table.batch(first) == BATCH._replace(id=first)
    assert table.rows(first) == [one._replace(batch=first) for one in rows]
    assert {key: one.batch for key, one in table.last([KEY, OTHER, "ef"]).items()} == {
        KEY: second,
        OTHER: first,
    }

    told = BATCH._replace(
        id=first, remote="batch_1", status="completed", ended=True, checked_s=5.0, done=1, failed=1,
        cost_usd=Decimal("0.000000000001"), error="one failed",
    )  # fmt: skip
    table.update(told)
    assert table.batch(first) == told


def test_row__holds_its_key_until_it_ends(table, leases):
    """While a row waits nobody gets the lease of its key, for however long; then it is free at once."""
    number = table.begin(BATCH._replace(remote="batch_1"), [row()])
    held = leases.acquire(KEY, 15.0)
    assert isinstance(held, Held)
    assert held.batch == "batch_1 (submitting, 0 of 2 answered)"
    assert leases.is_held(KEY, 15.0)
    assert isinstance(leases.acquire(OTHER, 15.0), Lease)
    with pytest.raises(BatchPendingError, match=r"in the batch batch_1 .*nothing was sent"):
        acquire_lock(leases, KEY, lambda _since_s: None, print)

    ended = row(state="failed", error="too long", cost_usd=Decimal("0.5"))._replace(batch=number)
    assert table.end_row(ended)
    assert not table.end_row(ended._replace(state="stored"))  # it was another kernel's already
    assert table.last([KEY])[KEY] == ended._replace(request=None, policy={})
    assert isinstance(leases.acquire(KEY, 15.0), Lease)


def test_row__ends_with_the_transaction_that_stores_its_answer(table, leases, database):
    """Undone with it, the row waits on."""
    number = table.begin(BATCH, [row()])
    ended = row(state="stored")._replace(batch=number)

    def end_and_fail():
        with database.transaction():
            assert table.end_row(ended)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        end_and_fail()
    assert isinstance(leases.acquire(KEY, 15.0), Held)


def test_remove__frees_what_never_was_submitted(table, leases):
    """The batch and its rows are gone, and their keys free."""
    table.remove(table.begin(BATCH, [row()]))
    assert table.all() == []
    assert isinstance(leases.acquire(KEY, 15.0), Lease)


def test_forget__removes_old_batches_that_ended(table):
    """One whose rows wait stays, however old it is."""
    table.forget(2e9)
    waits = table.begin(BATCH, [row()])
    ended = table.begin(BATCH, [row(OTHER)])
    table.update(BATCH._replace(id=ended, ended=True))
    table.forget(BATCH.submitted_s)
    assert len(table.all()) == 2
    table.forget(BATCH.submitted_s + 1)
    assert [batch.id for batch in table.all()] == [waits]
    assert table.rows(ended) == []


def test_purge__of_everything_forgets_batches_that_ended(table, leases, database):
    """Why a row failed may repeat its prompt; what is under way is still waited for."""
    waits = table.begin(BATCH, [row()])
    ended = table.begin(BATCH, [row(OTHER)])
    table.update(BATCH._replace(id=ended, ended=True))
    DiskStore(database).purge(EntryFilter(), everything=True)
    assert [batch.id for batch in table.all()] == [waits]
    assert isinstance(leases.acquire(KEY, 15.0), Held)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE or_batch SET total = -1",
        "UPDATE or_batch SET submitted = 1e300",
        "UPDATE or_batch SET model = x'00'",
        "UPDATE or_batch SET remote = '../key'",
    ],
)
def test_batch__damage_holds_nobody_up(table, leases, database, damage):
    """What this package never writes is refused, and is no lease."""
    table.begin(BATCH, [row()])
    with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
        connection.execute(damage)
    with pytest.raises(StoreCorruptError):
        table.all()
    assert isinstance(leases.acquire(KEY, 15.0), Lease)


def test_row__of_an_unknown_state_is_refused(table, database):
    """No row of ours has it."""
    table.begin(BATCH, [row()])
    with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
        connection.execute("UPDATE or_batch_row SET state = 'melted'")
    with pytest.raises(StoreCorruptError):
        table.rows(1)


def test_row__requests_keep_their_keys(table):
    """What is read back has the key that it was submitted under."""
    request = make_request("What is a mean?", seed=3)._replace(stream=False, sample=2, base_url="http://x/v1")
    key = request_key(request).digest
    number = table.begin(BATCH, [BatchRow(0, 0, key, "orc-0", request=request)])
    assert request_key(table.rows(number)[0].request).digest == key


def test_row__gets_the_key_of_a_newer_version(folder, clock):
    """What a batch asks for is held under the keys that this code asks with; what is damaged is passed over."""
    requests = [make_request("What is a mean?"), make_request("What is a mode?")]
    with closing(Database(folder)) as database:
        table = BatchTable(database)
        rows = [
            BatchRow(0, n, old_key(request).digest, f"orc-{n}", request=request)
            for n, request in enumerate(requests)
        ]
        table.begin(BATCH, rows)
        with database.transaction() as connection:
            connection.execute("UPDATE or_batch_row SET request = x'00' WHERE position = 1")
    mark_older(folder)
    with closing(Database(folder)) as database:
        leases = DiskLeases(database, clock, clock)
        key = request_key(requests[0]).digest
        assert isinstance(leases.acquire(key, 15.0), Held)
        assert BatchTable(database).rows(1)[0].request == requests[0]


def test_ledger__counts_shares_of_batches_apart(ledger):
    """`apportioned` is a source of its own, in the rows and in the sums, written or not."""
    bought = LedgerRow(
        1.7e9, "s", "", KEY, "m", "miss", 1, Cost(Decimal("0.25"), "apportioned"), Decimal("0.25")
    )
    ledger.record(bought)
    ledger.record(bought._replace(paid=Cost(Decimal(1), "reported"), value_usd=Decimal(1)))
    ledger.remember(bought)
    (totals,) = ledger.totals()
    assert (totals.paid_usd, totals.reported_usd, totals.apportioned_usd) == (
        Decimal("1.5"),
        Decimal(1),
        Decimal("0.5"),
    )
    assert {one.paid.source for one in ledger.rows()} == {"apportioned", "reported"}
