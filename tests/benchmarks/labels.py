"""Labels on the grid of a CT: dicomdl, highdicom, plastimatch, and the floor of bare reads.

    python tests/benchmarks/labels.py --repeat 5
    python tests/benchmarks/labels.py --only epoch --repeat 3
    python tests/benchmarks/labels.py --soak 1

The SEG has 500 slices of 512 x 512 and 10 segments, as 5,000 frames of single bits or 500 of a
label map; the structure set has 20 regions of 134 slices. CPU seconds of the process and of its
children in alternating rounds, and their ratios to the first contender of the same round. `--soak`
reads a SEG of 17,388 frames and two of 104 segments, each in a process of its own, and prints their
memory beside that of the result.
"""

import gc
import importlib.util
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantom_labels
from phantom_ct import COLUMNS, ROWS

Task = Callable[[], Any]
SLICES, SEGMENTS, REGIONS = 500, 10, 20
START, STOP = (200, 180, 180), (296, 276, 276)
SOAK = {"17,388 frames": (600, 29, "BINARY", 17388), "104 segments": (300, 104, "BINARY", None)}
SOAK["104 segments, label map"] = (600, 104, "LABELMAP", None)


def cpu_seconds() -> float:
    """Return user and system time of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def race(title: str, tasks: dict[str, Task], rounds: int) -> None:
    """Run the tasks in alternating rounds, and print CPU times and ratios to the first one."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            gc.collect()
            before = cpu_seconds()
            task()
            if number:  # the first round warms up
                seconds[name].append(cpu_seconds() - before)
    print(title)
    first = next(iter(seconds.values()))
    for name, each in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(each, first, strict=True))
        print(f"  {name:<44}{statistics.median(each) * 1e3:>10.1f} ms{ratio:>9.2f}", flush=True)


# --- segmentations --------------------------------------------------------------------------------


def floor(path: Path, kind: str, start: Any, stop: Any) -> Any:
    """Read a block by known offsets: one positioned read per frame, and bits unpacked."""
    size = ROWS * COLUMNS // (1 if kind == "LABELMAP" else 8)
    pixels = path.stat().st_size - size * SLICES * (1 if kind == "LABELMAP" else SEGMENTS)
    rows, columns = slice(start[1], stop[1]), slice(start[2], stop[2])
    block = np.zeros([b - a for a, b in zip(start, stop, strict=True)], np.uint8)
    width = COLUMNS * size // (ROWS * COLUMNS) if kind == "LABELMAP" else COLUMNS // 8
    file = os.open(path, os.O_RDONLY)
    for segment in range(1 if kind == "LABELMAP" else SEGMENTS):
        for z in range(start[0], stop[0]):
            at = pixels + (segment * SLICES + z) * size + start[1] * width
            raw = np.frombuffer(os.pread(file, (stop[1] - start[1]) * width, at), np.uint8)
            if kind == "LABELMAP":
                block[z - start[0]] = raw.reshape(-1, COLUMNS)[:, columns]
            elif raw.any():
                bits = np.unpackbits(raw, bitorder="little").reshape(-1, COLUMNS)[:, columns]
                np.copyto(block[z - start[0]], segment + 1, where=bits.view(np.bool_))
    os.close(file)
    del rows
    return block


