"""Doses of an RTDOSE on the grid of a stack."""

from dicomdl.errors import AnnotationError
from dicomdl.index.annotated import stacks_of
from dicomdl.index.annotations import Annotation
from dicomdl.index.views import Stack
from dicomdl.volumes.read import read_volume
from dicomdl.volumes.volume import Volume

# Dose Units (3004,0002), PS3.3 C.8.8.3: RELATIVE are fractions of a reference dose.
_ABSOLUTE = "GY"


def dose_on(stack: Stack, annotation: Annotation) -> Volume:
    """Return a dose in Gy at the voxels of a stack, linearly interpolated; 0 beyond its grid.

    Raises
    ------
    AnnotationError
        The object has no grid of doses, or its doses are relative.
    GeometryError
        The planes of the dose, or the slices of the stack, form no grid.
    """
    doses = stacks_of(stack, annotation)
    if not len(doses):
        raise AnnotationError("the RTDOSE has no grid of doses: it holds histograms or points")
    units = str(doses[0].value("dose_units")).upper()
    if units != _ABSOLUTE:
        raise AnnotationError(f"the doses are {units or 'of unknown units'}, expected GY")
    dose = read_volume(doses[0], dtype="float32")
    return dose.resample_to(stack.geometry, fill=0.0)
