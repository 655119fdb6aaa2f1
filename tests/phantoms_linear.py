"""Writer of series whose values are a linear function of LPS coordinates.

Linear interpolation reproduces such a function exactly, so that the value of a resampled image is
known at every voxel, whatever the two grids are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from phantoms import true_affine, write_series

# Modality value = WEIGHTS @ (x, y, z) + OFFSET; z of one image may count more than that of another.
OFFSET = 400.0


def linear_values(points: NDArray[np.float64], weights: Sequence[float]) -> NDArray[np.float64]:
    """Return the values at (..., 3) LPS mm."""
    return np.asarray(points @ np.asarray(weights, np.float64) + OFFSET)


def grid_points(shape: Sequence[int], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (slices, rows, columns, 3) LPS mm, the centres of the voxels of a grid."""
    voxels = np.moveaxis(np.indices(tuple(shape), dtype=np.float64), 0, -1)
    return np.asarray(voxels @ affine[:3, :3].T + affine[:3, 3])


def write_linear(
    folder: Path,
    weights: Sequence[float],
    *,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    origin: Sequence[float] = (0, 0, 0),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    shear: tuple[float, float] = (0, 0),
    **more: Any,
) -> None:
    """Write a series with these values, rounded to 1/60,000 of their range at most."""
    grid: dict[str, Any] = {
        "spacing": spacing,
        "origin": origin,
        "orientation": orientation,
        "shear": shear,
    }
    values = linear_values(grid_points(shape, true_affine(**grid)), weights)
    lowest, step = float(values.min()), float(np.ptp(values)) / 60_000
    write_series(
        folder,
        shape=shape,
        stored=np.rint((values - lowest) / step).astype(np.int64),
        bits_stored=16,
        slope=step,
        intercept=lowest,
        **{"modality": "MR", **grid, **more},
    )
