"""PET modality values -> standardized uptake values (SUV): one factor from header facts, or an error that names the attribute.

The rule to know: SUV = activity concentration x body measure / dose at the time that the values are decay corrected to.
That time is the whole difficulty. Decay Correction START means the start of the acquisition (PS3.3 C.8.9.1.1.5), one
instant for all images of a Series, which headers spell in several ways; `_scan_start` says which one counts. Nothing is
guessed: what is missing, zero, implausible or contradictory is a `SUVError`, and what the case does not need is not looked at
(values that are SUV already need neither dose nor times). Follows QIBA's vendor-neutral pseudo-code, its robust version.
"""

import datetime
import difflib
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

from dicomdl.errors import SUVError, UsageError
from dicomdl.headers.frame import attributes

# The defined terms of SUV Type (0054,1006) in lower case.
SuvKind = Literal["bw", "lbm", "lbmjames128", "lbmjanma", "ibw", "bsa"]
Columns: TypeAlias = Mapping[str, Sequence[Any]]

SUV_KINDS: Final[tuple[str, ...]] = get_args(SuvKind)
SERIES_COLUMNS: Final[tuple[str, ...]] = ("acquisition_date", "acquisition_time", "acquisition_date_time")
SUV_COLUMNS: Final[tuple[str, ...]] = (
    *("modality", "units", "suv_type", "rescale_type", "counts_source", "series_type", "corrected_image", "decay_correction"),
    *("decay_factor", "frame_reference_time", "actual_frame_duration", "series_date", "series_time", *SERIES_COLUMNS),
    *("patient_weight", "patient_size", "patient_sex", "radiopharmaceutical_start_time", "radiopharmaceutical_start_date_time"),
    *("radionuclide_total_dose", "radionuclide_half_life", "ge_scan_date_time", "philips_suv_factor", "philips_activity_factor"),
)

MAX_WEIGHT_KG: Final = 500.0  # above: grams
MAX_SIZE_M: Final = 3.0  # above: centimetres; nobody was taller than 2.72 m
MIN_DOSE_BQ: Final = 1e5  # below: MBq, kBq or mCi; 5 MBq in a mouse and 10 MBq of I-124 are the small doses
MIN_DOSE_BQ_PER_KG: Final = 1e4  # below: kBq (370,000 in 70 kg is 5,300); the faintest total-body scans use 5e4
MAX_DOSE_BQ: Final = 1e11  # ten times the largest therapies that are imaged
# No scan begins later: 0.4 % of the dose would be left. C-11 is imaged up to 6 half-lives, Cu-64 up to 6 (3 days), Zr-89
# and I-124 up to 4; while one day, which is how de-identified dates go wrong, is 13 half-lives of F-18.
MAX_HALF_LIVES: Final = 8.0
MAX_LEAD_S: Final = 600.0  # a dynamic scan may begin this long before its injection
MAX_SERIES_LEAD_S: Final = 43200.0  # a Series does not begin more than half a day before its first image
SAME_TIME_S: Final = 60.0  # two spellings of one time of day
SAME_START_S: Final = 2.0  # times are often written in whole seconds
TOLERATED_DECAY: Final = 0.02  # of the dose, between times that should be one

_DAY_S: Final = 86400.0
_DAY_0: Final = datetime.date(1999, 9, 5).toordinal()  # near the dates of PET, so that float64 keeps microseconds
_NAMES: Final = {  # of attributes whose column is not just their keyword in snake case
    "suv_type": "SUVType",
    "ge_scan_date_time": "GE's scan date and time",
    "philips_suv_factor": "Philips' SUV scale factor",
    "philips_activity_factor": "Philips' activity concentration scale factor",
}
_INSTEAD: Final = 'read the modality values (intensity="modality"), or correct the header and scan again'


