"""`DiskLeases`: leases in cache.db, for the kernels and programs with the same cache folder."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from or_cache_magic.errors import StoreBusyError, StoreError
from or_cache_magic.storage.schema import HAS_BATCHES

if TYPE_CHECKING:
    from or_cache_magic.storage.database import Database


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
        batch: The batch that its owner waits for, and how far that is; empty where it is a call.
    """

    owner: str
    since_s: float
    until_s: float
    failure: Mapping[str, Any] | None = None
    batch: str = ""


class Leases(Protocol):
    """Hands out leases. Thread-safe. Every method may raise `StoreError`; the ask then goes on without."""

    def acquire(self, digest: str, ttl_s: float, *, after: Held | None = None) -> Lease | Held:
        """Return the lease, or who holds it (or how their call just failed). Never waits for its owner.

        Those who wait call it again and again, so finding it held must be cheap.

        Args:
            digest: Whose answer is to be asked for.
            ttl_s: How long it is held unless it is renewed.
            after: Whose flight the caller has been waiting for. Only that one's failure is told; one that
                the caller did not wait for is none of its business, and gives the lease at once: a cell
                that is run again asks again.
        """

    def renew(self, lease: Lease, ttl_s: float) -> bool:
        """Hold it for `ttl_s` from now; False when it was lost to another."""

    def release(self, lease: Lease, failure: Mapping[str, Any] | None = None) -> None:
        """Give it back, leaving a failure for those who wait; without the token it does nothing."""

    def release_local(self, lease: Lease) -> Lease | None:
        """Give back what of it is in this machine's file, in the open transaction if there is one.

        Returns:
            What else of it is to be given back, when that transaction is committed; None is nothing.
        """


_LOOK: Final = "SELECT host, pid, started, deadline, failure FROM or_lease WHERE key = ?"
_TELL: Final = "UPDATE or_lease SET failure = ?, deadline = ? WHERE key = ? AND token = ?"
_DELETE: Final = "DELETE FROM or_lease WHERE key = ? AND token = ?"
_OWN: Final = "SELECT host, started FROM or_lease WHERE key = ? AND token = ?"
_CLEAR: Final = (
    "DELETE FROM or_lease WHERE key = ?1 OR deadline < CASE WHEN failure IS NULL THEN ?3 ELSE ?2 END"
)
_RENEW: Final = "UPDATE or_lease SET deadline = ? WHERE key = ? AND token = ? AND failure IS NULL"

_PATIENCE_S: Final = 1.0
"""How long to renew or give back a lease is tried for while the file is locked: it runs out by itself."""

_LOOK_AGAIN_S: Final = 0.1
"""How often to look meanwhile: the lock may be held by one who is just taking the same lease."""

_TOLD_FOR_S: Final = 5.0
"""How long a failure is kept for those who wait. They look five times a second, but may be held up."""


_FORGOTTEN_S: Final = 86_400.0
"""What an owner never came back for is removed so long after its deadline: no clock jumps as far."""

_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", None)


def boot_s() -> float:
    """Return the seconds since this machine was booted, which setting its clock doesn't change."""
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)


