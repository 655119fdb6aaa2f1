"""Workers of loaders: whether they start, and what a large index costs each of them."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

import dicomdl

pytest.importorskip("torch")
from faults import starts
from faults.sizes import TIMES

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600 * TIMES)]
Record = Callable[[str, object], None]
MEMORY = Path(__file__).parents[1] / "benchmarks" / "training_memory.py"
FRAMES, ROWS, GROWTH_MIB, PICKLED_BYTES = 1_000_000, 4_000, 30, 2**20


def has(method: str) -> bool:
    return method in multiprocessing.get_all_start_methods()


def run(script: Path, *arguments: Any, timeout: float) -> str:
    """Return what a script prints, from a process that has nothing of this one."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if has(m)])
def test_a_million_frames_cost_a_worker_little_memory(method: str, record_property: Record) -> None:
    pytest.importorskip("imagecodecs")
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("the private memory of a process is unknown")
    printed = run(MEMORY, "--growth", method, FRAMES, ROWS, timeout=3000)
    found = json.loads(printed.splitlines()[-1])
    record_property(
        "figure",
        f"{FRAMES:,} frames: + {found['end']:.1f} MiB after {ROWS:,} rows, "
        f"+ {found['start']:.1f} at their start; pickled {found['pickled']} bytes",
    )
    assert found["end"] <= GROWTH_MIB
    assert found["pickled"] <= PICKLED_BYTES


@pytest.fixture
def compressed(tmp_path: Path) -> str:
    """An index of six JPEG 2000 images."""
    image = pydicom.dcmread(get_testdata_file("MR_small_jp2klossless.dcm", download=False))
    (tmp_path / "data").mkdir()
    for number in range(6):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number + 1}"
        image.ImagePositionPatient = [0, 0, number]
        image.save_as(tmp_path / "data" / f"{number}.dcm")
    return dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False).path


@pytest.mark.parametrize("state", starts.STATES)
@pytest.mark.parametrize("method", [m for m in ("fork", "spawn", "forkserver") if has(m)])
def test_twenty_loaders_in_a_row_start_and_give_equal_batches(
    method: str, state: str, compressed: str, record_property: Record
) -> None:
    runs = 20 * TIMES
    printed = run(
        Path(starts.__file__), method, state, runs, compressed, timeout=runs * starts.HANG_S
    )
    assert printed == f"{runs} equal\n"
    record_property("figure", f"{runs} runs, 0 hangs")
