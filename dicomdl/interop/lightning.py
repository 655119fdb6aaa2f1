"""interop.lightning"""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from dicomdl.datasets.base import SampleDataset
from dicomdl.datasets.collate import collate
from dicomdl.datasets.samplers import RowSampler
from dicomdl.errors import UsageError
from dicomdl.interop.grid import optional_package


def collate_flat(samples: Sequence[Any]) -> Any:
    """Collate where a transform makes several samples of one (RandCropByPosNegLabeld).

    All become one batch.

    Sizes may differ, as for `dicomdl.collate`.
    """
    return collate(
        list(
            itertools.chain.from_iterable(
                one if isinstance(one, list) else [one] for one in samples
            )
        )
    )


class _TellsEpoch:
    """Mixed into a DataLoader class.

    Whoever draws for an epoch is told its number before it begins; batches given out are
    counted.
    """

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
        # Without a length Lightning fetches a batch ahead, and the count of those done
        # would be one too many.
        return int(super().__len__()) if count is None else int(count(self))  # type: ignore[misc]


class _Resumable(_TellsEpoch):
    """What Lightning takes for a loader that can go on in the middle of an epoch.

    The state itself is the DataModule's.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Nothing of its own."""


class _Shielded(DistributedSampler[Any]):
    """A sampler that knows ranks and epochs itself, in a form that Lightning leaves alone.

    Lightning would share out the share again (it asks for this very class), and it calls
    `set_epoch` after the pass has begun, which makes a sampler forget where it was resumed.
    """

    def __init__(self, own: Any) -> None:
        self.own = own

    def __iter__(self) -> Iterator[Any]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)

    def set_epoch(self, epoch: int) -> None:
        """Not Lightning's business: see `_Loaders._begin_epoch`."""

    def __getattr__(self, name: str) -> Any:
        if name in ("own", "sampler") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.own, name)


def _is_made(sampler: Any) -> bool:
    """Whether it is a sampler, not a function or class that makes one."""
    return hasattr(sampler, "__iter__") and not isinstance(sampler, type)


def _knows_ranks(sampler: Any) -> bool:
    """Whether a sampler, or one that it draws from, shares out over ranks."""
    return sampler is not None and (
        hasattr(sampler, "rank") or _knows_ranks(getattr(sampler, "sampler", None))
    )


def _state_of(part: Any, loader: Any) -> Any:
    """The state of a part, which draws ahead of what is delivered.

    It is told how much was, if it can be.
    """
    told = {
        "loader": loader,
        "batches_done": loader.batches_done,
        "samples_done": loader.batches_done * (loader.batch_size or 1),
    }
    known = inspect.signature(part.state_dict).parameters
    return part.state_dict(**{name: value for name, value in told.items() if name in known})


class _Loaders:
    """Train, validation, test and prediction datasets as a LightningDataModule.

    Needs the extra `lightning`.

    Parameters
    ----------
    train, val, test, predict
        Datasets, or a list of them; any may be None.
    train_options
        Options of the training DataLoader alone, over `options`: `sampler`, `batch_sampler`,
        `shuffle`, `drop_last`, ... A sampler may be a function of the dataset, called when ranks
        are known, such as ``lambda dataset: RowBatchSampler(RowSampler(dataset), 8)``. By default
        datasets of dicomdl get a RowSampler with their own seed, so that their workers know the
        epoch, and others are shuffled by torch.
    loader
        The class of loaders: DataLoader or torchdata's StatefulDataLoader, whose state Lightning
        keeps in its checkpoints.
    **options
        Options of every DataLoader: `batch_size`, `num_workers`, `collate_fn`, ...

    Notes
    -----
    Before each epoch of training, `set_epoch` is called on the dataset, the sampler and the batch sampler, if they have it; validation
    draws the same every time. With several ranks Lightning shares out the samples itself, but not those of a sampler with a `rank`, which
    does so already. A checkpoint has the `state_dict` of what of them has one, so that training goes on in the middle of an epoch.

    Raises
    ------
    MissingExtra, UsageError
        Without Lightning; for options that cannot serve every dataset.
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
        # each loader, and whose state it advances
        self._training: list[tuple[Any, dict[str, Any]]] = []
        of_one = {"dataset", "sampler", "batch_sampler", "shuffle"} & set(options)
        if of_one:
            raise UsageError(
                f"{', '.join(sorted(of_one))}: expected in train_options, for it cannot serve every dataset"
            )
        given = [self.train_options.get(name) for name in ("sampler", "batch_sampler")]
        if (
            isinstance(train, list | tuple)
            and len(train) > 1
            and any(_is_made(sampler) for sampler in given)
        ):
            raise UsageError(
                "one sampler serves one training dataset: give a function of the dataset that makes it"
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
        return _loader_class(self.loader, False)(dataset, **self.options)

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
            # not drawn from; where Lightning looks for who shares out
            made.__dict__["sampler"] = options["batch_sampler"]
        made.before_epoch = self._begin_epoch
        self._training.append((made, stateful))
        self._give_back(len(self._training) - 1)
        return made

    def _with_sampler(self, options: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """Options without what contradicts, and with a sampler or `shuffle` where a dataset has numbers."""
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
        # all ranks have equally many rows, or one would wait for ever
        if isinstance(dataset, SampleDataset):
            made = RowSampler(
                dataset,
                seed=dataset.policy.seed,
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
        found = (
            loader.dataset,
            loader.sampler,
            batch_sampler,
            getattr(batch_sampler, "sampler", None),
        )
        targets = {
            id(target): target for target in (getattr(target, "own", target) for target in found)
        }
        for target in targets.values():
            set_epoch: Any = getattr(target, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(int(trainer.current_epoch))

    def train_dataloader(self) -> Any:
        """A loader of the training dataset, or a list."""
        self._training = []
        return self._loaders("train")

    def val_dataloader(self) -> Any:
        """A loader of the validation dataset, or a list."""
        return self._loaders("val")

    def test_dataloader(self) -> Any:
        """A loader of the test dataset, or a list."""
        return self._loaders("test")

    def predict_dataloader(self) -> Any:
        """A loader of the dataset to predict, or a list."""
        return self._loaders("predict")

    def state_dict(self) -> dict[str, Any]:
        """The states of the samplers, batch samplers and datasets of training, of those that have one."""
        if hasattr(self.loader, "state_dict"):  # a stateful loader asks them itself
            return {}
        return {
            f"{number}.{name}": _state_of(part, loader)
            for number, (loader, parts) in enumerate(self._training)
            for name, part in parts.items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Give back what `state_dict` gave, also before the loaders are made."""
        self._loaded = dict(state_dict)
        for number in range(len(self._training)):
            self._give_back(number)

    def _give_back(self, number: int) -> None:
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
    mixin = _Resumable if is_resumable and not _has_state(loader) else _TellsEpoch
    return type(f"{loader.__name__}ToldTheEpoch", (mixin, loader), {})


def __getattr__(name: str) -> Any:
    """`DataModule` is made when first asked for, because its base is optional."""
    if name != "DataModule":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        base = optional_package("lightning.pytorch", "DataModule", "lightning").LightningDataModule
    except Exception:
        # the same under its older name
        base = optional_package("pytorch_lightning", "DataModule", "lightning").LightningDataModule
    made = type(
        name,
        (_Loaders, base),
        {"__module__": __name__, "__qualname__": name, "__doc__": _Loaders.__doc__},
    )
    globals()[name] = made
    return made
