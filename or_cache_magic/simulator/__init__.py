"""OpenRouter on loopback, for tests, demos and your own CI: no network, no key, no bill.

::

    from or_cache_magic.simulator import Simulator, scenario

    with Simulator() as sim:
        sim.script(scenario("rate_limited", retry_after_s=1))
        ...  # point any client at sim.base_url, with sim.api_key
        assert sim.completion_count == 2

It stands alone: nothing else of this package is imported, only the standard library.
"""

from __future__ import annotations

from or_cache_magic.simulator.batches import BatchPlan
from or_cache_magic.simulator.behaviour import Interruption, Refusal, Scenario
from or_cache_magic.simulator.scenarios import SCENARIOS, scenario
from or_cache_magic.simulator.simulation import Simulator, serve
from or_cache_magic.simulator.state import Received

__all__ = [
    "SCENARIOS",
    "BatchPlan",
    "Interruption",
    "Received",
    "Refusal",
    "Scenario",
    "Simulator",
    "scenario",
    "serve",
]
