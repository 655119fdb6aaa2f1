"""The samples of an export: those of a dataset with the same options, each with a key and a part.

A key is a hash of the instances of a sample. It has no dot, which ends a key of WebDataset, and it
names no patient.
"""

import hashlib
import itertools
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dicomdl.datasets.frames import FrameDataset
from dicomdl.datasets.volumes import VolumeDataset
from dicomdl.errors import UsageError
from dicomdl.index.index import Index
from dicomdl.index.views import Stack
from dicomdl.jobs._file_names import NameTemplate, facts_of
from dicomdl.jobs.exports.options import TRAIN, ExportOptions
from dicomdl.labels.reader import OVERLAP

Dataset = VolumeDataset | FrameDataset
# Fields of templates beside the columns of the index.
_OWN_FIELDS: Final = ("stack", "group")
# Facts of frames that make the key of a sample.
_IDENTITY: Final = ("sop_instance_uid", "frame_number")
_NO_FOLD: Final = -1


@dataclass(frozen=True, slots=True)
class Case:
    """One sample of an export.

    Attributes
    ----------
    row
        Its number in the dataset.
    key
        A hash of its instances, 16 hexadecimal digits.
    name
        The name of its files, without a suffix: by the template, or the key.
    stacks
        The numbers of its stacks in the index.
    series_instance_uid
        The Series of the first one.
    part
        The name of its part.
    fold
        The number of its fold; -1 without folds.
    """

    row: int
    key: str
    name: str
    stacks: tuple[int, ...]
    series_instance_uid: str
    part: str
    fold: int = _NO_FOLD

    def entry(self, status: str, reason: str = "") -> dict[str, Any]:
        """Return the entry of the sample, without files."""
        return {
            "key": self.key,
            "name": self.name,
            "status": status,
            "reason": reason,
            "row": self.row,
            "stacks": list(self.stacks),
            "series_instance_uid": self.series_instance_uid,
            "split": self.part,
            "fold": self.fold,
        }


