"""What the middle floors are tested with: a simulator, a server of canned replies, caches, a clock, a clean environment."""

from __future__ import annotations

import gc
import os
import socketserver
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.settings import Settings
from or_cache_magic.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "openai/gpt-4o-mini"
APART = ("browser", "notebooks", "processes", "storage/shared", "test_benchmarks.py")
"""Tests that start browsers, kernels, servers or crowds: those of one place share what they started."""
STARTS = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"})
"""What Python's audit calls the start of another process."""

# How many examples a law is tried with is said here alone. How long one takes tells of the machine's other work,
# not of the code.
settings.register_profile("dev", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,  # a change fails for what it changed
    database=None,
    max_examples=50,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "brief", settings.get_profile("ci"), max_examples=10
)  # the laws hold on another Python
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def _place(path: str) -> str | None:
    """Return which of the places `APART` a test is in, by its path below the project's folder."""
    return next((place for place in APART if path.startswith(f"tests/{place}")), None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the runs on other Pythons."""
    parser.addoption("--unit", action="store_true", help="only tests in this process, and those marked smoke")


def pytest_configure(config: pytest.Config) -> None:
    """With `--unit`, have tests skipped where they start another process: none has to say that it does."""
    if config.getoption("--unit"):
        sys.addaudithook(_skip_at_start)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--unit`, leave out what is known to start processes; its fixtures may have much to do before."""
    if config.getoption("--unit"):
        config.hook.pytest_deselected(items=[item for item in items if _is_left_out(item)])
        items[:] = [item for item in items if not _is_left_out(item)]


def _is_left_out(item: pytest.Item) -> bool:
    starts = item.get_closest_marker("kernel") is not None or _place(item.nodeid) is not None
    return starts and not _is_smoke(item)


def _is_smoke(item: pytest.Item) -> bool:
    return item.get_closest_marker("smoke") is not None


_running: pytest.Item | None = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Keep which test runs, for `_skip_at_start`."""
    global _running  # noqa: PLW0603 - a hook of Python's own has nothing else to go by
    _running = item
    try:
        return (yield)
    finally:
        _running = None


def _skip_at_start(event: str, what: tuple[object, ...]) -> None:
    if what[:1] == ("uname",):
        return  # by `platform`, which `openai` asks once in a process: of whichever test is the first
    if event in STARTS and _running is not None and not _is_smoke(_running):
        pytest.skip("starts another process")


def pytest_collection_finish() -> None:
    """Let garbage be looked for only in what tests make: thousands of tests, and their modules, stay to the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have the tests of one place run in one process, any other test in the next that is free."""
    # Not `--dist loadgroup`: its marks have no effect from pytest 9.2 on.
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _place(nodeid) or nodeid

    return ByPlace(config, log)


class Clock:
    """Time that goes by when told to."""

    def __init__(self, now_s: float = 1_767_268_800.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Canned(socketserver.ThreadingTCPServer):
    """Answers each connection with the next of its replies, byte for byte, and closes; the last one repeats.

    With `models` it says besides that every model is there which it is asked for before a call.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *replies: bytes, models: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _CannedHandler)
        self.models = models
        self.replies = list(replies)
        self.received: list[bytes] = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api/v1"


class _CannedHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        head, length = b"", 0
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        name = head.partition(b" /api/v1/model/")[2].partition(b" ")[0]
        if self.server.models and name and b"/" not in name.partition(b"/")[2]:
            listed = f'{{"data": {{"id": "{name.decode()}"}}}}'
            self.wfile.write(_reply(listed, "application/json"))
            return
        self.server.received.append(head + self.rfile.read(length))
        place = min(len(self.server.received), len(self.server.replies)) - 1
        self.wfile.write(self.server.replies[place])


def _reply(body, content_type="text/event-stream", status="200 OK", **headers) -> bytes:
    """An HTTP reply that ends with the connection, so that a body may be cut anywhere."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + (body.encode() if isinstance(body, str) else body)


@pytest.fixture(scope="session", autouse=True)
def _one_root(tmp_path_factory):
    """Has clients trust one certificate: to read all of them takes longer than an ask of the simulator."""
    import certifi

    end = "-----END CERTIFICATE-----\n"
    roots = Path(certifi.where()).read_text(encoding="utf-8")
    one = tmp_path_factory.mktemp("roots") / "one.pem"
    one.write_text(roots.partition(end)[0] + end, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SSL_CERT_FILE", str(one))
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in os.environ:
        if name.startswith(("OPENROUTER_", "OPENAI_", "OR_CACHE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sim():
    with Simulator() as running:
        yield running


@pytest.fixture
def reply():
    """``reply(body, content_type, status, Header_Name=…)`` is the bytes of an HTTP reply."""
    return _reply


@pytest.fixture
def canned():
    """``canned(reply, …, models=True)`` is a running `Canned`, with ``base_url`` and ``received``."""
    running = []

    def start(*replies, **options):
        server = Canned(*replies, **options)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / ".or_cache"


@pytest.fixture
def open_cache(folder, clock):
    """``open_cache(server, setting=…)`` is a cache on the test's folder that asks this server."""
    opened = []

    def start(server, *, directory=None, api_key="sk-or-v1-test", notebook="", **settings):
        chosen = Settings(**{"model": MODEL, "base_url": server.base_url, **settings})
        cache = CompletionCache(
            directory or folder,
            settings=lambda: chosen,
            api_key=lambda: api_key,
            notebook=notebook,
            clock=clock,
        )
        opened.append(cache)
        return cache

    yield start
    for cache in opened:
        cache.close()


@pytest.fixture
def cache(open_cache, sim):
    return open_cache(sim)
