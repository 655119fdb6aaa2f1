"""in_plane: the kinds of spacing of PS3.3 10.7.1, the place where they hold, the magnification."""

import math
from typing import Any

import pytest

from dicomdl.geometry.in_plane import IN_PLANE_COLUMNS, PlaneSpacing, plane_spacing
from dicomdl.headers.frame import attributes
from dicomdl.headers.uids import PLACED

RATIO = "DistanceSourceToDetector / DistanceSourceTo"
FACTOR = "EstimatedRadiographicMagnificationFactor"
IMAGER = {"imager_pixel_spacing": (0.2, 0.3)}
PIXEL = {"pixel_spacing": (0.1, 0.15)}


def of(**facts: Any) -> PlaneSpacing:
    blank = {"modality": "DX", "sop_class_uid": "", "pixel_spacing_calibration_type": ""}
    return plane_spacing({**dict.fromkeys(IN_PLANE_COLUMNS), **blank, **facts})


def test_every_column_is_a_fact_of_the_index() -> None:
    assert set(IN_PLANE_COLUMNS) <= {attribute.name for attribute in attributes()}


@pytest.mark.parametrize(
    ("facts", "spacing", "at"),
    [
        ({}, None, ""),
        (IMAGER, (0.2, 0.3), "detector"),
        ({"nominal_scanned_pixel_spacing": (0.4, 0.5)}, (0.4, 0.5), "detector"),
        ({**IMAGER, "nominal_scanned_pixel_spacing": (0.4, 0.5)}, (0.2, 0.3), "detector"),
        # Equal without a type of calibration: not calibrated.
        ({**IMAGER, "pixel_spacing": (0.2, 0.3)}, (0.2, 0.3), "detector"),
        ({**IMAGER, "pixel_spacing": (0.20001, 0.3)}, (0.20001, 0.3), "detector"),
        ({**IMAGER, **PIXEL}, (0.1, 0.15), "patient"),
        (
            {**IMAGER, "pixel_spacing": (0.2, 0.3), "pixel_spacing_calibration_type": "FIDUCIAL"},
            (0.2, 0.3),
            "patient",
        ),
        ({**PIXEL, "pixel_spacing_calibration_type": "GEOMETRY"}, (0.1, 0.15), "patient"),
        # Alone, it may be either.
        (PIXEL, (0.1, 0.15), ""),
        ({**PIXEL, "modality": "CT"}, (0.1, 0.15), "patient"),
        ({**PIXEL, "modality": "SC"}, (0.1, 0.15), "patient"),
        (
            {**PIXEL, "modality": "OT", "nominal_scanned_pixel_spacing": (0.1, 0.15)},
            (0.1, 0.15),
            "detector",
        ),
        # A tomosynthesis has slices in the patient.
        ({**PIXEL, "modality": "MG", "sop_class_uid": min(PLACED)}, (0.1, 0.15), "patient"),
        (
            {**IMAGER, "modality": "XA", "object_pixel_spacing_in_center_of_beam": (0.1, 0.1)},
            (0.1, 0.1),
            "patient",
        ),
        ({"imager_pixel_spacing": (0.0, 0.2)}, None, ""),
        ({**IMAGER, "pixel_spacing": (-1.0, 0.2)}, (0.2, 0.3), "detector"),
    ],
)
def test_the_spacing_and_its_place(
    facts: dict[str, Any], spacing: tuple[float, float] | None, at: str
) -> None:
    found = of(**facts)
    assert found.at == at and found.is_known == (spacing is not None)
    assert spacing is None or (found.row, found.column) == spacing


REGION = {
    **{"modality": "US", "region_spatial_format": 1, "physical_delta_x": 0.02},
    **{"physical_units_x_direction": 3, "physical_units_y_direction": 3, "physical_delta_y": 0.03},
}


@pytest.mark.parametrize(
    ("facts", "spacing"),
    [
        ({}, (0.3, 0.2)),
        ({"pixel_spacing": (0.1, 0.15)}, (0.1, 0.15)),
        # M-mode: columns are seconds.
        ({"region_spatial_format": 2, "physical_units_x_direction": 4}, None),
        ({"physical_units_x_direction": 4}, None),
        ({"physical_delta_x": None}, None),
        ({"physical_delta_y": 0.0}, None),
    ],
)
def test_calibrated_regions_of_ultrasound_lie_in_the_patient(
    facts: dict[str, Any], spacing: tuple[float, float] | None
) -> None:
    found = of(**{**REGION, **facts})
    assert found.is_known == (spacing is not None)
    if spacing is not None:
        assert (found.row, found.column) == pytest.approx(spacing) and found.at == "patient"


@pytest.mark.parametrize(
    ("facts", "magnification", "source"),
    [
        ({"estimated_radiographic_magnification_factor": 1.8}, 1.8, FACTOR),
        (
            {
                "estimated_radiographic_magnification_factor": 1.8,
                "distance_source_to_detector": 650.0,
                "distance_source_to_patient": 600.0,
            },
            1.8,
            FACTOR,
        ),
        (
            {"distance_source_to_detector": 1200.0, "distance_source_to_patient": 800.0},
            1.5,
            RATIO + "Patient",
        ),
        (
            {
                "distance_source_to_detector": 1200.0,
                "distance_source_to_patient": 0.0,
                "distance_source_to_isocenter": 750.0,
            },
            1.6,
            RATIO + "Isocenter",
        ),
        ({"estimated_radiographic_magnification_factor": 0.0}, None, ""),
        ({"estimated_radiographic_magnification_factor": 0.5}, None, ""),
        ({"distance_source_to_detector": 1200.0}, None, ""),
        # The patient is not behind the detector.
        ({"distance_source_to_detector": 800.0, "distance_source_to_patient": 900.0}, None, ""),
    ],
)
def test_the_magnification_and_the_attributes_that_tell_it(
    facts: dict[str, Any], magnification: float | None, source: str
) -> None:
    found = of(**IMAGER, **facts)
    assert found.magnification_from == source
    inside = found.in_patient()
    if magnification is None:
        assert math.isnan(found.magnification) and math.isnan(inside.row) and inside.at == ""
    else:
        assert found.magnification == pytest.approx(magnification)
        assert (inside.row, inside.column) == pytest.approx(
            (0.2 / magnification, 0.3 / magnification)
        )
        assert inside.at == "patient" and (found.row, found.at) == (0.2, "detector")


def test_a_calibrated_spacing_is_never_divided() -> None:
    found = of(**IMAGER, **PIXEL, estimated_radiographic_magnification_factor=2.0)
    assert found.in_patient() == found and (found.row, found.at) == (0.1, "patient")


def test_a_spacing_of_unknown_place_is_none_in_the_patient() -> None:
    inside = of(**PIXEL, estimated_radiographic_magnification_factor=2.0).in_patient()
    assert not inside.is_known and inside.at == ""
