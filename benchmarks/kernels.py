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
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """

    def __init__(self, folder: Path, base_url: str = "http://127.0.0.1:9/api/v1") -> None:
        command = [sys.executable, __file__, str(folder), base_url]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
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
    folder, base_url = sys.argv[1:]
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
