"""What float32 holds exactly."""

from typing import Any, Final

import numpy as np

# dtype.char of what converts to float32 without rounding
EXACT_IN_FLOAT32: Final = frozenset("?bBhHef")


def is_float32(value: float) -> bool:
    with np.errstate(over="ignore"):
        return float(np.float32(value)) == value


def store_floats(option: Any, *names: str) -> None:
    # int, numpy scalars and pydicom's DSfloat become float, so that equal options print and
    # hash alike.
    for name in names:
        object.__setattr__(option, name, float(getattr(option, name)))
