"""The distance to the machine, job by job: dicomdl with and without its module, floors, peers.

    python tests/benchmarks/limits.py --repeat 5
    python tests/benchmarks/limits.py --only patch --only volume
    python tests/benchmarks/limits.py --only small --files 1000000

Two processes do the work: one with the compiled module, which has the floor and the peers as well,
and one with DICOMDL_PURE=1. Rounds alternate between all ways, and a figure is the fastest round,
with the median beside it; ratios are of the fastest rounds. Limits are those of the project's
goals: a ratio to the floor above its limit is marked. The floor of a job does what no program can
leave out, by known paths and offsets: it finds nothing, checks nothing, and mostly delivers
unconverted values.

scan     a header scan with its index, per file, against open, fstat, pread of 16 KiB, close
patch    one 96 x 96 x 96 patch, float32 windowed, one process, against a pread per slice
volume   128 x 512 x 512 as int16 HU, against preadv in as many threads as there are cores
raw      the patch with cache="raw", against an npy memory map and the window in NumPy
epoch    an epoch of patches, 2 workers, against bare rows in the same loader, both float32
seg      the patch of a SEG of 10 segments, against a pread per frame and unpacked bits
rtstruct the patch of 20 regions, opened before, against polygons filled by Pillow
small    a scan of tiny files, against scandir, open, fstat, pread of 4 kB, close; with --files by
         as many processes as a scan takes by default, both the scan and the floor
update   a second scan of the tiny files, of which one changed, against scandir and stat, by as many
         processes as there are cores
"""

import functools
import gc
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import phantom_ct
import phantom_labels
import volume
from numpy.typing import NDArray

Task = Callable[[], Any]
OURS = "dicomdl"
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Job:
    """A job: its title, what a figure is divided by, and the highest ratios to the floor."""

    title: str
    units: int
    prepare: Callable[[Path], dict[str, Task]]
    most: float | None = None
    most_pure: float | None = None


PATCHES = 16  # per round and way
SCANNED, SMALL = 1024, 20_000  # files


# --- scans ----------------------------------------------------------------------------------------


def scans(folder: Path, scratch: Path, head: int, processes: int = 1) -> dict[str, Task]:
    """A scan by some processes, and the system calls that it cannot do without."""
    import dicomdl

    below = phantom_ct.series_folders(folder)
    shares = [below[number::processes] for number in range(processes)]

    def floor() -> None:
        if processes == 1:
            read_heads([folder], head)
        else:
            by_team(read_heads, [(share, head) for share in shares])

    def ours() -> None:
        # It stays until the job ends: ext4 takes 0.3 ms and more to create a file where others were
        # removed in the last seconds.
        out = tempfile.mkdtemp(dir=scratch)
        workers = 1 if processes == 1 else None
        assert len(dicomdl.scan(folder, out=out, workers=workers, progress=False))

    return {"floor": floor, OURS: ours}


def by_team(function: Callable[..., None], work: Sequence[tuple[Any, ...]]) -> None:
    """Call a function with each of some arguments, in a process each."""
    team = [FORK.Process(target=function, args=arguments) for arguments in work]
    for process in team:
        process.start()
    for process in team:
        process.join()


def read_heads(folders: Sequence[Path], head: int) -> None:
    """Open every file below some folders, look it up, and read its first bytes."""
    pending = list(map(str, folders))
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                descriptor = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
                os.fstat(descriptor)
                os.pread(descriptor, head, 0)
                os.close(descriptor)


def scan(scratch: Path) -> dict[str, Task]:
    return scans(phantom_ct.ct_folder(SCANNED), scratch, 16384)


def small(scratch: Path, files: int = SMALL, processes: int = 1) -> dict[str, Task]:
    return scans(phantom_ct.small_files(files), scratch, 4096, processes)


