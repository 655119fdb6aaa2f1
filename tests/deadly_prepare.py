"""Recipes in parts whose processes die, as `deadly`: their children need a second for torch."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deadly import die_if_told

from dicomdl.jobs import partitions, supervisor
from dicomdl.jobs.preparing import PrepareTask
from dicomdl.storage.children import Answer


class DeadlyPrepare(PrepareTask):
    """A recipe that dies: also at a Series that the file `poison` beside the plan names."""

    def make(self, number: int, folder: str, left_out: Mapping[str, str]) -> dict[str, Any]:
        """Make a partition, or die."""
        die_if_told(self.plan.folder)
        poison = Path(self.plan.folder, "poison")
        words = poison.read_text().split() if poison.exists() else []
        if any(unit in words for unit in self.units(number) if unit not in left_out):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make(number, folder, left_out)


def preparing(setup: Mapping[str, Any]) -> Answer:
    """Return the answers of a recipe that dies."""
    return supervisor.answering(DeadlyPrepare(partitions.read_plan(setup["folder"], "prepare")))
