"""PyTorch datasets of frames, volumes and patches; the door to torch.

A sample is a dict: `image` (float32 tensor, channel first), `affine` (4, 4) float64, `spacing`, `units`, identifiers as
strings. What is unknown is NaN or "", never None, so that the default collate works. A sample depends on (seed, epoch, row)
alone, never on the worker that makes it. A dataset holds an index and options, both of which pickle as a few
hundred bytes; every start method of a DataLoader works.
"""

import dataclasses
import functools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.datasets.assembly import (
    Delivery,
    IntensityOn,
    LeftOut,
    OnError,
    SampleDataset,
    Taken,
    Transform,
    channel_first,
    check_intensity,
    checked_content,
    checked_numbers,
    floored,
    frame_grid,
    made_sample,
    resampled,
    resized,
    stack_recipe,
    tell,
    threads,
)
from dicomdl.datasets.assembly import LeftOutWarning as LeftOutWarning
from dicomdl.datasets.assembly import apply_intensity as apply_intensity
from dicomdl.datasets.assembly import collate as collate
from dicomdl.datasets.patch_samplers import MOST_CANDIDATES, Centers, PatchSampler, Voxel, as_sampler, chance, otsu, overlap_of, thinned
from dicomdl.datasets.transport import Sample, new_array
from dicomdl.errors import GeometryError, UsageError
from dicomdl.index.index import Index, Stack, Stacks
from dicomdl.pixels.read import Decoding, is_native
from dicomdl.storage.cache.options import CacheOption, as_cache
from dicomdl.values.intensity import PROJECTION, Identity, Intensity, IntensityOption, resolve
from dicomdl.values.reading import CONVERSION_COLUMNS, Converted, conversion, is_colour, read_image
from dicomdl.volumes.blocks import Kept, Scratch, StackVoxels, voxels_of
from dicomdl.volumes.resampling import Interpolation
from dicomdl.volumes.volume import POLICIES, READABLE, Irregular, SuvPolicy, Volume, read_volume, sample_of, stack_sample, with_units

_IDENTIFIERS: Final = ("modality", "patient_id", "study_instance_uid", "series_instance_uid")
_FRAME_IDENTIFIERS: Final = (*_IDENTIFIERS, "sop_instance_uid", "frame_number", "path")
_FRAME_FACTS: Final = (*CONVERSION_COLUMNS, "number_of_frames", "position_in_stack", *_FRAME_IDENTIFIERS)
Labels = Callable[[Stack], npt.NDArray[Any]]


class _OfPixels(SampleDataset):
    """What our datasets have in common: what becomes of values, and where decoded stacks are kept."""

    def __init__(
        self,
        transform: Transform | None,
        on_error: OnError,
        seed: int,
        *,
        intensity: IntensityOption,
        suv: SuvPolicy,
        cache: CacheOption,
        decoding: Decoding,
        delivery: Delivery,
    ) -> None:
        super().__init__(transform, on_error, seed)
        check_intensity(intensity, suv)
        self.intensity = intensity
        self.suv: SuvPolicy = suv
        self.cache = as_cache(cache)
        self.decoding = decoding
        self.delivery = delivery