def update(scratch: Path, files: int = SMALL) -> dict[str, Task]:
    """A scan of files that are in the index, and the look at each that it cannot do without."""
    import dicomdl

    folder, out = phantom_ct.small_files(files), scratch / "index"
    below = sorted(folder.iterdir())
    cores = len(os.sched_getaffinity(0))
    dicomdl.scan(folder, out=out, progress=False)

    def floor() -> None:
        by_team(look_up, [(below[number::cores],) for number in range(cores)])

    def ours() -> None:
        os.utime(next(below[0].iterdir()))
        assert len(dicomdl.scan(folder, out=out, progress=False)) == files

    return {"floor": floor, OURS: ours}


def look_up(folders: Sequence[Path]) -> None:
    """Look up every file in some folders."""
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                entry.stat()


# --- patches --------------------------------------------------------------------------------------


def each(dataset: Any) -> Task:
    """Read every patch once, in this process."""

    def task() -> None:
        for number in range(PATCHES):
            dataset[number]

    return task


def shared_patches(scratch: Path) -> Any:
    from training import Patches
    from training_peers import without_padding

    return Patches(without_padding(512), scratch, PATCHES)


def patch(scratch: Path) -> dict[str, Task]:
    from training_peers import bare_rows, blosc2_store, npy_store

    shared = shared_patches(scratch)
    tasks = {
        "floor": each(shared.at(bare_rows(shared.truth))),
        OURS: each(checked(shared, shared.dataset())),
    }
    if not is_pure():
        tasks["npy memmap, window in numpy"] = each(
            shared.windowed(npy_store(shared.truth, scratch))
        )
        tasks["blosc2 int16 LZ4, window in numpy"] = each(
            shared.windowed(blosc2_store(shared.truth.volumes, scratch))
        )
    return tasks


def raw(scratch: Path) -> dict[str, Task]:
    from training_peers import npy_store

    import dicomdl

    shared = shared_patches(scratch)
    cache = dicomdl.DiskCache(scratch / "raw", uncompressed=True)
    return {
        "floor": each(shared.windowed(npy_store(shared.truth, scratch))),
        OURS: each(checked(shared, shared.dataset(cache=cache))),
    }


def checked(shared: Any, dataset: Any) -> Any:
    """Return a dataset whose patches have the true values."""
    fault = next(filter(None, (shared.fault(dataset[number]) for number in range(PATCHES))), "")
    assert not fault, fault
    return dataset


def epoch(scratch: Path) -> dict[str, Task]:
    import torch
    from training_peers import bare_rows

    shared = shared_patches(scratch)
    rows = bare_rows(shared.truth)

    def loaded(dataset: Any) -> Task:
        four = torch.utils.data.Subset(dataset, [*range(PATCHES)] * 4)
        loader = torch.utils.data.DataLoader(
            four, batch_size=2, shuffle=True, num_workers=2, persistent_workers=True
        )
        return lambda: sum(len(batch["image"]) for batch in loader)

    bare = shared.at(lambda series, where: rows(series, where).astype(np.float32))
    return {"floor": loaded(bare), OURS: loaded(checked(shared, shared.dataset()))}


# --- volumes --------------------------------------------------------------------------------------


def volumes(scratch: Path) -> dict[str, Task]:
    from training_peers import without_padding

    cores, tasks = len(os.sched_getaffinity(0)), dict[str, Task]()
    kinds = {"padding declared": phantom_ct.ct_folder, "no padding": without_padding}
    for kind, folder_of in kinds.items():
        folder = phantom_ct.series_folders(folder_of(512))[0]
        paths = volume.slice_order(phantom_ct.files_below(folder))
        shape = (len(paths), phantom_ct.ROWS, phantom_ct.COLUMNS)
        ours = volume.dicomdl_volume(folder, scratch / kind)
        assert np.array_equal(ours(), volume.true_volume(paths))
        tasks |= {
            f"floor, {kind}": volume.bare_read(paths, shape, cores),
            f"floor, {kind}, one thread": volume.bare_read(paths, shape),
            f"{OURS}, {kind}": ours,
        }
    return tasks


# --- labels ---------------------------------------------------------------------------------------


