"""The simulator as users hold it: start, script, look at what happened, stop."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from or_cache_magic.simulator.billing import ZERO
from or_cache_magic.simulator.listing import BASE_PATH
from or_cache_magic.simulator.server import Server
from or_cache_magic.simulator.state import DayLimit, RateLimit, RoomLimit, TallyLimit
from or_cache_magic.simulator.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from decimal import Decimal
    from types import TracebackType

    from typing_extensions import Self

    from or_cache_magic.simulator.batches import BatchPlan
    from or_cache_magic.simulator.behaviour import Scenario
    from or_cache_magic.simulator.state import Received


class Simulator:
    """OpenRouter on loopback: answers without a network, a key or a bill, the same way every time.

    ::

        with Simulator() as sim:
            client = openai.OpenAI(base_url=sim.base_url, api_key=sim.api_key)

    Streaming and whole replies, models and prices, errors, response caching, prompt caching,
    generations: as OpenRouter's API reference has them. How a completion goes otherwise than well is said
    by `script`, by a model named ``simulator/<scenario>``, or by the request header
    ``X-Simulator-Scenario: rate_limited retry_after_s=2``. All methods may be called from any thread.

    Args:
        port: Where to listen; 0 takes a free port.
        host: The address to listen on; leave it at loopback unless others are to reach it.
        api_keys: The keys that are accepted; None accepts all that begin with ``sk-or-``. One that begins
            with ``sk-or-v1-management`` may read credits, and may not ask for completions.
        now: The clock, in epoch seconds: for expiry, prices by the time of day, and time stamps.
        chunk_delay_s: Seconds before each chunk of a stream.
        credits_usd: What the account has to spend; None is without limit.
        free_requests_per_minute: The limit of ``:free`` models for each key; None is without limit.
        free_requests_per_day: How many requests of ``:free`` models it takes of each key until midnight, UTC;
            None is without limit.
        rate_limit_per_minute: How many requests it takes of each key in a minute, told in the headers of the
            429; None is without limit.
        rate_burst: How many of them may come at once, where they must be spread evenly; None is all.
        tells_rate: Whether the 429 says anything of it.
        minute_s: How long its minutes are.
        latency_s: Seconds before each reply of the model begins.
        capacity: How many requests the providers answer at a time; 429 beyond. None is without limit.
        in_flight_usd: What the requests under way may cost together at most; 402 beyond. None is without
            limit.
        retry_after_s: What ``Retry-After`` says then. None is nothing for `capacity`, and 120 for
            `in_flight_usd`.
        batch_s: How long a batch takes, by the clock; see `script_batch`.
        presets: Presets by slug: request fields, and ``system``, ``cache_enabled``, ``cache_ttl_seconds``.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        api_keys: Iterable[str] | None = None,
        now: Callable[[], float] = time.time,
        chunk_delay_s: float = 0.0,
        credits_usd: Decimal | None = None,
        free_requests_per_minute: int | None = 20,
        free_requests_per_day: int | None = None,
        rate_limit_per_minute: int | None = None,
        rate_burst: int | None = None,
        tells_rate: bool = True,
        minute_s: float = 60.0,
        latency_s: float = 0.0,
        capacity: int | None = None,
        in_flight_usd: Decimal | None = None,
        retry_after_s: float | None = None,
        batch_s: float = 0.0,
        presets: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        keys = None if api_keys is None else tuple(api_keys)
        #: A key that is accepted.
        self.api_key = keys[0] if keys else "sk-or-v1-simulator"
        self._address = (host, port)
        self._world = World(
            now=now,
            api_keys=None if keys is None else frozenset(keys),
            credits_usd=credits_usd,
            presets=presets or {},
            chunk_delay_s=chunk_delay_s,
            free_limit=TallyLimit(free_requests_per_minute, minute_s),
            free_days=DayLimit(free_requests_per_day),
            limit=RateLimit(rate_limit_per_minute, rate_burst, minute_s)
            if rate_limit_per_minute and rate_burst
            else TallyLimit(rate_limit_per_minute, minute_s),
            tells_rate=tells_rate,
            latency_s=latency_s,
            capacity=RoomLimit(capacity),
            in_flight=RoomLimit(in_flight_usd),
            retry_after_s=retry_after_s,
            batch_s=batch_s,
        )
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Begin to serve; returns itself. Does nothing when it serves already."""
        if self._server is None:
            self._server = Server(self._address, self._world)
            self._thread = threading.Thread(
                target=self._server.serve_forever,
                kwargs={"poll_interval": 0.02},
                name="simulator",
                daemon=True,
            )
            self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and end every connection. Does nothing when it does not serve."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.close()
            thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """The API's base URL, ``http://127.0.0.1:PORT/api/v1``.

        Raises:
            RuntimeError: It does not serve.
        """
        host, port = self._serving().server_address[:2]
        return f"http://{host!s}:{port}{BASE_PATH}"

    @property
    def requests(self) -> tuple[Received, ...]:
        """What was received since the start or the last `clear`, oldest first, as it is now."""
        return self._world.journal.rows()

    @property
    def completions(self) -> tuple[Received, ...]:
        """Those of `requests` that asked for a chat completion, whatever came of them."""
        return tuple(row for row in self.requests if row.is_completion)

    @property
    def completion_count(self) -> int:
        """How many `completions` there are."""
        return len(self.completions)

    @property
    def total_cost(self) -> Decimal:
        """US dollars that the answers cost since the start or the last `clear`, whoever was billed."""
        return sum(self._world.generations.sums(), start=ZERO)

    def script(
        self,
        scenario: Scenario,
        *,
        times: int = 1,
        match: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        """Play ``scenario`` for the next completions, after those scripted before.

        Args:
            scenario: What is to happen; see `scenario` and ``SCENARIOS``.
            times: For how many requests.
            match: Which requests, by their body; None is any. With it, tests that run at the same time do
                not take each other's scenarios.
        """
        self._world.scripts.add(scenario, times, match)

    def script_batch(self, plan: BatchPlan, *, times: int = 1) -> None:
        """Let the next batches go by ``plan``, after those planned before.

        Their requests are completions: `script`, and models named ``simulator/<scenario>``, hold for each.
        """
        self._world.batches.plan(plan, times)

    def lift_rate_limit(self) -> None:
        """Let all requests pass from now on that `rate_limit_per_minute` would refuse."""
        self._world.limit.lift()

    def clear(self) -> None:
        """Forget requests, scripts, generations and costs; caches and running requests stay."""
        self._world.journal.clear()
        self._world.scripts.clear()
        self._world.generations.clear()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold all completions back while the block lasts; what arrives is answered after it.

        ``sim.wait_for(lambda rows: sum(row.held for row in rows) == 2)`` waits until two are held.
        """
        server = self._serving()
        server.gate.clear()
        try:
            yield
        finally:
            server.gate.set()

    def wait_for(self, holds: Callable[[tuple[Received, ...]], bool], timeout_s: float = 10.0) -> bool:
        """Wait until ``holds`` of `requests`; False when it did not within ``timeout_s`` seconds.

        ``sim.wait_for(lambda rows: any(row.cancelled for row in rows))`` waits until a client was seen to
        leave.
        """
        return self._world.journal.wait_until(holds, timeout_s)

    def _serving(self) -> Server:
        if self._server is None:
            raise RuntimeError("the simulator does not serve; start() it, or use it in a with statement")
        return self._server


def serve(host: str = "127.0.0.1", port: int = 0, *, chunk_delay_s: float = 0.02) -> None:
    """Serve until Ctrl-C; prints a line for the shell that sets the variables that lead there.

    Args:
        host: The address to listen on.
        port: Where to listen; 0 takes a free port.
        chunk_delay_s: Seconds before each chunk, so that streams look like streams.

    Raises:
        OSError: The port is taken, or the address is not one of this machine.
    """
    with (
        contextlib.suppress(KeyboardInterrupt),
        Simulator(port, host=host, chunk_delay_s=chunk_delay_s) as sim,
    ):
        line = f"export OPENROUTER_BASE_URL={sim.base_url} OPENROUTER_API_KEY={sim.api_key}"
        print(f"{line}\nserving; Ctrl-C stops", flush=True)  # noqa: T201 - a shell command says where it listens
        threading.Event().wait()
