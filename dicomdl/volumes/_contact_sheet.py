"""A contact sheet: one slice of many stacks, each with a caption, and with labels over it."""

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import AnnotationError, DicomdlError, IndexFolderError, UsageError
from dicomdl.index.text import counted, format_lengths
from dicomdl.index.views import Stack, Stacks
from dicomdl.pixels.options import Decoding
from dicomdl.printing import printable
from dicomdl.values.conversion import conversions
from dicomdl.values.reading import read_converted
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.stack_intensity import stack_intensity
from dicomdl.volumes._figures import draw_legend, new_figure, pyplot
from dicomdl.volumes._overlay import (
    Overlay,
    in_common_colours,
    labels_for,
    legend_of,
    overlay_of,
)
from dicomdl.volumes._planes import evenly_spaced, middle_of
from dicomdl.volumes.volume import Volume

_TILE: Final = 2.4  # inches
_ACROSS: Final = 6
# Pixels along the longer side, beyond which a frame is halved.
_LONGEST: Final = 512
# Characters per line of a caption.
_LINE: Final = 30


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """What a tile shows: a slice of a stack, its labels or none, and why there are none."""

    stack: Stack
    number: int
    overlay: Overlay | None
    remark: str


def contact_sheet(
    stacks: Stacks, intensity: IntensityOption = "auto", count: int = 24, labels: Any = None
) -> Any:
    """Return the figure of `dicomdl.plot` for an index; it documents the parameters."""
    request = IntensityRequest.parse(intensity)
    if not isinstance(count, Integral) or count < 1:
        raise UsageError(f"count={count!r}: expected a number of at least 1")
    if not len(stacks):
        raise UsageError("there is no complete stack to plot: check the selection")
    plt = pyplot("plot()")
    firsts = stacks.one_per_group()
    shown = [firsts[number] for number in evenly_spaced(len(firsts), count)]
    tiles, legend = _in_common_colours([_tile(stack, labels) for stack in shown])
    across = min(_ACROSS, max(2, math.ceil(math.sqrt(len(shown)))))
    down = math.ceil(len(shown) / across)
    figure = new_figure(plt)
    figure.set_size_inches(_TILE * across, (_TILE + 0.6) * down + 0.4)
    cells = figure.subplots(down, across, squeeze=False)
    for cell in cells.flat[len(shown) :]:
        cell.remove()
    for cell, tile in zip(cells.flat, tiles, strict=False):
        _draw_tile(cell, tile, request)
    total = counted(len(firsts), "groups") if len(firsts) < len(stacks) else ""
    words = [f"{counted(len(shown), 'pictures')} of {counted(len(stacks), 'stacks')}", total]
    figure.suptitle(" in ".join(filter(None, words)), fontsize=9)
    draw_legend(figure, legend_of(legend))
    return figure


def _tile(stack: Stack, labels: Any) -> _Tile:
    """Return the middle slice of a stack, or the one with the most of its labels."""
    middle = stack.slices // 2
    if labels is None:
        return _Tile(stack, middle, None, "")
    try:
        found = labels_for(stack, labels)
        grid = Volume(np.broadcast_to(np.False_, stack.shape), stack.geometry)
        overlay = overlay_of(grid, found)
    except (UsageError, IndexFolderError):
        raise
    except AnnotationError:
        return _Tile(stack, middle, None, "no labels")
    except DicomdlError as error:
        return _Tile(stack, middle, None, f"no labels: {type(error).__name__}")
    assert overlay is not None
    number = middle_of(stack.shape, overlay.at(None))[0]
    return _Tile(stack, number, overlay.slice(number), "")


def _in_common_colours(tiles: Sequence[_Tile]) -> tuple[list[_Tile], dict[str, int]]:
    """Return tiles in which a label of one name has one colour, and the colours by name."""
    overlays, legend = in_common_colours([tile.overlay for tile in tiles if tile.overlay])
    left = iter(overlays)
    return [
        dataclasses.replace(tile, overlay=next(left)) if tile.overlay else tile for tile in tiles
    ], legend


def _draw_tile(axes: Any, tile: _Tile, request: IntensityRequest) -> None:
    axes.axis("off")
    stack = tile.stack
    try:
        values, is_mapped = _slice(stack, tile.number, request)
    except IndexFolderError:
        raise
    except DicomdlError as error:
        # One damaged file must not hide the others.
        values, is_mapped = np.zeros((1, 1)), True
        axes.text(0.5, 0.5, type(error).__name__, transform=axes.transAxes, ha="center", c="red")
    _, row, column = stack.spacing
    aspect = row / column if np.isfinite([row, column]).all() else 1.0
    ends = {"vmin": 0, "vmax": 1} if is_mapped else {}
    place = {"aspect": aspect, "extent": (0, stack.shape[2], stack.shape[1], 0)}
    axes.imshow(values, cmap="gray", **place, **ends)
    if tile.overlay is not None:
        colours = tile.overlay.picture(lambda labels: labels[0], None)
        axes.imshow(colours, interpolation="nearest", **place)
    if tile.remark:
        axes.text(0.02, 0.02, tile.remark, transform=axes.transAxes, fontsize=6, c="gold")
    axes.set_title(caption(stack).replace("$", r"\$"), fontsize=6)


def _slice(stack: Stack, number: int, request: IntensityRequest) -> tuple[Values, bool]:
    """Return a slice for a picture, and whether it is mapped onto [0, 1]."""
    recipe = stack_intensity(stack, request, "if_possible")
    halvings = max(0, math.ceil(math.log2(max(stack.shape[1:]) / _LONGEST)))
    made = conversions(stack, recipe.quantity)[number : number + 1]
    array, padding = read_converted(
        [stack.source(number)], made, how=Decoding(reduce=halvings, threads=1)
    )
    if padding is not None and (lowest := recipe.floor(array.dtype)) is not None:
        array = np.where(padding, array.dtype.type(lowest), array)
    values = recipe(array)[0]
    return (np.clip(values, 0, 1) if values.ndim > 2 else values), not recipe.is_identity


def caption(stack: Stack) -> str:
    """Return three lines on a stack: number, size and group; description; spacing and verdict."""
    shape = " x ".join(map(str, stack.shape))
    many = len(stack.group)
    times = f", {many} in group" if many > 1 else ""
    description = textwrap.shorten(printable(stack.description), _LINE, placeholder="...")
    spacing = f"{format_lengths(stack.spacing)} mm, {stack.verdict.replace('_', ' ')}"
    first = f"{stack.number}: {printable(stack.modality)} {shape}{times}"
    return "\n".join(filter(None, [first, description, spacing]))
