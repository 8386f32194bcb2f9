"""What the simulator remembers between requests: what came in, what was served, what was scripted.

Every class here is safe to use from several threads.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.billing import ZERO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from or_cache_magic.simulator.batches import Batch, BatchPlan
    from or_cache_magic.simulator.behaviour import Scenario

_DAY_S: Final = 86_400.0
_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it was received, and what has come of it so far.

    Attributes:
        number: 1 for the first since the start or the last `Simulator.clear`.
        at_s: When, by the simulator's clock.
        method: ``GET``, ``POST`` or ``DELETE``.
        path: Without the query.
        query: The query's parameters.
        headers: By lower-case name.
        body: The JSON value that was sent; None when there was none, or it was not JSON.
        status: The HTTP status of the reply; None as long as there is none.
        generation_id: ``gen-…``; None when the reply has none.
        cost_usd: What the answer cost in all; None as long as it is not finished, 0 when nothing was billed.
        cancelled: Whether the client closed the connection before the reply was whole.
        scenario: The name of the scenario that was played.
        held: Whether its answer was ready and kept back by `Simulator.hold`.
    """

    number: int
    at_s: float
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    status: int | None = None
    generation_id: str | None = None
    cost_usd: Decimal | None = None
    cancelled: bool = False
    scenario: str = ""
    held: bool = False

    @property
    def is_embedding(self) -> bool:
        """Whether it asked for vectors."""
        return self.method == "POST" and self.path.endswith("/embeddings")

    @property
    def is_completion(self) -> bool:
        """Whether it asked for a chat completion."""
        return self.method == "POST" and self.path.endswith("/chat/completions")


class Journal:
    """The requests received, in order."""

    def __init__(self) -> None:
        self._rows: list[Received] = []
        self._news: dict[int, dict[str, Any]] = {}
        self._changed = threading.Condition()

    def add(self, row: Received) -> Received:
        """Keep a request; returns it with its number."""
        with self._changed:
            kept = replace(row, number=len(self._rows) + 1)
            self._rows.append(kept)
            self._changed.notify_all()
            return kept

    def update(self, row: Received, **changes: Any) -> None:
        """Note what came of a request; nothing happens when the journal was cleared since."""
        with self._changed:
            place = row.number - 1
            if place < len(self._rows) and self._rows[place].at_s == row.at_s:
                self._news.setdefault(place, {}).update(changes)
                self._changed.notify_all()

    def rows(self) -> tuple[Received, ...]:
        """All requests, as they are now."""
        with self._changed:
            return self._up_to_date()

    def _up_to_date(self) -> tuple[Received, ...]:
        for place, changes in self._news.items():
            self._rows[place] = replace(self._rows[place], **changes)
        self._news.clear()
        return tuple(self._rows)

    def clear(self) -> None:
        """Forget all requests."""
        with self._changed:
            self._rows.clear()
            self._news.clear()

    def wait_until(self, holds: Callable[[tuple[Received, ...]], bool], timeout_s: float) -> bool:
        """Wait until ``holds`` of the requests; False when it did not within ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not holds(self._up_to_date()):
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return holds(self._up_to_date())
            return True


@dataclass(slots=True)
class _Script:
    scenario: Scenario
    left: int
    match: Callable[[Mapping[str, Any]], bool] | None


class Scripts:
    """Scenarios waiting for their requests, first come first served."""

    def __init__(self) -> None:
        self._queue: list[_Script] = []
        self._asked: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def add(self, scenario: Scenario, times: int, match: Callable[[Mapping[str, Any]], bool] | None) -> None:
        """Play ``scenario`` for the next ``times`` requests whose body ``match`` accepts."""
        with self._lock:
            self._queue.append(_Script(scenario, times, match))

    def take(self, body: Mapping[str, Any]) -> Scenario | None:
        """The scenario for a request with this body; None when none waits for it."""
        with self._lock:
            for script in self._queue:
                if script.match is None or script.match(body):
                    script.left -= 1
                    if script.left <= 0:
                        self._queue.remove(script)
                    return script.scenario
        return None

    def repeats(self, what: str, of_body: int) -> int:
        """How many times this was called before with the same arguments."""
        with self._lock:
            self._asked[what, of_body] += 1
            return self._asked[what, of_body] - 1

    def clear(self) -> None:
        """Forget what is queued and what was counted."""
        with self._lock:
            self._queue.clear()
            self._asked.clear()


@dataclass(frozen=True, slots=True)
class Generation:
    """One call that ran, as ``GET /generation`` tells it.

    Attributes:
        api_key: Whose it is; nobody else's key finds it.
        at_s: When it was settled.
        cost_usd: What OpenRouter charged.
        byok_usd: What the provider charged the user directly.
        data: The reply's ``data``.
        misses: How many times it is still not found.
    """

    id: str
    api_key: str
    at_s: float
    cost_usd: Decimal
    byok_usd: Decimal
    data: Mapping[str, Any]
    misses: int = 0


class Generations:
    """The calls that ran, by id, and their sums."""

    def __init__(self) -> None:
        self._by_id: dict[str, Generation] = {}
        self._issued = 0
        self._lock = threading.Lock()

    def new_id(self, now_s: float) -> str:
        """A generation id that was not given out before."""
        with self._lock:
            self._issued += 1
            number = int.from_bytes(hashlib.sha256(f"generation {self._issued}".encode()).digest(), "big")
        letters = ""
        for _ in range(20):
            number, digit = divmod(number, len(_ALPHABET))
            letters += _ALPHABET[digit]
        return f"gen-{int(now_s)}-{letters}"

    def add(self, generation: Generation) -> None:
        """Keep a call that ran."""
        with self._lock:
            self._by_id[generation.id] = generation

    def find(self, generation_id: str, api_key: str) -> Generation | None:
        """The call with this id; None when there is none, it is another key's, or it is not known yet."""
        with self._lock:
            found = self._by_id.get(generation_id)
            if found is None or found.api_key != api_key:
                return None
            if found.misses:
                self._by_id[generation_id] = replace(found, misses=found.misses - 1)
                return None
            return found

    def sums(self, api_key: str | None = None, since_s: float = 0.0) -> tuple[Decimal, Decimal]:
        """Dollars charged by OpenRouter, and by providers directly; for one key, or for all."""
        with self._lock:
            rows = [g for g in self._by_id.values() if api_key in (None, g.api_key) and g.at_s >= since_s]
        return sum((g.cost_usd for g in rows), ZERO), sum((g.byok_usd for g in rows), ZERO)

    def free_calls(self, api_key: str, since_s: float) -> int:
        """How many calls of ``:free`` models one key made."""
        with self._lock:
            rows = [g for g in self._by_id.values() if g.api_key == api_key and g.at_s >= since_s]
        return sum(str(row.data.get("model")).endswith(":free") for row in rows)

    def clear(self) -> None:
        """Forget all calls; ids are not given out again."""
        with self._lock:
            self._by_id.clear()


