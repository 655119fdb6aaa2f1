"""What a sample is and how one is made: what a dataset takes of an index, how values become tensors, what happens where one cannot be read.

A sample depends on (seed, epoch, row) alone. Everything here is used by the datasets and by nobody else; torch enters by this door
and by `datasets`.
"""

import contextlib
import functools
import json
import math
import os
import tempfile
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data._utils.collate import collate as _default_collate
from torch.utils.data._utils.collate import default_collate_fn_map

from dicomdl.datasets.patch_samplers import chance
from dicomdl.datasets.transport import Parcel, Rows, Sample, errors_leave_whole, is_plain, is_worker, new_array, stacked
from dicomdl.errors import DicomdlError, GeometryError, MissingExtra, PixelError, UsageError
from dicomdl.geometry.grid import VERDICTS, Geometry
from dicomdl.geometry.regular import FILLABLE, is_worth_filling
from dicomdl.headers.reader import CONTENTS
from dicomdl.index.index import Index, Stack
from dicomdl.pixels.read import kept_open
from dicomdl.storage.system import available_cores
from dicomdl.values.intensity import Identity, Intensity, IntensityOption, Limits, Window, is_name_of_file, preset
from dicomdl.values.reading import Converted
from dicomdl.volumes.resampling import Interpolation
from dicomdl.volumes.volume import READABLE, SUV_POLICIES, Irregular, SuvPolicy, Volume, stack_intensity

Transform = Callable[[Sample], Any]
Affine = npt.NDArray[np.float64]
OnError = Literal["raise", "skip", "replace"]
IntensityOn = Literal["cpu", "device"]

ON_ERROR: Final[tuple[OnError, ...]] = get_args(OnError)
MOST_REPLACEMENTS: Final = 16  # rows that are tried in place of one that cannot be read
_LUMA: Final = (0.299, 0.587, 0.114)  # of RGB, PS3.3 C.7.6.3.1.2 (the Y of YBR_FULL)


@errors_leave_whole
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
    return _collated(_of_one_type(samples), lambda values: _default_collate(values, collate_fn_map=collate_fn_map))


