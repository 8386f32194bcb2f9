"""An answer as it arrives: reads replies off the wire, whole or as a stream, and judges if they are whole.

The raw lines are read here, not the client's parsed chunks, for four reasons: amounts of money keep
every digit, a usage block that comes with an error isn't lost, the end marker can be seen, and what
had arrived is still there when the connection breaks.
Facts: OpenRouter's API reference, "Streaming" and "Errors"; the three shapes of the last chunk as
observed on the wire.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any, Final

from or_cache_magic.core.chat import as_list, as_mapping
from or_cache_magic.core.records import FREE, UNKNOWN_COST, Answer, Choice, Cost, Usage
from or_cache_magic.core.secrets import redacted, unfinished
from or_cache_magic.core.units import decimal_usd, read_count
from or_cache_magic.openrouter.failures import reasons_in
from or_cache_magic.openrouter.fragments import (
    extend_logprobs,
    has_odd_index,
    has_output,
    index_of,
    mended,
    merge_delta,
    message_of,
    whole_message,
)
from or_cache_magic.openrouter.wire import (
    Event,
    MalformedReplyError,
    decoded,
    events_of,
    object_in,
    read_json,
    tells_use,
)

_OK: Final = 200
_DONE: Final = "[DONE]"
_MESSAGES: Final = ("delta", "index", "message", "text")
_GOOD_ENDS: Final = ("stop", "tool_calls")
_EVENTS: Final = re.compile(r"(data|event|id|retry):")
_ODD_INDEX: Final = "an index in the reply is none: a piece may be in the wrong place"
_FAILED: Final = {"message": "the provider failed in the middle of its answer"}
_KEPT_APART: Final = frozenset({"id", "object", "created", "model", "provider", "choices", "error"})
"""Of a reply's fields those that an `Answer` has in other places, or that are the same in all."""
_CHARSET: Final = re.compile(r"""(?i)\bcharset\s*=\s*["']?([\w.:-]+)""")
_LONGEST_NAME: Final = 500
_MOST_USD: Final = 10_000
"""No call costs more; the ledger's sums end at a thousand times that."""


def _discard(_text: str) -> None:
    """Discard text that no caller shows."""


def _nothing() -> None:
    """Tell nobody."""


