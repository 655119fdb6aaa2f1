"""A Stack or a Group of them as one array of modality values on a known grid.

Reading, windowing, resampling, other formats.

What a volume is and how it is read, windowed and looked at; where slices go that make no grid is
decided by `regular`, the work on other grids is done by `resampling`.
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
from dicomdl.values.maps import Percentile
from dicomdl.values.quantity import Quantity, RealWorld
from dicomdl.values.reading import spread_over
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.sampling import sample_of, sample_positions
from dicomdl.values.stack_intensity import SuvPolicy, checked_suv, kept_limits, stack_intensity
from dicomdl.values.suv import SUV, SuvKind
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
    """Values on a grid: `array[slice, row, column]` (colour.

    A last axis of samples) and where its voxels are.

    ``affine @ [slice, row, column, 1]`` is a voxel's centre in LPS mm. `units` are those of the
    values ("HU", "BQML", ...; "1" after a window; "" unknown). `frame` holds the facts of the
    stack's middle slice, `stack` is where the volume came from, None for one from elsewhere.

    A group of stacks (time points, echoes, b-values, ...) has one leading axis, `array[t, slice,
    row, column]`, and `dimension`, the value of what tells them apart for each t: (4.9, 7.2), or
    tuples of values where there are several `dimension_names`. Both are () for a plain volume:
    that, not the number of axes, tells the two apart. `stack` and `frame` are those of the first t;
    `at` gives one t alone.

    `filled` is (slices,) bool, read-only: True for slices with values that were interpolated
    between neighbours because no file holds them (``irregular="resample"``). It follows the volume
    onto other grids.

    `padding` is bool of the shape of the array without samples: True where the file says that there
    is no image (Pixel Padding Value), None where nowhere. `array` keeps what is stored there;
    `window` makes it the lowest value. `quantity` says what the values are: "modality" values, an
    `SUV`, a `RealWorld`, or "network" values that a window has made.
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
                f"the array is {self.array.shape}, the grid is {expected}: pass `dimension` for an array with a leading axis",
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
        """The verdict on the stack it came from, "" for a volume from elsewhere.

        See it before you trust the affine.
        """
        return self.stack.verdict if self.stack is not None else ""

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """(4, 4) from (slice, row, column, 1) to LPS mm, read-only."""
        return self.geometry.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing in mm."""
        return self.geometry.spacing

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(self.array.shape)

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID, "" when the volume came from elsewhere."""
        return self.frame.series_instance_uid if self.frame else ""

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID, "" when the volume came from elsewhere."""
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
        return f"Volume({', '.join([f'{shape} {self.array.dtype}', f'{spacing} mm', *filter(None, notes)])})"

    def at(self, t: int) -> "Volume":
        """One time point (echo, b-value, ...) of a group's volume, as a plain volume of its own stack; its array is a view."""
        if not -len(self.dimension) <= t < len(self.dimension):
            raise UsageError(
                f"t is {t}: this volume has {len(self.dimension) or 'no leading axis of'} time points",
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
        """PET as standardized uptake values, float32 in g/ml (cm2/ml for "bsa"): see `dicomdl.SUV`.

        Raises
        ------
        SUVError
            The header does not give SUV; attribute `attribute` names what is missing or
            contradictory.
        UsageError
            The values are no modality values of a stack.
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
        """The volume with its values mapped for a network or an eye: float32, mostly in [0, 1].

        ``volume.window("ct.lung")``, ``volume.window(-600, 1500)``, ``volume.window(Percentile(1,
        99))``; what `resolve` takes. Percentiles are those of the stack that the volume came from,
        resampled or not; a group has one pair of limits for all its stacks (see `stack_sample`), so
        that its time points stay comparable. Padding becomes the lowest value and takes no part in
        percentiles. "auto" makes PET SUV, and raises an SUVError where the header does not give
        them, unless ``suv="if_possible"``: percentiles then.
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
        """What a request means for these values, percentiles computed.

        Of modality values by the stack, of others by their own.
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
        """The recipe for values that are no modality values.

        UsageError where it is for those alone.
        """
        if request.source == "auto" and isinstance(self.quantity, SUV):  # of whatever kind
            return dataclasses.replace(recipe, quantity=self.quantity)
        if request.needs_file and recipe.quantity != self.quantity:
            message = f"{request} is for modality values, and these are not"
            raise UsageError(f"{message}: name a (center, width), Limits or a Percentile")
        if recipe.quantity == "modality":  # a window by numbers takes values as they are
            return dataclasses.replace(recipe, quantity=self.quantity)
        return recipe

    def _as(self, quantity: Quantity) -> Values:
        """The values as another quantity, which only modality values of PET can become: SUV."""
        if quantity == self.quantity:
            return self.array
        if not isinstance(quantity, SUV) or self.quantity != "modality" or self.stack is None:
            wanted = "real_world" if isinstance(quantity, RealWorld) else "suv"
            raise UsageError(
                f"these values cannot become others: read_volume(stack, values={wanted!r}) gives them"
            )
        factors = {
            suv_factor_of(stack, quantity)
            for stack in (self.stack.group if self.dimension else [self.stack])
        }
        if len(factors) > 1:
            raise UsageError(
                "the stacks of the group have SUV factors of their own: read_volume(group, values='suv') gives SUV"
            )
        return np.multiply(
            self.array,
            factors.pop(),
            out=np.empty(self.array.shape, np.float32),
            casting="same_kind",
        )

    def _sample(self) -> Values:
        """What `stack_sample` would take, out of the array itself."""
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
        """The same field of view on another orthogonal grid.

        A sheared (tilted) volume loses its shear rightly.

        Parameters
        ----------
        spacing
            (slice, row, column) in mm, or one number for all three.
        size
            (slices, rows, columns). Alone, the field of view is divided into that many voxels; with
            `spacing`, the grid has this size about the same centre, cropped or padded.
        interpolation
            "linear", "nearest" (labels) or "cubic" (B-spline).
        fill
            The value outside of the volume; by default its smallest one, and background, 0, for a
            segmentation.

        Raises
        ------
        GeometryError
            The volume's position is not known, or the new grid is impossible.
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
        """The volume's values at the voxels of another grid, which may be rotated or sheared against it."""
        require_known(self.geometry)
        require_known(geometry)
        if fill is None and self.stack is not None and self.stack.content == "segmentation":
            fill = 0
        array, padding = self.array, self.padding
        # padding is not mixed with the image; the nearest voxel says where it is
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
            finite = array[np.isfinite(array)]  # real-world values are NaN where they map nothing
            fill = float(finite.min()) if finite.size else None
        array = interpolate(
            array, self.geometry, geometry, interpolation, fill, series=bool(self.dimension)
        )
        filled = carried(self.filled, self.geometry, geometry)
        return dataclasses.replace(
            self, array=array, geometry=geometry, filled=filled, padding=padding
        )

    def reorient(self, axes: str = "SPL") -> "Volume":
        """The volume with its axes permuted and flipped so that their indices ascend towards the directions named.

        One letter an axis, in the order of the array: "SPL" is slices to Superior, rows to Posterior, columns to
        Left, the order of an axial series. Oblique axes go to the nearest direction; no value is interpolated and
        the affine, shear included, stays exact. A leading axis of time points stays where it is.
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
        """The volume as a SimpleITK image (its index order is column, row, slice.

        Its space is LPS, too).

        The volume of a group becomes an image of four dimensions; the fourth counts 0, 1, 2, ...
        and says nothing of time.

        Raises
        ------
        GeometryError
            The position is unknown, or the grid is sheared, which an ITK image cannot say:
            `resample` first.
        """
        return to_image(self.array, self.geometry, series=bool(self.dimension))

    @classmethod
    def from_sitk(cls, image: Any, units: str = "") -> "Volume":
        """A volume from a SimpleITK image of three dimensions, or of four (`dimension` then is the place along "t"); values are copied."""
        array, geometry, times = from_image(image)
        return cls(array, geometry, units, dimension=times, dimension_names=("t",) if times else ())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the volume to a file; the format follows the name.

        .nii.gz, .nii, .nrrd, .nhdr, .mha or .mhd.

        No DICOM attribute and no identity goes into the file. NIfTI's RAS affine is written by
        SimpleITK. The volume of a group becomes one file of four dimensions, as `to_sitk` gives it;
        `dimension` is not in it.
        """
        target = os.fspath(path)
        require_format(target)
        write_image(self.to_sitk(), target)

    def plot(self, intensity: IntensityOption = "auto", slices: int = 9) -> Any:
        """A matplotlib figure of evenly spaced slices in their true proportions (needs the extra `notebook`).

        The volume of a group shows its middle slice at evenly spaced time points.
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
        plt.close(figure)  # a notebook then shows what is returned, once, and pyplot keeps nothing
        for number, (title, place) in enumerate(chosen, 1):
            axes = figure.add_subplot(math.ceil(len(chosen) / columns), columns, number)
            aspect = (
                self.spacing[1] / self.spacing[2] if np.isfinite(self.spacing[1:]).all() else 1.0
            )
            axes.imshow(shown.array[place], cmap="gray", vmin=0, vmax=1, aspect=aspect)
            axes.set_title(title, fontsize=8)
            axes.axis("off")
        return figure


# --- pictures -------------------------------------------------------------------------------------


def _evenly_spaced(length: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` places in [0, length), first and last among them."""
    return np.unique(
        np.linspace(0, length - 1, max(1, min(count, length))).round().astype(np.int64)
    )


def pictured(volume: Volume, count: int) -> list[tuple[str, tuple[int, ...]]]:
    """(title, place in the array) of at most `count` slices that show a volume.

    Across it, or its middle one across time.
    """
    if not volume.dimension:
        return [(f"slice {z}", (z,)) for z in _evenly_spaced(len(volume.array), count).tolist()]
    middle = volume.geometry.shape[0] // 2
    return [
        (f"t {t}, slice {middle}", (t, middle))
        for t in _evenly_spaced(len(volume.array), count).tolist()
    ]


def shown_intensity(volume: Volume, intensity: IntensityOption) -> IntensityRequest:
    """The request for a picture.

    "auto" takes percentiles of real-world values, which no rule is for.
    """
    request = IntensityRequest.parse(intensity)
    if request.source == "auto" and isinstance(volume.quantity, RealWorld):
        return IntensityRequest.parse(Percentile(0.5, 99.5))
    return request
