"""nnU-Net v2: the raw data set, with channel names, labels, and folds that divide no patient."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dicomdl.errors import UsageError
from dicomdl.index.index import Index
from dicomdl.jobs.exports._label_plan import BACKGROUND, IGNORE
from dicomdl.jobs.exports._records import Entry
from dicomdl.jobs.exports._samples import Case
from dicomdl.jobs.exports._volume_files import TEST, VolumeFileExporter, below
from dicomdl.jobs.exports.exporter import make_parents, written
from dicomdl.jobs.exports.options import TRAIN, ExportOptions
from dicomdl.storage import publishing as storage

_NAME: Final = re.compile(r"Dataset[0-9]{3}_[A-Za-z0-9_-]+")
# nnU-Net normalises a channel by its name: these by clipping to percentiles of the set, and not at
# all. Any other name means z-scores.
_CT: Final = "CT"
_AS_IS: Final = "noNorm"
VALIDATION: Final = "val"


class NnunetExporter(VolumeFileExporter):
    """The exporter of "nnunet".

    Raises
    ------
    UsageError
        There are no labels, or the name is none of nnU-Net.
    """

    def __init__(self, index: Index, options: ExportOptions, *, workers: int | None = None) -> None:
        if not _NAME.fullmatch(options.name):
            raise UsageError(
                f"name={options.name!r}: nnU-Net needs a name such as 'Dataset501_Lung', three "
                "digits and a word; own sets count from 500"
            )
        if options.labels is None:
            raise UsageError(
                "nnU-Net needs labels: pass labels='SEG', 'RTSTRUCT', a LabelSource or a function"
            )
        super().__init__(index, options, workers=workers)

    def image_path(self, case: Case, channel: int) -> str:
        """Return the path of the image of a channel, below the output folder."""
        folder = "imagesTs" if case.part == TEST else "imagesTr"
        file = f"{case.name}_{channel:04}{self.options.suffix}"
        return below(self.options.name, folder, file)

    def label_path(self, case: Case) -> str:
        """Return the path of the label map, below the output folder."""
        folder = "labelsTs" if case.part == TEST else "labelsTr"
        return below(self.options.name, folder, f"{case.name}{self.options.suffix}")

    def publish(self, entries: Iterable[Entry], folder: str) -> list[str]:
        """Write ``dataset.json`` and ``splits_final.json``; see `Exporter.publish`."""
        taken = written(entries)
        training = [entry for entry in taken if entry["split"] != TEST]
        if not training:
            raise UsageError("no sample is for training: all are of the part 'test'")
        labels = self.labels_of(taken)
        content: dict[str, Any] = {
            "channel_names": dict(enumerate(self._channel_names(taken))),
            "labels": labels,
            "numTraining": len(training),
            "file_ending": self.options.suffix,
        }
        regions = [name for name in labels if name not in (BACKGROUND, IGNORE)]
        if any(isinstance(labels[name], list) for name in regions):
            content["regions_class_order"] = [1 << bit for bit in range(len(regions))]
        paths = [self._json("dataset.json", content, folder)]
        folds = _folds(training, self.options)
        if folds:
            paths.append(self._json("splits_final.json", folds, folder))
        return paths

    def _json(self, name: str, content: Any, folder: str) -> str:
        path = below(self.options.name, name)
        data = (json.dumps(content, indent=1) + "\n").encode()
        storage.write_whole(make_parents(folder, path), data)
        return path

    def _channel_names(self, entries: list[Entry]) -> list[str]:
        """Return the names by which nnU-Net normalises: CT, or noNorm for mapped values."""
        names = self.channel_names(entries)
        return [
            _normalised(name, _intensity(self.options, name), _modalities(entries, channel))
            for channel, name in enumerate(names)
        ]


def _normalised(name: str, intensity: Any, modalities: set[str]) -> str:
    if intensity not in (None, "modality"):
        return _AS_IS
    return _CT if modalities == {_CT} else name


def _intensity(options: ExportOptions, role: str) -> Any:
    """Return the intensity of a channel; a pairing has "auto" for roles without one."""
    given = options.intensity
    if isinstance(given, Mapping):
        return given.get(role, "auto")
    return given


def _modalities(entries: Sequence[Entry], channel: int) -> set[str]:
    """Return the modalities of the images of a channel; a colour image has several channels."""
    return {entry["modalities"][min(channel, len(entry["modalities"]) - 1)] for entry in entries}


def _folds(training: Sequence[Entry], options: ExportOptions) -> list[dict[str, list[str]]]:
    """Return the folds of nnU-Net: those of the split, or its training and validation part."""
    if options.split is None:
        return []
    if options.split.k is not None:
        folds = range(options.split.k)
        return [
            {
                TRAIN: sorted(e["name"] for e in training if e["fold"] != fold),
                VALIDATION: sorted(e["name"] for e in training if e["fold"] == fold),
            }
            for fold in folds
        ]
    names = {
        part: sorted(e["name"] for e in training if e["split"] == part)
        for part in (TRAIN, VALIDATION)
    }
    return [names] if names[VALIDATION] else []