def seg(scratch: Path) -> dict[str, Task]:
    import labels

    import dicomdl
    from dicomdl.labels.reader import label_block

    # As patches are drawn: one after the other, each elsewhere.
    starts = labels.START + np.random.default_rng(0).integers(0, 80, (PATCHES, 3))
    boxes = [(tuple(each.tolist()), tuple((each + 96).tolist())) for each in starts]
    tasks: dict[str, Task] = {}
    for kind in ("BINARY", "LABELMAP"):
        path = phantom_labels.seg_file(labels.SLICES, labels.SEGMENTS, kind)
        folder = phantom_labels.ct_folder(labels.SLICES)
        index = dicomdl.scan([folder, path], f"{scratch}/{kind}", progress=False)
        reader = dicomdl.LabelSource("SEG").reader(index.select(has="SEG").stacks[0])

        def bare(path: Path = path, kind: str = kind) -> list[Any]:
            return [labels.floor(path, kind, *box) for box in boxes]

        def ours(reader: Any = reader) -> list[Any]:
            return [label_block(reader, *box, np.uint8)[0] for box in boxes]

        assert np.array_equal(ours(), bare()) and all(block.any() for block in ours())
        tasks |= {f"floor, {kind}": bare, f"{OURS}, {kind}": ours}
    return tasks


def rtstruct(scratch: Path) -> dict[str, Task]:
    import labels
    from PIL import Image, ImageDraw
    from pydicom import dcmread

    import dicomdl
    from dicomdl.labels.reader import label_block

    ct = phantom_labels.ct_folder(134)
    path = phantom_labels.structure_set(134, labels.REGIONS, 70)
    index = dicomdl.scan([ct, path], f"{scratch}/rt", progress=False)
    reader = dicomdl.LabelSource("RTSTRUCT").reader(index.select(has="RTSTRUCT").stacks[0])
    start, stop = (20, 180, 180), (116, 276, 276)
    steps = np.array([phantom_labels.PIXEL_SPACING] * 2 + [phantom_labels.SLICE_SPACING])
    polygons = []
    for number, region in enumerate(dcmread(path).ROIContourSequence, 1):
        for contour in region.ContourSequence:
            points = np.array(contour.ContourData, np.float64).reshape(-1, 3) / steps
            z = round(points[0, 2]) - start[0]
            if 0 <= z < stop[0] - start[0]:
                flat = (points[:, :2] - [start[2], start[1]]).ravel().tolist()
                polygons.append((z, number, flat))

    def floor() -> NDArray[np.uint8]:
        planes = [Image.new("L", (96, 96)) for _ in range(stop[0] - start[0])]
        pens = [ImageDraw.Draw(plane) for plane in planes]
        for z, number, points in polygons:
            pens[z].polygon(points, fill=number)
        return np.stack([np.asarray(plane) for plane in planes])

    return {"floor": floor, OURS: lambda: label_block(reader, start, stop, np.uint8)[0]}


JOBS = {
    "scan": Job("header scan, index written, us/file", SCANNED, scan, 3.5),
    "patch": Job("patch of 96 x 96 x 96, float32 windowed, us", PATCHES, patch, 1.25, 2.0),
    "volume": Job("volume of 128 x 512 x 512, int16, us", 1, volumes, 1.15, 1.8),
    "raw": Job('patch with cache="raw" against npy, us', PATCHES, raw, 1.0),
    "epoch": Job("epoch of patches, 2 workers, us/patch", 4 * PATCHES, epoch, 1.15),
    "seg": Job("label patch of a SEG, us", PATCHES, seg, 1.5),
    "rtstruct": Job("label patch of an RTSTRUCT, us", 1, rtstruct, 1.5),
    "small": Job(f"{SMALL} tiny files scanned, us/file", SMALL, small, 4.0),
    "update": Job(f"{SMALL} tiny files scanned again, us/file", SMALL, update, 5.0),
}


