"""Real Redis and Memcached servers, and servers that fail in every way, each on a port of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import closing, suppress

import pytest

_HOW = "install it: apt-get install redis-server memcached"


def needs(program: str) -> str:
    """The path of a server's program; skips the test where it is not installed, but never in CI."""
    found = shutil.which(program)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is missing; {_HOW}")
        pytest.skip(f"{program} is missing; {_HOW}")
    return found


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def eventually(happens, within_s: float = 60.0):
    """What `happens` returns once that is true; it is asked again until then."""
    give_up_s = time.monotonic() + within_s
    while True:
        with suppress(Exception):
            if found := happens():
                return found
        assert time.monotonic() < give_up_s, "it did not happen"
        time.sleep(0.01)


class Process:
    """A server's process, which can be killed and started again on the same port."""

    scheme = ""

    def __init__(self, folder, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command(), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually(self.answers)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def say(self, request: bytes, longest: int = 65536) -> bytes:
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=2)) as talk:
            talk.sendall(request)
            return talk.recv(longest)

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def empty(self) -> None:
        raise NotImplementedError


class Redis(Process):
    """A redis-server that keeps nothing on disk."""

    scheme = "redis"

    def command(self) -> list[str]:
        always = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return [needs("redis-server"), *always, *self.options]

    def answers(self) -> bool:
        return self.say(b"PING\r\n")[:1] in (b"+", b"-")

    def client(self, **options):
        import redis

        return redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=5, **options)

    def empty(self) -> None:
        with closing(self.client()) as client:
            client.flushall()


class Memcached(Process):
    """A memcached."""

    scheme = "memcached"

    def command(self) -> list[str]:
        user = ["-u", "root"] if os.name == "posix" and os.getuid() == 0 else []
        return [needs("memcached"), "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", *user, *self.options]

    def answers(self) -> bool:
        return self.say(b"version\r\n").startswith(b"VERSION")

    def client(self):
        from pymemcache.client.base import Client

        return Client(("127.0.0.1", self.port), timeout=5, default_noreply=False)

    def empty(self) -> None:
        self.say(b"flush_all\r\n")


def cluster(folder, nodes: int = 3) -> list[Redis]:
    """A Redis Cluster of three nodes without replicas, ready to be asked."""
    running = []
    for number in range(nodes):
        place = folder / f"node{number}"
        place.mkdir()
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]
        running.append(Redis(place, *options, "--cluster-port", str(free_port())))
    hosts = [f"127.0.0.1:{node.port}" for node in running]
    create = ["redis-cli", "--cluster", "create", *hosts, "--cluster-yes"]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL, timeout=30)
    for node in running:
        eventually(lambda node=node: b"cluster_state:ok" in node.say(b"CLUSTER INFO\r\n"))
    return running


class Faulty:
    """A server on a raw socket that does to each connection what it is told to."""

    def __init__(self, scheme: str, behave) -> None:
        self.connections = 0
        self._behave = behave
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                talk, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(talk,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, talk: socket.socket) -> None:
        with closing(talk), suppress(OSError):
            talk.settimeout(10)
            self._behave(talk, self._over)

    def close(self) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


def hangs(talk: socket.socket, over: threading.Event) -> None:
    """Accepts and never answers."""
    over.wait(10)


def drips(talk: socket.socket, over: threading.Event) -> None:
    """Announces a great deal, and sends it byte by byte."""
    talk.recv(65536)
    talk.sendall(b"$99999999\r\n" if over else b"")
    while not over.wait(0.05):
        talk.sendall(b"x")


def drips_memcached(talk: socket.socket, over: threading.Event) -> None:
    """The same in Memcached's words."""
    talk.recv(65536)
    talk.sendall(b"VALUE x 0 99999999\r\n")
    while not over.wait(0.05):
        talk.sendall(b"x")


def babbles(talk: socket.socket, over: threading.Event) -> None:
    """Answers everything with what is no protocol."""
    while not over.is_set() and talk.recv(65536):
        talk.sendall(b"<html><body>502 Bad Gateway</body></html>\r\n\r\n")


def floods(talk: socket.socket, over: threading.Event) -> None:
    """Sends without end, and never a line's end."""
    talk.recv(65536)
    while not over.is_set():
        talk.sendall(b"A" * 65536)


def hangs_up(talk: socket.socket, over: threading.Event) -> None:
    """Closes each connection as soon as something is asked."""
    talk.recv(65536)
