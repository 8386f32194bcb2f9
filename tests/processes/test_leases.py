"""One flight across processes: several kernels on one cache folder send one request."""

from __future__ import annotations

import pytest

from or_cache_magic.simulator import scenario
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.leases import DiskLeases, Held, Lease


def held(sim, count):
    """Waits until so many requests are held back."""
    assert sim.wait_for(lambda rows: sum(row.held for row in rows) == count)


def ask(kernel, prompt, **options):
    kernel.tell(do="ask", prompt=prompt, **options)


def follow(kernels, prompt):
    """Lets kernels ask what is being asked; they say once that they wait."""
    for kernel in kernels:
        ask(kernel, prompt)
    return [kernel.hear()["waits"] for kernel in kernels]


def outcome(kernel):
    """What the ask came to, without the notes before it."""
    while "waits" in (said := kernel.hear()):
        pass
    return said


def flush(kernel):
    """Has what a kernel counted written: after a cell it is only tried, and left for later while another writes."""
    kernel.tell(do="flush")
    while not kernel.hear()["flushed"]:
        kernel.tell(do="flush")


def test_cold_key__is_asked_once_by_twenty(tmp_path):
    """Twenty processes that want the same at one time send one request, and all have its text."""
    from soaking import ask_cold

    came = ask_cold(tmp_path / "cache", processes=20)
    assert came.requests == 1
    assert len(came.answers) == 20
    assert len(set(came.answers)) == 1


def test_killed_leader__is_taken_over(tmp_path):
    """When the one that asks is killed, one other asks, and all nineteen are answered."""
    from soaking import ask_cold

    came = ask_cold(tmp_path / "cache", processes=20, kill_leader=True)
    assert came.requests == 2
    assert len(came.answers) == 19
    assert len(set(came.answers)) == 1


def test_followers__say_what_they_wait_for_and_pay_nothing(kernels, sim, prompt, cache):
    """A follower names the kernel that asks, is told as coalesced, and counts as saved, not as paid."""
    leader, follower = kernels(2)
    with sim.hold():
        ask(leader, prompt)
        held(sim, 1)
        (note,) = follow([follower], prompt)
    assert f"pid {leader.process.pid}" in note
    first, second = outcome(leader), outcome(follower)
    assert (first["kind"], second["kind"]) == ("miss", "coalesced")
    assert first["text"] == second["text"]
    flush(follower)
    rows = [row for row in cache.ledger.rows() if row.value_usd == sim.total_cost]
    assert {row.kind: row.paid.usd for row in rows} == {"miss": sim.total_cost, "coalesced": 0}
    assert sim.completion_count == 1


def test_failure__reaches_all_once(kernels, sim, prompt):
    """The failure of the one call is everybody's, with its facts; nobody asks anew."""
    leader, *followers = kernels(4)
    sim.script(scenario("invalid_request", message="no such thing"))
    with sim.hold():
        ask(leader, prompt)
        held(sim, 1)
        follow(followers, prompt)
    failures = [outcome(kernel) for kernel in (leader, *followers)]
    assert failures[0]["error"] == "UpstreamError"
    assert failures[0]["status"] == 400
    assert "no such thing" in failures[0]["message"]
    assert failures == [failures[0]] * 4
    assert sim.completion_count == 1


def test_failure__is_not_told_to_who_asks_later(kernels, sim, prompt):
    """A cell that is run again right after a failure asks again."""
    first, second = kernels(2)
    sim.script(scenario("invalid_request"))
    ask(first, prompt)
    assert outcome(first)["error"] == "UpstreamError"
    ask(second, prompt)
    assert outcome(second)["kind"] == "miss"
    ask(first, prompt)
    assert outcome(first)["kind"] == "hit"
    assert sim.completion_count == 2


def test_refused_key__is_its_owners_own(kernels, sim, prompt):
    """A refusal of the key is no news for others: they may have another, and asking costs nothing."""
    leader, follower = kernels(2)
    sim.script(scenario("unauthorized"))
    with sim.hold():
        ask(leader, prompt)
        held(sim, 1)
        follow([follower], prompt)
    assert outcome(leader)["status"] == 401
    assert outcome(follower)["kind"] == "miss"


