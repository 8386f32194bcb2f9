"""`Secrecy`: what a shared server gets to know, with and without a secret of the team's.

Without one, names are the keys themselves: whoever guesses a prompt word for word can ask the server
whether it was asked. With one, names, fingerprints and payers are HMACs under it, and each value carries a
MAC, so that nobody else can probe for prompts, match payers, or plant an answer. Answers are plain text on
the server either way.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
from collections.abc import Mapping
from typing import Final

from or_cache_magic.errors import SettingError
from or_cache_magic.storage.shared.server import Foreign

__all__ = ["SECRET_VARIABLE", "Secrecy", "secret_from"]

SECRET_VARIABLE: Final = "OR_CACHE_SHARED_SECRET"  # noqa: S105 - its name
"""Environment variable of the secret. It is no setting: it is nowhere kept, saved or shown."""

_SHORTEST_SECRET: Final = 16
_MAC_BYTES: Final = 16
_PAYER_DIGITS: Final = 12


def secret_from(environ: Mapping[str, str]) -> str:
    """The secret in the environment; empty is none.

    Raises:
        SettingError: It is too short to be one. It is not repeated.
    """
    secret = environ.get(SECRET_VARIABLE, "").strip()
    if secret and len(secret) < _SHORTEST_SECRET:
        raise SettingError(
            f"{SECRET_VARIABLE} is shorter than {_SHORTEST_SECRET} characters (nothing was sent)",
            'make one: python -c "import secrets; print(secrets.token_hex(32))"',
        )
    return secret


class Secrecy:
    """The names and seals of one namespace. Immutable.

    Args:
        namespace: The team's part of the server.
        secret: Shared by the team; empty is none.
    """

    def __init__(self, namespace: str, secret: str = "") -> None:
        self._secret = secret.encode()
        self._namespace = namespace
        #: Whether there is a secret.
        self.secret = bool(secret)
        #: The namespace on the server; each secret has its own, so that a purge of all means its own.
        self.namespace = f"{namespace}.{self._digest('namespace', b'')[:8]}" if secret else namespace

    def name(self, digest: str) -> str:
        """The 64 hex digits under which the server knows a key."""
        return self._digest("name", digest.encode()) if self.secret else digest

    def system(self, digest: str) -> str:
        """How the index tells a system prompt, by its digest: 32 hex digits."""
        return (self._digest("system", digest.encode()) if self.secret else digest)[:32]

    def fingerprint(self, skeleton: bytes) -> bytes:
        """What stands for a canonical request on the server, which holds short prompts in full: 32 bytes."""
        return bytes.fromhex(self._digest("request", skeleton))

    def payer(self) -> str:
        """Who this is, as 12 hex digits of a hash: the same person on the same machine has the same."""
        import getpass

        try:
            user = getpass.getuser()
        except (OSError, KeyError, ImportError):  # a container's user without a name
            user = str(os.getuid()) if hasattr(os, "getuid") else ""
        return self._digest("payer", f"{user}@{socket.gethostname()}".encode())[:_PAYER_DIGITS]

    def seal(self, digest: str, value: bytes) -> bytes:
        """A value as it goes to the server."""
        return self._mac(digest, value) + value if self.secret else value

    def unseal(self, digest: str, sealed: bytes) -> bytes:
        """The value of `seal`.

        Raises:
            Foreign: It was sealed without the secret.
        """
        if not self.secret:
            return sealed
        mac, value = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(digest, value)):
            raise Foreign("a value that was not written with the team's secret")
        return value

    def _mac(self, digest: str, value: bytes) -> bytes:
        return bytes.fromhex(self._digest("value", digest.encode() + value))[:_MAC_BYTES]

    def _digest(self, purpose: str, data: bytes) -> str:
        text = f"or_cache_magic {purpose} {self._namespace}\n".encode() + data
        if self._secret:
            return hmac.new(self._secret, text, hashlib.sha256).hexdigest()
        return hashlib.sha256(text).hexdigest()