@dataclass(frozen=True, slots=True)
class SUV:
    """The wish for standardized uptake values.

    Parameters
    ----------
    kind
        What the dose is spread over, by DICOM's terms for SUV Type (0054,1006), PS3.3 C.8.9.1:

        ===============  ============================================  ===========================================
        ``bw``           body weight
        ``lbm``          lean body mass (SUL), James's formula with    PS3.16 DCM 126411; Sugawara 1999
                         120 for men, as most workstations have it
        ``lbmjames128``  lean body mass (SUL), James's own, 128        PS3.16 DCM 126415; James 1976
        ``lbmjanma``     lean body mass (SUL), Janmahasatian           PS3.16 DCM 126414; Clin Pharmacokinet 44, 2005
        ``ibw``          ideal body weight                             PS3.16 DCM 126413; Sugawara 1999
        ``bsa``          body surface area, Du Bois                    PS3.16 DCM 126412; Du Bois 1916
        ===============  ============================================  ===========================================
    upper
        The SUV that is mapped to 1, finite and above 0; None leaves it to whoever maps.

    Raises
    ------
    UsageError
        An unknown kind, an impossible upper end.
    """

    kind: SuvKind = "bw"
    upper: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in SUV_KINDS:
            raise UsageError(_unknown_kind(self.kind), kind=self.kind)
        if self.upper is not None and not (math.isfinite(self.upper) and self.upper > 0):
            raise UsageError(f"upper is {self.upper}: expected a finite number above 0", upper=self.upper)

    @property
    def units(self) -> str:
        """DICOM's word for the unit, as in Units (0054,1001): "GML" (g/ml), for body surface "CM2ML" (cm2/ml)."""
        return "CM2ML" if self.kind == "bsa" else "GML"


def _unknown_kind(kind: object) -> str:
    if str(kind).lower() == "sul":
        return 'SUL has several formulas: ask for the kind "lbm", "lbmjames128" or "lbmjanma"'
    near = difflib.get_close_matches(str(kind).lower(), SUV_KINDS, n=3, cutoff=0.4) or list(SUV_KINDS)
    return f"no kind of SUV is called {kind!r}: did you mean {', '.join(near)}?"


def suv_factor(facts: Columns, kind: SuvKind = "bw", *, series: Columns | None = None) -> float:
    """What the modality values of a stack are multiplied by to become SUV.

    Parameters
    ----------
    facts
        The `SUV_COLUMNS` of one stack's frames, one value a frame, as the index holds them: "" and None are absent.
    kind
        As for `SUV`.
    series
        The `SERIES_COLUMNS` of all images of the Series, when it has more stacks than this one (time points, bed
        positions): the earliest of them is the start of the scan. Default: those of the frames.

    Returns
    -------
    float
        In g/ml (cm2/ml for "bsa") per modality unit (BQML, CNTS, GML, CM2ML), the same for all frames: apply it after the rescale.

    Raises
    ------
    SUVError
        The header does not give SUV; `attribute` names what is missing, implausible or contradictory.
    UsageError
        An unknown kind; columns that are absent, empty or of different lengths.

    Source
    ------
    QIBA FDG-PET/CT profile, vendor-neutral pseudo-code for SUV calculation; PS3.3 C.8.9.1, C.8.9.4; PS3.16 CID 85.
    """
    SUV(kind)
    _check_columns(facts, SUV_COLUMNS)
    if series is not None:
        _check_columns(series, SERIES_COLUMNS)
    header = _Header(facts)
    _check_corrected(header)
    units = header.text("units")
    if units == "BQML":
        return _measure(kind, header) / _reference_dose(header, series)
    if units == "CNTS":
        return _factor_of_counts(header, kind, series)
    if units in ("GML", "CM2ML"):
        return _conversion(_declared_kind(header, units), kind, header)
    found = "none of BQML, CNTS, GML, CM2ML, which alone lead to SUV" if units else ""
    raise _refusal(["units"], found, "BQML, CNTS, GML or CM2ML")


