"""Channels of samples: the images of a `Pairing`, each on the grid of the first role.

A patch reads of each image only what it needs. An image on the grid of the first role is delivered
without interpolation.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from dicomdl.arrays import Ints
from dicomdl.datasets._cases import Cases
from dicomdl.datasets._options import Reading
from dicomdl.datasets.selection import StackChoice, Taken
from dicomdl.errors import UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.index.index import Index
from dicomdl.index.pairing import Pairing
from dicomdl.index.text import counted
from dicomdl.index.views import Stack
from dicomdl.values.intensity import Intensity
from dicomdl.values.request import IntensityOption, IntensityRequest

Channels: TypeAlias = int | Pairing | None
Intensities: TypeAlias = IntensityOption | Mapping[str, IntensityOption]
# Distance of voxels, as a fraction of the spacing, at which two grids are one: the rounding of
# decimal strings. It changes values by at most this fraction of the difference of neighbours.
_ONE_GRID = 1e-4
_COLOUR = "in colour, which is no single channel"


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """The options `channels` and `intensity` of a dataset, checked.

    Attributes
    ----------
    count
        The number of colour channels, as for `Delivery`.
    pairing
        The images that become channels, or None.
    intensities
        The intensity of each role; one without a pairing.
    """

    count: int | None
    pairing: Pairing | None
    intensities: tuple[IntensityOption, ...]

    @classmethod
    def of(cls, channels: Channels, intensity: Intensities, intensity_on: str) -> "ChannelOptions":
        """Return the options for the keywords of a dataset.

        Raises
        ------
        UsageError
            The intensity is a dict without a pairing, or names a role that does not exist, or
            intensities of several images are to be applied on a device.
        """
        pairing = channels if isinstance(channels, Pairing) else None
        names = () if pairing is None else pairing.names
        given = intensity if isinstance(intensity, Mapping) else dict.fromkeys(names, intensity)
        if pairing is None:
            if isinstance(intensity, Mapping):
                raise UsageError(
                    "intensity is a dict: expected one intensity, or with channels=Pairing(...) "
                    "one per role"
                )
            assert not isinstance(channels, Pairing)
            return cls(channels, None, (intensity,))
        pairing.require_roles(given, "intensity")
        if intensity_on == "device":
            raise UsageError(
                "intensity_on='device' maps one image per sample: channels=Pairing(...) needs "
                "intensity_on='cpu'"
            )
        return cls(None, pairing, tuple(given.get(name, "auto") for name in names))

    def roles(self, first: Reading) -> "Roles | None":
        """Return the roles with their readings, of which the first is given; None without any."""
        if self.pairing is None:
            return None
        requests = map(IntensityRequest.parse, self.intensities)
        readings = [dataclasses.replace(first, intensity=request) for request in requests]
        return Roles(self.pairing.names, tuple(readings))


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of a dataset, whose images are the channels of its samples.

    Attributes
    ----------
    names
        The names of the roles, in the order of channels.
    readings
        The reading of each role.
    """

    names: tuple[str, ...]
    readings: tuple[Reading, ...]

    def recipes(self, case: Sequence[Stack | None]) -> list[Intensity | None]:
        """Return the intensity of each image of a case; None for an absent one."""
        return [
            None if stack is None else reading.recipe(stack)
            for stack, reading in zip(case, self.readings, strict=True)
        ]

    def entries(
        self, case: Sequence[Stack | None], recipes: Sequence[Intensity | None]
    ) -> dict[str, Any]:
        """Return the entries of a sample that tell its channels apart, by role."""
        uids = [None if stack is None else stack.series_instance_uid for stack in case]
        numbers = [-1 if stack is None else stack.number for stack in case]
        units = [None if recipe is None else recipe.units for recipe in recipes]
        return {
            "present": torch.tensor([stack is not None for stack in case]),
            "stacks": torch.tensor(numbers),
            "units": {name: each or "" for name, each in zip(self.names, units, strict=True)},
            "series": {name: each or "" for name, each in zip(self.names, uids, strict=True)},
        }

    def lowest(self, role: int) -> float:
        """Return the value of an absent channel: the lowest one of its intensity, if known, or 0.

        Without a stack, statistics and the values of a header are unknown. Windows, limits and
        percentiles have the lowest value 0.
        """
        recipe = self.readings[role].intensity.given
        floor = None if recipe is None else recipe.floor(np.dtype(np.float32))
        if recipe is None or floor is None:
            return 0.0
        return float(recipe(np.full(1, floor, np.float32))[0])


@dataclass(frozen=True, slots=True, eq=False)
class EachPair:
    """A case per pair that was found: its arrays travel with the rule, since rules may not pickle.

    Attributes
    ----------
    stacks
        (cases, roles) int64: the numbers of the stacks, -1 for an absent one.
    """

    stacks: Ints

    def cases(self, index: Index) -> Cases:
        """Return the cases whose first stack is in the index."""
        kept = self.stacks[np.isin(self.stacks[:, 0], index.stacks.numbers)]
        count = self.stacks.shape[1]
        return Cases(kept.reshape(-1), np.arange(len(kept) + 1, dtype=np.int64) * count)


def take_pairs(index: Index, choice: StackChoice, pairing: Pairing) -> tuple[Taken, EachPair]:
    """Return the chosen stacks that pair, with the list of the others, and the rule of the cases.

    Raises
    ------
    UsageError
        A rule of the pairing names a column that does not exist, or meets no stack.
    """
    taken = choice.of(index)
    taken.leave_out(
        _COLOUR, max_samples_per_pixel=1, not_photometric_interpretation="PALETTE COLOR"
    )
    pairs = pairing.pairs(taken.index)
    nouns = "studies" if pairing.by == "study" else f"{pairing.by}s"
    for each in pairs.unpaired:
        numbers = taken.index.stacks.numbers
        rest = numbers[~np.isin(numbers, each.stacks)]
        cases = f" ({counted(each.cases, nouns)})" if each.cases else ""
        taken.continue_with(taken.index.of_stacks(rest), f"pairing: {each.reason}{cases}")
    return taken, EachPair(pairs.stacks)


def are_one_grid(one: Geometry, other: Geometry, tolerance: float = _ONE_GRID) -> bool:
    """Whether two grids have the same voxels, within the rounding of decimal strings.

    `tolerance` is the distance of two voxels, as a part of the least spacing.
    """
    if one.shape != other.shape:
        return False
    difference = np.abs(one.affine[:3] - other.affine[:3])
    farthest = difference[:, :3] @ np.asarray(one.shape) + difference[:, 3]
    return bool(farthest.max() <= tolerance * min(one.spacing))
