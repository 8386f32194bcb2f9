"""The body that goes on the wire, and how the cache may be used for it."""

from __future__ import annotations

import pytest

from or_cache_magic.cache.request import chat_body, policy_for
from or_cache_magic.core.policy import Policy
from or_cache_magic.core.settings import Settings
from or_cache_magic.errors import OptionError, RequestError

SETTINGS = Settings(model="m/x")
USER = {"role": "user", "content": "Hi"}


def body(prompt="Hi", *, settings=SETTINGS, model=None, system=None, **params):
    return chat_body(prompt, model=model, settings=settings, system=system, params=params)


def test_chat_body__says_its_defaults():
    """Model, message, temperature and limit are sent explicitly, and nothing that nobody wrote."""
    assert body() == {"model": "m/x", "messages": [USER], "temperature": 0.0, "max_tokens": 4096}
    bare = Settings(model="m/x", temperature=None, max_tokens=None)
    assert body(settings=bare) == {"model": "m/x", "messages": [USER]}


def test_chat_body__takes_parameters_over_settings():
    """Any field may be given; None leaves one out, also one that a setting fills in."""
    assert body(temperature=1, provider={"only": ["x"]})["temperature"] == 1
    assert "temperature" not in body(temperature=None)
    assert "max_tokens" not in body(max_tokens=None)
    assert "top_p" not in body(top_p=None)
    assert body(provider={"only": None})["provider"] == {"only": None}


def test_chat_body__knows_both_names_of_the_limit():
    """The user's limit under its newer name replaces ours; both given are both sent."""
    assert "max_tokens" not in body(max_completion_tokens=9)
    assert body(max_completion_tokens=9, max_tokens=5)["max_tokens"] == 5


@pytest.mark.parametrize(
    ("setting", "system", "sent"),
    [(None, None, None), ("Be terse.", None, "Be terse."), ("Be terse.", "Rhyme.", "Rhyme."), ("Be terse.", "", None), (None, "", None)],
)  # fmt: skip
def test_chat_body__puts_the_system_prompt_first(setting, system, sent):
    """The ask's own over the setting; an empty one sends none."""
    messages = body(settings=Settings(model="m/x", system=setting), system=system)["messages"]
    assert messages == ([{"role": "system", "content": sent}] if sent else []) + [USER]


def test_chat_body__takes_a_conversation():
    """Messages are sent as they are, behind the system prompt, and the caller's list is left alone."""
    conversation = [USER, {"role": "assistant", "content": "Ho"}, USER]
    made = body(conversation, system="Be terse.")
    assert made["messages"][1:] == conversation
    assert len(conversation) == 3
    assert body(tuple(conversation))["messages"] == conversation


def test_chat_body__resolves_aliases():
    """In the ask and in the settings."""
    settings = Settings(model="fast", aliases={"fast": "openai/gpt-4o-mini"})
    assert (
        body(settings=settings)["model"]
        == body(settings=settings, model="fast")["model"]
        == "openai/gpt-4o-mini"
    )


@pytest.mark.parametrize(
    "prompt", ["", " \n\t", [], (), None, 7, {"role": "user"}, ["Hi"], [USER, None], b"Hi"]
)
def test_chat_body__refuses_what_is_no_prompt(prompt):
    """Nothing to ask, or nothing that could be sent."""
    with pytest.raises(RequestError, match="nothing was sent"):
        body(prompt)


def test_chat_body__refuses_what_has_another_place():
    """No model."""
    with pytest.raises(OptionError, match="no model"):
        body(settings=Settings())


def test_policy_for__puts_options_over_settings():
    """What the ask says counts, and what it leaves out is as set."""
    settings = Settings(mode="refresh", ttl=60.0, cache_sampled=True, stale_if_error=True, volatile_ttl=5.0)
    assert policy_for(settings) == Policy("refresh", 60.0, (), False, True, True, 5.0)
    chosen = policy_for(settings, mode="normal", sample=0, ttl_s=86400.0, tags=("a",))
    assert chosen == Policy("normal", 86400.0, ("a",), True, True, True, 5.0)


@pytest.mark.parametrize("mode", ["normal", "refresh", "bypass", "offline", None])
def test_policy_for__never_leaves_offline(mode):
    """Offline is a promise that an option can't break."""
    assert policy_for(Settings(mode="offline"), mode=mode).mode == "offline"
