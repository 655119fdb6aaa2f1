"""What reading leaves in the user's cache folder: ranges of objects, and copies of archives.

All of it is made again when it is needed.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from dicomdl.printing import printable
from dicomdl.storage import _byte_cache, copies
from dicomdl.storage.publishing import cache_root


@dataclass(frozen=True, slots=True)
class Kept:
    """The files of one kind; `str` is for people, `as_dict` for machines.

    Attributes
    ----------
    content
        What the files hold.
    folder
        The absolute path, which may not exist.
    files
        Number of files.
    size_bytes
        Bytes of all files together.
    bound
        What bounds them.
    limit_bytes
        The bound in bytes; None where the free room of the disk is the bound.
    damaged
        Names of damaged files, which only `verify_kept` finds.
    removed_bytes
        Bytes of the files that `clear_kept` removed.
    """

    content: str
    folder: str
    files: int
    size_bytes: int
    bound: str
    limit_bytes: int | None = None
    damaged: tuple[str, ...] = ()
    removed_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON."""
        return {**asdict(self), "damaged": list(self.damaged)}

    def __str__(self) -> str:
        lines = [
            self.folder,
            f"  {self.content}: {self.files:,} files, {self.size_bytes / 2**20:,.1f} MiB; "
            f"{self.bound}",
        ]
        if self.removed_bytes:
            lines.append(f"  {self.removed_bytes:,} bytes removed")
        if self.damaged:
            lines.append(f"  {len(self.damaged):,} damaged, which will be asked for again:")
            lines.extend(f"    {name}" for name in self.damaged)
        return "\n".join(map(printable, lines))


def show_kept() -> list[Kept]:
    """Report the ranges of objects and the copies of archives, from listings alone."""
    return [_ranges(), _copies()]


def verify_kept() -> list[Kept]:
    """Report them, and compare the checksums of all ranges, without any change."""
    return [_ranges(damaged=_byte_cache.damaged_files(_folder(_byte_cache.PART))), _copies()]


def clear_kept() -> list[Kept]:
    """Remove them, and report what was removed."""
    removed = _byte_cache.clear(_folder(_byte_cache.PART))
    return [_ranges(removed_bytes=removed), _copies(removed_bytes=copies.clear())]


def _folder(part: str) -> str:
    return os.path.join(cache_root(), part)


def _ranges(**more: Any) -> Kept:
    limit, name = _byte_cache.limit_bytes(), _byte_cache.VARIABLE
    bound = f"at most {limit / 2**30:,.3g} GiB ({name})" if limit else f"switched off ({name})"
    return _kept("ranges of objects", _byte_cache.PART, _byte_cache.used_files, bound, limit, more)


def _copies(**more: Any) -> Kept:
    bound = "at most what leaves 2 % of the disk free"
    return _kept("copies of archives", copies.PART, copies.used_files, bound, None, more)


def _kept(
    content: str,
    part: str,
    used_files: Callable[[str], list[tuple[float, int, str]]],
    bound: str,
    limit: int | None,
    more: dict[str, Any],
) -> Kept:
    folder = _folder(part)
    sizes = [size for _, size, _ in used_files(folder)]
    return Kept(content, folder, len(sizes), sum(sizes), bound, limit, **more)
