"""PyTorch datasets of frames, volumes and patches; the door to torch.

A sample is a dict: `image` (float32 tensor, channel first), `affine` (4, 4) float64, `spacing`,
`units`, identifiers as strings. What is unknown is NaN or "", never None, so that the default
collate works. A sample depends on (seed, epoch, row) alone, never on the worker that makes it. A
dataset holds an index and options, both of which pickle as a few hundred bytes; every start method
of a DataLoader works.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from dicomdl.datasets._assembly import (
    Delivery,
    Image,
    IntensityOn,
    channel_first,
    floored,
    made_sample,
)
from dicomdl.datasets._options import OnError, Policy, Reading
from dicomdl.datasets._regrid import TargetGrid, frame_grid, resized
from dicomdl.datasets.base import IDENTIFIERS, PixelDataset, Transform
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.selection import Taken, checked_content, tell
from dicomdl.errors import UsageError
from dicomdl.index.index import Index
from dicomdl.index.views import Stack
from dicomdl.storage.cache.options import CacheOption
from dicomdl.values.auto import PROJECTION, resolve
from dicomdl.values.conversion import CONVERSION_COLUMNS, conversion
from dicomdl.values.intensity import Intensity
from dicomdl.values.reading import Converted, read_image
from dicomdl.values.request import IntensityOption
from dicomdl.values.sampling import sample_of
from dicomdl.values.stack_intensity import SuvPolicy, with_units
from dicomdl.volumes.cutting import read_block

_FRAME_IDENTIFIERS: Final = (*IDENTIFIERS, "sop_instance_uid", "frame_number", "path")
_FRAME_FACTS: Final = (
    *CONVERSION_COLUMNS,
    "number_of_frames",
    "position_in_stack",
    *_FRAME_IDENTIFIERS,
)


class FrameDataset(PixelDataset):
    """2D frames of an index, in its order.

    Parameters
    ----------
    index
        An Index or a part of one.
    intensity
        How modality values become network values: "auto" (by modality, see
        `intensity.by_modality`), "modality" (as they are), "file" (the file's own window or VOI
        LUT), a preset such as "ct.lung", (center, width), a Window, a Percentile, an SUV, a
        RealWorld or any callable on arrays. It is resolved once a stack, so that all its frames are
        mapped alike; projection images (CR, DX, MG, ...) and other frames without geometry are
        resolved each alone. Padding (Pixel Padding Value) becomes the lowest value and takes no
        part in percentiles.
    transform
        Called with the sample; what it returns is delivered.
    size, spacing
        (rows, columns) and (row, column) mm or one number: `spacing` resamples to that, `size`
        alone resamples the whole field of view to that many pixels, both together resample, then
        crop or pad about the centre. Bilinear, with antialiasing, on modality values (the nearest
        pixel for segmentations); `affine` follows.
    channels
        1 makes colour grey, 3 repeats grey; by default grey has 1 channel and colour 3.
    content
        "image" takes images only; "segmentation", "dose", "parametric_map" the others; None
        everything. Equal copies of a frame are left out in any case. What is left out is told once,
        as a table (`left_out`).
    suv
        "required": "auto" raises an SUVError for PET whose header gives no SUV. "if_possible": it
        takes percentiles of those.
    reduce
        Halves rows and columns that often while reading, before `size` and `spacing` (see
        `read_frame`).
    max_bytes
        The most memory that a compressed frame may become (see `read_frame`).
    neighbours
        That many slices before and after the frame come along as channels (2.5D): 2 n + 1 of them,
        in slice order. Beyond the ends of the stack they are padding.
    intensity_on
        "device" leaves images integers where they are, with their intensity as data, for
        `apply_intensity` on a GPU: half the bytes to carry. Such samples have `intensity` (5,)
        float64.
    cache
        "disk", "memory", a number of bytes, a folder as a `pathlib.Path`, or a `cache.Cache`: where
        the decoded stacks of compressed frames are kept, shared by all workers. Uncompressed frames
        need none and get none; nor do lower resolutions (`reduce`).
    on_error, seed
        "raise", "skip" or "replace" what cannot be read; see `samples.SampleDataset`, and
        `skipped`.

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
        super().__init__(
            transform,
            Policy(on_error, seed),
            Reading.of(intensity, suv, cache, reduce=reduce, max_bytes=max_bytes),
            Delivery(channels, intensity_on),
        )
        self.target = TargetGrid.of(2, size, spacing)
        self.neighbours = neighbours
        if not (isinstance(neighbours, int) and 0 <= neighbours < 1000) or (
            neighbours and (reduce or channels is not None)
        ):
            raise UsageError(
                f"neighbours={neighbours!r}: expected 0 or more, without reduce= and channels="
            )
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
        elif (voxels := self.reading.cached_voxels(stack, recipe.quantity)) is not None:
            array, padding = voxels.read((position, 0, 0), (position + 1, *stack.shape[1:]))
            read = Converted(array[0], None if padding is None else padding[0])
        else:
            how = self.reading.decoding_here()
            own = conversion(
                stack, position, tuple(facts[name] for name in CONVERSION_COLUMNS), recipe.quantity
            )
            read = read_image(self.index.source(row), own, how=how)
        if recipe.needs_sample:
            recipe = recipe.with_sample(
                sample_of(read.array[None], None if read.padding is None else read.padding[None])
            )
        image, fill = floored(read, recipe), recipe.floor(np.dtype(np.float32))
        image = image if self.neighbours else channel_first(image, 2)
        image, affine, spacing = resized(
            image,
            *frame_grid(stack, position, self.reading.decoding.reduce),
            self.target,
            smooth=smooth,
            fill=fill,
        )
        identifiers = {"row": row, **{name: facts[name] for name in _FRAME_IDENTIFIERS}}
        return made_sample(Image(image), affine, spacing, recipe, self.delivery, identifiers)

    def _with_neighbours(self, stack: Stack, position: int, recipe: Intensity) -> Converted:
        """The frame between its neighbours, (2 n + 1, rows, columns).

        Where there is none, padding.
        """
        voxels = self.reading.voxels(stack, recipe.quantity)
        if voxels.is_colour:
            raise UsageError(
                "frames of colour have channels of their own: take them without neighbours="
            )
        reach = self.neighbours
        return read_block(
            voxels, (position - reach, 0, 0), (2 * reach + 1, *voxels.shape[1:]), recipe, None
        )

    def _recipe(self, stack: Stack, number: int, number_of_frames: int) -> Intensity:
        if (
            stack.verdict == "no_geometry"
            and (stack.modality in PROJECTION or number_of_frames == 1)
            and stack.modality != "PT"
        ):
            # a percentile then takes the frame itself as its sample
            recipe = resolve(self.reading.intensity, self.index.frame(number))
            return with_units(recipe, stack, self.index.value(number, "position_in_stack"))
        return self.reading.recipe(stack)

    def __repr__(self) -> str:
        return f"FrameDataset({len(self):,} frames, intensity={self.reading.intensity!r})"
