"""datasets.stitch"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Values, Voxel
from dicomdl.errors import GeometryError, UsageError
from dicomdl.volumes.cutting import overlap_of


def gaussian(size: Voxel, sigma: float = 0.125) -> npt.NDArray[np.float32]:
    """(size) weights for `stitch`.

    A bell about the middle, `sigma` times the size wide, at least 1e-3 of its top everywhere.
    """
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / max(sigma * n, 1e-6)) ** 2) for n in size]
    weights = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return np.asarray(np.maximum(weights / weights.max(), 1e-3), np.float32)


class Stitcher:
    """Patches, or what a network made of them, back into one array of a stack.

    A weighted mean where they overlap.

    Parameters
    ----------
    shape
        (slices, rows, columns) of the stack.
    weights
        "gaussian", "constant", or an array of the patch's spatial size.
    """

    def __init__(self, shape: Voxel, weights: str | Values = "gaussian") -> None:
        self.shape = shape
        self._weights = weights
        self._sum: Values | None = None
        self._total = np.zeros(shape, np.float32)

    def add(self, patch: Values, location: Sequence[int]) -> None:
        """Add one patch, (C, D, H, W) or (D, H, W), that began at voxel `location` of the stack."""
        patch = np.asarray(patch)
        size = patch.shape[-3:]
        weights = self._of_size((int(size[0]), int(size[1]), int(size[2])))
        if self._sum is None:
            self._sum = np.zeros((*patch.shape[:-3], *self.shape), np.float32)
        if self._sum.shape[:-3] != patch.shape[:-3]:
            raise UsageError(
                f"patches of {self._sum.shape[:-3]} channels so far, now {patch.shape[:-3]}"
            )
        z, y, x = (int(a) for a in location)
        met = overlap_of((z, y, x), (int(size[0]), int(size[1]), int(size[2])), self.shape)
        if met is None:
            return
        there, here = met
        z_range, y_range, x_range = here
        self._sum[..., there[0], there[1], there[2]] += (
            patch[..., z_range, y_range, x_range] * weights[here]
        )
        self._total[there] += weights[here]

    def _of_size(self, size: Voxel) -> Values:
        if isinstance(self._weights, str):
            if self._weights not in ("gaussian", "constant"):
                raise UsageError(
                    f"weights={self._weights!r}: expected 'gaussian', 'constant' or an array"
                )
            self._weights = (
                gaussian(size) if self._weights == "gaussian" else np.ones(size, np.float32)
            )
        if self._weights.shape != size:
            raise UsageError(f"a patch of {size} with weights of {self._weights.shape}")
        return self._weights

    @property
    def is_covered(self) -> bool:
        """Whether every voxel of the stack lies in a patch."""
        return bool((self._total > 0).all())

    def result(self, fill: float = np.nan) -> npt.NDArray[np.float32]:
        """(C, slices, rows, columns) or (slices, rows, columns) float32, a new array.

        `fill` where no patch lies.

        Raises
        ------
        GeometryError
            No patch was added.
        """
        if self._sum is None:
            raise GeometryError("no patch was added: there is nothing to stitch")
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._sum / self._total
        mean[..., self._total == 0] = fill
        return np.asarray(mean, np.float32)


def stitch(
    patches: Sequence[Values] | Iterator[Values],
    locations: Sequence[Sequence[int]],
    shape: Voxel,
    weights: str | Values = "gaussian",
) -> npt.NDArray[np.float32]:
    """Patches back into one array of a stack: `Stitcher` in one call; NaN where no patch lies."""
    whole = Stitcher(shape, weights)
    for patch, location in zip(patches, locations, strict=True):
        whole.add(patch, location)
    return whole.result()
