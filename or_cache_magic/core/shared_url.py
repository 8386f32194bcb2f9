"""`SharedUrl`: where the team's server is. It may hold a password, so it never shows itself whole."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

__all__ = ["SharedUrl", "parse_shared_url"]

_PORTS: Final = {"redis": 6379, "rediss": 6379, "memcached": 11211}


class SharedUrl:
    """The URL of a shared server; equal to another with the same text.

    Shown, formatted or logged it is `shown`, without user, password and options. What connects asks for
    `reveal`.
    """

    __slots__ = ("_password", "_url", "host", "port", "scheme", "shown")

    def __init__(self, url: str, scheme: str, host: str, port: int, path: str, password: str) -> None:
        self._url = url
        self._password = password
        self.scheme = scheme
        self.host = host
        self.port = port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.shown = f"{scheme}://{address}{path}"

    def reveal(self) -> str:
        """The whole URL, password included."""
        return self._url

    def hide(self, text: str) -> str:
        """`text` without the URL's password, for messages of libraries and servers."""
        return text.replace(self._password, "…") if self._password else text

    def __repr__(self) -> str:
        return f"'{self.shown}'"

    def __str__(self) -> str:
        return self.shown

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SharedUrl) and other._url == self._url

    def __hash__(self) -> int:
        return hash(self._url)


def parse_shared_url(text: object) -> SharedUrl:
    """The URL ``redis://…``, ``rediss://…`` (TLS) or ``memcached://host:port``.

    Raises:
        ValueError: It is none of these. The message does not repeat it.
    """
    if isinstance(text, SharedUrl):
        return text
    url = text.strip() if isinstance(text, str) else ""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("takes a URL with a port from 1 to 65535") from None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise ValueError("takes redis://host:port, rediss://host:port (TLS) or memcached://host:port")
    if parts.scheme == "memcached" and (parts.username or parts.password or parts.path.strip("/")):
        raise ValueError(
            "takes memcached://host:port and nothing else: Memcached knows no user and no database"
        )
    password = unquote(parts.password or "")
    return SharedUrl(
        url, parts.scheme, parts.hostname, port or _PORTS[parts.scheme], parts.path.rstrip("/"), password
    )
