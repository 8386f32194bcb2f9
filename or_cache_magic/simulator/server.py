"""The HTTP side: reads requests, sends replies, and notices when a client goes away."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import sys
import threading
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from or_cache_magic.simulator.batches import answer_batches, submit_batch
from or_cache_magic.simulator.behaviour import Refusal, error_object
from or_cache_magic.simulator.completions import answer_completion
from or_cache_magic.simulator.embeddings import answer_embeddings
from or_cache_magic.simulator.listing import BASE_PATH, answer_get, not_found
from or_cache_magic.simulator.state import Received
from or_cache_magic.simulator.world import Reply, World, error_reply, parse_body

if TYPE_CHECKING:
    from or_cache_magic.simulator.streaming import Frame

_POLL_S = 0.25
_LONGEST_LINE = 1 << 16
_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)  # not on Windows
_BATCHES = f"{BASE_PATH}/batches"
# What `struct linger` is made of, which differs on Windows.
_LINGER = "hh" if sys.platform == "win32" else "ii"


class Server(socketserver.ThreadingTCPServer):
    """Serves a world on a loopback address, one thread a connection; `close` ends them all."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], world: World) -> None:
        self.world = world
        #: Cleared to hold all completions back until it is set again.
        self.gate = threading.Event()
        self.gate.set()
        self.closing = threading.Event()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection, known to `close` while it lasts."""
        with self._lock:
            self._open[request] = threading.current_thread()
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away; anything else is a mistake of ours and is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop listening, end every connection and wait for their threads."""
        self.closing.set()
        self.gate.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            running = list(self._open.items())
        for connection, _ in running:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + timeout_s
        for _, thread in running:
            thread.join(max(0.0, deadline - time.monotonic()))


class _ClientGoneError(Exception):
    """The client closed the connection before the reply was whole."""


