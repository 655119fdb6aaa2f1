"""PyTorch datasets of frames and volumes; the door to torch.

A sample is a dict: `image` (float32 tensor, channel first), `affine` (4, 4) float64, `spacing`, `units`, identifiers as
strings. What is unknown is NaN or "", never None, so that the default collate works. A sample depends on its number
alone, never on the worker that makes it. A dataset holds an index and options, both of which pickle as a few
hundred bytes; every start method of a DataLoader works.
"""

import contextlib
import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from dicomdl.errors import GeometryError, PixelError, UsageError
from dicomdl.geometry import VERDICTS, Geometry
from dicomdl.header import CONTENTS
from dicomdl.index import Index, Stack
from dicomdl.intensity import PROJECTION, Intensity, IntensityOption, is_name_of_file, preset, resolve
from dicomdl.modality import CONVERSION_COLUMNS, Converted, conversion, read_image
from dicomdl.pixels import Decoding
from dicomdl.regular import FILLABLE, is_worth_filling
from dicomdl.resampling import Interpolation
from dicomdl.system import available_cores
from dicomdl.volume import (
    POLICIES,
    READABLE,
    SUV_POLICIES,
    Irregular,
    SuvPolicy,
    Volume,
    read_volume,
    sample_of,
    stack_intensity,
)

Transform = Callable[["Sample"], Any]
Affine = npt.NDArray[np.float64]
_LUMA: Final = (0.299, 0.587, 0.114)  # of RGB, PS3.3 C.7.6.3.1.2 (the Y of YBR_FULL)
_IDENTIFIERS: Final = ("modality", "patient_id", "study_instance_uid", "series_instance_uid")
_FRAME_IDENTIFIERS: Final = (*_IDENTIFIERS, "sop_instance_uid", "frame_number", "path")
_FRAME_FACTS: Final = (*CONVERSION_COLUMNS, "number_of_frames", "position_in_stack", *_FRAME_IDENTIFIERS)


class Sample(dict[str, Any]):
    """One sample: a dict. A type of its own only so that the default collate can say what to do about sizes."""


def _collate_by_default(samples: Sequence[Sample], *, collate_fn_map: Any = None) -> dict[str, Any]:
    """What the default collate does with samples: as with any dict, once their images have one size."""
    shapes = {tuple(sample["image"].shape) for sample in samples if isinstance(sample.get("image"), torch.Tensor)}
    if len(shapes) > 1:
        found = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
        raise UsageError(
            f"a batch needs images of one size, found {found}: give the dataset size=... (and channels=...), use batch_size=1, "
            "or DataLoader(collate_fn=dicomdl.collate), which keeps them in a list",
            shapes=sorted(shapes),
        )
    return dict(torch.utils.data._utils.collate.collate([dict(sample) for sample in samples], collate_fn_map=collate_fn_map))


default_collate_fn_map[Sample] = _collate_by_default  # the extension point that torch documents for default_collate


def collate(samples: Sequence[Any]) -> Any:
    """Collate samples of any sizes: what has one shape is stacked, tensors of several shapes stay a list.

    Use as ``DataLoader(dataset, batch_size=8, collate_fn=dicomdl.collate)``.
    """
    if not isinstance(samples[0], dict):  # a transform may deliver anything
        return torch.utils.data.default_collate(list(samples))
    batch: dict[str, Any] = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        shapes = {tuple(value.shape) for value in values if isinstance(value, torch.Tensor)}
        batch[key] = values if len(shapes) > 1 else torch.utils.data.default_collate(values)
    return batch


class LeftOutWarning(UserWarning):
    """A dataset does not take everything that its index holds; the message is a table of what and why."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Stacks that a dataset does not take, with the frames in them, and why."""

    reason: str
    stacks: int
    frames: int


