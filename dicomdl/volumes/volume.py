"""A Stack or a Group of them as one array of modality values on a known grid: reading, windowing, resampling, other formats.

What a volume is and how it is read, windowed and looked at; where slices go that make no grid is decided by `regular`, the
work on other grids is done by `resampling`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from dicomdl.errors import (
    GeometryError,
    IncompleteGroup,
    IntensityError,
    IrregularStack,
    PixelError,
    StorageError,
    SUVError,
    UsageError,
    missing_extra,
)
from dicomdl.geometry.grid import Geometry, Tolerances
from dicomdl.geometry.regular import FILLABLE, is_worth_filling, regular_slices
from dicomdl.headers.frame import Frame, FrameSource
from dicomdl.index.index import Group, Stack
from dicomdl.pixels.read import Decoding
from dicomdl.storage import publishing as storage
from dicomdl.storage.system import available_cores
from dicomdl.values.intensity import (
    Identity,
    Intensity,
    IntensityOption,
    Percentile,
    Quantity,
    RealWorld,
    as_quantity,
    is_name_of_file,
    pet_without_suv,
    resolve,
    sample_positions,
    sample_stride,
)
from dicomdl.values.reading import Conversion, Mask, conversions, quantity_units, read_converted, spread_over, suv_factor_of
from dicomdl.values.suv import SUV, SuvKind
from dicomdl.volumes.resampling import (
    Interpolation,
    axes_towards,
    carried,
    exact_float,
    from_image,
    interpolate,
    new_grid,
    require_format,
    require_known,
    rounded,
    to_image,
    write_image,
)
from dicomdl.volumes.resampling import write_png as write_png

Values = npt.NDArray[Any]
Irregular = Literal["raise", "accept", "resample"]
SuvPolicy = Literal["required", "if_possible"]

POLICIES: Final[tuple[Irregular, ...]] = get_args(Irregular)
READABLE: Final = frozenset({"regular", "single", "tilted"})  # verdicts whose affine is exact
SUV_POLICIES: Final[tuple[SuvPolicy, ...]] = get_args(SuvPolicy)
_SAMPLE_RULE: Final = 2  # counts up when `sample_positions` or `sample_stride` change: kept limits are of one rule
_NO_FACTS: Final = Frame(path="", frame_number=1, byte_offset=0, byte_length=0, file_bytes=0, file_mtime_ns=-1)
_NOT_RESAMPLED: Final = {  # verdicts that no resampling can help, and what each means
    "duplicates": "nothing says which of the slices at one position is the right one",
    "no_geometry": "nothing says where its slices are",
}


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Values on a grid: `array[slice, row, column]` (colour: a last axis of samples) and where its voxels are.

    ``affine @ [slice, row, column, 1]`` is a voxel's centre in LPS mm. `units` are those of the values ("HU",
    "BQML", ...; "1" after a window; "" unknown). `frame` holds the facts of the stack's middle slice, `stack` is where
    the volume came from, None for one from elsewhere.

    A group of stacks (time points, echoes, b-values, ...) has one leading axis, `array[t, slice, row, column]`, and
    `dimension`, the value of what tells them apart for each t: (4.9, 7.2), or tuples of values where there are several
    `dimension_names`. Both are () for a plain volume: that, not the number of axes, tells the two apart. `stack` and `frame`
    are those of the first t; `at` gives one t alone.

    `filled` is (slices,) bool, read-only: True for slices with values that were interpolated between neighbours because no
    file holds them (``irregular="resample"``). It follows the volume onto other grids.

    `padding` is bool of the shape of the array without samples: True where the file says that there is no image (Pixel Padding
    Value), None where nowhere. `array` keeps what is stored there; `window` makes it the lowest value. `quantity` says what the
    values are: "modality" values, an `SUV`, a `RealWorld`, or "network" values that a window has made.
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
        if tuple(self.array.shape[: len(expected)]) != expected or self.array.ndim > len(expected) + 1:
            raise GeometryError(
                f"the array is {self.array.shape}, the grid is {expected}: pass `dimension` for an array with a leading axis",
                shape=self.array.shape,
                expected=expected,
            )
        filled = np.array(self.filled, dtype=np.bool_) if len(self.filled) else np.zeros(self.geometry.shape[0], dtype=np.bool_)
        if filled.shape != self.geometry.shape[:1]:
            raise GeometryError(f"`filled` is {filled.shape} for {self.geometry.shape[0]} slices", shape=filled.shape)
        if self.padding is not None and self.padding.shape != expected:
            raise GeometryError(f"`padding` is {self.padding.shape}, the grid is {expected}", shape=self.padding.shape, expected=expected)
        filled.flags.writeable = False
        object.__setattr__(self, "filled", filled)

    @property
    def verdict(self) -> str:
        """The verdict on the stack it came from, "" for a volume from elsewhere; see it before you trust the affine."""
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
        shape, spacing = " x ".join(map(str, self.shape)), " x ".join(f"{s:.4g}" for s in self.spacing)
        notes = [
            self.units,
            f"by {' and '.join(self.dimension_names) or 'nothing'}" if self.dimension else "",
            "" if self.verdict in ("", *READABLE) else f"was {self.verdict}" if self.filled.any() else self.verdict,
            f"{int(self.filled.sum())} slices filled" if self.filled.any() else "",
        ]
        return f"Volume({', '.join([f'{shape} {self.array.dtype}', f'{spacing} mm', *filter(None, notes)])})"

    def at(self, t: int) -> "Volume":
        """One time point (echo, b-value, ...) of a group's volume, as a plain volume of its own stack; its array is a view."""
        if not -len(self.dimension) <= t < len(self.dimension):
            raise UsageError(f"t is {t}: this volume has {len(self.dimension) or 'no leading axis of'} time points", t=t)
        stack = self.stack.group[t % len(self.dimension)] if self.stack is not None else None
        frame = stack.middle if stack is not None else self.frame
        padding = None if self.padding is None else self.padding[t]
        return dataclasses.replace(self, array=self.array[t], padding=padding, stack=stack, frame=frame, dimension=(), dimension_names=())

    def suv(self, kind: SuvKind = "bw") -> "Volume":
        """PET as standardized uptake values, float32 in g/ml (cm2/ml for "bsa"): see `dicomdl.SUV`.

        Raises
        ------
        SUVError
            The header does not give SUV; attribute `attribute` names what is missing or contradictory.
        UsageError
            The values are no modality values of a stack.
        """
        return dataclasses.replace(self, array=self._as(SUV(kind)), units=SUV(kind).units, quantity=SUV(kind))

    def window(self, intensity: IntensityOption | float = "auto", width: float | None = None, *, suv: SuvPolicy = "required") -> "Volume":
        """The volume with its values mapped for a network or an eye: float32, mostly in [0, 1].

        ``volume.window("ct.lung")``, ``volume.window(-600, 1500)``, ``volume.window(Percentile(1, 99))``; what
        `resolve` takes. Percentiles are those of the stack that the volume came from, resampled or not; a group has one pair
        of limits for all its stacks (see `stack_sample`), so that its time points stay comparable. Padding becomes the lowest value
        and takes no part in percentiles. "auto" makes PET SUV, and raises an SUVError where the header does not give them, unless
        ``suv="if_possible"``: percentiles then.
        """
        option: Any = intensity if width is None else (intensity, width)
        if self.frame is None and (option == "auto" or (isinstance(option, str) and is_name_of_file(option))):
            raise UsageError(f"a volume without DICOM facts has no {option!r} window: name a preset or a (center, width)")
        recipe = self._recipe(option, suv)
        array = self._as(recipe.quantity)
        if self.padding is not None and (lowest := recipe.floor(array.dtype)) is not None:
            array = np.where(self.padding, array.dtype.type(lowest), array)
        stays = isinstance(recipe.mapping, Identity) and not recipe.invert
        units = self.units if stays and recipe.quantity == self.quantity else recipe.units
        return dataclasses.replace(self, array=recipe(array), units=units, quantity=recipe.quantity if stays else "network")

    def _recipe(self, option: IntensityOption, suv: SuvPolicy) -> Intensity:
        """What an option means for these values, percentiles computed: of modality values by the stack, of others by their own."""
        if self.quantity == "modality" and self.stack is not None:
            return stack_intensity(self.stack.group if self.dimension else self.stack, option, suv)
        recipe = resolve(option, self.frame or _NO_FACTS)
        if option == "auto" and isinstance(self.quantity, SUV):
            recipe = dataclasses.replace(recipe, quantity=self.quantity)  # of whatever kind they are
        made_for_others = option == "auto" or (isinstance(option, str) and is_name_of_file(option))
        if self.quantity != "modality" and made_for_others and recipe.quantity != self.quantity:
            raise UsageError(f"{option!r} is for modality values, and these are not: name a (center, width), Limits or a Percentile")
        if self.quantity != "modality" and recipe.quantity == "modality":
            recipe = dataclasses.replace(recipe, quantity=self.quantity)  # a window by numbers takes them as they are
        if not recipe.needs_sample:
            return recipe
        if self.stack is not None and recipe.quantity != "network":
            percentile: Any = recipe.mapping
            limits = _kept_limits(self.stack.group if self.dimension else self.stack, percentile, recipe.quantity)
            return dataclasses.replace(recipe, mapping=percentile.with_limits(*limits))
        return recipe.with_sample(self._sample())

    def _as(self, quantity: Quantity) -> Values:
        """The values as another quantity, which only modality values of PET can become: SUV."""
        if quantity == self.quantity:
            return self.array
        if not isinstance(quantity, SUV) or self.quantity != "modality" or self.stack is None:
            wanted = "real_world" if isinstance(quantity, RealWorld) else "suv"
            raise UsageError(f"these values cannot become others: read_volume(stack, values={wanted!r}) gives them")
        factors = {suv_factor_of(stack, quantity) for stack in (self.stack.group if self.dimension else [self.stack])}
        if len(factors) > 1:
            raise UsageError("the stacks of the group have SUV factors of their own: read_volume(group, values='suv') gives SUV")
        return np.multiply(self.array, factors.pop(), out=np.empty(self.array.shape, np.float32), casting="same_kind")

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
        """The same field of view on another orthogonal grid; a sheared (tilted) volume loses its shear rightly.

        Parameters
        ----------
        spacing
            (slice, row, column) in mm, or one number for all three.
        size
            (slices, rows, columns). Alone, the field of view is divided into that many voxels; with `spacing`, the
            grid has this size about the same centre, cropped or padded.
        interpolation
            "linear", "nearest" (labels) or "cubic" (B-spline).
        fill
            The value outside of the volume; by default its smallest one, and background, 0, for a segmentation.

        Raises
        ------
        GeometryError
            The volume's position is not known, or the new grid is impossible.
        """
        return self.resample_to(new_grid(self.geometry, spacing, size), interpolation=interpolation, fill=fill)

    def resample_to(self, geometry: Geometry, *, interpolation: Interpolation = "linear", fill: float | None = None) -> "Volume":
        """The volume's values at the voxels of another grid, which may be rotated or sheared against it."""
        require_known(self.geometry)
        require_known(geometry)
        if fill is None and self.stack is not None and self.stack.content == "segmentation":
            fill = 0
        array, padding = self.array, self.padding
        if padding is not None:  # padding is not mixed with the image; the nearest voxel says where it is
            array = spread_over(array, padding)
            nearest = interpolate(padding.view(np.uint8), self.geometry, geometry, "nearest", 0, series=bool(self.dimension))
            padding = nearest.astype(np.bool_)
        if fill is None and array.dtype.kind == "f":
            finite = array[np.isfinite(array)]  # real-world values are NaN where they map nothing
            fill = float(finite.min()) if finite.size else None
        array = interpolate(array, self.geometry, geometry, interpolation, fill, series=bool(self.dimension))
        filled = carried(self.filled, self.geometry, geometry)
        return dataclasses.replace(self, array=array, geometry=geometry, filled=filled, padding=padding)

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
        return dataclasses.replace(self, array=turned(self.array), geometry=geometry, filled=filled, padding=padding)

    def to_sitk(self) -> Any:
        """The volume as a SimpleITK image (its index order is column, row, slice; its space is LPS, too).

        The volume of a group becomes an image of four dimensions; the fourth counts 0, 1, 2, ... and says nothing of time.

        Raises
        ------
        GeometryError
            The position is unknown, or the grid is sheared, which an ITK image cannot say: `resample` first.
        """
        return to_image(self.array, self.geometry, series=bool(self.dimension))

    @classmethod
    def from_sitk(cls, image: Any, units: str = "") -> "Volume":
        """A volume from a SimpleITK image of three dimensions, or of four (`dimension` then is the place along "t"); values are copied."""
        array, geometry, times = from_image(image)
        return cls(array, geometry, units, dimension=times, dimension_names=("t",) if times else ())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the volume to a file; the format follows the name: .nii.gz, .nii, .nrrd, .nhdr, .mha or .mhd.

        No DICOM attribute and no identity goes into the file. NIfTI's RAS affine is written by SimpleITK. The volume of a group
        becomes one file of four dimensions, as `to_sitk` gives it; `dimension` is not in it.
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
        shown = self if self.quantity == "network" else self.window(_shown(self, intensity), suv="if_possible")
        chosen = _pictured(self, slices)
        columns = math.ceil(math.sqrt(len(chosen)))
        figure = plt.figure(figsize=(2.4 * columns, 2.4 * math.ceil(len(chosen) / columns)), layout="tight")
        plt.close(figure)  # a notebook then shows what is returned, once, and pyplot keeps nothing
        for number, (title, place) in enumerate(chosen, 1):
            axes = figure.add_subplot(math.ceil(len(chosen) / columns), columns, number)
            aspect = self.spacing[1] / self.spacing[2] if np.isfinite(self.spacing[1:]).all() else 1.0
            axes.imshow(shown.array[place], cmap="gray", vmin=0, vmax=1, aspect=aspect)
            axes.set_title(title, fontsize=8)
            axes.axis("off")
        return figure


