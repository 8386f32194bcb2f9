"""What `fuzz.py` throws at the product: an upstream that replies as told, and inputs drawn from a seed."""

from __future__ import annotations

import decimal
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

KEY: Final = "sk-or-v1-5ecre75ecre75ecre75ecre75ecre75ecre75ecre75ecre75ecre75ecre7"
"""The API key of every ask; it must be found nowhere."""


@dataclass
class Reply:
    """What the upstream sends back.

    Attributes:
        body: The bytes, sent in `pieces`.
        text: The answer that the body certainly holds, whole; None where it may hold none.
    """

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: int = 1
    text: str | None = None


class Upstream:
    """An HTTP server on loopback. `reply` makes each reply of a request's body; `posts` are the bodies."""

    def __init__(self) -> None:
        self.posts: list[bytes] = []
        self.reply: Callable[[bytes], Reply] = plain
        self.base_url = ""


@contextmanager
def upstream() -> Iterator[Upstream]:
    """Serve until the end of the block."""
    told = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self._send(Reply(b'{"error": {"code": 404, "message": "none"}}', 404))

        def do_POST(self) -> None:
            told.posts.append(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(told.reply(told.posts[-1]))

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            headers = {"Content-Type": "application/json", **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            size = max(1, -(-len(reply.body) // reply.pieces))
            for start in range(0, len(reply.body), size):
                self.wfile.write(reply.body[start : start + size])

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that hangs up is none of our faults."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        told.base_url = f"http://127.0.0.1:{server.server_port}/api/v1"
        yield told
        server.shutdown()
        thread.join()


def completion(text: Any, **more: Any) -> dict[str, Any]:
    """A whole reply that was not streamed."""
    return {
        "id": "gen-1",
        "object": "chat.completion",
        "created": 1,
        "model": "openai/gpt-4o-mini",
        "provider": "OpenAI",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cost": 0.00001},
        **more,
    }


def plain(request: bytes) -> Reply:
    """The answer ``fine``, streamed where that was asked for."""
    streamed = b'"stream":true' in request.replace(b" ", b"")
    return as_stream(completion("fine"), ["fine"]) if streamed else as_body(completion("fine"))


def as_body(reply: Any, text: str | None = "fine") -> Reply:
    return Reply(json.dumps(reply).encode(), text=text)


def as_stream(reply: dict[str, Any], pieces: list[str], *, end: str = "\n\n", bom: bool = False) -> Reply:
    """A whole reply as server-sent events, its text in these pieces."""
    head = {name: value for name, value in reply.items() if name not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    events: list[Any] = [
        {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": piece}}]}
        for piece in pieces
    ]
    events.append({**head, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]})
    events.append({**head, "choices": [], "usage": reply["usage"]})
    lines = "".join(f"data: {json.dumps(event)}{end}" for event in events) + f"data: [DONE]{end}"
    body = (b"\xef\xbb\xbf" if bom else b"") + lines.encode()
    return Reply(body, headers={"Content-Type": "text/event-stream"}, text="".join(pieces))


# Values that programs have stumbled over

_DEEP: Final = json.loads("[" * 900 + "]" * 900)
_NUMBERS: Final = (
    0, -1, 1, 5.0, 0.1, -0.0, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**19, 10**400, 9.3e6, 1e308, -5,
    float("inf"), float("-inf"), float("nan"), True, False,
)  # fmt: skip
_TEXTS: Final = (
    "", " ", "\x00", "\x1b[31mred", "\x1b]0;title\x07", "\x1b]52;c;aGk=\x07", "\x9b31m", "\u202egnp.exe",
    "\u2066x\u2069", "\ud800", "a\udfffb", "\u2028", "\ufeff", "\u200b", "\U0001d518", "é" * 300,
    "x" * 70_000, "1e9999999999", "NaN", "none", "null", "24h", "-1", "never",
    "{{ x }}", "$x $y", "</script><b>", "`" * 9,
    "\r\n", "../../etc/passwd", "nan", "0.05", "1,5", "5m",
)  # fmt: skip
_SIMPLE: Final[tuple[Any, ...]] = (*_NUMBERS, *_TEXTS, None, [], {}, [None], [1], {"a": None}, _DEEP)


def _python_values() -> tuple[Any, ...]:
    """Values that no JSON holds; numpy and pandas are imported here."""
    import numpy as np
    import pandas as pd

    class Odd:
        def __repr__(self) -> str:
            raise ValueError("no repr")

    loop: list[Any] = []
    loop.append(loop)
    return (
        b"x", bytearray(b"x"), object(), Odd(), Ellipsis, 1j, {1}, frozenset({"a"}), (1, "a"), range(3), loop,
        {1: 2}, {None: 1}, {"a": {("b",): 1}}, lambda: 1, int, decimal.Decimal(3600), decimal.Decimal("NaN"),
        decimal.Decimal("1e400"), np.float64(0.5), np.float32("nan"), np.int64(1), np.uint8(3),
        np.bool_(True),
        np.str_("tag"), np.array([1, 2]), np.array(["a", "b"]), np.array(0.5), pd.NA, pd.NaT, pd.Series([1]),
        pd.Series(["a"]), pd.Timestamp(0), pd.Timedelta("1h"), pd.DataFrame({"a": [1]}), Exception("x"),
        [b"x"], ["a", 1], ["\ud800"], [["a"]], {"a": float("nan")}, {"a": b"x"},
    )  # fmt: skip


_SENSIBLE: Final[dict[str, tuple[Any, ...]]] = {
    "model": ("openai/gpt-4o-mini", "x/y", "m" * 400, "a\x1b[31mb"),
    "system": ("", "be brief", "\x00", "\u202e", "é" * 5_000),
    "mode": ("normal", "refresh", "bypass", "offline"),
    "sample": (0, 1, 2**31 - 1, "3"),
    "ttl": (1, 1e-9, "24h", "never", 1e18, float("inf"), decimal.Decimal("0.5")),
    "tag": ("a", ["a", "b"], "é\x07", "x" * 10_000, ["t"] * 500),
    "stream": (True, False),
    "prompt_cache": ("5m", "1h"),
    "max_cost_usd": (1, "0.5", "$2", 1e-12, 0, decimal.Decimal("1e-30"), decimal.Decimal(10) ** 8),
    "temperature": (0, 0.7, 2, None, "0.5"),
    "seed": (0, -1, 2**63 - 1),
    "n": (1, 2.0, "3", 128),
    "max_tokens": (1, 2**31 - 1, None),
    "max_completion_tokens": (1, 5.0),
    "stop": ("x", ["x", "y"], []),
    "metadata": ({}, {"a": "b"}, {"a": [1, None, {"b": 0.1}]}),
    "response_format": ({"type": "json_object"}, {"type": "text"}),
    "extra": ({"x": 1}, {"x": {"y": [2**70]}}, {}),
}


_PACK_FIELDS: Final = (
    "media", "parent", "at", "reason", "expires", "sample", "stream", "base_url", "attached", "by",
    "notebook", "tags", "error", "complete", "tool_calls", "images", "audio", "refusal", "annotations",
    "reasoning_details", "logprobs", "extra", "response_format", "messages", "models", "plugins", "tools",
    "n", "input", "cost",
)  # fmt: skip

_PACK_VALUES: Final[tuple[Any, ...]] = (
    "1E+30000000", "-5", "NaN", ["1e9999", "reported"], ["1", "x"], [[[], None, "00" * 32]],
    [[["request"], "data:", "00" * 32]], [[["answer", "choices", 0], None, "zz"]], "../../etc/passwd",
    "history", "entry", "content_filter", "length", "00" * 32, "http://user:pw@host", "http://[", 2**63,
    -(2**63), 10**300, 1e308, -0.0, True, [[["a"] * 3] * 3], {"url": "data:image/png;base64,AAAA"}, "\ud800",
    "\x1b]0;x\x07",
    "data:image/png;base64," + "A" * 5000, {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}},
)  # fmt: skip

_PACK_BYTES: Final = (
    b"", b"\x00", b"\xff", b"\\", b'"', b"{", b"[" * 3000, b"9" * 5000, b"1e400", b"-", b"\r",
    b"\xe2\x80\xa8", b",,", b"NaN", b"\\ud800", b"\xed\xa0\x80", b"null", b"<<<<<<< ", b"\xef\xbb\xbf",
)  # fmt: skip

_LINES: Final = (
    "", "openai/gpt-4o-mini", "-m x/y -o answer", "-s 'be brief' -t 0.7 --sample 2", "--refresh -q",
    "--no-cache", "--ttl 1h --tag 'a b'", "-f json", "-f code", "-f text", "--max-cost 1",
    "-p top_k=3 -p zzz='{\"a\": [1]}'", "--raw", "--no-stream", "--dry-run", "--prompt-cache 1h",
    "--seed 7 --max-tokens none",
)  # fmt: skip

_SETTINGS_FILES: Final = (
    "",
    "[tool.other]\nx = 1\n",
    '[tool.or_cache_magic]\nmodel = "x/y"\ntemperature = 1\ncache_sampled = true\n',
    '[tool.or_cache_magic]\nmax_cost_usd = "$0.5"\nstream = false\nttl = "1h"\n',
    '[tool.or_cache_magic]\nmax_cost_per_day_usd = 1000\nquota = "1KB"\nattribution = false\n',
    '[tool.or_cache_magic]\nsystem = "\\u001b[31m"\nmax_tokens = "none"\ntimeout_s = 5\n',
    '[tool.or_cache_magic]\naliases = {m = "openai/gpt-4o"}\nformat = "json"\nreceipt = "stable"\n',
)


class Draw:
    """Draws inputs; two with the same seed draw the same."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._values: tuple[Any, ...] | None = None

    def chance(self, share: float) -> bool:
        """True as often as `share` says."""
        return self.random.random() < share

    def json(self, depth: int = 3) -> Any:
        """A value of JSON, or nearly: NaN and lone surrogates too."""
        if depth and self.chance(0.3):
            if self.chance(0.5):
                return [self.json(depth - 1) for _ in range(self.random.randrange(4))]
            return {str(self.text()): self.json(depth - 1) for _ in range(self.random.randrange(4))}
        return self.random.choice(_SIMPLE)

    def text(self) -> str:
        """A text; often one that is hard to show or to store."""
        parts = [
            self.random.choice((*_TEXTS, "word", "a b", "naïve")) for _ in range(self.random.randrange(1, 4))
        ]
        return "".join(parts)[:3000]

    def value(self) -> Any:
        """Any value of Python."""
        if self._values is None:
            self._values = _python_values()
        return self.random.choice(self._values) if self.chance(0.5) else self.json(2)

    # -- replies

    def reply(self, *, streamed: bool) -> Reply:
        """A reply: half of them whole, with a changed field around the answer; the others anything."""
        text = self.random.choice(("fine", "two words", "é" * 50, "a\nb", "x" * 5000, "{}", "42"))
        reply = completion(text)
        whole = self.chance(0.5)
        if whole:
            self._change_around(reply)
        else:
            self._change_anywhere(reply)
        if streamed:
            cuts = sorted(self.random.sample(range(len(text) + 1), min(len(text), self.random.randrange(4))))
            pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            end = self.random.choice(("\n\n", "\r\n\r\n", "\r\r", "\n: ping\n\n"))
            try:
                sent = as_stream(reply, pieces, end=end, bom=self.chance(0.2))
            except (KeyError, TypeError, AttributeError):
                sent = as_body(reply)
            if self.chance(0.2):
                media = self.random.choice(("TEXT/EVENT-STREAM", "text/event-stream; charset=utf-8"))
                sent.headers["Content-Type"] = media
        else:
            sent = as_body(reply)
        sent.pieces = self.random.choice((1, 1, 2, 7, 40))
        sent.text = text if whole else None
        if not whole:
            self._spoil(sent)
        return sent

    def _change_around(self, reply: dict[str, Any]) -> None:
        for _ in range(self.random.randrange(4)):
            name = self.random.choice(
                ("id", "provider", "model", "created", "object", "usage", "x", "system_fingerprint")
            )
            if name == "usage" and self.chance(0.8):
                field_ = self.random.choice(("cost", "prompt_tokens", "completion_tokens", "total_tokens",
                "y",
                                            "cost_details", "prompt_tokens_details"))  # fmt: skip
                reply["usage"][field_] = self.json()
                if not isinstance(reply["usage"], dict):
                    return
            else:
                reply[name] = self.json()
            if not isinstance(reply["usage"], dict):
                return

    def _change_anywhere(self, reply: dict[str, Any]) -> None:
        for _ in range(self.random.randrange(1, 4)):
            place: Any = reply
            while True:
                keys = list(place) if isinstance(place, dict) else list(range(len(place)))
                if not keys:
                    break
                key = self.random.choice(keys)
                if isinstance(place[key], (dict, list)) and place[key] is not _DEEP and self.chance(0.6):
                    place = place[key]
                    continue
                place[key] = self.json()
                break

    def _spoil(self, reply: Reply) -> None:
        body, what = bytearray(reply.body), self.random.randrange(8)
        if what == 0:
            del body[self.random.randrange(len(body)) :]
        elif what == 1:
            for _ in range(3):
                body[self.random.randrange(len(body))] = self.random.randrange(256)
        elif what == 2:
            reply.status = self.random.choice((400, 401, 402, 403, 404, 408, 413, 422, 451, 500, 524))
            message: Any = self.random.choice((self.text(), f"no: Authorization: Bearer {KEY}", self.json()))
            error = self.random.choice(
                ({"error": {"code": reply.status, "message": message, "metadata": self.json()}},
                 {"detail": message}, {"error": message}, message)
            )  # fmt: skip
            body = bytearray(json.dumps(error).encode())
        elif what == 3:
            reply.status = self.random.choice((204, 206, 226, 301, 302, 303, 304, 307, 308))
            reply.headers["Location"] = self.random.choice(("/elsewhere", "http://127.0.0.1:1/x", "\x7f"))
            body = bytearray() if reply.status in (204, 304) else body
        elif what == 4:
            reply.headers["Content-Type"] = self.random.choice(
                ("", "text/html", "application/octet-stream", "x")
            )
        elif what == 5:
            body = bytearray(self.random.choice((b"", b"null", b"[]", b'"x"', b"<html>", b"\xff\xfe",
            b"data: x\n\n",
                                                 b"data: [DONE]\n\n", b"[" * 100_000,
                                                 b'{"a":' * 100_000)))  # fmt: skip
        reply.body = bytes(body)

    # -- packs

    def pack_line(self, line: bytes) -> bytes:
        """A line of a pack, changed in a field, or in its bytes."""
        if self.chance(0.25):
            return self._other_bytes(line)
        form = json.loads(line)
        for _ in range(self.random.randrange(1, 3)):
            self._change_in(form)
        try:
            raw = json.dumps(form, ensure_ascii=self.chance(0.5)).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError):
            return line
        return raw.replace(b"\n", b" ")

    def _change_in(self, value: Any) -> None:
        """Put another value in one place of a JSON value, take one out, or add one."""
        while isinstance(value, (dict, list)) and value:
            names = list(value) if isinstance(value, dict) else range(len(value))
            name = self.random.choice(names)
            if not isinstance(value[name], (dict, list)) or self.chance(0.3):
                break
            value = value[name]
        else:
            return
        what = self.random.randrange(6)
        if what == 0:
            del value[name]
        elif what == 1 and isinstance(value, dict):
            value[self.random.choice((*_PACK_FIELDS, self.text()))] = self.json()
        elif what == 2:
            value[name] = self.random.choice(_PACK_VALUES)
        elif what == 3:
            value[name] = [value[name]]
        else:
            value[name] = self.json()

    def _other_bytes(self, line: bytes) -> bytes:
        at, to = sorted(self.random.randrange(len(line) + 1) for _ in range(2))
        put = self.random.choice(_PACK_BYTES)
        return self.random.choice(
            (line[:at], line[:at] + put + line[at:], line[:at] + put + line[to:], line[at:], line[:to] * 2)
        )

    # -- options, lines, bodies, settings

    def options(self) -> dict[str, Any]:
        """Arguments of `ask`, sensible or not."""
        names = (
            "model", "system", "mode", "sample", "ttl", "tag", "stream", "prompt_cache", "max_cost_usd",
            "temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "n", "stop", "tools",
            "response_format", "provider", "reasoning", "plugins", "modalities", "logit_bias", "user",
            "extra",
            "temprature", "tags", "modle", "api_key", "timeout", "extra_headers", "extra_body", "messages",
            "base_url", "metadata", "transforms", "stream_options", "usage", "models", "web_search_options",
        )  # fmt: skip
        chosen = self.random.sample(names, self.random.randrange(1, 5))
        if self.chance(0.5):
            return {name: self.value() for name in chosen}
        return {name: self.random.choice(values) for name, values in _SENSIBLE.items() if self.chance(0.3)}

    def line(self) -> str:
        """What stands behind a magic's name."""
        words = (
            "-m", "--model", "-o", "-s", "-t", "--max-tokens", "--top-p", "--seed", "-p", "-f", "--sample",
            "--refresh", "--no-cache", "--offline", "--ttl", "--tag", "--prompt-cache", "--max-cost",
            "--dry-run",
            "--raw", "--no-stream", "-q", "--temp", "--timeout", "--", "-", "-5", "openai/gpt-4o-mini",
            "'", '"',
            "x=1", "n=5.0", "n='5'", "reasoning={", 'stop=["a"]', "24h", "1e999", "0", "3", "none", "json",
            "df",
            "text", "@nosuch", "@", "@@x", "answer", "class", "ⅸ", "{x}", "$x", "{{ x }}", "\\", "#", "🙂",
            "-ofoo",
            "--tag=a", "--sample=99999999999999999999", "user='\x1b[2J'",
        )  # fmt: skip
        if self.chance(0.5):
            return self.random.choice(_LINES)
        return " ".join(self.random.choice(words) for _ in range(self.random.randrange(6)))

    def body(self) -> str:
        """What stands below a magic."""
        lines = (
            "What is a median?", ">>>>>>> theirs", ">>> x", "... y", "In [3]: z", "{{ x }}", "{{ x.y }}",
            "{{ df }}",
            "{{ x | head 3 }}", "{{ nosuch }}", "{{", "}}", "{{ x[", "  indented", "\ttab", "", "%magic",
            "!ls", "?",
            "x?", "é\u202e", "\x1b[31m", "$1 and $2", "\\", "'''", '"""', "\r", "\x0c", "\x00", "{{ big }}",
            "{{ x.__class__ }}", "{{ obj }}", "{{ odd }}", "{{ x | csv }}", "{{ df.product }}",
        )  # fmt: skip
        return "\n".join(self.random.choice(lines) for _ in range(self.random.randrange(1, 5)))

    def environment(self) -> dict[str, str]:
        """Environment variables, ours and those of libraries below."""
        names = (
            "OPENROUTER_BASE_URL", "OPENROUTER_MODEL", "OR_CACHE_DIR", "OR_CACHE_MODE", "OR_CACHE_SHARED_URL",
            "OR_CACHE_MAX_COST", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID",
            "OPENAI_CUSTOM_HEADERS", "OPENAI_LOG", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
            "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "TZ",
        )  # fmt: skip
        values = (
            "", " ", "x", "é", "\udcff", "http://", "http://user:pw@host/v1", "http://[", "ftp://x",
            "socks5://127.0.0.1:1",
            "http://127.0.0.1:1", "/gone.pem", "/", "~nosuchuser/x", ":memory:", "offline", "bypass", "no",
            "0", "-1",
            "0.5", "1e400", "NaN", "redis://127.0.0.1:1/0", "redis://:pw@127.0.0.1:1",
            "memcached://127.0.0.1:1",
            "redis://127.0.0.1:99999", "Authorization: Bearer x\nHost: y", "X: é", "debug", "*",
            "openai/gpt-4o-mini",
        )  # fmt: skip
        if self.chance(0.3):
            return {}
        chosen = self.random.sample(names, self.random.randrange(1, 4))
        return {name: self.random.choice(values) for name in chosen}

    def pyproject(self) -> bytes:
        """A settings file, often one that can't be read."""
        names = (
            "model", "system", "temperature", "max_tokens", "format", "receipt", "stream", "mode", "ttl",
            "quota",
            "volatile_ttl", "cache_sampled", "cache_dir", "max_cost_usd", "max_cost_per_day_usd", "timeout_s",
            "base_url", "shared_url", "shared_timeout_s", "aliases", "tempratur", "budget",
        )  # fmt: skip
        values = (
            '"x"', "1", "-1", "0.5", "nan", "inf", "-inf", "true", "[]", "{}", '{a = "b"}', "1979-05-27",
            '"24h"', '"never"',
            '"~nosuchuser/x"', '"a\\u0000b"', '"\\ud800"', '"offline"', "99999999999999999999", "1e400",
            '"none"', '""',
            "'''", '"500MB"', '":memory:"', "0x10", '"$5"', "[[1]]", '"\\u001b[31m"',
        )  # fmt: skip
        if self.chance(0.5):
            return (self.random.choice(_SETTINGS_FILES)).encode()
        chosen = range(self.random.randrange(1, 5))
        lines = [f"{self.random.choice(names)} = {self.random.choice(values)}" for _ in chosen]
        lines.insert(0, "[tool.or_cache_magic]")
        text = "\n".join(lines) + "\n"
        what = self.random.randrange(10)
        if what == 0:
            return (text + "# na\xefve\n").encode("latin-1", "replace")
        if what == 1:
            return text.encode("utf-16")
        if what == 2:
            return text.encode() + bytes(self.random.randrange(256) for _ in range(5))
        if what == 3:
            return b"\xef\xbb\xbf" + text.encode()
        return text.encode("utf-8", "surrogatepass")
