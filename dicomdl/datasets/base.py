"""The base classes of the datasets: batches, epochs, errors and transforms around one sample.

A subclass reads one sample in `_make`. Where its epoch is known, a sample depends on (seed, epoch,
row) alone; otherwise a subclass with chance draws from torch's generator (see `epochs`). A row that
replaces an unreadable one is the same in every process.
"""

import contextlib
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dicomdl.arrays import Ints
from dicomdl.datasets._assembly import Delivery
from dicomdl.datasets._bags import Bag, Bags, EachBag
from dicomdl.datasets._cases import ABSENT, CaseRule, Cases, EachStack
from dicomdl.datasets._channels import ChannelOptions, Roles, take_pairs
from dicomdl.datasets._deaths import name_dead_workers
from dicomdl.datasets._groups import GivenCases, GroupOptions, TakenGroups
from dicomdl.datasets._options import Policy, Reading
from dicomdl.datasets._permutations import checked_count
from dicomdl.datasets._skipped import Skipped, SkippedLog
from dicomdl.datasets._table_labels import TableLabels
from dicomdl.datasets._targeted import Targeted
from dicomdl.datasets.collate import teach_default_collate
from dicomdl.datasets.epochs import (
    NO_EPOCH,
    SharedEpoch,
    drawn_number,
    is_in_pass,
    received_epoch,
)
from dicomdl.datasets.patch_samplers import chance
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.sample_labels import SampleLabels, kept_reasons, surveyed
from dicomdl.datasets.selection import StackChoice, Taken
from dicomdl.datasets.transport.images import BatchImages
from dicomdl.datasets.worker import errors_leave_whole
from dicomdl.errors import (
    DicomdlError,
    IndexFolderError,
    MissingExtra,
    PixelError,
    UsageError,
    no_integer,
)
from dicomdl.geometry.verdict import Irregular
from dicomdl.index.grouping import with_numbers
from dicomdl.index.index import Index
from dicomdl.index.views import Group, Stack, Stacks
from dicomdl.labels.source import LabelSource
from dicomdl.lazy import cached_property
from dicomdl.pixels.recorder import Recorder
from dicomdl.storage.sources import KeptFiles, kept_open

Transform = Callable[[Sample], Any]
# The number of rows to try instead of one that cannot be read.
MOST_REPLACEMENTS: Final = 16

# Every dataset imports this module, so the default collate knows samples wherever one is made, and
# dead workers are named wherever there is a dataset of ours.
teach_default_collate()
name_dead_workers()


