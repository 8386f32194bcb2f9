"""What a shared server must be able to do, and the ways in which it may fail to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

LAYOUT: Final = 1
"""Number of the names' and values' layout on the server, a part of each name."""

LARGEST_BYTES: Final = 8 << 20
"""The largest value that is written or read, as stored; answers are some kilobytes."""

SHARDS: Final = tuple("0123456789abcdef")
"""The first digit of a name: what one index covers, and what lies in one slot of a Redis Cluster."""


class Refused(Exception):  # noqa: N818 - what happened, for `Link`; it never leaves this package
    """The server answers, but takes no more: full, read-only, or not allowed to this user."""


class RefusedValue(Exception):  # noqa: N818
    """The server answers, and takes others, but not this value."""


class TooLarge(RefusedValue):
    """The value is larger than the server takes."""


class UntrustedValue(Exception):  # noqa: N818
    """What the server holds under a name of ours was not written by this package."""


def shard_of(name: str) -> str:
    """Return the shard that a name is in."""
    return name[0]


class Server(Protocol):
    """One server, one namespace on it. Thread-safe.

    Names are 64 hex digits. Every method may raise `Refused`, `RefusedValue`, `UntrustedValue`, and whatever
    its library raises when the server does not answer as it should.
    """

    def get(self, name: str) -> bytes | None:
        """Return the value of a name; None when there is none. Never one of more than `LARGEST_BYTES`."""

    def put(self, name: str, value: bytes, metadata: bytes, ttl_s: float | None) -> None:
        """Keep a value, and the metadata that the index holds of it, for `ttl_s` seconds; None is for ever.

        Raises:
            TooLarge: The server does not take so large a value.
        """

    def remove(self, names: Sequence[str]) -> int:
        """Remove values; return how many there were."""

    def index(self, shard: str) -> list[tuple[str, bytes]] | None:
        """Return the names of one shard, each with its metadata; None if the server has no index."""

    def clear(self, shard: str) -> None:
        """Forget whatever is left in a shard, or in all of them where the server has no index."""

    def take(self, name: str, value: bytes, ttl_s: float) -> bytes | None:
        """Take the lease of a name; None: it is taken now, else the value that holds it."""

    def swap(self, name: str, token: bytes, value: bytes | None, ttl_s: float) -> bool:
        """Replace a lease whose value begins with `token`, or ends it (None); False: it has another."""

    def close(self) -> None:
        """Close every connection, also those in use."""
