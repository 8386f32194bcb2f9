"""OpenRouter's response caching: a whole answer served again for nothing, when headers ask for it.

The providers' prompt caching, which makes the beginning of a prompt cheaper to read, is in `prompt_cache`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from or_cache_magic.simulator.replies import Completion

_DEFAULT_TTL_S: Final = 300
_LONGEST_TTL_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class CacheDirective:
    """What a request wants of response caching: whether, for how long, and whether to start anew."""

    enabled: bool
    ttl_s: int = _DEFAULT_TTL_S
    clear: bool = False


def directive(headers: Mapping[str, str], preset: Mapping[str, Any]) -> CacheDirective:
    """What headers and preset come to (OpenRouter's guide "Response caching").

    A preset's ``cache_enabled: false`` beats everything, then the header, then the preset's ``true``. A
    TTL is read by its leading digits and brought into 1…86400 seconds.
    """
    asked = headers.get("x-openrouter-cache", "").strip().lower()
    enabled = preset.get("cache_enabled")
    on = enabled is not False and (asked == "true" or (enabled is True and asked != "false"))
    digits = re.match(r"\s*(\d+)", headers.get("x-openrouter-cache-ttl", ""))
    wanted = digits.group(1) if digits else preset.get("cache_ttl_seconds")
    ttl_s = _DEFAULT_TTL_S if wanted is None else min(max(int(wanted), 1), _LONGEST_TTL_S)
    return CacheDirective(
        on, ttl_s, clear=headers.get("x-openrouter-cache-clear", "").strip().lower() == "true"
    )


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer in the response cache."""

    completion: Completion
    stored_s: float
    ttl_s: int

    def age_s(self, now_s: float) -> int:
        """Whole seconds since it was stored."""
        return int(now_s - self.stored_s)


class ResponseCache:
    """Whole answers, by API key and body; property order counts, white space does not. Thread-safe."""

    def __init__(self) -> None:
        self._answers: dict[str, CachedAnswer] = {}
        self._lock = threading.Lock()

    @staticmethod
    def key(api_key: str, body: Mapping[str, Any]) -> str:
        """The key of a request; ``stream`` is a field of the body and so part of it."""
        return hashlib.sha256(f"{api_key}\n{json.dumps(body)}".encode()).hexdigest()

    def find(self, key: str, now_s: float) -> CachedAnswer | None:
        """The answer; None when there is none or its time is over."""
        with self._lock:
            found = self._answers.get(key)
            if found is not None and now_s - found.stored_s >= found.ttl_s:
                del self._answers[key]
                return None
            return found

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep an answer in place of any other."""
        with self._lock:
            self._answers[key] = answer

    def drop(self, key: str) -> None:
        """Forget an answer."""
        with self._lock:
            self._answers.pop(key, None)
