"""Frames decoded twice, by dicomdl and by a reader that parses the file itself: every difference is listed.

The second reader lives in a process of its own (`seconddecoder`), because decoders abort, hang and lie: GDCM (inside SimpleITK) aborts
on damaged frames, pylibjpeg-libjpeg gives wrong pixels for cut ones without a word. So its death is a result like any other, and a
difference says which two decoders differ, not who is right. How independent the two are depends on the transfer syntax: every JPEG 2000
decoder at hand is a build of OpenJPEG, and two builds of one library can be wrong together. The report says so.
"""

import itertools
import math
import random
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from dicomdl.errors import PixelError, UnsupportedSyntax, UsageError
from dicomdl.headers.frame import FrameSource
from dicomdl.index.overview import printable
from dicomdl.jobs.second_decoder import TIMEOUT_S, Refusal, Second, SecondReader
from dicomdl.pixels import decoders as codecs
from dicomdl.pixels import read as pixels

if TYPE_CHECKING:
    from dicomdl.index.index import Index

Values: TypeAlias = np.typing.NDArray[Any]
Outcome = Literal["equal", "within_rounding", "different", "only_one", "refused_by_both", "no_second_decoder"]
Relation = Literal["independent", "related", "same library"]

SAMPLE: Final = 4  # frames of each kind
LONGEST_REASON: Final = 200  # characters of an error; the one of a frame that no decoder can read quotes them all
SHOWN_DIFFERENCES: Final = 40
KEPT_DIFFERENCES: Final = 10_000  # of each outcome; more are only counted
OUTCOMES: Final[tuple[Outcome, ...]] = ("equal", "within_rounding", "different", "only_one", "refused_by_both", "no_second_decoder")
_FINE: Final = frozenset({"equal", "within_rounding", "no_second_decoder"})


# --- who decodes what a second time -----------------------------------------------------------------------------------


_PYDICOM: Final = Second("pydicom", "pydicom", "pydicom")
_LIBJPEG: Final = Second("pydicom/pylibjpeg-libjpeg", "libjpeg (Richter)", "pydicom", "pylibjpeg")
_EXTENDED: Final = _LIBJPEG._replace(decode_as="1.2.840.10008.1.2.4.51")  # pydicom has no name for the retired ones
_OPENJPEG: Final = Second("pydicom/pylibjpeg-openjpeg", "OpenJPEG", "pydicom", "pylibjpeg")
_PYJPEGLS: Final = Second("pydicom/pyjpegls", "CharLS", "pydicom", "pyjpegls")
_PILLOW: Final = Second("pydicom/pillow", "OpenJPEG", "pydicom", "pillow")
_SOF3: Final = Second("pydicom + imagecodecs.jpegsof3", "jpegsof3", "imagecodecs", "jpegsof3_decode")
_OPENJPH: Final = Second("pydicom + imagecodecs.htj2k", "OpenJPH", "imagecodecs", "htj2k_decode")
_PYDICOM_RLE: Final = Second("pydicom/pydicom", "pydicom", "pydicom", "pydicom")
_RLE: Final = Second("pydicom/pylibjpeg-rle", "pylibjpeg-rle", "pydicom", "pylibjpeg")
_GDCM_JPEG: Final = Second("pydicom + SimpleITK (GDCM)", "libjpeg (IJG)", "simpleitk", colour="rgb")
_GDCM_CHARLS: Final = _GDCM_JPEG._replace(library="CharLS")
_GDCM_OPENJPEG: Final = _GDCM_JPEG._replace(library="OpenJPEG")

# Whose code dicomdl's decoders are. libjpeg-turbo grew out of IJG's libjpeg, and both have their lossless part from one patch.
_LIBRARIES: Final = {
    "imagecodecs.jpeg8_decode": "libjpeg-turbo",
    "imagecodecs.jpegls_decode": "CharLS",
    "imagecodecs.jpeg2k_decode": "OpenJPEG",
    "imagecodecs.htj2k_decode": "OpenJPH",
    "imagecodecs.jpegxl_decode": "libjxl",
    "imagecodecs.dicomrle_decode": "imagecodecs",
    "imagecodecs.jpegsof3_decode": "jpegsof3",
}
_RELATED: Final = frozenset({frozenset({"libjpeg-turbo", "libjpeg (IJG)"})})

