"""The directory of an archive: the members that may be read, and what was refused of the others.

A directory of 100,000 members takes about 12 MB: the names are one text, sorted, and all numbers
are columns. Objects per member would take ten times as much.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dicomdl.errors import PixelError
from dicomdl.storage.locations import member_name

STORED: Final = 0
# Above all sizes and offsets of archives; zip64 and tar can state larger ones, beyond 64 bits.
LARGEST: Final = 2**62
# The memory of LZMA, which grows to the dictionary: 64 MiB at the highest level of xz and 7-Zip.
LARGEST_DICTIONARY: Final = 2**27


class ArchiveLimits(NamedTuple):
    """The most members of an archive, and the most bytes that one of them may inflate to."""

    members: int = 2_000_000
    inflated_bytes: int = 512 * 2**20


class Member(NamedTuple):
    """A member, and where its bytes are.

    `start` is the offset of its bytes in a tar, and of its local header in a zip. No byte at or
    behind `end` belongs to it. `method` is that of PKWARE's APPNOTE 4.4.5; 0 is stored.
    """

    name: str
    start: int
    size: int
    packed: int = 0
    method: int = STORED
    crc: int = 0
    end: int = 0


class Refused(NamedTuple):
    """A member that must not be read, or the archive itself (name ""), and why."""

    name: str
    reason: str
    detail: str
    size: int = 0


def unreadable(reason: str, detail: str) -> PixelError:
    """Return the error for an archive, or for a member, that cannot be read."""
    return PixelError(detail, reason=reason)


@dataclass(frozen=True, slots=True, eq=False)
class Directory:
    """The members of an archive by name, in the order of the bytes of their names."""

    names: "Names"
    # (members, 6) start, size, packed, method, crc and end.
    numbers: npt.NDArray[np.int64]
    refused: Sequence[Refused]
    is_zip: bool

    @property
    def nbytes(self) -> int:
        """The bytes that the directory takes."""
        return len(self.names.text) + self.names.ends.nbytes + self.numbers.nbytes

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Member]:
        for row, numbers in enumerate(self.numbers.tolist()):
            yield Member(self.names[row].decode("utf-8", "surrogateescape"), *numbers)

    def find(self, name: str) -> Member | None:
        """Return a member; None without one of this name."""
        raw = name.encode("utf-8", "surrogateescape")
        row = bisect.bisect_left(self.names, raw)
        if row == len(self.names) or self.names[row] != raw:
            return None
        return Member(name, *self.numbers[row].tolist())


class Names(Sequence[bytes]):
    """Sorted names in one text."""

    __slots__ = ("ends", "text")

    def __init__(self, names: Sequence[bytes]) -> None:
        self.text = b"".join(names)
        self.ends = np.cumsum([0, *map(len, names)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: Any) -> Any:
        return self.text[self.ends[row] : self.ends[row + 1]]


_BEYOND: Final = (
    "damaged_archive",
    "the archive states a size or an offset of the member that no file has: it is damaged",
)


class Listing:
    """Collects the members of an archive, and refuses names that lead out of it or occur twice.

    Members whose numbers no file has are refused, too.
    """

    def __init__(self, limits: ArchiveLimits) -> None:
        self.refused: list[Refused] = []
        self._limits = limits
        self._members: dict[bytes, tuple[int, ...]] = {}
        self._met = 0

    def add(self, raw: str, *numbers: int, problem: tuple[str, str] | None = None) -> None:
        """Add a member by the name that the archive has, with the numbers of `Member`."""
        self._met += 1
        if self._met > self._limits.members:
            raise too_many(self._limits)
        name, size = member_name(raw), numbers[1]
        if not all(0 <= number < LARGEST for number in numbers):
            problem, size = _BEYOND, 0
        if name is None:
            detail = "the name of the member leads out of the archive, or is no name of a file"
            self.refused.append(Refused(raw, "unsafe_name", detail, size))
        elif problem is not None:
            self.refused.append(Refused(name, *problem, size))
        elif (key := name.encode("utf-8", "surrogateescape")) in self._members:
            detail = "several members of the archive have this name: unpack it, and scan the folder"
            self.refused.append(Refused(name, "duplicate_name", detail, size))
        else:
            self._members[key] = numbers

    def directory(self, *, is_zip: bool) -> Directory:
        """Return the directory; of several members of one name none is read."""
        for each in self.refused:
            if each.reason == "duplicate_name":
                self._members.pop(each.name.encode("utf-8", "surrogateescape"), None)
        names = sorted(self._members)
        numbers = np.array([self._members[name] for name in names], dtype=np.int64)
        return Directory(Names(names), numbers.reshape(-1, 6), tuple(self.refused), is_zip)


def large_dictionary() -> PixelError:
    """Return the error for LZMA with a dictionary that this process does not give it."""
    return unreadable(
        "unsupported_compression",
        f"to be decompressed it needs a dictionary of more than {LARGEST_DICTIONARY >> 20} MiB, or "
        "than there is memory: unpack the archive",
    )


def too_many(limits: ArchiveLimits) -> PixelError:
    """Return the error for an archive with more members than are read."""
    return unreadable(
        "too_many_members",
        f"the archive has more than {limits.members} members: if it is sound, "
        "scan(limits=ReadLimits(members=...)) reads more",
    )
