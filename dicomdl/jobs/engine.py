"""Headers of many files: chunk by chunk in this process, or in worker processes.

`read_chunk` is the unit of work of every engine. A chunk that a dead worker leaves unread is read
by this process, so a scan ends with the same tables however many workers die.
"""

import contextlib
import functools
import gc
import os
import struct
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeAlias

from dicomdl.errors import DicomdlError, DicomdlWarning, StorageError
from dicomdl.headers.annotation import AnnotationFacts, kind_of, no_facts, read_annotation
from dicomdl.headers.attribute import Attribute
from dicomdl.headers.columns import Constant
from dicomdl.headers.header import NO_TILE, CodedTile, Header
from dicomdl.headers.limits import DEFAULT_LIMITS, ReadLimits
from dicomdl.headers.many import Ordinary, objects_among, ordinary_among, read_headers
from dicomdl.headers.reader import HeaderReader, unforeseen
from dicomdl.index.annotations import as_columns
from dicomdl.index.building import (
    empty_table,
    frames_table,
    from_bytes,
    in_order,
    table_of,
    to_bytes,
)
from dicomdl.index.schema import (
    ETAG,
    PROBLEMS_SCHEMA,
    READ_ANNOTATIONS_SCHEMA,
    READ_FILES_SCHEMA,
    STATE_COLUMNS,
    frames_schema,
)
from dicomdl.index.table import Table
from dicomdl.jobs._pixel_hashes import pixel_hashes
from dicomdl.jobs._progress import progress_bar
from dicomdl.jobs.teams import answers
from dicomdl.storage.children import Answer, Child, Death
from dicomdl.storage.folders import Walk
from dicomdl.storage.objects import declare, have_queries
from dicomdl.storage.sources import CONCURRENCY, HeadWalker, Source, each_of
from dicomdl.storage.system import available_cores

# Files that a worker reads per answer.
CHUNK_FILES: Final = 2048
# Objects of stores below this number are read by this process alone.
IN_PROCESS_FILES: Final = 4000
# Seconds that workers have to spare, so that they are started: they import dicomdl first.
WORTH_S: Final = 1.0