# The most independent first. JPEG XL has none: libjxl is the only decoder.
_SECONDS: Final[Mapping[str, tuple[Second, ...]]] = {
    "1.2.840.10008.1.2": (_PYDICOM,),
    "1.2.840.10008.1.2.1": (_PYDICOM,),
    "1.2.840.10008.1.2.2": (_PYDICOM,),
    "1.2.840.10008.1.2.1.99": (_PYDICOM,),
    "1.2.840.10008.1.2.4.50": (_LIBJPEG, _GDCM_JPEG),
    "1.2.840.10008.1.2.4.51": (_LIBJPEG, _GDCM_JPEG),
    "1.2.840.10008.1.2.4.53": (_EXTENDED, _GDCM_JPEG),
    "1.2.840.10008.1.2.4.55": (_EXTENDED, _GDCM_JPEG),
    "1.2.840.10008.1.2.4.57": (_LIBJPEG, _SOF3, _GDCM_JPEG),
    "1.2.840.10008.1.2.4.70": (_LIBJPEG, _SOF3, _GDCM_JPEG),
    "1.2.840.10008.1.2.4.80": (_LIBJPEG, _PYJPEGLS, _GDCM_CHARLS),
    "1.2.840.10008.1.2.4.81": (_LIBJPEG, _PYJPEGLS, _GDCM_CHARLS),
    "1.2.840.10008.1.2.4.90": (_OPENJPEG, _PILLOW, _GDCM_OPENJPEG),
    "1.2.840.10008.1.2.4.91": (_OPENJPEG, _PILLOW, _GDCM_OPENJPEG),
    "1.2.840.10008.1.2.4.201": (_OPENJPH, _OPENJPEG),
    "1.2.840.10008.1.2.4.202": (_OPENJPH, _OPENJPEG),
    "1.2.840.10008.1.2.4.203": (_OPENJPH, _OPENJPEG),
    "1.2.840.10008.1.2.5": (_PYDICOM_RLE, _RLE),
}

# Levels that a sample of these may be off: two right decoders round the inverse transform differently (ITU-T T.81 A.3.3, T.803). Over
# the corpus the DCT's are at most 1 apart, JPEG 2000's not at all. Near-lossless JPEG-LS is reconstructed exactly (ITU-T T.87 A.4).
_ROUNDING: Final[Mapping[str, int]] = {f"1.2.840.10008.1.2.4.{number}": 1 for number in (50, 51, 53, 55, 91, 203)}
_WAVELETS: Final = frozenset({"1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"})  # nothing is subsampled there
_COLOUR_ROUNDING: Final = 3  # of RGB that was made from components a level apart: 1 + 1.772 (PS3.3 C.7.6.3.1.2)
_UPSAMPLING: Final = 1.0  # mean difference of a chrominance plane: how subsampled ones are filled up is the decoder's choice (T.81 A.1.1)


def seconds_for(source: codecs.Source) -> tuple[Second, ...]:
    """The second decoders that can be asked for a frame, the most independent first; () where there is none."""
    return _SECONDS.get(source.transfer_syntax_uid, ())


def first_decoder(transfer_syntax_uid: str) -> str:
    """The name of what dicomdl decodes a transfer syntax with: the first of its decoders, "" for native frames and unknown syntaxes."""
    try:
        return codecs.find_syntax(transfer_syntax_uid).decoders[0].name
    except UnsupportedSyntax:
        return ""


def relation(second: Second, transfer_syntax_uid: str) -> Relation:
    """Whether a second decoder shares code with dicomdl's: what two builds of one library agree on may still be wrong."""
    ours = _LIBRARIES.get(first_decoder(transfer_syntax_uid), "")
    if second.library == ours:
        return "same library"
    return "related" if frozenset({ours, second.library}) in _RELATED else "independent"