# --- reading ----------------------------------------------------------------------------------------------------------


def read_volume(
    stack: Stack | Group,
    *,
    values: str | SUV | RealWorld = "modality",
    irregular: Irregular = "raise",
    dtype: npt.DTypeLike | None = None,
    reduce: int = 0,
    threads: int | None = None,
    max_bytes: int | None = None,
) -> Volume:
    """Read a stack, or a group of them, as modality values (HU for CT) on its grid.

    Parameters
    ----------
    stack
        From ``index.stacks``; or a group from ``index.groups``, all of whose stacks become one array with a leading axis.
    values
        "modality": each slice by its own rescale or Modality LUT. "suv" or an `SUV`: PET as standardized uptake values. "real_world"
        or a `RealWorld`: stored values by the file's own Real World Value Mapping, NaN where it maps nothing.
    irregular
        What to do with a stack whose slices do not make a grid: "raise" an IrregularStack with the numbers; "accept"
        the slices as they lie (the affine then holds on average only, or is NaN without geometry); or "resample" onto a
        regular, orthogonal grid, filled slices being told in `Volume.filled`:

        - missing slices are interpolated between their neighbours, all others stay as they are;
        - uneven spacing becomes the median gap, from the first slice on (see `dicomdl.regular.regular_slices`), each slice
          interpolated between its two neighbours unless a file holds it;
        - a tilt, alone or besides, is resampled away (`Volume.resample`; outside of the old grid is the smallest value).

        Interpolation is linear and never reaches outside of the slices (within half a pixel of the edge of a tilted one, the edge
        is repeated). Segmentations take the nearest slice, and background where none is within half a slice: an empty frame
        may be left out of them. Slices that leave their line by more than 0.1 mm in their own plane, gaps so wide that most
        slices would be made up, repeated positions and stacks without geometry still raise.
    dtype
        int16, int32 or float32; by default int16 when all values fit exactly, else int32, else float32 (which every
        stack with a fractional slope or intercept gets). Interpolated integers are rounded. Colour stays uint8 (or uint16).
    reduce
        Halves rows and columns that often, as `read_frame` does: for overviews and training at low resolution. The first voxel's centre
        stays where it is. Slices stay; pixels beside padding are means of both.
    threads
        Threads that read and decode; by default one a core.
    max_bytes
        The most memory that compressed frames may become. By default 1 GiB, or a thousand times their bytes in the files if that is more.

    Returns
    -------
    Volume
        array (slice, row, column[, sample]), of a group (t, slice, row, column[, sample]) in one dtype, a new array
        that the caller owns.

    Raises
    ------
    IrregularStack
        The verdict is none that the policy allows; attributes `verdict` and `detail`.
    IncompleteGroup
        Stacks of the group lack slices that others have, whatever the policy; attribute `missing`.
    GeometryError
        The stacks of the group do not lie on one grid.
    PixelError
        A frame cannot be read; its file and frame number are noted. Never a volume with holes.
    TooLarge
        The values would take more memory than `max_bytes`.
    IntensityError
        A rescale that is no number, a table or map that cannot be used or is not there, or values that do not fit the `dtype` asked for.
    SUVError
        SUV are asked for and the header does not give them; attribute `attribute`.
    """
    if irregular not in POLICIES:
        raise UsageError(f"irregular={irregular!r}: expected one of {', '.join(map(repr, POLICIES))}")
    if not isinstance(stack, Stack | Group):
        raise UsageError(f"read_volume takes one of index.stacks or of index.groups, not a {type(stack).__name__}")
    group = stack if isinstance(stack, Group) else None
    stacks = [stack] if isinstance(stack, Stack) else list(stack)
    if group is not None:
        _require_complete(group, stacks)
    for each in stacks:
        _require_allowed(each, irregular)
    if len(stacks) > 1:
        _require_one_grid(stacks)
    first, quantity = stacks[0], as_quantity(values)
    sources, every = [s for each in stacks for s in each.sources], [c for each in stacks for c in conversions(each, quantity)]
    how = Decoding(
        reduce=reduce,
        threads=available_cores() if threads is None else threads,
        max_bytes=max_bytes,
    )
    array, padding = read_converted(sources, every, dtype=dtype, how=how, palettes=first.content == "image")
    geometry = first.geometry.halved(reduce) if reduce else first.geometry
    units = {quantity_units(each, quantity) for each in stacks}
    if len(units) > 1:
        raise IntensityError(f"the stacks of the group have {len(units)} units: read them one by one", units=sorted(units))
    if group is not None:
        array = array.reshape(len(group), first.slices, *array.shape[1:])
        padding = None if padding is None else padding.reshape(array.shape)
    volume = Volume(
        array,
        geometry,
        units.pop(),
        first.middle,
        first,
        group.dimension if group is not None else (),
        group.dimension_names if group is not None else (),
        padding=padding,
        quantity=quantity,
    )
    if irregular == "resample":  # stacks of a group lie alike, but one may be over the tolerance that the others just keep
        volume = _made_regular(volume, next((each for each in stacks if each.verdict in FILLABLE), first))
    return volume


