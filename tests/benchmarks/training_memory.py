"""Memory and start of a loader over 1,000,000 frames.

    python tests/benchmarks/training_memory.py --frames 1000000 --rows 20000

The figures are the private dirty memory of spawned workers over an epoch, the size of pickled
datasets, and the time to the first batch. The index repeats two real series of 128 slices under
other identifiers: every 32nd is the CT of 512 x 512, the others have 4 x 4 pixels, so that an epoch
measures the walk through the rows of the index, not the reading of half a terabyte. The files
exist, and all are opened and read. Workers are those of a DataLoader; a collate function measures
their memory once the samples of the batch are freed, and returns nothing else. The baseline is a
dataset that imports every module that such a worker had, and no more.

This module is imported anew by spawned workers: it imports nothing but the standard library, so
that what a worker imports is measured.
"""

import gc
import hashlib
import importlib
import json
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from dicomdl.index import generations as generations_module
from dicomdl.index import own_scans
from dicomdl.index import schema as schema_module
from dicomdl.index import stored_generation as stored_module

LARGE_EVERY = 32
PATCH = (4, 4, 4)  # as large as most slices
PER_STACK = 16
KINDS = ("frames", "patches")


# --- the index ------------------------------------------------------------------------------------


def repeated_index(frames: int) -> Path:
    """An index of `frames` frames whose files exist.

    Runs share it, as they share that of `index.repeated_index`.
    """
    import phantom_ct

    from dicomdl.headers import attribute, frame
    from dicomdl.index import table as tables

    code = b"".join(
        Path(str(module.__file__)).read_bytes() for module in (attribute, frame, tables)
    )
    digest = hashlib.blake2b(code, digest_size=4).hexdigest()
    out = phantom_ct.data_folder() / f"training-index-{frames}-{digest}-v{phantom_ct.VERSION}"
    if not out.exists():
        for outdated in phantom_ct.data_folder().glob(f"training-index-{frames}-*"):
            shutil.rmtree(outdated)
        print(f"writing {out} ...", flush=True)
        partial = out.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="dicomdl-benchmark-") as scratch:
            _repeat(Path(scratch) / "seed", partial, max(1, frames // phantom_ct.SLICES_PER_SERIES))
        partial.rename(out)
    return out


def small_series() -> Path:
    """128 CT slices of 4 x 4 pixels, with headers as large as those of others."""
    import random

    import numpy as np
    import phantom_ct
    from pydicom import dcmwrite
    from pydicom.uid import ExplicitVRLittleEndian

    def write(folder: Path) -> None:
        chance = random.Random(1000)
        header = phantom_ct.series_header(1000, chance, ExplicitVRLittleEndian)
        header.Rows = header.Columns = 4
        for z in range(phantom_ct.SLICES_PER_SERIES):
            phantom_ct.vary_slice(header, 1000, z, phantom_ct.SLICES_PER_SERIES, chance)
            phantom_ct.set_pixels(
                header, np.full((4, 4), 1000 + z, np.uint16), ExplicitVRLittleEndian
            )
            dcmwrite(folder / f"{z}.dcm", header, enforce_file_format=True)

    return phantom_ct._kept("small-ct-128", write)


def _repeat(seed: Path, out: Path, series: int) -> None:
    import numpy as np
    import phantom_ct
    from index import _frame_values, _replaced

    import dicomdl

    slices = phantom_ct.SLICES_PER_SERIES
    dicomdl.scan(
        [phantom_ct.ct_folder(slices), small_series()], out=seed, workers=1, progress=False
    )
    generation = stored_module.read_manifest(str(seed))["generation"]
    stored = stored_module.StoredGeneration(str(seed), generation)
    one = {name: stored.table(name) for name in schema_module.TABLES}
    starts = one["stacks"].numbers("frame_start")
    assert len(starts) == 2, "two series make two stacks"
    large = [
        int(one["frames"].value("rows", int(start))) == phantom_ct.ROWS for start in starts
    ].index(True)
    stack_of = np.where(np.arange(series) % LARGE_EVERY == 0, large, 1 - large)
    rows = (starts[stack_of][:, None] + np.arange(slices)).ravel()
    values = _frame_values(
        one["frames"], np.repeat(np.arange(series), slices), rows, np.random.default_rng(0)
    )
    del values["byte_offset"]
    repeated = {
        "files": one["files"].take(one["frames"].numbers("file")[rows].astype(np.int64)),
        "frames": _replaced(one["frames"].take(rows), values),
        "stacks": _replaced(
            one["stacks"].take(stack_of),
            {"frame_start": np.arange(series) * slices, "series": np.arange(series)},
        ),
        "problems": one["problems"],
        "annotations": one["annotations"],
    }
    own_scans.record(str(out), generations_module.publish(str(out), repeated, stored.facts()))


def dataset_of(kind: str, folder: str) -> Any:
    """A dataset of the large index."""
    import dicomdl

    index = dicomdl.open_index(folder)
    if kind == "frames":
        return dicomdl.FrameDataset(index)
    if kind == "volumes":
        return dicomdl.VolumeDataset(index)
    return dicomdl.PatchDataset(index, PATCH, per_stack=PER_STACK)


# --- memory ---------------------------------------------------------------------------------------


def private_dirty_mb() -> float:
    """Do the same as `index.private_dirty_mb`, without the imports of that module."""
    try:
        with open("/proc/self/smaps_rollup") as file:
            return (
                next(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))
                / 1024
            )
    except (OSError, StopIteration):
        import psutil

        return float(psutil.Process().memory_full_info().uss) / 2**20


class Imports:
    """A map-style dataset that imports some modules, and nothing else."""

    def __init__(self, length: int, modules: list[str]) -> None:
        self._length, self._modules = length, modules

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> int:
        for name in self._modules:
            try:
                importlib.import_module(name)
            except Exception:  # what cannot be imported alone came with another module
                continue
        self._modules = []
        return row


class Lists:
    """A common hand-written dataset: a list of a path and some facts per row."""

    def __init__(self, length: int) -> None:
        self._rows = [
            {
                "path": f"/data/archive/{n // 128:05d}/{n:016x}.dcm",
                "uid": f"1.2.826.0.1.{n}",
                "z": n * 0.625,
            }
            for n in range(length)
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Any:
        return self._rows[row]["z"]


class Probe:
    """A collate function that drops the samples and reports the worker's memory.

    Now and then it returns (worker, private dirty MB, modules, rows so far).
    """

    def __init__(self, every: int) -> None:
        self._every, self._rows, self._next = every, 0, 0

    def __call__(self, samples: list[Any]) -> Any:
        import torch

        self._rows += len(samples)
        samples.clear()
        if self._rows < self._next:
            return None
        self._next += self._every
        gc.collect()
        worker: Any = torch.utils.data.get_worker_info()
        return worker.id, private_dirty_mb(), sorted(sys.modules), self._rows


def course(dataset: Any, rows: int, method: str = "spawn") -> tuple[list[float], list[str], float]:
    """Measure an epoch of shuffled rows, with workers of a start method.

    Returns the private dirty MB of the worker that ends with most, at the start and at every
    tenth of the epoch; its modules; us per row.
    """
    import torch

    import dicomdl

    sampler = list(dicomdl.RowSampler(len(dataset), seed=0))[:rows]
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=16,
        sampler=sampler,
        num_workers=2,
        multiprocessing_context=method,
        collate_fn=Probe(len(sampler) // 20),
    )
    measured: dict[int, list[float]] = {0: [], 1: []}
    modules: list[str] = []
    start = 0.0
    for found in loader:
        if found is not None:
            start = start or time.perf_counter()
            measured[found[0]].append(found[1])
            modules = found[2]
    seconds = time.perf_counter() - start
    most = max(measured.values(), key=lambda one: one[-1])
    return most, modules, seconds / len(sampler) * 2 * 1e6


def growth(method: str, frames: int, rows: int) -> dict[str, float]:
    """MB of a worker above one with the same imports, at the start and end of an epoch.

    Also the bytes of the pickled dataset.
    """
    import dicomdl

    # The record of the scan is in the cache folder of whoever wrote the index.
    dataset = dicomdl.FrameDataset(dicomdl.open_index(repeated_index(frames), trust=True))
    measured, modules, _ = course(dataset, rows, method)
    base = course(Imports(rows, modules), rows, method)[0][-1]
    return {
        "start": measured[0] - base,
        "end": measured[-1] - base,
        "pickled": len(pickle.dumps(dataset)),
    }


def print_memory(folder: Path, rows: int) -> None:
    """Rows of the table: memory that each dataset adds to a worker."""
    print(
        "5. Private dirty memory of a spawned worker of a loader, above one with the same "
        f"imports, {rows} shuffled rows   [MB]"
    )
    for kind in KINDS:
        dataset = dataset_of(kind, str(folder))
        measured, modules, microseconds = course(dataset, rows)
        base = course(Imports(20_000, modules), 20_000)[0][-1]
        above = [value - base for value in measured]
        told = " ".join(f"{value:.1f}" for value in above) + f"   {microseconds:.0f} us a row"
        met = "met" if above[-1] <= 10 else "NOT MET"
        print(
            f"  {kind:<12}{above[-1]:>8.1f}   at most 10, flat: {met}   base {base:.0f}   over the "
            f"epoch: {told}"
        )
    lists = Lists(1_000_000)
    measured, modules, _ = course(lists, rows)
    base = course(Imports(20_000, modules), 20_000)[0][-1]
    print(
        f"  {'Python lists':<12}{measured[-1] - base:>8.1f}   over the epoch: "
        f"{' '.join(f'{value - base:.1f}' for value in measured)}"
    )
    for kind in (*KINDS, "volumes"):
        size = len(pickle.dumps(dataset_of(kind, str(folder))))
        print(
            f"  the dataset of {kind}, pickled: {size} bytes, at most 4096: "
            f"{'met' if size <= 4096 else 'NOT MET'}"
        )
    print(flush=True)


# --- the first batch ------------------------------------------------------------------------------


def first_batch(kind: str, folder: str) -> dict[str, float]:
    """Seconds from `open_index` to the first batch of two spawned workers.

    This process has imported all it needs.
    """
    import torch
    import torch.utils.data

    import dicomdl
    import dicomdl.datasets.frames
    import dicomdl.datasets.samplers

    started = time.perf_counter()
    empty = kind in ("empty", "imports")
    modules = ["dicomdl.datasets.frames"] if kind == "imports" else []
    dataset: Any = Imports(1_000_000, modules) if empty else dataset_of(kind, folder)
    sampler = range(len(dataset)) if empty else dicomdl.RowSampler(dataset)
    made = time.perf_counter()
    how: dict[str, Any] = {} if empty else {"collate_fn": dicomdl.collate}
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=2,
        sampler=sampler,
        num_workers=2,
        multiprocessing_context="spawn",
        **how,
    )
    next(iter(loader))
    return {"seconds": time.perf_counter() - started, "made": made - started}


def print_first_batch(folder: Path, repeat: int) -> None:
    """Interleaved rounds, each in a fresh process."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in ("empty", "imports", *KINDS)}
    for number in range(repeat + 1):
        for kind, runs in found.items():
            command = [sys.executable, "-W", "ignore", __file__, "--first-batch", kind, str(folder)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            if number:  # the first process warmed the page cache
                runs.append(json.loads(output.splitlines()[-1]))
    empty = statistics.median(run["seconds"] for run in found["empty"])
    print(
        "6. From open_index to the first batch, spawn, 2 workers, above an empty DataLoader's   "
        "[s, medians of fresh processes]"
    )
    for kind, runs in found.items():
        seconds, made = (
            statistics.median(run[name] for run in runs) for name in ("seconds", "made")
        )
        told = (
            f"   at most 1: {'met' if seconds - empty <= 1 else 'NOT MET'}; {made:.2f} of it "
            "before the loader"
            if kind in KINDS
            else ""
        )
        name = {"empty": "an empty DataLoader", "imports": "that, workers import dicomdl"}.get(
            kind, f"dicomdl, {kind}"
        )
        print(f"  {name:<32}{seconds:>8.2f}   above {seconds - empty:>6.2f}{told}")
    print(flush=True)


def measure(frames: int, rows: int, repeat: int, wanted: set[int]) -> None:
    """Rows 5 and 6 of the table."""
    folder = repeated_index(frames)
    if 5 in wanted:
        print_memory(folder, rows)
    if 6 in wanted:
        print_first_batch(folder, repeat)


def main() -> None:
    if sys.argv[1:2] == ["--first-batch"]:
        print(json.dumps(first_batch(sys.argv[2], sys.argv[3])))
        return
    if sys.argv[1:2] == ["--growth"]:
        print(json.dumps(growth(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
        return
    from rounds import arguments

    given = arguments(
        __doc__,
        frames=(1_000_000, "frames of the index"),
        rows=(20_000, "rows of the epoch"),
        only=(0, "5: memory alone, 6: first batch"),
    )
    warnings.simplefilter("ignore")
    measure(given.frames, given.rows, given.repeat, {given.only} if given.only else {5, 6})


if __name__ == "__main__":
    main()
