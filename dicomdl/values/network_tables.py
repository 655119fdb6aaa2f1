"""Network values of all samples of 8 or 16 bits, as a table: any chain of steps in one look.

The rule: a table holds what the functions of this package give for each possible sample, so that
the result is theirs, bit by bit. It is offered where the compiled module looks up, and where all
samples have one conversion whose values have one dtype. A caller's function, which may look at more
than one value, has no table.
"""

import functools
from typing import Any

import numpy as np

from dicomdl._kernels import accelerated
from dicomdl.arrays import Float32
from dicomdl.errors import IntensityError
from dicomdl.pixels.codestreams import FrameLike
from dicomdl.pixels.stored import stored_dtype
from dicomdl.values.bit_masks import BitMask
from dicomdl.values.conversion import Conversion
from dicomdl.values.intensity import Intensity
from dicomdl.values.looked_up import every_sample
from dicomdl.values.one_pass import OnePass
from dicomdl.values.rescale import dtypes_to_try


def network_table(
    source: FrameLike, conversion: Conversion, recipe: Intensity, *, marks_padding: bool
) -> Float32 | None:
    """Return the network value of each sample of plain frames; None where there is no table.

    `marks_padding` says that padding becomes the lowest value of the recipe.
    """
    dtype = stored_dtype(source)
    if not accelerated or recipe.formula is None or dtype.kind == "f" or dtype.itemsize > 2:
        return None
    one = OnePass.of(source, conversion, dtypes_to_try(integral=conversion.is_integral)[0])
    return None if one is None else _table(one, dtype, recipe, marks_padding)


# Small: 2 MiB.
@functools.lru_cache(maxsize=8)
def _table(
    one: OnePass, dtype: np.dtype[Any], recipe: Intensity, marks_padding: bool
) -> Float32 | None:
    samples = every_sample(dtype)
    values, mask = np.empty(samples.shape, one.values), BitMask.empty(samples.shape, pieces=1)
    try:
        is_padded = one.is_padded(one(samples, values, mask.bits))
    except IntensityError:
        return None
    lowest = recipe.floor(values.dtype)
    if is_padded and marks_padding and lowest is not None:
        values[mask.unpacked()] = lowest
    return recipe(values)
