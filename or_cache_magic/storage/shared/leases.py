"""`SharedLeases`: one flight for all machines of a team."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from or_cache_magic.errors import StoreUnavailableError
from or_cache_magic.storage.leases import Held, Lease
from or_cache_magic.storage.shared.server import Server, UntrustedValue
from or_cache_magic.storage.shared.store import SharedStore

_FAILURE_TTL_S: Final = 5.0
_FAILED: Final = b"failed\n"
_NO_CALLBACKS: Final = "somebody"
_PRIVATE: Final = frozenset({"body", "partial_text"})
"""Facts of a failure that stay on the machine; its message does too where the team has a secret."""
_OWNER: Final = re.compile(r"([0-9]{1,10}) ([0-9a-f]{12})")


class SharedLeases:
    """Leases on a shared server; see `lease.Leases`. Thread-safe.

    A lease is one key with the server's own expiry, so that no two machines' clocks are compared. Its
    value is three lines: the token, which begins with the time it was taken and which renewing and
    releasing check on the server, the owner, and how the owner's call failed; then ``failed`` is in front.

    Args:
        shared: The tier whose server hands them out.
        clock: Tells UTC epoch seconds.
    """

    def __init__(self, shared: SharedStore, *, clock: Callable[[], float] = time.time) -> None:
        self._shared = shared
        self._clock = clock

    def acquire(self, digest: str, ttl_s: float, *, after: Held | None = None) -> Lease | Held:
        """See `lease.Leases.acquire`."""
        token = f"{self._clock():.6f}-{os.urandom(16).hex()}"
        name, value = self._shared.signing.name(digest), self._value(token)
        found = self._ask(lambda server: server.take(name, value, ttl_s))
        if found is None:
            return Lease(digest, token)
        held = self._held(found, ttl_s)
        if not found.startswith(_FAILED):
            return held
        if after is not None and held.failure is not None and held[:2] == after[:2]:
            return held
        # A failure that the caller did not wait for is in its way.
        if self._ask(lambda server: server.swap(name, found, value, ttl_s)):
            return Lease(digest, token)
        return Held(_NO_CALLBACKS, held.since_s, held.until_s)

    def renew(self, lease: Lease, ttl_s: float) -> bool:
        """See `lease.Leases.renew`."""
        name, value = self._shared.signing.name(lease.digest), self._value(lease.token)
        return bool(self._ask(lambda server: server.swap(name, value, value, ttl_s)))

    def release(self, lease: Lease, failure: Mapping[str, Any] | None = None) -> None:
        """See `lease.Leases.release`; a failure is kept for five seconds."""
        name, value = self._shared.signing.name(lease.digest), self._value(lease.token)
        left = None if failure is None else _FAILED + value + b"\n" + json.dumps(self._told(failure)).encode()
        self._ask(lambda server: server.swap(name, value, left, _FAILURE_TTL_S))

    def release_local(self, lease: Lease) -> Lease | None:
        """See `lease.Leases.release_local`: nothing of it is in a file."""

    def _told(self, failure: Mapping[str, Any]) -> dict[str, Any]:
        """Return what others learn of a failure: nothing that may repeat the prompt or hold the answer."""
        told = {name: value for name, value in failure.items() if name not in _PRIVATE}
        if self._shared.signing.secret and "message" in told:
            told["message"] = f"the call of another machine failed ({told.get('status', 'no reply')})"
        return told

    def _value(self, token: str) -> bytes:
        return f"{token}\n{os.getpid()} {self._shared.signing.payer()}".encode()

    def _held(self, value: bytes, ttl_s: float) -> Held:
        """Somebody's lease, or failure; what is none of ours runs out like any other."""
        now_s = self._clock()
        lines = value.removeprefix(_FAILED).decode("utf-8", "replace").split("\n", 2)
        try:
            since_s = float(lines[0].partition("-")[0])
            owner = self._owner(lines[1])
            failure = json.loads(lines[2]) if value.startswith(_FAILED) else None
        except (ValueError, IndexError, RecursionError):
            return Held(_NO_CALLBACKS, now_s, now_s + ttl_s)
        if not math.isfinite(since_s):
            since_s = now_s
        return Held(owner, since_s, now_s + ttl_s, failure if isinstance(failure, dict) else None)

    def _owner(self, line: str) -> str:
        found = _OWNER.fullmatch(line)
        if found is None:
            return _NO_CALLBACKS
        pid, payer = found.groups()
        return f"pid {pid} here" if payer == self._shared.signing.payer() else f"a teammate, {payer}"

    def _ask(self, work: Callable[[Server], Any]) -> Any:
        try:
            return self._shared.link.ask(work, writes=True)
        except UntrustedValue as exc:
            raise StoreUnavailableError(f"{self._shared.link} holds {exc}, where a lease should be.") from exc
