"""The frames of one segmentation as arrays: where they lie in space, and in the file."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from dicomdl.arrays import Floats, Ints, Values
from dicomdl.errors import AnnotationError, HeaderError, PixelError
from dicomdl.headers.annotation import frame_counts
from dicomdl.headers.frame_source import FrameSource
from dicomdl.headers.reader import read_frames
from dicomdl.index.annotated import frames_of
from dicomdl.index.annotations import Annotation
from dicomdl.index.views import Stack
from dicomdl.pixels.read import read_rows
from dicomdl.pixels.stored import add_frame_note, is_native, is_plain, stored_dtype
from dicomdl.storage.sources import Handle, Source, Span, read_exactly, reading_ahead_of

_Number = TypeVar("_Number", int, Ints)
# Columns of frames, and the size of lists in them.
_GRID_COLUMNS: Final = {
    "image_position_patient": 3,
    "image_orientation_patient": 6,
    "pixel_spacing": 2,
    "referenced_segment_number": 0,
    "byte_offset": 0,
    "bit_offset": 0,
}


@dataclass(frozen=True, slots=True, eq=False)
class SegFrames:
    """The frames of a segmentation, in the order of its file or files.

    Attributes
    ----------
    source_of
        A function from the number of a frame to its byte range.
    file
        The file that has all of them, or the first one of a concatenation.
    size
        (rows, columns) of a frame.
    origins
        (frames, 3) float64, LPS mm: the centre of the first pixel; NaN where no frame has a place
        in the patient.
    down, right
        (frames, 3) float64, mm: the step from one row, or one column, to the next.
    segments
        (frames,) int64: the segment of each frame; 0 for label maps.
    first_bits
        (frames,) int64: the first bit of each frame in the file, or None where frames are neither
        plain bits nor plain bytes of one file.
    bits
        The bits of a pixel in the file: 1 for plain bits, 8 for plain bytes, 0 for others.
    """

    source_of: Callable[[int], FrameSource]
    file: Source
    size: tuple[int, int]
    origins: Floats
    down: Floats
    right: Floats
    segments: Ints
    first_bits: Ints | None
    bits: int

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def has_places(self) -> bool:
        """Whether frames have places in the patient, and not on their source images only."""
        return not np.isnan(self.origins).all()

    def taken(self, numbers: Ints) -> "SegFrames":
        """Return the frames with some numbers, in their order; a number may occur repeatedly."""
        source_of, first_bits = self.source_of, self.first_bits
        return dataclasses.replace(
            self,
            source_of=lambda number: source_of(int(numbers[number])),
            origins=self.origins[numbers],
            down=self.down[numbers],
            right=self.right[numbers],
            segments=self.segments[numbers],
            first_bits=None if first_bits is None else first_bits[numbers],
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of values: bool for plain bits, else that of stored values."""
        if self.bits:
            return np.dtype(np.bool_ if self.bits == 1 else np.uint8)
        return np.dtype(stored_dtype(self.source_of(0)))

    @property
    def is_whole_bytes(self) -> bool:
        """Whether frames are plain bits, and none shares a byte with another one."""
        if self.bits != 1 or self.first_bits is None:
            return False
        return self.size[0] * self.size[1] % 8 == 0 and not (self.first_bits % 8).any()

    def ahead(
        self, rows: Callable[[], Iterable["FrameRows"]]
    ) -> contextlib.AbstractContextManager[None]:
        """Return a context in which rows of frames are asked for ahead where reading them waits.

        `rows` returns them in the order in which they will be read.
        """

        def ranges() -> list[Span]:
            return list(dict.fromkeys(self._range(*each) for each in rows()))

        return reading_ahead_of(self.file.path, ranges)

    def _range(self, number: int, first: int, last: int) -> Span:
        """Return the bytes that hold rows of a frame, as `RowReader.rows` reads them."""
        source = self.source_of(number)
        if self.first_bits is not None:
            start, stop = self.bytes_of_rows(int(self.first_bits[number]), first, last)
            return Span(source.file, start, stop - start)
        if is_plain(source):
            row_bytes = source.byte_length // source.rows
            start = source.byte_offset + first * row_bytes
            return Span(source.file, start, (last - first) * row_bytes)
        return Span(source.file, source.byte_offset, source.byte_length)

    def bytes_of_rows(
        self, begin: _Number, first: _Number, last: _Number
    ) -> tuple[_Number, _Number]:
        """Return the bytes of the file that hold rows of frames of plain bits or bytes.

        `begin` is the first bit of the frame in the file.
        """
        row_bits = self.size[1] * self.bits
        return begin + first * row_bits >> 3, begin + last * row_bits + 7 >> 3

    @classmethod
    def of_file(cls, path: str) -> "SegFrames":
        """Read the frames of a file.

        Raises
        ------
        HeaderError
            The file is damaged, or has no frames.
        AnnotationError
            Some frames have no position, orientation or pixel spacing, or the file is one of
            several that hold the segmentation.
        """
        frames = read_frames(path)
        if not frames:
            raise HeaderError("the file has no frames", reason="no_pixel_data")
        if frames[0].concatenation_uid and frames[0].in_concatenation_total_number != 1:
            raise AnnotationError(
                "the file is one part of a concatenation (0020,9161): scan all of its files with "
                "the images, and read the SEG by its kind or as one of stack.annotations"
            )
        columns = {
            name: _as_floats([getattr(each, name) for each in frames], size)
            for name, size in _GRID_COLUMNS.items()
        }
        return cls._of(lambda number: frames[number].source, columns, in_one_file=True)

    @classmethod
    def of_index(cls, stack: Stack, annotation: Annotation) -> "SegFrames":
        """Return the frames of an annotation, out of the index of its stack.

        Raises
        ------
        AnnotationError
            As for `of_file`.
        """
        source_of, columns = frames_of(stack, annotation, _GRID_COLUMNS)
        return cls._of(source_of, columns, in_one_file=len(annotation.files) == 1)

    @classmethod
    def _of(
        cls,
        source_of: Callable[[int], FrameSource],
        columns: Mapping[str, Floats],
        *,
        in_one_file: bool,
    ) -> "SegFrames":
        """Return the frames with these values of `_GRID_COLUMNS`, in their order."""
        if not len(columns["byte_offset"]):
            raise AnnotationError("the scan could not read the frames of the SEG: see the problems")
        origins, orientation, spacing, segments, byte, bit = map(columns.__getitem__, _GRID_COLUMNS)
        # Frames without any place lie on their source images (see `_referenced`).
        places = [] if np.isnan(origins).all() else [*columns.items()][:3]
        for name, values in places:
            absent = int(np.isnan(values).any(axis=1).sum())
            if absent:
                require_equal_counts(source_of(0).file)
                raise AnnotationError(
                    f"{absent} of {len(values)} frames have no {name}", column=name
                )
        first = source_of(0)
        is_byte = first.bits_allocated == 8 == first.bits_stored and is_plain(first)
        is_bit = first.bits_allocated == 1 and is_native(first.transfer_syntax_uid)
        is_read_here = in_one_file and (is_bit or is_byte) and not first.deflated
        starts = 8 * byte.astype(np.int64) + bit.astype(np.int64)
        return cls(
            source_of,
            first.file,
            (first.rows, first.columns),
            origins,
            orientation[:, 3:] * spacing[:, :1],
            orientation[:, :3] * spacing[:, 1:],
            np.nan_to_num(segments).astype(np.int64),
            starts if is_read_here else None,
            first.bits_allocated if is_read_here else 0,
        )