class FrameDataset(torch.utils.data.Dataset[Any]):
    """2D frames of an index, in its order.

    Parameters
    ----------
    index
        An Index or a part of one.
    intensity
        How modality values become network values: "auto" (by modality, see `intensity.by_modality`), "modality" (as
        they are), "file" (the file's own window or VOI LUT), a preset such as "ct.lung", (center, width), a Window, a
        Percentile, an SUV, a RealWorld or any callable on arrays. It is resolved once a stack, so that all its frames are mapped
        alike; projection images (CR, DX, MG, ...) and other frames without geometry are resolved each alone. Padding (Pixel Padding
        Value) becomes the lowest value and takes no part in percentiles.
    transform
        Called with the sample; what it returns is delivered.
    size, spacing
        (rows, columns) and (row, column) mm or one number: `spacing` resamples to that, `size` alone resamples the whole
        field of view to that many pixels, both together resample, then crop or pad about the centre. Bilinear, with
        antialiasing, on modality values (the nearest pixel for segmentations); `affine` follows.
    channels
        1 makes colour grey, 3 repeats grey; by default grey has 1 channel and colour 3.
    content
        "image" takes images only; "segmentation", "dose", "parametric_map" the others; None everything. Equal copies of a
        frame are left out in any case. What is left out is told once, as a table (`left_out`).
    suv
        "required": "auto" raises an SUVError for PET whose header gives no SUV. "if_possible": it takes percentiles of those.
    reduce
        Halves rows and columns that often while reading, before `size` and `spacing` (see `read_frame`).
    max_bytes
        The most memory that a compressed frame may become (see `read_frame`).

    Notes
    -----
    A sample has `image` (C, H, W) float32, `affine` (4, 4) and `spacing` (3,) float64 (NaN where unknown; the frame is
    slice 0 of its own grid), `units`, `modality`, `patient_id`, `study_instance_uid`, `series_instance_uid`,
    `sop_instance_uid`, `frame_number`, `path`, `row` (the number of the sample). Frames of different sizes need `size`,
    batch_size=1 or ``collate_fn=dicomdl.collate``. An unreadable frame raises a PixelError that names its file.
    """

    def __init__(
        self,
        index: Index,
        intensity: IntensityOption = "auto",
        transform: Transform | None = None,
        *,
        size: Sequence[int] | None = None,
        spacing: Sequence[float] | float | None = None,
        channels: int | None = None,
        content: str | None = "image",
        suv: SuvPolicy = "required",
        reduce: int = 0,
        max_bytes: int | None = None,
    ) -> None:
        _check_intensity(intensity, suv)
        self.intensity = intensity
        self.suv: SuvPolicy = suv
        self.decoding = Decoding(reduce=reduce, max_bytes=max_bytes)
        self.transform = transform
        self.size = _checked_numbers(size, 2, "size")
        self.spacing = _checked_numbers(spacing, 2, "spacing")
        self.channels = _checked_channels(channels)
        taken = _Taken(index)
        taken.leave_out_copies()
        taken.leave_out_other_content(_checked_content(content))
        self.index, self.left_out = taken.index, taken.left_out
        _tell(self.left_out)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Any:
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        number %= len(self)
        index = self.index
        with _explained():
            stack = index.stack_of(number)
            source = index.source(number)
            facts = index.facts(number, _FRAME_FACTS)
            recipe = self._recipe(stack, number, facts["number_of_frames"])
            position, is_image = facts["position_in_stack"], stack.content == "image"
            how = dataclasses.replace(self.decoding, smooth=stack.content != "segmentation", threads=_threads())
            read = read_image(source, conversion(stack, position, facts, recipe.quantity), how=how, palettes=is_image)
            if recipe.needs_sample:
                recipe = recipe.with_sample(sample_of(read.array[None], None if read.padding is None else read.padding[None]))
            image = _channel_first(_floored(read, recipe), 2)
            smooth = stack.content != "segmentation"
            grid = _frame_grid(stack, position, self.decoding.reduce)
            image, affine, spacing = _resized(image, *grid, self.size, self.spacing, smooth=smooth)
            identifiers = {name: facts[name] for name in _FRAME_IDENTIFIERS}
            sample = _sample(image, affine, spacing, recipe, self.channels, identifiers, number)
        return _transformed(sample, self.transform)

    def _recipe(self, stack: Stack, number: int, number_of_frames: int) -> Intensity:
        if stack.verdict == "no_geometry" and (stack.modality in PROJECTION or number_of_frames == 1) and stack.modality != "PT":
            return resolve(self.intensity, self.index.frame(number))  # a percentile then takes the frame itself as its sample
        return _stack_recipe(stack, self.intensity, self.suv)

    def __repr__(self) -> str:
        return f"FrameDataset({len(self):,} frames, intensity={self.intensity!r})"