def _of_one_type(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples with images of one dtype: integers that wait for their intensity may be of two, or beside floats."""
    types = {sample["image"].dtype for sample in samples if isinstance(sample.get("image"), torch.Tensor)}
    if len(types) < 2:
        return samples
    widest = functools.reduce(torch.promote_types, types)
    if widest == torch.float32 and torch.int32 in types:
        widest = torch.float64  # which holds both exactly
    return [Sample({**sample, "image": sample["image"].to(widest)}) for sample in samples]


default_collate_fn_map[Sample] = _collate_by_default  # the extension point that torch documents for default_collate


@errors_leave_whole
def collate(samples: Sequence[Any]) -> Any:
    """Collate samples of any sizes: what has one shape is stacked, tensors of several shapes stay a list.

    Use as ``DataLoader(dataset, batch_size=8, collate_fn=dicomdl.collate)``. In a worker the batch may be the samples' own memory, as it
    may with the default collate: change samples before they are collated, not afterwards.
    """
    if not isinstance(samples[0], dict):  # a transform may deliver anything
        return torch.utils.data.default_collate(list(samples))
    return _collated(_of_one_type(samples), _stacked_or_listed)


def _stacked_or_listed(values: list[Any]) -> Any:
    are_of_several_shapes = len({tuple(value.shape) for value in values if isinstance(value, torch.Tensor)}) > 1
    return values if are_of_several_shapes else torch.utils.data.default_collate(values)


def _collated(samples: Sequence[Any], otherwise: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """One dict of all: plain tensors of one shape stacked, the rest as `otherwise` says; in a worker, one that is on its way."""
    batch: dict[str, Any] = Parcel() if is_worker() else {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        are_alike = all(map(is_plain, values)) and len({(value.shape, value.dtype) for value in values}) == 1
        batch[key] = stacked(values) if are_alike else otherwise(values)
    return batch


class LeftOutWarning(UserWarning):
    """A dataset does not take everything that its index holds; the message is a table of what and why."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Stacks that a dataset does not take, with the frames in them, and why."""

    reason: str
    stacks: int
    frames: int


# --- what all datasets have -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that could not be read: its row, the epoch, what was done instead ("skip" or "replace"), and the error, in words."""

    row: int
    epoch: int
    action: str
    error: str


class SampleDataset(torch.utils.data.Dataset[Any]):
    """Rows of samples, some of which cannot be read.

    Subclasses make one sample in `_make`. Here is what happens around it: batches (each file opened once), epochs, errors, transforms.

    `on_error` "raise" raises what reading a sample raised, with its file. "skip" leaves the sample out of its batch, which is
    then shorter; where nothing would be left of it, and where samples are asked for one by one, another is delivered as
    for "replace". "replace" delivers the sample of another row, chosen by (seed, epoch, row). What was skipped is counted and listed in
    `skipped`, whatever process it happened in. Errors of a transform are the caller's own and always raised.
    """

    transform: Transform | None

    def __init__(self, transform: Transform | None, on_error: OnError, seed: int) -> None:
        if on_error not in ON_ERROR:
            raise UsageError(f"on_error={on_error!r}: expected one of {', '.join(map(repr, ON_ERROR))}")
        self.transform = transform
        self.on_error: OnError = on_error
        if not (isinstance(seed, int) and seed >= 0):
            raise UsageError(f"seed={seed!r}: expected a whole number from 0")
        self.seed = seed
        self.epoch = 0
        self._log = os.path.join(tempfile.gettempdir(), f"dicomdl-skipped-{os.urandom(8).hex()}.jsonl")
        weakref.finalize(self, _remove_log, self._log, os.getpid())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that random choices depend on, before a loader starts its workers.

        Workers that live on (``persistent_workers=True``) hold copies that this does not reach: the rows of a `RowSampler` carry their
        epoch along and do.
        """
        if not (isinstance(epoch, int) and epoch >= 0):
            raise UsageError(f"epoch={epoch!r}: expected a whole number from 0")
        self.epoch = epoch

    @property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(stacks + 1,) the first row of each stack, and the end: rows between two of them read the same files."""
        raise NotImplementedError

    def __len__(self) -> int:
        return int(self.boundaries[-1])

    def _make(self, row: int, epoch: int) -> Sample:
        """The sample of a row; a DicomdlError where it cannot be read."""
        raise NotImplementedError

    @errors_leave_whole
    def __getitem__(self, row: int) -> Any:
        epoch = getattr(row, "epoch", self.epoch)
        row = self._checked(row)
        with Rows(0):
            sample, error = self._tried(row, epoch)
            if sample is None:
                sample = self._instead_of(row, epoch, error)
        return transformed(sample, self.transform)

    @errors_leave_whole
    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """The samples of a batch, in the order asked for; made in the order of rows, and each file opened once."""
        with Rows(len(rows) if self.transform is None else 0) as images:  # a transform may keep images, and change them later
            found = self._tried_together(rows, images)
        if all(sample is None for sample, _ in found) and self.on_error == "skip" and found:
            row = rows[-1]  # nothing would be left of the batch
            found[-1] = (self._instead_of(self._checked(row), getattr(row, "epoch", self.epoch), found[-1][1]), None)
        self._note_skipped(rows, found)
        return [transformed(sample, self.transform) for sample, _ in found if sample is not None]

    def outcomes(self, rows: Sequence[int]) -> list[Any]:
        """For those who can leave rows out, such as `StackStream`: the sample of each row, its error, or None where it is skipped."""
        found = self._tried_together(rows)  # which are not delivered together: each in memory of its own
        self._note_skipped(rows, found)
        results: list[Any] = []
        for sample, error in found:
            try:
                results.append(transformed(sample, self.transform) if sample is not None else None if self.on_error == "skip" else error)
            except Exception as fault:  # the transform's own, of this row alone
                results.append(fault)
        return results

    def _tried_together(self, rows: Sequence[int], images: Rows | None = None) -> list[tuple[Sample | None, BaseException | None]]:
        """(sample, None) or (None, error) of each row, in the order asked for; replaced where the policy says so.

        Where the rows make one batch, with `images`, what may not be skipped is raised.
        """
        found: list[tuple[Sample | None, BaseException | None]] = [(None, None)] * len(rows)
        numbers = [self._checked(row) for row in rows]
        with kept_open():
            for place in sorted(range(len(rows)), key=numbers.__getitem__):
                epoch = getattr(rows[place], "epoch", self.epoch)
                if images is not None:
                    images.place = place
                try:
                    sample, error = self._tried(numbers[place], epoch)
                    if sample is None and self.on_error == "replace":
                        sample, error = self._instead_of(numbers[place], epoch, error), None
                except Exception as fault:
                    if images is not None:
                        raise
                    sample, error = None, fault
                found[place] = (sample, error)
        return found

    def _note_skipped(self, rows: Sequence[int], found: Sequence[tuple[Sample | None, BaseException | None]]) -> None:
        if self.on_error == "skip":
            for row, (sample, error) in zip(rows, found, strict=True):
                if sample is None and error is not None:
                    self._note(self._checked(row), getattr(row, "epoch", self.epoch), "skip", error)

    def _checked(self, row: int) -> int:
        count = len(self)
        if not -count <= row < count:
            raise IndexError(f"sample {row} of {count}")
        return int(row) % count

    def _read_row(self, row: int, epoch: int) -> Sample:
        """Reading raises a DicomdlError for what files do; a StopIteration, which would end an epoch without a word, never leaves."""
        try:
            sample = self._make(row, epoch)
            sample["epoch"] = epoch
            return sample
        except OSError as error:
            raise PixelError(f"the sample cannot be read: {error.strerror or error}") from error
        except StopIteration as error:
            raise RuntimeError("something that makes the sample raised StopIteration") from error

    def _tried(self, row: int, epoch: int) -> tuple[Sample | None, BaseException | None]:
        """(sample, None), or (None, error) where the policy bears that it cannot be read."""
        try:
            return self._read_row(row, epoch), None
        except (UsageError, MissingExtra):  # of how the dataset is used, not of its files
            raise
        except (DicomdlError, MemoryError) as error:
            if self.on_error == "raise":
                raise
            return None, error

    def _instead_of(self, row: int, epoch: int, error: BaseException | None) -> Sample:
        """The sample of another row; the error where none of several can be read."""
        self._note(row, epoch, "replace", error)
        generator = chance(self.seed, epoch, row)
        for _ in range(MOST_REPLACEMENTS):
            sample, _ = self._tried(int(generator.integers(len(self))), epoch)
            if sample is not None:
                return sample
        raise error or PixelError("no sample can be read")

    def _note(self, row: int, epoch: int, action: str, error: BaseException | None) -> None:
        """Write down what could not be read where every process of this dataset does: one line a sample."""
        words = "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])[:2000]
        line = json.dumps({"row": row, "epoch": epoch, "action": action, "error": words}) + "\n"
        with contextlib.suppress(OSError):
            descriptor = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line.encode())  # one call: lines of several workers do not mix
            finally:
                os.close(descriptor)

    @property
    def skipped(self) -> list[Skipped]:
        """What could not be read so far, in any worker of this dataset on this machine, in the order that it happened."""
        try:
            with open(self._log, encoding="utf-8") as file:
                return [Skipped(**json.loads(line)) for line in file if line.endswith("}\n")]  # a full disk cuts a line
        except FileNotFoundError:
            return []


