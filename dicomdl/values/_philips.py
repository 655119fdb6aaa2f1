"""Philips' private scaling: from stored values to the floating point values of the reconstruction.

Philips fits the floating point values of an image into 12 bits, with factors per image. The private
Scale Slope SS (2005,100E) and Scale Intercept SI (2005,100D) invert this:
``FP = (stored - SI) / SS``. The rescale slope RS and intercept RI of the standard lead to the
values that the console displays, and are related to them by ``SI = -RI / RS``, so that
``FP = (stored * RS + RI) / (RS * SS)``. Displayed values do not compare between series; FP do
(Chenevert et al., Transl Oncol 2014, PMC3998685).
"""

from typing import Final, Protocol

from dicomdl.errors import IntensityError
from dicomdl.values.rescale import Rescale

PHILIPS_COLUMNS: Final = ("philips_scale_slope", "philips_scale_intercept")
_SLOPE: Final = "Philips' Scale Slope (2005,100E)"
_INTERCEPT: Final = "Philips' Scale Intercept (2005,100D)"
# Stored values by which the two statements of the intercept may differ: RI is rounded text.
_TOLERANCE: Final = 1.0


class PhilipsFacts(Protocol):
    """The facts of Philips' scaling, as a `Frame` holds them."""

    @property
    def rescale_slope(self) -> float | None:
        """Rescale Slope (0028,1053)."""

    @property
    def rescale_intercept(self) -> float | None:
        """Rescale Intercept (0028,1052)."""

    @property
    def philips_scale_slope(self) -> float | None:
        """Scale Slope (2005,100E)."""

    @property
    def philips_scale_intercept(self) -> float | None:
        """Scale Intercept (2005,100D)."""


def philips_rescale(facts: PhilipsFacts) -> Rescale:
    """Return the map from the stored values of one frame to Philips' floating point values.

    The offset is that of the rescale, as in dcm2niix, and that of the private intercept in files
    without a rescale.

    Raises
    ------
    IntensityError
        The frame has no Scale Slope, it is 0, or the private intercept contradicts the rescale, as
        after software that has scaled the stored values again; attribute `attribute`.
    """
    scale = facts.philips_scale_slope
    if scale is None or scale == 0:
        found = "absent or not a number" if scale is None else "0"
        raise IntensityError(
            f"no Philips values: {_SLOPE} is {found}; expected a number other than 0: "
            'read values="modality"',
            attribute=_SLOPE,
        )
    private = facts.philips_scale_intercept
    if facts.rescale_slope is None and facts.rescale_intercept is None:
        return Rescale(1 / scale, -(private or 0.0) / scale)
    slope = 1.0 if facts.rescale_slope is None else facts.rescale_slope
    displayed = Rescale(slope, facts.rescale_intercept or 0.0)
    offset = displayed.intercept / displayed.slope
    if private is not None and abs(private + offset) > _TOLERANCE + 1e-3 * abs(private):
        raise IntensityError(
            f"no Philips values: {_INTERCEPT} is {private:g}, and the rescale makes it "
            f"{-offset:g}; expected the same, so one of them is of other stored values: "
            'read values="modality"',
            attribute=_INTERCEPT,
        )
    return Rescale(1 / scale, offset / scale)