def _require_allowed(stack: Stack, irregular: Irregular) -> None:
    """Raise the IrregularStack of a stack that the policy does not let become a volume."""
    verdict = stack.verdict
    if verdict in READABLE or irregular == "accept":
        return
    detail = stack.detail
    if irregular == "raise":
        helps = verdict in FILLABLE and "in_plane_error" not in detail and is_worth_filling(stack.slices, detail)
        remedy = "'resample' to put it on a regular grid, or " if helps else ""
        message = f"pass irregular={remedy}'accept' to take it as it lies"
    elif verdict not in FILLABLE:
        message = f"it cannot be resampled, for {_NOT_RESAMPLED[verdict]}; irregular='accept' takes it as it lies"
    elif "in_plane_error" in detail:
        message = f"it cannot be resampled, for its slices leave their line by {detail['in_plane_error']} mm in their own plane"
    elif not is_worth_filling(stack.slices, detail):
        message = "it cannot be resampled, for more slices would be made up than were read; irregular='accept' takes it as it lies"
    else:
        return
    numbers = ", ".join(f"{key} {value}" for key, value in detail.items())
    error = IrregularStack(f"the stack is {verdict} ({numbers}): {message}", verdict=verdict, detail=detail)
    error.add_note(f"series: {stack.series_instance_uid}")
    raise error