def segmentations(rounds: int, scratch: str) -> None:
    """Race patches, whole label maps and scans."""
    import dicomdl
    from dicomdl.labels.reader import label_block
    from dicomdl.storage import memory

    ct = phantom_labels.ct_folder(SLICES)
    for kind in ("BINARY", "LABELMAP"):
        path = phantom_labels.seg_file(SLICES, SEGMENTS, kind)
        index = dicomdl.scan([ct, path], f"{scratch}/{kind}", progress=False)
        stack, source = index.select(has="SEG").stacks[0], dicomdl.LabelSource("SEG")
        whole, end = (0, 0, 0), stack.shape

        def ours(
            start: Any, stop: Any, stack: Any = stack, source: Any = source, *, is_cold: bool = True
        ) -> Any:
            if is_cold:
                memory.clear()
            return label_block(source.reader(stack), start, stop, np.uint8)[0]

        def peer(start: Any, stop: Any, path: Path = path) -> Any:
            import highdicom

            # Slices of highdicom ascend in the other direction.
            seg = highdicom.seg.segread(path)
            return seg.get_volume(
                slice_start=SLICES - stop[0],
                slice_end=SLICES - start[0],
                row_start=start[1],
                row_end=stop[1],
                column_start=start[2],
                column_end=stop[2],
                as_indices=True,
                combine_segments=True,
                skip_overlap_checks=True,
            ).array[::-1]

        expected = floor(path, kind, START, STOP)
        assert np.array_equal(ours(START, STOP), expected) and expected.any()
        if _has("highdicom"):
            assert np.array_equal(peer(START, STOP), expected)
        ends = {"patch of 96 x 96 x 96": (START, STOP), "whole label map": (whole, end)}
        for title, (start, stop) in ends.items():
            tasks = {
                "floor": lambda a=start, b=stop, p=path, k=kind: floor(p, k, a, b),
                "dicomdl, nothing open": lambda a=start, b=stop: ours(a, b),
                "dicomdl, opened before": lambda a=start, b=stop: ours(a, b, is_cold=False),
                "highdicom": lambda a=start, b=stop: peer(a, b),
            }
            if not _has("highdicom"):
                del tasks["highdicom"]
            race(f"{kind}: {title}", tasks, rounds)

        def rescan(path: Path = path) -> None:
            dicomdl.scan(path, f"{scratch}/again", progress=False)
            shutil.rmtree(f"{scratch}/again")

        race(f"{kind}: scan", {"dicomdl": rescan}, rounds)


def _has(package: str) -> bool:
    """Whether a package is there; say so if not."""
    is_there = importlib.util.find_spec(package) is not None
    if not is_there:
        print(f"{package} is absent")
    return is_there


# --- structure sets -------------------------------------------------------------------------------


def structure_sets(rounds: int, scratch: str) -> None:
    """Race masks of 20 regions, and a patch of them."""
    import dicomdl
    from dicomdl.labels.reader import label_block
    from dicomdl.storage import memory

    ct, path = phantom_labels.ct_folder(134), phantom_labels.structure_set(134, REGIONS, 70)
    index = dicomdl.scan([ct, path], f"{scratch}/rt", progress=False)
    stack, source = index.select(has="RTSTRUCT").stacks[0], dicomdl.LabelSource("RTSTRUCT")

    def ours(*, channels: bool) -> Any:
        memory.clear()
        return dicomdl.read_labels(stack, "RTSTRUCT", channels=channels)

    def plastimatch() -> None:
        command = ["plastimatch", "convert", "--xor-contours", "--input", str(path)]
        command += ["--referenced-ct", str(ct), "--output-ss-img", f"{scratch}/masks.nrrd"]
        subprocess.run(command, check=True, capture_output=True)

    def skimage() -> Any:
        from pydicom import dcmread
        from skimage.draw import polygon2mask

        dataset, masks = dcmread(path), []
        for region in dataset.ROIContourSequence:
            mask = np.zeros(stack.shape, np.bool_)
            for contour in region.ContourSequence:
                points = np.array(contour.ContourData, np.float64).reshape(-1, 3)
                z = round(points[0, 2] / phantom_labels.SLICE_SPACING)
                pixels = points[:, 1::-1] / phantom_labels.PIXEL_SPACING
                mask[z] ^= polygon2mask(stack.shape[1:], pixels)
            masks.append(mask)
        return masks

    tasks: dict[str, Task] = {
        "dicomdl, cold, label map": lambda: ours(channels=False),
        "dicomdl, cold, a mask per region": lambda: ours(channels=True),
    }
    if shutil.which("plastimatch"):
        tasks["plastimatch"] = plastimatch
    if _has("skimage"):
        tasks["skimage"] = skimage
    race(f"RTSTRUCT: masks of {REGIONS} regions", tasks, rounds)
    start, stop = (20, 180, 180), (116, 276, 276)
    patch = {"dicomdl": lambda: label_block(source.reader(stack), start, stop, np.uint8)}
    race("RTSTRUCT: patch of 96 x 96 x 96, indexed and opened", patch, rounds)


# --- datasets -------------------------------------------------------------------------------------


