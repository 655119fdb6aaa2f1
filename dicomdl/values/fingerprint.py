"""Fingerprint: the spacings, sizes and intensity statistics of a data set, as a value.

It has what nnU-Net reads from a data set before it plans a training. `jobs.fingerprint` makes it
from an index; it holds numbers only, and nothing that identifies a patient.
"""

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.errors import GeometryError, StorageError
from dicomdl.index.text import counted
from dicomdl.printing import printable, printable_lines
from dicomdl.storage import publishing as storage
from dicomdl.storage.json_texts import parsed
from dicomdl.values.formulas import Ramp
from dicomdl.values.normalisation import Clip, Line, ZScore
from dicomdl.values.quantity import Quantity, RealWorld
from dicomdl.values.sampled import SampledMap
from dicomdl.values.suv import SUV

FORMAT: Final = "dicomdl fingerprint"
VERSION: Final = 1
# nnU-Net calls a grid anisotropic from this ratio of spacings and of sizes.
_ANISOTROPY: Final = 3.0
# Units of modality values that compare between stacks: CT numbers, and PET that is SUV already.
_SCALES: Final = frozenset({"HU", "GML", "CM2ML"})
_NUMBERS: Final = ("lower", "median", "upper", "mean", "deviation", "minimum", "maximum")
_COUNTS: Final = ("frames", "voxels", "unreadable")