class SampleDataset(torch.utils.data.Dataset[Any]):
    """A map-style dataset of samples, some of which may be unreadable.

    Subclasses read one sample in `_make`. This class opens each file once per batch and handles
    epochs, errors and transforms.

    The option `on_error` decides about unreadable samples:

    - "raise" raises the error, with the file in its notes.
    - "skip" leaves the sample out of its batch, which is then shorter. A batch without any readable
      sample, and a sample asked for by itself, get a replacement.
    - "replace" delivers the sample of another row, chosen by (seed, epoch, row).

    `skipped` lists the unreadable samples of all processes. Errors of a transform are always
    raised.

    Attributes
    ----------
    transform
        Called with each sample, or None.
    policy
        The options `on_error` and `seed`.
    """

    transform: Transform | None

    def __init__(self, transform: Transform | None, policy: Policy) -> None:
        self.transform = transform
        self.policy = policy
        self._epoch = SharedEpoch()
        self._log = SkippedLog()
        self._recorder = Recorder()
        self._files = KeptFiles()

    @property
    def epoch(self) -> int | None:
        """The epoch of rows that do not carry one, None before `set_epoch`."""
        return self._epoch.value

    def set_epoch(self, epoch: int) -> None:
        """Fix the epoch of rows that do not carry one, in this process and in all its workers.

        Random choices then depend on (seed, epoch, row) alone, until the next call. Before the
        first call they are drawn from torch's generator, anew in every pass. The rows of our
        samplers carry their epoch and do not need this call.

        Parameters
        ----------
        epoch
            An integer from 0.

        Raises
        ------
        UsageError
            The epoch is not an integer from 0.
        """
        self._epoch.set(checked_count("epoch", epoch, 0))

    def plot_batch(self, count: int = 8, *, channel: int = 0) -> Any:
        """Plot evenly spaced samples, as `plot_batch`: what the network sees.

        Parameters
        ----------
        count
            The largest number of samples.
        channel
            The channel that is shown.

        Returns
        -------
        matplotlib.figure.Figure
            One picture per sample, with labels, boxes, points and target.
        """
        import dicomdl

        return dicomdl.plot_batch(self, count, channel=channel)

    def _epoch_of(self, row: int) -> int | None:
        """Return the epoch of a row: its own, else the one set for the dataset, else None."""
        epoch: int | None = getattr(row, "epoch", None)
        if epoch is None:
            epoch = received_epoch()
        return self._epoch.value if epoch is None else epoch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epoch": self._epoch.copy()}

    @property
    def boundaries(self) -> npt.NDArray[np.int64]:
        """(stacks + 1,) int64: the first row of each stack, then the number of rows.

        Rows between two boundaries read the same files.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return int(self.boundaries[-1])

    def _make(self, row: int, epoch: int | None) -> Sample:
        """Return the sample of a row; raise a DicomdlError if it cannot be read.

        A dataset with chance draws it from torch's generator if the epoch is None.
        """
        raise NotImplementedError

    @errors_leave_whole
    def __getitem__(self, row: int) -> Any:
        epoch = self._epoch_of(row)
        row = self._checked(row)
        with BatchImages(0), kept_open(self._files):
            sample, error = self._tried(row, epoch)
            if sample is None:
                sample = self._replacement(row, epoch, error)
        return transformed(sample, self.transform)

    @errors_leave_whole
    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        """Return the samples of a batch, in the order of `rows`.

        Samples are read in ascending order of rows, and each file is opened once.
        """
        # A transform may reference images and change them later, so its images get memory of
        # their own.
        with BatchImages(len(rows) if self.transform is None else 0) as images:
            results = self._tried_together(rows, images)
        is_empty = all(sample is None for sample, _ in results)
        if is_empty and self.policy.on_error == "skip" and results:
            # A loader cannot deliver an empty batch.
            row = rows[-1]
            results[-1] = (
                self._replacement(self._checked(row), self._epoch_of(row), results[-1][1]),
                None,
            )
        self._note_skipped(rows, results)
        return [transformed(sample, self.transform) for sample, _ in results if sample is not None]

    def outcomes(self, rows: Sequence[int]) -> list[Any]:
        """Return the sample of each of `rows`, its error, or None for a skipped row.

        Callers are readers that can leave rows out, such as `StackStream`.
        """
        # Without `BatchImages` each image has memory of its own: the rows do not form one batch.
        results = self._tried_together(rows)
        self._note_skipped(rows, results)
        outcomes: list[Any] = []
        for sample, error in results:
            try:
                outcomes.append(
                    transformed(sample, self.transform)
                    if sample is not None
                    else None
                    if self.policy.on_error == "skip"
                    else error
                )
            except Exception as fault:
                # An error of the transform concerns this row alone.
                outcomes.append(fault)
        return outcomes

    def _tried_together(
        self, rows: Sequence[int], images: BatchImages | None = None
    ) -> list[tuple[Sample | None, BaseException | None]]:
        """Return (sample, None) or (None, error) of each row, in the order of `rows`.

        The policy "replace" replaces unreadable samples here. With `images` the rows form one
        batch, and an error that the policy does not allow is raised; without, it is the row's
        result.
        """
        results: list[tuple[Sample | None, BaseException | None]] = [(None, None)] * len(rows)
        numbers = [self._checked(row) for row in rows]
        with kept_open(self._files), self._batch(numbers):
            for position in sorted(range(len(rows)), key=numbers.__getitem__):
                epoch = self._epoch_of(rows[position])
                if images is not None:
                    images.position = position
                try:
                    sample, error = self._tried(numbers[position], epoch)
                    if sample is None and self.policy.on_error == "replace":
                        sample, error = self._replacement(numbers[position], epoch, error), None
                except Exception as fault:
                    if images is not None:
                        raise
                    sample, error = None, fault
                results[position] = (sample, error)
        return results

    def _batch(self, rows: Sequence[int]) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the samples of these rows are made, in ascending order.

        A subclass may read there together what several of them need.
        """
        del rows
        return contextlib.nullcontext()

    def _note_skipped(
        self, rows: Sequence[int], results: Sequence[tuple[Sample | None, BaseException | None]]
    ) -> None:
        """Log the rows without a sample, under the policy "skip"."""
        if self.policy.on_error == "skip":
            for row, (sample, error) in zip(rows, results, strict=True):
                if sample is None and error is not None:
                    self._log.note(self._checked(row), self._epoch_of(row), "skip", error)

    def _checked(self, row: int) -> int:
        """Return a row counted from 0; raise an IndexError beyond the rows.

        A row that is no integer is a UsageError.
        """
        try:
            number = operator.index(row)
        except TypeError:
            raise no_integer(row, "sample") from None
        count = len(self)
        if not -count <= number < count:
            raise IndexError(f"sample {number} of {count}")
        return number % count

    def _read_row(self, row: int, epoch: int | None) -> Sample:
        """Return the sample of a row; raise a DicomdlError for any fault of a file.

        A StopIteration is turned into a RuntimeError, since it would end an epoch silently.
        """
        try:
            sample = self._make(row, epoch)
            sample["epoch"] = NO_EPOCH if epoch is None else epoch
            return sample
        except OSError as error:
            raise PixelError(f"the sample cannot be read: {error.strerror or error}") from error
        except StopIteration as error:
            raise RuntimeError("something that makes the sample raised StopIteration") from error

    def _tried(self, row: int, epoch: int | None) -> tuple[Sample | None, BaseException | None]:
        """Return (sample, None), or (None, error) if the policy allows unreadable samples."""
        try:
            return self._read_row(row, epoch), None
        except (UsageError, MissingExtra, IndexFolderError):
            # These are faults of the call or of the index, which another row would have too.
            raise
        except (DicomdlError, MemoryError) as error:
            if self.policy.on_error == "raise":
                raise
            return None, error

    def _replacement(self, row: int, epoch: int | None, error: BaseException | None) -> Sample:
        """Return the sample of another row; raise the error if `MOST_REPLACEMENTS` rows fail.

        Without an epoch a row always has the same replacement.
        """
        self._log.note(row, epoch, "replace", error)
        generator = chance(self.policy.seed, epoch or 0, row)
        for _ in range(MOST_REPLACEMENTS):
            sample, _ = self._tried(int(generator.integers(len(self))), epoch)
            if sample is not None:
                return sample
        raise error or PixelError("no sample can be read")

    @property
    def skipped(self) -> list[Skipped]:
        """The unreadable samples so far, of all workers on this machine, in order of time."""
        return self._log.read()


