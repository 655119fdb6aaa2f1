"""volumes.read"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Values
from dicomdl.errors import (
    GeometryError,
    IncompleteGroup,
    IntensityError,
    IrregularStack,
    UsageError,
)
from dicomdl.geometry.regular import is_worth_filling, regular_slices
from dicomdl.geometry.verdict import FILLABLE, POLICIES, READABLE, Irregular
from dicomdl.index.views import Group, Stack
from dicomdl.pixels.options import Decoding
from dicomdl.storage.system import available_cores
from dicomdl.values.conversion import conversions, quantity_units
from dicomdl.values.quantity import RealWorld, as_quantity
from dicomdl.values.reading import read_converted, spread_over
from dicomdl.values.suv import SUV
from dicomdl.volumes.resampling import exact_float, rounded
from dicomdl.volumes.volume import Volume

_NOT_RESAMPLED: Final = {  # verdicts that no resampling can help, and what each means
    "duplicates": "nothing says which of the slices at one position is the right one",
    "no_geometry": "nothing says where its slices are",
}


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
        From ``index.stacks``; or a group from ``index.groups``, all of whose stacks become one
        array with a leading axis.
    values
        "modality": each slice by its own rescale or Modality LUT. "suv" or an `SUV`: PET as
        standardized uptake values. "real_world" or a `RealWorld`: stored values by the file's own
        Real World Value Mapping, NaN where it maps nothing.
    irregular
        What to do with a stack whose slices do not make a grid: "raise" an IrregularStack with the
        numbers; "accept" the slices as they lie (the affine then holds on average only, or is NaN
        without geometry); or "resample" onto a regular, orthogonal grid, filled slices being told
        in `Volume.filled`:

        - missing slices are interpolated between their neighbours, all others stay as they are;
        - uneven spacing becomes the median gap, from the first slice on (see `dicomdl.regular.regular_slices`), each slice
          interpolated between its two neighbours unless a file holds it;
        - a tilt, alone or besides, is resampled away (`Volume.resample`; outside of the old grid is the smallest value).

        Interpolation is linear and never reaches outside of the slices (within half a pixel of the
        edge of a tilted one, the edge is repeated). Segmentations take the nearest slice, and
        background where none is within half a slice: an empty frame may be left out of them. Slices
        that leave their line by more than 0.1 mm in their own plane, gaps so wide that most slices
        would be made up, repeated positions and stacks without geometry still raise.
    dtype
        int16, int32 or float32; by default int16 when all values fit exactly, else int32, else
        float32 (which every stack with a fractional slope or intercept gets). Interpolated integers
        are rounded. Colour stays uint8 (or uint16).
    reduce
        Halves rows and columns that often, as `read_frame` does: for overviews and training at low
        resolution. The first voxel's centre stays where it is. Slices stay; pixels beside padding
        are means of both.
    threads
        Threads that read and decode; by default one a core.
    max_bytes
        The most memory that compressed frames may become. By default 1 GiB, or a thousand times
        their bytes in the files if that is more.

    Returns
    -------
    Volume
        array (slice, row, column[, sample]), of a group (t, slice, row, column[, sample]) in one
        dtype, a new array that the caller owns.

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
        A rescale that is no number, a table or map that cannot be used or is not there, or values
        that do not fit the `dtype` asked for.
    SUVError
        SUV are asked for and the header does not give them; attribute `attribute`.
    """
    if irregular not in POLICIES:
        raise UsageError(
            f"irregular={irregular!r}: expected one of {', '.join(map(repr, POLICIES))}"
        )
    if not isinstance(stack, Stack | Group):
        raise UsageError(
            f"read_volume takes one of index.stacks or of index.groups, not a {type(stack).__name__}"
        )
    group = stack if isinstance(stack, Group) else None
    stacks = [stack] if isinstance(stack, Stack) else list(stack)
    if group is not None:
        _require_complete(group, stacks)
    for each in stacks:
        _require_allowed(each, irregular)
    if len(stacks) > 1:
        _require_one_grid(stacks)
    first, quantity = stacks[0], as_quantity(values)
    sources, every = (
        [s for each in stacks for s in each.sources],
        [c for each in stacks for c in conversions(each, quantity)],
    )
    how = Decoding(
        reduce=reduce,
        threads=available_cores() if threads is None else threads,
        max_bytes=max_bytes,
    )
    array, padding = read_converted(sources, every, dtype=dtype, how=how)
    geometry = first.geometry.halved(reduce) if reduce else first.geometry
    units = {quantity_units(each, quantity) for each in stacks}
    if len(units) > 1:
        raise IntensityError(
            f"the stacks of the group have {len(units)} units: read them one by one",
            units=sorted(units),
        )
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
    # stacks of a group lie alike, but one may be over the tolerance that the others just keep
    if irregular == "resample":
        volume = _made_regular(
            volume, next((each for each in stacks if each.verdict in FILLABLE), first)
        )
    return volume


