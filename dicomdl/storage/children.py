"""Child processes that answer messages, with deadlines, memory limits and one way to end.

A child is a separate Python interpreter, started by `sys.executable -c`. It needs no main guard, so
it starts from a script, a notebook cell or standard input. It shares no memory and no locks with
its parent. Messages are bytes in both directions, each preceded by its length; nothing is pickled.

Life cycle of a child:

1. The parent names a function and its argument. The child imports and calls the function. The
   result is a second function, which answers messages.
2. The child sends an empty message when it is ready. Deadlines count from that moment, because on a
   busy machine the imports alone may take longer than the deadline.
3. The parent sends a message and receives the answer, message by message.
4. The child ends when the parent ends it, closes its input, or dies. On Linux the kernel kills it
   together with its parent, even while it hangs; elsewhere it ends with its current answer. The
   death of a child, whether by itself or by a deadline, is a result (`Death`), not an exception.

Standard output of a child is redirected to its standard error, which the parent drains.
"""

import contextlib
import functools
import gc
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, Final, TypeAlias

from dicomdl.errors import StorageError

# Imports with a cold file cache take seconds on a busy machine. Only a hanging import takes longer.
START_S: Final = 120.0
# Longest wait for the exit code of a child whose pipes are closed.
EXIT_S: Final = 1.0
LONGEST_MESSAGE: Final = 1 << 36
LONGEST_WORDS: Final = 200

# Function that answers one message with the parts of the answer: bytes or other buffers.
Answer: TypeAlias = Callable[[bytes], Iterable[Any]]

# Of prctl(2) and proc(5).
_SET_PARENT_DEATH_SIGNAL: Final = 1
_HIGHEST_SCORE: Final = "1000"
_BLOCK: Final = 4096
_LENGTH: Final = struct.Struct("<Q")
# sys.path is set first, because it locates dicomdl. `run` lets the collector begin.
_PROGRAM: Final = (
    "import gc, json, sys; gc.disable();"
    "setup = json.loads(sys.argv[1]); sys.path[:] = setup['path'];"
    "from dicomdl.storage.children import run; run(setup)"
)


@dataclass(frozen=True, slots=True)
class Death:
    """The reason in words why a child ended, and its exit code, negative for a signal.

    `was_ready` is True when the child had begun to answer. Standard error is quoted only when it
    had not: after that the child has read files, and its libraries may print their content.
    `is_late` is True when the child missed a deadline.
    """

    why: str
    code: int
    was_ready: bool = True
    is_late: bool = False

    def __str__(self) -> str:
        return self.why


UNREADABLE: Final = "its process gave an answer that cannot be read"