def _require_complete(group: Group, stacks: Sequence[Stack]) -> None:
    """Raise the IncompleteGroup of a group of which some stacks lack slices."""
    missing = group.missing or _lacking(stacks, group.dimension)
    if not missing:
        return
    short = [(t, value) for t, value in enumerate(group.dimension) if value in missing]
    told = "; ".join(f"t {t}{_number(value)} lacks {_listed(missing[value])}" for t, value in short[:3])
    more = f"; and {len(short) - 3} more" if len(short) > 3 else ""
    names, count = " and ".join(group.dimension_names), sum(map(len, missing.values()))
    message = f"{len(short)} of {len(stacks)} stacks by {names} lack {count} slices in all: {told}{more}. Read the stacks one by one"
    error = IncompleteGroup(message, missing=missing)
    error.add_note(f"series: {stacks[0].series_instance_uid}")
    raise error


def _number(value: Any) -> str:
    """A value of a dimension for a message, if it is a number: text of a header may say anything."""
    return f" ({value})" if isinstance(value, int | float) else ""


def _listed(slices: Sequence[int]) -> str:
    more = f", ... ({len(slices)} in all)" if len(slices) > 8 else ""
    return f"slice{'s' if len(slices) > 1 else ''} {', '.join(map(str, slices[:8]))}{more}"


