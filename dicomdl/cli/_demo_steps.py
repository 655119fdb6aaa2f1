"""The steps of `dicomdl demo`. Each says what it does, and returns plain values for JSON."""

import contextlib
import importlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pydicom
import torch

from dicomdl.arrays import Values
from dicomdl.cli._demo_repairs import BRAIN, FIRST, UPTAKE, Panel, Repair, Repairs, cut
from dicomdl.datasets.frames import FrameDataset
from dicomdl.datasets.patch_samplers import Balanced
from dicomdl.datasets.patches import PatchDataset
from dicomdl.datasets.selection import LeftOutWarning
from dicomdl.errors import MissingExtra
from dicomdl.extras import import_extra
from dicomdl.geometry.grid import Geometry
from dicomdl.index.index import Index
from dicomdl.index.text import counted, format_lengths, text_columns
from dicomdl.index.views import Stack
from dicomdl.jobs.demo_data import DemoData, demo_data
from dicomdl.jobs.reading import read_volume
from dicomdl.jobs.scan import scan
from dicomdl.labels.read import read_labels
from dicomdl.labels.source import LABEL_KINDS
from dicomdl.storage.publishing import make_folder
from dicomdl.values.request import IntensityOption
from dicomdl.values.suv import SUV
from dicomdl.volumes.pictures import montage, write_png
from dicomdl.volumes.volume import Volume

