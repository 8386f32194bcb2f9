"""Whose turn it is to ask: of several processes that want the same answer one asks, the others wait for it.

Within a process that is `flight`'s job; its leader comes here.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, TypeVar

from or_cache_magic.core.callbacks import OnWait
from or_cache_magic.errors import ConnectionLostError, StoreError, StreamBrokenError, UpstreamError
from or_cache_magic.storage.leases import Held, Lease, Leases

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["TTL_S", "Turn", "failure_from", "failure_json", "take_turn"]

_KINDS: Final[Mapping[str, type[UpstreamError]]] = {
    kind.__name__: kind for kind in (UpstreamError, ConnectionLostError, StreamBrokenError)
}
_OF_THE_ACCOUNT: Final = frozenset({401, 402, 403})
_KEY: Final = re.compile(r"sk-or-[\w-]*")


def failure_json(failure: BaseException | None) -> dict[str, Any] | None:
    """A failed call's facts as JSON; None when it is nobody else's failure.

    An interrupt is its owner's own. So is a refusal of the owner's key, credits or permissions: those who
    waited may have others, and a refused call costs nothing. What looks like a key is taken out.
    """
    if not isinstance(failure, UpstreamError) or failure.status in _OF_THE_ACCOUNT:
        return None
    form = {
        "kind": type(failure).__name__,
        "message": failure.args[0],
        "hint": failure.hint,
        "status": failure.status,
        "error_type": failure.error_type,
        "retry_after_s": failure.retry_after_s,
        "retryable": failure.retryable,
        "generation_id": failure.generation_id,
        "cost_usd": None if failure.cost_usd is None else str(failure.cost_usd),
        "body": failure.body,
        "attempts": failure.attempts,
        "partial_text": getattr(failure, "partial_text", None),
    }
    return {name: _without_keys(value) for name, value in form.items() if value is not None}


def failure_from(form: Mapping[str, Any]) -> UpstreamError | None:
    """The error of a JSON form; None when it is none: it may come from a stranger."""
    get = form.get
    kind = _KINDS.get(str(get("kind")), UpstreamError)
    facts: dict[str, Any] = {}
    if kind is StreamBrokenError:
        facts["partial_text"] = get("partial_text", "")
    try:
        cost_usd = None if get("cost_usd") is None else Decimal(_a(str, get("cost_usd")))
        return kind(
            _a(str, get("message")),
            _a(str, get("hint", "")),
            status=_maybe(int, get("status")),
            error_type=_maybe(str, get("error_type")),
            retry_after_s=_maybe((int, float), get("retry_after_s")),
            retryable=get("retryable") is True,
            generation_id=_maybe(str, get("generation_id")),
            cost_usd=cost_usd,
            body=_maybe(dict, get("body")),
            attempts=_a(int, get("attempts", 1)),
            **{name: _a(str, value) for name, value in facts.items()},
        )
    except (TypeError, InvalidOperation):
        return None


def _without_keys(value: Any) -> Any:
    if isinstance(value, str):
        return _KEY.sub("sk-or-…", value)
    if isinstance(value, Mapping):
        return {str(_without_keys(name)): _without_keys(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_keys(inner) for inner in value]
    return value


def _a(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(value)
    return value


def _maybe(kind: Any, value: Any) -> Any:
    return None if value is None else _a(kind, value)


T = TypeVar("T")

TTL_S: Final = 15.0
"""How long a lease lasts without a sign of life: as long may a killed owner elsewhere hold others up."""

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.2
_SLOWER: Final = 1.5


class Turn:
    """The right to ask, for as long as the ``with`` block lasts; renewed meanwhile if it lasts long.

    Leaving the block gives it back; an error that leaves it is told to those who wait, if it concerns them.

    Args:
        leases: Where the lease is from; None is a turn without one.
        lease: The lease.
        waited: Whether another's flight was waited for before.
        ttl_s: How long the lease lasts.
    """

    def __init__(
        self,
        leases: Leases | None = None,
        lease: Lease | None = None,
        *,
        waited: bool = False,
        ttl_s: float = TTL_S,
    ) -> None:
        self.waited = waited
        self._leases = leases
        self._lease = lease
        self._ttl_s = ttl_s
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if self._lease is not None:
            threading.Thread(target=self._keep, name="or-cache-lease", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._over.set()
        if self._leases is not None and self._lease is not None:
            # If it can't be given back now it runs out by itself.
            with suppress(StoreError):
                self._leases.release(self._lease, failure_json(exc))

    def _keep(self) -> None:
        """Renews the lease of a call that lasts; shows nothing."""
        assert self._leases is not None  # noqa: S101 - said by __enter__
        assert self._lease is not None  # noqa: S101
        while not self._over.wait(self._ttl_s / 3):
            with suppress(StoreError):
                if not self._leases.renew(self._lease, self._ttl_s):
                    return


def take_turn(
    leases: Leases | None,
    digest: str,
    landed: Callable[[float], T | None],
    on_wait: OnWait,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    ttl_s: float = TTL_S,
) -> Turn | T:
    """A turn to ask for this key, after whoever is asking for it now; or what their flight brought.

    An owner that died is taken over. Leases that can't be had, for whatever reason, hold nobody up.

    Args:
        leases: Where turns are taken; None takes one without.
        digest: Whose answer is wanted.
        landed: Tells what a flight that began at this time (UTC epoch seconds) has brought by now; None is
            nothing yet. Asked a few times a second.
        on_wait: Told once for each flight that is waited for.
        clock: UTC epoch seconds.
        sleep: Waits between looks; what it raises ends the waiting.
        ttl_s: How long the lease lasts without a sign of life.

    Raises:
        UpstreamError: The flight that was waited for failed; the same facts as its owner got.
        KeyboardInterrupt: As it came; nobody else is concerned.
    """
    held: Held | None = None
    pause_s = _FIRST_PAUSE_S
    while leases is not None:
        try:
            found = leases.acquire(digest, ttl_s, after=held)
        except StoreError:
            break
        if isinstance(found, Lease):
            return Turn(leases, found, waited=held is not None, ttl_s=ttl_s)
        if found.failure is not None:
            failure = failure_from(found.failure)
            if failure is not None:
                raise failure
            break
        if held is None or (held.owner, held.since_s) != (found.owner, found.since_s):
            on_wait(_waiting_for(found, clock()))
        held = found
        sleep(pause_s)
        pause_s = min(pause_s * _SLOWER, _LONGEST_PAUSE_S)
        brought = landed(held.since_s)
        if brought is not None:
            return brought
    return Turn(waited=held is not None)


def _waiting_for(held: Held, now_s: float) -> str:
    return f"asked {max(0, now_s - held.since_s):.0f} s ago by another kernel ({held.owner}): waiting …"
