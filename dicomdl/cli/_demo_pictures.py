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
# zlib's level: a higher one takes three times as long, and makes pages 1 % smaller.
_COMPRESSION: Final = 3
# Left, top, width and height on a page, inches.
_Box = tuple[float, float, float, float]
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

    matplotlib's own layouts take three times as long as the drawing, and axes for each picture as
    long as the drawing: one pair of axes covers the page.
    """

    def __init__(self, width: float, height: float, heading: str) -> None:
        self.figure = Figure(figsize=(width, height), facecolor=_PAPER)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")
        self.text(width / 2, 0.12, heading, fontsize=13, weight="bold", ha="center")

    def text(self, x: float, y: float, words: str, **look: Any) -> None:
        """Write words, with their upper edge at y."""
        look = {"color": _TEXT, "va": "top", "fontsize": 9, **look}
        self.axes.text(x, y, words.replace("$", r"\$"), **look)

    def show(self, box: _Box, panel: Panel) -> _Box:
        """Show a picture in true proportions, at the upper edge of a box; return where it is."""
        x, y, width, height = box
        high, wide = np.array(panel.picture.shape[:2]) * panel.pixel
        scale = min(width / wide, height / high)
        placed = (x + (width - scale * wide) / 2, y, scale * wide, scale * high)
        left, top, width, height = placed
        extent = (left, left + width, top + height, top)
        self.axes.imshow(panel.picture, cmap="gray", vmin=0, vmax=1, aspect="auto", extent=extent)
        return placed

    def save(self, path: str) -> None:
        """Write the page as PNG."""
        packed = {"compress_level": _COMPRESSION}
        self.figure.savefig(path, dpi=_DPI, facecolor=_PAPER, pil_kwargs=packed)


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
            _show(page, (x + 0.05, y + 0.6, wide - 0.1, high - 0.75), panel)
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
            _show(page, (x, y, wide - 0.1, height - 0.1), panel, cross=True)
            y += height
    page.save(path)


def draw_sheet(path: str, tiles: Sequence[tuple[str, Values]], title: str) -> None:
    """Write a contact sheet: pictures (rows, columns[, 3]) with captions."""
    across, wide, high, top = 6, 2.1, 2.55, 0.5
    page = _Page(wide * across + 0.1, top + high * -(-len(tiles) // across), title)
    for number, (caption, picture) in enumerate(tiles):
        x, y = 0.1 + number % across * wide, top + number // across * high
        page.text(x + wide / 2 - 0.05, y, caption, fontsize=7.5, ha="center")
        page.show((x, y + 0.36, wide - 0.1, wide - 0.1), Panel(np.clip(picture, 0, 1)))
    page.save(path)


def draw_batch(path: str, images: Values, masks: Values, title: str) -> None:
    """Write the middle slices of patches (n, slices, rows, columns), with outlines of masks."""
    wide, top = 1.7, 0.5
    page = _Page(wide * len(images) + 0.1, top + wide, title)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        middle = len(image) // 2
        box = (0.1 + number * wide, top, wide - 0.1, wide - 0.1)
        x, y, width, height = page.show(box, Panel(image[middle]))
        if mask[middle].any():
            rows, columns = mask[middle].shape
            across = x + (np.arange(columns) + 0.5) * width / columns
            down = y + (np.arange(rows) + 0.5) * height / rows
            page.axes.contour(
                across, down, mask[middle], levels=[0.5], colors=[_MARK], linewidths=1.2
            )
    page.save(path)


def _wrapped(text: str, width: int = 44) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _show(page: _Page, box: _Box, panel: Panel, *, cross: bool = False) -> None:
    """Show a picture, with a ring or a cross at its mark."""
    x, y, width, height = page.show(box, panel)
    if panel.mark is None:
        return
    rows, columns = panel.picture.shape[:2]
    across = x + (panel.mark[1] + 0.5) * width / columns
    down = y + (panel.mark[0] + 0.5) * height / rows
    if cross:
        page.axes.hlines(down, x, x + width, color=_MARK, linewidth=0.6, alpha=0.8)
        page.axes.vlines(across, y, y + height, color=_MARK, linewidth=0.6, alpha=0.8)
    else:
        page.axes.plot(across, down, "o", ms=15, mfc="none", mec=_MARK, mew=1.2)
