"""Samples: the fixed sample of a stack's values, from which percentiles are computed.

At most 16 frames and 2**20 values, always the same ones, so every process computes equal limits.
"""

import contextlib
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomdl.arrays import Mask, Values
from dicomdl.errors import PixelError
from dicomdl.headers.frame_source import FrameSource
from dicomdl.index.views import Group, Stack
from dicomdl.pixels.options import WHOLE, Decoding
from dicomdl.storage.system import available_cores
from dicomdl.values.conversion import Conversion, conversions
from dicomdl.values.quantity import Quantity
from dicomdl.values.reading import read_converted

SAMPLED_FRAMES: Final = 16
SAMPLED_VALUES: Final = 1 << 20


def sample_positions(n_frames: int) -> NDArray[np.intp]:
    """Return the slice numbers of the sample for `Percentile`.

    They are ascending, at most 16, evenly spaced, with the first and the last.
    """
    if n_frames <= SAMPLED_FRAMES:
        return np.arange(n_frames, dtype=np.intp)
    gaps = SAMPLED_FRAMES - 1
    return (np.arange(SAMPLED_FRAMES, dtype=np.intp) * (n_frames - 1) + gaps // 2) // gaps


def sample_stride(rows: int, columns: int, n_sampled: int) -> int:
    """Return the step of rows and columns of the sample for `Percentile`.

    It is the smallest step with which `n_sampled` frames give at most 2**20 values.
    """
    stride = max(1, math.isqrt(n_sampled * rows * columns // SAMPLED_VALUES))
    while (
        stride < max(rows, columns)
        and n_sampled * -(-rows // stride) * -(-columns // stride) > SAMPLED_VALUES
    ):
        stride += 1
    return stride


def stack_sample(
    stack: Stack | Group, quantity: Quantity = "modality", how: Decoding = WHOLE
) -> Values:
    """Read the fixed sample of a stack's values (see `Percentile`), without padding.

    Slices that cannot be read are omitted; reading them alone raises. The sample of a group pools
    the samples of at most 16 of its stacks, evenly spaced, with the first and the last.
    """
    return read_sample(stack, quantity, how)[0]


def read_sample(stack: Stack | Group, quantity: Quantity, how: Decoding) -> tuple[Values, bool]:
    """Read the sample, and whether all of its slices could be read."""
    stacks = (
        [stack[t] for t in sample_positions(len(stack)).tolist()]
        if isinstance(stack, Group)
        else [stack]
    )
    sources: list[FrameSource] = []
    sampled: list[Conversion] = []
    for each in stacks:
        per_slice = conversions(each, quantity)
        for number in sample_positions(each.slices).tolist():
            sources.append(each.source(number))
            sampled.append(per_slice[number])
    how = how.with_threads(available_cores())
    try:
        return sample_of(*read_converted(sources, sampled, how=how)), True
    except PixelError as error:
        # A slice that cannot be read must not cost the sample of the others.
        parts = []
        for source, conversion in zip(sources, sampled, strict=True):
            with contextlib.suppress(PixelError):
                parts.append(sample_of(*read_converted([source], [conversion], how=how)).ravel())
        if not parts:
            raise error from None
        return np.concatenate(parts), False


def sample_of(frames: Values, padding: Mask | None) -> Values:
    """Return the sample of some frames, without padding.

    When all of it is padding, it is returned as it is: a blank stack stays blank.
    """
    values = _sparse(frames)
    image = None if padding is None else ~_sparse(padding)
    return values if image is None or not image.any() else values[image]


def _sparse(frames: Values) -> Values:
    """Return a view of every n-th row and column of frames, by `sample_stride`."""
    stride = sample_stride(frames.shape[1], frames.shape[2], len(frames))
    return frames[:, ::stride, ::stride]
