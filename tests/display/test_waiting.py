"""The note on what is waited for: shown at once, gone when the answer is there."""

import pytest

from or_cache_magic.display.answer import answer_bundle
from or_cache_magic.display.screen import NotebookScreen, TerminalScreen

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