def _lacking(stacks: Sequence[Stack], values: Sequence[Any]) -> dict[Any, list[int]]:
    """{value: the slices of the fullest stack that this value's stack lacks}, going by positions; by number where those are unknown."""
    fullest = max(stacks, key=len)
    if all(len(stack) == len(fullest) for stack in stacks):
        return {}
    every, missing = fullest.positions, {}
    for value, stack in zip(values, stacks, strict=True):
        if len(stack) < len(fullest):
            apart = np.abs(every[:, None] - stack.positions[None]).max(axis=2) > Tolerances().in_plane_mm
            lacks = np.flatnonzero(apart.all(axis=1)) if np.isfinite(every).all() else np.arange(len(stack), len(fullest))
            missing[value] = lacks.tolist()
    return missing


def _require_one_grid(stacks: Sequence[Stack]) -> None:
    """Raise a GeometryError unless all stacks have the shape, the corners and the positions of the first."""
    first, tolerance = stacks[0], Tolerances().in_plane_mm
    expected = _landmarks(first)
    for t, stack in enumerate(stacks[1:], 1):
        if stack.shape != first.shape:
            message = f"stack {t} of the group is {stack.shape}, the first one {first.shape}: they make no one array"
            raise GeometryError(message, t=t, shape=stack.shape, expected=first.shape)
        found = _landmarks(stack)
        if np.isfinite(found).all() != np.isfinite(expected).all():
            raise GeometryError(f"stack {t} of the group has a position and the first one none, or the other way round", t=t)
        error = float(np.abs(found - expected).max()) if np.isfinite(found).all() else 0.0
        if error > tolerance:
            message = f"stack {t} of the group lies {error:.3f} mm beside the first one, more than {tolerance} mm: they are not on one grid"
            raise GeometryError(message, t=t, error_mm=error)


