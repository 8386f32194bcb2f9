"""The word that machines leave each other of a rate limit, on a team's server."""

from __future__ import annotations

from functools import partial

import pytest

from or_cache_magic.errors import StoreUnavailableError
from or_cache_magic.storage.pace_board import FolderOrTeamBoard, SharedBoard


class Near:
    """A folder's board that only counts."""

    def __init__(self):
        self.asked = 0

    def exchange(self, _place, merge):
        self.asked += 1
        merge("")


def told(board, text=None):
    """Leave a word, and return the one that was there."""
    heard = []

    def merge(before):
        heard.append(before)
        return text

    board.exchange("place", merge)
    return heard[-1]


def test_board__is_one_for_all_machines(open_tier, server):
    """The second hears the first, and the folder's is not asked; nothing to tell changes nothing."""
    near = Near()
    first, second = (FolderOrTeamBoard(near, partial(open_tier, server.url)) for _ in range(2))
    assert [told(first), told(first, "a"), told(second), told(second, "b")] == ["", "", "a", "a"]
    assert told(first) == "b"
    assert near.asked == 0


def test_board__hears_only_who_has_the_secret(open_tier, server):
    """A word that was signed otherwise is none, and the folder's counts."""
    told(SharedBoard(open_tier(server.url)), "a")
    mine = open_tier(server.url, secret="s" * 32)
    assert told(SharedBoard(mine)) == ""
    assert told(SharedBoard(mine), "b") == ""
    forged = SharedBoard(open_tier(server.url, secret="t" * 32))
    assert told(forged) == ""


def test_board__goes_on_with_the_folder_s(open_tier):
    """A server that is down is let be."""
    near, tier = Near(), open_tier("redis://127.0.0.1:9", timeout_s=0.2)
    assert told(FolderOrTeamBoard(near, lambda: tier), "a") == ""
    assert near.asked == 1
    with pytest.raises(StoreUnavailableError):
        told(SharedBoard(tier))
