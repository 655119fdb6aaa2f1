"""Frames as pictures, in three layouts: with a table, for Hugging Face, and for detectors of YOLO.

A frame is one PNG or JPEG below the folder of its part. The window of each is in the table, so that
values come back from pixels.
"""

import abc
import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from dicomdl.datasets.frames import FrameDataset
from dicomdl.errors import UsageError
from dicomdl.index.index import Index
from dicomdl.jobs.exports._pictures import SUFFIXES, encoded, pixels_of, window_of
from dicomdl.jobs.exports._records import Entry
from dicomdl.jobs.exports._samples import Case
from dicomdl.jobs.exports.exported import REMARKS
from dicomdl.jobs.exports.exporter import FileExporter, make_parents, written
from dicomdl.jobs.exports.options import TRAIN, ExportOptions
from dicomdl.storage import publishing as storage
from dicomdl.values.intensity import Intensity

TABLE: Final = "frames.csv"
_FACTS: Final = (
    *("modality", "patient_id", "study_instance_uid", "series_instance_uid"),
    *("sop_instance_uid", "frame_number"),
)
_VALIDATION: Final = "val"
_ROUNDED: Final = (
    "modality values with fractions were rounded to whole numbers: a window as the intensity keeps "
    "them, and the table has its limits"
)


class PictureExporter(FileExporter):
    """An exporter whose samples are frames as pictures.

    Raises
    ------
    UsageError
        Pixels of 8 bits are to hold values without a window.
    """

    def __init__(self, index: Index, options: ExportOptions, *, workers: int | None = None) -> None:
        super().__init__(index, options, workers=workers)
        dataset = self.samples.dataset
        assert isinstance(dataset, FrameDataset)
        self.frames = dataset
        self.are_values = options.intensity == "modality"
        if self.are_values and options.picture != "png16":
            raise UsageError(
                "intensity='modality' needs 16 bits per pixel: picture='png16', or pass a window"
            )

    @abc.abstractmethod
    def folder_of(self, part: str) -> str:
        """Return the folder of the pictures of a part, below the output folder."""

    def _save(self, case: Case, sample: Any, folder: str) -> tuple[list[str], dict[str, Any]]:
        recipe: Intensity = self.frames.recipe(case.row)
        image = sample["image"].numpy()
        pixels = pixels_of(image, self.options.picture, are_values=self.are_values)
        name = f"{case.name}{SUFFIXES[self.options.picture]}"
        files = [(f"{self.folder_of(case.part)}/{name}", encoded(pixels, self.options.picture))]
        facts: dict[str, Any] = {
            "file": files[0][0],
            "size": list(pixels.shape[:2]),
            **window_of(recipe, are_values=self.are_values),
            **{fact: sample[fact] for fact in _FACTS},
        }
        if "label" in sample:
            files.append(self._mask(case, sample["label"].numpy()))
            facts["mask"] = files[1][0]
        if "target" in sample:
            values = np.atleast_1d(sample["target"].numpy()).tolist()
            facts["target"] = [None if value != value else value for value in values]
        if "boxes" in sample:
            facts["boxes"] = sample["boxes"].numpy().astype(float).tolist()
            facts["box_labels"] = (
                sample["box_labels"].tolist()
                if "box_labels" in sample
                else [0] * len(facts["boxes"])
            )
        if self.are_values and not np.array_equal(np.rint(image), image):
            facts[REMARKS] = [_ROUNDED]
        files += self._beside(case, facts)
        storage.write_files(folder, files)
        return [path for path, _ in files], facts

    def _beside(self, case: Case, facts: dict[str, Any]) -> list[tuple[str, bytes]]:
        """Return further files of a frame, as (path, bytes)."""
        del case, facts
        return []

    def _mask(self, case: Case, label: Any) -> tuple[str, bytes]:
        """Return path and bytes of a label map as a PNG."""
        if label.ndim != 2:
            raise UsageError(
                f"a frame has {len(label)} masks, and a picture holds a label map: leave "
                "channels=True out"
            )
        if label.min(initial=0) < 0:
            raise UsageError(f"a label is {int(label.min())}: expected numbers from 0")
        values = label.astype(np.uint8 if label.max(initial=0) <= 255 else np.uint16)
        return f"masks/{case.part}/{case.name}.png", encoded(values, "png")

    @property
    def classes(self) -> Sequence[Any]:
        """The values of the classes of the target; () for numbers, or without a target."""
        return self.frames.target_classes if self.options.target else ()


class PngExporter(PictureExporter):
    """The exporter of "png"."""

    def folder_of(self, part: str) -> str:
        """Return the folder of the pictures of a part, below the output folder."""
        return f"images/{part}"

    def publish(self, entries: Iterable[Entry], folder: str) -> list[str]:
        """Write the table of frames; see `Exporter.publish`."""
        taken = written(entries)
        columns = ["file", "split", "fold", *_FACTS, "rows", "columns"]
        columns += ["low", "high", "intensity"]
        targets = _target_names(self)
        columns += targets
        columns += [name for name in ("mask", "boxes", "box_labels") if name in taken[0]]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns)
        for entry in taken:
            values = dict(zip(targets, entry.get("target", ()), strict=True))
            sizes = dict(zip(("rows", "columns"), entry["size"], strict=True))
            cells = {**entry, **sizes, **values}
            table.writerow([_cell(cells.get(name)) for name in columns])
        storage.write_whole(os.path.join(folder, TABLE), text.getvalue().encode())
        return [TABLE]


