"""From a folder of DICOM to PyTorch batches: right, fast, and without a detour through another file format.

The public names are loaded when first used: importing dicomdl imports neither torch nor SimpleITK nor pyarrow.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dicomdl.version import __version__

if TYPE_CHECKING:
    from dicomdl import interop as interop
    from dicomdl.datasets.centers import Centers as Centers
    from dicomdl.datasets.collate import collate as collate
    from dicomdl.datasets.device.decoder import DeviceDecoder as DeviceDecoder
    from dicomdl.datasets.device.intensity import apply_intensity as apply_intensity
    from dicomdl.datasets.device.stack import read_stack_on_device as read_stack_on_device
    from dicomdl.datasets.frames import FrameDataset as FrameDataset
    from dicomdl.datasets.patch_samplers import Balanced as Balanced
    from dicomdl.datasets.patch_samplers import Foreground as Foreground
    from dicomdl.datasets.patch_samplers import Grid as Grid
    from dicomdl.datasets.patch_samplers import Uniform as Uniform
    from dicomdl.datasets.patches import PatchDataset as PatchDataset
    from dicomdl.datasets.samplers import RowBatchSampler as RowBatchSampler
    from dicomdl.datasets.samplers import RowSampler as RowSampler
    from dicomdl.datasets.samplers import WithEpoch as WithEpoch
    from dicomdl.datasets.stitch import Stitcher as Stitcher
    from dicomdl.datasets.stitch import stitch as stitch
    from dicomdl.datasets.stream import StackStream as StackStream
    from dicomdl.datasets.volumes import VolumeDataset as VolumeDataset
    from dicomdl.errors import DicomdlError as DicomdlError
    from dicomdl.geometry.grid import Geometry as Geometry
    from dicomdl.geometry.grid import Tolerances as Tolerances
    from dicomdl.headers.frame import Frame as Frame
    from dicomdl.index.index import Index as Index
    from dicomdl.index.index import open_index as open_index
    from dicomdl.index.views import Group as Group
    from dicomdl.index.views import Series as Series
    from dicomdl.index.views import Stack as Stack
    from dicomdl.index.views import Study as Study
    from dicomdl.jobs.crosscheck import check_pixels as check_pixels
    from dicomdl.jobs.scan import scan as scan
    from dicomdl.pixels.read import read_frame as read_frame
    from dicomdl.storage.cache.disk import DiskCache as DiskCache
    from dicomdl.storage.cache.memory import MemoryCache as MemoryCache
    from dicomdl.values.auto import by_modality as by_modality
    from dicomdl.values.maps import Limits as Limits
    from dicomdl.values.maps import Percentile as Percentile
    from dicomdl.values.maps import Window as Window
    from dicomdl.values.presets import preset as preset
    from dicomdl.values.presets import presets as presets
    from dicomdl.values.quantity import RealWorld as RealWorld
    from dicomdl.values.rescale import Rescale as Rescale
    from dicomdl.values.suv import SUV as SUV
    from dicomdl.volumes.read import read_volume as read_volume
    from dicomdl.volumes.volume import Volume as Volume

_HOMES = {
    "Balanced": "datasets.patch_samplers",
    "Centers": "datasets.centers",
    "DeviceDecoder": "datasets.device.decoder",
    "DicomdlError": "errors",
    "DiskCache": "storage.cache.disk",
    "Foreground": "datasets.patch_samplers",
    "Frame": "headers.frame",
    "FrameDataset": "datasets.frames",
    "Geometry": "geometry.grid",
    "Grid": "datasets.patch_samplers",
    "Group": "index.index",
    "Index": "index.index",
    "Limits": "values.maps",
    "MemoryCache": "storage.cache.memory",
    "PatchDataset": "datasets.patches",
    "Percentile": "values.maps",
    "RealWorld": "values.quantity",
    "Rescale": "values.rescale",
    "RowBatchSampler": "datasets.samplers",
    "RowSampler": "datasets.samplers",
    "SUV": "values.suv",
    "Series": "index.views",
    "Stack": "index.views",
    "StackStream": "datasets.stream",
    "Stitcher": "datasets.stitch",
    "Study": "index.views",
    "Tolerances": "geometry.grid",
    "Uniform": "datasets.patch_samplers",
    "Volume": "volumes.volume",
    "VolumeDataset": "datasets.volumes",
    "Window": "values.maps",
    "WithEpoch": "datasets.samplers",
    "apply_intensity": "datasets.device.intensity",
    "by_modality": "values.auto",
    "check_pixels": "jobs.crosscheck",
    "collate": "datasets.collate",
    "interop": "interop",
    "open_index": "index.index",
    "preset": "values.presets",
    "presets": "values.presets",
    "read_frame": "pixels.read",
    "read_stack_on_device": "datasets.device.stack",
    "read_volume": "volumes.read",
    "scan": "jobs.scan",
    "stitch": "datasets.stitch",
}

__all__ = [
    "__version__",
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dicomdl' has no attribute {name!r}")
    home = importlib.import_module(f"dicomdl.{_HOMES[name]}")
    value = home if name == _HOMES[name] else getattr(home, name)  # a package is its own home
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
