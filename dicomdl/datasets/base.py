"""What every dataset does around the making of one sample: batches, epochs, errors, transforms."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.datasets._assembly import Delivery
from dicomdl.datasets._options import Policy, Reading
from dicomdl.datasets._skipped import Skipped, SkippedLog
from dicomdl.datasets.collate import teach_default_collate
from dicomdl.datasets.patch_samplers import chance
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.selection import StackChoice
from dicomdl.datasets.transport.images import BatchImages
from dicomdl.datasets.worker import errors_leave_whole
from dicomdl.errors import DicomdlError, MissingExtra, PixelError, UsageError
from dicomdl.geometry.verdict import Irregular
from dicomdl.index.index import Index
from dicomdl.index.views import Stacks
from dicomdl.storage.sources import kept_open

Transform = Callable[[Sample], Any]
MOST_REPLACEMENTS: Final = 16  # rows that are tried in place of one that cannot be read

# Every dataset loads this module.
teach_default_collate()


class SampleDataset(torch.utils.data.Dataset[Any]):
    """Rows of samples, some of which cannot be read.

    Subclasses make one sample in `_make`. Here is what happens around it: batches (each file opened
    once), epochs, errors, transforms.

    `on_error` "raise" raises what reading a sample raised, with its file. "skip" leaves the sample
    out of its batch, which is then shorter; where nothing would be left of it, and where samples
    are asked for one by one, another is delivered as for "replace". "replace" delivers the sample
    of another row, chosen by (seed, epoch, row). What was skipped is counted and listed in
    `skipped`, whatever process it happened in. Errors of a transform are the caller's own and
    always raised.
    """

    transform: Transform | None

    def __init__(self, transform: Transform | None, policy: Policy) -> None:
        self.transform = transform
        self.policy = policy
        self.epoch = 0
        self._log = SkippedLog()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that random choices depend on, before a loader starts its workers.

        Workers that live on (``persistent_workers=True``) hold copies that this does not reach: the
        rows of a `RowSampler` carry their epoch along and do.
        """
        if not (isinstance(epoch, int) and epoch >= 0):
            raise UsageError(f"epoch={epoch!r}: expected a whole number from 0")
        self.epoch = epoch

    @property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(stacks + 1,) the first row of each stack, and the end.

        Rows between two of them read the same files.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return int(self.boundaries[-1])

    def _make(self, row: int, epoch: int) -> Sample:
        """The sample of a row; a DicomdlError where it cannot be read."""
        raise NotImplementedError

    @errors_leave_whole
    def __getitem__(self, row: int) -> Any:
        epoch = getattr(row, "epoch", self.epoch)
        row = self._checked(row)
        with BatchImages(0):
            sample, error = self._tried(row, epoch)
            if sample is None:
                sample = self._instead_of(row, epoch, error)
        return transformed(sample, self.transform)

    @errors_leave_whole
    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """The samples of a batch, in the order asked for.

        Made in the order of rows, and each file opened once.
        """
        # a transform may keep images, and change them later
        with BatchImages(len(rows) if self.transform is None else 0) as images:
            found = self._tried_together(rows, images)
        if all(sample is None for sample, _ in found) and self.policy.on_error == "skip" and found:
            row = rows[-1]  # nothing would be left of the batch
            found[-1] = (
                self._instead_of(
                    self._checked(row), getattr(row, "epoch", self.epoch), found[-1][1]
                ),
                None,
            )
        self._note_skipped(rows, found)
        return [transformed(sample, self.transform) for sample, _ in found if sample is not None]

    def outcomes(self, rows: Sequence[int]) -> list[Any]:
        """For those who can leave rows out, such as `StackStream`.

        The sample of each row, its error, or None where it is skipped.
        """
        # which are not delivered together: each in memory of its own
        found = self._tried_together(rows)
        self._note_skipped(rows, found)
        results: list[Any] = []
        for sample, error in found:
            try:
                results.append(
                    transformed(sample, self.transform)
                    if sample is not None
                    else None
                    if self.policy.on_error == "skip"
                    else error
                )
            except Exception as fault:  # the transform's own, of this row alone
                results.append(fault)
        return results

    def _tried_together(
        self, rows: Sequence[int], images: BatchImages | None = None
    ) -> list[tuple[Sample | None, BaseException | None]]:
        """(sample, None) or (None, error) of each row, in the order asked for.

        Replaced where the policy says so.

        Where the rows make one batch, with `images`, what may not be skipped is raised.
        """
        found: list[tuple[Sample | None, BaseException | None]] = [(None, None)] * len(rows)
        numbers = [self._checked(row) for row in rows]
        with kept_open():
            for place in sorted(range(len(rows)), key=numbers.__getitem__):
                epoch = getattr(rows[place], "epoch", self.epoch)
                if images is not None:
                    images.place = place
                try:
                    sample, error = self._tried(numbers[place], epoch)
                    if sample is None and self.policy.on_error == "replace":
                        sample, error = self._instead_of(numbers[place], epoch, error), None
                except Exception as fault:
                    if images is not None:
                        raise
                    sample, error = None, fault
                found[place] = (sample, error)
        return found

    def _note_skipped(
        self, rows: Sequence[int], found: Sequence[tuple[Sample | None, BaseException | None]]
    ) -> None:
        if self.policy.on_error == "skip":
            for row, (sample, error) in zip(rows, found, strict=True):
                if sample is None and error is not None:
                    self._log.note(
                        self._checked(row), getattr(row, "epoch", self.epoch), "skip", error
                    )

    def _checked(self, row: int) -> int:
        count = len(self)
        if not -count <= row < count:
            raise IndexError(f"sample {row} of {count}")
        return int(row) % count

    def _read_row(self, row: int, epoch: int) -> Sample:
        """Reading raises a DicomdlError for what files do.

        A StopIteration, which would end an epoch without a word, never leaves.
        """
        try:
            sample = self._make(row, epoch)
            sample["epoch"] = epoch
            return sample
        except OSError as error:
            raise PixelError(f"the sample cannot be read: {error.strerror or error}") from error
        except StopIteration as error:
            raise RuntimeError("something that makes the sample raised StopIteration") from error

    def _tried(self, row: int, epoch: int) -> tuple[Sample | None, BaseException | None]:
        """(sample, None), or (None, error) where the policy bears that it cannot be read."""
        try:
            return self._read_row(row, epoch), None
        except (UsageError, MissingExtra):  # of how the dataset is used, not of its files
            raise
        except (DicomdlError, MemoryError) as error:
            if self.policy.on_error == "raise":
                raise
            return None, error

    def _instead_of(self, row: int, epoch: int, error: BaseException | None) -> Sample:
        """The sample of another row; the error where none of several can be read."""
        self._log.note(row, epoch, "replace", error)
        generator = chance(self.policy.seed, epoch, row)
        for _ in range(MOST_REPLACEMENTS):
            sample, _ = self._tried(int(generator.integers(len(self))), epoch)
            if sample is not None:
                return sample
        raise error or PixelError("no sample can be read")

    @property
    def skipped(self) -> list[Skipped]:
        """What could not be read so far, in any worker of this dataset on this machine, in the order that it happened."""
        return self._log.read()


def transformed(sample: Sample, transform: Transform | None) -> Any:
    """What the transform makes of a sample.

    Its StopIteration, which a loader would take for the end of the epoch, is an error.
    """
    if transform is None:
        return sample
    try:
        return transform(sample)
    except StopIteration as error:  # a loader would take it for the end of the epoch
        raise RuntimeError("the transform raised StopIteration") from error


IDENTIFIERS: Final = ("modality", "patient_id", "study_instance_uid", "series_instance_uid")


class PixelDataset(SampleDataset):
    """What our datasets have in common: what is read of their stacks, and how it is delivered."""

    def __init__(
        self, transform: Transform | None, policy: Policy, reading: Reading, delivery: Delivery
    ) -> None:
        super().__init__(transform, policy)
        self.reading = reading
        self.delivery = delivery


class StackDataset(PixelDataset):
    """What datasets of whole stacks have: the stacks that may become volumes."""

    def _take(self, index: Index, choice: StackChoice) -> None:
        self.irregular: Irregular = choice.irregular
        taken = choice.of(index)
        self.index, self.left_out = taken.index, taken.left_out

    @functools.cached_property
    def _stacks(self) -> Stacks:
        return self.index.stacks

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_stacks", "boundaries")
        }
