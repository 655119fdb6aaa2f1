"""Pieces of many files, read into one block by one loop: compiled, or its twin in Python.

The loop changes samples to values as it reads, a few at a time, while they are in the processor's
cache. What a change does is decided elsewhere (`Change`).

The rule: the loop ends before anything unusual, such as a file in another state, a link or a short
read. That piece is read by its handle, which finds and words the error, and the loop goes on behind
it. Files of stores and archives, and of slow file systems, are read by their handles alone.
"""

import bisect
import copy
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dicomdl._kernels import compiled_or
from dicomdl.arrays import Bits, Ints, Values
from dicomdl.errors import PixelError, UntrustedRoot
from dicomdl.storage.ahead import Span, waits_for
from dicomdl.storage.handles import COMPARED, UNKNOWN, MovedPath, Source, stored_ns
from dicomdl.storage.locations import SEPARATOR
from dicomdl.storage.paths import must_be_no_link
from dicomdl.storage.sources import close_kept_descriptors, kept_descriptors, read_pieces
from dicomdl.storage.system import CAN_SHARE, NO_LINK_FLAGS, OPEN_FLAGS, read_into

Bytes = npt.NDArray[np.uint8]
Descriptors = npt.NDArray[np.int32]
# Bytes per thread of one call: between calls, an interrupt is noticed.
_MOST_AT_ONCE: Final = 32 * 2**20
# Starting a thread takes as long as reading a twentieth of this.
_THREAD_BYTES: Final = 4 * 2**20
# Bytes of samples that Python changes together: fewer cost calls, more leave the processor's cache.
_TOGETHER: Final = 4 * 2**20


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


class Change(Protocol):
    """What becomes of samples: a tuple that the compiled module takes, too."""

    @property
    def samples(self) -> np.dtype[Any]:
        """The dtype of samples."""

    @property
    def values(self) -> np.dtype[Any]:
        """The dtype of values."""

    def __call__(self, samples: Values, out: Values, bits: Bits | None) -> int:
        """Fill `out`, and `bits` with 1 for padding; return what was found.

        `out` may be the memory of the samples, which may be overwritten. Results of several calls
        are combined by "or".
        """


# Of each piece, one of all of them, or none for bytes as they are.
Changes: TypeAlias = Sequence[Change]


