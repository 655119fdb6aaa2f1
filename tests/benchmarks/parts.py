"""Partitions of a recipe: two processes against one, and what kills of workers and drivers change.

    python tests/benchmarks/parts.py speed 3        # rounds of one process and two: CPU, wall time
    python tests/benchmarks/parts.py speed 1 DIR    # the same, with data that stay in DIR
    python tests/benchmarks/parts.py kills 20       # 20 SIGKILLs of workers, 20 of the driver

64 Series of 32 slices in JPEG 2000 become shards, one partition each. `kills` compares every byte
of shards, manifest, card and of a merged scan with a run that nothing disturbed. In its last run,
one Series kills each process that reads it.
"""

import hashlib
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import phantoms
import pydicom
from pydicom.uid import JPEG2000Lossless

import dicomdl
from dicomdl.index.schema import TABLES
from dicomdl.index.shard_manifests import ShardManifest
from dicomdl.jobs import partitions, prepare, supervisor
from dicomdl.jobs.prepare import complete_parts, merge_parts, plan_prepare
from dicomdl.jobs.preparing import PrepareTask
from dicomdl.jobs.scan_parts import make_scan, merge_scan, plan_scan

SERIES, SLICES = 64, 32
RECIPE = """\
name: parts
sources: {roots: [in]}
split: {fractions: [0.8, 0.2]}
output: {to: webdataset, dtype: int16, parts: 64}
"""
DRIVER = """
import sys
from dicomdl.jobs import prepare, scan_parts
from dicomdl.jobs.partitions import read_plan
if sys.argv[1] == "scan":
    scan_parts.make_scan(sys.argv[2], workers=2)
else:
    prepare.complete_parts(read_plan(sys.argv[2], "prepare"), "all", workers=2, progress=False)
"""


def written(root: Path, size: int) -> Path:
    """Write the Series, whose images are noise on a ramp, and the recipe; return its path."""
    chance = np.random.default_rng(20)
    ramp = np.add.outer(np.arange(size), np.arange(size)) // 4 + 1000
    stored = ramp + chance.integers(0, 40, (SLICES, size, size))
    first = phantoms.write_series(
        root / "in" / "s00", shape=stored.shape, stored=stored, transfer_syntax=JPEG2000Lossless
    )
    for number in range(1, SERIES):
        folder = root / "in" / f"s{number:02}"
        folder.mkdir()
        for path in first:
            dataset = pydicom.dcmread(path)
            dataset.PatientID = f"P{number:02}"
            for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(dataset, name, f"{dataset[name].value[:60]}.{number}")
            dataset.FrameOfReferenceUID = f"{dataset.FrameOfReferenceUID[:60]}.{number}"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.save_as(folder / path.name)
    path = root / "r.yaml"
    path.write_text(RECIPE)
    return path


def contents(out: Path) -> dict[str, str]:
    """The digest of each file of a data set, save its record."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def tables(index: dicomdl.Index) -> dict[str, bytes]:
    """The bytes of the tables of an index."""
    folder = Path(index.path, "generations", index.generation)
    return {name: (folder / f"{name}.arrow").read_bytes() for name in TABLES}


def speed(root: Path, rounds: int) -> None:
    """Print CPU and wall time of the partitions, in rounds of one and two processes."""
    recipe = root / "r.yaml"
    if not recipe.exists():
        written(root, 384)
    costs: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for number in range(rounds):
        for workers in (1, 2):
            plan = plan_prepare(recipe, root / f"out{number}{workers}", progress=False)
            # One thread per process, so that two processes are compared with one core.
            prepare.available_cores = lambda workers=workers: workers
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            own = time.process_time()
            complete_parts(plan, "all", workers=workers, progress=False)
            wall = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = time.process_time() - own
            cpu += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            costs[workers].append((cpu, wall))
            partitions.clear(plan)
    for workers, each in costs.items():
        cpu, wall = (statistics.median(values) for values in zip(*each, strict=True))
        print(f"{workers} processes: {cpu:.1f} s CPU, {wall:.1f} s wall")
    ratios = [
        (two[0] / one[0], one[1] / two[1]) for one, two in zip(costs[1], costs[2], strict=True)
    ]
    cpu, wall = (statistics.median(values) for values in zip(*ratios, strict=True))
    print(f"two against one: {cpu:.3f} x the CPU, {wall:.2f} x as fast")


def killed(kind: str, folder: str, kills: int, chance: random.Random) -> int:
    """Run the driver of a plan while its children are killed; return how many were."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, kind, folder])
    count = 0
    while driver.poll() is None and count < kills:
        time.sleep(chance.uniform(0.5, 6))
        children = Path(f"/proc/{driver.pid}/task")
        found = [pid for task in children.glob("*/children") for pid in task.read_text().split()]
        if found:
            try:
                os.kill(int(chance.choice(found)), signal.SIGKILL)
                count += 1
            except ProcessLookupError:
                pass
    if driver.wait() != 0:
        raise SystemExit("the driver failed")
    return count