class DiskLeases:
    """The leases of one `Database`. Thread-safe. Looking never needs the write lock.

    A lease ends when it is given back, at its deadline, or when its owner is gone: at once where that can be
    seen (the same machine), else at the deadline. Its times are its owner's clock as it was taken, and go by
    the boot clock from then on: a jump of the clock ends no lease on this machine. Others compare them with
    their clock. What the rows say is not trusted: a deadline further away than a lease can last holds nobody
    up.

    Args:
        database: Where the leases are.
        clock: UTC epoch seconds.
        ticks: Seconds of a clock that all processes of this machine share, and that only goes forward.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = boot_s,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ticks = ticks

    def acquire(self, digest: str, ttl_s: float, *, after: Held | None = None) -> Lease | Held:
        """See `Leases.acquire`.

        Raises:
            StoreError: The file can't be written, or stays locked (`Database.patience_s`).
        """
        # As long as for the answer: who goes on without a lease while others write may buy what they buy.
        give_up_s = time.monotonic() + self._database.patience_s
        looks = after is not None  # the first time it is hardly ever held, and a look is for nothing
        while True:
            if looks:
                held = self._held(self._database.select(_LOOK, (digest,)), ttl_s, after)
                held = held or held_by_batch(digest, self._database.select)
                if held is not None:
                    return held
            try:
                return self._take(digest, ttl_s, after)
            except StoreBusyError:
                if time.monotonic() >= give_up_s:
                    raise
            except StoreError:
                if looks:
                    raise  # it can't be written, and nobody holds it
            looks = True

    def is_held(self, digest: str, ttl_s: float) -> bool:
        """Return whether somebody asks for a key, or waits for a batch that does."""
        select = self._database.select
        return bool(self._held(select(_LOOK, (digest,)), ttl_s, None) or held_by_batch(digest, select))

    def renew(self, lease: Lease, ttl_s: float) -> bool:
        """See `Leases.renew`."""
        with self._database.transaction(wait_s=_PATIENCE_S) as connection:
            for host, started_s in connection.execute(_OWN, lease).fetchall():
                until_s = self._now_s(host, started_s) + ttl_s
                return connection.execute(_RENEW, (until_s, *lease)).rowcount == 1
            return False

    def release(self, lease: Lease, failure: Mapping[str, Any] | None = None) -> None:
        """See `Leases.release`. One that is given back already costs a look, and no transaction."""
        own = self._database.select(_OWN, lease)
        if not own:
            return
        with self._database.transaction(wait_s=_PATIENCE_S) as connection:
            if failure is None:
                connection.execute(_DELETE, lease)
            else:
                told_until_s = self._now_s(*own[0]) + _TOLD_FOR_S
                connection.execute(_TELL, (json.dumps(failure), told_until_s, *lease))

    def release_local(self, lease: Lease) -> Lease | None:
        """See `Leases.release_local`."""
        transaction = self._database.transaction(wait_s=_PATIENCE_S, changes_answers=False, joins=True)
        with transaction as connection:
            connection.execute(_DELETE, lease)
        return None

    def _take(self, digest: str, ttl_s: float, after: Held | None) -> Lease | Held:
        with self._database.transaction(wait_s=_LOOK_AGAIN_S) as connection:
            held = self._held(connection.execute(_LOOK, (digest,)).fetchall(), ttl_s, after)
            held = held or held_by_batch(digest, connection.execute)
            if held is not None:
                return held
            lease, now_s = Lease(digest, os.urandom(16).hex()), self._clock()
            # What nobody came back for goes too, and a failure at once: it may repeat a prompt.
            connection.execute(_CLEAR, (digest, now_s, now_s - _FORGOTTEN_S))
            pid = os.getpid()
            host = f"{_host()}\n{self._ticks()!r} {_own_birth(pid)}"
            connection.execute(
                "INSERT INTO or_lease VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (*lease, host, pid, now_s, now_s + ttl_s),
            )
            return lease

    def _now_s(self, host: str, started_s: float) -> float:
        """Return the time by the clock of a lease, taken then; on another machine by this one's."""
        machine, _, marks = host.partition("\n")
        if machine == _host():
            with suppress(ValueError):
                return started_s + self._ticks() - float(marks.partition(" ")[0])
        return self._clock()

    def _held(self, rows: Sequence[Any], ttl_s: float, after: Held | None) -> Held | None:
        """Return who holds the lease, or how the flight `after` failed; None when it is free."""
        if not rows:
            return None
        ((host, pid, started_s, deadline_s, told),) = rows
        if (str, int, float, float) != tuple(map(type, (host, pid, started_s, deadline_s))):
            return None
        now_s = self._now_s(host, started_s)
        # Another machine's clock may make a deadline look further away than it is, but not for long.
        if not now_s < deadline_s <= now_s + 2 * ttl_s:
            return None
        owner = f"pid {pid} on {host.split()[0] if host.strip() else ''}"
        if told is None:
            return None if _is_gone(host, pid) else Held(owner, started_s, deadline_s)
        if after is None or (owner, started_s) != (after.owner, after.since_s):
            return None
        failure = _json_object(told)
        return None if failure is None else Held(owner, started_s, deadline_s, failure)


