"""A long table of 4,500,000 rows, joined with an index of 1,000,000 frames and pivoted.

    python tests/benchmarks/join.py --frames 1000000

The table is that of RSNA 2019: a row per image and subtype, both in one key. Every contender runs
in a process of its own. CPU seconds are those of the join, without imports and without opening the
index; the peak of memory holds everything. pandas does the same by hand, and checks nothing. A
second table has a row per SOP Instance UID, a third one per patient.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import synthetic_index

import dicomdl

SUBTYPES = ("any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")


def write_tables(folder: Path, frames: int) -> None:
    """Write an index and three tables, of which the long one has three quarters of the frames."""
    index = dicomdl.open_index(synthetic_index(folder / "index", frames, frames // 100))
    labels = np.random.default_rng(0).integers(0, 2, (frames, len(SUBTYPES)))
    with (folder / "long.csv").open("w") as file:
        file.write("ID,Label\n")
        for number in range(frames * 3 // 4):
            rows = zip(SUBTYPES, labels[number].tolist(), strict=True)
            file.write("".join(f"ID_{number:06x}_{subtype},{label}\n" for subtype, label in rows))
    facts = index.to_pandas("frames")
    facts[["sop_instance_uid"]].assign(y=1).to_csv(folder / "images.csv", index=False)
    patients = facts["patient_id"].drop_duplicates()
    patients.to_frame().assign(y=1).to_csv(folder / "patients.csv", index=False)


def long_table(folder: Path) -> Callable[[], Any]:
    index = dicomdl.open_index(folder / "index")
    on = {"ID_{stem}_{subtype}": "ID"}
    return lambda: index.join(folder / "long.csv", on, pivot="subtype", on_unmatched="keep")


def long_table_by_pandas(folder: Path) -> Callable[[], Any]:
    import pandas as pd

    frames = dicomdl.open_index(folder / "index").to_pandas("frames")[["path"]]

    def join() -> Any:
        table = pd.read_csv(folder / "long.csv", dtype={"ID": str})
        table[["ID", "subtype"]] = table["ID"].str.rsplit("_", n=1, expand=True)
        wide = table.pivot(index="ID", columns="subtype", values="Label")
        stems = "ID_" + frames["path"].str.rsplit("/", n=1).str[-1].str.removesuffix(".dcm")
        return frames.assign(ID=stems).merge(wide, left_on="ID", right_index=True, how="left")

    return join


def one_row_per_image(folder: Path) -> Callable[[], Any]:
    index = dicomdl.open_index(folder / "index")
    return lambda: index.join(folder / "images.csv", {"SOPInstanceUID": "sop_instance_uid"})


def one_row_per_patient(folder: Path) -> Callable[[], Any]:
    index = dicomdl.open_index(folder / "index")
    return lambda: index.join(folder / "patients.csv", "patient_id")


CONTENDERS = {
    function.__name__: function
    for function in (long_table, long_table_by_pandas, one_row_per_image, one_row_per_patient)
}


def peak_mb() -> float:
    """Peak of resident memory; `ru_maxrss` would be that of the parent before this program."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def measured(name: str, folder: Path) -> dict[str, float]:
    """Run one contender in this process."""
    join = CONTENDERS[name](folder)
    start = time.process_time()
    join()
    return {"cpu_s": time.process_time() - start, "peak_mb": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--only", nargs=2, metavar=("CONTENDER", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measured(given.only[0], Path(given.only[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder), given.frames)
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--only", name, folder]
            run = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "DICOMDL_CACHE": folder},
            )
            found = json.loads(run.stdout)
            print(f"{name:<22} {found['cpu_s']:6.2f} s, peak {found['peak_mb']:,.0f} MB")


if __name__ == "__main__":
    main()
