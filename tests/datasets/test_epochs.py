"""Tests of epochs and chance.

A sample with chance depends on (seed, epoch, row) where its row carries its epoch, also through
wrappers of the dataset. Otherwise a loader gives other samples in every pass, and the same again
under `torch.manual_seed`. A dataset without chance is always the same.
"""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NewFolder, index_of
from phantoms import write_series
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, random_split
from torch.utils.data.distributed import DistributedSampler

import dicomdl
from dicomdl.datasets.epochs import EpochRow, SharedEpoch, keep_epochs

PER_STACK = 8
Places = list[tuple[int, ...]]
# Loaders with workers per pass, and with workers that persist.
FORKED: list[dict[str, Any]] = [
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
]
# One way of a loader with workers is quick enough for the quick half.
PROCESSES: list[Any] = [{}, FORKED[1], pytest.param(FORKED[0], marks=pytest.mark.slow)]
SPAWNED: dict[str, Any] = {
    "num_workers": 1,
    "persistent_workers": True,
    "multiprocessing_context": "spawn",
}


@pytest.fixture(scope="module")
def stacks(new_folder: NewFolder) -> dicomdl.Index:
    """Two stacks."""
    folder = new_folder()
    for seed in range(2):
        write_series(folder / str(seed), shape=(6, 60, 70), seed=seed, patient_id=f"P{seed}")
    return index_of(folder)


@pytest.fixture
def patches(stacks: dicomdl.Index) -> dicomdl.PatchDataset:
    """16 patches of two stacks, each at one of thousands of positions."""
    return dicomdl.PatchDataset(
        stacks, (2, 5, 6), per_stack=PER_STACK, seed=7, intensity="modality"
    )


