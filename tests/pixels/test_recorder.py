"""recorder: what a process was decoding can be read after its death."""

import mmap
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomdl.pixels import recorder
from dicomdl.pixels.recorder import SLOT_BYTES, SLOTS, Decoded, Recorder, decoding, last_decoded


@pytest.fixture(autouse=True)
def new_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each test begin without slots."""
    monkeypatch.setattr(recorder._here, "slots", None)
    monkeypatch.setattr(recorder._here, "free", [])
    yield


def facts(found: Decoded) -> tuple[int, str, int, str, bool]:
    return found.pid, found.path, found.frame_number, found.decoder, found.is_done


def killed_while_decoding(path: str) -> int:
    """Fork a process that dies while it decodes, and return its number."""
    child = os.fork()
    if child == 0:
        with decoding(path, 2, "some codec"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    return child


def test_nothing_is_recorded_before_a_recorder_is_made() -> None:
    with decoding("a.dcm", 1, "some codec"):
        assert last_decoded() == []
    Recorder()
    with decoding("b.dcm", 1, "some codec"):
        assert [found.path for found in last_decoded()] == ["b.dcm"]


def test_a_process_that_was_killed_is_named_with_its_frame() -> None:
    Recorder()
    name = "folder/ü \udcff.dcm"
    child = killed_while_decoding(name)
    (found,) = last_decoded(child)
    assert facts(found) == (child, name, 2, "some codec", False)
    assert found.seconds >= 0


def test_a_frame_that_is_decoded_is_marked_as_done_also_after_an_error() -> None:
    Recorder()
    with pytest.raises(ValueError, match="damaged"), decoding("a.dcm", 1, "some codec"):
        raise ValueError("damaged")
    assert [facts(found) for found in last_decoded()] == [
        (os.getpid(), "a.dcm", 1, "some codec", True)
    ]


def test_every_thread_has_a_record_and_slots_are_used_again() -> None:
    Recorder()
    all_in, go_on = threading.Barrier(5), threading.Event()

    def work(number: int) -> None:
        with decoding(f"{number}.dcm", 1, "some codec"):
            all_in.wait()
            go_on.wait()

    for _ in range(3):
        go_on.clear()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        all_in.wait()
        assert sorted(found.path for found in last_decoded() if not found.is_done) == [
            f"{number}.dcm" for number in range(4)
        ]
        go_on.set()
        for thread in threads:
            thread.join()
    assert len(last_decoded()) == 4


@pytest.mark.slow
def test_many_deaths_and_the_living_find_slots() -> None:
    Recorder()
    assert recorder._here.slots is not None
    taken = 0
    while recorder._here.slots.take() is not None:
        taken += 1
    assert taken == SLOTS
    with decoding("a.dcm", 1, "some codec"):
        assert last_decoded() == []  # this process has all of them
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    # The slot of a dead process.
    recorder._HEAD.pack_into(recorder._here.slots._slot(7), 0, child, 1, 1, 0.0, 0, 0)
    with decoding("b.dcm", 1, "some codec"):
        assert [found.path for found in last_decoded()] == ["b.dcm"]


def test_a_path_longer_than_a_slot_keeps_its_end() -> None:
    Recorder()
    with decoding("x" * SLOT_BYTES + "/end.dcm", 1, "some codec"):
        (found,) = last_decoded()
    assert found.path.startswith("...x") and found.path.endswith("x/end.dcm")
    assert found.decoder == "some codec"


def test_the_memory_has_no_name_and_a_copy_of_a_recorder_sends_none() -> None:
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    pickle.loads(pickle.dumps(Recorder()))
    assert recorder._here.slots is not None
    mmap.mmap(recorder._here.slots.descriptor, SLOTS * SLOT_BYTES).close()
    after = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    assert {name for name in after - before if "dicomdl" in name} == set()


SCRIPT = """
import multiprocessing, os, signal
from dicomdl.pixels.recorder import Recorder, decoding, last_decoded

def die(recorder):
    with decoding("a.dcm", 4, "some codec"):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    context = multiprocessing.get_context(METHOD)
    process = context.Process(target=die, args=(Recorder(),))
    process.start()
    process.join()
    (found,) = last_decoded(process.pid)
    print(found.path, found.frame_number, found.is_done)
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows hands no descriptors over")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_any_start_method_records_where_its_parent_reads(
    method: str, tmp_path: Path
) -> None:
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("METHOD", repr(method)))
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stdout.split() == ["a.dcm", "4", "False"]


def test_a_process_has_one_recorder_so_that_spawn_gets_its_descriptor_once() -> None:
    assert Recorder() is Recorder()
    first, second = pickle.loads(pickle.dumps([Recorder(), Recorder()]))
    assert first is second is Recorder()
