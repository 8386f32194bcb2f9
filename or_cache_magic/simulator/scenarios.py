"""The named scenarios: one for each way in which OpenRouter was seen or is documented to behave.

`scenario` makes one by name; ``SCENARIOS`` has every name with its description. The case numbers in the
descriptions are those of the simulator's tests.
"""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.simulator.cases import BUILDERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from or_cache_magic.simulator.behaviour import Scenario

SCENARIOS: Final[Mapping[str, str]] = MappingProxyType(
    {name: inspect.getdoc(build) or "" for name, build in BUILDERS.items()}
)
"""Every scenario's name and what it does."""


def scenario(name: str, **options: Any) -> Scenario:
    """The behaviour with this name.

    Args:
        name: One of ``SCENARIOS``.
        **options: What this one takes (``retry_after_s=40``); see its description.

    Raises:
        ValueError: No scenario has this name, or it does not take one of the options.
    """
    builder = BUILDERS.get(name)
    if builder is None:
        raise ValueError(f"no scenario is named {name!r}; there are: {', '.join(sorted(BUILDERS))}")
    unknown = options.keys() - inspect.signature(builder).parameters.keys()
    if unknown:
        raise ValueError(f"scenario {name!r} does not take {', '.join(sorted(unknown))}")
    return builder(**options)


def scenario_from_text(text: str) -> Scenario:
    """The behaviour that a header asks for: ``"rate_limited retry_after_s=2 times=1"``.

    Raises:
        ValueError: As `scenario` does, or an option is not ``name=value``.
    """
    name, *pairs = text.split() or [""]
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"scenario option {pair!r} is not name=value")
        options[key] = _value(value)
    return scenario(name, **options)


def _value(text: str) -> int | float | bool | str:
    if text in {"true", "false"}:
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
