"""The request that replies to an answer: a conversation goes on from a value, not from hidden history."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.chat import as_list, as_mapping, messages_of
from or_cache_magic.core.options import plain
from or_cache_magic.errors import RequestError

if TYPE_CHECKING:
    from or_cache_magic.cache.completion import Completion
    from or_cache_magic.core.records import Answer, Json

_SENT_BACK: Final = ("content", "refusal", "tool_calls", "images")
"""What of an answer goes back as it came. Of its reasoning and its files: see `assistant_turn`."""

_OF_THE_CONVERSATION: Final = ("tools", "plugins")
_OF_THE_MODEL: Final = ("models", "provider", "preset", "reasoning", "reasoning_effort", "deferred_tools")
"""Fields of the request that a reply has from the one before it: of a model, where the model is the same."""

_SYSTEM_ROLES: Final = ("system", "developer")
_SAY_IT = "reply to one that is whole: run its cell again"


def next_turn(answer: Completion, prompt: Any, model: str, system: str | None) -> list[Json]:
    """Return the messages before the prompt of a reply: the system prompt, then `turns_with` the answer.

    Args:
        answer: What is replied to.
        prompt: The prompt: a text, or messages.
        model: The model that is asked now.
        system: The system prompt in the place of the conversation's; None leaves it.

    Raises:
        RequestError: See `turns_with`.
    """
    body = answer.request.body
    own = split_system(messages_of(body))[0] if system is None else []
    if system:
        own = [{"role": "system", "content": system}]
    return [*sendable(own), *turns_with(body, answer.outcome.answer, prompt, model)]


def turns_with(body: Mapping[str, Json], answer: Answer, prompt: Any, model: str) -> list[Json]:
    """Return the turns of a conversation with its last answer, without the system prompt; a copy.

    Args:
        body: Of the request that was answered.
        answer: Its answer.
        prompt: What comes next: a text, or messages.
        model: The model that is asked now; another one is not shown the first one's reasoning.

    Raises:
        RequestError: The answer broke off or was filtered, nothing of it can be sent back, or it waits for
            results of tools, which the prompt does not have.
    """
    choice = answer.choices[0] if answer.choices else None
    if choice is None or not answer.complete or answer.error is not None:
        raise RequestError("the answer that is replied to broke off (nothing was sent)", _SAY_IT)
    if choice.finish_reason == "content_filter":
        raise RequestError("the answer that is replied to was filtered (nothing was sent)", _SAY_IT)
    turn = assistant_turn(choice.message, same_model=model == body.get("model"))
    if not any(map(turn.get, _SENT_BACK)):
        raise RequestError("the answer that is replied to is empty (nothing was sent)", _SAY_IT)
    if turn.get("tool_calls") and not _is_tool_result(prompt):
        raise RequestError(
            "the answer that is replied to waits for results of tools (nothing was sent)",
            'begin the prompt with them: [{"role": "tool", "tool_call_id": "…", "content": "…"}, …]',
        )
    return sendable([*split_system(messages_of(body))[1], turn])


def sendable(messages: Sequence[Json]) -> list[Json]:
    """Return a copy of messages that may be sent.

    Raises:
        RequestError: A key of an API stands in one of them, or what no text can hold.
    """
    try:
        return [_copy_of(message) for message in messages]
    except ValueError as exc:
        raise RequestError(f"the conversation can't be sent: {exc} (nothing was sent)") from None


def _copy_of(message: Json) -> Json:
    """Return a copy of a message; raises ValueError where it may not be sent."""
    reasoning = as_mapping(message).get("reasoning_details")
    if reasoning is None:
        return plain(message, "messages")
    # Nothing is looked for in it: encrypted, it may look like anything, a key too.
    rest = plain({name: value for name, value in message.items() if name != "reasoning_details"}, "messages")
    return {**rest, "reasoning_details": copy.deepcopy(reasoning)}


def assistant_turn(message: Mapping[str, Json], *, same_model: bool = True) -> dict[str, Json]:
    """Return an answer's message as it is sent back: equal for equal messages, whenever they were bought.

    ``reasoning_details`` go back unchanged, as providers with signed or encrypted reasoning want it, and the
    ``annotations`` of files, so that none is parsed, and paid for, twice. Citations and the plain text of the
    reasoning stay here.

    Args:
        message: As it came, or as it is stored.
        same_model: Whether the model that gave it is asked; no other can read its reasoning.
    """
    turn: dict[str, Json] = {"role": "assistant", "content": None}
    turn.update({name: message[name] for name in _SENT_BACK if message.get(name)})
    transcript = as_mapping(message.get("audio")).get("transcript")
    if turn["content"] is None and isinstance(transcript, str) and transcript:
        turn["content"] = transcript  # the audio's id is good for an hour; its words are for ever
    if same_model and message.get("reasoning_details"):
        turn["reasoning_details"] = message["reasoning_details"]
    notes = as_list(message.get("annotations"))
    files = [note for note in notes if as_mapping(note).get("type") == "file"]
    return {**turn, "annotations": files} if files else turn


def inherited_fields(
    body: Mapping[str, Json], given: Mapping[str, Any], *, same_model: bool
) -> dict[str, Json]:
    """Return the fields, beside messages and model, that a reply has from the request before it.

    Args:
        body: Of the request before it.
        given: The reply's own fields, which go before; None leaves one out.
        same_model: Whether it asks the same model.
    """
    names = _OF_THE_CONVERSATION + (_OF_THE_MODEL if same_model else ())
    if "reasoning" in given or "reasoning_effort" in given:  # two names for one thing
        names = tuple(name for name in names if not name.startswith("reasoning"))
    fields: dict[str, Json] = plain(
        {name: body[name] for name in names if name in body and name not in given}
    )
    return fields


def split_system(messages: Sequence[Json]) -> tuple[list[Json], list[Json]]:
    """Return a conversation's system prompt, the messages that it begins with, and the rest."""
    end = next((at for at, message in enumerate(messages) if _role(message) not in _SYSTEM_ROLES), None)
    end = len(messages) if end is None else end
    return list(messages[:end]), list(messages[end:])


def _is_tool_result(prompt: Any) -> bool:
    return not isinstance(prompt, str) and _role(next(iter(as_list(prompt)), None)) == "tool"


def _role(message: Any) -> Any:
    return as_mapping(message).get("role")