def _remove_log(path: str, owner: int) -> None:
    """The list of what was skipped goes with the dataset that began it, not with the copies that workers have."""
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            os.unlink(path)


# --- what a dataset takes ---------------------------------------------------------------------------------------------


class Taken:
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
        """Keep what the pixels are to be."""
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


def tell(left_out: Sequence[LeftOut]) -> None:
    """Warn once of what is left out, as a table."""
    if left_out:
        width = max(len(row.reason) for row in left_out)
        table = "\n".join(f"  {row.reason:<{width}} {row.stacks:>8,} {row.frames:>10,}" for row in left_out)
        warnings.warn(f"left out:\n  {'reason':<{width}} {'stacks':>8} {'frames':>10}\n{table}", LeftOutWarning, stacklevel=4)


def checked_numbers(given: Any, count: int, name: str) -> Any:
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


def checked_content(content: str | None) -> str | None:
    """The content asked for, after a check that there is such."""
    if content is not None and content not in CONTENTS:
        raise UsageError(f"content={content!r}: expected None or one of {', '.join(CONTENTS)}")
    return content


def check_intensity(option: IntensityOption, suv: SuvPolicy) -> None:
    """A misspelt preset is refused when the dataset is made, not by the first sample in a worker."""
    if isinstance(option, str) and option not in ("auto", "modality") and not is_name_of_file(option):
        preset(option)
    if isinstance(option, tuple | list):
        try:
            Window(*option)
        except (TypeError, ValueError) as error:
            raise UsageError(f"intensity={option!r}: expected (center, width): {error}") from None
    if suv not in SUV_POLICIES:
        raise UsageError(f"suv={suv!r}: expected one of {', '.join(map(repr, SUV_POLICIES))}")


# --- how a sample is made ---------------------------------------------------------------------------------------------


