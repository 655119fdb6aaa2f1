"""Pictures of batches: what the network sees, after windows, crops and transforms."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.datasets.base import SampleDataset
from dicomdl.datasets.collate import collate
from dicomdl.errors import UsageError
from dicomdl.printing import printable
from dicomdl.volumes.plotting import new_figure

_TILE: Final = 2.4  # inches
_ACROSS: Final = 4
_LONGEST: Final = 40
# Colours that the colour-blind tell apart (Okabe and Ito, 2008), without black.
_COLOURS: Final = ("#d65f00", "#56b4e9", "#f0e342", "#009e73", "#cc79a7", "#0072b2", "#e69f00")


def plot_batch(what: Any, count: int = 8, *, channel: int = 0) -> Any:
    """Plot a batch of samples: images with their labels, boxes and points.

    Parameters
    ----------
    what
        A batch of a DataLoader; or a dataset, of which evenly spaced samples are read.
    count
        The largest number of samples.
    channel
        The channel that is shown. Frames of three channels are shown in colour.

    Returns
    -------
    matplotlib.figure.Figure
        One picture per sample. Of a volume or a patch it is the slice with the most labels, else
        one with a box or a point, else the middle. Values from 0 to 1 are black to white; others
        are scaled to the range of the sample. The title has the target.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    UsageError
        It is no batch of images, or there is no such channel.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> import torch
    >>> import dicomdl
    >>> image = torch.rand(2, 1, 8, 16, 16)
    >>> figure = dicomdl.plot_batch({"image": image, "target": torch.tensor([0, 1])})
    >>> [axes.get_title() for axes in figure.axes]
    ['slice 4 of 8, target 0', 'slice 4 of 8, target 1']
    """
    if count < 1:
        raise UsageError(f"count is {count}, expected at least 1", count=count)
    batch = _read(what, count) if isinstance(what, SampleDataset) else what
    images = batch.get("image") if isinstance(batch, Mapping) else None
    shown = [] if images is None else [_array(each) for each in list(images)[:count]]
    if not shown or not all(image.ndim in (3, 4) for image in shown):
        raise UsageError(
            "plot_batch takes a dataset, or a batch with images (sample, channel, row, column) or "
            "(sample, channel, slice, row, column)"
        )
    if not all(0 <= channel < len(image) for image in shown):
        raise UsageError(f"channel is {channel}, and images have {len(shown[0])}", channel=channel)
    across = min(_ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    figure = new_figure("plot_batch()")
    figure.set_size_inches(_TILE * across, (_TILE + 0.3) * down)
    cells = figure.subplots(down, across, squeeze=False)
    for cell in cells.flat[len(shown) :]:
        cell.remove()
    for number, (cell, image) in enumerate(zip(cells.flat, shown, strict=False)):
        _draw(cell, image, channel, {name: _one(batch, name, number) for name in _SHOWN})
    return figure


_SHOWN: Final = ("label", "boxes", "points", "target")


def _read(dataset: SampleDataset, count: int) -> Any:
    """Return a batch of evenly spaced samples of a dataset."""
    if not len(dataset):
        raise UsageError("the dataset has no samples")
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round())
    return collate([dataset[row] for row in rows.astype(int).tolist()])


def _one(batch: Mapping[str, Any], name: str, number: int) -> Values | None:
    """Return a value of one sample; None where the batch has none."""
    values = batch.get(name)
    if values is None or isinstance(values, str | Mapping):
        return None
    one = values[number]
    return None if one is None or isinstance(one, str) else _array(one)


def _array(values: Any) -> Values:
    tensor = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(tensor)


def _draw(axes: Any, image: Values, channel: int, marks: Mapping[str, Values | None]) -> None:
    axes.axis("off")
    label = marks["label"]
    masks = [] if label is None else _masks(label, image.ndim - 1)
    number = None if image.ndim == 3 else _slice(image.shape[1], masks, marks)
    is_colour = image.ndim == 3 and len(image) == 3
    plane = np.moveaxis(image, 0, -1) if is_colour else image[channel]
    plane = np.asarray(plane if number is None else plane[number], np.float32)
    low, high = _range(plane if is_colour else image[channel])
    axes.imshow((plane - low) / (high - low) if is_colour else plane, "gray", vmin=low, vmax=high)
    for rank, mask in enumerate(masks):
        flat = mask if number is None else mask[number]
        if flat.any():
            colour = _COLOURS[rank % len(_COLOURS)]
            axes.contour(flat, levels=[0.5], colors=[colour], linewidths=1.0)
    _draw_boxes(axes, marks["boxes"], number)
    _draw_points(axes, marks["points"], number)
    axes.set_title(_title(image, number, marks["target"]), fontsize=8)


def _masks(label: Values, axes: int) -> list[Values]:
    """Return one mask per label: of a label map of some axes, or of the channels of masks."""
    if label.ndim == axes + 1 and len(label) > 1:
        return [each > 0 for each in label]
    plain = label[0] if label.ndim == axes + 1 else label
    if plain.ndim != axes:
        return []
    numbers = np.unique(plain)
    return [plain == number for number in numbers[numbers > 0]]


def _slice(slices: int, masks: Sequence[Values], marks: Mapping[str, Values | None]) -> int:
    """Return the slice to show."""
    if masks:
        sizes = np.sum([mask.sum(axis=(1, 2)) for mask in masks], axis=0)
        if sizes.any():
            return int(sizes.argmax())
    for name, end in (("boxes", 3), ("points", 0)):
        found = marks[name]
        if found is not None and len(found) and found.shape[1] in (3, 6):
            place = (found[0, 0] + found[0, end] - (end > 0)) / 2
            return int(np.clip(round(float(place)), 0, slices - 1))
    return slices // 2


def _range(values: Values) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size or (finite.min() >= 0 and finite.max() <= 1):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return low, max(high, low + 1e-6)


def _draw_boxes(axes: Any, boxes: Values | None, number: int | None) -> None:
    if boxes is None or boxes.ndim != 2:
        return
    for box in boxes.tolist():
        if len(box) == 6:
            # (slice, row, column) of the first and the last corner, from the corners of voxels.
            if number is None or not box[0] <= number + 0.5 <= box[3]:
                continue
            x, y, x_end, y_end = box[2], box[1], box[5], box[4]
        else:
            x, y, x_end, y_end = box
        xs, ys = [x, x_end, x_end, x, x], [y, y, y_end, y_end, y]
        axes.plot(np.array(xs) - 0.5, np.array(ys) - 0.5, color=_COLOURS[2], linewidth=1.0)


def _draw_points(axes: Any, points: Values | None, number: int | None) -> None:
    if points is None or points.ndim != 2:
        return
    for point in points.tolist():
        if len(point) == 3:
            if number is None or round(point[0]) != number:
                continue
            x, y = point[2], point[1]
        else:
            # Points of frames count from the corner of the first pixel.
            x, y = point[0] - 0.5, point[1] - 0.5
        axes.plot([x], [y], "+", color=_COLOURS[2], markersize=8)


def _title(image: Values, number: int | None, target: Values | None) -> str:
    parts = [] if number is None else [f"slice {number} of {image.shape[1]}"]
    if target is not None and target.size:
        words = ", ".join(f"{value:.4g}" for value in np.atleast_1d(target).ravel().tolist())
        parts.append(f"target {words}")
    return printable(", ".join(parts))[:_LONGEST].replace("$", r"\$")