# Schemas of the tables of a chunk, but for that of the frames, which readers may extend.
_SCHEMAS: Final = (READ_FILES_SCHEMA, PROBLEMS_SCHEMA, READ_ANNOTATIONS_SCHEMA)


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of every file: columns of more attributes, and hashes of the pixels."""

    extra: Sequence[Attribute] = ()
    pixel_hash: bool = False
    limits: ReadLimits = DEFAULT_LIMITS
    concurrency: int = CONCURRENCY
    # How stores are reached, by bucket.
    stores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_chunk(
    reader: HeaderReader,
    paths: Sequence[bytes],
    first: int = 0,
    *,
    pixel_hash: bool = False,
    walker: HeadWalker | None = None,
    concurrency: int = CONCURRENCY,
) -> list[Table]:
    """Read the headers of some files, numbered from `first`; hash the pixels where asked for.

    `walker` asks for the objects of stores among them, `concurrency` limits the reads of a slow
    file system in flight.

    Returns the tables [files, frames, problems, annotations].
    """
    with _no_cycle_collection():
        # No name here holds the headers: they are freed before the collector would visit them.
        tables, sources = _read_tables(reader, paths, first, walker, concurrency)
    if pixel_hash and len(tables[1]):
        hashes = pixel_hashes(tables[1], sources(), first)
        tables[1] = tables[1].with_column("pixel_hash", hashes)
    return tables


def _read_tables(
    reader: HeaderReader,
    paths: Sequence[bytes],
    first: int,
    walker: HeadWalker | None,
    concurrency: int,
) -> tuple[list[Table], Callable[[], list[Source]]]:
    """Return the tables of some files, and a function that returns their sources."""
    ordinary, tables = _ordinary_tables(reader, paths, first)
    taken = set() if ordinary is None else set(ordinary.places.tolist())
    rest = [place for place in range(len(paths)) if place not in taken]
    if ordinary is not None and not rest:
        return tables, functools.partial(ordinary.sources, paths)
    names = [os.fsdecode(paths[place]) for place in rest]
    headers = read_headers(reader, names, walker, concurrency)
    others = _tables(reader, [paths[p] for p in rest], headers, [first + p for p in rest])
    if ordinary is None:
        found = [header.source for header in headers]
        return others, lambda: found
    sources = dict(zip(rest, (header.source for header in headers), strict=True))
    sources |= dict(zip(ordinary.places.tolist(), ordinary.sources(paths), strict=True))
    schemas = (READ_FILES_SCHEMA, frames_schema(reader.extra), *_SCHEMAS[1:])
    return (
        [in_order(parts, schema) for *parts, schema in zip(tables, others, schemas, strict=True)],
        lambda: [sources[place] for place in range(len(paths))],
    )


def _ordinary_tables(
    reader: HeaderReader, paths: Sequence[bytes], first: int
) -> tuple[Ordinary | None, list[Table]]:
    """Return the ordinary files among some, which are read at once, and their tables."""
    try:
        ordinary = ordinary_among(reader, paths)
        if ordinary is None:
            return None, []
        return ordinary, _tables_of_ordinary(reader, ordinary, paths, first)
    except Exception as error:
        # One of them cannot be converted, or the walk has a fault: the reader reads them all.
        _warn_of_fault(type(error).__name__)
        return None, []


# Small: the names of a few exceptions.
@functools.lru_cache(maxsize=16)
def _warn_of_fault(name: str) -> None:
    """Warn once per process: a fault that nobody sees costs the speed of the compiled walk."""
    warnings.warn(
        f"the compiled walk over headers failed with {name}, so files are read one by one, which "
        "takes longer; the index is complete. This is a fault of dicomdl: please report it",
        RuntimeWarning,
        stacklevel=2,
    )


def _tables_of_ordinary(
    reader: HeaderReader, ordinary: Ordinary, paths: Sequence[bytes], first: int
) -> list[Table]:
    places = ordinary.places.tolist()
    count = len(places)
    numbers = ordinary.places + first
    none = Constant("", count)
    files = {
        "path": [paths[place] for place in places],
        **dict(zip(STATE_COLUMNS, ordinary.states.T, strict=False)),
        ETAG: none,
        "kind": Constant("image", count),
        "sop_class_uid": ordinary.sop_classes,
        "study_instance_uid": none,
        "series_instance_uid": none,
        "file": numbers,
    }
    columns: dict[str, Any] = {
        "file": numbers,
        "frame_number": Constant(1, count),
        "byte_offset": ordinary.offsets,
        "byte_length": ordinary.lengths,
        "bit_offset": Constant(0, count),
        "deflated": Constant(False, count),
        "float_pixels": Constant(False, count),
        "flags": none,
    }
    return [
        table_of(READ_FILES_SCHEMA, files),
        frames_table(columns, ordinary.columns, reader.extra),
        *map(empty_table, _SCHEMAS[1:]),
    ]


def _tables(
    reader: HeaderReader, paths: Sequence[bytes], headers: list[Header], numbers: Sequence[int]
) -> list[Table]:
    frames = _rows_or_problem(reader, headers, numbers)
    if isinstance(frames, Header):
        # One file must not cost the others of its chunk: the file that cannot be converted is found
        # and becomes a problem.
        headers = [_convertible(reader, header) for header in headers]
        frames = _frame_rows(reader, headers, numbers)
    sources = [header.source for header in headers]
    files = {
        "path": list(paths),
        **{name: [source[i] for source in sources] for i, name in enumerate(STATE_COLUMNS, 1)},
        "kind": [h.kind for h in headers],
        "sop_class_uid": [h.sop_class_uid for h in headers],
        "study_instance_uid": [h.study_instance_uid for h in headers],
        "series_instance_uid": [h.series_instance_uid for h in headers],
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
        frames,
        table_of(PROBLEMS_SCHEMA, problems),
        _annotations(headers, numbers),
    ]


def refused_tables(walked: Walk, rows: Sequence[int], reading: Reading, first: int) -> list[Table]:
    """Return the tables, as of `read_chunk`, of what a walk refused at some of its rows."""
    paths = [walked.paths[row] for row in rows]
    headers = [
        Header(
            "problem", *walked.refused[path], source=Source(os.fsdecode(path), *walked.states[row])
        )
        for row, path in zip(rows, paths, strict=True)
    ]
    reader = HeaderReader(reading.extra, reading.limits)
    return _tables(reader, paths, headers, range(first, first + len(headers)))


def _annotations(headers: Sequence[Header], numbers: Sequence[int]) -> Table:
    """Return the rows of `annotations` of the files that describe images."""
    chosen = [
        (number, header)
        for number, header in zip(numbers, headers, strict=True)
        if header.sop_class_uid and header.kind != "problem" and kind_of(header.sop_class_uid)
    ]
    found = each_of(_annotation, [header.source for _, header in chosen])
    read = [
        (number, facts or no_facts(kind_of(header.sop_class_uid)), reason)
        for (number, header), (facts, reason) in zip(chosen, found, strict=True)
    ]
    return table_of(READ_ANNOTATIONS_SCHEMA, as_columns(read))


def _annotation(source: Source) -> tuple[AnnotationFacts | None, str]:
    """Return what an object says about images; or None, and the reason."""
    try:
        return read_annotation(source), ""
    except DicomdlError as error:
        return None, str(error)
    except Exception as error:
        return None, unforeseen(error).detail


def _rows_or_problem(
    reader: HeaderReader, headers: Sequence[Header], numbers: Sequence[int]
) -> Table | Header:
    try:
        return _frame_rows(reader, headers, numbers)
    except Exception as error:
        return unforeseen(error)


def _convertible(reader: HeaderReader, header: Header) -> Header:
    """Return a header, or its problem if its rows cannot be converted to columns."""
    rows = _rows_or_problem(reader, [header], [0])
    return rows._replace(source=header.source) if isinstance(rows, Header) else header


@contextlib.contextmanager
def _no_cycle_collection() -> Iterator[None]:
    """Disable the cycle collector, which costs a quarter of the time of a scan.

    Headers are tuples of bytes without cycles, in hundreds of thousands.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _frame_rows(reader: HeaderReader, every: Sequence[Header], numbers: Sequence[int]) -> Table:
    """Return the rows of the table `frames` for files with some numbers."""
    extra = reader.extra
    headers = [each for each in zip(numbers, every, strict=True) if each[1].rows]
    rows = [row for _, header in headers for row in header.rows]
    if not rows:
        return empty_table(frames_schema(extra))
    columns: dict[str, Sequence[Any]] = {
        "file": [number for number, header in headers for _ in header.rows],
        "frame_number": [number for _, header in headers for number in header.frame_numbers],
        "byte_offset": [place.byte_offset for _, header in headers for place in header.places],
        "byte_length": [place.byte_length for _, header in headers for place in header.places],
        "bit_offset": [place.bit_offset for _, header in headers for place in header.places],
        "deflated": [header.deflated for _, header in headers for _ in header.rows],
        "float_pixels": [header.float_pixels for _, header in headers for _ in header.rows],
        "flags": [header.flags for _, header in headers for _ in header.rows],
    }
    if any(header.tiles for _, header in headers):
        tiles = [
            tile for _, header in headers for tile in (header.tiles or [NO_TILE] * len(header.rows))
        ]
        columns |= dict(zip(CodedTile._fields, map(list, zip(*tiles, strict=True)), strict=True))
    return frames_table(columns, reader.convert(rows), extra)