def transformed(sample: Sample, transform: Transform | None) -> Any:
    """What the transform makes of a sample; its StopIteration, which a loader would take for the end of the epoch, is an error."""
    if transform is None:
        return sample
    try:
        return transform(sample)
    except StopIteration as error:  # a loader would take it for the end of the epoch
        raise RuntimeError("the transform raised StopIteration") from error


def threads() -> int:
    """Threads to decode with: all cores, or one where a DataLoader's workers have them."""
    return 1 if is_worker() else available_cores()


def floored(read: Converted, recipe: Intensity) -> npt.NDArray[Any]:
    """The values, which are the caller's own to change, with padding as low as the recipe can see."""
    if read.padding is not None and (lowest := recipe.floor(read.array.dtype)) is not None:
        # Without branches: where a mask is ragged, a masked copy takes ten times as long.
        bits = read.array.view(f"i{read.array.itemsize}")
        change = bits ^ np.array(lowest, read.array.dtype).view(bits.dtype)
        padding = read.padding if read.padding.ndim == change.ndim else read.padding[..., None]  # of colour
        np.multiply(change, padding, out=change)
        np.bitwise_xor(bits, change, out=bits)
    return read.array


def frame_grid(stack: Stack, position: int, reduce: int) -> tuple[Affine, Affine]:
    """The affine of a frame as slice 0 of its own grid, and (slice, row, column) spacing."""
    affine, spacing = stack.affine, np.asarray(stack.spacing, dtype=np.float64)
    affine[:3, 3] = stack.position(position)
    affine[:3, 1:3] *= 1 << reduce
    return affine, spacing * (1, *[1 << reduce] * 2)


def stack_recipe(stack: Stack, option: IntensityOption, suv: SuvPolicy, max_bytes: int | None = None) -> Intensity:
    """What `intensity` means for a stack, remembered where the option can be hashed."""
    try:
        return _known_recipe(stack, option, suv, max_bytes)  # type: ignore[arg-type]
    except TypeError:  # an option that cannot be hashed, such as a caller's own object
        return stack_intensity(stack, option, suv, max_bytes)


@functools.lru_cache(maxsize=512)  # a worker walks through thousands of stacks, of which it soon sees none again
def _known_recipe(stack: Stack, option: Any, suv: SuvPolicy, max_bytes: int | None) -> Intensity:
    return stack_intensity(stack, option, suv, max_bytes)


def channel_first(values: npt.NDArray[Any], dimensions: int) -> npt.NDArray[Any]:
    """(C, ...) from (...) or (..., C)."""
    return values[None] if values.ndim == dimensions else np.moveaxis(values, -1, 0)


def made_sample(
    image: npt.NDArray[Any], affine: Affine, spacing: Affine, recipe: Intensity, how: "Delivery", facts: dict[str, Any]
) -> Sample:
    """The sample of an image, (C, ...) modality values that are the caller's own to change."""
    image, channels = np.ascontiguousarray(image), how.channels
    if how.intensity_on == "device":
        facts["intensity"] = intensity_as_data(recipe)
        mapped = torch.from_numpy(image.astype(_CARRIED.get(image.dtype.char, np.float32), copy=False))
    else:  # mapped already where nothing is left to do
        is_done = image.dtype == np.float32 and isinstance(recipe.mapping, Identity) and not recipe.invert
        mapped = torch.from_numpy(image if is_done else recipe(image, new_array(image.shape, np.float32)))
    if channels == 3 and mapped.shape[0] == 1:
        mapped = mapped.expand(3, *mapped.shape[1:]).contiguous()
    elif channels == 1 and mapped.shape[0] == 3:
        mapped = torch.einsum("c...,c->...", mapped.to(torch.float32), torch.tensor(_LUMA))[None]
    return Sample(
        image=mapped,
        affine=torch.from_numpy(np.array(affine)),
        spacing=torch.from_numpy(np.array(spacing, dtype=np.float64)),
        units=recipe.units,
        **facts,
    )


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the images of a dataset are delivered: its `channels` and `intensity_on`."""

    channels: int | None = None
    intensity_on: IntensityOn = "cpu"

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 3):
            raise UsageError(f"channels={self.channels!r}: expected 1, 3 or None")
        if self.intensity_on not in get_args(IntensityOn):
            raise UsageError(f"intensity_on={self.intensity_on!r}: expected 'cpu' or 'device'")


# What is carried as it is; unsigned 16 bits are for colour alone, and torch hardly computes with them.
_CARRIED: Final[dict[str, Any]] = {"B": np.uint8, "h": np.int16, "i": np.int32, "f": np.float32, "H": np.int32}


def resized(
    image: npt.NDArray[Any], affine: Affine, spacing: Affine, size: Any, new_spacing: Any, *, smooth: bool, fill: float | None
) -> tuple[npt.NDArray[Any], Affine, Affine]:
    """A frame (C, H, W) on another in-plane grid: image, affine and spacing, as `FrameDataset` documents.

    `smooth` interpolates with antialiasing; labels take the nearest pixel instead. `fill` is what lies beyond the frame, by default the
    smallest value.
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
    image, offset = _crop_or_pad(tensor[0].numpy(), size, fill if smooth else 0)
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


