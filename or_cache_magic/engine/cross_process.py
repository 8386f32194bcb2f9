"""Cross-process single flight: of several processes that want the same answer one asks, the others wait.

Within a process `single_flight` sees to that; the thread that leads there comes here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, TypeVar

from or_cache_magic.core.callbacks import OnWait
from or_cache_magic.core.ticker import Ticker
from or_cache_magic.errors import (
    BatchPendingError,
    ConnectionLostError,
    StoreError,
    StreamBrokenError,
    UpstreamError,
)
from or_cache_magic.storage.leases import Held, Lease, Leases

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_KINDS: Final[Mapping[str, type[UpstreamError]]] = {
    kind.__name__: kind for kind in (UpstreamError, ConnectionLostError, StreamBrokenError)
}
_ACCOUNT_STATUSES: Final = frozenset({401, 402, 403})
_KEY: Final = re.compile(r"sk-or-[\w-]*")


def failure_json(failure: BaseException | None) -> dict[str, Any] | None:
    """Return a failed call's facts as JSON; None when it is no failure of those who waited too.

    An interrupt is its owner's own. So is a refusal of the owner's key, credits or permissions: those who
    waited may have others, and a refused call costs nothing. What looks like a key is taken out.
    """
    if not isinstance(failure, UpstreamError) or (
        failure.status in _ACCOUNT_STATUSES and not failure.retryable
    ):
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
    """Return the error of a JSON form; None when it is none: it is untrusted input."""
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
"""How long a lease lasts without being renewed; a killed owner on another machine delays others so long."""

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.2
_SLOWER: Final = 1.5


class CrossProcessLock:
    """The right to ask for a key, for as long as the ``with`` block lasts; renewed meanwhile.

    Leaving the block releases it. An error that leaves it is passed on to those who wait if it is theirs too.

    Args:
        leases: Where the lease is from; None is a lock without one, which excludes no other process.
        lease: The lease.
        waited_since_s: When the other process's call began that was waited for; None is none was.
        ttl_s: How long the lease lasts.
        ticker: What renews it, and others; None makes one for it.
    """

    def __init__(
        self,
        leases: Leases | None = None,
        lease: Lease | None = None,
        *,
        waited_since_s: float | None = None,
        ttl_s: float = TTL_S,
        ticker: Ticker | None = None,
    ) -> None:
        self.waited_since_s = waited_since_s
        self._leases = leases
        self._lease = lease
        self._ttl_s = ttl_s
        self._ticker = ticker
        self._renewed = ExitStack()
        #: What is given back when the block is left, and what of that when the transaction is committed.
        self._left = self._rest = lease

    def __enter__(self) -> Self:
        if self._lease is not None:
            self._renewed.enter_context((self._ticker or renewing(self._ttl_s)).calling(self._renew))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._renewed.close()
        if self._leases is not None and self._left is not None:
            # If it can't be released now it runs out by itself.
            with suppress(StoreError):
                self._leases.release(self._left, failure_json(exc))

    def release_in_transaction(self) -> None:
        """Release the folder's part of the lease in the open transaction, which keeps the answer.

        So the answer is there for others exactly when they may ask. Undone with the transaction, it is done
        when the block is left; `committed` says that it was not.
        """
        if self._leases is not None and self._lease is not None:
            with suppress(StoreError):
                self._rest = self._leases.release_local(self._lease)

    def committed(self) -> None:
        """Note that the transaction of `release_in_transaction` is committed."""
        self._left = self._rest

    def _renew(self) -> None:
        """Renew the lease while the call lasts; shows nothing."""
        assert self._leases is not None  # noqa: S101 - checked by __enter__
        assert self._lease is not None  # noqa: S101
        with suppress(StoreError):
            self._leases.renew(self._lease, self._ttl_s)


def renewing(ttl_s: float = TTL_S) -> Ticker:
    """Return what renews leases while their calls last."""
    return Ticker(ttl_s / 3, "or-cache-leases")


def acquire_lock(
    leases: Leases | None,
    digest: str,
    peer_result: Callable[[float], T | None],
    on_wait: OnWait,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    ttl_s: float = TTL_S,
    ticker: Ticker | None = None,
) -> CrossProcessLock | T:
    """Return the right to ask for a key once no other process asks for it; or the other's result.

    An owner that died is taken over. Leases that can't be had, for whatever reason, block nothing.

    Args:
        leases: Where the lease is from; None gives a lock without one.
        digest: The key, 64 hex digits.
        peer_result: Returns what a call that began at this time (UTC epoch seconds) has brought by now; None
            is nothing yet. Called a few times a second.
        on_wait: Called once for each call that is waited for.
        clock: UTC epoch seconds.
        sleep: Waits between looks; what it raises ends the waiting.
        ttl_s: How long the lease lasts without being renewed.
        ticker: What renews it; see `CrossProcessLock`.

    Raises:
        BatchPendingError: It is in a batch, which takes up to a day or more: that is not waited for.
        UpstreamError: The call that was waited for failed; the same facts as its owner got.
        KeyboardInterrupt: As it came; it concerns no other process.
    """
    held: Held | None = None
    pause_s = _FIRST_PAUSE_S
    while leases is not None:
        try:
            found = leases.acquire(digest, ttl_s, after=held)
        except StoreError:
            break
        if isinstance(found, Lease):
            since_s = None if held is None else held.since_s
            return CrossProcessLock(leases, found, waited_since_s=since_s, ttl_s=ttl_s, ticker=ticker)
        if found.batch:
            raise BatchPendingError(
                f"this is asked for already, in the batch {found.batch} (nothing was sent)",
                'see %openrouter_batches; --refresh (mode="refresh") asks now, and is paid besides the batch',
            )
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
        result = peer_result(held.since_s)
        if result is not None:
            return result
    return CrossProcessLock(waited_since_s=None if held is None else held.since_s)


def _waiting_for(held: Held, now_s: float) -> str:
    return f"asked {max(0, now_s - held.since_s):.0f} s ago by another kernel ({held.owner}): waiting …"
