"""The dataset of 2D frames.

The rules of samples hold for volumes and patches too. A sample is a dict: `image` (float32 tensor,
channel first), `affine` (4, 4) float64, `spacing`, `units`, identifiers as strings. Unknown values
are NaN or "" instead of None, so that the default collate works. Where its epoch is known, a sample
depends on (seed, epoch, row) alone, whichever worker reads it (see `epochs`). A dataset holds an
index and options, which pickle as a few hundred bytes, so every start method of a DataLoader works.
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.arrays import Ints
from dicomdl.datasets._assembly import Delivery, Image, IntensityOn, made_sample
from dicomdl.datasets._bags import MAX_MEMBERS, Bags, By
from dicomdl.datasets._cases import Cases
from dicomdl.datasets._frame_sources import FrameRead, FrameSource, PlaneFrames, StoredFrames
from dicomdl.datasets._grid_request import GridRequest
from dicomdl.datasets._options import OnError, Policy, Reading
from dicomdl.datasets._permutations import checked_count
from dicomdl.datasets._regrid import Fit, Resized, Resizing, TargetGrid, resized
from dicomdl.datasets._table_labels import TableLabels
from dicomdl.datasets.base import PixelDataset, Transform
from dicomdl.datasets.marks import Boxes, Place, Points
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.sample_labels import (
    LabelsOption,
    SampleLabels,
    as_labels,
    as_tensors,
    kept_reasons,
    surveyed,
)
from dicomdl.datasets.selection import StackChoice, Taken, checked_content, report_left_out
from dicomdl.datasets.targets import TargetOption
from dicomdl.errors import UsageError
from dicomdl.geometry.axes import PLANE_AXES, PLANES, Plane
from dicomdl.geometry.boxes import map_between, map_of_scales
from dicomdl.geometry.grid import Geometry
from dicomdl.index.given import Indexed, as_index
from dicomdl.index.grouping import with_numbers
from dicomdl.index.index import Index
from dicomdl.index.text import counted
from dicomdl.labels.source import LabelSource
from dicomdl.lazy import cached_property
from dicomdl.pixels.isolation import IsolationOption
from dicomdl.storage.cache.options import CacheOption
from dicomdl.values.intensity import Intensity
from dicomdl.values.request import IntensityOption
from dicomdl.values.stack_intensity import SuvPolicy


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
    labels
        As for `PatchDataset`: samples have `label` (H, W) or (k, H, W), and perhaps `unlabelled`
        (H, W), at the pixels of the image; with `neighbours`, those of the middle slice. Only the
        frames and contours of that slice are read. Not with `reduce`.
    target
        A joined column (see `Index.join`), several, or a `Target`: samples have `target`. Text is
        the number of its class, int64, in sorted order; one column of integers or flags is int64;
        other numbers are float32, as are several columns together, (columns,). -1 or NaN is
        unknown. `targets` has those of all samples, `class_weights` those of a loss.
    boxes
        A `Boxes`, the joined columns of rectangles: samples have `boxes` (n, 4) float32 XYXY in
        pixels of the image, `box_labels` (n,) int64 where it has a label, and `boxes_dropped`, the
        number of boxes that lie outside. Boxes are clipped at the border of the image.
    points
        A `Points`, the joined columns of points: samples have `points` (n, 2) float32, x and y as
        those of boxes, `points_mm` (n, 3) float64 LPS, `point_labels` (n,) int64 where it has a
        label, and `points_dropped`. Points in LPS mm are those within half a slice of the frame.
    plane
        "axial", "coronal" or "sagittal": frames that are cut out of volumes. The rows of the
        dataset are then the slices of each stack in this plane, whatever the plane of its files,
        and show the patient as `Volume.plot` does: rows of an axial frame lead to Posterior, those
        of the others to Inferior; columns lead to Left, those of a sagittal frame to Posterior.
        Oblique directions count as the nearest one. No value is interpolated, and only the rows of
        the files that a frame crosses are read: one per slice for a coronal frame of axial CT.
        Frames of one stack in a batch are read in one pass over its files. Pixels have the spacing
        of the slices in one direction: `spacing` makes them square. Stacks whose verdict allows no
        volume are left out. None delivers the frames of the files.
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
        2 n + 1 channels in slice order. Beyond the ends of the stack they are padding. With
        `plane`, neighbours are those across the plane.
    intensity_on
        "device" delivers stored integers as integers, with their intensity as data, for
        `apply_intensity` on a GPU. This halves the bytes to transfer. Such samples have `intensity`
        (5,) float64.
    cache
        The cache of decoded stacks of compressed frames, shared by all workers: "disk", "memory", a
        number of bytes, a folder as a `pathlib.Path`, or a `Cache`. Uncompressed frames and lower
        resolutions (`reduce`) are not cached. Label maps of annotations and files are.
    by
        "study" or "patient": a sample is a bag of all frames of one, such as the four views of a
        mammography. Members are in the order of laterality, view position, series number, instance
        number and index; those without a fact come last. `transform` is called with each member.
        Frames of volumes are better taken by ``VolumeDataset(by=...)``.
    max_members
        The most members of a bag; more are an error. Another number than 32 needs `by`.
    on_error
        "raise", "skip" or "replace" unreadable samples (see `SampleDataset`); `skipped` lists them.
    isolation
        Which decoders of images run in a helper process, so that one that dies or hangs costs a
        sample and not the epoch: "auto", "process", "none", or an `Isolation` (see `read_frame`).
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
    targets, target_classes
        The target of every sample, without reading pixels, and the values of its classes.
    box_classes, point_classes
        The values of the classes of boxes and points.

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
    `set_epoch`). With `plane`, a frame belongs to no file: instead of `sop_instance_uid`,
    `frame_number` and `path` it has `stack` (the number of the stack in the index) and `slice` (the
    number of the frame in its plane, from the right, the front or the feet of the patient). Frames
    of different sizes need `size`, batch_size=1 or ``collate_fn=dicomdl.collate``.

    x and y of boxes and points count pixels from the outer corner of the first one, as in
    torchvision and in annotations of DICOM (PS3.3 C.10.5.1.2): the box of the complete image is (0,
    0, W, H). Batches hold a list of tensors of them.

    A bag of K members has `image` (K, C, H, W) with `size`, else a list of K tensors; `patient_id`,
    and by study `study_instance_uid`, as one string; `target` as one, where it is joined by patient
    or study; `present` (K,) bool, True; of all other
    entries a tensor (K, ...) or a list of K; and `laterality` and `view_position`.
    ``collate_fn=dicomdl.collate`` pads bags of different lengths.

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
        labels: LabelsOption = None,
        target: TargetOption = None,
        boxes: Boxes | None = None,
        points: Points | None = None,
        plane: Plane | None = None,
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
        by: By | None = None,
        max_members: int = MAX_MEMBERS,
        on_error: OnError = "raise",
        isolation: IsolationOption = "auto",
        seed: int = 0,
    ) -> None:
        given = as_index(index, type(self).__name__, (intensity, transform))
        super().__init__(
            transform,
            Policy(on_error, seed),
            Reading.of(
                intensity, suv, cache, reduce=reduce, max_bytes=max_bytes, isolation=isolation
            ),
            Delivery(channels, intensity_on),
        )
        if spacing_at not in (None, "patient"):
            raise UsageError(f"spacing_at={spacing_at!r}: expected 'patient' or None")
        self.spacing_at = spacing_at
        self.image_grid = TargetGrid.of(2, size, spacing, fit)
        self.neighbours = checked_count("neighbours", neighbours, 0)
        if neighbours >= 1000 or (neighbours and (reduce or channels is not None)):
            raise UsageError(
                f"neighbours={neighbours!r}: expected 0 or more, without reduce= and channels="
            )
        self.bags = Bags.of(by, max_members, self.delivery, is_sized=size is not None)
        self.plane = plane
        self._check_plane()
        source = as_labels(labels)
        if source is not None and reduce:
            raise UsageError("reduce= halves images, not labels: take them at full resolution")
        choose = self._stored if plane is None else self._crossed
        taken = choose(given, checked_content(content))
        self.labels = None if source is None else _labelled(taken, source)
        self.index, self.left_out = taken.index, taken.left_out
        self.table = TableLabels.of(target, boxes, points, self.index.joined)
        if self.plane is not None:
            self._require_whole_targets(self.index.stacks, "frames that are cut out of stacks")
        if self.bags is not None:
            # Raises for bags that are too large.
            _ = self._cases
        report_left_out(type(self).__name__, given, len(self), self.left_out)

    def _check_plane(self) -> None:
        if self.plane is not None and self.plane not in PLANES:
            raise UsageError(
                f"plane={self.plane!r}: expected one of {', '.join(map(repr, PLANES))} or None"
            )
        if self.plane is not None and (self.reading.decoding.reduce or self.spacing_at):
            raise UsageError(
                f"plane={self.plane!r} cuts frames out of volumes: expected without reduce= and "
                "spacing_at="
            )

        if self.plane is not None and self.bags is not None:
            raise UsageError(f"plane={self.plane!r}: expected without by=")

    @cached_property
    def _cases(self) -> Cases:
        """The frames of each bag."""
        assert self.bags is not None
        return self.bags.of_frames(self.index)

    def _stored(self, given: Index, content: str | None) -> Taken:
        """Return the frames of a content, without copies."""
        taken = Taken(given)
        taken.leave_out_copies()
        taken.leave_out_other_content(content)
        return taken

    def _crossed(self, given: Index, content: str | None) -> Taken:
        """Return the stacks that have slices in the plane."""
        taken = StackChoice(content, "raise", 1, is_placed=True).of(given)
        stacks = taken.index.stacks
        is_across = self._grid.stored_axes(stacks)[:, 0] == 0
        taken.keep_stacks(
            is_across | (stacks.shapes()[:, 0] > 1), "a single slice of another plane"
        )
        return taken

    @property
    def _grid(self) -> GridRequest:
        return GridRequest(None if self.plane is None else PLANE_AXES[self.plane])

    @cached_property
    def _source(self) -> FrameSource:
        is_mixed, how = not self.image_grid.is_own, (self.reading, self.neighbours)
        if self.plane is not None:
            return PlaneFrames(self.index.stacks, *how, self._grid, is_mixed=is_mixed)
        in_patient = self.spacing_at == "patient"
        return StoredFrames(self.index, *how, in_patient=in_patient, is_mixed=is_mixed)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        for name in ("_source", "_cases"):
            state.pop(name, None)
        return state

    def __len__(self) -> int:
        if self.bags is not None:
            return len(self._cases)
        return len(self.index) if self.plane is None else int(self.boundaries[-1])

    @property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(stacks + 1,) int64: the first row of each stack, complete or not, and the end.

        With `by`, each row is a bag.
        """
        if self.bags is not None:
            return np.arange(len(self) + 1, dtype=np.int64)
        return self._source.boundaries

    def recipe(self, row: int) -> Intensity:
        """Return the intensity of a sample, without limits that its own values give.

        Parameters
        ----------
        row
            The number of the sample, not of a bag.

        Returns
        -------
        Intensity
            That of its stack, or of the frame itself for projection images.
        """
        return self._source.recipe(self._checked(row))

    def _batch(self, rows: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        if self.bags is not None and isinstance(self._source, StoredFrames):
            rows = np.concatenate([self._cases[row] for row in rows]).tolist()
        return self._source.batch(rows)

    def _make(self, row: int, epoch: int | None) -> Sample:
        del epoch
        if self.bags is None:
            return self._sample(row)
        frames = self._cases[row].tolist()
        bag = self.bags.bag(row, [functools.partial(self._member, frame) for frame in frames])
        return self._with_target_of_bag(bag, self.bags, self.index.row(frames[0]))

    def _member(self, frame: int) -> Sample:
        """Return the sample of a frame of a bag, with its view."""
        facts = self.index.facts(frame, ("image_laterality", "laterality", "view_position"))
        sample = self._sample(frame)
        sample["laterality"] = facts["image_laterality"] or facts["laterality"]
        sample["view_position"] = facts["view_position"]
        return sample

    def _sample(self, row: int) -> Sample:
        """Return the sample of a frame."""
        read = self._source.read(row)
        how = Resizing(
            self.image_grid.fit_of(read.stack.modality),
            read.stack.content != "segmentation",
            read.recipe.floor(np.dtype(np.float32)),
        )
        grid = read.grid
        moved = resized(read.image, grid.affine, grid.spacing, self.image_grid, how)
        facts = {**read.facts, "spacing_at": grid.spacing_at}
        if self.labels is not None:
            facts |= self._label(self.labels, read, how)
        own_row = self.index.row(row) if self.plane is None else None
        first = read.stack.rows.start if own_row is None else own_row
        facts |= self.table.target_entries(self.index.joined, first)
        if self.table.has_marks:
            facts |= self._marks(read, moved, own_row)
        image = Image(moved.image)
        return made_sample(image, moved.affine, moved.spacing, read.recipe, self.delivery, facts)

    def _marks(self, read: FrameRead, moved: Resized, own_row: int | None) -> dict[str, Any]:
        """Return the boxes and points of a frame: of its own row, or of all rows of the stack."""
        own, halved = read.stack.geometry, 1 << self.reading.decoding.reduce
        if own_row is not None:
            affine = np.array(read.grid.affine)
            affine[:3, 1:3] /= halved
            own = Geometry((1, *own.shape[1:]), affine)
            by = map_of_scales(np.array([1, 1 / halved, 1 / halved]), np.zeros(3))
        else:
            by = map_between(own, self._grid.geometry(read.stack))
            by[0, 3] -= read.position
        height, width = moved.image.shape[1:]
        place = Place(own, moved.by @ by, (1, height, width), moved.affine)
        joined = self.index.joined
        return self.table.mark_entries(joined, read.stack, place, frame=own_row, is_frame=True)

    def _target_rows(self) -> Ints:
        """Return the row in the table `frames` that holds the target of each sample."""
        if self.bags is not None:
            rows = self.index.rows()
            self._require_targets_of_bags(self.bags)
            return np.asarray(rows[self._cases.firsts])
        if self.plane is None:
            return self.index.rows()
        return np.repeat(self.index.stacks.first_rows(), np.diff(self.boundaries))

    def _label(
        self, labels: SampleLabels, read: FrameRead, how: Resizing
    ) -> dict[str, torch.Tensor]:
        """Return the label of a frame on the grid of its image, (H, W) or (k, H, W)."""
        shape = self._grid.geometry(read.stack).shape
        start, size = (read.position, 0, 0), (1, *shape[1:])
        entries = labels.block(read.stack, self._grid, (start, size), self.reading.cache)
        nearest = how._replace(smooth=False, fill=0)
        for name, block in entries.items():
            # What nobody annotated is beyond the frame, too, and the fill is 0.
            is_flag = block.dtype == np.bool_
            values = (~block if is_flag else block)[..., 0, :, :]
            planes = values if values.ndim == 3 else values[None]
            image = resized(
                planes, read.grid.affine, read.grid.spacing, self.image_grid, nearest
            ).image
            moved = image.reshape(*values.shape[:-2], *image.shape[1:]).astype(block.dtype)
            entries[name] = ~moved if is_flag else moved
        return as_tensors(entries)

    def __repr__(self) -> str:
        plane = "" if self.plane is None else f", plane={self.plane!r}"
        intensity = f"intensity={self.reading.intensity!r}"
        if self.bags is not None:
            bags = self.bags.counted(len(self), len(self.index), "frames")
            return f"FrameDataset({bags}, {intensity})"
        return f"FrameDataset({counted(len(self), 'frames')}{plane}, {intensity})"


def _labelled(taken: Taken, source: LabelSource) -> SampleLabels:
    """Leave out the frames of stacks without labels, and return what those of the others are."""
    index = taken.index
    touched = [index.stack_of(row).number for row in index.stack_boundaries()[:-1].tolist()]
    stacks = with_numbers(index.stacks, np.array(touched, np.int64))
    known = surveyed(source, stacks)
    reasons = kept_reasons(known, source)
    for reason in dict.fromkeys(reason for reason in reasons.tolist() if reason):
        lost = index.of_stacks(stacks.numbers[reasons == reason])
        taken.continue_with(taken.index & ~lost, reason)
    return SampleLabels(
        source, known.dtype, known.names, np.unique(stacks.numbers[known.is_absent])
    )