# --- what was found ---------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class SyntaxCheck:
    """The frames of one transfer syntax: how many were decoded twice, and what came of it.

    `seconds` names each second decoder that was used and whether it is "independent", "related" code or a build of the "same library".
    """

    transfer_syntax_uid: str
    name: str
    first: str
    seconds: Mapping[str, Relation]
    frames: int
    equal: int
    within_rounding: int
    different: int
    only_one: int
    refused_by_both: int
    no_second_decoder: int


@dataclass(frozen=True, slots=True, repr=False)
class PixelCheck:
    """What decoding with two decoders found: a row a transfer syntax, and every frame that is not equal.

    `ok` when no decoders differ beyond rounding and no frame was refused by either. Frames without a second decoder are counted,
    not held against it.
    """

    path: str
    generation: str
    frames: int  # of the index
    kinds: int  # 0 when every frame was checked
    rows: tuple[SyntaxCheck, ...]
    differences: tuple[Difference, ...]
    unlisted: Mapping[str, int]  # differences that are counted above, but too many to be kept, by outcome

    @property
    def checked(self) -> int:
        """How many frames were looked at."""
        return sum(row.frames for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether no frame needs a person."""
        return not any(row.different or row.only_one or row.refused_by_both for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            "index": self.path,
            "generation": self.generation,
            "ok": self.ok,
            "frames": self.frames,
            "checked": self.checked,
            "kinds": self.kinds,
            "transfer_syntaxes": [asdict(row) for row in self.rows],
            "differences": [asdict(difference) for difference in self.differences],
            "unlisted": dict(self.unlisted),
        }

    def text(self, everything: bool = False) -> str:
        """For a terminal: the table, and the differences that need a person; with `everything` those of rounding, too."""
        told = [self._headline(), *_table(self.rows)]
        listed = [d for d in self.differences if everything or d.outcome not in _FINE]
        for difference in listed if everything else listed[:SHOWN_DIFFERENCES]:
            told += [
                f"    {difference.outcome.replace('_', ' '):<16} {difference.path}, frame {difference.frame_number}",
                f"    {'':<16} {difference.what}",
            ]
        left = len(listed) - SHOWN_DIFFERENCES
        if not everything and left > 0:
            told.append(f"    ... and {left:,} more: --all, or `check.differences`")
        if rest := ", ".join(f"{n:,} {outcome.replace('_', ' ')}" for outcome, n in self.unlisted.items()):
            told.append(f"    counted, but not listed: {rest}")
        return "\n".join(printable(line) for line in [*told, *_notes(self.rows), f"  in {self.path}"])

    def _headline(self) -> str:
        bad = sum(row.different + row.only_one + row.refused_by_both for row in self.rows)
        sampled = f", a sample of {self.kinds:,} kinds" if self.kinds else ""
        verdict = f"{bad:,} need a person" if bad else "no difference beyond rounding"
        return f"Pixels: {self.checked:,} of {self.frames:,} frames decoded twice{sampled}; {verdict}"

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.text())}</pre>"


def _table(rows: Iterable[SyntaxCheck]) -> list[str]:
    titles = ("frames", "equal", "rounding", "different", "only one", "refused", "no second")
    lines = [f"  {'transfer syntax':<30}" + "".join(f"{title:>10}" for title in titles)]
    for row in rows:
        numbers = (row.frames, *(getattr(row, outcome) for outcome in OUTCOMES))
        lines.append(f"  {row.name[:29]:<30}" + "".join(f"{number:>10,}" for number in numbers))
        seconds = ", ".join(f"{name} ({kind})" for name, kind in row.seconds.items()) or "none"
        lines.append(f"    {row.first} against {seconds}")
    return lines if len(lines) > 1 else []


def _notes(rows: Sequence[SyntaxCheck]) -> list[str]:
    kinds = {kind for row in rows for kind in row.seconds.values()}
    without = sum(row.no_second_decoder for row in rows)
    notes = ["  same library: two builds of it agree even where both are wrong"] if "same library" in kinds else []
    return notes + ([f"  {without:,} frame(s) were decoded once only: there is no second decoder for them"] if without else [])


# --- the check --------------------------------------------------------------------------------------------------------


def check_pixels(
    index: "Index", *, sample: int | None = SAMPLE, seed: int = 0, timeout_s: float = TIMEOUT_S, progress: bool = True
) -> PixelCheck:
    """Decode frames with two decoders and list every difference.

    The first is dicomdl's own way by the index, the second a reader that parses the file itself, in a process of its own. Stored values
    are compared, before any rescale. dicomdl may fall back on a decoder behind its first one; the relation speaks of the first one.

    Parameters
    ----------
    index
        Whose frames.
    sample
        How many frames of each kind (transfer syntax, bits, samples, photometric interpretation, SOP class, manufacturer, ...), spread
        over its stacks; None for every frame.
    seed
        Another seed takes other frames of each kind. The same one takes the same.
    timeout_s
        Seconds that the second reader may take for one frame before it is stopped, which is then the result.
    progress
        Show a progress bar where there is a terminal.

    Raises
    ------
    UsageError
        `sample` or `timeout_s` is not positive.
    StorageError
        No second process can be started.
    """
    if sample is not None and sample < 1:
        raise UsageError(f"sample is {sample}; it is a number of frames a kind, at least 1, or None for all", sample=sample)
    if not timeout_s > 0:
        raise UsageError(f"timeout_s is {timeout_s}; it is positive", timeout_s=timeout_s)
    numbers, kinds = (range(len(index)), 0) if sample is None else sampled(index, sample, seed)
    tally = _Tally()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a notebook without ipywidgets tqdm says so, and shows a text bar
        from tqdm.auto import tqdm
    with SecondReader(timeout_s) as reader:
        for number in tqdm(numbers, unit="frame", desc="decoding twice", disable=None if progress else True, leave=False):
            tally.add(compare_frame(index.source(number), reader))
    return PixelCheck(
        path=index.path,
        generation=index.generation,
        frames=len(index),
        kinds=kinds,
        rows=tally.rows(),
        differences=tuple(tally.differences),
        unlisted=dict(tally.unlisted),
    )


class _Tally:
    """Counts outcomes by transfer syntax; keeps so many differences that a million of rounding do not fill the memory."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {}
        self.seconds: dict[str, dict[str, Relation]] = {}
        self.differences: list[Difference] = []
        self.kept: Counter[str] = Counter()
        self.unlisted: Counter[str] = Counter()

    def add(self, compared: "Compared") -> None:
        found = compared.difference
        uid = found.transfer_syntax_uid
        self.outcomes.setdefault(uid, Counter())[found.outcome] += 1
        used = self.seconds.setdefault(uid, {})
        if compared.second is not None:
            used[compared.second.name] = relation(compared.second, uid)
        if found.outcome in ("equal", "no_second_decoder"):
            return
        if self.kept[found.outcome] < KEPT_DIFFERENCES:
            self.kept[found.outcome] += 1
            self.differences.append(found)
        else:
            self.unlisted[found.outcome] += 1

    def rows(self) -> tuple[SyntaxCheck, ...]:
        return tuple(
            SyntaxCheck(
                transfer_syntax_uid=uid,
                name=_syntax_name(uid),
                first=_first_name(uid),
                seconds=self.seconds[uid],
                frames=counts.total(),
                **{outcome: counts[outcome] for outcome in OUTCOMES},
            )
            for uid, counts in sorted(self.outcomes.items())
        )


def _syntax_name(uid: str) -> str:
    from pydicom.uid import UID

    return UID(uid).keyword or uid or "(none)"


def _first_name(uid: str) -> str:
    name = first_decoder(uid)
    return f"dicomdl/{name}" if name else "dicomdl"


# --- which frames -----------------------------------------------------------------------------------------------------

_KIND: Final = (
    *("transfer_syntax_uid", "bits_allocated", "bits_stored", "high_bit", "pixel_representation", "samples_per_pixel"),
    *("photometric_interpretation", "planar_configuration", "float_pixels", "deflated", "coded_rows", "sop_class_uid", "manufacturer"),
)
_PLACE: Final = ("series_instance_uid", "position_in_stack")


def sampled(index: "Index", sample: int, seed: int = 0) -> tuple[list[int], int]:
    """(numbers of `sample` frames of each kind, ascending; how many kinds there are): a stack after the other, whole rounds first."""
    kinds: dict[tuple[Any, ...], dict[int, list[int]]] = {}
    stack, before = 0, ("", -1)
    for number in range(len(index)):
        facts = index.facts(number, (*_KIND, *_PLACE))
        series, position = place = (facts["series_instance_uid"], facts["position_in_stack"])
        if series != before[0] or position <= before[1]:  # frames lie by stack and slice; copies are in none, each for itself
            stack += 1
        before = place
        # Of a mosaic it matters that it is one, not how large.
        kind = tuple(facts[name] if name != "coded_rows" else facts[name] > 0 for name in _KIND)
        kinds.setdefault(kind, {}).setdefault(stack, []).append(number)
    chosen: list[int] = []
    for kind, stacks in kinds.items():
        chosen += _spread(list(stacks.values()), sample, random.Random(f"{seed}|{kind!r}"))
    return sorted(chosen), len(kinds)


def _spread(stacks: list[list[int]], sample: int, chance: random.Random) -> list[int]:
    """`sample` numbers out of as many stacks as there are, one of each before a second of any."""
    some = chance.sample(stacks, min(len(stacks), sample))
    shuffled = [chance.sample(members, min(len(members), sample)) for members in some]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*shuffled))
    return list(itertools.islice((number for number in rounds if number is not None), sample))


