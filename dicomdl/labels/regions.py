"""What becomes of each region of interest of a structure set on a stack, as a table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np

from dicomdl.arrays import Floats, Voxel
from dicomdl.errors import AnnotationError, position_in, rows_of_slice
from dicomdl.headers.annotation import Segment
from dicomdl.headers.structure_set import Roi
from dicomdl.index.text import counted, text_columns
from dicomdl.index.views import Stack
from dicomdl.labels._choice import Wanted, Wish, all_of, chosen, is_named
from dicomdl.labels._planes import Placed, Planes, place
from dicomdl.labels.places import slabs
from dicomdl.labels.rtstruct import require_usable

_TITLES: Final = (
    *("roi", "name", "label", "matched by", "contours", "slices", "off mm", "outside", "ml"),
    "remarks",
)
_RIGHT: Final = (0, 4, 5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Region:
    """A region of interest of a structure set on a stack.

    Attributes
    ----------
    number : int
        ROI Number.
    name : str
        ROI Name.
    label : str
        The name of its label; "" if nothing that was wanted matches.
    matched_by : str
        What of `rois=` matched it first: a number, a regular expression or a code. "" for none, and
        where all regions were wanted.
    contours : int
        The number of its contours, with those that fill nothing.
    slices : int
        The number of slices that it fills.
    distance_mm : float
        The largest distance of a contour from its slice along the normal; NaN without contours.
    outside : int
        Contours that reach beyond the rows and columns of the image; they are clipped.
    outside_points : int
        Their points beyond the rows and columns.
    beyond : int
        Contours beyond the first or last slice, or in a hole of the stack; they fill nothing.
    between : int
        Contours in planes between slices that have nearer ones; they fill nothing.
    open : int
        Points and open contours; they enclose nothing.
    copies : int
        Contours that repeat another one of their plane, and are left out.
    gaps : int
        Slices without a contour between the first and the last one with one.
    filled : int
        How many of the gaps have the contours of the nearest plane, because the region was drawn on
        every second to fourth slice.
    volume_ml : float
        The volume of its voxels in the image.
    problem : str
        Why it cannot be read as labels: "" if it can.
    """

    number: int
    name: str
    label: str
    matched_by: str
    contours: int
    slices: int = 0
    distance_mm: float = np.nan
    outside: int = 0
    outside_points: int = 0
    beyond: int = 0
    between: int = 0
    open: int = 0
    copies: int = 0
    gaps: int = 0
    filled: int = 0
    volume_ml: float = 0.0
    problem: str = ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know before training with it, in words; () for nothing."""
        return tuple(self._remarks())

    def _remarks(self) -> Iterator[str]:
        if self.problem:
            yield self.problem
        elif not self.contours:
            yield "empty: no contours"
        elif not self.volume_ml:
            yield "empty: no voxel of the stack lies in it"
        if self.gaps:
            yield f"gaps: {counted(self.gaps, 'slices')}, {self.filled or 'none'} filled"
        for count, words in (
            (self.beyond, "beyond the slices"),
            (self.between, "between slices"),
            (self.open, "open or points"),
            (self.copies, "copies"),
        ):
            if count:
                yield f"{count} {words}"
        if not self.label:
            yield "not wanted"


class RegionReport(Sequence[Region]):
    """The regions of interest of a structure set on a stack, in the order of the file.

    It prints as a table. ``pandas.DataFrame(list(report))`` has a column per attribute of `Region`.

    Attributes
    ----------
    unmatched : tuple of (int or str)
        The items of `rois=` that match no region.
    """

    def __init__(self, regions: Sequence[Region], unmatched: Sequence[Wanted]) -> None:
        self._regions, self.unmatched = tuple(regions), tuple(unmatched)

    def __len__(self) -> int:
        return len(self._regions)

    @overload
    def __getitem__(self, number: int) -> Region: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Region]: ...
    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            rows_of_slice(number, len(self), "region")
            return self._regions[number]
        return self._regions[position_in(number, len(self), "region")]

    def __repr__(self) -> str:
        rows = [
            (
                str(each.number),
                each.name,
                each.label,
                each.matched_by,
                str(each.contours),
                str(each.slices),
                "" if np.isnan(each.distance_mm) else f"{each.distance_mm:.3f}",
                str(each.outside),
                f"{each.volume_ml:.3f}",
                "; ".join(each.remarks),
            )
            for each in self._regions
        ]
        lines = [counted(len(rows), "regions"), *text_columns(_TITLES, rows, _RIGHT)]
        if self.unmatched:
            lines.append(f"no region is named {', '.join(map(repr, self.unmatched))}")
        return "\n".join(lines)