class FrameDataset(_OfPixels):
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
    neighbours
        That many slices before and after the frame come along as channels (2.5D): 2 n + 1 of them, in slice order. Beyond the
        ends of the stack they are padding.
    intensity_on
        "device" leaves images integers where they are, with their intensity as data, for `apply_intensity` on a GPU: half the bytes to
        carry. Such samples have `intensity` (5,) float64.
    cache
        "disk", "memory", a number of bytes, a folder as a `pathlib.Path`, or a `cache.Cache`: where the decoded stacks of compressed
        frames are kept, shared by all workers. Uncompressed frames need none and get none; nor do lower resolutions (`reduce`).
    on_error, seed
        "raise", "skip" or "replace" what cannot be read; see `samples.SampleDataset`, and `skipped`.

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
        neighbours: int = 0,
        intensity_on: IntensityOn = "cpu",
        cache: CacheOption = None,
        on_error: OnError = "raise",
        seed: int = 0,
    ) -> None:
        decoding, delivery = Decoding(reduce=reduce, max_bytes=max_bytes), Delivery(channels, intensity_on)
        super().__init__(transform, on_error, seed, intensity=intensity, suv=suv, cache=cache, decoding=decoding, delivery=delivery)
        self.size = checked_numbers(size, 2, "size")
        self.spacing = checked_numbers(spacing, 2, "spacing")
        self.neighbours = neighbours
        if not (isinstance(neighbours, int) and 0 <= neighbours < 1000) or (neighbours and (reduce or channels is not None)):
            raise UsageError(f"neighbours={neighbours!r}: expected 0 or more, without reduce= and channels=")
        taken = Taken(index)
        taken.leave_out_copies()
        taken.leave_out_other_content(checked_content(content))
        self.index, self.left_out = taken.index, taken.left_out
        tell(self.left_out)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(stacks + 1,) the first row of each stack, whole or in part, and the end."""
        return self.index.stack_boundaries()

    def _make(self, row: int, epoch: int) -> Sample:
        del epoch
        stack = self.index.stack_of(row)
        facts = self.index.facts(row, _FRAME_FACTS)
        recipe = self._recipe(stack, row, facts["number_of_frames"])
        position, smooth = facts["position_in_stack"], stack.content != "segmentation"
        if self.neighbours:
            read = self._with_neighbours(stack, position, recipe)
        elif self.cache is not None and not self.decoding.reduce and not is_native(self.index.value(row, "transfer_syntax_uid")):
            voxels = voxels_of(stack, recipe.quantity, self.cache, self.decoding.max_bytes)
            array, padding = voxels.read((position, 0, 0), (position + 1, *stack.shape[1:]))
            read = Converted(array[0], None if padding is None else padding[0])
        else:
            how = self.decoding.with_threads(threads())
            own = conversion(stack, position, tuple(facts[name] for name in CONVERSION_COLUMNS), recipe.quantity)
            read = read_image(self.index.source(row), own, how=how, palettes=stack.content == "image")
        if recipe.needs_sample:
            recipe = recipe.with_sample(sample_of(read.array[None], None if read.padding is None else read.padding[None]))
        image, fill = floored(read, recipe), recipe.floor(np.dtype(np.float32))
        image = image if self.neighbours else channel_first(image, 2)
        image, affine, spacing = resized(
            image, *frame_grid(stack, position, self.decoding.reduce), self.size, self.spacing, smooth=smooth, fill=fill
        )
        identifiers = {"row": row, **{name: facts[name] for name in _FRAME_IDENTIFIERS}}
        return made_sample(image, affine, spacing, recipe, self.delivery, identifiers)

    def _with_neighbours(self, stack: Stack, position: int, recipe: Intensity) -> Converted:
        """The frame between its neighbours, (2 n + 1, rows, columns); where there is none, padding."""
        voxels = voxels_of(stack, recipe.quantity, self.cache, self.decoding.max_bytes)
        if voxels.is_colour:
            raise UsageError("frames of colour have channels of their own: take them without neighbours=")
        reach = self.neighbours
        return _block(voxels, (position - reach, 0, 0), (2 * reach + 1, *voxels.shape[1:]), recipe, None)

    def _recipe(self, stack: Stack, number: int, number_of_frames: int) -> Intensity:
        if stack.verdict == "no_geometry" and (stack.modality in PROJECTION or number_of_frames == 1) and stack.modality != "PT":
            recipe = resolve(self.intensity, self.index.frame(number))  # a percentile then takes the frame itself as its sample
            return with_units(recipe, stack, self.index.value(number, "position_in_stack"))
        return stack_recipe(stack, self.intensity, self.suv, self.decoding.max_bytes)

    def __repr__(self) -> str:
        return f"FrameDataset({len(self):,} frames, intensity={self.intensity!r})"


class _OfStacks(_OfPixels):
    """What datasets of whole stacks have: the stacks that may become volumes."""

    def _take(self, index: Index, content: str | None, irregular: Irregular, min_slices: int) -> None:
        if irregular not in POLICIES:
            raise UsageError(f"irregular={irregular!r}: expected one of {', '.join(map(repr, POLICIES))}")
        self.irregular: Irregular = irregular
        taken = Taken(index)
        taken.leave_out_copies()
        taken.leave_out_other_content(checked_content(content))
        taken.leave_out_irregular(irregular)
        taken.leave_out(f"fewer than {min_slices} slices", min_slices=min_slices)
        self.index, self.left_out = taken.index, taken.left_out

    @functools.cached_property
    def _stacks(self) -> Stacks:
        return self.index.stacks

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_stacks", "boundaries")}


class VolumeDataset(_OfStacks):
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
    suv, reduce, max_bytes, intensity_on, cache, on_error, seed
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
        intensity_on: IntensityOn = "cpu",
        cache: CacheOption = None,
        on_error: OnError = "raise",
        seed: int = 0,
    ) -> None:
        decoding, delivery = Decoding(reduce=reduce, max_bytes=max_bytes), Delivery(channels, intensity_on)
        super().__init__(transform, on_error, seed, intensity=intensity, suv=suv, cache=cache, decoding=decoding, delivery=delivery)
        self.size = checked_numbers(size, 3, "size")
        self.spacing = checked_numbers(spacing, 3, "spacing")
        self._take(index, content, irregular, min_slices)
        tell(self.left_out)

    def __len__(self) -> int:
        return len(self._stacks)

    @property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(stacks + 1,): each row is a stack."""
        return np.arange(len(self) + 1, dtype=np.int64)

    def _make(self, row: int, epoch: int) -> Sample:
        del epoch
        stack = self._stacks[row]
        recipe = stack_recipe(stack, self.intensity, self.suv, self.decoding.max_bytes)
        resamples = self.size is not None or self.spacing is not None
        grey = not is_colour(stack.source(0), palettes=stack.content == "image")
        dtype = np.float32 if resamples and grey else None  # interpolated values are not rounded to integers
        if self._may_be_cached(stack):
            array, padding = voxels_of(stack, recipe.quantity, self.cache, self.decoding.max_bytes).read((0, 0, 0), stack.shape)
            volume = Volume(array if dtype is None else array.astype(dtype), stack.geometry, "", None, stack, padding=padding)
        else:
            volume = read_volume(
                stack,
                values=recipe.quantity,
                irregular=self.irregular,
                dtype=dtype,
                reduce=self.decoding.reduce,
                threads=threads(),
                max_bytes=self.decoding.max_bytes,
            )
        volume = dataclasses.replace(volume, array=floored(Converted(volume.array, volume.padding), recipe), padding=None)
        interpolation: Interpolation = "nearest" if stack.content == "segmentation" else "linear"
        fill = None if interpolation == "nearest" else recipe.floor(volume.array.dtype)
        volume = resampled(volume, self.size, self.spacing, interpolation, fill)
        # As it lies, a single slice has no spacing to the next one; on another grid every axis has.
        lies = stack.geometry.halved(self.decoding.reduce)
        as_it_lies = volume.geometry == lies or not volume.geometry.is_known
        spacing = np.asarray(stack.spacing) * (1, *[1 << self.decoding.reduce] * 2) if as_it_lies else np.asarray(volume.spacing)
        facts = {"row": row, **{name: stack.value(name) for name in _IDENTIFIERS}}
        facts |= {"verdict": stack.verdict, "dimension": json.dumps(stack.dimension), "filled": int(volume.filled.sum())}
        return made_sample(channel_first(volume.array, 3), volume.affine, spacing, recipe, self.delivery, facts)

    def _may_be_cached(self, stack: Stack) -> bool:
        """Whether the volume is the stack's values as they lie, and those are in no file already."""
        as_it_lies = self.irregular != "resample" or (stack.verdict in READABLE and "tilt_deg" not in stack.detail)
        coded = not is_native(stack.value("transfer_syntax_uid"))
        return self.cache is not None and coded and as_it_lies and not self.decoding.reduce

    def __repr__(self) -> str:
        return f"VolumeDataset({len(self):,} volumes, intensity={self.intensity!r})"


