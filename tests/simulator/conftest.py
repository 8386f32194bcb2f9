"""A simulator, a clock that tests set, a bare HTTP client, and the API's own schema."""

from __future__ import annotations

import gzip
import http.client
import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from or_cache_magic.simulator import Simulator

SPEC = Path(__file__).parents[3] / "shared/reference/openrouter-openapi.json.gz"


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class Got:
    """A reply off the wire; a body that the connection cut short is what came of it."""

    status: int
    headers: dict[str, str]
    raw: bytes
    cut: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.raw, parse_float=Decimal)

    @property
    def events(self) -> list[str]:
        """Every event and comment, without the blank lines between."""
        return [part for part in self.raw.decode().split("\n\n") if part]

    @property
    def chunks(self) -> list[Any]:
        data = [event[6:] for event in self.events if event.startswith("data: {")]
        return [json.loads(one, parse_float=Decimal) for one in data]

    @property
    def text(self) -> str:
        if not self.raw.startswith((b"data", b":")):
            return self.json["choices"][0]["message"]["content"]
        deltas = [choice["delta"] for chunk in self.chunks for choice in chunk["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def usage(self) -> Any:
        if not self.raw.startswith((b"data", b":")):
            return self.json["usage"]
        return next(chunk["usage"] for chunk in self.chunks if "usage" in chunk)


class Wire:
    """`http.client` against a simulator: nothing between a test and the bytes."""

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim

    def connection(self) -> http.client.HTTPConnection:
        host, port = self.sim.base_url.split("/")[2].split(":")
        return http.client.HTTPConnection(host, int(port), timeout=10)

    def send(self, method: str, path: str, data: bytes | None = None, headers: Any = None) -> Got:
        connection = self.connection()
        try:
            connection.request(method, f"/api/v1{path}", data, headers or {})
            reply = connection.getresponse()
            named = {name.lower(): value for name, value in reply.getheaders()}
            try:
                return Got(reply.status, named, reply.read())
            except http.client.IncompleteRead as exc:
                return Got(reply.status, named, exc.partial, cut=True)
            except ConnectionError:
                return Got(reply.status, named, b"", cut=True)
        finally:
            connection.close()

    def get(self, path: str, key: str | None = None) -> Got:
        return self.send("GET", path, headers={"Authorization": f"Bearer {key or self.sim.api_key}"})

    def ask(
        self, prompt: str = "What is caching?", *, key: str | None = None, headers: Any = None, **body: Any
    ) -> Got:
        """POST a chat completion; ``body`` overrides and adds fields."""
        fields = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]} | body
        named = {"Authorization": f"Bearer {key or self.sim.api_key}"} | (headers or {})
        return self.send("POST", "/chat/completions", json.dumps(fields).encode(), named)


@pytest.fixture
def clock() -> Clock:
    return Clock(1_767_268_800.0)


@pytest.fixture
def sim(clock: Clock):
    with Simulator(now=clock) as running:
        yield running


@pytest.fixture
def wire(sim: Simulator) -> Wire:
    return Wire(sim)


@pytest.fixture
def wire_to():
    """A bare client for a simulator with conditions of its own."""
    return Wire


@pytest.fixture(scope="session")
def check():
    """Asserts that a value fits a schema of OpenRouter's API reference."""
    if not SPEC.exists():
        pytest.skip("the API's schema is not at hand")
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    spec = json.loads(gzip.decompress(SPEC.read_bytes()))
    registry = Registry().with_resource("urn:or", Resource(contents=spec, specification=DRAFT202012))
    validators = {}

    def validate(pointer: str, value: Any) -> None:
        place = pointer if pointer.startswith("/") else f"/components/schemas/{pointer}"
        if place not in validators:
            validators[place] = Draft202012Validator({"$ref": f"urn:or#{place}"}, registry=registry)
        validators[place].validate(value)

    return validate
