"""Two machines that share one server: what one bought the other is given."""

from __future__ import annotations

import subprocess
import threading

import pytest

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import CacheMissError, MissingKeyError, UpstreamError
from or_cache_magic.simulator import scenario

from .servers import Redis, eventually, free_port, needs

PROMPT = "What is a median?"


def test_team__second_machine_pays_nothing(machine, server, sim):
    """What one bought is served to the other, without a key, as it was bought; then from its own disk."""
    first, second = machine("a", server.url), machine("b", server.url, api_key=None)
    bought = first.ask(PROMPT, tag="stats", ttl="7d")
    given = second.ask(PROMPT)

    assert (given, given.cached, given.outcome.kind) == (str(bought), True, "shared")
    assert (given.cost_usd, given.paid_usd, given.saved_usd) == (bought.cost_usd, 0, bought.cost_usd)
    assert second.ask(PROMPT).outcome.kind == "hit"
    assert sim.completion_count == 1

    (mine,), (theirs,) = first.store.listing.find(), second.store.listing.find()
    assert (theirs.created_s, theirs.expires_s, theirs.cost, theirs.tags) == (
        mine.created_s,
        mine.expires_s,
        mine.cost,
        ("stats",),
    )


def test_team__says_who_paid_as_a_hash(machine, server):
    """An entry of the team names its buyer by twelve digits, not by name, host, or notebook."""
    first, second = machine("a", server.url), machine("b", server.url)
    key = first.ask(PROMPT).key
    second.ask(PROMPT)

    assert first.store.entry(key).bought_by == ""
    entry = second.store.entry(key)
    assert len(entry.bought_by) == 12
    assert int(entry.bought_by, 16)
    assert (entry.notebook, entry.shared) == ("", False)


def test_team__is_a_figure_of_its_own(machine, server):
    """The ledger says ``team``, the hit counts as one that avoided a call, and its part is told."""
    first, second = machine("a", server.url), machine("b", server.url)
    value = first.ask(PROMPT).cost_usd
    for _ in range(3):
        second.ask(PROMPT)
    second.flush()

    assert sorted((row.kind, row.asks) for row in second.ledger.rows()) == [("hit", 2), ("shared", 1)]
    (totals,) = second.totals()
    assert (totals.hits, totals.shared_hits, totals.paid_usd) == (3, 1, 0)
    assert (totals.saved_usd, totals.shared_saved_usd) == (3 * value, value)
    assert second.store.listing.find()[0].hits == 3
    assert first.totals()[0].shared_hits == 0


def test_team__offline_asks_nobody(machine, server):
    """Offline, the server is not asked either."""
    machine("a", server.url).ask(PROMPT)
    with pytest.raises(CacheMissError):
        machine("b", server.url).ask(PROMPT, mode="offline")


@pytest.mark.parametrize("mode", ["refresh", "bypass"])
def test_team__fresh_answers_are_bought(machine, server, sim, mode):
    """Who wants an answer of their own is not given the team's; a refreshed one replaces it for all."""
    first, second = machine("a", server.url), machine("b", server.url)
    first.ask(PROMPT)
    fresh = second.ask(PROMPT, mode=mode)

    assert sim.completion_count == 2
    assert (machine("c", server.url).ask(PROMPT) == fresh) == (
        mode == "refresh" or fresh == first.ask(PROMPT)
    )


def test_team__expired_on_disk_is_looked_up_again(machine, server, sim):
    """An entry that ran out here may have been bought anew by another."""
    first, second = machine("a", server.url), machine("b", server.url)
    old = first.ask(PROMPT, ttl="1s")
    eventually(lambda: first.peek(first.prepare(PROMPT, {}))[0] is None)
    anew = second.ask(PROMPT, ttl="7d")
    found = first.ask(PROMPT)

    assert old == anew == found
    assert found.outcome.kind == "shared"
    assert sim.completion_count == 2


def test_team__what_may_not_be_stored_is_not_shared(machine, server):
    """Above temperature 0 nothing is kept, here or there."""
    machine("a", server.url).ask(PROMPT, temperature=0.7)
    with pytest.raises(MissingKeyError):
        machine("b", server.url, api_key=None).ask(PROMPT, temperature=0.7)


def test_team__a_full_disk_still_shares(machine, server, tmp_path):
    """What can't be kept here is kept for the team, and served from there."""
    blocked = tmp_path / "a"
    blocked.write_text("not a folder")
    first = machine("a", server.url)
    bought = first.ask(PROMPT)

    assert not bought.outcome.stored
    assert machine("b", server.url, api_key=None).ask(PROMPT) == bought
    assert first.ask(PROMPT).outcome.kind == "shared"


