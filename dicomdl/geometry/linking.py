"""Which stacks an annotation describes, and whether they are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

from dicomdl.arrays import Ints

Status = Literal[
    "ok",
    "partial",
    "images_absent",
    "other_reconstruction",
    "other_frame_of_reference",
    "other_patient",
    "no_reference",
    "incomplete",
    "part",
    "unreadable",
]
# The files of a concatenation but the first, and equal copies of a file.
PART: Final[Status] = "part"
# The annotations that a stack has by itself: others are read only when they are named.
READABLE_STATUSES: Final[tuple[Status, ...]] = ("ok", "partial")


class Reference(NamedTuple):
    """What an annotation refers to: the UIDs of Series, and hashes of instances."""

    patient_id: str
    frame_of_reference_uid: str
    series: Sequence[str]
    instances: Ints


@dataclass(frozen=True, slots=True)
class Target:
    """A stack that annotations may describe, with sorted hashes of its instances."""

    number: int
    patient_id: str
    frame_of_reference_uid: str
    series_instance_uid: str
    instances: Ints


class Link(NamedTuple):
    """The stacks of an annotation.

    Attributes
    ----------
    status
        "ok"; "partial" if some of the referenced instances are not in the index;
        "images_absent" if none of them is, nor another image of their frame of reference;
        "other_reconstruction" if only such other images are; "other_frame_of_reference" or
        "other_patient" if the referenced images have another one than the object;
        "no_reference" for an object that names neither images nor a frame of reference;
        "incomplete" for an object of several files (a concatenation) of which some are absent;
        "part" for its files but the first, which has the stacks, and for equal copies of a file;
        "unreadable".
    stacks
        The numbers of the stacks with referenced instances; without any such reference, those in
        the frame of reference.
    referenced, found
        How many instances are referenced, and how many of them are in the index.
    files
        The numbers of the files that hold the object, in their order.
    """

    status: Status
    stacks: tuple[int, ...]
    referenced: int
    found: int
    files: tuple[int, ...] = ()


class Targets:
    """All stacks, by Series and by frame of reference."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._of_series = _by(targets, "series_instance_uid")
        self._of_reference = _by(targets, "frame_of_reference_uid")

    def link(self, reference: Reference) -> Link:
        """Return the stacks that an annotation describes."""
        wanted, here = len(reference.instances), reference.frame_of_reference_uid
        named = [each for uid in reference.series for each in self._of_series.get(uid, ())]
        shared = {each.number: np.isin(reference.instances, each.instances) for each in named}
        if wanted:
            named = [each for each in named if shared[each.number].any()]
        if not named:
            return _by_space(reference, self._of_reference.get(here, []) if here else [])
        found = int(np.logical_or.reduce([shared[each.number] for each in named]).sum())
        numbers = tuple(each.number for each in named)
        others = {each.frame_of_reference_uid for each in named} - {""}
        status: Status = "ok" if found == wanted else "partial"
        if here and others and here not in others:
            status = "other_frame_of_reference"
        if _is_of_another_patient(reference, named):
            status = "other_patient"
        return Link(status, numbers, wanted, found)


def _by_space(reference: Reference, near: Sequence[Target]) -> Link:
    """Return the link of an object none of whose images is there; `near` are others in space."""
    wanted, numbers = len(reference.instances), tuple(each.number for each in near)
    if _is_of_another_patient(reference, near):
        return Link("other_patient", numbers, wanted, 0)
    if reference.series or wanted:
        return Link("other_reconstruction" if near else "images_absent", numbers, wanted, 0)
    if not reference.frame_of_reference_uid:
        return Link("no_reference", (), 0, 0)
    return Link("ok" if near else "images_absent", numbers, 0, 0)


def _is_of_another_patient(reference: Reference, targets: Sequence[Target]) -> bool:
    """Whether an object and images have a PatientID each, and not the same."""
    patients = {each.patient_id for each in targets} - {""}
    return bool(reference.patient_id and patients) and reference.patient_id not in patients


def _by(targets: Sequence[Target], name: str) -> Mapping[str, list[Target]]:
    groups: dict[str, list[Target]] = {}
    for target in targets:
        groups.setdefault(getattr(target, name), []).append(target)
    return groups
