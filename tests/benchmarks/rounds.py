"""Contenders in one run: interleaved rounds, medians, ratios to dicomdl and to the floor.

Every contender runs once before the clock starts, which warms the page cache, does its imports and
checks its result. Then follow rounds A B C, A B C, ..., so that disturbances of the machine affect
all contenders. A peer that is not installed is listed as absent.
"""

import argparse
import gc
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Task = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    `prepare` imports packages and returns the task to time; an ImportError there means "absent".
    `note` describes differences of its job. `check` returns the fault of the result of the task,
    "" for a right one.
    """

    name: str
    prepare: Callable[[], Task]
    note: str = ""
    check: Callable[[Any], str] | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender per round."""

    name: str
    seconds: tuple[float, ...]
    note: str

    @property
    def median(self) -> float:
        """Median of the rounds in seconds."""
        return statistics.median(self.seconds)


def race(
    title: str, contenders: Sequence[Contender], *, repeat: int, units: int = 1, unit: str = "ms"
) -> dict[str, Timing]:
    """Run the contenders against each other and print the table.

    Each figure is divided by `units` (files, frames, ...).
    """
    ready, absent = _prepare(contenders)
    seconds: dict[str, list[float]] = {contender.name: [] for contender, _, _ in ready}
    for _ in range(repeat):
        for contender, task, _ in ready:
            gc.collect()
            start = time.perf_counter()
            result = task()
            seconds[contender.name].append(time.perf_counter() - start)
            del result
    timings = {
        contender.name: Timing(
            contender.name,
            tuple(seconds[contender.name]),
            "; ".join(filter(None, (contender.note, found))),
        )
        for contender, _, found in ready
    }
    print_table(title, timings, units, unit)
    for name, reason in absent:
        print(f"  {name:<44} {reason}")
    print(flush=True)
    return timings


def _prepare(
    contenders: Sequence[Contender],
) -> tuple[list[tuple[Contender, Task, str]], list[tuple[str, str]]]:
    """Return the contenders that can run, and those that cannot.

    The former are (contender, task, result of its check), the latter (name, reason).
    """
    ready, absent = [], []
    for contender in contenders:
        try:
            task = contender.prepare()
            result = task()
        except ImportError as error:
            absent.append((contender.name, f"absent: {error}"))
            continue
        except Exception as error:
            # a peer that cannot do the job must not end the run; the table shows what
            # it said
            absent.append(
                (
                    contender.name,
                    f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
                )
            )
            continue
        ready.append((contender, task, contender.check(result) if contender.check else ""))
        del result
    return ready, absent


def print_table(title: str, timings: dict[str, Timing], units: int, unit: str) -> None:
    """Print medians, the fastest round, and ratios to the first row of each reference."""
    factor = {"s": 1, "ms": 1e3, "us": 1e6}[unit.split("/")[0]] / units
    references = [
        name for name in ("dicomdl", "floor") if any(key.startswith(name) for key in timings)
    ]
    firsts = {
        name: next(t for key, t in timings.items() if key.startswith(name)) for name in references
    }
    print(f"{title}   [{unit}, medians]")
    heads = "".join(f"{'x ' + name:>12}" for name in references)
    print(f"  {'':<44}{'median':>10}{'fastest':>10}{heads}")
    for timing in timings.values():
        ratios = "".join(f"{timing.median / first.median:>12.2f}" for first in firsts.values())
        note = f"   {timing.note}" if timing.note else ""
        print(
            "  "
            f"{timing.name:<44}{timing.median * factor:>10.2f}"
            f"{min(timing.seconds) * factor:>10.2f}{ratios}{note}"
        )


def arguments(description: str | None, **more: tuple[int, str]) -> argparse.Namespace:
    """The command line that the benchmarks share.

    `more` adds integer options as (default, help).
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default 5)")
    for name, (default, text) in more.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            default=default,
            help=f"{text} (default {default})",
        )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    machine = (
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {_cores()} "
        "cores"
    )
    print(f"{machine}, {given.repeat} rounds\n", flush=True)
    return given


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
