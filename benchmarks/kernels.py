"""Other kernels: programs with a completion cache of their own on a shared folder, told what to do.

Each is this file, run as a program: orders come in as lines of JSON, and what came of them goes out as lines
of JSON. `Kernel` holds one. The soak and the tests of several processes use the same ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from prose import prose
from upstream import MODEL

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.core.key import request_key
from or_cache_magic.core.policy import Policy
from or_cache_magic.core.records import Answer, Choice, Cost, Request, Usage
from or_cache_magic.core.settings import Ask, Settings
from or_cache_magic.engine.recorder import Recorder
from or_cache_magic.errors import OrCacheError, StoreError, UpstreamError
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.entries import DiskStore
from or_cache_magic.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

PRICE_USD = Decimal("0.000123")
"""What each answer of `answer_to` cost."""

_PATIENCE_S = 120.0
_FLUSH_EVERY_S = 1.0
_BOUGHT_IN_TEN = 2


def request_for(number: int) -> Request:
    """The ``number``-th request."""
    prompt = f"Question {number}"
    return Request({"model": MODEL, "messages": [{"role": "user", "content": prompt}], "temperature": 0})


def answer_to(number: int) -> Answer:
    """The answer to `request_for` of the same number: some 3 KB that no other answer has."""
    choice = Choice({"role": "assistant", "content": prose(2_700, number)}, "stop", "stop")
    return Answer(
        (choice,), MODEL, "OpenAI", Usage(10, 600), Cost(PRICE_USD, "reported"), f"gen-{number}", 0.0, 1.0
    )


class Kernel:
    """One such program, seen from outside. Ends with the ``with`` block.

    Args:
        folder: The cache folder.
        base_url: Where it asks.
        nursery: Starts it in a moment, all that it needs imported; None starts it as any program.
    """

    def __init__(
        self, folder: Path, base_url: str = "http://127.0.0.1:9/api/v1", nursery: Nursery | None = None
    ) -> None:
        command = [sys.executable, __file__, str(folder), base_url]
        self.process: Any = (
            nursery.start(folder, base_url)
            if nursery is not None
            else subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                start_new_session=True,
            )
        )
        # What hangs fails its reader, which then finds the end of the output.
        self._watchdog = threading.Timer(_PATIENCE_S, self.process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    def tell(self, **order: Any) -> None:
        """Gives an order; does not wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next line that it says.

        Raises:
            EOFError: It has ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            raise EOFError(f"the kernel ended: {self.process.wait()}")
        return json.loads(line)

    def kill(self) -> None:
        """Ends it at once, with no chance to tidy up."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> None:
        """As the stop button does."""
        self.process.send_signal(signal.SIGINT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._watchdog.cancel()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process.stdout.close()


class Nursery:
    """A program that has imported what a kernel imports, and forks one at each order, for a crowd of them.

    It has no thread and no cache, and what it forks is a process like any other. Ends with the ``with``
    block.
    """

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--nursery", str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )

    def start(self, folder: Path, base_url: str) -> _Forked:
        """A kernel, as `subprocess.Popen` would give it."""
        (orders, told), (heard, said) = os.pipe(), os.pipe()
        socket.send_fds(self._ours, [json.dumps([str(folder), base_url]).encode()], [orders, said])
        os.close(orders)
        os.close(said)
        pid = int(self._ours.recv(20))
        return _Forked(pid, open(told, "w", encoding="utf-8"), open(heard, encoding="utf-8"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ours.close()
        self._process.wait(_PATIENCE_S)


@dataclass
class _Forked:
    """What is used of `subprocess.Popen`, for a process that another one waits for."""

    pid: int
    stdin: TextIO
    stdout: TextIO

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = _PATIENCE_S) -> None:
        end_s = time.monotonic() + timeout
        while time.monotonic() < end_s:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.005)
        raise subprocess.TimeoutExpired("kernel", timeout)


def _fork_kernels(orders: socket.socket) -> None:
    """Fork a kernel for each folder and address that comes, on the two pipes that come with it."""
    import openai  # noqa: F401 - what else takes long, each would import when it asks

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever ends is gone at once
    while True:
        order, pipes, *_ = socket.recv_fds(orders, 65_536, 2)
        if not order:
            return
        if pid := os.fork():
            for pipe in pipes:
                os.close(pipe)
            orders.send(str(pid).encode())
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        orders.close()
        os.setsid()
        for pipe, place in zip(pipes, (0, 1), strict=True):
            os.dup2(pipe, place)
            os.close(pipe)
        _serve(*json.loads(order))
        return


# -- inside the program ---------------------------------------------------------------------------


def _say(**line: Any) -> None:
    # One write a line: what a killed program had said is whole.
    os.write(1, (json.dumps(line) + "\n").encode())


def _ask(cache: CompletionCache, prompt: str, **options: Any) -> None:
    try:
        said = cache.ask(prompt, on_wait=lambda note: _say(waits=note), **options)
    except KeyboardInterrupt:
        _say(interrupted=True)
    except OrCacheError as exc:
        status = exc.status if isinstance(exc, UpstreamError) else None
        _say(error=type(exc).__name__, message=str(exc.args[0]), status=status)
    else:
        cache.flush()  # as after a cell
        outcome = said.outcome
        notices = cache.database.pop_notices()
        _say(kind=outcome.kind, text=str(said), not_stored=outcome.not_stored, notices=notices)


def recorder_in(folder: str) -> tuple[Database, Recorder]:
    """What keeps answers and accounts in a folder, as an ask does; who asks for it closes the database."""
    database = Database(folder)
    ledger = Ledger(database, os.urandom(6).hex(), time.time)
    return database, Recorder(DiskStore(database), ledger, database.transaction)


def _keep(recorder: Recorder, number: int) -> str:
    request = request_for(number)
    ask = Ask(request_key(request), request, Policy(), Settings())
    return recorder.keep(ask, "miss", answer_to(number))[0]


def _write(folder: str, start: int) -> None:
    """Keeps answers for ever, and says each number when it is kept."""
    database, recorder = recorder_in(folder)
    for number in range(start, start + 1_000_000):
        trouble = _keep(recorder, number)
        _say(trouble=trouble) if trouble else _say(kept=number)
        if number % 7 == 0:
            database.checkpoint()


def _load(folder: str, start: int, seconds: float, shared: int, *, counting: bool, buying: bool) -> None:
    """Reads and writes as fast as it can; says what it did, and what went wrong."""
    database, recorder = recorder_in(folder)
    dice = random.Random(start)
    known = [request_key(request_for(number)) for number in range(shared)]
    kept: list[int] = []
    errors: list[str] = []
    hits = 0
    end_s = time.monotonic() + seconds
    flush_s = time.monotonic() + _FLUSH_EVERY_S
    while (now_s := time.monotonic()) < end_s:
        try:
            if buying and dice.randrange(10) < _BOUGHT_IN_TEN:
                trouble = _keep(recorder, start + len(kept))
                errors += [trouble] if trouble else []
                kept += [] if trouble else [start + len(kept)]
                continue
            key = dice.choice(known)
            entry = recorder.store.get(key)
            if entry is None:
                errors.append("a stored answer is gone")
                continue
            hits += 1
            if counting:
                recorder.ledger.count_hit(key=key.digest, model=MODEL, value_usd=entry.answer.cost.usd)
                if now_s > flush_s:
                    recorder.ledger.flush()
                    flush_s = now_s + _FLUSH_EVERY_S
        except StoreError as exc:
            errors.append(str(exc.args[0]))
    unwritten = 0 if recorder.ledger.flush() or _flushed(recorder) else 1
    database.close()
    _say(hits=hits, kept=kept, errors=errors, unwritten=unwritten)


def _flushed(recorder: Recorder) -> bool:
    """Tries again for a while: all the others flush at the same moment."""
    return any(recorder.ledger.flush() for _ in range(200))


def _orders() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> None:
    first, second = sys.argv[1:]
    if first == "--nursery":
        _fork_kernels(socket.socket(fileno=int(second)))
    else:
        _serve(first, second)


def _serve(folder: str, base_url: str) -> None:
    settings = Settings(model=MODEL, base_url=base_url)
    with CompletionCache(folder, settings=lambda: settings, api_key=lambda: "sk-or-v1-test") as cache:
        _say(ready=True)
        for order in _orders():
            match order.pop("do"):
                case "ask":
                    _ask(cache, **order)
                case "flush":
                    _say(flushed=cache.ledger.flush())
                case "write":
                    _write(folder, **order)
                case "load":
                    _load(folder, **order)


if __name__ == "__main__":
    main()
