"""Pieces of many files, read into one block by one loop: compiled, or its twin in Python.

The rule: the loop ends before anything unusual, such as a file in another state, a link or a short
read. That piece is read by its handle, which finds and words the error, and the loop goes on behind
it. Files of stores and archives, and of slow file systems, are read by their handles alone.
"""

import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dicomdl._kernels import compiled_or
from dicomdl.arrays import Ints
from dicomdl.errors import PixelError, UntrustedRoot
from dicomdl.storage.ahead import Span, waits_for
from dicomdl.storage.handles import COMPARED, UNKNOWN, MovedPath, Source
from dicomdl.storage.locations import SEPARATOR
from dicomdl.storage.paths import must_be_no_link
from dicomdl.storage.sources import close_kept_descriptors, kept_descriptors, read_pieces
from dicomdl.storage.system import CAN_SHARE, NO_LINK_FLAGS, OPEN_FLAGS, read_into

Bytes = npt.NDArray[np.uint8]
Descriptors = npt.NDArray[np.int32]
# Bytes of one call: between calls, an interrupt is noticed.
_MOST_AT_ONCE: Final = 32 * 2**20
_NO_BAND: Final = np.empty(0, np.uint8)


class Places(NamedTuple):
    """Where pieces begin, as the loop takes it.

    Attributes
    ----------
    paths
        The path of the file of each piece.
    facts
        (pieces, 3) int64: size in bytes, modification time and change time in ns of each file.
        Without a modification time, UNKNOWN, any state will do; an UNKNOWN change time is not
        compared.
    offsets
        (pieces,) int64: the first byte of each piece.
    flags
        With which files are opened.
    """

    paths: tuple[bytes, ...]
    facts: Ints
    offsets: Ints
    flags: int


class Window(NamedTuple):
    """The part of each piece that is read: bytes `lead` to ``lead + width`` of some rows.

    `begin` is the offset of the first row in the piece, `row_bytes` the distance of rows.
    """

    begin: int
    rows: int
    row_bytes: int
    lead: int
    width: int

    @property
    def size(self) -> int:
        """The bytes of the part of one piece."""
        return self.rows * self.width

    @property
    def band_size(self) -> int:
        """The bytes of memory that the loop needs for complete rows; 0 where it reads these."""
        return 0 if self.width == self.row_bytes else self.rows * self.row_bytes


def pure_fill_block(
    places: Places,
    first: int,
    window: Window,
    out: Bytes,
    band: Bytes,
    kept: Descriptors | None,
) -> int:
    """Fill `out` with the window of consecutive pieces; return how many are complete.

    Fewer than `out` has room for where the next one needs its handle. `band` has
    ``window.band_size`` bytes. `kept` has the open descriptor of each piece, -1 where there is
    none; descriptors that are opened stay there, or are closed without `kept`.
    """
    parts = out.reshape(-1, window.size)
    rows = band[: window.band_size].reshape(window.rows, -1) if window.band_size else None
    columns = slice(window.lead, window.lead + window.width)
    for done, part in enumerate(parts):
        descriptor = _opened(places, first + done, kept)
        if descriptor < 0:
            return done
        buffer = part if rows is None else rows
        try:
            found = read_into(
                descriptor, buffer.data, int(places.offsets[first + done]) + window.begin
            )
        except OSError:
            found = -1
        finally:
            if kept is None:
                os.close(descriptor)
        if found < buffer.nbytes:
            return done
        if rows is not None:
            part.reshape(window.rows, window.width)[...] = rows[:, columns]
    return len(parts)


fill_block = compiled_or(pure_fill_block)


def _opened(places: Places, piece: int, kept: Descriptors | None) -> int:
    """Return the descriptor of a file in the state of the scan; -1 where there is none."""
    if kept is not None and (descriptor := int(kept[piece])) >= 0:
        if _is_as_scanned(places, piece, descriptor, may_be_gone=False):
            return descriptor
        os.close(descriptor)
        kept[piece] = -1
    try:
        descriptor = os.open(places.paths[piece], places.flags)
    except OSError:
        return -1
    if not _is_as_scanned(places, piece, descriptor, may_be_gone=True):
        os.close(descriptor)
        return -1
    if kept is not None:
        kept[piece] = descriptor
    return descriptor


