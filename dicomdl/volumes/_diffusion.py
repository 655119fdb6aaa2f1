"""The b-value and gradient direction of each volume of a group, by the facts of its headers.

The standard and Siemens and Philips give directions in patient coordinates (PS3.3 C.8.13.5.9). UIH
and GE give them along the axes of the image: UIH along rows, columns and normal; GE along the
frequency and phase axes, so that In-plane Phase Encoding Direction counts, with signs that depend
on the plane. dcm2niix reads them in this way; its output for phantoms of all planes is the test.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Floats
from dicomdl.geometry.grid import Geometry
from dicomdl.index.views import Stack
from dicomdl.volumes.nifti import GradientWarning, gradient_files

# Image Type or Frame Type of maps that were computed from diffusion images (PS3.3 C.8.13.3.1.1).
_COMPUTED: Final = frozenset({"ADC", "EADC", "FA", "TENSOR", "EXP", "ADC_UNSPECIFIED", "ADC MAP"})
# b-values, the ones that were played out before those that were requested.
_B_VALUES: Final = (
    "uih_b_value",
    "ge_b_value",
    "diffusion_b_value",
    "siemens_b_value",
    "philips_b_value",
)
# Signs along (row, column, normal) for a sagittal, coronal and axial plane: of (x, y, z) for phase
# encoding in the column, of (y, x, z) for phase encoding in the row.
_GE_SIGNS: Final = np.array([(1, 1, -1), (-1, 1, 1), (-1, -1, 1)])
_GE_SIGNS_IN_ROWS: Final = np.array([(1, -1, -1), (1, 1, 1), (-1, 1, 1)])
# GE plays a shorter gradient for a smaller b-value; lengths between these are no rounding.
_GE_SCALED: Final = (0.03, 0.97)
_GE_B_STEP: Final = 5.0
_NO_LENGTH: Final = 1e-6


def gradients(stacks: Sequence[Stack]) -> tuple[Floats, Floats]:
    """Return b-values (n,) in s/mm^2 and unit vectors (n, 3) in LPS of n stacks.

    A vector is 0 for b = 0, and for a trace or isotropic image, which has no direction. Both are
    NaN where the header gives no b-value, and for maps computed from diffusion images.
    """
    b_values, vectors = np.full(len(stacks), np.nan), np.full((len(stacks), 3), np.nan)
    ge_without: list[int] = []
    for n, stack in enumerate(stacks):
        b_value = _b_value(stack)
        if math.isnan(b_value) or _is_computed(stack):
            continue
        vector, length, is_ge = _vector(stack)
        if is_ge and _GE_SCALED[0] < length < _GE_SCALED[1]:
            b_value = math.floor(b_value * length**2 / _GE_B_STEP + 0.5) * _GE_B_STEP
        if (
            is_ge
            and length <= _GE_SCALED[0]
            and not stack.value("image_type").startswith("DERIVED")
        ):
            ge_without.append(n)
        b_values[n], vectors[n] = b_value, vector if b_value > 0 else 0.0
    # GE gives the b-value of the series to its images without gradient.
    if vectors[np.isfinite(vectors)].any():
        b_values[ge_without] = 0.0
    return b_values, vectors


def gradient_files_of(stacks: Sequence[Stack], geometry: Geometry) -> dict[str, str]:
    """Return {suffix: text} of the files of FSL for n stacks that are saved on a grid.

    Warns
    -----
    GradientWarning
        A direction of GE depends on a phase axis that its header does not state.
    """
    files = gradient_files(*gradients(stacks), geometry)
    if ".bvec" in files and any(map(_assumes_phase_axis, stacks)):
        warnings.warn(
            "In-plane Phase Encoding Direction is absent: gradient directions of GE are taken for "
            "phase encoding along the columns",
            GradientWarning,
            stacklevel=3,
        )
    return files


def _assumes_phase_axis(stack: Stack) -> bool:
    _, length, is_ge = _vector(stack)
    return is_ge and length > _GE_SCALED[0] and not _states_phase_axis(stack)


def _states_phase_axis(stack: Stack) -> bool:
    return stack.value("in_plane_phase_encoding_direction") in ("ROW", "COL")


def _is_computed(stack: Stack) -> bool:
    words = {
        word
        for column in ("image_type", "frame_type")
        for word in str(stack.value(column)).split("\\")
    }
    return bool(words & _COMPUTED)


def _b_value(stack: Stack) -> float:
    """Return the b-value of a stack in s/mm^2; NaN if the header has none."""
    for column in _B_VALUES:
        value = stack.value(column)
        if isinstance(value, tuple):
            # GE adds 1,000,000,000 if a series holds several b-values.
            value = value[0] % 100_000 if value else None
        if value is not None and 0 <= value < math.inf:
            return float(value)
    return math.nan


def _vector(stack: Stack) -> tuple[Floats, float, bool]:
    """Return the unit vector in LPS, its length in the header, and whether GE's rule gave it."""
    row, column, normal = _axes(stack)
    of_uih = _three(stack.value("uih_diffusion_direction"))
    if of_uih is not None:
        return *_unit(of_uih[0] * row + of_uih[1] * column + of_uih[2] * normal), False
    for name in ("diffusion_gradient_orientation", "siemens_diffusion_direction"):
        direction = _three(stack.value(name))
        if direction is not None:
            return *_unit(direction), False
    for vendor in ("philips", "ge"):
        direction = _three([stack.value(f"{vendor}_diffusion_direction_{axis}") for axis in "xyz"])
        if direction is not None and vendor == "ge":
            along = _ge_along_axes(
                direction, normal, str(stack.value("in_plane_phase_encoding_direction"))
            )
            return *_unit(along[0] * row + along[1] * column + along[2] * normal), True
        if direction is not None:
            return *_unit(direction), False
    return np.zeros(3), 0.0, False


def _ge_along_axes(direction: Floats, normal: Floats, phase: str) -> Floats:
    """Return a GE direction along (row direction, column direction, normal) of the image.

    Phase encoding in the column is usual, and assumed where the header does not state it.
    """
    x, y, z = direction
    plane = int(np.nan_to_num(np.abs(normal)).argmax())
    if phase == "ROW":
        return np.asarray(np.array([y, x, z]) * _GE_SIGNS_IN_ROWS[plane])
    # The polarity is that of the stored vector where the phase axis is not known.
    return np.asarray(np.array([x, y, z]) * _GE_SIGNS[plane] * (1 if phase == "COL" else -1))


def _axes(stack: Stack) -> tuple[Floats, Floats, Floats]:
    """Return unit vectors in LPS along row direction, column direction and normal; or NaN."""
    given = stack.value("image_orientation_patient")
    row, column = np.reshape(np.full(6, np.nan) if given is None else given, (2, 3)).astype(float)
    return row, column, np.cross(row, column)


def _three(given: Any) -> Floats | None:
    """Return three finite numbers as an array, None for anything else."""
    if given is None or len(given) != 3 or None in given:
        return None
    numbers = np.array(given, dtype=np.float64)
    return numbers if np.isfinite(numbers).all() else None


def _unit(vector: Floats) -> tuple[Floats, float]:
    """Return a vector of length 1, or of length 0, and its length before."""
    length = float(np.linalg.norm(vector))
    return (np.zeros(3) if length <= _NO_LENGTH else vector / length), length
