"""The dataset of volumes: one sample per stack, or per group with its leading axis."""

import functools
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dicomdl.datasets._assembly import Delivery, Image, IntensityOn, channel_first, made_sample
from dicomdl.datasets._bags import MAX_MEMBERS, Bags, By
from dicomdl.datasets._channels import (
    ChannelOptions,
    Channels,
    Intensities,
    Roles,
    are_one_grid,
)
from dicomdl.datasets._grid_request import GridRequest, interpolation_of_images
from dicomdl.datasets._groups import GroupOptions, Incomplete, Moved, with_axis
from dicomdl.datasets._on_grid import on_grid_of
from dicomdl.datasets._options import OnError, Policy, Reading
from dicomdl.datasets._regrid import TargetGrid, requested_spacing, resampled
from dicomdl.datasets._table_labels import TableLabels
from dicomdl.datasets._whole import Whole
from dicomdl.datasets.base import IDENTIFIERS, StackDataset, Transform
from dicomdl.datasets.marks import Boxes, Place, Points
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.sample_labels import LabelsOption, as_labels, as_tensors
from dicomdl.datasets.selection import StackChoice, report_left_out
from dicomdl.datasets.targets import TargetOption
from dicomdl.datasets.times import TimesOption
from dicomdl.datasets.transport.images import new_array
from dicomdl.geometry.boxes import map_between
from dicomdl.geometry.grid import Geometry
from dicomdl.geometry.regular import regular_slices
from dicomdl.geometry.verdict import FILLABLE, Irregular
from dicomdl.index.given import Indexed, as_groups, as_index
from dicomdl.index.text import counted
from dicomdl.index.views import Group, Stack
from dicomdl.pixels.isolation import IsolationOption
from dicomdl.storage.cache.options import CacheOption
from dicomdl.values.conversion import is_colour
from dicomdl.values.fingerprint import Fingerprint
from dicomdl.values.intensity import Intensity
from dicomdl.values.stack_intensity import SuvPolicy
from dicomdl.volumes.cutting import outside_value
from dicomdl.volumes.group_axis import axis_of
from dicomdl.volumes.resampling import Interpolation, new_grid
from dicomdl.volumes.volume import Volume


