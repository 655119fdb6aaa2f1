"""The frames of one segmentation as arrays: where they lie in space, and in the file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from dicomdl.arrays import Floats, Ints, Values
from dicomdl.errors import AnnotationError, HeaderError, PixelError
from dicomdl.headers.frame_source import FrameSource
from dicomdl.headers.reader import read_frames
from dicomdl.index.annotated import frames_of
from dicomdl.index.annotations import Annotation
from dicomdl.index.views import Stack
from dicomdl.pixels.read import read_rows
from dicomdl.pixels.stored import add_frame_note, is_native, is_plain
from dicomdl.storage.sources import Handle, read_exactly

_GRID_COLUMNS: Final = (
    "image_position_patient",
    "image_orientation_patient",
    "pixel_spacing",
    "referenced_segment_number",
    "byte_offset",
    "bit_offset",
)


@dataclass(frozen=True, slots=True, eq=False)
class SegFrames:
    """The frames of a segmentation, in the order of the file.

    Attributes
    ----------
    source_of
        A function from the number of a frame to its byte range.
    size
        (rows, columns) of a frame.
    origins
        (frames, 3) float64, LPS mm: the centre of the first pixel.
    down, right
        (frames, 3) float64, mm: the step from one row, or one column, to the next.
    segments
        (frames,) int64: the segment of each frame; 0 for label maps.
    first_bits
        (frames,) int64: the first bit of each frame in the file, or None where frames are neither
        plain bits nor plain bytes of the file.
    bits
        The bits of a pixel in the file: 1 for plain bits, 8 for plain bytes, 0 for others.
    """

    source_of: Callable[[int], FrameSource]
    size: tuple[int, int]
    origins: Floats
    down: Floats
    right: Floats
    segments: Ints
    first_bits: Ints | None
    bits: int

    def __len__(self) -> int:
        return len(self.segments)

    @classmethod
    def of_file(cls, path: str) -> "SegFrames":
        """Read the frames of a file.

        Raises
        ------
        HeaderError
            The file is damaged, or has no frames.
        AnnotationError
            Frames have no position, orientation or pixel spacing.
        """
        frames = read_frames(path)
        if not frames:
            raise HeaderError("the file has no frames", reason="no_pixel_data")
        columns = {name: [getattr(each, name) for each in frames] for name in _GRID_COLUMNS}
        return cls._of(lambda number: frames[number].source, columns)

    @classmethod
    def of_index(cls, stack: Stack, annotation: Annotation) -> "SegFrames":
        """Return the frames of an annotation, out of the index of its stack.

        Raises
        ------
        AnnotationError
            As for `of_file`.
        """
        source_of, columns = frames_of(stack, annotation, _GRID_COLUMNS)
        return cls._of(source_of, columns)

    @classmethod
    def _of(
        cls, source_of: Callable[[int], FrameSource], columns: Mapping[str, Sequence[Any]]
    ) -> "SegFrames":
        """Return the frames with these values of `_GRID_COLUMNS`, in the order of the file."""
        for name in _GRID_COLUMNS[:3]:
            absent = sum(value is None for value in columns[name])
            if absent:
                raise AnnotationError(
                    f"{absent} of {len(columns[name])} frames have no {name}", column=name
                )
        origins, orientation, spacing = (
            np.array(columns[name], np.float64) for name in _GRID_COLUMNS[:3]
        )
        numbers = [number or 0 for number in columns["referenced_segment_number"]]
        first = source_of(0)
        is_byte = first.bits_allocated == 8 == first.bits_stored and is_plain(first)
        is_bit = first.bits_allocated == 1 and is_native(first.transfer_syntax_uid)
        is_read_here = (is_bit or is_byte) and not first.deflated
        starts = 8 * np.array(columns["byte_offset"], np.int64) + np.array(columns["bit_offset"])
        return cls(
            source_of,
            (first.rows, first.columns),
            origins,
            orientation[:, 3:] * spacing[:, :1],
            orientation[:, :3] * spacing[:, 1:],
            np.array(numbers, np.int64),
            starts if is_read_here else None,
            first.bits_allocated if is_read_here else 0,
        )


class Rows(NamedTuple):
    """Rows of a frame: the number of the first, and (rows, columns) values."""

    first: int
    values: Values


class RowReader:
    """Reads rows of frames as stored values, while their file is open.

    Parameters
    ----------
    frames
        The frames.
    handle
        The open file; used for plain bits only.
    """

    def __init__(self, frames: SegFrames, handle: Handle) -> None:
        self._frames, self._handle = frames, handle
        # A multiple of eight bytes, and room for the bits before and after a frame.
        size = frames.size[0] * frames.size[1] * max(frames.bits, 1)
        self._words = np.zeros(size // 64 + 2, np.uint64)
        self._bytes = self._words.view(np.uint8)

    def rows(self, number: int, first: int, last: int) -> Rows | None:
        """Return rows `first` to `last` (excluded) of a frame.

        Of single bits, rows of zeros before and after the others are left out; None if there are no
        others. Their values are bool, those of other frames as stored. The next call may overwrite
        the values.
        """
        frames = self._frames
        if frames.first_bits is None:
            return Rows(first, read_rows(frames.source_of(number), first, last))
        columns = frames.size[1]
        begin = int(frames.first_bits[number])
        if frames.bits == 8:
            start = (begin >> 3) + first * columns
            values = self._read(number, start, (last - first) * columns)
            return Rows(first, values.reshape(-1, columns))
        # PS3.5 8.1.1: the first pixel is the lowest bit of its byte.
        start, stop = begin + first * columns >> 3, begin + last * columns + 7 >> 3
        words = self._words[: stop - start + 7 >> 3]
        words[-1] = 0
        self._read(number, start, stop - start)
        filled = words.nonzero()[0]
        if not len(filled):
            return None
        # The first and the last row with a bit in a word that is not zero; bits of the rows, and of
        # the frames, before and after may share such a word.
        shift = begin - (start << 3)
        top = max(first, (int(filled[0]) * 64 - shift) // columns)
        bottom = min(last, (int(filled[-1]) * 64 + 63 - shift) // columns + 1)
        if top >= bottom:
            return None
        skipped = shift + top * columns
        bits = np.unpackbits(
            self._bytes[skipped >> 3 :],
            bitorder="little",
            count=(skipped & 7) + (bottom - top) * columns,
        )[skipped & 7 :]
        return Rows(top, bits.reshape(-1, columns).view(np.bool_))

    def _read(self, number: int, start: int, length: int) -> Values:
        """Read a byte range of a frame into the buffer, and return it there."""
        part = self._bytes[:length]
        try:
            if self._handle.read_into(part.data, start) < length:
                read_exactly(self._handle, part, start)
        except PixelError as error:
            add_frame_note(error, self._frames.source_of(number))
            raise
        return part
