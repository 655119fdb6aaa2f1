"""jobs.engine"""

import contextlib
import gc
import json
import os
import queue
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from dicomdl.errors import StorageError
from dicomdl.headers.frame import Attribute
from dicomdl.headers.reader import NO_TILE, CodedTile, HeaderReader
from dicomdl.index.building import empty_table, frames_table, from_bytes, table_of, to_bytes
from dicomdl.index.schema import PROBLEMS_SCHEMA, READ_FILES_SCHEMA, frames_schema
from dicomdl.index.table import Table
from dicomdl.storage.system import available_cores

CHUNK_FILES: Final = 1024  # files a worker reads before it answers
IN_PROCESS_FILES: Final = 4000  # below this, starting workers (0.4 s) costs more than they save


def read_chunk(reader: HeaderReader, paths: Sequence[bytes], first: int = 0) -> list[Table]:
    """[files, frames, problems] of some files, numbered from `first`: the unit of work of every engine."""
    with _no_cycle_collection():
        headers = [reader.read(os.fsdecode(path)) for path in paths]
    numbers = range(first, first + len(paths))
    files = {
        "path": list(paths),
        "file_bytes": [h.file_bytes for h in headers],
        "file_mtime_ns": [h.file_mtime_ns for h in headers],
        "file_ctime_ns": [h.file_ctime_ns for h in headers],
        "kind": [h.kind for h in headers],
        "sop_class_uid": [h.sop_class_uid for h in headers],
        "file": list(numbers),
    }
    bad = [(number, h) for number, h in zip(numbers, headers, strict=True) if h.kind == "problem"]
    problems = {
        "file": [number for number, _ in bad],
        "reason": [h.reason for _, h in bad],
        "detail": [h.detail for _, h in bad],
    }
    return [
        table_of(READ_FILES_SCHEMA, files),
        _frame_rows(
            reader, [(number, h) for number, h in zip(numbers, headers, strict=True) if h.rows]
        ),
        table_of(PROBLEMS_SCHEMA, problems),
    ]


@contextlib.contextmanager
def _no_cycle_collection() -> Iterator[None]:
    """Headers are tuples of bytes, without cycles, but by the hundred thousand: looking for some costs a quarter of the scan."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _frame_rows(reader: HeaderReader, headers: Sequence[tuple[int, Any]]) -> Table:
    extra = reader.extra
    rows = [row for _, header in headers for row in header.rows]
    if not rows:
        return empty_table(frames_schema(extra))
    places = {
        "file": [number for number, header in headers for _ in header.rows],
        "frame_number": [number for _, header in headers for number in header.frame_numbers],
        "byte_offset": [place.byte_offset for _, header in headers for place in header.places],
        "byte_length": [place.byte_length for _, header in headers for place in header.places],
        "bit_offset": [place.bit_offset for _, header in headers for place in header.places],
        "deflated": [header.deflated for _, header in headers for _ in header.rows],
        "float_pixels": [header.float_pixels for _, header in headers for _ in header.rows],
    }
    if any(header.tiles for _, header in headers):
        tiles = [
            tile for _, header in headers for tile in (header.tiles or [NO_TILE] * len(header.rows))
        ]
        places |= dict(zip(CodedTile._fields, map(list, zip(*tiles, strict=True)), strict=True))
    return frames_table(places, reader.convert(rows), extra)


def read_all(
    paths: Sequence[bytes], extra: Sequence[Attribute], workers: int | None, *, progress: bool
) -> Iterator[list[Table]]:
    """The tables of every chunk of files, in any order, with a progress bar."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # in a notebook without ipywidgets tqdm says so, and shows a text bar
        from tqdm.auto import tqdm

    chunks = [
        (start, paths[start : start + CHUNK_FILES]) for start in range(0, len(paths), CHUNK_FILES)
    ]
    if workers is None:
        workers = 1 if len(paths) < IN_PROCESS_FILES else available_cores()
    if (
        not sys.executable
    ):  # Python inside another program: there is no command to start workers with
        workers = 1
    done = (
        _in_process(chunks, extra)
        if workers == 1 or len(chunks) < 2
        else _in_workers(chunks, extra, min(workers, len(chunks)))
    )
    with tqdm(
        total=len(paths),
        unit="file",
        desc="reading headers",
        disable=None if progress else True,
        leave=False,
    ) as bar:
        for tables in done:
            bar.update(len(tables[0]))
            yield tables


