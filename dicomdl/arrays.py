"""Type aliases of the arrays that all packages use, and the ends of integer dtypes."""

import functools
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

# Pixel values of any dtype.
Values: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
# One bit per value; the first one is the lowest of its byte.
Bits: TypeAlias = npt.NDArray[np.uint8]
Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Float32: TypeAlias = npt.NDArray[np.float32]
# Slice, row and column.
Voxel: TypeAlias = tuple[int, int, int]


# Small: one entry per dtype. NumPy takes 1 us to make an `iinfo`, and a patch asks ten times.
@functools.lru_cache(maxsize=64)
def ends_of(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the smallest and the largest value of an integer or boolean dtype."""
    if dtype.kind == "b":
        return 0, 1
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)
