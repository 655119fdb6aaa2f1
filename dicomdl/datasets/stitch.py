"""The join of overlapping patches into one array of a stack, by a weighted mean."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Values, Voxel
from dicomdl.errors import GeometryError, UsageError
from dicomdl.volumes.cutting import overlap_of


def gaussian(size: Voxel, sigma: float = 0.125) -> npt.NDArray[np.float32]:
    """Return Gaussian weights of the shape `size`, for `stitch`.

    The standard deviation per axis is `sigma` times the size. The weights are scaled to a maximum
    of 1 and are at least 1e-3.
    """
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / max(sigma * n, 1e-6)) ** 2) for n in size]
    weights = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return np.asarray(np.maximum(weights / weights.max(), 1e-3), np.float32)


class Stitcher:
    """One array of a stack, joined from patches or from a network's results for them.

    Overlapping patches are combined by their weighted mean. The patches are added one by one, so
    that they need not all be in memory.

    With ``PatchDataset(spacing=, orientation=)``, `shape` and locations count voxels of the
    patches' grid, and the result lies on that grid, `PatchDataset.geometry`. It comes back onto the
    slices by ``Volume(result, patches.geometry(stack)).resample_to(stack.geometry)``; pass
    ``interpolation="nearest"`` for label maps.

    Parameters
    ----------
    shape
        (slices, rows, columns) of the stack: `shape` of its samples.
    weights
        "gaussian", "constant", or an array of the spatial size of a patch.
    """

    def __init__(self, shape: Voxel, weights: str | Values = "gaussian") -> None:
        self.shape = shape
        self._weights = weights
        self._sum: Values | None = None
        self._total = np.zeros(shape, np.float32)

    def add(self, patch: Values, location: Sequence[int]) -> None:
        """Add one patch.

        Parameters
        ----------
        patch
            (C, D, H, W) or (D, H, W).
        location
            The first voxel of the patch in the stack, (slice, row, column); may be negative.

        Raises
        ------
        UsageError
            The channels differ from those of earlier patches, or the size from that of `weights`.
        """
        patch = np.asarray(patch)
        size = patch.shape[-3:]
        weights = self._weights_of((int(size[0]), int(size[1]), int(size[2])))
        if self._sum is None:
            self._sum = np.zeros((*patch.shape[:-3], *self.shape), np.float32)
        if self._sum.shape[:-3] != patch.shape[:-3]:
            raise UsageError(
                f"patches of {self._sum.shape[:-3]} channels so far, now {patch.shape[:-3]}"
            )
        z, y, x = (int(a) for a in location)
        overlap = overlap_of((z, y, x), (int(size[0]), int(size[1]), int(size[2])), self.shape)
        if overlap is None:
            return
        in_stack, in_patch = overlap
        z_range, y_range, x_range = in_patch
        self._sum[..., in_stack[0], in_stack[1], in_stack[2]] += (
            patch[..., z_range, y_range, x_range] * weights[in_patch]
        )
        self._total[in_stack] += weights[in_patch]

    def _weights_of(self, size: Voxel) -> Values:
        """Return the weights for patches of a size, computed at the first patch."""
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
        """Return the weighted mean of the patches.

        Parameters
        ----------
        fill
            The value of voxels without a patch.

        Returns
        -------
        numpy.ndarray
            (C, slices, rows, columns) or (slices, rows, columns) float32, a new array.

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
    """Join patches into one array of a stack: `Stitcher` in one call.

    Parameters
    ----------
    patches
        (C, D, H, W) or (D, H, W) arrays.
    locations
        The first voxel of each patch in the stack, (slice, row, column).
    shape, weights
        As for `Stitcher`.

    Returns
    -------
    numpy.ndarray
        (C, slices, rows, columns) or (slices, rows, columns) float32; NaN for voxels without a
        patch.

    Raises
    ------
    UsageError, GeometryError
        As for `Stitcher`.

    Examples
    --------
    >>> import numpy as np
    >>> patches = [np.zeros((1, 2, 2)), np.ones((1, 2, 2))]
    >>> stitch(patches, [(0, 0, 0), (0, 0, 2)], (1, 2, 4))[0, 0]
    array([0., 0., 1., 1.], dtype=float32)
    """
    stitcher = Stitcher(shape, weights)
    for patch, location in zip(patches, locations, strict=True):
        stitcher.add(patch, location)
    return stitcher.result()
