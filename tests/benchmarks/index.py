"""An index of 1,000,000 frames in 10,000 series: opening, look-up, selection, pickling, memory.

    python tests/benchmarks/index.py --frames 1000000 --repeat 5

First-use times are measured in fresh processes, after the imports. The memory of a worker is the
private dirty memory of a spawned process that unpickled the index and read rows in random order,
minus that of a process with the same imports and no index. It is measured at every tenth of the
epoch, to detect growth.
"""

import hashlib
import json
import multiprocessing
import os
import pickle
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantom_ct
from rounds import arguments

from dicomdl.index import building as building_module
from dicomdl.index import generations as generations_module
from dicomdl.index import own_scans
from dicomdl.index import schema as schema_module
from dicomdl.index import stored_generation as stored_module

SLICES = 100
# What a loader asks of a frame beside its pixels: identifiers, rescale, position.
WANTED = (
    "patient_id",
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "image_position_patient",
    "rescale_slope",
)
# ms
GOALS = {
    "open_index": 10.0,
    "first index.frame(i)": 1.0,
    "select(modality='CT')": 50.0,
    "split in strata": 2000.0,
    "audit of 5 folds": 300.0,
    "print(index)": 500.0,
}


# --- the index ------------------------------------------------------------------------------------


def repeated_index(folder: Path, frames: int) -> Path:
    """An index of `frames` frames, stored between runs.

    It repeats a real index of 100 CT slices under other identifiers. Odd series are CT, even ones
    MR; positions, times and UIDs differ as in real series. The files do not exist. The name of the
    folder contains a digest of the code that builds the tables, so that a change of the code makes
    another index.
    """
    from dicomdl.headers import attribute, frame
    from dicomdl.index import table as tables

    code = b"".join(
        Path(str(module.__file__)).read_bytes() for module in (attribute, frame, tables)
    )
    out = (
        folder
        / f"index-{frames}-{hashlib.blake2b(code, digest_size=4).hexdigest()}-v{phantom_ct.VERSION}"
    )
    if not out.exists():
        for outdated in folder.glob(f"index-{frames}-*"):
            shutil.rmtree(outdated)
        print(f"writing {out} ...", flush=True)
        partial = out.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="dicomdl-benchmark-") as scratch:
            _repeat_index(_seed_index(Path(scratch)), partial, max(1, frames // SLICES))
        partial.rename(out)
    return out


def _seed_index(scratch: Path) -> Path:
    import dicomdl

    (scratch / "slices").mkdir()
    series = phantom_ct.series_folders(phantom_ct.ct_folder(phantom_ct.SLICES_PER_SERIES))[0]
    for name in sorted(os.listdir(series))[:SLICES]:
        shutil.copy(series / name, scratch / "slices" / name)
    dicomdl.scan(scratch / "slices", out=scratch / "index", workers=1, progress=False)
    return scratch / "index"


def _repeat_index(seed: Path, out: Path, series: int) -> None:

    generation = stored_module.read_manifest(str(seed))["generation"]
    stored = stored_module.StoredGeneration(str(seed), generation)
    one = {name: stored.table(name) for name in schema_module.TABLES}
    chance = np.random.default_rng(0)
    rows = np.tile(np.arange(SLICES), series)
    number = np.repeat(np.arange(series), SLICES)
    paths = [
        b"/data/archive/%05d/%016x.dcm" % (n, token)
        for n, token in zip(number, chance.integers(0, 2**62, len(rows)), strict=True)
    ]
    repeated = {
        "files": _replaced(
            one["files"].take(rows),
            {"path": paths, "file_mtime_ns": 10**18 + chance.integers(0, 10**17, len(rows))},
        ),
        "frames": _replaced(
            one["frames"].take(rows), _frame_values(one["frames"], number, rows, chance)
        ),
        "stacks": _replaced(
            one["stacks"].take(np.zeros(series, np.int64)),
            {"frame_start": np.arange(series) * SLICES, "series": np.arange(series)},
        ),
        "problems": one["problems"],
        "annotations": one["annotations"],
    }
    own_scans.record(str(out), generations_module.publish(str(out), repeated, stored.facts()))


def _replaced(table: Any, columns: dict[str, Any]) -> Any:
    """Replace columns of a table, encoded as `scan` encodes them.

    The other columns are encoded already.
    """
    from dicomdl.index import table as tables

    for name, values in columns.items():
        table = table.with_column(name, values)
    encoded = building_module.encoded(tables.Table(table.arrow.select(list(columns)))).arrow
    arrow = table.arrow
    for name in columns:
        arrow = arrow.set_column(
            arrow.schema.get_field_index(name), encoded.schema.field(name), encoded.column(name)
        )
    return tables.Table(arrow)


def _frame_values(one: Any, number: Any, rows: Any, chance: np.random.Generator) -> dict[str, Any]:
    """Columns of `frames` that differ between series, or between slices."""
    root = phantom_ct.ROOT_UID
    shift = chance.uniform(-300, 300, (number[-1] + 1, 3)).round(3)
    positions = one.vectors("image_position_patient", 3)[rows] + shift[number]
    seconds = chance.integers(0, 86_399, len(rows))
    return {
        "file": np.arange(len(rows)),
        "sop_instance_uid": [
            f"{root}.5.{n}.{row + 1}.{token}"
            for n, row, token in zip(number, rows, seconds * 7919, strict=True)
        ],
        "series_instance_uid": [f"{root}.3.{n}.{n * 104_729}" for n in number],
        "study_instance_uid": [f"{root}.2.{n // 2}.{n // 2 * 104_729}" for n in number],
        "frame_of_reference_uid": [f"{root}.4.{n}" for n in number],
        "patient_id": [f"BENCH-{n // 3:06d}" for n in number],
        "modality": ["CT" if n % 2 else "MR" for n in number],
        "image_position_patient": list(positions),
        "slice_location": positions[:, 2],
        "content_time": [
            f"{s // 3600:02d}{s // 60 % 60:02d}{s % 60:02d}.{s * 31 % 1000:03d}" for s in seconds
        ],
        "acquisition_time": [f"{s // 3600:02d}{s // 60 % 60:02d}{s % 60:02d}" for s in seconds],
        "byte_offset": 9000 + chance.integers(0, 200, len(rows)),
    }


# --- times, each in a fresh process ---------------------------------------------------------------


def first_uses(folder: str, row: int) -> dict[str, float]:
    """Measure first uses in this process, in milliseconds, and the bytes of the pickles."""
    import dicomdl

    _import_all()
    measured: dict[str, float] = {}

    def timed(name: str, use: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = use()
        measured[name] = (time.perf_counter() - start) * 1e3
        return result

    index = timed("open_index", lambda: dicomdl.open_index(folder))
    timed("first index.frame(i)", lambda: index.frame(row))
    rows = np.random.default_rng(row).integers(0, len(index), 200).tolist()
    timed("200 x index.frame(i)", lambda: [index.frame(other) for other in rows])
    timed("200 x index.source(i)", lambda: [index.source(other) for other in rows])
    selection = timed("select(modality='CT')", lambda: index.select(modality="CT"))
    timed("select(verdict='regular')", lambda: index.select(verdict="regular"))
    timed("split by patient", lambda: index.split((0.8, 0.1, 0.1), by="patient", seed=0))
    parts = timed("split in strata", lambda: index.split(k=5, stratify="modality"))
    timed("audit of 5 folds", lambda: index.audit(*parts))
    timed("print(index)", lambda: str(index))
    data = timed("pickle the index", lambda: pickle.dumps(index))
    selected = timed("pickle a selection", lambda: pickle.dumps(selection))
    timed("unpickle a selection", lambda: len(pickle.loads(selected)))
    return measured | {
        "bytes of the index": len(data),
        "bytes of a selection": len(selected),
        "frames": len(index),
        "selected": len(selection),
    }


def _import_all() -> None:
    """Import every module that the measured calls use, so that no import is timed."""
    import dicomdl.datasets.frames
    import dicomdl.index.index
    import dicomdl.index.table  # noqa: F401


def time_first_uses(folder: Path, repeat: int, frames: int) -> None:
    """Print the medians over `repeat` fresh processes."""
    runs = []
    for round_number in range(repeat + 1):
        command = [
            sys.executable,
            __file__,
            "--first-uses",
            str(folder),
            str((round_number * 7919 + frames // 2) % frames),
        ]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        runs.append(json.loads(output.splitlines()[-1]))
    runs = runs[1:]  # the first process warmed the page cache
    print(
        f"Index of {int(runs[0]['frames'])} frames, {int(runs[0]['selected'])} of them selected; "
        "fresh processes   [medians]"
    )
    for name in runs[0]:
        if name in ("frames", "selected"):
            continue
        median = statistics.median(run[name] for run in runs)
        unit = "bytes" if name.startswith("bytes") else "ms"
        goal = 4000.0 if unit == "bytes" else GOALS.get(name)
        print(
            f"  {name:<44}{median:>10.{0 if unit == 'bytes' else 3}f} {unit:<6}"
            + (f" goal {goal:g}" if goal else "")
        )
    print(flush=True)


# --- memory of workers ----------------------------------------------------------------------------


def private_dirty_mb() -> float:
    """Return the private dirty memory of this process in MB.

    On systems without this figure, it is the unique set size.
    """
    try:
        with open("/proc/self/smaps_rollup") as file:
            return (
                next(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))
                / 1024
            )
    except (OSError, StopIteration):
        import psutil

        return float(psutil.Process().memory_full_info().uss) / 2**20


def worker(index: Any, lookups: int, seed: int, answers: Any) -> None:
    """Look up rows in random order in a worker, as an epoch does.

    Without an index, the worker only does the same imports.
    """
    _import_all()
    rows = (
        np.random.default_rng(seed).integers(0, lookups, lookups)
        if index is None
        else np.random.default_rng(seed).integers(0, len(index), lookups)
    )
    measured = [private_dirty_mb()]
    start = time.perf_counter()
    for number, row in enumerate(rows, 1):
        if index is not None:
            index.source(int(row))
            for name in WANTED:
                index.value(int(row), name)
        if number % (lookups // 10) == 0:
            measured.append(private_dirty_mb())
    answers.put((measured, (time.perf_counter() - start) / lookups * 1e6))


def memory_of_worker(index: Any, lookups: int) -> tuple[list[float], float]:
    """Return the private dirty MB of a spawned worker, and its us per look-up.

    The memory is measured at the start and at every tenth of the epoch.
    """
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=worker, args=(index, lookups, 0, answers))
    process.start()
    while True:
        try:
            answer: tuple[list[float], float] = answers.get(timeout=1)
        except queue.Empty:
            if not process.is_alive() and answers.empty():
                raise RuntimeError(
                    f"the worker ended with exit code {process.exitcode} and gave no figures"
                ) from None
            continue
        process.join()
        return answer


def print_memory(folder: Path, lookups: int) -> None:
    """Print the memory that the index and a selection of it add to a worker over an epoch."""
    import dicomdl

    index = dicomdl.open_index(folder)
    without, _ = memory_of_worker(None, lookups)
    print(
        "Private dirty memory of a spawned worker above one with the same imports "
        f"({without[-1]:.1f} MB), {lookups} look-ups   [MB]"
    )
    for name, part in (("the index", index), ("a selection", index.select(modality="CT"))):
        measured, microseconds = memory_of_worker(part, lookups)
        above = [with_index - base for with_index, base in zip(measured, without, strict=True)]
        course = " ".join(f"{value:.1f}" for value in above)
        print(
            f"  {name:<16}{above[-1]:>8.1f}   goal 10, flat   over the epoch: {course}   "
            f"{microseconds:.1f} us a look-up",
            flush=True,
        )


def main() -> None:
    if sys.argv[1:2] == ["--first-uses"]:
        print(json.dumps(first_uses(sys.argv[2], int(sys.argv[3]))))
        return
    given = arguments(
        __doc__,
        frames=(1_000_000, "frames of the index"),
        lookups=(200_000, "look-ups of the memory epoch"),
    )
    try:
        folder = repeated_index(phantom_ct.data_folder(), given.frames)
    except (ImportError, AttributeError) as error:
        sys.exit(f"dicomdl is not installed, or not whole: {error}")
    time_first_uses(folder, given.repeat, given.frames)
    print_memory(folder, given.lookups)


if __name__ == "__main__":
    main()