def _is_as_scanned(places: Places, piece: int, descriptor: int, *, may_be_gone: bool) -> bool:
    status = os.fstat(descriptor)
    size, modified, changed = places.facts[piece].tolist()
    # Another file may stand in the place of one that has no name left.
    return (may_be_gone or status.st_nlink > 0) and (
        modified == UNKNOWN
        or (
            status.st_size == size
            and status.st_mtime_ns == modified
            and changed in (UNKNOWN, status.st_ctime_ns)
        )
    )


class Pieces:
    """Pieces of files that are read together, such as the slices of a stack.

    Parameters
    ----------
    files
        The file of each piece, in the state of the scan.
    offsets
        (pieces,) int64: the first byte of each.
    note
        A function that adds to an error what the piece of a number is.
    """

    def __init__(
        self, files: Sequence[Source], offsets: Ints, note: Callable[[PixelError, int], None]
    ) -> None:
        self._files, self._offsets, self._note = files, offsets, note
        self._places = _places(files, offsets)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, first: int, window: Window, out: Bytes, band: Bytes = _NO_BAND) -> None:
        """Fill `out`, C-contiguous bytes, with the window of pieces from number `first`.

        Raises
        ------
        PixelError
            A file is missing, in another state, or too short; with the note of its piece.
        """
        parts = out.reshape(-1, window.size)
        if self._places is None or self.waits(first, len(parts), window):
            self._read_by_handles(first, window, parts, band)
            return
        step, done = max(1, _MOST_AT_ONCE // window.size), 0
        while done < len(parts):
            part = parts[done : done + step]
            kept = kept_descriptors(self, first + done, len(part))
            complete = fill_block(self._places, first + done, window, part, band, kept)
            done += complete
            if complete < len(part):
                # The system may lack the descriptors that stay open.
                close_kept_descriptors()
                self._read_by_handles(first + done, window, parts[done : done + 1], band)
                done += 1

    def waits(self, first: int, count: int, window: Window) -> bool:
        """Whether reading the pieces one by one waits for a server, or was begun ahead."""
        return waits_for(self._files[first], lambda: self._spans(first, count, window))

    def _spans(self, first: int, count: int, window: Window) -> list[Span]:
        size = window.rows * window.row_bytes
        return [
            Span(file, offset + window.begin, size) for file, offset in self._pieces(first, count)
        ]

    def _pieces(self, first: int, count: int) -> list[tuple[Source, int]]:
        part = slice(first, first + count)
        return list(zip(self._files[part], self._offsets[part].tolist(), strict=True))

    def _read_by_handles(self, first: int, window: Window, parts: Bytes, band: Bytes) -> None:
        pieces = [(file, offset + window.begin) for file, offset in self._pieces(first, len(parts))]
        rows = None
        if window.band_size:
            rows = band[: window.band_size].reshape(window.rows, window.row_bytes)
        buffers = list(parts) if rows is None else [rows] * len(parts)
        done = 0
        try:
            for _ in read_pieces(pieces, buffers):
                if rows is not None:
                    chosen = rows[:, window.lead : window.lead + window.width]
                    parts[done].reshape(chosen.shape)[...] = chosen
                done += 1
        except PixelError as error:
            self._note(error, first + done)
            raise


def _places(files: Sequence[Source], offsets: Ints) -> Places | None:
    """Return where pieces begin for the loop; None for files that need their handles."""
    # The loop compares what is compared where the change time is one.
    paths = [file.path for file in files]
    if COMPARED != 3 or not CAN_SHARE or any(SEPARATOR in path or "\0" in path for path in paths):
        return None
    try:
        no_link = any(type(path) is not str and must_be_no_link(path) for path in paths)
    except UntrustedRoot:
        return None
    flags = NO_LINK_FLAGS if no_link else OPEN_FLAGS
    if flags is None:
        return None
    facts = [
        (file.size, file.mtime_ns, UNKNOWN if isinstance(file.path, MovedPath) else file.ctime_ns)
        for file in files
    ]
    found = np.array(facts, np.int64).reshape(-1, 3)
    return Places(tuple(map(os.fsencode, paths)), found, np.ascontiguousarray(offsets), flags)
