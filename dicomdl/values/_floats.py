"""Floats: numbers that float32 holds exactly, and numeric options stored as float."""

from typing import Any, Final

import numpy as np

# dtype.char of the dtypes that convert to float32 without rounding.
EXACT_IN_FLOAT32: Final = frozenset("?bBhHef")


def is_float32(value: float) -> bool:
    """Whether float32 holds a number exactly."""
    with np.errstate(over="ignore"):
        return float(np.float32(value)) == value


def store_floats(option: Any, *names: str) -> None:
    """Convert fields of a frozen dataclass to float: int, NumPy scalars, pydicom's DSfloat.

    Equal options then print and hash alike.
    """
    for name in names:
        object.__setattr__(option, name, float(getattr(option, name)))
