"""`Gateway.fetch`: what OpenRouter tells besides completions, asked once, with the OpenRouter key or none."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal

import pytest

from or_cache_magic.core.records import Request
from or_cache_magic.errors import ConnectionLostError, MissingKeyError, UpstreamError
from or_cache_magic.openrouter.client import Gateway
from or_cache_magic.openrouter.reply import ReplyReader
from or_cache_magic.simulator import Simulator


@pytest.fixture(scope="module")
def openrouter():
    with Simulator() as sim:
        yield sim


@pytest.fixture
def gateway(openrouter):
    openrouter.clear()
    with closing(Gateway(lambda: openrouter.api_key)) as opened:
        yield opened


def test_fetch__models_need_no_key_and_send_none(openrouter, monkeypatch):
    """Without a key the list comes, and nothing that could be another service's key leaves."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-custom\nX-Secret: hidden")
    openrouter.clear()
    with closing(Gateway(lambda: None)) as gateway:
        listed = gateway.fetch("/models", base_url=openrouter.base_url, needs_key=False)["data"]
    assert "openai/gpt-4o-mini" in [model["id"] for model in listed]
    (sent,) = openrouter.requests
    assert "authorization" not in sent.headers
    assert not [value for value in sent.headers.values() if "sk-" in value or value == "hidden"]


def test_fetch__what_needs_a_key_is_not_asked_without_one(openrouter):
    """The limits of a key are nobody's without it."""
    openrouter.clear()
    with closing(Gateway(lambda: None)) as gateway, pytest.raises(MissingKeyError):
        gateway.fetch("/key", base_url=openrouter.base_url)
    assert not openrouter.requests


def test_fetch__amounts_keep_every_digit(openrouter, gateway):
    """What a generation cost is told as a Decimal, as it was billed."""
    request = Request(
        {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "What is a median?"}]},
        base_url=openrouter.base_url,
    )
    answer = gateway.send(request, ReplyReader(lambda _text: None))
    told = gateway.fetch("/generation", base_url=openrouter.base_url, params={"id": answer.generation_id})
    assert told["data"]["total_cost"] == answer.cost.usd
    assert isinstance(told["data"]["total_cost"], Decimal)


def test_fetch__a_refusal_has_its_status_and_is_asked_once(openrouter, gateway):
    """A generation that isn't there yet is a 404 for the caller to wait on."""
    with pytest.raises(UpstreamError) as caught:
        gateway.fetch("/generation", base_url=openrouter.base_url, params={"id": "gen-0-none"})
    assert caught.value.status == 404
    assert len(openrouter.requests) == 1


def test_fetch__no_connection_is_one_clean_error():
    """Nobody listens: two lines, and that nothing was paid."""
    with closing(Gateway(lambda: None)) as gateway, pytest.raises(ConnectionLostError) as caught:
        gateway.fetch("/models", base_url="http://127.0.0.1:9/api/v1", needs_key=False)
    assert caught.value.cost_usd == 0
    assert len(str(caught.value).splitlines()) == 2


def test_fetch__a_page_that_is_no_json_is_the_same_error(gateway, served_page):
    """A proxy's login page, with HTTP 200, is no list of models."""
    with pytest.raises(ConnectionLostError, match="no JSON"):
        gateway.fetch("/models", base_url=served_page, needs_key=False)


@pytest.fixture
def served_page():
    """A server that answers everything with a page of HTML."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            page = b"<html>log in</html>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