def kills(root: Path, count: int) -> None:
    """Print whether kills changed a byte."""
    recipe, chance = written(root, 64), random.Random(20)
    plan = plan_prepare(recipe, root / "a", progress=False)
    complete_parts(plan, "all", workers=2, progress=False)
    merge_parts(plan.folder, progress=False)
    expected = contents(root / "a")
    index = tables(dicomdl.scan(root / "in", root / "scan", progress=False))

    done = 0
    while done < count:
        plan = plan_prepare(recipe, root / "b", progress=False)
        done += killed("prepare", plan.folder, count - done, chance)
        merge_parts(plan.folder, progress=False)
        same = contents(root / "b") == expected
        print(f"{done} kills of workers: data set {'the same' if same else 'DIFFERS'}", flush=True)
        shutil.rmtree(root / "b")

    for kind in ("prepare", "scan"):
        if kind == "scan":
            plan = plan_scan(root / "in", root / "c.index", parts=64)
        else:
            plan = plan_prepare(recipe, root / "c", progress=False)
        for _ in range(count):
            driver = subprocess.Popen([sys.executable, "-c", DRIVER, kind, plan.folder])
            try:
                driver.wait(chance.uniform(0.5, 8))
            except subprocess.TimeoutExpired:
                driver.kill()
                driver.wait()
        if kind == "scan":
            make_scan(plan.folder)
            same = tables(merge_scan(plan.folder)) == index
        else:
            complete_parts(plan, "all", workers=2, progress=False)
            merge_parts(plan.folder, progress=False)
            same = contents(root / "c") == expected
        print(
            f"{count} kills of the driver: {kind} {'the same' if same else 'DIFFERS'}", flush=True
        )

    plan = plan_prepare(recipe, root / "d", progress=False)
    task = PrepareTask(plan)
    (poison,) = task.units(17)
    Path(plan.folder, "poison").write_text(poison)
    numbers = range(len(plan))
    supervisor.complete(task, "deadly:preparing", {"folder": plan.folder}, numbers, workers=2)
    refused = merge_parts(plan.folder, progress=False).refused
    manifest = ShardManifest(str(root / "a"))
    shard = manifest.row(manifest.column("series_instance_uid").index(poison)).shard
    found = contents(root / "d")
    differing = {name for name in expected | found if found.get(name) != expected.get(name)}
    print(f"poison: {[each['reason'][:13] for each in refused]}; differing files: {differing}")
    print(f"  of these its own shard: {shard}")


def main() -> None:
    """Run one of the two."""
    what, count, *where = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(*(where or [temporary]))
        folder.mkdir(exist_ok=True)
        os.environ["DICOMDL_CACHE"] = str(folder / "cache")
        {"kills": kills, "speed": speed}[what](folder, int(count))


if __name__ == "__main__":
    main()
