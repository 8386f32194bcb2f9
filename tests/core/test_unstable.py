"""What in a prompt changes by itself: found where it does, and not where it doesn't."""

from __future__ import annotations

import datetime as dt
import tempfile
import time
import uuid

import pytest

from or_cache_magic.core.unstable import unstable

NOW_S = 1_767_268_800.0  # 2026-01-01 12:00:00 UTC


def kinds(text, now_s=NOW_S):
    body = {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}]}
    return [one.what for one in unstable(body, now_s)]


def today(form):
    return time.strftime(form, time.gmtime(NOW_S))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"Today is {today('%Y-%m-%d')}.", "today's date"),
        (f"at {today('%Y-%m-%dT%H:%M:%S')}.123456", "today's date"),
        (f"{today('%d.%m.%Y')}", "today's date"),
        (f"{today('%B %d, %Y')}", "today's date"),
        (f"{today('%d %b %Y')}", "today's date"),
        (f"{int(NOW_S)}", "the time"),
        (f"{NOW_S + 0.25}", "the time"),
        (f"it is {today('%H:%M:%S')}", "the time"),
        (f"id {uuid.UUID(int=7, version=4)}", "a UUID"),
        (f"{object()!r}", "an object's address"),
        ("<function f at 0x7f3a5c0d9e10>", "an object's address"),
        ("/tmp/tmpab12cd/data.csv", "a temporary path"),
        ("/var/folders/zz/zyx/T/x.png", "a temporary path"),
        (str({"b", "a"}), "the order of a set"),
        (str(frozenset({"b", "a"})), "the order of a set"),
        (f"the mean is {0.1 + 0.2}", "the noise of a float"),
        (f"{1.1 * 1.1 * 1.1}", "the noise of a float"),
        ("read /home/ada/notes/data.csv", "an absolute path"),
        ("C:\\Users\\ada\\data.csv", "an absolute path"),
    ],
    ids=range(19),  # the texts are others in each process, which then run different tests
)
def test_unstable__finds(text, what):
    """Each kind, as programs write it, and named once."""
    assert kinds(f"{text} and {text}") == [what]


@pytest.mark.parametrize(
    "text",
    [
        "What is a median?",
        "It happened on 2024-02-29 at 10:30:00.",
        "Version 1.2.3 of 2025; call 555-0100; 17:30",
        "3.14159265358979 and 0.25 and 1000000 and 1.000000",
        "{'a': 1, 'b': 2} and {x, y} and ['a', 'b'] and f'{a}'",
        "the colour #7f7f7f, 0xff and 0x7fff",
        "https://example.org/home/page and and/or and /tmp",
        "Names like home/ada; a/b/c",
        "deadbeef-dead-beef",
    ],
)
def test_unstable__leaves_alone(text):
    """What was written down, and stays as it is."""
    assert kinds(text) == []


def test_unstable__looks_into_parts_and_long_texts():
    """Text parts are looked through; of a very long text its ends; media is not."""
    part = {"type": "text", "text": "/tmp/tmpxyz/a.csv"}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,/tmp/tmpx/"}}
    assert [
        one.found for one in unstable({"messages": [{"role": "user", "content": [part, image]}]}, NOW_S)
    ] == ["/tmp/tmpxyz/a.csv"]
    assert kinds("x" * 1_000_000 + " /tmp/tmpxyz/a.csv") == ["a temporary path"]
    assert unstable({}, NOW_S) == []
    assert kinds(tempfile.gettempdir() + "/tmpq8") == ["a temporary path"]
    assert kinds(dt.datetime.now(dt.timezone.utc).isoformat(), time.time())[0] == "today's date"
