"""OpenRouter's Batch API on the wire: what a batch takes, a submission, and what is told of one.

Facts: OpenRouter's documentation of batches, and the types of its SDK (``components/batch*.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from or_cache_magic.core.chat import as_list, as_mapping, is_online, messages_of, orders_search, plugins_of
from or_cache_magic.core.records import UNKNOWN_COST, Answer, Cost, Request
from or_cache_magic.core.secrets import Secret, redacted_text
from or_cache_magic.core.units import read_count, read_number
from or_cache_magic.errors import one_line
from or_cache_magic.openrouter.reply import ReplyReader, cost_reported
from or_cache_magic.openrouter.wire import MalformedReplyError

ENDPOINT: Final = "/v1/chat/completions"
ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
"""The statuses after which nothing more comes. Unknown ones are taken to be on the way."""

MOST_REQUESTS: Final = 5_000
MOST_BYTES: Final = 190_000_000
"""Of 200 MB; the rest is left to what stands around the requests."""

_OF_PROVIDER: Final = frozenset({"only", "allow_fallbacks"})
_ONE_FORMAT: Final = "google/"
"""Whose models take one ``response_format`` a batch."""

_WIDTH: Final = 300
_HTTP_OK: Final = 200


def why_not_batched(request: Request) -> str | None:
    """Return what of a request no batch takes, as a clause; None where a batch takes it."""
    body = request.body
    if set(as_list(body.get("modalities"))) - {"text"}:
        return "batches make no images or sound"
    plugins = {name for name, _ in plugins_of(body)}
    tools = {as_mapping(tool).get("type") for tool in as_list(body.get("tools"))}
    if is_online(str(body.get("model"))) or orders_search(body) or "web" in plugins:
        return "batches don't search the web"
    if plugins:
        return f"batches take no plugins ({min(plugins)[:40]})"
    if tools - {"function", "custom"} or body.get("stop_server_tools_when"):
        return "batches run no server tools"
    for name in ("models", "deferred_tools", "preset"):
        if body.get(name):
            return f"batches don't take {name}"
    other = {
        name for name, value in as_mapping(body.get("provider")).items() if value is not None
    } - _OF_PROVIDER
    if other:
        return f"batches don't take provider.{min(other)}"
    if any(map(_has_data, messages_of(body))):
        return "batches take images and files by their URLs only"
    return None


def _has_data(message: Mapping[str, Any]) -> bool:
    """Return whether a message has media that is no link: base64, whatever it is called."""
    parts = [as_mapping(part) for part in (*as_list(message.get("content")), *as_list(message.get("images")))]
    media = [part for part in parts if part.get("type") != "text"]
    return bool(message.get("audio")) or any(
        part.get("type") == "input_audio" or '"data:' in json.dumps(part, default=str) for part in media
    )


def group_of(request: Request) -> tuple[str, ...]:
    """Return what all requests of one batch have in common."""
    body = request.body
    provider = json.dumps(as_mapping(body.get("provider")), sort_keys=True, default=str)
    model = str(body.get("model", ""))
    shape = json.dumps(body.get("response_format"), default=str) if model.startswith(_ONE_FORMAT) else ""
    return request.base_url, model, provider, shape


def request_of(custom_id: str, request: Request) -> dict[str, Any]:
    """Return a row of a submission: the ordinary request, without what is said for all."""
    body = {name: value for name, value in request.body.items() if name not in ("provider", "stream")}
    return {"custom_id": custom_id, "body": body}


def in_batches(rows: Iterable[tuple[str, Request]]) -> Iterator[list[tuple[str, Request]]]:
    """Yield rows, a custom id and a request each, in as many parts as batches are needed."""
    part: list[tuple[str, Request]] = []
    size_bytes = 0
    for custom_id, request in rows:
        own_bytes = len(
            json.dumps(request_of(custom_id, request), ensure_ascii=False).encode("utf-8", "replace")
        )
        if part and (len(part) == MOST_REQUESTS or size_bytes + own_bytes > MOST_BYTES):
            yield part
            part, size_bytes = [], 0
        part.append((custom_id, request))
        size_bytes += own_bytes
    if part:
        yield part


def submission(rows: Sequence[tuple[str, Request]]) -> dict[str, Any]:
    """Return the body of a submission; the server reads what stands before ``requests`` first."""
    body = rows[0][1].body
    head: dict[str, Any] = {"endpoint": ENDPOINT, "model": body["model"]}
    if body.get("provider"):
        head["provider"] = body["provider"]
    return {
        **head,
        "completion_window": "24h",
        "requests": [request_of(custom_id, request) for custom_id, request in rows],
    }


class BatchTold(NamedTuple):
    """What OpenRouter tells of a batch.

    Attributes:
        remote: Its id.
        status: In OpenRouter's words.
        model: Of all its requests.
        endpoint: Of all its requests.
        total: How many requests it has; None is not told. So the other counts.
        completed: How many are answered.
        failed: How many failed.
        created_s: When it was submitted; 0 is not told.
        cost: What the whole came to.
        error: What went wrong, in one line; empty when nothing did.
        results: By custom id, the first of each; None as long as there are none.
        doubled: The custom ids that several results have, of which nobody knows whose they are.
    """

    remote: str
    status: str
    model: str
    endpoint: str
    total: int | None
    completed: int | None
    failed: int | None
    created_s: float
    cost: Cost
    error: str
    results: Mapping[str, Mapping[str, Any]] | None
    doubled: Collection[str] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.status in ENDED


def told_by(reply: Any) -> BatchTold:
    """Return what a reply tells of a batch; its numbers with a point are Decimal.

    Raises:
        MalformedReplyError: It is none.
    """
    fields = as_mapping(reply)
    remote, status = fields.get("id"), fields.get("status")
    if not (isinstance(remote, str) and remote.replace("-", "_").isidentifier() and isinstance(status, str)):
        raise MalformedReplyError("no batch")
    counts, created = as_mapping(fields.get("request_counts")), fields.get("created_at")
    usage = fields.get("usage")
    results, doubled = _results(fields.get("results"))
    return BatchTold(
        remote=remote,
        status=one_line(status, 40),
        model=str(fields.get("model")),
        endpoint=str(fields.get("endpoint")),
        total=read_count(counts.get("total")),
        completed=read_count(counts.get("completed")),
        failed=read_count(counts.get("failed")),
        created_s=float(read_number(created) or 0),
        cost=cost_reported(usage) if isinstance(usage, Mapping) else UNKNOWN_COST,
        error=error_text(fields.get("error")),
        results=results,
        doubled=doubled,
    )


def error_text(error: Any) -> str:
    """Return what an error says, in one line without secrets; empty for none."""
    said = as_mapping(error).get("message", error)
    return one_line(redacted_text(str(said)), _WIDTH) if said else ""


def _results(listed: Any) -> tuple[dict[str, Mapping[str, Any]] | None, set[str]]:
    if not isinstance(listed, list):
        return None, set()
    found: dict[str, Mapping[str, Any]] = {}
    doubled: set[str] = set()
    for result in map(as_mapping, listed):
        custom_id = result.get("custom_id")
        if isinstance(custom_id, str) and found.setdefault(custom_id, result) is not result:
            doubled.add(custom_id)
    return found, doubled


def answer_of(result: Mapping[str, Any], secret: Secret, clock: Callable[[], float]) -> Answer | str:
    """Return the answer of a row's result, or why there is none.

    Its cost is unknown unless the row itself names it, which chat completions of batches don't.
    """
    response = as_mapping(result.get("response"))
    body = response.get("body")
    error = result.get("error") or as_mapping(body).get("error")
    if response.get("status_code") != _HTTP_OK or not isinstance(body, Mapping):
        return error_text(error) or "OpenRouter gave no reason"
    reader = ReplyReader(clock=clock)
    reader.restart(secret)
    try:
        reader.read_body(json.dumps(body, default=float).encode("utf-8", "surrogatepass"))
    except (MalformedReplyError, TypeError, ValueError, RecursionError) as exc:
        return f"a reply that is no completion ({exc})"
    usage = body.get("usage")
    own = cost_reported(usage) if isinstance(usage, Mapping) else UNKNOWN_COST
    return reader.answer()._replace(cost=own, elapsed_s=0.0)


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Return shares of a whole number in proportion to weights: their sum is it, to the last digit.

    What rounding leaves goes to those that lost most by it (largest remainder), of equal ones to the first.
    Where nothing has a weight all have the same.

    >>> apportion(10, [1, 1, 1]), apportion(7, [0, 0]), apportion(3, [])
    ([4, 3, 3], [4, 3], [])
    """
    if not sum(weights):
        weights = [1] * len(weights)
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    lost = [total * weight % whole for weight in weights]
    dearest = sorted(range(len(weights)), key=lambda at: -lost[at])
    for at in dearest[: total - sum(shares)]:
        shares[at] += 1
    return shares