class VolumeDataset(torch.utils.data.Dataset[Any]):
    """3D volumes: the whole stacks of an index whose verdict allows a volume.

    Parameters
    ----------
    index, intensity, transform, channels, content
        As for `FrameDataset`; `intensity` is resolved once a stack.
    size, spacing
        (slices, rows, columns) and (slice, row, column) mm or one number: as for `FrameDataset`, in three dimensions.
        Trilinear, without antialiasing; segmentations take the nearest voxel.
    irregular
        "raise" takes only stacks that are regular, single or tilted, "resample" also those with missing slices or uneven
        spacing, put onto their regular grid (see `read_volume`); neither takes what is incomplete in its group, such as an
        interrupted last time point. "accept" takes everything as it lies. What is left out is told once, as a table (`left_out`).
    min_slices
        Stacks with fewer slices are left out.
    suv, reduce, max_bytes
        As for `FrameDataset`; `max_bytes` is for a whole volume (see `read_volume`).

    Notes
    -----
    A sample has `image` (C, D, H, W) float32 in the order (slice, row, column), `affine` (4, 4) float64 from those indices
    to LPS mm, `spacing` (3,), `units`, `modality`, `patient_id`, `study_instance_uid`, `series_instance_uid`, `verdict`,
    `dimension` (JSON: what tells the stack from others of its group, such as '{"echo_time": 4.9}', else "{}"), `row`.
    Volumes of different sizes need `size`, batch_size=1 or ``collate_fn=dicomdl.collate``.
    """

    def __init__(
        self,
        index: Index,
        intensity: IntensityOption = "auto",
        transform: Transform | None = None,
        *,
        size: Sequence[int] | None = None,
        spacing: Sequence[float] | float | None = None,
        channels: int | None = None,
        content: str | None = "image",
        irregular: Irregular = "raise",
        min_slices: int = 1,
        suv: SuvPolicy = "required",
        reduce: int = 0,
        max_bytes: int | None = None,
    ) -> None:
        _check_intensity(intensity, suv)
        self.intensity = intensity
        self.suv: SuvPolicy = suv
        self.decoding = Decoding(reduce=reduce, max_bytes=max_bytes)
        self.transform = transform
        self.size = _checked_numbers(size, 3, "size")
        self.spacing = _checked_numbers(spacing, 3, "spacing")
        self.channels = _checked_channels(channels)
        if irregular not in POLICIES:
            raise UsageError(f"irregular={irregular!r}: expected one of {', '.join(map(repr, POLICIES))}")
        self.irregular = irregular
        taken = _Taken(index)
        taken.leave_out_copies()
        taken.leave_out_other_content(_checked_content(content))
        taken.leave_out_irregular(irregular)
        taken.leave_out(f"fewer than {min_slices} slices", min_slices=min_slices)
        self.index, self.left_out = taken.index, taken.left_out
        _tell(self.left_out)

    def __len__(self) -> int:
        return len(self._stacks)

    @functools.cached_property
    def _stacks(self) -> Sequence[Stack]:
        return self.index.stacks

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_stacks"}

    def __getitem__(self, number: int) -> Any:
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        number %= len(self)
        stack = self._stacks[number]
        with _explained():
            recipe = _stack_recipe(stack, self.intensity, self.suv)
            resamples = self.size is not None or self.spacing is not None
            colour = stack.value("samples_per_pixel") > 1 or stack.value("photometric_interpretation") == "PALETTE COLOR"
            volume = read_volume(
                stack,
                values=recipe.quantity,
                irregular=self.irregular,
                dtype=np.float32 if resamples and not colour else None,  # interpolated values are not rounded to integers
                reduce=self.decoding.reduce,
                threads=_threads(),
                max_bytes=self.decoding.max_bytes,
            )
            volume = dataclasses.replace(volume, array=_floored(Converted(volume.array, volume.padding), recipe))
            volume = _resampled(volume, self.size, self.spacing, "nearest" if stack.content == "segmentation" else "linear")
            # As it lies, a single slice has no spacing to the next one; on another grid every axis has.
            lies = stack.geometry.halved(self.decoding.reduce)
            as_it_lies = volume.geometry == lies or not volume.geometry.is_known
            spacing = np.asarray(stack.spacing) * (1, *[1 << self.decoding.reduce] * 2) if as_it_lies else np.asarray(volume.spacing)
            facts = {name: stack.value(name) for name in _IDENTIFIERS}
            facts |= {"verdict": stack.verdict, "dimension": json.dumps(stack.dimension), "filled": int(volume.filled.sum())}
            image = _channel_first(volume.array, 3)
            sample = _sample(image, volume.affine, spacing, recipe, self.channels, facts, number)
        return _transformed(sample, self.transform)

    def __repr__(self) -> str:
        return f"VolumeDataset({len(self):,} volumes, intensity={self.intensity!r})"


