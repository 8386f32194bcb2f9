"""Children of every kind: nothing of their parent's is used in them, and what they count is written."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import or_cache_magic as orc

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: run it on Linux or macOS")

BEGIN = """
import asyncio, concurrent.futures, multiprocessing, os, sys, threading, time, warnings
warnings.simplefilter("ignore")
import or_cache_magic as orc

def ask(n, **options):
    answer = orc.ask(f"Repeat the number {n}.", **options)
    return n, str(answer), answer.cached

def aask(n):
    answer = asyncio.run(orc.aask(f"Repeat the number {n}."))
    return n, str(answer), answer.cached

def plain(n):
    return ask(n, stream=False)

def die_in_half_a_minute():
    timer = threading.Timer(30, os._exit, (7,))
    timer.daemon = True
    timer.start()

def check(found):
    for n, text, _ in found:
        assert text == f"the answer to {n}", (n, text)
"""


class _Echo(BaseHTTPRequestHandler):
    """Answers each number with its own text, on connections that last."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._send(b'{"data": {"limit_remaining": 5}}', "application/json")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = re.search(r"-?\d+", body["messages"][-1]["content"])[0]
        reply = {
            "id": f"gen-{number}", "model": body["model"], "provider": "Echo", "object": "chat.completion",
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "cost": 0.001},
        }  # fmt: skip
        text, end = f"the answer to {number}", {"index": 0, "finish_reason": "stop"}
        if body["stream"]:
            pieces = [{**reply, "choices": [{"index": 0, "delta": {"content": text}}]}]
            pieces.append({**reply, "choices": [{**end, "delta": {"content": ""}}]})
            lines = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces)
            self._send((lines + "data: [DONE]\n\n").encode(), "text/event-stream")
        else:
            reply["choices"] = [{**end, "message": {"role": "assistant", "content": text}}]
            self._send(json.dumps(reply).encode(), "application/json")

    def _send(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of this machine's own, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


@pytest.fixture(params=["http"])
def run(request, tmp_path, certificate):
    """Run a program in a folder of its own, whose upstream answers each number with its own text."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        if request.param == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENROUTER_", "OR_CACHE_"))}
        environ = {
            **kept,
            "SSL_CERT_FILE": os.fspath(certificate[0]),
            "OPENROUTER_BASE_URL": f"{request.param}://127.0.0.1:{server.server_port}/api/v1",
            "OPENROUTER_API_KEY": "sk-or-v1-test",
            "OPENROUTER_MODEL": "openai/gpt-4o-mini",
            "PYTHONPATH": os.fspath(ROOT),
        }

        def run(program):
            script = tmp_path / "program.py"
            body = textwrap.indent(textwrap.dedent(program), "    ")
            script.write_text(f"{BEGIN}\nif __name__ == '__main__':\n{body}", encoding="utf-8")
            done = subprocess.run(
                [sys.executable, os.fspath(script)], cwd=tmp_path, env=environ, capture_output=True,
                encoding="utf-8", timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
            with orc.open_cache(tmp_path / ".or_cache") as cache:
                (row,) = cache.stats().to_dict("records")
            return row

        yield run
        server.shutdown()


def test_script__writes_its_hits_at_exit(run):
    """A loop run three times: what it saved is seen in the statistics."""
    for _ in range(3):
        row = run("for n in range(5): ask(n)")
    assert (row["asks"], row["calls"], row["hits"]) == (15, 5, 10)
    assert row["saved_usd"] > 0


def test_script__may_ask_at_its_very_end(run):
    """When no thread can be started any more; its answers are given, and counted."""
    row = run("""
        import atexit
        ask(0)
        atexit.register(lambda: (ask(0), ask(0)))
    """)
    assert (row["asks"], row["calls"], row["hits"]) == (3, 1, 2)


def test_script__writes_its_hits_now_and_then(run, tmp_path):
    """A long run that is killed has lost no more than about the last second's."""
    row = run("""
        ask(0), ask(0)
        from or_cache_magic.cache import process
        deadline = time.monotonic() + 60
        import sqlite3
        while time.monotonic() < deadline:
            (n,), = sqlite3.connect(".or_cache/cache.db").execute("SELECT sum(asks) FROM or_ledger")
            if n == 2:
                os._exit(0)
            time.sleep(0.05)
        os._exit(1)
    """)
    assert row["hits"] == 1


# A child of spawn has no connection of its parent's, of whatever kind.
@pytest.mark.parametrize(
    ("how", "run"), [("fork", "http"), ("fork", "https"), ("spawn", "http")], indirect=["run"]
)
def test_pool__gets_its_own_answers_and_counts_its_hits(run, how):
    """After asks, streams and GETs of the parent, its children share nothing with it; ``with`` kills them."""
    # What is forked inherits other connections with each way to ask; what is spawned takes a second to start.
    ways = "(ask, plain, aask)" if how == "spawn" else "(ask,), (plain,), (aask,)"
    row = run(f"""
        ask(-1), plain(-2), asyncio.run(orc.aask("Repeat the number -3.")), orc._cache().gateway.fetch("/key", base_url=os.environ["OPENROUTER_BASE_URL"])
        context = multiprocessing.get_context({how!r})
        numbers = {{asks: range(10 * number, 10 * number + 8) for number, asks in enumerate((ask, plain, aask))}}
        for ways in ({ways},):
            with context.Pool(4) as pool:
                for asks in ways:
                    check(pool.map(asks, [*numbers[asks], *numbers[asks]], chunksize=1))
            with context.Pool(2) as pool:
                for asks in ways:
                    assert all(cached for *_, cached in pool.map(asks, numbers[asks]))
    """)
    assert row["asks"] == 3 + 3 * (16 + 8)
    assert row["calls"] == 3 + 3 * 8
    assert row["hits"] >= 3 * 8


@pytest.mark.smoke
def test_executor__of_processes_counts_its_hits(run):
    """``concurrent.futures``, by every way to start a process, and joblib's loky."""
    row = run("""
        for how in ("fork", "forkserver", "spawn"):
            with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(how)) as pool:
                check(list(pool.map(ask, range(6))))
    """)
    assert (row["asks"], row["calls"], row["hits"]) == (18, 6, 12)


def test_fork__while_other_threads_ask_and_read(run):
    """Neither a lock of SQLite's nor one of ours is inherited held; what the parent counted is not counted twice."""
    row = run("""
        for n in range(5): ask(n)
        end = threading.Event()
        def busy():
            while not end.is_set():
                for n in range(5): ask(n)
        threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
        for thread in threads: thread.start()
        for _ in range(30):
            child = os.fork()
            if child == 0:
                die_in_half_a_minute()
                ok = all(ask(n)[2] for n in range(5))
                orc._cache().totals()
                os._exit(0 if ok else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        end.set()
        for thread in threads: thread.join()
    """)
    assert row["calls"] == 5
    assert row["hits"] >= 150


def test_fork__does_not_count_its_parents_hits_again(run):
    """What was counted and not yet written is the parent's to write."""
    row = run("""
        for n in (0, 0, 0, 0, 0): ask(n)
        child = os.fork()
        if child == 0:
            orc._cache().totals()
            sys.exit(0)
        os.waitpid(child, 0)
    """)
    assert (row["asks"], row["hits"]) == (5, 4)


def test_fork__while_a_flight_is_up(run):
    """A child asks the same as a thread of its parent that waits for its answer: it does not wait for a thread that
    is not there."""
    row = run("""
        asking = threading.Thread(target=ask, args=(1,), kwargs={"on_text": lambda _: (up.set(), time.sleep(0.5))})
        up = threading.Event()
        asking.start()
        assert up.wait(30)
        child = os.fork()
        if child == 0:
            die_in_half_a_minute()
            ask(1), ask(2)
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        asking.join()
    """)
    assert row["asks"] == 3
    assert row["calls"] == 2


def test_fork__while_the_first_ask_imports_what_it_needs(run):
    """A module that another thread is importing would be locked for ever in the child."""
    row = run("""
        asking = threading.Thread(target=ask, args=(1,))
        asking.start()
        children = []
        for n in range(6):
            children.append(os.fork())
            if children[-1] == 0:
                die_in_half_a_minute()
                ask(2)
                os._exit(0)
            time.sleep(0.1)
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert ended == [0] * 6, ended
        asking.join()
    """)
    assert row["calls"] == 2


def test_loky__counts_its_hits(run):
    """Workers of joblib, which lives on after the call."""
    pytest.importorskip("joblib", reason="needs joblib: pip install joblib")
    row = run("""
        import joblib
        ask(-1)
        check(joblib.Parallel(2)(joblib.delayed(ask)(n) for n in range(6)))
        assert all(cached for *_, cached in joblib.Parallel(2)(joblib.delayed(ask)(n) for n in range(6)))
    """)
    assert (row["asks"], row["calls"], row["hits"]) == (1 + 6 + 6, 1 + 6, 6)
