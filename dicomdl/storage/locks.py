"""Locks between processes, on files and on single bytes of shared memory, that only spare work.

File locks are those of `filelock`, on every platform. Byte locks are POSIX record locks. The system
releases both when their process dies. Results never depend on a lock: some network file systems
have none, and a process that waits too long continues without one.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:
    # Windows has no record locks, so there every worker has a separate memory cache.
    _fcntl = None

# Longest wait of a process for another one that computes the same entry.
LOCK_WAIT_S: Final = 30.0
_POLL_S: Final = 0.01


def available() -> bool:
    """Return whether this system has record locks."""
    return _fcntl is not None


@contextlib.contextmanager
def alone(path: str, wait_s: float | None = None) -> Iterator[bool | None]:
    """Hold the lock of a file while the block runs, if possible.

    Yields True when the lock is held; False when another process has held it for `wait_s` (by
    default `LOCK_WAIT_S`); None when locking is impossible (a file system without locks, no write
    permission). The file is created for the lock and removed with it.
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
            # Removal before the release: a waiting process would otherwise get the lock of a file
            # that is then removed, and a later process would lock a new file at the same time.
            # Windows cannot remove an open file, so there the removal comes after.
            if os.name != "nt":
                _remove(path)
            with contextlib.suppress(OSError, RuntimeError):
                lock.release()
            if os.name == "nt":
                _remove(path)


def _file_lock(path: str) -> Any:
    import filelock

    # The soft fallback, a marker file, would outlive a process that is killed.
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


@contextlib.contextmanager
def held_while(path: str) -> Iterator[None]:
    """Hold the lock of a new file while the block runs, so that others see that it runs.

    The file stays, and may be removed in the block. Windows gets none. This is a lock of the open
    file (flock), which costs no import of `filelock` (60 ms).

    Raises
    ------
    FileNotFoundError
        Another process has removed the file, which it found before it was locked.
    """
    if _fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # Another process may hold the lock for a moment, to see whether this one does (`probed`).
        _wait_for(descriptor)
        if os.fstat(descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone_in(folder: str) -> Iterator[None]:
    """Hold the lock of a folder while the block runs, if possible, after a wait for others.

    Unlike that of `alone`, it needs no file, which an older version would not know.
    """
    descriptor = None
    with contextlib.suppress(OSError):
        # Windows opens no folders.
        descriptor = None if _fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        if descriptor is not None:
            _wait_for(descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait_for(descriptor: int) -> None:
    """Lock an open file until it is closed, if possible, after a wait for others."""
    end = time.monotonic() + LOCK_WAIT_S
    while _fcntl is not None and time.monotonic() < end:
        try:
            _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_POLL_S)
        except OSError:
            # The file system has no locks.
            return
        else:
            return


def lock_file(descriptor: int) -> bool:
    """Lock an open file until it is closed, as `held_while` does; return whether that worked."""
    if _fcntl is None:
        return False
    try:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_held(path: str) -> bool | None:
    """Whether a process holds the lock of a file of `held_while`.

    None if that cannot be known: without the file, and on systems without such locks.
    """
    with probed(path) as held:
        return held


@contextlib.contextmanager
def probed(path: str) -> Iterator[bool | None]:
    """Yield whether a process holds the lock of a file, as `is_held`; if not, this one then does.

    A process that has just created the file waits for the end of the block: what the block removes
    was that of no process that lives.
    """
    descriptor, held = None, None
    if _fcntl is not None:
        with contextlib.suppress(OSError):
            # Locks of NFS need a file that is open for writing.
            descriptor = os.open(path, os.O_RDWR)
    try:
        if _fcntl is not None and descriptor is not None:
            try:
                _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
                held = False
            except BlockingIOError:
                held = True
            except OSError:
                held = None
        yield held
    finally:
        if descriptor is not None:
            os.close(descriptor)


def record_lock(descriptor: int, byte: int, end: float) -> bool:
    """Acquire the lock of one byte of an open file; return whether it was acquired in time.

    `end` is a time of `time.monotonic`. The result is True on systems without locks. Record locks
    belong to a process, are not inherited by fork, and are released when the process dies. Threads
    of one process need an additional lock among themselves.
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