class ReplyReader:
    """Collects one reply. Not thread-safe: one reader belongs to one call.

    Args:
        on_text: Called with each piece of the first choice's text as it arrives.
        clock: Returns UTC epoch seconds.
        on_chunk: Called with each chunk of a stream; see `Callbacks.on_chunk`.
        vectors: Whether it is the reply to a request for vectors, whose choices they then are.
    """

    def __init__(
        self,
        on_text: Callable[[str], None] = _discard,
        *,
        clock: Callable[[], float] = time.time,
        on_chunk: Callable[[Mapping[str, Any]], None] | None = None,
        vectors: bool = False,
    ) -> None:
        self._on_text = on_text
        self._clock = clock
        self._on_chunk = on_chunk
        #: Whether vectors were asked for.
        self.vectors = vectors
        self.restart()

    def restart(self, secret: str = "") -> None:
        """Forget a failed attempt, all of it; no answer to the next one shows the key it is asked with."""
        #: The key that the call is made with.
        self.secret = secret
        #: Whether the request began to be sent, so that the provider may have been paid.
        self.is_sent = False
        self._began = time.perf_counter()
        self._choices: dict[int | str, dict[str, Any]] = {}
        self._usage: Mapping[str, Any] | None = None
        self._proven = False
        self._held = ""
        self._names: dict[str, str] = {}
        self._extra: dict[str, Any] = {}
        self._cache_hit = False
        self._source_id: str | None = None
        self._doubt: str | None = None
        self._body_id: str | None = None
        self._error: Mapping[str, Any] | None = None
        self._charset = ""
        self._ended = self._told_use = self._went_on = False
        self._held_chunks: list[Mapping[str, Any]] = []
        #: Counts what comes that is waited for: pieces of an answer, and proofs that it is whole.
        self.news = 0

    def mark_sent(self) -> None:
        """Note that the request begins to be sent."""
        self.is_sent = True

    @property
    def started(self) -> bool:
        """Whether any part of an answer has arrived, so that asking again would pay twice."""
        return any(has_output(choice["message"]) for choice in self._choices.values())

    @property
    def error(self) -> Mapping[str, Any] | None:
        """The error that the reply carries, at any level or in an answer's place; None without one."""
        if self._error is not None or self._choices:
            return self._error
        reason = next(reasons_in(self._extra), None)  # without a code: nobody knows what it cost
        return None if reason is None else {"message": redacted(mended(reason), self.secret)}

    @property
    def complete(self) -> bool:
        """Whether the answer is proven whole."""
        return self._proven and self._finished

    @property
    def is_over(self) -> bool:
        """Whether nothing more is expected; an answer that went on after its proof needs an end marker."""
        return self._ended or (self.complete and not self._went_on)

    @property
    def generation_id(self) -> str | None:
        """``gen-…``; None as long as the reply has not named it."""
        return self._name("id")

    @property
    def cost(self) -> Cost:
        """What the reply says that the call cost; nothing as long as no request is out."""
        if not self.is_sent:
            return FREE
        # A reply from OpenRouter's response caching reports zeros, which say nothing of its value.
        return cost_reported(None if self._cache_hit else self._usage)

    @property
    def reported(self) -> Cost | None:
        """`cost`, unknown too; None as long as the reply says nothing of its use."""
        return self.cost if self._told_use or "usage" in self._extra else None

    def note(self, doubt: str) -> None:
        """Keep the answer from being stored, and say why."""
        self._doubt = self._doubt or doubt

    def read_headers(self, headers: Mapping[str, str], status: int = 200) -> None:
        """Take the generation's id and what OpenRouter's response caching did.

        Only HTTP 200 says that a whole completion follows; what comes by another status was paid for too.
        """
        self.mark_sent()
        if status != _OK:
            self.note(f"the reply came as HTTP {status}, which is no whole answer's")
        self._names["id"] = headers.get("x-generation-id", "")
        self._cache_hit = headers.get("x-openrouter-cache-status", "").upper() == "HIT"
        self._source_id = _name(headers.get("x-openrouter-cache-source-id"), self.secret)
        declared = _CHARSET.search(headers.get("content-type", ""))
        self._charset = declared[1] if declared else ""

    def read_stream(self, chunks: Iterable[bytes], on_news: Callable[[], object] = _nothing) -> None:
        """Read a stream to its end; what is no chunk of a completion may have been a piece.

        Of what follows the end marker it is only noted that it is there.

        Args:
            chunks: Its bytes.
            on_news: Called when something came that is waited for.

        Raises:
            MalformedReplyError: It brought nothing but events of another form.
        """
        known, odd = self.news, None
        events = events_of(chunks, self._charset)
        for event in events:
            try:
                if self.read_event(event):
                    break
            except MalformedReplyError as exc:
                odd = exc
                self.note("an event of the reply could not be read: a piece of the answer may be missing")
            if self.news != known:
                known = self.news
                on_news()
        on_news()
        if odd is not None and not (self.started or self.is_over or self.error):
            raise odd
        later = ReplyReader()
        with suppress(Exception):  # the answer is whole
            for event in events:
                with suppress(MalformedReplyError):
                    later.read_event(event)
        if later.error or later.started:
            self.note(f"{'an error' if later.error else 'more'} came after the end of the answer")

    def read_event(self, data: str) -> bool:
        """Read the data of one event; True at the end marker.

        Raises:
            MalformedReplyError: It isn't a chunk of a chat completion.
        """
        self.mark_sent()
        kind, flaw = (data.kind, data.flaw) if isinstance(data, Event) else ("", "")
        if flaw:
            self.note(flaw)
        data = data.strip()
        if kind == "error":
            self._read_error(data)
            return False
        if data == _DONE:
            self._proven = self._ended = True
            self._show()
            return True
        if not data:
            return False
        with _well_formed():
            try:
                chunk = _object(data)
            except MalformedReplyError:
                if "\n" not in data:
                    raise
                # Some servers leave out the blank lines between their events.
                return any(map(self.read_event, data.split("\n")))
            self._read_common(chunk, data)
            for choice in chunk.get("choices") or ():
                self._read_choice_delta(choice)
            if isinstance(chunk.get("usage"), dict):
                # Documented as sent once, last, after the finish reason or with it.
                self._proven = self._finished and self._error is None
                self.news += self._proven
            if self._on_chunk is not None:
                self._pass_on(self._on_chunk, chunk)
        self._show()
        return False

    def read_body(self, body: bytes) -> None:
        """Read a whole reply; padding before the JSON (blank lines, comments) is passed over.

        Raises:
            MalformedReplyError: It isn't a chat completion.
        """
        self.mark_sent()
        with _well_formed():
            text, flaw = decoded(body, self._charset)
            text = text.strip()
            while text.startswith(":"):
                text = text.partition("\n")[2].lstrip()
            if _EVENTS.match(text):  # a stream under another media type
                self.read_stream([body])
                return
            if flaw:
                self.note(flaw)
            try:
                reply = _object(text)
            except MalformedReplyError:
                text = object_in(text)  # it was paid for
                if not text:
                    raise
                self.note("something else stands around the reply")
                reply = _object(text)
            if self.vectors:
                from or_cache_magic.openrouter.vectors import vectors_as_choices  # few ask for any

                reply, flaw = vectors_as_choices(reply)
                if flaw:
                    self.note(flaw)
            self._read_common(reply, text)
            choices = [{**choice} for choice in reply.get("choices") or ()]
            choices.sort(key=lambda choice: _order(self._place(choice)))
            for position, choice in enumerate(choices):
                choice["message"] = _first_of(choice, ("message", "delta", "text"))
                self._choices[position] = choice
            self._held = _text_of(choices[0]["message"].get("content")) if choices else ""
        self._proven = True
        self._show()

    def answer(self) -> Answer:
        """Return the answer as far as it has arrived; `Answer.complete` says if it is proven whole."""
        return Answer(
            choices=tuple(self._choice(self._choices[index]) for index in sorted(self._choices, key=_order)),
            model=self._name("model"),
            provider=self._name("provider"),
            usage=None if self._cache_hit else _usage(self._usage),
            cost=self.cost,
            generation_id=self.generation_id,
            # To a millisecond: digits that mean nothing were 2 % of what an entry of 2 KB takes on disk.
            created_s=round(self._clock(), 3),
            elapsed_s=round(time.perf_counter() - self._began, 3),
            complete=self.complete,
            error=self.error,
            response_cache_hit=self._cache_hit,
            source_generation_id=self._source_id,
            extra=mended(self._extra, self.secret) or None,
            prompt_cost_usd=None if self._cache_hit else _prompt_cost_usd(self._usage),
            doubt=self._doubt,
        )

    @property
    def _finished(self) -> bool:
        choices = list(self._choices.values())  # at once, since another thread may ask
        return bool(choices) and all(c.get("finish_reason") for c in choices)

    def _read_common(self, reply: Mapping[str, Any], text: str) -> None:
        error = _error_of(reply)
        if error is not None:
            self._error = redacted(mended(error), self.secret)
            self._told_use = self._told_use or tells_use(text)
        for field in ("id", "model", "provider"):
            name = reply.get(field)
            if name and isinstance(name, str):
                self._names[field] = name
        for field, value in reply.items():
            apart = field in _KEPT_APART or (field == "usage" and self._cache_hit)
            if value is not None and (value or field not in self._extra) and not apart:
                self._extra[field] = value
        if isinstance(reply.get("usage"), dict):
            self._read_usage(read_json(text, exact=True)["usage"])
        doubt = self._doubt_of(reply)
        if doubt:
            self.note(doubt)

    def _read_usage(self, usage: Mapping[str, Any]) -> None:
        """Take a reply's usage; of several, which count up, one that tells less is no later one."""
        before_usd, usd = cost_reported(self._usage).usd, cost_reported(usage).usd
        if before_usd is None or (usd is not None and usd >= before_usd):
            self._usage = usage

    def _doubt_of(self, reply: Mapping[str, Any]) -> str:
        """Return what is wrong with a reply or chunk besides its form; empty when nothing is."""
        choices = reply.get("choices") or ()
        before, name = self._body_id, reply.get("id")
        if name and isinstance(name, str):
            self._body_id = name
            if before not in (None, name):
                return "the reply mixes two generations"
        if len(choices) > 1 and len(set(map(self._place, choices))) < len(choices):
            return "two choices of the reply have the same index"
        return "the reply lists errors" if reply.get("errors") else ""

    def _read_error(self, data: str) -> None:
        """Read an event whose type says that it is an error, whatever its form."""
        try:
            error = _object(data)
        except MalformedReplyError:
            error = {"message": data}
        with _well_formed():
            self._read_common(error if error.get("error") else {**error, "error": error or _FAILED}, data)

    def _read_choice_delta(self, chunk: Mapping[str, Any]) -> None:
        place = self._place(chunk)
        choice = self._choices.setdefault(place, {"message": {}})
        delta = _first_of(chunk, ("delta", "message", "text"))
        if has_odd_index(delta):
            self.note(_ODD_INDEX)
        if chunk.get("delta") is None and chunk.get("message") and has_output(choice["message"]):
            self.note("a whole message came among pieces")
        if has_output(delta):
            self.news += 1
            self._went_on = self._went_on or self.complete
        if _is_of_another_clip(delta, choice["message"]):
            self.note("the audio of the answer is of two clips")
        merge_delta(choice["message"], delta)
        for name, value in chunk.items():
            if name == "logprobs" and value is not None:
                extend_logprobs(choice, value)
            elif name == "finish_reason" and choice.get(name) and choice[name] not in _GOOD_ENDS:
                continue  # what did not finish well is not finished by a later "stop"
            elif name not in _MESSAGES and (value or name not in choice):
                choice[name] = value
        if place == 0:
            self._held += _text_of(delta.get("content"))

    def _pass_on(self, on_chunk: Callable[[Mapping[str, Any]], None], chunk: Mapping[str, Any]) -> None:
        self._held_chunks.append(mended(chunk, self.secret))
        if self.started:  # before, the attempt may yet be made again
            held, self._held_chunks = self._held_chunks, []
            for one in held:
                on_chunk(one)

    def _place(self, choice: Mapping[str, Any]) -> int | str:
        index = index_of(choice)
        if isinstance(index, str):
            self.note(_ODD_INDEX)
        return 0 if index is None else index

    def _show(self) -> None:
        text = self._held
        end = len(text)
        if "\ud800" <= text[-1:] <= "\udbff":  # half a character: the next piece brings the other
            end -= 1
        elif not self._proven and not self._choices.get(0, {}).get("finish_reason"):
            end -= unfinished(text, self.secret)
        text, self._held = text[:end], text[end:]
        if text:
            self._on_text(mended(text, self.secret))

    def _name(self, field: str) -> str | None:
        return _name(self._names.get(field), self.secret)

    def _choice(self, parts: Mapping[str, Any]) -> Choice:
        error = redacted(mended(parts.get("error")), self.secret)
        return Choice(
            message=whole_message(parts["message"], self.secret),
            finish_reason=_reason(parts.get("finish_reason"), self.secret),
            native_finish_reason=_name(parts.get("native_finish_reason"), self.secret),
            error=error if isinstance(error, dict) else None,
            logprobs=mended(parts.get("logprobs"), self.secret),
        )


