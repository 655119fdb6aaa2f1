"""The log of unreadable samples, shared by all processes that hold a copy of a dataset.

The log is a file in the temporary folder of the machine, so it covers the workers of one machine.
Each entry is one appended line of at most about 2,000 characters. If its process is killed, the
next process that makes a dataset removes the file.
"""

import contextlib
import json
import os
import tempfile
import weakref
from dataclasses import dataclass

from dicomdl.datasets.epochs import NO_EPOCH
from dicomdl.errors import is_facts_line
from dicomdl.storage.scratch import scratch_prefix


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that could not be read.

    Attributes
    ----------
    row, epoch
        The sample; the epoch is -1 for a row without one.
    action
        "skip" or "replace".
    error
        The class, message and notes of the error.
    """

    row: int
    epoch: int
    action: str
    error: str


class SkippedLog:
    """A file of one line per sample, deleted with the log that created it, not with its copies."""

    def __init__(self) -> None:
        name = f"{scratch_prefix('skipped')}{os.urandom(8).hex()}.jsonl"
        self.path = os.path.join(tempfile.gettempdir(), name)
        weakref.finalize(self, _remove, self.path, os.getpid())

    def note(self, row: int, epoch: int | None, action: str, error: BaseException | None) -> None:
        """Append one sample."""
        notes = [note for note in getattr(error, "__notes__", ()) if not is_facts_line(note)]
        words = "; ".join([f"{type(error).__name__}: {error}", *notes])[:2000]
        number = NO_EPOCH if epoch is None else epoch
        line = json.dumps({"row": row, "epoch": number, "action": action, "error": words}) + "\n"
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                # One call per line, so that lines of several workers do not interleave.
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)

    def read(self) -> list[Skipped]:
        """Return the samples so far, in order of time."""
        try:
            with open(self.path, encoding="utf-8") as file:
                # A full disk truncates a line.
                complete = [line for line in file if line.endswith("}\n")]
        except FileNotFoundError:
            return []
        return [Skipped(**json.loads(line)) for line in complete]


def _remove(path: str, owner: int) -> None:
    """Delete the file, in the process that created it."""
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            os.unlink(path)