class PatchDataset(_OfStacks):
    """3D patches of the stacks whose verdict allows a volume, without reading the volumes.

    A patch of uncompressed DICOM reads its own rows of its own slices. Of compressed, its own slices are decoded, and those decoded last
    are kept (256 MiB a process).

    Parameters
    ----------
    index, intensity, transform, channels, content, suv, max_bytes, intensity_on, cache, on_error, seed
        As for `FrameDataset`; `intensity` is resolved once a stack, so that a value is mapped as in frames and volumes.
    size
        (slices, rows, columns) of a patch in voxels. Where it reaches beyond the stack it is padded: with the value that becomes the
        lowest one; with -1024 (CT in HU) or 0 where values stay as they are.
    per_stack
        Patches of each stack in an epoch, for samplers that draw.
    sampler
        Where patches lie: "uniform", "foreground", "labels", "grid", or a `Uniform`, `Foreground`, `Balanced(weights)`,
        `Grid(overlap)`, `Centers.from_table(table)`, or anything with their two methods. Draws depend on (seed, epoch, row) alone.
    labels
        A function that gives a stack's label map, an integer array (slices, rows, columns): for the sampler "labels", and delivered as
        `label` (D, H, W) int64, 0 beyond the stack. Called in the process that makes the sample, and kept there (at most 256 MiB).
    irregular, min_slices
        As for `VolumeDataset`, but for "resample".

    Notes
    -----
    A sample has `image` (C, D, H, W) float32, `affine` (4, 4) of the patch itself, `spacing`, `location` (3,) int64 (its first
    voxel in the stack, may be negative), `shape` (3,) of the stack, `units`, `modality`, `patient_id`, `study_instance_uid`,
    `series_instance_uid`, `stack` (the number of the stack in the index), `row`; around the points of a table
    `point`, the row of the table. Grid patches come back together by `stitch`.
    """

    def __init__(
        self,
        index: Index,
        size: Sequence[int],
        *,
        per_stack: int = 4,
        sampler: str | PatchSampler = "uniform",
        intensity: IntensityOption = "auto",
        transform: Transform | None = None,
        labels: Labels | None = None,
        channels: int | None = None,
        content: str | None = "image",
        irregular: Irregular = "raise",
        min_slices: int = 1,
        suv: SuvPolicy = "required",
        max_bytes: int | None = None,
        intensity_on: IntensityOn = "cpu",
        cache: CacheOption = None,
        on_error: OnError = "raise",
        seed: int = 0,
    ) -> None:
        decoding, delivery = Decoding(max_bytes=max_bytes), Delivery(channels, intensity_on)
        super().__init__(transform, on_error, seed, intensity=intensity, suv=suv, cache=cache, decoding=decoding, delivery=delivery)
        given = checked_numbers(size, 3, "size")
        if given is None:
            raise UsageError("size=None: a patch has a size")
        self.size: Voxel = given
        if not (isinstance(per_stack, int) and per_stack >= 1):
            raise UsageError(f"per_stack={per_stack!r}: expected at least 1")
        self.per_stack = per_stack
        self.sampler = as_sampler(sampler)
        self.labels = labels
        if labels is None and sampler in ("labels", "balanced"):
            raise UsageError("sampler='labels' needs labels=, a function that gives the label map of a stack")
        if irregular == "resample":
            raise UsageError("patches are cut out of slices as they lie: read irregular='resample' volumes by VolumeDataset")
        self._take(index, content, irregular, min_slices)
        if isinstance(self.sampler, Centers):
            self._keep_stacks_with_points(self.sampler)
        tell(self.left_out)

    def _keep_stacks_with_points(self, centers: Centers) -> None:
        """Leave out the stacks that no point lies in, and tell how many points lie in none."""
        found = self.index.select(series_instance_uid=centers.series.tolist()) if len(centers) else self.index.of_stacks([])
        inside = {stack.number: len(_points_of(stack, centers)[0]) for stack in found.stacks}
        lost_points = len(centers) - sum(inside.values())
        if not any(inside.values()):
            raise UsageError(f"none of {len(centers)} points lies in a stack of the index: are they LPS mm, and their Series in it?")
        if lost_points > 0:
            self.left_out.append(LeftOut(f"{lost_points:,} of {len(centers):,} points lie in no stack", 0, 0))
        kept = self.index.of_stacks([number for number, count in inside.items() if count])
        if len(kept) < len(self.index):
            lost = LeftOut("no point of the table in it", len(self.index.stacks) - len(kept.stacks), len(self.index) - len(kept))
            self.left_out.append(lost)
        self.index = kept

    @functools.cached_property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(stacks + 1,) the first row of each stack, and the end."""
        if isinstance(self.sampler, Centers):
            counts = np.array([len(_points_of(stack, self.sampler)[0]) for stack in self._stacks], np.int64)
        else:
            shapes, place = np.unique(self._stacks.shapes(), axis=0, return_inverse=True)
            per_shape = [self.sampler.count((z, y, x), self.size, self.per_stack) for z, y, x in shapes.tolist()]
            counts = np.array(per_shape, np.int64)[place.ravel()] if len(shapes) else np.zeros(0, np.int64)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def _make(self, row: int, epoch: int) -> Sample:
        number = int(np.searchsorted(self.boundaries, row, side="right")) - 1
        stack = self._stacks[number]
        recipe = stack_recipe(stack, self.intensity, self.suv, self.decoding.max_bytes)
        view = _View(stack, self.sampler, self.labels, self.cache)
        place = row - int(self.boundaries[number])
        start = self.sampler.start(view, self.size, place, chance(self.seed, epoch, row))
        voxels = voxels_of(stack, recipe.quantity, self.cache, self.decoding.max_bytes)
        image, recipe = self._image(voxels, start, recipe)
        affine = stack.affine
        affine[:3, 3] += affine[:3, :3] @ start
        facts = {"row": row, "stack": stack.number, **{name: stack.value(name) for name in _IDENTIFIERS}}
        facts |= {"location": torch.tensor(start), "shape": torch.tensor(stack.shape)}
        if isinstance(self.sampler, Centers):
            facts["point"] = int(_points_of(stack, self.sampler)[1][place])
        if self.labels is not None:
            facts["label"] = torch.from_numpy(_cut(_label_map(stack, _ByIdentity(self.labels)), start, self.size))
        return made_sample(channel_first(image, 3), affine, np.asarray(stack.spacing), recipe, self.delivery, facts)

    def _image(self, voxels: StackVoxels, start: Voxel, recipe: Intensity) -> tuple[npt.NDArray[Any], Intensity]:
        """The patch, and what is still to be done to it.

        Where nothing stands against it, it is read and mapped a few slices at a time, while they are in the processor's cache.
        """
        inside = all(0 <= a <= n - s for a, n, s in zip(start, voxels.shape, self.size, strict=True))
        scratch = self._scratch
        if self.delivery.intensity_on == "device" or not (inside and voxels.always_int16):
            return floored(_block(voxels, start, self.size, recipe, scratch), recipe), recipe
        image = new_array(self.size, np.float32)
        stop, shows = (start[1] + self.size[1], start[2] + self.size[2]), _padding_shows(voxels, recipe)
        step = max(1, SLAB_VOXELS // (self.size[1] * self.size[2]))
        for first in range(0, self.size[0], step):
            last = min(first + step, self.size[0])
            read = voxels.read((start[0] + first, *start[1:]), (start[0] + last, *stop), scratch, want_padding=shows)
            recipe(floored(read, recipe), image[first:last])
        return image, Intensity(Identity(), units=recipe.units)

    @property
    def _scratch(self) -> Scratch:
        """Memory of this thread; for a device the values go on into the sample as they are, and so into its memory."""
        name = f"scratch_{self.delivery.intensity_on}"
        if not hasattr(_of_thread, name):
            setattr(_of_thread, name, Scratch(new_array if self.delivery.intensity_on == "device" else None))
        return getattr(_of_thread, name)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.size))
        return f"PatchDataset({len(self):,} patches of {size}, sampler={self.sampler!r}, intensity={self.intensity!r})"


# --- patches ----------------------------------------------------------------------------------------------------------

KEPT_LABEL_BYTES: Final = 256 * 2**20
BODY_VOXELS: Final = 1 << 13  # of a stack's body to draw from: 96 kB, for the 64 stacks that are remembered
SLAB_VOXELS: Final = 1 << 18  # of a patch that are read and mapped at once: half a megabyte, and one of float32
_of_thread = threading.local()
_label_maps: Final[Kept[npt.NDArray[Any]]] = Kept(KEPT_LABEL_BYTES, lambda labels: labels.nbytes)
_labelled_voxels: Final[Kept[Mapping[int, npt.NDArray[np.int32]]]] = Kept(
    KEPT_LABEL_BYTES // 4, lambda voxels: sum(own.nbytes for own in voxels.values())
)


def _block(voxels: StackVoxels, start: Voxel, size: Voxel, recipe: Intensity, scratch: Scratch | None) -> Converted:
    """A block that may reach beyond the stack: there, as low as the recipe can see, and padding."""
    met = overlap_of(start, size, voxels.shape)
    if met is not None and all(
        low == 0 and high == n for low, high, n in ((s.start, s.stop, n) for s, n in zip(met[1], size, strict=True))
    ):
        stop = (start[0] + size[0], start[1] + size[1], start[2] + size[2])
        return voxels.read(start, stop, scratch, want_padding=_padding_shows(voxels, recipe))
    inner = None
    if met is not None:
        (z, y, x), _ = met
        inner = voxels.read((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
    dtype = voxels.likely_dtype if inner is None else inner.array.dtype
    samples = voxels.samples
    lowest = recipe.floor(dtype)
    outside = lowest if lowest is not None else -1024 if recipe.units == "HU" else 0
    array = np.full((*size, *samples), outside, dtype)
    padding = np.ones(size, np.bool_)
    if met is not None and inner is not None:
        array[met[1]] = inner.array
        padding[met[1]] = False if inner.padding is None else inner.padding
    return Converted(array, padding)


def _padding_shows(voxels: StackVoxels, recipe: Intensity) -> bool:
    """Whether padding would be another network value than the lowest one if nobody looked for it."""
    lowest = recipe.floor(np.dtype(np.float32))
    return lowest is not None and (recipe.invert or voxels.padding_top > lowest)


def _cut(labels: npt.NDArray[Any], start: Voxel, size: Voxel) -> npt.NDArray[np.int64]:
    result = np.zeros(size, np.int64)
    met = overlap_of(start, size, (labels.shape[0], labels.shape[1], labels.shape[2]))
    if met is not None:
        result[met[1]] = labels[met[0]]
    return result


@functools.lru_cache(maxsize=4096)
def _points_of(stack: Stack, centers: Centers) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """(n, 3) voxels of a table's points that lie in a stack, and (n,) their rows in the table."""
    points, rows = centers.of_series(stack.series_instance_uid)
    geometry = stack.geometry
    if not len(points) or not geometry.is_known:
        return np.zeros((0, 3)), np.zeros(0, np.int64)
    voxels = geometry.world_to_voxel(points)
    inside = ((voxels > -0.5) & (voxels < np.asarray(stack.shape) - 0.5)).all(axis=1)
    return np.asarray(voxels[inside]), rows[inside]