@contextmanager
def _well_formed() -> Iterator[None]:
    """One seam for all that can be wrong with a reply: nothing in it is trusted to have its type."""
    try:
        yield
    except MalformedReplyError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError, RecursionError) as exc:
        # What Python says of it tells a reader nothing.
        raise MalformedReplyError("not of a chat completion's form") from exc


def _object(text: str) -> dict[str, Any]:
    value = read_json(text)
    if not isinstance(value, dict):
        raise MalformedReplyError("not a JSON object")
    return value


def _order(place: int | str) -> tuple[bool, int | str]:
    """Return what choices are sorted by: those in no known place last."""
    return isinstance(place, str), place


def _first_of(choice: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the message of a choice, or the piece of one, under the first of these names that it has."""
    return message_of(next((choice[name] for name in names if choice.get(name) is not None), None))


def _reason(value: Any, secret: str) -> str | None:
    """Return a finish reason; one that is no text is told as it came."""
    return _name(value if isinstance(value, str) or not value else json.dumps(value), secret)


def media_type(headers: Mapping[str, str]) -> str:
    """Return a reply's media type: without parameters, in small letters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _error_of(reply: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error that a reply or chunk carries at its top or in a choice; None when there is none."""
    for part in map(as_mapping, (reply, *as_list(reply.get("choices")))):
        error = part.get("error")
        if error:
            return error if isinstance(error, dict) else {"message": str(error)}
        if part.get("finish_reason") == "error":
            return _FAILED
    return None


def _usage(block: Mapping[str, Any] | None) -> Usage | None:
    if block is None:
        return None
    prompt = as_mapping(block.get("prompt_tokens_details"))
    completion = as_mapping(block.get("completion_tokens_details"))
    return Usage(
        prompt_tokens=read_count(block.get("prompt_tokens")),
        completion_tokens=read_count(block.get("completion_tokens")),
        cached_tokens=read_count(prompt.get("cached_tokens")),
        cache_write_tokens=read_count(prompt.get("cache_write_tokens")),
        reasoning_tokens=read_count(completion.get("reasoning_tokens")),
    )


def cost_reported(usage: Mapping[str, Any] | None) -> Cost:
    """Return what the account paid for a call according to its ``usage`` block.

    ``cost`` is what OpenRouter charged. With ``is_byok`` the provider bills
    ``cost_details.upstream_inference_cost`` to the user's own key besides, so it is added; without
    it, that amount is already inside ``cost`` and is never added
    (OpenRouter: "Usage accounting", "Bring your own keys").
    """
    if usage is None:
        return UNKNOWN_COST
    charged = _usd(usage.get("cost"))
    if charged is None:
        return UNKNOWN_COST
    if usage.get("is_byok") is not True:
        return Cost(charged, "reported")
    details = usage.get("cost_details")
    upstream = _usd(as_mapping(details).get("upstream_inference_cost"))
    # With the user's own key most of the bill is the provider's: without it the total is not known.
    return UNKNOWN_COST if upstream is None else Cost(charged + upstream, "reported")


def _prompt_cost_usd(block: Mapping[str, Any] | None) -> Decimal | None:
    details = as_mapping(as_mapping(block).get("cost_details"))
    return _usd(details.get("upstream_inference_prompt_cost"))


def _usd(value: Any) -> Decimal | None:
    usd = decimal_usd(value)
    return usd if usd is not None and usd <= _MOST_USD else None


def _name(value: Any, secret: str = "") -> str | None:
    """Return a name that a reply gives, such as its id; None where it is no text, or empty."""
    return str(mended(value[:_LONGEST_NAME], secret)) if isinstance(value, str) and value else None


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = (as_mapping(part).get("text") for part in as_list(content))
    return "".join(text for text in texts if isinstance(text, str))


def _is_of_another_clip(delta: Mapping[str, Any], message: Mapping[str, Any]) -> bool:
    """Return whether a fragment's audio has another id than what came before."""
    said, known = (as_mapping(part.get("audio")).get("id") for part in (delta, message))
    return bool(said and known and said != known)
