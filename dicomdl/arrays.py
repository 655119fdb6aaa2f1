"""Type aliases of the arrays that all packages use."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

# Pixel values of any dtype.
Values: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Float32: TypeAlias = npt.NDArray[np.float32]
# Slice, row and column.
Voxel: TypeAlias = tuple[int, int, int]