class Looked(Dataset[Any]):
    """A wrapper of a user, which looks rows up in an array and so loses their epoch."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.inner = dataset
        self.order = np.arange(12)[::-1]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, row: int) -> Any:
        return self.inner[self.order[row]]


def repeated(dataset: Any) -> Dataset[Any]:
    """Return the dataset twice, behind one wrapper in another."""
    return ConcatDataset([Subset(dataset, range(16)), dataset])


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda dataset: dataset,
    "list": lambda dataset: Subset(dataset, [3, 1, 8, 12, 15, 0]),
    "range": lambda dataset: Subset(dataset, range(2, 14)),
    "array": lambda dataset: Subset(dataset, np.arange(9)),  # type: ignore[arg-type]
    "tensor": lambda dataset: Subset(dataset, torch.arange(9)),  # type: ignore[arg-type]
    "nested": lambda dataset: Subset(Subset(dataset, range(1, 15)), [5, 3, 2]),
    "split": lambda dataset: random_split(dataset, [0.5, 0.5])[1],
    "joined": repeated,
}


def drawn(loader: Any) -> Places:
    """Return (row, location) of every sample, in order."""
    return [
        (row, *place)
        for batch in loader
        for row, place in zip(batch["row"].tolist(), batch["location"].tolist(), strict=True)
    ]


def other(one: Places, two: Places) -> bool:
    """Whether two passes have the same rows, and at most one patch at the same location."""
    assert sorted(place[0] for place in one) == sorted(place[0] for place in two)
    return len(set(one) & set(two)) <= 1


def passes(dataset: Any, count: int = 3, **options: Any) -> list[Places]:
    """Return the passes of a new loader, seeded as a script seeds torch."""
    torch.manual_seed(5)
    loader = DataLoader(dataset, batch_size=4, **options)
    return [drawn(loader) for _ in range(count)]


# --- rows without an epoch ------------------------------------------------------------------------


@pytest.mark.quick(4)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_plain_loader_draws_anew_in_every_pass(
    patches: dicomdl.PatchDataset, wrapper: str
) -> None:
    dataset = WRAPPERS[wrapper](patches)
    first, second, third = passes(dataset, shuffle=True)
    assert other(first, second) and other(second, third) and other(first, third)
    assert passes(dataset, shuffle=True) == [first, second, third]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrapper", "options"),
    [
        *((wrapper, options) for wrapper in ("plain", "list", "joined") for options in FORKED),
        ("joined", SPAWNED),
    ],
    ids=str,
)
def test_workers_draw_anew_in_every_pass(
    patches: dicomdl.PatchDataset, wrapper: str, options: dict[str, Any]
) -> None:
    dataset = WRAPPERS[wrapper](patches)
    first, second = passes(dataset, 2, shuffle=True, **options)
    assert other(first, second)
    # Workers that the system starts in its own way: an interpreter takes seconds to start.
    options = {**options, "multiprocessing_context": None}
    assert passes(dataset, 2, shuffle=True, **options) == [first, second]


@pytest.mark.slow
@pytest.mark.parametrize("options", PROCESSES, ids=str)
def test_the_sampler_of_torch_for_ranks_draws_anew_in_every_epoch(
    patches: dicomdl.PatchDataset, options: dict[str, Any]
) -> None:
    epochs: list[Places] = [[], []]
    for rank in range(2):
        sampler: Any = DistributedSampler(patches, num_replicas=2, rank=rank)
        torch.manual_seed(0)
        loader = DataLoader(patches, batch_size=4, sampler=sampler, **options)
        for epoch in range(2):
            sampler.set_epoch(epoch)
            epochs[epoch] += drawn(loader)
    assert other(*epochs) and len({place[1:] for place in epochs[0]}) > PER_STACK


@pytest.mark.parametrize("batched", [True, False])
def test_one_row_asked_for_twice_in_a_pass_is_drawn_twice(
    patches: dicomdl.PatchDataset, batched: bool
) -> None:
    many: Any = patches if batched else torch.utils.data.ConcatDataset([patches])
    for batch_size in (4, None):
        loader = DataLoader(many, batch_size=batch_size, sampler=[3] * 8)
        assert len(set(drawn(loader) if batch_size else drawn_alone(loader))) > 5


def drawn_alone(loader: Any) -> list[tuple[int, ...]]:
    return [tuple(sample["location"].tolist()) for sample in loader]


def test_a_row_without_a_loader_is_that_of_epoch_0_always(patches: dicomdl.PatchDataset) -> None:
    state = torch.get_rng_state()
    places = {tuple(patches[3]["location"].tolist()) for _ in range(4)}
    places |= {tuple(one["location"].tolist()) for one in patches.__getitems__([3] * 4)}
    fixed = dicomdl.PatchDataset(patches.index, (2, 5, 6), per_stack=PER_STACK, seed=7)
    fixed.set_epoch(0)
    assert len(places) == 1 and torch.equal(state, torch.get_rng_state())
    patches.set_epoch(0)
    assert places == {tuple(patches[3]["location"].tolist())}


def test_the_seed_of_a_dataset_counts_beside_that_of_torch(patches: dicomdl.PatchDataset) -> None:
    same = dicomdl.PatchDataset(patches.index, (2, 5, 6), per_stack=PER_STACK, seed=8)
    assert other(*passes(patches, 1), *passes(same, 1))


@pytest.mark.parametrize("kind", ["grid", "points", "frames", "volumes"])
def test_a_dataset_without_chance_is_always_the_same(
    patches: dicomdl.PatchDataset, kind: str
) -> None:
    index = patches.index
    series = index.stacks[0].series_instance_uid
    made: dict[str, Callable[[], Any]] = {
        "grid": lambda: dicomdl.PatchDataset(index, (6, 40, 40), sampler="grid"),
        "points": lambda: dicomdl.PatchDataset(
            index, (2, 5, 6), sampler=dicomdl.Centers([(series, 0.0, 0.0, 0.0)])
        ),
        "frames": lambda: dicomdl.FrameDataset(index),
        "volumes": lambda: dicomdl.VolumeDataset(index),
    }
    dataset = made[kind]()
    before = torch.get_rng_state()
    first, second = ([dataset[row] for row in range(len(dataset))] for _ in range(2))
    for one, same in zip(first, second, strict=True):
        assert one.keys() == same.keys() and one["epoch"] == -1
        assert torch.equal(one["image"], same["image"])
        assert torch.equal(one["affine"], same["affine"])
    # Neither does it take part in the chance of others.
    assert torch.equal(torch.get_rng_state(), before)


def test_points_with_jitter_are_drawn_anew(patches: dicomdl.PatchDataset) -> None:
    stack = patches.index.stacks[0]
    middle = (stack.affine @ [3, 30, 35, 1])[:3].tolist()
    centers = dicomdl.Centers([(stack.series_instance_uid, *middle)], jitter=20)
    dataset = dicomdl.PatchDataset(patches.index, (2, 5, 6), sampler=centers)
    assert len({drawn(DataLoader(dataset))[0] for _ in range(6)}) > 3


class Own:
    """A sampler of a user, of two methods."""

    def count(self, shape: Any, size: Any, per_stack: int) -> int:
        return per_stack

    def start(self, view: Any, size: Any, number: int, generator: np.random.Generator) -> Any:
        z, y, x = (int(generator.integers(n)) for n in view.shape)
        return z, y, x


def test_a_sampler_of_a_user_is_drawn_anew(patches: dicomdl.PatchDataset) -> None:
    dataset = dicomdl.PatchDataset(patches.index, (2, 5, 6), sampler=Own())
    assert other(*passes(dataset, 2))


@pytest.mark.slow
@pytest.mark.parametrize("options", PROCESSES, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_a_stream_draws_anew_until_its_epoch_is_set(
    patches: dicomdl.PatchDataset, options: dict[str, Any]
) -> None:
    def stream() -> dicomdl.StackStream:
        return dicomdl.StackStream(patches, shuffle_buffer=4, read_ahead=3)

    first, second = passes(stream(), 2, **options)
    assert other(first, second) and passes(stream(), 2, **options) == [first, second]
    fixed = stream()
    loader = DataLoader(fixed, batch_size=4, **options)
    assert other(*by_epoch(loader, fixed, (2, 3)))
    expected = [(row, *patches[EpochRow(row, 2)]["location"].tolist()) for row in range(16)]
    assert by_epoch(loader, fixed, (2,)) == [expected]
    # A state says whether the epoch was set.
    for source, is_set in ((fixed, True), (stream(), False)):
        resumed = stream()
        resumed.load_state_dict(source.state_dict())
        again = DataLoader(resumed, batch_size=4)
        assert (sorted(drawn(again)) == sorted(drawn(again))) == is_set


# --- rows with an epoch ---------------------------------------------------------------------------


def samplers(dataset: Any) -> Iterator[Any]:
    """Yield the samplers that give rows an epoch."""
    yield dicomdl.RowSampler(dataset, seed=1)
    yield dicomdl.WithEpoch(DistributedSampler(dataset, num_replicas=1, rank=0))  # type: ignore[arg-type]
    yield dicomdl.WithEpoch(torch.utils.data.SequentialSampler(dataset))


def by_epoch(loader: Any, sampler: Any, epochs: tuple[int, ...] = (0, 1, 0)) -> list[Places]:
    """Return the samples of some epochs, ordered by row and location."""
    found = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        found.append(sorted(drawn(loader)))
    return found


@pytest.mark.quick(4)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_epoch_of_a_row_passes_through_wrappers(
    patches: dicomdl.PatchDataset, wrapper: str
) -> None:
    dataset = WRAPPERS[wrapper](patches)
    expected = {
        (row, *patches[EpochRow(row, epoch)]["location"].tolist())
        for row in range(16)
        for epoch in (0, 1)
    }
    for sampler in samplers(dataset):
        loader = DataLoader(dataset, batch_size=4, sampler=sampler)
        first, second, again = by_epoch(loader, sampler)
        assert first == again and other(first, second) and {*first, *second} <= expected
        assert len(first) == len(dataset)
    batches = dicomdl.RowBatchSampler(dicomdl.RowSampler(dataset), 3)
    assert by_epoch(DataLoader(dataset, batch_sampler=batches), batches) == [first, second, again]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrapper", "options"),
    [*((wrapper, FORKED[1]) for wrapper in WRAPPERS), ("joined", SPAWNED)],
    ids=str,
)
def test_workers_give_the_samples_that_one_process_gives(
    patches: dicomdl.PatchDataset, wrapper: str, options: dict[str, Any]
) -> None:
    dataset = WRAPPERS[wrapper](patches)
    sampler = dicomdl.RowSampler(dataset, seed=1)
    alone = by_epoch(DataLoader(dataset, batch_size=4, sampler=sampler), sampler)
    loader = DataLoader(dataset, batch_size=4, sampler=sampler, **options)
    assert by_epoch(loader, sampler) == alone


@pytest.mark.slow
def test_workers_know_the_epoch_that_a_wrapper_of_a_user_loses(
    patches: dicomdl.PatchDataset,
) -> None:
    dataset = Looked(patches)
    sampler = dicomdl.RowSampler(dataset, seed=1)
    loader = DataLoader(dataset, batch_size=4, sampler=sampler, **FORKED[1])
    first, second, again = by_epoch(loader, sampler)
    assert first == again and other(first, second)
    assert first == [(row, *patches[EpochRow(row, 0)]["location"].tolist()) for row in range(12)]
    # Without workers such samples are drawn anew.
    alone = DataLoader(dataset, batch_size=4, sampler=sampler)
    first, second, again = by_epoch(alone, sampler)
    assert other(first, second) and other(first, again)


def test_a_plain_loader_beside_a_sampler_still_draws_anew(patches: dicomdl.PatchDataset) -> None:
    train, val = random_split(patches, [0.5, 0.5])
    sampler = dicomdl.RowSampler(train)
    sampler.set_epoch(3)
    drawn(DataLoader(train, batch_size=3, sampler=sampler, drop_last=True))
    list(sampler)
    assert other(*passes(val, 2)) and other(*passes(train, 2)) and other(*passes(patches, 2))


def test_a_subset_is_what_it_was_beside_the_epoch() -> None:
    rows: list[Any] = [[4, 2, 9], range(3, 9), np.array([4, 2, 9]), torch.tensor([4, 2, 9])]
    for indices in rows:
        subset = Subset([10 * number for number in range(10)], indices)  # type: ignore[var-annotated, arg-type]
        for _ in range(2):
            keep_epochs(subset)
        kept: Any = subset.indices
        assert len(kept) == len(indices) and list(kept) == list(indices)
        assert np.asarray(kept).tolist() == list(indices)
        assert bool(
            (kept == indices) if isinstance(indices, list | range) else all(kept == indices)
        )
        assert repr(kept) == repr(indices)
        assert list(kept[1:]) == list(indices[1:])
        assert type(kept[1]) is type(indices[1]) and kept[EpochRow(1, 4)].epoch == 4
        again = pickle.loads(pickle.dumps(subset))
        assert list(again.indices) == list(indices) and again.indices[EpochRow(0, 2)].epoch == 2
    assert Subset(range(10), kept).indices.tolist() == [4, 2, 9]  # type: ignore[attr-defined, var-annotated, arg-type]


def test_keys_that_are_no_integers_pass_through_a_subset() -> None:
    subset = Subset({"a": 1, "b": 2}, ["b", "a"])  # type: ignore[var-annotated, arg-type, list-item]
    keep_epochs(subset)
    assert subset[EpochRow(0, 3)] == 2


def test_arithmetic_keeps_the_epoch() -> None:
    row = EpochRow(17, 3)
    results = [row + 1, 1 + row, row - 5, row // 4, row % 4, *divmod(row, 5)]
    assert results == [18, 18, 12, 4, 1, 3, 2]
    assert {result.epoch for result in results} == {3}  # type: ignore[attr-defined]
    assert (row + 0.5, row - 0.5) == (17.5, 16.5)


# --- set_epoch ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [*PROCESSES, pytest.param(SPAWNED, marks=pytest.mark.slow)],
    ids=str,
)
def test_the_epoch_of_a_dataset_reaches_every_worker(
    patches: dicomdl.PatchDataset, options: dict[str, Any]
) -> None:
    loader = DataLoader(Subset(patches, range(12)), batch_size=4, **options)
    free = drawn(loader)
    found = by_epoch(loader, patches, (2, 3, 2))
    assert found[0] == found[2] and other(found[0], found[1]) and other(free, found[0])
    assert found[0] == [(row, *patches[EpochRow(row, 2)]["location"].tolist()) for row in range(12)]
    assert {int(epoch) for batch in loader for epoch in batch["epoch"]} == {2}


def test_a_copy_has_an_epoch_of_its_own(patches: dicomdl.PatchDataset) -> None:
    assert patches.epoch is None
    patches.set_epoch(4)
    copies = [copy.copy(patches), copy.deepcopy(patches), pickle.loads(pickle.dumps(patches))]
    for one in copies:
        assert one.epoch == 4
        one.set_epoch(5)
        assert (one.epoch, patches.epoch) == (5, 4)


def test_a_process_that_sets_the_epoch_leaves_that_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epoch = SharedEpoch(1)
    # As in a rank, which inherits the memory of the process that started it.
    monkeypatch.setattr(epoch, "_owner", -1)
    inherited = epoch._memory
    assert epoch.value == 1
    epoch.set(2)
    assert epoch.value == 2 and inherited[0] == 1


def test_numbers_of_numpy_are_those_of_python(stacks: dicomdl.Index) -> None:
    plain = dicomdl.PatchDataset(stacks, 3, per_stack=2, seed=7, spacing=2.0)
    numpy: dict[str, Any] = {"per_stack": np.int64(2), "seed": np.uint8(7)}
    same = dicomdl.PatchDataset(stacks, np.int64(3), spacing=np.float32(2), **numpy)  # type: ignore[arg-type]
    plain.set_epoch(5)
    same.set_epoch(np.int64(5))  # type: ignore[arg-type]
    assert len(plain) == len(same) == 4 and repr(plain) == repr(same)
    for row in range(4):
        assert torch.equal(plain[row]["location"], same[row]["location"])
        assert torch.equal(plain[row]["image"], same[row]["image"])
    frames = dicomdl.FrameDataset(stacks, neighbours=np.int64(1), size=np.int64(8))  # type: ignore[arg-type]
    assert frames[0]["image"].shape == (3, 8, 8)


@pytest.mark.parametrize("epoch", [True, 1.0, -1, "1"])
def test_an_epoch_that_is_no_whole_number_is_refused(
    patches: dicomdl.PatchDataset, epoch: Any
) -> None:
    with pytest.raises(dicomdl.errors.UsageError, match="epoch="):
        patches.set_epoch(epoch)
