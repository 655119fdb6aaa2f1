"""Journals: lines of JSON that are only ever added, so that a killed process loses its last line.

Lines are written by one call, behind all others. A line that was cut is passed over when the
journal is read, and the next one begins anew behind it.
"""

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dicomdl.storage.json_texts import parsed
from dicomdl.storage.publishing import explained, make_folder, open_regular
from dicomdl.storage.system import OPEN_FLAGS


class Journal:
    """A journal that threads of one process add to.

    Parameters
    ----------
    path
        The file, which is created for its owner only, with its folder.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._descriptor = -1

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add a line.

        Raises
        ------
        StorageError
            The disk is full, or the file cannot be written.
        """
        self.add_all([entry])

    def add_all(self, given: Iterable[Mapping[str, Any]]) -> None:
        """Add lines by one call.

        Raises
        ------
        StorageError
            The disk is full, or the file cannot be written.
        """
        lines = b"".join(map(_line, given))
        if not lines:
            return
        with self._lock, explained(f"{self.path!r} cannot be written"):
            if self._descriptor < 0:
                make_folder(os.path.dirname(self.path))
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | OPEN_FLAGS
                self._descriptor = os.open(self.path, flags, 0o600)
            if os.write(self._descriptor, lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Flush the lines to the disk, and close the file."""
        with self._lock, explained(f"{self.path!r} cannot be written"):
            if self._descriptor >= 0:
                os.fsync(self._descriptor)
                os.close(self._descriptor)
                self._descriptor = -1


def _line(entry: Mapping[str, Any]) -> bytes:
    return b"\n" + json.dumps(dict(entry), separators=(",", ":")).encode() + b"\n"


def entries(path: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a journal; none if there is no file.

    Raises
    ------
    StorageError
        The file cannot be read.
    """
    with explained(f"{path!r} cannot be read"):
        try:
            file = open_regular(path)
        except FileNotFoundError:
            return
        with file:
            for line in file:
                with contextlib.suppress(ValueError):
                    entry = parsed(line)
                    if isinstance(entry, dict):
                        yield entry
