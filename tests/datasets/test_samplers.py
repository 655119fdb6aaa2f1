"""Tests of samplers.

Every row comes once over all ranks, in an order of (seed, epoch) alone, and an interrupted epoch
continues with the same rows.
"""

import collections
import itertools
import json
import pickle
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from dicomdl.datasets._permutations import Shuffle, Uneven, permutation
from dicomdl.datasets.epochs import EpochRow
from dicomdl.datasets.samplers import RowBatchSampler, RowSampler, WithEpoch
from dicomdl.errors import UsageError

LENGTHS = [5, 0, 7, 3, 9, 1]


class Stacks:
    """A dataset whose samples are their row and epoch."""

    def __init__(self, lengths: list[int]) -> None:
        self.boundaries = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.rows = sum(lengths)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.tensor([int(row), getattr(row, "epoch", -1)])


def stateful_loader() -> Any:
    """Return torchdata's StatefulDataLoader, whose protocol our samplers and streams follow."""
    return pytest.importorskip(
        "torchdata.stateful_dataloader", reason="needs torchdata"
    ).StatefulDataLoader


def rows_of(batches: Any) -> list[list[int]]:
    return [batch[:, 0].tolist() for batch in batches]


# --- orders ---------------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    lengths=st.lists(st.integers(0, 30), max_size=12),
    seed=st.integers(0, 2**70),
    epoch=st.integers(0, 1000),
    world=st.integers(1, 5),
    shuffle=st.sampled_from(["rows", "stacks", False]),
    uneven=st.sampled_from(["keep", "drop", "pad"]),
)
@settings(max_examples=80)
def test_ranks_share_the_rows(
    lengths: list[int], seed: int, epoch: int, world: int, shuffle: Shuffle, uneven: Uneven
) -> None:
    dataset = Stacks(lengths)
    delivered = []
    for rank in range(world):
        sampler = RowSampler(
            dataset,
            seed=seed,
            shuffle=shuffle,
            window=8,
            uneven=uneven,
            rank=rank,
            world_size=world,
        )
        sampler.set_epoch(epoch)
        rows = list(sampler)
        assert len(rows) == len(sampler)
        delivered.append(rows)
    counts = collections.Counter(itertools.chain(*delivered))
    if uneven == "keep":
        assert counts == dict.fromkeys(range(len(dataset)), 1)
    else:
        assert len({len(rows) for rows in delivered}) == 1
    if uneven == "drop":
        assert set(counts.values()) <= {1} and len(dataset) - len(counts) < world
    if uneven == "pad" and len(dataset):
        assert (
            set(counts) == set(range(len(dataset))) and sum(counts.values()) - len(dataset) < world
        )


@pytest.mark.slow
def test_every_order_of_a_few_rows_is_equally_likely() -> None:
    counts = collections.Counter(
        tuple(permutation(4, seed, epoch, 0)) for seed in range(6) for epoch in range(400)
    )
    expected = 2400 / 24
    assert len(counts) == 24
    # chi-square, 23 degrees: p = 1e-5
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 65


def test_every_row_comes_everywhere_in_the_order() -> None:
    counts = np.zeros((16, 16))
    for epoch in range(1600):
        counts[np.arange(16), permutation(16, 7, epoch, 0)] += 1
    assert ((counts - 100) ** 2 / 100).sum() < 335  # 225 degrees of freedom: p = 1e-5


@pytest.mark.parametrize("shuffle", ["rows", "stacks"])
def test_orders_differ_between_epochs_and_seeds_and_are_the_same_again(shuffle: Shuffle) -> None:
    dataset = Stacks(LENGTHS)

    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = RowSampler(dataset, seed=seed, shuffle=shuffle)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    orders = [order(seed, epoch) for seed in (0, 1, 2**32, 2**64) for epoch in (0, 1, 2)]
    assert len(set(orders)) == len(orders)
    assert orders == [order(seed, epoch) for seed in (0, 1, 2**32, 2**64) for epoch in (0, 1, 2)]


