"""Child processes that make the partitions of a plan, and what happens when one dies.

A child that dies is replaced, and its partition is made again. After two deaths the partition is
divided, down to its single units (series, files), and each part is tried by itself. A unit that
ends its process twice more is left out and becomes a problem, "killed_worker"; the partition is
then made without it.
"""

import contextlib
import json
import os
import secrets
import sys
import threading
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
from dicomdl.storage.children import Answer, Child, Death
from dicomdl.storage.leases import release

KILLED: Final = "killed_worker"
# Deaths after which a partition is divided, and a unit is left out.
_MOST_DEATHS: Final = 2
# Parts into which a partition is divided at once.
_FAN: Final = 16
# Children that end before they are ready: their imports fail, and no partition is the reason. A
# signal, as of a queue that takes its machine back, is no fault of theirs.
_MOST_STARTS: Final = 2
_MOST_KILLED_STARTS: Final = 20
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
        team = _Team(task, target, setup, left, bar)
        team.work(min(workers, len(left)))


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


class _Slot:
    """One place for a child process, which is started when it is asked, and again if it died."""

    def __init__(self, target: str, setup: Mapping[str, Any], stopped: threading.Event) -> None:
        self._target, self._setup, self._stopped = target, dict(setup), stopped
        self._child: Child | None = None
        self.word = secrets.token_hex(8)

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any] | str:
        """Send a message; return the answer, or in words how the child ended."""
        failed = killed = 0
        while True:
            if self._stopped.is_set():
                raise StorageError("stopped")
            if self._child is None:
                self._child = Child(self._target, self._setup, dies_first=True)
            self._child.send(json.dumps(message).encode())
            answer = self._child.receive()
            if not isinstance(answer, Death):
                found: dict[str, Any] = json.loads(answer)
                return found if "failed" not in found else str(found["failed"])
            self.end()
            if answer.was_ready:
                return answer.why
            failed, killed = failed + (answer.code >= 0), killed + (answer.code < 0)
            if failed == _MOST_STARTS or killed == _MOST_KILLED_STARTS:
                raise StorageError(f"a child process cannot start: {answer.why}")

    def end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


class _Team:
    """The children of a process, and the partitions that wait for them."""

    def __init__(
        self, task: Task, target: str, setup: Mapping[str, Any], left: Sequence[int], bar: Any
    ) -> None:
        self._task, self._target, self._setup, self._bar = task, target, setup, bar
        self._waiting = deque(left)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._slots: list[_Slot] = []

    def work(self, workers: int) -> None:
        self._slots = [_Slot(self._target, self._setup, self._stopped) for _ in range(workers)]
        threads = [
            threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in self._slots
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                # With a time limit, so that Ctrl-C is noticed.
                while thread.is_alive():
                    thread.join(1.0)
        finally:
            self._stopped.set()
            for slot in self._slots:
                slot.end()
        if self._failure is not None:
            raise self._failure

    def _serve(self, slot: _Slot) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    with self._lock:
                        number = self._waiting.popleft()
                except IndexError:
                    return
                if self._is_done(slot, number):
                    with self._lock:
                        self._bar.update()
                else:
                    with self._lock:
                        self._waiting.append(number)
                    self._stopped.wait(_POLL_S)
        except BaseException as error:
            with self._lock:
                self._failure = self._failure or error
            self._stopped.set()
        finally:
            slot.end()

    def _is_done(self, slot: _Slot, number: int) -> bool:
        """Make a partition; False if another process makes it."""
        left_out: dict[str, str] = {}
        why = ""
        for stage in range(2):
            for _ in range(_MOST_DEATHS):
                answer = self._ask(slot, number, {"left_out": left_out, "word": slot.word})
                if isinstance(answer, dict):
                    return bool(answer["outcome"] != "busy")
                why = answer
            if stage == 0:
                left_out = self._killers(slot, number, self._task.units(number))
        raise StorageError(
            f"partition {number + 1} ended its process {2 * _MOST_DEATHS} times, although each of "
            f"its parts alone did not ({why}): with fewer workers there is more memory for each",
            part=number + 1,
        )

    def _killers(self, slot: _Slot, number: int, units: Sequence[str]) -> dict[str, str]:
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

    def _ask(self, slot: _Slot, number: int, what: dict[str, Any]) -> dict[str, Any] | str:
        answer = slot.ask({"number": number, **what})
        if isinstance(answer, str):
            with contextlib.suppress(OSError):
                release(partitions.lease_of(self._task.plan, number), slot.word)
        elif "error" in answer:
            raise _raised(answer)
        return answer


def _raised(answer: Mapping[str, Any]) -> DicomdlError:
    """Return the error that a child met."""
    kind = getattr(errors, answer["error"], DicomdlError)
    error: DicomdlError = kind(answer["text"])
    error.__notes__ = list(answer["notes"])
    return error
