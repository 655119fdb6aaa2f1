"""Leases: which process does a piece of work, among those that share a folder.

A lease is a file beside the work. It appears in one step, with the name of its owner in it, and
its owner touches it every `BEAT_S` seconds and removes it in the end. The lease of a process that
died is taken over: at once on the machine of the process, where its lock on the file is gone, and
elsewhere when nobody has touched the file for `STALE_S` seconds by the clock of the file system.

A lease only spares work, as every lock here: two processes that do one piece of work write the same
bytes, each in one step.
"""

import contextlib
import json
import os
import platform
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.storage import locks
from dicomdl.storage.json_texts import parsed
from dicomdl.storage.publishing import explained, make_folder

BEAT_S: Final = 15.0
STALE_S: Final = 120.0
_MOST_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that a lease names, and the word that it gave (`Lease.word`)."""

    machine: str
    process: int
    token: str
    is_locked: bool
    word: str = ""


@contextlib.contextmanager
def lease(path: str, *, word: str = "", stale_s: float = STALE_S) -> Iterator[bool]:
    """Hold the lease at `path` while the block runs; yield whether this process has it.

    Parameters
    ----------
    path
        The file. Its folder is created if it is absent.
    word
        Text that the lease holds, by which `release` knows it.
    stale_s
        Seconds without a touch after which the lease of another machine is taken over.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    make_folder(os.path.dirname(path))
    token = secrets.token_hex(8)
    temporary = f"{path}.{token}.tmp"
    with contextlib.ExitStack() as held:
        with explained(f"the lease {path!r} cannot be written"):
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            held.callback(os.close, descriptor)
            held.callback(_remove, temporary)
            is_locked = locks.lock_file(descriptor)
            owner = Owner(platform.node(), os.getpid(), token, is_locked, word)
            os.write(descriptor, json.dumps(_plain(owner)).encode())
            now = os.stat(temporary).st_mtime
            _remove_left(path, now, stale_s)
            is_mine = _put(temporary, path)
            _remove(temporary)
        if not is_mine:
            yield False
            return
        held.callback(_remove_own, path, token)
        stopped = threading.Event()
        beat = threading.Thread(target=_touch, args=(path, token, stopped), daemon=True)
        beat.start()
        held.callback(beat.join)
        held.callback(stopped.set)
        yield True


def release(path: str, word: str) -> None:
    """Remove the lease at `path` if it holds `word`, for an owner that is known to have died."""
    owner = _read(path)
    if owner is not None and word and owner.word == word:
        _remove_own(path, owner.token)


def _put(temporary: str, path: str) -> bool:
    """Give a file its name in one step, unless another file has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        # A file system without links. Between the two steps, another process may do the same.
        if os.path.exists(path):
            return False
        os.rename(temporary, path)
    return True


def _remove_left(path: str, now: float, stale_s: float) -> None:
    """Remove a lease that a process has left."""
    owner = _read(path)
    if owner is None or not _is_left(path, owner, now, stale_s):
        return
    # Of several processes, one renames it; a lease that is new meanwhile goes back.
    taken = f"{path}.{secrets.token_hex(8)}.tmp"
    with contextlib.suppress(OSError):
        os.rename(path, taken)
        found = _read(taken)
        if found is not None and found.token != owner.token:
            with contextlib.suppress(OSError):
                os.link(taken, path)
        os.unlink(taken)


def _is_left(path: str, owner: Owner, now: float, stale_s: float) -> bool:
    is_held = locks.is_held(path)
    if is_held:
        return False
    if is_held is False and owner.is_locked and owner.machine == platform.node():
        return True
    try:
        # Also a time ahead of the clock: the owner would have touched the file since.
        return abs(now - os.stat(path).st_mtime) > stale_s
    except OSError:
        return False


def _touch(path: str, token: str, stopped: threading.Event) -> None:
    while not stopped.wait(BEAT_S):
        owner = _read(path)
        if owner is not None and owner.token == token:
            with contextlib.suppress(OSError):
                os.utime(path)


def _read(path: str) -> Owner | None:
    """Return the owner that a lease names; None without a lease, or for another file."""
    try:
        with open(path, "rb") as file:
            return Owner(**parsed(file.read(_MOST_BYTES)))
    except (OSError, ValueError, TypeError):
        return None


def _plain(owner: Owner) -> dict[str, Any]:
    return {name: getattr(owner, name) for name in Owner.__slots__}


def _remove_own(path: str, token: str) -> None:
    owner = _read(path)
    if owner is not None and owner.token == token:
        _remove(path)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
