"""From a folder of DICOM to PyTorch batches: right, fast, and without a detour through another file format.

The public names are loaded when first used: importing dicomdl imports neither torch nor SimpleITK nor pyarrow.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dicomdl.version import __version__

if TYPE_CHECKING:
    from dicomdl.cache import DiskCache as DiskCache
    from dicomdl.cache import MemoryCache as MemoryCache
    from dicomdl.datasets import FrameDataset as FrameDataset
    from dicomdl.datasets import PatchDataset as PatchDataset
    from dicomdl.datasets import VolumeDataset as VolumeDataset
    from dicomdl.datasets import apply_intensity as apply_intensity
    from dicomdl.datasets import collate as collate
    from dicomdl.errors import DicomdlError as DicomdlError
    from dicomdl.frame import Frame as Frame
    from dicomdl.geometry import Geometry as Geometry
    from dicomdl.geometry import Tolerances as Tolerances
    from dicomdl.gpu import DeviceDecoder as DeviceDecoder
    from dicomdl.index import Group as Group
    from dicomdl.index import Index as Index
    from dicomdl.index import Series as Series
    from dicomdl.index import Stack as Stack
    from dicomdl.index import Study as Study
    from dicomdl.index import open_index as open_index
    from dicomdl.intensity import Percentile as Percentile
    from dicomdl.intensity import RealWorld as RealWorld
    from dicomdl.intensity import Rescale as Rescale
    from dicomdl.intensity import Window as Window
    from dicomdl.intensity import by_modality as by_modality
    from dicomdl.intensity import preset as preset
    from dicomdl.intensity import presets as presets
    from dicomdl.patches import Balanced as Balanced
    from dicomdl.patches import Centers as Centers
    from dicomdl.patches import Foreground as Foreground
    from dicomdl.patches import Grid as Grid
    from dicomdl.patches import Stitcher as Stitcher
    from dicomdl.patches import Uniform as Uniform
    from dicomdl.patches import stitch as stitch
    from dicomdl.pixels import read_frame as read_frame
    from dicomdl.samplers import RowBatchSampler as RowBatchSampler
    from dicomdl.samplers import RowSampler as RowSampler
    from dicomdl.samplers import WithEpoch as WithEpoch
    from dicomdl.scanner import scan as scan
    from dicomdl.streams import StackStream as StackStream
    from dicomdl.suv import SUV as SUV
    from dicomdl.volume import Volume as Volume
    from dicomdl.volume import read_volume as read_volume

_HOMES = {
    "Balanced": "patches",
    "Centers": "patches",
    "DeviceDecoder": "gpu",
    "DicomdlError": "errors",
    "DiskCache": "cache",
    "Foreground": "patches",
    "Frame": "frame",
    "FrameDataset": "datasets",
    "Geometry": "geometry",
    "Grid": "patches",
    "Group": "index",
    "Index": "index",
    "MemoryCache": "cache",
    "PatchDataset": "datasets",
    "Percentile": "intensity",
    "RealWorld": "intensity",
    "Rescale": "intensity",
    "RowBatchSampler": "samplers",
    "RowSampler": "samplers",
    "SUV": "suv",
    "Series": "index",
    "Stack": "index",
    "StackStream": "streams",
    "Stitcher": "patches",
    "Study": "index",
    "Tolerances": "geometry",
    "Uniform": "patches",
    "Volume": "volume",
    "VolumeDataset": "datasets",
    "Window": "intensity",
    "WithEpoch": "samplers",
    "apply_intensity": "datasets",
    "by_modality": "intensity",
    "collate": "datasets",
    "open_index": "index",
    "preset": "intensity",
    "presets": "intensity",
    "read_frame": "pixels",
    "read_volume": "volume",
    "scan": "scanner",
    "stitch": "patches",
}

__all__ = [
    "__version__",
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dicomdl' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"dicomdl.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