class Samples:
    """The samples of an index for the options of an export.

    Parameters
    ----------
    index
        The index.
    options
        The options.

    Raises
    ------
    EmptySelection
        No sample is left.
    UsageError
        An option does not fit, a sample has stacks of two parts, or a template gives two samples
        one name.
    """

    def __init__(self, index: Index, options: ExportOptions) -> None:
        self.options = options
        with warnings.catch_warnings():
            # What is left out is in the ledger.
            warnings.simplefilter("ignore")
            part_of, fold_of = _placed(index, options)
            chosen = index
            if part_of is not None:
                chosen = index.of_stacks(np.flatnonzero(part_of >= 0))
            self.without_part = len(index.stacks) - len(chosen.stacks)
            self.dataset = _dataset(chosen, options)
        if self.dataset.labels is not None:
            self.dataset.labels.overlaps.warns = False
        self._part_of, self._fold_of = part_of, fold_of
        index = self.dataset.index
        self._digests = self._identities()
        self._ranks = _ranks(self._digests)
        self._template = (
            None
            if options.names is None
            else NameTemplate(options.names, {*index.columns, *_OWN_FIELDS}.__contains__)
        )
        if self._template is not None:
            self._require_names()

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def left_out(self) -> dict[str, int]:
        """{why stacks are no samples: their number}."""
        told = {row.reason: row.stacks for row in self.dataset.left_out if row.stacks}
        return {"in no part of the split": self.without_part, **told} if self.without_part else told

    def units(self) -> Iterator[tuple[int, ...]]:
        """Yield the numbers of stacks that must be written together, in the order of samples."""
        if isinstance(self.dataset, VolumeDataset):
            for row in range(len(self)):
                yield self.dataset.stack_numbers(row)
        else:
            for row in self.dataset.boundaries[:-1].tolist():
                yield (self.dataset.index.stack_of(row).number,)

    def cases(self, stacks: Iterable[int] | None = None) -> Iterator[Case]:
        """Yield the samples whose first stack is among `stacks`, in their order; None for all."""
        wanted = None if stacks is None else set(stacks)
        taken: dict[str, int] = {}
        if isinstance(self.dataset, VolumeDataset):
            for row in range(len(self)):
                numbers = self.dataset.stack_numbers(row)
                if wanted is None or numbers[0] in wanted:
                    yield self._volume(row, numbers)
            return
        bounds = self.dataset.boundaries.tolist()
        for first, end in itertools.pairwise(bounds):
            stack = self.dataset.index.stack_of(first)
            if wanted is None or stack.number in wanted:
                taken.clear()
                for row in range(first, end):
                    yield self._frame(row, stack)

    def read(self, case: Case) -> Any:
        """Return the sample of a case, as the dataset gives it."""
        return self.dataset[case.row]

    def remarks(self, case: Case) -> list[str]:
        """Return what the sample of a case lost when it was read, in words."""
        labels = self.dataset.labels
        slices = {} if labels is None else labels.overlaps.slices
        if isinstance(self.dataset, VolumeDataset):
            overlap = any(number in slices for number in case.stacks)
        else:
            stack = self.dataset.index.stack_of(case.row)
            overlap = self._slice(case.row, stack) in slices.get(stack.number, ())
        return [f"labels overlap: {OVERLAP}"] if overlap else []

    def _volume(self, row: int, numbers: tuple[int, ...]) -> Case:
        parts = {self._placed(number) for number in numbers}
        if len(parts) > 1:
            raise UsageError(
                f"the sample of the stacks {', '.join(map(str, numbers))} has images of two "
                "parts of the split: split by patient, or pair images by study",
                stacks=list(numbers),
            )
        return self._case(row, self.dataset.index.stack(numbers[0]), numbers, "")

    def _frame(self, row: int, stack: Stack) -> Case:
        suffix = f"_{self._slice(row, stack):04}" if stack.slices > 1 else ""
        return self._case(row, stack, (stack.number,), suffix)

    def _slice(self, row: int, stack: Stack) -> int:
        """Return the number in its stack of the slice that is the sample of a row."""
        return int(self.dataset.index.row(row) - stack.rows.start)

    def _identities(self) -> npt.NDArray[np.uint64]:
        """Return (samples,) a hash of the instances of each sample."""
        index = self.dataset.index
        if isinstance(self.dataset, VolumeDataset):
            found = [
                _digest([index.stack(n).values(name) for n in numbers for name in _IDENTITY])
                for numbers in self.units()
            ]
            return np.array(found, np.uint64)
        found, rows = [], index.rows()
        for first, end in itertools.pairwise(self.dataset.boundaries.tolist()):
            stack = index.stack_of(first)
            uids, numbers = (stack.values(name) for name in _IDENTITY)
            places = (rows[first:end] - stack.rows.start).tolist()
            found += [_digest([uids[place], numbers[place]]) for place in places]
        return np.array(found, np.uint64)

    def _key(self, row: int) -> str:
        """Return the key of a sample: its hash, and a number where others have the same."""
        rank = 0 if self._ranks is None else int(self._ranks[row])
        return f"{int(self._digests[row]):016x}" + (f"_{rank}" if rank else "")

    def _case(self, row: int, stack: Stack, numbers: tuple[int, ...], suffix: str) -> Case:
        key = self._key(row)
        part, fold = self._placed(stack.number)
        name = key if self._template is None else f"{self._name(self._template, stack)}{suffix}"
        return Case(row, key, name, numbers, stack.series_instance_uid, part, fold)

    def _name(self, template: NameTemplate, stack: Stack) -> str:
        own: Mapping[str, Any] = {"stack": stack.number, "group": stack.group.number}
        return template.name(facts_of(stack, self.dataset.index, own)).replace("/", "_")

    def _placed(self, stack: int) -> tuple[str, int]:
        if self._part_of is None or self._fold_of is None:
            return TRAIN, _NO_FOLD
        return self.options.parts[int(self._part_of[stack])], int(self._fold_of[stack])

    def _require_names(self) -> None:
        """Raise UsageError where the template gives two samples one name."""
        taken: dict[str, Case] = {}
        for case in self.cases():
            # Some systems do not tell upper from lower case.
            other = taken.setdefault(case.name.lower(), case)
            if other is not case:
                # The name itself may hold the PatientID.
                raise UsageError(
                    f"the template {self.options.names!r} gives stack {other.stacks[0]} and stack "
                    f"{case.stacks[0]} one name: add a field such as {{stack}}, or leave the "
                    "template out, which names samples by a hash",
                    stacks=[other.stacks[0], case.stacks[0]],
                )