# Rows and columns of frames in the epoch and on the contact sheet.
_TILE: Final = 160
_TILES: Final = 18
_PATCH: Final = (32, 64, 64)
# What pydicom's files are like, per reason of a problem.
_WHY: Final = {
    "no_pixel_data": "pydicom cut the pixels off, to keep its package small",
    "truncated": "the file ends before its data do",
    "missing_attribute": "no Rows or Columns in the header",
    "invalid_value": "a value that is no number",
    "malformed": "neither a SOP class nor pixels",
}
# Windows of the head by modality, on frames.
_HEAD: Final[dict[str, IntensityOption]] = {"CT": BRAIN, "PT": (SUV(), UPTAKE)}
# Values above which a voxel near the lesion belongs to it, HU and SUV.
_ABOVE: Final = {"CT": 50.0, "PT": 8.5}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work in one thread: for batches this small, more threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Demo:
    """The demo in a folder; its steps run in order.

    Parameters
    ----------
    folder
        The folder for data, index and pictures.
    say
        Prints text.
    """

    index: Index
    _data: DemoData
    _repairs: list[Repair]

    def __init__(self, folder: str, say: Callable[[str], object]) -> None:
        self.folder = folder
        self.say = say
        make_folder(folder)

    def data(self, number: int) -> dict[str, Any]:
        """Write the made-up head."""
        start = time.perf_counter()
        self._data = demo_data(os.path.join(self.folder, "data"))
        seconds = time.perf_counter() - start
        self.say(
            f"{number}. data: a made-up head in 7 Series, each with a trap, and its labels, in "
            f"{seconds:.1f} s\n"
            f"   {self._data.folder}\n"
        )
        return {"folder": self._data.folder, "lesion_mm": self._data.lesions[FIRST].center}

    def scan(self, number: int) -> dict[str, Any]:
        """Index the head and the files that pydicom ships, and explain the counts."""
        shipped = _pydicom_files()
        start = time.perf_counter()
        out = os.path.join(self.folder, "demo.index")
        self.index = scan([self._data, shipped], out, progress=False)
        seconds = time.perf_counter() - start
        head = self.index.select(patient_id=FIRST)
        self.say(
            f"{number}. scan: headers of {self.index.ledger['files']} files in {seconds:.1f} s\n"
            f"{self.index!r}\n" + "\n".join(self._explained(head)) + "\n"
        )
        return {"seconds": round(seconds, 3), "frames_of_the_head": len(head)}

    def _explained(self, head: Index) -> list[str]:
        """Return lines that explain every count of the index."""
        index, ledger = self.index, self.index.ledger
        paths = {head.frame(row).path for row in range(len(head))}
        structures = [each.path for each in head.annotations if each.path not in paths]
        segmented = head.select(modality="SEG")
        ours = len(paths) + len(structures)
        mosaics = head.select(modality="MR", series_description="fMRI*")
        tiles = mosaics.stacks[0].slices
        copies = int((~index.select(min_position_in_stack=0)).counts["frames"])
        reasons = index.problems.reasons()
        lines = [
            f"{ours} files of the head hold {len(head)} frames: each of its "
            f"{len(mosaics) // tiles} mosaics holds {tiles}, its SEG {len(segmented)}, its "
            "RTSTRUCT none",
            f"{ledger['files'] - ours - 1} files come with pydicom, for its tests: many are "
            "damaged or cut on purpose",
            f"{copies} frames are equal copies: pydicom ships some images more than once",
            f"{ledger['no_image']} DICOM files have no image by their kind: plans, "
            "structures, waveforms, reports, DICOMDIR",
            f"{ledger['not_dicom']} files are no DICOM: tables, texts, and the README of the head",
            f"{counted(len(index.problems), 'problems')}, each with its file: dicomdl show "
            f"--problems {index.path}",
            *(f"  {n} {reason}: {_WHY.get(reason, '')}" for reason, n in reasons.items()),
        ]
        return [f"   {line}" for line in lines]

    def volumes(self, number: int) -> list[dict[str, Any]]:
        """Read the Series that show the lesion, and find it by their affines."""
        center = np.array(self._data.lesions[FIRST].center)
        rows, cells = [], []
        for stack in _by_series(self.index.select(patient_id=FIRST, modality=["CT", "PT"])):
            start = time.perf_counter()
            volume = _read(stack)
            seconds = time.perf_counter() - start
            found = _found(volume, center, _ABOVE[stack.modality])
            place = " ".join(f"{each:6.1f}" for each in found)
            shape = " x ".join(map(str, volume.shape))
            cells.append(
                [
                    os.path.basename(stack.path),
                    stack.verdict,
                    shape,
                    format_lengths(volume.spacing),
                    f"{1000 * seconds:.0f} ms",
                    place,
                ]
            )
            rows.append(
                {
                    "series": cells[-1][0],
                    "verdict": stack.verdict,
                    "shape": list(volume.shape),
                    "lesion_mm": [round(float(each), 2) for each in found],
                    "seconds": round(seconds, 4),
                }
            )
        titles = ["series", "verdict", "voxels", "mm", "read", "lesion found at (LPS mm)"]
        table = "\n".join(text_columns(titles, cells, right=()))
        known = ", ".join(f"{each:g}" for each in center)
        self.say(
            f"{number}. volumes: the lesion was put at ({known}) mm, and the pixels of every "
            f"Series show it there\n{table}\n"
        )
        return rows

    def labels(self, number: int) -> list[dict[str, Any]]:
        """Read the SEG and the RTSTRUCT of the head as masks on the slices of their CT."""
        stack = self.index.select(patient_id=FIRST, has="SEG").stacks[0]
        voxel_ml = abs(float(np.linalg.det(stack.affine[:3, :3]))) / 1000
        rows, cells = [], []
        for kind in LABEL_KINDS:
            masks = read_labels(stack, kind, channels=True)
            for name, mask in zip(masks.dimension, masks.array, strict=True):
                middle = stack.geometry.voxel_to_world(np.argwhere(mask).mean(axis=0))
                volume = voxel_ml * int(mask.sum())
                place = " ".join(f"{each:6.1f}" for each in middle)
                cells.append([kind, str(name), f"{volume:.1f}", place])
                rows.append({"kind": kind, "name": name, "ml": round(volume, 2)})
                rows[-1]["middle_mm"] = [round(float(each), 2) for each in middle]
        titles = ["annotation", "label", "ml", "middle (LPS mm)"]
        table = "\n".join(text_columns(titles, cells, right=(2,)))
        self.say(
            f"{number}. labels: what the annotations of {os.path.basename(stack.path)} mark, on "
            f"its {stack.slices} slices\n{table}\n"
        )
        return rows

    def repairs(self, number: int) -> list[dict[str, str]]:
        """Read the Series as a plain loop over files does, and as dicomdl does."""
        self._repairs = Repairs(self._data, self.index).all()
        cells = [[each.series, each.wrong, each.right] for each in self._repairs]
        titles = ["series", "plain loop with pydicom", "dicomdl"]
        table = "\n".join(text_columns(titles, cells, right=()))
        self.say(f"{number}. repairs: what a plain loop over files gets wrong\n{table}\n")
        return [{"series": r.series, "wrong": r.wrong, "right": r.right} for r in self._repairs]

    def epochs(self, number: int) -> dict[str, Any]:
        """Read every frame, and patches with their labels, through a DataLoader."""
        frames = self._frames(self.index, "auto")
        patches = PatchDataset(
            self.index.select(patient_id=FIRST, modality="CT", verdict=["regular", "tilted"]),
            size=_PATCH,
            per_stack=32,
            sampler=Balanced({0: 1, 1: 1}),
            labels=self._data.labels,
            intensity=BRAIN,
        )
        patches[0]
        read, frames_s, _ = _epoch(frames, 16)
        lost = [each.error.partition(": ")[2] for each in frames.skipped]
        drawn, patches_s, self._batch = _epoch(patches, 8)
        left_out = {each.reason: each.frames for each in frames.left_out}
        size = " x ".join(map(str, _PATCH))
        lines = [
            f"frames:  {read} samples of {_TILE} x {_TILE}, {1000 * frames_s / read:.2f} ms each",
            f"patches: {drawn} samples of {size} with labels, {1000 * patches_s / drawn:.2f} ms "
            "each",
            f"{read} + {counted(len(lost), 'frames')} that no decoder can read = {len(frames)}; "
            f"with {' and '.join(f'{n} ({reason})' for reason, n in left_out.items())} these are "
            f"all {len(self.index)} frames",
            *(f"not decoded: {reason}" for reason in lost),
        ]
        self.say(
            f"{number}. epochs: one pass each, in one process and one thread\n   "
            + "\n   ".join(lines)
            + "\n"
        )
        return {
            "frames": read,
            "frame_s": round(frames_s / read, 6),
            "patches": drawn,
            "patch_s": round(patches_s / drawn, 6),
            "not_decoded": lost,
            "left_out": left_out,
        }

    def _frames(self, index: Index, intensity: IntensityOption) -> FrameDataset:
        with warnings.catch_warnings():
            # The numbers of frames are printed.
            warnings.simplefilter("ignore", LeftOutWarning)
            return FrameDataset(
                index,
                intensity,
                size=_TILE,
                fit="pad",
                channels=3,
                suv="if_possible",
                on_error="skip",
            )

    def pictures(self, number: int) -> list[str]:
        """Draw the pictures; without matplotlib, a sheet without captions."""
        try:
            import_extra("matplotlib.figure", "the demo's captions", "notebook")
        except MissingExtra as error:
            path = os.path.join(self.folder, "sheet.png")
            _write_tiles(path, [picture for _, picture in self._tiles()])
            self.say(f"{number}. pictures: {path}, without captions and repairs\n   {error}\n")
            return [path]
        from dicomdl.cli import _demo_pictures as draw

        texts = {
            "repairs.png": "before and after each repair",
            "planes.png": "one point in every Series",
            "batch.png": "patches, with outlines of their labels",
            "sheet.png": "one slice per stack",
        }
        paths = [os.path.join(self.folder, name) for name in texts]
        draw.draw_repairs(paths[0], self._repairs)
        draw.draw_planes(paths[1], *self._planes())
        draw.draw_batch(paths[2], *self._patches())
        draw.draw_sheet(paths[3], *self._sheet())
        lines = [f"   {path}: {text}" for path, text in zip(paths, texts.values(), strict=True)]
        self.say("\n".join([f"{number}. pictures", *lines, ""]))
        return paths

    def _planes(self) -> tuple[list[tuple[str, list[Panel]]], str]:
        """Return three planes through the lesion of each Series, on one grid."""
        center = self._data.lesions[FIRST].center
        affine = np.array([[0, 0, 1.6, -86], [0, 1.6, 0, -108], [2.0, 0, 0, -82], [0, 0, 0, 1]])
        grid = Geometry((92, 128, 108), affine)
        voxel = grid.world_to_voxel(center)
        columns = []
        for stack in _by_series(self.index.select(patient_id=FIRST, not_verdict="no_geometry")):
            if "acquisition_time" in stack.dimension and stack.group_index:
                continue
            rule = BRAIN if stack.modality == "CT" else UPTAKE if stack.modality == "PT" else "auto"
            volume = _read(stack).resample_to(grid).window(rule)
            panels = [cut(volume, plane, voxel, voxel) for plane in _PLANES]
            columns.append((_caption(stack), panels))
        place = ", ".join(f"{each:g}" for each in center)
        return columns, f"One point, ({place}) mm, in every Series"

    def _patches(self) -> tuple[Values, Values, str]:
        images = self._batch["image"][:, 0].numpy()
        return images, self._batch["label"].numpy(), "A batch of patches with labels"

    def _sheet(self) -> tuple[list[tuple[str, Values]], str]:
        tiles = self._tiles()
        total = counted(len(self.index.stacks), "stacks")
        return tiles, f"{len(tiles)} of {total}"

    def _tiles(self) -> list[tuple[str, Values]]:
        """Return captions and middle slices: of the head, then of pydicom's larger images."""
        head = self.index.select(patient_id=FIRST, content="image")
        shipped = self.index.select(not_patient_id=FIRST, content="image", min_rows=64)
        others = shipped.select(not_modality=["OT", None])
        firsts = [stack for stack in _by_series(head) if not stack.group_index]
        stacks = [*firsts, *others.stacks][:_TILES]
        tiles = []
        for stack in stacks:
            rule = _HEAD.get(stack.modality, "auto") if stack.patient_id == FIRST else "auto"
            frames = self._frames(self.index.of_stacks([stack]), rule)
            picture = np.moveaxis(frames[stack.slices // 2]["image"].numpy(), 0, -1)
            tiles.append((_caption(stack), picture))
        return tiles


_PLANES: Final = ("axial", "coronal", "sagittal")
# Imported before the steps, whose times they would otherwise enter.
_HEAVY: Final = ("SimpleITK", "imagecodecs", "pydicom.pixels", "matplotlib.figure")


def import_heavy() -> None:
    """Import the packages that steps would import at their first use."""
    for name in _HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _by_series(index: Index) -> list[Stack]:
    """Return the stacks of an index by Series Number."""
    return sorted(index.stacks, key=lambda stack: stack.value("series_number"))


def _read(stack: Stack) -> Volume:
    values = "suv" if stack.modality == "PT" else "modality"
    return read_volume(stack, irregular="resample", values=values)


def _found(volume: Volume, expected: Values, above: float) -> Values:
    """Return the centre of the bright voxels within 20 mm of a place, LPS mm."""
    points = volume.geometry.voxel_to_world(np.argwhere(volume.array > above))
    near = np.linalg.norm(points - expected, axis=1) < 20
    return np.asarray(points[near].mean(axis=0))


def _epoch(dataset: Any, batch_size: int) -> tuple[int, float, Any]:
    """Return the number of samples of a pass, its seconds, and the last batch."""
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size)
    samples, batch = 0, None
    start = time.perf_counter()
    for batch in loader:
        samples += len(batch["image"])
    return samples, time.perf_counter() - start, batch


def _caption(stack: Stack) -> str:
    """Return two lines on a stack: what it is, and its verdict."""
    name = stack.description or os.path.basename(stack.path)
    dimension = next(iter(stack.dimension.items()), None)
    first = f"{stack.modality or '?'} {name[:22]}"
    if dimension and dimension[0] == "echo_time":
        first += f", TE {dimension[1]:g}"
    shape = " x ".join(map(str, stack.shape))
    return f"{first}\n{shape}, {stack.verdict.replace('_', ' ')}"


def _write_tiles(path: str, pictures: list[Values]) -> None:
    stacked = np.stack(pictures)
    sheet = Volume(stacked, Geometry(stacked.shape[:3], np.eye(4)), "1")
    write_png(path, montage(sheet, len(pictures), None))


def _pydicom_files() -> str:
    """Return the folder of DICOM files inside the pydicom package."""
    return os.path.join(os.path.dirname(pydicom.__file__), "data", "test_files")
