"""What the tests of other clients share."""

from __future__ import annotations

import time

import pytest


@pytest.fixture
def until():
    """``until(holds)`` waits until ``holds()``."""

    def wait(holds, timeout_s=60.0):
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    return wait


@pytest.fixture
def text_of():
    """``text_of(chunks)`` is what a stream's chunks say together."""
    return lambda chunks: "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