def transformed(sample: Sample, transform: Transform | None) -> Any:
    """Return the result of the transform for a sample, or for each member of a bag.

    A StopIteration of the transform is turned into a RuntimeError.
    """
    try:
        if isinstance(sample, Bag):
            return sample.joined(transform)
        return sample if transform is None else transform(sample)
    except StopIteration as error:
        # A loader would take it for the end of the epoch.
        raise RuntimeError("the transform raised StopIteration") from error


IDENTIFIERS: Final = ("modality", "patient_id", "study_instance_uid", "series_instance_uid")


class PixelDataset(Targeted, SampleDataset):
    """A dataset of pixels: a reading of stacks, a delivery of images, labels out of tables."""

    bags: Bags | None

    def __init__(
        self, transform: Transform | None, policy: Policy, reading: Reading, delivery: Delivery
    ) -> None:
        super().__init__(transform, policy)
        self.reading = reading
        self.delivery = delivery

    def _require_whole_targets(self, stacks: Stacks, samples: str) -> None:
        """Raise a UsageError for targets of frames, where samples have stacks of several."""
        if (stacks.shapes()[:, 0] > 1).any():
            self.table.require_target_of("stack", samples)

    def _require_targets_of_bags(self, bags: Bags) -> None:
        """Raise a UsageError for targets that members of bags have of their own."""
        self.table.require_target_of(bags.by, f"bags by {bags.by}")

    def _with_target_of_bag(self, bag: Bag, bags: Bags, row: int) -> Bag:
        """Return the bag with its target, where all members have the same."""
        if self.table.has_target_of(bags.by):
            bag |= self.table.target_entries(self.index.joined, row)
        return bag