def held_by_batch(digest: str, select: Callable[[str, Sequence[Any]], Iterable[Any]]) -> Held | None:
    """Return the lease of a key that a batch asks for; None where none does. See `batches.batch_holding`."""
    if not list(select(HAS_BATCHES, ())):
        return None
    from or_cache_magic.storage.batches import batch_holding  # few files have any

    batch = batch_holding(digest, select)
    if batch is None:
        return None
    name = batch.remote or "whose submission was not answered"
    told = f"{name} ({batch.status}, {batch.done:,} of {batch.total:,} answered)"
    return Held("a batch", batch.submitted_s, math.inf, batch=told)


def _host() -> str:
    """This machine, since it was booted, and its process numbers: containers may share a name."""
    import socket

    try:
        namespace = f" {os.stat('/proc/self/ns/pid').st_ino} {_boot_id()}"
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}{namespace}"


@cache
def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _born(pid: int) -> str:
    """When a process began, in the kernel's ticks: numbers are given anew; empty where nobody tells."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()  # see proc(5): the 22nd
    except (OSError, IndexError):
        return ""


@cache
def _own_birth(pid: int) -> str:
    """When this process began; a lease is taken for each row of a table, and to read it takes 100 µs."""
    return _born(pid)


def _is_gone(host: str, pid: int) -> bool:
    """Return whether the owner is seen to have ended; False where that can't be seen from here."""
    machine, _, marks = host.partition("\n")
    if os.name != "posix" or machine != _host():
        return False
    if pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # another user's, and running
    then, now = marks.partition(" ")[2], _born(pid)
    return "" not in (then, now) and then != now


def _json_object(text: object) -> Mapping[str, Any] | None:
    try:
        form = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return form if isinstance(form, dict) else None


class LocalAndSharedLeases:
    """Leases of the folder and of the shared server, both at once; see `Leases`. Thread-safe.

    With the server down, those of one folder still share a call; with the disk locked, those of a server.

    Args:
        near: Those of the folder.
        shared: Returns those of the server, or None where there is none.
    """

    def __init__(self, near: Leases, shared: Callable[[], Leases | None]) -> None:
        self._near = near
        self._shared = shared

    def acquire(self, digest: str, ttl_s: float, *, after: Held | None = None) -> Lease | Held:
        """See `Leases.acquire`; while another machine asks, the disk is not written."""
        shared = self._shared()
        if shared is None:
            return self._near.acquire(digest, ttl_s, after=after)
        try:
            far = shared.acquire(digest, ttl_s, after=after)
        except StoreError:
            return self._near.acquire(digest, ttl_s, after=after)
        if isinstance(far, Held):
            return far
        try:
            near = self._near.acquire(digest, ttl_s, after=after)
        except StoreError:
            return Lease(digest, f"{far.token} ")
        if isinstance(near, Held):
            with suppress(StoreError):
                shared.release(far)
            return near
        return Lease(digest, f"{far.token} {near.token}")

    def renew(self, lease: Lease, ttl_s: float) -> bool:
        """See `Leases.renew`; True while one of the two is held."""
        held = False
        for leases, part in self._parts(lease):
            with suppress(StoreError):
                held |= leases.renew(part, ttl_s)
        return held

    def release(self, lease: Lease, failure: Mapping[str, Any] | None = None) -> None:
        """See `Leases.release`."""
        for leases, part in self._parts(lease):
            with suppress(StoreError):
                leases.release(part, failure)

    def release_local(self, lease: Lease) -> Lease | None:
        """See `Leases.release_local`."""
        far, _, near = lease.token.rpartition(" ")
        if near:
            self._near.release_local(Lease(lease.digest, near))
        return Lease(lease.digest, f"{far} ") if far else None

    def _parts(self, lease: Lease) -> list[tuple[Leases, Lease]]:
        far, _, near = lease.token.rpartition(" ")
        shared = self._shared()
        parts = [(self._near, Lease(lease.digest, near))] if near else []
        return [*parts, (shared, Lease(lease.digest, far))] if far and shared is not None else parts
