"""Names of temporary files and folders that tell their process, and removal of what dead ones left.

A process that is killed removes nothing. The next one that makes a temporary file or folder finds
what it left by the name: machine, process and start of the process. Windows, where a process cannot
be asked for without harm, keeps it.
"""

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
from typing import Final

_OURS: Final = re.compile(r"dicomdl-[a-z]+-([0-9a-f]{12})-([1-9]\d{0,8})-(\d+)-\w+(\.jsonl)?")


def scratch_prefix(kind: str) -> str:
    """Return the begin of the name of a temporary file of this process.

    Names are this prefix, letters and digits, and perhaps ".jsonl". What processes of this user and
    machine left that have died is removed, once per process.
    """
    _clear_once()
    process = os.getpid()
    return f"dicomdl-{kind}-{_realm()}-{process}-{_start_of(process) or 0}-"


@functools.cache
def _clear_once() -> None:
    remove_left(tempfile.gettempdir())


def remove_left(folder: str) -> None:
    """Remove files and folders of `scratch_prefix` whose processes have died."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            named = _OURS.fullmatch(entry.name)
            if named and named[1] == _realm() and not _lives(int(named[2]), int(named[3])):
                _remove(entry.path)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
            return
        if stat.S_ISDIR(status.st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


@functools.cache
def _realm() -> str:
    """Return 12 hexadecimal digits for where numbers of processes mean the same: the machine.

    On Linux it is the PID namespace of a container.
    """
    namespace = ""
    with contextlib.suppress(OSError, AttributeError):
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.blake2b(f"{platform.node()} {namespace}".encode(), digest_size=6).hexdigest()


def _lives(process: int, start: int) -> bool:
    """Whether a process lives that had this start; True where that cannot be known."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is another user's, who has the number now.
        return False
    found = _start_of(process)
    return found is None or found == start


def _start_of(process: int) -> int | None:
    """Return when a process started, in ticks since the machine's start; None if unknown."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            # Field 22; the name of the program, in brackets, may hold anything.
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
