"""Comparison of one frame as decoded by dicomdl and by a second decoder.

Values count as equal within the rounding that the standards of the lossy transfer syntaxes leave to
a decoder; any larger difference is reported with its size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import PixelError
from dicomdl.headers import uids
from dicomdl.headers.frame_source import FrameSource
from dicomdl.jobs._decoder_pairs import first_name, seconds_for
from dicomdl.jobs.second_decoder import Refusal, Second, SecondReader
from dicomdl.pixels import read as pixels
from dicomdl.pixels.options import Colour

Outcome = Literal[
    "equal", "within_rounding", "different", "only_one", "refused_by_both", "no_second_decoder"
]
# Characters of an error in a report; the error of a frame that no decoder reads quotes them all.
LONGEST_REASON: Final = 200
# Levels per sample by which two right decoders may differ, because they round the inverse transform
# differently (ITU-T T.81 A.3.3, T.803). Over the corpus, DCT decoders differ by at most 1, and JPEG
# 2000 decoders not at all. Near-lossless JPEG-LS is reconstructed exactly (ITU-T T.87 A.4).
_ROUNDING: Final[Mapping[str, int]] = {
    uid: 1 for uid in uids.syntaxes_of("jpeg", "jpeg2000") if uids.is_lossy(uid)
}
# Transfer syntaxes without subsampled components.
_WAVELETS: Final = frozenset(filter(uids.is_lossy, uids.syntaxes_of("jpeg2000")))
# Levels of RGB that was converted from components one level apart: 1 + 1.772 (PS3.3 C.7.6.3.1.2).
_COLOUR_ROUNDING: Final = 3
# Mean difference of a chrominance plane: the upsampling of subsampled planes is the decoder's
# choice (T.81 A.1.1).
_UPSAMPLING: Final = 1.0


@dataclass(frozen=True, slots=True)
class Difference:
    """Result of comparing one frame.

    Attributes
    ----------
    path, frame_number, transfer_syntax_uid
        Identify the frame; `frame_number` counts from 1.
    outcome
        "equal", "within_rounding", "different", "only_one" (one decoder refused),
        "refused_by_both" or "no_second_decoder".
    first, second
        Names of the two decoders; `second` is "" without a second decoder.
    what
        Description in words; "" for equal values.
    max_difference
        Largest difference of a sample; None unless there are two arrays of one shape, or if it is
        infinite (NaN against a number).
    share
        Share of samples that differ; None unless there are two arrays of one shape.
    """

    path: str
    frame_number: int
    transfer_syntax_uid: str
    outcome: Outcome
    first: str
    second: str
    what: str
    max_difference: float | None = None
    share: float | None = None


class Compared(NamedTuple):
    """Result for one frame, and its second decoder, None if there was none."""

    difference: Difference
    second: Second | None


def compare_frame(source: FrameSource, reader: SecondReader) -> Compared:
    """Decode one frame with dicomdl and with a second decoder, and compare the values.

    The second decoder is the most independent one that is installed and does not refuse the frame.
    If its process dies or hangs, this is the result: no further decoder is tried.
    """
    waiting = [second for second in seconds_for(source) if second.name not in reader.missing]
    refused: Second | None = None
    why = Refusal("")
    ours: Values | Refusal | None = None
    for second in waiting:
        # the second process decodes while this one does
        reader.ask(source, second)
        if ours is None or source.samples_per_pixel > 1:
            ours = _ours(source, second.colour)
        theirs = reader.answer()
        if theirs is None:
            reader.missing.add(second.name)
        elif isinstance(theirs, Refusal) and not theirs.ended and not isinstance(ours, Refusal):
            refused, why = refused or second, why if refused else theirs
        else:
            return Compared(_judged(source, second, ours, theirs), second)
    if ours is not None and refused is not None:
        return Compared(_judged(source, refused, ours, why), refused)
    ours = _ours(source, "stored") if ours is None else ours
    outcome: Outcome = "refused_by_both" if isinstance(ours, Refusal) else "no_second_decoder"
    first = f"dicomdl: {ours.why}; " if isinstance(ours, Refusal) else ""
    return Compared(_difference(source, None, outcome, f"{first}there is no second decoder"), None)


def _ours(source: FrameSource, colour: Colour) -> Values | Refusal:
    """Return the values that dicomdl decodes, or its refusal."""
    try:
        return pixels.read_frame(source, colour=colour)
    except PixelError as error:
        return Refusal(f"{type(error).__name__} ({str(error)[:LONGEST_REASON]})")


def _difference(
    source: FrameSource, second: Second | None, outcome: Outcome, what: str, *numbers: float | None
) -> Difference:
    uid = source.transfer_syntax_uid
    return Difference(
        source.path,
        source.frame_number,
        uid,
        outcome,
        first_name(uid),
        second.name if second else "",
        what,
        *numbers,
    )


def _judged(
    source: FrameSource, second: Second, ours: Values | Refusal, theirs: Values | Refusal
) -> Difference:
    if isinstance(ours, Refusal) or isinstance(theirs, Refusal):
        refused = isinstance(ours, Refusal) and isinstance(theirs, Refusal)
        results = [
            value.why if isinstance(value, Refusal) else f"gave an array of {value.shape}"
            for value in (ours, theirs)
        ]
        return _difference(
            source,
            second,
            "refused_by_both" if refused else "only_one",
            f"dicomdl: {results[0]}; {second.name}: {results[1]}",
        )
    names = f"decoders differ: {first_name(source.transfer_syntax_uid)} and {second.name}"
    if ours.shape != theirs.shape:
        return _difference(
            source, second, "different", f"{names}: shapes {ours.shape} and {theirs.shape}"
        )
    if np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == theirs.dtype.kind == "f"):
        return _difference(source, second, "equal", "", 0.0, 0.0)
    gaps = _gaps(ours, theirs)
    largest, share = float(gaps.max()), float(np.count_nonzero(gaps) / gaps.size)
    outcome: Outcome = "within_rounding" if _is_rounding(gaps, source, second) else "different"
    what = f"{names}: by {largest:g} at most, in {share:.2%} of the samples"
    return _difference(
        source, second, outcome, what, largest if math.isfinite(largest) else None, share
    )


def _gaps(ours: Values, theirs: Values) -> Values:
    """Return the absolute difference of each pair of samples.

    It is infinite where only one of the two is NaN, and at least 1 where integers differ.
    """
    integral = ours.dtype.kind in "iu" and theirs.dtype.kind in "iu"
    if integral and max(ours.itemsize, theirs.itemsize) < 8:
        return np.asarray(np.abs(ours.astype(np.int64) - theirs.astype(np.int64)))
    first, second = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gaps = np.maximum(np.abs(first - second), 1 if integral else 0)
    same = (ours == theirs) | (np.isnan(first) & np.isnan(second))
    return np.where(same, 0, np.where(np.isnan(gaps), np.inf, gaps))


def _is_rounding(gaps: Values, source: FrameSource, second: Second) -> bool:
    """Whether differences are within what two right decoders of a lossy syntax may have."""
    allowed = _ROUNDING.get(source.transfer_syntax_uid, 0)
    if not allowed:
        return False
    if gaps.max() <= allowed:
        return True
    if source.samples_per_pixel != 3 or not source.photometric_interpretation.startswith("YBR"):
        return False
    converted = second.colour == "rgb"
    if converted and gaps.max() <= _COLOUR_ROUNDING:
        return True
    if source.transfer_syntax_uid in _WAVELETS:
        return False
    means = gaps.reshape(-1, 3).mean(axis=0)
    return bool(means.max() <= _UPSAMPLING and (converted or gaps[..., 0].max() <= allowed))
