"""The reader of a stream: a few rows at a time, optionally by a thread.

An error of a dataset is the outcome of its row, and only an interrupt ends the reading. If an error
were raised here, it would end the iterator and lose the rows after it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from dicomdl.datasets.epochs import EpochRow, chance_from, drawn_number
from dicomdl.errors import UsageError

# The interval at which a waiting reader checks that the thread is alive.
_CHECK_S: Final = 5.0
# (position, outcome) pairs; an outcome is a sample, a Failure or SKIPPED.
Chunk = list[tuple[int, Any]]
SKIPPED: Final = object()
_INTERRUPTS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that takes the place of a sample."""

    error: Exception


def read_chunks(
    dataset: Any,
    rows_at: Callable[[list[int]], list[int]],
    epoch: int | None,
    positions: Iterator[list[int]],
) -> Iterator[Chunk]:
    """Return an iterator over the outcomes at positions of a share, chunk by chunk.

    `rows_at` maps positions to rows. Without an epoch, chance comes from a generator that torch's
    own seeds here, before anything is read.
    """
    generator = torch.Generator()
    if epoch is None:
        generator.manual_seed(drawn_number())

    def chunks() -> Iterator[Chunk]:
        """Yield the outcomes."""
        for chunk in positions:
            rows = rows_at(chunk)
            if epoch is not None:
                rows = [EpochRow(row, epoch) for row in rows]
            with chance_from(generator):
                outcomes = _read_rows(dataset, rows)
            yield list(zip(chunk, outcomes, strict=True))

    return chunks()


def _read_rows(dataset: Any, rows: Sequence[int]) -> list[Any]:
    """Return one outcome per row.

    If reading the rows together fails or skips, each is read alone, so that one bad row does not
    lose the others. Datasets with a method `outcomes` (`base.SampleDataset`) report the outcome of
    each row themselves.
    """
    if hasattr(dataset, "outcomes"):
        return [
            SKIPPED
            if outcome is None
            else _failure(outcome, row)
            if isinstance(outcome, BaseException)
            else outcome
            for outcome, row in _outcomes(dataset, rows)
        ]
    if len(rows) > 1 and getattr(dataset, "__getitems__", None) is not None:
        try:
            samples = list(dataset.__getitems__(rows))
        except _INTERRUPTS:
            raise
        except BaseException:
            # Reading row by row reports the error at the row that causes it.
            samples = []
        if len(samples) == len(rows):
            return samples
    return [_read_row(dataset, row) for row in rows]


def _outcomes(dataset: Any, rows: Sequence[int]) -> list[tuple[Any, int]]:
    """Return (outcome, row) pairs of a dataset with the method `outcomes`."""
    try:
        return list(zip(dataset.outcomes(rows), rows, strict=True))
    except _INTERRUPTS:
        raise
    except BaseException as error:
        # `outcomes` returns the errors of rows, so this one concerns all of them.
        return [(error, row) for row in rows]


def _failure(error: BaseException, row: int) -> Failure:
    """Return the outcome for an error; errors that end loops silently become RuntimeErrors."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return Failure(error)
    return Failure(
        _caused(RuntimeError(f"the sample of row {row} raised {type(error).__name__}"), error)
    )


def _read_row(dataset: Any, row: int) -> Any:
    """Return the outcome of one row."""
    try:
        if getattr(dataset, "__getitems__", None) is None:
            return dataset[row]
        samples = list(dataset.__getitems__([row]))
    except StopIteration as error:
        # A loader would take it for the end of the epoch.
        return Failure(
            _caused(RuntimeError(f"the sample of row {row} raised StopIteration"), error)
        )
    except Exception as error:
        return Failure(error)
    except _INTERRUPTS:
        raise
    except BaseException as error:
        # A decoder's PanicException, for example, would end the worker silently.
        return Failure(
            _caused(RuntimeError(f"the sample of row {row} raised {type(error).__name__}"), error)
        )
    if len(samples) > 1:
        return Failure(
            UsageError(f"__getitems__ gave {len(samples)} samples for 1 row", samples=len(samples))
        )
    return samples[0] if samples else SKIPPED


def _caused(error: Exception, cause: BaseException) -> Exception:
    """Return an error with its cause, as ``raise ... from`` sets it."""
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
        """Read all chunks; the body of the thread."""
        error = None
        try:
            for chunk in chunks:
                if not self._put(chunk):
                    break
        except BaseException as caught:
            # Errors of samples are outcomes, so this is a fault of the reading itself.
            error = caught
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def _put(self, chunk: Chunk) -> bool:
        """Hand over a chunk when none waits; return False once stopped."""
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
                    not self._changed.wait(_CHECK_S)
                    and not (self._thread and self._thread.is_alive())
                    and not self._ended
                ):
                    raise RuntimeError(
                        "the reading thread is gone (was the process forked in the middle of a "
                        "pass?)"
                    )
            chunk, self._waiting = self._waiting, None
            self._changed.notify_all()
        if chunk is not None:
            return chunk
        if self._error is not None:
            raise RuntimeError("reading ahead failed") from self._error
        raise StopIteration

    def stop(self) -> None:
        """Stop the thread after the chunk that it is reading."""
        with self._changed:
            self._stopped, self._waiting = True, None
            self._changed.notify_all()
