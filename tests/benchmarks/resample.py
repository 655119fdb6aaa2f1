"""A patch of 96 x 96 x 96 at another spacing: dicomdl, its plain patch, MONAI and TorchIO.

    python tests/benchmarks/resample.py --repeat 9

The spacings have the ratio of 0.7 x 0.7 x 1.25 mm to 1 mm. The plain patch has as many voxels as
the resampled one reads. MONAI and TorchIO load the series, resample it and crop. CPU time per
patch, in alternating rounds: the peers use several cores.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantom_ct
import torch
from rounds import arguments

SIZE = (96, 96, 96)
SOURCE = (78, 139, 139)  # voxels that the patch reads
STEPS = np.array([1.25, 0.7, 0.7])


def of_monai(folder: str, spacing: list[float]) -> Callable[[], Any]:
    """Return the task of MONAI, which counts axes as (column, row, slice)."""
    from monai import transforms as t

    steps = [
        t.LoadImage(reader="PydicomReader", image_only=True),
        t.EnsureChannelFirst(),
        t.Spacing(pixdim=spacing[::-1]),
        t.RandSpatialCrop(SIZE, random_size=False),
    ]
    whole = t.Compose(steps)
    return lambda: whole(folder)


def of_torchio(folder: str, spacing: list[float]) -> Callable[[], Any]:
    """Return the task of TorchIO."""
    import torchio

    resample = torchio.Resample(tuple(spacing[::-1]))

    def task() -> Any:
        subject = resample(torchio.Subject(ct=torchio.ScalarImage(folder)))
        return next(iter(torchio.UniformSampler(SIZE[0])(subject, 1)))

    return task


def main() -> None:
    """Print CPU times per patch, and their ratios per round to the plain patch."""
    given = arguments(__doc__)
    import dicomdl

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        index = dicomdl.scan(phantom_ct.ct_folder(256), f"{scratch}/index", progress=False)
        stack = index.stacks[0]
        spacing = (np.array(stack.spacing) / STEPS).tolist()
        options: dict[str, Any] = {"intensity": "ct.lung", "per_stack": 4}
        plain = dicomdl.PatchDataset(index, SOURCE, **options)
        resampled = dicomdl.PatchDataset(index, SIZE, spacing=spacing, **options)
        count = len(plain)
        tasks: dict[str, tuple[Callable[[], Any], int]] = {
            "plain patch of as many voxels": (lambda: [plain[n] for n in range(count)], count),
            "resampled patch": (lambda: [resampled[n] for n in range(count)], count),
        }
        folder = str(Path(stack.paths[0]).parent)
        for name, make in (("MONAI", of_monai), ("TorchIO", of_torchio)):
            try:
                tasks[name] = (make(folder, spacing), 1)
            except ImportError as error:
                print(f"{name} is absent: {error}")
        times: dict[str, list[float]] = {name: [] for name in tasks}
        for number in range(given.repeat + 1):
            for name, (task, patches) in tasks.items():
                start = time.process_time()
                task()
                if number:  # the first round warms up
                    times[name].append((time.process_time() - start) / patches)
        first = next(iter(times.values()))
        for name, seconds in times.items():
            ratios = [a / b for a, b in zip(seconds, first, strict=True)]
            middle = statistics.median(seconds) * 1e3
            print(f"{name:<32}{middle:>10.2f} ms{statistics.median(ratios):>10.2f}")


if __name__ == "__main__":
    main()
