"""The pictures of `dicomdl demo`, with captions. Imports matplotlib."""

import textwrap
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from dicomdl.arrays import Values
from dicomdl.cli._demo_repairs import Panel, Repair

_PAPER: Final = "#0e1116"
_TEXT: Final = "#e6edf3"
_WRONG: Final = "#ff7b72"
_RIGHT: Final = "#56d364"
_MARK: Final = "#ffd33d"
_DPI: Final = 90
_REPAIRS: Final = "Seven Series that a plain loop over files gets wrong"
_LOOP: Final = """The plain loop of the left pictures:

slices = [pydicom.dcmread(path) for path in paths]
slices.sort(key=lambda s: s.InstanceNumber)   # ct: by name
volume = np.stack([s.pixel_array for s in slices])
volume = volume * slices[0].RescaleSlope + ...

The right pictures:

volume = dicomdl.read_volume(stack)

Yellow rings: the known position of the lesion,
placed by the affine of each volume."""


class _Page:
    """A dark page on which pictures and words are placed in inches from the upper left corner.

    matplotlib's own layouts take three times as long as the drawing.
    """

    def __init__(self, width: float, height: float, heading: str) -> None:
        self.size = np.array([width, height])
        self.figure = Figure(figsize=(width, height), facecolor=_PAPER)
        self.text(width / 2, 0.12, heading, fontsize=13, weight="bold", ha="center")

    def text(self, x: float, y: float, words: str, **look: Any) -> None:
        """Write words, with their upper edge at y."""
        x, y = np.array([x, self.size[1] - y]) / self.size
        look = {"color": _TEXT, "va": "top", "fontsize": 9, **look}
        self.figure.text(x, y, words.replace("$", r"\$"), **look)

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Return axes for a picture, which is at the upper edge of its box."""
        left, bottom = np.array([x, self.size[1] - y - height]) / self.size
        axes = self.figure.add_axes((left, bottom, *(np.array([width, height]) / self.size)))
        axes.set_anchor("N")
        axes.axis("off")
        return axes

    def save(self, path: str) -> None:
        """Write the page as PNG."""
        self.figure.savefig(path, dpi=_DPI, facecolor=_PAPER)


def draw_repairs(path: str, repairs: Sequence[Repair]) -> None:
    """Write pairs of pictures, two pairs per row, and the code of the plain loop."""
    wide, high, top = 3.2, 3.35, 0.5
    page = _Page(4 * wide + 0.5, top + (len(repairs) + 2) // 2 * high, _REPAIRS)
    for number, repair in enumerate(repairs):
        down, across = divmod(number, 2)
        x, y = 0.1 + across * (2 * wide + 0.2), top + down * high
        page.text(x + wide, y, repair.series, fontsize=11, weight="bold", ha="center")
        for words, colour, panel in (
            (f"plain loop: {repair.wrong}", _WRONG, repair.before),
            (f"dicomdl: {repair.right}", _RIGHT, repair.after),
        ):
            middle = x + wide / 2
            page.text(middle, y + 0.25, _wrapped(words), color=colour, ha="center")
            _show(page.axes(x + 0.05, y + 0.6, wide - 0.1, high - 0.75), panel)
            x += wide
    down, across = divmod(len(repairs), 2)
    x, y = 0.4 + across * (2 * wide + 0.2), top + down * high + 0.6
    page.text(x, y, _LOOP, family="monospace", linespacing=1.4)
    page.save(path)


def draw_planes(path: str, columns: Sequence[tuple[str, Sequence[Panel]]], title: str) -> None:
    """Write three planes through one point, one column per volume."""
    wide, heights, top = 2.2, (2.7, 2.05, 2.05), 0.85
    page = _Page(wide * len(columns) + 0.1, top + sum(heights), title)
    for number, (name, panels) in enumerate(columns):
        x, y = 0.1 + wide * number, top
        page.text(x + wide / 2 - 0.05, 0.45, name, fontsize=8, ha="center")
        for panel, height in zip(panels, heights, strict=True):
            _show(page.axes(x, y, wide - 0.1, height - 0.1), panel, cross=True)
            y += height
    page.save(path)


def draw_sheet(path: str, tiles: Sequence[tuple[str, Values]], title: str) -> None:
    """Write a contact sheet: pictures (rows, columns[, 3]) with captions."""
    across, wide, high, top = 6, 2.1, 2.55, 0.5
    page = _Page(wide * across + 0.1, top + high * -(-len(tiles) // across), title)
    for number, (caption, picture) in enumerate(tiles):
        x, y = 0.1 + number % across * wide, top + number // across * high
        page.text(x + wide / 2 - 0.05, y, caption, fontsize=7.5, ha="center")
        _show(page.axes(x, y + 0.36, wide - 0.1, wide - 0.1), Panel(np.clip(picture, 0, 1)))
    page.save(path)


def draw_batch(path: str, images: Values, masks: Values, title: str) -> None:
    """Write the middle slices of patches (n, slices, rows, columns), with outlines of masks."""
    wide, top = 1.7, 0.5
    page = _Page(wide * len(images) + 0.1, top + wide, title)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        middle = len(image) // 2
        axes = page.axes(0.1 + number * wide, top, wide - 0.1, wide - 0.1)
        _show(axes, Panel(image[middle]))
        if mask[middle].any():
            axes.contour(mask[middle], levels=[0.5], colors=[_MARK], linewidths=1.2)
    page.save(path)


def _wrapped(text: str, width: int = 44) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _show(axes: Any, panel: Panel, *, cross: bool = False) -> None:
    """Show a picture in true proportions, with a ring or a cross at its mark."""
    high, wide = panel.pixel
    axes.imshow(panel.picture, cmap="gray", vmin=0, vmax=1, aspect=high / wide)
    if panel.mark is None:
        return
    row, column = panel.mark
    if cross:
        axes.axhline(row, color=_MARK, linewidth=0.6, alpha=0.8)
        axes.axvline(column, color=_MARK, linewidth=0.6, alpha=0.8)
    else:
        axes.plot(column, row, "o", ms=15, mfc="none", mec=_MARK, mew=1.2)