# --- what a dataset takes ---------------------------------------------------------------------------------------------


class _Taken:
    """What is left of an index, condition by condition, and what was left out for which reason, each stack once."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.left_out: list[LeftOut] = []

    def leave_out(self, reason: str, **conditions: Any) -> None:
        """Keep what meets the conditions, as `Index.select` does."""
        self._keep(self.index.select(**conditions), reason)

    def _keep(self, kept: Index, reason: str) -> None:
        if len(kept) < len(self.index):
            self.left_out.append(LeftOut(reason, len(self.index.stacks) - len(kept.stacks), len(self.index) - len(kept)))
            self.index = kept

    def leave_out_copies(self) -> None:
        """Keep the frames that are in a stack."""
        self.leave_out("equal copy of another frame", min_position_in_stack=0)

    def leave_out_other_content(self, content: str | None) -> None:
        if content is not None:
            self.leave_out(f"not content={content!r}", content=content)

    def leave_out_irregular(self, irregular: Irregular) -> None:
        """Keep the stacks that `read_volume` makes a volume of, and that lack nothing that others of their group have."""
        if irregular == "accept":
            return
        usable = READABLE if irregular == "raise" else READABLE | FILLABLE
        for verdict in VERDICTS:
            if verdict not in usable:
                self.leave_out(verdict, verdict=[other for other in VERDICTS if other != verdict])
        if irregular == "resample":
            self._leave_out_detail("uneven_spacing, slices moved in their plane", "in_plane_error")
            uneven = self.index.select(verdict="uneven_spacing").stacks
            sparse = [stack.number for stack in uneven if not is_worth_filling(stack.slices, stack.detail)]
            numbers = self.index.stacks.numbers
            self._keep(self.index.of_stacks(numbers[~np.isin(numbers, sparse)]), "uneven_spacing, most slices would be made up")
        self._leave_out_detail("incomplete in its group", "missing_in_group")

    def _leave_out_detail(self, reason: str, key: str) -> None:
        stacks = self.index.stacks
        has_key = stacks.have_detail(key)
        if has_key.any():
            self._keep(self.index.of_stacks(stacks.numbers[~has_key]), reason)


def _tell(left_out: Sequence[LeftOut]) -> None:
    if left_out:
        width = max(len(row.reason) for row in left_out)
        table = "\n".join(f"  {row.reason:<{width}} {row.stacks:>8,} {row.frames:>10,}" for row in left_out)
        warnings.warn(f"left out:\n  {'reason':<{width}} {'stacks':>8} {'frames':>10}\n{table}", LeftOutWarning, stacklevel=3)


def _checked_numbers(given: Any, count: int, name: str) -> Any:
    """A tuple of `count` positive numbers, or None."""
    if given is None:
        return None
    try:
        numbers = tuple([given] * count if isinstance(given, int | float) else given)
        sound = len(numbers) == count and all(0 < number < math.inf for number in numbers)
        whole = name != "size" or (sound and all(float(number).is_integer() for number in numbers))
    except (TypeError, ValueError):
        sound = whole = False
    if not (sound and whole):
        raise UsageError(f"{name}={given!r}: expected {count} positive {'whole ' if name == 'size' else ''}numbers")
    return tuple(int(number) for number in numbers) if name == "size" else numbers


def _checked_content(content: str | None) -> str | None:
    if content is not None and content not in CONTENTS:
        raise UsageError(f"content={content!r}: expected None or one of {', '.join(CONTENTS)}")
    return content


def _check_intensity(option: IntensityOption, suv: SuvPolicy) -> None:
    """A misspelt preset is refused when the dataset is made, not by the first sample in a worker."""
    if isinstance(option, str) and option not in ("auto", "modality") and not is_name_of_file(option):
        preset(option)
    if suv not in SUV_POLICIES:
        raise UsageError(f"suv={suv!r}: expected one of {', '.join(map(repr, SUV_POLICIES))}")


def _checked_channels(channels: int | None) -> int | None:
    if channels not in (None, 1, 3):
        raise UsageError(f"channels={channels!r}: expected 1, 3 or None")
    return channels


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Reading raises a DicomdlError for what files do; a StopIteration, which would end an epoch without a word, never leaves."""
    try:
        yield
    except OSError as error:
        raise PixelError(f"the sample cannot be read: {error.strerror or error}") from error
    except StopIteration as error:
        raise RuntimeError("something that makes the sample raised StopIteration") from error


