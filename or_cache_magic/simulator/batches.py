"""The Batch API: many requests in one call, answered in time and at half the price.

Shapes are those of OpenRouter's API reference and of its SDK (``components/batch*.py``). How far a batch is
follows from its plan and the clock; it is answered when somebody first looks at it after its end.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

from or_cache_magic.simulator.behaviour import PLAIN, Refusal, error_object
from or_cache_magic.simulator.billing import ZERO
from or_cache_magic.simulator.completions import complete
from or_cache_magic.simulator.replies import dumps, whole
from or_cache_magic.simulator.routing import Route, route
from or_cache_magic.simulator.state import Generation
from or_cache_magic.simulator.validation import body_problem, not_batched
from or_cache_magic.simulator.world import Reply, World, authorize, error_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from or_cache_magic.simulator.replies import Completion
    from or_cache_magic.simulator.state import Received

_ENDPOINTS: Final = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings")
_BEFORE_REQUESTS: Final = ("endpoint", "model", "callback_url")
_MOST_REQUESTS: Final = 5_000
_MOST_BYTES: Final = 200_000_000
_LONGEST_PAGE: Final = 100
_WINDOW_S: Final = 86_400
_KEPT_S: Final = 30 * 86_400
_HALF: Final = Decimal("0.5")
_COSTS: Final = ("cost", "cost_details", "is_byok")
_ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How a batch goes; see `Simulator.script_batch`.

    Attributes:
        ending: The status that it ends with.
        answered: How many of its requests are answered before an end that isn't ``completed``; None is all.
        takes_s: How long it takes, by the simulator's clock; None is what the simulator was made with.
        error: What ``error.message`` says of one that fails.
        lost: Whether the connection breaks before the answer to its submission is whole.
        unpaid: How many times its results are withheld, with 402, until credits are there.
        alter: Is given the object that is told of it, and returns what is told in its place.
    """

    ending: Literal["completed", "failed", "expired", "cancelled"] = "completed"
    answered: int | None = None
    takes_s: float | None = None
    error: str = "The provider failed to run the batch"
    lost: bool = False
    unpaid: int = 0
    alter: Callable[[dict[str, Any]], Any] | None = None


