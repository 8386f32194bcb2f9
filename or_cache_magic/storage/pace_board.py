"""`DiskBoard` and `SharedBoard`: where processes that share a rate limit leave word for each other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from or_cache_magic.errors import StoreError, StoreUnavailableError
from or_cache_magic.storage.schema import PACES

if TYPE_CHECKING:
    from or_cache_magic.storage.database import Database
    from or_cache_magic.storage.shared.server import Server
    from or_cache_magic.storage.shared.store import SharedStore

Merge = Callable[[str], "str | None"]

_HAS_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'or_pace'"
_LOOK: Final = "SELECT word FROM or_pace WHERE place = ?"
_PUT: Final = "INSERT OR REPLACE INTO or_pace (place, word) VALUES (?, ?)"

_PATIENCE_S: Final = 0.2
_KEPT_S: Final = 600.0
_LONGEST: Final = 20_000


class Board(Protocol):
    """See `openrouter.sharing.Board`."""

    def exchange(self, place: str, merge: Merge) -> None:
        """Replace the text of a place by what `merge` makes of it; nothing is written where that is None."""


class DiskBoard:
    """The words in one `Database`, which get a table with the first. Thread-safe; reading needs no lock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def exchange(self, place: str, merge: Merge) -> None:
        """See `openrouter.sharing.Board.exchange`.

        Raises:
            StoreError: The file can't be read or written, or stays locked.
        """
        has_table = bool(self._database.select(_HAS_TABLE))
        if merge(_word(self._database.select(_LOOK, (place,)) if has_table else [])) is None:
            return
        with self._database.transaction(wait_s=_PATIENCE_S) as connection:
            if not connection.execute(_HAS_TABLE).fetchall():
                for statement in PACES:
                    connection.execute(statement)
            word = merge(_word(connection.execute(_LOOK, (place,)).fetchall()))
            if word is not None:
                connection.execute(_PUT, (place, word))


class SharedBoard:
    """The words on a shared server, which forgets them after a while. Thread-safe."""

    def __init__(self, shared: SharedStore) -> None:
        self._shared = shared

    def exchange(self, place: str, merge: Merge) -> None:
        """See `openrouter.sharing.Board.exchange`; what another has written meanwhile is left as it is.

        Raises:
            StoreError: The server can't be reached, or what it holds is none of ours.
        """
        from or_cache_magic.storage.shared.server import UntrustedValue  # few have a server

        signing = self._shared.signing
        digest = hashlib.sha256(f"pace {place}".encode()).hexdigest()
        name = signing.name(digest)
        nothing = signing.sign(digest, b"\n")

        def work(server: Server) -> None:
            found = server.take(name, nothing, _KEPT_S) or nothing
            word = merge(signing.verify(digest, found).decode("utf-8", "replace").strip())
            if word is not None:
                server.swap(name, found, signing.sign(digest, word.encode()), _KEPT_S)

        try:
            self._shared.link.ask(work, writes=True)
        except UntrustedValue as exc:
            raise StoreUnavailableError(f"{self._shared.link} holds {exc}, where a pace should be.") from exc


class FolderOrTeamBoard:
    """The words of the shared server where there is one, else of the folder. Thread-safe.

    Args:
        near: Those of the folder.
        shared: Returns the server's store; None where there is none.
    """

    def __init__(self, near: Board, shared: Callable[[], SharedStore | None]) -> None:
        self._near = near
        self._shared = shared

    def exchange(self, place: str, merge: Merge) -> None:
        """See `openrouter.sharing.Board.exchange`; of the folder too where the server fails.

        Raises:
            StoreError: Both can't be read or written now.
        """
        shared = self._shared()
        if shared is not None:
            try:
                return SharedBoard(shared).exchange(place, merge)
            except StoreError:
                pass
        return self._near.exchange(place, merge)


def _word(rows: list[Any]) -> str:
    word = rows[0][0] if rows else ""
    return word if isinstance(word, str) and len(word) < _LONGEST else ""
