"""jobs.comparison"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import PixelError
from dicomdl.headers import uids
from dicomdl.headers.frame import FrameSource
from dicomdl.jobs._decoder_pairs import first_name, seconds_for
from dicomdl.jobs.second_decoder import Refusal, Second, SecondReader
from dicomdl.pixels import read as pixels
from dicomdl.pixels.options import Colour

Outcome = Literal[
    "equal", "within_rounding", "different", "only_one", "refused_by_both", "no_second_decoder"
]
LONGEST_REASON: Final = (
    200  # characters of an error; the one of a frame that no decoder can read quotes them all
)
# Levels that a sample of these may be off: two right decoders round the inverse transform
# differently (ITU-T T.81 A.3.3, T.803). Over
# the corpus the DCT's are at most 1 apart, JPEG 2000's not at all. Near-lossless JPEG-LS is
# reconstructed exactly (ITU-T T.87 A.4).
_ROUNDING: Final[Mapping[str, int]] = {
    uid: 1 for uid in uids.syntaxes_of("jpeg", "jpeg2000") if uids.is_lossy(uid)
}
# Nothing is subsampled there.
_WAVELETS: Final = frozenset(filter(uids.is_lossy, uids.syntaxes_of("jpeg2000")))
_COLOUR_ROUNDING: Final = (
    3  # of RGB that was made from components a level apart: 1 + 1.772 (PS3.3 C.7.6.3.1.2)
)
# mean difference of a chrominance plane: how subsampled ones are filled up is the decoder's
# choice (T.81 A.1.1)
_UPSAMPLING: Final = 1.0


@dataclass(frozen=True, slots=True)
class Difference:
    """One frame on which two decoders do not give equal values, or that not both of them can decode.

    `what` says it in words. `max_difference` is the largest difference of a sample and `share` the share of samples that differ;
    None where there are no two arrays to compare.
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
    """What came of one frame, and the second decoder that was asked, if there was any."""

    difference: Difference
    second: Second | None


def compare_frame(source: FrameSource, reader: SecondReader) -> Compared:
    """Decode one frame with dicomdl and with the most independent second decoder that is installed and does not refuse it.

    A second decoder whose process dies or hangs is not replaced by the next one: that is the result.
    """
    waiting = [second for second in seconds_for(source) if second.name not in reader.missing]
    refused: Second | None = None
    why = Refusal("")
    ours: Values | Refusal | None = None
    for second in waiting:
        reader.ask(source, second)  # it works while this process does
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
    """dicomdl's values, or why there are none."""
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
        told = [
            value.why if isinstance(value, Refusal) else f"gave an array of {value.shape}"
            for value in (ours, theirs)
        ]
        return _difference(
            source,
            second,
            "refused_by_both" if refused else "only_one",
            f"dicomdl: {told[0]}; {second.name}: {told[1]}",
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
    """How far each pair of samples is apart.

    Infinitely where only one is NaN, at least 1 where integers differ.
    """
    whole = ours.dtype.kind in "iu" and theirs.dtype.kind in "iu"
    if whole and max(ours.itemsize, theirs.itemsize) < 8:
        return np.asarray(np.abs(ours.astype(np.int64) - theirs.astype(np.int64)))
    one, other = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gaps = np.maximum(np.abs(one - other), 1 if whole else 0)
    same = (ours == theirs) | (np.isnan(one) & np.isnan(other))
    return np.where(same, 0, np.where(np.isnan(gaps), np.inf, gaps))


def _is_rounding(gaps: Values, source: FrameSource, second: Second) -> bool:
    """Whether differences are as small as those of two right decoders of a lossy transfer syntax may be."""
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
