"""The spacing of pixels in the plane of an image, and the place where it holds.

Pixel Spacing is the distance in the patient (PS3.3 10.7.1.1). A projection image has a spacing at
the detector, Imager Pixel Spacing, or on the film, Nominal Scanned Pixel Spacing: there, the image
of the patient is magnified. Its Pixel Spacing is calibrated if Pixel Spacing Calibration Type is
GEOMETRY or FIDUCIAL (PS3.3 10.7.1.2). Without that type, a Pixel Spacing that equals the other one
is not calibrated, and one that differs is; alone, it may be either.

The magnification is the Estimated Radiographic Magnification Factor, the ratio of the distances
from the source to the detector and to the patient (PS3.3 C.8.11.5, C.8.7.5), or that ratio itself.
It holds in one plane of the patient. Nothing is divided by it unless the caller asks.

An ultrasound image has the spacing of its calibrated regions (PS3.3 C.8.5.5) if all of them show
tissue in two dimensions at one spacing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from dicomdl.headers.uids import PLACED

SpacingAt = Literal["patient", "detector", ""]
# Values of Modality (0008,0060) whose images are projections.
PROJECTION: Final = frozenset({"CR", "DX", "MG", "RG", "RF", "XA", "IO", "PX"})
IN_PLANE_COLUMNS: Final = (
    *("modality", "sop_class_uid", "pixel_spacing", "pixel_spacing_calibration_type"),
    *("imager_pixel_spacing", "nominal_scanned_pixel_spacing"),
    *("object_pixel_spacing_in_center_of_beam", "estimated_radiographic_magnification_factor"),
    *("distance_source_to_detector", "distance_source_to_patient", "distance_source_to_isocenter"),
    *("region_spatial_format", "physical_units_x_direction", "physical_units_y_direction"),
    *("physical_delta_x", "physical_delta_y"),
)
# Region Spatial Format 2D and Physical Units cm (PS3.3 C.8.5.5.1.1, C.8.5.5.1.15).
_TISSUE: Final = (1, 3, 3)
# Relative difference of two spellings of one spacing.
_SAME: Final = 1e-3
# A patient between source and detector is magnified, and not without limit.
_LARGEST_MAGNIFICATION: Final = 100.0
_FACTOR: Final = "EstimatedRadiographicMagnificationFactor"
_RATIO: Final = "DistanceSourceToDetector / DistanceSourceTo"


@dataclass(frozen=True, slots=True)
class PlaneSpacing:
    """The spacing of pixels in the plane of an image, and the place where it holds.

    Attributes
    ----------
    row, column : float
        The distance between rows and between columns, mm; NaN where unknown.
    at : {"patient", "detector", ""}
        The place where they hold: in the patient, or at the detector or on the film. "" if the
        header does not tell, or has no spacing.
    magnification : float
        The size at the detector per size in the patient; NaN where unknown.
    magnification_from : str
        The attributes that tell the magnification; "" where unknown.
    """

    row: float = math.nan
    column: float = math.nan
    at: SpacingAt = ""
    magnification: float = math.nan
    magnification_from: str = ""

    @property
    def is_known(self) -> bool:
        """Whether there is a spacing."""
        return math.isfinite(self.row) and math.isfinite(self.column)

    def in_patient(self) -> "PlaneSpacing":
        """Return the spacing in the patient: that at the detector / magnification.

        NaN and "" if that is unknown.
        """
        if self.at == "patient":
            return self
        known = self.at == "detector" and math.isfinite(self.magnification)
        return replace(
            self,
            row=self.row / self.magnification if known else math.nan,
            column=self.column / self.magnification if known else math.nan,
            at="patient" if known else "",
        )


def plane_spacing(facts: Mapping[str, Any]) -> PlaneSpacing:
    """Return the in-plane spacing of a frame from its `IN_PLANE_COLUMNS`.

    Examples
    --------
    >>> facts = dict.fromkeys(IN_PLANE_COLUMNS)
    >>> mammogram = {"modality": "MG", "imager_pixel_spacing": (0.07, 0.07)}
    >>> factor = {"estimated_radiographic_magnification_factor": 1.75}
    >>> found = plane_spacing({**facts, **mammogram, **factor})
    >>> found.at, found.row, round(found.in_patient().row, 6)
    ('detector', 0.07, 0.04)
    """
    declared, detector = (
        _usable(facts["pixel_spacing"]),
        _usable(facts["imager_pixel_spacing"]) or _usable(facts["nominal_scanned_pixel_spacing"]),
    )
    # X-Ray calibration of an enhanced XA image (PS3.3 C.8.19.6.9).
    object_plane = _usable(facts["object_pixel_spacing_in_center_of_beam"]) or _of_regions(facts)
    if object_plane and not declared:
        return PlaneSpacing(*object_plane, "patient")
    spacing = declared or detector
    if spacing is None:
        return PlaneSpacing()
    at = _place(facts, declared, detector)
    return PlaneSpacing(*spacing, at, *(_magnification(facts) if at == "detector" else ()))


def _place(
    facts: Mapping[str, Any],
    declared: tuple[float, float] | None,
    detector: tuple[float, float] | None,
) -> SpacingAt:
    if declared is None:
        return "detector"
    if facts["pixel_spacing_calibration_type"]:
        return "patient"
    if detector is not None:
        same = all(
            math.isclose(a, b, rel_tol=_SAME) for a, b in zip(declared, detector, strict=True)
        )
        return "detector" if same else "patient"
    is_projection = facts["modality"] in PROJECTION and facts["sop_class_uid"] not in PLACED
    return "" if is_projection else "patient"


def _magnification(facts: Mapping[str, Any]) -> tuple[float, str]:
    """Return the magnification and the attributes that tell it, (NaN, "") where unknown."""
    factor = facts["estimated_radiographic_magnification_factor"]
    if factor is not None and 1 <= factor < _LARGEST_MAGNIFICATION:
        return float(factor), _FACTOR
    detector = facts["distance_source_to_detector"]
    for place in ("patient", "isocenter"):
        distance = facts[f"distance_source_to_{place}"]
        if detector and distance and 0 < distance <= detector < _LARGEST_MAGNIFICATION * distance:
            return float(detector / distance), f"{_RATIO}{place.capitalize()}"
    return math.nan, ""


def _of_regions(facts: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the spacing of the calibrated regions of an ultrasound image, mm."""
    kind = ("region_spatial_format", "physical_units_x_direction", "physical_units_y_direction")
    between_rows, between_columns = facts["physical_delta_y"], facts["physical_delta_x"]
    if tuple(facts[name] for name in kind) != _TISSUE or not between_rows or not between_columns:
        return None
    return _usable((10 * abs(between_rows), 10 * abs(between_columns)))


def _usable(spacing: Any) -> tuple[float, float] | None:
    """Return two positive numbers as a tuple; None for anything else."""
    if spacing is None or len(spacing) != 2 or not all(0 < float(s) < math.inf for s in spacing):
        return None
    return float(spacing[0]), float(spacing[1])
