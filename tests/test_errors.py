"""Errors of two clean lines, with their facts as attributes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from decimal import Decimal

import pytest

from or_cache_magic import errors
from or_cache_magic.errors import (
    CacheMissError,
    InputError,
    OrCacheError,
    StoreError,
    StreamBrokenError,
    UpstreamError,
)

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, OrCacheError)]


@pytest.mark.parametrize("kind", ALL)
def test_error__is_two_lines(kind):
    """What happened, and what to do; without a hint only the first."""
    assert str(kind("It broke.", "Mend it.")) == "It broke.\n  Mend it."
    assert str(kind("It broke.")) == "It broke."
    assert kind("It broke.", "Mend it.")._render_traceback_() == [f"{kind.__name__}: It broke.", "  Mend it."]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "copied", [copy.copy, lambda exc: pickle.loads(pickle.dumps(exc))], ids=["copy", "pickle"]
)
def test_error__travels(kind, copied):
    """Between threads and worker processes, with all its facts."""
    exc = kind("It broke.", "Mend it.")
    exc.fact = 7
    again = copied(exc)
    assert type(again) is kind
    assert (str(again), again.__dict__) == (str(exc), exc.__dict__)


def test_error__carries_its_facts():
    """Attributes, not texts to be parsed."""
    exc = StreamBrokenError(
        "x", "y", partial_text="Hel", cost_usd=Decimal("0.1"), generation_id="gen-1", status=200
    )
    assert (exc.partial_text, exc.cost_usd, exc.generation_id, exc.status) == (
        "Hel",
        Decimal("0.1"),
        "gen-1",
        200,
    )
    assert UpstreamError("x").cost_usd is None
    assert CacheMissError("x", key="ab").key == "ab"


def test_error__tree_is_what_callers_catch():
    """One root; wrong input is a ValueError as well; a broken stream is a failure upstream."""
    assert issubclass(InputError, ValueError)
    assert issubclass(StreamBrokenError, UpstreamError)
    assert not issubclass(UpstreamError, StoreError)
    assert {kind.__name__ for kind in ALL} == set(errors.__all__)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "foreign",
    ["\x1b[31mred", "\x1b]52;c;eA==\x07", "\x9b2J", "a\u202eb\u2066", "\ud800", "a\nb\r\nc\x0cd\u2028e"],
)
def test_error__shows_foreign_text_on_two_lines(kind, foreign):
    """Whatever a server or a file brings into an error steers no terminal, and can be encoded."""
    lines = kind(f"said: {foreign}", f"see {foreign}")._render_traceback_()
    assert len(lines) == 2
    for line in lines:
        line.encode()
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", line)
