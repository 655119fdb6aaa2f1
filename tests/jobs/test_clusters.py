"""clusters: a Dask cluster makes the bytes of this machine, also when a worker is killed."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import phantoms
import pytest

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import UsageError
from dicomdl.index.schema import TABLES
from dicomdl.jobs import partitions
from dicomdl.jobs.clusters import complete_by_dask
from dicomdl.jobs.scan_parts import merge_scan, plan_scan

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
pytestmark = pytest.mark.slow


def tables(index: dicomdl.Index) -> list[bytes]:
    """The bytes of the tables of an index."""
    folder = Path(index.path, "generations", index.generation)
    return [(folder / f"{name}.arrow").read_bytes() for name in TABLES]


def cluster(**options: Any) -> Any:
    """A cluster of two processes on this machine."""
    defaults = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    return distributed.LocalCluster(**{**defaults, **options})


def test_a_killed_worker_of_dask_changes_no_byte(tmp_path: Path) -> None:
    for number in range(6):
        phantoms.write_series(tmp_path / "in" / f"s{number}", seed=number)
    one = dicomdl.scan(tmp_path / "in", tmp_path / "one", progress=False)
    plan = plan_scan(tmp_path / "in", tmp_path / "many", parts=36)
    done = Path(plan.folder, "done")
    with cluster() as both:
        with distributed.Client(both) as client:
            processes = list(client.run(os.getpid).values())

        def kill_one() -> None:
            while len(list(done.glob("*.json"))) < 2:
                time.sleep(0.001)
            os.kill(processes[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_one, daemon=True)
        killer.start()
        complete_by_dask(plan, both.scheduler_address)
        killer.join()
    assert all(partitions.finished(plan, number) for number in range(36))
    assert tables(merge_scan(plan.folder)) == tables(one)


def test_the_command_plans_makes_and_merges(tmp_path: Path) -> None:
    phantoms.write_series(tmp_path / "in")
    with cluster(n_workers=1, threads_per_worker=2) as wide:
        plan = plan_scan(tmp_path / "in", tmp_path / "a")
        with pytest.raises(UsageError, match=r"1 workers of .* have several threads"):
            complete_by_dask(plan, wide.scheduler_address)
    with cluster(n_workers=1) as own:
        out = str(tmp_path / "b")
        options = ["--engine", "dask", "--scheduler", own.scheduler_address]
        assert main(["scan", str(tmp_path / "in"), "-o", out, "-q", *options]) == 0
    assert len(dicomdl.open_index(out)) == 6
    assert main(["scan", str(tmp_path / "in"), "-o", out, "--engine", "dask"]) == 2
