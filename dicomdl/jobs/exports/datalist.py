"""MONAI: image files and the JSON of `load_decathlon_datalist`, with our parts and folds."""

import json
import os
from collections.abc import Iterable
from typing import Any, Final

from dicomdl.jobs.exports._records import Entry
from dicomdl.jobs.exports._samples import Case
from dicomdl.jobs.exports._volume_files import VolumeFileExporter, below
from dicomdl.jobs.exports.exporter import written
from dicomdl.storage import publishing as storage

DATALIST: Final = "dataset.json"
# Names of the lists of MONAI by those of our parts; others keep their names.
_LISTS: Final = {"train": "training", "val": "validation", "test": "test"}


class DatalistExporter(VolumeFileExporter):
    """The exporter of "datalist"."""

    def image_path(self, case: Case, channel: int) -> str:
        """Return the path of the image of a channel, below the output folder."""
        number = f"_{channel:04}" if self._has_channels else ""
        return below("images", f"{case.name}{number}{self.options.suffix}")

    def label_path(self, case: Case) -> str:
        """Return the path of the label map, below the output folder."""
        return below("labels", f"{case.name}{self.options.suffix}")

    @property
    def _has_channels(self) -> bool:
        """Whether an image has a file per channel."""
        return self.options.channels not in (None, 1)

    def publish(self, entries: Iterable[Entry], folder: str) -> list[str]:
        """Write the datalist; see `Exporter.publish`."""
        taken = written(entries)
        lists: dict[str, list[dict[str, Any]]] = {
            _LISTS.get(part, part): [] for part in self.options.parts
        }
        for entry in taken:
            part = str(entry["split"])
            lists[_LISTS.get(part, part)].append(self._item(entry))
        content = {
            "name": self.options.name or "dicomdl",
            "tensorImageSize": "3D",
            "modality": {str(n): name for n, name in enumerate(self.channel_names(taken))},
            "labels": {
                str(number) if isinstance(number, int) else ",".join(map(str, number)): name
                for name, number in self.labels_of(taken).items()
            },
            "numTraining": len(lists.get("training", ())),
            "numTest": len(lists.get("test", ())),
            **lists,
        }
        data = (json.dumps(content, indent=1) + "\n").encode()
        storage.write_whole(os.path.join(folder, DATALIST), data)
        return [DATALIST]

    def _item(self, entry: Entry) -> dict[str, Any]:
        """Return the item of a sample: paths, its target, its fold."""
        files = list(entry["files"])
        images = files[: entry["channels"]]
        item: dict[str, Any] = {"image": images if self._has_channels else images[0]}
        if self.plan is not None:
            item["label"] = files[-1]
        if "target" in entry:
            # A list without label maps is one of classes.
            item["target" if self.plan is not None else "label"] = entry["target"]
        if self.options.split is not None and self.options.split.k is not None:
            item["fold"] = entry["fold"]
        return item | {"series_instance_uid": entry["series_instance_uid"]}
