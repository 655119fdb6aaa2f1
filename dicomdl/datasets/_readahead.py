"""Samples read a few rows at a time, by a thread if asked, each with its own error in its own place.

The rule to know: nothing that a dataset raises ends the reading but an interrupt; it is the outcome of its row, because an error that
was raised here would end the iterator, and with it the rows after it.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.datasets.samplers import EpochRow
from dicomdl.errors import UsageError

_LOOK_S: Final = 5.0  # how often a waiting reader looks whether the thread still lives
Chunk = list[tuple[int, Any]]  # (position, sample, Failure or SKIPPED)
SKIPPED: Final = object()
_INTERRUPTS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in the place of a sample."""

    error: Exception


def read_chunks(
    dataset: Any,
    rows_at: Callable[[list[int]], list[int]],
    epoch: int,
    positions: Iterator[list[int]],
) -> Iterator[Chunk]:
    """The outcomes of the rows at some positions of a share, chunk by chunk.

    `rows_at` says which rows those are.
    """
    for chunk in positions:
        rows = [EpochRow(row, epoch) for row in rows_at(chunk)]
        yield list(zip(chunk, _read_rows(dataset, rows), strict=True))


def _read_rows(dataset: Any, rows: list[EpochRow]) -> list[Any]:
    """One outcome a row.

    When reading them together fails or skips, each is read alone, so that the others are not
    lost.

    Our own datasets tell the outcome of each row by themselves (`samples.SampleDataset.outcomes`).
    """
    if hasattr(dataset, "outcomes"):
        return [
            SKIPPED if o is None else _failure(o, row) if isinstance(o, BaseException) else o
            for o, row in _outcomes(dataset, rows)
        ]
    if len(rows) > 1 and getattr(dataset, "__getitems__", None) is not None:
        try:
            samples = list(dataset.__getitems__(rows))
        except _INTERRUPTS:
            raise
        except BaseException:  # told below, by the row whose fault it is
            samples = []
        if len(samples) == len(rows):
            return samples
    return [_read_row(dataset, row) for row in rows]


def _outcomes(dataset: Any, rows: list[EpochRow]) -> list[tuple[Any, EpochRow]]:
    try:
        return list(zip(dataset.outcomes(rows), rows, strict=True))
    except _INTERRUPTS:
        raise
    except BaseException as error:  # nothing that a row would raise
        return [(error, row) for row in rows]


def _failure(error: BaseException, row: EpochRow) -> Failure:
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return Failure(error)
    return Failure(
        _caused(RuntimeError(f"the sample of row {row} raised {type(error).__name__}"), error)
    )


def _read_row(dataset: Any, row: EpochRow) -> Any:
    try:
        if getattr(dataset, "__getitems__", None) is None:
            return dataset[row]
        samples = list(dataset.__getitems__([row]))
    except StopIteration as error:  # would be taken for the end of the epoch
        return Failure(
            _caused(RuntimeError(f"the sample of row {row} raised StopIteration"), error)
        )
    except Exception as error:
        return Failure(error)
    except _INTERRUPTS:
        raise
    except BaseException as error:
        # such as a decoder's PanicException, which would end the worker without a word
        return Failure(
            _caused(RuntimeError(f"the sample of row {row} raised {type(error).__name__}"), error)
        )
    if len(samples) > 1:
        return Failure(
            UsageError(f"__getitems__ gave {len(samples)} samples for 1 row", samples=len(samples))
        )
    return samples[0] if samples else SKIPPED


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


class Ahead(Iterator[Chunk]):
    """Chunks read by a thread: one may wait while the next is being read."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: Chunk | None = None
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self, chunks: Iterator[Chunk]) -> None:
        """Begin to read."""
        self._thread = threading.Thread(
            target=self._run, args=(chunks,), name="dicomdl-stream", daemon=True
        )
        self._thread.start()

    def _run(self, chunks: Iterator[Chunk]) -> None:
        error = None
        try:
            for chunk in chunks:
                if not self._put(chunk):
                    break
        except BaseException as caught:  # not a sample's error, which comes as its outcome
            error = caught
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def _put(self, chunk: Chunk) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None or self._stopped)
            if not self._stopped:
                self._waiting = chunk
                self._changed.notify_all()
            return not self._stopped

    def __next__(self) -> Chunk:
        with self._changed:
            while self._waiting is None and not self._ended and not self._stopped:
                if (
                    not self._changed.wait(_LOOK_S)
                    and not (self._thread and self._thread.is_alive())
                    and not self._ended
                ):
                    raise RuntimeError(
                        "the reading thread is gone (was the process forked in the middle of a pass?)"
                    )
            chunk, self._waiting = self._waiting, None
            self._changed.notify_all()
        if chunk is not None:
            return chunk
        if self._error is not None:
            raise RuntimeError("reading ahead failed") from self._error
        raise StopIteration

    def stop(self) -> None:
        """Let the thread end after the chunk that it is reading."""
        with self._changed:
            self._stopped, self._waiting = True, None
            self._changed.notify_all()
