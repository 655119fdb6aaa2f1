"""A contact sheet: the middle slice of many stacks, each with a caption."""

import math
import textwrap
from numbers import Integral
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DicomdlError, UsageError
from dicomdl.index.text import counted, format_lengths, printable
from dicomdl.index.views import Stack, Stacks
from dicomdl.pixels.options import Decoding
from dicomdl.values.conversion import conversions
from dicomdl.values.reading import read_converted
from dicomdl.values.request import IntensityOption, IntensityRequest
from dicomdl.values.stack_intensity import stack_intensity
from dicomdl.volumes._figures import new_figure, pyplot
from dicomdl.volumes._planes import evenly_spaced

_TILE: Final = 2.4  # inches
_ACROSS: Final = 6
# Pixels along the longer side, beyond which a frame is halved.
_LONGEST: Final = 512
# Characters per line of a caption.
_LINE: Final = 30


def contact_sheet(stacks: Stacks, intensity: IntensityOption = "auto", count: int = 24) -> Any:
    """Return the figure of `dicomdl.plot` for an index; it documents the parameters."""
    request = IntensityRequest.parse(intensity)
    if not isinstance(count, Integral) or count < 1:
        raise UsageError(f"count={count!r}: expected a number of at least 1")
    if not len(stacks):
        raise UsageError("there is no complete stack to plot: check the selection")
    plt = pyplot("plot()")
    firsts = stacks.one_per_group()
    shown = [firsts[number] for number in evenly_spaced(len(firsts), count)]
    across = min(_ACROSS, max(2, math.ceil(math.sqrt(len(shown)))))
    down = math.ceil(len(shown) / across)
    figure = new_figure(plt)
    figure.set_size_inches(_TILE * across, (_TILE + 0.6) * down + 0.4)
    cells = figure.subplots(down, across, squeeze=False)
    for cell in cells.flat[len(shown) :]:
        cell.remove()
    for cell, stack in zip(cells.flat, shown, strict=False):
        _draw_tile(cell, stack, request)
    total = counted(len(firsts), "groups") if len(firsts) < len(stacks) else ""
    words = [f"{counted(len(shown), 'pictures')} of {counted(len(stacks), 'stacks')}", total]
    figure.suptitle(" in ".join(filter(None, words)), fontsize=9)
    return figure


def _draw_tile(axes: Any, stack: Stack, request: IntensityRequest) -> None:
    axes.axis("off")
    try:
        values, is_mapped = _middle(stack, request)
    except DicomdlError as error:
        # One damaged file must not hide the others.
        values, is_mapped = np.zeros((1, 1)), True
        axes.text(0.5, 0.5, type(error).__name__, transform=axes.transAxes, ha="center", c="red")
    _, row, column = stack.spacing
    aspect = row / column if np.isfinite([row, column]).all() else 1.0
    ends = {"vmin": 0, "vmax": 1} if is_mapped else {}
    axes.imshow(values, cmap="gray", aspect=aspect, **ends)
    axes.set_title(caption(stack).replace("$", r"\$"), fontsize=6)


def _middle(stack: Stack, request: IntensityRequest) -> tuple[Values, bool]:
    """Return the middle slice for a picture, and whether it is mapped onto [0, 1]."""
    recipe, number = stack_intensity(stack, request, "if_possible"), stack.slices // 2
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