# --- how a sample is made ---------------------------------------------------------------------------------------------


def _transformed(sample: Sample, transform: Transform | None) -> Any:
    if transform is None:
        return sample
    try:
        return transform(sample)
    except StopIteration as error:  # a loader would take it for the end of the epoch
        raise RuntimeError("the transform raised StopIteration") from error


def _threads() -> int:
    """Threads to decode with: all cores, or one where a DataLoader's workers have them."""
    return available_cores() if torch.utils.data.get_worker_info() is None else 1


def _floored(read: Converted, recipe: Intensity) -> npt.NDArray[Any]:
    """The values, which are the caller's own to change, with padding as low as the recipe can see."""
    lowest = recipe.floor(read.array.dtype) if read.padding is not None else None
    if lowest is not None:
        np.copyto(read.array, read.array.dtype.type(lowest), where=read.padding)
    return read.array


def _frame_grid(stack: Stack, position: int, reduce: int) -> tuple[Affine, Affine]:
    """The affine of a frame as slice 0 of its own grid, and (slice, row, column) spacing."""
    affine, spacing, positions = _stack_grid(stack)
    affine = affine.copy()
    affine[:3, 3] = positions[position]
    affine[:3, 1:3] *= 1 << reduce
    return affine, spacing * (1, *[1 << reduce] * 2)


@functools.lru_cache(maxsize=256)
def _stack_grid(stack: Stack) -> tuple[Affine, Affine, Affine]:
    return stack.affine, np.asarray(stack.spacing, dtype=np.float64), stack.positions


def _stack_recipe(stack: Stack, option: IntensityOption, suv: SuvPolicy) -> Intensity:
    try:
        return _known_recipe(stack, option, suv)  # type: ignore[arg-type]
    except TypeError:  # an option that cannot be hashed, such as a caller's own object
        return stack_intensity(stack, option, suv)


@functools.lru_cache(maxsize=4096)
def _known_recipe(stack: Stack, option: Any, suv: SuvPolicy) -> Intensity:
    return stack_intensity(stack, option, suv)


def _channel_first(values: npt.NDArray[Any], dimensions: int) -> npt.NDArray[Any]:
    """(C, ...) from (...) or (..., C)."""
    return values[None] if values.ndim == dimensions else np.moveaxis(values, -1, 0)


def _sample(
    image: npt.NDArray[Any], affine: Affine, spacing: Affine, recipe: Intensity, channels: int | None, facts: dict[str, Any], number: int
) -> Sample:
    mapped = torch.from_numpy(recipe(np.ascontiguousarray(image)))
    if channels == 3 and mapped.shape[0] == 1:
        mapped = mapped.expand(3, *mapped.shape[1:]).contiguous()
    elif channels == 1 and mapped.shape[0] == 3:
        mapped = torch.einsum("c...,c->...", mapped, torch.tensor(_LUMA))[None]
    return Sample(
        image=mapped,
        affine=torch.from_numpy(np.array(affine)),
        spacing=torch.from_numpy(np.array(spacing, dtype=np.float64)),
        units=recipe.units,
        row=number,
        **facts,
    )


