"""Bags: all stacks or frames of a study or patient as one sample.

Each member is a sample of its own, to which the transform of the dataset applies; the bag joins
them. Bags have no fixed length: `collate` pads them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import torch

from dicomdl.datasets._assembly import Delivery
from dicomdl.datasets._cases import Cases
from dicomdl.datasets._permutations import checked_count
from dicomdl.datasets.sample import RAGGED, Members, Sample
from dicomdl.datasets.transport.images import BatchImages
from dicomdl.errors import UsageError
from dicomdl.index.grouping import frames_by_level, stacks_by_level
from dicomdl.index.index import Index
from dicomdl.index.text import counted

By = Literal["study", "patient"]
# Members of the largest bag, unless the user allows more: a study has 4 mammograms, a spine 3 to 12
# Series, an examination in several phases some 20.
MAX_MEMBERS: Final = 32


@dataclass(frozen=True, slots=True)
class Bags:
    """The bags of a dataset: what a bag belongs to, how many members it may have, and their size.

    Attributes
    ----------
    by
        The level of a bag.
    max_members
        The most members of a bag.
    is_sized
        Whether all images have one size, so that a sample stacks them.
    """

    by: By
    max_members: int
    is_sized: bool

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise UsageError(f"by={self.by!r}: expected 'study', 'patient' or None")
        object.__setattr__(self, "max_members", checked_count("max_members", self.max_members, 1))

    @classmethod
    def of(
        cls, by: By | None, max_members: int, delivery: Delivery, *, is_sized: bool
    ) -> "Bags | None":
        """Return the bags for the keywords of a dataset; None without bags.

        Raises
        ------
        UsageError
            A keyword has an unknown value, `max_members` comes without `by`, or images are to be
            mapped on a device.
        """
        if by is None and max_members != MAX_MEMBERS:
            raise UsageError(f"max_members={max_members!r} limits bags: it needs by=")
        if by is not None and delivery.intensity_on == "device":
            raise UsageError(
                "intensity_on='device' maps one image per sample: by= needs intensity_on='cpu'"
            )
        return None if by is None else cls(by, max_members, is_sized)

    def of_stacks(self, index: Index) -> Cases:
        """Return the stacks of each bag."""
        return self._checked(Cases.of(stacks_by_level(index.stacks, self.by)), "stacks")

    def of_frames(self, index: Index) -> Cases:
        """Return the numbers of the frames of each bag, as the index counts its frames."""
        return self._checked(Cases.of(frames_by_level(index, self.by)), "frames")

    def _checked(self, cases: Cases, kind: str) -> Cases:
        """Return the cases; raise a UsageError if one is too large."""
        counts = cases.counts
        most = int(counts.max(initial=0))
        if most > self.max_members:
            large = int((counts > self.max_members).sum())
            raise UsageError(
                f"{large:,} of {len(cases):,} bags by {self.by} have more than {self.max_members} "
                f"members, the largest one {most:,} {kind}: select fewer, such as "
                f"index.select(series_description=...), or pass max_members={most}",
                members=most,
                limit=self.max_members,
                bags=large,
            )
        return cases

    def counted(self, bags: int, members: int, kind: str) -> str:
        """Return the numbers of members and bags in words, for a repr."""
        noun = "studies" if self.by == "study" else "patients"
        return f"{counted(members, kind)} of {counted(bags, noun)}"

    def bag(self, row: int, make: Sequence[Callable[[], Sample]]) -> "Bag":
        """Return the bag of a row, from functions that make its members."""
        # Each member has memory of its own: together they are one image of the batch.
        with BatchImages(0):
            return Bag(row, [each() for each in make], self)


@dataclass(frozen=True, slots=True)
class EachBag:
    """One case per bag of the selected stacks."""

    bags: Bags

    def cases(self, index: Index) -> Cases:
        """Return a case per bag; raise a UsageError if one is too large."""
        return self.bags.of_stacks(index)


class Bag(Sample):
    """The sample of a bag before the transform: its members, and what all of them share."""

    def __init__(self, row: int, members: list[Sample], how: Bags) -> None:
        shared = ("patient_id",) if how.by == "patient" else ("patient_id", "study_instance_uid")
        super().__init__(row=row, **{name: members[0][name] for name in shared})
        self._members, self._how = members, how

    def joined(self, transform: Callable[[Sample], Any] | None) -> Sample:
        """Return the sample of the bag, after the transform of each member.

        Raises
        ------
        UsageError
            Members have images of several shapes although the dataset has a size, or the transform
            gives no dict.
        """
        for member in self._members:
            member["epoch"] = self["epoch"]
        made = self._members if transform is None else list(map(transform, self._members))
        if not all(isinstance(each, dict) for each in made):
            raise UsageError(
                "by= joins samples: the transform must give a dict per member, not a "
                f"{type(made[0]).__name__}"
            )
        joined = Sample(self)
        for key in made[0]:
            if key not in self:
                joined[key] = self._entry(key, [member[key] for member in made])
        joined["present"] = torch.ones(len(made), dtype=torch.bool)
        return joined

    def _entry(self, key: str, values: list[Any]) -> Any:
        """Return the values of all members: a tensor (members, ...), or `Members`."""
        if all(isinstance(value, bool | int | float) for value in values):
            return torch.from_numpy(np.array(values))
        if key in RAGGED or not all(isinstance(value, torch.Tensor) for value in values):
            return Members(values)
        shapes = {tuple(value.shape) for value in values}
        if values[0].ndim > 2 and not self._how.is_sized:
            return Members(values)
        if len(shapes) > 1 and key == "image":
            found = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
            raise UsageError(
                f"the images of a bag have several shapes: {found}. Pass channels=1 or 3 for grey "
                "and colour together, and no size= where the transform changes sizes",
                shapes=sorted(shapes),
            )
        if len(shapes) > 1:
            return Members(values)
        return torch.stack(values)
