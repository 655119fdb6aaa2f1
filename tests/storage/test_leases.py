"""leases: one process has a lease, and that of a dead one is taken over."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dicomdl.errors import StorageError
from dicomdl.storage import locks
from dicomdl.storage.leases import lease, release

HOLD = """
import sys
from dicomdl.storage.leases import lease
with lease(sys.argv[1]) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> "subprocess.Popen[str]":
    """Return another process that has the lease."""
    command = [sys.executable, "-c", HOLD, str(path)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_one_of_two_has_a_lease_which_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "leases" / "a"
    with lease(str(path)) as mine, lease(str(path)) as other:
        assert mine
        assert not other
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert os.listdir(path.parent) == []


def test_of_many_threads_one_has_a_lease(tmp_path: Path) -> None:
    got, ready, done = [], threading.Barrier(8), threading.Barrier(8)

    def take() -> None:
        ready.wait()
        with lease(str(tmp_path / "a")) as mine:
            got.append(mine)
            done.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]


@pytest.mark.slow
@pytest.mark.skipif(
    not locks.available(), reason="this system has no lock that ends with a process"
)
def test_the_lease_of_a_killed_process_is_taken_at_once_and_that_of_a_live_one_never(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a"
    process = holder(path)
    os.utime(path, (0, 0))
    with lease(str(path)) as mine:
        assert not mine
    process.kill()
    process.wait()
    assert path.exists()
    with lease(str(path)) as mine:
        assert mine
    assert os.listdir(tmp_path) == []


def left(path: Path, age_s: float, word: str = "") -> None:
    """Write the lease of a process of another machine."""
    owner = {"machine": "elsewhere", "process": 1, "token": "x", "is_locked": True, "word": word}
    path.write_text(json.dumps(owner))
    now = path.stat().st_mtime
    os.utime(path, (now - age_s, now - age_s))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_lease_of_another_machine_is_taken_when_it_is_not_touched_for_long(
    tmp_path: Path, sign: int
) -> None:
    path = tmp_path / "a"
    left(path, age_s=sign * 60)
    with lease(str(path), stale_s=100) as mine:
        assert not mine
    # Before, or by a clock that was ahead and is right again.
    left(path, age_s=sign * 200)
    with lease(str(path), stale_s=100) as mine:
        assert mine


def test_an_owner_that_was_taken_over_leaves_the_lease_of_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with lease(str(path)):
        left(path, age_s=0)
    assert json.loads(path.read_text())["machine"] == "elsewhere"


def test_a_lease_is_released_by_its_word_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    left(path, age_s=0, word="this")
    release(str(path), "other")
    assert path.exists()
    release(str(path), "this")
    assert not path.exists()


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("")
    with pytest.raises(StorageError, match="cannot be created"), lease(str(tmp_path / "leases/a")):
        pass