def epochs(rounds: int, scratch: str) -> None:
    """Race epochs of patches with and without labels, with 2 workers, and their parts alone."""
    import torch

    import dicomdl
    from dicomdl.storage import memory

    torch.set_num_threads(1)
    ct = phantom_labels.ct_folder(SLICES)
    for kind in ("BINARY", "LABELMAP"):
        path = phantom_labels.seg_file(SLICES, SEGMENTS, kind)
        index = dicomdl.scan([ct, path], f"{scratch}/e{kind}", progress=False).select(has="SEG")
        options: dict[str, Any] = {"per_stack": 64, "intensity": "ct.lung"}

        def patches(index: Any = index, options: Any = options, **more: Any) -> Any:
            return dicomdl.PatchDataset(index, (96, 96, 96), **options, **more)

        def epoch(dataset: Any) -> None:
            loader = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=2)
            for _ in loader:
                pass

        plain, labelled = patches(), patches(labels="SEG")
        cached = patches(labels="SEG", cache=Path(scratch) / "cache")
        drawn = patches(labels="SEG", sampler="labels")
        drawn_cached = patches(labels="SEG", sampler="labels", cache=Path(scratch) / "cache")
        source, stack = dicomdl.LabelSource("SEG"), index.stacks[0]

        def labels_alone(
            labelled: Any = labelled, source: Any = source, stack: Any = stack
        ) -> None:
            memory.clear()
            from dicomdl.labels.reader import label_block

            for row in range(len(labelled)):
                start = labelled.sampler.start(
                    stack, labelled.size, row, np.random.default_rng(row)
                )
                stop = [a + b for a, b in zip(start, labelled.size, strict=True)]
                label_block(source.reader(stack), start, stop, np.uint8)

        tasks = {
            "without labels": lambda d=plain: epoch(d),
            "with labels": lambda d=labelled: epoch(d),
            "with labels and a cache, later epochs": lambda d=cached: epoch(d),
            "labels alone, without a loader": labels_alone,
            "sampler='labels'": lambda d=drawn: epoch(d),
            "sampler='labels' and a cache": lambda d=drawn_cached: epoch(d),
        }
        race(f"{kind}: epoch of 64 patches, 2 workers", tasks, rounds)


# --- memory ---------------------------------------------------------------------------------------


def soak(scratch: str) -> None:
    """Read large objects in a process each, and print time and memory."""
    for name, (slices, segments, kind, most) in SOAK.items():
        path = phantom_labels.seg_file(slices, segments, kind, most)
        print(f"{name}: {path.stat().st_size / 2**20:.0f} MiB", flush=True)
        for job in ("scan", "labels", "patches"):
            command = [sys.executable, "-W", "ignore", __file__, "--job", job]
            ct = phantom_labels.ct_folder(slices)
            command += ["--files", str(ct), str(path), f"{scratch}/{path.name}"]
            subprocess.run(command, check=True)


def one_job(job: str, ct: str, path: str, out: str) -> None:
    """Do one job in this process, and print CPU seconds and the growth of its memory."""
    import dicomdl

    if job == "patches":
        import torch

        import dicomdl.datasets.patches

        torch.set_num_threads(1)
    index = None if job == "scan" else dicomdl.scan([ct, path], out, progress=False)
    _reset_peak()
    before, start = _memory("VmHWM"), time.process_time()
    held = 0
    if job == "scan":
        dicomdl.scan([ct, path], out, progress=False, workers=1)
    elif job == "labels" and index is not None:
        held = dicomdl.read_labels(index.select(has="SEG").stacks[0], "SEG").array.nbytes
    elif index is not None:
        chosen = index.select(has="SEG")
        patches = dicomdl.PatchDataset(
            chosen, (96, 96, 96), labels="SEG", sampler="labels", per_stack=16
        )
        held = 2 * 4 * 96**3
        for row in range(len(patches)):
            patches[row]
    used = time.process_time() - start
    grown = _memory("VmHWM") - before - held / 2**20
    print(f"  {job:<10}{used:>8.2f} s   {grown:>6.0f} MiB above the result", flush=True)


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _memory(name: str) -> float:
    """Return a field of /proc/self/status, MiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--only", choices=("seg", "rtstruct", "epoch"), action="append")
    parser.add_argument("--soak", type=int, default=0, help="1: only the large objects (Linux)")
    parser.add_argument("--job", choices=("scan", "labels", "patches"))
    parser.add_argument("--files", nargs=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.job:
        one_job(given.job, *given.files)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if given.soak:
            soak(scratch)
            return
        jobs = {"seg": segmentations, "rtstruct": structure_sets, "epoch": epochs}
        for name in given.only or jobs:
            jobs[name](given.repeat, scratch)


if __name__ == "__main__":
    main()