def _in_process(
    chunks: Sequence[tuple[int, Sequence[bytes]]], extra: Sequence[Attribute]
) -> Iterator[list[Table]]:
    reader = HeaderReader(extra)
    for first, paths in chunks:
        yield read_chunk(reader, paths, first)


# A message is its length and its bytes; a chunk's message is the number of its first file and its paths, NUL between them.
_LENGTH: Final = struct.Struct("<QQ")


def _in_workers(
    chunks: Sequence[tuple[int, Sequence[bytes]]], extra: Sequence[Attribute], workers: int
) -> Iterator[list[Table]]:
    """Chunks read by processes of our own; what a process that dies leaves undone, this process reads."""
    waiting: queue.SimpleQueue[tuple[int, Sequence[bytes]] | None] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[tuple[int, Sequence[bytes]] | None, bytes]] = (
        queue.SimpleQueue()
    )
    for chunk in chunks:
        waiting.put(chunk)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(
            workers
        ):  # inside, so that one that cannot be started does not leave the others behind
            processes.append(_start_worker(extra))
        for process in processes:
            waiting.put(None)
            threading.Thread(
                target=_serve_from, args=(process, waiting, answers), daemon=True
            ).start()
        ended = 0
        while ended < workers:
            answered, answer = answers.get()
            if answered is None:
                ended += 1
            elif answer:
                yield from_bytes(answer, 3)
            else:
                yield from _in_process([answered], extra)
        while not waiting.empty():  # every process died before the work was done
            left = waiting.get()
            if left is not None:
                yield from _in_process([left], extra)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(
                        OSError
                    ):  # what a dead worker never read cannot be flushed
                        pipe.close()


_WORKER: Final = (
    "import json, sys; setup = json.loads(sys.argv[1]); sys.path[:] = setup['path'];"  # before the import: it says where dicomdl is
    "from dicomdl.jobs.engine import serve; serve(setup)"
)


def _start_worker(extra: Sequence[Attribute]) -> "subprocess.Popen[bytes]":
    places = [
        place for place in sys.path if isinstance(place, str)
    ]  # notebooks put other things there, too
    setup = json.dumps({"path": places, "extra": [asdict(attribute) for attribute in extra]})
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _WORKER, setup],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    except OSError as error:
        raise StorageError(
            f"a worker cannot be started ({error.strerror}): pass workers=1"
        ) from error


def _serve_from(process: "subprocess.Popen[bytes]", waiting: Any, answers: Any) -> None:
    """Feed one worker chunk by chunk; an empty answer stands for a chunk that it could not read."""
    while (chunk := waiting.get()) is not None:
        try:
            assert process.stdin is not None and process.stdout is not None
            message = b"\0".join(chunk[1])
            process.stdin.write(_LENGTH.pack(len(message), chunk[0]) + message)
            process.stdin.flush()
            size, _ = _LENGTH.unpack(process.stdout.read(_LENGTH.size))
            answer = process.stdout.read(size)
        except (OSError, ValueError, struct.error):
            answers.put((chunk, b""))
            break
        answers.put((chunk, answer if len(answer) == size else b""))
    answers.put((None, b""))


def serve(setup: Mapping[str, Any]) -> None:
    """A worker process: chunks from standard input, tables to standard output, until the input ends."""
    reader = HeaderReader(
        [Attribute(**{**a, "groups": tuple(a["groups"])}) for a in setup["extra"]]
    )
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing that prints may get between the messages
    try:
        while len(head := source.read(_LENGTH.size)) == _LENGTH.size:
            size, first = _LENGTH.unpack(head)
            answer = to_bytes(read_chunk(reader, source.read(size).split(b"\0"), first))
            sink.write(_LENGTH.pack(len(answer), first) + answer)
            sink.flush()
    except (KeyboardInterrupt, BrokenPipeError):
        return