def _as_floats(values: Sequence[Any], size: int) -> Floats:
    """Return (frames,) or (frames, size) numbers, NaN where absent."""
    absent = (np.nan,) * size if size else np.nan
    return np.array([absent if value is None else value for value in values], np.float64)


def require_equal_counts(file: Source) -> None:
    """Raise an AnnotationError for a file with more groups than frames, or fewer."""
    frames, groups = frame_counts(file)
    if groups not in (0, frames):
        raise AnnotationError(
            f"NumberOfFrames (0028,0008) is {frames}, but the Per-frame Functional Groups "
            f"(5200,9230) have {groups} items: they cannot be assigned to frames",
            expected=frames,
            found=groups,
        )


class FrameRows(NamedTuple):
    """Rows `first` to `last` (excluded) of a frame."""

    number: int
    first: int
    last: int


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
        start, stop = frames.bytes_of_rows(begin, first, last)
        if frames.bits == 8:
            return Rows(first, self._read(number, start, stop - start).reshape(-1, columns))
        # PS3.5 8.1.1: the first pixel is the lowest bit of its byte.
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

    def words(self, number: int) -> Values | None:
        """Return the bits of a frame (see `is_whole_bytes`) as uint64; None if all are 0.

        The next call overwrites them.
        """
        frames = self._frames
        assert frames.first_bits is not None
        length = frames.size[0] * frames.size[1] >> 3
        words = self._words[: length + 7 >> 3]
        words[-1] = 0
        self._read(number, int(frames.first_bits[number]) >> 3, length)
        return words if words.any() else None

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