class StackDataset(PixelDataset):
    """A dataset of complete stacks, restricted to those that may become volumes."""

    rule: CaseRule
    bags = None
    roles: Roles | None
    irregular: Irregular

    def _take(self, index: Index, choice: StackChoice) -> None:
        """Take a sample per chosen stack, and list what is left out."""
        taken = choice.of(index)
        self.index, self.left_out = taken.index, taken.left_out
        self.rule = EachStack()

    def _take_cases(
        self,
        given: tuple[Index, Sequence[Group] | None],
        choice: StackChoice,
        options: GroupOptions,
        channels: ChannelOptions,
    ) -> None:
        """Take a sample per group or case of a pairing, or per stack without groups and pairing.

        Raises
        ------
        UsageError
            There are groups and a pairing.
        """
        (index, groups), pairing = given, channels.pairing
        self.group_options, self.is_grouped = options, groups is not None
        self.roles = channels.roles(self.reading)
        self.irregular = choice.irregular
        if groups is not None and pairing is not None:
            raise UsageError("channels=Pairing(...) pairs stacks: it takes no groups")
        if groups is not None:
            taken = TakenGroups(index, groups, choice, options, self.reading.intensity.quantity)
            self.index, self.left_out, self.rule = taken.index, taken.left_out, taken.rule
        elif pairing is not None:
            pairs, self.rule = take_pairs(index, choice, pairing)
            self.index, self.left_out = pairs.index, pairs.left_out
        else:
            self._take(index, choice)

    def _take_table(self, table: TableLabels) -> None:
        """Take the labels out of tables: one target per stack."""
        self.table = table
        self._require_whole_targets(self.index.stacks, "stacks")

    def _target_rows(self) -> Ints:
        """Return the row in the table `frames` that holds the target of each sample."""
        if self.bags is not None:
            self._require_targets_of_bags(self.bags)
        return np.repeat(self._stacks.first_rows(), np.diff(self.boundaries))

    def _take_bags(self, bags: Bags | None) -> None:
        """Take a sample per bag of the stacks that were taken, if there are bags.

        Raises
        ------
        UsageError
            A bag is too large, or the samples are groups or pairs.
        """
        self.bags = bags
        if bags is None:
            return
        if self.is_grouped or self.roles is not None:
            raise UsageError(f"by={bags.by!r} joins stacks: it takes no groups and no Pairing")
        self.rule = EachBag(bags)
        self._forget_cases()
        # Raises for bags that are too large.
        _ = self._cases

    def _keep_cases(self, flags: npt.NDArray[np.bool_], reason: str) -> None:
        """Continue with the cases that have a flag, and list the others under a reason."""
        if flags.all():
            return
        kept, taken = self._cases.where(flags), Taken(self.index)
        numbers = np.unique(kept.numbers[kept.numbers != ABSENT])
        taken.continue_with(self.index.of_stacks(numbers), reason)
        if isinstance(self.rule, GivenCases):
            self.rule = GivenCases(kept)
        self.index, self.left_out = taken.index, [*self.left_out, *taken.left_out]
        self._forget_cases()

    def _forget_cases(self) -> None:
        """Forget the cases of an earlier rule or index: the search for labels has read them."""
        for name in ("_cases", "_stacks"):
            self.__dict__.pop(name, None)

    def _keep_labelled(self, source: LabelSource | None) -> SampleLabels | None:
        """Continue with the cases whose first stack has labels, and return what these are."""
        if source is None:
            return None
        firsts = self._stacks
        known = surveyed(source, firsts)
        absent = np.unique(firsts.numbers[known.is_absent])
        reasons = kept_reasons(known, source)
        for reason in dict.fromkeys(reason for reason in reasons.tolist() if reason):
            is_kept = reasons != reason
            self._keep_cases(is_kept, reason)
            reasons = reasons[is_kept]
        return SampleLabels(source, known.dtype, known.names, absent)

    @cached_property
    def _cases(self) -> Cases:
        """The stacks of each sample."""
        return self.rule.cases(self.index)

    @cached_property
    def _stacks(self) -> Stacks:
        """The first stack of each case: the one that samples take their grid and facts from."""
        return with_numbers(self.index.stacks, self._cases.firsts)

    def stack_numbers(self, row: int) -> tuple[int, ...]:
        """Return the numbers of the stacks of a sample.

        Parameters
        ----------
        row
            The number of the sample.

        Returns
        -------
        tuple of int
            `Stack.number` of each, in order, without members that a pairing lacks.
        """
        return tuple(n for n in self._cases[self._checked(row)].tolist() if n != ABSENT)

    def _case(self, number: int) -> list[Stack | None]:
        """Return the members of a case; None for one that the case lacks."""
        return [
            None if member == ABSENT else self.index.stack(member)
            for member in self._cases[number].tolist()
        ]

    def _group(self, number: int) -> Group:
        """Return the group of a case."""
        stacks = [self.index.stack(member) for member in self._cases[number].tolist()]
        return stacks[0].group.only(stacks)

    def _chance(self, row: int, epoch: int | None, *, is_random: bool) -> np.random.Generator:
        """Return the random generator of a sample; without an epoch, torch's generator seeds it.

        A row outside of the pass of a loader is that of epoch 0. A dataset without chance leaves
        torch's generator alone.
        """
        if epoch is None:
            epoch = drawn_number() if is_random and is_in_pass() else 0
        return chance(self.policy.seed, epoch, row)

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in super().__getstate__().items()
            if name not in ("_cases", "_stacks", "boundaries")
        }
