"""PET modality values -> standardized uptake values (SUV).

One factor from header facts, or an error that names the attribute.

The rule to know: SUV = activity concentration x body measure / dose at the time that the values are
decay corrected to. That time is the whole difficulty. Decay Correction START means the start of the
acquisition (PS3.3 C.8.9.1.1.5), one instant for all images of a Series, which headers spell in
several ways; `_scan_start` says which one counts. Nothing is guessed: what is missing, zero,
implausible or contradictory is a `SUVError`, and what the case does not need is not looked at
(values that are SUV already need neither dose nor times). Follows QIBA's vendor-neutral
pseudo-code, its robust version.
"""

import difflib
import math
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from dicomdl.errors import UsageError
from dicomdl.values._suv_header import (
    SERIES_COLUMNS,
    SUV_COLUMNS,
    Columns,
    PetHeader,
    check_columns,
    refusal,
)
from dicomdl.values._suv_timing import decay_time

# The defined terms of SUV Type (0054,1006) in lower case.
SuvKind = Literal["bw", "lbm", "lbmjames128", "lbmjanma", "ibw", "bsa"]
SUV_KINDS: Final[tuple[str, ...]] = get_args(SuvKind)
MAX_WEIGHT_KG: Final = 500.0  # above: grams
MAX_SIZE_M: Final = 3.0  # above: centimetres; nobody was taller than 2.72 m
MIN_DOSE_BQ: Final = (
    1e5  # below: MBq, kBq or mCi; 5 MBq in a mouse and 10 MBq of I-124 are the small doses
)
MIN_DOSE_BQ_PER_KG: Final = (
    1e4  # below: kBq (370,000 in 70 kg is 5,300); the faintest total-body scans use 5e4
)
MAX_DOSE_BQ: Final = 1e11  # ten times the largest therapies that are imaged


@dataclass(frozen=True, slots=True)
class SUV:
    """The wish for standardized uptake values.

    Parameters
    ----------
    kind
        What the dose is spread over, by DICOM's terms for SUV Type (0054,1006), PS3.3 C.8.9.1:

        ===============  ============================================
        =========================================== ``bw``           body weight ``lbm``
        lean body mass (SUL), James's formula with    PS3.16 DCM 126411; Sugawara 1999
                         120 for men, as most workstations have it
        ``lbmjames128``  lean body mass (SUL), James's own, 128        PS3.16 DCM 126415; James 1976
        ``lbmjanma``     lean body mass (SUL), Janmahasatian           PS3.16 DCM 126414; Clin
        Pharmacokinet 44, 2005 ``ibw``          ideal body weight                             PS3.16
        DCM 126413; Sugawara 1999 ``bsa``          body surface area, Du Bois
        PS3.16 DCM 126412; Du Bois 1916 ===============
        ============================================  ===========================================
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
            raise UsageError(
                f"upper is {self.upper}: expected a finite number above 0", upper=self.upper
            )

    @property
    def units(self) -> str:
        """DICOM's word for the unit, as in Units (0054,1001).

        "GML" (g/ml), for body surface "CM2ML" (cm2/ml).
        """
        return "CM2ML" if self.kind == "bsa" else "GML"


def _unknown_kind(kind: object) -> str:
    if str(kind).lower() == "sul":
        return 'SUL has several formulas: ask for the kind "lbm", "lbmjames128" or "lbmjanma"'
    near = difflib.get_close_matches(str(kind).lower(), SUV_KINDS, n=3, cutoff=0.4) or list(
        SUV_KINDS
    )
    return f"no kind of SUV is called {kind!r}: did you mean {', '.join(near)}?"


def suv_factor(facts: Columns, kind: SuvKind = "bw", *, series: Columns | None = None) -> float:
    """What the modality values of a stack are multiplied by to become SUV.

    Parameters
    ----------
    facts
        The `SUV_COLUMNS` of one stack's frames, one value a frame, as the index holds them: "" and
        None are absent.
    kind
        As for `SUV`.
    series
        The `SERIES_COLUMNS` of all images of the Series, when it has more stacks than this one
        (time points, bed positions): the earliest of them is the start of the scan. Default: those
        of the frames.

    Returns
    -------
    float
        In g/ml (cm2/ml for "bsa") per modality unit (BQML, CNTS, GML, CM2ML), the same for all
        frames: apply it after the rescale.

    Raises
    ------
    SUVError
        The header does not give SUV; `attribute` names what is missing, implausible or
        contradictory.
    UsageError
        An unknown kind; columns that are absent, empty or of different lengths.

    Source
    ------
    QIBA FDG-PET/CT profile, vendor-neutral pseudo-code for SUV calculation; PS3.3 C.8.9.1, C.8.9.4; PS3.16 CID 85.
    """
    SUV(kind)
    check_columns(facts, SUV_COLUMNS)
    if series is not None:
        check_columns(series, SERIES_COLUMNS)
    header = PetHeader(facts)
    _check_corrected(header)
    units = header.text("units")
    if units == "BQML":
        return _measure(kind, header) / _reference_dose(header, series)
    if units == "CNTS":
        return _factor_of_counts(header, kind, series)
    if units in ("GML", "CM2ML"):
        return _conversion(_declared_kind(header, units), kind, header)
    found = "none of BQML, CNTS, GML, CM2ML, which alone lead to SUV" if units else ""
    raise refusal(["units"], found, "BQML, CNTS, GML or CM2ML")


def _check_corrected(header: PetHeader) -> None:
    """PET, of the tracer's counts, corrected for attenuation and for decay to a time that is known."""
    if header.text("modality") != "PT":
        raise refusal(["modality"], "not PT", "PT: other modalities have no SUV")
    if header.text("counts_source") not in ("", "EMISSION"):
        raise refusal(["counts_source"], "not EMISSION", "EMISSION")
    corrections = [word.strip() for word in header.text("corrected_image").split("\\")]
    for word, meaning in (("ATTN", "attenuation"), ("DECY", "decay")):
        if word not in corrections:
            found = f"without {word} (corrected for {meaning})" if any(corrections) else ""
            raise refusal(["corrected_image"], found, "ATTN and DECY among its values")
    decay = header.text("decay_correction")
    if decay == "NONE":
        raise refusal(
            ["decay_correction", "corrected_image"],
            "contradictory (NONE, yet DECY)",
            "START or ADMIN with DECY",
        )
    if decay not in ("START", "ADMIN"):
        raise refusal(
            ["decay_correction"], "neither START nor ADMIN" if decay else "", "START or ADMIN"
        )
    stated = header.text("rescale_type")
    if stated in ("BQML", "GML", "CM2ML") and header.text("units") in {"BQML", "GML", "CM2ML"} - {
        stated
    }:
        raise refusal(["units", "rescale_type"], "contradictory", "the same unit")


