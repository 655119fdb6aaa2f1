"""Frames of a segmentation that lie on the grid of a stack, and their parts of a block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from dicomdl.arrays import Floats, Ints, Mask, Voxel
from dicomdl.labels._choice import Choice
from dicomdl.labels._planes import Planes
from dicomdl.labels._seg_frames import SegFrames

# The distance of a frame from a slice that is still on it, as a part of the spacing.
_ON_SLICE: Final = 0.1
# The distance of the corners of a frame from the centres of pixels of the stack, pixels.
_ON_PIXEL: Final = 0.1


class Parts(NamedTuple):
    """Parts of a block, each out of one frame.

    Attributes
    ----------
    frames
        (parts,) int64: the frame of each.
    labels
        (parts,) int64: its label; 0 for label maps.
    slices
        (parts,) int64: its slice of the stack.
    corners
        (parts, 2) int64: the row and column of the stack where the frame begins.
    low, high
        (parts, 2) int64: the first row and column of the part in the stack, and those after its
        last.
    """

    frames: Ints
    labels: Ints
    slices: Ints
    corners: Ints
    low: Ints
    high: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """Frames on the grid of a stack.

    Attributes
    ----------
    slices
        (frames,) int64: the slice of each frame; -1 beyond the stack.
    corners
        (frames, 2) int64: the (row, column) of the lowest row and column of each frame.
    turn
        Whether rows and columns are exchanged, then which of both are flipped.
    size
        The (rows, columns) of the stack that a frame covers.
    """

    slices: Ints
    corners: Ints
    turn: tuple[bool, bool, bool]
    size: tuple[int, int]

    @property
    def is_turned(self) -> bool:
        """Whether rows and columns of frames are not those of the stack."""
        return any(self.turn)

    def parts(self, frames: Ints, labels: Ints, start: Voxel, stop: Voxel) -> Parts:
        """Return the parts of a block that some frames, on its slices, cover; see `Parts`."""
        corners = self.corners[frames]
        low = np.maximum(corners, start[1:])
        high = np.minimum(corners + self.size, stop[1:])
        parts = Parts(frames, labels, self.slices[frames], corners, low, high)
        inside = (low < high).all(axis=1)
        return parts if inside.all() else Parts(*(each[inside] for each in parts))


def aligned(frames: SegFrames, planes: Planes) -> tuple[Aligned | None, str]:
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
    exchanged = bool(turned[0, 0] == 0)
    far = corners + (size[:, None] * turned).sum(axis=0)
    flips = turned.sum(axis=0) < 0
    return (
        Aligned(
            slices,
            np.minimum(corners, far).astype(np.int64),
            (exchanged, bool(flips[0]), bool(flips[1])),
            frames.size[::-1] if exchanged else frames.size,
        ),
        "",
    )


def _pixels(steps: Floats) -> str:
    down, right = np.linalg.norm(steps, axis=1)
    return f"{down:.3g} x {right:.3g} pixels"


def order_of(slices: Ints, count: int) -> tuple[Ints, Ints]:
    """Return the frames in the order of their slices, and the first of each slice and after."""
    order = np.argsort(slices, kind="stable")
    return order, np.searchsorted(slices[order], np.arange(count + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """The frames of each label, in the order of labels and then of frames.

    Attributes
    ----------
    frames
        (entries,) int64: a frame occurs once per label that its segment belongs to.
    ranks
        (entries,) int64: the position of the label among all.
    of_slice
        The entries in the order of their slices, and (slices + 1,) the first of each slice.
    """

    frames: Ints
    ranks: Ints
    of_slice: tuple[Ints, Ints]

    @classmethod
    def of(
        cls, segments: Ints | None, choices: Sequence[Choice], slices: Ints, count: int
    ) -> "Labelled":
        """Return the frames of each label on `count` slices.

        `segments` and `slices` are those of the frames. Without segments, as in label maps, all
        frames are of the first label.
        """
        if segments is None:
            each = [np.arange(len(slices))]
        else:
            each = [np.flatnonzero(np.isin(segments, choice.numbers)) for choice in choices]
        frames = np.concatenate([np.zeros(0, np.int64), *each])
        ranks = np.repeat(np.arange(len(each)), [len(numbers) for numbers in each])
        return cls(frames, ranks, order_of(slices[frames], count))

    def within(self, first: int, last: int, wanted: Mask) -> tuple[Ints, Ints]:
        """Return the frames and ranks of wanted labels on slices `first` to `last` (excluded)."""
        order, bounds = self.of_slice
        entries = np.sort(order[bounds[first] : bounds[last]])
        ranks = self.ranks[entries]
        if not wanted.all():
            chosen = wanted[ranks]
            entries, ranks = entries[chosen], ranks[chosen]
        return self.frames[entries], ranks
