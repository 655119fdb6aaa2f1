"""What reading leaves in the user's cache folder: ranges, copies of archives, and pictures.

All of it is made again when it is needed.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from dicomdl.printing import printable
from dicomdl.storage import _byte_cache, copies
from dicomdl.storage.publishing import cache_root

# The folder of the pictures that reports have drawn, in the user's cache folder.
PICTURES: Final = "pictures"


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
    """Report ranges of objects, copies of archives, and pictures, from listings alone."""
    return [_ranges(), _copies(), _pictures()]


def verify_kept() -> list[Kept]:
    """Report them, and compare the checksums of all ranges, without any change."""
    damaged = _byte_cache.damaged_files(_folder(_byte_cache.PART))
    return [_ranges(damaged=damaged), _copies(), _pictures()]


def clear_kept() -> list[Kept]:
    """Remove them, and report what was removed."""
    removed = _byte_cache.clear(_folder(_byte_cache.PART))
    of_pictures = sum(size for _, size, _ in _files_below(_folder(PICTURES)))
    shutil.rmtree(_folder(PICTURES), ignore_errors=True)
    return [
        _ranges(removed_bytes=removed),
        _copies(removed_bytes=copies.clear()),
        _pictures(removed_bytes=of_pictures),
    ]


def _folder(part: str) -> str:
    return os.path.join(cache_root(), part)


def _ranges(**more: Any) -> Kept:
    limit, name = _byte_cache.limit_bytes(), _byte_cache.VARIABLE
    bound = f"at most {limit / 2**30:,.3g} GiB ({name})" if limit else f"switched off ({name})"
    return _kept("ranges of objects", _byte_cache.PART, _byte_cache.used_files, bound, limit, more)


def _copies(**more: Any) -> Kept:
    bound = "at most what leaves 2 % of the disk free"
    return _kept("copies of archives", copies.PART, copies.used_files, bound, None, more)


def _pictures(**more: Any) -> Kept:
    bound = "of indexes that no report has drawn for 30 days, none"
    return _kept("pictures of reports", PICTURES, _files_below, bound, None, more)


def _files_below(folder: str) -> list[tuple[float, int, str]]:
    """Return (time of the last change, bytes, path) of all files below a folder."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.stat(os.path.join(parent, name))
                found.append((status.st_mtime, status.st_size, os.path.join(parent, name)))
    return found


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
