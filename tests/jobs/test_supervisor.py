"""supervisor: children are replaced, divided partitions find what kills them, faults are said."""

from pathlib import Path

import phantoms
import pytest

from dicomdl.errors import StorageError
from dicomdl.jobs import partitions, supervisor
from dicomdl.jobs.partitions import Plan
from dicomdl.jobs.scan_parts import ScanTask, merge_scan, plan_scan

pytestmark = pytest.mark.slow


def planned(folder: Path, parts: int = 2) -> Plan:
    """The plan of a scan of one series and a text."""
    phantoms.write_series(folder / "in")
    (folder / "in" / "faulty.txt").write_text("no image")
    return plan_scan(folder / "in", folder / "index", parts=parts)


def test_a_child_that_cannot_start_is_said_and_nothing_is_left_out(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    with pytest.raises(StorageError, match=r"a child process cannot start: .*no_such_module"):
        supervisor.complete(ScanTask(plan), "no_such_module:f", {}, range(2), workers=2)
    assert partitions.finished(plan, 0) is None


def test_a_fault_of_python_costs_its_unit_and_quotes_no_value(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    setup = {"folder": plan.folder}
    supervisor.complete(ScanTask(plan), "deadly:scanning", setup, range(2), workers=1)
    index = merge_scan(plan.folder)
    (problem,) = index.problems
    assert (Path(problem.path).name, problem.reason) == ("faulty.txt", "killed_worker")
    assert "TypeError in deadly.py, line" in problem.detail
    assert "value of a patient" not in problem.detail
    assert len(index) == 6


def test_an_error_of_the_disk_ends_the_job_and_keeps_what_is_finished(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    task = ScanTask(plan)
    partitions.make(task, 0, {})
    # A file in the place of the folder of leases, so that no child can work.
    leases = Path(plan.folder, "leases")
    leases.rmdir()
    leases.write_text("")
    with pytest.raises(StorageError, match="cannot be"):
        supervisor.complete(task, "deadly:scanning", {"folder": plan.folder}, range(2), workers=2)
    leases.unlink()
    assert partitions.finished(plan, 0) is not None


def test_a_partition_of_another_process_is_waited_for(tmp_path: Path) -> None:
    import threading

    from dicomdl.storage.leases import lease

    plan = planned(tmp_path, parts=1)
    task, path = ScanTask(plan), partitions.lease_of(plan, 0)
    setup = {"folder": plan.folder}
    with lease(path) as mine:
        assert mine
        other = threading.Thread(
            target=supervisor.complete,
            args=(task, "dicomdl.jobs.scan_parts:answering", setup, [0], 1),
            daemon=True,
        )
        other.start()
        # It goes on asking while this process has the lease.
        other.join(3.0)
        assert other.is_alive()
        assert partitions.finished(plan, 0) is None
    other.join()
    assert partitions.finished(plan, 0) is not None
