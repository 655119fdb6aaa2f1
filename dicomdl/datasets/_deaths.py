"""Dead workers of a DataLoader: the error names the frame that the worker was decoding.

torch raises a RuntimeError that names the process alone: from the next call of the loader's
iterator, or from its handler of SIGCHLD, anywhere in the code of the main thread. It has no hook
for either. Therefore two of its functions are wrapped, `_BaseDataLoaderIter.__next__` and
`signal_handling._error_if_any_worker_fails`. If a future version of torch lacks them, its error
arrives unchanged, and `last_decoded` still has the frame.

A worker that outlives its main process ends itself. torch's own watch takes up to 5 s, and takes
for ever while the worker decodes.
"""

import contextlib
import functools
import importlib
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import connection
from typing import Any, Final

from dicomdl.errors import WorkerDied
from dicomdl.pixels.recorder import Decoded, last_decoded

# As torch names processes in its errors.
_PIDS: Final = re.compile(r"pid(?:\(s\))? ([\d, ]+)")
_OF_WORKER: Final = re.compile(r"Caught \w+ in DataLoader worker")
# Wait for the end of a worker whose connection has just been lost.
_DYING_S: Final = 2.0
_WATCH_S: Final = 1.0
# Frames that a worker has been decoding for longer are named when the loader has waited in vain.
_SLOW_S: Final = 1.0


@functools.cache
def name_dead_workers() -> None:
    """Make the errors of all DataLoaders of this process name what dead workers were decoding."""
    for module, owner, function, wrapper in (
        ("torch.utils.data.dataloader", "_BaseDataLoaderIter", "__next__", _naming_in_pass),
        (
            "torch.utils.data._utils.signal_handling",
            "",
            "_error_if_any_worker_fails",
            _naming_in_handler,
        ),
    ):
        with contextlib.suppress(ImportError, AttributeError):
            place: Any = importlib.import_module(module)
            place = getattr(place, owner) if owner else place
            setattr(place, function, wrapper(getattr(place, function)))


def _naming_in_handler(check: Callable[[], Any]) -> Callable[[], Any]:
    """Wrap the function that raises for a dead worker when SIGCHLD arrives."""

    @functools.wraps(check)
    def checked() -> Any:
        try:
            return check()
        except RuntimeError as error:
            found = _named(error, _pids_in(error))
            try:
                if found is error:
                    raise
                raise found from error
            finally:
                # The error holds this frame: without it they leave with the error.
                del found

    return checked


def _naming_in_pass(next_batch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap the function by which a loader's iterator gives the next batch."""

    @functools.wraps(next_batch)
    def named(self: Any) -> Any:
        try:
            return next_batch(self)
        except (RuntimeError, OSError, EOFError) as error:
            found = _explained(error, getattr(self, "_workers", ()))
            try:
                if found is error:
                    raise
                raise found from error
            finally:
                del found

    return named


def _explained(error: BaseException, workers: Sequence[Any]) -> BaseException:
    """Return the error to raise for one that left a pass: a WorkerDied where a worker died."""
    cause: BaseException | None = error
    while cause is not None:
        # From the handler of SIGCHLD, within the pass.
        if isinstance(cause, WorkerDied):
            return error if cause is error else WorkerDied(str(cause), **vars(cause))
        cause = cause.__cause__
    if not workers or _OF_WORKER.match(str(error)):
        return error
    if isinstance(error, OSError | EOFError):
        # The connection ends before the process does.
        connection.wait([worker.sentinel for worker in workers], _DYING_S)
    dead = [worker.pid for worker in workers if worker.exitcode not in (None, 0)]
    dead += [worker.pid for worker in workers if worker.exitcode == 0 and _unfinished(worker.pid)]
    if not dead and "timed out" in str(error):
        _note_slow(error, [worker.pid for worker in workers])
    return _named(error, dead) if dead else error


def _pids_in(error: BaseException) -> list[int]:
    """Return the processes that an error of torch names."""
    found = _PIDS.search(str(error))
    return [] if found is None else [int(pid) for pid in found[1].replace(",", " ").split()]


def _unfinished(pid: int) -> list[Decoded]:
    """Return what a process was decoding, or is decoding."""
    return [found for found in last_decoded(pid) if not found.is_done]


def _named(error: BaseException, pids: Iterable[int]) -> BaseException:
    """Return a WorkerDied for the first process that died while it decoded, else the error.

    A worker that was not decoding is noted with the frame before, which is not the cause.
    """
    words = " ".join(str(error).split()).rstrip(". ")
    for pid in pids:
        for found in _unfinished(pid):
            return WorkerDied(
                f"{words}, while it decoded {found.path}, frame {found.frame_number}, by "
                f"{found.decoder}: the frame is damaged, the decoder has a fault, or memory ran "
                'out; isolation="process" makes it the error of one sample',
                path=found.path,
                frame_number=found.frame_number,
                decoder=found.decoder,
                pid=pid,
            )
        for found in last_decoded(pid):
            error.add_note(
                f"worker {pid} was not decoding; it had decoded {found.path}, frame "
                f"{found.frame_number}"
            )
    return error


def _note_slow(error: BaseException, pids: Iterable[int]) -> None:
    """Note the frames that workers have been decoding while the loader waited for them."""
    for pid in pids:
        for found in _unfinished(pid):
            if found.seconds >= _SLOW_S:
                error.add_note(
                    f"worker {pid} has been decoding {found.path}, frame {found.frame_number}, by "
                    f"{found.decoder} for {found.seconds:.0f} s"
                )


# --- in a worker ----------------------------------------------------------------------------------


class _Watch:
    """The process whose thread watches its parent; a forked one has no such thread."""

    process = 0


def end_with_parent() -> None:
    """End this worker within about a second of its parent's death, also while it decodes.

    A decoder that holds the GIL keeps it alive until it returns; all that are called within a
    worker by default release it or have never hung.
    """
    if _Watch.process == os.getpid():
        return
    _Watch.process = os.getpid()
    watch = threading.Thread(target=_watch, args=(os.getppid(),), daemon=True)
    watch.start()


def _watch(parent: int) -> None:
    main = multiprocessing.parent_process()
    # A forked worker keeps the pipes of its siblings open, by which `is_alive` would learn of the
    # death; a worker of a server has that server as parent; and on Windows the number stays.
    while os.getppid() == parent and (main is None or main.is_alive()):
        time.sleep(_WATCH_S)
    os._exit(1)
