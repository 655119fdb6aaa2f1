"""Figures of planes of a volume, in true proportions, with labels over them."""

import dataclasses
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import UsageError
from dicomdl.extras import import_extra
from dicomdl.geometry.verdict import READABLE
from dicomdl.printing import printable
from dicomdl.values.request import IntensityOption
from dicomdl.volumes._facts import VolumeFacts
from dicomdl.volumes._overlay import Entry, Overlay, overlay_of
from dicomdl.volumes._planes import (
    View,
    chosen_view,
    corners_of,
    evenly_spaced,
    middle_of,
    views_of,
)
from dicomdl.volumes._shown import Shown, measured_of, shown_by

# Title of a slice, and its index into the array of a volume.
Pictured = tuple[str, tuple[int, ...]]
# Inches: the width of a row of planes, of a tile of a montage, and the largest height.
_ROW: Final = 10.0
_TILE: Final = 2.4
_HIGHEST: Final = 12.0
# Inches of a legend: a patch of colour with its margins, and a letter.
_SIGN: Final = 0.7
_LETTER: Final = 0.07
# Frames of a montage where no plane crosses the frames.
_UNORDERED: Final = 9
_AXES: Final = ("slice", "row", "column")
# Pictures that are wider or higher than this share have room for letters.
_LETTERED: Final = 0.25
# Letters at the left and at the upper edge of a picture.
_EDGES: Final = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One picture of a figure: network values, and the colours of labels over them."""

    title: str
    view: View
    picture: Values
    colours: Values | None


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What the pictures of a volume are made of."""

    volume: VolumeFacts
    shown: Shown
    overlay: Overlay | None
    views: dict[str, View]

    def panel(self, view: View, number: int, t: int | None) -> Panel:
        """Make the picture of one plane, at one time point of a group."""
        volume = self.volume
        array = volume.array if t is None else volume.array[t]
        padding = volume.padding
        padding = padding if padding is None or t is None else padding[t]
        picture = self.shown.picture(
            view.cut(array, number), None if padding is None else view.cut(padding, number)
        )
        colours = None
        if self.overlay is not None:
            colours = self.overlay.picture(functools.partial(view.cut, number=number), t)
        # The names of array axes, because these numbers index the array.
        title = f"{view.name} {_AXES[view.axis]} {number}".strip()
        return Panel(title if t is None else f"t {t}, {title}", view, picture, colours)

    def planes(self, t: int | None, views: Sequence[View] = ()) -> list[Panel]:
        """Make planes through the middle, or through the most of the labels; by default all."""
        mask = None if self.overlay is None else self.overlay.at(t)
        middle = middle_of(self.volume.geometry.shape, mask)
        return [self.panel(view, middle[view.axis], t) for view in views or self.views.values()]

    def montage(self, view: View, slices: int | list[int], t: int | None) -> list[Panel]:
        """Make evenly spaced pictures: along a plane, or of its middle one at each time point.

        A list has the numbers of slices, to show at one time point.
        """
        length = self.volume.geometry.shape[view.axis]
        if isinstance(slices, list):
            return [self.panel(view, number, t) for number in _within(slices, length)]
        if not self.volume.dimension:
            return [self.panel(view, number, None) for number in evenly_spaced(length, slices)]
        times = evenly_spaced(len(self.volume.dimension), slices)
        return [self.panel(view, length // 2, t) for t in times]


def subject_of(volume: VolumeFacts, intensity: IntensityOption, labels: Any) -> Subject:
    """Check what a picture of a volume is made of."""
    stack = volume.stack
    spacing = (
        volume.spacing
        if stack is None or stack.shape[1:] != volume.geometry.shape[1:]
        else stack.spacing
    )
    views = views_of(volume.geometry, (spacing[1], spacing[2]))
    return Subject(
        volume, shown_by(measured_of(volume), intensity), overlay_of(volume, labels), views
    )


def figure_of(
    volume: VolumeFacts,
    intensity: IntensityOption,
    labels: Any,
    plane: str | None,
    slices: int | Sequence[int] | None,
) -> Any:
    """Return the figure of `Volume.plot`, which documents the parameters."""
    chosen = None if slices is None else _checked_slices(slices)
    plt = pyplot("Volume.plot()")
    subject = subject_of(volume, intensity, labels)
    view = chosen_view(subject.views, plane)
    t = len(volume.dimension) // 2 if volume.dimension else None
    is_stacked = view.name == "" and volume.geometry.shape[0] > 1
    if slices is None and plane is None and not is_stacked:
        panels = subject.planes(t)
    elif slices is None and not is_stacked:
        panels = subject.planes(t, [view])
    else:
        # Along the slices, unless a plane has a name.
        named = view if plane is not None else dataclasses.replace(view, name="")
        panels = subject.montage(named, chosen or _UNORDERED, t)
    figure = new_figure(plt)
    draw(figure, subject, panels, is_row=slices is None and not is_stacked)
    return figure


def _checked_slices(slices: Any) -> int | list[int]:
    """Return a number of slices, or a list of their numbers; raise UsageError for all else."""
    try:
        array = np.asarray(slices)
    except ValueError:  # lists of several lengths
        array = np.zeros(0)
    if array.dtype.kind in "iu" and array.ndim == 0 and array >= 1:
        return int(array)
    if array.dtype.kind in "iu" and array.ndim == 1 and array.size:
        return [int(number) for number in array]
    raise UsageError(
        f"slices={slices!r}: expected a number of at least 1, or a list of numbers of slices"
    )


def _within(numbers: list[int], length: int) -> list[int]:
    """Return numbers of slices counted from 0; raise UsageError for those beyond the slices."""
    beyond = [number for number in numbers if not -length <= number < length]
    if beyond:
        raise UsageError(f"slices={numbers}: there is no slice {beyond[0]} of {length}")
    return [number % length for number in numbers]


def pyplot(feature: str) -> Any:
    """Import pyplot at its first use.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    """
    return import_extra("matplotlib.pyplot", feature, "notebook")


def new_figure(plt: Any) -> Any:
    """Return an empty figure that pyplot registers, and that a notebook shows once."""
    from dicomdl.volumes._pyplot import PlotFigure

    return plt.figure(FigureClass=PlotFigure, layout="constrained")


def png_of(subject: Subject, panels: Sequence[Panel]) -> bytes:
    """Return a figure as the bytes of a PNG file; pyplot does not know it."""
    figure = import_extra("matplotlib.figure", "Volume.view()", "notebook").Figure(
        layout="constrained"
    )
    draw(figure, subject, panels, is_row=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def draw(figure: Any, subject: Subject, panels: Sequence[Panel], *, is_row: bool) -> None:
    """Draw pictures into an empty figure: in one row at one scale, or as the tiles of a montage."""
    across = len(panels) if is_row else math.ceil(math.sqrt(len(panels)))
    down = math.ceil(len(panels) / across)
    sizes = np.array([panel.view.extent(subject.volume.geometry.shape) for panel in panels])
    widths = sizes[:across, 0] if is_row else np.ones(across)
    scale = (_ROW if is_row and across > 1 else _TILE * max(across, 2)) / widths.sum()
    height = sizes[:, 1].max() * scale if is_row else down * scale * (sizes[0, 1] / sizes[0, 0])
    shrunk = min(1.0, _HIGHEST / height)
    figure.set_size_inches(max(3.6, scale * widths.sum() * shrunk), max(1.0, height * shrunk) + 1.1)
    cells = figure.subplots(down, across, squeeze=False, width_ratios=widths)
    for cell in cells.flat[len(panels) :]:
        cell.remove()
    for cell, panel in zip(cells.flat, panels, strict=False):
        _draw_panel(cell, panel, subject.shown.limits)
    figure.suptitle(title_of(subject.volume, subject.shown.words), fontsize=9)
    if subject.overlay is not None:
        draw_legend(figure, subject.overlay.legend())


def _draw_panel(axes: Any, panel: Panel, limits: tuple[float, float]) -> None:
    from matplotlib.transforms import Affine2D

    steps = panel.view.steps
    rows, columns = panel.picture.shape[:2]
    place = Affine2D(np.block([[steps, np.zeros((2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]]))
    place = place + axes.transData
    axes.imshow(
        panel.picture, cmap="gray", vmin=limits[0], vmax=limits[1], transform=place, aspect="equal"
    )
    if panel.colours is not None:
        axes.imshow(panel.colours, transform=place, aspect="equal", interpolation="nearest")
    corners = corners_of(steps, rows, columns)
    axes.set_xlim(corners[:, 0].min(), corners[:, 0].max())
    axes.set_ylim(corners[:, 1].max(), corners[:, 1].min())
    axes.set_title(panel.title, fontsize=8)
    axes.axis("off")
    if panel.view.name and np.ptp(corners, axis=0).min() > _LETTERED * np.ptp(corners):
        look = {"color": "gold", "fontsize": 8, "transform": axes.transAxes}
        left, top = _EDGES[panel.view.name]
        axes.text(0.02, 0.5, left, ha="left", va="center", **look)
        axes.text(0.5, 0.98, top, ha="center", va="top", **look)


def draw_legend(figure: Any, entries: Sequence[Entry]) -> None:
    """Draw the legend of labels below a figure; nothing without entries."""
    from matplotlib.patches import Patch

    patches = [
        Patch(color=(0, 0, 0, 0) if colour is None else colour, label=text.replace("$", r"\$"))
        for text, colour in entries
    ]
    if patches:
        column = _SIGN + _LETTER * max(len(text) for text, _ in entries)
        across = max(1, min(6, int(figure.get_figwidth() / column)))
        figure.legend(
            handles=patches, loc="outside lower center", ncols=across, fontsize=8, frameon=False
        )


def title_of(volume: VolumeFacts, window: str) -> str:
    """Return the title of a figure: the Series, what it is, and the window with its units."""
    parts = []
    if volume.frame is not None:
        number = volume.frame.series_number
        parts += [
            "" if number is None else f"series {number}",
            printable(volume.frame.series_description.strip()),
            printable(volume.frame.modality),
        ]
    if volume.quantity == "derived":
        parts.append("derived values")
    if volume.verdict and volume.verdict not in READABLE:
        parts.append(volume.verdict.replace("_", " "))
    words = "; ".join([", ".join(filter(None, parts)), window] if parts else [window])
    # A dollar sign would begin a formula.
    return words.replace("$", r"\$")


def pictured(shape: tuple[int, ...], count: int, *, series: bool) -> list[Pictured]:
    """Return titles and indices of at most `count` slices that show an array of a volume.

    They are spread over the slices, or, for a series, over the time points of the middle slice.
    """
    numbers = evenly_spaced(shape[0], count)
    if not series:
        return [(f"slice {z}", (z,)) for z in numbers]
    middle = shape[1] // 2
    return [(f"t {t}, slice {middle}", (t, middle)) for t in numbers]