def pure_fill_block(
    places: Places,
    first: int,
    window: Window,
    out: Values,
    bits: Bits | None,
    kept: Descriptors | None,
    changes: tuple[Change, ...],
    threads: int = 1,
) -> tuple[int, int]:
    """Fill `out` with the window of consecutive pieces.

    Parameters
    ----------
    places, first
        Where pieces begin, and the number of the first one.
    window
        What is read of each.
    out
        (pieces, ...), C-contiguous: bytes, or the values of changes.
    bits
        (pieces, bytes), C-contiguous: 1 for padding. A piece begins with a byte.
    kept
        The open descriptor of each piece, -1 where there is none; descriptors that are opened stay
        there, or are closed without `kept`.
    changes
        One of each piece, one of all of them, or none for bytes as they are.
    threads
        How many share the pieces.

    Returns
    -------
    (int, int)
        How many pieces are complete: fewer than `out` has room for where the next one needs its
        handle. And what their changes have found.
    """
    threads = max(1, min(threads, len(out)))
    bounds = [len(out) * number // threads for number in range(threads + 1)]
    results = [(0, 0)] * threads

    def share(number: int) -> None:
        part = slice(*bounds[number : number + 2])
        results[number] = _filled(
            *(places, first + part.start, window, out[part]),
            *(None if bits is None else bits[part], kept),
            changes[part] if len(changes) > 1 else changes,
        )

    _in_threads(share, threads)
    complete = found = 0
    for begin, (done, more) in zip(bounds, results, strict=False):
        complete += done if complete == begin else 0
        found |= more
    return complete, found


def _in_threads(work: Callable[[int], None], count: int) -> None:
    """Call work(number) for all numbers below `count`, the last one in this thread.

    Where the system lacks a thread, this one does its work.
    """
    errors: dict[int, BaseException] = {}

    def tried(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors[number] = error

    # Futures of a pool would take as long as 5 slices.
    threads = list[threading.Thread]()
    for number in range(count - 1):
        thread = threading.Thread(target=tried, args=(number,))
        try:
            thread.start()
        except RuntimeError:
            tried(number)
        else:
            threads.append(thread)
    tried(count - 1)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]


def _filled(
    places: Places,
    first: int,
    window: Window,
    out: Values,
    bits: Bits | None,
    kept: Descriptors | None,
    changes: tuple[Change, ...],
) -> tuple[int, int]:
    """Fill `out` as `pure_fill_block` does, in one thread."""
    target = _Target(window, out, bits, changes)
    part = slice(first, first + len(out))
    facts, begins = places.facts[part].tolist(), (places.offsets[part] + window.begin).tolist()
    for done in range(len(out)):
        descriptor = _opened(places, first + done, facts[done], kept)
        if descriptor < 0:
            break
        buffer = target.buffer(done)
        try:
            length = read_into(descriptor, buffer.data, begins[done])
        except OSError:
            length = -1
        finally:
            if kept is None:
                os.close(descriptor)
        if length < buffer.nbytes:
            break
        target.deliver()
    return target.done, target.found()


class _Target:
    """The memory for pieces that are read one by one: of each, first the samples, then the values.

    Samples lie where their values go, if both have one size. Those of several pieces are changed
    together.
    """

    def __init__(
        self, window: Window, out: Values, bits: Bits | None, changes: Sequence[Change]
    ) -> None:
        self._out, self._bits, self._changes = out, bits, changes
        self.done = self._changed = self._found = 0
        samples, values = np.dtype(np.uint8), 1
        if changes:
            samples, values = changes[0].samples, changes[0].values.itemsize
        # Bits of pieces that end within a byte are no row of bits.
        is_row = bits is None or window.size // samples.itemsize % 8 == 0
        may_join = len(changes) == 1 and is_row
        count = min(len(out), max(1, _TOGETHER // window.size)) if may_join else 1
        if samples.itemsize == values:
            self._samples = out.reshape(len(out), -1).view(samples)
        else:
            self._samples = np.empty((count, window.size // samples.itemsize), samples)
        self._together = count
        self._places = self._samples.view(np.uint8).reshape(-1, window.rows, window.width)
        self._rows = self._part = None
        if window.width < window.row_bytes:
            self._rows = np.empty((window.rows, window.row_bytes), np.uint8)
            self._part = self._rows[:, window.lead : window.lead + window.width]

    def buffer(self, number: int) -> Bytes:
        """Return the memory for the bytes of a piece."""
        return self._places[number % len(self._places)] if self._rows is None else self._rows

    def deliver(self) -> None:
        """Take the next piece out of its memory."""
        if self._part is not None:
            self._places[self.done % len(self._places)] = self._part
        self.done += 1
        if self._changes and self.done - self._changed == self._together:
            self._change()

    def found(self) -> int:
        """Change the samples that are left, and return what all changes have found."""
        if self._changes and self.done > self._changed:
            self._change()
        return self._found

    def _change(self) -> None:
        """Change the pieces that were read since the last change."""
        part = slice(self._changed, self.done)
        first = part.start % len(self._samples)
        samples = self._samples[first : first + part.stop - part.start]
        change = self._changes[part.start if len(self._changes) > 1 else 0]
        out = self._out[part].reshape(samples.shape)
        bits = None if self._bits is None else self._bits[part].reshape(-1)
        self._found |= change(samples, out, bits)
        self._changed = part.stop


fill_block = compiled_or(pure_fill_block)


def _opened(places: Places, piece: int, facts: list[int], kept: Descriptors | None) -> int:
    """Return the descriptor of a file in the state of the scan; -1 where there is none."""
    if kept is not None and (descriptor := int(kept[piece])) >= 0:
        if _is_as_scanned(facts, descriptor, may_be_gone=False):
            return descriptor
        os.close(descriptor)
        kept[piece] = -1
    try:
        descriptor = os.open(places.paths[piece], places.flags)
    except OSError:
        return -1
    if not _is_as_scanned(facts, descriptor, may_be_gone=True):
        os.close(descriptor)
        return -1
    if kept is not None:
        kept[piece] = descriptor
    return descriptor


def _is_as_scanned(facts: list[int], descriptor: int, *, may_be_gone: bool) -> bool:
    status = os.fstat(descriptor)
    size, modified, changed = facts
    # Another file may stand in the place of one that has no name left.
    return (may_be_gone or status.st_nlink > 0) and (
        modified == UNKNOWN
        or (
            status.st_size == size
            and stored_ns(status.st_mtime_ns) == modified
            and changed in (UNKNOWN, stored_ns(status.st_ctime_ns))
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

    @classmethod
    def joined(cls, parts: Sequence["Pieces"]) -> "Pieces":
        """Return the pieces of all parts, one part behind the other."""
        if len(parts) == 1:
            return parts[0]
        ends = np.cumsum([len(part) for part in parts]).tolist()

        def note(error: PixelError, number: int) -> None:
            part = bisect.bisect_right(ends, number)
            parts[part]._note(error, number - ends[part] + len(parts[part]))

        joined = copy.copy(parts[0])
        joined._files = [file for part in parts for file in part._files]
        joined._offsets = np.concatenate([part._offsets for part in parts])
        joined._note, joined._places = note, _joined_places([part._places for part in parts])
        return joined

    def __len__(self) -> int:
        return len(self._files)

    def read(
        self,
        first: int,
        window: Window,
        out: Values,
        bits: Bits | None = None,
        changes: Sequence[Change] = (),
        threads: int = 1,
    ) -> int:
        """Fill `out` with the window of pieces from number `first`; return what changes have found.

        Parameters
        ----------
        first, window
            The first piece, and what is read of each.
        out
            (pieces, ...), C-contiguous: the values of changes, or memory for bytes as they are.
        bits
            (pieces, bytes), C-contiguous: 1 for padding. A piece begins with a byte.
        changes
            One of each piece, one of all of them, or none.
        threads
            How many may read, each at least `_THREAD_BYTES`.

        Raises
        ------
        PixelError
            A file is missing, in another state, or too short; with the note of its piece.
        """
        parts = out if changes else out.reshape(len(out), -1).view(np.uint8)
        if self._places is None or self.waits(first, len(parts), window):
            return self._read_by_handles(first, window, parts, bits, changes)
        step, done, found = max(1, threads * _MOST_AT_ONCE // window.size), 0, 0
        while done < len(parts):
            part = slice(done, min(done + step, len(parts)))
            own = changes[part] if len(changes) > 1 else changes
            room = None if bits is None else bits[part]
            kept = kept_descriptors(self, first + done, part.stop - done)
            size = (part.stop - part.start) * window.rows * window.row_bytes
            complete, more = fill_block(
                *(self._places, first + done, window, parts[part], room, kept, tuple(own)),
                min(threads, max(1, size // _THREAD_BYTES)),
            )
            done, found = done + complete, found | more
            if done < part.stop:
                # The system may lack the descriptors that stay open.
                close_kept_descriptors()
                one = slice(done, done + 1)
                own = changes[one] if len(changes) > 1 else changes
                room = None if bits is None else bits[one]
                found |= self._read_by_handles(first + done, window, parts[one], room, own)
                done += 1
        return found

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

    def _read_by_handles(
        self,
        first: int,
        window: Window,
        parts: Values,
        bits: Bits | None,
        changes: Sequence[Change],
    ) -> int:
        pieces = [(file, offset + window.begin) for file, offset in self._pieces(first, len(parts))]
        target = _Target(window, parts, bits, changes)
        buffers = [target.buffer(number) for number in range(len(parts))]
        try:
            for _ in read_pieces(pieces, buffers):
                target.deliver()
        except PixelError as error:
            self._note(error, first + target.done)
            raise
        return target.found()


def _joined_places(given: Sequence[Places | None]) -> Places | None:
    """Return the places of all parts; None where those of one are, or flags differ."""
    parts = [part for part in given if part is not None]
    if len(parts) < len(given) or len({part.flags for part in parts}) > 1:
        return None
    return Places(
        tuple(path for part in parts for path in part.paths),
        np.concatenate([part.facts for part in parts]),
        np.concatenate([part.offsets for part in parts]),
        parts[0].flags,
    )


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
