"""Locks among processes that spare work: on files, and on single bytes of shared memory.

File locks are those of `filelock`, on every platform; locks on bytes are POSIX record locks. The
system releases both when their process dies. Results never depend on a lock: some network file
systems have none, and a process that waits too long continues without one.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:
    # Windows has no record locks, so there the memory of a cache is each worker's own.
    _fcntl = None

# The longest that a process waits for another one that makes the same entry.
LOCK_WAIT_S: Final = 30.0
_POLL_S: Final = 0.01


def available() -> bool:
    """Whether this system has record locks."""
    return _fcntl is not None


@contextlib.contextmanager
def alone(path: str, wait_s: float | None = None) -> Iterator[bool | None]:
    """Hold the lock of a file while the block runs, or go without it.

    True where the lock is held. False where another process has held it for `wait_s`, by default
    `LOCK_WAIT_S`. None where it cannot be had: no locks on this file system, no right to write.
    The file is created for the lock and removed with it.
    """
    lock = _file_lock(path)
    try:
        held = _acquired(lock, LOCK_WAIT_S if wait_s is None else wait_s)
    except (OSError, RuntimeError):
        held = None
        _remove(path)
    try:
        yield held
    finally:
        if held:
            # Before the release, so that no process that waits gets a lock which the next one to
            # come does not see. Windows removes no open file: there it is removed after.
            if os.name != "nt":
                _remove(path)
            with contextlib.suppress(OSError, RuntimeError):
                lock.release()
            if os.name == "nt":
                _remove(path)


def _file_lock(path: str) -> Any:
    import filelock

    # Its fallback, a file that stands for the lock, would outlive a process that is killed.
    return filelock.FileLock(path, mode=0o600, fallback_to_soft=False)


def _acquired(lock: Any, wait_s: float) -> bool:
    import filelock

    try:
        lock.acquire(timeout=wait_s, poll_interval=_POLL_S)
    except filelock.Timeout:
        return False
    return True


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def record_lock(descriptor: int, byte: int, end: float) -> bool:
    """Whether the lock of one byte of an open file was acquired by `end` (of time.monotonic).

    True where there are no locks. Record locks belong to a process, are not inherited by fork, and
    are released when it dies; its threads need another lock among them.
    """
    pause = 0.0005
    while _fcntl is not None:
        try:
            _fcntl.lockf(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            # POSIX lets a system choose between EAGAIN and EACCES.
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
    """Release the lock of one byte."""
    if _fcntl is not None:
        with contextlib.suppress(OSError):
            _fcntl.lockf(descriptor, _fcntl.LOCK_UN, 1, byte)