def test_broken_stream__reaches_all_once(kernels, sim, prompt):
    """An answer that breaks off breaks off for all, though its part is only on the leader's screen."""
    leader, *followers = kernels(3)
    sim.script(scenario("cut"))
    with sim.hold():
        ask(leader, prompt)
        held(sim, 1)
        follow(followers, prompt)
    assert [outcome(kernel)["error"] for kernel in (leader, *followers)] == ["StreamBrokenError"] * 3
    assert sim.completion_count == 1


def test_filtered_answer__is_shared_though_never_stored(kernels, sim, prompt):
    """An answer that may not be served again is still the answer to those who waited for it."""
    leader, *followers = kernels(3)
    sim.script(scenario("content_filter"))
    with sim.hold():
        ask(leader, prompt)
        held(sim, 1)
        follow(followers, prompt)
    came = [outcome(kernel) for kernel in (leader, *followers)]
    assert [said["kind"] for said in came] == ["miss", "coalesced", "coalesced"]
    assert len({said["text"] for said in came}) == 1
    assert all("content_filter" in said["not_stored"] for said in came)
    ask(leader, prompt)
    assert outcome(leader)["kind"] == "miss"
    assert sim.completion_count == 2


def test_interrupted_follower__goes_alone(kernels, sim, prompt):
    """Interrupting one who waits ends its wait, and nothing else."""
    leader, follower, other = kernels(3)
    with sim.hold():
        ask(leader, prompt)
        held(sim, 1)
        follow([follower, other], prompt)
        follower.interrupt()
        assert outcome(follower) == {"interrupted": True}
    assert outcome(leader)["kind"] == "miss"
    assert outcome(other)["kind"] == "coalesced"
    ask(follower, prompt)
    assert outcome(follower)["kind"] == "hit"
    assert sim.completion_count == 1


def test_interrupted_leader__leaves_its_turn(kernels, sim, prompt):
    """When the one that asks is interrupted, one who waited asks at once."""
    leader, follower = kernels(2)
    with sim.hold():
        ask(leader, prompt)
        held(sim, 1)
        follow([follower], prompt)
        leader.interrupt()
        assert outcome(leader) == {"interrupted": True}
        held(sim, 2)
    assert outcome(follower)["kind"] == "miss"


@pytest.mark.parametrize("options", [{"mode": "refresh"}, {"mode": "bypass"}, {"temperature": 1}], ids=str)
def test_alone__waits_for_nobody(kernels, sim, prompt, options):
    """Who wants an answer of its own asks at once."""
    leader, other = kernels(2)
    with sim.hold():
        ask(leader, prompt)
        held(sim, 1)
        ask(other, prompt, **options)
        held(sim, 2)
    assert outcome(leader)["kind"] == "miss"
    assert outcome(other)["kind"] in ("refresh", "bypass")


def test_hit__touches_no_lease(kernels, prompt, folder):
    """A stored answer is served while somebody holds the lease of its key."""
    (kernel,) = kernels(1)
    ask(kernel, prompt)
    assert outcome(kernel)["kind"] == "miss"
    database = Database(folder)
    ((digest,),) = database.select("SELECT key FROM Cache ORDER BY rowid DESC LIMIT 1")
    leases = DiskLeases(database)
    assert isinstance(leases.acquire(digest, 600.0), Lease)
    ask(kernel, prompt)
    assert kernel.hear()["kind"] == "hit"
    assert isinstance(leases.acquire(digest, 600.0), Held)
    database.close()


def test_other_questions__do_not_wait(kernels, sim, prompt):
    """Only the same request is waited for."""
    one, two = kernels(2)
    with sim.hold():
        ask(one, prompt)
        held(sim, 1)
        ask(two, "What is a mean?")
        held(sim, 2)
    assert [outcome(kernel)["kind"] for kernel in (one, two)] == ["miss", "miss"]
