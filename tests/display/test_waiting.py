"""The note on what is waited for: shown at once, gone when the answer is there."""

import time

import pytest

from or_cache_magic.display.screen import NotebookScreen, TerminalScreen, answer_bundle

NOTE = "asked 3 s ago by another kernel (pid 4711 on *host*): waiting …"


@pytest.fixture
def published():
    return []


@pytest.fixture
def screen(published):
    return NotebookScreen(lambda **message: published.append(message))


def test_wait__gives_its_place_to_the_answer(screen, published):
    """The answer is shown in the note's own display, so that nothing of the note is saved."""
    screen.wait(NOTE)
    screen.show("Four.")
    note, answer = published
    assert note["data"]["text/plain"] == NOTE
    assert (note["update"], answer["update"]) == (False, True)
    assert note["transient"] == answer["transient"]
    assert answer["data"] == answer_bundle("Four.")


def test_wait__gives_its_place_to_a_stream(screen, published):
    """So it is when the other one failed to answer and this kernel asks itself."""
    screen.wait(NOTE)
    screen.feed("Fo")
    screen.finish("Four.")
    assert len({message["transient"]["display_id"] for message in published}) == 1
    assert [message["update"] for message in published] == [False, True, True]
    assert published[-1]["data"] == answer_bundle("Four.")


def test_wait__leaves_nothing_behind_an_error(screen, published):
    """When the wait ends in an error, the note goes."""
    screen.wait(NOTE)
    screen.finish()
    assert NOTE not in str(published[-1]["data"])
    assert published[-1]["update"]


class Clock:
    """A clock that goes on by 4 s each time it is read."""

    now_s = 0.0

    def __call__(self):
        self.now_s += 4
        return self.now_s


def seen(published, text):
    """Waits until a text was shown; only a hang reaches the limit."""
    give_up_s = time.monotonic() + 60
    while not any(text in message["data"]["text/plain"] for message in list(published)):
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


def test_sent__says_how_long_it_waits(published):
    """A silent server is waited for with a line that counts; then the answer takes its place, and it ends."""
    screen = NotebookScreen(lambda **message: published.append(message), clock=Clock(), tick_s=0.01)
    screen.sent()
    seen(published, "asked, waiting 8 s …")
    screen.wait("rate limited, trying again in 14 s (2 of 3)")
    seen(published, "rate limited, trying again in 14 s (2 of 3) · 8 s")
    screen.feed("Four.")
    count = len(published)
    screen.finish("Four.")
    assert len({message["transient"]["display_id"] for message in published}) == 1
    assert published[count - 1]["data"] == published[-1]["data"] == answer_bundle("Four.")


def test_sent__shows_nothing_of_a_quick_answer(published, screen):
    """An answer within the first seconds is one display, as ever."""
    screen.sent()
    screen.show("Four.")
    assert [message["data"]["text/plain"] for message in published] == ["Four."]


def test_screen__that_can_not_be_updated(published):
    """Where updates aren't followed there is one display, whole, as of a cached answer; and no waiting."""
    screen = NotebookScreen(lambda **message: published.append(message), updates=lambda: False)
    screen.sent()
    screen.wait(NOTE)
    for piece in ("Fo", "ur", "."):
        screen.feed(piece)
    screen.finish("Four.")
    screen.show("Four.")
    bought, cached = published
    assert bought == cached
    assert "transient" not in bought


def test_wait__is_silent_where_nothing_is_shown(published):
    """An ask whose answer is a value shows nothing, so that nothing must be taken back."""
    screen = NotebookScreen(lambda **message: published.append(message), format="none")
    screen.wait(NOTE)
    screen.show("Four.")
    assert published == []


def test_wait__is_a_line_in_a_terminal():
    """A terminal shows the note and then the answer."""
    written = []
    screen = TerminalScreen(write=written.append)
    screen.wait(NOTE)
    screen.show("Four.")
    assert "".join(written) == f"{NOTE}\nFour.\n"
