"""Scans in parts whose processes die: what a child of a test imports.

A file or series whose name has the word "poison" kills the process that works on it. A file
`<folder of the plan>/kills/<number>` is removed by the next process that begins a partition, which
it kills.
"""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dicomdl.jobs import partitions, supervisor
from dicomdl.jobs.scan_parts import ScanTask
from dicomdl.storage.children import Answer


class DeadlyScan(ScanTask):
    """A scan that dies."""

    def make(self, number: int, folder: str, left_out: Mapping[str, str]) -> dict[str, int]:
        """Make a partition, or die."""
        die_if_told(self.plan.folder)
        units = [unit for unit in self.units(number) if unit not in left_out]
        if any("poison" in unit for unit in units):
            os.kill(os.getpid(), signal.SIGKILL)
        if any("faulty" in unit for unit in units):
            raise TypeError("the value of a patient")
        return super().make(number, folder, left_out)


def die_if_told(folder: str) -> None:
    """Take one of the kills that a test has laid out, if there is one."""
    for kill in sorted(Path(folder, "kills").glob("*")):
        try:
            kill.unlink()
        except FileNotFoundError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)


def scanning(setup: Mapping[str, Any]) -> Answer:
    """Return the answers of a scan that dies."""
    return supervisor.answering(DeadlyScan(partitions.read_plan(setup["folder"], "scan")))
