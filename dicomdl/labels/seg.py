"""Segments of a SEG as labels of a stack.

Frames find their slices by position, never by number; those without one, by the images that they
refer to. Frames on the grid of the stack are copied; other grids are sampled at the nearest voxel.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from dicomdl.arrays import Floats, Mask, Values, Voxel
from dicomdl.errors import AnnotationError
from dicomdl.headers.annotation import AnnotationFacts
from dicomdl.index.text import counted
from dicomdl.index.views import Stack
from dicomdl.labels._aligned import Aligned, Labelled, Parts, aligned, order_of
from dicomdl.labels._bit_counts import count_bits
from dicomdl.labels._bit_rows import BitRows
from dicomdl.labels._choice import Choice
from dicomdl.labels._coverage import Referred
from dicomdl.labels._fractions import NO_FRACTIONS, Fractions
from dicomdl.labels._plain_parts import LabelledValues, bit_parts, byte_parts
from dicomdl.labels._planes import Planes
from dicomdl.labels._referenced import of_stack, on_references
from dicomdl.labels._sampling import Sampler
from dicomdl.labels._seg_frames import FrameRows, RowReader, SegFrames
from dicomdl.labels.reader import LabelValues, Piece, smallest_dtype
from dicomdl.lazy import cached_property
from dicomdl.storage.sources import Handle, kept_open, opened

Align = Literal["nearest", "exact"]
# The first voxel of a block, and the one after its last.
_Block: TypeAlias = tuple[Voxel, Voxel]


class SegObject(NamedTuple):
    """A SEG: its facts, its frames, and the slices that it refers to.

    `is_shared` says whether it refers to images of other stacks, too.
    """

    facts: AnnotationFacts
    frames: SegFrames
    referred: Referred
    is_shared: bool = False


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
        frame lies in the stack; a FRACTIONAL SEG without a threshold, or one of bit masks; segments
        of one number.
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
        annotation, frames, self._referred = seg.facts, seg.frames, seg.referred
        _require_same_reference(stack, annotation)
        _require_own_numbers(annotation)
        described = [segment.number for segment in annotation.segments]
        self._frame_count = len(frames)
        is_map = annotation.segmentation_type == "LABELMAP"
        self._strange = 0 if is_map else int((~np.isin(frames.segments, described)).sum())
        self._united = 0
        if frames.has_places:
            self._planes = Planes.of(stack)
            frames, self._united = of_stack(frames, stack, is_shared=seg.is_shared)
        else:
            frames, self._planes = on_references(frames, stack)
        self._type = annotation.segmentation_type
        self._fractions = fractions.of(annotation, frames)
        self.shape: Voxel = stack.shape
        self.values: LabelValues = fractions.values
        self.names = fractions.names(choices)
        self._frames, self._choices = frames, tuple(choices)
        self._aligned, misfit = aligned(frames, self._planes)
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
        self._of_slice = order_of(slices, self.shape[0])
        if self._aligned is not None:
            segments = None if self._type == "LABELMAP" else frames.segments
            self._labelled = Labelled.of(segments, self._choices, slices, self.shape[0])
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
        if self._strange:
            frames = counted(self._frame_count, "frames")
            yield (
                f"{self._strange} of {frames} are left out: no segment has their Referenced "
                "Segment Number (0062,000B)"
            )
        if self._united:
            yield (
                f"{counted(self._united, 'frames')} share their segment and their place with "
                "others, and were combined"
            )
        if self._type != "LABELMAP":
            found = np.unique(self._frames.segments[inside])
            empty = sum(not np.isin(choice.numbers, found).any() for choice in self._choices)
            if empty:
                labels = counted(len(self._choices), "labels")
                yield f"{empty} of {labels} have no frame on the stack"

    @property
    def nbytes(self) -> int:
        """The memory of the positions of frames, bytes."""
        return 5 * self._frames.origins.nbytes

    def pieces(
        self, start: Voxel, stop: Voxel, only: Collection[int] | None = None
    ) -> Iterator[Piece | BitRows]:
        """Yield the labels of a block, in the order of `names`; see `LabelReader`."""
        takes_all = only is None or self.values == "bits"
        wanted = [takes_all or choice.label in (only or ()) for choice in self._choices]
        choices = [each for each, is_wanted in zip(self._choices, wanted, strict=True) if is_wanted]
        frames, block = self._frames, (start, stop)
        parts = None if self._aligned is None else self._parts(self._aligned, wanted, block)
        ahead = frames.ahead(lambda: self._rows_ahead(parts, choices, block))
        with kept_open(), ahead, opened(frames.file) as handle:
            if self._aligned is not None and parts is not None:
                yield from self._copied(handle, self._aligned, parts, start)
            elif self._sampler is not None:
                reader = RowReader(frames, handle)
                yield from self._sampled(reader, self._sampler, choices, block)

    def _parts(self, aligned: Aligned, wanted: Sequence[bool], block: _Block) -> Parts:
        """Return the parts of a block out of frames on its grid, in the order of labels."""
        start, stop = block
        labels = [choice.label for choice in self._choices]
        if self._type == "LABELMAP":
            labels, wanted = [0], [True]
        numbers, ranks = self._labelled.within(start[0], stop[0], np.array(wanted, np.bool_))
        return aligned.parts(numbers, np.array(labels, np.int64)[ranks], start, stop)

    def _rows_ahead(
        self, parts: Parts | None, choices: Sequence[Choice], block: _Block
    ) -> Iterator[FrameRows]:
        """Yield the rows of frames that a block will read; on another grid, about those."""
        (start, stop), aligned, sampler = block, self._aligned, self._sampler
        if aligned is not None and parts is not None:
            yield from self._frame_rows(aligned, parts)
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
        with kept_open(), ahead, opened(frames.file) as handle:
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

    @cached_property
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
            numbers = order[bounds[z] : bounds[z + 1]]
            parts = self._aligned.parts(numbers, np.zeros_like(numbers), start, stop)
            low, high = parts.low - start[1:], parts.high - start[1:]
            for (top, left), (bottom, right) in zip(low.tolist(), high.tolist(), strict=True):
                mask[top:bottom, left:right] = True

    def _copied(
        self, handle: Handle, aligned: Aligned, parts: Parts, start: Voxel
    ) -> Iterator[Piece | BitRows]:
        """Yield the labels of parts of the block at `start`, out of frames on its grid."""
        frames, is_map = self._frames, self._type == "LABELMAP"
        if frames.bits == 1 and not aligned.is_turned and not is_map:
            yield from bit_parts(frames, handle, parts, start)
            return
        if frames.bits == 8 and not aligned.is_turned:
            found = byte_parts(frames, handle, parts, start, at_once=is_map)
        else:
            found = self._one_by_one(RowReader(frames, handle), aligned, parts, start)
        for where, values, label in found:
            if is_map:
                yield Piece(where, None, self._relabelled(values))
            else:
                yield self._fractions.piece(where, values, label)

    def _frame_rows(self, aligned: Aligned, parts: Parts) -> Iterator[FrameRows]:
        """Yield the rows of frames that parts of a block need: all of a turned one."""
        rows = np.stack([parts.low[:, 0], parts.high[:, 0]], axis=1) - parts.corners[:, :1]
        if aligned.is_turned:
            rows[...] = 0, self._frames.size[0]
        for number, (first, last) in zip(parts.frames.tolist(), rows.tolist(), strict=True):
            yield FrameRows(number, first, last)

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

    def _one_by_one(
        self, reader: RowReader, aligned: Aligned, parts: Parts, start: Voxel
    ) -> Iterator[LabelledValues]:
        """Yield the values of parts of a block, frame by frame, turned as the stack is."""
        exchanged, flip_rows, flip_columns = aligned.turn
        places = np.stack([parts.corners, parts.low, parts.high], axis=1).tolist()
        slices, labels = (parts.slices - start[0]).tolist(), parts.labels.tolist()
        each = zip(self._frame_rows(aligned, parts), places, slices, labels, strict=True)
        for rows, ((top, left), (first, begin), (last, end)), z, label in each:
            read = reader.rows(*rows)
            if read is None:
                continue
            row, values = read
            if aligned.is_turned:
                whole = np.zeros(self._frames.size, values.dtype)
                whole[row : row + len(values)] = values
                values = whole.T if exchanged else whole
                values = values[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
                row, values = first - top, values[first - top : last - top]
            y = top + row - start[1]
            where = (
                slice(z, z + 1),
                slice(y, y + len(values)),
                slice(begin - start[2], end - start[2]),
            )
            yield LabelledValues(where, values[None, :, begin - left : end - left], label)

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


def _require_own_numbers(annotation: AnnotationFacts) -> None:
    numbers = [segment.number for segment in annotation.segments]
    if len(set(numbers)) < len(numbers):
        raise AnnotationError(
            f"{len(numbers)} segments have {len(set(numbers))} distinct numbers (Segment Number "
            "(0062,0004)), so that frames cannot be assigned to them"
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