def _require_allowed(stack: Stack, irregular: Irregular) -> None:
    """Raise the IrregularStack of a stack that the policy does not let become a volume."""
    verdict = stack.verdict
    if verdict in READABLE or irregular == "accept":
        return
    detail = stack.detail
    if irregular == "raise":
        helps = (
            verdict in FILLABLE
            and "in_plane_error" not in detail
            and is_worth_filling(stack.slices, detail)
        )
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
    error = IrregularStack(
        f"the stack is {verdict} ({numbers}): {message}", verdict=verdict, detail=detail
    )
    error.add_note(f"series: {stack.series_instance_uid}")
    raise error


def _require_complete(group: Group, stacks: Sequence[Stack]) -> None:
    """Raise the IncompleteGroup of a group of which some stacks lack slices."""
    missing = group.missing or _lacking(stacks, group.dimension)
    if not missing:
        return
    short = [(t, value) for t, value in enumerate(group.dimension) if value in missing]
    told = "; ".join(
        f"t {t}{_number(value)} lacks {_listed(missing[value])}" for t, value in short[:3]
    )
    more = f"; and {len(short) - 3} more" if len(short) > 3 else ""
    names, count = " and ".join(group.dimension_names), sum(map(len, missing.values()))
    message = f"{len(short)} of {len(stacks)} stacks by {names} lack {count} slices in all: {told}{more}. Read the stacks one by one"
    error = IncompleteGroup(message, missing=missing)
    error.add_note(f"series: {stacks[0].series_instance_uid}")
    raise error


def _number(value: Any) -> str:
    """A value of a dimension for a message, if it is a number.

    Text of a header may say anything.
    """
    return f" ({value})" if isinstance(value, int | float) else ""


def _listed(slices: Sequence[int]) -> str:
    more = f", ... ({len(slices)} in all)" if len(slices) > 8 else ""
    return f"slice{'s' if len(slices) > 1 else ''} {', '.join(map(str, slices[:8]))}{more}"


def _lacking(stacks: Sequence[Stack], values: Sequence[Any]) -> dict[Any, list[int]]:
    """{value: the slices of the fullest stack that this value's stack lacks}, going by positions.

    By number where those are unknown.
    """
    fullest = max(stacks, key=len)
    if all(len(stack) == len(fullest) for stack in stacks):
        return {}
    every, missing = fullest.positions, {}
    for value, stack in zip(values, stacks, strict=True):
        if len(stack) < len(fullest):
            apart = np.abs(every[:, None] - stack.positions[None]).max(axis=2) > _one_place_mm(
                stack
            )
            lacks = (
                np.flatnonzero(apart.all(axis=1))
                if np.isfinite(every).all()
                else np.arange(len(stack), len(fullest))
            )
            missing[value] = lacks.tolist()
    return missing


def _require_one_grid(stacks: Sequence[Stack]) -> None:
    """Raise a GeometryError unless all stacks have the shape, the corners and the positions of the first."""
    first, tolerance = stacks[0], _one_place_mm(stacks[0])
    expected = _landmarks(first)
    for t, stack in enumerate(stacks[1:], 1):
        if stack.shape != first.shape:
            message = f"stack {t} of the group is {stack.shape}, the first one {first.shape}: they make no one array"
            raise GeometryError(message, t=t, shape=stack.shape, expected=first.shape)
        found = _landmarks(stack)
        if np.isfinite(found).all() != np.isfinite(expected).all():
            raise GeometryError(
                f"stack {t} of the group has a position and the first one none, or the other way round",
                t=t,
            )
        error = float(np.abs(found - expected).max()) if np.isfinite(found).all() else 0.0
        if error > tolerance:
            message = f"stack {t} of the group lies {error:.3f} mm beside the first one, more than {tolerance} mm: they are not on one grid"
            raise GeometryError(message, t=t, error_mm=error)


def _one_place_mm(stack: Stack) -> float:
    """How far apart, in mm, the scan took two slices for one place.

    In their plane or along the normal.
    """
    return max(stack.tolerances.in_plane_mm, stack.tolerances.same_position_mm)


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
        grid = regular_slices(stack.positions, volume.geometry, stack.verdict, stack.tolerances)

        def on_grid(array: Values, values: Callable[[Values], Values]) -> Values:
            return np.stack([values(part) for part in array]) if volume.dimension else values(array)

        values = (
            volume.array if volume.padding is None else spread_over(volume.array, volume.padding)
        )
        array = on_grid(values, grid.labels if nearest else grid.values)
        padding = None if volume.padding is None else on_grid(volume.padding, grid.nearest)
        volume = dataclasses.replace(
            volume, array=array, geometry=grid.geometry, filled=grid.filled, padding=padding
        )
    if is_tilted:
        volume = volume.resample(interpolation="nearest" if nearest else "linear")
    return dataclasses.replace(volume, array=rounded(volume.array, dtype)) if twice else volume