def test_team__without_a_namespace_in_common_is_apart(machine, server, sim):
    """Each namespace has its own answers."""
    machine("a", server.url).ask(PROMPT)
    machine("b", server.url, shared_namespace="other").ask(PROMPT)
    assert sim.completion_count == 2


def test_team__one_flight_across_machines(machine, server, sim):
    """Four machines ask the same at once: one request, and the same text for all, who waits is told."""
    caches = [machine(f"m{i}", server.url) for i in range(4)]
    kinds, texts, waited, looking = {}, set(), set(), threading.Semaphore(0)

    def ask(cache):
        def wait(_line):
            # Once more for the lease of another that looks whether it has come.
            if cache not in waited:
                waited.add(cache)
                looking.release()

        answer = cache.ask(PROMPT, on_wait=wait)
        kinds[cache] = answer.outcome.kind
        texts.add(str(answer))

    threads = [threading.Thread(target=ask, args=(cache,)) for cache in caches]
    with sim.hold():
        for thread in threads:
            thread.start()
        for _ in range(3):
            assert looking.acquire(timeout=60)
    for thread in threads:
        thread.join()

    assert len(texts) == 1
    assert sorted(kinds.values()) == ["coalesced"] * 3 + ["miss"]
    assert sim.completion_count == 1
    assert waited == {cache for cache, kind in kinds.items() if kind == "coalesced"}


def test_team__a_leaders_failure_is_told_once(machine, server, sim):
    """The error of the machine that asks reaches the one that waits; it does not ask in vain again."""
    first, second = machine("a", server.url), machine("b", server.url)
    failures, looking = [], threading.Event()
    sim.script(scenario("invalid_request", message="no such thing"))

    def ask(cache):
        try:
            cache.ask(PROMPT, on_wait=lambda _line: looking.set())
        except UpstreamError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=ask, args=(cache,)) for cache in (first, second)]
    with sim.hold():
        for thread in threads:
            thread.start()
        assert looking.wait(60)
    for thread in threads:
        thread.join()

    assert [str(failure) for failure in failures] == [str(failures[0])] * 2
    assert sim.completion_count == 1
    assert not second.ask(PROMPT).cached


def test_purge__reaches_the_server(machine, server, sim):
    """What is purged here is gone for those who have it only on the server."""
    first = machine("a", server.url)
    first.ask(PROMPT)
    first.ask("Another question?")
    first.purge(prefix="What")

    with pytest.raises(MissingKeyError):
        machine("b", server.url, api_key=None).ask(PROMPT)
    assert machine("b", server.url, api_key=None).ask("Another question?").cached
    assert any("removed for all" in line for line in first.database.pop_notices())
    assert first.store.listing.count(EntryFilter())[0] == 1


def test_purge__reaches_the_server_when_this_disk_has_none(machine, server):
    """The preview says so, and what only the server has is removed."""
    machine("a", server.url).ask(PROMPT)
    second = machine("b", server.url, api_key=None)
    chosen = second.purge_filter(all=True)
    preview = second.preview(chosen)

    assert (preview.entries, preview.shared, preview.does_nothing) == (0, True, False)
    second.drop(chosen)
    with pytest.raises(MissingKeyError):
        machine("c", server.url, api_key=None).ask(PROMPT)
    assert not second.preview(second.purge_filter(to_fit="1GB")).shared


def test_team__in_front_of_it_may_be_memory(server, sim, settings_of):
    """A cache in memory shares too: nothing on disk, and nothing paid twice."""
    for _ in range(2):
        with CompletionCache(
            ":memory:", settings=lambda: settings_of(server.url), api_key=lambda: "sk-or-v1-test"
        ) as cache:
            cache.ask(PROMPT)
    assert sim.completion_count == 1


def test_team__over_tls(machine, tmp_path):
    """``rediss://`` works with the team's certificate, and a certificate that nobody vouches for is refused."""
    needs("openssl")
    certificate, key, port = tmp_path / "cert.pem", tmp_path / "key.pem", free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    server = Redis(
        tmp_path, "--tls-port", str(port), "--tls-cert-file", str(certificate),
        "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no",
    )  # fmt: skip
    try:
        trusted = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
        first, second = machine("a", trusted), machine("b", trusted)
        first.ask(PROMPT)
        assert second.ask(PROMPT).outcome.kind == "shared"

        third = machine("c", f"rediss://127.0.0.1:{port}/0")
        assert third.ask(PROMPT).outcome.kind == "miss"
        (line,) = third.database.pop_notices()
        assert "certificate" in line.lower()
    finally:
        server.kill()
