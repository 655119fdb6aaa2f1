"""locks: one process at a time, without errors and without waiting for a dead process."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import pytest

from dicomdl.storage import locks

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and forks are those of POSIX")

HOLDER = """
import os, sys, time
from dicomdl.storage import locks
with locks.alone(sys.argv[1]) as held:
    print(held, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "entry.lock")


def test_one_holds_a_lock_and_the_other_goes_without_it(path: str) -> None:
    with locks.alone(path) as first, locks.alone(path, wait_s=0) as second:
        assert (first, second) == (True, False)
    assert not os.path.exists(path)


def test_the_lock_of_a_process_that_waited_in_vain_stays_the_holders(path: str) -> None:
    with locks.alone(path):
        with locks.alone(path, wait_s=0.05) as held:
            assert held is False
        with locks.alone(path, wait_s=0) as held:
            assert held is False


def test_a_lock_is_released_when_the_block_raises(path: str) -> None:
    with pytest.raises(RuntimeError, match="make"), locks.alone(path):
        raise RuntimeError("make")
    with locks.alone(path, wait_s=0) as held:
        assert held


@posix_only
def test_a_holder_that_is_killed_blocks_nobody_though_its_file_is_left(path: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        with locks.alone(path, wait_s=0) as held:
            assert held is False
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
    assert os.path.exists(path)
    with locks.alone(path, wait_s=0) as held:
        assert held
    assert not os.path.exists(path)


def test_threads_hold_a_lock_one_at_a_time(path: str) -> None:
    inside: list[int] = []

    def work(_: int) -> int:
        with locks.alone(path):
            inside.append(1)
            most = len(inside)
            inside.pop()
        return most

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(work, range(100))) == {1}


@posix_only
def test_a_child_that_is_forked_under_a_lock_neither_holds_nor_loses_it(path: str) -> None:
    with locks.alone(path):
        child = os.fork()
        if child == 0:
            code = 1
            with locks.alone(path, wait_s=0) as held:
                code = 0 if held is False else 2
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        with locks.alone(path, wait_s=0) as held:
            assert held is False
    with locks.alone(path, wait_s=0) as held:
        assert held


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS])
def test_a_lock_that_cannot_be_had_is_no_error_and_leaves_no_file(
    path: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with locks.alone(path) as held:
        assert held is None
    assert not os.path.exists(path)


@posix_only
def test_a_file_system_without_flock_has_no_locks_rather_than_marker_files(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: Any) -> Any:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locks.alone(path) as first, locks.alone(path) as second:
        assert (first, second) == (None, None)
    assert not os.path.exists(path)


@pytest.mark.skipif(locks._fcntl is None, reason="needs flock")
def test_a_mark_is_held_while_its_block_runs_and_unknown_without_a_file(path: str) -> None:
    assert locks.is_held(path) is None
    with locks.held_while(path):
        assert locks.is_held(path) is True
    assert locks.is_held(path) is False


@pytest.mark.skipif(locks._fcntl is None, reason="needs flock")
def test_who_finds_a_mark_without_its_writer_holds_it_meanwhile(path: str) -> None:
    Path(path).touch()
    with locks.probed(path) as held:
        assert held is False and locks.is_held(path) is True
    assert locks.is_held(path) is False


@pytest.mark.skipif(locks._fcntl is None, reason="needs flock")
def test_a_writer_waits_for_who_looks_at_its_mark_and_is_told_if_that_removed_it(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locks._wait_for

    def wait(descriptor: int) -> None:
        with ThreadPoolExecutor(1) as team:
            with locks.probed(path) as held:
                assert held is False
                waiting = team.submit(lock, descriptor)
                with pytest.raises(TimeoutError):
                    waiting.result(0.03)
                os.unlink(path)
            waiting.result()

    monkeypatch.setattr(locks, "_wait_for", wait)
    with pytest.raises(FileNotFoundError), locks.held_while(path):
        pass


@pytest.mark.skipif(locks._fcntl is None, reason="needs flock")
def test_a_folder_is_locked_for_one_at_a_time_without_a_file_in_it(tmp_path: Path) -> None:
    inside = list[int]()

    def enter(number: int) -> None:
        with locks.alone_in(str(tmp_path)):
            inside.append(number)
            time.sleep(0.002)
            assert inside[-1] == number and os.listdir(tmp_path) == []

    with ThreadPoolExecutor(4) as team:
        list(team.map(enter, range(12)))
    assert sorted(inside) == list(range(12))
    with locks.alone_in(str(tmp_path / "absent")):
        pass


def test_a_system_without_locks_knows_nothing_of_marks(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_fcntl", None)
    with locks.held_while(path):
        assert locks.is_held(path) is None
