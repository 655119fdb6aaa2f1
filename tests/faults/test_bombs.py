"""Bombs: each has one outcome, and costs a scan and a read little memory.

The goal is 1.5 s of CPU and 200 MiB for each. What is above it is recorded (`goals.py`).
"""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from faults import bombs
from faults.bombs import OUTCOMES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc"),
]
MEASURE = """
import json, sys, time, warnings
import dicomdl
from dicomdl.errors import DicomdlError

warnings.simplefilter("ignore")
good, *bombs = sys.argv[1:]

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))

def cost(do):
    open("/proc/self/clear_refs", "w").write("5")
    before, start = peak(), time.process_time()
    value = do()
    return value, peak() - before, time.process_time() - start

def read(index):
    try:
        dicomdl.read_frame(index.source(0))
    except DicomdlError:
        pass

dicomdl.read_volume(dicomdl.scan(good, good + ".index", progress=False, workers=1).stacks[0])
for bomb in bombs:
    scan = lambda: dicomdl.scan(bomb, bomb + ".index", progress=False, workers=1)
    index, scanned, scan_s = cost(scan)
    repr(index), repr(index.check())
    _, was_read, read_s = cost(lambda: read(index) if len(index) else None)
    found = [problem.reason for problem in index.problems] or ["image"]
    print(json.dumps([found[0], scanned, was_read, scan_s, read_s]), flush=True)
"""

# Reason; MiB of scan and read; CPU seconds of scan and read.
Cost = tuple[str, int, int, float, float]
MOST_S, MOST_MIB = 1.5, 200


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    """The outcome of each bomb and its MiB, in one process that takes them one by one."""
    root = tmp_path_factory.mktemp("bombs")
    (root / "good").mkdir()
    good = bombs.file(bombs.EXPLICIT_LITTLE, bombs.image(bombs.native(bytes(16))))
    (root / "good" / "a.dcm").write_bytes(good)
    folders = [root / "good"]
    for number, name in enumerate(OUTCOMES):
        folders.append(root / str(number))
        bombs.write(folders[-1], name)
    command = [sys.executable, "-c", MEASURE, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(OUTCOMES, lines, strict=True))


def test_the_table_has_every_bomb() -> None:
    assert set(OUTCOMES) == set(bombs.BOMBS)


def test_each_bomb_has_its_outcome_and_costs_little_memory(
    costs: dict[str, Cost], record_property: Callable[[str, object], None]
) -> None:
    """One test for all: processes that share the tests among them would each take the bombs."""
    slowest = max(max(cost[3:]) for cost in costs.values())
    largest = max(max(cost[1:3]) for cost in costs.values())
    record_property("figure", f"{len(costs)} bombs: at most {slowest:.1f} s, {largest} MiB")
    for name, (_, *mib, scan_s, read_s) in costs.items():
        if max(mib) > MOST_MIB or max(scan_s, read_s) > MOST_S:
            record_property(
                "short",
                f"{name}: scan {scan_s:.1f} s, {mib[0]} MiB, read {read_s:.1f} s, {mib[1]} MiB",
            )
    assert {name: cost[0] for name, cost in costs.items()} == {
        name: outcome for name, (outcome, *_) in OUTCOMES.items()
    }
    most = {
        name: (most_scanned, most_read) for name, (_, most_scanned, most_read) in OUTCOMES.items()
    }
    above = {
        name: (scanned, was_read)
        for name, (_, scanned, was_read, *_) in costs.items()
        if scanned > most[name][0] or was_read > most[name][1]
    }
    assert above == {}
