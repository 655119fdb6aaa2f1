"""children: processes answer messages, and their death is a result."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicomdl.errors import StorageError
from dicomdl.storage import children
from dicomdl.storage.children import START_S, Child, Death

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and limits are those of POSIX")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are Linux's")

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A function that starts children, whose answer to `message` is the body of a function."""
    monkeypatch.syspath_prepend(tmp_path)
    with contextlib.ExitStack() as started:

        def start(body: str, at_import: str = "", setup: Any = None, **options: Any) -> Child:
            name = f"answers_{len(list(tmp_path.iterdir()))}"
            answer = textwrap.indent(textwrap.dedent(body), "        ")
            (tmp_path / f"{name}.py").write_text(
                f"import os, sys, time\n{at_import}\n"
                f"def answering(setup):\n    def answer(message):\n{answer}\n    return answer\n"
            )
            child = Child(f"{name}:answering", setup, **options)
            started.callback(child.end)
            return child

        yield start


def asked(child: Child, message: bytes, **options: Any) -> bytes | Death:
    return child.ask(message, **options)


def death_of(child: Child, message: bytes = b"", **options: Any) -> Death:
    found = asked(child, message, **options)
    assert isinstance(found, Death)
    return found


def test_a_child_answers_message_by_message(start: Start) -> None:
    child = start("return [message[::-1]]")
    assert [asked(child, message) for message in (b"abc", b"", b"x" * 10**6)] == [
        b"cba",
        b"",
        b"x" * 10**6,
    ]


def test_a_message_is_sent_in_parts_of_any_kind_of_buffer(start: Start) -> None:
    child = start("import numpy; return [message, numpy.arange(6).reshape(2, 3), b'']")
    child.send(b"a", memoryview(b"bc"), np.zeros((0, 2)), np.array([[1], [2]], "u1"))
    assert child.receive() == b"abc\x01\x02" + np.arange(6).tobytes()


def test_a_child_knows_its_setup_and_the_path_of_its_parent(start: Start) -> None:
    child = start("return [setup['name'].encode(), str(sys.path).encode()]", setup={"name": "é"})
    assert asked(child, b"") == "é".encode() + str([p for p in sys.path if p is not None]).encode()


def test_a_child_collects_what_answers_leave_and_not_what_it_imported(start: Start) -> None:
    child = start(
        "import gc; return [repr([gc.isenabled(), gc.get_freeze_count() > 1000]).encode()]"
    )
    assert asked(child, b"") == b"[True, True]"


