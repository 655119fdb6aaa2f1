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
from dicomdl.errors import GeometryError, UsageError, missing_extra
from dicomdl.geometry.grid import Geometry
from dicomdl.geometry.verdict import READABLE
from dicomdl.headers.frame import Frame
from dicomdl.index.views import Stack
from dicomdl.values.auto import resolve
from dicomdl.values.conversion import suv_factor_of
from dicomdl.values.intensity import Intensity
from dicomdl.values.quantity import Quantity, RealWorld
from dicomdl.values.reading import spread_over
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.sampling import sample_of, sample_positions
from dicomdl.values.stack_intensity import SuvPolicy, checked_suv, kept_limits, stack_intensity
from dicomdl.values.suv import SUV, SuvKind
from dicomdl.values.windows import Percentile
from dicomdl.volumes.resampling import (
    Interpolation,
    axes_towards,
    carried,
    from_image,
    interpolate,
    new_grid,
    require_format,
    require_known,
    to_image,
    write_image,
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
        Kind of the values: "modality", an `SUV`, a `RealWorld`, or "network" after a window.

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

    def __post_init__(self) -> None:
        expected = (*((len(self.dimension),) if self.dimension else ()), *self.geometry.shape)
        if (
            tuple(self.array.shape[: len(expected)]) != expected
            or self.array.ndim > len(expected) + 1
        ):
            raise GeometryError(
                f"the array is {self.array.shape}, the grid is {expected}: "
                "pass `dimension` for an array with a leading axis",
                shape=self.array.shape,
                expected=expected,
            )
        filled = (
            np.array(self.filled, dtype=np.bool_)
            if len(self.filled)
            else np.zeros(self.geometry.shape[0], dtype=np.bool_)
        )
        if filled.shape != self.geometry.shape[:1]:
            raise GeometryError(
                f"`filled` is {filled.shape} for {self.geometry.shape[0]} slices",
                shape=filled.shape,
            )
        if self.padding is not None and self.padding.shape != expected:
            raise GeometryError(
                f"`padding` is {self.padding.shape}, the grid is {expected}",
                shape=self.padding.shape,
                expected=expected,
            )
        filled.flags.writeable = False
        object.__setattr__(self, "filled", filled)

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
    def series_instance_uid(self) -> str:
        """Series Instance UID, "" for a volume from elsewhere."""
        return self.frame.series_instance_uid if self.frame else ""

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID, "" for a volume from elsewhere."""
        return self.frame.study_instance_uid if self.frame else ""

    def __repr__(self) -> str:
        shape, spacing = (
            " x ".join(map(str, self.shape)),
            " x ".join(f"{s:.4g}" for s in self.spacing),
        )
        notes = [
            self.units,
            f"by {' and '.join(self.dimension_names) or 'nothing'}" if self.dimension else "",
            ""
            if self.verdict in ("", *READABLE)
            else f"was {self.verdict}"
            if self.filled.any()
            else self.verdict,
            f"{int(self.filled.sum())} slices filled" if self.filled.any() else "",
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
        stack = self.stack.group[t % len(self.dimension)] if self.stack is not None else None
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
        return dataclasses.replace(
            self, array=self._as(SUV(kind)), units=SUV(kind).units, quantity=SUV(kind)
        )

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
        recipe = self._recipe(IntensityRequest.parse(option), checked_suv(suv))
        array = self._as(recipe.quantity)
        if self.padding is not None and (lowest := recipe.floor(array.dtype)) is not None:
            array = np.where(self.padding, array.dtype.type(lowest), array)
        stays = recipe.is_identity
        units = self.units if stays and recipe.quantity == self.quantity else recipe.units
        return dataclasses.replace(
            self, array=recipe(array), units=units, quantity=recipe.quantity if stays else "network"
        )

    def _recipe(self, request: IntensityRequest, suv: SuvPolicy) -> Intensity:
        """Return the recipe of a request for these values, with percentiles computed.

        Percentiles of modality values come from the stack, others from the array.
        """
        if self.quantity == "modality" and self.stack is not None:
            whole = self.stack.group if self.dimension else self.stack
            return stack_intensity(whole, request, suv)
        recipe = resolve(request, self.frame)
        if self.quantity != "modality":
            recipe = self._for_quantity(request, recipe)
        if not recipe.needs_sample:
            return recipe
        if self.stack is not None and recipe.quantity != "network":
            percentile: Any = recipe.mapping
            limits = kept_limits(
                self.stack.group if self.dimension else self.stack, percentile, recipe.quantity
            )
            return dataclasses.replace(recipe, mapping=percentile.with_limits(*limits))
        return recipe.with_sample(self._sample())

    def _for_quantity(self, request: IntensityRequest, recipe: Intensity) -> Intensity:
        """Adapt a recipe to values that are not modality values.

        Raises a UsageError for a recipe that applies to modality values only.
        """
        # "auto" fits every kind of SUV
        if request.source == "auto" and isinstance(self.quantity, SUV):
            return dataclasses.replace(recipe, quantity=self.quantity)
        if request.needs_file and recipe.quantity != self.quantity:
            message = f"{request} is for modality values, and these are not"
            raise UsageError(f"{message}: name a (center, width), Limits or a Percentile")
        # a window by numbers takes the values as they are
        if recipe.quantity == "modality":
            return dataclasses.replace(recipe, quantity=self.quantity)
        return recipe

    def _as(self, quantity: Quantity) -> Values:
        """Return the values as another quantity: only modality values of PET convert, to SUV."""
        if quantity == self.quantity:
            return self.array
        if not isinstance(quantity, SUV) or self.quantity != "modality" or self.stack is None:
            wanted = "real_world" if isinstance(quantity, RealWorld) else "suv"
            raise UsageError(
                f"these values cannot be converted: read_volume(stack, values={wanted!r}) gives "
                "the quantity that was asked for"
            )
        factors = {
            suv_factor_of(stack, quantity)
            for stack in (self.stack.group if self.dimension else [self.stack])
        }
        if len(factors) > 1:
            raise UsageError(
                "the stacks of the group have different SUV factors: "
                "read_volume(group, values='suv') gives SUV"
            )
        return np.multiply(
            self.array,
            factors.pop(),
            out=np.empty(self.array.shape, np.float32),
            casting="same_kind",
        )

    def _sample(self) -> Values:
        """Take the sample of `stack_sample` from the array itself."""
        slices = sample_positions(self.geometry.shape[0])
        parts = []
        for values in (self.array, self.padding):
            if values is not None and self.dimension:
                values = values[sample_positions(len(values))][:, slices]
                values = values.reshape(-1, *values.shape[2:])
            elif values is not None:
                values = values[slices]
            parts.append(values)
        return sample_of(*parts)  # type: ignore[arg-type]

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
        require_known(self.geometry)
        require_known(geometry)
        if fill is None and self.stack is not None and self.stack.content == "segmentation":
            fill = 0
        array, padding = self.array, self.padding
        # Padding is not mixed into the image: its mask is interpolated by nearest neighbour.
        if padding is not None:
            array = spread_over(array, padding)
            nearest = interpolate(
                padding.view(np.uint8),
                self.geometry,
                geometry,
                "nearest",
                0,
                series=bool(self.dimension),
            )
            padding = nearest.astype(np.bool_)
        if fill is None and array.dtype.kind == "f":
            # real-world values are NaN where the mapping is undefined
            finite = array[np.isfinite(array)]
            fill = float(finite.min()) if finite.size else None
        array = interpolate(
            array, self.geometry, geometry, interpolation, fill, series=bool(self.dimension)
        )
        filled = carried(self.filled, self.geometry, geometry)
        return dataclasses.replace(
            self, array=array, geometry=geometry, filled=filled, padding=padding
        )

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
        require_known(self.geometry)
        order, flips = axes_towards(self.geometry, axes)
        lead = 1 if self.dimension else 0
        affine = np.array(self.affine)
        affine[:, :3] = affine[:, list(order)]
        shape = tuple(self.geometry.shape[axis] for axis in order)
        for axis in flips:
            affine[:, 3] += affine[:, axis] * (shape[axis] - 1)
            affine[:, axis] *= -1

        def turned(values: Values) -> Values:
            rest = range(lead + 3, values.ndim)
            values = values.transpose(*range(lead), *(lead + axis for axis in order), *rest)
            return np.ascontiguousarray(np.flip(values, tuple(lead + axis for axis in flips)))

        geometry = Geometry((shape[0], shape[1], shape[2]), affine)
        filled = carried(self.filled, self.geometry, geometry)
        padding = None if self.padding is None else turned(self.padding)
        return dataclasses.replace(
            self, array=turned(self.array), geometry=geometry, filled=filled, padding=padding
        )

    def to_sitk(self) -> Any:
        """Convert to a SimpleITK image: index order (column, row, slice), LPS mm.

        The volume of a group becomes an image of four dimensions. Its fourth coordinate counts
        0, 1, 2, ... and does not carry `dimension`.

        Raises
        ------
        GeometryError
            The position is unknown, or the grid is sheared, which an ITK image cannot express:
            `resample` first.
        """
        return to_image(self.array, self.geometry, series=bool(self.dimension))

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
        RAS for NIfTI. The volume of a group becomes one file of four dimensions, as in `to_sitk`;
        `dimension` is not stored.

        Parameters
        ----------
        path
            File name ending in .nii.gz, .nii, .nrrd, .nhdr, .mha or .mhd.

        Raises
        ------
        StorageError
            The format does not store a grid, or the file cannot be written.
        GeometryError
            As for `to_sitk`.
        """
        target = os.fspath(path)
        require_format(target)
        write_image(self.to_sitk(), target)

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
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise missing_extra("Volume.plot()", "matplotlib", "notebook") from None
        request = shown_intensity(self, intensity)
        shown = self if self.quantity == "network" else self.window(request, suv="if_possible")
        chosen = pictured(self, slices)
        columns = math.ceil(math.sqrt(len(chosen)))
        figure = plt.figure(
            figsize=(2.4 * columns, 2.4 * math.ceil(len(chosen) / columns)), layout="tight"
        )
        # A closed figure is shown once by a notebook, as the returned value, and pyplot drops it.
        plt.close(figure)
        for number, (title, index) in enumerate(chosen, 1):
            axes = figure.add_subplot(math.ceil(len(chosen) / columns), columns, number)
            aspect = (
                self.spacing[1] / self.spacing[2] if np.isfinite(self.spacing[1:]).all() else 1.0
            )
            axes.imshow(shown.array[index], cmap="gray", vmin=0, vmax=1, aspect=aspect)
            axes.set_title(title, fontsize=8)
            axes.axis("off")
        return figure


# --- pictures -------------------------------------------------------------------------------------


def _evenly_spaced(length: int, count: int) -> npt.NDArray[np.int64]:
    """Return at most `count` indices in [0, length), including the first and the last."""
    return np.unique(
        np.linspace(0, length - 1, max(1, min(count, length))).round().astype(np.int64)
    )


def pictured(volume: Volume, count: int) -> list[tuple[str, tuple[int, ...]]]:
    """Return (title, index into the array) of at most `count` slices that show a volume.

    They are spread over the slices, or, for a group, over the time points of the middle slice.
    """
    if not volume.dimension:
        return [(f"slice {z}", (z,)) for z in _evenly_spaced(len(volume.array), count).tolist()]
    middle = volume.geometry.shape[0] // 2
    return [
        (f"t {t}, slice {middle}", (t, middle))
        for t in _evenly_spaced(len(volume.array), count).tolist()
    ]


def shown_intensity(volume: Volume, intensity: IntensityOption) -> IntensityRequest:
    """Return the request for a picture.

    "auto" means percentiles for real-world values, for which no other rule exists.
    """
    request = IntensityRequest.parse(intensity)
    if request.source == "auto" and isinstance(volume.quantity, RealWorld):
        return IntensityRequest.parse(Percentile(0.5, 99.5))
    return request
