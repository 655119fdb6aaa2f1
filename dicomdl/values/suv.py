"""SUV: the factor from PET modality values to standardized uptake values, from header facts.

SUV = activity concentration x body measure / dose at the time to which the values are decay
corrected. That time is the difficulty. Decay Correction START means the start of the acquisition
(PS3.3 C.8.9.1.1.5), one instant for all images of a Series, which headers state in several ways;
`_suv_timing` finds it. Nothing is guessed: a fact that is missing, zero, implausible or
contradictory is a `SUVError` that names the attribute. Only the facts that a case needs are read:
values that are SUV already need neither dose nor times. The computation follows the robust version
of QIBA's vendor-neutral pseudo-code.
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

# Defined terms of SUV Type (0054,1006), in lower case.
SuvKind = Literal["bw", "lbm", "lbmjames128", "lbmjanma", "ibw", "bsa"]
SUV_KINDS: Final[tuple[str, ...]] = get_args(SuvKind)
# Larger weights are grams.
MAX_WEIGHT_KG: Final = 500.0
# Larger sizes are centimetres: the tallest person measured 2.72 m.
MAX_SIZE_M: Final = 3.0
# Smaller doses are MBq, kBq or mCi: 5 MBq in a mouse and 10 MBq of I-124 are small doses.
MIN_DOSE_BQ: Final = 1e5
# Smaller doses are kBq (370,000 in 70 kg is 5,300): the faintest total-body scans use 5e4.
MIN_DOSE_BQ_PER_KG: Final = 1e4
# Ten times the largest therapies that are imaged.
MAX_DOSE_BQ: Final = 1e11


@dataclass(frozen=True, slots=True)
class SUV:
    """Request for standardized uptake values.

    Parameters
    ----------
    kind
        The body measure by which the dose is divided, in DICOM's terms for SUV Type (0054,1006):

        ===============  ===========================  ==========================================
        kind             body measure                 definition (PS3.16) and source
        ===============  ===========================  ==========================================
        ``bw``           body weight                  DCM 126410
        ``lbm``          lean body mass (SUL), James  DCM 126411; Sugawara 1999
                         with 120 for men, as in
                         most workstations
        ``lbmjames128``  lean body mass (SUL), James  DCM 126415; James 1976
                         with 128, the original
        ``lbmjanma``     lean body mass (SUL),        DCM 126414; Clin Pharmacokinet 44, 2005
                         Janmahasatian
        ``ibw``          ideal body weight            DCM 126413; Sugawara 1999
        ``bsa``          body surface area, Du Bois   DCM 126412; Du Bois 1916
        ===============  ===========================  ==========================================
    upper
        As ``intensity=``, the SUV that becomes 1, finite and above 0; None leaves SUV unchanged.

    Raises
    ------
    UsageError
        An unknown kind, or an impossible upper end.

    References
    ----------
    PS3.3 C.8.9.1; PS3.16 CID 85.

    Examples
    --------
    Pass it as ``values=`` to read SUV, as ``intensity=`` to map [0, upper] onto [0, 1]:

    >>> import dicomdl
    >>> dicomdl.SUV("lbm").units
    'GML'
    >>> dicomdl.SUV(upper=20)
    SUV(kind='bw', upper=20)
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
        """Units by the terms of Units (0054,1001): "GML" (g/ml), for "bsa" "CM2ML" (cm2/ml)."""
        return "CM2ML" if self.kind == "bsa" else "GML"


def _unknown_kind(kind: object) -> str:
    """Return the message for an unknown kind, with the nearest kinds."""
    if str(kind).lower() == "sul":
        return 'SUL has several formulas: ask for the kind "lbm", "lbmjames128" or "lbmjanma"'
    near = difflib.get_close_matches(str(kind).lower(), SUV_KINDS, n=3, cutoff=0.4) or list(
        SUV_KINDS
    )
    return f"no kind of SUV is called {kind!r}: did you mean {', '.join(near)}?"


def suv_factor(facts: Columns, kind: SuvKind = "bw", *, series: Columns | None = None) -> float:
    """Return the factor from the modality values of a stack to SUV.

    Parameters
    ----------
    facts
        The `SUV_COLUMNS` of the frames of one stack, one value per frame, as the index holds them:
        "" and None are absent.
    kind
        As for `SUV`.
    series
        The `SERIES_COLUMNS` of all images of the Series, when it has further stacks (time points,
        bed positions): the earliest image is the start of the scan. Default: those of the frames.

    Returns
    -------
    float
        In g/ml (cm2/ml for "bsa") per modality unit (BQML, CNTS, GML, CM2ML), the same for all
        frames, to be applied after the rescale.

    Raises
    ------
    SUVError
        The header does not give SUV; `attribute` names the missing, implausible or contradictory
        attribute.
    UsageError
        An unknown kind, or columns that are absent, empty or of different lengths.

    References
    ----------
    QIBA FDG-PET/CT profile, vendor-neutral pseudo-code for SUV calculation; PS3.3 C.8.9.1, C.8.9.4;
    PS3.16 CID 85.
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
    problem = "none of BQML, CNTS, GML, CM2ML, which alone lead to SUV" if units else ""
    raise refusal(["units"], problem, "BQML, CNTS, GML or CM2ML")


def _check_corrected(header: PetHeader) -> None:
    """Require PET emission counts, corrected for attenuation and for decay to a known time."""
    if header.text("modality") != "PT":
        raise refusal(["modality"], "not PT", "PT: other modalities have no SUV")
    if header.text("counts_source") not in ("", "EMISSION"):
        raise refusal(["counts_source"], "not EMISSION", "EMISSION")
    corrections = [word.strip() for word in header.text("corrected_image").split("\\")]
    for word, meaning in (("ATTN", "attenuation"), ("DECY", "decay")):
        if word not in corrections:
            problem = f"without {word} (corrected for {meaning})" if any(corrections) else ""
            raise refusal(["corrected_image"], problem, "ATTN and DECY among its values")
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
    """Compute the body measure: grams, for "bsa" square centimetres.

    The formulas are those of PS3.16 DCM 126410 to 126415.
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
        # Body mass index in kg/m2, as in the paper.
        index = weight / size**2
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
    """Return the kind of values that are SUV already.

    It is SUV Type; when absent, BW for Units GML (PS3.3 C.8.9.1), BSA for CM2ML.
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
    """Compute the factor of counts, which Philips stores with two private factors.

    One converts counts to SUVbw, the other to Bq/ml. Either may be 0 when unknown.
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
    problem = "absent, 0 or negative, and Units are CNTS"
    raise refusal(
        ["philips_suv_factor", "philips_activity_factor"],
        problem,
        "one of them above 0: counts alone are no activity",
    )


# --- the dose -------------------------------------------------------------------------------------


def _reference_dose(header: PetHeader, series: Columns | None) -> float:
    """Compute the dose in Bq that is left at the time to which the values are decay corrected.

    A header may list several radiopharmaceuticals (PS3.3 C.8.9.2), and nothing says which one the
    counts are from.
    """
    injected = header.number("radiopharmaceuticals")
    if injected is not None and injected > 1:
        raise refusal(
            ["radiopharmaceuticals"],
            f"ambiguous ({injected:g} different items)",
            "one radiopharmaceutical, whose dose gives the SUV",
        )
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
