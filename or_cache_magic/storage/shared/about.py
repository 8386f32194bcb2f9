"""What a shared server's index says of an entry, and which entries a purge means by it."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.chat import asked_model, last_prompt, system_prompt
from or_cache_magic.core.key import system_digest
from or_cache_magic.core.records import EntryFilter
from or_cache_magic.storage.codec import HEAD_CHARS

if TYPE_CHECKING:
    from or_cache_magic.core.records import Entry, Request
    from or_cache_magic.storage.shared.secrecy import Secrecy

__all__ = ["about", "means"]

_JUDGED: Final[dict[str, Any]] = {
    name: EntryFilter._field_defaults[name]
    for name in (
        "keys",
        "model",
        "system",
        "tag",
        "prefix",
        "created_after_s",
        "created_before_s",
        "expired_at_s",
    )
}
"""The conditions that an index can judge."""


def about(entry: Entry, request: Request, secrecy: Secrecy) -> bytes:
    """What the index says of an entry, as JSON.

    The prompt's beginning is in it only without a secret: with one, no prompt reaches the server.
    """
    system = system_prompt(request.body)
    said = {
        "created": entry.created_s,
        "expires": entry.expires_s,
        "models": [asked_model(request.body), entry.answer.model],
        "prompt": None if secrecy.secret else last_prompt(request.body)[:HEAD_CHARS],
        "system": None if system is None else secrecy.system(system_digest(system)),
        "tags": entry.tags,
    }
    return json.dumps(said, separators=(",", ":")).encode()


def means(name: str, said: bytes, wanted: EntryFilter, secrecy: Secrecy) -> bool:
    """Whether a purge by `wanted` means the entry of which the index says this; every condition must hold.

    What the index can't tell is left alone: a text within, a prefix longer than what it keeps of a prompt,
    and with a secret every prefix, of a prompt or of a key.
    """
    if wanted._replace(**_JUDGED) != EntryFilter():
        return False  # another condition, which only a disk can judge
    try:
        facts = json.loads(said)
        return _named(name, wanted, secrecy) and _holds(facts, wanted, secrecy)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False  # not ours; a purge of all takes it too


def _named(name: str, wanted: EntryFilter, secrecy: Secrecy) -> bool:
    keys = [key.strip().lower() for key in wanted.keys]
    if secrecy.secret:
        return not keys or name in map(secrecy.name, keys)
    return not keys or name.startswith(tuple(keys))


def _holds(facts: dict[str, Any], wanted: EntryFilter, secrecy: Secrecy) -> bool:
    created_s, expires_s = facts["created"], facts["expires"]
    after_s, before_s, now_s = wanted.created_after_s, wanted.created_before_s, wanted.expired_at_s
    return (
        (not wanted.model or any(_matches(model, wanted.model) for model in facts["models"]))
        and (wanted.system is None or facts["system"] == secrecy.system(system_digest(wanted.system)))
        and (not wanted.tag or wanted.tag in facts["tags"])
        and (not wanted.prefix or (facts["prompt"] or "").startswith(wanted.prefix))
        and (after_s is None or created_s >= after_s)
        and (before_s is None or created_s < before_s)
        and (now_s is None or (expires_s is not None and expires_s <= now_s))
    )


def _matches(model: str | None, pattern: str) -> bool:
    # In fnmatch a bracket opens a set; in a model's name it is a character.
    return model is not None and fnmatchcase(model, pattern.replace("[", "[[]"))