def read_all(
    paths: Sequence[bytes], reading: Reading, workers: int | None, *, progress: bool
) -> Iterator[list[Table]]:
    """Read all files, with a progress bar: yield the tables of each chunk, in any order."""
    chunks = [
        (start, paths[start : start + CHUNK_FILES]) for start in range(0, len(paths), CHUNK_FILES)
    ]
    has_objects = b"://" in b"\0".join(paths)
    is_measured = workers is None and not has_objects
    if workers is None:
        is_small = has_objects and len(paths) < IN_PROCESS_FILES
        workers = 1 if is_small else available_cores()
    if not sys.executable or have_queries(paths):
        # Python embedded in another program has no command to start workers with. Queries of URLs,
        # which may be signatures, stay in this process.
        workers = 1
    done: Iterator[list[Table]]
    if workers == 1 or len(chunks) < 2:
        done = _in_process(chunks, reading, _reader(reading, threads=available_cores()))
    elif is_measured:
        done = _as_measured(chunks, reading, workers)
    else:
        done = _in_workers(chunks, reading, min(workers, len(chunks)))
    with progress_bar(
        total=len(paths),
        unit="file",
        desc="reading headers and pixels" if reading.pixel_hash else "reading headers",
        shown=progress,
    ) as bar:
        for tables in done:
            bar.update(len(tables[0]))
            yield tables


