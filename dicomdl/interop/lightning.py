"""The DataModule of Lightning: loaders of datasets, epochs, ranks, and state for checkpoints.

`set_epoch` must be called before an epoch begins, and state must count delivered batches only:
Lightning does neither for arbitrary samplers, so loaders are of a subclass that does.
"""

import importlib.util
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset, Sampler
from torch.utils.data.distributed import DistributedSampler

from dicomdl.datasets.base import SampleDataset
from dicomdl.datasets.collate import collate, tensors_last
from dicomdl.datasets.epochs import EpochRow, inner_datasets, keep_epochs
from dicomdl.datasets.samplers import RowSampler
from dicomdl.errors import UsageError
from dicomdl.extras import import_extra


def collate_flat(samples: Sequence[Any]) -> Any:
    """Collate samples, and lists of samples from a transform, into one batch.

    RandCropByPosNegLabeld, for example, returns a list per sample. Sizes may differ, as for
    `dicomdl.collate`.

    Parameters
    ----------
    samples
        Samples, or lists of samples.

    Returns
    -------
    dict
        The batch, as from `dicomdl.collate`.
    """
    lists = (sample if isinstance(sample, list) else [sample] for sample in samples)
    return collate(list(itertools.chain.from_iterable(lists)))


class _EpochAware:
    """Mix-in of a DataLoader that reports the start of an epoch and counts delivered batches."""

    before_epoch: Callable[[Any], None] | None = None
    batches_done: int = 0

    def __iter__(self) -> Any:
        if self.before_epoch is not None:
            self.before_epoch(self)
        batches = super().__iter__()  # type: ignore[misc]
        return batches if self.before_epoch is None else self._counted(batches)

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        self.batches_done = 0
        for batch in batches:
            self.batches_done += 1
            yield batch

    def __len__(self) -> int:
        count = getattr(self.dataset, "number_of_batches", None)  # type: ignore[attr-defined]
        # Without a length, Lightning prefetches a batch, and the count of delivered ones would be
        # one too high.
        return int(super().__len__()) if count is None else int(count(self))  # type: ignore[misc]


class _Resumable(_EpochAware):
    """Loader that Lightning recognizes as resumable within an epoch.

    The state itself is in the DataModule.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Ignore the state."""


class _Shielded(DistributedSampler[Any]):
    """Wrapper that protects a sampler with its own ranks and epochs from Lightning.

    Lightning would distribute the rank's share over the ranks again, except for subclasses of
    DistributedSampler. It also calls `set_epoch` after the epoch has begun, which would discard
    the position at which a sampler was resumed.
    """

    def __init__(self, own: Any) -> None:
        self.own = own

    def __iter__(self) -> Iterator[Any]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)

    def set_epoch(self, epoch: int) -> None:
        """Ignore the call of Lightning: `_Loaders._begin_epoch` sets the epoch."""

    def __getattr__(self, name: str) -> Any:
        if name in ("own", "sampler") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.own, name)


class _FirstEpoch(Sampler[int]):
    """The rows of a dataset in order, always of epoch 0, so that chance is the same every time.

    It is no SequentialSampler, which Lightning would replace with several ranks.
    """

    def __init__(self, dataset: Any) -> None:
        keep_epochs(dataset)
        self.rows = len(dataset)

    def __iter__(self) -> Iterator[int]:
        return (EpochRow(row, 0) for row in range(self.rows))

    def __len__(self) -> int:
        return self.rows


def _sample_dataset(dataset: Any) -> SampleDataset | None:
    """Return the first dataset of dicomdl in a map-style dataset, such as a Subset of it."""
    if isinstance(dataset, IterableDataset):
        return None
    inner = (part for part in inner_datasets(dataset) if isinstance(part, SampleDataset))
    return next(inner, None)


def _is_made(sampler: Any) -> bool:
    """Whether an option is a sampler, not a function or class that makes one."""
    return hasattr(sampler, "__iter__") and not isinstance(sampler, type)


def _knows_ranks(sampler: Any) -> bool:
    """Whether a sampler, or one that it draws from, distributes over ranks."""
    return sampler is not None and (
        hasattr(sampler, "rank") or _knows_ranks(getattr(sampler, "sampler", None))
    )


