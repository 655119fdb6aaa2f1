"""Partitions of a plan on a Dask cluster: one task each, on workers of one thread.

The folder of the plan is shared, so Dask carries numbers alone. A partition whose workers died too
often is left to the supervisor of this process, which finds the unit that kills them.
"""

import time
from typing import Any

from dicomdl.errors import UsageError
from dicomdl.extras import import_extra
from dicomdl.jobs import partitions, supervisor
from dicomdl.jobs.partitions import Plan, Task
from dicomdl.storage.system import share_cores


def complete_by_dask(plan: Plan, scheduler: str) -> None:
    """Make all partitions of a plan on the cluster of a scheduler ("tcp://host:8786")."""
    distributed = import_extra("distributed", "engine dask", "dask")
    numbers = [n for n in range(len(plan)) if partitions.finished(plan, n) is None]
    with distributed.Client(scheduler) as client:
        if wide := [name for name, threads in client.nthreads().items() if threads != 1]:
            raise UsageError(
                f"{len(wide)} workers of {scheduler} have several threads: start them with "
                "--nthreads 1, since a dead worker fails all tasks that it has"
            )
        # For the same reason a worker gets no task ahead (distributed#5234).
        client.run_on_scheduler(_set_saturation)
        futures = client.map(_make, numbers, kind=plan.kind, folder=plan.folder, pure=False)
        distributed.wait(futures)
        errors = {n: f.exception() for n, f in zip(numbers, futures, strict=True)}
    killed = [n for n, error in errors.items() if type(error).__name__ == "KilledWorker"]
    for number, error in errors.items():
        if error is not None and number not in killed:
            raise error
    task, target, setup = _task(plan)
    supervisor.complete(task, target, setup, killed, 1)


def _set_saturation(dask_scheduler: Any) -> None:
    dask_scheduler.WORKER_SATURATION = 1.0


def _make(number: int, kind: str, folder: str) -> None:
    share_cores(1)
    task = _task(partitions.read_plan(folder, kind))[0]
    while partitions.make(task, number, {}) == "busy":
        time.sleep(1.0)


def _task(plan: Plan) -> tuple[Task, str, dict[str, Any]]:
    # These import torch, or are not needed.
    if plan.kind == "scan":
        from dicomdl.jobs.scan_parts import TARGET, ScanTask

        return ScanTask(plan), TARGET, {"folder": plan.folder}
    from dicomdl.jobs.preparing import TARGET as PREPARING
    from dicomdl.jobs.preparing import PrepareTask

    return PrepareTask(plan), PREPARING, {"folder": plan.folder, "threads": 1}
