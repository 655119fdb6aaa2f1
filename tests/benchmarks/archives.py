"""Folder, stored zip, deflated zip and tar of the same CT: scan, rescan, frame, patch, volume.

    python tests/benchmarks/archives.py --slices 512 --repeat 7

CPU time of one process, in alternating rounds; every figure is also given as a ratio to the folder.
Patches of 96 x 96 x 96 lie at random places, and each is read by itself, as a sample is. The zip is
written without compression, as `zip -0` does, and by deflate at its first level.
"""

import gc
import os
import random
import shutil
import statistics
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantom_ct
from rounds import arguments

import dicomdl
from dicomdl.storage.sources import kept_open
from dicomdl.volumes.blocks import StackVoxels

PATCH = 96
PATCHES = 40
FRAMES = 100


def packed(folder: Path, slices: int) -> dict[str, Path]:
    """Return the folder and its archives, which are written once."""
    files = phantom_ct.files_below(folder)

    def zip_of(method: int) -> Callable[[Path], None]:
        def write(parent: Path) -> None:
            with zipfile.ZipFile(parent / "a.zip", "w", method, compresslevel=1) as archive:
                for file in files:
                    archive.write(file, Path(file).relative_to(folder))

        return write

    def tar(parent: Path) -> None:
        with tarfile.open(parent / "a.tar", "w") as archive:
            archive.add(folder, arcname=".")

    writers = {
        f"stored-{slices}": ("a.zip", zip_of(zipfile.ZIP_STORED)),
        f"deflated-{slices}": ("a.zip", zip_of(zipfile.ZIP_DEFLATED)),
        f"tar-{slices}": ("a.tar", tar),
    }
    made = {"folder": folder}
    for name, (file, write) in writers.items():
        parent = phantom_ct.data_folder() / f"archive-{name}"
        if not (parent / file).exists():
            parent.mkdir(parents=True, exist_ok=True)
            write(parent)
        made[name.partition("-")[0]] = parent / file
    return made


def forget(path: Path) -> None:
    """Drop a root from the page cache, where the system can.

    Pages that writing left there depend on the sizes of the writes, and cost up to half as much
    again to copy.
    """
    for file in phantom_ct.files_below(path) if path.is_dir() else [str(path)]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def tasks(path: Path, scratch: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """Return the jobs on one root, each with the number of its units."""
    out = scratch / path.name
    index = dicomdl.scan(path, out, workers=1, progress=False)
    stacks = list(index.stacks)

    def scan() -> object:
        fresh = Path(tempfile.mkdtemp(dir=scratch))
        try:
            return len(dicomdl.scan(path, fresh, workers=1, progress=False))
        finally:
            shutil.rmtree(fresh)

    def patches() -> object:
        draw, total = random.Random(1), 0
        for _ in range(PATCHES):
            stack = draw.choice(stacks)
            shape = (len(stack), int(stack.value("rows")), int(stack.value("columns")))
            size = tuple(min(PATCH, n) for n in shape)
            start = [draw.randrange(n - m + 1) for n, m in zip(shape, size, strict=True)]
            with kept_open():
                voxels = StackVoxels(stack)
                stop = [n + m for n, m in zip(start, size, strict=True)]
                total += int(voxels.read(tuple(start), tuple(stop))[0][0, 0, 0])
        return total

    def frames() -> object:
        draw = random.Random(2)
        rows = [draw.randrange(len(index)) for _ in range(FRAMES)]
        return sum(int(dicomdl.read_frame(index.frame(row))[0, 0]) for row in rows)

    return {
        "scan, ms/file": (scan, len(index)),
        "rescan, ms/file": (
            lambda: dicomdl.scan(path, out, workers=1, progress=False),
            len(index),
        ),
        "frame, ms": (frames, FRAMES),
        "patch of 96^3, ms": (patches, PATCHES),
        "volume of 128 slices, ms": (
            lambda: float(np.asarray(dicomdl.read_volume(stacks[0]).array[0, 0, 0])),
            1,
        ),
    }


def main() -> None:
    """Print the medians, and their ratios to the folder."""
    given = arguments(__doc__, slices=(512, "CT slices"))
    roots = packed(phantom_ct.ct_folder(given.slices), given.slices)
    for path in roots.values():
        forget(path)
    with tempfile.TemporaryDirectory() as scratch:
        jobs = {
            name: tasks(path, Path(tempfile.mkdtemp(dir=scratch))) for name, path in roots.items()
        }
        for job in next(iter(jobs.values())):
            seconds: dict[str, list[float]] = {name: [] for name in jobs}
            results = {}
            for turn in range(given.repeat + 1):
                for name, own in jobs.items():
                    task, _ = own[job]
                    gc.collect()
                    start = time.process_time()
                    results[name] = task()
                    if turn:
                        seconds[name].append(time.process_time() - start)
            print(job)
            for name, own in jobs.items():
                median = statistics.median(seconds[name])
                ratio = statistics.median(
                    mine / theirs
                    for mine, theirs in zip(seconds[name], seconds["folder"], strict=True)
                )
                print(f"  {name:<12}{median / own[job][1] * 1e3:>10.3f}{ratio:>8.2f} x folder")
            if not job.startswith("rescan"):
                assert len(set(map(repr, results.values()))) == 1, results


if __name__ == "__main__":
    main()