def report_on(stack: Stack, rois: Sequence[Roi], wish: Wish) -> RegionReport:
    """Return what becomes of each region of interest on a stack.

    Parameters
    ----------
    stack
        The stack.
    rois
        The regions of interest.
    wish
        The option ``rois=`` of `read_labels`.

    Raises
    ------
    AnnotationError
        The positions of the stack are unknown.
    UsageError
        The wish is none, or a pattern is no regular expression.
    """
    planes = Planes.of(stack)
    facts = [roi.facts for roi in rois]
    matched, unmatched, labels = _matches(facts, wish)
    regions = []
    for roi in rois:
        number = roi.facts.number
        labelled = (number, roi.facts.label, labels.get(number, ""), matched.get(number, ""))
        try:
            require_usable(roi, stack)
            placed = place(roi.contours, planes)
        except AnnotationError as error:
            problem = str(error)
            regions.append(Region(*labelled, len(roi.contours), problem=problem))
            continue
        regions.append(_region(labelled, len(roi.contours), placed, (planes, stack.shape)))
    return RegionReport(regions, unmatched)


def _matches(
    facts: Sequence[Segment], wish: Wish
) -> tuple[dict[int, str], list[Wanted], dict[int, str]]:
    """Return {number: item that matches}, the items that match nothing, and {number: label}."""
    items: list[Wanted] = []
    given: Wish = wish
    if isinstance(wish, Mapping):
        lists = {
            name: [each] if isinstance(each, str | int) else list(each)
            for name, each in wish.items()
        }
        items = [item for each in lists.values() for item in each]
    elif wish is not None and not isinstance(wish, str | int):
        items = list(wish)
    matched: dict[int, str] = {}
    unmatched = []
    for item in items:
        named = [each.number for each in facts if is_named(each, item)]
        for number in named:
            matched.setdefault(number, str(item))
        if not named:
            unmatched.append(item)
    if isinstance(wish, Mapping):
        given = {
            name: [item for item in each if item not in unmatched] for name, each in lists.items()
        }
    elif items:
        given = [item for item in items if item not in unmatched]
    choices = all_of(facts) if given is None else chosen(facts, given, "rois")
    labels = {number: choice.name for choice in choices for number in choice.numbers}
    return matched, unmatched, labels


def _region(
    labelled: tuple[int, str, str, str], contours: int, placed: Placed, grid: tuple[Planes, Voxel]
) -> Region:
    planes, shape = grid
    own = np.isin(placed.edges.planes, placed.drawn)
    ends = np.concatenate([placed.edges.left[own], placed.edges.right[own]])
    return Region(
        *labelled,
        contours,
        len(placed.drawn) + len(placed.filled),
        placed.distance_mm,
        int(_is_outside(placed.extents, shape).any(axis=1).sum()),
        # Each point is an end of two edges.
        int(_is_outside(ends, shape).sum()) // 2,
        placed.beyond,
        placed.between,
        placed.open,
        placed.copies,
        placed.gaps,
        len(placed.filled),
        _volume_ml(placed, planes, shape),
    )


def _is_outside(points: Floats, shape: Voxel) -> Any:
    """Return whether (..., 2) points lie beyond the edges of the outermost pixels."""
    return ((points < -0.5) | (points > np.array(shape[1:]) - 0.5)).any(axis=-1)


def _volume_ml(placed: Placed, planes: Planes, shape: Voxel) -> float:
    """Return the volume of the voxels of a region, with the local spacing of slices."""
    low = np.maximum(placed.start, 0)
    high = np.minimum(placed.stop, shape)
    if (low >= high).any():
        return 0.0
    pixel = float(np.linalg.norm(np.cross(planes.down, planes.right)))
    heights, volume = planes.reach.sum(axis=1), 0.0
    rows, columns = int(high[1] - low[1]), int(high[2] - low[2])
    for first, last in slabs((int(high[0] - low[0]), rows, columns), 1):
        start, stop = int(low[0]) + first, int(low[0]) + last
        mask = placed.edges.fill(
            (start, int(low[1]), int(low[2])), (stop, int(high[1]), int(high[2]))
        )
        volume += float(mask.sum(axis=(1, 2)) @ heights[start:stop]) * pixel
    return volume / 1000