def _resized(
    image: npt.NDArray[Any], affine: Affine, spacing: Affine, size: Any, new_spacing: Any, *, smooth: bool
) -> tuple[npt.NDArray[Any], Affine, Affine]:
    """A frame (C, H, W) on another in-plane grid: image, affine and spacing, as `FrameDataset` documents.

    `smooth` interpolates with antialiasing; labels take the nearest pixel instead.
    """
    if size is None and new_spacing is None:
        return image, affine, spacing
    tensor = torch.from_numpy(image.astype(np.float32))[None]
    how: dict[str, Any] = {"mode": "bilinear", "antialias": True} if smooth else {"mode": "nearest-exact"}
    if new_spacing is None:
        scale = tuple(new / old for new, old in zip(size, tensor.shape[2:], strict=True))
        tensor = torch.nn.functional.interpolate(tensor, size=tuple(size), **how)
    else:
        if not np.isfinite(spacing[1:]).all():
            raise GeometryError("the pixel spacing of this frame is not known: use size= without spacing=")
        scale = tuple(float(old / new) for old, new in zip(spacing[1:], new_spacing, strict=True))
        if min(length * factor for length, factor in zip(tensor.shape[2:], scale, strict=True)) < 1:
            raise GeometryError(f"the frame is smaller than one pixel of {new_spacing} mm", spacing=new_spacing)
        # With the scale given (not recomputed from the rounded size), pixels have exactly the spacing asked for.
        tensor = torch.nn.functional.interpolate(tensor, scale_factor=scale, recompute_scale_factor=False, **how)
    # Edges stay where they were, so the first centre moves by half the difference of the pixel sizes.
    shift = np.array([0.5 / s - 0.5 for s in scale])
    image, offset = _crop_or_pad(tensor[0].numpy(), size, None if smooth else 0)
    shift += np.asarray(offset) / np.asarray(scale)
    affine, spacing = affine.copy(), spacing.copy()
    affine[:3, 3] += affine[:3, 1:3] @ shift
    affine[:3, 1:3] /= np.asarray(scale)
    spacing[1:] /= np.asarray(scale)
    return image, affine, spacing


def _crop_or_pad(image: npt.NDArray[Any], size: Any, fill: float | None) -> tuple[npt.NDArray[Any], tuple[int, int]]:
    """(C, *size) about the centre, padded with `fill`, by default the smallest value, and where its first pixel was."""
    if size is None or image.shape[1:] == tuple(size):
        return image, (0, 0)
    result = np.full((image.shape[0], *size), image.min() if fill is None else fill, dtype=image.dtype)
    starts = [(have - want) // 2 for have, want in zip(image.shape[1:], size, strict=True)]
    source = tuple(slice(max(0, start), min(have, start + want)) for start, have, want in zip(starts, image.shape[1:], size, strict=True))
    target = tuple(slice(s.start - start, s.stop - start) for s, start in zip(source, starts, strict=True))
    result[(slice(None), *target)] = image[(slice(None), *source)]
    return result, (starts[0], starts[1])


def _resampled(volume: Volume, size: Any, spacing: Any, interpolation: Interpolation) -> Volume:
    if size is None and spacing is None:
        return volume
    if volume.geometry.is_known:
        return volume.resample(spacing, size=size, interpolation=interpolation)
    if spacing is not None:
        raise GeometryError("the position of this stack is not known: use size= without spacing=")
    counted = Volume(volume.array, Geometry(volume.geometry.shape, np.eye(4)), volume.units, volume.frame)
    resized = counted.resample(size=size, interpolation=interpolation, fill=0 if interpolation == "nearest" else None)
    return Volume(resized.array, Geometry(resized.geometry.shape, np.full((4, 4), np.nan)), volume.units, volume.frame)
