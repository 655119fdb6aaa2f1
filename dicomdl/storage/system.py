"""Operating-system differences: positioned reads, flags for opening files, cores and memory."""

import os
from typing import Final

# O_NONBLOCK keeps a scan from hanging on a FIFO that has replaced a file since the walk.
# O_BINARY exists on Windows only.
OPEN_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)

# With these, the system does not open a link. None where it cannot tell, which is on Windows.
NO_LINK_FLAGS: Final = OPEN_FLAGS | os.O_NOFOLLOW if hasattr(os, "O_NOFOLLOW") else None

# The variable that lowers the number of cores.
_CORES: Final = "DICOMDL_CORES"
_HAS_PREADV: Final = hasattr(os, "preadv")
# Whether threads may read one descriptor at the same time: positions are given, not moved.
CAN_SHARE: Final = _HAS_PREADV and hasattr(os, "pread")


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Read up to `length` bytes at `offset` of an open file; fewer at its end."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    # Windows. Moving the position is safe: threads share no descriptors here.
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


def read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` from `offset` of an open file, without a copy.

    The result is the number of bytes read. One call reads 2 GiB at most.
    """
    if _HAS_PREADV:
        return os.preadv(descriptor, (buffer,), offset)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(offset)
        return file.readinto(buffer) or 0


def available_cores() -> int:
    """Return the number of cores that this process may use: in a container, fewer than exist.

    The environment variable ``DICOMDL_CORES`` lowers it.
    """
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    given = os.environ.get(_CORES, "")
    return min(count, int(given)) if given.isdecimal() and int(given) else count


def share_cores(count: int) -> None:
    """Let this process and its children use no more than so many cores."""
    os.environ[_CORES] = str(count)


def physical_memory() -> int | None:
    """Return the bytes of memory of the machine; None on systems that do not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
