"""`ExportOptions`: what an export is asked for, as one frozen value for every format."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from dicomdl.errors import UsageError
from dicomdl.index.index import Index
from dicomdl.index.saved_splits import SavedSplit, load_split
from dicomdl.index.splits import Split
from dicomdl.values.request import IntensityRequest
from dicomdl.values.stack_intensity import SuvPolicy
from dicomdl.volumes.resampling import FORMATS as IMAGE_SUFFIXES

Format = Literal["nnunet", "webdataset", "datalist", "png", "hf", "yolo"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
# Formats whose samples are frames; those of others are volumes.
FRAME_FORMATS: Final = frozenset({"png", "hf", "yolo"})
Dtype = Literal["auto", "int16", "float16", "float32"]
Picture = Literal["png", "png16", "jpeg"]
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)
PICTURES: Final[tuple[Picture, ...]] = get_args(Picture)
# A split, its file, fractions of parts, or a number of folds.
SplitOption: TypeAlias = Split[Any] | SavedSplit | str | os.PathLike[str] | Sequence[float] | int
# Names of the parts of a split by their number.
_PARTS: Final = {1: ("train",), 2: ("train", "val"), 3: ("train", "val", "test")}
TRAIN: Final = "train"
_IMAGE_MB: Final = 1 << 20
# What changes only samples that are volumes, and its defaults.
_OF_VOLUMES: Final = {
    "orientation": None,
    "interpolation": "linear",
    "irregular": "raise",
    "dtype": "auto",
}


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What an export is asked for. Equal options and inputs give equal bytes.

    Attributes
    ----------
    to
        The format: "nnunet", "webdataset", "datalist" (of volumes), "png", "hf" or "yolo" (of
        frames).
    intensity
        As for datasets; None for "modality" (volumes) or "auto" (frames).
    size, spacing, orientation, interpolation, irregular, channels, suv
        As for `VolumeDataset`; formats of frames take `size`, `channels` and `suv`.
    labels
        As for `VolumeDataset`. None for no labels.
    target, boxes, points
        Joined columns, as for `VolumeDataset` and `FrameDataset`.
    dtype
        The values on disk of volumes: "int16" (rounded), "float16", "float32", or "auto", which is
        int16 where it holds every value of a volume exactly, else float32.
    split
        The groups of each part, which decide on the part of each sample. None for one part.
    parts
        The name of each part; by default train, val, test. The parts of a split into folds are no
        parts here: all samples are of "train", and have the number of their fold.
    name
        The name of the data set, such as "Dataset501_Lung" for nnU-Net.
    names
        The template of the names of cases, as for `convert`; None for a hash of each.
    suffix
        The image format of volumes: ".nii.gz", ".nii", ".mha", ".nrrd".
    picture
        The format of frames: "png" (8 bits), "png16" (16 bits), or "jpeg" (8 bits).
    shard_bytes
        The most bytes of one shard; a sample that is larger has a shard of its own.
    """

    to: Format
    intensity: Any = None
    size: Any = None
    spacing: Any = None
    orientation: str | None = None
    interpolation: Literal["linear", "thick_slices"] = "linear"
    irregular: Literal["raise", "accept", "resample"] = "raise"
    channels: Any = None
    suv: SuvPolicy = "required"
    labels: Any = None
    target: Any = None
    boxes: Any = None
    points: Any = None
    dtype: Dtype = "auto"
    split: SavedSplit | None = None
    parts: tuple[str, ...] = ()
    name: str = ""
    names: str | None = None
    suffix: str = ".nii.gz"
    picture: Picture = "png"
    shard_bytes: int = 256 * _IMAGE_MB

    def __post_init__(self) -> None:
        _require(self.to, FORMATS, "to")
        _require(self.dtype, DTYPES, "dtype")
        _require(self.picture, PICTURES, "picture")
        if self.suffix not in IMAGE_SUFFIXES:
            raise UsageError(
                f"suffix={self.suffix!r}: expected one of {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        if self.shard_bytes < _IMAGE_MB:
            raise UsageError(f"shard_bytes={self.shard_bytes}: expected at least {_IMAGE_MB}")
        if self.is_of_frames:
            self._require_no_options_of_volumes()
        IntensityRequest.parse(None if isinstance(self.intensity, Mapping) else self.intensity)
        object.__setattr__(self, "parts", self._named_parts())

    @property
    def is_of_frames(self) -> bool:
        """Whether samples are frames instead of volumes."""
        return self.to in FRAME_FORMATS

    @property
    def fingerprint(self) -> str:
        """A hash of all options, 32 hexadecimal digits; functions count by their name."""
        told = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        data = json.dumps(told, sort_keys=True).encode()
        return hashlib.blake2b(data, digest_size=16).hexdigest()

    def _require_no_options_of_volumes(self) -> None:
        for name, default in _OF_VOLUMES.items():
            value = getattr(self, name)
            if value != default:
                raise UsageError(
                    f"{name}={value!r} is an option of volumes, and to={self.to!r} exports frames "
                    "as they lie: leave it out"
                )

    def _named_parts(self) -> tuple[str, ...]:
        if self.split is None or self.split.k is not None:
            if self.parts not in ((), (TRAIN,)):
                raise UsageError(
                    f"parts={self.parts}: names are for the parts of a split by fractions"
                )
            return (TRAIN,)
        count = len(self.split.parts)
        named = tuple(self.parts) or _PARTS.get(count, ())
        if len(named) != count or len(set(named)) != count or not all(map(str.isidentifier, named)):
            raise UsageError(
                f"the split has {count} parts, and their names are {named}: parts= takes a name "
                "of letters and digits for each, such as ('train', 'val', 'test')"
            )
        return named


def saved_split(option: SplitOption | None, index: Index, to: str = "") -> SavedSplit | None:
    """Return the split of an option of an export.

    Parameters
    ----------
    option
        What `Index.split` or `load_split` returns, the path of its file, fractions, or a number of
        folds. None for no split; but "nnunet" has five folds by patient, because folds that
        nnU-Net makes divide patients.
    index
        The index that fractions and folds divide.
    to
        The format.

    Raises
    ------
    UsageError
        The option is none of these, or the file is no split.
    """
    if isinstance(option, SavedSplit):
        return option
    if option is None:
        return _folds_of_nnunet(index) if to == "nnunet" else None
    if isinstance(option, Split):
        return option.saved
    if isinstance(option, str | os.PathLike):
        return load_split(option)
    if isinstance(option, int) and not isinstance(option, bool):
        return index.split(k=option).saved
    return index.split(option).saved  # type: ignore[arg-type]


def _folds_of_nnunet(index: Index) -> SavedSplit | None:
    """Return five folds by patient; None for fewer patients."""
    try:
        return index.split(k=5).saved
    except UsageError:
        return None


def _require(value: Any, allowed: Sequence[str], name: str) -> None:
    if value not in allowed:
        raise UsageError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")


def _plain(value: Any) -> Any:
    """Return plain values of JSON that are the same in every process."""
    if isinstance(value, SavedSplit):
        return [[group.id for group in part] for part in (*value.parts, value.rest)]
    if isinstance(value, Mapping):
        return [[_plain(key), _plain(each)] for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        told = [[field.name, _plain(getattr(value, field.name))] for field in fields(value)]
        return [type(value).__name__, *told]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)
