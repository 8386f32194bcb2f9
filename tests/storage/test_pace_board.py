"""`DiskBoard`: the word that the processes of a folder leave each other of a rate limit."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from or_cache_magic.errors import StoreBusyError
from or_cache_magic.storage.database import Database
from or_cache_magic.storage.pace_board import DiskBoard, FolderOrTeamBoard

PLACE = "https://openrouter.ai/api/v1 openai/gpt-4o-mini"


@pytest.fixture
def board(database):
    return DiskBoard(database)


def told(board, text=None, place=PLACE):
    """Leave a word, and return the one that was there."""
    heard = []

    def merge(before):
        heard.append(before)
        return text

    board.exchange(place, merge)
    return heard[-1]


def test_board__keeps_the_last_word_of_each_place(board, folder):
    """Another process, which opens the file anew, hears it; another model's is another."""
    assert told(board, "a") == ""
    assert told(board, "b") == "a"
    assert told(board, "c", place="another") == ""
    with closing(Database(folder)) as again:
        assert told(DiskBoard(again)) == "b"


def test_board__makes_no_table_for_nothing(board, folder):
    """A file in which no limit was met is as it was before there were any; after one it opens again."""

    def has_table():
        with closing(sqlite3.connect(folder / "cache.db")) as connection:
            return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'or_pace'").fetchall())

    told(board)
    assert not (folder / "cache.db").exists() or not has_table()
    told(board, "a")
    assert has_table()
    with closing(Database(folder)) as again:
        assert told(DiskBoard(again)) == "a"


def test_board__looks_while_another_writes_and_does_not_wait_for_it(board, folder):
    """Reading needs no lock; what can't be written in a moment is refused."""
    told(board, "a")
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert told(board) == "a"
        with pytest.raises(StoreBusyError):
            told(board, "b")


def test_board__reads_no_nonsense(board, folder):
    """A word that is no text, or endless, is none."""
    for word in (b"\x00", "x" * 50_000):
        told(board, "a")
        with closing(sqlite3.connect(folder / "cache.db")) as connection, connection:
            connection.execute("UPDATE or_pace SET word = ?", (word,))
        assert told(board) == ""


def test_board__is_the_folder_s_where_there_is_no_server(board):
    """Without a shared server the folder's word counts."""
    both = FolderOrTeamBoard(board, lambda: None)
    assert told(both, "a") == ""
    assert told(board) == "a"