class HuggingFaceExporter(PictureExporter):
    """The exporter of "hf": the layout imagefolder of the package datasets."""

    def folder_of(self, part: str) -> str:
        """Return the folder of the pictures of a part, below the output folder."""
        return {_VALIDATION: "validation"}.get(part, part)

    def publish(self, entries: Iterable[Entry], folder: str) -> list[str]:
        """Write the metadata of each part; see `Exporter.publish`."""
        taken, paths = written(entries), []
        for part in self.options.parts:
            of_part = [entry for entry in taken if entry["split"] == part]
            if of_part:
                lines = [json.dumps(self._line(entry), allow_nan=False) for entry in of_part]
                path = f"{self.folder_of(part)}/metadata.jsonl"
                data = ("\n".join(lines) + "\n").encode()
                storage.write_whole(make_parents(folder, path), data)
                paths.append(path)
        return paths

    def _mask(self, case: Case, label: Any) -> tuple[str, bytes]:
        _, data = super()._mask(case, label)
        return f"{self.folder_of(case.part)}/masks/{case.name}.png", data

    def _line(self, entry: Entry) -> dict[str, Any]:
        """Return the metadata of a picture."""
        place = f"{self.folder_of(entry['split'])}/"
        line = {"file_name": entry["file"].removeprefix(place)}
        if "mask" in entry:
            line["mask_file_name"] = entry["mask"].removeprefix(place)
        if "target" in entry:
            values = [_class(value, self.classes) for value in entry["target"]]
            line |= dict(zip(_target_names(self), values, strict=True))
        if "boxes" in entry:
            # As COCO has them: the first corner, width and height.
            boxes = [[x, y, right - x, low - y] for x, y, right, low in entry["boxes"]]
            line["objects"] = {"bbox": boxes, "categories": entry["box_labels"]}
        if self.options.split is not None and self.options.split.k is not None:
            line["fold"] = entry["fold"]
        return line | {name: entry[name] for name in (*_FACTS, "low", "high", "intensity")}


class YoloExporter(PictureExporter):
    """The exporter of "yolo": pictures and boxes of detectors.

    Raises
    ------
    UsageError
        There are no boxes, or no parts for training and validation.
    """

    def __init__(self, index: Index, options: ExportOptions, *, workers: int | None = None) -> None:
        if options.boxes is None:
            raise UsageError("YOLO needs boxes: pass boxes=Boxes(...), joined columns of frames")
        if not {TRAIN, _VALIDATION} <= set(options.parts):
            raise UsageError(
                "YOLO needs parts for training and validation: pass split=(0.8, 0.2), or one of "
                "three parts"
            )
        super().__init__(index, options, workers=workers)

    def folder_of(self, part: str) -> str:
        """Return the folder of the pictures of a part, below the output folder."""
        return f"images/{part}"

    def publish(self, entries: Iterable[Entry], folder: str) -> list[str]:
        """Write ``data.yaml``; see `Exporter.publish`."""
        written(entries)
        names = [str(name) for name in self.frames.box_classes]
        if not names:
            most = max((max(e.get("box_labels") or [0]) for e in entries), default=0)
            names = ["object"] if most == 0 else [str(number) for number in range(most + 1)]
        # JSON is YAML, so that no name needs other quotes.
        lines = ["path: ."]
        lines += [f"{part}: images/{part}" for part in self.options.parts]
        lines += ["names:", *(f"  {number}: {json.dumps(n)}" for number, n in enumerate(names))]
        data = ("\n".join(lines) + "\n").encode()
        storage.write_whole(os.path.join(folder, "data.yaml"), data)
        return ["data.yaml"]

    def _beside(self, case: Case, facts: dict[str, Any]) -> list[tuple[str, bytes]]:
        rows, columns = facts["size"]
        lines = []
        for (x, y, right, low), number in zip(facts["boxes"], facts["box_labels"], strict=True):
            if number < 0:
                raise UsageError(
                    "a box has no class, and a label of YOLO needs one: leave such rows out of the "
                    "table"
                )
            middle = ((x + right) / 2 / columns, (y + low) / 2 / rows)
            size = ((right - x) / columns, (low - y) / rows)
            lines.append(" ".join([str(number), *(f"{value:.8g}" for value in (*middle, *size))]))
        text = "".join(f"{line}\n" for line in lines)
        return [(f"labels/{case.part}/{case.name}.txt", text.encode())]


def _target_names(exporter: PictureExporter) -> list[str]:
    """Return the names of the columns of the target."""
    target = exporter.options.target
    if target is None:
        return []
    given = getattr(target, "columns", target)
    return [given] if isinstance(given, str) else list(given)


def _class(value: Any, classes: Sequence[Any]) -> Any:
    """Return the value of a class, or the number itself; None where it is unknown."""
    if value is None or not classes or isinstance(value, float):
        return value
    return classes[value] if 0 <= value < len(classes) else None


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value)
    return "" if value is None else value