def many_small(files: int) -> Job:
    """The job `small` with another number of files, by as many processes as there are cores."""
    cores = len(os.sched_getaffinity(0))
    prepare = functools.partial(small, files=files, processes=cores)
    return Job(f"{files} tiny files scanned by {cores} processes, us/file", files, prepare, 4.0)


def many_again(files: int) -> Job:
    """The job `update` with another number of files."""
    prepare = functools.partial(update, files=files)
    return Job(f"{files} tiny files scanned again, us/file", files, prepare, 5.0)


# --- the two processes ----------------------------------------------------------------------------


def is_pure() -> bool:
    """Whether this process runs without the compiled module."""
    return bool(os.environ.get("DICOMDL_PURE"))


def serve(name: str) -> None:
    """Do the ways of a job that are named on standard input, and print the seconds of each."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="dicomdl-limits-") as scratch:
        tasks = JOBS[name].prepare(Path(scratch))
        for task in tasks.values():
            task()
        print(json.dumps(list(tasks)), flush=True)
        for line in sys.stdin:
            gc.collect()
            start = time.perf_counter()
            tasks[line.strip()]()
            print(time.perf_counter() - start, flush=True)


class Server:
    """A process with the ways of one job."""

    def __init__(self, name: str, options: list[str], *, pure: bool) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "DICOMDL_PURE"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--serve", name, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, **({"DICOMDL_PURE": "1"} if pure else {})},
        )
        line = self._pipes()[1].readline()
        while line and not line.startswith("["):  # data being written
            line = self._pipes()[1].readline()
        self.ways: list[str] = json.loads(line or "[]")

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def run(self, way: str) -> float:
        """Return the seconds of one way."""
        given, answers = self._pipes()
        given.write(way + "\n")
        given.flush()
        return float(answers.readline())

    def close(self) -> None:
        """End the process."""
        self._pipes()[0].close()
        self._process.wait()


def race(name: str, rounds: int, options: list[str]) -> None:
    """Measure all ways of a job in alternating rounds, and print them."""
    with_module, without = Server(name, options, pure=False), Server(name, options, pure=True)
    ways = [(way, with_module) for way in with_module.ways]
    for number, (way, _) in reversed(list(enumerate(ways))):
        if way.startswith(OURS) and way in without.ways:
            ways.insert(number + 1, (way, without))
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for kept, (way, server) in zip(seconds, ways, strict=True):
            kept.append(server.run(way))
    with_module.close()
    without.close()
    named = {
        f"{way}, DICOMDL_PURE=1" if server is without else way: kept
        for (way, server), kept in zip(ways, seconds, strict=True)
    }
    show(JOBS[name], named)


def show(job: Job, seconds: dict[str, list[float]]) -> None:
    """Print a table, with the ratio of each way to the floor before it."""
    print(f"{job.title}{'':<6}{'fastest':>40}{'median':>12}{'x floor':>9}")
    floor = float("nan")
    for way, kept in seconds.items():
        fastest, median = (f(kept) * 1e6 / job.units for f in (min, statistics.median))
        floor = fastest if way.startswith("floor") and "thread" not in way else floor
        most = job.most_pure if way.endswith("PURE=1") else job.most
        is_ours = way.startswith(OURS) and most is not None
        is_met = is_ours and fastest / floor <= (most or 0)
        verdict = (f"   at most {most:g}: " + ("met" if is_met else "NOT MET")) if is_ours else ""
        print(f"  {way:<50}{fastest:>12.1f}{median:>12.1f}{fastest / floor:>9.2f}{verdict}")
    print(flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--only", choices=JOBS, action="append")
    parser.add_argument("--serve", choices=JOBS)
    parser.add_argument("--files", type=int, help="files of small, by all cores, and of update")
    given = parser.parse_args()
    options = []
    if given.files:
        JOBS["small"], options = many_small(given.files), ["--files", str(given.files)]
        JOBS["update"] = many_again(given.files)
    if given.serve:
        serve(given.serve)
        return
    for name in given.only or JOBS:
        race(name, given.repeat, options)


if __name__ == "__main__":
    main()
