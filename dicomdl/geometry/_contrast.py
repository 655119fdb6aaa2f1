"""Contrasts: what the slices of one volume have in common beside the grid.

A volume holds one kind of values: one echo time, one b-value, magnitude or phase, one kernel. The
attributes of `_KINDS` state that kind. Two slices differ in contrast if both state such an
attribute and the values differ: a blank is unknown, and close numbers are equal (`_NEAR`), because
scanners write measured values, or adapt them to the load or the heart rate from slice to slice.

Attributes that scanners vary from slice to slice of a sound volume are no contrast: times, trigger
delays, tube current, coil elements, counters, rescale, window, thickness. In Image Type only the
words of `_WORDS` count, in MR value 3, too (PS3.3 C.8.3.1.1.1, C.8.13.1.1.1.3); values 1 and 2,
filters and the way of scanning do not.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Ints
from dicomdl.geometry._candidates import Candidates
from dicomdl.geometry._dimensions import Candidate, Dimension
from dicomdl.geometry._facts import Facts
from dicomdl.geometry._grouping import combined_codes
from dicomdl.geometry._specs import SPECS, Spec

# Relative difference of numbers that still counts as equal. The inversion time of late enhancement
# is adjusted while the contrast agent washes out, and the flip angle to the load of each scan.
_NEAR: Final = {
    "diffusion_b_value": 0.02,
    "velocity_encoding_maximum_value": 0.02,
    "echo_time": 0.05,
    "effective_echo_time": 0.05,
    "inversion_time": 0.25,
    "flip_angle": 0.1,
    # Triggered scans write the interval of each slice, and miss beats.
    "repetition_time": 0.67,
    "kvp": 0.02,
}
# Numbers that are never 0: a 0 states nothing.
_POSITIVE: Final = frozenset({"echo_time", "effective_echo_time", "repetition_time", "kvp"})
# Rescale Type of values whose units are unspecified (PS3.3 C.11.1.1.2).
UNSPECIFIED: Final = "US"
# Attributes whose absence says something, too: images without contrast agent lack its module
# (PS3.3 C.7.6.4).
_ABSENT_STATES: Final = frozenset({"contrast_bolus_agent"})
# Time points are volumes of their own also where their slices lie between those of others.
_TIME_POINTS: Final = frozenset({"temporal_position_index", "temporal_position_identifier"})
# Difference of the components of unit vectors that still counts as equal.
_NEAR_DIRECTION: Final = 0.01
# Limit of values named per attribute.
_MOST_NAMED: Final = 8


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


# Words of Image Type and Frame Type that state what pixels show: the defined terms of PS3.3
# C.8.3.1.1.1 (MR), C.8.13.1.1.1.3 and C.8.13.1.1.1.4 (enhanced MR), C.8.2.1.1.1 (multi-energy CT)
# and C.8.16.1.4 (calculated pixels), and what scanners write beside them.
_WORDS: Final = _words(
    "M P R I MAGNITUDE PHASE REAL IMAGINARY PHASE_MAP PHASE_SUBTRACT MODULUS_SUBTRACT",
    "VELOCITY VELOCITY_MAP FLOW_ENCODED DENSITY_MAP DIFFUSION_MAP IMAGE_ADDITION PROJECTION_IMAGE",
    "T1_MAP T2_MAP T2_STAR_MAP R1_MAP R2_MAP R2_STAR R2_STAR_MAP B0_MAP B1_MAP FIELD_MAP",
    "METABOLITE_MAP T1 T2 T2_STAR PROTON_DENSITY FLUID_ATTENUATED STIR TOF TAGGING PERFUSION",
    "DIFFUSION TEMPERATURE PRE_CONTRAST POST_CONTRAST NEG_ENHANCE",
    "ADC EADC FA TRACE TRACEW ISOTROPIC TENSOR DIFFUSION_ANISO DIFFUSION_ATTNTD B0 COLFA",
    "CBF CBV MTT TTP TMAX RCBF RCBV RELCBF RELCBV RELMTT PBP GBP T_TEST Z_SCORE",
    "WATER FAT W F IP OP IN_PHASE OUT_PHASE OPP_PHASE OPPOSED_PHASE FAT_FRACTION FF",
    "ADDITION DIVISION MASKED MAXIMUM MEAN MINIMUM MULTIPLICATION STD_DEVIATION SUBTRACTION",
    "SUB QUANTITY MIP MINIP MAX_IP MIN_IP",
    "VMI MAT_SPECIFIC MAT_REMOVED MAT_FRACTIONAL MAT_MODIFIED MAT_VALUE_BASED EFF_ATOMIC_NUM",
    "ELECTRON_DENSITY EMISSION TRANSMISSION",
)
# Words in value 3 of MR Image Type that state a filter, a packing or nothing.
_NO_CONTRAST: Final = _words(
    "ND NORM DIS2D DIS3D FIL MOSAIC VFRAME AXIAL HELIX NONE MIXED VOLUME RESAMPLED"
)
_IMAGE_TYPES: Final = frozenset({"image_type", "frame_type"})


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """Contrasts among n frames: frame i has contrast `labels[i]`, from 0.

    `candidates` are the attributes that vary, each with its own codes from 0.
    """

    candidates: tuple[Candidate, ...]
    labels: Ints

    @property
    def names(self) -> list[str]:
        """Names of the attributes that vary."""
        return [candidate.name for candidate in self.candidates]

    def dimension(self) -> Dimension:
        """Return the contrasts as a dimension, of the first attribute that suffices or of all."""
        count = int(self.labels.max()) + 1
        for candidate in self.candidates:
            pairs = np.unique(np.stack([candidate.codes, self.labels]), axis=1).shape[1]
            if pairs == count == int(candidate.codes.max()) + 1:
                return Dimension((candidate,), candidate.codes, count)
        return Dimension(self.candidates, self.labels, count)


class Contrasts:
    """Search for contrasts among any rows of a table."""

    def __init__(self, facts: Facts, candidates: Candidates) -> None:
        self._facts = facts
        self._candidates = candidates
        self._columns = tuple(
            column
            for spec in SPECS
            if spec.name in _KINDS
            for column in spec.columns
            if column not in facts.constants
        )

    def knows(self, name: str) -> bool:
        """Whether an attribute states a contrast."""
        return name in _KINDS and name not in _TIME_POINTS

    def among(self, rows: Ints, *, in_time: bool = False) -> Contrast | None:
        """Return the contrasts among some rows, None where the slices state only one.

        With `in_time`, time points count, too.
        """
        varying = set(self._candidates.varying(rows, self._columns))
        if not varying:
            return None
        if "frame_type" in varying:
            # The type of a frame says more than that of its file.
            varying.discard("image_type")
        found = []
        for spec in SPECS:
            counts = spec.name in _KINDS and (in_time or spec.name not in _TIME_POINTS)
            if counts and not varying.isdisjoint(spec.columns):
                codes = self._codes(spec, rows)
                if codes is not None:
                    found.append(Candidate(spec.name, spec.tier, "value", codes))
        if not found:
            return None
        return Contrast(tuple(found), combined_codes([candidate.codes for candidate in found]))

    def named(self, contrast: Contrast, rows: Ints) -> dict[str, dict[str, int]]:
        """Return {attribute: {value: number of slices}}, the most frequent values first.

        Values beyond `_MOST_NAMED` are counted together.
        """
        result = {}
        for candidate in contrast.candidates:
            counts = np.bincount(candidate.codes)
            shown = self._candidates.shown(
                Dimension((candidate,), candidate.codes, len(counts)), rows
            )
            order = np.argsort(-counts, kind="stable").tolist()
            named = {
                _as_text(shown[code][candidate.name]): int(counts[code])
                for code in order[:_MOST_NAMED]
            }
            if len(order) > _MOST_NAMED:
                rest = order[_MOST_NAMED:]
                named[f"{len(rest)} others"] = int(counts[rest].sum())
            result[candidate.name] = named
        return result

    def _codes(self, spec: Spec, rows: Ints) -> Ints | None:
        """Return codes of the contrasts that an attribute states, None where it states only one.

        Rows that state none have a code of their own, the first.
        """
        values = self._candidates.known(spec, rows)
        if spec.name in _IMAGE_TYPES:
            is_mr = self._facts.text("modality", int(rows[0])) == "MR"
            values = [_image_contrast(str(value or ""), is_mr) for value in values]
        if spec.name == "rescale_type":
            blank = blank_rescale_type(self._facts.text("modality", int(rows[0])))
            values = [str(value or "").strip() or blank for value in values]
        if spec.name in _POSITIVE:
            values = [value or None for value in values]
        if spec.name in _ABSENT_STATES:
            values = [value or "" for value in values]
        distinct = sorted({value for value in values if value is not None}, key=_as_key)
        if len(distinct) < 2:
            return None
        numbers = _KINDS[spec.name](distinct)
        code_of = dict(zip(distinct, numbers, strict=True)) | {None: -1}
        codes = np.array([code_of[value] for value in values], dtype=np.int64)
        if spec.name in _TIME_POINTS and len(distinct) * 2 > len(rows):
            # A time point per slice counts slices.
            return None
        return combined_codes([codes]) if len(np.unique(codes[codes >= 0])) > 1 else None


# Function from distinct values, ascending, to the number of the contrast of each, -1 for a value
# that states none.
_Kind = Callable[[Sequence[Any]], list[int]]


def _texts(values: Sequence[Any]) -> list[int]:
    """Number distinct values that are equal or not."""
    return list(range(len(values)))


def _sets(values: Sequence[Any]) -> list[int]:
    """Number texts of several values whose order means nothing."""
    return _numbered([tuple(sorted(str(value).split("\\"))) for value in values])


def _numbered(keys: Sequence[Any]) -> list[int]:
    """Return the number of each key among the distinct keys, in their order."""
    number_of: dict[Any, int] = {}
    return [number_of.setdefault(key, len(number_of)) for key in keys]


def _clustered(values: Sequence[Any], near: float) -> list[int]:
    """Number ascending numbers; a number close to its predecessor is equal to it."""
    numbers = np.asarray(values, dtype=np.float64)
    apart = np.diff(numbers) > near * np.abs(numbers[1:])
    return [0, *np.cumsum(apart).tolist()]


def blank_rescale_type(modality: str) -> str:
    """Return what a blank Rescale Type means: HU for CT (PS3.3 C.8.2.1), else "" for unknown."""
    return "HU" if modality == "CT" else ""


def _units(values: Sequence[Any]) -> list[int]:
    """Number units of rescaled values; "" and `UNSPECIFIED` state none."""
    return [-1 if value in ("", UNSPECIFIED) else n for n, value in enumerate(values)]


def _sequences(values: Sequence[Any]) -> list[int]:
    """Number sequence names without their count of segments: "*tfi2d1_12" equals "*tfi2d1_14"."""
    return _numbered([re.sub(r"_\d+", "_", str(value)) for value in values])


def _descriptions(values: Sequence[Any]) -> list[int]:
    """Number descriptions without their case and the numbers between their words."""
    return _numbered(
        [" ".join(re.sub(r"\b\d+\b", " ", str(value)).upper().split()) for value in values]
    )


def _axes(values: Sequence[Any]) -> list[int]:
    """Number diffusion directions: opposite ones are equal, and zero states none."""
    return _directions(values, with_sign=False)


def _arrows(values: Sequence[Any]) -> list[int]:
    """Number directions of flow; zero states none."""
    return _directions(values, with_sign=True)


def _directions(values: Sequence[Any], *, with_sign: bool) -> list[int]:
    distinct: list[Any] = []
    numbers = []
    for value in values:
        vector = np.nan_to_num(np.asarray(value, dtype=np.float64))
        length = float(np.sqrt((vector**2).sum()))
        if length == 0:
            numbers.append(-1)
            continue
        unit = vector / length
        signs = (1,) if with_sign else (1, -1)
        same = [
            number
            for number, other in enumerate(distinct)
            if min(float(np.abs(unit - sign * other).max()) for sign in signs) <= _NEAR_DIRECTION
        ]
        if not same:
            distinct.append(unit)
        numbers.append(same[0] if same else len(distinct) - 1)
    return numbers


def _image_contrast(text: str, is_mr: bool) -> tuple[str, ...] | None:
    """Return the words of an image type that state what pixels show, None if it is cut short."""
    words = [word.strip().upper().replace(" ", "_") for word in text.split("\\")[2:]]
    if text == "" or (is_mr and not words):
        return None
    stated = _WORDS.intersection(words)
    if is_mr and words[0] not in _NO_CONTRAST:
        stated |= {words[0]}
    return tuple(sorted(stated))


_KINDS: Final[Mapping[str, _Kind]] = {
    **{name: functools.partial(_clustered, near=near) for name, near in _NEAR.items()},
    "diffusion_gradient_orientation": _axes,
    "velocity_encoding_direction": _arrows,
    **dict.fromkeys((*_IMAGE_TYPES, *_TIME_POINTS), _texts),
    "sequence_name": _sequences,
    "rescale_type": _units,
    **dict.fromkeys(("corrected_image", "scanning_sequence"), _sets),
    **dict.fromkeys(("protocol_name", "series_description", "contrast_bolus_agent"), _descriptions),
    **dict.fromkeys(
        (
            *("philips_gradient_direction_number", "inversion_times", "complex_image_component"),
            *("ge_raw_data_type", "philips_label_type", "energy_window_vector"),
            *("monoenergetic_energy_equivalent", "convolution_kernel", "reconstruction_algorithm"),
            "counts_source",
        ),
        _texts,
    ),
}


def _as_key(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _as_text(value: Any) -> str:
    """Format a value as a key of JSON."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_as_text, value))
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
