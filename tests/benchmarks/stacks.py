"""Building stacks of 1,000,000 frames in 10,000 series in one process.

    python tests/benchmarks/stacks.py --repeat 1

Some runs have repeated positions. The floor sorts the same frames by the same keys with numpy. No
files are read: the tables are those of a scan after the headers.
"""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rounds import Contender, arguments, race
from synthetic import synthetic_frames

from dicomdl.geometry.grid import Tolerances
from dicomdl.geometry.stacks import Stacking, build_stacks
from dicomdl.index.building import encoded
from dicomdl.index.table import Table

SLICES = 100
GOAL_S = 20.0
KEYS = (
    "patient_id",
    "study_instance_uid",
    "series_instance_uid",
    "sop_class_uid",
    "instance_number",
    "sop_instance_uid",
)
Ints = NDArray[np.int64]


def numbered(frames: Table, slices: Ints) -> Table:
    """Frames with an instance number and UID each, at given positions."""
    instances = [f"2.25.6.{number}" for number in range(len(slices))]
    return frames.with_column("instance_number", slices + 1).with_column(
        "sop_instance_uid", instances
    )


def plain(of_series: Ints, slices: Ints) -> Table:
    return synthetic_frames(of_series, slices)


def two_echoes(of_series: Ints, slices: Ints) -> Table:
    frames = numbered(synthetic_frames(of_series, slices // 2), slices)
    return frames.with_column("echo_time", np.where(slices % 2, 4.9, 7.3))


def five_times_of_two_echoes(of_series: Ints, slices: Ints) -> Table:
    frames = numbered(synthetic_frames(of_series, slices % 10), slices)
    frames = frames.with_column(
        "acquisition_time", [f"10{one // 60:02d}{one % 60:02d}" for one in slices.tolist()]
    )
    return frames.with_column("temporal_position_identifier", slices // 10 % 5).with_column(
        "echo_time", np.where(slices // 50, 4.9, 7.3)
    )


def one_series(of_series: Ints, slices: Ints) -> Table:
    """A series of a thousand passes over its positions, separated by instance number alone."""
    rows = np.arange(len(slices))
    return numbered(synthetic_frames(of_series * 0, rows % 1000), rows)


def sort_keys(frames: Table) -> Ints:
    return np.asarray(np.lexsort([frames.ranks(name) for name in reversed(KEYS)]))


def stacks_of(frames: Table) -> Stacking:
    return build_stacks(frames, Tolerances())


def expected(count: int, verdict: str, stacking: Stacking) -> str:
    """Return the fault of the stacks, "" if they are right."""
    verdicts = {stack.verdict for stack in stacking.stacks}
    return (
        ""
        if len(stacking.stacks) == count and verdicts == {verdict}
        else f"{len(stacking.stacks)} stacks, {verdicts}"
    )


def main() -> None:
    given = arguments(__doc__, frames=(1_000_000, "frames in series of 100"))
    frames = given.frames // SLICES * SLICES
    of_series, slices = (
        np.repeat(np.arange(frames // SLICES), SLICES),
        np.tile(np.arange(SLICES), frames // SLICES),
    )
    kinds: dict[str, tuple[Callable[[Ints, Ints], Table], int]] = {
        "a stack a series": (plain, frames // SLICES),
        "two echoes a series": (two_echoes, 2 * frames // SLICES),
        "five times of two echoes a series": (five_times_of_two_echoes, 10 * frames // SLICES),
        "a single series": (one_series, -(-frames // 1000)),
    }
    for name, (make, count) in kinds.items():
        table = encoded(make(of_series, slices))
        race(
            f"{frames} frames, {name}",
            [
                Contender(
                    "dicomdl",
                    lambda table=table: functools.partial(stacks_of, table),
                    "",
                    functools.partial(expected, count, "regular"),
                ),
                Contender(
                    "floor: lexsort of six keys",
                    lambda table=table: functools.partial(sort_keys, table),
                ),
            ],
            repeat=given.repeat,
            unit="s",
        )
    print(f"goal: {GOAL_S:g} s")


if __name__ == "__main__":
    main()
