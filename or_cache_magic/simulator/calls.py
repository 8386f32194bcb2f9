"""Understand a request for a completion: its body, its preset and the scenario that is played for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from or_cache_magic.simulator.behaviour import PLAIN, Refusal, Scenario, error_object
from or_cache_magic.simulator.scenarios import scenario, scenario_from_text
from or_cache_magic.simulator.validation import body_problem
from or_cache_magic.simulator.world import MANAGEMENT_KEY, World

if TYPE_CHECKING:
    from collections.abc import Mapping

    from or_cache_magic.simulator.state import Received


@dataclass(frozen=True, slots=True)
class Call:
    """A request for a completion whose body has been understood.

    Attributes:
        body: The body with its preset applied; ``row.body`` is the one that was sent.
        generation_id: The id of the reply, whatever becomes of it.
    """

    world: World
    row: Received
    api_key: str
    body: dict[str, Any]
    preset: Mapping[str, Any]
    scenario: Scenario
    generation_id: str
    now_s: float

    @property
    def streams(self) -> bool:
        """Whether a stream was asked for."""
        return bool(self.body.get("stream"))

    def header(self, name: str) -> str:
        """A request header by its lower-case name; empty when it was not sent."""
        return self.row.headers.get(name, "")


def understand(world: World, row: Received, api_key: str, generation_id: str) -> Call | Refusal:
    """The call that a request asks for, or the refusal of one that makes no sense."""
    body = row.body
    if not isinstance(body, dict):
        return Refusal(400, error_object(400, "Invalid JSON in request body", "invalid_request"))
    if api_key.startswith(MANAGEMENT_KEY):
        message = "Management keys cannot be used for completions"
        return Refusal(403, error_object(403, message, "permission_denied"))
    slug = str(body.get("model") or "").partition("@preset/")[2] or body.get("preset")
    preset = world.presets.get(str(slug)) if slug else {}
    if preset is None:
        return Refusal(404, error_object(404, f"Preset {slug} not found", "not_found"))
    if preset.get("tools"):
        body = {**body, "tools": [*preset["tools"], *(body.get("tools") or [])]}
    body = {**{k: v for k, v in preset.items() if not k.startswith("cache_") and k != "system"}, **body}
    model = str(body.get("model") or "")
    if "@preset/" in model:
        body["model"] = model.partition("@preset/")[0] or preset.get("model")
    problem = body_problem(body)
    if problem:
        return Refusal(400, error_object(400, problem, "invalid_request"))
    if preset.get("system"):
        body["messages"] = [{"role": "system", "content": preset["system"]}, *body["messages"]]
    if row.headers.get("x-session-id"):
        body = {"session_id": row.headers["x-session-id"]} | body
    try:
        played = _scenario(world, row, body)
    except (TypeError, ValueError) as exc:
        return Refusal(400, error_object(400, str(exc), "invalid_request"))
    return Call(world, row, api_key, body, preset, played, generation_id, world.now())


def _scenario(world: World, row: Received, body: Mapping[str, Any]) -> Scenario:
    """The scenario that is scripted, that a header asks for, or that the model's name says."""
    scripted = world.scripts.take(body)
    if scripted is not None:
        return scripted
    asked = row.headers.get("x-simulator-scenario")
    if asked:
        return scenario_from_text(asked)
    author, _, name = str(body.get("model") or "").partition("/")
    if author != "simulator":
        return PLAIN
    try:
        return scenario(name)
    except ValueError:
        return PLAIN