class VolumeDataset(StackDataset):
    """3D volumes of the stacks whose verdict allows a volume, or 4D volumes of groups.

    Parameters
    ----------
    index
        As for `FrameDataset`. Groups (``index.groups``, a group, a list of them) are a sample each,
        with all their volumes: time points, echoes, b-values, ... Stacks of groups, such as
        ``index.of_stacks(index.groups)``, are a sample each.
    intensity
        As for `FrameDataset`, resolved once per stack, and once per group from a sample of all its
        volumes, so that they stay comparable. With a pairing, a dict may give one per role; the
        others have "auto".
    transform
        As for `FrameDataset`.
    size
        (slices, rows, columns) of the images, or one number for all; as for `FrameDataset`, in
        three dimensions. Beyond the stack, values are those of `PatchDataset`.
    labels
        As for `PatchDataset`: samples have `label` (D, H, W) at the voxels of the image, each of
        the nearest voxel, 0 beyond the stack.
    target
        As for `FrameDataset`, one per stack: joined by stack, Series, study or patient. Not for
        groups, which carry no joined columns.
    boxes
        A `Boxes`, the joined columns of rectangles on frames: samples have `boxes` (n, 6) float32
        IJKIJK in voxels of the image, one slice thick, `box_labels` (n,) int64 where it has a
        label, and `boxes_dropped`, the number of boxes that lie outside. Boxes are clipped at the
        border of the image; on an oblique grid they are the smallest that hold all corners. Not
        for groups, which carry no joined columns.
    points
        A `Points`, the joined columns of points in pixels of frames or in LPS mm: samples have
        `points` (n, 3) float32 in voxels of the image, `points_mm` (n, 3) float64 LPS,
        `point_labels` (n,) int64 where it has a label, and `points_dropped`.
    orientation
        The directions of the axes, one letter per axis, as for `Volume.reorient`: "RAS" is what
        MONAI's ``Orientationd(axcodes="RAS")`` delivers. `size`, `spacing` and the sample then are
        in the order of these axes. Stacks of unknown orientation are left out. None keeps (slice,
        row, column).
    spacing
        (slice, row, column) mm, one number for all, or a `Fingerprint` for its target spacing, to
        resample to. Interpolation is trilinear, with antialiasing along axes that shrink (see
        `Volume.resample`); segmentations take the nearest voxel. A volume of more than 2^30 voxels
        is a GeometryError.
    interpolation
        "linear", or "thick_slices" for nnU-Net's rule for anisotropic images (see
        `Volume.resample`), which needs `spacing` or `size`.
    channels
        As for `FrameDataset`; or a `Pairing`, whose roles are the channels, as `PatchDataset` takes
        it. A sample is one case: the volume of the first role, and the others on its grid.
    content
        As for `FrameDataset`.
    irregular
        "raise" takes the stacks that are regular, single or tilted. "resample" also takes those
        with missing slices or uneven spacing, and resamples them to a regular grid (see
        `read_volume`). Both leave out stacks that are incomplete in their group, such as an
        interrupted last time point. "accept" takes all stacks, with the slices as they are. One
        warning reports everything left out as a table (`left_out`).
    min_slices
        The least number of slices; shorter stacks are left out.
    suv, reduce, max_bytes, intensity_on, cache, on_error, isolation
        As for `FrameDataset`; `max_bytes` limits a complete volume (see `read_volume`).
    times
        The volumes of a group that its sample has: None for all, a slice such as ``slice(0, 8)``,
        numbers such as ``[0, -1]``, "random" for one at random, or a `RandomTimes`. Draws follow
        the rules of `PatchDataset`. Groups with too few volumes are left out.
    incomplete
        The groups with a volume that cannot be read or lacks slices: "leave_out"; "readable" takes
        the other volumes (see `Group.readable`); "raise" raises the error of `read_volume` here.
    moved
        The groups whose volumes lie on different grids, as after motion correction by the scanner:
        "leave_out", or "resample" to the grid of the first volume.
    by
        "study" or "patient": a sample is a bag of all stacks of one, in the order that
        `FrameDataset` documents: that of series numbers, where no view is stated. `transform` is
        called with each member.
    max_members
        The most members of a bag; more are an error. Another number than 32 needs `by`.
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
        (samples + 1,) int64: each row is a stack or group.
    targets, target_classes, box_classes, point_classes
        As for `FrameDataset`.

    Raises
    ------
    UsageError
        As for `FrameDataset`; options of groups without groups, or groups and stacks together. On
        access: the images of a bag differ in channels.
    IncompleteGroup, IrregularStack
        With ``incomplete="raise"``.
    PixelError, GeometryError, IntensityError
        On access: as for `read_volume` and `FrameDataset`.

    Notes
    -----
    A sample has `image` (C, D, H, W) float32 in the order (slice, row, column), `affine` (4, 4)
    float64 from those indices to LPS mm, `spacing` (3,) float64 mm, `spacing_at` (see
    `Stack.spacing_at`), `units`, `modality`, `patient_id`, `study_instance_uid`,
    `series_instance_uid`, `verdict`, `dimension` (JSON: the values that distinguish the stack from
    others of its group, such as '{"echo_time": 4.9}', else "{}"), `filled` (the number of slices
    with interpolated values), `stack` (its number in the index), `row` and `epoch`. Volumes of
    different sizes need `size`, batch_size=1 or ``collate_fn=dicomdl.collate``.

    Boxes count voxels from the outer corner of the first one: that of ``image[0, a:d, b:e, c:f]``
    is (a, b, c, d, e, f). Points are indices as `affine` takes them: 0 is the centre of the first
    voxel. Batches hold a list of tensors of them.

    The `image` of a group is (T, D, H, W): the volumes take the place of the channels. Colour, or
    ``channels=3``, gives (C, T, D, H, W). `dimension` then lists the values of every volume
    ('{"echo_time": [4.9, 7.2]}'), and `dimension_values` has those that are numbers, (T, names)
    float64. `times_s` (T,) are seconds from the first volume of the group, `time_step_s` is the
    step between volumes, `b_values` (T,) in s/mm^2 and `b_vectors` (T, 3) in LPS; all float64, NaN
    where the header does not tell (see `Volume.time_step_s`). `stacks` (T,) int64 are the numbers
    of the stacks, and `present` (T,) bool is True; identifiers and grid are those of the first
    volume. ``collate_fn=dicomdl.collate`` pads groups of different lengths.

    With a pairing, `image` is (roles, D, H, W), and the sample has the entries `present`, `stacks`,
    `units` and `series` of `PatchDataset`.

    A bag of K stacks has `image` (K, C, D, H, W) with `size`, else a list of K tensors, and the
    other entries of a bag of frames.

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

    Groups are given as such:

    >>> group = index.stacks[0].group
    >>> dicomdl.VolumeDataset(group, "ct.lung", times=[0])[0]["image"].shape
    torch.Size([1, 1, 128, 128])
    """

    def __init__(
        self,
        index: Indexed,
        intensity: Intensities = "auto",
        transform: Transform | None = None,
        *,
        size: Sequence[int] | None = None,
        labels: LabelsOption = None,
        target: TargetOption = None,
        boxes: Boxes | None = None,
        points: Points | None = None,
        orientation: str | None = None,
        spacing: Sequence[float] | float | Fingerprint | None = None,
        interpolation: Literal["linear", "thick_slices"] = "linear",
        channels: Channels = None,
        content: str | None = "image",
        irregular: Irregular = "raise",
        min_slices: int = 1,
        suv: SuvPolicy = "required",
        reduce: int = 0,
        max_bytes: int | None = None,
        intensity_on: IntensityOn = "cpu",
        cache: CacheOption = None,
        times: TimesOption = None,
        incomplete: Incomplete = "leave_out",
        moved: Moved = "leave_out",
        by: By | None = None,
        max_members: int = MAX_MEMBERS,
        on_error: OnError = "raise",
        isolation: IsolationOption = "auto",
        seed: int = 0,
    ) -> None:
        given = as_index(index, type(self).__name__, (intensity, transform))
        groups, options = as_groups(index), ChannelOptions.of(channels, intensity, intensity_on)
        super().__init__(
            transform,
            Policy(on_error, seed),
            Reading.of(
                options.intensities[0],
                suv,
                cache,
                reduce=reduce,
                max_bytes=max_bytes,
                isolation=isolation,
            ),
            Delivery(options.count, intensity_on),
        )
        mm = requested_spacing(spacing, 3, oriented=orientation is not None)
        self.image_grid = TargetGrid.of(3, size, mm)
        self.how = interpolation_of_images(interpolation, is_used=not self.image_grid.is_own)
        self.grid = GridRequest(orientation)
        choice = StackChoice(content, irregular, min_slices, is_placed=not self.grid.is_own)
        group_options = GroupOptions.of(groups, times, incomplete, moved)
        self._take_cases((given, groups), choice, group_options, options)
        self.labels = self._keep_labelled(as_labels(labels))
        self._take_table(TableLabels.of(target, boxes, points, self.index.joined))
        self._take_bags(Bags.of(by, max_members, self.delivery, is_sized=size is not None))
        report_left_out(type(self).__name__, given, len(self), self.left_out)

    def __len__(self) -> int:
        return len(self._cases)

    @property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(samples + 1,) int64: each row is a stack or group."""
        return np.arange(len(self) + 1, dtype=np.int64)

    def _make(self, row: int, epoch: int | None) -> Sample:
        if self.roles is not None:
            return self._of_roles(self.roles, row, self._case(row))
        if self.bags is not None:
            stacks = [self.index.stack(number) for number in self._cases[row].tolist()]
            members = [functools.partial(self._of_stack, row, stack) for stack in stacks]
            bag = self.bags.bag(row, members)
            return self._with_target_of_bag(bag, self.bags, stacks[0].rows.start)
        if not self.is_grouped:
            return self._of_stack(row, self._stacks[row])
        group, times = self._group(row), self.group_options.times
        chosen = times.choose(len(group), self._chance(row, epoch, is_random=times.is_random))
        recipe, stacks = self.reading.recipe(group), [group[t] for t in chosen.tolist()]
        sample = self._sample(row, group.only(stacks), recipe)
        return with_axis(sample, axis_of(group).at(chosen), stacks)

    def _of_roles(self, roles: Roles, row: int, case: Sequence[Stack | None]) -> Sample:
        """Return the volume of each role of a case, on the grid of the first."""
        recipes = roles.recipes(case)
        first, recipe = case[0], recipes[0]
        assert first is not None and recipe is not None
        own = self._whole.volume(first, recipe)
        volume = self._on_grid(own, first, recipe)
        image = new_array((len(case), *volume.geometry.shape), np.float32)
        recipe(volume.array, image[0])
        for number, (stack, own_recipe) in enumerate(zip(case, recipes, strict=True)):
            if stack is None or own_recipe is None:
                image[number] = roles.lowest(number)
            elif number:
                # Padding has no rounded value where it is interpolated, as in patches.
                moves = not are_one_grid(stack.geometry, first.geometry)
                whole = self._whole_of(roles.readings[number], is_interpolated=moves)
                other = whole.volume(stack, own_recipe)
                if are_one_grid(other.geometry, own.geometry):
                    other = self._on_grid(other, stack, own_recipe)
                else:
                    other = on_grid_of(volume, other, stack, own_recipe, self.how)
                own_recipe(other.array, image[number])
        made = Image(image, is_mapped=True)
        sample = self._described(row, first, volume, made, recipe)
        sample.update(roles.entries(case, recipes))
        sample.update(self._marks(first, own.geometry, volume))
        return sample

    def _of_stack(self, row: int, stack: Stack) -> Sample:
        """Return the sample of a stack."""
        return self._sample(row, stack, self.reading.recipe(stack))

    def _sample(self, row: int, case: Stack | Group, recipe: Intensity) -> Sample:
        """Return the sample of a stack, or of a group with its axis after that of the channels."""
        stack: Stack = case[0] if isinstance(case, Group) else case
        own = self._whole.volume(case, recipe)
        volume = self._on_grid(own, stack, recipe)
        image = Image(channel_first(volume.array, 4 if isinstance(case, Group) else 3))
        sample = self._described(row, stack, volume, image, recipe)
        sample.update(self._marks(stack, own.geometry, volume))
        return sample

    def _on_grid(self, volume: Volume, stack: Stack, recipe: Intensity) -> Volume:
        """Return a volume with the orientation, spacing and size of the dataset."""
        if self.grid.orientation is not None:
            volume = volume.reorient(self.grid.orientation)
        is_label = stack.content == "segmentation"
        interpolation: Interpolation = "nearest" if is_label else self.how.interpolation
        has_lowest = is_label or is_colour(stack)
        fill = None if has_lowest else outside_value(recipe, volume.array.dtype)
        return resampled(volume, self.image_grid, interpolation, fill)

    def _marks(self, stack: Stack, read: Geometry, volume: Volume) -> dict[str, Any]:
        """Return the boxes and points of a stack that was read on a grid, in its volume."""
        if not self.table.has_marks:
            return {}
        own, slices = stack.geometry, None
        if self.irregular == "resample" and stack.verdict in FILLABLE:
            regular = regular_slices(stack.positions, own, stack.verdict, stack.tolerances)
            own, slices = regular.geometry, regular.located
        if own.is_known:
            by = map_between(own, volume.geometry)
        else:
            # Voxels are counted: those of `resampled`, and of an image halved in its plane.
            halved = 0.5**self.reading.decoding.reduce
            counted = read if read.is_known else Geometry(read.shape, np.eye(4))
            size = self.image_grid.size
            new = volume.geometry
            if not new.is_known:
                new = counted if size is None else new_grid(counted, None, size)
            by = map_between(counted, new) @ np.diag([1, halved, halved, 1])
        place = Place(own, by, volume.geometry.shape, volume.affine, slices)
        return self.table.mark_entries(self.index.joined, stack, place)

    def _described(
        self, row: int, stack: Stack, volume: Volume, image: Image, recipe: Intensity
    ) -> Sample:
        """Return the sample of an image, with the facts of a stack and of its volume."""
        # A single slice has no slice spacing on its own grid, and one on every other grid.
        own = stack.geometry.halved(self.reading.decoding.reduce)
        order = self.grid.order(own)
        is_on_own_grid = volume.geometry == order.geometry(own) or not volume.geometry.is_known
        halved = 1 << self.reading.decoding.reduce
        spacing = (
            self.grid.spacing_of(stack) * order.of((1, halved, halved))
            if is_on_own_grid
            else np.asarray(volume.spacing)
        )
        # A single slice of the requested spacing is on its own grid, and has one now.
        spacing = spacing if self.image_grid.spacing is None else np.array(self.image_grid.spacing)
        facts = {
            "row": row,
            "stack": stack.number,
            **{name: getattr(stack, name) for name in IDENTIFIERS},
        }
        facts |= {
            "spacing_at": stack.spacing_at,
            "verdict": stack.verdict,
            "dimension": json.dumps(stack.dimension),
            "filled": int(volume.filled.sum()),
        }
        facts |= self.table.target_entries(self.index.joined, stack.rows.start)
        if self.labels is not None:
            # A group has the labels of its first volume, whichever of its volumes are chosen.
            labelled = self._stacks[row] if self.is_grouped else stack
            facts |= as_tensors(
                self.labels.on(labelled, volume.geometry, self.irregular, self.reading.cache)
            )
        return made_sample(image, volume.affine, spacing, recipe, self.delivery, facts)

    @property
    def _whole(self) -> Whole:
        return self._whole_of(self.reading)

    def _whole_of(self, reading: Reading, *, is_interpolated: bool = False) -> Whole:
        return Whole(
            reading,
            self.irregular,
            is_interpolated=is_interpolated or not self.image_grid.is_own,
            may_move=self.group_options.moved == "resample",
        )

    def __repr__(self) -> str:
        samples = counted(len(self), "groups" if self.is_grouped else "volumes")
        if self.bags is not None:
            samples = self.bags.counted(len(self), len(self._cases.numbers), "volumes")
        return f"VolumeDataset({samples}, intensity={self.reading.intensity!r})"
