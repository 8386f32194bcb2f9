"""What a lease is: the right to be the one who asks, held for a while by one of several processes.

A store that others share hands out leases (`Leases`): on the cache's own file, or on a shared server.
The owner renews its lease while it asks, and gives it back with what came of it; those who wait look at
it meanwhile. One whose owner died runs out, and the next to ask takes it over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

__all__ = ["Held", "Lease", "Leases"]


class Lease(NamedTuple):
    """The right to ask for one key, held by this process.

    Attributes:
        digest: Whose answer is being asked for, 64 hex digits.
        token: Random; only who has it can renew or give back the lease.
    """

    digest: str
    token: str


class Held(NamedTuple):
    """Somebody else's lease, or what came of it.

    Attributes:
        owner: Who holds it, for people (``"pid 4711 on host"``).
        since_s: When it was taken, UTC epoch seconds. With ``owner`` it tells one flight from the next.
        until_s: When it runs out unless it is renewed.
        failure: How the owner's call failed, as JSON; None while it is at it. Kept for a short while,
            so that those who waited get the failure instead of each asking anew.
    """

    owner: str
    since_s: float
    until_s: float
    failure: Mapping[str, Any] | None = None


class Leases(Protocol):
    """Hands out leases. Thread-safe. Every method may raise `StoreError`; the ask then goes on without."""

    def acquire(self, digest: str, ttl_s: float, *, after: Held | None = None) -> Lease | Held:
        """The lease, or who holds it (or how their call just failed). Never waits for its owner.

        Those who wait call it again and again, so finding it held must be cheap.

        Args:
            digest: Whose answer is to be asked for.
            ttl_s: How long it is held unless it is renewed.
            after: Whose flight the caller has been waiting for. Only that one's failure is told; one that
                the caller did not wait for is none of its business, and gives the lease at once: a cell
                that is run again asks again.
        """

    def renew(self, lease: Lease, ttl_s: float) -> bool:
        """Holds it for `ttl_s` from now; False when it was lost to another."""

    def release(self, lease: Lease, failure: Mapping[str, Any] | None = None) -> None:
        """Gives it back, leaving a failure for those who wait; without the token it does nothing."""