@dataclass(frozen=True, slots=True, repr=False)
class Fingerprint:
    """The spacings, sizes and foreground intensities of some stacks of one modality and units.

    As ``intensity=`` it is nnU-Net's scheme. Values in HU, SUV and real-world values are clipped to
    the percentiles 0.5 and 99.5 of the foreground of the data set, and become z-scores by its mean
    and standard deviation. Other values have no common scale: they become z-scores of each stack,
    ``ZScore()``. A stack of another modality or other units is an error.

    Parameters
    ----------
    modality, units
        Modality (0008,0060) and units of the stacks.
    quantity
        "modality", "philips", an `SUV` or a `RealWorld`: the values of the statistics.
    spacings
        (slice, row, column) mm per stack; None where unknown.
    sizes
        (slices, rows, columns) per stack.
    lower, median, upper
        Percentiles 0.5, 50 and 99.5 of the sampled foreground.
    mean, deviation, minimum, maximum
        Mean, standard deviation and extremes of the sampled foreground.
    frames, voxels
        Numbers of frames and of foreground voxels that the statistics come from.
    unreadable
        Number of sampled frames that could not be read.

    References
    ----------
    F. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image
    segmentation", Nature Methods 18, 2021; its documentation, "Intensity normalization".

    Examples
    --------
    >>> import dicomdl
    >>> found = dicomdl.Fingerprint(
    ...     "CT", "HU", "modality", ((5.0, 0.8, 0.8), (1.25, 0.7, 0.7)), ((60, 512, 512),) * 2,
    ...     lower=-900, median=40, upper=300, mean=20, deviation=150, minimum=-1000, maximum=900,
    ...     frames=32, voxels=100_000,
    ... )
    >>> found.target_spacing
    (1.625, 0.75, 0.75)
    >>> found.maps[0]
    Clip(lower=-900.0, upper=300.0)
    """

    modality: str
    units: str
    quantity: Quantity
    spacings: tuple[tuple[float | None, float | None, float | None], ...]
    sizes: tuple[tuple[int, int, int], ...]
    lower: float
    median: float
    upper: float
    mean: float
    deviation: float
    minimum: float
    maximum: float
    frames: int
    voxels: int
    unreadable: int = 0

    @property
    def has_scale(self) -> bool:
        """Whether values of different stacks compare: HU, SUV and real-world values."""
        return self.units in _SCALES or isinstance(self.quantity, SUV | RealWorld)

    @property
    def maps(self) -> tuple[Clip | Line | SampledMap, ...]:
        """The maps of ``intensity=fingerprint``, in turn. A constant foreground becomes zeros."""
        if not self.has_scale:
            return (ZScore(),)
        mean, deviation = float(np.float32(self.mean)), float(np.float32(self.deviation))
        if deviation == 0 or self.lower == self.upper:
            return (Line(Ramp(mean, 0.0, low=0.0, high=0.0)),)
        return Clip(self.lower, self.upper), Line(Ramp(mean, deviation, clip=False))

    @property
    def target_spacing(self) -> tuple[float, float, float]:
        """The (slice, row, column) spacing in mm that nnU-Net's rule proposes, for ``spacing=``.

        It is the median of each axis. For anisotropic data, where the coarsest axis has more than 3
        times the spacing and less than a third of the voxels of each other axis, that axis gets the
        percentile 10 of its spacings, or the larger spacing of the others if that is more.

        Raises
        ------
        GeometryError
            No stack has a known spacing along some axis.
        """
        spacings, sizes = np.array(self.spacings, np.float64), np.array(self.sizes, np.float64)
        is_known = np.isfinite(spacings).all(axis=1)
        if not is_known.any():
            raise GeometryError(
                f"none of {len(spacings)} stacks has a known spacing along all three axes"
            )
        spacings, sizes = spacings[is_known], sizes[is_known]
        target, size = np.median(spacings, axis=0), np.median(sizes, axis=0)
        coarsest = int(target.argmax())
        finer = np.delete(target, coarsest).max()
        fewest = np.delete(size, coarsest).min()
        if target[coarsest] > _ANISOTROPY * finer and size[coarsest] * _ANISOTROPY < fewest:
            target[coarsest] = max(np.percentile(spacings[:, coarsest], 10), finer)
        slice_, row, column = target.tolist()
        return slice_, row, column

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fingerprint as JSON, in one step.

        Parameters
        ----------
        path
            The file, which is replaced if it exists.

        Raises
        ------
        StorageError
            The file cannot be written.
        """
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        facts["quantity"] = _as_text(self.quantity)
        data = {"format": FORMAT, "version": VERSION, **facts}
        storage.write_whole(os.fspath(path), json.dumps(data, allow_nan=False, indent=1).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Fingerprint":
        """Read a fingerprint that `save` wrote.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        Fingerprint
            An equal fingerprint.

        Raises
        ------
        StorageError
            The file cannot be read, is no fingerprint, or is of another version.
        """
        data = storage.read_whole(os.fspath(path))
        try:
            return _from_json(parsed(data))
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise StorageError(
                f"{os.fspath(path)!r} is no fingerprint of version {VERSION} "
                f"({type(error).__name__}): make it again with dicomdl.fingerprint"
            ) from error

    def __repr__(self) -> str:
        return printable(
            f"Fingerprint({self.modality}, {counted(len(self.sizes), 'stacks')}, "
            f"{self.mean:.4g} +- {self.deviation:.4g} {self.units}".rstrip()
            + f", {self.lower:.4g} to {self.upper:.4g})"
        )

    def __str__(self) -> str:
        axes = [[mm for mm in axis if mm is not None] for axis in zip(*self.spacings, strict=True)]
        spacing = [f"{np.median(axis):.4g}" if axis else "unknown" for axis in axes]
        size = np.median(self.sizes, axis=0)
        units = f" {self.units}" if self.units else ""
        lines = [
            f"{counted(len(self.sizes), 'stacks')} of {self.modality}",
            f"median spacing  {' x '.join(spacing)} mm",
            f"median size     {' x '.join(f'{n:.4g}' for n in size)}",
            f"percentiles     {self.lower:.4g}, {self.median:.4g}, {self.upper:.4g}{units} "
            "(0.5, 50, 99.5)",
            f"mean, deviation {self.mean:.4g}, {self.deviation:.4g}{units}",
            f"sample          {self.frames:,} frames, {self.voxels:,} voxels of the foreground",
        ]
        return printable_lines("\n".join(lines))


def _as_text(quantity: Quantity) -> list[Any]:
    """Return a quantity as JSON: its name and its choice."""
    if isinstance(quantity, SUV):
        return ["suv", quantity.kind]
    return ["real_world", quantity.which] if isinstance(quantity, RealWorld) else [quantity, None]


def _quantity_of(found: Any) -> Quantity:
    name, choice = found
    if name == "suv":
        return SUV(choice)
    if name == "real_world":
        return RealWorld(choice)
    if name in ("modality", "philips"):
        return name  # type: ignore[no-any-return]
    raise ValueError("unknown quantity")


def _from_json(data: dict[str, Any]) -> Fingerprint:
    """Return the fingerprint of parsed JSON; raise a ValueError, TypeError or KeyError."""
    if data["format"] != FORMAT or data["version"] != VERSION:
        raise ValueError("another format or version")
    numbers = {name: float(data[name]) for name in _NUMBERS}
    ascending = [numbers[name] for name in ("minimum", "lower", "median", "upper", "maximum")]
    is_valid = all(map(math.isfinite, numbers.values())) and ascending == sorted(ascending)
    counts = {name: int(data[name]) for name in _COUNTS}
    spacings = [[None if mm is None else float(mm) for mm in row] for row in data["spacings"]]
    sizes = [[int(n) for n in row] for row in data["sizes"]]
    is_valid &= len(sizes) == len(spacings) > 0
    is_valid &= all(len(row) == 3 for row in sizes) and all(len(row) == 3 for row in spacings)
    if not is_valid or numbers["deviation"] < 0 or min(counts.values()) < 0:
        raise ValueError("numbers that no fingerprint has")
    return Fingerprint(
        str(data["modality"]),
        str(data["units"]),
        _quantity_of(data["quantity"]),
        tuple((row[0], row[1], row[2]) for row in spacings),
        tuple((row[0], row[1], row[2]) for row in sizes),
        **{**numbers, **counts},  # type: ignore[arg-type]
    )
