"""The fixed sample of a stack's values that percentiles are computed from."""

import contextlib
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dicomdl.arrays import Mask, Values
from dicomdl.errors import PixelError
from dicomdl.headers.frame import FrameSource
from dicomdl.index.views import Group, Stack
from dicomdl.pixels.options import Decoding
from dicomdl.storage.system import available_cores
from dicomdl.values.conversion import Conversion, conversions
from dicomdl.values.quantity import Quantity
from dicomdl.values.reading import read_converted

SAMPLED_FRAMES: Final = 16
SAMPLED_VALUES: Final = 1 << 20


def sample_positions(n_frames: int) -> NDArray[np.intp]:
    """Which frames of a stack the sample for `Percentile` takes.

    Ascending, at most 16, evenly spaced, first and last among them.
    """
    if n_frames <= SAMPLED_FRAMES:
        return np.arange(n_frames, dtype=np.intp)
    gaps = SAMPLED_FRAMES - 1
    return (np.arange(SAMPLED_FRAMES, dtype=np.intp) * (n_frames - 1) + gaps // 2) // gaps


def sample_stride(rows: int, columns: int, n_sampled: int) -> int:
    """The smallest step, the same for rows and columns, with which `n_sampled` frames give at most 2**20 values."""
    stride = max(1, math.isqrt(n_sampled * rows * columns // SAMPLED_VALUES))
    while (
        stride < max(rows, columns)
        and n_sampled * -(-rows // stride) * -(-columns // stride) > SAMPLED_VALUES
    ):
        stride += 1
    return stride


def stack_sample(
    stack: Stack | Group, quantity: Quantity = "modality", max_bytes: int | None = None
) -> Values:
    """The fixed sample of a stack's values that percentiles are computed from (see `Percentile`), without padding.

    Slices that cannot be read are left out of it: reading them for themselves says so. That of a group pools the samples of at most 16
    of its stacks, evenly spaced, the first and the last among them.
    """
    return read_sample(stack, quantity, max_bytes)[0]


def read_sample(
    stack: Stack | Group, quantity: Quantity, max_bytes: int | None
) -> tuple[Values, bool]:
    """The sample, and whether all of its slices could be read."""
    stacks = (
        [stack[t] for t in sample_positions(len(stack)).tolist()]
        if isinstance(stack, Group)
        else [stack]
    )
    sources: list[FrameSource] = []
    every: list[Conversion] = []
    for each in stacks:
        own = conversions(each, quantity)
        for place in sample_positions(each.slices).tolist():
            sources.append(each.source(place))
            every.append(own[place])
    how = Decoding(threads=available_cores(), max_bytes=max_bytes)
    try:
        return sample_of(*read_converted(sources, every, how=how)), True
    except PixelError as error:
        # one slice that cannot be read is the fault of its own sample, not of all
        parts = []
        for source, one in zip(sources, every, strict=True):
            with contextlib.suppress(PixelError):
                parts.append(sample_of(*read_converted([source], [one], how=how)).ravel())
        if not parts:
            raise error from None
        return np.concatenate(parts), False


def sample_of(frames: Values, padding: Mask | None) -> Values:
    """The sample that frames of a stack give, without padding.

    All of it where everything is padding: blank is to become blank.
    """
    values = _sparse(frames)
    kept = None if padding is None else ~_sparse(padding)
    return values if kept is None or not kept.any() else values[kept]


def _sparse(frames: Values) -> Values:
    """Every n-th row and column of frames, so many that they make a sample."""
    stride = sample_stride(frames.shape[1], frames.shape[2], len(frames))
    return frames[:, ::stride, ::stride]
