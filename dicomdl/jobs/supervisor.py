"""Child processes that make the partitions of a plan, and what happens when one dies.

A child that dies is replaced, and its partition is made again. After two deaths the partition is
divided, down to its single units (series, files), and each part is tried by itself. A unit that
ends its process twice more is left out and becomes a problem, "killed_worker"; the partition is
then made without it.
"""

import contextlib
import json
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dicomdl import errors
from dicomdl.errors import DicomdlError, StorageError
from dicomdl.jobs import partitions
from dicomdl.jobs._progress import progress_bar
from dicomdl.jobs.partitions import Task
from dicomdl.jobs.teams import Slot, worked
from dicomdl.storage.children import Answer, Child, Death
from dicomdl.storage.leases import release

KILLED: Final = "killed_worker"
# Deaths after which a partition is divided, and a unit is left out.
_MOST_DEATHS: Final = 2
# Parts into which a partition is divided at once.
_FAN: Final = 16
_POLL_S: Final = 0.5


def complete(
    task: Task,
    target: str,
    setup: Mapping[str, Any],
    numbers: Sequence[int],
    workers: int,
    *,
    progress: bool = False,
    desc: str = "partitions",
) -> None:
    """Make partitions in child processes, until all of them are finished.

    Partitions that another process makes are waited for, and made here if it dies.

    Parameters
    ----------
    task
        The job.
    target, setup
        As for `Child`: they return `answering(task)` in the child.
    numbers
        The partitions.
    workers
        Child processes.
    progress
        Show a progress bar.
    desc
        The words of the bar.

    Raises
    ------
    DicomdlError
        What a child met that the other partitions would meet, too, such as a full disk. Partitions
        that are finished stay so.
    """
    left = [number for number in numbers if partitions.finished(task.plan, number) is None]
    with progress_bar(total=len(numbers), unit="part", desc=desc, shown=progress) as bar:
        bar.update(len(numbers) - len(left))
        if not left:
            return
        partitions.clear_remains(task.plan)
        if not sys.executable:
            # Python embedded in another program has no command to start children with.
            _in_process(task, left, bar)
            return

        def start() -> Child:
            return Child(target, dict(setup), dies_first=True)

        for _ in worked(start, left, _Maker(task).made, min(workers, len(left))):
            bar.update()


def _in_process(task: Task, numbers: Sequence[int], bar: Any) -> None:
    waiting = deque(numbers)
    while waiting:
        number = waiting.popleft()
        if partitions.make(task, number, {}) == "busy":
            waiting.append(number)
            time.sleep(_POLL_S)
        else:
            bar.update()


# --- in a child -----------------------------------------------------------------------------------


def answering(task: Task) -> Answer:
    """Return the function by which a child makes partitions of a task."""

    def answer(message: bytes) -> list[bytes]:
        asked = json.loads(message)
        number = asked["number"]
        try:
            if "only" in asked:
                partitions.attempt(task, number, asked["only"])
                found: dict[str, Any] = {"outcome": "made"}
            else:
                word = asked["word"]
                found = {
                    "outcome": partitions.make(task, number, asked["left_out"], word=word),
                }
        except DicomdlError as error:
            notes = getattr(error, "__notes__", [])
            found = {"error": type(error).__name__, "text": str(error), "notes": notes}
            found["errno"] = getattr(error, "errno", None)
        except Exception as error:
            found = {"failed": _words(error)}
        return [json.dumps(found).encode()]

    return answer


def _words(error: Exception) -> str:
    """Describe an error without its message, which may quote a value of a patient."""
    *_, last = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(last.filename)}, line {last.lineno}"
    return f"{type(error).__name__} in {place}: this is a fault of dicomdl, please report it"


# --- in the parent --------------------------------------------------------------------------------


class _Maker:
    """What is done to make the partitions of a task by children."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def made(self, slot: Slot, number: int) -> int | None:
        """Make a partition, and return its number; None if another process makes it."""
        left_out: dict[str, str] = {}
        why = ""
        for stage in range(2):
            for _ in range(_MOST_DEATHS):
                answer = self._ask(slot, number, {"left_out": left_out, "word": slot.word})
                if isinstance(answer, dict):
                    return None if answer["outcome"] == "busy" else number
                why = answer
            if stage == 0:
                left_out = self._killers(slot, number, self._task.units(number))
        raise StorageError(
            f"partition {number + 1} ended its process {2 * _MOST_DEATHS} times, although each of "
            f"its parts alone did not ({why}): with fewer workers there is more memory for each",
            part=number + 1,
        )

    def _killers(self, slot: Slot, number: int, units: Sequence[str]) -> dict[str, str]:
        """Return the units that end their process whenever they are tried, with the reasons."""
        size = -(-len(units) // _FAN)
        found: dict[str, str] = {}
        for start in range(0, len(units), max(1, size)):
            part = units[start : start + size]
            for _ in range(_MOST_DEATHS):
                answer = self._ask(slot, number, {"only": part})
                if isinstance(answer, dict):
                    break
            else:
                why = str(answer)
                found |= {part[0]: why} if size == 1 else self._killers(slot, number, part)
        return found

    def _ask(self, slot: Slot, number: int, what: dict[str, Any]) -> dict[str, Any] | str:
        """Return the answer of a child, or in words how it failed or ended."""
        answer = slot.ask(json.dumps({"number": number, **what}).encode())
        if isinstance(answer, Death):
            found: dict[str, Any] = {"failed": answer.why}
        else:
            found = json.loads(answer)
        if "failed" in found:
            with contextlib.suppress(OSError):
                release(partitions.lease_of(self._task.plan, number), slot.word)
            return str(found["failed"])
        if "error" in found:
            raise _raised(found)
        return found


def _raised(answer: Mapping[str, Any]) -> DicomdlError:
    """Return the error that a child met."""
    kind = getattr(errors, answer["error"], DicomdlError)
    error: DicomdlError = kind(answer["text"])
    error.__notes__ = list(answer["notes"])
    return error
