"""Frames at a half, a quarter, ...

of their resolution, as JPEG 2000's reversible wavelet makes them (ITU-T T.800 Annex F).

A JPEG 2000 stream holds its lower resolutions, so a decoder can stop there; for everything else
they are computed here by the same steps. One rule then says where pixels are, whatever the transfer
syntax: pixel (r, c) of a frame that was halved n times lies at pixel (2^n r, 2^n c) of the whole
one. Its value is a weighted mean of the 5 x 5 pixels around it, each time.
"""

from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import UsageError
from dicomdl.geometry.grid import halved

BAND: Final = 64  # rows of the result that are made at once


def halve(
    values: Values, times: int, *, smooth: bool = True, limits: tuple[int, int] | None = None
) -> Values:
    """A frame with its rows and columns halved `times` times.

    Parameters
    ----------
    values
        (rows, columns) or (rows, columns, samples), integers of up to 32 bits or floats.
    times
        From 0.
    smooth
        False takes every second pixel as it is: for labels and for the indices of a palette, which
        have no mean.
    limits
        The smallest and the largest value that integers may have, by default those of their dtype:
        the filter overshoots at edges, and what it overshoots is clipped, as a decoder of JPEG 2000
        clips it to the bits of the codestream.

    Returns
    -------
    ndarray
        (ceil(rows / 2^n), ceil(columns / 2^n)[, samples]) of the same dtype, a new array. Integers
        are exactly those of the reversible 5/3 wavelet, floats those of the same filter without its
        rounding; nothing wraps.

    Raises
    ------
    UsageError
        Integers of 64 bits, whose sums have no type.
    """
    if not smooth or times == 0:
        return np.array(values[:: 1 << times, :: 1 << times], order="C")
    if values.dtype.kind != "f" and values.itemsize > 4:
        raise UsageError(
            f"{values.dtype} cannot be smoothed: read the frame whole", dtype=str(values.dtype)
        )
    work = np.dtype(
        np.float64 if values.dtype.kind == "f" else np.int64 if values.itemsize > 2 else np.int32
    )
    exact = values
    for _ in range(times):
        exact = _halved_once(exact, work)
    if values.dtype.kind != "f":
        info = np.iinfo(values.dtype)
        np.clip(exact, *(limits or (int(info.min), int(info.max))), out=exact)
    return np.ascontiguousarray(exact, dtype=values.dtype)


def _halved_once(values: Values, work: np.dtype[Any]) -> Values:
    """One level, band by band, so that a large frame needs little more memory than its half."""
    rows = halved(values.shape[0], 1)
    result = np.empty((rows, halved(values.shape[1], 1), *values.shape[2:]), work)
    for first in range(0, rows, BAND):
        stop = min(first + BAND, rows)
        above = max(0, 2 * first - 2)  # the filter reaches two rows beyond the one that stays
        band = values[above : 2 * stop + 1].astype(work)
        # Rows first: an encoder splits columns of samples first (T.800 F.4.2), which
        # rounding can tell.
        low = _low_pass(band)[first - above // 2 : stop - above // 2]
        result[first:stop] = _low_pass(low.swapaxes(0, 1)).swapaxes(0, 1)
    return result


def _low_pass(values: Values) -> Values:
    """The even samples along axis 0 after the lifting steps of T.800 F.4.8.1, with the ends mirrored (F.3.7)."""
    even, odd = values[0::2], values[1::2]
    if not len(odd):
        return even
    after = even[1:] if len(even) > len(odd) else np.concatenate([even[1:], even[-1:]])
    detail = odd - _part(even[: len(odd)] + after, 1)
    before = np.concatenate([detail[:1], detail])[: len(even)]
    behind = detail if len(detail) == len(even) else np.concatenate([detail, detail[-1:]])
    return even + _part(before + behind, 2)


def _part(values: Values, bits: int) -> Values:
    """A half (1 bit) or a quarter (2 bits) of sums; of integers rounded as the standard does."""
    if values.dtype.kind == "f":
        return values / (1 << bits)
    return (values + (bits & 2)) >> bits  # floor(x / 2), floor((x + 2) / 4)