# --- the body -------------------------------------------------------------------------------------


def _measure(kind: SuvKind, header: PetHeader) -> float:
    """What the dose is spread over: grams, for "bsa" square centimetres.

    Formulas of PS3.16 DCM 126410 to 126415.
    """
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
        kilograms = (
            1.10 * weight - (120 if kind == "lbm" else 128) * squared
            if male
            else 1.07 * weight - 148 * squared
        )
    if kilograms <= 0:
        columns = ["patient_size"] if kind == "ibw" else ["patient_weight", "patient_size"]
        raise refusal(
            columns, f'beyond the formula of "{kind}"', 'a mass above 0 (try "lbmjanma", "bw")'
        )
    return 1000 * kilograms


def _weight(header: PetHeader) -> float:
    weight = header.positive("patient_weight", "kg")
    if weight > MAX_WEIGHT_KG:
        raise refusal(["patient_weight"], f"above {MAX_WEIGHT_KG:g}", "kg (this looks like grams)")
    return weight


def _size(header: PetHeader) -> float:
    size = header.positive("patient_size", "m")
    if size > MAX_SIZE_M:
        raise refusal(
            ["patient_size"], f"above {MAX_SIZE_M:g}", "metres (this looks like centimetres)"
        )
    return size


def _is_male(header: PetHeader) -> bool:
    sex = header.text("patient_sex")
    if sex not in ("M", "F"):
        raise refusal(
            ["patient_sex"],
            "neither M nor F" if sex else "",
            'M or F, which the formula distinguishes (or ask for "bw" or "bsa")',
        )
    return sex == "M"


def _conversion(declared: SuvKind, wanted: SuvKind, header: PetHeader) -> float:
    return 1.0 if declared == wanted else _measure(wanted, header) / _measure(declared, header)


def _declared_kind(header: PetHeader, units: str) -> SuvKind:
    """The kind that the values are already.

    SUV Type, BW where it is absent and the Units are GML (PS3.3 C.8.9.1).
    """
    stated = header.text("suv_type").lower() or ("bw" if units == "GML" else "bsa")
    if stated not in SUV_KINDS:
        raise refusal(
            ["suv_type"],
            "no kind of SUV that DICOM defines",
            "BW, LBM, LBMJAMES128, LBMJANMA, IBW or BSA",
        )
    kind = cast(SuvKind, stated)
    if SUV(kind).units != units:
        raise refusal(["suv_type", "units"], "contradictory", "BSA with CM2ML, the others with GML")
    return kind


def _factor_of_counts(header: PetHeader, kind: SuvKind, series: Columns | None) -> float:
    """Philips stores counts: one private factor makes them SUVbw, the other Bq/ml.

    Either may be 0 where it is unknown.
    """
    to_suv, to_activity = (
        header.number("philips_suv_factor"),
        header.number("philips_activity_factor"),
    )
    if to_suv is not None and to_suv > 0:
        if header.text("suv_type") not in ("", "BW"):
            raise refusal(
                ["suv_type", "philips_suv_factor"],
                "contradictory",
                "BW, which is what the factor makes of counts",
            )
        return to_suv * _conversion("bw", kind, header)
    if to_activity is not None and to_activity > 0:
        return to_activity * _measure(kind, header) / _reference_dose(header, series)
    found = "absent, 0 or negative, and Units are CNTS"
    raise refusal(
        ["philips_suv_factor", "philips_activity_factor"],
        found,
        "one of them above 0: counts alone are no activity",
    )


# --- the dose -------------------------------------------------------------------------------------


def _reference_dose(header: PetHeader, series: Columns | None) -> float:
    """Bq of the dose that are left at the time that the values are decay corrected to."""
    dose = header.positive("radionuclide_total_dose", "Bq")
    weight = header.number("patient_weight")
    if dose < MIN_DOSE_BQ or (
        weight and 0 < weight <= MAX_WEIGHT_KG and dose < MIN_DOSE_BQ_PER_KG * weight
    ):
        raise refusal(
            ["radionuclide_total_dose"],
            f"{dose:g}",
            "Bq (no scan is done with so little: this looks like MBq, kBq or mCi)",
        )
    if dose > MAX_DOSE_BQ:
        raise refusal(["radionuclide_total_dose"], f"{dose:g}", f"Bq, {MAX_DOSE_BQ:g} at most")
    if header.text("decay_correction") == "ADMIN":
        return dose
    half_life = header.positive("radionuclide_half_life", "s")
    return float(dose * 2 ** (-decay_time(header, half_life, series) / half_life))
