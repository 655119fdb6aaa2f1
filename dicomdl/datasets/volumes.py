"""datasets.volumes"""

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
from dicomdl.datasets._options import OnError, Policy, Reading
from dicomdl.datasets._regrid import TargetGrid, resampled
from dicomdl.datasets.base import IDENTIFIERS, StackDataset, Transform
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.selection import StackChoice, tell
from dicomdl.geometry.verdict import READABLE, Irregular
from dicomdl.index.index import Index
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
    """3D volumes: the whole stacks of an index whose verdict allows a volume.

    Parameters
    ----------
    index, intensity, transform, channels, content
        As for `FrameDataset`; `intensity` is resolved once a stack.
    size, spacing
        (slices, rows, columns) and (slice, row, column) mm or one number: as for `FrameDataset`, in
        three dimensions. Trilinear, without antialiasing; segmentations take the nearest voxel.
    irregular
        "raise" takes only stacks that are regular, single or tilted, "resample" also those with
        missing slices or uneven spacing, put onto their regular grid (see `read_volume`); neither
        takes what is incomplete in its group, such as an interrupted last time point. "accept"
        takes everything as it lies. What is left out is told once, as a table (`left_out`).
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
        super().__init__(
            transform,
            Policy(on_error, seed),
            Reading.of(intensity, suv, cache, reduce=reduce, max_bytes=max_bytes),
            Delivery(channels, intensity_on),
        )
        self.target = TargetGrid.of(3, size, spacing)
        self._take(index, StackChoice(content, irregular, min_slices))
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
        recipe = self.reading.recipe(stack)
        grey = not is_colour(stack)
        # interpolated values are not rounded to integers
        dtype = np.float32 if grey and not self.target.is_own else None
        voxels = self.reading.cached_voxels(stack, recipe.quantity) if self._lies(stack) else None
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
        interpolation: Interpolation = "nearest" if stack.content == "segmentation" else "linear"
        fill = None if interpolation == "nearest" else recipe.floor(volume.array.dtype)
        volume = resampled(volume, self.target, interpolation, fill)
        # As it lies, a single slice has no spacing to the next one; on another grid every axis has.
        lies = stack.geometry.halved(self.reading.decoding.reduce)
        as_it_lies = volume.geometry == lies or not volume.geometry.is_known
        spacing = (
            np.asarray(stack.spacing) * (1, *[1 << self.reading.decoding.reduce] * 2)
            if as_it_lies
            else np.asarray(volume.spacing)
        )
        facts = {"row": row, **{name: stack.value(name) for name in IDENTIFIERS}}
        facts |= {
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

    def _lies(self, stack: Stack) -> bool:
        """Whether the volume is the stack's values as they lie."""
        return self.irregular != "resample" or (
            stack.verdict in READABLE and "tilt_deg" not in stack.detail
        )

    def __repr__(self) -> str:
        return f"VolumeDataset({len(self):,} volumes, intensity={self.reading.intensity!r})"
