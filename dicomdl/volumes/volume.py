"""Volumes: values of a stack or a group in one array, with the grid that its voxels lie on.

A volume is immutable: each operation returns a new one. An array that an operation does not change
is shared, not copied. `geometry.regular` places slices that make no regular grid; `resampling`
interpolates on other grids.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Mask, Values
from dicomdl.errors import UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.geometry.verdict import READABLE
from dicomdl.headers.frame import Frame
from dicomdl.index.views import Stack
from dicomdl.values.quantity import Quantity
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.stack_intensity import SuvPolicy, checked_suv
from dicomdl.values.suv import SUV, SuvKind
from dicomdl.volumes._diffusion import gradient_files_of, gradients
from dicomdl.volumes._figures import figure_of, pictured, pyplot, shown_intensity
from dicomdl.volumes._regridding import Gridded, checked_filled, regridded, reoriented
from dicomdl.volumes._saving import save_image
from dicomdl.volumes._time_axis import step_of
from dicomdl.volumes._windowing import Measured, in_suv, windowed
from dicomdl.volumes.nifti import stem_of
from dicomdl.volumes.resampling import (
    Interpolation,
    from_image,
    new_grid,
    require_format,
    to_image,
)


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Values on a grid: an array and the positions of its voxels.

    Parameters
    ----------
    array
        Values, array[slice, row, column]; colour has a last axis of samples. The volume of a group
        has a leading axis: array[t, slice, row, column].
    geometry
        Shape and affine of the grid: ``affine @ [slice, row, column, 1]`` is the centre of a voxel
        in LPS mm.
    units
        Units of the values: "HU", "BQML", ...; "1" after a window; "" if unknown.
    frame
        Facts of the middle slice; for a group, of its first stack.
    stack
        Stack that was read; for a group, its first one. None for a volume from elsewhere.
    dimension
        Value per t of the attribute that distinguishes the stacks of a group (time points, echoes,
        b-values, ...), such as (4.9, 7.2); tuples if there are several `dimension_names`. () for a
        plain volume: this, not the number of axes, marks the volume of a group.
    dimension_names
        Names of the attributes behind `dimension`; () for a plain volume.
    filled
        (slices,) bool, read-only: True for slices that were interpolated between neighbours
        because no file holds them (``irregular="resample"``). Resampling carries it along.
    padding
        bool, of the shape of the array without samples: True for pixels outside the image (Pixel
        Padding Value). None without padding. `array` has the stored values there; `window`
        replaces them by the lowest value.
    quantity
        Kind of the values: "modality", "philips", an `SUV`, a `RealWorld`, or "network" after a
        window.
    stacks
        Stacks of a group that were read, one per t; () for others.

    Raises
    ------
    GeometryError
        The array, `filled` or `padding` does not have the shape of the grid.

    Examples
    --------
    >>> import numpy as np
    >>> from dicomdl import Geometry, Volume
    >>> affine = np.diag([5.0, 2.0, 2.0, 1.0])
    >>> volume = Volume(np.arange(24).reshape(2, 3, 4), Geometry((2, 3, 4), affine), "HU")
    >>> volume
    Volume(2 x 3 x 4 int64, 5 x 2 x 2 mm, HU)
    >>> volume.window((12, 24)).array.dtype
    dtype('float32')
    >>> volume.resample(size=(2, 6, 8)).spacing
    (5.0, 1.0, 1.0)
    """

    array: Values
    geometry: Geometry
    units: str = ""
    frame: Frame | None = None
    stack: Stack | None = None
    dimension: tuple[Any, ...] = ()
    dimension_names: tuple[str, ...] = ()
    filled: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    padding: Mask | None = None
    quantity: Quantity = "modality"
    stacks: tuple[Stack, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "filled", checked_filled(self._gridded()))

    @property
    def verdict(self) -> str:
        """Verdict on the stack that was read, "" for a volume from elsewhere.

        The affine is exact for "regular", "single" and "tilted", and an average for others.
        """
        return self.stack.verdict if self.stack is not None else ""

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """(4, 4) float64 from (slice, row, column, 1) to LPS mm, read-only."""
        return self.geometry.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing in mm."""
        return self.geometry.spacing

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.array.shape)

    @property
    def time_step_s(self) -> float:
        """Time between the volumes of a group, s; NaN without one, or where none is known."""
        return step_of(self.stacks, self.dimension_names, self.dimension)

    @property
    def b_values(self) -> npt.NDArray[np.float64]:
        """(t,) b-values of a group, s/mm^2; NaN where the header gives none. () without a group."""
        return gradients(self.stacks)[0]

    @property
    def b_vectors(self) -> npt.NDArray[np.float64]:
        """(t, 3) gradient directions in LPS, of length 1; 0 for none, NaN where unknown.

        They are those of the patient, so that no change of the grid concerns them.
        """
        return gradients(self.stacks)[1]

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID, "" for a volume from elsewhere."""
        return self.frame.series_instance_uid if self.frame else ""

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID, "" for a volume from elsewhere."""
        if self.stack is not None:
            return self.stack.study_instance_uid
        return self.frame.study_instance_uid if self.frame else ""

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing)
        verdict = "" if self.verdict in READABLE else self.verdict
        filled = int(self.filled.sum())
        notes = [
            self.units,
            f"by {' and '.join(self.dimension_names) or 'nothing'}" if self.dimension else "",
            f"was {verdict}" if verdict and filled else verdict,
            f"{filled} slices filled" if filled else "",
        ]
        parts = [f"{shape} {self.array.dtype}", f"{spacing} mm", *filter(None, notes)]
        return f"Volume({', '.join(parts)})"

    def at(self, t: int) -> "Volume":
        """Return one time point (echo, b-value, ...) of the volume of a group, as a plain volume.

        Parameters
        ----------
        t
            Index on the leading axis; negative counts from the end.

        Returns
        -------
        Volume
            The volume of the stack at `t`. Its array is a view.

        Raises
        ------
        UsageError
            `t` is out of range, or the volume has no leading axis.
        """
        if not -len(self.dimension) <= t < len(self.dimension):
            raise UsageError(
                f"t is {t}: this volume has {len(self.dimension) or 'no leading axis of'} "
                "time points",
                t=t,
            )
        stack = self.stacks[t] if self.stacks else None
        frame = stack.middle if stack is not None else self.frame
        padding = None if self.padding is None else self.padding[t]
        return dataclasses.replace(
            self,
            array=self.array[t],
            padding=padding,
            stack=stack,
            frame=frame,
            dimension=(),
            dimension_names=(),
            stacks=(),
        )

    def suv(self, kind: SuvKind = "bw") -> "Volume":
        """Convert PET to standardized uptake values, float32 in g/ml (cm2/ml for "bsa").

        Parameters
        ----------
        kind
            Normalization, as for `dicomdl.SUV`.

        Raises
        ------
        SUVError
            The header does not give SUV. Attribute `attribute` names the missing or contradictory
            DICOM attribute.
        UsageError
            The values are not modality values of a stack.
        """
        return self._with(in_suv(self._measured(), SUV(kind)))

    def window(
        self,
        intensity: IntensityOption | float = "auto",
        width: float | None = None,
        *,
        suv: SuvPolicy = "required",
    ) -> "Volume":
        """Map values for a network or for display: float32, mostly in [0, 1].

        Percentiles are those of the stack that was read, resampled or not. A group has one pair of
        limits for all its stacks (see `stack_sample`), so that time points stay comparable. Padding
        becomes the lowest value and does not count in percentiles.

        Parameters
        ----------
        intensity
            A rule for the mapping: "auto", a preset such as "ct.lung", (center, width), `Limits`,
            a `Percentile`, ...; or the center, with `width`.
        width
            Width of the window around a center: ``volume.window(-600, 1500)``.
        suv
            Policy of "auto" for PET without SUV in the header. "required": raise an SUVError.
            "if_possible": use percentiles.

        Raises
        ------
        SUVError
            "auto" needs SUV, and the header does not give them.
        UsageError
            The rule is unknown, or applies to modality values only and these are others.
        """
        option: Any = intensity if width is None else (intensity, width)
        request = IntensityRequest.parse(option)
        return self._with(windowed(self._measured(), request, checked_suv(suv)))

    def _measured(self) -> Measured:
        """Return the parts that the quantity concerns."""
        return Measured(
            array=self.array,
            units=self.units,
            quantity=self.quantity,
            padding=self.padding,
            frame=self.frame,
            stack=self.stack,
            is_series=bool(self.dimension),
            stacks=self.stacks,
        )

    def _with(self, measured: Measured) -> "Volume":
        """Return this volume with values of another quantity."""
        return dataclasses.replace(
            self, array=measured.array, units=measured.units, quantity=measured.quantity
        )

    def resample(
        self,
        spacing: Sequence[float] | float | None = None,
        *,
        size: Sequence[int] | None = None,
        interpolation: Interpolation = "linear",
        fill: float | None = None,
    ) -> "Volume":
        """Resample the same field of view on another orthogonal grid.

        The shear of a tilted volume is resampled away, so the new grid is orthogonal.

        Parameters
        ----------
        spacing
            (slice, row, column) in mm, or one number for all three.
        size
            (slices, rows, columns). Alone, it divides the field of view into that many voxels. With
            `spacing`, the grid has this size about the same centre, cropped or padded.
        interpolation
            "linear", "nearest" (for labels) or "cubic" (B-spline).
        fill
            Value outside the volume. The default is the smallest value, and 0 (background) for a
            segmentation.

        Raises
        ------
        GeometryError
            The position of the volume is unknown, or the new grid is impossible.
        UsageError
            `interpolation` is unknown, or `fill` does not fit the dtype.
        """
        return self.resample_to(
            new_grid(self.geometry, spacing, size), interpolation=interpolation, fill=fill
        )

    def resample_to(
        self,
        geometry: Geometry,
        *,
        interpolation: Interpolation = "linear",
        fill: float | None = None,
    ) -> "Volume":
        """Resample the volume on any other grid, which may be rotated or sheared against it.

        Parameters
        ----------
        geometry
            The new grid.
        interpolation, fill
            As for `resample`.

        Raises
        ------
        GeometryError
            The position of the volume or of the grid is unknown.
        UsageError
            As for `resample`.
        """
        if fill is None and self.stack is not None and self.stack.content == "segmentation":
            fill = 0
        return self._on(regridded(self._gridded(), geometry, interpolation, fill))

    def reorient(self, axes: str = "SPL") -> "Volume":
        """Permute and flip the axes so that indices ascend towards the named directions.

        No value is interpolated, and the affine stays exact, shear included. A leading axis of time
        points stays first.

        Parameters
        ----------
        axes
            One letter per axis, in the order of the array. "SPL" is slices to Superior, rows to
            Posterior, columns to Left: the order of an axial series. Oblique axes count as the
            nearest direction.

        Raises
        ------
        GeometryError
            The position of the volume is unknown.
        UsageError
            `axes` does not name one of each pair L/R, A/P, S/I.
        """
        return self._on(reoriented(self._gridded(), axes))

    def _gridded(self) -> Gridded:
        """Return the parts that depend on the grid."""
        return Gridded(
            self.array, self.geometry, self.filled, self.padding, times=len(self.dimension)
        )

    def _on(self, parts: Gridded) -> "Volume":
        """Return this volume with the parts of another grid."""
        return dataclasses.replace(
            self,
            array=parts.array,
            geometry=parts.geometry,
            filled=parts.filled,
            padding=parts.padding,
        )

    def to_sitk(self) -> Any:
        """Convert to a SimpleITK image: index order (column, row, slice), LPS mm.

        The volume of a group becomes an image of four dimensions. Its fourth coordinate is the time
        in s where `time_step_s` is known; else it counts 0, 1, 2, ...

        Raises
        ------
        GeometryError
            The position is unknown, or the grid is sheared, which an ITK image cannot express:
            `resample` first.
        """
        step = self.time_step_s
        return to_image(
            self.array,
            self.geometry,
            series=bool(self.dimension),
            step=1.0 if math.isnan(step) else step,
        )

    @classmethod
    def from_sitk(cls, image: Any, units: str = "") -> "Volume":
        """Copy a SimpleITK image into a volume.

        Parameters
        ----------
        image
            A SimpleITK image of three or four dimensions. Coordinates along the fourth become
            `dimension`, with the name "t".
        units
            Units of the values.

        Raises
        ------
        GeometryError
            The image has another number of dimensions, or its fourth is not separate from space.
        """
        array, geometry, times = from_image(image)
        return cls(array, geometry, units, dimension=times, dimension_names=("t",) if times else ())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the volume to a file in the format of its name.

        The file contains neither DICOM attributes nor identity. SimpleITK converts the affine to
        RAS for NIfTI. The volume of a group becomes one file of four dimensions, as in `to_sitk`.
        A NIfTI file without a known time step states 0 s. Diffusion gets files .bval and .bvec
        beside it, in the convention of FSL. Files appear complete, and replace others of the name.

        Parameters
        ----------
        path
            File name ending in .nii.gz, .nii, .nrrd, .nhdr, .mha or .mhd.

        Warns
        -----
        GradientWarning
            Directions of GE depend on a phase axis that the header does not state.

        Raises
        ------
        StorageError
            The format does not store a grid, or the file cannot be written.
        GeometryError
            As for `to_sitk`.
        """
        target = os.fspath(path)
        require_format(target)
        beside = gradient_files_of(self.stacks, self.geometry) if stem_of(target) else {}
        has_step = not self.dimension or not math.isnan(self.time_step_s)
        save_image(self.to_sitk(), target, has_step=has_step, beside=beside)

    def plot(self, intensity: IntensityOption = "auto", slices: int = 9) -> Any:
        """Plot evenly spaced slices in their true proportions; needs the extra `notebook`.

        For the volume of a group, the plot shows its middle slice at evenly spaced time points.

        Parameters
        ----------
        intensity
            As for `window`. Network values are shown as they are.
        slices
            Maximum number of slices.

        Returns
        -------
        matplotlib.figure.Figure
            The figure, not registered with pyplot.

        Raises
        ------
        MissingExtra
            matplotlib is not installed.
        """
        plt = pyplot()
        request = shown_intensity(self.quantity, intensity)
        shown = self if self.quantity == "network" else self.window(request, suv="if_possible")
        chosen = pictured(self.shape, slices, series=bool(self.dimension))
        return figure_of(plt, shown.array, chosen, self.spacing)