def test_a_deadline_begins_when_the_child_is_ready(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[tuple[float | None, bool]] = []
    deadline = Child._deadline

    def recorded(child: Child, timeout_s: float | None) -> Any:
        deadlines.append((timeout_s, child._is_ready))
        return deadline(child, timeout_s)

    monkeypatch.setattr(Child, "_deadline", recorded)
    child = start("return [message]", at_import="time.sleep(0.1)")
    assert [asked(child, b"a", timeout_s=50), asked(child, b"b", timeout_s=50)] == [b"a", b"b"]
    assert deadlines == [(START_S, False), (50, True), (50, True)]


def test_a_child_that_is_never_ready_is_stopped(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "START_S", 0.1)
    child = start("return [message]", at_import="time.sleep(600)")
    death = death_of(child)
    assert str(death) == "gave no answer in 0.1 s and was stopped"
    assert not death.was_ready and not child.is_alive


def test_a_child_that_misses_its_deadline_is_stopped(start: Start) -> None:
    child = start("time.sleep(600)")
    death = death_of(child, timeout_s=0.1)
    assert str(death) == "gave no answer in 0.1 s and was stopped"
    assert death.was_ready and not child.is_alive


@posix_only
def test_the_deadline_holds_for_a_child_that_does_not_read(start: Start) -> None:
    child = start("return [message]")
    assert asked(child, b"a") == b"a"
    os.kill(child._process.pid, signal.SIGSTOP)
    death = death_of(child, bytes(10**6), timeout_s=0.1)
    assert death.is_late and not child.is_alive


@posix_only
def test_the_signal_that_ends_a_child_is_told(start: Start) -> None:
    death = death_of(start("os.abort()"))
    assert (str(death), death.code) == ("its process died (SIGABRT)", -6)


def test_the_exit_code_of_a_child_is_told_and_stays(start: Start) -> None:
    child = start("os._exit(3)")
    death = death_of(child)
    assert (str(death), death.code, death.was_ready) == (
        "its process ended (exit code 3)",
        3,
        True,
    )
    assert asked(child, b"again") == death == child.end()


def test_a_child_that_cannot_start_tells_its_last_words(start: Start) -> None:
    death = death_of(start("return []", at_import="import no_such_module"))
    assert str(death) == (
        "its process ended as soon as it started (exit code 1): "
        "ModuleNotFoundError: No module named 'no_such_module'"
    )
    assert not death.was_ready


def test_the_words_of_a_child_that_has_read_files_are_not_repeated(start: Start) -> None:
    death = death_of(start("raise RuntimeError('RAMP^PHANTOM')"))
    assert str(death) == "its process ended (exit code 1)"


def test_escape_sequences_in_last_words_do_not_reach_the_terminal(start: Start) -> None:
    death = death_of(start("return []", at_import="sys.exit('\\x1b[31mred')"))
    assert str(death).endswith(": [31mred")


def test_what_a_child_prints_or_reads_does_not_get_between_messages(start: Start) -> None:
    child = start(
        "print('hello', flush=True); os.write(1, b'hello'); return [message, sys.stdin.read()"
        ".encode()]"
    )
    assert [asked(child, b"a"), asked(child, b"b")] == [b"a", b"b"]


def test_a_child_that_writes_much_to_standard_error_does_not_wait(start: Start) -> None:
    child = start("os.write(2, b'x' * 10**6); return [message]")
    assert asked(child, b"a") == b"a"


def test_a_message_that_is_too_long_ends_the_child_before_it_is_allocated(start: Start) -> None:
    child = start("return [message]")
    assert asked(child, b"abc", longest=3) == b"abc"
    assert str(death_of(child, b"abcd", longest=3)) == children.UNREADABLE
    assert not child.is_alive


@linux_only
def test_a_child_that_exceeds_its_memory_dies_alone(start: Start) -> None:
    child = start("return [bytes(int(message))[:1]]", memory_bytes=2**29)
    assert asked(child, b"1000") == b"\0"
    assert str(death_of(child, str(2**30).encode())) == "its process ended (exit code 1)"


def test_a_child_ends_with_its_input(start: Start) -> None:
    child = start("return [message]")
    assert asked(child, b"a") == b"a"
    assert child._process.stdin is not None
    child._process.stdin.close()
    death = child.receive()
    assert isinstance(death, Death) and death.code == 0


def test_without_python_no_child_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(StorageError, match="no process can be started with '/no/python'"):
        Child("dicomdl.storage.children:run")


@posix_only
def test_a_child_is_in_a_process_group_of_its_own_so_ctrl_c_reaches_the_parent_alone(
    start: Start,
) -> None:
    child = start("return [str(os.getpgid(0) == os.getpid()).encode()]")
    assert asked(child, b"") == b"True"


def test_a_child_outlives_the_thread_that_asked_for_it(start: Start) -> None:
    started: list[Child] = []
    thread = threading.Thread(target=lambda: started.append(start("return [message]")))
    thread.start()
    thread.join()
    # The kernel kills with the thread, before `join` returns or soon after.
    assert [asked(started[0], b"a") for _ in range(50)] == [b"a"] * 50


# The call holds the GIL, so that no thread of the child can notice anything.
HANG = "import ctypes; ctypes.PyDLL(None).sleep(600)"
PARENT = """
import sys; from dicomdl.storage.children import Child
sys.path.insert(0, {folder!r})
child = Child("hanging:answering")
child.send(b"")
child.receive()
child.send(b"hang")
print(child._process.pid, flush=True)
child.receive()
"""


@linux_only
@pytest.mark.slow
def test_a_child_that_hangs_dies_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(
        f"def answering(_):\n    def answer(message):\n        if message:\n            {HANG}\n"
        "        return [message]\n    return answer\n"
    )
    code = PARENT.format(folder=str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    assert is_gone_soon(child)


def is_gone_soon(process: int) -> bool:
    """Whether a process ends within a generous time; a zombie counts as ended."""
    for _ in range(600):
        try:
            if "State:\tZ" in Path(f"/proc/{process}/status").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@linux_only
def test_a_child_that_dies_writes_no_core_and_is_killed_first_if_asked(start: Start) -> None:
    body = """
    import resource
    score = open("/proc/self/oom_score_adj").read().strip()
    return [f"{resource.getrlimit(resource.RLIMIT_CORE)[0]} {score}".encode()]
    """
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    assert asked(start(body), b"") == f"0 {own}".encode()
    assert asked(start(body, dies_first=True), b"") == b"0 1000"
