"""`Completion`: an answer as a value. It is its text, and knows where it came from."""

from __future__ import annotations

import copy
import os
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.records import Outcome, Request, Usage
from or_cache_magic.errors import FormatError, OptionError, printable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Self

    from or_cache_magic.core.returned import Citation
    from or_cache_magic.core.schema import Schema
    from or_cache_magic.display.media import Audio, Image

_NOT_YET: Final = ...
"""In the place of parsed data, which may be None: a value that is itself when it is pickled or copied."""


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
        data: Any = _NOT_YET,
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
        """The model's reasoning as text, or its summary; None when it gave none that can be read."""
        from or_cache_magic.core.returned import reasoning_of

        return reasoning_of(self._message)

    @property
    def reasoning_details(self) -> list[Any]:
        """The reasoning as the provider told it, signed or encrypted parts too; empty when it told none."""
        return self._listed("reasoning_details")

    @property
    def tool_calls(self) -> list[Any]:
        """The tool calls that the model asks for; empty when it asks for none."""
        return self._listed("tool_calls")

    @property
    def refusal(self) -> str | None:
        """Why the model did not answer, in its words; None when it did."""
        found = self._message.get("refusal")
        return found if isinstance(found, str) and found else None

    @property
    def annotations(self) -> list[Any]:
        """What the reply notes on the answer, as it came: citations, files that were read for it."""
        return self._listed("annotations")

    @property
    def citations(self) -> list[Citation]:
        """The pages that the answer cites, each as ``(url, title, span)``; empty when it cites none."""
        from or_cache_magic.core.returned import citations_of

        return citations_of(self.outcome.answer)

    @property
    def images(self) -> list[Image]:
        """The images that came with the answer, as bytes which show themselves; not those in `image_urls`."""
        from or_cache_magic.core.returned import decoded, image_urls, is_data
        from or_cache_magic.display.media import Image

        found = [decoded(url.partition(",")[2]) for url in image_urls(self._message) if is_data(url)]
        return [Image(raw) for raw in found if raw]

    @property
    def image_urls(self) -> list[str]:
        """The links to images that the answer has in the place of images. Nothing fetches them."""
        from or_cache_magic.core.returned import image_urls, is_data

        return [url for url in image_urls(self._message) if not is_data(url)]

    @property
    def audio(self) -> Audio | None:
        """The answer as sound: bytes that play, with their `format` and `transcript`; None without one."""
        from or_cache_magic.core.returned import sound_of
        from or_cache_magic.display.media import Audio

        raw = sound_of(self._message, self.request.body)
        return Audio.of(raw, self._message["audio"].get("transcript")) if raw else None

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the images and the audio into a folder, which is made, and return the files' paths.

        They are called by the entry's key and their number: saved again, an answer is the same files. A file
        of such a name with something else in it stays as it is, and the name gets more to it.

        Raises:
            OptionError: It is no path.
            OSError: A file can't be written.
        """
        from pathlib import Path

        media: list[Image | Audio] = [*self.images]
        media += [sound] if (sound := self.audio) is not None else []
        if not isinstance(folder, (str, os.PathLike)):
            raise OptionError(
                f"a {type(folder).__name__} is no folder", "give a path: answer.save('pictures')"
            )
        place = Path(folder).expanduser()
        place.mkdir(parents=True, exist_ok=True)
        return [_written(place / f"{self.key[:16]}-{at}", one) for at, one in enumerate(media)]

    @property
    def data(self) -> Any:
        """The answer parsed: with a schema its value, or instance, which is checked as it is read here.

        Without one it is what ``-f json`` and ``-f df`` made of it, or what the text is as JSON, bare or in a
        fence; None where it is none.

        Raises:
            FormatError: It does not fit its schema, or its class. It is kept, and is still this text.
        """
        if self._data is _NOT_YET and self._schema is not None:
            self._data = self._value_of(self._schema)
        if self._data is _NOT_YET:
            from or_cache_magic.core.blocks import parse_json

            try:
                self._data = parse_json(self)
            except ValueError:
                return None
        return self._data

    def _value_of(self, schema: Schema) -> Any:
        stored, why, hollow = self.outcome.stored, None, None
        if not stored:  # what is was checked before
            from or_cache_magic.core.policy import why_not_stored, why_unfit

            why = why_unfit(self.request, self.outcome.answer, schema)
            hollow = None if why else why_not_stored(self.request, self.outcome.answer)
        if why is None:
            try:
                return schema.value(self)
            except ValueError as exc:
                why = f"{hollow}, and fits no schema" if hollow else schema.misfit(exc)
        n, bypass = self.outcome.repair, self.outcome.kind == "bypass"
        kept = "it is kept, and running again is free" if stored else "it is paid for, and not stored"
        if n and not stored and not bypass:
            kept = f"--repair {n} is used up: it is paid for and kept, and running again asks nothing"
        once = "asks once more" if n else "asks again"
        place = "the text is still there" if bypass else f"%openrouter_entries {self.key[:10]} shows it"
        more = f"--repair {n + 1} (repair={n + 1}) {once} and says what is wrong, --refresh asks again"
        raise FormatError(f"{why} ({kept})", f"{'run it again' if hollow else more}; {place}")

    def attach(self, data: Any) -> None:
        """Set what `data` returns: the answer as the caller parsed it."""
        self._data = data

    def reply(self, prompt: str | Sequence[Mapping[str, Any]], **options: Any) -> Completion:
        """Return the answer to the next turn of this conversation, by the cache that this one came from.

        The same as ``ask(prompt, reply_to=answer, **options)``.

        Raises:
            OptionError: This is a copy, or was pickled: it knows no cache; or `options` say what to reply to.
            OrCacheError: See `CompletionCache.ask`.
        """
        if self._ask is None:
            raise OptionError(
                "this answer was pickled or copied, and knows no cache to ask by (nothing was sent)",
                "name one: or_cache_magic.ask(prompt, reply_to=answer)",
            )
        if "reply_to" in options:
            raise OptionError(
                "a reply goes on from its own answer, and takes no reply_to (nothing was sent)",
                "write answer.reply(prompt), or or_cache_magic.ask(prompt, reply_to=answer)",
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

    def _listed(self, name: str) -> list[Any]:
        found = self._message.get(name)
        return copy.deepcopy(list(found)) if isinstance(found, (list, tuple)) else []

    @property
    def _parts(self) -> list[dict[str, Any]]:
        """What is shown where there is no text: the bundles of an image, a refusal, tool calls."""
        from or_cache_magic.display.parts import parts_of

        return [] if self else parts_of(self.outcome.answer, self.request.body)

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


def _written(stem: Path, raw: Image | Audio) -> Path:
    """Write a file, unless it is there, and return its path: where another is, with a digest in its name."""
    from hashlib import sha256

    for name in (stem.name, f"{stem.name}-{sha256(raw).hexdigest()[:16]}"):
        path = stem.with_name(f"{name}.{raw.extension}")
        try:
            with path.open("xb") as file:
                file.write(raw)
        except FileExistsError:
            if path.is_symlink() or not path.is_file() or path.read_bytes() != raw:
                continue
        return path
    raise FileExistsError(f"{path} is something else; nothing was written over it")