def resampled(volume: Volume, size: Any, spacing: Any, interpolation: Interpolation, fill: float | None) -> Volume:
    """A volume on another grid, as `VolumeDataset` documents; without geometry only its size changes."""
    if size is None and spacing is None:
        return volume
    if volume.geometry.is_known:
        return volume.resample(spacing, size=size, interpolation=interpolation, fill=fill)
    if spacing is not None:
        raise GeometryError("the position of this stack is not known: use size= without spacing=")
    counted = Volume(volume.array, Geometry(volume.geometry.shape, np.eye(4)), volume.units, volume.frame)
    resized = counted.resample(size=size, interpolation=interpolation, fill=0 if interpolation == "nearest" else fill)
    return Volume(resized.array, Geometry(resized.geometry.shape, np.full((4, 4), np.nan)), volume.units, volume.frame)


# --- values whose intensity is applied later --------------------------------------------------------------------------


def intensity_as_data(recipe: Intensity) -> torch.Tensor:
    """A recipe as five numbers that collate: kind (0 as it is, 1 linear, 2 sigmoid), lower or center, width, clip, invert; float64.

    Raises
    ------
    UsageError
        The recipe is a function of the caller's or a table: no numbers say what it does.
    """
    mapping, flags = recipe.mapping, [1.0, float(recipe.invert)]
    if isinstance(mapping, Identity):
        return torch.tensor([0.0, 0.0, 1.0, 0.0, float(recipe.invert)], dtype=torch.float64)
    if isinstance(mapping, Window) and mapping.function == "SIGMOID":
        return torch.tensor([2.0, mapping.center, mapping.width, *flags], dtype=torch.float64)
    if isinstance(mapping, Window):
        width = mapping.width - 1 if mapping.function == "LINEAR" else mapping.width
        return torch.tensor([1.0, mapping.limits[0], width, *flags], dtype=torch.float64)
    if isinstance(mapping, Limits):
        return torch.tensor([1.0, mapping.lower, mapping.upper - mapping.lower, float(mapping.clip), flags[1]], dtype=torch.float64)
    raise UsageError('intensity_on="device" takes windows, limits and percentiles: a function or a table is applied on the CPU')


def apply_intensity(batch: dict[str, Any], device: Any = None) -> dict[str, Any]:
    """A batch (or a sample) of ``intensity_on="device"``, its images mapped on `device`: float32, as the CPU would make them.

    Integers are half the bytes to carry; the copy does not wait where the batch is pinned. Values agree with those of
    ``intensity_on="cpu"`` within 2 units in the last place. `intensity` leaves the batch.
    """
    image, intensity = batch["image"], batch["intensity"]
    rest = {key: value for key, value in batch.items() if key not in ("image", "intensity")}
    if isinstance(image, list):  # images of several sizes, as `collate` leaves them
        parts = [apply_intensity({"image": one, "intensity": own}, device) for one, own in zip(image, intensity, strict=True)]
        return {"image": [part["image"] for part in parts], **rest}
    single = intensity.ndim == 1
    images = (image[None] if single else image).to(device, non_blocking=True)
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    for place, (kind, low, width, clip, invert) in enumerate((intensity[None] if single else intensity).tolist()):
        exact = images.dtype in (torch.uint8, torch.int16, torch.float32) and float(np.float32(low)) == low
        values = images[place].to(torch.float32 if exact and kind != 2 else torch.float64)
        if kind == 1 and width == 0:
            values = (values > low).to(values.dtype)
        elif kind == 1:
            values = (values - low) / torch.tensor(width, dtype=values.dtype, device=values.device)
            values = values.clamp_(0, 1) if clip else values
        elif kind == 2:
            values = 1 / (1 + torch.exp((values - low) * (-4 / width)))
        result[place] = 1 - values if invert else values
    return {"image": result[0] if single else result, **rest}