def _landmarks(stack: Stack) -> npt.NDArray[np.float64]:
    """(points, 3) LPS mm: the corners of the first and the last slice, and where all slices are."""
    corners = np.array(list(itertools.product((0, 1), repeat=3))) * (np.array(stack.shape) - 1)
    return np.concatenate([stack.geometry.voxel_to_world(corners), stack.positions])


def _made_regular(volume: Volume, stack: Stack) -> Volume:
    """The slices of a stack, or of each of a group, on its regular, orthogonal grid."""
    nearest, is_tilted = stack.content == "segmentation", "tilt_deg" in stack.detail
    dtype = volume.array.dtype
    twice = is_tilted and stack.verdict in FILLABLE and dtype.kind != "f" and not nearest
    if twice:  # what is interpolated twice is rounded once
        volume = dataclasses.replace(volume, array=volume.array.astype(exact_float(dtype)))
    if stack.verdict in FILLABLE:
        grid = regular_slices(stack.positions, volume.geometry, stack.verdict, Tolerances())

        def on_grid(array: Values, values: Callable[[Values], Values]) -> Values:
            return np.stack([values(part) for part in array]) if volume.dimension else values(array)

        values = volume.array if volume.padding is None else spread_over(volume.array, volume.padding)
        array = on_grid(values, grid.labels if nearest else grid.values)
        padding = None if volume.padding is None else on_grid(volume.padding, grid.nearest)
        volume = dataclasses.replace(volume, array=array, geometry=grid.geometry, filled=grid.filled, padding=padding)
    if is_tilted:
        volume = volume.resample(interpolation="nearest" if nearest else "linear")
    return dataclasses.replace(volume, array=rounded(volume.array, dtype)) if twice else volume


