"""Frames decoded twice, by dicomdl and by a reader that parses the file itself: every difference is listed.

The second reader lives in one process of its own, because decoders abort, hang and lie: GDCM (inside SimpleITK) aborts on damaged
frames, pylibjpeg-libjpeg gives wrong pixels for cut ones without a word. So its death is a result like any other, and a difference
says which two decoders differ, not who is right. How independent the two are depends on the transfer syntax: every JPEG 2000
decoder at hand is a build of OpenJPEG, and two builds of one library can be wrong together. The report says so.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from dicomdl import codecs, pixels
from dicomdl.errors import PixelError, StorageError, UnsupportedSyntax, UsageError
from dicomdl.frame import FrameSource
from dicomdl.overview import printable

if TYPE_CHECKING:
    from dicomdl.index import Index

Values: TypeAlias = np.typing.NDArray[Any]
Outcome = Literal["equal", "within_rounding", "different", "only_one", "refused_by_both", "no_second_decoder"]
Relation = Literal["independent", "related", "same library"]

SAMPLE: Final = 4  # frames of each kind
TIMEOUT_S: Final = 60.0  # for one frame; the slowest of the corpus takes 3 s
LONGEST_REASON: Final = 200  # characters of an error; the one of a frame that no decoder can read quotes them all
SHOWN_DIFFERENCES: Final = 40
KEPT_DIFFERENCES: Final = 10_000  # of each outcome; more are only counted
OUTCOMES: Final[tuple[Outcome, ...]] = ("equal", "within_rounding", "different", "only_one", "refused_by_both", "no_second_decoder")
_FINE: Final = frozenset({"equal", "within_rounding", "no_second_decoder"})


# --- who decodes what a second time -----------------------------------------------------------------------------------


class Second(NamedTuple):
    """A second decoder: how reports name it, whose code it is, and what the process is asked for.

    `colour` is what its values compare with: "stored" components, or "rgb" where it converts by itself.
    """

    name: str
    library: str
    reader: Literal["pydicom", "imagecodecs", "simpleitk"]
    how: str = ""  # pydicom's plugin, or the function of imagecodecs
    decode_as: str = ""  # the transfer syntax that its reader knows the codestream under
    colour: pixels.Colour = "stored"


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

_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
# The most independent first. JPEG XL has none: libjxl is the only decoder.
_SECONDS: Final[Mapping[str, tuple[Second, ...]]] = {
    "1.2.840.10008.1.2": (_PYDICOM,),
    "1.2.840.10008.1.2.1": (_PYDICOM,),
    "1.2.840.10008.1.2.2": (_PYDICOM,),
    _DEFLATED: (_PYDICOM,),
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


class Refusal(NamedTuple):
    """Why a decoder gave no values; `ended` where its process died or had to be stopped."""

    why: str
    ended: bool = False


def compare_frame(source: FrameSource, reader: "SecondReader") -> Compared:
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


# --- the second process, from this side -------------------------------------------------------------------------------

# A message is the length of a JSON object, the object, and, where it has a "dtype", the bytes of the array that it describes.
_LENGTH: Final = struct.Struct("<I")
_LONGEST_HEAD: Final = 1 << 20
_NOT_INSTALLED: Final = "not installed"
_WORKER: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"  # before the import: it says where dicomdl is
    "from dicomdl.crosscheck import serve; serve()"
)


class SecondReader:
    """The process that decodes a second time: asked for one frame at a time, started again after it died or hung.

    A context manager; `missing` are the second decoders that turned out not to be installed. `program` is what the process runs instead
    of `serve()`, for oracles and tests.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, program: str = "") -> None:
        self.timeout_s = timeout_s
        self.program = program or _WORKER
        self.missing: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._samples = 0
        # Of this process, because one that dies cannot clear up what it wrote.
        self._scratch = tempfile.TemporaryDirectory(prefix="dicomdl-", ignore_cleanup_errors=True)

    def __enter__(self) -> "SecondReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop()
        self._scratch.cleanup()

    def ask(self, source: FrameSource, second: Second) -> None:
        """Send a frame to be decoded; `answer` gives what comes of it."""
        whole = (source.coded_rows, source.coded_columns) if source.coded_rows else (source.rows, source.columns)
        self._samples = whole[0] * whole[1] * source.samples_per_pixel
        request: dict[str, Any] = second._asdict() | {"scratch": self._scratch.name, "samples": self._samples}
        request |= {"path": source.path, "frame_number": source.frame_number}
        if source.coded_rows:
            request["tile"] = [source.tile_top, source.tile_left, source.rows, source.columns]
        message = json.dumps(request).encode()
        for _ in range(2):  # it may have died after its last answer
            process = self._process = self._process or _start_worker(self.program)
            assert process.stdin is not None
            try:
                process.stdin.write(_LENGTH.pack(len(message)) + message)
                process.stdin.flush()
                return
            except OSError:
                self._stop()

    def answer(self) -> Values | Refusal | None:
        """The values of the frame that was asked for, or why there are none; None when the decoder is not installed."""
        process = self._process
        if process is None:
            return Refusal("its process ends as soon as it starts", ended=True)
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.timeout_s, stop)
        timer.start()
        try:
            return self._received(process)
        except EOFError:
            code = self._stop()
            why = f"gave no answer in {self.timeout_s:g} s and was stopped" if late.is_set() else _end_told(code)
        except (OSError, ValueError, KeyError, TypeError):
            self._stop()
            why = "its process gave an answer that cannot be read"
        finally:
            timer.cancel()
        return Refusal(why, ended=True)

    def _received(self, process: "subprocess.Popen[bytes]") -> Values | Refusal | None:
        assert process.stdout is not None
        length = min(_LENGTH.unpack(_exactly(process.stdout, _LENGTH.size))[0], _LONGEST_HEAD)
        head = json.loads(_exactly(process.stdout, length))
        if "dtype" not in head:
            return None if head["refused"] == _NOT_INSTALLED else Refusal(str(head["refused"]))
        dtype, shape = np.dtype(head["dtype"]), tuple(map(int, head["shape"]))
        if dtype.kind not in "iuf" or not 0 <= math.prod(shape) <= self._samples:  # before anything is allocated
            raise ValueError("not the array that was asked for")
        return np.frombuffer(_exactly(process.stdout, math.prod(shape) * dtype.itemsize), dtype).reshape(shape)

    def _stop(self) -> int:
        """End the process; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what a dead process never read cannot be flushed
                    pipe.close()
        try:
            return process.wait(1)  # without its pipes it ends by itself, unless it hangs
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _exactly(pipe: Any, length: int) -> bytes:
    data: bytes = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _end_told(code: int) -> str:
    """How a process ended, in words: the signal where there was one."""
    with contextlib.suppress(ValueError):
        return f"its process died ({signal.Signals(-code).name})"
    return f"its process ended (exit code {code})"


def _start_worker(program: str) -> "subprocess.Popen[bytes]":
    places = json.dumps([place for place in sys.path if isinstance(place, str)])  # notebooks put other things there, too
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.Popen([sys.executable, "-P", "-c", program, places], **pipes)
    except OSError as error:
        raise StorageError(f"the process for the second decoder cannot be started ({error.strerror})") from error


# --- the second process, from its own side ----------------------------------------------------------------------------


def second_reading(request: Mapping[str, Any]) -> Values:
    """What the decoder that a request names makes of a frame; any exception means that it refuses."""
    readers: dict[str, Callable[[Mapping[str, Any]], Values]] = {
        "pydicom": _by_pydicom,
        "imagecodecs": _by_imagecodecs,
        "simpleitk": _by_simpleitk,
    }
    values = readers[request["reader"]](request)
    if values.size == request["samples"] and "tile" in request:
        top, left, rows, columns = request["tile"]
        values = values[top : top + rows, left : left + columns]
    return values


def serve(read: Callable[[Mapping[str, Any]], Values] = second_reading) -> None:
    """The second process: requests from standard input, values to standard output, until the input ends."""
    warnings.simplefilter("ignore")  # they quote values of headers
    source = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as sink:
        os.dup2(2, 1)  # nothing that a library prints may get between the messages
        try:
            while len(head := source.read(_LENGTH.size)) == _LENGTH.size:
                for part in _answered(json.loads(source.read(_LENGTH.unpack(head)[0])), read):
                    sink.write(part)
                sink.flush()
        except (KeyboardInterrupt, BrokenPipeError):
            return


def _answered(request: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Values]) -> tuple[Any, ...]:
    """The parts of the answer to one request. Of an error only its class is told: its text may quote the header."""
    try:
        values = read(request)
        if values.size > request["samples"]:
            return _message({"refused": f"gave an array of {values.shape}"})
        values = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("="), copy=False)
        return (*_message({"dtype": values.dtype.str, "shape": values.shape}), values.data.cast("B") if values.size else b"")
    except ImportError:
        return _message({"refused": _NOT_INSTALLED})
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # Rust decoders panic with a BaseException
        return _message({"refused": type(error).__name__})


def _message(head: Mapping[str, Any]) -> tuple[bytes]:
    data = json.dumps(head).encode()
    return (_LENGTH.pack(len(data)) + data,)


def _by_pydicom(request: Mapping[str, Any]) -> Values:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import UID

    path, index = request["path"], request["frame_number"] - 1
    dataset = _header(path)
    uid = request["decode_as"] or _syntax(dataset)
    if request["how"] and request["how"] not in get_decoder(uid).available_plugins:
        raise ImportError(request["how"])
    if dataset.BitsAllocated == 1 and request["samples"] % 8:
        # Frames that start inside of a byte: asked for one, pydicom 3.0.2 may read a byte too few.
        return np.asarray(_all_bits(path).reshape(-1, dataset.Rows, dataset.Columns)[index])
    options: dict[str, Any] = {"index": index, "raw": True, "decoding_plugin": request["how"]}
    if uid == _DEFLATED:  # its reader of files does not inflate
        return np.asarray(pixel_array(_dataset(path), **options))
    return np.asarray(pixel_array(path, transfer_syntax_uid=UID(uid), **options))


@functools.lru_cache(maxsize=1)
def _all_bits(path: str) -> Values:
    from pydicom.pixels.utils import pixel_array

    return np.asarray(pixel_array(_dataset(path), raw=True))


def _by_imagecodecs(request: Mapping[str, Any]) -> Values:
    """pydicom finds the frame, a function of imagecodecs that dicomdl does not use decodes it."""
    import imagecodecs

    dataset = _dataset(request["path"])
    samples = getattr(imagecodecs, request["how"])(_codestream(dataset, request)).astype(np.int64)
    bits = int(dataset.BitsStored)
    samples &= (1 << bits) - 1
    if dataset.PixelRepresentation == 1:
        samples = (samples ^ (1 << bits - 1)) - (1 << bits - 1)
    return np.asarray(samples, f"{'ui'[dataset.PixelRepresentation]}{dataset.BitsAllocated // 8}")


def _by_simpleitk(request: Mapping[str, Any]) -> Values:
    """pydicom finds the frame, GDCM decodes it out of a file of nothing else.

    Of the file itself SimpleITK would apply the rescale, invert MONOCHROME1, and decode every frame for the one that is asked for.
    """
    import SimpleITK

    sitk: Any = SimpleITK
    path = os.path.join(request["scratch"], "frame.dcm")
    _write_alone(path, _dataset(request["path"]), request)
    values: Values = sitk.GetArrayFromImage(sitk.ReadImage(path, imageIO="GDCMImageIO"))
    return np.asarray(values[0])


def _write_alone(path: str, dataset: Any, request: Mapping[str, Any]) -> None:
    """One frame as a secondary capture that says only how its samples are coded: nothing of a patient."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, SecondaryCaptureImageStorage

    alone = Dataset()
    alone.file_meta = FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = UID(_syntax(dataset))
    alone.SOPClassUID, alone.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.1"
    names = ("SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    for name in names:
        setattr(alone, name, int(dataset[name].value))
    alone.PhotometricInterpretation = "MONOCHROME2" if alone.SamplesPerPixel == 1 else dataset.PhotometricInterpretation
    if alone.SamplesPerPixel > 1:
        alone.PlanarConfiguration = int(dataset.get("PlanarConfiguration") or 0)
    alone.PixelData = encapsulate([_codestream(dataset, request)])
    alone["PixelData"].VR = "OB"
    alone.save_as(path, enforce_file_format=True)


def _codestream(dataset: Any, request: Mapping[str, Any]) -> bytes:
    from pydicom.encaps import get_frame

    tables = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    offsets: dict[str, Any] = {"extended_offsets": tables} if None not in tables else {}
    frames = int(dataset.get("NumberOfFrames") or 1)
    return get_frame(dataset.PixelData, request["frame_number"] - 1, number_of_frames=frames, **offsets)


@functools.lru_cache(maxsize=1)
def _header(path: str) -> Any:
    import pydicom

    return pydicom.dcmread(path, force=True, stop_before_pixels=True)


@functools.lru_cache(maxsize=1)
def _dataset(path: str) -> Any:
    import pydicom

    return pydicom.dcmread(path, force=True)


def _syntax(dataset: Any) -> str:
    """The transfer syntax that a file says, or else the one that it was evidently written in."""
    if uid := dataset.file_meta.get("TransferSyntaxUID"):
        return str(uid)
    implicit, little = dataset.original_encoding
    return "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"
