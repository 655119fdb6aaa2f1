"""Segments of a SEG as labels of a stack.

Frames find their slices by position, never by number. Frames on the grid of the stack are copied;
other grids are sampled at the nearest voxel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from dicomdl.arrays import Floats, Ints, Mask, Values, Voxel
from dicomdl.errors import AnnotationError
from dicomdl.headers.annotation import AnnotationFacts
from dicomdl.headers.bit_masks import names_bits
from dicomdl.index.views import Stack
from dicomdl.labels._choice import Choice
from dicomdl.labels._planes import Planes
from dicomdl.labels._sampling import Sampler
from dicomdl.labels._seg_frames import RowReader, SegFrames
from dicomdl.labels.reader import Piece, label_dtype
from dicomdl.storage.sources import kept_open, opened

Align = Literal["nearest", "exact"]
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


class SegReader:
    """Labels of a stack out of the frames of a SEG; a block reads its own rows only.

    Parameters
    ----------
    stack
        The stack.
    annotation
        The facts of the SEG.
    frames
        Its frames.
    choices
        The labels.
    threshold
        For FRACTIONAL: the fraction, above 0 to 1, from which on a voxel has the label.
    align
        "nearest" samples a SEG on another grid at the nearest voxel; "exact" refuses it.

    Raises
    ------
    AnnotationError
        The SEG lies in another frame of reference, on another grid with `align="exact"`, or no
        frame lies in the stack; a FRACTIONAL SEG without a threshold.
    """

    def __init__(
        self,
        stack: Stack,
        annotation: AnnotationFacts,
        frames: SegFrames,
        choices: Sequence[Choice],
        *,
        threshold: float | None = None,
        align: Align = "nearest",
    ) -> None:
        _require_same_reference(stack, annotation)
        if annotation.segmentation_type == "FRACTIONAL":
            _require_fractions(frames)
        self.shape: Voxel = stack.shape
        self.names = {choice.label: choice.name for choice in choices}
        self._frames, self._choices = frames, tuple(choices)
        self._type = annotation.segmentation_type
        self._lowest = _lowest_value(annotation, threshold)
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
        if (slices < 0).all() or not _in_view(frames, self._planes, self.shape).any():
            where = "on a slice" if (slices < 0).all() else "within the rows and columns"
            raise AnnotationError(
                f"none of {len(frames)} frames of the SEG lies {where} of the stack",
                frames=len(frames),
            )
        self._of_slice = _order(slices, self.shape[0])
        self._table = _table(annotation, self._choices)
        self._bytes = bytes(self._table.astype(np.uint8)[:256]).ljust(256, b"\0")
        # Values up to here are their own labels.
        changed = np.flatnonzero(self._table != np.arange(len(self._table)))
        self._kept = int(changed[0]) - 1 if len(changed) else len(self._table) - 1

    @property
    def nbytes(self) -> int:
        """The memory of the positions of frames, bytes."""
        return 4 * self._frames.origins.nbytes

    def pieces(self, start: Voxel, stop: Voxel) -> Iterator[Piece]:
        """Yield the labels of a block, in the order of `names`; see `LabelReader`."""
        with kept_open(), opened(self._frames.source_of(0).file) as handle:
            reader = RowReader(self._frames, handle)
            if self._aligned is not None:
                yield from self._copied(reader, self._aligned, start, stop)
            elif self._sampler is not None:
                yield from self._sampled(reader, self._sampler, start, stop)

    def _copied(
        self, reader: RowReader, aligned: _Aligned, start: Voxel, stop: Voxel
    ) -> Iterator[Piece]:
        """Yield the labels of a block out of frames on the grid of the stack."""
        order, bounds = self._of_slice
        inside = np.sort(order[bounds[start[0]] : bounds[stop[0]]])
        if self._type == "LABELMAP":
            for number in inside.tolist():
                found = self._part(reader, aligned, number, start, stop)
                if found is not None:
                    yield Piece(found[0], None, self._relabelled(found[1]))
            return
        segments = self._frames.segments[inside]
        for choice in self._choices:
            for number in inside[np.isin(segments, choice.numbers)].tolist():
                found = self._part(reader, aligned, number, start, stop)
                if found is not None:
                    where, values = found
                    yield Piece(where, self._in_segment(values), choice.label)

    def _sampled(
        self, reader: RowReader, grid: Sampler, start: Voxel, stop: Voxel
    ) -> Iterator[Piece]:
        """Yield the labels of a block out of frames on another grid, at the nearest pixel."""
        frames = self._frames
        for z in range(start[0], stop[0]):
            where = (
                slice(z - start[0], z - start[0] + 1),
                slice(0, stop[1] - start[1]),
                slice(0, stop[2] - start[2]),
            )
            nearest = grid.nearest(self._planes, z, start[1:], stop[1:])
            for choice in self._choices:
                mask = np.zeros(nearest.plane.shape, np.bool_)
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
                            mask[at] |= np.isin(values, choice.numbers)
                        else:
                            mask[at] |= self._in_segment(values)
                if mask.any():
                    yield Piece(where, mask[None], choice.label)

    def _in_segment(self, values: Values) -> Mask:
        """Return where the values of a frame belong to its segment."""
        return values if values.dtype == np.bool_ else np.asarray(values >= self._lowest)

    def _part(
        self, reader: RowReader, aligned: _Aligned, number: int, start: Voxel, stop: Voxel
    ) -> tuple[tuple[slice, ...], Values] | None:
        """Return the part of a block in which a frame has values, and these; None without any."""
        exchanged, flip_rows, flip_columns = aligned.turn
        size = self._frames.size
        height, width = size[::-1] if exchanged else size
        top, left = aligned.corners.item(number, 0), aligned.corners.item(number, 1)
        first, last = max(start[1], top), min(stop[1], top + height)
        begin, end = max(start[2], left), min(stop[2], left + width)
        if first >= last or begin >= end:
            return None
        is_turned = exchanged or flip_rows or flip_columns
        read = reader.rows(number, *((0, size[0]) if is_turned else (first - top, last - top)))
        if read is None:
            return None
        row, values = read
        if is_turned:
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


def _require_fractions(frames: SegFrames) -> None:
    first = frames.source_of(0)
    if names_bits(first.file, first.byte_offset):
        raise AnnotationError(
            "the SEG calls bit masks fractions: its private element (0117,xxD3) names the bits; "
            "stored values of its frames (read_frame) hold them"
        )


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


def _lowest_value(annotation: AnnotationFacts, threshold: float | None) -> float:
    """Return the lowest stored value that counts as part of a segment."""
    if annotation.segmentation_type != "FRACTIONAL":
        return 1
    if threshold is None:
        raise AnnotationError(
            f"the SEG has fractions ({annotation.fractional_type or 'of an unknown type'}): "
            "threshold=0.5 makes labels of them"
        )
    if not 0 < threshold <= 1:
        raise AnnotationError(f"threshold={threshold}: expected a fraction above 0 to 1")
    return threshold * (annotation.maximum_fractional_value or 255)


def _table(annotation: AnnotationFacts, choices: Sequence[Choice]) -> Values:
    """Return the label of each value of a label map, the last one for all higher values.

    Values that are no segment, such as padding, have the label 0.
    """
    numbers = [segment.number for segment in annotation.segments]
    table = np.zeros(max(numbers, default=0) + 2, np.int32)
    for choice in choices:
        table[list(choice.numbers)] = choice.label
    return table.astype(label_dtype({choice.label: "" for choice in choices}))


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
