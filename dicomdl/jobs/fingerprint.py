"""The fingerprint of a data set: spacings and sizes of its stacks, statistics of a small sample.

The sample lays the frames of all stacks end to end and takes one from each of equal parts, at
places that follow the golden ratio, so that stacks of equal length are not all sampled at the same
slice. It is one frame in 100 from 1,000 stacks on. Of fewer stacks it is at least 2,048 frames, or
all of them. Of each frame every n-th row and column counts, one n for all, for at most 2**23
voxels. A voxel of any stack thus counts alike.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.arrays import Floats, Ints, Values
from dicomdl.datasets.selection import StackChoice, report_left_out
from dicomdl.errors import GeometryError, IntensityError, PixelError
from dicomdl.index.given import Indexed, as_index
from dicomdl.index.views import Stack
from dicomdl.pixels.options import Decoding
from dicomdl.storage.system import available_cores
from dicomdl.values.conversion import conversions, is_colour, quantity_units
from dicomdl.values.fingerprint import Fingerprint
from dicomdl.values.foreground import threshold
from dicomdl.values.quantity import Quantity, RealWorld, as_quantity
from dicomdl.values.reading import read_converted
from dicomdl.values.suv import SUV

Labels = Callable[[Stack], npt.NDArray[Any]]
MANY_STACKS: Final = 1000
FEWEST_FRAMES: Final = 2048
SHARE: Final = 100
MOST_VOXELS: Final = 1 << 23
# Frames and pixels of a stack to read at once: 16 of 1024 x 1024, 64 MB of float32.
_AT_ONCE: Final = 16
_PIXELS_AT_ONCE: Final = 1 << 24
_GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a fingerprint reads of each stack, and how it decides the foreground."""

    quantity: Quantity
    units: str
    stride: int
    labels: Labels | None
    how: Decoding


def fingerprint(
    data: Indexed,
    *,
    values: str | SUV | RealWorld = "modality",
    labels: Labels | None = None,
    max_bytes: int | None = None,
) -> Fingerprint:
    """Return the fingerprint of some stacks: spacings, sizes, and intensities of the foreground.

    Only the stacks that are given enter it: ``fingerprint(train)`` knows nothing of the validation
    set. They are those that `VolumeDataset` takes: regular stacks of images; a warning lists the
    others. The statistics come from a sample that is spread evenly over all stacks, without
    padding: one frame in 100 from 1,000 stacks on; of fewer stacks at least 2,048 frames, or all.

    Parameters
    ----------
    data
        An Index or a selection of one, stacks, Series, groups; all of one modality and units.
    values
        As for `read_volume`: the values of the statistics.
    labels
        Function from a stack to its label map, integers of its shape, as for `PatchDataset`: voxels
        above 0 are the foreground, as for nnU-Net. By default the foreground is above -500 for
        values in HU, otherwise above Otsu's threshold of the stack's own sample.
    max_bytes
        As for `read_volume`.

    Returns
    -------
    Fingerprint
        A frozen value, for ``intensity=``, ``spacing=fingerprint.target_spacing`` and `save`.

    Raises
    ------
    EmptySelection
        There are no such stacks; a UsageError.
    IntensityError
        Stacks of several modalities or units (attribute `kinds`, their numbers), or colour.
    PixelError
        None of the sampled frames of any stack can be read.
    GeometryError
        A label map has another shape than its stack.

    Examples
    --------
    >>> import tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> out = tempfile.TemporaryDirectory()
    >>> train = dicomdl.scan(get_testdata_file("CT_small.dcm"), f"{out.name}/index", progress=False)
    >>> found = dicomdl.fingerprint(train)
    >>> found
    Fingerprint(CT, 1 stack, ...)
    >>> found.save(f"{out.name}/train.json")
    >>> dicomdl.Fingerprint.load(f"{out.name}/train.json") == found
    True
    >>> dicomdl.FrameDataset(train, intensity=found)[0]["image"].shape
    torch.Size([1, 128, 128])
    """
    quantity = as_quantity(values)
    given = as_index(data, "fingerprint")
    taken = StackChoice("image", "raise", 1).of(given)
    stacks = list(taken.index.stacks)
    report_left_out("fingerprint", given, len(stacks), taken.left_out)
    modality, units = _one_kind(stacks, quantity)
    chosen = _sampled_frames([stack.slices for stack in stacks])
    pixels = sum(
        len(numbers) * stack.shape[1] * stack.shape[2]
        for stack, numbers in zip(stacks, chosen, strict=True)
    )
    stride = max(1, math.ceil(math.sqrt(pixels / MOST_VOXELS)))
    how = Decoding(threads=available_cores(), max_bytes=max_bytes)
    plan = _Plan(quantity, units, stride, labels, how)
    sample, frames, unreadable = _read(stacks, chosen, plan)
    lower, median, upper = np.percentile(sample, (0.5, 50, 99.5)).tolist()
    is_constant = sample.min() == sample.max()
    return Fingerprint(
        modality,
        units,
        quantity,
        tuple(_spacing(stack) for stack in stacks),
        tuple(stack.shape for stack in stacks),
        lower=lower,
        median=median,
        upper=upper,
        mean=float(sample.mean()),
        deviation=0.0 if is_constant else float(sample.std()),
        minimum=float(sample.min()),
        maximum=float(sample.max()),
        frames=frames,
        voxels=sample.size,
        unreadable=unreadable,
    )