class _ByIdentity:
    """A function that need not hash: it is the same as itself."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.labels is self.labels

    def __hash__(self) -> int:
        return id(self.labels)


def _label_map(stack: Stack, by: _ByIdentity) -> npt.NDArray[Any]:
    return _label_maps.of((stack, by), functools.partial(_read_labels, stack, by.labels))


def _read_labels(stack: Stack, labels: Labels) -> npt.NDArray[Any]:
    """The label map of a stack, in the smallest integers that hold it."""
    try:
        found = np.asarray(labels(stack))
        if found.shape != stack.shape or found.dtype.kind not in "biu":
            raise GeometryError(f"labels give {found.dtype} {found.shape} for a stack of {stack.shape}: expected integers of its shape")
    except OSError as error:
        failure = GeometryError(f"the labels of a stack cannot be read: {error.strerror or type(error).__name__}")
        failure.add_note(f"series: {stack.series_instance_uid}")
        raise failure from error
    except GeometryError as error:
        error.add_note(f"series: {stack.series_instance_uid}")
        raise
    if found.dtype.itemsize == 1:
        return found
    return found.astype(np.result_type(np.min_scalar_type(found.min()), np.min_scalar_type(found.max())))


def _labelled(stack: Stack, by: _ByIdentity) -> Mapping[int, npt.NDArray[np.int32]]:
    def found() -> Mapping[int, npt.NDArray[np.int32]]:
        labels = _label_map(stack, by)
        return {int(label): _thin_places(labels, label) for label in np.unique(labels)}

    return _labelled_voxels.of((stack, by), found)


def _thin_places(found: npt.NDArray[Any], label: Any) -> npt.NDArray[np.int32]:
    """(n, 3) voxels of one label, evenly thinned out before they become coordinates."""
    flat = np.flatnonzero(found == label)
    if len(flat) > MOST_CANDIDATES:
        flat = flat[np.linspace(0, len(flat) - 1, MOST_CANDIDATES).astype(np.int64)]
    return np.stack(np.unravel_index(flat, found.shape), axis=1).astype(np.int32)


@functools.lru_cache(maxsize=64)
def _foreground(stack: Stack, above: float | None, cache: Any) -> npt.NDArray[np.int32]:
    """Voxels of the body: of at most 32 slices, every n-th row and column, so that a stack is not read for it."""
    recipe = resolve(Identity(), stack.middle)
    if above is None:
        above = -500.0 if recipe.units == "HU" else otsu(stack_sample(stack))
    slices, rows, columns = stack.shape
    stride = max(1, int(np.sqrt(rows * columns / 4096)))
    voxels, found = voxels_of(stack, cache=cache), []
    for z in np.unique(np.linspace(0, slices - 1, min(slices, 32)).round().astype(int)).tolist():
        values, padding = voxels.read((z, 0, 0), (z + 1, rows, columns))
        thin = values[0, ::stride, ::stride]
        body = (thin if thin.ndim == 2 else thin.mean(axis=-1)) > above
        if padding is not None:
            body &= ~padding[0, ::stride, ::stride]
        places = np.argwhere(body) * stride
        found.append(np.concatenate([np.full((len(places), 1), z), places], axis=1))
    return thinned(np.concatenate(found), BODY_VOXELS)


class _View:
    """What a sampler may ask of a stack; see `patches.StackView`."""

    def __init__(self, stack: Stack, sampler: PatchSampler, labels: Labels | None, cache: Any) -> None:
        self._stack, self._sampler, self._labels, self._cache = stack, sampler, labels, cache
        self.shape: Voxel = stack.shape

    def foreground(self, above: float | None) -> npt.NDArray[np.int32]:
        return _foreground(self._stack, above, self._cache)

    def labelled(self) -> Mapping[int, npt.NDArray[np.int32]]:
        if self._labels is None:
            raise UsageError("the sampler asks for labels: give the dataset labels=, a function that gives the label map of a stack")
        return _labelled(self._stack, _ByIdentity(self._labels))

    def centers(self) -> npt.NDArray[np.float64]:
        if not isinstance(self._sampler, Centers):
            raise UsageError("the sampler has no points")
        return _points_of(self._stack, self._sampler)[0]
