"""The dataset of 3D patches, cut out of stacks and groups without reading complete volumes."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.arrays import Floats, Voxel
from dicomdl.datasets._assembly import Delivery, Image, IntensityOn, made_sample
from dicomdl.datasets._channels import ChannelOptions, Channels, Intensities, Roles, are_one_grid
from dicomdl.datasets._grid_request import GridRequest, resampled_reader
from dicomdl.datasets._groups import GroupOptions, Incomplete, Moved, with_axis
from dicomdl.datasets._options import OnError, Policy, Reading
from dicomdl.datasets._patch_images import Layer, PatchImages
from dicomdl.datasets._permutations import checked_count
from dicomdl.datasets._regrid import checked_numbers
from dicomdl.datasets._table_labels import TableLabels
from dicomdl.datasets.base import IDENTIFIERS, StackDataset, Transform
from dicomdl.datasets.centers import Centers
from dicomdl.datasets.label_maps import PatchView, points_of
from dicomdl.datasets.marks import Boxes, Place, Points
from dicomdl.datasets.patch_samplers import PatchSampler, as_sampler
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.sample_labels import LabelsOption, as_labels, as_tensors
from dicomdl.datasets.selection import LeftOut, StackChoice, report_left_out
from dicomdl.datasets.targets import TargetOption
from dicomdl.datasets.times import TimesOption
from dicomdl.errors import UsageError
from dicomdl.geometry.boxes import map_between
from dicomdl.geometry.grid import Geometry
from dicomdl.geometry.verdict import Irregular
from dicomdl.index.given import Indexed, as_groups, as_index
from dicomdl.index.grouping import with_numbers
from dicomdl.index.text import counted
from dicomdl.index.views import Group, Stack
from dicomdl.lazy import cached_property
from dicomdl.pixels.isolation import IsolationOption
from dicomdl.storage.cache.options import CacheOption
from dicomdl.values.fingerprint import Fingerprint
from dicomdl.values.intensity import Intensity
from dicomdl.values.stack_intensity import SuvPolicy
from dicomdl.volumes.block_reader import BlockReader
from dicomdl.volumes.group_axis import axis_of

# The sample of an image and its intensity, for a place that is known.
Made: TypeAlias = Callable[[Image, Intensity], Sample]


class PatchDataset(StackDataset):
    """3D patches of the stacks whose verdict allows a volume, without reading the volumes.

    Patches of groups have all their volumes, or some (`times`), at the same place.

    For uncompressed DICOM, a patch reads its own rows of its own slices. For compressed DICOM, its
    slices are decoded, and each process caches the slices decoded last, in 82 MiB or the share that
    `DICOMDL_MEMORY` gives them (see `dicomdl.storage.memory`).

    Parameters
    ----------
    index
        As for `VolumeDataset`, with groups.
    size
        (slices, rows, columns) of a patch in voxels, or one number for all; with `orientation`, in
        the order of its axes. Beyond the stack a patch is padded with the value that maps to the
        lowest one. Where values stay unchanged, it is padded with -1024 (CT in HU) or 0.
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
    orientation
        The directions of the axes of patches, one letter per axis, as for `Volume.reorient`: with
        "RAS" the first index ascends to the right of the patient, the second to the front, the
        third to the head, for stacks in every orientation. Axes are exchanged and reversed exactly;
        oblique ones count as the nearest direction. `size`, positions, labels and the sample then
        are in this grid. Stacks of unknown orientation are left out. None keeps (slice, row,
        column).
    spacing
        (slice, row, column) mm, one number for all, or a `Fingerprint` for its target spacing; with
        `orientation`, in the order of its axes. The patch is cut out of the grid that
        `Volume.resample` gives the stack, and has its values, but only the voxels between which the
        patch lies are read. Images are interpolated linearly, with antialiasing along axes that
        shrink; labels and segmentations take the nearest voxel. `size`, positions, labels and the
        sample then are in this grid (see `geometry`). Stacks of unknown position are left out.
    interpolation
        "linear", or "thick_slices" for nnU-Net's rule for anisotropic images (see
        `Volume.resample`), which needs `spacing`.
    intensity
        As for `FrameDataset`, resolved once per stack or group, so that a value is mapped as in
        volumes, and for stacks as in frames. With a pairing, a dict may give one per role; the
        others have "auto".
    transform, content
        As for `FrameDataset`.
    labels
        "SEG" or "RTSTRUCT": the annotation of each stack, of whose frames or contours a patch reads
        its own; stacks without a readable one are left out. The path of a file or pattern. Or a
        function from a stack to its label map, an integer array (slices, rows, columns), which is
        called in the process that reads the sample; label maps stay in 61 MiB of memory, or the
        share that `DICOMDL_MEMORY` gives them. Or a `LabelSource` of any of these, which chooses
        segments, channels, the dtype, and what becomes of stacks without labels. The sampler
        "labels" needs labels, and samples have their patch as `label` (D, H, W) uint8, or the dtype
        that the labels of all stacks need (see `LabelSource`), 0 beyond the stack. For a group, it
        is that of the first volume.
    target, boxes, points
        As for `VolumeDataset`, in voxels of the patch.
    channels
        As for `FrameDataset`; or a `Pairing`, whose roles are the channels, such as T1 and FLAIR,
        or CT and PET. A sample is one case: its patch lies on the grid of the first role, onto
        which the others are interpolated linearly (segmentations take the nearest voxel), with
        antialiasing where voxels become larger. Only the voxels that the patch needs are read.
        Samplers, labels and points refer to the first role. Voxels outside of an image have the
        lowest value. What does not pair is left out, and listed with the reason.
    irregular, min_slices
        As for `VolumeDataset`, without "resample".
    suv, max_bytes, intensity_on, cache, on_error, isolation
        As for `FrameDataset`.
    times, incomplete, moved
        As for `VolumeDataset`, without ``moved="resample"``. A patch reads its rows of the chosen
        volumes only.
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
    targets, target_classes, box_classes, point_classes
        As for `FrameDataset`.

    Raises
    ------
    UsageError
        As for `FrameDataset`; also for an `orientation` that names no three directions.
        Also where a rule of a pairing names a column that does not exist or meets no stack, and
        for an intensity of a role that does not exist.
    GeometryError
        At `spacing`, some stack has more than 2^33 voxels.
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
        spacing: Sequence[float] | float | Fingerprint | None = None,
        interpolation: Literal["linear", "thick_slices"] = "linear",
        intensity: Intensities = "auto",
        transform: Transform | None = None,
        labels: LabelsOption = None,
        target: TargetOption = None,
        boxes: Boxes | None = None,
        points: Points | None = None,
        channels: Channels = None,
        content: str | None = "image",
        irregular: Irregular = "raise",
        min_slices: int = 1,
        suv: SuvPolicy = "required",
        max_bytes: int | None = None,
        intensity_on: IntensityOn = "cpu",
        cache: CacheOption = None,
        times: TimesOption = None,
        incomplete: Incomplete = "leave_out",
        moved: Moved = "leave_out",
        on_error: OnError = "raise",
        isolation: IsolationOption = "auto",
        seed: int = 0,
    ) -> None:
        given = as_index(index, type(self).__name__, (size, intensity, transform))
        options = ChannelOptions.of(channels, intensity, intensity_on)
        groups = as_groups(index)
        super().__init__(
            transform,
            Policy(on_error, seed),
            Reading.of(
                options.intensities[0], suv, cache, max_bytes=max_bytes, isolation=isolation
            ),
            Delivery(options.count, intensity_on),
        )
        if size is None:
            raise UsageError("size=None: a patch has a size")
        self.size: Voxel = checked_numbers(size, 3, "size")
        self.per_stack = checked_count("per_stack", per_stack, 1)
        self.grid = GridRequest.of(orientation, spacing, interpolation)
        self.sampler = as_sampler(sampler)
        source = as_labels(labels)
        if labels is None and sampler in ("labels", "balanced"):
            raise UsageError(
                "sampler='labels' needs labels=, such as 'SEG', or a function that gives the label "
                "map of a stack"
            )
        if irregular == "resample":
            raise UsageError(
                "patches are cut out of slices as they are: read irregular='resample' volumes by "
                "VolumeDataset"
            )
        if moved == "resample":
            raise UsageError(
                "patches are cut out of slices as they are: read groups with moved='resample' by "
                "VolumeDataset"
            )
        choice = StackChoice(content, irregular, min_slices, is_placed=not self.grid.is_own)
        group_options = GroupOptions.of(groups, times, incomplete, moved)
        self._take_cases((given, groups), choice, group_options, options)
        self.labels = self._keep_labelled(source)
        if isinstance(self.sampler, Centers):
            self._keep_cases_with_points(self.sampler)
        self._take_table(TableLabels.of(target, boxes, points, self.index.joined))
        report_left_out(type(self).__name__, given, len(self), self.left_out)

    def _keep_cases_with_points(self, centers: Centers) -> None:
        """Leave out the stacks without a point, and report the number of points in no stack."""
        firsts = self._cases.firsts
        inside = {
            stack.number: len(points_of(stack, centers, self.grid)[0])
            for stack in self._stacks_with_points(centers)
        }
        lost_points = len(centers) - sum(inside.values())
        if not any(inside.values()):
            raise UsageError(
                f"none of {len(centers)} points lies in a stack of the index: "
                + (
                    "are their Series in it, by UID or folder, and the frames in these?"
                    if centers.column
                    else "are they LPS mm, and their Series in it?"
                )
            )
        if lost_points > 0:
            self.left_out.append(
                LeftOut(f"{lost_points:,} of {len(centers):,} points lie in no stack", 0, 0)
            )
        self._keep_cases(
            np.isin(firsts, [number for number, count in inside.items() if count]),
            "no point of the table in it",
        )

    def _stacks_with_points(self, centers: Centers) -> list[Stack]:
        """Return the first stacks of cases whose Series the table names."""
        if centers.column:
            return [stack for stack in self._stacks if centers.is_of(stack)]
        if not len(centers):
            return []
        named = self.index.select(series_instance_uid=centers.series.tolist()).stacks
        numbers = named.numbers[np.isin(named.numbers, self._cases.firsts)]
        return list(with_numbers(named, numbers))

    @cached_property
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
        stack, patch = self._stacks[number], row - int(self.boundaries[number])
        is_random = getattr(self.sampler, "is_random", True) or self.group_options.times.is_random
        generator = self._chance(row, epoch, is_random=is_random)
        geometry = self.grid.geometry(stack)
        view = PatchView(
            stack, geometry.shape, self.sampler, self.labels, self.reading.cache, self.grid
        )
        start = self.sampler.start(view, self.size, patch, generator)
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
        facts |= self.table.target_entries(self.index.joined, stack.rows.start)
        if self.table.has_marks:
            facts |= self._marks(stack, geometry, start, affine)
        if self.labels is not None:
            facts |= as_tensors(
                self.labels.block(stack, self.grid, (start, self.size), self.reading.cache)
            )

        def made(image: Image, recipe: Intensity) -> Sample:
            spacing = self.grid.spacing_of(stack)
            return made_sample(image, affine, spacing, recipe, self.delivery, facts)

        if self.is_grouped:
            return self._of_group(self._group(number), (geometry, start), generator, made)
        recipe = self.reading.recipe(stack)
        if self.roles is None:
            reader = self._reader(stack, geometry, recipe)
            return made(self._images.one(reader, start, recipe), recipe)
        return self._of_roles(self.roles, self._case(number), start, made)

    def _marks(
        self, stack: Stack, geometry: Geometry, start: Voxel, affine: Floats
    ) -> dict[str, Any]:
        """Return the boxes and points of a stack in a patch of a grid, which has an affine."""
        own = stack.geometry
        by = np.eye(4) if self.grid.is_own else map_between(own, geometry)
        by[:3, 3] -= start
        place = Place(own, by, self.size, affine)
        return self.table.mark_entries(self.index.joined, stack, place)

    def geometry(self, stack: Stack) -> Geometry:
        """Return the grid that the patches of a stack are cut from.

        Voxels of this grid are what `location`, `shape`, labels and `stitch` count. An array on it
        comes back onto the slices as a volume does::

            result = dicomdl.Volume(array, patches.geometry(stack))
            on_slices = result.resample_to(stack.geometry, interpolation="nearest")

        Parameters
        ----------
        stack
            A stack of the index.

        Returns
        -------
        Geometry
            The grid, with the axes of `orientation`.

        Raises
        ------
        GeometryError
            The position of the stack is unknown and `spacing` or `orientation` needs it, or the
            grid has too many voxels.
        """
        return self.grid.geometry(stack)

    def _of_group(
        self,
        group: Group,
        place: tuple[Geometry, Voxel],
        generator: np.random.Generator,
        made: Made,
    ) -> Sample:
        """Return the patch of the chosen volumes of a group, at a place on the delivered grid."""
        geometry, start = place
        chosen = self.group_options.times.choose(len(group), generator)
        recipe, stacks = self.reading.recipe(group), [group[t] for t in chosen.tolist()]
        readers = [self._reader(stack, geometry, recipe) for stack in stacks]
        sample = made(self._images.several(readers, start, recipe), recipe)
        return with_axis(sample, axis_of(group).at(chosen), stacks)

    def _of_roles(
        self, roles: Roles, case: Sequence[Stack | None], start: Voxel, made: Made
    ) -> Sample:
        """Return the patch of each role of a case, on the grid of the first."""
        recipes = roles.recipes(case)
        first, recipe = case[0], recipes[0]
        assert first is not None and recipe is not None
        geometry, layers = self.grid.geometry(first), list[Layer]()
        for number, (stack, own) in enumerate(zip(case, recipes, strict=True)):
            if stack is None or own is None:
                layers.append(roles.lowest(number))
                continue
            voxels: BlockReader = roles.readings[number].voxels(stack, own.quantity)
            is_on_grid = stack is first or are_one_grid(voxels.geometry, first.geometry)
            voxels = (
                self.grid.reader(voxels, geometry, stack, own)
                if is_on_grid or self.grid.spacing is not None
                else resampled_reader(voxels, geometry, stack, own)
            )
            layers.append((voxels, own))
        sample = made(Image(self._images.layers(layers, start), is_mapped=True), recipe)
        sample.update(roles.entries(case, recipes))
        return sample

    @property
    def _images(self) -> PatchImages:
        return PatchImages(self.size, self.delivery.intensity_on)

    def _reader(self, stack: Stack, geometry: Geometry, recipe: Intensity) -> BlockReader:
        """Return the reader of blocks of a stack on the delivered grid."""
        voxels = self.reading.voxels(stack, recipe.quantity)
        return self.grid.reader(voxels, geometry, stack, recipe)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.size))
        options = f"sampler={self.sampler!r}, intensity={self.reading.intensity!r}"
        return f"PatchDataset({counted(len(self), 'patches')} of {size}, {options})"
