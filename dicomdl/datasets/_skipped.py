"""What could not be read, written down by every process that has a copy of a dataset."""

import contextlib
import json
import os
import tempfile
import weakref
from dataclasses import dataclass

from dicomdl.errors import is_facts_line


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that could not be read.

    Its row, the epoch, what was done instead ("skip" or "replace"), and the error, in words.
    """

    row: int
    epoch: int
    action: str
    error: str


class SkippedLog:
    """A file of one line per sample, which goes with the log that began it, not with its copies."""

    def __init__(self) -> None:
        name = f"dicomdl-skipped-{os.urandom(8).hex()}.jsonl"
        self.path = os.path.join(tempfile.gettempdir(), name)
        weakref.finalize(self, _remove, self.path, os.getpid())

    def note(self, row: int, epoch: int, action: str, error: BaseException | None) -> None:
        """Write down one sample."""
        notes = [note for note in getattr(error, "__notes__", ()) if not is_facts_line(note)]
        words = "; ".join([f"{type(error).__name__}: {error}", *notes])[:2000]
        line = json.dumps({"row": row, "epoch": epoch, "action": action, "error": words}) + "\n"
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line.encode())  # one call: lines of several workers do not mix
            finally:
                os.close(descriptor)

    def read(self) -> list[Skipped]:
        """What was written down so far, in the order that it happened."""
        try:
            with open(self.path, encoding="utf-8") as file:
                whole = [line for line in file if line.endswith("}\n")]  # a full disk cuts a line
        except FileNotFoundError:
            return []
        return [Skipped(**json.loads(line)) for line in whole]


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            os.unlink(path)