def _check_columns(columns: Columns, needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UsageError(f"columns are missing: {', '.join(missing)}", missing=missing)
    lengths = {len(columns[name]) for name in needed}
    if len(lengths) != 1 or 0 in lengths:
        raise UsageError(f"the columns have lengths {sorted(lengths)}: expected one value a frame and a frame at least")


# --- facts ----------------------------------------------------------------------------------------------------------


class _Header:
    """What one stack's frames agree on: a fact that must be the same in all of them is read through here."""

    def __init__(self, facts: Columns) -> None:
        self.facts = facts

    def text(self, column: str) -> str:
        """The one text of a column, upper case without padding; "" when absent."""
        return str(self._only(column, {_text(value).upper() for value in self.facts[column]}))

    def number(self, column: str) -> float | None:
        """The one number of a column; None when absent."""
        number: float | None = self._only(column, {_number(value) for value in self.facts[column]})
        if number is not None and math.isinf(number):
            raise _refusal([column], "infinite", "a number")
        return number

    def positive(self, column: str, unit: str) -> float:
        """A number that the calculation cannot do without."""
        number = self.number(column)
        if number is None:
            raise _refusal([column], "", f"a number above 0 in {unit}")
        if number <= 0:
            raise _refusal([column], "not above 0", f"a number above 0 in {unit}")
        return number

    def _only(self, column: str, values: set[Any]) -> Any:
        if len(values) != 1:
            found = f"contradictory: {len(values)} different values in one stack, absent counted as one"
            raise _refusal([column], found, "the same in all frames")
        return values.pop()


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip(" \0")


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _refusal(columns: Sequence[str], found: str, expected: str) -> SUVError:
    """The error about some columns; `found` is "" where they are absent, and never quotes the header."""
    names = " and ".join(_attribute(column) for column in columns)
    verb = "are" if len(columns) > 1 else "is"
    return SUVError(f"no SUV: {names} {verb} {found or 'absent'}; expected {expected}: {_INSTEAD}", attribute=names)


@functools.cache
def _attribute(column: str) -> str:
    """A column as users know it: ``patient_weight`` -> ``PatientWeight (0010,1030)``."""
    attribute = next(attribute for attribute in attributes() if attribute.name == column)
    tag = attribute.tag | (0x1000 if attribute.creator else 0)
    keyword = _NAMES.get(column) or "".join(word.capitalize() for word in column.split("_"))
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _check_corrected(header: _Header) -> None:
    """PET, of the tracer's counts, corrected for attenuation and for decay to a time that is known."""
    if header.text("modality") != "PT":
        raise _refusal(["modality"], "not PT", "PT: other modalities have no SUV")
    if header.text("counts_source") not in ("", "EMISSION"):
        raise _refusal(["counts_source"], "not EMISSION", "EMISSION")
    corrections = [word.strip() for word in header.text("corrected_image").split("\\")]
    for word, meaning in (("ATTN", "attenuation"), ("DECY", "decay")):
        if word not in corrections:
            found = f"without {word} (corrected for {meaning})" if any(corrections) else ""
            raise _refusal(["corrected_image"], found, "ATTN and DECY among its values")
    decay = header.text("decay_correction")
    if decay == "NONE":
        raise _refusal(["decay_correction", "corrected_image"], "contradictory (NONE, yet DECY)", "START or ADMIN with DECY")
    if decay not in ("START", "ADMIN"):
        raise _refusal(["decay_correction"], "neither START nor ADMIN" if decay else "", "START or ADMIN")
    stated = header.text("rescale_type")
    if stated in ("BQML", "GML", "CM2ML") and header.text("units") in {"BQML", "GML", "CM2ML"} - {stated}:
        raise _refusal(["units", "rescale_type"], "contradictory", "the same unit")


# --- the body -------------------------------------------------------------------------------------------------------


def _measure(kind: SuvKind, header: _Header) -> float:
    """What the dose is spread over: grams, for "bsa" square centimetres. Formulas of PS3.16 DCM 126410 to 126415."""
    if kind == "bw":
        return 1000 * _weight(header)
    size = _size(header)
    cm = 100 * size
    if kind == "bsa":
        return float(1e4 * 0.007184 * _weight(header) ** 0.425 * cm**0.725)
    male = _is_male(header)
    if kind == "ibw":
        kilograms = 48.0 + 1.06 * (cm - 152) if male else 45.5 + 0.91 * (cm - 152)
    elif kind == "lbmjanma":
        weight = _weight(header)
        index = weight / size**2  # kg/m2, as in the paper
        kilograms = 9270 * weight / (6680 + 216 * index if male else 8780 + 244 * index)
    else:
        weight = _weight(header)
        squared = (weight / cm) ** 2
        kilograms = 1.10 * weight - (120 if kind == "lbm" else 128) * squared if male else 1.07 * weight - 148 * squared
    if kilograms <= 0:
        columns = ["patient_size"] if kind == "ibw" else ["patient_weight", "patient_size"]
        raise _refusal(columns, f'beyond the formula of "{kind}"', 'a mass above 0 (try "lbmjanma", "bw")')
    return 1000 * kilograms


def _weight(header: _Header) -> float:
    weight = header.positive("patient_weight", "kg")
    if weight > MAX_WEIGHT_KG:
        raise _refusal(["patient_weight"], f"above {MAX_WEIGHT_KG:g}", "kg (this looks like grams)")
    return weight


def _size(header: _Header) -> float:
    size = header.positive("patient_size", "m")
    if size > MAX_SIZE_M:
        raise _refusal(["patient_size"], f"above {MAX_SIZE_M:g}", "metres (this looks like centimetres)")
    return size


def _is_male(header: _Header) -> bool:
    sex = header.text("patient_sex")
    if sex not in ("M", "F"):
        raise _refusal(
            ["patient_sex"], "neither M nor F" if sex else "", 'M or F, which the formula distinguishes (or ask for "bw" or "bsa")'
        )
    return sex == "M"


def _conversion(declared: SuvKind, wanted: SuvKind, header: _Header) -> float:
    return 1.0 if declared == wanted else _measure(wanted, header) / _measure(declared, header)


def _declared_kind(header: _Header, units: str) -> SuvKind:
    """The kind that the values are already: SUV Type, BW where it is absent and the Units are GML (PS3.3 C.8.9.1)."""
    stated = header.text("suv_type").lower() or ("bw" if units == "GML" else "bsa")
    if stated not in SUV_KINDS:
        raise _refusal(["suv_type"], "no kind of SUV that DICOM defines", "BW, LBM, LBMJAMES128, LBMJANMA, IBW or BSA")
    kind = cast(SuvKind, stated)
    if SUV(kind).units != units:
        raise _refusal(["suv_type", "units"], "contradictory", "BSA with CM2ML, the others with GML")
    return kind


def _factor_of_counts(header: _Header, kind: SuvKind, series: Columns | None) -> float:
    """Philips stores counts: one private factor makes them SUVbw, the other Bq/ml. Either may be 0 where it is unknown."""
    to_suv, to_activity = header.number("philips_suv_factor"), header.number("philips_activity_factor")
    if to_suv is not None and to_suv > 0:
        if header.text("suv_type") not in ("", "BW"):
            raise _refusal(["suv_type", "philips_suv_factor"], "contradictory", "BW, which is what the factor makes of counts")
        return to_suv * _conversion("bw", kind, header)
    if to_activity is not None and to_activity > 0:
        return to_activity * _measure(kind, header) / _reference_dose(header, series)
    found = "absent, 0 or negative, and Units are CNTS"
    raise _refusal(["philips_suv_factor", "philips_activity_factor"], found, "one of them above 0: counts alone are no activity")


# --- the dose -------------------------------------------------------------------------------------------------------


def _reference_dose(header: _Header, series: Columns | None) -> float:
    """Bq of the dose that are left at the time that the values are decay corrected to."""
    dose = header.positive("radionuclide_total_dose", "Bq")
    weight = header.number("patient_weight")
    if dose < MIN_DOSE_BQ or (weight and 0 < weight <= MAX_WEIGHT_KG and dose < MIN_DOSE_BQ_PER_KG * weight):
        raise _refusal(["radionuclide_total_dose"], f"{dose:g}", "Bq (no scan is done with so little: this looks like MBq, kBq or mCi)")
    if dose > MAX_DOSE_BQ:
        raise _refusal(["radionuclide_total_dose"], f"{dose:g}", f"Bq, {MAX_DOSE_BQ:g} at most")
    if header.text("decay_correction") == "ADMIN":
        return dose
    half_life = header.positive("radionuclide_half_life", "s")
    return float(dose * 2 ** (-_decay_time(header, half_life, series) / half_life))


def _decay_time(header: _Header, half_life: float, series: Columns | None) -> float:
    """Seconds from the injection to the start of the scan."""
    start = _scan_start(header, half_life, series)
    injected = _injection(header, start)
    latest = MAX_HALF_LIVES * half_life
    lead = MAX_LEAD_S if header.text("series_type").split("\\")[0].strip() == "DYNAMIC" else 0.0
    columns = [injected.column, start.column]
    if injected.dated and start.dated:
        elapsed = start.seconds - injected.seconds
        if elapsed < -lead:
            raise _refusal(columns, "contradictory (the scan begins before the injection)", "dates and times that were not shifted apart")
    else:
        # Only times of day: the last such time before the scan, which may be on the day before.
        elapsed = (start.seconds - injected.seconds) % _DAY_S
        if elapsed >= _DAY_S - lead:
            elapsed -= _DAY_S
        if elapsed + _DAY_S <= latest:
            found = f"without a date, and a half-life of {half_life / 3600:.1f} h leaves several days possible"
            raise _refusal(["radiopharmaceutical_start_date_time", start.column], found, "the date of the injection and of the scan")
    if elapsed > latest:
        found = f"contradictory ({elapsed / half_life:.0f} half-lives apart)"
        raise _refusal(columns, found, f"an injection before the scan, by {MAX_HALF_LIVES:g} half-lives at most")
    return elapsed


def _injection(header: _Header, start: "_Moment") -> "_Moment":
    """When the dose was given: the date and time, else the time of day alone; both must agree on the time of day.

    All clocks are local to the scan (PS3.5 6.2): an offset from UTC counts only where the scan's own is stated, too.
    """
    column = "radiopharmaceutical_start_date_time"
    clock = _clock(header.text("radiopharmaceutical_start_time"), "radiopharmaceutical_start_time")
    moment = _date_time(header.text(column), column, clock)
    if moment is None:
        if clock is None:
            raise _refusal([column, "radiopharmaceutical_start_time"], "", "one of them, to know how much has decayed")
        return _Moment(clock, False, "radiopharmaceutical_start_time", None)
    if moment.zone is not None and start.zone is not None:
        moment = moment._replace(seconds=moment.seconds + start.zone - moment.zone)
    if clock is None:
        return moment
    apart = _apart(clock, moment.seconds)
    if abs(apart) <= SAME_TIME_S:
        return moment
    # Some write the DT in UTC beside a local TM: whole quarters of an hour apart, as time zones are.
    if moment.zone == 0 and start.zone is None and abs(apart - 900 * round(apart / 900)) <= SAME_TIME_S:
        return moment._replace(seconds=moment.seconds + apart)
    found = "contradictory (their times of day differ by more than a minute)"
    raise _refusal([column, "radiopharmaceutical_start_time"], found, "one time of injection")


# --- the start of the scan ------------------------------------------------------------------------------------------


class _Moment(NamedTuple):
    """A point in time: seconds since 1999-09-05 by the local clock, or within an unknown day when not `dated`."""

    seconds: float
    dated: bool
    column: str
    zone: float | None  # of the local clock, in seconds east of UTC, where it is stated


class _Timing(NamedTuple):
    """When one image was acquired, and how far it says that is from the start of the scan."""

    acquired: float
    reference_ms: float | None
    duration_ms: float | None
    decay_factor: float | None


def _scan_start(header: _Header, half_life: float, series: Columns | None) -> _Moment:
    """The instant that the values of a Series are decay corrected to (START).

    1. Series Date and Time, which is defined to be that reference (PS3.3 C.8.9.1.1.2), unless it is after the first image
       of the Series: then the Series was made later, by a reconstruction or another workstation;
    2. GE's own scan date and time (0009,100D);
    3. the earliest acquisition of all images of the Series: of all time points and beds, not of this stack alone.

    QIBA's pseudo-code also offers to compute 3 back from each image: acquired - Frame Reference Time + the time of the
    average count rate within the frame. Where a Series is whole, both give the same. Where they differ (a Series whose
    first bed is missing, a second injection) vendors differ as well: GE counts to the start of the frame, Siemens and Philips to
    its average, CPS writes 0. So it serves as a witness (`_check_witnesses`), and a contradiction is an error.
    """
    first = _first_acquisition(header, series)
    start = _series_start(header, first) or _private_start(header, first) or first
    if abs(first.seconds - start.seconds) > MAX_SERIES_LEAD_S:
        raise _refusal([start.column, first.column], "contradictory (more than 12 h apart)", "dates that were not shifted apart")
    _check_witnesses(_timings(header, first), start, half_life)
    return start


def _series_start(header: _Header, first: _Moment) -> _Moment | None:
    """Series Date and Time unless absent or after the first image. Without a date it is the nearest to the first image."""
    clock = _clock(header.text("series_time"), "series_time")
    if clock is None:
        return None
    day = _day(header.text("series_date"), "series_date")
    start = _Moment(clock + (day or 0) * _DAY_S, day is not None, "series_time", first.zone)
    if not (start.dated and first.dated):
        # Of the two dates one is missing: times of day are compared, and whichever date there is dates both.
        start = _near(start, first)._replace(dated=first.dated)
    return None if start.seconds > first.seconds else start


def _private_start(header: _Header, first: _Moment) -> _Moment | None:
    """GE's scan date and time; its date counts for nothing where all other dates were removed."""
    start = _date_time(header.text("ge_scan_date_time"), "ge_scan_date_time")
    if start is not None and not first.dated:
        start = _near(start, first)._replace(dated=False)
    if start is not None and start.seconds > first.seconds + SAME_START_S:
        raise _refusal(
            [start.column, first.column], "contradictory (the scan begins after its first image)", "a scan that begins with its images"
        )
    return start


def _first_acquisition(header: _Header, series: Columns | None) -> _Moment:
    """When the earliest image of the Series was acquired."""
    rows = set(_rows(header.facts, SERIES_COLUMNS))
    if series is not None:
        rows.update(_rows(series, SERIES_COLUMNS))
    moments = [_acquisition(*row) for row in rows]
    dated = [moment for moment in moments if moment.dated]
    anchor = min(dated, key=_seconds) if dated else _dated_by_series(moments[0], header)
    # A time without a date is the nearest one to a time that has one: beds may lie on both sides of midnight.
    placed = [moment if moment.dated else _near(moment, anchor)._replace(dated=anchor.dated) for moment in moments]
    return min(placed, key=_seconds)


def _dated_by_series(moment: _Moment, header: _Header) -> _Moment:
    day, clock = _day(header.text("series_date"), "series_date"), _clock(header.text("series_time"), "series_time")
    if day is None:
        return moment
    noon = day * _DAY_S + (_DAY_S / 2 if clock is None else clock)
    return _near(moment, _Moment(noon, True, "series_time", None))._replace(dated=True)


def _acquisition(date: str, time: str, date_time: str) -> _Moment:
    """Acquisition Date and Time, else Acquisition DateTime."""
    clock = _clock(time, "acquisition_time")
    whole = _date_time(date_time, "acquisition_date_time", clock)
    if clock is None:
        if whole is None:
            raise _refusal(["acquisition_time"], "", "the time of every image of the Series, for the start of the scan")
        return whole
    day = _day(date, "acquisition_date")
    if day is None and whole is not None:
        day = int(whole.seconds // _DAY_S)
    return _Moment(clock + (day or 0) * _DAY_S, day is not None, "acquisition_time", None if whole is None else whole.zone)


def _timings(header: _Header, first: _Moment) -> list[_Timing]:
    rows = zip(
        _rows(header.facts, SERIES_COLUMNS),
        *(map(_number, header.facts[name]) for name in ("frame_reference_time", "actual_frame_duration", "decay_factor")),
        strict=True,
    )
    timings = []
    for (date, time, date_time), *numbers in dict.fromkeys(rows):
        moment = _acquisition(date, time, date_time)
        if not (moment.dated and first.dated):
            moment = _near(moment, first)
        timings.append(_Timing(moment.seconds, *numbers))
    return timings


def _check_witnesses(timings: Sequence[_Timing], start: _Moment, half_life: float) -> None:
    """A contradiction where the images say how long after the scan's start they are, and none of their ways agrees with it.

    Frame Reference Time and Decay Factor count to the start of a frame or to the time of its average count rate, by vendor: any
    instant within the frame will do. 0 and 1 are what is written where they are unknown, and a number that puts the
    start elsewhere for every bed is no offset: these say nothing.
    """
    tolerance = max(SAME_START_S, -half_life * math.log2(1 - TOLERATED_DECAY))
    contradicting = []
    for column, windows in (
        ("frame_reference_time", [_window(t, (t.reference_ms or 0) / 1000) for t in timings]),
        ("decay_factor", [_window(t, half_life * math.log2(max(t.decay_factor or 1, 1))) for t in timings]),
    ):
        known = [window for window in windows if window is not None]
        if not known:
            continue
        low, high = max(window[0] for window in known), min(window[1] for window in known)
        if low > high + SAME_START_S:
            continue
        if low - tolerance <= start.seconds <= high + tolerance:
            return
        contradicting.append(column)
    if contradicting:
        found = "contradictory (the images count from another start of the scan)"
        raise _refusal([*contradicting, start.column], found, "one start of the scan, and all images of its Series")


def _window(timing: _Timing, offset: float) -> tuple[float, float] | None:
    """Between which instants the scan began, if the image is `offset` seconds after that."""
    if offset <= 0 or timing.duration_ms is None or math.isinf(offset):
        return None
    return timing.acquired - offset, timing.acquired - offset + timing.duration_ms / 1000


# --- dates and times ------------------------------------------------------------------------------------------------

_TM: Final = re.compile(r"(\d\d):?(\d\d):?(?:(\d\d)(\.\d+)?)?")
_DA: Final = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)")
_DT: Final = re.compile(r"(\d{8})(\d\d.*?)?(?:([+-])(\d\d)(\d\d))?")


def _rows(columns: Columns, names: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(map(_text, columns[name]) for name in names), strict=True)


def _clock(text: str, column: str) -> float | None:
    """Seconds since midnight of a TM (PS3.5 6.2), None when it is absent; one without minutes is no time to compute with."""
    if not text:
        return None
    match = _TM.fullmatch(text)
    if match is None:
        raise _refusal([column], "not a time to the minute", "HHMM[SS[.FFFFFF]]")
    hours, minutes, seconds = int(match[1]), int(match[2]), float((match[3] or "0") + (match[4] or ""))
    if hours > 23 or minutes > 59 or seconds >= 61:  # 60 is a leap second
        raise _refusal([column], "not a time of day", "HHMM[SS[.FFFFFF]]")
    return 3600.0 * hours + 60.0 * minutes + seconds


def _day(text: str, column: str) -> int | None:
    """The number of a DA's day, None when it is absent."""
    if not text:
        return None
    match = _DA.fullmatch(text)
    try:
        if match is not None:
            return datetime.date(int(match[1]), int(match[2]), int(match[3])).toordinal() - _DAY_0
    except ValueError:
        pass
    raise _refusal([column], "not a date", "YYYYMMDD")


def _date_time(text: str, column: str, clock: float | None = None) -> _Moment | None:
    """A DT (PS3.5 6.2), None when it is absent. One that ends with the day takes its time from `clock`."""
    if not text:
        return None
    match = _DT.fullmatch(text)
    if match is None or not (match[2] or clock is not None):
        raise _refusal([column], "not a date and time to the minute", "YYYYMMDDHHMM[SS[.FFFFFF]][&ZZXX]")
    day, seconds = _day(match[1], column), _clock(match[2], column) if match[2] else clock
    zone = None
    if match[3]:
        zone = (3600.0 * int(match[4]) + 60.0 * int(match[5])) * (-1 if match[3] == "-" else 1)
    return _Moment((day or 0) * _DAY_S + (seconds or 0.0), True, column, zone)


def _apart(clock: float, other: float) -> float:
    """Seconds from `other` to the nearest time of that clock, within half a day."""
    return (clock - other + _DAY_S / 2) % _DAY_S - _DAY_S / 2


def _seconds(moment: _Moment) -> float:
    return moment.seconds


def _near(moment: _Moment, anchor: _Moment) -> _Moment:
    """The moment on the day that brings it nearest to another."""
    return moment._replace(seconds=anchor.seconds + _apart(moment.seconds, anchor.seconds))
