"""The exporter of each format."""

from collections.abc import Callable
from typing import Final

from dicomdl.index.index import Index
from dicomdl.jobs.exports.datalist import DatalistExporter
from dicomdl.jobs.exports.exporter import Exporter
from dicomdl.jobs.exports.frames import HuggingFaceExporter, PngExporter, YoloExporter
from dicomdl.jobs.exports.nnunet import NnunetExporter
from dicomdl.jobs.exports.options import ExportOptions
from dicomdl.jobs.exports.webdataset import WebDatasetExporter

_EXPORTERS: Final[dict[str, Callable[..., Exporter]]] = {
    "nnunet": NnunetExporter,
    "webdataset": WebDatasetExporter,
    "datalist": DatalistExporter,
    "png": PngExporter,
    "hf": HuggingFaceExporter,
    "yolo": YoloExporter,
}


def exporter_of(index: Index, options: ExportOptions, *, workers: int | None = None) -> Exporter:
    """Return the exporter of an index for some options; see `Exporter`."""
    return _EXPORTERS[options.to](index, options, workers=workers)
