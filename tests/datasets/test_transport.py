"""Tests of the way of batches out of a worker, in buffers and as torch sends them."""

import copy
import gc
import os
import pickle
import random
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import index_of
from phantoms import write_series
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

import dicomdl
from dicomdl.datasets.collate import teach_default_collate
from dicomdl.datasets.sample import Sample
from dicomdl.datasets.transport import check
from dicomdl.datasets.transport.images import BatchImages, new_array
from dicomdl.datasets.transport.memory import FREE, STATE
from dicomdl.datasets.transport.pool import MAX_BUFFERS, MIN_BYTES, Buffer, Pool, own_pool, stacked
from dicomdl.datasets.transport.receiver import RECEIVER
from dicomdl.datasets.transport.wire import OutgoingBatch

pytestmark = pytest.mark.slow

# Spawned workers import this module too.
teach_default_collate()
METHODS = ["fork", "spawn", "forkserver"]
needs_buffers = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="there is nameless memory on Linux only"
)


both_ways = pytest.mark.parametrize("way", ["auto", "torch"], indirect=True)


@pytest.fixture(autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Send batches in buffers, or as torch does if a test asks for it."""
    gc.collect()
    wanted = getattr(request, "param", "auto")
    monkeypatch.setenv(check.VARIABLE, wanted)
    check.uses_buffers.cache_clear()
    if wanted == "torch":
        monkeypatch.delattr(RECEIVER.__class__, "receive")  # a lease would not arrive
    yield wanted
    check.uses_buffers.cache_clear()
    gc.collect()
    assert not RECEIVER.mapped and not RECEIVER.leased and not RECEIVER.workers, (
        "buffers of loaders that are no more"
    )


class Numbered(Dataset[Any]):
    """Row n is filled with n; each `shapes` in turn."""

    def __init__(
        self,
        rows: int,
        shapes: Any = ((64, 300),),
        dtype: torch.dtype = torch.float32,
        in_rows: bool = False,
    ) -> None:
        self.rows, self.shapes, self.dtype, self.in_rows = rows, shapes, dtype, in_rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> Any:
        shape = self.shapes[row % len(self.shapes)]
        if self.dtype == torch.bfloat16:
            return Sample(image=torch.full(shape, row % 128, dtype=self.dtype), row=row)
        image = torch.from_numpy(new_array(shape, str(self.dtype).partition(".")[2]))
        return Sample(image=image.fill_(row % 128), row=row)

    def __getitems__(self, rows: list[int]) -> list[Any]:
        with BatchImages(len(rows)) as images:
            samples = []
            for position, row in enumerate(rows):
                images.position = position
                samples.append(self[row])
            return samples


def is_sound(batch: Any) -> bool:
    return all(
        bool((image == row % 128).all())
        for image, row in zip(batch["image"], batch["row"].tolist(), strict=True)
    )


# --- what arrives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "method", "dtype"),
    [
        *(("auto", method, torch.float32) for method in METHODS),
        *(("auto", "fork", dtype) for dtype in (torch.int16, torch.bfloat16)),
        *(("torch", method, torch.float32) for method in ("fork", "spawn")),
    ],
    indirect=["way"],
)
def test_what_arrives_is_what_was_sent_and_stays_so_however_long_it_is_kept(
    method: str, dtype: torch.dtype
) -> None:
    loader = DataLoader(
        Numbered(120, dtype=dtype),
        batch_size=2,
        num_workers=1 if method == "spawn" else 2,  # an interpreter takes seconds to start
        multiprocessing_context=method,
        prefetch_factor=3,
    )
    chance, kept, rows = random.Random(0), [], []
    for batch in loader:
        assert type(batch) is dict and batch["image"].dtype == dtype and is_sound(batch)
        rows += batch["row"].tolist()
        kept.append(batch)
        while len(kept) > 1 and chance.random() < 0.5:
            kept.pop(chance.randrange(len(kept)))
        assert all(map(is_sound, kept))
    assert rows == list(range(120))


@needs_buffers
def test_a_worker_fills_a_few_buffers_again_and_again() -> None:
    loader = DataLoader(Numbered(400), batch_size=2, num_workers=1)
    places = set()
    for batch in loader:
        assert is_sound(batch)
        places.add(batch["image"].data_ptr())
    assert len(places) <= 8 and len(RECEIVER.mapped) <= 8


@both_ways
def test_batches_that_are_all_kept_are_all_right_and_what_is_written_to_one_is_in_no_other() -> (
    None
):
    batches = list(DataLoader(Numbered(4 * MAX_BUFFERS), batch_size=2, num_workers=1))
    assert all(map(is_sound, batches))
    batches[0]["image"].fill_(-1)
    assert all(map(is_sound, batches[1:]))
    a_part = batches[5]["image"][1, 0, 3]
    row = int(batches[5]["row"][1])
    del batches
    for batch in DataLoader(Numbered(40), batch_size=2, num_workers=1):
        assert is_sound(batch) and bool((a_part == row % 128).all())


@both_ways
def test_sizes_may_differ_from_batch_to_batch(way: str) -> None:
    shapes = [(1, 64, 300), (1, 300, 300), (3, 500, 300), (1, 2, 3), (1, 64, 64)]
    for batch in DataLoader(Numbered(150, shapes), batch_size=1, num_workers=2):
        assert is_sound(batch) and tuple(batch["image"].shape[1:]) == shapes[int(batch["row"]) % 5]
    for batch in DataLoader(
        Numbered(30, shapes), batch_size=5, num_workers=1, collate_fn=dicomdl.collate
    ):
        assert isinstance(batch["image"], list) and is_sound(batch)
        if way == "auto" and hasattr(os, "memfd_create"):
            assert all(
                image.untyped_storage().nbytes() == image.nbytes and not image.is_shared()
                for image in batch["image"]
            )


@both_ways
@pytest.mark.parametrize("persistent", [False, True])
def test_passes_may_be_broken_off_and_begun_again(persistent: bool) -> None:
    loader = DataLoader(Numbered(60), batch_size=2, num_workers=2, persistent_workers=persistent)
    for turn in range(4):
        kept = []
        for number, batch in enumerate(loader):
            assert is_sound(batch)
            kept.append(batch)
            if number == turn * 3:
                break
        assert all(map(is_sound, kept))
    assert sorted(row for batch in loader for row in batch["row"].tolist()) == list(range(60))
    if persistent:
        loader._iterator._shutdown_workers()  # type: ignore[union-attr]
    del loader


@both_ways
def test_a_sample_without_a_batch_arrives_as_a_sample() -> None:
    rows = []
    for sample in DataLoader(Numbered(40), batch_size=None, num_workers=2):
        assert type(sample) is Sample and bool((sample["image"] == sample["row"] % 128).all())
        rows.append(sample["row"])
    assert rows == list(range(40))


class Odd(Dataset[Any]):
    """Tensors without plain bytes, or without any bytes."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> Any:
        return Sample(
            image=torch.full((40, 50, 60), float(row)).transpose(0, 2),
            none=torch.zeros(0, 3),
            scalar=torch.tensor(row),
            complex=torch.full((300, 200), complex(row, 1)),
            half=torch.full((2,), row, dtype=torch.bfloat16),
            words="a",
            nested={"x": torch.full((300, 200), row)},
        )


@both_ways
def test_tensors_of_any_kind_arrive() -> None:
    alone, sent = (list(DataLoader(Odd(), batch_size=2, num_workers=workers)) for workers in (0, 1))
    for one, other in zip(alone, sent, strict=True):
        assert one.keys() == other.keys() and one["words"] == other["words"]
        assert torch.equal(one["nested"]["x"], other["nested"]["x"])
        for name in ("image", "none", "scalar", "complex", "half"):
            assert torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype, (
                name
            )


class Negative(Odd):
    """A tensor that lazily stands for the negatives in its memory, which torch loses in sending."""

    def __getitem__(self, row: int) -> Any:
        return Sample(image=torch.full((300, 200), complex(1, row)).conj().imag, row=row)


@both_ways
def test_what_is_lazily_negative_arrives_negative() -> None:
    for sample in DataLoader(Negative(), batch_size=None, num_workers=1, timeout=60):
        assert bool((sample["image"] == -sample["row"]).all())
    for batch in DataLoader(Negative(), batch_size=2, num_workers=1, timeout=60):
        assert all(
            bool((image == -row).all())
            for image, row in zip(batch["image"], batch["row"], strict=True)
        )


class Keeping:
    """A transform that references the images that it got, and checks whether they change."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, Any]] = []

    def __call__(self, sample: Any) -> Any:
        assert all(bool((image == row % 128).all()) for row, image in self.kept), (
            "a kept image changed"
        )
        self.kept = [*self.kept[-20:], (sample["row"], sample["image"])]
        return sample


class Transformed(Numbered):
    """A dataset with a transform."""

    def __init__(self, rows: int, transform: Any) -> None:
        super().__init__(rows)
        self.transform = transform

    def __getitem__(self, row: int) -> Any:
        return self.transform(super().__getitem__(row))


@both_ways
def test_images_that_a_worker_keeps_stay_as_they_are() -> None:
    assert all(map(is_sound, DataLoader(Transformed(200, Keeping()), batch_size=4, num_workers=1)))


@both_ways
def test_images_are_stacked_where_they_do_not_lie_one_behind_the_other() -> None:
    def gathered(samples: list[Any]) -> Any:
        first, *rest = samples
        return dicomdl.collate([*rest, first, first])

    for batch in DataLoader(Numbered(60), batch_size=3, num_workers=1, collate_fn=gathered):
        assert len(batch["row"]) == 4 and is_sound(batch)

    def wrapped(samples: list[Any]) -> Any:
        batch = dicomdl.collate(samples)
        return {"image": batch["image"][1:], "row": batch["row"][1:]}

    for batch in DataLoader(Numbered(60), batch_size=3, num_workers=1, collate_fn=wrapped):
        assert len(batch["row"]) == 2 and is_sound(batch)

    def sliced(samples: list[Any]) -> Any:
        batch = dicomdl.collate(samples)
        batch["image"], batch["row"] = batch["image"][:1], batch["row"][:1]
        return batch

    for batch in DataLoader(Numbered(60), batch_size=3, num_workers=1, collate_fn=sliced):
        assert len(batch["row"]) == 1 and is_sound(batch)


@both_ways
def test_an_order_of_its_own_is_kept() -> None:
    def channels_last(samples: list[Any]) -> Any:
        batch = dicomdl.collate(samples)
        batch["image"] = (
            batch["image"]
            .unsqueeze(1)
            .expand(-1, 3, -1, -1)
            .contiguous(memory_format=torch.channels_last)
        )
        return batch

    for batch in DataLoader(Numbered(12), batch_size=2, num_workers=1, collate_fn=channels_last):
        assert is_sound(batch) and batch["image"].is_contiguous(memory_format=torch.channels_last)


@both_ways
def test_a_batch_that_is_copied_or_pickled_is_a_copy(way: str) -> None:
    def copied(samples: list[Any]) -> Any:
        batch = dicomdl.collate(samples)
        assert type(batch) is (OutgoingBatch if way == "auto" else dict)
        other = copy.deepcopy(batch)
        again = pickle.loads(pickle.dumps(batch))
        batch["image"].fill_(-1)
        assert is_sound(other) and is_sound(again)
        return other

    assert all(
        map(is_sound, DataLoader(Numbered(20), batch_size=2, num_workers=1, collate_fn=copied))
    )


@both_ways
def test_a_batch_that_is_sent_twice_is_two() -> None:
    def twice(samples: list[Any]) -> Any:
        batch = dicomdl.collate(samples)
        return [batch, batch]

    kept: list[Any] = []
    for one, other in DataLoader(Numbered(60), batch_size=2, num_workers=1, collate_fn=twice):
        assert is_sound(one) and is_sound(other)
        kept = [*kept[-5:], other]
        del one
        assert all(map(is_sound, kept))


class Cached(Numbered):
    """A dataset that references its samples, with or without ``__getitems__``."""

    def __init__(self, rows: int, inner: Any = None) -> None:
        super().__init__(rows)
        self.kept: dict[int, Any] = {}

    def __getitems__(self, rows: list[int]) -> list[Any]:
        absent = [row for row in rows if row not in self.kept]
        self.kept |= dict(zip(absent, super().__getitems__(absent), strict=True)) if absent else {}
        return [self.kept[row] for row in rows]


@both_ways
@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_the_receiver_writes_reaches_nothing_that_a_worker_keeps(batch_size: int) -> None:
    loader = DataLoader(Cached(16), batch_size=batch_size, num_workers=1, persistent_workers=True)
    for _ in range(4):
        for batch in loader:
            assert is_sound(batch)
            batch["image"].sub_(0.5).div_(0.25)
    loader._iterator._shutdown_workers()  # type: ignore[union-attr]
    del loader, batch


class ChangesLater(Numbered):
    """A dataset that changes the last image of a batch before it makes the next batch."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows, ((200, 200),))
        self.kept: Any = torch.zeros(1)

    def __getitems__(self, rows: list[int]) -> list[Any]:
        self.kept.fill_(-3)
        made = super().__getitems__(rows)
        self.kept = made[-1]["image"]
        return made


@both_ways
@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_worker_changes_afterwards_reaches_no_batch(workers: int) -> None:
    assert all(map(is_sound, DataLoader(ChangesLater(160), batch_size=4, num_workers=workers)))


@both_ways
def test_samples_within_the_making_of_a_sample_are_made_apart(folder: Path) -> None:
    write_series(folder / "a", shape=(8, 150, 160), intercept=-1024)
    write_series(folder / "b", shape=(3, 300, 200), seed=1, modality="MR")
    index = index_of(folder)
    other = dicomdl.FrameDataset(index.select(modality="MR"), "modality")

    def labels(stack: Any) -> Any:
        return np.full(stack.shape, int(other[1]["image"].max()) > 0, np.uint8)

    patches = dicomdl.PatchDataset(
        index.select(modality="CT"),
        (4, 128, 128),
        per_stack=12,
        intensity="ct.lung",
        labels=labels,
        sampler="labels",
    )
    patches.set_epoch(0)
    alone = [patches[row] for row in range(12)]
    for batch in DataLoader(patches, batch_size=3, num_workers=1):
        for place, row in enumerate(batch["row"].tolist()):
            assert all(
                torch.equal(batch[name][place], alone[row][name])
                for name in ("image", "label", "location")
            )


class Mixing:
    """A transform that adds half of the image before, as mixup does."""

    def __init__(self) -> None:
        self.before: Any = torch.zeros(1)

    def __call__(self, sample: Any) -> Any:
        self.before, mixed = sample["image"], sample["image"] + self.before / 2
        return {
            "image": mixed if sample["row"] % 2 else sample["image"],
            "row": sample["row"],
            "raw": sample["image"],
        }


@both_ways
def test_samples_that_share_their_images_are_delivered_as_without_workers() -> None:
    def collated(samples: list[Any]) -> Any:
        batch = dicomdl.collate(samples)
        batch["image"].sub_(0.5)
        return batch

    for collate_fn in (None, collated):
        delivered: list[list[Any]] = []
        for workers in (0, 1):
            delivered.append([])
            loader: Any = DataLoader(
                Transformed(64, Mixing()), batch_size=4, num_workers=workers, collate_fn=collate_fn
            )
            for batch in loader:
                delivered[-1].append({name: value.clone() for name, value in batch.items()})
                batch["image"].fill_(-7)
        for one, other in zip(*delivered, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in ("image", "raw", "row"))


@needs_buffers
def test_a_tensor_holds_its_own_bytes_and_no_others() -> None:
    for batch in DataLoader(
        Numbered(60, [(1, 150, 150), (1, 600, 600)]), batch_size=1, num_workers=2
    ):
        image = batch["image"]
        assert image.untyped_storage().nbytes() == image.nbytes and not image._is_view()
        image.requires_grad_().detach_()
        assert is_sound(batch)


@both_ways
def test_batches_may_go_to_several_receivers() -> None:
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()

    def also(samples: list[Any]) -> Any:
        batch = dicomdl.collate(samples)
        queue.put(batch)
        return batch

    for batch in DataLoader(Numbered(60), batch_size=2, num_workers=1, collate_fn=also):
        assert is_sound(batch)
        assert is_sound(queue.get(timeout=60))

    def listen(results: Any) -> None:
        try:
            results.send([is_sound(queue.get(timeout=60)) for _ in range(30)])
        except BaseException:
            results.send(traceback.format_exc())

    receive, send = context.Pipe(duplex=False)
    listener = context.Process(target=listen, args=(send,))
    listener.start()
    # With this end closed, the end of the listener ends the wait for it.
    send.close()
    # The worker, which passes the descriptors, must not end before the listener has them all.
    loader = DataLoader(
        Numbered(60), batch_size=2, num_workers=1, collate_fn=also, persistent_workers=True
    )
    assert all(map(is_sound, loader))
    assert receive.recv() == [True] * 30
    listener.join()
    loader._iterator._shutdown_workers()  # type: ignore[union-attr]
    del loader


# --- memory ---------------------------------------------------------------------------------------


@needs_buffers
def test_where_memory_is_out_tensors_go_by_the_way_of_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    assert check.uses_buffers()  # also in the worker, which is forked
    monkeypatch.setattr(os, "posix_fallocate", none)
    assert all(map(is_sound, DataLoader(Numbered(20), batch_size=2, num_workers=1)))
    assert not RECEIVER.mapped


@needs_buffers
def test_a_forked_process_that_ends_gives_no_buffer_back() -> None:
    loader = iter(DataLoader(Numbered(200), batch_size=2, num_workers=1))
    held = next(loader)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            held.clear()  # its copy of the only view
            gc.collect()
            os._exit(0)
        os.waitpid(child, 0)
    for batch in loader:
        assert is_sound(batch) and is_sound(held)


@needs_buffers
def test_a_forked_process_sees_its_batch_as_it_was() -> None:
    loader = iter(DataLoader(Numbered(200), batch_size=2, num_workers=1))
    held = next(loader)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        # The parent writes after it has freed the batch and received many others.
        os.read(receive, 1)
        os._exit(0 if is_sound(held) else 1)
    del held
    assert all(map(is_sound, loader))
    os.write(send, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for descriptor in (receive, send):
        os.close(descriptor)


@needs_buffers
@pytest.mark.parametrize("held", [1, 50, 80])
def test_as_many_buffers_are_made_as_are_held_and_no_more(held: int) -> None:
    kept: list[Any] = []
    names = set()
    for batch in DataLoader(Numbered(800), batch_size=2, num_workers=1):
        kept = [*kept[-held + 1 :], batch] if held > 1 else [batch]
        names |= set(RECEIVER.mapped)
    assert all(map(is_sound, kept)) and len(names) <= min(held + 8, MAX_BUFFERS)


@needs_buffers
def test_a_buffer_that_is_released_during_a_lease_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool()
    leased = [pool.lease(MIN_BYTES) for _ in range(MAX_BUFFERS)]
    names = {buffer.name for buffer in pool._buffers}
    for buffer in pool._buffers:
        buffer.hand_over()
    del leased
    readings: Counter[str] = Counter()

    def released_meanwhile(buffer: Any) -> int:
        """The receiver releases a buffer after the second reading of its state."""
        state = int(buffer._bytes[STATE])
        readings[buffer.name] += 1
        if readings[buffer.name] == 2:
            buffer._bytes[STATE] = FREE
        return state

    monkeypatch.setattr(Buffer, "state", property(released_meanwhile))
    for _ in range(3):
        pool.lease(MIN_BYTES)
    assert {buffer.name for buffer in pool._buffers} == names


@needs_buffers
def test_buffers_go_with_their_workers_also_where_the_iterator_stays() -> None:
    iterator = iter(DataLoader(Numbered(60), batch_size=2, num_workers=2))
    for batch in iterator:
        assert is_sound(batch)
    del batch
    assert not RECEIVER.mapped
    del iterator


@needs_buffers
def test_buffers_take_no_descriptors_of_the_receiver() -> None:
    before = len(os.listdir("/proc/self/fd"))
    loader = iter(DataLoader(Numbered(200), batch_size=2, num_workers=1))
    kept = [next(loader) for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) - before < 12 and all(map(is_sound, kept))


class Forking(Numbered):
    """A dataset that forks in the midst of a batch."""

    def __getitem__(self, row: int) -> Any:
        if row % 3 == 1:
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
        return super().__getitem__(row)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_worker_may_fork_in_the_midst_of_a_batch() -> None:
    assert all(map(is_sound, DataLoader(Forking(60), batch_size=4, num_workers=1)))


class Held(Dataset[Any]):
    """Row n is the memory of the worker's buffers in MB, after a batch of images of `sizes`."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitems__(self, rows: list[int]) -> list[Any]:
        images = []
        with BatchImages(len(rows)) as memory:
            for position, row in enumerate(rows):
                memory.position = position
                images.append(new_array((self.sizes[row] << 20,), "u1"))
        pool: Any = own_pool()
        return [{"buffers": pool.size >> 20, "image": image.nbytes} for image in images]


@needs_buffers
def test_memory_that_is_not_needed_goes() -> None:
    sizes = [1] * 40 + [32] * 4 + [1] * 200
    held = [
        int(batch["buffers"][0]) for batch in DataLoader(Held(sizes), batch_size=4, num_workers=1)
    ]
    assert held[0] == 0 and held[5] <= 12 and 128 <= held[10] <= 150 and held[-1] <= 12
    several = DataLoader(Held([32, 1, 1, 1] * 40), batch_size=4, num_workers=1)
    assert all(int(batch["buffers"][0]) == 0 for batch in several)
    assert not RECEIVER.mapped


@needs_buffers
def test_where_a_batch_is_copied_at_once_nothing_stays_mapped() -> None:
    loader = DataLoader(Numbered(60), batch_size=2, num_workers=2)
    kept = list(map(copy.deepcopy, loader))
    gc.collect()
    assert all(map(is_sound, kept)) and not RECEIVER.mapped
    assert "memfd:dicomdl-batch" not in Path("/proc/self/maps").read_text()


class Stalling(Numbered):
    """A dataset that never delivers its last row."""

    def __getitem__(self, row: int) -> Any:
        if row == len(self) - 1:
            threading.Event().wait()
        return super().__getitem__(row)


@needs_buffers
def test_a_worker_that_is_killed_leaves_what_arrived_as_it_was() -> None:
    loader = iter(DataLoader(Stalling(41), batch_size=2, num_workers=1))
    held: list[Any] = []
    for _ in range(20):
        held = [*held[-2:], next(loader)]
    # All batches have arrived; if a worker is killed while sending, torch may wait forever.
    os.kill(loader._workers[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"killed|exited"):
        held.extend(loader)
    assert all(map(is_sound, held))


@needs_buffers
def test_descriptors_and_maps_do_not_become_more_with_the_epochs() -> None:
    def count() -> tuple[int, int]:
        gc.collect()
        maps = sum(
            "memfd:dicomdl-batch" in line
            for line in Path("/proc/self/maps").read_text().splitlines()
        )
        return len(os.listdir("/proc/self/fd")), maps

    def least() -> tuple[int, int]:
        """Of several looks: threads close the last descriptors of an epoch a little later."""
        looks = [count()]
        for _ in range(4):
            time.sleep(0.05)
            looks.append(count())
        files, maps = zip(*looks, strict=True)
        return min(files), min(maps)

    found = []
    for _ in range(5):
        for batch in DataLoader(Numbered(40), batch_size=2, num_workers=2):
            assert is_sound(batch)
        del batch
        found.append(least())
    assert found[-1][0] <= found[1][0] and found[-1][1] <= found[1][1] <= 16


@needs_buffers
def test_nothing_outlives_processes_that_are_killed(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    folders = [str(folder) for folder in Path(__file__).parents[:2]]
    script.write_text(
        f"import sys; sys.path[:0] = {folders!r}\n"
        "from test_transport import *\n"
        "loader = iter(DataLoader(Numbered(1000), batch_size=2, num_workers=2))\n"
        "held = [next(loader) for _ in range(4)]\n"
        "print('ready', *(w.pid for w in loader._workers), flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()[1:]]
        ends = [os.pidfd_open(worker) for worker in workers]
        process.kill()
    # torch's workers check every 5 s that their parent is alive.
    for end in ends:
        select.select([end], [], [])
        os.close(end)
    assert len(workers) == 2
    named = [
        name
        for name in os.listdir("/dev/shm")
        if any(str(pid) in name for pid in (process.pid, *workers))
    ]
    # Memory without a name is freed with the last process that maps it.
    assert not named


def test_what_is_small_or_outside_of_a_worker_has_no_buffer() -> None:
    assert stacked([torch.ones(3)] * 2).tolist() == [[1.0] * 3] * 2
    with BatchImages(2) as rows:
        new_array((MIN_BYTES,), "u1")
    assert not rows._sizes and own_pool() is None


# --- the switch and the self-check ----------------------------------------------------------------


def refused(*arguments: Any) -> Any:
    raise PermissionError(1, "Operation not permitted")


# Faults that only the check meets. Descriptors and pickles are needed by torch too.
FAULTS: dict[str, Any] = {
    "os.memfd_create is missing": lambda patch: patch.delattr(os, "memfd_create"),
    "default_collate_fn_map is missing": lambda patch: patch.setitem(
        sys.modules, "torch.utils.data._utils.collate", None
    ),
    "cannot be sent (PermissionError": lambda patch: patch.setattr(
        check, "reduction", SimpleNamespace(DupFd=refused)
    ),
    "without its content": lambda patch: patch.setattr(
        check, "mapped", lambda *arguments: np.zeros(4096, np.uint8)
    ),
}


@needs_buffers
@pytest.mark.parametrize("fault", FAULTS)
def test_the_self_check_says_what_is_missing_and_batches_go_torchs_way(
    fault: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert check.self_check() is None
    with monkeypatch.context() as patch:
        FAULTS[fault](patch)
        assert fault in (check.self_check() or "")
        patch.delattr(RECEIVER.__class__, "receive")
        # pytest records warnings in memory, so those of a worker would be lost.
        patch.setattr(warnings, "showwarning", lambda text, *_: os.write(2, f"{text}".encode()))
        loader = DataLoader(Numbered(20), 2, num_workers=2, collate_fn=dicomdl.collate)
        assert all(map(is_sound, loader))
        del loader
    told = capfd.readouterr().err
    assert told.count("batches go torch's slower way") == 1 and fault in told


WITHOUT_COLLATE = """
import sys, torch.utils.data
sys.modules["torch.utils.data._utils.collate"] = None
from dicomdl.datasets.collate import Sample, collate, teach_default_collate
teach_default_collate()
samples = [Sample(image=torch.zeros(2)), Sample(image=torch.ones(2))]
for function in (collate, torch.utils.data.default_collate):
    assert function(samples)["image"].tolist() == [[0, 0], [1, 1]], function
"""


def test_samples_are_collated_where_torchs_default_collate_has_moved() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_COLLATE], check=True)


def test_an_unknown_way_is_told_and_taken_for_auto(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(check.VARIABLE, "tcp")
    with pytest.warns(RuntimeWarning, match="DICOMDL_TRANSPORT='tcp': expected auto or torch"):
        expected = check.uses_buffers()
    monkeypatch.setenv(check.VARIABLE, "auto")
    check.uses_buffers.cache_clear()
    assert check.uses_buffers() == expected


@both_ways
def test_the_switch_is_followed_without_a_word(way: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check.uses_buffers() == (way == "auto" and sys.platform == "linux")


# --- the datasets ---------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("on", ["cpu", "device"])
@pytest.mark.parametrize("kind", ["frames", "volumes", "patches", "neighbours"])
def test_loaders_with_workers_deliver_what_those_without_do(
    folder: Path, kind: str, on: Any
) -> None:
    for seed in range(4):
        write_series(folder / str(seed), shape=(3 + seed % 2, 150, 160), seed=seed, intercept=-1024)
    index = index_of(folder)
    makes: dict[str, Any] = {
        "frames": lambda: dicomdl.FrameDataset(index, "ct.lung", intensity_on=on),
        "volumes": lambda: dicomdl.VolumeDataset(index, "ct.lung", intensity_on=on),
        "patches": lambda: dicomdl.PatchDataset(
            index, (3, 128, 140), per_stack=6, intensity="ct.lung", intensity_on=on
        ),
        "neighbours": lambda: dicomdl.FrameDataset(index, "ct.lung", neighbours=1, intensity_on=on),
    }
    dataset = makes[kind]()
    dataset.set_epoch(0)
    order = [row % len(dataset) for row in (3, 1, 1, 0, 2, 3, 5, 4, 9, 7, 8, 2)]
    how: dict[str, Any] = {"batch_size": 4, "collate_fn": dicomdl.collate}
    expected = list(DataLoader(Subset(dataset, order), **how))
    mixed = ConcatDataset([Subset(dataset, order[:6]), Subset(dataset, order[6:])])
    for wrapped in (Subset(dataset, order), mixed):
        for one, other in zip(expected, DataLoader(wrapped, num_workers=2, **how), strict=True):
            assert one.keys() == other.keys()
            for name, value in one.items():
                together = zip(value, other[name], strict=True)
                assert all(
                    torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
                    for a, b in together
                ), name


@needs_buffers
def test_images_are_made_where_they_leave_and_not_moved(folder: Path) -> None:
    write_series(folder, shape=(4, 160, 160), intercept=-1024)

    def looked_at(samples: list[Any]) -> Any:
        batch = dicomdl.collate(samples)
        return {**batch, "moved": batch["image"].data_ptr() != samples[0]["image"].data_ptr()}

    index = index_of(folder)
    for dataset in (
        dicomdl.FrameDataset(index, "ct.lung"),
        dicomdl.VolumeDataset(index, "ct.lung"),
        dicomdl.PatchDataset(index, (4, 128, 128), intensity="ct.lung"),
        dicomdl.PatchDataset(index, (4, 128, 128), intensity="ct.lung", intensity_on="device"),
    ):
        rows = Subset(dataset, [row % len(dataset) for row in range(8)])
        moved = [
            batch["moved"]
            for batch in DataLoader(rows, batch_size=2, num_workers=1, collate_fn=looked_at)
        ]
        # The first batch shows that the images have one size.
        assert moved == [True, False, False, False], dataset