def _placed(
    index: Index, options: ExportOptions
) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int64] | None]:
    """Return (stacks,) the number of the part and of the fold of each; -1 for none."""
    saved = options.split
    if saved is None:
        return None, None
    parts = index.split(keep=saved, by=saved.by, stratify=())
    count = 1 + max(int(part.stacks.numbers.max(initial=0)) for part in (index, *parts))
    number = np.full(count, -1, np.int64)
    for each, part in enumerate(parts):
        number[part.stacks.numbers] = each
    if saved.k is None:
        return number, np.full(count, _NO_FOLD, np.int64)
    return np.where(number < 0, -1, 0), number


def _dataset(index: Index, options: ExportOptions) -> Dataset:
    if options.is_of_frames:
        return FrameDataset(
            index,
            "auto" if options.intensity is None else options.intensity,
            size=options.size,
            spacing=options.spacing,
            labels=options.labels,
            target=options.target,
            boxes=options.boxes,
            points=options.points,
            channels=options.channels,
            suv=options.suv,
        )
    return VolumeDataset(
        index,
        "modality" if options.intensity is None else options.intensity,
        size=options.size,
        spacing=options.spacing,
        orientation=options.orientation,
        interpolation=options.interpolation,
        irregular=options.irregular,
        labels=options.labels,
        target=options.target,
        boxes=options.boxes,
        points=options.points,
        channels=options.channels,
        suv=options.suv,
    )


def _digest(identity: Any) -> int:
    data = json.dumps(identity).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def _ranks(digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64] | None:
    """Return (samples,) the number of samples before each that have its hash; None if all differ.

    Files without UIDs, or with those of others, have equal ones.
    """
    order = np.argsort(digests, kind="stable")
    is_new = np.diff(digests[order], prepend=digests[order][:1] + np.uint64(1)) != 0
    if is_new.all():
        return None
    starts = np.flatnonzero(is_new)
    ranks = np.empty(len(digests), np.int64)
    ranks[order] = np.arange(len(digests)) - np.repeat(
        starts, np.diff(np.append(starts, len(digests)))
    )
    return ranks


def stored_values(image: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """Return the values of an image in the dtype of an export.

    Raises
    ------
    UsageError
        The dtype does not hold a value.
    """
    if dtype == "float32":
        return image
    if dtype == "auto":
        return _exact(image)
    low, high = float(image.min(initial=0)), float(image.max(initial=0))
    limits = np.iinfo(np.int16) if dtype == "int16" else np.finfo(np.float16)
    if not (limits.min <= low and high <= limits.max) and (
        dtype == "int16" or np.isfinite((low, high)).all()
    ):
        raise UsageError(
            f"the values from {low:g} to {high:g} do not fit {dtype}: dtype='float32' holds them"
        )
    return np.rint(image).astype(np.int16) if dtype == "int16" else image.astype(np.float16)


def _exact(image: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Return int16 values where they are the same numbers, else the values themselves."""
    with np.errstate(invalid="ignore"):
        whole = image.astype(np.int16)
    return whole if np.array_equal(whole, image) else image