def _state_of(part: Any, loader: Any) -> Any:
    """Return the state of a dataset or sampler.

    It draws ahead of delivery, so it gets the number of delivered batches, if it takes them.
    """
    counts = {
        "loader": loader,
        "batches_done": loader.batches_done,
        "samples_done": loader.batches_done * (loader.batch_size or 1),
    }
    known = inspect.signature(part.state_dict).parameters
    return part.state_dict(**{name: value for name, value in counts.items() if name in known})


class _Loaders:
    """LightningDataModule of training, validation, test and prediction datasets.

    Needs the extra `lightning`.

    Parameters
    ----------
    train, val, test, predict
        A dataset or a list of them per stage; None for none.
    train_options
        Options of the training DataLoader only, on top of `options`: `sampler`, `batch_sampler`,
        `shuffle`, `drop_last`, ... A sampler may be a function of the dataset, which is called when
        ranks are known, such as ``lambda dataset: RowBatchSampler(RowSampler(dataset), 8)``. By
        default, datasets of dicomdl, also in a Subset or ConcatDataset, get a RowSampler with the
        seed of the dataset, so that workers know the epoch; torch shuffles others.
    loader
        Class of the loaders: DataLoader, or StatefulDataLoader of torchdata, whose state Lightning
        stores in its checkpoints.
    **options
        Options of every DataLoader: `batch_size`, `num_workers`, `collate_fn`, ...

    Raises
    ------
    MissingExtra
        Lightning is not installed.
    UsageError
        An option cannot serve every dataset.

    Notes
    -----
    Before each training epoch, `set_epoch` is called on the dataset, the sampler and the batch
    sampler, if they have it. Evaluation draws the samples of epoch 0 every time. With several
    ranks, Lightning distributes the samples, unless the sampler has a `rank` and does so itself. A
    checkpoint contains the `state_dict` of the dataset and samplers that have one, so that training
    resumes within an epoch.
    """

    def __init__(
        self,
        train: Any = None,
        val: Any = None,
        test: Any = None,
        predict: Any = None,
        *,
        train_options: Mapping[str, Any] | None = None,
        loader: type[Any] = DataLoader,
        **options: Any,
    ) -> None:
        super().__init__()
        self.datasets = {"train": train, "val": val, "test": test, "predict": predict}
        self.train_options = dict(train_options or {})
        self.options = options
        self.loader = loader
        self._loaded: Mapping[str, Any] = {}
        # each loader, with the dataset and samplers whose state it advances
        self._training: list[tuple[Any, dict[str, Any]]] = []
        of_one = {"dataset", "sampler", "batch_sampler", "shuffle"} & set(options)
        if of_one:
            raise UsageError(
                f"{', '.join(sorted(of_one))}: expected in train_options, "
                "because it cannot serve every dataset"
            )
        given = [self.train_options.get(name) for name in ("sampler", "batch_sampler")]
        if (
            isinstance(train, list | tuple)
            and len(train) > 1
            and any(_is_made(sampler) for sampler in given)
        ):
            raise UsageError(
                "one sampler cannot serve several training datasets: "
                "pass a function that makes one for a dataset"
            )

    def _loaders(self, stage: str) -> Any:
        given = self.datasets[stage]
        make = self._of_training if stage == "train" else self._of_evaluation
        if given is None:
            return []
        return (
            [make(dataset) for dataset in given] if isinstance(given, list | tuple) else make(given)
        )

    def _of_evaluation(self, dataset: Any) -> Any:
        fixed = {} if _sample_dataset(dataset) is None else {"sampler": _FirstEpoch(dataset)}
        return _loader_class(self.loader, False)(dataset, **self.options, **fixed)

    def _of_training(self, dataset: Any) -> Any:
        options = self._with_sampler(self.options | self.train_options, dataset)
        parts = {"dataset": dataset}
        for name in {"sampler", "batch_sampler"} & set(options):
            sampler = options[name]
            parts[name] = sampler if _is_made(sampler) else sampler(dataset)
            options[name] = _Shielded(parts[name]) if _knows_ranks(parts[name]) else parts[name]
        stateful = {name: part for name, part in parts.items() if _has_state(part)}
        made = _loader_class(self.loader, bool(stateful))(dataset, **options)
        if isinstance(options.get("batch_sampler"), _Shielded):
            # not drawn from: Lightning looks here for a sampler that distributes over ranks
            made.__dict__["sampler"] = options["batch_sampler"]
        made.before_epoch = self._begin_epoch
        self._training.append((made, stateful))
        self._restore(len(self._training) - 1)
        return made

    def _with_sampler(self, options: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """Drop contradicting options, and add a sampler or `shuffle` for a map-style dataset."""
        options = {
            name: value
            for name, value in options.items()
            if not (name.endswith("sampler") and value is None)
        }
        if "batch_sampler" in options:
            return {
                name: value
                for name, value in options.items()
                if name not in ("batch_size", "drop_last")
            }
        if "sampler" in options or isinstance(dataset, IterableDataset):
            return options
        shuffle = bool(options.pop("shuffle", True))
        # All ranks need the same number of rows; otherwise one would wait forever.
        if (inner := _sample_dataset(dataset)) is not None:
            made = RowSampler(
                dataset,
                seed=inner.policy.seed,
                shuffle="rows" if shuffle else False,
                uneven="pad",
            )
            return {**options, "sampler": made}
        return {**options, "shuffle": shuffle}

    def _begin_epoch(self, loader: Any) -> None:
        trainer = getattr(self, "trainer", None)
        if trainer is None:
            return
        batch_sampler = getattr(loader, "batch_sampler", None)
        parts = (
            loader.dataset,
            loader.sampler,
            batch_sampler,
            getattr(batch_sampler, "sampler", None),
        )
        targets = {id(target): target for target in (getattr(part, "own", part) for part in parts)}
        for target in targets.values():
            set_epoch: Any = getattr(target, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(int(trainer.current_epoch))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return `batch` in an order in which Lightning finds its size.

        `dataloader_idx` plays no part.
        """
        del dataloader_idx
        return tensors_last(batch) if type(batch) is dict else batch

    def train_dataloader(self) -> Any:
        """Return the loader of the training dataset, or a list of loaders."""
        self._training = []
        return self._loaders("train")

    def val_dataloader(self) -> Any:
        """Return the loader of the validation dataset, or a list of loaders."""
        return self._loaders("val")

    def test_dataloader(self) -> Any:
        """Return the loader of the test dataset, or a list of loaders."""
        return self._loaders("test")

    def predict_dataloader(self) -> Any:
        """Return the loader of the prediction dataset, or a list of loaders."""
        return self._loaders("predict")

    def state_dict(self) -> dict[str, Any]:
        """Return the states of training datasets and samplers that have one."""
        # a stateful loader collects them itself
        if hasattr(self.loader, "state_dict"):
            return {}
        return {
            f"{number}.{name}": _state_of(part, loader)
            for number, (loader, parts) in enumerate(self._training)
            for name, part in parts.items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the states in `state_dict`; may be called before the loaders exist."""
        self._loaded = dict(state_dict)
        for number in range(len(self._training)):
            self._restore(number)

    def _restore(self, number: int) -> None:
        for name, part in self._training[number][1].items():
            if f"{number}.{name}" in self._loaded:
                part.load_state_dict(self._loaded[f"{number}.{name}"])
        self._loaded = {
            key: value for key, value in self._loaded.items() if not key.startswith(f"{number}.")
        }


def _has_state(part: Any) -> bool:
    return all(
        callable(getattr(part, method, None)) for method in ("state_dict", "load_state_dict")
    )


def _loader_class(loader: type[Any], is_resumable: bool) -> type[Any]:
    mixin = _Resumable if is_resumable and not _has_state(loader) else _EpochAware
    return type(f"EpochAware{loader.__name__}", (mixin, loader), {})


if TYPE_CHECKING:
    DataModule = _Loaders


def __getattr__(name: str) -> Any:
    """Create `DataModule` at its first use, because its base class is optional."""
    if name != "DataModule":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The older name of the same package only where the newer one is not installed.
    is_new = importlib.util.find_spec("lightning") is not None
    is_old = importlib.util.find_spec("pytorch_lightning") is not None
    module = "pytorch_lightning" if is_old and not is_new else "lightning.pytorch"
    base = import_extra(module, "DataModule", "lightning").LightningDataModule
    made = type(
        name,
        (_Loaders, base),
        {"__module__": __name__, "__qualname__": name, "__doc__": _Loaders.__doc__},
    )
    globals()[name] = made
    return made
