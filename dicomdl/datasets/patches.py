"""The dataset of 3D patches, cut out of stacks without reading complete volumes.

A patch inside the stack is read and mapped a few slices at a time (`SLAB_VOXELS`), while they are
in the processor's cache.
"""

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.arrays import Float32, Voxel
from dicomdl.datasets._assembly import (
    Delivery,
    Image,
    IntensityOn,
    channel_first,
    floored,
    made_sample,
)
from dicomdl.datasets._cases import ABSENT
from dicomdl.datasets._channels import ChannelOptions, Channels, Intensities, are_one_grid
from dicomdl.datasets._grid_request import GridRequest
from dicomdl.datasets._on_grid import OnGrid, interpolation_of
from dicomdl.datasets._options import OnError, Policy, Reading
from dicomdl.datasets._regrid import checked_numbers
from dicomdl.datasets.base import IDENTIFIERS, StackDataset, Transform
from dicomdl.datasets.centers import Centers
from dicomdl.datasets.epochs import drawn_number, is_in_pass
from dicomdl.datasets.label_maps import (
    SLAB_VOXELS,
    ByIdentity,
    Labels,
    PatchView,
    label_block,
    of_thread,
    points_of,
)
from dicomdl.datasets.patch_samplers import PatchSampler, as_sampler, chance
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.selection import LeftOut, StackChoice, report_left_out
from dicomdl.datasets.transport.images import new_array
from dicomdl.errors import UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.geometry.verdict import Irregular
from dicomdl.index.given import Indexed, as_index
from dicomdl.index.text import counted
from dicomdl.index.views import Stack
from dicomdl.storage.cache.options import CacheOption
from dicomdl.values.intensity import Intensity
from dicomdl.values.stack_intensity import SuvPolicy
from dicomdl.volumes.block_reader import BlockReader, Scratch
from dicomdl.volumes.cutting import padding_shows, read_block