def test_orders_stay_what_they_are_in_other_releases() -> None:
    # Recorded: a run must resume in the same order after an upgrade of dicomdl or NumPy.
    assert permutation(10, 0, 0, 0).tolist() == [7, 6, 8, 3, 2, 4, 1, 5, 0, 9]


def test_stacks_come_one_after_the_other_with_rows_shuffled_in_windows() -> None:
    dataset = Stacks([40] * 10)
    order = list(RowSampler(dataset, shuffle="stacks", window=40))
    stacks = [{row // 40 for row in order[k : k + 40]} for k in range(0, 400, 40)]
    assert all(len(window) == 1 for window in stacks) and len(set.union(*stacks)) == 10
    assert [next(iter(window)) for window in stacks] != list(range(10))
    assert any(order[k : k + 40] != sorted(order[k : k + 40]) for k in range(0, 400, 40))
    assert (
        len({row // 40 for row in list(RowSampler(dataset, shuffle="stacks", window=400))[:40]}) > 1
    )
    in_order = list(RowSampler(dataset, shuffle="stacks", window=1))
    assert all(in_order[k : k + 40] == sorted(in_order[k : k + 40]) for k in range(0, 400, 40))


def test_without_shuffling_rows_come_as_they_lie() -> None:
    assert list(RowSampler(7, shuffle=False)) == list(range(7))
    assert list(RowSampler(7, shuffle=False, rank=1, world_size=2)) == [1, 3, 5]


@pytest.mark.slow
def test_a_million_rows_are_no_python_list() -> None:
    tracemalloc.start()
    rows = iter(RowSampler(1_000_000))
    next(rows)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 10e6 and peak < 40e6


# --- epochs ---------------------------------------------------------------------------------------


def test_a_row_carries_its_epoch_and_is_otherwise_its_number() -> None:
    row = EpochRow(5, 3)
    assert (row, row.epoch, hash(row), str(row), row + 1) == (5, 3, hash(5), "5", 6)
    again = pickle.loads(pickle.dumps([row, EpochRow(6, 3)]))
    assert (
        again == [5, 6] and [type(item) for item in again] == [EpochRow] * 2 and again[1].epoch == 3
    )
    assert np.arange(10)[row] == 5 and isinstance(
        torch.utils.data.default_collate([row, row]), torch.Tensor
    )


def test_each_pass_is_the_next_epoch_unless_told() -> None:
    sampler = RowSampler(20)
    passes = [list(sampler) for _ in range(3)]
    assert [rows[0].epoch for rows in passes] == [0, 1, 2]  # type: ignore[attr-defined]
    sampler.set_epoch(1)
    assert list(sampler) == passes[1] and sampler.epoch == 1
    sampler.set_epoch(1)
    assert list(sampler) == passes[1]
    iter(sampler), iter(sampler)  # not drawn from
    assert list(sampler) != passes[1] and sampler.epoch == 2


@pytest.mark.slow
@pytest.mark.parametrize("batched", [False, True])
def test_epochs_reach_persistent_workers(batched: bool) -> None:
    dataset = Stacks(LENGTHS)
    sampler = RowSampler(dataset)
    options: dict[str, Any] = (
        {"batch_sampler": RowBatchSampler(sampler, 4)}
        if batched
        else {"sampler": sampler, "batch_size": 4}
    )
    loader = DataLoader(dataset, num_workers=2, persistent_workers=True, **options)  # type: ignore[arg-type]
    for epoch in (0, 5, 6):
        sampler.set_epoch(epoch)
        batches = list(loader)
        assert {int(e) for batch in batches for e in batch[:, 1]} == {epoch}
        assert list(itertools.chain(*rows_of(batches))) == sampler.order(epoch).tolist()


def test_samplers_of_torch_can_carry_the_epoch_too() -> None:
    dataset = Stacks(LENGTHS)
    delivered = []
    for rank in range(2):
        sampler = WithEpoch(DistributedSampler(dataset, num_replicas=2, rank=rank))  # type: ignore[arg-type, var-annotated]
        passes = [list(DataLoader(dataset, batch_size=4, sampler=sampler)) for _ in range(2)]  # type: ignore[arg-type]
        assert [{int(e) for batch in batches for e in batch[:, 1]} for batches in passes] == [
            {0},
            {1},
        ]
        assert rows_of(passes[0]) != rows_of(passes[1])
        sampler.set_epoch(0)
        assert rows_of(DataLoader(dataset, batch_size=4, sampler=sampler)) == rows_of(passes[0])  # type: ignore[arg-type]
        delivered += itertools.chain(*rows_of(passes[0]))
    assert set(delivered) == set(range(25))
    batches = WithEpoch(torch.utils.data.BatchSampler(range(5), 2, drop_last=False))
    assert [[row.epoch for row in batch] for batch in batches] == [[0, 0], [0, 0], [0]] and len(
        batches
    ) == 3


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    rows=st.integers(0, 60),
    world=st.integers(1, 4),
    size=st.integers(1, 6),
    done=st.integers(0, 20),
    drop_last=st.booleans(),
)
@settings(max_examples=100)
def test_all_ranks_have_as_many_batches_and_rows_come_once(
    rows: int, world: int, size: int, done: int, drop_last: bool
) -> None:
    made = [
        RowBatchSampler(RowSampler(rows, rank=rank, world_size=world), size, drop_last)
        for rank in range(world)
    ]
    batches = [list(batches) for batches in made]
    assert all(0 < len(batch) <= size for rank in batches for batch in rank)
    delivered = [row for rank in batches for batch in rank for row in batch]
    assert len(delivered) == len(set(delivered))
    assert len(delivered) == rows or (drop_last and rows - len(delivered) < world * size)
    if (size > 1 and rows >= world) or drop_last:
        assert [len(rank) for rank in batches] == [len(made[0])] * world
    # The state of rank 0 serves every rank.
    again = [
        RowBatchSampler(RowSampler(rows, rank=rank, world_size=world), size, drop_last)
        for rank in range(world)
    ]
    state = again[0].state_dict(batches_done=min(done, len(made[0])))
    for whole, resumed in zip(batches, again, strict=True):
        resumed.load_state_dict(state)
        assert list(resumed) == whole[done:]


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", ["rows", "stacks", False])
def test_a_pass_resumes_at_every_row_under_other_numbers_of_ranks(shuffle: Shuffle) -> None:
    dataset = Stacks(LENGTHS)

    def samplers(world: int) -> Iterator[RowSampler]:
        return (
            RowSampler(dataset, seed=3, shuffle=shuffle, rank=rank, world_size=world)
            for rank in range(world)
        )

    for done in range(13):
        first, *_ = samplers(2)
        first.set_epoch(4)
        iter(first)
        state = first.state_dict(samples_done=done)
        before = [row for sampler in samplers(2) for row in sampler.order(4)[:done].tolist()]
        for world in (1, 2, 3):
            rest = []
            for sampler in samplers(world):
                sampler.load_state_dict(state)
                sampler.set_epoch(4)  # as a training loop does: the position stays
                rest += list(sampler)
            assert sorted(before + rest) == list(range(25))


def loader_of(kind: str, dataset: Stacks, workers: int, loader: Any) -> tuple[Any, Any]:
    sampler = RowSampler(dataset, seed=1)
    if kind == "sampler":
        return sampler, loader(dataset, sampler=sampler, batch_size=4, num_workers=workers)
    if kind == "rows":
        return sampler, loader(
            dataset, sampler=sampler, batch_size=None, num_workers=workers, collate_fn=one_row
        )
    batches = RowBatchSampler(sampler, 4, drop_last=kind == "drop_last")
    return batches, loader(dataset, batch_sampler=batches, num_workers=workers)


def one_row(sample: torch.Tensor) -> torch.Tensor:
    return sample[None]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["sampler", "batches", "drop_last"])
def test_a_plain_loader_resumes_at_every_batch(kind: str, workers: int) -> None:
    dataset = Stacks(LENGTHS)
    sampler, loader = loader_of(kind, dataset, workers, DataLoader)
    sampler.set_epoch(2)
    whole = rows_of(loader)
    following = rows_of(loader)
    for done in range(len(whole) + 1):
        sampler.set_epoch(2)
        batches = iter(loader)
        for _ in range(done):
            next(batches)
        state = (
            sampler.state_dict(samples_done=4 * done)
            if kind == "sampler"
            else sampler.state_dict(batches_done=done)
        )
        del batches
        resumed, again = loader_of(
            kind, dataset, workers if done in (0, 3, len(whole)) else 0, DataLoader
        )
        resumed.load_state_dict(json.loads(json.dumps(state)))
        assert rows_of(again) == whole[done:]
        if done in (0, 3, len(whole)):
            assert rows_of(again) == following


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["sampler", "batches", "drop_last", "rows"])
def test_torchdata_resumes_at_every_batch(kind: str, workers: int) -> None:
    loader_class = stateful_loader()
    dataset = Stacks(LENGTHS)
    sampler, loader = loader_of(kind, dataset, workers, loader_class)
    sampler.set_epoch(2)
    whole, states = [], []
    for batch in loader:
        whole += rows_of([batch])
        states.append(loader.state_dict())
    states.append(loader.state_dict())  # the pass has ended
    following = rows_of(loader)
    assert following != whole
    for done, state in enumerate(
        states if kind != "rows" else states[-3:], 1 if kind != "rows" else len(states) - 2
    ):
        _, again = loader_of(kind, dataset, workers, loader_class)
        again.load_state_dict(state)
        if done <= len(whole):
            assert rows_of(again) == whole[done:]
        if done > len(whole) - 2:
            assert rows_of(again) == following


def test_a_resumed_pass_resumes_again() -> None:
    dataset = Stacks(LENGTHS)
    whole = list(RowBatchSampler(RowSampler(dataset), 4))
    state = RowBatchSampler(RowSampler(dataset), 4).state_dict()
    for batch in whole:
        sampler = RowBatchSampler(RowSampler(dataset), 4)
        sampler.load_state_dict(state)
        assert next(iter(sampler)) == batch
        state = sampler.state_dict(batches_done=1)


# --- wrong use ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": "row"},
        {"seed": -1},
        {"seed": 0.5},
        {"window": 0},
        {"uneven": True},
        {"rank": 1},
        {"rank": 2, "world_size": 2},
        {"source": -1},
        {"source": 5, "shuffle": "stacks"},
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        RowSampler(**{"source": Stacks(LENGTHS), **options})


@pytest.mark.parametrize(
    "boundaries", [[0, 5], [1, 25], [0, 9, 4, 25], [[0, 25]], [0.0, 25.0], []], ids=str
)
def test_boundaries_that_do_not_fit_are_refused(boundaries: Any) -> None:
    dataset = Stacks(LENGTHS)
    dataset.boundaries = np.array(boundaries)
    with pytest.raises(UsageError, match="boundaries"):
        RowSampler(dataset, shuffle="stacks")


def test_a_state_of_another_order_is_refused() -> None:
    state = RowSampler(20, seed=1).state_dict()
    for sampler in (RowSampler(20), RowSampler(21, seed=1), RowSampler(20, seed=1, shuffle=False)):
        with pytest.raises(UsageError, match="another order"):
            sampler.load_state_dict(state)
    for broken in (
        {},
        {**state, "position": -1},
        {**state, "epoch": "2"},
        {**state, "kind": "StackStream"},
        None,
    ):
        with pytest.raises(UsageError):
            RowSampler(20, seed=1).load_state_dict(broken)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="5 batches"):
        RowBatchSampler(RowSampler(20), 4).state_dict(batches_done=6)


def test_weights_whose_sum_no_float_holds_count_by_their_proportions() -> None:
    drawn = collections.Counter(RowSampler(8, weights=[1e308] * 4 + [0.0] * 4))
    assert drawn == {0: 2, 1: 2, 2: 2, 3: 2}


def test_the_number_of_rows_may_be_one_of_numpy() -> None:
    assert list(RowSampler(np.int64(5), seed=3)) == list(RowSampler(5, seed=3))  # type: ignore[arg-type]
