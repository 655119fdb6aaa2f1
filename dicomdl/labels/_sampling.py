"""The nearest pixel of the frames of a segmentation for each pixel of a slice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from dicomdl.arrays import Ints, Voxel
from dicomdl.errors import AnnotationError
from dicomdl.labels._planes import Planes
from dicomdl.labels._seg_frames import SegFrames

# Frames within this part of a pixel of each other lie in one plane.
_SAME_PLANE: Final = 0.1


class Nearest(NamedTuple):
    """The nearest pixel for each pixel of a slice, (rows, columns) int64; plane -1 for none."""

    plane: Ints
    row: Ints
    column: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """The planes of frames that share one orientation and pixel spacing.

    Attributes
    ----------
    planes
        The distinct planes, as of a stack.
    plane_of
        (frames,) int64: the plane of each frame.
    size
        (rows, columns) of the frames.
    """

    planes: Planes
    plane_of: Ints
    size: tuple[int, int]

    @classmethod
    def of(cls, frames: SegFrames) -> "Sampler":
        """Return the planes of the frames of a segmentation.

        Raises
        ------
        AnnotationError
            The frames have several orientations or pixel spacings.
        """
        down, right = frames.down[0], frames.right[0]
        pixel = float(min(np.linalg.norm(down), np.linalg.norm(right)))
        size = np.array(frames.size)
        spread = max(
            float(np.abs(frames.down - down).max()) * size[0],
            float(np.abs(frames.right - right).max()) * size[1],
        )
        if spread > _SAME_PLANE * pixel:
            raise AnnotationError("the frames of the SEG have several orientations or spacings")
        normal = np.cross(right, down)
        normal /= np.linalg.norm(normal)
        heights = frames.origins @ normal
        order = np.argsort(heights, kind="stable")
        is_new = np.diff(heights[order], prepend=-np.inf) > _SAME_PLANE * pixel
        plane_of = np.empty(len(order), np.int64)
        plane_of[order] = np.cumsum(is_new) - 1
        planes = Planes.at(frames.origins[order[is_new]], down, right, pixel)
        apart = float(np.abs(planes.pixels(frames.origins, plane_of)).max())
        if apart > _SAME_PLANE:
            raise AnnotationError(
                f"frames of the SEG in one plane lie up to {apart:.3g} pixels apart, which is read "
                "only on the grid of the stack",
                pixels=apart,
            )
        return cls(planes, plane_of, frames.size)

    def nearest(self, stack: Planes, z: int, start: Sequence[int], stop: Sequence[int]) -> Nearest:
        """Return the nearest pixels for rows and columns `start` to `stop` of a slice."""
        row, column = np.ogrid[start[0] : stop[0], start[1] : stop[1]]
        points = stack.origins[z] + row[..., None] * stack.down + column[..., None] * stack.right
        plane = self.planes.nearest(points @ self.planes.normal)
        pixels = np.rint(self.planes.pixels(points, np.maximum(plane, 0))).astype(np.int64)
        inside = ((pixels >= 0) & (pixels < self.size)).all(axis=-1)
        return Nearest(np.where(inside, plane, -1), pixels[..., 0], pixels[..., 1])

    def frames_of(self, plane: int, numbers: Sequence[int], segments: Ints) -> list[int]:
        """Return the frames of a plane that have one of the segments; 0 is that of label maps."""
        wanted = np.isin(segments, (0, *numbers))
        return np.flatnonzero((self.plane_of == plane) & wanted).tolist()

    def slices_of(self, stack: Planes, shape: Voxel) -> Ints:
        """Return (slices,) int64: the nearest plane of the middle of each slice, -1 for none."""
        middle = stack.origins + shape[1] / 2 * stack.down + shape[2] / 2 * stack.right
        return self.planes.nearest(middle @ self.planes.normal)