# --- intensities of a stack -------------------------------------------------------------------------------------------


def stack_intensity(stack: Stack | Group, option: IntensityOption, suv: SuvPolicy = "required", max_bytes: int | None = None) -> Intensity:
    """What `option` means for a stack, percentiles computed: from its middle slice and its fixed sample.

    The limits of percentiles are kept in memory and in the cache folder, so that every worker of every run maps a
    value of this stack alike and reads the sample at most once. A group has limits of its own, the same for all its stacks.

    An SUVError where SUV are needed and the header does not give them; under "auto" with ``suv="if_possible"`` percentiles instead.
    """
    if suv not in SUV_POLICIES:
        raise UsageError(f"suv={suv!r}: expected one of {', '.join(map(repr, SUV_POLICIES))}")
    first = _first(stack)
    recipe = resolve(option, first.middle)
    if isinstance(recipe.quantity, SUV):
        try:
            for each in stack if isinstance(stack, Group) else [stack]:
                suv_factor_of(each, recipe.quantity)
        except SUVError as error:
            if option != "auto":
                raise
            if suv == "required":
                error.add_note('suv="if_possible" makes "auto" take percentiles where there is no SUV')
                raise
            recipe = pet_without_suv()
    recipe = with_units(recipe, first)
    if not recipe.needs_sample:
        return recipe
    percentile: Any = recipe.mapping
    lower, upper = _kept_limits(stack, percentile, recipe.quantity, max_bytes)
    return dataclasses.replace(recipe, mapping=percentile.with_limits(lower, upper))


def with_units(recipe: Intensity, stack: Stack, place: int | None = None) -> Intensity:
    """The recipe with the units of real-world values, which only their map knows."""
    if not (isinstance(recipe.quantity, RealWorld) and isinstance(recipe.mapping, Identity)):
        return recipe
    return dataclasses.replace(recipe, units=quantity_units(stack, recipe.quantity, place))


@functools.lru_cache(maxsize=1024)
def _kept_limits(stack: Stack | Group, percentile: Any, quantity: Quantity, max_bytes: int | None = None) -> tuple[float, float]:
    key = (_SAMPLE_RULE, _first(stack).key[1:], percentile, quantity, *(("group",) if isinstance(stack, Group) else ()))
    name = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
    try:
        path = os.path.join(storage.cache_folder("limits"), f"{name}.json")
        with open(path, "rb") as file:
            lower, upper = json.load(file)
        return float(lower), float(upper)
    except (OSError, ValueError, TypeError):  # StorageError among them: a cache that cannot be used costs time, not the epoch
        sample, is_whole = _sampled(stack, quantity, max_bytes)
        lower, upper = percentile.limits(sample)
        if not is_whole:  # a file may come back
            return lower, upper
    with contextlib.suppress(StorageError):
        storage.write_whole(os.path.join(storage.cache_folder("limits"), f"{name}.json"), json.dumps([lower, upper]).encode())
    return lower, upper


