"""Volumes read from stacks and groups, and the policy for stacks whose slices make no grid.

A stack becomes a volume only if its verdict allows it, or if the caller names a policy
(`irregular`). A volume never has holes: a frame that cannot be read raises.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
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
from dicomdl.geometry.grid import Geometry
from dicomdl.geometry.one_position import assumed_affine
from dicomdl.geometry.regular import is_worth_filling, regular_slices
from dicomdl.geometry.verdict import FILLABLE, POLICIES, READABLE, Irregular
from dicomdl.index.check import reason_of
from dicomdl.index.views import Group, Stack
from dicomdl.pixels.isolation import IsolationOption, as_isolation
from dicomdl.pixels.options import Decoding
from dicomdl.storage.system import available_cores
from dicomdl.values.bit_masks import BitMask
from dicomdl.values.quantity import RealWorld, as_quantity
from dicomdl.values.reading import read_converted, spread_over
from dicomdl.values.suv import SUV
from dicomdl.volumes._facts import keep_bits
from dicomdl.volumes._plain_volumes import read_plain_volume
from dicomdl.volumes._reversed_rows import ReversedRows as ReversedRows
from dicomdl.volumes._reversed_rows import turn_rows
from dicomdl.volumes.blocks import StackVoxels, voxels_of
from dicomdl.volumes.resampling import exact_float, rounded
from dicomdl.volumes.volume import Volume

# Verdicts that resampling cannot cure, with the reason.
_NOT_RESAMPLED: Final = {
    "duplicates": "nothing says which of the slices at one position is the right one",
    "no_geometry": "nothing says where its slices are",
}


def read_volume(
    stack: Stack | Group,
    *,
    values: str | SUV | RealWorld = "modality",
    irregular: Irregular = "raise",
    reversed_rows: ReversedRows = "accept",
    dtype: npt.DTypeLike | None = None,
    reduce: int = 0,
    threads: int | None = None,
    max_bytes: int | None = None,
    isolation: IsolationOption = "auto",
) -> Volume:
    """Read a stack or a group as a volume on its grid: `jobs.reading.read_volume` documents it."""
    stacks = require_volume(stack, irregular)
    group = stack if isinstance(stack, Group) else None
    first, quantity = stacks[0], as_quantity(values)
    how = Decoding(
        reduce=reduce,
        threads=available_cores() if threads is None else threads,
        max_bytes=max_bytes,
        isolation=as_isolation(isolation),
    )
    readers = [voxels_of(each, quantity) for each in stacks]
    array, mask = read_plain_volume(readers, dtype, how) or read_converted(
        [source for each in stacks for source in each.sources],
        [conversion for each in readers for conversion in each.conversions],
        dtype=dtype,
        how=how,
    )
    if isinstance(mask, BitMask) and reversed_rows != "accept":
        mask = mask.unpacked()
    padding = None if isinstance(mask, BitMask) else mask
    turn_rows(array, padding, stacks, reversed_rows, reduce)
    geometry = _geometry(readers[0])
    geometry = geometry.halved(reduce) if reduce else geometry
    units = {each.units for each in readers}
    if len(units) > 1:
        raise IntensityError(
            f"the stacks of the group have {len(units)} units: read each group of `group.parts`",
            units=sorted(units),
        )
    if group is not None:
        array = array.reshape(len(group), first.slices, *array.shape[1:])
        padding = None if padding is None else padding.reshape(array.shape)
    volume = Volume(
        array,
        geometry,
        units.pop(),
        readers[0].middle,
        first,
        group.dimension if group is not None else (),
        group.dimension_names if group is not None else (),
        padding=padding,
        quantity=quantity,
        stacks=tuple(stacks) if group is not None else (),
    )
    if isinstance(mask, BitMask):
        keep_bits(volume, mask)
    # All stacks of a group share a grid, but one may exceed a tolerance that the others just meet.
    if irregular == "resample":
        volume = _made_regular(
            volume, next((each for each in stacks if each.verdict in FILLABLE), first)
        )
    return volume


def require_volume(
    stack: Stack | Group, irregular: Irregular = "raise", *, may_move: bool = False
) -> list[Stack]:
    """Return the stacks of a stack or group, if their headers let them become a volume.

    With `may_move`, stacks of a group may lie on grids of their own, of one shape.

    Raises
    ------
    UsageError, GeometryError
        As for `read_volume`.
    """
    if irregular not in POLICIES:
        raise UsageError(
            f"irregular={irregular!r}: expected one of {', '.join(map(repr, POLICIES))}"
        )
    if not isinstance(stack, Stack | Group):
        raise UsageError(f"expected a stack or a group, not a {type(stack).__name__}")
    group = stack if isinstance(stack, Group) else None
    stacks = [stack] if isinstance(stack, Stack) else list(stack)
    if not stacks:
        raise UsageError("the group has no stack: read_volume refuses each of them")
    if group is not None:
        _require_complete(group, stacks)
    for t, each in enumerate(stacks):
        _require_allowed(each, irregular, group, t)
    if len(stacks) > 1:
        _require_one_shape(stacks)
        if not may_move:
            _require_one_grid(stacks)
    return stacks


def _require_allowed(
    stack: Stack, irregular: Irregular, group: Group | None = None, t: int = 0
) -> None:
    """Raise an IrregularStack unless the policy allows the verdict of a stack.

    It is stack `t` of a group, if there is one.
    """
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
        message = f"pass irregular={remedy}'accept' to {_accepted(detail)}"
    elif verdict not in FILLABLE:
        message = (
            f"it cannot be resampled, for {_NOT_RESAMPLED[verdict]}; "
            "irregular='accept' takes it as it lies"
        )
    elif "in_plane_error" in detail:
        message = (
            "it cannot be resampled, for its slices deviate from their line by "
            f"{detail['in_plane_error']} mm in plane"
        )
    elif not is_worth_filling(stack.slices, detail):
        message = (
            "it cannot be resampled, for more slices would be made up than were read; "
            "irregular='accept' takes it as it lies"
        )
    else:
        return
    which = "the stack" if group is None else f"stack {t} of the {len(group)} of the group"
    message = f"{which} is {verdict} ({reason_of(stack)}): {message}{_others(group)}"
    error = IrregularStack(message, verdict=verdict, detail=detail)
    error.add_note(f"series: {stack.series_instance_uid}")
    raise error


def _others(group: Group | None) -> str:
    """Return the way to the stacks of a group that can be read, for a message."""
    count = len(group.readable) if group is not None else 0
    return f". read_volume(group.readable) reads the {count} that can be read" if count else ""


def _accepted(detail: Mapping[str, Any]) -> str:
    """Return what "accept" does with a stack, for a message."""
    if "assumed_spacing" in detail:
        return (
            f"place its slices {abs(detail['assumed_spacing'])} mm apart along the normal, as "
            f"{detail['assumed_from']} suggests"
        )
    return "take it as it lies"


def _geometry(reader: StackVoxels) -> Geometry:
    """Return the grid of a stack, or the one that the header of its only file suggests."""
    stack, detail = reader.stack, reader.stack.detail
    if "assumed_spacing" not in detail:
        return reader.geometry
    position, orientation, pixel_spacing = (
        stack.value(name)
        for name in ("image_position_patient", "image_orientation_patient", "pixel_spacing")
    )
    if orientation is None or pixel_spacing is None:
        return reader.geometry
    affine = assumed_affine(
        np.array(position),
        np.array(orientation),
        np.array(pixel_spacing),
        detail["assumed_spacing"],
        stack.slices,
        stack.tolerances,
    )
    return Geometry(stack.shape, affine)


def _require_complete(group: Group, stacks: Sequence[Stack]) -> None:
    """Raise an IncompleteGroup if some stacks of a group lack slices."""
    missing = group.missing or _lacking(stacks, group.dimension)
    if not missing:
        return
    short = [(t, value) for t, value in enumerate(group.dimension) if value in missing]
    listed = "; ".join(
        f"t {t}{_number(value)} lacks {_listed(missing[value])}" for t, value in short[:3]
    )
    more = f"; and {len(short) - 3} more" if len(short) > 3 else ""
    names, count = " and ".join(group.dimension_names), sum(map(len, missing.values()))
    message = (
        f"{len(short)} of {len(stacks)} stacks by {names} lack {count} slices in all: "
        f"{listed}{more}. Read the stacks one by one{_others(group)}"
    )
    if stacks[0].content == "segmentation":
        message += "; read_labels(stack, path) puts a SEG onto the slices of its image"
    error = IncompleteGroup(message, missing=missing)
    error.add_note(f"series: {stacks[0].series_instance_uid}")
    raise error


def _number(value: Any) -> str:
    """Format a value of a dimension for a message, if it is a number.

    Text of a header may identify a patient, so it stays out of messages.
    """
    return f" ({value})" if isinstance(value, int | float) else ""


def _listed(slices: Sequence[int]) -> str:
    more = f", ... ({len(slices)} in all)" if len(slices) > 8 else ""
    return f"slice{'s' if len(slices) > 1 else ''} {', '.join(map(str, slices[:8]))}{more}"


def _lacking(stacks: Sequence[Stack], values: Sequence[Any]) -> dict[Any, list[int]]:
    """Return {dimension value: slices of the fullest stack that the stack of this value lacks}.

    Slices are compared by position, or by number where positions are unknown.
    """
    fullest = max(stacks, key=len)
    if all(len(stack) == len(fullest) for stack in stacks):
        return {}
    every, missing = fullest.positions, {}
    for value, stack in zip(values, stacks, strict=True):
        if len(stack) < len(fullest):
            distance = np.abs(every[:, None] - stack.positions[None]).max(axis=2)
            apart = distance > _same_position_mm(stack)
            lacks = (
                np.flatnonzero(apart.all(axis=1))
                if np.isfinite(every).all()
                else np.arange(len(stack), len(fullest))
            )
            missing[value] = lacks.tolist()
    return {value: slices for value, slices in missing.items() if slices}


def _require_one_shape(stacks: Sequence[Stack]) -> None:
    """Raise a GeometryError unless all stacks have the shape of the first."""
    first = stacks[0].shape
    for t, stack in enumerate(stacks[1:], 1):
        if stack.shape != first:
            message = (
                f"stack {t} of the group has shape {stack.shape}, the first one {first}: "
                "they do not fit into one array"
            )
            raise GeometryError(message, t=t, shape=stack.shape, expected=first)


def is_moved(stacks: Sequence[Stack]) -> bool:
    """Return whether some stacks of a group lie off the grid of the first one given."""
    return any("movement_mm" in stack.detail for stack in stacks) and bool(_moved(stacks))


def _require_one_grid(stacks: Sequence[Stack]) -> None:
    """Raise a GeometryError unless all stacks have the positions of the first."""
    moved = _moved(stacks)
    if not moved:
        return
    tolerance, worst = _same_position_mm(stacks[0]), max(moved, key=lambda t: moved[t])
    angle = max(stack.detail.get("rotation_deg", 0.0) for stack in stacks)
    turned = f" (rotated by up to {angle:.3g} degrees)" if angle else ""
    raise GeometryError(
        f"of the {len(stacks)} stacks of the group, {len(moved)} lie up to {moved[worst]:.3f} mm "
        f"off the first one{turned}, more than {tolerance} mm: they are not on one grid. Put "
        "each on the grid of the first: read_volume(stack).resample_to(group[0].geometry), or "
        "moved='resample' of a dataset",
        t=worst,
        error_mm=moved[worst],
        rotation_deg=angle,
    )


def _moved(stacks: Sequence[Stack]) -> dict[int, float]:
    """Return {number of a stack: mm} of the stacks that are not on the grid of the first."""
    first, tolerance = stacks[0], _same_position_mm(stacks[0])
    expected = _landmarks(first)
    known = bool(np.isfinite(expected).all())
    moved: dict[int, float] = {}
    for t, stack in enumerate(stacks[1:], 1):
        landmarks = _landmarks(stack)
        if np.isfinite(landmarks).all() != known:
            raise GeometryError(
                f"only one of stack {t} and the first stack of the group has a position",
                t=t,
            )
        apart = landmarks - expected if known else np.zeros((1, 3))
        # Along each axis, as positions are compared in plane.
        if np.abs(apart).max() > tolerance:
            moved[t] = float(np.sqrt((apart**2).sum(axis=1)).max())
    return moved


def _same_position_mm(stack: Stack) -> float:
    """Return the distance in mm, in plane or along the normal, up to which positions are equal."""
    return max(stack.tolerances.in_plane_mm, stack.tolerances.same_position_mm)


def _landmarks(stack: Stack) -> npt.NDArray[np.float64]:
    """Return (points, 3) LPS mm: corners of the first and last slice, and all slice positions."""
    corners = np.array(list(itertools.product((0, 1), repeat=3))) * (np.array(stack.shape) - 1)
    return np.concatenate([stack.geometry.voxel_to_world(corners), stack.positions])


def _made_regular(volume: Volume, stack: Stack) -> Volume:
    """Put the slices of a stack, or of each stack of a group, on its regular, orthogonal grid."""
    nearest, is_tilted = stack.content == "segmentation", "tilt_deg" in stack.detail
    dtype = volume.array.dtype
    twice = is_tilted and stack.verdict in FILLABLE and dtype.kind != "f" and not nearest
    # values that are interpolated twice are rounded once
    if twice:
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
