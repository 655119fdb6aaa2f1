"""Child processes that answer messages: started, asked, timed, limited and ended in one way.

A child is a Python interpreter of its own, started by `sys.executable -c`. It needs no main guard,
so it starts from a script, a notebook cell or standard input, and it shares no memory and no locks
with its parent. Messages are bytes in both directions, each behind its length; nothing is pickled.

Life of a child:

1. The parent names a function and its argument. The child imports the function and calls it; the
   result is the function that answers messages.
2. The child sends an empty message: it is ready. Deadlines count from there, because on a busy
   machine the imports alone may take longer than the deadline.
3. The parent sends a message and receives the answer, message by message.
4. The child ends when the parent ends it, closes its input, or dies. The death of a child, its
   own or by a deadline, is a result (`Death`), not an exception.

In the child, whatever prints to standard output goes to standard error, which the parent drains.
"""

import contextlib
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final, TypeAlias

from dicomdl.errors import StorageError

# Imports of a cold cache on a busy machine take seconds; only an import that hangs takes this long.
START_S: Final = 120.0
# A child whose pipes are closed needs this long at most to tell its exit code.
EXIT_S: Final = 1.0
LONGEST_MESSAGE: Final = 1 << 36
LONGEST_WORDS: Final = 200

# Answers one message by the parts of the answer. The parts are bytes or other buffers.
Answer: TypeAlias = Callable[[bytes], Iterable[Any]]

_BLOCK: Final = 4096
_LENGTH: Final = struct.Struct("<Q")
# sys.path comes first: it says where dicomdl is.
_PROGRAM: Final = (
    "import json, sys; setup = json.loads(sys.argv[1]); sys.path[:] = setup['path'];"
    "from dicomdl.storage.children import run; run(setup)"
)


@dataclass(frozen=True, slots=True)
class Death:
    """How a child ended, in words, and its exit code, negative for a signal.

    `was_ready` tells whether the child had begun to answer. Only one that had not is quoted: a
    later one has read files, and the last words of its libraries may be those of the files.
    """

    why: str
    code: int
    was_ready: bool = True

    def __str__(self) -> str:
        return self.why


UNREADABLE: Final = "its process gave an answer that cannot be read"


class Child:
    """A process of its own that answers messages.

    Parameters
    ----------
    target
        ``"module:function"``. The child calls the function with `setup`; what it returns answers.
    setup
        Anything that JSON can hold.
    memory_bytes
        Limit of the child's memory (private, writable); None for none. Systems without such limits
        (macOS, Windows) ignore it.

    Raises
    ------
    StorageError
        No process can be started.
    """

    def __init__(self, target: str, setup: Any = None, *, memory_bytes: int | None = None) -> None:
        # Notebooks put things other than strings into sys.path.
        path = [folder for folder in sys.path if isinstance(folder, str)]
        options = {"path": path, "target": target, "setup": setup, "memory_bytes": memory_bytes}
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, json.dumps(options)],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
            )
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
        """Whether the process is known to run."""
        return self._process.poll() is None

    def send(self, *parts: Any) -> None:
        """Send one message, in parts; where the child is dead, `receive` tells."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            _write(self._process.stdin, parts)

    def receive(
        self, timeout_s: float | None = None, longest: int = LONGEST_MESSAGE
    ) -> bytes | Death:
        """The next message of the child, or how it ended.

        Parameters
        ----------
        timeout_s
            Seconds from now, or from when the child is ready if that is later, until it is killed.
        longest
            Bytes. A longer message ends the child, before anything is allocated.
        """
        if not self._is_ready:
            ready = self._received(START_S, 0)
            if isinstance(ready, Death):
                return ready
            self._is_ready = True
        return self._received(timeout_s, longest)

    def end(self) -> Death:
        """Kill the process, unless it has ended, and close its pipes."""
        if self._death is None:
            self._process.kill()
        return self._ended()

    def _received(self, timeout_s: float | None, longest: int) -> bytes | Death:
        if self._death is not None:
            return self._death
        assert self._process.stdout is not None
        with self._deadline(timeout_s) as late:
            try:
                return _read(self._process.stdout, longest)
            except (EOFError, OSError):
                is_late = late.is_set()
                return self._ended(
                    f"gave no answer in {timeout_s:g} s and was stopped" if is_late else ""
                )
            except ValueError:
                self._process.kill()
                return self._ended(UNREADABLE)

    @contextlib.contextmanager
    def _deadline(self, timeout_s: float | None) -> Iterator[threading.Event]:
        """Kill the process after a while; whether that has happened."""
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

    def _ended(self, why: str = "") -> Death:
        """Reap the process: without its pipes it ends by itself, unless it hangs."""
        if self._death is not None:
            return self._death
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # What a dead process never read cannot be flushed.
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            code = self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        # Not for ever: a grandchild may hold the pipe open.
        self._drain.join(EXIT_S)
        self._death = Death(why or self._reported(code), code, self._is_ready)
        return self._death

    def _reported(self, code: int) -> str:
        """How the process ended, in words: the signal where there was one."""
        start = "" if self._is_ready else " as soon as it started"
        words = "" if self._is_ready else self._last_words()
        text = f"its process ended{start} (exit code {code})"
        with contextlib.suppress(ValueError):
            text = f"its process died{start} ({signal.Signals(-code).name})"
        return f"{text}: {words}" if words else text

    def _keep_last_words(self) -> None:
        """Read standard error to its end, so that a child that prints much never waits."""
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


def _write(pipe: IO[bytes], parts: Iterable[Any]) -> None:
    # A view of nothing cannot be cast.
    views = [view for part in parts if (view := memoryview(part)).nbytes]
    pipe.write(_LENGTH.pack(sum(view.nbytes for view in views)))
    for view in views:
        pipe.write(view.cast("B"))
    pipe.flush()


def _read(pipe: IO[bytes], longest: int) -> bytes:
    """One message; EOFError where the pipe ends before it does."""
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
    """The whole life of a child: get ready, then answer messages until there are no more."""
    # Duplicates, so that nothing that a library reads or prints gets between the messages.
    with (
        os.fdopen(os.dup(0), "rb") as source,
        os.fdopen(os.dup(1), "wb") as sink,
        contextlib.suppress(KeyboardInterrupt, BrokenPipeError),
    ):
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        _limit_memory(setup["memory_bytes"])
        module, function = setup["target"].split(":")
        answer: Answer = getattr(importlib.import_module(module), function)(setup["setup"])
        _write(sink, [])
        with contextlib.suppress(EOFError):
            while True:
                _write(sink, answer(_read(source, LONGEST_MESSAGE)))


def _limit_memory(memory_bytes: int | None) -> None:
    if memory_bytes is None or not sys.platform.startswith("linux"):
        return
    import resource

    # Not RLIMIT_AS: the files that a process has mapped, its libraries among them, cost no memory.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
