"""`Completion`: an answer as a value. It is its text, and knows where it came from."""

from __future__ import annotations

import copy
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from or_cache_magic.core.records import Outcome, Request, Usage
from or_cache_magic.errors import FormatError, OptionError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

    from or_cache_magic.core.schema import Schema

__all__ = ["Completion"]


class Completion(str):
    """The answer's text, a `str` in every respect, with the facts of the ask as attributes.

    On a hit, `usage` and `cost_usd` are those of the call that bought the answer; `cached` is True
    and `saved_usd` says what this ask did not cost.
    """

    __slots__ = ("_ask", "_data", "_schema", "outcome", "request")

    outcome: Outcome
    request: Request
    _data: Any
    _ask: Callable[..., Completion] | None
    _schema: Schema | None

    def __new__(
        cls,
        outcome: Outcome,
        request: Request,
        data: Any = None,
        ask: Callable[..., Completion] | None = None,
        schema: Schema | None = None,
    ) -> Self:
        """Return the completion of an outcome.

        Args:
            outcome: Of the ask.
            request: What was asked.
            data: The answer as the caller parsed it.
            ask: What `reply` asks with: the method of the cache that it came from. Not pickled or copied.
            schema: What the answer is to be.
        """
        self = super().__new__(cls, outcome.answer.text)
        self.outcome = outcome
        self.request = outcome.request or request
        self._data = data
        self._ask = ask
        self._schema = schema
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Completion, (self.outcome, self.request, self._data, None, self._schema)

    @property
    def model(self) -> str | None:
        """The model that answered: its name at OpenRouter, which may be a dated one."""
        return self.outcome.answer.model

    @property
    def provider(self) -> str | None:
        """The provider that served the model."""
        return self.outcome.answer.provider

    @property
    def cost_usd(self) -> Decimal | None:
        """What the answer cost when it was bought; None is unknown."""
        return self.outcome.answer.cost.usd

    @property
    def paid_usd(self) -> Decimal | None:
        """What this ask was charged: 0 when it was served from the cache; None is unknown."""
        return self.outcome.paid.usd

    @property
    def saved_usd(self) -> Decimal | None:
        """What this ask would have cost and did not; None is unknown."""
        return self.outcome.saved_usd

    @property
    def cached(self) -> bool:
        """Whether it was served from the completion cache."""
        return self.outcome.served

    @property
    def usage(self) -> Usage | None:
        """Tokens of the call that bought the answer; None if unknown."""
        return self.outcome.answer.usage

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped, such as ``stop``, ``length`` or ``tool_calls``."""
        return self.outcome.answer.finish_reason

    @property
    def reasoning(self) -> str | None:
        """The model's reasoning as text; None when it gave none."""
        found = self._message.get("reasoning")
        return found if isinstance(found, str) else None

    @property
    def tool_calls(self) -> list[Any]:
        """The tool calls that the model asks for; empty when it asks for none."""
        return copy.deepcopy(list(self._message.get("tool_calls") or ()))

    @property
    def data(self) -> Any:
        """The answer parsed: with a schema its value, or instance, which is checked as it is read here.

        Without one it is what ``-f json`` and ``-f df`` made of it, or what the text is as JSON, bare or in a
        fence; None where it is none.

        Raises:
            FormatError: It does not fit its schema, or its class. It is kept, and is still this text.
        """
        if self._data is None and self._schema is not None:
            self._data = self._value_of(self._schema)
        if self._data is None:
            from or_cache_magic.core.blocks import parse_json

            try:
                self._data = parse_json(self)
            except ValueError:
                return None
        return self._data

    def _value_of(self, schema: Schema) -> Any:
        from or_cache_magic.cache.structured import misfit  # few answers have a form

        stored = self.outcome.stored
        why = (
            None if stored else misfit(self.request, self.outcome, schema)
        )  # what is stored was checked before
        if why is None:
            try:
                return schema.value(self)
            except ValueError as exc:
                why = schema.misfit(exc)
        kept = "it is kept, and running again is free" if stored else "it is paid for, and not stored"
        raise FormatError(
            f"{why} ({kept})",
            "--repair 1 (repair=1) asks again and says what is wrong, --refresh asks again; the text is kept",
        )

    def attach(self, data: Any) -> None:
        """Set what `data` returns: the answer as the caller parsed it."""
        self._data = data

    def reply(self, prompt: str | Sequence[Mapping[str, Any]], **options: Any) -> Completion:
        """Return the answer to the next turn of this conversation, by the cache that this one came from.

        The same as ``ask(prompt, reply_to=answer, **options)``.

        Raises:
            OptionError: This is a copy, or was pickled: it knows no cache.
            OrCacheError: See `CompletionCache.ask`.
        """
        if self._ask is None:
            raise OptionError(
                "this answer was pickled or copied, and knows no cache to ask by (nothing was sent)",
                "name one: or_cache_magic.ask(prompt, reply_to=answer)",
            )
        return self._ask(prompt, reply_to=self, **options)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation so far: the request's messages and this answer, a copy to go on from."""
        asked = copy.deepcopy(list(self.request.body.get("messages", ())))
        return [*asked, copy.deepcopy(dict(self._message))]

    @property
    def key(self) -> str:
        """The entry's key, 64 hex digits."""
        return self.outcome.key.digest

    @property
    def created(self) -> datetime:
        """When the answer was given, in UTC."""
        return datetime.fromtimestamp(self.outcome.answer.created_s, timezone.utc)

    @property
    def _message(self) -> Any:
        choices = self.outcome.answer.choices
        return choices[0].message if choices else {}

    @property
    def _parts(self) -> list[dict[str, Any]]:
        """What is shown where there is no text: the bundles of an image, a refusal, tool calls."""
        from or_cache_magic.display.parts import parts_of

        return [] if self else parts_of(self._message)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """What Jupyter shows: the answer, rendered, with what could run in it made harmless."""
        from or_cache_magic.display.screen import answer_bundle

        form: Any = "markdown" if self._schema is None else "data"
        return next(iter(self._parts), None) or answer_bundle(str(self), form)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """What a terminal shows: the text on its own; inside a list or a dict, quoted as strings are."""
        # For a kind of str IPython asks its printer of strings, not the bundle above.
        alone = str(self) or "\n".join(part["text/plain"] for part in self._parts)
        printer.text(printable(alone) if len(printer.stack) == 1 else repr(str(self)))
