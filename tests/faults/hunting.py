"""A hunt: many generated inputs taken by child processes, of which no crash and no hang is lost.

Each input is made from its number alone, so the number names it. A child writes the number before
it begins; if it dies or hangs, the number is its failure, and the next child begins behind it.
Failing inputs and their tracebacks stay in a folder that the message names.
"""

import contextlib
import faulthandler
import mmap
import os
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dicomdl.errors import DicomdlError

OUTCOMES = ("not taken", "fine", "typed error", "escape", "signal", "hang")
_NOT_TAKEN, _FINE, _TYPED, _ESCAPE, _SIGNAL, _HANG = range(len(OUTCOMES))
# Wall time without a new input after which a child counts as hanging; machines may be busy.
HANG_S = 120.0


@dataclass(frozen=True, slots=True)
class Hunt:
    """The result of a hunt.

    Attributes
    ----------
    outcomes
        Number of inputs per outcome.
    failed
        Numbers of the inputs that are neither fine nor a typed error.
    slowest_s
        Most CPU seconds of one input.
    peak_mib
        Largest growth of the resident memory of a child.
    folder
        Holds the failed inputs.
    """

    outcomes: Counter[str]
    failed: tuple[int, ...]
    slowest_s: float
    peak_mib: float
    folder: Path

    @property
    def figure(self) -> str:
        """The numbers in words."""
        counts = ", ".join(f"{self.outcomes[word]:,} {word}" for word in OUTCOMES[1:3])
        escaped = sum(self.outcomes[word] for word in OUTCOMES[3:])
        return (
            f"{counts}, {escaped} escapes; slowest {self.slowest_s:.2f} s of CPU, "
            f"memory + {self.peak_mib:.0f} MiB"
        )


class _Shared:
    """The record of all inputs, in memory that parent and children share."""

    def __init__(self, count: int) -> None:
        buffer = mmap.mmap(-1, 16 + 5 * count)
        self.current = np.frombuffer(buffer, np.int64, 1)
        self.peak_kib = np.frombuffer(buffer, np.int64, 1, 8)
        self.cpu_ms = np.frombuffer(buffer, np.uint32, count, 16)
        self.codes = np.frombuffer(buffer, np.uint8, count, 16 + 4 * count)


def hunt(
    count: int, make: Callable[[int], bytes], take: Callable[[bytes], object], folder: Path
) -> Hunt:
    """Take inputs 0 to `count` - 1; an exception that is no DicomdlError is an escape."""
    folder.mkdir(parents=True, exist_ok=True)
    shared, first = _Shared(count), 0
    while first < count:
        child = os.fork()
        if child == 0:
            try:
                _take(first, count, make, take, folder, shared)
            finally:
                os._exit(0)
        try:
            hangs = _wait(child, shared)
        except BaseException:
            # The time of the test is over.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            raise
        number = int(shared.current[0])
        if shared.codes[number] == _NOT_TAKEN:
            shared.codes[number] = _HANG if hangs else _SIGNAL
        first = number + 1
    for crash in folder.glob("crash-*"):
        if not crash.stat().st_size:
            crash.unlink()
    failed = tuple(np.flatnonzero(~np.isin(shared.codes, (_FINE, _TYPED))).tolist())
    for number in failed:
        (folder / f"{number}.input").write_bytes(make(number))
    return Hunt(
        Counter(OUTCOMES[code] for code in shared.codes.tolist()),
        failed,
        float(shared.cpu_ms.max()) / 1000,
        float(shared.peak_kib[0]) / 1024,
        folder,
    )


def _take(
    first: int,
    count: int,
    make: Callable[[int], bytes],
    take: Callable[[bytes], object],
    folder: Path,
    shared: _Shared,
) -> None:
    """Take inputs in a child, until they or the child end."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(folder / f"crash-{os.getpid()}.traceback", "w") as crash:
        faulthandler.enable(crash)
        _take_all(range(first, count), make, take, folder, shared)


def _take_all(
    numbers: Iterable[int],
    make: Callable[[int], bytes],
    take: Callable[[bytes], object],
    folder: Path,
    shared: _Shared,
) -> None:
    begun = _peak_kib()
    for number in numbers:
        raw = make(number)
        shared.current[0] = number
        start = time.process_time()
        try:
            take(raw)
            code = _FINE
        except DicomdlError:
            code = _TYPED
        except BaseException:
            (folder / f"{number}.traceback").write_text(traceback.format_exc())
            code = _ESCAPE
        shared.cpu_ms[number] = round(1000 * (time.process_time() - start))
        shared.peak_kib[0] = max(int(shared.peak_kib[0]), _peak_kib() - begun)
        shared.codes[number] = code


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _wait(child: int, shared: _Shared) -> bool:
    """Wait for the end of a child; return True if it had to be killed because it hung."""
    number, since = -1, time.monotonic()
    while True:
        ended, _ = os.waitpid(child, os.WNOHANG)
        if ended:
            return False
        now = int(shared.current[0])
        if now != number:
            number, since = now, time.monotonic()
        elif time.monotonic() - since > HANG_S:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.02)
