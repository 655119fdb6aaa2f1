"""Scripts as main processes that need no second to import torch: forks of one that has.

A script is its process from its first line to its exit code, as if an interpreter had started it,
but the modules that the server has imported are there already.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

_SERVER = """
import json, os, runpy, socket, sys
door = socket.socket(fileno=int(sys.argv[1]))
import torch, dicomdl, dicomdl.datasets.frames
while True:
    message, passed, *_ = socket.recv_fds(door, 1 << 16, 1)
    if not message:
        break
    script = os.fork()
    if script == 0:
        door.close()
        os.dup2(passed[0], 1)
        os.close(passed[0])
        sys.argv, environment = json.loads(message)
        os.environ.clear()
        os.environ.update(environment)
        runpy.run_path(sys.argv[0], run_name="__main__")
        break
    os.close(passed[0])
    door.send(str(script).encode())
    door.send(str(os.waitstatus_to_exitcode(os.waitpid(script, 0)[1])).encode())
"""


class ForkedScript:
    """A running script. It is killed and waited for where its block ends."""

    def __init__(
        self, door: socket.socket, words: list[str], environment: Mapping[str, str]
    ) -> None:
        self._door = door
        self._code: int | None = None
        reader, writer = os.pipe()
        socket.send_fds(door, [json.dumps([words, dict(environment)]).encode()], [writer])
        os.close(writer)
        self.stdout = os.fdopen(reader)
        self.pid = int(door.recv(100))

    def wait(self) -> int:
        """Return the exit code."""
        if self._code is None:
            self._code = int(self._door.recv(100))
        return self._code

    def kill(self) -> None:
        """Kill the process, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def __enter__(self) -> "ForkedScript":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and self._code is None:
            self.kill()
        self.wait()
        self.stdout.close()


class ScriptServer:
    """The process that scripts are forked from, one after another.

    Parameters
    ----------
    path
        The folders of modules, for scripts and for the processes that they start.
    """

    def __init__(self, path: Iterable[str]) -> None:
        self._path = {"PYTHONPATH": os.pathsep.join(path)}
        # A message is what one call sends.
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-c", _SERVER, str(theirs.fileno())]
            passed = [theirs.fileno()]
            environment = {**os.environ, **self._path}
            self._process = subprocess.Popen(command, env=environment, pass_fds=passed)

    def run(self, script: Path, *arguments: Any) -> ForkedScript:
        """Start a script in the environment of now; its standard output is a pipe."""
        words = [str(script), *map(str, arguments)]
        return ForkedScript(self._door, words, {**os.environ, **self._path})

    def end(self) -> None:
        """End the server."""
        self._door.close()
        self._process.wait()
