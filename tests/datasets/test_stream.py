"""Tests of streams.

Every sample comes once over ranks and workers, an interrupted epoch continues with the same
samples, and every error is raised.
"""

import gc
import itertools
import json
import multiprocessing
import os
import pickle
import re
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dicomdl.datasets._permutations import Uneven
from dicomdl.datasets.samplers import RowBatchSampler, RowSampler
from dicomdl.datasets.stream import StackStream
from dicomdl.errors import DecodeError, UsageError

LENGTHS = [5, 0, 7, 3, 9, 1]
POISON = (StopIteration, ValueError, MemoryError, KeyError, BaseException, DecodeError)


class Stacks:
    """A dataset whose samples are their row and epoch; rows in `poison` raise."""

    def __init__(
        self, lengths: list[int], poison: dict[int, type[BaseException]] | None = None
    ) -> None:
        self.boundaries = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.poison = poison or {}

    def __len__(self) -> int:
        return int(self.boundaries[-1])

    def __getitem__(self, row: int) -> torch.Tensor:
        if row in self.poison:
            raise self.poison[row](f"row {int(row)}")
        return torch.tensor([int(row), getattr(row, "epoch", -1)])


class Batched(Stacks):
    """A dataset that reads rows together, and skips unreadable ones."""

    def __getitems__(self, rows: list[int]) -> list[torch.Tensor]:
        return [self[row] for row in rows if row not in self.poison]


class Strict(Stacks):
    """A dataset that reads rows together, and fails together."""

    def __getitems__(self, rows: list[int]) -> list[torch.Tensor]:
        return [self[row] for row in rows]


class Counting(Stacks):
    """A dataset that counts its living samples."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__(lengths)
        self.alive = self.most = 0
        self.read: list[int] = []

    def __getitem__(self, row: int) -> Any:
        self.read.append(int(row))
        return Counted(self)


class Counted:
    def __init__(self, of: Counting) -> None:
        self.of = of
        of.alive += 1
        of.most = max(of.most, of.alive)

    def __del__(self) -> None:
        self.of.alive -= 1


def stateful_loader() -> Any:
    """Return torchdata's StatefulDataLoader, whose protocol our samplers and streams follow."""
    return pytest.importorskip(
        "torchdata.stateful_dataloader", reason="needs torchdata"
    ).StatefulDataLoader


def rows_of(batches: Any) -> list[list[int]]:
    return [batch[:, 0].tolist() for batch in batches]


def flat(batches: Any) -> list[int]:
    return list(itertools.chain(*rows_of(batches)))


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dicomdl-stream"]


def no_thread_is_left() -> bool:
    gc.collect()
    for thread in threads():
        thread.join(60)
    return not threads()


# --- which samples --------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    lengths=st.lists(st.integers(0, 30), max_size=10),
    seed=st.integers(0, 2**40),
    world=st.integers(1, 3),
    workers=st.integers(1, 4),
    buffer=st.integers(0, 20),
    uneven=st.sampled_from(["keep", "drop", "pad"]),
    shuffle=st.booleans(),
)
@settings(max_examples=60)
def test_shares_cover_the_rows(
    lengths: list[int],
    seed: int,
    world: int,
    workers: int,
    buffer: int,
    uneven: Uneven,
    shuffle: bool,
) -> None:
    dataset = Stacks(lengths)
    shares = []
    for rank in range(world):
        stream = StackStream(
            dataset,
            shuffle=shuffle,
            shuffle_buffer=buffer,
            seed=seed,
            uneven=uneven,
            rank=rank,
            world_size=world,
        )
        for worker in range(workers):
            share = stream._share(5, worker, workers)
            shares.append(share.rows(range(share.ends[-1] if len(share.ends) else 0)))
    delivered = list(itertools.chain(*shares))
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= (uneven == "keep")
    if uneven == "keep":
        assert sorted(delivered) == list(range(len(dataset)))
    elif uneven == "drop":
        assert len(set(delivered)) == len(delivered) > len(dataset) - world * workers
    else:
        assert (
            set(delivered) == set(range(len(dataset)))
            and len(delivered) < len(dataset) + world * workers
        )
    if not shuffle and uneven == "keep":
        assert delivered == sorted(delivered)


@pytest.mark.parametrize("read_ahead", [0, 1, 7, 100])
@pytest.mark.parametrize("buffer", [1, 4, 1000])
def test_each_sample_comes_once_whatever_is_read_ahead(buffer: int, read_ahead: int) -> None:
    made = [
        StackStream(kind(LENGTHS), shuffle_buffer=buffer, read_ahead=read_ahead)
        for kind in (Stacks, Batched)
    ]
    orders = [[int(sample[0]) for sample in stream] for stream in made]
    assert sorted(orders[0]) == list(range(25)) and orders[0] == orders[1]
    assert orders[0] == [
        int(sample[0]) for sample in StackStream(Stacks(LENGTHS), shuffle_buffer=buffer)
    ]