class Child:
    """A separate process that answers messages.

    Parameters
    ----------
    target
        ``"module:function"``. The child calls the function with `setup`. The returned function
        answers the messages.
    setup
        Any value that JSON can hold.
    memory_bytes
        Limit of the private, writable memory of the child; None for no limit. Systems without such
        limits (macOS, Windows) ignore it.
    dies_first
        On Linux, let the system kill this child before any other process when memory runs out.

    Raises
    ------
    StorageError
        The process cannot be started.
    """

    def __init__(
        self,
        target: str,
        setup: Any = None,
        *,
        memory_bytes: int | None = None,
        dies_first: bool = False,
    ) -> None:
        # Notebooks put objects other than strings into sys.path.
        path = [folder for folder in sys.path if isinstance(folder, str)]
        options = {"path": path, "target": target, "setup": setup, "memory_bytes": memory_bytes}
        options |= {"dies_first": dies_first, "parent": os.getpid()}
        try:
            self._process = _starter(os.getpid()).submit(_started, json.dumps(options)).result()
        except OSError as error:
            raise StorageError(
                f"no process can be started with {sys.executable!r}: {error.strerror or error}"
            ) from error
        self._is_ready = False
        self._death: Death | None = None
        self._words = b""
        self._drain = threading.Thread(target=self._keep_last_words, daemon=True)
        self._drain.start()

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def ask(
        self, *parts: Any, timeout_s: float | None = None, longest: int = LONGEST_MESSAGE
    ) -> bytes | Death:
        """Send one message, in parts, and receive the answer: `send` and `receive` in one deadline.

        A child that hangs does not read, either. A message that is longer than the buffer of the
        pipe (64 KiB on Linux) would wait for it without an end.
        """
        if (death := self._dead_at_start()) is not None:
            return death
        with self._deadline(timeout_s) as late:
            self.send(*parts)
            return self._answer(late, timeout_s, longest)

    def send(self, *parts: Any) -> None:
        """Send one message, in parts. The death of the child is reported by `receive`."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            _write(self._process.stdin, parts)

    def receive(
        self, timeout_s: float | None = None, longest: int = LONGEST_MESSAGE
    ) -> bytes | Death:
        """Receive the next message of the child, or the reason why it ended.

        Parameters
        ----------
        timeout_s
            Seconds until the child is killed, counted from this call or from when the child is
            ready, whichever is later; None for no deadline.
        longest
            Bytes. A longer message ends the child before memory for it is allocated.

        Returns
        -------
        bytes or Death
            The message, or how the child ended.
        """
        return self._dead_at_start() or self._received(timeout_s, longest)

    def _dead_at_start(self) -> Death | None:
        """Wait until the child is ready; return why it ended if it never was."""
        if not self._is_ready:
            ready = self._received(START_S, 0)
            if isinstance(ready, Death):
                return ready
            self._is_ready = True
        return None

    def end(self) -> Death:
        """Kill the process unless it has ended already, and close its pipes."""
        if self._death is None:
            self._process.kill()
        return self._ended()

    def _received(self, timeout_s: float | None, longest: int) -> bytes | Death:
        with self._deadline(timeout_s) as late:
            return self._answer(late, timeout_s, longest)

    def _answer(
        self, late: threading.Event, timeout_s: float | None, longest: int
    ) -> bytes | Death:
        """Read a message within a deadline, which kills the process and sets `late`."""
        if self._death is not None:
            return self._death
        assert self._process.stdout is not None
        try:
            return _read(self._process.stdout, longest)
        except (EOFError, OSError):
            if late.is_set():
                why = f"gave no answer in {timeout_s:g} s and was stopped"
                return self._ended(why, is_late=True)
            return self._ended()
        except ValueError:
            self._process.kill()
            return self._ended(UNREADABLE)

    @contextlib.contextmanager
    def _deadline(self, timeout_s: float | None) -> Iterator[threading.Event]:
        """Kill the process when the time is over; the yielded event is set when that happens."""
        late = threading.Event()
        if timeout_s is None:
            yield late
            return

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    def _ended(self, why: str = "", *, is_late: bool = False) -> Death:
        """Reap the process, which ends by itself when its pipes are closed, unless it hangs."""
        if self._death is not None:
            return self._death
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # Closing flushes, which fails for a message that a dead process never read.
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            code = self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        # With a time limit, because a grandchild may hold the pipe open.
        self._drain.join(EXIT_S)
        self._death = Death(why or self._reported(code), code, self._is_ready, is_late)
        return self._death

    def _reported(self, code: int) -> str:
        """Describe the end of the process in words: the signal if there was one, or the code."""
        start = "" if self._is_ready else " as soon as it started"
        words = "" if self._is_ready else self._last_words()
        text = f"its process ended{start} (exit code {code})"
        with contextlib.suppress(ValueError):
            text = f"its process died{start} ({signal.Signals(-code).name})"
        return f"{text}: {words}" if words else text

    def _keep_last_words(self) -> None:
        """Drain standard error, so that a child that prints much never blocks on a full pipe."""
        pipe = self._process.stderr
        assert pipe is not None
        with contextlib.suppress(OSError, ValueError), pipe:
            while block := os.read(pipe.fileno(), _BLOCK):
                self._words = (self._words + block)[-_BLOCK:]

    def _last_words(self) -> str:
        text = self._words.decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        words = lines[-1][:LONGEST_WORDS] if lines else ""
        return "".join(letter for letter in words if letter.isprintable())


# Small: one thread. A forked process, whose number differs, starts its own.
@functools.lru_cache(1)
def _starter(process: int) -> ThreadPoolExecutor:
    """Return the thread of a process that starts its children.

    Linux kills a child with the thread that started it (prctl(2), PR_SET_PDEATHSIG). This thread
    lasts as long as the process; the thread that reads ahead of a stream does not.
    """
    del process
    return ThreadPoolExecutor(1, "dicomdl-children")


def _started(options: str) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, options],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        # Ctrl-C in a terminal interrupts the whole group: the parent alone handles it, and ends
        # its children.
        process_group=0 if os.name == "posix" else None,
    )


def _write(pipe: IO[bytes], parts: Iterable[Any]) -> None:
    # Empty views are left out, because they cannot be cast.
    views = [view for part in parts if (view := memoryview(part)).nbytes]
    pipe.write(_LENGTH.pack(sum(view.nbytes for view in views)))
    for view in views:
        pipe.write(view.cast("B"))
    pipe.flush()


def _read(pipe: IO[bytes], longest: int) -> bytes:
    """Read one message; raise EOFError when the pipe ends before the message does."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    if length > longest:
        raise ValueError(f"a message of {length} bytes, expected {longest} at most")
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


# --- in the child ---------------------------------------------------------------------------------


def run(setup: dict[str, Any]) -> None:
    """Run the child: get ready, then answer messages until the parent closes the pipe."""
    # Duplicated descriptors keep the reads and prints of libraries out of the message stream.
    with (
        os.fdopen(os.dup(0), "rb") as source,
        os.fdopen(os.dup(1), "wb") as sink,
        contextlib.suppress(KeyboardInterrupt, BrokenPipeError),
    ):
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        _end_with(setup["parent"])
        _limit(setup["memory_bytes"], dies_first=setup["dies_first"])
        module, function = setup["target"].split(":")
        answer: Answer = getattr(importlib.import_module(module), function)(setup["setup"])
        # Modules stay to the end. Passes of the collector over those of torch take a seventh of
        # the start.
        gc.freeze()
        gc.enable()
        _write(sink, [])
        with contextlib.suppress(EOFError):
            while True:
                _write(sink, answer(_read(source, LONGEST_MESSAGE)))


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies; end it if the parent is dead already.

    The end of the input says so too, but a process that hangs in a codec never reads it.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("the parent process is gone")


def _limit(memory_bytes: int | None, *, dies_first: bool) -> None:
    if not sys.platform.startswith("linux"):
        return
    if dies_first:
        # Where /proc is not writable, as in some sandboxes, the system chooses as it likes.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write(_HIGHEST_SCORE)
    import resource

    # A core file would hold images. It would also take longer to write than a new child to start.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if memory_bytes is None:
        return

    # RLIMIT_DATA and not RLIMIT_AS, which also counts mapped files, such as libraries.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