# --- one frame --------------------------------------------------------------------------------------------------------


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


def _ours(source: FrameSource, colour: pixels.Colour) -> Values | Refusal:
    """dicomdl's values, or why there are none."""
    try:
        return pixels.read_frame(source, colour=colour)
    except PixelError as error:
        return Refusal(f"{type(error).__name__} ({str(error)[:LONGEST_REASON]})")


def _difference(source: FrameSource, second: Second | None, outcome: Outcome, what: str, *numbers: float | None) -> Difference:
    uid = source.transfer_syntax_uid
    return Difference(source.path, source.frame_number, uid, outcome, _first_name(uid), second.name if second else "", what, *numbers)


def _judged(source: FrameSource, second: Second, ours: Values | Refusal, theirs: Values | Refusal) -> Difference:
    if isinstance(ours, Refusal) or isinstance(theirs, Refusal):
        refused = isinstance(ours, Refusal) and isinstance(theirs, Refusal)
        told = [value.why if isinstance(value, Refusal) else f"gave an array of {value.shape}" for value in (ours, theirs)]
        return _difference(source, second, "refused_by_both" if refused else "only_one", f"dicomdl: {told[0]}; {second.name}: {told[1]}")
    names = f"decoders differ: {_first_name(source.transfer_syntax_uid)} and {second.name}"
    if ours.shape != theirs.shape:
        return _difference(source, second, "different", f"{names}: shapes {ours.shape} and {theirs.shape}")
    if np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == theirs.dtype.kind == "f"):
        return _difference(source, second, "equal", "", 0.0, 0.0)
    gaps = _gaps(ours, theirs)
    largest, share = float(gaps.max()), float(np.count_nonzero(gaps) / gaps.size)
    outcome: Outcome = "within_rounding" if _is_rounding(gaps, source, second) else "different"
    what = f"{names}: by {largest:g} at most, in {share:.2%} of the samples"
    return _difference(source, second, outcome, what, largest if math.isfinite(largest) else None, share)


def _gaps(ours: Values, theirs: Values) -> Values:
    """How far each pair of samples is apart; infinitely where only one is NaN, at least 1 where integers differ."""
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
