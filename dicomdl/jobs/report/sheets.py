"""Sprite sheets: the pictures of a hundred stacks as one WebP, and their labels as another.

Labels have a sheet of their own, so that the page can hide them.
"""

import base64
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from dicomdl.jobs.report.drawing import Drawn
from dicomdl.volumes.thumbnails import Picture, label_colour

# Stacks per sheet, and how many of them are beside each other.
PER_SHEET: Final = 100
ACROSS: Final = 5
# Planes of a stack.
PLANES: Final = 3
_QUALITY: Final = 70
_STRIP_QUALITY: Final = 70
_OPACITY: Final = 120
_EDGE: Final = 235


class Ranks:
    """The colour of each label: one name has one colour in the whole report."""

    def __init__(self) -> None:
        self._ranks: dict[str, int] = {}

    def of(self, names: Iterable[str]) -> list[int]:
        """Return the ranks of names, in the order in which they came up."""
        return [self._ranks.setdefault(name.casefold(), len(self._ranks)) for name in names]


class Sheet:
    """The pictures of up to `PER_SHEET` stacks, side by side.

    Parameters
    ----------
    side
        Pixels of a plane.
    """

    def __init__(self, side: int) -> None:
        self._side = side
        shape = (PER_SHEET // ACROSS * side, ACROSS * PLANES * side)
        self._pixels = np.zeros((*shape, 3), np.uint8)
        self._labels = np.zeros((*shape, 4), np.uint8)
        self._last = -1
        self._has_labels = False

    def put(self, place: int, drawn: Drawn, ranks: Sequence[int]) -> None:
        """Put the planes of a stack at its place of the sheet."""
        self._last = max(self._last, place)
        if drawn.planes is None:
            return
        down, across = divmod(place, ACROSS)
        top, left = down * self._side, across * PLANES * self._side
        rows = slice(top, top + self._side)
        for number, plane in enumerate(drawn.planes[:PLANES]):
            columns = slice(left + number * self._side, left + (number + 1) * self._side)
            self._pixels[rows, columns] = plane if plane.ndim > 2 else plane[..., None]
            if drawn.marks is not None and drawn.marks[number].any():
                self._labels[rows, columns] = coloured(drawn.marks[number], ranks)
                self._has_labels = True

    def encoded(self) -> tuple[str, str]:
        """Return the sheet and that of its labels as base64; "" without labels."""
        rows = (self._last // ACROSS + 1) * self._side
        if rows <= 0:
            return "", ""
        pixels = webp(self._pixels[:rows], quality=_QUALITY)
        return pixels, webp(self._labels[:rows]) if self._has_labels else ""


def strip_of(drawn: Drawn, ranks: Sequence[int]) -> tuple[str, str]:
    """Return the slices of a strip side by side as base64, and their labels; "" without."""
    if drawn.strip is None:
        return "", ""
    pixels = [each if each.ndim > 2 else np.repeat(each[..., None], 3, 2) for each in drawn.strip]
    marks = ""
    if drawn.strip_marks is not None and drawn.strip_marks.any():
        marks = webp(np.concatenate([coloured(each, ranks) for each in drawn.strip_marks], axis=1))
    return webp(np.concatenate(pixels, axis=1), quality=_STRIP_QUALITY), marks


def coloured(marks: Picture, ranks: Sequence[int]) -> Picture:
    """Return (row, column, 4) RGBA of labels: filled faintly, with an edge."""
    table = np.zeros((256, 4), np.uint8)
    for number, rank in enumerate(ranks, 1):
        table[min(number, 255)] = (*label_colour(rank), _OPACITY)
    result = table[marks]
    padded = np.pad(marks, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    is_edge = np.any([inner != each for each in neighbours], axis=0) & (marks > 0)
    result[is_edge, 3] = _EDGE
    return np.asarray(result, np.uint8)


def webp(pixels: Picture, quality: int | None = None) -> str:
    """Return a picture as base64 of a WebP file; without a quality, each pixel is kept."""
    import imagecodecs

    data = np.ascontiguousarray(pixels)
    if quality is None:
        encoded: Any = imagecodecs.webp_encode(data, lossless=True)
    else:
        encoded = imagecodecs.webp_encode(data, level=quality, lossless=False)
    return base64.b64encode(encoded).decode()


def css_colour(rank: int) -> str:
    """Return the colour of a label by its rank, for a style sheet."""
    red, green, blue = label_colour(rank)
    return f"rgb({red} {green} {blue})"
