"""Locks among processes that spare work: of files, by `flock`, and of single bytes of shared memory, by record locks.

The kernel releases both when their process dies. Nothing may depend on them: Windows and some network file systems have none, and who waits
too long goes on without.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Final

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except (
    ImportError
):  # Windows: no locks, so entries may be made more than once, and memory is each worker's own
    _fcntl = None

LOCK_WAIT_S: Final = (
    30.0  # the longest that anybody waits for another process that makes the same entry
)
CREATE_FLAGS: Final = (
    os.O_RDWR
    | os.O_CREAT
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
)


def available() -> bool:
    """Whether this system has locks at all."""
    return _fcntl is not None


def flock(descriptor: int) -> bool | None:
    """Whether the lock of an open file could be had at once; None where there are no locks."""
    if _fcntl is None:
        return None
    try:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_at(descriptor: int, path: str) -> bool:
    """Whether the open file is the one that the path names."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


@contextlib.contextmanager
def alone(path: str) -> Iterator[None]:
    """Be the only one who makes an entry, for as long as the file system has locks and the others take less than `LOCK_WAIT_S`.

    The kernel releases the lock of a process that dies. Whoever holds it removes the file at the end, so who gets the lock of a file that
    is no longer there begins anew.
    """
    descriptor = _wait_for_lock(path)
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.unlink(path)
            unlock(descriptor)


def _wait_for_lock(path: str) -> int | None:
    end, pause = time.monotonic() + LOCK_WAIT_S, 0.001
    while _fcntl is not None and time.monotonic() < end:
        try:
            descriptor = os.open(path, CREATE_FLAGS, 0o600)
        except OSError:
            return None
        locked = flock(descriptor)
        if locked and is_at(descriptor, path):
            return descriptor
        os.close(descriptor)
        if locked is None:
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        if not locked:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
    return None


def unlock(descriptor: int) -> None:
    """Said, not left to close(): a process that was forked meanwhile has the same open file."""
    with contextlib.suppress(OSError):
        if _fcntl is not None:
            _fcntl.flock(descriptor, _fcntl.LOCK_UN)
    os.close(descriptor)


def record_lock(descriptor: int, byte: int, end: float) -> bool:
    """Whether the lock of one byte of an open file could be had until `end`, in seconds of time.monotonic; True where there are no locks.

    Record locks belong to a process, forked or not, and go with it when it dies; its threads need another lock among them.
    """
    pause = 0.0005
    while _fcntl is not None:
        try:
            _fcntl.lockf(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB, 1, byte)
        except (
            BlockingIOError,
            PermissionError,
        ):  # POSIX lets a system choose between EAGAIN and EACCES
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01)
        except OSError:
            return False
        else:
            return True
    return True


def record_unlock(descriptor: int, byte: int) -> None:
    """Give the lock of one byte back."""
    if _fcntl is not None:
        with contextlib.suppress(OSError):
            _fcntl.lockf(descriptor, _fcntl.LOCK_UN, 1, byte)