class Batches:
    """The batches, the newest last, and the plans of those to come."""

    def __init__(self) -> None:
        self._by_id: dict[str, Batch] = {}
        self._plans: deque[BatchPlan] = deque()
        self._submitted = 0
        self._lock = threading.Lock()

    def next_number(self) -> int:
        """A number that no other batch has."""
        with self._lock:
            self._submitted += 1
            return self._submitted

    def plan(self, plan: BatchPlan, times: int) -> None:
        """Let the next so many batches go like this."""
        with self._lock:
            self._plans.extend([plan] * times)

    def take_plan(self) -> BatchPlan | None:
        """The plan of the batch that comes now; None where none was made."""
        with self._lock:
            return self._plans.popleft() if self._plans else None

    def add(self, batch: Batch) -> None:
        """Keep a batch."""
        with self._lock:
            self._by_id[batch.id] = batch

    def find(self, batch_id: str, api_key: str) -> Batch | None:
        """The batch with this id; None when there is none, or it is another key's."""
        with self._lock:
            found = self._by_id.get(batch_id)
            return found if found is not None and found.api_key == api_key else None

    def newest_first(self) -> list[Batch]:
        """All of them."""
        with self._lock:
            return list(self._by_id.values())[::-1]

    def remove(self, batch_id: str) -> None:
        """Forget one."""
        with self._lock:
            self._by_id.pop(batch_id, None)


class TallyLimit:
    """At most so many requests of one key within a minute, or another time."""

    def __init__(self, per_minute: int | None, minute_s: float = 60.0) -> None:
        self._per_minute = per_minute
        self._minute_s = minute_s
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def refuses_until(self, api_key: str, now_s: float) -> float | None:
        """When the limit will let the next request pass; None when it passes now, and is counted."""
        if self._per_minute is None:
            return None
        with self._lock:
            times = self._times.setdefault(api_key, deque())
            while times and times[0] <= now_s - self._minute_s:
                times.popleft()
            if len(times) >= self._per_minute:
                return times[0] + self._minute_s
            times.append(now_s)
            return None

    def lift(self) -> None:
        """Have no limit from now on."""
        self._per_minute = None

    @property
    def per_minute(self) -> int:
        """The limit; 0 when there is none."""
        return self._per_minute or 0


class RateLimit(TallyLimit):
    """At most so many requests of one key a minute, spread evenly: a few at once, then one by one."""

    def __init__(self, per_minute: int, burst: int, minute_s: float = 60.0) -> None:
        super().__init__(per_minute, minute_s)
        self._gap_s = minute_s / per_minute
        self._burst = burst
        self._free_s: dict[str, float] = {}

    def refuses_until(self, api_key: str, now_s: float) -> float | None:
        """When the limit will let the next request pass; None when it passes now, and is counted."""
        if self._per_minute is None:
            return None
        with self._lock:
            free_s = max(self._free_s.get(api_key, 0.0), now_s - (self._burst - 1) * self._gap_s)
            if free_s > now_s:
                return free_s
            self._free_s[api_key] = free_s + self._gap_s
            return None


class DayLimit:
    """At most so many requests of one key from midnight to midnight, UTC."""

    def __init__(self, per_day: int | None) -> None:
        #: The limit; None when there is none.
        self.per_day = per_day
        self._counts: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def refuses_until(self, api_key: str, now_s: float) -> float | None:
        """When the limit will let the next request pass; None when it passes now, and is counted."""
        day = int(now_s // _DAY_S)
        with self._lock:
            if self.per_day is not None and self._counts[api_key, day] >= self.per_day:
                return (day + 1) * _DAY_S
            self._counts[api_key, day] += 1
            return None


class RoomLimit:
    """At most so much under way at a time: requests, or the dollars that they may cost."""

    def __init__(self, most: int | Decimal | None) -> None:
        self._most = most
        self._taken: Decimal = ZERO
        self._lock = threading.Lock()

    def take(self, much: Decimal) -> bool:
        """Take room for a request; False when there is none."""
        with self._lock:
            if self._most is not None and self._taken + much > self._most:
                return False
            self._taken += much
            return True

    def leave(self, much: Decimal) -> None:
        """Give room back."""
        with self._lock:
            self._taken -= much
