"""RT structure sets: regions of interest and their contours (PS3.3 C.8.8.5, C.8.8.6, C.8.8.8).

Contour Data are parsed from their bytes. pydicom makes an object per number, which takes thirty
times as long.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from dicomdl.arrays import Floats, Ints
from dicomdl.errors import HeaderError
from dicomdl.headers.annotation import Segment, regions_of
from dicomdl.headers.data_set import Item, read_data_set
from dicomdl.headers.frame_references import FrameReference, references_in
from dicomdl.headers.uids import RT_STRUCTURE_SET
from dicomdl.storage.sources import Source

_SOP_CLASS_UID: Final = 0x00080016
_ROI_CONTOUR_SEQUENCE: Final = 0x30060039
_CONTOUR_IMAGE_SEQUENCE: Final = 0x30060016
_CONTOUR_SEQUENCE: Final = 0x30060040
_CONTOUR_GEOMETRIC_TYPE: Final = 0x30060042
_CONTOUR_SLAB_THICKNESS: Final = 0x30060044
_CONTOUR_OFFSET_VECTOR: Final = 0x30060045
_CONTOUR_DATA: Final = 0x30060050
_REFERENCED_ROI_NUMBER: Final = 0x30060084

# Types that enclose an area (PS3.3 C.8.8.6.1): a plane each, or several combined by exclusive or.
# Planning systems write the last one, which is not in the standard, between slices that were drawn.
CLOSED_TYPES: Final = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "INTERPOLATED_PLANAR")


@dataclass(frozen=True, slots=True, eq=False)
class Contours:
    """The contours of one region of interest.

    Attributes
    ----------
    points : numpy.ndarray
        (points, 3) float64, LPS mm: the points of all contours, one after the other, where their
        region is (see `_offset`).
    starts : numpy.ndarray
        (contours + 1,) int64: the first point of each contour, then the number of points.
    types : tuple of str
        Contour Geometric Type per contour: "CLOSED_PLANAR", "POINT", ...
    unusable : tuple of (int, str)
        The number of each contour (from 0) whose data are no points, and the reason. Such a contour
        has no points.
    images : tuple of tuple of FrameReference
        The images that each contour was drawn on, as far as it names them.
    """

    points: Floats
    starts: Ints
    types: tuple[str, ...]
    unusable: tuple[tuple[int, str], ...]
    images: tuple[tuple[FrameReference, ...], ...]

    def __len__(self) -> int:
        return len(self.types)

    def taken(self, numbers: Ints) -> "Contours":
        """Return the contours with some numbers, which ascend."""
        ends = [slice(self.starts[each], self.starts[each + 1]) for each in numbers.tolist()]
        new = {old: number for number, old in enumerate(numbers.tolist())}
        return Contours(
            np.concatenate([self.points[:0], *(self.points[each] for each in ends)]),
            np.cumsum([0, *np.diff(self.starts)[numbers]], dtype=np.int64),
            tuple(self.types[each] for each in new),
            tuple((new[each], reason) for each, reason in self.unusable if each in new),
            tuple(self.images[each] for each in new),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Roi:
    """One region of interest: its facts, and its contours, none for an empty region."""

    facts: Segment
    contours: Contours

    def __repr__(self) -> str:
        return f"Roi({self.facts.number}, {self.facts.label!r}, {len(self.contours)} contours)"


class StructureSet(NamedTuple):
    """The regions of interest of an RT structure set, in the order of the file.

    Attributes
    ----------
    rois
        The regions.
    stray
        How many contours belong to a number that no region has.
    """

    rois: tuple[Roi, ...]
    stray: int


def read_structure_set(source: Source) -> StructureSet:
    """Read the regions of interest of an RT structure set.

    Raises
    ------
    HeaderError
        The file is damaged or is no structure set, or two regions have one number.
    PixelError
        The file cannot be read, or has changed since the scan.
    """
    data_set = read_data_set(source)
    sop_class = data_set[_SOP_CLASS_UID].text
    if sop_class != RT_STRUCTURE_SET:
        raise HeaderError(
            f"the file is no RT structure set: its SOP class is {sop_class or 'absent'}",
            reason="other_sop_class",
        )
    contours: dict[int | None, list[Item]] = {}
    for item in data_set[_ROI_CONTOUR_SEQUENCE].items():
        drawn = contours.setdefault(item[_REFERENCED_ROI_NUMBER].integer, [])
        drawn += item[_CONTOUR_SEQUENCE].items()
    regions = list(regions_of(data_set))
    numbers = [region.number for region in regions]
    if len(set(numbers)) < len(numbers):
        raise HeaderError(
            f"{len(numbers)} regions of interest have {len(set(numbers))} distinct numbers "
            "(ROI Number (3006,0022))",
            reason="malformed",
        )
    rois = tuple(Roi(each, _contours(contours.pop(each.number, []))) for each in regions)
    return StructureSet(rois, sum(map(len, contours.values())))


def _contours(items: Sequence[Item]) -> Contours:
    """Return the contours of one region."""
    data = [item[_CONTOUR_DATA].raw.strip(b"\0 \\") for item in items]
    counts = [raw.count(b"\\") + 1 if raw else 0 for raw in data]
    unusable: list[tuple[int, str]] = []
    # All at once takes half the time of one by one, which finds those that are no points.
    points = None if any(count % 3 for count in counts) else _points(b"\\".join(filter(None, data)))
    if points is None or not all(counts):
        parts = [np.zeros((0, 3))]
        for number, raw in enumerate(data):
            found = _points(raw) if raw and counts[number] % 3 == 0 else None
            if found is None:
                unusable.append((number, _reason(counts[number])))
                counts[number] = 0
            else:
                parts.append(found)
        points = np.concatenate(parts)
    starts = np.cumsum([0, *counts], dtype=np.int64) // 3
    offsets = [_offset(item) for item in items]
    if any(offset is not None for offset in offsets):
        moves = [np.zeros(3) if offset is None else offset for offset in offsets]
        points = points + np.repeat(moves, np.diff(starts), axis=0)
    types = tuple(item[_CONTOUR_GEOMETRIC_TYPE].text.upper() for item in items)
    return Contours(points, starts, types, tuple(unusable), _images(items))


def _images(items: Sequence[Item]) -> tuple[tuple[FrameReference, ...], ...]:
    """Return the images that each contour was drawn on; those of one slice name the same."""
    sequences = [item[_CONTOUR_IMAGE_SEQUENCE] for item in items]
    distinct = {each.raw: each for each in sequences}
    found = {raw: tuple(references_in(each)) for raw, each in distinct.items()}
    return tuple(found[each.raw] for each in sequences)


def _offset(item: Item) -> Floats | None:
    """Return the way from the points of a contour to its region, (3,) float64, LPS mm.

    None for a contour that lies where its region is. Contour Offset Vector counts together with
    Contour Slab Thickness only: the vector leads to the central plane of the slab (PS3.3 2020d
    C.8.8.6.2; retired since).
    """
    raw = item[_CONTOUR_OFFSET_VECTOR].raw.strip(b"\0 ")
    if not raw:
        return None
    thickness = numbers_of(item[_CONTOUR_SLAB_THICKNESS].raw.strip(b"\0 ") or b"0")
    offset = numbers_of(raw)
    is_slab = thickness is not None and thickness.shape == (1,) and thickness[0] > 0
    return offset if is_slab and offset is not None and offset.shape == (3,) else None


def _points(raw: bytes) -> Floats | None:
    """Return (n, 3) points out of the bytes of Contour Data; None if a value is no number."""
    values = numbers_of(raw) if raw else np.zeros(0)
    return None if values is None else values.reshape(-1, 3)


def _reason(count: int) -> str:
    """Return why Contour Data of some number of values are no points."""
    if not count:
        return "Contour Data (3006,0050) is empty"
    if count % 3:
        return f"Contour Data (3006,0050) has {count} values, which is no multiple of 3"
    return f"Contour Data (3006,0050) of {count} values has one that is no finite number"


def numbers_of(raw: bytes) -> Floats | None:
    """Return the numbers of a DS with several values (PS3.5 6.2); None if one of them is none."""
    with warnings.catch_warnings():
        # NumPy warns where it stops, and returns the numbers before.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            values = np.fromstring(raw, np.float64, sep="\\")
        except ValueError:
            return None
    complete = len(values) == raw.count(b"\\") + 1 and bool(np.isfinite(values).all())
    return values if complete else None
