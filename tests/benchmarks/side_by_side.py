"""Two checkouts side by side, on named jobs: the ratio of their CPU times.

    python tests/benchmarks/side_by_side.py OLD_CHECKOUT NEW_CHECKOUT [--rounds 9] [--only patch]

One process per checkout does the jobs in alternating rounds and measures its own CPU time (user and
system, with the processes that it started). The figures are medians and the median of the ratios
per round, new / old. Run a checkout against itself first: where that ratio differs from 1 by more
than the bound asked for, its difference is the bound.

Only public names are used, so the checkouts may be of different layouts.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

JOBS = ("scan", "volume", "frame", "patch", "epoch")


def cpu_seconds() -> float:
    """Return user and system time of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def jobs(folder: str, scratch: str) -> dict[str, Callable[[], Any]]:
    """The jobs by name, over one folder of CT slices of 512 x 512."""
    import torch

    import dicomdl

    torch.set_num_threads(1)
    index = dicomdl.scan(folder, f"{scratch}/kept.index", progress=False)
    stack = index.select(verdict="regular", min_slices=64).stacks[0]
    frames = dicomdl.FrameDataset(index, intensity="ct.lung")
    patches = dicomdl.PatchDataset(index, (96, 96, 96), per_stack=4, intensity="ct.lung")
    rows = range(min(16, len(patches)))
    sources = [index.source(row) for row in range(min(256, len(frames)))]

    def scan() -> None:
        with tempfile.TemporaryDirectory(dir=scratch) as fresh:
            dicomdl.scan(folder, f"{fresh}/an.index", workers=1, progress=False)

    def volume() -> None:
        for _ in range(4):
            dicomdl.read_volume(stack)

    def frame() -> None:
        for source in sources:
            dicomdl.read_frame(source)
        for row in range(0, 128):
            frames[row]

    def patch() -> None:
        for _ in range(4):
            for row in rows:
                patches[row]

    def epoch() -> None:
        loader = torch.utils.data.DataLoader(patches, batch_size=2, num_workers=2)
        for _ in range(6):
            for _ in loader:
                pass

    return {"scan": scan, "volume": volume, "frame": frame, "patch": patch, "epoch": epoch}


def serve() -> None:
    """Do the jobs named on standard input, and print the CPU seconds of each."""
    setup = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as scratch:
        todo = jobs(setup["folder"], scratch)
        print("ready", flush=True)
        for line in sys.stdin:
            before = cpu_seconds()
            todo[line.strip()]()
            print(cpu_seconds() - before, flush=True)


class Checkout:
    """A process that imports dicomdl from one checkout."""

    def __init__(self, path: Path, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(path)}
        command = [sys.executable, "-W", "ignore", __file__, "--serve"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=path,
        )
        self._send(json.dumps({"folder": str(folder)}))

    def _send(self, line: str) -> str:
        given, answers = self._pipes()
        given.write(line + "\n")
        given.flush()
        return answers.readline()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def run(self, job: str) -> float:
        """Do a job and return its CPU seconds."""
        return float(self._send(job))

    def close(self) -> None:
        """End the process."""
        self._pipes()[0].close()
        self._process.wait()


def main() -> None:
    """Compare two checkouts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs=2, type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--slices", type=int, default=1024, help="slices of the phantom")
    parser.add_argument("--only", choices=JOBS, action="append")
    given = parser.parse_args()

    from phantom_ct import ct_folder

    folder = ct_folder(given.slices)
    old, new = (Checkout(path.resolve(), folder) for path in given.checkouts)
    print(f"{'job':<8} {'old, s':>8} {'new, s':>8} {'new / old':>10}   lowest to highest ratio")
    for job in given.only or JOBS:
        old.run(job)
        new.run(job)
        pairs = []
        for number in range(given.rounds):
            first, second = (old, new) if number % 2 == 0 else (new, old)
            times = {first: first.run(job), second: second.run(job)}
            pairs.append((times[old], times[new]))
        ratios = sorted(after / before for before, after in pairs)
        print(
            f"{job:<8} {statistics.median(b for b, _ in pairs):>8.3f} "
            f"{statistics.median(a for _, a in pairs):>8.3f} "
            f"{statistics.median(ratios):>10.3f}   {ratios[0]:.3f} to {ratios[-1]:.3f}",
            flush=True,
        )
    old.close()
    new.close()


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