def stack_sample(stack: Stack | Group, quantity: Quantity = "modality", max_bytes: int | None = None) -> Values:
    """The fixed sample of a stack's values that percentiles are computed from (see `Percentile`), without padding.

    Slices that cannot be read are left out of it: reading them for themselves says so. That of a group pools the samples of at most 16
    of its stacks, evenly spaced, the first and the last among them.
    """
    return _sampled(stack, quantity, max_bytes)[0]


def _sampled(stack: Stack | Group, quantity: Quantity, max_bytes: int | None) -> tuple[Values, bool]:
    """The sample, and whether all of its slices could be read."""
    stacks = [stack[t] for t in sample_positions(len(stack)).tolist()] if isinstance(stack, Group) else [stack]
    sources: list[FrameSource] = []
    every: list[Conversion] = []
    for each in stacks:
        own = conversions(each, quantity)
        for place in sample_positions(each.slices).tolist():
            sources.append(each.source(place))
            every.append(own[place])
    how = Decoding(threads=available_cores(), max_bytes=max_bytes)
    palettes = _first(stack).content == "image"
    try:
        return sample_of(*read_converted(sources, every, how=how, palettes=palettes)), True
    except PixelError as error:  # one slice that cannot be read is the fault of its own sample, not of all
        parts = []
        for source, one in zip(sources, every, strict=True):
            with contextlib.suppress(PixelError):
                parts.append(sample_of(*read_converted([source], [one], how=how, palettes=palettes)).ravel())
        if not parts:
            raise error from None
        return np.concatenate(parts), False


def sample_of(frames: Values, padding: Mask | None) -> Values:
    """The sample that frames of a stack give, without padding; all of it where everything is padding: blank is to become blank."""
    values = _sparse(frames)
    kept = None if padding is None else ~_sparse(padding)
    return values if kept is None or not kept.any() else values[kept]


def _first(stack: Stack | Group) -> Stack:
    return stack[0] if isinstance(stack, Group) else stack


def _sparse(frames: Values) -> Values:
    """Every n-th row and column of frames, so many that they make a sample."""
    stride = sample_stride(frames.shape[1], frames.shape[2], len(frames))
    return frames[:, ::stride, ::stride]


# --- pictures ---------------------------------------------------------------------------------------------------------


def _evenly_spaced(length: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` places in [0, length), first and last among them."""
    return np.unique(np.linspace(0, length - 1, max(1, min(count, length))).round().astype(np.int64))


def _pictured(volume: Volume, count: int) -> list[tuple[str, tuple[int, ...]]]:
    """(title, place in the array) of at most `count` slices that show a volume: across it, or its middle one across time."""
    if not volume.dimension:
        return [(f"slice {z}", (z,)) for z in _evenly_spaced(len(volume.array), count).tolist()]
    middle = volume.geometry.shape[0] // 2
    return [(f"t {t}, slice {middle}", (t, middle)) for t in _evenly_spaced(len(volume.array), count).tolist()]


def _shown(volume: Volume, intensity: IntensityOption) -> IntensityOption:
    """What "auto" means for a picture: of real-world values, which no rule is made for, their percentiles."""
    return Percentile(0.5, 99.5) if intensity == "auto" and isinstance(volume.quantity, RealWorld) else intensity


def montage(volume: Volume, slices: int = 16, intensity: IntensityOption = "auto") -> npt.NDArray[np.uint8]:
    """Evenly spaced slices side by side as one grey (rows, columns) or RGB (rows, columns, 3) picture, uint8.

    The volume of a group shows its middle slice at evenly spaced time points.
    """
    values = volume.window(_shown(volume, intensity), suv="if_possible").array
    places = [place for _, place in _pictured(volume, slices)]
    across = math.ceil(math.sqrt(len(places)))
    down = math.ceil(len(places) / across)
    rows, columns, *samples = values[places[0]].shape
    sheet = np.zeros((down * rows, across * columns, *samples), dtype=np.uint8)
    for number, place in enumerate(places):
        top, left = divmod(number, across)
        tile = np.clip(values[place], 0, 1) * 255
        sheet[top * rows : (top + 1) * rows, left * columns : (left + 1) * columns] = np.rint(tile).astype(np.uint8)
    return sheet