def _one_kind(stacks: Sequence[Stack], quantity: Quantity) -> tuple[str, str]:
    """Return the modality and units of all stacks.

    Real-world maps lie in the files, so only the first stack is asked for the units of those.
    """
    colour = sum(map(is_colour, stacks))
    if colour:
        message = f"{colour} of {len(stacks)} stacks are colour: expected grey values"
        raise IntensityError(message, colour=colour)
    first = quantity_units(stacks[0], quantity)
    reads_files = isinstance(quantity, RealWorld)
    each = [
        (stack.modality, first if reads_files else quantity_units(stack, quantity))
        for stack in stacks
    ]
    kinds = Counter(each)
    if len(kinds) > 1:
        usual = kinds.most_common(1)[0][0]
        other = next(stack for stack, kind in zip(stacks, each, strict=True) if kind != usual)
        condition = (
            f"not_series_instance_uid={other.series_instance_uid!r}"
            if other.modality == usual[0]
            else f"modality={usual[0]!r}"
        )
        found = ", ".join(
            f"{count} of {modality} in {units or 'no'} units"
            for (modality, units), count in kinds.most_common()
        )
        raise IntensityError(
            f"the stacks are {found}: expected one modality and one unit, so select "
            f"them first, e.g. index.select({condition})",
            kinds=dict(kinds),
        )
    return next(iter(kinds))


def _sampled_frames(slices: Sequence[int]) -> list[Ints]:
    """Return the sorted slice numbers of the sample, per stack."""
    ends = np.cumsum(slices)
    frames = int(ends[-1])
    fewest = FEWEST_FRAMES if len(slices) < MANY_STACKS else 1
    count = min(frames, max(frames // SHARE, fewest))
    parts = np.arange(count)
    places = np.arange(frames)
    if count < frames:
        # A lattice: the places within the parts are evenly spread, too, and no two are equal.
        step = round(count * _GOLDEN)
        while math.gcd(step, count) != 1:
            step += 1
        within = (parts * step % count + 0.5) / count
        places = ((parts + within) * (frames / count)).astype(np.int64)
    owners = np.searchsorted(ends, places, side="right")
    starts = ends - np.asarray(slices)
    return [np.unique(places[owners == number] - starts[number]) for number in range(len(slices))]


def _read(stacks: Sequence[Stack], chosen: Sequence[Ints], plan: _Plan) -> tuple[Floats, int, int]:
    """Return the sampled foreground, (n,) float64, the frames read, and those unreadable."""
    inside: list[Values] = []
    every: list[Values] = []
    asked, frames = 0, 0
    failure: PixelError | None = None
    for stack, numbers in zip(stacks, chosen, strict=True):
        if not len(numbers):
            continue
        asked += len(numbers)
        read, readable, error = _read_stack(stack, numbers.tolist(), plan)
        failure = failure or error
        frames += readable
        if read:
            every.append(np.concatenate([values for values, _ in read]))
            inside.append(every[-1][_foreground(every[-1], read, plan)])
    if not every:
        assert failure is not None
        raise failure
    foreground = np.concatenate(inside)
    # A set of air or of empty label maps has no foreground: all of its voxels count.
    sample = np.asarray(foreground if foreground.size else np.concatenate(every), np.float64)
    if not sample.size:
        raise IntensityError(
            f"none of the values of {frames} sampled frames is finite: no statistics", frames=frames
        )
    return sample, frames, asked - frames


def _foreground(values: Values, read: list[tuple[Values, Values | None]], plan: _Plan) -> Any:
    """Return the mask of a stack's sampled values that are foreground."""
    if plan.labels is None:
        return values > threshold(plan.units, values)
    return np.concatenate([mask for _, mask in read if mask is not None])


def _read_stack(
    stack: Stack, numbers: list[int], plan: _Plan
) -> tuple[list[tuple[Values, Values | None]], int, PixelError | None]:
    """Return (values, mask of the labels) per run of frames, the frames, and the first error."""
    per_slice = conversions(stack, plan.quantity)
    labels = None if plan.labels is None else _checked_labels(plan.labels, stack)
    parts: list[tuple[Values, Values | None]] = []
    frames, failure = 0, None
    step = min(_AT_ONCE, max(1, _PIXELS_AT_ONCE // (stack.shape[1] * stack.shape[2])))
    pending = [numbers[start : start + step] for start in range(0, len(numbers), step)]
    thin = (slice(None), *(slice(None, None, plan.stride),) * 2)
    while pending:
        run = pending.pop(0)
        sources = [stack.source(number) for number in run]
        try:
            read = read_converted(sources, [per_slice[number] for number in run], how=plan.how)
        except PixelError as error:
            # A frame that cannot be read must not cost the sample of the others.
            pending[:0] = [[number] for number in run] if len(run) > 1 else []
            failure = failure or error
            continue
        values = read.array[thin]
        is_image = np.isfinite(values)
        if read.padding is not None:
            is_image &= ~read.padding[thin]
        mask = None if labels is None else (labels[run][thin] > 0)[is_image]
        frames += len(run)
        parts.append((values[is_image], mask))
    return parts, frames, failure


def _checked_labels(labels: Labels, stack: Stack) -> npt.NDArray[Any]:
    found = np.asarray(labels(stack))
    if found.shape != stack.shape:
        raise GeometryError(
            f"labels give an array of {found.shape} for a stack of {stack.shape}: expected its "
            "shape"
        )
    return found


def _spacing(stack: Stack) -> tuple[float | None, float | None, float | None]:
    slice_, row, column = (mm if math.isfinite(mm) and mm > 0 else None for mm in stack.spacing)
    return slice_, row, column
