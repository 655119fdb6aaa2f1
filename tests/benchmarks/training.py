"""Samples for training: patches from DICOM, epochs of a DataLoader, a cache for JPEG 2000, frames.

    python tests/benchmarks/training.py --slices 512 --repeat 5
    python tests/benchmarks/training.py --only 3

Patches are 96 x 96 x 96 float32 in the lung window, from series of 128 x 512 x 512. dicomdl draws
the positions; the floor and the stores (npy, blosc2, zarr) read the same ones. MONAI and TorchIO
draw their own. Slow peers read fewer patches per round; all figures are per patch, or per frame.
Every patch of every contender, also from loaders, is compared with the true voxels at its position
before the clock starts. "Second epoch": workers are running and caches are filled. For loaders, an
entire epoch is timed; all have 2 workers, batch 2, and the same settings. Rows 5 and 6, the memory
of workers and the time to the first batch, are in training_memory.py.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import phantom_ct
import torch
import training_memory
from rounds import Contender, Task, Timing, _prepare, arguments, print_table
from training_peers import (
    SIZE,
    Array,
    At,
    BareFrames,
    Item,
    Place,
    PydicomFrames,
    TorchioPatches,
    Truth,
    bare_rows,
    blosc2_store,
    fault_of_values,
    monai_patches,
    nnunet_store,
    npy_store,
    unpacked,
    window,
    without_padding,
    zarr_store,
)

Make = Callable[[], Any]  # gives a dataset of plain items


@dataclass(frozen=True)
class Way:
    """One way to get samples: its dataset, and its number of samples per round."""

    name: str
    make: Make
    count: int
    note: str = ""


# --- races of ways that make different numbers of samples -----------------------------------------


def race_ways(
    title: str, ways: Sequence[tuple[Contender, int]], *, repeat: int, unit: str
) -> dict[str, Timing]:
    """Race as `rounds.race`, with figures per sample of each contender."""
    ready, absent = _prepare([contender for contender, _ in ways])
    counts = {contender.name: count for contender, count in ways}
    seconds: dict[str, list[float]] = {contender.name: [] for contender, _, _ in ready}
    for _ in range(repeat):
        for contender, task, _ in ready:
            gc.collect()
            start = time.perf_counter()
            task()
            seconds[contender.name].append((time.perf_counter() - start) / counts[contender.name])
    timings = {
        c.name: Timing(c.name, tuple(seconds[c.name]), "; ".join(filter(None, (c.note, fault))))
        for c, _, fault in ready
    }
    print_table(title, timings, 1, unit)
    for name, reason in absent:
        print(f"  {name:<44} {reason}")
    print(flush=True)
    return timings


def goal(
    what: str,
    timings: dict[str, Timing],
    one: str,
    other: str,
    *,
    most: float = 0.0,
    least: float = 0.0,
) -> None:
    """Print whether a ratio of medians meets its goal.

    The median of `one` is at most `most` times, or that of `other` at least `least` times, the
    other's.
    """
    if one not in timings or other not in timings:
        print(f"  goal {what}: not measured")
        return
    mine, its = timings[one].median, timings[other].median
    ratio = mine / its if most else its / mine
    met = ratio <= most if most else ratio >= least
    print(
        f"  goal {what}: {ratio:.2f}, {'at most' if most else 'at least'} {most or least:g}: "
        f"{'met' if met else 'NOT MET'}"
    )


def faults(items: Iterable[Item], fault: Callable[[Item], str]) -> str:
    """Return the fault of the first wrong item, and the number of wrong ones."""
    found = [one for one in map(fault, items) if one]
    return f"{found[0]} ({len(found)} samples)" if found else ""


def one_by_one(way: Way, fault: Callable[[Item], str]) -> tuple[Contender, int]:
    """Time ``dataset[i]`` in this process."""

    def prepare() -> Task:
        dataset, checked = way.make(), False

        def task() -> Any:
            nonlocal checked
            if not checked:
                checked = True
                return faults((dataset[number] for number in range(way.count)), fault)
            for number in range(way.count):
                dataset[number]
            return None

        return task

    return Contender(way.name, prepare, way.note, check=str), way.count


def by_loader(way: Way, fault: Callable[[Item], str]) -> tuple[Contender, int]:
    """Time an epoch of a DataLoader.

    The first epoch checks the samples and fills the caches.
    """

    def prepare() -> Task:
        dataset = torch.utils.data.Subset(way.make(), range(way.count))
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=2, shuffle=True, num_workers=2, persistent_workers=True
        )
        checked = False

        def task() -> Any:
            nonlocal checked
            if not checked:
                checked = True
                return faults((item for batch in loader for item in separate(batch)), fault)
            delivered = sum(len(batch["image"]) for batch in loader)
            assert delivered == way.count, f"{delivered} of {way.count}"
            return None

        return task

    return Contender(way.name, prepare, way.note, check=str), way.count


def separate(batch: dict[str, Any]) -> list[Item]:
    """The items of a batch."""
    return [
        {name: values[place] for name, values in batch.items()}
        for place in range(len(batch["image"]))
    ]


# --- patches --------------------------------------------------------------------------------------


class Patches:
    """Data that the races of patches share.

    The index, the truth, and the positions that dicomdl draws, in random order of stacks.
    """

    def __init__(self, folder: Path, scratch: Path, count: int) -> None:
        import dicomdl

        self.scratch = scratch
        self.index = dicomdl.scan(
            folder, out=scratch / f"{folder.name}.index", workers=1, progress=False
        )
        self.truth = Truth(folder)
        stacks = len(self.index.stacks)
        self.per_stack = -(-count // stacks)
        self.order = np.random.default_rng(0).permutation(stacks * self.per_stack)[:count].tolist()
        self.series_of = {
            s.series_instance_uid: self.truth.folders.index(Path(s.source(0).path).parent)
            for s in self.index.stacks
        }
        self.padding = [self.truth.padding_of(series) for series in range(stacks)]
        drawn = self.dataset()
        self.places: list[Place] = []
        for number in range(len(self.order)):
            item = drawn[number]
            z, y, x = item["location"].tolist()
            self.places.append((self.series_of[item["series_instance_uid"]], (z, y, x)))

    def dataset(self, **options: Any) -> Any:
        """Samples of dicomdl, shuffled."""
        import dicomdl

        made = dicomdl.PatchDataset(
            self.index, SIZE, per_stack=self.per_stack, intensity="ct.lung", **options
        )
        return torch.utils.data.Subset(made, self.order)

    def at(self, read: Callable[..., Array]) -> At:
        return At(self.truth, self.places, read)

    def fault(self, item: Item) -> str:
        """Return the fault of a sample of any contender."""
        image = np.asarray(item["image"])[0]
        if "where" in item:
            return self.truth.fault(image, *unpacked(item["where"]))
        series = self.series_of[item["series_instance_uid"]]
        return self.truth.fault(image, series, np.asarray(item["affine"]), self.padding[series])

    def windowed(self, store: Sequence[Any]) -> At:
        return self.at(lambda series, where: window(store[series][where]))


def patch_ways(shared: Patches, count: int, slow: int) -> list[Way]:
    """Return all contenders for a random patch: dicomdl, the floor, stores and peers.

    `slow` is the number of patches for contenders that load entire volumes.
    """
    truth, scratch = shared.truth, shared.scratch

    def nnunet() -> At:
        store = nnunet_store(truth)
        return shared.at(lambda series, where: store[series][where])

    some = max(2, count // 4)
    return [
        Way("dicomdl.PatchDataset", shared.dataset, count),
        Way(
            "floor: bare row reads",
            lambda: shared.at(bare_rows(truth)),
            count,
            "stored values, uint16",
        ),
        Way(
            "npy memmap, window in numpy", lambda: shared.windowed(npy_store(truth, scratch)), count
        ),
        Way("blosc2 as nnU-Net keeps it", nnunet, count, "float32 windowed beforehand, ZSTD"),
        Way(
            "blosc2 int16 LZ4, window in numpy",
            lambda: shared.windowed(blosc2_store(truth.volumes, scratch)),
            count,
        ),
        Way(
            "zarr int16 LZ4, window in numpy",
            lambda: shared.windowed(zarr_store(truth, scratch)),
            count,
        ),
        Way(
            "MONAI CacheDataset", lambda: monai_patches(truth, some, "CacheDataset", scratch), some
        ),
        Way(
            "MONAI PersistentDataset",
            lambda: monai_patches(truth, some, "PersistentDataset", scratch),
            some,
        ),
        Way(
            "MONAI Dataset",
            lambda: monai_patches(truth, slow, "Dataset", scratch),
            slow,
            "no cache",
        ),
        Way("TorchIO SubjectsDataset", lambda: TorchioPatches(truth, slow), slow, "no cache"),
    ]


def race_patches(shared: Patches, unpadded: Patches, repeat: int) -> None:
    """Measure patches; `unpadded` is the same CT without a declared padding value."""
    ways = patch_ways(shared, len(shared.order), 1)
    plain = Way("dicomdl.PatchDataset, no padding declared", unpadded.dataset, len(shared.order))
    contenders = [one_by_one(way, shared.fault) for way in ways]
    contenders.insert(1, one_by_one(plain, unpadded.fault))
    title = (
        f"1. One random patch of 96 x 96 x 96 of {len(shared.truth.volumes)} stacks, float32 "
        "windowed, in one process"
    )
    timings = race_ways(title, contenders, repeat=repeat, unit="ms/patch")
    goal("dicomdl / bare row reads", timings, ways[0].name, ways[1].name, most=2)
    goal("dicomdl, no padding declared / bare row reads", timings, plain.name, ways[1].name, most=2)
    goal("blosc2 as nnU-Net keeps it / dicomdl", timings, ways[0].name, ways[3].name, least=1)
    print(flush=True)


def race_epochs(shared: Patches, repeat: int) -> None:
    count = len(shared.order)
    ways = patch_ways(shared, count, 2)
    moved = Way(
        "moving alone: a clone of one patch",
        lambda: shared.at(Moving()),
        count,
        "float32, nothing read",
    )
    on_device = Way(
        "dicomdl.PatchDataset, int16 for the device",
        lambda: shared.dataset(intensity_on="device"),
        count,
        "int16, HU",
    )
    title = "2. An epoch of patches, 2 workers, batch 2, second epoch, the loader's time included"
    order = [ways[0], on_device, ways[1], moved, *ways[2:]]
    timings = race_ways(
        title,
        [by_loader(way, (lambda item: "") if way is moved else shared.fault) for way in order],
        repeat=repeat,
        unit="ms/patch",
    )
    mine = ways[0].name
    goal(
        "MONAI PersistentDataset, second epoch / dicomdl",
        timings,
        mine,
        "MONAI PersistentDataset",
        least=10,
    )
    goal("MONAI Dataset / dicomdl", timings, mine, "MONAI Dataset", least=100)
    goal("TorchIO without cache / dicomdl", timings, mine, "TorchIO SubjectsDataset", least=100)
    print(flush=True)


class Moving:
    """Measure the cost of a loader without reading."""

    def __init__(self) -> None:
        self._patch = np.zeros(SIZE, np.float32)

    def __call__(self, series: int, where: Any) -> Array:
        return self._patch.copy()


# --- a cache for compressed stacks ----------------------------------------------------------------


def race_cached(folder: Path, scratch: Path, count: int, repeat: int) -> None:
    """The second epoch of a JPEG 2000 source, by objects that did not fill the caches."""
    import dicomdl

    shared = Patches(folder, scratch, count)

    def second_epoch(format: Any) -> Any:
        first = shared.dataset(cache=dicomdl.DiskCache(scratch / format, format=format))
        for number in range(count):
            first[number]
        return shared.dataset(cache=dicomdl.DiskCache(scratch / format, format=format))

    store: list[Any] = []

    def stored() -> list[Any]:
        store[:] = store or blosc2_store(shared.truth.volumes, scratch)
        return store

    def read(series: int, where: Any) -> Array:
        return stored()[series][where]  # type: ignore[no-any-return]

    def bare() -> At:
        stored()
        return shared.at(read)

    ways = [
        Way("dicomdl.PatchDataset, DiskCache raw", lambda: second_epoch("raw"), count),
        Way("dicomdl.PatchDataset, DiskCache blosc2", lambda: second_epoch("blosc2"), count),
        Way("floor: blosc2 read of the same patch", bare, count, "int16 LZ4, no window"),
        Way("blosc2 int16 LZ4, window in numpy", lambda: shared.windowed(stored()), count),
        Way(
            "npy memmap, window in numpy",
            lambda: shared.windowed(npy_store(shared.truth, scratch)),
            count,
        ),
    ]
    title = "3. One random patch of a JPEG 2000 stack, second epoch"
    timings = race_ways(
        title, [one_by_one(way, shared.fault) for way in ways], repeat=repeat, unit="ms/patch"
    )
    goal("DiskCache raw / blosc2 read", timings, ways[0].name, ways[2].name, most=2)
    goal("DiskCache blosc2 / blosc2 read", timings, ways[1].name, ways[2].name, most=2)
    pixels = sum(volume.nbytes for volume in shared.truth.volumes)
    for format, limit in (("raw", 0.0), ("blosc2", 0.7)):
        size = (
            sum(file.stat().st_size for file in (scratch / format).rglob("*") if file.is_file())
            / pixels
        )
        said = f", at most {limit}: {'met' if size <= limit else 'NOT MET'}" if limit else ""
        print(f"  size of the cache {format} / uncompressed pixels: {size:.2f}{said}")
    print(flush=True)


# --- frames ---------------------------------------------------------------------------------------


def read_some(paths: Sequence[str], numbers: Sequence[int]) -> None:
    """Do the work of one process of the plain floor."""
    frames = BareFrames(paths)
    for number in numbers:
        frames.read(number)


def race_frames(folder: Path, scratch: Path, repeat: int) -> None:
    """Race all frames of a folder in random order, in batches of 2 MB as for patches."""
    import dicomdl

    index = dicomdl.scan(folder, out=scratch / f"{folder.name}.index", workers=1, progress=False)
    paths = [str(index.source(row).path) for row in range(len(index))]
    truth = [BareFrames(paths).read(row).astype(np.int16) - 1024 for row in range(len(index))]
    count = len(paths)

    def fault(item: Item) -> str:
        row = int(item["row"])
        # the others do not look for padding
        own = index.value(row, "pixel_padding_value") if "units" in item else None
        return fault_of_values(
            item["image"].numpy()[0], truth[row], None if own is None else int(own) - 1024
        )

    def plain() -> Task:
        pool, order = ProcessPoolExecutor(2), np.random.default_rng(0).permutation(count).tolist()
        return lambda: list(pool.map(read_some, [paths] * 2, [order[::2], order[1::2]]))

    ways = [
        Way("dicomdl.FrameDataset", lambda: dicomdl.FrameDataset(index, "ct.lung"), count),
        Way(
            "dicomdl.FrameDataset, int16 for the device",
            lambda: dicomdl.FrameDataset(index, "ct.lung", intensity_on="device"),
            count,
        ),
        Way(
            "floor: bare preadv in the same DataLoader",
            lambda: BareFrames(paths),
            count,
            "stored values, uint16",
        ),
        Way("pydicom Dataset", lambda: PydicomFrames(paths), count),
    ]
    contenders = [by_loader(way, fault) for way in ways]
    contenders.append(
        (Contender("bare preadv in 2 processes, no loader", plain, "nothing delivered"), count)
    )
    title = (
        f"4. {count} frames of 512 x 512 shuffled, float32 windowed, 2 workers, batch 2, second "
        "epoch"
    )
    timings = race_ways(title, contenders, repeat=repeat, unit="us/frame")
    mine = ways[0].name
    goal("pydicom Dataset / dicomdl", timings, mine, "pydicom Dataset", least=2)
    goal(
        "dicomdl's rate / bare preadv's in the same DataLoader",
        timings,
        mine,
        ways[2].name,
        least=0.4,
    )
    goal(
        "dicomdl's rate / bare preadv's without loader",
        timings,
        mine,
        contenders[-1][0].name,
        least=0.4,
    )
    print(flush=True)


def main() -> None:
    given = arguments(
        __doc__,
        slices=(512, "slices of the uncompressed CT, in series of 128"),
        patches=(48, "patches a round of those that are fast"),
        frames=(1_000_000, "frames of the large index"),
        rows=(20_000, "rows of the epoch that memory is measured over"),
        only=(0, "run this row of the table alone, 1 to 6"),
    )
    wanted = {given.only} if given.only else set(range(1, 7))
    with tempfile.TemporaryDirectory(prefix="dicomdl-benchmark-") as name:
        scratch, ct = Path(name), phantom_ct.ct_folder(given.slices)
        if wanted & {1, 2}:
            shared = Patches(ct, scratch, given.patches)
            if 1 in wanted:
                race_patches(
                    shared,
                    Patches(without_padding(given.slices), scratch, given.patches),
                    given.repeat,
                )
            if 2 in wanted:
                race_epochs(shared, given.repeat)
        if 3 in wanted:
            race_cached(
                phantom_ct.compressed_folder("j2k", 128), scratch, given.patches, given.repeat
            )
        if 4 in wanted:
            race_frames(ct, scratch, given.repeat)
        if wanted & {5, 6}:
            training_memory.measure(given.frames, given.rows, given.repeat, wanted)


if __name__ == "__main__":
    main()
