"""The disk store in trouble: hits are served, asks are answered, it is told once, and nothing stored is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from or_cache_magic.storage.database import network_file_system

pytestmark = pytest.mark.usefixtures("_no_cache_yet")
ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount")
OLD = [f"Stored question {number}" for number in range(8)]


@pytest.fixture
def _no_cache_yet(folder):
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def mounted(tmp_path):
    """``mounted(*arguments)`` mounts on a folder, until the test's end; skips where that can't be done."""
    done = []

    def mount(*arguments):
        point = tmp_path / f"mounted-{len(done)}"
        point.mkdir()
        result = subprocess.run(["mount", *arguments, point], capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"can't mount: {result.stderr.strip()}")
        done.append(point)
        return point

    yield mount
    for point in done:
        subprocess.run(["umount", "-l", point], check=True)


HANG_S = 30.0
"""What only a wait that does not end takes, however busy the machine."""


def fill(cache):
    """Stored answers by their prompts."""
    stored = {prompt: str(cache.ask(prompt)) for prompt in OLD}
    cache.flush()
    return stored


def hits(cache, stored):
    """How many of the stored answers are served as they were, and how long that took."""
    began_s = time.monotonic()
    served = sum(
        (answer := cache.ask(prompt)) == text and answer.outcome.kind == "hit"
        for prompt, text in stored.items()
    )
    return served, time.monotonic() - began_s


def ask_new(cache, count=3):
    """Why each of some new answers was not stored, and how long each ask took."""
    reasons, took_s = [], []
    for number in range(count):
        began_s = time.monotonic()
        answer = cache.ask(f"New question {number} {time.monotonic_ns()}")
        took_s.append(time.monotonic() - began_s)
        assert answer
        reasons.append(answer.outcome.not_stored)
    return reasons, took_s


def kept(directory):
    """How many entries a copy of a cache's file holds."""
    with closing(sqlite3.connect(f"file:{directory}/cache.db?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return connection.execute("SELECT count(*) FROM Cache").fetchone()[0]


@ROOT
def test_full_disk__is_ridden_out(open_cache, sim, mounted, tmp_path):
    """On 8 MB without a byte left all is answered; the fault is told once; with space again all is as before."""
    point = mounted("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    cache = open_cache(sim, directory=point / ".or_cache")
    stored = fill(cache)
    ballast = point / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as full:  # noqa: PT012
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    full.write(b"\0" * size)
                except OSError:
                    if size == 1:
                        raise
                    break
    reasons, took_s = ask_new(cache, 20)
    assert "full" in reasons[-1]
    assert max(took_s) < HANG_S
    assert hits(cache, stored)[0] == len(OLD)
    assert hits(open_cache(sim, directory=point / ".or_cache"), stored)[0] == len(OLD)
    (notice,) = cache.database.pop_notices()
    assert "disk is full" in notice
    paid = cache.totals()[0].paid_usd
    ballast.unlink()
    assert ask_new(cache, 1)[0] == [""]
    cache.flush()
    assert cache.totals()[0].paid_usd > paid
    assert {row.kind for row in cache.ledger.rows()} >= {"miss", "hit"}
    assert kept(cache.directory) >= len(OLD) + 1


@ROOT
def test_read_only_mount__is_ridden_out(open_cache, sim, folder, mounted):
    """A kernel on a read-only file system serves what is there and answers the rest."""
    stored = fill(open_cache(sim))
    point = mounted("--bind", folder)
    subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
    cache = open_cache(sim, directory=point)
    assert hits(cache, stored)[0] == len(OLD)
    reasons, took_s = ask_new(cache)
    assert all(reasons)
    assert max(took_s) < HANG_S
    assert hits(cache, stored)[0] == len(OLD)
    assert len(cache.database.pop_notices()) == 1


@ROOT
def test_read_only_under_an_open_kernel__is_ridden_out(open_cache, sim, folder, mounted):
    """The same when the file system becomes read-only while the kernel writes to it."""
    folder.mkdir()
    point = mounted("--bind", folder)
    cache = open_cache(sim, directory=point)
    stored = fill(cache)
    cache.close()  # a file system with a file open for writing can't be made read-only
    subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
    assert hits(cache, stored)[0] == len(OLD)
    assert all(ask_new(cache)[0])
    assert len(cache.database.pop_notices()) == 1
    subprocess.run(["mount", "-o", "remount,bind,rw", point], check=True)
    assert ask_new(cache, 1)[0] == [""]


def test_locked__costs_one_timeout(open_cache, sim, folder):
    """Another program that keeps the write lock costs one wait; then asks go by it, until it is gone."""
    cache = open_cache(sim)
    stored = fill(cache)
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        served, took_s = hits(cache, stored)
        assert served == len(OLD)
        reasons, waits_s = ask_new(cache, 4)
        assert all("locked" in reason for reason in reasons)
        assert max(took_s, *waits_s[1:]) < waits_s[0]
        assert len(cache.database.pop_notices()) == 1
    cache.flush()
    assert ask_new(cache, 1)[0] == [""]
    assert cache.totals()[0].misses == len(OLD) + 5


def test_locked_for_reading__serves_what_was_written_out(open_cache, sim, folder):
    """Where even reading is locked, what is in the file is read past the lock, at one wait in all."""
    stored = fill(first := open_cache(sim))
    first.close()
    with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE x (y)")
        cache = open_cache(sim)
        served, took_s = hits(cache, stored)
        assert served == len(OLD)
        served, again_s = hits(cache, stored)
        assert served == len(OLD)
        assert again_s < took_s
        other.execute("ROLLBACK")


def overwrite(path, stored):
    data = bytearray(path.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : (page + 1) * 4096] = os.urandom(4096)
    with path.open("r+b") as file:
        file.write(data)


def truncate(path, stored):
    os.truncate(path, 4096 * 3)  # the schema is whole


def garbage(path, stored):
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 20)


@pytest.mark.parametrize("damage", [overwrite, truncate, garbage])
def test_damage_under_an_open_kernel__is_ridden_out(kernels, folder, damage):
    """A file that is overwritten or cut short in use ends no kernel: asks are answered, and kept in a new one."""
    (kernel,) = kernels(1)

    def ask(prompt):
        kernel.tell(do="ask", prompt=prompt)
        return kernel.hear()

    texts = {prompt: ask(prompt)["text"] for prompt in OLD}
    damage(folder / "cache.db", texts)
    damaged = (folder / "cache.db").read_bytes()
    said = [ask(prompt) for prompt in (*OLD, *OLD)]
    assert [one["text"] for one in said] == [*texts.values(), *texts.values()]
    assert {one["not_stored"] for one in said} == {""}
    assert said[-1]["kind"] == "hit"
    notices = [notice for one in said for notice in one["notices"]]
    assert len(notices) == 1
    assert "set aside" in notices[0]
    (aside,) = folder.glob("cache.db.corrupt-*Z")
    assert aside.stat().st_size >= min(len(damaged), 4096 * 3)
    assert kept(folder) == len(OLD)


CUT = """
import os, sys
from contextlib import suppress
from or_cache_magic.storage.database import Database
from or_cache_magic.errors import StoreCorruptError
database = Database(sys.argv[1])
with database.transaction():
    for number in range(30):
        database.cache().set(f"{number:064d}", os.urandom(3000))
database.checkpoint()
assert len(database.select("SELECT key, value FROM Cache")) == 30
os.truncate(database.path, 8192)
with suppress(StoreCorruptError):  # what SQLite has in memory it still reads
    database.select("SELECT key, value FROM Cache")
database.close()
print("alive")
"""


def test_cut_file__ends_no_kernel(tmp_path):
    """Reading on in a file that was cut short in place (cp, rsync) ends in no signal: see `SETTINGS`."""
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "alive\n"


def test_damage_met_in_writing__costs_no_answer(open_cache, sim, folder):
    """An answer whose writing meets the damage first is kept in the file that is begun then."""
    stored = fill(first := open_cache(sim))
    ((page,),) = first.database.select("SELECT rootpage FROM sqlite_master WHERE name = 'or_ledger'")
    first.close()
    with (folder / "cache.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    cache = open_cache(sim)
    assert hits(cache, stored)[0] == len(OLD)
    answer = cache.ask(OLD[0], mode="refresh")
    assert answer.outcome.stored
    assert cache.ask(OLD[0]).outcome.kind == "hit"
    (notice,) = cache.database.pop_notices()
    assert "set aside" in notice


def test_replaced_file__is_noticed(open_cache, sim, folder, tmp_path):
    """Another file under the same name (a git checkout) is read at once, and written to."""
    other = open_cache(sim, directory=tmp_path / "other")
    theirs = str(other.ask("Their question"))
    other.close()
    cache = open_cache(sim)
    stored = fill(cache)
    os.replace(tmp_path / "other" / "cache.db", folder / "cache.db")
    assert cache.ask("Their question") == theirs
    assert cache.ask("Their question").outcome.kind == "hit"
    assert hits(cache, stored)[0] == 0
    assert ask_new(cache, 1)[0] == [""]
    assert kept(folder) == 1 + len(OLD) + 1
    assert cache.database.pop_notices() == ()


def test_deleted_folder__is_made_again(open_cache, sim, folder):
    """What is asked after the folder was deleted is kept in a new one."""
    cache = open_cache(sim)
    fill(cache)
    shutil.rmtree(folder)
    assert ask_new(cache)[0] == ["", "", ""]
    assert kept(folder) == 3


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:41 / /home/me/lab rw,relatime shared:9 - nfs4 server:/export/lab rw,vers=4.2
31 30 0:42 / /home/me/lab/local rw - tmpfs tmpfs rw
32 22 0:43 / /mnt/with\\040space rw - cifs //server/share rw
33 22 0:44 / /content/drive rw,nosuid - fuse drive rw
34 22 0:45 / /data rw - fuse.sshfs me@host:/ rw
35 22 0:46 / /twice rw - nfs server:/ rw
36 22 0:47 / /twice rw - ext4 /dev/vdb rw
37 22 0:48 / /disk rw - fuseblk /dev/sdb1 rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/me", None),
        ("/home/me/lab", "nfs4"),
        ("/home/me/lab/deep/.or_cache", "nfs4"),
        ("/home/me/lab/local/.or_cache", None),
        ("/home/me/laboratory", None),
        ("/mnt/with space/x", "cifs"),
        ("/content/drive/MyDrive", "fuse"),
        ("/data/x", "fuse.sshfs"),
        ("/twice/x", None),
        ("/disk/x", None),
    ],
)
def test_network_file_system__is_named(path, found):
    """The mount that a folder is on decides: the innermost, and of two on one point the later."""
    assert network_file_system(path, MOUNTS) == found


def test_network_file_system__finds_links(tmp_path):
    """A link into a network file system is followed."""
    link = tmp_path / "link"
    target = tmp_path / "remote"
    target.mkdir()
    link.symlink_to(target)
    mounts = f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {os.path.realpath(target)} rw - nfs b rw\n"
    assert network_file_system(link / "new", mounts) == "nfs"
    assert network_file_system(tmp_path, mounts) is None
