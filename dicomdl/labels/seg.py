"""Segments of a SEG as labels of a stack.

Frames find their slices by position, never by number. Frames on the grid of the stack are copied;
other grids are sampled at the nearest voxel.
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np

from dicomdl.arrays import Floats, Ints, Mask, Values, Voxel
from dicomdl.errors import AnnotationError
from dicomdl.headers.annotation import AnnotationFacts
from dicomdl.index.text import counted
from dicomdl.index.views import Stack
from dicomdl.labels._bit_counts import count_bits
from dicomdl.labels._choice import Choice
from dicomdl.labels._coverage import Referred
from dicomdl.labels._fractions import NO_FRACTIONS, Fractions
from dicomdl.labels._planes import Planes
from dicomdl.labels._sampling import Sampler
from dicomdl.labels._seg_frames import FrameRows, RowReader, SegFrames
from dicomdl.labels.reader import LabelValues, Piece, smallest_dtype
from dicomdl.storage.sources import kept_open, opened

Align = Literal["nearest", "exact"]
# The first voxel of a block, and the one after its last.
_Block: TypeAlias = tuple[Voxel, Voxel]
# The first and the last row, and column, of a part of a slice; the last ones are excluded.
_Box: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
# The distance of a frame from a slice that is still on it, as a part of the spacing.
_ON_SLICE: Final = 0.1
# The distance of the corners of a frame from the centres of pixels of the stack, pixels.
_ON_PIXEL: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class _Aligned:
    """Frames on the grid of a stack.

    Attributes
    ----------
    slices
        (frames,) int64: the slice of each frame; -1 beyond the stack.
    corners
        (frames, 2) int64: the (row, column) of the lowest row and column of each frame.
    turn
        Whether rows and columns are exchanged, then which of both are flipped.
    """

    slices: Ints
    corners: Ints
    turn: tuple[bool, bool, bool]


class SegObject(NamedTuple):
    """A SEG: its facts, its frames, and the slices that it refers to."""

    facts: AnnotationFacts
    frames: SegFrames
    referred: Referred


class SegReader:
    """Labels of a stack out of the frames of a SEG; a block reads its own rows only.

    Parameters
    ----------
    stack
        The stack.
    seg
        The SEG.
    choices
        The labels.
    fractions
        What becomes of the values of a FRACTIONAL SEG.
    align
        "nearest" samples a SEG on another grid at the nearest voxel; "exact" refuses it.

    Raises
    ------
    AnnotationError
        The SEG lies in another frame of reference, on another grid with `align="exact"`, or no
        frame lies in the stack; a FRACTIONAL SEG without a threshold, or one of bit masks.
    UsageError
        Bits of several segments, or bits or fractions of a SEG that is not FRACTIONAL.
    """

    def __init__(
        self,
        stack: Stack,
        seg: SegObject,
        choices: Sequence[Choice],
        *,
        fractions: Fractions = NO_FRACTIONS,
        align: Align = "nearest",
    ) -> None:
        annotation, frames, self._referred = seg
        _require_same_reference(stack, annotation)
        self._type = annotation.segmentation_type
        self._fractions = fractions.of(annotation, frames)
        self.shape: Voxel = stack.shape
        self.values: LabelValues = fractions.values
        self.names = fractions.names(choices)
        self._frames, self._choices = frames, tuple(choices)
        self._planes = Planes.of(stack)
        self._aligned, misfit = _aligned(frames, self._planes)
        if self._aligned is None and align == "exact":
            raise AnnotationError(
                f"the SEG lies on another grid than the stack: {misfit}; align='nearest' samples it"
            )
        self._sampler: Sampler | None = None
        if self._aligned is not None:
            slices = self._aligned.slices
        else:
            self._sampler = Sampler.of(frames)
            slices = self._sampler.slices_of(self._planes, self.shape)
        in_view = _in_view(frames, self._planes, self.shape)
        if (slices < 0).all() or not in_view.any():
            where = "on a slice" if (slices < 0).all() else "within the rows and columns"
            raise AnnotationError(
                f"none of {len(frames)} frames of the SEG lies {where} of the stack",
                frames=len(frames),
            )
        self._of_slice = _order(slices, self.shape[0])
        is_near = self._planes.nearest(_middles(frames) @ self._planes.normal) >= 0
        self.remarks = tuple(self._remarks(in_view & is_near))
        self._table = _table(annotation, self._choices)
        self._bytes = bytes(self._table.astype(np.uint8)[:256]).ljust(256, b"\0")
        # Values up to here are their own labels.
        changed = np.flatnonzero(self._table != np.arange(len(self._table)))
        self._kept = int(changed[0]) - 1 if len(changed) else len(self._table) - 1

    def _remarks(self, inside: Mask) -> Iterator[str]:
        """Yield what lies beyond the stack, for the (frames,) bool that do not."""
        beyond = int((~inside).sum())
        if beyond:
            yield f"{beyond} of {counted(len(inside), 'frames')} lie beyond the stack"
        if self._type != "LABELMAP":
            found = np.unique(self._frames.segments[inside])
            empty = sum(not np.isin(choice.numbers, found).any() for choice in self._choices)
            if empty:
                labels = counted(len(self._choices), "labels")
                yield f"{empty} of {labels} have no frame on the stack"

    @property
    def nbytes(self) -> int:
        """The memory of the positions of frames, bytes."""
        return 4 * self._frames.origins.nbytes

    def pieces(
        self, start: Voxel, stop: Voxel, only: Collection[int] | None = None
    ) -> Iterator[Piece]:
        """Yield the labels of a block, in the order of `names`; see `LabelReader`."""
        choices = [
            choice
            for choice in self._choices
            if only is None or self.values == "bits" or choice.label in only
        ]
        frames, block = self._frames, (start, stop)
        ahead = frames.ahead(lambda: self._rows_ahead(choices, block))
        with kept_open(), ahead, opened(frames.source_of(0).file) as handle:
            reader = RowReader(frames, handle)
            if self._aligned is not None:
                yield from self._copied(reader, self._aligned, choices, block)
            elif self._sampler is not None:
                yield from self._sampled(reader, self._sampler, choices, block)

    def _rows_ahead(self, choices: Sequence[Choice], block: _Block) -> Iterator[FrameRows]:
        """Yield the rows of frames that a block will read; on another grid, about those."""
        (start, stop), aligned, sampler = block, self._aligned, self._sampler
        if aligned is not None:
            for number, _ in self._inside(choices, block):
                box = self._box(aligned, number, start, stop)
                if box is not None:
                    yield self._frame_rows(aligned, number, box)
        elif sampler is not None:
            planes = sampler.slices_of(self._planes, self.shape)[start[0] : stop[0]]
            segments = [number for choice in choices for number in choice.numbers]
            for plane in dict.fromkeys(planes[planes >= 0].tolist()):
                for number in sampler.frames_of(plane, segments, self._frames.segments):
                    yield FrameRows(number, 0, self._frames.size[0])

    def counts(self) -> Values | None:
        """Return the voxels per slice and label, out of bits on whole slices; see `LabelReader`."""
        aligned, frames = self._aligned, self._frames
        if aligned is None or self.values != "labels" or not frames.is_whole_bytes:
            return None
        size = frames.size[::-1] if aligned.turn[0] else frames.size
        if size != self.shape[1:] or aligned.corners.any():
            return None
        rows = frames.size[0]
        ahead = frames.ahead(lambda: (FrameRows(n, 0, rows) for n in self._of_slice[0].tolist()))
        with kept_open(), ahead, opened(frames.source_of(0).file) as handle:
            reader = RowReader(frames, handle)
            return count_bits(reader, self._of_slice, frames.segments, self._choices)

    def covered(self, start: Voxel, stop: Voxel) -> Mask | None:
        """Return the voxels in slices that the SEG refers to, and in its frames."""
        is_whole = self._whole[start[0] : stop[0]]
        if is_whole.all():
            return None
        shape = [b - a for a, b in zip(start, stop, strict=True)]
        counts = np.diff(self._of_slice[1])[start[0] : stop[0]]
        if self._aligned is not None and (is_whole | (counts == 0)).all():
            return np.broadcast_to(is_whole[:, None, None], shape)
        mask = np.zeros(shape, np.bool_)
        mask[is_whole] = True
        for z in np.flatnonzero(~is_whole).tolist():
            self._cover(mask[z], z + start[0], start, stop)
        return mask

    @functools.cached_property
    def _whole(self) -> Mask:
        """(slices,) bool: the slices that are covered as a whole."""
        whole = self._referred()
        if self._aligned is not None:
            size = self._frames.size[::-1] if self._aligned.turn[0] else self._frames.size
            low = self._aligned.corners
            is_whole = ((low <= 0) & (low + size >= self.shape[1:])).all(axis=1)
            whole[self._aligned.slices[is_whole & (self._aligned.slices >= 0)]] = True
        return whole

    def _cover(self, mask: Mask, z: int, start: Voxel, stop: Voxel) -> None:
        """Mark the pixels of a part of a slice that lie in frames."""
        if self._sampler is not None:
            mask |= self._sampler.nearest(self._planes, z, start[1:], stop[1:]).plane >= 0
        elif self._aligned is not None:
            order, bounds = self._of_slice
            for number in order[bounds[z] : bounds[z + 1]].tolist():
                box = self._box(self._aligned, number, start, stop)
                if box is not None:
                    (first, last), (begin, end) = box
                    mask[first - start[1] : last - start[1], begin - start[2] : end - start[2]] = (
                        True
                    )

    def _box(self, aligned: _Aligned, number: int, start: Voxel, stop: Voxel) -> _Box | None:
        """Return the rows and columns of a block in which a frame lies, or None."""
        size = self._frames.size
        height, width = size[::-1] if aligned.turn[0] else size
        top, left = aligned.corners.item(number, 0), aligned.corners.item(number, 1)
        first, last = max(start[1], top), min(stop[1], top + height)
        begin, end = max(start[2], left), min(stop[2], left + width)
        return ((first, last), (begin, end)) if first < last and begin < end else None

    def _copied(
        self, reader: RowReader, aligned: _Aligned, choices: Sequence[Choice], block: _Block
    ) -> Iterator[Piece]:
        """Yield the labels of a block out of frames on the grid of the stack."""
        start, stop = block
        for number, label in self._inside(choices, block):
            found = self._part(reader, aligned, number, start, stop)
            if found is None:
                continue
            where, values = found
            if self._type == "LABELMAP":
                yield Piece(where, None, self._relabelled(values))
            else:
                yield self._fractions.piece(where, values, label)

    def _inside(self, choices: Sequence[Choice], block: _Block) -> Iterator[tuple[int, int]]:
        """Yield the frames on the slices of a block, each with its label; 0 for label maps."""
        start, stop = block
        order, bounds = self._of_slice
        inside = np.sort(order[bounds[start[0]] : bounds[stop[0]]])
        if self._type == "LABELMAP":
            yield from ((number, 0) for number in inside.tolist())
            return
        segments = self._frames.segments[inside]
        for choice in choices:
            for number in inside[np.isin(segments, choice.numbers)].tolist():
                yield number, choice.label

    def _frame_rows(self, aligned: _Aligned, number: int, box: _Box) -> FrameRows:
        """Return the rows of a frame that a block needs: all of a turned one."""
        if any(aligned.turn):
            return FrameRows(number, 0, self._frames.size[0])
        top = aligned.corners.item(number, 0)
        return FrameRows(number, box[0][0] - top, box[0][1] - top)

    def _sampled(
        self, reader: RowReader, grid: Sampler, choices: Sequence[Choice], block: _Block
    ) -> Iterator[Piece]:
        """Yield the labels of a block out of frames on another grid, at the nearest pixel."""
        frames, (start, stop) = self._frames, block
        for z in range(start[0], stop[0]):
            where = (
                slice(z - start[0], z - start[0] + 1),
                slice(0, stop[1] - start[1]),
                slice(0, stop[2] - start[2]),
            )
            nearest = grid.nearest(self._planes, z, start[1:], stop[1:])
            for choice in choices:
                found = np.zeros(nearest.plane.shape, frames.dtype)
                for plane in np.unique(nearest.plane[nearest.plane >= 0]).tolist():
                    at = nearest.plane == plane
                    for number in grid.frames_of(plane, choice.numbers, frames.segments):
                        read = reader.rows(number, 0, frames.size[0])
                        if read is None:
                            continue
                        whole = np.zeros(frames.size, read.values.dtype)
                        whole[read.first : read.first + len(read.values)] = read.values
                        values = whole[nearest.row[at], nearest.column[at]]
                        if self._type == "LABELMAP":
                            values = np.isin(values, choice.numbers)
                        found[at] = np.maximum(found[at], values)
                if found.any() and self._type == "LABELMAP":
                    yield Piece(where, found[None] > 0, choice.label)
                elif found.any():
                    yield self._fractions.piece(where, found[None], choice.label)

    def _part(
        self, reader: RowReader, aligned: _Aligned, number: int, start: Voxel, stop: Voxel
    ) -> tuple[tuple[slice, ...], Values] | None:
        """Return the part of a block in which a frame has values, and these; None without any."""
        box = self._box(aligned, number, start, stop)
        if box is None:
            return None
        (first, last), (begin, end) = box
        read = reader.rows(*self._frame_rows(aligned, number, box))
        if read is None:
            return None
        exchanged, flip_rows, flip_columns = aligned.turn
        size = self._frames.size
        top, left = aligned.corners.item(number, 0), aligned.corners.item(number, 1)
        row, values = read
        if any(aligned.turn):
            whole = np.zeros(size, values.dtype)
            whole[row : row + len(values)] = values
            values = whole.T if exchanged else whole
            values = values[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
            row, values = first - top, values[first - top : last - top]
        z, y = int(aligned.slices[number]) - start[0], top + row - start[1]
        where = (
            slice(z, z + 1),
            slice(y, y + len(values)),
            slice(begin - start[2], end - start[2]),
        )
        return where, values[None, :, begin - left : end - left]

    def _relabelled(self, values: Values) -> Values:
        """Return the labels of the values of a label map; 0 for segments that were not chosen."""
        table = self._table
        if values.dtype == table.dtype and values.max(initial=0) <= self._kept:
            return values
        if values.dtype == np.uint8 and table.dtype == np.uint8:
            # Twenty times as fast as a look-up by NumPy.
            labels = np.frombuffer(values.tobytes().translate(self._bytes), np.uint8)
            return labels.reshape(values.shape)
        highest = min(len(table) - 1, int(np.iinfo(values.dtype).max))
        return np.asarray(table[np.minimum(values, highest)])


def _require_same_reference(stack: Stack, annotation: AnnotationFacts) -> None:
    here, there = str(stack.value("frame_of_reference_uid")), annotation.frame_of_reference_uid
    if here and there and here != there:
        raise AnnotationError(
            "the SEG lies in another frame of reference than the stack", expected=here, found=there
        )


def _middles(frames: SegFrames) -> Floats:
    """Return (frames, 3) LPS mm: the middle of each frame."""
    rows, columns = (np.array(frames.size) - 1) / 2
    return np.asarray(frames.origins + rows * frames.down + columns * frames.right)


def _in_view(frames: SegFrames, planes: Planes, shape: Voxel) -> Mask:
    """Return (frames,) bool: frames with a pixel within the rows and columns of the stack."""
    far, last = np.array(frames.size) - 1, np.array(shape[1:]) - 0.5
    corners = np.stack(
        [
            frames.origins + down * frames.down + right * frames.right
            for down in (0, far[0])
            for right in (0, far[1])
        ]
    ).reshape(-1, 3)
    # Slices of a tilted stack begin at places of their own, so that each corner takes its slice.
    above = np.searchsorted(planes.heights, corners @ planes.normal)
    ends = planes.pixels(corners, np.minimum(above, shape[0] - 1)).reshape(4, -1, 2)
    return np.asarray(((ends.max(axis=0) > -0.5) & (ends.min(axis=0) < last)).all(axis=-1))


def _table(annotation: AnnotationFacts, choices: Sequence[Choice]) -> Values:
    """Return the label of each value of a label map, the last one for all higher values.

    Values that are no segment, such as padding, have the label 0.
    """
    numbers = [segment.number for segment in annotation.segments]
    table = np.zeros(max(numbers, default=0) + 2, np.int32)
    for choice in choices:
        table[list(choice.numbers)] = choice.label
    return table.astype(smallest_dtype({choice.label: "" for choice in choices}))


def _order(slices: Ints, count: int) -> tuple[Ints, Ints]:
    """Return the frames in the order of their slices, and the first of each slice and after."""
    order = np.argsort(slices, kind="stable")
    return order, np.searchsorted(slices[order], np.arange(count + 1))


def _aligned(frames: SegFrames, planes: Planes) -> tuple[_Aligned | None, str]:
    """Return the frames on the grid of a stack, or None and how they miss it."""
    heights = frames.origins @ planes.normal
    size = np.array(frames.size) - 1
    edges = np.stack([frames.down, frames.right], axis=1) * size[:, None]
    spacing = float(planes.reach.min()) * 2
    across = float(np.abs(edges @ planes.normal).max())
    if across > _ON_SLICE * spacing:
        return None, f"its frames rise {across:.3g} mm across the slices"
    slices = planes.nearest(heights)
    known = np.maximum(slices, 0)
    offset = np.abs(heights - planes.heights[known])[slices >= 0]
    if len(offset) and offset.max() > _ON_SLICE * spacing:
        return None, f"its frames lie up to {offset.max():.3g} mm off the slices"
    first = planes.pixels(frames.origins, known)
    steps = np.stack(
        [planes.steps(frames.down), planes.steps(frames.right)], axis=1
    )  # (frames, [down, right], [rows, columns])
    turned = np.rint(steps[0])
    if sorted(np.abs(turned).sum(axis=0).tolist()) != [1, 1] or abs(np.linalg.det(turned)) != 1:
        return None, f"its pixels are {_pixels(steps[0])} of the stack"
    corners = np.rint(first)
    misfit = max(
        float(np.abs((steps - turned) * size[None, :, None]).max()),
        float(np.abs(first - corners)[slices >= 0].max(initial=0)),
    )
    if misfit > _ON_PIXEL:
        return None, f"its pixels lie up to {misfit:.3g} pixels off those of the stack"
    exchanged = turned[0, 0] == 0
    far = corners + (size[:, None] * turned).sum(axis=0)
    flips = turned.sum(axis=0) < 0
    return (
        _Aligned(
            slices,
            np.minimum(corners, far).astype(np.int64),
            (bool(exchanged), bool(flips[0]), bool(flips[1])),
        ),
        "",
    )


def _pixels(steps: Floats) -> str:
    down, right = np.linalg.norm(steps, axis=1)
    return f"{down:.3g} x {right:.3g} pixels"
