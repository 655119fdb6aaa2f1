"""Volumes: values of a stack or a group in one array, with the grid that its voxels lie on.

A volume is immutable: each operation returns a new one. An array that an operation does not change
is shared, not copied. `geometry.regular` places slices that make no regular grid; `resampling`
interpolates on other grids.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dicomdl.geometry.axes import Plane
from dicomdl.geometry.grid import Geometry
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.stack_intensity import SuvPolicy, checked_suv
from dicomdl.values.suv import SUV, SuvKind
from dicomdl.volumes._figures import figure_of
from dicomdl.volumes._loading import load_image
from dicomdl.volumes._overlay import labels_for
from dicomdl.volumes._parts import VolumeParts
from dicomdl.volumes._regridding import regridded, reoriented
from dicomdl.volumes._saving import saved
from dicomdl.volumes._shown import measured_of
from dicomdl.volumes._viewer import viewer_of
from dicomdl.volumes._windowing import Measured, in_suv, windowed
from dicomdl.volumes.interpolation import Resampling
from dicomdl.volumes.resampling import (
    Interpolation,
    from_image,
    new_grid,
    to_image,
)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Volume(VolumeParts):
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
        Units of the values, by the terms of DICOM: "HU", "BQML", "GML", ...; "1" after a window; ""
        if unknown. The repr of a volume and figures show them as "Bq/ml" and "g/ml".
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
        Kind of the values: "modality", "philips", an `SUV`, a `RealWorld`, "network" after a
        window, or "derived" for values of a caller (`like`).
    stacks
        Stacks of a group that were read, one per t; () for others.
    names
        {label: name} of labels (`read_labels`); {} for others.
    unlabelled
        bool, of the shape of the grid, for labels of `read_labels`: True where nobody annotated,
        so that the absence of a label says nothing (see `LabelSource`). Resampling carries it
        along, and voxels beyond the old grid are unlabelled. None for others.

    Methods
    -------
    window, suv
        Values for a network or for display; SUV of PET.
    resample, resample_to, reorient, crop
        The volume on another grid.
    at, like
        One time point of a group; other values on this grid, such as a prediction.
    save, load, to_sitk, from_sitk
        NIfTI, NRRD, MetaImage and SimpleITK.
    plot, view
        Pictures, and a viewer for notebooks.

    Raises
    ------
    GeometryError
        The array, `filled`, `padding` or `unlabelled` does not have the shape of the grid.

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
    >>> volume.crop(rows=(1, 3)).origin, volume.crop(mask=volume.array > 20).shape
    ((0.0, 2.0, 0.0), (1, 1, 3))
    >>> volume.like(volume.array > 20)
    Volume(2 x 3 x 4 bool, 5 x 2 x 2 mm)
    """

    def suv(self, kind: SuvKind = "bw") -> "Volume":
        """Convert PET to standardized uptake values, float32 in g/ml (cm2/ml for "bsa").

        Parameters
        ----------
        kind
            Normalization, as for `dicomdl.SUV`.

        Returns
        -------
        Volume
            The values on the same grid.

        Raises
        ------
        SUVError
            The header does not give SUV. Attribute `attribute` names the missing or contradictory
            DICOM attribute.
        UsageError
            The values are not modality values of a stack.
        """
        return self._with(in_suv(measured_of(self), SUV(kind)))

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
            a `Percentile`, a `ZScore`, a chain, ...; or the center, with `width`.
        width
            Width of the window around a center: ``volume.window(-600, 1500)``.
        suv
            Policy of "auto" for PET without SUV in the header. "required": raise an SUVError.
            "if_possible": use percentiles.

        Returns
        -------
        Volume
            Network values on the same grid, with the units "1".

        Raises
        ------
        SUVError
            "auto" needs SUV, and the header does not give them.
        UsageError
            The rule is unknown, or applies to modality values only and these are others.
        """
        option: Any = intensity if width is None else (intensity, width)
        request = IntensityRequest.parse(option)
        return self._with(windowed(measured_of(self), request, checked_suv(suv)))

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
        antialias: bool = True,
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
            "linear", "nearest" (for labels), "cubic" (B-spline), or "thick_slices": as "linear",
            but the nearest slice is taken along an axis whose spacing is more than 3 times the
            smallest one, in the volume or else in the new grid. That is nnU-Net's rule for
            anisotropic images. Grids that are oblique to each other are interpolated linearly.
        fill
            Value outside the volume. The default is the smallest value, and 0 (background) for a
            segmentation.
        antialias
            Whether linear interpolation averages all voxels along axes that shrink, by a triangle
            as wide as two new voxels (as torch and Pillow do). False takes the two nearest voxels,
            as SimpleITK, MONAI and TorchIO do; the others alias fine detail into noise.

        Returns
        -------
        Volume
            The values on the new grid.

        Raises
        ------
        GeometryError
            The position of the volume is unknown, or the new grid is impossible.
        UsageError
            `interpolation` is unknown, or `fill` does not fit the dtype.
        """
        return self.resample_to(
            new_grid(self.geometry, spacing, size),
            interpolation=interpolation,
            fill=fill,
            antialias=antialias,
        )

    def resample_to(
        self,
        geometry: Geometry,
        *,
        interpolation: Interpolation = "linear",
        fill: float | None = None,
        antialias: bool = True,
    ) -> "Volume":
        """Resample the volume on any other grid, which may be rotated or sheared against it.

        Parameters
        ----------
        geometry
            The new grid.
        interpolation, fill, antialias
            As for `resample`.

        Returns
        -------
        Volume
            The values on the new grid.

        Raises
        ------
        GeometryError
            The position of the volume or of the grid is unknown.
        UsageError
            As for `resample`.
        """
        if fill is None and self.stack is not None and self.stack.content == "segmentation":
            fill = 0
        how = Resampling(interpolation, antialias)
        return self._on(regridded(self._gridded(), geometry, how, fill))

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

        Returns
        -------
        Volume
            The same values in another order.

        Raises
        ------
        GeometryError
            The position of the volume is unknown.
        UsageError
            `axes` does not name one of each pair L/R, A/P, S/I.
        """
        return self._on(reoriented(self._gridded(), axes))

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

        Returns
        -------
        Volume
            A copy, without facts of DICOM.

        Raises
        ------
        GeometryError
            The image has another number of dimensions, or its fourth is not separate from space.
        """
        array, geometry, times = from_image(image)
        return cls(array, geometry, units, dimension=times, dimension_names=("t",) if times else ())

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the volume to a file in the format of its name, and return the path.

        The file contains neither DICOM attributes nor identity, but the units of the values. NIfTI
        has the affine in RAS, in its sform, where a tilt stays exact; the qform of a tilted volume
        has code 0. The volume of a group becomes one file of four dimensions, as in `to_sitk`. A
        NIfTI file without a known time step states 0 s. Diffusion gets files .bval and .bvec beside
        it, in the convention of FSL. bool is saved as uint8. Files appear complete, and replace
        others of the name; only their owner may read them (mode 0600).

        Parameters
        ----------
        path
            File name ending in .nii.gz, .nii, .nrrd, .nhdr, .mha or .mhd.

        Returns
        -------
        str
            The path, which `load` takes.

        Warns
        -----
        GradientWarning
            Directions of GE depend on a phase axis that the header does not state.

        Raises
        ------
        StorageError
            The format does not store a grid, or the file cannot be written.
        GeometryError
            The position is unknown, or a tilted volume is saved in another format than NIfTI.
        """
        return saved(self, os.fspath(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Volume":
        """Read a volume from a file of NIfTI, NRRD or MetaImage; its affine may have a shear.

        The array, its type, the affine and the units are those that `save` wrote, within the
        precision of the format: NIfTI has the affine in float32, and no bool. A fourth dimension
        becomes the leading axis, with the name "time_s" of its `dimension` where the file states a
        time step, else "t". Scaled values of NIfTI become float32.

        Parameters
        ----------
        path
            File name ending in .nii.gz, .nii, .nrrd, .nhdr, .mha or .mhd.

        Returns
        -------
        Volume
            A volume without facts of DICOM. Its affine is NaN if a NIfTI file states none.

        Raises
        ------
        StorageError
            The file is absent, damaged or of another format.
        GeometryError
            The file has no three or four dimensions.
        """
        loaded = load_image(os.fspath(path))
        return cls(
            loaded.array,
            loaded.geometry,
            loaded.units,
            dimension=loaded.times,
            dimension_names=loaded.names,
        )

    def plot(
        self,
        intensity: IntensityOption = "auto",
        *,
        plane: Plane | None = None,
        slices: int | Sequence[int] | None = None,
        labels: Any = None,
    ) -> Any:
        """Plot the three planes through the middle, or a montage; needs the extra `notebook`.

        Lengths and angles are true in mm, also for a tilted stack. Directions count as the nearest
        one of the patient: rows of an axial picture lead to Posterior, columns to Left. Without
        orientation, the slices are shown as they are stored. The title has the Series, the window
        and its units.

        Parameters
        ----------
        intensity
            As for `window`. Network values are shown as they are, and PET without SUV, or values
            without a rule, by percentiles.
        plane
            "axial", "coronal" or "sagittal": only this plane.
        slices
            Largest number of evenly spaced pictures of a montage, along `plane` or else along the
            slices. For the volume of a group: at evenly spaced time points, of the middle plane.
            Or a list of numbers: these slices, at the middle time point; negative numbers count
            from the end.
        labels
            Labels to draw over the pictures, with a legend. An array, a tensor or a `Volume` on
            this grid: bool, or integers with 0 for background; or the masks of ``read_labels(...,
            channels=True)``, which may overlap. Or what datasets take as `labels=`, to be read for
            the stack of the volume: "SEG", "RTSTRUCT", a path or pattern, one of
            ``stack.annotations``, a `LabelSource`, or a function of the stack. The planes go
            through the most of the labels, not the middle.

        Returns
        -------
        matplotlib.figure.Figure
            The current figure of pyplot: ``plt.savefig`` and ``plt.show`` take it.

        Raises
        ------
        GeometryError
            The labels lie on another grid, or the volume has no such plane.
        AnnotationError
            The stack has no such labels.
        MissingExtra
            matplotlib is not installed.
        UsageError
            The rule, the plane, a slice or the labels are none.
        """
        return figure_of(self, intensity, self._drawn(labels), plane, slices)

    def view(self, intensity: IntensityOption = "auto", *, labels: Any = None) -> Any:
        """Show one plane at a time in a notebook, with sliders; needs the extra `notebook`.

        Parameters
        ----------
        intensity
            As for `window`.
        labels
            As for `plot`.

        Returns
        -------
        ipywidgets.Widget
            The plane and the controls: the slice, the plane, and the time point of a group.

        Raises
        ------
        MissingExtra
            ipywidgets or matplotlib is not installed.
        """
        return viewer_of(self, intensity, self._drawn(labels))

    def _drawn(self, labels: Any) -> Any:
        """Return labels to draw; those of a source are read for the stack, on this grid."""
        found = labels_for(self.stack, labels)
        if found is labels or self.stack is None or self.geometry == self.stack.geometry:
            return found
        return found.resample_to(self.geometry, interpolation="nearest", fill=0)