class _Handler(socketserver.StreamRequestHandler):
    """Serves one connection. A tenth of what `http.server` takes for a request and its head."""

    disable_nagle_algorithm = True
    server: Server

    def handle(self) -> None:
        """Answer requests until one of the two ends closes the connection."""
        answers = {b"GET": self._get, b"POST": self._post, b"DELETE": self._delete}
        self.close_connection = False
        while not self.close_connection:
            try:
                method, target, headers = self._read_head()
            except (ValueError, OSError):
                return
            self.close_connection = headers.get("connection", "").lower() == "close"
            answer = answers.get(method)
            self._target, self._method, self._headers = target, method.decode("latin-1"), headers
            if answer is not None:
                answer()
            else:
                self._send_whole(self._received(None), not_found())

    def _read_head(self) -> tuple[bytes, str, dict[str, str]]:
        """Return the method, the target, and the headers by their names in small letters.

        Raises:
            ValueError: It is none, or the client has closed its end.
        """
        method, target, version = self.rfile.readline(_LONGEST_LINE).split()
        if not version.startswith(b"HTTP/1."):
            raise ValueError(version)
        headers = {}
        while (line := self.rfile.readline(_LONGEST_LINE)) not in (b"\r\n", b"\n"):
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise ValueError(line)
            headers[name.strip().lower()] = value.strip()
        if version == b"HTTP/1.0":
            headers.setdefault("connection", "close")
        if headers.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return method, target.decode("latin-1"), headers

    def _get(self) -> None:
        """Answer one of the read-only endpoints."""
        row = self._received(None)
        answer = answer_batches if row.path.startswith(_BATCHES) else answer_get
        self._send_whole(row, answer(self.server.world, row))

    def _delete(self) -> None:
        """Delete a batch."""
        row = self._received(None)
        found = row.path.startswith(f"{_BATCHES}/")
        self._send_whole(row, answer_batches(self.server.world, row) if found else not_found())

    def _post(self) -> None:
        """Answer a chat completion or a request for vectors, or take a batch."""
        data = self._read_body()
        row = self._received(parse_body(data) if data is not None else None)
        if data is None:
            message = "A body with a Content-Length is needed"
            self.close_connection = True
            self._send_whole(row, error_reply(Refusal(400, error_object(400, message, "invalid_request"))))
            return
        if row.path == f"{BASE_PATH}/chat/completions":
            reply = answer_completion(self.server.world, row)
        elif row.path == f"{BASE_PATH}/embeddings":
            reply = answer_embeddings(self.server.world, row)
        elif row.path == _BATCHES:
            reply = submit_batch(self.server.world, row, len(data))
        else:
            self._send_whole(row, not_found())
            return
        try:
            self._wait_for_gate(row)
            self._pause(reply.delay_s)
        except _ClientGoneError:
            self._abandon(row, reply, 0)
            return
        if reply.frames is not None:
            self._send_stream(row, reply)
        else:
            self._send_whole(row, reply)

    def _received(self, body: Any) -> Received:
        journal, now_s = self.server.world.journal, self.server.world.now()
        path, _, query = self._target.partition("?")
        asked = dict(parse_qsl(query)) if query else {}
        return journal.add(Received(0, now_s, self._method, unquote(path), asked, self._headers, body))

    def _read_body(self) -> bytes | None:
        """The body, by its length or in chunks; None when it has neither, or they make no sense."""
        length = self._headers.get("content-length")
        try:
            if length is not None:
                return self.rfile.read(int(length)) if length.isdecimal() else None
            chunked = self._headers.get("transfer-encoding", "").lower() == "chunked"
            return self._read_chunks() if chunked else None
        except ValueError:
            return None

    def _read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _head(self, row: Received, reply: Reply, length: int | None) -> bytes:
        self.server.world.journal.update(row, status=reply.status)
        known = reply.status in HTTPStatus._value2member_map_
        headers = {
            "Server": "or-cache-simulator",
            "Date": formatdate(self.server.world.now(), usegmt=True),
            "Content-Type": reply.content_type,
        }
        if length is None:
            headers |= {"Cache-Control": "no-cache", "Transfer-Encoding": "chunked"}
        else:
            headers["Content-Length"] = str(length)
        lines = [f"{name}: {value}\r\n" for name, value in (headers | dict(reply.headers)).items()]
        reason = HTTPStatus(reply.status).phrase if known else ""
        return f"HTTP/1.1 {reply.status} {reason}\r\n{''.join(lines)}\r\n".encode("latin-1")

    def _send_whole(self, row: Received, reply: Reply) -> None:
        try:
            if reply.fault == "stall":
                self._stall()
            reply.settle(0, cancelled=False)
            head = self._head(row, reply, len(reply.body))
            if reply.fault == "reset":
                self.wfile.write(head + reply.body[: len(reply.body) // 2])
                self._reset()
                return
            self.wfile.write(head + reply.body)
        except _ClientGoneError:
            self._abandon(row, reply, 0)
        except OSError:
            self.close_connection = True

    def _send_stream(self, row: Received, reply: Reply) -> None:
        """Send the frames one by one; the reply is settled before its last one, or when the client goes."""
        produced, settled = 0, False
        frames = list(reply.frames or ())
        waiting = self._head(row, reply, None)
        try:
            for place, frame in enumerate(frames):
                if reply.chunk_delay_s:
                    self.wfile.write(waiting)
                    waiting = b""
                    self._pause(reply.chunk_delay_s)
                produced = frame.produced
                if place == len(frames) - 1 and frame.then != "stall":
                    reply.settle(produced, cancelled=False)
                    settled = True
                waiting += b"%x\r\n%b\r\n" % (len(frame.data), frame.data)
                if frame.then or len(waiting) > _LONGEST_LINE:
                    self.wfile.write(waiting)
                    waiting = b""
                    self._go_wrong(frame)
            self.wfile.write(waiting + b"0\r\n\r\n")
        except (_ClientGoneError, OSError):
            self.close_connection = True
            if not settled:
                self._abandon(row, reply, produced)

    def _go_wrong(self, frame: Frame) -> None:
        if frame.then == "reset":
            self._reset()
            raise _ClientGoneError
        if frame.then == "stall":
            self._stall()

    def _abandon(self, row: Received, reply: Reply, produced: int) -> None:
        self.close_connection = True
        reply.settle(produced, cancelled=True)
        self.server.world.journal.update(row, cancelled=True)

    def _wait_for_gate(self, row: Received) -> None:
        if not self.server.gate.is_set():
            self.server.world.journal.update(row, held=True)
        while not self.server.gate.wait(_POLL_S):
            self._pause(0)

    def _stall(self) -> None:
        """Wait until the client is gone, or the server closes."""
        while not self.server.closing.is_set():
            self._pause(_POLL_S)
        raise _ClientGoneError

    def _pause(self, seconds: float) -> None:
        """Wait, and raise `_ClientGoneError` as soon as the client closes its end."""
        deadline = time.monotonic() + seconds
        at_once = _AT_ONCE if seconds <= 0 else 0
        if not at_once:
            self.connection.settimeout(max(seconds, 0))
        try:
            if not self.connection.recv(1, socket.MSG_PEEK | at_once):
                raise _ClientGoneError
        except (BlockingIOError, TimeoutError):
            return
        except OSError as exc:
            raise _ClientGoneError from exc
        finally:
            if not at_once:
                self.connection.settimeout(None)
        # The client has sent its next request already: it is there, so only the time is left to wait.
        self.server.closing.wait(max(0.0, deadline - time.monotonic()))

    def _reset(self) -> None:
        """Break the connection so that the client sees a reset and not an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(_LINGER, 1, 0))
        self.connection.close()