def test_samples_come_stack_by_stack_mixed_by_the_buffer() -> None:
    dataset = Stacks([50] * 8)
    in_order = flat([torch.stack(list(StackStream(dataset, shuffle_buffer=1)))])
    assert [row // 50 for row in in_order] == [
        row // 50 for row in in_order[::50] for _ in range(50)
    ]
    assert all(in_order[k : k + 50] == sorted(in_order[k : k + 50]) for k in range(0, 400, 50))
    mixed = flat([torch.stack(list(StackStream(dataset, shuffle_buffer=60)))])
    assert len({row // 50 for row in mixed[:40]}) > 1
    place = {row: k for k, row in enumerate(in_order)}
    # never more than the buffer ahead
    assert all(place[row] < k + 60 for k, row in enumerate(mixed))
    assert flat([torch.stack(list(StackStream(dataset, shuffle=False)))]) == list(range(400))


def test_where_stacks_are_single_rows_they_are_shuffled_without_a_buffer() -> None:
    dataset = Counting([1] * 50)
    samples = iter(StackStream(dataset, shuffle_buffer=40, read_ahead=0))
    del samples, dataset.read[:]
    for _ in StackStream(dataset, shuffle_buffer=40, read_ahead=0):
        pass
    assert dataset.most <= 2 and sorted(dataset.read) == list(range(50)) != dataset.read


def test_orders_differ_between_epochs_and_seeds_and_are_the_same_again() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        stream = StackStream(Stacks(LENGTHS), seed=seed, shuffle_buffer=5)
        stream.set_epoch(epoch)
        samples = list(stream)
        assert {int(sample[1]) for sample in samples} == {epoch}
        return tuple(int(sample[0]) for sample in samples)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6
    assert orders == [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]


@pytest.mark.slow
def test_an_empty_dataset_is_an_empty_pass() -> None:
    for lengths in ([], [0, 0]):
        stream = StackStream(Stacks(lengths))
        assert list(stream) == [] and list(DataLoader(stream, num_workers=2)) == []


# --- workers --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_epochs_reach_persistent_workers_of_every_start_method() -> None:
    expected: dict[int, Any] = {}
    for method in ("fork", "forkserver"):
        stream = StackStream(Stacks(LENGTHS), shuffle_buffer=4)
        loader = DataLoader(
            stream,
            batch_size=4,
            num_workers=2,
            multiprocessing_context=method,
            persistent_workers=True,
        )
        for epoch in (0, 7, 3):
            stream.set_epoch(epoch)
            batches = list(loader)
            assert sorted(flat(batches)) == list(range(25))
            assert {int(e) for batch in batches for e in batch[:, 1]} == {epoch}
            assert rows_of(batches) == expected.setdefault(epoch, rows_of(batches))
            assert len(batches) == stream.number_of_batches(loader)
        del loader
    assert len({str(batches) for batches in expected.values()}) == 3


def test_a_pass_without_set_epoch_is_the_same_again_and_says_so() -> None:
    stream = StackStream(Stacks(LENGTHS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = [int(sample[0]) for sample in stream]
        (
            list(StackStream(Stacks(LENGTHS), shuffle=False)),
            list(StackStream(Stacks(LENGTHS), shuffle=False)),
        )
        stream.set_epoch(0)
        assert [int(sample[0]) for sample in stream] == first
    with pytest.warns(UserWarning, match="set_epoch"):
        assert [int(sample[0]) for sample in stream] == first


def train_rank(rank: int, port: int, folder: str) -> None:
    """Run one of two ranks: a pass over a stream, then DistributedDataParallel over a sampler."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    dataset, options = Stacks(LENGTHS), {"num_workers": 2, "multiprocessing_context": "fork"}
    delivered: dict[str, Any] = {
        "stream": flat(DataLoader(StackStream(dataset, shuffle_buffer=4), batch_size=3, **options))
    }  # type: ignore[arg-type]
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
    # With 13 and 12 rows, batches of 4 would be 4 on one rank and 3 on the other.
    for size in (
        3,
        4,
        6,
    ):
        seen = []
        for batch in DataLoader(
            dataset, batch_sampler=RowBatchSampler(RowSampler(dataset), size), **options
        ):  # type: ignore[arg-type]
            model(batch.float()).sum().backward()  # waits for the other rank
            seen += batch[:, 0].tolist()
        delivered[f"batches of {size}"] = seen
    delivered["weight"] = model.module.weight.grad.tolist()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(delivered))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_two_workers_deliver_each_sample_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")  # 5 times quicker to start than spawn
    processes = [
        context.Process(target=train_rank, args=(rank, port, str(tmp_path))) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    stuck = [process.kill() for process in processes if process.is_alive()]
    assert not stuck and [process.exitcode for process in processes] == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first.pop("weight") == second.pop("weight")
    for name in first:
        assert sorted(first[name] + second[name]) == list(range(25)), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FrameDataset", "VolumeDataset"])
def test_datasets_of_dicom_files_are_streamed_and_sampled(kind: str, tmp_path: Path) -> None:
    from phantoms import write_series

    # Spawned workers of other tests import this file, and need no dicomdl.
    import dicomdl

    for patient, slices in (("A", 6), ("B", 4), ("C", 5)):
        write_series(tmp_path / "dicom" / patient, shape=(slices, 8, 8), patient_id=patient)
    dataset = getattr(dicomdl, kind)(
        dicomdl.scan(tmp_path / "dicom", tmp_path / "index", progress=False), intensity="modality"
    )
    if not hasattr(dataset, "boundaries"):
        by_stack = [
            len(list(rows))
            for _, rows in itertools.groupby(
                dataset[row]["series_instance_uid"] for row in range(len(dataset))
            )
        ]
        dataset.boundaries = np.concatenate([[0], np.cumsum(by_stack)])
    stream = StackStream(dataset, shuffle_buffer=3, read_ahead=6)
    sampler = RowSampler(dataset, shuffle="stacks")
    for epoch in range(2):
        stream.set_epoch(epoch)
        passes = [
            DataLoader(stream, batch_size=None, num_workers=2),
            DataLoader(dataset, batch_size=None, sampler=sampler),
        ]
        for samples in map(list, passes):
            assert sorted(int(sample["row"]) for sample in samples) == list(range(len(dataset)))
            assert all(
                torch.equal(sample["image"], dataset[sample["row"]]["image"]) for sample in samples
            )


# --- errors ---------------------------------------------------------------------------------------


def drain(loader: Any) -> tuple[list[int], list[BaseException]]:
    """Return the rows and errors of a loop that continues after errors."""
    rows: list[int] = []
    errors: list[BaseException] = []
    batches = iter(loader)
    while True:
        try:
            rows += next(batches)[..., 0].reshape(-1).tolist()
        except StopIteration:
            return rows, errors
        except Exception as error:
            errors.append(error)


@pytest.mark.quick(1)
@pytest.mark.parametrize("read_ahead", [0, 9])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [Stacks, Strict])
def test_no_error_ends_an_epoch_silently(kind: type[Stacks], workers: int, read_ahead: int) -> None:
    poison = {row: POISON[row // 10 % len(POISON)] for row in range(3, 200, 10)}
    stream = StackStream(kind([50] * 4, poison), read_ahead=read_ahead, shuffle_buffer=10)
    rows, errors = drain(DataLoader(stream, batch_size=None, num_workers=workers))
    assert sorted(rows) == [row for row in range(200) if row not in poison]
    assert len(errors) == 20
    told = sorted(int(re.findall(r"row (\d+)", str(error))[-1]) for error in errors)
    assert told == sorted(poison)
    raised = {
        RuntimeError if error in (StopIteration, BaseException) else error for error in POISON
    }
    assert {type(error) for error in errors} == raised


def test_an_error_keeps_its_facts_and_comes_in_its_place() -> None:
    class Damaged(Stacks):
        def __getitem__(self, row: int) -> torch.Tensor:
            if row == 13:
                raise DecodeError("damaged", expected_bytes=5)
            return super().__getitem__(row)

    order = [int(sample[0]) for sample in StackStream(Stacks(LENGTHS))]
    samples = iter(StackStream(Damaged(LENGTHS)))
    delivered = [int(next(samples)[0]) for _ in range(order.index(13))]
    with pytest.raises(DecodeError) as caught:
        next(samples)
    assert caught.value.expected_bytes == 5
    assert [*delivered, 13, *(int(sample[0]) for sample in samples)] == order


@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_dataset_skips_is_left_out_and_nothing_else(workers: int) -> None:
    dataset = Batched([50] * 4, dict.fromkeys(range(3, 200, 10), ValueError))
    rows = flat(
        DataLoader(StackStream(dataset, shuffle_buffer=10), batch_size=4, num_workers=workers)
    )
    assert sorted(rows) == [row for row in range(200) if row not in dataset.poison]


# --- the thread and the memory --------------------------------------------------------------------


@pytest.mark.slow
def test_a_pass_holds_no_more_samples_than_its_buffers() -> None:
    for buffer, read_ahead in ((1, 0), (16, 0), (16, 12), (5, 3)):
        dataset = Counting([100] * 30)
        for _ in StackStream(dataset, shuffle_buffer=buffer, read_ahead=read_ahead):
            pass
        assert dataset.most <= buffer + max(1, read_ahead) + 1  # and the one that was delivered
        assert sorted(dataset.read) == list(range(3000))


@pytest.mark.slow
def test_the_thread_lives_only_while_samples_are_delivered() -> None:
    dataset = Counting([100] * 3)
    stream = StackStream(dataset)
    samples = iter(stream)
    assert not threads()
    next(samples)
    assert len(threads()) == 1
    assert sum(1 for _ in samples) == 299
    assert no_thread_is_left() and dataset.alive == 0
    stream.set_epoch(1)
    abandoned = iter(stream)
    next(abandoned)
    del abandoned
    assert no_thread_is_left() and len(dataset.read) < 450 and dataset.alive == 0
    stream.set_epoch(2)
    closed = iter(stream)
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(closed)


@pytest.mark.slow
def test_a_stream_pickles_small_and_its_copies_go_their_own_way() -> None:
    stream = StackStream(Stacks([100] * 100), shuffle_buffer=7)
    stream.set_epoch(3)
    pickled = pickle.dumps(stream)
    copy = pickle.loads(pickled)
    assert len(pickled) < 2500 and copy.epoch == 3
    stream.set_epoch(4)
    assert copy.epoch == 3
    copy.set_epoch(4)
    assert all(torch.equal(one, other) for one, other in zip(stream, copy, strict=True))


# --- resuming -------------------------------------------------------------------------------------


def stream_of(dataset: Stacks | None = None) -> StackStream:
    return StackStream(dataset or Stacks(LENGTHS), shuffle_buffer=4, read_ahead=3, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_plain_loader_resumes_at_every_batch(workers: int, drop_last: bool) -> None:
    stream = stream_of()
    loader = DataLoader(stream, batch_size=3, num_workers=workers, drop_last=drop_last)
    stream.set_epoch(2)
    whole = rows_of(loader)
    assert len(whole) == stream.number_of_batches(loader)
    stream.set_epoch(3)
    following = rows_of(loader)
    stream.set_epoch(2)
    for done in range(len(whole) + 1):
        resumed = stream_of()
        again = DataLoader(resumed, batch_size=3, num_workers=workers, drop_last=drop_last)
        resumed.load_state_dict(
            json.loads(json.dumps(stream.state_dict(loader, batches_done=done)))
        )
        resumed.set_epoch(2)
        assert rows_of(again) == whole[done:]
        if done in (0, 4):
            resumed.set_epoch(3)
            assert rows_of(again) == following


@pytest.mark.slow
def test_a_resumed_pass_resumes_again() -> None:
    stream = stream_of()
    whole = rows_of(DataLoader(stream, batch_size=3, num_workers=2))
    stream.set_epoch(0)
    state = stream.state_dict(DataLoader(stream, batch_size=3, num_workers=2), 0)
    for batch in range(0, len(whole), 3):
        resumed = stream_of()
        resumed.load_state_dict(state)
        loader = DataLoader(resumed, batch_size=3, num_workers=2)
        assert rows_of(itertools.islice(loader, 3)) == whole[batch : batch + 3]
        state = resumed.state_dict(loader, min(3, len(whole) - batch))
    assert max(done for _, done in state["workers"]) == 13


@pytest.mark.slow
def test_only_the_first_pass_after_loading_is_a_rest() -> None:
    stream = stream_of()
    loader = DataLoader(stream, batch_size=3, num_workers=2)
    whole = rows_of(loader)
    stream.load_state_dict(stream.state_dict(loader, 4))
    assert rows_of(loader) == whole[4:]
    assert rows_of(loader) == whole  # the same epoch again, and whole
    assert stream.state_dict(loader, 1)["workers"] == [[1, 0], [0, 3]]
    stream.load_state_dict(stream.state_dict(loader, 4))
    stream.set_epoch(1)
    stream.set_epoch(0)
    assert rows_of(loader) == whole


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_resumes_at_every_batch(workers: int) -> None:
    loader_class = stateful_loader()
    stream = stream_of()
    loader = loader_class(stream, batch_size=3, num_workers=workers)
    stream.set_epoch(2)
    whole, states = [], [loader.state_dict()]
    for batch in loader:
        whole += rows_of([batch])
        states.append(loader.state_dict())
    stream.set_epoch(3)
    following = rows_of(loader)
    for done, state in enumerate(states):
        resumed = stream_of()
        again = loader_class(resumed, batch_size=3, num_workers=workers)
        again.load_state_dict(state)
        assert rows_of(again) == whole[done:]
        assert resumed.epoch == 2
        if done in (0, 4, len(whole)):
            resumed.set_epoch(3)
            assert rows_of(again) == following


def test_resuming_reads_only_what_was_not_delivered() -> None:
    stream = stream_of(Stacks([30] * 3))
    samples = iter(stream)
    delivered = [int(next(samples)[0]) for _ in range(50)]
    dataset = Counting([30] * 3)
    resumed = iter(stream_of(dataset))
    resumed.load_state_dict(samples.state_dict())
    assert len(list(resumed)) == 40
    assert sorted(dataset.read + delivered) == list(range(90))


def train_until_killed(folder: Path, saved_batches: int) -> None:
    """Save the state after every batch, as a training loop would; resume from a saved state.

    The descriptor `saved_batches` gets a byte per saved batch.
    """
    stream, state_file, log_file = (
        stream_of(Stacks([40] * 5)),
        folder / "state.json",
        folder / "log",
    )
    loader = DataLoader(stream, batch_size=3, num_workers=2)
    log: list[list[int]] = []
    if state_file.exists():
        saved = json.loads(state_file.read_text())
        stream.load_state_dict(saved["state"])
        log = saved["log"]
    for done, batch in enumerate(loader, 1):
        log += rows_of([batch])
        (folder / "next").write_text(
            json.dumps({"state": stream.state_dict(loader, done), "log": log})
        )
        os.replace(folder / "next", state_file)
        os.write(saved_batches, b".")
    log_file.write_text(json.dumps(log))


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for batches in (5, 9, 1, None):
        saved, saved_batches = os.pipe()
        process = context.Process(target=train_until_killed, args=(tmp_path, saved_batches))
        process.start()
        os.close(saved_batches)
        if batches is not None:
            assert all(os.read(saved, 1) for _ in range(batches))
            process.kill()
        process.join()
        os.close(saved)
    assert process.exitcode == 0
    log = json.loads((tmp_path / "log").read_text())
    assert log == rows_of(DataLoader(stream_of(Stacks([40] * 5)), batch_size=3, num_workers=2))


def test_states_that_do_not_fit_are_refused() -> None:
    stream = stream_of()
    loader = DataLoader(stream, batch_size=3, num_workers=2)
    state = stream.state_dict(loader, 3)
    others: Iterator[StackStream] = (
        StackStream(Stacks(lengths), shuffle_buffer=4, read_ahead=3, **options)  # type: ignore[arg-type]
        for lengths, options in (
            (LENGTHS, {"seed": 1}),
            ([25], {"seed": 2}),
            (LENGTHS, {"seed": 2, "rank": 0, "world_size": 2}),
            (LENGTHS, {"seed": 2, "shuffle": False}),
        )
    )
    for other in others:
        with pytest.raises(UsageError, match="another order"):
            other.load_state_dict(state)
    for broken in (
        {},
        {**state, "workers": 5},
        {**state, "workers": [[0, 1], [0, 1]]},
        {**state, "workers": [[0, -1], [1, 0]]},
    ):
        with pytest.raises(UsageError):
            stream.load_state_dict(broken)
    with pytest.raises(UsageError, match="this pass has 9 batches"):
        stream.state_dict(loader, 99)
    with pytest.raises(UsageError, match="this stream"):
        stream.state_dict(DataLoader(stream_of()), 1)
    stream.load_state_dict(state)
    with pytest.raises(UsageError, match="2 worker"):
        list(stream)


def test_loading_after_persistent_workers_began_is_refused() -> None:
    stream = stream_of()
    loader = DataLoader(stream, batch_size=3, num_workers=1, persistent_workers=True)
    list(loader)
    stream.load_state_dict(stream.state_dict(loader, 3))
    with pytest.raises(UsageError, match="new DataLoader"):
        list(loader)
    # The error references the iterator in a cycle. Freed by the collector, it would wait 5 s for
    # its workers.
    loader._iterator._shutdown_workers()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "options",
    [{"seed": -1}, {"shuffle_buffer": -1}, {"read_ahead": 1.5}, {"uneven": "even"}, {"rank": 0}],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        StackStream(Stacks(LENGTHS), **options)