class PatchDataset(StackDataset):
    """3D patches of the stacks whose verdict allows a volume, without reading the volumes.

    For uncompressed DICOM, a patch reads its own rows of its own slices. For compressed DICOM, its
    slices are decoded, and each process caches the slices decoded last, in 90 MiB or the share that
    `DICOMDL_MEMORY` gives them (see `dicomdl.storage.memory`).

    Parameters
    ----------
    index, transform, content
        As for `FrameDataset`.
    intensity
        As for `FrameDataset`, resolved once per stack, so that a value is mapped as in frames and
        volumes. With a pairing, a dict may give one per role; the others have "auto".
    channels
        As for `FrameDataset`; or a `Pairing`, whose roles are the channels, such as T1 and FLAIR,
        or CT and PET. A sample is one case: its patch lies on the grid of the first role, onto
        which the others are interpolated linearly (segmentations take the nearest voxel), with
        antialiasing where voxels become larger. Only the voxels that the patch needs are read.
        Samplers, labels and points refer to the first role. Voxels outside of an image have the
        lowest value. What does not pair is left out, and listed with the reason.
    size
        (slices, rows, columns) of a patch in voxels, or one number for all; with `orientation`, in
        the order of its axes. Beyond the stack a patch is padded with the value that maps to the
        lowest one. Where values stay unchanged, it is padded with -1024 (CT in HU) or 0.
    orientation
        The directions of the axes of patches, one letter per axis, as for `Volume.reorient`: with
        "RAS" the first index ascends to the right of the patient, the second to the front, the
        third to the head, for stacks in every orientation. Axes are exchanged and reversed exactly;
        oblique ones count as the nearest direction. `size`, positions, labels and the sample then
        are in this grid. Stacks of unknown orientation are left out. None keeps (slice, row,
        column).
    per_stack
        The number of patches per stack and epoch, for samplers that draw.
    sampler
        The positions of patches: "uniform", "foreground", "labels", "grid", or a `Uniform`,
        `Foreground`, `Balanced(weights)`, `Grid(overlap)`, `Centers.from_table(table)`, or any
        object with the methods `count` and `start`. Draws depend on (seed, epoch, row) alone where
        rows carry their epoch (`RowSampler`, `WithEpoch`) or `set_epoch` was called. Under a plain
        DataLoader they are drawn from torch's generator otherwise: anew in every pass, repeatable
        by `torch.manual_seed`. ``patches[3]`` without a loader is that of epoch 0. A grid has no
        chance.
    labels
        A function from a stack to its label map, an integer array (slices, rows, columns). The
        sampler "labels" needs it, and samples have its patch as `label` (D, H, W) int64, 0 beyond
        the stack. It is called in the process that reads the sample, which caches label maps in
        61 MiB or the share that `DICOMDL_MEMORY` gives them.
    irregular, min_slices
        As for `VolumeDataset`, without "resample".
    suv, max_bytes, intensity_on, cache, on_error
        As for `FrameDataset`.
    seed
        The seed of draws and replacements, an integer from 0.

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
    roles
        The names of the channels of a pairing (`roles.names`); None without one.

    Raises
    ------
    UsageError
        As for `FrameDataset`; also for an `orientation` that names no three directions.
        Also where a rule of a pairing names a column that does not exist or meets no stack, and
        for an intensity of a role that does not exist.
    PixelError, GeometryError, IntensityError
        On access: as for `read_volume` and `FrameDataset`; a GeometryError also for a label map
        that is unreadable or differs from its stack in shape.

    Notes
    -----
    A sample has `image` (C, D, H, W) float32, `affine` (4, 4) float64 from the indices of the patch
    to LPS mm, `spacing` (3,) float64 mm, `spacing_at` (see `Stack.spacing_at`), `location` (3,)
    int64 (the first voxel of the patch in the stack, which may be negative), `shape` (3,) int64 of
    the stack, `units`, `modality`, `patient_id`, `study_instance_uid`, `series_instance_uid`,
    `stack` (the number of the stack in the index), `row` and `epoch`. Patches around the points of
    a table also have `point`, the row of the table. `stitch` joins the patches of a grid.

    With a pairing, `image` is (roles, D, H, W) in the order of the roles (`roles.names`), `present`
    (roles,) bool is False for an absent optional image, whose channel has the lowest value of its
    intensity (0 where that depends on the stack), `stacks` (roles,) int64 are the numbers of the
    stacks, -1 where absent, and `units` and `series` are dicts of the units and the Series Instance
    UID per role. The other entries are those of the first role.

    Examples
    --------
    >>> import tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> out = tempfile.TemporaryDirectory()
    >>> index = dicomdl.scan(get_testdata_file("CT_small.dcm"), f"{out.name}/index", progress=False)
    >>> patches = dicomdl.PatchDataset(index, (1, 64, 64), sampler="grid")
    >>> patches
    PatchDataset(4 patches of 1 x 64 x 64, sampler=Grid(overlap=0.0), intensity='auto')
    >>> patches[3]["image"].shape, patches[3]["location"]
    (torch.Size([1, 1, 64, 64]), tensor([ 0, 64, 64]))
    """

    def __init__(
        self,
        index: Indexed,
        size: Sequence[int],
        *,
        per_stack: int = 4,
        sampler: str | PatchSampler = "uniform",
        orientation: str | None = None,
        intensity: Intensities = "auto",
        transform: Transform | None = None,
        labels: Labels | None = None,
        channels: Channels = None,
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
        given = as_index(index, type(self).__name__, (size, intensity, transform))
        options = ChannelOptions.of(channels, intensity, intensity_on)
        super().__init__(
            transform,
            Policy(on_error, seed),
            Reading.of(options.intensities[0], suv, cache, max_bytes=max_bytes),
            Delivery(options.count, intensity_on),
        )
        if size is None:
            raise UsageError("size=None: a patch has a size")
        self.size: Voxel = checked_numbers(size, 3, "size")
        if not (isinstance(per_stack, int) and per_stack >= 1):
            raise UsageError(f"per_stack={per_stack!r}: expected at least 1")
        self.per_stack = per_stack
        self.grid = GridRequest(orientation)
        self.sampler = as_sampler(sampler)
        self.labels = labels
        if labels is None and sampler in ("labels", "balanced"):
            raise UsageError(
                "sampler='labels' needs labels=, a function that gives the label map of a stack"
            )
        if irregular == "resample":
            raise UsageError(
                "patches are cut out of slices as they are: read irregular='resample' volumes by "
                "VolumeDataset"
            )
        choice = StackChoice(content, irregular, min_slices, is_placed=not self.grid.is_own)
        self._take_channels(given, choice, options)
        if isinstance(self.sampler, Centers):
            self._keep_stacks_with_points(self.sampler)
        report_left_out(type(self).__name__, given, len(self), self.left_out)

    def _keep_stacks_with_points(self, centers: Centers) -> None:
        """Leave out the stacks without a point, and report the number of points in no stack."""
        candidates = (
            self.index.select(series_instance_uid=centers.series.tolist())
            if len(centers)
            else self.index.of_stacks([])
        )
        cases = self.rule.cases(self.index)
        firsts = set(cases.firsts.tolist())
        inside = {
            stack.number: len(points_of(stack, centers, self.grid)[0])
            for stack in candidates.stacks
            if stack.number in firsts
        }
        lost_points = len(centers) - sum(inside.values())
        if not any(inside.values()):
            raise UsageError(
                f"none of {len(centers)} points lies in a stack of the index: are they LPS mm, and "
                "their Series in it?"
            )
        if lost_points > 0:
            self.left_out.append(
                LeftOut(f"{lost_points:,} of {len(centers):,} points lie in no stack", 0, 0)
            )
        kept = [number for number, count in inside.items() if count]
        members = cases.where(np.isin(cases.firsts, kept)).numbers
        part = self.index.of_stacks(members[members != ABSENT])
        if len(part) < len(self.index):
            without_points = LeftOut(
                "no point of the table in it",
                len(self.index.stacks) - len(part.stacks),
                len(self.index) - len(part),
            )
            self.left_out.append(without_points)
        self.index = part

    @functools.cached_property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(stacks + 1,) int64: the first row of each stack, then the number of rows."""
        if isinstance(self.sampler, Centers):
            counts = np.array(
                [len(points_of(stack, self.sampler, self.grid)[0]) for stack in self._stacks],
                np.int64,
            )
        else:
            shapes, shape_of = np.unique(
                self.grid.shapes(self._stacks), axis=0, return_inverse=True
            )
            per_shape = [
                self.sampler.count((z, y, x), self.size, self.per_stack)
                for z, y, x in shapes.tolist()
            ]
            counts = (
                np.array(per_shape, np.int64)[shape_of.ravel()]
                if len(shapes)
                else np.zeros(0, np.int64)
            )
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def _make(self, row: int, epoch: int | None) -> Sample:
        number = int(np.searchsorted(self.boundaries, row, side="right")) - 1
        stack = self._stacks[number]
        recipe = self.reading.recipe(stack)
        geometry = self.grid.geometry(stack)
        view = PatchView(
            stack, geometry.shape, self.sampler, self.labels, self.reading.cache, self.grid
        )
        patch = row - int(self.boundaries[number])
        start = self.sampler.start(view, self.size, patch, self._chance(row, epoch))
        reader = self.grid.reader(self.reading.voxels(stack, recipe.quantity))
        if self.roles is None:
            image = self._image(reader, start, recipe)
        else:
            case = self._case(number)
            recipes = self.roles.recipes(case)
            image = self._channels(case, recipes, geometry, start)
        affine = np.array(geometry.affine)
        affine[:3, 3] += affine[:3, :3] @ start
        facts = {
            "row": row,
            "stack": stack.number,
            "spacing_at": stack.spacing_at,
            **{name: getattr(stack, name) for name in IDENTIFIERS},
        }
        facts |= {"location": torch.tensor(start), "shape": torch.tensor(geometry.shape)}
        if isinstance(self.sampler, Centers):
            facts["point"] = int(points_of(stack, self.sampler, self.grid)[1][patch])
        if self.labels is not None:
            facts["label"] = torch.from_numpy(
                label_block(stack, ByIdentity(self.labels), self.grid, start, self.size)
            )
        sample = made_sample(image, affine, self.grid.spacing(stack), recipe, self.delivery, facts)
        if self.roles is not None:
            sample.update(self.roles.entries(case, recipes))
        return sample

    def _chance(self, row: int, epoch: int | None) -> np.random.Generator:
        """Return the random generator of a sample; without an epoch, torch's generator seeds it.

        A row outside of the pass of a loader is that of epoch 0. A sampler without chance leaves
        torch's generator alone.
        """
        if epoch is None:
            is_random = getattr(self.sampler, "is_random", True)
            epoch = drawn_number() if is_random and is_in_pass() else 0
        return chance(self.policy.seed, epoch, row)

    def _image(self, voxels: BlockReader, start: Voxel, recipe: Intensity) -> Image:
        """Return the patch, (C, D, H, W), mapped already or not."""
        if self.delivery.intensity_on == "device" or not self._is_mapped_in_slabs(voxels, start):
            block = read_block(voxels, start, self.size, recipe, self._scratch)
            return Image(channel_first(floored(block, recipe), 3))
        image = new_array(self.size, np.float32)
        self._map_slabs(voxels, start, recipe, image)
        return Image(channel_first(image, 3), is_mapped=True)

    def _channels(
        self,
        case: Sequence[Stack | None],
        recipes: Sequence[Intensity | None],
        geometry: Geometry,
        start: Voxel,
    ) -> Image:
        """Return the patch of each role of a case, (roles, D, H, W), on the grid of the first."""
        first = case[0]
        assert self.roles is not None and first is not None
        image = new_array((len(case), *self.size), np.float32)
        for number, (stack, recipe) in enumerate(zip(case, recipes, strict=True)):
            if stack is None or recipe is None:
                image[number] = self.roles.lowest(number)
                continue
            voxels: BlockReader = self.roles.readings[number].voxels(stack, recipe.quantity)
            if first is stack or are_one_grid(voxels.geometry, first.geometry):
                voxels = self.grid.reader(voxels)
            else:
                voxels = OnGrid(voxels, geometry, recipe, interpolation_of(stack))
            if self._is_mapped_in_slabs(voxels, start):
                self._map_slabs(voxels, start, recipe, image[number])
            else:
                block = read_block(voxels, start, self.size, recipe, self._scratch)
                recipe(floored(block, recipe), image[number])
        return Image(image, is_mapped=True)

    def _is_mapped_in_slabs(self, voxels: BlockReader, start: Voxel) -> bool:
        """Whether a patch is read and mapped a few slices at a time.

        It has int16 values inside the image, in the order of the slices.
        """
        inside = all(
            0 <= a <= n - s for a, n, s in zip(start, voxels.shape, self.size, strict=True)
        )
        return inside and voxels.always_int16 and voxels.stored_axes[0] == 0

    def _map_slabs(
        self, voxels: BlockReader, start: Voxel, recipe: Intensity, image: Float32
    ) -> None:
        """Read a patch and map it into an image, while its slices are in the processor's cache."""
        stop, shows = (
            (start[1] + self.size[1], start[2] + self.size[2]),
            padding_shows(voxels, recipe),
        )
        step = max(1, SLAB_VOXELS // (self.size[1] * self.size[2]))
        for first in range(0, self.size[0], step):
            last = min(first + step, self.size[0])
            read = voxels.read(
                (start[0] + first, *start[1:]),
                (start[0] + last, *stop),
                self._scratch,
                want_padding=shows,
            )
            recipe(floored(read, recipe), image[first:last])

    @property
    def _scratch(self) -> Scratch:
        """The scratch memory of this thread.

        With ``intensity_on="device"`` the values become the image unmapped, so they are read into
        the memory of the sample.
        """
        name = f"scratch_{self.delivery.intensity_on}"
        if not hasattr(of_thread, name):
            setattr(
                of_thread,
                name,
                Scratch(new_array if self.delivery.intensity_on == "device" else None),
            )
        return getattr(of_thread, name)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.size))
        options = f"sampler={self.sampler!r}, intensity={self.reading.intensity!r}"
        return f"PatchDataset({counted(len(self), 'patches')} of {size}, {options})"