@dataclass(slots=True)
class Batch:
    """One batch, and what came of it once somebody has looked."""

    id: str
    api_key: str
    created_s: float
    takes_s: float
    plan: BatchPlan
    row: Received
    problem: str
    provider: str | None
    results: list[dict[str, Any]] | None = None
    usage: dict[str, Any] | None = None
    unpaid: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What was submitted."""
        return list(self.row.body["requests"])

    def status(self, now_s: float) -> str:
        """How far it is: a tenth of its time is validation, and the last tenth finalizing."""
        gone_s = now_s - self.created_s
        if gone_s < self.takes_s / 10:
            return "validating"
        if self.problem:
            return "failed"
        if gone_s < self.takes_s * 0.9:
            return "in_progress"
        return "finalizing" if gone_s < self.takes_s else self.plan.ending


def submit_batch(world: World, row: Received, size_bytes: int) -> Reply:
    """The reply to a submission: 202, whatever is wrong with the requests, once the form is right."""
    api_key = authorize(world, row.headers)
    refusal = api_key if isinstance(api_key, Refusal) else _form_problem(row.body, size_bytes)
    if refusal is None and world.credits_usd is not None:
        left_usd = world.credits_usd - world.generations.sums()[0]
        if left_usd <= 0:
            message = "Insufficient credits. Add more using https://openrouter.ai/settings/credits"
            refusal = Refusal(402, error_object(402, message))
    if refusal is not None or isinstance(api_key, Refusal):
        return error_reply(refusal or Refusal(401, {}))
    plan = world.batches.take_plan() or BatchPlan()
    number, now_s = world.batches.next_number(), world.now()
    way = _way(row.body)
    batch = Batch(
        id=f"batch_{hashlib.sha256(f'batch {number}'.encode()).hexdigest()[:24]}",
        api_key=str(api_key),
        created_s=now_s,
        takes_s=world.batch_s if plan.takes_s is None else plan.takes_s,
        plan=plan,
        row=row,
        problem=_problem(row.body, way),
        provider=way.endpoint.provider if isinstance(way, Route) else None,
        unpaid=plan.unpaid,
    )
    world.batches.add(batch)
    told = _told(world, batch, now_s) | {"status": "validating", "results": None, "error": None}
    return Reply(202, body=dumps(_altered(batch, told)), fault="reset" if plan.lost else "")


def answer_batches(world: World, row: Received) -> Reply:
    """The reply to a GET or DELETE of batches."""
    api_key = authorize(world, row.headers)
    if isinstance(api_key, Refusal):
        return error_reply(api_key)
    batch_id = row.path.partition("/batches")[2].strip("/")
    if not batch_id:
        return _page(world, api_key, row.query) if row.method == "GET" else _refused(404, "Not found")
    batch = world.batches.find(batch_id, api_key)
    now_s = world.now()
    if batch is None or now_s > batch.created_s + batch.takes_s + _KEPT_S:
        return _refused(404, f"Batch {batch_id} not found")
    return _delete(world, batch, now_s) if row.method == "DELETE" else _one(world, batch, now_s)


def _form_problem(body: Any, size_bytes: int) -> Refusal | None:
    """What the server refuses as it reads: the form, and how much it is."""
    if size_bytes > _MOST_BYTES:
        return Refusal(413, error_object(413, "Batch request body exceeds 200 MB"))
    if not isinstance(body, dict):
        return Refusal(400, error_object(400, "Invalid JSON in request body"))
    names = list(body)
    message = ""
    if not (isinstance(body.get("endpoint"), str) and isinstance(body.get("model"), str)):
        message = "endpoint and model are required, as strings"
    elif not isinstance(body.get("requests"), list) or not body["requests"]:
        message = "requests must be an array that is not empty"
    elif any(name in body and names.index(name) > names.index("requests") for name in _BEFORE_REQUESTS):
        message = "endpoint, model and callback_url must appear before requests"
    elif body["endpoint"] not in _ENDPOINTS:
        message = f"endpoint must be one of {', '.join(_ENDPOINTS)}"
    elif len(body["requests"]) > _MOST_REQUESTS:
        message = f"A batch may hold at most {_MOST_REQUESTS} requests"
    elif body.get("completion_window", "24h") != "24h":
        message = "completion_window must be 24h"
    elif (body.get("provider") or {}).keys() - {"only", "allow_fallbacks"}:
        message = "provider: only `only` and `allow_fallbacks` are supported"
    return Refusal(400, error_object(400, message)) if message else None


def _way(body: Mapping[str, Any]) -> Route | Refusal:
    bare = {"model": body["model"], "messages": [], "provider": body.get("provider")}
    return route(bare, PLAIN, None, 0)


def _problem(body: Mapping[str, Any], way: Route | Refusal) -> str:
    """What validation finds in the requests, after the 202; empty when nothing."""
    if isinstance(way, Refusal):
        return str(way.error["message"])
    if body["endpoint"] != _ENDPOINTS[0]:
        return f"The simulator runs no batches of {body['endpoint']}"
    seen: set[str] = set()
    for at, request in enumerate(body["requests"]):
        if not isinstance(request, dict) or not isinstance(request.get("body"), dict):
            return f"requests[{at}]: expected a custom_id and a body"
        custom_id, asked = request.get("custom_id"), request["body"]
        if not isinstance(custom_id, str) or custom_id in seen:
            return f"requests[{at}]: custom_id must be a string of its own"
        seen.add(custom_id)
        if asked.get("model", body["model"]) != body["model"]:
            return f"requests[{at}]: model must be the batch's"
        if problem := body_problem(asked) or not_batched(asked):
            return f"requests[{at}]: {problem}"
    forms = {repr(request["body"].get("response_format")) for request in body["requests"]}
    if way.endpoint.provider.startswith("Google") and len(forms) > 1:
        return "All requests of a batch on Google must have the same response_format"
    return ""


def _one(world: World, batch: Batch, now_s: float) -> Reply:
    told = _told(world, batch, now_s)
    with batch.lock:
        if batch.results is not None and batch.unpaid:
            batch.unpaid -= 1
            error = {"code": 402, "message": "Add credits to unlock the results of this batch"}
            return Reply(402, body=dumps(told | {"results": None, "error": error}))
    return Reply(body=dumps(_altered(batch, told | {"results": batch.results})))


def _altered(batch: Batch, told: dict[str, Any]) -> Any:
    return told if batch.plan.alter is None else batch.plan.alter(told)


def _page(world: World, api_key: str, query: Mapping[str, str]) -> Reply:
    """The newest first, without their results."""
    try:
        limit = min(max(1, int(query.get("limit", "20"))), _LONGEST_PAGE)
    except ValueError:
        return _refused(400, "limit must be an integer")
    now_s = world.now()
    mine = [batch for batch in world.batches.newest_first() if batch.api_key == api_key]
    if "status" in query:
        mine = [batch for batch in mine if batch.status(now_s) == query["status"]]
    ids = [batch.id for batch in mine]
    after = query.get("after")
    if after is not None and after not in ids:
        return _refused(400, f"after: no batch {after}")
    start = 0 if after is None else ids.index(after) + 1
    page = [_told(world, batch, now_s) for batch in mine[start : start + limit]]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return Reply(body=dumps({"object": "list", "data": page, "has_more": start + limit < len(mine)} | ends))


def _delete(world: World, batch: Batch, now_s: float) -> Reply:
    if batch.status(now_s) not in _ENDED:
        return _refused(409, "Only a batch that has ended can be deleted")
    world.batches.remove(batch.id)
    deletion: dict[str, Any] = {"openrouter": "deleted"}
    if batch.provider is not None:
        deletion["upstream"] = {"provider": batch.provider, "status": "deleted"}
    return Reply(body=dumps({"id": batch.id, "object": "batch", "deletion": deletion}))


def _refused(status: int, message: str) -> Reply:
    return error_reply(Refusal(status, error_object(status, message)))


def _told(world: World, batch: Batch, now_s: float) -> dict[str, Any]:
    """What is told of a batch, without its results."""
    status, total = batch.status(now_s), len(batch.requests)
    ended = status in _ENDED
    if ended:
        _run(world, batch)
    results = batch.results or []
    failed = sum(result["error"] is not None for result in results)
    done = len(results) - failed
    if status == "in_progress":
        done = int(total * (now_s - batch.created_s - batch.takes_s / 10) / (batch.takes_s * 0.8))
    elif status == "finalizing":
        done = total
    error = batch.problem or (batch.plan.error if status == "failed" else "")
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.row.body["endpoint"],
        "model": batch.row.body["model"],
        "provider": None if status == "validating" else batch.provider,
        "status": status,
        "completion_window": "24h",
        "created_at": int(batch.created_s),
        "expires_at": int(batch.created_s) + _WINDOW_S,
        "finalized_at": int(batch.created_s + batch.takes_s) if ended else None,
        "request_counts": {"total": total, "completed": done, "failed": failed},
        "error": {"message": error} if error else None,
        "usage": batch.usage,
        "results": None,
    }


def _run(world: World, batch: Batch) -> None:
    """Answer the requests, once; what is not answered in time has no result."""
    with batch.lock:
        if batch.results is not None or batch.problem:
            return
        plan, asked = batch.plan, batch.requests
        last = len(asked) if plan.ending == "completed" or plan.answered is None else plan.answered
        results, made = [], []
        for at, request in enumerate(asked[:last]):
            row = replace(batch.row, number=0, body={**request["body"], "stream": False}, headers={})
            completion = complete(world, row, batch.api_key)
            result = {"id": f"{batch.id}_{at}", "custom_id": request["custom_id"]}
            if isinstance(completion, Refusal):
                results.append(result | {"response": None, "error": _row_error(completion)})
                continue
            made.append(completion)
            body = whole(completion)
            body["usage"] = {name: told for name, told in body["usage"].items() if name not in _COSTS}
            response = {"status_code": 200, "request_id": completion.id, "body": body}
            results.append(result | {"response": response, "error": None})
        batch.results, batch.usage = results, _usage(made) if made else None
        if batch.usage is not None:
            _charge(world, batch, batch.usage)


def _row_error(refusal: Refusal) -> dict[str, Any]:
    kind = (refusal.error.get("metadata") or {}).get("error_type", "invalid_request")
    message = str(refusal.error["message"])
    return {"message": message, "param": None, "type": kind, "error_type": kind}


def _usage(made: list[Completion]) -> dict[str, Any]:
    """The usage of a whole batch: its tokens, and half of what they cost otherwise."""
    bills = [completion.bill for completion in made if completion.bill is not None]
    prompt, completion = (
        sum(bill.tokens.prompt for bill in bills),
        sum(bill.tokens.completion for bill in bills),
    )
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "cost": sum((bill.cost_usd for bill in bills), ZERO) * _HALF,
        "is_byok": any(bill.byok for bill in bills),
        "prompt_tokens_details": {"cached_tokens": sum(bill.tokens.cached for bill in bills)},
        "completion_tokens_details": {"reasoning_tokens": sum(bill.tokens.reasoning for bill in bills)},
    }


def _charge(world: World, batch: Batch, usage: Mapping[str, Any]) -> None:
    at_s = batch.created_s + batch.takes_s
    data = {"id": batch.id, "total_cost": usage["cost"], "model": batch.row.body["model"]}
    world.generations.add(Generation(batch.id, batch.api_key, at_s, usage["cost"], ZERO, data))
    world.journal.update(batch.row, cost_usd=usage["cost"])