def _as_measured(
    chunks: Sequence["_Chunk"], reading: Reading, workers: int
) -> Iterator[list[Table]]:
    """Read chunks in this process until the others take so long that workers are worth a start.

    This process is one of them then: it reads on while no tables of others wait for it.
    """
    reader, start = _reader(reading, threads=available_cores()), time.perf_counter()
    here = _in_process(chunks, reading, reader)
    for number, tables in enumerate(here, 1):
        yield tables
        others = chunks[number:]
        used = min(workers, len(others))
        passed = time.perf_counter() - start
        if used > 1 and passed / number * len(others) * (1 - 1 / used) > WORTH_S:
            here.close()
            yield from _in_workers(others, reading, used - 1, joins=True)
            return


def _reader(reading: Reading, threads: int = 1) -> HeaderReader:
    return HeaderReader(reading.extra, reading.limits, threads)


def _in_process(
    chunks: Sequence[tuple[int, Sequence[bytes]]], reading: Reading, reader: HeaderReader
) -> Generator[list[Table]]:
    every = [path for _, paths in chunks for path in paths]
    with asking(every, reading.concurrency) as walker:
        for first, paths in chunks:
            yield read_chunk(
                reader,
                paths,
                first,
                pixel_hash=reading.pixel_hash,
                walker=walker,
                concurrency=reading.concurrency,
            )


@contextlib.contextmanager
def asking(paths: Sequence[bytes], concurrency: int) -> Iterator[HeadWalker | None]:
    """Ask for the objects of stores among some files, while others are read; None without any."""
    if b"://" not in b"\0".join(paths):
        yield None
        return
    walker = HeadWalker(objects_among([os.fsdecode(path) for path in paths]), concurrency)
    try:
        yield walker
    finally:
        walker.close()


# Chunk: the number of its first file, and its paths.
_Chunk: TypeAlias = tuple[int, Sequence[bytes]]
# Message to a worker: the number of the first file, then the paths with NUL between them.
_FIRST: Final = struct.Struct("<Q")
_WORKER: Final = "dicomdl.jobs.engine:answering"


def answering(reading: Mapping[str, Any]) -> Answer:
    """Return the function by which a worker process answers a chunk with its tables."""
    extra = [Attribute(**{**a, "groups": tuple(a["groups"])}) for a in reading["extra"]]
    reader = HeaderReader(extra, ReadLimits(**reading["limits"]))
    pixel_hash = bool(reading["pixel_hash"])
    for root, chosen in reading["stores"].items():
        declare([root], chosen)

    def answer(message: bytes) -> list[Any]:
        (first,) = _FIRST.unpack_from(message)
        paths = message[_FIRST.size :].split(b"\0")
        at_once = reading["concurrency"]
        with asking(paths, at_once) as walker:
            tables = read_chunk(
                reader, paths, first, pixel_hash=pixel_hash, walker=walker, concurrency=at_once
            )
        return [to_bytes(tables)]

    return answer


def _in_workers(
    chunks: Sequence[_Chunk], reading: Reading, workers: int, *, joins: bool = False
) -> Iterator[list[Table]]:
    """Yield tables from worker processes; this process reads chunks of workers that died.

    With `joins` it reads others, too.
    """
    messages = [(_FIRST.pack(first), b"\0".join(paths)) for first, paths in chunks]
    reader = _reader(reading)
    deaths: dict[int, Death] = {}
    for number, answer in answers(lambda: _start_worker(reading), messages, workers, joins=joins):
        if isinstance(answer, bytes):
            yield from_bytes(answer, 4)
            continue
        if answer is not None:
            deaths[id(answer)] = answer
        yield from _in_process([chunks[number]], reading, reader)
    if deaths:
        _warn(list(deaths.values()), workers)


def _start_worker(reading: Reading) -> Child:
    try:
        return Child(_WORKER, asdict(reading))
    except StorageError as error:
        raise StorageError(f"{error}; pass workers=1") from error


class WorkerWarning(DicomdlWarning):
    """Worker processes of a scan have died. The index is complete nevertheless."""


def _warn(deaths: Sequence[Death], workers: int) -> None:
    """Warn once that the scan takes longer than it should, with the reason."""
    # The error of a worker that died at its start is the most useful: it names a failed import.
    death = min(deaths, key=lambda death: death.was_ready)
    warnings.warn(
        f"{len(deaths)} of {workers} worker processes of the scan ended early, so this process "
        f"reads their files itself, which takes longer; the first: {death}",
        WorkerWarning,
        stacklevel=2,
    )
