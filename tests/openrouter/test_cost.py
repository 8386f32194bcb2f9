"""What a call cost: exact digits, nothing counted twice, unknown never zero."""

from __future__ import annotations

from decimal import Decimal

import pytest

from or_cache_magic.core.records import FREE, UNKNOWN_COST, Cost
from or_cache_magic.openrouter.failures import cost_of_failure
from or_cache_magic.openrouter.reply import cost_reported

UPSTREAM = {"upstream_inference_cost": Decimal("0.0360795")}


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        (None, None),
        ({}, None),
        ({"cost": None}, None),
        ({"cost": 0}, "0"),
        ({"cost": Decimal("0.0077585"), "cost_details": UPSTREAM}, "0.0077585"),
        ({"cost": Decimal("0.0360795"), "is_byok": False, "cost_details": UPSTREAM}, "0.0360795"),
        ({"cost": Decimal("0.0360795"), "is_byok": "true", "cost_details": UPSTREAM}, "0.0360795"),
        ({"cost": 0, "is_byok": True, "cost_details": UPSTREAM}, "0.0360795"),
        ({"cost": Decimal("0.0018"), "is_byok": True, "cost_details": UPSTREAM}, "0.0378795"),
        ({"cost": 0, "is_byok": True}, None),
        ({"cost": 0, "is_byok": True, "cost_details": "odd"}, None),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": None}}, None),
        ({"is_byok": True, "cost_details": UPSTREAM}, None),
        ({"cost": "odd"}, None),
    ],
    ids=repr,
)
def test_cost_reported__adds_upstream_only_with_the_users_own_key(usage, usd):
    """With the user's own key the provider's bill comes on top; without it, it is already inside."""
    expected = UNKNOWN_COST if usd is None else Cost(Decimal(usd), "reported")
    assert cost_reported(usage) == expected


@pytest.mark.parametrize(
    ("status", "body", "accepted", "cost"),
    [
        (400, {}, False, FREE),
        (402, {"plugins": [{"id": "web"}]}, False, FREE),
        (429, {"plugins": [{"id": "web"}]}, False, FREE),
        (429, {"plugins": [{"id": "web"}]}, True, UNKNOWN_COST),
        (429, {}, True, FREE),
        (502, {}, False, FREE),
        (502, {"plugins": []}, False, FREE),
        (502, {"plugins": [{"id": "web"}]}, False, UNKNOWN_COST),
        (502, {"model": "m/x:online"}, False, UNKNOWN_COST),
        (502, {"tools": [{"type": "function"}]}, False, FREE),
        (502, {"tools": [{"type": "function"}, {"type": "openrouter:web_search"}]}, False, UNKNOWN_COST),
        (502, {"tools": ["odd"]}, False, UNKNOWN_COST),
        (408, {}, False, UNKNOWN_COST),
        (504, {}, False, UNKNOWN_COST),
        (524, {}, False, UNKNOWN_COST),
        (None, {}, False, UNKNOWN_COST),
        (None, {}, True, UNKNOWN_COST),
    ],
    ids=repr,
)
def test_cost_of_failure__is_free_only_where_that_is_known(status, body, accepted, cost):
    """Refusals are free, failures too unless they ordered searches; after a time-out nobody knows."""
    assert cost_of_failure(status, body, accepted=accepted) == cost
