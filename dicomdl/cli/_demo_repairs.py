"""The repairs of `dicomdl demo`: what a plain loop over files shows, and what dicomdl delivers.

The plain loop is the one of many scripts: read each file with pydicom, sort, stack the pixels, and
take slope, position and spacing of the first file for all.
"""

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Floats, Values
from dicomdl.geometry.grid import Geometry
from dicomdl.index.index import Index
from dicomdl.index.views import Stack
from dicomdl.jobs.demo_data import DemoData
from dicomdl.jobs.reading import read_volume
from dicomdl.values.request import IntensityOption
from dicomdl.values.windows import Limits, Percentile
from dicomdl.volumes.volume import Volume

BRAIN: Final = "ct.brain"
FIRST: Final = "DEMO-001"
# Windows of MR, and of PET in SUV.
_SIGNAL: Final = Percentile(0.5, 99.8)
UPTAKE: Final = Limits(0, 10)


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One picture.

    Attributes
    ----------
    picture
        (rows, columns) values from 0 to 1.
    pixel
        Height and width of a pixel, mm.
    mark
        Row and column of the known position of the lesion by the affine, or None.
    """

    picture: Values
    pixel: tuple[float, float] = (1.0, 1.0)
    mark: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Repair:
    """One Series, as a plain loop shows it and as dicomdl delivers it.

    Attributes
    ----------
    series
        The folder of the Series.
    wrong, right
        What the plain loop and dicomdl make of it, in a few words.
    before, after
        The pictures.
    """

    series: str
    wrong: str
    right: str
    before: Panel
    after: Panel


class Repairs:
    """Makes the repairs of the first patient of demo data.

    Parameters
    ----------
    data
        The demo data.
    index
        An index of them.
    """

    def __init__(self, data: DemoData, index: Index) -> None:
        self.lesion = np.array(data.lesions[FIRST].center)
        self.folder = os.path.join(data.folder, "patient-01")
        self.stacks: dict[str, Stack] = {}
        for stack in index.select(patient_id=FIRST).stacks:
            self.stacks.setdefault(os.path.basename(stack.path), stack)
        self.grid = self.stacks["ct"].geometry

    def all(self) -> list[Repair]:
        """Make every repair, in the order of the Series."""
        kinds: tuple[Callable[[], Repair], ...] = (
            self._order,
            self._tilt,
            self._gap,
            self._echoes,
            self._slopes,
            self._mosaic,
            self._film,
        )
        return [make() for make in kinds]

    def _order(self) -> Repair:
        before = self._plain("ct", by_name=True)
        return Repair(
            "ct",
            "slices in the order of file names",
            "slices in the order of their positions",
            self._panel(before, "coronal", BRAIN, self._voxel("ct"), mark=False),
            self._panel(read_volume(self.stacks["ct"]), "coronal", BRAIN, self._voxel("ct")),
        )

    def _tilt(self) -> Repair:
        stack, before = self.stacks["ct-tilted"], self._plain("ct-tilted")
        off = self._distance(before, stack.geometry.world_to_voxel(self.lesion))
        angle = stack.detail["tilt_deg"]
        after = read_volume(stack).resample_to(self.grid)
        return Repair(
            "ct-tilted",
            f"a tilted gantry ignored: lesion {off:.0f} mm off",
            f"affine with the tilt of {angle:.0f} degrees, resampled upright",
            self._panel(before, "sagittal", BRAIN, self._voxel("ct-tilted")),
            self._panel(after, "sagittal", BRAIN, self._voxel("ct")),
        )

    def _gap(self) -> Repair:
        stack, before = self.stacks["ct-missing-slices"], self._plain("ct-missing-slices")
        after = read_volume(stack, irregular="resample")
        filled = int(after.filled.sum()) if after.filled is not None else 0
        voxel = after.geometry.world_to_voxel(self.lesion)
        missing = np.flatnonzero(after.filled)
        packed = voxel - np.array([(missing < voxel[0]).sum(), 0, 0])
        off = self._distance(before, packed)
        return Repair(
            "ct-missing-slices",
            f"{filled} missing slices unnoticed: lesion {off:.0f} mm off",
            f"refused with numbers, or filled: {filled} slices marked",
            self._panel(before, "coronal", BRAIN, packed),
            self._panel(after, "coronal", BRAIN, voxel),
        )

    def _echoes(self) -> Repair:
        stack, before = self.stacks["mr-two-echoes"], self._plain("mr-two-echoes")
        voxel = stack.geometry.world_to_voxel(self.lesion)
        times = [each.dimension["echo_time"] for each in stack.group]
        after = read_volume(stack.group[-1])
        return Repair(
            "mr-two-echoes",
            f"two echoes in one stack of {before.shape[0]} slices",
            f"two stacks of {stack.slices} slices: TE {times[0]:g} and {times[1]:g} ms",
            self._panel(before, "coronal", _SIGNAL, voxel * (2, 1, 1), mark=False),
            self._panel(after, "coronal", _SIGNAL, voxel),
        )

    def _slopes(self) -> Repair:
        stack = self.stacks["pet-slope-per-slice"]
        voxel = stack.geometry.world_to_voxel(self.lesion)
        after = read_volume(stack, values="suv")
        activity = read_volume(stack)
        before = self._plain("pet-slope-per-slice")
        # Bq/ml to SUV.
        factor = float(after.array.max() / activity.array.max())
        before = before.like(np.asarray(before.array * np.float32(factor)))
        z, y, x = np.rint(voxel).astype(int)
        wrong, right = float(before.array[z, y, x]), float(after.array[z, y, x])
        return Repair(
            "pet-slope-per-slice",
            f"the first slope for all slices: lesion of SUV {wrong:.1f}",
            f"the slope of each slice: lesion of SUV {right:.1f}",
            self._panel(before, "coronal", _SIGNAL, voxel),
            self._panel(after, "coronal", UPTAKE, voxel),
        )

    def _mosaic(self) -> Repair:
        stack, tiles = self.stacks["mr-mosaic"], self._datasets("mr-mosaic")[0].pixel_array
        voxel = stack.geometry.world_to_voxel(self.lesion)
        return Repair(
            "mr-mosaic",
            f"one picture of {stack.slices} tiles",
            f"{stack.slices} slices at {len(stack.group)} time points, each with its position",
            Panel(_scaled(tiles)),
            self._panel(read_volume(stack), "coronal", _SIGNAL, voxel),
        )

    def _film(self) -> Repair:
        stored = self._datasets("film")[0].pixel_array
        after = read_volume(self.stacks["film"], irregular="accept").window("auto")
        return Repair(
            "film",
            "MONOCHROME1 as it is stored: bone is dark",
            "inverted after the window: bone is bright",
            Panel(_scaled(stored)),
            Panel(np.clip(after.array[0], 0, 1)),
        )

    def _voxel(self, series: str) -> Floats:
        return np.asarray(self.stacks[series].geometry.world_to_voxel(self.lesion))

    def _distance(self, volume: Volume, voxel: Floats) -> float:
        """Return how far a voxel of the lesion lies from it by an affine, mm."""
        return float(np.linalg.norm(volume.geometry.voxel_to_world(voxel) - self.lesion))

    def _datasets(self, series: str, *, by_name: bool = False) -> list[Any]:
        import pydicom

        paths = sorted(glob.glob(os.path.join(glob.escape(self.folder), series, "*.dcm")))
        datasets = [pydicom.dcmread(path) for path in paths]
        return datasets if by_name else sorted(datasets, key=lambda each: each.InstanceNumber)

    def _plain(self, series: str, *, by_name: bool = False) -> Volume:
        """Return the volume of a plain loop over the files of a Series."""
        datasets = self._datasets(series, by_name=by_name)
        first = datasets[0]
        slope, intercept = (float(first.get(f"Rescale{n}", d)) for n, d in _RESCALE)
        array = np.stack([each.pixel_array for each in datasets])
        values = array.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        right, down = np.reshape(np.array(first.ImageOrientationPatient, float), (2, 3))
        row, column = map(float, first.PixelSpacing)
        affine = np.eye(4)
        affine[:3, 0] = np.cross(right, down) * float(first.SliceThickness)
        affine[:3, 1], affine[:3, 2] = down * row, right * column
        affine[:3, 3] = first.ImagePositionPatient
        return Volume(values, Geometry(values.shape, affine))

    def _panel(
        self,
        volume: Volume,
        plane: str,
        intensity: IntensityOption,
        through: Floats,
        *,
        mark: bool = True,
    ) -> Panel:
        """Cut a plane of an axial volume through a voxel; mark the lesion by the affine."""
        expected = volume.geometry.world_to_voxel(self.lesion)
        return cut(volume.window(intensity), plane, through, expected if mark else None)


_RESCALE: Final = (("Slope", 1.0), ("Intercept", 0.0))


def cut(volume: Volume, plane: str, through: Floats, mark: Floats | None) -> Panel:
    """Cut a plane of a windowed axial volume; coronal and sagittal pictures have the head up."""
    axis = ("axial", "coronal", "sagittal").index(plane)
    number = int(np.clip(np.rint(through[axis]), 0, volume.shape[axis] - 1))
    picture = np.clip(np.take(volume.array, number, axis=axis), 0, 1)
    kept = [each for each in range(3) if each != axis]
    pixel = (volume.spacing[kept[0]], volume.spacing[kept[1]])
    at = None if mark is None else (float(mark[kept[0]]), float(mark[kept[1]]))
    if axis:
        picture = picture[::-1]
        at = None if at is None else (len(picture) - 1 - at[0], at[1])
    return Panel(picture, pixel, at)


def _scaled(stored: Values) -> Values:
    """Scale stored values to their range, as a picture viewer does."""
    values = stored.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1.0)
