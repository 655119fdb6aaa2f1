"""The dataset of 3D volumes: one sample per stack.

A volume with a cache, on the grid of its slices, is read from the cache; other volumes are read by
`read_volume`.
"""

import dataclasses
import json
from collections.abc import Sequence

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
from dicomdl.datasets._cases import EachStack
from dicomdl.datasets._grid_request import GridRequest
from dicomdl.datasets._options import OnError, Policy, Reading
from dicomdl.datasets._regrid import TargetGrid, resampled
from dicomdl.datasets.base import IDENTIFIERS, StackDataset, Transform
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.selection import StackChoice, report_left_out
from dicomdl.geometry.verdict import READABLE, Irregular
from dicomdl.index.given import Indexed, as_index
from dicomdl.index.text import counted
from dicomdl.index.views import Stack
from dicomdl.storage.cache.options import CacheOption
from dicomdl.values.conversion import is_colour
from dicomdl.values.reading import Converted
from dicomdl.values.request import IntensityOption
from dicomdl.values.stack_intensity import SuvPolicy
from dicomdl.volumes.read import read_volume
from dicomdl.volumes.resampling import Interpolation
from dicomdl.volumes.volume import Volume


class VolumeDataset(StackDataset):
    """3D volumes of the stacks whose verdict allows a volume.

    Parameters
    ----------
    index, intensity, transform, channels, content
        As for `FrameDataset`; `intensity` is resolved once per stack.
    size
        (slices, rows, columns) of the images, or one number for all; as for `FrameDataset`, in
        three dimensions.
    orientation
        The directions of the axes, one letter per axis, as for `Volume.reorient`: "RAS" is what
        MONAI's ``Orientationd(axcodes="RAS")`` delivers. `size`, `spacing` and the sample then are
        in the order of these axes. Stacks of unknown orientation are left out. None keeps (slice,
        row, column).
    spacing
        (slice, row, column) mm, or one number for all, to resample to. Interpolation is trilinear,
        with antialiasing along axes that shrink (see `Volume.resample`); segmentations take the
        nearest voxel.
    irregular
        "raise" takes the stacks that are regular, single or tilted. "resample" also takes those
        with missing slices or uneven spacing, and resamples them to a regular grid (see
        `read_volume`). Both leave out stacks that are incomplete in their group, such as an
        interrupted last time point. "accept" takes all stacks, with the slices as they are. One
        warning reports everything left out as a table (`left_out`).
    min_slices
        The least number of slices; shorter stacks are left out.
    suv, reduce, max_bytes, intensity_on, cache, on_error, seed
        As for `FrameDataset`; `max_bytes` limits a complete volume (see `read_volume`).

    Attributes
    ----------
    index
        The part of the index that the dataset takes.
    left_out
        The reasons for leaving out stacks, with counts.
    skipped
        The unreadable samples so far.
    boundaries
        (stacks + 1,) int64: the first row of each stack, then the number of rows.

    Raises
    ------
    UsageError
        As for `FrameDataset`.
    PixelError, GeometryError, IntensityError
        On access: as for `read_volume` and `FrameDataset`.

    Notes
    -----
    A sample has `image` (C, D, H, W) float32 in the order (slice, row, column), `affine` (4, 4)
    float64 from those indices to LPS mm, `spacing` (3,) float64 mm, `spacing_at` (see
    `Stack.spacing_at`), `units`, `modality`, `patient_id`, `study_instance_uid`,
    `series_instance_uid`, `verdict`, `dimension` (JSON: the values that distinguish the stack from
    others of its group, such as '{"echo_time": 4.9}', else "{}"), `filled` (the number of slices
    with interpolated values), `row` and `epoch`. Volumes of different sizes need `size`,
    batch_size=1 or ``collate_fn=dicomdl.collate``.

    Examples
    --------
    >>> import tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> out = tempfile.TemporaryDirectory()
    >>> index = dicomdl.scan(get_testdata_file("CT_small.dcm"), f"{out.name}/index", progress=False)
    >>> volumes = dicomdl.VolumeDataset(index, "ct.lung")
    >>> sample = volumes[0]
    >>> sample["image"].shape, sample["verdict"]
    (torch.Size([1, 1, 128, 128]), 'single')
    """

    def __init__(
        self,
        index: Indexed,
        intensity: IntensityOption = "auto",
        transform: Transform | None = None,
        *,
        size: Sequence[int] | None = None,
        orientation: str | None = None,
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
        given = as_index(index, type(self).__name__, (intensity, transform))
        super().__init__(
            transform,
            Policy(on_error, seed),
            Reading.of(intensity, suv, cache, reduce=reduce, max_bytes=max_bytes),
            Delivery(channels, intensity_on),
        )
        self.target = TargetGrid.of(3, size, spacing)
        self.grid = GridRequest(orientation)
        choice = StackChoice(content, irregular, min_slices, is_placed=not self.grid.is_own)
        self._take(given, choice, EachStack())
        report_left_out(type(self).__name__, given, len(self), self.left_out)

    def __len__(self) -> int:
        return len(self._cases)

    @property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(stacks + 1,) int64: each row is a stack."""
        return np.arange(len(self) + 1, dtype=np.int64)

    def _make(self, row: int, epoch: int | None) -> Sample:
        del epoch
        stack = self._stacks[row]
        recipe = self.reading.recipe(stack)
        grey = not is_colour(stack)
        # Interpolated values must not be rounded to integers.
        dtype = np.float32 if grey and not self.target.is_own else None
        voxels = (
            self.reading.cached_voxels(stack, recipe.quantity)
            if self._has_own_slices(stack)
            else None
        )
        if voxels is not None:
            array, padding = voxels.read((0, 0, 0), stack.shape)
            volume = Volume(
                array if dtype is None else array.astype(dtype),
                stack.geometry,
                "",
                None,
                stack,
                padding=padding,
            )
        else:
            how = self.reading.decoding_here()
            volume = read_volume(
                stack,
                values=recipe.quantity,
                irregular=self.irregular,
                dtype=dtype,
                reduce=how.reduce,
                threads=how.threads,
                max_bytes=how.max_bytes,
            )
        volume = dataclasses.replace(
            volume, array=floored(Converted(volume.array, volume.padding), recipe), padding=None
        )
        if self.grid.orientation is not None:
            volume = volume.reorient(self.grid.orientation)
        interpolation: Interpolation = "nearest" if stack.content == "segmentation" else "linear"
        fill = None if interpolation == "nearest" else recipe.floor(volume.array.dtype)
        volume = resampled(volume, self.target, interpolation, fill)
        # A single slice has no slice spacing on its own grid, and one on every other grid.
        own = stack.geometry.halved(self.reading.decoding.reduce)
        order = self.grid.order(own)
        is_on_own_grid = volume.geometry == order.geometry(own) or not volume.geometry.is_known
        halved = 1 << self.reading.decoding.reduce
        spacing = (
            self.grid.spacing(stack) * order.of((1, halved, halved))
            if is_on_own_grid
            else np.asarray(volume.spacing)
        )
        facts = {"row": row, **{name: getattr(stack, name) for name in IDENTIFIERS}}
        facts |= {
            "spacing_at": stack.spacing_at,
            "verdict": stack.verdict,
            "dimension": json.dumps(stack.dimension),
            "filled": int(volume.filled.sum()),
        }
        return made_sample(
            Image(channel_first(volume.array, 3)),
            volume.affine,
            spacing,
            recipe,
            self.delivery,
            facts,
        )

    def _has_own_slices(self, stack: Stack) -> bool:
        """Return whether the volume has the stack's slices, without resampling."""
        return self.irregular != "resample" or (
            stack.verdict in READABLE and "tilt_deg" not in stack.detail
        )

    def __repr__(self) -> str:
        return (
            f"VolumeDataset({counted(len(self), 'volumes')}, intensity={self.reading.intensity!r})"
        )
