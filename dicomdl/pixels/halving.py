"""Frames at a half, a quarter, ... of their resolution, by JPEG 2000's reversible wavelet.

The filter is that of ITU-T T.800 Annex F. A JPEG 2000 stream holds its lower resolutions, so a
decoder can stop at one; for all other syntaxes, this module computes them by the same steps. One
rule then locates pixels for every transfer syntax: pixel (r, c) of a frame that was halved n times
lies at pixel (2^n r, 2^n c) of the full frame. Each halving makes a weighted mean of the 5 x 5
pixels around it.
"""

from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import UsageError
from dicomdl.geometry.grid import halved

# Rows of the result that are computed at once.
BAND: Final = 64


def halve(
    values: Values, times: int, *, smooth: bool = True, limits: tuple[int, int] | None = None
) -> Values:
    """Halve the rows and columns of a frame `times` times.

    Parameters
    ----------
    values
        (rows, columns) or (rows, columns, samples), integers of up to 32 bits or floats.
    times
        Number of halvings, from 0.
    smooth
        False takes every second pixel unchanged: for labels and for indices of palettes, which have
        no mean.
    limits
        Smallest and largest value of the result for integers, by default those of the dtype. The
        filter overshoots at edges; the overshoot is clipped, as a decoder of JPEG 2000 clips it to
        the bits of the codestream.

    Returns
    -------
    ndarray
        (ceil(rows / 2^n), ceil(columns / 2^n)[, samples]) of the same dtype, a new array. Integers
        are exactly those of the reversible 5/3 wavelet, floats those of the same filter without its
        rounding. Values never wrap.

    Raises
    ------
    UsageError
        The integers have 64 bits: no dtype holds their sums.
    """
    if not smooth or times == 0:
        return np.array(values[:: 1 << times, :: 1 << times], order="C")
    if values.dtype.kind != "f" and values.itemsize > 4:
        raise UsageError(
            f"{values.dtype} cannot be smoothed: read the frame in full resolution",
            dtype=str(values.dtype),
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
    """Compute one level, band by band, so that memory is little more than the result's."""
    rows = halved(values.shape[0], 1)
    result = np.empty((rows, halved(values.shape[1], 1), *values.shape[2:]), work)
    for first in range(0, rows, BAND):
        stop = min(first + BAND, rows)
        # The filter reaches two rows beyond the row that is retained.
        above = max(0, 2 * first - 2)
        band = values[above : 2 * stop + 1].astype(work)
        # Rows are first, because an encoder splits columns of samples first (T.800 F.4.2): the
        # order changes the rounding.
        low = _low_pass(band)[first - above // 2 : stop - above // 2]
        result[first:stop] = _low_pass(low.swapaxes(0, 1)).swapaxes(0, 1)
    return result


def _low_pass(values: Values) -> Values:
    """Return the even samples along axis 0 after the lifting steps of T.800 F.4.8.1.

    The ends are mirrored (T.800 F.3.7).
    """
    even, odd = values[0::2], values[1::2]
    if not len(odd):
        return even
    after = even[1:] if len(even) > len(odd) else np.concatenate([even[1:], even[-1:]])
    detail = odd - _part(even[: len(odd)] + after, 1)
    before = np.concatenate([detail[:1], detail])[: len(even)]
    behind = detail if len(detail) == len(even) else np.concatenate([detail, detail[-1:]])
    return even + _part(before + behind, 2)


def _part(values: Values, bits: int) -> Values:
    """Return a half (1 bit) or a quarter (2 bits) of sums, integers rounded as in the standard."""
    if values.dtype.kind == "f":
        return values / (1 << bits)
    # floor(x / 2) or floor((x + 2) / 4)
    return (values + (bits & 2)) >> bits
