"""Files of volumes: one image per channel of a sample, and its label map, on one grid."""

import abc
import os
from typing import Any, Final

import numpy as np

from dicomdl.errors import GeometryError, UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.index.index import Index
from dicomdl.index.pairing import Pairing
from dicomdl.jobs.exports._label_plan import LabelPlan
from dicomdl.jobs.exports._records import Entry
from dicomdl.jobs.exports._samples import Case, stored_values
from dicomdl.jobs.exports.exporter import FileExporter, make_parents
from dicomdl.jobs.exports.options import ExportOptions
from dicomdl.storage import publishing as storage
from dicomdl.volumes.resampling import MAX_SHEAR
from dicomdl.volumes.volume import Volume

# The part whose samples are for tests.
TEST: Final = "test"


class VolumeFileExporter(FileExporter):
    """An exporter whose samples are image files and label files.

    Raises
    ------
    UsageError
        The labels have no numbers that hold for all samples.
    """

    def __init__(self, index: Index, options: ExportOptions, *, workers: int | None = None) -> None:
        if options.dtype == "float16":
            raise UsageError("files of volumes hold no float16: dtype='int16', 'float32' or 'auto'")
        super().__init__(index, options, workers=workers)
        dataset = self.samples.dataset
        self.plan = None if dataset.labels is None else LabelPlan(dataset.index, dataset.labels)

    @abc.abstractmethod
    def image_path(self, case: Case, channel: int) -> str:
        """Return the path of the image of a channel, below the output folder."""

    @abc.abstractmethod
    def label_path(self, case: Case) -> str:
        """Return the path of the label map, below the output folder."""

    def _save(self, case: Case, sample: Any, folder: str) -> tuple[list[str], dict[str, Any]]:
        image = sample["image"].numpy()
        geometry = Geometry(image.shape[1:], sample["affine"].numpy())
        self._require_channels(sample)
        if geometry.shear > MAX_SHEAR:
            raise GeometryError(
                "the slices of a tilted stack have no right angle, which readers refuse: "
                "irregular='resample' puts them on a regular grid"
            )
        values = stored_values(image, self.options.dtype)
        modalities = [self.index.stack(number).modality for number in case.stacks]
        facts: dict[str, Any] = {"modalities": modalities, "channels": len(values)}
        paths = []
        for channel, of_channel in enumerate(values):
            path = self.image_path(case, channel)
            units = sample["units"] if isinstance(sample["units"], str) else ""
            _write(Volume(of_channel, geometry, units), folder, path)
            paths.append(path)
        if self.plan is not None:
            own = self.plan.map_of(sample, case.stacks[0])
            facts["most"] = int(own.max(initial=0))
            labels = self.plan.ignoring(own, sample)
            path = self.label_path(case)
            _write(Volume(labels, geometry), folder, path)
            paths.append(path)
        target = sample.get("target")
        if target is not None:
            facts["target"] = _plain(target.numpy())
        return paths, facts

    def _require_channels(self, sample: Any) -> None:
        """Raise GeometryError for a sample that lacks an image."""
        present = sample.get("present")
        if present is not None and not bool(present.all()):
            raise GeometryError(
                "the case lacks an optional image, and every case needs all channels: leave the "
                "role out of optional="
            )

    def channel_names(self, entries: list[Entry]) -> list[str]:
        """Return the name of each channel: its role, or the modality of all its images.

        Raises
        ------
        UsageError
            The samples have other numbers of channels, or images of two modalities in one.
        """
        counts = sorted({entry["channels"] for entry in entries})
        if len(counts) > 1:
            raise UsageError(
                f"samples have {counts[0]} and {counts[-1]} channels, grey and colour: expected "
                "one number; channels=1 makes all grey"
            )
        if isinstance(self.options.channels, Pairing):
            return list(self.options.channels.names)
        (modality, *others) = sorted({entry["modalities"][0] for entry in entries})
        if others:
            raise UsageError(
                f"the images are of {modality} and {', '.join(others)}, and a channel has one "
                "modality: select(modality=...), or pair them with channels=Pairing(...)"
            )
        return [modality] if counts[0] == 1 else [f"{modality}_{n}" for n in range(counts[0])]

    def labels_of(self, entries: list[Entry]) -> dict[str, Any]:
        """Return {name: number} of the labels in the files; {} without labels."""
        if self.plan is None:
            return {}
        return self.plan.numbers(max(int(entry["most"]) for entry in entries))


def _write(volume: Volume, folder: str, path: str) -> None:
    whole = make_parents(folder, path)
    volume.save(whole)
    storage.flush(whole)


def _plain(target: np.ndarray[Any, Any]) -> Any:
    """Return a target as JSON takes it: null where it is unknown."""
    values = [None if value != value else value for value in np.atleast_1d(target).tolist()]
    return values[0] if target.ndim == 0 else values


def below(*parts: str) -> str:
    """Return a path below the output folder, with slashes on every system."""
    return os.path.join(*parts).replace(os.sep, "/")
