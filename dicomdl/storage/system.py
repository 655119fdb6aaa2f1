"""Differences between operating systems: positioned reads, flags for opening, cores, memory."""

import os
from typing import Final

# O_NONBLOCK: a FIFO that has taken a file's place since the walk must not hang a scan.
# O_BINARY exists on Windows only.
OPEN_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)

_HAS_PREADV: Final = hasattr(os, "preadv")


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Up to `length` bytes at `offset` of an open file; fewer at its end."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    # Windows: descriptors are not shared between threads here.
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


def read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` from `offset` of an open file, without a copy.

    Returns the number of bytes read; one call reads 2 GiB at most.
    """
    if _HAS_PREADV:
        return os.preadv(descriptor, (buffer,), offset)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(offset)
        return file.readinto(buffer) or 0


def available_cores() -> int:
    """The cores that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_memory() -> int | None:
    """The bytes of memory that the machine has; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
