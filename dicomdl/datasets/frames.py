"""The dataset of 2D frames.

The rules of samples hold for volumes and patches too. A sample is a dict: `image` (float32 tensor,
channel first), `affine` (4, 4) float64, `spacing`, `units`, identifiers as strings. Unknown values
are NaN or "" instead of None, so that the default collate works. Where its epoch is known, a sample
depends on (seed, epoch, row) alone, whichever worker reads it (see `epochs`). A dataset holds an
index and options, which pickle as a few hundred bytes, so every start method of a DataLoader works.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

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
from dicomdl.datasets._regrid import Fit, FrameGrid, Resizing, TargetGrid, frame_grid, resized
from dicomdl.datasets.base import IDENTIFIERS, PixelDataset, Transform
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.selection import Taken, checked_content, report_left_out
from dicomdl.errors import UsageError
from dicomdl.geometry.in_plane import PROJECTION
from dicomdl.index.given import Indexed, as_index
from dicomdl.index.text import counted
from dicomdl.index.views import Stack
from dicomdl.storage.cache.options import CacheOption
from dicomdl.values.auto import resolve
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
        An Index or a part of one; its path, or that of a folder that was scanned without `out`; or
        stacks, groups or Series of an index, which are taken in the order of the index.
    intensity
        The mapping of modality values to network values: "auto" (by modality, see `by_modality`),
        "modality" (unchanged), "philips" (Philips' floating point values, see `read_volume`),
        "file" (the file's window or VOI LUT), a preset such as "ct.lung", (center, width), a
        Window, a Percentile, a ZScore, a MinMax, a Clip, a Fingerprint, an SUV, a RealWorld, a
        tuple of these (a chain), or any callable on arrays. It is resolved once per stack, so that
        all its frames are mapped alike. Projection images (CR, DX, MG, ...) and other frames
        without geometry are resolved one by one. Padding (Pixel Padding Value) becomes the lowest
        value and is excluded from percentiles and statistics.
    transform
        A callable that takes the sample; its result is delivered instead.
    size
        (rows, columns) of the images, or one number for both. Without `spacing` the image is
        resampled to this size as `fit` says; with it, the resampled image is cropped or padded
        about its centre.
    fit
        "stretch" resamples the complete field of view to `size`, each axis by its own factor. "pad"
        takes one factor for both axes, so that the complete image fits inside, in the middle; the
        rest has the lowest value (of the image where values stay unchanged). "crop" takes one
        factor so that the image covers `size`, and cuts off what is beyond. The default is "pad"
        for projection images (CR, DX, MG, RG, RF, XA, IO, PX) and "stretch" for all others.
        `affine` and `spacing` are exact for each.
    spacing
        (row, column) mm, or one number for both, to resample to. Interpolation is bilinear, with
        antialiasing, on modality values; segmentations take the nearest pixel. `affine` follows.
    spacing_at
        "patient": the spacing of projection images (CR, DX, MG, XA, ...) is that in the patient,
        divided by the magnification where the header has it at the detector, NaN where that is not
        known. By default it is that of the header; the sample's `spacing_at` names its place.
    channels
        1 converts colour to grey, 3 repeats grey. By default grey has 1 channel and colour 3.
    content
        "image", "segmentation", "dose", "parametric_map", or None for all. Duplicates of a frame
        are always left out. One warning reports everything left out as a table (`left_out`).
    suv
        "required": "auto" raises an SUVError for PET whose header gives no SUV. "if_possible":
        "auto" takes percentiles of such PET.
    reduce
        The number of times that reading halves rows and columns, before `size` and `spacing` (see
        `read_frame`).
    max_bytes
        The limit on the memory of a decompressed frame (see `read_frame`).
    neighbours
        The number n of slices before and after the frame that are delivered as channels (2.5D):
        2 n + 1 channels in slice order. Beyond the ends of the stack they are padding.
    intensity_on
        "device" delivers stored integers as integers, with their intensity as data, for
        `apply_intensity` on a GPU. This halves the bytes to transfer. Such samples have `intensity`
        (5,) float64.
    cache
        The cache of decoded stacks of compressed frames, shared by all workers: "disk", "memory", a
        number of bytes, a folder as a `pathlib.Path`, or a `Cache`. Uncompressed frames and lower
        resolutions (`reduce`) are not cached.
    on_error
        "raise", "skip" or "replace" unreadable samples (see `SampleDataset`); `skipped` lists them.
    seed
        The seed of replacements, an integer from 0.

    Attributes
    ----------
    index
        The part of the index that the dataset takes.
    left_out
        The reasons for leaving out frames, with counts.
    skipped
        The unreadable samples so far.
    boundaries
        (stacks + 1,) int64: the first row of each stack, then the number of rows.

    Raises
    ------
    UsageError
        An option has an unknown value, or options exclude each other. An EmptySelection, with
        counts, if nothing is left of the index.
    PixelError
        On access: a frame cannot be read. The notes name its file.
    GeometryError
        On access: `spacing` is given and the frame has none.
    IntensityError
        On access: the intensity cannot be computed for the frame (an SUVError for PET without SUV).

    Notes
    -----
    A sample has `image` (C, H, W) float32, `affine` (4, 4) float64 from (slice, row, column) to LPS
    mm, `spacing` (3,) float64 mm (both NaN where unknown; the frame is slice 0 of its own grid),
    `spacing_at` ("patient", "detector", or "" if the header does not tell), `units`, `modality`,
    `patient_id`, `study_instance_uid`, `series_instance_uid`, `sop_instance_uid`, `frame_number`,
    `path`, `row` (the number of the sample) and `epoch` (-1 for a row that carries none, before
    `set_epoch`). Frames of different sizes need `size`,
    batch_size=1 or ``collate_fn=dicomdl.collate``.

    Examples
    --------
    >>> import tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> out = tempfile.TemporaryDirectory()
    >>> index = dicomdl.scan(get_testdata_file("CT_small.dcm"), f"{out.name}/index", progress=False)
    >>> frames = dicomdl.FrameDataset(index, "ct.lung", size=(64, 64))
    >>> frames
    FrameDataset(1 frame, intensity='ct.lung')
    >>> sample = frames[0]
    >>> sample["image"].shape, sample["modality"]
    (torch.Size([1, 64, 64]), 'CT')
    >>> sample["spacing"][1:]
    tensor([1.3229, 1.3229], dtype=torch.float64)
    """

    def __init__(
        self,
        index: Indexed,
        intensity: IntensityOption = "auto",
        transform: Transform | None = None,
        *,
        size: Sequence[int] | int | None = None,
        fit: Fit | None = None,
        spacing: Sequence[float] | float | None = None,
        spacing_at: Literal["patient"] | None = None,
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
        given = as_index(index, type(self).__name__, (intensity, transform))
        super().__init__(
            transform,
            Policy(on_error, seed),
            Reading.of(intensity, suv, cache, reduce=reduce, max_bytes=max_bytes),
            Delivery(channels, intensity_on),
        )
        if spacing_at not in (None, "patient"):
            raise UsageError(f"spacing_at={spacing_at!r}: expected 'patient' or None")
        self.spacing_at = spacing_at
        self.target = TargetGrid.of(2, size, spacing, fit)
        self.neighbours = neighbours
        if not (isinstance(neighbours, int) and 0 <= neighbours < 1000) or (
            neighbours and (reduce or channels is not None)
        ):
            raise UsageError(
                f"neighbours={neighbours!r}: expected 0 or more, without reduce= and channels="
            )
        taken = Taken(given)
        taken.leave_out_copies()
        taken.leave_out_other_content(checked_content(content))
        self.index, self.left_out = taken.index, taken.left_out
        report_left_out(type(self).__name__, given, len(self), self.left_out)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(stacks + 1,) int64: the first row of each stack, complete or not, and the end."""
        return self.index.stack_boundaries()

    def _make(self, row: int, epoch: int | None) -> Sample:
        del epoch
        stack = self.index.stack_of(row)
        facts = self.index.facts(row, _FRAME_FACTS)
        recipe = self._recipe(stack, row, facts["number_of_frames"])
        position = facts["position_in_stack"]
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
        image = floored(read, recipe)
        image = image if self.neighbours else channel_first(image, 2)
        image, grid = self._resized(image, stack, position, recipe)
        identifiers = {"row": row, **{name: facts[name] for name in _FRAME_IDENTIFIERS}}
        identifiers["spacing_at"] = grid.spacing_at
        # Those of the stack, which labels are joined by: a slice of it may lack them.
        identifiers["patient_id"] = stack.patient_id
        identifiers["study_instance_uid"] = stack.study_instance_uid
        return made_sample(
            Image(image), grid.affine, grid.spacing, recipe, self.delivery, identifiers
        )

    def _resized(
        self, image: npt.NDArray[Any], stack: Stack, position: int, recipe: Intensity
    ) -> tuple[npt.NDArray[Any], FrameGrid]:
        """Return a frame (C, H, W) and its grid, of the size and spacing to deliver."""
        grid = frame_grid(
            stack,
            position,
            self.reading.decoding.reduce,
            in_patient=self.spacing_at == "patient",
        )
        how = Resizing(
            self.target.fit_of(stack.modality),
            stack.content != "segmentation",
            recipe.floor(np.dtype(np.float32)),
        )
        image, affine, spacing = resized(image, grid.affine, grid.spacing, self.target, how)
        return image, FrameGrid(affine, spacing, grid.spacing_at)

    def _with_neighbours(self, stack: Stack, position: int, recipe: Intensity) -> Converted:
        """Return the frame between its neighbours, (2 n + 1, rows, columns).

        Slices beyond the ends of the stack are padding.
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
        """Return the intensity resolved for the stack, or for the frame if it has no geometry."""
        if (
            stack.verdict == "no_geometry"
            and (stack.modality in PROJECTION or number_of_frames == 1)
            and stack.modality != "PT"
        ):
            # A percentile then takes the frame itself as its sample.
            recipe = resolve(self.reading.intensity, self.index.frame(number))
            return with_units(recipe, stack, self.index.value(number, "position_in_stack"))
        return self.reading.recipe(stack)

    def __repr__(self) -> str:
        return f"FrameDataset({counted(len(self), 'frames')}, intensity={self.reading.intensity!r})"
