"""Whether a folder is on a network file system, where SQLite's locks can't be relied on.

"How To Corrupt An SQLite Database File" (sqlite.org, 2.1) and "Write-Ahead Logging" (all processes must be
on one machine, since they share memory) say why.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

__all__ = ["network_file_system"]

_MOUNTS: Final = Path("/proc/self/mountinfo")

_REMOTE: Final = re.compile(
    "9p|afs|beegfs|ceph|cifs|davfs|glusterfs|gpfs|lustre|ncpfs|nfs4?|panfs|smb3|smbfs|vboxsf"
    # A plain "fuse" is how Colab mounts Google Drive.
    r"|fuse(\.(blobfuse2|ceph|davfs2|gcsfuse|glusterfs|goofys|juicefs|mount-s3|rclone|s3fs|sshfs))?"
)


def network_file_system(path: str | os.PathLike[str], mounts: str | None = None) -> str | None:
    """The type of the network file system that a folder is on; None when it is local, or nobody can tell.

    Linux tells in its mount table, Windows in the path. On other systems the answer is None.

    Args:
        path: The folder; it need not exist yet.
        mounts: A mount table in the form of ``/proc/self/mountinfo``; None reads the system's.
    """
    real = os.path.realpath(path)
    if real.startswith("\\\\"):
        return "a network share"
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    found, found_at = "", ""
    for line in mounts.splitlines():
        # See proc(5): the number of fields before the dash varies.
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) < 5:  # noqa: PLR2004 - the mount point is the fifth
            continue
        point = _unescaped(fields[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Of two mounts on one point the later one covers the earlier.
        if inside and len(point) >= len(found_at):
            found, found_at = kinds[0], point
    return found if _REMOTE.fullmatch(found) else None


def _unescaped(field: str) -> str:
    for escape, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(escape, char)
    return field
